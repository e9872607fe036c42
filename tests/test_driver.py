"""Runs over files, against the same fit in memory, and what a work directory remembers."""

import json
import os
import shutil

import numpy as np
import pytest

from beam_kmeans import KMeans, KMeansModel, StagedDataset, driver, lloyd, running, sampling, stage
from beam_kmeans.checkpoint import WorkDir
from beam_kmeans.config import Parameters
from beam_kmeans.driver import run_segment, train
from beam_kmeans.errors import DataError
from beam_kmeans.job import TrainJob
from beam_kmeans.options import pipeline_options
from beam_kmeans.seeding import random
from beam_kmeans.seeding_checkpoint import last_seeding
from tests import data, runs, tables

ROWS = data.blobs(600, 4)
WEIGHTS = np.random.default_rng(1).integers(0, 4, len(ROWS)).astype(np.float32) / 2
#: Two of the same, and two that no row is near to: empty clusters at the start.
CROWDED = np.concatenate([ROWS[[0, 0, 1, 2, 3]], np.full((2, 4), 50, np.float32)])

USUAL = {"num_clusters": 5, "initial_clusters": "random", "tolerance": 0.0, "max_iterations": 3}


def job(source, work_dir, *, settings=None, **fields):
    return TrainJob(
        parameters=Parameters(**{**USUAL, **fields}),
        input=(source,) if isinstance(source, str) else tuple(source),
        work_dir=str(work_dir),
        **(settings or {}),
    )


def run(*args, options=(), **fields):
    return train(job(*args, **fields), pipeline_options(options))


@pytest.fixture(scope="module")
def in_files(tmp_path_factory):
    """Files of ROWS."""
    return tables.write(tmp_path_factory.mktemp("in"), ROWS, "npy", files=2)


@pytest.fixture(scope="module")
def source(in_files, tmp_path_factory):
    """A staged dataset of ROWS."""
    return stage(in_files, str(tmp_path_factory.mktemp("staged") / "dataset"), block_rows=64).path


@pytest.fixture(scope="module")
def weighted_source(tmp_path_factory):
    """A staged dataset of ROWS with WEIGHTS."""
    folder = tmp_path_factory.mktemp("weighted")
    files = tables.write(folder, ROWS, "columns", files=3, weights=WEIGHTS, row_group=70)
    return stage(files, str(folder / "dataset"), tables.names(4), weight_column="w").path


@pytest.fixture(scope="module")
def whole_run(source, tmp_path_factory):
    """The work directory of a run that has finished."""
    work = tmp_path_factory.mktemp("whole") / "work"
    run(source, work)
    return work


@pytest.fixture
def finished(whole_run, tmp_path):
    """A copy of it."""
    return shutil.copytree(whole_run, tmp_path / "work")


@pytest.fixture
def no_jobs(monkeypatch):
    """Fails where a job is started."""

    def refuse(*_):
        raise AssertionError("a job was started")

    monkeypatch.setattr(driver, "run_pipeline", refuse)


# The same as in memory


RELOCATE = {"num_clusters": 7, "initial_clusters": CROWDED}
KEEP = {**RELOCATE, "empty_clusters": "keep"}


HEAVY = [pytest.mark.heavy, pytest.mark.runners]


@pytest.mark.parametrize(
    ("fields", "weighted", "ranges"),
    [
        pytest.param({}, False, True, id="random-ranges"),
        pytest.param({}, True, False, id="random-weights", marks=HEAVY),
        pytest.param(RELOCATE, False, False, id="relocate", marks=HEAVY),
        pytest.param(RELOCATE, True, True, id="relocate-weights-ranges"),
        pytest.param(KEEP, False, True, id="keep-ranges", marks=HEAVY),
        pytest.param(KEEP, True, False, id="keep-weights", marks=HEAVY),
    ],
)
def test_a_dataset_gives_the_same_bytes_as_an_array(
    source, weighted_source, tmp_path, monkeypatch, fields, weighted, ranges
):
    expected = KMeans(**{**USUAL, **fields}).fit(ROWS, sample_weight=WEIGHTS if weighted else None)
    if ranges:
        monkeypatch.setattr(lloyd, "RANGE_VALUES", 8)
        monkeypatch.setattr(sampling, "RANGE_ENTRIES", 2)
    report = run(weighted_source if weighted else source, tmp_path, **fields)
    found = runs.outcome(report.model_dir)
    assert found == runs.outcome(expected)
    centers = list(tmp_path.glob("iterations/000003/*/*/centers-*.npy"))
    assert len(centers) == (-(-len(expected.counts) // 2) if ranges else 1)
    relocated = sum(record["relocated"] for record in found.history)
    assert (relocated > 0) == (fields is RELOCATE)


def test_files_give_the_same_bytes_as_an_array(in_files, tmp_path, whole_run):
    report = run(in_files, tmp_path)
    assert report.rows == 600
    assert runs.outcome(report.model_dir) == runs.outcome(KMeans(**USUAL).fit(ROWS))
    assert runs.arrays(tmp_path) == runs.arrays(whole_run)
    assert run(in_files, tmp_path).jobs == 0


def test_a_run_by_itself_says_the_same_as_its_model(source, tmp_path):
    report = run(source, tmp_path)
    model = KMeansModel.load(report.model_dir)
    assert report.model_dir == str(tmp_path / "model")
    assert (report.finished, report.converged, report.iterations) == (True, False, 3)
    assert (report.rows, report.num_clusters, report.num_features) == (600, 5, 4)
    assert (report.inertia, report.shift) == (model.inertia, model.history[-2]["shift"])
    assert (report.empty_clusters, report.rejected, report.jobs) == (0, 0, 1)
    state = json.loads((tmp_path / "state.json").read_text())
    assert state == {
        "format_version": 1,
        "iteration": 3,
        "inertia": model.inertia,
        "inertia_of_iteration": report.iterations,
        "shift": report.shift,
        "converged": False,
        "finished": True,
        "initialized": True,
        "empty_clusters": 0,
        "passes": 5,
        "seeding_passes": 1,
        "seeding_lookups": 1,
        "candidates": 5,
    }
    assert {name: getattr(report, name) for name in [*state][7:]} == {
        name: state[name] for name in [*state][7:]
    }


def test_20_iterations_have_21_records(tmp_path):
    rows = np.random.default_rng(0).random((1500, 4)).astype(np.float32)
    report = run(tables.write(tmp_path / "in", rows, "npy"), tmp_path / "w", max_iterations=20)
    history = KMeansModel.load(report.model_dir).history
    assert [record["iteration"] for record in history] == list(range(21))
    measured = {"iteration", "inertia", "empty_clusters", "relocated", "smallest", "largest"}
    assert [set(record) for record in history] == [measured | {"shift"}] * 20 + [measured]
    assert report.jobs == 2
    inertias = [record["inertia"] for record in history]
    assert inertias == sorted(inertias, reverse=True)


def test_0_iterations_measure_the_initial_centers(source, tmp_path):
    report = run(source, tmp_path, max_iterations=0)
    expected = KMeans(**{**USUAL, "max_iterations": 0}).fit(ROWS)
    assert runs.outcome(report.model_dir) == runs.outcome(expected)
    assert len(expected.history) == 1


@pytest.mark.parametrize(("iterations_per_job", "jobs"), [(1, 3), (2, 2), (3, 1)])
def test_jobs_of_any_length_end_in_the_same_bytes(
    source, tmp_path, whole_run, iterations_per_job, jobs
):
    report = run(source, tmp_path, settings={"iterations_per_job": iterations_per_job})
    assert report.jobs == jobs
    assert runs.arrays(tmp_path) == runs.arrays(whole_run)
    assert runs.outcome(report.model_dir) == runs.outcome(whole_run / "model")


def test_two_work_directories_hold_the_same_states(source, tmp_path, whole_run):
    run(source, tmp_path / "elsewhere")
    assert runs.arrays(tmp_path / "elsewhere") == runs.arrays(whole_run)
    names = [path.name for path in runs.commits(whole_run)]
    assert [path.name for path in runs.commits(tmp_path / "elsewhere")] == names
    assert [path.read_bytes() for path in runs.commits(tmp_path / "elsewhere")] == [
        path.read_bytes() for path in runs.commits(whole_run)
    ]


def test_a_converged_run_reads_nothing_in_the_iterations_that_are_left(
    source, tmp_path, monkeypatch
):
    from beam_kmeans.passes import context

    read, original = [], context.read_shard

    def counted(directory, info, *rest):
        read.append(info.path)
        return original(directory, info, *rest)

    monkeypatch.setattr(context, "read_shard", counted)
    fields = {"initial_clusters": ROWS[:5], "max_iterations": 50, "tolerance": 1e-2}
    report = run(source, tmp_path, settings={"iterations_per_job": 15}, **fields)
    assert report.converged
    assert 2 <= report.iterations < 14
    assert report.jobs == 1
    # One pass for each set of centers.
    assert len(read) == len(set(read)) * (report.iterations + 1)
    expected = KMeans(**{**USUAL, **fields}).fit(ROWS)
    assert runs.outcome(report.model_dir) == runs.outcome(expected)


# Going on


def test_raised_iterations_go_on_to_the_same_bytes(source, tmp_path, whole_run):
    first = run(source, tmp_path, max_iterations=1)
    assert (first.iterations, first.converged) == (1, False)
    second = run(source, tmp_path)
    assert (second.iterations, second.jobs) == (3, 1)
    assert runs.outcome(second.model_dir) == runs.outcome(whole_run / "model")
    assert {*runs.arrays(whole_run)} <= {*runs.arrays(tmp_path)}


def test_a_run_killed_before_its_new_model_was_written_does_not_keep_the_old_one(
    source, tmp_path, whole_run
):
    run(source, tmp_path, max_iterations=1)
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "model", old)
    run(source, tmp_path)
    # As if the last thing that the run did was to commit its end.
    shutil.rmtree(tmp_path / "model")
    shutil.move(old, tmp_path / "model")
    report = run(source, tmp_path)
    assert runs.outcome(report.model_dir) == runs.outcome(whole_run / "model")


def test_a_run_killed_between_the_two_files_of_its_new_model_mends_it(source, tmp_path, whole_run):
    run(source, tmp_path, max_iterations=1)
    old = (tmp_path / "model" / "model.json").read_bytes()
    run(source, tmp_path)
    (tmp_path / "model" / "model.json").write_bytes(old)
    report = run(source, tmp_path)
    assert runs.outcome(report.model_dir) == runs.outcome(whole_run / "model")


def test_iterations_cannot_be_fewer_than_are_done(source, finished):
    with pytest.raises(DataError, match=r"max_iterations: 3 iterations are already done .* to 2"):
        run(source, finished, max_iterations=2)


def test_iterations_may_be_lowered_to_no_less_than_a_converged_run_needed(source, tmp_path):
    first = run(source, tmp_path, max_iterations=50, tolerance=1e-2)
    again = run(source, tmp_path, max_iterations=first.iterations, tolerance=1e-2)
    assert (again.jobs, again.converged, again.iterations) == (0, True, first.iterations)


def test_a_finished_run_answers_at_once(source, finished, whole_run, no_jobs):
    before = runs.outcome(finished / "model")
    report = run(source, finished)
    assert (report.jobs, report.finished, report.iterations) == (0, True, 3)
    assert report.inertia == before.inertia
    assert runs.outcome(finished / "model") == before


def test_a_finished_run_publishes_where_it_is_told_to_now(source, finished, no_jobs, tmp_path):
    elsewhere = str(tmp_path / "new" / "model")
    report = run(source, finished, settings={"model_dir": elsewhere})
    assert (report.jobs, report.model_dir) == (0, elsewhere)
    assert runs.outcome(elsewhere) == runs.outcome(finished / "model")


def test_a_finished_run_replaces_another_runs_model(source, finished, no_jobs, tmp_path):
    elsewhere = str(tmp_path / "new")
    KMeansModel(np.ones((5, 4), np.float32), 3.0, np.arange(5)).save(elsewhere)
    report = run(source, finished, settings={"model_dir": elsewhere})
    assert runs.outcome(report.model_dir) == runs.outcome(finished / "model")


@pytest.mark.parametrize("lost", ["model/centers.npy", "model/model.json", "model"])
def test_a_finished_run_mends_a_model_that_was_lost(source, finished, whole_run, no_jobs, lost):
    path = finished / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    report = run(source, finished)
    assert runs.outcome(report.model_dir) == runs.outcome(whole_run / "model")


def test_what_changes_no_byte_may_change(in_files, whole_run, tmp_path):
    """Also in the middle of a run: here of one that goes on to more iterations."""
    run(in_files, tmp_path, max_iterations=1)
    elsewhere = str(tmp_path / "other")
    settings = {"block_rows": 7, "iterations_per_job": 1, "model_dir": elsewhere}
    assert run(in_files, tmp_path, settings=settings).jobs == 2
    assert runs.outcome(elsewhere) == runs.outcome(whole_run / "model")


def test_a_run_goes_on_from_any_of_its_states(source, finished, whole_run, tmp_path):
    states = runs.commits(finished)
    for number, state in enumerate(reversed(states[1:])):
        state.unlink()
        if number % 2:
            work = shutil.copytree(finished, tmp_path / f"copy{number}")
            report = run(source, work)
            assert runs.outcome(report.model_dir) == runs.outcome(whole_run / "model")
            assert runs.arrays(work) == runs.arrays(whole_run)


def test_drawn_rows_are_not_drawn_again(source, finished, whole_run, monkeypatch):
    shutil.rmtree(finished / "iterations")
    for path in finished.glob("seeding/*/finished-*.json"):
        path.unlink()
    assert last_seeding(WorkDir(str(finished), 5)).drawn
    monkeypatch.setattr(random, "draw", lambda *_: pytest.fail("rows were drawn"))
    report = run(source, finished)
    assert runs.arrays(finished) == runs.arrays(whole_run)
    assert report.jobs == 1


def test_a_damaged_state_is_passed_over(source, finished, whole_run, caplog):
    last = runs.commits(finished)[-1]
    last.write_bytes(last.read_bytes()[:-30])
    report = run(source, finished)
    assert f"Passed over, as if it had not been written: {last}" in caplog.text
    assert runs.outcome(report.model_dir) == runs.outcome(whole_run / "model")
    assert runs.arrays(finished) == runs.arrays(whole_run)


def test_damaged_centers_are_refused(source, finished):
    for path in finished.glob("iterations/000003/*/*/finished-*.json"):
        path.unlink()
    (centers,) = finished.glob("iterations/000003/*/*/centers-*.npy")
    centers.write_bytes(centers.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=f"{centers.name} is damaged: its SHA-256 is not the one"):
        run(source, finished)


def test_lost_centers_are_refused(source, finished):
    for path in finished.glob("iterations/000003/*/*/finished-*.json"):
        path.unlink()
    (centers,) = finished.glob("iterations/000003/*/*/centers-*.npy")
    centers.unlink()
    with pytest.raises(DataError, match=f"{centers.name}, which a committed state needs, cannot"):
        run(source, finished)


# Segments


def test_segment_by_segment_is_the_same_run(source, tmp_path, whole_run):
    asked = job(source, tmp_path, settings={"iterations_per_job": 2})
    reports = [run_segment(asked, pipeline_options()) for _ in range(3)]
    assert [report.iterations for report in reports] == [2, 3, 3]
    assert [report.finished for report in reports] == [False, True, True]
    assert [report.jobs for report in reports] == [1, 1, 0]
    assert [report.model_dir for report in reports] == [None, *[str(tmp_path / "model")] * 2]
    assert runs.arrays(tmp_path) == runs.arrays(whole_run)


def test_the_state_is_told_after_each_segment(source, tmp_path):
    asked = job(source, tmp_path, settings={"iterations_per_job": 2})
    report = run_segment(asked, pipeline_options())
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["iteration"], state["finished"], state["converged"]) == (2, False, False)
    assert (state["inertia"], state["shift"]) == (report.inertia, report.shift)
    assert not (tmp_path / "model").exists()


def test_train_goes_on_from_a_segment(source, tmp_path, whole_run):
    run_segment(job(source, tmp_path, settings={"iterations_per_job": 1}), pipeline_options())
    assert run(source, tmp_path).jobs == 1
    assert runs.arrays(tmp_path) == runs.arrays(whole_run)


def test_train_is_refused_where_only_the_last_graph_is_kept(source, tmp_path):
    options = [f"--template_location={tmp_path}/template"]
    with pytest.raises(ValueError, match=r"template_location: .* use the command segment"):
        run(source, tmp_path / "work", options=options)
    assert not (tmp_path / "work").exists()


def test_a_runner_without_templates_runs_the_segment_and_says_so(source, tmp_path, whole_run):
    options = pipeline_options([f"--template_location={tmp_path}/template"])
    assert run_segment(job(source, tmp_path / "work"), options).jobs == 1
    assert runs.arrays(tmp_path / "work") == runs.arrays(whole_run)


# Refusals


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_clusters": 6}, "num_clusters = 5, now it is 6"),
        ({"random_seed": 1}, "random_seed = 0, now it is 1"),
        ({"tolerance": 0.5}, r"tolerance = 0\.0, now it is 0\.5"),
        ({"empty_clusters": "keep"}, "empty_clusters = 'relocate', now it is 'keep'"),
        ({"initial_clusters": ROWS[:5]}, r"initial_clusters = 'random', now it is 'given \[5, 4\]"),
    ],
    ids=str,
)
def test_a_directory_of_another_configuration_is_refused(source, finished, no_jobs, fields, said):
    with pytest.raises(DataError, match=f"{finished} belongs to a run with {said}"):
        run(source, finished, **fields)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"features": ("x1", "x0")},
            r"features = \['x0', 'x1', 'x2', .*, now it is \['x1', 'x0'\]",
        ),
        ({"weight_column": "x3"}, "features = "),
        ({"standardize": True}, "standardize = False, now it is True"),
        ({"on_bad_rows": "drop"}, "on_bad_rows = 'error', now it is 'drop'"),
    ],
    ids=str,
)
def test_a_directory_of_rows_made_otherwise_is_refused(tmp_path, no_jobs, settings, said):
    pattern = tables.write(tmp_path / "in", ROWS[:20], "columns")
    work = tmp_path / "work"
    with pytest.raises(AssertionError, match="a job was started"):
        run(pattern, work)
    with pytest.raises(DataError, match=f"{work} was staged with {said}"):
        run(pattern, work, settings=settings)


def test_other_given_centers_are_refused(source, tmp_path):
    run(source, tmp_path, initial_clusters=ROWS[:5], max_iterations=0)
    with pytest.raises(DataError, match=r"initial_clusters = 'given .* now it is 'given "):
        run(source, tmp_path, initial_clusters=ROWS[1:6], max_iterations=0)


@pytest.mark.parametrize("staged", [True, False])
def test_a_file_that_changed_since_is_named(tmp_path, staged, monkeypatch):
    pattern = tables.write(tmp_path / "in", ROWS, "npy", files=2)
    if staged:
        run(pattern, tmp_path / "work", max_iterations=0)
    else:
        # As if the run had been killed before its data were staged.
        monkeypatch.setattr(driver, "run_pipeline", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(pattern, tmp_path / "work", max_iterations=0)
    os.utime(tmp_path / "in" / "part-001.npy", (1, 1))
    with pytest.raises(DataError, match=r"part-001\.npy has changed \(its size or modification"):
        run(pattern, tmp_path / "work", max_iterations=0)


def test_a_configuration_that_is_damaged_or_newer_is_refused(source, finished):
    config = finished / "config.json"
    text = config.read_text()
    config.write_text(text[:50])
    with pytest.raises(DataError, match=r"config\.json is not a run's configuration, or is damag"):
        run(source, finished)
    config.write_text(text.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(DataError, match=r"config\.json has format version 9"):
        run(source, finished)


def test_given_centers_of_another_width_are_refused(source, tmp_path, no_jobs):
    with pytest.raises(DataError, match="the centers have 3 features, the data has 4"):
        run(source, tmp_path, initial_clusters=ROWS[:5, :3])


def test_more_clusters_than_rows(tmp_path):
    pattern = tables.write(tmp_path / "in", ROWS[:4], "npy")
    with pytest.raises(DataError, match=r"num_clusters: 5 clusters are asked of 4 rows$"):
        run(pattern, tmp_path / "work")


def test_more_clusters_than_rows_of_weight(tmp_path):
    pattern = tables.write(tmp_path / "in", ROWS[:9], "columns", weights=np.arange(9) % 2)
    settings = {"features": tuple(tables.names(4)), "weight_column": "w"}
    with pytest.raises(DataError, match=r"5 clusters are asked of 4 rows \(of weight above 0\)"):
        run(pattern, tmp_path / "work", settings=settings)


def test_weights_that_are_all_0(tmp_path):
    pattern = tables.write(tmp_path / "in", ROWS[:9], "columns", weights=np.zeros(9))
    settings = {"features": tuple(tables.names(4)), "weight_column": "w"}
    for _ in range(2):  # the second finds the data staged
        with pytest.raises(DataError, match="the weights of all 9 rows are 0"):
            run(pattern, tmp_path / "work", settings=settings)


def test_more_clusters_than_distinct_rows(tmp_path):
    pattern = tables.write(tmp_path / "in", np.repeat(ROWS[:3], 5, axis=0), "npy")
    for _ in range(2):
        with pytest.raises(DataError, match=r"5 distinct rows are needed .* has only 3"):
            run(pattern, tmp_path / "work")
    assert runs.commits(tmp_path / "work") == []


def test_given_centers_need_no_distinct_rows(tmp_path):
    rows = np.repeat(ROWS[:3], 5, axis=0)
    pattern = tables.write(tmp_path / "in", rows, "npy")
    report = run(pattern, tmp_path / "work", initial_clusters=ROWS[:5])
    expected = KMeans(**{**USUAL, "initial_clusters": ROWS[:5]}).fit(rows)
    assert runs.outcome(report.model_dir) == runs.outcome(expected)
    assert report.empty_clusters == 2


# A staged dataset as the input


def test_a_staged_dataset_is_an_input_by_any_name(source, tmp_path, whole_run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = run(os.path.relpath(source) + "/", "work")
    assert runs.outcome(report.model_dir) == runs.outcome(whole_run / "model")
    assert not (tmp_path / "work" / "dataset").exists()
    assert run(source, tmp_path / "work").jobs == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": ("feature_0",)}, "features: not allowed with a staged dataset"),
        ({"block_rows": 3}, "block_rows: not allowed with a staged dataset"),
        ({"standardize": True}, "standardize, on_bad_rows: not allowed with a staged dataset"),
    ],
    ids=str,
)
def test_a_staged_dataset_is_not_staged_again(source, tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        run(source, tmp_path, settings=settings)


def test_a_staged_dataset_is_the_only_input(in_files, source, tmp_path):
    with pytest.raises(ValueError, match="is a staged dataset, which must be the only input"):
        run([in_files, source], tmp_path)


def test_another_dataset_is_refused(weighted_source, in_files, finished):
    for other in (weighted_source, in_files):
        with pytest.raises(DataError, match=f"{finished} belongs to a run with "):
            run(other, finished)


def test_a_damaged_shard_fails_the_run_and_is_named(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy")
    shard = copy / StagedDataset.open(source).shards[1].path
    whole = shard.read_bytes()
    for damaged in (whole[:-10], whole.replace(ROWS[64].tobytes(), ROWS[65].tobytes())):
        assert damaged != whole
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=f"shard {shard}"):
            run(str(copy), tmp_path / "work")
    assert runs.commits(tmp_path / "work") == []


# Odd names, odd shapes


def test_a_work_directory_of_a_strange_name(source, tmp_path, whole_run):
    work = tmp_path / "a b[1]?*"
    report = run(source, work, settings={"iterations_per_job": 2})
    assert runs.arrays(work) == runs.arrays(whole_run)
    assert run(source, work).jobs == 0
    assert report.model_dir == str(work / "model")


@pytest.mark.parametrize("k", [1, 9])
def test_one_feature_one_center_and_as_many_as_rows(tmp_path, k):
    rows = np.array([[1], [2], [4], [8], [16], [32], [64], [128], [256]], np.float32)
    pattern = tables.write(tmp_path / "in", rows, "npy")
    report = run(pattern, tmp_path / "work", num_clusters=k, max_iterations=10)
    expected = KMeans(**{**USUAL, "num_clusters": k, "max_iterations": 10}).fit(rows)
    assert runs.outcome(report.model_dir) == runs.outcome(expected)
    assert report.converged
    assert (report.inertia == 0) == (k == 9)


def test_a_job_that_fails_says_so(source, tmp_path, monkeypatch):
    monkeypatch.setattr(driver.WorkDir, "last_commit", lambda *_: None)
    with pytest.raises(running.JobError, match="a job ended, but committed nothing in"):
        run(source, tmp_path)
