"""Initial centers that are given as a model: in the units of the rows, or refused."""

import numpy as np
import pytest

from beam_kmeans import KMeans, KMeansModel, cli
from beam_kmeans.errors import DataError
from beam_kmeans.io.manifest import Standardization

CENTERS = np.array([[0.0], [1.0]], np.float32)
STANDARD = Standardization((0.0,), (2.0,))


@pytest.mark.parametrize("standardized", [False, True])
def test_a_models_centers_start_rows_of_the_same_units_alone(tmp_path, standardized):
    scale = STANDARD if standardized else None
    KMeansModel(CENTERS, 0.0, np.array([1, 1]), standardization=scale).save(str(tmp_path / "m"))
    np.save(tmp_path / "rows.npy", np.arange(4, dtype=np.float32)[:, None])
    command = ["train", f"--input={tmp_path}/rows.npy", f"--work_dir={tmp_path}/w"]
    command += ["--num_clusters=2", f"--initial_clusters={tmp_path}/m"]
    other, same = ("false", "true") if standardized else ("true", "false")
    with pytest.raises(DataError, match="other units"):
        cli.main([*command, f"--standardize={other}"])
    report = cli.main([*command, f"--standardize={same}"])
    assert report.finished
    assert report.num_clusters == 2


def test_a_model_that_standardizes_is_no_start_in_python():
    model = KMeansModel(CENTERS, 0.0, np.array([1, 1]), standardization=STANDARD)
    with pytest.raises(ValueError, match=r"initial_clusters.*standardized.*cluster_centers"):
        KMeans(num_clusters=2, initial_clusters=model)


def test_files_may_be_named_by_paths(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(4, dtype=np.float32)[:, None])
    kmeans = KMeans(num_clusters=2, initial_clusters=CENTERS)
    model = kmeans.fit(tmp_path / "rows.npy", work_dir=tmp_path / "work")
    model.save(tmp_path / "copy")
    copy = KMeansModel.load(tmp_path / "copy")
    assert copy.history == model.history == kmeans.fit([[0], [1], [2], [3]]).history


def test_a_model_is_a_start_in_python():
    model = KMeansModel(CENTERS, 0.0, np.array([1, 1]))
    kmeans = KMeans(num_clusters=2, initial_clusters=model, max_iterations=0)
    np.testing.assert_array_equal(kmeans.fit([[0.0], [3.0]]).cluster_centers, CENTERS)


def test_a_model_of_features_in_another_order_is_no_start(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n3,4\n")
    source, centers = str(tmp_path / "rows.csv"), np.array([[1, 2], [3, 4]], np.float32)
    model = KMeansModel(centers, 0.0, np.array([1, 1]), features=("a", "b"))
    with pytest.raises(
        DataError, match=r"initial_clusters: feature 0 of the model is 'a', of the input 'b'"
    ):
        KMeans(num_clusters=2, initial_clusters=model).fit(
            source, work_dir=tmp_path / "work", features=["b", "a"]
        )


def test_states_without_their_configuration_are_no_ones(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(4, dtype=np.float32)[:, None])
    first = KMeans(num_clusters=2, initial_clusters=CENTERS, max_iterations=1)
    first.fit(tmp_path / "rows.npy", work_dir=tmp_path / "work")
    (tmp_path / "work" / "config.json").unlink()
    other = KMeans(num_clusters=2, initial_clusters=CENTERS + 1, max_iterations=1)
    with pytest.raises(DataError, match=r"holds states of a run, but not its config\.json"):
        other.fit(tmp_path / "rows.npy", work_dir=tmp_path / "work")


def test_a_first_file_of_only_a_header_tells_no_types(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n")
    (tmp_path / "b.csv").write_text("x,y\n1,2\n3,5\n")
    kmeans = KMeans(num_clusters=1, initial_clusters="random")
    model = kmeans.fit(str(tmp_path / "*.csv"), work_dir=tmp_path / "work")
    assert model.cluster_centers.tolist() == [[2.0, 3.5]]


@pytest.mark.parametrize(
    ("flag", "said"),
    [("--iterations_per_job=2000", "iterations_per_job: 2000"), ("--work_dir=", "work_dir: a")],
)
def test_an_argument_that_is_not_allowed_is_a_usage_error(tmp_path, capsys, flag, said):
    command = ["train", f"--input={tmp_path}/x.npy", f"--work_dir={tmp_path}", "--num_clusters=1"]
    assert cli.entry([*command, "--initial_clusters=random", flag]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"beam-kmeans: {said}")


def test_masked_values_are_missing_values():
    rows = np.ma.array([[1.0], [1000.0]], mask=[[False], [True]])
    with pytest.raises(DataError, match="masked values are missing"):
        KMeans(num_clusters=1, initial_clusters="random").fit(rows)
