"""Where the centers of a transform come from: an array, a path or a PCollection."""

import functools
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsSingleton, PCollection
from apache_beam.utils.shared import Shared

from beam_kmeans.blocks import Block
from beam_kmeans.config import array_sha256, check_metric, checked_centers
from beam_kmeans.distances import Centers
from beam_kmeans.errors import DataError
from beam_kmeans.kernels import Filter
from beam_kmeans.model import read_centers

#: What a `centers` argument may be.
CentersLike: TypeAlias = npt.ArrayLike | str | PCollection[Any]


class PreparedCenters:
    """Centers ready for kernels."""

    def __init__(self, centers: npt.NDArray[np.float32], distance_metric: str) -> None:
        self.centers = Centers(centers, distance_metric)

    @functools.cached_property
    def filter(self) -> Filter:
        """The compiled filter that assigns rows to them."""
        return Filter(self.centers)


class CentersLoader:
    """Gives a DoFn its centers, prepared once a process.

    Args:
        given: float32 [k, d], or a path; None where they come as a side input.
        distance_metric: under cosine centers are made unit, and a model's have to be of cosine.
    """

    def __init__(
        self,
        given: npt.NDArray[np.float32] | str | None,
        distance_metric: str = "squared_euclidean",
    ) -> None:
        self._given, self._metric, self._shared = given, distance_metric, Shared()
        self._last: tuple[Any, PreparedCenters] | None = None

    def get(self, side_input: Any = None) -> PreparedCenters:
        """The centers.

        Raises:
            DataError: they cannot be read, or are no centers.
        """
        source = side_input if self._given is None else self._given
        # A side input is the same object for all elements of a bundle.
        if self._last is None or self._last[0] is not source:
            self._last = (source, self._prepared(source))
        return self._last[1]

    def _prepared(self, source: Any) -> PreparedCenters:
        prepared: PreparedCenters
        metric = self._metric
        if isinstance(source, str):
            prepared = self._shared.acquire(
                lambda: PreparedCenters(read_centers(source, distance_metric=metric)[0], metric)
            )
        else:
            array = _as_centers("centers", source, metric)
            prepared = self._shared.acquire(
                lambda: PreparedCenters(array, metric), array_sha256(array)
            )
        return prepared


def source_of(
    centers: Any, distance_metric: str = "squared_euclidean"
) -> tuple[CentersLoader, tuple[AsSingleton, ...]]:
    """The loader for a `centers` argument, and the side inputs that its DoFn takes.

    Raises:
        ValueError: it is none of what is allowed, or the metric is not.
    """
    check_metric(distance_metric)
    if isinstance(centers, PCollection):
        loader = CentersLoader(None, distance_metric)
        return loader, (AsSingleton(centers, default_value=None),)
    if centers is None or (isinstance(centers, str) and not centers):
        raise ValueError(
            f"centers: {centers!r} is not allowed; allowed: an array [k, d], the path of a .npy "
            "file or of a model's directory, or a PCollection of one array"
        )
    if isinstance(centers, str):
        return CentersLoader(centers, distance_metric), ()
    checked = checked_centers("centers", centers, distance_metric)
    return CentersLoader(checked, distance_metric), ()


def _as_centers(name: str, found: Any, distance_metric: str) -> npt.NDArray[np.float32]:
    if found is None:
        raise DataError(f"{name}: the PCollection is empty; one array [k, d] is needed")
    try:
        return checked_centers(name, found, distance_metric)
    except ValueError as error:
        raise DataError(str(error)) from error


def check_features(block: Block, num_features: int) -> None:
    """Refuses a block of rows with other than the centers' features.

    Raises:
        DataError: names the block's first row, and both numbers.
    """
    if block.rows.shape[1] != num_features:
        numbers = block.numbers()
        first = "" if numbers is None or not len(numbers) else f" from row {numbers[0]} on"
        raise DataError(
            f"a block of {len(block.rows)} rows{first} has {block.rows.shape[1]} features, the "
            f"centers have {num_features}"
        )
