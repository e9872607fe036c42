"""InitializeCenters: the centers that a model starts from."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsIter, AsSingleton, PCollection

from beam_kmeans.blocks import Block
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.sampling import DistinctSample
from beam_kmeans.seeding.rows import draw, drawn_rows, gather
from beam_kmeans.transforms.counters import BlockCounter


class InitializeCenters(beam.PTransform[Any, Any]):
    """Draws distinct rows as initial centers, each with a probability by its weight.

    The k distinct row values with the smallest keys -ln(u) / weight, where u is a random function
    of (seed, row number); then the k rows are looked up in a second pass.

    Input: PCollection[Block], bounded, with row numbers (`StackRows(row_id=...)`, `ReadBlocks`).
    Output: PCollection of exactly one array, float32 [k, d].
    Guarantee: the same bytes for the same numbered rows, however they are cut into blocks and
        bundles; the rows that a fit with these arguments starts from.

    Args:
        num_clusters: k, at least 1.
        initial_clusters: "random"; or the centers themselves, [k, d], which are rounded to float32
            once and emitted as they are, whatever the blocks hold.
        random_seed: 0 to 2**63 - 1.

    Raises:
        ValueError: on construction, an argument that is not allowed.
        DataError: in the pipeline: rows without numbers, fewer than k distinct rows of positive
            weight (names how many there are), or two drawn rows of the same number.

    Example:
        >>> rows = np.array([[0, 0], [0, 0], [5, 5]], np.float32)
        >>> (centers,) = [Block(rows, row_numbers=0)] | InitializeCenters(num_clusters=2)
        >>> sorted(centers.tolist())
        [[0.0, 0.0], [5.0, 5.0]]

    References:
        P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", Information
        Processing Letters 97(5), 2006: the draw.
    """

    def __init__(
        self,
        num_clusters: int,
        initial_clusters: Literal["random"] | npt.ArrayLike = "random",
        random_seed: int = 0,
    ) -> None:
        super().__init__()
        given: Any = initial_clusters
        self._parameters = Parameters(num_clusters, given, random_seed=random_seed)

    def expand(self, blocks: PCollection[Block]) -> PCollection[np.ndarray]:
        parameters = self._parameters
        if parameters.given_centers is not None:
            return blocks.pipeline | "Given" >> beam.Create([parameters.given_centers])
        drawn = (
            blocks
            | "Draw" >> beam.ParDo(_DrawFn(parameters.num_clusters, parameters.random_seed))
            | "Merge" >> beam.CombineGlobally(MergeSummaries())
            | "Choose" >> beam.Map(_chosen)
        )
        found = blocks | "Gather" >> beam.ParDo(_GatherFn(), AsSingleton(drawn))
        return drawn | "Arrange" >> beam.ParDo(_ArrangeFn(), AsIter(found))

    def display_data(self) -> dict[str, Any]:
        drawn = self._parameters.given_centers is None
        return {
            "num_clusters": self._parameters.num_clusters,
            "initial_clusters": "random" if drawn else "given",
            "random_seed": self._parameters.random_seed,
        }


class _DrawFn(beam.DoFn):
    """Emits the rows of a block that may be drawn, by number."""

    def __init__(self, num_clusters: int, random_seed: int) -> None:
        self._num_clusters, self._random_seed = num_clusters, random_seed
        self._counter = BlockCounter()

    def process(self, block: Block) -> Iterator[Any]:
        self._counter.counted(block)
        if not len(block.rows):
            return
        if block.row_numbers is None:
            raise DataError(
                f"a block of {len(block.rows)} rows has no row numbers, and InitializeCenters "
                "draws by number: give them with StackRows(row_id=...), a field or a function of "
                "the element; or give the centers themselves as initial_clusters"
            )
        yield draw([block.numbered()], self._num_clusters, self._random_seed)


def _chosen(sample: DistinctSample | None) -> Any:
    """int64 [k]: the numbers of the drawn rows, in order."""
    if sample is None:
        raise DataError("the data has no rows")
    return drawn_rows(sample)


class _GatherFn(beam.DoFn):
    """Emits the drawn rows that a block holds, each with its place among the centers."""

    def process(self, block: Block, drawn: npt.NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
        if len(block.rows):
            places, rows = gather([block.numbered()], drawn)
            yield from zip(places.tolist(), rows, strict=True)


class _ArrangeFn(beam.DoFn):
    """Emits the drawn rows in order, as centers."""

    def process(
        self, drawn: npt.NDArray[np.int64], found: Iterable[tuple[int, Any]]
    ) -> Iterator[Any]:
        rows: dict[int, npt.NDArray[np.float32]] = {}
        for place, row in found:
            if place in rows:
                raise DataError(f"two rows have the number {drawn[place]}: numbers must be unique")
            rows[place] = row
        missing = [int(number) for place, number in enumerate(drawn) if place not in rows]
        if missing:
            raise DataError(
                f"row {missing[0]} was drawn but not found again ({len(missing)} of {len(drawn)}): "
                "its row_id must give the same number whenever it is asked, and no other row's"
            )
        widths = sorted({len(row) for row in rows.values()})
        if len(widths) > 1:
            raise DataError(f"rows of {widths[0]} and of {widths[-1]} features do not mix")
        yield np.stack([rows[place] for place in range(len(drawn))])
