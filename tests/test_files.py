import math

import pytest

from hf_quals.files import markdown_table, nan_to_none, replacing, write_atomically


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
