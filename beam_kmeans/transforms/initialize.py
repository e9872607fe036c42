"""InitializeCenters: the centers that a model starts from."""

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.pvalue import AsIter, AsSingleton, PCollection

from beam_kmeans.blocks import Block
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import CentersFunction, Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.seeding.rows import check_rows, gather
from beam_kmeans.seeding.run import append_rows, chosen, initialiser_of
from beam_kmeans.seeding.state import Facts, Forgetful, Initialiser, Seeding
from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import in_metric
from beam_kmeans.transforms.counters import BlockCounter

_log = logging.getLogger(__name__)


class InitializeCenters(beam.PTransform[Any, Any]):
    """Finds the centers that a fit over these rows with these arguments starts from.

    First one pass counts the rows, then come those of the initialiser: "random" and "kmc2" take
    one, "afkmc2" two, "kmeans_plus_plus" 2 + `seeding_rounds` where the cost stops falling, and
    twice the rounds at most, a function one. Rows that were drawn are looked up by their numbers,
    each time with one more pass. The graph holds as many as there can be, 1 + 2 x passes (25 with
    5 rounds), and every one goes over the blocks, if only to see that nothing is left to do.
    Candidates travel as one side input, 4 d bytes each (10 k of them or more), and each round
    measures the rows against all: many rows and many clusters are for a fit with a work directory.

    Input: PCollection[Block], bounded, with row numbers (`StackRows(row_id=...)`, `ReadBlocks`).
    Output: PCollection of exactly one array, float32 [k, d].
    Guarantee: the same bytes for the same numbered rows, however they are cut into blocks and
        bundles; the centers that a fit with these arguments starts from.

    Args:
        num_clusters: k, at least 1.
        initial_clusters: "kmeans_plus_plus" (k-means||), "random", "kmc2" or "afkmc2"; a function
            f(rows, k), which becomes part of the job; or the centers themselves, [k, d], which are
            rounded to float32 once and emitted, whatever the blocks hold.
        distance_metric: "squared_euclidean", or "cosine": then the centers are unit.
        random_seed: 0 to 2**63 - 1.
        kmeans_plus_plus_num_retries: as `KMeans`, and so are the next four.
        kmc2_chain_length: as `KMeans`.
        seeding_oversampling: as `KMeans`.
        seeding_rounds: as `KMeans`.
        kmc2_groups: as `KMeans`.

    Raises:
        ValueError: on construction, an argument that is not allowed.
        DataError: in the pipeline: rows without numbers, fewer than k distinct rows of positive
            weight (names how many there are), two drawn rows of the same number, or what a
            function gave cannot be centers.

    Example:
        >>> rows = np.array([[0, 0], [0, 0], [5, 5]], np.float32)
        >>> (centers,) = [Block(rows, row_numbers=0)] | InitializeCenters(2, "random")
        >>> sorted(centers.tolist())
        [[0.0, 0.0], [5.0, 5.0]]

    References:
        P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", Information
        Processing Letters 97(5), 2006: the draw. B. Bahmani, B. Moseley, A. Vattani, R. Kumar,
        S. Vassilvitskii, "Scalable k-means++", PVLDB 5(7), 2012. O. Bachem, M. Lucic, S. Hassani,
        A. Krause, "Approximate k-means++ in sublinear time", AAAI 2016, and "Fast and provably
        good seedings for k-means", NIPS 2016.
    """

    def __init__(
        self,
        num_clusters: int,
        initial_clusters: str | npt.ArrayLike | CentersFunction = "kmeans_plus_plus",
        distance_metric: Literal["squared_euclidean", "cosine"] = "squared_euclidean",
        random_seed: int = 0,
        kmeans_plus_plus_num_retries: int = 2,
        kmc2_chain_length: int = 200,
        seeding_oversampling: float = 2.0,
        seeding_rounds: int = 5,
        kmc2_groups: int | None = None,
    ) -> None:
        super().__init__()
        given: Any = initial_clusters
        self._parameters = Parameters(
            num_clusters,
            given,
            distance_metric=distance_metric,
            random_seed=random_seed,
            kmeans_plus_plus_num_retries=kmeans_plus_plus_num_retries,
            kmc2_chain_length=kmc2_chain_length,
            seeding_oversampling=seeding_oversampling,
            seeding_rounds=seeding_rounds,
            kmc2_groups=kmc2_groups,
        )

    def expand(self, blocks: PCollection[Block]) -> PCollection[np.ndarray]:
        parameters = self._parameters
        if parameters.given_centers is not None:
            return blocks.pipeline | "Given" >> beam.Create([parameters.given_centers])
        initialiser, metric = initialiser_of(parameters), parameters.distance_metric
        state = (
            blocks
            | "Count" >> beam.ParDo(_CountFn(metric))
            | "Merge" >> beam.CombineGlobally(MergeSummaries())
            | "Start" >> beam.ParDo(_StartFn(initialiser, parameters.num_clusters))
        )
        for number in range(initialiser.max_passes):
            state = state | f"Pass{number}" >> _Pass(blocks, initialiser, metric)
        return state | "Centers" >> beam.ParDo(_CentersFn(parameters))

    def display_data(self) -> dict[str, Any]:
        return {
            name: getattr(self._parameters, name)
            for name in ("num_clusters", "distance_metric", "random_seed")
        } | {"initial_clusters": self._parameters.initialiser}


@dataclasses.dataclass
class Count:
    """What is known of rows before the first pass; a monoid."""

    by_width: dict[int, Statistics]
    directionless: int

    def add(self, other: "Count") -> "Count":
        """Merges another's into this one, in place, and returns this one."""
        for width, statistics in other.by_width.items():
            own = self.by_width.setdefault(width, Statistics.zero(width))
            own.add(statistics)
        self.directionless += other.directionless
        return self


class _CountFn(beam.DoFn):
    """Emits what is to be known of a block's rows."""

    def __init__(self, distance_metric: str) -> None:
        self._metric = distance_metric
        self._counter = BlockCounter()

    def process(self, block: Block) -> Iterator[Count]:
        self._counter.counted(block)
        if not len(block.rows):
            return
        if block.row_numbers is None:
            raise DataError(
                f"a block of {len(block.rows)} rows has no row numbers, and InitializeCenters "
                "draws by number: give them with StackRows(row_id=...), a field or a function of "
                "the element; or give the centers themselves as initial_clusters"
            )
        part = in_metric(block.numbered(), self._metric)
        found = Statistics.of(part.rows, part.weights)
        yield Count({block.rows.shape[1]: found}, len(block.rows) - len(part.rows))


class _StartFn(beam.DoFn):
    """Emits the state before the first pass."""

    def __init__(self, initialiser: Initialiser, num_clusters: int) -> None:
        self._initialiser, self._num_clusters = initialiser, num_clusters

    def process(self, count: Any) -> Iterator[Seeding]:
        if count is None:
            raise DataError("the data has no rows")
        widths = sorted(count.by_width)
        if len(widths) > 1:
            raise DataError(f"rows of {widths[0]} and of {widths[-1]} features do not mix")
        (statistics,) = count.by_width.values()
        check_rows(statistics, self._num_clusters, count.directionless)
        yield self._initialiser.start(Facts.of(statistics))


class _Pass(beam.PTransform[Any, Any]):
    """One pass, what follows from it, and the look at the rows that it drew."""

    def __init__(
        self, blocks: PCollection[Block], initialiser: Initialiser, distance_metric: str
    ) -> None:
        super().__init__()
        self._blocks, self._initialiser, self._metric = blocks, initialiser, distance_metric

    def expand(self, state: PCollection[Seeding]) -> PCollection[Seeding]:
        initialiser = self._initialiser
        summaries = (
            self._blocks
            | "Measure" >> beam.ParDo(_MeasureFn(initialiser, self._metric), AsSingleton(state))
            | "Merge" >> beam.CombinePerKey(MergeSummaries())
        )
        state = state | "Advance" >> beam.ParDo(_AdvanceFn(initialiser), AsIter(summaries))
        found = self._blocks | "LookUp" >> beam.ParDo(_LookUpFn(self._metric), AsSingleton(state))
        return state | "Append" >> beam.ParDo(_AppendFn(initialiser), AsIter(found))


class _MeasureFn(beam.DoFn):
    """Emits what an initialiser asks of a block's rows."""

    def __init__(self, initialiser: Initialiser, distance_metric: str) -> None:
        self._initialiser, self._metric = initialiser, distance_metric

    def process(self, block: Block, state: Seeding) -> Iterator[tuple[int, Any]]:
        if state.finished:
            return
        part = in_metric(block.numbered(), self._metric)
        if len(part.rows):
            yield from self._initialiser.measure(state, [part], Forgetful())


class _AdvanceFn(beam.DoFn):
    """Emits the state after a pass."""

    def __init__(self, initialiser: Initialiser) -> None:
        self._initialiser = initialiser

    def process(self, state: Seeding, summaries: Iterable[tuple[int, Any]]) -> Iterator[Seeding]:
        if not state.finished:
            state = _without_ballast(self._initialiser.advance(state, dict(summaries)))
        yield state


class _LookUpFn(beam.DoFn):
    """Emits the drawn rows that a block holds, each with its place among them."""

    def __init__(self, distance_metric: str) -> None:
        self._metric = distance_metric

    def process(self, block: Block, state: Seeding) -> Iterator[tuple[int, Any]]:
        if state.wanted is not None and len(state.wanted):
            part = in_metric(block.numbered(), self._metric)
            places, rows = gather([part], state.wanted)
            yield from zip(places.tolist(), rows, strict=True)


class _AppendFn(beam.DoFn):
    """Emits the state after a look at the drawn rows."""

    def __init__(self, initialiser: Initialiser) -> None:
        self._initialiser = initialiser

    def process(self, state: Seeding, found: Iterable[tuple[int, Any]]) -> Iterator[Seeding]:
        if state.wanted is not None:
            rows = _arranged(state.wanted, found, state.facts.num_features)
            state = _without_ballast(self._initialiser.looked_up(append_rows(state, rows)))
        yield state


class _CentersFn(beam.DoFn):
    """Emits the centers, and logs what there is to say of them."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def process(self, state: Seeding) -> Iterator[Any]:
        for text in state.warnings:
            _log.warning("%s", text)
        try:
            state = chosen(state, self._parameters)
        except ValueError as error:
            raise DataError(str(error)) from error
        yield state.centers


def _without_ballast(state: Seeding) -> Seeding:
    """A state with centers without what they were made from: it goes on through all passes."""
    if state.centers is None:
        return state
    return dataclasses.replace(state, rows=None, arrays={})


def _arranged(
    drawn: npt.NDArray[np.int64], found: Iterable[tuple[int, Any]], num_features: int
) -> npt.NDArray[np.float32]:
    """The drawn rows in order."""
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
    in_order = [rows[place] for place in range(len(drawn))]
    return np.stack(in_order) if in_order else np.zeros((0, num_features), np.float32)
