"""The order of rows, against its definition written out row by row, and what it promises."""

import numpy as np
import pytest
import scipy.stats

from beam_kmeans import sampling
from beam_kmeans.batches import PAGE_ROWS, intervals, shuffle_keys, shuffled


def positions(seed, rows, start, stop):
    found = intervals(seed, rows, start, stop)
    assert all(first < last for first, last in found)
    return np.concatenate([np.arange(*one) for one in found] or [np.zeros(0, int)])


def walk(seed, rows, epoch):
    """The positions of an epoch by their definition."""
    pages = range(-(-rows // PAGE_ROWS))

    def key(purpose, page):
        return float(sampling.uniforms(seed, purpose, epoch, np.array([page]))[0])

    found = []
    for page in sorted(pages, key=lambda page: (key(sampling.PAGES, page), page)):
        own = list(range(page * PAGE_ROWS, min((page + 1) * PAGE_ROWS, rows)))
        turn = int(key(sampling.ROTATIONS, page) * len(own))
        found += own[turn:] + own[:turn]
    return found


def test_the_size_of_a_page_is_a_constant_of_the_format():
    assert PAGE_ROWS == 4096


@pytest.mark.parametrize("rows", [1, 2, 4095, 4096, 4097, 20_000])
def test_an_epoch_is_a_walk_through_all_rows_once(rows):
    for epoch in range(3):
        found = positions(5, rows, epoch * rows, (epoch + 1) * rows)
        assert found.tolist() == walk(5, rows, epoch)
        assert np.array_equal(np.sort(found), np.arange(rows))


@pytest.mark.parametrize("rows", [3, 4097, 10_000])
def test_batches_are_cut_from_the_endless_sequence(rows):
    whole = positions(1, rows, 0, 3 * rows)
    for step in (max(1, rows // 50), rows - 1, 2 * rows):
        cuts = range(0, 3 * rows, step)
        parts = [positions(1, rows, cut, min(cut + step, 3 * rows)) for cut in cuts]
        assert np.array_equal(np.concatenate(parts), whole)


def test_epochs_and_seeds_have_orders_of_their_own():
    rows = 50 * PAGE_ROWS
    orders = [
        positions(seed, rows, e * rows, (e + 1) * rows) for seed, e in [(0, 0), (0, 1), (1, 0)]
    ]
    for place, one in enumerate(orders):
        for other in orders[place + 1 :]:
            assert (one != other).mean() > 0.9
    assert positions(0, 100, 0, 50).tolist() == positions(0, 100, 0, 50).tolist()


def test_rows_are_shuffled_by_their_numbers_alone():
    numbers = np.random.default_rng(0).permutation(1000) * 7
    expected = sorted(range(0, 7000, 7), key=lambda n: (shuffle_keys(3, np.array([n]))[0], n))
    assert numbers[shuffled(3, numbers)].tolist() == expected
    assert numbers[::-1][shuffled(3, numbers[::-1])].tolist() == expected


def test_every_row_is_as_likely_in_the_first_batch():
    rows, size, seeds = 40, 10, 1000
    drawn = np.zeros(rows)
    for seed in range(seeds):
        order = shuffled(seed, np.arange(rows))
        drawn[order[positions(seed, rows, 0, size)]] += 1
    # Without replacement the counts vary less than chi-square, by (1 - size / rows).
    statistic = ((drawn - seeds * size / rows) ** 2).sum() / (seeds * size / rows)
    share = scipy.stats.chi2.sf(statistic / (1 - size / rows), rows - 1)
    assert 1e-4 < share < 1 - 1e-4
