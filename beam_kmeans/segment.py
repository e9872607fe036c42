"""A segment: one Beam graph of some passes and transitions, each state committed."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from beam_kmeans.checkpoint import FORMAT_VERSION, Commit, FileRef, WorkDir
from beam_kmeans.config import Parameters
from beam_kmeans.io import files
from beam_kmeans.io.manifest import StagedDataset
from beam_kmeans.model import KMeansModel, model_of
from beam_kmeans.passes.context import CommitGiven, ListShards, LoadCommit, Open, Run
from beam_kmeans.passes.draw import DrawCenters
from beam_kmeans.passes.lloyd import LloydIteration


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
    dataset: PCollection[Any],
    work: WorkDir,
    parameters: Parameters,
    num_features: int,
    start: Start,
    iterations: int,
    model_dir: str,
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

    Returns:
        The run after the segment.
    """
    parameters = parameters.without_centers()
    refs = dataset | "ListShards" >> beam.ParDo(ListShards()) | "SpreadShards" >> beam.Reshuffle()
    context = dataset | "Open" >> beam.ParDo(Open(parameters))
    if start.commit is not None:
        run = context | "LoadCommit" >> beam.ParDo(LoadCommit(work, start.commit))
    elif start.given is not None:
        run = context | "CommitGiven" >> beam.ParDo(CommitGiven(work, start.given))
    else:
        run = context | "DrawCenters" >> DrawCenters(refs, work, parameters, start.drawn)
    for number in range(iterations):
        run = run | f"Iteration{number}" >> LloydIteration(refs, work, parameters, num_features)
    run = run | "Measure" >> LloydIteration(refs, work, parameters, num_features, only_last=True)
    return run | "Publish" >> beam.ParDo(_PublishFn(work, model_dir))


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
        "inertia_of_iteration": last.get("iteration"),
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
