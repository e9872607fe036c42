"""States of an initialisation in the work directory."""

import dataclasses
import pathlib

import numpy as np
import pytest

from beam_kmeans import lloyd
from beam_kmeans.checkpoint import FORMAT_VERSION, WorkDir
from beam_kmeans.errors import DataError
from beam_kmeans.io.manifest import read_json, write_json
from beam_kmeans.seeding.state import Facts, Seeding
from beam_kmeans.seeding_checkpoint import (
    last_seeding,
    load_seeding,
    prepared_seeding,
    save_seeding,
)

FACTS = Facts(100, 3, 50.5, (0.1, -1e300, 2.0), 7.25)
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def work(tmp_path):
    return WorkDir(str(tmp_path), 4)


def same(found, wanted):
    for field in dataclasses.fields(Seeding):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if field.name == "arrays":
            assert a.keys() == b.keys()
            for name in a:
                np.testing.assert_array_equal(a[name], b[name], strict=True)
        elif isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, strict=True)
        else:
            assert a == b


def full_state(**fields):
    whole = {
        "passes": 2,
        "lookups": 1,
        "notes": {"potentials": [1 / 3, 1e300], "all_rows": False},
        "arrays": {"keys": np.arange(5.0), "numbers": np.arange(3)},
        "rows": ROWS,
        "wanted": np.array([7, 3]),
        "warnings": ("short",),
    }
    return Seeding(FACTS, **{**whole, **fields})


def test_a_state_comes_back_as_it_was_saved(work):
    rows = tuple(work.save_array("seeding", "rows", part) for part in (ROWS[:1], ROWS[1:]))
    saved = save_seeding(work, full_state(), rows)
    assert saved.candidates == 4
    assert last_seeding(work) == saved == load_seeding(work, saved.path)
    same(prepared_seeding(WorkDir(work.path + "/.", 4), saved), full_state())


def test_centers_are_kept_by_ranges(work, monkeypatch):
    monkeypatch.setattr(lloyd, "RANGE_VALUES", 6)
    saved = save_seeding(work, full_state(centers=ROWS, rows=None, wanted=None))
    assert len(saved.centers) == 2
    np.testing.assert_array_equal(work.load_centers(saved.centers), ROWS)


def test_the_same_state_is_the_same_file(work, tmp_path):
    first = save_seeding(work, full_state(rows=None))
    other = WorkDir(str(tmp_path / "other"), 4)
    assert save_seeding(other, full_state(rows=None)) == first
    content = [(pathlib.Path(one.path) / first.path).read_bytes() for one in (work, other)]
    assert content[0] == content[1]
    assert save_seeding(work, full_state(rows=None, passes=3)).path != first.path


def test_arrays_that_did_not_change_stay_in_their_files(work):
    first = save_seeding(work, full_state(rows=None, wanted=None))
    state = prepared_seeding(work, first)
    changed = {**state.arrays, "numbers": np.arange(4)}
    following = dataclasses.replace(state, passes=3, arrays=changed)
    second = save_seeding(work, following, before=first)
    assert second.arrays["keys"] == first.arrays["keys"]
    assert second.arrays["numbers"] != first.arrays["numbers"]
    same(prepared_seeding(work, second), following)


def test_the_last_state_is_the_one_that_went_furthest(work):
    ends = {"rows": None, "wanted": None, "centers": ROWS}
    order = [
        full_state(rows=None, wanted=None, passes=0),
        full_state(rows=None, passes=2),
        full_state(rows=None, wanted=None, passes=2),
        full_state(rows=None, passes=10),
        full_state(passes=10, **ends),
    ]
    assert last_seeding(work) is None
    saved = [save_seeding(work, state) for state in order]
    kinds = [commit.path.split("/")[-1].partition("-")[0] for commit in saved]
    assert kinds == ["state", "drawn", "state", "drawn", "finished"]
    for commit in reversed(saved):
        assert last_seeding(work) == commit
        (pathlib.Path(work.path) / commit.path).unlink()


@pytest.mark.parametrize("damage", ["half", "changed", "newer", "part"])
def test_a_damaged_state_is_passed_over_with_a_warning(work, caplog, damage):
    before = save_seeding(work, full_state(passes=1))
    path = pathlib.Path(work.path) / save_seeding(work, full_state()).path
    text = path.read_text()
    fields = read_json(str(path), "a state", FORMAT_VERSION)
    if damage == "part":
        del fields["facts"], fields["format_version"], fields["checksum"]
        write_json(str(path), fields, FORMAT_VERSION)
    else:
        changed = {
            "half": text[: len(text) // 2],
            "changed": text.replace('"passes": 2', '"passes": 5'),
            "newer": text.replace('"format_version": 1', '"format_version": 2'),
        }
        assert changed[damage] != text
        path.write_text(changed[damage])
    assert last_seeding(work) == before
    assert caplog.messages[0].startswith(f"Passed over, as if it had not been written: {path}")


def test_a_damaged_array_is_refused(work):
    saved = save_seeding(work, full_state(rows=None))
    path = pathlib.Path(work.path) / saved.drawn.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=f"{path.name} is damaged: its SHA-256"):
        prepared_seeding(work, saved)


def test_states_are_loaded_once_and_only_the_last_are_held(work, monkeypatch):
    saved = [save_seeding(work, full_state(rows=None, passes=n)) for n in (1, 2, 3)]
    loaded, original = [], WorkDir.load_array
    monkeypatch.setattr(
        WorkDir, "load_array", lambda self, ref: loaded.append(ref) or original(self, ref)
    )
    for number in (0, 0, 1, 0, 2, 2, 1):
        assert prepared_seeding(work, saved[number]).passes == number + 1
    assert len(loaded) == 3 * 3
    prepared_seeding(work, saved[0])
    assert len(loaded) == 4 * 3


def test_states_of_a_run_without_its_configuration_are_refused(work):
    from beam_kmeans.config import Parameters

    save_seeding(work, full_state(rows=None))
    with pytest.raises(DataError, match=r"holds states of a run, but not its config\.json"):
        work.check_config(Parameters(4), None, {})
