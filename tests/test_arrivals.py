import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_kmeans import arrivals as arrivals_room
from beam_kmeans.arrivals import Arrivals, ArrivalSample
from beam_kmeans.sampling import (
    PROPOSALS,
    SAMPLE,
    exponential_keys,
    uniforms,
)
from tests import chances, laws
from tests.chances import LINE, WEIGHTS

N = np.arange(6)


def arrivals(size, seed, repeated=True, block=2, rows=LINE, weights=WEIGHTS, numbers=N):
    found = Arrivals(size, rows.shape[1], seed, PROPOSALS, repeated)
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        found.include(rows[part], None if weights is None else weights[part], numbers[part])
    return found.sample()


def by_definition(size, seed, weights, waves=60):
    """Times and row numbers of the first arrivals, from a table of the first of each row."""
    steps = np.array([exponential_keys(seed, PROPOSALS, j, N, weights) for j in range(waves)])
    times = steps.copy()
    for j in range(1, waves):
        times[j] = times[j - 1] + steps[j]
    pairs = sorted((t, i) for row in times for i, t in enumerate(row.tolist()) if np.isfinite(t))
    return pairs[:size]


class TestArrivals:
    @pytest.mark.parametrize("size", [1, 4, 30])
    @pytest.mark.parametrize("block", [1, 4, 6])
    @pytest.mark.parametrize("wave", [1, 7, 1024])
    def test_they_are_sums_of_exponentials_in_order(self, size, block, wave, monkeypatch):
        monkeypatch.setattr(arrivals_room, "_WAVE_VALUES", wave)
        for seed in range(5):
            found = arrivals(size, seed, block=block)
            expected = by_definition(size, seed, WEIGHTS)
            assert list(zip(found.times.tolist(), found.row_numbers.tolist(), strict=True)) == (
                expected
            )
            assert found.rows.tolist() == LINE[found.row_numbers].tolist()

    def test_they_are_independent_draws_by_weight_with_replacement(self):
        chance, counts = WEIGHTS / WEIGHTS.sum(), np.zeros((3, 6, 6))
        for seed in range(3000):
            a, b, c, d = arrivals(4, seed, block=6).row_numbers.tolist()
            counts[0, a, b] += 1
            counts[1, b, c] += 1
            counts[2, a, d] += 1
        for table in counts:
            assert chances.p_value(table, np.outer(chance, chance)) > 1e-3
            assert chances.p_value(table, without_replacement(chance)) == 0

    def test_first_arrivals_alone_are_draws_without_replacement(self):
        chance, counts = WEIGHTS / WEIGHTS.sum(), np.zeros((6, 6))
        for seed in range(3000):
            a, b = arrivals(2, seed, repeated=False, block=6).row_numbers.tolist()
            counts[a, b] += 1
        assert chances.p_value(counts, without_replacement(chance)) > 1e-3
        assert sorted(arrivals(9, 0, repeated=False).row_numbers.tolist()) == [0, 1, 2, 3, 5]

    def test_one_heavy_row_fills_a_sample(self):
        found = arrivals(20_000, 0, weights=np.array([1e-3, 0, 1e9, 0, 0, 0]))
        assert len(found.times) == 20_000
        assert np.isin(found.row_numbers, [0, 2]).all()
        assert (np.diff(found.times) > 0).all()
        assert found.times[-1] == pytest.approx(20_000 / 1e9, rel=0.05)

    def test_rows_without_a_weight_count_one(self):
        found, ones = arrivals(50, 1, weights=None), arrivals(50, 1, weights=np.ones(6))
        assert found.times.tolist() == ones.times.tolist()

    def test_no_row_of_a_weight_gives_no_arrivals(self):
        assert len(arrivals(5, 0, weights=np.zeros(6)).times) == 0

    def test_further_turns_are_other_numbers(self):
        turns = np.array([0, 1, 2**24 - 1, 2**24, 2**24 + 1, 2**48])
        together = uniforms(3, SAMPLE, turns, np.array([5, 9])[:, None])
        assert together.shape == (2, 6)
        assert len(np.unique(together)) == 12
        for place, turn in enumerate(turns.tolist()):
            assert (
                together[:, place].tolist() == uniforms(3, SAMPLE, turn, np.array([5, 9])).tolist()
            )


def without_replacement(chance):
    table = np.zeros((6, 6))
    for a, b in itertools.permutations(range(6), 2):
        table[a, b] = chance[a] * chance[b] / (1 - chance[a])
    return table


def entries(sample):
    rows = sample.rows.tolist()
    return list(zip(sample.times.tolist(), sample.row_numbers.tolist(), rows, strict=True))


class TestArrivalSample:
    @given(
        size=st.integers(1, 12),
        times=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 1e300]), max_size=30),
        cuts=st.lists(st.integers(0, 30), max_size=4),
    )
    def test_it_is_a_monoid(self, size, times, cuts):
        whole = list(enumerate(times))  # ties in time are decided by the row number
        bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
        parts = []
        for start, stop in itertools.pairwise(bounds):
            part = ArrivalSample.zero(size, 1)
            numbers = np.arange(start, stop)
            part.add(
                ArrivalSample(
                    size,
                    np.array(times[start:stop], float),
                    numbers,
                    numbers[:, None].astype(np.float32),
                )
            )
            parts.append(part)
        laws.check_monoid(lambda: ArrivalSample.zero(size, 1), parts, entries, rounds=2)
        expected = sorted((time, number) for number, time in whole)[:size]
        merged = laws.merged(lambda: ArrivalSample.zero(size, 1), parts)
        assert [(time, number) for time, number, _ in entries(merged)] == expected

    def test_ranges_hold_every_entry_once_and_in_order(self, monkeypatch):
        monkeypatch.setattr(arrivals_room, "RANGE_VALUES", 64)
        rows = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
        sample = arrivals(500, 0, rows=rows, weights=None, numbers=np.arange(3000), block=500)
        parts = list(sample.key_ranges())
        numbers = [number for number, _ in parts]
        assert numbers == sorted(set(numbers))
        assert [entry for _, part in parts for entry in entries(part)] == entries(sample)
        assert max(len(part.times) for _, part in parts) * 4 <= 2 * 64
        monkeypatch.undo()
        assert [number for number, _ in sample.key_ranges()] == [0]
