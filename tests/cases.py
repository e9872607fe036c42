"""Rows and centers that are hard to tell apart, with the right answers."""

import functools

import numpy as np

from beam_kmeans.values import canonical_float32
from tests import data, oracles

LARGEST = np.float32(3.4e38)


def normal(n, d, seed=0, scale=1.0, offset=0.0):
    return (np.random.default_rng(seed).normal(offset, 1, (n, d)) * scale).astype(np.float32)


def repeated(rows, times):
    return np.random.default_rng(5).permutation(np.repeat(rows, times, axis=0))


def grid(n, d, k, high):
    """Small whole numbers: many rows lie exactly between centers."""
    random = np.random.default_rng(8)
    centers = random.integers(0, high, (k, d)).astype(np.float32)
    return random.integers(0, high, (n, d)).astype(np.float32), centers


def middles(n, k):
    """Rows exactly halfway between two centers, and a float32 off it, on both sides."""
    random = np.random.default_rng(9)
    centers = random.integers(-50, 50, (k, 8)).astype(np.float32) * 2
    left, right = centers[random.integers(0, k, n)], centers[random.integers(0, k, n)]
    rows = (left + right) / 2
    rows[1::3, 0] = np.nextafter(rows[1::3, 0], np.float32(1e3))
    rows[2::3, 0] = np.nextafter(rows[2::3, 0], np.float32(-1e3))
    return rows, centers


def close_centers(n, k):
    """Centers a few float32 apart, far from the origin: a float32 product sees nothing."""
    random = np.random.default_rng(10)
    base = normal(1, 8, 1, 1.0, 5000)
    centers = base + random.integers(-3, 4, (k, 8)).astype(np.float32) * np.spacing(base)
    rows = base + random.integers(-3, 4, (n, 8)).astype(np.float32) * np.spacing(base)
    return rows, centers


def cauchy(n):
    random = np.random.default_rng(2)
    rows = random.standard_cauchy((n, 8)).astype(np.float32) ** 3
    return rows, data.given_rows(rows, 20)


def outlier(n):
    rows = normal(n, 8)
    rows[n // 2] = 1e38
    rows[n // 3, 3] = -LARGEST
    return rows, normal(20, 8, 1)


def outlying_center(n):
    rows, centers = outlier(n)
    centers[7] = rows[n // 2]
    return rows, centers


def mixed_scales(n):
    """Features from 1e-30 to 1e30, so that the large ones hide the others, but not from a score."""
    scales = np.float32(10.0) ** np.arange(-32, 32, 8, dtype=np.float32)
    return normal(n, 8) * scales, normal(20, 8, 1) * scales


def all_extremes(n):
    """The largest float32 of both signs, the smallest, and 0."""
    random = np.random.default_rng(4)
    values = np.array([LARGEST, -LARGEST, 2.0**-126, -(2.0**-126), 0, 1], np.float32)
    return values[random.integers(0, 6, (n, 8))], values[random.integers(0, 6, (20, 8))]


def lost_terms(n):
    """A sum of 1 and a thousand terms below half a spacing of 1: float32 in order loses them all.

    The rows lie about where those terms decide between the first two centers.
    """
    term = np.float32(2.0**-11.5 * 0.999)
    centers = np.zeros((10, 1024), np.float32)
    centers[:2, 0] = 1
    centers[0, 1:] = term
    centers[np.arange(2, 10), np.arange(1, 9)] = 3
    rows = np.zeros((n, 1024), np.float32)
    rows[:, 0] = 1
    rows[:, 1:] = term / 2 * (1 + np.random.default_rng(11).normal(0, 0.02, (n, 1)))
    # In pairs, so that the middle of all centers is 0.
    return rows, np.concatenate([centers, -centers])


def underflow(n):
    """Rows and centers whose products are about as small as a float32 can be, beside two at 1."""
    centers = normal(20, 8, 1, 1e-19)
    centers[:2] = [[1.0], [-1.0]]
    return normal(n, 8, 0, 1e-19), centers


def far_away(n):
    """Centers on a small circle, rows far off in the middle between the directions of two."""
    angles = np.arange(20) * (2 * np.pi / 20) + 0.1
    centers, rows = np.zeros((20, 8)), normal(n, 8, 13, 1e4).astype(np.float64)
    centers[:, :2] = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    between = np.random.default_rng(14).integers(0, 20, n) * (2 * np.pi / 20) + 0.1 + np.pi / 20
    rows[:, :2] = 1e4 * np.stack([np.cos(between), np.sin(between)], axis=1)
    return rows, centers


def permuted_centers(n):
    """Centers with the same numbers in other orders: only the order of adding tells them apart."""
    random = np.random.default_rng(12)
    numbers = random.normal(size=8)
    centers = np.stack([random.permutation(numbers) for _ in range(20)])
    return np.repeat(random.normal(size=(n, 1)), 8, axis=1), centers


# Rows and centers, few shapes (d, k) so that few kernels are compiled.
CASES = {
    "spambase": lambda: (data.spambase(), data.given_rows(data.spambase(), 10)),
    "digits": lambda: (data.digits(), data.given_rows(data.digits(), 10)),
    "mean-5000": lambda: (normal(3000, 8, 0, 1, 5000), normal(20, 8, 1, 1, 5000)),
    "repeated-rows": lambda: (repeated(normal(100, 8), 20), normal(20, 8, 1)),
    "repeated-centers": lambda: (normal(3000, 8), repeated(normal(5, 8, 1), 4)),
    "equal-centers": lambda: (normal(3000, 8), np.repeat(normal(1, 8, 1), 20, axis=0)),
    "centers-are-rows": lambda: (repeated(normal(20, 8), 100), normal(20, 8)),
    "grid": lambda: grid(3000, 8, 20, 3),
    "middles": lambda: middles(3000, 20),
    "close-centers": lambda: close_centers(3000, 20),
    "d=1": lambda: (normal(3000, 1), normal(20, 1, 1)),
    "d=1-grid": lambda: grid(3000, 1, 20, 60),
    "d=1024": lambda: (normal(600, 1024), normal(20, 1024, 1)),
    "k=1": lambda: (normal(3000, 8), normal(1, 8, 1)),
    "k=1000": lambda: (normal(3000, 8), normal(1000, 8, 1)),
    "k=1000-grid": lambda: grid(2000, 8, 1000, 4),
    "1e30": lambda: (normal(3000, 8, 0, 1e30), normal(20, 8, 1, 1e30)),
    "1e38": lambda: (normal(3000, 8, 0, 5e37), normal(20, 8, 1, 5e37)),
    "1e-30": lambda: (normal(3000, 8, 0, 1e-30), normal(20, 8, 1, 1e-30)),
    "1e-37": lambda: (normal(3000, 8, 0, 1e-37), normal(20, 8, 1, 1e-37)),
    "tiny-rows": lambda: (normal(3000, 8, 0, 1e-30), normal(20, 8, 1)),
    "tiny-centers": lambda: (normal(3000, 8), normal(20, 8, 1, 1e-30)),
    "tiny-centers-large-rows": lambda: (normal(3000, 8, 0, 1e30), normal(20, 8, 1, 1e-30)),
    "heavy-tails": lambda: cauchy(3000),
    "outlier": lambda: outlier(3000),
    "outlying-center": lambda: outlying_center(3000),
    "mixed-scales": lambda: mixed_scales(3000),
    "all-extremes": lambda: all_extremes(3000),
    "lost-terms": lambda: lost_terms(600),
    "permuted-centers": lambda: permuted_centers(3000),
    "far-away": lambda: far_away(3000),
    "underflow": lambda: underflow(3000),
    "no-rows": lambda: (normal(0, 8), normal(20, 8, 1)),
    "one-row": lambda: (normal(1, 8), normal(20, 8, 1)),
}


@functools.cache
def case(name):
    """float32 rows [n, d], float32 centers [k, d], and the nearest centers [n] by definition."""
    rows, centers = CASES[name]()
    rows, centers = canonical_float32(rows)[0], canonical_float32(centers)[0]
    return rows, centers, oracles.assign(rows, centers)
