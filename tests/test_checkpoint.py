import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

from beam_kmeans import checkpoint, lloyd
from beam_kmeans.checkpoint import Commit, FileRef, WorkDir, prepared_centers
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState
from tests import data, runs

CENTERS = data.blobs(7, 4)
RECORD = {"iteration": 0, "inertia": 2.5, "empty_clusters": 0, "relocated": 0, "shift": 0.125}


@pytest.fixture
def work(tmp_path):
    return WorkDir(str(tmp_path), 7)


def commit(work, iteration, *, finished=False, converged=False):
    """Saves a commit, and gives it."""
    centers = work.save_centers(iteration, CENTERS + iteration, 0, 1)
    state = FitState(
        iteration=iteration,
        history=({**RECORD, "iteration": iteration},),
        inertia=Fraction(1, 3),
        rise=1e-9,
        converged=converged,
        finished=finished,
    )
    saved = Commit(state, (centers,), work.save_array("counts", "counts", np.arange(7)))
    work.save_commit(saved)
    return saved


def test_a_commit_comes_back_as_it_was_saved(work):
    saved = commit(work, 3)
    path, loaded = work.last_commit(10)
    assert loaded == saved
    assert loaded.state.inertia == Fraction(1, 3)
    assert path.startswith(f"{work.path}/iterations/000003/k=7/restart=00/state-")
    np.testing.assert_array_equal(work.load_centers(loaded.centers), CENTERS + 3)


def test_the_same_commit_is_the_same_file(work, tmp_path):
    commit(work, 3)
    other = WorkDir(str(tmp_path / "other"), 7)
    commit(other, 3)
    assert runs.arrays(work.path).keys() >= runs.arrays(other.path).keys()
    (mine, theirs) = (runs.commits(path)[0] for path in (work.path, other.path))
    assert (mine.name, mine.read_bytes()) == (theirs.name, theirs.read_bytes())
    before = mine.stat().st_mtime_ns
    commit(work, 3)
    assert runs.commits(work.path) == [mine]
    assert mine.stat().st_mtime_ns >= before


def test_names_carry_a_hash_of_the_content(work):
    first, second = (work.save_array("a", "x", np.arange(3) + add) for add in (0, 1))
    assert first.path != second.path
    assert first.path == f"a/x-{first.sha256[:16]}.npy"
    assert work.load_array(first).tolist() == [0, 1, 2]


@pytest.mark.parametrize("done", [[0], [0, 1, 2], [9, 10, 11], [2, 999_999, 1_000_000]])
def test_the_last_commit_is_the_highest(work, done):
    for iteration in done:
        commit(work, iteration)
    assert work.last_commit(2_000_000)[1].state.iteration == max(done)


def test_a_finished_commit_comes_after_the_one_it_measured(work):
    commit(work, 4, finished=True)
    commit(work, 4)
    assert work.last_commit(4)[1].state.finished


def test_a_commit_that_stopped_at_its_limit_is_passed_over_where_that_was_raised(work):
    commit(work, 4)
    commit(work, 4, finished=True)
    assert not work.last_commit(5)[1].state.finished


def test_a_commit_that_converged_is_the_end_whatever_the_limit(work):
    commit(work, 4, converged=True)
    commit(work, 4, finished=True, converged=True)
    assert work.last_commit(500)[1].state.finished


def test_more_iterations_than_are_asked_for_now_are_refused(work):
    commit(work, 4)
    with pytest.raises(DataError, match=r"4 iterations are already done .* not lowered to 3"):
        work.last_commit(3)


def test_no_commit_at_all(work):
    assert work.last_commit(5) is None


def test_commits_of_another_k_and_files_of_others_are_none(work):
    commit(WorkDir(work.path, 8), 5)
    commit(work, 1)
    for name in ("notes.json", "state-xyz.json", ".state-0123456789abcdef.json.1-2.tmp"):
        (runs.commits(work.path)[0].parent / name).write_text("{}")
    assert work.last_commit(9)[1].state.iteration == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"iteration": 2', '"iteration": 3'),
        lambda text: text.replace('"format_version": 1', '"format_version": 2'),
        lambda text: "[]",
    ],
    ids=["empty", "half", "changed", "newer", "foreign"],
)
def test_a_damaged_commit_is_passed_over_with_a_warning(work, damage, caplog):
    commit(work, 1)
    commit(work, 2)
    path = runs.commits(work.path)[-1]
    path.write_text(damage(path.read_text()))
    assert work.last_commit(9)[1].state.iteration == 1
    assert caplog.messages[0].startswith(f"Passed over, as if it had not been written: {path}")


@pytest.mark.parametrize("missing", ["state", "centers", "counts"])
def test_a_commit_without_its_parts_is_none(work, missing):
    commit(work, 1)
    path = runs.commits(work.path)[-1]
    fields = json.loads(path.read_text())
    del fields[missing], fields["checksum"], fields["format_version"]
    checkpoint.write_json(str(path), fields, 1)
    with pytest.raises(DataError, match="is not a committed state"):
        work.load_commit(str(path))


@pytest.mark.parametrize("change", ["half", "bit", "other"])
def test_a_damaged_array_is_refused(work, tmp_path, change):
    ref = work.save_array("a", "x", CENTERS)
    path = tmp_path / ref.path
    whole = path.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    other = (tmp_path / work.save_array("a", "x", CENTERS + 1).path).read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "bit": flipped, "other": other}[change])
    with pytest.raises(DataError, match=f"{path.name} is damaged: its SHA-256 is not the one"):
        work.load_array(ref)


def test_a_missing_array_is_named(work):
    with pytest.raises(DataError, match=r"a/none\.npy, which a committed state needs, cannot be"):
        work.load_array(FileRef("a/none.npy", "0"))


def test_given_centers_are_kept_by_ranges(work, monkeypatch):
    monkeypatch.setattr(lloyd, "RANGE_VALUES", 8)
    refs = work.save_given(CENTERS)
    assert [ref.path[-18:-4] for ref in refs] == [f"{place:05d}-of-00004" for place in range(4)]
    np.testing.assert_array_equal(work.load_centers(refs), CENTERS)


def test_prepared_centers_are_loaded_once_and_only_the_last_are_held(work, monkeypatch):
    loaded = []
    original = WorkDir.load_array
    monkeypatch.setattr(
        WorkDir, "load_array", lambda self, ref: loaded.append(ref) or original(self, ref)
    )
    commits = [commit(work, iteration) for iteration in range(3)]
    for saved in [commits[0], commits[0], commits[1], commits[0], commits[2], commits[2]]:
        centers = prepared_centers(work, saved.centers)
        np.testing.assert_array_equal(centers.rows, CENTERS + saved.state.iteration)
    assert loaded == [saved.centers[0] for saved in commits]
    prepared_centers(work, commits[0].centers)
    assert len(loaded) == 4


def test_prepared_centers_of_two_runs_are_not_mixed(tmp_path):
    works = [WorkDir(str(tmp_path / name), 7) for name in "ab"]
    for shift, work in enumerate(works):
        ref = work.save_centers(0, CENTERS + shift, 0, 1)
        same_name = dataclasses.replace(ref, path="centers.npy")
        (tmp_path / "ab"[shift] / ref.path).rename(tmp_path / "ab"[shift] / "centers.npy")
        np.testing.assert_array_equal(prepared_centers(work, (same_name,)).rows, CENTERS + shift)
