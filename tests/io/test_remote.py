"""Files that are not on the local file system, by a file system that Beam finds: one in memory."""

import gzip
import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem

from beam_kmeans.errors import DataError
from beam_kmeans.io.features import read_rows, resolve_columns
from beam_kmeans.io.files import (
    exists,
    join,
    list_files,
    match_files,
    read_bytes,
    remove_directory,
    whole_file,
    write_bytes,
)
from beam_kmeans.io.formats import source_of
from beam_kmeans.model import KMeansModel
from beam_kmeans.predicting import predict

FILES: dict[str, bytes] = {}


class _Upload(io.BytesIO):
    def __init__(self, path):
        super().__init__()
        self._path = path

    def close(self):
        FILES[self._path] = self.getvalue()
        super().close()


class _MemoryFileSystem(FileSystem):
    """As much of a file system as the package uses."""

    @classmethod
    def scheme(cls):
        return "memory"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def mkdirs(self, path):
        raise BeamIOError("an object store has no directories")

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        for path, data in sorted(FILES.items()):
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data), 5.0)

    def create(self, path, mime_type="", compression_type=None):
        return _Upload(path)

    def open(self, path, mime_type="", compression_type=None):
        return io.BytesIO(FILES[path])

    def exists(self, path):
        return path in FILES

    def metadata(self, path):
        return FileMetadata(path, len(FILES[path]), 5.0)

    def _not_needed(self, *paths):
        raise BeamIOError("the package does not use this")

    def delete(self, paths):
        for path in paths:
            del FILES[path]

    copy = rename = size = last_updated = checksum = _not_needed


@pytest.fixture(autouse=True)
def no_files():
    FILES.clear()


def test_files_are_matched_written_and_read():
    path = join("memory://b/d", "e", "x.csv")
    assert not exists(path)
    write_bytes(path, b"abc")
    assert exists(path)
    assert read_bytes(path) == b"abc"
    (file,) = match_files(["memory://b/d/*/*.csv", path])
    assert (file.path, file.size, file.modified) == ("memory://b/d/e/x.csv", 3, 5.0)
    assert list_files("memory://b/d/**") == [path]


def test_object_is_put_only_when_it_is_whole():
    def fail():
        with whole_file("memory://b/x") as handle:
            handle.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert FILES == {}


def test_directory_is_removed():
    FILES.update({"memory://b/d/x": b"", "memory://b/d2/x": b""})
    remove_directory("memory://b/d")
    assert [*FILES] == ["memory://b/d2/x"]
    remove_directory("memory://b/d")


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_predictions_are_written_where_the_input_is(output_format):
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    model = KMeansModel(rows[:3], 0.0, np.zeros(3, np.int64))
    model.save("memory://b/model")
    for part, name in enumerate(["a.parquet", "b.csv"]):
        FILES[f"memory://b/in/{name}"] = _data(name, rows[25 * part : 25 * part + 25])
    arguments = ("memory://b/model", "memory://b/in/*", "memory://b/out/p")
    report = predict(*arguments, output_format=output_format)
    written = [path for path in FILES if path.startswith("memory://b/out/")]
    assert sorted(written) == [
        f"memory://b/out/p-00000-of-00002.{output_format}",
        f"memory://b/out/p-00001-of-00002.{output_format}",
        "memory://b/out/p-summary.json",
    ]
    assert (report.rows, report.inertia) == (50, pytest.approx(model.score(rows)))
    assert predict(*arguments, output_format=output_format).rows == 50
    if output_format == "parquet":
        tables = [pq.read_table(io.BytesIO(FILES[path])) for path in sorted(written)[:2]]
        indices = pa.concat_tables(tables)["cluster_index"].to_pylist()
        assert indices == model.predict(rows).tolist()


def test_pattern_without_match_is_named():
    with pytest.raises(DataError, match=re.escape("no file matches 'memory://b/*'")):
        match_files(["memory://b/*"])


def _data(name, values):
    table = pa.table({f"feature_{index}": column for index, column in enumerate(values.T)})
    buffer = io.BytesIO()
    if name.endswith(".npy"):
        np.save(buffer, values)
    elif name.endswith(".parquet"):
        pq.write_table(table, buffer)
    else:
        lines = [
            ",".join(table.column_names),
            *(",".join(map(repr, row)) for row in values.tolist()),
        ]
        text = "\n".join(lines).encode()
        return gzip.compress(text) if name.endswith(".gz") else text
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.csv.gz", "a.npy"])
def test_every_format_is_read(name):
    # Large enough that a CSV file is more than its head.
    values = np.random.default_rng(0).normal(size=(30_000, 2))
    FILES[f"memory://b/{name}"] = _data(name, values)
    (file,) = files = match_files([f"memory://b/{name}"])
    columns = resolve_columns(files)
    splits = source_of(file.path).splits(0, file, 2)
    parts = [rows.values for split in splits for rows in read_rows(split, columns)]
    np.testing.assert_array_equal(np.concatenate(parts), values.astype(np.float32))


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz", "a.npy"])
def test_truncated_file_is_named(name):
    FILES[f"memory://b/{name}"] = _data(name, np.eye(9))[:-9]
    files = match_files([f"memory://b/{name}"])
    with pytest.raises(DataError, match=f"memory://b/{name}"):
        resolve_columns(files)
