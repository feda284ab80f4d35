"""What anyone may send to a Space is read in a time that grows as its length: no few kilobytes take minutes."""

import time

import pytest

from hf_quals.human_eval.study import Comparison, draw
from hf_quals.human_eval.verdicts import krippendorff_alpha
from hf_quals.judges.entities import EntityScorer, RuleFinder
from hf_quals.judges.qags.scorer import candidates
from hf_quals.qagen.normal_form import normalize
from hf_quals.text import sentence_spans


SIZE, TIMES = 2_000, 10

pytestmark = pytest.mark.alone


def growth(function, small, large):
    """
    How many times as much CPU time the larger takes, the least of two runs each: other processes do not count.
    """

    def least(argument):
        seconds = []
        for _ in range(2):
            start = time.process_time()
            function(argument)
            seconds.append(time.process_time() - start)
        return min(seconds)

    return least(large) / least(small)


def entity_precision(names):
    EntityScorer(RuleFinder()).score(["x " * 20 * names.count("Name")], [names])


def whole_names(text):
    EntityScorer(RuleFinder(), whole_names=True).score([text], [text])


def qags_candidates(text):
    candidates(text, RuleFinder())


def different_names(size):
    return " ".join(f"x Name{number}" for number in range(size // 10))


def different_sentences(size):
    return " ".join(f"Name{number} won." for number in range(size // 12))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (sentence_spans, lambda size: "A. " * (size // 3)),
        (sentence_spans, lambda size: "Ab c. " * (size // 6)),
        (sentence_spans, lambda size: "a" + " " * size),
        (RuleFinder().names, lambda size: "Ab " * (size // 3)),
        (RuleFinder().names, lambda size: "THE " * (size // 4)),
        (qags_candidates, lambda size: "A. " * (size // 3)),
        (entity_precision, different_names),
        (whole_names, different_names),
        (whole_names, different_sentences),
        (normalize, lambda size: ",111" * size + "x , 000"),
    ],
)
def test_a_text_ten_times_as_long_takes_about_ten_times_as_long(function, text):
    """With time that grows as the square it is a hundred times."""
    assert growth(function, text(SIZE), text(TIMES * SIZE)) < 2 * TIMES


def test_a_study_of_ten_times_the_items_takes_about_ten_times_as_long():
    def make(number):
        study = draw(
            [Comparison(f"document {n} " * 50, (f"a {n}", f"b {n}"), ("", "")) for n in range(number)], number
        )
        study.page(), study.table(), study.key(("first", "second"))

    assert growth(make, 30, TIMES * 30) < 2 * TIMES


def test_agreement_of_ten_times_the_annotators_takes_about_ten_times_as_long():
    def alpha(annotators):
        krippendorff_alpha([[1, 0, -1] * annotators])

    assert growth(alpha, 100, TIMES * 100) < 2 * TIMES
