"""Where data and k hardly go together: for every initialiser, metric and kind of update, a defined
end or an error, the same in memory and through a run over files.
"""

import dataclasses
import itertools
import pathlib
import re
import tempfile

import numpy as np
import pytest

from beam_kmeans import KMeans, minibatch
from beam_kmeans.config import checked_centers
from beam_kmeans.errors import DataError
from beam_kmeans.tally import Rows
from beam_kmeans.values import unit_rows
from tests import data, tables

METRICS = ["squared_euclidean", "cosine"]
UPDATES = {
    "full batch": {},
    "S=1": {"use_mini_batch": True, "batch_size": 4},
    "S=4": {"use_mini_batch": True, "batch_size": 4, "mini_batch_steps_per_iteration": 4},
}
#: Distinct rows, of distinct directions.
ROWS = data.blobs(600, 3, 5)[:7]


def first_rows(rows, k):
    """A function that chooses centers: it sees that rows are repeated."""
    distinct = np.unique(rows, axis=0)
    return distinct[:k]


INITIALISERS = {
    "random": "random",
    "kmeans_plus_plus": "kmeans_plus_plus",
    "kmc2": "kmc2",
    "afkmc2": "afkmc2",
    "callable": first_rows,
    "given": None,
}
NAMED = ["random", "kmeans_plus_plus", "kmc2", "afkmc2"]


def kmeans_of(initialiser, k, metric, update, given=None, **settings):
    initial = INITIALISERS[initialiser]
    if initialiser == "given":
        initial = np.resize(ROWS if given is None else given, (k, 3))
    fields = {"distance_metric": metric, "max_iterations": 6, **UPDATES[update], **settings}
    return KMeans(k, initial, **fields)


def measured(rows, metric):
    if metric == "squared_euclidean":
        return rows.astype(np.float64)
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check(model, rows, k, metric):
    """What holds of every model: shapes, finite values, and what it says of its own rows."""
    assert model.cluster_centers.shape == (k, rows.shape[1])
    assert np.isfinite(model.cluster_centers).all()
    assert model.counts.sum() == len(rows)
    np.testing.assert_array_equal(np.bincount(model.predict(rows), minlength=k), model.counts)
    assert model.inertia == pytest.approx(model.score(rows), rel=1e-6, abs=1e-9)
    assert model.inertia >= 0
    assert [record["iteration"] for record in model.history] == [*range(len(model.history))]
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(model.cluster_centers, axis=1), 1, atol=1e-6)


def fit_in_memory(kmeans, rows, tmp_path):
    return kmeans.fit(rows)


def fit_files(kmeans, rows, tmp_path):
    tmp_path.mkdir(exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
    pattern = tables.write(folder / "in", rows, "npy", files=min(2, len(rows)))
    return kmeans.fit(pattern, work_dir=folder / "work")


EVERY = [
    (initialiser, metric, update)
    for initialiser in INITIALISERS
    for metric in METRICS
    for update in UPDATES
]
#: Through files a few of one edge each.
SOME = [
    ("kmeans_plus_plus", "cosine", "full batch"),
    ("afkmc2", "squared_euclidean", "S=4"),
    ("given", "cosine", "S=1"),
]
#: In memory each initialiser by default with three of the six.
USUAL = [("squared_euclidean", "full batch"), ("cosine", "S=1"), ("cosine", "S=4")]
WAYS = [
    pytest.param(
        fit_in_memory,
        *one,
        id="-".join(["memory", *one]),
        marks=() if one[1:] in USUAL else (pytest.mark.heavy, pytest.mark.quality),
    )
    for one in EVERY
] + [
    pytest.param(
        fit_files,
        *one,
        id="-".join(["files", *one]),
        marks=(pytest.mark.heavy, pytest.mark.quality, pytest.mark.timeout(600)),
    )
    # Each initialiser with two of the six, another two than the one before it.
    for place, one in enumerate(EVERY)
    if (place + place // 6) % 3 == 0
]
EVERY_WAY = pytest.mark.parametrize(("fit", "initialiser", "metric", "update"), WAYS)


@EVERY_WAY
def test_every_edge(fit, initialiser, metric, update, tmp_path):
    for edge in EDGES:
        folder = tmp_path / edge.__name__
        edge(lambda kmeans, rows, at=folder: fit(kmeans, rows, at), initialiser, metric, update)


@pytest.mark.heavy
@pytest.mark.quality
@pytest.mark.parametrize(("initialiser", "metric", "update"), SOME)
def test_an_edge_through_files(initialiser, metric, update, tmp_path):
    edge = EDGES[SOME.index((initialiser, metric, update)) * 2]
    edge(lambda kmeans, rows: fit_files(kmeans, rows, tmp_path), initialiser, metric, update)


def one_cluster(fit, initialiser, metric, update):
    """k = 1: the mean; S=1 counts its start as one more row, and goes on counting."""
    model = fit(kmeans_of(initialiser, 1, metric, update), ROWS)
    check(model, ROWS, 1, metric)
    mean = measured(ROWS, metric).mean(axis=0)
    if metric == "cosine":
        mean /= np.linalg.norm(mean)
    if update == "full batch":
        np.testing.assert_allclose(model.cluster_centers[0], mean, rtol=1e-6, atol=1e-7)


def as_many_clusters_as_rows(fit, initialiser, metric, update):
    """k = N: every row is a center, inertia 0."""
    model = fit(kmeans_of(initialiser, len(ROWS), metric, update), ROWS)
    check(model, ROWS, len(ROWS), metric)
    assert model.counts.tolist() == [1] * len(ROWS)
    assert model.inertia == pytest.approx(0, abs=1e-12)
    assert len({*model.predict(ROWS).tolist()}) == len(ROWS)


def more_clusters_than_rows(fit, initialiser, metric, update):
    """k > N: an error that names both numbers, whoever gives the centers."""
    with pytest.raises(DataError, match=r"num_clusters: 8 clusters are asked of 7 rows"):
        fit(kmeans_of(initialiser, 8, metric, update), ROWS)


def more_clusters_than_distinct_rows(fit, initialiser, metric, update):
    """Drawn or chosen: an error with their number. Given centers: taken as they are."""
    rows = np.tile(ROWS[:2], (4, 1))
    kmeans = kmeans_of(initialiser, 3, metric, update, given=ROWS[[0, 1, 1]])
    if initialiser == "given":
        model = fit(kmeans, rows)
        check(model, rows, 3, metric)
        assert model.counts.tolist() == [4, 4, 0]
        assert model.inertia == pytest.approx(0, abs=1e-12)
        return
    words = r"num_clusters: 3 distinct rows are needed.* only 2 "
    if initialiser == "callable":
        words = r"initial_clusters \(.*first_rows\): 2 of 3 centers .* all the distinct rows"
    with pytest.raises(ValueError, match=words):
        fit(kmeans, rows)


def equal_rows(fit, initialiser, metric, update):
    """All rows equal: one cluster is that row; two are an error, or one of them empty."""
    rows = np.repeat(ROWS[:1], 9, axis=0)
    model = fit(kmeans_of(initialiser, 1, metric, update), rows)
    check(model, rows, 1, metric)
    right = measured(ROWS[:1], metric)
    np.testing.assert_allclose(model.cluster_centers, right, rtol=1e-6)
    assert model.inertia == pytest.approx(0, abs=1e-12)
    if initialiser == "given":
        model = fit(kmeans_of(initialiser, 2, metric, update, given=ROWS[[0, 0]]), rows)
        check(model, rows, 2, metric)
        assert model.counts.tolist() == [9, 0]


def one_row(fit, initialiser, metric, update):
    """N = 1: it is the center."""
    model = fit(kmeans_of(initialiser, 1, metric, update), ROWS[:1])
    check(model, ROWS[:1], 1, metric)
    np.testing.assert_allclose(model.cluster_centers, measured(ROWS[:1], metric), rtol=1e-6)
    assert (model.counts.tolist(), model.inertia) == ([1], pytest.approx(0, abs=1e-12))


EDGES = [
    as_many_clusters_as_rows,
    more_clusters_than_rows,
    one_cluster,
    more_clusters_than_distinct_rows,
    equal_rows,
    one_row,
]


class TestEmptyClusters:
    """A cluster that empties at every iteration."""

    #: The second center is empty whatever happens: no row is nearer to it than to its equal.
    FLAT = np.repeat(np.array([[2, 0, 1]], np.float32), 8, axis=0)
    START = np.array([[2, 0, 1], [-2, 0, -1]], np.float32)

    @pytest.mark.parametrize("empty_clusters", ["keep", "relocate"])
    @pytest.mark.parametrize("update", UPDATES)
    @pytest.mark.parametrize("metric", METRICS)
    def test_that_nothing_can_fill_stays_where_it_is(self, metric, update, empty_clusters):
        kmeans = kmeans_of("given", 2, metric, update, given=self.START, tolerance=0)
        kmeans = dataclasses.replace(kmeans, empty_clusters=empty_clusters)
        model = kmeans.fit(self.FLAT)
        check(model, self.FLAT, 2, metric)
        assert model.counts.tolist() == [8, 0]
        start = unit_rows(self.START)[0] if metric == "cosine" else self.START
        assert model.cluster_centers[1].tobytes() == start[1].tobytes()
        assert {record["empty_clusters"] for record in model.history} == {1}
        assert {record["relocated"] for record in model.history} == {0}

    @pytest.mark.parametrize("update", UPDATES)
    @pytest.mark.parametrize("metric", METRICS)
    def test_is_kept_at_every_iteration(self, metric, update):
        rows = np.abs(data.blobs(300, 3, 4))
        far = np.array([[-900, -900, -900]], np.float32)
        given = np.concatenate([rows[:3], far])
        kmeans = kmeans_of("given", 4, metric, update, given=given, tolerance=0)
        model = dataclasses.replace(kmeans, empty_clusters="keep").fit(rows)
        check(model, rows, 4, metric)
        assert model.counts[3] == 0
        assert {record["empty_clusters"] for record in model.history} >= {1}
        end = unit_rows(far)[0] if metric == "cosine" else far
        assert model.cluster_centers[3].tobytes() == end[0].tobytes()

    @pytest.mark.parametrize("metric", METRICS)
    def test_is_filled_where_rows_are_far(self, metric):
        rows = data.blobs(300, 3, 4)
        given = np.concatenate([rows[:1]] * 4)  # three of four are empty, and are again
        model = kmeans_of("given", 4, metric, "full batch", given=given, tolerance=0).fit(rows)
        check(model, rows, 4, metric)
        assert model.history[0]["empty_clusters"] == 3
        assert model.history[0]["relocated"] > 0
        assert (model.counts > 0).all()

    @pytest.mark.parametrize(
        ("update", "empty_clusters"),
        [("full batch", "keep"), ("full batch", "relocate"), ("S=1", "keep"), ("S=4", "keep")],
    )
    @pytest.mark.parametrize("metric", METRICS)
    def test_many_small_fits_end_well(self, metric, update, empty_clusters):
        """Whole numbers, many equal: ties, empty clusters, fewer rows than centers."""
        for seed in range(12):
            random = np.random.default_rng(seed)
            n, k = int(random.integers(1, 30)), int(random.choice([3, 8]))
            rows = random.integers(-1, 3, (n, 3)).astype(np.float32)
            given = random.integers(-2, 3, (k, 3)).astype(np.float32)
            given[~given.any(axis=1)] = 1
            kmeans = kmeans_of("given", k, metric, update, given=given)
            kmeans = dataclasses.replace(
                kmeans, empty_clusters=empty_clusters, tolerance=0, max_no_improvement=None
            )
            directed = rows.any(axis=1).sum() if metric == "cosine" else n
            if directed < k:
                with pytest.raises(DataError, match=r"num_clusters|no direction"):
                    kmeans.fit(rows)
                continue
            model = kmeans.fit(rows)
            check(model, rows, k, metric)
            if update == "full batch":
                costs = [record["inertia"] for record in model.history]
                assert all(b <= a + 1e-5 for a, b in itertools.pairwise(costs))


class TestRowsOfZeros:
    """Under cosine they have no direction: of cluster 0, score 1, and nothing follows from them."""

    @pytest.mark.parametrize("update", UPDATES)
    @pytest.mark.parametrize("initialiser", INITIALISERS)
    def test_are_counted_and_change_no_center(self, initialiser, update):
        rows = np.concatenate([data.blobs(200, 3, 3), np.zeros((5, 3), np.float32)])
        kmeans = kmeans_of(initialiser, 3, "cosine", update, max_iterations=3)
        model = kmeans.fit(rows)
        check(model, rows, 3, "cosine")
        assert model.predict(rows[200:]).tolist() == [0] * 5
        assert model.score_samples(rows[200:]).tolist() == [1.0] * 5
        assert model.transform(rows[200:]).tolist() == [[1.0] * 3] * 5
        if update == "full batch":
            without = kmeans.fit(rows[:200])
            # A function is given a sample without them; so is everything else.
            assert model.cluster_centers.tobytes() == without.cluster_centers.tobytes()
            assert model.inertia == pytest.approx(without.inertia + 5)
            assert (model.counts - without.counts).tolist() == [5, 0, 0]

    @pytest.mark.parametrize("update", UPDATES)
    @pytest.mark.parametrize("initialiser", INITIALISERS)
    def test_alone_are_refused(self, initialiser, update):
        with pytest.raises(DataError, match="all 4 rows are zeros, which have no direction"):
            kmeans_of(initialiser, 1, "cosine", update).fit(np.zeros((4, 3)))


class TestWeightsAreCopies:
    """A row of weight w is w rows: exactly, where nothing is drawn."""

    @staticmethod
    def _both(seed=0):
        rows = data.blobs(200, 3, 4)
        weights = np.random.default_rng(seed).integers(0, 5, len(rows))
        return rows, weights.astype(np.float32), np.repeat(rows, weights, axis=0)

    @pytest.mark.parametrize("empty_clusters", ["keep", "relocate"])
    @pytest.mark.parametrize("metric", METRICS)
    def test_in_full_batch(self, metric, empty_clusters):
        rows, weights, copies = self._both()
        kmeans = kmeans_of("given", 5, metric, "full batch", given=rows[:5], tolerance=0)
        kmeans = dataclasses.replace(kmeans, empty_clusters=empty_clusters)
        one, other = kmeans.fit(rows, sample_weight=weights), kmeans.fit(copies)
        assert one.cluster_centers.tobytes() == other.cluster_centers.tobytes()
        assert one.inertia == other.inertia
        assert one.history == other.history
        assert one.score(rows, weights) == pytest.approx(other.score(copies), rel=1e-12)

    @pytest.mark.parametrize("steps", [1, 4])
    @pytest.mark.parametrize("metric", METRICS)
    def test_in_a_step_of_mini_batch(self, metric, steps):
        rows, weights, copies = self._both()
        start = checked_centers("start", rows[:5], metric)
        found = []
        for own, weight in ((rows, weights), (copies, None)):
            learned = minibatch.Learned.start(start, metric, carried=steps == 1)
            for _ in range(3):
                part = Rows(own, weight, np.arange(len(own)))
                learned, outcome = minibatch.iteration(learned, [part], metric)
            found.append((learned, outcome))
        (one, a), (other, b) = found
        assert one.centers.tobytes() == other.centers.tobytes()
        assert (a.measured.inertia, a.shift) == (b.measured.inertia, b.shift)
        if steps == 1:
            assert one.counts.tobytes() == other.counts.tobytes()

    @pytest.mark.parametrize("initialiser", NAMED)
    @pytest.mark.parametrize("update", UPDATES)
    def test_rows_of_no_weight_are_no_rows_but_counted(self, initialiser, update):
        rows = data.blobs(200, 3, 4)
        weights = np.ones(205, np.float32)
        weights[200:] = 0
        far = np.concatenate([rows, np.full((5, 3), 1e4, np.float32)])
        model = kmeans_of(initialiser, 4, "squared_euclidean", update, max_iterations=3).fit(
            far, sample_weight=weights
        )
        assert np.abs(model.cluster_centers).max() < 100
        assert model.counts.sum() == 205
        assert model.inertia < 1e4


def _messages():
    """What is raised in each case that the README quotes."""
    two, eight = np.tile(ROWS[:2], (4, 1)), ROWS[:7]
    axes = np.eye(3, dtype=np.float32)
    broken = np.array([[1, 1], [np.nan, 1]])
    return [
        (KMeans(8, "random"), eight, None),
        (KMeans(3, "kmc2"), two, None),
        (KMeans(3, lambda rows, k: rows[: k - 1]), eight, None),
        (KMeans(1, "random", "cosine"), np.zeros((4, 3)), None),
        (lambda: KMeans(3, axes * [[1], [0], [1]], "cosine"), None, None),
        (KMeans(1, "random"), axes, np.zeros(3)),
        (KMeans(1, "random"), broken, None),
    ]


@pytest.mark.parametrize("place", range(7))
def test_the_readme_quotes_the_messages(place):
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    section = readme[readme.index("## Edges") :]
    section = section[: section.index("\n## ")]
    words = [word for word in re.findall(r"`([^`]+)`", section) if " " in word]
    assert len(words) == 7
    kmeans, rows, weights = _messages()[place]
    with pytest.raises(ValueError, match=re.escape(words[place])):
        kmeans() if callable(kmeans) else kmeans.fit(rows, sample_weight=weights)
