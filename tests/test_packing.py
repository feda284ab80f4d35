"""Packed continuations: no model computes them otherwise than in rows of their own."""

import math

import pytest
import torch
from conftest import TINY_TEMPLATE, tiny_model, tiny_tokenizer
from test_model import DECODING, DOCUMENTS, slow_log_probs
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    LlamaForCausalLM,
)

from hf_quals import QAGenModel
from hf_quals.qagen.proof import packable_length


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
# What masks and positions do not reach: distances in columns, windows, states.
ARCHITECTURES = {
    "bloom": ({"hidden_size": 16, "n_layer": 2, "n_head": 4}, 0),
    "mpt": ({"d_model": 16, "n_layers": 2, "n_heads": 4}, 0),
    "gpt_neo": (
        {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 4,
            "window_size": 20,
            "attention_types": [[["global", "local"], 1]],
        },
        0,
    ),
    "mamba": ({"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, 0),
    "mistral": ({**SIZES, "num_key_value_heads": 2, "head_dim": 4, "sliding_window": 40}, 40),
    "gemma3_text": ({**SIZES, "num_key_value_heads": 2, "head_dim": 4, "sliding_window": 40}, 40),
    "llama4_text": ({**SIZES, "num_key_value_heads": 2, "head_dim": 4, "attention_chunk_size": 40}, 40),
    "gpt2": ({"n_embd": 16, "n_layer": 2, "n_head": 4}, math.inf),
}


def random_model(architecture: str):
    options, _ = ARCHITECTURES[architecture]
    config = AutoConfig.for_model(
        architecture, **options, vocab_size=40, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pairs_of_every_architecture_are_scored_as_those_of_rows_of_their_own(architecture):
    qagen = QAGenModel(random_model(architecture), tiny_tokenizer("llama"), TINY_TEMPLATE)
    pairs = qagen.generate(DOCUMENTS, **DECODING | {"num_beams": 3, "num_beam_groups": 3})
    scored = qagen.log_probs(DOCUMENTS, [pairs[1] + pairs[0], pairs[2], pairs[2]])
    for document, row, values in zip(DOCUMENTS, [pairs[1] + pairs[0], pairs[2], pairs[2]], scored, strict=True):
        for pair, log_probs in zip(row, values, strict=True):
            assert log_probs == pytest.approx(slow_log_probs(qagen, document, pair), abs=1e-4)
    for document, row in zip(DOCUMENTS, pairs, strict=True):
        for pair in row[:1]:
            assert pair.log_probs == pytest.approx(slow_log_probs(qagen, document, pair), abs=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("cached", [True, False])
def test_the_length_up_to_which_packing_is_right_is_known(architecture, cached):
    assert packable_length(random_model(architecture), cached=cached) == ARCHITECTURES[architecture][1]


class BlindToMasks(LlamaForCausalLM):
    def forward(self, attention_mask=None, position_ids=None, logits_to_keep=0, **inputs):
        return super().forward(position_ids=position_ids, logits_to_keep=logits_to_keep, **inputs)


class BlindToPositions(LlamaForCausalLM):
    def forward(self, attention_mask=None, position_ids=None, logits_to_keep=0, **inputs):
        return super().forward(attention_mask=attention_mask, logits_to_keep=logits_to_keep, **inputs)


class RefusesMasks(LlamaForCausalLM):
    def forward(self, attention_mask=None, position_ids=None, logits_to_keep=0, **inputs):
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("too many values to unpack (expected 2)")
        return super().forward(position_ids=position_ids, logits_to_keep=logits_to_keep, **inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("kind", [BlindToMasks, BlindToPositions, RefusesMasks])
def test_a_model_that_ignores_what_it_is_given_is_not_packed(kind, cached, dtype):
    model = tiny_model("llama").to(dtype)
    assert packable_length(model, cached=cached) == math.inf
    model.__class__ = kind
    assert packable_length(model, cached=cached) == 0


def test_the_proof_leaves_no_trace():
    model = tiny_model("llama").train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert packable_length(model, cached=False) == math.inf
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_model_that_sees_what_follows_is_refused_by_name():
    torch.manual_seed(0)
    config = BertConfig(**SIZES, vocab_size=40, is_decoder=False, initializer_range=0.3)
    with pytest.raises(ValueError, match=r"^BertLMHeadModel cannot be used as a QAGen: in a padded batch"):
        QAGenModel(BertLMHeadModel(config), tiny_tokenizer("llama"), TINY_TEMPLATE)


def test_a_model_that_the_search_cannot_continue_is_refused_by_name():
    config = AutoConfig.for_model("rwkv", vocab_size=40, hidden_size=16, num_hidden_layers=2, context_length=600)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match=r"^RwkvForCausalLM cannot be used as a QAGen: .*rows cannot be selected"):
        QAGenModel(model, tiny_tokenizer("llama"), TINY_TEMPLATE)


def test_a_text_longer_than_the_positions_leaves_room_for_pairs_and_answers():
    options = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 40, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **options, eos_token_id=2, pad_token_id=0))
    qagen = QAGenModel(model, tiny_tokenizer("llama"), TINY_TEMPLATE)
    long, short = qagen.encode(["abc " * 60, "abc"])
    assert (len(long.input_ids), long.truncated, short.truncated) == (128 - 60 - 30, True, False)
    (pairs,) = qagen.generate([long], num_beams=2, num_beam_groups=2, min_new_tokens=60, max_new_tokens=60)
    (scored,) = qagen.log_probs([long], [pairs])
    assert [len(values) for values in scored] == [60, 60]
    qagen.answer([long], [["a" * 58]], max_new_tokens=30)
