"""ROUGE: how much of a reference's wording a summary has."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from rouge_score.rouge_scorer import RougeScorer as _RougeScorer

from ..scorers import Scorer, check_texts


@functools.cache
def _scorer() -> _RougeScorer:
    return _RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def rouge(reference: str, summary: str) -> dict[str, float]:
    """
    ROUGE of a summary, words stemmed.

    Args:
        reference (`str`): The reference.
        summary (`str`): The summary.

    Returns:
        `dict[str, float]`: F1 between 0 and 1 of `rouge1` (words), `rouge2` (pairs of neighbouring words) and
        `rougeL` (longest common subsequence).
    """
    return {name: score.fmeasure for name, score in _scorer().score(reference, summary).items()}


def mean_rouge(reference: str, summary: str) -> float:
    """
    The mean of ROUGE-1, ROUGE-2 and ROUGE-L F1, which https://huggingface.co/papers/2105.04623 compares QUALS with in
    choosing S+ and S-.

    Args:
        reference (`str`): The reference.
        summary (`str`): The summary.

    Returns:
        `float`: a number between 0 and 1.
    """
    return fmean(rouge(reference, summary).values())


class RougeResult(NamedTuple):
    """The mean of ROUGE-1/2/L F1 of one summary."""

    score: float


class RougeScorer(Scorer):
    """Scores summaries by [`mean_rouge`] against their references; the documents are not read."""

    name = "rouge"
    reads_references = True

    def score(
        self,
        documents: Sequence[str],
        summaries: Sequence[str],
        *,
        references: Sequence[str] | None = None,
        batch_size: int = 8,
    ) -> list[RougeResult]:
        if references is None:
            raise ValueError("ROUGE compares summaries with references: pass references.")
        check_texts(documents, summaries, batch_size, references=references)
        pairs = zip(references, summaries, strict=True)
        return [RougeResult(mean_rouge(reference, summary)) for reference, summary in pairs]
