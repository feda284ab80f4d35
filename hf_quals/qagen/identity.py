"""What tells a model from others that lie at the same path: a digest of its files, or of its weights in memory."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.utils.hub import extract_commit_hash

from .hub import Source
from .loading import base_and_adapter


if TYPE_CHECKING:
    from .template import QATemplate

# What a model is loaded from: weights, configurations, tokenizers and templates. Cards and logs are not.
_SUFFIXES = (".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt")
_NUM_DIGITS = 16


def weights_identity(name_or_path: str | os.PathLike | None = None, adapter: str | os.PathLike | None = None) -> str:
    """
    What the files of a model say it is, wherever they lie: they are read, and nothing is loaded. Of a model on the Hub
    it is the commit. The base of the default model is prepared where it is not there yet.

    Args:
        name_or_path (`str` or `os.PathLike`, *optional*): A model or an adapter; the default model if left out.
        adapter (`str` or `os.PathLike`, *optional*): An adapter to put on the model.

    Returns:
        `str`: another one for other weights, configurations, tokenizers or templates, of the base or the adapter.

    Raises:
        `OSError`: if there is no such model.
    """
    digest = hashlib.sha256()
    for source in base_and_adapter(name_or_path, adapter):
        digest.update(b"none" if source is None else _identity(source).encode())
    return digest.hexdigest()[:_NUM_DIGITS]


def _identity(source: Source) -> str:
    folder = Path(source.name_or_path)
    if not folder.is_dir():
        config = source.find("config.json") or source.find("adapter_config.json")
        commit = extract_commit_hash(config, None)
        if commit is None:
            raise OSError(f"{source.name_or_path} is neither a folder nor a model of the Hub that can be reached.")
        return commit
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _SUFFIXES and path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def identity_in_memory(model: torch.nn.Module, template: QATemplate | None = None) -> str:
    """What a loaded model is: another one for other weights, or another way to write pairs."""
    digest = hashlib.sha256(json.dumps(template and asdict(template)).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_NUM_DIGITS]
