"""The plan of a stage: which files, which columns, what is done to them, and their fingerprint."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from beam_kmeans.config import checked_integer
from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.columns import Columns, resolve_columns
from beam_kmeans.io.files import SourceFile
from beam_kmeans.io.manifest import read_json, write_json
from beam_kmeans.io.shards import default_block_rows

ON_BAD_ROWS = ("error", "drop")
_PLAN_VERSION = 1


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What a stage will do, decided before its job starts; the workers read it from a file.

    Attributes:
        output: directory of the staged dataset.
        rejected: directory for what is dropped.
        files: sorted by path: their order is the order of the rows.
        columns: what of a table makes a row.
        standardize: whether values are standardized by their weighted means and deviations.
        on_bad_rows: "error" or "drop".
        block_rows: rows of a block; no result depends on it.
    """

    output: str
    rejected: str
    files: tuple[SourceFile, ...]
    columns: Columns
    standardize: bool
    on_bad_rows: str
    block_rows: int

    @functools.cached_property
    def source(self) -> dict[str, Any]:
        """All that can change a byte of the staged rows, with a fingerprint over it."""
        columns = self.columns
        listing = json.dumps([dataclasses.astuple(file) for file in self.files])
        fields: dict[str, Any] = {
            "features": list(columns.names),
            "features_column": columns.features_column,
            "weight_column": columns.weight_column,
            "standardize": self.standardize,
            "on_bad_rows": self.on_bad_rows,
            "files": len(self.files),
            "files_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        }
        fingerprint = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]
        return {**fields, "fingerprint": fingerprint}

    @property
    def workshop(self) -> str:
        """Directory below the output that belongs to this plan alone."""
        return f"staging-{self.source['fingerprint']}"

    @property
    def path(self) -> str:
        """Of the file that the workers read the plan from."""
        return files.join(self.output, self.workshop, "plan.json")

    def save(self) -> str:
        """Writes the plan for the workers, and gives its path."""
        write_json(self.path, dataclasses.asdict(self), _PLAN_VERSION)
        return self.path

    @classmethod
    def load(cls, path: str) -> StagePlan:
        """Reads a plan back.

        Raises:
            DataError: it is damaged.
        """
        fields = read_json(path, "a plan of a stage", _PLAN_VERSION)
        columns: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields["columns"].items()
        }
        return cls(
            output=fields["output"],
            rejected=fields["rejected"],
            files=tuple(SourceFile(**file) for file in fields["files"]),
            columns=Columns(**columns),
            standardize=fields["standardize"],
            on_bad_rows=fields["on_bad_rows"],
            block_rows=fields["block_rows"],
        )


def make_plan(
    input: str | Sequence[str],
    output: str,
    *,
    rejected: str | None = None,
    features: Sequence[str] | None = None,
    features_column: str | None = None,
    weight_column: str | None = None,
    standardize: bool = False,
    on_bad_rows: str = "error",
    block_rows: int | None = None,
) -> StagePlan:
    """Looks at the source and decides what a stage will do.

    Raises:
        ValueError: an argument that is not allowed.
        DataError: no file, no such column, no number.
    """
    if on_bad_rows not in ON_BAD_ROWS:
        raise ValueError(f"on_bad_rows: {on_bad_rows!r} is not allowed; allowed: 'error' or 'drop'")
    if not isinstance(standardize, (bool, np.bool_)):
        raise ValueError(f"standardize: {standardize!r} is not allowed; allowed: True or False")
    if isinstance(features, str):
        raise ValueError(f"features: a list of names is needed, found the text {features!r}")
    if block_rows is not None:
        block_rows = checked_integer("block_rows", block_rows, 1, 2**24)
    patterns = [input] if isinstance(input, (str, os.PathLike)) else list(input)
    patterns = [os.fspath(pattern) for pattern in patterns]
    output = os.fspath(output)
    files.check_directory("output", output)
    found = files.match_files(patterns)
    columns = resolve_columns(
        found, features=features, features_column=features_column, weight_column=weight_column
    )
    return StagePlan(
        output=absolute(output),
        rejected=absolute(rejected or files.join(output, "rejected")),
        files=tuple(found),
        columns=columns,
        standardize=bool(standardize),
        on_bad_rows=on_bad_rows,
        block_rows=block_rows or default_block_rows(len(columns.names)),
    )


def absolute(path: str) -> str:
    """The path as any worker understands it, whatever its working directory."""
    local = files.local_path(path)
    return path if local is None else os.path.abspath(local)


def check_same(plan: StagePlan, staged: dict[str, Any], where: str) -> None:
    """Refuses to go on with a dataset that was made from another source.

    Args:
        plan: what is asked for now.
        staged: the `source` that the existing manifest tells of.
        where: the directory of the dataset.

    Raises:
        DataError: names the field or the file that differs.
    """
    asked = plan.source
    if asked == staged:
        return
    for name in ("features", "features_column", "weight_column", "standardize", "on_bad_rows"):
        if asked[name] != staged.get(name):
            raise DataError(
                f"{where} was staged with {name} = {short(staged.get(name))}, now it is "
                f"{short(asked[name])}: give another directory, or the same {name}"
            )
    raise DataError(
        f"{where} was staged from other files: {_changed_file(plan, staged)}; "
        "give another directory, or the same files"
    )


def _changed_file(plan: StagePlan, staged: dict[str, Any]) -> str:
    name = f"staging-{staged.get('fingerprint')}"
    before = StagePlan.load(files.join(plan.output, name, "plan.json")).files
    known = {file.path: file for file in before}
    for file in plan.files:
        if file.path not in known:
            return f"{file.path} is new"
        if file != known[file.path]:
            return f"{file.path} has changed (its size or modification time)"
    gone = sorted(set(known) - {file.path for file in plan.files})
    return f"{gone[0]} is missing" if gone else "their order has changed"


def short(value: Any) -> str:
    """A value as it stands in a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
