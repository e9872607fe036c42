"""`python -m beam_kmeans`: the same as the console script `beam-kmeans`."""

import sys

from beam_kmeans.cli import entry

if __name__ == "__main__":
    sys.exit(entry())
