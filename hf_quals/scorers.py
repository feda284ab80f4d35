"""What every scorer of summaries is, and what all of them refuse.

QUALS, the judges beside it and a user's own object meet [`Scorer`]; contrastive training, the table of judges and the
metrics know scorers by it alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol, TypeVar, runtime_checkable


Key = TypeVar("Key")
Value = TypeVar("Value")


class ScorerResult(Protocol):
    """What a scorer says about one summary."""

    @property
    def score(self) -> float:
        """
        Higher is better; NaN if the summary cannot be scored. Contrastive training takes scalars of NumPy and torch,
        too, and counts an infinite score as none.
        """


@runtime_checkable
class Scorer(Protocol):
    """
    Scores summaries.

    Subclass it, or write any class with these members; a subclass needs no more than `name` and `score`.

    Attributes:
        name (`str`): What the score is called: an evaluation's metric is `eval_{name}`.
        reads_references (`bool`): Whether `score` needs references.

    Example:

    ```python
    >>> from types import SimpleNamespace
    >>> from hf_quals import Scorer
    >>> class Brevity(Scorer):
    ...     name = "brevity"
    ...
    ...     def score(self, documents, summaries, *, references=None, batch_size=8):
    ...         return [SimpleNamespace(score=-len(summary)) for summary in summaries]
    ```
    """

    name: str
    reads_references: bool = False

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str],
        *,
        references: Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> Sequence[ScorerResult]:
        """
        Scores each summary against the document at the same index.

        Args:
            documents (`Sequence[str]`): The documents.
            summaries (`Sequence[str]`): As many summaries, none of them blank.
            references (`Sequence[str]`, *optional*): As many references.
            batch_size (`int`, *optional*, defaults to 8): Inputs of a model computed together; bounds memory.

        Returns:
            `Sequence[ScorerResult]`: one result a summary, in order.

        Raises:
            `ValueError`: for texts that [`check_texts`] refuses, or without references where they are needed.
        """
        raise NotImplementedError

    def settings(self) -> Mapping[str, Any]:
        """All that scores depend on, as JSON's types: what was scored with other settings is not gone on with."""
        return {}


def check_texts(
    documents: Sequence[str],
    summaries: Sequence[str],
    batch_size: int = 1,
    *,
    references: Sequence[str] | None = None,
) -> None:
    """
    Refuses what is not a list of documents and as many summaries, and references if there are any.

    Args:
        documents (`Sequence[str]`): The documents.
        summaries (`Sequence[str]`): The summaries.
        batch_size (`int`, *optional*, defaults to 1): How many are to be computed together.
        references (`Sequence[str]`, *optional*): The references.

    Raises:
        `ValueError`: if the lists differ in length, or a text is not a string or empty; the message names the row. Or
            if `batch_size` is less than 1.
    """
    columns = {"document": documents, "summary": summaries}
    if references is not None:
        columns["reference"] = references
    if any(isinstance(texts, str) for texts in columns.values()):
        raise ValueError("documents, summaries and references are lists of strings; got a single string.")
    for name, texts in columns.items():
        if len(texts) != len(documents):
            raise ValueError(
                f"Each summary needs its document: got {len(documents)} documents and {len(texts)} "
                f"{'summaries' if name == 'summary' else 'references'}."
            )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    for name, texts in columns.items():
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"Row {row}: the {name} must be a string, got {type(text).__name__}.")
            if not text.strip():
                raise ValueError(f"Row {row}: the {name} is empty.")


def by_document(documents: Iterable[str], wanted: Iterable[Mapping[Key, Value]]) -> dict[str, dict[Key, Value]]:
    """
    Distinct documents, each with all that is wanted of it: a model reads a document once for all its summaries.

    Of each document, repetitions included, `wanted` holds what is wanted of it, by what tells it from others.
    """
    gathered: dict[str, dict[Key, Value]] = {}
    for document, items in zip(documents, wanted, strict=True):
        gathered.setdefault(document, {}).update(items)
    return gathered


def mean_score(scores: Iterable[float]) -> float:
    """The mean of the scores that are not NaN; NaN if all are."""
    scored = [score for score in scores if not math.isnan(score)]
    return fmean(scored) if scored else math.nan
