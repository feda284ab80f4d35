"""Files that are damaged, incomplete or another model's are refused by name, never scored."""

import json
import pickle

import pytest
import torch
from conftest import TINY_TEMPLATE, put_into_cache, tiny_model, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaForCausalLM

from hf_quals import QAGenModel
from hf_quals.errors import InputError
from hf_quals.qagen.hub import find_file
from hf_quals.qagen.identity import weights_identity
from hf_quals.qagen.loading import _cast_weights


KEY = "model.layers.0.mlp.up_proj.weight"
TYPES = ("float32", "bfloat16")


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer("llama").save_pretrained(tmp_path)
    TINY_TEMPLATE.save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(KEY), rf"model\.safetensors lacks weights of LlamaForCausalLM: {KEY}\."),
        (
            lambda weights: weights.update(other=torch.ones(2)),
            r"has weights that LlamaForCausalLM has no layer for: oth",
        ),
        (lambda weights: weights.update({KEY: torch.ones(3, 3)}), rf"it has {KEY} of shape \(3, 3\), not \(32, 16\)"),
        (lambda weights: weights[KEY].view(-1)[5:6].fill_(float("nan")), rf"values that are not finite: {KEY}\."),
    ],
    ids=["missing", "left over", "shape", "NaN"],
)
def test_weights_that_are_not_the_model_s_are_refused_with_file_and_key(folder, change, message):
    change_weights(folder, change)
    with pytest.raises(InputError, match=message) as raised:
        QAGenModel.from_pretrained(folder)
    assert str(folder) in str(raised.value)


def test_weights_that_are_tied_are_not_missing(folder):
    model = tiny_model("t5")
    assert model.config.tie_word_embeddings
    model.save_pretrained(folder)
    tiny_tokenizer("t5").save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    QAGenModel.from_pretrained(folder)


def test_options_of_the_hub_reach_an_adapter_s_files(folder, tmp_path_factory):
    adapter = saved_adapter(folder, tmp_path_factory.mktemp("adapter"))
    cache = tmp_path_factory.mktemp("cache")
    repo_id = put_into_cache(adapter, "user/adapter", cache)
    QAGenModel.from_pretrained(repo_id, template=TINY_TEMPLATE, cache_dir=cache)
    # The base is a folder, and has none of the adapter's revisions.
    QAGenModel.from_pretrained(repo_id, template=TINY_TEMPLATE, cache_dir=cache, revision="0" * 40)
    with pytest.raises(OSError, match="in the cached files"):
        QAGenModel.from_pretrained(repo_id, template=TINY_TEMPLATE)


def saved_adapter(base, folder):
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2)).save_pretrained(folder)
    TINY_TEMPLATE.save_pretrained(folder)
    return folder


def test_an_adapter_is_put_on_the_revision_of_its_base_that_it_names(folder, tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    repo_id = put_into_cache(folder, "user/base", cache)
    earlier = cache / "models--user--base" / "snapshots" / ("1" * 40)
    tiny_model("llama", seed=1).save_pretrained(earlier)
    tiny_tokenizer("llama").save_pretrained(earlier)
    adapter = saved_adapter(folder, tmp_path_factory.mktemp("adapter"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    named = config | {"base_model_name_or_path": repo_id, "revision": "1" * 40}
    (adapter / "adapter_config.json").write_text(json.dumps(named))
    # LoRA begins with an update of nothing.
    loaded = QAGenModel.from_pretrained(adapter, dtype="float32").model.get_parameter(KEY)
    assert torch.equal(loaded, tiny_model("llama", seed=1).get_parameter(KEY))
    identity = weights_identity(adapter)
    (cache / "models--user--base" / "refs" / "main").write_text("1" * 40)
    assert weights_identity(adapter) == identity


def test_a_tokenizer_that_an_adapter_was_trained_with_is_its_own(folder, tmp_path_factory):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer("llama")
    model.resize_token_embeddings(len(tokenizer) + 1)
    model.save_pretrained(folder)
    adapter = saved_adapter(folder, tmp_path_factory.mktemp("adapter"))
    assert len(QAGenModel.from_pretrained(adapter).tokenizer) == len(tokenizer)
    tokenizer.add_tokens(["<sep>"])
    tokenizer.save_pretrained(adapter)
    for loaded in (QAGenModel.from_pretrained(adapter), QAGenModel.from_pretrained(folder, adapter=adapter)):
        assert loaded.tokenizer.convert_tokens_to_ids("<sep>") == len(tokenizer) - 1


class LlamaWithExactGates(LlamaForCausalLM):
    _keep_in_fp32_modules_strict = ("mlp.gate_proj", "layers.*.input_layernorm")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_are_cast_as_transformers_loads_them(folder, dtype):
    model = LlamaWithExactGates.from_pretrained(folder, dtype=torch.float32)
    _cast_weights(model, dtype)
    loaded = LlamaWithExactGates.from_pretrained(folder, dtype=dtype)
    types = {name: weight.dtype for name, weight in model.named_parameters()}
    assert types == {name: weight.dtype for name, weight in loaded.named_parameters()}
    assert types["model.layers.0.mlp.gate_proj.weight"] == torch.float32
    assert types[KEY] == dtype


@pytest.mark.parametrize("with_adapter", [False, True])
def test_layers_that_overflow_in_float16_stay_in_float32(folder, tmp_path_factory, with_adapter):
    name = folder
    tiny_model("t5").save_pretrained(folder)
    tiny_tokenizer("t5").save_pretrained(folder)
    if with_adapter:
        name = tmp_path_factory.mktemp("adapter")
        config = LoraConfig(r=2, task_type="SEQ_2_SEQ_LM")
        get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(folder), config).save_pretrained(name)
        TINY_TEMPLATE.save_pretrained(name)
    weights = dict(QAGenModel.from_pretrained(name, dtype="float16").model.named_parameters())
    in_float32 = {key.split(".")[-2] for key, weight in weights.items() if weight.dtype == torch.float32}
    assert in_float32 == {"wo"}
    assert weights["shared.weight"].dtype == torch.float16


def test_a_file_of_which_the_cache_does_not_know_whether_it_exists_is_not_taken_for_missing_silently(
    folder, tmp_path_factory, caplog
):
    cache = tmp_path_factory.mktemp("cache")
    repo_id = put_into_cache(folder, "user/model", cache)
    assert find_file(repo_id, "qagen_config.json", cache_dir=cache) is not None
    assert caplog.text == ""
    assert find_file(repo_id, "quals_config.json", cache_dir=cache) is None
    assert "Whether user/model has a quals_config.json is not known without the Hub" in caplog.text
    # What the Hub said once is known.
    caplog.clear()
    absent = cache / "models--user--model" / ".no_exist" / ("0" * 40) / "adapter_config.json"
    absent.parent.mkdir(parents=True)
    absent.touch()
    assert find_file(repo_id, "adapter_config.json", cache_dir=cache) is None
    assert find_file("user/another", "quals_config.json", cache_dir=cache) is None  # loading it says so
    assert caplog.text == ""


def test_a_refused_model_stays_as_it_was(monkeypatch):
    model, tokenizer = tiny_model("llama").train(), tiny_tokenizer("llama")
    before = model.generation_config

    def broken(*_):
        raise ValueError("packed rows differ")

    monkeypatch.setattr("hf_quals.qagen.model.shareable_length", broken)
    with pytest.raises(ValueError, match="packed rows differ"):
        QAGenModel(model, tokenizer, TINY_TEMPLATE)
    assert model.generation_config is before
    assert model.training


def damage(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print))


def more_heads(folder):
    config = json.loads((folder / "config.json").read_text()) | {"num_attention_heads": 5}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage("model.safetensors", b"x" * 500), r"model\.safetensors cannot be loaded: .*header"),
        (pickled, r"pytorch_model\.bin cannot be loaded"),
        (damage("tokenizer.json", b"{"), r"^The tokenizer of .* cannot be loaded"),
        (damage("tokenizer.json", b"{}"), r"^The tokenizer of .* cannot be loaded"),
        (more_heads, r"^The configuration of .* cannot be loaded: .*not a multiple of the number of attention heads"),
        (damage("qagen_config.json", b"\xff"), r"qagen_config\.json is not a QAGen template"),
        (damage("adapter_config.json", b"{"), r"^adapter_config\.json of .* cannot be loaded"),
        (damage("adapter_config.json", b'{"peft_type": "LORA"}'), r"^adapter_config\.json of .* names no base_model"),
    ],
)
def test_damaged_files_are_named_in_one_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(InputError, match=message) as raised:
        QAGenModel.from_pretrained(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_positions_keep_float32_whatever_the_type_of_the_weights(folder):
    exact, rounded = (dict(QAGenModel.from_pretrained(folder, dtype=dtype).model.named_buffers()) for dtype in TYPES)
    assert "model.rotary_emb.inv_freq" in exact
    assert all(torch.equal(exact[name], rounded[name]) for name in exact)
    assert QAGenModel.from_pretrained(folder, dtype=TYPES[1]).model.dtype == torch.bfloat16
