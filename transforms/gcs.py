"""Objects in Google Cloud Storage (`gs://…`), for `transforms.storage`: tried again, never waited for without end, and checked.

Beam's own filesystem makes a client, and with it a connection, for each call, takes two requests to read an object, and
does not compare what it reads with the object's CRC32C. Errors are the system's own: `FileNotFoundError`, else `OSError`.
"""

from __future__ import annotations

import base64
import errno
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import IO, Any, TypeVar

import google.auth
import google_crc32c
import requests
from apache_beam.io.filesystem import FileSystem
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp.gcsio import parse_gcs_path
from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, RequestRangeNotSatisfiable, RetryError, Unauthorized
from google.api_core.retry import Retry
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Blob, Client
from google.cloud.storage.retry import DEFAULT_RETRY
from google.resumable_media import DataCorruption, InvalidResponse
from requests.structures import CaseInsensitiveDict

from transforms.ahead import Take, Writable, take_at_once, write_behind
from transforms.records import InputError

SCHEME = "gs://"
EMULATOR = "STORAGE_EMULATOR_HOST"
"""The variable by which Google's libraries are pointed at another server, which wants no credentials."""
TIMEOUT = (10.0, 30.0)
"""Seconds for a connection, and between two bytes of an answer, before a request is given up and made again."""
PATIENCE, FIRST_PAUSE, LONGEST_PAUSE = 180.0, 0.5, 20.0
"""Seconds for which one operation is tried again and again; the pauses between, of random length, double until the longest."""
CHECK_TIMEOUT, CHECK_PATIENCE = (4.0, 8.0), 15.0
"""The same, for the question whether a bucket is there at all."""
READ_BYTES = WRITE_BYTES = 8 << 20
CONNECTIONS = 64
DELETE_THREADS = 16

Result = TypeVar("Result")


class CorruptTransferError(OSError):
    """What has arrived is not what is stored."""


_passing = DEFAULT_RETRY._predicate  # the library's judgement; Beam takes it from there too


def _is_transient(error: Exception) -> bool:
    cut_off = requests.exceptions.JSONDecodeError
    tired = isinstance(error, GoogleAuthError) and error.retryable
    return tired or isinstance(error, CorruptTransferError | DataCorruption | cut_off) or bool(_passing(error))


def _retry(patience: float) -> Retry:
    return Retry(predicate=_is_transient, initial=FIRST_PAUSE, maximum=LONGEST_PAUSE, multiplier=2.0, timeout=patience)


@contextmanager
def _as_system_errors(path: str) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise FileNotFoundError(errno.ENOENT, f"there is no such object or bucket ({error.message})", path) from error
    except InvalidResponse as error:
        if error.response.status_code == 404:
            raise FileNotFoundError(errno.ENOENT, f"there is no such object or bucket ({error})", path) from error
        raise OSError(f"{path}: {error}") from error
    except (GoogleAPIError, GoogleAuthError, DataCorruption, requests.RequestException) as error:
        raise OSError(f"{path}: {error}") from error


def _persist(path: str, attempt: Callable[[], Result], patience: float | None = None) -> Result:
    """What an attempt gives, which is made again after a fault that may pass."""
    with _as_system_errors(path):
        result: Result = _retry(patience or PATIENCE)(attempt)()
    return result


# ----------------------------------------------------------------------------------------------------------- the client


_anonymous = False
_making_the_client = threading.Lock()


@lru_cache
def _client(emulator: str | None) -> Client:
    beam = FileSystems.get_filesystem(SCHEME)  # which knows the job's options, on workers too
    client = Client.create_anonymous_client() if emulator or _anonymous else beam._gcsIO().client
    adapter = requests.adapters.HTTPAdapter(pool_maxsize=CONNECTIONS)
    session = client._http
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)  # with the default of ten connections, more threads would open new ones
    # What requests would look for in the environment anew for each request, a quarter of its time.
    found = session.merge_environment_settings(client._connection.API_BASE_URL, {}, None, None, None)
    session.proxies, session.verify, session.trust_env = found["proxies"], found["verify"], False
    session.hooks["response"].append(_make_room)
    session.request = _short_way(session, adapter)
    return client


def _short_way(session: AuthorizedSession, adapter: requests.adapters.HTTPAdapter) -> Callable[..., requests.Response]:
    """The session's `request`, but downloads skip what `requests` prepares for each: a quarter of a read's processor time."""
    ordinary: Callable[..., requests.Response] = session.request

    def request(method: str, url: str, **asked: Any) -> requests.Response:
        if method != "GET" or not asked.get("stream"):
            return ordinary(method, url, **asked)
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url, prepared.headers = method, url, CaseInsensitiveDict(asked.get("headers") or {})
        session.credentials.before_request(session._auth_request, method, url, prepared.headers)
        response = adapter.send(prepared, True, asked.get("timeout"), session.verify, session.cert, session.proxies)
        if response.is_redirect or response.status_code == Unauthorized.code:
            response.close()
            return ordinary(method, url, **asked)  # which follows, or has the credentials refreshed
        _make_room(response)
        return response

    return request


def client() -> Client:
    """The client of this process, with the credentials that Beam finds; threads share it and its connections."""
    with _making_the_client:
        return _client(os.environ.get(EMULATOR))


def _blob(path: str) -> Blob:
    bucket, name = parse_gcs_path(path)
    return client().bucket(bucket).blob(name)


def check(path: str, only_read: bool = False) -> bool:
    """Whether anything is at a path or below, a glob pattern's unchanging beginning where it is one; an answer within seconds.

    Raises `InputError` where the bucket is not there, can't be reached, or refuses. Who `only_read`s objects whose names are
    known needs no permission to list them, so that a refusal says nothing.
    """
    global _anonymous
    if not re.fullmatch(r"gs://[^/]+(/.*)?", path, re.DOTALL):
        raise InputError(f"{path}: expected gs://BUCKET/…")
    said = path.rstrip("/")
    bucket, _, prefix = _beginning(path).removeprefix(SCHEME).partition("/")
    advice = ""
    if not os.environ.get(EMULATOR):
        try:
            google.auth.default()
        except DefaultCredentialsError:  # Beam would look for them for half a minute, in vain
            _anonymous, advice = True, "; there are no Google credentials here: gcloud auth application-default login"
        except GoogleAuthError as error:
            raise InputError(f"{said}: the Google credentials can't be used: {error}") from error

    def attempt() -> bool:
        return any(True for _ in client().list_blobs(bucket, prefix=prefix, max_results=1, retry=None, timeout=CHECK_TIMEOUT))

    try:
        return _persist(path, attempt, CHECK_PATIENCE)
    except FileNotFoundError:
        raise InputError(f"{said}: there is no bucket {bucket}") from None
    except OSError as error:
        cause = error.__cause__
        if isinstance(cause, Forbidden | Unauthorized):
            if only_read:
                return True
            raise InputError(f"{said}: the bucket refuses: {cause.message}{advice}") from error
        if isinstance(cause, RetryError):
            cause = cause.cause
        raise InputError(f"{said}: the bucket can't be reached: {cause}{advice}") from error


# -------------------------------------------------------------------------------------------------------------- reading


def _checked(path: str, data: bytes, expected: int | None) -> bytes:
    found = google_crc32c.value(data)
    if found != expected:
        stored = "none" if expected is None else f"{expected:08x}"
        raise CorruptTransferError(f"{path}: {len(data)} bytes with the CRC32C {found:08x} arrived, expected {stored}")
    return data


def _crc32c_of(blob: Blob) -> int | None:
    return int.from_bytes(base64.b64decode(blob.crc32c), "big") if blob.crc32c else None


_reading = threading.local()  # `take`: what the thread's read has to ask for room, once it is known how much


def _make_room(response: requests.Response, **_: Any) -> None:
    """Called when an answer has begun, and its body still is on the connection."""
    take = getattr(_reading, "take", None)
    if take is not None and response.ok:
        _reading.take = None
        take(int(response.headers.get("Content-Length") or 0))


def read_bytes(path: str, take: Take = take_at_once) -> bytes:
    """A whole object, by one request, compared with its CRC32C."""
    _reading.take = take

    def attempt() -> bytes:
        blob, arrived = _blob(path), io.BytesIO()
        blob.download_to_file(arrived, raw_download=True, checksum=None, retry=None, timeout=TIMEOUT, single_shot_download=True)
        return _checked(path, arrived.getvalue(), _crc32c_of(blob))  # which came along in a header

    try:
        return _persist(path, attempt)
    except OSError:
        if _reading.take is not None:
            raise
        return _persist(path, attempt)  # with new patience: the first may have gone by while the read waited for room
    finally:
        _reading.take = None


def read_range(path: str, offset: int, length: int, crc32c: int) -> bytes:
    """Some bytes of an object, by one request, compared with their CRC32C; `InputError` where the object has others now."""
    if not length:
        return b""
    wrong: set[bytes] = set()

    def attempt() -> bytes:
        try:
            data = _download(_blob(path), offset, length)
        except RequestRangeNotSatisfiable:
            data = b""
        if google_crc32c.value(data) != crc32c and (not data or data in wrong):  # the same twice is no accident
            raise InputError(f"{path} has changed while it was read")
        wrong.add(data)
        return _checked(path, data, crc32c)

    return _persist(path, attempt)


def _download(blob: Blob, offset: int, length: int) -> bytes:
    data: bytes = blob.download_as_bytes(
        start=offset, end=offset + length - 1, raw_download=True, checksum=None, retry=None, timeout=TIMEOUT
    )
    return data


def _metadata(path: str) -> Blob:
    blob = _blob(path)
    _persist(path, lambda: blob.reload(retry=None, timeout=TIMEOUT))
    return blob


class _Reader(io.RawIOBase):
    """An object read by ranges. Who reads it from its beginning to its end has read what is stored, or gets an error."""

    def __init__(self, path: str, blob: Blob) -> None:
        self.path, self.size, self.expected = path, int(blob.size or 0), _crc32c_of(blob)
        # A name may get other content while it is read; a generation does not.
        self.blob = client().bucket(blob.bucket.name).blob(blob.name, generation=blob.generation)
        self.position = self.checked = self.crc32c = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence])
        return self.position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), READ_BYTES, self.size - self.position)
        if length <= 0:
            return 0

        def attempt() -> bytes:
            data = _download(self.blob, self.position, length)
            if len(data) != length:
                raise CorruptTransferError(f"{self.path}: {len(data)} bytes arrived from {self.position} on, expected {length}")
            return data

        data = _persist(self.path, attempt)
        buffer[:length] = data
        if self.position == self.checked:
            self.crc32c = google_crc32c.extend(self.crc32c, data)
            self.checked += length
            if self.checked == self.size and self.crc32c != self.expected:
                raise CorruptTransferError(f"{self.path}: what was read has the CRC32C {self.crc32c:08x}, not that of the object")
        self.position += length
        return length


def open_read(path: str) -> IO[bytes]:
    """A seekable file; its content is checked if it is small, or read from its beginning to its end."""
    blob = _metadata(path)
    if int(blob.size or 0) <= READ_BYTES:
        return io.BytesIO(read_bytes(path))
    return io.BufferedReader(_Reader(path, blob), READ_BYTES)


# -------------------------------------------------------------------------------------------------------------- writing


@contextmanager
def open_write(path: str) -> Iterator[Writable]:
    """A new object, uploaded a piece at a time; it is there, its CRC32C compared, when the block ends without an exception."""
    with _as_system_errors(path):
        file = _blob(path).open(
            "wb",
            chunk_size=WRITE_BYTES,
            content_type="application/octet-stream",
            checksum="crc32c",
            retry=_retry(PATIENCE),
            timeout=TIMEOUT,
        )
        with file, write_behind(file, WRITE_BYTES) as behind:
            yield behind


def write_bytes(path: str, data: bytes) -> None:
    """A whole object, by one request."""

    def attempt() -> None:
        _blob(path).upload_from_string(
            data, content_type="application/octet-stream", checksum="crc32c", retry=None, timeout=TIMEOUT
        )

    _persist(path, attempt)


def move(source: str, target: str) -> None:
    """Copies an object and deletes the first; either step may have been done by an attempt whose answer was lost."""
    origin, copy = _blob(source), _blob(target)
    token: str | None = None

    def step() -> str | None:
        token_after, _, _ = copy.rewrite(origin, token=token, retry=None, timeout=TIMEOUT)
        return token_after  # type: ignore[no-any-return]

    while token := _persist(source, step):
        pass
    delete([source])


def delete(paths: list[str]) -> None:
    """Deletes objects; those that are gone already are no error."""

    def remove(path: str) -> None:
        with suppress(FileNotFoundError):
            _persist(path, lambda: _blob(path).delete(retry=None, timeout=TIMEOUT))

    if len(paths) == 1:
        remove(paths[0])
    elif paths:
        with ThreadPoolExecutor(min(DELETE_THREADS, len(paths))) as pool:
            list(pool.map(remove, paths))


# ------------------------------------------------------------------------------------------------------------- listings


def _listing(bucket: str, prefix: str, delimiter: str | None = None) -> Iterator[tuple[str, int]]:
    """Paths and sizes, a page at a time. A name with a slash at its end is a console's idea of a folder."""
    token: str | None = None
    while True:

        def page(token: str | None = token) -> tuple[list[Blob], str | None]:
            found = client().list_blobs(
                bucket,
                prefix=prefix,
                delimiter=delimiter,
                page_token=token,
                fields="items(name,size),prefixes,nextPageToken",
                retry=None,
                timeout=TIMEOUT,
            )
            return list(next(found.pages, ())), found.next_page_token

        blobs, token = _persist(f"{SCHEME}{bucket}/{prefix}", page)
        yield from ((f"{SCHEME}{bucket}/{blob.name}", int(blob.size)) for blob in blobs if not blob.name.endswith("/"))
        if not token:
            return


def _beginning(pattern: str) -> str:
    """A pattern up to its first special character."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0]


def match(pattern: str) -> Iterator[tuple[str, int]]:
    """Paths and sizes of the objects that one of Beam's glob patterns matches."""
    wanted = re.compile(FileSystem.translate_pattern(pattern))
    plain = _beginning(pattern)
    if plain == pattern:
        with suppress(FileNotFoundError):
            yield pattern, int(_metadata(pattern).size or 0)
        return
    bucket, prefix = parse_gcs_path(plain, object_optional=True)
    yield from (found for found in _listing(bucket, prefix) if wanted.match(found[0]))


def list_folder(folder: str) -> Iterator[tuple[str, int]]:
    """Paths and sizes of the objects directly in a folder."""
    bucket, prefix = parse_gcs_path(folder.rstrip("/") + "/", object_optional=True)
    yield from _listing(bucket, prefix, "/")


def exists(path: str) -> bool:
    """Whether there is such an object."""
    try:
        _metadata(path)
    except FileNotFoundError:
        return False
    return True


def size_and_crc32c(path: str) -> tuple[int, int]:
    """The size of an object in bytes and its CRC32C, as the bucket has them."""
    blob = _metadata(path)
    known = _crc32c_of(blob)
    if known is None:
        raise OSError(f"{path}: the bucket says nothing of its CRC32C")
    return int(blob.size or 0), known
