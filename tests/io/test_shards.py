import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from beam_kmeans.errors import DataError
from beam_kmeans.io import shards
from beam_kmeans.io.shards import ShardWriter, default_block_rows, read_shard
from beam_kmeans.tally import Rows
from tests import data, runs

ROWS = data.blobs(90, 4)
WEIGHTS = np.arange(90, dtype=np.float32)
GAPS = np.arange(90, dtype=np.int64) * 3


def write(folder, name="a.arrow", rows=ROWS, weights=None, numbers=None, first_row=0):
    """A shard of blocks of 40, 40, ... rows."""
    writer = ShardWriter(
        str(folder / name), rows.shape[1], weights is not None, numbers is not None
    )
    for start in range(0, len(rows), 40):
        part = slice(start, start + 40)
        own = None if weights is None else weights[part]
        writer.write(
            Rows(rows[part], own, np.arange(90)[part] if numbers is None else numbers[part])
        )
    return writer.close(name, first_row)


def read(folder, info, weighted=False, d=4):
    return list(read_shard(str(folder), info, d, weighted))


@pytest.mark.parametrize("numbers", [None, GAPS], ids=["consecutive", "numbered"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_blocks_come_back_as_they_were_written(tmp_path, weights, numbers):
    info = write(tmp_path, weights=weights, numbers=numbers, first_row=1000)
    blocks = read(tmp_path, info, weights is not None)
    assert [len(block.rows) for block in blocks] == [40, 40, 10]
    np.testing.assert_array_equal(np.concatenate([block.rows for block in blocks]), ROWS)
    found = np.concatenate([block.row_numbers for block in blocks])
    np.testing.assert_array_equal(found, 1000 + (np.arange(90) if numbers is None else GAPS))
    assert all(block.rows.dtype == np.float32 for block in blocks)
    if weights is not None:
        np.testing.assert_array_equal(np.concatenate([block.weights for block in blocks]), WEIGHTS)
    assert (info.rows, info.size) == (90, (tmp_path / "a.arrow").stat().st_size)


def test_a_shard_is_plain_arrow(tmp_path):
    write(tmp_path, weights=WEIGHTS, numbers=GAPS)
    table = ipc.open_file(tmp_path / "a.arrow").read_all()
    assert table.schema.names == ["features", "weight", "row_number"]
    assert table.schema.field("features").type == pa.list_(pa.float32(), 4)
    assert table.num_rows == 90


@pytest.mark.parametrize("part", ["rows", "weights", "row_numbers"])
def test_the_checksum_covers(tmp_path, part):
    weights, numbers, rows = WEIGHTS.copy(), GAPS.copy(), ROWS.copy()
    first = write(tmp_path, weights=weights, numbers=numbers)
    {"rows": rows[3], "weights": weights, "row_numbers": numbers}[part][-1] += 1
    other = write(tmp_path, "b.arrow", rows, weights, numbers)
    assert first.checksum != other.checksum
    assert first == dataclasses.replace(other, path="a.arrow", checksum=first.checksum)


@pytest.mark.parametrize("left", [0, 1, 100, -1, -300])
def test_a_truncated_shard_is_refused(tmp_path, left):
    info = write(tmp_path)
    whole = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(whole[:left])
    said = f"a.arrow has {len(whole[:left])} bytes, the manifest says {len(whole)}: it is truncated"
    with pytest.raises(DataError, match=said if left else "a.arrow (has 0 bytes|cannot be read)"):
        read(tmp_path, info)


def test_no_flipped_bit_passes(tmp_path):
    info = write(tmp_path, rows=ROWS[:5], weights=WEIGHTS[:5])
    path = tmp_path / "a.arrow"
    whole = path.read_bytes()
    (before,) = read(tmp_path, info, weighted=True)
    refused = 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            (block,) = read(tmp_path, info, weighted=True)
        except DataError:
            refused += 1
        else:
            # Padding and names of types may be other; what is computed with is not.
            np.testing.assert_array_equal(block.rows, before.rows)
            np.testing.assert_array_equal(block.weights, before.weights)
    assert refused > len(whole) / 3 * 0.3


def test_a_shard_of_the_same_size_is_not_taken_for_another(tmp_path):
    info, other = write(tmp_path), write(tmp_path, "b.arrow", ROWS[::-1].copy())
    assert info.size == other.size
    shutil.copy(tmp_path / "b.arrow", tmp_path / "a.arrow")
    with pytest.raises(DataError, match=r"a\.arrow is whole, but is not the one that its manifest"):
        read(tmp_path, info)


def test_blocks_of_a_shard_cannot_change_places(tmp_path):
    info = write(tmp_path, rows=ROWS[:80])
    write(tmp_path, rows=np.concatenate([ROWS[40:80], ROWS[:40]]))
    with pytest.raises(DataError, match="is not the one that its manifest names"):
        read(tmp_path, info)


def test_other_columns_are_refused(tmp_path):
    info = write(tmp_path)
    with pytest.raises(DataError, match=r"a\.arrow holds other columns than its dataset"):
        read(tmp_path, info, d=2)
    with pytest.raises(DataError, match="holds other columns than its dataset"):
        read(tmp_path, info, weighted=True)


def foreign(path):
    """Arrow files that others wrote, of the right columns."""
    features = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 4)
    schema = shards.schema(4, False, False)
    with ipc.new_file(path, schema) as writer:
        writer.write_batch(pa.record_batch([features], schema=schema))


def text(path):
    path.write_text("not Arrow at all\n" * 50)


@pytest.mark.parametrize(
    ("make", "said"),
    [(foreign, "block 0 does not have its checksum"), (text, "cannot be read: .*Arrow")],
)
def test_a_foreign_file_is_refused(tmp_path, make, said):
    info = write(tmp_path)
    make(tmp_path / "a.arrow")
    info = dataclasses.replace(info, size=(tmp_path / "a.arrow").stat().st_size)
    with pytest.raises(DataError, match=f"a.arrow:? {said}"):
        read(tmp_path, info)


def test_a_shard_that_is_given_up_leaves_nothing(tmp_path):
    writer = ShardWriter(str(tmp_path / "a.arrow"), 4, False, False)
    writer.write(Rows(ROWS, None, np.arange(90)))
    error = ValueError("stop")
    writer.abandon(type(error), error, None)
    assert [*tmp_path.iterdir()] == []


def test_a_shard_is_not_there_before_it_is_closed(tmp_path):
    writer = ShardWriter(str(tmp_path / "a.arrow"), 4, False, False)
    writer.write(Rows(ROWS, None, np.arange(90)))
    assert not (tmp_path / "a.arrow").exists()
    writer.close("a.arrow", 0)
    assert (tmp_path / "a.arrow").exists()
    assert not runs.unfinished(tmp_path)


@pytest.mark.parametrize(
    ("d", "rows"), [(1, 65536), (4, 65536), (57, 4096), (1024, 256), (100_000, 256)]
)
def test_blocks_hold_about_a_megabyte(d, rows):
    assert default_block_rows(d) == rows
