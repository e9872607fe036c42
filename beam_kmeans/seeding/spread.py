"""Squared distances of rows in memory to centers that are picked one after the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beam_kmeans.distances import Centers, decide, scores, squared_distances

Floats = npt.NDArray[np.float64]


def running_sums(values: Floats) -> Floats:
    """float64 [n]: sums of the first 1, 2, ..., n values, added one after the other.

    NumPy's `sum` adds in an order of its own, which differs between processors.
    """
    return np.add.accumulate(values)


class Spread:
    """The squared distance of each row to the nearest of the centers picked so far.

    Args:
        rows: float32 [n, d].
        picks: centers at most.

    Attributes:
        scores: float64 [n]; infinite before the first pick.
        indices: int64 [n], the nearest pick, equal distances to the first.
    """

    def __init__(self, rows: npt.NDArray[np.float32], picks: int) -> None:
        self._rows = rows
        self._picks = np.zeros((picks, rows.shape[1]), np.float32)
        self.count = 0
        self.scores = np.full(len(rows), np.inf)
        self.indices = np.zeros(len(rows), np.int64)

    @classmethod
    def of(
        cls, rows: npt.NDArray[np.float32], centers: npt.NDArray[np.float32], picks: int
    ) -> Spread:
        """As if these centers [c, d] had been picked, `picks` at most with those to come."""
        spread, prepared = cls(rows, picks), Centers(centers)
        spread._picks[: len(centers)] = centers
        spread.count = len(centers)
        spread.indices = decide(prepared, rows).astype(np.int64)
        spread.scores = scores(prepared, rows, spread.indices.astype(np.int32))
        return spread

    @property
    def picks(self) -> npt.NDArray[np.float32]:
        """float32 [count, d]."""
        return self._picks[: self.count]

    def closer(self, center: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.intp], Floats]:
        """The rows that would be nearer to this center than to any pick, and how near."""
        if not self.count:
            return np.arange(len(self._rows)), squared_distances(self._rows, center)
        # A row whose pick is at least twice as far from the center as from the row cannot be
        # nearer to the center (the triangle inequality); rounding is far below the millionth.
        apart = squared_distances(self.picks, center)
        (which,) = np.nonzero(apart[self.indices] < self.scores * 4.000004)
        found = squared_distances(self._rows[which], center)
        nearer = found < self.scores[which]
        return which[nearer], found[nearer]

    def take(
        self, center: npt.NDArray[np.float32], which: npt.NDArray[np.intp], found: Floats
    ) -> None:
        """Picks a center, given what `closer` said of it."""
        self._picks[self.count] = center
        self.scores[which] = found
        self.indices[which] = self.count
        self.count += 1

    def pick(self, center: npt.NDArray[np.float32]) -> None:
        """Picks a center."""
        self.take(center, *self.closer(center))
