"""NumPy's `.npy` files: two-dimensional arrays of numbers, read by ranges of rows."""

import ast
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from beam_kmeans.errors import DataError
from beam_kmeans.io.files import SourceFile, open_read
from beam_kmeans.io.sources import NPY_COLUMN, Chunk, Column, Split, check_names, naming

#: Most bytes of the file in a split (a row of more makes a split alone).
SPLIT_BYTES = 16 << 20

_MAGIC = b"\x93NUMPY"
# The length of the header, by format version.
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}


@dataclass(frozen=True)
class _Header:
    rows: int
    width: int
    dtype: np.dtype
    fortran: bool
    offset: int  # of the first value in the file


class NpySource:
    """Reads `.npy` arrays [N, d] of integers or floats, in C or Fortran order. Never pickles."""

    suffixes: tuple[str, ...] = (".npy",)

    def columns(self, path: str) -> list[Column]:
        """Returns feature_0 to feature_{d-1}; `read` gives them as one list column."""
        with naming(path), open_read(path) as handle:
            header = _read_header(handle, path)
        kind = pa.from_numpy_dtype(header.dtype)
        return [Column(f"feature_{index}", kind) for index in range(header.width)]

    def splits(self, file_index: int, file: SourceFile, row_width: int) -> list[Split]:
        """Returns ranges of rows of at most `SPLIT_BYTES`."""
        with naming(file.path), open_read(file.path) as handle:
            header = _read_header(handle, file.path)
        step = max(1, SPLIT_BYTES // (header.width * header.dtype.itemsize))
        starts = range(0, header.rows, step)
        ends = [min(start + step, header.rows) for start in starts]
        return [
            Split(
                file_index,
                index,
                file.path,
                start,
                end,
                size=(end - start) * header.width * 4,
                first_row=start,
            )
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]

    def read(
        self, split: Split, columns: Sequence[str], numeric: Collection[str]
    ) -> Iterator[Chunk]:
        """Yields the split's rows as one list column."""
        with naming(split.path), open_read(split.path) as handle:
            header = _read_header(handle, split.path)
            check_names(split.path, [NPY_COLUMN], columns)
            values = _read_rows(handle, header, split)
        flat = pa.array(values.reshape(-1))
        lists = pa.FixedSizeListArray.from_arrays(flat, header.width)
        batch = pa.RecordBatch.from_arrays([lists] * len(columns), names=list(columns))
        yield Chunk(batch, 0, split.stop - split.start)


def _read_header(handle: BinaryIO, path: str) -> _Header:
    start = handle.read(8)
    if len(start) < 8 or start[:6] != _MAGIC:
        raise DataError(f"{path} is not a .npy file: it does not start as one")
    version = start[6]
    if version not in _LENGTHS:
        raise DataError(f"{path}: .npy format version {version} is not known, only 1 to 3")
    prefix = struct.calcsize(_LENGTHS[version])
    length_bytes = handle.read(prefix)
    if len(length_bytes) < prefix:
        raise DataError(f"{path} is truncated: it ends inside its header")
    (length,) = struct.unpack(_LENGTHS[version], length_bytes)
    text = handle.read(length)
    if len(text) < length:
        raise DataError(f"{path} is truncated: it ends inside its header")
    header = _parse_header(
        text.decode("utf-8" if version == 3 else "latin-1"), path, 8 + prefix + length
    )
    _check_size(handle, header, path)
    return header


def _parse_header(text: str, path: str, offset: int) -> _Header:
    try:
        fields = ast.literal_eval(text)
        descr, fortran, shape = fields["descr"], fields["fortran_order"], tuple(fields["shape"])
        # Structured arrays have a list here: they are refused below, whatever is in it.
        dtype = np.dtype(descr) if isinstance(descr, str) else np.dtype(np.void)
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise DataError(f"{path}: the .npy header cannot be parsed") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise DataError(
            f"{path} holds values of type {descr!r}: integers or floats of up to 64 bits are needed"
        )
    if len(shape) != 2 or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise DataError(f"{path} has shape {shape}: two dimensions are needed, rows and features")
    if shape[1] == 0:
        raise DataError(f"{path} has shape {shape}: rows without features")
    return _Header(shape[0], shape[1], dtype, bool(fortran), offset)


def _check_size(handle: BinaryIO, header: _Header, path: str) -> None:
    expected = header.offset + header.rows * header.width * header.dtype.itemsize
    size = handle.seek(0, os.SEEK_END)
    if size < expected:
        raise DataError(f"{path} is truncated: {size} bytes of {expected}")
    if size > expected:
        raise DataError(f"{path} has {size} bytes, but its header says {expected}")


def _read_rows(handle: BinaryIO, header: _Header, split: Split) -> np.ndarray:
    """Returns the rows of a split in C order and native byte order, [n, d]."""
    count, itemsize = split.stop - split.start, header.dtype.itemsize
    if not header.fortran:
        values = np.empty((count, header.width), header.dtype)
        _fill(handle, header.offset + split.start * header.width * itemsize, values, split.path)
    else:
        columns = np.empty((header.width, count), header.dtype)
        for index, column in enumerate(columns):
            position = header.offset + (index * header.rows + split.start) * itemsize
            _fill(handle, position, column, split.path)
        values = columns.T
    return np.ascontiguousarray(values, header.dtype.newbyteorder("="))


def _fill(handle: BinaryIO, position: int, target: np.ndarray, path: str) -> None:
    """Reads as many bytes as the array takes."""
    handle.seek(position)
    view = target.reshape(-1).view(np.uint8).data
    while view:
        # An object store may give less than was asked for. (The type lacks `readinto`.)
        count = handle.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise DataError(f"{path} is truncated: it ends inside its rows")
        view = view[count:]
