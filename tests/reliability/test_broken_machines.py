"""Machines that break: jobs that are killed, disks that fill up, workers that die, moves that fail.

Each job is a process of its own, as a user starts it. What is left behind is looked at from outside: either the data set is
there to the last byte, or there is no success marker and the exit status is not 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Data, Figures, digests

from beam_pipeline.demo import make_demo_data

SEED = 20
MAXIMUM = 120  # seconds that any of these jobs may take; a hang is a failure


def command(data: Data, output: Path, *options: str) -> list[str]:
    paths = ["--annotations", str(data.annotations), "--images", str(data.images), "--output", str(output)]
    return [sys.executable, "-m", "beam_pipeline.cli", "run", *paths, "--splits=train=0.7,val=0.3", "--num_shards=6", *options]


def run_job(data: Data, output: Path, *options: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    given = [*before, *command(data, output, *options)]
    return subprocess.run(given, capture_output=True, text=True, check=False, timeout=MAXIMUM)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Pictures enough that a job takes some seconds: the demo's, five times over under other names and ids."""
    folder = tmp_path_factory.mktemp("data")
    file, images = make_demo_data(folder)
    whole = json.loads(file.read_text())
    once = {name: list(whole[name]) for name in ("images", "annotations")}
    for copy in range(1, 5):
        shutil.copytree(images / "morning", images / f"morning{copy}")
        shutil.copytree(images / "evening", images / f"evening{copy}")
        for image in once["images"]:
            name = image["file_name"].replace("/", f"{copy}/")
            whole["images"].append(image | {"id": image["id"] + 1000 * copy, "file_name": name})
        for one in once["annotations"]:
            numbers = {"id": one["id"] + 10_000 * copy, "image_id": one["image_id"] + 1000 * copy}
            whole["annotations"].append(one | numbers)
    file.write_text(json.dumps(whole))
    return Data(file, images)


@pytest.fixture(scope="module")
def undisturbed(data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What a job gives that nothing happens to, and after how many seconds it is complete."""
    output = tmp_path_factory.mktemp("undisturbed") / "records"
    began = time.time()
    done = run_job(data, output)
    assert done.returncode == 0, done.stderr
    return digests(output), complete_at(output) - began


def complete_at(output: Path) -> float:
    """When a job has set its marker; its process goes on for half a second."""
    return (output / "_SUCCESS").stat().st_mtime


@pytest.mark.parametrize(("kills", "again"), [(20, ""), (8, "--resume")])
def test_kill_9_at_random_moments(
    data: Data, undisturbed: tuple[dict[str, str], float], tmp_path: Path, figures: Figures, kills: int, again: str
) -> None:
    expected, seconds = undisturbed
    draw = random.Random(SEED)
    cut, survived = 0, 0
    for number in range(kills):
        output = tmp_path / str(number)
        began = time.time()
        job = subprocess.Popen(command(data, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            job.wait(draw.uniform(0.2, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGKILL)
            job.wait()
        complete = (output / "_SUCCESS").exists()
        if complete:
            seconds = min(seconds, complete_at(output) - began)  # the machine may have been busier when that was measured
            assert digests(output).items() >= expected.items()
        else:
            assert job.returncode != 0
            cut += 1
        done = run_job(data, output, *filter(None, [again or ("--overwrite" if complete else "")]))
        assert done.returncode == 0, done.stderr
        assert digests(output) == expected, f"kill {number}"
        survived += 1
        shutil.rmtree(output)
    assert cut > kills // 2, "most kills must hit a job that is still at work"
    how = "then the same command with --resume" if again else "then the same command"
    figures[f"`kill -9` at {kills} random moments, {how}"] = (
        f"{survived} of {kills} byte-identical to an undisturbed run, nothing left over ({cut} hit a job at work)"
    )


@pytest.mark.parametrize("megabytes", [2, 5, 8])
def test_full_disk(data: Data, tmp_path: Path, figures: Figures, megabytes: int) -> None:
    output = tmp_path / "disk" / "records"
    output.parent.mkdir()
    mount = f'mount -t tmpfs -o size={megabytes}m none "$0" && shift 0 && "$@"; status=$?; ls "$0/records"; exit $status'
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(output.parent)]
    able = subprocess.run([*own_mounts, "true"], capture_output=True, text=True, check=False)
    if "mount:" in able.stderr or "unshare:" in able.stderr:
        pytest.skip(f"no file system of one's own can be mounted here: {able.stderr.strip()}")
    done = run_job(data, output, before=own_mounts)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "_SUCCESS" not in done.stdout.split()
    figures[f"a disk of {megabytes} MB that fills up"] = "exit status 1, one line that says so, no `_SUCCESS`"


def test_killed_worker(data: Data, tmp_path: Path, figures: Figures) -> None:
    output = tmp_path / "records"
    job = subprocess.Popen(
        command(data, output, *WORKERS), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        killed = kill_a_worker(job.pid, output)
        assert killed, "no worker process was seen"
        _, said = job.communicate(timeout=MAXIMUM)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode not in (0, None), said
    assert not (output / "_SUCCESS").exists()
    assert "maskbeam: the job failed" in said
    figures["a worker process killed"] = "exit status not 0, no `_SUCCESS`"


def kill_a_worker(parent: int, output: Path) -> bool:
    """Kills the workers below a process that have a shard open, once there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*/fd"):
            pid = int(folder.parent.name)
            try:
                writing = any(
                    f"{output}/_temporary/" in os.readlink(fd) and ".tfrecord." in os.readlink(fd) for fd in folder.iterdir()
                )
                if writing and pid != parent:
                    os.kill(pid, signal.SIGKILL)
                    return True
            except OSError:
                continue  # somebody else's, or gone
        time.sleep(0.01)
    return False


WORKERS = ("--workers=2",)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [(), WORKERS], ids=["one process", "worker processes"])
def test_interrupted(
    data: Data,
    undisturbed: tuple[dict[str, str], float],
    tmp_path: Path,
    figures: Figures,
    number: signal.Signals,
    workers: tuple[str, ...],
) -> None:
    """The signal reaches the parent alone, as `docker stop` and schedulers send it."""
    output = tmp_path / "records"
    job = subprocess.Popen(
        command(data, output, *workers), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not list(output.glob("_temporary/*/*.tfrecord.*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        job.send_signal(number)
        _, said = job.communicate(timeout=30)  # which also ends only when no worker holds the pipe any more
        time.sleep(0.5)  # in which the killed are gone, or wait for whoever collects orphans
        listed = subprocess.run(["ps", "-s", str(job.pid), "-o", "stat=,args="], capture_output=True, text=True, check=False)
        left = [line for line in listed.stdout.splitlines() if not line.startswith("Z")]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 128 + number, said
    assert "maskbeam: interrupted" in said
    assert "Traceback" not in said
    assert not left
    assert not (output / "_SUCCESS").exists()
    assert run_job(data, output, "--resume").returncode == 0
    assert digests(output) == undisturbed[0]
    how = "with worker processes" if workers else "in one process"
    figures[f"{number.name} to a job {how}"] = (
        f"exit status {128 + number}, a line that says so, nothing left running; then resumed"
    )


MOVES = """
import os, sys
rename, calls = os.rename, [0]
def failing(source, target):
    calls[0] += 1
    if {when}:
        raise OSError(5, "Input/output error")
    return rename(source, target)
os.rename = failing
from beam_pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("name", "when"),
    [("once", "calls[0] == 3"), ("in the middle of publishing", "'manifest' in target"), ("always", "True")],
)
def test_failed_rename(
    data: Data, undisturbed: tuple[dict[str, str], float], tmp_path: Path, figures: Figures, name: str, when: str
) -> None:
    output = tmp_path / "records"
    given = command(data, output)[3:]
    broken = subprocess.run(
        [sys.executable, "-c", MOVES.format(when=when), *given], capture_output=True, text=True, check=False, timeout=MAXIMUM
    )
    assert broken.returncode == 1, broken.stderr
    assert "Input/output error" in broken.stderr
    assert not (output / "_SUCCESS").exists()
    assert run_job(data, output, "--resume").returncode == 0
    assert digests(output) == undisturbed[0]
    figures[f"a rename that fails {name}"] = "exit status 1, no `_SUCCESS`; the next run completes the data set"
