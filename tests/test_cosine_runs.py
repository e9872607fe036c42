"""Cosine over files and in pipelines: the same bytes as in memory, and what it takes."""

import json
import math
import shutil

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_kmeans import (
    AssignClusters,
    Block,
    KMeans,
    KMeansModel,
    LloydStep,
    StackRows,
    StagedDataset,
    cli,
    lloyd,
    stage,
)
from beam_kmeans.checkpoint import WorkDir
from beam_kmeans.config import Parameters
from beam_kmeans.driver import run_segment, train
from beam_kmeans.errors import DataError
from beam_kmeans.job import TrainJob
from beam_kmeans.model import read_centers
from beam_kmeans.options import pipeline_options
from beam_kmeans.passes import unit
from beam_kmeans.predicting import predict
from beam_kmeans.statistics import Statistics
from beam_kmeans.values import unit_rows
from tests import data, runs, tables
from tests.transforms.pipelines import TWICE, apply, blocks_of, elements, failure

ROWS = data.blobs(600, 4, 7).copy()
ROWS[[0, 599]] = 0
ROWS[200:330] = 0  # more than a whole block of a shard
WEIGHTS = (np.arange(len(ROWS)) % 4 / 2).astype(np.float32)
DIRECTED = ROWS[ROWS.any(axis=1)]
CENTERS = data.given_rows(DIRECTED, 5)
#: Two of the same, and one that no row is near to: empty clusters at the start.
CROWDED = np.concatenate([CENTERS, CENTERS[:1], -DIRECTED.sum(axis=0, keepdims=True)])

USUAL = {
    "num_clusters": 5,
    "initial_clusters": CENTERS,
    "distance_metric": "cosine",
    "tolerance": 0.0,
    "max_iterations": 3,
}


def run(source, work_dir, command=train, settings=None, **fields):
    job = TrainJob(
        parameters=Parameters(**{**USUAL, **fields}),
        input=(source,),
        work_dir=str(work_dir),
        **(settings or {}),
    )
    return command(job, pipeline_options([]))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A staged dataset of ROWS, of which some blocks hold zeros alone."""
    folder = tmp_path_factory.mktemp("in")
    pattern = tables.write(folder / "files", ROWS, "npy", files=3)
    return stage(pattern, str(folder / "dataset"), block_rows=32).path


@pytest.fixture
def reads(monkeypatch):
    """The shards that passes for unit rows have read."""
    found, read_shard = [], unit.read_shard

    def counted(directory, info, *more):
        found.append(info.path)
        return read_shard(directory, info, *more)

    monkeypatch.setattr(unit, "read_shard", counted)
    return found


@pytest.mark.parametrize(
    ("files", "fields", "weighted", "ranges"),
    [
        (3, {"num_clusters": 7, "initial_clusters": CROWDED}, True, True),
        pytest.param(
            5,
            {"initial_clusters": "kmeans_plus_plus", "seeding_rounds": 2},
            True,
            False,
            marks=[pytest.mark.heavy, pytest.mark.runners],
        ),
    ],
    ids=["relocate-ranges", "kmeans_plus_plus"],
)
def test_files_give_the_same_bytes_as_an_array(
    tmp_path, monkeypatch, files, fields, weighted, ranges
):
    weights = WEIGHTS if weighted else None
    expected = KMeans(**{**USUAL, **fields}).fit(ROWS, sample_weight=weights)
    if ranges:
        monkeypatch.setattr(lloyd, "RANGE_VALUES", 8)
    pattern = tables.write(tmp_path / "in", ROWS, "columns", files=files, weights=weights)
    settings = {"features": tables.names(4), "weight_column": "w" if weighted else None}
    report = run(pattern, tmp_path / "work", settings=settings, **fields)
    found = runs.outcome(report.model_dir)
    assert found == runs.outcome(expected)
    assert KMeansModel.load(report.model_dir).distance_metric == "cosine"
    relocated = sum(record["relocated"] for record in found.history)
    assert (relocated > 0) == (fields.get("num_clusters") == 7 and len(fields) == 2)


def test_the_same_dataset_serves_squared_euclidean_without_that_pass(source, tmp_path, reads):
    fields = {"distance_metric": "squared_euclidean"}
    report = run(source, tmp_path, **fields)
    assert runs.outcome(report.model_dir) == runs.outcome(KMeans(**{**USUAL, **fields}).fit(ROWS))
    assert report.passes == 3 + 1
    assert not reads


def test_unit_rows_are_measured_in_one_pass_and_never_again(source, tmp_path, reads):
    shards = [shard.path for shard in StagedDataset.open(source).shards]
    settings = {"iterations_per_job": 1}
    first = run(source, tmp_path, run_segment, settings)
    assert sorted(reads) == sorted(shards)
    assert first.passes == 2  # of unit rows, and the first update's
    last = run(source, tmp_path, settings=settings)
    assert len(reads) == len(shards)
    assert last.passes == 1 + 3 + 1
    assert json.loads((tmp_path / "state.json").read_text())["passes"] == 5
    assert runs.outcome(last.model_dir) == runs.outcome(KMeans(**USUAL).fit(ROWS))


@pytest.mark.parametrize("damage", ["none", "cut", "other", "foreign"])
def test_damaged_statistics_of_unit_rows_are_none(tmp_path, damage):
    work, units = WorkDir(str(tmp_path), 5), unit_rows(DIRECTED)[0]
    statistics = Statistics.of(units, np.ones(len(units), np.float32))
    assert unit.unit_statistics(work) is None
    unit.save_unit_statistics(work, statistics)
    (path,) = tmp_path.glob("seeding/unit-statistics-*.json")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "other":
        path.write_bytes(path.read_bytes().replace(b'"rows": 468', b'"rows": 467'))
    elif damage == "foreign":
        path.rename(path.with_name("unit-statistics-0123456789abcdef.json"))
    found = unit.unit_statistics(work)
    if damage == "none":
        assert found is not None
        assert found.to_json() == statistics.to_json()
    else:
        assert found is None


def test_statistics_without_their_configuration_are_refused(source, tmp_path):
    run(source, tmp_path, run_segment, {"iterations_per_job": 1})
    (tmp_path / "config.json").unlink()
    shutil.rmtree(tmp_path / "iterations")
    with pytest.raises(DataError, match=r"holds states of a run, but not its config\.json"):
        run(source, tmp_path)


@pytest.mark.heavy
@pytest.mark.runners
@pytest.mark.parametrize(
    "options",
    [
        [*TWICE],
        ["--direct_running_mode=multi_threading", "--direct_num_workers=2"],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    ],
    ids=["repeated", "threads", "processes"],
)
@pytest.mark.parametrize("initial", ["kmeans_plus_plus", "kmc2", "afkmc2", "random"])
def test_runners_agree(tmp_path, options, initial):
    kmeans = KMeans(**{**USUAL, "initial_clusters": initial, "kmc2_chain_length": 20})
    pattern = tables.write(tmp_path / "in", ROWS, files=5, weights=WEIGHTS, row_group=50)
    settings = {"features_column": "features", "weight_column": "w"}
    found = kmeans.fit(pattern, str(tmp_path / "work"), options, **settings)
    assert runs.outcome(found) == runs.outcome(kmeans.fit(ROWS, sample_weight=WEIGHTS))


def test_rows_are_standardized_before_they_are_made_unit(tmp_path):
    pattern = tables.write(tmp_path / "in", ROWS + np.float32(3), "npy", files=2)
    settings = {"standardize": True}
    fields = {"initial_clusters": unit_rows(CENTERS)[0]}
    report = run(pattern, tmp_path / "work", settings=settings, **fields)
    staged = StagedDataset.open(str(tmp_path / "work" / "dataset"))
    standardized = np.concatenate([block.rows for block in staged.blocks()])
    np.testing.assert_allclose(standardized.astype(np.float64).std(axis=0), 1, rtol=1e-6)
    expected = KMeans(**{**USUAL, **fields}).fit(standardized)
    found = KMeansModel.load(report.model_dir)
    assert runs.outcome(found) == runs.outcome(expected)
    labels = found.predict(ROWS + np.float32(3)).tolist()
    assert labels == expected.predict(standardized).tolist()


def test_rows_of_zeros_alone_are_refused(tmp_path):
    pattern = tables.write(tmp_path / "in", np.zeros((20, 2)), "npy", files=2)
    with pytest.raises(ValueError, match="all 20 rows are zeros"):
        run(pattern, tmp_path / "work", num_clusters=1, initial_clusters="random")


# The command line


def test_the_commands_train_and_predict(source, tmp_path, capsys):
    np.save(tmp_path / "centers.npy", CENTERS * 4)
    np.save(tmp_path / "rows.npy", ROWS)
    shared = ["--num_clusters=5", "--max_iterations=3", "--tolerance=0", f"--input={source}"]
    given = f"--initial_clusters={tmp_path}/centers.npy"
    work = f"--work_dir={tmp_path}/work"
    train_cosine = ["train", "--distance_metric=cosine", *shared]
    assert cli.main([*train_cosine, given, work]) is not None
    expected = KMeans(**USUAL).fit(ROWS)
    found = KMeansModel.load(tmp_path / "work" / "model")
    assert runs.outcome(found) == runs.outcome(expected)
    again = [f"--initial_clusters={tmp_path}/work/model", f"--work_dir={tmp_path}/again"]
    cli.main([*train_cosine, *again, "--max_iterations=0"])
    first = KMeansModel.load(tmp_path / "again" / "model")
    assert first.cluster_centers.tobytes() == expected.cluster_centers.tobytes()
    report = predict(
        f"{tmp_path}/work/model", f"{tmp_path}/rows.npy", f"{tmp_path}/out", all_scores=True
    )
    assert report.inertia == pytest.approx(expected.inertia, rel=1e-12)
    (part,) = tmp_path.glob("out-0*.parquet")
    table = pq.read_table(part)
    assert table["cluster_index"].to_pylist() == expected.predict(ROWS).tolist()
    assert table["score"].to_pylist() == expected.score_samples(ROWS).tolist()
    assert table["all_scores"].to_pylist() == expected.transform(ROWS).tolist()
    assert table["cluster_index"][0].as_py() == 0
    assert table["all_scores"][0].as_py() == [1.0] * 5


def test_centers_of_a_model_of_another_metric_are_refused(tmp_path):
    KMeansModel(CENTERS, 0.0, np.zeros(5, np.int64)).save(tmp_path / "plain")
    message = r"is of distance_metric 'squared_euclidean', what is asked for here is 'cosine'"
    with pytest.raises(DataError, match=message):
        read_centers(f"{tmp_path}/plain", distance_metric="cosine")
    for transform in (LloydStep, AssignClusters):
        centers = transform(f"{tmp_path}/plain", distance_metric="cosine")
        found = failure(lambda p, t=centers: p | beam.Create([Block(ROWS[1:3])]) | t)
        assert "'squared_euclidean'" in found
        assert "'cosine'" in found


# Transforms


def step(blocks, centers, *flags, **options):
    (result,) = apply(LloydStep(centers, distance_metric="cosine", **options), blocks, *flags)
    return result


def test_steps_are_a_fit():
    fields = {"num_clusters": 7, "initial_clusters": CROWDED, "max_iterations": 2}
    expected = KMeans(**{**USUAL, **fields}).fit(ROWS, sample_weight=WEIGHTS)
    one = step(blocks_of(ROWS, WEIGHTS, 100, seed=1), CROWDED)
    two = step(blocks_of(ROWS, WEIGHTS, 200), one.cluster_centers, *TWICE)
    three = step(blocks_of(ROWS, WEIGHTS, 1000), two.cluster_centers)
    assert two.cluster_centers.tobytes() == expected.cluster_centers.tobytes()
    assert three.counts.tolist() == expected.counts.tolist()
    history = expected.history
    assert history[0]["relocated"] > 0
    assert [one.inertia, two.inertia, three.inertia] == [record["inertia"] for record in history]
    assert [one.shift, two.shift] == [record["shift"] for record in history[:2]]
    assert three.cluster_weights.sum() == WEIGHTS.sum()


def test_a_step_of_blocks_of_zeros():
    zeros = Block(np.zeros((3, 4), np.float32), np.array([1, 0.5, 2]), 0)
    result = step([zeros, Block(CENTERS[3:4], row_numbers=9)], CENTERS)
    assert result.counts.tolist() == [3, 0, 0, 1, 0]
    assert result.cluster_weights.tolist() == [3.5, 0, 0, 1, 0]
    assert result.inertia == 3.5
    assert result.shift == 0
    transform = LloydStep(CENTERS, distance_metric="cosine")
    assert "all 3 rows are zeros" in failure(lambda p: p | beam.Create([zeros]) | transform)


def test_assigned_clusters_are_a_model_s():
    model = KMeansModel(CENTERS, 0.0, np.zeros(5), distance_metric="cosine")
    transform = AssignClusters(CENTERS * 8, all_scores=True, distance_metric="cosine")
    found = sorted(apply(transform, blocks_of(ROWS, size=90)), key=lambda a: a.row_numbers[0])
    index = np.concatenate([part.cluster_index for part in found])
    np.testing.assert_array_equal(index, model.predict(ROWS))
    scores = np.concatenate([part.scores for part in found])
    np.testing.assert_array_equal(scores, model.score_samples(ROWS))
    every = np.concatenate([part.all_scores for part in found])
    np.testing.assert_array_equal(every, model.transform(ROWS))
    assert scores[0] == 1.0
    assert index[0] == 0


def test_centers_come_from_a_pcollection_too():
    def build(pipeline):
        rows = pipeline | beam.Create([[0.0, 2.0], [3.0, 4.0], [0.0, 0.0]]) | StackRows()
        centers = pipeline | "Centers" >> beam.Create([np.array([[5.0, 0.0], [0.0, 5.0]])])
        return rows | LloydStep(centers, "keep", distance_metric="cosine")

    (result,) = elements(build)
    # As near to both is (0.6, 0.8) not; the row of zeros is counted for cluster 0.
    assert result.counts.tolist() == [1, 2]
    length = math.hypot(0.6, 1.8)
    np.testing.assert_allclose(result.cluster_centers, [[1, 0], [0.6 / length, 1.8 / length]])


@pytest.mark.parametrize("transform", [LloydStep, AssignClusters])
def test_what_is_no_metric_or_no_direction_is_refused(transform):
    with pytest.raises(ValueError, match=r"distance_metric: 'cosin' .*did you mean 'cosine'"):
        transform(CENTERS, distance_metric="cosin")
    with pytest.raises(ValueError, match="centers: center 1 is all zeros"):
        transform([[1.0, 0.0], [0.0, 0.0]], distance_metric="cosine")
