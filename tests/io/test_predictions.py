import csv
import datetime
import decimal
import json
import math
import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io import predictions
from beam_kmeans.io.columns import Columns
from beam_kmeans.io.predictions import FORMATS, Layout, Predictions, id_schema, open_writer

# Scores whose shortest text is a challenge.
SCORES = np.array([0.1, 4.0, 1e-5, 2.0**-1074, 1.7976931348623157e308, 1 / 3])


def made(ids=(), score=SCORES, k=None):
    index = np.arange(len(score), dtype=np.int32)
    scores = None if k is None else np.arange(len(score) * k, dtype=np.float64).reshape(-1, k) / 7
    return Predictions([pa.array(column) for column in ids], index, score, scores)


def layout_of(output_format, ids=None, k=0):
    columns = {name: pa.array(column) for name, column in (ids or {}).items()}
    fields = [pa.field(name, array.type) for name, array in columns.items()]
    return Layout(output_format, pa.schema(fields), k)


def written(path, output_format, ids=None, score=SCORES, k=None):
    """The text of a file of one batch."""
    layout = layout_of(output_format, ids, k or 0)
    layout.check()
    with open_writer(str(path), layout) as writer:
        writer.write(made((ids or {}).values(), score, k))
    return path.read_text()


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("k", [None, 3])
def test_parquet_has_the_columns_with_their_types(tmp_path, k):
    path, ids = tmp_path / "a.parquet", {"name": ["x", "y", None, "", "z", "z"]}
    layout = layout_of("parquet", ids, k or 0)
    with open_writer(str(path), layout) as writer:
        writer.write(made(ids.values(), k=k))
        writer.write(made(ids.values(), k=k))
    table = pyarrow.parquet.read_table(path)
    expected = {"name": pa.string(), "cluster_index": pa.int32(), "score": pa.float64()}
    if k:
        expected["all_scores"] = pa.list_(pa.float64())
        scores = (np.arange(18).reshape(6, 3) / 7).tolist()
        assert table["all_scores"].to_pylist() == scores * 2
    assert [field.name for field in table.schema] == [*expected]
    for name, kind in expected.items():
        assert table.schema.field(name).type.equals(kind)
    assert table["name"].to_pylist() == ids["name"] * 2
    assert table["cluster_index"].to_pylist() == list(range(6)) * 2
    assert table["score"].to_pylist() == SCORES.tolist() * 2


def test_parquet_gathers_batches_to_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "_GROUP_BYTES", 5 * 72)
    path = tmp_path / "a.parquet"
    with open_writer(str(path), layout_of("parquet")) as writer:
        for _ in range(12):
            writer.write(made())
    metadata = pyarrow.parquet.read_metadata(path)
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert rows == [30, 30, 12]


def test_csv_has_a_header_and_a_column_for_every_score(tmp_path):
    text = written(tmp_path / "a.csv", "csv", {"a,b": ['x"y', "1\n2", None, "", "ü", "007"]}, k=2)
    table = [*csv.reader(text.splitlines(keepends=True))]
    assert table[0] == ["a,b", "cluster_index", "score", "score_0", "score_1"]
    assert [row[0] for row in table[1:]] == ['x"y', "1\n2", "", "", "ü", "007"]
    assert [row[1] for row in table[1:]] == list("012345")
    assert [float(row[2]) for row in table[1:]] == SCORES.tolist()
    assert [[float(x) for x in row[3:]] for row in table[1:]] == (
        np.arange(12).reshape(6, 2) / 7
    ).tolist()


def test_json_lines_hold_every_value_exactly(tmp_path):
    ids = {
        'na"me': ['x"y\\', "1\n2\t\x01", None, "", "ü", "007"],
        "plain": ["a", "b", None, "ü", "e", "f"],
        "count": [1, None, -(2**63), 2**63 - 1, 0, 5],
        "flag": [True, False, None, True, True, True],
    }
    found = lines(written(tmp_path / "a.jsonl", "jsonl", ids, k=2))
    assert [[*row] for row in found] == [[*ids, "cluster_index", "score", "all_scores"]] * 6
    for name, values in ids.items():
        assert [row[name] for row in found] == values
    assert [row["cluster_index"] for row in found] == list(range(6))
    assert [row["score"] for row in found] == SCORES.tolist()
    assert [row["all_scores"] for row in found] == (np.arange(12).reshape(6, 2) / 7).tolist()


def test_json_keeps_the_point_of_whole_floats_and_has_no_nan(tmp_path):
    ids = {"x": [1.0, -0.0, math.nan, math.inf, None, 1e20]}
    text = written(tmp_path / "a.jsonl", "jsonl", ids)
    assert [line.partition(", ")[0] for line in text.splitlines()] == [
        '{"x": 1.0',
        '{"x": -0.0',
        '{"x": null',
        '{"x": null',
        '{"x": null',
        '{"x": 1e+20',
    ]


TEXTS = {
    "date": (datetime.date(2020, 1, 2), "2020-01-02"),
    "time": (datetime.datetime(2020, 1, 2, 3, 4, 5, 6), "2020-01-02 03:04:05.000006"),
    "decimal": (decimal.Decimal("1.50"), "1.50"),
    "bytes": (b"\x00\xff", "00ff"),
    "uuid": (pa.scalar(b"\x01\x02", pa.binary(2)), "0102"),
    "large": (pa.scalar("x", pa.large_string()), "x"),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("output_format", ["csv", "jsonl"])
def test_other_ids_are_text(tmp_path, name, output_format):
    value, text = TEXTS[name]
    kind = value.type if isinstance(value, pa.Scalar) else None
    plain = value.as_py() if isinstance(value, pa.Scalar) else value
    ids = {"id": pa.array([plain, None], kind)}
    found = written(tmp_path / "a", output_format, ids, SCORES[:2])
    if output_format == "jsonl":
        assert [row["id"] for row in lines(found)] == [text, None]
    else:
        assert [row[0] for row in csv.reader(found.splitlines())] == ["id", text, ""]


@pytest.mark.parametrize("output_format", ["csv", "jsonl"])
def test_ids_that_are_no_single_values_need_parquet(output_format):
    layout = layout_of(output_format, {"tags": [[1, 2]]})
    with pytest.raises(DataError, match=rf"'tags' is list<.*>, which {output_format} output"):
        layout.check()
    layout_of("parquet", {"tags": [[1, 2]]}).check()


@pytest.mark.parametrize(
    ("output_format", "k", "name"),
    [
        ("parquet", 0, "cluster_index"),
        ("csv", 0, "score"),
        ("csv", 2, "score_1"),
        ("jsonl", 2, "all_scores"),
    ],
)
def test_an_id_of_the_name_of_another_column_is_refused(output_format, k, name):
    with pytest.raises(DataError, match=f"id column {name!r} has the name of a column"):
        layout_of(output_format, {name: ["x"]}, k).check()


def test_names_that_the_output_does_not_have_are_free():
    layout_of("csv", {"score_2": ["x"], "all_scores": ["x"]}, 2).check()
    layout_of("jsonl", {"score_0": ["x"], "all_scores": ["x"]}).check()


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_file_without_rows_is_whole(tmp_path, output_format):
    path = tmp_path / "a"
    with open_writer(str(path), layout_of(output_format, {"id": ["x"]}, 2)) as writer:
        writer.write(made([pa.array([], pa.string())], SCORES[:0], k=2))
    if output_format == "parquet":
        assert pyarrow.parquet.read_table(path).num_rows == 0
    elif output_format == "csv":
        assert path.read_text() == '"id","cluster_index","score","score_0","score_1"\n'
    else:
        assert path.read_text() == ""


@pytest.mark.parametrize("output_format", FORMATS)
def test_an_exception_leaves_nothing(tmp_path, output_format):
    def fail():
        with open_writer(str(tmp_path / "a"), layout_of(output_format)) as writer:
            writer.write(made())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_bytes_are_the_same_however_rows_are_batched(tmp_path, output_format):
    ids = ["a", "b", "c", "d", "e", "f"]
    layout = layout_of(output_format, {"id": ids}, 2)
    whole = made([ids], k=2)
    paths = [tmp_path / "one", tmp_path / "two"]
    for path, step in zip(paths, (6, 4), strict=True):
        with open_writer(str(path), layout) as writer:
            for start in range(0, 6, step):
                part = slice(start, start + step)
                scores = whole.all_scores[part]
                array = whole.ids[0].slice(start, step)
                writer.write(
                    Predictions([array], whole.cluster_index[part], whole.score[part], scores)
                )
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_ids_take_the_types_of_the_first_file(tmp_path):
    layout = layout_of("jsonl", {"id": [1]})
    with open_writer(str(tmp_path / "a"), layout) as writer:
        writer.write(made([pa.array([5, 6], pa.int8())], SCORES[:2]))
        with pytest.raises(DataError, match="'id' is string, which cannot become int64, its type"):
            writer.write(made([["x", "y"]], SCORES[:2]))
    assert [row["id"] for row in lines((tmp_path / "a").read_text())] == [5, 6]


def test_the_ids_of_csv_are_text_unless_they_are_features(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n,x,y\n007,1,2\n")
    columns = Columns(("x", "y"), None, None, ("n", "x"))
    assert id_schema(str(path), columns) == pa.schema({"n": pa.string(), "x": pa.float64()})


def test_the_ids_of_parquet_keep_their_types(tmp_path):
    path = str(tmp_path / "a.parquet")
    table = pa.table({"n": pa.array(["a"]).dictionary_encode(), "m": pa.array([1], pa.uint8())})
    pyarrow.parquet.write_table(table, path)
    columns = Columns(("x",), None, None, ("m", "n"))
    assert id_schema(path, columns) == pa.schema({"m": pa.uint8(), "n": pa.string()})
