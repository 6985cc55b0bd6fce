"""The flex template's launch as the launcher does it, from what the image has, and jobs run from the graphs that it stages.

The buckets are the emulator's. What the service has workers for is done by `run_staged_graph.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from conftest import Data, Output
from environments import python_with_maskbeam
from storage_server import StorageServer, files_below, published, storage_server

from beam_pipeline.reference import CHECKOUT

IMAGE = "us-docker.pkg.dev/a-project/tools/maskbeam:1"
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


@pytest.fixture(scope="module")
def storage(demo_data: Data) -> Iterator[StorageServer]:
    with storage_server() as server:
        server.upload(demo_data.annotations, "gs://bkt/instances.json")
        server.upload(demo_data.images, "gs://bkt/images")
        yield server


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
    assert plain.out == "the job's graph is written; the job that is launched from it writes gs://bkt/plain\n"
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
