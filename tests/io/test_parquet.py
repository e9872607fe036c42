import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io import parquet
from beam_kmeans.io.files import match_files
from beam_kmeans.io.parquet import ParquetSource

SOURCE = ParquetSource()


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return match_files([str(path)])[0]


def read(file, names, numeric=()):
    return [
        (split, list(SOURCE.read(split, names, numeric))) for split in SOURCE.splits(0, file, 1)
    ]


def test_row_groups_are_splits(tmp_path):
    file = write(tmp_path / "a.parquet", {"x": np.arange(10.0)}, row_group_size=4)
    splits = SOURCE.splits(3, file, 5)
    assert [(s.file, s.index, s.start, s.stop, s.size) for s in splits] == [
        (3, 0, 0, 1, 80),
        (3, 1, 1, 2, 80),
        (3, 2, 2, 3, 40),
    ]
    assert {split.path for split in splits} == {file.path}


def test_rows_of_a_split_count_from_0(tmp_path):
    file = write(tmp_path / "a.parquet", {"x": np.arange(10.0), "y": ["t"] * 10}, row_group_size=4)
    got = [
        (split.index, chunk.first, chunk.rows, chunk.batch.to_pydict())
        for split, chunks in read(file, ["x"], ["x"])
        for chunk in chunks
    ]
    assert got == [
        (0, 0, 4, {"x": [0.0, 1.0, 2.0, 3.0]}),
        (1, 0, 4, {"x": [4.0, 5.0, 6.0, 7.0]}),
        (2, 0, 2, {"x": [8.0, 9.0]}),
    ]


def test_columns_come_in_the_order_asked_for(tmp_path):
    file = write(tmp_path / "a.parquet", {"a": [1], "a.b": [2], "c": [3]})
    ((_, (chunk,)),) = read(file, ["c", "a"])
    assert chunk.batch.to_pydict() == {"c": [3], "a": [1]}


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 64)])
def test_batches_are_of_bounded_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 1 << 15)
    lists = pa.array(np.zeros((1000, 64), np.float32).tolist(), kind)
    file = write(tmp_path / "a.parquet", {"dotted.name": lists, "other": np.arange(1000)})
    ((_, chunks),) = read(file, ["dotted.name"], ["dotted.name"])
    assert max(chunk.batch.nbytes for chunk in chunks) <= 1 << 15
    assert [chunk.first for chunk in chunks] == list(range(0, 1000, chunks[0].rows))
    assert sum(chunk.rows for chunk in chunks) == 1000


def test_file_without_rows_has_no_splits(tmp_path):
    file = write(tmp_path / "a.parquet", {"x": pa.array([], pa.float64())})
    assert SOURCE.splits(0, file, 1) == []
    assert [column.name for column in SOURCE.columns(file.path)] == ["x"]


def test_missing_column_names_the_file(tmp_path):
    file = write(tmp_path / "a.parquet", {"x": [1.0]})
    with pytest.raises(DataError, match=r"a\.parquet has no column 'y'; its columns are: x"):
        read(file, ["x", "y"], ["x", "y"])


def test_text_where_numbers_are_needed_names_the_file_and_column(tmp_path):
    file = write(tmp_path / "a.parquet", {"x": ["1"]})
    with pytest.raises(DataError, match=r"a\.parquet: column 'x' is string, not a number"):
        read(file, ["x"], ["x"])


@pytest.mark.parametrize("keep", [0, 3, 200, -10])
def test_truncated_file_is_named(tmp_path, keep):
    file = write(tmp_path / "a.parquet", {"x": np.arange(100.0)})
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:keep])
    for call in (lambda: SOURCE.columns(file.path), lambda: SOURCE.splits(0, file, 1)):
        with pytest.raises(DataError, match=r"a\.parquet cannot be read: .*"):
            call()


def test_damaged_row_group_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    file = write(path, {"x": np.random.default_rng(0).normal(size=1000)}, compression="snappy")
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read: "):
        read(file, ["x"], ["x"])
