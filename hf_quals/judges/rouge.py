"""ROUGE: how much of a reference's wording a summary has, and contrastive training that chooses by it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import fmean

from rouge_score.rouge_scorer import RougeScorer

from ..contrastive.callback import QualsCallback


@functools.cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


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


class RougeCallback(QualsCallback):
    """
    [`QualsCallback`] that chooses S+ and S- by [`mean_rouge`] against the reference instead of QUALS.

    References score 1 against themselves, all alike: with a `positive_share` below 1 the first of the documents
    would be S+. What evaluations call `quals` is the mean ROUGE here.

    Args:
        positive_share (`float`, *optional*, defaults to 1.0): Share of the documents in S+.
        **kwargs: The others of [`QualsCallback`], except `scorer`.
    """

    def __init__(self, *, positive_share: float = 1.0, **kwargs):
        super().__init__(None, positive_share=positive_share, **kwargs)

    def score(self, documents: Sequence[str], summaries: Sequence[str], references: Sequence[str]) -> list[float]:
        return [mean_rouge(reference, summary) for reference, summary in zip(references, summaries, strict=True)]
