import dataclasses
import json
import logging
import os
import tempfile

import numpy as np
import pytest
import sklearn.preprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_kmeans import StagedDataset, running, stage
from beam_kmeans.errors import DataError
from beam_kmeans.io import npy, shards, staging
from beam_kmeans.io.files import match_files
from beam_kmeans.io.formats import source_of
from beam_kmeans.io.plan import make_plan
from beam_kmeans.io.sources import Split
from beam_kmeans.io.splitting import SplitGroup, group_splits
from beam_kmeans.statistics import Statistics
from tests import data, tables

ROWS = data.blobs(700, 3)
WEIGHTS = np.random.default_rng(1).integers(0, 4, len(ROWS)).astype(np.float32)


def staged_rows(dataset):
    """Rows, weights and row numbers of all blocks."""
    blocks = list(dataset.blocks())
    weights = [block.weights for block in blocks]
    return (
        np.concatenate([block.rows for block in blocks]),
        None if weights[0] is None else np.concatenate(weights),
        np.concatenate([block.row_numbers for block in blocks]),
    )


def groups_of(plan):
    splits = [
        split
        for number, file in enumerate(plan.files)
        for split in source_of(file.path).splits(number, file, len(plan.columns.names))
    ]
    return group_splits(splits)


def stage_here(input, output, **settings):
    """What `stage` does, without a pipeline."""
    plan = make_plan(input, str(output), **settings)
    plan.save()
    statistics, results = Statistics.zero(len(plan.columns.names)), []
    for group in groups_of(plan):
        result, own = staging.stage_group(plan, group, None)
        results.append(result)
        statistics.add(own)
    write = staging._WriteManifest(plan.path)
    return StagedDataset.open(*write.process(b"", results[::-1], statistics, None))


def exact(statistics):
    """All that statistics say, as values that `==` compares."""
    return (
        statistics.rows,
        statistics.positive_rows,
        statistics.weight.to_fractions(),
        statistics.weighted.to_fractions(),
        statistics.squares.to_fractions(),
        statistics.minimums.tolist(),
        statistics.maximums.tolist(),
    )


def no_job(*_):
    raise AssertionError("a job was started")


# The same rows, however they come


@pytest.mark.parametrize(
    ("format", "weighted"),
    # A .npy file has no column of weights.
    [(f, w) for f in tables.FORMATS for w in (False, True) if (f, w) != ("npy", True)],
)
def test_every_format_gives_the_same_rows(tmp_path, format, weighted):
    settings, weights = dict(tables.FORMATS[format]), None
    if weighted:
        settings["weight_column"], weights = "w", WEIGHTS
    pattern = tables.write(tmp_path / "in", ROWS, format, files=2, weights=weights)
    dataset = stage_here(pattern, tmp_path / "out", **settings)
    rows, staged_weights, numbers = staged_rows(dataset)
    np.testing.assert_array_equal(rows, ROWS)
    np.testing.assert_array_equal(numbers, np.arange(len(ROWS)))
    assert (staged_weights is None) == (weights is None)
    if weighted:
        np.testing.assert_array_equal(staged_weights, WEIGHTS)
    assert exact(dataset.statistics) == exact(Statistics.of(ROWS, weights))
    by_position = format in ("list", "npy")
    generated = ("feature_0", "feature_1", "feature_2")
    assert dataset.features == (generated if by_position else tuple(tables.names(3)))


@pytest.mark.parametrize(("files", "block_rows"), [(1, None), (3, 64), (17, 5)])
def test_files_and_blocks_change_nothing_that_is_staged(tmp_path, files, block_rows):
    pattern = tables.write(tmp_path / "in", ROWS, files=files, weights=WEIGHTS, row_group=50)
    dataset = stage(
        pattern,
        str(tmp_path / "out"),
        features_column="features",
        weight_column="w",
        block_rows=block_rows,
    )
    rows, weights, numbers = staged_rows(dataset)
    np.testing.assert_array_equal(rows, ROWS)
    np.testing.assert_array_equal(weights, WEIGHTS)
    np.testing.assert_array_equal(numbers, np.arange(len(ROWS)))
    assert exact(dataset.statistics) == exact(Statistics.of(ROWS, WEIGHTS))
    if block_rows:
        assert max(len(block.rows) for block in dataset.blocks()) <= block_rows


def test_files_are_in_the_order_of_their_paths_not_of_the_patterns(tmp_path):
    pattern = tables.write(tmp_path / "in", ROWS, "npy", files=12)
    names = sorted((tmp_path / "in").iterdir(), reverse=True)
    dataset = stage([*map(str, names), pattern], str(tmp_path / "out"))
    np.testing.assert_array_equal(staged_rows(dataset)[0], ROWS)


def test_one_feature(tmp_path):
    pattern = tables.write(tmp_path / "in", ROWS[:, :1], "csv")
    dataset = stage_here(pattern, tmp_path / "out")
    assert dataset.num_features == 1
    np.testing.assert_array_equal(staged_rows(dataset)[0], ROWS[:, :1])


def test_denormals_become_0_and_are_counted(tmp_path):
    np.save(tmp_path / "a.npy", [[1e-40, 1.0], [-0.0, 2.0], [3.0, -1e-45]])
    dataset = stage_here(str(tmp_path / "a.npy"), tmp_path / "out")
    rows = staged_rows(dataset)[0]
    assert rows.tolist() == [[0.0, 1.0], [0.0, 2.0], [3.0, 0.0]]
    assert not np.signbit(rows).any()
    assert dataset.denormals == 2


# Shards


def test_one_large_file_makes_enough_shards(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    dataset = stage(str(tmp_path / "a.npy"), str(tmp_path / "out"), block_rows=20)
    assert len(dataset.shards) >= 16
    assert sum(shard.rows for shard in dataset.shards) == len(ROWS)


def test_blocks_fewer_than_16_are_a_shard_each(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    dataset = stage_here(str(tmp_path / "a.npy"), tmp_path / "out", block_rows=100)
    assert [shard.rows for shard in dataset.shards] == [100] * 7


def test_many_small_splits_are_joined_but_not_to_fewer_than_16_shards(tmp_path):
    pattern = tables.write(tmp_path / "in", ROWS, files=17, row_group=3)
    dataset = stage_here(pattern, tmp_path / "out", features_column="features", block_rows=40)
    assert 16 <= len(dataset.shards) <= 40
    np.testing.assert_array_equal(staged_rows(dataset)[2], np.arange(len(ROWS)))


def test_a_shard_is_never_larger_than_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 12 * 40)
    monkeypatch.setattr(npy, "SPLIT_BYTES", 12 * 43)
    np.save(tmp_path / "a.npy", ROWS)
    dataset = stage_here(str(tmp_path / "a.npy"), tmp_path / "out", block_rows=10)
    assert max(shard.rows for shard in dataset.shards) == 40
    assert len(dataset.shards) <= 2 * 700 / 40, "nor are they cut small"
    np.testing.assert_array_equal(staged_rows(dataset)[0], ROWS)


@given(sizes=st.lists(st.lists(st.integers(0, 1 << 30), max_size=6), max_size=40))
def test_groups_hold_every_split_once_and_in_order(sizes):
    splits = [
        Split(file, index, f"{file}", index, index + 1, size)
        for file, parts in enumerate(sizes)
        for index, size in enumerate(parts)
    ]
    groups = list(group_splits(reversed(splits)))
    assert [split for group in groups for split in group.splits] == splits
    assert [group.number for group in groups] == list(range(len(groups)))
    assert {group.groups for group in groups} <= {len(groups)}
    enough = min(shards.SHARD_BYTES, sum(map(sum, sizes)) // 16)
    for group in groups[:-1]:
        assert sum(split.size for split in group.splits) >= enough, "small splits are joined"
        assert sum(split.size for split in group.splits[:-1]) < max(enough, 1), "large ones are not"


# Bad rows


def spoil(rows, bad):
    """The rows, with a NaN in those that are bad."""
    spoiled = rows.astype(np.float64)
    spoiled[sorted(bad), 1] = np.nan
    return spoiled


#: In one of many row groups of one of several files: the first and the last of all rows, a whole
#: row group, both sides of an edge between files, and some alone.
BAD = {0, 7, *range(100, 150), 333, 334, 335, 500, len(ROWS) - 1}


@pytest.mark.parametrize("format", tables.FORMATS)
@pytest.mark.parametrize("files", [1, 3])
def test_rejected_rows_leave_gaps_in_the_row_numbers(tmp_path, format, files):
    pattern = tables.write(tmp_path / "in", spoil(ROWS, BAD), format, files=files, row_group=50)
    settings = {"on_bad_rows": "drop", "block_rows": 32, **tables.FORMATS[format]}
    dataset = stage_here(pattern, tmp_path / "out", **settings)
    good = np.setdiff1d(np.arange(len(ROWS)), sorted(BAD))
    rows, _, numbers = staged_rows(dataset)
    np.testing.assert_array_equal(numbers, good)
    np.testing.assert_array_equal(rows, ROWS[good])
    assert (dataset.rows, dataset.rejected) == (len(good), len(BAD))


@given(
    bad=st.sets(st.integers(0, 59), max_size=59),
    block_rows=st.integers(1, 70),
    row_group=st.integers(1, 60),
    files=st.integers(1, 3),
)
@settings(max_examples=20, deadline=None)
def test_row_numbers_are_right_whatever_is_rejected(bad, block_rows, row_group, files):
    with tempfile.TemporaryDirectory() as folder:
        pattern = tables.write(folder, spoil(ROWS[:60], bad), "columns", files, None, row_group)
        how = {"on_bad_rows": "drop", "block_rows": block_rows}
        dataset = stage_here(pattern, f"{folder}/out", **how)
        rows, _, numbers = staged_rows(dataset)
        assert numbers.tolist() == sorted({*range(60)} - bad)
        np.testing.assert_array_equal(rows, ROWS[numbers])
        assert dataset.rejected == len(bad)


def test_what_is_rejected_is_listed_with_file_row_and_reason(tmp_path):
    pattern = tables.write(tmp_path / "in", spoil(ROWS, BAD), "columns", files=3, row_group=50)
    stage(pattern, str(tmp_path / "out"), on_bad_rows="drop")
    paths = sorted((tmp_path / "out" / "rejected").glob("*.jsonl"))
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert {tuple(line) for line in lines} == {("file", "row", "reason")}
    assert {line["reason"] for line in lines} == {"column 'x1' is NaN"}
    first, found = 0, set()
    for file in match_files([pattern]):
        found |= {first + line["row"] for line in lines if line["file"] == file.path}
        last = source_of(file.path).splits(0, file, 1)[-1]
        first += last.first_row + last.size // 4
    assert (first, found) == (len(ROWS), BAD)


def test_a_row_of_a_csv_counts_from_0_without_the_header(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,oops\n\n5\n7,8\n")
    settings = {"features": ["x", "y"], "on_bad_rows": "drop"}
    dataset = stage_here(str(tmp_path / "a.csv"), tmp_path / "out", **settings)
    (path,) = (tmp_path / "out" / "rejected").glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["row"], line["reason"]) for line in lines] == [
        (1, "column 'y' is not a number: 'oops'"),
        (2, "line of 1 fields, expected 2"),
    ]
    assert {line["file"] for line in lines} == {str(tmp_path / "a.csv")}
    assert staged_rows(dataset)[2].tolist() == [0, 3]


@pytest.mark.parametrize("format", tables.FORMATS)
def test_a_bad_row_fails_the_stage_and_is_named(tmp_path, format):
    suffix = tables.SUFFIXES.get(format, format)
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path, rows in zip(paths, (ROWS[:90], spoil(ROWS, {123})), strict=True):
        tables.write_file(path, rows, format, row_group=50)
    run = stage if format == "columns" else stage_here
    with pytest.raises(DataError) as caught:
        run([*map(str, paths)], str(tmp_path / "out"), **tables.FORMATS[format])
    column = "feature_1" if format in ("list", "npy") else "x1"
    assert str(caught.value) == (
        f"{paths[1]}, row 123: column '{column}' is NaN "
        "(on_bad_rows 'drop' drops such rows, and counts them)"
    )
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_a_negative_weight_makes_a_bad_row(tmp_path):
    weights = WEIGHTS.copy()
    weights[5] = -1
    pattern = tables.write(tmp_path / "in", ROWS, "columns", weights=weights)
    with pytest.raises(DataError, match=r"row 5: weight is negative: -1\.0"):
        stage_here(pattern, tmp_path / "out", weight_column="w")


# Nothing to stage


@pytest.mark.parametrize("format", tables.FORMATS)
def test_an_empty_file_among_full_ones_changes_nothing(tmp_path, format):
    pattern = tables.write(tmp_path / "in", ROWS, format, files=3)
    suffix = tables.SUFFIXES.get(format, format)
    for name in ("part-000a", "part-001a", "part-999"):
        tables.write_file(tmp_path / "in" / f"{name}.{suffix}", ROWS[:0], format)
    dataset = stage_here(pattern, tmp_path / "out", **tables.FORMATS[format])
    rows, _, numbers = staged_rows(dataset)
    np.testing.assert_array_equal(rows, ROWS)
    np.testing.assert_array_equal(numbers, np.arange(len(ROWS)))


@pytest.mark.parametrize(("format", "standardize"), [("columns", True), ("npy", False)])
def test_no_rows_at_all(tmp_path, format, standardize):
    pattern = tables.write(tmp_path / "in", ROWS[:0], format)
    with pytest.raises(DataError, match="the data has no rows"):
        stage(pattern, str(tmp_path / "out"), standardize=standardize)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_all_rows_rejected(tmp_path):
    pattern = tables.write(tmp_path / "in", np.full((4, 2), np.inf), "npy")
    with pytest.raises(DataError, match=r"the data has no rows \(4 were rejected\)"):
        stage(pattern, str(tmp_path / "out"), on_bad_rows="drop", standardize=True)


@pytest.mark.parametrize("standardize", [False, True])
def test_weights_that_are_all_0_are_refused(tmp_path, standardize):
    pattern = tables.write(tmp_path / "in", ROWS, "columns", weights=WEIGHTS * 0)
    with pytest.raises(DataError, match=f"the weights of all {len(ROWS)} rows are 0"):
        stage(pattern, str(tmp_path / "out"), weight_column="w", standardize=standardize)
    assert not (tmp_path / "out" / "dataset.json").exists()


# Standardization


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_standardized_rows_are_scikit_learns(tmp_path, weighted):
    values = np.array([1e3, 1.0, 1e-6]) * ROWS.astype(np.float64) + [5, -7e4, 0]
    weights = WEIGHTS if weighted else None
    pattern = tables.write(tmp_path / "in", values, "csv", files=3, weights=weights)
    dataset = stage(
        pattern,
        str(tmp_path / "out"),
        standardize=True,
        features=tables.names(3),
        weight_column="w" if weighted else None,
    )
    expected = sklearn.preprocessing.StandardScaler().fit(values, sample_weight=weights)
    np.testing.assert_allclose(dataset.standardization.means, expected.mean_, rtol=1e-12)
    np.testing.assert_allclose(dataset.standardization.scales, expected.scale_, rtol=1e-9)
    rows = staged_rows(dataset)[0]
    np.testing.assert_allclose(rows, expected.transform(values), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dataset.statistics.means(), 0, atol=1e-7)
    np.testing.assert_allclose(dataset.statistics.variances(), 1, rtol=1e-6)


def epoch_seconds():
    """Two features: seconds of one day in 2026, which float32 rounds to 128, and a plain one."""
    random = np.random.default_rng(3)
    seconds = 1_785_000_000 + random.permutation(15_000)[:400]
    return np.stack([seconds, random.integers(0, 1000, 400)], axis=1)


@pytest.mark.parametrize("format", ["list", "csv"])
def test_standardizing_takes_the_original_values(tmp_path, format):
    values = epoch_seconds()
    pattern = tables.write(tmp_path / "in", values, format, files=2)
    dataset = stage(pattern, str(tmp_path / "out"), standardize=True, **tables.FORMATS[format])
    expected = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(staged_rows(dataset)[0], expected, rtol=1e-6, atol=1e-7)
    assert len(np.unique(staged_rows(dataset)[0][:, 0])) == 400


def test_a_coarse_feature_is_named_in_a_warning(tmp_path, caplog):
    pattern = tables.write(tmp_path / "in", epoch_seconds(), "columns")
    with caplog.at_level(logging.WARNING, "beam_kmeans"):
        stage(pattern, str(tmp_path / "out"))
        (warning,) = caplog.messages
        assert "coarsely" in warning
        assert ": x0;" in warning
        assert "--standardize" in warning
        stage(pattern, str(tmp_path / "standardized"), standardize=True)
        assert len(caplog.messages) == 1


def test_a_feature_that_never_varies_is_0_when_standardized(tmp_path):
    values = np.stack([np.full(50, 1e6 + 0.1), np.arange(50.0)], axis=1)
    np.save(tmp_path / "a.npy", values)
    dataset = stage(str(tmp_path / "a.npy"), str(tmp_path / "out"), standardize=True)
    assert dataset.standardization.scales[0] == 1
    assert not staged_rows(dataset)[0][:, 0].any()


# Reuse and refusal


@pytest.fixture
def source(tmp_path):
    return tables.write(tmp_path / "in", ROWS, "columns", files=3, weights=WEIGHTS)


def restage(tmp_path, source, run=stage, **changed):
    settings = {"features": ["x0", "x1"], "weight_column": "w", **changed}
    return run(source, str(tmp_path / "out"), **settings)


def test_a_stage_of_the_same_source_is_reused(tmp_path, source, monkeypatch):
    first = restage(tmp_path, source)
    manifest = tmp_path / "out" / "dataset.json"
    before = (manifest.stat().st_mtime_ns, manifest.stat().st_ino)
    monkeypatch.setattr(running, "run_pipeline", no_job)
    again = restage(tmp_path, source, block_rows=13)
    assert (manifest.stat().st_mtime_ns, manifest.stat().st_ino) == before
    assert again.shards == first.shards
    # The same files, named in another way.
    monkeypatch.chdir(tmp_path)
    restage(tmp_path, ["in/part-00[12].parquet", "./in/part-000.parquet"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"features": ["x0", "x2"]}, r"features = \['x0', 'x1'\], now it is \['x0', 'x2'\]"),
        ({"features": ["x1", "x0"]}, r"features = \['x0', 'x1'\], now it is \['x1', 'x0'\]"),
        ({"weight_column": None}, "weight_column = 'w', now it is None"),
        ({"standardize": True}, "standardize = False, now it is True"),
        ({"on_bad_rows": "drop"}, "on_bad_rows = 'error', now it is 'drop'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_configuration_is_refused_and_named(tmp_path, source, changed, said):
    restage(tmp_path, source, stage_here)
    with pytest.raises(DataError, match=said):
        restage(tmp_path, source, **changed)


def change_size(folder):
    tables.write_file(folder / "part-001.parquet", ROWS[:5], "columns", WEIGHTS[:5])
    return r"part-001.parquet has changed \(its size or modification time\)"


def touch(folder):
    os.utime(folder / "part-002.parquet", (1, 1))
    return r"part-002.parquet has changed \(its size or modification time\)"


def add(folder):
    tables.write_file(folder / "part-0015.parquet", ROWS[:5], "columns", WEIGHTS[:5])
    return r"part-0015.parquet is new"


def remove(folder):
    (folder / "part-000.parquet").unlink()
    return r"part-000.parquet is missing"


@pytest.mark.parametrize("change", [change_size, touch, add, remove])
def test_other_files_are_refused_and_named(tmp_path, source, change):
    restage(tmp_path, source, stage_here)
    said = change(tmp_path / "in")
    with pytest.raises(DataError, match=f"was staged from other files: .*{said}"):
        restage(tmp_path, source)


# Resuming


def parsed_groups(monkeypatch):
    """The numbers of the groups that are parsed from now on."""
    parsed, original = [], staging.stage_group

    def counted(plan, group, standardization):
        parsed.append(group.number)
        return original(plan, group, standardization)

    monkeypatch.setattr(staging, "stage_group", counted)
    return parsed


@pytest.mark.parametrize("standardize", [False, True])
def test_groups_that_were_staged_are_not_parsed_again(tmp_path, monkeypatch, standardize):
    pattern = tables.write(tmp_path / "in", spoil(ROWS, BAD), "columns", files=5, row_group=40)
    settings = {"on_bad_rows": "drop", "block_rows": 16, "standardize": standardize}
    parsed = parsed_groups(monkeypatch)
    first = stage(pattern, str(tmp_path / "out"), **settings)
    groups = len(parsed)
    assert groups >= 10
    manifest = (tmp_path / "out" / "dataset.json").read_bytes()
    (tmp_path / "out" / "dataset.json").unlink()
    markers = sorted((tmp_path / "out").rglob("group-*.json"))
    for marker in markers[::2]:
        marker.unlink()
    parsed.clear()
    again = stage(pattern, str(tmp_path / "out"), **settings)
    assert sorted(parsed) == list(range(0, groups, 2))
    assert (tmp_path / "out" / "dataset.json").read_bytes() == manifest
    assert again.shards == first.shards
    assert len(staged_rows(again)[0]) == len(ROWS) - len(BAD)
    parsed.clear()
    (tmp_path / "out" / "dataset.json").unlink()
    stage(pattern, str(tmp_path / "out"), **settings)
    assert parsed == []


def test_half_staged_groups_of_other_blocks_go_on(tmp_path, source):
    plain = restage(tmp_path, source)
    (tmp_path / "out" / "dataset.json").unlink()
    (tmp_path / "out").rglob("group-*.json").__next__().unlink()
    again = restage(tmp_path, source, block_rows=7)
    np.testing.assert_array_equal(staged_rows(again)[0], ROWS[:, :2])
    assert exact(again.statistics) == exact(plain.statistics)


def test_a_damaged_marker_is_refused(tmp_path, source):
    restage(tmp_path, source)
    (tmp_path / "out" / "dataset.json").unlink()
    marker = next((tmp_path / "out").rglob("group-*.json"))
    marker.write_bytes(marker.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{marker.name} is not a record of a staged group, or is"):
        restage(tmp_path, source)


def test_a_shard_that_is_gone_is_said_when_it_is_read(tmp_path, source):
    dataset = restage(tmp_path, source, stage_here)
    (tmp_path / "out" / dataset.shards[0].path).unlink()
    with pytest.raises(DataError, match=r"shard .* cannot be read: .*No such file"):
        list(StagedDataset.open(dataset.path).blocks())


def test_a_file_that_changes_after_the_plan_fails_the_stage(tmp_path, source):
    plan = make_plan(source, str(tmp_path / "out"))
    grown = dataclasses.replace(plan.files[0], size=plan.files[0].size + 1)
    plan = dataclasses.replace(plan, files=(grown, *plan.files[1:]))
    splits = source_of(grown.path).splits(0, grown, 2)
    with pytest.raises(DataError, match=r"part-000\.parquet has changed since the job was planned"):
        staging.stage_group(plan, SplitGroup(0, 1, tuple(splits)), None)


def test_two_stages_of_other_blocks_do_not_spoil_each_other(tmp_path, source, monkeypatch):
    """The second stages each group between the first's shards and its record of them."""
    other = make_plan(source, str(tmp_path / "out"), block_rows=7)
    original = staging.stage_group

    def overtaken(plan, group, standardization):
        result = original(plan, group, standardization)
        original(other, group, standardization)
        return result

    monkeypatch.setattr(staging, "stage_group", overtaken)
    dataset = stage(source, str(tmp_path / "out"), block_rows=50)
    np.testing.assert_array_equal(staged_rows(dataset)[0], np.column_stack([ROWS, WEIGHTS]))


def test_rows_that_an_earlier_attempt_rejected_are_not_listed(tmp_path):
    folder = tmp_path / "in"
    pattern = tables.write(folder, np.full((40, 2), np.nan), "npy", files=4)
    with pytest.raises(DataError, match="40 were rejected"):
        stage(pattern, str(tmp_path / "out"), on_bad_rows="drop")
    tables.write(folder, spoil(ROWS[:40], {3}), "npy", files=2)
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()
    dataset = stage(pattern, str(tmp_path / "out"), on_bad_rows="drop")
    listed = sorted((tmp_path / "out" / "rejected").iterdir())
    lines = [line for path in listed for line in path.read_text().splitlines()]
    assert (dataset.rejected, len(lines)) == (1, 1)
