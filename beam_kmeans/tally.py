"""LloydTally: exact sums of rows under their nearest centers, all that an iteration needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_kmeans import sums
from beam_kmeans.distances import Centers, decide
from beam_kmeans.kernels import Filter, Tile, side_by_side
from beam_kmeans.lloyd import FarRows, Survey
from beam_kmeans.statistics import Directionless
from beam_kmeans.sums import ExactSums
from beam_kmeans.values import unit_rows

#: Rows that wait to be decided in float64, or to be summed outside the kernel's window.
_WAITING_ROWS = 4096
#: Tiles whose windows an int64 holds without a carry: 2**13 rows of 2**40 units each.
_WINDOW_TILES = 512


class Rows(NamedTuple):
    """Rows float32 [n, d], weights float32 [n] or None (each 1), row numbers int64 [n]."""

    rows: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32] | None
    row_numbers: npt.NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of some parts, at least one, all with weights or all without."""
        if len(parts) == 1:
            return parts[0]
        rows, weights, numbers = zip(*parts, strict=True)
        return cls(
            np.concatenate(rows),
            None if weights[0] is None else np.concatenate(weights),
            np.concatenate(numbers),
        )

    def pick(self, which: slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Rows:
        """Some of the rows: a stretch, those that are marked, or those at some places."""
        weights = None if self.weights is None else self.weights[which]
        return Rows(self.rows[which], weights, self.row_numbers[which])

    def weighted(self) -> npt.NDArray[np.float64]:
        """float64 [n, d], or [n, d + 1] of weight x row and the weight where there are weights."""
        wide = self.rows.astype(np.float64)
        if self.weights is None:
            return wide
        column = self.weights.astype(np.float64)[:, None]
        return np.concatenate([wide * column, column], axis=1)


def in_metric(part: Rows, distance_metric: str) -> Rows:
    """The rows as the metric measures them: under cosine unit rows, without those of zeros.

    A row of zeros has no direction. It belongs to cluster 0 with a score of 1, and takes no part
    in anything else: it is never drawn, summed or relocated to.
    """
    if distance_metric != "cosine":
        return part
    units, directed = unit_rows(part.rows)
    whole = Rows(units, part.weights, part.row_numbers)
    return whole if directed.all() else whole.pick(directed)


def directionless_of(part: Rows, distance_metric: str) -> Directionless:
    """What `in_metric` leaves out of these rows."""
    if distance_metric != "cosine":
        return Directionless()
    zeros = ~part.rows.any(axis=1)
    left = int(np.count_nonzero(zeros))
    if part.weights is None:
        return Directionless(left, Fraction(left))
    return Directionless(left, sums.exact_sum(part.weights[zeros].astype(np.float64)))


class LloydTally:
    """Sums rows under their nearest centers.

    The kernel sums what it is sure of, in a window of 40 bits below each column's largest
    exponent. Rows that float64 must decide, and digits below the window, wait here until there
    are enough to be worth a call.

    Args:
        centers: the centers to sum under.
        far: whether to look for far rows, for empty clusters to move to.
        exponents: int32 [d], E with |x| < 2**E for all rows to come, where that is known.
    """

    def __init__(
        self, centers: Centers, far: bool, exponents: npt.NDArray[np.int32] | None = None
    ) -> None:
        k, d = centers.k, centers.d
        self._centers = centers
        self._look_far = far
        self._exponents = exponents
        self._filter: Filter | None = None
        self._window_of: Filter | None = None
        self._window = np.zeros((0, 0, 0), np.int64)
        self._window_tiles = 0
        self._counts = np.zeros(k, np.int64)
        self._unit_counts = np.zeros(k, np.int64)
        self._weights = ExactSums.zeros((k,))
        self._sums = ExactSums.zeros((k, d))
        self._any_weights = False
        self._far = FarRows.zero(d)
        self._unsure: list[Rows] = []
        self._leftover: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]] = []

    def include(self, parts: Iterable[Rows]) -> None:
        """Takes in all rows of the parts, tile by tile, in the kernels' threads."""
        for part, kernel, tile in side_by_side(_run, self._tiles(parts)):
            self._take(part, kernel, tile)

    def result(self) -> tuple[Survey, ExactSums]:
        """The survey, and the exact sums [k, d] of weight x row under each center."""
        self._decide_unsure()
        self._add_leftover()
        self._flush_window()
        weights = None
        if self._any_weights:
            weights = ExactSums.of_integers(self._unit_counts).add(self._weights)
        return Survey(self._counts, weights, self._far), self._sums

    def _tiles(self, parts: Iterable[Rows]) -> Iterator[tuple[Rows, Filter]]:
        for part in parts:
            if len(part.rows):
                kernel = self._kernel_for(part)
                for start in range(0, len(part.rows), kernel.tile_rows):
                    yield part.pick(slice(start, start + kernel.tile_rows)), kernel

    def _kernel_for(self, part: Rows) -> Filter:
        """A kernel whose window holds these rows; a new one only where the window must grow."""
        exponents = self._exponents
        if exponents is None:
            exponents = sums.window_exponents(np.abs(part.rows).max(axis=0))
        if part.weights is not None:
            own = sums.window_exponents([part.weights.max()])
            exponents = np.concatenate([exponents + own, own])
        known = self._filter
        if known is not None and len(known.exponents) == len(exponents):
            if (exponents <= known.exponents).all():
                return known
            exponents = np.maximum(exponents, known.exponents)
        self._filter = Filter(self._centers, exponents, part.weights is not None)
        return self._filter

    def _take(self, part: Rows, kernel: Filter, tile: Tile) -> None:
        self._add_window(kernel, tile)
        sure = ~tile.unsure
        self._count(tile.indices[sure], part.weights)
        leftover = tile.leftover & sure
        if leftover.any():
            rest = kernel.leftover(part.pick(leftover).weighted())
            self._leftover.append((tile.indices[leftover], rest))
            self._add_leftover(_WAITING_ROWS)
        if self._look_far:
            bounds = np.where(sure, tile.bounds, -1.0)
            self._far.include(self._centers, *part, tile.indices, bounds)
        if tile.unsure.any():
            self._unsure.append(part.pick(tile.unsure))
            self._decide_unsure(_WAITING_ROWS)

    def _add_window(self, kernel: Filter, tile: Tile) -> None:
        if tile.window is None:
            raise ValueError("a tally needs a kernel that sums")
        if kernel is not self._window_of or self._window_tiles == _WINDOW_TILES:
            self._flush_window()
            self._window_of, self._window = kernel, np.zeros(tile.window.shape, np.int64)
        self._window += tile.window
        self._window_tiles += 1

    def _flush_window(self) -> None:
        if self._window_of is not None:
            d, exponents = self._centers.d, self._window_of.exponents
            for limb in self._window:
                exponents = exponents - sums.DIGIT_BITS
                self._sums.add_scaled(limb[:, :d], exponents[:d])
                if self._window_of.weighted:
                    self._weights.add_scaled(limb[:, d], exponents[d])
        self._window_of, self._window_tiles = None, 0

    def _count(
        self, indices: npt.NDArray[np.int32], weights: npt.NDArray[np.float32] | None
    ) -> None:
        counts = np.bincount(indices, minlength=self._centers.k)
        self._counts += counts
        if weights is None:
            self._unit_counts += counts
        else:
            self._any_weights = True

    def _decide_unsure(self, at_least: int = 1) -> None:
        if sum(len(part.rows) for part in self._unsure) < at_least:
            return
        for part in _by_weighting(self._unsure):
            indices = decide(self._centers, part.rows)
            self._count(indices, part.weights)
            self._leftover.append((indices, part.weighted()))
            if self._look_far:
                everything = np.full(len(indices), np.inf)
                self._far.include(self._centers, *part, indices, everything)
        self._unsure.clear()
        self._add_leftover(_WAITING_ROWS)

    def _add_leftover(self, at_least: int = 1) -> None:
        if sum(len(indices) for indices, _ in self._leftover) < at_least:
            return
        d = self._centers.d
        for width in (d, d + 1):
            own = [part for part in self._leftover if part[1].shape[1] == width]
            if own:
                indices = np.concatenate([part[0] for part in own])
                values = np.concatenate([part[1] for part in own])
                sums.add_rows(self._sums, indices, values[:, :d])
                if width > d:
                    column = ExactSums.zeros((self._centers.k, 1))
                    sums.add_rows(column, indices, values[:, d:])
                    self._weights.add(column.reshaped((self._centers.k,)))
        self._leftover.clear()


def _run(work: tuple[Rows, Filter]) -> tuple[Rows, Filter, Tile]:
    part, kernel = work
    return part, kernel, kernel.tile(part.rows, part.weights)


def _by_weighting(parts: list[Rows]) -> Iterator[Rows]:
    """The parts as at most two: those without weights and those with."""
    for weighted in (False, True):
        own = [part for part in parts if (part.weights is not None) == weighted]
        if own:
            yield Rows.joined(own)
