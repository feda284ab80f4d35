"""Scores on their way to a file, never lost.

They go line by line into `OUTPUT.partial.jsonl`; when all are there, input rows and scores are joined into the output
under a temporary name, which is renamed. A kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError
from ..files import replacing
from ..quals.columns import Statistics
from .rows import ROWS_AT_ONCE, Checked, Row, Source, fingerprint, to_json


class RowScores:
    """
    Scores as they come, in a file of JSON lines: a header that tells what they are scores of, input and settings, then
    one line a row, in order. A run goes on only from scores of the same header.
    """

    def __init__(self, path: Path, header: Row):
        self.path = path
        self.header = header

    def start(self) -> None:
        """Begins anew."""
        with open(self.path, "w", encoding="utf-8") as file:
            _write_through(file, json.dumps({"header": self.header}) + "\n")

    def resume(self) -> int:
        """
        Drops what a kill left of a line half written.

        Returns:
            `int`: how many rows are scored.

        Raises:
            [`InputError`]: if the scores are of another input or other settings.
        """
        num_lines, end = 0, 0
        with open(self.path, "r+b") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                if number == 0:
                    self._check_header(json.loads(line)["header"])
                num_lines, end = number + 1, end + len(line)
            file.truncate(end)
        if num_lines == 0:
            self.start()
            return 0
        return num_lines - 1

    def _check_header(self, earlier: Row) -> None:
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

    def append(self, scores: list[Row]) -> None:
        """Adds rows; on return they are on the disk."""
        with open(self.path, "a", encoding="utf-8") as file:
            _write_through(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scores))

    def rows(self) -> Iterator[Row]:
        """Yields the scores of each row."""
        with open(self.path, encoding="utf-8") as file:
            next(file)
            yield from map(json.loads, file)


class PartialScores(RowScores):
    """Scores on their way to an output, the file that they go to when all are there."""

    def __init__(self, output: Path, header: Row):
        super().__init__(output.with_name(output.name + ".partial.jsonl"), header)
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

        def joined() -> Iterator[tuple[str, Row]]:
            digest = hashlib.sha256()
            for placed, scores in itertools.zip_longest(source.rows(), self.rows()):
                if placed is None or scores is None:
                    raise changed
                place, row = placed
                digest.update(fingerprint(row, place))
                statistics.add(scores)
                yield place, {**row, **scores}
            if digest.hexdigest() != checked.sha256:
                raise changed

        write: Callable[..., None] = _write_parquet if self.output.suffix == ".parquet" else _write_jsonl
        schema = None if checked.schema is None else pa.schema([*checked.schema, *score_schema])
        try:
            with replacing(self.output) as temporary:
                write(temporary, joined(), schema)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.output} cannot be written: {error}. Its scores are in {self.path}.") from error
        self.path.unlink()
        return statistics


def _write_jsonl(path: Path, rows: Iterator[tuple[str, Row]], schema: None) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(to_json(row, place) + "\n" for place, row in rows)


def _write_parquet(path: Path, rows: Iterator[tuple[str, Row]], schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        while block := [row for _, row in itertools.islice(rows, ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(block, schema=schema))


def _write_through(file, text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
