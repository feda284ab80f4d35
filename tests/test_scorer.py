import json
import math

import pytest
from conftest import tiny_qagen

from hf_quals import QualsScorer, ScoredPair
from hf_quals.quals.scorer import VARIANTS, log_ratio, quals, worst_pair


DOCUMENTS = [
    "lewis said that klitschko is hurt by his defeat to fury.",
    "joshua is an olympic champion.",
    "lewis said that klitschko is hurt by his defeat to fury.",
]
SUMMARIES = ["klitschko is hurt a b c d e f g", "a champion of the games", "joshua is hurt i j k l m n o p q"]


@pytest.fixture(scope="module", params=["llama", "bart", "t5"])
def scorer(request):
    return QualsScorer(tiny_qagen(request.param))


def test_score_is_the_mean_over_pairs_of_the_difference_of_mean_log_probs():
    first = ScoredPair("q", "a", ("t", "u"), (-1.0, -3.0), (-2.0, -6.0), 1)
    second = ScoredPair("q", "b", ("t",), (-1.0,), (-1.5,), 0)
    assert (first.summary_score, first.document_score, first.score) == (-2.0, -4.0, -2.0)
    assert quals([first, second]) == pytest.approx((-2.0 - 0.5) / 2)


def test_log_ratio_sums_over_the_tokens_of_a_pair():
    first = ScoredPair("q", "a", ("t", "u"), (-1.0, -3.0), (-2.0, -6.0), 1)
    second = ScoredPair("q", "b", ("t",), (-1.0,), (-1.5,), 0)
    assert log_ratio([first, second]) == pytest.approx((-4.0 - 0.5) / 2)


def test_worst_pair_is_the_lowest_mean_difference_of_a_pair():
    first = ScoredPair("q", "a", ("t", "u"), (-1.0, -3.0), (-2.0, -6.0), 1)
    second = ScoredPair("q", "b", ("t",), (-1.0,), (-1.5,), 0)
    assert worst_pair([first, second]) == worst_pair([second, first]) == -2.0


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_a_pair_there_is_no_score(variant):
    assert math.isnan(VARIANTS[variant]([]))


@pytest.mark.parametrize("variant", ["log_ratio", "worst_pair"])
def test_variant_changes_the_score_and_not_the_pairs(scorer, variant):
    other = QualsScorer(scorer.model, variant=variant)
    for published, varied in zip(scorer.score(DOCUMENTS, SUMMARIES), other.score(DOCUMENTS, SUMMARIES), strict=True):
        assert varied.pairs == published.pairs
        assert varied.score == pytest.approx(VARIANTS[variant](published.pairs), nan_ok=True)


def test_scores_follow_from_generation_selection_and_scoring_one_by_one(scorer):
    """The whole path again, by hand, one summary and one pair at a time."""
    results = scorer.score(DOCUMENTS, SUMMARIES)
    assert any(result.num_pairs > 1 for result in results)
    for document, summary, result in zip(DOCUMENTS, SUMMARIES, results, strict=True):
        differences = []
        generated = scorer.model.generate([summary])[0]
        by_tokens = {pair.token_ids: pair for pair in generated}
        assert result.num_generated == len(generated) == 60
        for pair in result.pairs:
            (source,) = [
                one
                for ids, one in by_tokens.items()
                if (one.question, one.answer) == (pair.question, pair.answer) and len(ids) == len(pair.tokens)
            ][:1]
            given_summary = scorer.model.log_probs([summary], [[source]])[0][0]
            given_document = scorer.model.log_probs([document], [[source]])[0][0]
            differences.append(sum(given_document) / len(given_document) - sum(given_summary) / len(given_summary))
        expected = sum(differences) / len(differences) if differences else math.nan
        assert result.score == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_results_depend_neither_on_batch_size_nor_on_order(scorer):
    results = scorer.score(DOCUMENTS, SUMMARIES, batch_size=8)
    reversed_results = scorer.score(DOCUMENTS[::-1], SUMMARIES[::-1], batch_size=1)[::-1]
    for one, other in zip(results, reversed_results, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4, nan_ok=True)
        assert [pair.question for pair in one.pairs] == [pair.question for pair in other.pairs]


def test_document_is_computed_once_for_all_its_summaries(scorer, monkeypatch):
    documents = []
    log_probs = scorer.model.log_probs

    def spy(texts, pairs, **options):
        documents.extend(texts)
        return log_probs(texts, pairs, **options)

    monkeypatch.setattr(scorer.model, "log_probs", spy)
    scorer.score(DOCUMENTS, SUMMARIES)
    assert len(documents) == 2


def test_a_summary_scored_against_itself_scores_zero(scorer):
    scored = [result for result in scorer.score(SUMMARIES, SUMMARIES) if result.num_pairs]
    assert scored
    for result in scored:
        assert result.score == pytest.approx(0.0, abs=1e-4)


def test_summary_nothing_can_be_asked_about_is_unscored_and_says_so(scorer):
    (result,) = scorer.score(["joshua"], ["1234"])
    assert math.isnan(result.score)
    assert result.num_pairs == 0
    assert result.worst_pair is None
    assert result.to_dict()["score"] is None


def test_texts_longer_than_the_context_are_flagged(scorer):
    short = QualsScorer(scorer.model, max_length=12)
    (result,) = short.score(["a document that is too long"], ["brief"])
    assert (result.document_truncated, result.summary_truncated) == (True, False)


def test_result_is_plain_json(scorer):
    for result in scorer.score(DOCUMENTS, SUMMARIES):
        fields = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert fields["num_pairs"] == len(fields["pairs"]) == result.num_pairs
        assert fields["num_generated"] == 60
        if result.pairs:
            assert min(pair["score"] for pair in fields["pairs"]) == result.worst_pair.score


def test_no_rows_give_no_results(scorer):
    assert scorer.score([], []) == []


@pytest.mark.parametrize(
    ("documents", "summaries", "message"),
    [
        (["a"], ["b", "c"], "got 1 documents and 2 summaries"),
        ("a", ["b"], "got a single string"),
        (["a", "b"], ["c", " "], "Row 1: the summary is empty"),
        (["a", None], ["c", "d"], "Row 1: the document must be a string, got NoneType"),
    ],
)
def test_bad_rows_are_named(scorer, documents, summaries, message):
    with pytest.raises(ValueError, match=message):
        scorer.score(documents, summaries)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"num_beams": 10, "num_beam_groups": 4}, "must be a multiple"),
        ({"min_new_tokens": 70}, "min_new_tokens=70 must lie between"),
        ({"variant": "magic"}, "variant must be one of quals, log_ratio"),
    ],
)
def test_numbers_out_of_range_are_refused_before_a_model_is_loaded(numbers, message):
    with pytest.raises(ValueError, match=message):
        QualsScorer.from_pretrained("a model that does not exist", **numbers)
