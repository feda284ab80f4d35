"""Merging adapters: the same weights as `PeftModel` merges, and nothing taken that does not fit."""

import warnings

import pytest
import torch
from conftest import tiny_model
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

from hf_quals.qagen.adapters import MERGEABLE, merge_adapter


ATTENTION = ["q_proj", "v_proj"]

METHODS = {
    "ADALORA": lambda: AdaLoraConfig(target_modules=ATTENTION, total_step=10),
    "BOFT": lambda: BOFTConfig(target_modules=ATTENTION, boft_block_size=4),
    "FOURIERFT": lambda: FourierFTConfig(target_modules=ATTENTION, n_frequency=10),
    "HRA": lambda: HRAConfig(target_modules=ATTENTION),
    "IA3": lambda: IA3Config(target_modules=["k_proj", "down_proj", "fc2"], feedforward_modules=["down_proj", "fc2"]),
    "LN_TUNING": lambda: LNTuningConfig(target_modules=["input_layernorm", "self_attn_layer_norm"]),
    "LOHA": lambda: LoHaConfig(target_modules=ATTENTION),
    "LOKR": lambda: LoKrConfig(target_modules=ATTENTION),
    "LORA": lambda: LoraConfig(target_modules="all-linear", r=4),
    "OFT": lambda: OFTConfig(target_modules=ATTENTION, r=0, oft_block_size=4),
}

LORA_OPTIONS = {
    "biases": {"bias": "all"},
    "DoRA": {"use_dora": True},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "head saved whole": {"modules_to_save": ["lm_head"]},
    "ranks of their own": {"rank_pattern": {"q_proj": 2}, "use_rslora": True},
    "tokens": {"trainable_token_indices": [5, 6]},
}


def saved_adapter(folder, config, family="llama"):
    """An adapter with random weights, saved; `get_peft_model` leaves many of them zero."""
    model = get_peft_model(tiny_model(family), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def change_file(folder, change):
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def assert_same_weights(model, expected):
    model, expected = model.state_dict(), expected.state_dict()
    assert model.keys() == expected.keys()
    assert [name for name in model if not torch.equal(model[name], expected[name])] == []


def assert_merges_as_peft_does(adapter, family):
    merged = merge_adapter(tiny_model(family), adapter)
    assert_same_weights(merged, PeftModel.from_pretrained(tiny_model(family), adapter).merge_and_unload())
    base = tiny_model(family).state_dict()
    assert any(not torch.equal(weight, base[name]) for name, weight in merged.state_dict().items())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", ["llama", "bart"])
@pytest.mark.parametrize("method", MERGEABLE)
def test_every_method_merges_to_the_weights_of_peft_model(method, family, tmp_path):
    assert_merges_as_peft_does(saved_adapter(tmp_path, METHODS[method](), family), family)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("family", ["llama", "bart"])
@pytest.mark.parametrize("options", LORA_OPTIONS.values(), ids=LORA_OPTIONS)
def test_every_option_of_lora_merges_to_the_weights_of_peft_model(options, family, tmp_path):
    config = LoraConfig(**{"target_modules": ATTENTION, "r": 4, **options})
    assert_merges_as_peft_does(saved_adapter(tmp_path, config, family), family)


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_merging_warns_of_nothing_and_leaves_a_plain_frozen_model(family, tmp_path):
    saved_adapter(tmp_path, METHODS["LORA"](), family)
    base = tiny_model(family)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = merge_adapter(base, tmp_path)
    assert merged is base
    assert not hasattr(merged, "peft_config")
    assert not any(parameter.requires_grad for parameter in merged.parameters())


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PROMPT_TUNING"),
        (VeraConfig(target_modules=["q_proj", "o_proj"]), "VERA"),
    ],
    ids=["prompt tuning", "vera"],
)
def test_methods_that_cannot_be_merged_are_refused_by_name(config, method, tmp_path):
    saved_adapter(tmp_path, config)
    with pytest.raises(ValueError, match=f"{tmp_path}.* method {method}, .*expected one of .*LORA"):
        merge_adapter(tiny_model("llama"), tmp_path)


def test_adapter_of_another_architecture_is_refused(tmp_path):
    saved_adapter(tmp_path, LoraConfig(target_modules=["gate_proj"]))
    with pytest.raises(ValueError, match=r"safetensors does not fit BartForCond.*gate_proj.*not found"):
        merge_adapter(tiny_model("bart"), tmp_path)


def test_adapter_of_another_depth_is_refused_with_its_keys(tmp_path):
    saved_adapter(tmp_path, LoraConfig(target_modules=ATTENTION))
    shallow = tiny_model("llama")
    del shallow.model.layers[1]
    with pytest.raises(
        ValueError, match=r"safetensors has keys that Llama.* no layer for: .*layers.1.self_attn.q_proj"
    ):
        merge_adapter(shallow, tmp_path)


def test_adapter_of_another_width_is_refused_with_its_keys(tmp_path):
    saved_adapter(tmp_path, LoraConfig(target_modules=["q_proj"]))
    change_file(tmp_path, lambda w: w.update({key: torch.zeros(3, 3) for key in w if "layers.0" in key}))
    with pytest.raises(ValueError, match=r"does not fit Llama(.|\n)*layers.0.self_attn.q_proj.lora_A.*\[3, 3\]"):
        merge_adapter(tiny_model("llama"), tmp_path)


@pytest.mark.parametrize(
    ("options", "lost"),
    [
        ({}, "layers.1.self_attn.q_proj.lora_B"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"use_dora": True}, "layers.0.self_attn.q_proj.lora_magnitude_vector"),
        ({"trainable_token_indices": [5]}, "trainable_tokens_delta"),
    ],
    ids=["lora", "saved whole", "DoRA", "tokens"],
)
def test_weights_the_file_lacks_are_refused_with_their_keys(options, lost, tmp_path):
    saved_adapter(tmp_path, LoraConfig(target_modules=["q_proj"], **options))

    def lose(weights):
        for key in [key for key in weights if lost in key]:
            del weights[key]

    change_file(tmp_path, lose)
    with pytest.raises(
        ValueError, match=rf"adapter_model.safetensors (has no weights for: |lacks the weights ).*{lost}"
    ):
        merge_adapter(tiny_model("llama"), tmp_path)


def test_biases_the_file_lacks_are_refused(tmp_path):
    saved_adapter(tmp_path, LoraConfig(target_modules=["q_proj"], bias="lora_only"), "bart")
    key = "base_model.model.model.decoder.layers.1.encoder_attn.q_proj.base_layer.bias"
    change_file(tmp_path, lambda weights: weights.pop(key))
    with pytest.raises(
        ValueError, match=r"has no weights for: .*decoder.layers.1.encoder_attn.q_proj.base_layer.bias"
    ):
        merge_adapter(tiny_model("bart"), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_keys(value, tmp_path):
    saved_adapter(tmp_path, LoraConfig(target_modules=["q_proj"]))
    change_file(tmp_path, lambda weights: sorted(weights.items())[0][1].view(-1)[7:8].fill_(value))
    with pytest.raises(ValueError, match=r"safetensors has values that are not finite: .*layers.0.*lora_A.weight\.$"):
        merge_adapter(tiny_model("llama"), tmp_path)


def test_an_adapter_without_a_safetensors_file_is_not_found(tmp_path):
    saved_adapter(tmp_path, LoraConfig(target_modules=["q_proj"]))
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match=r"adapter_model\.safetensors"):
        merge_adapter(tiny_model("llama"), tmp_path)
