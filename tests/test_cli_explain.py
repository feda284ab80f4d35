"""`hf-quals explain`, and `--html` of `score` and `evaluate`: what they write, and what they refuse."""

import json

import pytest
from explained import told
from typer.testing import CliRunner

from hf_quals import QualsScorer
from hf_quals.cli import app


DOCUMENT = "abcdefgh abcdefgh"
SUMMARIES = ["xyz abcdefgh ijklmnop", "hgf edc", " "]


def invoke(*arguments):
    """Exit status, standard output and standard error of `hf-quals`."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def page_of(path):
    return told(path.read_text(encoding="utf-8"))["summaries"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_causal_folder):
    """Three rows, the last of them blank, that `score --html` has written as .jsonl; and the page."""
    folder = tmp_path_factory.mktemp("scored")
    rows = [{"document": DOCUMENT, "summary": summary} for summary in SUMMARIES]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--output", folder / "out.jsonl", "--html", folder / "page.html", "--model", tiny_causal_folder]
    status, _, error = invoke("score", folder / "in.jsonl", *arguments)
    assert status == 0, error
    return folder


def test_scored_rows_are_shown_on_a_page_with_the_numbers_of_the_scorer(scored, tiny_causal_folder):
    expected = QualsScorer.from_pretrained(tiny_causal_folder).score([DOCUMENT] * 2, SUMMARIES[:2])
    shown = page_of(scored / "page.html")
    assert [row["summary"] for row in shown] == SUMMARIES
    assert shown[2]["says"] == ["QUALS: none: the summary is blank."]
    for row, result in zip(shown, expected, strict=False):
        assert row["score"] == pytest.approx(result.score, abs=1e-4)
        worst = result.worst_pair
        assert row["pairs"][0]["question"] == worst.question
        assert row["pairs"][0]["lost"] == pytest.approx(worst.lost_probability, abs=1e-4)
        assert row["pairs"][0]["span"] == list(worst.answer_span)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_kept_scores_are_explained_as_they_were_without_scoring_again(scored, tmp_path, suffix, tiny_causal_folder):
    kept = scored / "out.jsonl"
    if suffix == ".parquet":
        kept = tmp_path / "out.parquet"
        arguments = ["--output", kept, "--pairs", "--model", tiny_causal_folder]
        assert invoke("score", scored / "in.jsonl", *arguments)[0] == 0
    html = tmp_path / "again.html"
    status, printed, error = invoke("explain", kept, "--html", html, "--model", tiny_causal_folder)
    assert status == 0, error
    assert html.read_text(encoding="utf-8") == (scored / "page.html").read_text(encoding="utf-8")
    assert printed.count("<- to blame") == 2
    assert "QUALS:   none: the summary is blank" in printed


def test_a_document_and_its_summary_are_explained_in_all_three_ways(tmp_path, tiny_causal_folder):
    html, plot = tmp_path / "page.html", tmp_path / "pairs.svg"
    texts = ["--document", DOCUMENT, "--summary", SUMMARIES[0], "--model", tiny_causal_folder]
    status, printed, error = invoke("explain", *texts, "--html", html, "--plot", plot)
    assert status == 0, error
    assert printed == invoke("score", *texts)[1]
    assert page_of(html)[0]["summary"] == SUMMARIES[0]
    assert plot.read_bytes().startswith(b"<?xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "pairs.svg"]
    status, _, error = invoke("explain", *texts, "--html", html)
    assert (status, f"{html} exists. Pass --overwrite" in error) == (2, True)
    assert invoke("explain", *texts, "--html", html, "--overwrite")[0] == 0


def test_systems_are_compared_on_a_page_that_names_them_and_is_made_again_from_what_is_kept(
    tmp_path, tiny_causal_folder
):
    rows = {"a": SUMMARIES[0], "b": SUMMARIES[1]}
    for name, summary in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"document": DOCUMENT, "summary": summary}))
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    options = ["--judges", "quals", "--model", tiny_causal_folder, "--output", tmp_path / "table.md"]
    status, _, error = invoke("evaluate", *files, *options, "--html", tmp_path / "page.html")
    assert status == 0, error
    shown = page_of(tmp_path / "page.html")
    assert [(row["name"], row["summary"]) for row in shown] == list(rows.items())
    assert all(row["pairs"] for row in shown)
    status, _, error = invoke("evaluate", *files, *options, "--html", tmp_path / "again.html", "--resume")
    assert status == 0, error
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    status, _, error = invoke("evaluate", *files, "--judges", "entity", "--html", tmp_path / "other.html")
    assert (status, "--html explains the judge quals" in error) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain"], "Pass SCORED, or --document and at least one --summary."),
        (["explain", "x.jsonl", "--document", "d"], "Pass either SCORED or --document and --summary, not both."),
        (["explain", "x.jsonl"], "x.jsonl: no such file."),
        (["explain", "x.jsonl", "--num-beams", "4"], "--max-pairs go with --document: SCORED is not scored again."),
        (["explain", "x.csv"], "x.csv must end in .jsonl or .parquet."),
        (["explain", "x.jsonl", "--variant", "best"], "variant must be one of published,"),
        (["explain", "x.jsonl", "--html", "page.txt"], "page.txt must end in .html."),
        (["explain", "x.jsonl", "--plot", "page.gif"], "page.gif must end in .png or .svg."),
        (["explain", "x.jsonl", "--html", "nowhere/page.html"], "the folder nowhere does not exist"),
        (["explain", "--document", "d", "--summary", "s", "--summary", "t", "--plot", "p.png"], "one summary, got 2."),
        (["score", "--document", "d", "--summary", "s", "--html", "p.htm"], "p.htm must end in .html."),
        (["score", "x.jsonl", "--output", "y.jsonl", "--html", "p.htm"], "p.htm must end in .html."),
        (["score", "x.jsonl", "--output", "y.csv", "--html", "p.html"], "pass --output FILE.jsonl or FILE.parquet."),
        (["evaluate", "x.jsonl", "--html", "p.htm"], "p.htm must end in .html."),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = invoke(*arguments)
    assert (status, message in error) == (2, True), error
    assert list(tmp_path.iterdir()) == []


def test_scores_of_another_way_or_without_pairs_are_refused(scored, tmp_path, tiny_causal_folder):
    status, _, error = invoke("explain", scored / "out.jsonl", "--model", tiny_causal_folder, "--variant", "log_ratio")
    assert status == 2
    assert "out.jsonl, line 1: The score is" in error
    assert "Name the model and the variant that it was scored with." in error
    status, _, error = invoke("explain", scored / "in.jsonl", "--model", tiny_causal_folder)
    assert (status, "line 1: no column 'quals_pairs', which `hf-quals score --pairs` writes" in error) == (2, True)
    status, _, error = invoke(
        "explain", scored / "out.jsonl", "--model", tiny_causal_folder, "--plot", tmp_path / "p.png"
    )
    assert (status, "--plot draws the pairs of one summary, got 3 summaries." in error) == (2, True)
