"""KMeans.fit: which data it takes, and which arguments go with them."""

import dataclasses
import pathlib

import numpy as np
import pytest

from beam_kmeans import KMeans, KMeansModel, StagedDataset, stage
from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from tests import data, runs, tables

ROWS = data.blobs(300, 3)
KMEANS = KMeans(num_clusters=4, initial_clusters=ROWS[:4], max_iterations=2, tolerance=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tables.write(tmp_path_factory.mktemp("in"), ROWS, "npy", files=2)


@pytest.fixture(scope="module")
def expected():
    return runs.outcome(KMEANS.fit(ROWS))


def test_kmeans_has_the_fields_of_a_configuration():
    names = [field.name for field in dataclasses.fields(KMeans)]
    assert names == [field.name for field in dataclasses.fields(Parameters)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        KMEANS.num_clusters = 5


def test_four_points_by_hand():
    points = data.FOUR_POINTS
    model = KMeans(num_clusters=2, initial_clusters=points[[0, 2]]).fit(points)
    assert model.cluster_centers.tolist() == [[0.5, 0], [10.5, 0]]
    assert (model.inertia, model.counts.tolist(), model.converged) == (1.0, [2, 2], True)
    assert [record["inertia"] for record in model.history] == [2.0, 1.0, 1.0]


def test_an_array_is_rounded_to_float32_once_and_left_alone():
    wide = ROWS.astype(np.float64) + 1e-12
    before = wide.copy()
    assert runs.outcome(KMEANS.fit(wide)) == runs.outcome(KMEANS.fit(wide.astype(np.float32)))
    np.testing.assert_array_equal(wide, before)


def test_a_list_of_lists_is_an_array(expected):
    assert runs.outcome(KMEANS.fit(ROWS.tolist())) == expected


def test_a_model_gives_the_centers_to_start_from(expected):
    model = KMeansModel(ROWS[:4], 0.0, np.zeros(4, np.int64))
    again = dataclasses.replace(KMEANS, initial_clusters=model)
    assert runs.outcome(again.fit(ROWS)) == expected


@pytest.mark.parametrize("name", ["pattern", "list", "dataset"])
def test_files_are_named_in_any_way(source, tmp_path, expected, name):
    folder = pathlib.Path(source).parent
    named = {
        "pattern": source,
        "list": [str(folder / "part-001.npy"), str(folder / "part-000.npy")],
        "dataset": None,
    }[name]
    if name == "dataset":
        named = stage(source, str(tmp_path / "dataset"))
        assert isinstance(named, StagedDataset)
    model = KMEANS.fit(named, work_dir=str(tmp_path / "work"))
    assert runs.outcome(model) == expected
    assert runs.outcome(tmp_path / "work" / "model") == expected


def test_options_and_settings_reach_the_run(source, tmp_path, expected):
    model = KMEANS.fit(
        source,
        work_dir=str(tmp_path / "work"),
        options=["--direct_num_workers=1"],
        block_rows=7,
        iterations_per_job=1,
        model_dir=str(tmp_path / "model"),
        on_bad_rows="drop",
    )
    assert runs.outcome(model) == expected == runs.outcome(tmp_path / "model")
    assert len(list((tmp_path / "work" / "timings").iterdir())) == 2
    assert len(StagedDataset.open(str(tmp_path / "work" / "dataset")).shards) > 16


def test_columns_and_weights_reach_the_run(tmp_path):
    weights = (np.arange(300) % 3).astype(np.float32)
    pattern = tables.write(tmp_path / "in", ROWS, "csv", weights=weights)
    model = KMEANS.fit(
        pattern,
        work_dir=str(tmp_path / "work"),
        features=["x0", "x1", "x2"],
        weight_column="w",
    )
    assert runs.outcome(model) == runs.outcome(KMEANS.fit(ROWS, sample_weight=weights))
    assert model.features == ("x0", "x1", "x2")


def test_a_model_of_standardized_rows_takes_raw_ones(tmp_path):
    raw = ROWS * [1000, 1, 0.001] + [0, 5, 0]
    pattern = tables.write(tmp_path / "in", raw, "npy")
    kmeans = dataclasses.replace(KMEANS, initial_clusters="random")
    model = kmeans.fit(pattern, work_dir=str(tmp_path / "work"), standardize=True)
    scaled = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    np.testing.assert_allclose(model.score(raw), model.inertia, rtol=1e-6)
    np.testing.assert_allclose(kmeans.fit(scaled).inertia, model.inertia, rtol=1e-5)
    np.testing.assert_array_equal(np.bincount(model.predict(raw)), model.counts)


@pytest.mark.parametrize(
    ("data", "arguments", "error", "said"),
    [
        ("a.csv", {}, ValueError, "work_dir: a directory is needed"),
        (
            "a.csv",
            {"work_dir": "w", "sample_weight": [1]},
            ValueError,
            "sample_weight: not allowed with files; name their weight_column",
        ),
        ("a.csv", {"work_dir": "w", "batch_size": 3}, TypeError, "no argument 'batch_size'"),
        ("a.csv", {"work_dir": "w", "parameters": 3}, TypeError, "no argument 'parameters'"),
        ("none-*.csv", {"work_dir": "w"}, DataError, r"no file matches 'none-\*\.csv'"),
        (["none.csv"], {"work_dir": "w"}, DataError, r"no file matches 'none\.csv'"),
        (ROWS, {"work_dir": "w"}, ValueError, "work_dir: not allowed with an array"),
        (ROWS, {"options": []}, ValueError, "options: not allowed with an array"),
        (ROWS, {"features": ["x"]}, ValueError, "features: not allowed with an array"),
        (ROWS[:3], {}, DataError, "4 clusters are asked of 3 rows"),
        (ROWS[:, :2], {}, DataError, "the centers have 3 features, the data has 2"),
        (ROWS[0], {}, DataError, r"an array of shape \[n, d\] is needed, found \[3\]"),
        ([["a", "b"]], {}, DataError, "numbers are needed"),
        (np.full((5, 3), np.nan), {}, DataError, "row 0, feature 0 is nan"),
        (ROWS, {"sample_weight": [1.0]}, DataError, r"numbers of shape \[300\] are needed"),
        (ROWS, {"sample_weight": np.zeros(300)}, DataError, "weights of all 300 rows are 0"),
        (ROWS, {"sample_weight": -np.ones(300)}, DataError, "row 0 has weight -1.0"),
    ],
    ids=range(17),
)
def test_what_does_not_go_together_is_refused(data, arguments, error, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        KMEANS.fit(data, **arguments)
    assert not (tmp_path / "w" / "iterations").exists()
