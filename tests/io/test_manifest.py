import json
import shutil

import numpy as np
import pytest
import xxhash

from beam_kmeans import StagedDataset, stage
from beam_kmeans.errors import DataError
from beam_kmeans.io import manifest
from beam_kmeans.io.manifest import Standardization, read_json, write_json
from tests import data

ROWS = data.blobs(200, 3)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged")
    np.save(folder / "a.npy", ROWS)
    return stage(str(folder / "a.npy"), str(folder / "out"), block_rows=50)


@pytest.fixture
def copy(staged, tmp_path):
    shutil.copytree(staged.path, tmp_path / "out")
    return tmp_path / "out"


def fields_of(path):
    fields = json.loads((path / "dataset.json").read_text())
    del fields["checksum"]
    return fields


def rewrite(path, **changed):
    """Writes the manifest anew, with a checksum that fits."""
    fields = {**fields_of(path), **changed}
    version = fields.pop("format_version")
    write_json(str(path / "dataset.json"), fields, version)


def test_a_manifest_tells_what_is_known_of_the_rows(copy):
    fields, wide = fields_of(copy), ROWS.astype(np.float64)
    assert (fields["format_version"], fields["rows"], fields["num_features"]) == (1, 200, 3)
    assert fields["features"] == ["feature_0", "feature_1", "feature_2"]
    assert fields["total_weight"] == 200
    np.testing.assert_allclose(fields["means"], wide.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(fields["variances"], wide.var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fields["sum_of_squares"], (wide**2).sum(), rtol=1e-14)
    assert (np.abs(wide).max(axis=0) < 2.0 ** np.array(fields["exponents"])).all()
    assert len(fields["shards"]) == 4


def test_a_dataset_may_move(copy):
    dataset = StagedDataset.open(str(copy))
    np.testing.assert_array_equal(np.concatenate([b.rows for b in dataset.blocks()]), ROWS)


def test_a_dataset_saved_again_has_the_same_bytes(copy):
    before = (copy / "dataset.json").read_bytes()
    StagedDataset.open(str(copy)).save()
    assert (copy / "dataset.json").read_bytes() == before


def test_no_dataset_at_all(tmp_path):
    with pytest.raises(DataError, match=r"holds no staged dataset: it has no dataset\.json"):
        StagedDataset.open(str(tmp_path))


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.99])
def test_a_truncated_manifest_is_refused(copy, part):
    text = (copy / "dataset.json").read_bytes()
    (copy / "dataset.json").write_bytes(text[: int(len(text) * part)])
    with pytest.raises(DataError, match=r"dataset\.json is not a manifest .*, or is damaged"):
        StagedDataset.open(str(copy))


def test_a_manifest_changed_by_hand_is_refused(copy):
    text = (copy / "dataset.json").read_text()
    assert '"rows": 200' in text
    (copy / "dataset.json").write_text(text.replace('"rows": 200', '"rows": 201'))
    with pytest.raises(DataError, match="is damaged: it does not have its checksum"):
        StagedDataset.open(str(copy))


@pytest.mark.parametrize(
    "text",
    ["[]", "3", '"text"', "null", "{}", '{"rows": 3}', "\xff\xfe", '{"format_version": "1"}'],
)
def test_a_foreign_file_is_refused(copy, text):
    (copy / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"dataset\.json (is not a manifest|has format version)"):
        StagedDataset.open(str(copy))


def test_another_json_file_of_ours_is_no_manifest(copy):
    write_json(str(copy / "dataset.json"), {"kmeans": {}}, 1)
    with pytest.raises(DataError, match="is no manifest of a staged dataset: KeyError"):
        StagedDataset.open(str(copy))


def test_a_newer_format_is_refused_before_anything_else_is_read(copy):
    rewrite(copy, format_version=2, features=None)
    with pytest.raises(DataError, match=r"has format version 2, .* reads up to 1: a newer one"):
        StagedDataset.open(str(copy))


@pytest.mark.parametrize(
    "path",
    ["../a.arrow", "x/../../a.arrow", "/etc/passwd", "file:///etc/passwd", "gs://bucket/a.arrow"],
)
def test_a_manifest_that_points_outside_its_directory_is_refused(copy, path):
    (first, *rest) = fields_of(copy)["shards"]
    rewrite(copy, shards=[{**first, "path": path}, *rest])
    with pytest.raises(DataError, match="lies outside the dataset"):
        StagedDataset.open(str(copy))


def test_shards_that_are_not_all_the_rows_are_refused(copy):
    rewrite(copy, shards=fields_of(copy)["shards"][1:])
    with pytest.raises(DataError, match="the shards' rows do not add up"):
        StagedDataset.open(str(copy))


@pytest.mark.parametrize(
    "changed",
    [
        {"shards": 3},
        {"shards": [{"path": "a"}]},
        {"features": None},
        {"statistics": {}},
        {"statistics": "no"},
        {"standardization": {"means": [0]}},
        {"rejected": "some"},
        {"features": ["a", "b"]},
    ],
    ids=str,
)
def test_fields_that_make_no_sense_are_refused(copy, changed):
    rewrite(copy, **changed)
    with pytest.raises(DataError, match="is no manifest of a staged dataset"):
        StagedDataset.open(str(copy))


def test_json_of_ours_is_json_with_a_checksum_over_the_rest(tmp_path):
    path = str(tmp_path / "a.json")
    write_json(path, {"a": [1.5, None, "ü\n"], "b": {"checksum": "x"}}, 3)
    text = (tmp_path / "a.json").read_text()
    fields = json.loads(text)
    checksum = fields.pop("checksum")
    assert read_json(path, "a thing", 3) == json.loads(text)
    assert fields == {"format_version": 3, "a": [1.5, None, "ü\n"], "b": {"checksum": "x"}}
    assert checksum == xxhash.xxh3_128_hexdigest(json.dumps(fields, indent=1).encode())


def test_json_of_ours_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(str(tmp_path / "a.json"), {"a": float("nan")}, 1)
    assert not (tmp_path / "a.json").exists()


def test_standardization_is_of_float64():
    values = np.array([[1.785e9 + 1.5], [1.785e9 - 0.5]])
    applied = Standardization((1.785e9,), (0.5,)).apply(values)
    assert applied.tolist() == [[3.0], [-1.0]]


def test_the_name_of_the_manifest_is_a_contract():
    assert (manifest.MANIFEST, manifest.FORMAT_VERSION) == ("dataset.json", 1)
