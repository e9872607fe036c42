"""Parameters: one frozen, validated configuration of a fit."""

import dataclasses
import difflib
import hashlib
import math
import operator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beam_kmeans.values import canonical_float32

INITIALISERS = ("random",)
EMPTY_CLUSTERS = ("relocate", "keep")
LARGEST_SEED = 2**63 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """What decides the bytes of a model, beside the rows: the fields of `KMeans`.

    Args:
        num_clusters: k, at least 1.
        initial_clusters: "random", or the initial centers themselves, [k, d] of any number type
            (rounded to float32 once, taken as they are).
        random_seed: 0 to 2**63 - 1.
        max_iterations: updates of the centers at most; 0 measures the initial centers.
        tolerance: full batch has converged when the centers' summed squared movement is at most
            this times the mean variance of the features (scikit-learn's rule); 0 runs until
            nothing moves.
        empty_clusters: "relocate" an empty cluster's center to a far row, or "keep" it in place.

    Raises:
        ValueError: names the argument, what was found and what is allowed.

    Example:
        >>> Parameters(num_clusters=3, initial_clusters="random").tolerance
        0.0001
    """

    num_clusters: int
    initial_clusters: Literal["random"] | npt.NDArray[np.float32]
    random_seed: int = 0
    max_iterations: int = 300
    tolerance: float = 1e-4
    empty_clusters: Literal["relocate", "keep"] = "relocate"

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "num_clusters", checked_integer("num_clusters", self.num_clusters, 1))
        put(self, "random_seed", checked_integer("random_seed", self.random_seed, 0, LARGEST_SEED))
        put(self, "max_iterations", checked_integer("max_iterations", self.max_iterations, 0))
        put(self, "tolerance", _tolerance(self.tolerance))
        _one_of("empty_clusters", self.empty_clusters, EMPTY_CLUSTERS)
        put(self, "initial_clusters", _initial_clusters(self.initial_clusters, self.num_clusters))

    @property
    def given_centers(self) -> npt.NDArray[np.float32] | None:
        """The initial centers, float32 [k, d], where they were given."""
        return None if isinstance(self.initial_clusters, str) else self.initial_clusters

    def without_centers(self) -> "Parameters":
        """The same, but for given centers: so that a job's graph never holds them."""
        return dataclasses.replace(self, initial_clusters="random")

    def fingerprint(self) -> dict[str, Any]:
        """The fields that can change a byte of a run: all but `max_iterations`, which may rise."""
        initial: Any = self.initial_clusters
        if not isinstance(initial, str):
            initial = f"given {list(initial.shape)} sha256:{array_sha256(initial)}"
        return {
            "num_clusters": self.num_clusters,
            "initial_clusters": initial,
            "random_seed": self.random_seed,
            "tolerance": self.tolerance,
            "empty_clusters": self.empty_clusters,
        }


def array_sha256(array: npt.NDArray[Any]) -> str:
    """SHA-256 of an array's bytes, little-endian and in C order."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).data).hexdigest()


def checked_centers(name: str, centers: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Centers as float32 [k, d], read-only.

    Raises:
        ValueError: not a matrix of finite numbers; names the argument.
    """
    found = np.asarray(centers)
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
    rounded = rounded.copy()
    rounded.flags.writeable = False
    return rounded


def _initial_clusters(value: Any, num_clusters: int) -> Literal["random"] | npt.NDArray[np.float32]:
    if isinstance(value, str):
        _one_of("initial_clusters", value, INITIALISERS, "or an array [k, d] of centers")
        return "random"
    if callable(value) or value is None:
        raise ValueError(
            f"initial_clusters: {value!r} is not allowed; allowed: 'random' or an array [k, d]"
        )
    centers = checked_centers("initial_clusters", value)
    if len(centers) != num_clusters:
        raise ValueError(
            f"initial_clusters: {len(centers)} centers were given, num_clusters is {num_clusters}"
        )
    return centers


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


def _tolerance(value: Any) -> float:
    allowed = "a finite number of at least 0"
    try:
        if isinstance(value, (bool, np.bool_, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"tolerance: {value!r} is not allowed; allowed: {allowed}") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"tolerance: {number} is not allowed; allowed: {allowed}")
    return number


def _one_of(name: str, value: Any, allowed: tuple[str, ...], also: str = "") -> None:
    if isinstance(value, str) and value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    names = ", ".join(repr(a) for a in allowed) + (f", {also}" if also else "")
    raise ValueError(f"{name}: {value!r} is not allowed; allowed: {names}{hint}")
