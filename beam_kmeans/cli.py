"""The command line: runs a command, prints its summary, and turns failures into exit codes.

Nothing here may import Beam, TensorFlow or Arrow before a command runs: `--help` answers at once.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import beam_kmeans
from beam_kmeans.config import INITIALISERS, Parameters
from beam_kmeans.errors import message_of
from beam_kmeans.flags import PROGRAM, build_parser, command_parsers, flag_names
from beam_kmeans.logs import log_to_stderr

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_kmeans.job import RunReport, TrainJob
    from beam_kmeans.predicting import PredictReport

#: How the message of an argument that is not allowed begins: with its name, or some.
_USAGE = re.compile(r"[a-z_]+(, [a-z_]+)*: ")
_NOTHING_RAN = "The job's graph was made, for a template's launcher or a dry run; nothing has run."
_LOGGER = logging.getLogger("beam_kmeans")


@dataclasses.dataclass(frozen=True)
class StageReport:
    """What `beam-kmeans stage` wrote."""

    output: str
    rows: int
    num_features: int
    rejected: int
    shards: int
    seconds: float


def main(argv: Sequence[str] | None = None) -> "RunReport | PredictReport | StageReport | None":
    """Runs one command, prints its summary and returns its report.

    Args:
        argv: the command and its flags; None takes those of the process.

    Raises:
        SystemExit: a usage error, code 2, after its message (`--help`: code 0).
        Exception: whatever else stopped the command, as it is.
    """
    report: RunReport | PredictReport | StageReport | None = _run(
        _parse(sys.argv[1:] if argv is None else argv)
    )
    return report


def entry(argv: Sequence[str] | None = None) -> int:
    """Runs one command for a shell: logs to standard error and returns the exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Single-threaded kernels side by side are faster than one of many threads.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = False
    with log_to_stderr() as log:
        try:
            args = _parse(arguments)
            verbose = log.verbose = args.verbose
            _run(args)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        except KeyboardInterrupt:
            print(f"{PROGRAM}: interrupted; the same command resumes", file=sys.stderr)
            return 130
        except Exception as error:
            if verbose:
                traceback.print_exc()
            usage = isinstance(error, ValueError) and _USAGE.match(str(error)) is not None
            usage = usage and message_of(error) is None
            text = str(error) if usage else _explain(error, verbose)
            print(f"{PROGRAM}: {text}", file=sys.stderr)
            return 2 if usage else 1
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's flags, checked; `args.beam` holds the arguments that are Beam's."""
    parser = build_parser()
    sub = command_parsers(parser).get(argv[0]) if argv else None
    if sub is None or {"-h", "--help"} & {*argv}:
        return parser.parse_args(argv)
    try:
        _refuse_unknown(argv[1:], flag_names(sub))
        args, args_of_beam = parser.parse_known_args(argv)
        args.beam = _beam_arguments(args_of_beam, args.runner_option, sub.prog)
    except ValueError as error:
        sub.error(str(error))
    return args


def _refuse_unknown(argv: Sequence[str], ours: Sequence[str]) -> None:
    names = {text.partition("=")[0] for text in argv if text.startswith("-")}
    if not names <= {*ours}:
        from beam_kmeans.options import refuse_unknown

        refuse_unknown(argv, ours)


def _beam_arguments(left: list[str], pairs: list[str], prog: str) -> list[str]:
    if not (left or pairs):
        return []
    from beam_kmeans.options import refuse_strays, runner_arguments

    refuse_strays(left, prog)
    return [*left, *runner_arguments(pairs)]


def _run(args: argparse.Namespace) -> Any:
    commands = {"train": _train, "segment": _train, "predict": _predict, "stage": _stage}
    with contextlib.redirect_stdout(sys.stderr):  # whatever a library prints is no result
        report, summary = commands[args.command](args, _options(args))
    fields = {} if report is None else dataclasses.asdict(report)
    print(json.dumps(fields, allow_nan=False) if args.json else summary)
    return report


def _options(args: argparse.Namespace) -> "PipelineOptions":
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    from beam_kmeans.options import pipeline_options

    options = PipelineOptions(args.beam)
    named = options.view_as(StandardOptions).runner
    options = pipeline_options(options)
    _LOGGER.info(
        "%s %s on Apache Beam %s, runner %s%s",
        PROGRAM,
        beam_kmeans.__version__,
        apache_beam.__version__,
        options.view_as(StandardOptions).runner,
        "" if named else " (the default, in this process; --runner names another)",
    )
    return options


def _train(args: argparse.Namespace, options: "PipelineOptions") -> tuple[Any, str]:
    from beam_kmeans import driver

    job = _train_job(args)
    report = (driver.train if args.command == "train" else driver.run_segment)(job, options)
    if report is None:
        return None, _NOTHING_RAN
    return report, _train_summary(report)


def _train_job(args: argparse.Namespace) -> "TrainJob":
    from beam_kmeans.job import TrainJob

    given = vars(args)
    initial, initial_features = _initial_clusters(args)
    try:
        fields = {field.name: given[field.name] for field in dataclasses.fields(Parameters)}
        parameters = Parameters(**{**fields, "initial_clusters": initial})
    except ValueError as error:  # its message starts with the field's name
        args.parser.error(f"argument --{error}")
    shared = {field.name for field in dataclasses.fields(TrainJob)} & {*given}
    values = {name: given[name] for name in shared}
    values["features"] = _tuple_or_none(args.features)
    values["initial_features"] = initial_features
    return TrainJob(**{**values, "parameters": parameters, "input": tuple(args.input)})


def _initial_clusters(args: argparse.Namespace) -> tuple[Any, tuple[str, ...] | None]:
    """What `--initial_clusters` names, and the features' names where it has them."""
    from beam_kmeans.io import files
    from beam_kmeans.model import read_centers

    value = args.initial_clusters
    if value in INITIALISERS:
        return value, None
    if not (value.endswith(".npy") or files.exists(files.join(value, "model.json"))):
        allowed = ", ".join([*INITIALISERS, "FILE.npy", "a model's directory (with a model.json)"])
        args.parser.error(f"argument --initial_clusters: {value!r} is none of: {allowed}")
    standardized = _standardizes(args) and not value.endswith(".npy")
    return read_centers(value, standardized, args.distance_metric)


def _standardizes(args: argparse.Namespace) -> bool:
    """Whether the rows of this run are standardized, now or when they were staged."""
    from beam_kmeans.io import files
    from beam_kmeans.io.manifest import MANIFEST, StagedDataset

    staged = [path for path in args.input if files.exists(files.join(path, MANIFEST))]
    if staged:
        return StagedDataset.open(staged[0]).standardization is not None
    return bool(args.standardize)


def _predict(args: argparse.Namespace, options: "PipelineOptions") -> tuple[Any, str]:
    from beam_kmeans import predicting

    report = predicting.predict(
        args.model,
        args.input,
        args.output,
        features=args.features,
        features_column=args.features_column,
        on_bad_rows=args.on_bad_rows,
        id_columns=tuple(args.id_columns or ()),
        all_scores=args.all_scores,
        output_format=args.output_format,
        options=options,
    )
    if report is None:
        return None, _NOTHING_RAN
    return report, (
        f"Predicted {report.rows:,} rows into {_count(report.files, 'file')} at {report.output}"
        f"{_dropped(report.rejected)} in {report.seconds:.1f} s."
    )


def _stage(args: argparse.Namespace, options: "PipelineOptions") -> tuple[StageReport, str]:
    from beam_kmeans.io import staging

    start = time.monotonic()
    dataset = staging.stage(
        args.input,
        args.output,
        features=args.features,
        features_column=args.features_column,
        weight_column=args.weight_column,
        standardize=args.standardize,
        on_bad_rows=args.on_bad_rows,
        block_rows=args.block_rows,
        options=options,
    )
    report = StageReport(
        output=args.output,
        rows=dataset.rows,
        num_features=dataset.num_features,
        rejected=dataset.rejected,
        shards=len(dataset.shards),
        seconds=time.monotonic() - start,
    )
    return report, (
        f"Staged {report.rows:,} rows of {_count(report.num_features, 'feature')} in "
        f"{_count(report.shards, 'shard')} at {report.output}{_dropped(report.rejected)} "
        f"in {report.seconds:.1f} s."
    )


def _train_summary(report: "RunReport") -> str:
    iterations = _count(report.iterations, "iteration")
    size = (
        f"{report.rows:,} rows of {_count(report.num_features, 'feature')} in "
        f"{_count(report.num_clusters, 'cluster')}"
    )
    if report.empty_clusters:
        size += f" ({report.empty_clusters:,} empty)"
    if not report.finished:
        return f"{iterations} done of {size}, not finished: the same command goes on."
    ending = f"Converged after {iterations}" if report.converged else f"Stopped after {iterations}"
    return (
        f"{ending}: {size}, inertia {report.inertia:.9g}{_dropped(report.rejected)}; "
        f"{_passes(report.passes)}, {_count(report.jobs, 'Beam job')}, {report.seconds:.1f} s. "
        f"Model: {report.model_dir}"
    )


def _passes(number: int) -> str:
    return f"{number:,} pass{'' if number == 1 else 'es'} over the rows"


def _dropped(rejected: int) -> str:
    return f", {_count(rejected, 'bad row')} dropped" if rejected else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _tuple_or_none(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _explain(error: Exception, verbose: bool) -> str:
    """One line for people: our own message, else the end of what was raised."""
    message = message_of(error)
    if message is not None:
        return message
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = re.sub(r"\s*\[while running [^\]]*\]", "", text).strip()
    last = text.splitlines()[-1] if text else ""
    if not isinstance(error, (ValueError, ImportError, OSError)):
        last = f"{type(error).__name__}: {last}" if last else type(error).__name__
    return last if verbose else f"{last} (--verbose shows all of it)"
