"""What several people's verdicts amount to: pure functions of 1 (better), 0 (equal) and -1 (worse)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from scipy.stats import binomtest


def majority(verdicts: Sequence[int]) -> int | None:
    """What more than half of an item's annotators say; `None` where no verdict has so many."""
    verdict, count = Counter(verdicts).most_common(1)[0]
    return verdict if 2 * count > len(verdicts) else None


def sign_test(num_better: int, num_worse: int) -> float | None:
    """
    Probability of a split at least as uneven if better and worse were equally likely: the exact two-sided sign test,
    ties left out. `None` where there are only ties.
    """
    if num_better + num_worse == 0:
        return None
    return float(binomtest(num_better, num_better + num_worse).pvalue)


def krippendorff_alpha(units: Sequence[Sequence[int]]) -> float | None:
    """
    Krippendorff's alpha of ordinal values: 1 minus the observed disagreement over that expected by chance.

    [Computing Krippendorff's Alpha-Reliability](https://repository.upenn.edu/asc_papers/43), 2011: with `n_c` for how
    often value `c` occurs, two values `c ≤ k` disagree by `(n_c + … + n_k − (n_c + n_k) / 2)²`.

    Args:
        units (`Sequence[Sequence[int]]`): The values of every unit, one of each annotator who gave one. Units of fewer
            than two values do not count.

    Returns:
        `float` or `None`: at most 1; 0 is chance. `None` if no unit has two values, or if all values are the same.
    """
    units = [unit for unit in units if len(unit) > 1]
    counts = Counter(itertools.chain.from_iterable(units))
    if len(counts) < 2:
        return None

    def disagreement(pair: tuple[int, int]) -> float:
        low, high = min(pair), max(pair)
        between = sum(count for value, count in counts.items() if low <= value <= high)
        return (between - (counts[low] + counts[high]) / 2) ** 2

    def disagreements(counts: Counter[int]) -> float:
        return sum(counts[c] * counts[k] * disagreement((c, k)) for c, k in itertools.permutations(counts, 2))

    observed = sum(disagreements(Counter(unit)) / (len(unit) - 1) for unit in units)
    expected = disagreements(counts)
    return 1 - observed * (counts.total() - 1) / expected
