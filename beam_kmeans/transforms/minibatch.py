"""MiniBatchStep: one step of mini-batch k-means over a batch of blocks."""

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsIter, AsSingleton, PCollection

from beam_kmeans import lloyd, minibatch
from beam_kmeans.blocks import Block
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import check_metric, checked_centers
from beam_kmeans.distances import Centers
from beam_kmeans.errors import DataError
from beam_kmeans.minibatch import Learned
from beam_kmeans.model import read_array, read_centers
from beam_kmeans.transforms.centers import CentersLike, check_features
from beam_kmeans.transforms.counters import BlockCounter

#: What a `counts` argument may be.
CountsLike: TypeAlias = npt.ArrayLike | str | PCollection[Any]
#: A count at most: more than any number of float32 weights add up to.
_MOST_WEIGHT = 1e60


@dataclasses.dataclass(frozen=True, eq=False)
class MiniBatchResult:
    """What a step gives: the next centers, what the one after it needs, and what it measured.

    Attributes:
        cluster_centers: float32 [k, d], the centers after the step; under cosine unit.
        counts: float64 [k], the weight that each center has seen, its start counted as 1.
        means: float32 [k, d], the running means: under cosine the centers are their directions,
            else they are the centers.
        batch_inertia: the sum of weight x score of the batch's rows, for the centers that the step
            was given.
        shift: the sum over centers of the squared distance moved.
    """

    cluster_centers: npt.NDArray[np.float32]
    counts: npt.NDArray[np.float64]
    means: npt.NDArray[np.float32]
    batch_inertia: float
    shift: float


class MiniBatchStep(beam.PTransform[Any, Any]):
    """Moves each center towards the mean of a batch's rows that are nearest to it.

    c' = (n c + s) / (n + m), for n rows seen before and m new ones of sum s: a center is the mean
    of its start and of every row ever given to it. Centers that no row is nearest to stay. Sums are
    exact and a center is rounded to float32 once a step.

    An iteration of several steps (`mini_batch_steps_per_iteration`) is another thing: its rows are
    assigned to centers that stay fixed, and nothing is carried on. That is
    `LloydStep(centers, empty_clusters="keep")` over the rows of all its steps.

    A batch whose weights are all 0, or under cosine of rows of zeros alone, moves nothing.

    Input: PCollection[Block], bounded: the batch.
    Output: PCollection[MiniBatchResult] of exactly one element.
    Guarantee: the same bytes for the same rows, in whatever order, blocks and bundles: a fit with
        `mini_batch_steps_per_iteration=1` is a sequence of such steps over its batches.

    Args:
        centers: float32 [k, d]; or the path of a `.npy` file or of a model's directory; or a
            PCollection of one array, or of the `MiniBatchResult` of the step before, which brings
            its counts with it. For cosine they are made unit; where `counts` are given they are the
            running means, of any length.
        counts: float64 [k] of the rows seen before, the start counted as 1; or the path of a `.npy`
            file, or a PCollection of one array. None takes those of the step before, or else 1s.
        distance_metric: "squared_euclidean" or "cosine"; a model's directory has to be of the same.

    Raises:
        ValueError: on construction, an argument that is not allowed.
        DataError: in the pipeline: no rows, a block of other than d features, centers or counts
            that cannot be read, or that do not go together.

    Example:
        >>> batch = [Block(np.array([[1], [2]], np.float32))]
        >>> (result,) = batch | MiniBatchStep(centers=[[0.0], [10.0]])
        >>> result.cluster_centers.tolist(), result.counts.tolist(), result.batch_inertia
        ([[1.0], [10.0]], [3.0, 1.0], 5.0)

    References:
        D. Sculley, "Web-scale k-means clustering", WWW 2010; the rule is that of TensorFlow's
        `contrib.factorization.KMeans`.
    """

    def __init__(
        self,
        centers: CentersLike,
        counts: CountsLike | None = None,
        distance_metric: Literal["squared_euclidean", "cosine"] = "squared_euclidean",
    ) -> None:
        super().__init__()
        check_metric(distance_metric)
        self._metric = distance_metric
        self._side_inputs: dict[str, AsSingleton] = {}
        given: dict[str, Any] = {"centers": centers, "counts": counts}
        for name, value in given.items():
            if isinstance(value, PCollection):
                self._side_inputs[name] = AsSingleton(value, default_value=None)
                given[name] = _AsSideInput()
        self._loader = _Loader(given["centers"], given["counts"], distance_metric)

    def expand(self, blocks: PCollection[Block]) -> PCollection[MiniBatchResult]:
        sides = self._side_inputs
        tally = beam.ParDo(_TallyFn(self._loader, self._metric), **sides)
        tallied = blocks | "Tally" >> tally.with_outputs(_TallyFn.SUMS, main="surveys")
        survey = tallied.surveys | "MergeSurveys" >> beam.CombineGlobally(MergeSummaries())
        update = _UpdateFn(self._loader, self._metric)
        updates = (
            tallied[_TallyFn.SUMS]
            | "MergeSums" >> beam.CombinePerKey(MergeSummaries())
            | "Update" >> beam.ParDo(update, AsSingleton(survey), **sides)
        )
        return survey | "Join" >> beam.ParDo(_JoinFn(self._metric), AsIter(updates))

    def display_data(self) -> dict[str, Any]:
        return {"distance_metric": self._metric}


class _AsSideInput:
    """Stands for an argument that comes as a side input."""


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """What a step starts from, ready for kernels."""

    centers: Centers
    learned: Learned


class _Loader:
    """Gives a DoFn what the step starts from, prepared once for as long as it is the same.

    Raises:
        ValueError: on construction, an argument that is none of what is allowed.
    """

    def __init__(self, centers: Any, counts: Any, distance_metric: str) -> None:
        self._metric = distance_metric
        self._last: tuple[Any, Any, _Prepared] | None = None
        for name, value in (("centers", centers), ("counts", counts)):
            if (value is None and name == "centers") or (isinstance(value, str) and not value):
                raise ValueError(
                    f"{name}: {value!r} is not allowed; allowed: an array, the path of a .npy file"
                    " or (of centers) of a model's directory, or a PCollection of one array or "
                    "MiniBatchResult"
                )
        self._centers, self._counts = centers, counts
        if not isinstance(centers, (str, _AsSideInput, MiniBatchResult)):
            # As means of any length where counts come with them.
            metric = distance_metric if counts is None else "squared_euclidean"
            self._centers = checked_centers("centers", centers, metric)
            if not isinstance(counts, (str, _AsSideInput)) and counts is not None:
                self._counts = _checked_counts(counts, len(self._centers))

    def get(self, centers: Any = None, counts: Any = None) -> _Prepared:
        """What the step starts from, given its side inputs.

        Raises:
            DataError: it cannot be read, or is not allowed.
        """
        if not isinstance(self._centers, _AsSideInput):
            centers = self._centers
        if not isinstance(self._counts, _AsSideInput):
            counts = self._counts
        elif counts is None:
            raise DataError("counts: the PCollection is empty; one array [k] is needed")
        # A side input is the same object for all elements of a bundle.
        last = self._last
        if last is None or last[0] is not centers or last[1] is not counts:
            try:
                learned = self._learned(centers, counts)
            except DataError:
                raise
            except ValueError as error:
                raise DataError(str(error)) from error
            prepared = _Prepared(Centers(learned.centers, self._metric), learned)
            self._last = last = centers, counts, prepared
        return last[2]

    def _learned(self, centers: Any, counts: Any) -> Learned:
        if centers is None:
            raise DataError("centers: the PCollection is empty; one array [k, d] is needed")
        means: Any = None
        if isinstance(counts, MiniBatchResult):
            counts = counts.counts
        if isinstance(centers, MiniBatchResult):
            counts = centers.counts if counts is None else counts
            centers, means = centers.cluster_centers, centers.means
        elif isinstance(centers, str):
            centers = read_centers(centers, distance_metric=self._metric)[0]
        if isinstance(counts, str):
            counts = read_array(counts, "counts")
        if counts is None:
            return Learned.start(checked_centers("centers", centers, self._metric), self._metric)
        own = checked_centers("centers", centers)
        counts = _checked_counts(counts, len(own))
        if self._metric != "cosine":
            return Learned(own, counts)
        if means is None:
            means, own = own, checked_centers("centers", own, self._metric)
        return Learned(own, counts, checked_centers("means", means))


def _checked_counts(counts: Any, num_clusters: int) -> npt.NDArray[np.float64]:
    found = np.asarray(counts)
    if found.dtype.kind not in "iuf" or found.shape != (num_clusters,):
        raise ValueError(
            f"counts: numbers of shape [{num_clusters}] are needed, found {list(found.shape)} of "
            f"{found.dtype}"
        )
    numbers = found.astype(np.float64)
    bad = np.flatnonzero(~((numbers >= 0) & (numbers <= _MOST_WEIGHT)))
    if bad.size:
        raise ValueError(
            f"counts: cluster {bad[0]} has {found[bad[0]]}; numbers from 0 to {_MOST_WEIGHT} are "
            "needed"
        )
    return numbers


class _TallyFn(beam.DoFn):
    """Sums a block under its nearest centers: emits a survey, and sums by ranges of centers."""

    SUMS = "sums"

    def __init__(self, loader: _Loader, distance_metric: str) -> None:
        self._loader, self._metric = loader, distance_metric
        self._counter = BlockCounter()

    def process(self, block: Block, centers: Any = None, counts: Any = None) -> Iterator[Any]:
        prepared = self._loader.get(centers, counts)
        self._counter.counted(block)
        if not len(block.rows):
            return
        k, d = prepared.learned.centers.shape
        check_features(block, d)
        part = block.numbered()
        batch, totals = minibatch.survey_of(prepared.centers, [part], self._metric)
        yield batch
        for key, (start, stop) in enumerate(lloyd.ranges(k, d)):
            yield beam.pvalue.TaggedOutput(self.SUMS, (key, totals.part(start, stop)))


class _UpdateFn(beam.DoFn):
    """Updates a range of centers."""

    def __init__(self, loader: _Loader, distance_metric: str) -> None:
        self._loader, self._metric = loader, distance_metric

    def process(
        self, element: tuple[int, Any], found: Any, centers: Any = None, counts: Any = None
    ) -> Iterator[tuple[int, minibatch.Update]]:
        (key, totals), learned = element, self._loader.get(centers, counts).learned
        start, stop = lloyd.ranges(*learned.centers.shape)[key]
        survey = found.survey
        own = learned.part(start, stop)
        yield key, minibatch.update(own, totals, survey, self._metric, start)


class _JoinFn(beam.DoFn):
    """Joins the ranges' updates to the result."""

    def __init__(self, distance_metric: str) -> None:
        self._metric = distance_metric

    def process(
        self, found: Any, updates: Iterable[tuple[int, minibatch.Update]]
    ) -> Iterator[MiniBatchResult]:
        if found is None:
            raise DataError("the batch has no rows")
        parts = [update for _, update in sorted(updates, key=lambda pair: pair[0])]
        shares = [(part.cost, part.shift) for part in parts]
        outcome = minibatch.outcome_of(found, shares, self._metric)
        learned = [part.learned for part in parts]
        centers = np.concatenate([own.centers for own in learned])
        counts = [own.counts for own in learned if own.counts is not None]
        means = [own.means for own in learned if own.means is not None]
        yield MiniBatchResult(
            cluster_centers=centers,
            counts=np.concatenate(counts),
            means=np.concatenate(means) if means else centers,
            batch_inertia=float(outcome.measured.inertia),
            shift=float(sum((part.shift for part in parts), Fraction(0))),
        )
