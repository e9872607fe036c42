import contextlib
import csv
import dataclasses
import glob
import gzip
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.manifest import Standardization
from beam_kmeans.io.predict_plan import PredictPlan
from beam_kmeans.io.predictions import open_writer
from beam_kmeans.model import KMeansModel
from beam_kmeans.passes import predict as passes
from beam_kmeans.predicting import PredictReport, predict
from tests.data import blobs, given_rows

ROWS = blobs(rows=120, d=3)
CENTERS = given_rows(ROWS, 4)
NAMES = ("x", "y", "z")
SUFFIXES = ["parquet", "csv", "csv.gz", "npy"]


def model_of(centers=CENTERS, features=NAMES, **more):
    return KMeansModel(centers, 0.0, np.zeros(len(centers), np.int64), features=features, **more)


MODEL = model_of()


@pytest.fixture
def place(tmp_path):
    """A folder with a model, and what calls `predict` in it."""
    MODEL.save(str(tmp_path / "model"))
    (tmp_path / "in").mkdir()
    return tmp_path


def run(place, pattern, output="out", **named):
    return predict(f"{place}/model", f"{place}/in/{pattern}", f"{place}/{output}", **named)


def write(place, rows=ROWS, suffix="parquet", number=3, ids=True, names=NAMES):
    """Writes rows into some files, with their numbers as an id, and gives their pattern."""
    for part, places in enumerate(np.array_split(np.arange(len(rows)), number)):
        path = place / "in" / f"{part}.{suffix}"
        if suffix == "npy":
            np.save(path, rows[places])
            continue
        columns = dict(zip(names, np.asarray(rows)[places].T, strict=True))
        if ids:
            columns["id"] = places
        if suffix == "parquet":
            pq.write_table(pa.table(columns), path, row_group_size=10)
        else:
            lines = [columns, *zip(*(map(repr, x.tolist()) for x in columns.values()), strict=True)]
            text = "".join(",".join(line) + "\n" for line in lines).encode()
            path.write_bytes(gzip.compress(text) if suffix == "csv.gz" else text)
    return f"*.{suffix}"


def parts(place, output="out"):
    return sorted(glob.glob(f"{place}/{output}-*-of-*"))


def read(place, output="out"):
    """The rows of all part files in their order, as lists by column."""
    found = []
    for path in parts(place, output):
        if path.endswith(".parquet"):
            found += pq.read_table(path).to_pylist()
        elif path.endswith(".csv"):
            with open(path, newline="") as file:
                for row in csv.DictReader(file):
                    row = {name: json.loads(value) for name, value in row.items()}
                    scores = [value for name, value in row.items() if name.startswith("score_")]
                    found.append({**row, "all_scores": scores} if scores else row)
        else:
            found += map(json.loads, pathlib.Path(path).read_text().splitlines())
    return {name: [row[name] for row in found] for name in found[0]}


def contents(place, output="out"):
    """Every file that begins like the output."""
    paths = [*glob.glob(f"{place}/{output}-*"), *glob.glob(f"{place}/{output}-*/*")]
    return {
        path[len(str(place)) :]: pathlib.Path(path).read_bytes()
        for path in sorted(paths)
        if os.path.isfile(path)
    }


# --- what comes out


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_row_gets_the_prediction_of_the_model_in_memory(place, suffix, output_format):
    named = {} if suffix == "npy" else {"id_columns": ["id"]}
    pattern = write(place, suffix=suffix)
    report = run(place, pattern, output_format=output_format, all_scores=True, **named)
    found = read(place)
    assert found["cluster_index"] == MODEL.predict(ROWS).tolist()
    assert found["score"] == MODEL.score_samples(ROWS).tolist()
    assert found["all_scores"] == MODEL.transform(ROWS).tolist()
    if named:
        # of CSV they are text
        assert [int(value) for value in found["id"]] == list(range(len(ROWS)))
    assert report == PredictReport(
        rows=len(ROWS),
        rejected=0,
        files=len(parts(place)),
        output=f"{place}/out",
        inertia=pytest.approx(MODEL.score(ROWS), rel=1e-12),
        seconds=report.seconds,
    )


def test_what_is_left_is_the_parts_and_their_summary(place):
    report = run(place, write(place))
    names = [f"/out-{part:05d}-of-{report.files:05d}.parquet" for part in range(report.files)]
    assert [*contents(place)] == [*names, "/out-summary.json"]
    assert report.files > 3
    summary = json.loads(contents(place)["/out-summary.json"])
    assert [summary[name] for name in ("rows", "rejected", "files", "inertia")] == [
        report.rows,
        report.rejected,
        report.files,
        report.inertia,
    ]
    assert summary["model"] == f"{place}/model"
    assert [*pq.read_schema(parts(place)[0]).names] == ["cluster_index", "score"]
    assert not glob.glob(f"{place}/out-workshop*")


def test_scores_are_cut_into_slices_where_they_are_many(place, monkeypatch):
    monkeypatch.setattr(passes, "_SCORES_AT_ONCE", 3 * len(CENTERS))
    run(place, write(place, number=1), all_scores=True, id_columns=["id"])
    found = read(place)
    assert found["id"] == list(range(len(ROWS)))
    assert found["all_scores"] == MODEL.transform(ROWS).tolist()


def test_a_list_column_is_read_and_ids_carried(place):
    table = pa.table({"v": [row.tolist() for row in ROWS], "tag": [f"t{n}" for n in range(120)]})
    pq.write_table(table, place / "in" / "a.parquet")
    model_of(features=()).save(str(place / "model"))
    run(place, "a.parquet", features_column="v", id_columns=["tag", "v"])
    found = read(place)
    assert found["tag"] == table["tag"].to_pylist()
    assert found["v"] == table["v"].to_pylist()
    assert found["cluster_index"] == MODEL.predict(ROWS).tolist()


def test_a_standardizing_model_standardizes_the_original_values(place):
    rows = ROWS.astype(np.float64) + 1e9  # of which float32 keeps little
    means, scales = rows.mean(axis=0), rows.std(axis=0)
    standardization = Standardization(tuple(means.tolist()), tuple(scales.tolist()))
    centers = ((rows[:4] - means) / scales).astype(np.float32)
    model = model_of(centers, standardization=standardization)
    model.save(str(place / "model"))
    run(place, write(place, rows))
    prepared = ((rows - means) / scales).astype(np.float32)
    found = read(place)
    assert found["cluster_index"] == model.assign(prepared).tolist()
    assert found["score"] == model.scores(prepared, model.assign(prepared)).tolist()
    assert len({*found["cluster_index"]}) == 4


def test_the_bytes_do_not_depend_on_the_workers(place):
    pattern = write(place)
    named = {"output_format": "jsonl", "id_columns": ["id"]}
    run(place, pattern, "one", **named)
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    run(place, pattern, "two", options=[*options, "--direct_runner_bundle_repeat=1"], **named)
    assert [*contents(place, "one").values()] == [*contents(place, "two").values()]


# --- the features


def test_the_models_own_columns_are_taken_by_name(place):
    pattern = write(place, ROWS[:, [2, 0, 1]], names=("z", "x", "y"))
    run(place, pattern)  # "id" is a number too, and no feature
    assert read(place)["cluster_index"] == MODEL.predict(ROWS).tolist()


def test_without_names_all_numeric_columns_but_the_ids_are_taken(place):
    model_of(features=()).save(str(place / "model"))
    pattern = write(place)
    with pytest.raises(
        DataError,
        match=r"model has 3 features, the input has 4, by default .*\(x, y, z, id\).* id_columns",
    ):
        run(place, pattern)
    run(place, pattern, id_columns=["id"])
    assert read(place)["cluster_index"] == MODEL.predict(ROWS).tolist()


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ({"features": ["x", "y"]}, "the model has 3 features, the input has 2"),
        ({"features": ["y", "x", "z"]}, "feature 0 of the model is 'x', of the input 'y'"),
        ({"features": ["x", "y", "w"]}, "has no column 'w'"),
        ({"id_columns": ["name"]}, "has no column 'name'"),
        ({"id_columns": ["id", "id"]}, "id_columns: 'id' is named twice"),
        ({"features_column": "x"}, "features_column 'x' is float, not a list of numbers"),
    ],
)
def test_columns_that_do_not_fit_are_refused_before_any_job(place, named, match):
    with pytest.raises(ValueError, match=match) as caught:
        run(place, write(place), **named)
    assert isinstance(caught.value, DataError) != str(caught.value).startswith("id_columns: ")
    assert contents(place) == {}


def test_a_missing_feature_of_the_model_is_named(place):
    with pytest.raises(DataError, match=r"0\.csv has no column 'z'"):
        run(place, write(place, ROWS[:, :2], "csv", names=("x", "y")))


def test_npy_of_another_width_is_refused(place):
    with pytest.raises(DataError, match=r"the model has 3 features, the input has 2$"):
        run(place, write(place, ROWS[:, :2], "npy"))


def test_an_id_of_the_name_of_a_prediction_is_refused(place):
    pq.write_table(pa.table({"x": [1], "y": [1], "z": [1], "score": [1]}), place / "in/a.parquet")
    with pytest.raises(DataError, match="id column 'score' has the name of a column"):
        run(place, "a.parquet", id_columns=["score"])


def test_ids_of_another_type_than_the_first_files_name_their_file(place):
    for name, value in (("a", 1), ("b", "one")):
        table = pa.table({"x": [1], "y": [1], "z": [1], "id": [value]})
        pq.write_table(table, place / f"in/{name}.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: id column 'id' is string, which cannot"):
        run(place, "*.parquet", id_columns=["id"])


# --- arguments


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ({"output_format": "xml"}, "'xml' is not allowed; allowed: 'parquet', 'csv', 'jsonl'"),
        ({"on_bad_rows": "keep"}, "'keep' is not allowed; allowed: 'error', 'drop'"),
        ({"id_columns": "id"}, "id_columns: a list of names is needed, found the text 'id'"),
        ({"features": "x"}, "features: a list of names is needed, found the text 'x'"),
        ({"options": ["--runer=x"]}, "unknown flag --runer"),
        ({"output": "in"}, "is a directory; it is how the names .* begin, for example '.*in/pred"),
        ({"output": "new/"}, "new/' is a directory"),
    ],
)
def test_arguments_that_are_not_allowed_are_refused(place, named, match):
    with pytest.raises(ValueError, match=match):
        run(place, write(place), **named)


def test_no_model_is_named(place):
    with pytest.raises(DataError, match="in holds no model"):
        predict(f"{place}/in", f"{place}/in/*", f"{place}/out")


def test_no_matching_file_is_named(place):
    with pytest.raises(DataError, match=r"no file matches '.*/in/none\*'"):
        run(place, "none*")
    with pytest.raises(DataError, match="no file to read the columns of"):
        predict(f"{place}/model", [], f"{place}/out")


# --- bad rows


def with_bad_rows():
    rows = ROWS.copy()
    rows[[5, 77], [1, 2]] = [np.nan, np.inf]
    return rows


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bad_row_stops_the_job_and_nothing_is_left(place, suffix):
    with pytest.raises(DataError, match=rf"0\.{suffix}, row 5: column '.*' is NaN .*'drop'"):
        run(place, write(place, with_bad_rows(), suffix))
    assert contents(place) == {}
    assert not glob.glob(f"{place}/out*")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_dropped_rows_are_counted_and_listed(place, suffix):
    report = run(place, write(place, with_bad_rows(), suffix), on_bad_rows="drop")
    good = np.delete(np.arange(len(ROWS)), [5, 77])
    assert (report.rows, report.rejected) == (118, 2)
    assert read(place)["cluster_index"] == MODEL.predict(ROWS[good]).tolist()
    listed = b"".join(
        data for path, data in contents(place).items() if path.startswith("/out-rejected/")
    )
    assert [json.loads(line) for line in listed.splitlines()] == [
        {"file": f"{place}/in/0.{suffix}", "row": 5, "reason": "column 'y' is NaN"},
        {"file": f"{place}/in/1.{suffix}", "row": 37, "reason": "column 'z' is infinite"},
    ]


def test_a_value_beyond_float32_once_standardized_is_a_bad_row(place):
    standardization = Standardization((0.0,) * 3, (1.0, 1e-30, 1.0))
    model_of(standardization=standardization).save(str(place / "model"))
    rows = np.zeros((4, 3))
    rows[2, 1] = 1e20
    pattern = write(place, rows, number=1)
    message = r"0\.parquet, row 2: column 'y' is beyond float32 once standardized: 1e\+20"
    with pytest.raises(DataError, match=message):
        run(place, pattern)
    assert run(place, pattern, on_bad_rows="drop").rejected == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_rows_are_an_error(place, suffix):
    with pytest.raises(DataError, match=rf"the data has no rows: .*/in/0\.{suffix}"):
        run(place, write(place, ROWS[:0], suffix, number=1))
    assert contents(place) == {}


def test_a_file_without_rows_among_others_is_no_error(place):
    (place / "in" / "00.csv").write_text("id,x,y,z\n")
    report = run(place, write(place, suffix="csv"), id_columns=["id"], output_format="csv")
    assert report.rows == len(ROWS)
    assert read(place)["id"] == list(range(len(ROWS)))


def test_no_good_rows_are_an_error(place):
    with pytest.raises(DataError, match=r"the data has no rows \(2 were rejected\)"):
        run(place, write(place, np.full((2, 3), np.nan), number=1), on_bad_rows="drop")
    assert contents(place) == {}


# --- run again


def no_job(*_):
    pytest.fail("predicted once more")


def test_complete_predictions_are_answered_at_once(place, monkeypatch):
    pattern = write(place)
    first, before = run(place, pattern), contents(place)
    monkeypatch.setattr(passes, "predict_group", no_job)
    again = run(place, pattern)
    assert dataclasses.replace(again, seconds=first.seconds) == first
    assert contents(place) == before


def test_a_missing_part_is_made_again(place):
    pattern = write(place)
    run(place, pattern)
    before = contents(place)
    os.remove(parts(place)[1])
    run(place, pattern)
    assert contents(place) == before


def test_a_truncated_part_is_made_again(place):
    pattern = write(place)
    run(place, pattern)
    before = contents(place)
    os.truncate(parts(place)[1], 10)
    run(place, pattern)
    assert contents(place) == before


OTHERS = [
    {"output_format": "csv"},
    {"all_scores": True},
    {"id_columns": ["id"]},
    {"on_bad_rows": "drop"},
    {"features": ["x", "y", "z"], "id_columns": ["z"]},
]


def test_other_predictions_at_the_same_place_are_refused(place):
    pattern = write(place)
    run(place, pattern)
    match = r"out-summary\.json is of another model, input or other options: remove .*out-\*"
    before = contents(place)
    for named in OTHERS:
        with pytest.raises(DataError, match=match):
            run(place, pattern, **named)
    os.utime(place / "in/0.parquet", (1, 1))
    with pytest.raises(DataError, match=match):
        run(place, pattern)
    write(place)
    model_of(CENTERS[:2]).save(str(place / "model"))
    with pytest.raises(DataError, match=match):
        run(place, pattern)
    assert contents(place) == before


@pytest.mark.parametrize(
    "name",
    ["out-00000-of-00002.csv", "out-00001-of-00099.parquet", "out-rejected/00000.jsonl"],
)
def test_parts_of_other_predictions_are_refused(place, name):
    files.write_bytes(f"{place}/{name}", b"")
    with pytest.raises(DataError, match=f"{name} is of other predictions: remove"):
        run(place, write(place))
    assert contents(place) == {f"/{name}": b""}


def test_parts_of_other_predictions_beside_complete_ones_are_refused(place):
    pattern = write(place)
    run(place, pattern)
    (place / "out-00000-of-00002.csv").touch()
    with pytest.raises(DataError, match=r"out-00000-of-00002\.csv is of other predictions"):
        run(place, pattern)


def test_files_of_others_that_only_begin_alike_are_no_parts(place):
    (place / "out-x-00000-of-00002.csv").touch()
    (place / "out-notes.txt").touch()
    assert run(place, write(place)).rows == len(ROWS)


def test_an_output_with_a_bracket_in_its_name_is_a_name_like_any_other(place):
    pattern = write(place)
    run(place, pattern, "a[b]*")
    assert run(place, pattern, "a[b]*").rows == len(ROWS)
    with pytest.raises(DataError, match=re.escape("a[b]*-summary.json is of another")):
        run(place, pattern, "a[b]*", all_scores=True)


# --- ended in the middle


@contextlib.contextmanager
def dying(path, layout):
    """Opens a part file for a process that ends after its first rows, if it is the fourth."""
    with open_writer(path, layout) as writer:
        if "-00003-of-" not in path:
            yield writer
            return
        write = writer.write

        def once(predictions):
            write(predictions)
            raise RuntimeError("the machine is gone")

        writer.write = once
        yield writer


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_what_ended_in_the_middle_is_completed_and_whole_parts_are_kept(
    place, monkeypatch, output_format
):
    pattern = write(place)
    run(place, pattern, "never", output_format=output_format)
    with monkeypatch.context() as patch:
        patch.setattr(passes, "open_writer", dying)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            run(place, pattern, output_format=output_format)
    left = contents(place)
    never = {path.replace("/never-", "/out-"): x for path, x in contents(place, "never").items()}
    whole = {path for path in left if path in never}
    assert {path: left[path] for path in whole} == {path: never[path] for path in whole}
    assert "/out-summary.json" not in whole
    assert not any("-00003-of-" in path for path in left)
    assert all("-workshop-" in path for path in {*left} - whole)

    times = {path: os.stat(f"{place}{path}").st_mtime_ns for path in whole}
    run(place, pattern, output_format=output_format)
    assert contents(place) == never
    assert {path: os.stat(f"{place}{path}").st_mtime_ns for path in whole} == times


def test_others_do_not_go_on_with_what_ended_in_the_middle(place, monkeypatch):
    pattern = write(place)
    with monkeypatch.context() as patch:
        patch.setattr(passes, "open_writer", dying)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            run(place, pattern)
    with pytest.raises(DataError, match=r"plan\.json is of other predictions, which were not"):
        run(place, pattern, all_scores=True)


@pytest.mark.heavy
@pytest.mark.kill
def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(place):
    pattern = write(place)
    code = """if True:
        import os, sys
        from beam_kmeans.passes import predict as passes
        from beam_kmeans.predicting import predict
        real = passes.open_writer
        def open_writer(path, layout):
            opened = real(path, layout)
            if "-00003-of-" in path:
                opened.__enter__()
                os._exit(9)
            return opened
        passes.open_writer = open_writer
        predict(*sys.argv[1:])
    """
    arguments = [f"{place}/model", f"{place}/in/{pattern}", f"{place}/out"]
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=root, timeout=100)
    assert done.returncode == 9
    assert glob.glob(f"{place}/.out-00003-of-*.tmp")
    assert not any("-00003-of-" in path for path in parts(place))
    run(place, pattern)
    assert read(place)["cluster_index"] == MODEL.predict(ROWS).tolist()


def test_a_changed_model_or_file_ends_the_job(place, monkeypatch):
    pattern = write(place)
    changes = [lambda: model_of(CENTERS[:2]).save(str(place / "model"))]
    changes.append(lambda: (place / "in/2.parquet").write_bytes(b"x"))
    matches = ["model has changed since the job was planned", r"2\.parquet"]
    save = PredictPlan.save
    for change, match in zip(changes, matches, strict=True):
        MODEL.save(str(place / "model"))
        monkeypatch.setattr(
            PredictPlan, "save", lambda plan, change=change: (save(plan), change())[0]
        )
        with pytest.raises(DataError, match=match):
            run(place, pattern)
        assert contents(place) == {}


def test_a_damaged_summary_is_named(place):
    pattern = write(place)
    run(place, pattern)
    path = place / "out-summary.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"out-summary\.json is not a summary of predictions"):
        run(place, pattern)


def test_a_driver_whose_work_another_one_finished_gives_its_answer(place, monkeypatch):
    pattern = write(place)
    first = run(place, pattern)
    finished = PredictPlan.finished
    answers = [lambda plan: None, finished]
    monkeypatch.setattr(PredictPlan, "finished", lambda plan: answers.pop(0)(plan))

    def meanwhile(plan):
        path = PredictPlan.path.fget(plan)
        return path  # never written: the other driver has cleaned up

    monkeypatch.setattr(PredictPlan, "save", meanwhile)
    again = run(place, pattern)
    assert dataclasses.replace(again, seconds=first.seconds) == first
