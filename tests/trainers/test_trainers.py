"""The trainers themselves: their decoders read what we wrote, their configurations are what we generate, they train on it.

`make test-trainers`. Each trainer has an environment of its own (`environments.py`) and runs as a process of its own; what it
has to find is drawn here with pycocotools from the annotation files, and compared there (`compare.py`). What was found goes
into docs/trainers.md.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import REAL_DATA, Data, whole_tinycoco
from environments import TRAINERS, LeftOutError, python_of
from pycocotools.coco import COCO

from beam_pipeline.demo import CATEGORIES
from beam_pipeline.options import RunOptions
from beam_pipeline.run import run
from beam_pipeline.trainer_bases import BASES, MODEL_GARDEN
from transforms.encode import MaskEncoding

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "trainers.md"
ENCODINGS: tuple[MaskEncoding, ...] = ("png", "png1", "dense")
SLIM = [name for name, base in BASES.items() if not base.tf2]

LEFT_OUT: dict[str, str] = {}
"""Trainers that can't be had here, and why."""

INTRODUCTION = """\
# What the trainers themselves say

Written by `make test-trainers`, which installs the trainers, lets their own decoders read every record of two data sets, and
their own training loops take two steps on the configurations that `maskbeam trainer-config` writes. Compared bit for bit with
what pycocotools makes of the annotations: masks, boxes, classes, crowd flags, areas, and that nothing is missing. Data:
tinycoco (38 images of COCO 2017, {tinycoco} instances) and the demo's ({demo} instances). For the steps, images are made
smaller (256 pixels), and nothing else is changed; weights are random, so a loss says no more than that masks reach it.
"""


class Row(NamedTuple):
    """A line of the table."""

    trainer: str
    encoding: str
    data: str
    outcome: str


class Written(NamedTuple):
    """A data set, written; what must be read from it, and where that lies for the trainers."""

    output: Path
    truth: Path
    images: int
    instances: int

    def shards(self) -> list[str]:
        return [str(path) for path in sorted(self.output.glob("*.tfrecord"))]


# ------------------------------------------------------------------------------------------------------- the data


def without_faults(file: Path) -> dict[str, Any]:
    """The demo's annotations but for the faults that `make_demo_data` puts in: an image cut off, a category, a polygon."""
    truth: dict[str, Any] = json.loads(file.read_text())
    truth["images"] = [image for image in truth["images"] if image["id"] != 11]
    truth["annotations"] = [
        one
        for one in truth["annotations"]
        if one["image_id"] != 11
        and one["category_id"] in CATEGORIES
        and not (isinstance(one["segmentation"], list) and any(len(ring) % 2 for ring in one["segmentation"]))
    ]
    return truth


def draw_truth(annotations: dict[str, Any], file: Path) -> Path:
    """What a trainer has to see, by pycocotools alone, as arrays that every NumPy reads."""
    coco = COCO()
    coco.dataset = annotations
    coco.createIndex()
    arrays = {}
    for image_id, image in coco.imgs.items():
        height, width = image["height"], image["width"]
        found = sorted(coco.imgToAnns[image_id], key=lambda one: one["id"])
        corners = [(y, x, y + h, x + w) for x, y, w, h in (one["bbox"] for one in found)]
        boxes = np.clip(np.array(corners, np.float64).reshape(-1, 4), 0, (height, width, height, width))
        arrays |= {
            f"{image_id}/size": np.array([height, width]),
            f"{image_id}/masks": np.packbits(np.array([coco.annToMask(one) for one in found], np.uint8)),
            f"{image_id}/boxes": (boxes / (height, width, height, width)).astype(np.float32),
            f"{image_id}/classes": np.array([one["category_id"] for one in found], np.int64),
            f"{image_id}/crowds": np.array([one["iscrowd"] for one in found], bool),
            f"{image_id}/areas": np.array([one["area"] for one in found], np.float32),
        }
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, demo_data: Data) -> dict[str, tuple[Data, dict[str, Any]]]:
    """By name: annotations and images, and the annotations that can be written."""
    found = {"demo": (demo_data, without_faults(demo_data.annotations))}
    root = REAL_DATA / "tinycoco" / "tinycoco"
    if root.is_dir():
        data = whole_tinycoco(root, tmp_path_factory.mktemp("tinycoco"))
        found["tinycoco"] = (data, json.loads(data.annotations.read_text()))
    return found


@pytest.fixture(scope="module")
def written(
    sources: dict[str, tuple[Data, dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, MaskEncoding], Written]:
    """A data set in an encoding, written once."""
    known: dict[tuple[str, str], Written] = {}

    def write(name: str, encoding: MaskEncoding) -> Written:
        if name not in sources:
            pytest.skip(f"{name} is not here")
        if (name, encoding) not in known:
            (annotations, images), truth = sources[name]
            folder = tmp_path_factory.mktemp(f"{name}-{encoding}")
            output = folder / "records"
            options = {"splits": "train=0.7,val=0.3", "num_shards": "2", "mask_encoding": encoding}
            run(RunOptions(annotations=str(annotations), images=str(images), output=str(output), **options), [])  # type: ignore[arg-type]
            drawn = draw_truth(truth, folder / "truth.npz")
            known[name, encoding] = Written(output, drawn, len(truth["images"]), len(truth["annotations"]))
        return known[name, encoding]

    return write


# --------------------------------------------------------------------------------------------------- the trainers


def ask(trainer: str, script: str, *arguments: str) -> Any:
    """Runs a script in a trainer's environment; what its last line says."""
    try:
        python = python_of(trainer)
    except LeftOutError as reason:
        LEFT_OUT[trainer] = str(reason)
        raise
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = subprocess.run(
        [python, str(HERE / script), *arguments], capture_output=True, text=True, check=False, env={**os.environ, **quiet}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest, sources: dict[str, tuple[Data, dict[str, Any]]]) -> Iterator[list[Row]]:
    """The table's rows; they become the page if all of this module has run and nothing has failed."""
    rows: list[Row] = []
    yield rows
    if request.session.testsfailed or request.config.getoption("keyword") or any("::" in name for name in request.config.args):
        return
    rows += [Row(TRAINERS[trainer].title, "", "", f"left out: {reason}") for trainer, reason in LEFT_OUT.items()]
    counts = {name: len(truth["annotations"]) for name, (_, truth) in sources.items()}
    lines = ["| trainer | encoding | data | outcome |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in sorted(rows)]
    PAGE.write_text(INTRODUCTION.format(**{"tinycoco": 0, **counts}) + "\n" + "\n".join(lines) + "\n")


READERS = [
    ("object_detection", "read_object_detection.py"),
    ("object_detection_tf1", "read_object_detection.py"),
    ("model_garden", "read_model_garden.py"),
    ("model_garden", "read_tfds.py"),
]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("data", ["demo", "tinycoco"])
@pytest.mark.parametrize(("trainer", "script"), READERS, ids=[f"{name}-{script[:-3]}" for name, script in READERS])
def test_decoder_sees_what_is_annotated(
    written: Callable[[str, MaskEncoding], Written],
    table: list[Row],
    trainer: str,
    script: str,
    data: str,
    encoding: MaskEncoding,
) -> None:
    title = "TensorFlow Datasets" if script == "read_tfds.py" else TRAINERS[trainer].title
    out = written(data, encoding)
    if script == "read_model_garden.py" and encoding == "dense":
        refused = configured(out.output, "--base", MODEL_GARDEN)
        assert (refused.returncode, "can't read dense masks" in refused.stderr) == (2, True)
        with pytest.raises(AssertionError, match="Data types don't match"):
            ask(trainer, script, str(out.truth), *out.shards())
        table.append(Row(title, encoding, data, "can't read it, and `trainer-config` says so"))
        return
    kind = "NUMERICAL_MASKS" if encoding == "dense" else "PNG_MASKS"
    arguments = {
        "read_object_detection.py": [str(out.output / "label_map.pbtxt"), kind, *out.shards()],
        "read_model_garden.py": out.shards(),
        "read_tfds.py": [str(out.output)],
    }
    counts = ask(trainer, script, str(out.truth), *arguments[script])
    assert counts["records"] == out.images
    assert counts["instances"] == out.instances
    said = f"{counts['records']} records read, {counts['instances']} instances equal ({counts['mask pixels']:,} mask pixels)"
    table.append(Row(title, encoding, data, said))


def trained(trainer: str, script: str, config: Path, folder: Path) -> str:
    """Lets a trainer take two steps, and checks that losses are numbers and that masks have one; says so.

    Weights are random, so once in a while a model proposes nothing that meets an object, in both steps; then it is asked again.
    """
    for attempt in range(3):
        answer = ask(trainer, script, str(config), str(folder / f"model{attempt}"))
        assert answer["steps"] == 2
        assert all(math.isfinite(loss) for losses in answer["losses"].values() for loss in losses)
        (mask_losses,) = [losses for name, losses in answer["losses"].items() if name.split("/")[-1] == "mask_loss"]
        if max(mask_losses) > 0:
            return f"parsed, built, two steps taken; mask loss {max(mask_losses):,.3g}"
    raise AssertionError("no mask loss above zero in three attempts")


def configured(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`maskbeam trainer-config`, as a user types it."""
    command = [sys.executable, "-m", "beam_pipeline.cli", "trainer-config", str(output), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("base", "data", "encoding"),
    [
        (SLIM[0], "demo", "png"),
        (SLIM[1], "tinycoco", "png"),
        (SLIM[2], "demo", "png1"),
        (SLIM[3], "demo", "dense"),
    ],
)
def test_slim_configuration_trains(
    written: Callable[[str, MaskEncoding], Written],
    table: list[Row],
    tmp_path: Path,
    base: str,
    data: str,
    encoding: MaskEncoding,
) -> None:
    config = tmp_path / "pipeline.config"
    configured(written(data, encoding).output, "--base", base, "--config", str(config))
    said = trained("object_detection_tf1", "train_object_detection_tf1.py", config, tmp_path)
    table.append(Row(TRAINERS["object_detection_tf1"].title, encoding, data, f"`{base}` {said}"))


def test_faster_rcnn_brought_over_trains(
    written: Callable[[str, MaskEncoding], Written], table: list[Row], tmp_path: Path
) -> None:
    config = tmp_path / "pipeline.config"
    configured(written("demo", "png").output, "--update", str(HERE / "faster_rcnn.config"), "--config", str(config))
    said = trained("object_detection_tf1", "train_object_detection_tf1.py", config, tmp_path)
    title = TRAINERS["object_detection_tf1"].title
    table.append(Row(title, "png", "demo", f"a Faster R-CNN, brought over: {said}"))


def test_tf2_configuration_trains(written: Callable[[str, MaskEncoding], Written], table: list[Row], tmp_path: Path) -> None:
    (base,) = [name for name, base in BASES.items() if base.tf2]
    config = tmp_path / "pipeline.config"
    configured(written("tinycoco", "png").output, "--base", base, "--config", str(config))
    said = trained("object_detection", "train_object_detection_tf2.py", config, tmp_path)
    table.append(Row(TRAINERS["object_detection"].title, "png", "tinycoco", f"`{base}` {said}"))


def test_model_garden_trains(written: Callable[[str, MaskEncoding], Written], table: list[Row], tmp_path: Path) -> None:
    config = tmp_path / "mask_rcnn.yaml"
    configured(written("tinycoco", "png1").output, "--base", MODEL_GARDEN, "--batch_size", "2", "--config", str(config))
    said = trained("model_garden", "train_model_garden.py", config, tmp_path)
    table.append(Row(TRAINERS["model_garden"].title, "png1", "tinycoco", f"`{MODEL_GARDEN}` {said}"))
