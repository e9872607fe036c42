"""Splits: found by a pipeline, joined to groups that one worker reads, and their bad rows."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, PCollection

from beam_kmeans.errors import DataError
from beam_kmeans.io import files, shards
from beam_kmeans.io.columns import Columns
from beam_kmeans.io.features import Rows
from beam_kmeans.io.files import SourceFile
from beam_kmeans.io.formats import source_of
from beam_kmeans.io.manifest import Standardization
from beam_kmeans.io.sources import Split
from beam_kmeans.values import canonical_float32


class Plan(Protocol):
    """What a job that reads files has decided; its workers load it from a file."""

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Sorted by path: their order is the order of the rows."""

    @property
    def columns(self) -> Columns:
        """What of a table makes a row."""


@dataclasses.dataclass(frozen=True)
class SplitGroup:
    """Consecutive splits that one worker reads."""

    number: int
    groups: int
    splits: tuple[Split, ...]


def group_splits(splits: Iterable[Split]) -> Iterator[SplitGroup]:
    """Joins small splits, in order, to groups that shards can be cut from."""
    ordered = sorted(splits, key=lambda split: (split.file, split.index))
    enough = min(shards.SHARD_BYTES, sum(split.size for split in ordered) // shards.LEAST_SHARDS)
    parts: list[list[Split]] = []
    size = enough
    for split in ordered:
        if size >= enough:
            parts.append([])
            size = 0
        parts[-1].append(split)
        size += split.size
    for number, part in enumerate(parts):
        yield SplitGroup(number, len(parts), tuple(part))


class FindGroups(beam.PTransform[Any, Any]):
    """From one element, the groups of all splits of a plan's files, spread over the workers.

    Args:
        plan_path: where the plan was saved.
        load: reads it from there; a function that a worker can import.
    """

    def __init__(self, plan_path: str, load: Callable[[str], Plan]) -> None:
        super().__init__()
        self._plan_path, self._load = plan_path, load

    def expand(self, start: PCollection[bytes]) -> PCollection[Any]:
        splits = (
            start
            | "ListFiles" >> beam.ParDo(_ListFiles(self._plan_path, self._load))
            | "SpreadFiles" >> beam.Reshuffle()
            | "SplitFiles" >> beam.ParDo(_SplitFile(self._plan_path, self._load))
        )
        return (
            start
            | "GroupSplits" >> beam.ParDo(_GroupSplits(), AsIter(splits))
            | "SpreadGroups" >> beam.Reshuffle()
        )


class _ListFiles(beam.DoFn):
    """Emits the numbers of the plan's files."""

    def __init__(self, plan_path: str, load: Callable[[str], Plan]) -> None:
        super().__init__()
        self._plan_path, self._load = plan_path, load

    def process(self, _: bytes) -> Iterator[int]:
        yield from range(len(self._load(self._plan_path).files))


class _SplitFile(beam.DoFn):
    """Emits the splits of a file."""

    def __init__(self, plan_path: str, load: Callable[[str], Plan]) -> None:
        super().__init__()
        self._plan_path, self._load = plan_path, load

    def setup(self) -> None:
        self._plan = self._load(self._plan_path)

    def process(self, number: int) -> Iterator[Split]:
        file = self._plan.files[number]
        yield from source_of(file.path).splits(number, file, len(self._plan.columns.names))


class _GroupSplits(beam.DoFn):
    """Emits the groups of all splits."""

    def __init__(self) -> None:
        super().__init__()

    def process(self, _: bytes, splits: Iterable[Split]) -> Iterator[SplitGroup]:
        yield from group_splits(splits)


def check_unchanged(file: SourceFile, split: Split) -> None:
    """Checks that a local file has the size that it was planned with.

    Raises:
        DataError: names the file.
    """
    local = files.local_path(split.path)
    if local is not None and os.path.getsize(local) != file.size:
        raise DataError(f"{split.path} has changed since the job was planned")


def reject(
    split: Split, rejected: Sequence[tuple[int, str]], on_bad_rows: str
) -> list[dict[str, Any]]:
    """The bad rows of a split as they are listed: `file`, `row` (from 0) and `reason`.

    Raises:
        DataError: there is one and `on_bad_rows` is "error"; names the file and the row.
    """
    found = [
        {"file": split.path, "row": split.first_row + row, "reason": reason}
        for row, reason in rejected
    ]
    if found and on_bad_rows == "error":
        first = found[0]
        raise DataError(
            f"{first['file']}, row {first['row']}: {first['reason']} "
            "(on_bad_rows 'drop' drops such rows, and counts them)"
        )
    return found


def standardized(rows: Rows, names: Sequence[str], standardization: Standardization) -> Rows:
    """Rows of original values (read `wide`) as standardized float32 rows.

    A value that is fine by itself may lie beyond float32 once it is divided by a small deviation:
    its row is rejected then.
    """
    with np.errstate(over="ignore"):
        wide = standardization.apply(rows.values)
    values, flushed = canonical_float32(wide)
    fine = np.isfinite(values)
    good = fine.all(axis=1)
    if good.all():
        return dataclasses.replace(rows, values=values, flushed=flushed)
    rejected = list(rows.rejected)
    for row in np.flatnonzero(~good).tolist():
        place = int(np.argmin(fine[row]))
        original = float(rows.values[row, place])
        reason = f"column {names[place]!r} is beyond float32 once standardized: {original!r}"
        rejected.append((int(rows.positions[row]), reason))
    return Rows(
        values=values[good],
        weights=None if rows.weights is None else rows.weights[good],
        positions=rows.positions[good],
        ids=None if rows.ids is None else rows.ids.filter(pa.array(good)),
        rejected=sorted(rejected),
        flushed=flushed,
    )
