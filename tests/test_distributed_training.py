"""Two processes choose and train as one does with the same global batch."""

import json
import os
import subprocess
import sys

import pytest
import training_run
from conftest import tiny_model
from contrastive_world import PLAIN_DESCENT, assert_same_step, weights
from safetensors.torch import load_file


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def trained(folder, num_processes, *options, **arguments):
    """The weights and `run.json` of a run with four rows a step."""
    arguments = {**PLAIN_DESCENT, "per_device_train_batch_size": 4 // num_processes, **arguments}
    if num_processes > 1:
        arguments["ddp_backend"] = "gloo"
    options = [folder, "--no-dropout", "--arguments", json.dumps(arguments), *options]
    options = list(map(str, options))
    launcher = [sys.executable] if num_processes == 1 else [*TORCHRUN, str(num_processes)]
    command = [*launcher, training_run.__file__, *options]
    # One thread a process, as torchrun has it: sums of several threads round otherwise.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    return load_file(folder / "weights.safetensors"), json.loads((folder / "run.json").read_text())


def logged(run, name):
    return [entry[name] for entry in run["log"] if name in entry]


@pytest.mark.slow
def test_candidates_scores_triples_and_weights_are_those_of_one_process(tmp_path):
    # The second process gets one row less to sample for, and none to train on twice.
    options = ("--num-rows", 15, "--num-triples", 8)
    expected, alone = trained(tmp_path / "alone", 1, *options, eval_strategy="epoch")
    own, both = trained(tmp_path / "both", 2, *options, eval_strategy="epoch")
    assert both["triples"] == alone["triples"]
    assert both["reference_scores"] == pytest.approx(alone["reference_scores"], abs=1e-4, nan_ok=True)
    for (token_ids, scores), (expected_ids, expected_scores) in zip(
        both["candidates"], alone["candidates"], strict=True
    ):
        assert token_ids == expected_ids
        assert scores == pytest.approx(expected_scores, abs=1e-4, nan_ok=True)
    for name in ("loss", "positive_loss", "negative_loss", "negative_prob", "eval_quals", "eval_quals_unscored"):
        assert len(logged(both, name)) > 1
        assert logged(both, name) == pytest.approx(logged(alone, name), abs=2e-4, nan_ok=True)
    assert both["calls"] < alone["calls"]  # of the first process: the work is shared
    assert_same_step(weights(tiny_model("bart")), own, expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bart", "llama"])
def test_negatives_that_only_one_process_has_weigh_as_in_one_process(tmp_path, family):
    options = ("--family", family, "--num-rows", 8, "--fixed-negatives")
    expected, alone = trained(tmp_path / "alone", 1, *options, num_train_epochs=1)
    own, both = trained(tmp_path / "both", 2, *options, num_train_epochs=1)
    assert logged(both, "loss") == pytest.approx(logged(alone, "loss"), rel=1e-4)
    assert_same_step(weights(tiny_model(family)), own, expected)
