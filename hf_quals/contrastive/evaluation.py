"""How faithful the model writes now: a fixed sample of its summaries scored, as metrics and as a table."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from ..files import nan_to_none, write_atomically
from ..scorers import Scorer, mean_score
from .config import QualsCallbackConfig
from .rows import TextRows
from .sampling import CandidateSampler
from .scoring import as_scores, none_to_nan, score_results


def sample_rows(size: int, num_samples: int, seed: int) -> list[int]:
    """The rows that every evaluation summarizes, in ascending order: the same for the same seed."""
    return sorted(random.Random(seed).sample(range(size), min(num_samples, size)))


def evaluate_sample(
    sampler: CandidateSampler,
    scorer: Scorer,
    rows: TextRows,
    config: QualsCallbackConfig,
    *,
    seed: int = 42,
    generated: Sequence[list[int]] | None = None,
    **gen_kwargs: Any,
) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """
    Scores summaries of a sample that `seed` fixes; processes share the work, and all get the whole result.

    `generated` are the tokens of every row's summary, if they are there already; else those of the sample are
    generated with `gen_kwargs`, greedily or by beam search.

    Returns:
        `list[dict]`: columns `document`, `reference`, `candidate` and the score by the scorer's name, `None` where a
        summary has none.
        `list[ScorerResult | None]`, *optional*: of a scorer that has a page, the result of each, `None` where the
        summary is blank.
    """
    sample = sample_rows(len(rows), config.num_eval_samples, seed)
    table: dict[int, tuple[dict[str, Any], Any]] = {}
    explains = hasattr(scorer, "page")  # the results of other scorers need not be such as processes can exchange
    with sampler.accelerator.split_between_processes(sample, apply_padding=True) as own_rows:
        for first in range(0, len(own_rows), config.batch_size):
            batch = own_rows[first : first + config.batch_size]
            of_batch = [rows[row] for row in batch]
            if generated is None:
                written = sampler.search([row.prompt for row in of_batch], **gen_kwargs)
            else:
                written = [generated[row] for row in batch]
            texts = [sampler.decode(token_ids) for token_ids in written]
            to_score = [(row.document, text, row.reference) for row, text in zip(of_batch, texts, strict=True)]
            results = score_results(scorer, to_score, config.batch_size)
            scores = nan_to_none(as_scores(scorer, to_score, results))
            for index, scored, score in zip(batch, to_score, scores, strict=True):
                document, text, reference = scored
                row = {"document": document, "reference": reference, "candidate": text, scorer.name: score}
                table[index] = row, results.get(scored) if explains else None
    # Rows of the padding come twice, with equal results.
    of_all = dict(gather_object(list(table.items())))
    rows_of_all = [of_all[row][0] for row in sample]
    return rows_of_all, [of_all[row][1] for row in sample] if explains else None


def table_metrics(table: list[dict[str, Any]], name: str, prefix: str) -> dict[str, float]:
    """`{prefix}_{name}`, the mean score, and `{prefix}_{name}_unscored`, the share of summaries without one."""
    scores = none_to_nan(row[name] for row in table)
    unscored = sum(map(math.isnan, scores)) / len(table)
    return {f"{prefix}_{name}": mean_score(scores), f"{prefix}_{name}_unscored": unscored}


def write_page(scorer: Any, table: list[dict[str, Any]], results: list[Any], path: Path) -> None:
    """Writes the page that explains the results of a table."""
    page = scorer.page([row["document"] for row in table], [row["candidate"] for row in table], results)
    write_atomically(path, page)


def write_table(table: list[dict[str, Any]], path: Path) -> None:
    """Writes a table as JSON lines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table))
