import numpy as np
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io import npy
from beam_kmeans.io.files import match_files
from beam_kmeans.io.npy import NpySource

SOURCE = NpySource()


def write(path, array, version=None):
    with open(path, "wb") as handle:
        np.lib.format.write_array(handle, array, version=version)
    return match_files([str(path)])[0]


def read(file):
    chunks = [
        chunk
        for split in SOURCE.splits(0, file, 3)
        for chunk in SOURCE.read(split, ["features"], ["features"])
    ]
    return [np.stack(chunk.batch.column(0).to_numpy(zero_copy_only=False)) for chunk in chunks]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "i1", "<i8", ">u2", "<u8"])
def test_rows_come_back_in_every_type_and_order(tmp_path, monkeypatch, dtype, order):
    array = np.arange(33).reshape(11, 3).astype(dtype, order=order)
    monkeypatch.setattr(npy, "SPLIT_BYTES", 4 * 3 * array.itemsize + 1)
    parts = read(write(tmp_path / "a.npy", array))
    assert [len(part) for part in parts] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(parts), array)
    assert parts[0].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_format_version_is_read(tmp_path, version):
    array = np.eye(3)
    np.testing.assert_array_equal(read(write(tmp_path / "a.npy", array, version))[0], array)


def test_splits_are_ranges_of_rows_of_16_mib(tmp_path):
    file = write(tmp_path / "a.npy", np.zeros((3000, 1024), np.float64))
    assert [(s.index, s.start, s.stop, s.size) for s in SOURCE.splits(0, file, 1024)] == [
        (0, 0, 2048, 2048 * 1024 * 4),
        (1, 2048, 3000, 952 * 1024 * 4),
    ]


def test_row_larger_than_a_split_is_a_split_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "SPLIT_BYTES", 7)
    assert [len(part) for part in read(write(tmp_path / "a.npy", np.eye(3)))] == [1, 1, 1]


def test_columns_are_named_by_place(tmp_path):
    file = write(tmp_path / "a.npy", np.zeros((0, 2), np.int16))
    assert [(c.name, str(c.type)) for c in SOURCE.columns(file.path)] == [
        ("feature_0", "int16"),
        ("feature_1", "int16"),
    ]
    assert SOURCE.splits(0, file, 2) == []


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([["a", "b"]]), "values of type '<U1'"),
        (np.array([[None]], object), "values of type"),
        (np.zeros((2, 2), [("x", "f4")]), r"values of type \[\('x', '<f4'\)\]"),
        (np.zeros((2, 2), bool), "values of type"),
        (np.zeros((2, 2), complex), "values of type"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.zeros((2, 0)), "rows without features"),
    ],
    ids=["text", "object", "structured", "bool", "complex", "1-D", "3-D", "no features"],
)
def test_other_arrays_are_refused(tmp_path, array, words):
    file = write(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=rf"a\.npy .*{words}"):
        SOURCE.columns(file.path)


@pytest.mark.parametrize("keep", [9, 40, 128, 150, -1])
def test_truncated_file_is_named(tmp_path, keep):
    file = write(tmp_path / "a.npy", np.eye(3))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.npy is truncated"):
        SOURCE.splits(0, file, 3)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a .npy file"),
        (b"PK\x03\x04 a zip of arrays", "is not a .npy file"),
        (b"\x93NUMPY\x09\x00\x10\x00", "format version 9"),
        (b"\x93NUMPY\x01\x00\x04\x00(1,\n", "header cannot be parsed"),
        (b"\x93NUMPY\x01\x00\x03\x00{}\n", "header cannot be parsed"),
    ],
)
def test_foreign_file_is_refused(tmp_path, data, words):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.npy.*{words}"):
        SOURCE.columns(str(tmp_path / "a.npy"))


def test_bytes_after_the_array_are_refused(tmp_path):
    file = write(tmp_path / "a.npy", np.eye(3))
    with open(file.path, "ab") as handle:
        handle.write(b"x")
    with pytest.raises(DataError, match=r"a\.npy has 201 bytes, but its header says 200"):
        SOURCE.columns(file.path)


def test_named_column_is_missing(tmp_path):
    file = write(tmp_path / "a.npy", np.eye(3))
    (split,) = SOURCE.splits(0, file, 3)
    with pytest.raises(DataError, match=r"a\.npy has no column 'x'"):
        list(SOURCE.read(split, ["x"], ["x"]))
