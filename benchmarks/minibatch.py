"""Times mini-batch steps over a staged dataset against scikit-learn's, in memory, in one process.

    python benchmarks/minibatch.py [--rows 1000000] [--features 32] [--clusters 100] [--steps 1000]

What steps add to a fit: the time of one of 1 + steps iterations less that of one of 1, so that
start-up, compilation, the shuffle and the pass that measures are not counted. scikit-learn's are
`partial_fit` over rows in random order, on the same number of threads.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import time

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # they halve NumPy's speed
    os.environ.pop(name, None)
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
from sklearn.cluster import MiniBatchKMeans  # noqa: E402

from beam_kmeans import KMeans, stage  # noqa: E402


def main() -> None:
    """Prints medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((args.rows, args.features), dtype=np.float32)
    places = rng.integers(0, args.clusters, args.rows)
    rows += 2 * rng.standard_normal((args.clusters, args.features), dtype=np.float32)[places]
    centers = rows[rng.choice(args.rows, args.clusters, replace=False)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        np.save(folder / "rows.npy", rows)
        dataset = stage(str(folder / "rows.npy"), str(folder / "dataset"))
        seconds: dict[str, list[float]] = {"scikit-learn": [], "beam-kmeans": []}
        of_ours(dataset, centers, 1, folder / "first", args)  # shuffles once more, and compiles
        for turn in range(args.rounds):
            seconds["scikit-learn"].append(of_peer(rows, centers, args))
            one = of_ours(dataset, centers, 1, folder / f"one-{turn}", args)
            many = of_ours(dataset, centers, 1 + args.steps, folder / f"many-{turn}", args)
            seconds["beam-kmeans"].append(many - one)
    print(
        f"{args.steps} steps of {args.batch_size} rows of {args.rows} x {args.features}, "
        f"k={args.clusters}"
    )
    medians = {kind: statistics.median(times) for kind, times in seconds.items()}
    for kind, times in seconds.items():
        print(f"  {kind}: median {medians[kind]:.2f} s ({min(times):.2f} to {max(times):.2f})")
    print(f"  ratio {medians['beam-kmeans'] / medians['scikit-learn']:.2f}")


def of_ours(dataset, centers, steps: int, work_dir: pathlib.Path, args) -> float:
    """Seconds of a whole fit of so many steps."""
    kmeans = KMeans(
        args.clusters,
        centers,
        use_mini_batch=True,
        batch_size=args.batch_size,
        max_iterations=steps,
        tolerance=0,
        max_no_improvement=None,
    )
    start = time.perf_counter()
    kmeans.fit(dataset, work_dir=str(work_dir))
    return time.perf_counter() - start


def of_peer(rows, centers, args) -> float:
    """Seconds of so many steps of scikit-learn's."""
    peer = MiniBatchKMeans(args.clusters, init=centers, n_init=1, reassignment_ratio=0)
    order = np.random.default_rng(1).permutation(len(rows))
    start = time.perf_counter()
    for step in range(args.steps):
        first = step * args.batch_size % (len(rows) - args.batch_size)
        peer.partial_fit(rows[order[first : first + args.batch_size]])
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
