"""The laws that every mergeable summary keeps, checked for any of them."""

import copy
import pickle

import numpy as np


def check_monoid(zero, parts, value, rounds=5):
    """Checks that merging with `.add` is a monoid that changes nothing but its first argument.

    Args:
        zero: makes a neutral summary.
        parts: summaries; left as they were.
        value: what a summary says, as something that `==` compares.
    """
    before = [pickle.dumps(part) for part in parts]
    expected = value(merged(zero, parts))
    for part in [*parts, zero()]:
        assert value(pickle.loads(pickle.dumps(part))) == value(copy.deepcopy(part))
        assert value(zero().add(copy.deepcopy(part))) == value(copy.deepcopy(part))
        assert value(copy.deepcopy(part).add(zero())) == value(copy.deepcopy(part))
    assert value(merged(zero, (copy.deepcopy(part) for part in parts))) == expected
    for seed in range(rounds):
        assert value(merged_somehow(zero, parts, np.random.default_rng(seed))) == expected
    assert [pickle.dumps(part) for part in parts] == before


def merged(zero, parts):
    """All parts, added one after the other to a zero; each is left as it was."""
    total = zero()
    for part in parts:
        bytes_before = pickle.dumps(part)
        assert total.add(part) is total, "add returns the summary that it changed"
        assert pickle.dumps(part) == bytes_before, "add changed what was added"
    return total


def merged_somehow(zero, parts, random):
    """All parts in a random order, by a random tree, with zeros among them."""
    waiting = [copy.deepcopy(part) for part in parts] + [zero() for _ in range(2)]
    while len(waiting) > 1:
        random.shuffle(waiting)
        other = waiting.pop()
        waiting[0].add(pickle.loads(pickle.dumps(other)))
    return waiting[0]
