import json
from unittest.mock import patch

import pytest
from conftest import TINY_TEMPLATE, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from hf_quals import QUESTION_SEP_ANSWER, QATemplate


def test_pair_is_read_back_as_it_was_written():
    template = QATemplate()
    assert template.format_pair("Who won?", "Joshua") == " Who won?\n Joshua"
    assert template.parse(" Who won?\n Joshua") == ("Who won?", "Joshua")


def test_answer_may_come_first():
    template = QATemplate(pair="answer: {answer} question: {question} end")
    text = template.format_pair("Who won?", "Joshua")
    assert text == "answer: Joshua question: Who won? end"
    assert template.parse(text) == ("Who won?", "Joshua")
    assert template.separator == "question:"


@pytest.mark.parametrize("text", ["", "Who won?", "Who won? <sep>", "<sep> Joshua", "Who? <sep> Joshua <sep> Fury"])
def test_text_without_exactly_one_separator_and_two_sides_is_no_pair(text):
    assert QUESTION_SEP_ANSWER.parse(text) is None


words = st.text(alphabet=st.characters(exclude_characters="|", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text.strip()
)


@given(question=words, answer=words)
def test_any_question_and_answer_survive_writing_and_reading(question, answer):
    assert TINY_TEMPLATE.parse(TINY_TEMPLATE.format_pair(question, answer)) == (question.strip(), answer.strip())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "no placeholder"}, r"prompt must hold \{text\} exactly once"),
        ({"pair": "{question} only"}, r"pair must hold \{answer\} exactly once"),
        ({"pair": "{question} {answer}"}, "separate question and answer"),
    ],
)
def test_template_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        QATemplate(**fields)


def test_template_is_stored_beside_the_weights(tmp_path):
    QUESTION_SEP_ANSWER.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "qagen_config.json").read_text()) == {
        "prompt": "{text}",
        "pair": "{question} <sep> {answer}",
    }
    assert QATemplate.from_file(tmp_path / "qagen_config.json") == QUESTION_SEP_ANSWER


@pytest.mark.parametrize(
    "content",
    ["not json", "[1]", '{"prompt": "{text}", "colour": "blue"}', '{"prompt": null}', '{"pair": "no placeholder"}'],
)
def test_broken_template_file_is_named(tmp_path, content):
    path = tmp_path / "qagen_config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"qagen_config\.json is not a QAGen template"):
        QATemplate.from_file(path)


@pytest.mark.parametrize(
    ("family", "around"), [("llama", ("", "?")), ("bart", ("<s>", "?</s>")), ("t5", ("", "?</s>"))]
)
def test_text_too_long_loses_its_end_but_no_marker(family, around):
    tokenizer = tiny_tokenizer(family)
    room = 6 - len(tokenizer(around[0] + around[1], add_special_tokens=False)["input_ids"])
    long, short = TINY_TEMPLATE.encode_texts(
        tokenizer, ["abcdefgh", "ab"], max_length=6, is_encoder_decoder=family != "llama"
    )
    assert tokenizer.decode(long.input_ids) == around[0] + "abcdefgh"[:room] + around[1]
    assert long.truncated
    assert tokenizer.decode(short.input_ids) == around[0] + "ab" + around[1]
    assert not short.truncated


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_the_span_of_a_text_holds_what_was_kept_of_it_and_nothing_else(family):
    tokenizer = tiny_tokenizer(family)
    template = QATemplate(prompt="read {text}?", pair=TINY_TEMPLATE.pair)
    encoded = template.encode_texts(
        tokenizer, ["lewis", "b" * 90], max_length=20, is_encoder_decoder=family != "llama"
    )
    short, long = (tokenizer.decode(text.input_ids[slice(*text.text_span)]) for text in encoded)
    assert short.strip() == "lewis"
    assert len(long) > 8
    assert set(long.strip()) == {"b"}
    assert tokenizer.decode(encoded[1].input_ids).count("b") == len(long.strip())


def test_max_length_without_room_for_text_is_refused():
    with pytest.raises(ValueError, match="max_length=1 leaves no room"):
        TINY_TEMPLATE.encode_texts(tiny_tokenizer("llama"), ["abc"], max_length=1, is_encoder_decoder=False)


@pytest.mark.parametrize(
    ("family", "target"), [("llama", "who|me</s>"), ("bart", "<s>who|me</s>"), ("t5", "who|me</s>")]
)
def test_training_target_ends_with_end_of_sequence(family, target):
    tokenizer = tiny_tokenizer(family)
    ids = TINY_TEMPLATE.encode_pair(tokenizer, "who", "me", is_encoder_decoder=family != "llama")
    assert tokenizer.decode(ids) == target


@pytest.mark.parametrize("family", ["llama", "bart"])  # T5 has relative positions, and no place where attention rests
def test_first_word_of_a_text_is_not_the_first_token_that_a_model_reads(family):
    # Where a tokenizer puts no marker, attention rests on the first token, and what it says is lost.
    tokenizer = tiny_tokenizer(family)
    template = QATemplate() if family == "llama" else QUESTION_SEP_ANSWER
    encoded = template.encode_texts(tokenizer, ["xyz"], max_length=100, is_encoder_decoder=family != "llama")
    (ids,) = (text.input_ids for text in encoded)
    (x,) = tokenizer("x", add_special_tokens=False)["input_ids"]
    assert ids.index(x) > 0


@pytest.mark.parametrize("text", ["abc de " * 20000, "x" * 140000, "a " + " " * 140000 + "b"])
def test_of_a_long_text_only_the_beginning_is_tokenized_with_the_same_result(text):
    tokenizer = tiny_tokenizer("llama")
    (whole,) = tokenizer([text], add_special_tokens=False)["input_ids"]
    with patch.object(type(tokenizer), "__call__", autospec=True, side_effect=type(tokenizer).__call__) as read:
        (encoded,) = TINY_TEMPLATE.encode_texts(tokenizer, [text], max_length=50, is_encoder_decoder=False)
    assert encoded.input_ids == whole[:49] + tokenizer("?", add_special_tokens=False)["input_ids"]
    assert encoded.truncated
    assert sum(len(call.args[1]) for call in read.call_args_list) < 10000


@pytest.mark.parametrize(("family", "markers"), [("llama", 0), ("bart", 1), ("t5", 0)])
def test_a_continuation_is_tokenized_where_a_pair_begins(family, markers):
    tokenizer = tiny_tokenizer(family)
    template = QATemplate(prompt="{text}?", pair="ask {question}|{answer}")
    ids, first = template.encode_continuation(tokenizer, "ann won.", is_encoder_decoder=family != "llama")
    assert first == markers + len("ask")
    assert tokenizer.decode(ids[first:]).strip() == "ann won."
    assert tokenizer.eos_token_id not in ids[first:]
