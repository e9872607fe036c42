"""k-MC2 and AFK-MC2: centers found by Markov chains over rows that the data itself proposes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_kmeans import sums
from beam_kmeans.arrivals import Arrivals, ArrivalSample
from beam_kmeans.distances import squared_distances
from beam_kmeans.sampling import (
    CHAIN,
    COINS,
    DEAL,
    DISTANT,
    INITIAL_ROWS,
    PROPOSALS,
    DistinctSample,
    exponential_keys,
    uniforms,
)
from beam_kmeans.seeding.plus_plus import recluster
from beam_kmeans.seeding.rows import drawn_rows
from beam_kmeans.seeding.spread import Spread, running_sums
from beam_kmeans.seeding.state import Facts, Memory, Seeding
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import Rows

Floats = npt.NDArray[np.float64]
Centers = npt.NDArray[np.float32]

#: Rows that one group holds by default, and how many groups there are then at most.
GROUP_ROWS = 2**20
MOST_GROUPS = 16
#: Values (proposals x features) of all groups that come home by default.
_MOST_VALUES = 2**28
#: How far from its target a chain may end, in total variation, without a warning.
_TOLERATED = 0.1
#: Proposals that are measured at a time.
_PROPOSALS_AT_ONCE = 4096

#: Kinds of summaries; a key is (kind, group, range).
_PROPOSED, _DISTANT, _WEIGHT, _SPREAD, _DISTINCT, _FARTHEST = range(6)


def _key(kind: int, group: int, part: int = 0) -> int:
    return (kind << 48) + (group << 32) + part


@dataclasses.dataclass(frozen=True)
class Chains:
    """k-MC2, or with `distant` AFK-MC2, in one pass or two.

    Rows come home as a stream of independent draws by weight, with replacement: the first center,
    then `chain_length` proposals for each further one. A chain moves from x to its next proposal y
    if D^2(y) q(x) > u D^2(x) q(y), where D^2 is the squared distance to the nearest center so far
    and q the density that proposals have beside their weight: 1, and under AFK-MC2
    D^2(., first center) / (2 sum w D^2) + 1 / (2 sum w), for which a second pass draws half of the
    proposals by weight and distance. A chain that ends on a row equal to a center takes the next
    proposal that is not; where none is, the rest of the centers are drawn at random.

    The rows are dealt into groups by their numbers, each with chains of its own; a group's stream,
    4 d (1 + (k - 1) chain_length) bytes, comes home. One group is the algorithm as published; of
    several groups the centers, weighted by the rows nearest to them, are clustered by weighted
    k-means++ and Lloyd's iterations. By default there is one group for each 2**20 rows, and 16 at
    most, fewer where their streams would take more than 1 GiB.

    Args:
        num_clusters: k.
        random_seed: 0 to 2**63 - 1.
        chain_length: proposals for each center.
        groups: None chooses.
        distant: whether proposals are drawn by distance too.
        retries: further draws at each pick of k-means++, for several groups.
        distance_metric: how the centers of several groups are clustered.

    References:
        O. Bachem, M. Lucic, S. Hassani, A. Krause, "Approximate k-means++ in sublinear time", AAAI
        2016; the same, "Fast and provably good seedings for k-means", NIPS 2016.
    """

    num_clusters: int
    random_seed: int
    chain_length: int = 200
    groups: int | None = None
    distant: bool = False
    retries: int = 2
    distance_metric: str = "squared_euclidean"

    @property
    def max_passes(self) -> int:
        """One; with `distant` a second for the proposals by distance."""
        return 2 if self.distant else 1

    @property
    def stream(self) -> int:
        """Rows of a group's stream."""
        return 1 + (self.num_clusters - 1) * self.chain_length

    def start(self, facts: Facts) -> Seeding:
        groups = self.groups
        if groups is None:
            fitting = _MOST_VALUES // (self.stream * facts.num_features)
            groups = max(1, min(-(-facts.rows // GROUP_ROWS), MOST_GROUPS, fitting))
        return Seeding(facts, notes={"groups": groups})

    def measure(
        self, state: Seeding, parts: Iterable[Rows], memory: Memory
    ) -> Iterator[tuple[int, Any]]:
        groups = state.notes["groups"]
        tallies = [_Group(self, state, group) for group in range(groups)]
        spare, farthest = DistinctSample.zero(self.num_clusters), Largest()
        for part in parts:
            if not self.distant:
                farthest.include(_apart_from_means(state.facts, part))
            if groups == 1:
                tallies[0].include(part)
            else:
                dealt = uniforms(self.random_seed, DEAL, 0, part.row_numbers) * groups
                for group in np.unique(dealt.astype(np.int64)).tolist():
                    tallies[group].include(part.pick(dealt.astype(np.int64) == group))
            if self._last(state):
                keys = exponential_keys(
                    self.random_seed, INITIAL_ROWS, 0, part.row_numbers, part.weights
                )
                spare.include(part.rows, keys, part.row_numbers)
        for group, tally in enumerate(tallies):
            yield from tally.summaries(group)
        for number, sample in spare.ranges(state.facts.total_weight):
            yield _key(_DISTINCT, 0, number), sample
        if not self.distant:
            yield _key(_FARTHEST, 0), farthest

    def advance(self, state: Seeding, summaries: Mapping[int, Any]) -> Seeding:
        last = self._last(state)
        state = dataclasses.replace(state, passes=state.passes + 1)
        if not last:
            return self._with_first_centers(state, summaries)
        runs = [
            run
            for group in range(state.notes["groups"])
            if (run := self._run(state, summaries, group)) is not None
        ]
        gamma = max((run.gamma for run in runs), default=1.0)
        if not self.distant and state.facts.variance > 0:
            # A row so rare that no chain was offered it; proposals by distance hold such rows.
            gamma = max(gamma, summaries[_key(_FARTHEST, 0)].value / state.facts.variance)
        state = dataclasses.replace(state, warnings=self._warnings(gamma))
        centers = np.concatenate([run.centers for run in runs]) if runs else None
        if centers is None or len(np.unique(centers, axis=0)) < self.num_clusters:
            return self._with_spare(state, summaries, centers)
        if len(runs) > 1:
            weights = np.concatenate([run.weights for run in runs])
            centers = recluster(
                centers,
                weights,
                self.num_clusters,
                self.random_seed,
                self.retries,
                self.distance_metric,
            )
        return dataclasses.replace(state, centers=centers)

    def looked_up(self, state: Seeding) -> Seeding:
        # The chains' distinct centers first, then drawn rows that equal none of them.
        assert state.rows is not None
        rows = np.concatenate([state.arrays["found"], state.rows])
        first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        return dataclasses.replace(state, centers=rows[first[: self.num_clusters]])

    def coins(self, group: int) -> npt.NDArray[np.bool_]:
        """bool [stream - 1]: which proposals are drawn by distance."""
        steps = np.arange(self.stream - 1)
        if not self.distant:
            return np.zeros(len(steps), bool)
        return uniforms(self.random_seed, COINS, group, steps) < 0.5

    def _last(self, state: Seeding) -> bool:
        return state.passes + 1 == self.max_passes

    def _with_first_centers(self, state: Seeding, summaries: Mapping[int, Any]) -> Seeding:
        groups = state.notes["groups"]
        firsts = np.zeros((groups, state.facts.num_features), np.float32)
        present = np.zeros(groups, bool)
        for group in range(groups):
            sample: ArrivalSample | None = summaries.get(_key(_PROPOSED, group))
            if sample is not None and len(sample.rows):
                firsts[group], present[group] = sample.rows[0], True
        arrays = {"first": firsts, "present": present}
        return dataclasses.replace(state, arrays=arrays)

    def _run(self, state: Seeding, summaries: Mapping[int, Any], group: int) -> _Run | None:
        """The chains of a group; None where it has no rows."""
        plain = _stream(summaries, _PROPOSED, group)
        if plain is None or not len(plain.rows):
            return None
        weight = float(summaries[_key(_WEIGHT, group)].to_fraction())
        apart, far = 0.0, None
        if self.distant:
            apart = float(summaries[_key(_SPREAD, group)].to_fraction())
            far = _stream(summaries, _DISTANT, group)
        proposals = plain.rows
        if far is not None and len(far.rows):
            proposals = _interleaved(plain.rows, far.rows, self.coins(group))
        return _Run(self, group, proposals, weight, apart)

    def _with_spare(
        self, state: Seeding, summaries: Mapping[int, Any], found: Centers | None
    ) -> Seeding:
        """The state that looks up k distinct rows: the stream has too few to choose from."""
        spare = DistinctSample.zero(self.num_clusters)
        for key in sorted(key for key in summaries if key >> 48 == _DISTINCT):
            spare.add(summaries[key])
        if found is None:
            found = np.zeros((0, state.facts.num_features), np.float32)
        return dataclasses.replace(state, arrays={"found": found}, wanted=drawn_rows(spare))

    def _warnings(self, gamma: float) -> tuple[str, ...]:
        left = (1 - 1 / gamma) ** (self.chain_length - 1)
        if self.num_clusters == 1 or gamma <= 1 or left <= _TOLERATED:
            return ()
        enough = 1 + math.ceil(math.log(_TOLERATED) / math.log1p(-1 / gamma))
        what, of = ("afkmc2", ", over its proposal density,") if self.distant else ("kmc2", "")
        others = "'kmeans_plus_plus'" if self.distant else "'afkmc2' or 'kmeans_plus_plus'"
        return (
            f"kmc2_chain_length: chains of {self.chain_length} are too short for {what} on this "
            f"data: the largest squared distance{of} is {gamma:.4g} times the mean one, so "
            f"that a chain can miss its target with a probability of {left:.2f}; chains of "
            f"{enough} would come within {_TOLERATED}. Or choose {others} as initial_clusters",
        )


@dataclasses.dataclass
class Largest:
    """The largest of some numbers of at least 0; a monoid."""

    value: float = 0.0

    def include(self, values: Floats) -> None:
        """Takes values [n] in."""
        self.value = max(self.value, float(values.max(initial=0.0)))

    def add(self, other: Largest) -> Largest:
        """Merges another into this one, in place, and returns this one."""
        self.value = max(self.value, other.value)
        return self


def _apart_from_means(facts: Facts, part: Rows) -> Floats:
    """float64 [m]: squared distances of the rows that can be drawn from the data's means."""
    rows = part.rows if part.weights is None else part.rows[part.weights > 0]
    return squared_distances(rows, np.array(facts.means))


class _Group:
    """What one group's rows add to a pass."""

    def __init__(self, chains: Chains, state: Seeding, group: int) -> None:
        d, seed, last = state.facts.num_features, chains.random_seed, chains._last(state)
        distant = int(chains.coins(group).sum()) if last else 0
        self._plain = Arrivals(chains.stream - distant if last else 1, d, seed, PROPOSALS)
        self._weigh = last
        self._weight = ExactSums.zeros((1,))
        self._far: Arrivals | None = None
        if last and chains.distant and state.arrays["present"][group]:
            self._first = state.arrays["first"][group]
            self._apart = ExactSums.zeros((1,))
            self._far = Arrivals(max(1, distant), d, seed, DISTANT)

    def include(self, part: Rows) -> None:
        self._plain.include(part.rows, part.weights, part.row_numbers)
        if not self._weigh:
            return
        weights = np.ones(len(part.rows))
        if part.weights is not None:
            weights = part.weights.astype(np.float64)
        self._weight.add(sums.column_sums(weights[:, None]))
        if self._far is not None:
            weights = weights * squared_distances(part.rows, self._first)
            self._apart.add(sums.column_sums(weights[:, None]))
            self._far.include(part.rows, weights, part.row_numbers)

    def summaries(self, group: int) -> Iterator[tuple[int, Any]]:
        for number, sample in self._plain.sample().key_ranges():
            yield _key(_PROPOSED, group, number), sample
        if self._weigh:
            yield _key(_WEIGHT, group), self._weight
        if self._far is not None:
            for number, sample in self._far.sample().key_ranges():
                yield _key(_DISTANT, group, number), sample
            yield _key(_SPREAD, group), self._apart


class _Run:
    """The chains of a group over its proposals, the first of which is the first center.

    Attributes:
        centers: float32 [c, d], distinct; fewer than k where there are no more among proposals.
        weights: float64 [c], the group's weight as it is nearest to the centers.
        gamma: the largest D^2 / q over the mean one, in the first chain or after the last.
    """

    def __init__(
        self, chains: Chains, group: int, proposals: Centers, weight: float, apart: float
    ) -> None:
        apart_of = squared_distances(proposals, proposals[0])
        density = np.ones(len(proposals))
        if apart > 0:
            density = 0.5 * (apart_of / apart) + 0.5 / weight
        self.gamma = _excess(apart_of, density)
        self._proposals, self._density = proposals, density
        self._kinds: npt.NDArray[np.intp] | None = None
        self.centers = self._walked(chains, group)
        spread = Spread.of(proposals, self.centers, len(self.centers))
        self.gamma = max(self.gamma, _excess(spread.scores, density))
        # A proposal stands for as many rows as its density has too few.
        shares = np.bincount(spread.indices, 1 / density, spread.count).astype(np.float64)
        self.weights = shares * (weight / running_sums(shares)[-1])

    def _walked(self, chains: Chains, group: int) -> Centers:
        """The centers that the chains end at, one chain after the other."""
        k, length, proposals = chains.num_clusters, chains.chain_length, self._proposals
        at_once = max(1, _PROPOSALS_AT_ONCE // length)
        spread = Spread.of(proposals[:0], proposals[:1], k)
        first, places = 0, [0]
        for number in range(k - 1):
            start = 1 + number * length
            if number % at_once == 0:
                first = start
                ahead = proposals[start : start + at_once * length]
                spread = Spread.of(ahead, spread.picks, k)
            steps = np.arange(start, min(start + length, len(proposals)))
            place: int | None = None
            if len(steps):
                uniform = uniforms(chains.random_seed, CHAIN, group, steps)
                distances = spread.scores[steps - first]
                end = walk(distances, uniform, self._density[steps])
                place = start + end if distances[end] > 0 else None
            if place is None:
                place = self._next(start + length, places)
            if place is None:
                break
            spread.pick(proposals[place])
            places.append(place)
        return spread.picks.copy()

    def _next(self, start: int, places: list[int]) -> int | None:
        """The next proposal from a place on, and around, that equals none of those at places."""
        if self._kinds is None:
            self._kinds = np.unique(self._proposals, axis=0, return_inverse=True)[1].reshape(-1)
        (other,) = np.nonzero(~np.isin(self._kinds, self._kinds[places]))
        if not len(other):
            return None
        return int(other[np.searchsorted(other, start) % len(other)])


def walk(distances: Floats, uniform: Floats, density: Floats | None = None) -> int:
    """Where a chain ends that starts at the first of these rows and is proposed each further one.

    Args:
        distances: float64 [L], squared, to the nearest center so far.
        uniform: float64 [L], of which the first is not used.
        density: float64 [L] of the proposals; None where all are alike.

    Example:
        >>> walk(np.array([0.0, 4.0, 1.0]), np.array([0.5, 0.5, 0.5]))
        1
    """
    if density is None:
        density = np.ones(len(distances))
    place, steps = 0, zip(distances.tolist(), density.tolist(), uniform.tolist(), strict=True)
    d, q = math.nan, math.nan
    for number, (other_d, other_q, u) in enumerate(steps):
        if number == 0 or other_d * q > u * d * other_q:
            place, d, q = number, other_d, other_q
    return place


def _excess(distances: Floats, density: Floats) -> float:
    """The largest ratio of distance and density over the mean one; 1 where all are 0."""
    ratios = distances / density
    total = float(running_sums(ratios)[-1])
    return float(ratios.max()) * len(ratios) / total if total > 0 else 1.0


def _stream(summaries: Mapping[int, Any], kind: int, group: int) -> ArrivalSample | None:
    """A group's arrivals in order, out of ranges of time."""
    total: ArrivalSample | None = None
    for key in sorted(key for key in summaries if key >> 32 == _key(kind, group) >> 32):
        part = summaries[key]
        if total is None:
            total = ArrivalSample.zero(part.size, part.rows.shape[1])
        if len(total.times) == total.size:
            break
        total.add(part)
    return total


def _interleaved(plain: Centers, far: Centers, coins: npt.NDArray[np.bool_]) -> Centers:
    """The first plain row, then rows of both in the order of the coins."""
    rows = np.zeros((1 + len(coins), plain.shape[1]), np.float32)
    rows[0] = plain[0]
    rows[1:][coins] = far
    rows[1:][~coins] = plain[1:]
    return rows
