import numpy as np
import pytest

from beam_kmeans import distances
from beam_kmeans.distances import Centers
from tests import oracles
from tests.cases import CASES, case, normal


class TestDecide:
    @pytest.mark.parametrize("name", CASES)
    def test_every_row_goes_where_brute_force_says(self, name):
        rows, centers, expected = case(name)
        np.testing.assert_array_equal(distances.decide(Centers(centers), rows), expected)

    def test_a_bound_that_is_too_small_would_be_seen(self, monkeypatch):
        rows, centers, expected = case("permuted-centers")
        monkeypatch.setattr(distances, "_UNIT64", 0.0)
        assert (distances.decide(Centers(centers), rows) != expected).any()

    def test_another_order_of_ties_would_be_seen(self):
        rows, centers, expected = case("grid")
        prepared = Centers(centers)
        prepared.live = prepared.live[::-1]
        assert (distances.decide(prepared, rows) != expected).any()

    @pytest.mark.parametrize("values", [1, 100, 10_000])
    def test_steps_of_any_size_give_the_same(self, monkeypatch, values):
        rows, centers, expected = case("middles")
        monkeypatch.setattr(distances, "_DECISION_VALUES", values)
        found = distances.decide(Centers(centers), rows[:500])
        assert found.tolist() == expected[:500].tolist()

    def test_arguments_stay_as_they_were(self):
        rows, centers, _ = case("grid")
        before = rows.tobytes(), centers.tobytes()
        distances.decide(Centers(centers), rows)
        distances.all_scores(Centers(centers), rows)
        assert (rows.tobytes(), centers.tobytes()) == before

    def test_minus_zero_and_zero_are_one_center(self):
        prepared = Centers(np.array([[1.0], [-0.0], [0.0], [1.0]], np.float32))
        assert prepared.live.tolist() == [0, 1]


def by_definition(rows, centers):
    return [
        [
            sum_in_order(
                (float(x) - float(c)) * (float(x) - float(c))
                for x, c in zip(row, center, strict=True)
            )
            for center in centers
        ]
        for row in rows
    ]


def sum_in_order(values):
    total = 0.0
    for value in values:
        total += value
    return total


class TestScores:
    @pytest.mark.parametrize(
        "name", ["digits", "mean-5000", "1e-37", "1e38", "mixed-scales", "d=1"]
    )
    def test_scores_are_sums_in_order_to_the_last_bit(self, name):
        rows, centers, _ = case(name)
        rows, centers = rows[:40], centers[:7]
        expected = by_definition(rows, centers)
        prepared = Centers(centers)
        assert distances.all_scores(prepared, rows).tolist() == expected
        assert oracles.all_scores(rows, centers).tolist() == expected
        indices = np.arange(40, dtype=np.int32) % 7
        own = [scores[j] for scores, j in zip(expected, indices.tolist(), strict=True)]
        assert distances.scores(prepared, rows, indices).tolist() == own

    @pytest.mark.parametrize("name", ["spambase", "k=1000", "d=1024"])
    def test_many_scores_in_many_steps_are_the_same(self, name):
        rows, centers, expected = case(name)
        prepared, rows, expected = Centers(centers), rows[:2000], expected[:2000].astype(np.int32)
        found = distances.all_scores(prepared, rows)
        np.testing.assert_array_equal(found, oracles.all_scores(rows, centers))
        np.testing.assert_array_equal(found.argmin(axis=1), expected)
        np.testing.assert_array_equal(distances.scores(prepared, rows, expected), found.min(axis=1))

    @pytest.mark.parametrize(("values", "rows"), [(1, 1), (50, 7), (10**6, 10**6)])
    def test_tiles_of_any_size_give_the_same(self, monkeypatch, values, rows):
        data, centers, expected = case("mixed-scales")
        data, prepared = data[:100], Centers(centers)
        indices = expected[:100].astype(np.int32)
        exact = np.array(by_definition(data, centers))
        monkeypatch.setattr(distances, "_TILE_VALUES", values)
        monkeypatch.setattr(distances, "_TILE_ROWS", rows)
        found = distances.scores(prepared, data, indices)
        assert found.tolist() == exact[np.arange(100), indices].tolist()
        found = distances.squared_distances(data, centers[1])
        assert found.tolist() == exact[:, 1].tolist()

    def test_no_rows_have_no_scores(self):
        prepared = Centers(normal(3, 8))
        assert distances.all_scores(prepared, normal(0, 8)).shape == (0, 3)
        assert distances.scores(prepared, normal(0, 8), np.zeros(0, np.int32)).shape == (0,)
        assert distances.squared_distances(normal(0, 8), normal(1, 8)[0]).shape == (0,)
