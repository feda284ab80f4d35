"""What the recipes share: arguments from flags or a YAML file, and the model to train."""

from __future__ import annotations

import atexit
import json
import os
import sys
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedTokenizerBase,
)

from hf_quals.memory import reuse_freed_memory
from hf_quals.qagen import loading
from hf_quals.qagen.default import BASE_MODEL_ID, default_base_model


FLAG_TYPES = (bool, int, float, str)


@dataclass(kw_only=True)
class ModelArguments:
    """Which model to train, and which of its weights."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "The model to train, or an adapter to go on with; SmolLM2-135M-Instruct if left out."},
    )
    dtype: str = field(default="auto", metadata={"help": "Type of the (frozen, with LoRA) base weights."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "`sdpa` (the default of most models) or `eager`: others take no packed masks."}
    )
    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA on all linear layers; 0 trains all weights."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Defaults to twice the rank."})


def parse_arguments(*dataclass_types: Any, **defaults: Any) -> tuple[Any, ...]:
    """
    Parses the command line: flags, behind a YAML file of them if its first word names one. Flags win.

    Args:
        *dataclass_types: The dataclasses to fill.
        **defaults: Defaults that differ from the dataclasses' own.
    """
    reuse_freed_memory()
    parser = HfArgumentParser(dataclass_types)
    parser.set_defaults(**defaults)
    arguments = sys.argv[1:]
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        from_file = []
        for name, value in (yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8")) or {}).items():
            if value is None:  # as if it were left out
                continue
            values = value if isinstance(value, list) else [value]
            from_file += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
        arguments = from_file + arguments[1:]
    return parser.parse_args_into_dataclasses(arguments)


def with_prefix(config_class: type, prefix: str) -> type:
    """
    Flags of a configuration whose names another one has, too.

    Args:
        config_class (`type`): A dataclass.
        prefix (`str`): What goes before each name.

    Returns:
        `type`: a dataclass of its fields that a flag can hold, `None` if not given.
    """
    types = get_type_hints(config_class)
    flags = [
        (
            prefix + name,
            types[name] | None,
            field(default=None, metadata={"help": f"`{config_class.__name__}.{name}`."}),
        )
        for name in (each.name for each in fields(config_class))
        if types[name] in FLAG_TYPES or types[name] in [plain | None for plain in FLAG_TYPES]
    ]
    return make_dataclass(config_class.__name__, flags, kw_only=True)


def given(flags: Any, prefix: str) -> dict[str, Any]:
    """What was given of [`with_prefix`]'s flags, under the configuration's own names."""
    values = {each.name.removeprefix(prefix): getattr(flags, each.name) for each in fields(flags)}
    return {name: value for name, value in values.items() if value is not None}


def base_and_adapter(name_or_path: str | None) -> tuple[str, str | None]:
    """
    Which weights a name stands for.

    Args:
        name_or_path (`str`, *optional*): A model, or a folder of an adapter; the package's default base if left out.

    Returns:
        `tuple[str, str | None]`: the model, and the adapter on it if there is one.
    """
    name = name_or_path or default_base_model()
    if not Path(name, "adapter_config.json").is_file():
        return name, None
    return loading.base_and_adapter(name)[0].name_or_path, name


def base_options(adapter: str | None) -> dict[str, Any]:
    """Where on the Hub the base of an adapter is: the `revision` that the adapter names, if it does."""
    return loading.base_and_adapter(adapter)[0].options if adapter else {}


def load_model(args: ModelArguments, name_or_path: str | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """
    Loads the model to train and its tokenizer.

    Args:
        args (`ModelArguments`): Which model, and how.
        name_or_path (`str`, *optional*): Takes the place of `args.model_name_or_path`.

    Returns:
        `tuple`: the model, with LoRA if `args.lora_r` says so, and the tokenizer.

    Raises:
        `ValueError`: if an adapter is to go on with a rank that is not its own.
    """
    base, adapter = base_and_adapter(name_or_path or args.model_name_or_path)
    has_tokenizer = adapter and Path(adapter, "tokenizer_config.json").is_file()
    options = base_options(adapter)
    tokenizer = AutoTokenizer.from_pretrained(adapter if has_tokenizer else base, **options)
    is_encoder_decoder = AutoConfig.from_pretrained(base, **options).is_encoder_decoder
    auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    model = auto_class.from_pretrained(base, dtype=args.dtype, attn_implementation=args.attn_implementation, **options)
    if base == default_base_model():
        # Where this machine keeps the weights is no name for others.
        model.name_or_path = model.config._name_or_path = BASE_MODEL_ID
    if adapter:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
        rank = model.peft_config["default"].r
        if rank != args.lora_r:
            raise ValueError(f"{adapter} is an adapter of rank {rank}: pass --lora_r {rank}, not {args.lora_r}.")
    elif args.lora_r:
        lora = LoraConfig(
            r=args.lora_r,
            lora_alpha=args.lora_alpha or 2 * args.lora_r,
            target_modules="all-linear",
            task_type="SEQ_2_SEQ_LM" if is_encoder_decoder else "CAUSAL_LM",
        )
        model = get_peft_model(model, lora)
    if args.lora_r:
        model.print_trainable_parameters()
    return model, tokenizer


def leave_together() -> None:
    """
    Ends the processes of a launcher on CPUs, none before the last one's work is done.

    Threads of their connections (gloo) now and then abort a process whose interpreter ends while another goes on, and
    the launcher then calls a finished training failed. What is registered for the end of a program is done.
    """
    state = PartialState()
    if state.num_processes > 1 and state.backend == "gloo":
        state.wait_for_everyone()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
