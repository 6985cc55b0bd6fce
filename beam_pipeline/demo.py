"""`maskbeam demo`: a small data set, drawn on the spot, with the faults that real ones have, through everything.

A seaside: balloons, kites, boats (hull and sail: two parts), clouds (run lengths) and a flock of birds (a crowd).
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from transforms import run_lengths
from transforms.records import InputError

IMAGES = 30
SMOOTH = 3  # drawn this many times larger, then scaled down
CATEGORIES = {1: "balloon", 2: "kite", 3: "boat", 5: "cloud", 9: "bird"}  # with gaps, as COCO's ids have them
COLOURS = ("#e4572e", "#f3a712", "#a8c686", "#669bbc", "#8f2d56", "#29335c", "#f26ca7")

Ring = list[tuple[float, float]]


class Drawn(NamedTuple):
    """Something on a picture: its category, its rings in pixels, and how the annotation gives them."""

    category: int
    rings: list[Ring]
    form: str  # polygon, runs (uncompressed) or counts (compressed)
    crowd: bool = False


def _ellipse(x: float, y: float, rx: float, ry: float, points: int = 28) -> Ring:
    steps = (2 * math.pi * index / points for index in range(points))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in steps]


def _scene(rng: random.Random, width: int, height: int) -> list[Drawn]:
    horizon = height * 0.62
    puffs_at = ((-0.8, 0.1, 0.6), (0, -0.2, 0.8), (0.9, 0.1, 0.55))  # dx, dy and radius, of the cloud's size
    things = []
    for _ in range(rng.randint(1, 2)):
        x, y, size = rng.uniform(0, width), rng.uniform(0.08, 0.25) * height, rng.uniform(0.06, 0.12) * width
        puffs = [_ellipse(x + size * dx, y + size * dy, size * r, size * r * 0.7) for dx, dy, r in puffs_at]
        things.append(Drawn(5, puffs, "runs"))
    for _ in range(rng.randint(1, 2)):
        x, size = rng.uniform(0.05, 0.95) * width, rng.uniform(0.07, 0.14) * width
        y = rng.uniform(horizon, height * 0.85)
        hull = [(x - size, y), (x + size, y), (x + size * 0.65, y + size * 0.38), (x - size * 0.65, y + size * 0.38)]
        sail = [(x - size * 0.1, y - size * 0.12), (x - size * 0.1, y - size * 1.5), (x + size * 0.85, y - size * 0.12)]
        things.append(Drawn(3, [hull, sail], "polygon"))
    for _ in range(rng.randint(1, 3)):
        x, y, size = rng.uniform(0.1, 0.9) * width, rng.uniform(0.15, 0.55) * height, rng.uniform(0.05, 0.1) * width
        tilt = rng.uniform(-0.5, 0.5)
        corners = [(0.0, -1.3), (0.8, 0.0), (0.0, 1.3), (-0.8, 0.0)]
        turned = [(cx * math.cos(tilt) - cy * math.sin(tilt), cx * math.sin(tilt) + cy * math.cos(tilt)) for cx, cy in corners]
        things.append(Drawn(2, [[(x + size * cx, y + size * cy) for cx, cy in turned]], "polygon"))
    for _ in range(rng.randint(1, 4)):
        x, y, size = rng.uniform(0, width), rng.uniform(0.2, 0.75) * height, rng.uniform(0.05, 0.11) * width
        things.append(Drawn(1, [_ellipse(x, y, size, size * 1.2)], "polygon"))
    return things


def _flock(rng: random.Random, width: int, height: int) -> Drawn:
    birds = []
    for _ in range(14):
        x, y, span = rng.uniform(0.55, 0.9) * width, rng.uniform(0.06, 0.3) * height, width * 0.022
        birds.append([(x - span, y - span * 0.5), (x, y), (x + span, y - span * 0.5), (x, y + span * 0.35)])
    return Drawn(9, birds, "counts", crowd=True)


def _paint(rng: random.Random, width: int, height: int, things: list[Drawn]) -> Image.Image:
    horizon = int(height * 0.62)
    rows = np.arange(height, dtype=np.float32)[:, None] / height
    sky = np.array([176, 212, 240]) * (1 - rows) + np.array([255, 226, 190]) * rows
    sea = np.array([70, 130, 160]) * (1 - rows) + np.array([20, 60, 110]) * rows
    back = np.where(rows[:, :1] * height < horizon, sky, sea)[:, None, :].repeat(width, axis=1)
    waves = np.random.default_rng(rng.randrange(2**32)).normal(0, 5, (height, width, 1)).astype(np.float32)
    image = Image.fromarray((back + waves).clip(0, 255).astype(np.uint8)).resize((width * SMOOTH, height * SMOOTH))
    draw = ImageDraw.Draw(image)
    for thing in things:
        colour = {5: "#ffffff", 9: "#2b2d42"}.get(thing.category) or rng.choice(COLOURS)
        for number, ring in enumerate(thing.rings):
            fill = "#faf3dd" if thing.category == 3 and number else colour
            draw.polygon([(x * SMOOTH, y * SMOOTH) for x, y in ring], fill=fill)
        if thing.category == 1:
            x, y = thing.rings[0][7]  # the lowest point
            draw.line([(x * SMOOTH, y * SMOOTH), ((x + 6) * SMOOTH, (y + 34) * SMOOTH)], fill="#444444", width=SMOOTH)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _mask(rings: list[Ring], width: int, height: int) -> npt.NDArray[np.uint8]:
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for ring in rings:
        draw.polygon(ring, fill=1)
    return np.asarray(image)


def _annotation(number: int, image_id: int, thing: Drawn, width: int, height: int) -> dict[str, Any]:
    xs = [x for ring in thing.rings for x, _ in ring]
    ys = [y for ring in thing.rings for _, y in ring]
    segmentation: Any
    if thing.form == "polygon":
        segmentation = [[round(value, 2) for point in ring for value in point] for ring in thing.rings]
    else:
        runs = run_lengths.from_mask(_mask(thing.rings, width, height))
        plain = run_lengths.runs_of(runs).tolist()
        segmentation = {"size": [height, width], "counts": plain if thing.form == "runs" else runs.counts.decode()}
    return {
        "id": number,
        "image_id": image_id,
        "category_id": thing.category,
        "segmentation": segmentation,
        "bbox": [round(value, 2) for value in (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))],
        "area": int(_mask(thing.rings, width, height).sum()),
        "iscrowd": int(thing.crowd),
    }


def make_demo_data(folder: Path, seed: int = 7) -> tuple[Path, Path]:
    """Draws the data set; gives its annotation file and its image folder. The same pixels and bytes every time."""
    rng = random.Random(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, IMAGES + 1):
        width, height = (480, 640) if image_id % 5 == 0 else (640, 480)
        things = [] if image_id == 4 else _scene(rng, width, height)
        if image_id == 2:
            things.append(_flock(rng, width, height))
        suffix = "png" if image_id % 6 == 0 else "jpg"
        name = f"{'morning' if image_id <= IMAGES // 2 else 'evening'}/beach-{image_id:03d}.{suffix}"
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _paint(rng, width, height, things).save(path, quality=92)
        if image_id == 11:
            path.write_bytes(path.read_bytes()[:-2000])  # an upload that was cut off
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        annotations += [_annotation(len(annotations) + 1 + n, image_id, one, width, height) for n, one in enumerate(things)]
    kite = next(one for one in annotations if one["category_id"] == 2)
    kite["segmentation"][0].pop()  # a coordinate without its partner
    annotations[20]["category_id"] = 77
    file = folder / "annotations.json"
    categories = [{"id": number, "name": name, "supercategory": "seaside"} for number, name in CATEGORIES.items()]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8")
    return file, folder / "images"


def demo_command(folder: str) -> int:
    """Makes the data, runs and verifies; says what it does and what to look at. Exit status of `verify`."""
    from beam_pipeline.options import RunOptions
    from beam_pipeline.run import run, summary
    from beam_pipeline.verify import verify_command

    home, marker = Path(folder), Path(folder) / ".maskbeam-demo"
    if home.exists() and not marker.exists() and any(home.iterdir()):
        raise InputError(f"--folder {folder} is not empty, and no earlier demo: choose another")
    home.mkdir(parents=True, exist_ok=True)
    marker.touch()
    print(f"drawing {IMAGES} pictures in {folder}: one of them cut off, two annotations with faults")
    annotations, images = make_demo_data(Path(folder))
    output = os.path.join(folder, "records")
    options = RunOptions(
        annotations=str(annotations), images=str(images), output=output, splits="train=0.8,val=0.2", overwrite=True
    )
    print(f"\n$ maskbeam run --annotations {annotations} --images {images} --output {output} --splits train=0.8,val=0.2")
    began = time.monotonic()
    outcome = run(options, [])
    print(summary(options, outcome, time.monotonic() - began))
    print(f"\n$ maskbeam verify {output} --coco {annotations}")
    return verify_command(output, str(annotations))
