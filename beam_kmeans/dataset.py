"""The questions a fit asks of data, and their answers for arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from beam_kmeans import lloyd
from beam_kmeans.config import as_array
from beam_kmeans.distances import Centers
from beam_kmeans.errors import DataError
from beam_kmeans.seeding.state import Facts, Forgetful, Initialiser, Seeding
from beam_kmeans.statistics import Directionless, Statistics
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import LloydTally, Rows, directionless_of, in_metric
from beam_kmeans.values import canonical_float32

Floats = npt.NDArray[np.float32]

_BLOCK_ROWS = 8192


class Dataset(Protocol):
    """What a fit may ask of data."""

    @property
    def distance_metric(self) -> str:
        """What its rows are measured by."""

    @property
    def statistics(self) -> Statistics:
        """Exact statistics of the features, as the metric measures the rows."""

    @property
    def directionless(self) -> Directionless:
        """Rows of zeros, which are not among the rows under cosine."""

    @property
    def facts(self) -> Facts:
        """What an initialiser needs to know before its first pass."""

    def measure(self, initialiser: Initialiser, state: Seeding) -> Seeding:
        """One pass of an initialisation over all rows, and what follows."""

    def gather(self, row_numbers: npt.NDArray[np.int64]) -> Floats:
        """float32 [m, d]: the rows of these numbers, in their order."""

    def pick(self, row_numbers: npt.NDArray[np.int64]) -> Rows:
        """The rows of these numbers, in their order: rows of zeros too, which cosine leaves out."""

    def tally(self, centers: Floats, far: bool) -> tuple[lloyd.Survey, ExactSums]:
        """The sums of all rows under their nearest centers."""


class MemoryDataset:
    """Rows in memory, numbered from 0.

    Args:
        data: numbers [N, d], finite; rounded to float32 once.
        sample_weight: numbers [N], finite and at least 0; None counts each row once.
        distance_metric: under cosine the rows that are asked for are unit rows, without those of
            zeros (`tally.in_metric`).

    Raises:
        DataError: names the first row that is not allowed, and why.
    """

    def __init__(
        self,
        data: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        distance_metric: str = "squared_euclidean",
    ) -> None:
        rows, weights = checked_rows("data", data), None
        if sample_weight is not None:
            weights = checked_weights(sample_weight, len(rows))
        whole = Rows(rows, weights, np.arange(len(rows)))
        self.distance_metric, self._weights = distance_metric, weights
        self.rows = in_metric(whole, distance_metric)
        self.statistics = Statistics.of(self.rows.rows, self.rows.weights)
        self.directionless = directionless_of(whole, distance_metric)

    def parts(self) -> Iterator[Rows]:
        """The rows as the metric measures them, some thousand at a time."""
        for start in range(0, len(self.rows.rows), _BLOCK_ROWS):
            yield self.rows.pick(slice(start, start + _BLOCK_ROWS))

    @property
    def facts(self) -> Facts:
        return Facts.of(self.statistics)

    def measure(self, initialiser: Initialiser, state: Seeding) -> Seeding:
        # All rows are one part of a pass: there is nothing to merge.
        summaries = dict(initialiser.measure(state, self.parts(), Forgetful()))
        return initialiser.advance(state, summaries)

    def gather(self, row_numbers: npt.NDArray[np.int64]) -> Floats:
        # Numbers ascend: rows without a direction are missing, the others are in their places.
        return self.rows.rows[np.searchsorted(self.rows.row_numbers, row_numbers)]

    def pick(self, row_numbers: npt.NDArray[np.int64]) -> Rows:
        own, weights = self.rows, self._weights
        if weights is not None:
            weights = weights[row_numbers]
        if not self.directionless.rows:
            return Rows(own.rows[row_numbers], weights, row_numbers)
        rows = np.zeros((len(row_numbers), own.rows.shape[1]), np.float32)
        there = np.isin(row_numbers, own.row_numbers)
        rows[there] = own.rows[np.searchsorted(own.row_numbers, row_numbers[there])]
        return Rows(rows, weights, row_numbers)

    def tally(self, centers: Floats, far: bool) -> tuple[lloyd.Survey, ExactSums]:
        prepared = Centers(centers, self.distance_metric)
        tally = LloydTally(prepared, far, self.statistics.exponents())
        tally.include(self.parts())
        return tally.result()


def checked_rows(name: str, data: npt.ArrayLike) -> Floats:
    """Rows [n, d] as canonical float32.

    Raises:
        DataError: no matrix of numbers, or a row with a value that is no finite float32.
    """
    if np.ma.is_masked(data):
        raise DataError(f"{name}: masked values are missing values; leave their rows out")
    found = as_array(name, data)
    if found.dtype.kind not in "iuf":
        raise DataError(f"{name}: numbers are needed, found an array of {found.dtype}")
    if found.ndim != 2 or found.shape[1] == 0:
        raise DataError(f"{name}: an array of shape [n, d] is needed, found {list(found.shape)}")
    rows, _ = canonical_float32(found)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        column = int(np.flatnonzero(~np.isfinite(rows[bad[0]]))[0])
        raise DataError(
            f"{name}: row {bad[0]}, feature {column} is {found[bad[0], column]}; finite float32 "
            f"values are needed ({bad.size} of {len(rows)} rows are bad)"
        )
    return rows


def checked_weights(sample_weight: npt.ArrayLike, rows: int) -> Floats:
    """Weights [n] as canonical float32.

    Raises:
        DataError: no vector of n numbers, or a weight that is negative or no finite float32.
    """
    found = as_array("sample_weight", sample_weight)
    if found.dtype.kind not in "iuf" or found.shape != (rows,):
        raise DataError(
            f"sample_weight: numbers of shape [{rows}] are needed, found {list(found.shape)} "
            f"of {found.dtype}"
        )
    weights, _ = canonical_float32(found)
    bad = np.flatnonzero(~np.isfinite(weights) | (found < 0))
    if bad.size:
        raise DataError(
            f"sample_weight: row {bad[0]} has weight {found[bad[0]]}; finite weights of at least 0 "
            "are needed"
        )
    return weights
