import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import SUMMARIZER_SETTINGS, all_warnings, tiny_model, tiny_qagen, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from reader_world import tiny_bert, tiny_bert_tokenizer, windows_by_hand
from transformers import BartForQuestionAnswering, BertForQuestionAnswering, BertModel

from hf_quals import QAGenModel, QATemplate
from hf_quals.errors import InputError
from hf_quals.judges.entities import RuleFinder
from hf_quals.judges.qags import QagsScorer
from hf_quals.judges.qags.answers import normalize_answer, token_f1
from hf_quals.judges.qags.qagen_reader import QAGenReader
from hf_quals.judges.qags.readers import ExtractiveReader, best_span
from hf_quals.judges.qags.scorer import _settings_of, candidates
from hf_quals.judges.qags.writers import QAGenQuestionWriter, Seq2SeqQuestionWriter, WrittenQuestion


@pytest.mark.parametrize(
    ("answer", "normal"),
    [("The  Bank of England!", "bank of england"), ("A theatre", "theatre"), ("U.S.", "us"), ("an", "")],
)
def test_answers_are_normalised_as_by_squad(answer, normal):
    assert normalize_answer(answer) == normal


@pytest.mark.parametrize(
    ("first", "second", "f1"),
    [
        ("Klitschko", "the Klitschko.", 1.0),
        ("Wladimir Klitschko", "Klitschko", 2 / 3),  # precision 1/2, recall 1
        ("new york new york", "new york", 2 / 3),  # each repetition counts once
        ("Lewis", "Fury", 0.0),
        ("Lewis", "", 0.0),
        ("", "", 1.0),
    ],
)
def test_token_f1(first, second, f1):
    assert token_f1(first, second) == token_f1(second, first) == pytest.approx(f1)


def test_candidates_are_names_then_numbers_then_noun_phrases_each_once():
    summary = "Lewis says that the 3 fans in Leeds saw a fight. Lewis likes the fight with Fury."
    assert candidates(summary, RuleFinder()) == ["Lewis", "Leeds", "Fury", "3", "the 3 fans", "a fight"]


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=8), st.integers(1, 9))
def test_best_span_is_the_best_of_all_spans(scores, longest):
    starts, ends = zip(*scores, strict=True)
    spans = [(starts[s] + ends[e], s, e) for s in range(len(starts)) for e in range(s, min(s + longest, len(starts)))]
    score, start, end = best_span(torch.tensor(starts), torch.tensor(ends), longest)
    assert score == max(spans)[0]
    assert (score, start, end) in spans


TEXTS = ["Lewis says that Klitschko is hurt by his defeat to Fury . Joshua won . Klitschko lost the", "Fury won ."]
QUESTIONS = [["who is hurt ?", "who won ?", "when is that ?"], ["who lost to Fury ?"]]


def answer_by_hand(reader, text, question):
    """SQuAD 2's rule over all spans of all windows, one forward pass a window, built from ids."""
    ids, question_ids = (reader.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, question))
    room = reader.max_length - len(question_ids) - 3
    best, null = (-math.inf, ""), math.inf
    place = 0
    for window in windows_by_hand(ids, room, reader.stride):
        input_ids = [2, *question_ids, 3, *window, 3]
        segments = [0] * (len(question_ids) + 2) + [1] * (len(window) + 1)
        with torch.no_grad():
            output = reader.model(torch.tensor([input_ids]), token_type_ids=torch.tensor([segments]))
        start_logits, end_logits = output.start_logits[0], output.end_logits[0]
        null = min(null, float(start_logits[0] + end_logits[0]))
        first = len(question_ids) + 2
        for s in range(len(window)):
            for e in range(s, min(len(window), s + reader.max_answer_length)):
                score = float(start_logits[first + s] + end_logits[first + e])
                best = max(best, (score, " ".join(text.split()[place + s : place + e + 1])))
        place += room - reader.stride
    return best[1] if best[0] > null else ""


@pytest.mark.parametrize("batch_size", [1, 3])
def test_reader_takes_the_best_span_of_all_windows_or_none(batch_size):
    reader = ExtractiveReader(
        tiny_bert(BertForQuestionAnswering), tiny_bert_tokenizer(), max_length=15, stride=4, max_answer_length=5
    )
    answers, truncated = reader.read(TEXTS, QUESTIONS, batch_size=batch_size)
    assert truncated == [False, False]
    assert answers == [
        [answer_by_hand(reader, text, question) for question in part]
        for text, part in zip(TEXTS, QUESTIONS, strict=True)
    ]
    assert any(answers[0] + answers[1])


def test_readers_that_differ_in_their_head_alone_are_told_apart():
    """Of a BART something else is called `model`, too: all but its head."""
    identities = set()
    for bias in (0.0, 1.0):
        torch.manual_seed(0)
        model = BartForQuestionAnswering(tiny_model("bart").config)
        torch.nn.init.constant_(model.qa_outputs.bias, bias)
        tokenizer = tiny_tokenizer("bart")
        tokenizer.cls_token = "<s>"
        identities.add(_settings_of(ExtractiveReader(model, tokenizer))["weights"])
    assert len(identities) == 2


def test_reader_may_find_no_answer():
    model = tiny_bert(BertForQuestionAnswering)
    reader = ExtractiveReader(model, tiny_bert_tokenizer())
    with torch.no_grad():
        model.qa_outputs.weight.zero_()
        model.qa_outputs.bias.zero_()
    # All spans and no answer are equally probable: then there is none.
    assert reader.read(["Fury won ."], [["who won ?"]], batch_size=1) == ([[""]], [False])


class HalfPrecisionReader:
    """Of "[CLS] who won ? [SEP] fury won . [SEP]" no answer has 2048 + 1, "fury" 2048 + 0.5; halves know neither."""

    device = "cpu"

    def __call__(self, **_):
        start, end = [2048.0, 0, 0, 0, 0, 2048.0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0.5, 0, 0, 0]
        return SimpleNamespace(start_logits=torch.tensor([start]).half(), end_logits=torch.tensor([end]).half())


def test_spans_and_no_answer_are_added_in_the_same_precision():
    reader = ExtractiveReader(HalfPrecisionReader(), tiny_bert_tokenizer())
    assert reader.read(["Fury won ."], [["who won ?"]], batch_size=1) == ([[""]], [False])


def test_a_reader_that_has_no_mark_for_no_answer_is_refused_at_once():
    with pytest.raises(InputError, match="has no cls_token, on which a reader says that there is no answer"):
        ExtractiveReader(tiny_bert(BertForQuestionAnswering), tiny_tokenizer("bart"))


def greedy_by_hand(qagen, text, question, most):
    """One token at a time, without padding and without a cache."""
    asked = qagen.tokenizer(f"{question}|", add_special_tokens=False)["input_ids"]
    ids = qagen.tokenizer(f"{text}?")["input_ids"]
    start = {"llama": [], "bart": [2, 1], "t5": [0]}[qagen.model.config.model_type]
    answer = []
    while len(answer) < most:
        written = [*start, *asked, *answer]
        inputs = {"input_ids": [ids], "decoder_input_ids": [written]} if start else {"input_ids": [ids + written]}
        with torch.no_grad():
            logits = qagen.model(**{name: torch.tensor(rows) for name, rows in inputs.items()}).logits
        token = int(logits[0, -1].argmax())
        if token == qagen.tokenizer.eos_token_id:
            break
        answer.append(token)
    return qagen.tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_qagen_of_either_family_reads_as_it_would_one_question_at_a_time(qagen, batch_size):
    texts = ["fury beat klitschko in november", "a b", "joshua"]
    questions = [["abcdef", "who is that", "z"], [], ["qwerty"]]
    answers, truncated = QAGenReader(qagen, max_new_tokens=4).read(texts, questions, batch_size=batch_size)
    by_hand = [
        [greedy_by_hand(qagen, text, question, 4) for question in part]
        for text, part in zip(texts, questions, strict=True)
    ]
    assert any(by_hand[0])
    assert answers == [
        [answer if answer in text else "" for answer in part] for text, part in zip(texts, by_hand, strict=True)
    ]
    assert truncated == [False, False, False]


def test_text_that_qagen_cannot_hold_is_reported():
    _, truncated = QAGenReader(tiny_qagen("llama"), max_length=12).read(["a" * 20, "b"], [["c"], ["c"]], batch_size=2)
    assert truncated == [True, False]


def test_qagen_that_writes_the_answer_first_cannot_be_the_reader():
    template = QATemplate(prompt="{text}?", pair="{answer}|{question}")
    with pytest.raises(InputError, match="cannot be asked: the question must stand before the answer"):
        QAGenReader(QAGenModel(tiny_model("llama"), tiny_tokenizer("llama"), template))


def test_qagen_asks_what_it_generates_about_the_most_similar_candidate(qagen):
    texts = ["fury beat a b", "joshua c"]
    answers = [["fury", "a", "b"], []]
    writer = QAGenQuestionWriter(qagen, num_sequences=20, num_beams=3, max_new_tokens=20)
    written, truncated = writer.write(texts, answers, batch_size=2)
    assert truncated == [False, False]
    assert written[1] == []
    generated = qagen.generate(texts, num_beams=20, num_beam_groups=20, max_new_tokens=20)[0]
    for answer in answers[0]:
        # Answers of the tiny QAGen are single letters: each is like one candidate or none ("a" is an article).
        expected = [
            (pair.question, sum(pair.log_probs) / len(pair.log_probs))
            for pair in generated
            if pair.is_pair and token_f1(pair.answer, answer) >= 0.5
        ]
        expected.sort(key=lambda found: -found[1])
        found = [(one.question, one.log_prob) for one in written[0] if one.candidate == answer]
        assert [question for question, _ in found] == [question for question, _ in expected[:3]]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected[:3]], abs=1e-4)


def seq2seq_writer(max_new_tokens=6, **options):
    tokenizer = tiny_tokenizer("bart")
    return Seq2SeqQuestionWriter(tiny_model("bart"), tokenizer, num_beams=3, max_new_tokens=max_new_tokens, **options)


def test_writer_marks_the_answer_where_it_stands_as_a_word():
    assert seq2seq_writer()._prompt("a party of art {x}", "art") == "a party of <hl> art <hl> {x}"
    assert seq2seq_writer(prompt="{answer} in: {text}")._prompt("of art", "art") == "art in: of art"
    # As far as it is none: finders take a part of what typography joins.
    assert seq2seq_writer()._prompt("by J.K.Rowling", "J.K.") == "by <hl> J.K. <hl>Rowling"
    assert seq2seq_writer()._prompt("the _Guardian_ says", "Guardian_") == "the _<hl> Guardian_ <hl> says"


@pytest.mark.parametrize("prompt", ["{text}", "{answer} {context}", "{}{answer}"])
def test_prompt_without_the_answer_or_with_unknown_placeholders_is_refused(prompt):
    with pytest.raises(ValueError, match=r"prompt must hold \{answer\}"):
        seq2seq_writer(prompt=prompt)


def test_writer_returns_its_beams_with_their_mean_log_probability():
    writer = seq2seq_writer(prompt="{answer} {text}")
    written, truncated = writer.write(["fury won", "no", "lewis lost"], [["fury", "won"], [], ["lewis"]], batch_size=2)
    assert [len(part) for part in written] == [6, 0, 3]
    assert truncated == [False] * 3
    assert [one.candidate for one in written[0]] == ["fury"] * 3 + ["won"] * 3
    inputs = writer.tokenizer("lewis lewis lost", return_tensors="pt")
    beams = writer.model.generate(
        **inputs, num_beams=3, num_return_sequences=3, max_new_tokens=6, length_penalty=1.0, do_sample=False
    )
    for one, ids in zip(written[2], beams.tolist(), strict=True):
        ids = ids[: ids.index(2, 1) + 1] if 2 in ids[1:] else ids
        with torch.no_grad():
            logits = writer.model(**inputs, decoder_input_ids=torch.tensor([ids[:-1]])).logits[0]
        log_probs = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        assert one.log_prob == pytest.approx(float(log_probs.mean()), abs=1e-4)
        assert one.question == writer.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_a_checkpoints_own_length_gives_no_warning_and_is_not_its_limit():
    writer = seq2seq_writer(prompt="{answer} {text}", max_new_tokens=20)
    written = []
    for max_length in (14, None):
        writer.model.generation_config.update(**SUMMARIZER_SETTINGS | {"max_length": max_length, "min_length": 18})
        with all_warnings() as texts:
            written.append(writer.write(["fury won"], [["fury", "won"]], batch_size=2))
        assert texts == []
    assert written[0] == written[1]
    assert all(len(question.question) > 14 for question in written[0][0][0])


class TableWriter:
    """Writes the same for whatever it is asked."""

    def __init__(self, questions):
        self.questions = questions

    def write(self, texts, candidates, *, batch_size):
        return [[WrittenQuestion(*one) for one in self.questions] for _ in texts], [False for _ in texts]


class TableReader:
    """Answers from a table of (text, question)."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def read(self, texts, questions, *, batch_size):
        self.asked += [(text, question) for text, part in zip(texts, questions, strict=True) for question in part]
        answers = [
            [self.answers.get((text, question), "") for question in part]
            for text, part in zip(texts, questions, strict=True)
        ]
        return answers, [text == "long document" for text in texts]


def test_questions_are_filtered_ranked_asked_and_compared():
    summary, document = "Fury beat Lewis.", "long document"
    writer = TableWriter(
        [
            ("Who beat Lewis ?", "Fury", -0.5),
            ("who  beat lewis ?", "Lewis", -0.9),  # repeats the one above
            ("Who ?", "Fury", -0.1),  # too short
            ("Who lost to Fury ?", "Lewis", -0.2),
            ("When was that fight ?", "Fury", -0.3),  # unanswered
            ("What did Fury do ?", "Fury", -0.4),
            ("What did Lewis do ?", "Lewis", -0.8),  # one more than wanted
        ]
    )
    reader = TableReader(
        {
            (summary, "Who beat Lewis ?"): "Fury",
            (summary, "Who lost to Fury ?"): "Lewis",
            (summary, "What did Fury do ?"): "beat Lewis",
            (summary, "What did Lewis do ?"): "Fury",
            (document, "Who lost to Fury ?"): "Wladimir Klitschko",
            (document, "What did Fury do ?"): "beat Klitschko",
            (document, "Who beat Lewis ?"): "",
        }
    )
    (result,) = QagsScorer(writer, reader, RuleFinder(), max_questions=3).score([document], [summary])
    assert [(one.question, one.candidate, one.summary_answer, one.document_answer) for one in result.questions] == [
        ("Who lost to Fury ?", "Lewis", "Lewis", "Wladimir Klitschko"),
        ("What did Fury do ?", "Fury", "beat Lewis", "beat Klitschko"),
        ("Who beat Lewis ?", "Fury", "Fury", ""),
    ]
    assert [one.f1 for one in result.questions] == [0.0, 0.5, 0.0]
    assert result.score == pytest.approx(0.5 / 3)
    counts = (result.num_written, result.num_duplicate, result.num_short, result.num_unanswered, result.num_surplus)
    assert counts == (7, 1, 1, 1, 1)
    assert (result.num_candidates, result.finder) == (2, "rules")
    assert (result.document_truncated, result.summary_truncated) == (True, False)


def test_document_is_asked_once_what_several_summaries_ask():
    reader = TableReader({("a summary", "Is it so ?"): "yes", ("another", "Is it so ?"): "no"})
    scorer = QagsScorer(TableWriter([("Is it so ?", "a", -1.0)]), reader, RuleFinder())
    scorer.score(["document"] * 3, ["a summary", "another", "a summary"])
    assert sorted(reader.asked) == sorted([(text, "Is it so ?") for text in ("a summary", "another", "document")])


def test_summary_nothing_can_be_asked_about_is_unscored_and_says_so():
    (result,) = QagsScorer(TableWriter([]), TableReader({}), RuleFinder()).score(["a document"], ["nothing"])
    assert math.isnan(result.score)
    assert result.num_questions == 0
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["score"] is None


def test_qagen_plays_both_roles(tiny_causal_folder):
    scorer = QagsScorer.from_qagen(tiny_causal_folder, device="cpu", finder=RuleFinder(), max_candidates=5)
    scorer.writer.num_sequences = 20
    documents = ["fury beat lewis in may", "a b c"]
    summaries = ["The b of his x, a y and the z.", "b"]
    results = scorer.score(documents, summaries)
    for result in results:
        dropped = result.num_duplicate + result.num_short + result.num_unanswered + result.num_surplus
        assert result.num_written == dropped + result.num_questions
        json.dumps(result.to_dict(), allow_nan=False)
    assert results[0].num_candidates == 4
    again = scorer.score(documents[::-1], summaries[::-1], batch_size=1)[::-1]
    assert [one.num_written for one in again] == [one.num_written for one in results]


def test_both_models_are_loaded_from_folders(tmp_path):
    writer = seq2seq_writer()
    reader = tiny_bert(BertForQuestionAnswering)
    for name, parts in (("writer", (writer.model, writer.tokenizer)), ("reader", (reader, tiny_bert_tokenizer()))):
        for part in parts:
            part.save_pretrained(tmp_path / name)
    scorer = QagsScorer.from_pretrained(
        tmp_path / "writer", tmp_path / "reader", prompt="{answer} {text}", device="cpu", finder=RuleFinder()
    )
    scorer.reader = dataclasses.replace(scorer.reader, max_length=64, stride=16)
    (result,) = scorer.score(["Fury won ."], ["Lewis lost . Fury won ."])
    assert result.num_candidates == 2
    assert result.num_written == 20


def test_a_reader_without_its_head_is_refused(tmp_path):
    writer = seq2seq_writer()
    for name, parts in (
        ("writer", (writer.model, writer.tokenizer)),
        ("reader", (tiny_bert(BertModel), tiny_bert_tokenizer())),
    ):
        for part in parts:
            part.save_pretrained(tmp_path / name)
    with pytest.raises(InputError, match=r"reader lacks weights of BertForQuestionAnswering: qa_outputs\.bias, qa_"):
        QagsScorer.from_pretrained(tmp_path / "writer", tmp_path / "reader", device="cpu", finder=RuleFinder())


@pytest.mark.parametrize("number", ["max_candidates", "max_questions"])
def test_numbers_out_of_range_are_refused_before_a_model_is_loaded(number):
    with pytest.raises(ValueError, match=f"{number} must be at least 1, got 0"):
        QagsScorer.from_qagen("a model that does not exist", **{number: 0})


@pytest.mark.parametrize(
    ("documents", "summaries", "message"),
    [
        (["a"], ["b", "c"], "got 1 documents and 2 summaries"),
        (["a"], "b", "A single summary goes with a single document"),
        ([None], ["b"], "Row 0: the document must be a string, got NoneType"),
        (["a"], [""], "Row 0: the summary is empty"),
    ],
)
def test_bad_rows_are_named(documents, summaries, message):
    with pytest.raises(ValueError, match=message):
        QagsScorer(TableWriter([]), TableReader({}), RuleFinder()).score(documents, summaries)


@pytest.mark.slow
def test_the_wrong_boxer_scores_below_the_right_one_with_the_default_model():
    document = (
        "Lennox Lewis believes that Wladimir Klitschko is hurt by his defeat to Tyson Fury and expects Anthony Joshua "
        "to win their fight at Wembley in April. Lewis, 51, said that the Ukrainian has a chink in his armour."
    )
    right, wrong = QagsScorer.from_qagen(finder=RuleFinder()).score(
        [document] * 2,
        [
            "Lewis believes that Klitschko is hurt by his defeat to Fury.",
            "Klitschko believes that Lewis is hurt by his defeat to Joshua.",
        ],
    )
    assert min(right.num_questions, wrong.num_questions) >= 5
    assert right.score > wrong.score + 0.05
