"""Which center is nearest: a TensorFlow-compiled filter, decided in float64 where it is not sure.

`cluster_index` is defined by float64 scores, features in order, one IEEE operation at a time. The
compiled float32 product gives for each row the best center and whether any other lies within the
product's rigorous rounding bound; only those rows are decided in float64. So no result depends on
the bits of a float32 product, which differ with threads, tiles, padding and libraries.

Compiled functions live in this module and are made in the worker, on first use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from beam_kmeans.distances import Centers, Floats, Indices, Rows, decide, directionless
from beam_kmeans.sums import DIGIT_BITS, WINDOW_ROWS, window_constant

T = TypeVar("T")
R = TypeVar("R")

_DEVICE = "/CPU:0"


@dataclasses.dataclass
class Settings:
    """How kernels run in this process; no result depends on it.

    Attributes:
        tile_rows: rows of a compiled call, at most 8192; None chooses by the shape.
        threads: compiled calls side by side; None takes the processors this process may use.
    """

    tile_rows: int | None = None
    threads: int | None = None


settings = Settings()


@dataclasses.dataclass
class Tile:
    """What the compiled kernel says of the rows of one tile.

    Attributes:
        indices: int32 [n], the nearest center where `unsure` is False.
        unsure: bool [n], rows that float64 has to decide.
        bounds: float64 [n], at least the row's score; infinite where nothing is known.
        window: int64 [limbs, k, m] of the sure rows, in units of the windows, each 40 bits finer
            than the one before (two where there are weights); m = d, and a last column of
            weights where there are weights. None where sums were not asked for.
        leftover: bool [n], rows with digits finer than the windows.
    """

    indices: Indices
    unsure: npt.NDArray[np.bool_]
    bounds: Floats
    window: npt.NDArray[np.int64] | None
    leftover: npt.NDArray[np.bool_]


class Filter:
    """The compiled filter for one set of centers, and with it the window sums of a pass.

    Args:
        centers: prepared centers.
        exponents: int32 [m] of the summed columns' windows (`sums.window_exponents`); None
            compiles a kernel that assigns only.
        weighted: whether the tiles come with weights.
    """

    def __init__(
        self,
        centers: Centers,
        exponents: npt.NDArray[np.int32] | None = None,
        weighted: bool = False,
    ) -> None:
        self.centers = centers
        self.weighted = weighted
        self.sums = exponents is not None
        tf = tensorflow()
        self.exponents = np.zeros(0, np.int32) if exponents is None else exponents
        self.window = window_constant(self.exponents)
        with tf.device(_DEVICE):
            self._fixed = [
                tf.constant(array)
                for array in (
                    centers.matrix,
                    centers.bounds,
                    centers.middle,
                    centers.constants,
                    self.window,
                    np.ldexp(1.0, DIGIT_BITS - self.exponents),
                )
            ]
        self.tile_rows = tile_rows(centers)

    def leftover(self, values: Floats) -> Floats:
        """float64 [n, m]: what the windows leave of these values, exactly."""
        rest = values - ((values + self.window) - self.window)
        if self.weighted:
            finer = self.window * 2.0**-DIGIT_BITS
            rest -= (rest + finer) - finer
        return rest

    def tile(self, rows: Rows, weights: Rows | None = None) -> Tile:
        """Runs the kernel over at most `tile_rows` rows [n, d] with weights [n]."""
        n = len(rows)
        size = min(self.tile_rows, max(256, 1 << (n - 1).bit_length()))
        if n < size:
            rows = np.concatenate([rows, np.zeros((size - n, rows.shape[1]), np.float32)])
        arguments = [rows]
        if self.weighted:
            padded = np.zeros(size, np.float32)
            padded[:n] = 1.0 if weights is None else weights
            arguments.append(padded)
        centers = self.centers
        run = _compiled(size, centers.d, centers.group, centers.groups, self.sums, self.weighted)
        # Never on a GPU, whose products may have fewer digits than the bound assumes.
        with tensorflow().device(_DEVICE):
            out = [part.numpy() for part in run(*arguments, np.int32(n), *self._fixed)]
        # What the filter bounds is the scaled score; its float32 arithmetic may be off by a little.
        bounds = out[2][:n].astype(np.float64) * (1.0001 / centers.scale**2)
        bounds[np.isnan(bounds)] = np.inf
        window = None
        if self.sums:
            limbs = out[4].reshape(len(out[4]), -1, len(self.exponents))
            window = limbs[: centers.k].transpose(1, 0, 2)
        return Tile(out[0][:n], out[1][:n], bounds, window, out[3][:n])


def tile_rows(centers: Centers) -> int:
    """Rows of a tile: its scores and its rows should stay in a processor's cache."""
    if settings.tile_rows is not None:
        return min(settings.tile_rows, WINDOW_ROWS)
    widest = max(centers.group * centers.groups, centers.d)
    return int(np.clip(1 << ((2**21 // widest).bit_length() - 1), 256, WINDOW_ROWS))


@functools.cache
def _compiled(
    size: int, d: int, group: int, groups: int, with_sums: bool, weighted: bool
) -> Callable[..., Any]:
    tf = tensorflow()
    padded = group * groups

    def kernel(x: Any, *rest: Any) -> Any:
        weights = rest[0] if weighted else None
        n, matrix, bounds, middle, constants, window, unit = rest[1:] if weighted else rest
        y = x * constants[0] - middle
        square = tf.reduce_sum(y * y, 1, keepdims=True)
        length = tf.sqrt(square)
        low = tf.matmul(tf.concat([y, tf.ones([size, 1]), length], 1), matrix, transpose_b=True)
        low = tf.reshape(low, [size, group, groups])
        smallest = tf.reduce_min(low, 1)
        which = tf.argmin(smallest, 1, output_type=tf.int32)
        own = tf.gather(low, which, axis=2, batch_dims=1)
        inside = tf.argmin(own, 1, output_type=tf.int32)
        index = inside * groups + which
        slack = tf.gather(bounds, index)
        high = tf.reduce_min(smallest, 1, keepdims=True)
        high += slack[:, :1] * length + slack[:, 1:] + constants[1] * square + constants[2]
        near = tf.reduce_sum(tf.cast(smallest <= high, tf.int32), 1)
        near += tf.reduce_sum(tf.cast(own <= high, tf.int32), 1)
        # A NaN compares false: only exactly one center in one group is sure.
        unsure = tf.not_equal(near, 2)
        bound = (square * (1 + constants[3]) + 2 * high)[:, 0]
        if not with_sums:
            return index, unsure, bound, tf.zeros_like(unsure)
        values = tf.cast(x, tf.float64)
        if weights is not None:
            wide = tf.cast(weights, tf.float64)[:, None]
            values = tf.concat([values * wide, wide], 1)
        rounded = (values + window) - window
        rest = values - rounded
        if weights is not None:
            # A product has twice the digits: a second window takes the lower half.
            finer = window * 2.0**-DIGIT_BITS
            low = (rest + finer) - finer
            rest -= low
            rounded = tf.concat([rounded, low], 1)
            unit = tf.concat([unit, unit * 2.0**DIGIT_BITS], 0)
        leftover = tf.reduce_any(tf.not_equal(rest, 0.0), 1)
        left_out = tf.logical_or(unsure, tf.range(size) >= n)
        totals = tf.math.unsorted_segment_sum(
            rounded, tf.where(left_out, padded, index), padded + 1
        )
        return index, unsure, bound, leftover, tf.cast(totals * unit, tf.int64)

    compiled: Callable[..., Any] = tf.function(kernel, jit_compile=True, autograph=False)
    return compiled


_TENSORFLOW_LOCK = threading.Lock()


def tensorflow() -> Any:
    """TensorFlow, imported where it computes and not before.

    Raises:
        ImportError: says how to install it.
    """
    with _TENSORFLOW_LOCK:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            import tensorflow as tf
        except ImportError as error:
            raise ImportError(
                "beam_kmeans computes with TensorFlow, which is not installed: "
                "pip install 'beam-kmeans[tf-cpu]' (small, for processors only) "
                "or 'beam-kmeans[tf]'"
            ) from error
        return tf


def import_ahead() -> None:
    """Starts importing TensorFlow, which takes seconds, beside what comes before it is needed."""

    def run() -> None:
        # Where it is missing, whoever computes says so.
        with contextlib.suppress(ImportError):
            tensorflow()

    threading.Thread(target=run, name="import-tensorflow", daemon=True).start()


@functools.lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kmeans-kernel")


def _processors() -> int:
    """Processors this process may use; all there are where the platform does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Results of `work` in the items' order, computed in the kernels' threads.

    Items are taken as threads come free, a few ahead, so a long stream is never held.
    """
    threads = settings.threads or _processors()
    if threads == 1:
        yield from map(work, items)
        return
    rest = iter(items)
    ahead = list(itertools.islice(rest, 2))
    if len(ahead) < 2:
        # One item alone, as of a small batch, is done sooner here.
        yield from map(work, ahead)
        return
    pool, waiting = _pool(threads), deque[Future[R]]()
    for item in itertools.chain(ahead, rest):
        waiting.append(pool.submit(work, item))
        if len(waiting) > 2 * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def assign(centers: Centers, rows: Rows, compiled: Filter | None = None) -> Indices:
    """int32 [n]: the nearest center of each row [n, d], equal scores to the lowest index.

    Under cosine of unit rows, where a row of zeros has index 0.
    """
    if not len(rows):
        return np.zeros(0, np.int32)
    compiled = compiled or Filter(centers)
    step = compiled.tile_rows

    def one(start: int) -> Indices:
        part = rows[start : start + step]
        tile = compiled.tile(part)
        indices = tile.indices.copy()
        if tile.unsure.any():
            indices[tile.unsure] = decide(centers, part[tile.unsure])
        return indices

    indices = np.concatenate(list(side_by_side(one, range(0, len(rows), step))))
    zeros = directionless(centers, rows)
    if zeros is not None:
        indices[zeros] = 0
    return indices
