"""What a command logs: our lines on standard error, without the noise of others."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

_OURS = logging.getLogger("beam_kmeans")


class StderrHandler(logging.StreamHandler[Any]):
    """Standard error, without Beam's tracebacks and import noise unless `verbose`."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.verbose = False
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))

    def filter(self, record: logging.LogRecord) -> Any:
        text = record.getMessage()
        noise = "apitools not found" in text or "Traceback (most recent call last)" in text
        if not self.verbose and (noise or record.exc_info):
            return False
        return super().filter(record)


@contextlib.contextmanager
def log_to_stderr() -> Iterator[StderrHandler]:
    """Gives our logger, and the root logger if nobody has set it up, one handler for a while."""
    handler = StderrHandler()
    root = logging.getLogger()
    ours = not root.handlers
    level, propagate = _OURS.level, _OURS.propagate
    _OURS.addHandler(handler)
    _OURS.setLevel(logging.INFO)
    _OURS.propagate = False
    if ours:
        root.addHandler(handler)
    # Launchers read the job's id from Dataflow's log lines.
    logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.INFO)
    try:
        yield handler
    finally:
        _OURS.removeHandler(handler)
        _OURS.setLevel(level)
        _OURS.propagate = propagate
        if ours:
            root.removeHandler(handler)
