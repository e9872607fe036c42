"""Predicting: files of rows in, files of each row's cluster and score out, by a Beam pipeline."""

import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.columns import Columns, resolve_columns
from beam_kmeans.io.files import SourceFile
from beam_kmeans.io.manifest import read_json
from beam_kmeans.io.plan import ON_BAD_ROWS, absolute
from beam_kmeans.io.predict_plan import FORMAT_VERSION, PredictPlan
from beam_kmeans.io.predictions import FORMATS, Layout, id_schema
from beam_kmeans.model import KMeansModel, is_default
from beam_kmeans.options import pipeline_options
from beam_kmeans.passes.predict import PredictFiles, model_digest
from beam_kmeans.running import only_launches, run_pipeline

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PredictReport:
    """What was predicted.

    Attributes:
        rows: that have a prediction.
        rejected: bad rows that were dropped.
        files: part files, `OUTPUT-00000-of-00004.parquet`, ...
        output: how their names begin, as it was given.
        inertia: the sum of the scores.
        seconds: that it took.
    """

    rows: int
    rejected: int
    files: int
    output: str
    inertia: float
    seconds: float


def predict(
    model: str,
    input: str | Sequence[str],
    output: str,
    *,
    features: Sequence[str] | None = None,
    features_column: str | None = None,
    on_bad_rows: str = "error",
    id_columns: Sequence[str] = (),
    all_scores: bool = False,
    output_format: str = "parquet",
    options: PipelineOptions | Sequence[str] | None = None,
) -> PredictReport | None:
    """Writes the nearest center of every row of some files, and its score in the model's metric.

    The rows come out in the order of the input, in `OUTPUT-00000-of-00004.parquet` and so on; their
    bytes depend on the model, the files and the arguments alone. `OUTPUT-summary.json` is written
    last: with it they are complete, and asked for once more they are not made again.

    Args:
        model: directory of a model.
        input: globs of `.parquet`, `.csv`, `.csv.gz` or `.npy` files, on any Beam file system.
        output: how the names of the output files begin.
        features: names of the feature columns, in the model's order; None takes the model's own
            names, or all numeric columns but the ids where the model has none.
        features_column: name of a list column that holds the features.
        on_bad_rows: "error", or "drop": count rows that have no prediction, and list them in
            `OUTPUT-rejected/`.
        id_columns: columns that are carried through. CSV's are text, as it stands.
        all_scores: also write the scores for all centers.
        output_format: "parquet", "csv" or "jsonl".
        options: Beam's pipeline options, or their flags; without a runner FnApiRunner runs.

    Returns:
        What was written; None where the job's graph was made for a template's launcher to run.

    Raises:
        ValueError: an argument that is not allowed, no model, files that cannot be read or do not
            fit the model, bad rows, other predictions at `output`.
    """
    start = time.monotonic()
    complete_options = pipeline_options(options)
    _refuse(output, on_bad_rows, output_format)
    loaded = KMeansModel.load(model)
    found = files.match_files([input] if isinstance(input, str) else list(input))
    columns = _columns(
        loaded,
        found,
        features=_names("features", features),
        features_column=features_column,
        id_columns=_names("id_columns", id_columns) or [],
    )
    layout = Layout(
        output_format,
        id_schema(found[0].path, columns),
        all_scores=loaded.num_clusters if all_scores else 0,
    )
    layout.check()
    plan = PredictPlan(
        output=absolute(output),
        model=absolute(model),
        model_sha256=model_digest(model),
        files=tuple(found),
        columns=columns,
        on_bad_rows=on_bad_rows,
        layout=layout,
    )
    summary = plan.finished()
    if summary is None:
        summary = _run(plan, complete_options)
        if summary is None:
            return None
    else:
        _log.info("%s are complete already", plan.summary_path)
    plan.clean()
    counts = {name: summary[name] for name in ("rows", "rejected", "files", "inertia")}
    return PredictReport(**counts, output=output, seconds=time.monotonic() - start)


def _refuse(output: str, on_bad_rows: str, output_format: str) -> None:
    for word, value, allowed in (
        ("on_bad_rows", on_bad_rows, ON_BAD_ROWS),
        ("output_format", output_format, FORMATS),
    ):
        if value not in allowed:
            listed = ", ".join(map(repr, allowed))
            raise ValueError(f"{word}: {value!r} is not allowed; allowed: {listed}")
    local = files.local_path(output)
    if local is not None:
        files.check_directory("output", os.path.dirname(os.path.abspath(local)))
    if not output or output.endswith("/") or (local is not None and os.path.isdir(local)):
        example = files.join(output or ".", "predictions")
        raise ValueError(
            f"output: {output!r} is a directory; it is how the names of the output files begin, "
            f"for example {example!r}"
        )


def _names(word: str, names: Sequence[str] | None) -> list[str] | None:
    if isinstance(names, str):
        raise ValueError(f"{word}: a list of names is needed, found the text {names!r}")
    return None if names is None else list(names)


def _columns(
    model: KMeansModel,
    found: Sequence[SourceFile],
    *,
    features: Sequence[str] | None,
    features_column: str | None,
    id_columns: Sequence[str],
) -> Columns:
    """What of the files makes a row of the model.

    Raises:
        DataError: a column is missing, or the features are not the model's.
    """
    chosen = features is not None or features_column is not None
    named = not any(file.path.lower().endswith(".npy") for file in found[:1])
    if not chosen and named and not is_default(model.features):
        features = model.features
    columns = resolve_columns(
        found, features=features, features_column=features_column, id_columns=id_columns
    )
    try:
        model.check_features(columns.names)
    except DataError as error:
        if chosen or not named:
            raise
        names = ", ".join(columns.names[:20])
        raise DataError(
            f"{error}, by default all its numeric columns ({names}): name the features, or take "
            "columns out as id_columns"
        ) from error
    return columns


def _run(plan: PredictPlan, options: PipelineOptions) -> dict[str, Any] | None:
    """Runs the job, and gives the summary that it wrote; None where it is to run later."""
    plan_path = plan.save()
    try:
        with run_pipeline(options) as pipeline:
            pipeline | "Predict" >> PredictFiles(plan_path)
    except DataError:
        # The same command elsewhere may have completed them, and cleaned up after both.
        summary = plan.finished()
        if summary is not None:
            return summary
        # Bad data stay bad, and what was written would only be in the way of the next attempt.
        plan.remove()
        raise
    if only_launches(options):
        return None
    return read_json(plan.summary_path, "a summary of predictions", FORMAT_VERSION)
