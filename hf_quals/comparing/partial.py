"""Scores on their way to a file, never lost.

They go line by line into `OUTPUT.partial.jsonl`; when all are there, input rows and scores are joined into the output
under a temporary name, which is renamed. A kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from ..errors import InputError
from ..files import replacing, write_atomically
from ..quals.columns import Statistics
from .rows import ROWS_AT_ONCE, Checked, Row, Source, fingerprint, record_batches, to_json


logger = logging.get_logger(__name__)

_NOT_SCORED = -1


class RowScores:
    """
    Scores as they come, in a file of JSON lines: a header that tells what they are scores of, input and settings, then
    a line a scored row, in any order. A run goes on only from scores of the same header.

    A line holds its row's number, and a digest of the row and its scores: one that is lost, damaged or another row's
    does not count.

    Args:
        path (`Path`): The file.
        header (`dict`): What they are scores of, as JSON's types.
        digests (`Sequence[int]`): Of each row what tells it from others ([`row_digest`]).
    """

    def __init__(self, path: Path, header: Row, digests: Sequence[int]):
        self.path = path
        self.header = header
        self._digests = digests
        # Where the line of each row begins.
        self._positions = array("q", [_NOT_SCORED]) * len(digests)
        self._is_begun = False

    @property
    def num_rows(self) -> int:
        """How many rows there are to score."""
        return len(self._digests)

    @property
    def num_missing(self) -> int:
        """How many of them have no scores yet."""
        return self._positions.count(_NOT_SCORED)

    def is_scored(self, row: int) -> bool:
        """Whether the scores of the row with this number are there."""
        return self._positions[row] != _NOT_SCORED

    def resume(self) -> None:
        """
        Goes on with the file. Drops what a kill left of a line half written, and says which other lines are damaged:
        their rows are to be scored again.

        Raises:
            [`InputError`]: if the scores are of another input or other settings, or the header is damaged.
        """
        damaged = []
        with open(self.path, "r+b") as file:
            header = file.readline()
            if not header.endswith(b"\n"):
                return
            self._check_header(header)
            self._is_begun = True
            end = file.tell()
            for number, line in enumerate(file, start=2):
                if not line.endswith(b"\n"):
                    break
                row = self._row_of(line)
                if row is None:
                    damaged.append(number)
                elif not self.is_scored(row):
                    self._positions[row] = end
                end += len(line)
            file.truncate(end)
        if damaged:
            logger.warning(
                f"{self.path}: {len(damaged)} lines are damaged or of another row (the first: line {damaged[0]}). "
                "Their rows are scored again."
            )

    def _check_header(self, line: bytes) -> None:
        try:
            earlier = dict(json.loads(line)["header"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(
                f"{self.path}, line 1: damaged, so that what it holds scores of is not known. Pass `overwrite=True` "
                "to begin anew."
            ) from error
        differing = [
            f"{name}: {earlier.get(name)!r} then, {self.header.get(name)!r} now"
            for name in {**self.header, **earlier}
            if earlier.get(name) != self.header.get(name)
        ]
        if differing:
            raise InputError(
                f"{self.path} was begun with something else ({'; '.join(differing)}). Go on with the same, or pass "
                "`overwrite=True` to begin anew."
            )

    def _row_of(self, line: bytes) -> int | None:
        """The number of the row whose scores are in a line; `None` if it is damaged."""
        try:
            parsed = json.loads(line)
            row = parsed["row"]
            is_own = 0 <= row < len(self._digests) and parsed["sha256"] == self._digest(row, parsed["scores"])
            return row if is_own else None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def _digest(self, row: int, scores: Row) -> str:
        return hashlib.sha256(json.dumps([self._digests[row], row, scores]).encode()).hexdigest()[:16]

    def append(self, scores: Mapping[int, Row]) -> None:
        """Adds the scores of rows by their numbers, to a new file if there was none to go on with; on return they are
        on the disk."""
        if not self._is_begun:
            # What lies at the path, a link to another file included, is replaced and not written into.
            write_atomically(self.path, json.dumps({"header": self.header}) + "\n")
            self._is_begun = True
        with open(self.path, "ab") as file:
            for row, of_row in scores.items():
                self._positions[row] = file.tell()
                line = {"row": row, "sha256": self._digest(row, of_row), "scores": of_row}
                file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> Iterator[Row]:
        """Yields the scores of all rows in order."""
        with open(self.path, "rb") as file:
            for row, position in enumerate(self._positions):
                file.seek(position)
                line = file.readline()
                if self._row_of(line) != row:
                    raise InputError(
                        f"{self.path}: row {row + 1} is damaged; something else has written into the file. Pass "
                        "`resume=True` to score again what is."
                    )
                yield json.loads(line)["scores"]


class PartialScores(RowScores):
    """Scores on their way to an output, the file that they go to when all are there."""

    def __init__(self, output: Path, header: Row, digests: Sequence[int]):
        super().__init__(partial_path(output), header, digests)
        self.output = output

    def finish(self, source: Source, checked: Checked, score_schema: pa.Schema) -> Statistics:
        """
        Joins input rows and scores into the output, removes itself, and returns the statistics of all rows.

        Raises:
            [`InputError`]: if the input is no longer what was checked, or cannot be written; the scores stay.
        """
        statistics = Statistics()
        changed = InputError(
            f"{source.path} changed while it was scored. Pass `overwrite=True` to begin anew; the scores of the "
            f"rows that were are in {self.path}."
        )

        def joined() -> Iterator[tuple[str, Row, Row]]:
            digest = hashlib.sha256()
            for placed, scores in itertools.zip_longest(source.rows(), self.rows()):
                if placed is None or scores is None:
                    raise changed
                place, row = placed
                digest.update(fingerprint(row, place))
                statistics.add(scores)
                yield place, row, scores
            if digest.hexdigest() != checked.sha256:
                raise changed

        writers: dict[str, Callable[..., None]] = {".parquet": _write_parquet, ".csv": _write_csv}
        write = writers.get(self.output.suffix.lower(), _write_jsonl)
        try:
            with replacing(self.output) as temporary:
                write(temporary, source, joined(), checked.schema, score_schema)
        except (pa.ArrowException, OSError, OverflowError) as error:
            raise InputError(f"{self.output} cannot be written: {error}. Its scores are in {self.path}.") from error
        self.path.unlink()
        return statistics


def partial_path(output: Path) -> Path:
    """Where the scores of an output are until all are there."""
    return output.with_name(output.name + ".partial.jsonl")


def _write_jsonl(path: Path, source: Source, rows: Iterator[tuple[str, Row, Row]], *_: None) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(to_json({**row, **scores}, place) + "\n" for place, row, scores in rows)


def _write_csv(
    path: Path, source: Source, rows: Iterator[tuple[str, Row, Row]], _: None, score_schema: pa.Schema
) -> None:
    """Texts as they are; nothing as an empty cell; what is neither text nor nothing as JSON."""

    def cell(value: Any, place: str) -> str:
        return value if isinstance(value, str) else "" if value is None else to_json(value, place)

    own = dict.fromkeys(name for _, row in source.rows() for name in row)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*own, *score_schema.names])
        writer.writeheader()
        for place, row, scores in rows:
            writer.writerow({name: cell(value, place) for name, value in {**row, **scores}.items()})


def _write_parquet(
    path: Path, source: Source, rows: Iterator[tuple[str, Row, Row]], schema: pa.Schema, score_schema: pa.Schema
) -> None:
    batches = record_batches(source.path) if source.suffix == ".parquet" else itertools.repeat(None)
    with pq.ParquetWriter(path, pa.schema([*schema, *score_schema])) as writer:
        for batch in batches:
            block = list(itertools.islice(rows, ROWS_AT_ONCE if batch is None else batch.num_rows))
            if batch is None and not block:
                return
            # Columns of Parquet go through as they are: Python has no nanoseconds.
            own = pa.Table.from_pylist([row for _, row, _ in block], schema=schema) if batch is None else batch
            scores = pa.Table.from_pylist([scores for *_, scores in block], schema=score_schema)
            columns = [*own.columns, *scores.columns]
            writer.write_table(pa.Table.from_arrays(columns, schema=pa.schema([*schema, *score_schema])))
        # A generator that checks the input at its end.
        for _ in rows:
            pass
