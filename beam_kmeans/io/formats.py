"""The formats of files that there are, found by the ending of a name."""

from beam_kmeans.errors import DataError
from beam_kmeans.io import csv, npy, parquet
from beam_kmeans.io.sources import Source

SOURCES: tuple[Source, ...] = (parquet.ParquetSource(), csv.CsvSource(), npy.NpySource())


def source_of(path: str) -> Source:
    """Returns the source that reads a file, by the ending of its name.

    Raises:
        DataError: no format has this ending.
    """
    for source in SOURCES:
        if path.lower().endswith(source.suffixes):
            return source
    known = ", ".join(suffix for source in SOURCES for suffix in source.suffixes)
    raise DataError(f"{path}: not a known format; names of data files end in {known}")
