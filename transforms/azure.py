"""Blobs in Azure (`azfs://ACCOUNT/CONTAINER/…`), through azure-storage-blob, with Beam's options for Azure."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from typing import IO, Any

import requests
from apache_beam.internal.azure.auth import get_service_credentials
from apache_beam.options.pipeline_options import AzureOptions, PipelineOptions
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient, ExponentialRetry

from transforms import object_store
from transforms.ahead import Take
from transforms.object_store import ObjectStore, Stat, one_for_all
from transforms.records import InputError

CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
RETRIES, CHECK_RETRIES = 6, 1
"""How often a request is made again."""
FIRST_PAUSE, PAUSE_BASE = 1, 2
"""Seconds before the first retry, and what is to the power of 1, 2, 3, … added before later ones."""
COPY_SECONDS = 0.2
"""Between two looks at a copy that goes on after the request for it is answered."""
_NOT_ALLOWED = ("AuthorizationPermissionMismatch", "AuthorizationResourceTypeMismatch", "InsufficientAccountPermissions")


def _make_client(options: PipelineOptions, account: str, hurried: bool) -> BlobServiceClient:
    given = options.view_as(AzureOptions)
    connect, read = object_store.CONNECT_SECONDS, object_store.READ_SECONDS
    if hurried:
        connect, read = object_store.CHECK_CONNECT_SECONDS, object_store.CHECK_READ_SECONDS
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=object_store.CONNECTIONS))
    times = CHECK_RETRIES if hurried else RETRIES
    settings = {
        "max_single_get_size": object_store.READ_BYTES,
        "max_chunk_get_size": object_store.READ_BYTES,
        "transport": RequestsTransport(session=session, connection_timeout=connect, read_timeout=read),
        "retry_policy": ExponentialRetry(
            FIRST_PAUSE, PAUSE_BASE, times, random_jitter_range=1, retry_connect=times, retry_read=times, retry_status=times
        ),
    }
    connection_string = given.azure_connection_string or os.environ.get(CONNECTION_STRING)
    try:
        if connection_string:
            client = BlobServiceClient.from_connection_string(connection_string, **settings)
        else:
            endpoint = given.blob_service_endpoint or f"https://{account}.blob.core.windows.net"
            client = BlobServiceClient(endpoint, get_service_credentials(options), **settings)
    except ValueError as error:
        where = "the connection string" if connection_string else "--blob_service_endpoint"
        raise InputError(f"azfs://{account}: {where} can't be used: {error}") from None
    if client.account_name not in (account, None):
        raise InputError(f"azfs://{account}: what gives access is of another account, {client.account_name}")
    return client


client = one_for_all(_make_client)


class Azure(ObjectStore):
    """Azure Blob Storage."""

    form = "azfs://ACCOUNT/CONTAINER/…"
    parts = re.compile(r"azfs://([a-z0-9]+/[^/]+)(?:/(.*))?", re.DOTALL)
    bucket = "container"
    credentials = f"--azure_connection_string, {CONNECTION_STRING}, or what azure-identity finds (az login)"
    errors = (AzureError,)

    def explained(self, path: str, error: Any) -> OSError:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        status = error.status_code if isinstance(error, HttpResponseError) else None
        if status == 404:
            return FileNotFoundError(errno.ENOENT, f"there is no such blob or container ({said})", path)
        if getattr(error, "error_code", None) in _NOT_ALLOWED:
            return PermissionError(errno.EACCES, said, path)
        if status in (401, 403) or isinstance(error, ClientAuthenticationError):
            return object_store.CredentialsError(errno.EACCES, said, path)
        return OSError(errno.EIO, said, path)

    def _container(self, bucket: str, hurried: bool = False) -> ContainerClient:
        account, container = bucket.split("/")
        return client(account, hurried).get_container_client(container)

    def _blob(self, path: str) -> BlobClient:
        bucket, name = self.split(path)
        return self._container(bucket).get_blob_client(name)

    def _read(self, path: str, take: Take) -> bytes:
        download = self._blob(path).download_blob()  # has the first of it already
        take(download.size)
        data: bytes = download.readall()
        return data

    def _read_range(self, path: str, offset: int, length: int, etag: str | None) -> bytes:
        unchanged = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        data: bytes = self._blob(path).download_blob(offset, length, **unchanged).readall()
        return data

    def _stat(self, path: str) -> Stat:
        found = self._blob(path).get_blob_properties()
        return Stat(found.size, found.etag)

    def _put(self, path: str, content: IO[bytes]) -> None:
        self._blob(path).upload_blob(content, overwrite=True)

    def _copy(self, source: str, target: str) -> None:
        copy = self._blob(target)
        status = copy.start_copy_from_url(self._blob(source).url)["copy_status"]
        while status == "pending":
            time.sleep(COPY_SECONDS)
            status = copy.get_blob_properties().copy.status
        if status != "success":
            raise OSError(errno.EIO, f"the copy to {target} ended as {status}", source)

    def _remove(self, path: str) -> None:
        self._blob(path).delete_blob()

    def _list(self, bucket: str, prefix: str, flat: bool) -> Iterator[tuple[str, int]]:
        container = self._container(bucket)
        listed = container.list_blobs(prefix) if flat else container.walk_blobs(prefix, delimiter="/")
        return ((blob.name, blob.get("size") or 0) for blob in listed)  # a folder's name ends with a slash, and has no size

    def _any(self, bucket: str, prefix: str) -> bool:
        return any(True for _ in self._container(bucket, hurried=True).list_blobs(prefix, results_per_page=1))
