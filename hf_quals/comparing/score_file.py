"""The rows of a file scored with QUALS: checked, split over processes, kept as they come, and gone on with."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from .. import __version__
from ..errors import InputError
from ..files import lock_path, locked
from ..quals.columns import COLUMNS, Statistics, score_row, score_schema
from ..scorers import score_written
from .partial import PartialScores, partial_path
from .reports import check_folder, check_suffix
from .rows import Checked, Row, Source, check


if TYPE_CHECKING:
    import pyarrow as pa
    from accelerate import PartialState

    from ..quals.config import QualsConfig
    from ..quals.scorer import QualsResult, QualsScorer

_T = TypeVar("_T")


def score_file(
    scorer: QualsScorer | Callable[[], QualsScorer],
    source: Source,
    output: str | Path,
    *,
    settings: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    with_pairs: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    batch_size: int = 8,
    state: PartialState | None = None,
) -> Statistics:
    """
    Scores the rows of a file or dataset, and writes them with their scores in new columns.

    The input is checked before anything is scored. Rows are read, scored and written a few at a time, so memory does
    not grow with their number. Scores are kept in `OUTPUT.partial.jsonl` until all are there. A blank summary gets no
    score, and is counted.

    Args:
        scorer ([`QualsScorer`] or `Callable`): What scores, or a function that loads it, called only if the input is
            good and rows are left to score.
        source ([`Source`]): The rows.
        output (`str` or `Path`): A `.jsonl`, `.parquet` or `.csv` file for all columns of the input and the new ones.
        settings (`Mapping` or `Callable`, *optional*, defaults to `scorer.settings`): All that the scores depend on,
            as JSON's types, or a function that returns it, called only if the input is good; scores of other settings
            are not gone on with. Without them, the function that loads the scorer is called at once.
        with_pairs (`bool`, *optional*, defaults to `False`): Whether a column holds the kept pairs with their token
            scores.
        resume (`bool`, *optional*, defaults to `False`): Whether to go on where an interrupted run was.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace an output, or what is left of an
            interrupted run.
        batch_size (`int`, *optional*, defaults to 8): Texts computed together; bounds memory.
        state (`PartialState`, *optional*): The processes that rows are split over, all of which call this function.

    Returns:
        [`Statistics`]: of all rows, in every process.

    Raises:
        [`InputError`]: if the input is not fit to be scored (see [`check`]) or changes meanwhile, if the output cannot
            be written, may not be replaced or is written by another process, or if the scores to go on with are of
            another input or other settings.

    Example:

    ```python
    >>> from hf_quals import QualsScorer
    >>> from hf_quals.comparing.rows import Source
    >>> from hf_quals.comparing.score_file import score_file
    >>> score_file(QualsScorer.from_pretrained(), Source("summaries.jsonl"), "scored.jsonl").mean
    ```
    """
    output = Path(output)
    check_suffix(output, (".jsonl", ".parquet", ".csv"))
    if settings is None:
        scorer = scorer() if callable(scorer) else scorer
        settings = scorer.settings
    schema = score_schema(with_pairs)
    of_main = contextlib.ExitStack()  # what only the main process has: the lock

    def prepare() -> tuple[PartialScores, Checked]:
        check_folder(output)
        of_main.enter_context(locked(output))
        checked = check(source, tuple(schema.names), output, (partial_path(output), lock_path(output)))
        header = {"input": source.path, "rows": len(checked.digests), "sha256": checked.sha256, "pairs": with_pairs}
        header |= {"document_column": source.document_column, "summary_column": source.summary_column}
        header |= {"hf_quals": __version__}
        header |= settings() if callable(settings) else settings
        partial = PartialScores(output, header, checked.digests)
        _begin(partial, resume, overwrite)
        return partial, checked

    with of_main:
        partial, checked = _on_main(state, prepare)
        is_main = state is None or state.is_main_process
        num_missing = partial.num_missing
        seconds = 0.0
        if num_missing:
            scorer = scorer() if callable(scorer) else scorer
            started = time.perf_counter()
            progress = tqdm(
                total=len(checked.digests),
                initial=len(checked.digests) - num_missing,
                desc="QUALS",
                unit=" summaries",
                disable=not is_main,
            )
            with progress:
                for rows in _scored(scorer, _texts(source, partial), schema, batch_size, state):
                    if is_main:
                        partial.append(rows)
                    progress.update(len(rows))
            seconds = time.perf_counter() - started
        statistics = _on_main(state, lambda: partial.finish(source, checked, schema))
    return replace(statistics, num_new=num_missing, seconds=seconds)


def read_scored(source: Source, config: QualsConfig) -> tuple[list[str], list[str], list[QualsResult | None]]:
    """
    Documents, summaries and results of a file that [`score_file`] wrote with `with_pairs`; `None` for a blank summary.

    Args:
        source ([`Source`]): The scored file.
        config ([`QualsConfig`]): How it was scored.

    Raises:
        [`InputError`]: for a row without texts or pairs, or that was scored in another way.
    """
    from ..quals.scorer import QualsResult

    check_suffix(Path(source.path), (".jsonl", ".parquet"))
    documents, summaries, results = [], [], []
    for place, row in source.rows():
        source.check_texts(place, row)
        if row.get("quals_pairs") is None:
            raise InputError(f"{place}: no column 'quals_pairs', which `hf-quals score --pairs` writes.")
        document, summary = source.texts(row)
        try:
            values = {value: row[column] for column, value in COLUMNS.items()}
            result = QualsResult.from_dict(values, config) if summary.strip() else None
        except ValueError as error:
            raise InputError(f"{place}: {error} Name the model and the variant that it was scored with.") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{place}: the columns of QUALS are not as they were written: {error!r}.") from error
        documents.append(document)
        summaries.append(summary)
        results.append(result)
    if not results:
        raise InputError(f"{source.path}: no rows.")
    return documents, summaries, results


def _begin(partial: PartialScores, resume: bool, overwrite: bool) -> None:
    """Goes on with what an interrupted run has scored, if it is wanted; refuses to replace what it may not."""
    interrupted = partial.path.exists()
    if interrupted and not (resume or overwrite):
        raise InputError(f"{partial.path} holds scores of an interrupted run. Pass `resume=True` or `overwrite=True`.")
    if partial.output.exists() and not overwrite and not (resume and interrupted):
        raise InputError(f"{partial.output} exists, and no run was interrupted. Pass `overwrite=True` to replace it.")
    if resume and interrupted:
        partial.resume()


def _texts(source: Source, partial: PartialScores) -> Iterator[tuple[int, str, str]]:
    """Number, document and summary of each row that is not scored when it is asked for."""
    for number, (_, row) in enumerate(itertools.islice(source.rows(), partial.num_rows)):
        if not partial.is_scored(number):
            yield number, *source.texts(row)


def _scored(
    scorer: QualsScorer,
    texts: Iterator[tuple[int, str, str]],
    schema: pa.Schema,
    batch_size: int,
    state: PartialState | None,
) -> Iterator[dict[int, Row]]:
    """Yields the scores of rows by their numbers, batch by batch, of which each process computes its own."""
    rank, num_processes = (0, 1) if state is None else (state.process_index, state.num_processes)
    while chunk := list(itertools.islice(texts, batch_size * num_processes)):
        # Not split_between_processes: that of accelerate 1.10 repeats the last of fewer rows than processes.
        part = chunk[len(chunk) * rank // num_processes : len(chunk) * (rank + 1) // num_processes]
        numbers, documents, summaries = zip(*part, strict=True) if part else ((), (), ())
        results = score_written(scorer, documents, summaries, batch_size=batch_size)
        rows = [(number, score_row(result, schema)) for number, result in zip(numbers, results, strict=True)]
        if state is not None:
            from accelerate.utils import gather_object

            rows = gather_object(rows)
        yield dict(rows)


def _on_main(state: PartialState | None, work: Callable[[], _T]) -> _T:
    """What `work` returns or raises in the main process, which alone does it, in all processes."""
    if state is None:
        return work()
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if state.is_main_process:
        try:
            outcome = [work(), None]
        except (ValueError, OSError) as error:
            outcome = [None, error]
    value, raised = broadcast_object_list(outcome)
    if raised is not None:
        raise raised
    return value
