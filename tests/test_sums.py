import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beam_kmeans import sums
from beam_kmeans.sums import ExactSums
from tests import laws, oracles

#: What float32 values, their squares and their products with weights can be, and more.
WIDE = st.floats(-1e300, 1e300, allow_nan=False)
SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
# Close in size: what data is like, and where the windows do the work.
NEAR = st.integers(-(2**24), 2**24).map(lambda n: n * 2.0**-12)
VALUES = st.one_of(WIDE, SINGLE, NEAR)


def matrices(elements=VALUES, dtype=np.float64, most_rows=12):
    shapes = st.tuples(st.integers(0, most_rows), st.integers(1, 3))
    return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=elements))


def of_floats(values):
    """ExactSums of one value a place."""
    total = ExactSums.zeros(np.shape(values))
    total.add_floats(np.asarray(values, np.float64))
    return total


def of_ints(total):
    """ExactSums [1] of any whole number, digit by digit."""
    made = ExactSums.zeros((1,))
    for position in range(total.bit_length() // 30 + 1):
        digit = (abs(total) >> (30 * position)) % 2**30 * (1 if total > 0 else -1)
        made.add_scaled(np.array([digit]), 30 * position)
    return made


class TestExactSums:
    def test_zeros_are_zero(self):
        total = ExactSums.zeros((2, 2))
        assert total.to_fractions() == [0] * 4
        assert total.to_float64().tolist() == [[0, 0], [0, 0]]
        assert total.to_fraction() == 0

    @given(matrices())
    def test_floats_lose_nothing(self, values):
        total = ExactSums.zeros(values.shape[1:])
        for row in values:
            total.add_floats(row)
        assert total.to_fractions() == oracles.column_sums(values)

    @pytest.mark.parametrize(
        "value",
        [5e-324, 3e-310, 2.0**-1074 * 3, 2.0**-1041, 2.0**-1022, 1.7e308, -1.7e308, 2.0**1023],
    )
    @pytest.mark.timeout(10)
    def test_the_ends_of_float64_lose_nothing(self, value):
        assert of_floats([value]).to_fractions() == [Fraction(value)]

    @pytest.mark.timeout(10)
    def test_large_and_tiny_values_side_by_side_lose_nothing(self):
        values = [1e300, 5e-324, -1e300, 1e-160, 0.0]
        assert of_floats(values).to_fractions() == oracles.fractions(values)

    @pytest.mark.parametrize("value", [3.0, 5e-324, 0.0, -1e300])
    def test_a_sum_can_be_a_single_number(self, value):
        total = ExactSums.zeros(())
        total.add_floats(np.array(value))
        assert total.to_fractions() == [Fraction(value)]
        assert total.to_json() == ExactSums.from_json((), total.to_json()).to_json()

    def test_a_float_broadcasts(self):
        total = ExactSums.zeros((2, 2))
        total.add_floats(np.array([1.0, 2.5]))
        assert total.to_float64().tolist() == [[1, 2.5], [1, 2.5]]

    def test_arguments_stay_as_they_were(self):
        values = np.array([1.5, -2.25])
        of_floats(values)
        sums.column_sums(values[:, None])
        sums.exact_sum(values)
        assert values.tolist() == [1.5, -2.25]

    @given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4), st.integers(-300, 9))
    def test_scaled_integers_lose_nothing(self, values, exponent):
        total = ExactSums.zeros((len(values),))
        total.add_scaled(np.array(values, np.int64), exponent)
        assert total.to_fractions() == [value * Fraction(2) ** exponent for value in values]

    def test_every_place_can_have_its_own_exponent(self):
        total = ExactSums.zeros((2, 2))
        total.add_scaled(np.array([[1, -1], [3, 2**62]]), np.array([-200, 7]))
        unit = [Fraction(2) ** -200, 128]
        assert total.to_fractions() == [unit[0], -unit[1], 3 * unit[0], 2**62 * unit[1]]

    @given(st.lists(VALUES, min_size=1, max_size=8))
    def test_merging_is_a_monoid(self, values):
        parts = [of_floats([value, 1.0]) for value in values]
        laws.check_monoid(
            lambda: ExactSums.zeros((2,)), parts, lambda total: total.to_fractions(), rounds=2
        )

    def test_every_order_gives_the_same_value(self):
        values = [1e30, 1.0, -1e30, 2.0**-100, -1.0, -(2.0**-100), 0.5]
        for order in itertools.islice(itertools.permutations(values), 0, None, 97):
            total = ExactSums.zeros((1,))
            for value in order:
                total.add(of_floats([value]))
            assert total.to_fractions() == [Fraction(1, 2)]
            assert total.to_float64().tolist() == [0.5]

    @pytest.mark.parametrize(
        "value", [2.0**40 - 2.0**-13, -(2.0**40 - 2.0**-13), -1.0, -(2.0**-80)]
    )
    def test_digits_are_carried_before_they_overflow(self, value):
        # A million additions of the largest digits; doubling makes them fast.
        total, expected = of_floats([value]), Fraction(value)
        for _ in range(45):
            total.add(ExactSums(total.shape, total.low, total.digits.copy(), total.pending))
            expected *= 2
            assert total.pending < 2**20
            assert np.abs(total.digits).max() < 2**62
        assert total.to_fractions() == [expected]

    def test_digits_are_carried_after_many_small_additions(self, monkeypatch):
        monkeypatch.setattr(sums, "_CARRY_AFTER", 50)
        total = ExactSums.zeros((1,))
        for _ in range(1000):
            total.add_floats(np.array([2.0**40 - 1]))
            assert total.pending < 50
            assert abs(total.digits).max() <= 51 * 2**40
        assert total.to_fractions() == [1000 * (2**40 - 1)]

    def test_the_additions_of_others_count(self):
        total, other = of_floats([1.0]), of_floats([1.0])
        other.pending = 2**20 - 3
        other.digits[:] = 2**59
        total.add(other)
        assert total.pending == 2**20 - 1
        total.add_floats(np.array([1.0]))
        assert total.pending == 0
        assert total.to_fractions() == [2**59 + 2]

    @pytest.mark.parametrize("sign", [1, -1])
    def test_the_topmost_digit_grows_into_new_ones(self, sign):
        total = ExactSums((1,), 0, np.array([[sign * (2**62 - 1)]]), pending=1)
        assert total.carried().to_fractions() == [sign * (2**62 - 1)]
        assert len(total.digits) == 2
        assert np.abs(total.digits[-1]) < 2**40
        assert total.digits[0] >= 0

    @given(st.integers(-(2**200), 2**200), st.integers(-5, 5))
    def test_float64_is_near_the_exact_value(self, value, low):
        total = of_ints(value)
        total.low += low
        exact = value * Fraction(2) ** (40 * low)
        assert abs(Fraction(float(total.to_float64()[0])) - exact) <= abs(exact) * 2**-50

    @given(matrices())
    def test_carrying_changes_no_value(self, values):
        total = ExactSums.zeros(values.shape[1:])
        for row in values:
            total.add_floats(row)
        carried = total.part(0, values.shape[1]).carried()
        assert carried.to_fractions() == total.to_fractions()
        assert (carried.digits[:-1] >= 0).all()
        assert (np.abs(carried.digits) < 2**40).all()

    def test_a_part_is_a_copy(self):
        total = of_floats([[1.0], [2.0], [3.0]])
        part = total.part(1, 3)
        part.add_floats(np.array([[9.0], [9.0]]))
        assert part.to_float64().tolist() == [[11], [12]]
        assert total.to_float64().tolist() == [[1], [2], [3]]

    def test_adding_at_places_leaves_the_others(self):
        total = of_floats([1.0, 2.0, 3.0])
        total.add_at(np.array([2, 0]), of_floats([10.0, 2.0**-90]))
        total.add_at(np.array([1]), ExactSums.zeros((1,)))
        assert total.to_fractions() == [1 + Fraction(2) ** -90, 2, 13]

    def test_another_shape_keeps_the_values(self):
        assert of_floats([[1.0], [2.0]]).reshaped((2,)).to_float64().tolist() == [1, 2]
        assert ExactSums.zeros((2, 1)).reshaped((2,)).to_float64().tolist() == [0, 0]

    @given(matrices())
    def test_json_keeps_the_values(self, values):
        total = ExactSums.zeros(values.shape[1:])
        for row in values:
            total.add_floats(row)
        again = ExactSums.from_json(total.shape, total.to_json())
        assert again.to_fractions() == total.to_fractions()
        again.add(total)
        assert again.to_fractions() == [2 * value for value in total.to_fractions()]

    def test_whole_numbers_are_taken_as_they_are(self):
        counts = np.array([0, 1, 2**62, -5])
        assert ExactSums.of_integers(counts).to_fractions() == counts.tolist()


class TestWindows:
    @given(st.lists(VALUES, min_size=1, max_size=5))
    def test_the_exponent_is_the_least_above_the_values(self, values):
        largest = np.abs(np.array(values))
        for value, exponent in zip(largest.tolist(), sums.window_exponents(largest), strict=True):
            assert value < Fraction(2) ** int(exponent)
            assert value == 0 or value >= Fraction(2) ** (int(exponent) - 1)

    @given(SINGLE, st.integers(0, 300))
    def test_the_constant_rounds_to_the_window(self, value, room):
        exponent = sums.window_exponents(abs(value)) + room
        constant = float(sums.window_constant(exponent))
        window = (value + constant) - constant
        unit = Fraction(2) ** (int(exponent) - 40)
        assert Fraction(window) % unit == 0
        assert abs(Fraction(window) - Fraction(value)) <= unit / 2


class TestSumsOfRows:
    @given(matrices())
    def test_column_sums_are_exact(self, values):
        assert sums.column_sums(values).to_fractions() == oracles.column_sums(values)

    @given(matrices(), st.randoms(use_true_random=False))
    def test_the_order_of_rows_changes_nothing(self, values, random):
        order = list(range(len(values)))
        random.shuffle(order)
        one, other = sums.column_sums(values), sums.column_sums(values[order])
        assert one.to_fractions() == other.to_fractions()

    @pytest.mark.parametrize("rows", [4095, 4096, 4097, 8193, 40000])
    @pytest.mark.parametrize("fill", [2.0**24 - 1, 1 - 2.0**-40, 1 - 2.0**-53, -(2.0**-126)])
    def test_full_windows_are_exact(self, rows, fill):
        values = np.full((rows, 1), fill)
        values[rows // 2] = 2.0**-149
        expected = (rows - 1) * Fraction(fill) + Fraction(2.0**-149)
        assert sums.column_sums(values).to_fractions() == [expected]

    def test_cancellation_leaves_what_is_left(self):
        random = np.random.default_rng(0)
        values = np.ldexp(random.normal(size=(5000, 2)), random.integers(-300, 300, (5000, 2)))
        values = np.concatenate([values, -values, np.full((1, 2), 2.0**-320)])
        random.shuffle(values)
        assert sums.column_sums(values).to_fractions() == [Fraction(2) ** -320] * 2

    @given(matrices(SINGLE | NEAR.map(lambda x: float(np.float32(x))), np.float32))
    def test_moments_are_exact(self, values):
        total, squares = sums.moments(values)
        assert total.to_fractions() == oracles.column_sums(values)
        assert squares.to_fractions() == oracles.column_sums(values, power=2)

    @pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
    @pytest.mark.parametrize("columns", [1, 600])
    def test_moments_of_many_rows_are_exact(self, scale, columns):
        random = np.random.default_rng(1)
        values = (random.standard_cauchy((9000 // columns + 60, columns)) * scale).astype(
            np.float32
        )
        total, squares = sums.moments(values)
        assert total.to_fractions() == oracles.column_sums(values)
        assert squares.to_fractions() == oracles.column_sums(values, power=2)

    def test_moments_of_the_largest_window_are_exact(self):
        # All bits set, one sign, the most rows a window has.
        values = np.full((4096 * 2 + 1, 1), 2.0**24 - 1, np.float32)
        total, squares = sums.moments(values)
        assert total.to_fractions() == [len(values) * (2**24 - 1)]
        assert squares.to_fractions() == [len(values) * (2**24 - 1) ** 2]

    @given(matrices(), st.randoms(use_true_random=False))
    def test_rows_are_added_to_their_labels_exactly(self, values, random):
        labels = np.array([random.randrange(4) for _ in values], np.int32)
        total = ExactSums.zeros((4, values.shape[1]))
        total.add_floats(np.ones(total.shape))
        sums.add_rows(total, labels, values)
        own = [oracles.column_sums(values[labels == j]) for j in range(4)]
        assert total.to_fractions() == [1 + value for part in own for value in part]

    def test_rows_of_many_windows_are_added_exactly(self):
        random = np.random.default_rng(2)
        values = np.ldexp(random.normal(size=(20000, 2)), random.integers(-40, 40, (20000, 2)))
        labels = random.integers(0, 3, 20000).astype(np.int32)
        total = ExactSums.zeros((5, 2))
        sums.add_rows(total, labels, values)
        own = [oracles.column_sums(values[labels == j]) for j in range(5)]
        assert total.to_fractions() == [value for part in own for value in part]

    @given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3), elements=VALUES))
    def test_the_sum_of_all_values_is_exact(self, values):
        assert sums.exact_sum(values) == sum(oracles.fractions(values), Fraction(0))

    def test_the_sum_of_nothing_is_zero(self):
        assert sums.exact_sum(np.zeros(0)) == 0
        assert sums.exact_sum(np.zeros((0, 4))) == 0

    @given(matrices(VALUES.filter(lambda x: abs(x) < 1e200)), st.data())
    def test_a_dot_product_is_exact(self, values, data):
        factors = data.draw(hnp.arrays(np.float32, values.shape[1], elements=SINGLE))
        total = sums.column_sums(values)
        pairs = zip(total.to_fractions(), oracles.fractions(factors), strict=True)
        assert sums.dot(total, factors) == sum((s * f for s, f in pairs), Fraction(0))

    @given(WIDE.filter(lambda x: abs(x) > 1e-280))
    def test_split_gives_halves_of_26_bits(self, value):
        high, low = sums.split(np.array([value]))
        assert Fraction(float(high[0])) + Fraction(float(low[0])) == Fraction(value)
        for half in (float(high[0]), float(low[0])):
            mantissa = Fraction(half).numerator
            assert (mantissa // (mantissa & -mantissa or 1)).bit_length() <= 26
