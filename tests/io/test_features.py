import logging
import re
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_kmeans.errors import DataError
from beam_kmeans.io.features import (
    Columns,
    parse_rows,
    read_rows,
    resolve_columns,
)
from beam_kmeans.io.files import match_files
from beam_kmeans.io.formats import source_of
from beam_kmeans.io.sources import Chunk
from beam_kmeans.values import canonical_float32

TINY = 2.0**-126  # the smallest float32 that is not denormal
LARGEST = float(np.finfo(np.float32).max)


def chunk_of(columns, first=0, **options):
    batch = pa.RecordBatch.from_pydict(columns)
    return Chunk(batch, first, batch.num_rows, **options)


def by_name(*names, weight=None, ids=()):
    return Columns(names, None, weight, tuple(ids))


def by_list(width, weight=None, ids=()):
    names = tuple(f"feature_{index}" for index in range(width))
    return Columns(names, "v", weight, tuple(ids))


# --- parse_rows ---

TYPES = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()]
TYPES += [pa.uint64(), pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_columns_of_every_type_become_rows(kind, wide):
    batch = chunk_of({"a": pa.array([1, 2, 3], kind), "b": pa.array([4, None, 6], kind)}, first=10)
    rows = parse_rows(batch, by_name("b", "a"), wide=wide)
    assert rows.values.dtype == (np.float64 if wide else np.float32)
    assert rows.values.tolist() == [[4, 1], [6, 3]]
    assert rows.positions.tolist() == [10, 12]
    assert rows.rejected == [(11, "column 'b' is null")]
    assert (rows.weights, rows.ids, rows.flushed) == (None, None, 0)


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("shape", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)])
@pytest.mark.parametrize("wide", [False, True])
def test_lists_of_every_type_become_rows(kind, shape, wide):
    lists = pa.array([[0, 0], [1, 2], None, [3, None], [5, 6]], shape(kind))[1:]
    rows = parse_rows(chunk_of({"v": lists}), by_list(2), wide=wide)
    assert rows.values.dtype == (np.float64 if wide else np.float32)
    assert rows.values.tolist() == [[1, 2], [5, 6]]
    assert rows.positions.tolist() == [0, 3]
    assert rows.rejected == [(1, "column 'v' is null"), (2, "column 'feature_1' is null")]


def test_lists_of_another_length_are_rejected():
    lists = pa.array([[1.0, 2.0], [], [1.0], [3.0, 4.0], [1.0, 2.0, 3.0]])
    rows = parse_rows(chunk_of({"v": lists}), by_list(2))
    assert rows.values.tolist() == [[1, 2], [3, 4]]
    assert rows.rejected == [
        (1, "list of 0 values, expected 2"),
        (2, "list of 1 values, expected 2"),
        (4, "list of 3 values, expected 2"),
    ]


def test_lists_of_another_fixed_size_are_all_rejected():
    lists = pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2))
    rows = parse_rows(chunk_of({"v": lists}), by_list(3))
    assert rows.values.shape == (0, 3)
    assert rows.rejected == [(row, "list of 2 values, expected 3") for row in range(3)]


BAD = {
    "null": (None, "is null"),
    "NaN": (float("nan"), "is NaN"),
    "infinity": (float("-inf"), "is infinite"),
    "large": (1e39, "is beyond float32: 1e+39"),
    "rounds to infinity": (LARGEST + 2.0**103, f"is beyond float32: {LARGEST + 2.0**103!r}"),
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("value", "reason"), BAD.values(), ids=BAD)
def test_values_that_are_no_float32_reject_their_row(value, reason, wide):
    good = [1.0, 2.0, LARGEST, -LARGEST - 2.0**102]
    column = pa.array([*good, value, 3.0], pa.float64())
    other = pa.array(np.arange(6.0))
    for chunk, columns, name in (
        (chunk_of({"x": other, "y": column}), by_name("x", "y"), "y"),
        (
            chunk_of({"v": [list(row) for row in zip(other, column, strict=True)]}),
            by_list(2),
            "feature_1",
        ),
    ):
        rows = parse_rows(chunk, columns, wide=wide)
        assert rows.rejected == [(4, f"column {name!r} {reason}")]
        assert rows.positions.tolist() == [0, 1, 2, 3, 5]
        expected = np.array([*good, 3.0])
        np.testing.assert_array_equal(
            rows.values[:, 1], expected if wide else expected.astype(np.float32)
        )


def test_first_bad_feature_gives_the_reason():
    nan = float("nan")
    chunk = chunk_of({"x": [1.0, nan], "y": pa.nulls(2, pa.int8()), "w": [-1.0, -1.0]})
    rows = parse_rows(chunk, by_name("x", "y", weight="w"))
    assert rows.rejected == [(0, "column 'y' is null"), (1, "column 'x' is NaN")]


def test_weights_that_cannot_be_reject_their_row():
    weights = [1.0, 0.0, -0.0, None, float("nan"), float("inf"), -1.0, -1e-300, 1e39, 2.5]
    rows = parse_rows(chunk_of({"x": [7.0] * 10, "w": weights}), by_name("x", weight="w"))
    assert rows.weights.dtype == np.float32
    assert rows.weights.tolist() == [1.0, 0.0, 0.0, 2.5]
    assert not np.signbit(rows.weights).any()
    assert rows.rejected == [
        (3, "weight is null"),
        (4, "weight is NaN"),
        (5, "weight is infinite"),
        (6, "weight is negative: -1.0"),
        (7, "weight is negative: -1e-300"),
        (8, "weight is beyond float32: 1e+39"),
    ]


def test_integer_weights_are_weights():
    chunk = chunk_of({"v": [[1.0]] * 3, "w": pa.array([2, -2, 0], pa.int8())})
    rows = parse_rows(chunk, by_list(1, weight="w"))
    assert rows.weights.tolist() == [2.0, 0.0]
    assert rows.rejected == [(1, "weight is negative: -2")]


def test_denormals_and_minus_zero_become_zero_and_denormals_are_counted():
    values = [1.0, -0.0, 1e-40, -1e-45, TINY, -TINY, 0.0, 1e-300]
    chunk = chunk_of({"x": values, "w": [1.0] * 7 + [1e-40]})
    rows = parse_rows(chunk, by_name("x", weight="w"))
    assert rows.values[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0, TINY, -TINY, 0.0, 0.0]
    assert np.signbit(rows.values[:, 0]).tolist() == [False] * 5 + [True, False, False]
    assert rows.weights.tolist() == [1.0] * 7 + [0.0]
    assert rows.flushed == 3  # 1e-300 is 0 in float32, not a denormal


def test_denormals_of_rejected_rows_are_not_counted():
    rows = parse_rows(chunk_of({"x": [1e-40, 1e-40], "y": [None, 1.0]}), by_name("x", "y"))
    assert rows.flushed == 1


def test_wide_values_are_the_original_ones():
    values = [0.1, 1e-40, 1e-310, 16777217.0]
    rows = parse_rows(chunk_of({"x": values}), by_name("x"), wide=True)
    assert rows.values[:, 0].tolist() == values


def test_integers_are_rounded_once():
    # Half a float32 spacing and one more: by way of float64 it would be a tie, and go down to even.
    value = 2**60 + 2**36 + 1
    once, twice = np.float32(2**60 + 2**37), np.float32(np.float64(value))
    assert once != twice
    for column in (pa.array([value]), pa.array([value, None]), pa.array([value], pa.uint64())):
        assert parse_rows(chunk_of({"x": column}), by_name("x")).values[0, 0] == once
        lists = pa.array([column.to_pylist()])
        assert parse_rows(chunk_of({"v": lists}), by_list(len(column))).values[:, :1].tolist() in (
            [[once]],
            [],
        )


def test_ids_go_with_their_rows():
    columns = by_name("x", ids=("name", "x"))
    rows = parse_rows(chunk_of({"x": [1.0, None, 3.0], "name": ["a", "b", None]}), columns)
    assert rows.ids.to_pydict() == {"name": ["a", None], "x": [1.0, 3.0]}


def test_positions_and_rejections_of_the_chunk_are_kept():
    chunk = Chunk(
        pa.RecordBatch.from_pydict({"x": [1.0, None, 3.0]}),
        20,
        5,
        np.array([20, 22, 24]),
        [(21, "line of 3 fields, expected 1"), (23, "column 'x' is not a number: 'a'")],
    )
    rows = parse_rows(chunk, by_name("x"))
    assert rows.positions.tolist() == [20, 24]
    assert [row for row, _ in rows.rejected] == [21, 22, 23]


def test_chunk_without_rows_gives_none():
    for columns, empty in (
        (by_name("x"), {"x": pa.array([], pa.int32())}),
        (by_list(1), {"v": pa.array([], pa.list_(pa.int32()))}),
    ):
        assert parse_rows(chunk_of(empty), columns).values.shape == (0, 1)


def test_input_is_not_changed():
    values = np.array([1e-40, -0.0, np.nan, 1.0], np.float32)
    before = values.tobytes()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values), 1)
    rows = parse_rows(chunk_of({"v": lists}), by_list(1))
    assert rows.values.tolist() == [[0.0], [0.0], [1.0]]
    canonical_float32(values)
    assert values.tobytes() == before


def test_fixed_size_lists_are_not_copied():
    values = np.ones((100, 4), np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 4)
    assert np.shares_memory(parse_rows(chunk_of({"v": lists}), by_list(4)).values, values)


@pytest.mark.parametrize("columns", [by_name("v"), by_list(2)])
@pytest.mark.parametrize("values", [["a"], [True], [["a", "b"]]])
def test_column_of_no_numbers_is_an_error_not_a_bad_row(columns, values):
    with pytest.raises(DataError, match=r"column 'v' is .*, not a (number|list of numbers)"):
        parse_rows(chunk_of({"v": values}), columns)


def test_wide_tables_are_interleaved_right():
    table = np.random.default_rng(0).normal(size=(300, 700))
    names = [f"x{index}" for index in range(700)]
    rows = parse_rows(chunk_of(dict(zip(names, table.T.copy(), strict=True))), by_name(*names))
    np.testing.assert_array_equal(rows.values, table.astype(np.float32))


# --- canonical_float32 ---


def _nearest_float32(value):
    """Rounds a rational to float32 by the definition: the nearest, ties to the even one."""
    low = np.float32(float(value))
    candidates = {
        float(low),
        float(np.nextafter(low, np.float32(np.inf))),
        float(np.nextafter(low, np.float32(-np.inf))),
    }

    def distance(candidate):
        even = int(np.float32(candidate).view(np.uint32)) & 1
        return abs(Fraction(candidate) - value), even

    return min((c for c in candidates if np.isfinite(c)), key=distance)


@settings(max_examples=300, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_int64_becomes_the_nearest_float32(value):
    rounded, _ = canonical_float32(np.array([[value]], np.int64))
    assert float(rounded[0, 0]) == _nearest_float32(Fraction(value))


@settings(max_examples=300, deadline=None)
@given(st.floats(width=32, allow_nan=False))
def test_float32_stays_unless_it_is_denormal(value):
    rounded, flushed = canonical_float32(np.array([value]))
    denormal = 0 < abs(value) < TINY
    assert flushed == denormal
    assert rounded[0] == (0 if denormal else value)
    assert rounded[0] != 0 or not np.signbit(rounded[0])


def test_values_beyond_float32_become_infinite_without_a_warning():
    rounded, flushed = canonical_float32(np.array([[1e39, -1e39]]))
    assert rounded.tolist() == [[np.inf, -np.inf]]
    assert flushed == 0


def test_array_that_is_canonical_is_given_back():
    values = np.ones((3, 2), np.float32)
    assert canonical_float32(values)[0] is values or np.shares_memory(
        canonical_float32(values)[0], values
    )


# --- resolve_columns ---


def files_of(tmp_path, columns, name="a.parquet"):
    pq.write_table(pa.table(columns), tmp_path / name)
    return match_files([f"{tmp_path}/*"])


TABLE = {
    "name": ["a", "b"],
    "x": pa.array([1, 2], pa.uint8()),
    "flag": [True, False],
    "y": [1.0, 2.0],
    "w": [1.0, 1.0],
    "v": [[1.0, 2.0], [3.0, 4.0]],
    "id": [7, 8],
}


def test_all_numeric_columns_are_features_by_default_and_logged(tmp_path, caplog):
    files = files_of(tmp_path, TABLE)
    with caplog.at_level(logging.INFO):
        columns = resolve_columns(files, weight_column="w", id_columns=["id", "name"])
    assert columns == Columns(("x", "y"), None, "w", ("id", "name"))
    assert "all 2 numeric columns: x, y" in caplog.text
    assert columns.numeric == ("x", "y", "w")
    assert columns.needed == ("x", "y", "w", "id", "name")


def test_named_features_keep_their_order(tmp_path):
    files = files_of(tmp_path, TABLE)
    columns = resolve_columns(files, features=["y", "id", "x"], id_columns=["id"])
    assert columns == Columns(("y", "id", "x"), None, None, ("id",))
    assert columns.needed == ("y", "id", "x")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 3)], ids=str
)
def test_list_column_names_its_features_by_place(tmp_path, kind):
    files = files_of(tmp_path, {"v": pa.array([None, [1, 2, 3], [4, 5, 6]], kind)})
    columns = resolve_columns(files, features_column="v")
    assert columns.names == ("feature_0", "feature_1", "feature_2")
    assert columns.numeric == columns.needed == ("v",)


def test_first_list_may_be_in_a_later_file(tmp_path):
    files_of(tmp_path, {"v": pa.array([None, []], pa.list_(pa.int8()))}, "a.parquet")
    files = files_of(tmp_path, {"v": pa.array([[1, 2]], pa.list_(pa.int8()))}, "b.parquet")
    assert resolve_columns(files, features_column="v").names == ("feature_0", "feature_1")


ERRORS = {
    "missing": ({"features": ["x", "yy"]}, r"no column 'yy' \(did you mean 'y'\?\); .*: name, x"),
    "text": ({"features": ["x", "name"]}, "feature 'name' is string, not a number"),
    "bool": ({"features": ["flag"]}, "feature 'flag' is bool, not a number"),
    "list as a feature": ({"features": ["v"]}, "feature 'v' is a list: name it as features_column"),
    "empty": ({"features": []}, "features: an empty list"),
    "twice": ({"features": ["x", "y", "x"]}, "features: 'x' is named twice"),
    "both": ({"features": ["x"], "features_column": "v"}, "both are given"),
    "no list": ({"features_column": "x"}, "features_column 'x' is uint8, not a list of numbers"),
    "missing list": ({"features_column": "vv"}, "no column 'vv'"),
    "missing weight": ({"weight_column": "ww"}, r"no column 'ww' \(did you mean 'w'\?\)"),
    "text weight": ({"weight_column": "name"}, "the weight column 'name' is string"),
    "weight as a feature": (
        {"features": ["w"], "weight_column": "w"},
        "'w' is one of the features",
    ),
    "missing id": ({"id_columns": ["nam"]}, r"no column 'nam' \(did you mean 'name'\?\)"),
    "weight as the list": (
        {"features_column": "v", "weight_column": "v"},
        "the weight column 'v' is list|'v' is the features_column too",
    ),
    "id twice": ({"id_columns": ["id", "id"]}, "id_columns: 'id' is named twice"),
}


@pytest.mark.parametrize(("arguments", "words"), ERRORS.values(), ids=ERRORS)
def test_columns_that_cannot_be_are_refused(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words) as caught:
        resolve_columns(files_of(tmp_path, TABLE), **arguments)
    # What is wrong with the arguments alone begins with their name; the rest is the data's.
    usage = re.match(r"[a-z_]+(, [a-z_]+)*: ", str(caught.value))
    assert isinstance(caught.value, DataError) == (usage is None)


def test_table_without_numbers_is_refused_and_its_lists_are_offered(tmp_path):
    files = files_of(tmp_path, {"name": ["a"], "v": [[1.0]]})
    with pytest.raises(
        DataError, match=r"no numeric .*name \(string\).*; features_column could be 'v'"
    ):
        resolve_columns(files)


def test_list_column_without_lists_is_refused(tmp_path):
    files = files_of(tmp_path, {"v": pa.array([None], pa.list_(pa.int8()))})
    with pytest.raises(DataError, match="no file has a list in column 'v'"):
        resolve_columns(files, features_column="v")


def test_npy_has_its_own_names_and_takes_no_others(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(2))
    files = match_files([f"{tmp_path}/a.npy"])
    assert resolve_columns(files) == Columns(("feature_0", "feature_1"), "features", None, ())
    for word, value in (("features", ["feature_0"]), ("weight_column", "w"), ("id_columns", ["i"])):
        with pytest.raises(DataError, match=rf"no named columns for {word}"):
            resolve_columns(files, **{word: value})


def test_csv_column_of_some_numbers_may_be_named_but_text_may_not(tmp_path):
    (tmp_path / "a.csv").write_text("x,mixed,text\n1,?,a\n2,5,b\n")
    files = match_files([f"{tmp_path}/a.csv"])
    assert resolve_columns(files).names == ("x",)
    columns = resolve_columns(files, features=["mixed"], weight_column="x")
    (rows,) = read_rows(source_of(files[0].path).splits(0, files[0], 1)[0], columns)
    assert rows.values.tolist() == [[5.0]]
    assert rows.rejected == [(0, "column 'mixed' is not a number: '?'")]
    with pytest.raises(DataError, match="feature 'text' is string, not a number"):
        resolve_columns(files, features=["text"])


# --- read_rows ---


def test_every_format_gives_the_same_rows(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 3))
    names = ["feature_0", "feature_1", "feature_2"]
    table = pa.table(dict(zip(names, values.T.copy(), strict=True)))
    pq.write_table(table.select(names[::-1]), tmp_path / "a.parquet", row_group_size=20)
    pq.write_table(pa.table({"v": values.tolist()}), tmp_path / "b.parquet")
    np.save(tmp_path / "c.npy", values)
    text = "\n".join([",".join(names), *(",".join(map(repr, row)) for row in values.tolist())])
    (tmp_path / "d.csv").write_text(text)
    given_names = {"a.parquet": {"features": names}, "b.parquet": {"features_column": "v"}}
    for name in ("a.parquet", "b.parquet", "c.npy", "d.csv"):
        (file,) = files = match_files([f"{tmp_path}/{name}"])
        columns = resolve_columns(files, **given_names.get(name, {}))
        assert columns.names == tuple(names)
        parts = [
            rows.values
            for split in source_of(file.path).splits(0, file, 3)
            for rows in read_rows(split, columns)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), values.astype(np.float32))


def test_column_of_another_kind_in_a_later_file_names_the_file(tmp_path):
    files_of(tmp_path, {"x": [1.0]}, "a.parquet")
    files = files_of(tmp_path, {"x": [[1.0]]}, "b.parquet")
    (split,) = source_of(files[1].path).splits(1, files[1], 1)
    with pytest.raises(DataError, match=r"b\.parquet: column 'x' is list<.*>, not a number"):
        list(read_rows(split, resolve_columns(files)))
