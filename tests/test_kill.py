"""A run that is killed, at any moment and any number of times, ends in the same bytes."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from beam_kmeans.checkpoint import WorkDir
from tests import data, kills, runs, servers, tables

ROWS = data.blobs(400, 3)
HALF, AFTER = True, False


def arguments(source, work, *more):
    return [
        "train",
        f"--input={source}",
        f"--work_dir={work}",
        "--num_clusters=4",
        "--initial_clusters=random",
        "--max_iterations=3",
        "--tolerance=0",
        "--iterations_per_job=2",
        "--block_rows=40",
        "--on_bad_rows=drop",
        *more,
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Files of ROWS, a few of them bad."""
    rows = ROWS.astype(np.float64)
    rows[[3, 250, 251]] = np.nan
    return tables.write(tmp_path_factory.mktemp("in"), rows, "columns", files=3, row_group=200)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """The work directory of a run that was never killed, and the files it put in place."""
    folder = tmp_path_factory.mktemp("whole")
    assert kills.run(arguments(source, folder / "work"), folder / "log") == 0
    return folder / "work", kills.written(folder / "log")


def kept(work):
    """Everything that a run leaves and that must not depend on how it came there."""
    root = pathlib.Path(work)
    names = ["dataset/dataset.json", "model/centers.npy", "model/model.json", "state.json"]
    names += [str(path.relative_to(root)) for path in root.glob("rejected/*.jsonl")]
    names += [str(path.relative_to(root)) for path in runs.commits(root)]
    return {name: (root / name).read_bytes() for name in names} | runs.arrays(root)


def check_same(work, whole):
    assert runs.outcome(work / "model") == runs.outcome(whole / "model")
    mine, theirs = kept(work), kept(whole)
    assert mine.keys() == theirs.keys()
    assert [name for name, content in mine.items() if content != theirs[name]] == []


def check_nothing_half_written(work):
    """Whatever is in place is whole: markers can be read, and what they name is there."""
    found = WorkDir(str(work), 4)
    for path in runs.commits(work):
        found.load_centers(found.load_commit(str(path)).centers)
    if (work / "model" / "model.json").exists():
        runs.outcome(work / "model")


@pytest.mark.heavy
@pytest.mark.kill
def test_there_are_enough_moments_to_be_killed_at(whole):
    work, files = whole
    places = {pathlib.Path(path).relative_to(work).parts[0] for path in files}
    expected = {"config.json", "dataset", "rejected", "seeding", "iterations", "timings", "model"}
    assert places == expected | {"state.json"}
    assert len(files) > 40
    assert not runs.unfinished(work)


HEAVY = [pytest.mark.heavy, pytest.mark.kill]


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(kills.Kill(2, HALF, "shard-"), marks=HEAVY),
        kills.Kill(1, AFTER, "drawn-"),
        kills.Kill(3, HALF, "iterations/000002"),
        pytest.param(kills.Kill(1, AFTER, "model/centers.npy"), marks=HEAVY),
    ],
    ids=["staging", "seeding", "iterating", "publishing"],
)
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(source, whole, tmp_path, kill):
    command, log = arguments(source, tmp_path / "work"), tmp_path / "log"
    assert kills.run(command, log, kill) == -signal.SIGKILL
    assert len(runs.unfinished(tmp_path)) == kill.half
    assert not (tmp_path / "work" / "model" / "model.json").exists()
    check_nothing_half_written(tmp_path / "work")
    assert kills.run(command, log) == 0
    check_same(tmp_path / "work", whole[0])


def test_a_run_that_was_killed_between_model_and_state_tells_its_state(source, whole, tmp_path):
    command, log = arguments(source, tmp_path / "work"), tmp_path / "log"
    kill = kills.Kill(1, AFTER, "model/model.json")
    assert kills.run(command, log, kill) == -signal.SIGKILL
    assert not json.loads((tmp_path / "work" / "state.json").read_text())["finished"]
    assert kills.run(command, log) == 0
    check_same(tmp_path / "work", whole[0])


def test_two_drivers_on_one_directory_both_end_right(source, whole, tmp_path):
    command = arguments(source, tmp_path / "work")
    both = [kills.start(command, tmp_path / f"log{number}") for number in range(2)]
    assert [kills.finish(process) for process in both] == [0, 0]
    check_same(tmp_path / "work", whole[0])
    assert not runs.unfinished(tmp_path)


# Every moment


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(600)
def test_killed_at_every_second_file_in_turn(source, whole, tmp_path):
    for number in range(1, len(whole[1]) + 1, 2):
        work, log = tmp_path / f"work{number}", tmp_path / f"log{number}"
        kill = kills.Kill(number, HALF if number % 4 == 1 else AFTER)
        assert kills.run(arguments(source, work), log, kill) == -signal.SIGKILL
        check_nothing_half_written(work)
        assert kills.run(arguments(source, work), log) == 0, f"{log}.output"
        check_same(work, whole[0])
        shutil.rmtree(work)


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(300)
@pytest.mark.parametrize("half", [HALF, AFTER], ids=["half", "after"])
def test_killed_again_and_again(source, whole, tmp_path, half):
    """Each run puts a few more files in place than the one before it, until one ends."""
    command, log = arguments(source, tmp_path / "work"), tmp_path / "log"
    for number in range(1, len(whole[1]) + 2):
        code = kills.run(command, log, kills.Kill(number, half))
        check_nothing_half_written(tmp_path / "work")
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    assert number > 5
    check_same(tmp_path / "work", whole[0])


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("finished-", HALF),
        ("finished-", AFTER),
        ("model/centers.npy", AFTER),
        ("model/model.json", AFTER),
        ("timings", HALF),
    ],
)
def test_killed_while_a_raised_run_replaces_its_model(source, whole, tmp_path, name, half):
    work, log = tmp_path / "work", tmp_path / "log"
    assert kills.run([*arguments(source, work), "--max_iterations=1"], log) == 0
    command = arguments(source, work)
    assert kills.run(command, log, kills.Kill(1, half, name)) == -signal.SIGKILL
    assert kills.run(command, log) == 0
    assert runs.outcome(work / "model") == runs.outcome(whole[0] / "model")


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(300)
def test_killed_at_any_time(source, whole, tmp_path):
    """A command as people run it, killed from outside, staging and start included."""
    command = [sys.executable, "-m", "beam_kmeans"]
    started = time.monotonic()
    result = servers.command(*arguments(source, tmp_path / "first"))
    seconds = time.monotonic() - started
    assert result.code == 0, result.err
    check_same(tmp_path / "first", whole[0])
    killed = 0
    for number, part in enumerate(np.linspace(0.35, 0.98, 8)):
        work = tmp_path / f"work{number}"
        process = subprocess.Popen(
            [*command, *arguments(source, work)],
            env=servers.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=seconds * part)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        assert kills.run(arguments(source, work), tmp_path / "log") == 0
        check_same(work, whole[0])
    assert killed >= 3


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(300)
@pytest.mark.parametrize("other", [[], ["--block_rows=7"], ["--iterations_per_job=1"]], ids=str)
def test_several_drivers_on_one_directory(source, whole, tmp_path, other):
    for number in range(2):
        work = tmp_path / f"work{number}"
        commands = [arguments(source, work), [*arguments(source, work), *other]] * 2
        started = [
            kills.start(command, tmp_path / f"log{number}-{place}")
            for place, command in enumerate(commands)
        ]
        assert [kills.finish(process) for process in started] == [0, 0, 0, 0]
        assert runs.outcome(work / "model") == runs.outcome(whole[0] / "model")
        assert runs.arrays(work) == runs.arrays(whole[0])


@pytest.mark.heavy
@pytest.mark.kill
@pytest.mark.timeout(300)
def test_a_driver_goes_on_beside_one_that_is_killed(source, whole, tmp_path):
    names = ["shard-", "group-", "dataset.json", "drawn-", "iterations/000001", "finished-"]
    codes = []
    for number, name in enumerate(names):
        command = arguments(source, tmp_path / f"work{number}")
        killed = kills.start(command, tmp_path / "log", kills.Kill(1, HALF, name))
        other = kills.start(command, tmp_path / "other")
        codes.append(kills.finish(killed))
        assert kills.finish(other) == 0
        check_same(tmp_path / f"work{number}", whole[0])
    # One that finds everything done by the other is not killed.
    assert {*codes} <= {-signal.SIGKILL, 0}
    assert codes.count(-signal.SIGKILL) >= 2
