"""The flags of each command: names, types, defaults and help, and nothing of Beam's."""

import argparse
import dataclasses

from beam_kmeans.config import EMPTY_CLUSTERS, INITIALISERS, Parameters

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


def _train_flags(parser: argparse.ArgumentParser) -> None:
    default = {field.name: field.default for field in dataclasses.fields(Parameters)}
    _list(parser, "--input", "files, as names or patterns, or one staged dataset", "GLOB", True)
    parser.add_argument(
        "--work_dir", required=True, metavar="DIR", help="where the run keeps its states"
    )
    parser.add_argument("--num_clusters", required=True, type=int, metavar="K", help="k")
    parser.add_argument(
        "--initial_clusters",
        required=True,
        metavar="|".join([*INITIALISERS, "FILE.npy", "MODEL_DIR"]),
        help="random: distinct rows drawn by weight; or the initial centers themselves, with "
        "--standardize in standardized units",
    )
    parser.add_argument(
        "--random_seed",
        type=int,
        default=default["random_seed"],
        metavar="N",
        help="0 to 2^63 - 1 (%(default)s)",
    )
    parser.add_argument(
        "--max_iterations",
        type=int,
        default=default["max_iterations"],
        metavar="N",
        help="updates of the centers at most; may be raised later (%(default)s)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=default["tolerance"],
        metavar="T",
        help="converged when the centers' summed squared movement is at most T times the mean "
        "variance of the features, or when nothing moves (%(default)s)",
    )
    parser.add_argument(
        "--empty_clusters",
        choices=EMPTY_CLUSTERS,
        default=default["empty_clusters"],
        help="move an empty cluster's center to a far row, or keep it in place (%(default)s)",
    )
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
