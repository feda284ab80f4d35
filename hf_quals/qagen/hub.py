"""Files beside a model, in a folder or on the Hub. Imports no torch: what needs a file only need not wait for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
from transformers.utils import cached_file, logging


logger = logging.get_logger(__name__)


def hub_options(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those of a model's arguments that say where on the Hub it is."""
    return {key: model_kwargs[key] for key in ("revision", "token", "cache_dir") if key in model_kwargs}


def find_file(name_or_path: str | os.PathLike, file: str, **model_kwargs: Any) -> str | None:
    """
    Path of `file` in a folder or Hub repository, `None` if that does not have it.

    Warns where a repository is cached, whether it has the file is not, and the Hub cannot be asked.
    """
    if Path(name_or_path).is_dir():
        path = Path(name_or_path, file)
        return str(path) if path.is_file() else None
    name, options = str(name_or_path), hub_options(model_kwargs)
    found = cached_file(
        name,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
        **options,
    )
    if found is None and _is_unknown(name, file, options.get("cache_dir"), options.get("revision")):
        logger.warning_once(
            f"Whether {name} has a {file} is not known without the Hub, which cannot be asked now: it is taken to "
            "have none, though its other files are cached. Load it once with the Hub in reach."
        )
    return found


class Source(NamedTuple):
    """
    Where a model or an adapter is.

    Args:
        name_or_path (`str`): A folder or Hub id.
        options (`dict[str, Any]`): Its `revision`, `token` and `cache_dir` on the Hub, as far as they are given.
    """

    name_or_path: str
    options: dict[str, Any]

    def find(self, file: str) -> str | None:
        """Path of one of its files, `None` if it does not have it."""
        return find_file(self.name_or_path, file, **self.options)


def _is_unknown(name: str, file: str, cache_dir: str | None, revision: str | None) -> bool:
    """Of a repository whose model or adapter is cached: whether it has the file."""
    where: Any = {"cache_dir": cache_dir, "revision": revision}
    configs = (try_to_load_from_cache(name, config, **where) for config in ("config.json", "adapter_config.json"))
    return any(isinstance(config, str) for config in configs) and (
        try_to_load_from_cache(name, file, **where) is not _CACHED_NO_EXIST
    )
