import json
import math
import os
import secrets
from html import escape

import pytest
from markdown_it import MarkdownIt

from hf_quals.errors import InputError
from hf_quals.files import (
    as_cell,
    as_markdown,
    brief,
    locked,
    markdown_table,
    nan_to_none,
    read_json_lines,
    read_kept_lines,
    replacing,
    write_atomically,
)


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "scores.json"
    write_atomically(path, "é")
    write_atomically(path, b"\x00")
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]
    assert path.read_bytes() == b"\x00"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_writing_that_breaks_off_leaves_what_was_there_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "scores.json"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        write()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_nothing_that_lies_at_a_temporary_name_is_written_into(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("mine")
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0")
    (tmp_path / "scores.json.0.tmp").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "scores.json", "new")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_new_file_is_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "scores.json", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "scores.json").stat().st_mode & 0o777 == 0o640


def test_a_lock_keeps_others_out_until_the_block_ends_and_leaves_nothing(tmp_path):
    path = tmp_path / "scores.json"
    for _ in range(2):
        with locked(path), pytest.raises(InputError, match="Another process is writing"), locked(path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_lines_of_json_end_at_newlines_alone_and_what_a_kill_left_of_the_last_goes(tmp_path):
    path, values = tmp_path / "kept.jsonl", [{"text": "a\u2028b\u0085c"}, {"text": "d"}]
    whole = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    path.write_text(whole, encoding="utf-8")
    assert read_json_lines(path) == values
    path.write_text(whole + '{"text": "e', encoding="utf-8")
    assert read_kept_lines(path) == values
    assert path.read_text(encoding="utf-8") == whole
    assert read_kept_lines(tmp_path / "none.jsonl") == []


def test_only_nan_becomes_none():
    assert nan_to_none(math.nan) is None
    for value in (0.0, -1.5, 3, True, "nan", None):
        assert nan_to_none(value) is value


def test_markdown_table_is_aligned_and_keeps_its_cells_apart():
    assert markdown_table(["a", "b"], [["x|y", "1"], ["z\nz", "22"]]).splitlines() == [
        "| a    |  b |",
        "| ---- | -: |",
        "| x\\|y |  1 |",
        "| z z  | 22 |",
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_a_cell_that_a_spreadsheet_would_run_has_an_apostrophe_in_front(start):
    assert as_cell(f"{start}1+1") == f"'{start}1+1"


def test_other_cells_stay():
    assert [as_cell(text) for text in ("", "1-1", "'=1", "a=b", " x")] == ["", "1-1", "'=1", "a=b", " x"]


@pytest.mark.parametrize(
    "text",
    [
        "<b>bold</b>",
        "<!-- hidden",
        "<script>alert(1)</script>",
        "<http://example.org>",
        "&lt;b&gt; & &#60;",
        "[a](javascript:alert(1))",
        "![a](http://example.org/a.png)",
        "a|b",
        r"a\|b",
        r"a\\|b",
        "p < 0.001, bart_large, a->b, x<=3",
    ],
)
def test_markdown_shows_a_text_as_it_is(text):
    html = MarkdownIt("commonmark").enable("table").render(markdown_table(["name", "n"], [[text, "1"]]))
    assert f"<td>{escape(text)}</td>" in html


def test_markdown_of_several_lines_is_one_line_and_plain_names_stay():
    assert as_markdown("a\r\nb\u2028# c") == "a b # c"
    assert as_markdown("p < 0.001, bart_large, AT&T, C:\\x") == "p < 0.001, bart_large, AT&T, C:\\x"


def test_a_long_list_is_told_by_its_length():
    assert [brief(value) for value in ([[1, 2]] * 5, [1, 2], "x", None)] == ["(5)", "[1, 2]", "x", "None"]
