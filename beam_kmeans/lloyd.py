"""Lloyd's iteration: what a pass brings home, and the next centers that follow from it.

The summary of a pass has two kinds of parts: a `Survey`, of the size of k, that every decision
about the whole model needs, and the sums of *ranges* of centers, so that nothing of the size of
k x d has to be in one place. Both are monoids.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from beam_kmeans import rounding, sums
from beam_kmeans.distances import Centers, scores
from beam_kmeans.errors import DataError
from beam_kmeans.sampling import row_hash
from beam_kmeans.statistics import Directionless
from beam_kmeans.sums import ExactSums

#: Far rows that come home from a pass, for empty clusters to move to.
FAR_ROWS = 64
#: Values (centers x features) of a range of centers.
RANGE_VALUES = 2**20
#: The key of the survey among the parts of a summary; ranges are numbered from 0.
SURVEY = -1
#: Values (centers x features) whose cost is summed at a time.
_COST_VALUES = 2**16


def ranges(k: int, d: int) -> list[tuple[int, int]]:
    """The [start, stop) of each range of centers; small k is one range."""
    step = max(1, RANGE_VALUES // d)
    return [(start, min(start + step, k)) for start in range(0, k, step)]


@dataclasses.dataclass
class FarRows:
    """The rows with the largest weight x score, lowest row number first, of distinct values.

    A row's score is that to its nearest center, which is the same for equal rows.
    """

    priorities: npt.NDArray[np.float64]  # [m], descending
    row_numbers: npt.NDArray[np.int64]  # [m]
    scores: npt.NDArray[np.float64]  # [m]
    indices: npt.NDArray[np.int32]  # [m], the cluster each row would leave
    weights: npt.NDArray[np.float32]  # [m]
    rows: npt.NDArray[np.float32]  # [m, d]

    @classmethod
    def zero(cls, d: int) -> FarRows:
        return cls(
            np.zeros(0),
            np.zeros(0, np.int64),
            np.zeros(0),
            np.zeros(0, np.int32),
            np.zeros(0, np.float32),
            np.zeros((0, d), np.float32),
        )

    @property
    def threshold(self) -> float:
        """No row with a smaller weight x score can be among the far rows."""
        return float(self.priorities[-1]) if len(self.priorities) >= FAR_ROWS else 0.0

    def add(self, other: FarRows) -> FarRows:
        """Merges another's into this one, in place, and returns this one."""
        pairs = [
            np.concatenate([getattr(self, field.name), getattr(other, field.name)])
            for field in dataclasses.fields(self)
        ]
        order = np.lexsort((pairs[1], -pairs[0]))
        kept = _first_of_each_value(pairs[2][order], pairs[5], order)[:FAR_ROWS]
        for field, pair in zip(dataclasses.fields(self), pairs, strict=True):
            setattr(self, field.name, pair[kept])
        return self

    def include(
        self,
        centers: Centers,
        rows: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32] | None,
        row_numbers: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int32],
        bounds: npt.NDArray[np.float64],
    ) -> None:
        """Takes in rows [n, d] of squared distances up to `bounds` [n]; below 0 leaves one out."""
        # Bounds can be infinite, which times a weight of 0 would be no number.
        upper = bounds.copy() if weights is None else np.where(weights > 0, bounds, -1.0) * weights
        upper *= centers.score_factor
        # At first there is no threshold: a few rows with the largest bounds soon give one.
        size = 2 * FAR_ROWS
        while True:
            (part,) = np.nonzero((upper >= self.threshold) & (upper > 0))
            if not len(part):
                return
            if len(part) > size:
                part = part[np.argpartition(-upper[part], size)[:size]]
            score = scores(centers, rows[part], indices[part])
            weight = np.ones(len(part), np.float32) if weights is None else weights[part]
            priority = score * weight
            upper[part] = -1.0
            far = (priority > 0) & (priority >= self.threshold)
            if far.any():
                which = part[far]
                found = FarRows(
                    priority[far],
                    row_numbers[which],
                    score[far],
                    indices[which],
                    weight[far],
                    rows[which],
                )
                self.add(found)


def _first_of_each_value(
    ordered_scores: npt.NDArray[np.float64],
    rows: npt.NDArray[np.float32],
    order: npt.NDArray[np.intp],
) -> npt.NDArray[np.intp]:
    """The places in `order` whose rows are the first of their value.

    Equal rows have equal scores, so only rows that share theirs need a closer look.
    """
    _, inverse, times = np.unique(ordered_scores, return_inverse=True, return_counts=True)
    first = np.ones(len(order), bool)
    seen: set[bytes] = set()
    for place in np.flatnonzero(times[inverse] > 1).tolist():
        value = row_hash(rows[order[place]])
        first[place] = value not in seen
        seen.add(value)
    return order[first]


@dataclasses.dataclass
class Survey:
    """What a pass says of all clusters of a model.

    Attributes:
        counts: int64 [k], rows.
        weights: exact sums [k] of weights; None where every weight is 1.
        far: rows that an empty cluster's center can move to.
    """

    counts: npt.NDArray[np.int64]
    weights: ExactSums | None
    far: FarRows

    def add(self, other: Survey) -> Survey:
        """Merges another's into this one, in place, and returns this one."""
        if self.weights is not None or other.weights is not None:
            self.weights = self.cluster_weights().add(other.cluster_weights())
        self.counts += other.counts
        self.far.add(other.far)
        return self

    def cluster_weights(self) -> ExactSums:
        """Exact sums [k] of the clusters' weights."""
        return ExactSums.of_integers(self.counts) if self.weights is None else self.weights


@dataclasses.dataclass
class Move:
    """An empty cluster's center moves to a far row, which leaves its donor."""

    empty: int
    donor: int
    row: npt.NDArray[np.float32]
    weight: float
    row_number: int


def relocations(survey: Survey) -> list[Move]:
    """Which far rows become the centers of the empty clusters, lowest cluster first.

    As scikit-learn relocates: the farthest row to the first empty cluster, taken out of its donor's
    sum. The last row of positive weight never leaves its donor; clusters that find no row wait.
    """
    exact = survey.cluster_weights()
    empty = np.flatnonzero(~(exact.carried().digits != 0).any(axis=0)).tolist()
    moves: list[Move] = []
    left: dict[int, Fraction] = {}
    far = survey.far
    for place in range(len(far.priorities)):
        if len(moves) == len(empty):
            break
        donor, weight = int(far.indices[place]), float(far.weights[place])
        if donor not in left:
            left[donor] = exact.part(donor, donor + 1).to_fraction()
        if left[donor] > Fraction(weight):
            left[donor] -= Fraction(weight)
            number = int(far.row_numbers[place])
            moves.append(Move(empty[len(moves)], donor, far.rows[place], weight, number))
    return moves


@dataclasses.dataclass
class RangeUpdate:
    """What updating one range of centers gives: the centers, and its share of the model's numbers.

    Attributes:
        centers: float32 [r, d], the next centers of the range.
        cost: the range's share of the squared distances to the centers before: sum_j W_j |c_j|^2 -
            2 c_j.S_j.
        shift: the sum of squared distances moved.
        rise: how much cost the rounding of the new centers can add.
    """

    centers: npt.NDArray[np.float32]
    cost: Fraction
    shift: Fraction
    rise: float


def update_range(
    centers: npt.NDArray[np.float32],
    totals: ExactSums,
    survey: Survey,
    moves: Sequence[Move],
    start: int,
    distance_metric: str = "squared_euclidean",
) -> RangeUpdate:
    """The next centers of the range [start, start + r): means, once rounded, and moved centers.

    Under cosine a center is the direction of its rows' sum, once rounded; where that sum is exactly
    0, as that of opposite rows is, the center stays.

    Args:
        centers: float32 [r, d], the range's centers before.
        totals: exact sums [r, d] of weight x row of the range's clusters.
        survey: of the whole model.
        moves: of the whole model.
        start: the range's first center.
        distance_metric: under cosine the sums are of unit rows.
    """
    stop = start + len(centers)
    weights = survey.cluster_weights().part(start, stop)
    cost = centers_cost(centers, totals, weights)
    totals = totals.part(0, len(centers))
    for move in moves:
        if start <= move.donor < stop:
            _take_out(totals, weights, move.donor - start, move)
    new, rise = centers.copy(), 0.0
    filled = np.flatnonzero((weights.carried().digits != 0).any(axis=0))
    if len(filled):
        kept = ExactSums(
            (len(filled), totals.shape[1]), totals.low, totals.digits[:, filled], totals.pending
        )
        own = ExactSums((len(filled),), weights.low, weights.digits[:, filled])
        if distance_metric == "cosine":
            new[filled], rise = _directions(centers[filled], kept, own)
        else:
            new[filled] = rounding.quotients(kept, own)
            spacings = rounding.half_spacing(new[filled]) ** 2
            rise = float((own.to_float64()[:, None] * spacings).sum())
    for move in moves:
        if start <= move.empty < stop:
            new[move.empty - start] = move.row
    moved = new.astype(np.float64) - centers.astype(np.float64)
    return RangeUpdate(new, cost, sums.exact_sum(moved * moved), rise)


def _directions(
    before: npt.NDArray[np.float32], totals: ExactSums, weights: ExactSums
) -> tuple[npt.NDArray[np.float32], float]:
    """The directions of sums [m, d] of weights [m], and how much cost their rounding can add."""
    found, directed = rounding.directions(totals)
    # With a cost of W |c|^2 / 2 - c.S and u = S / |S|, of all unit vectors the best: from v + f to
    # u + e it rises by at most e.(W u - S) + W |e|^2 / 2 + f.(S - W v) - W |f|^2 / 2 - D, where D =
    # |S| - v.S, |S - W v|^2 = (W - |S|)^2 + 2 W D, and sqrt(2 W D) |f| - D <= W |f|^2 / 2. In all
    # |W - |S|| (|e| + |f|) + W |e|^2 / 2, for v the old center's own direction: |f| = ||c| - 1|.
    weight, wide = weights.to_float64(), totals.to_float64()
    slack = (found.shape[1] + 8) * 2.0**-50
    scale = np.abs(wide).max(axis=1)
    scale[scale == 0] = 1.0
    lengths = _lengths(wide / scale[:, None]) * scale
    gap = np.abs(weight - lengths) + weight * slack
    old = np.abs(_lengths(before.astype(np.float64)) - 1) + slack
    new = _lengths(rounding.half_spacing(found)) * (1 + slack)
    rises = gap * (old + new) + weight * new**2 / 2
    return np.where(directed[:, None], found, before), math.fsum(rises[directed].tolist())


def _lengths(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [m]: the lengths of vectors [m, d], features in order."""
    squares = np.zeros(len(vectors))
    for column in np.ascontiguousarray(vectors.T):
        squares += column * column
    return np.sqrt(squares)


def centers_cost(
    centers: npt.NDArray[np.float32], totals: ExactSums, weights: ExactSums
) -> Fraction:
    """sum_j W_j |c_j|^2 - 2 c_j.S_j, exactly: with sum w |x|^2 the squared distances' sum."""
    total, (k, d) = Fraction(0), centers.shape
    step = max(1, _COST_VALUES // d)
    for start in range(0, k, step):
        stop = min(start + step, k)
        wide = centers[start:stop].astype(np.float64)
        own = weights.part(start, stop).reshaped((stop - start, 1))
        parts = sums.products(totals.part(start, stop), -2 * wide)
        for half in sums.split(wide * wide):
            parts += sums.products(own, half)
        total += sums.exact_sum(*parts)
    return total


def _take_out(totals: ExactSums, weights: ExactSums, donor: int, move: Move) -> None:
    change = np.zeros(totals.shape)
    change[donor] = move.row.astype(np.float64) * -move.weight
    totals.add_floats(change)
    lighter = np.zeros(weights.shape)
    lighter[donor] = -move.weight
    weights.add_floats(lighter)


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a pass says of the centers it was given: a record of `history`, and the counts.

    Attributes:
        inertia: the exact sum of weight x score.
        counts: int64 [k].
        cluster_weights: float64 [k].
        empty_clusters: clusters of weight 0, rows without a direction not counted.
    """

    inertia: Fraction
    counts: npt.NDArray[np.int64]
    cluster_weights: npt.NDArray[np.float64]
    empty_clusters: int


def measure(
    survey: Survey,
    costs: Iterable[Fraction],
    sum_of_squares: Fraction,
    distance_metric: str = "squared_euclidean",
    directionless: Directionless | None = None,
) -> Measure:
    """Joins the ranges' costs with the exact sum of w |x|^2 of the data, and rows of zeros.

    Args:
        survey: of the whole model.
        costs: of all ranges.
        sum_of_squares: of the rows as they were measured.
        distance_metric: under cosine a score is half a squared distance.
        directionless: rows that were not measured: of cluster 0, each with a score of 1. Whether
            cluster 0 is empty does not depend on them.

    Raises:
        DataError: the parts do not belong together.
    """
    exact = survey.cluster_weights()
    weights, counts = exact.to_float64(), survey.counts.copy()
    empty = int(np.count_nonzero(weights == 0))
    inertia = sum(costs, sum_of_squares)
    if distance_metric == "cosine":
        inertia /= 2
    if directionless is not None and directionless.rows:
        counts[0] += directionless.rows
        weights[0] = float(exact.part(0, 1).to_fraction() + directionless.weight)
        inertia += directionless.weight
    if inertia < 0:
        raise DataError(
            f"the inertia came out as {float(inertia)!r}: the sums of a pass and the statistics of "
            "the dataset are not of the same rows"
        )
    return Measure(inertia, counts, weights, empty)


def check_cost(iteration: int, before: Fraction, after: Fraction, rise: float, d: int) -> None:
    """Fails where the cost rose by more than the rounding of the centers can explain.

    Beside the centers' rounding, rows whose float64 scores tie can be a rounding away from their
    nearest center.

    Raises:
        DataError: names both costs and the bound.
    """
    bound = Fraction(rise) * Fraction(1.000001) + before * Fraction((d + 4) * 2.0**-51)
    if after > before + bound:
        raise DataError(
            f"iteration {iteration}: the cost rose from {float(before)!r} to {float(after)!r}, by "
            f"more than the {float(bound)!r} that rounding can explain; this is a bug in "
            "beam_kmeans or a fault of the machine: please report it"
        )
