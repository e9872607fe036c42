"""The commands as people run them: real data through, and what is said of bad input."""

import csv
import json
import pathlib
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_kmeans import KMeansModel, StagedDataset, cli
from beam_kmeans.io.manifest import write_json
from tests import data, oracles, runs, servers, tables

SPAMBASE = data.EXAMPLES / "spambase.csv"
FEATURES = SPAMBASE.open().readline().rstrip().rpartition(",label")[0]
ROWS = data.blobs(60, 3)


def train(source, folder, *more):
    """The arguments of a small training; later ones win."""
    return [
        "train",
        f"--input={source}",
        f"--work_dir={folder}/work",
        "--num_clusters=3",
        "--initial_clusters=random",
        "--max_iterations=1",
        *more,
    ]


def check_history(history, rows, initial):
    """Against ten lines of NumPy: inertia and sizes in each iteration."""
    expected = oracles.lloyd(rows, initial, len(history) - 1)
    inertias = [inertia for _, inertia, _ in expected]
    np.testing.assert_allclose([record["inertia"] for record in history], inertias, rtol=1e-6)
    for record, (_, _, counts) in zip(history, expected, strict=True):
        assert (record["smallest"], record["largest"]) == (counts.min(), counts.max())
    return expected[-1]


# Real data


def test_spambase_from_csv_to_clusters(tmp_path):
    rows, initial = data.spambase(), data.given_rows(data.spambase(), 10)
    np.save(tmp_path / "initial.npy", initial)
    more = ["--num_clusters=10", f"--initial_clusters={tmp_path}/initial.npy", "--tolerance=0"]
    more += [f"--features={FEATURES}", "--max_iterations=20", "--empty_clusters=keep"]
    report = cli.main(train(SPAMBASE, tmp_path, *more))
    assert (report.rows, report.num_features, report.iterations) == (4601, 57, 20)
    model = KMeansModel.load(report.model_dir)
    centers, inertia, counts = check_history(model.history, rows, initial)
    np.testing.assert_array_equal(model.counts, counts)
    np.testing.assert_allclose(model.cluster_centers, centers, rtol=1e-6)
    assert model.features == tuple(FEATURES.split(","))

    predict = ["predict", f"--model={report.model_dir}", f"--input={SPAMBASE}"]
    predict += [f"--output={tmp_path}/out", "--id_columns=label", "--output_format=csv"]
    predicted = cli.main(predict)
    assert (predicted.rows, predicted.rejected) == (4601, 0)
    np.testing.assert_allclose(predicted.inertia, inertia, rtol=1e-6)
    lines = [
        line
        for path in sorted(tmp_path.glob("out-*-of-*.csv"))
        for line in csv.DictReader(path.open())
    ]
    labels = [line.rsplit(",", 1)[1] for line in SPAMBASE.read_text().splitlines()[1:]]
    assert [line["label"] for line in lines] == labels
    indices = oracles.assign(rows, model.cluster_centers)
    assert [int(line["cluster_index"]) for line in lines] == indices.tolist()


@pytest.mark.heavy
@pytest.mark.runners
def test_digits_from_parquet_lists_to_all_scores(tmp_path):
    rows, initial = data.digits(), data.given_rows(data.digits(), 10)
    np.save(tmp_path / "initial.npy", initial)
    source = tables.write(tmp_path / "in", rows, files=3)
    more = ["--num_clusters=10", f"--initial_clusters={tmp_path}/initial.npy", "--tolerance=0"]
    more += ["--features_column=features", "--max_iterations=20"]
    report = cli.main(train(source, tmp_path, *more))
    model = KMeansModel.load(report.model_dir)
    _, _, counts = check_history(model.history, rows, initial)
    np.testing.assert_array_equal(model.counts, counts)

    predict = ["predict", f"--model={report.model_dir}", f"--input={source}", "--all_scores"]
    predict += [f"--output={tmp_path}/out", "--features_column=features"]
    cli.main(predict)
    table = pq.read_table(sorted(tmp_path.glob("out-*-of-*.parquet")))
    scores = oracles.all_scores(rows, model.cluster_centers)
    np.testing.assert_array_equal(np.stack(table["all_scores"].to_numpy()), scores)
    np.testing.assert_array_equal(table["cluster_index"], scores.argmin(axis=1))
    np.testing.assert_array_equal(table["score"], scores.min(axis=1))


@pytest.mark.heavy
@pytest.mark.runners
def test_a_process_of_its_own_says_where_it_runs_and_prints_one_object(tmp_path):
    source = tables.write(tmp_path / "in", ROWS, "csv.gz")
    command = train(source, tmp_path, "--json")
    result = servers.command(*command)
    report = result.report()
    assert (report["finished"], report["jobs"], report["rows"]) == (True, 1, 60)
    assert result.out.count("\n") == 1
    first = next(line for line in result.err.splitlines() if "beam-kmeans" in line)
    assert "runner FnApiRunner" in first
    assert "Traceback" not in result.err
    again = cli.main(command)
    assert (again.jobs, again.inertia) == (0, report["inertia"])


# Bad input: an exit code, and one line that says what is wrong


def refused(capsys, arguments, code=1):
    """The last line on standard error of a command that fails."""
    assert cli.entry([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.rstrip().splitlines()[-1]


@pytest.fixture
def source(tmp_path):
    return tables.write(tmp_path / "in", ROWS, "columns", files=2)


def write_csv(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    return path


def ragged_lists(folder):
    import pyarrow as pa

    table = pa.table({"v": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0]])})
    pq.write_table(table, folder / "ragged.parquet")
    return folder / "ragged.parquet"


BAD_INPUT = {
    "no-file": (lambda folder: folder / "none-*.csv", [], r"no file matches '.*none-\*\.csv'"),
    "directory": (lambda folder: folder, [], "is a directory: name its files"),
    "format": (
        lambda folder: write_csv(folder / "a.txt", ["x", "1"]),
        [],
        r"a\.txt: not a known format; names of data files end in \.parquet, \.csv",
    ),
    "no-rows": (lambda folder: write_csv(folder / "a.csv", ["x,y"]), ["--features=x,y"],
                "the data has no rows: .*a.csv"),
    "empty-file": (lambda folder: write_csv(folder / "a.csv", []), [], r"a\.csv"),
    "missing-column": (
        lambda folder: write_csv(folder / "a.csv", ["height,width", "1,2"]),
        ["--features=height,widht"],
        "widht.*did you mean 'width'",
    ),
    "text-column": (
        lambda folder: write_csv(folder / "a.csv", ["x,name", "1,ann", "2,bob"]),
        ["--features=x,name"],
        "'name'",
    ),
    "ragged-lists": (
        ragged_lists,
        ["--features_column=v"],
        r"ragged\.parquet, row 2: list of 1 values, expected 2",
    ),
    "ragged-lines": (
        lambda folder: write_csv(folder / "a.csv", ["x,y", "1,2", "3", "4,5"]),
        [],
        r"a\.csv, row 1: line of 1 fields, expected 2",
    ),
    "nan": (
        lambda folder: write_csv(folder / "a.csv", ["x,y", "1,2", "nan,4", "5,6"]),
        [],
        r"a\.csv, row 1: column 'x' is NaN \(on_bad_rows 'drop' drops such rows, and counts them\)",
    ),
    "infinity": (
        lambda folder: write_csv(folder / "a.csv", ["x,y", "1,2", "3,4", "5,-inf"]),
        [],
        r"a\.csv, row 2: column 'y' is infinite",
    ),
    "beyond-float32": (
        lambda folder: write_csv(folder / "a.csv", ["x,y", "1,1e39"]),
        [],
        r"a\.csv, row 0: column 'y' is beyond float32",
    ),
    "k-over-rows": (
        lambda folder: write_csv(folder / "a.csv", ["x,y", "1,2", "3,4"]),
        [],
        r"num_clusters: 3 clusters are asked of 2 rows",
    ),
    "k-over-distinct-rows": (
        lambda folder: write_csv(folder / "a.csv", ["x,y", "1,2", "3,4", "1,2", "3,4"]),
        [],
        r"num_clusters: 3 distinct rows are needed to start from, and the data has only 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_in_one_line(capsys, tmp_path, case):
    make, more, said = BAD_INPUT[case]
    line = refused(capsys, train(make(tmp_path), tmp_path, *more))
    assert re.search(said, line), line
    assert line.startswith("beam-kmeans: ")
    assert not (tmp_path / "work" / "model").exists()
    assert runs.commits(tmp_path / "work") == []


def test_dropped_rows_are_counted_and_listed(capsys, tmp_path):
    lines = ["x,y", *(f"{i},{i * i}" for i in range(9)), "nan,1", "1,", "2,abc"]
    source = write_csv(tmp_path / "a.csv", lines)
    more = ["--on_bad_rows=drop", "--features=x,y"]
    report = cli.main(train(source, tmp_path, *more))
    assert (report.rows, report.rejected) == (9, 3)
    assert "9 rows of 2 features" in capsys.readouterr().out
    (listed,) = (tmp_path / "work" / "rejected").iterdir()
    found = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [(one["file"], one["row"]) for one in found] == [(str(source), n) for n in (9, 10, 11)]
    assert [one["reason"] for one in found] == [
        "column 'x' is NaN",
        "column 'y' is null",
        "column 'y' is not a number: 'abc'",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--num_clusters=4", "num_clusters = 3, now it is 4"),
        ("--random_seed=7", "random_seed = 0, now it is 7"),
        ("--standardize", "standardize = False, now it is True"),
        ("--features=x0", r"features = \['x0', 'x1', 'x2'\], now it is \['x0'\]"),
    ],
)
def test_another_configuration_is_refused_in_one_line(capsys, tmp_path, source, more, said):
    cli.main(train(source, tmp_path, "--max_iterations=0"))
    capsys.readouterr()
    line = refused(capsys, train(source, tmp_path, "--max_iterations=0", more))
    assert re.search(said, line), line


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--num_cluster=4", "unknown flag --num_cluster; did you mean --num_clusters?"),
        ("--initial_clusters=k-means++", "'k-means++' is none of: random, kmeans_plus_plus, kmc2"),
        ("--num_clusters=0", "--num_clusters: 0 is not allowed"),
        ("--distance_metric=cosin", "invalid choice: 'cosin'"),
        ("--features=x0,x1,x0", "features: 'x0' is named twice"),
        ("--runner=NoSuch", "runner: 'NoSuch' is not allowed"),
    ],
)
def test_usage_errors_exit_2(capsys, tmp_path, source, more, said):
    assert said in refused(capsys, train(source, tmp_path, more), code=2)
    assert not (tmp_path / "work").exists()


def test_given_centers_that_do_not_fit_are_refused(capsys, tmp_path, source):
    np.save(tmp_path / "c.npy", ROWS[:3, :2])
    line = refused(capsys, train(source, tmp_path, f"--initial_clusters={tmp_path}/c.npy"))
    assert line.startswith("beam-kmeans: initial_clusters: the centers have 2 features, the data")
    (tmp_path / "c.npy").write_bytes(b"not an array")
    line = refused(capsys, train(source, tmp_path, f"--initial_clusters={tmp_path}/c.npy"))
    assert "c.npy holds no centers" in line


def test_a_work_directory_is_not_taken_for_a_model(capsys, tmp_path, source):
    cli.main(train(source, tmp_path))
    capsys.readouterr()
    again = train(source, tmp_path, f"--initial_clusters={tmp_path}/work")
    assert "is none of: random" in refused(capsys, again, code=2)


# Damaged files


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with a staged dataset, and a model of it."""
    folder = tmp_path_factory.mktemp("trained")
    source = tables.write(folder / "in", ROWS, "columns")
    cli.main(["stage", f"--input={source}", f"--output={folder}/dataset", "--block_rows=20"])
    cli.main(train(f"{folder}/dataset", folder))
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def replace(path):
    path.write_text('{"some": "other file"}\n')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, r"shard .*\.arrow has \d+ bytes, the manifest says \d+: it is truncated"),
        (replace, r"shard .*\.arrow has \d+ bytes, the manifest says \d+"),
    ],
)
def test_a_damaged_shard_is_named(capsys, copy, tmp_path, damage, said):
    damage(copy / "dataset" / StagedDataset.open(str(copy / "dataset")).shards[1].path)
    line = refused(capsys, train(copy / "dataset", tmp_path))
    assert re.match(f"beam-kmeans: {said}", line), line
    assert not (tmp_path / "work" / "model").exists()


@pytest.mark.parametrize("damage", [truncate, replace])
def test_a_damaged_manifest_is_named(capsys, copy, tmp_path, damage):
    damage(copy / "dataset" / "dataset.json")
    line = refused(capsys, train(copy / "dataset", tmp_path))
    assert re.match(r"beam-kmeans: .*dataset\.json is not a manifest of a staged dataset", line)


def newer(path):
    write_json(str(path), {}, 2)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("model.json", truncate, r"model\.json is not a model, or is damaged"),
        ("model.json", replace, r"model\.json is not a model, or is damaged"),
        ("model.json", newer, r"model\.json has format version 2, this version of beam_kmeans"),
        ("model.json", pathlib.Path.unlink, r"holds no model: it has no model\.json"),
        ("centers.npy", lambda path: path.write_bytes(b""), r"centers\.npy is damaged"),
        ("centers.npy", pathlib.Path.unlink, r"centers\.npy cannot be read"),
    ],
)
def test_a_damaged_model_is_named(capsys, copy, tmp_path, name, damage, said):
    model = copy / "work" / "model"
    damage(model / name)
    source = f"{copy}/in/part-*.parquet"
    predict = ["predict", f"--model={model}", f"--input={source}", f"--output={tmp_path}/out"]
    line = refused(capsys, predict)
    assert re.search(said, line), line
    assert not list(tmp_path.glob("out*"))
    if name == "model.json" and damage is not pathlib.Path.unlink:
        line = refused(capsys, train(source, tmp_path, f"--initial_clusters={model}"))
        assert re.search(said, line), line


def test_a_model_of_other_features_is_refused(capsys, trained, tmp_path):
    source = write_csv(tmp_path / "a.csv", ["a,b", "1,2"])
    predict = ["predict", f"--model={trained}/work/model", f"--input={source}"]
    line = refused(capsys, [*predict, f"--output={tmp_path}/out"])
    assert re.search(r"a\.csv has no column 'x0'", line), line
    line = refused(capsys, [*predict, f"--output={tmp_path}/out", "--features=a,b"])
    assert "the model has 3 features, the input has 2" in line
