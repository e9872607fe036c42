"""Tests of counts against chances, and small rows of which all chances can be written down."""

import numpy as np
import scipy.stats

#: Rows in a line; the first and the last have one value, one has no weight.
LINE = np.array([[0], [1], [3], [4], [9], [0]], np.float32)
WEIGHTS = np.array([1, 2, 3, 4, 0, 0.5])
SQUARES = (LINE.astype(float) - LINE.astype(float).T) ** 2


def p_value(counts, probabilities):
    """Of a chi-squared test of counts against probabilities; a count that cannot be gives 0.

    What is too rare to be tested alone is tested together.
    """
    counts, probabilities = np.ravel(counts).astype(float), np.ravel(probabilities).astype(float)
    assert np.isclose(probabilities.sum(), 1)
    if counts[probabilities == 0].any():
        return 0.0
    expected = probabilities * counts.sum()
    rare = expected < 8
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 8:
        counts, expected = merged_last(counts), merged_last(expected)
    return float(scipy.stats.chisquare(counts, expected).pvalue)


def merged_last(values):
    return np.append(values[:-2], values[-2:].sum())


def p_value_of_two(one, two):
    """Of a chi-squared test that two samples' counts come of the same chances."""
    table = np.stack([np.ravel(one), np.ravel(two)]).astype(float)
    common = table.min(axis=0) >= 5
    rest = table[:, ~common].sum(axis=1, keepdims=True)
    table = np.concatenate([table[:, common], rest], axis=1)
    table = table[:, table.sum(axis=0) > 10]
    return float(scipy.stats.chi2_contingency(table).pvalue)


def values_of(rows):
    """[int]: which value each of some rows of `LINE` has, as the place of its first row."""
    return [int(np.flatnonzero(LINE[:, 0] == row[0])[0]) for row in np.asarray(rows)]


def by_value(chances):
    """Chances of rows as those of their values: the last row is the first again, on each axis."""
    chances = np.array(chances, float)
    for axis in range(chances.ndim):
        chances = np.moveaxis(chances, axis, 0)
        chances[0] += chances[-1]
        chances = np.moveaxis(chances[:-1], 0, axis)
    return chances
