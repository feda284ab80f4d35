"""A run that is killed at any moment and goes on ends with the weights of an unbroken one."""

import json
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import training_run
from conftest import tiny_model, tiny_qagen
from contrastive_world import callback, rows, trainer, weights
from safetensors.torch import load_file

from hf_quals import QualsConfig, QualsScorer, Scorer
from hf_quals.errors import InputError


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


def reversed_rows():
    return rows("bart").select(range(15, -1, -1))


def other_rows():
    """As many, of which one document is another."""
    data = list(rows("bart"))
    data[7] = {**data[7], "input_ids": data[7]["input_ids"][::-1]}
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (reversed_rows, "written for another training set"),
        (other_rows, "written for .* other documents or references"),
    ],
)
def test_another_training_set_of_the_same_length_is_refused(two_checkpoints, tmp_path, data, message):
    folder, _ = two_checkpoints
    other = trainer("bart", tmp_path, data=data(), callbacks=[callback()])
    with pytest.raises(InputError, match=f"checkpoint-3/quals_state.json was {message}"):
        other.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert other.state.global_step == 0


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"num_candidates": 4}, "num_candidates was 3 and is 4"),
        ({"num_triples": None}, "num_triples was 6 and is None"),
        ({"positive_share": 0.6, "top_k": 40}, "positive_share was 0.7 and is 0.6, top_k was 50 and is 40"),
        ({"include_rest": True}, "include_rest was False and is True"),
        ({"scorer": 6}, r"scorer.num_beams was 8 and is 6\."),
        ({"seed": 1}, r"seed was 42 and is 1\."),
        ({"repetition_penalty": 2.0}, "generation_config.repetition_penalty was (None|1.0) and is 2.0"),
    ],
)
def test_other_settings_are_refused_and_named(two_checkpoints, tmp_path, chosen, message):
    folder, _ = two_checkpoints
    model, seed = tiny_model("bart"), chosen.pop("seed", 42)
    model.generation_config.repetition_penalty = chosen.pop(
        "repetition_penalty", model.generation_config.repetition_penalty
    )
    scorer = QualsScorer(tiny_qagen("bart"), QualsConfig(num_beams=chosen.pop("scorer", 8)))
    other = trainer("bart", tmp_path, model=model, seed=seed, callbacks=[callback(scorer, **chosen)])
    with pytest.raises(
        InputError, match=f"checkpoint-3/quals_state.json was written with other settings: .*{message}"
    ):
        other.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert other.state.global_step == 0


def test_what_changes_no_score_may_change(two_checkpoints, tmp_path):
    folder, expected = two_checkpoints
    resumed = trainer("bart", tmp_path, callbacks=[callback(batch_size=5, num_eval_samples=0)])
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert is_equal(weights(resumed.model), expected)


def test_the_model_of_the_score_may_lie_elsewhere(two_checkpoints, tmp_path):
    folder, expected = two_checkpoints
    scorer = QualsScorer(tiny_qagen("bart"), QualsConfig(num_beams=8))
    scorer.model.model.config._name_or_path = "/moved/here"
    resumed = trainer("bart", tmp_path, callbacks=[callback(scorer)])
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert is_equal(weights(resumed.model), expected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"triples"', '"pairs"'),
        lambda text: text.replace('"document": ', '"document": 9'),
        lambda text: text.replace('"texts"', '"text"', 1),
        lambda text: "\udcff" + text,
    ],
)
def test_a_damaged_state_is_refused_by_its_name(two_checkpoints, tmp_path, damage):
    folder, _ = two_checkpoints
    checkpoint = shutil.copytree(folder / "checkpoint-3", tmp_path / "checkpoint-3")
    state = checkpoint / "quals_state.json"
    state.write_text(damage(state.read_text()), errors="surrogateescape")
    run = trainer("bart", tmp_path, callbacks=[callback()])
    with pytest.raises(InputError, match=r"checkpoint-3/quals_state\.json is damaged, or of another version"):
        run.train(resume_from_checkpoint=str(checkpoint))


class Fading(Scorer):
    """Behind the first step, has a score for what the model writes of the first four documents alone."""

    name, reads_references = "fading", True
    run = None

    def score(self, documents, summaries, *, references=None, batch_size=8):
        first = rows("bart").select(range(4))["document"]
        texts = zip(documents, summaries, references, strict=True)
        return [SimpleNamespace(score=self.rule(*text, first)) for text in texts]

    def rule(self, document, summary, reference, first):
        if summary != reference and self.run.state.global_step and document not in first:
            return float("nan")
        return float(sum(map(ord, summary)) % 97)


def fading_run(folder):
    scorer = Fading()
    scorer.run = trainer("bart", folder, callbacks=[callback(scorer)], save_strategy="epoch")
    return scorer.run


def test_where_fewer_documents_have_scores_the_best_triples_before_stay_and_a_resume_does_the_same(tmp_path, caplog):
    run = fading_run(tmp_path)
    run.train()
    before = json.loads((tmp_path / "checkpoint-3" / "quals_state.json").read_text())
    after = json.loads((tmp_path / "checkpoint-6" / "quals_state.json").read_text())

    def negatives(state):
        return {
            triple["document"]: state["candidates"][triple["document"]]["token_ids"][triple["candidate"]]
            for triple in state["triples"]
        }

    old, new = negatives(before), negatives(after)
    margins = {
        document: before["reference_scores"][document] - min(filter(None, before["candidates"][document]["scores"]))
        for document in old
        if document >= 4
    }
    scored = [document for document in range(4) if any(after["candidates"][document]["scores"])]
    stayed = sorted(margins, key=margins.get, reverse=True)[: 6 - len(scored)]
    assert len(stayed) >= 2
    assert sorted(new) == sorted([*scored, *stayed])
    assert all(new[document] == old[document] for document in stayed)
    assert all(new[document] != old.get(document) for document in scored)
    assert f"an epoch has 6 triples: {len(stayed)} of the triples before stay as they were" in caplog.text
    assert after["history"][1]["num_triples"] == 6
    assert after["history"][1]["unscored"] >= 3 * 12

    resumed = fading_run(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert is_equal(weights(resumed.model), weights(run.model))
