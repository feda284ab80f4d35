"""
Merging a saved PEFT adapter into a model's weights, strict about what is in its file.

`PeftModel` is made for training: it wraps the model and leaves weights that the file lacks as they were initialised.
Here the adapter's layers are put into the model, filled from the file and merged, with the same weights as a result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from peft import PeftConfig, PeftType, set_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import cached_file


# The methods whose merge equals `PeftModel`'s to the bit. Prompts are no weights, and what VeRA and its like share
# between layers lies outside of the model.
MERGEABLE = ("ADALORA", "BOFT", "FOURIERFT", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "OFT")


def merge_adapter(model: PreTrainedModel, adapter: str | os.PathLike, **hub_options: Any) -> PreTrainedModel:
    """
    Merges a saved PEFT adapter into the weights of its base model.

    Args:
        model (`PreTrainedModel`):
            The base model, changed in place. In float32: rounding base and update apart loses part of the update.
        adapter (`str` or `os.PathLike`):
            A folder or Hub id of the adapter (`adapter_config.json`, `adapter_model.safetensors`).
        **hub_options:
            `revision`, `token` and `cache_dir` of the adapter, if it is on the Hub.

    Returns:
        `PreTrainedModel`: the model with the adapter in its weights, all of them frozen.

    Raises:
        `OSError`: if the adapter or one of its files cannot be found.
        `ValueError`: if its method cannot be merged (prompt tuning, …), or if its file does not fit the model: keys
            without a layer, trained weights that are not in the file, other shapes, values that are not finite.
    """
    config = PeftConfig.from_pretrained(str(adapter), **hub_options)
    method = PeftType(config.peft_type).value
    if method not in MERGEABLE:
        raise ValueError(
            f"{adapter} is an adapter of the method {method}, which cannot be merged into the weights here; expected "
            f"one of {', '.join(MERGEABLE)}. If PEFT can merge it, save the merged model and load that."
        )
    file = str(cached_file(str(adapter), "adapter_model.safetensors", **hub_options))
    weights = load_file(file)
    _refuse(file, "values that are not finite", [key for key, value in weights.items() if not value.isfinite().all()])

    # Marks what the method trains, which is what the file has to hold.
    config.inference_mode = False
    try:
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(method)](model, config, "default")
        # In the file, the tuner is the `base_model` of a `PeftModel`.
        loaded: Any = set_peft_model_state_dict(tuner, {k.removeprefix("base_model."): v for k, v in weights.items()})
    except KeyError as error:
        raise ValueError(f"{file} lacks the weights {error}.") from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{file} does not fit {type(model).__name__}: {error}") from error
    trained = {name for name, parameter in tuner.named_parameters() if parameter.requires_grad}
    _refuse(file, f"keys that {type(model).__name__} has no layer for", loaded.unexpected_keys)
    _refuse(file, "no weights for", sorted(trained.intersection(loaded.missing_keys)))
    merged: Any = tuner.merge_and_unload()
    return merged.requires_grad_(False)


def _refuse(file: str, what: str, keys: list[str]) -> None:
    if keys:
        raise ValueError(f"{file} has {what}: {shown(keys)}.")


def shown(keys: Sequence[str]) -> str:
    """The first of many keys, and how many more there are."""
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
