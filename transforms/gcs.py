"""Objects in Google Cloud Storage (`gs://…`), for `transforms.storage`: tried again, never waited for without end, and checked.

Beam's own filesystem makes a client, and with it a connection, for each call, takes two requests to read an object, and
does not compare what it reads with the object's CRC32C.
"""

from __future__ import annotations

import base64
import errno
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any, TypeVar

import google.auth
import google_crc32c
import requests
import urllib3
from apache_beam.io.filesystemio import DownloaderStream
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import GoogleAPIError, RequestRangeNotSatisfiable, RetryError, Unauthorized, from_http_response
from google.api_core.retry import Retry
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud.storage import Blob, Client
from google.cloud.storage.retry import DEFAULT_RETRY
from google.resumable_media import DataCorruption, InvalidResponse
from requests.structures import CaseInsensitiveDict

from transforms.ahead import Take, Writable, write_behind
from transforms.object_store import CredentialsError, ObjectStore, Ranges, Stat
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
_NO_CREDENTIALS = "; there are no Google credentials here: gcloud auth application-default login"

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


def _persist(attempt: Callable[[], Result], patience: float | None = None) -> Result:
    """What an attempt gives, which is made again after a fault that may pass."""
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
    return client


def client() -> Client:
    """The client of this process, with the credentials that Beam finds; threads share it and its connections."""
    with _making_the_client:
        return _client(os.environ.get(EMULATOR))


def _download(blob: Blob) -> requests.Response:
    """The answer to the request for an object as it is stored, its body still on the connection.

    What the library and `requests` prepare anew for each request would take 0.3 of a read's 0.7 ms of processor time.
    """
    session: Any = client()._http
    url: str = blob._get_download_url(client())
    headers = {"Accept-Encoding": "gzip", "User-Agent": client()._connection.user_agent}  # else it unpacks what is stored as gzip
    asked = requests.PreparedRequest()
    asked.method, asked.url, asked.headers = "GET", url, CaseInsensitiveDict(headers)
    session.credentials.before_request(session._auth_request, asked.method, url, asked.headers)
    response: requests.Response = session.get_adapter(url).send(
        asked, True, TIMEOUT, session.verify, session.cert, session.proxies
    )
    if response.is_redirect or response.status_code == Unauthorized.code:
        response.close()  # the session follows, or has the credentials refreshed
        response = session.request("GET", url, headers=headers, stream=True, timeout=TIMEOUT)
    if not response.ok:
        raise from_http_response(response)  # type: ignore[no-untyped-call]
    return response


def _find_credentials() -> None:
    global _anonymous
    try:
        google.auth.default()
    except DefaultCredentialsError:  # Beam would look for them for half a minute, in vain
        _anonymous = True
    except GoogleAuthError as error:
        raise CredentialsError(errno.EACCES, f"the Google credentials can't be used: {error}") from error


# ------------------------------------------------------------------------------------------------------ what is checked


def _checked(path: str, data: bytes, expected: int | None) -> bytes:
    found = google_crc32c.value(data)
    if found != expected:
        stored = "none" if expected is None else f"{expected:08x}"
        raise CorruptTransferError(f"{path}: {len(data)} bytes with the CRC32C {found:08x} arrived, expected {stored}")
    return data


def _crc32c_of(said: str | None) -> int | None:
    return int.from_bytes(base64.b64decode(said), "big") if said else None


class _CheckedRanges(Ranges):
    """Who reads an object from its beginning to its end has read what is stored, or gets an error."""

    checked = crc32c = 0

    def get_range(self, start: int, end: int) -> bytes:
        data = super().get_range(start, min(end, start + READ_BYTES))
        if start == self.checked:
            self.crc32c = google_crc32c.extend(self.crc32c, data)
            self.checked += len(data)
            if self.checked == self.size and self.crc32c != self.stat.crc32c:
                said = f"what was read has the CRC32C {self.crc32c:08x}, not that of the object"
                raise CorruptTransferError(f"{self.path}: {said}")
        return data


# ------------------------------------------------------------------------------------------------------------ the store


class Gcs(ObjectStore):
    """Google Cloud Storage."""

    form = "gs://BUCKET/…"
    parts = re.compile(r"gs://([^/]+)(?:/(.*))?", re.DOTALL)
    bucket = "bucket"
    credentials = "GOOGLE_APPLICATION_CREDENTIALS, or where gcloud auth application-default login leaves them"
    errors = (
        GoogleAPIError,
        GoogleAuthError,
        DataCorruption,
        InvalidResponse,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
    )

    def explained(self, path: str, error: Any) -> OSError:
        status = error.response.status_code if isinstance(error, InvalidResponse) else getattr(error, "code", None)
        said, advice = getattr(error, "message", error), _NO_CREDENTIALS if _anonymous else ""
        if status == 404:
            return FileNotFoundError(errno.ENOENT, f"there is no such object or bucket ({said})", path)
        if status in (401, 403):
            return PermissionError(errno.EACCES, f"{said}{advice}", path)
        return OSError(errno.EIO, f"{error}{advice}", path)

    def _blob(self, path: str, generation: str | None = None) -> Blob:
        bucket, name = self.split(path)
        return client().bucket(bucket).blob(name, generation=generation)

    def _any(self, bucket: str, prefix: str) -> bool:
        if not os.environ.get(EMULATOR):
            _find_credentials()

        def attempt() -> bool:
            found = client().list_blobs(bucket, prefix=prefix, max_results=1, retry=None, timeout=CHECK_TIMEOUT)
            return any(True for _ in found)

        try:
            return _persist(attempt, CHECK_PATIENCE)
        except RetryError as error:
            raise self.explained(f"{SCHEME}{bucket}", error.cause) from error

    def _stat(self, path: str) -> Stat:
        blob = self._blob(path)
        _persist(lambda: blob.reload(retry=None, timeout=TIMEOUT))
        return Stat(int(blob.size or 0), str(blob.generation), _crc32c_of(blob.crc32c))

    def _read(self, path: str, take: Take) -> bytes:
        taken = False

        def attempt() -> bytes:
            nonlocal taken
            with _download(self._blob(path)) as response:
                if not taken:
                    taken = True
                    take(int(response.headers.get("Content-Length") or 0))
                said = re.search("crc32c=([^,]+)", response.headers.get("X-Goog-Hash", ""))
                return _checked(path, response.raw.read(decode_content=False), _crc32c_of(said and said[1]))

        try:
            return _persist(attempt)
        except self.errors:
            if not taken:
                raise
            return _persist(attempt)  # with new patience: the first may have gone by while the read waited for room

    def _range(self, path: str, offset: int, length: int, generation: str | None = None) -> bytes:
        data: bytes = self._blob(path, generation).download_as_bytes(
            start=offset, end=offset + length - 1, raw_download=True, checksum=None, retry=None, timeout=TIMEOUT
        )
        return data

    def _read_range(self, path: str, offset: int, length: int, etag: str | None) -> bytes:
        def attempt() -> bytes:
            data = self._range(path, offset, length, etag)
            if len(data) != length:
                raise CorruptTransferError(f"{path}: {len(data)} bytes arrived from {offset} on, expected {length}")
            return data

        return _persist(attempt)

    def read_range(self, path: str, offset: int, length: int, crc32c: int) -> bytes:
        """Some bytes of an object, asked for again where they don't have their CRC32C; `InputError` if others come twice."""
        if not length:
            return b""
        wrong: set[bytes] = set()

        def attempt() -> bytes:
            try:
                data = self._range(path, offset, length)
            except RequestRangeNotSatisfiable:
                data = b""
            if google_crc32c.value(data) != crc32c and (not data or data in wrong):  # the same twice is no accident
                raise InputError(f"{path} has changed while it was read")
            wrong.add(data)
            return _checked(path, data, crc32c)

        with self._as_system_errors(path):
            return _persist(attempt)

    def open_read(self, path: str) -> IO[bytes]:
        """A seekable file; its content is checked if it is small, or read from its beginning to its end."""
        stat = self.stat(path)
        if stat.bytes <= READ_BYTES:
            return io.BytesIO(self.read_bytes(path))
        return io.BufferedReader(DownloaderStream(_CheckedRanges(self, path, stat), READ_BYTES), READ_BYTES)

    @contextmanager
    def open_write(self, path: str) -> Iterator[Writable]:
        """A new object, uploaded a piece at a time; it is there, its CRC32C compared, when the block ends without an error."""
        with self._as_system_errors(path):
            file = self._blob(path).open(
                "wb",
                chunk_size=WRITE_BYTES,
                content_type="application/octet-stream",
                checksum="crc32c",
                retry=_retry(PATIENCE),
                timeout=TIMEOUT,
            )
            with file, write_behind(file, WRITE_BYTES) as behind:
                yield behind

    def _put(self, path: str, content: IO[bytes]) -> None:
        data = content.read()

        def attempt() -> None:
            self._blob(path).upload_from_string(
                data, content_type="application/octet-stream", checksum="crc32c", retry=None, timeout=TIMEOUT
            )

        _persist(attempt)

    def _copy(self, source: str, target: str) -> None:
        origin, copy = self._blob(source), self._blob(target)
        token: str | None = None

        def step() -> str | None:
            token_after, _, _ = copy.rewrite(origin, token=token, retry=None, timeout=TIMEOUT)
            return token_after  # type: ignore[no-any-return]

        while token := _persist(step):
            pass

    def _remove(self, path: str) -> None:
        _persist(lambda: self._blob(path).delete(retry=None, timeout=TIMEOUT))

    def _list(self, bucket: str, prefix: str, flat: bool) -> Iterator[tuple[str, int]]:
        token: str | None = None
        while True:

            def page(token: str | None = token) -> tuple[list[Blob], str | None]:
                found = client().list_blobs(
                    bucket,
                    prefix=prefix,
                    delimiter=None if flat else "/",
                    page_token=token,
                    fields="items(name,size),prefixes,nextPageToken",
                    retry=None,
                    timeout=TIMEOUT,
                )
                return list(next(found.pages, ())), found.next_page_token

            blobs, token = _persist(page)
            yield from ((blob.name, int(blob.size)) for blob in blobs)
            if not token:
                return

    def size_and_crc32c(self, path: str) -> tuple[int, int]:
        """The size of an object in bytes and its CRC32C, as the bucket has them."""
        stat = self.stat(path)
        if stat.crc32c is None:
            raise OSError(f"{path}: the bucket says nothing of its CRC32C")
        return stat.bytes, stat.crc32c
