"""Statistics of scores: the interval of a mean, and the paired test of a difference."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import bootstrap, permutation_test


RESAMPLES = 10_000

_SEED = 0
_RESAMPLES_AT_ONCE = 100


def bootstrap_interval(scores: np.ndarray) -> tuple[float, float]:
    """
    The 95 % interval of a mean by bootstrap: the 2.5th and 97.5th percentile of the means of 10,000 resamples.

    Args:
        scores (`np.ndarray` of shape `(documents,)`): Scores, none of them NaN.

    Returns:
        `tuple[float, float]`: both ends, the same for the same scores; NaN if there are fewer than two scores.
    """
    if len(scores) < 2:
        return math.nan, math.nan
    interval = bootstrap(
        (scores,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_RESAMPLES_AT_ONCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    # Means of equal scores differ in the last bit.
    return min(float(interval.low), float(interval.high)), max(float(interval.low), float(interval.high))


def paired_test(scores: np.ndarray, baseline: np.ndarray) -> tuple[float, float]:
    """
    The paired randomisation test of a difference in means (https://aclanthology.org/D12-1091).

    If two systems were alike, either could have got either score of a document: the p-value is the share of ways to
    swap the scores within documents whose mean difference is at least as far from 0, twice the share of the more
    extreme side, at most 1. All ways are counted if there are at most 10,000 (up to 13 documents), else 9,999 random
    ones and the observed one.

    Args:
        scores (`np.ndarray` of shape `(documents,)`): Scores of a system, none of them NaN.
        baseline (`np.ndarray` of shape `(documents,)`): Scores of another for the same documents.

    Returns:
        `tuple[float, float]`: the mean of `scores - baseline`, and the two-sided p-value; NaN without a document, the
        p-value with fewer than two.
    """
    differences = scores - baseline
    if len(differences) < 2:
        return (float(differences.mean()) if len(differences) else math.nan), math.nan
    test = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",  # of one sample: flips signs
        n_resamples=RESAMPLES - 1,
        batch=_RESAMPLES_AT_ONCE,
        rng=np.random.default_rng(_SEED),
    )
    return float(differences.mean()), float(test.pvalue)
