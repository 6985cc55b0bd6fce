"""Workers elsewhere: a worker pool in a Python that has our source distribution and nothing of this checkout does the work."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Data, digests
from environments import python_with_maskbeam

ROOT = Path(__file__).resolve().parents[2]
_OURS = r"/(?<!/apache_beam/)(?:beam_pipeline|transforms)/\w+\.py"
_IMPORTED = re.compile(rf"^# (?:\S+ matches|code object from) '?(/\S+{_OURS})'?$", re.MULTILINE)


class Pool:
    """A worker pool at a port, and the log of its workers, who say of each module where they have it from."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self._log = port, log

    def imported(self) -> set[str]:
        """The files of ours that the workers have imported."""
        return set(_IMPORTED.findall(self._log.read_text(encoding="utf-8", errors="replace")))


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    python = python_with_maskbeam()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    command = [python, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(python).parent}:{environment['PATH']}"  # workers are whatever python is there
    environment |= {"PYTHONSAFEPATH": "1", "PYTHONVERBOSE": "1"}  # nothing from the current folder; tells of imports
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield Pool(port, folder / "log")
    finally:
        process.terminate()
        process.wait(30)


def maskbeam(data: Data, output: Path, *more: str) -> str:
    command = [sys.executable, "-m", "beam_pipeline.cli", "run", "--annotations", str(data.annotations), "--images"]
    command += [str(data.images), "--output", str(output), "--splits", "train=0.7,val=0.3", "--num_shards", "3", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def runs_in(pool: Pool, data: Data, tmp_path: Path) -> None:
    flags = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL"]
    said = maskbeam(data, tmp_path / "there", *flags, f"--environment_config=localhost:{pool.port}")
    expected = maskbeam(data, tmp_path / "here")
    assert digests(tmp_path / "there") == digests(tmp_path / "here")
    without_speed = r" written in .*"
    assert re.sub(without_speed, "", said).replace("/there", "/here") == re.sub(without_speed, "", expected)
    site = Path(python_with_maskbeam()).parents[1] / "lib"
    found = pool.imported()
    for module in ("transforms/rasterize.py", "transforms/shards.py", "beam_pipeline/publish.py"):
        assert [path for path in found if path.endswith(module)], module
    assert all(path.startswith(f"{site}/") for path in found), found


def test_a_worker_without_the_source_tree_writes_the_same_bytes(pool: Pool, demo_data: Data, tmp_path: Path) -> None:
    runs_in(pool, demo_data, tmp_path)


def test_of_real_data_too(pool: Pool, real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "tinycoco" / "tinycoco"
    runs_in(pool, Data(folder / "annotations" / "instances_train2017.json", folder / "images" / "train2017"), tmp_path)
