"""k-means||: a few rounds that draw many candidates each, which are clustered into the centers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_kmeans import kernels, sums
from beam_kmeans.distances import Centers, decide, scores
from beam_kmeans.sampling import CANDIDATES, DistinctSample, exponential_keys
from beam_kmeans.seeding.plus_plus import recluster, too_few
from beam_kmeans.seeding.state import Facts, Memory, Seeding
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import Rows

#: Keys of a pass's summaries: the potential, the drawn rows from 0, the candidates' weights.
POTENTIAL = -1
WEIGHTS = 2**32
#: Candidates whose weights travel in one message.
RANGE_CANDIDATES = 2**19
#: Rows x candidates below which float64 alone decides: less work than to compile a kernel.
_SMALL = 2**23
#: Rows x candidates above which a kernel for all candidates is worth its compiling in each round;
#: below, candidates are measured round by round, by a kernel that fits all of them.
_LARGE = 2**32


@dataclasses.dataclass(frozen=True)
class KMeansParallel:
    """k-means||, the scalable k-means++, with a fixed number of draws in a round.

    The first pass draws one row by weight. Each further pass measures the squared distance D^2 of
    every row to its nearest candidate and draws the l rows of distinct values with the smallest
    keys -ln(u) / (w D^2): weighted sampling without replacement, for which the potential, the sum
    of w D^2, need not be known before. Its last pass only weighs the candidates, which weighted
    k-means++ and Lloyd's iterations then cluster into k centers. Where the data has no more rows
    than the rounds would draw, the first pass takes all distinct rows for candidates.

    There are `rounds` rounds at least, more until there are k candidates and the last one has not
    halved the potential, and 2 x `rounds` at most.

    Args:
        num_clusters: k.
        random_seed: 0 to 2**63 - 1.
        retries: further draws at each pick of k-means++.
        oversampling: l / k.
        rounds: at least.
        distance_metric: how the candidates are clustered.

    References:
        B. Bahmani, B. Moseley, A. Vattani, R. Kumar, S. Vassilvitskii, "Scalable k-means++", PVLDB
        5(7), 2012; P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir",
        Information Processing Letters 97(5), 2006.
    """

    num_clusters: int
    random_seed: int
    retries: int = 2
    oversampling: float = 2.0
    rounds: int = 5
    distance_metric: str = "squared_euclidean"

    @property
    def max_passes(self) -> int:
        """Passes at most: the first row, the rounds, and the candidates' weights."""
        return 2 + 2 * self.rounds

    @property
    def draws(self) -> int:
        """Rows that a round draws."""
        return max(1, round(self.oversampling * self.num_clusters))

    def start(self, facts: Facts) -> Seeding:
        everything = facts.rows <= 1 + self.rounds * self.draws
        return Seeding(facts, notes={"all_rows": everything, "rounds": 0, "potentials": []})

    def measure(
        self, state: Seeding, parts: Iterable[Rows], memory: Memory
    ) -> Iterator[tuple[int, Any]]:
        if state.rows is None:
            sample = DistinctSample.zero(state.facts.rows if state.notes["all_rows"] else 1)
            for part in parts:
                keys = exponential_keys(
                    self.random_seed, CANDIDATES, 0, part.row_numbers, part.weights
                )
                sample.include(part.rows, keys, part.row_numbers)
            yield from sample.key_ranges()
            return
        tally = _Tally(self, state, memory)
        for part in parts:
            tally.include(part)
        yield from tally.summaries()

    def advance(self, state: Seeding, summaries: Mapping[int, Any]) -> Seeding:
        state = dataclasses.replace(state, passes=state.passes + 1)
        if state.rows is None:
            everything = state.notes["all_rows"]
            drawn = _drawn(summaries, state.facts.rows if everything else 1)
            if len(drawn.keys) < (self.num_clusters if everything else 1):
                raise too_few(self.num_clusters, len(drawn.keys))
            return dataclasses.replace(state, wanted=drawn.row_numbers)
        potential = float(summaries[POTENTIAL].to_fraction())
        potentials = [*state.notes["potentials"], potential]
        notes = {**state.notes, "potentials": potentials}
        if self._enough(state.notes["rounds"], len(state.rows), potentials):
            centers = self._centers(state.rows, _weights(summaries, len(state.rows)))
            return dataclasses.replace(state, notes=notes, centers=centers)
        drawn = _drawn(summaries, self._size(state))
        notes["rounds"] += 1
        return dataclasses.replace(state, notes=notes, wanted=drawn.row_numbers)

    def looked_up(self, state: Seeding) -> Seeding:
        return state

    def _size(self, state: Seeding) -> int:
        """Rows to draw next: after the last of the rounds there must be k candidates."""
        assert state.rows is not None
        missing = self.num_clusters - len(state.rows)
        return self.draws if state.notes["rounds"] + 1 < self.rounds else max(self.draws, missing)

    def _enough(self, rounds: int, candidates: int, potentials: list[float]) -> bool:
        if potentials[-1] == 0:
            return True  # every distinct row is a candidate
        if rounds < self.rounds or candidates < self.num_clusters:
            return False
        return rounds >= 2 * self.rounds or not potentials[-1] < potentials[-2] / 2

    def _centers(
        self, candidates: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        if len(candidates) < self.num_clusters:
            raise too_few(self.num_clusters, len(candidates))
        return recluster(
            candidates,
            weights,
            self.num_clusters,
            self.random_seed,
            self.retries,
            self.distance_metric,
        )


class _Tally:
    """One pass over rows: their potential, the weights of the candidates, and who is drawn."""

    def __init__(self, initialiser: KMeansParallel, state: Seeding, memory: Memory) -> None:
        assert state.rows is not None
        self._candidates, self._memory = state.rows, memory
        self._rows = state.facts.rows
        self._seed, self._turn = initialiser.random_seed, state.notes["rounds"] + 1
        self._sample = DistinctSample.zero(initialiser._size(state))
        self._potential = ExactSums.zeros((1,))
        self._counts = np.zeros(len(state.rows), np.int64)
        self._weights = ExactSums.zeros((len(state.rows), 1))
        self._draws = initialiser.draws
        self._nearest: dict[tuple[int, int], _Nearest] = {}

    def include(self, part: Rows) -> None:
        distances, indices = self._measured(part)
        if part.weights is None:
            priorities = distances
            self._counts += np.bincount(indices, minlength=len(self._counts))
        else:
            wide = part.weights.astype(np.float64)
            priorities = distances * wide
            sums.add_rows(self._weights, indices, wide[:, None])
        self._potential.add(sums.column_sums(priorities[:, None]))
        keys = exponential_keys(self._seed, CANDIDATES, self._turn, part.row_numbers, priorities)
        self._sample.include(part.rows, keys, part.row_numbers)

    def summaries(self) -> Iterator[tuple[int, Any]]:
        yield POTENTIAL, self._potential
        yield from self._sample.key_ranges()
        total = len(self._candidates)
        weights = self._weights.reshaped((total,)).add(ExactSums.of_integers(self._counts))
        for number, start in enumerate(range(0, total, RANGE_CANDIDATES)):
            yield WEIGHTS + number, weights.part(start, min(start + RANGE_CANDIDATES, total))

    def _measured(self, part: Rows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        """Each row's squared distance to its nearest candidate, and which that is."""
        known, distances, indices = self._memory.recall(part)
        for start, stop in itertools.pairwise(self._bounds(known)):
            if start == stop or not len(part.rows):
                continue
            if (start, stop) not in self._nearest:
                self._nearest[start, stop] = _Nearest(self._candidates[start:stop], self._rows)
            new, which = self._nearest[start, stop](part.rows)
            # Equal distances go to the earlier candidate, as if all were measured at once.
            closer = new < distances
            distances = np.where(closer, new, distances)
            indices = np.where(closer, which + np.int32(start), indices)
        self._memory.keep(len(self._candidates), distances, indices)
        return distances, indices

    def _bounds(self, known: int) -> list[int]:
        """Where the candidates that are not known yet are cut, to be measured one by one."""
        total = len(self._candidates)
        if _SMALL < self._rows * total <= _LARGE:
            return [known, *(at for at in range(1, total, self._draws) if known < at), total]
        return [known, total]


class _Nearest:
    """The nearest of some candidates, decided by a kernel only where it is worth its compiling."""

    def __init__(self, candidates: npt.NDArray[np.float32], rows: int) -> None:
        self._centers = Centers(candidates)
        small = rows * len(candidates) <= _SMALL
        self._compiled = None if small else kernels.Filter(self._centers)

    def __call__(
        self, rows: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        if self._compiled is None:
            indices = decide(self._centers, rows)
        else:
            indices = kernels.assign(self._centers, rows, self._compiled)
        return scores(self._centers, rows, indices), indices


def _drawn(summaries: Mapping[int, Any], size: int) -> DistinctSample:
    """The rows with the smallest keys, out of ranges of keys."""
    drawn = DistinctSample.zero(size)
    for key in sorted(key for key in summaries if 0 <= key < WEIGHTS):
        if len(drawn.keys) == size:
            break
        drawn.add(summaries[key])
    return drawn


def _weights(summaries: Mapping[int, Any], candidates: int) -> npt.NDArray[np.float64]:
    """float64 [m]: the weights of the candidates, out of ranges of candidates."""
    ranges = range(0, candidates, RANGE_CANDIDATES)
    parts = [summaries[WEIGHTS + number].to_float64() for number in range(len(ranges))]
    return np.concatenate(parts)
