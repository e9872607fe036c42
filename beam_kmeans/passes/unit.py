"""OpenDataset: what passes need to know of a dataset, under cosine after a pass that measures it.

Shards hold rows as they were staged, so that one dataset serves every metric; the statistics of its
unit rows take one more pass, which is committed, so that a run makes it once.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection

from beam_kmeans.checkpoint import FORMAT_VERSION, WorkDir
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.manifest import StagedDataset, read_json, write_json
from beam_kmeans.io.shards import read_shard
from beam_kmeans.passes.context import Context, ShardRef, context_of
from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import in_metric

_WHAT = "statistics of unit rows"


class OpenDataset(beam.PTransform[Any, Any]):
    """Paths of a dataset in, its context out; a pass over the shards only under cosine, once.

    Args:
        refs: PCollection of ShardRef.
        work: the work directory.
        parameters: of the fit.
    """

    def __init__(self, refs: PCollection[Any], work: WorkDir, parameters: Parameters) -> None:
        super().__init__()
        self._refs, self._work, self._parameters = refs, work, parameters

    def expand(self, dataset: PCollection[Any]) -> PCollection[Any]:
        if self._parameters.distance_metric != "cosine":
            return dataset | "Context" >> beam.ParDo(_OpenFn(self._parameters))
        known = unit_statistics(self._work)
        if known is not None:
            statistics = dataset.pipeline | "Known" >> beam.Create([known])
        else:
            statistics = (
                self._refs
                | "Pass" >> beam.ParDo(_UnitPass())
                | "Merge" >> beam.CombineGlobally(MergeSummaries())
                | "Commit" >> beam.ParDo(_CommitFn(self._work))
            )
        context = beam.ParDo(_OpenFn(self._parameters), AsSingleton(statistics))
        return dataset | "Context" >> context


def save_unit_statistics(work: WorkDir, statistics: Statistics) -> None:
    """Commits the statistics of a dataset's unit rows, under a name that carries their hash."""
    fields = {"num_features": len(statistics.minimums), "statistics": statistics.to_json()}
    name = f"seeding/unit-statistics-{_digest(fields)}.json"
    write_json(files.join(work.path, name), fields, FORMAT_VERSION)


def unit_statistics(work: WorkDir) -> Statistics | None:
    """The statistics of the unit rows of a run's dataset, where a pass has measured them."""
    for path in files.list_files(work.pattern("seeding/unit-statistics-*.json")):
        try:
            fields = read_json(path, _WHAT, FORMAT_VERSION)
            del fields["format_version"], fields["checksum"]
            if path.endswith(f"-{_digest(fields)}.json"):
                return Statistics.from_json(int(fields["num_features"]), fields["statistics"])
        except (DataError, KeyError, TypeError, ValueError):
            # A damaged file is measured anew.
            continue
    return None


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]


class _UnitPass(beam.DoFn):
    """Emits the statistics of a shard's unit rows."""

    def process(self, ref: ShardRef) -> Iterator[Statistics]:
        total = Statistics.zero(ref.num_features)
        for part in read_shard(ref.dataset, ref.shard, ref.num_features, ref.weighted):
            units = in_metric(part, "cosine")
            total.add(Statistics.of(units.rows, units.weights))
        yield total


class _CommitFn(beam.DoFn):
    """Commits the merged statistics, and hands them on."""

    def __init__(self, work: WorkDir) -> None:
        self._work = work

    def process(self, statistics: Statistics | None) -> Iterator[Statistics]:
        if statistics is None:
            raise DataError("a pass over the dataset brought nothing home: it has no shards")
        save_unit_statistics(self._work, statistics)
        yield statistics


class _OpenFn(beam.DoFn):
    """Emits the context of a dataset."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def process(self, dataset: str, units: Statistics | None = None) -> Iterator[Context]:
        yield context_of(StagedDataset.open(dataset), self._parameters, units)
