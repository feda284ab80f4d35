"""A run that is killed at any moment and goes on ends with the weights of an unbroken one."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import training_run
from contrastive_world import callback, rows, trainer, weights
from safetensors.torch import load_file


# Six triples in batches of one are six steps an epoch. Evaluations and checkpoints in the middle of each epoch and at
# its end, at the same steps: an evaluation behind a checkpoint draws random numbers that a resumed run does not.
EVERY = {"strategy": "steps", "steps": 3}
ARGUMENTS = {"per_device_train_batch_size": 1} | {
    f"{what}_{name}": value for what in ("save", "eval") for name, value in EVERY.items()
}
# 16 documents in batches of 4 are four calls of the scorer a refresh; 4 summaries are one an evaluation.
REFRESH, EVALUATION = 4, 1


def run(folder, *options):
    command = [sys.executable, training_run.__file__, *options_of(folder, *options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def options_of(folder, *options):
    return list(map(str, [folder, "--arguments", json.dumps(ARGUMENTS), *options]))


def assert_killed(result):
    assert result.returncode == -signal.SIGKILL, result.stderr


def result_of(folder):
    return load_file(folder / "weights.safetensors"), json.loads((folder / "run.json").read_text())


def is_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.mark.slow
def test_a_run_killed_in_refreshes_and_in_an_epoch_ends_as_an_unbroken_one(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    training_run.main(options_of(unbroken))

    # In the middle of the first refresh: there is no checkpoint, and a new run goes on with it.
    assert_killed(run(broken, "--kill-at-score", 3))
    assert checkpoints(broken) == []
    kept = list((broken / "_quals").glob("refresh-*.jsonl"))
    assert len(kept) == 1
    # In the middle of the first epoch, between two checkpoints.
    assert_killed(run(broken, "--kill-at-step", 5))
    assert checkpoints(broken) == ["checkpoint-3"]
    assert list((broken / "_quals").glob("refresh-*")) == []
    # In the middle of the second refresh: behind the evaluation at the end of the first epoch.
    assert_killed(run(broken, "--resume", "--kill-at-score", EVALUATION + 3))
    assert checkpoints(broken) == ["checkpoint-3", "checkpoint-6"]
    last = run(broken, "--resume")
    assert last.returncode == 0, last.stderr

    (expected, whole), (own, rest) = result_of(unbroken), result_of(broken)
    assert is_equal(own, expected)
    for name in ("reference_scores", "candidates", "triples"):
        assert json.dumps(rest[name]) == json.dumps(whole[name])  # as text, where NaN is NaN
    # What was scored before the kill was not scored again.
    assert whole["calls"] == 2 * REFRESH + 5 * EVALUATION  # before training and at steps 3, 6, 9 and 12
    assert rest["calls"] == 2 + 2 * EVALUATION


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A finished run with a checkpoint at the end of each of its two epochs, and its weights."""
    folder = tmp_path_factory.mktemp("two-checkpoints")
    whole = trainer("bart", folder, callbacks=[callback()], save_strategy="epoch")
    whole.train()
    return folder, weights(whole.model)


def test_a_run_goes_on_from_the_checkpoint_it_is_given(two_checkpoints, tmp_path):
    folder, expected = two_checkpoints
    resumed = trainer("bart", tmp_path, callbacks=[callback()])
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert is_equal(weights(resumed.model), expected)


@pytest.mark.parametrize("rest", [None, '{"epoch": 2.0, "glo'])
def test_a_checkpoint_that_was_not_written_to_its_end_is_passed_over(two_checkpoints, tmp_path, rest):
    folder, expected = two_checkpoints
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    state = tmp_path / "checkpoint-6" / "trainer_state.json"
    state.unlink()
    if rest is not None:
        state.write_text(rest)
    resumed = trainer("bart", tmp_path, callbacks=[callback()])
    resumed.train(resume_from_checkpoint=True)
    assert is_equal(weights(resumed.model), expected)


def test_a_checkpoint_that_does_not_fit_is_refused(two_checkpoints, tmp_path):
    folder, _ = two_checkpoints
    other = trainer("bart", tmp_path, data=rows("bart", 12), callbacks=[callback()])
    with pytest.raises(ValueError, match="was written for 16 documents, the training set has 12"):
        other.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    with pytest.raises(ValueError, match=r"No valid checkpoint found in output directory .* train without"):
        other.train(resume_from_checkpoint=True)
    plain = trainer("bart", tmp_path / "plain", save_strategy="epoch", num_train_epochs=1)
    plain.train()
    [checkpoint] = (tmp_path / "plain").glob("checkpoint-*")
    chosen = trainer("bart", tmp_path, callbacks=[callback()])
    with pytest.raises(ValueError, match="it was not written with a QualsCallback"):
        chosen.train(resume_from_checkpoint=str(checkpoint))
