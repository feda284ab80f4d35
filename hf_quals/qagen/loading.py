"""Where a QAGen comes from: its weights, on a device and in a type that suits it, and how it writes pairs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from ..errors import InputError
from .adapters import merge_adapter, shown
from .default import ADAPTER_FOLDER, BASE_MODEL_ID, default_base_model
from .hub import Source, find_file, hub_options
from .template import QUESTION_SEP_ANSWER, TEMPLATE_FILE, QATemplate


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(
    name_or_path: str | os.PathLike | None = None,
    *,
    adapter: str | os.PathLike | None = None,
    template: QATemplate | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    **model_kwargs: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, QATemplate]:
    """Model, tokenizer and template; arguments and errors are those of [`QAGenModel.from_pretrained`]."""
    device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype, device)
    base, on_base = base_and_adapter(name_or_path, adapter, **model_kwargs)
    with _naming(f"The configuration of {base.name_or_path}"):
        config = AutoConfig.from_pretrained(base.name_or_path, **base.options)
    # As PEFT does: an adapter that was trained with tokens of its own is saved with them.
    source = on_base if on_base is not None and on_base.find("tokenizer_config.json") else base
    with _naming(f"The tokenizer of {source.name_or_path}"):
        tokenizer = AutoTokenizer.from_pretrained(source.name_or_path, **source.options)
    if template is None:
        sources = [source for source in (on_base, base) if source is not None]
        template = _find_template(sources, config.is_encoder_decoder, tokenizer)
    # Adapters are merged in float32: rounding base and update apart loses part of the update.
    load_dtype = torch_dtype if on_base is None else torch.float32
    model_kwargs = {key: value for key, value in model_kwargs.items() if key != "revision"} | base.options
    model = _load_weights(base.name_or_path, config.is_encoder_decoder, dtype=load_dtype, **model_kwargs)
    if on_base is not None:
        with _naming(f"The adapter {on_base.name_or_path}"):
            model = merge_adapter(model, on_base.name_or_path, **on_base.options)
        _cast_weights(model, torch_dtype)
    model.to(device)  # type: ignore[arg-type]
    return model, tokenizer, template


def _cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """
    To the type, as Transformers loads them: without the layers that a model keeps in float32 (T5's `wo` overflows in
    float16), and without buffers (frequencies of rotary positions are told apart in float32 only).
    """
    # Patterns of names, found anywhere in them.
    in_float32 = [pattern.replace("*", ".*") for pattern in model._get_dtype_plan(dtype)]
    for name, parameter in model.named_parameters():
        if not any(re.search(pattern, name) for pattern in in_float32):
            parameter.data = parameter.data.to(dtype)


def _load_weights(name_or_path: str, is_encoder_decoder: bool, **model_kwargs: Any) -> PreTrainedModel:
    """
    The model with every weight from its files, and nothing in them left over.

    Raises:
        `InputError`: if weights are missing (they would be random), left over, of other shapes, or not finite.
    """
    auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    file = _weights_file(name_or_path, model_kwargs)
    with _naming(file):
        # Mismatches are told below, with their keys, where Transformers raises an error that points to a report.
        loaded: Any = auto_class.from_pretrained(
            name_or_path, output_loading_info=True, ignore_mismatched_sizes=True, **model_kwargs
        )
    model, report = loaded
    name = type(model).__name__
    mismatched = [
        f"{key} of shape {tuple(in_file)}, not {tuple(own)}" for key, in_file, own in report["mismatched_keys"]
    ]
    _refuse(f"{file} does not fit {name}: it has", mismatched)
    _refuse(f"{file} lacks weights of {name}:", report["missing_keys"])
    _refuse(f"{file} has weights that {name} has no layer for:", report["unexpected_keys"])
    finite = ((key, bool(weight.isfinite().all())) for key, weight in model.named_parameters() if not weight.is_meta)
    _refuse(f"{file} has values that are not finite:", [key for key, is_finite in finite if not is_finite])
    return model


def _refuse(message: str, keys: Iterable[str]) -> None:
    if keys := sorted(keys):
        raise InputError(f"{message} {shown(keys)}. Get the model anew, or name the one that was meant.")


def _weights_file(name_or_path: str, model_kwargs: dict[str, Any]) -> str:
    for file in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if path := find_file(name_or_path, file, **model_kwargs):
            return path
    return name_or_path


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Within, whatever is raised over a damaged file becomes one line that names it."""
    try:
        yield
    except (OSError, InputError, MemoryError, torch.OutOfMemoryError, ImportError):
        raise  # these say what to do
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{what} cannot be loaded: {reason[:300].rstrip('.')}. Get the model anew, or name another one."
        ) from error


def base_and_adapter(
    name_or_path: str | os.PathLike | None = None, adapter: str | os.PathLike | None = None, **model_kwargs: Any
) -> tuple[Source, Source | None]:
    """
    Which weights a name stands for.

    Args:
        name_or_path (`str` or `os.PathLike`, *optional*): A model, or an adapter, whose base and its revision are
            found through its configuration; the package's default model if left out.
        adapter (`str` or `os.PathLike`, *optional*): An adapter to put on the model.
        **model_kwargs: Those of `from_pretrained`, of which `revision`, `token` and `cache_dir` are read.

    Returns:
        `tuple[Source, Source | None]`: the base model, and the adapter on it if there is one.
    """
    options = hub_options(model_kwargs)
    # A revision is that of the repository that was named; token and cache serve both.
    elsewhere = {key: value for key, value in options.items() if key != "revision"}
    if name_or_path is None:
        return Source(default_base_model(), options), Source(str(adapter or ADAPTER_FOLDER), elsewhere)
    named = Source(str(name_or_path), options)
    if adapter is not None:
        return named, Source(str(adapter), elsewhere)
    if named.find("adapter_config.json"):
        return _base_of(named, elsewhere), named
    return named, None


def _base_of(adapter: Source, options: dict[str, Any]) -> Source:
    """What an adapter says that it was trained on."""
    from peft import PeftConfig

    with _naming(f"adapter_config.json of {adapter.name_or_path}"):
        config = PeftConfig.from_pretrained(adapter.name_or_path, **adapter.options)
    name_or_path = config.base_model_name_or_path
    if name_or_path is None:
        raise InputError(
            f"adapter_config.json of {adapter.name_or_path} names no base_model_name_or_path. Pass the base model."
        )
    if name_or_path == BASE_MODEL_ID:
        return Source(default_base_model(), options)
    return Source(name_or_path, options if config.revision is None else options | {"revision": config.revision})


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The accelerator of this process if none is named, else the CPU; refuses one that is not there."""
    if device is None:
        from accelerate import PartialState

        return PartialState().device
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={str(device)!r} is not available here: {str(error).splitlines()[0]}") from error
    return device


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    named = getattr(torch, dtype, None)
    if not isinstance(named, torch.dtype):
        raise InputError(f"dtype must be 'auto', 'float32', 'bfloat16' or 'float16', got {dtype!r}.")
    return named


def _find_template(
    sources: Sequence[Source], is_encoder_decoder: bool, tokenizer: PreTrainedTokenizerBase
) -> QATemplate:
    for source in sources:
        if path := source.find(TEMPLATE_FILE):
            return QATemplate.from_file(path)
    if is_encoder_decoder and "<sep>" in tokenizer.get_vocab():
        return QUESTION_SEP_ANSWER
    raise InputError(
        f"{' and '.join(source.name_or_path for source in sources)}: no {TEMPLATE_FILE} tells how this model writes "
        "question–answer pairs. Pass template=QATemplate(prompt=…, pair=…), or save one beside the weights with "
        "QATemplate.save_pretrained."
    )
