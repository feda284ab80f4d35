"""Files beside a model, in a folder or on the Hub. Imports no torch: what needs a file only need not wait for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file


def hub_options(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those of a model's arguments that say where on the Hub it is."""
    return {key: model_kwargs[key] for key in ("revision", "token", "cache_dir") if key in model_kwargs}


def find_file(name_or_path: str | os.PathLike, file: str, **model_kwargs: Any) -> str | None:
    """Path of `file` in a folder or Hub repository, `None` if that does not have it."""
    if Path(name_or_path).is_dir():
        path = Path(name_or_path, file)
        return str(path) if path.is_file() else None
    return cached_file(
        str(name_or_path),
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
        **hub_options(model_kwargs),
    )
