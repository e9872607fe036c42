"""Parameters: one frozen, validated configuration of a fit."""

import dataclasses
import difflib
import hashlib
import math
import operator
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beam_kmeans.values import canonical_float32, unit_rows

INITIALISERS = ("random", "kmeans_plus_plus", "kmc2", "afkmc2")
METRICS = ("squared_euclidean", "cosine")
EMPTY_CLUSTERS = ("relocate", "keep")
SEEDING_STATES = ("keep", "none")
LARGEST_SEED = 2**63 - 1

#: Chooses centers among rows float32 [n, d]: up to as many as are still to choose.
CentersFunction = Callable[[npt.NDArray[np.float32], int], npt.ArrayLike]


@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """What decides the bytes of a model, beside the rows: the fields of `KMeans`.

    Args:
        num_clusters: k, at least 1.
        initial_clusters: how the initial centers are found, by name: "kmeans_plus_plus"
            (k-means||), "random", "kmc2" or "afkmc2"; or the initial centers themselves, [k, d] of
            any number type (rounded to float32 once; under cosine made unit); or a function
            f(rows, k) that returns up to k centers out of rows float32 [n, d], and is called again
            with further rows and the number that is still to choose.
        distance_metric: "squared_euclidean", or "cosine": 1 - cosine similarity.
        use_mini_batch: whether a step updates the centers by a batch, not by all rows.
        mini_batch_steps_per_iteration: steps between two publications of the centers.
        batch_size: rows of a step; all rows where there are fewer.
        random_seed: 0 to 2**63 - 1.
        kmeans_plus_plus_num_retries: further candidates at each pick of k-means++, of which the
            best is kept; negative for 2 + floor(ln k).
        kmc2_chain_length: rows that a chain of k-MC2 looks at for one center.
        seeding_oversampling: rows drawn in a round of k-means||, as a multiple of k.
        seeding_rounds: rounds of k-means|| at least.
        kmc2_groups: groups that run chains of their own; None chooses by the number of rows.
        max_iterations: updates of the centers at most; 0 measures the initial centers.
        tolerance: full batch has converged when the centers' summed squared movement is at most
            this times the mean variance of the features (scikit-learn's rule); 0 runs until
            nothing moves. In mini-batch the movement is smoothed over the steps, and 0 turns
            this off.
        max_no_improvement: in mini-batch, iterations without a new least smoothed inertia after
            which the fit ends; None turns this off.
        empty_clusters: "relocate" an empty cluster's center to a far row, or "keep" it in place;
            in mini-batch a center that no row of a batch is nearest to is always kept.

    Raises:
        ValueError: names the argument, what was found and what is allowed.

    Example:
        >>> Parameters(num_clusters=3).initial_clusters
        'kmeans_plus_plus'
    """

    num_clusters: int
    initial_clusters: str | npt.NDArray[np.float32] | CentersFunction = "kmeans_plus_plus"
    distance_metric: Literal["squared_euclidean", "cosine"] = "squared_euclidean"
    use_mini_batch: bool = False
    mini_batch_steps_per_iteration: int = 1
    batch_size: int = 1024
    random_seed: int = 0
    kmeans_plus_plus_num_retries: int = 2
    kmc2_chain_length: int = 200
    seeding_oversampling: float = 2.0
    seeding_rounds: int = 5
    kmc2_groups: int | None = None
    max_iterations: int = 300
    tolerance: float = 1e-4
    max_no_improvement: int | None = 10
    empty_clusters: Literal["relocate", "keep"] = "relocate"

    def __post_init__(self) -> None:
        for name, (least, most) in _INTEGERS.items():
            self._put(name, checked_integer(name, getattr(self, name), least, most))
        for name in ("kmc2_groups", "max_no_improvement"):
            if getattr(self, name) is not None:
                self._put(name, checked_integer(name, getattr(self, name), 1, _MOST))
        self._put("tolerance", _number("tolerance", self.tolerance))
        self._put(
            "seeding_oversampling",
            _number("seeding_oversampling", self.seeding_oversampling, 0.1, 1000),
        )
        check_metric(self.distance_metric)
        _one_of("empty_clusters", self.empty_clusters, EMPTY_CLUSTERS)
        if not isinstance(self.use_mini_batch, (bool, np.bool_)):
            raise ValueError(
                f"use_mini_batch: {self.use_mini_batch!r} is not allowed; allowed: True or False"
            )
        self._put("use_mini_batch", bool(self.use_mini_batch))
        self._put("initial_clusters", self._checked_initial_clusters())

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def given_centers(self) -> npt.NDArray[np.float32] | None:
        """The initial centers, float32 [k, d], where they were given."""
        found = self.initial_clusters
        return found if isinstance(found, np.ndarray) else None

    @property
    def initialiser(self) -> str:
        """A name of `INITIALISERS`, "given" or "callable"."""
        if isinstance(self.initial_clusters, str):
            return self.initial_clusters
        return "given" if self.given_centers is not None else "callable"

    @property
    def retries(self) -> int:
        """Further candidates at each pick of k-means++, as TensorFlow counts them."""
        asked = self.kmeans_plus_plus_num_retries
        return asked if asked >= 0 else 2 + int(math.log(self.num_clusters))

    def without_centers(self) -> "Parameters":
        """The same, but for given centers or a function: so that no job's graph holds them."""
        if isinstance(self.initial_clusters, str):
            return self
        return dataclasses.replace(self, initial_clusters="random")

    def fingerprint(self) -> dict[str, Any]:
        """The fields that can change a byte of a run: all but `max_iterations`, which may rise."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Parameters)}
        del fields["max_iterations"]
        given, initial = self.given_centers, self.initial_clusters
        if given is not None:
            fields["initial_clusters"] = f"given {list(given.shape)} sha256:{array_sha256(given)}"
        elif callable(initial):
            fields["initial_clusters"] = f"callable {name_of_function(initial)}"
        return fields

    def _checked_initial_clusters(self) -> Any:
        value: Any = self.initial_clusters
        others = "an array [k, d] of centers, or a function f(rows, k)"
        if isinstance(value, str) or value is None:
            _one_of("initial_clusters", value, INITIALISERS, others)
            return value
        if callable(value):
            return value
        centers = checked_centers("initial_clusters", value, self.distance_metric)
        if len(centers) != self.num_clusters:
            raise ValueError(
                f"initial_clusters: {len(centers)} centers were given, num_clusters is "
                f"{self.num_clusters}"
            )
        return centers


_MOST = 2**31 - 1
_INTEGERS: dict[str, tuple[int, int | None]] = {
    "num_clusters": (1, None),
    "mini_batch_steps_per_iteration": (1, _MOST),
    "batch_size": (1, _MOST),
    "random_seed": (0, LARGEST_SEED),
    "kmeans_plus_plus_num_retries": (-_MOST, 1000),
    "kmc2_chain_length": (1, _MOST),
    "seeding_rounds": (1, 100),
    "max_iterations": (0, None),
}


def name_of_function(function: Callable[..., Any]) -> str:
    """What a function is called, for people."""
    named = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}.{named}"


def array_sha256(array: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's bytes, little-endian and in C order."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).data).hexdigest()


def as_array(name: str, value: Any) -> npt.NDArray[Any]:
    """What NumPy makes an array of.

    Raises:
        ValueError: lists of other lengths side by side; names the argument.
    """
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: no array can be made of it: {error}") from error


def checked_centers(
    name: str, centers: npt.ArrayLike, distance_metric: str = "squared_euclidean"
) -> npt.NDArray[np.float32]:
    """Centers as float32 [k, d], read-only; for cosine each of length 1.

    Raises:
        ValueError: not a matrix of finite numbers, or for cosine a center of zeros; names the
            argument.
    """
    found = as_array(name, centers)
    if found.dtype.kind not in "iuf":
        raise ValueError(f"{name}: numbers are needed, found an array of {found.dtype}")
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(f"{name}: an array of shape [k, d] is needed, found {list(found.shape)}")
    rounded, _ = canonical_float32(found)
    bad = np.flatnonzero(~np.isfinite(rounded).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{name}: center {bad[0]} holds a value that is no finite float32: "
            f"{found[bad[0]].tolist()[:8]}"
        )
    if distance_metric == "cosine":
        rounded, directed = unit_rows(rounded)
        if not directed.all():
            place = int(np.flatnonzero(~directed)[0])
            raise ValueError(
                f"{name}: center {place} is all zeros, which has no direction; cosine needs others"
            )
    rounded = rounded.copy()
    rounded.flags.writeable = False
    return rounded


def check_metric(distance_metric: Any) -> None:
    """Refuses what is no metric.

    Raises:
        ValueError: names what was found and what is allowed.
    """
    _one_of("distance_metric", distance_metric, METRICS)


def checked_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number within bounds, of any integer type but bool.

    Raises:
        ValueError: names the argument, what was found and what is allowed.
    """
    bounds = f"an integer from {least} to {most}" if most else f"an integer of at least {least}"
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: {bounds}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name}: {number} is not allowed; allowed: {bounds}")
    return number


def _number(name: str, value: Any, least: float = 0, most: float = math.inf) -> float:
    allowed = f"a finite number of at least {least}" + (f", at most {most}" * (most < math.inf))
    try:
        if isinstance(value, (bool, np.bool_, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}: {value!r} is not allowed; allowed: {allowed}") from None
    if not math.isfinite(number) or not least <= number <= most:
        raise ValueError(f"{name}: {number} is not allowed; allowed: {allowed}")
    return number


def _one_of(name: str, value: Any, allowed: tuple[str, ...], also: str = "") -> None:
    if isinstance(value, str) and value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    names = ", ".join(repr(a) for a in allowed) + (f", {also}" if also else "")
    raise ValueError(f"{name}: {value!r} is not allowed; allowed: {names}{hint}")
