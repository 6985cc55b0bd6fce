"""`--profile`: what threads are found at, and that their processor time is all there."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import Data

from beam_pipeline.cli import main
from beam_pipeline.profile import BEAM, OTHER, PARTS, READ, part_of, profiling


def in_module(name: str, code: str) -> Callable[..., Any]:
    """The function `f` of a module of that name."""
    module: dict[str, Any] = {"__name__": name}
    exec(code, module)
    found: Callable[..., Any] = module["f"]
    return found


CALLS = "def f(*inner):\n    return inner[0](*inner[1:])"


@pytest.mark.parametrize(
    ("modules", "part"),
    [
        (["transforms.rasterize"], "rasterize"),
        (["apache_beam.runners.worker", "transforms.sources.coco_json", "msgspec"], "parse annotations"),
        (["transforms.shards", "transforms.png"], "encode masks"),
        (["transforms.png", "transforms.shards", "numpy.lib"], "checksums and shards"),
        (["transforms.tfrecord", "transforms.storage", "apache_beam.io"], "checksums and shards"),
        (["beam_pipeline.run", "apache_beam.pipeline"], BEAM),
        (["beam_pipeline.run", "apache_beam.pipeline", "google.protobuf"], BEAM),
        (["beam_pipeline.run", "json"], "start and end"),
        (["concurrent.futures"], OTHER),
    ],
)
def test_the_innermost_frame_of_ours_says_what_a_thread_is_at(modules: list[str], part: str) -> None:
    def here() -> FrameType:
        import sys

        return sys._getframe(1)

    calls = [in_module(name, CALLS) for name in modules]
    assert part_of(calls[0](*calls[1:], here)) == part


def test_reading_an_image_is_told_from_checking_it() -> None:
    read = in_module("transforms.images", "import sys\ndef read(): return sys._getframe()\nf = read")
    check = in_module("transforms.images", "import sys\ndef check(): return sys._getframe()\nf = check")
    assert (part_of(read()), part_of(check())) == (READ, PARTS["images"])


def test_every_part_is_a_module() -> None:
    folder = Path(__file__).resolve().parents[1]
    for name in PARTS:
        assert [*folder.glob(f"transforms/{name}*"), *folder.glob(name)], name


BURNS = "import time\ndef f(seconds):\n    while time.thread_time() < seconds: pass"


def test_time_is_given_to_what_a_thread_is_at_and_none_to_who_waits() -> None:
    stop = threading.Event()
    waiting = threading.Thread(target=in_module("transforms.png", "def f(stop): stop.wait()"), args=(stop,))
    waiting.start()
    with profiling() as profile:
        for _ in range(3):  # threads that come one after the other may have the same number
            working = threading.Thread(target=in_module("transforms.rasterize", BURNS), args=(0.3,))
            working.start()
            working.join()
    stop.set()
    waiting.join()
    assert 0.6 < profile.seconds["rasterize"] <= 0.95
    assert profile.seconds["encode masks"] < 0.02
    assert "rasterize" in next(line for line in profile.lines() if "%" in line)


def test_a_run_says_where_its_time_went(demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = [f"--annotations={demo_data.annotations}", f"--images={demo_data.images}", f"--output={tmp_path / 'records'}"]
    began = time.process_time()
    assert main(["run", *paths, "--max_reject_fraction=1", "--profile"]) == 0
    used = time.process_time() - began
    said = capfd.readouterr().out
    total = float(re.search(r"^([\d.]+) s of processor time in [\d.]+ s:$", said, re.MULTILINE)[1])  # type: ignore[index]
    assert 0.5 * used < total <= 1.05 * used
    parts = {name.strip(): float(seconds) for name, seconds in re.findall(r"^  (\D+?) +([\d.]+) s +\d+%$", said, re.MULTILINE)}
    assert sum(parts.values()) == pytest.approx(total, abs=0.2)
    assert set(parts) <= {*PARTS.values(), READ, BEAM, OTHER}
    assert parts[BEAM] > 0
