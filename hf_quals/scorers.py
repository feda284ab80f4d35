"""What every scorer of summaries is, what all of them refuse, and how all of them reward.

QUALS, the judges beside it and a user's own object meet [`Scorer`]; contrastive training, the table of judges and the
metrics know scorers by it alone.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol, TypeVar, runtime_checkable

from .errors import InputError


logger = logging.getLogger(__name__)

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

    Subclass it, or write any class with these members; a subclass needs no more than `name` and `score`. A
    subclass need not care for single texts, which its `score` gets as lists, nor for telling people, once, that the
    end of a text was not seen. A scorer that can explain its results may also have `page(documents, summaries,
    results)`, which returns an HTML page; [`QualsCallback`] writes it beside its tables.

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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "score" in vars(cls):
            cls.score = _taking_single_texts(cls.score)  # type: ignore[method-assign]

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
            documents (`Sequence[str]` or `str`): The documents; a string is the document of all summaries.
            summaries (`Sequence[str]` or `str`): As many summaries, none of them blank; a string goes with one
                document.
            references (`Sequence[str]` or `str`, *optional*): As many references.
            batch_size (`int`, *optional*, defaults to 8): Inputs of a model computed together; bounds memory.

        Returns:
            `Sequence[ScorerResult]`: one result a summary, in order; the result itself where `summaries` is a string.

        Raises:
            `ValueError`: for texts that [`check_texts`] refuses, or without references where they are needed.
        """
        raise NotImplementedError

    def settings(self) -> Mapping[str, Any]:
        """All that scores depend on, as JSON's types: what was scored with other settings is not gone on with."""
        return {}


def _taking_single_texts(score: Callable[..., Any]) -> Callable[..., Any]:
    """The method `score` of a scorer, which takes lists, for single texts as well."""

    @functools.wraps(score)
    def scored(self: Scorer, documents: Any, summaries: Any, *, references: Any = None, **options: Any) -> Any:
        is_single = isinstance(summaries, str)
        if is_single and not isinstance(documents, str):
            raise ValueError("A single summary goes with a single document: pass both as strings, or as lists.")
        if is_single:
            summaries = [summaries]
        if isinstance(documents, str):
            documents = [documents] * len(summaries)
            references = [references] * len(summaries) if isinstance(references, str) else references
        if references is not None:
            options["references"] = references
        results = score(self, documents, summaries, **options)
        _warn_of_truncation(self.name, results)
        return results[0] if is_single and len(results) == 1 else results

    return scored


# The names of the scorers that have said that they did not see the end of a text.
_warned: set[str] = set()


def _warn_of_truncation(name: str, results: Sequence[ScorerResult]) -> None:
    kinds = {"documents": "document_truncated", "summaries": "summary_truncated"}
    counts = {kind: sum(getattr(result, field, False) for result in results) for kind, field in kinds.items()}
    cut = [f"{count} {kind}" for kind, count in counts.items() if count]
    if cut and name not in _warned:
        _warned.add(name)
        logger.warning(
            f"{name}: of {len(results)} rows, {' and '.join(cut)} are longer than its model reads; what stands behind "
            "the cut was not seen. Shorten them, or take a model that reads more; QUALS reads long documents in "
            "passages with QualsConfig(passage_words=…). Results have `document_truncated` and `summary_truncated`; "
            "this is said once."
        )


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


def score_written(
    scorer: Scorer,
    documents: Sequence[str],
    summaries: Sequence[str],
    *,
    references: Sequence[str] | None = None,
    batch_size: int = 8,
) -> list[Any]:
    """
    Scores the summaries in which something is written: models leave some blank, early in training above all.

    Args:
        scorer ([`Scorer`]): What scores.
        documents, summaries, references, batch_size: See [`Scorer.score`].

    Returns:
        `list[ScorerResult | None]`: one result a summary, in order; `None` for a blank one.

    Raises:
        `ValueError`: if the scorer returns another number of results than it is given summaries.
    """
    written = [row for row, summary in enumerate(summaries) if summary.strip()]
    results: list[Any] = [None] * len(summaries)
    if not written:
        return results
    scored = scorer.score(
        [documents[row] for row in written],
        [summaries[row] for row in written],
        references=None if references is None else [references[row] for row in written],
        batch_size=batch_size,
    )
    if len(scored) != len(written):
        raise ValueError(f"{scorer.name} returned {len(scored)} results for {len(written)} summaries.")
    for row, result in zip(written, scored, strict=True):
        results[row] = result
    return results


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


def as_reward(
    scorer: Scorer, document_column: str = "document", *, reference_column: str = "reference", batch_size: int = 8
) -> Callable[..., list[float | None]]:
    """
    A scorer as a reward function of TRL's trainers, such as
    [`GRPOTrainer`](https://huggingface.co/docs/trl/grpo_trainer): a completion is scored as the summary of its row's
    document.

    All completions of a batch are scored in one call, so that a model reads a document once for all of its group. Of a
    conversational completion the last message counts. A completion that is blank, or that the scorer has no score for,
    gets `None`, which TRL leaves out. The reward is logged by the scorer's name.

    Args:
        scorer (`Scorer`): Scores completions.
        document_column (`str`, *optional*, defaults to `"document"`): The column of the training set with the
            document. TRL hands on every column but `prompt`.
        reference_column (`str`, *optional*, defaults to `"reference"`): That with the reference, for a scorer that
            reads references.
        batch_size (`int`, *optional*, defaults to 8): Inputs of a model computed together; bounds memory.

    Returns:
        `Callable`: what takes `completions` and columns by keyword, and returns a `float` or `None` a completion.

    Raises:
        [`InputError`]: by the function, if a column is missing or holds no text in a row.

    Example:

    ```python
    >>> from hf_quals import QualsScorer, as_reward
    >>> reward = as_reward(QualsScorer.from_pretrained())  # or QualsScorer.from_pretrained().as_reward()
    >>> reward(completions=["Lewis is hurt.", ""], document=["Lewis believes that Klitschko is hurt."] * 2)
    ```
    """

    def reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        documents = _text_column(columns, "document_column", document_column)
        references = _text_column(columns, "reference_column", reference_column) if scorer.reads_references else None
        summaries = list(map(_completion_text, completions))
        results = score_written(scorer, documents, summaries, references=references, batch_size=batch_size)
        scores = [math.nan if result is None else float(result.score) for result in results]
        return [score if math.isfinite(score) else None for score in scores]

    reward.__name__ = scorer.name  # by which TRL logs it
    return reward


def _text_column(columns: Mapping[str, Any], argument: str, name: str) -> list[str]:
    """The texts of a batch's column, which the argument names."""
    if name not in columns:
        raise InputError(
            f"The batch has no column {name!r}, it has {', '.join(columns)}. Name one with `{argument}`, and leave "
            "`remove_unused_columns` False."
        )
    for row, text in enumerate(columns[name]):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"Row {row} of the batch: column {name!r} must hold text, got {text!r}.")
    return columns[name]


def _completion_text(completion: Any) -> str:
    """What the model has written: text, or the content of the last message, which may come in parts."""
    if isinstance(completion, str):
        return completion
    content = (completion[-1]["content"] if completion else None) or ""  # `None` beside a call of a tool
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
