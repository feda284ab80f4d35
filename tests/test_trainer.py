"""What ContrastiveSeq2SeqTrainer computes: Seq2SeqTrainer's loss without negatives, the published one with them."""

import functools
import json
import math
import pickle

import pytest
import torch
from conftest import tiny_model, tiny_tokenizer
from contrastive_world import (
    PLAIN_DESCENT,
    arguments,
    assert_same_step,
    callback,
    emptied,
    rows,
    trainer,
    weights,
    without_dropout,
)
from datasets import Dataset, IterableDataset
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    LlamaForCausalLM,
    MistralForCausalLM,
    MptForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from hf_quals import ContrastiveSeq2SeqTrainer, DataCollatorForContrastiveSeq2Seq
from hf_quals.contrastive.losses import LOSSES
from hf_quals.judges.rouge import RougeScorer


FAMILIES = ["bart", "t5", "llama"]


def assert_close(left, right, **tolerance):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def moved(left, right):
    return any(not torch.equal(left[name], right[name]) for name in left)


# ---- Without negatives ----


@pytest.mark.parametrize("gradient_accumulation_steps", [1, 3])
@pytest.mark.parametrize("label_smoothing_factor", [0.0, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_negatives_it_is_seq2seq_trainer_to_the_bit(
    tmp_path, family, label_smoothing_factor, gradient_accumulation_steps
):
    found = []
    for trainer_class in (Seq2SeqTrainer, ContrastiveSeq2SeqTrainer):
        model = tiny_model(family)  # with dropout: the random numbers are the same as well
        run = trainer(
            family,
            tmp_path,
            model=model,
            trainer_class=trainer_class,
            data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(family), model=model),
            eval_dataset=rows(family, 5),
            label_smoothing_factor=label_smoothing_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            num_train_epochs=1,
        )
        before = weights(model)
        run.train()
        losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        assert moved(before, weights(model))
        found.append((losses, weights(model), run.evaluate()["eval_loss"]))
    (losses, expected, eval_loss), (own_losses, own, own_eval_loss) = found
    assert own_losses == losses
    assert own_eval_loss == eval_loss
    assert_close(own, expected, rtol=0, atol=0)


# ---- With negatives ----


def log_probs(family, model, row, summary):
    """log p of every token of the vocabulary at each place of one summary."""
    if family == "llama":
        prompt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        logits = model(input_ids=torch.tensor([prompt + summary])).logits[0, len(prompt) - 1 : -1]
    else:
        logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([summary])).logits[0]
    return logits.double().log_softmax(-1).tolist()


def literal_loss(family, model, data, epsilon):
    """The published loss (equation 2), one number at a time."""
    total, tokens = 0.0, 0
    for row in data:
        positive = [token for token in row["labels"] if token != -100]
        for summary, is_positive in ((positive, True), (row["negative_labels"], False)):
            if not summary:
                continue
            for token, distribution in zip(summary, log_probs(family, model, row, summary), strict=True):
                costs = [-log_p if is_positive else -math.log1p(-math.exp(log_p)) for log_p in distribution]
                total += (1 - epsilon) * costs[token] + epsilon * sum(costs) / len(costs)
                tokens += 1
    return total / tokens


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
# MPT derives distances from columns (ALiBi); a window hides tokens of a packed row that the summary would see.
MODELS = [
    (LlamaForCausalLM, {**SMALL, "intermediate_size": 32}, True),
    (MistralForCausalLM, {**SMALL, "intermediate_size": 32, "num_key_value_heads": 2, "sliding_window": 12}, False),
    (MptForCausalLM, {"d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}, False),
]


def one_batch(run, data):
    columns = ("input_ids", "attention_mask", "labels", "negative_labels")
    return run.data_collator([{name: row[name] for name in columns} for row in data])


@pytest.mark.parametrize("label_smoothing_factor", [0.0, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_published_formula(tmp_path, family, label_smoothing_factor):
    data = emptied(rows(family, 5, negatives=True), [1, 3])
    model = tiny_model(family)
    run = trainer(family, tmp_path, data=data, model=model, label_smoothing_factor=label_smoothing_factor)
    loss, outputs = run.compute_loss(model, one_batch(run, data), return_outputs=True)
    assert loss.item() == pytest.approx(literal_loss(family, model, data, label_smoothing_factor), rel=1e-5)
    assert outputs["logits"].shape[-1] == model.config.vocab_size


@pytest.mark.parametrize(("model_class", "changed", "shares"), MODELS)
def test_a_prompt_is_shared_where_the_model_shows_that_it_can_be(tmp_path, model_class, changed, shares):
    of_tiny = tiny_model("llama").config
    names = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "initializer_range")
    torch.manual_seed(0)
    config = model_class.config_class(**{name: getattr(of_tiny, name) for name in names}, **changed)
    model, data, columns = model_class(config).eval(), rows("llama", 4, negatives=True), []
    run = trainer("llama", tmp_path, data=data, model=model)
    batch = one_batch(run, data)
    loss = run.compute_loss(model, dict(batch))
    assert loss.item() == pytest.approx(literal_loss("llama", model, data, 0.0), rel=1e-5)
    model.get_input_embeddings().register_forward_hook(lambda _module, args, _output: columns.append(len(args[0])))
    run.compute_loss(model, dict(batch))
    assert columns == [4 if shares else 8]


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_a_batch_whose_rows_have_no_negative_has_seq2seq_trainers_loss(tmp_path, family):
    data = emptied(rows(family, 4, negatives=True), range(4))
    run = trainer(family, tmp_path, data=data)
    batch = one_batch(run, data)
    expected = Seq2SeqTrainer.compute_loss(run, run.model, dict(batch))
    assert torch.equal(run.compute_loss(run.model, dict(batch)), expected)


def pulled(positive, negative, label_smoothing=0.0, *, weight=1.0):
    """A user's own loss: as the Hellinger loss, with s- weighed otherwise."""
    sums = LOSSES["hellinger"](positive, negative, label_smoothing)
    return sums._replace(negative=weight * sums.negative)


def test_a_function_of_the_users_is_the_loss(tmp_path):
    data, model = rows("bart", 4, negatives=True), tiny_model("bart")
    losses = {}
    for loss in ("hellinger", pulled, functools.partial(pulled, weight=3.0)):
        run = trainer("bart", tmp_path, data=data, model=model, contrastive_loss=loss)
        losses[loss] = run.compute_loss(model, one_batch(run, data)).item()
    name, same, heavier = losses.values()
    assert same == name
    assert heavier > name


def test_a_function_is_saved_by_its_name_and_one_that_cannot_be_is_refused(tmp_path):
    args = arguments(tmp_path, contrastive_loss=pulled)
    assert args.contrastive_loss_name == f"{__name__}.pulled"
    assert json.loads(args.to_json_string())["contrastive_loss"] == f"{__name__}.pulled"
    assert pickle.loads(pickle.dumps(args)).contrastive_loss is pulled
    assert arguments(tmp_path).to_dict()["contrastive_loss"] == "unlikelihood"
    with pytest.raises(ValueError, match="must be a function of a module, which is saved by its name, got <function"):
        arguments(tmp_path, contrastive_loss=lambda *summaries: pulled(*summaries))


@pytest.mark.parametrize("loss", ["hellinger", "ranking"])
def test_other_losses_train_by_their_name(tmp_path, loss):
    model = tiny_model("bart")
    before = weights(model)
    run = trainer("bart", tmp_path, data=rows("bart", 4, negatives=True), model=model, contrastive_loss=loss)
    run.train()
    assert moved(before, weights(model))
    assert all(math.isfinite(entry["loss"]) for entry in run.state.log_history if "loss" in entry)


def trained(family, folder, data, model=None, **changed):
    """The weights after one pass over the data in its order, of a model without dropout."""
    model = without_dropout(tiny_model(family) if model is None else model)
    changed = {"num_train_epochs": 1, **PLAIN_DESCENT, **changed}
    run = trainer(family, folder, data=data, model=model, **changed)
    run.train()
    return weights(model), run


@pytest.mark.parametrize("label_smoothing_factor", [0.0, 0.1])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_accumulated_batches_of_two_are_one_batch_of_four(tmp_path, family, label_smoothing_factor):
    # The first batch has no negatives at all.
    data = emptied(rows(family, 4, negatives=True), [0, 1])
    changed = {"label_smoothing_factor": label_smoothing_factor}
    expected, _ = trained(family, tmp_path, data, per_device_train_batch_size=4, **changed)
    accumulated = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    own, run = trained(family, tmp_path, data, **accumulated, **changed)
    assert run.state.global_step == 1
    loss = literal_loss(family, without_dropout(tiny_model(family)), data, label_smoothing_factor)
    assert run.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-4)
    assert_same_step(weights(tiny_model(family)), own, expected)


class Listed(torch.utils.data.Dataset):
    """A set whose columns are not known beforehand."""

    def __init__(self, data):
        self.rows = [row if row["negative_labels"] else without(row, "negative_labels") for row in data]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def without(row, name):
    return {column: value for column, value in row.items() if column != name}


def stream_of_unknown_columns(data):
    read = Listed(data).rows
    stream = IterableDataset.from_generator(lambda: iter(read))
    assert stream.column_names is None
    return stream


@pytest.mark.parametrize("as_set", [Listed, Dataset.to_iterable_dataset, stream_of_unknown_columns])
def test_rows_weigh_alike_whatever_is_known_of_their_set_beforehand(tmp_path, as_set):
    table = emptied(rows("bart", 4, negatives=True), [0, 1])
    expected, _ = trained("bart", tmp_path, table, per_device_train_batch_size=4)
    data = as_set(table)
    changed = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 1}
    own, run = trained("bart", tmp_path, data, **changed)
    assert run.state.global_step == 1
    assert_same_step(weights(tiny_model("bart")), own, expected)
    run.save_model(str(tmp_path / "saved"))
    assert "## Contrastive training" in (tmp_path / "saved" / "README.md").read_text()


def test_the_parts_of_the_loss_are_logged_and_the_negatives_probability_falls(tmp_path):
    data = rows("bart", 4, negatives=True)
    changed = {"per_device_train_batch_size": 4, "num_train_epochs": 40, "learning_rate": 1e-2}
    model = without_dropout(tiny_model("bart"))
    # First the model learns to write what it shall then avoid.
    wrong = Dataset.from_list([{"input_ids": row["input_ids"], "labels": row["negative_labels"]} for row in data])
    trainer("bart", tmp_path, data=wrong, model=model, **changed).train()
    probabilities = [
        math.exp(distribution[token])
        for row in data
        for token, distribution in zip(
            row["negative_labels"], log_probs("bart", model, row, row["negative_labels"]), strict=True
        )
    ]
    run = trainer("bart", tmp_path, data=data, model=model, **changed)
    run.train()
    logs = [entry for entry in run.state.log_history if "loss" in entry]
    assert logs[0]["negative_prob"] == pytest.approx(sum(probabilities) / len(probabilities), abs=1e-4)
    assert logs[0]["negative_prob"] > 0.5
    assert logs[-1]["negative_prob"] < 0.2
    assert logs[-1]["negative_loss"] < logs[0]["negative_loss"]
    assert logs[-1]["positive_loss"] < logs[0]["positive_loss"]
    # Together they are the loss: each part by its number of tokens.
    positive, negative = (sum(len(row[name]) for row in data) for name in ("labels", "negative_labels"))
    parts = logs[0]["positive_loss"] * positive + logs[0]["negative_loss"] * negative
    assert logs[0]["loss"] == pytest.approx(parts / (positive + negative), abs=1e-4)


def test_a_second_training_logs_the_parts_of_its_own_steps(tmp_path):
    changed = {"data": rows("bart", negatives=True), **PLAIN_DESCENT, "learning_rate": 0.0, "logging_steps": 2}
    first = trainer("bart", tmp_path, model=without_dropout(tiny_model("bart")), **changed, max_steps=1)
    first.train()  # ends before anything is logged
    first.args.max_steps = 2
    first.train()
    again = trainer("bart", tmp_path, model=without_dropout(tiny_model("bart")), **changed, max_steps=2)
    again.train()
    logged = [next(log for log in run.state.log_history if "positive_loss" in log) for run in (first, again)]
    assert logged[0] == pytest.approx(logged[1])


def test_nothing_is_logged_of_negatives_that_are_not_there(tmp_path):
    run = trainer("bart", tmp_path, num_train_epochs=1)
    run.train()
    assert not any("negative_prob" in entry for entry in run.state.log_history)


# ---- Ways to train ----


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_takes_the_same_step(tmp_path, family):
    data = rows(family, 4, negatives=True)
    expected, _ = trained(family, tmp_path, data)
    own, _ = trained(family, tmp_path, data, activation_checkpointing=True)
    assert_same_step(weights(tiny_model(family)), own, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_autocast_computes_the_loss_of_float32(tmp_path, family):
    data = rows(family, 4, negatives=True)
    changed = {"per_device_train_batch_size": 4, "label_smoothing_factor": 0.1}
    losses = []
    for bf16 in (False, True):
        own, run = trained(family, tmp_path, data, bf16=bf16, **changed)
        losses.append(run.state.log_history[0]["loss"])
        assert all(torch.isfinite(weight).all() for weight in own.values())
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_trained_and_its_base_is_not(tmp_path, family):
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(family), LoraConfig(r=2, target_modules="all-linear"))
    before = weights(model)
    run = trainer(family, tmp_path, data=rows(family, 4, negatives=True), model=model, num_train_epochs=2)
    run.train()
    changed = {name for name, weight in weights(model).items() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert run.state.log_history[0]["negative_prob"] > 0


def test_a_prompt_of_virtual_tokens_is_trained(tmp_path):
    torch.manual_seed(0)
    config = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model("llama"), config)
    before = weights(model)
    chooser = callback(RougeScorer(), positive_share=1.0, num_triples=2)
    run = trainer("llama", tmp_path, model=model, callbacks=[chooser], num_train_epochs=1)
    run.train()
    changed = {name for name, weight in weights(model).items() if not torch.equal(weight, before[name])}
    assert changed == {"prompt_encoder.default.embedding.weight"}


@pytest.mark.parametrize(
    "config",
    [
        PromptEncoderConfig(num_virtual_tokens=2, encoder_hidden_size=4, task_type="SEQ_2_SEQ_LM"),
        PrefixTuningConfig(
            num_virtual_tokens=2, encoder_hidden_size=4, prefix_projection=True, task_type="SEQ_2_SEQ_LM"
        ),
    ],
)
def test_what_a_checkpoint_does_not_hold_is_not_read_back(tmp_path, config):
    model = get_peft_model(tiny_model("bart"), config)
    run = trainer("bart", tmp_path, model=model, save_strategy="epoch", num_train_epochs=1)
    run.train()
    with pytest.raises(ValueError, match="resume_from_checkpoint=True reads an adapter back, but of "):
        run.train(resume_from_checkpoint=True)
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    with pytest.raises(ValueError, match="load_best_model_at_end=True reads an adapter back"):
        trainer("bart", tmp_path, model=model, eval_dataset=rows("bart", 2), **best)


def test_a_tuned_prompt_is_read_back(tmp_path):
    model = get_peft_model(tiny_model("bart"), PromptTuningConfig(num_virtual_tokens=2, task_type="SEQ_2_SEQ_LM"))
    run = trainer("bart", tmp_path, model=model, save_strategy="epoch", num_train_epochs=2)
    run.train()
    unbroken = weights(model)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert_close(weights(model), unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bart", "llama"])
def test_torch_compile_takes_the_same_step(tmp_path, family):
    data = rows(family, 2, negatives=True)
    expected, _ = trained(family, tmp_path, data)
    own, _ = trained(family, tmp_path, data, torch_compile=True, torch_compile_backend="aot_eager")
    assert_same_step(weights(tiny_model(family)), own, expected)


def test_a_model_made_by_model_init_gets_its_decoder_inputs_from_the_default_collator(tmp_path):
    run = trainer("bart", tmp_path, model_init=lambda: tiny_model("bart"), label_smoothing_factor=0.1)
    assert "decoder_input_ids" in next(iter(run.get_train_dataloader()))


# ---- Evaluation ----


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_predict_with_generate_gives_what_greedy_search_writes(tmp_path, family, with_negatives):
    data, seen = rows(family, 5, negatives=with_negatives), []

    def compute_metrics(prediction):
        seen.append((prediction.predictions, prediction.label_ids))
        return {"seen": 1.0}

    changed = {"predict_with_generate": True, "generation_max_length": 9, "per_device_eval_batch_size": 2}
    model = tiny_model(family)
    run = trainer(family, tmp_path, model=model, eval_dataset=data, compute_metrics=compute_metrics, **changed)
    metrics = run.evaluate()
    assert metrics["eval_seen"] == 1.0

    tokenizer, [(predictions, labels)] = tiny_tokenizer(family), seen
    for row, prediction, label in zip(data, predictions, labels, strict=True):
        references = [token for token in row["labels"] if token != -100]
        prompt = row["input_ids"][: -len(references)] if family == "llama" else row["input_ids"]
        limit = {"max_new_tokens": 9} if family == "llama" else {"max_length": 9}
        expected = model.generate(torch.tensor([prompt]), pad_token_id=0, do_sample=False, **limit)[0]
        expected = expected[len(prompt) :] if family == "llama" else expected
        written = [token for token in prediction if token != -100]
        assert tokenizer.decode(written, skip_special_tokens=True) == tokenizer.decode(
            expected, skip_special_tokens=True
        )
        assert [token for token in label if token not in (-100, 0)] == references


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_the_loss_of_an_evaluation_is_the_likelihoods(tmp_path, family):
    losses = [
        trainer(family, tmp_path, eval_dataset=rows(family, 4, negatives=negatives)).evaluate()["eval_loss"]
        for negatives in (False, True)
    ]
    assert losses[0] == losses[1]


def test_prompts_without_labels_are_continued(tmp_path):
    tokenizer, model = tiny_tokenizer("llama"), tiny_model("llama")
    data = Dataset.from_list([dict(tokenizer(text)) for text in ("ann ran?", "bob sat on sun?")])
    run = trainer("llama", tmp_path, model=model, predict_with_generate=True, generation_max_length=4)
    predictions = run.predict(data)
    expected = model.generate(torch.tensor([data[1]["input_ids"]]), pad_token_id=0, max_new_tokens=4)[0, -4:]
    assert predictions.predictions[1].tolist() == expected.tolist()
    assert predictions.label_ids is None


# ---- Bad input ----


def test_a_tokenizer_without_pad_token_is_refused(tmp_path):
    tokenizer = tiny_tokenizer("bart")
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="has no pad token: set one"):
        trainer("bart", tmp_path, processing_class=tokenizer)


def test_a_missing_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="processing_class is missing"):
        trainer("bart", tmp_path, processing_class=None)


def test_arguments_of_another_class_and_unknown_losses_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be ContrastiveSeq2SeqTrainingArguments, got Seq2SeqTrainingArguments"):
        ContrastiveSeq2SeqTrainer(tiny_model("bart"), Seq2SeqTrainingArguments(str(tmp_path)))
    with pytest.raises(
        ValueError, match="contrastive_loss must be one of unlikelihood, hellinger, ranking, or a function, got 'x'"
    ):
        arguments(tmp_path, contrastive_loss="x")


def test_a_loss_function_beside_the_trainers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="compute_loss_func replaces the loss"):
        ContrastiveSeq2SeqTrainer(tiny_model("bart"), arguments(tmp_path), compute_loss_func=lambda *_, **__: None)


def test_without_a_processing_class_checkpoints_hold_the_collators_tokenizer(tmp_path):
    collator = DataCollatorForSeq2Seq(tiny_tokenizer("bart"))
    run = trainer("bart", tmp_path, data_collator=collator, processing_class=None)
    run.save_model(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").vocab_size == tiny_tokenizer("bart").vocab_size


def test_a_contrastive_collator_of_the_users_is_not_wrapped_again(tmp_path):
    own = DataCollatorForContrastiveSeq2Seq(DataCollatorForSeq2Seq(tiny_tokenizer("bart")), pad_to_multiple_of=16)
    data = rows("bart", 4, negatives=True)
    run = trainer("bart", tmp_path, data=data, data_collator=own)
    assert one_batch(run, data)["negative_labels"].shape[1] == 16


def test_what_proves_that_prompts_can_be_shared_goes_through_the_wrappers(tmp_path):
    """FSDP 2 takes the first module that is called for its root: an adapter's base must not be called alone."""
    model = get_peft_model(tiny_model("llama"), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    run, calls = trainer("llama", tmp_path, model=model), []
    model.register_forward_pre_hook(lambda *_: calls.append("root"))
    run.base_model.register_forward_pre_hook(lambda *_: calls.append("base"))
    assert run._prove_packing() > 0
    assert calls == ["root", "base"] * 3


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_a_model_of_which_the_parent_writes_nothing_has_its_card_all_the_same(tmp_path, family, monkeypatch):
    """As with a sharded state dict."""
    run = trainer(family, tmp_path, data=rows(family, 4, negatives=True))
    monkeypatch.setattr(Seq2SeqTrainer, "save_model", lambda *_: None)
    run.save_model(str(tmp_path / "checkpoint-1"))
    assert "## Contrastive training" in (tmp_path / "checkpoint-1" / "README.md").read_text()


def test_data_parallel_is_refused(tmp_path):
    class TwoGpus(type(arguments(tmp_path))):
        n_gpu = 2

    with pytest.raises(ValueError, match="one process a GPU"):
        ContrastiveSeq2SeqTrainer(
            tiny_model("bart"),
            TwoGpus(str(tmp_path), report_to="none", use_cpu=True),
            train_dataset=rows("bart"),
            processing_class=tiny_tokenizer("bart"),
        )
