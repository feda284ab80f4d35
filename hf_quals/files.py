"""How results are written: by a single process, whole or not at all, NaN as null, tables in Markdown."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import InputError


def lock_path(path: Path) -> Path:
    """The file beside `path` that is there while a process writes it."""
    return path.with_name(path.name + ".lock")


def brief(value: Any) -> str:
    """A value as text, of a long list its length."""
    return f"({len(value)})" if isinstance(value, list) and len(value) > 4 else str(value)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Keeps other processes from writing `path` until the block ends. A kill ends it, too.

    Raises:
        [`InputError`]: if another process writes it.
    """
    # Here, as all that the command does not need to start.
    from filelock import FileLock, Timeout

    lock = FileLock(lock_path(path))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Another process is writing {path}: it has locked {lock_path(path)}. Wait until it ends, or stop it; "
            "then go on."
        ) from error
    try:
        yield
    finally:
        # Before the lock is given up: what another process has locked by then must stay.
        lock_path(path).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Yields a temporary name, for a file that is renamed to `path` when the block ends. A block that raises leaves
    `path` as it was, and nothing beside it. The temporary file is a new one: nothing that lies there is written into.

    Example:

    ```python
    >>> with replacing(Path("scores.parquet")) as temporary:
    ...     pq.write_table(table, temporary)
    ```
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is there whole or not at all; text as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def read_json_lines(path: str | os.PathLike) -> list[Any]:
    """The values of a file of JSON lines, which end at newlines alone: texts may hold other marks that end a line."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]


def read_kept_lines(path: Path) -> list[Any]:
    """The values of a file that lines are appended to, none if it is not there; what a kill left of its last goes."""
    if not path.exists():
        return []
    whole, newline, rest = path.read_bytes().rpartition(b"\n")
    if rest:
        write_atomically(path, whole + newline)
    return read_json_lines(path)


def nan_to_none(value: Any) -> Any:
    """The value as JSON's types: `None` for each NaN in it, which JSON does not know, and lists for tuples."""
    if isinstance(value, Mapping):
        return {name: nan_to_none(element) for name, element in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(element) for element in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# A spreadsheet takes a cell that begins so for a formula: it shows an error in its place, or runs it. The wide marks
# are those of Japanese keyboards.
_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


def as_cell(text: str) -> str:
    """A text as a cell of a CSV file that people open: with an apostrophe in front if it would be a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def as_markdown(text: str) -> str:
    """
    A text, in one line, that Markdown shows as it is: its pipes end no cell, and what would be HTML, a link or an
    image is none. Other marks stay, so that tables can be read on a terminal.
    """
    text = " ".join(text.splitlines())
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    # A backslash before what is escaped would undo it.
    text = re.sub(r"(\\*)\|", r"\1\1\\|", text)
    return re.sub(r"\](?=[(\[])", "&#93;", text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """A table in Markdown, aligned as plain text, too: `num_left` columns to the left, the others to the right."""
    lines = [[as_markdown(cell) for cell in line] for line in (header, *rows)]
    # A rule that aligns to the right has two characters at least.
    widths = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if number < num_left else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join([*map(str.ljust, line[:num_left], widths), *map(str.rjust, line[num_left:], widths[num_left:])])
        + " |"
        for line in lines
    )
