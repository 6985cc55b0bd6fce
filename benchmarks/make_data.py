"""Data for the benchmarks: a COCO file and JPEGs that weigh what photographs do.

    python benchmarks/make_data.py FOLDER --images 1500 --instances 7 --size 640x480

Every image has a file name of its own; there are 200 different contents, linked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

CONTENTS = 200
QUALITY = 93
"""Of the JPEGs, which gives a third of a byte a pixel: light ones."""
AS_COCO = 97
"""The quality that gives 167 KB at 640×480; COCO's own files have 163 KB on the average, 0.6 bytes a pixel."""
STRIDE = 1_000_003  # from the image of a scattered annotation to the next one's; a prime, so that each has its turn


def photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Soft structure on all scales and sensor noise."""
    pixels = np.zeros((height, width, 3), np.float32)
    for step in (160, 40, 10):
        coarse = rng.uniform(0, 255, (height // step + 2, width // step + 2, 3)).astype(np.uint8)
        pixels += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    image = Image.fromarray((pixels / 3 + rng.normal(0, 9, pixels.shape)).clip(0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(0.6))


def outline(rng: random.Random, width: int, height: int) -> list[float]:
    """A wobbly ring of 12 to 45 points, of COCO's sizes, rounded to hundredths, partly over no edge."""
    radius = min(width, height) * min(0.45, rng.lognormvariate(-2.9, 0.9))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    points = rng.randint(12, 45)
    ring = []
    for index in range(points):
        angle = 2 * math.pi * index / points
        reach = radius * rng.uniform(0.7, 1.3)
        ring += [
            round(min(width, max(0.0, x + 1.3 * reach * math.cos(angle))), 2),
            round(min(height, max(0.0, y + reach * math.sin(angle))), 2),
        ]
    return ring


def annotations(images: int, instances: int, width: int, height: int, scattered: bool = False) -> Iterator[dict[str, Any]]:
    """Entries of `annotations`: `instances` of each image; one image after the other, or, `scattered`, over all of the file."""
    rng = random.Random(1)
    for index in range(images * instances):
        ring, box = [], [0.0] * 4
        while box[2] < 2 or box[3] < 2:
            ring = outline(rng, width, height)
            xs, ys = ring[0::2], ring[1::2]
            box = [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)]
        yield {
            "id": index + 1,
            "image_id": (index * STRIDE % images if scattered else index // instances) + 1,
            "category_id": rng.randint(1, 80),
            "segmentation": [ring],
            "area": round(box[2] * box[3] * 0.7, 2),
            "bbox": box,
            "iscrowd": 0,
        }


def write_coco(path: Path, images: int, instances: int, width: int, height: int, scattered: bool = False) -> None:
    """Writes a COCO file, an entry at a time."""
    names = (
        {"id": number, "file_name": f"{number:012d}.jpg", "width": width, "height": height} for number in range(1, images + 1)
    )
    categories = ({"id": number, "name": f"category {number}", "supercategory": "things"} for number in range(1, 81))
    lists = {"images": names, "annotations": annotations(images, instances, width, height, scattered), "categories": categories}
    with path.open("w") as file:
        file.write('{"info": {}')
        for key, entries in lists.items():
            file.write(f', "{key}": [')
            for index, entry in enumerate(entries):
                file.write(", " * (index > 0) + json.dumps(entry))
            file.write("]")
        file.write("}")


def make(
    folder: Path, images: int, instances: int, width: int, height: int, scattered: bool = False, quality: int = QUALITY
) -> None:
    """Writes `instances.json` and `images/`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1)
    for index in range(min(CONTENTS, images)):
        path = folder / f"content-{index:03d}.jpg"
        if not path.exists():
            photograph(noise, width, height).save(path, quality=quality)
    for image_id in range(1, images + 1):
        path = folder / "images" / f"{image_id:012d}.jpg"
        if not path.exists():
            os.link(folder / f"content-{image_id % min(CONTENTS, images):03d}.jpg", path)
    write_coco(folder / "instances.json", images, instances, width, height, scattered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--instances", type=int, default=7)
    parser.add_argument("--size", default="640x480", help="width x height")
    parsed = parser.parse_args()
    width, height = map(int, parsed.size.split("x"))
    make(parsed.folder, parsed.images, parsed.instances, width, height)


if __name__ == "__main__":
    main()
