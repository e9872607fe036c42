"""Small data sets, and the two real ones that the tests share."""

import functools
import pathlib

import numpy as np
import sklearn.datasets

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"

#: Two pairs of points, worked by hand: from the first and the third row as centers, the centers
#: become (0.5, 0) and (10.5, 0); inertia 2 at the start, 4 x 0.25 = 1 from then on.
FOUR_POINTS = np.array([[0, 0], [1, 0], [10, 0], [11, 0]], np.float32)


def _frozen(rows) -> np.ndarray:
    rows = np.ascontiguousarray(rows, np.float32)
    rows.flags.writeable = False
    return rows


@functools.cache
def spambase() -> np.ndarray:
    """float32 [4601, 57]: heavy tails, scales from 0.01 to 10,000, repeated rows."""
    table = np.loadtxt(EXAMPLES / "spambase.csv", delimiter=",", skiprows=1)
    return _frozen(table[:, :57])


@functools.cache
def digits() -> np.ndarray:
    """float32 [1797, 64]: whole numbers from 0 to 16, three features that never vary."""
    return _frozen(sklearn.datasets.load_digits().data)


@functools.cache
def blobs(rows: int = 600, d: int = 8, k: int = 5, seed: int = 0) -> np.ndarray:
    """float32 [rows, d]: k overlapping clouds."""
    random = np.random.default_rng(seed)
    middles = random.normal(0, 3, (k, d))
    return _frozen(middles[random.integers(0, k, rows)] + random.normal(0, 1, (rows, d)))


def given_rows(rows: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """float32 [k, d]: k rows with distinct values, as initial centers."""
    distinct = np.unique(rows, axis=0)
    return distinct[np.random.default_rng(seed).permutation(len(distinct))[:k]]
