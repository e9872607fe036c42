"""KMeans: a configuration that fits models."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt

from beam_kmeans.config import Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.in_memory import fit
from beam_kmeans.io.manifest import StagedDataset
from beam_kmeans.model import KMeansModel, model_of

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


@dataclasses.dataclass(frozen=True, eq=False)
class KMeans(Parameters):
    """K-means clustering of data of any size: exact, and the same bytes everywhere.

    Args:
        num_clusters: k, at least 1.
        initial_clusters: how the initial centers are found: "kmeans_plus_plus" (k-means||),
            "random", "kmc2" or "afkmc2"; a function f(rows, k), which gives up to k centers among
            rows float32 [n, d] of a sample, and is called again with further rows and the number
            that is still to choose; or the initial centers [k, d] themselves, or a `KMeansModel`
            whose centers they are.
        distance_metric: "squared_euclidean", or "cosine": 1 - cosine similarity.
        use_mini_batch: whether a step updates the centers by a batch, not by all rows.
        mini_batch_steps_per_iteration: steps between two publications of the centers.
        batch_size: rows of a step; all rows where there are fewer.
        random_seed: 0 to 2**63 - 1.
        kmeans_plus_plus_num_retries: further candidates at each pick of k-means++, of which the
            best is kept; negative for 2 + floor(ln k).
        kmc2_chain_length: rows that a chain of k-MC2 looks at for one center.
        seeding_oversampling: rows drawn in a round of k-means||, as a multiple of k.
        seeding_rounds: rounds of k-means|| at least, each a pass over the data.
        kmc2_groups: groups of rows that run chains of their own; None chooses by their number.
        max_iterations: updates of the centers at most; 0 measures the initial centers.
        tolerance: the fit has converged when the centers' summed squared movement is at most this
            times the mean variance of the features; 0 runs until nothing moves, and in mini-batch
            turns this off.
        max_no_improvement: in mini-batch, iterations without a new least smoothed inertia after
            which the fit ends; None turns this off.
        empty_clusters: "relocate" an empty cluster's center to a far row, or "keep" it in place.

    Raises:
        ValueError: names the argument, what was found and what is allowed.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[0, 0], [0, 1], [9, 9], [9, 8]], np.float32)
        >>> model = KMeans(num_clusters=2, initial_clusters=rows[[0, 2]]).fit(rows)
        >>> model.cluster_centers.tolist(), model.inertia, model.counts.tolist()
        ([[0.0, 0.5], [9.0, 8.5]], 1.0, [2, 2])

    References:
        S. Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory
        28(2), 1982; those of the initialisers are with `InitializeCenters`. The parameters are
        those of TensorFlow's `contrib.factorization.KMeans`, the rule of `tolerance` is
        scikit-learn's.
    """

    def __post_init__(self) -> None:
        model = self.initial_clusters
        if isinstance(model, KMeansModel):
            if model.standardization is not None:
                raise ValueError(
                    "initial_clusters: the model's centers are standardized, as its rows were; "
                    "where the new rows are too, give its cluster_centers"
                )
            if model.distance_metric != self.distance_metric:
                raise ValueError(
                    f"initial_clusters: the model is of distance_metric {model.distance_metric!r}, "
                    f"the fit's is {self.distance_metric!r}; its cluster_centers can be given"
                )
            object.__setattr__(self, "initial_clusters", model.cluster_centers)
            object.__setattr__(self, "_initial_features", model.features)
        super().__post_init__()

    def fit(
        self,
        data: str | os.PathLike[str] | Sequence[str] | StagedDataset | npt.ArrayLike,
        work_dir: str | os.PathLike[str] | None = None,
        options: "PipelineOptions | Sequence[str] | None" = None,
        sample_weight: npt.ArrayLike | None = None,
        **settings: Any,
    ) -> KMeansModel:
        """Fits a model.

        Args:
            data: globs of files, a `StagedDataset`, or an array [N, d], which is fitted in memory
                and without Beam.
            work_dir: for files and datasets: where the run commits its states, and resumes.
            options: for files and datasets: Beam's pipeline options, or their flags.
            sample_weight: for arrays: weights [N] of at least 0.
            **settings: for files: `features`, `features_column`, `weight_column`, `standardize`,
                `on_bad_rows` and `block_rows` of `stage`; for files and datasets:
                `iterations_per_job`, `model_dir`, and `seeding_state`, "keep" or "none": whether
                k-means|| keeps each row's nearest candidate in side files, 12 bytes a row, or each
                round measures the rows against all candidates so far.

        Raises:
            ValueError: an argument that is not allowed, or data that cannot be clustered so.
        """
        work_dir = None if work_dir is None else os.fspath(work_dir)
        if isinstance(data, StagedDataset):
            return self._fit_files((data.path,), work_dir, options, sample_weight, settings)
        patterns = _patterns(data)
        if patterns is not None:
            return self._fit_files(patterns, work_dir, options, sample_weight, settings)
        given = {"work_dir": work_dir, "options": options, **settings}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}: not allowed with an array, which is fitted in memory")
        array, metric = cast(npt.ArrayLike, data), self.distance_metric
        fitted = fit(MemoryDataset(array, sample_weight, metric), self)
        return model_of(fitted.centers, fitted.counts, fitted.state, distance_metric=metric)

    def _fit_files(
        self,
        patterns: tuple[str, ...],
        work_dir: str | None,
        options: "PipelineOptions | Sequence[str] | None",
        sample_weight: npt.ArrayLike | None,
        settings: dict[str, Any],
    ) -> KMeansModel:
        from beam_kmeans.driver import train
        from beam_kmeans.job import TrainJob
        from beam_kmeans.options import pipeline_options

        if work_dir is None:
            raise ValueError("work_dir: a directory is needed to fit files; the run resumes in it")
        if sample_weight is not None:
            raise ValueError("sample_weight: not allowed with files; name their weight_column")
        names = {field.name for field in dataclasses.fields(TrainJob)}
        for name in settings:
            if name not in names - {"parameters", "input", "work_dir", "initial_features"}:
                raise TypeError(f"fit() has no argument {name!r}")
        if settings.get("features") is not None:
            settings = {**settings, "features": tuple(settings["features"])}
        named = getattr(self, "_initial_features", None)
        job = TrainJob(
            parameters=self,
            input=patterns,
            work_dir=work_dir,
            initial_features=named,
            **settings,
        )
        report = train(job, pipeline_options(options))
        return KMeansModel.load(str(report.model_dir))


def _patterns(data: Any) -> tuple[str, ...] | None:
    """The globs that the data names, None where it is an array."""
    found = [data] if isinstance(data, (str, os.PathLike)) else data
    if not isinstance(found, (list, tuple)) or not found:
        return None
    named = all(isinstance(one, (str, os.PathLike)) for one in found)
    return tuple(os.fspath(one) for one in found) if named else None
