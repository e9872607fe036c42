"""Times one pass over rows in memory: the bare matrix product, the filter, the filter with sums.

    python benchmarks/kernel.py [--rounds 5]

The kinds take turns in each round, so that a busy machine slows all of them; medians, and each
kind's speed as a share of the bare product's.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from beam_kmeans import distances, kernels
from beam_kmeans.sums import window_exponents
from beam_kmeans.tally import LloydTally, Rows

SHAPES = ((1_000_000, 32, 100), (200_000, 256, 256), (200_000, 64, 2000), (1_000_000, 16, 64))


def main() -> None:
    """Prints a line a shape."""
    # Before TensorFlow is first used; a kernel runs in one thread, several of them side by side.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for n, d, k in SHAPES:
        kinds = kinds_of(n, d, k)
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(rounds + 1):
            for kind, run in kinds.items():
                start = time.perf_counter()
                run()
                if turn:  # the first compiles
                    seconds[kind].append(time.perf_counter() - start)
        medians = {kind: statistics.median(times) for kind, times in seconds.items()}
        floor = medians["product"]
        print(
            f"{n} x {d}, k={k}: "
            + ", ".join(f"{kind} {m * 1e3:.0f} ms ({floor / m:.0%})" for kind, m in medians.items())
            + f"; {n / medians['filter + sums'] / 1e6:.2f} million rows a second",
            flush=True,
        )


def kinds_of(n: int, d: int, k: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    tf = kernels.tensorflow()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    rows += 2 * rng.standard_normal((50, d), dtype=np.float32)[rng.integers(0, 50, n)]
    centers = distances.Centers(rows[rng.choice(n, k, replace=False)])
    compiled, exponents = kernels.Filter(centers), window_exponents(np.abs(rows).max(axis=0))
    step = compiled.tile_rows
    matrix = tf.constant(centers.rows)
    product = tf.function(lambda x: tf.matmul(x, matrix, transpose_b=True))
    block = 8192

    def bare(start: int) -> object:
        return product(tf.constant(rows[start : start + step]))

    def tally() -> None:
        summed = LloydTally(centers, True, exponents)
        starts = range(0, n, block)
        summed.include(
            Rows(rows[a : a + block], None, np.arange(a, min(n, a + block))) for a in starts
        )
        summed.result()

    return {
        "product": lambda: list(kernels.side_by_side(bare, range(0, n, step))),
        "filter": lambda: kernels.assign(centers, rows, compiled),
        "filter + sums": tally,
    }


if __name__ == "__main__":
    main()
