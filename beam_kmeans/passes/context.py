"""Run: a state on its way through a graph, and how a graph comes to its first."""

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

import apache_beam as beam

from beam_kmeans.checkpoint import Commit, FileRef, WorkDir
from beam_kmeans.config import Parameters
from beam_kmeans.fitting import FitState
from beam_kmeans.io.manifest import StagedDataset
from beam_kmeans.io.shards import ShardInfo, read_shard
from beam_kmeans.seeding.rows import check_rows
from beam_kmeans.seeding.state import Facts
from beam_kmeans.seeding_checkpoint import SeedingCommit
from beam_kmeans.statistics import Directionless, Statistics
from beam_kmeans.tally import Rows, in_metric


@dataclasses.dataclass(frozen=True)
class ShardRef:
    """What waits at the gate of a pass: where a shard is, and what reading it needs."""

    dataset: str
    shard: ShardInfo
    num_features: int
    weighted: bool


@dataclasses.dataclass(frozen=True)
class Context:
    """What passes and transitions need to know of the dataset.

    `rows` is N, rows of any kind. Exponents, variance, squares and facts are of the rows as the
    metric measures them: under cosine of unit rows, without the `directionless` ones.
    """

    dataset: str
    rows: int
    num_features: int
    weighted: bool
    exponents: tuple[int, ...]
    mean_variance: float
    sum_of_squares: Fraction
    facts: Facts
    distance_metric: str
    directionless: Directionless


@dataclasses.dataclass(frozen=True)
class Run:
    """A state on its way through a graph: of a fit, or before that of its initialisation."""

    context: Context
    fit: Commit | None = None
    seeding: SeedingCommit | None = None

    @property
    def commit(self) -> Commit:
        """The state of the fit.

        Raises:
            ValueError: the initialisation has not ended.
        """
        if self.fit is None:
            raise ValueError("the initialisation of this run has not ended")
        return self.fit


def context_of(
    dataset: StagedDataset, parameters: Parameters, units: Statistics | None = None
) -> Context:
    """What passes need of a dataset.

    Args:
        dataset: staged rows.
        parameters: of the fit.
        units: under cosine the statistics of its unit rows (`passes.unit`).

    Raises:
        DataError: it cannot be clustered so.
    """
    statistics, directionless = dataset.statistics, Directionless()
    if parameters.distance_metric == "cosine":
        if units is None:
            raise ValueError("under cosine passes need the statistics of unit rows")
        directionless = Directionless.between(statistics, units)
        statistics = units
    check_rows(statistics, parameters.num_clusters, directionless.rows)
    return Context(
        dataset=dataset.path,
        rows=dataset.rows,
        num_features=dataset.num_features,
        weighted=dataset.weighted,
        exponents=tuple(statistics.exponents().tolist()),
        mean_variance=statistics.mean_variance(),
        sum_of_squares=statistics.sum_of_squares(),
        facts=Facts.of(statistics),
        distance_metric=parameters.distance_metric,
        directionless=directionless,
    )


def blocks(ref: ShardRef, context: Context) -> Iterator[Rows]:
    """Yields the verified blocks of a shard, as the metric measures their rows."""
    for part in read_shard(ref.dataset, ref.shard, context.num_features, context.weighted):
        measured = in_metric(part, context.distance_metric)
        if len(measured.rows):
            yield measured


class ListShards(beam.DoFn):
    """Emits a reference of each shard of a dataset."""

    def process(self, dataset: str) -> Iterator[ShardRef]:
        staged = StagedDataset.open(dataset)
        for shard in staged.shards:
            yield ShardRef(dataset, shard, staged.num_features, staged.weighted)


class LoadCommit(beam.DoFn):
    """Emits the run that a commit tells of."""

    def __init__(self, work: WorkDir, path: str) -> None:
        self._work, self._path = work, path

    def process(self, context: Context) -> Iterator[Run]:
        yield Run(context, self._work.load_commit(self._path))


class CommitGiven(beam.DoFn):
    """Emits the run that starts from given centers."""

    def __init__(self, work: WorkDir, given: tuple[FileRef, ...]) -> None:
        self._work, self._given = work, given

    def process(self, context: Context) -> Iterator[Run]:
        commit = Commit(FitState(), self._given)
        self._work.save_commit(commit)
        yield Run(context, commit)
