"""Loads of an odd shape: each finishes or is refused with a clear line, in bounded memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Figures
from PIL import Image

MEGABYTES_OVER_ONE_IMAGE = 250
"""What a job may take beyond what it takes for a single picture; the processor's libraries alone take some 200."""
ROOT = Path(__file__).resolve().parents[2]


# A child of ours would count our own memory as its own, from before it began: so a small process starts it and measures.
MEASURED = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


class Load(NamedTuple):
    """A data set: its images and annotations, one after the other, and the categories."""

    images: Iterator[dict[str, Any]]
    annotations: Iterator[dict[str, Any]]
    categories: list[dict[str, Any]]


class Done(NamedTuple):
    """How a job went."""

    status: int
    megabytes: float
    seconds: float
    said: str
    manifest: dict[str, Any]


def write(folder: Path, load: Load) -> None:
    """The annotation file, without ever holding it, and small pictures."""
    (folder / "images").mkdir(parents=True)
    picture = io.BytesIO()
    Image.radial_gradient("L").resize((64, 48)).convert("RGB").save(picture, "PNG")
    with (folder / "instances.json").open("w") as file:
        file.write('{"images": [')
        for number, image in enumerate(load.images):
            file.write(("," if number else "") + json.dumps(image))
            (folder / "images" / image["file_name"]).write_bytes(picture.getvalue())
        file.write('], "annotations": [')
        for number, annotation in enumerate(load.annotations):
            file.write(("," if number else "") + json.dumps(annotation))
        file.write(f'], "categories": {json.dumps(load.categories)}}}')


def run_job(folder: Path, name: str, *options: str) -> Done:
    output = folder / name
    paths = ["--annotations", str(folder / "instances.json"), "--images", str(folder / "images"), "--output", str(output)]
    began = time.monotonic()
    given = [sys.executable, "-m", "beam_pipeline.cli", "run", *paths, *options]
    job = subprocess.run([sys.executable, "-c", MEASURED, *given], capture_output=True, text=True, check=False)
    seconds, kilobytes = time.monotonic() - began, int(job.stdout.splitlines()[-1])
    manifest = json.loads((output / "manifest.json").read_text()) if (output / "_SUCCESS").exists() else {}
    return Done(job.returncode, kilobytes / 1e3, seconds, job.stderr, manifest)


def image(number: int) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number:06d}.png", "width": 64, "height": 48}


def annotation(number: int, image_id: int, category: int = 1) -> dict[str, Any]:
    x, y = number % 50, number * 7 % 40
    ring = [x, y, x + 9.5, y + 1, x + 7, y + 8.25, x + 1.5, y + 6]
    box = [x, y, 9.5, 8.25]
    keys = {"id": number, "image_id": image_id, "category_id": category}
    return keys | {"segmentation": [ring], "bbox": box, "area": 50, "iscrowd": 0}


CATEGORIES = [{"id": number, "name": f"category {number}"} for number in range(1, 11)]
MANY = 100_000
LOADS = {
    "one image with 10,000 annotations": lambda: Load(
        iter([image(1), image(2)]), (annotation(number, 1) for number in range(1, 10_001)), CATEGORIES
    ),
    "one category with 90 % of all annotations": lambda: Load(
        map(image, range(1, 2001)),
        (annotation(number, number % 2000 + 1, 1 if number % 10 else number // 10 % 9 + 2) for number in range(1, 20_001)),
        CATEGORIES,
    ),
    "100,000 tiny images": lambda: Load(
        map(image, range(1, MANY + 1)), (annotation(number, number) for number in range(1, MANY + 1)), CATEGORIES
    ),
    "images without annotations only": lambda: Load(map(image, range(1, 5001)), iter(()), CATEGORIES),
    "an empty data set": lambda: Load(iter(()), iter(()), []),
}


@pytest.fixture(scope="module")
def one_image(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """What a single picture takes."""
    folder = tmp_path_factory.mktemp("one") / "data"
    write(folder, Load(iter([image(1)]), iter([annotation(1, 1)]), CATEGORIES))
    done = run_job(folder, "records")
    assert done.status == 0, done.said
    return done


@pytest.mark.parametrize("name", LOADS)
def test_load(tmp_path: Path, figures: Figures, one_image: Done, name: str) -> None:
    write(tmp_path / "data", LOADS[name]())
    written = json.loads((tmp_path / "data" / "instances.json").read_text())
    done = run_job(tmp_path / "data", "records")
    assert done.status == 0, done.said
    assert done.megabytes < one_image.megabytes + MEGABYTES_OVER_ONE_IMAGE
    for kind in ("images", "annotations"):
        ledger = done.manifest[kind]
        assert (ledger["read"], ledger["written"]) == (len(written[kind]), len(written[kind])), done.manifest["reasons"]
    figures[name] = f"written in {done.seconds:.0f} s with {done.megabytes:.0f} MB (one image: {one_image.megabytes:.0f} MB)"


def test_an_image_with_too_many_annotations_is_refused_clearly(tmp_path: Path, figures: Figures) -> None:
    crowded = (annotation(number, 1) for number in range(1, 5001))
    rest = (annotation(5000 + number, number) for number in range(2, 100))
    write(tmp_path / "data", Load(map(image, range(1, 100)), (one for part in (crowded, rest) for one in part), CATEGORIES))
    done = run_job(tmp_path / "data", "records", "--max_instances=1000", "--max_reject_fraction=1")
    assert done.status == 0, done.said
    assert sum(done.manifest["reasons"]["image"].values()) == 1
    assert sum(done.manifest["reasons"]["annotation"].values()) == 5000
    done = run_job(tmp_path / "data", "refused", "--max_instances=1000")
    assert done.status == 2
    assert "can't be written, more than the 5.0% that --max_reject_fraction allows" in done.said
    assert len(done.said.splitlines()) == 1
    assert done.manifest == {}
    figures["an image with more annotations than `--max_instances`"] = "rejected with a reason, or the job refused, by the share"


def spoil(folder: Path) -> None:
    """One image and one annotation in a hundred, in turn in several ways."""
    whole = json.loads((folder / "instances.json").read_text())
    for number, image in enumerate(whole["images"][::100]):
        path = folder / "images" / image["file_name"]
        content = path.read_bytes()
        path.unlink()
        if number % 3:
            path.write_bytes(content[: len(content) // 2] if number % 3 == 1 else b"<html>404</html>")
    for number, one in enumerate(whole["annotations"][50::100]):
        one.update(({"segmentation": [[1, 2, 3]]}, {"category_id": 999}, {"bbox": "none", "segmentation": None})[number % 3])
    (folder / "instances.json").write_text(json.dumps(whole))


def test_one_percent_of_bad_input_costs_little(tmp_path: Path, figures: Figures) -> None:
    """A figure, not a threshold: times on shared machines vary. That all else is written is what is tested."""
    for name in ("clean", "bad"):
        maker = [sys.executable, str(ROOT / "benchmarks" / "make_data.py"), str(tmp_path / name), "--images", "2000"]
        subprocess.run(maker, check=True)
    spoil(tmp_path / "bad")
    seconds: dict[str, list[float]] = {"clean": [], "bad": []}
    for attempt in range(3):
        for name, times in seconds.items():
            done = run_job(tmp_path / name, f"records{attempt}")
            assert done.status == 0, done.said
            times.append(done.seconds)
    assert done.manifest["images"]["rejected"] == 20
    assert done.manifest["annotations"]["read"] == 14_000
    clean, bad = (sorted(times)[1] for times in seconds.values())
    figures["throughput with 1 % of bad images and annotations"] = (
        f"{clean / bad:.0%} of the clean run's (medians of three, in turn)"
    )
