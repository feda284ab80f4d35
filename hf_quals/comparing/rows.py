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
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import InputError


FORMATS = (".jsonl", ".json", ".csv", ".parquet", ".tsv")
ROWS_AT_ONCE = 256

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """
    Where documents and summaries come from.

    Args:
        path (`str`): A `.jsonl`, `.json` (of lines, or an array), `.csv`, `.tsv` or `.parquet` file, or a dataset
            folder or Hub id for `load_dataset`. Cells of CSV are separated by what separates the header's: commas,
            or semicolons or tabs where there is none.
        document_column (`str`, *optional*, defaults to `"document"`): The column of documents.
        summary_column (`str`, *optional*, defaults to `"summary"`): The column of summaries.
        split (`str`, *optional*, defaults to `"train"`): The split of a dataset; files have none.
    """

    path: str
    document_column: str = "document"
    summary_column: str = "summary"
    split: str = "train"

    @property
    def suffix(self) -> str:
        """What the file's name ends in, which tells its format, in small letters."""
        return Path(self.path).suffix.lower()

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yields where a row stands (`"file.csv, line 3"`) and the row; blank lines are no rows."""
        if self.path == "-":
            raise InputError(
                "-: standard input is read only once, but rows are read twice, all of them before the first is "
                "scored. Save them in a file, and name it."
            )
        if self.suffix in FORMATS:
            if not Path(self.path).is_file():
                raise InputError(f"{self.path}: no such file.")
            readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".parquet": _parquet_rows, ".json": _json_rows}
            return readers.get(self.suffix, _jsonl_rows)(self.path)
        if Path(self.path).is_file():
            raise InputError(f"{self.path}: expected a file that ends in {', '.join(FORMATS)}.")
        return _dataset_rows(self.path, self.split)

    def texts(self, row: Row) -> tuple[str, str]:
        """Document and summary of a row."""
        return row[self.document_column], row[self.summary_column]

    def check_texts(self, place: str, row: Row) -> None:
        """Raises [`InputError`] for a row without document or summary; a summary may be blank, and is not scored."""
        check_text(place, row, self.document_column)
        check_text(place, row, self.summary_column, may_be_blank=True)


def _jsonl_rows(path: str) -> Iterator[tuple[str, Row]]:
    for place, text in _lines(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise InputError(f"{place}: invalid JSON: {error.msg} at character {error.pos + 1}.") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
            raise InputError(f"{place}: JSON that cannot be read: {error}.") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected a JSON object, got {type(row).__name__}.")
        yield place, row


def _json_rows(path: str) -> Iterator[tuple[str, Row]]:
    """The rows of an array, or of lines."""
    if not _begins_with(path, "["):
        yield from _jsonl_rows(path)
        return
    text = "".join(text for _, text in _lines(path))
    try:
        rows = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: invalid JSON: {error.msg} at character {error.colno}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: JSON that cannot be read: {error}.") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, element {number}: expected a JSON object, got {type(row).__name__}.")
        yield f"{path}, element {number}", row


def _begins_with(path: str, mark: str) -> bool:
    """Whether the first character that is no white space is this one."""
    return next((text.lstrip() for _, text in _lines(path) if text.strip()), "").startswith(mark)


def unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    """An object of JSON, for `object_pairs_hook`; a `ValueError` for a key that occurs twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        (key, count), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} occurs {count} times in one object")
    return row


def _csv_rows(path: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((text for _, text in _lines(path)), strict=True, delimiter=_delimiter(path))
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


def _delimiter(path: str) -> str:
    """What separates cells: a tab in `.tsv`, else what the header has, a comma above all."""
    header = next((text for _, text in _lines(path)), "")
    marks = "\t" if path.lower().endswith(".tsv") else ",;\t"
    return next((mark for mark in marks if mark in header), marks[0])


def _parquet_rows(path: str) -> Iterator[tuple[str, Row]]:
    number = 0
    for batch in record_batches(path):
        columns = {
            name: _python_values(f"{path}, column {name!r}", number, column)
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        for values in zip(*columns.values(), strict=True):
            number += 1
            yield f"{path}, row {number}", dict(zip(columns, values, strict=True))


def record_batches(path: str) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a Parquet file, a few at a time."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise InputError(f"{path}: two columns have the same name: {', '.join(names)}.")
            yield from file.iter_batches(batch_size=ROWS_AT_ONCE)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file, or damaged: {error}") from error


def _python_values(place: str, start: int, column: pa.Array) -> list[Any]:
    """The values of a column as Python's types. Times are text, since Python's have no nanoseconds."""
    try:
        readable = _without_times(column.type)
        return (column if readable == column.type else column.cast(readable)).to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:  # no UTF-8; no date of Python's; a field twice
        rows = f"rows {start + 1} to {start + len(column)}"
        raise InputError(f"{place}: a value in {rows} cannot be read: {error}.") from error


def _without_times(of_type: pa.DataType) -> pa.DataType:
    if of_type == pa.time64("ns"):
        return pa.string()
    if isinstance(of_type, pa.ListType | pa.LargeListType):
        return pa.list_(_without_times(of_type.value_type))
    if isinstance(of_type, pa.StructType):
        return pa.struct([field.with_type(_without_times(field.type)) for field in of_type])
    return of_type


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
    """Yields where each line stands, and the line. It ends as in text files: in LF, CR LF or CR."""
    with open(path, "rb") as file:
        lines = (line for part in file for line in part.splitlines(keepends=True))
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"{place}: not UTF-8: byte {line[error.start]:#04x} at {error.start + 1}.") from error
            yield place, text.removeprefix("\ufeff") if number == 1 else text


@dataclass(frozen=True)
class Checked:
    """What the check of a source found: a digest of each row, the SHA-256 of all, and their Arrow schema if needed."""

    digests: array
    sha256: str
    schema: pa.Schema | None


def check(source: Source, score_columns: tuple[str, ...], output: Path, written: Iterable[Path] = ()) -> Checked:
    """
    Reads all rows once, one at a time, for an output that must be able to hold them and adds `score_columns`. What is
    `written` beside the output must not be the input either.

    Raises:
        [`InputError`]: if there are no rows, or for the first row that lacks a column, has no text in it or an empty
            document, has a column named like one of the output, or cannot be written; or if the output would replace
            the input.
    """
    check_apart(Path(source.path), (output, *written))
    to_parquet = output.suffix.lower() == ".parquet"
    digest = hashlib.sha256()
    digests = array("Q")
    for place, row in source.rows():
        source.check_texts(place, row)
        for column in score_columns:
            if column in row:
                raise InputError(f"{place}: the column {column!r} would be overwritten. Rename it.")
        of_row = fingerprint(row, place)
        digest.update(of_row)
        digests.append(row_digest(of_row))
        if not to_parquet:
            to_json(row, place)
    if not digests:
        raise InputError(f"{source.path}: no rows.")
    return Checked(digests, digest.hexdigest(), _parquet_schema(source) if to_parquet else None)


def check_apart(given: Path, written: Iterable[Path]) -> None:
    """Raises [`InputError`] if a file or folder that was given is one that will be written, or holds it."""
    for path in written:
        is_given = path.resolve() == given.resolve() or (path.exists() and given.exists() and path.samefile(given))
        if is_given or (given.is_dir() and given.resolve() in path.resolve().parents):
            raise InputError(f"{path} would become a part of the input {given}. Name another output.")


def _parquet_schema(source: Source) -> pa.Schema:
    """The columns of a source in Parquet, of which all its rows can be written."""
    if source.suffix == ".parquet":
        return pq.read_schema(source.path).remove_metadata()
    try:
        schema: pa.Schema | None = None
        for block in _blocks(source):
            of_block = _inferred_schema(block)
            schema = of_block if schema is None else pa.unify_schemas([schema, of_block], promote_options="permissive")
        assert schema is not None
        pq.ParquetWriter(pa.BufferOutputStream(), schema).close()
        # Where blocks differ, the type of all may not hold every value: a long integer beside a fraction.
        for block in _blocks(source):
            pa.Table.from_pylist(block, schema=schema)
    except (pa.ArrowException, OverflowError) as error:
        raise InputError(f"{source.path}: rows that do not fit into Parquet: {error}. Write .jsonl.") from error
    return schema


def _blocks(source: Source) -> Iterator[list[Row]]:
    rows = (row for _, row in source.rows())
    while block := list(itertools.islice(rows, ROWS_AT_ONCE)):
        yield block


def check_text(place: str, row: Row, column: str, *, may_be_blank: bool = False) -> None:
    """Raises [`InputError`] for a row that lacks a column, or has no text in it, or a blank one that may not be."""
    if column not in row:
        raise InputError(f"{place}: no column {column!r}. The row has {', '.join(map(repr, row)) or 'none'}.")
    if not isinstance(row[column], str) or not (may_be_blank or row[column].strip()):
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


def row_digest(of_row: bytes) -> int:
    """What tells a row from others, in 8 bytes."""
    return int.from_bytes(hashlib.sha256(of_row).digest()[:8], "big")


def _has_surrogate(value: Any) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in json.dumps(value, ensure_ascii=False, default=repr))


def to_json(row: Any, place: str) -> str:
    """The row, or a value of it, as a line of JSON, dates and times in ISO 8601."""

    def plain(value: Any) -> Any:
        if isinstance(value, (datetime.date, datetime.time)):
            return value.isoformat()
        raise InputError(f"{place}: JSON cannot hold a value of type {type(value).__name__}. Write Parquet.")

    try:
        return json.dumps(row, ensure_ascii=False, default=plain, allow_nan=False)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{place}: JSON cannot hold NaN or an infinite number. Write Parquet.") from error
