import csv
import itertools
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_world import save_classifier
from typer.testing import CliRunner

from hf_quals import QualsScorer
from hf_quals.cli import app
from hf_quals.comparing.rows import Source
from hf_quals.comparing.run import kept_scores
from hf_quals.comparing.statistics import bootstrap_interval, paired_test
from hf_quals.comparing.systems import join_systems
from hf_quals.comparing.table import Cell, ScoreTable
from hf_quals.files import locked
from hf_quals.judges.factcc import FactccScorer
from hf_quals.judges.registry import make_judges


DOCUMENTS = [
    "rain fell on 12 roofs and 30 cars",
    "the boxer won 18 of 20 fights in 1990",
    "snow fell in the hills",
]
REFERENCES = ["rain fell on cars", "the boxer won 18 fights", "snow fell"]
GOOD = ["rain on 12 roofs", "the boxer won 18 fights", "snow fell"]
BAD = ["rain on 12 dogs and 7 cats", "the boxer lost 3 fights", "hail fell"]


def invoke(*arguments):
    """Exit status, standard output and standard error of `hf-quals evaluate`."""
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def write_jsonl(path, summaries, documents=DOCUMENTS, references=None):
    rows = [{"document": d, "summary": s} for d, s in zip(documents, summaries, strict=True)]
    for row, reference in zip(rows, references or [], strict=False):
        row["reference"] = reference
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def systems(tmp_path):
    """good.jsonl and bad.jsonl with three documents each, the second in reverse order; references in the first."""
    good = write_jsonl(tmp_path / "good.jsonl", GOOD, references=REFERENCES)
    return good, write_jsonl(tmp_path / "bad.jsonl", BAD[::-1], DOCUMENTS[::-1])


def evaluated(output, *arguments):
    """The cells of a run that is written as JSON, by judge and system."""
    status, _, error = invoke(*arguments, "--output", output)
    assert status == 0, error
    return cells_of(output)


def cells_of(output):
    return {(cell["judge"], cell["system"]): cell for cell in json.loads(output.read_text())["cells"]}


# Statistics


def test_bootstrap_interval_is_that_of_all_resamples():
    scores = np.array([-0.9, -0.1, 0.3, 0.4, 2.0])
    means = [sum(resample) / 5 for resample in itertools.product(scores, repeat=5)]
    assert bootstrap_interval(scores) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.05)


@given(scores=st.lists(st.floats(-10, 10), min_size=2, max_size=8), shift=st.floats(-5, 5), scale=st.floats(0.1, 5))
@settings(max_examples=25, deadline=None)
def test_bootstrap_interval_moves_with_its_scores(scores, shift, scale):
    low, high = bootstrap_interval(np.array(scores))
    assert min(scores) - 1e-9 <= low <= high <= max(scores) + 1e-9
    moved = bootstrap_interval(scale * np.array(scores) + shift)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-6)


@pytest.mark.parametrize("scores", [[], [0.5]])
def test_fewer_than_two_scores_have_no_interval(scores):
    assert all(map(math.isnan, bootstrap_interval(np.array(scores))))


@given(differences=st.lists(st.integers(-8, 8), min_size=2, max_size=7))
@settings(max_examples=50, deadline=None)
def test_paired_test_counts_all_ways_to_swap_the_scores_of_documents(differences):
    observed = sum(differences)
    sums = [
        sum(sign * difference for sign, difference in zip(signs, differences, strict=True))
        for signs in itertools.product([1, -1], repeat=len(differences))
    ]
    sides = sum(s >= observed for s in sums) / len(sums), sum(s <= observed for s in sums) / len(sums)
    baseline = np.arange(len(differences), dtype=float)
    difference, p_value = paired_test(baseline + differences, baseline)
    assert difference == pytest.approx(observed / len(differences))
    assert p_value == pytest.approx(min(1, 2 * min(sides)))
    assert paired_test(baseline, baseline + differences) == pytest.approx((-difference, p_value))


def test_paired_test_of_many_documents_counts_the_observed_way_among_random_ones():
    """Of 10,000 ways to swap 40 documents only the observed one has all differences on one side."""
    baseline = np.zeros(40)
    assert paired_test(baseline + 0.25, baseline) == pytest.approx((0.25, 2 / 10_000))


def test_paired_test_of_random_swaps_is_near_the_exact_one():
    differences = np.array([0.9, -0.4, 0.8, 0.3, -0.2, 0.7, 0.5, -0.6, 0.1, 0.2, 0.6, -0.3, 0.4, -0.1])
    sums = np.array(list(itertools.product([1, -1], repeat=14))) @ differences
    exact = 2 * np.mean(sums >= differences.sum() - 1e-12)
    assert paired_test(differences, np.zeros(14))[1] == pytest.approx(exact, abs=0.02)


def test_one_document_has_a_difference_and_no_p_value():
    difference, p_value = paired_test(np.array([0.75]), np.array([0.5]))
    assert (difference, math.isnan(p_value)) == (0.25, True)
    assert all(map(math.isnan, paired_test(np.array([]), np.array([]))))


# The table


def test_means_differences_and_unscored_documents_are_those_worked_out_by_hand(tmp_path, systems):
    cells = evaluated(tmp_path / "table.json", *systems, "--judges", "entity,rouge")
    # Good: 12 of 12; 18 of 18; no number. Bad: 12 of 12 and 7; none of 3; no number.
    good, bad = cells["entity precision", "good"], cells["entity precision", "bad"]
    assert (good["mean"], good["unscored"], bad["mean"], bad["unscored"]) == (1.0, 1, 0.25, 1)
    assert (good["low"], good["high"], bad["low"], bad["high"]) == (1.0, 1.0, 0.0, 0.5)
    assert (good["difference"], good["paired"], good["p_value"]) == (None, None, None)
    # -0.5 and -1: of the four ways to swap, one is as low as the observed.
    assert (bad["difference"], bad["paired"], bad["p_value"]) == (-0.75, 2, 0.5)
    # Words in common with the reference: 2 of 4 and 4, all, all; 2 of 4 and 7, 3 of 5 and 5, 1 of 2 and 2.
    assert cells["ROUGE-1", "good"]["mean"] == pytest.approx((2 * 2 / 8 + 1 + 1) / 3)
    assert cells["ROUGE-1", "bad"]["mean"] == pytest.approx((2 * 2 / 11 + 3 / 5 + 1 / 2) / 3)


def test_documents_that_only_one_system_has_a_score_for_are_not_compared(tmp_path):
    first = write_jsonl(tmp_path / "first.jsonl", ["12 roofs", "it won 18", "snow"])
    second = write_jsonl(tmp_path / "second.jsonl", ["13 roofs", "it won", "7 hills"])
    cell = evaluated(tmp_path / "table.json", first, second, "--judges", "entity")["entity precision", "second"]
    assert (cell["mean"], cell["unscored"], cell["difference"], cell["paired"]) == (0.0, 1, -1.0, 1)
    assert cell["p_value"] is None


def test_every_system_is_compared_with_the_first(tmp_path, systems):
    third = write_jsonl(tmp_path / "third.jsonl", [f"{summary} today" for summary in GOOD])
    cells = evaluated(tmp_path / "table.json", *systems, third, "--judges", "rouge", "--names", "A,B,C")
    for judge, system in cells:
        if system != "A":
            means = (cells[judge, name]["mean"] for name in (system, "A"))
            assert cells[judge, system]["difference"] == pytest.approx(next(means) - next(means))


def test_columns_of_one_file_are_systems_side_by_side(tmp_path, systems):
    whole = evaluated(tmp_path / "files.json", *systems, "--judges", "entity,rouge")
    rows = [
        {"document": document, "good": good, "bad": bad, "reference": reference}
        for document, good, bad, reference in zip(DOCUMENTS, GOOD, BAD, REFERENCES, strict=True)
    ]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = [tmp_path / "all.jsonl", "--summary-column", "good,bad", "--judges", "entity,rouge"]
    assert evaluated(tmp_path / "columns.json", *columns) == whole
    named = evaluated(tmp_path / "named.json", *columns, "--names", "X,Y")
    assert {system for _, system in named} == {"X", "Y"}
    status, _, error = invoke(*systems, "--summary-column", "good,bad")
    assert (status, "Several --summary-column go with one file" in error) == (2, True)
    status, _, error = invoke(tmp_path / "all.jsonl", "--summary-column", "good,worse")
    assert (status, "line 1: no column 'worse'" in error) == (2, True)


def test_csv_and_markdown_say_what_json_says(tmp_path, systems):
    for suffix in ("JSON", "csv", "MD"):
        status, printed, _ = invoke(*systems, "--judges", "entity,rouge", "--output", tmp_path / f"table.{suffix}")
        assert status == 0
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, cell in zip(rows, cells_of(tmp_path / "table.JSON").values(), strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in cell.items()}
    assert (tmp_path / "table.MD").read_text() == printed
    assert "| entity precision | bad    | 0.250 | 0.000 to 0.500 |        1 |     -0.750 | 0.500 |" in printed
    assert "- Documents: 3\n- entity: names found by" in printed


def test_one_system_is_not_compared(systems):
    status, printed, _ = invoke(systems[0], "--judges", "rouge")
    assert status == 0
    header = [cell.strip() for cell in printed.splitlines()[0].split("|")[1:-1]]
    assert header == ["judge", "system", "mean", "95 % interval", "unscored"]


# Judges


def test_what_is_cheap_is_the_default_and_costs_are_told_before(tmp_path, systems, tiny_causal_folder):
    status, _, error = invoke(*systems, "--model", tiny_causal_folder, "--output", tmp_path / "table.json")
    assert status == 0, error
    told = error[error.index("Judges:") : error.index("quals:   0%")]  # before the first of them begins
    chosen, left_out = told.split("Left out (ask for one with --judges entity,quals,rouge,factcc):")
    for name in ("entity", "quals", "rouge"):
        assert f"  {name}: " in chosen
    assert "  qags: slow" in left_out
    assert "of the Hub" in left_out
    cells = cells_of(tmp_path / "table.json")
    assert [judge for judge, system in cells if system == "good"] == [
        "entity precision", "QUALS", "ROUGE-1", "ROUGE-2", "ROUGE-L"
    ]  # fmt: skip
    scorer = QualsScorer.from_pretrained(tiny_causal_folder)
    for system, summaries in (("good", GOOD), ("bad", BAD)):
        scores = [result.score for result in scorer.score(DOCUMENTS, summaries)]
        scored = [score for score in scores if not math.isnan(score)]
        assert cells["QUALS", system]["mean"] == pytest.approx(sum(scored) / len(scored), abs=1e-4)
        assert cells["QUALS", system]["unscored"] == len(scores) - len(scored)


def test_options_of_the_scorer_count_for_quals(tmp_path, systems, tiny_causal_folder):
    options = ["--num_beams", 8, "--max_pairs", 2, "--variant", "answers", "--dtype", "float32", "--batch_size", 2]
    judged = [systems[0], "--judges", "quals", "--model", tiny_causal_folder, "--device", "cpu"]
    cells = evaluated(tmp_path / "table.json", *judged, *options)
    scorer = QualsScorer.from_pretrained(
        tiny_causal_folder, num_beams=8, max_pairs=2, variant="answers", dtype="float32", device="cpu"
    )
    scores = [result.score for result in scorer.score(DOCUMENTS, GOOD)]
    scored = [score for score in scores if not math.isnan(score)]
    assert cells["QUALS", "good"]["mean"] == pytest.approx(sum(scored) / len(scored), abs=1e-4)
    other = QualsScorer.from_pretrained(tiny_causal_folder, device="cpu").score(DOCUMENTS, GOOD)
    assert scores != pytest.approx([result.score for result in other], nan_ok=True)
    settings = json.loads((tmp_path / "table.json").read_text())["settings"]["quals"]
    assert (settings["num_beams"], settings["dtype"]) == (8, "float32")
    status, _, error = invoke(*judged, "--variant", "magic")
    assert (status, "variant must be one of" in error) == (2, True)
    status, _, error = invoke(*judged[:-1], "gpu")
    assert (status, "'gpu' is not available here. This machine has cpu" in error) == (2, True)


def test_factcc_scores_by_the_model_that_is_named(tmp_path, systems):
    model = save_classifier(tmp_path / "factcc")
    cells = evaluated(tmp_path / "table.json", *systems, "--judges", "factcc", "--factcc-model", model)
    results = FactccScorer.from_pretrained(model).score(DOCUMENTS, BAD)
    assert cells["FactCC", "bad"]["mean"] == pytest.approx(sum(r.score for r in results) / 3, abs=1e-5)


def test_texts_that_were_cut_are_counted(tmp_path, tiny_causal_folder):
    long = write_jsonl(tmp_path / "long.jsonl", ["rain", "snow"], ["rain " * 300, "snow fell"])
    status, printed, _ = invoke(long, "--judges", "quals", "--model", tiny_causal_folder)
    assert status == 0
    assert "end of a text not seen: 1 of 2 summaries" in printed


def test_judge_that_fails_is_reported_and_loses_no_other(tmp_path, systems, tiny_causal_folder):
    output = tmp_path / "table.json"
    arguments = [*systems, "--judges", "quals,entity", "--output", output]
    status, printed, error = invoke(*arguments, "--model", tmp_path / "mistyped")
    assert (status, "Failed: QUALS." in error) == (1, True)
    assert "| QUALS            | good   | failed |" in printed
    assert "mistyped" in printed.split("- QUALS failed: ")[1]
    cells = cells_of(output)
    assert "mistyped" in cells["QUALS", "bad"]["error"]
    assert (cells["QUALS", "bad"]["mean"], cells["entity precision", "good"]["mean"]) == (None, 1.0)

    status, _, error = invoke(*arguments, "--model", tiny_causal_folder, "--resume")
    assert status == 0, error
    assert all(cell["error"] is None for cell in cells_of(output).values())


# Going on


def test_interrupted_run_goes_on_with_what_is_scored(tmp_path, systems):
    """What a kill leaves: the scores of one document, and half a line. The first is changed, to see it used."""
    output = tmp_path / "table.json"
    evaluated(output, *systems, "--judges", "entity,rouge")
    unbroken = output.read_bytes()
    output.unlink()
    kept = tmp_path / "table.json.scores" / "entity.jsonl"
    whole = kept.read_text()
    header, first, second, _ = whole.splitlines(keepends=True)

    for begun in (header, header + first, header + first + second[:30], whole):
        kept.write_text(begun)
        status, _, error = invoke(*systems, "--judges", "entity,rouge", "--output", output, "--resume")
        assert status == 0, error
        assert (output.read_bytes(), kept.read_text()) == (unbroken, whole)

    # A score of another value than the judge gives is gone on with under its own digest, not under the old one.
    other = json.loads(first)["scores"] | {"entity precision": [0.5, 0.25]}
    comparisons = join_systems(*sources(*systems), reference_column="reference")
    kept_scores(*make_judges(["entity"]), comparisons, kept.parent).append({0: other})
    cells = evaluated(output, *systems, "--judges", "entity,rouge", "--resume")
    assert (cells["entity precision", "good"]["mean"], cells["entity precision", "bad"]["mean"]) == (0.75, 0.125)
    kept.write_text(header + first.replace("[1.0, 0.5]", "[0.5, 0.25]"))
    assert evaluated(output, *systems, "--judges", "entity,rouge", "--resume")
    assert output.read_bytes() == unbroken
    assert evaluated(output, *systems, "--judges", "entity,rouge", "--overwrite")
    assert output.read_bytes() == unbroken


def test_weights_replaced_in_place_are_not_gone_on_with(tmp_path, systems, tiny_causal_folder):
    model = shutil.copytree(tiny_causal_folder, tmp_path / "model")
    arguments = [*systems, "--judges", "quals", "--model", model, "--output", tmp_path / "table.json"]
    assert invoke(*arguments)[0] == 0
    tiny_model("llama", seed=1).save_pretrained(model)
    status, _, error = invoke(*arguments, "--resume")
    assert (status, "was begun with something else (weights: " in error) == (2, True), error


@pytest.mark.parametrize("judge", ["quals", "qags"])
def test_scores_of_another_type_are_not_gone_on_with_where_the_device_chooses_it(
    tmp_path, systems, tiny_causal_folder, monkeypatch, judge
):
    arguments = [*systems, "--judges", judge, "--model", tiny_causal_folder, "--output", tmp_path / "table.json"]
    arguments += ["--device", "cpu"]
    monkeypatch.setattr("hf_quals.qagen.loading.resolve_dtype", lambda dtype, device: torch.float32)
    assert invoke(*arguments)[0] == 0
    assert invoke(*arguments, "--resume")[0] == 0
    monkeypatch.setattr("hf_quals.qagen.loading.resolve_dtype", lambda dtype, device: torch.bfloat16)
    status, _, error = invoke(*arguments, "--resume")
    assert (status, "(dtype: 'float32' then, 'bfloat16' now)" in error) == (2, True), error


def test_without_what_the_table_needs_the_extra_is_named(systems, monkeypatch):
    for name in [
        name for name in sys.modules if name.startswith(("hf_quals.comparing.table", "hf_quals.comparing.stat"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    status, _, error = invoke(*systems, "--judges", "entity")
    assert (status, "pip install 'hf-quals[benchmarks]'" in error) == (2, True), error


def test_blank_summaries_are_unscored_and_counted_by_every_judge(tmp_path):
    some = write_jsonl(tmp_path / "some.jsonl", [GOOD[0], " ", GOOD[2]], references=REFERENCES)
    cells = evaluated(tmp_path / "table.json", some, "--judges", "entity,rouge")
    # The words of the first and the third in common with their references: 2 of 4 and 4, and all.
    assert cells["ROUGE-1", "some"]["mean"] == pytest.approx((2 * 2 / 8 + 1) / 2)
    assert (cells["ROUGE-1", "some"]["unscored"], cells["entity precision", "some"]["unscored"]) == (1, 2)


def test_a_table_that_another_process_writes_is_refused(tmp_path, systems):
    with locked(tmp_path / "table.json"):
        status, _, error = invoke(*systems, "--judges", "entity", "--output", tmp_path / "table.json", "--overwrite")
    assert (status, "Another process is writing" in error) == (2, True)
    assert not list(tmp_path.glob("table*"))


def test_an_input_among_the_scores_is_refused(tmp_path):
    (tmp_path / "table.md.scores").mkdir()
    given = write_jsonl(tmp_path / "table.md.scores" / "entity.jsonl", GOOD)
    before = given.read_bytes()
    status, _, error = invoke(given, "--judges", "entity", "--output", tmp_path / "table.md", "--overwrite")
    assert (status, "where scores are kept. Name another output" in error) == (2, True)
    assert given.read_bytes() == before


def test_judges_are_added_to_a_finished_run(tmp_path, systems):
    output = tmp_path / "table.json"
    evaluated(output, *systems, "--judges", "entity")
    refused = invoke(*systems, "--judges", "entity,rouge", "--output", output)
    assert (refused[0], "Pass --resume or --overwrite" in refused[2]) == (2, True)
    assert ("ROUGE-L", "bad") in evaluated(output, *systems, "--judges", "entity,rouge", "--resume")


def test_scores_of_other_texts_are_not_gone_on_from(tmp_path, systems):
    output = tmp_path / "table.json"
    evaluated(output, *systems, "--judges", "entity")
    write_jsonl(systems[1], [*BAD[:2], "sleet fell"])
    status, _, error = invoke(*systems, "--judges", "entity", "--output", output, "--resume")
    assert (status, "was begun with something else (sha256" in error) == (2, True)


def test_run_without_output_leaves_nothing_behind(tmp_path, systems):
    before = set(tmp_path.iterdir())
    assert invoke(*systems, "--judges", "entity")[0] == 0
    assert set(tmp_path.iterdir()) == before


# Bad input


def sources(*paths):
    return [Source(str(path), "document", "summary") for path in paths]


def test_systems_are_joined_by_document_in_the_order_of_the_first(systems):
    comparisons = join_systems(*sources(*systems, systems[0]), reference_column="reference")
    assert [comparison.document for comparison in comparisons] == DOCUMENTS
    assert [comparison.summaries for comparison in comparisons] == list(zip(GOOD, BAD, GOOD, strict=True))
    assert [comparison.reference for comparison in comparisons] == REFERENCES
    assert [place.split(", ")[1] for place in comparisons[0].places] == ["line 1", "line 3", "line 1"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "bad.jsonl: no rows"),
        ([{"document": DOCUMENTS[0]}], "bad.jsonl, line 1: no column 'summary'"),
        ([{"document": DOCUMENTS[0], "summary": None}], "bad.jsonl, line 1: column 'summary' must hold text"),
        ([{"document": " ", "summary": "a"}], "bad.jsonl, line 1: column 'document' must hold text"),
        ([{"document": DOCUMENTS[0], "summary": "a"}] * 2, "bad.jsonl, line 2: the document of"),
        (
            [{"document": document, "summary": "a"} for document in ["another", *DOCUMENTS[1:]]],
            "1 of the 3 documents of",
        ),
        (
            [{"document": document, "summary": "a", "reference": "b"} for document in DOCUMENTS],
            "bad.jsonl, line 1: another reference than that of",
        ),
        (
            [{"document": document, "summary": "a", "reference": None} for document in DOCUMENTS],
            "column 'reference' must hold text, got None",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, systems, rows, message):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, error = invoke(systems[0], bad, "--judges", "entity")
    assert (status, message in error, "Traceback" in error) == (2, True, False), error


def test_references_of_some_documents_alone_are_refused(tmp_path):
    some = write_jsonl(tmp_path / "some.jsonl", GOOD, references=REFERENCES[:2])
    status, _, error = invoke(some)
    assert (status, "1 of 3 documents have no 'reference' (the first: " in error) == (2, True)
    assert "some.jsonl, line 3" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judges", "quals,bleu"], "No judge is called 'bleu'. Known are entity, factcc, qags, quals, rouge"),
        (["--judges", "entity,entity"], "'entity' is named twice"),
        (["--judges", "rouge", "--reference-column", "gold"], "No file has the column 'gold'"),
        (["--names", "A"], "2 systems need as many --names, got 1"),
        (["--names", "A,A"], "Each system needs a name of its own"),
        (["--names", "A,"], "Each system needs a name of its own"),
        (["--output", "table.txt"], "table.txt must end in .md or .csv or .json"),
        (["--output", "no-such-folder/table.md"], "no-such-folder does not exist"),
        (["--resume"], "--resume goes with --output"),
        (["--resume", "--overwrite", "--output", "table.md"], "not with --overwrite"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(systems, arguments, message):
    status, _, error = invoke(*systems, *arguments)
    assert (status, message in error) == (2, True), error


def test_rouge_without_references_is_refused(systems):
    status, _, error = invoke(systems[1], "--judges", "rouge")
    assert (status, "rouge needs references" in error) == (2, True)


def test_a_run_that_has_left_its_page_is_gone_on_with(tmp_path, systems, tiny_causal_folder):
    words = [*systems, "--judges", "quals", "--model", tiny_causal_folder, "--output", tmp_path / "table.json"]
    words += ["--html", tmp_path / "page.html"]
    assert invoke(*words)[0] == 0
    (tmp_path / "table.json").unlink()  # as if a later judge had been killed
    status, _, error = invoke(*words)
    assert (status, "page.html exists" in error) == (2, True)
    status, _, error = invoke(*words, "--resume")
    assert status == 0, error
    assert (tmp_path / "table.json").exists()


def test_files_are_not_replaced_unasked(tmp_path, systems):
    csv_input = tmp_path / "in.csv"
    csv_input.write_text("document,summary\na,b\n")
    status, _, error = invoke(csv_input, "--output", csv_input, "--judges", "entity", "--overwrite")
    assert (status, "is an input" in error) == (2, True)
    (tmp_path / "notes.md").write_text("mine")
    for option in ([], ["--resume"]):
        status, _, error = invoke(*systems, "--output", tmp_path / "notes.md", "--judges", "entity", *option)
        assert (status, "notes.md exists" in error) == (2, True)
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_bad_input_is_refused_before_torch_is_imported(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"document": ""}')
    code = (
        "import sys; from hf_quals.cli import app\n"
        f"try: app(['evaluate', r'{tmp_path / 'in.jsonl'}'])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "2 False"
    assert "in.jsonl, line 1: column 'document' must hold text" in result.stderr


def test_what_a_spreadsheet_would_run_is_text_in_csv_and_numbers_stay_numbers():
    cells = (Cell("QUALS", "=cmd()", mean=-0.5), Cell("QUALS", "-b", error="@x"))
    table = ScoreTable(("=cmd()", "-b"), 1, {}, {}, cells)
    rows = list(csv.DictReader(table.to_csv().splitlines()))
    assert [(row["system"], row["mean"], row["error"]) for row in rows] == [
        ("'=cmd()", "-0.5", ""),
        ("'-b", "", "'@x"),
    ]
    assert [cell["system"] for cell in json.loads(table.to_json())["cells"]] == ["=cmd()", "-b"]
