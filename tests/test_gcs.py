"""Buckets on `gs://`: `transforms.storage` and whole jobs against an emulator, and what becomes of single faults.

The rates at which faults may come are in `tests/reliability/test_storage_faults.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import pytest
from apache_beam.internal.gcp import auth
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from conftest import Data
from google.auth.credentials import AnonymousCredentials
from storage_server import FAULTS, Plan, StorageServer, files_below, published, storage_server
from store_contract import BLOB, StoreContract, kind_of_error, publish_and_read

from beam_pipeline.cli import main
from beam_pipeline.options import RunOptions
from beam_pipeline.run import run
from transforms import gcs, storage
from transforms.records import InputError

OPTIONS = {"splits": "train=0.7,val=0.3", "num_shards": "2"}


@pytest.fixture(scope="module")
def started() -> Iterator[StorageServer]:
    with storage_server() as server:
        yield server


@pytest.fixture
def server(started: StorageServer, monkeypatch: pytest.MonkeyPatch) -> StorageServer:
    """The server without faults, for this process too, which does not wait for long."""
    started.plan()
    started.change_bodies()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", started.endpoint)
    for name, value in {"TIMEOUT": (2.0, 0.5), "FIRST_PAUSE": 0.01, "LONGEST_PAUSE": 0.02, "PATIENCE": 5.0}.items():
        monkeypatch.setattr(gcs, name, value)
    return started


@pytest.fixture
def folder(server: StorageServer, request: pytest.FixtureRequest) -> str:
    """A folder of a test's own."""
    return "gs://bkt/" + hashlib.sha256(request.node.name.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------ without faults


class TestGcs(StoreContract):
    pass


@pytest.mark.parametrize("size", [0, 1, 1 << 18, (1 << 18) + 1, 3 << 18])
def test_files_are_written_and_read_in_pieces(
    server: StorageServer, folder: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(gcs, "WRITE_BYTES", 1 << 18)
    monkeypatch.setattr(gcs, "READ_BYTES", 100_000)
    data = (BLOB * 2)[:size]
    with storage.open_write(f"{folder}/file") as file:
        for start in range(0, size, 70_001):
            file.write(data[start : start + 70_001])
    with storage.open_read(f"{folder}/file") as file:
        assert b"".join(iter(lambda: file.read(33_333), b"")) == data
        file.seek(size // 2)
        assert file.read(5) == data[size // 2 : size // 2 + 5]
        file.seek(0)
        assert b"".join(file) == data


def test_room_is_asked_for_once_and_before_the_content_arrives(server: StorageServer, folder: str) -> None:
    storage.write_bytes(f"{folder}/file", BLOB)
    asked: list[int] = []
    server.plan({"cut": 0.7}, seed=2)
    assert storage.read_bytes(f"{folder}/file", asked.append) == BLOB
    assert server.faults["cut"] > 0
    assert asked == [len(BLOB)]

    def no_room(size: int) -> None:
        raise MemoryError(f"no room for {size} bytes")

    server.plan()
    assert isinstance(kind_of_error(storage.read_bytes, f"{folder}/file", no_room), MemoryError)
    assert storage.read_bytes(f"{folder}/file") == BLOB


def test_waiting_for_room_takes_nothing_from_the_patience_with_storage(
    server: StorageServer, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{folder}/file", BLOB)
    monkeypatch.setattr(gcs, "PATIENCE", 0.3)
    server.plan({"cut": 0.9}, seed=next(seed for seed in range(99) if is_cut_once(seed, f"{folder}/file")))
    assert storage.read_bytes(f"{folder}/file", lambda size: time.sleep(0.5)) == BLOB
    assert server.faults["cut"] == 1


def is_cut_once(seed: int, path: str) -> bool:
    """Whether a read of an object is cut with this seed, and the next is not."""
    name = path.removeprefix("gs://bkt/").replace("/", "%2F")
    line = f"GET /download/storage/v1/b/bkt/o/{name}?alt=media"
    plan = Plan({"cut": 0.9}, seed)
    return plan.fault(line, 0) is not None and plan.fault(line, 1) is None


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "_anonymous", True)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    for exempt, proxies in (("", {"https": "http://proxy:3128"}), ("googleapis.com", {})):
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
        monkeypatch.setenv("NO_PROXY", exempt)
        gcs._client.cache_clear()
        session = gcs.client()._http
        assert {scheme: url for scheme, url in session.proxies.items() if scheme == "https"} == proxies
    gcs._client.cache_clear()


def test_a_job_is_done_with_its_own_credentials_and_project(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = AnonymousCredentials()
    monkeypatch.setattr(auth._Credentials, "_credentials", auth._ApitoolsCredentialsAdapter(credentials))
    monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
    monkeypatch.setattr(FileSystems, "_pipeline_options", PipelineOptions(["--project=of-the-job"]))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    gcs._client.cache_clear()
    client = gcs.client()
    gcs._client.cache_clear()
    assert client._credentials is credentials
    assert client.project == "of-the-job"


def test_a_range_is_what_it_was_when_its_checksum_was_taken(server: StorageServer, folder: str) -> None:
    path = f"{folder}/file"
    storage.write_bytes(path, BLOB)
    expected = google_crc32c.value(BLOB[1000:2000])
    assert storage.read_range(path, 1000, 1000, expected) == BLOB[1000:2000]
    assert storage.read_range(path, 1000, 0, 0) == b""
    for changed in (b"y" * len(BLOB), b"short"):
        storage.write_bytes(path, changed)
        with pytest.raises(InputError, match="has changed"):
            storage.read_range(path, 1000, 1000, expected)


# --------------------------------------------------------------------------------------------------------- with faults


@pytest.mark.parametrize("kind", FAULTS)
def test_operations_survive_faults(server: StorageServer, folder: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "WRITE_BYTES", 1 << 18)
    monkeypatch.setattr(gcs, "TIMEOUT", (2.0, 0.2))
    server.plan({kind: 0.6 if kind == "corrupt" else 0.3}, seed=4)
    for number in range(2):
        publish_and_read(f"{folder}/{number}")
        storage.write_bytes(f"{folder}/{number}.small", b"small")
    expected = [(f"{number}{end}", size) for number in range(2) for end, size in (("", len(BLOB)), (".small", 5))]
    assert [(storage.name_of(path), size) for path, size in storage.list_folder(folder)] == expected
    storage.delete([f"{folder}/{name}" for name, _ in expected])
    assert storage.list_folder(folder) == []
    assert server.faults[kind] >= 1


def test_corrupt_downloads_are_never_taken_for_good(server: StorageServer, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{folder}/file"
    storage.write_bytes(path, BLOB)
    server.plan({"corrupt": 1.0})
    monkeypatch.setattr(gcs, "PATIENCE", 0.3)
    with pytest.raises(OSError, match=f"{path}.* arrived, expected"):
        storage.read_bytes(path)
    monkeypatch.setattr(gcs, "READ_BYTES", 100_000)
    with storage.open_read(path) as file, pytest.raises(OSError, match="not that of the object"):
        list(iter(lambda: file.read(50_000), b""))


def test_a_corrupt_range_is_asked_for_again(server: StorageServer, folder: str) -> None:
    path = f"{folder}/file"
    storage.write_bytes(path, BLOB)
    server.plan({"corrupt": 0.5}, seed=2)
    ranges = range(0, len(BLOB), len(BLOB) // 20)
    for start in ranges:
        piece = BLOB[start : start + 1000]
        assert storage.read_range(path, start, len(piece), google_crc32c.value(piece)) == piece
    assert 1 <= server.faults["corrupt"] == server.requests["GET data"] - len(ranges)


def test_an_upload_that_arrives_changed_is_noticed(server: StorageServer, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.change_bodies(lambda body: body.replace(b"precious", b"previous"))
    monkeypatch.setattr(gcs, "PATIENCE", 0.3)
    for write in (lambda: storage.write_bytes(f"{folder}/a", b"precious"), lambda: write_in_pieces(f"{folder}/b", b"precious")):
        with pytest.raises(OSError, match=f"{folder}/"):
            write()


def write_in_pieces(path: str, data: bytes) -> None:
    with storage.open_write(path) as file:
        file.write(data)


# ---------------------------------------------------------------------------------------------------------------- jobs


def on_bucket(**changed: str) -> list[str]:
    given = {"annotations": "gs://bkt/in/annotations.json", "images": "gs://bkt/in/images", "output": "gs://bkt/out", **OPTIONS}
    return ["run", *(f"--{name}={value}" for name, value in (given | changed).items())]


@pytest.fixture(scope="module")
def uploaded(started: StorageServer, demo_data: Data) -> None:
    started.upload(demo_data.images, "gs://bkt/in/images")
    started.upload(demo_data.annotations, "gs://bkt/in/annotations.json")


@pytest.fixture(scope="module")
def undisturbed(demo_data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed") / "records"
    run(RunOptions(annotations=str(demo_data.annotations), images=str(demo_data.images), output=str(output), **OPTIONS), [])
    return published(files_below(output), str(demo_data.annotations), str(demo_data.images))


def test_a_bucket_gets_the_bytes_of_a_folder(
    server: StorageServer, uploaded: None, undisturbed: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    def is_as_expected() -> bool:
        return published(server.objects("gs://bkt/out"), "gs://bkt/in/annotations.json", "gs://bkt/in/images") == undisturbed

    assert main(on_bucket(num_shards="3")) == 0
    assert not is_as_expected()
    assert "29 of 30 images" in capfd.readouterr().out
    assert main(on_bucket()) == 2
    assert "gs://bkt/out holds a data set already" in capfd.readouterr().err
    server.plan(dict.fromkeys(FAULTS, 0.01), seed=1)
    assert main([*on_bucket(), "--overwrite"]) == 0
    assert server.faults.total() >= 3
    assert is_as_expected()  # with nothing of the run before


def test_an_image_that_is_not_there_is_rejected(server: StorageServer, demo_data: Data, tmp_path: Path) -> None:
    content = json.loads(demo_data.annotations.read_text())
    content["images"].append({"id": 9999, "file_name": "nothing.jpg", "width": 20, "height": 10})
    (tmp_path / "more.json").write_text(json.dumps(content))
    server.upload(tmp_path / "more.json", "gs://bkt/in/more.json")
    assert main([*on_bucket(annotations="gs://bkt/in/more.json", output="gs://bkt/more"), "--max_reject_fraction=0.2"]) == 0
    rejects = [json.loads(line) for line in io.BytesIO(server.objects("gs://bkt/more")["rejects.jsonl"])]
    assert [one["reason"] for one in rejects if one["image_id"] == 9999] == ["IMAGE_MISSING"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"annotations": "gs://nope/a.json"}, "--annotations gs://nope/a.json: there is no bucket nope"),
        ({"annotations": "gs://nope/*.json"}, "--annotations gs://nope/*.json: there is no bucket nope"),
        ({"annotations": "gs://bkt/in/nothing.json"}, "--annotations gs://bkt/in/nothing.json: there is no such file"),
        ({"images": "gs://nope/images"}, "--images gs://nope/images: there is no bucket nope"),
        ({"images": "gs://bkt/nothing"}, "--images gs://bkt/nothing: there is no such folder"),
        ({"output": "gs://nope/out"}, "--output gs://nope/out: there is no bucket nope"),
        ({"output": "gs:///out"}, "--output gs:///out: expected gs://NAME/…"),
    ],
)
def test_what_is_not_there_is_said(
    server: StorageServer, uploaded: None, capfd: pytest.CaptureFixture[str], changed: dict[str, str], said: str
) -> None:
    assert main(on_bucket(**changed)) == 2
    assert capfd.readouterr().err == f"maskbeam: {said}\n"


def test_a_bucket_that_refuses_or_is_out_of_reach_is_named_soon(
    server: StorageServer, uploaded: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "CHECK_PATIENCE", 0.5)
    server.plan({"forbidden": 1.0})
    assert main(on_bucket()) == 2
    assert "--annotations gs://bkt/in/annotations.json: the bucket refuses: " in capfd.readouterr().err
    server.plan({"unavailable": 1.0})
    assert main(on_bucket()) == 2
    assert "--annotations gs://bkt/in/annotations.json: the bucket can't be reached: 503" in capfd.readouterr().err
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    assert main(on_bucket()) == 2
    assert "--annotations gs://bkt/in/annotations.json: the bucket can't be reached: " in capfd.readouterr().err


def test_without_credentials_it_does_not_take_half_a_minute(tmp_path: Path) -> None:
    """Google's endpoint is a port of this machine that nobody listens at, its metadata server as well."""
    kept_from_it = ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS")
    environment = {name: value for name, value in os.environ.items() if name not in kept_from_it}
    environment |= {"HOME": str(tmp_path), "NO_GCE_CHECK": "true", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
    began = time.monotonic()
    command = [sys.executable, "-c", "import sys; from transforms import gcs; gcs.CHECK_PATIENCE = 1.0; "]
    command[-1] += "from beam_pipeline.cli import main; sys.exit(main())"
    done = subprocess.run([*command, *on_bucket()], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "can't be reached" in done.stderr
    assert "gcloud auth application-default login" in done.stderr
    assert time.monotonic() - began < 20
