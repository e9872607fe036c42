"""Shards: immutable Arrow IPC files of blocks, each with a checksum that every read verifies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc
import xxhash

from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.tally import Rows

#: Bytes of features in a shard at most.
SHARD_BYTES = 256 << 20
#: Shards there are at least, where there are as many blocks: so that workers can share them.
LEAST_SHARDS = 16
_BLOCK_BYTES = 1 << 20
_CHECKSUM = b"xxh3_64"


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of a shard.

    Attributes:
        path: relative to the dataset.
        rows: in the shard.
        size: of the file, in bytes.
        first_row: number of its first row; where the shard has a column of row numbers, what is
            to be added to them.
        checksum: over the blocks' checksums, so that no other shard passes for this one.
        numbered: whether it has a column of row numbers, because rows between its own are missing.
    """

    path: str
    rows: int
    size: int
    first_row: int
    checksum: str
    numbered: bool = False


def default_block_rows(num_features: int) -> int:
    """Rows of a block of about 1 MiB of features."""
    rows = max(1, _BLOCK_BYTES // (4 * num_features))
    return int(np.clip(1 << (rows.bit_length() - 1), 256, 65536))


def schema(num_features: int, weighted: bool, numbered: bool) -> pa.Schema:
    """The columns of a shard."""
    fields = [pa.field("features", pa.list_(pa.float32(), num_features), nullable=False)]
    if weighted:
        fields.append(pa.field("weight", pa.float32(), nullable=False))
    if numbered:
        fields.append(pa.field("row_number", pa.int64(), nullable=False))
    return pa.schema(fields)


class ShardWriter:
    """Writes one shard: whole, or on an exception not at all.

    Args:
        path: of the file.
        num_features: d.
        weighted: whether blocks come with weights.
        numbered: whether rows have numbers of their own, because they are not consecutive.
    """

    def __init__(self, path: str, num_features: int, weighted: bool, numbered: bool) -> None:
        self.path, self.numbered, self.rows, self.blocks = path, numbered, 0, 0
        self._schema = schema(num_features, weighted, numbered)
        self._digest = xxhash.xxh3_128()
        self._whole = files.whole_file(path)
        self._handle = self._whole.__enter__()
        self._writer = ipc.new_file(pa.PythonFile(self._handle, "w"), self._schema)

    def write(self, block: Rows) -> None:
        """Appends a block."""
        rows = np.ascontiguousarray(block.rows, "<f4")
        width = rows.shape[1]
        columns = [pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width)]
        if block.weights is not None:
            columns.append(pa.array(block.weights))
        if self.numbered:
            columns.append(pa.array(block.row_numbers))
        checksum = _checksum(rows, block.weights, block.row_numbers if self.numbered else None)
        self._writer.write_batch(
            pa.record_batch(columns, schema=self._schema), custom_metadata={_CHECKSUM: checksum}
        )
        self._digest.update(checksum)
        self.rows += len(rows)
        self.blocks += 1

    def close(self, relative_path: str, first_row: int) -> ShardInfo:
        """Puts the file in its place."""
        self._writer.close()
        size = self._handle.tell()
        self._whole.__exit__(None, None, None)
        checksum = self._digest.hexdigest()
        return ShardInfo(relative_path, self.rows, size, first_row, checksum, self.numbered)

    def abandon(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Leaves nothing behind."""
        try:
            self._whole.__exit__(kind, error, trace)
        except kind:
            # The context manager raises again what it was told of; the caller does so itself.
            return


def read_shard(
    directory: str, info: ShardInfo, num_features: int, weighted: bool
) -> Iterator[Rows]:
    """Yields the blocks of a shard, verified.

    Raises:
        DataError: names the shard, and what is wrong with it.
    """
    path = files.join(directory, info.path)
    local = files.local_path(path)
    try:
        with pa.memory_map(local) if local else pa.PythonFile(files.open_read(path), "r") as source:
            if source.size() != info.size:
                raise DataError(
                    f"shard {path} has {source.size()} bytes, the manifest says {info.size}: it is "
                    "truncated or not of this dataset"
                )
            yield from _blocks(path, ipc.open_file(source), info, num_features, weighted)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"shard {path} cannot be read: {_first_line(error)}") from error


def _blocks(
    path: str, reader: Any, info: ShardInfo, num_features: int, weighted: bool
) -> Iterator[Rows]:
    numbered = info.numbered
    if reader.schema != schema(num_features, weighted, numbered):
        raise DataError(f"shard {path} holds other columns than its dataset: {reader.schema}")
    digest, first = xxhash.xxh3_128(), 0
    for place in range(reader.num_record_batches):
        batch, metadata = reader.get_batch_with_custom_metadata(place)
        block = _arrays(batch, num_features, weighted, numbered)
        checksum = _checksum(*block)
        if metadata is None or metadata.get(_CHECKSUM) != checksum:
            raise DataError(
                f"shard {path}: block {place} does not have its checksum: it is damaged"
            )
        digest.update(checksum)
        rows, weights, numbers = block
        if numbers is None:
            numbers = np.arange(first, first + len(rows))
        first += len(rows)
        yield Rows(rows, weights, numbers + info.first_row)
    if digest.hexdigest() != info.checksum or first != info.rows:
        raise DataError(f"shard {path} is whole, but is not the one that its manifest names")


class ShardReader:
    """Blocks of a shard by their places, each verified: for who needs a few of many.

    Args:
        directory: of the dataset.
        info: of the shard.
        num_features: d.
        weighted: whether rows have weights.

    Raises:
        DataError: names the shard, and what is wrong with it.
    """

    def __init__(self, directory: str, info: ShardInfo, num_features: int, weighted: bool) -> None:
        self._path, self._info = files.join(directory, info.path), info
        self._num_features, self._weighted = num_features, weighted
        local = files.local_path(self._path)
        try:
            self._source = (
                pa.memory_map(local) if local else pa.PythonFile(files.open_read(self._path), "r")
            )
            if self._source.size() != info.size:
                raise DataError(
                    f"shard {self._path} has {self._source.size()} bytes, {info.size} were "
                    "written: it is truncated or not of this dataset"
                )
            self._reader = ipc.open_file(self._source)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"shard {self._path} cannot be read: {_first_line(error)}") from error
        expected = schema(num_features, weighted, info.numbered)
        if self._reader.schema != expected:
            raise DataError(
                f"shard {self._path} holds other columns than its dataset: {self._reader.schema}"
            )

    @property
    def blocks(self) -> int:
        """How many there are."""
        return int(self._reader.num_record_batches)

    def block(self, place: int) -> Rows:
        """One block; its rows' numbers are those of the column, or count from the block's first.

        Raises:
            DataError: it is damaged.
        """
        try:
            batch, metadata = self._reader.get_batch_with_custom_metadata(place)
            found = _arrays(batch, self._num_features, self._weighted, self._info.numbered)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DataError(f"shard {self._path} cannot be read: {_first_line(error)}") from error
        if metadata is None or metadata.get(_CHECKSUM) != _checksum(*found):
            raise DataError(
                f"shard {self._path}: block {place} does not have its checksum: it is damaged"
            )
        rows, weights, numbers = found
        return Rows(rows, weights, np.arange(len(rows)) if numbers is None else numbers)

    def close(self) -> None:
        """Lets the file go; blocks that were read stay."""
        self._source.close()


def _arrays(
    batch: pa.RecordBatch, num_features: int, weighted: bool, numbered: bool
) -> tuple[npt.NDArray[np.float32], Any, Any]:
    features = batch.column(0)
    if any(column.null_count for column in batch.columns) or features.flatten().null_count:
        raise pa.ArrowInvalid("a block holds nulls")
    rows = features.flatten().to_numpy(zero_copy_only=True).reshape(-1, num_features)
    weights = batch.column(1).to_numpy(zero_copy_only=True) if weighted else None
    numbers = batch.column("row_number").to_numpy(zero_copy_only=True) if numbered else None
    return rows, weights, numbers


def _checksum(
    rows: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None,
    row_numbers: npt.NDArray[np.int64] | None,
) -> bytes:
    digest = xxhash.xxh3_64(f"{rows.shape}".encode())
    for array in (rows, weights, row_numbers):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest().encode()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
