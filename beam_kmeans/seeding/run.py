"""Which initialiser a fit's parameters ask for, and a whole initialisation over data at hand."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from beam_kmeans.config import Parameters
from beam_kmeans.seeding.chains import Chains
from beam_kmeans.seeding.function import SampleRows, centers_by
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
    """The initialiser that the parameters ask for; of a function, its sample (`chosen`)."""
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
    if p.initialiser in ("kmc2", "afkmc2"):
        return Chains(
            p.num_clusters,
            p.random_seed,
            p.kmc2_chain_length,
            p.kmc2_groups,
            p.initialiser == "afkmc2",
            p.retries,
            p.distance_metric,
        )
    if p.initialiser == "callable":
        return SampleRows(p.num_clusters, p.random_seed)
    raise ValueError("initial_clusters: the centers are given, there is nothing to find")


def run(source: Source, initialiser: Initialiser) -> Seeding:
    """Runs an initialisation to its end.

    Raises:
        DataError: the data cannot be clustered so.
    """
    state = initialiser.start(source.facts)
    while not state.finished:
        state = source.measure(initialiser, state)
        if state.wanted is not None:
            state = append_rows(state, source.gather(state.wanted))
            state = initialiser.looked_up(state)
    return state


def initial_centers(source: Source, parameters: Parameters) -> Seeding:
    """The finished state of the initialisation that the parameters ask for, with its centers.

    Raises:
        DataError: the data cannot be clustered so.
        ValueError: what a function gave cannot be centers.
    """
    return chosen(run(source, initialiser_of(parameters)), parameters)


def chosen(state: Seeding, parameters: Parameters) -> Seeding:
    """The finished state with the centers that a function chooses, where there is one.

    Raises:
        ValueError: what the function gave cannot be centers.
    """
    function = parameters.initial_clusters
    if state.centers is not None or not callable(function):
        return state
    sample, k, metric = state.arrays["sample"], parameters.num_clusters, parameters.distance_metric
    return dataclasses.replace(state, centers=centers_by(function, sample, k, metric))


def append_rows(state: Seeding, found: npt.NDArray[np.float32]) -> Seeding:
    """The state with the rows that it wanted."""
    rows = found if state.rows is None else np.concatenate([state.rows, found])
    return dataclasses.replace(state, rows=rows, wanted=None, lookups=state.lookups + 1)
