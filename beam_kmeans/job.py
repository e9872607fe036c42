"""What a training is asked to do, and what it says when it is done."""

import dataclasses

from beam_kmeans.config import SEEDING_STATES, Parameters, checked_integer
from beam_kmeans.io import files


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """A training from files: everything but Beam's options.

    Attributes:
        parameters: of the fit.
        input: globs of files, or the directory of one staged dataset.
        work_dir: where everything that is committed goes.
        features: as `stage`; None for a staged dataset, as are the next four.
        features_column: as `stage`.
        weight_column: as `stage`.
        standardize: as `stage`.
        on_bad_rows: as `stage`.
        block_rows: as `stage`.
        iterations_per_job: updates in a job at most; None takes 10, on Dataflow 5.
        model_dir: where the model goes; None takes `work_dir`/model.
        initial_features: the features of given centers, where they have names.
        seeding_state: "keep" each row's nearest candidate in side files while candidates are drawn
            in rounds, or "none": then each round measures the rows against all candidates so far.
            Changes no result.
    """

    parameters: Parameters
    input: tuple[str, ...]
    work_dir: str
    features: tuple[str, ...] | None = None
    features_column: str | None = None
    weight_column: str | None = None
    standardize: bool = False
    on_bad_rows: str = "error"
    block_rows: int | None = None
    iterations_per_job: int | None = None
    model_dir: str | None = None
    initial_features: tuple[str, ...] | None = None
    seeding_state: str = "keep"

    def __post_init__(self) -> None:
        if self.seeding_state not in SEEDING_STATES:
            raise ValueError(
                f"seeding_state: {self.seeding_state!r} is not allowed; allowed: "
                + ", ".join(repr(name) for name in SEEDING_STATES)
            )
        if self.iterations_per_job is not None:
            checked_integer("iterations_per_job", self.iterations_per_job, 1, 1000)
        if not self.work_dir:
            raise ValueError("work_dir: a directory is needed for what a run commits")
        files.check_directory("work_dir", self.work_dir)
        if self.model_dir is not None:
            files.check_directory("model_dir", self.model_dir)


@dataclasses.dataclass(frozen=True)
class RunReport:
    """What a run has come to.

    Attributes:
        finished: whether the model is written.
        initialized: whether there are initial centers.
        converged: whether the fit ended by its tolerance.
        iterations: updates done.
        inertia: of the centers measured last; None before the first pass.
        inertia_of_iteration: the updates that these centers had had: one fewer than `iterations`
            until the run has finished.
        shift: squared distance that the last update moved the centers; None before it.
        rows: N.
        num_clusters: k.
        num_features: d.
        empty_clusters: of the centers measured last.
        passes: over the staged rows, that have led to the last state: of the initialisation, one
            for each update, and one that measures the last centers.
        seeding_passes: those of them that the initialisation took.
        seeding_lookups: how often it looked up the rows that it drew, in their shards alone.
        candidates: rows that it drew.
        rejected: rows that were dropped while staging.
        model_dir: where the model is; None until the run has finished.
        work_dir: of the run.
        jobs: Beam jobs that this call ran.
        seconds: that this call took.
    """

    finished: bool
    initialized: bool
    converged: bool
    iterations: int
    inertia: float | None
    inertia_of_iteration: int | None
    shift: float | None
    rows: int
    num_clusters: int
    num_features: int
    empty_clusters: int
    passes: int
    seeding_passes: int
    seeding_lookups: int
    candidates: int
    rejected: int
    model_dir: str | None
    work_dir: str
    jobs: int
    seconds: float
