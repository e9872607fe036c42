"""The passes as PTransforms over blocks of rows, for pipelines of your own."""

from beam_kmeans.transforms.assign import AssignClusters as AssignClusters
from beam_kmeans.transforms.assign import Assignments as Assignments
from beam_kmeans.transforms.initialize import InitializeCenters as InitializeCenters
from beam_kmeans.transforms.lloyd import LloydResult as LloydResult
from beam_kmeans.transforms.lloyd import LloydStep as LloydStep
from beam_kmeans.transforms.minibatch import MiniBatchResult as MiniBatchResult
from beam_kmeans.transforms.minibatch import MiniBatchStep as MiniBatchStep
from beam_kmeans.transforms.rows import ReadBlocks as ReadBlocks
from beam_kmeans.transforms.rows import StackRows as StackRows
