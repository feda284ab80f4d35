import decimal
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_quals.comparing.partial import PartialScores
from hf_quals.comparing.rows import Source, check
from hf_quals.comparing.score_file import score_file
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
    partial = PartialScores(output, {}, checked.digests)
    partial.append(dict.fromkeys(range(len(checked.digests)), scores(-0.5)))
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
        b'document,summary\n"a\nb",c\n"",d\n',
        "line 4: column 'document' must hold text, got ''",
    ),
    "surrogate.jsonl": (
        b'{"document": "a", "summary": "\\ud800"}',
        "surrogate.jsonl, line 1: column 'summary' holds half of a surrogate pair",
    ),
    "deep.jsonl": (b'{"document": ' + b"[" * 100_000, "deep.jsonl, line 1: JSON that cannot be read"),
    "digits.jsonl": (b'{"document": ' + b"1" * 5000 + b"}", "digits.jsonl, line 1: JSON that cannot be read"),
    "array.json": (b'[\n{"document": "a" "summary": "b"}\n]', "array.json, line 2: invalid JSON"),
    "numbers.json": (
        b'[{"document": "a", "summary": "b"}, 7]',
        "numbers.json, element 2: expected a JSON object, got",
    ),
    "element.json": (b'[{"document": "a"}]', "element.json, element 1: no column 'summary'"),
    "-": (None, "standard input is read only once"),
    "cells.tsv": (b"document\tsummary\na;b\n", "cells.tsv, line 2: 1 cells, but the header has 2"),
    "unclosed.csv": (b'document,summary\na,b\n"c,d\n', "unclosed.csv, line 3: unexpected end of data"),
    "twice.csv": (b"document,document\n", "twice.csv, line 1: two columns have the same name"),
    "broken.parquet": (b"PAR0", "broken.parquet: not a Parquet file"),
    "null.jsonl": (b'{"document": "a", "summary": null}', "line 1: column 'summary' must hold text, got None"),
    "key.jsonl": (
        b'{"document": "a", "summary": "b"}\n{"document": "a", "summary": "b", "summary": "c"}\n',
        "key.jsonl, line 2: JSON that cannot be read: the key 'summary' occurs 2 times in one object",
    ),
    "inner.jsonl": (b'{"document": "a", "summary": "b", "x": [{"y": 1, "y": 1}]}', "the key 'y' occurs 2 times"),
    "nan.jsonl": (b'{"document": "a", "summary": "b", "x": NaN}', "nan.jsonl, line 1: JSON cannot hold NaN"),
    "inf.jsonl": (b'{"document": "a", "summary": "b", "x": [-Infinity]}', "inf.jsonl, line 1: JSON cannot hold NaN"),
}


@pytest.mark.parametrize(("name", "content", "message"), [(name, *rest) for name, rest in BAD_FILES.items()])
def test_bad_input_is_named_by_file_line_and_column(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    path = name if name == "-" else str(tmp_path / name)
    with pytest.raises(InputError) as raised:
        check(Source(path, "document", "summary"), ("quals",), tmp_path / "out.jsonl")
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
    assert len(check(source_of(path), (), tmp_path / "out.jsonl").digests) == 1


def test_folder_is_read_as_a_dataset_and_its_bad_row_is_an_input_error(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [PAIR, {"document": " ", "summary": "c"}])
    with pytest.raises(InputError, match=r"dataset \(train\), row 2: column 'document' must hold text, got ' '"):
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
        partial = PartialScores(tmp_path / "out.jsonl", {}, checked.digests)
        partial.append({0: scores(-0.5), 1: scores(-0.5)})
        with pytest.raises(InputError, match="changed while it was scored"):
            partial.finish(source_of(path), checked, SCORES)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.partial.jsonl"]


def partial_of(tmp_path, digests=(11, 12, 13)):
    return PartialScores(tmp_path / "out.jsonl", {"model": "é"}, digests)


def test_scores_are_there_again_wherever_the_file_was_cut(tmp_path):
    partial_of(tmp_path).append({0: scores(-0.5), 1: scores(None), 2: scores(-0.25)})
    path = partial_of(tmp_path).path
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        partial = partial_of(tmp_path)
        partial.resume()
        done = max(whole[:length].count(b"\n") - 1, 0)
        assert [partial.is_scored(row) for row in range(3)] == [True] * done + [False] * (3 - done)
        partial.append({row: scores([-0.5, None, -0.25][row]) for row in range(done, 3)})
        assert [row["quals"] for row in partial.rows()] == [-0.5, None, -0.25]
        assert path.read_bytes() == whole


def damaged_lines(header, first, second, third):
    """Files of three scored rows that something went wrong with, and which rows still have their scores."""
    return {
        "lost": ([header, first, third], [0, 2]),
        "doubled": ([header, first, second, second, third], [0, 1, 2]),
        "in another order": ([header, third, first, second], [0, 1, 2]),
        "no JSON": ([header, first, second[:20] + b"\n", third], [0, 2]),
        "no UTF-8": ([header, first, second.replace(b"quals", b"qu\xffls", 1), third], [0, 2]),
        "another score": ([header, first, second.replace(b"-0.75", b"-0.25"), third], [0, 2]),
        "another's number": ([header, first, second.replace(b'"row": 1', b'"row": 0'), third], [0, 2]),
        "number of no row": ([header, first, second.replace(b'"row": 1', b'"row": -2'), third], [0, 2]),
        "other things": (
            [header, first, b"[]\n", b"null\n", b'{"row": "1"}\n', b"[" * 100_000 + b"\n", third],
            [0, 2],
        ),
        "two in a line": ([header, first[:-1] + second, third], [2]),
    }


@pytest.mark.parametrize("what", list(damaged_lines(b"", b"", b"", b"")))
def test_a_line_that_is_damaged_or_of_another_row_does_not_count(tmp_path, what, caplog):
    partial_of(tmp_path).append({0: scores(-0.5), 1: scores(-0.75), 2: scores(-0.25)})
    path = partial_of(tmp_path).path
    lines, there = damaged_lines(*path.read_bytes().splitlines(keepends=True))[what]
    path.write_bytes(b"".join(lines))
    partial = partial_of(tmp_path)
    partial.resume()
    assert [row for row in range(3) if partial.is_scored(row)] == there
    partial.append({row: scores([-0.5, -0.75, -0.25][row]) for row in range(3) if row not in there})
    for again in (partial, partial_of(tmp_path)):
        if again is not partial:
            again.resume()
        assert (again.num_missing, [row["quals"] for row in again.rows()]) == (0, [-0.5, -0.75, -0.25])


def test_scores_of_other_rows_under_the_same_header_do_not_count(tmp_path):
    partial_of(tmp_path).append({0: scores(-0.5), 1: scores(-0.75), 2: scores(-0.25)})
    partial = partial_of(tmp_path, digests=(11, 13, 12))
    partial.resume()
    assert [partial.is_scored(row) for row in range(3)] == [True, False, False]


@pytest.mark.parametrize("header", [b"{\n", b"[]\n", b"\xff\n", b'{"header": 3}\n', b"{}\n"])
def test_a_damaged_header_is_refused_by_name(tmp_path, header):
    partial = partial_of(tmp_path)
    partial.path.write_bytes(header)
    with pytest.raises(InputError, match=r"out\.jsonl\.partial\.jsonl, line 1: damaged.*Pass `overwrite=True`"):
        partial.resume()
    assert partial.path.read_bytes() == header


def test_what_another_process_wrote_meanwhile_is_no_score(tmp_path):
    partial = partial_of(tmp_path)
    partial.append({0: scores(-0.5), 1: scores(-0.75), 2: scores(-0.25)})
    partial.path.write_bytes(partial.path.read_bytes().replace(b"-0.75", b"-0.25"))
    with pytest.raises(InputError, match="row 2 is damaged"):
        list(partial.rows())


def test_a_link_at_the_name_of_partial_scores_is_not_written_into(tmp_path):
    (tmp_path / "mine").write_text("mine")
    partial = partial_of(tmp_path)
    partial.path.symlink_to(tmp_path / "mine")
    partial.append({0: scores(-0.5)})
    assert (tmp_path / "mine").read_text() == "mine"
    assert partial.is_scored(0)


def test_statistics_leave_out_and_count_rows_without_a_score(tmp_path):
    path = write_jsonl(tmp_path / "in.jsonl", [PAIR] * 3)
    checked = check(source_of(path), (), tmp_path / "out.jsonl")
    partial = PartialScores(tmp_path / "out.jsonl", {}, checked.digests)
    partial.append({0: scores(-0.5), 1: scores(None) | {"quals_document_truncated": True}, 2: scores(-0.25)})
    statistics = partial.finish(source_of(path), checked, SCORES)
    assert (statistics.num_rows, statistics.num_unscored, statistics.mean) == (3, 1, -0.375)
    assert statistics.num_true == {"quals_document_truncated": 1}


# What files hold that Python's types do not.


def test_nanoseconds_go_through(tmp_path):
    times = {
        "timestamp": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns", tz="UTC")),
        "time": pa.array([1], pa.time64("ns")),
        "times": pa.array([[{"at": 3_600_000_000_001}]], pa.list_(pa.struct({"at": pa.time64("ns")}))),
        "duration": pa.array([1], pa.duration("ns")),
    }
    columns = {name: pa.array([text]) for name, text in PAIR.items()}
    pq.write_table(pa.table(columns | times), tmp_path / "in.parquet")
    source = source_of(tmp_path / "in.parquet")
    output_of(source, tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.names == [*PAIR, *times, *SCORES.names]
    for name, values in times.items():
        assert written[name].combine_chunks().equals(values)

    pq.write_table(pa.table(columns | times).drop(["duration"]), tmp_path / "in.parquet")
    (row,) = output_of(source, tmp_path / "out.jsonl")
    assert row["timestamp"] == "2023-11-14T22:13:20.123456789+00:00"
    assert (row["time"], row["times"]) == ("00:00:00.000000001", [{"at": "01:00:00.000000001"}])


def test_parquet_of_several_blocks_goes_through_in_order(tmp_path):
    rows = [PAIR | {"id": number} for number in range(600)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=100)
    assert [row["id"] for row in output_of(source_of(tmp_path / "in.parquet"), tmp_path / "out.parquet")] == [
        *range(600)
    ]


INVALID_UTF8 = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
TWO_FIELDS = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (["summary"], [pa.array(["c"])], "two columns have the same name: document, summary, summary"),
        (["x"], [INVALID_UTF8], "column 'x': a value in rows 1 to 1 cannot be read: 'utf-8' codec"),
        (["x"], [TWO_FIELDS], "column 'x': a value in rows 1 to 1 cannot be read: Converting"),
        (["x"], [pa.array([2**60], pa.timestamp("ms"))], "column 'x': a value in rows 1 to 1 cannot be read"),
        (["x"], [pa.array([2**30], pa.date32())], "column 'x': a value in rows 1 to 1 cannot be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_parquet_that_cannot_be_read_is_named_by_its_column(tmp_path, names, columns, message, suffix):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), *columns], names=["document", "summary", *names])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(InputError) as raised:
        check(source_of(tmp_path / "in.parquet"), (), tmp_path / f"out{suffix}")
    assert message in str(raised.value)


@pytest.mark.parametrize("apart", [1, 300])
def test_a_number_that_the_type_of_its_column_cannot_hold_is_refused_before_anything_is_scored(tmp_path, apart):
    path = write_jsonl(tmp_path / "in.jsonl", [PAIR | {"x": 2**60 + 1}] + [PAIR | {"x": 0.5}] * apart)
    with pytest.raises(InputError, match=r"do not fit into Parquet: Integer value.*Write \.jsonl"):
        check(source_of(path), (), tmp_path / "out.parquet")
    assert output_of(source_of(path), tmp_path / "out.jsonl")[0]["x"] == 2**60 + 1


def test_nan_goes_from_parquet_to_parquet_and_not_into_json(tmp_path):
    pq.write_table(pa.table({"document": ["a"], "summary": ["b"], "x": [float("nan")]}), tmp_path / "in.parquet")
    source = source_of(tmp_path / "in.parquet")
    (row,) = output_of(source, tmp_path / "out.parquet")
    assert row["x"] != row["x"]
    with pytest.raises(InputError, match=r"in\.parquet, row 1: JSON cannot hold NaN.*Write Parquet"):
        check(source, (), tmp_path / "out.jsonl")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_do_on_any_system(tmp_path, ending):
    (tmp_path / "in.csv").write_bytes(ending.join(["document,summary", '"a\nb\rc",d', "e,f"]).encode())
    rows = [PAIR, PAIR | {"summary": "c\u2028d"}]
    text = ending.join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "in.jsonl").write_bytes(text.encode())
    assert [row for _, row in source_of(tmp_path / "in.csv").rows()] == [
        {"document": "a\nb\rc", "summary": "d"},
        {"document": "e", "summary": "f"},
    ]
    assert [(place[-6:], row) for place, row in source_of(tmp_path / "in.jsonl").rows()] == [
        ("line 1", rows[0]),
        ("line 2", rows[1]),
    ]


def test_a_format_is_told_by_its_suffix_in_any_case(tmp_path):
    write_jsonl(tmp_path / "in.JSONL", [PAIR])
    pq.write_table(pa.Table.from_pylist([PAIR]), tmp_path / "in.Parquet")
    (tmp_path / "in.CSV").write_text("document,summary\na,b\n")
    for name in ("in.JSONL", "in.Parquet", "in.CSV"):
        assert [row for _, row in source_of(tmp_path / name).rows()] == [PAIR]


@pytest.mark.parametrize("name", ["out.jsonl.partial.jsonl", "out.jsonl.lock"])
def test_an_input_that_scoring_would_write_over_is_refused(tmp_path, name):
    source = Source(str(write_jsonl(tmp_path / "in.jsonl", [PAIR])))
    (tmp_path / name).hardlink_to(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match=f"{name} would become a part of the input"):
        score_file(None, source, tmp_path / "out.jsonl", settings={}, overwrite=True)
    assert Path(source.path).read_text() == json.dumps(PAIR) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.json", ' \n[{"document": "a, b", "summary": "c;\td"},\n {"document": "e", "summary": "f"}]\n'),
        ("in.json", '\ufeff[{"document": "a, b", "summary": "c;\\td"}, {"document": "e", "summary": "f"}]'),
        ("in.json", '{"document": "a, b", "summary": "c;\\td"}\n{"document": "e", "summary": "f"}\n'),
        ("in.csv", '"document";summary\na, b;"c;\td"\ne;f\n'),
        ("in.csv", 'document\tsummary\r\na, b\t"c;\td"\r\ne\tf\r\n'),
        ("in.csv", 'document,summary\n"a, b",c;\td\ne,f\n'),
        ("in.TSV", 'document\tsummary\na, b\t"c;\td"\ne\tf\n'),
    ],
)
def test_arrays_and_cells_between_semicolons_and_tabs_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.replace('c;\td"}', 'c;\\td"}').encode())
    rows = [row for _, row in source_of(tmp_path / name).rows()]
    assert rows == [{"document": "a, b", "summary": "c;\td"}, {"document": "e", "summary": "f"}]


def test_csv_has_the_rows_of_json_lines(tmp_path):
    path = write_jsonl(
        tmp_path / "in.jsonl", [PAIR | {"document": 'a, "b"\n=c'}, PAIR | {"id": 7, "tags": ["x", None]}]
    )
    checked = check(source_of(path), tuple(SCORES.names), tmp_path / "out.csv")
    partial = PartialScores(tmp_path / "out.csv", {}, checked.digests)
    partial.append({0: scores(None), 1: scores(-0.5)})
    partial.finish(source_of(path), checked, pa.schema([*SCORES, ("quals_summary_truncated", pa.bool_())]))
    rows = [row for _, row in source_of(tmp_path / "out.csv").rows()]
    cut = {"quals_document_truncated": "false", "quals_summary_truncated": "false"}
    assert rows == [
        {"document": 'a, "b"\n=c', "summary": "b", "id": "", "tags": "", "quals": "", **cut},
        {"document": "a", "summary": "b", "id": "7", "tags": '["x", null]', "quals": "-0.5", **cut},
    ]
