"""What is refused before hours of sampling, and before weights are saved."""

import copy
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_model
from contrastive_world import callback, rows, trainer, weights

from hf_quals import Scorer
from hf_quals.contrastive.checks import check_weights, try_step


class Rule(Scorer):
    """Counts how often it is asked."""

    name = "rule"
    calls = 0

    def score(self, documents, summaries, *, references=None, batch_size=8):
        self.calls += 1
        return [SimpleNamespace(score=float(sum(map(ord, summary)) % 97)) for summary in summaries]


def asked_nothing(folder, match, error=ValueError, model=None, chosen=None, **changed):
    """The error of a training that ends before the scorer was asked, and before a weight has moved."""
    model = tiny_model("bart") if model is None else model
    before, scorer = weights(model), Rule()
    run = trainer("bart", folder, model=model, callbacks=[callback(scorer, **(chosen or {}))], **changed)
    with pytest.raises(error, match=match) as caught:
        run.train()
    assert scorer.calls == 0
    assert all(torch.equal(before[name], value) or value.isnan().any() for name, value in weights(model).items())
    return caught.value


# ---- The trial of a step ----


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_trial_of_a_step_is_one_in_the_types_and_of_no_more_rows_than_training(tmp_path, batch_size):
    model, seen = tiny_model("llama"), []
    layer = model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda _module, _args, output: seen.append((output.dtype, len(output))))
    changed = {"bf16": True, "per_device_train_batch_size": batch_size}
    run = trainer("llama", tmp_path, model=model, callbacks=[callback()], **changed)
    try_step(run, run.quals_callback._rows(run.train_dataset.dataset, "training"), run.quals_callback.config)
    assert seen[-1] == (torch.bfloat16, min(2, batch_size))


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_the_trial_of_a_step_leaves_no_trace(tmp_path, family):
    model = tiny_model(family)
    model.register_buffer("num_passes", torch.zeros(3))
    passes = []

    def draw_numbers(module, args, output):
        module.num_passes += torch.rand(3)
        passes.append((module.training, random.random() + np.random.rand()))

    model.register_forward_hook(draw_numbers)
    run = trainer(family, tmp_path, model=model, callbacks=[callback()], predict_with_generate=True)
    model.train()
    frozen = next(model.children())
    frozen.eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, number) if number % 2 else None

    def everything():
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        gradients = [parameter.grad for parameter in model.parameters()]
        modes = [module.training for module in model.modules()]
        return copy.deepcopy((states, gradients, modes, model.state_dict(), run._sums, run.state, run.control))

    before, ids = everything(), [id(parameter.grad) for parameter in model.parameters()]
    try_step(run, run.quals_callback._rows(run.train_dataset.dataset, "training"), run.quals_callback.config)
    assert str(everything()) == str(before)
    for own, expected in zip(everything()[3].values(), before[3].values(), strict=True):
        assert torch.equal(own, expected)
    assert [id(parameter.grad) for parameter in model.parameters()] == ids
    # It has generated, and trained.
    assert {mode for mode, _ in passes} == {True, False}


def ignoring(positive, negative, label_smoothing=0.0):
    raise NotImplementedError("no such loss yet")


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"contrastive_loss": ignoring}, NotImplementedError, "no such loss yet"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, ValueError, "min_lr"),
        ({"optim": "galore_adamw"}, (ValueError, ImportError), "(?i)galore"),
    ],
)
def test_what_ends_a_step_ends_training_before_anything_is_sampled(tmp_path, changed, error, match):
    [note] = asked_nothing(tmp_path, match, error, chosen={"num_triples": None}, **changed).__notes__
    assert "trial of one step" in note


@pytest.mark.parametrize(("name", "value"), [("stop_strings", ["ann"]), ("num_return_sequences", 3)])
def test_what_ends_the_summaries_of_an_evaluation_ends_training_before_anything_is_sampled(tmp_path, name, value):
    model = tiny_model("bart")
    setattr(model.generation_config, name, value)
    asked_nothing(tmp_path, name.replace("_", ".?"), model=model)


def test_a_model_that_is_broken_already_is_refused(tmp_path):
    model = tiny_model("bart")
    with torch.no_grad():
        model.lm_head.weight[5, 0] = math.nan
    asked_nothing(tmp_path, "loss behind step 0 is nan", FloatingPointError, model=model)


# ---- Rows of a batch ----


@pytest.mark.parametrize(
    ("chosen", "batch_size", "match"),
    [
        ({"num_triples": 3}, 4, "3 triples at most, and the batches of all processes take 4"),
        ({"num_triples": None, "positive_share": 0.1}, 4, "2 triples at most"),
        ({"num_triples": 2, "include_rest": True}, 17, "16 triples at most"),
    ],
)
def test_batches_that_are_all_dropped_are_refused(tmp_path, chosen, batch_size, match):
    changed = {"dataloader_drop_last": True, "per_device_train_batch_size": batch_size}
    asked_nothing(tmp_path, match, chosen=chosen, **changed)


def test_what_a_first_selection_has_scored_is_kept_where_its_triples_fill_no_batch(tmp_path):
    # At most round(0.7 * 16) = 11 documents are in both shares, and these are fewer.
    changed = {"per_device_train_batch_size": 11, "num_train_epochs": 1}
    run = trainer("bart", tmp_path, callbacks=[callback(Rule(), num_triples=None)], **changed)
    run.args.dataloader_drop_last = True
    with pytest.raises(ValueError, match="dataloader_drop_last=True leaves no step"):
        run.train()
    assert 0 < len(run.train_dataset) < 11
    scorer = Rule()
    trainer("bart", tmp_path, callbacks=[callback(scorer, num_triples=None, positive_share=1.0)], **changed).train()
    assert scorer.calls == 0


# ---- Generation settings ----


@pytest.mark.parametrize(("name", "value"), [("num_return_sequences", 3), ("return_dict_in_generate", True)])
def test_generation_settings_that_give_more_than_a_summary_each(tmp_path, name, value):
    model = tiny_model("bart")
    setattr(model.generation_config, name, value)
    model.generation_config.num_beams = 3
    changed = {"eval_dataset": rows("bart", 3), "eval_strategy": "epoch", "num_train_epochs": 1}
    run = trainer("bart", tmp_path, model=model, callbacks=[callback(Rule())], **changed)
    run.train()  # samples and summaries of the callback are one sequence each
    assert all("eval_rule" in entry for entry in run.state.log_history if "eval_loss" in entry)
    with pytest.raises(ValueError, match=f"generation_config has {name}={value}: set it to"):
        trainer("bart", tmp_path, model=model, callbacks=[callback()], predict_with_generate=True, **changed)


# ---- Divergence ----


def diverging(folder, callbacks=(), **changed):
    data = rows("bart", 8, negatives=not callbacks)
    return trainer("bart", folder, data=data, callbacks=list(callbacks), optim="sgd", max_grad_norm=0.0, **changed)


@pytest.mark.parametrize("with_callback", [True, False])
def test_a_loss_that_is_not_finite_ends_training_before_it_changes_the_weights(tmp_path, with_callback):
    callbacks = [callback(Rule())] if with_callback else []
    run = diverging(tmp_path, callbacks, learning_rate=1e25)
    with pytest.raises(FloatingPointError, match=r"The loss behind step [12] is (nan|inf), .* lower learning_rate"):
        run.train()
    check_weights(run.model)


@pytest.mark.parametrize("with_callback", [True, False])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, with_callback):
    callbacks = [callback(Rule())] if with_callback else []
    run = diverging(tmp_path, callbacks, learning_rate=math.inf, save_strategy="steps", save_steps=1)
    with pytest.raises(FloatingPointError, match=r"The weights of .* are not finite: .* they are not saved"):
        run.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    with pytest.raises(FloatingPointError, match="are not finite"):
        run.save_model(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_a_run_that_ends_with_weights_that_are_not_finite_says_so(tmp_path):
    run = diverging(tmp_path, [callback(Rule())], learning_rate=math.inf, max_steps=1)
    with pytest.raises(FloatingPointError, match="are not finite"):
        run.train()
