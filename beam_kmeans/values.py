"""What a value may be: float32, rounded once, finite, never -0 and never denormal."""

import numpy as np
import numpy.typing as npt

SMALLEST_NORMAL = np.float32(np.finfo(np.float32).tiny)


def canonical_float32(values: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], int]:
    """Numbers of any type as float32, rounded once, and how many were denormal.

    Compiled kernels flush denormals to zero or not, as their processor's mode has it, and -0 equals
    +0 with other bytes: both become +0 here, so that no later room has to think of them.

    Args:
        values: any integer or float type, any shape.

    Returns:
        float32 of the same shape, never the argument itself (infinite where a value is beyond
        float32, NaN stays), and the number of denormals.

    Example:
        >>> canonical_float32([1.5, -0.0, 1e-42])
        (array([1.5, 0. , 0. ], dtype=float32), 1)
    """
    with np.errstate(over="ignore"):
        rounded = np.array(values, dtype=np.float32)
    small = np.abs(rounded) < SMALLEST_NORMAL
    if not small.any():
        return rounded, 0
    denormals = int(np.count_nonzero(rounded[small]))
    rounded[small] = 0.0
    return rounded, denormals
