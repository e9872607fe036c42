"""Beam's pipeline options: told apart from our flags, checked, and given a default runner."""

import argparse
import copy
import difflib
from collections.abc import Iterable, Sequence

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.runner import create_runner

# Beam's own default tries to download a runner first, so what runs would depend on the network.
DEFAULT_RUNNER = "FnApiRunner"


def pipeline_options(options: Sequence[str] | PipelineOptions | None = None) -> PipelineOptions:
    """The options of our pipelines, with `DEFAULT_RUNNER` where none is named.

    Beam's file systems are told of them too, since a driver reads and writes before any pipeline.

    Args:
        options: Beam's options as on a command line, as an object (which is not changed), or none.

    Raises:
        ValueError: a list holds something that is no option of Beam's, or the runner is none.

    Example:
        >>> pipeline_options(["--direct_num_workers=2"]).view_as(StandardOptions).runner
        'FnApiRunner'
    """
    if isinstance(options, str):
        raise ValueError(f"options: a list of options is needed, found the text {options!r}")
    if isinstance(options, PipelineOptions):
        complete = options
    else:
        arguments = list(options or ())
        refuse_unknown(arguments)
        complete = PipelineOptions(arguments)
    if complete.view_as(StandardOptions).runner is None:
        complete = _copy(complete)
        complete.view_as(StandardOptions).runner = DEFAULT_RUNNER
    _check_runner(str(complete.view_as(StandardOptions).runner))
    FileSystems.set_options(complete)
    return complete


def _check_runner(name: str) -> None:
    try:
        create_runner(name)
    except ValueError as error:
        raise ValueError(f"runner: {name!r} is not allowed: {error}") from error


def runner_arguments(pairs: Iterable[str]) -> list[str]:
    """`--runner_option name=value` as the arguments that Beam hands to a runner.

    Raises:
        ValueError: one is not of the form name=value.

    Example:
        >>> runner_arguments(["object_reuse=true"])
        ['--object_reuse=true']
    """
    arguments = []
    for pair in pairs:
        name, equals, _ = pair.lstrip("-").partition("=")
        if not (name and equals):
            raise ValueError(f"--runner_option: {pair!r} is not of the form name=value")
        arguments.append(f"--{pair.lstrip('-')}")
    return arguments


def refuse_unknown(arguments: Sequence[str], ours: Iterable[str] = ()) -> None:
    """Checks a command line, all of it, against our flags and Beam's.

    Raises:
        ValueError: names the flag that nobody knows, and the nearest one.
    """
    known = {*ours}
    found = [text.partition("=")[0] for text in arguments if _is_flag(text)]
    if all(name in known for name in found):
        return
    known.update(beam_flags())
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown flag {name}{hint}")


def refuse_strays(arguments: Sequence[str], prog: str) -> None:
    """Checks what is left of a command line when our flags are taken out: Beam's, and well formed.

    Raises:
        ValueError: a word that belongs to no flag.
        SystemExit: a value that Beam's parser does not take (it says why, as argparse does).
    """
    parser = beam_parser()
    parser.prog = prog
    parser.usage = f"{prog} [flags]"
    _, left = parser.parse_known_args(list(arguments))
    if left:
        raise ValueError(
            f"{left[0]!r} belongs to no flag (quote a pattern of files, or the shell makes several "
            "words of it)"
        )


def beam_flags() -> list[str]:
    """Every flag that Beam's Python SDK knows, with its dashes."""
    return [name for action in beam_parser()._actions for name in action.option_strings]


def beam_parser() -> argparse.ArgumentParser:
    """The parser of all of Beam's options together."""
    found: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=found.append)
    return found[0]


def _is_flag(text: str) -> bool:
    return text.startswith("-") and not text.lstrip("-").replace(".", "", 1)[:1].isdigit()


def _copy(options: PipelineOptions) -> PipelineOptions:
    copied = copy.deepcopy(options)
    # Beam leaves this one out of copies, so that it never reaches a worker.
    person = options.view_as(GoogleCloudOptions).impersonate_service_account
    copied.view_as(GoogleCloudOptions).impersonate_service_account = person
    return copied
