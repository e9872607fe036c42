"""What is right by definition: short, slow, and without a line of the package."""

from fractions import Fraction

import numpy as np


def all_scores(rows, centers):
    """float64 [n, k]: squared distances, one IEEE operation at a time, features in order."""
    rows, centers = np.asarray(rows, np.float64), np.asarray(centers, np.float64)
    total = np.zeros((len(rows), len(centers)))
    for feature in range(rows.shape[1]):
        total += (rows[:, feature, None] - centers[None, :, feature]) ** 2
    return total


def assign(rows, centers):
    """int [n]: the lowest index of the smallest score."""
    step = max(1, 2**23 // len(centers))
    parts = [all_scores(rows[i : i + step], centers) for i in range(0, len(rows), step)]
    return np.concatenate([part.argmin(axis=1) for part in parts] or [np.zeros(0, int)])


def lloyd(rows, centers, iterations, weights=None):
    """The centers, inertia and counts after 0, 1, ... iterations; an empty cluster stays put."""
    rows, centers = np.asarray(rows, np.float64), np.asarray(centers, np.float32)
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
    records = []
    for _ in range(iterations + 1):
        scores = all_scores(rows, centers)
        labels = scores.argmin(axis=1)
        counts = np.bincount(labels, minlength=len(centers))
        records.append((centers, float((weights * scores.min(axis=1)).sum()), counts))
        centers = means(rows, weights, labels, centers)
    return records


def means(rows, weights, labels, centers):
    """float32 [k, d]: the weighted mean of each cluster's rows, in float64, rounded once."""
    centers = centers.copy()
    for j in range(len(centers)):
        own = labels == j
        if weights[own].sum() > 0:
            centers[j] = (weights[own, None] * rows[own]).sum(axis=0) / weights[own].sum()
    return centers


def fractions(values):
    """Floats as exact numbers, in C order."""
    return [Fraction(float(value)) for value in np.asarray(values).reshape(-1)]


def whole(values):
    """[int]: finite floats in units of 2**-149 (float32) or 2**-1074: fast exact numbers."""
    values = np.asarray(values)
    if values.dtype == np.float32:
        return [int(value) for value in (values.astype(np.float64) * 2.0**149).reshape(-1).tolist()]
    ratios = (value.as_integer_ratio() for value in values.reshape(-1).tolist())
    return [top * (2**1074 // bottom) for top, bottom in ratios]


def unit(values):
    """Fraction: the unit of `whole`."""
    return Fraction(1, 2**149 if np.asarray(values).dtype == np.float32 else 2**1074)


def column_sums(values, weights=None, power=1):
    """[Fraction]: the exact sum of weight x value ** power of each column of [n, m]."""
    values = np.asarray(values)
    scale, columns = unit(values) ** power, [whole(column) for column in values.T]
    if weights is None:
        return [sum(x**power for x in column) * scale for column in columns]
    scale, weights = scale * unit(weights), whole(weights)
    return [
        sum(w * x**power for w, x in zip(weights, column, strict=True)) * scale
        for column in columns
    ]


def inertia(rows, centers, labels, weights=None):
    """Fraction: the exact sum of weight x squared distance."""
    weights = fractions(np.ones(len(rows)) if weights is None else weights)
    pairs = zip(weights, rows, centers[labels], strict=True)
    return sum(
        (
            w * sum((x - c) ** 2 for x, c in zip(fractions(row), fractions(center), strict=True))
            for w, row, center in pairs
        ),
        Fraction(0),
    )


def float32(value):
    """np.float32: the nearest to a Fraction, ties to the even last bit; below normal it is 0."""
    if value == 0:
        return np.float32(0)
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length() - 25
    exponent = max(exponent, -149)
    while abs(value) >= Fraction(2) ** (exponent + 24):
        exponent += 1
    rounded = round(value / Fraction(2) ** exponent) * Fraction(2) ** exponent
    return np.float32(float(rounded) if abs(rounded) >= Fraction(2) ** -126 else 0)


def exact_means(rows, labels, centers, weights=None):
    """float32 [k, d]: exact weighted means, each rounded once; an empty cluster stays put."""
    weights = np.ones(len(rows)) if weights is None else weights
    centers = centers.copy()
    for j in range(len(centers)):
        own = labels == j
        total = sum(fractions(weights[own]), Fraction(0))
        if total:
            centers[j] = [float32(s / total) for s in column_sums(rows[own], weights[own])]
    return centers
