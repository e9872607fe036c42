"""Our centers, indices and scores beside those of TensorFlow's own class, which still runs.

Both are given the same rows, centers and batches. Where TensorFlow's float32 is wrong the measure
is a plain float64 reference, and the test's name says which defect it is.
"""

import dataclasses
import functools
import pathlib
import subprocess
import sys

import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import Block, KMeans, KMeansModel, LloydStep, MiniBatchStep, minibatch
from beam_kmeans.batches import intervals, shuffled
from beam_kmeans.errors import DataError
from beam_kmeans.tally import Rows
from beam_kmeans.values import unit_rows
from tests import data, oracles, tf_answers, tf_oracle
from tests.transforms import pipelines

METRICS = ["squared_euclidean", "cosine"]
ITERATIONS = 5
K = 6


def _random():
    return np.random.default_rng(3).normal(size=(600, 8)).astype(np.float32)


def _sphere():
    rows = np.random.default_rng(4).normal(size=(600, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _duplicated():
    random = np.random.default_rng(5)
    return random.permutation(np.repeat(random.normal(size=(60, 8)), 10, axis=0)).astype(np.float32)


def _offset():
    """Mean 5000, deviation 1: a float32 square of 200,000,000 has a spacing of 16."""
    return (np.random.default_rng(7).normal(size=(600, 8)) + 5000).astype(np.float32)


DATA = {
    "random": _random,
    "clustered": lambda: data.blobs(600, 8, K),
    "duplicated": _duplicated,
    "sphere": _sphere,
    "offset": _offset,
}
#: Data on which TensorFlow's float32 is right.
PLAIN = ["random", "clustered", "duplicated", "sphere"]
MODES = {"full batch": None, "S=1": 1, "S=4": 4}


@functools.cache
def rows_of(name):
    return DATA[name]()


def centers_of(name):
    return data.given_rows(rows_of(name), K, seed=2)


@functools.cache
def batches(steps):
    """Batches of 60 rows in a given order; the last one is smaller."""
    random = np.random.default_rng(6)
    return [random.permutation(600)[: 60 if i < 19 else 37] for i in range(steps)]


@functools.cache
def theirs(name, metric, mode):
    steps = MODES[mode]
    settings = {"metric": metric, "iterations": ITERATIONS}
    if steps:
        settings |= {"mode": "mini", "steps_per_iteration": steps}
        settings |= {"batches": batches(ITERATIONS * steps)}
    return tf_answers.ask(rows_of(name), centers_of(name), **settings)


@functools.cache
def ours(name, metric, mode):
    """The centers after 0, 1, ... iterations, and the rows' indices in them, a step at a time."""
    if MODES[mode] is None:
        return _full_batch(name, metric)
    return _mini_batch(name, metric, MODES[mode])


def _full_batch(name, metric):
    rows = rows_of(name)
    models = [
        KMeans(
            num_clusters=K,
            initial_clusters=centers_of(name),
            distance_metric=metric,
            max_iterations=iterations,
            tolerance=0,
            empty_clusters="keep",
        ).fit(rows)
        for iterations in range(ITERATIONS + 1)
    ]
    steps = [(model, rows) for model in models[:-1]]
    return [model.cluster_centers for model in models], steps


def _mini_batch(name, metric, steps):
    rows, all_batches = rows_of(name), batches(ITERATIONS * steps)
    start = model_of(centers_of(name), metric).cluster_centers
    learned = minibatch.Learned.start(start, metric, carried=steps == 1)
    centers, taken = [start], []
    for i in range(ITERATIONS):
        own = all_batches[i * steps : (i + 1) * steps]
        taken += [(model_of(learned.centers, metric), rows[numbers]) for numbers in own]
        parts = [Rows(rows[numbers], None, numbers) for numbers in own]
        learned, _ = minibatch.iteration(learned, parts, metric)
        centers.append(learned.centers)
    return centers, taken


def model_of(centers, metric):
    return KMeansModel(centers, 0.0, np.zeros(len(centers), np.int64), distance_metric=metric)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check_centers(found, expected, metric):
    """Within 1e-5 of each center's length; under cosine TensorFlow's S=1 leaves them not unit."""
    expected = unit(expected) if metric == "cosine" else expected.astype(np.float64)
    off = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert off.max() <= 1e-5


def check_index(model, rows, found):
    """The same but where the two scores differ by less than 1e-5."""
    own, every = model.predict(rows), model.transform(rows)
    places = np.arange(len(rows))
    near = np.abs(every[places, own] - every[places, found]) < 1e-5
    assert near[own != found].all()
    assert (own == found).mean() > 0.99


def check_scores(found, expected, rows, metric):
    """Within 1e-5, of 1 under cosine, else of the size of what float32 subtracts: |x|^2."""
    size = 1.0 if metric == "cosine" else float((rows.astype(np.float64) ** 2).sum(axis=1).max())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=3e-7 * size)
    if metric == "cosine" or size < 2:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", PLAIN)
class TestParity:
    def test_centers_of_five_iterations(self, name, metric, mode):
        found, _ = ours(name, metric, mode)
        expected = theirs(name, metric, mode)["iteration_centers"]
        assert len(found) == len(expected) == ITERATIONS + 1
        for own, other in zip(found, expected, strict=True):
            check_centers(own, other, metric)
        # The comparison says something: centers move by far more than the bound.
        assert np.abs(found[-1] - found[0]).max() > 0.05

    def test_index_and_score_of_every_row_of_every_step(self, name, metric, mode):
        answer, (_, steps) = theirs(name, metric, mode), ours(name, metric, mode)
        offsets = answer["step_offsets"]
        assert len(steps) == len(offsets) - 1
        for i, (model, rows) in enumerate(steps):
            part = slice(offsets[i], offsets[i + 1])
            check_index(model, rows, answer["step_idx"][part])
            check_scores(model.score_samples(rows), answer["step_scores"][part], rows, metric)
            loss = answer["step_loss"][i]
            assert model.score(rows) == pytest.approx(loss, rel=1e-5)

    def test_all_scores_of_the_final_centers(self, name, metric, mode):
        answer, rows = theirs(name, metric, mode), rows_of(name)
        # What TensorFlow infers with, so that only the scores are compared here.
        model = model_of(answer["final_centers"], metric)
        check_index(model, rows, answer["cluster_idx"])
        check_scores(model.score_samples(rows), answer["scores"], rows, metric)
        check_scores(model.transform(rows), answer["all_scores"], rows, metric)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("metric", METRICS)
def test_a_whole_fit_of_mini_batch_is_theirs_over_its_own_batches(metric, steps):
    rows = rows_of("clustered")
    kmeans = KMeans(
        K,
        centers_of("clustered"),
        metric,
        use_mini_batch=True,
        mini_batch_steps_per_iteration=steps,
        batch_size=70,
        random_seed=5,
        max_iterations=20 // steps,
        tolerance=0,
        max_no_improvement=None,
    )
    order = shuffled(5, np.arange(600))
    visits = [order[start:stop] for start, stop in intervals(5, 600, 0, 20 * 70)]
    own = np.split(np.concatenate(visits), 20)
    assert sorted(np.concatenate(own)[:600].tolist()) == [*range(600)]
    settings = {"mode": "mini", "steps_per_iteration": steps, "batches": own}
    answer = tf_answers.ask(
        rows, centers_of("clustered"), metric=metric, iterations=20 // steps, **settings
    )
    model = kmeans.fit(rows)
    check_centers(model.cluster_centers, answer["iteration_centers"][-1], metric)
    losses = answer["step_loss"].reshape(-1, steps).sum(axis=1)
    for record, loss in zip(model.history[:-1], losses, strict=True):
        assert record["batch_inertia"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        pytest.param("cosine", "full batch", marks=[pytest.mark.heavy, pytest.mark.quality]),
        pytest.param("squared_euclidean", "S=4", marks=[pytest.mark.heavy, pytest.mark.quality]),
        ("cosine", "S=1"),
    ],
)
def test_steps_in_a_users_own_pipeline(metric, mode):
    """Five steps in one pipeline, each from the result of the one before."""
    rows, steps = rows_of("clustered"), MODES[mode]

    def build(pipeline):
        before, found = model_of(centers_of("clustered"), metric).cluster_centers, []
        for i in range(ITERATIONS):
            blocks = [Block(rows)]
            if steps:
                own = batches(ITERATIONS * steps)[i * steps : (i + 1) * steps]
                blocks = [Block(rows[numbers]) for numbers in own]
            step = LloydStep(before, empty_clusters="keep", distance_metric=metric)
            if steps == 1:
                step = MiniBatchStep(before, distance_metric=metric)
            result = pipeline | f"Rows{i}" >> beam.Create(blocks) | f"Step{i}" >> step
            centers = result | f"Centers{i}" >> beam.Map(lambda one: one.cluster_centers)
            before = result if steps == 1 else centers
            found.append(centers | f"Number{i}" >> beam.Map(lambda one, place: (place, one), i))
        return found | beam.Flatten()

    expected = theirs("clustered", metric, mode)["iteration_centers"]
    found = pipelines.elements(build)
    assert sorted(place for place, _ in found) == [*range(ITERATIONS)]
    for place, centers in found:
        check_centers(centers, expected[place + 1], metric)


def _reference(name, metric, mode):
    """float32 centers after 0, 1, ... iterations: float64 throughout, rounded once an iteration."""
    steps, rows, start = MODES[mode], rows_of(name), centers_of(name)
    if metric == "cosine":
        # What is clustered is defined as the unit rows in float32.
        rows, start = unit_rows(rows)[0], unit_rows(start)[0]
    taken = batches(ITERATIONS * (steps or 1))
    means, count = start.astype(np.float64), np.ones(K)
    found = [start]
    for i in range(ITERATIONS):
        numbers = np.arange(len(rows))
        if steps:
            numbers = np.concatenate(taken[i * steps : (i + 1) * steps])
        labels = oracles.assign(rows[numbers], found[-1])
        for j in np.unique(labels):
            own = rows[numbers[labels == j]].astype(np.float64)
            before = count[j] if steps == 1 else 0
            means[j] = (before * means[j] + own.sum(axis=0)) / (before + len(own))
            count[j] += len(own)
        means = means.astype(np.float32).astype(np.float64)
        found.append((unit(means) if metric == "cosine" else means).astype(np.float32))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("metric", METRICS)
class TestFarFromTheOrigin:
    """|x|^2 - 2 x.c + |c|^2 in float32 keeps nothing of a distance of 16 beside 200,000,000."""

    def test_tensorflows_assignments_are_wrong_there(self, metric, mode):
        answer = theirs("offset", metric, mode)
        rows = rows_of("offset") if mode == "full batch" else rows_of("offset")[batches(1)[0]]
        every = answer["step_scores"]
        right = model_of(centers_of("offset"), metric).predict(rows)
        wrong = (answer["step_idx"][: len(rows)] != right).mean()
        assert wrong > 0.5
        assert metric == "cosine" or (every < 0).mean() > 0.3  # "squared" distances below 0

    def test_ours_are_right_to_a_float32_spacing(self, metric, mode):
        found, _ = ours("offset", metric, mode)
        for own, expected in zip(found, _reference("offset", metric, mode), strict=True):
            assert (np.abs(own - expected) <= np.spacing(np.abs(expected))).all()

    def test_our_index_and_scores_are_those_of_float64(self, metric, mode):
        _, steps = ours("offset", metric, mode)
        for model, rows in steps:
            measured = unit_rows(rows)[0] if metric == "cosine" else rows
            every = oracles.all_scores(measured, model.cluster_centers)
            np.testing.assert_array_equal(model.predict(rows), every.argmin(axis=1))
            half = 0.5 if metric == "cosine" else 1.0
            np.testing.assert_allclose(model.transform(rows), half * every, rtol=1e-12)
            assert (model.score_samples(rows) >= 0).all()


class TestOtherDefects:
    def test_an_empty_cluster_becomes_the_zero_vector_there_and_is_kept_here(self):
        rows = rows_of("clustered")
        centers = np.vstack([centers_of("clustered")[:-1], np.full((1, 8), 500, np.float32)])
        answer = tf_answers.ask(rows, centers)
        assert not answer["final_centers"][-1].any()
        model = _fit(rows, centers, max_iterations=1)
        assert model.cluster_centers[-1].tolist() == [500.0] * 8
        check_centers(model.cluster_centers[:-1], answer["final_centers"][:-1], "squared_euclidean")

    def test_an_empty_cluster_is_kept_by_mini_batch_in_both(self):
        rows = rows_of("clustered")
        centers = np.vstack([centers_of("clustered")[:-1], np.full((1, 8), 500, np.float32)])
        answer = tf_answers.ask(rows, centers, mode="mini", batches=batches(1))
        learned = minibatch.Learned.start(centers, "squared_euclidean")
        numbers = batches(1)[0]
        learned, _ = minibatch.iteration(learned, [Rows(rows[numbers], None, numbers)])
        check_centers(learned.centers, answer["final_centers"], "squared_euclidean")
        assert learned.centers[-1].tobytes() == centers[-1].tobytes()

    def test_small_clusters_shrink_there_by_a_millionth(self):
        rows = np.array([[1000, 3000], [-5000, 7000]], np.float32)
        answer = tf_answers.ask(rows, rows)
        assert (np.abs(answer["final_centers"]) < np.abs(rows)).all()
        assert _fit(rows, rows, max_iterations=1).cluster_centers.tolist() == rows.tolist()

    def test_a_row_of_zeros_has_two_scores_there_and_one_here(self):
        rows = np.array([[0, 0], [1, 0], [0, 2]], np.float32)
        answer = tf_answers.ask(rows, rows[1:], metric="cosine", iterations=0)
        assert answer["scores"][0] == 0.5
        assert answer["all_scores"][0].tolist() == [1.0, 1.0]
        model = model_of(rows[1:], "cosine")
        assert model.score_samples(rows)[0] == 1.0
        assert model.transform(rows)[0].tolist() == [1.0, 1.0]
        assert model.predict(rows)[0] == answer["cluster_idx"][0] == 0

    def test_a_center_of_zeros_wins_rows_there_and_is_refused_here(self):
        rows = np.array([[1, 0], [-1, 0], [0, 2]], np.float32)
        centers = np.array([[1, 0], [0, 0]], np.float32)
        answer = tf_answers.ask(rows, centers, metric="cosine", iterations=0)
        assert answer["cluster_idx"].tolist() == [0, 1, 1]  # similarity below a half
        with pytest.raises(ValueError, match="initial_clusters: center 1 is all zeros"):
            _fit(rows, centers, distance_metric="cosine")
        with pytest.raises(ValueError, match="center 1 is all zeros"):
            model_of(centers, "cosine")

    def test_published_centers_lag_an_iteration_there(self):
        start = centers_of("clustered")
        answer = theirs("clustered", "squared_euclidean", "S=4")
        # After the first iteration's four steps, and after the last iteration's, too.
        np.testing.assert_array_equal(answer["centers"][4], start)
        np.testing.assert_array_equal(answer["centers"][-1], answer["iteration_centers"][-2])
        found, _ = ours("clustered", "squared_euclidean", "S=4")
        check_centers(found[1], answer["iteration_centers"][1], "squared_euclidean")
        assert np.abs(found[1] - start).max() > 0.05

    def test_the_rate_counts_a_batch_twice_there_or_not(self):
        rows, start = np.array([[1], [1.2]], np.float32), np.array([[1]], np.float32)
        settings = {"mode": "mini", "batches": [np.arange(2)]}
        documented = tf_answers.ask(rows, start, **settings)["final_centers"].item()
        shipped = tf_answers.ask(rows, start, order="as_shipped", **settings)["final_centers"]
        learned = minibatch.Learned.start(start, "squared_euclidean")
        learned, _ = minibatch.iteration(learned, [Rows(rows, None, np.arange(2))])
        assert learned.centers.item() == pytest.approx((1 + 1 + 1.2) / 3, abs=1e-7)
        assert documented == pytest.approx(learned.centers.item(), abs=1e-6)
        # 1 / (n + 2m) instead of 1 / (n + m), when the counts are read too late.
        near = [abs(shipped.item() - rate) < 1e-6 for rate in (1 + 0.2 / 3, 1 + 0.2 / 5)]
        assert any(near)

    def test_running_means_under_cosine_are_not_unit_there(self):
        answer = theirs("clustered", "cosine", "S=1")
        lengths = np.linalg.norm(answer["iteration_centers"][-1], axis=1)
        assert lengths.min() < 0.99
        found, _ = ours("clustered", "cosine", "S=1")
        np.testing.assert_allclose(np.linalg.norm(found[-1], axis=1), 1, atol=1e-6)

    def test_a_value_that_is_no_number_spreads_there_and_is_refused_here(self):
        rows = rows_of("clustered").copy()
        rows[17, 3] = np.nan
        answer = tf_answers.ask(rows, centers_of("clustered"), iterations=2)
        assert np.isnan(answer["final_centers"][0]).any()
        assert not answer["final_centers"][1:].any()  # all rows have gone to center 0
        with pytest.raises(DataError, match="row 17, feature 3 is nan"):
            _fit(rows, centers_of("clustered"))
        model = model_of(centers_of("clustered"), "squared_euclidean")
        with pytest.raises(DataError, match="row 17, feature 3 is nan"):
            model.predict(rows)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("k", [2, 7])
    def test_equally_near_centers_are_the_lowest_in_both(self, metric, k):
        rows = np.random.default_rng(8).integers(-3, 4, (50, 4)).astype(np.float32)
        rows = rows[rows.any(axis=1)]
        centers = np.repeat(np.array([[2, 0, 0, 0]], np.float32), k, axis=0)
        answer = tf_answers.ask(rows, centers, metric=metric, iterations=0)
        assert not answer["cluster_idx"].any()
        assert not model_of(centers, metric).predict(rows).any()

    def test_equal_centers_win_by_their_place_in_the_product_there_and_the_lowest_here(self):
        """Beyond the last multiple of 4 Eigen multiplies in another order."""
        rows = rows_of("random")
        centers = np.repeat(rows[:1], 7, axis=0)
        answer = tf_answers.ask(rows, centers, iterations=0)
        assert {*answer["cluster_idx"].tolist()} <= {0, 4}
        assert not model_of(centers, "squared_euclidean").predict(rows).any()

    def test_fewer_distinct_rows_than_centers_repeat_one_there_and_are_refused_here(self):
        rows = np.repeat(np.array([[0, 0], [5, 5], [9, 0]], np.float32), 10, axis=0)
        settings = {"init": "kmeans_plus_plus", "num_clusters": 5, "iterations": 0}
        found = tf_answers.ask(rows, **settings, seed=1)["final_centers"]
        assert len(np.unique(found, axis=0)) < 5
        with pytest.raises(ValueError, match=r"num_clusters: 5 .*only 3"):
            KMeans(num_clusters=5, initial_clusters="kmeans_plus_plus").fit(rows)

    def test_random_rows_come_twice_there_and_never_here(self):
        rows = np.arange(20, dtype=np.float32).reshape(10, 2)
        settings = {"init": "random", "num_clusters": 5, "iterations": 0}
        twice = [
            len(np.unique(tf_answers.ask(rows, **settings, seed=seed)["final_centers"], axis=0)) < 5
            for seed in range(8)
        ]
        assert any(twice)
        for seed in range(20):
            kmeans = KMeans(num_clusters=5, initial_clusters="random", random_seed=seed)
            found = dataclasses.replace(kmeans, max_iterations=0).fit(rows).cluster_centers
            assert len(np.unique(found, axis=0)) == 5

    def test_chains_begin_with_row_0_there(self):
        rows, settings = rows_of("random"), {"init": "kmc2", "num_clusters": 3, "iterations": 0}
        for seed in range(3):
            found = tf_answers.ask(rows, **settings, seed=seed, kmc2_chain_length=20)
            assert found["final_centers"][0].tobytes() == rows[0].tobytes()
        drawn = set()
        for seed in range(5):
            kmeans = KMeans(num_clusters=3, initial_clusters="kmc2", random_seed=seed)
            drawn.add(dataclasses.replace(kmeans, max_iterations=0).fit(rows).cluster_centers[0, 0])
        assert len(drawn) > 1

    @pytest.mark.heavy
    @pytest.mark.quality
    @pytest.mark.timeout(600)
    def test_a_cluster_stops_at_16777216_rows_there(self):
        rows = np.zeros((20_000_000, 1), np.float32)
        rows[::2] = 1
        answer = tf_answers.ask(rows, rows[:1])
        assert answer["final_centers"].item() == pytest.approx(10_000_000 / 16_777_216)
        model = _fit(rows, rows[:1], max_iterations=1)
        assert model.cluster_centers.item() == 0.5
        assert model.counts.tolist() == [20_000_000]


def _fit(rows, centers, **settings):
    kmeans = KMeans(len(centers), centers, tolerance=0, empty_clusters="keep")
    return dataclasses.replace(kmeans, **settings).fit(rows)


@pytest.mark.heavy
@pytest.mark.quality
def test_the_oracle_agrees_with_a_reference_of_its_own():
    oracle = pathlib.Path(tf_oracle.__file__)
    done = subprocess.run(
        [sys.executable, str(oracle), "--self-test"], capture_output=True, text=True, timeout=300
    )
    assert "all checks passed" in done.stdout, done.stdout
