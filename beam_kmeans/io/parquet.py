"""Parquet files: a split is a row group, read in batches of bounded memory."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pa_parquet

from beam_kmeans.errors import DataError
from beam_kmeans.io.files import SourceFile, local_path, open_read
from beam_kmeans.io.sources import (
    Chunk,
    Column,
    Split,
    check_names,
    is_list_of_numbers,
    is_number,
    naming,
)

# What a batch may take in memory: small enough to stay near the processor's caches, large enough
# that the fixed cost of a batch does not show.
_BATCH_BYTES = 4 << 20


class ParquetSource:
    """Reads Parquet: columns of any integer or float type, or lists of them."""

    suffixes: tuple[str, ...] = (".parquet",)

    def columns(self, path: str) -> list[Column]:
        """Returns the columns of the file's schema."""
        with _open(path) as file:
            return [Column(column.name, column.type) for column in file.schema_arrow]

    def splits(self, file_index: int, file: SourceFile, row_width: int) -> list[Split]:
        """Returns one split a row group; row groups without rows make none."""
        with _open(file.path) as opened:
            metadata = opened.metadata
            rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        filled = [group for group, count in enumerate(rows) if count]
        return [
            Split(
                file_index,
                index,
                file.path,
                group,
                group + 1,
                size=rows[group] * row_width * 4,
                first_row=sum(rows[:group]),
            )
            for index, group in enumerate(filled)
        ]

    def read(
        self, split: Split, columns: Sequence[str], numeric: Collection[str]
    ) -> Iterator[Chunk]:
        """Yields the named columns of the split's row group."""
        with _open(split.path) as file:
            _check(split.path, file.schema_arrow, columns, numeric)
            batches = file.iter_batches(
                batch_size=_batch_rows(file.metadata.row_group(split.start), columns),
                row_groups=[split.start],
                columns=list(columns),
            )
            first = 0
            for batch in batches:
                # By name once more: `columns` above also takes the children of a name with a dot.
                yield Chunk(batch.select(list(columns)), first, batch.num_rows)
                first += batch.num_rows


@contextmanager
def _open(path: str) -> Iterator[pa_parquet.ParquetFile]:
    with naming(path):
        local = local_path(path)
        if local is not None:
            with pa_parquet.ParquetFile(local, memory_map=True) as file:
                yield file
        else:
            with open_read(path) as handle, pa_parquet.ParquetFile(handle) as file:
                yield file


def _check(path: str, schema: pa.Schema, columns: Sequence[str], numeric: Collection[str]) -> None:
    check_names(path, schema.names, columns)
    for name in columns:
        kind = schema.field(name).type
        if name in numeric and not (is_number(kind) or is_list_of_numbers(kind)):
            raise DataError(f"{path}: column {name!r} is {kind}, not a number or a list of numbers")


def _batch_rows(group: pa_parquet.RowGroupMetaData, columns: Sequence[str]) -> int:
    """Returns how many rows of a row group make a batch of about `_BATCH_BYTES`."""
    names, size = set(columns), 0
    for index in range(group.num_columns):
        chunk = group.column(index)
        # "x", or "x.list.element" where x is a list; a name may hold dots of its own.
        parts = chunk.path_in_schema.split(".")
        if names.intersection(accumulate(parts, "{}.{}".format)):
            # Dictionaries make the encoded size too small: a number may take 8 bytes.
            size += max(chunk.num_values * 8, chunk.total_uncompressed_size)
    return max(1, _BATCH_BYTES * int(group.num_rows) // max(size, 1))
