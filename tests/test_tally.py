import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_kmeans import kernels, lloyd, sums, tally
from beam_kmeans.distances import Centers
from beam_kmeans.sums import ExactSums
from beam_kmeans.tally import LloydTally, Rows
from tests import laws, oracles
from tests.cases import case, normal

#: One kernel shape with weights and one without serve most of these tests.
TALLY_CASES = [
    "mean-5000",
    "repeated-rows",
    "repeated-centers",
    "grid",
    "middles",
    "close-centers",
    "heavy-tails",
    "outlier",
    "mixed-scales",
    "all-extremes",
    "1e-37",
]


@pytest.fixture(autouse=True)
def one_kernel_shape(monkeypatch):
    monkeypatch.setattr(kernels, "settings", kernels.Settings(tile_rows=256, threads=1))


def some_weights(n, seed=0):
    """Of many sizes, a tenth of them 0."""
    random = np.random.default_rng(seed)
    weights = 2.0 ** random.uniform(-30, 30, n) * (random.random(n) > 0.1)
    return weights.astype(np.float32)


def blocks(rows, weights=None, cuts=()):
    """Rows in blocks; `weights` may be a list with an array or None for each block."""
    ends = [0, *cuts, len(rows)]
    for place, (start, stop) in enumerate(itertools.pairwise(ends)):
        own = weights[place] if isinstance(weights, list) else weights
        own = None if own is None else own[start:stop]
        yield Rows(rows[start:stop], own, np.arange(start, stop))


def tally_of(parts, centers, exponents=None, far=True):
    made = LloydTally(Centers(centers), far, exponents)
    made.include(parts)
    return made.result()


def contents(found):
    survey, total = found
    return (
        survey.counts.tolist(),
        survey.cluster_weights().to_fractions(),
        total.to_fractions(),
        *(getattr(survey.far, name).tolist() for name in ("priorities", "row_numbers", "indices")),
        survey.far.weights.tolist(),
        survey.far.rows.tolist(),
    )


def by_definition(rows, centers, labels, weights=None):
    k = len(centers)
    ones = np.ones(len(rows), np.float32) if weights is None else weights
    own = [labels == j for j in range(k)]
    sums_of = [oracles.column_sums(rows[o], None if weights is None else ones[o]) for o in own]
    return (
        np.bincount(labels, minlength=k).tolist(),
        [oracles.column_sums(ones[o, None])[0] for o in own],
        [value for part in sums_of for value in part],
        *far_rows(rows, centers, labels, ones),
    )


def far_rows(rows, centers, labels, weights):
    """Brute force: the 64 distinct values with the largest weight x score."""
    scores = oracles.all_scores(rows, centers)[np.arange(len(rows)), labels]
    priorities = (scores * weights.astype(np.float64)).tolist()
    seen, kept = set(), []
    for number in sorted(range(len(rows)), key=lambda number: (-priorities[number], number)):
        value = rows[number].tobytes()
        if priorities[number] > 0 and value not in seen and len(kept) < 64:
            seen.add(value)
            kept.append(number)
    return (
        [priorities[number] for number in kept],
        kept,
        labels[kept].tolist(),
        weights[kept].tolist(),
        rows[kept].tolist(),
    )


@pytest.mark.parametrize("name", TALLY_CASES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_sums_counts_and_far_rows_are_exact(name, weighted):
    rows, centers, labels = (part[:700] if len(part) > 100 else part for part in case(name))
    weights = some_weights(700) if weighted else None
    expected = by_definition(rows, centers, labels, weights)
    exponents = sums.window_exponents(np.abs(rows).max(axis=0))
    for parts in (
        blocks(rows, weights),
        blocks(rows, weights, [1, 2, 300, 300]),
        reversed(list(blocks(rows, weights, range(50, 700, 50)))),
    ):
        parts = list(parts)
        assert contents(tally_of(parts, centers)) == expected
        assert contents(tally_of(parts, centers, exponents)) == expected


@pytest.mark.parametrize(("tile_rows", "threads"), [(256, 3), (1000, 1), (8192, 2), (None, None)])
def test_tiles_and_threads_change_nothing(tile_rows, threads):
    rows, centers, labels = case("middles")
    expected = by_definition(rows, centers, labels)
    kernels.settings.tile_rows, kernels.settings.threads = tile_rows, threads
    assert contents(tally_of(blocks(rows, None, [10, 1500]), centers)) == expected


@pytest.mark.parametrize("name", ["spambase", "digits"])
def test_real_data_is_summed_exactly(name):
    kernels.settings.tile_rows = 1000
    rows, centers, labels = case(name)
    assert contents(tally_of(blocks(rows), centers)) == by_definition(rows, centers, labels)


def test_the_window_grows_between_blocks():
    # Each block is a thousand times larger than those before; then they come in the other order.
    scales = np.repeat(np.float32(10.0) ** np.arange(-9, 10, 3), 100)[:, None]
    rows, centers = (normal(700, 8) * scales).astype(np.float32), normal(20, 8, 1)
    labels = oracles.assign(rows, centers)
    expected = by_definition(rows, centers, labels)
    parts = list(blocks(rows, None, range(100, 700, 100)))
    assert contents(tally_of(parts, centers)) == expected
    assert contents(tally_of(reversed(parts), centers)) == expected


def test_a_bound_that_later_rows_exceed_in_weight_alone_is_no_trouble():
    rows, centers = normal(700, 8), normal(20, 8, 1)
    weights = np.repeat(np.float32(2.0) ** np.arange(-60, 80, 20), 100)
    expected = by_definition(rows, centers, oracles.assign(rows, centers), weights)
    parts = list(blocks(rows, weights, range(100, 700, 100)))
    assert contents(tally_of(parts, centers)) == expected
    assert contents(tally_of(reversed(parts), centers)) == expected


def test_blocks_with_and_without_weights_mix():
    rows, centers, labels = (part[:700] if len(part) > 100 else part for part in case("middles"))
    weights = some_weights(700)
    mixed = [None, weights, None, weights, weights, None]
    cuts = [100, 250, 400, 410, 600]
    effective = weights.copy()
    for start, stop in ((0, 100), (250, 400), (600, 700)):
        effective[start:stop] = 1
    expected = by_definition(rows, centers, labels, effective)
    parts = list(blocks(rows, mixed, cuts))
    assert contents(tally_of(parts, centers)) == expected
    assert contents(tally_of(reversed(parts), centers)) == expected


def test_rows_without_weights_have_no_sum_of_weights():
    rows, centers, _ = case("grid")
    assert tally_of(blocks(rows[:100]), centers)[0].weights is None
    ones = np.ones(100, np.float32)
    survey, _ = tally_of(blocks(rows[:100], ones), centers)
    assert survey.weights.to_fractions() == survey.counts.tolist()


@pytest.mark.parametrize("name", ["grid", "heavy-tails"])
def test_few_rows_wait_at_a_time(monkeypatch, name):
    rows, centers, labels = (part[:700] if len(part) > 100 else part for part in case(name))
    weights = some_weights(700)
    expected = by_definition(rows, centers, labels, weights)
    monkeypatch.setattr(tally, "_WAITING_ROWS", 30)
    monkeypatch.setattr(tally, "_WINDOW_TILES", 2)
    parts = list(blocks(rows, weights, range(25, 700, 25)))
    assert contents(tally_of(parts, centers)) == expected


def test_the_windows_of_many_tiles_fit_an_int64():
    assert tally._WINDOW_TILES * sums.WINDOW_ROWS * 2**sums.DIGIT_BITS < 2**63


def test_far_rows_are_found_only_where_they_are_looked_for():
    rows, centers, labels = case("mean-5000")
    survey, total = tally_of(blocks(rows), centers, far=False)
    assert len(survey.far.priorities) == 0
    assert contents((survey, total))[:3] == by_definition(rows, centers, labels)[:3]


def test_equal_weighted_scores_are_ordered_by_row_number():
    # 200 distinct rows, each 5 from its center; each a second time.
    angles = np.array([(3, 4), (4, 3), (5, 0), (0, 5)], np.float32)
    rows = np.concatenate([np.tile(angles, (50, 1)), np.zeros((200, 0), np.float32)], axis=1)
    rows = np.concatenate([rows, rows])
    rows[:, 0] += np.tile(np.repeat(np.arange(50) * 1000, 4), 2)
    centers = np.stack([np.arange(50) * 1000, np.zeros(50)], axis=1).astype(np.float32)
    order = np.random.default_rng(0).permutation(400)
    parts = [Rows(rows[o], None, o) for o in np.array_split(order, 7)]
    survey, _ = tally_of(parts, centers)
    assert survey.far.row_numbers.tolist() == list(range(64))
    assert survey.far.priorities.tolist() == [25.0] * 64


def test_of_copies_the_one_with_the_largest_weight_is_far():
    rows = np.array([[0], [9], [9], [9], [5]], np.float32)
    weights = np.array([1, 1, 3, 3, 2], np.float32)
    survey, _ = tally_of(blocks(rows, weights, [2]), np.zeros((1, 1), np.float32))
    assert survey.far.row_numbers.tolist() == [2, 4]
    assert survey.far.priorities.tolist() == [243.0, 50.0]


@pytest.mark.parametrize("parts", [[], [Rows(normal(0, 8), None, np.zeros(0, np.int64))]])
def test_no_rows_give_zero(parts):
    survey, total = tally_of(parts, normal(20, 8, 1))
    assert survey.counts.tolist() == [0] * 20
    assert survey.cluster_weights().to_fractions() == [0] * 20
    assert total.to_fractions() == [0] * 160
    assert len(survey.far.priorities) == 0


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_surveys_and_sums_merge_as_monoids(weighted):
    rows, centers, labels = (part[:700] if len(part) > 100 else part for part in case("grid"))
    weights = some_weights(700) if weighted else None
    parts = list(blocks(rows, weights, range(100, 700, 100)))
    found = [tally_of([part], centers) for part in parts]

    def zero():
        return lloyd.Survey(np.zeros(20, np.int64), None, lloyd.FarRows.zero(8))

    expected = by_definition(rows, centers, labels, weights)
    nothing = ExactSums.zeros((20, 8))
    surveys = [survey for survey, _ in found]
    laws.check_monoid(zero, surveys, lambda survey: contents((survey, nothing)))
    merged = laws.merged(zero, surveys)
    total = laws.merged(lambda: ExactSums.zeros((20, 8)), [total for _, total in found])
    assert contents((merged, total)) == expected


def test_surveys_with_and_without_weights_merge():
    rows, centers, _ = case("middles")
    weights = some_weights(300)
    found = [
        tally_of(blocks(rows[:100]), centers)[0],
        tally_of(blocks(rows[100:200], weights[100:200]), centers)[0],
        tally_of(blocks(rows[200:300]), centers)[0],
    ]
    laws.check_monoid(
        lambda: lloyd.Survey(np.zeros(20, np.int64), None, lloyd.FarRows.zero(8)),
        found,
        lambda survey: (survey.counts.tolist(), survey.cluster_weights().to_fractions()),
    )


def test_arguments_stay_as_they_were():
    rows, centers, _ = case("grid")
    weights = some_weights(700)
    parts = list(blocks(rows[:700], weights, [300]))
    before = [part.rows.tobytes() + part.weights.tobytes() for part in parts]
    tally_of(parts, centers)
    assert [part.rows.tobytes() + part.weights.tobytes() for part in parts] == before


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.integers(1, 60),
    st.lists(st.integers(0, 60), max_size=3),
    st.booleans(),
    st.sampled_from([1.0, 1e-3, 1e20]),
)
def test_any_small_data_is_summed_exactly(seed, n, cuts, weighted, scale):
    random = np.random.default_rng(seed)
    made = random.integers(-4, 5, (n + 20, 8)) * random.choice([0.1, 1, 7], (1, 8)) * scale
    rows, centers = made[20:].astype(np.float32), made[:20].astype(np.float32)
    weights = some_weights(n, seed) if weighted else None
    expected = by_definition(rows, centers, oracles.assign(rows, centers), weights)
    cuts = sorted(min(cut, n) for cut in cuts)
    assert contents(tally_of(blocks(rows, weights, cuts), centers)) == expected
