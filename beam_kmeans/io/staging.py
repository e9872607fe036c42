"""Staging: files are parsed once into a staged dataset, by a Beam pipeline."""

import dataclasses
import glob
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsIter, AsSingleton, PBegin, PCollection

from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.features import read_rows
from beam_kmeans.io.groups import GroupResult, rejected_path, stage_group
from beam_kmeans.io.manifest import (
    MANIFEST,
    StagedDataset,
    Standardization,
    read_json,
    write_json,
)
from beam_kmeans.io.plan import StagePlan, check_same, make_plan
from beam_kmeans.io.shards import ShardInfo
from beam_kmeans.io.splitting import (
    FindGroups,
    SplitGroup,
    reject,
)
from beam_kmeans.statistics import Statistics

_log = logging.getLogger(__name__)
_GROUP_VERSION = 1


def _remove_other_lists(plan: StagePlan, groups: Iterable[GroupResult]) -> None:
    """Removes what earlier attempts on other files have rejected."""
    own = {rejected_path(plan, group.number) for group in groups if group.rejected}
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
    from beam_kmeans.running import refuse_launchers, run_pipeline

    complete_options = pipeline_options(options)
    refuse_launchers(complete_options, "stage")
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
        with run_pipeline(complete_options) as pipeline:
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
