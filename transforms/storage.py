"""Reading and writing, so that a folder and a bucket are the same to every step.

What is on `gs://`, `s3://` and `azfs://` goes through `transforms.gcs`, `s3` and `azure`, all else through Beam's filesystems.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, NamedTuple, TypeVar

import google_crc32c
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.ahead import Take, Writable, take_at_once
from transforms.gcs import Gcs
from transforms.object_store import ObjectStore
from transforms.records import InputError

Result = TypeVar("Result")


class StoredFile(NamedTuple):
    """A file as a listing gives it."""

    path: str
    bytes: int


def is_local(path: str) -> bool:
    """Whether a path is one of this machine's file system."""
    return FileSystems.get_scheme(path) is None


_BUFFER_BYTES = 1 << 20
"""Of a local file that is written: six records of 170 KB take one call of the system, and not twelve."""
EXTRAS = {"s3": "aws", "azfs": "azure"}
"""By scheme, the extra of ours that has what it needs."""


@lru_cache
def _store(scheme: str | None) -> ObjectStore | None:
    if scheme == "gs":
        return Gcs()
    if scheme == "s3":
        from transforms.s3 import S3

        return S3()
    if scheme == "azfs":
        from transforms.azure import Azure

        return Azure()
    return None


def _store_of(path: str) -> ObjectStore | None:
    """The store that a path is in; None for this machine's file system, and for others that are left to Beam.

    Raises `InputError` where what it needs is not installed.
    """
    scheme = FileSystems.get_scheme(path)
    try:
        return _store(scheme)
    except ModuleNotFoundError as error:
        install = f"pip install 'maskbeam[{EXTRAS[str(scheme)]}]'"
        raise InputError(f"{path}: what reads and writes {scheme}:// is not installed: {install}") from error


def join(folder: str, *names: str) -> str:
    """A path below a folder, with the separators of the folder's filesystem."""
    return os.path.join(folder, *names) if is_local(folder) else str(FileSystems.join(folder, *names))


def open_read(path: str) -> IO[bytes]:
    """A binary, seekable file, its bytes as they are stored."""
    if store := _store_of(path):
        return store.open_read(path)
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)  # type: ignore[no-any-return]


@contextmanager
def open_write(path: str) -> Iterator[Writable]:
    """A new file. It may be there, in part, before the block ends: write under a temporary name, then `move`."""
    if store := _store_of(path):
        with store.open_write(path) as file:
            yield file
        return
    if is_local(path):
        with open(path, "wb", _BUFFER_BYTES) as local:  # Beam would make the folder, if it has been taken away from a job
            yield local
        return
    file = FileSystems.create(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)
    with file:
        yield file


def write_bytes(path: str, data: bytes) -> None:
    """Writes a whole file."""
    if store := _store_of(path):
        store.write_bytes(path, data)
        return
    with open_write(path) as file:
        file.write(data)


def read_bytes(path: str, take: Take = take_at_once) -> bytes:
    """Reads a whole file, as `take` has room for it; `is_missing` says of what this raises whether there is none."""
    if store := _store_of(path):
        return store.read_bytes(path, take)
    if is_local(path):
        return _read_local(path, take)
    with open_read(path) as file:
        return file.read()


def _read_local(path: str, take: Take) -> bytes:
    """By four calls of the system, where `open` makes nine: at each of them, a thread may have to wait for its turn."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(file).st_size
        take(size)
        data = os.read(file, size + 1)
        if len(data) == size:
            return data
        pieces = [data]
        while pieces[-1]:  # it grows, or had more than one call reads
            pieces.append(os.read(file, 1 << 20))
        return b"".join(pieces)
    finally:
        os.close(file)


def read_part(path: str, offset: int, length: int) -> bytes:
    """Some bytes of a file, by one request. In a folder, there may be fewer; a bucket raises where it has not so many."""
    if store := _store_of(path):
        return store.get_range(path, offset, length)
    with open_read(path) as file:
        file.seek(offset)
        return file.read(length)


def read_range(path: str, offset: int, length: int, crc32c: int) -> bytes:
    """Some bytes of a file. Raises `InputError` where they are no longer those that have the CRC32C."""
    if store := _store_of(path):
        return store.read_range(path, offset, length, crc32c)
    data = read_part(path, offset, length)
    if google_crc32c.value(data) != crc32c:
        raise InputError(f"{path} has changed while it was read")
    return data


def is_missing(error: BaseException) -> bool:
    """Whether an exception of a read says that there is no such file."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return True
    details = getattr(error, "exception_details", None) or {}
    return any(isinstance(detail, BaseException) and is_missing(detail) for detail in details.values())


def if_there(read: Callable[[str], Result], path: str) -> Result | None:
    """What a function gives of a file, or None where there is no such file."""
    try:
        return read(path)
    except Exception as error:
        if is_missing(error):
            return None
        raise


def quoted(path: str) -> str:
    """A pattern that only this path matches. Beam has no escape, but a set of one character is one."""
    return re.sub(r"([*?[])", r"[\1]", path)


def match(pattern: str) -> list[StoredFile]:
    """The files that a glob pattern matches, sorted by path; or the one that is named just like it, brackets and all."""
    if quoted(pattern) != pattern and exists(pattern):
        pattern = quoted(pattern)
    if store := _store_of(pattern):
        return sorted(StoredFile(*file) for file in store.match(pattern))
    here = "" if "/" in pattern or "\\" in pattern else "./"  # Beam finds nothing for a pattern without a folder
    found = FileSystems.match([here + pattern])[0].metadata_list
    return sorted(StoredFile(file.path.removeprefix(here), file.size_in_bytes) for file in found)


def name_of(path: str) -> str:
    """The last part of a path."""
    return str(FileSystems.split(path)[1])


def folder_of(path: str) -> str:
    """All but the last part of a path."""
    return os.path.dirname(path) if is_local(path) else str(FileSystems.split(path)[0])  # Beam would make it absolute


def is_pattern(path: str) -> bool:
    """Whether a path has a character that makes it a pattern."""
    return bool(set(path) & set("*?["))


def is_folder(path: str) -> bool:
    """Whether a path is that of a folder; of a bucket, whether it ends in / or there is no object with just that name."""
    if is_local(path):
        return os.path.isdir(path)
    return path.endswith("/") or not (is_pattern(path) or exists(path))


def list_folder(folder: str) -> list[StoredFile]:
    """The files directly in a folder; none where there is no such folder. Folders are not listed."""
    if store := _store_of(folder):
        try:
            return sorted(StoredFile(*file) for file in store.list_folder(folder))
        except FileNotFoundError:
            return []
    try:
        # Beam's * does not match a backslash, and its ** no line feed.
        found = sorted({*match(join(quoted(folder), "*")), *match(join(quoted(folder), "**"))})
    except BeamIOError as error:
        if is_missing(error):
            return []
        raise
    prefix = join(folder, "")
    return [file for file in found if "/" not in file.path.removeprefix(prefix)]


def list_below(folder: str) -> list[StoredFile]:
    """The files in a folder and in those below it."""
    return match(join(quoted(folder), "**"))


def exists(path: str) -> bool:
    """Whether there is such a file."""
    if store := _store_of(path):
        return store.exists(path)
    return bool(FileSystems.exists(path))


def move(source: str, target: str) -> None:
    """Gives a file its final name, replacing what has it."""
    if store := _store_of(source):
        store.move(source, target)
    else:
        FileSystems.rename([source], [target])


def size_and_crc32c(path: str) -> tuple[int, int]:
    """The size of a file in bytes and its CRC32C, as it is stored; Google's buckets know them without the file being read."""
    if store := _store_of(path):
        return store.size_and_crc32c(path)
    size, crc32c = 0, 0
    with open_read(path) as file:
        while piece := file.read(1 << 20):
            size, crc32c = size + len(piece), crc32c_of(piece, crc32c)
    return size, crc32c


def crc32c_of(data: bytes, before: int = 0) -> int:
    """The CRC32C of bytes, or of those with this CRC32C before them and these."""
    return int(google_crc32c.extend(before, data))


def check(path: str, only_read: bool = False) -> bool:
    """Raises `InputError`, soon, where a bucket is not there or gives no access; False if nothing in it begins with the path.

    Of other storage nothing is asked.
    """
    store = _store_of(path)
    return store.check(path, only_read) if store else True


def make_folder(folder: str) -> None:
    """Makes sure of a folder where the filesystem has any."""
    if not _store_of(folder) and not exists(folder):
        try:
            FileSystems.mkdirs(folder)
        except OSError:
            if not exists(folder):  # another worker may have been faster
                raise


def delete(paths: list[str]) -> None:
    """Deletes files that are there, and nothing else, whatever characters their names have."""
    store = _store_of(paths[0]) if paths else None
    if store:
        store.delete(paths)
    elif paths:
        FileSystems.delete([quoted(path) for path in paths])
