"""S3 and Azure for tests: moto and azurite, each a process of its own behind the proxy of `storage_server`.

with s3_server() as server:
    server.upload(folder, f"{server.root}/images")
    assert main(["run", *server.options, …]) == 0
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from azure.storage.blob import (
    AccountSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ResourceTypes,
    Services,
    generate_account_sas,
)
from environments import ROOT
from storage_server import FaultProxy, FaultyServer, files_below, free_port, serving, wait_for

BUCKET = "bkt"
SECRET = "c2VjcmV0IHRoYXQgbm9ib2R5IG11c3Qgc2VlLCBub3QgZXZlbiBpbiB0ZXN0cw=="
AZURITE = "azurite@3.37.0"
ACCOUNT = "account1"
_DATA = re.compile(r"^[^?]+$")  # all that is not content has a query
_ERROR = "application/xml", "<?xml version='1.0'?><Error><Code>{reason}</Code><Message>{status}, says the test</Message></Error>"


class StoreServer(FaultyServer, ABC):
    """A bucket; `options` are the job's, which are in the `environment` too."""

    root: str
    options: list[str]
    options_to_read: list[str]
    """Of who may read objects whose names are known, and nothing else."""
    environment: dict[str, str]

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Puts an object into the bucket, past the faults."""

    @abstractmethod
    def read(self, prefix: str) -> dict[str, bytes]:
        """The objects whose names begin so."""

    @abstractmethod
    def versions(self, prefix: str) -> dict[str, Any]:
        """By name, what of an object changes whenever it is written."""

    def upload(self, folder: Path, target: str) -> None:
        """Puts a folder, or a file, where `target` says."""
        prefix = target.removeprefix(f"{self.root}/")
        files = {f"{prefix}/{name}": data for name, data in files_below(folder).items()}
        for name, data in (files or {prefix: folder.read_bytes()}).items():
            self.write(name, data)

    def objects(self, folder: str) -> dict[str, bytes]:
        """What lies in a folder and below it, by name."""
        prefix = folder.removeprefix(f"{self.root}/") + "/"
        return {name.removeprefix(prefix): data for name, data in self.read(prefix).items()}


class S3Server(StoreServer):
    """Moto, which knows two access keys, and refuses all others."""

    root = f"s3://{BUCKET}"

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(proxy)
        direct = {"endpoint_url": f"http://127.0.0.1:{proxy.upstream}", "region_name": "us-east-1"}
        anybody = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anybody"}
        iam = boto3.client("iam", **direct, **anybody)
        self.key, self.secret = _user(iam, "us", "s3:*")
        reader, readers_secret = _user(iam, "reader", "s3:GetObject")
        self.client = boto3.client("s3", **direct, aws_access_key_id=self.key, aws_secret_access_key=self.secret)
        self.client.create_bucket(Bucket=BUCKET)
        requests.post(f"{direct['endpoint_url']}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()
        server = [f"--s3_endpoint_url={self.endpoint}", "--s3_region_name=us-east-1"]
        self.options = [*server, f"--s3_access_key_id={self.key}", f"--s3_secret_access_key={self.secret}"]
        self.options_to_read = [*server, f"--s3_access_key_id={reader}", f"--s3_secret_access_key={readers_secret}"]
        self.environment = {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": self.key}
        self.environment |= {"AWS_SECRET_ACCESS_KEY": self.secret, "AWS_REGION": "us-east-1"}

    def write(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data)

    def _list(self, prefix: str) -> list[Any]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one for page in pages for one in page.get("Contents", ())]

    def read(self, prefix: str) -> dict[str, bytes]:
        get = self.client.get_object
        return {one["Key"]: get(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in self._list(prefix)}

    def versions(self, prefix: str) -> dict[str, Any]:
        return {one["Key"]: one["LastModified"] for one in self._list(prefix)}


def _user(iam: Any, name: str, action: str) -> tuple[str, str]:
    """The key and the secret of a new user who may do this."""
    iam.create_user(UserName=name)
    statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


class AzureServer(StoreServer):
    """Azurite, with one account."""

    root = f"azfs://{ACCOUNT}/{BUCKET}"

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(proxy)
        self.key = self.secret = SECRET
        self.client: ContainerClient = BlobServiceClient.from_connection_string(
            connection_string(f"http://127.0.0.1:{proxy.upstream}")
        ).create_container(BUCKET)
        self.options = [f"--azure_connection_string={connection_string(self.endpoint)}"]
        tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
        may = ResourceTypes(object=True), AccountSasPermissions(read=True)
        signature = generate_account_sas(ACCOUNT, SECRET, *may, tomorrow, services=Services(blob=True))
        to_read = f"BlobEndpoint={self.endpoint}/{ACCOUNT};SharedAccessSignature={signature}"
        self.options_to_read = [f"--azure_connection_string={to_read}"]
        self.environment = {"AZURE_STORAGE_CONNECTION_STRING": connection_string(self.endpoint)}

    def write(self, name: str, data: bytes) -> None:
        self.client.upload_blob(name, data, overwrite=True)

    def read(self, prefix: str) -> dict[str, bytes]:
        return {blob.name: self.client.download_blob(blob.name).readall() for blob in self.client.list_blobs(prefix)}

    def versions(self, prefix: str) -> dict[str, Any]:
        return {blob.name: blob.etag for blob in self.client.list_blobs(prefix)}


def connection_string(endpoint: str, key: str = SECRET) -> str:
    """The connection string of the test's account."""
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={endpoint}/{ACCOUNT};"


@contextmanager
def _running(command: list[str], port: int, **environment: str) -> Iterator[FaultProxy]:
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        with serving(FaultProxy(port, _DATA, _ERROR)) as proxy:
            yield proxy
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Starts moto; it ends with the block, and what it keeps with it."""
    port = free_port()
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as proxy:
        yield S3Server(proxy)


@contextmanager
def azure_server() -> Iterator[AzureServer]:
    """Starts azurite, installed first if need be; the test is skipped where there is no npm, or it reaches no registry."""
    home = ROOT / "azurite"
    stamp = home / "installed"
    if not (stamp.is_file() and stamp.read_text() == AZURITE):
        if shutil.which("npm") is None:
            pytest.skip("azurite wants npm, and there is none")
        home.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home), AZURITE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"azurite could not be installed: {done.stderr.strip()[-300:]}")
        stamp.write_text(AZURITE)
    port = free_port()
    command = [str(home / "node_modules" / ".bin" / "azurite-blob"), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command += ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    with _running(command, port, AZURITE_ACCOUNTS=f"{ACCOUNT}:{SECRET}") as proxy:
        yield AzureServer(proxy)
