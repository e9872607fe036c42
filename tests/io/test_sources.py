import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io.csv import CsvSource
from beam_kmeans.io.formats import source_of
from beam_kmeans.io.npy import NpySource
from beam_kmeans.io.parquet import ParquetSource
from beam_kmeans.io.sources import check_names


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("a.parquet", ParquetSource),
        ("gs://b/A.PARQUET", ParquetSource),
        ("a.csv", CsvSource),
        ("a.b.csv.gz", CsvSource),
        ("a.npy", NpySource),
    ],
)
def test_format_is_told_by_the_ending(path, source):
    assert isinstance(source_of(path), source)


@pytest.mark.parametrize("path", ["d/a.jsonl", "d/_SUCCESS", "d/a.gz", "d/a.npy.gz"])
def test_unknown_ending_is_refused_with_those_known(path):
    with pytest.raises(DataError, match=rf"{path}: .*\.parquet, \.csv, \.csv\.gz, \.npy"):
        source_of(path)


def test_missing_column_is_told_with_the_nearest():
    with pytest.raises(DataError, match=r"f has no column 'wieght' \(did you mean 'weight'\?\)"):
        check_names("f", ["a", "weight"], ["a", "wieght"])


def test_ambiguous_column_is_refused():
    with pytest.raises(DataError, match="f has 2 columns named 'a'"):
        check_names("f", ["a", "b", "a"], ["a"])
    check_names("f", ["a", "b", "a"], ["b"])
