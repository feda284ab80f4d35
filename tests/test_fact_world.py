"""The world with known facts: its references, and the checker that reads summaries."""

import sys
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "benchmarks"))

import fact_world
from fact_world import HURT, STRUCK, SUMMARY, make_examples, make_tokenizer, qagen_passages, wrong_facts


EXAMPLE = make_examples(1, "seed")[0]


def summary(**changed):
    return SUMMARY.format(**{**EXAMPLE.people[HURT], **changed})


def test_the_truth_has_no_wrong_fact_and_the_other_boxers_wins_are_one():
    assert wrong_facts(EXAMPLE, summary()) == 0
    assert wrong_facts(EXAMPLE, summary(number=EXAMPLE.people[STRUCK]["number"])) == 1


def test_a_summary_of_the_wrong_person_is_wrong_once_and_one_of_a_stranger_in_everything():
    assert wrong_facts(EXAMPLE, SUMMARY.format(**EXAMPLE.people[STRUCK])) == 1
    known = {facts["name"] for facts in EXAMPLE.people.values()}
    stranger = next(name for name in fact_world.NAMES if name not in known)
    assert wrong_facts(EXAMPLE, summary(name=stranger)) == 5


def test_the_right_persons_name_with_anothers_facts_is_wrong_in_each():
    assert wrong_facts(EXAMPLE, summary(**{**EXAMPLE.people[STRUCK], "name": EXAMPLE.people[HURT]["name"]})) == 4


@pytest.mark.parametrize("text", ["", "was hurt", summary() + " again", summary().removesuffix(" .")])
def test_what_is_no_sentence_of_the_grammar_is_wrong_in_everything(text):
    assert wrong_facts(EXAMPLE, text) == 5


def test_references_are_wrong_in_the_share_that_was_asked_for():
    # Two standard errors of 1,000 draws are 0.03.
    examples = make_examples(1000, "share", wrong_share=0.6)
    wrong = [wrong_facts(example, example.reference) for example in examples]
    assert set(wrong) == {0, 1}
    assert sum(wrong) / len(wrong) == pytest.approx(0.6, abs=0.05)
    assert all(wrong_facts(example, example.truth) == 0 for example in examples)


def test_the_same_seed_makes_the_same_documents_and_another_seed_others():
    assert make_examples(3, "a") == make_examples(3, "a")
    assert make_examples(3, "a") != make_examples(3, "b")


def test_answers_are_spans_and_all_words_are_known():
    tokenizer = make_tokenizer()
    for passage in qagen_passages(make_examples(20, "spans")):
        assert tokenizer.unk_token_id not in tokenizer(passage.text)["input_ids"]
        for pair in passage.pairs:
            assert passage.text[pair.answer_start : pair.answer_start + len(pair.answer)] == pair.answer
            assert tokenizer.unk_token_id not in tokenizer(pair.question)["input_ids"]
