"""What a value may be: float32, rounded once, finite, never -0 and never denormal."""

from typing import Any

import numpy as np
import numpy.typing as npt

_EXPONENT_BITS = np.uint32(0x7F800000)
_SIGN_BIT = np.uint32(0x80000000)
#: float64 values of which a few copies stay in a processor's cache.
_TILE_VALUES = 2**15
#: How far from 1 the square of a unit row's length can be that was rounded to float32: 2**-23, and
#: a little for the float64 arithmetic.
_UNIT_BOUND = 1.001 * 2.0**-23


def canonical_float32(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], int]:
    """The values rounded to float32 once, with +0 for -0 and for denormals.

    Compiled kernels flush denormals to zero or not, as their processor's mode has it, and -0 equals
    +0 with other bytes: both become +0 here, so that no later room has to think of them.

    Args:
        values: integers or floats of any shape; not changed. Those beyond float32 become infinite.

    Returns:
        float32 of the same shape in C order (the argument itself where nothing had to change), and
        how many values were denormal after rounding.

    Example:
        >>> canonical_float32(np.array([1.5, -0.0, 1e-42]))
        (array([1.5, 0. , 0. ], dtype=float32), 1)
    """
    with np.errstate(over="ignore"):
        rounded = np.ascontiguousarray(values, np.float32).reshape(values.shape)
    # By bits: arithmetic on denormals depends on the processor's mode.
    bits = rounded.view(np.uint32)
    small = (bits & _EXPONENT_BITS) == 0
    if not small.any():
        return rounded, 0
    small &= bits != 0
    flushed = int(np.count_nonzero(bits[small] != _SIGN_BIT))
    if not small.any():
        return rounded, 0
    return np.where(small, np.float32(0), rounded), flushed


def unit_rows(
    rows: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Rows over their float64 norms, rounded to canonical float32 once: what cosine measures.

    A norm is the square root of the sum of squares, which are added halves onto halves, one IEEE
    operation at a time. A row of zeros has no direction and stays zero. A row whose length is 1
    within the rounding of a float32 stays as it is, so that unit rows of unit rows are the same
    bytes.

    Args:
        rows: finite float32 [n, d].

    Returns:
        float32 [n, d], and whether each row has a direction, bool [n].

    Example:
        >>> unit_rows(np.array([[3, 4], [0, 0]], np.float32))
        (array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32), array([ True, False]))
    """
    units = np.empty(rows.shape, np.float32)
    directed = np.empty(len(rows), bool)
    step = max(1, _TILE_VALUES // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        squares = sums_of_squares(rows[part])
        directed[part] = squares > 0
        as_it_is = (squares == 0) | (np.abs(squares - 1) <= _UNIT_BOUND)
        norms = np.sqrt(np.where(as_it_is, 1.0, squares))
        units[part] = canonical_float32(rows[part] / norms[:, None])[0]
    return units, directed


def sums_of_squares(
    rows: npt.NDArray[np.float32] | npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """float64 [n]: of rows [n, d], the last half of the squares added to the first, and so on.

    The order is the same everywhere, which that of NumPy's own sums is not; a square takes part in
    as many roundings as d has binary digits, at most.
    """
    # A feature's values side by side: each addition is one operation over all rows.
    squares = np.array(rows.T, np.float64, order="C")
    np.multiply(squares, squares, out=squares)
    width = len(squares)
    while width > 1:
        half = width // 2
        squares[:half] += squares[width - half : width]
        width -= half
    total: npt.NDArray[np.float64] = squares[0]
    return total
