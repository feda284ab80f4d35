"""A refresh without a trainer: rows, candidates, scores and triples; what is kept of an interrupted one."""

import json
import math
from types import SimpleNamespace

import pytest
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
    written = evaluate_sample(sampler, Brevity(), documents, QualsCallbackConfig(num_eval_samples=5), max_new_tokens=6)
    assert len(written) == 5
    assert all(row["brevity"] == (-len(row["candidate"]) if row["candidate"] else None) for row in written)
    assert all(list(row) == ["document", "reference", "candidate", "brevity"] for row in written)
    json.dumps(written, allow_nan=False)
