"""Reading and writing through Beam's filesystems, so that a folder and a bucket are the same to every step."""

from __future__ import annotations

import re
import shutil
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
    """A new file. It may be there, in part, before the block ends: write under a temporary name, then `move`."""
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
    """Whether an exception of a read says that there is no such file: the system's own, or a bucket's 404."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return True
    if getattr(error, "code", None) == 404 or type(error).__name__ in ("NotFound", "ResourceNotFoundError"):
        return True
    details = getattr(error, "exception_details", None) or {}
    return any(isinstance(detail, BaseException) and is_missing(detail) for detail in details.values())


def quoted(path: str) -> str:
    """A pattern that only this path matches. Beam has no escape, but a set of one character is one."""
    return re.sub(r"([*?[])", r"[\1]", path)


def match(pattern: str) -> list[StoredFile]:
    """The files that a glob pattern matches, sorted by path; or the one that is named just like it, brackets and all."""
    if quoted(pattern) != pattern and exists(pattern):
        pattern = quoted(pattern)
    here = "" if "/" in pattern or "\\" in pattern else "./"  # Beam finds nothing for a pattern without a folder
    found = FileSystems.match([here + pattern])[0].metadata_list
    return sorted(StoredFile(file.path.removeprefix(here), file.size_in_bytes) for file in found)


def name_of(path: str) -> str:
    """The last part of a path."""
    return str(FileSystems.split(path)[1])


def list_folder(folder: str) -> list[StoredFile]:
    """The files directly in a folder; none where there is no such folder. Folders are not listed."""
    try:
        # Beam's * does not match a backslash, and its ** no line feed.
        found = sorted({*match(join(quoted(folder), "*")), *match(join(quoted(folder), "**"))})
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
    """Deletes files that are there, and nothing else, whatever characters their names have."""
    if paths:
        FileSystems.delete([quoted(path) for path in paths])


def delete_folder(folder: str) -> None:
    """Deletes a folder with all that is in it, if there is one; a bucket has none, only files with slashes in their names."""
    if FileSystems.get_scheme(folder) is None:
        shutil.rmtree(folder, ignore_errors=True)
