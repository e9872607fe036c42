import numpy as np
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.sampling import INITIAL_ROWS, exponential_keys
from beam_kmeans.seeding import rows as seeding
from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import Rows
from tests import data


def parts_of(rows, weights=None, block=100, numbers=None):
    numbers = np.arange(len(rows)) if numbers is None else numbers
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        yield Rows(rows[part], None if weights is None else weights[part], numbers[part])


class TestDraw:
    def test_the_smallest_keys_are_drawn(self):
        rows = data.blobs()
        keys = exponential_keys(3, INITIAL_ROWS, 0, np.arange(len(rows)), None)
        sample = seeding.draw(parts_of(rows), 7, 3)
        assert sample.row_numbers.tolist() == np.argsort(keys)[:7].tolist()
        assert sample.keys.tolist() == np.sort(keys)[:7].tolist()

    @pytest.mark.parametrize("block", [1, 7, 600])
    def test_blocks_change_nothing(self, block):
        rows = data.blobs()
        weights = np.random.default_rng(0).exponential(size=len(rows)).astype(np.float32)
        expected = seeding.draw(parts_of(rows, weights), 9, 1)
        found = seeding.draw(parts_of(rows, weights, block), 9, 1)
        assert found.row_numbers.tolist() == expected.row_numbers.tolist()

    def test_the_number_of_a_row_decides_not_its_place(self):
        rows, order = data.blobs(), np.random.default_rng(0).permutation(600)
        expected = seeding.draw(parts_of(rows), 9, 1)
        found = seeding.draw(parts_of(rows[order], numbers=order), 9, 1)
        assert found.row_numbers.tolist() == expected.row_numbers.tolist()

    def test_seeds_draw_different_rows(self):
        drawn = {tuple(seeding.draw(parts_of(data.blobs()), 3, s).row_numbers) for s in range(20)}
        assert len(drawn) == 20

    def test_weights_of_one_are_no_weights(self):
        rows = data.blobs()
        expected = seeding.draw(parts_of(rows), 9, 1).row_numbers.tolist()
        ones = np.ones(len(rows), np.float32)
        assert seeding.draw(parts_of(rows, ones), 9, 1).row_numbers.tolist() == expected

    def test_too_few_distinct_rows_are_counted(self):
        rows = np.array([[1], [2], [1], [2], [3]], np.float32)
        weights = np.array([1, 1, 1, 1, 0], np.float32)
        sample = seeding.draw(parts_of(rows, weights), 3, 0)
        with pytest.raises(DataError, match=r"num_clusters: 3 distinct rows .* only 2"):
            seeding.drawn_rows(sample)
        assert len(seeding.drawn_rows(seeding.draw(parts_of(rows, weights), 2, 0))) == 2


class TestGather:
    @pytest.mark.parametrize("block", [1, 7, 600])
    def test_rows_come_home_with_their_places(self, block):
        rows = data.blobs()
        wanted = np.random.default_rng(0).permutation(600)[:50]
        places, found = seeding.gather(parts_of(rows, block=block), wanted)
        assert sorted(places.tolist()) == list(range(50))
        np.testing.assert_array_equal(found, rows[wanted[places]])

    def test_numbers_with_gaps_are_found(self):
        rows = np.arange(5, dtype=np.float32)[:, None]
        parts = [Rows(rows, None, np.array([2, 3, 50, 2**40, 2**62]))]
        places, found = seeding.gather(parts, np.array([2**62, 4, 3]))
        assert dict(zip(places.tolist(), found[:, 0].tolist(), strict=True)) == {0: 4.0, 2: 1.0}

    @pytest.mark.parametrize("numbers", [[0, 1], [900]])
    def test_nothing_is_found_where_nothing_is(self, numbers):
        parts = [Rows(data.blobs()[:2], None, np.array([100, 101]))]
        places, found = seeding.gather(parts, np.array(numbers))
        assert len(places) == len(found) == 0


@pytest.mark.parametrize(
    ("rows", "weights", "k", "message"),
    [
        (0, None, 1, "no rows"),
        (3, [0, 0, 0], 1, "weights of all 3 rows are 0"),
        (3, None, 4, "4 clusters are asked of 3 rows$"),
        (3, [1, 0, 2], 3, r"3 clusters are asked of 2 rows \(of weight above 0\)$"),
    ],
    ids=["no-rows", "no-weight", "k-above-N", "k-above-rows-of-weight"],
)
def test_data_that_cannot_be_clustered_is_refused(rows, weights, k, message):
    values = np.arange(2.0 * rows).reshape(rows, 2).astype(np.float32)
    weights = None if weights is None else np.array(weights, np.float32)
    with pytest.raises(DataError, match=message):
        seeding.check_rows(Statistics.of(values, weights), k)


@pytest.mark.parametrize("weights", [None, [1, 0.001, 0]])
def test_as_many_clusters_as_rows_are_allowed(weights):
    k = 3 if weights is None else 2
    weights = None if weights is None else np.array(weights, np.float32)
    seeding.check_rows(Statistics.of(np.zeros((3, 1), np.float32), weights), k)
