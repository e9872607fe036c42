"""A segment: one Beam graph of some passes and transitions, each state committed."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from beam_kmeans.checkpoint import FORMAT_VERSION, Commit, FileRef, WorkDir
from beam_kmeans.config import Parameters
from beam_kmeans.fitting import FitState
from beam_kmeans.io import files
from beam_kmeans.io.manifest import StagedDataset
from beam_kmeans.model import KMeansModel, model_of
from beam_kmeans.passes.context import CommitGiven, ListShards, LoadCommit, Run
from beam_kmeans.passes.lloyd import LloydIteration
from beam_kmeans.passes.minibatch import MiniBatchIterations
from beam_kmeans.passes.seed import SeedCenters, StartSeeding, passes_left
from beam_kmeans.passes.unit import OpenDataset, unit_statistics
from beam_kmeans.seeding.run import initialiser_of
from beam_kmeans.seeding_checkpoint import SeedingCommit, last_seeding


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a segment starts: one of these at most is given; none begins an initialisation.

    Attributes:
        commit: path of the last commit.
        given: files of given centers.
        seeding: the last state of an initialisation.
    """

    commit: str | None = None
    given: tuple[FileRef, ...] | None = None
    seeding: SeedingCommit | None = None


def build_segment(
    dataset: PCollection[Any],
    work: WorkDir,
    parameters: Parameters,
    num_features: int,
    start: Start,
    iterations: int,
    model_dir: str,
    remember: bool = True,
) -> PCollection[Any]:
    """The graph of a segment over a staged dataset, behind the PCollection of its one path.

    Args:
        dataset: PCollection[str] of the path of the staged dataset.
        work: the work directory.
        parameters: of the fit.
        num_features: d.
        start: where it starts.
        iterations: updates at most; if the centers are final after them, they are measured too.
        model_dir: where the model of a finished run goes.
        remember: whether an initialisation keeps each row's nearest candidate in side files.

    Returns:
        The run after the segment.
    """
    initialiser = None if start.commit or start.given else initialiser_of(parameters)
    parameters = parameters.without_centers()
    refs = dataset | "ListShards" >> beam.ParDo(ListShards()) | "SpreadShards" >> beam.Reshuffle()
    context = dataset | "Open" >> OpenDataset(refs, work, parameters)
    if start.commit is not None:
        run = context | "LoadCommit" >> beam.ParDo(LoadCommit(work, start.commit))
    elif start.given is not None:
        run = context | "CommitGiven" >> beam.ParDo(CommitGiven(work, start.given))
    elif initialiser is not None:
        seeding = start.seeding
        begin = StartSeeding(work, initialiser, seeding.path if seeding else None)
        # More rounds of candidates than are asked for are rare: they are for the next job.
        passes = min(passes_left(initialiser, seeding), 2 + parameters.seeding_rounds)
        run = context | "StartSeeding" >> beam.ParDo(begin)
        run = run | "Seed" >> SeedCenters(refs, work, initialiser, passes, remember)
    if parameters.use_mini_batch and iterations:
        batches = MiniBatchIterations(dataset, work, parameters, num_features, iterations)
        run = run | "MiniBatch" >> batches
    for number in range(0 if parameters.use_mini_batch else iterations):
        run = run | f"Iteration{number}" >> LloydIteration(refs, work, parameters, num_features)
    run = run | "Measure" >> LloydIteration(refs, work, parameters, num_features, only_last=True)
    return run | "Publish" >> beam.ParDo(_PublishFn(work, model_dir))


class _PublishFn(beam.DoFn):
    """Writes `state.json`, and the model of a finished run."""

    def __init__(self, work: WorkDir, model_dir: str) -> None:
        self._work, self._model_dir = work, model_dir

    def process(self, run: Run) -> Iterator[str]:
        context = run.context
        publish(self._work, self._model_dir, context.dataset, run.fit, context.distance_metric)
        yield self._model_dir


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come: what its report and `state.json` say.

    Attributes:
        initialized: whether there are initial centers.
        finished: whether the last centers were measured.
        converged: whether the fit ended by its tolerance.
        iterations: updates done.
        inertia: of the centers measured last; None before the first pass.
        inertia_of_iteration: the updates that these centers had had.
        shift: squared distance that the last update moved the centers; None before it.
        empty_clusters: of the centers measured last.
        passes: over the staged rows, that have led to the last state; looks at single rows' shards
            are none, nor are iterations of mini-batch, but the shuffle before them is two.
        seeding_passes: those of them that the initialisation took.
        seeding_lookups: how often it looked up the rows that it drew.
        candidates: rows that it drew.
    """

    initialized: bool
    finished: bool
    converged: bool
    iterations: int
    inertia: float | None
    inertia_of_iteration: int | None
    shift: float | None
    empty_clusters: int
    passes: int
    seeding_passes: int
    seeding_lookups: int
    candidates: int


def progress_of(work: WorkDir, commit: Commit | None) -> Progress:
    """How far the run in this directory has come."""
    state = commit.state if commit else FitState()
    history, seeding = state.history, last_seeding(work)
    shifts = [record["shift"] for record in history if "shift" in record]
    last: dict[str, Any] = dict(history[-1]) if history else {}
    batches = sum("batch_inertia" in record for record in history)
    # Where nothing moved, the last pass measured the last centers too; a batch measures none.
    measuring = state.finished and bool(batches or not (shifts and shifts[-1] == 0))
    # A batch is no pass, but its data was shuffled in two.
    iterations = 2 if batches else state.iteration
    seeding_passes = seeding.passes if seeding else 0
    return Progress(
        initialized=commit is not None,
        finished=state.finished,
        converged=state.converged,
        iterations=state.iteration,
        inertia=last.get("inertia"),
        inertia_of_iteration=last.get("iteration"),
        shift=shifts[-1] if shifts else None,
        empty_clusters=last.get("empty_clusters", 0),
        passes=(unit_statistics(work) is not None) + seeding_passes + iterations + measuring,
        seeding_passes=seeding_passes,
        seeding_lookups=seeding.lookups if seeding else 0,
        candidates=seeding.candidates if seeding else 0,
    )


def publish(
    work: WorkDir, model_dir: str, dataset: str, commit: Commit | None, distance_metric: str
) -> None:
    """Writes the model of a finished run, and `state.json` for people and schedulers."""
    if commit is not None and commit.state.finished:
        model = finished_model(work, dataset, commit, distance_metric)
        model.save(model_dir)
    publish_state(work, commit)


def publish_state(work: WorkDir, commit: Commit | None) -> None:
    """Writes `state.json`, unless it says so already."""
    progress = dataclasses.asdict(progress_of(work, commit))
    fields = {"format_version": FORMAT_VERSION, "iteration": progress.pop("iterations"), **progress}
    path, text = files.join(work.path, "state.json"), (json.dumps(fields, indent=1) + "\n").encode()
    if not files.exists(path) or files.read_bytes(path) != text:
        files.write_bytes(path, text)


def finished_model(
    work: WorkDir, dataset: str, commit: Commit, distance_metric: str
) -> KMeansModel:
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
        distance_metric=distance_metric,
    )
