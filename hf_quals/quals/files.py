"""Rows of files and datasets for scoring: read one at a time, checked before a model is loaded, never lost.

Scores go line by line into `OUTPUT.partial.jsonl`; when all are there, input rows and scores are joined into the
output under a temporary name, which is renamed. A kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError


FORMATS = (".jsonl", ".json", ".csv", ".parquet")
_ROWS_AT_ONCE = 256

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """
    Where documents and summaries come from.

    Args:
        path (`str`): A `.jsonl` (or `.json`, of lines), `.csv` or `.parquet` file, or a dataset folder or Hub id for
            `load_dataset`.
        document_column (`str`): The column of documents.
        summary_column (`str`): The column of summaries.
        split (`str`): The split of a dataset; files have none.
    """

    path: str
    document_column: str
    summary_column: str
    split: str = "train"

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yields where a row stands (`"file.csv, line 3"`) and the row; blank lines are no rows."""
        suffix = Path(self.path).suffix
        if suffix in FORMATS:
            if not Path(self.path).is_file():
                raise InputError(f"{self.path}: no such file.")
            return {".csv": _csv_rows, ".parquet": _parquet_rows}.get(suffix, _jsonl_rows)(self.path)
        if Path(self.path).is_file():
            raise InputError(f"{self.path}: expected a file that ends in {', '.join(FORMATS)}.")
        return _dataset_rows(self.path, self.split)

    def texts(self, row: Row) -> tuple[str, str]:
        """Document and summary of a row."""
        return row[self.document_column], row[self.summary_column]


def _jsonl_rows(path: str) -> Iterator[tuple[str, Row]]:
    for place, text in _lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{place}: invalid JSON: {error.msg} at character {error.pos + 1}.") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
            raise InputError(f"{place}: JSON that cannot be read: {error}.") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected a JSON object, got {type(row).__name__}.")
        yield place, row


def _csv_rows(path: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((text for _, text in _lines(path)), strict=True)
    start = 1
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path}, line 1: two columns have the same name: {', '.join(header)}.")
        while True:
            start = reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(f"{path}, line {start}: {len(cells)} cells, but the header has {len(header)}.")
            yield f"{path}, line {start}", dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: {error}.") from error


def _parquet_rows(path: str) -> Iterator[tuple[str, Row]]:
    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a Parquet file: {error}") from error


def _dataset_rows(path: str, split: str) -> Iterator[tuple[str, Row]]:
    from datasets import load_dataset

    try:
        dataset = iter(load_dataset(path, split=split, streaming=True))
    except Exception as error:  # what a dataset raises depends on its builder, here and below
        raise InputError(f"{path}: neither a file nor a dataset that can be loaded: {error}") from error
    for number in itertools.count(1):
        place = f"{path} ({split}), row {number}"
        try:
            row = next(dataset, None)
        except Exception as error:
            raise InputError(f"{place}: cannot be read: {error}") from error
        if row is None:
            return
        yield place, row


def _lines(path: str) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number}"
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{place}: not UTF-8: byte {line[error.start]:#04x} at {error.start + 1}.") from error
            yield place, text.removeprefix("\ufeff") if number == 1 else text


@dataclass(frozen=True)
class Checked:
    """What the check of a source found: the number of rows, their SHA-256, and their Arrow schema if needed."""

    num_rows: int
    sha256: str
    schema: pa.Schema | None


def check(source: Source, score_columns: tuple[str, ...], output: Path) -> Checked:
    """
    Reads all rows once, one at a time.

    Args:
        source (`Source`): What to read.
        score_columns (`tuple[str, ...]`): Columns the output adds.
        output (`Path`): The output; its format must be able to hold the rows.

    Raises:
        [`InputError`]: if there are no rows, or for the first row that lacks a column, has an empty text or one that
            is not a string, has a column named like one of the output, or cannot be written; or if the output would
            replace the input.
    """
    place = Path(source.path).resolve()
    if output.resolve() == place or (place.is_dir() and place in output.resolve().parents):
        raise InputError(f"{output} would become a part of the input {source.path}. Name another --output.")
    to_parquet = output.suffix == ".parquet"
    digest = hashlib.sha256()
    schema: pa.Schema | None = None
    num_rows = 0
    rows = source.rows()
    while block := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        for where, row in block:
            _check_row(source, where, row, score_columns)
            digest.update(_fingerprint(row, where))
            if not to_parquet:
                _json(row, where)
        num_rows += len(block)
        if to_parquet and Path(source.path).suffix != ".parquet":
            try:
                found = _inferred_schema([row for _, row in block])
                schema = found if schema is None else pa.unify_schemas([schema, found], promote_options="permissive")
                pq.ParquetWriter(pa.BufferOutputStream(), schema).close()
            except (pa.ArrowException, OverflowError) as error:
                raise InputError(
                    f"{source.path}: rows that do not fit into Parquet: {error}. Write .jsonl."
                ) from error
    if not num_rows:
        raise InputError(f"{source.path}: no rows.")
    if to_parquet and schema is None:
        schema = pq.read_schema(source.path).remove_metadata()
    return Checked(num_rows, digest.hexdigest(), schema)


def _check_row(source: Source, place: str, row: Row, score_columns: tuple[str, ...]) -> None:
    for column in (source.document_column, source.summary_column):
        if column not in row:
            raise InputError(f"{place}: no column {column!r}. The row has {', '.join(map(repr, row)) or 'none'}.")
        if not isinstance(row[column], str):
            raise InputError(f"{place}: column {column!r} must hold text, got {type(row[column]).__name__}.")
        if not row[column].strip():
            raise InputError(f"{place}: column {column!r} is empty.")
    for column in score_columns:
        if column in row:
            raise InputError(f"{place}: the column {column!r} would be overwritten. Rename it.")


def _inferred_schema(rows: list[Row]) -> pa.Schema:
    # Arrow looks for columns in the first row only.
    columns: Row = {name: None for row in rows for name in row}
    return pa.Table.from_pylist([columns | row for row in rows]).schema


def _fingerprint(row: Row, place: str) -> bytes:
    """What tells a row from others, whatever its columns hold."""
    try:
        return json.dumps(row, ensure_ascii=False, default=repr).encode() + b"\n"
    except UnicodeEncodeError as error:
        column = next(name for name in row if _has_surrogate(name) or _has_surrogate(row[name]))
        raise InputError(
            f"{place}: column {column!r} holds half of a surrogate pair, which is no character."
        ) from error


def _has_surrogate(value: Any) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in json.dumps(value, ensure_ascii=False, default=repr))


def _json(row: Row, place: str) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, (datetime.date, datetime.time)):
            return value.isoformat()
        raise InputError(f"{place}: JSON cannot hold a value of type {type(value).__name__}. Write Parquet.")

    return json.dumps(row, ensure_ascii=False, default=plain)


@dataclass
class Statistics:
    """Of all scored rows: how many, the sum of the scores, how many have none, how many were truncated."""

    num_rows: int = 0
    num_unscored: int = 0
    num_documents_truncated: int = 0
    num_summaries_truncated: int = 0
    total: float = 0.0

    def add(self, scores: Row) -> None:
        self.num_rows += 1
        self.num_unscored += scores["quals"] is None
        self.total += scores["quals"] or 0.0
        self.num_documents_truncated += scores["quals_document_truncated"]
        self.num_summaries_truncated += scores["quals_summary_truncated"]

    @property
    def mean(self) -> float:
        """Mean over the rows that have a score; NaN if none has."""
        num_scored = self.num_rows - self.num_unscored
        return self.total / num_scored if num_scored else math.nan


class RowScores:
    """
    Scores as they come: a header line that tells what they are scores of, then one line a row, in order.

    Args:
        path (`Path`): The file of JSON lines.
        header (`dict`): Input and settings; a run goes on only from scores of the same.
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

    def _check_header(self, found: Row) -> None:
        differing = [
            f"{name}: {found.get(name)!r} then, {self.header.get(name)!r} now"
            for name in {**self.header, **found}
            if found.get(name) != self.header.get(name)
        ]
        if differing:
            raise InputError(
                f"{self.path} was begun with something else ({'; '.join(differing)}). Go on with the same, or pass "
                "--overwrite to begin anew."
            )

    def append(self, scores: list[Row]) -> None:
        """Adds rows; on return they are on the disk."""
        with open(self.path, "a", encoding="utf-8") as file:
            _write_through(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in scores))

    def rows(self) -> Iterator[Row]:
        with open(self.path, encoding="utf-8") as file:
            next(file)
            yield from map(json.loads, file)


class PartialScores(RowScores):
    """
    Scores on their way to an output.

    Args:
        output (`Path`): The file that the finished scores go to.
        header (`dict`): Input and settings; a run goes on only from scores of the same.
    """

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
            f"{source.path} changed while it was scored. Pass --overwrite to begin anew; the scores of the rows that "
            f"were are in {self.path}."
        )

        def joined() -> Iterator[tuple[str, Row]]:
            digest = hashlib.sha256()
            for placed, scores in itertools.zip_longest(source.rows(), self.rows()):
                if placed is None or scores is None:
                    raise changed
                place, row = placed
                digest.update(_fingerprint(row, place))
                statistics.add(scores)
                yield place, {**row, **scores}
            if digest.hexdigest() != checked.sha256:
                raise changed

        temporary = self.output.with_name(self.output.name + ".tmp")
        write: Callable[..., None] = _write_parquet if self.output.suffix == ".parquet" else _write_jsonl
        schema = None if checked.schema is None else pa.schema([*checked.schema, *score_schema])
        try:
            write(temporary, joined(), schema)
        except (pa.ArrowException, OSError) as error:
            temporary.unlink(missing_ok=True)
            raise InputError(f"{self.output} cannot be written: {error}. Its scores are in {self.path}.") from error
        except InputError:
            temporary.unlink(missing_ok=True)
            raise
        os.replace(temporary, self.output)
        self.path.unlink()
        return statistics


def _write_jsonl(path: Path, rows: Iterator[tuple[str, Row]], schema: None) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for place, row in rows:
            file.write(_json(row, place) + "\n")
        _write_through(file, "")


def _write_parquet(path: Path, rows: Iterator[tuple[str, Row]], schema: pa.Schema) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        while block := [row for _, row in itertools.islice(rows, _ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(block, schema=schema))
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _write_through(file, text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
