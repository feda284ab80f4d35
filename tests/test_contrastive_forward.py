"""One pass for both summaries equals one pass a summary, for every family."""

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from contrastive_world import rows, without_dropout
from peft import (
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from transformers import (
    BlenderbotConfig,
    BlenderbotForConditionalGeneration,
    DataCollatorForSeq2Seq,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_quals import DataCollatorForContrastiveSeq2Seq
from hf_quals.contrastive.forward import (
    forward_decoder_only,
    forward_encoder_decoder,
    split_prompts,
)


def batch(family, side="right"):
    tokenizer = tiny_tokenizer(family)
    tokenizer.padding_side = side
    data = rows(family, 4, negatives=True)
    features = [
        {name: row[name] for name in ("input_ids", "attention_mask", "labels", "negative_labels")} for row in data
    ]
    return DataCollatorForContrastiveSeq2Seq(DataCollatorForSeq2Seq(tokenizer))(features), features


def both(family, model, inputs, **options):
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    if family == "llama":
        return forward_decoder_only(model, base, inputs, 0, **options)
    return forward_encoder_decoder(model, base, inputs, **options)


def log_prob(family, model, row, summary):
    """log p of each token of a summary, a row and a summary at a time: the slow way."""
    if family == "llama":
        prompt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        logits = model(input_ids=torch.tensor([prompt + summary])).logits[0, len(prompt) - 1 : -1]
    else:
        logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([summary])).logits[0]
    return logits.log_softmax(-1)[range(len(summary)), summary]


def adapted(model):
    torch.manual_seed(1)
    lora = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return lora.eval()


@pytest.mark.parametrize("share_document", [True, False])
@pytest.mark.parametrize("with_adapter", [False, True])
@pytest.mark.parametrize("family", ["bart", "t5", "llama"])
def test_logits_are_those_of_a_pass_for_each_summary(family, with_adapter, share_document):
    model = tiny_model(family)
    model = adapted(model) if with_adapter else model
    inputs, features = batch(family)
    output = both(family, model, inputs, share_document=share_document)
    sides = [
        (output.positive.logits, output.positive.labels, [[t for t in row["labels"] if t >= 0] for row in features]),
        (output.negative.logits, output.negative.labels, [row["negative_labels"] for row in features]),
    ]
    for logits, labels, summaries in sides:
        assert logits.shape[:2] == labels.shape
        for number, (row, summary) in enumerate(zip(features, summaries, strict=True)):
            assert labels[number, : len(summary)].tolist() == summary
            found = logits[number].log_softmax(-1)[range(len(summary)), summary]
            torch.testing.assert_close(found, log_prob(family, model, row, summary), atol=1e-4, rtol=5e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_shared_prompt_gives_the_gradients_of_two_sequences(attention, side):
    model = tiny_model("llama")
    model.set_attn_implementation(attention)
    inputs, _ = batch("llama", side)
    shared, plain = (gradients("llama", model, inputs, share_document=share) for share in (True, False))
    assert_same_gradients(shared, plain)


# mBART derives the decoder's start from a row's last token; the others derive nothing from labels outside `forward`.
STARTS = {
    "mbart": (MBartConfig, MBartForConditionalGeneration),
    "m2m_100": (M2M100Config, M2M100ForConditionalGeneration),
    "blenderbot": (BlenderbotConfig, BlenderbotForConditionalGeneration),
}


def tiny_as_bart(name, **changed):
    """A model of another family, as small as the tiny BART and with its tokens."""
    config_class, model_class = STARTS[name]
    names = (
        *("vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim"),
        *("encoder_attention_heads", "decoder_attention_heads", "init_std", "max_position_embeddings"),
        *("pad_token_id", "bos_token_id", "eos_token_id"),
    )
    values = {key: getattr(tiny_model("bart").config, key) for key in names}
    torch.manual_seed(0)
    return model_class(config_class(**values, **{"decoder_start_token_id": 7, **changed})).eval()


@pytest.mark.parametrize("name", STARTS)
def test_the_decoder_starts_as_generate_does_whatever_the_summarys_last_token(name):
    model = tiny_as_bart(name)
    inputs, features = batch("bart")
    # As cut off: the last token is no end-of-sequence.
    inputs["negative_labels"][:, -1:] = -100
    features = [
        {**row, "negative_labels": [t for t in n if t >= 0]}
        for row, n in zip(features, inputs["negative_labels"].tolist(), strict=True)
    ]
    output = forward_encoder_decoder(model, model, inputs)
    for side, summaries in (
        (output.positive, [row["labels"] for row in features]),
        (output.negative, [row["negative_labels"] for row in features]),
    ):
        for number, (row, summary) in enumerate(zip(features, summaries, strict=True)):
            start = [7, *summary[:-1]]
            alone = model(input_ids=torch.tensor([row["input_ids"]]), decoder_input_ids=torch.tensor([start])).logits
            torch.testing.assert_close(side.logits[number, : len(summary)], alone[0], atol=1e-4, rtol=1e-4)
    written = model.generate(torch.tensor([features[0]["input_ids"]]), max_new_tokens=1)
    assert written[0, 0] == 7


def test_a_decoder_starts_with_the_beginning_of_a_text_if_nothing_else_is_named_and_is_refused_without():
    model, (inputs, _) = tiny_as_bart("m2m_100", decoder_start_token_id=None), batch("bart")
    logits = forward_encoder_decoder(model, model, inputs).positive.logits
    model.generation_config.decoder_start_token_id = 1  # the tokenizer's <s>
    assert torch.equal(forward_encoder_decoder(model, model, inputs).positive.logits, logits)
    model.generation_config.decoder_start_token_id = model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match=r"set model\.generation_config\.decoder_start_token_id"):
        forward_encoder_decoder(model, model, inputs)


def with_virtual_tokens(family, config_class):
    changed = {"encoder_hidden_size": 8} if config_class is PromptEncoderConfig else {}
    task = "CAUSAL_LM" if family == "llama" else "SEQ_2_SEQ_LM"
    torch.manual_seed(1)
    return get_peft_model(tiny_model(family), config_class(num_virtual_tokens=3, task_type=task, **changed)).eval()


@pytest.mark.parametrize("config_class", [PromptTuningConfig, PromptEncoderConfig, PrefixTuningConfig])
@pytest.mark.parametrize("family", ["bart", "llama"])
def test_behind_virtual_tokens_logits_are_those_of_a_pass_for_each_summary(family, config_class):
    model, (inputs, features) = with_virtual_tokens(family, config_class), batch(family)
    output = both(family, model, inputs, share_document=family != "llama")
    for side, column in ((output.positive, "labels"), (output.negative, "negative_labels")):
        for number, row in enumerate(features):
            summary = [token for token in row[column] if token >= 0]
            ids = row["input_ids"]
            if family == "llama":
                ids = [token for token, label in zip(ids, row["labels"], strict=True) if label == -100] + summary
            tensors = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
            if family == "llama":
                alone = model(**tensors).logits[0, -len(summary) - 1 : -1]
            else:
                alone = model(**tensors, labels=torch.tensor([summary])).logits[0]
            torch.testing.assert_close(side.logits[number, : len(summary)], alone, atol=1e-4, rtol=1e-4)


def rows_read(module):
    """A list that grows by the number of rows whenever the module is called."""
    found = []
    module.register_forward_hook(lambda _module, args, output: found.append(len(args[0])))
    return found


def cross_attention_keys(family, model):
    attention = model.get_decoder()
    return (
        attention.layers[1].encoder_attn.k_proj if family == "bart" else attention.block[1].layer[1].EncDecAttention.k
    )


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_encoder_and_keys_of_the_cross_attention_are_computed_once_a_document(family):
    model = tiny_model(family)
    keys = cross_attention_keys(family, model)
    num_hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    inputs, _ = batch(family)
    both(family, model, inputs)
    assert num_hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    encoder_rows, key_rows = rows_read(model.get_encoder().get_input_embeddings()), rows_read(keys)
    both(family, model, inputs)
    both(family, model, inputs, share_document=False)
    assert (encoder_rows, key_rows) == ([4, 8], [4, 8])


def gradients(family, model, inputs, **options):
    """Of a loss that weighs the two sides differently."""
    model.zero_grad()
    output = both(family, model, inputs, **options)
    positive, negative = output.positive.labels >= 0, output.negative.labels >= 0
    (output.positive.logits[positive].square().sum() - output.negative.logits[negative].sum()).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def assert_same_gradients(found, expected):
    # The gradient of a bias of attention's keys is 0 but for rounding.
    largest = max(gradient.abs().max().item() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        atol = max(1e-4 * other.abs().max().item(), 1e-6 * largest)
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("with_adapter", [False, True])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_a_shared_document_gives_the_gradients_of_two(family, with_adapter):
    model = tiny_model(family)
    model = adapted(model) if with_adapter else model
    inputs, _ = batch(family)
    shared, plain = (gradients(family, model, inputs, share_document=share) for share in (True, False))
    assert_same_gradients(shared, plain)


@pytest.mark.parametrize("wrapped", ["by the model", "by FSDP"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_layers_that_run_again_in_the_backward_pass_find_what_they_found(family, wrapped):
    model, checkpointed = tiny_model(family), without_dropout(tiny_model(family)).train()
    if wrapped == "by FSDP":
        apply_activation_checkpointing(
            checkpointed, check_fn=lambda module: isinstance(module, GradientCheckpointingLayer)
        )
    else:
        checkpointed.gradient_checkpointing_enable()
    inputs, _ = batch(family)
    calls = rows_read(cross_attention_keys(family, checkpointed))
    assert_same_gradients(gradients(family, checkpointed, inputs), gradients(family, model, inputs))
    assert calls == [8, 8]


def test_a_row_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="mask no prompt"):
        split_prompts({"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[5, 6]])})


@pytest.mark.parametrize("labels", [[-100, 6, -100], [5, -100, 7]])
def test_a_row_with_a_token_of_no_label_behind_the_summarys_first_is_refused(labels):
    with pytest.raises(ValueError, match="-100 on a token behind the summary's first"):
        split_prompts({"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([labels])})


def test_prompts_and_summaries_are_split_where_the_labels_begin():
    prompts, summaries = split_prompts(
        {
            "input_ids": torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]]),
            "labels": torch.tensor([[-100, 6, 7, -100], [-100, -100, -100, 11]]),
            "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
        }
    )
    assert [prompt.tolist() for prompt in prompts] == [[5], [8, 9, 10]]
    assert [summary.tolist() for summary in summaries] == [[6, 7], [11]]
