"""States of an initialisation in the work directory: committed after each pass and each look-up.

As all that a run commits they are named by what they hold and written once, their JSON last. Arrays
that a pass did not change, and rows that were looked up before, stay in the files that they are in.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from beam_kmeans.checkpoint import FORMAT_VERSION, FileRef, LastTwo, WorkDir
from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.manifest import read_json, write_json
from beam_kmeans.seeding.state import Facts, Seeding

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SeedingCommit:
    """A committed state of an initialisation: `Seeding`, with files in place of arrays.

    Attributes:
        path: of its JSON, relative to the work directory; it carries a hash of the rest.
        facts: as `Seeding`.
        passes: as `Seeding`.
        lookups: as `Seeding`.
        notes: as `Seeding`, and as JSON gives them back.
        warnings: as `Seeding`.
        candidates: rows that were looked up so far.
        arrays: as `Seeding`.
        rows: as `Seeding`; each look-up has added its files.
        drawn: numbers of the rows that are to be looked up next; None where there are none.
        centers: where the initialisation has ended; one file a range of them.
    """

    path: str
    facts: Facts
    passes: int
    lookups: int
    notes: Mapping[str, Any]
    warnings: tuple[str, ...]
    candidates: int
    arrays: Mapping[str, FileRef]
    rows: tuple[FileRef, ...]
    drawn: FileRef | None
    centers: tuple[FileRef, ...] | None


def save_seeding(
    work: WorkDir,
    state: Seeding,
    rows: Sequence[FileRef] = (),
    before: SeedingCommit | None = None,
) -> SeedingCommit:
    """Commits a state.

    Args:
        work: the work directory.
        state: to be committed.
        rows: the files of its rows.
        before: the commit that it follows, whose files are used again.
    """
    folder = f"seeding/pass={state.passes:02d}"
    known = dict(before.arrays) if before else {}
    old = prepared_seeding(work, before).arrays if before else {}
    commit = SeedingCommit(
        path="",
        facts=state.facts,
        passes=state.passes,
        lookups=state.lookups,
        notes=json.loads(json.dumps(dict(state.notes))),
        warnings=tuple(state.warnings),
        candidates=0 if state.rows is None else len(state.rows),
        arrays={
            name: known[name]
            if name in known and old.get(name) is array
            else work.save_array(folder, name, array)
            for name, array in sorted(state.arrays.items())
        },
        rows=tuple(rows),
        drawn=None if state.wanted is None else work.save_array(folder, "drawn", state.wanted),
        centers=None if state.centers is None else work.save_given(state.centers),
    )
    fields = _to_json(commit)
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]
    path = f"{folder}/{_kind(commit)}-{digest}.json"
    write_json(files.join(work.path, path), fields, FORMAT_VERSION)
    return dataclasses.replace(commit, path=path)


def load_seeding(work: WorkDir, path: str) -> SeedingCommit:
    """Reads a commit, whose path is relative to the work directory.

    Raises:
        DataError: it is damaged, foreign or newer.
    """
    whole = files.join(work.path, path)
    fields = read_json(whole, "a committed state of an initialisation", FORMAT_VERSION)
    try:
        return SeedingCommit(
            path=path,
            facts=Facts(**{**fields["facts"], "means": tuple(fields["facts"]["means"])}),
            passes=fields["passes"],
            lookups=fields["lookups"],
            notes=fields["notes"],
            warnings=tuple(fields["warnings"]),
            candidates=fields["candidates"],
            arrays={name: FileRef(**ref) for name, ref in fields["arrays"].items()},
            rows=tuple(FileRef(**ref) for ref in fields["rows"]),
            drawn=fields["drawn"] and FileRef(**fields["drawn"]),
            centers=fields["centers"] and tuple(FileRef(**ref) for ref in fields["centers"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{whole} is not a committed state of an initialisation: {error!r}"
        ) from error


def last_seeding(work: WorkDir, whole: bool = False) -> SeedingCommit | None:
    """The commit of an initialisation that went furthest; None where there is none.

    Args:
        work: the work directory.
        whole: whether to pass over a commit of which a file is missing or damaged, as the one
            before it makes that file again.
    """
    found = [
        path
        for path in files.list_files(work.pattern("seeding/pass=*/*.json"))
        if _COMMIT.search(path)
    ]
    for path in sorted(found, key=_order, reverse=True):
        try:
            commit = load_seeding(work, "/".join(path.replace("\\", "/").split("/")[-3:]))
            for ref in _files_of(commit) if whole else ():
                work.load_array(ref)
            return commit
        except DataError as error:
            _log.warning("Passed over, as if it had not been written: %s", error)
    return None


def _files_of(commit: SeedingCommit) -> Iterator[FileRef]:
    yield from commit.rows
    yield from commit.arrays.values()
    yield from commit.centers or ()
    if commit.drawn is not None:
        yield commit.drawn


_PREPARED: LastTwo[tuple[str, str], Seeding] = LastTwo()


def prepared_seeding(work: WorkDir, commit: SeedingCommit) -> Seeding:
    """The state of a commit: loaded once a process.

    Raises:
        DataError: a file that it names is missing or damaged.
    """
    return _PREPARED.get((work.path, commit.path), lambda: _load(work, commit))


def _load(work: WorkDir, commit: SeedingCommit) -> Seeding:
    rows = [work.load_array(ref) for ref in commit.rows]
    return Seeding(
        facts=commit.facts,
        passes=commit.passes,
        lookups=commit.lookups,
        notes=commit.notes,
        arrays={name: work.load_array(ref) for name, ref in commit.arrays.items()},
        rows=np.concatenate(rows) if rows else None,
        wanted=None if commit.drawn is None else work.load_array(commit.drawn),
        centers=None if commit.centers is None else work.load_centers(commit.centers),
        warnings=commit.warnings,
    )


def _to_json(commit: SeedingCommit) -> dict[str, Any]:
    fields = dataclasses.asdict(commit)
    del fields["path"]
    return fields


_KINDS = ("drawn", "state", "finished")
_COMMIT = re.compile(r"/seeding/pass=(\d+)/(drawn|state|finished)-[0-9a-f]{16}\.json$")


def _kind(commit: SeedingCommit) -> str:
    if commit.centers is not None:
        return "finished"
    return "state" if commit.drawn is None else "drawn"


def _order(path: str) -> tuple[int, int, str]:
    found = _COMMIT.search(path)
    if found is None:
        raise ValueError(path)
    return int(found.group(1)), _KINDS.index(found.group(2)), path
