"""Where a QAGen comes from: its weights, on a device and in a type that suits it, and how it writes pairs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from ..errors import InputError
from .adapters import merge_adapter
from .default import ADAPTER_FOLDER, BASE_MODEL_ID, default_base_model
from .hub import find_file, hub_options
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
    named = name_or_path
    name_or_path, adapter = base_and_adapter(name_or_path, adapter, **model_kwargs)
    # A revision is that of the repository that was named; token and cache serve both.
    elsewhere = {key: value for key, value in model_kwargs.items() if key != "revision"}
    adapter_kwargs = hub_options(model_kwargs if adapter == named else elsewhere)
    model_kwargs = elsewhere if adapter == named else model_kwargs
    options = hub_options(model_kwargs)
    with _naming(f"The configuration of {name_or_path}"):
        config = AutoConfig.from_pretrained(name_or_path, **options)
    with _naming(f"The tokenizer of {name_or_path}"):
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
    if template is None:
        sources = {name: given for name, given in ((adapter, adapter_kwargs), (name_or_path, options)) if name}
        template = _find_template(sources, config.is_encoder_decoder, tokenizer)
    # Adapters are merged in float32: rounding base and update apart loses part of the update.
    load_dtype = torch.float32 if adapter is not None else torch_dtype
    model = _load_weights(name_or_path, config.is_encoder_decoder, dtype=load_dtype, **model_kwargs)
    if adapter is not None:
        with _naming(f"The adapter {adapter}"):
            model = merge_adapter(model, adapter, **adapter_kwargs)
        _cast_weights(model, torch_dtype)
    model.to(device)  # type: ignore[arg-type]
    return model, tokenizer, template


def _cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """
    To the type, as Transformers loads them: without the layers that a model keeps in float32 (T5's `wo` overflows in
    float16), and without buffers (frequencies of rotary positions are told apart in float32 only).
    """
    in_float32 = set()
    if dtype in (torch.float16, torch.bfloat16):
        in_float32 |= set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        in_float32 |= set(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        if in_float32.isdisjoint(name.split(".")):
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
    keys = sorted(keys)
    if keys:
        shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
        raise InputError(f"{message} {shown}. Get the model anew, or name the one that was meant.")


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
) -> tuple[str, str | os.PathLike | None]:
    """
    Which weights a name stands for.

    Args:
        name_or_path (`str` or `os.PathLike`, *optional*): A model, or an adapter, whose base is found through its
            configuration; the package's default model if left out.
        adapter (`str` or `os.PathLike`, *optional*): An adapter to put on the model.
        **model_kwargs: Those of `from_pretrained`, of which `revision`, `token` and `cache_dir` are read.

    Returns:
        `tuple[str, str | os.PathLike | None]`: the base model, and the adapter on it if there is one.
    """
    if name_or_path is None:
        return default_base_model(), adapter or ADAPTER_FOLDER
    if adapter is None and find_file(name_or_path, "adapter_config.json", **model_kwargs):
        from peft import PeftConfig

        adapter = name_or_path
        with _naming(f"adapter_config.json of {adapter}"):
            name_or_path = PeftConfig.from_pretrained(
                str(adapter), **hub_options(model_kwargs)
            ).base_model_name_or_path
        if name_or_path is None:
            raise InputError(
                f"adapter_config.json of {adapter} names no base_model_name_or_path. Pass the base model."
            )
        if name_or_path == BASE_MODEL_ID:
            name_or_path = default_base_model()
    return str(name_or_path), adapter


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
    sources: Mapping[str | os.PathLike, dict[str, Any]],
    is_encoder_decoder: bool,
    tokenizer: PreTrainedTokenizerBase,
) -> QATemplate:
    for source, options in sources.items():
        if path := find_file(source, TEMPLATE_FILE, **options):
            return QATemplate.from_file(path)
    if is_encoder_decoder and "<sep>" in tokenizer.get_vocab():
        return QUESTION_SEP_ANSWER
    raise InputError(
        f"{' and '.join(map(str, sources))}: no {TEMPLATE_FILE} tells how this model writes question–answer pairs. "
        "Pass template=QATemplate(prompt=…, pair=…), or save one beside the weights with QATemplate.save_pretrained."
    )
