"""Side files: each row's nearest candidate so far, kept from one pass to the next.

A side file belongs to one shard and one set of candidates, and only saves work: what is missing,
damaged or of something else is measured again, to the same bytes. So anybody may remove it.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc
import xxhash

from beam_kmeans.io import files
from beam_kmeans.io.shards import ShardInfo
from beam_kmeans.seeding.state import Forgetful
from beam_kmeans.tally import Rows

_CHECKSUM = b"xxh3_64"
_MEASURED = b"measured"
_SCHEMA = pa.schema(
    [
        pa.field("score", pa.float64(), nullable=False),
        pa.field("candidate", pa.int32(), nullable=False),
    ]
)
_FORGETFUL = Forgetful()


class SideFiles:
    """The side files of a run.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path(self, shard: ShardInfo, candidates: Sequence[str]) -> str:
        """Of the file of a shard.

        Args:
            shard: whose rows they are.
            candidates: hashes of the files that hold the candidates.
        """
        name = shard.path.rsplit("/", 1)[-1].partition(".")[0]
        return files.join(
            self._folder(candidates), f"{name}-{shard.checksum[:16]}-{shard.rows}.arrow"
        )

    def _folder(self, candidates: Sequence[str]) -> str:
        return files.join(self.directory, _hash(candidates)[:16])

    @contextlib.contextmanager
    def memory(self, shard: ShardInfo, candidates: Sequence[str]) -> Iterator[SideMemory]:
        """What a pass over a shard remembers of its rows; kept on a clean exit alone.

        Args:
            shard: to be read.
            candidates: hashes of the files that hold the candidates, in their order: what an
                earlier pass has kept of the first of them is found.
        """
        with contextlib.ExitStack() as stack:
            yield SideMemory(self, shard, tuple(candidates), stack)

    def remove(self, candidates: Sequence[str]) -> None:
        """Removes the files that refer to these candidates."""
        files.remove_directory(self._folder(candidates))

    def remove_all(self) -> None:
        """Removes all files."""
        for folder in {path.rpartition("/")[0] for path in files.list_files(self._all())}:
            files.remove_directory(folder)
        if files.local_path(self.directory) is not None:
            files.remove_directory(self.directory)

    def _all(self) -> str:
        return files.join(glob.escape(self.directory), "*", "*")


class SideMemory:
    """A `Memory` in side files: reads one of an earlier pass, writes one for the next."""

    def __init__(
        self,
        side: SideFiles,
        shard: ShardInfo,
        candidates: tuple[str, ...],
        stack: contextlib.ExitStack,
    ) -> None:
        self._side, self._shard, self._candidates, self._stack = side, shard, candidates, stack
        self._salt = f"{shard.checksum} {shard.rows}"
        self._reader: Any = None
        self._key, self._opened = "", False
        self._writer: Any = None
        self._recalled = self._kept = 0

    def recall(self, part: Rows) -> tuple[int, npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        place, self._recalled = self._recalled, self._recalled + 1
        if not self._opened:
            self._opened = True
            self._open()
        with contextlib.suppress(pa.ArrowException, OSError, KeyError, ValueError, TypeError):
            if self._reader is not None and place < self._reader.num_record_batches:
                return self._read(place, len(part.rows))
        return _FORGETFUL.recall(part)

    def keep(
        self, measured: int, scores: npt.NDArray[np.float64], indices: npt.NDArray[np.int32]
    ) -> None:
        if self._writer is None:
            path = self._side.path(self._shard, self._candidates)
            handle = self._stack.enter_context(files.whole_file(path))
            sink = pa.PythonFile(handle, "w")
            self._writer = self._stack.enter_context(ipc.new_file(sink, _SCHEMA))
        scores = np.ascontiguousarray(scores, np.float64)
        indices = np.ascontiguousarray(indices, np.int32)
        key = f"{self._salt} {_hash(self._candidates)} {self._kept}"
        metadata = {
            _MEASURED: str(measured).encode(),
            _CHECKSUM: _checksum(key, measured, scores, indices),
        }
        batch = pa.record_batch([pa.array(scores), pa.array(indices)], schema=_SCHEMA)
        self._writer.write_batch(batch, custom_metadata=metadata)
        self._kept += 1

    def _open(self) -> None:
        """Opens the file that refers to the most of the candidates, if there is one."""
        for count in range(len(self._candidates), 0, -1):
            known = self._candidates[:count]
            path = self._side.path(self._shard, known)
            with contextlib.suppress(pa.ArrowException, OSError):
                source = self._stack.enter_context(_source(path))
                reader = ipc.open_file(source)
                if reader.schema == _SCHEMA:
                    self._reader, self._key = reader, f"{self._salt} {_hash(known)}"
                    return

    def _read(
        self, place: int, rows: int
    ) -> tuple[int, npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        batch, metadata = self._reader.get_batch_with_custom_metadata(place)
        measured = int(metadata[_MEASURED])
        scores = batch.column(0).to_numpy(zero_copy_only=True)
        indices = batch.column(1).to_numpy(zero_copy_only=True)
        found = metadata[_CHECKSUM]
        if found != _checksum(f"{self._key} {place}", measured, scores, indices):
            raise ValueError("damaged")
        if len(scores) != rows:
            raise ValueError("of other rows")
        return measured, scores, indices


def _source(path: str) -> Any:
    local = files.local_path(path)
    return pa.memory_map(local) if local else pa.PythonFile(files.open_read(path), "r")


def _hash(candidates: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(candidates).encode()).hexdigest()


def _checksum(
    key: str, measured: int, scores: npt.NDArray[np.float64], indices: npt.NDArray[np.int32]
) -> bytes:
    digest = xxhash.xxh3_64(f"{key} {measured} {scores.shape}".encode())
    digest.update(scores.data)
    digest.update(indices.data)
    return digest.hexdigest().encode()
