"""CSV files with a header, plain or gzipped: a split is a whole file, read in blocks of lines."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from beam_kmeans.errors import DataError
from beam_kmeans.io.files import SourceFile, local_path, open_read
from beam_kmeans.io.sources import Chunk, Column, Split, check_names, naming

#: Which columns are numeric is read off this many bytes (after decompression) of the first file.
HEAD_BYTES = 1 << 20

# Lines are parsed in blocks of this size, which no line may pass.
_BLOCK_BYTES = 1 << 20
# What stands for a missing value. "nan" is none of them: it is a number that is NaN.
_NULLS = ("", "NA", "N/A", "#N/A", "NULL", "null", "None")
_BLANKS = " \t"
_NUMBER = r"^[ \t]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t]*$"


class CsvSource:
    """Reads CSV. Blank lines are no rows; quoted fields may hold line ends."""

    suffixes: tuple[str, ...] = (".csv", ".csv.gz")

    def columns(self, path: str) -> list[Column]:
        """Returns the columns and the types of their values in the first `HEAD_BYTES`."""
        with naming(path):
            head = _head(path)
            _names(path, head)
            table = pa_csv.read_csv(
                pa.BufferReader(head.data),
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(head.data)),
                parse_options=_parse_options(),
                convert_options=pa_csv.ConvertOptions(null_values=_NULLS, strings_can_be_null=True),
            )
            return [
                Column(name, column.type, _some_numbers(column))
                for name, column in zip(table.column_names, table.columns, strict=True)
            ]

    def splits(self, file_index: int, file: SourceFile, row_width: int) -> list[Split]:
        """Returns the whole file as one split."""
        return [Split(file_index, 0, file.path, 0, -1, file.size)]

    def read(
        self, split: Split, columns: Sequence[str], numeric: Collection[str]
    ) -> Iterator[Chunk]:
        """Yields the named columns, float64 for those in `numeric`, else text.

        Text, because a column's type would be inferred block by block and file by file, and "007"
        would be 7 in one place and "007" in another.
        """
        with naming(split.path):
            head = _head(split.path)
            check_names(split.path, _names(split.path, head), columns)
        reading = _Reading(split.path, head, list(columns), frozenset(numeric))
        try:
            yield from reading.fast()
        except _NotANumber:
            yield from reading.careful()
        yield from reading.last()


class _NotANumber(Exception):
    """A value of a block does not parse; pyarrow does not say in which row."""


@dataclass(frozen=True)
class _Head:
    """The first lines of a file, ending with a line end; `whole`: it has no others."""

    data: bytes
    whole: bool


class _Reading:
    """One way through a file: its columns, and the numbers of the rows given out so far."""

    def __init__(self, path: str, head: _Head, columns: list[str], numeric: frozenset[str]) -> None:
        self._path, self._head, self._columns, self._numeric = path, head, columns, numeric
        self._rows = 0  # rows given out, rejected ones included
        self._parsed = 0  # of these, the ones that pyarrow gave as rows
        self._ragged: list[tuple[int, str]] = []  # rejected by pyarrow, not yet given out

    def fast(self) -> Iterator[Chunk]:
        """Yields chunks until a value does not parse."""
        for batch in self._batches(pa.float64()):
            yield self._chunk(batch)

    def careful(self) -> Iterator[Chunk]:
        """Yields the chunks after those given out; values that do not parse reject their row."""
        passed = self._parsed
        self._ragged = []
        for batch in self._batches(pa.binary()):
            skipped = min(passed, batch.num_rows)
            passed -= skipped
            if skipped < batch.num_rows:
                yield self._parse(self._chunk(batch.slice(skipped)))

    def last(self) -> Iterator[Chunk]:
        """Yields what was rejected after the last row that was parsed."""
        if self._ragged:
            types = [
                pa.float64() if name in self._numeric else pa.string() for name in self._columns
            ]
            schema = pa.schema(list(zip(self._columns, types, strict=True)))
            batch = pa.RecordBatch.from_pylist([], schema=schema)
            end = self._ragged[-1][0] + 1
            yield Chunk(batch, self._rows, end - self._rows, np.empty(0, np.int64), self._ragged)

    def _batches(self, number: pa.DataType) -> Iterator[pa.RecordBatch]:
        types = {name: number if name in self._numeric else pa.string() for name in self._columns}
        options = pa_csv.ConvertOptions(
            column_types=types,
            include_columns=self._columns,
            null_values=_NULLS,
            strings_can_be_null=False,
        )
        with (
            naming(self._path),
            _reasons(self._path),
            _open(self._path, self._head) as stream,
            # Closed before its stream, which it reads ahead of what it gives.
            pa_csv.open_csv(
                stream,
                # One thread, because only then are rejected lines numbered.
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
                parse_options=_parse_options(self._reject),
                convert_options=options,
            ) as reader,
        ):
            for batch in reader:
                if batch.num_rows:
                    yield batch

    def _reject(self, line: pa_csv.InvalidRow) -> str:
        row = line.number - 2  # counted from 1, the header too, without blank lines
        if row >= self._rows:
            self._ragged.append((row, _ragged(line)))
        return "skip"

    def _chunk(self, batch: pa.RecordBatch) -> Chunk:
        """Numbers the rows of a batch: they are the next ones that were not rejected.

        The parser is ahead of the batches, so every rejected line before the batch's last row is
        known here.
        """
        first, index = self._rows, np.arange(batch.num_rows)
        rejected = np.array([row for row, _ in self._ragged], np.int64)
        rows_before = rejected - first - np.arange(len(rejected))  # parsed ones, of this batch on
        positions = first + index + np.searchsorted(rows_before, index, side="right")
        self._rows = int(positions[-1]) + 1
        self._parsed += batch.num_rows
        covered = [item for item in self._ragged if item[0] < self._rows]
        self._ragged = self._ragged[len(covered) :]
        return Chunk(batch, first, self._rows - first, positions if covered else None, covered)

    def _parse(self, chunk: Chunk) -> Chunk:
        """Parses the numeric columns of a chunk read as bytes, rejecting rows that do not parse."""
        arrays, reasons = [], dict[int, str]()
        for name, array in zip(self._columns, chunk.batch.columns, strict=True):
            if name not in self._numeric:
                arrays.append(array)
                continue
            numbers, unparsed = _numbers(array)
            arrays.append(numbers)
            for row in unparsed:
                reasons.setdefault(row, f"column {name!r} is not a number: {_shown(array[row])}")
        batch = pa.RecordBatch.from_arrays(arrays, names=self._columns)
        if not reasons:
            return replace(chunk, batch=batch)
        positions = chunk.positions
        if positions is None:
            positions = chunk.first + np.arange(batch.num_rows)
        good = np.ones(batch.num_rows, bool)
        good[list(reasons)] = False
        rejected = [(int(positions[row]), reason) for row, reason in reasons.items()]
        return replace(
            chunk,
            batch=batch.filter(pa.array(good)),
            positions=positions[good],
            rejected=sorted(chunk.rejected + rejected),
        )


def _numbers(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """Returns the float64 values of an array of bytes, and where they do not parse.

    The same parser as pyarrow's own for CSV, so the same numbers; blanks and missing values are
    handled before it as that one does.
    """
    # Not a cast, which would refuse the whole array for one byte that is not UTF-8.
    text = pc.ascii_trim(array.view(pa.string()), _BLANKS)
    missing = pc.is_in(text, value_set=pa.array(_NULLS))
    text = pc.if_else(missing, pa.scalar(None, pa.string()), text)
    pieces: list[pa.Array] = []
    unparsed: list[int] = []
    todo = [(0, len(text))]  # halved where a value does not parse, down to that value
    while todo:
        start, stop = todo.pop()
        try:
            pieces.append(text[start:stop].cast(pa.float64()))
        except pa.ArrowInvalid:
            if stop - start == 1:
                unparsed.append(start)
                pieces.append(pa.nulls(1, pa.float64()))
            else:
                middle = (start + stop) // 2
                todo += [(middle, stop), (start, middle)]
    return pa.concat_arrays(pieces), unparsed


def _some_numbers(column: pa.ChunkedArray) -> bool:
    """Returns whether a column that is not numeric may hold numbers all the same."""
    if pa.types.is_null(column.type):
        return True
    if not (pa.types.is_string(column.type) or pa.types.is_binary(column.type)):
        return False
    return bool(pc.any(pc.match_substring_regex(column, _NUMBER)).as_py())


def _shown(value: pa.Scalar) -> str:
    text = value.as_py().decode("utf-8", "replace")
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _ragged(line: pa_csv.InvalidRow) -> str:
    return f"line of {line.actual_columns} fields, expected {line.expected_columns}"


def _parse_options(
    reject: Callable[[pa_csv.InvalidRow], str] = lambda line: "skip",
) -> pa_csv.ParseOptions:
    return pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=reject)


def _names(path: str, head: _Head) -> list[str]:
    """Returns the names in a file's header, which must differ."""
    reader = pa_csv.open_csv(
        pa.BufferReader(head.data),
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(head.data)),
        parse_options=_parse_options(),
    )
    names: list[str] = reader.schema.names
    check_names(path, names, names)
    return names


def _head(path: str) -> _Head:
    with _open(path) as stream:
        data = bytearray()
        while len(data) <= HEAD_BYTES and (piece := stream.read(HEAD_BYTES + 1 - len(data))):
            data += piece
    if not data:
        raise DataError(f"{path} is empty: a CSV file has a header at least")
    if len(data) <= HEAD_BYTES:
        return _Head(bytes(data) + b"\n", whole=True)
    end = data.rfind(b"\n", 0, HEAD_BYTES) + 1
    if end == 0:
        raise DataError(f"{path} has no line end in its first {HEAD_BYTES} bytes")
    return _Head(bytes(data[:end]), whole=False)


@contextmanager
def _open(path: str, head: _Head | None = None) -> Iterator[pa.NativeFile]:
    """Opens a file's text, decompressed; a small file is its head."""
    if head is not None and head.whole:
        yield pa.BufferReader(head.data)
        return
    local = local_path(path)
    with pa.OSFile(local) if local is not None else pa.PythonFile(open_read(path), "r") as raw:
        if path.lower().endswith(".gz"):
            with pa.CompressedInputStream(raw, "gzip") as stream:
                yield stream
        else:
            yield raw


@contextmanager
def _reasons(path: str) -> Iterator[None]:
    """Tells apart what pyarrow says of a block that it cannot parse."""
    try:
        yield
    except pa.ArrowInvalid as error:
        if "conversion error to double" in str(error):
            raise _NotANumber from error
        if "straddl" in str(error):
            raise DataError(
                f"{path} has a line of more than {_BLOCK_BYTES} bytes, "
                "or a quotation mark that is never closed"
            ) from error
        raise
