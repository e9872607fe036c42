"""`beam-kmeans predict` as a file, for launchers that take a path."""

import sys

from beam_kmeans.cli import entry

if __name__ == "__main__":
    sys.exit(entry(["predict", *sys.argv[1:]]))
