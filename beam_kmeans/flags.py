"""The flags of each command: names, types, defaults and help, and nothing of Beam's."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

from beam_kmeans.config import (
    EMPTY_CLUSTERS,
    INITIALISERS,
    METRICS,
    SEEDING_STATES,
    Parameters,
)

PROGRAM = "beam-kmeans"
COMMANDS = {
    "train": "train a model, resuming where an earlier run of the same command stopped",
    "segment": "run one Beam graph of a training: the next iterations, then stop",
    "predict": "write the cluster and score of every row",
    "stage": "parse files once into a staged dataset that trainings share",
}
_NOTE = "Every option of Apache Beam and its runners is taken too, such as --runner=DataflowRunner."


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="K-means clustering on Apache Beam.",
        epilog=f"{PROGRAM} COMMAND --help shows the flags of a command.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", required=True
    )
    build = {
        "train": _train_flags,
        "segment": _train_flags,
        "predict": _predict_flags,
        "stage": _stage_flags,
    }
    for command, text in COMMANDS.items():
        sub = commands.add_parser(
            command,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=_NOTE,
            allow_abbrev=False,
        )
        build[command](sub)
        _common_flags(sub)
        sub.set_defaults(parser=sub)
    return parser


def flag_names(parser: argparse.ArgumentParser) -> list[str]:
    """The flags of one command's parser, with their dashes."""
    return [name for action in parser._actions for name in action.option_strings]


def command_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands, by name."""
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def boolean(text: str) -> bool:
    """The value of `--flag=true`; launchers write True, people true."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def names(text: str) -> list[str]:
    """The parts of a comma-separated list, at least one and none of them empty."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"an empty name in the list {text!r}")
    return parts


def positive(text: str) -> int:
    """An integer of at least 1."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer of at least 1")
    return number


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Parameters)}


def _train_flags(parser: argparse.ArgumentParser) -> None:
    _list(parser, "--input", "files, as names or patterns, or one staged dataset", "GLOB", True)
    parser.add_argument(
        "--work_dir", required=True, metavar="DIR", help="where the run keeps its states"
    )
    parser.add_argument("--num_clusters", required=True, type=int, metavar="K", help="k")
    _seeding_flags(parser)
    _iteration_flags(parser)
    _mini_batch_flags(parser)
    _data_flags(parser)
    _staging_flags(parser)
    parser.add_argument(
        "--iterations_per_job",
        type=positive,
        metavar="N",
        help="iterations in one Beam graph (10; 5 on Dataflow)",
    )
    parser.add_argument(
        "--model_dir", metavar="DIR", help="where the model is written (WORK_DIR/model)"
    )


def _seeding_flags(parser: argparse.ArgumentParser) -> None:
    _field(
        parser,
        "--initial_clusters",
        str,
        "|".join([*INITIALISERS, "FILE.npy", "MODEL_DIR"]),
        "how the initial centers are found: kmeans_plus_plus draws candidates in rounds "
        "(k-means||) and clusters them; random draws distinct rows by weight; kmc2 and afkmc2 run "
        "Markov chains over the rows; or the initial centers themselves, with --standardize in "
        "standardized units",
    )
    _choice(
        parser,
        "--distance_metric",
        METRICS,
        "squared Euclidean distance, or 1 - cosine similarity",
    )
    _field(parser, "--random_seed", int, "N", "0 to 2^63 - 1")
    _field(
        parser,
        "--kmeans_plus_plus_num_retries",
        int,
        "N",
        "further candidates at each pick of k-means++, of which the best is kept; negative: "
        "2 + floor(ln k)",
    )
    _field(
        parser,
        "--seeding_oversampling",
        float,
        "X",
        "kmeans_plus_plus draws X times k candidates a round",
    )
    _field(
        parser,
        "--seeding_rounds",
        int,
        "N",
        "rounds of kmeans_plus_plus at least, each a pass over the data; twice as many at most",
    )
    parser.add_argument(
        "--seeding_state",
        choices=SEEDING_STATES,
        default=SEEDING_STATES[0],
        help="keep each row's nearest candidate in side files in WORK_DIR, 12 bytes a row, so that "
        "a round measures new candidates alone; with none each round measures all so far, about 3 "
        "times as many in 5 rounds. Changes no result (%(default)s)",
    )
    _field(
        parser,
        "--kmc2_chain_length",
        int,
        "N",
        "rows that a chain of kmc2 or afkmc2 looks at for one center",
    )
    parser.add_argument(
        "--kmc2_groups",
        type=int,
        metavar="N",
        help="groups of rows that run chains of their own (by the number of rows)",
    )


def _iteration_flags(parser: argparse.ArgumentParser) -> None:
    _field(
        parser,
        "--max_iterations",
        int,
        "N",
        "updates of the centers at most; may be raised later",
    )
    _field(
        parser,
        "--tolerance",
        float,
        "T",
        "converged when the centers' summed squared movement is at most T times the mean variance "
        "of the features, or when nothing moves",
    )
    _choice(
        parser,
        "--empty_clusters",
        EMPTY_CLUSTERS,
        "move an empty cluster's center to a far row, or keep it in place",
    )


def _mini_batch_flags(parser: argparse.ArgumentParser) -> None:
    _boolean(parser, "--use_mini_batch", "update the centers by batches, not by all rows")
    _field(parser, "--batch_size", int, "N", "rows of a mini-batch step")
    _field(
        parser,
        "--mini_batch_steps_per_iteration",
        int,
        "N",
        "steps between two publications of the centers",
    )
    _field(
        parser,
        "--max_no_improvement",
        _integer_or_none,
        "N|none",
        "mini-batch: iterations without a new least smoothed inertia after which the fit ends",
    )


def _integer_or_none(text: str) -> int | None:
    """An integer, or nothing."""
    if text.lower() == "none":
        return None
    return int(text)


def _field(
    parser: argparse.ArgumentParser, flag: str, kind: Callable[[str], Any], one: str, text: str
) -> None:
    """A flag that is a field of `Parameters`, which checks its value."""
    parser.add_argument(
        flag,
        type=kind,
        default=_DEFAULTS[flag.removeprefix("--")],
        metavar=one,
        help=f"{text} (%(default)s)",
    )


def _choice(
    parser: argparse.ArgumentParser, flag: str, choices: tuple[str, ...], text: str
) -> None:
    parser.add_argument(
        flag,
        choices=choices,
        default=_DEFAULTS[flag.removeprefix("--")],
        help=f"{text} (%(default)s)",
    )


def _stage_flags(parser: argparse.ArgumentParser) -> None:
    _list(parser, "--input", "files, as names or patterns", "GLOB", True)
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="where the staged dataset is written"
    )
    _data_flags(parser)
    _staging_flags(parser)


def _predict_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="a trained model")
    _list(parser, "--input", "files, as names or patterns", "GLOB", True)
    parser.add_argument(
        "--output", required=True, metavar="PREFIX", help="how the names of the output files begin"
    )
    _data_flags(parser)
    _list(parser, "--id_columns", "columns of the input that are carried through", "NAME")
    _boolean(parser, "--all_scores", "write the row's score for every center too")
    parser.add_argument(
        "--output_format",
        choices=("parquet", "csv", "jsonl"),
        default="parquet",
        help="format of the output (%(default)s)",
    )


def _data_flags(parser: argparse.ArgumentParser) -> None:
    features = parser.add_mutually_exclusive_group()
    _list(features, "--features", "the columns that make a row (all numeric columns)", "NAME")
    features.add_argument(
        "--features_column", metavar="NAME", help="the list column that holds the rows"
    )
    parser.add_argument(
        "--on_bad_rows",
        choices=("error", "drop"),
        default="error",
        help="stop at a row that cannot be used, or drop and count it (%(default)s)",
    )


def _staging_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weight_column", metavar="NAME", help="the column of sample weights")
    _boolean(
        parser, "--standardize", "scale features to mean 0, variance 1 (reads the input twice)"
    )
    parser.add_argument(
        "--block_rows",
        type=positive,
        metavar="N",
        help="rows handled at once; changes no result (by the number of features)",
    )


def _common_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runner_option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option that only the runner knows, not Beam's Python SDK; may be repeated",
    )
    _boolean(parser, "--json", "print the summary as one JSON object")
    _boolean(parser, "--verbose", "show tracebacks, also those that workers log")


def _boolean(parser: argparse.ArgumentParser, flag: str, text: str) -> None:
    parser.add_argument(
        flag,
        nargs="?",
        const=True,
        default=False,
        type=boolean,
        metavar="true|false",
        help=f"{text} (false)",
    )


def _list(
    parser: argparse._ActionsContainer, flag: str, text: str, one: str, required: bool = False
) -> None:
    """A comma-separated flag; repeating it adds to the list."""
    parser.add_argument(
        flag,
        action="extend",
        type=names,
        required=required,
        metavar=f"{one}[,{one}]",
        help=text,
    )
