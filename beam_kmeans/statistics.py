"""Exact, mergeable statistics of the features, taken while rows are parsed."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_kmeans import sums
from beam_kmeans.sums import ExactSums

#: Rows whose float64 copies stay in a processor's cache.
_TILE = 4096


@dataclasses.dataclass(frozen=True)
class Directionless:
    """Rows of zeros under cosine: cluster 0 with a score of 1, and no part in anything else.

    Attributes:
        rows: how many there are.
        weight: their exact sum of weights.
    """

    rows: int = 0
    weight: Fraction = Fraction(0)

    @classmethod
    def between(cls, raw: Statistics, directed: Statistics) -> Directionless:
        """What is in the statistics of all rows, and not in those of the rows with a direction."""
        weight = raw.weight.to_fraction() - directed.weight.to_fraction()
        return cls(raw.rows - directed.rows, weight)

    def add(self, other: Directionless) -> Directionless:
        """Both together."""
        return Directionless(self.rows + other.rows, self.weight + other.weight)


@dataclasses.dataclass
class Statistics:
    """What one pass over rows [n, d] says of their features; a monoid under `add`.

    Sums are over weight x value; a row without a weight has weight 1. Minima and maxima are over
    rows of any weight.
    """

    rows: int
    positive_rows: int  # rows of a weight above 0
    weight: ExactSums  # []
    weighted: ExactSums  # [d]: sum of w x
    squares: ExactSums  # [d]: sum of w x^2
    minimums: npt.NDArray[np.float64]  # [d]
    maximums: npt.NDArray[np.float64]  # [d]

    @classmethod
    def zero(cls, num_features: int) -> Statistics:
        shape = (num_features,)
        return cls(
            rows=0,
            positive_rows=0,
            weight=ExactSums.zeros(()),
            weighted=ExactSums.zeros(shape),
            squares=ExactSums.zeros(shape),
            minimums=np.full(shape, np.inf),
            maximums=np.full(shape, -np.inf),
        )

    @classmethod
    def of(
        cls,
        values: npt.NDArray[np.float32] | npt.NDArray[np.float64],
        weights: npt.NDArray[np.float32] | None = None,
    ) -> Statistics:
        """The statistics of finite rows [n, d] with weights [n] >= 0."""
        total = cls.zero(values.shape[1])
        if weights is None and values.dtype == np.float32:
            return total._include_plain(values.astype(np.float32, copy=False))
        for start in range(0, len(values), _TILE):
            part = None if weights is None else weights[start : start + _TILE]
            total._include(values[start : start + _TILE].astype(np.float64), part)
        return total

    def add(self, other: Statistics) -> Statistics:
        """Merges another's into this one, in place, and returns this one."""
        self.rows += other.rows
        self.positive_rows += other.positive_rows
        self.weight.add(other.weight)
        self.weighted.add(other.weighted)
        self.squares.add(other.squares)
        np.minimum(self.minimums, other.minimums, out=self.minimums)
        np.maximum(self.maximums, other.maximums, out=self.maximums)
        return self

    def _include_plain(self, values: npt.NDArray[np.float32]) -> Statistics:
        if len(values):
            self._count(values, None)
            self.weight.add_floats(np.array(float(len(values))))
            self.weighted, self.squares = sums.moments(values)
        return self

    def _include(
        self,
        values: npt.NDArray[np.float32] | npt.NDArray[np.float64],
        weights: npt.NDArray[np.float32] | None,
    ) -> None:
        self._count(values, weights)
        wide = values.astype(np.float64)
        parts, squares = [wide], _products(wide, wide)
        if weights is None:
            self.weight.add_floats(np.array(float(len(wide))))
        else:
            column = weights.astype(np.float64)[:, None]
            self.weight.add(_scalar(sums.column_sums(column)))
            parts = _products(column, wide)
            squares = [product for part in squares for product in _products(column, part)]
        for part in parts:
            self.weighted.add(sums.column_sums(part))
        for part in squares:
            self.squares.add(sums.column_sums(part))

    def _count(
        self,
        values: npt.NDArray[np.float32] | npt.NDArray[np.float64],
        weights: npt.NDArray[np.float32] | None,
    ) -> None:
        self.rows += len(values)
        self.positive_rows += len(values) if weights is None else int(np.count_nonzero(weights))
        np.minimum(self.minimums, values.min(axis=0), out=self.minimums)
        np.maximum(self.maximums, values.max(axis=0), out=self.maximums)

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain values, exact."""
        return {
            "rows": self.rows,
            "positive_rows": self.positive_rows,
            "weight": self.weight.to_json(),
            "weighted": self.weighted.to_json(),
            "squares": self.squares.to_json(),
            # Without rows there is no least value: JSON has no infinity.
            "minimums": self.minimums.tolist() if self.rows else None,
            "maximums": self.maximums.tolist() if self.rows else None,
        }

    @classmethod
    def from_json(cls, num_features: int, fields: dict[str, Any]) -> Statistics:
        total, shape = cls.zero(num_features), (num_features,)
        total.rows, total.positive_rows = int(fields["rows"]), int(fields["positive_rows"])
        total.weight = ExactSums.from_json((), fields["weight"])
        total.weighted = ExactSums.from_json(shape, fields["weighted"])
        total.squares = ExactSums.from_json(shape, fields["squares"])
        if total.rows:
            total.minimums = np.array(fields["minimums"], np.float64).reshape(shape)
            total.maximums = np.array(fields["maximums"], np.float64).reshape(shape)
        return total

    def means(self) -> npt.NDArray[np.float64]:
        """float64 [d]: weighted means, each rounded once; the total weight must be above 0."""
        weight = self.weight.to_fraction()
        return np.array([float(total / weight) for total in self.weighted.to_fractions()])

    def variances(self) -> npt.NDArray[np.float64]:
        """float64 [d]: weighted population variances, each rounded once."""
        return np.array([float(variance) for variance in self._exact_variances()])

    def mean_variance(self) -> float:
        """The mean of the variances, rounded once: the scale of a fit's `tolerance`."""
        exact = self._exact_variances()
        return float(sum(exact, Fraction(0)) / len(exact))

    def sum_of_squares(self) -> Fraction:
        """The exact sum of w |x|^2."""
        return self.squares.to_fraction()

    def exponents(self) -> npt.NDArray[np.int32]:
        """int32 [d]: E with |x| < 2**E for every value of the feature."""
        if not self.rows:
            return np.zeros(len(self.minimums), np.int32)
        return sums.window_exponents(np.maximum(np.abs(self.minimums), np.abs(self.maximums)))

    def coarse_features(self) -> npt.NDArray[np.intp]:
        """Features whose spread is under 2**8 float32 spacings of their largest value."""
        if not self.rows:
            return np.zeros(0, np.intp)
        largest = np.maximum(np.abs(self.minimums), np.abs(self.maximums)).astype(np.float32)
        spread = self.maximums - self.minimums
        return np.flatnonzero((spread > 0) & (spread < 2**8 * np.spacing(largest).astype(float)))

    def scales(self) -> npt.NDArray[np.float64]:
        """float64 [d]: standard deviations to divide by; 1 where a feature does not vary."""
        roots = np.array([math.sqrt(variance) for variance in self.variances()])
        return np.where(roots > 0, roots, 1.0)

    def _exact_variances(self) -> list[Fraction]:
        weight = self.weight.to_fraction()
        pairs = zip(self.weighted.to_fractions(), self.squares.to_fractions(), strict=True)
        # Products that underflow can leave a trace below 0 where a feature does not vary.
        return [max(Fraction(0), s / weight - (t / weight) ** 2) for t, s in pairs]


def _products(
    left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]
) -> list[npt.NDArray[np.float64]]:
    """Arrays whose sum is left * right exactly, barring underflow.

    Exact where both are the same, or where one has no more than 26 bits, so that its low part is 0.
    """
    lh, ll = sums.split(left)
    rh, rl = sums.split(right)
    parts = [lh * rh, lh * rl + ll * rh, ll * rl]
    return [part for part in parts if part.any()]


def _scalar(total: ExactSums) -> ExactSums:
    return ExactSums((), total.low, total.digits[:, 0], total.pending)
