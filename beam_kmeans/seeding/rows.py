"""Rows that are drawn by their numbers, and found again."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from beam_kmeans.errors import DataError
from beam_kmeans.sampling import INITIAL_ROWS, DistinctSample, exponential_keys
from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import Rows


def draw(parts: Iterable[Rows], num_clusters: int, random_seed: int) -> DistinctSample:
    """The k distinct row values of these parts with the smallest keys -ln(u) / w."""
    sample = DistinctSample.zero(num_clusters)
    for part in parts:
        keys = exponential_keys(random_seed, INITIAL_ROWS, 0, part.row_numbers, part.weights)
        sample.include(part.rows, keys, part.row_numbers)
    return sample


def drawn_rows(sample: DistinctSample) -> npt.NDArray[np.int64]:
    """int64 [k]: the numbers of the rows that become the initial centers, in order.

    Raises:
        DataError: there are fewer distinct rows than clusters; names their number.
    """
    found = len(sample.row_numbers)
    if found < sample.size:
        raise DataError(
            f"num_clusters: {sample.size} distinct rows are needed to start from, and the data has "
            f"only {found} (rows of weight 0 are never drawn)"
        )
    return sample.row_numbers


def gather(
    parts: Iterable[Rows], row_numbers: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Finds rows by number: the places [m] in `row_numbers` found here, and their rows [m, d]."""
    order = np.argsort(row_numbers, kind="stable")
    wanted = row_numbers[order]
    places: list[npt.NDArray[np.int64]] = []
    rows: list[npt.NDArray[np.float32]] = []
    for part in parts:
        at = np.searchsorted(wanted, part.row_numbers)
        at[at == len(wanted)] = 0
        (here,) = np.nonzero(wanted[at] == part.row_numbers)
        if len(here):
            places.append(order[at[here]])
            rows.append(part.rows[here])
    if not places:
        return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    return np.concatenate(places), np.concatenate(rows)


def check_rows(statistics: Statistics, num_clusters: int, directionless: int = 0) -> None:
    """Refuses data that cannot be clustered.

    Args:
        statistics: of the rows as the metric measures them.
        num_clusters: k.
        directionless: further rows, of zeros, that cosine does not measure.

    Raises:
        DataError: no rows, no weight, or fewer rows than clusters.
    """
    if not statistics.rows and directionless:
        raise DataError(f"all {directionless} rows are zeros, which have no direction for cosine")
    if not statistics.rows:
        raise DataError("the data has no rows")
    if not statistics.positive_rows:
        raise DataError(f"the weights of all {statistics.rows} rows are 0")
    if statistics.positive_rows < num_clusters:
        raise DataError(
            f"num_clusters: {num_clusters} clusters are asked of {statistics.positive_rows} rows"
            + (" (of weight above 0)" if statistics.positive_rows < statistics.rows else "")
            + (f" ({directionless} of zeros have no direction)" if directionless else "")
        )
