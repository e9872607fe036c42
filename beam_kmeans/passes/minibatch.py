"""MiniBatchIterations: iterations of a mini-batch fit over the shuffled copy of a dataset.

Where an iteration's rows fit a worker, iterations are a sequence inside one element, which commits
every so many of them. Larger ones are passes over the shards that hold their rows, each with its
transition. Sums are exact, so that both come to the same bytes.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsSingleton, PCollection

from beam_kmeans import lloyd, minibatch
from beam_kmeans.checkpoint import Commit, FileRef, WorkDir, prepared_centers
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.fitting import FitState
from beam_kmeans.io.manifest import StagedDataset
from beam_kmeans.io.shards import ShardInfo
from beam_kmeans.io.shuffling import ShuffledShards, ShuffleRows
from beam_kmeans.minibatch import BatchSurvey, Learned
from beam_kmeans.passes.context import Run
from beam_kmeans.passes.lloyd import in_order, only_survey, run_by_ranges
from beam_kmeans.sums import ExactSums


@dataclasses.dataclass
class Settings:
    """What a worker takes on alone; no result depends on it.

    Attributes:
        batch_bytes: of the rows of an iteration at most.
        center_values: centers x features at most.
        iterations_per_commit: iterations that a killed worker repeats at most.
    """

    batch_bytes: int = 64 << 20
    center_values: int = 2**22
    iterations_per_commit: int = 100


settings = Settings()


def fits_worker(parameters: Parameters, num_features: int) -> bool:
    """Whether iterations run as a sequence inside one element."""
    rows = parameters.mini_batch_steps_per_iteration * parameters.batch_size
    values = parameters.num_clusters * num_features
    return 4 * rows * num_features <= settings.batch_bytes and values <= settings.center_values


class MiniBatchIterations(beam.PTransform[Any, Any]):
    """Iterations over batches: a run in, a run out. Shuffles the dataset first, once.

    Args:
        dataset: PCollection[str] of the path of the staged dataset.
        work: the work directory.
        parameters: of the fit, without given centers.
        num_features: d.
        iterations: at most.
    """

    def __init__(
        self,
        dataset: PCollection[Any],
        work: WorkDir,
        parameters: Parameters,
        num_features: int,
        iterations: int,
    ) -> None:
        super().__init__()
        self._dataset, self._work, self._parameters = dataset, work, parameters
        self._num_features, self._iterations = num_features, iterations

    def expand(self, run: PCollection[Any]) -> PCollection[Any]:
        work, p = self._work, self._parameters
        shuffled = self._dataset | "Shuffle" >> ShuffleRows(work.shuffled, p.random_seed)
        if fits_worker(p, self._num_features):
            steps = _SequenceFn(work, p, self._iterations, settings)
            return run | "Sequence" >> beam.ParDo(steps, AsSingleton(shuffled))
        refs = (
            shuffled
            | "ListShards" >> beam.FlatMap(_list_shards)
            | "SpreadShards" >> beam.Reshuffle()
        )
        for number in range(self._iterations):
            run = run | f"Iteration{number}" >> _IterationPass(refs, work, p)
        return run


@dataclasses.dataclass(frozen=True)
class _ShuffledShard:
    """What waits at the gate of a pass: a shard, and the positions [start, stop) that it holds."""

    dataset: str
    shard: ShardInfo
    start: int
    stop: int


def _list_shards(path: str) -> Iterator[_ShuffledShard]:
    start = 0
    for shard in StagedDataset.open(path).shards:
        yield _ShuffledShard(path, shard, start, start + shard.rows)
        start += shard.rows


class _SequenceFn(beam.DoFn):
    """Iterations one after another, in one element."""

    def __init__(
        self, work: WorkDir, parameters: Parameters, iterations: int, settings: Settings
    ) -> None:
        self._work, self._parameters, self._iterations = work, parameters, iterations
        self._settings = settings

    def process(self, run: Run, path: str) -> Iterator[Run]:
        if not _has_iteration(run, self._parameters):
            yield run
            return
        dataset, context = StagedDataset.open(path), run.context
        source = ShuffledShards.of(dataset)
        commit = run.commit
        learned = _load(self._work, self._parameters, commit)
        state, left = commit.state, self._iterations
        while left and not state.is_last(self._parameters):
            # Commits are at the same iterations wherever a run began.
            every = self._settings.iterations_per_commit
            step = min(left, every - state.iteration % every)
            learned, state = minibatch.run(
                source,
                self._parameters,
                learned,
                state,
                step,
                rows=context.rows,
                mean_variance=context.mean_variance,
                exponents=np.array(context.exponents, np.int32),
            )
            left -= step
            commit = _save(self._work, learned, state)
        yield dataclasses.replace(run, fit=commit)


def _has_iteration(run: Run, parameters: Parameters) -> bool:
    """Whether a run's initialisation has ended, and it goes on."""
    return run.fit is not None and not run.fit.state.is_last(parameters)


def _load(work: WorkDir, parameters: Parameters, commit: Commit) -> Learned:
    """What a commit has learned of all centers."""
    centers = work.load_centers(commit.centers)
    if commit.learned is None:
        return minibatch.first(parameters, centers)
    means = work.load_centers(commit.means) if commit.means else None
    return Learned(centers, work.load_array(commit.learned), means)


def _save(work: WorkDir, learned: Learned, state: FitState) -> Commit:
    """Commits a state and all that it has learned."""
    ranges = lloyd.ranges(*learned.centers.shape)
    results = [
        _save_range(work, learned.part(start, stop), state.iteration, key, len(ranges))
        for key, (start, stop) in enumerate(ranges)
    ]
    return _save_commit(work, results, state)


@dataclasses.dataclass(frozen=True)
class _RangeResult:
    """What updating one range of centers says to the transition of the whole model."""

    place: int
    centers: FileRef
    means: FileRef | None
    counts: npt.NDArray[np.float64] | None
    cost: Fraction = Fraction(0)
    shift: Fraction = Fraction(0)


def _save_range(
    work: WorkDir, learned: Learned, iteration: int, key: int, ranges: int
) -> _RangeResult:
    centers = work.save_centers(iteration, learned.centers, key, ranges)
    means = None
    if learned.means is not None:
        end = f"-{key:05d}-of-{ranges:05d}"
        means = work.save_array(work.iteration_folder(iteration), "means", learned.means, end)
    return _RangeResult(key, centers, means, learned.counts)


def _save_commit(work: WorkDir, results: list[_RangeResult], state: FitState) -> Commit:
    learned, folder = None, work.iteration_folder(state.iteration)
    counts = [result.counts for result in results if result.counts is not None]
    if counts:
        learned = work.save_array(folder, "learned", np.concatenate(counts))
    commit = Commit(
        state,
        tuple(result.centers for result in results),
        learned=learned,
        means=tuple(result.means for result in results if result.means is not None),
    )
    work.save_commit(commit)
    return commit


class _IterationPass(beam.PTransform[Any, Any]):
    """One iteration as a pass over the shards that hold its rows: a run in, a run out."""

    def __init__(self, refs: PCollection[Any], work: WorkDir, parameters: Parameters) -> None:
        super().__init__()
        self._refs, self._work, self._parameters = refs, work, parameters

    def expand(self, run: PCollection[Any]) -> PCollection[Any]:
        work, p = self._work, self._parameters
        summaries = (
            self._refs
            | "Pass" >> beam.ParDo(_BatchPass(work, p), AsSingleton(run))
            | "Sum" >> beam.CombinePerKey(MergeSummaries())
        )
        update, join = _UpdateRangeFn(work, p), _JoinRangesFn(work, p)
        return run_by_ranges(run, summaries, update, join)


class _BatchPass(beam.DoFn):
    """Gate, read, kernel and sums of the iteration's rows that a shard holds."""

    def __init__(self, work: WorkDir, parameters: Parameters) -> None:
        self._work, self._parameters = work, parameters

    def process(self, ref: _ShuffledShard, run: Run) -> Iterator[tuple[int, Any]]:
        if not _has_iteration(run, self._parameters):
            return
        commit, context = run.commit, run.context
        here = [
            (max(start, ref.start) - ref.start, min(stop, ref.stop) - ref.start)
            for start, stop in minibatch.batch_of(
                self._parameters, context.rows, commit.state.iteration
            )
            if start < ref.stop and stop > ref.start
        ]
        if not here:
            return
        metric = context.distance_metric
        centers = prepared_centers(self._work, commit.centers, metric)
        shards = ShuffledShards(ref.dataset, [ref.shard], context.num_features, context.weighted)
        parts = shards.parts(here)
        exponents = np.array(context.exponents, np.int32)
        batch, totals = minibatch.survey_of(centers, parts, metric, exponents)
        yield lloyd.SURVEY, batch
        for key, (start, stop) in enumerate(lloyd.ranges(centers.k, centers.d)):
            yield key, totals.part(start, stop)


class _UpdateRangeFn(beam.DoFn):
    """The first layer of a transition: one element a range of centers, in parallel."""

    def __init__(self, work: WorkDir, parameters: Parameters) -> None:
        self._work, self._parameters = work, parameters

    def process(
        self, element: tuple[int, ExactSums], run: Run, surveys: Iterable[tuple[int, BatchSurvey]]
    ) -> Iterator[_RangeResult]:
        (key, totals), commit = element, run.commit
        ranges = lloyd.ranges(self._work.num_clusters, run.context.num_features)
        start, stop = ranges[key]
        centers = self._work.load_array(commit.centers[key])
        learned = minibatch.first(self._parameters, centers)
        if commit.learned is not None:
            counts = self._work.load_array(commit.learned)[start:stop]
            means = self._work.load_array(commit.means[key]) if commit.means else None
            learned = Learned(centers, counts, means)
        metric = run.context.distance_metric
        survey = only_survey(surveys).survey
        own = minibatch.update(learned, totals, survey, metric, start)
        result = _save_range(self._work, own.learned, commit.state.iteration + 1, key, len(ranges))
        yield dataclasses.replace(result, cost=own.cost, shift=own.shift)


class _JoinRangesFn(beam.DoFn):
    """The second layer: sees the summaries of all ranges, and commits the next state."""

    def __init__(self, work: WorkDir, parameters: Parameters) -> None:
        self._work, self._parameters = work, parameters

    def process(
        self, run: Run, results: Iterable[_RangeResult], surveys: Iterable[tuple[int, BatchSurvey]]
    ) -> Iterator[Run]:
        if not _has_iteration(run, self._parameters):
            yield run
            return
        context, commit = run.context, run.commit
        ordered = in_order(results, len(commit.centers))
        outcome = minibatch.outcome_of(
            only_survey(surveys),
            [(result.cost, result.shift) for result in ordered],
            context.distance_metric,
        )
        state = minibatch.advance(
            commit.state, self._parameters, outcome, context.mean_variance, context.rows
        )
        yield dataclasses.replace(run, fit=_save_commit(self._work, ordered, state))
