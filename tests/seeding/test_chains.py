import itertools

import numpy as np
import pytest

from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.seeding import chains as seeding
from beam_kmeans.seeding.chains import Chains, walk
from beam_kmeans.seeding.plus_plus import recluster
from beam_kmeans.seeding.run import run
from beam_kmeans.seeding.state import Facts, Forgetful
from tests import chances, data, oracles
from tests.chances import LINE, SQUARES, WEIGHTS
from tests.seeding.sources import Shards

SINGLE = WEIGHTS.astype(np.float32)


def centers_of(chains, rows=LINE, weights=SINGLE):
    return run(Shards(rows, weights, shards=1, block=len(rows)), chains).centers


class TestWalk:
    """TensorFlow's own tests of its chain, in ours."""

    def uniform(self, seed, n):
        return np.random.default_rng(seed).uniform(size=n)

    def test_the_only_distances_are_taken(self):
        distances = np.zeros(1000)
        distances[6], distances[4] = 1e8, 1e4
        for seed in range(100):
            assert walk(distances, self.uniform(seed, 1000)) == 6
        distances[6] = 0
        for seed in range(100):
            assert walk(distances, self.uniform(seed, 1000)) == 4

    def test_half_the_distance_is_taken_half_of_the_time(self):
        distances = np.zeros(1001)
        distances[500], distances[1000] = 100, 50
        ends = [walk(distances, self.uniform(seed, 1001)) for seed in range(50)]
        assert set(ends) == {500, 1000}
        assert min(ends.count(500), ends.count(1000)) >= 5

    def test_nothing_moves_where_all_distances_are_0(self):
        assert walk(np.zeros(10), self.uniform(0, 10)) == 0

    def test_a_distance_has_to_be_larger(self):
        assert walk(np.array([4.0, 2.0]), np.array([0.5, 0.5])) == 0
        assert walk(np.array([4.0, 2.0]), np.array([0.5, np.nextafter(0.5, 0)])) == 1

    def test_a_density_takes_the_proposals_back(self):
        distances, density = np.array([4.0, 4.0]), np.array([1.0, 3.0])
        assert walk(distances, np.array([0.5, 0.34]), density) == 0
        assert walk(distances, np.array([0.5, 0.33]), density) == 1


def textbook(rows, weights, k, length, random):
    """k-MC2 as its paper has it: each proposal drawn anew; None where a chain ends on a center."""
    chance = weights / weights.sum()
    centers = [random.choice(len(rows), p=chance)]
    while len(centers) < k:
        x = random.choice(len(rows), p=chance)
        for _ in range(length - 1):
            y = random.choice(len(rows), p=chance)
            dx, dy = SQUARES[x, centers].min(), SQUARES[y, centers].min()
            if dy > random.uniform() * dx:
                x = y
        if SQUARES[x, centers].min() == 0:
            return None
        centers.append(x)
    return centers


def second_center(first, length, density):
    """Chances [6] of the second center, exactly: the chain's powers, from a row by weight."""
    chance = WEIGHTS * density / (WEIGHTS * density).sum()
    ratio = SQUARES[first] / density
    with np.errstate(divide="ignore", invalid="ignore"):
        accept = np.minimum(1, ratio[None, :] / ratio[:, None])
    accept[np.isnan(accept)] = 0
    moves = accept * chance[None, :]
    moves += np.diag(1 - moves.sum(axis=1))
    ends = chance @ np.linalg.matrix_power(moves, length - 1)
    # After a chain of nothing but the first center's copies there are no further proposals: the
    # second center is drawn at random.
    stuck = ends[ratio == 0].sum()
    other = np.where(ratio > 0, WEIGHTS, 0)
    return np.where(ratio > 0, ends, 0) + stuck * other / other.sum()


def pairs(initialiser, seeds):
    counts = np.zeros((5, 5))
    for seed in range(seeds):
        first, second = chances.values_of(centers_of(initialiser(seed)))
        counts[first, second] += 1
    return counts


def pair_chances(length, mixture):
    first, total = WEIGHTS / WEIGHTS.sum(), np.zeros((6, 6))
    for a in np.flatnonzero(first):
        apart = (WEIGHTS * SQUARES[a]).sum()
        density = 0.5 * SQUARES[a] / apart + 0.5 / WEIGHTS.sum() if mixture else np.ones(6)
        total[a] = first[a] * second_center(a, length, density)
    return chances.by_value(total)


class TestOneGroup:
    @pytest.mark.parametrize("distant", [False, True], ids=["kmc2", "afkmc2"])
    def test_the_second_center_has_the_chances_of_the_chain(self, distant):
        self.check_second_center(distant, 4, 500)

    @pytest.mark.heavy
    @pytest.mark.quality
    @pytest.mark.parametrize("distant", [False, True], ids=["kmc2", "afkmc2"])
    @pytest.mark.parametrize("length", [1, 2, 4, 9])
    def test_over_many_seeds_too(self, distant, length):
        self.check_second_center(distant, length, 3000)

    def check_second_center(self, distant, length, seeds):
        counts = pairs(lambda seed: Chains(2, seed, length, 1, distant), seeds)
        assert chances.p_value(counts, pair_chances(length, distant)) > 1e-3
        if not distant and (length < 9):
            assert chances.p_value(counts, pair_chances(40, distant)) < 1e-4

    @pytest.mark.heavy
    @pytest.mark.quality
    @pytest.mark.parametrize("length", [2, 5, 20])
    def test_three_centers_are_those_of_the_textbook(self, length):
        ours, theirs = np.zeros((5, 5, 5)), np.zeros((5, 5, 5))
        random, seed = np.random.default_rng(length), 0
        while theirs.sum() < 4000:
            found = textbook(LINE, WEIGHTS, 3, length, random)
            if found is not None:
                theirs[tuple(chances.values_of(LINE[found]))] += 1
        # A chain that ends on a center is drawn anew by neither: such runs are left out of both.
        while ours.sum() < 4000:
            found = unstuck(Chains(3, seed, length, 1))
            if found is not None:
                ours[tuple(chances.values_of(found))] += 1
            seed += 1
        assert chances.p_value_of_two(ours, theirs) > 1e-3

    @pytest.mark.heavy
    @pytest.mark.quality
    @pytest.mark.parametrize("distant", [False, True], ids=["kmc2", "afkmc2"])
    def test_long_chains_draw_by_squared_distance(self, distant):
        first, expected = WEIGHTS / WEIGHTS.sum(), np.zeros((6, 6, 6))
        for a, b, c in itertools.product(range(6), repeat=3):
            one = WEIGHTS * SQUARES[a]
            two = WEIGHTS * np.minimum(SQUARES[a], SQUARES[b])
            if first[a] and one[b] and two[c]:
                expected[a, b, c] = first[a] * one[b] / one.sum() * two[c] / two.sum()
        counts = np.zeros((5, 5, 5))
        for seed in range(4000):
            found = centers_of(Chains(3, seed, 60, 1, distant))
            counts[tuple(chances.values_of(found))] += 1
        assert chances.p_value(counts, chances.by_value(expected)) > 1e-3

    @pytest.mark.heavy
    @pytest.mark.quality
    def test_proposals_by_weight_and_by_distance_are_independent(self):
        counts, expected, chance = np.zeros((6, 6, 6)), np.zeros((6, 6, 6)), WEIGHTS / WEIGHTS.sum()
        for a in np.flatnonzero(WEIGHTS):
            far = WEIGHTS * SQUARES[a]
            expected[a] = chance[a] * np.outer(chance, far / far.sum())
        source = Shards(LINE, SINGLE, shards=1, block=6)
        for seed in range(1000):
            initialiser = Chains(2, seed, 12, 1, True)
            state = source.measure(initialiser, initialiser.start(source.facts))
            source.measure(initialiser, state)
            plain, far = (
                source.summaries[-1][seeding._key(kind, 0)].row_numbers
                for kind in (seeding._PROPOSED, seeding._DISTANT)
            )
            assert LINE[plain[0]].tolist() == state.arrays["first"][0].tolist()
            counts[plain[0], plain[1], far[0]] += 1
        assert chances.p_value(counts, expected) > 1e-3

    def test_centers_are_rows_in_the_order_of_their_chains(self):
        rows = data.blobs()
        nine, five = (centers_of(Chains(k, 2, 30, 1), rows, None) for k in (9, 5))
        assert nine[:5].tolist() == five.tolist()
        assert set(map(bytes, nine)) <= set(map(bytes, rows))

    def test_windows_of_proposals_change_nothing(self, monkeypatch):
        expected = centers_of(Chains(20, 0, 30, 1), data.blobs(), None)
        monkeypatch.setattr(seeding, "_PROPOSALS_AT_ONCE", 1)
        assert centers_of(Chains(20, 0, 30, 1), data.blobs(), None).tolist() == expected.tolist()

    def test_a_chain_among_centers_goes_on_to_the_next_row_that_is_none(self):
        rows = np.array([[0], [0], [0], [7]], np.float32)
        weights = np.array([1e3, 1e3, 1e3, 1], np.float32)
        for seed in range(20):
            assert sorted(centers_of(Chains(2, seed, 3, 1), rows, weights).tolist()) == [[0], [7]]

    @pytest.mark.parametrize("distant", [False, True], ids=["kmc2", "afkmc2"])
    def test_rows_that_the_stream_lacks_are_looked_up(self, distant):
        rows = data.blobs()[:50]
        source = Shards(rows, shards=2)
        state = run(source, Chains(50, 0, 1, 1, distant))  # 50 draws hold about 32 of 50 rows
        assert sorted(state.centers.tolist()) == sorted(rows.tolist())
        assert (state.passes, state.lookups) == (1 + distant, 1)


def test_every_step_of_every_chain_has_a_random_number_of_its_own(monkeypatch):
    asked, uniforms = [], seeding.uniforms

    def spy(seed, purpose, turn, numbers):
        if purpose == seeding.CHAIN:
            asked.extend((turn, number) for number in numbers.tolist())
        return uniforms(seed, purpose, turn, numbers)

    monkeypatch.setattr(seeding, "uniforms", spy)
    centers_of(Chains(6, 0, 20, 3), data.blobs(), None)
    assert len(asked) == len(set(asked)) == 3 * 5 * 20


def test_groups_toss_coins_of_their_own():
    one, two = (Chains(6, 0, 200, 3, distant=True).coins(group) for group in (0, 1))
    assert 400 < (one == two).sum() < 600  # of 1,000


def unstuck(chains):
    """The centers of a run in which no chain ended on a center, else None."""
    calls = []
    real = seeding._Run._next
    seeding._Run._next = lambda *arguments: calls.append(1) or real(*arguments)
    try:
        centers = centers_of(chains)
    finally:
        seeding._Run._next = real
    return None if calls else centers


def test_each_row_of_both_streams_is_proposed_once_in_its_order():
    plain, far = np.float32([[0], [1], [2]]), np.float32([[10], [11]])
    found = seeding._interleaved(plain, far, np.array([False, True, True, False]))
    assert found.tolist() == [[0], [1], [10], [11], [2]]


class TestGroups:
    def test_by_default_they_depend_on_rows_and_the_size_of_streams(self):
        def groups(rows, k=10, d=8, length=200):
            return Chains(k, 0, length).start(Facts(rows, d, 1.0, (0.0,) * d, 0.0)).notes["groups"]

        found = [groups(n) for n in (1, 2**20, 2**20 + 1, 5 * 2**20, 10**9, 10**12)]
        assert found == [1, 1, 2, 5, 16, 16]
        assert groups(10**9, k=10_000, d=100) == 1  # 2e8 values each
        assert groups(10**9, k=1000, d=100) == 13
        assert Chains(10, 0, groups=40).start(Facts(5, 1, 1.0, (0.0,), 0.0)).notes["groups"] == 40

    def test_rows_are_dealt_by_their_numbers_evenly(self):
        rows = np.arange(8000, dtype=np.float32)[:, None]
        initialiser = Chains(2, 0, 3000, 4)
        source = Shards(rows, shards=1, block=1000)
        found = dict(
            initialiser.measure(initialiser.start(source.facts), source.shards[0], Forgetful())
        )
        weights = [float(found[seeding._key(seeding._WEIGHT, g)].to_fraction()) for g in range(4)]
        assert sum(weights) == 8000
        assert max(abs(weight - 2000) for weight in weights) < 150
        streams = [
            set(found[seeding._key(seeding._PROPOSED, g)].row_numbers.tolist()) for g in range(4)
        ]
        for one, two in itertools.combinations(streams, 2):
            assert not one & two

    def test_centers_are_weighted_by_the_rows_nearest_to_them(self, monkeypatch):
        given = []

        def spy(rows, weights, *others):
            given.append((rows, weights))
            return recluster(rows, weights, *others)

        monkeypatch.setattr(seeding, "recluster", spy)
        rows = data.blobs(4000)
        for distant in (False, True):
            given.clear()
            assert centers_of(Chains(5, 0, 500, 3, distant), rows, None).shape == (5, 8)
            ((centers, weights),) = given
            assert len(centers) == 15
            assert weights.sum() == pytest.approx(4000)
            counts = np.zeros(15)
            dealt = (seeding.uniforms(0, seeding.DEAL, 0, np.arange(4000)) * 3).astype(int)
            for group in range(3):
                labels = oracles.assign(rows[dealt == group], centers[5 * group : 5 * group + 5])
                counts[5 * group : 5 * group + 5] = np.bincount(labels, minlength=5)
            np.testing.assert_allclose(weights, counts, rtol=0.3, atol=40)

    def test_more_groups_than_rows_are_no_harm(self):
        rows = data.blobs()[:10]
        found = centers_of(Chains(10, 0, 5, 64), rows, None)
        assert sorted(found.tolist()) == sorted(rows.tolist())

    def test_many_groups_are_about_as_good_as_one(self):
        rows = data.blobs(3000)
        costs = [
            np.mean([cost(rows, centers_of(Chains(5, s, 50, g), rows, None)) for s in range(5)])
            for g in (1, 4)
        ]
        assert costs[1] < 1.1 * costs[0]

    @pytest.mark.parametrize("distant", [False, True], ids=["kmc2", "afkmc2"])
    def test_weights_cost_what_copies_cost(self, distant):
        # A row is dealt to one group with all its weight: of many rows that makes no difference.
        rows, weights = data.blobs(2000), (np.arange(2000) % 3 + 1).astype(np.float32)
        copies = np.repeat(rows, weights.astype(int), axis=0)
        costs = np.zeros((2, 10))
        for seed in range(10):
            chains = Chains(5, seed, 50, 4, distant)
            costs[0, seed] = cost(copies, centers_of(chains, rows, weights))
            costs[1, seed] = cost(copies, centers_of(chains, copies, None))
        assert costs[0].mean() == pytest.approx(costs[1].mean(), rel=0.1)


def cost(rows, centers):
    return oracles.all_scores(rows, centers).min(axis=1).sum()


class TestWarnings:
    def test_chains_too_short_for_spambase_say_so(self):
        table = np.loadtxt(data.EXAMPLES / "spambase.csv", delimiter=",", skiprows=1)
        assert table.shape == (4601, 58)  # with the column of labels
        (warning,) = run(MemoryDataset(table), Chains(50, 0, 200)).warnings
        assert warning.startswith("kmc2_chain_length: chains of 200 are too short for kmc2")
        assert "'afkmc2' or 'kmeans_plus_plus'" in warning
        number, enough = float(warning.split(" times")[0].split()[-1]), warning.split("chains of ")
        assert 100 < number < 5000
        assert (1 - 1 / number) ** (int(enough[2].split()[0]) - 1) == pytest.approx(0.1, rel=0.02)

    @pytest.mark.parametrize("distant", [False, True], ids=["kmc2", "afkmc2"])
    def test_well_mixed_chains_say_nothing(self, distant):
        assert run(MemoryDataset(data.blobs()), Chains(5, 0, 200, 1, distant)).warnings == ()

    def test_the_proposals_by_distance_mix_better(self):
        assert run(MemoryDataset(data.spambase()), Chains(50, 0, 200, 1, True)).warnings == ()

    def test_rows_too_rare_to_be_proposed_are_warned_of(self):
        rows = np.concatenate([data.blobs(20_000), np.full((1, 8), 1e4, np.float32)])
        for seed in range(5):
            (warning,) = run(MemoryDataset(rows), Chains(5, seed, 20, 1)).warnings
            apart = ((rows - rows.mean(axis=0, dtype=float)) ** 2).sum(axis=1)
            expected = apart.max() / apart.mean()
            assert float(warning.split(" times")[0].split()[-1]) == pytest.approx(expected, 1e-3)
        weights = np.ones(len(rows), np.float32)
        weights[0] = 0
        assert run(MemoryDataset(rows, weights), Chains(5, 0, 20, 1)).warnings
        weights[-1] = 0  # never drawn, so that nothing is missed
        assert run(MemoryDataset(rows, weights), Chains(5, 0, 200, 1)).warnings == ()

    @pytest.mark.parametrize("distant", [False, True], ids=["kmc2", "afkmc2"])
    def test_chains_of_two_rows_are_too_short_for_either(self, distant):
        (warning,) = run(MemoryDataset(data.blobs()), Chains(5, 0, 2, 1, distant)).warnings
        what = "afkmc2" if distant else "kmc2"
        assert f"chains of 2 are too short for {what} on this data" in warning
        assert ("over its proposal density" in warning) == distant
        assert ("'afkmc2' or" in warning) != distant

    def test_one_cluster_needs_no_chain(self):
        assert run(MemoryDataset(data.spambase()), Chains(1, 0, 1)).warnings == ()
