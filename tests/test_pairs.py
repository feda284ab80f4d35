import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_quals import QAPair
from hf_quals.quals.pairs import is_well_formed, keep_round_trips, same_answer, select_pairs


def pair(question, answer, log_prob=-1.0, token_ids=(1,)):
    return QAPair(question, answer, token_ids, (log_prob,), 0, f"{question}|{answer}")


def questions_and_answers(selection):
    return [(kept.question, kept.answer) for kept in selection.kept]


def test_pairs_are_taken_round_robin_over_answers_each_answers_best_question_first():
    pairs = [pair("q1", "Fury", -1), pair("q2", "Fury", -2), pair("q3", "Joshua", -5), pair("q4", "Fury", -3)]
    selection = select_pairs(pairs, "Fury beat Joshua", max_pairs=3)
    assert questions_and_answers(selection) == [("q1", "Fury"), ("q3", "Joshua"), ("q2", "Fury")]
    assert selection.num_surplus == 1


def test_answer_is_looked_for_in_the_summary_without_regard_to_case():
    selection = select_pairs([pair("Who?", "FURY"), pair("Where?", "Straße"), pair("When?", "2015")], "fury, STRASSE")
    assert questions_and_answers(selection) == [("Where?", "Straße"), ("Who?", "FURY")] or questions_and_answers(
        selection
    ) == [("Who?", "FURY"), ("Where?", "Straße")]
    assert selection.num_not_in_summary == 1


def test_answer_never_gets_the_same_question_twice_and_the_more_probable_pair_stays():
    pairs = [pair("Who won?", "Fury", -4, (9,)), pair("WHO won?", "fury", -2, (3,)), pair("Who won?", "Joshua", -3)]
    selection = select_pairs(pairs, "Fury or Joshua")
    assert questions_and_answers(selection) == [("WHO won?", "fury"), ("Who won?", "Joshua")]
    assert selection.num_duplicate == 1


def test_what_is_no_pair_is_counted():
    selection = select_pairs([pair("", "")], "Fury")
    assert selection.kept == ()
    assert (selection.num_generated, selection.num_unparsable) == (1, 1)


pair_lists = st.lists(
    st.builds(
        lambda question, answer, log_prob, ids: pair(question, answer if question else "", log_prob, ids),
        st.sampled_from(["", "a?", "b?", "B?"]),
        st.sampled_from(["x", "X", "y", "z", "not there"]),
        st.sampled_from([-3.0, -2.0, -1.0]),
        st.tuples(st.integers(0, 1000)),
    ),
    max_size=20,
    unique_by=lambda generated: generated.token_ids,
)


@given(pair_lists, st.integers(1, 6), st.randoms())
def test_selection_does_not_depend_on_the_order_of_generation_and_counts_every_pair_once(pairs, max_pairs, random):
    selection = select_pairs(pairs, "x y z", max_pairs)
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert select_pairs(shuffled, "x y z", max_pairs) == selection
    assert len(selection.kept) <= max_pairs
    assert (
        len(pairs)
        == selection.num_generated
        == (
            len(selection.kept)
            + selection.num_unparsable
            + selection.num_not_in_summary
            + selection.num_duplicate
            + selection.num_surplus
        )
    )


@given(pair_lists)
def test_no_answer_gets_a_second_pair_before_every_answer_has_one(pairs):
    answers = [kept.answer.casefold() for kept in select_pairs(pairs, "x y z", 20).kept]
    assert len(set(answers[: len(set(answers))])) == len(set(answers))


@pytest.mark.parametrize(
    ("question", "answer", "well_formed"),
    [
        ("Who won?", "Lewis", True),
        ("Is Lewis the man who won?", "Lewis", False),
        ("Did Lewis win?", "Lewis won", False),
        ("The author is suing Marsh over what?", "royalties", True),
        ("When did they miss the final?", "Turin", False),
        ("When did they miss the final?", "on Saturday", True),
        ("How many men?", "nobody", False),
        ("How many men?", "2,500", True),
        ("How did he win?", "by knockout", True),
    ],
)
def test_questions_that_a_span_of_their_kind_can_answer_are_well_formed(question, answer, well_formed):
    assert is_well_formed(question, answer) is well_formed


def test_facts_go_first_and_ill_formed_questions_are_counted():
    pairs = [
        pair("What is it?", "a deal", -1.0),
        pair("Is it Fury?", "Fury", -2.0),
        pair("Who paid?", "Fury", -3.0),
        pair("who paid the?", "the Fury", -4.0),
    ]
    selection = select_pairs(pairs, "The Fury made a deal", 10, facts_first=True)
    assert questions_and_answers(selection) == [("Who paid?", "Fury"), ("What is it?", "a deal")]
    assert (selection.num_ill_formed, selection.num_duplicate) == (1, 1)


def test_pairs_whose_answer_does_not_come_back_are_dropped_and_counted():
    selection = select_pairs([pair("Who?", "Fury", -1.0), pair("Whom?", "Lewis", -2.0)], "Fury beat Lewis")
    kept = keep_round_trips(selection, {"Who?": "Tyson Fury", "Whom?": "Fury"}, max_pairs=10)
    assert [pair.answer for pair in kept.kept] == ["Fury"]
    assert (kept.num_not_returned, kept.num_surplus) == (1, 0)


@pytest.mark.parametrize(
    ("answer", "other", "same"),
    [
        ("Conti", "Dario Conti", True),
        ("the Conti", "conti.", True),
        ("Dario Conti", "Conti", False),
        ("2-1", "12-1", False),
        ("A", "a", True),
        ("%", "%", True),
        ("A", "a dog", False),
        ("", "", False),
    ],
)
def test_answer_says_no_less_than_another_if_it_stands_in_it(answer, other, same):
    assert same_answer(answer, other) is same
