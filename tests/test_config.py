import dataclasses
import pickle

import numpy as np
import pytest

from beam_kmeans.config import LARGEST_SEED, Parameters, array_sha256, checked_centers

GIVEN = np.array([[0, 1], [2, 3]], np.float32)


def parameters(**fields):
    return Parameters(**{"num_clusters": 2, "initial_clusters": "random", **fields})


@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("num_clusters", 0, "num_clusters: 0 .*at least 1"),
        ("num_clusters", -3, "num_clusters: -3 .*at least 1"),
        ("num_clusters", 2.0, "num_clusters: 2.0 .*an integer"),
        ("num_clusters", True, "num_clusters: True .*an integer"),
        ("num_clusters", "2", "num_clusters: '2' .*an integer"),
        ("num_clusters", None, "num_clusters: None .*an integer"),
        ("num_clusters", [2, 3], r"num_clusters: \[2, 3\] .*an integer"),
        ("random_seed", -1, "random_seed: -1 .*from 0 to 9223372036854775807"),
        ("random_seed", 2**63, "random_seed: 9223372036854775808 .*from 0 to 9223372036854775807"),
        ("random_seed", 1.5, "random_seed: 1.5 .*an integer"),
        ("random_seed", None, "random_seed: None .*an integer"),
        ("max_iterations", -1, "max_iterations: -1 .*at least 0"),
        ("max_iterations", np.bool_(True), "max_iterations: .*True.* .*an integer"),
        ("max_iterations", float("inf"), "max_iterations: inf .*an integer"),
        ("tolerance", -1e-9, "tolerance: -1e-09 .*a finite number of at least 0"),
        ("tolerance", float("nan"), "tolerance: nan .*a finite number of at least 0"),
        ("tolerance", float("inf"), "tolerance: inf .*a finite number of at least 0"),
        ("tolerance", "0.1", "tolerance: '0.1' .*a finite number"),
        ("tolerance", False, "tolerance: False .*a finite number"),
        ("tolerance", None, "tolerance: None .*a finite number"),
        ("empty_clusters", "drop", "empty_clusters: 'drop' .*'relocate', 'keep'"),
        ("empty_clusters", "relocat", "empty_clusters: .*did you mean 'relocate'"),
        ("empty_clusters", None, "empty_clusters: None .*'relocate', 'keep'"),
        ("initial_clusters", "rando", "initial_clusters: .*did you mean 'random'"),
        (
            "initial_clusters",
            "kmeans_plusplus",
            "initial_clusters: .*did you mean 'kmeans_plus_plus'",
        ),
        ("initial_clusters", None, "initial_clusters: None .*'random', .*an array"),
        ("initial_clusters", 7, r"initial_clusters: .*\[k, d\] is needed, found \[\]"),
        ("initial_clusters", GIVEN[:1], "initial_clusters: 1 centers were given, .* is 2"),
        ("initial_clusters", GIVEN[0], r"initial_clusters: .*\[k, d\] is needed, found \[2\]"),
        ("initial_clusters", GIVEN[:, :0], r"initial_clusters: .*found \[2, 0\]"),
        ("initial_clusters", [["a"], ["b"]], "initial_clusters: numbers are needed"),
        ("initial_clusters", [[True], [False]], "initial_clusters: numbers .*bool"),
        ("initial_clusters", [[1j], [2j]], "initial_clusters: numbers .*complex"),
        ("initial_clusters", [[0.0], [np.nan]], r"initial_clusters: center 1 .*\[nan\]"),
        ("initial_clusters", [[0.0], [1e39]], r"initial_clusters: center 1 .*\[1e\+39\]"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(argument, value, words):
    with pytest.raises(ValueError, match=words):
        parameters(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_clusters", np.int32(7)),
        ("random_seed", 0),
        ("random_seed", LARGEST_SEED),
        ("random_seed", np.uint64(LARGEST_SEED)),
        ("max_iterations", 0),
        ("tolerance", 0),
        ("tolerance", np.float32(0.5)),
        ("empty_clusters", "keep"),
    ],
)
def test_bounds_themselves_are_allowed(argument, value):
    assert getattr(parameters(**{argument: value}), argument) == value


def test_numbers_become_plain_ones():
    made = parameters(num_clusters=np.int64(2), tolerance=np.float32(0.5), random_seed=np.int8(1))
    kinds = type(made.num_clusters), type(made.tolerance), type(made.random_seed)
    assert kinds == (int, float, int)


def test_the_defaults_are_those_of_the_documentation():
    made = parameters()
    assert (made.random_seed, made.max_iterations, made.tolerance) == (0, 300, 1e-4)
    assert made.empty_clusters == "relocate"
    assert made.given_centers is None


def test_parameters_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parameters().tolerance = 0.0
    with pytest.raises(ValueError, match="read-only"):
        parameters(initial_clusters=GIVEN).given_centers[0, 0] = 5


def test_given_centers_are_a_rounded_copy():
    given = np.array([[0.1, -0.0], [1e-42, 2]])
    kept = given.copy()
    made = parameters(initial_clusters=given)
    assert made.given_centers.tobytes() == np.array([[0.1, 0], [0, 2]], np.float32).tobytes()
    assert given.tobytes() == kept.tobytes()
    given[0, 0] = 7
    assert made.given_centers[0, 0] == np.float32(0.1)


def test_given_centers_stay_writeable():
    given = GIVEN.copy()
    made = parameters(initial_clusters=given)
    given[0, 0] = 7
    assert made.given_centers.tolist() == GIVEN.tolist()


def test_parameters_pickle():
    made = pickle.loads(pickle.dumps(parameters(initial_clusters=GIVEN, random_seed=5)))
    assert made.fingerprint() == parameters(initial_clusters=GIVEN, random_seed=5).fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"num_clusters": 3},
        {"random_seed": 1},
        {"tolerance": 0.0},
        {"empty_clusters": "keep"},
        {"initial_clusters": GIVEN},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_sees_each_field_that_can_change_a_byte(change):
    assert parameters(**change).fingerprint() != parameters().fingerprint()


def test_the_fingerprint_sees_the_values_of_given_centers():
    one = parameters(initial_clusters=GIVEN).fingerprint()
    assert one == parameters(initial_clusters=GIVEN.astype(np.float64).tolist()).fingerprint()
    assert one != parameters(initial_clusters=GIVEN[::-1]).fingerprint()
    assert one != parameters(initial_clusters=GIVEN.T).fingerprint()


def test_max_iterations_may_be_raised_under_one_fingerprint():
    assert parameters(max_iterations=3).fingerprint() == parameters().fingerprint()


def test_a_hash_of_an_array_is_of_its_values_in_order():
    assert array_sha256(GIVEN) == array_sha256(GIVEN.astype(">f4"))
    assert array_sha256(GIVEN) == array_sha256(np.asfortranarray(GIVEN))
    assert array_sha256(GIVEN) != array_sha256(np.ascontiguousarray(GIVEN.T))


def test_centers_that_are_refused_are_called_by_the_name_they_came_under():
    with pytest.raises(ValueError, match=r"^model: center 0 holds"):
        checked_centers("model", [[np.inf]])
