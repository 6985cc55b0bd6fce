"""What is shown while a job runs: one live line on a terminal, plain lines elsewhere, and no noise."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Data

from beam_pipeline.terminal import duration, progress_line
from transforms import progress


@pytest.mark.parametrize(
    ("read", "done", "seconds", "line"),
    [
        (0, 0, 0.0, "reading annotations"),
        (1500, 0, 0.0, "0 of 1,500 images"),
        (1500, 20, 0.4, "20 of 1,500 images"),
        (1500, 500, 2.0, "500 of 1,500 images, 250 images/s, 4 s left"),
        (1500, 1500, 6.0, "1,500 of 1,500 images, 250 images/s, 0 s left"),
        (10_000_000, 1000, 10.0, "1,000 of 10,000,000 images, 100 images/s, 27 h 46 min left"),
    ],
)
def test_how_far_it_has_come(read: int, done: int, seconds: float, line: str) -> None:
    assert progress_line(read, done, seconds) == line


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99.4, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1 h 40 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


SLOW = (
    "import sys, time\n"
    "from beam_pipeline import cli\n"
    "from transforms import shards\n"
    "build = shards.build_record\n"
    "shards.build_record = lambda *given: (time.sleep(0.08), build(*given))[1]\n"
    "sys.exit(cli.main(sys.argv[1:]))\n"
)


def test_a_live_line_on_a_terminal_counts_up_and_goes_away(demo_data: Data, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    arguments = ["run", "--annotations", str(demo_data.annotations), "--images", str(demo_data.images), "--output"]
    command = [sys.executable, "-c", SLOW, *arguments, str(tmp_path / "out")]
    shown = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave) as process:
        os.close(slave)
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:  # the other side is closed
            pass
        out, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0
    assert b"29 of 30 images and 212 of 220 annotations written" in out
    lines = shown.decode().split("\r\x1b[K")
    counts = [int(line.split(" of ")[0]) for line in lines if " of 30 images" in line]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3
    assert any("images/s" in line and line.endswith(" s left") for line in lines)
    assert "\n" not in shown.decode()
    assert lines[-1] == ""  # cleared


def test_a_count_is_written_now_and_then_and_whole_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.0, 1.01, 1.05, 1.5, 1.5, 1.51, 1.6])  # it looks once for each, and once more when it writes
    monkeypatch.setenv(progress.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    count = progress.Count("images")
    written = []
    for _ in range(5):
        count.advance()
        written.append(progress.read(str(tmp_path), "images"))
    assert written == [1, 1, 1, 4, 4]
    count.write()
    assert progress.read(str(tmp_path), "images") == 5
