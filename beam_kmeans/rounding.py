"""Exact sums made into float32 values, each rounded once: quotients, and directions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from beam_kmeans.sums import ExactSums, Floats, products
from beam_kmeans.values import sums_of_squares


def quotients(sums: ExactSums, divisors: ExactSums) -> npt.NDArray[np.float32]:
    """Sums [k, d] / divisors [k] (each above 0), exactly, rounded once to canonical float32."""
    numerator = sums.to_float64()
    denominator = divisors.to_float64()[:, None]
    quotient = numerator / denominator
    rounded = quotient.astype(np.float32)
    # The float64 quotient is within 2**-48: where the float32 nearest to both ends is the same,
    # that is the rounding; the rest, so near to the middle of two float32, is done exactly.
    below, above = quotient * (1 - 2.0**-48), quotient * (1 + 2.0**-48)
    unsure = np.nonzero(below.astype(np.float32) != above.astype(np.float32))
    if len(unsure[0]):
        ends = below[unsure].astype(np.float32), above[unsure].astype(np.float32)
        parts = ExactSums(unsure[0].shape, sums.low, sums.digits[:, unsure[0], unsure[1]])
        rounded[unsure] = _nearest_of(ends, parts, divisors.at(unsure[0]))
    rounded[np.abs(rounded) < np.finfo(np.float32).tiny] = 0.0
    return rounded


def directions(sums: ExactSums) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Sums [k, d] over their lengths, exactly, rounded once to canonical float32.

    Returns:
        float32 [k, d], and whether each sum has a direction, bool [k]: one that is exactly 0 has
        none, and is 0 here.
    """
    wide = sums.to_float64()
    directed = (sums.digits != 0).any(axis=(0, 2))
    # By a power of two, so that no square is lost or too large.
    wide = np.ldexp(wide, -np.frexp(np.abs(wide).max(axis=1, keepdims=True))[1])
    squares = sums_of_squares(wide)
    quotient = wide / np.sqrt(np.where(directed, squares, 1.0))[:, None]
    # A sum is within 2**-50, and the squares' sum within a rounding for each layer of additions.
    bound = (sums.shape[1].bit_length() + 16) * 2.0**-51
    rounded = quotient.astype(np.float32)
    below = (quotient * (1 - bound)).astype(np.float32)
    above = (quotient * (1 + bound)).astype(np.float32)
    unsure = np.argwhere(below != above)
    exact: dict[int, list[Fraction]] = {}
    for row, column in unsure.tolist():
        if row not in exact:
            exact[row] = sums.part(row, row + 1).to_fractions()
        square = exact[row][column] ** 2 / sum(value * value for value in exact[row])
        rounded[row, column] = _nearer(below[row, column], above[row, column], square)
    rounded[np.abs(rounded) < np.finfo(np.float32).tiny] = 0.0
    return rounded, directed


def _nearer(near: np.float32, far: np.float32, square: Fraction) -> np.float32:
    """Which of two neighbours, `near` the nearer to 0, a number of this square rounds to."""
    middle = (abs(Fraction(float(near))) + abs(Fraction(float(far)))) / 2
    if square == middle * middle:
        return near if int(near.view(np.uint32)) & 1 == 0 else far
    return near if square < middle * middle else far


def _nearest_of(
    ends: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
    sums: ExactSums,
    divisors: ExactSums,
) -> npt.NDArray[np.float32]:
    """float32 [m]: which of two neighbours sums [m] / divisors [m] are nearest to, exactly."""
    low, high = np.minimum(*ends), np.maximum(*ends)
    middle = (low.astype(np.float64) + high) / 2
    # Of 25 bits. The sign of sum - middle * divisor says on which side of it the quotient is.
    for product in products(divisors, -middle):
        sums.add_floats(product)
    digits = sums.carried().digits
    tied = ~(digits != 0).any(axis=0)
    even = (low.view(np.uint32) & 1) == 0
    return np.where(np.where(tied, even, digits[-1] < 0), low, high)


def half_spacing(values: npt.NDArray[np.float32]) -> Floats:
    """An upper bound of how far a float32 is from the number that was rounded to it."""
    spacing = np.spacing(np.abs(values)).astype(np.float64) / 2
    return np.maximum(spacing, float(np.finfo(np.float32).tiny))
