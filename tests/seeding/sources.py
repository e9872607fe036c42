"""Rows that answer an initialiser as shards do: cut up, merged somehow, remembered or not."""

import json
import pickle

import numpy as np

from beam_kmeans.seeding import rows as finding
from beam_kmeans.seeding.state import Facts, Forgetful
from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import Rows, in_metric


class Shards:
    """A source of numbered rows in shards of blocks.

    Args:
        rows, weights: float32 [n, d] and [n] or None.
        shards, block: how many shards, cut somewhere, and rows of a block.
        seed: of the cuts and of the orders in which summaries meet.
        memory: makes a memory for a shard.
        numbers: int64 [n].
    """

    def __init__(
        self,
        rows,
        weights=None,
        *,
        shards=3,
        block=64,
        seed=0,
        memory=None,
        numbers=None,
        metric="",
    ):
        self.random = np.random.default_rng(seed)
        numbers = np.arange(len(rows)) if numbers is None else numbers
        whole = in_metric(Rows(rows, weights, numbers), metric)
        n = len(whole.rows)
        cuts = np.sort(self.random.integers(0, n + 1, shards - 1)).tolist()
        self.shards = [
            [
                whole.pick(slice(at, min(at + block, stop)))
                for at in range(start, max(stop, start + 1), block)
            ]
            for start, stop in zip([0, *cuts], [*cuts, n], strict=True)
        ]
        self.memories = [(memory or Forgetful)() for _ in self.shards]
        self.facts = Facts.of(Statistics.of(whole.rows, whole.weights))
        self.rows = dict(zip(whole.row_numbers.tolist(), whole.rows, strict=True))
        self.summaries = []

    def measure(self, initialiser, state):
        initialiser, state = pickle.loads(pickle.dumps((initialiser, state)))
        assert json.loads(json.dumps(state.notes)) == state.notes
        found = {}
        for shard in self.random.permutation(len(self.shards)).tolist():
            parts = initialiser.measure(state, iter(self.shards[shard]), self.memories[shard])
            keys = []
            for key, summary in parts:
                found.setdefault(key, []).append(pickle.loads(pickle.dumps(summary)))
                keys.append(key)
            assert len(set(keys)) == len(keys)
        merged = {key: merged_somehow(parts, self.random) for key, parts in found.items()}
        self.summaries.append(merged)
        return initialiser.advance(state, merged)

    def gather(self, row_numbers):
        places, rows = finding.gather((p for s in self.shards for p in s), row_numbers)
        assert sorted(places.tolist()) == list(range(len(row_numbers)))
        return rows[np.argsort(places)]


def merged_somehow(parts, random):
    """All summaries in a random order, by a random tree."""
    while len(parts) > 1:
        random.shuffle(parts)
        other = parts.pop()
        parts[0].add(other)
    return parts[0]


class Remembering:
    """A memory of the parts of a shard; every third is lost where `leaky`."""

    leaky = False

    def __init__(self):
        self.entries, self.recalled, self.kept = {}, 0, 0

    def recall(self, part):
        self.part = part.row_numbers.tobytes()
        entry = self.entries.get(self.part)
        if entry is None:
            return Forgetful().recall(part)
        self.recalled += 1
        return entry

    def keep(self, measured, scores, indices):
        self.kept += 1
        if not (self.leaky and self.kept % 3 == 0):
            self.entries[self.part] = measured, scores.copy(), indices.copy()


class Leaking(Remembering):
    leaky = True
