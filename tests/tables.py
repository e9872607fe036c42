"""The same rows as files: in every format, in any number of files."""

import gzip
import itertools
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

#: Formats of files, and what a stage has to be told of them.
FORMATS = {
    "list": {"features_column": "features"},
    "columns": {},
    "csv": {},
    "csv.gz": {},
    "npy": {},
}
SUFFIXES = {"list": "parquet", "columns": "parquet"}


def names(d):
    return [f"x{place}" for place in range(d)]


def write(folder, rows, format="list", files=1, weights=None, row_group=None):
    """Writes rows [n, d] into `files` files, and gives the pattern that they match.

    Args:
        folder: made where it is not there.
        rows: numbers [n, d].
        format: of FORMATS.
        files: how many; sizes differ, and their names sort as the rows do.
        weights: [n], as a column "w" (not for "npy").
        row_group: rows of a Parquet row group.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    suffix = SUFFIXES.get(format, format)
    cuts = [0, *sorted(_cuts(len(rows), files)), len(rows)]
    for place, (start, stop) in enumerate(itertools.pairwise(cuts)):
        own = None if weights is None else weights[start:stop]
        write_file(folder / f"part-{place:03d}.{suffix}", rows[start:stop], format, own, row_group)
    return str(folder / f"part-*.{suffix}")


def _cuts(n, files):
    return np.random.default_rng(files).choice(np.arange(1, n), files - 1, replace=False).tolist()


def write_file(path, rows, format="list", weights=None, row_group=None):
    """Writes one file of rows [n, d]."""
    rows = np.asarray(rows)
    if format == "npy":
        np.save(path, rows)
    elif format in ("csv", "csv.gz"):
        text = csv_text(rows, weights).encode()
        pathlib.Path(path).write_bytes(gzip.compress(text) if format == "csv.gz" else text)
    else:
        columns = {"features": pa.array(list(rows), pa.list_(pa.from_numpy_dtype(rows.dtype)))}
        if format == "columns":
            columns = dict(zip(names(rows.shape[1]), rows.T, strict=True))
        if weights is not None:
            columns["w"] = weights
        pq.write_table(pa.table(columns), path, row_group_size=row_group)


def csv_text(rows, weights=None):
    """CSV whose numbers parse to exactly these."""
    header, table = names(rows.shape[1]), rows.tolist()
    if weights is not None:
        header = [*header, "w"]
        table = [[*row, weight] for row, weight in zip(table, weights.tolist(), strict=True)]
    return "".join(",".join(map(str, line)) + "\n" for line in [header, *table])
