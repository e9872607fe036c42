"""Times a whole `beam-kmeans train` against scikit-learn's Lloyd, from the same files and centers.

    python benchmarks/train.py [--rows 1000000] [--features 32] [--clusters 100] [--rounds 3]

Both are whole processes, start-up and reading included, on two threads, and take turns; medians of
seconds and the peak of the process tree's memory (sum of PSS, which counts shared pages once).
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

SKLEARN = """
import glob, sys
import numpy as np, pyarrow.parquet as pq
from sklearn.cluster import KMeans
names = sorted(glob.glob(sys.argv[1]))
tables = [pq.read_table(name)["features"].combine_chunks() for name in names]
centers = np.load(sys.argv[2])
rows = np.concatenate([t.flatten().to_numpy().reshape(-1, centers.shape[1]) for t in tables])
model = KMeans(len(centers), init=centers, n_init=1, max_iter=int(sys.argv[3]), tol=0,
               algorithm="lloyd").fit(rows)
print(model.inertia_)
"""


def main() -> None:
    """Prints the medians, the memory and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_data(folder, args)
        pattern, centers = str(folder / "*.parquet"), str(folder / "centers.npy")
        peer = [sys.executable, "-c", SKLEARN, pattern, centers, str(args.iterations)]
        ours = [sys.executable, "-m", "beam_kmeans", "train", "--input", pattern]
        ours += ["--features_column", "features", "--work_dir", str(folder / "work")]
        ours += ["--num_clusters", str(args.clusters), "--initial_clusters", centers]
        ours += ["--max_iterations", str(args.iterations), "--tolerance", "0", "--json"]
        seconds: dict[str, list[float]] = {"scikit-learn": [], "beam-kmeans": []}
        memory = dict.fromkeys(seconds, 0)
        for _ in range(args.rounds):
            for kind, command in (("scikit-learn", peer), ("beam-kmeans", ours)):
                shutil.rmtree(folder / "work", ignore_errors=True)
                elapsed, peak = run(command)
                seconds[kind].append(elapsed)
                memory[kind] = max(memory[kind], peak)
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    print(f"{args.rows} x {args.features}, k={args.clusters}, {args.iterations} iterations")
    for kind, times in seconds.items():
        print(
            f"  {kind}: median {medians[kind]:.2f} s ({min(times):.2f} to {max(times):.2f}), "
            f"peak {memory[kind] / 2**20:.0f} MiB"
        )
    print(f"  ratio {medians['beam-kmeans'] / medians['scikit-learn']:.2f}")


def write_data(folder: pathlib.Path, args: argparse.Namespace) -> None:
    """Gaussian clusters in Parquet files, and rows of theirs as centers."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((args.rows, args.features), dtype=np.float32)
    places = rng.integers(0, args.clusters, args.rows)
    rows += 2 * rng.standard_normal((args.clusters, args.features), dtype=np.float32)[places]
    np.save(folder / "centers.npy", rows[rng.choice(args.rows, args.clusters, replace=False)])
    for number, part in enumerate(np.array_split(rows, args.files)):
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), args.features)
        pq.write_table(pa.table({"features": column}), folder / f"part-{number:05d}.parquet")


def run(command: list[str]) -> tuple[float, int]:
    """Seconds of a process, and the largest sum of PSS over its tree."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # they halve NumPy's speed
        environment.pop(name, None)
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    while process.poll() is None:
        peak = max(peak, tree_memory(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{command[:4]} ended with {process.returncode}")
    return time.perf_counter() - start, peak


def tree_memory(pid: int) -> int:
    """Bytes of the process and its children."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for one in (parent, *parent.children(recursive=True)):
            total += one.memory_full_info().pss
    except psutil.NoSuchProcess:
        return total
    return total


if __name__ == "__main__":
    main()
