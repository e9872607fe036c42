import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import InitializeCenters
from beam_kmeans.blocks import Block
from beam_kmeans.config import Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.errors import DataError
from beam_kmeans.seeding.run import initial_centers
from beam_kmeans.transforms import initialize
from tests.data import blobs, digits
from tests.transforms.pipelines import THREADS, TWICE, apply, blocks_of, counters, failure, run

WEIGHTS = (np.arange(600) % 4).astype(np.float32)


def in_memory(rows, weights=None, **fields):
    """The centers that a fit in memory starts from."""
    parameters = Parameters(**fields)
    data = MemoryDataset(rows, weights, parameters.distance_metric)
    return initial_centers(data, parameters).centers


def evenly(rows, k):
    return rows[:: len(rows) // k][:k]


#: Every way to find centers; k-means|| both by rounds and with all rows for candidates.
WAYS = {
    "random": {"initial_clusters": "random"},
    "all_rows": {"seeding_oversampling": 40, "seeding_rounds": 1},
    "kmeans_plus_plus": {"seeding_oversampling": 0.7, "seeding_rounds": 3},
    "kmc2": {"initial_clusters": "kmc2", "kmc2_chain_length": 20},
    "kmc2_groups": {"initial_clusters": "kmc2", "kmc2_chain_length": 20, "kmc2_groups": 3},
    "afkmc2": {"initial_clusters": "afkmc2", "kmc2_chain_length": 20},
    "function": {"initial_clusters": evenly},
    "cosine": {"distance_metric": "cosine", "seeding_rounds": 1, "seeding_oversampling": 3},
}


#: Of these the default tests run one like it.
OTHERS = {"all_rows", "kmc2", "cosine"}
HEAVY = [pytest.mark.heavy, pytest.mark.runners]


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=HEAVY if way in OTHERS else []) for way in WAYS]
)
def test_the_centers_are_those_a_fit_in_memory_starts_from(way):
    fields = {"num_clusters": 20, "random_seed": 2**63 - 1, **WAYS[way]}
    rows = blobs().copy()
    rows[::50] = 0
    (centers,) = apply(InitializeCenters(**fields), blocks_of(rows, WEIGHTS, 150))
    assert centers.dtype == np.float32
    assert centers.tobytes() == in_memory(rows, WEIGHTS, **fields).tobytes()


@pytest.mark.parametrize(
    ("way", "size", "seed", "flags"),
    [
        ("random", 7, None, ()),
        ("random", 600, None, ()),
        pytest.param("random", 50, 1, THREADS, marks=HEAVY),
        pytest.param("random", 200, 3, (*THREADS, *TWICE), marks=HEAVY),
        ("cosine", 90, 2, TWICE),
        pytest.param("afkmc2", 90, 1, THREADS, marks=HEAVY),
    ],
)
def test_blocks_bundles_and_threads_change_nothing(way, size, seed, flags):
    blocks = blocks_of(blobs(), WEIGHTS, size, seed)
    (centers,) = apply(InitializeCenters(20, **WAYS[way]), blocks, *flags)
    expected = in_memory(blobs(), WEIGHTS, num_clusters=20, **WAYS[way])
    assert centers.tobytes() == expected.tobytes()


def test_chains_that_are_too_short_are_warned_of(caplog):
    way = {"initial_clusters": "kmc2", "kmc2_chain_length": 1}
    apply(InitializeCenters(5, **way), blocks_of(blobs()))
    (warning,) = (one.getMessage() for one in caplog.records if "kmc2" in one.getMessage())
    assert warning.startswith("kmc2_chain_length: chains of 1 are too short")


def test_copies_of_a_row_are_drawn_once():
    rows = np.repeat(digits()[:5], 40, axis=0)
    (centers,) = apply(InitializeCenters(5, seeding_rounds=1), blocks_of(rows, size=30))
    assert centers.tobytes() == in_memory(rows, num_clusters=5).tobytes()
    assert {row.tobytes() for row in centers} == {row.tobytes() for row in digits()[:5]}


def test_another_seed_draws_other_rows():
    drawn = [
        apply(InitializeCenters(3, "random", random_seed=s), blocks_of(blobs()))[0] for s in (1, 2)
    ]
    assert drawn[0].tobytes() != drawn[1].tobytes()


def test_given_centers_are_emitted_rounded_once():
    given = [[0.1, -0.0], [3, 4]]
    (centers,) = apply(InitializeCenters(2, given), blocks_of(blobs()))
    assert centers.tobytes() == np.array([[0.1, 0], [3, 4]], np.float32).tobytes()


def test_under_cosine_given_centers_are_unit():
    (centers,) = apply(InitializeCenters(1, [[3, 4]], "cosine"), blocks_of(blobs()))
    assert centers.tobytes() == np.array([[0.6, 0.8]], np.float32).tobytes()


def refusal(blocks, k, initial="random"):
    transform = InitializeCenters(k, initial, seeding_rounds=1)
    return failure(lambda pipeline: pipeline | beam.Create(blocks) | transform)


def test_rows_without_numbers_are_refused():
    message = refusal(blocks_of(blobs(), numbered=False), 2)
    assert "a block of 100 rows has no row numbers" in message
    assert "StackRows(row_id=...)" in message


def test_too_few_distinct_rows_are_counted():
    rows, weights = np.array([[1.0], [2.0], [1.0], [3.0]]), np.array([1, 1, 1, 0])
    for initial in ("random", "kmeans_plus_plus", "kmc2"):
        message = refusal(blocks_of(rows, weights, size=2), 3, initial)
        assert "3 distinct rows are needed to start from, and the data has only 2" in message


def test_a_function_that_gives_no_centers_is_refused():
    message = refusal(blocks_of(blobs()), 3, lambda rows, k: rows[:0])
    assert "no centers were given, 3 are still to choose" in message


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
        initialize._arranged(np.array([5, 9]), found, 2)


@pytest.mark.parametrize(
    ("initial", "steps"), [("random", 3), ("kmc2", 3), ("afkmc2", 5), ("kmeans_plus_plus", 25)]
)
def test_the_graph_goes_over_the_blocks_as_often_as_it_is_said_to(initial, steps):
    pipeline = beam.Pipeline(runner="FnApiRunner")
    blocks = pipeline | beam.Create(blocks_of(blobs()))
    _ = blocks | InitializeCenters(3, initial)
    proto, context = pipeline.to_runner_api(return_context=True)
    name = context.pcollections.get_id(blocks)
    leaves = [one for one in proto.components.transforms.values() if not one.subtransforms]
    assert sum(name in one.inputs.values() for one in leaves) == steps


def test_blocks_and_rows_are_counted():
    blocks = blocks_of(blobs())
    transform = InitializeCenters(3, "random")
    _, metrics = run(lambda pipeline: pipeline | beam.Create(blocks) | transform)
    assert counters(metrics, "Count") == {"rows": 600, "blocks": 6}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 0}, "num_clusters: 0 is not allowed"),
        ({"num_clusters": 2, "initial_clusters": "kmeans++"}, "initial_clusters: 'kmeans\\+\\+'"),
        ({"num_clusters": 2, "initial_clusters": [[1.0]]}, "1 centers were given, num_clusters"),
        ({"num_clusters": 2, "random_seed": -1}, "random_seed: -1 is not allowed"),
        ({"num_clusters": 2, "distance_metric": "l1"}, "distance_metric: 'l1' is not allowed"),
        ({"num_clusters": 2, "kmc2_chain_length": 0}, "kmc2_chain_length: 0 is not allowed"),
        ({"num_clusters": 2, "seeding_rounds": 0}, "seeding_rounds: 0 is not allowed"),
        ({"num_clusters": 2, "kmc2_groups": 0}, "kmc2_groups: 0 is not allowed"),
    ],
)
def test_arguments_that_are_not_allowed_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        InitializeCenters(**arguments)
