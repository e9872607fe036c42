"""Distances by definition: float64 scores, features in order, one IEEE operation at a time.

`cluster_index` is the lowest index of the smallest score. `Centers` also holds what the compiled
filter (`kernels`) needs to tell which rows must be decided here.

Under cosine rows and centers are unit vectors, and a score is half their squared distance: that is
1 - cosine similarity, exactly 0 for equal rows and never below. A row of zeros has no direction:
its cluster is 0, and each of its scores is 1.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int32]

_UNIT32 = 2.0**-24
_UNIT64 = 2.0**-53
#: The filter's value of a center that takes no part.
_NEVER = 3e38
#: float64 values of a step of the decision.
_DECISION_VALUES = 2**21
#: float64 values of which a few copies stay in a processor's cache; and at least so many rows are
#: added up at a time, as each feature of them is a call.
_TILE_VALUES, _TILE_ROWS = 2**15, 2**10


class Centers:
    """Centers prepared for kernels: the filter's matrix, its bounds, and what decides.

    Args:
        centers: finite float32 [k, d]; for cosine unit rows (`values.unit_rows`).
        distance_metric: "squared_euclidean" or "cosine".
    """

    def __init__(self, centers: Rows, distance_metric: str = "squared_euclidean") -> None:
        self.rows = centers
        self.cosine = distance_metric == "cosine"
        #: A score over the squared distance; a power of two, so that nothing is rounded.
        self.score_factor = 0.5 if self.cosine else 1.0
        self.k, self.d = centers.shape
        self.wide = centers.astype(np.float64)
        # Equal centers take part once, at the lowest index.
        first = np.unique(centers + np.float32(0), axis=0, return_index=True)[1]
        self.live = np.sort(first)
        self._prepare_filter()

    def _prepare_filter(self) -> None:
        # Shifted to the centers' middle and scaled by a power of two, so that neither an offset
        # of the data costs digits nor its scale overflows.
        middle = _middle(self.wide[self.live])
        moved = self.wide - middle
        largest = float(np.abs(moved).max())
        exponent = int(np.clip(np.frexp(largest)[1], -100, 120)) if largest else 0
        self.scale = 2.0**-exponent
        small = (moved * self.scale).astype(np.float32).astype(np.float64)
        norms, halves = np.sqrt((small * small).sum(axis=1)), (small * small).sum(axis=1) / 2
        # With U = 2**-24: a product of d + 2 terms is wrong by at most about (d + 2) U of the sum
        # of its terms' magnitudes, in any order (Higham, "Accuracy and Stability of Numerical
        # Algorithms", 2002, section 3.1); rounded rows, centers and norms add a few U more.
        self.relative = 1.05 * (self.d + 14) * _UNIT32
        self.group, self.groups = _grouping(self.k)
        padded = self.group * self.groups
        matrix = np.zeros((padded, self.d + 2))
        matrix[:, self.d] = _NEVER
        matrix[self.live, : self.d] = -small[self.live]
        matrix[self.live, self.d] = halves[self.live] * (1 - self.relative)
        matrix[self.live, self.d + 1] = -self.relative * norms[self.live]
        self.matrix = matrix.astype(np.float32)
        self.middle = (middle * self.scale).astype(np.float32)
        bounds = np.zeros((padded, 2))
        bounds[: self.k] = np.stack([norms, halves], axis=1)
        self.bounds = (2 * self.relative * bounds).astype(np.float32)
        # Of the float64 decision's own rounding, of a row's square; and what underflow can hide.
        self.constants = np.array(
            [self.scale, 2 * (self.d + 4) * 2.0**-52, 2 * (self.d + 4) * 2.0**-58, self.relative],
            np.float32,
        )


def _middle(centers: Floats) -> Floats:
    """float64 [d]: the medians of centers [k, d], which a few far centers do not move."""
    place = (len(centers) - 1) // 2
    middle: Floats = np.partition(centers, place, axis=0)[place]
    return middle


def _grouping(k: int) -> tuple[int, int]:
    """Group size and number of groups in which the filter looks for the smallest of k."""
    group = 8 if k <= 64 else 16 if k <= 512 else 32 if k <= 4096 else 64
    return group, max(1, -(-k // group))


def decide(centers: Centers, rows: Rows) -> Indices:
    """int32 [n]: the nearest centers by definition, for any rows [n, d].

    A float64 product leaves only the centers within its own rounding bound; between these the
    scores themselves decide.
    """
    out = np.empty(len(rows), np.int32)
    live = centers.wide[centers.live]
    middle = _middle(live)
    moved = live - middle
    norms, halves = np.sqrt((moved * moved).sum(axis=1)), (moved * moved).sum(axis=1) / 2
    factor = 4.0 * (centers.d + 14) * _UNIT64
    step = max(1, _DECISION_VALUES // max(len(live), centers.d))
    for start in range(0, len(rows), step):
        wide = rows[start : start + step].astype(np.float64)
        away = wide - middle
        lengths = np.sqrt((away * away).sum(axis=1))[:, None]
        estimate = halves - away @ moved.T
        bound = factor * (lengths + norms) ** 2
        best = (estimate + bound).min(axis=1, keepdims=True)
        which, candidate = np.nonzero(estimate - bound <= best)
        scores = _pair_scores(wide, live, which, candidate)
        # Rows ascend and candidates ascend within a row: the first smallest is the lowest index.
        order = np.lexsort((candidate, scores, which))
        first = order[np.unique(which[order], return_index=True)[1]]
        out[start : start + step] = centers.live[candidate[first]]
    return out


def directionless(centers: Centers, rows: Rows) -> npt.NDArray[np.bool_] | None:
    """bool [n]: rows of zeros under cosine; None where there are none, as in all other metrics."""
    if not centers.cosine:
        return None
    zeros: npt.NDArray[np.bool_] = np.logical_not(rows.any(axis=1))
    return zeros if zeros.any() else None


def scores(centers: Centers, rows: Rows, indices: Indices) -> Floats:
    """float64 [n]: the score of each row [n, d] for its center."""
    found = _pair_scores(rows, centers.wide, np.arange(len(rows)), indices)
    found *= centers.score_factor
    zeros = directionless(centers, rows)
    if zeros is not None:
        found[zeros] = 1.0
    return found


def _pair_scores(
    left: Rows | Floats, right: Floats, which: npt.NDArray[Any], candidate: npt.NDArray[Any]
) -> Floats:
    """float64 [m]: squared distances of left[which] and right[candidate], by definition."""
    total = np.zeros(len(which))
    for part, features in _tiles(len(which), left.shape[1]):
        _add_squares(total[part], left[which[part], features] - right[candidate[part], features])
    return total


def squared_distances(rows: Rows, center: Rows | Floats) -> Floats:
    """float64 [n]: of rows [n, d] to one center [d], by definition."""
    total, wide = np.zeros(len(rows)), center.astype(np.float64)
    for part, features in _tiles(*rows.shape):
        _add_squares(total[part], rows[part, features] - wide[features])
    return total


def _tiles(n: int, d: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of a matrix [n, d], for each part of its rows all features in order."""
    height = max(_TILE_ROWS, _TILE_VALUES // d)
    width = max(1, _TILE_VALUES // min(height, max(1, n)))
    for row in range(0, n, height):
        for feature in range(0, d, width):
            yield slice(row, row + height), slice(feature, feature + width)


def _add_squares(total: Floats, differences: Floats) -> None:
    """Adds the squares of each row of differences [n, w] to total [n], features in order."""
    squares = np.ascontiguousarray(differences.T)
    squares *= squares
    for feature in squares:
        total += feature


def all_scores(centers: Centers, rows: Rows) -> Floats:
    """float64 [n, k]: the score of each row [n, d] for each center."""
    total = np.zeros((len(rows), centers.k))
    columns = np.ascontiguousarray(centers.wide.T)
    step = max(1, 2**17 // centers.k)
    for start in range(0, len(rows), step):
        part = total[start : start + step]
        wide = rows[start : start + step].astype(np.float64)
        for feature in range(centers.d):
            difference = wide[:, feature, None] - columns[feature]
            difference *= difference
            part += difference
    total *= centers.score_factor
    zeros = directionless(centers, rows)
    if zeros is not None:
        total[zeros] = 1.0
    return total
