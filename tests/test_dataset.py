import functools
import itertools
import re

import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_kmeans import dataset, kernels
from beam_kmeans.config import Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.errors import DataError
from beam_kmeans.in_memory import fit
from beam_kmeans.values import canonical_float32
from tests import data, oracles


@pytest.fixture(autouse=True)
def one_kernel_shape(monkeypatch):
    monkeypatch.setattr(kernels, "settings", kernels.Settings(tile_rows=1024, threads=1))


def train(rows, centers="random", weights=None, **fields):
    if not isinstance(centers, str):
        fields["num_clusters"] = len(centers)
    return fit(MemoryDataset(rows, weights), Parameters(initial_clusters=centers, **fields))


def inertias(found):
    return [record["inertia"] for record in found.state.history]


def outcome(found):
    return found.centers.tobytes(), found.counts.tolist(), found.state


class Recorder(MemoryDataset):
    """Remembers the centers and the counts of every pass."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.passes = []

    def tally(self, centers, far):
        survey, totals = super().tally(centers, far)
        self.passes.append((centers, survey.counts.tolist()))
        return survey, totals


REAL = {"spambase": data.spambase, "digits": data.digits}


@functools.cache
def twenty_iterations(name):
    rows = REAL[name]()
    centers = data.given_rows(rows, 10)
    recorder = Recorder(rows)
    asked = Parameters(10, centers, max_iterations=20, tolerance=0, empty_clusters="keep")
    return recorder, fit(recorder, asked), oracles.lloyd(rows, centers, 20)


class TestRealData:
    @pytest.mark.parametrize("name", REAL)
    def test_every_iteration_is_that_of_the_reference(self, name):
        recorder, found, expected = twenty_iterations(name)
        records = expected[: len(found.state.history)]
        assert found.state.iteration == 20 or found.state.history[-2]["shift"] == 0
        for measured, (_, inertia, _) in zip(inertias(found), records, strict=True):
            assert measured == pytest.approx(inertia, rel=1e-9)
        for (centers, counts), (own, _, own_counts) in zip(
            recorder.passes, expected[: len(recorder.passes)], strict=True
        ):
            assert counts == own_counts.tolist()
            np.testing.assert_array_max_ulp(centers, own, maxulp=1)
        assert found.counts.tolist() == expected[-1][2].tolist()
        assert inertias(found)[-1] == pytest.approx(expected[-1][1], rel=1e-9)

    @pytest.mark.parametrize("name", REAL)
    def test_the_inertia_is_exact(self, name):
        _, found, _ = twenty_iterations(name)
        rows = REAL[name]()[:400]
        measured = train(rows, found.centers, max_iterations=0)
        labels = oracles.assign(rows, found.centers)
        assert inertias(measured) == [float(oracles.inertia(rows, found.centers, labels))]

    @pytest.mark.parametrize("name", REAL)
    @pytest.mark.parametrize("iterations", [1, 5, 20])
    @pytest.mark.filterwarnings("ignore:Number of distinct clusters")
    def test_scikit_learn_agrees(self, name, iterations):
        _, found, _ = twenty_iterations(name)
        rows = REAL[name]().astype(np.float64)
        start = data.given_rows(REAL[name](), 10).astype(np.float64)
        theirs = sklearn.cluster.KMeans(10, init=start, n_init=1, max_iter=iterations, tol=0)
        theirs.fit(rows)
        at = min(iterations, len(found.state.history) - 1)
        # Rows of digits, whole numbers, can lie exactly between two centers: scikit-learn's
        # rounding sends some of them to the other one.
        rel = {"spambase": 1e-6, "digits": 1e-3}[name]
        assert inertias(found)[at] == pytest.approx(theirs.inertia_, rel=rel)

    @pytest.mark.parametrize("name", REAL)
    def test_counts_and_inertia_are_those_of_the_final_centers(self, name):
        _, found, _ = twenty_iterations(name)
        rows = REAL[name]()
        labels = oracles.assign(rows, found.centers)
        assert found.counts.tolist() == np.bincount(labels, minlength=10).tolist()
        scores = oracles.all_scores(rows, found.centers).min(axis=1)
        assert inertias(found)[-1] == pytest.approx(scores.sum(), rel=1e-12)


class TestByHand:
    def test_four_points(self):
        found = train(data.FOUR_POINTS, data.FOUR_POINTS[[0, 2]], tolerance=0)
        assert found.centers.tolist() == [[0.5, 0], [10.5, 0]]
        assert found.counts.tolist() == [2, 2]
        assert inertias(found) == [2, 1, 1]
        assert [record.get("shift") for record in found.state.history] == [0.5, 0, None]
        assert found.state.iteration == 2
        assert found.state.converged

    def test_four_points_with_weights(self):
        # scikit-learn's own example: rows 3 and 4 three times as heavy.
        found = train(data.FOUR_POINTS, data.FOUR_POINTS[[0, 2]], [1, 1, 1, 3], tolerance=0)
        assert found.centers.tolist() == [[0.5, 0], [10.75, 0]]
        assert inertias(found)[-1] == 2 * 0.25 + 0.75**2 + 3 * 0.25**2
        assert found.counts.tolist() == [2, 2]
        assert found.state.history[-1]["largest"] == 4

    def test_a_row_between_two_centers_goes_to_the_first(self):
        found = train([[0], [2], [4]], [[0], [4]], max_iterations=0)
        assert found.counts.tolist() == [2, 1]
        found = train([[0], [2], [4]], [[4], [0]], max_iterations=0)
        assert found.counts.tolist() == [2, 1]

    def test_no_iterations_measure_the_initial_centers(self):
        start = np.array([[0, 1], [10, 0]], np.float32)
        found = train(data.FOUR_POINTS, start, max_iterations=0)
        assert found.centers.tolist() == start.tolist()
        assert inertias(found) == [1 + 2 + 0 + 1]
        assert found.state.finished
        assert not found.state.converged

    def test_one_iteration_is_one_update(self):
        found = train(data.FOUR_POINTS, [[0, 0], [1, 0]], max_iterations=1)
        assert found.centers[:, 0].tolist() == [0, np.float32(22 / 3)]
        assert len(found.state.history) == 2

    def test_the_optimum_is_a_fixed_point(self):
        first = train(data.blobs(), data.given_rows(data.blobs(), 5), tolerance=0)
        again = train(data.blobs(), first.centers, tolerance=0)
        assert again.centers.tobytes() == first.centers.tobytes()
        assert again.state.iteration == 1
        assert inertias(again) == inertias(first)[-1:] * 2

    @pytest.mark.parametrize("start", ["random", [[3.0] * 8]])
    def test_one_cluster_is_the_mean(self, start):
        found = train(data.blobs(), start, num_clusters=1, tolerance=0)
        labels = np.zeros(600, int)
        expected = oracles.exact_means(data.blobs(), labels, np.zeros((1, 8), np.float32))
        assert found.centers.tobytes() == expected.tobytes()
        assert found.counts.tolist() == [600]
        assert found.state.iteration == 2

    def test_as_many_clusters_as_rows_cost_nothing(self):
        rows = data.blobs()[:8]
        found = train(rows, num_clusters=8, tolerance=0)
        assert inertias(found) == [0, 0]
        assert sorted(found.centers.tolist()) == sorted(rows.tolist())
        assert found.counts.tolist() == [1] * 8

    def test_one_row_is_one_cluster(self):
        found = train([[1.5, 2]], num_clusters=1)
        assert found.centers.tolist() == [[1.5, 2]]
        assert inertias(found) == [0, 0]

    def test_equal_rows_are_one_cluster(self):
        rows = np.full((1000, 3), 0.1, np.float32)
        found = train(rows, num_clusters=1, tolerance=0)
        assert found.centers.tolist() == rows[:1].tolist()
        assert inertias(found) == [0, 0]

    def test_equal_rows_leave_other_given_centers_empty(self):
        rows = np.full((1000, 3), 0.1, np.float32)
        found = train(rows, [[0, 0, 0], [9, 9, 9], [9, 9, 9]])
        assert found.counts.tolist() == [1000, 0, 0]
        # All rows have one value, so one of them could move; then they are on their center.
        assert [record["relocated"] for record in found.state.history] == [1, 0, 0]
        assert found.centers.tolist() == [*rows[:2].tolist(), [9, 9, 9]]
        assert found.state.history[-1]["empty_clusters"] == 2
        assert inertias(found)[-1] == 0


class TestEmptyClusters:
    def start(self, empty):
        """Centers for the blobs, of which the last few are far from every row."""
        far = np.full((empty, 8), 1e3, np.float32) + np.arange(empty, dtype=np.float32)[:, None]
        return np.concatenate([data.given_rows(data.blobs(), 6 - empty), far])

    @pytest.mark.parametrize("empty", [1, 2, 3])
    def test_they_are_relocated_as_in_scikit_learn(self, empty):
        start = self.start(empty)
        theirs = sklearn.cluster.KMeans(6, init=start, n_init=1, max_iter=1, tol=0)
        theirs.fit(data.blobs().astype(np.float64))
        found = train(data.blobs(), start, max_iterations=1, tolerance=0)
        order = [6 - empty + i for i in range(empty)]
        kept = slice(0, 6 - empty)
        np.testing.assert_allclose(found.centers[kept], theirs.cluster_centers_[kept], rtol=1e-5)
        # scikit-learn gives the farthest rows to the empty clusters in no particular order.
        np.testing.assert_allclose(
            sorted(found.centers[order].tolist()),
            sorted(theirs.cluster_centers_[order].tolist()),
            rtol=1e-5,
        )
        record = found.state.history[0]
        assert (record["empty_clusters"], record["relocated"]) == (empty, empty)
        assert inertias(found)[1] == pytest.approx(theirs.inertia_, rel=1e-5)

    def test_they_are_kept_where_that_is_asked(self):
        start = self.start(2)
        found = train(data.blobs(), start, max_iterations=3, tolerance=0, empty_clusters="keep")
        assert found.centers[4:].tobytes() == start[4:].tobytes()
        assert found.counts[4:].tolist() == [0, 0]
        assert [r["empty_clusters"] for r in found.state.history] == [2] * 4
        assert [r["relocated"] for r in found.state.history] == [0] * 4
        assert found.state.history[-1]["smallest"] == 0

    def test_equal_centers_leave_all_but_the_first_empty(self):
        start = np.repeat(data.blobs()[:1], 4, axis=0)
        kept = train(data.blobs(), start, max_iterations=1, empty_clusters="keep")
        assert kept.state.history[0]["empty_clusters"] == 3
        moved = train(data.blobs(), start, tolerance=0)
        assert moved.state.history[0]["relocated"] == 3
        assert moved.state.history[-1]["empty_clusters"] == 0

    def test_the_last_pass_relocates_nothing(self):
        found = train(data.blobs(), self.start(2), max_iterations=0)
        assert found.state.history[0]["empty_clusters"] == 2
        assert found.state.history[0]["relocated"] == 0


class TestConvergence:
    @pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-4, 0])
    @pytest.mark.parametrize("seed", range(4))
    def test_it_stops_where_scikit_learn_stops(self, tolerance, seed):
        rows = data.blobs(seed=seed)
        start = data.given_rows(rows, 5, seed)
        theirs = sklearn.cluster.KMeans(5, init=start, n_init=1, tol=tolerance, max_iter=300)
        theirs.fit(rows.astype(np.float64))
        found = train(rows, start, tolerance=tolerance)
        assert found.state.iteration == theirs.n_iter_
        assert found.state.converged
        np.testing.assert_allclose(found.centers, theirs.cluster_centers_, rtol=1e-4, atol=1e-5)

    def test_the_variance_is_weighted(self):
        # A row of weight 0 far away would make any shift seem small.
        rows = np.concatenate([data.blobs(), np.full((1, 8), 1e6, np.float32)])
        weights = np.append(np.ones(600), 0)
        start = data.given_rows(data.blobs(), 5)
        found = train(rows, start, weights)
        assert found.state.iteration == train(data.blobs(), start).state.iteration
        assert found.state.iteration > 2


class TestWeights:
    start = property(lambda self: data.given_rows(data.blobs(), 5))

    def test_a_weight_is_that_many_copies(self):
        rows = data.blobs()
        times = np.random.default_rng(0).integers(0, 5, len(rows))
        heavy = train(rows, self.start, times, tolerance=0)
        many = train(np.repeat(rows, times, axis=0), self.start, tolerance=0)
        assert heavy.centers.tobytes() == many.centers.tobytes()
        assert inertias(heavy) == inertias(many)
        assert heavy.state == many.state
        labels = oracles.assign(rows, heavy.centers)
        assert heavy.counts.tolist() == np.bincount(labels, minlength=5).tolist()
        assert many.counts.tolist() == np.bincount(labels, times, minlength=5).tolist()

    def test_weights_of_one_are_no_weights(self):
        found = train(data.blobs(), self.start, np.ones(600))
        assert outcome(found) == outcome(train(data.blobs(), self.start))

    def test_a_power_of_two_in_all_weights_moves_no_center(self):
        weights = np.random.default_rng(0).exponential(size=600).astype(np.float32)
        one = train(data.blobs(), self.start, weights)
        other = train(data.blobs(), self.start, weights * 2.0**40)
        assert one.centers.tobytes() == other.centers.tobytes()
        assert [x * 2.0**40 for x in inertias(one)] == inertias(other)

    def test_scikit_learn_agrees(self):
        weights = np.random.default_rng(0).exponential(size=600).astype(np.float32)
        theirs = sklearn.cluster.KMeans(5, init=self.start, n_init=1, tol=0)
        theirs.fit(data.blobs().astype(np.float64), sample_weight=weights)
        found = train(data.blobs(), self.start, weights, tolerance=0)
        assert inertias(found)[-1] == pytest.approx(theirs.inertia_, rel=1e-6)
        np.testing.assert_allclose(found.centers, theirs.cluster_centers_, rtol=1e-4, atol=1e-5)

    def test_rows_of_weight_zero_change_nothing(self):
        rows = np.concatenate([np.full((3, 8), 1e30, np.float32), data.blobs()])
        weights = np.append([0, 0, 0], np.ones(600))
        found = train(rows, self.start, weights)
        expected = train(data.blobs(), self.start)
        assert found.centers.tobytes() == expected.centers.tobytes()
        assert inertias(found) == inertias(expected)
        assert found.counts.sum() == 603


class TestSameBytes:
    @pytest.mark.parametrize("block", [1, 7, 100, 599, 10**6])
    @pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
    def test_blocks_change_nothing(self, monkeypatch, block, weighted):
        rows = data.blobs()[:60] if block == 1 else data.blobs()
        weights = np.random.default_rng(0).exponential(size=len(rows)) if weighted else None
        expected = train(rows, num_clusters=5, weights=weights, max_iterations=5, tolerance=0)
        monkeypatch.setattr(dataset, "_BLOCK_ROWS", block)
        found = train(rows, num_clusters=5, weights=weights, max_iterations=5, tolerance=0)
        assert outcome(found) == outcome(expected)

    @pytest.mark.parametrize("tile_rows", [256, 1000, 8192, None])
    @pytest.mark.parametrize("threads", [1, 3])
    def test_tiles_and_threads_change_nothing(self, tile_rows, threads):
        start = data.given_rows(data.digits(), 5)
        expected = train(data.digits(), start, max_iterations=5)
        kernels.settings.tile_rows, kernels.settings.threads = tile_rows, threads
        assert outcome(train(data.digits(), start, max_iterations=5)) == outcome(expected)

    @pytest.mark.parametrize("seed", range(3))
    def test_the_order_of_rows_changes_nothing(self, seed):
        order = np.random.default_rng(seed).permutation(600)
        weights = np.random.default_rng(9).exponential(size=600).astype(np.float32)
        start = data.given_rows(data.blobs(), 5)
        start[4] = 1e3  # empty at first
        expected = train(data.blobs(), start, weights, tolerance=0)
        assert expected.state.history[0]["relocated"] == 1
        found = train(data.blobs()[order], start, weights[order], tolerance=0)
        assert outcome(found) == outcome(expected)

    def test_the_order_of_centers_is_the_order_of_clusters(self):
        start, order = data.given_rows(data.blobs(), 5), [3, 0, 4, 1, 2]
        one = train(data.blobs(), start, tolerance=0)
        other = train(data.blobs(), start[order], tolerance=0)
        assert one.centers[order].tobytes() == other.centers.tobytes()
        assert one.counts[order].tolist() == other.counts.tolist()
        assert inertias(one) == inertias(other)

    def test_a_power_of_two_scales_everything(self):
        start = data.given_rows(data.blobs(), 5)
        one = train(data.blobs(), start, tolerance=0)
        other = train(data.blobs() * 2.0**-20, start * 2.0**-20, tolerance=0)
        assert (one.centers * np.float32(2.0**-20)).tobytes() == other.centers.tobytes()
        assert [x * 2.0**-40 for x in inertias(one)] == inertias(other)

    def test_whole_numbers_shift_with_the_data(self):
        start = data.given_rows(data.digits(), 5)
        one = train(data.digits(), start, max_iterations=1, tolerance=0)
        other = train(data.digits() + 1024, start + 1024, max_iterations=1, tolerance=0)
        assert one.state.history[0] == other.state.history[0] | {
            "shift": one.state.history[0]["shift"]
        }
        np.testing.assert_allclose(one.centers, other.centers - 1024, atol=2.0**-13)

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8])
    def test_types_of_numbers_change_nothing(self, dtype):
        start = data.given_rows(data.digits(), 5)
        found = train(data.digits().astype(dtype), start.astype(dtype), max_iterations=2)
        assert outcome(found) == outcome(train(data.digits(), start, max_iterations=2))


class TestRandom:
    def test_a_seed_decides(self):
        one = train(data.blobs(), num_clusters=5, random_seed=1, max_iterations=0)
        again = train(data.blobs(), num_clusters=5, random_seed=1, max_iterations=0)
        other = train(data.blobs(), num_clusters=5, random_seed=2, max_iterations=0)
        assert outcome(one) == outcome(again)
        assert one.centers.tobytes() != other.centers.tobytes()

    def test_the_centers_are_distinct_rows(self):
        rows = np.repeat(data.blobs()[:20], 30, axis=0)
        found = train(rows, num_clusters=8, max_iterations=0)
        drawn = {row.tobytes() for row in found.centers}
        assert len(drawn) == 8
        assert drawn <= {row.tobytes() for row in rows}

    def test_rows_of_weight_zero_are_not_drawn(self):
        weights = np.zeros(600)
        weights[[5, 50, 500]] = 1
        found = train(data.blobs(), num_clusters=3, weights=weights, max_iterations=0)
        assert sorted(found.centers.tolist()) == sorted(data.blobs()[[5, 50, 500]].tolist())


class TestRefusals:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([[1, 2], [3, np.nan]], "data: row 1, feature 1 is nan; .* [(]1 of 2 rows are bad"),
            ([[1, 2], [-np.inf, np.nan]], "data: row 1, feature 0 is -inf"),
            ([[1e39, 2], [1, np.inf]], r"row 0, feature 0 is 1e\+39; finite float32 .*2 of 2"),
            ([["a"], ["b"]], "data: numbers are needed, found an array of <U1"),
            ([[True], [False]], "data: numbers are needed, found an array of bool"),
            ([1.0, 2.0], r"data: an array of shape \[n, d\] is needed, found \[2\]"),
            (np.zeros((3, 0)), r"data: an array of shape .* found \[3, 0\]"),
            (np.zeros((2, 2, 2)), r"data: an array of shape .* found \[2, 2, 2\]"),
            (np.zeros((0, 2)), "the data has no rows"),
            (np.array([[None]]), "data: numbers are needed, found an array of object"),
        ],
        ids=["nan", "inf", "range", "text", "bool", "vector", "no-d", "cube", "no-rows", "object"],
    )
    def test_bad_rows_are_refused(self, rows, message):
        with pytest.raises(DataError, match=message):
            train(rows, num_clusters=1)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([1, -1, 1, 1], "sample_weight: row 1 has weight -1"),
            ([1, 1, np.nan, 1], "sample_weight: row 2 has weight nan"),
            ([1, 1, np.inf, 1], "sample_weight: row 2 has weight inf"),
            ([1, 1, 1e39, 1], r"sample_weight: row 2 has weight 1e\+39"),
            ([1, 1, 1], r"sample_weight: numbers of shape \[4\] .* found \[3\]"),
            ([[1], [1], [1], [1]], r"sample_weight: .* found \[4, 1\]"),
            (["1"] * 4, "sample_weight: numbers .* of <U1"),
            ([0, 0, 0, 0], "weights of all 4 rows are 0"),
        ],
        ids=["negative", "nan", "inf", "range", "few", "matrix", "text", "no-weight"],
    )
    def test_bad_weights_are_refused(self, weights, message):
        with pytest.raises(DataError, match=message):
            train(data.FOUR_POINTS, num_clusters=1, weights=weights)

    @pytest.mark.parametrize("start", ["random", np.zeros((5, 2))])
    def test_more_clusters_than_rows_are_refused(self, start):
        with pytest.raises(DataError, match="num_clusters: 5 clusters are asked of 4 rows"):
            train(data.FOUR_POINTS, start, num_clusters=5)

    def test_more_clusters_than_distinct_rows_are_refused(self):
        rows = np.repeat(data.FOUR_POINTS, 3, axis=0)
        message = "num_clusters: 5 distinct rows are needed to start from, .* only 4"
        with pytest.raises(DataError, match=message):
            train(rows, num_clusters=5)

    def test_rows_that_differ_in_a_denormal_are_one(self):
        with pytest.raises(DataError, match="only 1"):
            train([[0.0], [1e-42], [-0.0]], num_clusters=2)

    def test_given_centers_of_another_width_are_refused(self):
        message = re.escape("the centers have 3 features, the data has 2")
        with pytest.raises(DataError, match=message):
            train(data.FOUR_POINTS, np.zeros((2, 3)))


def test_arguments_stay_as_they_were():
    rows = np.array([[0, -0.0], [1e-42, 2], [5, 5], [6, 6]], np.float32)
    start, weights = np.array([[0.0, 0], [6, 6]], np.float32), np.array([1, -0.0, 2, 3], np.float32)
    before = rows.tobytes(), start.tobytes(), weights.tobytes()
    train(rows, start, weights, tolerance=0)
    train(rows, num_clusters=2, weights=weights)
    assert (rows.tobytes(), start.tobytes(), weights.tobytes()) == before


def test_rows_that_may_not_be_written_are_fitted():
    rows = np.array(data.FOUR_POINTS)
    rows.flags.writeable = False
    assert train(rows, rows[[0, 2]]).counts.tolist() == [2, 2]


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.integers(8, 60),
    st.booleans(),
    st.sampled_from(["keep", "relocate"]),
    st.sampled_from([0.0, 5000.0, 1e6]),
    st.sampled_from([1.0, 1e-30, 1e30]),
)
def test_the_cost_never_rises_and_is_exact(seed, n, weighted, policy, offset, scale):
    random = np.random.default_rng(seed)
    made = random.integers(-5, 6, (n, 8)) * random.choice([0.1, 1.0, 30.0], 8) + offset
    rows = (made * scale).astype(np.float32)
    weights = random.integers(0, 4, n).astype(np.float32) if weighted else None
    start = np.array(rows[random.integers(0, n, 6)])
    start[5] *= np.float32(1.5)
    if weights is None or (weights > 0).sum() >= 6:
        found = train(rows, start, weights, max_iterations=8, tolerance=0, empty_clusters=policy)
        costs = inertias(found)
        for before, after in itertools.pairwise(costs):
            # But for the rounding of the centers: half a spacing squared of each value.
            assert (
                after <= before * (1 + 1e-9) + 3 * n * 8 * (float(abs(rows).max()) * 2.0**-24) ** 2
            )
        labels = oracles.assign(rows, found.centers)
        assert costs[-1] == float(oracles.inertia(rows, found.centers, labels, weights))


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(8, 60), st.booleans(), st.sampled_from([1, 1e-36, 1e36]))
def test_every_center_is_the_exact_mean_rounded_once(seed, n, weighted, scale):
    random = np.random.default_rng(seed)
    rows, _ = canonical_float32(random.normal(size=(n, 8)) * scale)
    weights = random.exponential(size=n).astype(np.float32) if weighted else None
    recorder = Recorder(rows, weights)
    fit(recorder, Parameters(6, rows[:6], max_iterations=3, tolerance=0, empty_clusters="keep"))
    expected = rows[:6]
    for centers, counts in recorder.passes:
        assert centers.tobytes() == expected.tobytes()
        labels = oracles.assign(rows, expected)
        assert counts == np.bincount(labels, minlength=6).tolist()
        expected = oracles.exact_means(rows, labels, expected, weights)
