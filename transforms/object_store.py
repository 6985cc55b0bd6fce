"""What buckets have in common, for `transforms.storage`: whole files, folders and patterns, made of a store's few requests.

Beam's own filesystems don't do: each call makes a client, and with it connections, and a read takes two requests; the one for
S3 can't write an empty object, the one for Azure raises where an object is not there and does not wait for copies.

Errors are the system's own: `FileNotFoundError`, `PermissionError`, else `OSError`. What may pass, a store tries again.
"""

from __future__ import annotations

import io
import re
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import IO, Any, NamedTuple, TypeVar

import google_crc32c
from apache_beam.io.filesystem import FileSystem
from apache_beam.io.filesystemio import Downloader, DownloaderStream
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.ahead import Take, Writable, take_at_once
from transforms.records import InputError

CONNECTIONS = 64
CONNECT_SECONDS, READ_SECONDS = 10, 30
"""For a connection, and between two bytes of an answer, before a request is given up and made again."""
CHECK_CONNECT_SECONDS, CHECK_READ_SECONDS = 4, 8
"""The same, for the question whether a bucket is there at all."""
READ_BYTES = 8 << 20
MEMORY_BYTES = 16 << 20
"""What is written is kept, up to so much, in memory until it is whole, and then goes to a temporary file of this machine."""
DELETE_THREADS = 16

Client = TypeVar("Client")


class CredentialsError(OSError):
    """There are no credentials, or the store does not know them."""


class Stat(NamedTuple):
    """Of an object: its size, the tag that changes with its content, and its CRC32C where the store knows it."""

    bytes: int
    etag: str
    crc32c: int | None = None


def one_for_all(make: Callable[..., Client]) -> Callable[..., Client]:
    """A function that gives all threads of a process the same client, made by `make` of the job's options and arguments."""
    lock, cached = threading.Lock(), lru_cache(make)

    def client(*arguments: str | bool) -> Client:
        with lock:
            return cached(FileSystems._pipeline_options or _no_options(), *arguments)

    return client


@lru_cache
def _no_options() -> PipelineOptions:
    return PipelineOptions([])


class Ranges(Downloader):  # type: ignore[misc]
    """An object read by ranges, all of the same version."""

    def __init__(self, store: ObjectStore, path: str, stat: Stat) -> None:
        self.store, self.path, self.stat = store, path, stat

    @property
    def size(self) -> int:
        return self.stat.bytes

    def get_range(self, start: int, end: int) -> bytes:
        return self.store.get_range(self.path, start, end - start, self.stat.etag)


class ObjectStore(ABC):
    """A kind of bucket, which says what takes one request each. Listings are pairs of path and size, not sorted."""

    form: str
    """How its paths look: SCHEME://BUCKET/…"""
    parts: re.Pattern[str]
    """Of a path: what identifies its bucket, and the object's name."""
    bucket: str
    """What a bucket is called there."""
    credentials: str
    """Where credentials are taken from."""
    errors: tuple[type[Exception], ...]
    """What the store's library raises."""

    @abstractmethod
    def explained(self, path: str, error: Any) -> OSError:
        """One of the library's exceptions as the system's own, in a line."""

    @abstractmethod
    def _read(self, path: str, take: Take) -> bytes: ...

    @abstractmethod
    def _read_range(self, path: str, offset: int, length: int, etag: str | None) -> bytes: ...

    @abstractmethod
    def _stat(self, path: str) -> Stat: ...

    @abstractmethod
    def _put(self, path: str, content: IO[bytes]) -> None: ...

    @abstractmethod
    def _copy(self, source: str, target: str) -> None: ...

    @abstractmethod
    def _remove(self, path: str) -> None: ...

    @abstractmethod
    def _list(self, bucket: str, prefix: str, flat: bool) -> Iterator[tuple[str, int]]: ...

    @abstractmethod
    def _any(self, bucket: str, prefix: str) -> bool: ...

    @contextmanager
    def _as_system_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except self.errors as error:
            raise self.explained(path, error) from error

    def split(self, path: str) -> tuple[str, str]:
        """Bucket and name; `InputError` where a path has no bucket."""
        found = self.parts.fullmatch(path)
        if found is None:
            raise InputError(f"{path}: expected {self.form}")
        return found[1], found[2] or ""

    def check(self, path: str, only_read: bool = False) -> bool:
        """Whether anything is at a path or below, a pattern's unchanging beginning where it is one; an answer within seconds.

        Raises `InputError` where the bucket is not there, can't be reached, or refuses. Who `only_read`s objects whose names
        are known needs no permission to list them, so that a refusal says nothing.
        """
        bucket, prefix = self.split(_beginning(path))
        said = path.rstrip("/")
        try:
            with self._as_system_errors(path):
                return self._any(bucket, prefix)
        except FileNotFoundError:
            raise InputError(f"{said}: there is no {self.bucket} {bucket}") from None
        except PermissionError as error:
            if only_read:
                return True
            raise InputError(f"{said}: the {self.bucket} refuses: {error.strerror}") from error
        except CredentialsError as error:
            raise InputError(f"{said}: no access: {error.strerror}; credentials are taken from {self.credentials}") from error
        except OSError as error:
            raise InputError(f"{said}: the {self.bucket} can't be reached: {error.strerror}") from error

    def get_range(self, path: str, offset: int, length: int, etag: str | None = None) -> bytes:
        """A part of an object, by one request; if an `etag` is given, of no other version."""
        with self._as_system_errors(path):
            return self._read_range(path, offset, length, etag)

    def stat(self, path: str) -> Stat:
        """What is known of an object without reading it."""
        with self._as_system_errors(path):
            return self._stat(path)

    def read_bytes(self, path: str, take: Take = take_at_once) -> bytes:
        """A whole object, by one request."""
        with self._as_system_errors(path):
            return self._read(path, take)

    def read_range(self, path: str, offset: int, length: int, crc32c: int) -> bytes:
        """Some bytes of an object, by one request; `InputError` where they are no longer those that have the CRC32C."""
        data = self.get_range(path, offset, length) if length else b""
        if google_crc32c.value(data) != crc32c:
            raise InputError(f"{path} has changed while it was read")
        return data

    def open_read(self, path: str) -> IO[bytes]:
        """A seekable file, whose content is that of one moment."""
        return io.BufferedReader(DownloaderStream(Ranges(self, path, self.stat(path)), READ_BYTES), READ_BYTES)

    @contextmanager
    def open_write(self, path: str) -> Iterator[Writable]:
        """A new object, which is there when the block ends without an exception."""
        with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
            yield file
            file.seek(0)
            with self._as_system_errors(path):
                self._put(path, file)

    def write_bytes(self, path: str, data: bytes) -> None:
        """A whole object."""
        with self._as_system_errors(path):
            self._put(path, io.BytesIO(data))

    def move(self, source: str, target: str) -> None:
        """Copies an object, within the store, and deletes the first."""
        with self._as_system_errors(source):
            self._copy(source, target)
        self.delete([source])

    def delete(self, paths: list[str]) -> None:
        """Deletes objects; those that are gone already are no error."""

        def remove(path: str) -> None:
            with suppress(FileNotFoundError), self._as_system_errors(path):
                self._remove(path)

        if len(paths) == 1:
            remove(paths[0])
        elif paths:
            with ThreadPoolExecutor(min(DELETE_THREADS, len(paths))) as pool:
                list(pool.map(remove, paths))

    def _listing(self, path: str, flat: bool) -> Iterator[tuple[str, int]]:
        """Paths and sizes of what begins with a path. A name with a slash at its end is a console's idea of a folder."""
        bucket, prefix = self.split(path)
        root = path[: len(path) - len(prefix)]
        with self._as_system_errors(path):
            yield from ((root + name, size) for name, size in self._list(bucket, prefix, flat) if not name.endswith("/"))

    def match(self, pattern: str) -> Iterator[tuple[str, int]]:
        """Paths and sizes of the objects that one of Beam's glob patterns matches."""
        plain = _beginning(pattern)
        if plain == pattern:
            with suppress(FileNotFoundError):
                yield pattern, self.stat(pattern).bytes
            return
        wanted = re.compile(FileSystem.translate_pattern(pattern))
        yield from (found for found in self._listing(plain, flat=True) if wanted.match(found[0]))

    def list_folder(self, folder: str) -> Iterator[tuple[str, int]]:
        """Paths and sizes of the objects directly in a folder."""
        return self._listing(folder.rstrip("/") + "/", flat=False)

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True

    def size_and_crc32c(self, path: str) -> tuple[int, int]:
        """The size of an object in bytes and its CRC32C, for which it is read."""
        size, crc32c = 0, 0
        with self.open_read(path) as file:
            while piece := file.read(READ_BYTES):
                size, crc32c = size + len(piece), int(google_crc32c.extend(crc32c, piece))
        return size, crc32c


def _beginning(pattern: str) -> str:
    """A pattern up to its first special character."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0]
