"""How contrastive training asks a scorer: any [`~hf_quals.Scorer`], known by its protocol alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers.utils import logging

from ..scorers import Scorer, score_written


logger = logging.get_logger(__name__)


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
    samples do. The score is NaN where the summary is blank, or the scorer has none or an infinite one: neither means
    nor JSON can hold it.

    Raises:
        `ValueError`: if a score is no number.
    """
    return as_scores(scorer, rows, score_results(scorer, rows, batch_size))


def score_results(
    scorer: Scorer, rows: Sequence[tuple[str, str, str]], batch_size: int
) -> dict[tuple[str, str, str], Any]:
    """The result of each distinct row whose summary is not blank."""
    distinct = list(dict.fromkeys(rows))
    documents, summaries, references = ([row[column] for row in distinct] for column in range(3))
    given = references if scorer.reads_references else None
    results = score_written(scorer, documents, summaries, references=given, batch_size=batch_size)
    return {row: result for row, result in zip(distinct, results, strict=True) if result is not None}


def as_scores(
    scorer: Scorer, rows: Sequence[tuple[str, str, str]], results: Mapping[tuple[str, str, str], Any]
) -> list[float]:
    """The score of each row, as [`score_summaries`] gives them, of what [`score_results`] gives."""
    scores = {row: _as_float(scorer, result) for row, result in results.items()}
    if num_infinite := sum(map(math.isinf, scores.values())):
        logger.warning(f"{num_infinite} of {len(scores)} scores of {scorer.name!r} are infinite and count as none.")
    return [score if math.isfinite(score := scores.get(row, math.nan)) else math.nan for row in rows]


def _as_float(scorer: Scorer, result: Any) -> float:
    """The score of a result, which may be a scalar of NumPy or torch."""
    try:
        score = result.score
        if isinstance(score, str | bytes):
            raise TypeError
        return float(score.detach() if isinstance(score, torch.Tensor) else score)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Each result of the scorer {scorer.name!r} needs a `score` that is a number, NaN where there is none; "
            f"got {result!r}."
        ) from error


def none_to_nan(scores: Iterable[float | None]) -> list[float]:
    """Back from JSON."""
    return [math.nan if score is None else score for score in scores]
