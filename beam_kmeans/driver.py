"""The loop over segments: what a run's work directory says decides what the next job does."""

import dataclasses
import json
import logging
import os
import time
import uuid
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.pvalue import PCollection

from beam_kmeans.checkpoint import Commit, WorkDir
from beam_kmeans.config import name_of_function
from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.manifest import MANIFEST, StagedDataset
from beam_kmeans.io.plan import StagePlan, absolute, make_plan
from beam_kmeans.io.staging import StageFiles, existing_dataset, report
from beam_kmeans.job import RunReport, TrainJob
from beam_kmeans.kernels import import_ahead
from beam_kmeans.model import KMeansModel, check_features
from beam_kmeans.options import DEFAULT_RUNNER
from beam_kmeans.passes.minibatch import fits_worker
from beam_kmeans.passes.seed import passes_left
from beam_kmeans.running import (
    JobError,
    only_launches,
    refuse_launchers,
    run_pipeline,
    template_location,
)
from beam_kmeans.seeding.rows import check_rows
from beam_kmeans.seeding.run import chosen, initialiser_of
from beam_kmeans.seeding_checkpoint import SeedingCommit, last_seeding, prepared_seeding
from beam_kmeans.segment import Start, build_segment, progress_of, publish, publish_state

_log = logging.getLogger(__name__)

_ITERATIONS_PER_JOB = 10
#: A Dataflow job takes minutes to start, but one that has converged still runs all its stages.
_ITERATIONS_PER_DATAFLOW_JOB = 5
#: Of mini-batch, where one worker runs them one after another.
_ITERATIONS_PER_BATCH_JOB = 1000
_LOGGED_BATCHES = 100


class _Driver:
    """One call's view of a run."""

    def __init__(self, job: TrainJob, options: PipelineOptions) -> None:
        self.job, self.options, self.jobs = job, options, 0
        self.started = time.monotonic()
        self.warned: set[str] = set()
        self.parameters = job.parameters
        self.work = WorkDir(absolute(job.work_dir), self.parameters.num_clusters)
        self.model_dir = absolute(job.model_dir) if job.model_dir else self.work.model
        self.plan: StagePlan | None = None
        self.dataset = self._given_dataset()
        if self.dataset is None:
            self.plan = self._make_plan()
        self.num_features = (
            len(self.plan.columns.names) if self.plan else self._staged().num_features
        )
        self._check_given_centers()
        self.work.check_config(self.parameters, self.plan, self._source())
        if self.plan is not None:
            self.dataset = existing_dataset(self.plan)
        if self.dataset is not None:
            check_rows(self.dataset.statistics, self.parameters.num_clusters)
        else:
            self._staging_plan().save()

    def last(self) -> tuple[str, Commit] | None:
        """The last commit and its path."""
        return self.work.last_commit(self.parameters.max_iterations)

    def position(self) -> tuple[str | None, str | None]:
        """How far the run has come: paths of the last commits of the fit and of its start."""
        last, seeding = self.last(), last_seeding(self.work)
        return last[0] if last else None, seeding.path if seeding else None

    def run_segment(self, last: tuple[str, Commit] | None) -> None:
        """Runs one job: all that is to be done before the next iterations, and these."""
        start = self._start(last)
        if self.options.view_as(StandardOptions).runner == DEFAULT_RUNNER:
            import_ahead()
        done = last[1].state.iteration if last else 0
        started = time.monotonic()
        with run_pipeline(self.options) as pipeline:
            build_segment(
                self._dataset_path(pipeline),
                self.work,
                self.parameters,
                self.num_features,
                start,
                self._iterations(start, done),
                self.model_dir,
                self.job.seeding_state == "keep",
            )
        self.jobs += 1
        if only_launches(self.options):
            return
        if self.dataset is None:
            self.dataset = StagedDataset.open(self.work.dataset)
            report(self.dataset)
        self._note_time(done, time.monotonic() - started)
        if last is None:
            self._log_warnings()
        self._log_progress(done)

    def report(self, last: tuple[str, Commit] | None) -> RunReport:
        """What the run has come to."""
        progress = progress_of(self.work, last[1] if last else None)
        return RunReport(
            **dataclasses.asdict(progress),
            rows=self._staged().rows,
            num_clusters=self.parameters.num_clusters,
            num_features=self.num_features,
            rejected=self._staged().rejected,
            model_dir=self.model_dir if progress.finished else None,
            work_dir=self.work.path,
            jobs=self.jobs,
            seconds=time.monotonic() - self.started,
        )

    def ensure_published(self, last: tuple[str, Commit]) -> None:
        """Writes what a finished run leaves where it is asked for now, if it is not there."""
        state = last[1].state
        try:
            there = KMeansModel.load(self.model_dir)
        except DataError:
            there = None
        if there is None or tuple(there.history) != state.history:
            metric = self.parameters.distance_metric
            publish(self.work, self.model_dir, self._staged().path, last[1], metric)
        else:
            # A run that was killed between the two has a model beside an older state.
            publish_state(self.work, last[1])

    def _staged(self) -> StagedDataset:
        if self.dataset is None:
            raise JobError(f"{self.work.dataset} was not staged")
        return self.dataset

    def _staging_plan(self) -> StagePlan:
        if self.plan is None:
            raise JobError("a given dataset needs no staging")
        return self.plan

    def _given_dataset(self) -> StagedDataset | None:
        job = self.job
        inputs = [path for path in job.input if files.exists(files.join(path, MANIFEST))]
        if not inputs:
            return None
        if len(job.input) > 1:
            raise ValueError(
                f"input: {inputs[0]} is a staged dataset, which must be the only input"
            )
        for name in ("features", "features_column", "weight_column", "block_rows"):
            if getattr(job, name) is not None:
                raise ValueError(f"{name}: not allowed with a staged dataset, which has its rows")
        if job.standardize or job.on_bad_rows != "error":
            raise ValueError("standardize, on_bad_rows: not allowed with a staged dataset")
        return StagedDataset.open(absolute(inputs[0]))

    def _make_plan(self) -> StagePlan:
        job = self.job
        return make_plan(
            job.input,
            self.work.dataset,
            rejected=self.work.rejected,
            features=job.features,
            features_column=job.features_column,
            weight_column=job.weight_column,
            standardize=job.standardize,
            on_bad_rows=job.on_bad_rows,
            block_rows=job.block_rows,
        )

    def _source(self) -> dict[str, Any]:
        if self.plan is not None:
            return self.plan.source
        staged = self._staged()
        return {"dataset": staged.path, "dataset_fingerprint": staged.fingerprint}

    def _check_given_centers(self) -> None:
        given = self.parameters.given_centers
        if given is not None and given.shape[1] != self.num_features:
            raise DataError(
                f"initial_clusters: the centers have {given.shape[1]} features, the data has "
                f"{self.num_features}"
            )
        names = self.job.initial_features
        if given is not None and names is not None:
            found = self.plan.columns.names if self.plan else self._staged().features
            check_features(names, found, "initial_clusters: ")

    def _start(self, last: tuple[str, Commit] | None) -> Start:
        if last is not None:
            return Start(commit=last[0])
        seeding = last_seeding(self.work, whole=True)
        centers = self.parameters.given_centers
        if centers is None and self.parameters.initialiser == "callable":
            centers = self._chosen(seeding)
        if centers is not None:
            return Start(given=self.work.save_given(centers))
        return Start(seeding=seeding)

    def _chosen(self, seeding: SeedingCommit | None) -> npt.NDArray[np.float32] | None:
        """The centers that a function chooses from its sample; None before there is one."""
        parameters = self.parameters
        if seeding is None or passes_left(initialiser_of(parameters), seeding):
            return None
        return chosen(prepared_seeding(self.work, seeding), parameters).centers

    def _dataset_path(self, pipeline: beam.Pipeline) -> PCollection[Any]:
        if self.dataset is None:
            plan = self._staging_plan()
            return pipeline | "Stage" >> StageFiles(plan.path, plan.standardize)
        return pipeline | "Dataset" >> beam.Create([self.dataset.path])

    def _iterations(self, start: Start, done: int) -> int:
        """The updates of a job at most; none where a function has to choose centers after it."""
        starts = start.commit is not None or start.given is not None
        if self.parameters.initialiser == "callable" and not starts:
            return 0
        return min(self._iterations_per_job(), self.parameters.max_iterations - done)

    def _iterations_per_job(self) -> int:
        if self.job.iterations_per_job is not None:
            return self.job.iterations_per_job
        if self.parameters.use_mini_batch and fits_worker(self.parameters, self.num_features):
            return _ITERATIONS_PER_BATCH_JOB
        runner = str(self.options.view_as(StandardOptions).runner)
        dataflow = "Dataflow" in runner
        return _ITERATIONS_PER_DATAFLOW_JOB if dataflow else _ITERATIONS_PER_JOB

    def _note_time(self, iteration: int, seconds: float) -> None:
        # Named by chance, as two runs of a segment are two measurements.
        name = f"timings/segment-{iteration:06d}-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"
        text = json.dumps({"from_iteration": iteration, "seconds": seconds}) + "\n"
        files.write_bytes(files.join(self.work.path, name), text.encode())

    def _log_warnings(self) -> None:
        seeding = last_seeding(self.work)
        for text in seeding.warnings if seeding else ():
            if text not in self.warned:
                _log.warning("%s", text)
                self.warned.add(text)

    def _log_progress(self, done: int) -> None:
        last = self.last()
        for record in last[1].state.history if last else ():
            # Of a sequence of batches a line now and then is enough.
            told = "inertia" in record or record["iteration"] % _LOGGED_BATCHES == 0
            if record["iteration"] >= done and told:
                shift = record.get("shift")
                _log.info(
                    "iteration %d: %s %.9g%s%s",
                    record["iteration"],
                    "inertia" if "inertia" in record else "inertia of the batch",
                    record.get("inertia", record.get("batch_inertia")),
                    "" if shift is None else f", shift {shift:.3g}",
                    f", {record['empty_clusters']} empty" if record["empty_clusters"] else "",
                )


def train(job: TrainJob, options: PipelineOptions) -> RunReport:
    """Trains a model, from where an earlier run of the same configuration stopped.

    Raises:
        ValueError: an argument that is not allowed, or data that cannot be clustered so.
        JobError: a Beam job failed.
    """
    if template_location(options):
        raise ValueError(
            "template_location: a template's launcher keeps only the last job of a program, and "
            "train runs several; use the command segment, which runs one"
        )
    refuse_launchers(options, "train")
    driver = _Driver(job, options)
    last = driver.last()
    if last is not None and callable(job.parameters.initial_clusters):
        _log.warning(
            "initial_clusters: goes on from the centers that %s chose before. A function is known "
            "by its name alone: if it has changed, give another work_dir",
            name_of_function(job.parameters.initial_clusters),
        )
    while last is None or not last[1].state.finished:
        before = driver.position()
        driver.run_segment(last)
        if driver.position() == before:
            raise JobError(f"a job ended, but committed nothing in {driver.work.path}")
        last = driver.last()
    driver.ensure_published(last)
    return driver.report(last)


def run_segment(job: TrainJob, options: PipelineOptions) -> RunReport | None:
    """Runs exactly one job: the next iterations of a run, or nothing where it has finished.

    Returns:
        What the run has come to; None where a template's launcher only keeps the job's graph, to
        run it later.

    Raises:
        ValueError: an argument that is not allowed, or data that cannot be clustered so.
        JobError: the Beam job failed.
    """
    if job.parameters.initialiser == "callable":
        raise ValueError(
            "initial_clusters: a function chooses centers between two jobs, and segment runs one; "
            "use the command train, or give the centers"
        )
    driver = _Driver(job, options)
    last = driver.last()
    if last is None or not last[1].state.finished:
        driver.run_segment(last)
        if only_launches(options):
            return None
        last = driver.last()
    if last is not None and last[1].state.finished:
        driver.ensure_published(last)
    return driver.report(last)
