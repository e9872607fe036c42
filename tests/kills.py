"""Runs that end themselves with SIGKILL when they put a certain file in its place.

They run in children of a fork server, which has imported everything: a start costs nothing.
"""

import multiprocessing
import os
import pathlib
import signal
from typing import NamedTuple

from beam_kmeans import cli, kernels
from beam_kmeans.io import files, staging
from tests import servers

# Imported for the children's sake.
PRELOADED = (kernels.tensorflow(), staging)


class Kill(NamedTuple):
    """When a run is killed: at the `number`-th file (from 1) whose path holds `name`.

    `half`: when half of the file is written, beside its place; else just after it was put there.
    """

    number: int
    half: bool
    name: str = ""


def run(arguments, log, kill=None, timeout=100, entry=cli.entry):
    """Runs the command line in a process of its own; its exit code, -9 where it was killed.

    The paths of the files that it puts in place are appended to `log`, a line each. Another `entry`
    is a function of a module, which takes the arguments and gives the exit code.
    """
    return finish(start(arguments, log, kill, entry), timeout)


def start(arguments, log, kill=None, entry=cli.entry):
    """The same, without waiting for its end."""
    os.environ["PYTHONPATH"] = servers.environment()["PYTHONPATH"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=(entry, [*map(str, arguments)], str(log), kill))
    process.start()
    return process


def finish(process, timeout=100):
    """The exit code of a run that was started; one that takes too long is killed."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError("the run did not end")
    return process.exitcode


def written(log):
    """The paths of the files that runs have put in place."""
    path = pathlib.Path(log)
    return path.read_text().splitlines() if path.exists() else []


def _run(entry, arguments, log, kill):
    output = os.open(f"{log}.output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    _watch(log, kill)
    code = entry(arguments)
    os._exit(code)


def _watch(log, kill):
    original, lines, matches = os.replace, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 0

    def replace(source, target):
        nonlocal matches
        matches += kill is not None and kill.name in str(target)
        if kill is not None and matches >= kill.number and kill.half:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target)
        os.write(lines, f"{target}\n".encode())
        if kill is not None and matches >= kill.number:
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.replace = replace
