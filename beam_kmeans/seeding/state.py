"""What every initialiser is: a state, the passes it asks for, and what follows from each.

An initialiser never reads data. It says what a pass has to bring home of some rows (`measure`),
and what follows from the merged summaries (`advance`), so that the same one runs over arrays in
memory, shards behind a pipeline, or somebody's PCollection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import Rows

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an initialiser needs to know of the data before its first pass.

    Attributes:
        rows: rows that can be drawn: of positive weight, under cosine with a direction.
        num_features: d.
        total_weight: of these rows; it decides how summaries are cut, never what they hold.
        means: of their features.
        variance: the sum of their features' variances: the mean squared distance from the means.
    """

    rows: int
    num_features: int
    total_weight: float
    means: tuple[float, ...]
    variance: float

    @classmethod
    def of(cls, statistics: Statistics) -> Facts:
        """Out of the statistics of the rows as the metric measures them."""
        num_features = len(statistics.minimums)
        return cls(
            statistics.positive_rows,
            num_features,
            float(statistics.weight.to_fraction()),
            tuple(statistics.means().tolist()),
            statistics.mean_variance() * num_features,
        )


@dataclasses.dataclass(frozen=True)
class Seeding:
    """Where an initialisation stands. Plain values and arrays: what is committed after each pass.

    Attributes:
        passes: passes over the data done.
        lookups: looks at the shards of drawn rows done.
        facts: of the data.
        notes: plain values of the initialiser's own, for JSON.
        arrays: arrays of the initialiser's own, by name; those it does not change are the same
            objects in the next state.
        rows: float32 [m, d], the rows that were looked up so far, in the order asked for.
        wanted: int64 [w], numbers of rows that have to be looked up before the next pass; they are
            then appended to `rows`, and `looked_up` is asked what follows.
        centers: float32 [k, d] of a finished initialisation.
        warnings: what the log has to say of the initialisation.
    """

    facts: Facts
    passes: int = 0
    lookups: int = 0
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)
    rows: Floats | None = None
    wanted: npt.NDArray[np.int64] | None = None
    centers: Floats | None = None
    warnings: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether no pass is left: there are centers, or the sample to choose them from."""
        return self.centers is not None or "sample" in self.arrays


class Memory(Protocol):
    """What a pass remembers of each row for the next one: a cache, so that forgetting is allowed.

    A pass calls `recall` and then `keep` once for each part, in the parts' order.
    """

    def recall(self, part: Rows) -> tuple[int, npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        """How many rows of `Seeding.rows` were measured before, and each row's nearest of them.

        Returns:
            m, the scores float64 [n] and the indices int32 [n]; where nothing is remembered 0,
            infinities and zeros.
        """

    def keep(
        self, measured: int, scores: npt.NDArray[np.float64], indices: npt.NDArray[np.int32]
    ) -> None:
        """Remembers the same after this pass."""


class Forgetful:
    """Remembers nothing: each pass measures the rows anew."""

    def recall(self, part: Rows) -> tuple[int, npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        return 0, np.full(len(part.rows), np.inf), np.zeros(len(part.rows), np.int32)

    def keep(
        self, measured: int, scores: npt.NDArray[np.float64], indices: npt.NDArray[np.int32]
    ) -> None:
        pass


class Initialiser(Protocol):
    """One way to find initial centers. It holds parameters alone, and can be pickled."""

    @property
    def max_passes(self) -> int:
        """The passes that it can ask for at most; after them it has ended."""

    def start(self, facts: Facts) -> Seeding:
        """The state before the first pass."""

    def measure(
        self, state: Seeding, parts: Iterable[Rows], memory: Memory
    ) -> Iterator[tuple[int, Any]]:
        """What these rows add to the pass: mergeable summaries (`.add`), by key.

        Rows come as the metric measures them (`tally.in_metric`). Each summary is of bounded size.
        """

    def advance(self, state: Seeding, summaries: Mapping[int, Any]) -> Seeding:
        """The state after a pass, given the merged summaries by key; counts the pass.

        Raises:
            DataError: the data cannot be clustered so.
        """

    def looked_up(self, state: Seeding) -> Seeding:
        """The state after the wanted rows were appended to `rows` (`wanted` is None, counted)."""
