import numpy as np
import pytest

from beam_kmeans.config import Parameters
from beam_kmeans.seeding import function as seeding
from beam_kmeans.seeding.function import SampleRows, centers_by
from beam_kmeans.seeding.run import initial_centers, run
from tests import cases, chances, data
from tests.chances import LINE, WEIGHTS
from tests.seeding.sources import Shards


def sample_of(source, k=3, seed=0):
    state = run(source, SampleRows(k, seed))
    assert state.centers is None
    assert state.finished
    assert (state.passes, state.lookups) == (1, 0)
    return state.arrays["sample"]


class TestSample:
    def test_small_data_comes_home_whole_each_row_once(self):
        rows = np.tile(data.blobs(), (2, 1))
        weights = np.ones(1200, np.float32)
        weights[::3] = 0
        found = sample_of(Shards(rows, weights))
        assert sorted(found.tolist()) == sorted(rows[weights > 0].tolist())

    def test_rows_come_by_weight_without_replacement_and_equal_ones_apart(self):
        counts = np.zeros((5, 5))
        source = Shards(LINE, WEIGHTS.astype(np.float32), shards=1, block=2)
        for seed in range(800):
            one, two = chances.values_of(sample_of(source, seed=seed)[:2])
            counts[one, two] += 1
        chance, table = WEIGHTS / WEIGHTS.sum(), np.zeros((6, 6))
        for a, b in np.ndindex(6, 6):
            if a != b:
                table[a, b] = chance[a] * chance[b] / (1 - chance[a])
        assert counts[0, 0] > 0
        assert chances.p_value(counts, chances.by_value(table)) > 1e-3

    @pytest.mark.parametrize(
        ("k", "d", "expected"), [(3, 1, 8 * 4096), (409, 1, 8 * 4096), (500, 1, 8 * 5000)]
    )
    def test_eight_calls_are_drawn_for(self, k, d, expected):
        rows = np.arange(50_000, dtype=np.float32)[:, None]
        assert len(sample_of(Shards(rows, shards=1, block=5000), k)) == expected

    def test_its_values_are_bounded(self, monkeypatch):
        monkeypatch.setattr(seeding, "_MOST_VALUES", 1000)
        assert len(sample_of(Shards(data.blobs()))) == 125


class Chooser:
    """Gives some of the rows it is called with, and remembers the calls."""

    def __init__(self, *gives):
        self.gives, self.calls = [*gives], []

    def __call__(self, rows, k):
        self.calls.append((rows, k))
        give = self.gives.pop(0)
        return give(rows) if callable(give) else rows[:give]


SAMPLE = cases.normal(10_000, 3)


class TestCentersBy:
    def test_it_is_called_with_further_rows_until_there_are_enough(self):
        chooser = Chooser(4, 1, 2)
        found = centers_by(chooser, SAMPLE, 7)
        assert [k for _, k in chooser.calls] == [7, 3, 2]
        assert [len(rows) for rows, _ in chooser.calls] == [4096, 4096, 1808]
        assert np.concatenate([rows for rows, _ in chooser.calls]).tobytes() == SAMPLE.tobytes()
        expected = [*SAMPLE[:4], SAMPLE[4096], *SAMPLE[8192:8194]]
        assert found.tolist() == np.stack(expected).tolist()
        assert found.dtype == np.float32

    def test_what_it_does_to_its_rows_stays_with_it(self):
        before = SAMPLE.copy()

        def spoil(rows, k):
            rows[:] = 0
            return np.arange(3.0 * k).reshape(k, 3)

        centers_by(spoil, SAMPLE, 2)
        assert SAMPLE.tobytes() == before.tobytes()

    def test_any_numbers_are_centers(self):
        assert centers_by(lambda rows, k: [[1, 2, 3], [4, 5, 6]], SAMPLE, 2).tolist() == [
            [1, 2, 3],
            [4, 5, 6],
        ]

    def test_cosine_centers_become_unit(self):
        found = centers_by(lambda rows, k: [[3, 4, 0]], SAMPLE, 1, "cosine")
        assert found.tolist() == np.float32([[0.6, 0.8, 0]]).tolist()

    @pytest.mark.parametrize(
        ("gives", "message"),
        [
            ([0], "no centers were given, 3 are still to choose"),
            ([2, 0], "no centers were given, 1 are still to choose"),
            ([lambda rows: []], "no centers were given, 3 are"),
            ([4], "4 centers were given, 3 were asked for"),
            ([2, 2], "2 centers were given, 1 were asked for"),
            ([1, 1, lambda rows: rows[:0]], "no centers were given, 1 are"),
            ([lambda rows: rows[:2, :2]], "centers of 2 features were given, the data has 3"),
            ([lambda rows: rows[0]], r"shape \[k, d\] is needed, found \[3\]"),
            ([lambda rows: 5], r"shape \[k, d\] is needed, found \[\]"),
            ([lambda rows: [[1], [1, 2]]], "no array can be made of it"),
            ([lambda rows: None], "it returned None, an array of centers"),
            ([lambda rows: rows[:2] * np.nan], "center 0 holds a value that is no finite float32"),
        ],
    )
    def test_what_cannot_be_centers_is_refused(self, gives, message):
        with pytest.raises(ValueError, match=rf"^initial_clusters \(.*Chooser\): .*{message}"):
            centers_by(Chooser(*gives), SAMPLE, 3)

    def test_a_direction_is_needed_for_cosine(self):
        with pytest.raises(ValueError, match="no direction"):
            centers_by(lambda rows, k: [[0, 0, 0]], SAMPLE, 1, "cosine")

    def test_rows_that_run_out_come_again_but_for_the_chosen(self):
        chooser = Chooser(1, 1, 1, 1, 2, 3)
        found = centers_by(chooser, SAMPLE, 9)
        assert len(np.unique(found, axis=0)) == 9
        assert [len(rows) for rows, _ in chooser.calls] == [4096, 4096, 1808, 4095, 4095, 1807]
        assert [k for _, k in chooser.calls] == [9, 8, 7, 6, 5, 3]
        np.testing.assert_array_equal(chooser.calls[3][0], SAMPLE[1:4096])

    def test_copies_of_a_chosen_row_do_not_come_again(self):
        sample = np.repeat(SAMPLE[:3], 2000, axis=0)
        found = centers_by(lambda rows, k: rows[:1], sample, 3)
        assert found.tobytes() == SAMPLE[[0, 2, 1]].tobytes()

    def test_rows_that_are_all_chosen_are_counted(self):
        sample = np.repeat(SAMPLE[:3], 2000, axis=0)
        with pytest.raises(ValueError, match=r"3 of 5 centers .*all the distinct rows .* of 6000"):
            centers_by(lambda rows, k: rows[:1], sample, 5)
        with pytest.raises(ValueError, match=r"0 of 9 centers .* sample of 0"):
            centers_by(Chooser(1), SAMPLE[:0], 9)


def test_in_memory_it_sees_unit_rows_under_cosine():
    seen = []

    def choose(rows, k):
        seen.append(rows)
        return rows[:k]

    source = Shards(data.blobs(), metric="cosine")
    found = initial_centers(source, Parameters(4, choose, "cosine")).centers
    np.testing.assert_allclose(np.linalg.norm(seen[0], axis=1), 1, rtol=1e-6)
    assert found.shape == (4, 8)
