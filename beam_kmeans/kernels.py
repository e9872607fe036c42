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
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from beam_kmeans.sums import DIGIT_BITS, WINDOW_ROWS, window_constant

T = TypeVar("T")
R = TypeVar("R")
Rows = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int32]

_UNIT32 = 2.0**-24
_UNIT64 = 2.0**-53
_DEVICE = "/CPU:0"
#: The filter's value of a center that takes no part.
_NEVER = 3e38
#: float64 values of a step of the decision.
_DECISION_VALUES = 2**21


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


class Centers:
    """Centers prepared for kernels: the filter's matrix, its bounds, and what decides.

    Args:
        centers: finite float32 [k, d].
    """

    def __init__(self, centers: Rows) -> None:
        self.rows = centers
        self.k, self.d = centers.shape
        self.wide = centers.astype(np.float64)
        # Equal centers take part once, at the lowest index.
        first = np.unique(centers + np.float32(0), axis=0, return_index=True)[1]
        self.live = np.sort(first)
        self._prepare_filter()

    def _prepare_filter(self) -> None:
        # Shifted to the centers' middle and scaled by a power of two, so that neither an offset
        # of the data costs digits nor its scale overflows.
        middle = self.wide.mean(axis=0).astype(np.float32).astype(np.float64)
        moved = self.wide - middle
        largest = float(np.abs(moved).max())
        exponent = int(np.clip(np.frexp(largest)[1], -100, 120)) if largest else 0
        self.scale = 2.0**-exponent
        small = (moved * self.scale).astype(np.float32).astype(np.float64)
        norms, halves = np.sqrt((small * small).sum(axis=1)), (small * small).sum(axis=1) / 2
        # With U = 2**-24: a product of d + 2 terms is wrong by at most about (d + 2) U of the sum
        # of its terms' magnitudes, in any order (Higham, "Accuracy and Stability of Numerical
        # Algorithms", 2002, section 3.1); rounded rows, centers and norms add a few U more.
        self.relative = 1.05 * (self.d + 14) * _UNIT32
        self.group, self.groups = _grouping(self.k)
        padded = self.group * self.groups
        matrix = np.zeros((padded, self.d + 2))
        matrix[:, self.d] = _NEVER
        matrix[self.live, : self.d] = -small[self.live]
        matrix[self.live, self.d] = halves[self.live] * (1 - self.relative)
        matrix[self.live, self.d + 1] = -self.relative * norms[self.live]
        self.matrix = matrix.astype(np.float32)
        self.middle = (middle * self.scale).astype(np.float32)
        bounds = np.zeros((padded, 2))
        bounds[: self.k] = np.stack([norms, halves], axis=1)
        self.bounds = (2 * self.relative * bounds).astype(np.float32)
        # Of the float64 decision's own rounding, of a row's square; and what underflow can hide.
        self.constants = np.array(
            [self.scale, 2 * (self.d + 4) * 2.0**-52, 2 * (self.d + 4) * 2.0**-58, self.relative],
            np.float32,
        )


def _grouping(k: int) -> tuple[int, int]:
    """Group size and number of groups in which the filter looks for the smallest of k."""
    group = 8 if k <= 64 else 16 if k <= 512 else 32 if k <= 4096 else 64
    return group, max(1, -(-k // group))


def decide(centers: Centers, rows: Rows) -> Indices:
    """int32 [n]: the nearest centers by definition, for any rows [n, d].

    A float64 product leaves only the centers within its own rounding bound; between these the
    scores themselves decide.
    """
    out = np.empty(len(rows), np.int32)
    live = centers.wide[centers.live]
    middle = live.mean(axis=0)
    moved = live - middle
    norms, halves = np.sqrt((moved * moved).sum(axis=1)), (moved * moved).sum(axis=1) / 2
    factor = 4.0 * (centers.d + 14) * _UNIT64
    # The shift itself is rounded, in units of what was shifted.
    shifted = (np.abs(live).max(axis=0) + np.abs(middle)).max() * np.sqrt(centers.d)
    step = max(1, _DECISION_VALUES // max(len(live), centers.d))
    for start in range(0, len(rows), step):
        wide = rows[start : start + step].astype(np.float64)
        away = wide - middle
        lengths = np.sqrt((away * away).sum(axis=1))[:, None]
        estimate = halves - away @ moved.T
        bound = factor * (lengths + norms + shifted) * (lengths + norms + factor * shifted)
        best = (estimate + bound).min(axis=1, keepdims=True)
        which, candidate = np.nonzero(estimate - bound <= best)
        scores = _pair_scores(wide, live, which, candidate)
        # Rows ascend and candidates ascend within a row: the first smallest is the lowest index.
        order = np.lexsort((candidate, scores, which))
        first = order[np.unique(which[order], return_index=True)[1]]
        out[start : start + step] = centers.live[candidate[first]]
    return out


def scores(centers: Centers, rows: Rows, indices: Indices) -> Floats:
    """float64 [n]: the squared distance of each row [n, d] to its center."""
    return _pair_scores(rows, centers.wide, np.arange(len(rows)), indices)


def _pair_scores(
    left: Rows | Floats, right: Floats, which: npt.NDArray[Any], candidate: npt.NDArray[Any]
) -> Floats:
    """float64 [m]: squared distances of left[which] and right[candidate], by definition."""
    total = np.zeros(len(which))
    step = max(1, 2**17 // left.shape[1])
    for start in range(0, len(which), step):
        part = slice(start, start + step)
        squares = np.ascontiguousarray((left[which[part]] - right[candidate[part]]).T)
        squares *= squares
        for feature in squares:
            total[part] += feature
    return total


def all_scores(centers: Centers, rows: Rows) -> Floats:
    """float64 [n, k]: the squared distance of each row [n, d] to each center."""
    total = np.zeros((len(rows), centers.k))
    columns = np.ascontiguousarray(centers.wide.T)
    step = max(1, 2**17 // centers.k)
    for start in range(0, len(rows), step):
        part = total[start : start + step]
        wide = rows[start : start + step].astype(np.float64)
        for feature in range(centers.d):
            difference = wide[:, feature, None] - columns[feature]
            difference *= difference
            part += difference
    return total


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
    pool, waiting = _pool(threads), deque[Future[R]]()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 2 * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def assign(centers: Centers, rows: Rows, compiled: Filter | None = None) -> Indices:
    """int32 [n]: the nearest center of each row [n, d], equal scores to the lowest index."""
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

    return np.concatenate(list(side_by_side(one, range(0, len(rows), step))))
