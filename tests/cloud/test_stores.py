"""S3 and Azure: `transforms.storage` and whole jobs against moto and azurite, with and without faults."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import google_crc32c
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from azure.core.exceptions import AzureError
from conftest import Data
from documented import command_on
from environments import python_with_maskbeam
from storage_server import files_below, published, storage_server
from store_contract import BLOB, StoreContract, kind_of_error, publish_and_read
from stores import StoreServer, azure_server, s3_server

from beam_pipeline.cli import main
from beam_pipeline.options import RunOptions
from beam_pipeline.run import run
from transforms import azure, object_store, s3, storage
from transforms.records import InputError

OPTIONS = {"splits": "train=0.7,val=0.3", "num_shards": "2"}
FAULTS = ("unavailable", "stalled", "cut", "refused")


@pytest.fixture(scope="module", params=[s3_server, azure_server], ids=["s3", "azure"])
def started(request: pytest.FixtureRequest, demo_data: Data) -> Iterator[StoreServer]:
    with request.param() as server:
        server.upload(demo_data.images, f"{server.root}/in/images")
        server.upload(demo_data.annotations, f"{server.root}/in/annotations.json")
        yield server


@pytest.fixture
def server(started: StoreServer, monkeypatch: pytest.MonkeyPatch) -> StoreServer:
    """The server without faults, and this process with access to it by options alone."""
    started.plan()
    started.change_bodies()
    monkeypatch.setattr(FileSystems, "_pipeline_options", PipelineOptions(started.options))
    monkeypatch.setenv("HOME", "/nonexistent")  # with whatever credentials the machine has
    return started


@pytest.fixture
def folder(server: StoreServer, request: pytest.FixtureRequest) -> str:
    """A folder of a test's own."""
    return f"{server.root}/" + hashlib.sha256(request.node.name.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- storage


def test_an_error_without_a_message_is_told_by_its_kind() -> None:
    error = azure.Azure().explained("azfs://account/container/name", AzureError(""))
    assert "AzureError" in str(error)


class TestStores(StoreContract):
    pass


@pytest.mark.parametrize("size", [0, 1, object_store.MEMORY_BYTES + 1])
def test_files_of_any_size_go_there_and_back(server: StoreServer, folder: str, size: int) -> None:
    path, content = f"{folder}/file", (BLOB * (size // len(BLOB) + 1))[:size]
    with storage.open_write(path) as file:
        for start in range(0, size, 1_000_003):
            file.write(content[start : start + 1_000_003])
        assert not storage.exists(path)
    server.plan()
    with storage.open_read(path) as file:
        assert file.read() == content
        assert server.requests["GET data"] == -(-size // object_store.READ_BYTES)
        file.seek(-1, 2)
        assert file.read() == content[-1:]
    assert storage.read_bytes(path) == content
    assert storage.size_and_crc32c(path) == (len(content), google_crc32c.value(content))


def test_a_file_that_changes_is_not_read_as_two_halves(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "READ_BYTES", 1000)
    path = f"{folder}/file"
    storage.write_bytes(path, b"x" * 5000)
    with storage.open_read(path) as file:
        assert file.read(1000) == b"x" * 1000
        storage.write_bytes(path, b"y" * 5000)
        assert isinstance(kind_of_error(file.read), OSError)
    with pytest.raises(InputError, match="has changed while it was read"):
        storage.read_range(path, 0, 1000, google_crc32c.value(b"x" * 1000))


@pytest.mark.parametrize("kind", FAULTS)
def test_operations_survive_faults(server: StoreServer, folder: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "READ_SECONDS", 0.5)
    monkeypatch.setattr(azure, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(azure, "PAUSE_BASE", 1)
    monkeypatch.setattr(FileSystems, "_pipeline_options", PipelineOptions(server.options))  # and so a client of its own
    server.plan({kind: 0.3}, seed=1)
    for number in range(2):
        publish_and_read(f"{folder}/{number}")
    assert [(storage.name_of(path), size) for path, size in storage.list_folder(folder)] == [("0", len(BLOB)), ("1", len(BLOB))]
    storage.delete([f"{folder}/0", f"{folder}/1"])
    assert storage.list_folder(folder) == []
    assert server.faults[kind] >= 1


def test_what_arrives_corrupt_from_s3_is_read_again(server: StoreServer, folder: str) -> None:
    if not folder.startswith("s3://"):
        pytest.skip("Azure gives no checksum that a client could compare by one request")
    for number in range(5):
        storage.write_bytes(f"{folder}/{number}", BLOB)
    server.plan({"corrupt": 0.5}, seed=1)
    assert all(storage.read_bytes(f"{folder}/{number}") == BLOB for number in range(5))
    assert 1 <= server.faults["corrupt"] == server.requests["GET data"] - 5


# ---------------------------------------------------------------------------------------------------------------- jobs


def arguments(server: StoreServer, **changed: str) -> list[str]:
    """`maskbeam run` with everything on the server, but for what is changed."""
    places = {"annotations": "in/annotations.json", "images": "in/images", "output": "out"}
    given = {name: f"{server.root}/{place}" for name, place in places.items()} | OPTIONS | changed
    return ["run", *(f"--{name}={value}" for name, value in given.items()), *server.options]


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    """What was said last; before it there may only be progress, on a slow machine."""
    *before, line = capfd.readouterr().err.splitlines()
    assert set(before) <= {"reading annotations"}
    return line


def run_here(annotations: Path, images: Path, output: Path, **options: object) -> dict[str, bytes]:
    """What a run on this machine publishes."""
    run(RunOptions(annotations=str(annotations), images=str(images), output=str(output), **OPTIONS, **options), [])
    return published(files_below(output), str(annotations), str(images))


@pytest.fixture(scope="module")
def undisturbed(demo_data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return run_here(demo_data.annotations, demo_data.images, tmp_path_factory.mktemp("undisturbed") / "records")


def published_by(server: StoreServer, output: str = "out", annotations: str = "in/annotations.json") -> dict[str, bytes]:
    return published(server.objects(f"{server.root}/{output}"), f"{server.root}/{annotations}", f"{server.root}/in/images")


def test_a_bucket_gets_the_bytes_of_a_folder(
    server: StoreServer,
    undisturbed: dict[str, bytes],
    demo_data: Data,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(arguments(server, num_shards="3")) == 0
    assert published_by(server) != undisturbed
    said = capfd.readouterr()
    assert "29 of 30 images" in said.out
    assert main(arguments(server)) == 2
    refused = capfd.readouterr()
    assert f"{server.root}/out holds a data set already" in refused.err
    server.plan()
    assert main([*arguments(server), "--overwrite"]) == 0
    assert published_by(server) == undisturbed  # with nothing of the run before, and nothing temporary

    images = {unquote(line): times for line, times in server.lines.items() if "/in/images/" in line}
    assert sorted(line.rpartition("/in/images/")[2] for line in images) == sorted(files_below(demo_data.images))
    assert set(images.values()) == {1}
    assert all(line.startswith("GET ") for line in images)

    everything = "".join((*said, *refused, *capfd.readouterr()))
    assert server.secret not in everything
    assert server.secret.encode() not in b"".join(server.objects(f"{server.root}/out").values())
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    assert main(["verify", f"{server.root}/out", "--coco", f"{server.root}/in/annotations.json"]) == 0


def test_the_commands_of_the_page(
    server: StoreServer, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not server.root.startswith("s3://"):
        pytest.skip("its commands are of S3")
    names = re.findall(r"(\w+)=", command_on("deploy/storage.md", "export AWS_ACCESS_KEY_ID="))
    assert set(names) < set(server.environment)
    for name in (*names, "AWS_ENDPOINT_URL"):  # the last only since it is not Amazon's
        monkeypatch.setenv(name, server.environment[name])
    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    command = command_on("deploy/storage.md", "maskbeam run --annotations s3://")
    for documented, here in {
        "s3://data/instances.json": "in/annotations.json",
        "s3://data/photos": "in/images",
        "s3://records/v1": "of_the_page",
    }.items():
        assert documented in command
        command = command.replace(documented, f"{server.root}/{here}")
    assert main([*shlex.split(command)[1:], *(f"--{name}={value}" for name, value in OPTIONS.items())]) == 0
    assert published_by(server, "of_the_page") == undisturbed


def test_names_of_all_kinds(server: StoreServer, demo_data: Data, tmp_path: Path) -> None:
    """Pictures, annotations and output with spaces, other scripts and glob characters in their names."""
    content = json.loads(demo_data.annotations.read_text())
    for number, image in enumerate(content["images"]):
        name = f"sub {number % 3}/é [{number}] *?#%41+&日本.{image['file_name'].rpartition('.')[2]}"
        target = tmp_path / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo_data.images / image["file_name"], target)
        image["file_name"] = name
    annotations = tmp_path / "the [annotations] é.json"
    annotations.write_text(json.dumps(content))
    expected = run_here(annotations, tmp_path / "images", tmp_path / "records")
    places = {"annotations": "odd/the [annotations] é.json", "images": "odd/im [ages]", "output": "odd/out put é#"}
    changed = {name: f"{server.root}/{place}" for name, place in places.items()}
    server.upload(annotations, changed["annotations"])
    server.upload(tmp_path / "images", changed["images"])
    assert main(arguments(server, **changed)) == 0
    assert published(server.objects(changed["output"]), changed["annotations"], changed["images"]) == expected


def test_resume_writes_only_what_has_changed(
    server: StoreServer, demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    shutil.copytree(demo_data.images, images)
    server.upload(images, f"{server.root}/resumed/images")
    changed = {"images": f"{server.root}/resumed/images", "output": f"{server.root}/resumed/out"}
    assert main(arguments(server, **changed)) == 0
    before = server.versions("resumed/out/")
    name = next(name for name in sorted(files_below(images)) if name.endswith(".png"))
    replacement = (images / name).read_bytes() + b"a tail that decoders ignore"
    (images / name).write_bytes(replacement)
    server.write(f"resumed/images/{name}", replacement)
    time.sleep(1)  # S3 tells versions apart by the second
    capfd.readouterr()
    assert main([*arguments(server, **changed), "--resume"]) == 0
    assert "3 of 4 shards with images were up to date" in capfd.readouterr().out
    after = server.versions("resumed/out/")
    assert before.keys() == after.keys()
    assert len([name for name, version in after.items() if ".tfrecord" in name and before[name] != version]) == 2  # and a state
    expected = run_here(demo_data.annotations, images, tmp_path / "records")
    found = published(server.objects(changed["output"]), f"{server.root}/in/annotations.json", changed["images"])
    assert found == expected


def test_an_image_that_is_not_there_is_rejected_as_on_this_machine(server: StoreServer, demo_data: Data, tmp_path: Path) -> None:
    content = json.loads(demo_data.annotations.read_text())
    content["images"].append({"id": 9999, "file_name": "nothing.jpg", "width": 20, "height": 10})
    annotations = tmp_path / "more.json"
    annotations.write_text(json.dumps(content))
    server.upload(annotations, f"{server.root}/in/more.json")
    expected = run_here(annotations, demo_data.images, tmp_path / "records", max_reject_fraction=0.2)
    assert b'"IMAGE_MISSING"' in expected["rejects.jsonl"]
    changed = {"annotations": f"{server.root}/in/more.json", "output": f"{server.root}/more", "max_reject_fraction": "0.2"}
    assert main(arguments(server, **changed)) == 0
    assert published_by(server, "more", "in/more.json") == expected


@pytest.mark.parametrize(
    ("option", "place", "said"),
    [
        ("annotations", "ROOT/in/nothing.json", "there is no such file"),
        ("annotations", "NOPE/a.json", "there is no BUCKET"),
        ("annotations", "NOPE/*.json", "there is no BUCKET"),
        ("images", "NOPE/images", "there is no BUCKET"),
        ("images", "ROOT/nothing", "there is no such folder"),
        ("output", "NOPE/out", "there is no BUCKET"),
        ("output", "SCHEME:///out", "expected SCHEME://"),
    ],
)
def test_what_is_not_there_is_said(
    server: StoreServer, capfd: pytest.CaptureFixture[str], option: str, place: str, said: str
) -> None:
    scheme, _, bucket = server.root.partition("://")
    nope = bucket.replace("bkt", "nope")
    path = place.replace("ROOT", server.root).replace("NOPE", f"{scheme}://{nope}").replace("SCHEME", scheme)
    expected = said.replace("SCHEME", scheme).replace("BUCKET", f"{'container' if scheme == 'azfs' else 'bucket'} {nope}")
    assert main(arguments(server, **{option: path})) == 2
    line = last_line(capfd)
    assert line.startswith(f"maskbeam: --{option} {path}")
    assert expected in line


@pytest.mark.parametrize("option", ["annotations", "images", "output"])
@pytest.mark.parametrize("wrong", ["key", "secret", "endpoint", "nothing", "refuses"])
def test_access_that_is_denied_is_said_soon(
    server: StoreServer, demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str, wrong: str
) -> None:
    """Whichever of the three is on the server, the others being here."""
    place = f"{server.root}/in/denied"
    here = {"annotations": str(demo_data.annotations), "images": str(demo_data.images), "output": str(tmp_path / "out")}
    command = arguments(server, **(here | {option: place}))
    if wrong == "refuses":
        server.plan({"forbidden": 1.0})
    elif wrong == "nothing":
        command = [one for one in command if one not in server.options]
    else:
        value = {"key": server.key, "secret": server.secret, "endpoint": server.endpoint}[wrong]
        command = [one.replace(value, "http://127.0.0.1:9" if wrong == "endpoint" else "d3Jvbmc=") for one in command]
    began = time.monotonic()
    assert main(command) == 2
    assert time.monotonic() - began < 20
    line = last_line(capfd)
    assert line.startswith(f"maskbeam: --{option} {place}: ")
    assert ("can't be reached" if wrong == "endpoint" else "no access") in line
    assert server.secret not in line


def test_images_need_no_permission_to_list_them(
    server: StoreServer, undisturbed: dict[str, bytes], demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    here = {"annotations": str(demo_data.annotations), "output": str(tmp_path / "out")}
    command = [one for one in arguments(server, **here) if one not in server.options] + server.options_to_read
    assert main(command) == 0
    assert published(files_below(tmp_path / "out"), here["annotations"], f"{server.root}/in/images") == undisturbed
    kind = "bucket" if server.root.startswith("s3") else "container"
    there = [one for one in arguments(server, output=f"{server.root}/out") if one not in server.options]
    capfd.readouterr()
    assert main([*there, *server.options_to_read, f"--annotations={demo_data.annotations}"]) == 2
    assert last_line(capfd).startswith(f"maskbeam: --output {server.root}/out: the {kind} refuses: ")


def test_storages_mix(server: StoreServer, undisturbed: dict[str, bytes], demo_data: Data, tmp_path: Path) -> None:
    """Annotations here, images on S3 or Azure, output on Google's; then from there to here."""
    with storage_server() as other, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", other.endpoint)
        there = {"annotations": str(demo_data.annotations), "output": "gs://bkt/mixed"}
        assert main(arguments(server, **there)) == 0
        found = published(other.objects("gs://bkt/mixed"), there["annotations"], f"{server.root}/in/images")
        assert found == undisturbed
        other.upload(demo_data.images, "gs://bkt/images")
        back = {"images": "gs://bkt/images", "output": f"{server.root}/mixed"}
        assert main(arguments(server, **back)) == 0
        found = published(server.objects(f"{server.root}/mixed"), f"{server.root}/in/annotations.json", "gs://bkt/images")
        assert found == undisturbed


@pytest.mark.parametrize("told_by", ["options", "environment"])
def test_workers_get_access(server: StoreServer, undisturbed: dict[str, bytes], told_by: str) -> None:
    output = f"{server.root}/workers-{told_by}"
    command = [sys.executable, "-m", "beam_pipeline.cli", *arguments(server, output=output)]
    command += ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    if told_by == "environment":
        command = [one for one in command if one not in server.options]
    environment = os.environ | (server.environment if told_by == "environment" else {})
    server.plan()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert server.secret not in done.stdout + done.stderr
    assert server.connections < sum(server.requests.values()) / 4
    assert published(server.objects(output), f"{server.root}/in/annotations.json", f"{server.root}/in/images") == undisturbed


def test_a_job_survives_faults(server: StoreServer, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "READ_SECONDS", 1.0)
    monkeypatch.setattr(azure, "FIRST_PAUSE", 0.1)
    monkeypatch.setattr(azure, "PAUSE_BASE", 1)
    server.plan(dict.fromkeys(FAULTS, 0.02), seed=2, spared=3)
    assert main([*arguments(server), "--overwrite"]) == 0
    assert server.faults.total() >= 4
    assert published_by(server) == undisturbed


def test_a_job_whose_storage_does_not_come_back_fails_without_a_marker(
    server: StoreServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "RETRIES", 1)
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    server.plan({"unavailable": 1.0}, spared=25)
    assert main(arguments(server, output=f"{server.root}/failed")) == 1
    assert "maskbeam: the job failed: OSError: " in capfd.readouterr().err
    server.plan()
    assert not [name for name in server.objects(f"{server.root}/failed") if name.endswith("_SUCCESS")]


@pytest.mark.parametrize(("path", "extra"), [("s3://bkt/images", "aws"), ("azfs://account1/bkt/images", "azure")])
def test_without_the_extra_it_is_named(path: str, extra: str, demo_data: Data, tmp_path: Path) -> None:
    command = [python_with_maskbeam(), "-m", "beam_pipeline.cli", "run", f"--annotations={demo_data.annotations}"]
    command += [f"--images={path}", f"--output={tmp_path}/out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    expected = f"maskbeam: --images {path}/: what reads and writes {path.partition(':')[0]}:// is not installed: "
    assert done.stderr == f"{expected}pip install 'maskbeam[{extra}]'\n"
    assert done.returncode == 2
