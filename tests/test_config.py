import dataclasses
import pickle

import numpy as np
import pytest

from beam_kmeans.config import INITIALISERS, LARGEST_SEED, Parameters, array_sha256, checked_centers

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
        ("distance_metric", "euclidean", "distance_metric: 'euclidean' .*'squared_euclidean'"),
        ("distance_metric", "cosin", "distance_metric: .*did you mean 'cosine'"),
        ("distance_metric", None, "distance_metric: None .*'squared_euclidean', 'cosine'"),
        ("use_mini_batch", 1, "use_mini_batch: 1 .*True or False"),
        ("use_mini_batch", "true", "use_mini_batch: 'true' .*True or False"),
        ("use_mini_batch", None, "use_mini_batch: None .*True or False"),
        ("mini_batch_steps_per_iteration", 0, "mini_batch_steps_per_iteration: 0 .*from 1 to"),
        ("mini_batch_steps_per_iteration", 2.9, "mini_batch_steps_per_iteration: 2.9 .*integer"),
        ("mini_batch_steps_per_iteration", 2**31, "mini_batch_steps_per_iteration: .*2147483647"),
        ("batch_size", 0, "batch_size: 0 .*from 1 to 2147483647"),
        ("batch_size", None, "batch_size: None .*an integer"),
        ("kmeans_plus_plus_num_retries", 1001, "kmeans_plus_plus_num_retries: 1001 .*to 1000"),
        ("kmeans_plus_plus_num_retries", 0.5, "kmeans_plus_plus_num_retries: 0.5 .*an integer"),
        ("kmc2_chain_length", 0, "kmc2_chain_length: 0 .*from 1 to"),
        ("kmc2_chain_length", True, "kmc2_chain_length: True .*an integer"),
        ("seeding_oversampling", 0, "seeding_oversampling: 0.0 .*at least 0.1"),
        ("seeding_oversampling", 1e200, "seeding_oversampling: 1e.200 .*at most 1000"),
        ("seeding_oversampling", 10**400, "seeding_oversampling: 1000.*at most 1000"),
        ("seeding_oversampling", float("nan"), "seeding_oversampling: nan .*a finite number"),
        ("seeding_rounds", 0, "seeding_rounds: 0 .*from 1 to 100"),
        ("seeding_rounds", 101, "seeding_rounds: 101 .*from 1 to 100"),
        ("kmc2_groups", 0, "kmc2_groups: 0 .*from 1 to"),
        ("kmc2_groups", "auto", "kmc2_groups: 'auto' .*an integer"),
        ("max_no_improvement", 0, "max_no_improvement: 0 .*from 1 to"),
        ("max_no_improvement", 1.5, "max_no_improvement: 1.5 .*an integer"),
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
        ("distance_metric", "cosine"),
        ("use_mini_batch", np.bool_(True)),
        ("mini_batch_steps_per_iteration", 1),
        ("batch_size", 2**31 - 1),
        ("kmeans_plus_plus_num_retries", 0),
        ("kmeans_plus_plus_num_retries", -7),
        ("kmc2_chain_length", 1),
        ("seeding_oversampling", 0.1),
        ("seeding_rounds", 100),
        ("kmc2_groups", None),
        ("kmc2_groups", 1),
        ("max_no_improvement", None),
        ("max_no_improvement", np.int16(1)),
        *(("initial_clusters", name) for name in INITIALISERS),
        ("initial_clusters", max),
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
    assert Parameters(3).initial_clusters == "kmeans_plus_plus"
    assert (made.distance_metric, made.use_mini_batch) == ("squared_euclidean", False)
    assert (made.mini_batch_steps_per_iteration, made.batch_size) == (1, 1024)
    assert (made.kmeans_plus_plus_num_retries, made.kmc2_chain_length) == (2, 200)
    assert (made.seeding_oversampling, made.seeding_rounds, made.kmc2_groups) == (2.0, 5, None)
    assert made.max_no_improvement == 10


@pytest.mark.parametrize(
    ("k", "retries"),
    [(1, 2), (2, 2), (3, 3), (7, 3), (8, 4), (20, 4), (21, 5), (54, 5), (55, 6), (1000, 8)],
)
def test_negative_retries_are_tensorflows_number(k, retries):
    for asked in (-1, -5):
        made = Parameters(k, "random", kmeans_plus_plus_num_retries=asked)
        assert made.retries == retries
    assert Parameters(k, "random", kmeans_plus_plus_num_retries=0).retries == 0


def test_given_centers_are_unit_under_cosine():
    made = parameters(initial_clusters=[[3, 4], [0, -2]], distance_metric="cosine")
    assert made.given_centers.tolist() == np.array([[0.6, 0.8], [0, -1]], np.float32).tolist()
    with pytest.raises(ValueError, match="initial_clusters: center 1 is all zeros"):
        parameters(initial_clusters=[[3, 4], [0, -0.0]], distance_metric="cosine")
    assert parameters(initial_clusters=[[3, 4], [0, 0]]).given_centers.tolist() == [[3, 4], [0, 0]]


def test_a_function_is_named_in_the_fingerprint_and_in_no_graph():
    made = parameters(initial_clusters=max)
    assert made.initialiser == "callable"
    assert made.fingerprint()["initial_clusters"] == "callable builtins.max"
    assert made.without_centers().initial_clusters == "random"
    assert parameters(initial_clusters=GIVEN).without_centers().initial_clusters == "random"


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
        {"initial_clusters": max},
        {"distance_metric": "cosine"},
        {"use_mini_batch": True},
        {"mini_batch_steps_per_iteration": 2},
        {"batch_size": 5},
        {"kmeans_plus_plus_num_retries": 0},
        {"kmc2_chain_length": 5},
        {"seeding_oversampling": 1.0},
        {"seeding_rounds": 4},
        {"kmc2_groups": 1},
        {"max_no_improvement": None},
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
