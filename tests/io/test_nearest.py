"""Side files of the rows' nearest candidates: found again whole and of the right rows, or not."""

import pathlib

import numpy as np
import pytest

from beam_kmeans.io.nearest import SideFiles
from beam_kmeans.io.shards import ShardInfo
from beam_kmeans.tally import Rows

SHARD = ShardInfo("shards/shard-00001.arrow", 50, 4000, 0, "0123456789abcdef" * 2)
CANDIDATES = ["a" * 64, "b" * 64, "c" * 64]
SCORES = np.random.default_rng(0).random(50)
INDICES = np.arange(50, dtype=np.int32) % 7
PARTS = [slice(0, 20), slice(20, 50)]


def rows(part):
    size = part.stop - part.start
    return Rows(np.zeros((size, 2), np.float32), None, np.arange(part.start, part.stop))


@pytest.fixture
def side(tmp_path):
    return SideFiles(str(tmp_path / "nearest"))


def keep(side, candidates, measured=7, shard=SHARD):
    """Keeps SCORES and INDICES; the file."""
    with side.memory(shard, candidates) as memory:
        for part in PARTS:
            memory.keep(measured, SCORES[part], INDICES[part])
    (path,) = pathlib.Path(side.directory).glob("*/*")
    return path


def recalled(side, candidates, shard=SHARD, parts=PARTS):
    """What is found of each part: the number of candidates, 0 where nothing is."""
    found = []
    with side.memory(shard, candidates) as memory:
        for part in parts:
            measured, scores, indices = memory.recall(rows(part))
            found.append(measured)
            if measured:
                np.testing.assert_array_equal(scores, SCORES[part])
                np.testing.assert_array_equal(indices, INDICES[part])
            else:
                assert (scores == np.inf).all()
                assert not indices.any()
            assert (scores.dtype, indices.dtype) == (np.float64, np.int32)
            assert len(scores) == len(indices) == part.stop - part.start
    return found


def test_what_was_kept_is_recalled_where_more_candidates_have_come(side):
    keep(side, CANDIDATES[:1])
    for count in (1, 2, 3):
        assert recalled(side, CANDIDATES[:count]) == [7, 7]


def test_the_file_of_the_most_candidates_is_taken(side):
    keep(side, CANDIDATES[:1])
    with side.memory(SHARD, CANDIDATES[:2]) as memory:
        for part in PARTS:
            assert memory.recall(rows(part))[0] == 7
            memory.keep(11, SCORES[part], INDICES[part])
    assert recalled(side, CANDIDATES) == [11, 11]
    assert recalled(side, CANDIDATES[:1]) == [7, 7]


def test_the_same_is_the_same_file(side):
    path = keep(side, CANDIDATES)
    content = path.read_bytes()
    assert keep(side, CANDIDATES).read_bytes() == content
    assert path.stat().st_size < 50 * 12 + 2000


def test_other_candidates_shards_and_rows_find_nothing(side):
    keep(side, CANDIDATES[:2])
    assert recalled(side, CANDIDATES[:1]) == [0, 0]
    assert recalled(side, [CANDIDATES[1], CANDIDATES[0]]) == [0, 0]
    other = ShardInfo(SHARD.path, 50, 4000, 0, "f" * 32)
    assert recalled(side, CANDIDATES, other) == [0, 0]
    assert recalled(side, CANDIDATES, parts=[slice(0, 20), slice(20, 49)]) == [7, 0]
    assert recalled(side, CANDIDATES, parts=[*PARTS, slice(50, 60)]) == [7, 7, 0]


def test_a_file_in_anothers_place_is_not_taken_for_it(side):
    path = keep(side, CANDIDATES[:1])
    other = SideFiles(side.directory + "-other")
    theirs = pathlib.Path(other.path(SHARD, CANDIDATES[:2]))
    theirs.parent.mkdir(parents=True)
    path.rename(theirs)
    assert recalled(other, CANDIDATES[:2]) == [0, 0]


def test_a_file_in_another_shards_place_is_not_taken_for_its(side):
    shard = ShardInfo(SHARD.path, 50, 4000, 0, "f" * 32)
    keep(side, CANDIDATES).rename(side.path(shard, CANDIDATES))
    assert recalled(side, CANDIDATES, shard) == [0, 0]


def test_a_missing_file_is_no_error(side):
    assert recalled(side, CANDIDATES) == [0, 0]
    assert recalled(side, []) == [0, 0]


def test_every_damaged_byte_is_found_or_does_not_matter(side):
    """A flipped bit in the numbers, their checksum or the file's own structure."""
    path = keep(side, CANDIDATES)
    whole = path.read_bytes()
    lost = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        lost += recalled(side, CANDIDATES) != [7, 7]
    assert lost > 50
    for size in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert recalled(side, CANDIDATES) == [0, 0]


def test_a_pass_that_fails_leaves_nothing(side):
    def fail():
        with side.memory(SHARD, CANDIDATES) as memory:
            memory.keep(7, SCORES, INDICES)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not [path for path in pathlib.Path(side.directory).rglob("*") if path.is_file()]


def test_a_pass_that_keeps_nothing_writes_nothing(side):
    with side.memory(SHARD, CANDIDATES) as memory:
        memory.recall(rows(PARTS[0]))
    assert not pathlib.Path(side.directory).exists()


def test_files_are_removed_by_their_candidates_and_all_at_once(side):
    keep(side, CANDIDATES[:1])
    with side.memory(SHARD, CANDIDATES) as memory:
        memory.keep(9, SCORES, INDICES)
    side.remove(CANDIDATES[:1])
    assert recalled(side, CANDIDATES[:1]) == [0, 0]
    assert recalled(side, CANDIDATES, parts=[slice(0, 50)]) == [9]
    side.remove_all()
    assert not pathlib.Path(side.directory).exists()
    side.remove_all()
    side.remove(CANDIDATES)
