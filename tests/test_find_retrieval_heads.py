import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_qagen

from hf_quals import QAGenModel, QATemplate, QualsConfig
from hf_quals.qagen.training import Pair, Passage
from hf_quals.quals.forms import Calibration


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
import find_retrieval_heads


PASSAGES = [
    Passage("lewis beat fury", (Pair("who beat fury", "lewis", 0),), "one"),
    Passage("x" * 2000, (Pair("who", "x", 0),), "too long to be read whole"),
    Passage("ann met bob", (Pair("who met bob", "ann", 0), Pair("who met ann", "bob", 8)), "two"),
]


def test_attention_is_that_of_the_answer_s_tokens_to_the_answer_in_the_passage():
    qagen = tiny_qagen("llama")
    first, third = find_retrieval_heads.attention_to_answers(qagen, PASSAGES)
    model = copy.deepcopy(qagen.model)
    model.set_attn_implementation("eager")

    def by_hand(passage, question, answer, span):
        # The characters of passage, "?", question, "|", " " and answer.
        ids = qagen.tokenizer(f"{passage}?{question}| {answer}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            attentions = model(torch.tensor([ids]), output_attentions=True).attentions
        return torch.stack([a[0, :, -len(answer) - 1 :, span].sum(-1).mean(-1) for a in attentions])

    torch.testing.assert_close(first, by_hand("lewis beat fury", "who beat fury", "lewis", slice(0, 5)))
    either = [
        by_hand("ann met bob", question, answer, span)
        for question, answer, span in (("who met bob", "ann", slice(0, 3)), ("who met ann", "bob", slice(8, 11)))
    ]
    assert any(torch.allclose(third, expected, atol=1e-6) for expected in either)
    assert first.shape == (2, 4)
    assert qagen.model.config._attn_implementation == "sdpa"


def test_heads_come_with_the_largest_share_first():
    shares = torch.tensor([[0.1, 0.5], [0.5, 0.7], [0.0, 0.2]])
    assert find_retrieval_heads.best_heads(shares, 3) == ((1, 1), (0, 1), (1, 0))


def test_an_encoder_decoder_is_refused_and_who_writes_the_answer_first():
    with pytest.raises(ValueError, match="decoder-only models that write the question before the answer"):
        next(find_retrieval_heads.attention_to_answers(tiny_qagen("bart"), PASSAGES))
    first = QAGenModel(
        tiny_qagen("llama").model, tiny_qagen("llama").tokenizer, QATemplate(pair="{answer}|{question}")
    )
    with pytest.raises(ValueError, match="decoder-only models that write the question before the answer"):
        next(find_retrieval_heads.attention_to_answers(first, PASSAGES))


def test_heads_go_into_a_configuration_whose_other_numbers_stay(tmp_path, monkeypatch, capsys):
    qas = [{"id": "0", "question": "who beat fury", "answers": [{"text": "lewis", "answer_start": 0}]}]
    data = {"data": [{"title": "t", "paragraphs": [{"context": "lewis beat fury", "qas": qas}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(data))
    tiny_qagen("llama").save_pretrained(tmp_path / "model")
    earlier = QualsConfig(
        num_beams=12, attention_weight=2.0, retrieval_heads=((0, 0),), calibration=Calibration(1.0, 0.0)
    )
    earlier.save_pretrained(tmp_path)
    words = f"--data {tmp_path / 'squad.json'} --config {tmp_path / 'quals_config.json'} --model {tmp_path / 'model'}"
    for number in ("0", "9"):
        monkeypatch.setattr(sys, "argv", ["find_retrieval_heads.py", *words.split(), "--num_heads", number])
        with pytest.raises(ValueError, match=f"between 1 and the model's 8 heads, got {number}"):
            find_retrieval_heads.main()
    monkeypatch.setattr(sys, "argv", ["find_retrieval_heads.py", *words.split(), "--num_heads", "3"])
    find_retrieval_heads.main()
    config = QualsConfig.from_file(tmp_path / "quals_config.json")
    assert config == earlier.but(retrieval_heads=config.retrieval_heads)
    assert len(set(config.retrieval_heads)) == 3
    printed = capsys.readouterr().out
    assert "1 questions were read" in printed
    assert "3 of 8 heads" in printed
    assert "The calibration was fitted to other heads and is left out" in printed
    assert "layer {}, head {}: ".format(*config.retrieval_heads[0]) in printed
