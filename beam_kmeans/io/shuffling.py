"""Shuffling: a copy of a staged dataset in the order that mini-batches are cut from.

Through bucket files, so that it is right for data beyond memory: a first pass sorts each shard and
writes it as a run, cut into buckets by the rows' keys; a second reads each bucket out of all runs,
sorts it, and writes it as a shard. What is written depends on the rows, their numbers and the seed.
"""

import dataclasses
import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsIter, PCollection

from beam_kmeans.batches import PAGE_ROWS, shuffle_keys, shuffled
from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.manifest import MANIFEST, StagedDataset, read_json, write_json
from beam_kmeans.io.shards import (
    LEAST_SHARDS,
    ShardInfo,
    ShardReader,
    ShardWriter,
    default_block_rows,
)
from beam_kmeans.tally import Rows

#: Bytes of rows in a bucket, about: a few times as much is in memory while it is sorted.
BUCKET_BYTES = 64 << 20
#: Shards that stay open for reading.
_OPEN_SHARDS = 32
_FORMAT_VERSION = 1


def fingerprint_of(source: StagedDataset, random_seed: int) -> str:
    """What a shuffled dataset is made of, in 16 digits; part of its files' names."""
    checksums = [shard.checksum for shard in source.shards]
    parts = (checksums, source.fingerprint, random_seed, buckets_of(source))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def existing_shuffle(output: str, source: StagedDataset, random_seed: int) -> StagedDataset | None:
    """The shuffled copy of a dataset, where it is there.

    Raises:
        DataError: it is damaged, or of another dataset or seed.
    """
    if not files.exists(files.join(output, MANIFEST)):
        return None
    found = StagedDataset.open(output)
    if found.fingerprint != fingerprint_of(source, random_seed):
        raise DataError(
            f"{output} is the shuffled copy of another dataset or for another seed: give another "
            "directory"
        )
    return found


def buckets_of(dataset: StagedDataset) -> int:
    """How many buckets a dataset is shuffled through, by its size alone."""
    row_bytes = 4 * dataset.num_features + 8 + (4 if dataset.weighted else 0)
    pages = -(-dataset.rows // PAGE_ROWS)
    return max(-(-dataset.rows * row_bytes // BUCKET_BYTES), min(LEAST_SHARDS, pages))


def block_rows_of(num_features: int) -> int:
    """Rows of a block of a shuffled dataset: a page, or a part of it where features are many."""
    return min(PAGE_ROWS, default_block_rows(num_features))


class ShuffleRows(beam.PTransform[Any, Any]):
    """The path of a staged dataset in, that of its shuffled copy out: two passes over its rows.

    A copy that is there is used as it is, and files of a shuffle that was killed are too.

    Args:
        output: directory of the shuffled dataset.
        random_seed: 0 to 2**63 - 1.
    """

    def __init__(self, output: str, random_seed: int) -> None:
        super().__init__()
        self._output, self._random_seed = output, random_seed

    def expand(self, dataset: PCollection[Any]) -> PCollection[Any]:
        shuffle = _Shuffle(self._output, self._random_seed)
        runs = (
            dataset
            | "ListShards" >> beam.FlatMap(shuffle.shards)
            | "SpreadShards" >> beam.Reshuffle()
            | "WriteRuns" >> beam.ParDo(_WriteRun(shuffle))
        )
        shards = (
            dataset
            | "ListBuckets" >> beam.FlatMap(shuffle.buckets)
            | "SpreadBuckets" >> beam.Reshuffle()
            | "WriteShards" >> beam.ParDo(_WriteShard(shuffle), AsIter(runs))
        )
        return dataset | "WriteManifest" >> beam.ParDo(_WriteManifest(shuffle), AsIter(shards))


class _Shuffle:
    """A shuffle into a directory; the dataset's manifest is read once by each DoFn."""

    def __init__(self, output: str, random_seed: int) -> None:
        self.output, self.random_seed = output, random_seed
        self._last: tuple[StagedDataset, str] | None = None

    def source(self, path: str) -> tuple[StagedDataset, str]:
        """The staged dataset, and the fingerprint of its shuffled copy."""
        if self._last is None or self._last[0].path != path:
            dataset = StagedDataset.open(path)
            self._last = dataset, fingerprint_of(dataset, self.random_seed)
        return self._last

    def finished(self, path: str) -> bool:
        """Whether the copy is there."""
        return existing_shuffle(self.output, self.source(path)[0], self.random_seed) is not None

    def shards(self, path: str) -> list[tuple[str, int]]:
        """The shards that are still to be written as runs."""
        count = len(self.source(path)[0].shards)
        return [] if self.finished(path) else [(path, place) for place in range(count)]

    def buckets(self, path: str) -> list[tuple[str, int]]:
        """The buckets that are still to be written as shards."""
        count = buckets_of(self.source(path)[0])
        return [] if self.finished(path) else [(path, place) for place in range(count)]


class _WriteRun(beam.DoFn):
    """Writes a shard as a run: its rows in shuffled order, one block a bucket."""

    def __init__(self, shuffle: _Shuffle) -> None:
        self._shuffle = shuffle

    def process(self, element: tuple[str, int]) -> Iterator[ShardInfo]:
        path, place = element
        source, fingerprint = self._shuffle.source(path)
        seed, count = self._shuffle.random_seed, buckets_of(source)

        def write(writer: ShardWriter) -> None:
            whole = Rows.joined(list(source.read(source.shards[place])))
            order = shuffled(seed, whole.row_numbers)
            bucket = (shuffle_keys(seed, whole.row_numbers[order]) * count).astype(np.int64)
            ends = np.searchsorted(bucket, np.arange(count + 1))
            for start, stop in itertools.pairwise(ends.tolist()):
                writer.write(whole.pick(order[start:stop]))

        name = f"runs/run-{place:06d}-{fingerprint}.arrow"
        yield _written(self._shuffle.output, source, name, write)


class _WriteShard(beam.DoFn):
    """Reads a bucket out of all runs, and writes it as a shard, in shuffled order."""

    def __init__(self, shuffle: _Shuffle) -> None:
        self._shuffle = shuffle

    def process(self, element: tuple[str, int], runs: Iterable[ShardInfo]) -> Iterator[ShardInfo]:
        path, place = element
        source, fingerprint = self._shuffle.source(path)
        output, step = self._shuffle.output, block_rows_of(source.num_features)

        def write(writer: ShardWriter) -> None:
            parts = []
            for run in runs:
                reader = ShardReader(output, run, source.num_features, source.weighted)
                parts.append(reader.block(place))
            whole = Rows.joined(parts)
            order = shuffled(self._shuffle.random_seed, whole.row_numbers)
            for start in range(0, len(order), step):
                writer.write(whole.pick(order[start : start + step]))

        name = f"shuffled-{place:06d}-{fingerprint}.arrow"
        try:
            info = _written(output, source, name, write)
        except DataError:
            # Another driver may have ended the same shuffle, and removed its runs.
            if not self._shuffle.finished(path):
                raise
            return
        yield info


class _WriteManifest(beam.DoFn):
    """Writes the manifest, last, and removes the runs."""

    def __init__(self, shuffle: _Shuffle) -> None:
        self._shuffle = shuffle

    def process(self, path: str, shards: Iterable[ShardInfo]) -> Iterator[str]:
        source, fingerprint = self._shuffle.source(path)
        output = self._shuffle.output
        if not self._shuffle.finished(path):
            written = tuple(sorted(shards, key=lambda shard: shard.path))
            found = sum(shard.rows for shard in written)
            if found != source.rows:
                raise DataError(f"{found} of {source.rows} rows were shuffled")
            made_of = {
                "fingerprint": fingerprint,
                "shuffled_from": source.fingerprint,
                "random_seed": self._shuffle.random_seed,
            }
            dataclasses.replace(source, path=output, shards=written, source=made_of).save()
        files.remove_directory(files.join(output, "runs"))
        yield output


def _written(
    output: str, source: StagedDataset, name: str, write: Callable[[ShardWriter], None]
) -> ShardInfo:
    """Writes a file, unless one of this name is there: the name says what it holds."""
    path = files.join(output, name)
    marker = f"{path}.json"
    if files.exists(marker):
        fields = read_json(marker, "a note of a shuffled file", _FORMAT_VERSION)
        info = ShardInfo(**fields["shard"])
        if files.size_of(path) == info.size:
            return info
    writer = ShardWriter(path, source.num_features, source.weighted, numbered=True)
    try:
        write(writer)
    except BaseException as error:
        writer.abandon(type(error), error, error.__traceback__)
        raise
    info = writer.close(name, 0)
    write_json(marker, {"shard": dataclasses.asdict(info)}, _FORMAT_VERSION)
    return info


class ShuffledShards:
    """The rows of a shuffled dataset by their positions; reads the blocks that hold them alone.

    Args:
        path: of the dataset that `ShuffleRows` has written.
        shards: of it, the positions counted from the first of them.
        num_features: d.
        weighted: whether rows have weights.
        part_rows: rows that are yielded together at most.
    """

    def __init__(
        self,
        path: str,
        shards: Sequence[ShardInfo],
        num_features: int,
        weighted: bool,
        part_rows: int = 8192,
    ) -> None:
        self._path, self._shards, self._part_rows = path, shards, part_rows
        self._num_features, self._weighted = num_features, weighted
        self._ends = np.cumsum([shard.rows for shard in shards])
        self._block_rows = block_rows_of(num_features)
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], Rows] = OrderedDict()
        # A turned page's first block comes again at its end, and shards may end within a page.
        self._most_blocks = 4 + PAGE_ROWS // self._block_rows

    @classmethod
    def of(cls, dataset: StagedDataset) -> "ShuffledShards":
        """All rows of a shuffled dataset."""
        return cls(dataset.path, dataset.shards, dataset.num_features, dataset.weighted)

    def parts(self, positions: list[tuple[int, int]]) -> Iterator[Rows]:
        """Yields the rows at ranges [start, stop) of positions, in order."""
        waiting: list[Rows] = []
        for start, stop in positions:
            for piece in self._pieces(start, stop):
                waiting.append(piece)
                if sum(len(part.rows) for part in waiting) >= self._part_rows:
                    yield Rows.joined(waiting)
                    waiting.clear()
        if waiting:
            yield Rows.joined(waiting)

    def _pieces(self, start: int, stop: int) -> Iterator[Rows]:
        while start < stop:
            shard = int(np.searchsorted(self._ends, start, "right"))
            first = int(self._ends[shard]) - self._shards[shard].rows
            place, low = divmod(start - first, self._block_rows)
            block = self._block(shard, place)
            piece = block.pick(slice(low, low + stop - start))
            if not len(piece.rows):
                raise DataError(f"{self._path} has no row at position {start}")
            yield piece
            start += len(piece.rows)

    def _block(self, shard: int, place: int) -> Rows:
        key = (shard, place)
        if key not in self._blocks:
            self._blocks[key] = self._reader(shard).block(place)
        self._blocks.move_to_end(key)
        while len(self._blocks) > self._most_blocks:
            self._blocks.popitem(last=False)
        return self._blocks[key]

    def _reader(self, shard: int) -> ShardReader:
        if shard not in self._readers:
            self._readers[shard] = ShardReader(
                self._path, self._shards[shard], self._num_features, self._weighted
            )
        self._readers.move_to_end(shard)
        while len(self._readers) > _OPEN_SHARDS:
            self._readers.popitem(last=False)
        return self._readers[shard]
