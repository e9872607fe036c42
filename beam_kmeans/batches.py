"""Which rows are a batch: a seeded order of all rows, and in each epoch another walk through it.

Rows are shuffled once, by a hash of the seed and their numbers. An epoch visits the shuffled rows
by pages of 4,096 positions, the pages in an order of its own and each from a place of its own on,
so that every row is visited exactly once and data is read in long runs. Batches are cut from the
endless sequence of epochs. All of it is a function of the seed, the row numbers and their count.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from beam_kmeans.sampling import PAGES, ROTATIONS, SHUFFLE, uniforms

#: Positions of a page: part of what the order is, as no size of a block is.
PAGE_ROWS = 4096
#: Epochs after which the order of the pages comes again: a turn has so many bits.
_EPOCHS = 2**24


def shuffle_keys(seed: int, row_numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """float64 [n] in (0, 1): rows are shuffled into the order of these, then of their numbers."""
    return uniforms(seed, SHUFFLE, 0, row_numbers)


def shuffled(seed: int, row_numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """intp [n]: the places of rows of these numbers, in their shuffled order."""
    return np.lexsort((row_numbers, shuffle_keys(seed, row_numbers)))


def intervals(seed: int, rows: int, start: int, stop: int) -> list[tuple[int, int]]:
    """The shuffled positions that are the places [start, stop) of the endless sequence of epochs.

    Args:
        seed: 0 to 2**63 - 1.
        rows: N, at least 1.
        start: the first place.
        stop: the place after the last.

    Returns:
        Ranges [first, last) of positions, in the order of their visit.

    Example:
        >>> intervals(seed=0, rows=5, start=2, stop=7)
        [(3, 5), (0, 1), (1, 3)]
    """
    found: list[tuple[int, int]] = []
    while start < stop:
        epoch, place = divmod(start, rows)
        end = min(stop - epoch * rows, rows)
        found += _within(seed, rows, epoch % _EPOCHS, place, end)
        start = epoch * rows + end
    return found


def _within(seed: int, rows: int, epoch: int, start: int, stop: int) -> list[tuple[int, int]]:
    pages, ends, turned = _walk(seed, rows, epoch)
    found: list[tuple[int, int]] = []
    for visit in range(int(np.searchsorted(ends, start, "right")), len(pages)):
        first = int(pages[visit]) * PAGE_ROWS
        size = min(PAGE_ROWS, rows - first)
        begin = int(ends[visit]) - size
        if begin >= stop:
            break
        # A page is read from its turned place to its end, and then from its start.
        low, high = max(start, begin) - begin, min(stop, begin + size) - begin
        turn = int(turned[visit])
        for left, right, shift in ((0, size - turn, turn), (size - turn, size, turn - size)):
            piece = (max(low, left) + shift, min(high, right) + shift)
            if piece[0] < piece[1]:
                found.append((first + piece[0], first + piece[1]))
    return found


@functools.lru_cache(maxsize=2)
def _walk(
    seed: int, rows: int, epoch: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The pages of an epoch in order, the places at which each ends, and where each begins."""
    numbers = np.arange(-(-rows // PAGE_ROWS))
    pages = numbers[np.lexsort((numbers, uniforms(seed, PAGES, epoch, numbers)))]
    sizes = np.minimum(PAGE_ROWS, rows - pages * PAGE_ROWS)
    turned = (uniforms(seed, ROTATIONS, epoch, pages) * sizes).astype(np.int64)
    return pages, np.cumsum(sizes), turned
