"""What the tests of TensorFlow's class and kernels check, checked of ours; or our own rule.

The facts are those of `clustering_ops_test.py`, of the tests of its kernels and of the estimator's
`kmeans_test.py`; the code is ours. What the kernels of an initialisation do is in the tests of
seeding.
"""

import dataclasses
import functools

import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import (
    AssignClusters,
    Block,
    InitializeCenters,
    KMeans,
    KMeansModel,
    LloydStep,
    StackRows,
)
from tests import oracles
from tests.transforms import pipelines

K, N = 5, 1000


@functools.cache
def blobs():
    """Rows float32 [1000, 2] around 5 centers, and the sum of their squared offsets."""
    random = np.random.RandomState(3)
    middles = np.round(random.rand(K, 2) * 500)
    chosen = random.choice(K, N)
    offsets = np.round(random.randn(N, 2) * 20)
    rows = (middles[chosen] + offsets).astype(np.float32)
    return rows, float((offsets**2).sum())


# From random rows: k-means++ is at the optimum after one step.
KMEANS = KMeans(K, "random", tolerance=0, max_no_improvement=None)
#: The fits, and the iterations that are ten visits of all rows.
MODES = {
    "full batch": (KMEANS, 10),
    "S=1": (dataclasses.replace(KMEANS, use_mini_batch=True, batch_size=50), 200),
    "S=20": (
        dataclasses.replace(
            KMEANS, use_mini_batch=True, batch_size=50, mini_batch_steps_per_iteration=20
        ),
        10,
    ),
}


@functools.cache
def learned(mode, more):
    kmeans, many = MODES[mode]
    iterations = 1 + many if more else 1
    return dataclasses.replace(kmeans, max_iterations=iterations).fit(blobs()[0])


@pytest.mark.parametrize("mode", MODES)
class TestBlobs:
    def test_there_are_k_centers_after_one_step(self, mode):
        assert learned(mode, False).cluster_centers.shape == (K, 2)

    def test_the_score_falls_to_the_true_one(self, mode):
        rows, true = blobs()
        first, last = learned(mode, False).score(rows), learned(mode, True).score(rows)
        assert first > last
        assert last == pytest.approx(true, rel=0.05)
        assert learned(mode, True).inertia == pytest.approx(last, rel=1e-12)

    @pytest.mark.parametrize("rows", [10, 1])
    def test_rows_made_around_a_center_are_its_own(self, mode, rows):
        model, random = learned(mode, True), np.random.default_rng(rows)
        made = random.integers(0, K, rows)
        offsets = np.round(random.normal(0, 20, (rows, 2)))
        points = (model.cluster_centers[made] + offsets).astype(np.float32)
        np.testing.assert_array_equal(model.predict(points), made)
        assert model.score(points) == pytest.approx((offsets**2).sum(), rel=0.01)
        squares = ((points[:, None] - model.cluster_centers[None]) ** 2).sum(axis=2)
        np.testing.assert_allclose(model.transform(points), squares, rtol=0.05, atol=10)


def test_a_fit_without_a_limit_of_steps_ends_near_the_true_score():
    rows, true = blobs()
    model = KMeans(num_clusters=K, tolerance=1e-4).fit(rows)
    assert model.converged
    assert model.score(rows) == pytest.approx(true, rel=0.01)


def test_a_perfect_clustering_ends_too():
    """TensorFlow's estimator never stops at a loss of 0."""
    rows = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    model = KMeans(num_clusters=3, initial_clusters=np.eye(3)).fit(rows)
    assert (model.converged, model.inertia, len(model.history)) == (True, 0.0, 2)


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_columns_are_the_matrix_and_others_are_left_out(metric):
    rows = blobs()[0][:200]
    named = [
        {"y": float(y), "name": f"row {i}", "x": float(x), "id": i} for i, (x, y) in enumerate(rows)
    ]
    start = rows[:3]

    def step(blocks):
        return blocks | LloydStep(start, distance_metric=metric)

    (stacked,) = pipelines.elements(
        lambda p: step(p | beam.Create(named) | StackRows(features=["x", "y"], row_id="id"))
    )
    (matrix,) = pipelines.elements(lambda p: step(p | beam.Create([Block(rows, row_numbers=0)])))
    assert stacked.cluster_centers.tobytes() == matrix.cluster_centers.tobytes()
    assert stacked.inertia == matrix.inertia


def test_as_many_centers_as_rows_are_the_rows():
    rows = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 0]], np.float32)
    for name in ("random", "kmeans_plus_plus"):
        model = KMeans(num_clusters=5, initial_clusters=name, max_iterations=1).fit(rows)
        assert sorted(model.cluster_centers.tolist()) == sorted(rows.tolist())
    # One row a block: where the rows are does not matter.
    blocks = [Block(row[None], row_numbers=i) for i, row in enumerate(rows)]
    (centers,) = pipelines.apply(InitializeCenters(5, initial_clusters="random"), blocks)
    assert sorted(centers.tolist()) == sorted(rows.tolist())


def test_one_center_of_one_row_is_that_row():
    row = np.array([[3.5, -1]], np.float32)
    model = KMeans(num_clusters=1, initial_clusters="kmeans_plus_plus").fit(row)
    assert model.cluster_centers.tolist() == row.tolist()


@pytest.mark.parametrize("name", ["random", "kmeans_plus_plus", "kmc2", "afkmc2"])
def test_more_centers_than_rows_are_refused(name):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    with pytest.raises(ValueError, match=r"num_clusters: 5 .*4 rows"):
        KMeans(num_clusters=5, initial_clusters=name).fit(rows)


COSINE_MODES = {
    "full batch": {},
    "S=1": {"use_mini_batch": True, "batch_size": 2, "mini_batch_steps_per_iteration": 1},
    "S=4": {"use_mini_batch": True, "batch_size": 2, "mini_batch_steps_per_iteration": 4},
}


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check_cosine(model, rows, labels, atol=1e-2):
    """Centers, indices and scores are those of the groups' mean directions."""
    directions = unit(rows)
    right = unit([directions[labels == j].mean(axis=0) for j in range(labels.max() + 1)])
    own = model.predict(rows)
    np.testing.assert_allclose(model.cluster_centers[own], right[labels], atol=atol)
    np.testing.assert_allclose(np.linalg.norm(model.cluster_centers, axis=1), 1, atol=1e-6)
    similarity = directions @ model.cluster_centers.astype(np.float64).T
    np.testing.assert_allclose(model.transform(rows), 1 - similarity, atol=1e-6)
    assert model.score(rows) == pytest.approx((1 - similarity.max(axis=1)).sum(), abs=1e-5)
    true = (1 - (directions * right[labels]).sum(axis=1)).sum()
    assert model.score(rows) == pytest.approx(true, abs=1e-2)


@pytest.mark.parametrize("mode", COSINE_MODES)
def test_cosine_finds_two_axes(mode):
    rows = np.array([[2.5, 0.1], [2, 0.2], [3, 0.1], [4, 0.2]], np.float32)
    rows = np.concatenate([rows, rows[:, ::-1]])
    labels = np.repeat([0, 1], 4)
    started = []
    for seed in range(6):
        kmeans = KMeans(
            num_clusters=2,
            initial_clusters="random",
            distance_metric="cosine",
            random_seed=seed,
            max_iterations=40 if mode == "S=1" else 10,
            tolerance=0,
            max_no_improvement=None,
        )
        start = dataclasses.replace(kmeans, max_iterations=0).fit(rows).predict(rows)
        started.append(start[0] != start[-1] and start[:4].std() == start[4:].std() == 0)
        # With S=1 a center is a mean of all that it was ever given, so that what it was given
        # before the two parted stays in it.
        if mode != "S=1" or started[-1]:
            check_cosine(dataclasses.replace(kmeans, **COSINE_MODES[mode]).fit(rows), rows, labels)
    assert sum(started) >= 2


def test_cosine_finds_three_directions():
    random = np.random.RandomState(0)
    rows = np.array([[2.5, 3.5]] * 2 + [[-2, 3]] * 2, np.float32)
    rows = np.concatenate([rows, (random.randn(8, 2) * 0.1 - 3).astype(np.float32)])
    labels = np.array([0, 0, 1, 1] + [2] * 8)
    for seed in range(3):
        kmeans = KMeans(3, "kmeans_plus_plus", distance_metric="cosine", random_seed=seed)
        check_cosine(dataclasses.replace(kmeans, max_iterations=30).fit(rows), rows, labels)


def test_cosine_tells_directions_of_any_length():
    lengths = np.array([0.01, 0.5, 3, 40, 5000], np.float32)[:, None]
    rows = np.concatenate([lengths * [1, 1], lengths * [1, 1.5]]).astype(np.float32)
    labels = np.repeat([0, 1], 5)
    model = KMeans(2, "kmeans_plus_plus", distance_metric="cosine").fit(rows)
    check_cosine(model, rows, labels)
    by_distance = KMeans(2, "kmeans_plus_plus").fit(rows).predict(rows)
    assert len({*by_distance[:5].tolist()}) == 2  # by length, not by direction


@pytest.mark.parametrize("name", ["random", "kmeans_plus_plus", "kmc2", "afkmc2"])
def test_five_clusters_of_rows_of_zeros_are_refused_and_do_not_hang(name):
    """TensorFlow's class goes on with five equal centers; our rule is an error with the number."""
    with pytest.raises(ValueError, match=r"num_clusters: 5 .*only 1"):
        KMeans(num_clusters=5, initial_clusters=name).fit(np.zeros((20, 2), np.float32))


def test_five_given_centers_on_rows_of_zeros_are_one_step():
    rows = np.zeros((20, 2), np.float32)
    model = KMeans(5, np.zeros((5, 2)), max_iterations=1).fit(rows)
    assert model.counts.tolist() == [20, 0, 0, 0, 0]
    assert model.inertia == 0


class TestNearest:
    """TensorFlow's NearestNeighbors gives several; ours is the nearest one, and all scores."""

    POINTS = np.array([[100, 0], [101, 2], [99, 2], [1, 1]], np.float32)
    CENTERS = np.array([[100, 0], [99, 1], [50, 50], [0, 0], [1, 1]], np.float32)

    def test_four_points_by_hand(self):
        blocks = [Block(self.POINTS, row_numbers=0)]
        (found,) = pipelines.apply(AssignClusters(self.CENTERS, all_scores=True), blocks)
        assert found.cluster_index.tolist() == [0, 0, 1, 4]
        assert found.scores.tolist() == [0, 5, 1, 0]
        order = np.argsort(found.all_scores, axis=1, kind="stable")[:, :2]
        assert order.tolist() == [[0, 1], [0, 1], [1, 0], [4, 3]]
        two = np.take_along_axis(found.all_scores, order, axis=1)
        assert two.tolist() == [[0, 2], [5, 5], [1, 5], [0, 2]]

    def test_more_centers_than_a_block_of_the_kernel(self):
        random = np.random.RandomState(0)
        rows = random.rand(1000, 100).astype(np.float32)
        centers = random.rand(2000, 100).astype(np.float32)
        model = KMeansModel(centers, 0.0, np.zeros(2000, np.int64))
        every = oracles.all_scores(rows, centers)
        np.testing.assert_array_equal(model.predict(rows), every.argmin(axis=1))
        np.testing.assert_array_equal(model.transform(rows), every)
        np.testing.assert_array_equal(model.score_samples(rows), every.min(axis=1))
