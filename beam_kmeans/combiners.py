"""The CombineFn of every pass: merges values that know how to add another."""

import copy
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import apache_beam as beam


class Monoid(Protocol):
    """A summary that merges another into itself."""

    def add(self, other: Any) -> Any:
        """Merges another's into this one, in place, and returns this one."""


M = TypeVar("M", bound=Monoid)


class MergeSummaries(beam.CombineFn):
    """Merges partial summaries; their merging is exact, so its order does not matter."""

    def create_accumulator(self) -> list[Any]:
        return []

    def add_input(self, accumulator: list[Any], element: Any) -> list[Any]:
        if not accumulator:
            # Inputs may be shared with other steps: only a copy of our own is changed.
            return [copy.deepcopy(element)]
        accumulator[0] = accumulator[0].add(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[list[Any]]) -> list[Any]:
        merged: list[Any] = []
        for accumulator in accumulators:
            for summary in accumulator:
                merged = [merged[0].add(summary)] if merged else [summary]
        return merged

    def extract_output(self, accumulator: list[Any]) -> Any:
        return accumulator[0] if accumulator else None
