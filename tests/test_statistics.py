import math
from fractions import Fraction

import numpy as np
import pytest
import sklearn.preprocessing
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beam_kmeans.statistics import Statistics
from tests import data, laws, oracles

SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
# float64 whose squares do not underflow.
DOUBLE = st.floats(-3e38, 3e38).filter(lambda x: x == 0 or abs(x) > 1e-100)
WEIGHT = st.floats(0, 2.0**100, width=32, allow_subnormal=False)


@st.composite
def weighted_rows(draw, most_rows=8):
    """Rows [n, d], float32 or float64, and weights [n] or None."""
    n, d = draw(st.integers(0, most_rows)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        values = draw(hnp.arrays(np.float32, (n, d), elements=SINGLE))
    else:
        values = draw(hnp.arrays(np.float64, (n, d), elements=DOUBLE))
    weights = draw(st.none() | hnp.arrays(np.float32, n, elements=WEIGHT))
    return values, weights


def contents(statistics):
    return (
        statistics.rows,
        statistics.positive_rows,
        statistics.weight.to_fractions(),
        statistics.weighted.to_fractions(),
        statistics.squares.to_fractions(),
        statistics.minimums.tolist(),
        statistics.maximums.tolist(),
    )


def by_definition(values, weights):
    ones = np.ones(len(values)) if weights is None else weights
    return (
        len(values),
        int((ones > 0).sum()),
        [sum(oracles.fractions(ones), Fraction(0))],
        oracles.column_sums(values, ones),
        oracles.column_sums(values, ones, power=2),
        values.min(axis=0, initial=np.inf).tolist(),
        values.max(axis=0, initial=-np.inf).tolist(),
    )


@given(weighted_rows())
def test_sums_are_exact(drawn):
    values, weights = drawn
    assert contents(Statistics.of(values, weights)) == by_definition(values, weights)


@given(weighted_rows())
def test_means_and_variances_are_exact_and_rounded_once(drawn):
    values, weights = drawn
    _, _, (weight,), sums, squares, _, _ = by_definition(values, weights)
    if weight:
        found = Statistics.of(values, weights)
        variances = [q / weight - (s / weight) ** 2 for s, q in zip(sums, squares, strict=True)]
        assert found.means().tolist() == [float(s / weight) for s in sums]
        assert found.variances().tolist() == [float(v) for v in variances]
        assert found.mean_variance() == float(sum(variances) / len(variances))
        assert found.sum_of_squares() == sum(squares)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [4095, 4097, 9000])
def test_many_rows_in_many_tiles_are_exact(dtype, weighted, rows):
    random = np.random.default_rng(rows)
    values = random.standard_cauchy((rows, 2)).astype(dtype)
    weights = random.exponential(size=rows).astype(np.float32) if weighted else None
    assert contents(Statistics.of(values, weights)) == by_definition(values, weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_merging_is_a_monoid(weighted, dtype):
    random = np.random.default_rng(0)
    values = random.normal(5000, 1, (40, 3)).astype(dtype)
    weights = random.exponential(size=40).astype(np.float32) if weighted else None
    parts = [
        Statistics.of(values[i : i + 7], None if weights is None else weights[i : i + 7])
        for i in range(0, 40, 7)
    ]
    laws.check_monoid(lambda: Statistics.zero(3), parts, contents)
    assert contents(laws.merged(lambda: Statistics.zero(3), parts)) == contents(
        Statistics.of(values, weights)
    )


def test_a_weight_of_two_is_the_row_twice():
    rows = data.blobs()
    weights = np.ones(len(rows), np.float32)
    weights[::3] = 2
    twice, once = (
        Statistics.of(np.repeat(rows, weights.astype(int), axis=0)),
        Statistics.of(rows, weights),
    )
    assert once.rows < twice.rows
    assert contents(once)[2:] == contents(twice)[2:]


def test_a_row_of_weight_zero_counts_in_nothing_but_rows_and_range():
    values = np.array([[1.0], [50.0]], np.float32)
    found = Statistics.of(values, np.array([3, 0], np.float32))
    assert (found.rows, found.positive_rows) == (2, 1)
    assert found.means().tolist() == [1.0]
    assert found.variances().tolist() == [0.0]
    assert found.maximums.tolist() == [50.0]


def test_numpy_agrees_on_spambase():
    rows = data.spambase().astype(np.float64)
    found = Statistics.of(data.spambase())
    np.testing.assert_allclose(found.means(), rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.variances(), rows.var(axis=0), rtol=1e-11)
    assert found.mean_variance() == pytest.approx(rows.var(axis=0).mean(), rel=1e-12)
    assert found.minimums.tolist() == rows.min(axis=0).tolist()
    assert found.maximums.tolist() == rows.max(axis=0).tolist()


@pytest.mark.parametrize("weighted", [False, True])
def test_scikit_learn_agrees_on_scales(weighted):
    rows = data.digits().astype(np.float64)
    weights = np.random.default_rng(0).exponential(size=len(rows)).astype(np.float32)
    weights = weights if weighted else None
    scaler = sklearn.preprocessing.StandardScaler().fit(rows, sample_weight=weights)
    found = Statistics.of(rows, weights)
    np.testing.assert_allclose(found.means(), scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(found.scales(), scaler.scale_, rtol=1e-9)


def test_a_feature_that_does_not_vary_has_scale_one():
    values = np.full((1000, 2), 0.1)
    values[0, 1] = 0.3
    found = Statistics.of(values)
    assert found.variances()[0] == 0
    assert found.scales()[0] == 1
    assert found.scales()[1] == pytest.approx(values[:, 1].std(), rel=1e-12)


def test_a_large_offset_costs_no_digits():
    values = np.array([[1e8], [1e8 + 8]], np.float32)
    assert Statistics.of(values).variances().tolist() == [16.0]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("value", [1e-160, 5e-324, 1e-200, 3e38])
def test_extreme_float64_values_come_to_an_end(value):
    found = Statistics.of(np.array([[value], [2 * value], [0]]), np.ones(3, np.float32))
    assert found.means().tolist() == [float(Fraction(value))]
    assert found.scales()[0] > 0


def test_exponents_bound_every_value():
    values = np.array([[0.5, 0, -8, 1e-30], [0.25, 0, 7.5, -3e38]], np.float32)
    assert Statistics.of(values).exponents().tolist() == [0, 0, 4, 128]
    assert Statistics.zero(2).exponents().tolist() == [0, 0]


def test_coarse_features_vary_by_few_float32_spacings():
    # From 2**19 to 2**20 a float32 spacing is 1/16: 2**8 of them are 16.
    base = 2.0**19
    columns = [
        [base, base + 15.5],  # coarse
        [base, base + 16.5],
        [base, base],  # does not vary
        [-base - 15.5, -base],  # coarse: the largest value is negative
        [-15.5, 15.5],
        [0, 2.0**-20],
    ]
    values = np.array(columns).T
    assert Statistics.of(values).coarse_features().tolist() == [0, 3]
    assert Statistics.of(values.astype(np.float32)).coarse_features().tolist() == [0, 3]


def test_coarse_features_are_seen_in_the_original_values():
    values = np.array([[1e9], [1e9 + 1]])  # one value in float32
    assert Statistics.of(values).coarse_features().tolist() == [0]
    assert Statistics.of(values.astype(np.float32)).coarse_features().tolist() == []


def test_no_rows_have_no_coarse_features():
    assert Statistics.zero(3).coarse_features().tolist() == []
    assert contents(Statistics.of(np.zeros((0, 3), np.float32))) == contents(Statistics.zero(3))


@given(weighted_rows(most_rows=4))
def test_json_keeps_everything(drawn):
    values, weights = drawn
    found = Statistics.of(values, weights)
    again = Statistics.from_json(values.shape[1], found.to_json())
    assert contents(again) == contents(found)
    assert not math.isnan(sum(again.minimums))
