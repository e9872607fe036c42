"""Staging: files are parsed once into a staged dataset, by a Beam pipeline."""

import dataclasses
import glob
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsIter, AsSingleton, PBegin, PCollection

from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.errors import DataError
from beam_kmeans.io import files, shards
from beam_kmeans.io.features import read_rows
from beam_kmeans.io.manifest import (
    MANIFEST,
    StagedDataset,
    Standardization,
    read_json,
    write_json,
)
from beam_kmeans.io.plan import StagePlan, check_same, make_plan
from beam_kmeans.io.shards import ShardInfo, ShardWriter
from beam_kmeans.io.splitting import (
    FindGroups,
    SplitGroup,
    check_unchanged,
    reject,
    standardized,
)
from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import Rows

_log = logging.getLogger(__name__)
_GROUP_VERSION = 1


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
        files.write_bytes(_rejected_path(plan, group.number), lines.encode())
    result = GroupResult(group.number, offset, len(rejected), denormals, tuple(output.infos))
    return result, output.statistics


def _rejected_path(plan: StagePlan, group: int) -> str:
    return files.join(plan.rejected, f"{plan.source['fingerprint']}-{group:06d}.jsonl")


def _remove_other_lists(plan: StagePlan, groups: Iterable[GroupResult]) -> None:
    """Removes what earlier attempts on other files have rejected."""
    own = {_rejected_path(plan, group.number) for group in groups if group.rejected}
    found = files.list_files(files.join(glob.escape(plan.rejected), "*-[0-9]*.jsonl"))
    files.remove([path for path in found if path not in own])


class _MeasureGroup(beam.DoFn):
    """Emits the statistics of a group's original values, for standardization."""

    def __init__(self, plan_path: str) -> None:
        self._plan_path = plan_path

    def setup(self) -> None:
        self._plan = StagePlan.load(self._plan_path)

    def process(self, group: SplitGroup) -> Iterator[Statistics]:
        total = Statistics.zero(len(self._plan.columns.names))
        for split in group.splits:
            for rows in read_rows(split, self._plan.columns, wide=True):
                reject(split, rows.rejected, self._plan.on_bad_rows)
                total.add(Statistics.of(rows.values, rows.weights))
        yield total


def _standardization(statistics: Statistics | None) -> Standardization | None:
    if statistics is None or not statistics.positive_rows:
        return None
    return Standardization(tuple(statistics.means().tolist()), tuple(statistics.scales().tolist()))


class _StageGroup(beam.DoFn):
    """Stages a group; one that was staged before is not parsed again."""

    def __init__(self, plan_path: str) -> None:
        self._plan_path = plan_path

    def setup(self) -> None:
        self._plan = StagePlan.load(self._plan_path)

    def process(self, group: SplitGroup, standardization: Standardization | None) -> Iterator[Any]:
        plan, d = self._plan, len(self._plan.columns.names)
        marker = files.join(plan.output, plan.workshop, f"group-{group.number:06d}.json")
        if not files.exists(marker):
            result, statistics = stage_group(plan, group, standardization)
            fields = {**dataclasses.asdict(result), "statistics": statistics.to_json()}
            write_json(marker, fields, _GROUP_VERSION)
        fields = read_json(marker, "a record of a staged group", _GROUP_VERSION)
        infos = tuple(ShardInfo(**info) for info in fields["shards"])
        names = ("number", "rows", "rejected", "denormals")
        yield GroupResult(**{name: fields[name] for name in names}, shards=infos)
        yield beam.pvalue.TaggedOutput("statistics", Statistics.from_json(d, fields["statistics"]))


class _WriteManifest(beam.DoFn):
    """Writes the manifest, when all else is there, and emits the dataset's path."""

    def __init__(self, plan_path: str) -> None:
        self._plan_path = plan_path

    def process(
        self,
        _: bytes,
        results: Iterable[GroupResult],
        statistics: Statistics | None,
        standardization: Standardization | None,
    ) -> Iterator[str]:
        plan = StagePlan.load(self._plan_path)
        groups = sorted(results, key=lambda result: result.number)
        rejected = sum(group.rejected for group in groups)
        if statistics is None or not statistics.rows:
            dropped = f" ({rejected} were rejected)" if rejected else ""
            raise DataError(f"the data has no rows{dropped}: {plan.files[0].path}, ...")
        if not statistics.positive_rows:
            raise DataError(f"the weights of all {statistics.rows} rows are 0")
        infos, first = [], 0
        for group in groups:
            for info in group.shards:
                infos.append(dataclasses.replace(info, first_row=info.first_row + first))
            first += group.rows
        if first != statistics.rows + rejected:
            raise DataError(
                f"{first} rows were read, but {statistics.rows} staged and {rejected} rejected"
            )
        _remove_other_lists(plan, groups)
        StagedDataset(
            path=plan.output,
            features=plan.columns.names,
            weighted=plan.columns.weight_column is not None,
            statistics=statistics,
            standardization=standardization,
            rejected=rejected,
            denormals=sum(group.denormals for group in groups),
            source=plan.source,
            shards=tuple(infos),
        ).save()
        yield plan.output


class StageFiles(beam.PTransform[Any, Any]):
    """Stages the files of a plan, and emits the path of the staged dataset.

    Args:
        plan_path: where the plan was saved.
        standardize: whether the plan says so.
    """

    def __init__(self, plan_path: str, standardize: bool) -> None:
        super().__init__()
        self._plan_path, self._standardize = plan_path, standardize

    def expand(self, begin: PBegin) -> PCollection[Any]:
        start = begin | "Start" >> beam.Impulse()
        groups = start | "FindGroups" >> FindGroups(self._plan_path, StagePlan.load)
        standardization = None
        if self._standardize:
            standardization = AsSingleton(
                groups
                | "MeasureGroups" >> beam.ParDo(_MeasureGroup(self._plan_path))
                | "MergeMeasures" >> beam.CombineGlobally(MergeSummaries())
                | "Standardization" >> beam.Map(_standardization)
            )
        staged = groups | "StageGroups" >> beam.ParDo(
            _StageGroup(self._plan_path), standardization
        ).with_outputs("statistics", main="results")
        statistics = staged.statistics | "MergeStatistics" >> beam.CombineGlobally(MergeSummaries())
        return start | "WriteManifest" >> beam.ParDo(
            _WriteManifest(self._plan_path),
            AsIter(staged.results),
            AsSingleton(statistics),
            standardization,
        )


def stage(
    input: str | Sequence[str],
    output: str,
    features: Sequence[str] | None = None,
    features_column: str | None = None,
    weight_column: str | None = None,
    standardize: bool = False,
    on_bad_rows: str = "error",
    block_rows: int | None = None,
    options: PipelineOptions | Sequence[str] | None = None,
) -> StagedDataset:
    """Parses files once into a staged dataset: what every later pass reads.

    Args:
        input: globs of `.parquet`, `.csv`, `.csv.gz` or `.npy` files, on any Beam file system.
        output: directory of the staged dataset; one that was staged from the same source is reused.
        features: names of the feature columns; None takes all numeric columns.
        features_column: name of a list column that holds the features.
        weight_column: name of the column of sample weights.
        standardize: subtract each feature's weighted mean and divide by its standard deviation;
            reads the data twice.
        on_bad_rows: "error", or "drop": count rows that cannot be staged and list them under
            `output`/rejected.
        block_rows: rows of a block; None chooses. No result depends on it.
        options: Beam's pipeline options, or their flags; without a runner FnApiRunner runs.

    Returns:
        The staged dataset.

    Raises:
        ValueError: an argument that is not allowed, files that cannot be read, bad rows.
    """
    from beam_kmeans.options import pipeline_options
    from beam_kmeans.running import run_pipeline

    plan = make_plan(
        input,
        output,
        features=features,
        features_column=features_column,
        weight_column=weight_column,
        standardize=standardize,
        on_bad_rows=on_bad_rows,
        block_rows=block_rows,
    )
    existing = existing_dataset(plan)
    if existing is None:
        plan_path = plan.save()
        with run_pipeline(pipeline_options(options)) as pipeline:
            pipeline | "Stage" >> StageFiles(plan_path, plan.standardize)
        existing = StagedDataset.open(plan.output)
        report(existing)
    return existing


def existing_dataset(plan: StagePlan) -> StagedDataset | None:
    """The dataset that the plan would make, where it has been made.

    Raises:
        DataError: another one is there.
    """
    if not files.exists(files.join(plan.output, MANIFEST)):
        return None
    dataset = StagedDataset.open(plan.output)
    check_same(plan, dataset.source, plan.output)
    return dataset


def report(dataset: StagedDataset) -> None:
    """Says in the log what was staged, and what its user should know."""
    statistics = dataset.statistics
    _log.info(
        "Staged %d rows of %d features in %d shards; %d rows were rejected, %d denormals became 0",
        dataset.rows,
        dataset.num_features,
        len(dataset.shards),
        dataset.rejected,
        dataset.denormals,
    )
    coarse = [dataset.features[place] for place in statistics.coarse_features().tolist()]
    if coarse:
        _log.warning(
            "float32 holds these features only coarsely, as they vary little beside their size: "
            "%s; standardize (--standardize) takes their statistics from the original values",
            ", ".join(coarse[:20]),
        )
