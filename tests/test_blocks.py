import numpy as np
import pytest
from apache_beam.coders.typecoders import registry

from beam_kmeans.blocks import Block
from beam_kmeans.errors import DataError

ROWS = np.array([[0, 1], [2, 3], [4, 5]])


def test_values_become_canonical_float32():
    block = Block(np.array([[0.1, -0.0, 1e-42]]), np.array([2]))
    assert block.rows.tobytes() == np.array([[0.1, 0, 0]], np.float32).tobytes()
    assert block.weights.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "numbers"),
    [(None, None), (7, [7, 8, 9]), (np.int64(7), [7, 8, 9]), ([5, 1, 3], [5, 1, 3])],
    ids=["none", "first", "first_of_numpy", "each"],
)
def test_rows_have_no_numbers_or_the_first_ones_or_their_own(given, numbers):
    block = Block(ROWS, None, given)
    found = block.numbers()
    assert (found if found is None else found.tolist()) == numbers
    assert block.numbered().row_numbers.tolist() == (numbers or [0, 0, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ROWS[0],), r"a block needs numbers \[n, d\], found int64 \[2\]"),
        ((ROWS.astype(str),), "a block needs numbers"),
        (([[0, np.nan]],), "row 0 of a block holds a value that is no finite float32"),
        (([[0], [1e39]], None, 4), "row 5 holds a value that is no finite float32"),
        ((ROWS, [1, 1]), "3 rows need as many weights"),
        ((ROWS, np.array([1, -1, 1]), 4), "row 5 has weight -1"),
        ((ROWS, np.array([1, 1, np.inf])), "row 2 of a block has weight inf"),
        ((ROWS, None, [1, 2]), r"3 rows need as many integers as numbers.*found int64 \[2\]"),
        ((ROWS, None, [1.0, 2.0, 3.0]), "3 rows need as many integers as numbers.*found float64"),
        ((ROWS, None, [3, -4, 5]), r"row numbers are from 0 to 2\*\*63 - 1, found -4"),
        ((ROWS, None, 2**63 - 2), r"row numbers are .*, found 9223372036854775806 to .*808"),
        ((ROWS, None, 2**63), r"row numbers are from 0 to 2\*\*63 - 1, found 9223372036854775808"),
    ],
)
def test_what_is_no_block_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Block(*arguments)


@pytest.mark.parametrize(
    "block",
    [Block(ROWS), Block(ROWS, np.ones(3), 5), Block(ROWS[:0]), Block(ROWS, None, [3, 1, 2])],
    ids=["plain", "weighted", "empty", "numbered"],
)
def test_a_coded_block_is_the_same(block):
    coder = registry.get_coder(Block)
    data = coder.encode(block)
    again = coder.decode(data)
    assert coder.is_deterministic()
    assert coder.encode(again) == data
    assert again.rows.tobytes() == block.rows.tobytes()
    for name in ("rows", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(block, name))
    np.testing.assert_array_equal(again.numbers(), block.numbers())
