"""What commands that report share: tables in Markdown, and files that are replaced only when asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .errors import InputError


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_left: int = 1) -> str:
    """
    A table in Markdown that is aligned as plain text, too.

    Args:
        header (`Sequence[str]`): The names of the columns.
        rows (`Sequence[Sequence[str]]`): As many cells a row.
        num_left (`int`, *optional*, defaults to 1): How many columns are aligned to the left, the others to the right.
    """
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if number < num_left else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join([*map(str.ljust, line[:num_left], widths), *map(str.rjust, line[num_left:], widths[num_left:])])
        + " |"
        for line in lines
    )


def check_suffix(option: str, path: Path, suffixes: tuple[str, ...]) -> None:
    """Raises [`InputError`] for a file whose suffix is none of these."""
    if path.suffix not in suffixes:
        raise InputError(f"{option} must end in {' or '.join(suffixes)}, got {path}.")


def check_outputs(outputs: Iterable[Path], inputs: Sequence[Path] = (), *, overwrite: bool) -> None:
    """Raises [`InputError`] for the first output that is an input, or that exists unless it may be replaced."""
    for path in outputs:
        if path.resolve() in (given.resolve() for given in inputs):
            raise InputError(f"{path} is an input. Name another output.")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists. Pass --overwrite to replace it.")


def write_files(files: dict[Path, bytes]) -> None:
    """Writes all files under temporary names, then renames them."""
    temporary = {path: path.with_name(path.name + ".tmp") for path in files}
    for path, content in files.items():
        temporary[path].write_bytes(content)
    for path in files:
        os.replace(temporary[path], path)
