"""How contrastive training asks a scorer: any [`~hf_quals.Scorer`], known by its protocol alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..scorers import Scorer


def check_scorer(scorer: Any) -> None:
    """Raises a `ValueError` that names what an object lacks of a [`~hf_quals.Scorer`]."""
    lacking = [name for name in ("name", "reads_references", "score", "settings") if not hasattr(scorer, name)]
    # A class has the methods, but not their `self`.
    if lacking or isinstance(scorer, type):
        what = f"lacks {', '.join(lacking)}" if lacking else "is a class: make an object of it"
        raise ValueError(
            f"scorer must be a hf_quals.Scorer such as QualsScorer.from_pretrained(...): {scorer!r} {what}."
        )


def score_summaries(scorer: Scorer, rows: Sequence[tuple[str, str, str]], batch_size: int) -> list[float]:
    """
    Scores rows of document, summary and reference, whose summaries may be blank or repeat each other, as a model's
    samples do. The score is NaN where the summary is blank or the scorer has none.
    """
    distinct = list(dict.fromkeys(row for row in rows if row[1].strip()))
    if not distinct:
        return [math.nan] * len(rows)
    documents, summaries, references = map(list, zip(*distinct, strict=True))
    results = scorer.score(
        documents, summaries, references=references if scorer.reads_references else None, batch_size=batch_size
    )
    score_of = {row: result.score for row, result in zip(distinct, results, strict=True)}
    return [score_of.get(row, math.nan) for row in rows]


def none_to_nan(scores: Iterable[float | None]) -> list[float]:
    """Back from JSON."""
    return [math.nan if score is None else score for score in scores]
