"""Runs a pipeline to its end, and says in our own words why it failed."""

from collections.abc import Iterator
from contextlib import contextmanager

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
    TestOptions,
)
from apache_beam.runners.runner import PipelineState

from beam_kmeans.errors import DataError, message_of


class JobError(RuntimeError):
    """A Beam job that failed or was cancelled for no reason that our own workers gave."""


@contextmanager
def run_pipeline(options: PipelineOptions) -> Iterator[beam.Pipeline]:
    """Gives a pipeline to build, then runs it and waits for its end.

    Raises:
        DataError: what a worker of ours found wrong with the data.
        JobError: the job ended in another state than done.
    """
    pipeline = beam.Pipeline(options=options)
    yield pipeline
    try:
        result = pipeline.run()
        state = result.wait_until_finish()
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        raise DataError(message) from error
    if state is not None and PipelineState.is_terminal(state) and state != PipelineState.DONE:
        raise JobError(f"the Beam job ended as {state}: its own log says why")


def template_location(options: PipelineOptions) -> str | None:
    """Where a template's launcher wants the job's graph; else None."""
    return options.view_as(GoogleCloudOptions).template_location or None


def only_launches(options: PipelineOptions) -> str | None:
    """The option by which a job's graph is made and not run, which Dataflow's runner alone knows.

    Returns:
        "template_location": a template's launcher runs it later; "dry_run": nobody does; else None.
    """
    if "Dataflow" not in str(options.view_as(StandardOptions).runner):
        return None
    if template_location(options):
        return "template_location"
    return "dry_run" if options.view_as(TestOptions).dry_run else None


def refuse_launchers(options: PipelineOptions, command: str) -> None:
    """Refuses options by which a job would not run, for a command that needs what it writes.

    Raises:
        ValueError: names the option.
    """
    option = only_launches(options)
    if option is not None:
        raise ValueError(
            f"{option}: {command} goes on from what its job has written, so it must run"
        )
