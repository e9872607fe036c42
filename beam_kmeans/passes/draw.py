"""DrawCenters: initial centers at random, in one pass and a look at the drawn rows' shards."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsIter, AsSingleton, PCollection

from beam_kmeans import lloyd
from beam_kmeans.checkpoint import Commit, FileRef, WorkDir
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState
from beam_kmeans.passes.context import Context, Run, ShardRef, blocks
from beam_kmeans.sampling import DistinctSample
from beam_kmeans.seeding.rows import draw, drawn_rows, gather


class DrawCenters(beam.PTransform[Any, Any]):
    """Initial centers at random: a context in, the run that starts from them out.

    Args:
        refs: PCollection of (dataset path, ShardInfo).
        work: the work directory.
        parameters: of the fit.
        drawn: the rows' numbers, where an earlier job has drawn them.
    """

    def __init__(
        self,
        refs: PCollection[Any],
        work: WorkDir,
        parameters: Parameters,
        drawn: FileRef | None = None,
    ) -> None:
        super().__init__()
        self._refs, self._work, self._parameters, self._drawn = refs, work, parameters, drawn

    def expand(self, context: PCollection[Any]) -> PCollection[Any]:
        known = AsSingleton(context)
        drawn = self._drawn_numbers(context)
        centers = (
            self._refs
            | "GatherPass" >> beam.ParDo(_GatherPass(self._work), known, AsSingleton(drawn))
            | "MergeRows" >> beam.CombinePerKey(MergeSummaries())
            | "SaveCenters" >> beam.ParDo(_SaveInitial(self._work), known)
        )
        return context | "Commit" >> beam.ParDo(_CommitInitial(self._work), AsIter(centers))

    def _drawn_numbers(self, context: PCollection[Any]) -> PCollection[Any]:
        if self._drawn is not None:
            return context.pipeline | "Drawn" >> beam.Create([self._drawn])
        samples = (
            self._refs
            | "DrawPass" >> beam.ParDo(_DrawPass(self._parameters), AsSingleton(context))
            | "MergeSamples" >> beam.CombinePerKey(MergeSummaries())
        )
        return context | "Draw" >> beam.ParDo(_Draw(self._work), AsIter(samples))


@dataclasses.dataclass
class GatheredRows:
    """Rows found for places among the initial centers; a monoid."""

    places: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float32]

    def add(self, other: "GatheredRows") -> "GatheredRows":
        """Merges another's into this one, in place, and returns this one."""
        self.places = np.concatenate([self.places, other.places])
        self.rows = np.concatenate([self.rows, other.rows])
        return self


class _DrawPass(beam.DoFn):
    """Emits a shard's rows with the smallest keys, by ranges of keys."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def process(self, ref: ShardRef, context: Context) -> Iterator[tuple[int, DistinctSample]]:
        p = self._parameters
        sample = draw(blocks(ref, context), p.num_clusters, p.random_seed)
        yield from sample.ranges(context.total_weight)


class _Draw(beam.DoFn):
    """Chooses the rows that become the initial centers, and emits where their numbers are."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def process(
        self, _: Context, samples: Iterable[tuple[int, DistinctSample]]
    ) -> Iterator[FileRef]:
        drawn = DistinctSample.zero(self._work.num_clusters)
        for _key, sample in sorted(samples, key=lambda pair: pair[0]):
            if len(drawn.keys) == drawn.size:
                break
            drawn.add(sample)
        numbers = drawn_rows(drawn)
        yield self._work.save_array("seeding", "drawn", numbers)


class _GatherPass(beam.DoFn):
    """Emits the drawn rows that a shard holds, by ranges of centers; reads no other shard."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def process(
        self, ref: ShardRef, context: Context, drawn: FileRef
    ) -> Iterator[tuple[int, GatheredRows]]:
        numbers, shard = self._work.load_array(drawn), ref.shard
        inside = (numbers >= shard.first_row) & (numbers < shard.first_row + shard.rows)
        if not shard.numbered and not inside.any():
            return
        places, rows = gather(blocks(ref, context), numbers)
        for key, (start, stop) in enumerate(lloyd.ranges(len(numbers), context.num_features)):
            own = (places >= start) & (places < stop)
            if own.any():
                yield key, GatheredRows(places[own] - start, rows[own])


class _SaveInitial(beam.DoFn):
    """Writes a range of the initial centers."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def process(
        self, element: tuple[int, GatheredRows], context: Context
    ) -> Iterator[tuple[int, FileRef]]:
        key, gathered = element
        ranges = lloyd.ranges(self._work.num_clusters, context.num_features)
        start, stop = ranges[key]
        if not np.array_equal(np.sort(gathered.places), np.arange(stop - start)):
            raise DataError(f"{len(gathered.places)} of {stop - start} drawn rows were found again")
        centers = gathered.rows[np.argsort(gathered.places)]
        yield key, self._work.save_centers(0, centers, key, len(ranges))


class _CommitInitial(beam.DoFn):
    """Emits the run that starts from the drawn centers."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def process(self, context: Context, refs: Iterable[tuple[int, FileRef]]) -> Iterator[Run]:
        commit = Commit(FitState(), tuple(ref for _, ref in sorted(refs)))
        self._work.save_commit(commit)
        yield Run(context, commit)
