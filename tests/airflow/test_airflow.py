"""The DAGs of deploy/airflow in a real Airflow: `make test-airflow`.

Airflow has an environment of its own, without maskbeam and without Beam; the local pipeline runs in another, that has our source
distribution and nothing of the checkout. Only Google's side of Dataflow is a server of the tests' own: when it gets a launch,
it runs the job with the very parameters that were posted, on a real emulator of GCS.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Data, Output, digests
from dataflow_server import DataflowServer, dataflow_server
from documented import command_on
from environments import python_of, python_with_maskbeam
from google.cloud.dataflow_v1beta3.types import LaunchFlexTemplateRequest
from storage_server import StorageServer, files_below, published, storage_server

HERE = Path(__file__).resolve().parent
DAGS = HERE.parents[1] / "deploy" / "airflow"
DAY, FOLDER = "2026-01-02T00:00:00+00:00", "20260102T000000"
MAXIMUM = 600  # seconds that any of Airflow's processes may take; more is a hang, and a failure
OPTIONS = {"splits": "train=0.7,val=0.3", "num_shards": 2}


class Ran(NamedTuple):
    """What an Airflow process has answered, and its log."""

    answer: Any
    log: str


class Airflow:
    """An Airflow with a database of its own; `environment` is what its processes see."""

    def __init__(self, home: Path) -> None:
        self.python, self.home = Path(python_of("airflow")), home
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "PATH": path,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",  # seconds, where others write
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.call("airflow", "db", "migrate")

    def call(self, *command: str, **environment: str) -> str:
        """Runs a command to its end; what it says."""
        seen = {**self.environment, **environment}
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, env=seen, **both, text=True, timeout=MAXIMUM, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def run(self, *arguments: str, **environment: str) -> Ran:
        """`run_dags.py` with these arguments, after that for its answer."""
        answer = self.home / "answer.json"
        log = self.call(str(self.python), str(HERE / "run_dags.py"), str(answer), *arguments, **environment)
        return Ran(json.loads(answer.read_text()), log)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """What the database answers."""
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db", timeout=60)) as database:
            return database.execute(sql).fetchall()


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    return Airflow(tmp_path_factory.mktemp("airflow"))


# ------------------------------------------------------------------------------------------------------- the folder


def test_the_folder_has_two_dags_and_gives_no_errors_or_warnings(airflow: Airflow) -> None:
    found, log = airflow.run()
    assert not found["errors"], log
    assert not found["warnings"], log
    assert sorted(found["dags"]) == ["maskbeam_flex", "maskbeam_local"]
    assert not {"apache_beam", "beam_pipeline", "transforms", "tensorflow"} & set(found["imported"])
    for dag in found["dags"].values():
        assert (dag["catchup"], dag["depends_on_past"], dag["retries"]) == (False, False, [2])
        assert dag["downstream"]["check_dataset"] == ["downstream"]
        assert [name for name, after in dag["downstream"].items() if "downstream" in after] == ["check_dataset"]


# ------------------------------------------------------------------------------------------------------- the local one


class Local(NamedTuple):
    """The local DAG on the demo's data: where its data sets go, and how it is run."""

    folder: Path
    environment: dict[str, str]
    run: Callable[..., Ran]


@pytest.fixture
def local(airflow: Airflow, demo_data: Data, tmp_path: Path) -> Local:
    folder = tmp_path / "datasets"
    variable = {"annotations": str(demo_data.annotations), "images": str(demo_data.images), "output": str(folder)}

    environment = {
        "AIRFLOW_VAR_MASKBEAM_LOCAL": json.dumps({**variable, "options": OPTIONS}),
        "MASKBEAM_PYTHON": python_with_maskbeam(),
    }

    def run(*runs: dict[str, Any], **changed: str) -> Ran:
        return airflow.run("maskbeam_local", json.dumps(runs), **{**environment, **changed})

    return Local(folder, environment, run)


@pytest.fixture(scope="session")
def direct(run_demo: Callable[..., Output]) -> Output:
    """What `maskbeam run` makes of the demo's data with the same options, without Airflow."""
    return run_demo(splits=OPTIONS["splits"], num_shards=str(OPTIONS["num_shards"]))


def test_the_local_one_makes_the_records_and_a_second_run_leaves_them(
    local: Local, direct: Output, demo_data: Data, tf: Any
) -> None:
    output = local.folder / FOLDER
    ran, log = local.run({"logical_date": DAY})
    assert ran[0]["state"] == "success", log
    assert {state for state, _ in ran[0]["tasks"].values()} == {"success"}
    assert digests(output) == digests(direct.folder)
    check_ledger(output, demo_data, tf)

    shards = {path: path.stat().st_mtime_ns for path in output.glob("*.tfrecord")}
    assert len(shards) == 4
    ran, log = local.run({"logical_date": DAY})
    assert ran[0]["state"] == "success", log
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert digests(output) == digests(direct.folder)
    assert [path.name for path in local.folder.iterdir()] == [FOLDER]


def check_ledger(output: Path, data: Data, tf: Any) -> None:
    """All images and annotations are in the records or among the rejects, counted there and in the annotations."""
    truth = json.loads(data.annotations.read_text())
    shards = [str(path) for path in output.glob("*.tfrecord")]
    records = [tf.train.Example.FromString(one.numpy()) for one in tf.data.TFRecordDataset(shards)]
    instances = sum(len(one.features.feature["image/object/class/label"].int64_list.value) for one in records)
    rejects = [json.loads(line)["kind"] for line in (output / "rejects.jsonl").read_text().splitlines()]
    assert len(records) + rejects.count("image") == len(truth["images"])
    assert instances + rejects.count("annotation") == len(truth["annotations"])
    assert min(len(records), instances, rejects.count("image"), rejects.count("annotation")) > 0


class Killer(threading.Thread):
    """Kills the local job that writes to `output` once its first shard is there; then `killed` is set."""

    def __init__(self, output: Path) -> None:
        super().__init__(daemon=True)
        self.output, self.killed = output, threading.Event()
        self.over = threading.Event()

    def run(self) -> None:
        argument, job = f"--output={self.output}".encode(), None
        while not self.over.wait(0.002):
            job = job or next((pid for pid in pids() if argument in command_of(pid)), None)
            if job and any(self.output.glob("*.tfrecord")):
                os.kill(job, signal.SIGKILL)
                if not (self.output / "_SUCCESS").exists():
                    self.killed.set()
                return


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def command_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it is gone
        return []


def test_a_backfill_under_the_scheduler_gives_the_same_bytes_for_each_date_even_if_a_job_is_killed(
    airflow: Airflow, local: Local, direct: Output
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    seen = {
        **local.environment,
        "AIRFLOW__API__PORT": port,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": "of these tests, and long enough for its algorithm's taste: sixty-four bytes",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{port}/execution/",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",  # of themselves, no runs
    }
    names = [
        "20260201T000000",
        "20260202T000000",
        "20260203T000000",
    ]  # dates that have no run yet: a backfill leaves others alone
    airflow.call("airflow", "dags", "reserialize", **seen)
    airflow.call("airflow", "dags", "unpause", "maskbeam_local", **seen)
    command = command_on("deploy/airflow/README.md", "airflow backfill create ", maskbeam_flex="maskbeam_local")
    command = command.replace("2026-01-01", "2026-02-01").replace("2026-01-31", "2026-02-03")
    airflow.call(*shlex.split(command), "--max-active-runs", "1", **seen)
    killer = Killer(local.folder / names[0])
    killer.start()
    log = airflow.home / "scheduler.log"
    with log.open("wb") as file:
        services = [
            subprocess.Popen(
                ["airflow", *command], env={**airflow.environment, **seen}, stdout=file, stderr=file, start_new_session=True
            )
            for command in (["api-server"], ["scheduler", "--skip-serve-logs"])
        ]
        try:
            wait_for_backfill(airflow, services)
        finally:
            killer.over.set()
            for service in services:
                os.killpg(service.pid, signal.SIGTERM)
            for service in services:
                service.wait(60)
    runs = airflow.query("SELECT state FROM dag_run WHERE run_type = 'backfill'")
    assert runs == [("success",)] * 3, log.read_text()
    assert killer.killed.is_set()
    tasks = "task_instance JOIN dag_run USING (dag_id, run_id) WHERE run_type = 'backfill' AND task_id = 'run_here'"
    assert airflow.query(f"SELECT try_number FROM {tasks} ORDER BY logical_date") == [(2,), (1,), (1,)]
    assert sorted(path.name for path in local.folder.iterdir()) == names
    for name in names:
        assert digests(local.folder / name) == digests(direct.folder)


def wait_for_backfill(airflow: Airflow, services: list[subprocess.Popen[bytes]]) -> None:
    """Until none of its runs is queued or running any more."""
    deadline = time.monotonic() + MAXIMUM
    while airflow.query("SELECT 1 FROM dag_run WHERE run_type = 'backfill' AND state IN ('queued', 'running')"):
        assert all(service.poll() is None for service in services), (airflow.home / "scheduler.log").read_text()
        assert time.monotonic() < deadline, (airflow.home / "scheduler.log").read_text()
        time.sleep(0.5)


# ------------------------------------------------------------------------------------------------------- the check

DOES_NOTHING = """\
#!/bin/sh
# A Python whose pipeline says that it is done, and has done nothing; Airflow first asks for Beam's version.
echo 2.77.0
"""


def test_downstream_tasks_wait_for_a_data_set_that_is_good_enough(local: Local, direct: Output, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(DOES_NOTHING)
    python.chmod(0o755)
    rejects = [json.loads(line)["kind"] for line in (direct.folder / "rejects.jsonl").read_text().splitlines()]
    images, lost = direct.manifest["images"]["read"], rejects.count("image")
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"min_records": images - lost, "max_reject_fraction": 0.1}, None),
        ({"options": {"drop_crowds": "False", "max_megapixels": "100", "split_by": ""}}, None),
        ({"options": {"drop_crowds": "true"}}, "with drop_crowds=False, expected drop_crowds=true"),
        (
            {"min_records": images - lost + 1},
            f"it has {images - lost} records, expected at least {images - lost + 1} (min_records)",
        ),
        (
            {"max_reject_fraction": 0.001},
            f"{lost} of {images} images were rejected (3.3%), expected at most 0.1% (max_reject_frac",
        ),
        (
            {"options": {"splits": "train=1"}},
            f"manifest is of another job, with splits={OPTIONS['splits']}, expected splits=train=1",
        ),
        ({"images": "/elsewhere"}, "expected images=/elsewhere"),
        ({"min_records": 1}, "there is no _SUCCESS, so the data set is not complete"),
    ]
    for day in range(1, len(cases) + 1):
        shutil.copytree(direct.folder, local.folder / f"202601{day:02d}T000000")
    (local.folder / f"202601{len(cases):02d}T000000" / "_SUCCESS").unlink()

    runs = [{"logical_date": f"2026-01-{day:02d}T00:00:00+00:00", "conf": conf} for day, (conf, _) in enumerate(cases, 1)]
    ran, log = local.run(*runs, MASKBEAM_PYTHON=str(python))
    for one, (conf, message) in zip(ran, cases, strict=True):
        assert one["tasks"]["run_here"] == ["success", 1]
        if message is None:
            assert one["state"] == one["tasks"]["downstream"][0] == "success", conf
        else:
            assert one["state"] == "failed", conf
            assert one["tasks"]["check_dataset"] == ["failed", 1], conf  # without another try: it would say the same
            assert one["tasks"]["downstream"][0] == "upstream_failed", conf
            assert log.count(message) > 0, message


def test_settings_that_are_missing_or_unknown_are_named(local: Local) -> None:
    runs = [{"logical_date": DAY, "conf": {"output": ""}}, {"logical_date": DAY, "conf": {"min_record": 5}}]
    ran, log = local.run(*runs)
    for one in ran:
        assert one["tasks"]["plan_run"] == ["failed", 1]
        assert one["tasks"]["run_here"][0] == "upstream_failed"
    assert "output: not set; the Variable maskbeam_local, a JSON object, is where to" in log
    assert "there is no setting min_record, expected none but annotations, images, output, options, min_records" in log
    assert not local.folder.exists()


# ------------------------------------------------------------------------------------------------------- the flex one

METADATA = HERE.parents[1] / "templates" / "flex" / "metadata.json"
TEMPLATE = "gs://bkt/templates/maskbeam.json"
ANONYMOUS = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "test"}}


class Flex(NamedTuple):
    """The flex DAG between Google's two services: a bucket with the demo's data, and what takes jobs and runs them."""

    storage: StorageServer
    dataflow: DataflowServer
    run: Callable[..., Ran]
    jobs: list[subprocess.CompletedProcess[str]]


@pytest.fixture
def flex(airflow: Airflow, demo_data: Data) -> Iterator[Flex]:
    jobs: list[subprocess.CompletedProcess[str]] = []
    variable = {
        "project": "test",
        "region": "europe-west4",
        "template": TEMPLATE,
        "environment": {"tempLocation": "gs://bkt/tmp", "maxWorkers": 8},
        "annotations": "gs://bkt/in/annotations.json",
        "images": "gs://bkt/in/images",
        "output": "gs://bkt/out/",
        "options": {**OPTIONS, "drop_crowds": False, "max_reject_fraction": 0.1},
    }
    with storage_server() as storage, dataflow_server() as dataflow:
        storage.upload(demo_data.annotations.parent, "gs://bkt/in")

        def work(_: dict[str, Any]) -> str | None:
            [*_, launch] = dataflow.bodies("POST", "/flexTemplates:launch")
            parameters = launch["launchParameter"]["parameters"]
            jobs.append(storage.run_maskbeam("run", *(f"--{name}={value}" for name, value in parameters.items())))
            return jobs[-1].stderr if jobs[-1].returncode else None

        def run(*runs: dict[str, Any], ends: tuple[str, ...] = ()) -> Ran:
            """The first jobs end in these states, and do nothing; the others are done."""
            left = list(ends)

            def plan_next(_: object = None) -> None:
                if left:
                    dataflow.plan("JOB_STATE_RUNNING", left.pop(0), work=plan_next)
                else:
                    dataflow.plan(work=work)

            plan_next()
            return airflow.run(
                "maskbeam_flex",
                json.dumps(runs),
                dataflow.endpoint,
                STORAGE_EMULATOR_HOST=storage.endpoint,
                AIRFLOW_VAR_MASKBEAM_FLEX=json.dumps(variable),
                AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT=json.dumps(ANONYMOUS),
                GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",  # it would ask Google itself what kind of bucket this is
            )

        yield Flex(storage, dataflow, run, jobs)


def check_launch(body: dict[str, Any]) -> dict[str, str]:
    """What is posted is what the API and the template know, and nothing else; gives the parameters."""
    LaunchFlexTemplateRequest.from_json(json.dumps(body))  # which refuses what it does not know
    assert set(body) == {"launchParameter"}
    launch = body["launchParameter"]
    assert launch["containerSpecGcsPath"] == TEMPLATE
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", launch["jobName"])
    declared = {one["name"]: one for one in json.loads(METADATA.read_text())["parameters"]}
    given: dict[str, str] = launch["parameters"]
    assert given.keys() <= declared.keys()
    assert {name for name, one in declared.items() if not one["isOptional"]} <= given.keys()
    for name, text in given.items():
        one = declared[name]
        assert isinstance(text, str)
        assert all(re.search(regex, text) for regex in one.get("regexes", []))
        assert text in [choice["value"] for choice in one.get("enumOptions", [])] or "enumOptions" not in one
        assert one["paramType"] != "BOOLEAN" or text in ("true", "false")
        assert not one["paramType"].startswith("GCS_") or text.startswith("gs://")
        if one["paramType"] == "NUMBER":
            float(text)
    return given


def test_the_flex_one_posts_what_the_template_knows_and_waits_for_the_data_set(flex: Flex, direct: Output) -> None:
    ran, log = flex.run({"logical_date": DAY}, {"logical_date": None})
    bodies = flex.dataflow.bodies("POST", "/flexTemplates:launch")
    assert [job.returncode for job in flex.jobs] == [0, 0], [job.stderr for job in flex.jobs]
    triggered = datetime.fromisoformat(ran[1]["run_after"]).strftime("%Y%m%dT%H%M%S%f")
    for one, body, name in zip(ran, bodies, (FOLDER, triggered), strict=True):
        assert one["state"] == "success", log
        assert {state for state, _ in one["tasks"].values()} == {"success"}
        output = f"gs://bkt/out/{name}"
        assert check_launch(body) == {
            "annotations": "gs://bkt/in/annotations.json",
            "images": "gs://bkt/in/images",
            "output": output,
            "resume": "true",
            "splits": OPTIONS["splits"],
            "num_shards": "2",
            "drop_crowds": "false",
            "max_reject_fraction": "0.1",
        }
        assert body["launchParameter"]["environment"] == {"tempLocation": "gs://bkt/tmp", "maxWorkers": 8}
        assert re.fullmatch(rf"maskbeam-{name.lower()}-[0-9a-f]{{8}}", body["launchParameter"]["jobName"])
        files = flex.storage.objects(output)
        made = json.loads(files["manifest.json"])["options"]
        expected = {**direct.manifest["options"], "annotations": made["annotations"], "images": made["images"]}
        assert made == {**expected, "max_reject_fraction": 0.1}
        given = direct.manifest["options"]
        there = published(files, made["annotations"], made["images"])
        here = published(files_below(direct.folder), given["annotations"], given["images"])
        assert {n: d for n, d in there.items() if n != "manifest.json"} == {n: d for n, d in here.items() if n != "manifest.json"}
    assert {request.path for request in flex.dataflow.requests if request.method == "POST"} == {
        "/v1b3/projects/test/locations/europe-west4/flexTemplates:launch"
    }


def test_a_job_that_fails_or_is_cancelled_is_launched_again_for_the_same_data_set(flex: Flex) -> None:
    ran, log = flex.run({"logical_date": DAY}, ends=("JOB_STATE_FAILED", "JOB_STATE_CANCELLED"))
    assert ran[0]["state"] == "success", log
    assert ran[0]["tasks"]["run_on_dataflow"] == ["success", 3]
    assert [job.returncode for job in flex.jobs] == [0]
    launches = [body["launchParameter"] for body in flex.dataflow.bodies("POST", "/flexTemplates:launch")]
    assert len({launch.pop("jobName") for launch in launches}) == 3
    assert launches[0] == launches[1] == launches[2]
    assert launches[0]["parameters"]["resume"] == "true"
