"""Which initialiser a fit's parameters ask for, and a whole initialisation over data at hand."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from beam_kmeans.config import Parameters
from beam_kmeans.seeding.oversampling import KMeansParallel
from beam_kmeans.seeding.random import RandomRows
from beam_kmeans.seeding.state import Facts, Initialiser, Seeding


class Source(Protocol):
    """Data that answers an initialiser at once."""

    @property
    def facts(self) -> Facts:
        """What is known before the first pass."""

    def measure(self, initialiser: Initialiser, state: Seeding) -> Seeding:
        """One pass over all rows, and what follows."""

    def gather(self, row_numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """float32 [w, d]: the rows of these numbers, in their order."""


def initialiser_of(parameters: Parameters) -> Initialiser:
    """The initialiser that the parameters ask for."""
    p = parameters
    if p.initialiser == "random":
        return RandomRows(p.num_clusters, p.random_seed)
    if p.initialiser == "kmeans_plus_plus":
        return KMeansParallel(
            p.num_clusters,
            p.random_seed,
            p.retries,
            p.seeding_oversampling,
            p.seeding_rounds,
            p.distance_metric,
        )
    raise NotImplementedError(p.initialiser)


def run(source: Source, initialiser: Initialiser) -> Seeding:
    """Runs an initialisation to its end.

    Raises:
        DataError: the data cannot be clustered so.
    """
    state = initialiser.start(source.facts)
    while state.centers is None:
        state = source.measure(initialiser, state)
        if state.wanted is not None:
            state = append_rows(state, source.gather(state.wanted))
            state = initialiser.looked_up(state)
    return state


def append_rows(state: Seeding, found: npt.NDArray[np.float32]) -> Seeding:
    """The state with the rows that it wanted."""
    rows = found if state.rows is None else np.concatenate([state.rows, found])
    return dataclasses.replace(state, rows=rows, wanted=None, lookups=state.lookups + 1)
