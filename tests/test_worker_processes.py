"""Worker processes that are forked: they get what they are told, tell how they end, and none of them outlives its job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from apache_beam.runners.worker import statesampler
from apache_beam.utils.counters import CounterFactory
from conftest import Data, Output, digests

from beam_pipeline.worker_processes import LOOK_EVERY_MS, bundles_end_at_once, forked_workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Beam starts its workers by itself")

JOB = """\
import json, logging, os, resource, signal, subprocess, sys, time
from apache_beam.runners.worker import sdk_worker_main
from beam_pipeline.worker_processes import LOOK_EVERY_MS, bundles_end_at_once, forked_workers

def work(_):
    print(json.dumps([os.getpid(), "HOME" in os.environ, os.environ["TOLD"]]), flush=True)
    open("started", "w").close()
    exec(os.environ["WORK"])

sdk_worker_main.main = work
logging.basicConfig()
with forked_workers() as command:
    for program in sys.argv[1:]:
        worker = subprocess.Popen(command, shell=True, env={"TOLD": "ü " + program, "WORK": program})
        if "sleep" in program:
            while not os.path.exists("started"):
                time.sleep(0.01)
        else:
            print(worker.wait(), flush=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def job(*programs: str) -> tuple[list[Any], str]:
    """What workers with such programs print, each with its status, then the seconds of the processor; and standard error."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", JOB, *programs]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=folder)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_worker_has_the_environment_that_it_is_started_with_and_no_other() -> None:
    (first, ended, second, _, _), said = job("pass", "pass")
    assert first[1:] == second[1:] == [False, "ü pass"]
    assert first[0] != second[0]
    assert ended == 0
    assert said == ""


def test_the_folder_for_temporary_files_may_have_a_long_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    tempfile.gettempdir()  # which this process goes on to use
    monkeypatch.setenv("TMPDIR", str(folder))
    (_, ended, _), said = job("pass")
    assert (ended, said) == (0, "")
    assert list(folder.iterdir()) == []


def test_a_worker_says_how_it_ends() -> None:
    (_, raised, _, killed, _), said = job("raise ValueError('no good')", "os.kill(os.getpid(), signal.SIGKILL)")
    assert (raised, killed) == (1, 1)
    assert "ValueError: no good" in said


def test_what_a_worker_logs_is_for_the_job_to_say() -> None:
    assert job("logging.getLogger().error('twice')")[1] == "twice\n"  # as Python does without handlers


def test_a_worker_does_not_outlive_its_job() -> None:
    ((worker, *_), _), _ = job("time.sleep(600)")
    assert not Path(f"/proc/{worker}").exists()


def test_what_a_worker_takes_is_counted() -> None:
    quick, slow = (
        job(program)[0][-1] for program in ("pass", "end = time.process_time() + 1\nwhile time.process_time() < end: pass")
    )
    assert slow > quick + 0.9


def test_nothing_is_forked_beside_threads() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with forked_workers() as command:
            assert command is None
    finally:
        done.set()
        thread.join()


def test_a_job_whose_workers_are_forked_writes_the_same(demo_data: Data, demo_output: Output, tmp_path: Path) -> None:
    output = tmp_path / "out"
    paths = [f"--annotations={demo_data.annotations}", f"--images={demo_data.images}", f"--output={output}"]
    options = ["--splits=train=0.7,val=0.3", "--num_shards=2", "--workers=2"]
    program = [sys.executable, "-m", "beam_pipeline.cli", "run", *paths, *options]
    running = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen: set[int] = set()
    while running.poll() is None:
        for one in psutil.Process(running.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # by now
                if one.cmdline() == program and one.ppid() != running.pid:
                    seen.add(one.pid)
        time.sleep(0.05)
    assert running.returncode == 0, running.stdout and running.stdout.read()
    assert len(seen) == 2
    assert digests(output) == digests(demo_output.folder)
    assert not [pid for pid in seen if os.path.exists(f"/proc/{pid}")]


def test_within_a_job_no_bundle_waits_for_beams_next_look() -> None:
    def period() -> int:
        return int(statesampler.StateSampler("a", CounterFactory()).sampling_period_ms)

    usual = period()
    assert usual == statesampler.DEFAULT_SAMPLING_PERIOD_MS > LOOK_EVERY_MS
    with bundles_end_at_once():
        assert period() == LOOK_EVERY_MS
    assert period() == usual
