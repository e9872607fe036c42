"""A segment: one Beam graph of some passes and transitions, each state committed.

Gate, read, kernel and the sums of a shard are one DoFn: references of shards wait at it for the
side input of the state before, and nothing but references and partial sums crosses between worker
and runner. A pass that has nothing to do reads nothing, and its transition hands the state on.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsIter, AsSingleton

from beam_kmeans import lloyd, seeding
from beam_kmeans.checkpoint import FORMAT_VERSION, Commit, FileRef, WorkDir, prepared_centers
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState, advance
from beam_kmeans.io import files
from beam_kmeans.io.manifest import StagedDataset
from beam_kmeans.io.shards import ShardInfo, read_shard
from beam_kmeans.model import KMeansModel, model_of
from beam_kmeans.sampling import DistinctSample
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import LloydTally


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


@dataclasses.dataclass(frozen=True)
class Run:
    """A state on its way through a graph."""

    context: Context
    commit: Commit


@dataclasses.dataclass(frozen=True)
class RangeResult:
    """What updating one range of centers says to the transition of the whole model."""

    place: int
    centers: FileRef
    cost: Fraction
    shift: Fraction
    rise: float


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


def context_of(dataset: StagedDataset, parameters: Parameters) -> Context:
    """What passes need of a dataset.

    Raises:
        DataError: it cannot be clustered so.
    """
    statistics = dataset.statistics
    seeding.check_rows(statistics, parameters.num_clusters)
    return Context(
        dataset=dataset.path,
        num_features=dataset.num_features,
        weighted=dataset.weighted,
        total_weight=float(statistics.weight.to_fraction()),
        exponents=tuple(statistics.exponents().tolist()),
        mean_variance=statistics.mean_variance(),
        sum_of_squares=statistics.sum_of_squares(),
    )


class _ListShards(beam.DoFn):
    """Emits a reference of each shard of a dataset."""

    def process(self, dataset: str) -> Iterator[tuple[str, ShardInfo]]:
        for shard in StagedDataset.open(dataset).shards:
            yield dataset, shard


class _Open(beam.DoFn):
    """Emits the context of a dataset."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def process(self, dataset: str) -> Iterator[Context]:
        yield context_of(StagedDataset.open(dataset), self._parameters)


class _LoadCommit(beam.DoFn):
    """Emits the run that a commit tells of."""

    def __init__(self, work: WorkDir, path: str) -> None:
        self._work, self._path = work, path

    def process(self, context: Context) -> Iterator[Run]:
        yield Run(context, self._work.load_commit(self._path))


class _CommitGiven(beam.DoFn):
    """Emits the run that starts from given centers."""

    def __init__(self, work: WorkDir, given: tuple[FileRef, ...]) -> None:
        self._work, self._given = work, given

    def process(self, context: Context) -> Iterator[Run]:
        commit = Commit(FitState(), self._given)
        self._work.save_commit(commit)
        yield Run(context, commit)


class _DrawPass(beam.DoFn):
    """Emits a shard's rows with the smallest keys, by ranges of keys."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def process(
        self, ref: tuple[str, ShardInfo], context: Context
    ) -> Iterator[tuple[int, DistinctSample]]:
        p = self._parameters
        sample = seeding.draw(_blocks(ref, context), p.num_clusters, p.random_seed)
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
        numbers = seeding.drawn_rows(drawn)
        yield self._work.save_array("seeding", "drawn", numbers)


class _GatherPass(beam.DoFn):
    """Emits the drawn rows that a shard holds, by ranges of centers; reads no other shard."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def process(
        self, ref: tuple[str, ShardInfo], context: Context, drawn: FileRef
    ) -> Iterator[tuple[int, GatheredRows]]:
        numbers, shard = self._work.load_array(drawn), ref[1]
        inside = (numbers >= shard.first_row) & (numbers < shard.first_row + shard.rows)
        if not shard.numbered and not inside.any():
            return
        places, rows = seeding.gather(_blocks(ref, context), numbers)
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


class _LloydPass(beam.DoFn):
    """Gate, read, kernel and sums: emits a shard's survey and its sums by ranges of centers."""

    def __init__(self, work: WorkDir, parameters: Parameters, only_last: bool) -> None:
        self._work, self._parameters, self._only_last = work, parameters, only_last

    def process(self, ref: tuple[str, ShardInfo], run: Run) -> Iterator[tuple[int, Any]]:
        if not _has_pass(run, self._parameters, self._only_last):
            return
        centers = prepared_centers(self._work, run.commit.centers)
        far = self._parameters.empty_clusters == "relocate"
        exponents = np.array(run.context.exponents, np.int32)
        tally = LloydTally(centers, far, exponents)
        tally.include(_blocks(ref, run.context))
        survey, totals = tally.result()
        yield lloyd.SURVEY, survey
        for key, (start, stop) in enumerate(lloyd.ranges(centers.k, centers.d)):
            yield key, totals.part(start, stop)


def _has_pass(run: Run, parameters: Parameters, only_last: bool) -> bool:
    state = run.commit.state
    return not state.finished and (not only_last or state.is_last(parameters))


def _blocks(ref: tuple[str, ShardInfo], context: Context) -> Iterator[Any]:
    return read_shard(ref[0], ref[1], context.num_features, context.weighted)


class _Transition:
    """What follows a pass: new centers of each range, then a new state of the whole."""

    def __init__(self, work: WorkDir, parameters: Parameters, only_last: bool) -> None:
        self._work, self._parameters, self._only_last = work, parameters, only_last

    def moves(self, run: Run, survey: lloyd.Survey) -> list[lloyd.Move]:
        """Of empty clusters to far rows."""
        relocate = self._parameters.empty_clusters == "relocate"
        last = run.commit.state.is_last(self._parameters)
        return lloyd.relocations(survey) if relocate and not last else []

    def update(self, run: Run, key: int, totals: ExactSums, survey: lloyd.Survey) -> RangeResult:
        """Updates and writes one range of centers."""
        ranges = lloyd.ranges(self._work.num_clusters, run.context.num_features)
        ref, state = run.commit.centers[key], run.commit.state
        centers = self._work.load_array(ref)
        moves = self.moves(run, survey)
        update = lloyd.update_range(centers, totals, survey, moves, ranges[key][0])
        if not state.is_last(self._parameters):
            ref = self._work.save_centers(state.iteration + 1, update.centers, key, len(ranges))
        return RangeResult(key, ref, update.cost, update.shift, update.rise)

    def join(self, run: Run, results: list[RangeResult], survey: lloyd.Survey) -> Run:
        """Joins the ranges' results to the next state, and commits it."""
        results = sorted(results, key=lambda result: result.place)
        if len(results) != len(run.commit.centers):
            raise DataError(
                f"{len(results)} of {len(run.commit.centers)} ranges of centers came in"
            )
        context = run.context
        costs = [result.cost for result in results]
        measured = lloyd.measure(survey, costs, context.sum_of_squares)
        state = advance(
            run.commit.state,
            self._parameters,
            mean_variance=context.mean_variance,
            num_features=context.num_features,
            measured=measured,
            relocated=len(self.moves(run, survey)),
            shift=sum((result.shift for result in results), Fraction(0)),
            rise=sum(result.rise for result in results),
        )
        folder = self._work.iteration_folder(state.iteration)
        counts = self._work.save_array(folder, "counts", measured.counts)
        commit = Commit(state, tuple(result.centers for result in results), counts)
        self._work.save_commit(commit)
        return Run(context, commit)

    def has_pass(self, run: Run) -> bool:
        """Whether the pass before had anything to do."""
        return _has_pass(run, self._parameters, self._only_last)


class _StepFn(beam.DoFn):
    """A transition where there is one range: all in one element."""

    def __init__(self, transition: _Transition) -> None:
        self._transition = transition

    def process(self, run: Run, summaries: Iterable[tuple[int, Any]]) -> Iterator[Run]:
        if not self._transition.has_pass(run):
            yield run
            return
        parts = dict(summaries)
        survey = _survey(parts.pop(lloyd.SURVEY, None))
        results = [self._transition.update(run, key, parts[key], survey) for key in parts]
        yield self._transition.join(run, results, survey)


class _UpdateRangeFn(beam.DoFn):
    """The first layer of a transition: one element a range of centers, in parallel."""

    def __init__(self, transition: _Transition) -> None:
        self._transition = transition

    def process(
        self, element: tuple[int, ExactSums], run: Run, surveys: Iterable[tuple[int, lloyd.Survey]]
    ) -> Iterator[RangeResult]:
        key, totals = element
        survey = _survey(next((survey for _, survey in surveys), None))
        yield self._transition.update(run, key, totals, survey)


class _JoinRangesFn(beam.DoFn):
    """The second layer: sees the summaries of all ranges."""

    def __init__(self, transition: _Transition) -> None:
        self._transition = transition

    def process(
        self,
        run: Run,
        results: Iterable[RangeResult],
        surveys: Iterable[tuple[int, lloyd.Survey]],
    ) -> Iterator[Run]:
        if not self._transition.has_pass(run):
            yield run
            return
        survey = _survey(next((survey for _, survey in surveys), None))
        yield self._transition.join(run, list(results), survey)


def _survey(found: lloyd.Survey | None) -> lloyd.Survey:
    if found is None:
        raise DataError("a pass over the dataset brought nothing home: it has no shards")
    return found


class LloydIteration(beam.PTransform):
    """One pass over the shards and the transition that follows: a run in, a run out.

    Args:
        refs: PCollection of (dataset path, ShardInfo).
        work: the work directory.
        parameters: of the fit, without given centers.
        num_features: d; it decides how many ranges of centers there are.
        only_last: act only on a state whose centers are final, to measure them.
    """

    def __init__(
        self,
        refs: beam.PCollection,
        work: WorkDir,
        parameters: Parameters,
        num_features: int,
        only_last: bool = False,
    ) -> None:
        super().__init__()
        self._refs = refs
        self._pass = _LloydPass(work, parameters, only_last)
        self._transition = _Transition(work, parameters, only_last)
        self._ranges = len(lloyd.ranges(parameters.num_clusters, num_features))

    def expand(self, run: beam.PCollection) -> beam.PCollection:
        summaries = (
            self._refs
            | "Pass" >> beam.ParDo(self._pass, AsSingleton(run))
            | "Sum" >> beam.CombinePerKey(MergeSummaries())
        )
        if self._ranges == 1:
            return run | "Step" >> beam.ParDo(_StepFn(self._transition), AsIter(summaries))
        surveys = summaries | "Survey" >> beam.Filter(lambda part: part[0] == lloyd.SURVEY)
        results = (
            summaries
            | "Ranges" >> beam.Filter(lambda part: part[0] != lloyd.SURVEY)
            | "SpreadRanges" >> beam.Reshuffle()
            | "UpdateRanges"
            >> beam.ParDo(_UpdateRangeFn(self._transition), AsSingleton(run), AsIter(surveys))
        )
        return run | "JoinRanges" >> beam.ParDo(
            _JoinRangesFn(self._transition), AsIter(results), AsIter(surveys)
        )


class DrawCenters(beam.PTransform):
    """Initial centers at random: a context in, the run that starts from them out.

    Args:
        refs: PCollection of (dataset path, ShardInfo).
        work: the work directory.
        parameters: of the fit.
        drawn: the rows' numbers, where an earlier job has drawn them.
    """

    def __init__(
        self,
        refs: beam.PCollection,
        work: WorkDir,
        parameters: Parameters,
        drawn: FileRef | None = None,
    ) -> None:
        super().__init__()
        self._refs, self._work, self._parameters, self._drawn = refs, work, parameters, drawn

    def expand(self, context: beam.PCollection) -> beam.PCollection:
        known = AsSingleton(context)
        drawn = self._drawn_numbers(context)
        centers = (
            self._refs
            | "GatherPass" >> beam.ParDo(_GatherPass(self._work), known, AsSingleton(drawn))
            | "MergeRows" >> beam.CombinePerKey(MergeSummaries())
            | "SaveCenters" >> beam.ParDo(_SaveInitial(self._work), known)
        )
        return context | "Commit" >> beam.ParDo(_CommitInitial(self._work), AsIter(centers))

    def _drawn_numbers(self, context: beam.PCollection) -> beam.PCollection:
        if self._drawn is not None:
            return context.pipeline | "Drawn" >> beam.Create([self._drawn])
        samples = (
            self._refs
            | "DrawPass" >> beam.ParDo(_DrawPass(self._parameters), AsSingleton(context))
            | "MergeSamples" >> beam.CombinePerKey(MergeSummaries())
        )
        return context | "Draw" >> beam.ParDo(_Draw(self._work), AsIter(samples))


class _PublishFn(beam.DoFn):
    """Writes `state.json`, and the model of a finished run."""

    def __init__(self, work: WorkDir, model_dir: str) -> None:
        self._work, self._model_dir = work, model_dir

    def process(self, run: Run) -> Iterator[str]:
        publish(self._work, self._model_dir, run.context.dataset, run.commit)
        yield self._model_dir


def publish(work: WorkDir, model_dir: str, dataset: str, commit: Commit) -> None:
    """Writes `state.json` for people and schedulers, and the model of a finished run."""
    state = commit.state
    last: dict[str, Any] = dict(state.history[-1]) if state.history else {}
    shifts = [record["shift"] for record in state.history if "shift" in record]
    fields = {
        "format_version": FORMAT_VERSION,
        "iteration": state.iteration,
        "inertia": last.get("inertia"),
        "shift": shifts[-1] if shifts else None,
        "converged": state.converged,
        "finished": state.finished,
    }
    if state.finished:
        model = finished_model(work, dataset, commit)
        model.save(model_dir)
    text = json.dumps(fields, indent=1) + "\n"
    files.write_bytes(files.join(work.path, "state.json"), text.encode())


def finished_model(work: WorkDir, dataset: str, commit: Commit) -> KMeansModel:
    """The model of a finished run."""
    if commit.counts is None:
        raise ValueError("a finished run has counts")
    staged = StagedDataset.open(dataset)
    return model_of(
        work.load_centers(commit.centers),
        work.load_array(commit.counts),
        commit.state,
        features=staged.features,
        standardization=staged.standardization,
    )


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a segment starts: one of these at most is given; none draws rows at random.

    Attributes:
        commit: path of the last commit.
        given: files of given centers.
        drawn: file of the numbers of the rows to start from.
    """

    commit: str | None = None
    given: tuple[FileRef, ...] | None = None
    drawn: FileRef | None = None


def build_segment(
    dataset: beam.PCollection,
    work: WorkDir,
    parameters: Parameters,
    num_features: int,
    start: Start,
    iterations: int,
    model_dir: str,
) -> beam.PCollection:
    """The graph of a segment over a staged dataset, behind the PCollection of its one path.

    Args:
        dataset: PCollection[str] of the path of the staged dataset.
        work: the work directory.
        parameters: of the fit.
        num_features: d.
        start: where it starts.
        iterations: updates at most; if the centers are final after them, they are measured too.
        model_dir: where the model of a finished run goes.

    Returns:
        The run after the segment.
    """
    parameters = parameters.without_centers()
    refs = dataset | "ListShards" >> beam.ParDo(_ListShards()) | "SpreadShards" >> beam.Reshuffle()
    context = dataset | "Open" >> beam.ParDo(_Open(parameters))
    if start.commit is not None:
        run = context | "LoadCommit" >> beam.ParDo(_LoadCommit(work, start.commit))
    elif start.given is not None:
        run = context | "CommitGiven" >> beam.ParDo(_CommitGiven(work, start.given))
    else:
        run = context | "DrawCenters" >> DrawCenters(refs, work, parameters, start.drawn)
    for number in range(iterations):
        run = run | f"Iteration{number}" >> LloydIteration(refs, work, parameters, num_features)
    run = run | "Measure" >> LloydIteration(refs, work, parameters, num_features, only_last=True)
    return run | "Publish" >> beam.ParDo(_PublishFn(work, model_dir))
