"""The score: documents and summaries in, QUALS and the pairs it rests on out."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..qagen.model import QAGenModel, QAPair
from ..qagen.template import QATemplate
from ..scorers import Scorer, check_texts
from .pairs import select_pairs


@dataclass(frozen=True)
class ScoredPair:
    """
    A question–answer pair with the probabilities of its tokens given the summary and given the document.

    Args:
        question (`str`): The question.
        answer (`str`): The answer, which occurs in the summary.
        tokens (`tuple[str, ...]`): The generated tokens as text, end-of-sequence included.
        summary_log_probs (`tuple[float, ...]`): log p(token | summary, tokens before), one a token.
        document_log_probs (`tuple[float, ...]`): log p(token | document, tokens before), one a token.
        answer_start (`int`): Index of the answer's first token.
    """

    question: str
    answer: str
    tokens: tuple[str, ...]
    summary_log_probs: tuple[float, ...]
    document_log_probs: tuple[float, ...]
    answer_start: int

    @property
    def summary_score(self) -> float:
        """Mean of log p(token | summary) over the pair's tokens."""
        return _mean(self.summary_log_probs)

    @property
    def document_score(self) -> float:
        """Mean of log p(token | document) over the pair's tokens."""
        return _mean(self.document_log_probs)

    @property
    def score(self) -> float:
        """`document_score - summary_score`: far below 0 betrays a pair that the document does not support."""
        return self.document_score - self.summary_score


@dataclass(frozen=True)
class QualsResult:
    """
    QUALS of one summary, and all it rests on.

    Args:
        score (`float`): The score; higher is better, 0 means "as plausible from the document as from the summary".
            NaN if no pair was kept.
        pairs (`tuple[ScoredPair, ...]`): The kept pairs.
        num_generated (`int`): How many sequences were generated from the summary.
        num_unparsable (`int`): How many of them are not a question and an answer.
        num_not_in_summary (`int`): How many have an answer that the summary does not hold.
        num_duplicate (`int`): How many repeat another pair.
        num_surplus (`int`): How many good pairs were more than the most to keep.
        document_truncated (`bool`): Whether the document was cut to the model's context.
        summary_truncated (`bool`): Whether the summary was cut to the model's context.
    """

    score: float
    pairs: tuple[ScoredPair, ...]
    num_generated: int
    num_unparsable: int
    num_not_in_summary: int
    num_duplicate: int
    num_surplus: int
    document_truncated: bool
    summary_truncated: bool

    @property
    def num_pairs(self) -> int:
        """How many pairs the score rests on; with 0 there is no score."""
        return len(self.pairs)

    @property
    def worst_pair(self) -> ScoredPair | None:
        """The pair to blame: the one with the lowest score, `None` if there are no pairs."""
        return min(self.pairs, key=lambda pair: pair.score, default=None)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON's types; a score that is NaN becomes `None`."""
        fields = {name: value for name, value in vars(self).items() if name != "pairs"}
        fields["score"] = None if math.isnan(self.score) else self.score
        pairs = [
            {
                "question": pair.question,
                "answer": pair.answer,
                "score": pair.score,
                "summary_score": pair.summary_score,
                "document_score": pair.document_score,
                "tokens": list(pair.tokens),
                "summary_log_probs": list(pair.summary_log_probs),
                "document_log_probs": list(pair.document_log_probs),
                "answer_start": pair.answer_start,
            }
            for pair in self.pairs
        ]
        return {**fields, "num_pairs": self.num_pairs, "pairs": pairs}


def quals(pairs: Sequence[ScoredPair]) -> float:
    r"""
    QUALS as published (https://huggingface.co/papers/2105.04623, equation 1).

    `mean over pairs of (mean over the pair's tokens of log p(w | document) - mean of log p(w | summary))`

    Args:
        pairs (`Sequence[ScoredPair]`): The kept pairs of one summary.

    Returns:
        `float`: the score, NaN without a pair.
    """
    return _mean([pair.score for pair in pairs])


def log_ratio(pairs: Sequence[ScoredPair]) -> float:
    r"""
    The mean over pairs of log p(pair | document) - log p(pair | summary), the log-ratio of whole pairs.

    Unlike [`quals`] the tokens of a pair are summed and not averaged, so that one wrong name weighs as much in a long
    question as in a short one. With `max_pairs=20` it agrees better with people than the published form on CNN/DM's
    summaries of several sentences, and worse on XSum's single ones (`docs/quality.md`).

    Args:
        pairs (`Sequence[ScoredPair]`): The kept pairs of one summary.

    Returns:
        `float`: the score, NaN without a pair.
    """
    return _mean([math.fsum(pair.document_log_probs) - math.fsum(pair.summary_log_probs) for pair in pairs])


def worst_pair(pairs: Sequence[ScoredPair]) -> float:
    r"""
    The lowest score of a pair, `min over pairs of (mean of log p(w | document) - mean of log p(w | summary))`.

    A summary of one sentence is wrong as soon as one of its facts is; the mean of [`quals`] lets the pairs about its
    right facts outvote the one about the wrong. Agrees better with people than the published form on XSum's single
    sentences, and worse on CNN/DM's summaries of several (`docs/quality.md`).

    Args:
        pairs (`Sequence[ScoredPair]`): The kept pairs of one summary.

    Returns:
        `float`: the score, NaN without a pair.
    """
    return min((pair.score for pair in pairs), default=math.nan)


VARIANTS = {"quals": quals, "log_ratio": log_ratio, "worst_pair": worst_pair}


@dataclass
class QualsScorer(Scorer):
    """
    Scores summaries against their documents (https://huggingface.co/papers/2105.04623).

    One QAGen model writes question–answer pairs from the summary; pairs that are probable given the summary but
    improbable given the document betray a wrong fact.

    Args:
        model (`QAGenModel`): The model that writes and scores pairs.
        num_beams (`int`, *optional*, defaults to 60): Sequences generated from a summary.
        num_beam_groups (`int`, *optional*, defaults to 60): Groups of beams that avoid each other's tokens.
        diversity_penalty (`float`, *optional*, defaults to 0.5): Strength of the Hamming diversity of the groups.
        min_new_tokens (`int`, *optional*, defaults to 8): The least tokens of a pair.
        max_new_tokens (`int`, *optional*, defaults to 60): The most tokens of a pair.
        max_pairs (`int`, *optional*, defaults to 10): The most pairs a score rests on.
        max_length (`int`, *optional*, defaults to 1024): The most tokens of a document or summary with its markers.
        variant (`str`, *optional*, defaults to `"quals"`): How pairs become a score: `"quals"`, as published
            ([`quals`]), `"log_ratio"` ([`log_ratio`]) or `"worst_pair"` ([`worst_pair`]).

    Raises:
        `ValueError`: if a number is out of range or the variant is unknown.

    Example:

    ```python
    >>> from hf_quals import QualsScorer
    >>> scorer = QualsScorer.from_pretrained()
    >>> document, summary = "Lewis believes that Klitschko is hurt.", "Klitschko believes that Lewis is hurt."
    >>> result = scorer.score([document], [summary])[0]
    >>> result.score, result.worst_pair
    ```
    """

    name = "quals"

    model: QAGenModel
    num_beams: int = 60
    num_beam_groups: int = 60
    diversity_penalty: float = 0.5
    min_new_tokens: int = 8
    max_new_tokens: int = 60
    max_pairs: int = 10
    max_length: int = 1024
    variant: str = "quals"

    def __post_init__(self):
        for name in ("num_beams", "num_beam_groups", "max_new_tokens", "max_pairs", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.num_beams % self.num_beam_groups:
            raise ValueError(
                f"num_beams={self.num_beams} must be a multiple of num_beam_groups={self.num_beam_groups}."
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens={self.min_new_tokens} must lie between 0 and max_new_tokens={self.max_new_tokens}."
            )
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}.")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike | None = None,
        *,
        adapter: str | os.PathLike | None = None,
        template: QATemplate | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        **numbers: Any,
    ) -> QualsScorer:
        """
        Loads the QAGen model (see [`QAGenModel.from_pretrained`]) and makes a scorer of it.

        Args:
            name_or_path, adapter, template, dtype, device:
                Which model, and where; the package's default model if left out.
            **numbers: Fields of [`QualsScorer`], such as `max_pairs`.
        """
        # Wrong numbers are refused before a model is loaded.
        cls(model=None, **numbers)  # type: ignore[arg-type]
        model = QAGenModel.from_pretrained(
            name_or_path, adapter=adapter, template=template, dtype=dtype, device=device
        )
        return cls(model=model, **numbers)

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str],
        *,
        references: Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> list[QualsResult]:
        """
        Scores each summary against the document at the same index.

        Equal documents and equal summaries are computed once, so that the candidates of one document cost its context
        once. Results depend neither on `batch_size` nor on the order of the rows (to 1e-4 in float32).

        Args:
            documents (`Sequence[str]`): The documents.
            summaries (`Sequence[str]`): As many summaries.
            batch_size (`int`, *optional*, defaults to 8): Texts computed together; bounds memory.

        Returns:
            `list[QualsResult]`: one result a summary, in order.

        Raises:
            `ValueError`: if the lists differ in length, or a text is not a string or empty; the message names the row.
        """
        check_texts(documents, summaries, batch_size)
        distinct_summaries = list(dict.fromkeys(summaries))
        encoded_summaries = self.model.encode(distinct_summaries, self.max_length)
        generated = self.model.generate(
            encoded_summaries,
            num_beams=self.num_beams,
            num_beam_groups=self.num_beam_groups,
            diversity_penalty=self.diversity_penalty,
            min_new_tokens=self.min_new_tokens,
            max_new_tokens=self.max_new_tokens,
            batch_size=batch_size,
        )
        selections = {
            summary: select_pairs(pairs, summary, self.max_pairs)
            for summary, pairs in zip(distinct_summaries, generated, strict=True)
        }
        summary_truncated = {
            summary: encoded.truncated for summary, encoded in zip(distinct_summaries, encoded_summaries, strict=True)
        }

        # The pairs of all summaries of a document, each pair once.
        wanted: dict[str, dict[tuple[int, ...], QAPair]] = {document: {} for document in documents}
        for document, summary in zip(documents, summaries, strict=True):
            wanted[document].update((pair.token_ids, pair) for pair in selections[summary].kept)
        encoded_documents = self.model.encode(list(wanted), self.max_length)
        log_probs = self.model.log_probs(
            encoded_documents, [list(pairs.values()) for pairs in wanted.values()], batch_size=batch_size
        )
        document_log_probs = {
            (document, token_ids): values
            for (document, pairs), row in zip(wanted.items(), log_probs, strict=True)
            for token_ids, values in zip(pairs, row, strict=True)
        }
        document_truncated = {
            document: encoded.truncated for document, encoded in zip(wanted, encoded_documents, strict=True)
        }

        results = []
        for document, summary in zip(documents, summaries, strict=True):
            selection = selections[summary]
            pairs = tuple(
                self._scored_pair(pair, document_log_probs[document, pair.token_ids]) for pair in selection.kept
            )
            results.append(
                QualsResult(
                    score=VARIANTS[self.variant](pairs),
                    pairs=pairs,
                    num_generated=selection.num_generated,
                    num_unparsable=selection.num_unparsable,
                    num_not_in_summary=selection.num_not_in_summary,
                    num_duplicate=selection.num_duplicate,
                    num_surplus=selection.num_surplus,
                    document_truncated=document_truncated[document],
                    summary_truncated=summary_truncated[summary],
                )
            )
        return results

    def _scored_pair(self, pair: QAPair, document_log_probs: tuple[float, ...]) -> ScoredPair:
        return ScoredPair(
            question=pair.question,
            answer=pair.answer,
            tokens=tuple(str(self.model.tokenizer.decode([token])) for token in pair.token_ids),
            summary_log_probs=pair.log_probs,
            document_log_probs=document_log_probs,
            answer_start=pair.answer_start,
        )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
