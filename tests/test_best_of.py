"""Best of n: rankings of given candidates, of a file's, and of a model's samples."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_model, tiny_qagen, tiny_tokenizer
from reader_world import save_classifier
from typer.testing import CliRunner

from hf_quals import QAGenModel, QualsConfig, QualsScorer, Ranking, Scorer, generate_best_of, rerank
from hf_quals.cli import app
from hf_quals.comparing.rerank_file import rerank_file
from hf_quals.comparing.rows import Source
from hf_quals.judges.registry import Judge
from hf_quals.judges.rouge import RougeScorer, _rouge_score


sys.path[:0] = [str(Path(__file__).parents[1] / "recipes" / "benchmarks")]

import best_of as benchmark  # noqa: E402


DOCUMENTS = ["a red cat sat", "bob ran"]


class Length(Scorer):
    """The number of letters; none beyond eight. It counts its calls, and breaks off at one of them."""

    def __init__(self, break_at=None, name="length"):
        self.calls, self.break_at, self.name = 0, break_at, name

    def score(self, documents, summaries, *, references=None, batch_size=8):
        self.calls += 1
        if self.calls == self.break_at:
            raise KeyboardInterrupt
        return [SimpleNamespace(score=float(len(text)) if len(text) <= 8 else math.nan) for text in summaries]


# ---- Given candidates ----


def test_candidates_without_score_rank_last_and_of_equal_ones_the_first_is_first():
    scorer = Length()
    candidates = [["ab", " ", "abc", "too long a text", "xyz"], ["", "nothing with a score"]]
    first, second = rerank(DOCUMENTS, candidates, scorer)
    assert str(first.scores) == str((2.0, math.nan, 3.0, math.nan, 3.0))
    assert first.order == (2, 4, 0, 1, 3)
    assert first.best == "abc"
    assert first.candidates == tuple(candidates[0])
    assert (second.order, second.best) == ((0, 1), "")
    assert scorer.calls == 1
    assert rerank([], [], scorer) == []


@pytest.mark.parametrize("scores", [(-math.inf, math.nan, math.inf), (0.0, -1.0, math.nan)])
def test_infinite_scores_are_scores(scores):
    expected = {-math.inf: (2, 0, 1), 0.0: (0, 1, 2)}[scores[0]]
    assert Ranking(("a", "b", "c"), scores).order == expected


def test_a_document_is_read_once_for_all_of_its_candidates(monkeypatch):
    lengths = []
    read = QAGenModel.read

    def counted(self, encoded, pairs, **options):
        lengths.append(len(encoded))
        return read(self, encoded, pairs, **options)

    monkeypatch.setattr(QAGenModel, "read", counted)
    scorer = QualsScorer(tiny_qagen("llama"), QualsConfig(num_beams=8))
    candidates = [["red cat", "sun", "a dog", "red cat"], ["bob", "ann ran", "cat"]]
    rankings = rerank(DOCUMENTS, candidates, scorer)
    assert lengths == [2]
    for document, of_document, ranking in zip(DOCUMENTS, candidates, rankings, strict=True):
        alone = [scorer.score([document], [text])[0].score for text in of_document]
        assert ranking.scores == pytest.approx(alone, abs=1e-4, nan_ok=True)
    assert not all(math.isnan(score) for ranking in rankings for score in ranking.scores)


def test_a_scorer_that_reads_references_ranks_by_each_documents_own():
    rankings = rerank(DOCUMENTS, [["cat", "dog"]] * 2, RougeScorer(), references=["dog", "cat"])
    assert [ranking.best for ranking in rankings] == ["dog", "cat"]
    with pytest.raises(ValueError, match=r"rouge compares with references. Pass `references`"):
        rerank(DOCUMENTS, [["cat"]] * 2, RougeScorer())
    with pytest.raises(ValueError, match="Row 1: the reference must be text, got ' '"):
        rerank(DOCUMENTS, [["cat"] * 6] * 2, RougeScorer(), references=["dog", " "])
    assert rerank(DOCUMENTS, [["cat"]] * 2, Length(), references=["dog", " "])[0].best == "cat"  # not read


@pytest.mark.parametrize(
    ("documents", "candidates", "message"),
    [
        ("a cat", [["cat"]], "documents must be a list of strings, got the string 'a cat'"),
        (DOCUMENTS, [["cat"]], "candidates must be as many as documents, 2, got 1"),
        (DOCUMENTS, [["cat"], []], r"Row 1: candidates must be a list of one string at least, got \[\]"),
        (DOCUMENTS, [["cat"], "dog"], "Row 1: candidates must be a list of one string at least, got 'dog'"),
        (DOCUMENTS, [["cat", None], ["dog"]], "Row 0: candidates must be"),
        (["a cat", " "], [["cat"]] * 2, "Row 1: the document must be text, got ' '"),
    ],
)
def test_what_cannot_be_ranked_is_named(documents, candidates, message):
    with pytest.raises(ValueError, match=message):
        rerank(documents, candidates, Length())


# ---- A file ----


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_a_file_get_the_best_candidate_the_scores_and_the_order(tmp_path):
    rows = [
        {"id": 7, "document": "d", "candidates": ["ab", " ", "much too long", "abc"]},
        {"id": 8, "document": "e", "candidates": ["", " "]},
    ]
    rankings = rerank_file(Judge.of(Length()), Source(str(write(tmp_path / "in.jsonl", rows))), tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [
        {**rows[0], "best": "abc", "scores": [2.0, None, None, 3.0], "order": [3, 0, 1, 2]},
        {**rows[1], "best": "", "scores": [None, None], "order": [0, 1]},
    ]
    assert [ranking.best for ranking in rankings] == ["abc", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_an_interrupted_file_is_gone_on_with(tmp_path):
    rows = [{"document": f"d{number}", "candidates": ["a", "a" * (1 + number % 8)]} for number in range(20)]
    source = Source(str(write(tmp_path / "in.jsonl", rows)))
    rerank_file(Judge.of(Length()), source, tmp_path / "whole.jsonl")
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):  # at the third of three parts
        rerank_file(Judge.of(Length(break_at=3)), source, output)
    with pytest.raises(ValueError, match="Pass `resume=True` or `overwrite=True`"):
        rerank_file(Judge.of(Length()), source, output)
    scorer = Length()
    rerank_file(Judge.of(scorer), source, output, resume=True)
    assert scorer.calls == 1
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"out.jsonl exists. Pass `overwrite=True`"):
        rerank_file(Judge.of(Length()), source, output)


def test_scores_of_another_judge_are_not_gone_on_beside_and_are_replaced_when_asked_to(tmp_path):
    rows = [{"document": "d", "candidates": ["a", "ab"]}] * 20
    source, output = Source(str(write(tmp_path / "in.jsonl", rows))), tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        rerank_file(Judge.of(Length(break_at=2)), source, output)
    other = Length(name="other")
    with pytest.raises(
        ValueError, match=r"out.jsonl.scores holds scores of length, none of other. .*`overwrite=True`"
    ):
        rerank_file(Judge.of(other), source, output, resume=True)
    assert other.calls == 0
    assert [path.name for path in (tmp_path / "out.jsonl.scores").iterdir()] == ["length.jsonl"]
    rerank_file(Judge.of(other), source, output, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_scores_of_a_file_may_be_scalars_of_numpy_and_torch_and_infinite_ones_are_none(tmp_path):
    scores = [np.float32("nan"), torch.tensor(1.0), math.inf, np.float32(0.5)]

    class Scalars(Scorer):
        name = "scalars"

        def score(self, documents, summaries, *, references=None, batch_size=8):
            return [SimpleNamespace(score=scores["abcd".index(summary)]) for summary in summaries]

    row = {"document": "d", "candidates": ["a", "b", "c", "d"]}
    source = Source(str(write(tmp_path / "in.jsonl", [row])))
    rerank_file(Judge.of(Scalars()), source, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [
        {**row, "best": "b", "scores": [None, 1.0, None, 0.5], "order": [1, 3, 0, 2]}
    ]
    assert str(rerank(["d"], [row["candidates"]], Scalars())[0].scores) == str((math.nan, 1.0, math.nan, 0.5))


def test_a_file_is_ranked_without_what_only_tables_need(tmp_path):
    write(tmp_path / "in.jsonl", [{"document": "Ann won.", "candidates": ["Bob won.", "Ann won."]}])
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "from hf_quals.comparing.rerank_file import rerank_file\n"
        "from hf_quals.comparing.rows import Source\n"
        "from hf_quals.judges.registry import make_judges\n"
        "[ranking] = rerank_file(*make_judges(['entity']), Source('in.jsonl'), 'out.jsonl')\n"
        "print(ranking.best)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "Ann won.\n"), ran.stderr


def test_rouge_that_is_not_installed_is_missed_by_the_name_of_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    _rouge_score.cache_clear()
    write(tmp_path / "in.jsonl", [{"document": "d", "candidates": ["a"], "reference": "a"}])
    words = ["rerank", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--judge", "rouge"]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "pip install 'hf-quals[benchmarks]'" in result.stderr) == (2, True), result.output
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"document": "d", "candidates": "ab"}, "in.jsonl, line 2: column 'candidates' must hold a list of texts"),
        ({"document": "d", "candidates": []}, "in.jsonl, line 2: column 'candidates' must hold a list of texts"),
        ({"document": "d", "texts": ["a"]}, "in.jsonl, line 2: no column 'candidates'"),
        ({"document": " ", "candidates": ["a"]}, "in.jsonl, line 2: column 'document' must hold text"),
        ({"document": "d", "candidates": ["a"], "best": "a"}, "line 2: the column 'best' would be overwritten"),
        ({"document": "d", "candidates": ["a\ud800"]}, "line 2: column 'candidates' holds half of a surrogate pair"),
    ],
)
def test_the_command_refuses_a_row_by_its_line(tmp_path, row, message):
    write(tmp_path / "in.jsonl", [{"document": "d", "candidates": ["a"]}, row])
    words = ["rerank", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--judge", "entity"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", "")
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command_refuses_a_model_that_does_not_tell_how_it_writes_pairs(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer("llama").save_pretrained(tmp_path / "model")
    write(tmp_path / "in.jsonl", [{"document": "d", "candidates": ["a"]}])
    words = ["rerank", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--model"]
    result = CliRunner().invoke(app, [*words, str(tmp_path / "model")])
    assert result.exit_code == 2
    assert "no qagen_config.json tells how this model writes" in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("labels", "candidate", "message"),
    [
        ({0: "yes", 1: "no"}, "won", "labels are 'yes', 'no'; exactly one of several must be"),
        ({0: "CORRECT", 1: "INCORRECT"}, "won " * 250, "A window of 200 tokens has room for 0 beside the 250 of"),
    ],
)
def test_the_command_says_without_a_traceback_what_a_classifier_cannot_do(tmp_path, labels, candidate, message):
    model = save_classifier(tmp_path / "classifier", labels)
    write(tmp_path / "in.jsonl", [{"document": "won " * 250, "candidates": [candidate]}])
    words = ["rerank", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--judge", "factcc"]
    result = CliRunner().invoke(app, [*words, "--factcc-model", model])
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_the_command_ranks_by_quals_and_by_another_judge(tmp_path, tiny_causal_folder):
    rows = [{"document": text, "candidates": ["red cat", "bob", ""], "reference": "bob"} for text in DOCUMENTS]
    source = str(write(tmp_path / "in.jsonl", rows))
    for judge, options in (("quals", ["--model", tiny_causal_folder]), ("rouge", [])):
        output = tmp_path / f"{judge}.jsonl"
        result = CliRunner().invoke(app, ["rerank", source, "--output", str(output), "--judge", judge, *options])
        assert result.exit_code == 0, result.output
        assert f"2 documents, 6 candidates, {sum(row['scores'].count(None) for row in read(output))} unscored" in (
            result.output
        )
    assert [row["best"] for row in read(tmp_path / "rouge.jsonl")] == ["bob", "bob"]
    expected = rerank(DOCUMENTS, [row["candidates"] for row in rows], QualsScorer.from_pretrained(tiny_causal_folder))
    for row, ranking in zip(read(tmp_path / "quals.jsonl"), expected, strict=True):
        scores = [math.nan if score is None else score for score in row["scores"]]
        assert scores == pytest.approx(ranking.scores, abs=1e-4, nan_ok=True)
        assert row["order"] == list(ranking.order)


# ---- A model's samples ----


def best_of(family, documents, n=3, **options):
    values = {"scorer": Length(), "max_new_tokens": 10, "prompt": "{text}?" if family == "llama" else None, **options}
    return generate_best_of(tiny_model(family), tiny_tokenizer(family), documents, n, **values)


@pytest.mark.parametrize("family", ["llama", "bart", "t5"])
def test_samples_are_ranked_and_depend_on_seed_and_document_alone(family):
    documents = [*DOCUMENTS, "sun"]
    rankings = best_of(family, documents)
    assert [len(ranking.candidates) for ranking in rankings] == [3, 3, 3]
    assert str(rankings) == str(
        [rerank([d], [r.candidates], Length())[0] for d, r in zip(documents, rankings, strict=True)]
    )
    assert str(best_of(family, documents[::-1], batch_size=1)[::-1]) == str(rankings)
    assert str(best_of(family, documents, seed=1)) != str(rankings)


def test_the_model_and_the_random_state_are_left_as_they_were():
    model = tiny_model("bart").train()
    state = torch.get_rng_state()
    generate_best_of(model, tiny_tokenizer("bart"), DOCUMENTS, 2, scorer=Length(), max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_the_best_of_one_most_probable_token_is_greedy_search():
    tokenizer, model = tiny_tokenizer("llama"), tiny_model("llama")
    [ranking] = best_of("llama", DOCUMENTS[:1], 1, top_k=1)
    ids = tokenizer(DOCUMENTS[0] + "?", return_tensors="pt")["input_ids"]
    written = model.generate(ids, do_sample=False, max_new_tokens=10, pad_token_id=0)[0, ids.shape[1] :]
    assert ranking.best == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_what_cannot_be_sampled_is_refused_and_what_is_cut_is_counted(caplog):
    for name in ("n", "top_k", "max_new_tokens", "batch_size"):
        options = {"n": 2, name: 0}
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            best_of("llama", DOCUMENTS, options.pop("n"), **options)
    tokenizer = tiny_tokenizer("llama")
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"no pad token: set tokenizer.pad_token = tokenizer.eos_token"):
        generate_best_of(tiny_model("llama"), tokenizer, DOCUMENTS, 2, scorer=Length())
    with pytest.raises(ValueError, match="rouge compares with references"):
        best_of("llama", DOCUMENTS, scorer=RougeScorer())
    best_of("llama", DOCUMENTS, 1, max_document_length=9)
    assert "1 of 2 documents lose their end: the model reads 9 tokens" in caplog.text


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_a_document_longer_than_the_models_positions_is_cut_to_them(family, caplog):
    """The tiny models have 1,200 positions, of which a decoder-only one needs 10 for the summary."""
    positions = {"llama": 1190, "bart": 1200}[family]
    best_of(family, ["ab " * 500], 1, max_document_length=5000)
    assert f"1 of 1 documents lose their end: the model reads {positions} tokens" in caplog.text


def test_summaries_as_long_as_the_models_positions_are_refused():
    with pytest.raises(ValueError, match="max_new_tokens=1200 takes all of the model's 1200 positions"):
        best_of("llama", DOCUMENTS, 1, max_new_tokens=1200)


# ---- The benchmark ----


def test_the_benchmark_prints_one_table_and_goes_on_where_it_was(tmp_path, tiny_causal_folder, monkeypatch, capsys):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer("llama").save_pretrained(tmp_path / "model")
    write(tmp_path / "data.jsonl", [{"source": text.split(), "target": [text, "not this"]} for text in DOCUMENTS * 2])
    words = f"best_of.py --model_name_or_path {tmp_path / 'model'} --dataset {tmp_path / 'data.jsonl'} --n 3"
    words += (
        f" --prompt {{text}}? --max_new_tokens 8 --quals_model {tiny_causal_folder} --output_dir {tmp_path / 'out'}"
    )
    words += " --judges quals rouge entity --limit"

    def run(limit):
        monkeypatch.setattr(sys, "argv", [*words.split(), str(limit)])
        benchmark.main()
        return capsys.readouterr().out

    printed = run(2)
    assert [f"| {system:<10} |" in printed for system in ("greedy", "one sample", "best of 3")] == [True] * 3
    assert all(f"| {judge}" in printed for judge in ("QUALS", "ROUGE-L", "entity precision"))
    kept = tmp_path / "out" / "summaries.jsonl"
    [first, second] = read(kept)
    [greedy] = best_of("llama", DOCUMENTS[:1], 1, top_k=1, max_new_tokens=8)
    assert first["summaries"][0] == greedy.best
    kept.write_text(kept.read_text() + '{"settings": {"n"')  # what a kill leaves
    run(3)
    assert read(kept)[:2] == [first, second]
    assert len(read(kept)) == 3
    monkeypatch.setattr(benchmark, "load_summarizer", None)  # all is there
    assert run(2) == printed
    write(tmp_path / "data.jsonl", [{"source": ["another"], "target": ["one"]}])
    with pytest.raises(ValueError, match="holds summaries of other documents or settings"):
        run(1)


def test_the_benchmark_without_data_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["best_of.py", "--dataset", "nowhere.jsonl", "--output_dir", str(tmp_path)])
    benchmark.main()
    assert "nowhere.jsonl is not there: nothing is measured" in capsys.readouterr().out
