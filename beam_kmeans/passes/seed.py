"""SeedCenters: the initial centers of a run, by any initialiser, over the shards of a dataset.

As in an iteration, gate, read and what an initialiser asks of a shard's rows are one DoFn. The rows
that it draws are then looked up in the shards that may hold them. Each state is committed, so that
an initialisation goes on where it stopped; passes after its end read nothing.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsIter, AsSingleton, PCollection

from beam_kmeans import lloyd
from beam_kmeans.checkpoint import Commit, FileRef, WorkDir
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState
from beam_kmeans.io import files
from beam_kmeans.io.nearest import SideFiles
from beam_kmeans.io.shards import ShardInfo
from beam_kmeans.passes.context import Context, Run, ShardRef, blocks
from beam_kmeans.seeding.rows import gather
from beam_kmeans.seeding.run import append_rows
from beam_kmeans.seeding.state import Forgetful, Initialiser, Memory, Seeding
from beam_kmeans.seeding_checkpoint import (
    SeedingCommit,
    load_seeding,
    prepared_seeding,
    save_seeding,
)


class SeedCenters(beam.PTransform[Any, Any]):
    """The passes of an initialisation: a run in, a run out; where that has ended, with centers.

    Args:
        refs: PCollection of ShardRef.
        work: the work directory.
        initialiser: what to do; it may not hold centers or functions, as graphs do not.
        passes: how many there are at most.
        remember: whether each shard's rows keep their nearest candidate in a side file.
    """

    def __init__(
        self,
        refs: PCollection[Any],
        work: WorkDir,
        initialiser: Initialiser,
        passes: int,
        remember: bool = True,
    ) -> None:
        super().__init__()
        self._refs, self._work, self._initialiser = refs, work, initialiser
        self._passes, self._remember = passes, remember

    def expand(self, run: PCollection[Any]) -> PCollection[Any]:
        for number in range(self._passes):
            one = _SeedingPass(self._refs, self._work, self._initialiser, self._remember)
            run = run | f"Pass{number}" >> one
        return run


class StartSeeding(beam.DoFn):
    """Emits the run that an initialiser begins, or that goes on from a commit of its states."""

    def __init__(self, work: WorkDir, initialiser: Initialiser, path: str | None = None) -> None:
        self._work, self._initialiser, self._path = work, initialiser, path

    def process(self, context: Context) -> Iterator[Run]:
        if self._path is None:
            commit = save_seeding(self._work, self._initialiser.start(context.facts))
        else:
            commit = load_seeding(self._work, self._path)
        yield _handed_on(self._work, context, commit)


def passes_left(initialiser: Initialiser, seeding: SeedingCommit | None) -> int:
    """How many passes `SeedCenters` has to hold at most, from a commit or from the start.

    A look-up alone counts as one, as its rows are drawn already.
    """
    if seeding is None:
        return initialiser.max_passes
    if seeding.centers is not None:
        return 0
    return initialiser.max_passes - seeding.passes + (seeding.drawn is not None)


class _SeedingPass(beam.PTransform[Any, Any]):
    """One pass, what follows from it, and the look at the rows that it drew."""

    def __init__(
        self, refs: PCollection[Any], work: WorkDir, initialiser: Initialiser, remember: bool
    ) -> None:
        super().__init__()
        self._refs, self._work, self._initialiser = refs, work, initialiser
        self._remember = remember

    def expand(self, run: PCollection[Any]) -> PCollection[Any]:
        work, initialiser = self._work, self._initialiser
        measure = _MeasurePass(work, initialiser, self._remember)
        summaries = (
            self._refs
            | "Measure" >> beam.ParDo(measure, AsSingleton(run))
            | "Merge" >> beam.CombinePerKey(MergeSummaries())
        )
        run = run | "Advance" >> beam.ParDo(_AdvanceFn(work, initialiser), AsIter(summaries))
        found = (
            self._refs
            | "LookUp" >> beam.ParDo(_LookUpPass(work), AsSingleton(run))
            | "MergeRows" >> beam.CombinePerKey(MergeSummaries())
            | "SaveRows" >> beam.ParDo(_SaveRowsFn(work), AsSingleton(run))
        )
        return run | "Append" >> beam.ParDo(_AppendFn(work, initialiser), AsIter(found))


@dataclasses.dataclass
class GatheredRows:
    """Rows found for places among the drawn ones; a monoid."""

    places: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float32]

    def add(self, other: "GatheredRows") -> "GatheredRows":
        """Merges another's into this one, in place, and returns this one."""
        self.places = np.concatenate([self.places, other.places])
        self.rows = np.concatenate([self.rows, other.rows])
        return self


def _to_measure(run: Run) -> SeedingCommit | None:
    """The state that the run's next pass is for; None where it has none."""
    seeding = run.seeding
    ready = run.fit is None and seeding is not None and seeding.drawn is None
    return seeding if ready else None


def _to_look_up(run: Run) -> SeedingCommit | None:
    """The state whose drawn rows are to be looked up; None where there are none."""
    seeding = run.seeding
    return seeding if run.fit is None and seeding is not None and seeding.drawn else None


class _MeasurePass(beam.DoFn):
    """Gate, read and kernel: emits what an initialiser asks of a shard's rows."""

    def __init__(self, work: WorkDir, initialiser: Initialiser, remember: bool) -> None:
        self._work, self._initialiser, self._remember = work, initialiser, remember

    def process(self, ref: ShardRef, run: Run) -> Iterator[tuple[int, Any]]:
        commit = _to_measure(run)
        if commit is None or commit.passes >= self._initialiser.max_passes:
            return
        state = prepared_seeding(self._work, commit)
        with self._memory(ref.shard, commit) as memory:
            yield from self._initialiser.measure(state, blocks(ref, run.context), memory)

    def _memory(
        self, shard: ShardInfo, commit: SeedingCommit
    ) -> contextlib.AbstractContextManager[Memory]:
        if not (self._remember and commit.rows):
            return contextlib.nullcontext(Forgetful())
        return side_files(self._work).memory(shard, [ref.sha256 for ref in commit.rows])


class _AdvanceFn(beam.DoFn):
    """The transition after a pass."""

    def __init__(self, work: WorkDir, initialiser: Initialiser) -> None:
        self._work, self._initialiser = work, initialiser

    def process(self, run: Run, summaries: Iterable[tuple[int, Any]]) -> Iterator[Run]:
        commit = _to_measure(run)
        if commit is None or commit.passes >= self._initialiser.max_passes:
            yield run
            return
        merged: Mapping[int, Any] = dict(summaries)
        state = self._initialiser.advance(prepared_seeding(self._work, commit), merged)
        yield _committed(self._work, run.context, state, commit.rows, commit)


class _LookUpPass(beam.DoFn):
    """Emits the drawn rows that a shard holds, by ranges of places; reads no other shard."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def process(self, ref: ShardRef, run: Run) -> Iterator[tuple[int, GatheredRows]]:
        numbers, shard = _wanted(self._work, run), ref.shard
        inside = (numbers >= shard.first_row) & (numbers < shard.first_row + shard.rows)
        if not len(numbers) or (not shard.numbered and not inside.any()):
            return
        places, rows = gather(blocks(ref, run.context), numbers)
        for key, (start, stop) in enumerate(lloyd.ranges(len(numbers), run.context.num_features)):
            own = (places >= start) & (places < stop)
            if own.any():
                yield key, GatheredRows(places[own] - start, rows[own])


class _SaveRowsFn(beam.DoFn):
    """Writes a range of the rows that were looked up."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def process(self, element: tuple[int, GatheredRows], run: Run) -> Iterator[tuple[int, FileRef]]:
        (key, gathered), numbers = element, _wanted(self._work, run)
        ranges = lloyd.ranges(len(numbers), run.context.num_features)
        start, stop = ranges[key]
        if not np.array_equal(np.sort(gathered.places), np.arange(stop - start)):
            raise DataError(f"{len(gathered.places)} of {stop - start} drawn rows were found again")
        rows = gathered.rows[np.argsort(gathered.places)]
        seeding = run.seeding
        folder = f"seeding/pass={seeding.passes if seeding else 0:02d}"
        end = f"-{key:05d}-of-{len(ranges):05d}"
        yield key, self._work.save_array(folder, "rows", rows, end)


class _AppendFn(beam.DoFn):
    """The transition after a look-up."""

    def __init__(self, work: WorkDir, initialiser: Initialiser) -> None:
        self._work, self._initialiser = work, initialiser

    def process(self, run: Run, found: Iterable[tuple[int, FileRef]]) -> Iterator[Run]:
        commit = _to_look_up(run)
        if commit is None:
            yield run
            return
        refs = tuple(ref for _, ref in sorted(found, key=lambda pair: pair[0]))
        state, context = prepared_seeding(self._work, commit), run.context
        wanted = len(_wanted(self._work, run))
        if len(refs) != len(lloyd.ranges(wanted, context.num_features)):
            raise DataError(f"not all of the {wanted} drawn rows were found again")
        rows = [self._work.load_array(ref) for ref in refs]
        rows = rows or [np.zeros((0, context.num_features), np.float32)]
        state = self._initialiser.looked_up(append_rows(state, np.concatenate(rows)))
        yield _committed(self._work, context, state, (*commit.rows, *refs), commit)
        # The next pass reads the side files that the last one wrote; those before are not needed.
        known = [ref.sha256 for ref in commit.rows]
        for count in range(1, len(known)):
            side_files(self._work).remove(known[:count])


def side_files(work: WorkDir) -> SideFiles:
    """Where the rows' nearest candidates are kept."""
    return SideFiles(files.join(work.path, "seeding", "nearest"))


def _wanted(work: WorkDir, run: Run) -> npt.NDArray[np.int64]:
    """int64 [w]: the numbers of the rows that are to be looked up."""
    commit = _to_look_up(run)
    wanted = None if commit is None else prepared_seeding(work, commit).wanted
    return np.zeros(0, np.int64) if wanted is None else wanted


def _committed(
    work: WorkDir,
    context: Context,
    state: Seeding,
    rows: tuple[FileRef, ...],
    before: SeedingCommit,
) -> Run:
    return _handed_on(work, context, save_seeding(work, state, rows, before))


def _handed_on(work: WorkDir, context: Context, seeding: SeedingCommit) -> Run:
    """The run as it goes on: an initialisation that has ended is the start of a fit."""
    if seeding.centers is None:
        return Run(context, seeding=seeding)
    # First what a run that starts from the commit would never come by again.
    side_files(work).remove_all()
    commit = Commit(FitState(), seeding.centers)
    work.save_commit(commit)
    return Run(context, commit, seeding)
