import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import InitializeCenters
from beam_kmeans.blocks import Block
from beam_kmeans.config import Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.errors import DataError
from beam_kmeans.seeding.run import initialiser_of
from beam_kmeans.seeding.run import run as run_seeding
from beam_kmeans.transforms import initialize
from tests.data import blobs, digits
from tests.transforms.pipelines import THREADS, TWICE, apply, blocks_of, counters, failure, run

WEIGHTS = (np.arange(600) % 4).astype(np.float32)


def in_memory(rows, k, seed=0, weights=None):
    parameters = Parameters(k, "random", random_seed=seed)
    return run_seeding(MemoryDataset(rows, weights), initialiser_of(parameters)).centers


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_centers_are_those_a_fit_in_memory_starts_from(weights, seed):
    blocks = blocks_of(blobs(), weights)
    (centers,) = apply(InitializeCenters(20, random_seed=seed), blocks)
    assert centers.dtype == np.float32
    assert centers.tobytes() == in_memory(blobs(), 20, seed, weights).tobytes()


@pytest.mark.parametrize(
    ("size", "seed", "flags"),
    [(7, None, ()), (600, None, ()), (50, 1, THREADS), (9, 2, TWICE), (200, 3, (*THREADS, *TWICE))],
)
def test_blocks_bundles_and_threads_change_nothing(size, seed, flags):
    blocks = blocks_of(blobs(), WEIGHTS, size, seed)
    (centers,) = apply(InitializeCenters(20), blocks, *flags)
    assert centers.tobytes() == in_memory(blobs(), 20, 0, WEIGHTS).tobytes()


def test_copies_of_a_row_are_drawn_once():
    rows = np.repeat(digits()[:5], 40, axis=0)
    (centers,) = apply(InitializeCenters(5), blocks_of(rows, size=30))
    assert centers.tobytes() == in_memory(rows, 5).tobytes()
    assert {row.tobytes() for row in centers} == {row.tobytes() for row in digits()[:5]}


def test_another_seed_draws_other_rows():
    drawn = [apply(InitializeCenters(3, random_seed=s), blocks_of(blobs()))[0] for s in (1, 2)]
    assert drawn[0].tobytes() != drawn[1].tobytes()


def test_given_centers_are_emitted_rounded_once():
    given = [[0.1, -0.0], [3, 4]]
    (centers,) = apply(InitializeCenters(2, given), blocks_of(blobs()))
    assert centers.tobytes() == np.array([[0.1, 0], [3, 4]], np.float32).tobytes()


def refusal(blocks, k):
    return failure(lambda pipeline: pipeline | beam.Create(blocks) | InitializeCenters(k))


def test_rows_without_numbers_are_refused():
    message = refusal(blocks_of(blobs(), numbered=False), 2)
    assert "a block of 100 rows has no row numbers" in message
    assert "StackRows(row_id=...)" in message


def test_too_few_distinct_rows_are_counted():
    rows, weights = np.array([[1.0], [2.0], [1.0], [3.0]]), np.array([1, 1, 1, 0])
    message = refusal(blocks_of(rows, weights, size=2), 3)
    assert "3 distinct rows are needed to start from, and the data has only 2" in message


@pytest.mark.parametrize("blocks", [[], [Block(np.zeros((0, 2)))]], ids=["no_block", "empty"])
def test_no_rows_are_refused(blocks):
    assert refusal(blocks, 3) == "the data has no rows"


def test_two_drawn_rows_of_one_number_are_refused():
    blocks = [Block(np.array([[float(place)]]), None, 7) for place in range(2)]
    assert refusal(blocks, 2) == "two rows have the number 7: numbers must be unique"


def test_rows_of_several_widths_are_refused():
    blocks = [Block(np.zeros((1, 2)), None, 0), Block(np.ones((1, 3)), None, 1)]
    assert refusal(blocks, 2) == "rows of 2 and of 3 features do not mix"


def test_a_row_that_changed_its_number_between_the_passes_is_named():
    found = [(0, np.zeros(2, np.float32))]
    with pytest.raises(DataError, match="row 9 was drawn but not found again"):
        [*initialize._ArrangeFn().process(np.array([5, 9]), found)]


def test_blocks_and_rows_are_counted():
    blocks = blocks_of(blobs())
    _, metrics = run(lambda pipeline: pipeline | beam.Create(blocks) | InitializeCenters(3))
    assert counters(metrics, "Draw") == {"rows": 600, "blocks": 6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 0}, "num_clusters: 0 is not allowed"),
        ({"num_clusters": 2, "initial_clusters": "kmeans++"}, "initial_clusters: 'kmeans\\+\\+'"),
        ({"num_clusters": 2, "initial_clusters": [[1.0]]}, "1 centers were given, num_clusters"),
        ({"num_clusters": 2, "random_seed": -1}, "random_seed: -1 is not allowed"),
    ],
)
def test_arguments_that_are_not_allowed_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        InitializeCenters(**arguments)
