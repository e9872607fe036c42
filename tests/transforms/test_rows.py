import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import ReadBlocks, StackRows, StagedDataset, stage
from tests.data import blobs
from tests.transforms.pipelines import apply, counters, elements, failure, run

PEOPLE = [{"id": i, "age": 20 + i, "visits": i % 7, "paid": i % 3} for i in range(50)]


@pytest.mark.parametrize("block_rows", [1, 7, 1024])
def test_every_row_is_in_one_block_of_at_most_block_rows(block_rows):
    stack = StackRows(["age", "visits"], "paid", "id", block_rows)
    blocks = apply(stack, PEOPLE, "--direct_num_workers=1")
    assert max(len(block.rows) for block in blocks) == min(block_rows, 50)
    found = {
        number: (*row.tolist(), weight)
        for block in blocks
        for number, row, weight in zip(block.row_numbers, block.rows, block.weights, strict=True)
    }
    assert sum(len(block.rows) for block in blocks) == len(PEOPLE)
    assert found == {p["id"]: (p["age"], p["visits"], p["paid"]) for p in PEOPLE}


def test_vectors_need_no_names():
    (block,) = apply(StackRows(), [[1, 2], [3, 4]])
    assert sorted(block.rows.tolist()) == [[1, 2], [3, 4]]
    assert block.row_numbers is None


def test_a_bad_row_fails_the_pipeline():
    stack = StackRows(["age", "visits"], row_id="id")
    bad = [*PEOPLE, {"id": 77, "age": "old", "visits": 1}]
    message = failure(lambda pipeline: pipeline | beam.Create(bad) | stack)
    assert message == "row 77: feature 'age' is not a number: 'old'"


def test_rows_and_blocks_are_counted():
    _, metrics = run(lambda p: p | beam.Create(PEOPLE) | StackRows(["age"], block_rows=1))
    assert counters(metrics, "Stack") == {"rows": 50, "blocks": 50}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": "age"}, r"features: 'age' is not allowed; allowed: a list"),
        ({"features": []}, r"features: \[\] is not allowed"),
        ({"features": ["a", 3]}, "features: .* is not allowed"),
        ({"features": ["a", "b", "a"]}, "features: 'a' is named twice"),
        ({"features": ["a"], "weight": "a"}, "weight: 'a' is one of the features too"),
        ({"features": ["a"], "row_id": "a"}, "row_id: 'a' is one of the features too"),
        ({"weight": 3}, "weight: 3 is not allowed; allowed: the name of a field"),
        ({"weight": len}, "weight: .* is not allowed; allowed: the name of a field"),
        ({"row_id": 3}, "row_id: 3 is not allowed; allowed: the name of a field or a function"),
        ({"block_rows": 0}, "block_rows: 0 is not allowed; allowed: an integer of at least 1"),
        ({"block_rows": 2.5}, "block_rows: 2.5 is not allowed"),
    ],
)
def test_arguments_that_are_not_allowed_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StackRows(**arguments)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged")
    for part in range(3):
        np.save(folder / f"{part}.npy", blobs()[part * 200 : (part + 1) * 200])
    return stage(str(folder / "*.npy"), str(folder / "dataset"), block_rows=64)


def test_the_blocks_of_a_staged_dataset_are_read(staged):
    for dataset in (staged, staged.path):
        blocks = elements(lambda pipeline, dataset=dataset: pipeline | ReadBlocks(dataset))
        numbers = np.concatenate([block.numbers() for block in blocks])
        rows = np.concatenate([block.rows for block in blocks])
        assert sorted(numbers) == list(range(600))
        np.testing.assert_array_equal(rows[np.argsort(numbers)], blobs())
        assert max(len(block.rows) for block in blocks) <= 64


def test_only_the_path_is_part_of_the_job(staged):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | ReadBlocks(staged)
    graph = pipeline.to_runner_api().SerializeToString()
    assert staged.path.encode() in graph
    assert not any(shard.path.encode() in graph for shard in staged.shards)


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    message = failure(lambda pipeline: pipeline | ReadBlocks(str(tmp_path / "none")))
    assert message == f"{tmp_path}/none holds no staged dataset: it has no dataset.json"


def test_a_damaged_shard_is_named(tmp_path):
    np.save(tmp_path / "rows.npy", blobs())
    dataset = stage(str(tmp_path / "rows.npy"), str(tmp_path / "dataset"))
    assert StagedDataset.open(dataset.path).rows == 600
    shard = tmp_path / "dataset" / dataset.shards[0].path
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert str(shard) in failure(lambda pipeline: pipeline | ReadBlocks(dataset))


@pytest.mark.parametrize("dataset", [None, "", 3])
def test_a_dataset_that_is_none_is_refused(dataset):
    with pytest.raises(ValueError, match=r"dataset: .* is not allowed; allowed: a StagedDataset"):
        ReadBlocks(dataset)
