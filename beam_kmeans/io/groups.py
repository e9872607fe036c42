"""One group of splits: its rows are parsed, cut into blocks, and written as shards."""

import dataclasses
import json
from typing import Any

from beam_kmeans.io import files, shards
from beam_kmeans.io.features import read_rows
from beam_kmeans.io.manifest import Standardization
from beam_kmeans.io.plan import StagePlan
from beam_kmeans.io.shards import ShardInfo, ShardWriter
from beam_kmeans.io.splitting import SplitGroup, check_unchanged, reject, standardized
from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import Rows


@dataclasses.dataclass(frozen=True)
class GroupResult:
    """What parsing a group gave; row numbers in its shards count from the group's first row."""

    number: int
    rows: int  # read, rejected ones included
    rejected: int
    denormals: int
    shards: tuple[ShardInfo, ...]


class _ShardSet:
    """Cuts the rows of a group into blocks and shards."""

    def __init__(self, plan: StagePlan, group: SplitGroup) -> None:
        self._plan, self._group = plan, group
        self._d = len(plan.columns.names)
        self._writer: ShardWriter | None = None
        self._first = self._next = 0
        self._waiting: list[Rows] = []
        self.infos: list[ShardInfo] = []
        self.statistics = Statistics.zero(self._d)

    def add(self, rows: Rows) -> None:
        """Takes in rows in their order, numbered from the group's first row."""
        self._waiting.append(rows)
        size = self._plan.block_rows
        if sum(len(part.rows) for part in self._waiting) < size:
            return
        joined = Rows.joined(self._waiting)
        whole = len(joined.rows) // size * size
        for start in range(0, whole, size):
            self._write(joined.pick(slice(start, start + size)))
        self._waiting = [joined.pick(slice(whole, None))]

    def close(self) -> None:
        """Writes what is left."""
        if self._waiting:
            rest = Rows.joined(self._waiting)
            if len(rest.rows):
                self._write(rest)
        self._close_shard()

    def abandon(self, error: BaseException) -> None:
        """Leaves no half-written shard behind."""
        if self._writer is not None:
            self._writer.abandon(type(error), error, error.__traceback__)

    def _write(self, block: Rows) -> None:
        numbers = block.row_numbers
        consecutive = int(numbers[-1]) - int(numbers[0]) + 1 == len(numbers)
        writer = self._writer
        if writer is not None:
            follows = writer.numbered or (consecutive and int(numbers[0]) == self._next)
            if writer.blocks >= self._most_blocks() or not follows:
                self._close_shard()
        if self._writer is None:
            self._first = int(numbers[0]) if consecutive else 0
            path = files.join(self._plan.output, self._relative(len(self.infos)))
            self._writer = ShardWriter(path, self._d, block.weights is not None, not consecutive)
        self._writer.write(block)
        self._next = int(numbers[-1]) + 1
        self.statistics.add(Statistics.of(block.rows, block.weights))

    def _most_blocks(self) -> int:
        """Few groups start with small shards that double, so that there are enough of them."""
        most = max(1, shards.SHARD_BYTES // (4 * self._d * self._plan.block_rows))
        if self._group.groups >= shards.LEAST_SHARDS:
            return most
        return int(min(most, 1 << (len(self.infos) // shards.LEAST_SHARDS)))

    def _relative(self, place: int) -> str:
        # Two drivers may stage with other blocks side by side: neither overwrites what the other's
        # record of a group names.
        block = f"{self._plan.block_rows}-rows"
        return f"{self._plan.workshop}/shard-{self._group.number:06d}-{place:05d}-{block}.arrow"

    def _close_shard(self) -> None:
        if self._writer is not None:
            first = 0 if self._writer.numbered else self._first
            self.infos.append(self._writer.close(self._relative(len(self.infos)), first))
            self._writer = None


def stage_group(
    plan: StagePlan, group: SplitGroup, standardization: Standardization | None
) -> tuple[GroupResult, Statistics]:
    """Parses the splits of a group into shards.

    Raises:
        DataError: a bad row where `on_bad_rows` is "error"; names the file and the row.
    """
    output, offset, denormals = _ShardSet(plan, group), 0, 0
    rejected: list[dict[str, Any]] = []
    try:
        for split in group.splits:
            check_unchanged(plan.files[split.file], split)
            rows_read = 0
            for rows in read_rows(split, plan.columns, wide=standardization is not None):
                if standardization is not None:
                    rows = standardized(rows, plan.columns.names, standardization)
                denormals += rows.flushed
                rejected += reject(split, rows.rejected, plan.on_bad_rows)
                output.add(Rows(rows.values, rows.weights, rows.positions + offset))
                rows_read += len(rows.positions) + len(rows.rejected)
            offset += rows_read
        output.close()
    except BaseException as error:
        output.abandon(error)
        raise
    if rejected:
        lines = "".join(json.dumps(row) + "\n" for row in rejected)
        files.write_bytes(rejected_path(plan, group.number), lines.encode())
    result = GroupResult(group.number, offset, len(rejected), denormals, tuple(output.infos))
    return result, output.statistics


def rejected_path(plan: StagePlan, group: int) -> str:
    """Where the rows of a group that were dropped are listed."""
    return files.join(plan.rejected, f"{plan.source['fingerprint']}-{group:06d}.jsonl")
