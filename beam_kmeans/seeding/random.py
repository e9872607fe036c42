"""Random rows as initial centers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from beam_kmeans.sampling import DistinctSample
from beam_kmeans.seeding.rows import draw, drawn_rows
from beam_kmeans.seeding.state import Facts, Memory, Seeding
from beam_kmeans.tally import Rows


@dataclasses.dataclass(frozen=True)
class RandomRows:
    """The k distinct row values with the smallest keys -ln(u) / weight: one pass, one look-up.

    References:
        P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", Information
        Processing Letters 97(5), 2006.
    """

    num_clusters: int
    random_seed: int

    @property
    def max_passes(self) -> int:
        return 1

    def start(self, facts: Facts) -> Seeding:
        return Seeding(facts)

    def measure(
        self, state: Seeding, parts: Iterable[Rows], memory: Memory
    ) -> Iterator[tuple[int, Any]]:
        sample = draw(parts, self.num_clusters, self.random_seed)
        yield from sample.ranges(state.facts.total_weight)

    def advance(self, state: Seeding, summaries: Mapping[int, Any]) -> Seeding:
        drawn = DistinctSample.zero(self.num_clusters)
        for key in sorted(summaries):
            if len(drawn.keys) == drawn.size:
                break
            drawn.add(summaries[key])
        return dataclasses.replace(state, passes=state.passes + 1, wanted=drawn_rows(drawn))

    def looked_up(self, state: Seeding) -> Seeding:
        return dataclasses.replace(state, centers=state.rows)
