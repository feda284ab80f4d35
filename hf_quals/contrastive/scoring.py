"""How contrastive training asks a scorer: any [`~hf_quals.Scorer`], known by its protocol alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers.utils import logging

from ..scorers import Scorer


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
    distinct = list(dict.fromkeys(row for row in rows if row[1].strip()))
    if not distinct:
        return [math.nan] * len(rows)
    documents, summaries, references = map(list, zip(*distinct, strict=True))
    results = scorer.score(
        documents, summaries, references=references if scorer.reads_references else None, batch_size=batch_size
    )
    if len(results) != len(distinct):
        raise ValueError(f"The scorer {scorer.name!r} gave {len(results)} results for {len(distinct)} summaries.")
    scores = [_as_float(scorer, result) for result in results]
    if num_infinite := sum(map(math.isinf, scores)):
        logger.warning(f"{num_infinite} of {len(scores)} scores of {scorer.name!r} are infinite and count as none.")
    score_of = {row: score for row, score in zip(distinct, scores, strict=True) if math.isfinite(score)}
    return [score_of.get(row, math.nan) for row in rows]


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
