import numpy as np
import pytest

from beam_kmeans.values import canonical_float32

TINY = 2.0**-126  # the smallest normal float32


@pytest.mark.parametrize(
    "dtype",
    ["f8", "f4", ">f4", ">f8", "f2", "i1", "i8", "u8", "g"],
)
def test_any_number_type_becomes_native_float32(dtype):
    rounded, denormals = canonical_float32(np.array([[0, 1, 2]], dtype))
    assert rounded.dtype == np.float32
    assert rounded.dtype.isnative
    assert rounded.tolist() == [[0.0, 1.0, 2.0]]
    assert denormals == 0


def test_integers_are_rounded_once():
    # Halfway between two float32 but for the last bit, which a detour through float64 would lose.
    assert int(canonical_float32(np.array([2**60 + 2**36 + 1]))[0][0]) == 2**60 + 2**37


def test_denormals_become_zero_and_are_counted():
    values = np.array([TINY, TINY * 0.75, -TINY / 8, 1e-60, 0.0, -0.0, -TINY])
    rounded, denormals = canonical_float32(values)
    assert rounded.tolist() == [TINY, 0, 0, 0, 0, 0, -TINY]
    assert denormals == 2
    assert not np.signbit(rounded[:-1]).any()


def test_what_rounds_up_to_a_normal_number_is_kept():
    rounded, denormals = canonical_float32(np.array([TINY * (1 - 2.0**-30), -TINY]))
    assert rounded.tolist() == [TINY, -TINY]
    assert denormals == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_minus_zero_becomes_zero_without_being_counted(dtype):
    rounded, denormals = canonical_float32(np.array([-0.0, 0.0, 1.0], dtype))
    assert rounded.tobytes() == np.array([0, 0, 1], np.float32).tobytes()
    assert denormals == 0


def test_what_is_beyond_float32_becomes_infinite_and_nan_stays():
    rounded, _ = canonical_float32(np.array([1e39, -1e39, np.nan, np.inf, -0.0]))
    expected = np.array([np.inf, -np.inf, np.nan, np.inf, 0], np.float32)
    np.testing.assert_array_equal(rounded, expected)


def test_the_argument_is_never_changed():
    given = np.array([[1.0, -0.0, 1e-42]], np.float32)
    kept = given.tobytes()
    rounded, _ = canonical_float32(given)
    assert given.tobytes() == kept
    assert not np.shares_memory(rounded, given)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0), (3, 2)])
@pytest.mark.parametrize("fill", [0.0, -0.0, 1.0])
def test_any_shape_is_kept(shape, fill):
    assert canonical_float32(np.full(shape, fill))[0].shape == shape


def test_columns_become_rows_in_c_order():
    given = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    rounded, _ = canonical_float32(given)
    assert rounded.flags.c_contiguous
    assert rounded.tolist() == given.tolist()
