import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beam_kmeans import distances, kernels
from beam_kmeans.distances import Centers
from beam_kmeans.kernels import Filter
from tests import oracles
from tests.cases import CASES, case, normal


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch):
    monkeypatch.setattr(kernels, "settings", kernels.Settings(threads=1))


class TestAssign:
    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.parametrize(("tile_rows", "threads"), [(None, 2), (8192, 1), (1000, 3), (256, 1)])
    def test_every_row_goes_where_brute_force_says(self, name, tile_rows, threads):
        kernels.settings.tile_rows, kernels.settings.threads = tile_rows, threads
        rows, centers, expected = case(name)
        found = kernels.assign(Centers(centers), rows)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("name", ["spambase", "mean-5000", "k=1000", "1e30", "1e-30"])
    def test_the_filter_decides_most_rows_of_plain_data(self, name):
        rows, centers, _ = case(name)
        part = rows[:1000]
        kernels.settings.tile_rows = 1000
        assert Filter(Centers(centers)).tile(part).unsure.mean() < 0.05

    def test_a_bound_that_is_too_small_would_be_seen(self, monkeypatch):
        rows, centers, expected = case("middles")
        kernels.settings.tile_rows = 1000
        monkeypatch.setattr(distances, "_UNIT32", 0.0)
        assert (kernels.assign(Centers(centers), rows) != expected).any()

    @pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 1000, 1001, 2048])
    def test_any_number_of_rows_fits_in_tiles(self, n):
        kernels.settings.tile_rows = 1000
        rows, centers, expected = case("mean-5000")
        assert kernels.assign(Centers(centers), rows[:n]).tolist() == expected[:n].tolist()

    def test_a_row_has_one_answer_wherever_it_stands(self):
        rows, centers, _ = case("middles")
        order = np.random.default_rng(0).permutation(len(rows))
        prepared = Centers(centers)
        kernels.settings.tile_rows = 1000
        found = kernels.assign(prepared, rows)
        np.testing.assert_array_equal(kernels.assign(prepared, rows[order]), found[order])

    def test_rows_that_are_no_plain_array_are_taken(self):
        rows, centers, expected = case("grid")
        kernels.settings.tile_rows = 1000
        prepared = Centers(centers)
        for view in (np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]):
            np.testing.assert_array_equal(kernels.assign(prepared, view), expected)

    def test_arguments_stay_as_they_were(self):
        rows, centers, _ = case("grid")
        before = rows.tobytes(), centers.tobytes()
        kernels.assign(Centers(centers), rows)
        assert (rows.tobytes(), centers.tobytes()) == before

    @settings(max_examples=50)
    @given(
        hnp.arrays(
            np.float32,
            st.tuples(st.integers(1, 40), st.just(3)),
            elements=st.floats(
                width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
            ),
        ),
        hnp.arrays(
            np.float32,
            (5, 3),
            elements=st.floats(
                width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
            ),
        ),
    )
    def test_any_finite_numbers_are_decided_right(self, rows, centers):
        expected = oracles.assign(rows, centers)
        assert kernels.assign(Centers(centers), rows).tolist() == expected.tolist()

    @settings(max_examples=50)
    @given(
        st.integers(0, 2**32),
        st.sampled_from([0.0, 1.0, 5000.0, 1e7]),
        st.sampled_from([1e-3, 1.0, 1e4]),
    )
    def test_quantised_data_is_decided_right(self, seed, offset, scale):
        random = np.random.default_rng(seed)
        made = (random.integers(-6, 7, (300, 3)) / 3 * scale + offset).astype(np.float32)
        rows, centers = made[5:], made[:5]
        expected = oracles.assign(rows, centers)
        assert kernels.assign(Centers(centers), rows).tolist() == expected.tolist()


class TestTile:
    @pytest.mark.parametrize("name", [n for n in CASES if n != "no-rows"])
    def test_sure_rows_are_right_and_their_bounds_hold(self, name):
        rows, centers, expected = case(name)
        kernels.settings.tile_rows = 1000
        prepared = Centers(centers)
        rows, expected = rows[:1000], expected[:1000]
        tile = Filter(prepared).tile(rows)
        sure = ~tile.unsure
        np.testing.assert_array_equal(tile.indices[sure], expected[sure])
        scores = distances.scores(prepared, rows[sure], tile.indices[sure])
        assert (scores <= tile.bounds[sure]).all()
        assert not np.isnan(tile.bounds).any()

    def test_equal_centers_make_no_row_unsure(self):
        rows, centers, _ = case("repeated-centers")
        kernels.settings.tile_rows = 1000
        assert not Filter(Centers(centers)).tile(rows[:1000]).unsure.any()

    @pytest.mark.parametrize(("given", "expected"), [(256, 256), (1000, 1000), (10**6, 8192)])
    def test_a_tile_is_as_large_as_asked_but_fits_a_window(self, given, expected):
        kernels.settings.tile_rows = given
        assert kernels.tile_rows(Centers(normal(3, 8))) == expected

    @pytest.mark.parametrize(("k", "d"), [(1, 1), (100, 32), (2000, 8), (3, 4096)])
    def test_a_tile_is_a_power_of_two_that_fits_a_window(self, k, d):
        found = kernels.tile_rows(Centers(np.zeros((k, d), np.float32)))
        assert 256 <= found <= 8192
        assert found & (found - 1) == 0


class TestSideBySide:
    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_results_keep_the_order(self, threads):
        kernels.settings.threads = threads
        found = kernels.side_by_side(lambda x: x * x, iter(range(100)))
        assert list(found) == [x * x for x in range(100)]

    @pytest.mark.parametrize("threads", [1, 3])
    def test_a_long_stream_is_taken_as_it_is_worked_on(self, threads):
        kernels.settings.threads = threads
        taken = []
        found = kernels.side_by_side(lambda x: x, (taken.append(x) or x for x in range(10**6)))
        assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert len(taken) < 5 + 3 * threads + 1

    @pytest.mark.parametrize("threads", [1, 3])
    def test_an_error_comes_out(self, threads):
        kernels.settings.threads = threads

        def fail(x):
            raise ZeroDivisionError(x)

        with pytest.raises(ZeroDivisionError):
            list(kernels.side_by_side(fail, range(3)))

    def test_a_platform_that_does_not_count_processors_by_process_works(self, monkeypatch):
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        kernels.settings.threads = None
        assert list(kernels.side_by_side(abs, [-1, 2])) == [1, 2]
