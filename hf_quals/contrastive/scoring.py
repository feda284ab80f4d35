"""What contrastive training asks of a scorer, known by its protocol alone, and its scores back from JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def check_scorer(scorer: Any) -> None:
    """Raises a `ValueError` that names what an object lacks of a [`~hf_quals.Scorer`]."""
    lacking = [name for name in ("name", "reads_references", "score", "settings") if not hasattr(scorer, name)]
    # A class has the methods, but not their `self`.
    if lacking or isinstance(scorer, type):
        what = f"lacks {', '.join(lacking)}" if lacking else "is a class: make an object of it"
        raise ValueError(
            f"scorer must be a hf_quals.Scorer such as QualsScorer.from_pretrained(...): {scorer!r} {what}."
        )


def none_to_nan(scores: Iterable[float | None]) -> list[float]:
    """Back from JSON."""
    return [math.nan if score is None else score for score in scores]
