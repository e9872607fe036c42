import itertools

import numpy as np
import pytest
from sklearn.cluster import kmeans_plusplus

from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import Fit
from beam_kmeans.seeding import plus_plus as seeding
from beam_kmeans.seeding import spread as spread_module
from beam_kmeans.seeding.plus_plus import plus_plus, recluster
from beam_kmeans.seeding.spread import Spread
from tests import cases, chances, data, oracles
from tests.chances import LINE, SQUARES, WEIGHTS


def ones(rows):
    return np.ones(len(rows))


class TestSpread:
    @pytest.mark.parametrize(
        "name",
        [
            "spambase",
            "grid",
            "repeated-rows",
            "close-centers",
            "1e38",
            "1e-37",
            "heavy-tails",
            "all-extremes",
            "d=1-grid",
            "permuted-centers",
        ],
    )
    def test_scores_and_indices_are_those_by_definition(self, name):
        rows, centers, expected = cases.case(name)
        spread = Spread(rows, len(centers))
        for center in centers:
            spread.pick(center)
        assert spread.indices.tolist() == expected.tolist()
        assert spread.picks.tobytes() == centers.tobytes()
        scores = oracles.all_scores(rows, centers).min(axis=1)
        assert spread.scores.tolist() == scores.tolist()

    def test_a_row_in_the_middle_of_a_pick_and_a_center_is_measured(self):
        spread = Spread(np.array([[0], [1], [-1]], np.float32), 2)
        spread.pick(np.float32([0]))
        which, found = spread.closer(np.float32([1.9999]))
        assert which.tolist() == [1]
        assert found.tolist() == [(np.float32(1.9999).astype(float) - 1) ** 2]

    def test_far_rows_are_not_measured(self, monkeypatch):
        measured = []
        real = spread_module.squared_distances
        monkeypatch.setattr(
            spread_module,
            "squared_distances",
            lambda rows, center: measured.append(len(rows)) or real(rows, center),
        )
        middles = np.array([[0, 0], [1000, 0], [0, 1000]], np.float32)
        rows = np.repeat(middles, 100, axis=0) + cases.normal(300, 2)
        spread = Spread(rows, 4)
        for place in (0, 100, 200, 201):
            spread.pick(rows[place])
        assert measured[:6] == [300, 1, 200, 2, 100, 3]
        assert measured[6] <= 100


def pair_chances(tries):
    """[6, 6]: of the first two picks, by all that can be drawn."""
    first = best_of(tries, WEIGHTS / WEIGHTS.sum(), WEIGHTS @ SQUARES)
    second = np.zeros((6, 6))
    for a in np.flatnonzero(first):
        left = WEIGHTS * SQUARES[a]
        potentials = WEIGHTS @ np.minimum(SQUARES[a][:, None], SQUARES)
        second[a] = first[a] * best_of(tries, left / left.sum(), potentials)
    return second


def best_of(tries, draw, potentials):
    """Chances of the drawn row with the least potential, the first drawn of equals."""
    total = np.zeros(6)
    for drawn in itertools.product(range(6), repeat=tries):
        best = min(drawn, key=lambda i: potentials[i])
        total[best] += np.prod(draw[list(drawn)])
    return total


class TestPlusPlus:
    @pytest.mark.parametrize("retries", [0, 2])
    def test_rows_are_picked_by_weight_and_squared_distance(self, retries):
        counts = np.zeros((6, 6))
        for seed in range(3000):
            a, b = plus_plus(LINE, WEIGHTS.astype(float), 2, seed, retries)
            counts[a, b] += 1
        assert chances.p_value(counts, pair_chances(retries + 1)) > 1e-3
        assert chances.p_value(counts, pair_chances(2 - retries // 2)) < 1e-6

    @pytest.mark.parametrize("retries", [-1, 0, 1, 2, 3])
    def test_an_outlier_is_always_picked(self, retries):
        # TensorFlow's own test: an outlier and nine points near two others.
        rows = np.array(
            [
                [100, 0],
                [101, 2],
                [102, 0],
                [100, 1],
                [100, 2],
                [101, 0],
                [101, 0],
                [101, 1],
                [102, 0],
                [-1, -1],
            ],
            np.float32,
        )
        retries = Parameters(3, kmeans_plus_plus_num_retries=retries).retries
        for seed in range(100):
            assert 9 in plus_plus(rows, ones(rows), 3, seed, retries)

    def test_retries_leave_less_potential(self):
        rows = data.spambase()
        left = [
            np.mean([potential(rows, plus_plus(rows, ones(rows), 20, s, r)) for s in range(5)])
            for r in (0, 4)
        ]
        assert left[1] < 0.9 * left[0]

    def test_as_good_as_scikit_learns(self):
        rows = data.digits()
        ours = [potential(rows, plus_plus(rows, ones(rows), 10, s, 0)) for s in range(15)]
        theirs = [
            potential(rows, kmeans_plusplus(rows, 10, random_state=s, n_local_trials=1)[1])
            for s in range(15)
        ]
        assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.05)

    def test_places_are_distinct_values_in_the_order_of_picking(self):
        rows = np.repeat(data.blobs()[:50], 4, axis=0)
        found = plus_plus(rows, ones(rows), 50, 0, 2)
        assert len(np.unique(rows[found], axis=0)) == 50
        assert plus_plus(rows, ones(rows), 9, 0, 2).tolist() == found[:9].tolist()

    def test_there_are_no_more_than_distinct_rows_of_a_weight(self):
        rows = np.array([[1], [2], [1], [3]], np.float32)
        weights = np.array([1.0, 1.0, 1.0, 0.0])
        for seed in range(20):
            assert sorted(rows[plus_plus(rows, weights, 4, seed, 2)].tolist()) == [[1], [2]]
        assert len(plus_plus(rows, np.zeros(4), 2, 0, 2)) == 0

    def test_extreme_weights_and_distances_are_drawn(self):
        rows = np.array([[3e38], [-3e38], [0], [1e-38]], np.float32)
        weights = np.array([1e38, 1e-38, 1e-30, 1e-38])
        for seed in range(50):
            assert sorted(plus_plus(rows, weights, 4, seed, 0).tolist()) == [0, 1, 2, 3]


def potential(rows, places):
    return oracles.all_scores(rows, rows[places]).min(axis=1).sum()


class TestRecluster:
    def test_weights_move_the_centers(self):
        rows = np.array([[0], [1], [10], [13]], np.float32)
        found = recluster(rows, np.array([3.0, 1.0, 1.0, 2.0]), 2, 0, 2)
        assert sorted(found.tolist()) == [[0.25], [12.0]]

    def test_cosine_centers_are_directions(self):
        rows = np.array([[1, 0], [0.6, 0.8], [-1, 0], [-0.6, -0.8]], np.float32)
        found = recluster(rows, ones(rows), 2, 0, 2, "cosine")
        half = np.array([1.6, 0.8]) / np.hypot(1.6, 0.8)
        np.testing.assert_allclose(sorted(found.tolist()), [-half, half], atol=1e-6)

    @pytest.mark.parametrize("scale", [2.0**-140, 1.0, 2.0**120])
    def test_the_scale_of_weights_does_not_matter(self, scale):
        rows, weights = data.blobs(), np.random.default_rng(0).integers(1, 9, 600).astype(float)
        expected = recluster(rows, weights, 5, 0, 2)
        assert recluster(rows, weights * scale, 5, 0, 2).tobytes() == expected.tobytes()

    def test_weights_beyond_float32_are_not_lost(self):
        rows = np.array([[0], [1], [2], [50]], np.float32)
        found = recluster(rows, np.array([1e300, 1e-3, 1e-3, 1e-3]), 4, 0, 2)
        assert sorted(found.tolist()) == [[0], [1], [2], [50]]
        found = recluster(rows, np.array([1e300, 1, 1, 1]), 3, 0, 2)
        assert len(np.unique(found)) == 3

    @pytest.mark.parametrize(
        ("centers", "counts"),
        [([[5], [5]], [2, 2]), ([[0], [20]], [4, 0])],
        ids=["equal", "empty"],
    )
    def test_centers_that_were_lost_are_the_picked_rows(self, monkeypatch, centers, counts):
        rows = np.array([[0], [1], [10], [13]], np.float32)
        fit = Fit(np.array(centers, np.float32), np.array(counts), None)
        monkeypatch.setattr(seeding, "fit_from", lambda *_: fit)
        picked = plus_plus(rows, ones(rows), 2, 0, 2)
        assert recluster(rows, ones(rows), 2, 0, 2).tolist() == rows[picked].tolist()

    def test_fewer_distinct_candidates_are_counted(self):
        rows = np.array([[0], [1], [0]], np.float32)
        with pytest.raises(DataError, match=r"num_clusters: 3 distinct rows .* only 2"):
            recluster(rows, ones(rows), 3, 0, 2)
