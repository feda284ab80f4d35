"""The benchmarks of speed, with tiny models: what they compare is equal, what they count is right, and each prints."""

import sys
from pathlib import Path

import pytest
from transformers import BartConfig, BertConfig, LlamaConfig


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "benchmarks"))

import quals_vs_naive
import quals_vs_qags
import refresh_cost
import scoring_limit
import sizes


@pytest.fixture(autouse=True)
def tiny_shapes(monkeypatch):
    layers = {"encoder_layers": 1, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    bart = BartConfig(vocab_size=90, d_model=16, **layers, **heads)
    llama = LlamaConfig(
        vocab_size=90,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    for name, config in {"BART-base": bart, "BART-large": bart, "SmolLM2-135M": llama}.items():
        monkeypatch.setitem(sizes.SHAPES, name, config)
    bert = BertConfig(vocab_size=90, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    monkeypatch.setattr(quals_vs_qags, "BERT_LARGE", bert)
    monkeypatch.setattr(refresh_cost, "random_text", lambda words, _, seed: sizes.random_text(words, 90, seed))


def table(benchmark, monkeypatch, capsys, options):
    """The cells a benchmark prints, below the header."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *options.split()])
    benchmark.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


SHORT = "--document_tokens 20 --summary_tokens 12 --pair_tokens 9"


def test_the_straightforward_way_has_the_same_scores(monkeypatch, capsys):
    rows = table(quals_vs_naive, monkeypatch, capsys, f"{SHORT} --num_beams 15 --summaries 3 --straightforward 2")
    assert [row[0] for row in rows] == ["BART-base", "SmolLM2-135M"]
    assert all(float(row[-1]) < 1e-5 for row in rows)


def test_operations_are_those_of_the_linear_layers(monkeypatch, capsys):
    args = scoring_limit.Arguments(document_tokens=20, summary_tokens=12, pair_tokens=9, num_beams=15)
    head = 16 * 90
    # Queries and outputs, keys and values of half as many heads, gate, up and down: of each of two layers.
    llama = 2 * (2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24)
    generated, scored = scoring_limit.operations(sizes.random_qagen("SmolLM2-135M"), args)
    assert generated == 2 * (12 * llama + 15 * 9 * (llama + head))
    assert scored == 2 * (20 * llama + 10 * 9 * (llama + head))
    # An encoder layer; a decoder's reads the encoder's states through keys and values that are the text's.
    encoder, cross = 4 * 16 * 16 + 2 * 16 * 24, 2 * 2 * 16 * 16
    decoder = 2 * (6 * 16 * 16 + 2 * 16 * 24)
    generated, scored = scoring_limit.operations(sizes.random_qagen("BART-base"), args)
    assert generated == 2 * (12 * (encoder + cross) + 15 * 9 * (decoder + head))
    assert scored == 2 * (20 * (encoder + cross) + 10 * 9 * (decoder + head))
    rows = table(scoring_limit, monkeypatch, capsys, f"{SHORT} --num_beams 15 --batch_sizes 1 2")
    assert [row[:2] for row in rows] == [[name, size] for name in ("SmolLM2-135M", "BART-base") for size in "12"]


def test_qags_comes_first_with_all_its_stages(monkeypatch, capsys):
    rows = table(quals_vs_qags, monkeypatch, capsys, f"{SHORT} --num_beams 6 --batch_size 2")
    assert [row[1] for row in rows] == ["QAGS", "QUALS, 6 beams"]
    assert rows[0][3] == "1"
    assert all(stage in rows[0][4] for stage in ("questions", "answers of the summary", "answers of the document"))


def test_a_refresh_has_a_row_for_each_number_of_documents(monkeypatch, capsys):
    rows = table(refresh_cost, monkeypatch, capsys, f"{SHORT} --documents 2 4 --num_beams 6 --num_candidates 2")
    assert [row[0] for row in rows] == ["2", "4"]
    assert all(stage in rows[0][2] for stage in ("pairs", "document", "sampling"))
