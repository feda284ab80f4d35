import itertools
from dataclasses import replace
from unittest import mock

import pytest
import torch
from conftest import TINY_TEMPLATE, tiny_model, tiny_qagen, tiny_tokenizer
from peft import LoraConfig, get_peft_model
from transformers import BartForConditionalGeneration

from hf_quals import QUESTION_SEP_ANSWER, QAGenModel, QAPair, QATemplate


DECODING = {"num_beams": 6, "num_beam_groups": 6, "max_new_tokens": 12, "min_new_tokens": 3}
DOCUMENTS = ["lewis said that klitschko is hurt", "joshua", "a much longer text about fury and his win in germany."]


def slow_log_probs(qagen: QAGenModel, document: str, pair: QAPair) -> list[float]:
    """One forward pass for one pair, written out."""
    ids = list(pair.token_ids)
    context = qagen.encode([document])[0].input_ids
    with torch.no_grad():
        if qagen.is_encoder_decoder:
            start = qagen.model.config.decoder_start_token_id
            logits = qagen.model(
                input_ids=torch.tensor([context]), decoder_input_ids=torch.tensor([[start, *ids[:-1]]])
            ).logits[0]
        else:
            logits = qagen.model(torch.tensor([context + ids])).logits[0, len(context) - 1 : -1]
    return [logits[i].log_softmax(-1)[token].item() for i, token in enumerate(ids)]


def test_log_probs_equal_one_forward_pass_a_pair(qagen):
    pairs = qagen.generate(DOCUMENTS, **DECODING)
    # Pairs of every text are scored given another one, several at once and none for the last.
    shifted = [pairs[1] + pairs[0], pairs[2][:1], []]
    scores = qagen.log_probs(DOCUMENTS, shifted)
    assert [len(row) for row in scores] == [12, 1, 0]
    for document, row, values in zip(DOCUMENTS, shifted, scores, strict=True):
        for pair, log_probs in zip(row, values, strict=True):
            assert log_probs == pytest.approx(slow_log_probs(qagen, document, pair), abs=1e-4)


def test_generation_reports_the_log_probs_that_scoring_the_same_text_finds(qagen):
    pairs = qagen.generate(DOCUMENTS, **DECODING)
    for row, values in zip(pairs, qagen.log_probs(DOCUMENTS, pairs), strict=True):
        for pair, log_probs in zip(row, values, strict=True):
            assert pair.log_probs == pytest.approx(log_probs, abs=1e-4)


def test_many_pairs_are_scored_in_pieces_with_the_same_result(qagen, monkeypatch):
    pairs = qagen.generate(DOCUMENTS, **DECODING)
    whole = qagen.log_probs(DOCUMENTS, pairs)
    monkeypatch.setattr("hf_quals.qagen.reading._CHUNK_TOKENS", 20)
    for row, pieces in zip(whole, qagen.log_probs(DOCUMENTS, pairs), strict=True):
        for one, other in zip(row, pieces, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_what_else_is_in_the_batch_makes_no_difference(qagen):
    alone = [qagen.generate([document], **DECODING)[0] for document in DOCUMENTS]
    together = qagen.generate(DOCUMENTS, batch_size=3, **DECODING)
    for one, other in zip(alone, together, strict=True):
        assert [pair.token_ids for pair in one] == [pair.token_ids for pair in other]
        for pair, same in zip(one, other, strict=True):
            assert pair.log_probs == pytest.approx(same.log_probs, abs=1e-4)


def test_generated_pairs_are_read_through_the_template(qagen):
    pairs = [
        pair
        for row in qagen.generate(DOCUMENTS, **DECODING | {"num_beams": 30, "num_beam_groups": 30})
        for pair in row
    ]
    for pair in pairs:
        finished = pair.token_ids[-1] == 2
        assert len(pair.token_ids) == len(pair.log_probs)
        assert (pair.question, pair.answer) == ((TINY_TEMPLATE.parse(pair.text) if finished else None) or ("", ""))
        if pair.is_pair:
            behind = qagen.tokenizer.decode(list(pair.token_ids[pair.answer_start : -1]))
            assert behind.strip() == pair.answer
    assert any(pair.is_pair for pair in pairs)


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_saved_model_loads_again_with_its_template(family, tmp_path):
    qagen = tiny_qagen(family)
    qagen.save_pretrained(tmp_path)
    loaded = QAGenModel.from_pretrained(tmp_path, dtype="float32")
    assert loaded.template == TINY_TEMPLATE
    (found,), (expected,) = (model.generate(DOCUMENTS[:1], **DECODING) for model in (loaded, qagen))
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.token_ids) == (other.text, other.token_ids)
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def saved_adapter(tmp_path, family="llama"):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    tiny_model(family).save_pretrained(base)
    tiny_tokenizer(family).save_pretrained(base)
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    from transformers import AutoModelForCausalLM

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).eval()
    model.save_pretrained(folder)
    TINY_TEMPLATE.save_pretrained(folder)
    return model, base, folder


def test_adapter_is_merged_and_finds_its_base(tmp_path):
    model, base, folder = saved_adapter(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    expected = model(ids).logits
    for loaded in (
        QAGenModel.from_pretrained(base, adapter=folder, dtype="float32"),
        QAGenModel.from_pretrained(folder, dtype="float32"),
    ):
        torch.testing.assert_close(loaded.model(ids).logits, expected, atol=1e-5, rtol=1e-5)
        assert loaded.template == TINY_TEMPLATE
    merged = tmp_path / "merged"
    loaded.save_pretrained(merged)
    again = QAGenModel.from_pretrained(merged, dtype="float32")
    torch.testing.assert_close(again.model(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_model_that_does_not_tell_how_it_writes_pairs_is_refused(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no qagen_config\.json tells how this model writes"):
        QAGenModel.from_pretrained(tmp_path)
    assert QAGenModel.from_pretrained(tmp_path, template=TINY_TEMPLATE).template == TINY_TEMPLATE


def test_encoder_decoder_with_sep_in_its_vocabulary_gets_the_built_in_template(tmp_path):
    tokenizer = tiny_tokenizer("t5")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<sep>"]})
    model = tiny_model("t5")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    qagen = QAGenModel.from_pretrained(tmp_path)
    assert qagen.template == QUESTION_SEP_ANSWER
    sep = tokenizer.convert_tokens_to_ids("<sep>")
    pair = qagen._read([*tokenizer("who won", add_special_tokens=False)["input_ids"], sep, 10, 2], [-1.0] * 10)
    assert (pair.question, pair.answer) == ("who won", tokenizer.decode([10]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float99"}, "dtype must be"),
        ({"device": "cuda:77"}, "device='cuda:77' is not available"),
        ({"device": "toaster"}, "device='toaster' is not available"),
        ({"device": "meta"}, "device='meta' is not available here: it holds no values"),
    ],
)
def test_impossible_options_are_refused(tiny_causal_folder, options, message):
    with pytest.raises(ValueError, match=message):
        QAGenModel.from_pretrained(tiny_causal_folder, **options)


def test_attention_that_cannot_take_the_masks_is_refused():
    model = tiny_model("llama")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="attn_implementation='flex_attention' cannot score"):
        QAGenModel(model, tiny_tokenizer("llama"), TINY_TEMPLATE)


def test_decoder_without_a_start_begins_with_bos_as_generate_does():
    model = tiny_model("bart")
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    qagen = QAGenModel(model, tiny_tokenizer("bart"), TINY_TEMPLATE)
    (pairs,) = qagen.generate(DOCUMENTS[:1], **DECODING)
    model.config.decoder_start_token_id = model.config.bos_token_id
    assert pairs[0].log_probs == pytest.approx(slow_log_probs(qagen, DOCUMENTS[0], pairs[0]), abs=1e-4)
    (scored,) = qagen.log_probs(DOCUMENTS[:1], [pairs])
    assert pairs[0].log_probs == pytest.approx(scored[0], abs=1e-4)


def test_decoder_that_nothing_starts_is_refused():
    model = tiny_model("bart")
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="BartForConditionalGeneration has neither decoder_start_token_id nor bos"):
        QAGenModel(model, tiny_tokenizer("bart"), TINY_TEMPLATE)


def continue_by_hand(qagen: QAGenModel, text: str, asked: list[int], most: int) -> str:
    """One token at a time, one row, no cache."""
    context = qagen.encode([text])[0].input_ids
    ids = [qagen.model.config.decoder_start_token_id, *asked] if qagen.is_encoder_decoder else context + asked
    before = len(ids)
    while len(ids) < before + most:
        with torch.no_grad():
            if qagen.is_encoder_decoder:
                logits = qagen.model(input_ids=torch.tensor([context]), decoder_input_ids=torch.tensor([ids])).logits
            else:
                logits = qagen.model(torch.tensor([ids])).logits
        token = int(logits[0, -1].argmax())
        if token == qagen.tokenizer.eos_token_id:
            break
        ids.append(token)
    return qagen.tokenizer.decode(ids[before:], skip_special_tokens=True).strip()


def answer_by_hand(qagen: QAGenModel, text: str, question: str, most: int) -> str:
    asked = qagen.tokenizer(f"{question}|", add_special_tokens=False)["input_ids"]
    is_bart = qagen.model.config.model_type == "bart"  # BART's targets begin with <s>
    return continue_by_hand(qagen, text, [1, *asked] if is_bart else asked, most)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_of_one_question_at_a_time(qagen, batch_size):
    questions = [["abcdef", "who is that", "z"], [], ["qwerty"]]
    assert qagen.answer(DOCUMENTS, questions, max_new_tokens=4, batch_size=batch_size) == [
        [answer_by_hand(qagen, text, question, 4) for question in part]
        for text, part in zip(DOCUMENTS, questions, strict=True)
    ]


@pytest.mark.parametrize(("batch_size", "chunk"), [(1, 512), (3, 512), (3, 20)])
def test_pairs_are_read_as_they_are_scored_and_answered_one_by_one(qagen, batch_size, chunk, monkeypatch):
    monkeypatch.setattr("hf_quals.qagen.reading._CHUNK_TOKENS", chunk)
    generated = qagen.generate(DOCUMENTS, **DECODING)
    pairs = [generated[1] + generated[0], [], generated[2]]
    pairs = [[pair for pair in row if pair.is_pair] for row in pairs]
    # What a text itself answers, whole, in part and with more behind it, comes back from it.
    for document, row in zip(DOCUMENTS, pairs, strict=True):
        for pair in list(row[:3]):
            before = list(pair.token_ids[: pair.answer_start])
            own = qagen.tokenizer.encode(continue_by_hand(qagen, document, before, 4), add_special_tokens=False)
            for ids in ([*own, qagen.tokenizer.eos_token_id], own[:1], [*own, 5, 6]):
                row.append(replace(pair, token_ids=(*before, *ids)))
    assert sum(map(len, pairs)) > 10
    read = qagen.read(DOCUMENTS, pairs, max_new_tokens=4, batch_size=batch_size)
    for document, row, readings in zip(DOCUMENTS, pairs, read, strict=True):
        for pair, reading in zip(row, readings, strict=True):
            before = list(pair.token_ids[: pair.answer_start])
            assert reading.answer == continue_by_hand(qagen, document, before, 4)
            assert reading.log_probs == pytest.approx(slow_log_probs(qagen, document, pair), abs=1e-4)


def test_answers_of_different_lengths_end_each_for_itself():
    # Without training: what it has learned is to say one letter.
    qagen = QAGenModel(tiny_model("llama"), tiny_tokenizer("llama"), TINY_TEMPLATE)
    text = "fury beat klitschko in november"
    questions = ["abcdef", "who is that", "z", "qwerty", "uiop", "fury", "in may", "klitschko"]
    unended = []
    for question in questions:
        ids = qagen.tokenizer(f"{text}?{question}|")["input_ids"]
        start = len(ids)
        while len(ids) < start + 8:
            with torch.no_grad():
                ids.append(int(qagen.model(torch.tensor([ids])).logits[0, -1].argmax()))
        unended.append(ids[start:])
    # The token at which answers have the most different lengths.
    of_token = {
        token: [ids.index(token) if token in ids else 8 for ids in unended] for token in set(itertools.chain(*unended))
    }
    end, lengths = max(of_token.items(), key=lambda item: len(set(item[1])))
    assert len(set(lengths)) >= 3
    qagen.model.generation_config.eos_token_id = end
    (answers,) = qagen.answer([text], [questions], max_new_tokens=8)
    by_hand = [
        qagen.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        for ids, length in zip(unended, lengths, strict=True)
    ]
    assert answers == by_hand


def test_every_batch_tells_how_many_texts_are_done(qagen):
    done = []
    pairs = qagen.generate(DOCUMENTS, **DECODING, batch_size=2, on_batch=done.append)
    qagen.log_probs(DOCUMENTS, pairs, batch_size=2, on_batch=done.append)
    qagen.read(DOCUMENTS, pairs, batch_size=1, on_batch=done.append)
    qagen.answer(DOCUMENTS, [["who"], [], ["what"]], batch_size=2, on_batch=done.append)
    assert done == [2, 1, 2, 1, 1, 1, 1, 2]


def test_model_that_writes_the_answer_first_cannot_be_asked():
    backwards = QAGenModel(tiny_model("llama"), tiny_tokenizer("llama"), QATemplate("{text}?", "{answer}|{question}"))
    with pytest.raises(ValueError, match="cannot be asked"):
        backwards.answer(["fury won"], [["who won"]])
    with pytest.raises(ValueError, match="cannot be asked"):
        backwards.read(["fury won"], [[]])


def test_empty_text_is_refused(qagen):
    with pytest.raises(ValueError, match="Text 1 is empty"):
        qagen.generate(["joshua", " \n"])


def test_a_batch_of_less_than_one_text_is_refused(qagen):
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {batch_size}"):
            qagen.generate(["ann won"], num_beams=2, num_beam_groups=2, batch_size=batch_size)


def test_positions_are_left_for_pairs_of_the_length_that_is_asked_for(monkeypatch):
    """Of 160 positions 30 are an answer's; what is written is at most 100 tokens."""
    qagen = tiny_qagen("llama")
    monkeypatch.setattr(qagen.model.config, "max_position_embeddings", 160)
    encode = mock.Mock(wraps=qagen.template.encode_texts)
    with mock.patch.object(QATemplate, "encode_texts", encode):
        qagen.generate(["a" * 200], num_beams=2, num_beam_groups=2, min_new_tokens=90, max_new_tokens=100)
    assert encode.call_args.kwargs["max_length"] == 160 - 100 - 30
    with pytest.raises(ValueError, match="Of the model's 160 positions none is left for a text: 130 are a pair's"):
        qagen.encode(["a"], max_new_tokens=130)


@pytest.mark.parametrize("positions", [30, 40])
def test_padding_stays_within_positions_that_are_learned(positions):
    config = tiny_model("bart").config
    config.max_position_embeddings = positions
    torch.manual_seed(0)
    qagen = QAGenModel(BartForConditionalGeneration(config).eval(), tiny_tokenizer("bart"), TINY_TEMPLATE)
    text = "klitschko has a chink in his armour, says lewis"
    assert len(qagen.encode([text])[0].input_ids) == positions
    (pairs,) = qagen.generate([text], **DECODING)
    pairs.append(replace(pairs[0], token_ids=tuple(5 + number % 20 for number in range(positions - 1))))
    (scored,) = qagen.log_probs([text], [pairs])
    for pair, log_probs in zip(pairs, scored, strict=True):
        assert log_probs == pytest.approx(slow_log_probs(qagen, text, pair), abs=1e-4)


def test_a_layer_or_head_counted_from_the_end_is_refused():
    with pytest.raises(ValueError, match="there is no head 0 in layer -1"):
        tiny_qagen("llama").check_heads([(-1, 0)])


def test_as_many_lists_of_pairs_as_documents_are_needed(qagen):
    with pytest.raises(ValueError, match="got 1 and 2"):
        qagen.log_probs(["joshua"], [[], []])
