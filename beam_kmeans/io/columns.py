"""Which columns of the files make a row."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_kmeans.errors import DataError
from beam_kmeans.io.files import SourceFile
from beam_kmeans.io.formats import source_of
from beam_kmeans.io.sources import NPY_COLUMN, Column, check_names, is_list_of_numbers, is_number

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """What of a table makes a row."""

    names: tuple[str, ...]  #: the features' names, in order
    features_column: str | None  #: the list column that holds them, else `names` are columns
    weight_column: str | None
    id_columns: tuple[str, ...]

    @property
    def numeric(self) -> tuple[str, ...]:
        """The columns that must hold numbers, each once."""
        features = self.names if self.features_column is None else (self.features_column,)
        return features if self.weight_column is None else (*features, self.weight_column)

    @property
    def needed(self) -> tuple[str, ...]:
        """All columns to read, each once."""
        return tuple(dict.fromkeys((*self.numeric, *self.id_columns)))


def resolve_columns(
    files: Sequence[SourceFile],
    *,
    features: Sequence[str] | None = None,
    features_column: str | None = None,
    weight_column: str | None = None,
    id_columns: Sequence[str] = (),
) -> Columns:
    """Returns what makes a row, by the schema of the first file.

    Without `features` or `features_column`: every column of integers or floats but the weight and
    the ids, named in the log. A list column of no fixed size is as long as the first list in it.

    Raises:
        ValueError: a column is named twice over.
        DataError: a column is missing, or holds no numbers.
    """
    if not files:
        raise DataError("no file to read the columns of")
    path, found = _first_with_types(files)
    if path.lower().endswith(".npy"):
        _check_npy(
            path,
            features=features,
            features_column=features_column,
            weight_column=weight_column,
            id_columns=id_columns,
        )
        return Columns(tuple(column.name for column in found), NPY_COLUMN, None, ())
    names = [column.name for column in found]
    check_names(path, names, [*id_columns, *([] if weight_column is None else [weight_column])])
    _check_distinct("id_columns", id_columns)
    by_name = {column.name: column for column in found}
    if weight_column is not None:
        _check_number(path, by_name[weight_column], "the weight column")
    if features_column is not None:
        if features is not None:
            raise ValueError("features, features_column: both are given; only one may be")
        if features_column == weight_column:
            raise ValueError(f"weight_column: {weight_column!r} is the features_column too")
        check_names(path, names, [features_column])
        width = _list_width(files, by_name[features_column])
        features = [f"feature_{index}" for index in range(width)]
    elif features is not None:
        _check_features(path, found, features, weight_column)
    else:
        features = _default_features(path, found, {weight_column, *id_columns})
    return Columns(tuple(features), features_column, weight_column, tuple(id_columns))


def _first_with_types(files: Sequence[SourceFile]) -> tuple[str, list[Column]]:
    """The first file whose columns tell their types, which a CSV of only a header does not."""
    for file in files:
        found = source_of(file.path).columns(file.path)
        if not all(pa.types.is_null(column.type) for column in found):
            return file.path, found
    return files[0].path, source_of(files[0].path).columns(files[0].path)


def _check_npy(path: str, **given: object) -> None:
    for word, value in given.items():
        if value is not None and (word != "id_columns" or value):
            raise DataError(f"{path} is a .npy file, which has no named columns for {word}")


def _check_distinct(word: str, names: Sequence[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{word}: {twice[0]!r} is named twice")


def _check_number(path: str, column: Column, role: str) -> None:
    if not (is_number(column.type) or column.maybe_number):
        raise DataError(f"{path}: {role} {column.name!r} is {column.type}, not a number")


def _check_features(
    path: str, found: Sequence[Column], features: Sequence[str], weight_column: str | None
) -> None:
    if not features:
        raise ValueError("features: an empty list; name one column at least")
    _check_distinct("features", features)
    if weight_column in features:
        raise ValueError(f"weight_column: {weight_column!r} is one of the features too")
    check_names(path, [column.name for column in found], features)
    by_name = {column.name: column for column in found}
    for name in features:
        if is_list_of_numbers(by_name[name].type):
            raise DataError(f"{path}: feature {name!r} is a list: name it as features_column")
        _check_number(path, by_name[name], "feature")


def _default_features(path: str, found: Sequence[Column], others: set[str | None]) -> list[str]:
    names = [
        column.name for column in found if is_number(column.type) and column.name not in others
    ]
    if not names:
        lists = [column.name for column in found if is_list_of_numbers(column.type)]
        hint = f"; features_column could be {lists[0]!r}" if lists else ""
        kinds = ", ".join(f"{column.name} ({column.type})" for column in found[:20])
        raise DataError(f"{path} has no numeric column for a feature, only: {kinds}{hint}")
    check_names(path, [column.name for column in found], names)
    _log.info("Features, by default all %d numeric columns: %s", len(names), ", ".join(names))
    return names


def _list_width(files: Sequence[SourceFile], column: Column) -> int:
    """Returns the length of the lists: the type's, else that of the first one that is not empty."""
    if not is_list_of_numbers(column.type):
        raise DataError(
            f"{files[0].path}: features_column {column.name!r} is {column.type}, "
            "not a list of numbers"
        )
    if pa.types.is_fixed_size_list(column.type):
        width = int(column.type.list_size)
        if width == 0:
            raise DataError(f"{files[0].path}: the lists of column {column.name!r} are empty")
        return width
    for index, file in enumerate(files):
        source = source_of(file.path)
        for split in source.splits(index, file, 1):
            for chunk in source.read(split, [column.name], [column.name]):
                lengths = pc.list_value_length(chunk.batch.column(0)).fill_null(0).to_numpy()
                if lengths.any():
                    return int(lengths[np.flatnonzero(lengths)[0]])
    raise DataError(f"no file has a list in column {column.name!r} that tells how many features")
