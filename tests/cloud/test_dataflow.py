"""A job for Dataflow, as a user types it: what is staged, what the service is asked for, and what is seen of it.

Google's side is `dataflow_server`, and the buckets are the emulator's. What the service has workers for is done by
`run_staged_graph.py`, in a Python that has nothing of this checkout but what was staged.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from conftest import Data
from dataflow_server import FORBIDDEN, DataflowServer, dataflow_server
from documented import command_on
from environments import python_with_maskbeam
from storage_server import StorageServer, files_below, published

IMAGE = "europe-docker.pkg.dev/a-project/maskbeam/worker:1.2"
AS_ON_GOOGLES_HOST = """\
import sys, time
from apache_beam.internal.gcp import auth
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.2))
auth._Credentials._credentials_init = True
PipelineOptionsValidator.is_service_runner = lambda self: True
PipelineOptionsValidator.validate_endpoint_url = lambda self, url: True
from beam_pipeline.cli import main
sys.exit(main())
"""
"""Beam does not take a service at localhost for Google's, and then has other defaults than there, and checks less.
It asks for a job's state every five seconds, which would be most of the time that these tests take."""


@pytest.fixture(scope="module")
def service() -> Iterator[DataflowServer]:
    with dataflow_server() as server:
        yield server


class Submitted:
    """What came of one command: its process, the job as the service got it, and what lies in its staging folder."""

    def __init__(self, done: subprocess.CompletedProcess[str], job: dict[str, Any], storage: StorageServer) -> None:
        self.status, self.out, self.err, self.job = done.returncode, done.stdout, done.stderr, job
        self._storage = storage

    @property
    def environment(self) -> dict[str, Any]:
        return self.job["environment"]

    @property
    def options(self) -> dict[str, Any]:
        return self.environment["sdkPipelineOptions"]["options"]

    @property
    def pool(self) -> dict[str, Any]:
        [pool] = self.environment["workerPools"]
        return pool

    @property
    def staged(self) -> dict[str, bytes]:
        return staged_files(self.job, self._storage)

    @property
    def graph(self) -> beam_runner_api_pb2.Pipeline:
        return beam_runner_api_pb2.Pipeline.FromString(self.staged["pipeline.pb"])


def staged_files(job: dict[str, Any], storage: StorageServer) -> dict[str, bytes]:
    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    return storage.objects(url.removesuffix("/pipeline.pb"))


@pytest.fixture(scope="module")
def submit(service: DataflowServer, storage: StorageServer) -> Callable[..., Submitted]:
    """Runs `maskbeam run … --runner=DataflowRunner` to its end; options given replace others, None leaves one out."""

    def submits(*more: str, **given: str | None) -> Submitted:
        options: dict[str, str | None] = {
            "annotations": "gs://bkt/instances.json",
            "images": "gs://bkt/images",
            "output": "gs://bkt/out",
            "runner": "DataflowRunner",
            "project": "a-project",
            "region": "europe-west4",
            "temp_location": "gs://bkt/temp",
            "dataflow_endpoint": service.endpoint,
        }
        options |= given
        command = [sys.executable, "-c", AS_ON_GOOGLES_HOST, "run", "--no_auth", *more]
        command += [f"--{name}={value}" for name, value in options.items() if value is not None]
        before = len(service.jobs)
        done = subprocess.run(command, env=storage.environment, capture_output=True, text=True, timeout=180, check=False)
        return Submitted(done, (service.jobs[before:] or [{}])[0], storage)

    return submits


@pytest.fixture(scope="module")
def plain(submit: Callable[..., Submitted], service: DataflowServer) -> Submitted:
    """A job with no more options than there have to be."""
    service.plan()
    return submit(output="gs://bkt/plain")


@pytest.fixture(scope="module")
def tuned(submit: Callable[..., Submitted], service: DataflowServer) -> Submitted:
    """A job with all the options that a company has wishes for."""
    service.plan()
    return submit(
        "--no_use_public_ips",
        "--labels=team=vision",
        "--labels=maskbeam=ours",
        "--experiments=shuffle_mode=appliance",
        output="gs://bkt/tuned",
        sdk_container_image=IMAGE,
        job_name="nightly-records",
        machine_type="n2-highmem-8",
        disk_size_gb="120",
        worker_disk_type="compute.googleapis.com/projects//zones//diskTypes/pd-ssd",
        num_workers="40",
        autoscaling_algorithm="NONE",
        number_of_worker_harness_threads="3",
        service_account_email="worker@a-project.iam.gserviceaccount.com",
        network="a-network",
        subnetwork="regions/europe-west4/subnetworks/a-subnetwork",
        staging_location="gs://bkt/staging",
    )


def test_the_command_of_the_page(
    service: DataflowServer,
    storage: StorageServer,
    workers: Callable[[dict[str, Any]], str | None],
    demo_data: Data,
) -> None:
    names = {"BUCKET": "bkt", "PROJECT": "a-project", "REGION": "europe-west4"}
    command = shlex.split(command_on("deploy/dataflow.md", "maskbeam run ", **names))[1:]
    storage.upload(demo_data.images, "gs://bkt/photos")
    service.plan(work=workers)
    before = len(service.jobs)
    program = [sys.executable, "-c", AS_ON_GOOGLES_HOST, *command, "--no_auth", f"--dataflow_endpoint={service.endpoint}"]
    done = subprocess.run(program, env=storage.environment, capture_output=True, text=True, timeout=180, check=False)
    [job] = service.jobs[before:]
    options = job["environment"]["sdkPipelineOptions"]["options"]
    assert (options["project"], options["region"]) == ("a-project", "europe-west4")
    assert options["temp_location"].startswith("gs://bkt/temp/")
    assert done.returncode == 0, done.stderr
    assert "29 of 30 images and 212 of 220 annotations written" in done.stdout
    assert "_SUCCESS" in storage.objects("gs://bkt/records")


# ------------------------------------------------------------------------------------------------------------ the graph

STEPS = [
    "ReadAnnotations/FindFiles",
    "ReadAnnotations/CutBlocks",
    "ReadAnnotations/SpreadBlocks",
    "ReadAnnotations/ParseBlocks",
    "ReadAnnotations/GroupByImage",
    "ReadAnnotations/Meet",
    "Count",
    "PlanShards",
    "ClearOutput",
    "Rasterize",
    "AssignShards",
    "WriteShards",
    "Summarize",
    "AllRejects",
    "Publish",
    "Publish/GroupRejects",
    "Publish/Finish",
]


def test_the_staged_graph_has_the_steps_by_their_names(plain: Submitted) -> None:
    names = {transform.unique_name for transform in plain.graph.components.transforms.values()}
    for step in STEPS:
        assert any(name == step or name.startswith(f"{step}/") for name in names), step


@pytest.mark.parametrize("kind", ["plain", "tuned"])
def test_the_graph_knows_nothing_of_this_machine(kind: str, request: pytest.FixtureRequest) -> None:
    staged = request.getfixturevalue(kind).staged["pipeline.pb"]
    here = str(Path(__file__).resolve().parents[2])
    for found in (here, "/tmp/", str(Path.home())):
        assert found.encode() not in staged, found


def test_without_an_image_the_workers_get_what_runs_here(plain: Submitted) -> None:
    [environment] = plain.graph.components.environments.values()
    image = beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert image.startswith(f"gcr.io/cloud-dataflow/v1beta3/beam_python{python}_sdk:")
    [wheel] = [name for name in plain.staged if name.endswith(".whl")]
    assert sorted(plain.staged) == ["extra_packages.txt", wheel, "pipeline.pb", "submission_environment_dependencies.txt"]
    assert plain.staged["extra_packages.txt"].decode().split() == [wheel]
    assert {name for _, name in dependencies(environment)} == set(plain.staged) - {"pipeline.pb"}


def test_with_an_image_they_get_nothing_else(tuned: Submitted) -> None:
    [environment] = tuned.graph.components.environments.values()
    assert beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image == IMAGE
    assert sorted(tuned.staged) == ["pipeline.pb", "submission_environment_dependencies.txt"]
    assert tuned.pool["workerHarnessContainerImage"] == IMAGE
    assert [one["containerImage"] for one in tuned.pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert tuned.options["pipelineUrl"].startswith("gs://bkt/staging/nightly-records.")


def dependencies(environment: beam_runner_api_pb2.Environment) -> list[tuple[str, str]]:
    """Where each thing that a worker fetches lies, and the name that it gets there."""
    return [
        (
            beam_runner_api_pb2.ArtifactUrlPayload.FromString(one.type_payload).url,
            beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(one.role_payload).staged_name,
        )
        for one in environment.dependencies
    ]


@pytest.mark.parametrize("kind", ["plain", "tuned"])
def test_no_main_session_is_pickled(kind: str, request: pytest.FixtureRequest) -> None:
    job = request.getfixturevalue(kind)
    assert job.options["save_main_session"] is False
    assert not [name for name in job.staged if "session" in name]


def test_a_setup_file_brings_maskbeam_too(submit: Callable[..., Submitted], service: DataflowServer) -> None:
    service.plan()
    root = Path(__file__).resolve().parents[2]
    job = submit(output="gs://bkt/setup_file", setup_file=str(root / "setup.py"))
    assert "workflow.tar.gz" in job.staged, job.err
    assert not [name for name in job.staged if name.endswith(".whl")]


# -------------------------------------------------------------------------------------------------------------- the job


def test_what_is_asked_for_reaches_the_job(tuned: Submitted) -> None:
    assert tuned.job["name"] == "nightly-records"
    assert (tuned.job["projectId"], tuned.job["location"]) == ("a-project", "europe-west4")
    assert tuned.job["labels"] == {"team": "vision", "maskbeam": "ours"}
    pool = tuned.pool
    assert pool["machineType"] == "n2-highmem-8"
    assert pool["diskSizeGb"] == 120
    assert pool["diskType"] == "compute.googleapis.com/projects//zones//diskTypes/pd-ssd"
    assert pool["numWorkers"] == 40
    assert pool["autoscalingSettings"] == {"algorithm": 1, "maxNumWorkers": 40}  # AUTOSCALING_ALGORITHM_NONE
    assert pool["numThreadsPerWorker"] == 3
    assert pool["network"] == "a-network"
    assert pool["subnetwork"] == "regions/europe-west4/subnetworks/a-subnetwork"
    assert pool["ipConfiguration"] == 2  # WORKER_IP_PRIVATE
    assert tuned.environment["serviceAccountEmail"] == "worker@a-project.iam.gserviceaccount.com"
    assert [one for one in tuned.environment["experiments"] if one.startswith("shuffle_mode")] == ["shuffle_mode=appliance"]


def test_what_is_left_open_has_a_default(plain: Submitted) -> None:
    pool = plain.pool
    assert pool["machineType"] == "e2-standard-4"
    assert pool["diskSizeGb"] == 50
    assert "diskType" not in pool
    assert "numWorkers" not in pool
    assert pool["autoscalingSettings"] == {"algorithm": 2, "maxNumWorkers": 32}  # AUTOSCALING_ALGORITHM_BASIC
    assert pool["numThreadsPerWorker"] == 2
    assert "ipConfiguration" not in pool
    assert re.fullmatch(r"[a-z0-9_-]+", plain.job["labels"]["maskbeam"])


def test_it_is_a_batch_job_with_the_shuffle_service_and_without_streaming_engine(plain: Submitted) -> None:
    assert plain.job["type"] == 1  # JOB_TYPE_BATCH
    assert plain.environment["version"]["job_type"] == "FNAPI_BATCH"
    experiments = plain.environment["experiments"]
    assert {"shuffle_mode=service", "use_runner_v2", "use_multiple_sdk_containers"} <= set(experiments)
    assert not [one for one in experiments if "streaming_engine" in one or "windmill" in one]
    assert plain.options["enable_streaming_engine"] is False
    assert [one["useSingleCorePerContainer"] for one in plain.pool["sdkHarnessContainerImages"]] == [True]


# ------------------------------------------------------------------------------------------------------- how it is told


def test_a_line_with_id_and_address_after_submission_and_then_how_it_stands(
    submit: Callable[..., Submitted], service: DataflowServer
) -> None:
    service.plan("JOB_STATE_PENDING", "JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_FAILED", error="out of quota")
    done = submit(output="gs://bkt/told")
    job_id = done.job["id"]
    url = f"https://console.cloud.google.com/dataflow/jobs/europe-west4/{job_id}?project=a-project"
    submitted, *states, failed = done.err.splitlines()
    assert submitted == f"Created job with id: [{job_id}], see {url}"
    assert [re.sub(r"\d+ s$", "N s", line) for line in states] == [
        f"Dataflow: {s}, N s" for s in ("pending", "running", "failed")
    ]
    assert failed == f"maskbeam: the job failed: out of quota; see {url} (--verbose shows more)"
    assert done.status == 1
    assert done.out == ""


def test_a_job_that_can_no_longer_be_watched_is_not_called_dead(
    submit: Callable[..., Submitted], service: DataflowServer
) -> None:
    service.plan("JOB_STATE_RUNNING", "JOB_STATE_RUNNING", FORBIDDEN)
    done = submit(output="gs://bkt/unwatched")
    assert done.status == 1
    assert "Dataflow can't be asked any more how it stands" in done.err
    assert (
        f"no dataflow.jobs.get; it may go on: https://console.cloud.google.com/dataflow/jobs/europe-west4/{done.job['id']}"
        in done.err
    )


def test_a_job_that_the_service_does_not_take(submit: Callable[..., Submitted], service: DataflowServer) -> None:
    service.plan(refuse="The workflow could not be created. Causes: (1f): Dataflow is not enabled for a-project")
    done = submit(output="gs://bkt/refused")
    assert done.status == 1
    assert "the job failed: Dataflow does not take the job: " in done.err
    assert "The workflow could not be created. Causes: (1f): Dataflow is not enabled for a-project" in done.err
    assert len(done.err.splitlines()) == 1, done.err


def test_what_is_wrong_is_said_at_once(submit: Callable[..., Submitted], service: DataflowServer, storage: StorageServer) -> None:
    before = len(service.requests)
    given = {"temp_location": "gs://no-such-bucket/x"}, {"max_num_workers": "2", "num_workers": "3"}
    expected = (
        "--temp_location gs://no-such-bucket/x: there is no bucket no-such-bucket",
        "num_workers (3) cannot exceed max_num_",
    )
    for wrong, said in zip(given, expected, strict=True):
        done = submit(output="gs://bkt/wrong", **wrong)
        assert said in done.err
        assert done.status == 2
        assert len(done.err.splitlines()) == 1, done.err
    assert len(service.requests) == before
    assert not storage.objects("gs://bkt/wrong")


def test_nobody_waits_if_nobody_is_to(submit: Callable[..., Submitted], service: DataflowServer, storage: StorageServer) -> None:
    service.plan("JOB_STATE_RUNNING")
    done = submit("--no_wait_until_finish", output="gs://bkt/detached")
    assert done.status == 0
    assert [done.job["id"]] == re.findall(r"Created job with id: \[(.*?)\]", done.err)
    assert len(done.err.splitlines()) == 1
    assert done.out == "gs://bkt/detached is complete once it has _SUCCESS; maskbeam verify reads it then\n"


# ---------------------------------------------------------------------------------------------------------- the workers


@pytest.fixture(scope="module")
def workers(storage: StorageServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], str | None]:
    """Does what a job describes, with the packages that were staged for it, and none of this checkout."""
    python = python_with_maskbeam()

    def work(job: dict[str, Any]) -> str | None:
        folder = tmp_path_factory.mktemp("worker")
        for name, data in staged_files(job, storage).items():
            (folder / name).write_bytes(data)
        [wheel] = folder.glob("*.whl")
        install = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
            str(folder / "site"),
            str(wheel),
        ]
        subprocess.run(install, check=True)
        script = str(Path(__file__).with_name("run_staged_graph.py"))
        environment = storage.environment | {"PYTHONPATH": str(folder / "site")}  # before what else this Python has
        command = [python, "-P", script, "pipeline.pb"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr[done.stderr.index("Traceback") :]
        assert done.stdout.strip() == str(folder / "site" / "beam_pipeline" / "__init__.py")
        return None

    return work


def test_the_staged_graph_and_package_write_what_a_local_job_writes(
    submit: Callable[..., Submitted],
    service: DataflowServer,
    storage: StorageServer,
    workers: Callable[[dict[str, Any]], str | None],
    demo_data: Data,
    tmp_path: Path,
) -> None:
    options = ["--splits", "train=0.7,val=0.3", "--num_shards", "3"]
    service.plan("JOB_STATE_RUNNING", "JOB_STATE_DONE", work=workers, no_metrics=True)  # which is no reason to fail
    done = submit(*options, output="gs://bkt/done")
    assert done.status == 0, done.err
    local = ["--annotations", str(demo_data.annotations), "--images", str(demo_data.images), "--output", str(tmp_path / "local")]
    here = subprocess.run(
        [sys.executable, "-m", "beam_pipeline.cli", "run", *local, *options], capture_output=True, text=True, check=True
    )
    there, expected = storage.objects("gs://bkt/done"), files_below(tmp_path / "local")
    assert published(there, "gs://bkt/instances.json", "gs://bkt/images") == published(
        expected, str(demo_data.annotations), str(demo_data.images)
    )
    assert "29 of 30 images and 212 of 220 annotations written" in done.out
    figures = [line for line in here.stdout.splitlines() if line.startswith("  ")]
    assert [line for line in done.out.splitlines() if line.startswith("  ")] == figures


def test_input_that_the_workers_refuse_is_status_2(
    submit: Callable[..., Submitted], service: DataflowServer, workers: Callable[[dict[str, Any]], str | None]
) -> None:
    service.plan(work=workers)
    done = submit("--max_reject_fraction=0", output="gs://bkt/rejected")
    assert done.status == 2, done.err
    assert (
        "1 of 30 images (3.3%) can't be written, more than the 0.0% that --max_reject_fraction allows"
        in done.err.splitlines()[-1]
    )


def test_an_interruption_says_how_the_job_is_ended(service: DataflowServer, storage: StorageServer) -> None:
    service.plan("JOB_STATE_RUNNING")
    before = len(service.jobs)
    command = [sys.executable, "-c", AS_ON_GOOGLES_HOST, "run", "--no_auth", "--annotations=gs://bkt/instances.json"]
    command += ["--images=gs://bkt/images", "--output=gs://bkt/interrupted", "--runner=dataflow", "--project=a-project"]
    command += ["--region=europe-west4", "--temp_location=gs://bkt/temp", f"--dataflow_endpoint={service.endpoint}"]
    with subprocess.Popen(command, env=storage.environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and len(service.jobs) == before:
            time.sleep(0.2)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Created job")
        time.sleep(1)
        process.terminate()
        said = process.stderr.read()
    job_id = service.jobs[-1]["id"]
    assert process.returncode == 143
    assert f"the job goes on; gcloud dataflow jobs cancel {job_id} --project=a-project --region=europe-west4 ends it" in said
