"""Part files of predictions: Parquet, CSV or JSON lines, written batch by batch."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.columns import Columns
from beam_kmeans.io.csv import CsvSource
from beam_kmeans.io.formats import source_of

#: The formats of predictions, by the ending of their files' names.
FORMATS = ("parquet", "csv", "jsonl")

# Parquet's row groups are gathered up to this size.
_GROUP_BYTES = 32 << 20
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
# What JSON does not let stand inside a string as it is.
_ESCAPED = r'["\\\x00-\x1f]'


@dataclasses.dataclass(frozen=True)
class Layout:
    """The columns of predictions.

    Attributes:
        output_format: one of `FORMATS`.
        ids: the columns that are carried through, and their types.
        all_scores: k where the scores for all centers are written, else 0.
    """

    output_format: str
    ids: pa.Schema
    all_scores: int = 0

    @property
    def schema(self) -> pa.Schema:
        """All columns: the ids, `cluster_index`, `score` and, where they are asked for, all scores.

        CSV has no lists: there it is a column a center, `score_0`, `score_1`, ...
        """
        fields = [*self.ids, pa.field("cluster_index", pa.int32()), pa.field("score", pa.float64())]
        if self.all_scores and self.output_format == "csv":
            names = [f"score_{center}" for center in range(self.all_scores)]
            fields += [pa.field(name, pa.float64()) for name in names]
        elif self.all_scores:
            fields.append(pa.field("all_scores", pa.list_(pa.float64())))
        return pa.schema(fields)

    def check(self) -> None:
        """Checks that the id columns fit in.

        Raises:
            DataError: one has the name of another column, or the format cannot hold its values.
        """
        others = self.schema.names[len(self.ids) :]
        for field in self.ids:
            if field.name in others:
                raise DataError(
                    f"id column {field.name!r} has the name of a column of the predictions: "
                    "rename it in the input"
                )
            if self.output_format == "parquet":
                continue
            try:
                _plain(pa.array([], field.type))
            except pa.ArrowNotImplementedError as error:
                raise DataError(
                    f"id column {field.name!r} is {field.type}, which {self.output_format} output "
                    "cannot hold; parquet can"
                ) from error


def id_schema(path: str, columns: Columns) -> pa.Schema:
    """The id columns and their types, as reading this file gives them."""
    source = source_of(path)
    kinds = {column.name: column.type for column in source.columns(path)}
    if isinstance(source, CsvSource):
        # The text as it stands, whatever it looks like, unless it is a feature too.
        kinds = {name: pa.float64() if name in columns.numeric else pa.string() for name in kinds}
    fields = []
    for name in columns.id_columns:
        kind = kinds[name]
        fields.append(pa.field(name, kind.value_type if pa.types.is_dictionary(kind) else kind))
    return pa.schema(fields)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What is said of some rows.

    Attributes:
        ids: their id columns [n], in the layout's order.
        cluster_index: int32 [n].
        score: float64 [n].
        all_scores: float64 [n, k], None where they are not asked for.
    """

    ids: Sequence[pa.Array]
    cluster_index: npt.NDArray[np.int32]
    score: npt.NDArray[np.float64]
    all_scores: npt.NDArray[np.float64] | None = None


class Writer(Protocol):
    """Writes one part file."""

    def write(self, predictions: Predictions) -> None:
        """Appends rows.

        Raises:
            DataError: an id column is of a type that cannot become the layout's.
        """

    def close(self) -> None:
        """Writes what is left; the file itself stays open."""


@contextmanager
def open_writer(path: str, layout: Layout) -> Iterator[Writer]:
    """Opens a part file for writing: on a clean exit it is there whole, on an exception not."""
    kinds: dict[str, Callable[[BinaryIO, Layout], Writer]]
    kinds = {"parquet": _ParquetWriter, "csv": _CsvWriter, "jsonl": _JsonWriter}
    with (
        files.whole_file(path) as handle,
        closing(kinds[layout.output_format](handle, layout)) as writer,
    ):
        yield writer


class _ParquetWriter:
    """Gathers batches to row groups."""

    def __init__(self, handle: BinaryIO, layout: Layout) -> None:
        self._layout, self._schema = layout, layout.schema
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0
        self._writer = pa_parquet.ParquetWriter(
            pa.PythonFile(handle, "w"),
            self._schema,
            # Scores hardly repeat: no dictionary of them.
            use_dictionary=[*layout.ids.names, "cluster_index"],
        )

    def write(self, predictions: Predictions) -> None:
        batch = _batch(predictions, self._layout)
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._waiting, self._bytes = [], 0


class _CsvWriter:
    """Writes a header, and the rows as they come."""

    def __init__(self, handle: BinaryIO, layout: Layout) -> None:
        self._layout = layout
        fields = [field.with_type(_plain(pa.array([], field.type)).type) for field in layout.schema]
        self._schema = pa.schema(fields)
        self._writer = pa_csv.CSVWriter(pa.PythonFile(handle, "w"), self._schema)

    def write(self, predictions: Predictions) -> None:
        columns = [_plain(column) for column in _batch(predictions, self._layout).columns]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


class _JsonWriter:
    """Writes one JSON object a line, put together column by column."""

    def __init__(self, handle: BinaryIO, layout: Layout) -> None:
        self._handle, self._layout = handle, layout

    def write(self, predictions: Predictions) -> None:
        batch = _batch(predictions, self._layout)
        pieces = []
        for place, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
            pieces.append(f"{', ' if place else '{'}{json.dumps(name, ensure_ascii=False)}: ")
            pieces.append(_json_lists(column) if pa.types.is_list(column.type) else _json(column))
        lines = pc.binary_join_element_wise(*pieces, "}\n", "")
        self._handle.write("".join(lines.to_pylist()).encode())

    def close(self) -> None:
        """Nothing is left."""


def _batch(predictions: Predictions, layout: Layout) -> pa.RecordBatch:
    """The rows as a batch of the output's columns."""
    arrays = []
    for field, array in zip(layout.ids, predictions.ids, strict=True):
        try:
            arrays.append(array if array.type == field.type else array.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"id column {field.name!r} is {array.type}, which cannot become {field.type}, its "
                f"type in the first file: {error}"
            ) from error
    arrays += [pa.array(predictions.cluster_index), pa.array(predictions.score)]
    if predictions.all_scores is not None:
        rows, k = predictions.all_scores.shape
        if layout.output_format == "csv":
            arrays += [
                pa.array(column) for column in np.ascontiguousarray(predictions.all_scores.T)
            ]
        else:
            starts = pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(k))
            values = pa.array(predictions.all_scores.reshape(-1))
            arrays.append(pa.ListArray.from_arrays(starts, values))
    return pa.RecordBatch.from_arrays(arrays, schema=layout.schema)


def _plain(array: pa.Array) -> pa.Array:
    """The values as booleans, numbers or text: dates in ISO's form, bytes in hexadecimal digits.

    Raises:
        pa.ArrowNotImplementedError: lists, structures and the like.
    """
    kind = array.type
    if pa.types.is_float16(kind):
        return array.cast(pa.float32())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return array
    if any(is_kind(kind) for is_kind in _BYTES):
        return pa.array([x if x is None else x.hex() for x in array.to_pylist()], pa.string())
    return array.cast(pa.string())


def _json(array: pa.Array) -> pa.Array:
    """The JSON of each value; null also for NaN and infinities, which JSON does not have."""
    array = _plain(array)
    if pa.types.is_string(array.type):
        if pc.any(pc.match_substring_regex(array, _ESCAPED)).as_py():
            texts = array.to_pylist()
            found = [x if x is None else json.dumps(x, ensure_ascii=False) for x in texts]
            text = pa.array(found, pa.string())
        else:
            text = pc.binary_join_element_wise('"', array, '"', "")
    else:
        text = array.cast(pa.string())
        if pa.types.is_floating(array.type):
            # A whole number keeps its point, so that readers see a column of floats.
            text = pc.replace_substring_regex(text, r"^(-?[0-9]+)$", r"\1.0")
            text = pc.if_else(pc.is_finite(array), text, pa.scalar(None, pa.string()))
    return text.fill_null("null")


def _json_lists(lists: pa.ListArray) -> pa.Array:
    texts = pa.ListArray.from_arrays(lists.offsets, _json(lists.values))
    return pc.binary_join_element_wise("[", pc.binary_join(texts, ", "), "]", "")
