"""The plan of a prediction: which model, files and columns, and the names of what is written."""

from __future__ import annotations

import base64
import dataclasses
import glob
import hashlib
import json
import re
from typing import Any

import pyarrow as pa

from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.columns import Columns
from beam_kmeans.io.files import SourceFile
from beam_kmeans.io.manifest import read_json, write_json
from beam_kmeans.io.predictions import FORMATS, Layout

FORMAT_VERSION = 1
_PART = re.compile(rf"-[0-9]+-of-[0-9]+\.({'|'.join(FORMATS)})\Z")


@dataclasses.dataclass(frozen=True)
class PredictPlan:
    """What a prediction will do, decided before its job starts; the workers read it from a file.

    Attributes:
        output: how the names of all that is written begin.
        model: directory of the model.
        model_sha256: of its `model.json`, which holds the checksum of its centers.
        files: sorted by path: their order is the order of the rows.
        columns: what of a table makes a row.
        on_bad_rows: "error" or "drop".
        layout: of the part files.
    """

    output: str
    model: str
    model_sha256: str
    files: tuple[SourceFile, ...]
    columns: Columns
    on_bad_rows: str
    layout: Layout

    @property
    def fingerprint(self) -> str:
        """Over all that can change a byte of the predictions."""
        layout = self.layout
        fields = [
            FORMAT_VERSION,
            self.model_sha256,
            [dataclasses.astuple(file) for file in self.files],
            dataclasses.astuple(self.columns),
            self.on_bad_rows,
            [layout.output_format, layout.all_scores, [str(field) for field in layout.ids]],
        ]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]

    @property
    def workshop(self) -> str:
        """Directory of what is needed until the predictions are complete."""
        return f"{self.output}-workshop-{self.fingerprint}"

    @property
    def path(self) -> str:
        """Of the file that the workers read the plan from."""
        return files.join(self.workshop, "plan.json")

    @property
    def summary_path(self) -> str:
        """Of the summary, which is written last: the predictions are complete from then on."""
        return f"{self.output}-summary.json"

    @property
    def rejected(self) -> str:
        """Directory for what is dropped."""
        return f"{self.output}-rejected"

    def part_path(self, number: int, parts: int) -> str:
        """Of a part file; in their order they hold the rows in the order of the input."""
        return f"{self.output}-{number:05d}-of-{parts:05d}.{self.layout.output_format}"

    def marker_path(self, number: int) -> str:
        """Of the record of a part that is written."""
        return files.join(self.workshop, f"part-{number:05d}.json")

    def save(self) -> str:
        """Writes the plan for the workers, and gives its path."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["files"] = [dataclasses.asdict(file) for file in self.files]
        fields["columns"] = dataclasses.asdict(self.columns)
        ids = base64.b64encode(self.layout.ids.serialize().to_pybytes()).decode()
        fields["layout"] = [self.layout.output_format, ids, self.layout.all_scores]
        write_json(self.path, fields, FORMAT_VERSION)
        return self.path

    @classmethod
    def load(cls, path: str) -> PredictPlan:
        """Reads a plan back.

        Raises:
            DataError: it is damaged.
        """
        fields = read_json(path, "a plan of predictions", FORMAT_VERSION)
        columns: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields["columns"].items()
        }
        output_format, ids, all_scores = fields["layout"]
        return cls(
            output=fields["output"],
            model=fields["model"],
            model_sha256=fields["model_sha256"],
            files=tuple(SourceFile(**file) for file in fields["files"]),
            columns=Columns(**columns),
            on_bad_rows=fields["on_bad_rows"],
            layout=Layout(
                output_format, pa.ipc.read_schema(pa.py_buffer(base64.b64decode(ids))), all_scores
            ),
        )

    def finished(self) -> dict[str, Any] | None:
        """The summary of these very predictions where they are complete, else None.

        Raises:
            DataError: other predictions are there, or a part of some.
        """
        parts = self._parts()
        if files.exists(self.summary_path):
            fields = read_json(self.summary_path, "a summary of predictions", FORMAT_VERSION)
            if fields.get("fingerprint") != self.fingerprint:
                raise self._occupied(
                    self.summary_path, "is of another model, input or other options"
                )
            names = [self.part_path(number, fields["files"]) for number in range(fields["files"])]
            others = sorted({*parts} - {*names})
            if others:
                raise self._occupied(others[0], "is of other predictions")
            whole = [files.size_of(name) for name in names] == fields["sizes"]
            return fields if whole else None
        pattern = f"{glob.escape(self.output)}-workshop-*/plan.json"
        others = [path for path in files.list_files(pattern) if path != self.path]
        if others:
            raise self._occupied(others[0], "is of other predictions, which were not completed")
        left = [*parts, *files.list_files(files.join(glob.escape(self.rejected), "*"))]
        if left and not files.exists(self.path):
            raise self._occupied(left[0], "is of other predictions")
        return None

    def clean(self) -> None:
        """Removes what is not needed once the predictions are complete."""
        files.remove_directory(self.workshop)

    def remove(self) -> None:
        """Removes all that was written."""
        files.remove(files.list_files(glob.escape(self.summary_path)))
        files.remove(self._parts())
        files.remove_directory(self.rejected)
        self.clean()

    def _parts(self) -> list[str]:
        found = files.list_files(f"{glob.escape(self.output)}-*")
        return [path for path in found if _PART.fullmatch(path[len(self.output) :])]

    def _occupied(self, path: str, what: str) -> DataError:
        return DataError(f"{path} {what}: remove {self.output}-*, or choose another output")
