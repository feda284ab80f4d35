"""Tiny random models of every family, with a tokenizer of single characters: contracts can be checked in seconds."""

import functools
import logging
import os
import random
import shutil
import string
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


# Before transformers is imported: tests never ask a network for anything, but for the Hub look-alike on loopback.
if not os.environ.get("HF_ENDPOINT", "").startswith("http://127.0.0.1:"):
    os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before torch is imported: several processes of pytest share the cores, and threads that wait for one are slow.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(workers))))

import pytest
import torch
from hypothesis import settings
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_quals import QAGenModel, QATemplate
from hf_quals.memory import reuse_freed_memory
from hf_quals.qagen.training import DataCollatorForQAGen


# A busy machine takes its time; no test asserts one.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
# As the commands do when they start.
reuse_freed_memory()

# As of facebook/bart-large-cnn, in the proportions of tiny texts.
SUMMARIZER_SETTINGS = {
    "max_length": 14,
    "min_length": 4,
    "num_beams": 4,
    "length_penalty": 2.0,
    "early_stopping": True,
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Where several processes of pytest share the tests, one that is marked `alone` runs while no other does."""
    if not workers:
        return (yield)
    with machine(shared=item.get_closest_marker("alone") is None):
        return (yield)


@contextmanager
def machine(shared: bool) -> Iterator[None]:
    """Who waits to have it alone holds the gate, so that those who share it let go and take it after him."""
    import fcntl

    locks = Path(tempfile.gettempdir()) / f"hf-quals-tests-{os.environ['PYTEST_XDIST_TESTRUNUID']}"
    with open(f"{locks}.gate", "w") as gate, open(f"{locks}.lock", "w") as lock:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:  # said, and not left to closing: what a test has forked may hold the file open
            fcntl.flock(lock, fcntl.LOCK_UN)


SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
CHARACTERS = "|?. abcdefghijklmnopqrstuvwxyz"
TINY_TEMPLATE = QATemplate(prompt="{text}?", pair="{question}|{answer}")


def put_into_cache(folder, repo_id: str, cache_dir) -> str:
    """A folder as a repository of the Hub that `cache_dir` holds, and no other cache; returns its id."""
    cached = cache_dir / f"models--{repo_id.replace('/', '--')}"
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    return repo_id


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    around = {"llama": "$A", "bart": "<s> $A </s>", "t5": "$A </s>"}[family]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(token, vocabulary[token]) for token in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_model(family: str, seed: int = 0):
    """A random model of the family `llama`, `bart` or `t5`; large initial weights make its choices distinct."""
    torch.manual_seed(seed)
    common = {"vocab_size": len(SPECIAL) + len(CHARACTERS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if family == "llama":
        config = LlamaConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1200,
            initializer_range=0.3,
            **common,
        )
        return LlamaForCausalLM(config).eval()
    if family == "bart":
        config = BartConfig(
            d_model=16,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=1200,
            init_std=0.3,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
            **common,
        )
        return BartForConditionalGeneration(config).eval()
    config = T5Config(
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        initializer_factor=3.0,
        decoder_start_token_id=0,
        **common,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def browser():
    """A real browser without a window."""
    names = ("chromium", "google-chrome", "chrome")
    binary, driver_path = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if not (binary and driver_path):
        pytest.skip("no chromium and chromedriver: the page is not driven in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    yield driver
    driver.quit()


@contextmanager
def all_warnings() -> Iterator[list[str]]:
    """Whatever is warned of within, by Python's warnings or in the log of Transformers."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield texts
            texts += [str(warning.message) for warning in caught]
    finally:
        logger.removeHandler(handler)


@functools.cache
def tiny_qagen(family: str) -> QAGenModel:
    """
    A tiny QAGen that has learned, in a second or two, what a pair looks like: six letters, the separator, and a letter
    of the text.
    """
    model, tokenizer = tiny_model(family), tiny_tokenizer(family)
    is_encoder_decoder = model.config.is_encoder_decoder
    rng = random.Random(0)
    collate = DataCollatorForQAGen(0, is_encoder_decoder, pad_to_multiple_of=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300 if family == "t5" else 150):  # T5 learns more slowly
        texts = ["".join(rng.choices(string.ascii_lowercase + " ", k=10)) for _ in range(16)]
        prompts = TINY_TEMPLATE.encode_texts(tokenizer, texts, max_length=100, is_encoder_decoder=is_encoder_decoder)
        pairs = [
            TINY_TEMPLATE.encode_pair(
                tokenizer,
                "".join(rng.choices(string.ascii_lowercase, k=6)),
                rng.choice(text.replace(" ", "") or "a"),
                is_encoder_decoder=is_encoder_decoder,
            )
            for text in texts
        ]
        batch = collate([{"input_ids": p.input_ids, "pairs": [pair]} for p, pair in zip(prompts, pairs, strict=True)])
        batch.pop("text_of_pair", None)  # one pair a text
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return QAGenModel(model.eval(), tokenizer, TINY_TEMPLATE)


@pytest.fixture(scope="session", params=["llama", "bart", "t5"])
def qagen(request) -> QAGenModel:
    """A tiny random QAGen of each family."""
    return tiny_qagen(request.param)


@pytest.fixture
def sharded_llama():
    """The first of two processes' part of a tiny model that FSDP 2 shards; the second is not there."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    model = tiny_model("llama")
    for layer in model.model.layers:
        fully_shard(layer)
    yield fully_shard(model)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="session")
def tiny_causal_folder(tmp_path_factory) -> str:
    """A saved tiny random decoder-only QAGen, usable as `--model`."""
    folder = tmp_path_factory.mktemp("tiny-causal")
    tiny_qagen("llama").save_pretrained(folder)
    return str(folder)
