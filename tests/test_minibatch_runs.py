"""Mini-batch over files: the bytes of a fit in memory, by whatever way a run comes there."""

import dataclasses

import apache_beam as beam
import pytest

from beam_kmeans import KMeans, StagedDataset, stage
from beam_kmeans.driver import train
from beam_kmeans.io.shards import ShardReader
from beam_kmeans.job import TrainJob
from beam_kmeans.options import pipeline_options
from beam_kmeans.passes import minibatch
from tests import data, kills, runs, tables, test_fusion

ROWS = data.blobs(9000, 3)
CENTERS = data.given_rows(ROWS, 4)
SEQUENCE, PASSES = "sequence", "passes"


def kmeans(**fields):
    usual = {
        "num_clusters": 4,
        "initial_clusters": CENTERS,
        "use_mini_batch": True,
        "batch_size": 500,
        "max_iterations": 3,
        "tolerance": 0.0,
        "max_no_improvement": None,
        "random_seed": 5,
    }
    return KMeans(**{**usual, **fields})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rows = ROWS.copy()
    rows[[8, 4000]] = 0
    return rows, tables.write(tmp_path_factory.mktemp("in"), rows, "columns", 3, row_group=700)


def by(monkeypatch, way):
    """Makes iterations take one way or the other."""
    monkeypatch.setattr(minibatch.settings, "batch_bytes", 2**26 if way == SEQUENCE else 0)


def heavy(*values):
    return pytest.param(*values, marks=[pytest.mark.heavy, pytest.mark.runners])


@pytest.mark.parametrize(
    ("way", "fields"),
    [
        heavy(PASSES, {"distance_metric": "cosine"}),
        (SEQUENCE, {"mini_batch_steps_per_iteration": 4}),
        heavy(SEQUENCE, {"distance_metric": "cosine"}),
        heavy(PASSES, {"mini_batch_steps_per_iteration": 4, "distance_metric": "cosine"}),
        heavy(PASSES, {"batch_size": 20_000}),
    ],
)
def test_files_give_what_memory_gives(source, tmp_path, monkeypatch, way, fields):
    rows, pattern = source
    by(monkeypatch, way)
    monkeypatch.setattr("beam_kmeans.lloyd.RANGE_VALUES", 6)  # two ranges of centers
    monkeypatch.setattr(minibatch.settings, "iterations_per_commit", 2)
    configured = kmeans(**fields)
    found = configured.fit(pattern, work_dir=tmp_path / "work", block_rows=100)
    assert runs.outcome(found) == runs.outcome(configured.fit(rows))


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_a_run_in_jobs_of_one_iteration_and_its_report(source, tmp_path, monkeypatch, metric):
    rows, pattern = source
    job = TrainJob(kmeans(), (str(pattern),), str(tmp_path / "work"), iterations_per_job=1)
    units = metric == "cosine"  # takes a pass for the statistics of unit rows

    def go_on(way, iterations):
        by(monkeypatch, way)
        parameters = kmeans(max_iterations=iterations, distance_metric=metric)
        return train(dataclasses.replace(job, parameters=parameters), pipeline_options(None))

    report = go_on(SEQUENCE, 1)
    assert (report.iterations, report.jobs, report.passes) == (1, 1, 3 + units)
    # Goes on where the shorter fit ended, either way, and shuffles nothing again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shuffled-*.arrow")}
    report = go_on(PASSES, 2)
    assert (report.iterations, report.jobs, report.passes) == (2, 1, 3 + units)
    report = go_on(SEQUENCE, 4)
    assert (report.iterations, report.jobs, report.passes) == (4, 2, 3 + units)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    whole = kmeans(max_iterations=4, distance_metric=metric).fit(rows)
    assert runs.outcome(report.model_dir) == runs.outcome(whole)
    assert report.inertia == whole.inertia
    again = go_on(SEQUENCE, 4)
    assert (again.jobs, again.finished, again.passes) == (0, True, 3 + units)


@pytest.mark.parametrize(
    ("fields", "iterations_per_job"),
    [({"max_no_improvement": 2}, 40), ({"tolerance": 0.05}, 5)],
    ids=str,
)
def test_a_fit_in_short_jobs_converges_where_one_in_memory_does(
    source, tmp_path, monkeypatch, fields, iterations_per_job
):
    rows, pattern = source
    by(monkeypatch, SEQUENCE)
    parameters = kmeans(max_iterations=200, **fields)
    job = TrainJob(
        parameters,
        (str(pattern),),
        str(tmp_path / "work"),
        iterations_per_job=iterations_per_job,
    )
    report = train(job, pipeline_options(None))
    whole = parameters.fit(rows)
    assert whole.converged
    assert report.jobs >= 3  # so that what is smoothed was handed on
    assert runs.outcome(report.model_dir) == runs.outcome(whole)


def test_iterations_are_a_sequence_up_to_64_mib_of_rows():
    def fits(batch_size, steps, d, k=10):
        return minibatch.fits_worker(
            kmeans(
                num_clusters=k,
                initial_clusters="random",
                batch_size=batch_size,
                mini_batch_steps_per_iteration=steps,
            ),
            d,
        )

    assert fits(2**18, 1, 64)
    assert fits(2**10, 2**8, 64)
    assert not fits(2**18 + 1, 1, 64)
    assert not fits(2**10, 2**8 + 1, 64)
    assert fits(100, 1, 64, k=2**16)
    assert not fits(100, 1, 64, k=2**16 + 1)


@pytest.mark.parametrize("way", [SEQUENCE, heavy(PASSES)])
def test_an_iteration_reads_only_the_blocks_that_hold_its_rows(source, tmp_path, monkeypatch, way):
    read = []
    original = ShardReader.block
    by(monkeypatch, way)

    def counted(self, place):
        read.append(self._path)
        return original(self, place)

    dataset = stage(source[1], str(tmp_path / "dataset"))
    configured = kmeans(max_iterations=1, batch_size=50)
    configured.fit(dataset, work_dir=tmp_path / "work")
    shards = len(StagedDataset.open(str(tmp_path / "work" / "shuffled")).shards)
    assert shards == 3
    monkeypatch.setattr(ShardReader, "block", counted)
    kmeans(max_iterations=2, batch_size=50).fit(dataset, work_dir=tmp_path / "work")
    assert 1 <= len(read) <= 2


@pytest.mark.parametrize(
    "flags",
    [
        ("--direct_runner_bundle_repeat=1",),
        heavy(("--direct_num_workers=2", "--direct_running_mode=multi_threading")),
    ],
    ids=["twice", "threads"],
)
def test_bundles_and_threads_change_nothing(source, tmp_path, monkeypatch, flags):
    rows, pattern = source
    by(monkeypatch, PASSES)
    configured = kmeans(max_iterations=2)
    found = configured.fit(pattern, work_dir=tmp_path / "work", options=[*flags])
    assert runs.outcome(found) == runs.outcome(configured.fit(rows))


def test_a_fit_that_converges_ends(source, tmp_path):
    rows, pattern = source
    configured = kmeans(max_iterations=900, max_no_improvement=3)
    found = configured.fit(pattern, work_dir=tmp_path / "work")
    assert found.converged
    assert len(found.history) < 900
    assert runs.outcome(found) == runs.outcome(configured.fit(rows))


# By name


@pytest.mark.heavy
@pytest.mark.runners
@pytest.mark.parametrize("way", [SEQUENCE, PASSES])
def test_nothing_heavy_crosses_between_processes(source, tmp_path, monkeypatch, way):
    by(monkeypatch, way)
    dataset = stage(source[1], str(tmp_path / "dataset"))
    path = beam.Create([dataset.path])
    pipeline = test_fusion.segment(tmp_path, path, 2, use_mini_batch=True, batch_size=3000)
    assert test_fusion.heavy_crossings(pipeline) == set()


def arguments(source, work):
    return [
        "train",
        f"--input={source}",
        f"--work_dir={work}",
        "--num_clusters=4",
        "--initial_clusters=random",
        "--use_mini_batch",
        "--batch_size=300",
        "--distance_metric=cosine",
        "--max_iterations=4",
        "--tolerance=0",
        "--iterations_per_job=2",
    ]


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_at_every_third_file_ends_in_the_same_bytes(source, tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    assert kills.run(arguments(source[1], folder / "work"), folder / "log") == 0
    whole = runs.outcome(folder / "work" / "model")
    in_memory = KMeans(
        4,
        "random",
        "cosine",
        use_mini_batch=True,
        batch_size=300,
        max_iterations=4,
        tolerance=0,
    )
    assert whole == runs.outcome(in_memory.fit(source[0]))
    files = kills.written(folder / "log")
    first = next(i for i, path in enumerate(files) if "/shuffled/" in path)
    for number in range(first + 1, len(files) + 1, 3):
        killed = tmp_path / f"killed-{number}"
        killed.mkdir()
        command = arguments(source[1], killed / "work")
        kill = kills.Kill(number, half=number % 2 == 0)
        assert kills.run(command, killed / "log", kill) == -9
        assert kills.run(command, killed / "log") == 0
        assert runs.outcome(killed / "work" / "model") == whole


@pytest.mark.heavy
@pytest.mark.runners
@pytest.mark.timeout(300)
def test_processes_give_the_same_bytes(source, tmp_path, monkeypatch):
    rows, pattern = source
    by(monkeypatch, PASSES)
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    found = kmeans().fit(pattern, work_dir=tmp_path / "work", options=flags)
    assert runs.outcome(found) == runs.outcome(kmeans().fit(rows))
