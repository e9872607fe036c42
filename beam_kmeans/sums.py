"""Exact, mergeable sums: the same bytes in whatever order, by whatever processor, they are added.

A sum is kept as digits in base 2**40 on one absolute grid, so that two sums of anything can be
added position by position. Values reach the grid in two ways that both lose nothing: float64
arrays are cut at the digits' boundaries, and the rows of a block are first rounded to a window of
40 bits below their column's largest exponent, in which 2**13 rows add up exactly in float64 in any
order, by any kernel (`column_sums`, and the compiled kernel in `kernels`).
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

DIGIT_BITS = 40
#: Rows of one window whose float64 sum is exact in any order: 2**40 units each, below 2**53.
WINDOW_ROWS = 2**13
#: Additions after which digits are carried, well before an int64 could overflow.
_CARRY_AFTER = 2**20
#: float64 values of which a few copies stay in a processor's cache.
_TILE_VALUES = 2**15
_SPLITTER = 2.0**27 + 1
#: Below it the unit of a window is no float64 that can be divided by.
_SMALLEST_EXPONENT = -900


@dataclasses.dataclass
class ExactSums:
    """An array of exact sums; the value at an index is sum_p digits[p] * 2**(40 * (low + p)).

    A monoid: `ExactSums.zeros(shape)` is neutral, `add` merges another into this one.

    Example:
        >>> total = ExactSums.zeros((1,))
        >>> for value in (1e30, 1.0, -1e30):
        ...     total.add_floats(np.array([value]))
        >>> total.to_float64().tolist()
        [1.0]
    """

    shape: tuple[int, ...]
    low: int
    digits: npt.NDArray[np.int64]
    #: Additions since the last carry.
    pending: int = 0

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> ExactSums:
        return cls(shape, 0, np.zeros((0, *shape), np.int64))

    @classmethod
    def of_integers(cls, values: npt.NDArray[np.int64]) -> ExactSums:
        """Whole numbers, such as the counts of unweighted rows."""
        sums = cls.zeros(values.shape)
        sums.add_scaled(values, 0)
        return sums

    def to_json(self) -> dict[str, Any]:
        """The sums as plain values."""
        self._carry()
        return {"low": self.low, "digits": self.digits.tolist()}

    @classmethod
    def from_json(cls, shape: tuple[int, ...], fields: dict[str, Any]) -> ExactSums:
        digits = np.array(fields["digits"], np.int64).reshape((len(fields["digits"]), *shape))
        return cls(shape, int(fields["low"]), digits, 1)

    def add(self, other: ExactSums) -> ExactSums:
        """Adds another array of sums to this one, in place, and returns this one."""
        if len(other.digits):
            self._reach(other.low, other.low + len(other.digits))
            start = other.low - self.low
            self.digits[start : start + len(other.digits)] += other.digits
            self._count(other.pending + 1)
        return self

    def add_at(self, places: npt.NDArray[np.intp], other: ExactSums) -> None:
        """Adds another array of sums to the distinct `places` of the first axis."""
        if len(other.digits):
            self._reach(other.low, other.low + len(other.digits))
            start = other.low - self.low
            for position, digit in enumerate(other.digits, start):
                self.digits[position, places] += digit
            self._count(other.pending + 1)

    def add_floats(self, values: Floats) -> None:
        """Adds finite float64 values of this shape (or one that broadcasts to it)."""
        rest = np.array(np.broadcast_to(values, self.shape), np.float64)
        largest = float(np.abs(rest).max(initial=0.0))
        if not np.isfinite(largest):
            raise ValueError(f"exact sums are of finite numbers, found {largest}")
        position = (int(np.frexp(largest)[1]) - 1) // DIGIT_BITS
        digit = np.empty_like(rest)
        while rest.any():
            self._reach(position, position + 1)
            # In two steps: the lowest digit's unit is below what float64 holds.
            half = 2.0 ** (DIGIT_BITS // 2 * position)
            np.divide(rest, half, out=digit)
            digit /= half
            np.trunc(digit, out=digit)
            self.digits[position - self.low] += digit.astype(np.int64)
            digit *= half
            digit *= half
            rest -= digit
            position -= 1
        self._count(1)

    def add_scaled(self, values: npt.NDArray[np.int64], exponents: npt.ArrayLike) -> None:
        """Adds int64 values times 2**exponents, which broadcast to this shape."""
        scale = np.ldexp(1.0, np.asarray(exponents, np.int32))
        self.add_floats((values >> 32).astype(np.float64) * (scale * 2.0**32))
        self.add_floats((values & 0xFFFFFFFF).astype(np.float64) * scale)

    def carried(self) -> ExactSums:
        """The same sums with every digit in [0, 2**40), but the topmost, which has the sign."""
        self._carry()
        return self

    def part(self, start: int, stop: int) -> ExactSums:
        """A copy of the sums at [start, stop) of the first axis."""
        shape = (stop - start, *self.shape[1:])
        return ExactSums(shape, self.low, self.digits[:, start:stop].copy(), self.pending)

    def at(self, places: npt.NDArray[np.intp]) -> ExactSums:
        """A copy of the sums at some places of the first axis."""
        shape = (len(places), *self.shape[1:])
        return ExactSums(shape, self.low, self.digits[:, places], self.pending)

    def folded(self) -> ExactSums:
        """The sum of all sums, of shape ()."""
        size = int(np.prod(self.shape, dtype=np.int64))
        digits = self.carried().digits
        digits = digits.reshape(len(digits), size)
        total = ExactSums.zeros(())
        for start in range(0, digits.shape[1], WINDOW_ROWS):
            part = digits[:, start : start + WINDOW_ROWS].sum(axis=1)
            total.add(ExactSums((), self.low, part, 1))
        return total

    def reshaped(self, shape: tuple[int, ...]) -> ExactSums:
        """The same sums in another shape."""
        return ExactSums(
            shape, self.low, self.digits.reshape(len(self.digits), *shape), self.pending
        )

    def to_float64(self) -> Floats:
        """The sums within a few units of the last place of a float64."""
        self._carry()
        value = np.zeros(self.shape)
        for digit in self.digits[::-1]:
            value *= 2.0**DIGIT_BITS
            value += digit
        return np.ldexp(value, DIGIT_BITS * self.low)

    def rounded(self) -> Floats:
        """The sums, each rounded to float64 once."""
        value = self.to_float64()
        if self.low >= 0 and (np.abs(value) < 2.0**53).all():
            # Whole numbers that float64 holds.
            return value
        exact = [float(total) for total in self.to_fractions()]
        return np.array(exact).reshape(self.shape)

    def to_fractions(self) -> list[Fraction]:
        """The sums themselves, in C order: for few values, as they are Python numbers."""
        self._carry()
        size = int(np.prod(self.shape, dtype=np.int64))
        columns = self.digits.reshape(len(self.digits), size).astype(object)
        totals: list[int] = [0] * size
        for digit in columns[::-1]:
            totals = [
                (total << DIGIT_BITS) + value for total, value in zip(totals, digit, strict=True)
            ]
        unit = Fraction(2) ** (DIGIT_BITS * self.low)
        return [total * unit for total in totals]

    def to_fraction(self) -> Fraction:
        """The sum of all values, exactly."""
        whole = self.folded()
        return _fraction(whole.digits.tolist(), whole.low)

    def _count(self, additions: int) -> None:
        self.pending += additions
        if self.pending >= _CARRY_AFTER:
            self._carry()

    def _carry(self) -> None:
        if not self.pending:
            return
        digits = self.digits
        for position in range(len(digits) - 1):
            over = digits[position] >> DIGIT_BITS
            digits[position] -= over << DIGIT_BITS
            digits[position + 1] += over
        if len(digits) and (np.abs(digits[-1]) >> DIGIT_BITS).any():
            self._reach(self.low, self.low + len(digits) + 1)
            over = digits[-1] >> DIGIT_BITS
            self.digits[-2] -= over << DIGIT_BITS
            self.digits[-1] += over
        self.pending = 0

    def _reach(self, low: int, high: int) -> None:
        """Makes room for the positions [low, high)."""
        if not len(self.digits):
            self.low = low
            self.digits = np.zeros((high - low, *self.shape), np.int64)
            return
        below = max(0, self.low - low)
        above = max(0, high - self.low - len(self.digits))
        if below or above:
            pad = [(below, above)] + [(0, 0)] * len(self.shape)
            self.digits = np.pad(self.digits, pad)
            self.low -= below


def window_exponents(largest: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """E with |x| < 2**E for the largest magnitudes |x| of columns (0 where all are zero)."""
    return np.asarray(np.frexp(np.asarray(largest, np.float64))[1], np.int32)


def window_constant(exponents: npt.ArrayLike) -> Floats:
    """C such that (x + C) - C rounds |x| < 2**E to a multiple of 2**(E - 40), exactly."""
    return np.asarray(1.5 * np.ldexp(1.0, np.asarray(exponents) + (52 - DIGIT_BITS)), np.float64)


def column_sums(values: Floats) -> ExactSums:
    """The exact sum of each column of finite float64 [n, m]."""
    sums = ExactSums.zeros(values.shape[1:])
    for start in range(0, len(values), WINDOW_ROWS // 2):
        rest = values[start : start + WINDOW_ROWS // 2]
        exponents = window_exponents(np.abs(rest).max(axis=0))
        while len(rest):
            window, rest = _windowed(rest, exponents, DIGIT_BITS)
            sums.add_floats(window.sum(axis=0))
            # What a window leaves over is rare: only its rows go on.
            rest = rest[rest.any(axis=1)]
            exponents = exponents - DIGIT_BITS
    return sums


def add_rows(sums: ExactSums, labels: npt.NDArray[np.int32], values: Floats) -> None:
    """Adds rows of finite float64 [n, m] to the sums [k, m] of their labels [n]."""
    columns = values.shape[1]
    for start in range(0, len(values), WINDOW_ROWS):
        places, inverse = np.unique(labels[start : start + WINDOW_ROWS], return_inverse=True)
        flat = (inverse[:, None] * columns + np.arange(columns)).reshape(-1)
        part = ExactSums.zeros((len(places), columns))
        rest = values[start : start + WINDOW_ROWS]
        exponents = window_exponents(np.abs(rest).max(axis=0))
        while rest.any():
            window, rest = _windowed(rest, exponents, DIGIT_BITS)
            total = np.bincount(flat, window.reshape(-1), len(places) * columns).astype(np.float64)
            part.add_floats(total.reshape(part.shape))
            exponents = exponents - DIGIT_BITS
        sums.add_at(places.astype(np.intp), part)


def moments(values: npt.NDArray[np.float32]) -> tuple[ExactSums, ExactSums]:
    """The exact column sums of finite float32 [n, d] and of its squares.

    A value is cut into two halves of 20 bits below its column's exponent, whose products have 40
    bits and so add up exactly; the few rows with finer digits go the general way.
    """
    sums, squares = ExactSums.zeros(values.shape[1:]), ExactSums.zeros(values.shape[1:])
    step = min(WINDOW_ROWS // 2, max(64, _TILE_VALUES // values.shape[1]))
    for start in range(0, len(values), step):
        tile = values[start : start + step]
        exponents = window_exponents(np.maximum(tile.max(axis=0), -tile.min(axis=0)))
        high, low = _windowed(tile.astype(np.float64), exponents, DIGIT_BITS // 2)
        fine = _windowed(low, exponents - DIGIT_BITS // 2, DIGIT_BITS // 2)[1].any(axis=1)
        if fine.any():
            rest = tile[fine].astype(np.float64)
            sums.add(column_sums(rest))
            squares.add(column_sums(rest * rest))
            high, low = high[~fine], low[~fine]
        sums.add_floats(high.sum(axis=0))
        sums.add_floats(low.sum(axis=0))
        squares.add_floats(np.einsum("ij,ij->j", high, high))
        squares.add_floats(2 * np.einsum("ij,ij->j", high, low))
        squares.add_floats(np.einsum("ij,ij->j", low, low))
    return sums, squares


def _windowed(values: Floats, exponents: Any, bits: int) -> tuple[Floats, Floats]:
    """Values |x| < 2**E as multiples of 2**(E - bits), and what is left over, both exact."""
    constant = window_constant(exponents + (DIGIT_BITS - bits))
    window = values + constant
    window -= constant
    return window, values - window


def exact_sum(*values: Floats) -> Fraction:
    """The exact sum of all values of finite float64 arrays.

    Example:
        >>> float(exact_sum(np.array([1e16, 1.0, -1e16])))
        1.0
    """
    table = np.zeros((-(-sum(part.size for part in values) // 64), 64))
    start, flat = 0, table.reshape(-1)
    for part in values:
        flat[start : start + part.size] = part.reshape(-1)
        start += part.size
    total = Fraction(0)
    for begin in range(0, len(table), WINDOW_ROWS // 2):
        rest = table[begin : begin + WINDOW_ROWS // 2]
        exponent = int(window_exponents(np.abs(rest).max()))
        while len(rest):
            if exponent < _SMALLEST_EXPONENT:
                total += column_sums(rest).to_fraction()
                break
            window, rest = _windowed(rest, np.int32(exponent), DIGIT_BITS)
            # Columns of a window add up to 53 bits at most, and 64 of them to 59.
            unit = exponent - DIGIT_BITS
            whole = np.ldexp(window.sum(axis=0), -unit).astype(np.int64).sum()
            total += int(whole) * Fraction(2) ** unit
            rest = rest[rest.any(axis=1)]
            exponent -= DIGIT_BITS
    return total


def dot(sums: ExactSums, factors: npt.NDArray[np.float32]) -> Fraction:
    """The sum of sums * factors, exactly."""
    return exact_sum(*products(sums, factors.astype(np.float64)))


def products(sums: ExactSums, factors: Floats) -> list[Floats]:
    """float64 arrays that add up to sums * factors, exactly, for factors of at most 26 bits.

    Digits are cut in pieces of 20 bits, whose products float64 holds.
    """
    found = []
    for place, digit in enumerate(sums.carried().digits):
        unit = 2.0 ** (DIGIT_BITS * (sums.low + place))
        for piece, scale in ((digit & 0xFFFFF, unit), (digit >> 20, unit * 2.0**20)):
            if piece.any():
                found.append(piece * factors * scale)
    return found


def split(values: Floats) -> tuple[Floats, Floats]:
    """Values as high + low, 26 bits each (T. J. Dekker, Numerische Mathematik 18, 1971)."""
    scaled = values * _SPLITTER
    high = scaled - (scaled - values)
    return high, values - high


def _fraction(digits: list[Any], low: int) -> Fraction:
    total = 0
    for digit in reversed(digits):
        total = (total << DIGIT_BITS) + digit
    return total * Fraction(2) ** (DIGIT_BITS * low)
