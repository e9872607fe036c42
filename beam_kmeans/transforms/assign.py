"""AssignClusters: the nearest center of each row."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import PCollection

from beam_kmeans import distances, kernels
from beam_kmeans.blocks import Block
from beam_kmeans.transforms.centers import CentersLike, CentersLoader, check_features, source_of
from beam_kmeans.transforms.counters import BlockCounter
from beam_kmeans.values import unit_rows


@dataclasses.dataclass(frozen=True, eq=False)
class Assignments:
    """The clusters of a block's rows, in the block's order.

    Attributes:
        row_numbers: int64 [n], or the first row's number where they are consecutive; None where
            the rows have none: the block's own.
        cluster_index: int32 [n], the nearest center, the lowest of equally near ones.
        scores: float64 [n], the squared distance to it, or 1 - cosine similarity.
        all_scores: float64 [n, k], the same for all centers, where asked for.
    """

    row_numbers: npt.NDArray[np.int64] | int | None
    cluster_index: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    all_scores: npt.NDArray[np.float64] | None = None


class AssignClusters(beam.PTransform[Any, Any]):
    """Finds the nearest center of each row, and its score: squared distance, or of cosine.

    Input: PCollection[Block].
    Output: PCollection[Assignments], one for each block.
    Guarantee: the index is the lowest that minimises the float64 squared distance, features summed
        in order; scores are such distances. Neither depends on what other rows are in the block.
        Under cosine both are of rows and centers made unit, and a score is half such a distance,
        which is 1 - cosine similarity; a row of zeros is of cluster 0, and all its scores are 1.

    Args:
        centers: float32 [k, d]; or the path of a `.npy` file or of a model's directory, which
            workers load once a process: right for large centers, as an array is part of the job;
            or a PCollection of one array. For cosine they are made unit; none may be zero.
        all_scores: whether to emit the scores for all centers too.
        distance_metric: "squared_euclidean" or "cosine"; a model's directory has to be of the same.

    Raises:
        ValueError: on construction, an argument that is not allowed.
        DataError: in the pipeline, a block of other than d features, or centers that cannot be
            read or are of another metric.

    Example:
        >>> block = Block(np.array([[1, 0], [9, 0]], np.float32), row_numbers=5)
        >>> (found,) = [block] | AssignClusters(centers=np.array([[0, 0], [10, 0]], np.float32))
        >>> found.row_numbers, found.cluster_index.tolist(), found.scores.tolist()
        (5, [0, 1], [1.0, 1.0])
    """

    def __init__(
        self,
        centers: CentersLike,
        all_scores: bool = False,
        distance_metric: Literal["squared_euclidean", "cosine"] = "squared_euclidean",
    ) -> None:
        super().__init__()
        if not isinstance(all_scores, bool):
            raise ValueError(f"all_scores: {all_scores!r} is not allowed; allowed: True or False")
        self._loader, self._side_inputs = source_of(centers, distance_metric)
        self._all_scores, self._metric = all_scores, distance_metric

    def expand(self, blocks: PCollection[Block]) -> PCollection[Assignments]:
        assign = _AssignFn(self._loader, self._all_scores)
        return blocks | "Assign" >> beam.ParDo(assign, *self._side_inputs)

    def display_data(self) -> dict[str, Any]:
        return {"all_scores": self._all_scores, "distance_metric": self._metric}


class _AssignFn(beam.DoFn):
    """Emits the clusters of a block's rows."""

    def __init__(self, loader: CentersLoader, all_scores: bool) -> None:
        self._loader, self._all_scores = loader, all_scores
        self._counter = BlockCounter()

    def process(self, block: Block, side_input: Any = None) -> Iterator[Assignments]:
        prepared, rows = self._loader.get(side_input), self._counter.counted(block).rows
        centers = prepared.centers
        check_features(block, centers.d)
        if centers.cosine:
            rows, _ = unit_rows(rows)
        index = kernels.assign(centers, rows, prepared.filter)
        scores = distances.scores(centers, rows, index)
        every = distances.all_scores(centers, rows) if self._all_scores else None
        yield Assignments(block.row_numbers, index, scores, every)
