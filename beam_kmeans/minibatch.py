"""Mini-batch: what the rows of an iteration change, and when a fit ends.

An iteration assigns `mini_batch_steps_per_iteration` x `batch_size` rows to the published centers,
which stay fixed in it, and then updates those that rows came to; the others keep their bytes.

- One step an iteration: a center is the mean of its start and of every row ever given to it. With
  n its count, 1 at the start, m the weight and s the weighted sum of the rows that came to it:
  c' = (n c + s) / (n + m), n' = n + m.
- Several steps: a center becomes the mean of the iteration's rows that came to it, and no count is
  carried on. This is one iteration of Lloyd's algorithm over these rows.

Sums are exact and a center is rounded to float32 once an iteration. Under cosine rows are unit, and
what is published is the direction of the mean; with one step an iteration the mean itself is what
the next one goes on from.

References:
    D. Sculley, "Web-scale k-means clustering", WWW 2010. The rule is that of TensorFlow's
    `contrib.factorization.KMeans`, without the lag of its publication; when a fit ends is
    scikit-learn's `MiniBatchKMeans`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from beam_kmeans import lloyd, rounding, sums
from beam_kmeans.batches import intervals
from beam_kmeans.config import Parameters
from beam_kmeans.distances import Centers
from beam_kmeans.fitting import FitState, Trend
from beam_kmeans.lloyd import Measure
from beam_kmeans.statistics import Directionless
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import LloydTally, Rows, directionless_of, in_metric
from beam_kmeans.values import unit_rows

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Learned:
    """What iterations have learned so far, of all centers or of a range of them.

    Attributes:
        centers: float32 [k, d], the published centers: rows are assigned to these.
        counts: float64 [k], the weight that each center has seen, its start counted as 1; None
            where an iteration has several steps, which carries no counts on.
        means: float32 [k, d], under cosine the means whose directions the centers are; None
            where the centers are the means themselves, or where there are no counts.
    """

    centers: Floats
    counts: Counts | None = None
    means: Floats | None = None

    @classmethod
    def start(cls, centers: Floats, distance_metric: str, carried: bool = True) -> Learned:
        """What is known before the first iteration: the initial centers, each seen once.

        Args:
            centers: float32 [k, d], under cosine unit.
            distance_metric: "squared_euclidean" or "cosine".
            carried: whether counts are carried on: with one step an iteration.
        """
        if not carried:
            return cls(centers)
        means = centers if distance_metric == "cosine" else None
        return cls(centers, np.ones(len(centers)), means)

    def part(self, start: int, stop: int) -> Learned:
        """What is known of the centers [start, stop)."""
        own = slice(start, stop)
        return Learned(
            self.centers[own],
            None if self.counts is None else self.counts[own],
            None if self.means is None else self.means[own],
        )


@dataclasses.dataclass
class BatchSurvey:
    """What the rows of an iteration say of the model as a whole; a monoid.

    Attributes:
        survey: counts and weights of the clusters.
        squares: exact sum of w |x|^2 of the rows as the metric measures them.
        directionless: rows of zeros under cosine.
    """

    survey: lloyd.Survey
    squares: Fraction
    directionless: Directionless

    @property
    def rows(self) -> int:
        """Of the iteration, whatever their weights."""
        return int(self.survey.counts.sum()) + self.directionless.rows

    def add(self, other: BatchSurvey) -> BatchSurvey:
        """Merges another's into this one, in place, and returns this one."""
        self.survey.add(other.survey)
        self.squares += other.squares
        self.directionless = self.directionless.add(other.directionless)
        return self


@dataclasses.dataclass(frozen=True)
class Update:
    """What an iteration makes of a range of centers, and its share of the model's numbers.

    Attributes:
        learned: of the range, after the iteration.
        cost: the share of the squared distances to the centers before, as `lloyd.RangeUpdate`'s.
        shift: the sum of squared distances that published centers moved.
    """

    learned: Learned
    cost: Fraction
    shift: Fraction


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an iteration says to the state of the fit.

    Attributes:
        measured: of the iteration's rows, to the centers before the update.
        shift: the sum of squared distances that published centers moved.
        rows: of the iteration.
    """

    measured: Measure
    shift: Fraction
    rows: int


def survey_of(
    centers: Centers,
    parts: Iterable[Rows],
    distance_metric: str,
    exponents: npt.NDArray[np.int32] | None = None,
) -> tuple[BatchSurvey, ExactSums]:
    """What rows say of their nearest centers, and the exact sums [k, d] of weight x row.

    Args:
        centers: the published centers.
        parts: the rows as they are in the data.
        distance_metric: "squared_euclidean" or "cosine".
        exponents: int32 [d] with |x| < 2**E for all values, in the metric; None if unknown.
    """
    squares, left_out = Fraction(0), Directionless()

    def measured() -> Iterator[Rows]:
        nonlocal squares, left_out
        for part in parts:
            own = in_metric(part, distance_metric)
            if len(own.rows) < len(part.rows):
                left_out = left_out.add(directionless_of(part, distance_metric))
            squares += _squares(own)
            yield own

    tally = LloydTally(centers, False, exponents)
    tally.include(measured())
    survey, totals = tally.result()
    return BatchSurvey(survey, squares, left_out), totals


def update(
    learned: Learned, totals: ExactSums, survey: lloyd.Survey, distance_metric: str, start: int = 0
) -> Update:
    """Moves a range [start, start + r) of centers by what came to them.

    Args:
        learned: of the range.
        totals: exact sums [r, d] of weight x row.
        survey: of the whole model.
        distance_metric: "squared_euclidean" or "cosine".
        start: the range's first center.
    """
    centers = learned.centers
    if learned.counts is None:
        own = lloyd.update_range(centers, totals, survey, [], start, distance_metric)
        return Update(Learned(own.centers), own.cost, own.shift)
    weights = survey.cluster_weights().part(start, start + len(centers))
    cost = lloyd.centers_cost(centers, totals, weights)
    hit = np.flatnonzero((weights.carried().digits != 0).any(axis=0))
    if not len(hit):
        return Update(learned, cost, Fraction(0))
    before = centers if learned.means is None else learned.means
    means, counts = before.copy(), learned.counts.copy()
    means[hit], counts[hit] = _running(before[hit], counts[hit], totals.at(hit), weights.at(hit))
    new = means
    if learned.means is not None:
        units, directed = unit_rows(means)
        # A mean of exactly 0 has no direction.
        new = np.where(directed[:, None], units, centers)
    moved = new.astype(np.float64) - centers.astype(np.float64)
    shift = sums.exact_sum(moved * moved)
    return Update(Learned(new, counts, learned.means if new is means else means), cost, shift)


def _running(
    means: Floats, counts: Counts, totals: ExactSums, weights: ExactSums
) -> tuple[Floats, Counts]:
    """(n c + s) / (n + m) and n + m, each computed exactly and rounded once."""
    wide = means.astype(np.float64)
    for half in sums.split(counts):
        # Of 26 bits, times 24 of a center: exact.
        totals.add_floats(half[:, None] * wide)
    weights.add_floats(counts)
    new = rounding.quotients(totals, weights)
    return new, weights.rounded()


def outcome_of(
    batch: BatchSurvey, shares: Sequence[tuple[Fraction, Fraction]], distance_metric: str
) -> Outcome:
    """Joins the costs and shifts of all ranges of centers."""
    costs, shifts = zip(*shares, strict=True)
    measured = lloyd.measure(
        batch.survey, costs, batch.squares, distance_metric, batch.directionless
    )
    return Outcome(measured, sum(shifts, Fraction(0)), batch.rows)


def iteration(
    learned: Learned,
    parts: Iterable[Rows],
    distance_metric: str = "squared_euclidean",
    exponents: npt.NDArray[np.int32] | None = None,
) -> tuple[Learned, Outcome]:
    """One iteration over the rows of these parts: of one step where counts are carried.

    Args:
        learned: before the iteration, of all centers.
        parts: the rows of the iteration, as they are in the data.
        distance_metric: "squared_euclidean" or "cosine".
        exponents: as in `survey_of`.

    Example:
        >>> learned = Learned.start(np.array([[0], [10]], np.float32), "squared_euclidean")
        >>> rows = Rows(np.array([[1], [2]], np.float32), None, np.arange(2))
        >>> learned, outcome = iteration(learned, [rows])
        >>> learned.centers.tolist(), learned.counts.tolist(), float(outcome.measured.inertia)
        ([[1.0], [10.0]], [3.0, 1.0], 5.0)
    """
    centers = Centers(learned.centers, distance_metric)
    batch, totals = survey_of(centers, parts, distance_metric, exponents)
    own = update(learned, totals, batch.survey, distance_metric)
    return own.learned, outcome_of(batch, [(own.cost, own.shift)], distance_metric)


def advance(
    state: FitState, parameters: Parameters, outcome: Outcome, mean_variance: float, rows: int
) -> FitState:
    """The state after an iteration.

    As scikit-learn's `MiniBatchKMeans`: the first iteration says nothing of convergence. Then the
    inertia a row and the squared movement are smoothed, by exponentially weighted averages, and
    the fit has converged when the movement is at most `tolerance` x the mean variance, or when the
    inertia had no new minimum for `max_no_improvement` iterations.

    Args:
        state: before it.
        parameters: of the fit.
        outcome: of the iteration.
        mean_variance: of the features, the scale of `tolerance`.
        rows: N.
    """
    measured = outcome.measured
    record = {
        "iteration": state.iteration,
        "batch_inertia": float(measured.inertia),
        "empty_clusters": measured.empty_clusters,
        "relocated": 0,
        "smallest": float(measured.cluster_weights.min()),
        "largest": float(measured.cluster_weights.max()),
        "shift": float(outcome.shift),
    }
    trend, converged = state.trend, False
    if state.iteration:
        trend = smoothed(state.trend, record, outcome.rows, rows)
        allowed = parameters.tolerance * mean_variance
        patience = parameters.max_no_improvement
        converged = (parameters.tolerance > 0 and trend.shift <= allowed) or (
            patience is not None and trend.stalled >= patience
        )
    return FitState(
        iteration=state.iteration + 1,
        history=(*state.history, record),
        converged=converged,
        trend=trend,
    )


def smoothed(trend: Trend | None, record: dict[str, Any], batch: int, rows: int) -> Trend:
    """The averages after a further record, of an iteration of `batch` rows out of N."""
    inertia, shift = record["batch_inertia"] / batch, record["shift"]
    if trend is None:
        return Trend(inertia, shift, inertia, 0)
    alpha = min(2.0 * batch / (rows + 1), 1.0)
    inertia = trend.inertia * (1 - alpha) + inertia * alpha
    shift = trend.shift * (1 - alpha) + shift * alpha
    if inertia < trend.least:
        return Trend(inertia, shift, inertia, 0)
    return Trend(inertia, shift, trend.least, trend.stalled + 1)


def step_rows(parameters: Parameters, rows: int) -> int:
    """Rows of a step: `batch_size`, or all N where there are fewer, so that none comes twice."""
    return min(parameters.batch_size, rows)


def batch_of(parameters: Parameters, rows: int, number: int) -> list[tuple[int, int]]:
    """The shuffled positions of the rows of an iteration, as ranges in the order of their visit."""
    size = step_rows(parameters, rows) * parameters.mini_batch_steps_per_iteration
    return intervals(parameters.random_seed, rows, number * size, (number + 1) * size)


class Shuffled(Protocol):
    """Rows by their shuffled positions."""

    def parts(self, positions: list[tuple[int, int]]) -> Iterator[Rows]:
        """Yields the rows at ranges of positions, as they are in the data."""


def run(
    source: Shuffled,
    parameters: Parameters,
    learned: Learned,
    state: FitState,
    iterations: int,
    *,
    rows: int,
    mean_variance: float,
    exponents: npt.NDArray[np.int32],
) -> tuple[Learned, FitState]:
    """Up to so many iterations over rows at hand, and what they come to.

    Args:
        source: the rows.
        parameters: of the fit.
        learned: before the iterations.
        state: before them.
        iterations: at most.
        rows: N.
        mean_variance: of the features, in the metric.
        exponents: int32 [d] with |x| < 2**E for all values, in the metric.
    """
    for _ in range(iterations):
        if state.is_last(parameters):
            break
        parts = source.parts(batch_of(parameters, rows, state.iteration))
        learned, outcome = iteration(learned, parts, parameters.distance_metric, exponents)
        state = advance(state, parameters, outcome, mean_variance, rows)
    return learned, state


def first(parameters: Parameters, centers: Floats) -> Learned:
    """What is known before the first iteration of a fit."""
    carried = parameters.mini_batch_steps_per_iteration == 1
    return Learned.start(centers, parameters.distance_metric, carried)


def _squares(part: Rows) -> Fraction:
    """The exact sum of w |x|^2."""
    wide = part.rows.astype(np.float64)
    wide *= wide
    if part.weights is None:
        return sums.exact_sum(wide)
    column = part.weights.astype(np.float64)[:, None]
    return sums.exact_sum(*(half * column for half in sums.split(wide)))
