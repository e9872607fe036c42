"""The questions a fit asks of data, answered for arrays in memory, and the fit that asks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from beam_kmeans import lloyd, seeding
from beam_kmeans.config import Parameters
from beam_kmeans.distances import Centers
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState, advance
from beam_kmeans.sampling import DistinctSample
from beam_kmeans.statistics import Statistics
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import LloydTally, Rows
from beam_kmeans.values import canonical_float32

Floats = npt.NDArray[np.float32]

_BLOCK_ROWS = 8192


class Dataset(Protocol):
    """What a fit may ask of data."""

    @property
    def statistics(self) -> Statistics:
        """Exact statistics of the features."""

    def draw(self, num_clusters: int, random_seed: int) -> DistinctSample:
        """k distinct rows at random, by weight."""

    def gather(self, row_numbers: npt.NDArray[np.int64]) -> Floats:
        """float32 [m, d]: the rows of these numbers, in their order."""

    def tally(self, centers: Floats, far: bool) -> tuple[lloyd.Survey, ExactSums]:
        """The sums of all rows under their nearest centers."""


class MemoryDataset:
    """Rows in memory, numbered from 0.

    Args:
        data: numbers [N, d], finite; rounded to float32 once.
        sample_weight: numbers [N], finite and at least 0; None counts each row once.

    Raises:
        DataError: names the first row that is not allowed, and why.
    """

    def __init__(self, data: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> None:
        self._rows = checked_rows("data", data)
        self._weights = None
        if sample_weight is not None:
            self._weights = checked_weights(sample_weight, len(self._rows))
        self.statistics = Statistics.of(self._rows, self._weights)

    def _parts(self) -> Iterator[Rows]:
        for start in range(0, len(self._rows), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, len(self._rows))
            weights = None if self._weights is None else self._weights[start:stop]
            yield Rows(self._rows[start:stop], weights, np.arange(start, stop))

    def draw(self, num_clusters: int, random_seed: int) -> DistinctSample:
        return seeding.draw(self._parts(), num_clusters, random_seed)

    def gather(self, row_numbers: npt.NDArray[np.int64]) -> Floats:
        return self._rows[row_numbers]

    def tally(self, centers: Floats, far: bool) -> tuple[lloyd.Survey, ExactSums]:
        tally = LloydTally(Centers(centers), far, self.statistics.exponents())
        tally.include(self._parts())
        return tally.result()


@dataclasses.dataclass(frozen=True)
class Fit:
    """A finished fit: the final centers float32 [k, d], what was measured of them, the history."""

    centers: Floats
    counts: npt.NDArray[np.int64]
    state: FitState


def fit(dataset: Dataset, parameters: Parameters) -> Fit:
    """Runs a whole fit over a dataset that answers at once.

    Raises:
        DataError: the data cannot be clustered so.
    """
    statistics = dataset.statistics
    seeding.check_rows(statistics, parameters.num_clusters)
    d = len(statistics.minimums)
    centers = initial_centers(dataset, parameters)
    if centers.shape[1] != d:
        raise DataError(
            f"initial_clusters: the centers have {centers.shape[1]} features, the data has {d}"
        )
    state, mean_variance = FitState(), statistics.mean_variance()
    relocate = parameters.empty_clusters == "relocate"
    while True:
        survey, totals = dataset.tally(centers, relocate)
        moves = lloyd.relocations(survey) if relocate and not state.is_last(parameters) else []
        update = lloyd.update_range(centers, totals, survey, moves, 0)
        measured = lloyd.measure(survey, [update.cost], statistics.sum_of_squares())
        last = state.is_last(parameters)
        state = advance(
            state,
            parameters,
            mean_variance=mean_variance,
            num_features=d,
            measured=measured,
            relocated=len(moves),
            shift=update.shift,
            rise=update.rise,
        )
        centers = centers if last else update.centers
        if state.finished:
            return Fit(centers, measured.counts, state)


def initial_centers(dataset: Dataset, parameters: Parameters) -> Floats:
    """float32 [k, d]: the centers a fit starts from."""
    if parameters.given_centers is not None:
        return parameters.given_centers
    sample = dataset.draw(parameters.num_clusters, parameters.random_seed)
    return dataset.gather(seeding.drawn_rows(sample))


def checked_rows(name: str, data: npt.ArrayLike) -> Floats:
    """Rows [n, d] as canonical float32.

    Raises:
        DataError: no matrix of numbers, or a row with a value that is no finite float32.
    """
    if np.ma.is_masked(data):
        raise DataError(f"{name}: masked values are missing values; leave their rows out")
    found = np.asarray(data)
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
    found = np.asarray(sample_weight)
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
