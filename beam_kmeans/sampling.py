"""Randomness of rows: a pure function of (seed, purpose, round, row number), and mergeable samples.

No generator has a state, so nothing depends on who asks first: not on bundles, workers or retries.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

#: What a random number is for; part of its counter, so that no two uses share one.
INITIAL_ROWS = 1
CANDIDATES = 2  # a round of k-means||
PICKS = 3  # k-means++ among candidates
PROPOSALS = 4  # of chains, by weight
CHAIN = 5  # whether a chain moves
DEAL = 6  # rows into groups
SAMPLE = 7  # for a function that chooses centers
SHUFFLE = 8  # an order of rows
PAGES = 9  # an order of pages
ROTATIONS = 10  # where a page begins
DISTANT = 11  # proposals of chains, by weight and distance
COINS = 12  # which of the two a proposal is

#: Entries of a sample that travel in one message; larger samples are cut by ranges of keys.
RANGE_ENTRIES = 4096

_WORD = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))


def philox(counter: tuple[Words, ...], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four random 32-bit words for each 128-bit counter.

    Args:
        counter: four uint64 arrays [n] (or scalars) of 32-bit words, lowest first.
        key: two 32-bit words.

    Returns:
        Four uint64 arrays [n] of 32-bit words.

    References:
        J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
        SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = np.uint64(key[0]), np.uint64(key[1])
    shift = np.uint64(32)
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & _WORD, (p0 >> shift) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def uniforms(
    seed: int,
    purpose: int,
    turn: int | npt.NDArray[np.int64],
    row_numbers: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """float64, uniform on the 2**52 odd multiples of 2**-53: never 0, never 1.

    Args:
        seed: 0 to 2**63 - 1.
        purpose: which use of randomness this is, 1 to 255.
        turn: the round or chain, 0 to 2**56 - 1; a number, or int64 that broadcasts with the rows.
        row_numbers: int64 of any shape, that of the result.
    """
    rows, turns = np.broadcast_arrays(row_numbers, np.asarray(turn, np.int64))
    rows, turns = rows.astype(np.uint64), turns.astype(np.uint64)
    which = (turns & np.uint64(0xFFFFFF)) + np.uint64(purpose << 24)
    low, high, _, _ = philox(
        (rows & _WORD, rows >> np.uint64(32), which, turns >> np.uint64(24)),
        (seed & 0xFFFFFFFF, seed >> 32),
    )
    bits = ((high << np.uint64(32)) | low) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def minus_log(uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """-ln(u) of 0 < u < 1, within a few units of the last place, the same bits on every platform.

    Platforms' own logarithms differ in last bits, which could decide an order. Here are only
    additions, multiplications and divisions, which IEEE 754 defines to the bit: u = m 2**e with m
    between sqrt(1/2) and sqrt(2), and ln(m) = 2 artanh((m - 1) / (m + 1)) by its series.
    """
    mantissa, exponent = np.frexp(uniform)
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, mantissa * 2, mantissa)
    exponent = np.where(small, exponent - 1, exponent)
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = np.full_like(square, 1 / 21)
    for odd in range(19, 0, -2):
        series = series * square + 1 / odd
    # ln 2 in two parts, so that its product with the exponent is exact in the first.
    log2_high, log2_low = 0.6931471803691238, 1.9082149292705877e-10
    log: npt.NDArray[np.float64] = exponent * log2_high
    log += exponent * log2_low + 2 * ratio * series
    return -log


def exponential_keys(
    seed: int,
    purpose: int,
    turn: int,
    row_numbers: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64] | npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float64]:
    """float64 [n]: -ln(u) / w; infinite for a weight of 0, which is never drawn.

    The m smallest keys are a sample of m rows by weight, without replacement.

    References:
        P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", Information
        Processing Letters 97(5), 2006.
    """
    keys = minus_log(uniforms(seed, purpose, turn, row_numbers))
    if weights is not None:
        with np.errstate(divide="ignore"):
            keys /= weights.astype(np.float64)
    return keys


def key_ranges(keys: npt.NDArray[np.float64], parts: int) -> npt.NDArray[np.int64]:
    """int64 [n]: the range that each finite key >= 0 falls in, the same for all who cut.

    Ranges ascend as keys do: each power of two is cut in `parts` (a power of two), so that nothing
    has to be known of the keys. Of a sample of m keys a range holds about m / parts at most.
    """
    mantissas, exponents = np.frexp(keys)
    inside = ((np.maximum(mantissas, 0.5) - 0.5) * (2 * parts)).astype(np.int64)
    return np.where(keys > 0, exponents.astype(np.int64) + 2048, 0) * parts + inside


def parts_for(entries: int, most: int) -> int:
    """In how many parts a power of two of keys is cut so that a range has about `most` entries."""
    return 1 << max(0, (entries - 1) // most).bit_length()


def row_hash(row: npt.NDArray[np.float32]) -> bytes:
    """16 bytes that stand for a row's value: equal for equal rows, in practice only for them."""
    return hashlib.blake2b(row.astype("<f4", copy=False).tobytes(), digest_size=16).digest()


@dataclasses.dataclass
class DistinctSample:
    """The `size` distinct row values with the smallest (key, hash, row number); a monoid.

    Of rows with equal values the one with the smallest key stands for all.
    """

    size: int
    keys: npt.NDArray[np.float64]  # [m], ascending
    hashes: npt.NDArray[np.bytes_]  # S16 viewed as void [m]
    row_numbers: npt.NDArray[np.int64]  # [m]

    @classmethod
    def zero(cls, size: int) -> DistinctSample:
        return cls(size, np.zeros(0), np.zeros(0, "V16"), np.zeros(0, np.int64))

    def include(
        self,
        rows: npt.NDArray[np.float32],
        keys: npt.NDArray[np.float64],
        row_numbers: npt.NDArray[np.int64],
    ) -> None:
        """Takes in rows [n, d] with their keys [n] (infinite: never drawn) and numbers [n]."""
        limit = self.keys[-1] if len(self.keys) == self.size else np.inf
        (order,) = np.nonzero((keys <= limit) & np.isfinite(keys))
        order = order[np.argsort(keys[order], kind="stable")]
        # Hashing costs most: rows are hashed in order of their keys, a few more than are wanted
        # at a time, until those that are left can change nothing.
        step = 2 * self.size + 64
        for start in range(0, len(order), step):
            part = order[start : start + step]
            if len(self.keys) == self.size and keys[part[0]] > self.keys[-1]:
                break
            hashes = np.frombuffer(b"".join(row_hash(rows[i]) for i in part.tolist()), "V16")
            self.add(DistinctSample(self.size, keys[part], hashes, row_numbers[part]))

    def add(self, other: DistinctSample) -> DistinctSample:
        """Merges another's into this one, in place, and returns this one."""
        keys = np.concatenate([self.keys, other.keys])
        hashes = np.concatenate([self.hashes, other.hashes])
        numbers = np.concatenate([self.row_numbers, other.row_numbers])
        words = hashes.view(np.dtype([("high", ">u8"), ("low", ">u8")]))
        order = np.lexsort((numbers, words["low"], words["high"], keys))
        _, first = np.unique(words[order], return_index=True)
        kept = order[np.sort(first)][: self.size]
        self.keys, self.hashes, self.row_numbers = keys[kept], hashes[kept], numbers[kept]
        return self

    def ranges(self, total_weight: float) -> Iterator[tuple[int, DistinctSample]]:
        """Cuts the sample by fixed ranges of keys, so that no message holds all of a large one.

        About RANGE_ENTRIES of all rows' keys fall in a range, as keys below t are about
        t * total_weight in number; what lies beyond the expected last key is the last range.
        """
        count = 1 + (self.size - 1) // RANGE_ENTRIES
        width = RANGE_ENTRIES / total_weight if count > 1 else np.inf
        yield from self._cut(np.minimum(self.keys / width, count - 1).astype(np.int64))

    def key_ranges(self) -> Iterator[tuple[int, DistinctSample]]:
        """Cuts the sample where nothing is known of the keys' scale, by `key_ranges`."""
        if self.size <= RANGE_ENTRIES:
            yield 0, self
            return
        yield from self._cut(key_ranges(self.keys, parts_for(self.size, RANGE_ENTRIES)))

    def _cut(self, which: npt.NDArray[np.int64]) -> Iterator[tuple[int, DistinctSample]]:
        for number in np.unique(which).tolist():
            own = which == number
            yield (
                number,
                DistinctSample(self.size, self.keys[own], self.hashes[own], self.row_numbers[own]),
            )
