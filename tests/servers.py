"""Processes of tests: started with this package on their path, watched, and ended for sure."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]


def environment(**more):
    """Of a process that finds this package and this Python."""
    found = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    beside = str(pathlib.Path(sys.executable).parent)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, found)),
        "PATH": os.pathsep.join([beside, os.environ.get("PATH", "")]),
        **more,
    }


@contextlib.contextmanager
def started(command, log, **more):
    """A process in a session of its own, which ends, with all that it started, on leaving.

    Args:
        command: arguments for this Python.
        log: path of the file that it writes to.
        **more: environment variables.
    """
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port():
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def wait_until_ready(process, port, log, seconds=60):
    """Returns when a server answers on its port; fails where it has ended or is too slow."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {pathlib.Path(log).read_text()}")
        with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no server on port {port}: {pathlib.Path(log).read_text()}")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    def report(self):
        """The JSON object that it printed with `--json`."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def command(*arguments, timeout=120, **more):
    """Runs `python -m beam_kmeans` in a process of its own, and ends all of it after `timeout`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "beam_kmeans", *map(str, arguments)],
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Result(process.wait(), out, err)
