"""What a source of rows is: a format that knows its columns and splits, and reads chunks."""

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from beam_kmeans.errors import DataError
from beam_kmeans.io.files import SourceFile

#: A `.npy` file has no named columns: its rows come as one list column of this name.
NPY_COLUMN = "features"


@dataclass(frozen=True)
class Split:
    """A part of a file that is read at one go, a function of the file alone."""

    file: int  #: position of the file in sorted order
    index: int  #: number of the split in its file
    path: str
    start: int  #: row group (Parquet), first row (npy), 0 (CSV)
    stop: int  #: one after the last; -1 for a whole CSV file
    size: int  #: about how many bytes of float32 it will make
    first_row: int = 0  #: row of the file that it starts with


@dataclass(frozen=True)
class Column:
    """A column that a file offers.

    `maybe_number` marks a CSV column that is not taken for a number by itself, but may be named as
    one: some of its first values are numbers, or it has none yet.
    """

    name: str
    type: pa.DataType
    maybe_number: bool = False


@dataclass
class Chunk:
    """Consecutive rows of a split, read together."""

    batch: pa.RecordBatch  #: the selected columns of the rows that could be parsed
    first: int  #: row within the split of the first row this chunk covers, rejected ones included
    rows: int  #: rows covered, rejected ones included
    positions: np.ndarray | None = (
        None  #: int64 [rows of batch], within the split; None: from `first` on
    )
    rejected: list[tuple[int, str]] = field(default_factory=list)  #: (row within the split, reason)


class Source(Protocol):
    """One format of files. Instances are stateless."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The endings of names of this format, in lower case."""

    def columns(self, path: str) -> list[Column]:
        """Returns the columns that the file offers."""

    def splits(self, file_index: int, file: SourceFile, row_width: int) -> list[Split]:
        """Returns the splits of a file, in the order of its rows of `row_width` features."""

    def read(
        self, split: Split, columns: Sequence[str], numeric: Collection[str]
    ) -> Iterator[Chunk]:
        """Yields the named columns; those in `numeric` must hold numbers or lists of them."""


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Turns what pyarrow says of an unreadable file into a `DataError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{path} cannot be read: {reason}") from error


def is_number(kind: pa.DataType) -> bool:
    """Returns whether values of this type are integers or floats of any width."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_list_of_numbers(kind: pa.DataType) -> bool:
    """Returns whether values of this type are lists of integers or floats."""
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return bool(is_list) and is_number(kind.value_type)


def check_names(path: str, present: Sequence[str], wanted: Sequence[str]) -> None:
    """Checks that a file has each wanted column, once.

    Raises:
        DataError: a column is missing or there are several of its name.
    """
    times = Counter(present)
    for name in wanted:
        if times[name] == 0:
            raise DataError(f"{path} has no column {name!r}{suggest(name, present)}")
        if times[name] > 1:
            raise DataError(f"{path} has {times[name]} columns named {name!r}")


def suggest(name: str, present: Sequence[str]) -> str:
    """Returns the words that name the nearest and the first of the columns that there are."""
    near = difflib.get_close_matches(name, present, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    shown = ", ".join(present[:20]) + (", ..." if len(present) > 20 else "")
    return f"{hint}; its columns are: {shown}"
