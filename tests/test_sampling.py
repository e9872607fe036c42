import decimal
import hashlib
import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from beam_kmeans import sampling
from beam_kmeans.kernels import tensorflow
from beam_kmeans.sampling import INITIAL_ROWS, DistinctSample
from beam_kmeans.seeding import rows as seeding
from beam_kmeans.tally import Rows
from tests import laws

#: Counter, key and result of Philox4x32-10 in Random123's file of known answers.
KNOWN_ANSWERS = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text):
    return tuple(np.uint64(int(word, 16)) for word in text.split())


class TestPhilox:
    @pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
    def test_the_published_answers_come_out(self, counter, key, result):
        assert sampling.philox(words(counter), tuple(map(int, words(key)))) == words(result)

    def test_arrays_give_what_each_counter_gives_alone(self):
        columns = zip(*(words(counter) for counter, _, _ in KNOWN_ANSWERS), strict=True)
        found = sampling.philox(tuple(np.array(column) for column in columns), (7, 9))
        for place, (counter, _, _) in enumerate(KNOWN_ANSWERS):
            alone = sampling.philox(words(counter), (7, 9))
            assert tuple(word[place] for word in found) == alone

    @pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**63 - 1])
    @pytest.mark.parametrize(("purpose", "turn"), [(1, 0), (3, 77)])
    def test_tensorflow_has_the_same_numbers(self, seed, purpose, turn):
        tf = tensorflow()
        first = 2**40 + 12345
        # TensorFlow counts its blocks of four words up from the counter it is given: those are
        # the rows. Each gives 64 bits to a row, the lower word first.
        bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[4 * 50],
            key=np.array([seed], np.uint64),
            counter=np.array([first, (purpose << 24) + turn], np.uint64),
            alg=1,
            dtype=tf.uint32,
        ).numpy()
        low, high = bits.reshape(50, 4)[:, :2].astype(np.uint64).T
        expected = (((high << np.uint64(32) | low) >> np.uint64(12)).astype(float) + 0.5) * 2.0**-52
        found = sampling.uniforms(seed, purpose, turn, np.arange(first, first + 50))
        assert found.tolist() == expected.tolist()


class TestUniforms:
    @pytest.mark.parametrize(("bits", "expected"), [(0, 2.0**-53), (2**32 - 1, 1 - 2.0**-53)])
    def test_neither_0_nor_1_can_come(self, monkeypatch, bits, expected):
        monkeypatch.setattr(sampling, "philox", lambda *_: (np.full(1, bits, np.uint64),) * 4)
        assert sampling.uniforms(0, 1, 0, np.zeros(1, np.int64)).tolist() == [expected]

    def test_they_are_odd_multiples_of_2_to_the_minus_53(self):
        scaled = sampling.uniforms(3, 1, 0, np.arange(1000)) * 2.0**53
        assert (scaled % 2 == 1).all()

    def test_a_row_has_the_same_number_in_any_block(self):
        rows = np.random.default_rng(0).integers(0, 2**62, 100)
        together = sampling.uniforms(5, 1, 2, rows)
        alone = [sampling.uniforms(5, 1, 2, rows[i : i + 1])[0] for i in range(100)]
        assert together.tolist() == alone
        assert sampling.uniforms(5, 1, 2, rows[::-1]).tolist() == alone[::-1]

    def test_each_part_of_the_counter_counts(self):
        base = {"seed": 1, "purpose": 1, "turn": 1, "row": 1}
        others = [
            base,
            *({**base, part: 2} for part in base),
            {**base, "seed": 1 + 2**32},
            {**base, "row": 1 + 2**32},
        ]
        found = {
            float(sampling.uniforms(o["seed"], o["purpose"], o["turn"], np.array([o["row"]]))[0])
            for o in others
        }
        assert len(found) == len(others)

    @pytest.mark.parametrize(
        "numbers",
        [
            lambda: sampling.uniforms(0, 1, 0, np.arange(2**16)),
            lambda: sampling.uniforms(2**40, 1, 0, np.arange(2**35, 2**35 + 2**16)),
            lambda: sampling.uniforms(0, 1, 0, np.arange(2**16) << 32),
            lambda: np.concatenate(
                [sampling.uniforms(s, 1, 0, np.arange(32)) for s in range(2048)]
            ),
        ],
        ids=["rows", "far-rows", "high-words", "seeds"],
    )
    def test_they_are_uniform_and_neighbours_are_independent(self, numbers):
        found = numbers()
        cells = (found * 16).astype(int)
        pairs = np.bincount(cells[:-1] * 16 + cells[1:], minlength=256)
        assert p_value(pairs, np.full(256, 1 / 256)) > 1e-3
        fine = np.bincount((found * 2**20).astype(int) % 1024, minlength=1024)
        assert p_value(fine, np.full(1024, 1 / 1024)) > 1e-3


def p_value(counts, probabilities):
    """Of a chi-squared test of counts against probabilities; a count that cannot be gives 0."""
    counts, probabilities = np.asarray(counts), np.asarray(probabilities)
    if counts[probabilities == 0].any():
        return 0.0
    possible = probabilities > 0
    expected = probabilities[possible] * counts.sum()
    assert expected.min() >= 5
    return float(scipy.stats.chisquare(counts[possible], expected).pvalue)


class TestMinusLog:
    @pytest.mark.parametrize(
        "values",
        [
            2.0 ** -np.random.default_rng(0).uniform(0, 53, 2000),
            1 - 2.0 ** -np.random.default_rng(1).uniform(1, 53, 1000),
            np.sqrt(0.5) * (1 + np.random.default_rng(2).normal(0, 1e-9, 500)),
            np.sqrt(0.5) ** np.arange(1, 100),
            2.0 ** -np.arange(1, 54),
            np.array([2.0**-53, 1 - 2.0**-53, 0.5, 0.7071067811865475, 0.7071067811865476]),
        ],
        ids=["all", "near-1", "near-the-cut", "cuts", "powers", "ends"],
    )
    def test_it_is_within_three_units_of_the_last_place(self, values):
        found = sampling.minus_log(values)
        with decimal.localcontext(prec=40):
            exact = [-decimal.Decimal(value).ln() for value in values.tolist()]
            for value, truth in zip(found.tolist(), exact, strict=True):
                unit = decimal.Decimal(float(np.spacing(float(truth))))
                assert abs(decimal.Decimal(value) - truth) <= 3 * unit

    def test_its_bytes_are_pinned(self):
        # Another platform, NumPy or compiler must give these: they decide which rows are drawn.
        keys = sampling.exponential_keys(7, INITIAL_ROWS, 0, np.arange(100_000), None)
        assert [value.hex() for value in keys[:2].tolist()] == PINNED_KEYS
        assert hashlib.sha256(keys.astype("<f8").tobytes()).hexdigest() == PINNED_HASH


PINNED_KEYS = ["0x1.5fc59561b146ap-1", "0x1.531e8eec4e60bp+0"]
PINNED_HASH = "8e2f719304b39ef8ef555711ba10acdae1487edf5fb8897639da21fd15fce800"


class TestExponentialKeys:
    def test_a_weight_divides_the_key(self):
        rows = np.arange(50)
        plain = sampling.exponential_keys(1, 1, 0, rows, None)
        weights = np.random.default_rng(0).exponential(size=50).astype(np.float32)
        keys = sampling.exponential_keys(1, 1, 0, rows, weights)
        assert keys.tolist() == (plain / weights.astype(np.float64)).tolist()
        ones = sampling.exponential_keys(1, 1, 0, rows, np.ones(50, np.float32))
        assert ones.tolist() == plain.tolist()

    def test_a_weight_of_zero_gives_an_infinite_key(self):
        keys = sampling.exponential_keys(1, 1, 0, np.arange(3), np.array([0, 1, 0], np.float32))
        assert np.isinf(keys).tolist() == [True, False, True]

    def test_keys_stay_finite_and_above_zero_for_extreme_weights(self):
        weights = np.array([2.0**-126, 3.4e38] * 500, np.float32)
        keys = sampling.exponential_keys(1, 1, 0, np.arange(1000), weights)
        assert np.isfinite(keys).all()
        assert (keys > 0).all()


WEIGHTS = [1, 2, 3, 4, 0, 0.5]
VALUES = [0, 1, 2, 3, 4, 0]  # the first and the last row have one value
CUTS = (2, 3)


def draw_by_row_number(seed, weights=WEIGHTS):
    parts = blocks(np.arange(6), np.array(weights, np.float32))
    return seeding.draw(parts, 2, seed)


def blocks(row_numbers, weights):
    rows = np.array(VALUES, np.float32)[:, None]
    starts = (0, *CUTS)
    for start, stop in zip(starts, (*CUTS, 6), strict=True):
        yield Rows(rows[start:stop], weights[start:stop], row_numbers[start:stop])


def draw_without_weights(seed):
    return draw_by_row_number(seed, [1, 1, 1, 1, 0, 1])


def draw_by_position_in_the_block(seed):
    sample = DistinctSample.zero(2)
    for part in blocks(np.arange(6), np.array(WEIGHTS, np.float32)):
        positions = np.arange(len(part.rows))
        keys = sampling.exponential_keys(seed, INITIAL_ROWS, 0, positions, part.weights)
        sample.include(part.rows, keys, part.row_numbers)
    return sample


def draw_block_by_block(seed):
    """Each block's smallest key first: what a sampler that trusts blocks would do."""
    samples = [DistinctSample.zero(1) for _ in range(3)]
    parts = blocks(np.arange(6), np.array(WEIGHTS, np.float32))
    for sample, part in zip(samples, parts, strict=True):
        keys = sampling.exponential_keys(seed, INITIAL_ROWS, 0, part.row_numbers, part.weights)
        sample.include(part.rows, keys, part.row_numbers)
    total = DistinctSample.zero(2)
    for sample in samples:
        total.add(sample)
    return total


def p_value_of_pairs(draw, seeds=2500):
    """Of ordered pairs of drawn values, against sampling by weight without replacement."""
    weight = np.bincount(VALUES, WEIGHTS)
    chances, counts = np.zeros((5, 5)), np.zeros((5, 5), int)
    for a, b in itertools.permutations(range(5), 2):
        chances[a, b] = weight[a] / weight.sum() * weight[b] / (weight.sum() - weight[a])
    for seed in range(seeds):
        first, second = (VALUES[number] for number in draw(seed).row_numbers.tolist())
        counts[first, second] += 1
    return p_value(counts, chances)


class TestWeightedSampling:
    def test_values_are_drawn_by_weight_without_replacement(self):
        assert p_value_of_pairs(draw_by_row_number) > 1e-3

    @pytest.mark.parametrize(
        "draw", [draw_without_weights, draw_by_position_in_the_block, draw_block_by_block]
    )
    def test_a_wrong_sampler_would_be_seen(self, draw):
        assert p_value_of_pairs(draw, 1000) < 1e-6


@st.composite
def keyed_rows(draw):
    """Rows of few values with few keys, so that all kinds of ties come, their numbers and cuts."""
    n = draw(st.integers(1, 30))
    values = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=n, max_size=n))
    keys = draw(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, np.inf]), min_size=n, max_size=n))
    numbers = draw(st.permutations(range(n)))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    size = draw(st.integers(1, 12))
    return np.array(values, np.float32), np.array(keys), np.array(numbers), cuts, size


def naive(rows, keys, numbers, size):
    """[(key, hash, row number)], with a dictionary of the smallest of each value."""
    best = {}
    for row, key, number in zip(rows, keys.tolist(), numbers.tolist(), strict=True):
        entry = (key, sampling.row_hash(row), number)
        if np.isfinite(key):
            best[row.tobytes()] = min(best.get(row.tobytes(), entry), entry)
    return sorted(best.values())[:size]


def entries(sample):
    hashes = [value.tobytes() for value in sample.hashes]
    return list(zip(sample.keys.tolist(), hashes, sample.row_numbers.tolist(), strict=True))


def pieces(rows, keys, numbers, cuts, size):
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        part = DistinctSample.zero(size)
        part.include(rows[start:stop], keys[start:stop], numbers[start:stop])
        yield part


class TestDistinctSample:
    @given(keyed_rows())
    def test_it_is_what_a_dictionary_gives(self, drawn):
        rows, keys, numbers, _, size = drawn
        sample = DistinctSample.zero(size)
        sample.include(rows, keys, numbers)
        assert entries(sample) == naive(rows, keys, numbers, size)

    @given(keyed_rows())
    def test_any_split_gives_the_same(self, drawn):
        rows, keys, numbers, cuts, size = drawn
        expected = naive(rows, keys, numbers, size)
        one = DistinctSample.zero(size)
        for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            one.include(rows[start:stop], keys[start:stop], numbers[start:stop])
        assert entries(one) == expected
        parts = list(pieces(*drawn))
        assert entries(laws.merged(lambda: DistinctSample.zero(size), parts)) == expected
        laws.check_monoid(lambda: DistinctSample.zero(size), parts, entries, rounds=2)

    @pytest.mark.parametrize("values", [7, 300, 10**6])
    def test_many_rows_give_what_a_dictionary_gives(self, values):
        random = np.random.default_rng(values)
        rows = random.integers(0, values, (5000, 1)).astype(np.float32)
        keys, numbers = random.exponential(size=5000), random.permutation(5000)
        for cuts in ([], [1, 2, 4000], list(range(0, 5000, 500))):
            parts = list(pieces(rows, keys, numbers, cuts, 50))
            found = laws.merged(lambda: DistinctSample.zero(50), parts)
            assert entries(found) == naive(rows, keys, numbers, 50)

    def test_copies_are_passed_over(self):
        sample = DistinctSample.zero(3)
        rows = np.array([[1], [1], [1], [2], [1], [3]], np.float32)
        sample.include(rows, np.array([0.3, 0.1, 0.2, 0.5, 0.4, 0.9]), np.arange(6))
        assert sample.row_numbers.tolist() == [1, 3, 5]

    def test_a_row_of_weight_zero_is_never_drawn(self):
        rows = np.arange(4, dtype=np.float32)[:, None]
        weights = np.array([0, 1, 0, 1], np.float32)
        for seed in range(100):
            sample = seeding.draw([Rows(rows, weights, np.arange(4))], 4, seed)
            assert sorted(sample.row_numbers.tolist()) == [1, 3]

    def test_hashes_tell_rows_apart_by_all_their_bytes(self):
        random = np.random.default_rng(0)
        row = random.normal(size=300).astype(np.float32)
        other = row.copy()
        other[-1] = np.nextafter(other[-1], np.float32(9))
        assert len(sampling.row_hash(row)) == 16
        assert sampling.row_hash(row) == sampling.row_hash(row.copy())
        assert sampling.row_hash(row) != sampling.row_hash(other)
        assert sampling.row_hash(row) == sampling.row_hash(row.astype(">f4"))
        assert sampling.row_hash(row[::2]) == sampling.row_hash(row[::2].copy())


class TestRanges:
    @pytest.mark.parametrize("size", [3, 4, 5, 40])
    @pytest.mark.parametrize("total", [30.0, 1000.0, 1e-3, 1e9])
    def test_ranges_hold_every_entry_once_and_in_order(self, monkeypatch, size, total):
        monkeypatch.setattr(sampling, "RANGE_ENTRIES", 4)
        random = np.random.default_rng(size)
        keys = np.sort(random.exponential(1 / 30, 100))
        rows = np.arange(100, dtype=np.float32)[:, None]
        sample = DistinctSample.zero(size)
        sample.include(rows, keys, np.arange(100))
        parts = list(sample.ranges(total))
        numbers = [number for number, _ in parts]
        assert numbers == sorted(set(numbers))
        assert all(0 <= number <= (size - 1) // 4 for number in numbers)
        assert [entry for _, part in parts for entry in entries(part)] == entries(sample)
        assert entries(laws.merged(lambda: DistinctSample.zero(size), [p for _, p in parts])) == (
            entries(sample)
        )

    def test_a_small_sample_is_one_range(self):
        sample = DistinctSample.zero(5)
        sample.include(np.arange(9, dtype=np.float32)[:, None], np.arange(9.0), np.arange(9))
        ((number, part),) = sample.ranges(9.0)
        assert number == 0
        assert entries(part) == entries(sample)

    def test_a_large_sample_is_cut_about_evenly(self, monkeypatch):
        monkeypatch.setattr(sampling, "RANGE_ENTRIES", 100)
        keys = sampling.exponential_keys(0, 1, 0, np.arange(20_000), None)
        sample = DistinctSample.zero(1000)
        sample.include(np.arange(20_000, dtype=np.float32)[:, None], keys, np.arange(20_000))
        sizes = [len(part.keys) for _, part in sample.ranges(20_000.0)]
        assert len(sizes) == 10
        assert max(sizes) < 200
        assert sum(sizes) == 1000

    def test_the_ranges_of_many_samples_are_cut_at_the_same_keys(self, monkeypatch):
        monkeypatch.setattr(sampling, "RANGE_ENTRIES", 4)
        random = np.random.default_rng(0)
        rows = random.integers(0, 60, (200, 1)).astype(np.float32)
        keys = random.exponential(1, 200)
        by_range = {}
        for part in pieces(rows, keys, np.arange(200), [50, 120], 30):
            for number, piece in part.ranges(200.0):
                by_range.setdefault(number, DistinctSample.zero(30)).add(piece)
        for (_, one), (_, two) in itertools.pairwise(sorted(by_range.items())):
            assert one.keys.max() <= two.keys.min()
        total = DistinctSample.zero(30)
        for sample in by_range.values():
            total.add(sample)
        assert entries(total) == naive(rows, keys, np.arange(200), 30)


class TestKeyRanges:
    @given(st.lists(st.floats(0, 1e300), max_size=40), st.sampled_from([1, 2, 64, 2**17]))
    def test_ranges_ascend_with_keys(self, keys, parts):
        which = sampling.key_ranges(np.sort(np.array(keys, float)), parts)
        assert (np.diff(which) >= 0).all()
        assert (which >= 0).all()
        assert (which < 2**32).all()

    @pytest.mark.parametrize(
        ("entries", "most", "parts"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (100, 8, 16)]
    )
    def test_parts_for_a_number_of_entries(self, entries, most, parts):
        assert sampling.parts_for(entries, most) == parts

    @pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
    def test_a_large_sample_is_cut_small_whatever_the_scale(self, monkeypatch, scale):
        monkeypatch.setattr(sampling, "RANGE_ENTRIES", 100)
        keys = sampling.exponential_keys(0, 1, 0, np.arange(20_000), None) * scale
        sample = DistinctSample.zero(2000)
        sample.include(np.arange(20_000, dtype=np.float32)[:, None], keys, np.arange(20_000))
        parts = list(sample.key_ranges())
        assert max(len(part.keys) for _, part in parts) < 200
        joined = [key for _, part in parts for key in part.keys.tolist()]
        assert joined == sample.keys.tolist()
