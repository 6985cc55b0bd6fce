"""The same command on other engines: Flink and Spark as Beam's job servers start them on this machine, and Prism.

`make test-engines`. What can't be fetched here is skipped, with the reason. Workers are what they are on a cluster: processes
of their own, from an environment that has nothing but our source distribution. What is written must equal what `FnApiRunner`
writes, every byte of it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from apache_beam.runners.portability.spark_runner import SPARK_JAR_JOB_SERVER_JVM_ARGS
from conftest import REAL_DATA, Data, digests, whole_tinycoco
from documented import command_on
from engines import PRISM, NotHereError, fetch
from environments import ROOT, python_with_maskbeam
from storage_server import files_below, published

from beam_pipeline.verify import verify

HERE = Path(__file__).resolve().parent
PARALLEL = {"flink": 2, "spark": 2, "prism": 1}
"""Worker processes; Prism has one for each job, and gives it several bundles at a time."""
OPTIONS = ("--splits", "train=0.7,val=0.3", "--num_shards", "3")
RUN_SECONDS = 600


class Engine(NamedTuple):
    """An engine: its job server or binary, and Beam's options for it."""

    name: str
    path: Path

    @property
    def page(self) -> str:
        return f"deploy/{self.name}.md"

    def flags(self) -> tuple[str, ...]:
        """Those that choose it, where it runs already."""
        return {
            "flink": ("--runner=FlinkRunner", "--parallelism=2"),
            "spark": ("--runner=SparkRunner",),
            "prism": ("--runner=PrismRunner",),
        }[self.name]

    def serve(self, port: int) -> list[str]:
        """The command for what takes jobs at a port."""
        if self.name == "prism":
            return [str(self.path), f"--job_port={port}", "--serve_http=false"]
        ports = [f"--job-port={port}", "--artifact-port=0", "--expansion-port=0"]
        master = ["--flink-master=[local]"] if self.name == "flink" else ["--spark-master-url=local[2]"]
        opened = SPARK_JAR_JOB_SERVER_JVM_ARGS if self.name == "spark" else []
        return ["java", *opened, "-jar", str(self.path), *ports, *master]


@pytest.fixture(scope="session")
def fetched() -> Iterator[dict[str, Future[Path]]]:
    with ThreadPoolExecutor(len(PARALLEL)) as pool:
        yield {name: pool.submit(fetch, name) for name in PARALLEL}


@pytest.fixture(scope="session", params=["flink", "spark", "prism"])
def engine(request: pytest.FixtureRequest, fetched: dict[str, Future[Path]]) -> Engine:
    try:
        return Engine(request.param, fetched[request.param].result())
    except NotHereError as reason:
        pytest.skip(f"{request.param}: {reason}")


class Readers:
    """Which worker process opens which image file, as `readers/sitecustomize.py` notes it."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes

    def take(self) -> dict[str, str]:
        """Each image that was opened since, by the process that has opened it last."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        self.notes.write_text("")
        return {path: process for process, path in (line.split(" ", 1) for line in lines)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], log: Path, **variables: str) -> Iterator[None]:
    """A service for the time of the tests, and all that it starts."""
    with open(log, "w") as file:
        environment = {**os.environ, **variables}
        process = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=file, stderr=file, start_new_session=True)
    yield
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    return Readers(tmp_path_factory.mktemp("readers") / "notes")


@pytest.fixture(scope="session")
def worker_pool(readers: Readers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of what starts worker processes when an engine asks for them."""
    python, port = Path(python_with_maskbeam()), free_port()
    variables = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # the pool starts `python`
        "PYTHONPATH": str(HERE / "readers"),
        "MASKBEAM_READERS": str(readers.notes),
    }
    command = [str(python), "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    with running(command, tmp_path_factory.mktemp("worker_pool") / "log", **variables):
        yield f"localhost:{port}"


@pytest.fixture(scope="session")
def cluster(engine: Engine, worker_pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The flags for an engine that runs already, with as many workers from the pool as it can have, kept from step to step."""
    port, workers = free_port(), PARALLEL[engine.name]
    with running(engine.serve(port), tmp_path_factory.mktemp(engine.name) / "log"):
        yield (
            *engine.flags(),
            f"--job_endpoint=localhost:{port}",
            "--environment_type=EXTERNAL",
            f"--environment_config={worker_pool}",
            *((f"--sdk_worker_parallelism={workers}", "--environment_cache_millis=60000") if workers > 1 else ()),
        )


def command_line(data: Data, output: Path, *flags: str) -> list[str]:
    given = ["--annotations", str(data.annotations), "--images", str(data.images), "--output", str(output)]
    return [str(Path(sys.executable).with_name("maskbeam")), "run", *given, *flags]


def maskbeam(data: Data, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command_line(data, output, *flags), capture_output=True, text=True, timeout=RUN_SECONDS, check=False)


def said(text: str) -> str:
    """A summary without what differs between two runs: the time that it took, and where the output is."""
    return re.sub(r" written in .*|\S*/(?=rejects\.jsonl|report\.html)|verify \S+", "", text)


Local = Callable[..., tuple[Path, subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="session")
def locally(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """Runs the same on `FnApiRunner`, once for each annotation file and options; gives its output, and what it said."""
    known: dict[tuple[str, ...], tuple[Path, subprocess.CompletedProcess[str]]] = {}

    def runs(data: Data, *flags: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        key = (str(data.annotations), *flags)
        if key not in known:
            output = tmp_path_factory.mktemp("local") / "records"
            known[key] = output, maskbeam(data, output, *flags)
        return known[key]

    return runs


@pytest.fixture(scope="session")
def photos(demo_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Tinycoco, or where it is not, the demo's."""
    if not REAL_DATA.is_dir():
        return demo_data
    return whole_tinycoco(REAL_DATA / "tinycoco" / "tinycoco", tmp_path_factory.mktemp("tinycoco"))


@pytest.fixture(scope="session")
def cut_off(demo_data: Data, tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The demo's annotations, but for most of the file."""
    file = tmp_path_factory.mktemp("cut") / "annotations.json"
    file.write_bytes(demo_data.annotations.read_bytes()[:3000])
    return Data(file, demo_data.images)


def noise(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said while a job ran, but for how far it has come."""
    return [line for line in done.stderr.splitlines() if not re.match(r"the job runs on \w+$|[\d,]+ of [\d,]+ images", line)]


def test_the_demo_as_a_user_tries_an_engine(engine: Engine, demo_data: Data, locally: Local, tmp_path: Path) -> None:
    """By the command of its page, in a folder that has what it names."""
    command = command_on(engine.page, "maskbeam run --annotations instances.json ")
    (tmp_path / "instances.json").symlink_to(demo_data.annotations)
    (tmp_path / "photos").symlink_to(demo_data.images)
    (tmp_path / ".environments").symlink_to(ROOT)
    if engine.name == "prism":
        (tmp_path / "prism").symlink_to(engine.path)
        assert command_on(engine.page, "GOBIN=$PWD ").split()[-1] == PRISM
    words = [str(Path(sys.executable).with_name("maskbeam")), *shlex.split(command)[1:], *OPTIONS]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    expected, local = locally(demo_data, *OPTIONS)
    output = tmp_path / "records"
    there, here = (
        published(files_below(folder), *paths)
        for folder, *paths in ((output, "instances.json", "photos/"), (expected, *map(str, demo_data)))
    )
    assert there == here
    assert said(done.stdout) == said(local.stdout).replace(str(demo_data.annotations), "instances.json")
    assert noise(done) == []
    assert len((output / "rejects.jsonl").read_text().splitlines()) == 9


def test_a_cluster_gets_the_options_of_its_page(engine: Engine, cluster: tuple[str, ...]) -> None:
    if engine.name == "prism":
        pytest.skip("its page has none")
    command = shlex.split(command_on(engine.page, "maskbeam run --annotations gs://"))
    documented = {word.partition("=")[0] for word in command if "=" in word}
    starts_a_job_server = {f"--{engine.name}_job_server_jar", "--flink_master", "--spark_master_url"}  # here it runs already
    assert documented - starts_a_job_server == {flag.partition("=")[0] for flag in cluster} - {"--job_endpoint"}


def test_each_worker_of_its_own_reads_images(
    engine: Engine, cluster: tuple[str, ...], readers: Readers, photos: Data, locally: Local, tmp_path: Path
) -> None:
    images = len(json.loads(photos.annotations.read_text())["images"])
    expected, _ = locally(photos, *OPTIONS)
    workers = 0
    for attempt in range(3):  # which worker gets a task is for the engine to say: now and then, on a busy machine, one gets all
        output = tmp_path / f"records{attempt}"
        readers.take()
        done = maskbeam(photos, output, *OPTIONS, *cluster)
        assert done.returncode == 0, done.stderr
        opened = readers.take()
        assert len(opened) == images, "each image is read by a worker process from the pool"
        assert digests(output) == digests(expected)
        workers = len(set(opened.values()))
        if workers == PARALLEL[engine.name]:
            break
    assert workers == PARALLEL[engine.name]
    assert verify(str(output), str(photos.annotations)) == []


def test_resume_on_workers_of_their_own(cluster: tuple[str, ...], demo_data: Data, locally: Local, tmp_path: Path) -> None:
    output, (expected, _) = tmp_path / "records", locally(demo_data, *OPTIONS)
    shutil.copytree(expected, output)
    shard = output / json.loads((output / "manifest.json").read_text())["shards"][1]["file"]
    shard.write_bytes(shard.read_bytes()[:-1])
    inodes = {path.name: path.stat().st_ino for path in output.glob("*.tfrecord")}
    done = maskbeam(demo_data, output, *OPTIONS, "--resume", *cluster)
    assert done.returncode == 0, done.stderr
    assert "5 of 6 shards with images were up to date" in done.stdout
    assert digests(output) == digests(expected)
    assert [name for name, inode in inodes.items() if (output / name).stat().st_ino != inode] == [shard.name]


@pytest.mark.parametrize(
    ("data", "flags", "line"),
    [
        ("cut_off", (), "maskbeam: JSON_INVALID: "),
        ("demo_data", ("--max_reject_fraction=0.01",), "maskbeam: 1 of 30 images (3.3%) can't be written, more than"),
    ],
)
def test_a_job_that_fails_says_why_in_a_line(
    cluster: tuple[str, ...],
    locally: Local,
    data: str,
    flags: tuple[str, ...],
    line: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    given: Data = request.getfixturevalue(data)
    output, (expected, local) = tmp_path / "records", locally(given, *OPTIONS, *flags)
    done = maskbeam(given, output, *OPTIONS, *flags, *cluster)
    assert done.returncode == local.returncode == 2
    assert noise(done) == [local.stderr.strip().replace(str(expected), str(output))]
    assert done.stderr.splitlines()[-1].startswith(line)
    assert not (output / "_SUCCESS").exists()
