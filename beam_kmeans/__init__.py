"""K-means clustering on Apache Beam: the front door.

Names load on first use, so that importing the package imports neither Beam nor TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_kmeans.blocks import Block as Block
    from beam_kmeans.io.manifest import StagedDataset as StagedDataset
    from beam_kmeans.io.staging import stage as stage
    from beam_kmeans.kmeans import KMeans as KMeans
    from beam_kmeans.model import KMeansModel as KMeansModel
    from beam_kmeans.transforms import AssignClusters as AssignClusters
    from beam_kmeans.transforms import Assignments as Assignments
    from beam_kmeans.transforms import InitializeCenters as InitializeCenters
    from beam_kmeans.transforms import LloydResult as LloydResult
    from beam_kmeans.transforms import LloydStep as LloydStep
    from beam_kmeans.transforms import MiniBatchResult as MiniBatchResult
    from beam_kmeans.transforms import MiniBatchStep as MiniBatchStep
    from beam_kmeans.transforms import ReadBlocks as ReadBlocks
    from beam_kmeans.transforms import StackRows as StackRows

__version__ = "0.1.0"

_HOMES = {
    "AssignClusters": "transforms",
    "Assignments": "transforms",
    "Block": "blocks",
    "InitializeCenters": "transforms",
    "KMeans": "kmeans",
    "KMeansModel": "model",
    "LloydResult": "transforms",
    "LloydStep": "transforms",
    "MiniBatchResult": "transforms",
    "MiniBatchStep": "transforms",
    "ReadBlocks": "transforms",
    "StackRows": "transforms",
    "StagedDataset": "io.manifest",
    "stage": "io.staging",
}

__all__ = [
    "AssignClusters",
    "Assignments",
    "Block",
    "InitializeCenters",
    "KMeans",
    "KMeansModel",
    "LloydResult",
    "LloydStep",
    "MiniBatchResult",
    "MiniBatchStep",
    "ReadBlocks",
    "StackRows",
    "StagedDataset",
    "__version__",
    "stage",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
