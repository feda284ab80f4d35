"""The candidates of a file ranked by a judge: checked, scored, kept as they come, and gone on with."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path

from ..best_of import Ranking
from ..errors import InputError
from ..files import nan_to_none, write_atomically
from ..judges.registry import Judge
from .partial import RowScores
from .rows import Row, Source, check_text, fingerprint, to_json
from .run import judge_rows, kept_scores, scores_folder
from .systems import Comparison


COLUMNS = ("best", "scores", "order")


def rerank_file(
    judge: Judge,
    source: Source,
    output: str | Path,
    *,
    candidates_column: str = "candidates",
    reference_column: str = "reference",
    resume: bool = False,
    overwrite: bool = False,
) -> list[Ranking]:
    """
    Ranks the candidates of each row of a file or dataset, and writes the rows with new columns: `best`, the best
    candidate, `scores` of all in their order, and `order`, their numbers from 0, best first.

    The input is checked before anything is scored. Scores are kept in the folder `OUTPUT.scores`, which is removed
    when the output is there.

    Args:
        judge ([`Judge`]): Who scores, from [`~hf_quals.judges.registry.make_judges`], or any scorer as
            `Judge.of(scorer)`.
        source ([`Source`]): The rows; its summary column is not read.
        output (`str` or `Path`): A `.jsonl` file.
        candidates_column (`str`, *optional*, defaults to `"candidates"`): The column of lists of candidates.
        reference_column (`str`, *optional*, defaults to `"reference"`): That of references, for judges that read
            them.
        resume (`bool`, *optional*, defaults to `False`): Whether to go on where an interrupted run was.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace an output, or scores of an interrupted
            run.

    Returns:
        `list[Ranking]`: one a row, in order.

    Raises:
        [`InputError`]: if the input is not fit, the output cannot be written or may not be replaced, or the scores to
            go on with are of another input or judge.
    """
    output = Path(output)
    with scores_folder(
        output, [Path(source.path)], resume=resume, overwrite=overwrite, suffixes=(".jsonl",)
    ) as folder:
        rows = _read(source, candidates_column, reference_column if judge.reads_references else None)
        comparisons = [
            Comparison(
                row[source.document_column],
                tuple(row[candidates_column]),
                (where,),
                row[reference_column] if judge.reads_references else None,
            )
            for where, row in rows
        ]
        judge = replace(judge, columns={"score": "score"})
        kept = kept_scores(judge, comparisons, folder, resume=resume)
        _settle_others(kept, overwrite=overwrite)
        judged = judge_rows(judge, comparisons, kept)
        rankings = [
            Ranking(comparison.summaries, tuple(math.nan if score is None else float(score) for score in row["score"]))
            for comparison, row in zip(comparisons, judged, strict=True)
        ]
        columns = [dict(zip(COLUMNS, (r.best, nan_to_none(r.scores), r.order), strict=True)) for r in rankings]
        lines = [to_json({**row, **ranked}, where) for (where, row), ranked in zip(rows, columns, strict=True)]
        write_atomically(output, "".join(f"{line}\n" for line in lines))
        kept.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # none was made, or it holds something else
            folder.rmdir()
    return rankings


def _settle_others(kept: RowScores, *, overwrite: bool) -> None:
    """Removes what other judges have left beside a judge's scores, or refuses to begin beside it."""
    others = [path for path in sorted(kept.path.parent.glob("*.jsonl")) if path != kept.path]
    if overwrite:
        for path in others:
            path.unlink()
    elif others and not kept.path.exists():
        raise InputError(
            f"{kept.path.parent} holds scores of {', '.join(path.stem for path in others)}, none of {kept.path.stem}. "
            "Go on with the same judge, or pass `overwrite=True` to begin anew."
        )


def _read(source: Source, candidates_column: str, reference_column: str | None) -> list[tuple[str, Row]]:
    """The rows and where they stand, all of them fit to be ranked and to be written."""
    rows = list(source.rows())
    if not rows:
        raise InputError(f"{source.path}: no rows.")
    for where, row in rows:
        for column in filter(None, (source.document_column, reference_column)):
            check_text(where, row, column)
        if candidates_column not in row:
            raise InputError(f"{where}: no column {candidates_column!r}. The row has {', '.join(map(repr, row))}.")
        texts = row[candidates_column]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}: column {candidates_column!r} must hold a list of texts, at least one.")
        for column in COLUMNS:
            if column in row:
                raise InputError(f"{where}: the column {column!r} would be overwritten. Rename it.")
        to_json(row, where)
        fingerprint(row, where)
    return rows
