"""What the benchmarks of speed share: models of published sizes with random weights, and the machine's own rate."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from hf_quals import QAGenModel, QATemplate


# The shapes of facebook/bart-base, facebook/bart-large and HuggingFaceTB/SmolLM2-135M, and of bert-large-uncased.
SHAPES = {
    "BART-base": BartConfig(
        d_model=768,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
    ),
    "BART-large": BartConfig(),
    "SmolLM2-135M": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ),
}
BERT_LARGE = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)

# BART's ids of these tokens; any model takes them.
_SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def random_model(config: Any, auto_class: Any = None, device: str = "cpu") -> Any:
    """A model of random weights, spread enough that its preferences are no ties."""
    set_seed(0)
    auto_class = auto_class or (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM)
    for name in ("init_std", "initializer_range"):
        if hasattr(config, name):
            setattr(config, name, 0.05)
    return auto_class.from_config(config, dtype=torch.float32).eval().to(device)


def word_tokenizer(vocab_size: int, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the words `w5`, `w6`, …, so that a text has as many tokens as words."""
    names = [*_SPECIAL.values(), "<sep>"]
    words = {name: number for number, name in enumerate([*names, *(f"w{n}" for n in range(len(names), vocab_size))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **_SPECIAL, **special)


def random_text(words: int, vocab_size: int, seed: int) -> str:
    ids = torch.randint(10, vocab_size, (words,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{number}" for number in ids.tolist())


def random_qagen(name: str, device: str = "cpu") -> QAGenModel:
    """A QAGen of one of the [`SHAPES`] with random weights."""
    config = SHAPES[name]
    template = QATemplate(prompt="{text}", pair="{question} <sep> {answer}")
    return QAGenModel(random_model(config, device=device), word_tokenizer(config.vocab_size), template)


def linear_operations(module: nn.Module, *, without: tuple[str, ...] = ()) -> int:
    """Operations (multiplications and additions) of a token in the linear layers of a module."""
    return sum(
        2 * part.in_features * part.out_features
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and not name.endswith(without or ("\0",))
    )


def gemm_rate(device: str = "cpu") -> float:
    """Operations a second of a large matrix product in float32, the fastest of a few."""
    size = 2048 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    # A number of the product is read: a GPU has computed it then.
    return 2 * size**3 / min(seconds(lambda: (a @ a)[0, 0].item(), 1) for _ in range(5))


def peak_memory(device: str = "cpu") -> float:
    """The most memory of the device that this process has had so far, in GiB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # In KiB on Linux.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """The median time of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times)


def machine(dtype: str = "float32", device: str = "cpu") -> str:
    """The card, or the processor and its threads, the library and the type of a measurement."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {dtype}"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}"
