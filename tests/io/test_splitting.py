import numpy as np
import pyarrow as pa
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io import shards
from beam_kmeans.io.features import Rows
from beam_kmeans.io.files import SourceFile
from beam_kmeans.io.manifest import Standardization
from beam_kmeans.io.sources import Split
from beam_kmeans.io.splitting import check_unchanged, group_splits, reject, standardized


def split(file, index, size, first_row=0):
    return Split(file, index, f"{file}.parquet", index, index + 1, size, first_row)


def test_splits_are_joined_in_the_order_of_their_rows():
    splits = [split(file, index, 10) for file in range(8) for index in range(4)]
    groups = list(group_splits(reversed(splits)))
    assert [part for group in groups for part in group.splits] == splits
    assert [group.number for group in groups] == list(range(16))
    assert {group.groups for group in groups} == {16}


def test_a_split_that_is_large_enough_is_a_group_alone():
    groups = list(group_splits([split(file, 0, shards.SHARD_BYTES) for file in range(20)]))
    assert [len(group.splits) for group in groups] == [1] * 20


def test_no_splits_make_no_groups():
    assert list(group_splits([])) == []


def test_bad_rows_are_named_by_their_row_of_the_file():
    bad = [(2, "column 'x' is null")]
    assert reject(split(0, 1, 10, first_row=100), bad, "drop") == [
        {"file": "0.parquet", "row": 102, "reason": "column 'x' is null"}
    ]
    with pytest.raises(DataError, match=r"0\.parquet, row 102: column 'x' is null"):
        reject(split(0, 1, 10, first_row=100), bad, "error")


def test_a_file_of_another_size_than_planned_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x\n1\n")
    part = Split(0, 0, str(path), 0, -1, 4)
    check_unchanged(SourceFile(str(path), 4, None), part)
    with pytest.raises(DataError, match=r"a\.csv has changed since the job was planned"):
        check_unchanged(SourceFile(str(path), 5, None), part)


def rows_of(values, **more):
    values = np.array(values, np.float64)
    fields = {"weights": None, "positions": np.arange(len(values)), "ids": None, "rejected": []}
    return Rows(values, **{**fields, **more}, flushed=0)


def test_rows_are_standardized_in_float64_and_rounded_once():
    rows = standardized(rows_of([[1.0], [2.5]]), ["x"], Standardization((1.0,), (3.0,)))
    assert rows.values.dtype == np.float32
    assert rows.values.tolist() == [[0.0], [0.5]]


def test_a_value_beyond_float32_once_standardized_rejects_its_row():
    given = rows_of(
        [[1.0, 0.0], [0.0, -1e38], [2.0, 0.0]],
        weights=np.array([1, 2, 3], np.float32),
        positions=np.array([4, 6, 7]),
        ids=pa.record_batch({"id": ["a", "b", "c"]}),
        rejected=[(5, "column 'x' is null")],
    )
    rows = standardized(given, ["x", "y"], Standardization((0.0, 0.0), (1.0, 1e-3)))
    assert rows.values.tolist() == [[1.0, 0.0], [2.0, 0.0]]
    assert (rows.weights.tolist(), rows.positions.tolist()) == ([1, 3], [4, 7])
    assert rows.ids.to_pydict() == {"id": ["a", "c"]}
    assert rows.rejected == [
        (5, "column 'x' is null"),
        (6, "column 'y' is beyond float32 once standardized: -1e+38"),
    ]
