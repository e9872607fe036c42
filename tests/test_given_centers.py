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
