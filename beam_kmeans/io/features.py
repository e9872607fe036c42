"""Columns become rows of floats; rows that cannot be are rejected with a reason."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_kmeans.errors import DataError
from beam_kmeans.io.columns import Columns, resolve_columns
from beam_kmeans.io.formats import source_of
from beam_kmeans.io.sources import Chunk, Split, is_list_of_numbers, is_number
from beam_kmeans.values import canonical_float32

__all__ = ["Columns", "Rows", "parse_rows", "read_rows", "resolve_columns"]

# Values from here on round to infinity: halfway between float32's largest and 2^128.
_FLOAT32_LIMIT = (2.0 - 2.0**-24) * 2.0**127
# Columns are interleaved by tiles of about this many values, which stay in the cache.
_TILE_VALUES = 1 << 16


@dataclass
class Rows:
    """The good rows of a chunk, and what was wrong with the others."""

    values: np.ndarray  #: float32 [n, d]; float64 of the original values when parsed `wide`
    weights: np.ndarray | None  #: float32 [n]
    positions: np.ndarray  #: int64 [n], row within the split
    ids: pa.RecordBatch | None  #: id columns of these rows
    rejected: list[tuple[int, str]]  #: (row within the split, reason), sorted
    flushed: int  #: denormals that became +0


def read_rows(split: Split, columns: Columns, *, wide: bool = False) -> Iterator[Rows]:
    """Yields the rows of a split, chunk by chunk; every row is in `positions` or in `rejected`.

    Raises:
        DataError: the file cannot be read, or lacks a column; the message names it.
    """
    for chunk in source_of(split.path).read(split, columns.needed, columns.numeric):
        try:
            rows = parse_rows(chunk, columns, wide=wide)
        except DataError as error:
            raise DataError(f"{split.path}: {error}") from error
        yield rows


@dataclass
class _Table:
    """Values of some rows of a batch, not yet looked at."""

    values: np.ndarray  # float32 or float64 [m, d], NaN where null
    rows: np.ndarray  # int64 [m]: rows of the batch
    original: Callable[[int, int], Any]  # the value of a row and feature of `values`


def parse_rows(chunk: Chunk, columns: Columns, *, wide: bool = False) -> Rows:
    """Returns the rows of a chunk as floats, without those that cannot be rows.

    Values are rounded to float32 once, and canonical (see `canonical_float32`); with `wide` they
    are the original values in float64, but still those within float32's range alone. The arrays
    may be read-only views of the chunk's memory.

    Raises:
        DataError: a column holds no numbers, or no lists where `features_column` is given.
    """
    reasons: dict[int, str] = {}  # by row of the batch
    table = _table(chunk.batch, columns, np.dtype(np.float64 if wide else np.float32), reasons)
    _check_values(table, columns.names, reasons)
    weights = None
    if columns.weight_column is not None:
        weights = _weights(_column(chunk.batch, columns.weight_column), reasons)
    positions = chunk.positions
    if positions is None:
        positions = np.arange(chunk.first, chunk.first + chunk.batch.num_rows)
    values = table.values
    ids = chunk.batch.select(list(columns.id_columns)) if columns.id_columns else None
    rejected = chunk.rejected
    if reasons:
        rejected = rejected + [(int(positions[row]), reason) for row, reason in reasons.items()]
        good = np.ones(chunk.batch.num_rows, bool)
        good[list(reasons)] = False
        values, positions = values[good[table.rows]], positions[good]
        weights = None if weights is None else weights[good]
        ids = None if ids is None else ids.filter(pa.array(good))
    flushed = 0
    if not wide:
        values, flushed = canonical_float32(values)
    if weights is not None:
        weights, flushed_weights = canonical_float32(weights)
        flushed += flushed_weights
    return Rows(values, weights, positions, ids, sorted(rejected), flushed)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    array = batch.column(name)
    if not is_number(array.type):
        raise DataError(f"column {name!r} is {array.type}, not a number")
    return array


def _values(array: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns an array's numbers, in its own type, and where it is null (any number there)."""
    if not array.null_count:
        return array.to_numpy(zero_copy_only=False), None
    # Without the nulls' bits: NumPy would get float64 for integers, and round a second time.
    plain = pa.Array.from_buffers(
        array.type, len(array), [None, array.buffers()[1]], offset=array.offset
    )
    return plain.to_numpy(zero_copy_only=False), array.is_null().to_numpy(zero_copy_only=False)


def _table(
    batch: pa.RecordBatch, columns: Columns, dtype: np.dtype, reasons: dict[int, str]
) -> _Table:
    if columns.features_column is not None:
        return _table_of_lists(batch, columns, dtype, reasons)
    arrays = [_column(batch, name) for name in columns.names]
    parts = [_values(array) for array in arrays]
    values = np.empty((batch.num_rows, len(arrays)), dtype)
    step = max(64, _TILE_VALUES // len(arrays))
    with np.errstate(over="ignore"):
        for start in range(0, batch.num_rows, step):
            tile = values[start : start + step]
            for index, (numbers, _) in enumerate(parts):
                tile[:, index] = numbers[start : start + step]
    for index, (_, nulls) in enumerate(parts):
        if nulls is not None:
            values[nulls, index] = np.nan
    return _Table(
        values, np.arange(batch.num_rows), lambda row, feature: arrays[feature][row].as_py()
    )


def _table_of_lists(
    batch: pa.RecordBatch, columns: Columns, dtype: np.dtype, reasons: dict[int, str]
) -> _Table:
    name, width = columns.features_column, len(columns.names)
    lists = batch.column(name)
    if not is_list_of_numbers(lists.type):
        raise DataError(f"column {name!r} is {lists.type}, not a list of numbers")
    rows = np.arange(len(lists))
    # Null rows have a null length here, and -1 after it.
    lengths = pc.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False)
    fits = lengths == width
    if not fits.all():
        for row in np.flatnonzero(~fits).tolist():
            reasons[row] = (
                f"column {name!r} is null"
                if lengths[row] < 0
                else f"list of {lengths[row]} values, expected {width}"
            )
        lists, rows = lists.filter(pa.array(fits)), rows[fits]
    flat = lists.flatten()
    numbers, nulls = _values(flat)
    with np.errstate(over="ignore"):
        # A copy where nulls are to be filled in: the numbers may be the file's own memory.
        values = numbers.astype(dtype, copy=nulls is not None)
    if nulls is not None:
        values[nulls] = np.nan
    return _Table(
        values.reshape(len(rows), width),
        rows,
        lambda row, feature: flat[row * width + feature].as_py(),
    )


def _check_values(table: _Table, names: Sequence[str], reasons: dict[int, str]) -> None:
    """Adds the reasons of rows that hold a null, NaN, an infinity or a value beyond float32."""
    if table.values.dtype == np.float64:
        fine = np.abs(table.values) < _FLOAT32_LIMIT
    else:
        fine = np.isfinite(table.values)
    if fine.all():
        return
    for row in np.flatnonzero(~fine.all(axis=1)).tolist():
        feature = int(np.argmin(fine[row]))
        reason = _reason(table.original(row, feature))
        reasons.setdefault(int(table.rows[row]), f"column {names[feature]!r} {reason}")


def _weights(array: pa.Array, reasons: dict[int, str]) -> np.ndarray:
    """Returns float32 [rows], and adds the reasons of rows whose weight cannot be one."""
    numbers, nulls = _values(array)
    with np.errstate(over="ignore"):
        weights = numbers.astype(np.float32)
    if nulls is not None:
        weights[nulls] = np.nan
    # Of the original value: a small negative one rounds to -0, which is not below 0.
    fine = np.isfinite(weights) & ~(numbers < 0)
    for row in np.flatnonzero(~fine).tolist():
        reasons.setdefault(row, f"weight {_reason(array[row].as_py())}")
    return weights


def _reason(value: Any) -> str:
    """Says what is wrong with a value that is no float32 (or with a weight)."""
    if value is None:
        return "is null"
    if np.isnan(value):
        return "is NaN"
    if np.isinf(value):
        return "is infinite"
    if abs(value) >= _FLOAT32_LIMIT:
        return f"is beyond float32: {value!r}"
    return f"is negative: {value!r}"
