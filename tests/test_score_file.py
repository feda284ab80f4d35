import json
import math
import re

import pyarrow.parquet as pq
import pytest
from tqdm import tqdm

from hf_quals.comparing.rows import Source
from hf_quals.comparing.score_file import score_file
from hf_quals.errors import InputError
from hf_quals.quals.pairs import PairSelection
from hf_quals.quals.scorer import QualsResult


class Lengths:
    """Scores a summary by minus its length, one of a single letter not at all; stops before a summary `stop`."""

    def __init__(self, stop=None, **settings):
        self.stop = stop
        self.given = settings
        self.summaries = []

    def settings(self):
        return self.given

    def score(self, documents, summaries, *, references=None, batch_size=8):
        if self.stop in summaries:
            raise KeyboardInterrupt
        self.summaries += summaries
        scores = [math.nan if len(summary) == 1 else -float(len(summary)) for summary in summaries]
        return [
            QualsResult(score, (), PairSelection((), 0, 0, 0, 0, 0), len(documents[0]) > 8, False) for score in scores
        ]


def never():
    raise AssertionError("a model is loaded")


@pytest.fixture
def source(tmp_path):
    """Twelve rows whose summaries are a, bb, ccc, …"""
    path = tmp_path / "in.jsonl"
    rows = [{"text": "document", "summary": chr(97 + number) * (number + 1)} for number in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(str(path), document_column="text")


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_get_their_scores_and_statistics_come_back(source, tmp_path):
    statistics = score_file(Lengths(), source, tmp_path / "out.jsonl")
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["quals"] for row in rows] == [None, *range(-2, -13, -1)]
    assert list(rows[0]) == [
        "text",
        "summary",
        "quals",
        "quals_probability",
        "quals_verdict",
        "quals_log_likelihood",
        "quals_document_attention",
        "quals_num_pairs",
        "quals_document_truncated",
        "quals_summary_truncated",
    ]
    # -(2 + … + 12) / 11
    assert (statistics.num_rows, statistics.num_unscored, statistics.mean) == (12, 1, -7.0)
    assert statistics.num_new == 12
    assert not statistics.num_true


def test_output_may_be_given_as_text_and_be_parquet(source, tmp_path):
    score_file(Lengths(), source, str(tmp_path / "out.parquet"), with_pairs=True)
    assert pq.read_table(tmp_path / "out.parquet")["quals_pairs"].to_pylist() == [[]] * 12


def test_interrupted_run_scores_only_what_is_missing(source, tmp_path):
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_file(Lengths(stop="i" * 9), source, output, batch_size=1)
    assert not output.exists()
    with pytest.raises(InputError, match=re.escape("Pass `resume=True` or `overwrite=True`.")):
        score_file(never, source, output, settings={})
    scorer = Lengths()
    statistics = score_file(scorer, source, output, batch_size=1, resume=True)
    # Four rows a chunk: of the third nothing was scored.
    assert scorer.summaries == [letter * (8 + number) for number, letter in enumerate("ijkl", start=1)]
    assert (statistics.num_rows, statistics.num_new, statistics.mean) == (12, 4, -7.0)


def test_scores_of_other_settings_are_gone_on_with_only_anew(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        score_file(Lengths(stop="l" * 12, unit="letters"), source, tmp_path / "out.jsonl", batch_size=1)
    with pytest.raises(InputError, match=r"unit: 'letters' then, 'words' now.*pass `overwrite=True`"):
        score_file(Lengths(unit="words"), source, tmp_path / "out.jsonl", resume=True)
    anew = Lengths(unit="words")
    score_file(anew, source, tmp_path / "out.jsonl", overwrite=True)
    assert len(anew.summaries) == 12


def test_output_that_exists_is_replaced_only_if_asked_for(source, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("old")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"out\.jsonl exists.*Pass `overwrite=True`"):
            score_file(never, source, output, settings={}, resume=resume)
    assert output.read_text() == "old"
    score_file(Lengths(), source, output, overwrite=True)
    assert len(read_jsonl(output)) == 12


def test_nothing_is_loaded_for_what_cannot_be_scored(source, tmp_path):
    for given, output, message in [
        (source, "out.txt", "must end in .jsonl or .parquet"),
        (source, "no-such-folder/out.jsonl", "no-such-folder does not exist"),
        (Source(source.path), "out.jsonl", "line 1: no column 'document'"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            score_file(never, given, tmp_path / output, settings={})
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_blank_summary_is_unscored_and_counted(source, tmp_path):
    with open(source.path, "a") as file:
        file.writelines(json.dumps({"text": "document", "summary": blank}) + "\n" for blank in ("", " \n"))
    scorer = Lengths()
    statistics = score_file(scorer, source, tmp_path / "out.jsonl", with_pairs=True)
    assert (statistics.num_rows, statistics.num_unscored, statistics.mean) == (14, 3, -7.0)
    assert len(scorer.summaries) == 12
    rows = read_jsonl(tmp_path / "out.jsonl")
    # As the row of a summary that nothing can be asked about.
    assert [row | {"summary": "a"} for row in rows[12:]] == [rows[0]] * 2


class Elsewhere(Lengths):
    """While it scores, another run begins on the same output."""

    def __init__(self, source, output):
        super().__init__()
        self.source, self.output = source, output

    def score(self, documents, summaries, *, references=None, batch_size=8):
        for option in ("resume", "overwrite"):
            with pytest.raises(InputError, match=r"Another process is writing .*out\.jsonl: it has locked .*\.lock"):
                score_file(never, self.source, self.output, settings={}, **{option: True})
        return super().score(documents, summaries)


def test_a_second_run_on_an_output_is_refused_while_the_first_runs(source, tmp_path):
    output = tmp_path / "out.jsonl"
    scorer = Elsewhere(source, output)
    assert score_file(scorer, source, output, batch_size=1).num_rows == 12
    assert len(scorer.summaries) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_lock_that_a_kill_has_left_stops_nothing(source, tmp_path):
    (tmp_path / "out.jsonl.lock").write_text("")
    assert score_file(Lengths(), source, tmp_path / "out.jsonl").num_rows == 12


def test_only_rows_whose_lines_are_damaged_are_scored_again(source, tmp_path):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score_file(Lengths(stop="i" * 9), source, output, batch_size=1)
    header, *lines = partial.read_text().splitlines(keepends=True)
    lines[5] = lines[5].replace("-6.0", "-9.0")
    lines[1], lines[2] = lines[2], lines[1]
    partial.write_text("".join([header, *lines[:3], *lines[4:]]))
    scorer = Lengths()
    score_file(scorer, source, output, batch_size=1, resume=True)
    assert [len(summary) for summary in scorer.summaries] == [4, 6, 9, 10, 11, 12]
    score_file(Lengths(), source, tmp_path / "unbroken.jsonl")
    assert output.read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()


def test_settings_may_be_a_function_that_bad_input_does_not_call(source, tmp_path):
    with pytest.raises(InputError, match="no column 'document'"):
        score_file(never, Source(source.path), tmp_path / "out.jsonl", settings=never)
    assert score_file(Lengths, source, tmp_path / "out.jsonl", settings=dict).num_rows == 12


def test_a_function_is_called_for_the_settings_that_are_left_out(source, tmp_path):
    assert score_file(Lengths, source, tmp_path / "out.jsonl").num_rows == 12


def test_the_bar_moves_with_every_batch(source, tmp_path, monkeypatch):
    moved = []

    class Bar(tqdm):
        def update(self, n=1):
            moved.append(n)
            return super().update(n)

    monkeypatch.setattr("hf_quals.comparing.score_file.tqdm", Bar)
    score_file(Lengths(), source, tmp_path / "out.jsonl", batch_size=5)
    assert moved == [5, 5, 2]
