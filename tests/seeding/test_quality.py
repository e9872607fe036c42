"""Costs against published tables: B. Bahmani et al., "Scalable k-means++", PVLDB 5(7), 2012."""

import numpy as np
import pytest

from beam_kmeans.config import Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.fitting import fit_from
from beam_kmeans.seeding.plus_plus import plus_plus
from beam_kmeans.seeding.run import initial_centers
from tests import data, oracles

pytestmark = [pytest.mark.heavy, pytest.mark.quality, pytest.mark.timeout(900)]


def gauss_mixture(deviation):
    """float32 [10000, 15]: 50 centers of this standard deviation, rows of deviation 1 around."""
    random = np.random.default_rng(0)
    centers = random.normal(0, deviation, (50, 15))
    rows = centers[random.integers(0, 50, 10_000)] + random.normal(0, 1, (10_000, 15))
    return rows.astype(np.float32)


def spambase():
    """float32 [4601, 58]: with the column of labels, as published."""
    table = np.loadtxt(data.EXAMPLES / "spambase.csv", delimiter=",", skiprows=1)
    return np.ascontiguousarray(table, np.float32)


def medians(rows, k, initial_clusters="kmeans_plus_plus", seeds=11):
    """The median costs of some seeds: of the initial centers, and after Lloyd's iterations."""
    dataset, costs = MemoryDataset(rows), []
    for seed in range(seeds):
        parameters = Parameters(k, initial_clusters, random_seed=seed)
        state = initial_centers(dataset, parameters)
        history = fit_from(dataset, parameters, state.centers).state.history
        costs.append((history[0]["inertia"], history[-1]["inertia"]))
    seed_cost, final_cost = np.median(costs, axis=0)
    print(f"{initial_clusters}, k={k}: {seed_cost:.5g} {final_cost:.5g}")
    return seed_cost, final_cost


class TestPublishedTables:
    @pytest.mark.parametrize(
        ("deviation", "seed", "final"), [(1, 17.6, 14.6), (10, 38, 36), (100, 17.0, 15.2)]
    )
    def test_gauss_mixture(self, deviation, seed, final):
        seed_cost, final_cost = medians(gauss_mixture(deviation), 50)
        assert seed_cost / 1e4 <= seed
        assert final_cost / 1e4 <= final

    @pytest.mark.parametrize(
        ("k", "seed", "final"), [(20, 275, 245), (50, 72, 68), (100, 25, 24.2)]
    )
    def test_spambase(self, k, seed, final):
        seed_cost, final_cost = medians(spambase(), k)
        assert seed_cost / 1e5 <= seed
        assert final_cost / 1e5 <= final

    def test_random_rows_do_not_reach_them(self):
        # The tables can tell: rows at random are far off where clusters are far apart.
        seed_cost, final_cost = medians(gauss_mixture(100), 50, "random", 3)
        assert seed_cost / 1e4 > 10 * 17.0
        assert final_cost / 1e4 > 2 * 15.2


def test_afkmc2_is_about_as_good_as_plain_k_means_plus_plus():
    rows, ones = spambase(), np.ones(4601)
    plain = [cost(rows, rows[plus_plus(rows, ones, 50, seed, 0)]) for seed in range(15)]
    chains = []
    for seed in range(15):
        asked = Parameters(50, "afkmc2", random_seed=seed, kmc2_chain_length=200)
        chains.append(cost(rows, initial_centers(MemoryDataset(rows), asked).centers))
    print(f"k-means++ {np.mean(plain):.5g}, afkmc2 {np.mean(chains):.5g}")
    assert np.mean(chains) == pytest.approx(np.mean(plain), rel=0.1)


def cost(rows, centers):
    return oracles.all_scores(rows, centers).min(axis=1).sum()


def test_candidates_cluster_as_well_with_a_hundred_fold_of_the_rows():
    # One path for every size: a thousandth of the rows as candidates loses nothing.
    rows = gauss_mixture(10)
    few = np.median(medians(rows, 20))
    many = np.median(medians(np.tile(rows, (20, 1)), 20, seeds=3)) / 20
    assert many == pytest.approx(few, rel=0.1)
