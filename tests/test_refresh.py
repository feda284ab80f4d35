"""A refresh without a trainer: rows, candidates, scores and triples; what is kept of an interrupted one."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_model, tiny_tokenizer
from contrastive_world import rows

from hf_quals import QualsCallbackConfig, Scorer
from hf_quals.contrastive.evaluation import evaluate_sample, table_metrics
from hf_quals.contrastive.refresh import KeptRefresh, RefreshState, refresh
from hf_quals.contrastive.rows import TextRows
from hf_quals.contrastive.sampling import CandidateSampler
from hf_quals.contrastive.scoring import score_summaries
from hf_quals.contrastive.selection import select_triples


CONFIG = QualsCallbackConfig(num_candidates=2, max_new_tokens=6, positive_share=1.0, negative_share=1.0, batch_size=4)


class Brevity(Scorer):
    """Counts its calls, and breaks off at one of them."""

    name = "brevity"

    def __init__(self, break_at=None):
        self.calls, self.break_at = 0, break_at

    def score(self, documents, summaries, *, references=None, batch_size=8):
        self.calls += 1
        if self.calls == self.break_at:
            raise KeyboardInterrupt
        return [SimpleNamespace(score=-float(len(summary))) for summary in summaries]


@pytest.fixture(scope="module")
def world():
    """A sampler, and twelve documents."""
    tokenizer = tiny_tokenizer("bart")
    sampler = CandidateSampler(tiny_model("bart"), tokenizer, Accelerator(cpu=True))
    return sampler, TextRows(rows("bart", 12), "training", tokenizer, is_encoder_decoder=True)


def test_a_refresh_needs_no_trainer(world, tmp_path):
    sampler, documents = world
    state = refresh(sampler, Brevity(), documents, CONFIG)
    assert state.reference_scores == [-float(len(row.reference)) for row in documents]
    lengths = [[-float(len(text)) if text else math.nan for text in found.texts] for found in state.candidates]
    assert str([found.scores for found in state.candidates]) == str(lengths)  # as text, where NaN is NaN
    assert state.triples == select_triples(state.reference_scores, lengths, positive_share=1.0, negative_share=1.0)

    later = refresh(sampler, Brevity(), documents, CONFIG, epoch=1, previous=state)
    assert later.reference_scores == state.reference_scores
    assert [found.token_ids for found in later.candidates] != [found.token_ids for found in state.candidates]
    assert [means["epoch"] for means in later.history] == [0, 1]
    later.save(tmp_path / "state.json")
    assert str(RefreshState.load(tmp_path / "state.json")) == str(later)


def test_an_interrupted_refresh_goes_on_only_with_the_same_settings(world, tmp_path):
    sampler, documents = world
    expected = refresh(sampler, Brevity(), documents, CONFIG)
    settings = {"scorer": ["brevity", {"variant": 1}]}
    with pytest.raises(KeyboardInterrupt):  # two of three batches are done
        refresh(sampler, Brevity(3), documents, CONFIG, kept=KeptRefresh(tmp_path, sampler.model, settings))
    for changed, calls in (({"scorer": ["brevity", {"variant": 2}]}, 3), (settings, 1)):
        scorer = Brevity()
        state = refresh(sampler, scorer, documents, CONFIG, kept=KeptRefresh(tmp_path, sampler.model, changed))
        assert str(state) == str(expected)
        assert scorer.calls == calls
    KeptRefresh.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_lines_of_an_interrupted_refresh_are_sampled_again(world, tmp_path):
    sampler, documents = world
    expected = refresh(sampler, Brevity(), documents, CONFIG)
    kept = KeptRefresh(tmp_path, sampler.model, {})
    refresh(sampler, Brevity(), documents, CONFIG, kept=kept)
    [path] = tmp_path.iterdir()
    lines = path.read_bytes().splitlines()
    lines[1], lines[2], lines[3] = b"[0, 1]", b"\xff" + lines[2], lines[3].replace(b"texts", b"words")
    path.write_bytes(b"\n".join(lines))
    scorer = Brevity()
    assert str(refresh(sampler, scorer, documents, CONFIG, kept=kept)) == str(expected)
    assert scorer.calls == 1  # the first of three batches of four


class Listed(Scorer):
    """Scores by the number of the document, references by one list and candidates by another."""

    name, reads_references = "listed", True

    def __init__(self, documents, references, candidates):
        self.number = {row.document: number for number, row in enumerate(documents)}
        self.references, self.candidates = references, candidates

    def score(self, documents, summaries, *, references=None, batch_size=8):
        texts = zip(documents, summaries, references, strict=True)
        return [
            SimpleNamespace(
                score=(self.references if summary == reference else self.candidates)[self.number[document]]
            )
            for document, summary, reference in texts
        ]


def test_of_few_documents_of_which_none_is_in_both_shares_the_largest_margin_is_the_only_triple(world, caplog):
    sampler, documents = world
    six = TextRows(documents.dataset.select(range(6)), "training", documents.tokenizer, is_encoder_decoder=True)
    # S+ is documents 4 and 5, S- is 0 and 1; the margins are 1.5, 1.6, 1.4, 1.7, 1.7, 1.6.
    scorer = Listed(six, [-0.6, -0.5, -0.4, -0.3, -0.2, -0.1], [-2.1, -2.1, -1.8, -2.0, -1.9, -1.7])
    config = QualsCallbackConfig(num_candidates=2, max_new_tokens=6)
    [triple] = refresh(sampler, scorer, six, config).triples
    assert triple.document == 3
    assert "the one with the largest margin is the only triple" in caplog.text
    unscored = Listed(six, [math.nan] * 6, [0.0] * 6)
    with pytest.raises(ValueError, match="No document of 6 has both a scored reference and a scored candidate"):
        refresh(sampler, unscored, six, config)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(2), 2.0),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([0.5], dtype=torch.bfloat16), 0.5),
        (np.float32("nan"), math.nan),
        (math.inf, math.nan),
        (np.float32("-inf"), math.nan),
    ],
)
def test_scalars_of_numpy_and_torch_are_scores_and_infinite_ones_count_as_none(given, expected, caplog):
    class Constant(Brevity):
        def score(self, documents, summaries, *, references=None, batch_size=8):
            return [SimpleNamespace(score=given) for _ in summaries]

    [score] = score_summaries(Constant(), [("d", "s", "r")], 8)
    assert type(score) is float
    assert score == pytest.approx(expected, nan_ok=True)
    assert ("1 of 1 scores of 'brevity' are infinite and count as none" in caplog.text) == math.isinf(given)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([SimpleNamespace(score=None)], "'brevity' needs a `score` that is a number, .*; got namespace"),
        ([SimpleNamespace(score="0.5")], "got namespace"),
        ([SimpleNamespace(score=torch.zeros(2))], "got namespace"),
        ([0.5], "got 0.5"),
        ([], "brevity returned 0 results for 1 summaries"),
    ],
)
def test_what_is_no_score_is_refused(results, message):
    class Wrong(Brevity):
        def score(self, documents, summaries, *, references=None, batch_size=8):
            return results

    with pytest.raises(ValueError, match=message):
        score_summaries(Wrong(), [("d", "s", "r")], 8)


def test_blank_summaries_have_no_score_and_equal_ones_are_scored_once():
    asked = []

    class Counted(Brevity):
        reads_references = True

        def score(self, documents, summaries, *, references=None, batch_size=8):
            asked.extend(zip(documents, summaries, references, strict=True))
            return super().score(documents, summaries)

    given = [("d", "one", "r"), ("d", " ", "r"), ("d", "one", "r"), ("e", "one", "r"), ("e", "three", "r")]
    assert str(score_summaries(Counted(), given, 8)) == str([-3.0, math.nan, -3.0, -3.0, -5.0])
    assert asked == [("d", "one", "r"), ("e", "one", "r"), ("e", "three", "r")]
    assert str(score_summaries(Counted(), given[1:2], 8)) == "[nan]"


def test_an_evaluations_metrics_are_the_mean_and_the_share_without_a_score(world):
    table = [{"rule": 1.0}, {"rule": None}, {"rule": 4.0}, {"rule": 4.0}]
    assert table_metrics(table, "rule", "eval") == {"eval_rule": 3.0, "eval_rule_unscored": 0.25}
    sampler, documents = world
    config = QualsCallbackConfig(num_eval_samples=5)
    written, results = evaluate_sample(sampler, Brevity(), documents, config, max_new_tokens=6)
    assert len(written) == 5
    assert results is None  # Brevity has no page
    assert all(row["brevity"] == (-len(row["candidate"]) if row["candidate"] else None) for row in written)
    assert all(list(row) == ["document", "reference", "candidate", "brevity"] for row in written)
    json.dumps(written, allow_nan=False)


def test_work_kept_under_fsdp_is_known_again_behind_an_evaluation_and_training_goes_on(sharded_llama, tmp_path):
    input_ids = torch.tensor([[5, 6, 7]])
    before = KeptRefresh(tmp_path, sharded_llama, {}).name
    with torch.no_grad():
        sharded_llama(input_ids=input_ids)  # leaves some weights whole
    assert KeptRefresh(tmp_path, sharded_llama, {}).name == before
    sharded_llama(input_ids=input_ids, labels=input_ids).loss.backward()
