from fractions import Fraction

import numpy as np
import pytest

from beam_kmeans import lloyd
from beam_kmeans.distances import Centers
from beam_kmeans.errors import DataError
from beam_kmeans.lloyd import FarRows, Survey
from beam_kmeans.sums import ExactSums, add_rows
from tests import oracles
from tests.cases import normal


def pass_over(rows, centers, weights=None, labels=None):
    """What a pass brings home, by brute force: the survey, the exact sums, the labels."""
    rows, centers = np.asarray(rows, np.float32), np.asarray(centers, np.float32)
    labels = oracles.assign(rows, centers) if labels is None else np.asarray(labels)
    labels = labels.astype(np.int32)
    k, wide = len(centers), rows.astype(np.float64)
    exact = None
    if weights is not None:
        weights = np.asarray(weights, np.float32)
        column = weights.astype(np.float64)[:, None]
        wide, exact = wide * column, ExactSums.zeros((k, 1))
        add_rows(exact, labels, column)
        exact = exact.reshaped((k,))
    totals = ExactSums.zeros(centers.shape)
    add_rows(totals, labels, wide)
    far = FarRows.zero(rows.shape[1])
    unknown = np.full(len(rows), np.inf)
    far.include(Centers(centers), rows, weights, np.arange(len(rows)), labels, unknown)
    return Survey(np.bincount(labels, minlength=k), exact, far), totals, centers


def moves_of(rows, centers, weights=None):
    survey, _, _ = pass_over(rows, centers, weights)
    return [(m.empty, m.donor, m.row.tolist(), m.row_number) for m in lloyd.relocations(survey)]


def update(rows, centers, weights=None, moves=None):
    survey, totals, centers = pass_over(rows, centers, weights)
    moves = lloyd.relocations(survey) if moves is None else moves
    return lloyd.update_range(centers, totals, survey, moves, 0)


# Two clusters at 0 and 100; the others start where no row is.
LINE = [[0], [1], [-2], [100], [104], [91]]


class TestRelocations:
    def test_the_farthest_row_goes_to_the_first_empty_cluster(self):
        assert moves_of(LINE, [[0], [5000], [100], [9000]]) == [
            (1, 2, [91.0], 5),
            (3, 2, [104.0], 4),
        ]

    def test_without_empty_clusters_nothing_moves(self):
        assert moves_of(LINE, [[0], [100]]) == []

    def test_the_row_is_taken_out_of_its_donor(self):
        found = update(LINE, [[0], [5000], [100]])
        assert found.centers.tolist() == [[np.float32(-1 / 3)], [91], [102]]

    def test_a_weighted_row_is_taken_out_with_its_weight(self):
        found = update(LINE, [[0], [5000], [100]], [1, 1, 1, 3, 1, 0.5])
        # 91 is 9 away with weight 1/2; 104 is 4 away with weight 1.
        assert found.centers[1:].tolist() == [[91], [101]]

    def test_weight_times_score_decides(self):
        assert moves_of(LINE, [[0], [5000], [100]], [1, 1, 30, 1, 1, 1]) == [(1, 0, [-2.0], 2)]

    def test_equal_scores_go_by_row_number(self):
        assert moves_of([[3], [-3], [0], [3]], [[0], [900], [901]]) == [
            (1, 0, [3.0], 0),
            (2, 0, [-3.0], 1),
        ]

    def test_copies_of_a_value_count_once(self):
        assert moves_of([[0], [9], [9], [9], [4]], [[0], [900], [901]]) == [
            (1, 0, [9.0], 1),
            (2, 0, [4.0], 4),
        ]

    def test_only_one_copy_leaves_its_donor(self):
        found = update([[0], [9], [9]], [[0], [900]])
        assert found.centers.tolist() == [[4.5], [9]]

    def test_a_row_on_its_center_never_moves(self):
        assert moves_of([[0], [0], [7]], [[0], [7], [900]]) == []

    def test_the_last_row_of_positive_weight_never_leaves(self):
        # The row at 7 is alone in its cluster, though it is the farthest.
        assert moves_of([[0], [1], [9]], [[0], [4], [900]]) == [(2, 0, [1.0], 1)]
        assert moves_of([[7]], [[0], [900]]) == []

    def test_rows_of_weight_zero_do_not_keep_a_donor_alive(self):
        assert moves_of([[5], [6], [7]], [[0], [900]], [0, 2, 0]) == []

    def test_a_row_of_weight_zero_never_moves(self):
        assert moves_of([[0], [1], [50]], [[0], [900]], [1, 1, 0]) == [(1, 0, [1.0], 1)]

    def test_a_cluster_of_rows_without_weight_is_empty(self):
        assert moves_of([[0], [3], [90]], [[0], [90]], [1, 1, 0]) == [(1, 0, [3.0], 1)]

    def test_a_donor_gives_until_one_row_is_left(self):
        found = moves_of([[1], [2], [3]], [[0], [900], [901], [902], [903]])
        assert found == [(1, 0, [3.0], 2), (2, 0, [2.0], 1)]

    def test_a_donor_that_has_no_more_to_give_is_passed_over(self):
        # 60 and 61 are far from 40: one of them must stay, the next are of the other cluster.
        rows = [[60], [61], [0], [1], [2]]
        assert moves_of(rows, [[40], [0], [900], [901], [902]]) == [
            (2, 0, [61.0], 1),
            (3, 1, [2.0], 4),
            (4, 1, [1.0], 3),
        ]

    def test_empty_clusters_beyond_the_far_rows_wait(self):
        rows = np.arange(200, dtype=np.float32)[:, None]
        centers = np.concatenate([[[0]], 10_000 + np.arange(100)[:, None]])
        found = moves_of(rows, centers)
        assert [empty for empty, *_ in found] == list(range(1, 65))
        assert [number for *_, number in found] == list(range(199, 135, -1))

    def test_equal_weights_that_use_up_a_donor_are_told_exactly(self):
        # 0.1 + 0.2 + 0.3 as float32 weights: what is left is compared without rounding.
        weights = np.array([0.1, 0.2, 0.3], np.float32)
        assert moves_of([[1], [2], [3]], [[0], [90], [91], [92]], weights) == [
            (1, 0, [3.0], 2),
            (2, 0, [2.0], 1),
        ]

    def test_moves_change_no_argument(self):
        survey, totals, centers = pass_over(LINE, [[0], [5000], [100]], [1, 1, 1, 3, 1, 0.5])
        before = survey.cluster_weights().to_fractions(), totals.to_fractions(), centers.tolist()
        counts = survey.counts.tolist()
        lloyd.update_range(centers, totals, survey, lloyd.relocations(survey), 0)
        lloyd.update_range(centers, totals, survey, lloyd.relocations(survey), 0)
        assert survey.counts.tolist() == counts
        assert before == (
            survey.cluster_weights().to_fractions(),
            totals.to_fractions(),
            centers.tolist(),
        )


class TestUpdate:
    @pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
    @pytest.mark.parametrize("scale", [1.0, 1e-37, 1e36])
    def test_centers_are_exact_means_rounded_once(self, weighted, scale):
        rows, centers = normal(500, 3, 0, scale), normal(7, 3, 1, scale)
        weights = np.random.default_rng(2).exponential(size=500).astype(np.float32)
        weights = weights if weighted else None
        found = update(rows, centers, weights)
        labels = oracles.assign(rows, centers)
        expected = oracles.exact_means(rows, labels, centers, weights)
        assert found.centers.tobytes() == expected.tobytes()

    def test_an_empty_cluster_without_a_move_stays(self):
        found = update(LINE, [[0], [5000], [100]], moves=[])
        assert found.centers[1].tolist() == [5000]

    def test_the_shift_is_the_squared_distance_moved(self):
        rows, centers = normal(500, 3), normal(7, 3, 1)
        found = update(rows, centers)
        exact = sum(
            (Fraction(float(a)) - Fraction(float(b))) ** 2
            for a, b in zip(found.centers.flat, centers.flat, strict=True)
        )
        assert float(found.shift) == pytest.approx(float(exact), rel=1e-14)

    def test_the_shift_of_a_relocated_center_counts(self):
        found = update(LINE, [[0], [5000], [100]])
        third = Fraction(float(np.float32(-1 / 3)))
        assert found.shift == third**2 + 4909**2 + 4

    def test_nothing_moves_at_the_optimum(self):
        found = update([[0], [2], [10], [12]], [[1], [11]])
        assert found.shift == 0
        assert found.centers.tolist() == [[1], [11]]
        assert found.cost + sum([0, 4, 100, 144]) == 4

    @pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
    def test_the_cost_is_the_exact_inertia_less_the_squares(self, weighted):
        rows, centers = normal(200, 3, 0, 1, 5000), normal(7, 3, 1, 1, 5000)
        weights = np.random.default_rng(2).exponential(size=200).astype(np.float32)
        weights = weights if weighted else None
        survey, totals, centers = pass_over(rows, centers, weights)
        squares = sum(oracles.column_sums(rows, weights, power=2))
        cost = lloyd.centers_cost(centers, totals, survey.cluster_weights())
        exact = oracles.inertia(rows, centers, oracles.assign(rows, centers), weights)
        assert cost + squares == exact
        measured = lloyd.measure(survey, [cost], squares)
        assert measured.inertia == exact

    def test_the_rise_bounds_what_rounding_the_centers_costs(self):
        rows, centers = normal(300, 3, 0, 1, 5000), normal(7, 3, 1, 1, 5000)
        found = update(rows, centers)
        labels = oracles.assign(rows, centers)
        best = Fraction(0)
        for j in range(7):
            own = rows[labels == j]
            sums, squares = oracles.column_sums(own), oracles.column_sums(own, power=2)
            best += sum(q - s**2 / len(own) for s, q in zip(sums, squares, strict=True))
        paid = oracles.inertia(rows, found.centers, labels) - best
        assert 0 < float(paid) <= found.rise
        assert found.rise < 3 * 300 * (2.0**-11 / 2) ** 2 * 4

    def test_a_relocation_lowers_the_cost(self):
        before = update(LINE, [[0], [5000], [100]], moves=[])
        after = update(LINE, [[0], [5000], [100]])
        one, two = (
            oracles.inertia(np.float32(LINE), u.centers, oracles.assign(LINE, u.centers))
            for u in (before, after)
        )
        assert two < one


class TestRanges:
    @pytest.mark.parametrize(("k", "d"), [(1, 1), (100, 32), (7, 3), (10, 2**21), (2**20 + 1, 1)])
    def test_ranges_hold_each_center_once(self, k, d):
        found = lloyd.ranges(k, d)
        assert found[0][0] == 0
        assert found[-1][1] == k
        assert all(start < stop for start, stop in found)
        assert [stop for _, stop in found[:-1]] == [start for start, _ in found[1:]]
        assert all((stop - start) * d <= max(d, 2**20) for start, stop in found)

    def test_small_models_are_one_range(self):
        assert lloyd.ranges(1000, 256) == [(0, 1000)]

    @pytest.mark.parametrize("values", [3, 6, 9, 1000])
    @pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
    def test_several_ranges_give_what_one_gives(self, monkeypatch, values, weighted):
        rows = np.concatenate([normal(60, 3), normal(3, 3, 5, 40.0)])
        centers = normal(7, 3, 1)
        centers[[1, 4, 5]] = 900  # empty: relocated to rows whose donors are in other ranges
        weights = np.random.default_rng(2).exponential(size=63).astype(np.float32)
        survey, totals, _ = pass_over(rows, centers, weights if weighted else None)
        moves = lloyd.relocations(survey)
        assert len(moves) == 3
        one = lloyd.update_range(centers, totals, survey, moves, 0)
        monkeypatch.setattr(lloyd, "RANGE_VALUES", values)
        ranges = lloyd.ranges(7, 3)
        assert len(ranges) == -(-7 // min(7, values // 3))
        found = [
            lloyd.update_range(centers[a:b], totals.part(a, b), survey, moves, a) for a, b in ranges
        ]
        assert np.concatenate([part.centers for part in found]).tobytes() == one.centers.tobytes()
        assert sum(part.cost for part in found) == one.cost
        assert sum(part.shift for part in found) == one.shift
        assert sum(part.rise for part in found) == pytest.approx(one.rise)


class TestMeasure:
    def test_a_measure_says_what_the_pass_found(self):
        survey, totals, centers = pass_over(LINE, [[0], [5000], [100]], [1, 1, 1, 3, 1, 0.5])
        squares = sum(oracles.column_sums(np.float32(LINE), np.float32([1, 1, 1, 3, 1, 0.5]), 2))
        cost = lloyd.centers_cost(centers, totals, survey.cluster_weights())
        found = lloyd.measure(survey, [cost], squares)
        assert found.inertia == 0 + 1 + 4 + 0 + 16 + Fraction(81, 2)
        assert found.counts.tolist() == [3, 0, 3]
        assert found.cluster_weights.tolist() == [3, 0, 4.5]
        assert found.empty_clusters == 1

    def test_sums_of_other_rows_are_refused(self):
        survey, totals, centers = pass_over(LINE, [[0], [100]])
        cost = lloyd.centers_cost(centers, totals, survey.cluster_weights())
        with pytest.raises(DataError, match="not of the same rows"):
            lloyd.measure(survey, [cost], Fraction(100))


class TestCheckCost:
    def test_a_cost_that_does_not_rise_passes(self):
        lloyd.check_cost(3, Fraction(10), Fraction(10), 0.0, 5)
        lloyd.check_cost(3, Fraction(10), Fraction(0), 0.0, 5)

    def test_a_rise_within_the_rounding_of_the_centers_passes(self):
        lloyd.check_cost(3, Fraction(10), Fraction(11), 1.0, 5)

    @pytest.mark.parametrize("after", [Fraction(12), Fraction(11) + Fraction(1, 10**5)])
    def test_a_larger_rise_fails_and_names_all_numbers(self, after):
        with pytest.raises(DataError, match=r"iteration 3: .* from 10.0 to 1[12]\.0.*1\.0.* bug"):
            lloyd.check_cost(3, Fraction(10), after, 1.0, 5)

    def test_the_smallest_rise_is_seen_where_nothing_was_rounded(self):
        with pytest.raises(DataError, match="the cost rose"):
            lloyd.check_cost(1, Fraction(10), Fraction(10) * (1 + Fraction(2) ** -40), 0.0, 5)


class TestFarRows:
    @pytest.mark.parametrize("weights", [None, np.array([1, 0, 2], np.float32)])
    def test_taking_rows_in_changes_no_argument(self, weights):
        rows, bounds = np.array([[1], [2], [3]], np.float32), np.array([np.inf, np.inf, 9.0])
        centers = Centers(np.zeros((1, 1), np.float32))
        far = FarRows.zero(1)
        far.include(centers, rows, weights, np.arange(3), np.zeros(3, np.int32), bounds)
        assert far.row_numbers.tolist() == [2, 1, 0] if weights is None else [2, 0]
        assert bounds.tolist() == [np.inf, np.inf, 9.0]

    def test_a_bound_below_zero_leaves_a_row_out(self):
        rows, bounds = np.array([[1], [2], [3]], np.float32), np.array([np.inf, -1, 9.0])
        centers = Centers(np.zeros((1, 1), np.float32))
        far = FarRows.zero(1)
        far.include(centers, rows, None, np.arange(3), np.zeros(3, np.int32), bounds)
        assert far.row_numbers.tolist() == [2, 0]

    @pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
    def test_loose_bounds_give_what_tight_bounds_give(self, weighted):
        random = np.random.default_rng(0)
        rows = random.integers(0, 9, (3000, 3)).astype(np.float32)
        weights = random.integers(0, 3, 3000).astype(np.float32) if weighted else None
        centers, labels = Centers(np.zeros((1, 3), np.float32)), np.zeros(3000, np.int32)
        scores = (rows.astype(np.float64) ** 2).sum(axis=1)
        found = []
        for bounds in (scores, scores * random.uniform(1, 3, 3000), np.full(3000, np.inf)):
            far = FarRows.zero(3)
            for part in np.array_split(random.permutation(3000), 6):
                own = None if weights is None else weights[part]
                far.include(centers, rows[part], own, part, labels[part], bounds[part])
            found.append((far.priorities.tolist(), far.row_numbers.tolist()))
            assert len(far.priorities) == 64
            assert far.threshold == far.priorities[-1]
        assert found[0] == found[1] == found[2]
