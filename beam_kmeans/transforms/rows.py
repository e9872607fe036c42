"""StackRows and ReadBlocks: how rows come into a pipeline of your own."""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection

from beam_kmeans.blocks import Block
from beam_kmeans.io.manifest import StagedDataset
from beam_kmeans.io.shards import ShardInfo, read_shard
from beam_kmeans.transforms.counters import BlockCounter
from beam_kmeans.transforms.records import Layout


class StackRows(beam.PTransform[Any, Any]):
    """Stacks vectors, dicts or rows with a schema into blocks, which the other transforms take.

    Input: PCollection of vectors (sequences or arrays of d numbers), of dicts, or of rows with a
        schema (`beam.Row`, `NamedTuple`); bounded.
    Output: PCollection[Block], each of at most `block_rows` rows. Values are rounded to float32
        once; -0 and denormals become 0.
    Guarantee: each row is in one block; how rows are cut into blocks changes no result.

    Args:
        features: the fields that make a row, in this order; needed for dicts. None takes all
            fields of rows with a schema, but for `weight` and `row_id`, as they are declared. The
            name of one field that holds a whole vector is allowed too.
        weight: the field with the row's weight: w counts as w copies.
        row_id: the field with the row's number, or a function of the element that gives it, the
            same each time: an integer from 0 to 2**63 - 1, another for each row. A PCollection has
            no order, so random draws (`InitializeCenters`) go by these numbers. None makes blocks
            without numbers.
        block_rows: rows of a block at most.

    Raises:
        ValueError: on construction, an argument that is not allowed.
        DataError: in the pipeline, an element that cannot be such a row; names its number (or
            shows it, where rows have none) and what was found.

    Example:
        >>> people = [{"id": 7, "age": 30, "visits": 2}, {"id": 8, "age": 41, "visits": 0}]
        >>> (block,) = people | StackRows(features=["age", "visits"], row_id="id")
        >>> block.rows.tolist(), block.row_numbers.tolist()
        ([[30.0, 2.0], [41.0, 0.0]], [7, 8])
    """

    def __init__(
        self,
        features: Sequence[str] | None = None,
        weight: str | None = None,
        row_id: str | Callable[[Any], int] | None = None,
        block_rows: int = 1024,
    ) -> None:
        super().__init__()
        names = _checked_features(features)
        if weight is not None and not isinstance(weight, str):
            raise ValueError(f"weight: {weight!r} is not allowed; allowed: the name of a field")
        if row_id is not None and not isinstance(row_id, str) and not callable(row_id):
            raise ValueError(
                f"row_id: {row_id!r} is not allowed; allowed: the name of a field or a function of "
                "the element"
            )
        for argument, name in (("weight", weight), ("row_id", row_id)):
            if names is not None and name in names:
                raise ValueError(f"{argument}: {name!r} is one of the features too")
        self._layout = Layout(names, weight, row_id)
        self._block_rows = _checked_block_rows(block_rows)

    def expand(self, elements: PCollection[Any]) -> PCollection[Block]:
        size = self._block_rows
        return (
            elements
            | "Batch" >> beam.BatchElements(min_batch_size=size, max_batch_size=size)
            | "Stack" >> beam.ParDo(_StackFn(self._layout))
        )

    def display_data(self) -> dict[str, Any]:
        layout = self._layout
        found = {
            "features": layout.features and ", ".join(layout.features),
            "weight": layout.weight,
            "row_id": getattr(layout.row_id, "__name__", layout.row_id),
            "block_rows": self._block_rows,
        }
        return {name: value for name, value in found.items() if value is not None}


class ReadBlocks(beam.PTransform[Any, Any]):
    """Reads the blocks of a staged dataset, its shards in parallel, each block verified.

    Input: the pipeline.
    Output: PCollection[Block], with row numbers.
    Guarantee: all of the dataset's rows, or an error; a damaged shard never passes for a whole one.

    Args:
        dataset: a `StagedDataset`, or its path on any Beam file system. Only the path is part of
            the job; workers open the dataset.

    Raises:
        ValueError: on construction, if `dataset` is neither.
        DataError: in the pipeline, no dataset, or a damaged or foreign shard; names it.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from beam_kmeans import stage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/rows.npy", np.arange(6.0).reshape(3, 2))
        ...     dataset = stage(f"{folder}/rows.npy", f"{folder}/staged")
        ...     with beam.Pipeline(runner="FnApiRunner") as pipeline:
        ...         rows = pipeline | ReadBlocks(dataset) | beam.Map(lambda block: len(block.rows))
        ...         _ = rows | beam.Map(print)
        3
    """

    def __init__(self, dataset: str | StagedDataset) -> None:
        super().__init__()
        path = dataset.path if isinstance(dataset, StagedDataset) else dataset
        if not isinstance(path, str) or not path:
            raise ValueError(
                f"dataset: {dataset!r} is not allowed; allowed: a StagedDataset or its path"
            )
        self._path = path

    def expand(self, pipeline: PBegin) -> PCollection[Block]:
        return (
            pipeline
            | "Dataset" >> beam.Create([self._path])
            | "ListShards" >> beam.ParDo(_ListShardsFn())
            | "SpreadShards" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_ReadShardFn())
        )

    def display_data(self) -> dict[str, Any]:
        return {"dataset": self._path}


class _StackFn(beam.DoFn):
    """Emits the block of a batch of elements."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._counter = layout, BlockCounter()

    def process(self, elements: list[Any]) -> Iterator[Block]:
        yield self._counter.counted(self._layout.stack(elements))


class _ListShardsFn(beam.DoFn):
    """Emits what reading each shard of a dataset needs."""

    def process(self, path: str) -> Iterator[tuple[str, ShardInfo, int, bool]]:
        dataset = StagedDataset.open(path)
        for shard in dataset.shards:
            yield path, shard, dataset.num_features, dataset.weighted


class _ReadShardFn(beam.DoFn):
    """Emits the blocks of a shard."""

    def __init__(self) -> None:
        self._counter = BlockCounter()

    def process(self, shard: tuple[str, ShardInfo, int, bool]) -> Iterator[Block]:
        for rows, weights, row_numbers in read_shard(*shard):
            yield self._counter.counted(Block(rows, weights, row_numbers))


def _checked_features(features: Any) -> tuple[str, ...] | None:
    if features is None:
        return None
    names = () if isinstance(features, str) else tuple(features)
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"features: {features!r} is not allowed; allowed: a list of the names of fields"
        )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"features: {name!r} is named twice")
    return names


def _checked_block_rows(block_rows: Any) -> int:
    try:
        rows = operator.index(block_rows)
    except TypeError:
        rows = 0
    if rows < 1:
        raise ValueError(
            f"block_rows: {block_rows!r} is not allowed; allowed: an integer of at least 1"
        )
    return rows
