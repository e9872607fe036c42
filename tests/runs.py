"""Runs of a fit, and what they come to: all that two runs of one fit must agree in."""

import dataclasses
import io
import json
import pathlib
from typing import Any

import numpy as np

from beam_kmeans import KMeansModel


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is promised of a model, to the byte."""

    centers: bytes  # of centers.npy
    counts: tuple[int, ...]
    inertia: float
    history: list[dict[str, Any]]


def outcome(model):
    """Of a model, or of the directory it was written to."""
    if not isinstance(model, KMeansModel):
        path = pathlib.Path(model)
        loaded = outcome(KMeansModel.load(str(path)))
        assert (path / "centers.npy").read_bytes() == loaded.centers
        return loaded
    buffer = io.BytesIO()
    np.save(buffer, model.cluster_centers)
    history = json.loads(json.dumps(list(model.history)))
    return Outcome(buffer.getvalue(), tuple(model.counts.tolist()), model.inertia, history)


def commits(work_dir):
    """Paths of the commits of a run, in their order; the finished ones after the others."""
    found = pathlib.Path(work_dir).glob("iterations/*/*/*/*.json")
    return sorted(found, key=lambda path: (path.parts[-4], path.name.startswith("finished")))


def arrays(work_dir):
    """Name and bytes of every array that a run has committed."""
    root = pathlib.Path(work_dir)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.npy")}


def unfinished(folder):
    """Files in the making that were left behind."""
    return sorted(pathlib.Path(folder).rglob(".*.tmp"))
