import dataclasses
import os

import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io.plan import StagePlan, absolute, check_same, make_plan, short
from tests import data, tables

ROWS = data.blobs(50, 3)


@pytest.fixture
def source(tmp_path):
    return tables.write(tmp_path / "in", ROWS, "columns", files=2, weights=ROWS[:, 0] ** 2)


def test_a_plan_comes_back_as_it_was_saved(tmp_path, source):
    plan = make_plan(source, str(tmp_path / "out"), features=["x1", "x0"], weight_column="w")
    assert StagePlan.load(plan.save()) == plan
    assert plan.path.startswith(str(tmp_path / "out" / "staging-"))


@pytest.mark.parametrize(
    "changed",
    [
        {"features": ("x0",)},
        {"features": ("x1", "x0", "x2")},
        {"weight_column": "w"},
        {"standardize": True},
        {"on_bad_rows": "drop"},
    ],
    ids=str,
)
def test_the_fingerprint_covers(tmp_path, source, changed):
    usual = {"features": ("x0", "x1", "x2")}
    plan = make_plan(source, str(tmp_path), **usual)
    other = make_plan(source, str(tmp_path), **{**usual, **changed})
    assert plan.source["fingerprint"] != other.source["fingerprint"]
    assert plan.workshop != other.workshop


@pytest.mark.parametrize("name", ["path", "size", "modified"])
def test_the_fingerprint_covers_of_a_file(tmp_path, source, name):
    plan = make_plan(source, str(tmp_path))
    changed = {"path": "/elsewhere", "size": 1, "modified": 1.0}[name]
    first = dataclasses.replace(plan.files[0], **{name: changed})
    other = dataclasses.replace(plan, files=(first, *plan.files[1:]))
    assert plan.source["fingerprint"] != other.source["fingerprint"]


def test_the_fingerprint_does_not_cover_what_changes_no_byte(tmp_path, source):
    plan = make_plan(source, str(tmp_path), block_rows=3)
    other = make_plan([source], str(tmp_path / "other"), rejected="elsewhere", block_rows=4)
    assert plan.source == other.source


def test_workers_may_have_another_working_directory(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan("in/*.parquet", "out")
    assert (plan.output, plan.rejected) == (str(tmp_path / "out"), str(tmp_path / "out/rejected"))
    assert all(os.path.isabs(file.path) for file in plan.files)
    assert absolute("gs://bucket/out") == "gs://bucket/out"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"on_bad_rows": "skip"}, "on_bad_rows: 'skip' is not allowed; allowed: 'error' or 'drop'"),
        ({"block_rows": 0}, "block_rows: 0 is not allowed; allowed: an integer from 1 to "),
        ({"block_rows": 2**24 + 1}, "block_rows: .* is not allowed"),
        ({"features": ["x0", "nope"]}, "nope"),
        ({"weight_column": "v"}, "'v'"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_said(tmp_path, source, settings, said):
    with pytest.raises(ValueError, match=said):
        make_plan(source, str(tmp_path), **settings)


def test_a_pattern_that_matches_nothing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file matches '.*none-\*\.csv'"):
        make_plan([f"{tmp_path}/none-*.csv"], str(tmp_path))


def test_files_in_another_order_are_other_files(tmp_path, source):
    plan = make_plan(source, str(tmp_path / "out"))
    plan.save()
    turned = dataclasses.replace(plan, files=plan.files[::-1])
    with pytest.raises(DataError, match="their order has changed"):
        check_same(turned, plan.source, "here")


def test_a_list_in_a_message_is_cut():
    assert short(["x"] * 3) == "['x', 'x', 'x']"
    assert len(short(["x"] * 300)) == 80
