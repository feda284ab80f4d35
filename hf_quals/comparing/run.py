"""Lets judges score systems' summaries: one table, and the scores behind it document by document, a file a judge.

A judge that fails costs its own cells alone; a run that was cut off goes on behind the scores that are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..files import locked, nan_to_none, write_atomically
from ..judges.registry import Judge
from ..scorers import Scorer, score_written
from .partial import RowScores
from .reports import check_folder, check_outputs, check_suffix
from .rows import Row, row_digest
from .systems import Comparison


if TYPE_CHECKING:
    from .table import ScoreTable

_DOCUMENTS_AT_ONCE = 8
_EXPLAINED = "quals"  # the judge whose results a page explains


def compare_systems(
    comparisons: Sequence[Comparison],
    systems: Sequence[str],
    judges: Sequence[Judge],
    folder: Path | None = None,
    *,
    html: Path | None = None,
    resume: bool = False,
    batch_size: int = 8,
) -> ScoreTable:
    """
    Lets judges score systems' summaries.

    Args:
        comparisons (`Sequence[Comparison]`): Documents with the summaries of all systems; at least one.
        systems (`Sequence[str]`): The names of the systems.
        judges (`Sequence[Judge]`): Who scores, from [`~hf_quals.judges.registry.make_judges`], or any scorer as
            `Judge.of(scorer)`.
        folder (`Path`, *optional*): Where scores are kept, in a `.jsonl` file a judge.
        html (`Path`, *optional*): Where the page goes that explains what QUALS says of each summary.
        resume (`bool`, *optional*, defaults to `False`): Whether to go on from scores in `folder`.
        batch_size (`int`, *optional*, defaults to 8): Inputs of a model computed together; bounds memory.

    Raises:
        [`InputError`]: if a judge needs references and there are none, or scores to go on from are of other texts or
            settings; or for `html` without the judge QUALS.
    """
    from .table import Cell, ScoreTable, make_cells  # here: it needs scipy, and ranking does not

    if html is not None and _EXPLAINED not in (judge.name for judge in judges):
        raise InputError(f"`html` explains the judge {_EXPLAINED}. Name it among the judges, or leave it out.")
    for judge in judges:
        if judge.reads_references and comparisons[0].reference is None:
            raise InputError(f"{judge.name} needs references, and there are none. Give some, or leave it out.")
    # Scores of something else are refused before any judge begins.
    kept = {
        judge.name: None if folder is None else kept_scores(judge, comparisons, folder, resume=resume)
        for judge in judges
    }
    cells: list[Cell] = []
    truncated = {}
    for judge in judges:
        try:
            rows = judge_rows(judge, comparisons, kept[judge.name], batch_size=batch_size)
        except Exception as error:  # whatever a model or a library raises is this judge's failure alone
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            cells += [Cell(column, system, error=reason) for column in judge.columns for system in systems]
            continue
        if html is not None and judge.name == _EXPLAINED:
            write_atomically(html, _page(comparisons, systems, rows, judge.settings))
        truncated[judge.name] = sum(sum(row["truncated"]) for row in rows)
        for column in judge.columns:
            cells += make_cells(column, systems, np.array([row[column] for row in rows], dtype=float))
    settings = {judge.name: judge.settings for judge in judges}
    return ScoreTable(tuple(systems), len(comparisons), settings, truncated, tuple(cells))


@contextlib.contextmanager
def scores_folder(
    output: Path,
    inputs: Sequence[Path],
    *,
    resume: bool,
    overwrite: bool,
    suffixes: tuple[str, ...] = (".md", ".csv", ".json"),
) -> Iterator[Path]:
    """
    Where the scores behind an output are kept, which no other process writes until the block ends.

    Raises:
        [`InputError`]: if the output cannot be written or another process writes it, if an input is the output or
            among the scores, or if they would replace what they may not.
    """
    check_suffix(output, suffixes)
    check_folder(output)
    folder = output.with_name(output.name + ".scores")
    for given in inputs:
        if folder.resolve() in given.resolve().parents:
            raise InputError(f"{given} lies in {folder}, where scores are kept. Name another output.")
    with locked(output):
        if folder.exists() and not (resume or overwrite):
            raise InputError(f"{folder} holds scores of an earlier run. Pass `resume=True` or `overwrite=True`.")
        check_outputs([output], inputs, overwrite=overwrite or (resume and folder.exists()))
        yield folder


def kept_scores(judge: Judge, comparisons: Sequence[Comparison], folder: Path, *, resume: bool = False) -> RowScores:
    """
    Where a judge's scores are kept in the folder, with those that are there already if it is to `resume`.

    Raises:
        [`InputError`]: if the scores to go on from are of other texts or settings.
    """
    texts = [[comparison.document, comparison.summaries, comparison.reference] for comparison in comparisons]
    encoded = [json.dumps(of_document).encode() for of_document in texts]
    digest = hashlib.sha256(b"\n".join(encoded)).hexdigest()
    header = {"judge": judge.name, "rows": len(texts), "sha256": digest, "hf_quals": __version__, **judge.settings}
    scores = RowScores(folder / f"{judge.name}.jsonl", header, [row_digest(of_document) for of_document in encoded])
    if resume and scores.path.exists():
        scores.resume()
    return scores


def _page(comparisons: Sequence[Comparison], systems: Sequence[str], rows: Sequence[Row], settings: Row) -> str:
    from ..quals.config import QualsConfig
    from ..quals.page import page
    from ..quals.scorer import QualsResult

    if any("results" not in row for row in rows):
        raise InputError("The scores to go on from were kept without pairs. Pass `overwrite=True` to begin anew.")
    config = QualsConfig.from_dict({name.name: settings[name.name] for name in fields(QualsConfig)})
    results = [
        None if values is None else QualsResult.from_dict(values, config) for row in rows for values in row["results"]
    ]
    documents = [comparison.document for comparison in comparisons for _ in systems]
    summaries = [summary for comparison in comparisons for summary in comparison.summaries]
    return page(documents, summaries, results, names=list(systems) * len(comparisons) if len(systems) > 1 else None)


def judge_rows(
    judge: Judge, comparisons: Sequence[Comparison], kept: RowScores | None = None, *, batch_size: int = 8
) -> list[Row]:
    """
    Lets a judge score what is not scored yet, all documents that `kept` has no scores of. It is loaded only if there
    is something to score.

    Returns:
        `list[dict]`: a row for every document, scored now or before: its `places`, under each column's name the scores
        of the systems, for which of them a text was `truncated`, and of QUALS the `results`.
    """
    from tqdm import tqdm

    rows: dict[int, Row] = {}
    missing = [row for row in range(len(comparisons)) if kept is None or not kept.is_scored(row)]
    if missing:
        done = len(comparisons) - len(missing)
        loading = f"{judge.name} is loaded"
        with tqdm(total=len(comparisons), initial=done, desc=loading, unit=" documents") as progress:
            scorer = judge.load()
            progress.set_description(judge.name)
            if kept is not None:
                # Not before the model is there: a mistyped name leaves nothing behind.
                kept.path.parent.mkdir(parents=True, exist_ok=True)
            for start in range(0, len(missing), _DOCUMENTS_AT_ONCE):
                part = missing[start : start + _DOCUMENTS_AT_ONCE]
                judged = _score(judge, scorer, [comparisons[row] for row in part], batch_size)
                scored = dict(zip(part, judged, strict=True))
                if kept is not None:
                    kept.append(scored)
                rows |= scored
                progress.update(len(part))
    return list(rows.values()) if kept is None else list(itertools.islice(kept.rows(), len(comparisons)))


def _score(judge: Judge, scorer: Scorer, comparisons: Sequence[Comparison], batch_size: int) -> list[Row]:
    from ..quals.scorer import QualsScorer

    texts = [
        (comparison.document, summary, comparison.reference or "")
        for comparison in comparisons
        for summary in comparison.summaries
    ]
    documents, summaries, references = map(list, zip(*texts, strict=True))
    given = references if judge.reads_references else None
    scored = score_written(scorer, documents, summaries, references=given, batch_size=batch_size)
    results = iter(scored)
    values = {column: iter(_values(scorer, texts, scored, attribute)) for column, attribute in judge.columns.items()}
    rows = []
    for comparison in comparisons:
        of_systems = [next(results) for _ in comparison.summaries]
        row: Row = {"places": comparison.places}
        row |= {column: [next(of_column) for _ in of_systems] for column, of_column in values.items()}
        for column in judge.columns:
            if any(isinstance(value, float) and math.isinf(value) for value in row[column]):
                raise ValueError(f"{column} of {', '.join(comparison.places)}: {row[column]} is not finite.")
        if isinstance(scorer, QualsScorer):
            row["results"] = [None if result is None else result.to_dict() for result in of_systems]
        row["truncated"] = [
            getattr(result, "document_truncated", False) or getattr(result, "summary_truncated", False)
            for result in of_systems
        ]
        rows.append(row)
    return rows


def _values(
    scorer: Scorer, texts: Sequence[tuple[str, str, str]], results: Sequence[Any], attribute: str
) -> list[Any]:
    """An attribute of results as JSON's types, `None` where it is none; a `score` as [`~hf_quals.rerank`] takes it."""
    from ..contrastive.scoring import as_scores

    if attribute == "score":
        scored = {row: result for row, result in zip(texts, results, strict=True) if result is not None}
        return nan_to_none(as_scores(scorer, texts, scored))
    return [None if result is None else nan_to_none(getattr(result, attribute)) for result in results]
