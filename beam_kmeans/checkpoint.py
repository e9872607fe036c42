"""The work directory of a run: what was committed, found again, and never rewritten.

Names carry a hash of what the file holds, and what it holds is a pure function of the state before
and a pass: so a repeated bundle, a second driver or a resumed run writes the same files again. A
commit's `state-...json` or `finished-...json` is written last: what it names is there.
"""

import dataclasses
import glob
import hashlib
import io
import json
import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from beam_kmeans.config import Parameters
from beam_kmeans.distances import Centers
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState
from beam_kmeans.io import files
from beam_kmeans.io.manifest import read_json, write_json
from beam_kmeans.io.plan import StagePlan, check_same, short
from beam_kmeans.lloyd import ranges

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class FileRef:
    """An array in a file: its path relative to the work directory, and the SHA-256 of its bytes."""

    path: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Commit:
    """A committed state of a fit, and the files that belong to it.

    Attributes:
        state: where the fit stands.
        centers: the centers after `state.iteration` updates, one file a range.
        counts: int64 [k] of the centers measured last; None before the first pass.
        learned: float64 [k] of mini-batch, the counts that are carried on; None where none are.
        means: of mini-batch under cosine, the means that are carried on, one file a range.
    """

    state: FitState
    centers: tuple[FileRef, ...]
    counts: FileRef | None = None
    learned: FileRef | None = None
    means: tuple[FileRef, ...] = ()


class WorkDir:
    """A run's directory, on any Beam file system.

    Args:
        path: of the directory.
        num_clusters: k of the model.
    """

    def __init__(self, path: str, num_clusters: int) -> None:
        self.path, self.num_clusters = path, num_clusters

    @property
    def dataset(self) -> str:
        """Where the run stages its data."""
        return files.join(self.path, "dataset")

    @property
    def rejected(self) -> str:
        """Where dropped rows are listed."""
        return files.join(self.path, "rejected")

    @property
    def shuffled(self) -> str:
        """Where mini-batch keeps the shuffled copy of the data."""
        return files.join(self.path, "shuffled")

    @property
    def model(self) -> str:
        """Where the model goes if nothing else is said."""
        return files.join(self.path, "model")

    def check_config(
        self, parameters: Parameters, plan: StagePlan | None, source: dict[str, Any]
    ) -> None:
        """Writes `config.json`, or refuses a directory that belongs to another configuration.

        Args:
            parameters: of the fit.
            plan: of the stage, where the run stages its data.
            source: of the data.

        Raises:
            DataError: names the field or file that differs.
        """
        path = files.join(self.path, "config.json")
        asked = parameters.fingerprint()
        if not files.exists(path):
            states = ("iterations/*/*/*/*.json", "seeding/*/*.json", "seeding/*.json")
            if any(files.list_files(self.pattern(below)) for below in states):
                raise DataError(
                    f"{self.path} holds states of a run, but not its config.json: give another "
                    "work_dir"
                )
            if plan is not None:
                plan.save()
            whole = {"kmeans": asked, "source": source, "max_iterations": parameters.max_iterations}
            write_json(path, whole, FORMAT_VERSION)
            return
        found = read_json(path, "a run's configuration", FORMAT_VERSION)
        self._refuse_other(asked, found.get("kmeans", {}))
        before = found.get("source", {})
        if plan is not None and "dataset" not in before:
            check_same(plan, before, self.path)
        self._refuse_other(source, before)

    def _refuse_other(self, asked: dict[str, Any], found: dict[str, Any]) -> None:
        for name in {**asked, **found}:
            if asked.get(name) != found.get(name):
                raise DataError(
                    f"{self.path} belongs to a run with {name} = {short(found.get(name))}, now it "
                    f"is {short(asked.get(name))}: give another work_dir, or the same {name}"
                )

    def save_given(self, centers: npt.NDArray[np.float32]) -> tuple[FileRef, ...]:
        """Writes given initial centers, range by range."""
        parts = ranges(*centers.shape)
        return tuple(
            self.save_centers(0, centers[start:stop], place, len(parts))
            for place, (start, stop) in enumerate(parts)
        )

    def save_array(self, folder: str, name: str, array: npt.NDArray[Any], end: str = "") -> FileRef:
        """Writes an array under a name that carries its hash."""
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        path = f"{folder}/{name}-{digest[:16]}{end}.npy"
        files.write_bytes(files.join(self.path, path), buffer.getvalue())
        return FileRef(path, digest)

    def load_array(self, ref: FileRef) -> npt.NDArray[Any]:
        """Reads an array back.

        Raises:
            DataError: it is missing, or not what was written.
        """
        path = files.join(self.path, ref.path)
        try:
            data = files.read_bytes(path)
        except OSError as error:
            raise DataError(
                f"{path}, which a committed state needs, cannot be read: {error}"
            ) from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise DataError(f"{path} is damaged: its SHA-256 is not the one that was committed")
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))

    def pattern(self, below: str) -> str:
        """A pattern of files below the directory."""
        # A directory's own name may hold what a pattern takes for a wildcard.
        return files.join(glob.escape(self.path), below)

    def iteration_folder(self, iteration: int) -> str:
        """Of a commit, relative to the directory."""
        return f"iterations/{iteration:06d}/k={self.num_clusters}/restart=00"

    def save_centers(
        self, iteration: int, centers: npt.NDArray[np.float32], place: int, places: int
    ) -> FileRef:
        """Writes one range of the centers after an update."""
        end = f"-{place:05d}-of-{places:05d}"
        return self.save_array(self.iteration_folder(iteration), "centers", centers, end)

    def load_centers(self, refs: Sequence[FileRef]) -> npt.NDArray[np.float32]:
        """float32 [k, d]: the centers of a commit."""
        return np.concatenate([self.load_array(ref) for ref in refs])

    def save_commit(self, commit: Commit) -> None:
        """Writes the marker that makes a commit count; the files it names are there."""
        fields = {
            "state": commit.state.to_json(),
            "centers": [dataclasses.asdict(ref) for ref in commit.centers],
            "counts": commit.counts and dataclasses.asdict(commit.counts),
        }
        if commit.learned is not None:
            fields["learned"] = dataclasses.asdict(commit.learned)
            fields["means"] = [dataclasses.asdict(ref) for ref in commit.means]
        digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]
        name = "finished" if commit.state.finished else "state"
        folder = self.iteration_folder(commit.state.iteration)
        path = files.join(self.path, f"{folder}/{name}-{digest}.json")
        write_json(path, fields, FORMAT_VERSION)

    def load_commit(self, path: str) -> Commit:
        """Reads a commit's marker.

        Raises:
            DataError: it is damaged, foreign or newer.
        """
        fields = read_json(path, "a committed state", FORMAT_VERSION)
        try:
            return Commit(
                FitState.from_json(fields["state"]),
                tuple(FileRef(**ref) for ref in fields["centers"]),
                fields["counts"] and FileRef(**fields["counts"]),
                FileRef(**fields["learned"]) if "learned" in fields else None,
                tuple(FileRef(**ref) for ref in fields.get("means", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is not a committed state: {error!r}") from error

    def last_commit(self, max_iterations: int) -> tuple[str, Commit] | None:
        """The highest complete commit, and its path.

        A state that finished at its `max_iterations` is passed over where these were raised since,
        so that the run goes on.

        Raises:
            DataError: more iterations are done than are asked for now.
        """
        pattern = self.pattern(f"iterations/*/k={self.num_clusters}/restart=00/*.json")
        found = [path for path in files.list_files(pattern) if _COMMIT.search(path)]
        for path in sorted(found, key=_commit_order, reverse=True):
            try:
                commit = self.load_commit(path)
            except DataError as error:
                _log.warning("Passed over, as if it had not been written: %s", error)
                continue
            state = commit.state
            if state.iteration > max_iterations:
                raise DataError(
                    f"max_iterations: {state.iteration} iterations are already done in "
                    f"{self.path}; it may be raised, but not lowered to {max_iterations}"
                )
            if not state.finished or state.is_last_of(max_iterations):
                return path, commit
        return None


_COMMIT = re.compile(r"/iterations/(\d+)/[^/]+/[^/]+/(state|finished)-[0-9a-f]{16}\.json$")


def _commit_order(path: str) -> tuple[int, bool, str]:
    found = _COMMIT.search(path)
    if found is None:
        raise ValueError(path)
    return int(found.group(1)), found.group(2) == "finished", path


K = TypeVar("K")
V = TypeVar("V")


class LastTwo(Generic[K, V]):
    """The two things that were made last, kept for all threads of a process."""

    def __init__(self) -> None:
        self._kept: dict[K, V] = {}
        self._making = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """What was made for a key, or is made now."""
        with self._making:
            if key not in self._kept:
                while len(self._kept) >= 2:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = make()
            return self._kept[key]


_PREPARED: LastTwo[tuple[str, tuple[FileRef, ...], str], Centers] = LastTwo()


def prepared_centers(
    work: WorkDir, refs: tuple[FileRef, ...], distance_metric: str = "squared_euclidean"
) -> Centers:
    """The centers of a commit, ready for kernels: loaded once a process."""
    key = (work.path, refs, distance_metric)
    return _PREPARED.get(key, lambda: Centers(work.load_centers(refs), distance_metric))
