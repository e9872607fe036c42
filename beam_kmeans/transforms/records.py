"""Vectors, dicts and rows with a schema, stacked into a block."""

import dataclasses
import numbers
import operator
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_kmeans.blocks import Block
from beam_kmeans.errors import DataError
from beam_kmeans.values import canonical_float32


@dataclasses.dataclass
class Record:
    """An element of a PCollection: a vector, or something with fields."""

    element: Any
    fields: Mapping[str, Any] | None  # None for a vector
    number: int | None = None

    @classmethod
    def of(cls, element: Any) -> "Record":
        if isinstance(element, Mapping):
            return cls(element, element)
        # NamedTuples and `beam.Row`s alike.
        return cls(element, element._asdict() if hasattr(element, "_asdict") else None)

    @property
    def name(self) -> str:
        """How errors name it."""
        kind = reprlib.repr(self.element)
        return f"the element {kind}" if self.number is None else f"row {self.number}"

    def field(self, name: str) -> Any:
        """The value of a field.

        Raises:
            DataError: there is none of this name; lists those there are.
        """
        if self.fields is None:
            kind = type(self.element).__name__
            raise DataError(
                f"{self.name} is a {kind}, which has no field {name!r}: dicts and rows with a "
                "schema have fields"
            )
        if name not in self.fields:
            raise DataError(f"{self.name} has no field {name!r}; it has {self.field_names()}")
        return self.fields[name]

    def field_names(self) -> str:
        """The fields, as text."""
        return ", ".join(map(str, self.fields or ())) or "no field"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What of an element is its row, its weight and its row number.

    Attributes:
        features: names of fields; None takes vectors whole, and of rows with a schema all fields
            but the weight and the row number, as declared.
        weight: name of a field.
        row_id: name of a field, or a function of the element.
    """

    features: tuple[str, ...] | None = None
    weight: str | None = None
    row_id: str | Callable[[Any], int] | None = None

    def stack(self, elements: Sequence[Any]) -> Block:
        """The block of these elements, in their order.

        Raises:
            DataError: names the row (the element, where rows have no numbers) and what was found.
        """
        records = [Record.of(element) for element in elements]
        row_numbers = weights = None
        if self.row_id is not None:
            for record in records:
                record.number = self._number(record)
            row_numbers = np.array([record.number for record in records], np.int64)
        rows = _matrix(records, [self._row(record) for record in records], self._feature)
        if self.weight is not None:
            column = [[record.field(self.weight)] for record in records]
            weights = _matrix(records, column, lambda *_: f"weight {self.weight!r}")[:, 0]
            for place in np.flatnonzero(weights < 0)[:1].tolist():
                raise DataError(
                    f"{records[place].name}: weight {self.weight!r} is {column[place][0]}; weights "
                    "of at least 0 are needed"
                )
        return Block(rows, weights, row_numbers)

    def _number(self, record: Record) -> int:
        """The record's row number."""
        if isinstance(self.row_id, str) or self.row_id is None:
            value = record.field(str(self.row_id))
        else:
            value = self.row_id(record.element)
        try:
            number = operator.index(value)
        except TypeError:
            number = -1
        if not 0 <= number < 2**63:
            raise DataError(
                f"row_id: {value!r} of {record.name} is no row number; allowed: an integer from 0 "
                "to 2**63 - 1, from a field or from a function, StackRows(row_id=function)"
            )
        return number

    def _names(self, record: Record) -> tuple[str, ...]:
        """The fields that make a row."""
        if self.features is not None:
            return self.features
        if isinstance(record.element, Mapping):
            raise DataError(
                f"features: {record.name} is a dict, whose fields have no order of their own: name "
                "those that make a row, StackRows(features=[...]); it has "
                f"{record.field_names()}"
            )
        return tuple(name for name in record.fields or () if name not in (self.weight, self.row_id))

    def _row(self, record: Record) -> Any:
        """The record's row, not yet known to be a vector of numbers."""
        if record.fields is None and self.features is None:
            return record.element
        values = [record.field(name) for name in self._names(record)]
        whole = len(values) == 1 and isinstance(values[0], list | tuple | np.ndarray)
        return values[0] if whole else values

    def _feature(self, record: Record, place: int) -> str:
        """How errors name a feature."""
        names = self._names(record)
        return f"feature {names[place]!r}" if len(names) > 1 else f"feature {place}"


def _matrix(
    records: Sequence[Record], rows: Sequence[Any], label: Callable[[Record, int], str]
) -> npt.NDArray[np.float32]:
    """Rows of numbers as canonical float32 [n, d], each the same whatever rows are beside it.

    Raises:
        DataError: a row is no vector of finite float32 numbers, or not as long as the first.
    """
    try:
        found = np.asarray(rows)
    except ValueError:  # rows of several lengths
        found = np.asarray(None)
    if found.dtype.kind not in "biuf" or found.ndim != 2:
        found = _slow_matrix(records, rows, label)
    if not found.shape[1]:
        raise DataError(f"{records[0].name} has no features")
    if found.dtype not in (np.float32, np.float16):
        # Integers go by float64 even alone, as they do where another row holds a float.
        found = found.astype(np.float64)
    rounded, _ = canonical_float32(found)
    for row, place in np.argwhere(~np.isfinite(rounded))[:1].tolist():
        value = found[row, place]
        beyond = ", which is beyond float32" if np.isfinite(value) else ""
        raise DataError(f"{records[row].name}: {label(records[row], place)} is {value}{beyond}")
    return rounded


def _slow_matrix(
    records: Sequence[Record], rows: Sequence[Any], label: Callable[[Record, int], str]
) -> npt.NDArray[np.float64]:
    """The same, value by value: it finds the one that is no number."""
    values: list[list[float]] = []
    for record, row in zip(records, rows, strict=True):
        values.append(_numbers(record, row, label))
        if len(values[-1]) != len(values[0]):
            raise DataError(
                f"{record.name} has {len(values[-1])} features, {records[0].name} has "
                f"{len(values[0])}: all rows need as many"
            )
    return np.array(values, np.float64)


def _numbers(record: Record, row: Any, label: Callable[[Record, int], str]) -> list[float]:
    if isinstance(row, str | bytes) or not hasattr(row, "__iter__"):
        raise DataError(
            f"{record.name} is a {type(row).__name__}; a vector of numbers, a dict or a row with a "
            "schema is needed"
        )
    numbers_found: list[float] = []
    for place, value in enumerate(row):
        if not isinstance(value, numbers.Real | np.bool_):
            what = reprlib.repr(value)
            raise DataError(f"{record.name}: {label(record, place)} is not a number: {what}")
        try:
            numbers_found.append(float(value))
        except OverflowError:
            raise DataError(
                f"{record.name}: {label(record, place)} is {value}, beyond float32"
            ) from None
    return numbers_found
