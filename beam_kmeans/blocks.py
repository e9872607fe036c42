"""Block: rows that travel together through a pipeline, and its coder."""

import dataclasses
import pickle
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.coders.typecoders import registry

from beam_kmeans.errors import DataError
from beam_kmeans.tally import Rows
from beam_kmeans.values import canonical_float32


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Up to some thousand rows with their weights and numbers.

    A block is an address, not an identity: no result depends on how rows are cut into blocks.

    Attributes:
        rows: float32 [n, d], finite.
        weights: float32 [n], finite and at least 0; None where each row counts once.
        row_numbers: int64 [n], or the number of the first row where they are consecutive; None
            where rows have no numbers.

    Raises:
        DataError: shapes that do not fit together, or values that are not finite.

    Example:
        >>> block = Block(np.array([[0, 1], [2, 3]], np.float32), row_numbers=10)
        >>> block.numbers().tolist()
        [10, 11]
    """

    rows: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None = None
    row_numbers: npt.NDArray[np.int64] | int | None = None

    def __post_init__(self) -> None:
        rows = np.asarray(self.rows)
        if rows.ndim != 2 or rows.dtype.kind not in "iuf":
            raise DataError(f"a block needs numbers [n, d], found {rows.dtype} {list(rows.shape)}")
        object.__setattr__(self, "rows", canonical_float32(rows)[0])
        bad = np.flatnonzero(~np.isfinite(self.rows).all(axis=1))
        if bad.size:
            raise DataError(f"{self._name(int(bad[0]))} holds a value that is no finite float32")
        if self.weights is not None:
            given = np.asarray(self.weights)
            weights = canonical_float32(given)[0]
            if weights.shape != (len(rows),):
                raise DataError(f"{len(rows)} rows need as many weights, found {weights.shape}")
            bad = np.flatnonzero(~np.isfinite(weights) | (given < 0))
            if bad.size:
                raise DataError(f"{self._name(int(bad[0]))} has weight {self.weights[bad[0]]}")
            object.__setattr__(self, "weights", weights)
        if self.row_numbers is not None:
            object.__setattr__(self, "row_numbers", _checked_numbers(self.row_numbers, len(rows)))

    def numbers(self) -> npt.NDArray[np.int64] | None:
        """int64 [n]: the rows' numbers, None where they have none."""
        if isinstance(self.row_numbers, int):
            return np.arange(self.row_numbers, self.row_numbers + len(self.rows))
        return self.row_numbers

    def numbered(self) -> Rows:
        """The arrays that a pass computes with; rows without numbers are all numbered 0."""
        numbers = self.numbers()
        if numbers is None:
            numbers = np.zeros(len(self.rows), np.int64)
        return Rows(self.rows, self.weights, numbers)

    def _name(self, place: int) -> str:
        numbers = self.numbers()
        return f"row {place} of a block" if numbers is None else f"row {numbers[place]}"


def _checked_numbers(row_numbers: Any, rows: int) -> npt.NDArray[np.int64] | int:
    found = np.asarray(row_numbers)
    if found.dtype.kind not in "iu" or found.shape not in ((), (rows,)):
        raise DataError(
            f"{rows} rows need as many integers as numbers, or the first one's, found "
            f"{found.dtype} {list(found.shape)}"
        )
    if found.size:
        low, high = int(found.min()), int(found.max()) + (0 if found.ndim else max(0, rows - 1))
        if not 0 <= low <= high < 2**63:
            raise DataError(f"row numbers are from 0 to 2**63 - 1, found {low} to {high}")
    return found.astype(np.int64) if found.ndim else int(found)


class BlockCoder(beam.coders.Coder):
    """Encodes a block's arrays as they are: the same bytes for the same block."""

    def encode(self, value: Block) -> bytes:
        return pickle.dumps((value.rows, value.weights, value.row_numbers), protocol=5)

    def decode(self, encoded: bytes) -> Block:
        block = object.__new__(Block)
        names = ("rows", "weights", "row_numbers")
        for name, part in zip(names, pickle.loads(encoded), strict=True):
            object.__setattr__(block, name, part)
        return block

    def estimate_size(self, value: Block) -> int:
        return int(value.rows.nbytes)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> Any:
        return Block


registry.register_coder(Block, BlockCoder)
