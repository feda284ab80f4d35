"""Two processes choose and train as one does with the same global batch, the model whole in each or sharded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_run
from conftest import tiny_model
from contrastive_world import PLAIN_DESCENT, assert_same_step, weights
from safetensors.torch import load_file


CONFIGS = Path(__file__).parent.parent / "recipes" / "accelerate"

pytestmark = pytest.mark.alone


def launcher(num_processes, sharded):
    if num_processes == 1:
        return [sys.executable]
    if sharded is None:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", num_processes]
    config = ["--config_file", CONFIGS / f"{sharded}.yaml", "--mixed_precision", "no", "--main_process_port", 0]
    return [sys.executable, "-m", "accelerate.commands.launch", *config, "--num_processes", num_processes]


def trained(folder, num_processes, *options, sharded=None, **arguments):
    """The weights and `run.json` of a run with four rows a step; `sharded` is one of Accelerate's configurations."""
    arguments = {**PLAIN_DESCENT, "per_device_train_batch_size": 4 // num_processes, **arguments}
    if sharded is not None:
        arguments["use_cpu"] = False
    elif num_processes > 1:
        arguments["ddp_backend"] = "gloo"
    options = [folder, "--no-dropout", "--arguments", json.dumps(arguments), *options]
    options += [] if sharded is None else ["--sharded"]
    command = list(map(str, [*launcher(num_processes, sharded), training_run.__file__, *options]))
    # One thread a process, as torchrun has it: sums of several threads round otherwise.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert result.returncode == 0, result.stderr
    return load_file(folder / "weights.safetensors"), json.loads((folder / "run.json").read_text())


def logged(run, name):
    return [entry[name] for entry in run["log"] if name in entry]


def assert_same_run(family, both, alone):
    """The same candidates, scores, triples, losses and evaluations, and weights to 1e-4."""
    (own, run), (expected, expected_run) = both, alone
    assert run["triples"] == expected_run["triples"]
    assert run["reference_scores"] == pytest.approx(expected_run["reference_scores"], abs=1e-4, nan_ok=True)
    for (token_ids, scores), (expected_ids, expected_scores) in zip(
        run["candidates"], expected_run["candidates"], strict=True
    ):
        assert token_ids == expected_ids
        assert scores == pytest.approx(expected_scores, abs=1e-4, nan_ok=True)
    for name in ("loss", "positive_loss", "negative_loss", "negative_prob", "eval_quals", "eval_quals_unscored"):
        assert len(logged(run, name)) > 1
        assert logged(run, name) == pytest.approx(logged(expected_run, name), abs=2e-4, nan_ok=True)
    assert run["calls"] < expected_run["calls"]  # of the first process: the work is shared
    for name, weight in expected.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=1e-4)
    assert_same_step(weights(tiny_model(family)), own, expected)


@pytest.mark.slow
def test_candidates_scores_triples_and_weights_are_those_of_one_process(tmp_path):
    # The second process gets one row less to sample for, and none to train on twice.
    options = ("--num-rows", 15, "--num-triples", 8)
    alone = trained(tmp_path / "alone", 1, *options, eval_strategy="epoch")
    assert_same_run("bart", trained(tmp_path / "both", 2, *options, eval_strategy="epoch"), alone)


@pytest.mark.slow
@pytest.mark.parametrize(("sharded", "family"), [("fsdp2", "llama"), ("deepspeed_zero2", "bart")])
def test_sharded_over_two_processes_a_refreshed_training_is_that_of_one(tmp_path, sharded, family):
    if sharded.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    options = ("--family", family, "--num-rows", 15, "--num-triples", 8)
    alone = trained(tmp_path / "alone", 1, *options, eval_strategy="epoch")
    both = trained(tmp_path / "both", 2, *options, sharded=sharded, eval_strategy="epoch")
    assert both[1]["kind"] == ("FSDP" if sharded == "fsdp2" else "DEEPSPEED")
    assert_same_run(family, both, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "sharded"), [("bart", None), ("llama", None), ("llama", "fsdp2")])
def test_negatives_that_only_one_process_has_weigh_as_in_one_process(tmp_path, family, sharded):
    options = ("--family", family, "--num-rows", 8, "--fixed-negatives")
    expected, alone = trained(tmp_path / "alone", 1, *options, num_train_epochs=1)
    own, both = trained(tmp_path / "both", 2, *options, sharded=sharded, num_train_epochs=1)
    assert logged(both, "loss") == pytest.approx(logged(alone, "loss"), rel=1e-4)
    assert_same_step(weights(tiny_model(family)), own, expected)


@pytest.mark.slow
def test_an_adapter_whose_base_is_sharded_trains_on_negatives_as_in_one_process(tmp_path):
    """That a prompt can be shared is proved at the first step, of the sharded model."""
    options = ("--family", "llama", "--num-rows", 8, "--fixed-negatives", "--lora")
    expected, alone = trained(tmp_path / "alone", 1, *options, num_train_epochs=1, learning_rate=0.1)
    own, both = trained(tmp_path / "both", 2, *options, sharded="fsdp2", num_train_epochs=1, learning_rate=0.1)
    assert logged(both, "loss") == pytest.approx(logged(alone, "loss"), rel=1e-4)
    learned = [name for name in expected if "lora_B" in name]
    assert learned
    for name in learned:
        assert expected[name].abs().max() > 1e-3  # zero at the start
        torch.testing.assert_close(own[name], expected[name], rtol=0, atol=1e-4)
