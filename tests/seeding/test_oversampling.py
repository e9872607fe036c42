import itertools

import numpy as np
import pytest

from beam_kmeans.sampling import CANDIDATES
from beam_kmeans.seeding import oversampling
from beam_kmeans.seeding.oversampling import POTENTIAL, WEIGHTS, KMeansParallel
from beam_kmeans.seeding.plus_plus import recluster
from beam_kmeans.seeding.run import append_rows, run
from beam_kmeans.seeding.state import Forgetful
from tests import cases, chances, data, oracles
from tests.seeding.sources import Shards


def after(source, initialiser, passes):
    """The state after some passes and the look-ups that follow from them."""
    state = initialiser.start(source.facts)
    for _ in range(passes):
        state = source.measure(initialiser, state)
        if state.wanted is not None:
            state = initialiser.looked_up(append_rows(state, source.gather(state.wanted)))
    return state


def line(seed=0):
    return Shards(chances.LINE, chances.WEIGHTS.astype(np.float32), shards=1, block=2, seed=seed)


def drawn(seed, rounds):
    """The values of the first row and of the two that one round or two draw, in order."""
    # Two clusters of at most three rows: not all rows are candidates.
    state = after(
        line(), KMeansParallel(2, seed, oversampling=1 / rounds, rounds=rounds), 1 + rounds
    )
    return chances.values_of(state.rows)


def round_chances(rounds):
    """[5, 5, 5]: of a first row by weight, and of two by D^2 without replacement."""
    weights = chances.by_value(chances.WEIGHTS / chances.WEIGHTS.sum())
    total = np.zeros((5, 5, 5))
    for a, b, c in itertools.permutations(range(5), 3):
        one = two = weights * chances.SQUARES[a, :5]
        left = two.sum() - two[b]
        if rounds == 2:
            two = weights * np.minimum(chances.SQUARES[a, :5], chances.SQUARES[b, :5])
            left = two.sum()
        if weights[a] and one[b] and two[c]:
            total[a, b, c] = weights[a] * one[b] / one.sum() * two[c] / left
    return total


def p_value_of_rounds(rounds, seeds=400):
    counts = np.zeros((5, 5, 5))
    for seed in range(seeds):
        counts[tuple(drawn(seed, rounds))] += 1
    return chances.p_value(counts, round_chances(rounds))


class TestRounds:
    @pytest.mark.parametrize(
        "rounds", [2, pytest.param(1, marks=[pytest.mark.heavy, pytest.mark.quality])]
    )
    def test_rows_are_drawn_by_weight_and_squared_distance(self, rounds):
        assert p_value_of_rounds(rounds) > 1e-3

    @pytest.mark.heavy
    @pytest.mark.quality
    @pytest.mark.parametrize("how", ["position", "shard", "round"])
    def test_the_test_sees_other_ways_to_draw(self, how, monkeypatch):
        """By position in the block, with one generator a block, or the same numbers each round."""
        real = oversampling.exponential_keys

        def other(seed, purpose, turn, row_numbers, weights):
            if how == "round":
                return real(seed, purpose, 1, row_numbers, weights)
            if how == "position":
                return real(seed, purpose, turn, np.arange(len(row_numbers)), weights)
            with np.errstate(divide="ignore"):
                numbers = np.random.default_rng(seed).exponential(size=len(row_numbers))
                return numbers / (1 if weights is None else weights)

        monkeypatch.setattr(oversampling, "exponential_keys", other)
        assert p_value_of_rounds(2, 1500) < 1e-6

    def test_each_round_has_numbers_of_its_own(self, monkeypatch):
        turns, real = [], oversampling.exponential_keys
        monkeypatch.setattr(
            oversampling,
            "exponential_keys",
            lambda seed, purpose, turn, *rest: (
                turns.append((purpose, turn)) or real(seed, purpose, turn, *rest)
            ),
        )
        after(Shards(data.blobs(), shards=1, block=600), KMeansParallel(7, 0), 5)
        assert turns == [(CANDIDATES, turn) for turn in range(5)]

    def test_a_pass_brings_home_the_exact_potential_and_weights(self):
        rows = cases.normal(400, 5, 3) * np.float32(1e3)
        weights = np.random.default_rng(1).exponential(size=400).astype(np.float32)
        source, initialiser = Shards(rows, weights), KMeansParallel(6, 0, oversampling=1.0)
        state = after(source, initialiser, 3)
        candidates = state.rows[:-6]  # those of the last pass's draw were not measured yet
        labels = oracles.assign(rows, candidates)
        scores = oracles.all_scores(rows, candidates).min(axis=1)
        last = source.summaries[-1]
        priorities = scores * weights.astype(float)
        assert last[POTENTIAL].to_fraction() == sum(oracles.fractions(priorities))
        expected = [sum(oracles.fractions(weights[labels == j])) for j in range(len(candidates))]
        assert last[WEIGHTS].to_fractions() == expected
        assert state.notes["potentials"][-1] == pytest.approx(
            float(oracles.inertia(rows, candidates, labels, weights))
        )

    def test_the_last_pass_weighs_all_candidates(self, monkeypatch):
        given = []

        def spy(rows, weights, *others):
            given.append((rows, weights))
            return recluster(rows, weights, *others)

        monkeypatch.setattr(oversampling, "recluster", spy)
        rows = data.blobs()
        state = run(Shards(rows), KMeansParallel(7, 0, oversampling=1.0))
        ((candidates, weights),) = given
        assert candidates.tobytes() == state.rows.tobytes()
        counts = np.bincount(oracles.assign(rows, candidates), minlength=len(candidates))
        assert weights.tolist() == counts.tolist()

    def test_candidates_are_distinct_rows(self):
        rows = np.tile(data.blobs(), (3, 1))
        state = run(Shards(rows), KMeansParallel(7, 0))
        assert len(np.unique(state.rows, axis=0)) == len(state.rows) == 71

    def test_potentials_fall(self):
        state = run(Shards(data.spambase(), shards=1, block=2000), KMeansParallel(20, 0))
        potentials = state.notes["potentials"]
        assert len(potentials) == state.passes - 1
        assert (np.diff(potentials) < 0).all()


class TestStopping:
    """k = 4, 3 rounds at least, 6 at most, of 8 rows each."""

    def walked(self, potentials, initialiser=None):
        initialiser = initialiser or KMeansParallel(4, 0, rounds=3)
        source = Shards(data.blobs())
        state = after(source, initialiser, 1)
        for potential in potentials:
            found = dict(initialiser.measure(state, source.shards[0], Forgetful()))
            found[POTENTIAL] = found[POTENTIAL].zeros((1,))
            found[POTENTIAL].add_floats(np.array([float(potential)]))
            state = initialiser.advance(state, found)
            if state.centers is not None:
                break
            state = append_rows(state, source.gather(state.wanted))
        return state

    @pytest.mark.parametrize(
        ("potentials", "rounds"),
        [
            ([100, 90, 80, 70], 3),
            ([100, 10, 8, 4], 3),  # exactly half
            ([100, 10, 8, 3.9, 3], 4),
            ([128, 63, 31, 15, 7, 3, 1, 0.1], 6),
            ([100, 10, 0], 2),
            ([0], 0),
        ],
    )
    def test_rounds_go_on_while_the_potential_is_halved(self, potentials, rounds):
        initialiser = KMeansParallel(1, 0, rounds=3, oversampling=8)
        state = self.walked(potentials, initialiser)
        assert state.centers is not None
        assert state.notes["rounds"] == rounds
        assert state.notes["potentials"] == potentials[: rounds + 1]
        assert state.passes == rounds + 2 <= initialiser.max_passes
        assert len(state.rows) == 1 + 8 * rounds

    def test_heavy_tails_take_more_rounds(self):
        random = np.random.default_rng(0)
        rows = (random.standard_cauchy((3000, 2)) ** 3).astype(np.float32)
        state = run(Shards(rows), KMeansParallel(5, 0, rounds=2, oversampling=1.0))
        assert 2 < state.notes["rounds"] <= 4

    @pytest.mark.parametrize(("oversampling", "rounds"), [(0.1, 1), (0.1, 3), (0.5, 1)])
    def test_there_are_always_k_candidates(self, oversampling, rounds):
        initialiser = KMeansParallel(30, 0, oversampling=oversampling, rounds=rounds)
        state = run(Shards(data.blobs()), initialiser)
        assert len(np.unique(state.centers, axis=0)) == 30
        assert len(state.rows) >= 30
        assert state.notes["rounds"] >= rounds
        assert state.passes <= initialiser.max_passes

    @pytest.mark.parametrize("oversampling", [0.1, 1.0, 2.0])
    def test_few_distinct_rows_are_all_found(self, oversampling):
        rows = np.tile(data.blobs()[:9], (200, 1))
        initialiser = KMeansParallel(9, 0, oversampling=oversampling, rounds=2)
        state = run(Shards(rows), initialiser)
        assert sorted(state.centers.tolist()) == sorted(rows[:9].tolist())
        assert state.notes["potentials"][-1] == 0

    def test_a_round_draws_a_rounded_multiple_of_k_and_at_least_one_row(self):
        draws = [
            KMeansParallel(k, 0, oversampling=o).draws
            for k, o in [(10, 2.0), (3, 0.5), (1, 0.1), (7, 1.3)]
        ]
        assert draws == [20, 2, 1, 9]


class TestAllRows:
    """Data of no more rows than the rounds would draw."""

    @pytest.mark.parametrize(("rows", "everything"), [(31, True), (32, False)])
    def test_it_depends_on_the_rows_that_have_a_weight(self, rows, everything):
        weights = np.zeros(600, np.float32)
        weights[100 : 100 + rows] = 1
        source = Shards(data.blobs(), weights)
        initialiser = KMeansParallel(3, 0)  # 1 + 5 rounds of 6
        state = after(source, initialiser, 1)
        assert state.notes["all_rows"] is everything
        assert len(state.rows) == (rows if everything else 1)

    def test_it_is_weighted_k_means_plus_plus_over_the_distinct_rows(self):
        rows = np.repeat(data.blobs()[:40], 3, axis=0)
        weights = np.random.default_rng(0).integers(0, 3, 120).astype(np.float32)
        state = run(Shards(rows, weights), KMeansParallel(12, 5, 2))
        assert state.notes["all_rows"]
        totals = [float(weights[(rows == row).all(axis=1)].sum()) for row in state.rows]
        expected = recluster(state.rows, np.array(totals), 12, 5, 2)
        assert state.centers.tobytes() == expected.tobytes()
        distinct = np.unique(rows[weights > 0], axis=0)
        assert sorted(state.rows.tolist()) == distinct.tolist()


@pytest.mark.parametrize(("small", "large"), [(0, 2**40), (0, 0), (2**40, 0)])
def test_candidates_at_a_time_change_no_byte(small, large, monkeypatch):
    rows = np.array([[x, y] for x in range(20) for y in range(30)], np.float32)  # many ties
    expected = run(Shards(rows), KMeansParallel(7, 0, oversampling=1.0)).centers
    monkeypatch.setattr(oversampling, "_SMALL", small)
    monkeypatch.setattr(oversampling, "_LARGE", large)
    found = run(Shards(rows), KMeansParallel(7, 0, oversampling=1.0)).centers
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["close-centers", "1e38", "grid", "middles"])
def test_the_kernel_and_float64_find_the_same(name, monkeypatch):
    rows, centers, expected = cases.case(name)
    for limit in (0, 2**40):
        monkeypatch.setattr(oversampling, "_SMALL", limit)
        distances, indices = oversampling._Nearest(centers, len(rows))(rows)
        assert indices.tolist() == expected.tolist()
        assert distances.tolist() == oracles.all_scores(rows, centers).min(axis=1).tolist()
