"""Centers that a function chooses, out of a sample of the rows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_kmeans.arrivals import Arrivals, ArrivalSample
from beam_kmeans.config import CentersFunction, as_array, checked_centers, name_of_function
from beam_kmeans.sampling import SAMPLE
from beam_kmeans.seeding.state import Facts, Memory, Seeding
from beam_kmeans.tally import Rows

#: Calls that a sample has rows of their own for, and values (rows x features) of a sample at most.
CALLS = 8
_MOST_VALUES = 2**27


def slice_rows(num_clusters: int) -> int:
    """Rows that a function is given at a time."""
    return max(4096, 10 * num_clusters)


@dataclasses.dataclass(frozen=True)
class SampleRows:
    """A sample of rows by weight, without replacement, for a function to choose centers among.

    One pass; the rows come home themselves, as `arrays["sample"]`, in the order of drawing: 8 times
    4,096 or 10 k, fewer where they would take more than 512 MiB. Equal rows stay apart. The state
    is finished then, without centers: those `centers_by` finds, wherever the function is.

    References:
        P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", Information
        Processing Letters 97(5), 2006.
    """

    num_clusters: int
    random_seed: int

    @property
    def max_passes(self) -> int:
        """One."""
        return 1

    def start(self, facts: Facts) -> Seeding:
        return Seeding(facts)

    def measure(
        self, state: Seeding, parts: Iterable[Rows], memory: Memory
    ) -> Iterator[tuple[int, Any]]:
        d = state.facts.num_features
        size = min(CALLS * slice_rows(self.num_clusters), max(1, _MOST_VALUES // d))
        arrivals = Arrivals(size, d, self.random_seed, SAMPLE, repeated=False)
        for part in parts:
            arrivals.include(part.rows, part.weights, part.row_numbers)
        yield from arrivals.sample().key_ranges()

    def advance(self, state: Seeding, summaries: Mapping[int, Any]) -> Seeding:
        sample = ArrivalSample.zero(0, state.facts.num_features)
        for key in sorted(summaries):
            sample.size = summaries[key].size
            sample.add(summaries[key])
        arrays = {"sample": sample.rows}
        return dataclasses.replace(state, passes=state.passes + 1, arrays=arrays)

    def looked_up(self, state: Seeding) -> Seeding:
        return state


def centers_by(
    function: CentersFunction,
    sample: npt.NDArray[np.float32],
    num_clusters: int,
    distance_metric: str = "squared_euclidean",
) -> npt.NDArray[np.float32]:
    """The centers that a function chooses, called with further rows until there are k.

    Args:
        function: f(rows float32 [n, d], k) with up to k centers [c, d], c >= 1, of any number type,
            where k is the number that is still to choose. Each call sees other rows, until all of
            the sample were seen; then the first come again. Rows that equal a chosen center are
            left out.
        sample: float32 [m, d], rows as the metric measures them.
        num_clusters: k.
        distance_metric: under cosine centers are made unit.

    Returns:
        float32 [k, d].

    Raises:
        ValueError: the function gave no centers, more than asked for, or what is no matrix of
            finite numbers with d columns; or every row of the sample was chosen.

    Example:
        >>> rows = np.array([[0, 0], [1, 1], [2, 2]], np.float32)
        >>> centers_by(lambda rows, k: rows[:k], rows, 2).tolist()
        [[0.0, 0.0], [1.0, 1.0]]
    """
    name = f"initial_clusters ({name_of_function(function)})"
    step, found = slice_rows(num_clusters), np.zeros((0, sample.shape[1]), np.float32)
    starts, exhausted = range(0, len(sample), step), 0
    for start in itertools.cycle(starts):
        rows = _but_for(sample[start : start + step], found)
        exhausted = 0 if len(rows) else exhausted + 1
        if exhausted == len(starts):
            break
        if not len(rows):
            continue
        missing = num_clusters - len(found)
        answer = function(rows, missing)
        if answer is None:
            raise ValueError(f"{name}: it returned None, an array of centers [c, d] is needed")
        given = as_array(name, answer)
        if given.ndim >= 1 and len(given) == 0:
            raise ValueError(f"{name}: no centers were given, {missing} are still to choose")
        centers = checked_centers(name, given, distance_metric)
        if centers.shape[1] != sample.shape[1]:
            raise ValueError(
                f"{name}: centers of {centers.shape[1]} features were given, the data has "
                f"{sample.shape[1]}"
            )
        if len(centers) > missing:
            raise ValueError(f"{name}: {len(centers)} centers were given, {missing} were asked for")
        found = np.concatenate([found, centers])
        if len(found) == num_clusters:
            return found
    raise ValueError(
        f"{name}: {len(found)} of {num_clusters} centers were given, and they are all the distinct "
        f"rows that there are in a sample of {len(sample)}"
    )


def _but_for(
    rows: npt.NDArray[np.float32], chosen: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The rows that equal none of the chosen, copied."""
    return rows[~np.isin(_values(rows), _values(chosen))]


def _values(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    """void [n]: each row as one value that can be compared."""
    whole = np.ascontiguousarray(rows)
    return whole.view(np.dtype((np.void, 4 * rows.shape[1]))).reshape(-1)
