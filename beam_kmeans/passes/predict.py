"""The pass of a prediction: every row's cluster and score, written to part files."""

import dataclasses
import functools
import hashlib
import json
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsIter, PBegin, PCollection

from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.features import Rows, read_rows
from beam_kmeans.io.manifest import read_json, write_json
from beam_kmeans.io.predict_plan import FORMAT_VERSION, PredictPlan
from beam_kmeans.io.predictions import Predictions, open_writer
from beam_kmeans.io.splitting import FindGroups, SplitGroup, check_unchanged, reject, standardized
from beam_kmeans.model import KMeansModel

# Scores for all centers are held for as many rows at once as make this many values.
_SCORES_AT_ONCE = 1 << 22
_loading = threading.Lock()


def model_digest(model: str) -> str:
    """Of a model's `model.json`, which holds the checksum of its centers."""
    return hashlib.sha256(files.read_bytes(files.join(model, "model.json"))).hexdigest()


_RECORD = "a record of predictions"


@dataclasses.dataclass(frozen=True)
class PartResult:
    """What predicting a group of splits gave.

    `rows` are read, rejected ones included; `size` is the part file's, in bytes.
    """

    number: int
    parts: int
    rows: int
    predicted: int
    rejected: int
    inertia: float
    size: int


class PredictFiles(beam.PTransform[Any, Any]):
    """Writes the predictions of a plan, and emits the path of their summary.

    Args:
        plan_path: where the plan was saved.
    """

    def __init__(self, plan_path: str) -> None:
        super().__init__()
        self._plan_path = plan_path

    def expand(self, begin: PBegin) -> PCollection[Any]:
        start = begin | "Start" >> beam.Impulse()
        results = (
            start
            | "FindGroups" >> FindGroups(self._plan_path, PredictPlan.load)
            | "PredictGroups" >> beam.ParDo(_PredictGroup(self._plan_path))
        )
        return start | "WriteSummary" >> beam.ParDo(_WriteSummary(self._plan_path), AsIter(results))


class _PredictGroup(beam.DoFn):
    """Writes the part file of a group; one that was written before is not written again."""

    def __init__(self, plan_path: str) -> None:
        super().__init__()
        self._plan_path = plan_path

    def setup(self) -> None:
        self._plan = PredictPlan.load(self._plan_path)
        self._model = _model(self._plan)

    def process(self, group: SplitGroup) -> Iterator[PartResult]:
        plan = self._plan
        marker = plan.marker_path(group.number)
        part = plan.part_path(group.number, group.groups)
        known = read_json(marker, _RECORD, FORMAT_VERSION) if files.exists(marker) else None
        if known is None or known["size"] != files.size_of(part):
            result = predict_group(plan, group, self._model)
            write_json(marker, dataclasses.asdict(result), FORMAT_VERSION)
        fields = read_json(marker, _RECORD, FORMAT_VERSION)
        names = (field.name for field in dataclasses.fields(PartResult))
        yield PartResult(**{name: fields[name] for name in names})


def _model(plan: PredictPlan) -> KMeansModel:
    """The plan's model, loaded once a process."""
    with _loading:
        return _load(plan.model, plan.model_sha256)


@functools.lru_cache(maxsize=2)
def _load(path: str, sha256: str) -> KMeansModel:
    model = KMeansModel.load(path)
    if model_digest(path) != sha256:
        raise DataError(f"{path} has changed since the job was planned")
    return model


def predict_group(plan: PredictPlan, group: SplitGroup, model: KMeansModel) -> PartResult:
    """Writes the part file of a group of splits, whole or not at all.

    Raises:
        DataError: a bad row where `on_bad_rows` is "error"; names the file and the row.
    """
    read = predicted = 0
    sums: list[float] = []
    rejected: list[dict[str, Any]] = []
    with open_writer(plan.part_path(group.number, group.groups), plan.layout) as writer:
        for split in group.splits:
            check_unchanged(plan.files[split.file], split)
            for rows in read_rows(split, plan.columns, wide=model.standardization is not None):
                if model.standardization is not None:
                    rows = standardized(rows, plan.columns.names, model.standardization)
                rejected += reject(split, rows.rejected, plan.on_bad_rows)
                read += len(rows.positions) + len(rows.rejected)
                for predictions in _predictions(plan, model, rows):
                    try:
                        writer.write(predictions)
                    except DataError as error:
                        raise DataError(f"{split.path}: {error}") from error
                    predicted += len(predictions.score)
                    sums.append(math.fsum(predictions.score.tolist()))
    if rejected:
        lines = "".join(json.dumps(row) + "\n" for row in rejected)
        files.write_bytes(files.join(plan.rejected, f"{group.number:05d}.jsonl"), lines.encode())
    return PartResult(
        group.number,
        group.groups,
        read,
        predicted,
        len(rejected),
        inertia=math.fsum(sums),
        size=files.size_of(plan.part_path(group.number, group.groups)),
    )


def _predictions(plan: PredictPlan, model: KMeansModel, rows: Rows) -> Iterator[Predictions]:
    """Yields the predictions of prepared rows, a slice at a time where there are many scores."""
    step = max(1, _SCORES_AT_ONCE // max(1, plan.layout.all_scores))
    for start in range(0, len(rows.values), step):
        values = rows.values[start : start + step]
        values = model.measured(values)
        indices = model.assign(values)
        yield Predictions(
            ids=() if rows.ids is None else rows.ids.slice(start, len(values)).columns,
            cluster_index=indices,
            score=model.scores(values, indices),
            all_scores=model.all_scores(values) if plan.layout.all_scores else None,
        )


class _WriteSummary(beam.DoFn):
    """Writes the summary, when all else is there, and emits its path."""

    def __init__(self, plan_path: str) -> None:
        super().__init__()
        self._plan_path = plan_path

    def process(self, _: bytes, results: Iterable[PartResult]) -> Iterator[str]:
        plan = PredictPlan.load(self._plan_path)
        parts = sorted(results, key=lambda part: part.number)
        rows, rejected = (
            sum(part.predicted for part in parts),
            sum(part.rejected for part in parts),
        )
        if not rows:
            dropped = f" ({rejected} were rejected)" if rejected else ""
            raise DataError(f"the data has no rows{dropped}: {plan.files[0].path}, ...")
        if [part.number for part in parts] != list(range(parts[0].parts)):
            raise DataError(f"{len(parts)} part files were written, not {parts[0].parts}")
        read = sum(part.rows for part in parts)
        if read != rows + rejected:
            raise DataError(f"{read} rows were read, but {rows} predicted and {rejected} rejected")
        summary = {
            "rows": rows,
            "rejected": rejected,
            "files": len(parts),
            "sizes": [part.size for part in parts],
            "inertia": math.fsum(part.inertia for part in parts),
            "model": plan.model,
            "model_sha256": plan.model_sha256,
            "fingerprint": plan.fingerprint,
        }
        write_json(plan.summary_path, summary, FORMAT_VERSION)
        yield plan.summary_path
