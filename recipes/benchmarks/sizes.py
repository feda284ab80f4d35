"""What the benchmarks of speed share: models of published sizes with random weights, and the machine's own rate."""

from __future__ import annotations

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


def random_model(config: Any, auto_class: Any = None) -> Any:
    """A model of random weights, spread enough that its preferences are no ties."""
    set_seed(0)
    auto_class = auto_class or (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM)
    for name in ("init_std", "initializer_range"):
        if hasattr(config, name):
            setattr(config, name, 0.05)
    return auto_class.from_config(config, dtype=torch.float32).eval()


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


def random_qagen(name: str) -> QAGenModel:
    """A QAGen of one of the [`SHAPES`] with random weights."""
    config = SHAPES[name]
    tokenizer = word_tokenizer(config.vocab_size)
    return QAGenModel(random_model(config), tokenizer, QATemplate(prompt="{text}", pair="{question} <sep> {answer}"))


def linear_operations(module: nn.Module, *, without: tuple[str, ...] = ()) -> int:
    """Operations (multiplications and additions) of a token in the linear layers of a module."""
    return sum(
        2 * part.in_features * part.out_features
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and not name.endswith(without or ("\0",))
    )


def gemm_rate(size: int = 2048) -> float:
    """Operations a second of a matrix product in float32, the fastest of a few."""
    a = torch.randn(size, size)
    return 2 * size**3 / min(seconds(lambda: a @ a, 1) for _ in range(5))


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """The median time of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times)


def machine(dtype: str = "float32") -> str:
    """The processor, threads, library and type of a measurement."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}"
