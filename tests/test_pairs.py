from hypothesis import given
from hypothesis import strategies as st

from hf_quals import QAPair
from hf_quals.quals.pairs import select_pairs


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
