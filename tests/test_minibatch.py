"""Mini-batch against exact arithmetic written out, and against scikit-learn's own convergence."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from beam_kmeans import KMeans, batches, minibatch
from beam_kmeans.config import METRICS, Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.distances import Centers
from beam_kmeans.fitting import FitState
from beam_kmeans.in_memory import ShuffledMemory, fit
from beam_kmeans.lloyd import FarRows, Survey
from beam_kmeans.minibatch import BatchSurvey, Learned, iteration, survey_of
from beam_kmeans.statistics import Directionless
from beam_kmeans.tally import Rows
from tests import data, laws, oracles

ROWS = data.blobs(600, 4, 5)
WEIGHTS = (np.arange(600) % 5 / 2).astype(np.float32)
CENTERS = data.given_rows(ROWS, 6)


def rows_of(rows, weights=None):
    rows = np.asarray(rows, np.float32)
    return Rows(rows, weights, np.arange(len(rows)))


def parameters(**fields):
    usual = {
        "num_clusters": 6,
        "initial_clusters": CENTERS,
        "use_mini_batch": True,
        "batch_size": 100,
        "max_iterations": 5,
        "tolerance": 0.0,
        "max_no_improvement": None,
        "random_seed": 2,
    }
    return Parameters(**{**usual, **fields})


def batch(p, number, rows=600):
    """The numbers of the rows of an iteration."""
    size = min(p.batch_size, rows) * p.mini_batch_steps_per_iteration
    order = batches.shuffled(p.random_seed, np.arange(rows))
    places = batches.intervals(p.random_seed, rows, number * size, (number + 1) * size)
    return order[np.concatenate([np.arange(*one) for one in places])]


def unit(rows):
    """Rows over their float64 norms, rounded once."""
    rows = np.asarray(rows, np.float64)
    norms = np.sqrt(np.add.reduce((rows * rows).T))
    return (rows / np.where(norms == 0, 1, norms)[:, None]).astype(np.float32)


def running(centers, counts, rows, weights, labels):
    """The next means and counts, in exact arithmetic."""
    centers, counts = centers.copy(), counts.copy()
    for j in sorted({*labels}):
        own = labels == j
        m = sum(oracles.fractions(weights[own]), Fraction(0))
        if m == 0:
            continue
        n, sums = Fraction(counts[j]), oracles.column_sums(rows[own], weights[own])
        pairs = zip(oracles.fractions(centers[j]), sums, strict=True)
        centers[j] = [oracles.float32((n * c + s) / (n + m)) for c, s in pairs]
        counts[j] = float(n + m)
    return centers, counts


# One iteration


def test_a_step_worked_by_hand():
    # TensorFlow as shipped often gives 1.04 here, by a rate of 1 / (n + 2m).
    learned = Learned.start(np.array([[1.0]], np.float32), "squared_euclidean")
    learned, outcome = iteration(learned, [rows_of([[1.0], [1.2]])])
    assert learned.centers.tolist() == [[np.float32(1 + 0.2 / 3)]]
    assert learned.counts.tolist() == [3.0]
    assert float(outcome.measured.inertia) == pytest.approx(0.04, rel=1e-6)


def test_the_order_of_steps_matters_as_it_should():
    # c = (0, 10), batches {6}, {4.5}, from the documentation of the rule.
    def run(*order):
        learned = Learned.start(np.array([[0], [10]], np.float32), "squared_euclidean")
        for value in order:
            learned, _ = iteration(learned, [rows_of([[value]])])
        return learned.centers.ravel().tolist()

    assert run(6, 4.5) == [0, np.float32(20.5 / 3)]
    assert run(4.5, 6) == [3.5, 10]


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_steps_are_exact(weights):
    p = parameters()
    found = fit(MemoryDataset(ROWS, weights), p)
    centers, counts = CENTERS, np.ones(6)
    wide = np.ones(len(ROWS), np.float32) if weights is None else weights
    for record in found.state.history[:-1]:
        own = batch(p, record["iteration"])
        labels = oracles.assign(ROWS[own], centers)
        inertia = oracles.inertia(ROWS[own], centers, labels, wide[own])
        sizes = np.bincount(labels, wide[own], 6)
        new, counts = running(centers, counts, ROWS[own], wide[own], labels)
        moved = new.astype(np.float64) - centers.astype(np.float64)
        centers = new
        assert record["batch_inertia"] == float(inertia)
        assert record["shift"] == pytest.approx((moved**2).sum(), rel=1e-12)
        assert (record["smallest"], record["largest"]) == (sizes.min(), sizes.max())
        assert record["empty_clusters"] == (sizes == 0).sum()
        assert record["relocated"] == 0
    assert found.centers.tobytes() == centers.tobytes()
    labels = oracles.assign(ROWS, centers)
    assert found.state.history[-1]["inertia"] == float(
        oracles.inertia(ROWS, centers, labels, weights)
    )
    assert found.counts.tolist() == np.bincount(labels, minlength=6).tolist()


def test_steps_under_cosine_go_on_from_means():
    rows = ROWS - ROWS.mean(axis=0)
    rows[[3, 500]] = 0
    p = parameters(distance_metric="cosine", initial_clusters=rows[[1, 9, 77, 140, 300, 420]])
    found = fit(MemoryDataset(rows, WEIGHTS, "cosine"), p)
    units, means, counts = unit(rows), p.initial_clusters, np.ones(6)
    zeros = ~rows.any(axis=1)
    for record in found.state.history[:-1]:
        own = batch(p, record["iteration"])
        centers, directed = unit(means), ~zeros[own]
        labels = oracles.assign(units[own], centers)
        scores = np.where(directed, oracles.all_scores(units[own], centers).min(axis=1) / 2, 1)
        assert record["batch_inertia"] == pytest.approx((WEIGHTS[own] * scores).sum(), rel=1e-12)
        own, labels = own[directed], labels[directed]
        means, counts = running(means, counts, units[own], WEIGHTS[own], labels)
    assert np.abs(np.linalg.norm(means, axis=1) - 1).max() > 0.01
    assert found.centers.tobytes() == unit(means).tobytes()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_an_iteration_of_several_steps_is_the_mean_of_its_rows(weights):
    p = parameters(mini_batch_steps_per_iteration=4, max_iterations=3)
    found = fit(MemoryDataset(ROWS, weights), p)
    centers = CENTERS
    for number in range(3):
        own = batch(p, number)
        labels = oracles.assign(ROWS[own], centers)
        centers = oracles.exact_means(
            ROWS[own], labels, centers, None if weights is None else weights[own]
        )
    assert found.centers.tobytes() == centers.tobytes()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("carried", [True, False])
def test_centers_that_nothing_comes_to_keep_their_bytes(metric, carried):
    centers = np.array([[1, 0.1], [0.1, 1], [-1, -1]], np.float32)
    if metric == "cosine":
        centers = unit(centers)
    learned = Learned.start(centers, metric, carried)
    after, outcome = iteration(learned, [rows_of([[1, 0], [2, 0.5], [0.2, 1]])], metric)
    assert after.centers[2].tobytes() == centers[2].tobytes()
    assert (after.centers[:2] != centers[:2]).any(axis=1).all()
    assert outcome.measured.empty_clusters == 1
    if carried:
        assert after.counts.tolist() == [3, 2, 1]


def test_opposite_rows_leave_a_mean_without_a_direction():
    start = Learned.start(np.array([[1, 0]], np.float32), "cosine")
    after, _ = iteration(start, [rows_of([[-3, 0]])], "cosine")
    assert after.means.tolist() == [[0, 0]]
    assert after.centers.tolist() == [[1, 0]]
    later, _ = iteration(after, [rows_of([[0, 5]])], "cosine")
    assert later.centers.tolist() == [[0, 1]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("carried", [True, False])
def test_a_weight_counts_as_copies(metric, carried):
    rows, weights = ROWS[:150], (np.arange(150) % 4).astype(np.float32)
    copies = np.repeat(rows, weights.astype(int), axis=0)
    start = Learned.start(unit(CENTERS) if metric == "cosine" else CENTERS, metric, carried)
    one, first = iteration(start, [rows_of(rows, weights)], metric)
    other, second = iteration(start, [rows_of(copies)], metric)
    assert one.centers.tobytes() == other.centers.tobytes()
    assert first.measured.inertia == second.measured.inertia
    assert first.shift == second.shift
    assert (one.counts is None) or one.counts.tolist() == other.counts.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_surveys_of_parts_of_a_batch_are_a_monoid(metric):
    rows = ROWS[:300].copy()
    rows[5] = 0
    centers = Centers(unit(CENTERS) if metric == "cosine" else CENTERS, metric)
    parts = [
        survey_of(centers, [rows_of(rows, WEIGHTS[:300]).pick(slice(i, i + 77))], metric)[0]
        for i in range(0, 300, 77)
    ]

    def zero():
        return BatchSurvey(
            Survey(np.zeros(6, np.int64), None, FarRows.zero(4)), Fraction(0), Directionless()
        )

    def value(found):
        weights = found.survey.cluster_weights().to_fractions()
        return found.survey.counts.tolist(), weights, found.squares, found.directionless

    laws.check_monoid(zero, parts, value)
    whole = survey_of(centers, [rows_of(rows, WEIGHTS[:300])], metric)[0]
    assert value(laws.merged(zero, parts)) == value(whole)
    # The row of zeros is one of them, and those of weight 0 are too.
    assert whole.rows == laws.merged(zero, parts).rows == 300
    assert whole.directionless.rows == (metric == "cosine")


# Whole fits


def test_a_batch_holds_no_row_twice():
    p = parameters(batch_size=10_000, max_iterations=2)
    assert sorted(batch(p, 1).tolist()) == list(range(600))
    found = fit(MemoryDataset(ROWS), p)
    assert found.state.history[0]["batch_inertia"] == pytest.approx(
        oracles.all_scores(ROWS, CENTERS).min(axis=1).sum()
    )


def test_no_iterations_measure_the_initial_centers():
    found = fit(MemoryDataset(ROWS), parameters(max_iterations=0))
    assert found.centers.tobytes() == CENTERS.tobytes()
    assert [*found.state.history[0]][:2] == ["iteration", "inertia"]


def test_the_seed_decides_the_batches_alone():
    one, same = (fit(MemoryDataset(ROWS), parameters()) for _ in range(2))
    other = fit(MemoryDataset(ROWS), parameters(random_seed=3))
    assert one.centers.tobytes() == same.centers.tobytes()
    assert one.centers.tobytes() != other.centers.tobytes()


def test_a_fit_that_stops_and_goes_on_is_the_same_fit():
    p = parameters(max_iterations=6, distance_metric="cosine", tolerance=1e-9)
    whole = fit(MemoryDataset(ROWS, None, "cosine"), p)
    dataset = MemoryDataset(ROWS, None, "cosine")
    known = {
        "rows": 600,
        "mean_variance": dataset.statistics.mean_variance(),
        "exponents": dataset.statistics.exponents(),
    }
    source = ShuffledMemory(dataset, p.random_seed)
    learned, state = minibatch.first(p, p.initial_clusters), FitState()
    for _ in range(6):
        learned, state = minibatch.run(source, p, learned, state, 1, **known)
        state = FitState.from_json(json.loads(json.dumps(state.to_json())))
    assert learned.centers.tobytes() == whole.centers.tobytes()
    assert state.history == whole.state.history[:-1]


def test_as_good_as_scikit_learn():
    rows = data.blobs(5000, 8, 10, seed=3)
    model = KMeans(10, data.given_rows(rows, 10), use_mini_batch=True, batch_size=256).fit(rows)
    theirs = MiniBatchKMeans(
        10,
        init=data.given_rows(rows, 10),
        n_init=1,
        batch_size=256,
        reassignment_ratio=0,
        random_state=0,
    ).fit(rows)
    assert model.inertia < 1.1 * theirs.inertia_
    assert model.converged
    assert model.counts.sum() == 5000


# Convergence


class Theirs:
    """scikit-learn's rule, fed with records; its movement smoothed as its inertia is."""

    def __init__(self, p, mean_variance, rows):
        self.rule = MiniBatchKMeans(
            batch_size=p.batch_size, max_no_improvement=p.max_no_improvement
        )
        self.rule._batch_size = p.batch_size
        self.rule._ewa_inertia = self.rule._ewa_inertia_min = None
        self.rule._no_improvement, self.rule._tol = 0, p.tolerance * mean_variance
        self.rows, self.shift, self.alpha = rows, None, min(1, 2 * p.batch_size / (rows + 1))

    def says(self, record):
        shift = record["shift"]
        if record["iteration"]:
            before = self.shift
            self.shift = shift if before is None else before * (1 - self.alpha) + shift * self.alpha
        return self.rule._mini_batch_convergence(
            record["iteration"], 1000, self.rows, self.shift or 0.0, record["batch_inertia"]
        )


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"max_no_improvement": 3}, 200),
        ({"max_no_improvement": 1, "batch_size": 400}, 200),
        ({"tolerance": 3e-4}, 200),
        ({"tolerance": 3e-4, "max_no_improvement": 50}, 200),
        ({}, 30),
    ],
)
def test_it_ends_where_scikit_learns_rule_ends(fields, most):
    p = parameters(**fields, max_iterations=most)
    found = fit(MemoryDataset(ROWS), p)
    variance = float(ROWS.astype(np.float64).var(axis=0).mean())
    theirs = Theirs(p, variance, len(ROWS))
    said = [bool(theirs.says(record)) for record in found.state.history[:-1]]
    assert found.state.converged == said[-1] == bool(fields)
    assert not any(said[:-1])
    assert found.state.iteration == len(said)
    if found.state.trend.stalled:
        assert found.state.trend.inertia == theirs.rule._ewa_inertia
        assert found.state.trend.least == theirs.rule._ewa_inertia_min


def test_averages_are_over_the_rows_of_all_steps():
    trend = minibatch.smoothed(None, {"batch_inertia": 80.0, "shift": 4.0}, 40, 1000)
    assert dataclasses.astuple(trend) == (2.0, 4.0, 2.0, 0)
    trend = minibatch.smoothed(trend, {"batch_inertia": 120.0, "shift": 8.0}, 40, 799)
    assert dataclasses.astuple(trend) == (2.1, 4.4, 2.0, 1)
    # The same again is no improvement.
    trend = minibatch.smoothed(trend, {"batch_inertia": 80.0, "shift": 0.0}, 40, 79)
    assert dataclasses.astuple(trend) == (2.0, 0.0, 2.0, 2)
