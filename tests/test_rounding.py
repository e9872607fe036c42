from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_kmeans import rounding
from beam_kmeans.sums import ExactSums
from tests import oracles
from tests.test_sums import SINGLE, of_ints


def check_quotients(numerators, divisors):
    """Compares with the definition; numerators and divisors are lists of Fractions."""
    numerator = ExactSums.zeros((len(numerators), 1))
    divisor = ExactSums.zeros((len(divisors),))
    for place, value in enumerate(numerators):
        numerator.add_at(np.array([place]), exactly(value).reshaped((1, 1)))
    for place, value in enumerate(divisors):
        divisor.add_at(np.array([place]), exactly(value))
    found = rounding.quotients(numerator, divisor)
    assert found.dtype == np.float32
    expected = [oracles.float32(a / b) for a, b in zip(numerators, divisors, strict=True)]
    assert found[:, 0].tolist() == expected
    assert not np.signbit(found[found == 0]).any()


def exactly(value):
    """ExactSums [1] of a Fraction whose denominator is a power of two."""
    exponent = value.denominator.bit_length() - 1
    exponent += -exponent % 40
    made = of_ints(int(value * 2**exponent))
    made.low -= exponent // 40
    return made


class TestQuotients:
    @given(st.lists(st.tuples(SINGLE, st.integers(1, 2**40)), min_size=1, max_size=5))
    def test_a_quotient_is_rounded_once(self, pairs):
        check_quotients([Fraction(a) * b + 1 for a, b in pairs], [Fraction(b) for _, b in pairs])

    @given(
        st.integers(2**23, 2**24 - 1),
        st.integers(-140, 100),
        st.integers(1, 2**31),
        st.sampled_from([0, 1, -1]),
        st.sampled_from([1, -1]),
    )
    def test_a_quotient_in_the_middle_goes_to_the_even_one(self, bits, exp, divisor, off, sign):
        # Exactly in the middle of two float32, and off it by far less than float64 can tell.
        middle = (bits + Fraction(1, 2)) * Fraction(2) ** exp * sign
        value = middle * divisor + off * Fraction(2) ** (exp - 100)
        check_quotients([value], [Fraction(divisor)])

    @pytest.mark.parametrize("divisor", [1, 3, 2**33 + 1])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_result_below_the_normal_numbers_is_plus_zero(self, divisor, sign):
        smallest = Fraction(2) ** -126
        tops = [
            smallest,
            smallest * (1 - Fraction(2) ** -24),  # the middle: up, to the even one
            smallest * (1 - Fraction(2) ** -24) - Fraction(2) ** -200,
            smallest * (1 - Fraction(2) ** -23),
            smallest / 2,
            smallest / 2**40,
            Fraction(0),
        ]
        check_quotients([sign * top * divisor for top in tops], [Fraction(divisor)] * len(tops))

    def test_the_largest_float32_stays_finite(self):
        largest = Fraction(float(np.finfo(np.float32).max))
        for divisor in (1, 3, 7):
            check_quotients([largest * divisor, -largest * divisor], [Fraction(divisor)] * 2)

    def test_copies_of_one_value_have_that_value_as_their_mean(self):
        random = np.random.default_rng(3)
        values = random.normal(size=(50, 4)).astype(np.float32)
        for copies in (3, 7, 49, 1000):
            total = ExactSums.zeros(values.shape)
            for _ in range(copies):
                total.add_floats(values)
            divisors = ExactSums.of_integers(np.full(50, copies))
            np.testing.assert_array_equal(rounding.quotients(total, divisors), values)

    @given(SINGLE.filter(lambda x: abs(x) < 3e38))
    def test_half_a_spacing_bounds_the_rounding(self, value):
        value = np.float32(value)
        bound = float(rounding.half_spacing(np.array([value]))[0])
        for other in (
            np.nextafter(value, np.float32(np.inf)),
            np.nextafter(value, -np.float32(np.inf)),
        ):
            assert abs(float(other) - float(value)) / 2 <= bound
        assert bound >= 2.0**-126
