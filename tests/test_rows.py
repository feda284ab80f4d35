import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_quals.comparing.partial import PartialScores
from hf_quals.comparing.rows import Source, check
from hf_quals.errors import InputError


SCORES = pa.schema([("quals", pa.float64()), ("quals_document_truncated", pa.bool_())])
PAIR = {"document": "a", "summary": "b"}


def scores(quals):
    return {"quals": quals, "quals_document_truncated": False, "quals_summary_truncated": False}


def source_of(path):
    return Source(str(path), "document", "summary")


def write_jsonl(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def output_of(source, output, columns=SCORES):
    """The output's rows when every row scores -0.5."""
    checked = check(source, tuple(columns.names), output)
    partial = PartialScores(output, {})
    partial.start()
    partial.append([scores(-0.5)] * checked.num_rows)
    partial.finish(source, checked, columns)
    if output.suffix == ".parquet":
        return pq.read_table(output).to_pylist()
    return [json.loads(line) for line in output.read_text().splitlines()]


BAD_FILES = {
    "no-such.jsonl": (None, "no such file"),
    "ending.txt": (b"hello", "expected a file that ends in .jsonl, .json, .csv, .parquet"),
    "empty.jsonl": (b"", "empty.jsonl: no rows"),
    "json.jsonl": (b'{"document": "a", "summary": "b"}\n\n{"document": ', "json.jsonl, line 3: invalid JSON"),
    "list.jsonl": (b"[1, 2]\n", "list.jsonl, line 1: expected a JSON object, got list"),
    "column.jsonl": (b'{"document": "a"}\n', "column.jsonl, line 1: no column 'summary'. The row has 'document'"),
    "blank.jsonl": (
        b'{"document": " ", "summary": "b"}\n',
        "line 1: column 'document' must hold text, got ' '",
    ),
    "number.jsonl": (b'{"document": "a", "summary": 3}\n', "line 1: column 'summary' must hold text, got 3"),
    "taken.jsonl": (b'{"document": "a", "summary": "b", "quals": 1}', "column 'quals' would be overwritten"),
    "utf8.jsonl": (b'{"document": "\xff"}', "utf8.jsonl, line 1: not UTF-8"),
    "cells.csv": (b"document,summary\na,b\nc\n", "cells.csv, line 3: 1 cells, but the header has 2"),
    "quoted.csv": (
        b'document,summary\n"a\nb",c\nd,""\n',
        "line 4: column 'summary' must hold text, got ''",
    ),
    "surrogate.jsonl": (
        b'{"document": "a", "summary": "\\ud800"}',
        "surrogate.jsonl, line 1: column 'summary' holds half of a surrogate pair",
    ),
    "deep.jsonl": (b'{"document": ' + b"[" * 100_000, "deep.jsonl, line 1: JSON that cannot be read"),
    "digits.jsonl": (b'{"document": ' + b"1" * 5000 + b"}", "digits.jsonl, line 1: JSON that cannot be read"),
    "array.json": (b'[\n{"document": "a", "summary": "b"}\n]', "array.json, line 1: invalid JSON"),
    "unclosed.csv": (b'document,summary\na,b\n"c,d\n', "unclosed.csv, line 3: unexpected end of data"),
    "twice.csv": (b"document,document\n", "twice.csv, line 1: two columns have the same name"),
    "broken.parquet": (b"PAR0", "broken.parquet: not a Parquet file"),
}


@pytest.mark.parametrize(("name", "content", "message"), [(name, *rest) for name, rest in BAD_FILES.items()])
def test_bad_input_is_named_by_file_line_and_column(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        check(Source(str(tmp_path / name), "document", "summary"), ("quals",), tmp_path / "out.jsonl")
    assert message in str(raised.value)


@pytest.mark.parametrize("apart", [1, 300])
def test_parquet_has_the_columns_of_all_rows_though_the_first_lacks_them(tmp_path, apart):
    path = write_jsonl(tmp_path / "in.jsonl", [PAIR] * apart + [PAIR | {"id": 7}])
    rows = output_of(source_of(path), tmp_path / "out.parquet")
    assert [row["id"] for row in rows] == [None] * apart + [7]
    assert list(rows[0]) == ["document", "summary", "id", *SCORES.names]


def test_columns_that_only_parquet_can_hold_go_through_to_parquet(tmp_path):
    row = PAIR | {"image": b"\x00\xff", "price": decimal.Decimal("1.50")}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    assert output_of(source_of(tmp_path / "in.parquet"), tmp_path / "out.parquet")[0].items() >= row.items()
    with pytest.raises(InputError, match="row 1: JSON cannot hold a value of type bytes"):
        output_of(source_of(tmp_path / "in.parquet"), tmp_path / "out.jsonl")


@pytest.mark.parametrize("values", [[1, "one"], [{}], [10**30]])
def test_what_parquet_cannot_hold_is_refused_at_once(tmp_path, values):
    path = write_jsonl(tmp_path / "in.jsonl", [PAIR | {"x": value} for value in values])
    with pytest.raises(InputError, match=r"do not fit into Parquet.*Write \.jsonl"):
        check(source_of(path), (), tmp_path / "out.parquet")


def test_blank_lines_are_no_rows(tmp_path):
    (tmp_path / "in.csv").write_text("document,summary\na,b\n\nc,d\n\n")
    (tmp_path / "in.jsonl").write_text(f"\n{json.dumps(PAIR)}\n\n")
    assert list(source_of(tmp_path / "in.csv").rows()) == [
        (f"{tmp_path}/in.csv, line 2", PAIR),
        (f"{tmp_path}/in.csv, line 4", {"document": "c", "summary": "d"}),
    ]
    assert list(source_of(tmp_path / "in.jsonl").rows()) == [(f"{tmp_path}/in.jsonl, line 2", PAIR)]


def test_byte_order_mark_belongs_to_no_column(tmp_path):
    (tmp_path / "in.csv").write_text('\ufeff"document","summary"\r\n"a","b"\r\n', encoding="utf-8")
    (tmp_path / "in.json").write_text("\ufeff" + json.dumps(PAIR), encoding="utf-8")
    for name in ("in.csv", "in.json"):
        assert [row for _, row in source_of(tmp_path / name).rows()] == [PAIR]


def test_output_that_would_become_a_part_of_the_input_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", [PAIR])
    for source, output in [(path, path), (tmp_path, tmp_path / "out.jsonl")]:
        with pytest.raises(InputError, match="would become a part of the input"):
            check(source_of(source), (), output)
    assert check(source_of(path), (), tmp_path / "out.jsonl").num_rows == 1


def test_folder_is_read_as_a_dataset_and_its_bad_row_is_an_input_error(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [PAIR, {"document": "c", "summary": " "}])
    with pytest.raises(InputError, match=r"dataset \(train\), row 2: column 'summary' must hold text, got ' '"):
        check(source_of(folder), (), tmp_path / "out.jsonl")
    (folder / "train.jsonl").write_text('{"document": "a", "summary": "b"\n')
    with pytest.raises(InputError, match=r"dataset \(train\), row 1: cannot be read"):
        check(source_of(folder), (), tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="neither a file nor a dataset"):
        check(source_of(tmp_path / "nothing"), (), tmp_path / "out.jsonl")


def test_input_that_changed_while_it_was_scored_gives_no_output(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", [PAIR, PAIR])
    checked = check(source_of(path), (), tmp_path / "out.jsonl")
    for changed in ([PAIR], [PAIR, PAIR | {"summary": "c"}], [PAIR] * 3):
        write_jsonl(path, changed)
        partial = PartialScores(tmp_path / "out.jsonl", {})
        partial.start()
        partial.append([scores(-0.5)] * 2)
        with pytest.raises(InputError, match="changed while it was scored"):
            partial.finish(source_of(path), checked, SCORES)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.partial.jsonl"]


def test_scores_are_found_again_wherever_the_file_was_cut(tmp_path):
    partial = PartialScores(tmp_path / "out.jsonl", {"model": "é"})
    partial.start()
    partial.append([scores(-0.5), scores(None), scores(-0.25)])
    whole = partial.path.read_bytes()
    for length in range(len(whole) + 1):
        partial.path.write_bytes(whole[:length])
        done = partial.resume()
        assert done == max(whole[:length].count(b"\n") - 1, 0)
        assert [row["quals"] for row in partial.rows()] == [-0.5, None, -0.25][:done]


def test_statistics_leave_out_and_count_rows_without_a_score(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", [PAIR] * 3)
    checked = check(source_of(path), (), tmp_path / "out.jsonl")
    partial = PartialScores(tmp_path / "out.jsonl", {})
    partial.start()
    partial.append([scores(-0.5), scores(None) | {"quals_document_truncated": True}, scores(-0.25)])
    statistics = partial.finish(source_of(path), checked, SCORES)
    assert (statistics.num_rows, statistics.num_unscored, statistics.mean) == (3, 1, -0.375)
    assert statistics.num_true == {"quals_document_truncated": 1}
