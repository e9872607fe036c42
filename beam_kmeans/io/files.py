"""Files on any file system that Beam knows: matched, read, and written whole or not at all."""

import glob
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO, cast

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_kmeans.errors import DataError

_LOCAL_SCHEME = "file://"
# A file on an object store is spooled here, in memory up to this size, until it is complete.
_SPOOL_BYTES = 16 << 20


@dataclass(frozen=True)
class SourceFile:
    """A file to read."""

    path: str  #: absolute where it is local
    size: int  #: bytes
    modified: float | None  #: seconds since the epoch, where the file system tells


def local_path(path: str) -> str | None:
    """Returns the path as the operating system knows it, None on other file systems."""
    if path.startswith(_LOCAL_SCHEME):
        return path[len(_LOCAL_SCHEME) :]
    return None if "://" in path else path


def _beam_path(path: str) -> str:
    """Beam's local file system does not know `file://`."""
    return local_path(path) or path


def check_directory(name: str, path: str) -> None:
    """Refuses a local path that cannot become a directory.

    Raises:
        ValueError: it is a file, or lies below one; names the argument.
    """
    local = local_path(path)
    while local and not os.path.lexists(local):
        local = os.path.dirname(local)
    if local and not os.path.isdir(local):
        raise ValueError(f"{name}: {local} is a file, where a directory is needed")


def match_files(patterns: Sequence[str]) -> list[SourceFile]:
    """Returns the files that the patterns match, each once, sorted by path.

    Nothing that matches is left out: a file of an unknown format is for the reader to refuse.

    Raises:
        DataError: a pattern matches nothing, names a directory, or cannot be looked up.
    """
    found: dict[str, SourceFile] = {}
    for pattern in patterns:
        matches = _match(pattern)
        if not matches:
            raise DataError(f"no file matches {pattern!r}")
        found.update((file.path, file) for file in matches)
    return [found[path] for path in sorted(found)]


def _match(pattern: str) -> list[SourceFile]:
    local = local_path(pattern)
    if local is not None and os.path.isdir(local):
        example = os.path.join(pattern, "*.parquet")
        raise DataError(f"{pattern!r} is a directory: name its files, for example {example!r}")
    beam_pattern = pattern
    if local is not None:
        # Beam finds nothing for a pattern without a directory. A name that is there is that file,
        # whatever characters it holds.
        whole = os.path.abspath(local)
        beam_pattern = glob.escape(whole) if os.path.isfile(whole) else whole
    try:
        (result,) = FileSystems.match([beam_pattern])
    except (BeamIOError, ValueError) as error:
        raise DataError(f"cannot look up {pattern!r}: {error}") from error
    return [
        SourceFile(
            # Absolute, so that workers agree and two spellings of a path are one file.
            path=match.path if local is None else os.path.abspath(match.path),
            size=int(match.size_in_bytes),
            modified=match.last_updated_in_seconds,
        )
        for match in result.metadata_list
    ]


def open_read(path: str) -> BinaryIO:
    """Opens a file for reading: seekable, its bytes as they are, never decompressed."""
    local = local_path(path)
    if local is not None:
        return open(local, "rb")
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
    """Returns the whole content of a file."""
    with open_read(path) as handle:
        return handle.read()


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file whole or not at all; makes its directory."""
    with whole_file(path) as handle:
        handle.write(data)


@contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """Opens a file for writing that is put in place on a clean exit, and never on an exception.

    A local file is written beside its place under a name that no reader takes, then renamed; an
    object store gets the whole object in one go once it is complete. Parent directories are made.
    """
    local = local_path(path)
    if local is None:
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            yield cast(BinaryIO, spool)
            spool.seek(0)
            with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as handle:
                shutil.copyfileobj(spool, handle, 1 << 20)
        return
    folder, name = os.path.split(os.path.abspath(local))
    os.makedirs(folder, exist_ok=True)
    # Two drivers may write the same file at once: the process and a random part keep them apart.
    beside = os.path.join(folder, f".{name}.{os.getpid()}-{uuid.uuid4().hex}.tmp")
    try:
        with open(beside, "xb") as handle:
            yield handle
        os.replace(beside, local)
    except BaseException:
        if os.path.exists(beside):
            os.remove(beside)
        raise


def size_of(path: str) -> int:
    """Returns the size of a file in bytes, -1 where there is none."""
    local = local_path(path)
    if local is not None:
        return os.path.getsize(local) if os.path.isfile(local) else -1
    (result,) = FileSystems.match([glob.escape(path)])
    sizes = [int(match.size_in_bytes) for match in result.metadata_list if match.path == path]
    return sizes[0] if sizes else -1


def exists(path: str) -> bool:
    """Returns whether there is a file or directory of this path."""
    return bool(FileSystems.exists(_beam_path(path)))


def list_files(pattern: str) -> list[str]:
    """Returns the paths that match, sorted, if any. Files in the making are no files."""
    local = local_path(pattern)
    if local is None:
        (result,) = FileSystems.match([pattern])
        paths = [match.path for match in result.metadata_list]
    else:
        # Beam would walk through all that lies below the first wildcard's directory.
        paths = [path for path in glob.glob(local) if os.path.isfile(path)]
    return sorted(path for path in paths if not _in_the_making(path))


def remove(paths: Sequence[str]) -> None:
    """Removes files."""
    for path in paths:
        local = local_path(path)
        if local is not None:
            # Gone already is as good.
            with suppress(FileNotFoundError):
                os.remove(local)
    remote = [path for path in paths if local_path(path) is None]
    if remote:
        FileSystems.delete(remote)


def remove_directory(path: str) -> None:
    """Removes a directory of files, with what was left in the making there."""
    local = local_path(path)
    if local is None:
        remove(list_files(join(path, "*")))
    else:
        shutil.rmtree(local, ignore_errors=True)


def _in_the_making(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.startswith(".") and name.endswith(".tmp")


def join(*parts: str) -> str:
    """Joins a directory and names below it, by the rules of their file system."""
    return FileSystems.join(_beam_path(parts[0]), *parts[1:])
