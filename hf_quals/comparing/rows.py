"""Rows of files and datasets: read one at a time, with where each stands, and checked before a model is loaded.

Files are not read by `datasets`, whose CSV builder takes `007` for 7.0 and `NA` for nothing, and whose JSON builder
names no line of the file in its errors.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import itertools
import json
import reprlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError


FORMATS = (".jsonl", ".json", ".csv", ".parquet")
ROWS_AT_ONCE = 256

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """
    Where documents and summaries come from.

    Args:
        path (`str`): A `.jsonl` (or `.json`, of lines), `.csv` or `.parquet` file, or a dataset folder or Hub id for
            `load_dataset`.
        document_column (`str`, *optional*, defaults to `"document"`): The column of documents.
        summary_column (`str`, *optional*, defaults to `"summary"`): The column of summaries.
        split (`str`, *optional*, defaults to `"train"`): The split of a dataset; files have none.
    """

    path: str
    document_column: str = "document"
    summary_column: str = "summary"
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

    def check_texts(self, place: str, row: Row) -> None:
        """Raises [`InputError`] for a row without document or summary."""
        for column in (self.document_column, self.summary_column):
            check_text(place, row, column)


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
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
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
    Reads all rows once, one at a time, for an output that must be able to hold them and adds `score_columns`.

    Raises:
        [`InputError`]: if there are no rows, or for the first row that lacks a column, has an empty text or one that
            is not a string, has a column named like one of the output, or cannot be written; or if the output would
            replace the input.
    """
    given = Path(source.path).resolve()
    if output.resolve() == given or (given.is_dir() and given in output.resolve().parents):
        raise InputError(f"{output} would become a part of the input {source.path}. Name another output.")
    to_parquet = output.suffix == ".parquet"
    digest = hashlib.sha256()
    schema: pa.Schema | None = None
    num_rows = 0
    rows = source.rows()
    while block := list(itertools.islice(rows, ROWS_AT_ONCE)):
        for place, row in block:
            source.check_texts(place, row)
            for column in score_columns:
                if column in row:
                    raise InputError(f"{place}: the column {column!r} would be overwritten. Rename it.")
            digest.update(fingerprint(row, place))
            if not to_parquet:
                to_json(row, place)
        num_rows += len(block)
        if to_parquet and Path(source.path).suffix != ".parquet":
            try:
                of_block = _inferred_schema([row for _, row in block])
                schema = pa.unify_schemas([schema or of_block, of_block], promote_options="permissive")
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


def check_text(place: str, row: Row, column: str) -> None:
    """Raises [`InputError`] for a row that lacks a column, or holds no text in it, or only white space."""
    if column not in row:
        raise InputError(f"{place}: no column {column!r}. The row has {', '.join(map(repr, row)) or 'none'}.")
    if not isinstance(row[column], str) or not row[column].strip():
        raise InputError(f"{place}: column {column!r} must hold text, got {reprlib.repr(row[column])}.")
    fingerprint({column: row[column]}, place)


def _inferred_schema(rows: list[Row]) -> pa.Schema:
    # Arrow looks for columns in the first row only.
    columns: Row = {name: None for row in rows for name in row}
    return pa.Table.from_pylist([columns | row for row in rows]).schema


def fingerprint(row: Row, place: str) -> bytes:
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


def to_json(row: Row, place: str) -> str:
    """The row as a line of JSON, dates and times in ISO 8601."""

    def plain(value: Any) -> Any:
        if isinstance(value, (datetime.date, datetime.time)):
            return value.isoformat()
        raise InputError(f"{place}: JSON cannot hold a value of type {type(value).__name__}. Write Parquet.")

    return json.dumps(row, ensure_ascii=False, default=plain)
