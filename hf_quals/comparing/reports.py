"""Files that commands write: refused before the work begins, and replaced only when asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from ..files import replacing


def check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raises [`InputError`] for a file whose suffix is none of these."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path} must end in {' or '.join(suffixes)}.")


def check_folder(path: Path) -> None:
    """Raises [`InputError`] for a file that cannot be put where it is to be."""
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"{path}: the folder {path.parent} does not exist or cannot be written to.")


def check_outputs(outputs: Iterable[Path], inputs: Sequence[Path] = (), *, overwrite: bool) -> None:
    """Raises [`InputError`] for the first output that is an input, or that exists unless it may be replaced."""
    for path in outputs:
        if path.resolve() in (given.resolve() for given in inputs):
            raise InputError(f"{path} is an input. Name another output.")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists. Pass `overwrite=True` to replace it.")


def write_files(files: dict[Path, bytes]) -> None:
    """Writes all files under temporary names, then renames them."""
    with contextlib.ExitStack() as stack:
        for path, content in files.items():
            stack.enter_context(replacing(path)).write_bytes(content)
