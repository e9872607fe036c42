"""Shuffled copies: every row once, in the order of its key, by whatever files and buckets."""

import pathlib

import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import StagedDataset, stage
from beam_kmeans.batches import shuffle_keys
from beam_kmeans.errors import DataError
from beam_kmeans.io import shuffling
from beam_kmeans.io.shards import ShardReader
from beam_kmeans.io.shuffling import ShuffledShards, ShuffleRows, existing_shuffle
from tests import data, tables

ROWS = data.blobs(9000, 3)
SEED = 7


def staged(folder, files=3, rows=ROWS, **options):
    source = tables.write(folder / "in", rows, "columns", files=files, row_group=1000)
    return stage(source, str(folder / "dataset"), **options)


def shuffle(dataset, output, seed=SEED):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([dataset.path]) | ShuffleRows(str(output), seed)
    return StagedDataset.open(str(output))


def content(dataset):
    parts = [*dataset.blocks()]
    rows = np.concatenate([part.rows for part in parts])
    return rows, np.concatenate([part.row_numbers for part in parts])


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shuffled")
    dataset = staged(folder)
    return dataset, shuffle(dataset, folder / "copy")


def order_of(numbers):
    return sorted(numbers, key=lambda n: (shuffle_keys(SEED, np.array([n]))[0], n))


def test_rows_are_in_the_order_of_their_keys(shuffled):
    rows, numbers = content(shuffled[1])
    assert numbers.tolist() == order_of(range(len(ROWS)))
    np.testing.assert_array_equal(rows, ROWS[numbers])


def test_runs_are_removed_and_a_copy_is_used_again(shuffled, monkeypatch):
    dataset, copy = shuffled
    assert not (pathlib.Path(copy.path) / "runs").exists()
    monkeypatch.setattr(shuffling, "ShardWriter", None)
    assert content(shuffle(dataset, copy.path))[1].tolist() == content(copy)[1].tolist()


def test_files_and_buckets_change_nothing(shuffled, tmp_path, monkeypatch):
    one = staged(tmp_path, files=1, block_rows=300)
    monkeypatch.setattr(shuffling, "BUCKET_BYTES", 3000)
    copy = shuffle(one, tmp_path / "copy")
    assert len(copy.shards) > 20
    for found, expected in zip(content(copy), content(shuffled[1]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_weights_and_rejected_rows(tmp_path):
    rows = ROWS[:500].astype(np.float64)
    rows[[3, 77]] = np.nan
    weighted = np.concatenate([rows, np.arange(500)[:, None] / 4], axis=1)
    source = tmp_path / "rows.csv"
    np.savetxt(source, weighted, delimiter=",", header="a,b,c,weight", comments="")
    more = {"weight_column": "weight", "on_bad_rows": "drop"}
    dataset = stage(str(source), str(tmp_path / "dataset"), **more)
    copy = shuffle(dataset, tmp_path / "copy")
    numbers = order_of({*range(500)} - {3, 77})
    assert content(copy)[1].tolist() == numbers
    weights = np.concatenate([part.weights for part in copy.blocks()])
    np.testing.assert_array_equal(weights, np.array(numbers, np.float32) / 4)
    assert (copy.weighted, copy.rejected) == (True, 2)


@pytest.mark.heavy
@pytest.mark.kill
def test_a_shuffle_that_was_killed_goes_on(tmp_path, monkeypatch):
    dataset = staged(tmp_path)
    monkeypatch.setattr(shuffling, "BUCKET_BYTES", 15_000)
    written = []
    original = shuffling._written

    def dying(output, source, name, write):
        if len(written) == dying.most:
            raise DataError("killed")
        written.append(name)
        return original(output, source, name, write)

    monkeypatch.setattr(shuffling, "_written", dying)
    for most in (2, len(dataset.shards) + 4):
        dying.most = most
        written.clear()
        with pytest.raises(Exception, match="killed"):
            shuffle(dataset, tmp_path / "copy")
        assert existing_shuffle(str(tmp_path / "copy"), dataset, SEED) is None
    monkeypatch.setattr(shuffling, "_written", original)
    opened = []
    monkeypatch.setattr(shuffling, "ShardWriter", _noting(shuffling.ShardWriter, opened))
    copy = shuffle(dataset, tmp_path / "copy")
    # Neither the runs nor the first shards are written again.
    assert len(opened) == len(copy.shards) - 4
    assert content(copy)[1].tolist() == order_of(range(len(ROWS)))


def _noting(writer, opened):
    def made(path, *arguments, **named):
        opened.append(path)
        return writer(path, *arguments, **named)

    return made


def test_a_copy_of_other_rows_or_for_another_seed_is_refused(shuffled, tmp_path):
    dataset, copy = shuffled
    with pytest.raises(DataError, match="another dataset or for another seed"):
        existing_shuffle(copy.path, dataset, SEED + 1)
    other = staged(tmp_path, rows=ROWS[:1000])
    with pytest.raises(DataError, match="another dataset or for another seed"):
        existing_shuffle(copy.path, other, SEED)


# Rows by their positions


def of_parts(copy, part_rows):
    return ShuffledShards(copy.path, copy.shards, copy.num_features, copy.weighted, part_rows)


def test_rows_by_position(shuffled):
    numbers = content(shuffled[1])[1]
    source = of_parts(shuffled[1], 100)
    for ranges in ([(0, 9000)], [(4090, 4100), (0, 1), (8999, 9000)], [(2000, 2600), (10, 20)]):
        parts = [*source.parts(ranges)]
        found = np.concatenate([part.row_numbers for part in parts])
        assert found.tolist() == np.concatenate([numbers[a:b] for a, b in ranges]).tolist()
        rows = np.concatenate([part.rows for part in parts])
        np.testing.assert_array_equal(rows, ROWS[found])


def test_only_blocks_that_are_needed_are_read(shuffled, monkeypatch):
    read = []
    original = ShardReader.block

    def counted(self, place):
        read.append(place)
        return original(self, place)

    monkeypatch.setattr(ShardReader, "block", counted)
    source = ShuffledShards.of(shuffled[1])
    [*source.parts([(100, 110), (105, 120), (100, 101)])]
    assert len(read) == 1
    [*source.parts([(0, 9000)])]
    assert len(read) == 1 + sum(1 for _ in shuffled[1].blocks()) - 1


@pytest.mark.parametrize("damage", ["byte", "short", "gone"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    copy = shuffle(staged(tmp_path, files=1, rows=ROWS[:500]), tmp_path / "copy")
    path = pathlib.Path(copy.path) / copy.shards[0].path
    whole = bytearray(path.read_bytes())
    if damage == "byte":
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    elif damage == "short":
        path.write_bytes(whole[:-10])
    else:
        path.unlink()
    with pytest.raises(DataError, match=path.name):
        [*ShuffledShards.of(copy).parts([(0, 500)])]
