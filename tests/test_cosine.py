"""Cosine: unit rows, half their squared distances, exact directions, and fits in memory."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_kmeans import KMeans, KMeansModel, distances, kernels, lloyd
from beam_kmeans.config import Parameters, checked_centers
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.distances import Centers
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState, advance, fit_from
from beam_kmeans.io.manifest import Standardization
from beam_kmeans.rounding import directions
from beam_kmeans.statistics import Directionless, Statistics
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import LloydTally, Rows, directionless_of, in_metric
from beam_kmeans.values import unit_rows
from tests import cases, data, oracles

ROWS = data.blobs(600, 6).copy()
ROWS[[3, 200, 599]] = 0
ROWS[7] = [0, 0, 0, 0, 0, 2.0**-120]
WEIGHTS = (np.arange(len(ROWS)) % 5 / 4).astype(np.float32)
ZEROS = ~ROWS.any(axis=1)
CENTERS = unit_rows(data.given_rows(ROWS[~ZEROS], 9))[0]


def similarity(rows, centers):
    """float64 [n, k] of cosine similarities, by NumPy's own words."""
    rows, centers = np.asarray(rows, np.float64), np.asarray(centers, np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T


def exact_direction(vector):
    """float32 [d]: an exact vector over its exact length, each value rounded once."""
    square = sum(value * value for value in vector)
    rounded = []
    for value in vector:
        ratio = value * value / square
        # 400 bits of the root; a root that float32 can lie halfway to has far fewer.
        root = Fraction(math.isqrt(ratio.numerator * 4**400 // ratio.denominator), 2**400)
        rounded.append(oracles.float32(root if value > 0 else -root))
    return np.array(rounded, np.float32)


class TestUnitRows:
    def test_worked_by_hand(self):
        units, directed = unit_rows(np.array([[3, -4], [0, 0], [0, 1e-38 * 2]], np.float32))
        assert units.tolist() == [[np.float32(0.6), np.float32(-0.8)], [0, 0], [0, 1]]
        assert directed.tolist() == [True, False, True]

    @pytest.mark.parametrize("scale", [1e-37, 1e-12, 1.0, 1e30, 1e37])
    @pytest.mark.parametrize("d", [1, 3, 64, 2000])
    def test_are_directions_rounded_once(self, d, scale):
        rows = cases.normal(max(3, 64 // d), d, 3, scale)
        exact = np.array([exact_direction(oracles.fractions(row)) for row in rows])
        units = unit_rows(rows)[0]
        np.testing.assert_array_max_ulp(units, exact, 1)
        assert (units == exact).mean() > 0.99

    @pytest.mark.parametrize("d", [1, 2, 3, 8, 64, 1000])
    def test_of_unit_rows_are_the_same_bytes(self, d):
        rows = cases.normal(20_000 // d, d, d) * np.float32(10.0) ** np.arange(d).clip(0, 30)
        units = unit_rows(rows.astype(np.float32))[0]
        assert unit_rows(units)[0].tobytes() == units.tobytes()

    def test_longer_rows_are_made_shorter(self):
        longer = np.array([[1 + 2.0**-22, 0]], np.float32)
        assert unit_rows(longer)[0].tolist() == [[1, 0]]

    def test_neither_the_order_of_rows_nor_a_power_of_two_changes_a_byte(self):
        rows, order = cases.normal(5000, 7), np.random.default_rng(0).permutation(5000)
        units = unit_rows(rows)[0]
        assert unit_rows(rows[order])[0].tobytes() == units[order].tobytes()
        assert unit_rows(rows * np.float32(2.0**-9))[0].tobytes() == units.tobytes()

    def test_in_metric_leaves_rows_of_zeros_out_and_counts_them(self):
        part = Rows(ROWS, WEIGHTS, np.arange(len(ROWS)) * 3)
        found, aside = in_metric(part, "cosine"), directionless_of(part, "cosine")
        assert found.row_numbers.tolist() == (np.flatnonzero(~ZEROS) * 3).tolist()
        np.testing.assert_array_equal(found.weights, WEIGHTS[~ZEROS])
        assert aside == Directionless(3, sum(oracles.fractions(WEIGHTS[ZEROS])))
        assert in_metric(part, "squared_euclidean") is part
        assert directionless_of(part, "squared_euclidean") == Directionless()

    def test_without_weights_each_row_of_zeros_counts_once(self):
        part = Rows(ROWS, None, np.zeros(len(ROWS), np.int64))
        assert directionless_of(part, "cosine") == Directionless(3, Fraction(3))

    def test_directionless_rows_are_what_two_statistics_differ_in(self):
        units = in_metric(Rows(ROWS, WEIGHTS, np.arange(len(ROWS))), "cosine")
        raw, directed = (Statistics.of(rows, w) for rows, w in [(ROWS, WEIGHTS), units[:2]])
        expected = Directionless(3, sum(oracles.fractions(WEIGHTS[ZEROS])))
        assert Directionless.between(raw, directed) == expected


class TestScores:
    def test_are_one_minus_the_similarity(self):
        units = unit_rows(ROWS)[0]
        centers = Centers(CENTERS, "cosine")
        index = kernels.assign(centers, units)
        every = distances.all_scores(centers, units)
        np.testing.assert_allclose(every[~ZEROS], 1 - similarity(ROWS[~ZEROS], CENTERS), atol=2e-7)
        np.testing.assert_array_equal(index, every.argmin(axis=1))
        np.testing.assert_array_equal(distances.scores(centers, units, index), every.min(axis=1))

    def test_are_half_the_squared_distance_to_the_byte(self):
        units = unit_rows(ROWS[~ZEROS])[0]
        found = distances.all_scores(Centers(CENTERS, "cosine"), units)
        np.testing.assert_array_equal(found, oracles.all_scores(units, CENTERS) / 2)

    def test_rows_of_zeros_are_of_cluster_0_and_score_1_for_every_center(self):
        # Rounding makes center 4 the shortest, and so the nearest to the origin.
        centers = Centers(CENTERS, "cosine")
        zeros = np.zeros((5, 6), np.float32)
        assert kernels.assign(centers, zeros).tolist() == [0] * 5
        assert distances.all_scores(centers, zeros).tolist() == [[1.0] * 9] * 5
        assert distances.scores(centers, zeros, np.zeros(5, np.int32)).tolist() == [1.0] * 5
        plain = kernels.assign(Centers(CENTERS), zeros)
        assert plain.any(), "the case is too easy: the nearest to the origin is center 0"

    def test_equal_rows_score_exactly_0_and_none_is_below(self):
        centers = Centers(CENTERS, "cosine")
        own = distances.all_scores(centers, CENTERS)
        assert own.diagonal().tolist() == [0.0] * 9
        assert (own >= 0).all()

    def test_of_squared_euclidean_rows_of_zeros_are_rows_like_others(self):
        centers = Centers(np.array([[3, 4], [1, 0]], np.float32))
        assert kernels.assign(centers, np.zeros((1, 2), np.float32)).tolist() == [1]
        assert distances.all_scores(centers, np.zeros((1, 2), np.float32)).tolist() == [[25, 1]]

    def test_far_rows_have_cosine_s_scores(self):
        units = unit_rows(ROWS[~ZEROS])[0]
        tally = LloydTally(Centers(CENTERS, "cosine"), True)
        # In parts, as the first ones say how far a row has to be to matter.
        whole = Rows(units, None, np.arange(len(units)))
        tally.include(whole.pick(slice(start, start + 100)) for start in range(0, 600, 100))
        far = tally.result()[0].far
        scores = oracles.all_scores(units, CENTERS).min(axis=1) / 2
        np.testing.assert_array_equal(far.scores, np.sort(scores)[::-1][: len(far.scores)])


def exact_sums(vectors):
    """ExactSums [k, d] of vectors of Fractions, each a sum of few float64."""
    sums = ExactSums.zeros((len(vectors), len(vectors[0])))
    rest = [list(vector) for vector in vectors]
    while any(value for vector in rest for value in vector):
        floats = np.array([[float(value) for value in vector] for vector in rest])
        sums.add_floats(floats)
        rest = [
            [value - Fraction(x) for value, x in zip(vector, row, strict=True)]
            for vector, row in zip(rest, floats.tolist(), strict=True)
        ]
    return sums


def with_length(odd, bits):
    """Whole numbers that begin with `odd`, of a length of exactly 2**bits."""
    rest, found = 4**bits - odd * odd, [odd]
    while rest:
        found.append(math.isqrt(rest))
        rest -= found[-1] ** 2
    return found


class TestDirections:
    @pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
    @pytest.mark.parametrize("d", [1, 2, 7, 300])
    def test_are_exact_and_rounded_once(self, d, scale):
        rng = np.random.default_rng(d)
        vectors = rng.normal(size=(20, d)) * scale * 10.0 ** rng.integers(-9, 9, (20, d))
        exact = [oracles.fractions(vector) for vector in vectors]
        found, directed = directions(exact_sums(exact))
        assert directed.all()
        np.testing.assert_array_equal(found, [exact_direction(vector) for vector in exact])

    def test_of_sums_that_almost_cancel(self):
        vectors = [
            [Fraction(1), Fraction(1, 3), Fraction(0)],
            [Fraction(2) ** 40 + Fraction(1, 2**60) - 2**40, Fraction(1, 2**59), Fraction(0)],
        ]
        vectors[0][1] = Fraction(float(vectors[0][1]))
        sums = ExactSums.zeros((2, 3))
        for sign in (1.0, 1.0, -1.0):
            sums.add_floats(np.array([[sign * 1e30] * 3] * 2))
        sums.add_floats(np.array([[-1e30] * 3] * 2))
        sums.add(exact_sums(vectors))
        found, _ = directions(sums)
        np.testing.assert_array_equal(found, [exact_direction(vector) for vector in vectors])

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("odd", [2**24 + 1, 2**24 + 3, 2**25 - 1, 2**25 - 3, 2**24 + 8191])
    @pytest.mark.parametrize("nudge", [0, 1, -1])
    def test_halfway_between_two_float32(self, odd, sign, nudge):
        # Of length 2**25, an odd number above 2**24 is halfway; a last value that is a trace longer
        # or shorter moves it by far less than a float64 can tell.
        vector = [Fraction(sign * value) for value in with_length(odd, 25)]
        vector[-1] *= 1 + Fraction(nudge, 2**50)
        (found,), _ = directions(exact_sums([vector]))
        np.testing.assert_array_equal(found, exact_direction(vector))
        below, above = np.float32(odd - 1) / 2**25, np.float32(odd + 1) / 2**25
        even = below if (odd - 1) // 2 % 2 == 0 else above
        # A longer vector makes each of its values a smaller part.
        assert abs(found[0]) == (even if not nudge else below if nudge > 0 else above)

    def test_a_sum_of_exactly_0_has_none(self):
        sums = ExactSums.zeros((2, 3))
        for value in (0.1, 1e20, -0.1, -1e20):
            sums.add_floats(np.array([[value] * 3, [0, 0, abs(value)]]))
        found, directed = directions(sums)
        assert directed.tolist() == [False, True]
        assert found.tolist() == [[0, 0, 0], [0, 0, 1]]
        assert directions(ExactSums.zeros((1, 2)))[1].tolist() == [False]

    def test_values_below_float32_are_0(self):
        (found,), _ = directions(exact_sums([oracles.fractions([1.0, 1e-39, -1e-60])]))
        assert found.tobytes() == np.array([1, 0, 0], np.float32).tobytes()


def spherical(rows, centers, iterations, weights):
    """What spherical k-means is, in exact numbers but for the labels' float64 scores."""
    zeros = ~rows.any(axis=1)
    units, weights = unit_rows(rows[~zeros])[0], np.asarray(weights, np.float32)
    own, aside = weights[~zeros], sum(oracles.fractions(weights[zeros]), Fraction(0))
    records = []
    for _ in range(iterations + 1):
        labels = oracles.assign(units, centers)
        counts = np.bincount(labels, minlength=len(centers))
        counts[0] += zeros.sum()
        inertia = oracles.inertia(units, centers, labels, own) / 2 + aside
        records.append((centers, inertia, counts))
        new = centers.copy()
        for j in range(len(centers)):
            total = oracles.column_sums(units[labels == j], own[labels == j])
            if any(total):
                new[j] = exact_direction(total)
        centers = new
    return records


def fitted(rows, centers, weights=None, **fields):
    parameters = Parameters(
        **{
            "num_clusters": len(centers),
            "initial_clusters": centers,
            "distance_metric": "cosine",
            "tolerance": 0.0,
            "empty_clusters": "keep",
            **fields,
        }
    )
    dataset = MemoryDataset(rows, weights, "cosine")
    return fit_from(dataset, parameters, parameters.given_centers)


class TestFits:
    @pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
    def test_are_spherical_k_means_to_the_byte(self, weights):
        each = np.ones(len(ROWS)) if weights is None else weights
        expected = spherical(ROWS, CENTERS, 4, each)
        found = fitted(ROWS, CENTERS, weights, max_iterations=4)
        centers, _, counts = expected[-1]
        np.testing.assert_array_equal(found.centers, centers)
        assert found.counts.tolist() == counts.tolist()
        assert [record["inertia"] for record in found.state.history] == [
            float(inertia) for _, inertia, _ in expected
        ]

    @pytest.mark.parametrize("k", [1, 3, 40])
    def test_inertia_is_what_float64_computes_anew(self, k):
        rows = data.spambase()
        model = KMeans(k, "random", distance_metric="cosine", max_iterations=5).fit(rows)
        best = similarity(rows[rows.any(axis=1)], model.cluster_centers).max(axis=1)
        expected = math.fsum((1 - best).tolist()) + int((~rows.any(axis=1)).sum())
        assert model.inertia == pytest.approx(expected, rel=2e-6)
        # By our own definition of a score the sum is the same to the last digits.
        assert model.inertia == pytest.approx(math.fsum(model.score_samples(rows)), rel=1e-12)
        units = oracles.all_scores(unit_rows(rows)[0], model.cluster_centers)
        halves = np.where(rows.any(axis=1), units.min(axis=1) / 2, 1.0)
        assert model.inertia == pytest.approx(math.fsum(halves.tolist()), rel=1e-9)

    def test_worked_by_hand(self):
        rows = np.array([[2, 0], [0, 5], [3, 4], [0, 0], [-7, 0]], np.float32)
        found = fitted(rows, np.array([[1, 0], [-1, 0]]), max_iterations=1)
        # (1, 0), (0, 1) and (0.6, 0.8) are of center 0, as (0, 1) is as near to both; and the
        # row of zeros is counted there.
        root = math.sqrt(1.6**2 + 1.8**2)
        assert found.counts.tolist() == [4, 1]
        np.testing.assert_allclose(found.centers, [[1.6 / root, 1.8 / root], [-1, 0]], rtol=1e-7)
        first, last = found.state.history
        assert first["inertia"] == pytest.approx(0 + 1 + 0.4 + 1 + 0, rel=1e-7)
        assert last["inertia"] == pytest.approx(3 - root + 1, rel=1e-7)
        assert (first["largest"], first["smallest"]) == (4.0, 1.0)

    def test_neither_lengths_nor_rows_of_zeros_move_a_center(self):
        lengths = np.float32(2.0) ** np.random.default_rng(2).integers(-30, 30, len(ROWS))
        lengths[7] = 1
        expected = fitted(ROWS[~ZEROS], CENTERS, max_iterations=5)
        found = fitted(ROWS * lengths[:, None], CENTERS, max_iterations=5)
        assert found.centers.tobytes() == expected.centers.tobytes()
        assert (found.counts - expected.counts).tolist() == [3] + [0] * 8
        pairs = zip(found.state.history, expected.state.history, strict=True)
        assert all(a["inertia"] == pytest.approx(b["inertia"] + 3) for a, b in pairs)
        assert all(
            a.get("shift") == b.get("shift")
            for a, b in zip(found.state.history, expected.state.history, strict=True)
        )

    def test_a_weight_is_as_many_copies(self):
        times = np.random.default_rng(3).integers(0, 4, len(ROWS))
        weighted = fitted(ROWS, CENTERS, times, max_iterations=6)
        copied = fitted(np.repeat(ROWS, times, axis=0), CENTERS, max_iterations=6)
        assert weighted.centers.tobytes() == copied.centers.tobytes()
        inertias = [
            [record["inertia"] for record in one.state.history] for one in (weighted, copied)
        ]
        assert inertias[0] == inertias[1]

    def test_opposite_rows_leave_their_center_where_it_is(self):
        rows = np.array([[0, 1], [0, -3], [1, 1], [1, 1]], np.float32)
        centers = np.array([[-1, 0], [1, 1]], np.float32)
        found = fitted(rows[:2], centers[:1], max_iterations=3)
        assert found.centers.tolist() == [[-1, 0]]
        assert found.state.finished
        assert found.state.history[0]["shift"] == 0

    def test_an_empty_cluster_moves_to_the_farthest_row(self):
        rows = np.array([[1, 0], [9, 1], [0, 2], [0, 0]], np.float32)
        centers = np.array([[1, 0], [-1, 0]], np.float32)
        found = fitted(rows, centers, max_iterations=1, empty_clusters="relocate")
        assert found.centers[1].tolist() == [0, 1]
        assert found.state.history[0]["relocated"] == 1
        kept = fitted(rows, centers, max_iterations=1)
        assert kept.centers[1].tolist() == [-1, 0]

    def test_a_cluster_of_zeros_alone_is_empty_but_counts_them(self):
        rows = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], np.float32)
        centers = np.array([[-1, 0], [1, 0]], np.float32)
        found = fitted(rows, centers, np.array([1, 1, 0.5, 2]), max_iterations=0)
        assert found.counts.tolist() == [2, 2]
        (record,) = found.state.history
        assert record["empty_clusters"] == 1
        assert (record["smallest"], record["largest"]) == (2.0, 2.5)
        assert record["inertia"] == pytest.approx(2.5 + 1 - math.sqrt(0.5), rel=1e-7)
        moved = fitted(rows, centers, max_iterations=1, empty_clusters="relocate")
        assert moved.state.history[0]["relocated"] == 1

    def test_tolerance_is_of_the_mean_variance_of_unit_rows(self):
        units = unit_rows(ROWS[~ZEROS])[0].astype(np.float64)
        variance = units.var(axis=0).mean()
        full = fitted(ROWS, CENTERS)
        shifts = [record["shift"] for record in full.state.history[:-1]]
        asked = sorted(shifts)[len(shifts) // 2] / variance * 1.000001
        found = fitted(ROWS * np.float32(64), CENTERS, tolerance=asked)
        first = next(i for i, shift in enumerate(shifts) if shift <= asked * variance)
        assert found.state.converged
        assert found.state.iteration == first + 1

    @pytest.mark.parametrize("name", ["random", "kmeans_plus_plus"])
    def test_no_row_of_zeros_is_ever_drawn(self, name):
        rows = np.zeros((400, 3), np.float32)
        rows[::50] = cases.normal(8, 3)
        model = KMeans(8, name, distance_metric="cosine", max_iterations=0).fit(rows)
        units = unit_rows(rows[::50])[0]
        assert sorted(model.cluster_centers.tolist()) == sorted(units.tolist())
        assert model.inertia == 392

    def test_rows_of_zeros_alone_are_refused(self):
        for kmeans in (KMeans(1, "random", distance_metric="cosine"), KMeans(1, [[1, 0]])):
            if kmeans.distance_metric == "cosine":
                with pytest.raises(DataError, match="all 4 rows are zeros"):
                    kmeans.fit(np.zeros((4, 2)))
        with pytest.raises(DataError, match=r"2 clusters are asked of 1 rows .3 of zeros have no"):
            KMeans(2, "random", distance_metric="cosine").fit([[0, 0], [1, 0], [0, 0], [0, 0]])

    def test_a_dataset_of_another_metric_is_refused(self):
        parameters = Parameters(9, CENTERS, distance_metric="cosine")
        with pytest.raises(ValueError, match="squared_euclidean"):
            fit_from(MemoryDataset(ROWS), parameters, CENTERS)

    def test_rows_are_found_again_by_their_numbers(self):
        dataset = MemoryDataset(ROWS, None, "cosine")
        numbers = np.array([598, 0, 201, 4])
        np.testing.assert_array_equal(dataset.gather(numbers), unit_rows(ROWS[numbers])[0])
        assert dataset.facts.rows == len(ROWS) - 3
        assert dataset.facts.total_weight == len(ROWS) - 3


def updates(rows, centers, weights=None):
    """One update in exact numbers: cost before, bound, and exact cost after, rows where they were.

    A cost is half of what `centers_cost` says, as squares of the rows do not change.
    """
    units = in_metric(Rows(rows, weights, np.arange(len(rows))), "cosine")
    tally = LloydTally(Centers(centers, "cosine"), False)
    tally.include([units])
    survey, totals = tally.result()
    update = lloyd.update_range(centers, totals, survey, [], 0, "cosine")
    after = lloyd.centers_cost(update.centers, totals, survey.cluster_weights())
    return update.cost / 2, update.rise, after / 2


@st.composite
def crowds(draw):
    """Rows in a few tight bundles, as tight as float32 allows, and unit centers about them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Few shapes, so that few kernels are compiled.
    d, k = draw(st.sampled_from([(1, 2), (3, 1), (40, 4)]))
    spread = draw(st.sampled_from([0.0, 1e-8, 1e-7, 1e-6, 1e-3, 1.0]))
    middles = rng.normal(size=(k, d))
    rows = middles[rng.integers(0, k, 60)] + spread * rng.normal(size=(60, d))
    near = middles + draw(st.sampled_from([0.0, 1e-7, 1e-4])) * rng.normal(size=(k, d))
    weights = draw(st.sampled_from([None, (rng.random(60) * 1000).astype(np.float32)]))
    return rows.astype(np.float32), unit_rows(near.astype(np.float32))[0], weights


class TestCost:
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(crowds())
    def test_rises_by_no_more_than_the_bound(self, crowd):
        before, rise, after = updates(*crowd)
        assert after - before <= Fraction(rise)

    def test_does_rise_by_rounding(self):
        # Otherwise the test above would prove nothing.
        rises = []
        for seed in range(30):
            rows = cases.normal(3, 5, seed) * np.float32(1e-7) + cases.normal(1, 5, 99 + seed)
            before, rise, after = updates(rows, unit_rows(rows[:1])[0])
            rises.append((after - before) / Fraction(rise))
        assert max(rises) > 0
        assert max(rises) <= 1

    @pytest.mark.parametrize("seed", range(4))
    def test_from_a_center_a_float32_away_rises_by_no_more(self, seed):
        # Rows that lie apart make shorter centers the better ones, as none of length 1 can be.
        rows = cases.normal(20, 2, seed) + np.float32(0.5)
        units = in_metric(Rows(rows, None, np.arange(20)), "cosine")
        tally = LloydTally(Centers(units.rows[:1], "cosine"), False)
        tally.include([units])
        survey, totals = tally.result()
        (middle,), _ = directions(totals)
        rises = []
        for x, y in itertools.product(range(-2, 3), repeat=2):
            center = (middle.view(np.int32) + np.array([x, y], np.int32)).view(np.float32)[None]
            update = lloyd.update_range(center, totals, survey, [], 0, "cosine")
            after = lloyd.centers_cost(update.centers, totals, survey.cluster_weights())
            rises.append((after - update.cost) / 2 / Fraction(update.rise))
        assert max(rises) <= 1
        assert max(rises) > 0.5, "far below the bound: half of it would do"

    def test_is_bounded_closely(self):
        units = unit_rows(ROWS[~ZEROS])[0]
        _, rise, _ = updates(units, CENTERS)
        assert 0 < rise < 1e-6 * len(units)

    def test_that_rises_by_more_is_an_error(self):
        rows, centers = ROWS, CENTERS
        found = fitted(rows, centers)
        before = Fraction(found.state.history[-1]["inertia"])
        worse = lloyd.Measure(before + Fraction(1, 100), found.counts, np.ones(9), 0)
        state = FitState(iteration=3, inertia=before, rise=1e-5)
        with pytest.raises(DataError, match="the cost rose"):
            advance(
                state,
                Parameters(9, centers, distance_metric="cosine"),
                mean_variance=1.0,
                num_features=6,
                measured=worse,
                relocated=0,
                shift=Fraction(1),
                rise=0.0,
            )

    @pytest.mark.parametrize("seed", range(2))
    def test_long_fits_of_tight_bundles_never_rise(self, seed):
        rng = np.random.default_rng(seed)
        middles = rng.normal(size=(6, 10))
        rows = (middles[rng.integers(0, 6, 400)] + 3e-7 * rng.normal(size=(400, 10))).astype("f4")
        fitted(rows, rows[:12], max_iterations=50, empty_clusters="relocate")


class TestModels:
    def model(self, **fields):
        return KMeansModel(CENTERS, 0.0, np.zeros(9, np.int64), distance_metric="cosine", **fields)

    def test_centers_of_any_length_are_made_unit_and_unit_ones_stay(self):
        model = KMeansModel([[3, 4]], 0.0, np.zeros(1), distance_metric="cosine")
        assert model.cluster_centers.tolist() == [[np.float32(0.6), np.float32(0.8)]]
        assert self.model().cluster_centers.tobytes() == CENTERS.tobytes()
        fit = fitted(ROWS, CENTERS, max_iterations=3)
        checked = checked_centers("c", fit.centers, "cosine")
        assert checked.tobytes() == fit.centers.tobytes()

    def test_a_center_of_zeros_is_refused(self):
        with pytest.raises(ValueError, match="cluster_centers: center 1 is all zeros"):
            KMeansModel([[1, 0], [0, 0]], 0.0, np.zeros(2), distance_metric="cosine")

    def test_an_unknown_metric_is_refused(self):
        with pytest.raises(ValueError, match=r"distance_metric.*did you mean 'cosine'"):
            KMeansModel([[1, 0]], 0.0, np.zeros(1), distance_metric="cosin")

    def test_predicts_rows_of_any_length_and_of_zeros(self):
        model, similar = self.model(), similarity(ROWS[~ZEROS], CENTERS)
        assert model.predict(ROWS[~ZEROS] * 5).tolist() == similar.argmax(axis=1).tolist()
        assert model.predict(ROWS[ZEROS]).tolist() == [0, 0, 0]
        assert model.score_samples(ROWS[ZEROS]).tolist() == [1, 1, 1]
        assert model.transform(ROWS[ZEROS]).tolist() == [[1.0] * 9] * 3
        np.testing.assert_allclose(model.transform(ROWS[~ZEROS]), 1 - similar, atol=2e-7)
        expected = (WEIGHTS[~ZEROS] * (1 - similar.max(axis=1))).sum() + WEIGHTS[ZEROS].sum()
        assert model.score(ROWS, WEIGHTS) == pytest.approx(expected, rel=1e-6)

    def test_its_own_centers_score_0(self):
        assert self.model().score_samples(CENTERS).tolist() == [0.0] * 9

    def test_is_read_back_with_its_metric(self, tmp_path):
        model = self.model()
        model.save(tmp_path / "model")
        loaded = KMeansModel.load(tmp_path / "model")
        assert loaded.distance_metric == "cosine"
        assert loaded.cluster_centers.tobytes() == CENTERS.tobytes()
        assert loaded.transform(ROWS).tobytes() == model.transform(ROWS).tobytes()

    def test_of_a_metric_that_is_not_known_is_refused(self, tmp_path):
        from beam_kmeans.io.manifest import read_json, write_json

        self.model().save(tmp_path / "model")
        name = str(tmp_path / "model" / "model.json")
        fields = read_json(name, "a model", 1)
        del fields["format_version"], fields["checksum"]
        write_json(name, {**fields, "distance_metric": "manhattan"}, 1)
        with pytest.raises(DataError, match="manhattan"):
            KMeansModel.load(tmp_path / "model")

    def test_standardizes_first(self):
        means, scales = (1.0,) * 6, (2.0, 1.0, 0.5, 1.0, 1.0, 4.0)
        model = self.model(standardization=Standardization(means, scales))
        standardized = ((ROWS - np.array(means)) / np.array(scales)).astype(np.float32)
        assert model.predict(ROWS).tolist() == self.model().predict(standardized).tolist()
        assert model.predict([means]).tolist() == [0]
        assert model.score_samples([means]).tolist() == [1.0]

    def test_starts_no_fit_of_another_metric(self):
        with pytest.raises(ValueError, match=r"'cosine'.*'squared_euclidean'"):
            KMeans(9, self.model())
        KMeans(9, self.model(), distance_metric="cosine")
        KMeans(9, self.model().cluster_centers)


class TestDecision:
    def test_needs_all_of_its_bound(self):
        """Where the definition loses a thousand terms, and a float64 product loses none."""
        d = 1024
        rows = np.zeros((1, d), np.float32)
        centers = np.zeros((2, d), np.float32)
        centers[:, 0] = 1
        # Each square is just below half a spacing of 1, so that in order they are all lost ...
        centers[1, 2:] = np.float32(2.0**-26.5 * 0.995)
        # ... but this one is 50 spacings of 1, which are fewer than those lost.
        centers[0, 1] = np.float32(10 * 2.0**-26)
        expected = oracles.assign(rows, centers)
        exact = [sum(x * x for x in oracles.fractions(center)) for center in centers]
        assert expected.tolist() == [1]
        assert exact[0] < exact[1]
        np.testing.assert_array_equal(distances.decide(Centers(centers), rows), expected)

    def test_compares_few_pairs_by_definition(self, monkeypatch):
        rows, centers, expected = cases.case("repeated-rows")
        pairs, pair_scores = [], distances._pair_scores

        def counted(left, right, which, candidate):
            pairs.append(len(which))
            return pair_scores(left, right, which, candidate)

        monkeypatch.setattr(distances, "_pair_scores", counted)
        np.testing.assert_array_equal(distances.decide(Centers(centers), rows), expected)
        assert sum(pairs) == len(rows)
