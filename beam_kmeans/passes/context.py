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
from beam_kmeans.tally import Rows


@dataclasses.dataclass(frozen=True)
class ShardRef:
    """What waits at the gate of a pass: where a shard is."""

    dataset: str
    shard: ShardInfo


@dataclasses.dataclass(frozen=True)
class Context:
    """What passes and transitions need to know of the dataset."""

    dataset: str
    num_features: int
    weighted: bool
    total_weight: float
    exponents: tuple[int, ...]
    mean_variance: float
    sum_of_squares: Fraction
    facts: Facts


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


def context_of(dataset: StagedDataset, parameters: Parameters) -> Context:
    """What passes need of a dataset.

    Raises:
        DataError: it cannot be clustered so.
    """
    statistics = dataset.statistics
    check_rows(statistics, parameters.num_clusters)
    total_weight = float(statistics.weight.to_fraction())
    return Context(
        dataset=dataset.path,
        num_features=dataset.num_features,
        weighted=dataset.weighted,
        total_weight=total_weight,
        exponents=tuple(statistics.exponents().tolist()),
        mean_variance=statistics.mean_variance(),
        sum_of_squares=statistics.sum_of_squares(),
        facts=Facts(statistics.positive_rows, dataset.num_features, total_weight),
    )


def blocks(ref: ShardRef, context: Context) -> Iterator[Rows]:
    """Yields the verified blocks of a shard."""
    return read_shard(ref.dataset, ref.shard, context.num_features, context.weighted)


class ListShards(beam.DoFn):
    """Emits a reference of each shard of a dataset."""

    def process(self, dataset: str) -> Iterator[ShardRef]:
        for shard in StagedDataset.open(dataset).shards:
            yield ShardRef(dataset, shard)


class Open(beam.DoFn):
    """Emits the context of a dataset."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def process(self, dataset: str) -> Iterator[Context]:
        yield context_of(StagedDataset.open(dataset), self._parameters)


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
