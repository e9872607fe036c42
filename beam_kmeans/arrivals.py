"""Rows that arrive at random times: streams of independent draws by weight, and samples of them.

A stream with the rows themselves, for those who have to look at many of them in one place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from beam_kmeans.sampling import key_ranges, minus_log, parts_for, uniforms

#: Values (entries x features) of a sample of rows that travel in one message.
RANGE_VALUES = 2**20
#: Arrivals that are computed at a time, where rows are few.
_WAVE_VALUES = 1024


@dataclasses.dataclass
class ArrivalSample:
    """The `size` first arrivals, by (time, row number), each with its row; a monoid."""

    size: int
    times: npt.NDArray[np.float64]  # [m], ascending
    row_numbers: npt.NDArray[np.int64]  # [m]
    rows: npt.NDArray[np.float32]  # [m, d]

    @classmethod
    def zero(cls, size: int, num_features: int) -> ArrivalSample:
        return cls(size, np.zeros(0), np.zeros(0, np.int64), np.zeros((0, num_features), "f4"))

    def add(self, other: ArrivalSample) -> ArrivalSample:
        """Merges another's into this one, in place, and returns this one."""
        times = np.concatenate([self.times, other.times])
        numbers = np.concatenate([self.row_numbers, other.row_numbers])
        kept = np.lexsort((numbers, times))[: self.size]
        self.rows = np.concatenate([self.rows, other.rows])[kept]
        self.times, self.row_numbers = times[kept], numbers[kept]
        return self

    def key_ranges(self) -> Iterator[tuple[int, ArrivalSample]]:
        """Cuts the sample by ranges of time, so that no message holds all of a large one."""
        values = self.size * self.rows.shape[1]
        if values <= RANGE_VALUES:
            yield 0, self
            return
        which = key_ranges(self.times, parts_for(values, RANGE_VALUES))
        for number in np.unique(which).tolist():
            own = which == number
            yield (
                number,
                ArrivalSample(self.size, self.times[own], self.row_numbers[own], self.rows[own]),
            )


class Arrivals:
    """Takes rows in, and keeps the first arrivals of their Poisson processes.

    A row's arrivals come at a rate that is its weight: at E1 / w, (E1 + E2) / w, ... with
    E = -ln(u) of (seed, purpose, number of the arrival, row number). The arrivals of all rows, in
    order of time, are independent draws by weight with replacement; the first arrivals of the rows
    alone are draws without.

    Args:
        size: arrivals to keep.
        num_features: d.
        seed: 0 to 2**63 - 1.
        purpose: which use of randomness this is.
        repeated: whether a row arrives more than once.
    """

    def __init__(
        self, size: int, num_features: int, seed: int, purpose: int, repeated: bool = True
    ) -> None:
        self._kept = ArrivalSample.zero(size, num_features)
        self._waiting: list[ArrivalSample] = []
        self._seed, self._purpose, self._repeated = seed, purpose, repeated

    def include(
        self,
        rows: npt.NDArray[np.float32],
        rates: npt.NDArray[np.float64] | npt.NDArray[np.float32] | None,
        row_numbers: npt.NDArray[np.int64],
    ) -> None:
        """Takes in rows [n, d] with their rates [n] >= 0 (None: each 1) and numbers [n]."""
        times, places = self._early(rates, row_numbers)
        if len(times):
            size, numbers = self._kept.size, row_numbers[places]
            self._waiting.append(ArrivalSample(size, times, numbers, rows[places]))
        if sum(len(part.times) for part in self._waiting) > self._kept.size:
            self.sample()

    def sample(self) -> ArrivalSample:
        """The first arrivals of all rows so far."""
        if self._waiting:
            first = self._waiting[0]
            waiting = ArrivalSample(
                first.size,
                np.concatenate([part.times for part in self._waiting]),
                np.concatenate([part.row_numbers for part in self._waiting]),
                np.concatenate([part.rows for part in self._waiting]),
            )
            self._kept.add(waiting)
            self._waiting.clear()
        return self._kept

    def _early(
        self,
        rates: npt.NDArray[np.float64] | npt.NDArray[np.float32] | None,
        row_numbers: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
        """Times of arrivals that may be among the first, and the places of their rows."""
        rate = np.ones(len(row_numbers)) if rates is None else rates.astype(np.float64)
        (active,) = np.nonzero(rate > 0)
        size, known = self._kept.size, self._kept.times
        limit = known[-1] if len(known) == size else np.inf
        last, turn = np.zeros(len(active)), 0
        found_times, found_places = [np.zeros(0)], [np.zeros(0, np.intp)]
        while len(active):
            # Few rows that arrive often are asked for many arrivals at a time.
            waves = 1
            if self._repeated:
                waves = max(1, min(_WAVE_VALUES, 2 * size) // len(active))
            turns = np.arange(turn, turn + waves)
            steps = minus_log(
                uniforms(self._seed, self._purpose, turns, row_numbers[active][:, None])
            )
            steps /= rate[active, None]
            # One after the other, so that it does not matter how many are asked for at a time.
            times = np.add.accumulate(np.concatenate([last[:, None], steps], axis=1), axis=1)[:, 1:]
            early, wave = np.nonzero(times <= limit)
            found_times.append(times[early, wave])
            found_places.append(active[early])
            so_far = np.concatenate([known, *found_times])
            if len(so_far) >= size:
                limit = min(limit, np.partition(so_far, size - 1)[size - 1])
            if not self._repeated:
                break
            going_on = times[:, -1] <= limit
            active, last, turn = active[going_on], times[going_on, -1], turn + waves
        times, places = np.concatenate(found_times), np.concatenate(found_places)
        return times[times <= limit], places[times <= limit]
