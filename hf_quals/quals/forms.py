"""From pairs to a score, and from a score to what it says: pure functions.

Each form is a function of the kept pairs of one summary, NaN without a pair; higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .scorer import ScoredPair

    Pairs = Sequence[ScoredPair]


def published(pairs: Pairs) -> float:
    r"""
    QUALS as published (https://huggingface.co/papers/2105.04623, equation 1).

    `mean over pairs of (mean over the pair's tokens of log p(w | document) - mean of log p(w | summary))`

    0 means "as plausible from the document as from the summary".
    """
    return fmean(pair.score for pair in pairs) if pairs else math.nan


def log_ratio(pairs: Pairs) -> float:
    r"""
    The log-ratio of whole pairs, `mean over pairs of (log p(pair | document) - log p(pair | summary))`.

    Unlike in [`published`] the tokens of a pair are summed and not averaged: one wrong name weighs as much in a long
    question as in a short one.
    """
    ratios = [math.fsum(pair.document_log_probs) - math.fsum(pair.summary_log_probs) for pair in pairs]
    return fmean(ratios) if ratios else math.nan


def worst_pair(pairs: Pairs) -> float:
    r"""
    The lowest score of a pair, `min over pairs of (mean of log p(w | document) - mean of log p(w | summary))`.

    A summary is wrong as soon as one of its facts is; but one misread pair decides alone, which the mean forgives.
    """
    return min((pair.score for pair in pairs), default=math.nan)


def answers(pairs: Pairs) -> float:
    r"""
    The share of its answers' probability that the summary keeps when the document is asked.

    `mean over pairs of min(1, p(answer | question, document) / p(answer | question, summary))`

    Answers alone, since a question may be an odd one to ask about a long document and true none the less; bounded,
    since a log-ratio without floor lets one misread answer outweigh nine that are supported. Lies in [0, 1]; 1 means
    "the document gives every answer of the summary".
    """
    return fmean(pair.support for pair in pairs) if pairs else math.nan


def divergence(pairs: Pairs) -> float:
    r"""
    How far the document's answers diverge from the summary's, below 0.

    `sum of w * log min(1, p(a | q, document) / p(a | q, summary)) / sum of w` over pairs, `w = p(a | q, summary)`

    What each pair adds to the Kullback–Leibler divergence of the document's answers from the summary's: a pair counts
    as far as the summary gives its answer. Beams that must differ end many a question with words that do not answer
    it; what the document makes of them is noise. 0 means "the document gives every answer of the summary".
    """
    if not pairs:
        return math.nan
    # Probabilities of long answers may be too small for a number, but not all of them beside the largest.
    largest = max(pair.summary_answer_log_prob for pair in pairs)
    weights = [math.exp(pair.summary_answer_log_prob - largest) for pair in pairs]
    logs = (pair.log_support for pair in pairs)
    return math.fsum(weight * log for weight, log in zip(weights, logs, strict=True)) / math.fsum(weights)


VARIANTS: dict[str, Callable[[Pairs], float]] = {
    "published": published,
    "log_ratio": log_ratio,
    "worst_pair": worst_pair,
    "answers": answers,
    "divergence": divergence,
}


def document_attention(shares: Sequence[float]) -> float:
    """
    How far a summary is looked up in its document, in [0, 1].

    Of the shares of attention that rest on the document, one a token, the mean over the lowest third (rounded up).

    A wrong fact is a few tokens of a sentence whose others are supported, which the mean over all would drown.
    """
    return fmean(sorted(shares)[: math.ceil(len(shares) / 3)])


def is_finite(value: object) -> bool:
    """Whether a value is a finite number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


OF_ANSWERS = ("answers", "divergence")
"""The forms that judge answers alone: of their pairs the one is worst whose answer loses most probability."""


@dataclass(frozen=True)
class Calibration:
    """
    How a score reads: logistic regression of people's judgements on it (Platt scaling).

    `p(people call the summary consistent) = 1 / (1 + exp(-(slope * score + intercept)))`

    Args:
        slope (`float`): Of the score.
        intercept (`float`): The log-odds at a score of 0; the probability is one half at `-intercept / slope`.
        threshold (`float`, *optional*, defaults to 0.5): Below this probability a summary is doubtful.
        pair_threshold (`float`, *optional*, defaults to 0.5): A pair whose answer loses more probability is to blame.

    Raises:
        `ValueError`: if slope or intercept is no finite number, or a threshold does not lie between 0 and 1.
    """

    slope: float
    intercept: float
    threshold: float = 0.5
    pair_threshold: float = 0.5

    def __post_init__(self):
        for name in ("slope", "intercept"):
            if not is_finite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)!r}.")
        for name in ("threshold", "pair_threshold"):
            value = getattr(self, name)
            if not is_finite(value) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability from 0 to 1, got {value!r}.")

    def probability(self, score: float) -> float:
        """The probability that people would call a summary of this score consistent; NaN for NaN."""
        # By tanh, which overflows nowhere.
        return (1 + math.tanh((self.slope * score + self.intercept) / 2)) / 2
