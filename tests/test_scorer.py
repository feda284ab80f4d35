import copy
import json
import math
import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import tiny_qagen

from hf_quals import QualsConfig, QualsResult, QualsScorer, ScoredPair
from hf_quals.qagen.attention import eager_attention
from hf_quals.qagen.template import EncodedText, QATemplate
from hf_quals.quals.explain import as_text
from hf_quals.quals.forms import (
    VARIANTS,
    Calibration,
    answers,
    divergence,
    document_attention,
    log_ratio,
    published,
    worst_pair,
)
from hf_quals.quals.pairs import same_answer


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
    assert published([first, second]) == pytest.approx((-2.0 - 0.5) / 2)


def test_log_ratio_sums_over_the_tokens_of_a_pair():
    first = ScoredPair("q", "a", ("t", "u"), (-1.0, -3.0), (-2.0, -6.0), 1)
    second = ScoredPair("q", "b", ("t",), (-1.0,), (-1.5,), 0)
    assert log_ratio([first, second]) == pytest.approx((-4.0 - 0.5) / 2)


def test_worst_pair_is_the_lowest_mean_difference_of_a_pair():
    first = ScoredPair("q", "a", ("t", "u"), (-1.0, -3.0), (-2.0, -6.0), 1)
    second = ScoredPair("q", "b", ("t",), (-1.0,), (-1.5,), 0)
    assert worst_pair([first, second]) == worst_pair([second, first]) == -2.0


def scored(summary_log_probs, document_log_probs, answer="a", document_answer=None):
    """A pair whose answer is all but its first token."""
    tokens = tuple("t" * len(summary_log_probs))
    return ScoredPair("q", answer, tokens, summary_log_probs, document_log_probs, 1, document_answer=document_answer)


def test_answers_is_the_mean_share_of_the_answers_probability_that_is_left():
    halved = scored((-9.0, -1.0, -1.0), (-1.0, -1.0, -1.0 - math.log(2)))
    kept = scored((-1.0, -2.0), (-9.0, -1.0))  # more probable from the document: no more than supported
    lost = scored((-1.0, -0.5), (-1.0, -800.0))
    assert [pair.support for pair in (halved, kept, lost)] == pytest.approx([0.5, 1.0, 0.0])
    assert halved.lost_probability == pytest.approx(math.exp(-2) / 2)
    assert lost.lost_probability == pytest.approx(math.exp(-0.5))
    assert answers([halved, kept, lost]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("document_answer", "support"),
    [("Dario Conti", 1.0), ("the conti.", 1.0), ("Marsh", 0.01), ("Contine", 0.01), (None, 0.01), ("", 0.01)],
)
def test_answer_that_the_document_gives_in_other_form_is_supported(document_answer, support):
    pair = scored((-1.0, 0.0), (-1.0, math.log(0.01)), "Conti", document_answer)
    assert pair.support == pytest.approx(support)


def test_divergence_weighs_each_log_ratio_by_how_probable_the_summary_makes_its_answer():
    sure = scored((-9.0, math.log(0.8)), (-1.0, math.log(0.2)))
    unsure = scored((-1.0, math.log(0.2)), (-9.0, math.log(0.2) - 10.0))
    kept = scored((-1.0, math.log(0.5)), (-9.0, math.log(0.9)))  # more probable from the document: no more than 0
    same = scored((-1.0, math.log(0.5)), (-1.0, -99.0), "Conti", "Dario Conti")
    expected = (0.8 * math.log(0.25) + 0.2 * -10.0 + 0.5 * 0 + 0.5 * 0) / (0.8 + 0.2 + 0.5 + 0.5)
    assert divergence([sure, unsure, kept, same]) == pytest.approx(expected)
    assert divergence([scored((-1.0, -2000.0), (-1.0, -2003.0))]) == pytest.approx(-3.0)  # exp(-2000) is no number


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_a_pair_there_is_no_score(variant):
    assert math.isnan(VARIANTS[variant]([]))


@pytest.mark.parametrize("variant", ["log_ratio", "worst_pair", "answers", "divergence"])
def test_variant_changes_the_score_and_not_the_pairs(scorer, variant):
    other = QualsScorer(scorer.model, QualsConfig(variant=variant))
    for as_published, varied in zip(
        scorer.score(DOCUMENTS, SUMMARIES), other.score(DOCUMENTS, SUMMARIES), strict=True
    ):
        assert varied.pairs == as_published.pairs
        assert varied.score == pytest.approx(VARIANTS[variant](as_published.pairs), nan_ok=True)


def test_the_likelihood_of_the_summary_behind_the_document_is_added_with_its_weight(scorer):
    plain = scorer.score(DOCUMENTS, SUMMARIES)
    weighted = QualsScorer(scorer.model, QualsConfig(likelihood_weight=2.0, document_answers=True))
    for batch_size in (1, 8):
        results = weighted.score(DOCUMENTS, SUMMARIES, batch_size=batch_size)
        for document, summary, result, without in zip(DOCUMENTS, SUMMARIES, results, plain, strict=True):
            assert without.log_likelihood is None
            assert result.num_pairs == without.num_pairs
            expected = mean_log_prob_alone(scorer.model, document, summary)
            assert result.log_likelihood == pytest.approx(expected, abs=1e-4)
            assert result.score == pytest.approx(without.score + 2.0 * expected, abs=1e-4)
            assert QualsResult.from_dict(result.to_dict(), weighted.config).score == result.score


def mean_log_prob_alone(qagen, document, summary):
    """Of the summary's characters, which are the tokens, where a pair would begin, in a row of their own."""
    (context,) = qagen.encode([document])
    ids = qagen.tokenizer(summary, add_special_tokens=False)["input_ids"]
    inputs = {"input_ids": torch.tensor([context.input_ids + ids[:-1]])}
    if qagen.is_encoder_decoder:
        start = [qagen.model.config.decoder_start_token_id]
        if qagen.model.config.model_type == "bart":
            start.append(qagen.tokenizer.bos_token_id)
        inputs = {
            "input_ids": torch.tensor([context.input_ids]),
            "decoder_input_ids": torch.tensor([[*start, *ids[:-1]]]),
        }
    with torch.no_grad():
        logits = qagen.model(**inputs).logits[0, -len(ids) :]
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).mean().item()


# The decoder-only model has room for a prompt of 89 characters, and behind the longest one for 70 of a summary. Of
# an encoder's 30 positions markers take more than of a decoder's: what it has room for is not cut again.
@pytest.mark.parametrize(("family", "positions", "is_cut_as_a_prompt"), [("llama", 160, False), ("bart", 30, True)])
def test_of_a_summary_beyond_the_model_s_positions_the_end_is_not_read_as_a_whole_and_that_is_said(
    family, positions, is_cut_as_a_prompt, monkeypatch
):
    qagen = tiny_qagen(family)
    monkeypatch.setattr(qagen.model.config, "max_position_embeddings", positions)
    scorer = QualsScorer(qagen, QualsConfig(likelihood_weight=1.0, max_new_tokens=40, max_length=1000))
    short, long = "lewis is hurt a b c", "klitschko is hurt a b c " * 3
    assert qagen.encode([long], 1000, max_new_tokens=40)[0].truncated == is_cut_as_a_prompt
    alone = scorer.score(["lewis said that " * 9], [short])[0]
    beside, cut = scorer.score(["lewis said that " * 9] * 2, [short, long])
    assert cut.summary_truncated
    assert math.isfinite(cut.score)
    assert not alone.summary_truncated
    assert beside.score == pytest.approx(alone.score, abs=1e-4)


@pytest.mark.parametrize(
    ("batch_size", "shared", "chunk"), [(1, True, 64), (8, True, 64), (8, True, 8), (8, False, 64)]
)
def test_attention_that_does_not_rest_on_the_document_is_taken_off_with_its_weight(
    batch_size, shared, chunk, monkeypatch
):
    monkeypatch.setattr("hf_quals.qagen.reading._SEEN_TOKENS", chunk)
    qagen = tiny_qagen("llama")
    if not shared:  # as of models whose texts cannot be shared by their pairs
        monkeypatch.setattr(qagen, "_shared_length", 0)
    plain = QualsScorer(qagen, QualsConfig()).score(DOCUMENTS, SUMMARIES)
    config = QualsConfig(attention_weight=3.0, likelihood_weight=2.0, retrieval_heads=((1, 3), (0, 1)))
    results = QualsScorer(qagen, config).score(DOCUMENTS, SUMMARIES, batch_size=batch_size)
    assert qagen.model.config._attn_implementation == "sdpa"
    assert len({result.document_attention for result in results}) == len(set(SUMMARIES))
    for document, summary, result, without in zip(DOCUMENTS, SUMMARIES, results, plain, strict=True):
        shares = attention_alone(qagen, document, summary, config.retrieval_heads)
        assert len(shares) == len(summary)
        lowest = sorted(shares)[: -(-len(shares) // 3)]
        assert result.document_attention == pytest.approx(sum(lowest) / len(lowest), abs=1e-5)
        whole = 2.0 * mean_log_prob_alone(qagen, document, summary) - 3.0 * (1 - result.document_attention)
        assert result.score == pytest.approx(without.score + whole, abs=1e-4)
        assert QualsResult.from_dict(result.to_dict(), config).score == result.score


def test_a_model_that_cannot_be_asked_is_refused_before_it_is_used(monkeypatch):
    qagen = tiny_qagen("llama")
    monkeypatch.setattr(qagen, "template", QATemplate(prompt="{text}?", pair="{answer}:{question}"))
    QualsScorer(qagen, QualsConfig())
    for config, what in (
        (QualsConfig(round_trip=True), "asked"),
        (QualsConfig(document_answers=True), "asked"),
        (QualsConfig(variant="answers"), "judged by its answers, variant='answers'"),
        (QualsConfig(variant="divergence"), "judged by its answers, variant='divergence'"),
    ):
        with pytest.raises(ValueError, match=f"cannot be {what}: the question must stand before the answer"):
            QualsScorer(qagen, config)


def test_answers_may_be_judged_where_something_stands_behind_them(monkeypatch):
    qagen = tiny_qagen("llama")
    monkeypatch.setattr(qagen, "template", QATemplate(prompt="{text}?", pair="{question}|{answer}."))
    assert QualsScorer(qagen, QualsConfig(variant="answers")).config.judges_answers


def test_no_thread_computes_while_another_has_changed_how_the_model_computes_attention():
    scorer = QualsScorer(tiny_qagen("llama"), QualsConfig(num_beams=8))
    expected = scorer.score(DOCUMENTS[0], SUMMARIES[0])
    with ThreadPoolExecutor(1) as threads:
        with eager_attention(scorer.model.model):
            other = threads.submit(scorer.score, DOCUMENTS[0], SUMMARIES[0])
            with pytest.raises(TimeoutError):
                other.result(timeout=3)
        assert other.result(timeout=60).selection == expected.selection


def attention_alone(qagen, document, summary, heads):
    """Of each of the summary's characters the share that rests on the document's, in a row of its own."""
    (context,) = qagen.encode([document])
    ids = qagen.tokenizer(summary, add_special_tokens=False)["input_ids"]
    model = copy.deepcopy(qagen.model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(torch.tensor([context.input_ids + ids]), output_attentions=True).attentions
    # A document of n characters stands between nothing and the template's "?".
    of_heads = [attentions[layer][0, head, -len(ids) :, : len(document)].sum(-1) for layer, head in heads]
    return torch.stack(of_heads).mean(0).tolist()


def test_attention_counts_without_the_likelihood_which_is_told():
    config = QualsConfig(attention_weight=3.0, retrieval_heads=((1, 3),), passage_words=5)
    plain = QualsScorer(tiny_qagen("llama"), QualsConfig(passage_words=5)).score(DOCUMENTS[0], SUMMARIES[0])
    result = QualsScorer(tiny_qagen("llama"), config).score(DOCUMENTS[0], SUMMARIES[0])
    assert result.passages == plain.passages
    assert result.score == pytest.approx(plain.score - 3.0 * (1 - result.document_attention), abs=1e-4)
    assert result.log_likelihood < 0
    assert f"where it is lowest: {result.document_attention:.2f}" in as_text(SUMMARIES[0], result)


def test_of_a_text_without_its_span_no_attention_is_told():
    qagen = tiny_qagen("llama")
    text = EncodedText(qagen.encode(["ann won"])[0].input_ids, truncated=False)
    with pytest.raises(ValueError, match=r"needs its text_span, got \(0, 0\)"):
        qagen.read([text], [[qagen.as_continuation("bob won")[0]]], answers=False, retrieval_heads=[(0, 0)])


def test_the_lowest_third_of_the_attention_counts():
    assert document_attention([0.9, 0.2, 0.8, 0.1, 0.9, 0.3, 0.7]) == pytest.approx((0.1 + 0.2 + 0.3) / 3)
    assert document_attention([0.5, 0.4]) == 0.4


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_an_encoder_decoder_has_no_retrieval_heads(family):
    with pytest.raises(ValueError, match="retrieval_heads are of decoder-only models"):
        QualsScorer(tiny_qagen(family), QualsConfig(attention_weight=1.0, retrieval_heads=((0, 0),)))


@pytest.mark.parametrize("head", [(2, 0), (0, 4)])
def test_a_head_that_the_model_has_not_is_refused(head):
    with pytest.raises(ValueError, match=f"2 layers of 4 heads; there is no head {head[1]} in layer {head[0]}"):
        QualsScorer(tiny_qagen("llama"), QualsConfig(attention_weight=1.0, retrieval_heads=(head,)))
    QualsScorer(tiny_qagen("llama"), QualsConfig(retrieval_heads=(head,)))  # where it does not count


# Of 160 positions 40 + 30 stay behind the longest prompt for a pair and an answer; a decoder's start takes one of 30.
@pytest.mark.parametrize(("family", "positions", "left"), [("llama", 160, 70), ("bart", 30, 29)])
def test_a_continuation_is_cut_to_what_is_left_of_the_positions_and_to_its_longest(
    family, positions, left, monkeypatch
):
    qagen = tiny_qagen(family)
    monkeypatch.setattr(qagen.model.config, "max_position_embeddings", positions)
    whole, is_cut = qagen.as_continuation("a" * 200, 1000, max_new_tokens=40)
    assert (len(whole.token_ids), is_cut) == (left, True)
    whole, is_cut = qagen.as_continuation("a" * 200, 20, max_new_tokens=40)
    assert (len(whole.token_ids), is_cut) == (20, True)
    assert not qagen.as_continuation("abc", 1000, max_new_tokens=40)[1]


def test_likelihood_that_counts_must_be_given():
    pair = ScoredPair("q", "a", ("t",), (-1.0,), (-1.5,), 0)
    with pytest.raises(ValueError, match=r"likelihood_weight=2.0 needs what the document makes of the summary"):
        QualsConfig(likelihood_weight=2.0).score([pair], None)
    with pytest.raises(ValueError, match=r"attention_weight=2.0 needs what the document makes of the summary"):
        QualsConfig(attention_weight=2.0, retrieval_heads=((0, 0),)).score([pair], -1.0)


def test_without_a_pair_there_is_no_score_whatever_the_likelihood():
    assert math.isnan(QualsConfig(likelihood_weight=1.0).score([], -1.0))


def test_scores_follow_from_generation_selection_and_scoring_one_by_one(scorer):
    """The whole path again, by hand, one summary and one pair at a time."""
    results = scorer.score(DOCUMENTS, SUMMARIES)
    assert any(result.num_pairs > 1 for result in results)
    for document, summary, result in zip(DOCUMENTS, SUMMARIES, results, strict=True):
        differences = []
        generated = scorer.model.generate([summary])[0]
        by_tokens = {pair.token_ids: pair for pair in generated}
        assert result.selection.num_generated == len(generated) == 60
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


@pytest.mark.parametrize(("asked", "shown"), [(True, True), (False, False), (None, False)])
def test_a_bar_is_shown_where_it_is_wanted(asked, shown, capsys):
    scorer = QualsScorer(tiny_qagen("llama"))
    scorer.score(DOCUMENTS, SUMMARIES, batch_size=1, show_progress_bar=asked)
    bar = capsys.readouterr().err
    # Three summaries, two of whose documents are equal.
    assert ("QUALS" in bar, "0/5" in bar) == (shown, shown)


def test_document_is_computed_once_for_all_its_summaries(scorer, monkeypatch):
    documents = []
    read = scorer.model.read

    def spy(texts, pairs, **options):
        documents.extend(texts)
        return read(texts, pairs, **options)

    monkeypatch.setattr(scorer.model, "read", spy)
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
    short = QualsScorer(scorer.model, QualsConfig(max_length=12))
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
        (["a"], "b", "A single summary goes with a single document"),
        (["a", "b"], ["c", " "], "Row 1: the summary is empty"),
        (["a", None], ["c", "d"], "Row 1: the document must be a string, got NoneType"),
    ],
)
def test_bad_rows_are_named(scorer, documents, summaries, message):
    with pytest.raises(ValueError, match=message):
        scorer.score(documents, summaries)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"num_beams": 0}, "num_beams must be at least 1"), ({"variant": "magic"}, "one of published")],
)
def test_numbers_out_of_range_are_refused_before_a_model_is_loaded(numbers, message):
    with pytest.raises(ValueError, match=message):
        QualsScorer.from_pretrained("a model that does not exist", **numbers)


def test_configuration_beside_the_model_is_read_and_arguments_win(tiny_causal_folder, tmp_path):
    shutil.copytree(tiny_causal_folder, tmp_path / "model")
    assert QualsScorer.from_pretrained(tmp_path / "model").config == QualsConfig()
    QualsConfig(num_beams=6, max_pairs=3, variant="answers").save_pretrained(tmp_path / "model")
    scorer = QualsScorer.from_pretrained(tmp_path / "model", max_pairs=2)
    assert scorer.config == QualsConfig(num_beams=6, max_pairs=2, variant="answers")
    assert QualsScorer.from_pretrained(tmp_path / "model", config=QualsConfig()).config == QualsConfig()
    fitted = QualsConfig(variant="answers", calibration=Calibration(1.0, 0.0))
    assert QualsScorer.from_pretrained(tmp_path / "model", config=fitted, variant="published").config == QualsConfig()


FORMS = [
    "It's £1m, and they won 2-1. \"Café\", said Lewis's man (27).",
    "It\u2019s £1m, and they won 2\u20131. \u201cCafé\u201d, said Lewis\u2019s man (27).",
    unicodedata.normalize("NFD", "It's £1m, and they won 2-1. \"Café\", said Lewis's man (27)."),
    "It's\u00a0£1m,\nand they  won 2-1. \"Café\", said\u2003Lewis's man (２７).",
    "It 's £ 1 m , and they won 2 - 1 . `` Café '' , said Lewis 's man ( 27 ) .",
]


@pytest.mark.parametrize("form", FORMS[1:])
def test_form_is_not_taken_for_fact(form):
    config = QualsConfig(normal_form=True, num_beams=20)
    scorer = QualsScorer(tiny_qagen("llama"), config)
    document = "they won 2-1 and paid £1m to a man in a café, said lewis."
    expected, found = scorer.score([document, document], [FORMS[0], form])
    assert expected.num_pairs
    assert found.score == pytest.approx(expected.score, abs=1e-4)
    as_document, as_other = scorer.score([FORMS[0], form], ["lewis won £1m"] * 2)
    assert as_other.score == pytest.approx(as_document.score, abs=1e-4, nan_ok=True)


def test_answers_are_found_in_the_users_own_text():
    scorer = QualsScorer(tiny_qagen("llama"), QualsConfig(normal_form=True))
    summary = "“ a  b ”  c\u00a0d e f g"
    (result,) = scorer.score(["a b c d e f g"], [summary])
    assert result.num_pairs
    for pair in result.pairs:
        start, end = pair.answer_span
        assert summary[start:end] == pair.answer


def test_round_trip_keeps_the_pairs_that_the_model_answers_alike(scorer):
    config = QualsConfig(round_trip=True, document_answers=True, variant="answers")
    for summary, result in zip(SUMMARIES, QualsScorer(scorer.model, config).score(DOCUMENTS, SUMMARIES), strict=True):
        questions = [pair.question for pair in result.pairs]
        (from_summary,) = scorer.model.answer([summary], [questions])
        assert all(same_answer(pair.answer, answer) for pair, answer in zip(result.pairs, from_summary, strict=True))
        counts = {
            name: value for name, value in vars(result.selection).items() if name not in ("kept", "num_generated")
        }
        assert result.selection.num_generated == sum(counts.values()) + result.num_pairs


def test_document_answers_are_what_the_model_answers_from_the_document(scorer):
    config = QualsConfig(document_answers=True)
    for document, result in zip(DOCUMENTS, QualsScorer(scorer.model, config).score(DOCUMENTS, SUMMARIES), strict=True):
        (by_hand,) = scorer.model.read([document], [result.selection.kept])
        assert [pair.document_answer for pair in result.pairs] == [reading.answer for reading in by_hand]


def test_long_document_is_read_where_it_speaks_of_the_summary():
    config = QualsConfig(passage_words=8)
    scorer = QualsScorer(tiny_qagen("llama"), config)
    document = (
        "it rained for days in the far north of the land. " * 12 + "lewis said klitschko is hurt. " + "no more. " * 9
    )
    (result,) = scorer.score([document], ["klitschko is hurt a b c"])
    read = " ".join(document[start:end] for start, end in result.passages)
    assert "klitschko is hurt" in read
    assert len(read) < len(document) / 2
    (alone,) = QualsScorer(scorer.model, QualsConfig()).score([read], ["klitschko is hurt a b c"])
    assert result.score == pytest.approx(alone.score, abs=1e-4)


def test_calibrated_result_says_what_it_means(scorer):
    config = QualsConfig(variant="answers", document_answers=True, calibration=Calibration(slope=10.0, intercept=-5.0))
    results = QualsScorer(scorer.model, config).score(DOCUMENTS, SUMMARIES)
    for result in results:
        expected = 1 / (1 + math.exp(5 - 10 * result.score))
        assert result.probability == pytest.approx(expected)
        assert result.verdict == ("supported" if result.score >= 0.5 else "doubtful")
        assert result.worst_pair == max(result.pairs, key=lambda pair: pair.lost_probability)
        assert result.pair_to_blame == (result.worst_pair if result.worst_pair.lost_probability > 0.5 else None)
    (unasked,) = QualsScorer(scorer.model, config).score(["joshua"], ["1234"])
    assert (unasked.verdict, unasked.probability) == ("no pairs", None)
