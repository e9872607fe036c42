from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.transforms.records import Layout


class Person(NamedTuple):
    id: int
    visits: int
    age: float
    paid: float = 1.0


class Document(NamedTuple):
    id: int
    embedding: list


PEOPLE = [Person(7, 2, 30.5), Person(9, 0, 41.0, 2.5)]


@pytest.mark.parametrize(
    "elements",
    [
        [[1, 2], [3, 4]],
        [(1.0, 2.0), (3, 4.0)],
        [np.array([1, 2], np.int8), np.array([3, 4], np.float64)],
        [np.array([1, 2], np.float16), np.array([3, 4], np.float16)],
        [range(1, 3), range(3, 5)],
        [[True, 2], [3, np.int64(4)]],
    ],
    ids=["lists", "tuples", "arrays", "half", "ranges", "mixed"],
)
def test_vectors_of_any_numbers_become_rows(elements):
    block = Layout().stack(elements)
    assert block.rows.tolist() == [[1, 2], [3, 4]]
    assert block.rows.dtype == np.float32
    assert block.weights is None
    assert block.row_numbers is None


def test_features_are_taken_in_the_order_they_are_named():
    block = Layout(("b", "a")).stack([{"a": 1, "b": 2, "c": "x"}, {"c": None, "b": 4, "a": 3}])
    assert block.rows.tolist() == [[2, 1], [4, 3]]


def test_rows_with_a_schema_have_the_order_of_their_declaration():
    block = Layout(None, "paid", "id").stack(PEOPLE)
    assert block.rows.tolist() == [[2, 30.5], [0, 41]]
    assert block.weights.tolist() == [1, 2.5]
    assert block.row_numbers.tolist() == [7, 9]
    rows = [beam.Row(z=1, a=2), beam.Row(z=3, a=4)]
    assert Layout().stack(rows).rows.tolist() == [[1, 2], [3, 4]]


def test_one_field_may_hold_the_whole_vector():
    documents = [Document(3, [1, 2]), Document(4, np.array([5, 6]))]
    assert Layout(None, None, "id").stack(documents).rows.tolist() == [[1, 2], [5, 6]]
    assert Layout(("embedding",)).stack(documents).rows.tolist() == [[1, 2], [5, 6]]


def test_a_function_gives_the_row_number():
    block = Layout(row_id=lambda vector: int(vector[0]) * 2).stack([[5, 1], [8, 1]])
    assert block.row_numbers.tolist() == [10, 16]


def test_a_value_does_not_depend_on_the_rows_beside_it():
    odd = 2**60 + 2**36 + 1  # float64 loses the last bit, and then it is a tie
    alone = Layout().stack([[odd]]).rows[0, 0]
    beside = Layout().stack([[odd], [0.5]]).rows[0, 0]
    beside_huge = Layout().stack([[odd], [2**70]]).rows[0, 0]
    assert alone == beside == beside_huge


def test_values_are_rounded_once_and_canonical():
    rows = Layout().stack([[0.1, -0.0, 1e-42]]).rows
    assert rows.tobytes() == np.array([[0.1, 0, 0]], np.float32).tobytes()


@pytest.mark.parametrize(
    ("layout", "element", "message"),
    [
        (Layout(), {"a": 1, "b": 2}, r"is a dict.*StackRows\(features=\[\.\.\.\]\); it has a, b"),
        (Layout(("a", "b")), {"a": 1}, r"\{'a': 1\} has no field 'b'; it has a$"),
        (Layout(("a",), None, "id"), {"id": 4, "b": 1}, "row 4 has no field 'a'; it has id, b"),
        (Layout(("a",)), [1, 2], "is a list, which has no field 'a'"),
        (Layout(None, "w"), [1, 2], "is a list, which has no field 'w'"),
        (Layout(None, None, "id"), [1, 2], "is a list, which has no field 'id'"),
        (Layout(("a", "b")), {"a": 1, "b": "x"}, "feature 'b' is not a number: 'x'"),
        (Layout(("a", "b")), {"a": None, "b": 1}, "feature 'a' is not a number: None"),
        (Layout(), [1, "2"], "feature 1 is not a number: '2'"),
        (Layout(), [1, [2, 3]], r"feature 1 is not a number: \[2, 3\]"),
        (Layout(), ["1", "2"], "feature 0 is not a number: '1'"),
        (Layout(), "12", "is a str; a vector of numbers"),
        (Layout(), 5, "the element 5 is a int; a vector of numbers"),
        (Layout(), [], "has no features"),
        (Layout(("a", "b")), {"a": 1, "b": np.nan}, "feature 'b' is nan"),
        (Layout(), [1, -np.inf], "feature 1 is -inf"),
        (Layout(), [1, 1e39], "feature 1 is 1e\\+39, which is beyond float32"),
        (Layout(), [10**400], "feature 0 is 10+, beyond float32"),
        (Layout(("a",), "w"), {"a": 1, "w": -2}, "weight 'w' is -2; weights of at least 0"),
        (Layout(("a",), "w"), {"a": 1, "w": None}, "weight 'w' is not a number: None"),
        (Layout(("a",), "w"), {"a": 1, "w": np.inf}, "weight 'w' is inf"),
        (Layout(("a",), "w"), {"a": 1}, "no field 'w'"),
        (Layout(("a",), None, "id"), {"a": 1, "id": -1}, "row_id: -1 of .* is no row number"),
        (Layout(("a",), None, "id"), {"a": 1, "id": 2**63}, r"row_id: .*from 0 to 2\*\*63 - 1"),
        (Layout(("a",), None, "id"), {"a": 1, "id": "x1"}, "row_id: 'x1' of .* is no row number"),
        (Layout(row_id=lambda row: row[0]), [1.5, 2], "row_id: 1.5 of .* is no row number"),
    ],
)
def test_an_element_that_is_no_row_is_refused(layout, element, message):
    with pytest.raises(DataError, match=message):
        layout.stack([element])


def test_a_row_of_another_length_is_named():
    with pytest.raises(DataError, match="row 3 has 3 features, row 2 has 2"):
        Layout(row_id=len).stack([[1, 2], [1, 2, 3]])


def test_the_bad_row_of_many_is_named():
    people = [*PEOPLE, Person(12, 3, float("nan")), Person(13, "x", 1.0)]
    with pytest.raises(DataError, match="row 13: feature 'visits' is not a number: 'x'"):
        Layout(None, None, "id").stack(people)
    with pytest.raises(DataError, match="row 12: feature 'age' is nan"):
        Layout(("visits", "age"), None, "id").stack(people[:3])


def test_an_error_shows_only_the_start_of_a_long_element():
    with pytest.raises(DataError) as caught:
        Layout().stack([["x"] + [1.0] * 5000])
    assert len(str(caught.value)) < 200
