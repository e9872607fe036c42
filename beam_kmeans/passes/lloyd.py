"""LloydIteration: one pass that sums rows under their nearest centers, and the update that follows.

Gate, read, kernel and the sums of a shard are one DoFn: references of shards wait at it for the
side input of the state before, and nothing but references and partial sums crosses between worker
and runner. A pass that has nothing to do reads nothing, and its transition hands the state on.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, Protocol, TypeVar

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsIter, AsSingleton, PCollection

from beam_kmeans import lloyd
from beam_kmeans.checkpoint import Commit, FileRef, WorkDir, prepared_centers
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import advance
from beam_kmeans.passes.context import Run, ShardRef, blocks
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import LloydTally


class LloydIteration(beam.PTransform[Any, Any]):
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
        refs: PCollection[Any],
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

    def expand(self, run: PCollection[Any]) -> PCollection[Any]:
        summaries = (
            self._refs
            | "Pass" >> beam.ParDo(self._pass, AsSingleton(run))
            | "Sum" >> beam.CombinePerKey(MergeSummaries())
        )
        if self._ranges == 1:
            return run | "Step" >> beam.ParDo(_StepFn(self._transition), AsIter(summaries))
        update, join = _UpdateRangeFn(self._transition), _JoinRangesFn(self._transition)
        return run_by_ranges(run, summaries, update, join)


def run_by_ranges(
    run: PCollection[Any], summaries: PCollection[Any], update: beam.DoFn, join: beam.DoFn
) -> PCollection[Any]:
    """A transition in two layers: one element a range of centers, then one that joins them.

    Args:
        run: before the transition.
        summaries: of a pass: (`lloyd.SURVEY`, a survey) and (range, its sums).
        update: takes (range, its sums), the run and the surveys.
        join: takes the run, what the updates gave and the surveys; gives the next run.
    """
    surveys = summaries | "Survey" >> beam.Filter(lambda part: part[0] == lloyd.SURVEY)
    results = (
        summaries
        | "Ranges" >> beam.Filter(lambda part: part[0] != lloyd.SURVEY)
        | "SpreadRanges" >> beam.Reshuffle()
        | "UpdateRanges" >> beam.ParDo(update, AsSingleton(run), AsIter(surveys))
    )
    return run | "JoinRanges" >> beam.ParDo(join, AsIter(results), AsIter(surveys))


@dataclasses.dataclass(frozen=True)
class RangeResult:
    """What updating one range of centers says to the transition of the whole model."""

    place: int
    centers: FileRef
    cost: Fraction
    shift: Fraction
    rise: float


class _LloydPass(beam.DoFn):
    """Gate, read, kernel and sums: emits a shard's survey and its sums by ranges of centers."""

    def __init__(self, work: WorkDir, parameters: Parameters, only_last: bool) -> None:
        self._work, self._parameters, self._only_last = work, parameters, only_last

    def process(self, ref: ShardRef, run: Run) -> Iterator[tuple[int, Any]]:
        if not _has_pass(run, self._parameters, self._only_last):
            return
        centers = prepared_centers(self._work, run.commit.centers, run.context.distance_metric)
        far = self._parameters.empty_clusters == "relocate"
        exponents = np.array(run.context.exponents, np.int32)
        tally = LloydTally(centers, far, exponents)
        tally.include(blocks(ref, run.context))
        survey, totals = tally.result()
        yield lloyd.SURVEY, survey
        for key, (start, stop) in enumerate(lloyd.ranges(centers.k, centers.d)):
            yield key, totals.part(start, stop)


def _has_pass(run: Run, parameters: Parameters, only_last: bool) -> bool:
    if run.fit is None:
        return False
    state = run.fit.state
    return not state.finished and (not only_last or state.is_last(parameters))


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
        metric = run.context.distance_metric
        update = lloyd.update_range(centers, totals, survey, moves, ranges[key][0], metric)
        if not state.is_last(self._parameters):
            ref = self._work.save_centers(state.iteration + 1, update.centers, key, len(ranges))
        return RangeResult(key, ref, update.cost, update.shift, update.rise)

    def join(self, run: Run, results: list[RangeResult], survey: lloyd.Survey) -> Run:
        """Joins the ranges' results to the next state, and commits it."""
        results = in_order(results, len(run.commit.centers))
        context = run.context
        costs = [result.cost for result in results]
        measured = lloyd.measure(
            survey, costs, context.sum_of_squares, context.distance_metric, context.directionless
        )
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
        return Run(context, commit, run.seeding)

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
        survey = only_survey(part for part in parts.items() if part[0] == lloyd.SURVEY)
        results = [
            self._transition.update(run, key, totals, survey)
            for key, totals in parts.items()
            if key != lloyd.SURVEY
        ]
        yield self._transition.join(run, results, survey)


class _UpdateRangeFn(beam.DoFn):
    """The first layer of a transition: one element a range of centers, in parallel."""

    def __init__(self, transition: _Transition) -> None:
        self._transition = transition

    def process(
        self, element: tuple[int, ExactSums], run: Run, surveys: Iterable[tuple[int, lloyd.Survey]]
    ) -> Iterator[RangeResult]:
        key, totals = element
        survey = only_survey(surveys)
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
        survey = only_survey(surveys)
        yield self._transition.join(run, list(results), survey)


class OfRange(Protocol):
    """What came of one range of centers."""

    @property
    def place(self) -> int:
        """Of the range."""


R = TypeVar("R", bound=OfRange)
S = TypeVar("S")


def in_order(results: Iterable[R], ranges: int) -> list[R]:
    """What came of each range of centers, in their order.

    Raises:
        DataError: not one of each.
    """
    found = sorted(results, key=lambda result: result.place)
    if len(found) != ranges:
        raise DataError(f"{len(found)} of {ranges} ranges of centers came in")
    return found


def only_survey(surveys: Iterable[tuple[int, S]]) -> S:
    """The one survey of a pass.

    Raises:
        DataError: there is none.
    """
    for _, survey in surveys:
        return survey
    raise DataError("a pass over the dataset brought nothing home: it has no shards")
