"""LloydStep: one iteration of Lloyd's algorithm over blocks."""

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsIter, AsSingleton, PCollection

from beam_kmeans import lloyd
from beam_kmeans.blocks import Block
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.sampling import philox
from beam_kmeans.seeding.rows import check_rows
from beam_kmeans.statistics import Directionless, Statistics
from beam_kmeans.tally import LloydTally, Rows, directionless_of, in_metric
from beam_kmeans.transforms.centers import CentersLike, CentersLoader, check_features, source_of
from beam_kmeans.transforms.counters import BlockCounter


@dataclasses.dataclass(frozen=True, eq=False)
class LloydResult:
    """What one iteration gives: the next centers, and what was measured of those before.

    Attributes:
        cluster_centers: float32 [k, d], the centers after the update.
        inertia: the sum of weight x score of the rows, for the centers that the step was given; of
            `cluster_centers`, the next step's inertia says it.
        counts: int64 [k], rows of each cluster of the centers that the step was given.
        cluster_weights: float64 [k], the clusters' sums of weights.
        shift: the sum over centers of the squared distance moved.
    """

    cluster_centers: npt.NDArray[np.float32]
    inertia: float
    counts: npt.NDArray[np.int64]
    cluster_weights: npt.NDArray[np.float64]
    shift: float


class LloydStep(beam.PTransform[Any, Any]):
    """Moves each center to the weighted mean of the rows that are nearest to it.

    Under cosine to the direction of their unit rows' weighted sum; rows of zeros count for cluster
    0, each with a score of 1, and move nothing.

    Equally near centers: the lowest. Sums are exact and a center is rounded to float32 once. Each
    range of about a million values of centers x features has its own key, so that no partial sum
    grows with k x d.

    Input: PCollection[Block], bounded.
    Output: PCollection[LloydResult] of exactly one element.
    Guarantee: the same bytes for the same numbered rows, however they are cut into blocks and
        bundles: n steps are a fit with `max_iterations=n` and `tolerance=0`. Row numbers only
        decide which of equally far rows an empty cluster's center moves to; in blocks without
        numbers the rows' own values decide that, alike for any order of the rows.

    Args:
        centers: float32 [k, d]; or the path of a `.npy` file or of a model's directory, which
            workers load once a process: right for large centers, as an array is part of the job;
            or a PCollection of one array. For cosine they are made unit; none may be zero.
        empty_clusters: "relocate" an empty cluster's center to a far row, or "keep" it in place.
        distance_metric: "squared_euclidean" or "cosine"; a model's directory has to be of the same.

    Raises:
        ValueError: on construction, an argument that is not allowed.
        DataError: in the pipeline: no rows, weights that are all 0, a block of other than d
            features, or centers that cannot be read or are of another metric.

    Example:
        >>> rows = np.array([[0, 0], [1, 0], [10, 0], [11, 0]], np.float32)
        >>> (result,) = [Block(rows)] | LloydStep(centers=rows[[0, 2]])
        >>> result.cluster_centers.tolist(), result.inertia, result.counts.tolist(), result.shift
        ([[0.5, 0.0], [10.5, 0.0]], 2.0, [2, 2], 0.5)

    References:
        S. Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory
        28(2), 1982.
    """

    def __init__(
        self,
        centers: CentersLike,
        empty_clusters: Literal["relocate", "keep"] = "relocate",
        distance_metric: Literal["squared_euclidean", "cosine"] = "squared_euclidean",
    ) -> None:
        super().__init__()
        self._loader, self._side_inputs = source_of(centers, distance_metric)
        checked = Parameters(1, "random", empty_clusters=empty_clusters)
        self._empty_clusters, self._metric = checked.empty_clusters, distance_metric

    def expand(self, blocks: PCollection[Block]) -> PCollection[LloydResult]:
        relocate = self._empty_clusters == "relocate"
        tally = beam.ParDo(_TallyFn(self._loader, relocate, self._metric), *self._side_inputs)
        tallied = blocks | "Tally" >> tally.with_outputs(_TallyFn.SUMS, main="overviews")
        overview = tallied.overviews | "MergeOverviews" >> beam.CombineGlobally(MergeSummaries())
        update = _UpdateFn(self._loader, relocate, self._metric)
        updates = (
            tallied[_TallyFn.SUMS]
            | "MergeSums" >> beam.CombinePerKey(MergeSummaries())
            | "Update" >> beam.ParDo(update, AsSingleton(overview), *self._side_inputs)
        )
        return overview | "Join" >> beam.ParDo(_JoinFn(self._metric), AsIter(updates))

    def display_data(self) -> dict[str, Any]:
        return {"empty_clusters": self._empty_clusters, "distance_metric": self._metric}


@dataclasses.dataclass
class Overview:
    """What a pass says of the model and the rows as a whole; a monoid."""

    survey: lloyd.Survey
    statistics: Statistics
    directionless: Directionless

    def add(self, other: "Overview") -> "Overview":
        """Merges another's into this one, in place, and returns this one."""
        self.survey.add(other.survey)
        self.statistics.add(other.statistics)
        self.directionless = self.directionless.add(other.directionless)
        return self


class _TallyFn(beam.DoFn):
    """Sums a block under its nearest centers: emits an overview, and sums by ranges of centers."""

    SUMS = "sums"

    def __init__(self, loader: CentersLoader, relocate: bool, distance_metric: str) -> None:
        self._loader, self._relocate, self._metric = loader, relocate, distance_metric
        self._counter = BlockCounter()

    def process(self, block: Block, side_input: Any = None) -> Iterator[Any]:
        centers = self._loader.get(side_input).centers
        self._counter.counted(block)
        if not len(block.rows):
            return
        check_features(block, centers.d)
        whole = _numbered(block) if self._relocate else block.numbered()
        part = in_metric(whole, self._metric)
        tally = LloydTally(centers, self._relocate)
        tally.include([part])
        survey, totals = tally.result()
        aside = directionless_of(whole, self._metric)
        yield Overview(survey, Statistics.of(part.rows, part.weights), aside)
        for key, (start, stop) in enumerate(lloyd.ranges(centers.k, centers.d)):
            yield beam.pvalue.TaggedOutput(self.SUMS, (key, totals.part(start, stop)))


class _UpdateFn(beam.DoFn):
    """Updates a range of centers."""

    def __init__(self, loader: CentersLoader, relocate: bool, distance_metric: str) -> None:
        self._loader, self._relocate, self._metric = loader, relocate, distance_metric

    def process(
        self, element: tuple[int, Any], overview: Any, side_input: Any = None
    ) -> Iterator[tuple[int, Any]]:
        key, totals = element
        centers, survey = self._loader.get(side_input).centers, overview.survey
        start, stop = lloyd.ranges(centers.k, centers.d)[key]
        moves = lloyd.relocations(survey) if self._relocate else []
        before = centers.rows[start:stop]
        yield key, lloyd.update_range(before, totals, survey, moves, start, self._metric)


class _JoinFn(beam.DoFn):
    """Joins the ranges' updates to the result."""

    def __init__(self, distance_metric: str) -> None:
        self._metric = distance_metric

    def process(
        self, overview: Any, updates: Iterable[tuple[int, lloyd.RangeUpdate]]
    ) -> Iterator[LloydResult]:
        if overview is None:
            raise DataError("the data has no rows")
        survey, statistics = overview.survey, overview.statistics
        aside = overview.directionless
        check_rows(statistics, 1, aside.rows)
        parts = [update for _, update in sorted(updates, key=lambda pair: pair[0])]
        costs = [part.cost for part in parts]
        squares = statistics.sum_of_squares()
        measured = lloyd.measure(survey, costs, squares, self._metric, aside)
        yield LloydResult(
            cluster_centers=np.concatenate([part.centers for part in parts]),
            inertia=float(measured.inertia),
            counts=measured.counts,
            cluster_weights=measured.cluster_weights,
            shift=float(sum((part.shift for part in parts), Fraction(0))),
        )


def _numbered(block: Block) -> Rows:
    """The block's arrays; rows without numbers are told apart by a hash of value and weight."""
    if block.row_numbers is not None:
        return block.numbered()
    words = block.rows.view(np.uint32)
    if block.weights is not None:
        words = np.concatenate([words, block.weights.view(np.uint32)[:, None]], axis=1)
    places = np.arange(words.shape[1], dtype=np.uint64)
    zero = np.zeros_like(places)
    low, high, _, _ = philox((places, zero, zero, zero), (0, 0))
    # A multilinear hash, whose highest bits are its best.
    hashes = words.astype(np.uint64) @ ((high << np.uint64(32)) | low | np.uint64(1))
    return Rows(block.rows, block.weights, (hashes >> np.uint64(1)).astype(np.int64))
