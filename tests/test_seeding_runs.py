"""Initialisation over files: the same centers as in memory, whatever happens on the way."""

import contextlib
import json
import pathlib
import shutil
import signal

import numpy as np
import pytest

from beam_kmeans import KMeans, StagedDataset, segment, stage
from beam_kmeans.config import Parameters
from beam_kmeans.driver import run_segment, train
from beam_kmeans.errors import DataError
from beam_kmeans.io.nearest import SideFiles
from beam_kmeans.job import TrainJob
from beam_kmeans.options import pipeline_options
from beam_kmeans.passes import context, seed
from beam_kmeans.seeding import oversampling
from beam_kmeans.seeding.oversampling import KMeansParallel
from tests import data, kills, runs, servers, tables

ROWS = data.blobs(1200, 6).copy()
ROWS[::40] = 0  # under cosine these have no direction
WEIGHTS = np.random.default_rng(1).integers(0, 4, len(ROWS)).astype(np.float32) / 2

CALLS = []


def evenly(rows, k):
    """Rows at even distances; remembers what it was asked."""
    CALLS.append((len(rows), k))
    return rows[:: len(rows) // k][:k]


ROUNDS = {"seeding_oversampling": 0.7, "seeding_rounds": 2}
#: Every way to find centers; the passes and look-ups that it takes.
WAYS = {
    "random": ({"initial_clusters": "random"}, 1, 1),
    "kmeans_plus_plus": (ROUNDS, 4, 3),
    "all_rows": ({"seeding_oversampling": 50.0, "seeding_rounds": 2}, 2, 1),
    "kmc2": ({"initial_clusters": "kmc2", "kmc2_chain_length": 30}, 1, 0),
    "groups": ({"initial_clusters": "kmc2", "kmc2_chain_length": 30, "kmc2_groups": 3}, 1, 0),
    "afkmc2": ({"initial_clusters": "afkmc2", "kmc2_chain_length": 30}, 2, 0),
    "cosine": ({**ROUNDS, "distance_metric": "cosine"}, 4, 3),
    "function": ({"initial_clusters": evenly}, 1, 0),
}

HEAVY = [pytest.mark.heavy, pytest.mark.runners]
#: The ways of which the default tests run one like it.
OTHERS = {"all_rows", "kmc2", "groups"}
each_way = pytest.mark.parametrize(
    "way", [pytest.param(way, marks=HEAVY if way in OTHERS else []) for way in WAYS]
)

THREADS = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
PROCESSES = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
TWICE = ["--direct_runner_bundle_repeat=1"]


def parameters(way, **more):
    fields = {"num_clusters": 12, "max_iterations": 0, **WAYS[way][0], **more}
    return Parameters(**fields)


def in_memory(way, weights=WEIGHTS, **more):
    fields = {"num_clusters": 12, "max_iterations": 0, **WAYS[way][0], **more}
    return runs.outcome(KMeans(**fields).fit(ROWS, sample_weight=weights))


def job(source, work, way, *, settings=None, **more):
    return TrainJob(
        parameters=parameters(way, **more),
        input=(str(source),),
        work_dir=str(work),
        **(settings or {}),
    )


def run(source, work, way, *, options=(), settings=None, **more):
    asked = job(source, work, way, settings=settings, **more)
    return train(asked, pipeline_options([*options]))


def of_files(**more):
    return {"features_column": "features", "weight_column": "w", **more}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A staged dataset of ROWS with WEIGHTS, in 15 shards."""
    folder = tmp_path_factory.mktemp("in")
    files = tables.write(folder, ROWS, files=3, weights=WEIGHTS, row_group=100)
    dataset = stage(
        files,
        str(folder / "dataset"),
        features_column="features",
        weight_column="w",
        block_rows=100,
    )
    return dataset.path


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The work directory of a run by k-means||, and what it came to in memory."""
    work = tmp_path_factory.mktemp("whole") / "work"
    run(source, work, "kmeans_plus_plus")
    return work


def reads(monkeypatch):
    """Fills two lists: the shards that passes read, and those that look-ups did."""
    read, looked, read_shard, gather = [], [], context.read_shard, seed.gather

    def counted(directory, info, *rest):
        read.append(info.path)
        return read_shard(directory, info, *rest)

    def counted_gather(parts, numbers):
        looked.append(len(numbers))
        return gather(parts, numbers)

    monkeypatch.setattr(context, "read_shard", counted)
    monkeypatch.setattr(seed, "gather", counted_gather)
    return read, looked


# The same bytes


@each_way
def test_each_way_gives_the_centers_of_memory_in_its_passes(source, tmp_path, monkeypatch, way):
    read, looked = reads(monkeypatch)
    report = run(source, tmp_path, way)
    assert runs.outcome(report.model_dir) == in_memory(way)
    _, passes, lookups = WAYS[way]
    assert (report.seeding_passes, report.seeding_lookups) == (passes, lookups)
    # One more measures the centers, under cosine one the unit rows; that one is not counted here.
    assert report.passes == passes + 1 + (way == "cosine")
    shards = len(StagedDataset.open(source).shards)
    assert shards == 14
    assert len(read) - len(looked) == shards * (passes + 1)
    # A look-up reads the shards of drawn rows alone: those of 12 rows are not all 14.
    assert len(looked) <= shards * lookups - (way == "random")
    assert report.jobs == (2 if way == "function" else 1)
    assert report.initialized
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["passes"], state["seeding_passes"]) == (report.passes, passes)
    assert state["candidates"] == report.candidates >= (12 if lookups else 0)
    assert not (tmp_path / "seeding" / "nearest").exists()


@pytest.mark.parametrize(
    ("way", "files", "options"),
    [
        ("kmeans_plus_plus", 17, [*THREADS, *TWICE]),
        pytest.param("groups", 17, TWICE, marks=HEAVY),
        pytest.param("afkmc2", 1, THREADS, marks=HEAVY),
    ],
)
def test_files_runners_and_blocks_change_no_byte(tmp_path, way, files, options):
    source = tables.write(tmp_path / "in", ROWS, files=files, weights=WEIGHTS, row_group=100)
    settings = of_files(block_rows=64)
    report = run(source, tmp_path / "work", way, options=options, settings=settings)
    assert runs.outcome(report.model_dir) == in_memory(way)


@pytest.mark.heavy
@pytest.mark.runners
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("files", "block_rows", "options"),
    [(1, 50, TWICE), (3, None, THREADS), (17, None, []), (17, 64, [*THREADS, *TWICE])],
    ids=str,
)
def test_each_way_over_files_and_runners(tmp_path, way, files, block_rows, options):
    source = tables.write(tmp_path / "in", ROWS, files=files, weights=WEIGHTS, row_group=100)
    settings = of_files(block_rows=block_rows)
    for state in ("keep", "none"):
        work = tmp_path / state
        chosen = {**settings, "seeding_state": state}
        report = run(source, work, way, options=options, settings=chosen, max_iterations=2)
        assert runs.outcome(report.model_dir) == in_memory(way, max_iterations=2)


def command(source, work, way, *more):
    """The command line of a run."""
    fields = {"num_clusters": 12, "max_iterations": 1, **WAYS[way][0]}
    return [
        "train",
        f"--input={source}",
        f"--work_dir={work}",
        "--features_column=features",
        "--weight_column=w",
        *(f"--{name}={value}" for name, value in fields.items()),
        *more,
    ]


@pytest.mark.heavy
@pytest.mark.runners
@pytest.mark.parametrize("way", [way for way in WAYS if way != "function"])
def test_two_processes(tmp_path, way):
    source = tables.write(tmp_path / "in", ROWS, files=3, weights=WEIGHTS, row_group=100)
    line = command(source, tmp_path / "work", way, "--json", "--block_rows=50", *PROCESSES)
    report = servers.command(*line).report()
    assert runs.outcome(report["model_dir"]) == in_memory(way, max_iterations=1)


# Side files


@pytest.fixture
def measured(monkeypatch):
    """A list of the distances that each call has measured."""
    found, call = [], oversampling._Nearest.__call__

    def counted(self, rows):
        found.append(len(rows) * len(self._centers.rows))
        return call(self, rows)

    monkeypatch.setattr(oversampling._Nearest, "__call__", counted)
    return found


def test_side_files_spare_distances_and_change_no_byte(source, tmp_path, whole, measured):
    kept = run(source, tmp_path / "keep", "kmeans_plus_plus")
    assert sum(measured) == len(ROWS) * kept.candidates
    measured.clear()
    run(source, tmp_path / "none", "kmeans_plus_plus", settings={"seeding_state": "none"})
    # Rounds of 8: 1, then 1 + 8, then 1 + 8 + 8 candidates.
    assert (kept.candidates, sum(measured)) == (1 + 8 + 8, len(ROWS) * (1 + 9 + 17))
    assert runs.arrays(tmp_path / "keep") == runs.arrays(tmp_path / "none") == runs.arrays(whole)


@pytest.mark.parametrize(
    "damage", ["bit", *(pytest.param(name, marks=HEAVY) for name in ("half", "gone"))]
)
def test_damaged_side_files_are_measured_again(
    source, tmp_path, whole, measured, monkeypatch, damage
):
    memory, damaged = SideFiles.memory, []

    @contextlib.contextmanager
    def damaging(self, shard, candidates):
        with memory(self, shard, candidates) as found:
            yield found
        path = pathlib.Path(self.path(shard, candidates))
        content = path.read_bytes()
        damaged.append(path)
        if damage == "gone":
            path.unlink()
        elif damage == "half":
            path.write_bytes(content[: len(content) // 2])
        else:
            place = content.index(b"measured") - 4000
            place = max(place, len(content) // 2)
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])

    monkeypatch.setattr(SideFiles, "memory", damaging)
    run(source, tmp_path, "kmeans_plus_plus")
    assert len(damaged) == 14 * 3
    assert sum(measured) > len(ROWS) * (1 + 8 + 8)
    assert runs.arrays(tmp_path) == runs.arrays(whole)


@pytest.mark.heavy
@pytest.mark.runners
def test_how_the_state_is_kept_may_change_on_the_way(source, tmp_path, whole):
    stop_at(source, tmp_path, 3)
    run(source, tmp_path, "kmeans_plus_plus", settings={"seeding_state": "none"})
    assert runs.arrays(tmp_path) == runs.arrays(whole)
    assert not (tmp_path / "seeding" / "nearest").exists()


def test_another_word_for_the_state_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="seeding_state: 'lose' is not allowed; allowed: 'keep'"):
        run(source, tmp_path, "random", settings={"seeding_state": "lose"})


# Going on


def stop_at(source, work, passes, name="advance"):
    """A run that fails where what follows from a pass, or a look-up, is to be found."""
    original = getattr(KMeansParallel, name)

    def stopped(self, state, *rest):
        if state.passes == passes:
            raise DataError("stopped here")
        return original(self, state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KMeansParallel, name, stopped)
        with pytest.raises(DataError, match="stopped here"):
            run(source, work, "kmeans_plus_plus")


@pytest.mark.parametrize(
    ("name", "passes", "left", "candidates"),
    [
        ("advance", 2, 2, 8),
        pytest.param("looked_up", 2, 2, 16, marks=HEAVY),
        pytest.param("advance", 3, 1, 0, marks=HEAVY),
    ],
)
def test_a_run_goes_on_from_its_last_pass(
    source, tmp_path, whole, monkeypatch, measured, name, passes, left, candidates
):
    stop_at(source, tmp_path, passes, name)
    measured.clear()
    read, looked = reads(monkeypatch)
    report = run(source, tmp_path, "kmeans_plus_plus")
    assert len(read) - len(looked) == 14 * (left + 1)
    # What the pass that failed has measured is not measured again.
    assert sum(measured) == len(ROWS) * candidates
    assert runs.arrays(tmp_path) == runs.arrays(whole)
    assert runs.outcome(report.model_dir) == in_memory("kmeans_plus_plus")
    assert (report.seeding_passes, report.seeding_lookups) == (4, 3)


@pytest.mark.heavy
@pytest.mark.kill
def test_a_run_goes_on_from_any_of_its_states(source, tmp_path, whole):
    work = shutil.copytree(whole, tmp_path / "work")
    for path in runs.commits(work):
        path.unlink()
    shutil.rmtree(work / "model")
    order = {"drawn": 0, "state": 1, "finished": 2}
    markers = sorted(
        work.glob("seeding/pass=*/*.json"),
        key=lambda path: (path.parent.name, order[path.name.partition("-")[0]]),
        reverse=True,
    )
    assert len(markers) == 1 + 3 * 2 + 1
    for number, marker in enumerate(markers):
        copy = shutil.copytree(work, tmp_path / f"copy{number}")
        run(source, copy, "kmeans_plus_plus")
        assert runs.arrays(copy) == runs.arrays(whole)
        assert runs.outcome(copy / "model") == runs.outcome(whole / "model")
        marker.unlink()


def test_a_damaged_state_is_passed_over(source, tmp_path, whole, caplog):
    work = shutil.copytree(whole, tmp_path / "work")
    for path in runs.commits(work):
        path.unlink()
    (last,) = work.glob("seeding/pass=04/finished-*.json")
    last.write_bytes(last.read_bytes()[:-30])
    run(source, work, "kmeans_plus_plus")
    assert f"Passed over, as if it had not been written: {last}" in caplog.text
    assert runs.arrays(work) == runs.arrays(whole)


@pytest.mark.parametrize("damage", ["missing", "bit"])
def test_rows_of_a_state_that_are_damaged_are_looked_up_again(
    source, tmp_path, whole, caplog, damage
):
    work = shutil.copytree(whole, tmp_path / "work")
    for path in [*runs.commits(work), *work.glob("seeding/pass=04/*.json")]:
        path.unlink()
    (rows,) = work.glob("seeding/pass=03/rows-*.npy")
    if damage == "missing":
        rows.unlink()
    else:
        content = bytearray(rows.read_bytes())
        content[-3] ^= 1
        rows.write_bytes(content)
    run(source, work, "kmeans_plus_plus")
    assert "Passed over, as if it had not been written" in caplog.text
    assert rows.name in caplog.text
    assert runs.arrays(work) == runs.arrays(whole)
    assert runs.outcome(work / "model") == in_memory("kmeans_plus_plus")


#: One round is asked for, and halves the cost; so there is a second, which is for another job.
LONG = {"seeding_rounds": 1, "seeding_oversampling": 1.0}


def test_rounds_beyond_those_asked_for_are_for_the_next_job(source, tmp_path):
    asked = job(source, tmp_path, "kmeans_plus_plus", max_iterations=1, **LONG)
    first = run_segment(asked, pipeline_options())
    assert (first.initialized, first.finished, first.seeding_passes) == (False, False, 3)
    assert (first.iterations, first.inertia, first.model_dir) == (0, None, None)
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["initialized"], state["seeding_passes"], state["passes"]) == (False, 3, 3)
    second = run_segment(asked, pipeline_options())
    assert (second.initialized, second.finished, second.seeding_passes) == (True, True, 4)
    expected = in_memory("kmeans_plus_plus", max_iterations=1, **LONG)
    assert runs.outcome(second.model_dir) == expected
    assert (second.jobs, second.passes) == (1, 4 + 2)


# Functions and warnings


def test_a_function_is_called_once_and_its_name_kept(source, tmp_path, caplog):
    CALLS.clear()
    report = run(source, tmp_path, "function", max_iterations=1)
    (call,) = CALLS
    assert call == ((WEIGHTS > 0).sum(), 12)
    kmeans = json.loads((tmp_path / "config.json").read_text())["kmeans"]
    assert kmeans["initial_clusters"].endswith("test_seeding_runs.evenly")
    assert "chose before" not in caplog.text
    assert run(source, tmp_path, "function", max_iterations=2).iterations == 2
    assert "goes on from the centers that tests.test_seeding_runs.evenly chose" in caplog.text
    assert len(CALLS) == 1
    assert report.passes == 1 + 1 + 1


def test_a_function_that_fails_is_asked_again(source, tmp_path, monkeypatch):
    def none(rows, k):
        return rows[:0]

    asked = job(source, tmp_path, "function")
    monkeypatch.setattr(evenly, "__code__", none.__code__)
    with pytest.raises(ValueError, match="no centers were given, 12 are still to choose"):
        train(asked, pipeline_options())
    monkeypatch.undo()
    read, _ = reads(monkeypatch)
    assert train(asked, pipeline_options()).jobs == 1
    assert len(read) == 14  # the sample is there


def test_a_function_is_not_for_a_segment(source, tmp_path):
    with pytest.raises(ValueError, match=r"initial_clusters: a function .* use the command train"):
        run_segment(job(source, tmp_path, "function"), pipeline_options())


def test_warnings_of_an_initialisation_are_logged_once(source, tmp_path, caplog):
    short = {"kmc2_chain_length": 2}
    run(source, tmp_path, "kmc2", **short)
    assert caplog.text.count("kmc2_chain_length") == 1
    run(source, tmp_path, "kmc2", **{**short, "max_iterations": 1})
    assert caplog.text.count("kmc2_chain_length") == 1
    caplog.clear()
    in_memory("kmc2", **short)
    assert caplog.text.count("kmc2_chain_length") == 1


# Kills


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("way", "half"),
    [
        ("kmeans_plus_plus", True),
        ("all_rows", False),
        ("kmc2", True),
        ("groups", False),
        ("afkmc2", False),
        ("cosine", True),
    ],
)
def test_killed_again_and_again(tmp_path, way, half):
    """Each run puts a few more files in place than the one before it, until one ends."""
    source = tables.write(tmp_path / "in", ROWS, files=2, weights=WEIGHTS, row_group=300)
    line, log = command(source, tmp_path / "work", way, "--block_rows=300"), tmp_path / "log"
    for number in range(1, 200):
        code = kills.run(line, log, kills.Kill(number, half))
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert number > 5
    assert runs.outcome(tmp_path / "work" / "model") == in_memory(way, max_iterations=1)
    assert not (tmp_path / "work" / "seeding" / "nearest").exists()


def train_by_a_function(arguments):
    """A program of its own, as no flag names a function; its exit code."""
    source, work = arguments
    run(source, work, "function", settings=of_files(block_rows=300), max_iterations=1)
    return 0


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(900)
def test_a_program_with_a_function_killed_again_and_again(tmp_path):
    source = tables.write(tmp_path / "in", ROWS, files=2, weights=WEIGHTS, row_group=300)
    program, log = (source, tmp_path / "work"), tmp_path / "log"
    for number in range(1, 200):
        kill = kills.Kill(number, bool(number % 2))
        code = kills.run(program, log, kill, entry=train_by_a_function)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert number > 5
    assert runs.outcome(tmp_path / "work" / "model") == in_memory("function", max_iterations=1)


@pytest.mark.heavy
@pytest.mark.runners
@pytest.mark.timeout(300)
def test_a_function_of_rows_that_two_processes_read(source, tmp_path):
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    report = run(source, tmp_path, "function", options=flags)
    assert runs.outcome(report.model_dir) == in_memory("function")


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(1800)
def test_killed_at_every_third_file_of_the_initialisation(tmp_path):
    source = tables.write(tmp_path / "in", ROWS, files=2, weights=WEIGHTS, row_group=300)
    whole, log = tmp_path / "whole", tmp_path / "log"
    way, options = "kmeans_plus_plus", ["--block_rows=300"]
    assert kills.run(command(source, whole, way, *options), log) == 0
    written = [path for path in kills.written(log) if "/seeding/" in path]
    assert len(written) > 15
    for number in range(1, len(written) + 1, 3):
        work = tmp_path / f"work{number}"
        line = command(source, work, way, *options)
        kill = kills.Kill(number, bool(number % 2), "/seeding/")
        assert kills.run(line, log, kill) == -signal.SIGKILL
        assert kills.run(line, log) == 0
        assert runs.arrays(work) == runs.arrays(whole)
        assert runs.outcome(work / "model") == runs.outcome(whole / "model")
        assert not (work / "seeding" / "nearest").exists()
        shutil.rmtree(work)


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(300)
def test_drivers_side_by_side_take_no_side_file_from_each_other(tmp_path):
    source = tables.write(tmp_path / "in", ROWS, files=2, weights=WEIGHTS, row_group=300)
    work, way = tmp_path / "work", "kmeans_plus_plus"
    more = [[], ["--seeding_state=none"], []]
    started = [
        kills.start(command(source, work, way, "--block_rows=100", *own), tmp_path / f"log{place}")
        for place, own in enumerate(more)
    ]
    assert [kills.finish(process, 200) for process in started] == [0, 0, 0]
    assert runs.outcome(work / "model") == in_memory(way, max_iterations=1)
    assert not list(work.glob("seeding/pass=*/*.tmp"))


def test_a_segment_of_a_finished_initialisation_holds_no_pass_of_it(source, whole, tmp_path):
    import apache_beam as beam

    from beam_kmeans.checkpoint import WorkDir
    from beam_kmeans.seeding_checkpoint import last_seeding

    pipeline, work = beam.Pipeline(), WorkDir(str(whole), 12)
    path = pipeline | beam.Create([source])
    start = segment.Start(seeding=last_seeding(work))
    segment.build_segment(path, work, parameters("kmeans_plus_plus"), 6, start, 1, "m")
    names = [one.full_label for one in pipeline._root_transform().parts]
    assert "Seed" in names
    (seeding,) = [one for one in pipeline._root_transform().parts if one.full_label == "Seed"]
    assert not seeding.parts
