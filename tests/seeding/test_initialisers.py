"""What holds for every initialiser."""

import numpy as np
import pytest

from beam_kmeans.config import Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.seeding import oversampling
from beam_kmeans.seeding.run import initial_centers, initialiser_of, run
from tests import data
from tests.chances import LINE, WEIGHTS, p_value_of_two
from tests.seeding.sources import Leaking, Remembering, Shards


def first_rows(rows, k):
    return rows[:k]


#: Settings of small fits, so that several rounds, groups and ranges are met.
CHOICES = {
    "random": {"initial_clusters": "random"},
    "rounds": {"initial_clusters": "kmeans_plus_plus", "seeding_oversampling": 1.0},
    "everything": {"initial_clusters": "kmeans_plus_plus", "seeding_oversampling": 30.0},
    "kmc2": {"initial_clusters": "kmc2", "kmc2_chain_length": 20},
    "kmc2-groups": {"initial_clusters": "kmc2", "kmc2_chain_length": 20, "kmc2_groups": 4},
    "afkmc2": {"initial_clusters": "afkmc2", "kmc2_chain_length": 20},
    "afkmc2-groups": {"initial_clusters": "afkmc2", "kmc2_chain_length": 20, "kmc2_groups": 4},
    "callable": {"initial_clusters": first_rows},
}
EVERY = pytest.mark.parametrize("choice", CHOICES)
METRICS = pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])


def parameters(choice, k=7, metric="squared_euclidean", **more):
    return Parameters(k, distance_metric=metric, random_seed=3, **{**CHOICES[choice], **more})


def centers_of(source, parameters):
    return initial_centers(source, parameters).centers


def weights(n, seed=0):
    random = np.random.default_rng(seed)
    found = random.exponential(size=n).astype(np.float32)
    found[random.integers(0, n, n // 10)] = 0
    return found


@EVERY
@METRICS
def test_shards_blocks_and_orders_of_merging_change_no_byte(choice, metric):
    rows, asked = data.blobs(), parameters(choice, metric=metric)
    expected = centers_of(MemoryDataset(rows, weights(600), metric), asked)
    assert expected.shape == (7, 8)
    for seed, (shards, block) in enumerate([(1, 600), (3, 64), (9, 7)]):
        source = Shards(rows, weights(600), shards=shards, block=block, seed=seed, metric=metric)
        assert centers_of(source, asked).tobytes() == expected.tobytes()


@EVERY
def test_the_number_of_a_row_decides_not_its_place(choice):
    rows, order = data.blobs(), np.random.default_rng(0).permutation(600)
    expected = centers_of(Shards(rows), parameters(choice))
    found = centers_of(Shards(rows[order], numbers=order), parameters(choice))
    assert found.tobytes() == expected.tobytes()
    other = centers_of(Shards(rows, numbers=np.arange(1000, 1600)), parameters(choice))
    assert other.tobytes() != expected.tobytes()


@EVERY
def test_seeds_find_different_centers(choice):
    found = {
        centers_of(
            Shards(data.blobs()), Parameters(7, random_seed=seed, **CHOICES[choice])
        ).tobytes()
        for seed in range(3)
    }
    assert len(found) == 3


@EVERY
def test_weights_of_one_are_no_weights(choice):
    expected = centers_of(Shards(data.blobs()), parameters(choice))
    found = centers_of(Shards(data.blobs(), np.ones(600, np.float32)), parameters(choice))
    assert found.tobytes() == expected.tobytes()


@EVERY
def test_the_unit_of_the_weights_changes_no_byte(choice):
    expected = centers_of(Shards(data.blobs(), weights(600)), parameters(choice))
    found = centers_of(Shards(data.blobs(), weights(600) * 1024), parameters(choice))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("choice", ["random", "rounds", "everything", "kmc2", "afkmc2"])
def test_weights_have_the_chances_of_copies(choice):
    weights = 2 * WEIGHTS.astype(np.float32)
    copies = np.repeat(LINE, weights.astype(int), axis=0)
    kinds, counts = {}, np.zeros((2, 100))
    for seed in range(250):
        asked = Parameters(2, random_seed=seed, **CHOICES[choice])
        for place, source in enumerate([Shards(LINE, weights, shards=1), Shards(copies, shards=1)]):
            found = sorted(centers_of(source, asked).tolist())
            counts[place, kinds.setdefault(str(found), len(kinds))] += 1
    assert counts.sum() == 500
    assert p_value_of_two(*counts[:, : len(kinds)]) > 1e-3


@pytest.mark.parametrize("choice", ["rounds", "everything", "kmc2-groups", "afkmc2-groups"])
def test_retries_are_those_that_were_asked_for(choice):
    def asked(retries):
        return parameters(choice, 20, kmeans_plus_plus_num_retries=retries)

    assert [initialiser_of(asked(retries)).retries for retries in (0, 5, -1)] == [0, 5, 4]
    few, many = (centers_of(Shards(data.blobs()), asked(retries)) for retries in (0, 9))
    assert few.tobytes() != many.tobytes()


@EVERY
def test_ranges_change_no_byte(choice, monkeypatch):
    expected = centers_of(Shards(data.blobs(), weights(600)), parameters(choice))
    monkeypatch.setattr("beam_kmeans.sampling.RANGE_ENTRIES", 3)
    monkeypatch.setattr("beam_kmeans.arrivals.RANGE_VALUES", 50)
    monkeypatch.setattr("beam_kmeans.seeding.oversampling.RANGE_CANDIDATES", 4)
    source = Shards(data.blobs(), weights(600))
    assert centers_of(source, parameters(choice)).tobytes() == expected.tobytes()
    assert max(len(summaries) for summaries in source.summaries) >= 3


@pytest.mark.parametrize(
    ("choice", "passes", "lookups"),
    [
        ("random", 1, 1),
        ("rounds", 7, 6),
        ("everything", 2, 1),
        ("kmc2", 1, 0),
        ("kmc2-groups", 1, 0),
        ("afkmc2", 2, 0),
        ("afkmc2-groups", 2, 0),
        ("callable", 1, 0),
    ],
)
def test_passes_and_looks_at_drawn_rows_are_counted(choice, passes, lookups):
    source, initialiser = Shards(data.blobs()), initialiser_of(parameters(choice))
    state = run(source, initialiser)
    assert (state.passes, state.lookups) == (passes, lookups)
    assert len(source.summaries) == passes <= initialiser.max_passes


@EVERY
@METRICS
@pytest.mark.parametrize("k", [1, 25])
def test_as_many_centers_as_distinct_rows_are_all_of_them(choice, metric, k):
    # Rows of distinct directions, each several times, some with a copy that has no weight.
    rows = data.blobs()[:k]
    many = np.repeat(rows, 3, axis=0)
    weight = np.tile(np.float32([1, 0, 2.5]), k)
    asked = parameters(choice, k, metric)
    if choice == "callable":
        asked = Parameters(k, lambda rows, k: np.unique(rows, axis=0), metric)
    found = centers_of(Shards(many, weight, metric=metric), asked)
    expected = Shards(rows, metric=metric, shards=1, block=k).shards[0][0].rows
    assert sorted(found.tolist()) == sorted(expected.tolist())


@EVERY
@pytest.mark.parametrize(("distinct", "k"), [(1, 2), (5, 6), (5, 30)])
def test_too_few_distinct_rows_are_counted(choice, distinct, k):
    rows = np.tile(data.blobs()[:distinct], (20, 1))
    rows = np.concatenate([rows, data.blobs()[100:101]])  # of weight 0
    weight = np.ones(len(rows), np.float32)
    weight[-1] = 0
    words = rf"num_clusters: {k} distinct rows .* only {distinct} "
    asked = parameters(choice, k)
    if choice == "callable":
        asked = Parameters(k, lambda rows, k: np.unique(rows, axis=0)[:k])
        words = rf"initial_clusters .*: {distinct} of {k} centers .* all the distinct rows"
    with pytest.raises(ValueError, match=words):
        centers_of(Shards(rows, weight), asked)


@EVERY
def test_one_row_is_the_center_of_one_cluster(choice):
    rows = data.blobs()[:1]
    assert centers_of(Shards(rows, shards=1), parameters(choice, 1)).tobytes() == rows.tobytes()


@EVERY
def test_equal_rows_are_the_center_of_one_cluster(choice):
    rows = np.repeat(data.blobs()[:1], 300, axis=0)
    assert centers_of(Shards(rows), parameters(choice, 1)).tolist() == rows[:1].tolist()


@EVERY
def test_centers_are_distinct_rows_where_nothing_is_clustered(choice):
    rows = data.blobs()
    found = centers_of(Shards(rows), parameters(choice))
    assert len(np.unique(found, axis=0)) == 7
    if choice in ("random", "kmc2", "afkmc2", "callable"):
        assert set(map(bytes, found)) <= set(map(bytes, rows))


@EVERY
def test_rows_of_no_weight_are_never_chosen(choice):
    rows = data.blobs().copy()
    weight = np.ones(600, np.float32)
    rows[::2] += 1e6
    weight[::2] = 0
    assert np.abs(centers_of(Shards(rows, weight), parameters(choice))).max() < 100


@EVERY
def test_cosine_centers_are_unit_rows(choice):
    rows = data.blobs() * np.random.default_rng(0).uniform(1e-3, 1e3, (600, 1)).astype(np.float32)
    rows[5] = 0
    found = centers_of(Shards(rows, metric="cosine"), parameters(choice, metric="cosine"))
    np.testing.assert_allclose(np.linalg.norm(found.astype(float), axis=1), 1, rtol=1e-6)


class TestMemory:
    @pytest.mark.parametrize("memory", [Remembering, Leaking])
    @pytest.mark.parametrize("small", [0, 2**40], ids=["kernel", "float64"])
    def test_what_is_remembered_changes_no_byte(self, memory, small, monkeypatch):
        expected = centers_of(Shards(data.blobs(), weights(600)), parameters("rounds"))
        monkeypatch.setattr(oversampling, "_SMALL", small)
        source = Shards(data.blobs(), weights(600), memory=memory)
        found = centers_of(source, parameters("rounds"))
        assert found.tobytes() == expected.tobytes()
        assert all(memory.recalled > 5 for memory in source.memories)

    def test_of_equal_distances_the_earlier_candidate_keeps_the_row(self):
        rows = np.array([[x, y] for x in range(20) for y in range(30)], np.float32)
        expected = centers_of(Shards(rows), parameters("rounds"))
        found = centers_of(Shards(rows, memory=Remembering), parameters("rounds"))
        assert found.tobytes() == expected.tobytes()

    def test_each_round_measures_its_new_candidates_alone(self, monkeypatch):
        measured = []

        class Counting(oversampling._Nearest):
            def __init__(self, candidates, rows):
                measured.append(len(candidates))
                super().__init__(candidates, rows)

        monkeypatch.setattr(oversampling, "_Nearest", Counting)
        source = Shards(data.blobs(), shards=1, memory=Remembering)
        centers_of(source, parameters("rounds"))
        assert measured == [1, 7, 7, 7, 7, 7]
