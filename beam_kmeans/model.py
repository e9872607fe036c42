"""KMeansModel: centers, what was measured of them, and what they say of rows."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import beam_kmeans
from beam_kmeans import distances, kernels
from beam_kmeans.config import as_array, check_metric, checked_centers
from beam_kmeans.dataset import checked_rows, checked_weights
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState
from beam_kmeans.io import files
from beam_kmeans.io.manifest import Standardization, read_json, write_json
from beam_kmeans.values import unit_rows

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class KMeansModel:
    """A trained model.

    Attributes:
        cluster_centers: float32 [k, d], in the units of the rows as staged (standardized ones where
            the model standardizes); under cosine of length 1.
        inertia: the sum of weight x score of the training rows.
        counts: int64 [k], training rows of each cluster.
        history: a record for the centers after 0, 1, ... updates: `iteration`, `inertia`, `shift`
            (squared distances moved to the next, absent in the last), `empty_clusters`,
            `relocated`, `smallest` and `largest` (cluster weights). In mini-batch all but the last
            are of the iteration's rows, and say `batch_inertia` instead of `inertia`.
        features: the features' names.
        standardization: what is done to rows before they are measured; None for nothing.
        converged: whether the fit ended by its `tolerance` or, in mini-batch, by its
            `max_no_improvement`, not by `max_iterations`.
        distance_metric: "squared_euclidean": a score is a squared distance; or "cosine": it is 1 -
            cosine similarity, of a row of zeros 1 (its cluster is 0).

    Example:
        >>> model = KMeansModel(np.array([[0.0], [10.0]], np.float32), 0.0, np.array([1, 1]))
        >>> model.predict([[1.0], [6.0]]).tolist()
        [0, 1]
        >>> model.transform([[1.0]]).tolist()
        [[1.0, 81.0]]
    """

    cluster_centers: npt.NDArray[np.float32]
    inertia: float
    counts: npt.NDArray[np.int64]
    history: Sequence[dict[str, Any]] = ()
    features: tuple[str, ...] = ()
    standardization: Standardization | None = None
    converged: bool = False
    distance_metric: str = "squared_euclidean"

    def __post_init__(self) -> None:
        check_metric(self.distance_metric)
        centers = checked_centers("cluster_centers", self.cluster_centers, self.distance_metric)
        object.__setattr__(self, "cluster_centers", centers)
        object.__setattr__(self, "history", tuple(self.history))
        if not self.features:
            object.__setattr__(self, "features", default_features(centers.shape[1]))

    @property
    def num_clusters(self) -> int:
        """k."""
        return len(self.cluster_centers)

    @property
    def num_features(self) -> int:
        """d."""
        return int(self.cluster_centers.shape[1])

    def predict(self, x: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """int32 [n]: the nearest center of each row of x [n, d], the lowest of equally near ones.

        Raises:
            DataError: x is no finite matrix of d features.
        """
        return self.assign(self._rows(x))

    def transform(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """float64 [n, k]: all_scores, the scores of rows x [n, d] for all centers.

        Raises:
            DataError: x is no finite matrix of d features.
        """
        return distances.all_scores(self._centers, self._rows(x))

    def score_samples(self, x: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """float64 [n]: the score of each row of x [n, d] for its center.

        Raises:
            DataError: x is no finite matrix of d features.
        """
        rows = self._rows(x)
        return self.scores(rows, self.assign(rows))

    def score(self, x: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """The weighted sum of the scores: positive, as TensorFlow's (scikit-learn's is negative).

        Args:
            x: rows [n, d].
            sample_weight: weights [n] of at least 0; None for 1 each.

        Raises:
            DataError: x is no finite matrix of d features, or a weight is not allowed.
        """
        scores = self.score_samples(x)
        if sample_weight is not None:
            scores = scores * checked_weights(sample_weight, len(scores))
        return float(scores.sum())

    def prepare(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Raw values [n, d] as the model measures them, float32 [n, d].

        Standardized if it does so, then under cosine made unit; rows of zeros stay zero.

        Raises:
            DataError: a value that is no finite float32.
        """
        if self.standardization is not None:
            values = self.standardization.apply(values)
        return self.measured(checked_rows("x", values))

    def measured(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Finite rows [n, d], standardized if the model does so, as the metric measures them."""
        return unit_rows(rows)[0] if self.distance_metric == "cosine" else rows

    def assign(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """int32 [n]: the nearest centers of prepared rows [n, d]."""
        return kernels.assign(self._centers, rows, self._filter)

    def scores(
        self, rows: npt.NDArray[np.float32], indices: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float64]:
        """float64 [n]: the scores of prepared rows [n, d] for these centers [n]."""
        return distances.scores(self._centers, rows, indices)

    def all_scores(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """float64 [n, k]: the scores of prepared rows [n, d] for all centers."""
        return distances.all_scores(self._centers, rows)

    def check_features(self, names: Sequence[str]) -> None:
        """Checks that rows with these features are rows of this model; generated names match all.

        Raises:
            DataError: their number or names differ.
        """
        check_features(self.features, names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model into a directory, on any file system that Beam knows.

        `model.json` is written last and holds the checksum of `centers.npy`.
        """
        path, buffer = os.fspath(path), io.BytesIO()
        np.save(buffer, self.cluster_centers, allow_pickle=False)
        files.write_bytes(files.join(path, "centers.npy"), buffer.getvalue())
        standardization = self.standardization
        fields = {
            "num_clusters": self.num_clusters,
            "num_features": self.num_features,
            "distance_metric": self.distance_metric,
            "features": list(self.features),
            "standardization": standardization and dataclasses.asdict(standardization),
            "inertia": self.inertia,
            "counts": self.counts.tolist(),
            "converged": self.converged,
            "history": list(self.history),
            "versions": _versions(),
            "centers_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        }
        write_json(files.join(path, "model.json"), fields, FORMAT_VERSION)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "KMeansModel":
        """Reads a model back from its directory.

        Raises:
            DataError: there is none, it is damaged, half-written or of a newer format.
        """
        path = os.fspath(path)
        name = files.join(path, "model.json")
        if not files.exists(name):
            raise DataError(f"{path} holds no model: it has no model.json")
        fields = read_json(name, "a model", FORMAT_VERSION)
        try:
            data = files.read_bytes(files.join(path, "centers.npy"))
        except OSError as error:
            raise DataError(f"{path}: centers.npy cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != fields.get("centers_sha256"):
            raise DataError(f"{path}: centers.npy is damaged, or not the one of its model.json")
        try:
            return cls._of(np.load(io.BytesIO(data), allow_pickle=False), fields)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{name} is not a model of this package: {error}") from error

    @classmethod
    def _of(cls, centers: npt.NDArray[np.float32], fields: dict[str, Any]) -> "KMeansModel":
        if centers.shape != (fields["num_clusters"], fields["num_features"]):
            raise ValueError(f"its centers are {list(centers.shape)}")
        parts = fields["standardization"]
        if parts is not None:
            parts = Standardization(tuple(parts["means"]), tuple(parts["scales"]))
        return cls(
            cluster_centers=centers,
            inertia=float(fields["inertia"]),
            counts=np.array(fields["counts"], np.int64),
            history=list(fields["history"]),
            features=tuple(fields["features"]),
            standardization=parts,
            converged=bool(fields["converged"]),
            distance_metric=fields["distance_metric"],
        )

    def _rows(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        found = as_array("x", x)
        if found.ndim == 2 and found.shape[1] != self.num_features:
            raise DataError(f"x has {found.shape[1]} features, the model has {self.num_features}")
        if found.ndim != 2:
            raise DataError(f"x: an array of shape [n, d] is needed, found {list(found.shape)}")
        return self.prepare(found)

    @functools.cached_property
    def _centers(self) -> distances.Centers:
        return distances.Centers(self.cluster_centers, self.distance_metric)

    @functools.cached_property
    def _filter(self) -> kernels.Filter:
        return kernels.Filter(self._centers)


def check_features(own: Sequence[str], names: Sequence[str], argument: str = "") -> None:
    """Checks that features are the same, in the same order; generated names match all.

    Args:
        own: names [d] of the model's features.
        names: of the input's.
        argument: how the message begins.

    Raises:
        DataError: their number or names differ.
    """
    if len(names) != len(own):
        raise DataError(f"{argument}the model has {len(own)} features, the input has {len(names)}")
    if is_default(names) or is_default(own):
        return
    for place, (mine, other) in enumerate(zip(own, names, strict=True)):
        if mine != other:
            raise DataError(
                f"{argument}feature {place} of the model is {mine!r}, of the input {other!r}: name "
                "the features in the model's order"
            )


def default_features(num_features: int) -> tuple[str, ...]:
    """The names of features that have none."""
    return tuple(f"feature_{place}" for place in range(num_features))


def is_default(names: Sequence[str]) -> bool:
    """Whether these are names of features that have none."""
    return all(re.fullmatch(f"feature_{place}", name) for place, name in enumerate(names))


def model_of(
    centers: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
    state: FitState,
    *,
    features: tuple[str, ...] = (),
    standardization: Standardization | None = None,
    distance_metric: str = "squared_euclidean",
) -> KMeansModel:
    """The model of a finished fit."""
    return KMeansModel(
        cluster_centers=centers,
        inertia=float(state.history[-1]["inertia"]),
        counts=counts,
        history=state.history,
        features=features,
        standardization=standardization,
        converged=state.converged,
        distance_metric=distance_metric,
    )


def read_centers(
    path: str, standardized: bool = False, distance_metric: str = "squared_euclidean"
) -> tuple[npt.NDArray[np.float32], tuple[str, ...] | None]:
    """float32 [k, d]: the centers in a `.npy` file, or of a model, and the features' names there.

    Args:
        path: FILE.npy or MODEL_DIR.
        standardized: whether the rows they are for are standardized, as the model's must be then.
        distance_metric: what they are for, which must be the model's; for cosine centers of a
            `.npy` file are made unit.

    Raises:
        DataError: there are none, or the model's are in other units than the rows, or of another
            metric.
    """
    if path.endswith(".npy"):
        try:
            return checked_centers(path, read_array(path, "centers"), distance_metric), None
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{path} holds no centers: {error}") from error
    model = KMeansModel.load(path)
    check_same_metric(path, model.distance_metric, distance_metric)
    if (model.standardization is not None) != standardized:
        kinds = ("are not", "are") if standardized else ("are", "are not")
        raise DataError(
            f"the centers of the model in {path} {kinds[0]} standardized, the rows here "
            f"{kinds[1]}: they are in other units (its cluster_centers can be given as they are)"
        )
    return model.cluster_centers, model.features


def read_array(path: str, what: str) -> npt.NDArray[Any]:
    """The array in a `.npy` file, on any file system that Beam knows.

    Raises:
        DataError: there is none; names the file, and `what` it should hold.
    """
    try:
        return np.asarray(np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (ValueError, EOFError) as error:
        # NumPy's own words recommend to load it unsafely.
        raise DataError(f"{path} holds no {what}: it is no .npy array of numbers") from error


def check_same_metric(path: str, found: str, asked: str) -> None:
    """Refuses a model of another metric.

    Raises:
        DataError: names both.
    """
    if found != asked:
        raise DataError(
            f"the model in {path} is of distance_metric {found!r}, what is asked for here is "
            f"{asked!r}: its cluster_centers can be given as they are"
        )


def _versions() -> dict[str, str]:
    found = {"beam-kmeans": beam_kmeans.__version__, "numpy": np.__version__}
    for name in ("apache-beam", "tensorflow", "tensorflow-cpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
