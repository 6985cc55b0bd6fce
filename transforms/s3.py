"""Objects in S3 and in what speaks its language (`s3://…`), through boto3, with Beam's `--s3_…` options."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

import boto3
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry, if_exception_type

from transforms import object_store
from transforms.ahead import Take
from transforms.object_store import ObjectStore, Stat, one_for_all

ATTEMPTS, CHECK_ATTEMPTS = 10, 2
"""How often a request is made; between them lie 1, 2, 4, … 20 seconds at most."""
FIRST_PAUSE, PATIENCE = 0.5, 180.0
"""Seconds: for so long an object is read again and again if its answer ends early, which boto3 leaves to its caller."""
_cut_off = if_exception_type(IncompleteReadError, ResponseStreamingError, ReadTimeoutError, FlexibleChecksumError)
COPY = TransferConfig(multipart_threshold=1 << 30, multipart_chunksize=1 << 28)
"""Up to a gigabyte a copy is one request; S3 takes five."""
_NOT_ALLOWED = ("AccessDenied", "AllAccessDisabled", "403")  # HEAD has no body, and so no better code


def _make_client(options: PipelineOptions, hurried: bool) -> Any:
    given = options.view_as(S3Options)
    connect, read = object_store.CONNECT_SECONDS, object_store.READ_SECONDS
    if hurried:
        connect, read = object_store.CHECK_CONNECT_SECONDS, object_store.CHECK_READ_SECONDS
    return boto3.session.Session().client(
        "s3",
        region_name=given.s3_region_name,
        api_version=given.s3_api_version,
        use_ssl=not given.s3_disable_ssl,
        verify=given.s3_verify,
        endpoint_url=given.s3_endpoint_url,
        aws_access_key_id=given.s3_access_key_id,
        aws_secret_access_key=given.s3_secret_access_key,
        aws_session_token=given.s3_session_token,
        config=Config(
            connect_timeout=connect,
            read_timeout=read,
            max_pool_connections=object_store.CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": CHECK_ATTEMPTS if hurried else ATTEMPTS},
        ),
    )


client = one_for_all(_make_client)


class S3(ObjectStore):
    """Amazon's and others' S3."""

    form = "s3://BUCKET/…"
    parts = re.compile(r"s3://([^/]+)(?:/(.*))?", re.DOTALL)
    bucket = "bucket"
    credentials = "--s3_access_key_id and --s3_secret_access_key, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"
    errors = (BotoCoreError, ClientError, Boto3Error, RetryError)

    def explained(self, path: str, error: Any) -> OSError:
        if isinstance(error, RetryError):
            error = error.cause
        if not isinstance(error, ClientError):
            without = isinstance(error, NoCredentialsError | PartialCredentialsError)
            return (object_store.CredentialsError if without else OSError)(errno.EIO, str(error), path)
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"].get("HTTPStatusCode")
        said = f"{code}: {error.response['Error'].get('Message')}"
        if status == 404:
            return FileNotFoundError(errno.ENOENT, f"there is no such object or bucket ({said})", path)
        if status in (401, 403):
            refused = code in _NOT_ALLOWED
            return (PermissionError if refused else object_store.CredentialsError)(errno.EACCES, said, path)
        return OSError(errno.EIO, said, path)

    def _read(self, path: str, take: Take) -> bytes:
        taken = False

        def read(answer: Any) -> bytes:
            nonlocal taken
            if not taken:
                take(answer["ContentLength"])
            taken = True
            data: bytes = answer["Body"].read()
            return data

        try:
            return self._get(path, read)
        except self.errors:
            if not taken:
                raise
            return self._get(path, read)  # with new patience: the first may have gone by while the read waited for room

    def _read_range(self, path: str, offset: int, length: int, etag: str | None) -> bytes:
        wanted = {"Range": f"bytes={offset}-{offset + length - 1}"} | ({"IfMatch": etag} if etag else {})
        return self._get(path, lambda answer: answer["Body"].read(), **wanted)

    def _get(self, path: str, read: Callable[[Any], bytes], **wanted: str) -> bytes:
        bucket, key = self.split(path)

        def attempt() -> bytes:
            return read(client(False).get_object(Bucket=bucket, Key=key, **wanted))

        return Retry(predicate=_cut_off, initial=FIRST_PAUSE, maximum=20.0, timeout=PATIENCE)(attempt)()

    def _stat(self, path: str) -> Stat:
        bucket, key = self.split(path)
        found = client(False).head_object(Bucket=bucket, Key=key)
        return Stat(found["ContentLength"], found["ETag"])

    def _put(self, path: str, content: IO[bytes]) -> None:
        client(False).upload_fileobj(content, *self.split(path))

    def _copy(self, source: str, target: str) -> None:
        bucket, key = self.split(source)
        client(False).copy({"Bucket": bucket, "Key": key}, *self.split(target), Config=COPY)

    def _remove(self, path: str) -> None:
        bucket, key = self.split(path)
        client(False).delete_object(Bucket=bucket, Key=key)

    def _list(self, bucket: str, prefix: str, flat: bool) -> Iterator[tuple[str, int]]:
        delimiter = {} if flat else {"Delimiter": "/"}
        listed = client(False).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **delimiter)
        return ((one["Key"], one["Size"]) for page in listed for one in page.get("Contents", ()))

    def _any(self, bucket: str, prefix: str) -> bool:
        return bool(client(True).list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)["KeyCount"])
