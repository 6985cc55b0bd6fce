"""The flex template's launch as the launcher does it, from what the image has, and jobs run from the graphs that it stages.

The buckets are the emulator's. What the service has workers for is done by `run_staged_graph.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from conftest import Output
from dockerfile_parse import DockerfileParser
from environments import PINNED, python_with_maskbeam
from reports import but_for_time
from storage_server import StorageServer, files_below, published

from beam_pipeline.flex_template import parameters
from beam_pipeline.options import RunOptions
from beam_pipeline.reference import CHECKOUT

IMAGE = "us-docker.pkg.dev/a-project/tools/maskbeam:1"
on_its_python = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the image's packages are pinned for Python 3.11")
RUN_STAGED_GRAPH = Path(__file__).parent / "run_staged_graph.py"
NO_NETWORK = """\
import sys

def refuse(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "localhost", "metadata.google.internal"):
        raise OSError(f"there is no network here, not even for {arguments[0]}")

sys.addaudithook(refuse)
"""


class Metadata(BaseHTTPRequestHandler):
    """A virtual machine of Google's tells its programs by this who they are."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/computeMetadata/v1/").strip("/")
        account = "instance/service-accounts/default"
        answers = {
            "": "",
            "project/project-id": "a-project",
            "universe/universe-domain": "googleapis.com",
            account: json.dumps({"email": "launcher@a-project.iam.gserviceaccount.com", "scopes": ["all"], "aliases": []}),
            f"{account}/token": json.dumps({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}),
        }
        answer = answers.get(path, "").encode()
        self.send_response(200 if path in answers else 404)
        kind = "application/json" if answer.startswith(b"{") else "text/plain"
        for name, value in {"Metadata-Flavor": "Google", "Content-Type": kind, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def machine() -> Iterator[dict[str, str]]:
    """The environment of a program on a virtual machine of Google's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    yield {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host}
    server.shutdown()
    server.server_close()


class Launched(NamedTuple):
    """What came of a launch."""

    status: int
    out: str
    err: str
    job: dict[str, Any] | None
    """The file that `--template_location` names, for the service to make a job of."""

    @property
    def options(self) -> dict[str, Any]:
        return self.job["environment"]["sdkPipelineOptions"]["options"]


@pytest.fixture(scope="module")
def python() -> str:
    return python_with_maskbeam()


Launch = Callable[..., Launched]


@pytest.fixture(scope="module")
def launch(python: str, storage: StorageServer, machine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """The launcher's call, in a folder that has the image's main.py and no more, on a machine without network."""
    template = tmp_path_factory.mktemp("template")
    shutil.copy(CHECKOUT / "deploy" / "main.py", template)
    (template / "sitecustomize.py").write_text(NO_NETWORK)

    def launches(*more: str, **given: str) -> Launched:
        where = f"gs://bkt/staging/template_launches/{uuid.uuid4().hex}/job_object"
        options = {"annotations": "gs://bkt/instances.json", "images": "gs://bkt/images", "output": "gs://bkt/out", **given}
        service = ["--job_name=demo", "--region=us-central1", "--runner=DataflowRunner", "--project=a-project"]
        service += [f"--template_location={where}", "--temp_location=gs://bkt/temp"]
        users = [f"--{name}={value}" for name, value in options.items()]
        environment = {name: value for name, value in storage.environment.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {"PYTHONPATH": str(template), "MASKBEAM_IMAGE": IMAGE, **machine}
        command = [python, str(template / "main.py"), *service, *users, *more]
        done = subprocess.run(command, cwd=template, env=environment, capture_output=True, text=True, timeout=180, check=False)
        folder, name = where.rsplit("/", 1)
        found = storage.objects(folder).get(name)
        return Launched(done.returncode, done.stdout, done.stderr, json.loads(found) if found else None)

    return launches


def staged(storage: StorageServer, launched: Launched) -> dict[str, bytes]:
    """What the job brings for its workers."""
    return storage.objects(launched.options["pipelineUrl"].removesuffix("/pipeline.pb"))


def work(python: str, storage: StorageServer, launched: Launched, folder: Path) -> None:
    """Does what the service's workers do."""
    (folder / "pipeline.pb").write_bytes(staged(storage, launched)["pipeline.pb"])
    command = [python, str(RUN_STAGED_GRAPH), str(folder / "pipeline.pb")]
    done = subprocess.run(command, cwd=folder, env=storage.environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert str(CHECKOUT / "beam_pipeline") not in done.stdout


# ------------------------------------------------------------------------------------------------------- the launch


@pytest.fixture(scope="module")
def plain(launch: Launch) -> Launched:
    return launch(output="gs://bkt/plain", num_shards="2", splits="train=0.7,val=0.3")


def test_a_launch_writes_the_graph_and_comes_to_an_end(plain: Launched) -> None:
    assert plain.status == 0, plain.err
    assert plain.out == "gs://bkt/plain is complete once it has _SUCCESS; maskbeam verify reads it then\n"
    assert "Traceback" not in plain.err
    assert plain.job["name"] == "demo"


def test_workers_get_the_image_and_nothing_else(plain: Launched, storage: StorageServer) -> None:
    files = staged(storage, plain)
    assert set(files) == {"pipeline.pb", "submission_environment_dependencies.txt"}  # the latter only a list
    graph = beam_runner_api_pb2.Pipeline.FromString(files["pipeline.pb"])
    environments = list(graph.components.environments.values())
    images = {beam_runner_api_pb2.DockerPayload.FromString(one.payload).container_image for one in environments}
    assert images == {IMAGE}
    [pool] = plain.job["environment"]["workerPools"]
    assert pool["sdkHarnessContainerImages"][0]["containerImage"] == IMAGE
    assert {name.split("/")[0] for one in graph.components.transforms.values() for name in [one.unique_name]} >= {
        "ReadAnnotations",
        "Rasterize",
        "WriteShards",
        "Publish",
    }


def test_the_job_completes_the_data_set_and_clears_up(
    plain: Launched, python: str, storage: StorageServer, tmp_path: Path, demo_output: Output
) -> None:
    assert set(storage.objects("gs://bkt/plain")) == {"_temporary/started"}
    work(python, storage, plain, tmp_path)
    found = published(storage.objects("gs://bkt/plain"), "gs://bkt/instances.json", "gs://bkt/images")
    options = json.loads(files_below(demo_output.folder)["manifest.json"])["options"]
    expected = published(files_below(demo_output.folder), options["annotations"], options["images"])
    assert found == expected


def test_an_output_that_holds_a_data_set_is_refused_at_launch(launch: Launch, storage: StorageServer) -> None:
    storage.client().bucket("bkt").blob("taken/_SUCCESS").upload_from_string(b"")
    done = launch(output="gs://bkt/taken")
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert "gs://bkt/taken holds a data set already" in done.err
    assert done.job is None
    assert set(storage.objects("gs://bkt/taken")) == {"_SUCCESS"}


# --------------------------------------------------------------------------------------------------- the parameters


OTHERS = {
    "masks": "gs://bkt/images",
    "class_attribute": "kind",
    "faces_only": "true",
    "check_images": "header",
    "mask_encoding": "png1",
    "boxes": "mask",
    "category_ids": "contiguous",
    "max_side": "600",
    "tile": "700x650",
    "tile_overlap": "16",
    "tile_min_share": "0.2",
    "splits": "train=0.9,val=0.1",
    "split_by": r"^(.)",
    "num_shards": "2",
    "categories": "gs://bkt/classes.yaml",
    "min_area": "2.0",
    "drop_crowds": "true",
    "drop_annotations_without_mask": "true",
    "drop_images_without_annotations": "true",
    "max_record_mb": "1.5",
    "max_megapixels": "0.75",
    "max_points": "5000",
    "max_instances": "900",
    "max_reject_fraction": "0.25",
    "trainer_config": "mask_rcnn_inception_v2_coco",
}
"""Values that are not the defaults."""
SEEN_OTHERWISE = {"annotations", "images", "format", "output", "overwrite", "resume"}
NEVER_BAD = {"class_attribute"}
"""Those that take any text."""
BAD = {
    "annotations": "gs://bkt/nothing.json",
    "images": "gs://bkt/nothing",
    "format": "doc",
    "masks": "gs://bkt/nothing",
    "faces_only": "maybe",
    "check_images": "none",
    "output": "gs://no-such-bucket/out",
    "overwrite": "yes",
    "resume": "1",
    "mask_encoding": "gif",
    "boxes": "masks",
    "category_ids": "zero",
    "max_side": "0",
    "tile": "512",
    "tile_overlap": "1.5",
    "tile_min_share": "110%",
    "splits": "train=0.5",
    "split_by": "(",
    "num_shards": "0",
    "categories": "gs://bkt/nothing.yaml",
    "min_area": "none",
    "drop_crowds": "no",
    "drop_annotations_without_mask": "on",
    "drop_images_without_annotations": "y",
    "max_record_mb": "4000",
    "max_megapixels": "-1",
    "max_points": "1.5",
    "max_instances": "many",
    "max_reject_fraction": "5%",
    "trainer_config": "yolo",
}
NAMES = [one.name for one in parameters()]


def test_every_parameter_is_tried() -> None:
    assert set(OTHERS) | SEEN_OTHERWISE == set(NAMES)
    assert set(BAD) | NEVER_BAD == set(NAMES)


def as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_parameter_reaches_the_job(launch: Launch, python: str, storage: StorageServer, tmp_path: Path) -> None:
    """Seen in what the job has done: its manifest's options, and where it has read and written."""
    storage.client().bucket("bkt").blob("classes.yaml").upload_from_string("{}")
    first = launch(output="gs://bkt/all", **OTHERS)
    assert first.status == 0, first.err
    work(python, storage, first, tmp_path)
    files = storage.objects("gs://bkt/all")
    manifest = json.loads(files["manifest.json"])
    assert {name: as_text(manifest["options"][name]) for name in OTHERS} == OTHERS
    assert {name for name in OTHERS if as_text(getattr(RunOptions, name)) == OTHERS[name]} == set()
    assert manifest["options"]["annotations"] == "gs://bkt/instances.json"
    assert manifest["options"]["images"] == "gs://bkt/images"
    assert {"pipeline.config", "train-00001-of-00002.tfrecord", "val-00001-of-00002.tfrecord"} <= set(files)
    state = next(name for name in files if name.startswith("_state/train-"))

    storage.client().bucket("bkt").blob("all/train-00000-of-00002.tfrecord").delete()
    second = launch(output="gs://bkt/all", resume="true", format="auto", **OTHERS)
    assert "--format coco for instances.json: " in second.err
    before = written_at(storage, "all/")
    work(python, storage, second, tmp_path)
    after = written_at(storage, "all/")
    assert but_for_time(storage.objects("gs://bkt/all")) == but_for_time(files)
    assert after["all/train-00000-of-00002.tfrecord"] not in before.values()
    kept = {name for name in before if after.get(name) == before[name]}
    assert "all/train-00001-of-00002.tfrecord" in kept

    third = launch(output="gs://bkt/all", overwrite="true", resume="false", **OTHERS | {"boxes": ""})
    assert third.status == 0, third.err
    work(python, storage, third, tmp_path)
    replaced = storage.objects("gs://bkt/all")
    assert json.loads(replaced["manifest.json"])["options"] == {**manifest["options"], "boxes": "annotation"}
    assert replaced[state] != files[state]
    assert set(replaced) == set(files)


def written_at(storage: StorageServer, prefix: str) -> dict[str, str]:
    return {blob.name: str(blob.time_created) for blob in storage.client().bucket("bkt").list_blobs(prefix=prefix)}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_parameter_fails_at_launch_by_its_name(launch: Launch, storage: StorageServer, name: str) -> None:
    done = launch(**{"output": "gs://bkt/bad", name: BAD[name]})
    assert done.status == 2
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert re.search(rf"--{name}\b", done.err)
    assert BAD[name] in done.err
    assert done.job is None
    assert storage.objects("gs://bkt/bad") == {}


def test_a_parameter_that_there_is_not_fails_at_launch(launch: Launch) -> None:
    done = launch(output="gs://bkt/bad", num_shard="3")
    assert done.status == 2
    assert "unknown option --num_shard: did you mean --num_shards?" in done.err


# -------------------------------------------------------------------------------------------------------- the image


@on_its_python
def test_the_image_can_be_built_from_the_checkout(python: str, tmp_path: Path) -> None:
    """The Dockerfile's steps, each stage in a folder of its own: what is copied is there, and what is run does its work.

    Beam's image is stood in for by an environment that has what is pinned, and can't fetch anything else.
    """
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    )
    stages: dict[str, Path] = {}
    environment: dict[str, str] = {}
    for step in DockerfileParser(str(CHECKOUT / "deploy")).structure:
        instruction, words = step["instruction"], step["value"].split()
        if instruction == "FROM":
            name, before = words[-1] if "AS" in words else "final", stages.get(words[0])
            stage = stages[name] = tmp_path / name
            shutil.copytree(before, stage, symlinks=True) if before else stage.mkdir()
            if name == "launcher":
                launcher = stage / "opt" / "google" / "dataflow" / "python_template_launcher"
                launcher.parent.mkdir(parents=True)
                launcher.write_text("Google's")
            subprocess.run([python, "-m", "venv", "--without-pip", str(stage / "python")], check=True)
            [own] = (stage / "python" / "lib").glob("python*/site-packages")
            (own / "pinned.pth").write_text(packages.stdout)
            pip = stage / "python" / "bin" / "pip"
            pip.write_text('#!/bin/sh\nexec python -m pip "$@"\n')
            pip.chmod(0o755)
            folder = stage
            environment = {"PATH": f"{stage}/python/bin:{os.defpath}", "PIP_NO_INDEX": "1", "PIP_QUIET": "1", "HOME": str(stage)}
        elif instruction == "WORKDIR":
            folder = stage / words[0].lstrip("/")
            folder.mkdir(parents=True)
        elif instruction == "COPY":
            origin = stages[words.pop(0).removeprefix("--from=")] if words[0].startswith("--") else CHECKOUT
            *sources, target = words
            put = stage / target.lstrip("/") if target.startswith("/") else folder / target
            for source in sources:
                copy(origin / source.lstrip("/"), put, into=target.endswith("/"))
        elif instruction == "RUN":
            script = re.sub(r"(?<= )(?=/(template|sdist))", str(stage), step["value"])
            subprocess.run(["bash", "-ec", script], cwd=folder, env=environment, check=True)
        elif instruction == "ENV":
            environment |= dict(word.split("=", 1) for word in words)
    assert environment["FLEX_TEMPLATE_PYTHON_PY_FILE"] == "/template/main.py"
    assert environment["MASKBEAM_IMAGE"] == "${IMAGE}"
    assert not {"FLEX_TEMPLATE_PYTHON_SETUP_FILE", "FLEX_TEMPLATE_PYTHON_REQUIREMENTS_FILE"} & set(environment)
    assert (stage / "template" / "main.py").read_text() == (CHECKOUT / "deploy" / "main.py").read_text()
    assert (stage / "opt/google/dataflow/python_template_launcher").is_file()
    [installed] = (stage / "python" / "lib").glob("python*/site-packages/beam_pipeline/pipeline.py")
    assert installed.read_bytes() == (CHECKOUT / "beam_pipeline" / "pipeline.py").read_bytes()


def copy(source: Path, target: Path, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return
    place = target / source.name if into else target
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)


def test_all_of_the_image_is_pinned() -> None:
    steps = DockerfileParser(str(CHECKOUT / "deploy")).structure
    images = [step["value"].partition("=")[2] for step in steps if step["instruction"] == "ARG" and "=" in step["value"]]
    assert len(images) == 2
    assert all(re.fullmatch(r"[a-z0-9./_-]+(@sha256:[0-9a-f]{64}|:\d+\.\d+\.\d+)", image) for image in images)
    pinned = [line for line in PINNED.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert len(pinned) > 50
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+( ; .*)?", line) for line in pinned)
    [beam] = [line for line in pinned if line.startswith("apache-beam==")]
    assert images[0].endswith(":" + beam.removeprefix("apache-beam=="))
    assert not any(re.match(r"tensorflow(?!-metadata)", line) for line in pinned)


@on_its_python
def test_the_environment_of_these_tests_is_that_of_the_image(python: str) -> None:
    listed = subprocess.run([python, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True).stdout
    installed = {re.sub(r"[._]", "-", line.split("==")[0].lower()): line.split("==")[-1] for line in listed.splitlines()}
    pinned = dict(line.split(" ;")[0].split("==") for line in PINNED.read_text().splitlines() if "==" in line)
    ours = {name for name in installed if name.startswith("maskbeam")} | {"pip"}
    assert {name: version for name, version in installed.items() if name not in ours} == pinned
