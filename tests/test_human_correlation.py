"""The table of agreement with people, on a few made-up annotations and a tiny QAGen."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_model, tiny_tokenizer
from reader_world import save_classifier, tiny_bert, tiny_bert_tokenizer
from scipy.stats import pearsonr
from transformers import BertForQuestionAnswering

from hf_quals.judges import registry
from hf_quals.judges.factcc import FactccScorer


sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "benchmarks"))

import beams
import human_correlation


# Some resample of a few rows is one row over and over.
pytestmark = pytest.mark.filterwarnings("ignore:An input array is constant", "ignore:The BCa")


def write_annotations(path, num_rows):
    """Two sentences a summary; the first is called supported by two of three people in every other row."""
    rows = []
    for row in range(num_rows):
        word = "roofs bricks dogs hats jam wigs".split()[row]  # the tiny tokenizer knows letters alone
        votes = (["yes", "yes", "no"] if row % 2 else ["yes", "no", "no"], ["no", "no", "no"])
        sentences = [
            {"sentence": f"rain fell on {row} {word} ." if part == 0 else f"{row + part} cars .", "responses": answers}
            for part, answers in enumerate([{"response": vote} for vote in of_sentence] for of_sentence in votes)
        ]
        rows.append({"article": f"rain fell on {row} {word} and 7 cars", "summary_sentences": sentences})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(tmp_path, tiny_causal_folder, monkeypatch, capsys):
    """Runs the benchmark on six rows of either kind; returns its table as cells by method, and all that it printed."""
    monkeypatch.setenv("HF_QUALS_BASE_MODEL", tiny_causal_folder)
    cnndm, xsum = (write_annotations(tmp_path / f"{name}.jsonl", 6) for name in ("cnndm", "xsum"))
    command = ["human_correlation.py", "--cnndm", cnndm, "--xsum", xsum, "--output_dir", tmp_path / "results"]

    def run(*flags, benchmark=human_correlation):
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--model", tiny_causal_folder, *map(str, flags)])
        benchmark.main()
        printed = capsys.readouterr().out
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line[:1] == "|"]
        return {cells[0]: cells[1:] for cells in lines}, printed

    return run


def test_numbers_of_beams_are_compared_with_the_first_of_them(run, tmp_path):
    table, printed = run("--num_beams", 60, 30, "--timed", 1, benchmark=beams)
    assert "Time: 2 summaries." in printed  # one of each set
    assert table["beams"][2] == "Spearman with 60 beams"

    assert table["60"][2] == "1.000"
    assert [table[number][6] for number in ("60", "30")] == ["6", "6"]
    kept = (tmp_path / "results" / "QAGS-CNNDM" / "quals-30-beams.jsonl").read_text()
    run("--num_beams", 60, 30, "--timed", 1, benchmark=beams)
    assert (tmp_path / "results" / "QAGS-CNNDM" / "quals-30-beams.jsonl").read_text() == kept


def test_people_call_a_sentence_supported_by_majority(tmp_path):
    comparisons, human = human_correlation.read_qags(write_annotations(tmp_path / "rows.jsonl", 3))
    assert human == [0.0, 0.5, 0.0]
    assert comparisons[1].summaries == ("rain fell on 1 bricks . 2 cars .",)


def test_summaries_without_a_score_or_not_scored_yet_are_left_out():
    scores, human = [0.1, None, 0.4, 0.2, 0.3], [0.0, 1.0, 0.5, 0.6, 0.9, 0.3]
    pearson, _, spearman, count = human_correlation.correlations(scores, human)
    expected = pearsonr([0.1, 0.4, 0.2, 0.3], [0.0, 0.5, 0.6, 0.9]).statistic
    # Ranks 1, 4, 2, 3 and 1, 2, 3, 4: 1 - 6 * (4 + 1 + 1) / (4 * 15).
    assert (pearson, spearman, count) == (f"{expected:.3f}", "0.400", "4")


def test_interval_holds_95_percent_of_the_correlations_of_resamples():
    rng = np.random.default_rng(1)
    human = rng.random(60)
    scores = human + rng.random(60)
    resampled = [
        np.corrcoef(scores[rows], human[rows])[0, 1] for rows in (rng.integers(0, 60, 60) for _ in range(5000))
    ]
    interval = human_correlation.correlations(list(scores), list(human))[1]
    assert [float(end) for end in interval.split(" to ")] == pytest.approx(
        np.percentile(resampled, [2.5, 97.5]), abs=0.02
    )


@pytest.mark.parametrize("scores", [[0.5, 0.6], [0.5, 0.5, 0.5], [None, None, None, 0.5]])
def test_no_correlation_without_three_summaries_that_differ(scores):
    assert human_correlation.correlations(scores, [0.0, 0.5, 1.0, 0.2])[:3] == ["–", "–", "–"]


def test_area_under_the_curve_is_the_share_of_pairs_in_the_right_order():
    # Of the six pairs of a consistent and another, 0.9 wins three, 0.3 one and ties with one.
    scores, labels = [[0.9], [0.3], [0.1], [0.3], [0.5], [None]], [True, True, False, False, False, True]
    area, interval, count = human_correlation.auroc_cells(scores, labels)
    assert (area, count) == (f"{4.5 / 6:.3f}", "5")
    low, high = (float(end) for end in interval.split(" to "))
    assert 0 <= low < 0.75 < high <= 1
    assert human_correlation.auroc_cells([[0.1], [0.2]], [True, True]) == ["–", "–", "2"]


def test_right_summary_without_a_score_is_not_the_higher_one():
    assert human_correlation.swap_cells([[0.2, 0.1], [0.1, 0.1], [None, 0.1], [0.1, None], [1.0, 0.0]]) == ["2 of 5"]


def test_sets_with_labels_and_swaps_are_read_and_never_pooled(tmp_path):
    rows = [
        {"set": name, "origin": "xsum", "document": f"d{n}", "summary": f"s{n}", "consistent": n % 2}
        for n, name in enumerate(["cliff", "goyal21", "cliff"])
    ]
    (tmp_path / "aggrefact.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "swaps.jsonl").write_text(json.dumps({"document": "d", "good": "right", "bad": "wrong"}) + "\n")
    arguments = human_correlation.Arguments(
        output_dir="", aggrefact=str(tmp_path / "aggrefact.jsonl"), swaps=str(tmp_path / "swaps.jsonl")
    )
    cliff, goyal, swaps = human_correlation.read_sets(arguments)
    assert (cliff.name, goyal.name) == ("cliff xsum", "goyal21 xsum")
    assert sorted(comparison.document for comparison in cliff.comparisons) == ["d0", "d2"]
    assert cliff.measure([[0.1], [0.2]]) == ["–", "–", "2"]
    assert goyal.measure.keywords["labels"] == [True]
    assert swaps.comparisons[0].summaries == ("right", "wrong")


def test_nothing_to_judge_is_refused():
    with pytest.raises(ValueError, match="at least one of cnndm"):
        human_correlation.Arguments(output_dir="")


def test_judges_whose_models_are_at_hand_take_part(tmp_path):
    reader = tiny_bert(BertForQuestionAnswering)
    for name, model, tokenizer in (
        ("writer", tiny_model("bart"), tiny_tokenizer("bart")),
        ("reader", reader, tiny_bert_tokenizer()),
    ):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    arguments = human_correlation.Arguments(
        cnndm="rows.jsonl",
        output_dir="",
        factcc_model=save_classifier(tmp_path / "classifier"),
        qags_models=[str(tmp_path / "writer"), str(tmp_path / "reader")],
    )
    judges = {judge.name: judge for judge in human_correlation.make_judges(arguments)}
    (factcc,) = judges["factcc"].load().score(["Fury won ."], ["Lewis lost ."])
    (expected,) = FactccScorer.from_pretrained(tmp_path / "classifier").score(["Fury won ."], ["Lewis lost ."])
    assert factcc.score == pytest.approx(expected.score)
    (qags,) = judges["qags-published"].load().score(["Fury won ."], ["Lewis lost ."])
    assert qags.num_written > 0
    with pytest.raises(ValueError, match="a question writer and a reader, got"):
        human_correlation.Arguments(cnndm="rows.jsonl", output_dir="", qags_models=["writer"])


def test_every_registered_judge_without_references_and_hub_takes_part(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry.registered_judges()))
    registry.register_judge("brevity", columns={"brevity": "score"}, needs="nothing")(lambda: ({}, lambda: None))
    arguments = human_correlation.Arguments(cnndm="rows.jsonl", output_dir="")
    names = [judge.name for judge in human_correlation.make_judges(arguments)]
    assert names[-1].startswith("qags-")
    assert {"brevity", "quals", "rouge", "likelihood"} < set(names)
    assert "factcc" not in names


def test_what_counts_beside_the_pairs_has_a_row_of_its_own_also_where_the_first_summary_has_none():
    unscored = {"score": None, "pairs": [], "log_likelihood": None, "document_attention": None}
    scored = {**unscored, "score": -3.0, "log_likelihood": -1.5}
    rows = human_correlation.quals_forms("quals", [[unscored], [scored]])
    assert rows["quals, as configured"] == [[None], [-3.0]]
    assert rows["quals, `log_likelihood` alone"] == [[None], [-1.5]]
    assert "quals, `document_attention` alone" not in rows


@pytest.mark.slow
def test_scores_are_kept_and_a_longer_run_goes_on_behind_them(run, tmp_path):
    table, printed = run("--limit", 4)
    assert "QAGS CNN/DM, qags-rules: 4 of 6 scored, 0 with a text cut" in printed
    assert {method.split(",")[0] for method in table} >= {"quals", "entity precision", "QAGS"}
    assert "quals, form `answers`" in table
    # The tiny model has no configuration of its own.
    assert table["quals, as configured"] == table["quals, form `published`"]
    assert table["entity precision, names found by rules"][3::4] == ["4", "4"]

    kept = tmp_path / "results" / "QAGS-CNNDM" / "rouge.jsonl"
    before = kept.read_text()
    whole, printed = run()
    assert "QAGS XSum, quals: 6 of 6 scored" in printed
    assert kept.read_text().startswith(before)
    assert whole["ROUGE-1 precision against the document"][3::4] == ["6", "6"]
    again, _ = run("--limit", 1)
    assert again == whole
