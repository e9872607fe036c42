import gzip

import numpy as np
import pyarrow as pa
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io import csv
from beam_kmeans.io.csv import CsvSource
from beam_kmeans.io.files import match_files

SOURCE = CsvSource()


def write(path, data):
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return match_files([str(path)])[0]


def read(file, names, numeric=None):
    """Returns ({row: values}, {row: reason}) and checks that chunks cover the rows in order."""
    (split,) = SOURCE.splits(0, file, len(names))
    rows, rejected, following = {}, {}, 0
    for chunk in SOURCE.read(split, names, names if numeric is None else numeric):
        assert chunk.first == following
        following += chunk.rows
        positions = chunk.positions
        if positions is None:
            positions = np.arange(chunk.first, chunk.first + chunk.batch.num_rows)
        assert len(positions) == chunk.batch.num_rows
        assert chunk.rows == chunk.batch.num_rows + len(chunk.rejected)
        values = zip(*(column.to_pylist() for column in chunk.batch.columns), strict=True)
        rows.update(zip(positions.tolist(), values, strict=True))
        rejected.update(chunk.rejected)
        assert sorted(chunk.rejected) == chunk.rejected
    assert sorted([*rows, *rejected]) == list(range(following))
    return rows, rejected


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few lines, and files that are never read from their head."""
    monkeypatch.setattr(csv, "_BLOCK_BYTES", 32)
    monkeypatch.setattr(csv, "HEAD_BYTES", 24)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "A.CSV.GZ"])
@pytest.mark.parametrize(
    "data", ["a,b,c\n1,x,2.5\n-3,y,4e2\n", b"\xef\xbb\xbfa,b,c\r\n1,x,2.5\r\n-3,y,4e2"]
)
def test_rows_come_back(tmp_path, name, data):
    if name.endswith("GZ"):
        (tmp_path / name).write_bytes(
            gzip.compress(data if isinstance(data, bytes) else data.encode())
        )
        (file,) = match_files([str(tmp_path / name)])
    else:
        file = write(tmp_path / name, data)
    assert read(file, ["c", "a"]) == ({0: (2.5, 1.0), 1: (400.0, -3.0)}, {})


def test_file_is_one_split(tmp_path):
    file = write(tmp_path / "a.csv", "a\n1\n")
    (split,) = SOURCE.splits(2, file, 1)
    assert (split.file, split.index, split.start, split.stop, split.size) == (2, 0, 0, -1, 4)


def test_numeric_columns_are_told_by_their_first_values(tmp_path):
    text = (
        "int,float,gap,text,mixed,day,empty,nan\n"
        "1,1.5,,a,1,2020-01-01,,nan\n"
        "2,2,NA,b,x,2020-01-02,,1\n"
    )
    columns = {
        column.name: column for column in SOURCE.columns(write(tmp_path / "a.csv", text).path)
    }
    assert {name: str(column.type) for name, column in columns.items()} == {
        "int": "int64",
        "float": "double",
        "gap": "null",
        "text": "string",
        "mixed": "string",
        "day": "date32[day]",
        "empty": "null",
        "nan": "double",
    }
    assert [name for name, column in columns.items() if column.maybe_number] == [
        "gap",
        "mixed",
        "empty",
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_only_the_first_mebibyte_tells(tmp_path, name):
    lines = "a\n" + "12345\n" * 200_000
    assert len(lines) > csv.HEAD_BYTES
    (column,) = SOURCE.columns(write(tmp_path / name, lines + "text\n").path)
    assert column.type == pa.int64()
    (column,) = SOURCE.columns(write(tmp_path / name, "a\ntext\n" + lines[2:]).path)
    assert column.type == pa.string()


def test_other_columns_are_text_as_it_stands(tmp_path, small_blocks):
    file = write(tmp_path / "a.csv", 'id,x\n007,1\n,2\nNA,3\n1.50,4\n"q""q",5\n')
    rows, _ = read(file, ["id", "x"], ["x"])
    assert [values[0] for values in rows.values()] == ["007", "", "NA", "1.50", 'q"q']


LINES = ["1,2", "3", "5,6", "", "7,8,9", "a,10", "11,12", "1", "13,x", "14,15", "16", "17"]


@pytest.mark.parametrize("block", [16, 24, 1 << 20])
@pytest.mark.parametrize("head", [8, 1 << 20])
def test_bad_lines_keep_the_numbers_of_the_others(tmp_path, monkeypatch, block, head):
    monkeypatch.setattr(csv, "_BLOCK_BYTES", block)
    monkeypatch.setattr(csv, "HEAD_BYTES", head)
    rows, rejected = read(write(tmp_path / "a.csv", "a,b\n" + "\n".join(LINES) + "\n"), ["a", "b"])
    assert rows == {0: (1, 2), 2: (5, 6), 5: (11, 12), 8: (14, 15)}
    assert rejected == {
        1: "line of 1 fields, expected 2",
        3: "line of 3 fields, expected 2",
        4: "column 'a' is not a number: 'a'",
        6: "line of 1 fields, expected 2",
        7: "column 'b' is not a number: 'x'",
        9: "line of 1 fields, expected 2",
        10: "line of 1 fields, expected 2",
    }


def test_file_of_bad_lines_alone(tmp_path):
    file = write(tmp_path / "a.csv", "a,b\n1\n2\n")
    assert read(file, ["a"]) == ({}, dict.fromkeys((0, 1), "line of 1 fields, expected 2"))


def test_many_bad_rows_in_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(csv, "_BLOCK_BYTES", 4096)
    monkeypatch.setattr(csv, "HEAD_BYTES", 4096)
    rng = np.random.default_rng(5)
    kinds = rng.choice(["good", "ragged", "text"], 5000, p=[0.8, 0.1, 0.1])
    lines = {"good": "{},1", "ragged": "{}", "text": "{},?"}
    text = "a,b\n" + "".join(lines[kind].format(row) + "\n" for row, kind in enumerate(kinds))
    rows, rejected = read(write(tmp_path / "a.csv", text), ["a", "b"])
    assert rows == {row: (row, 1) for row, kind in enumerate(kinds) if kind == "good"}
    assert len(rejected) == 5000 - len(rows)
    assert all(("fields" in rejected[row]) == (kinds[row] == "ragged") for row in rejected)


VALUES = [
    *("1.5", " 2\t", "+3", '"4"', "1e400", "-inf", "nan", "NA", "", '""', "1e-310", "0.1", "-0"),
    *("123456789012345678901234567890", "2.2250738585072011e-308", "9007199254740993"),
]


def test_both_ways_give_the_same_numbers(tmp_path):
    rng = np.random.default_rng(1)
    values = VALUES + [
        repr(value)
        for value in (rng.normal(size=2000) * 10.0 ** rng.integers(-30, 30, 2000)).tolist()
    ]
    good = "a,b\n" + "".join(f"{value},1\n" for value in values)
    fast, _ = read(write(tmp_path / "a.csv", good), ["a", "b"])
    careful, rejected = read(write(tmp_path / "b.csv", good + "x,1\n"), ["a", "b"])
    assert rejected == {len(values): "column 'a' is not a number: 'x'"}
    assert repr(fast) == repr(careful)
    assert [fast[row][0] for row in (7, 8, 9)] == [None, None, None]


@pytest.mark.parametrize("value", ["abc", "0x10", "1_0", "1,5", "--1", "Infinity!", "1 2", "ünter"])
def test_value_that_does_not_parse_rejects_its_row(tmp_path, value):
    _, rejected = read(write(tmp_path / "a.csv", f'a\n1\n"{value}"\n2\n'), ["a"])
    assert rejected == {1: f"column 'a' is not a number: {value!r}"}


def test_bytes_that_are_no_text_reject_their_row_in_a_number(tmp_path):
    rows, rejected = read(write(tmp_path / "a.csv", b"a,b\n1,x\n\xff2,y\n"), ["a", "b"], ["a"])
    assert rows == {0: (1.0, "x")}
    assert rejected == {1: "column 'a' is not a number: '\ufffd2'"}


def test_long_value_is_shown_in_part(tmp_path):
    _, rejected = read(write(tmp_path / "a.csv", "a\n" + "x" * 50 + "\n"), ["a"])
    assert rejected == {0: f"column 'a' is not a number: '{'x' * 37}...'"}


def test_quoted_line_ends_do_not_break_rows(tmp_path, small_blocks):
    text = "a,b\n" + "".join(f'"t\n\n{row}",{row}\n' for row in range(20))
    rows, rejected = read(write(tmp_path / "a.csv", text), ["a", "b"], ["b"])
    assert rows == {row: (f"t\n\n{row}", float(row)) for row in range(20)}
    assert rejected == {}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("data", ["a,b", "a,b\n", "a,b\r\n", "a,b\n\n\n"])
def test_header_alone_has_no_rows(tmp_path, name, data):
    file = write(tmp_path / name, data)
    assert read(file, ["a"]) == ({}, {})
    assert [column.name for column in SOURCE.columns(file.path)] == ["a", "b"]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_empty_file_is_named(tmp_path, name):
    file = write(tmp_path / name, b"")
    for call in (lambda: SOURCE.columns(file.path), lambda: read(file, ["a"])):
        with pytest.raises(DataError, match=rf"{name} is empty: .*header"):
            call()


def test_file_of_blank_lines_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv cannot be read: .*Empty CSV"):
        SOURCE.columns(write(tmp_path / "a.csv", "\n\n").path)


def test_equal_names_are_refused(tmp_path):
    file = write(tmp_path / "a.csv", "a,b,a\n1,2,3\n")
    for call in (lambda: SOURCE.columns(file.path), lambda: read(file, ["b"])):
        with pytest.raises(DataError, match=r"a\.csv has 2 columns named 'a'"):
            call()


def test_missing_column_names_the_file(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv has no column 'bb' \(did you mean 'b'\?\)"):
        read(write(tmp_path / "a.csv", "a,b\n1,2\n"), ["bb"])


@pytest.mark.parametrize("rows", [10, 1_000_000], ids=["in the head", "later"])
def test_truncated_gzip_is_named(tmp_path, rows):
    file = write(tmp_path / "a.csv.gz", "a,b\n" + "1,2\n" * rows)
    data = (tmp_path / "a.csv.gz").read_bytes()
    (tmp_path / "a.csv.gz").write_bytes(data[:-20])
    with pytest.raises(DataError, match=r"a\.csv\.gz cannot be read: Truncated compressed stream"):
        read(file, ["a", "b"])


def test_text_that_is_no_gzip_is_named(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(b"a,b\n1,2\n" * 10)
    with pytest.raises(DataError, match=r"a\.csv\.gz cannot be read: .*header"):
        SOURCE.columns(str(tmp_path / "a.csv.gz"))


def test_quotation_mark_that_is_never_closed_is_told(tmp_path, small_blocks):
    file = write(tmp_path / "a.csv", 'a,b\n1,2\n"3,4\n' + "5,6\n" * 100)
    with pytest.raises(DataError, match=r"a\.csv has a line of more than .*never closed"):
        read(file, ["a", "b"])


def test_header_that_is_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv cannot be read: .*utf-8"):
        SOURCE.columns(write(tmp_path / "a.csv", b"a,\xff\n1,2\n").path)
