"""Reading and writing through Beam's filesystems, so that a folder and a bucket are the same to every step."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems


class StoredFile(NamedTuple):
    """A file as a listing gives it."""

    path: str
    bytes: int


def join(folder: str, *names: str) -> str:
    """A path below a folder, with the separators of the folder's filesystem."""
    return str(FileSystems.join(folder, *names))


def open_read(path: str) -> IO[bytes]:
    """A binary, seekable file, its bytes as they are stored."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)  # type: ignore[no-any-return]


@contextmanager
def open_write(path: str) -> Iterator[IO[bytes]]:
    """A new file; it is there once the block has ended without an exception."""
    file = FileSystems.create(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)
    with file:
        yield file


def write_bytes(path: str, data: bytes) -> None:
    """Writes a whole file."""
    with open_write(path) as file:
        file.write(data)


def read_bytes(path: str) -> bytes:
    """Reads a whole file; `is_missing` says of what this raises whether there is none."""
    with open_read(path) as file:
        return file.read()


def is_missing(error: BaseException) -> bool:
    """Whether an exception of a read says that there is no such file. Beam hides the cause of some in its message."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return True
    details = getattr(error, "exception_details", None) or {}
    return any(is_missing(detail) for detail in details.values()) or "not found" in str(error).lower()


def match(pattern: str) -> list[StoredFile]:
    """The files that a path or glob pattern matches, sorted by path."""
    found = FileSystems.match([pattern])[0].metadata_list
    return sorted(StoredFile(file.path, file.size_in_bytes) for file in found)


def list_folder(folder: str) -> list[StoredFile]:
    """The files directly in a folder; none where there is no such folder."""
    try:
        found = match(join(folder, "*"))
    except BeamIOError as error:
        if is_missing(error):
            return []
        raise
    prefix = join(folder, "")
    return [file for file in found if "/" not in file.path.removeprefix(prefix)]


def exists(path: str) -> bool:
    """Whether there is such a file."""
    return bool(FileSystems.exists(path))


def move(source: str, target: str) -> None:
    """Gives a file its final name, replacing what has it."""
    FileSystems.rename([source], [target])


def make_folder(folder: str) -> None:
    """Makes sure of a folder where the filesystem has any."""
    if not exists(folder):
        try:
            FileSystems.mkdirs(folder)
        except OSError:
            if not exists(folder):  # another worker may have been faster
                raise


def delete(paths: list[str]) -> None:
    """Deletes files and folders that are there."""
    if paths:
        FileSystems.delete(paths)


def matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the glob patterns, whatever the platform."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
