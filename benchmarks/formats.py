"""What it costs that annotations are in another format than COCO's: `make bench-formats`.

One data set, written in each format; whole runs in one process, after one another in turn, each beside one of COCO's file, in
seconds of the processor; the ratio is the median of those. Masks are the same but for `cityscapes` and `mask_folders`, which are
painted, and where objects cover one another.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bench import Cost, cost_of
from make_data import AS_COCO, make
from PIL import Image
from pycocotools import mask as cocomask

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from environments import python_with_maskbeam

WIDTH, HEIGHT = 640, 480


class Annotated(NamedTuple):
    """An image of the data set: the names of its objects' classes, and their rings."""

    file_name: str
    objects: list[tuple[str, list[float]]]


def points(ring: list[float]) -> list[list[float]]:
    return [[x, y] for x, y in zip(ring[0::2], ring[1::2], strict=True)]


def read(path: Path) -> list[Annotated]:
    """A COCO file."""
    data = json.loads(path.read_text())
    names = {one["id"]: one["name"] for one in data["categories"]}
    objects: defaultdict[int, list[tuple[str, list[float]]]] = defaultdict(list)
    for one in data["annotations"]:
        objects[one["image_id"]].append((names[one["category_id"]], one["segmentation"][0]))
    return [Annotated(one["file_name"], objects[one["id"]]) for one in data["images"]]


def as_jsonl(images: list[Annotated], folder: Path) -> None:
    lines = [
        {
            "file_name": one.file_name,
            "height": HEIGHT,
            "width": WIDTH,
            "annotations": [{"category": name, "polygons": [ring]} for name, ring in one.objects],
        }
        for one in images
    ]
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))


def as_labelme(images: list[Annotated], folder: Path) -> None:
    for one in images:
        shapes = [
            {"label": name, "points": points(ring), "group_id": None, "shape_type": "polygon", "flags": {}}
            for name, ring in one.objects
        ]
        fields: dict[str, Any] = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": one.file_name}
        fields |= {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
        (folder / one.file_name).with_suffix(".json").write_text(json.dumps(fields))


def as_yolo(images: list[Annotated], folder: Path) -> None:
    names = sorted({name for one in images for name, _ in one.objects})
    (folder / "data.yaml").write_text(json.dumps({"names": names}))
    for one in images:
        lines = []
        for name, ring in one.objects:
            shares = [value / (HEIGHT if place % 2 else WIDTH) for place, value in enumerate(ring)]
            lines.append(" ".join([str(names.index(name)), *(f"{share:.6f}" for share in shares)]))
        (folder / one.file_name).with_suffix(".txt").write_text("\n".join(lines))


def as_via(images: list[Annotated], folder: Path) -> None:
    entries = {}
    for one in images:
        regions = [
            {
                "shape_attributes": {"name": "polygon", "all_points_x": ring[0::2], "all_points_y": ring[1::2]},
                "region_attributes": {"class": name},
            }
            for name, ring in one.objects
        ]
        entries[f"{one.file_name}-1"] = {"filename": one.file_name, "size": -1, "regions": regions, "file_attributes": {}}
    (folder / "via.json").write_text(json.dumps(entries))


def as_cvat(images: list[Annotated], folder: Path) -> None:
    def text(one: Annotated, number: int) -> str:
        shapes = "".join(
            f'<polygon label="{name}" occluded="0" z_order="0" points="{";".join(f"{x},{y}" for x, y in points(ring))}"/>'
            for name, ring in one.objects
        )
        return f'<image id="{number}" name="{one.file_name}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'

    every = "\n".join(text(one, number) for number, one in enumerate(images))
    (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{every}</annotations>")


def as_label_studio(images: list[Annotated], folder: Path) -> None:
    tasks = []
    for number, one in enumerate(images, start=1):
        results = [
            {
                "type": "polygonlabels",
                "original_width": WIDTH,
                "original_height": HEIGHT,
                "value": {"points": [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in points(ring)], "polygonlabels": [name]},
            }
            for name, ring in one.objects
        ]
        tasks.append({"id": number, "data": {"image": one.file_name}, "annotations": [{"id": number, "result": results}]})
    (folder / "tasks.json").write_text(json.dumps(tasks))


def as_supervisely(images: list[Annotated], folder: Path) -> None:
    (folder / "ann").mkdir()
    for one in images:
        objects = [
            {"classTitle": name, "geometryType": "polygon", "points": {"exterior": points(ring), "interior": []}}
            for name, ring in one.objects
        ]
        fields = {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects, "tags": []}
        (folder / "ann" / f"{one.file_name}.json").write_text(json.dumps(fields))


def as_labelbox(images: list[Annotated], folder: Path) -> None:
    lines = []
    for one in images:
        objects = [
            {"name": name, "annotation_kind": "ImagePolygon", "polygon": [{"x": x, "y": y} for x, y in points(ring)]}
            for name, ring in one.objects
        ]
        labels = [{"annotations": {"objects": objects, "classifications": [], "relationships": []}}]
        row = {"data_row": {"id": one.file_name, "external_id": one.file_name, "row_data": f"https://x/{one.file_name}"}}
        attributes = {"media_attributes": {"height": HEIGHT, "width": WIDTH}}
        lines.append(row | attributes | {"projects": {"p": {"labels": labels}}})
    (folder / "export.ndjson").write_text("\n".join(map(json.dumps, lines)))


def as_cityscapes(images: list[Annotated], folder: Path) -> None:
    for one in images:
        objects = [{"label": "car", "polygon": points(ring)} for _, ring in one.objects]
        fields = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
        (folder / f"{one.file_name.removesuffix('.jpg')}_gtFine_polygons.json").write_text(json.dumps(fields))


def as_mask_folders(images: list[Annotated], folder: Path) -> None:
    for one in images:
        ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        for number, (_, ring) in enumerate(one.objects, start=1):
            ids[cocomask.decode(cocomask.frPyObjects([ring], HEIGHT, WIDTH))[..., 0] > 0] = number
        Image.fromarray(ids).save((folder / one.file_name).with_suffix(".png"))


FORMATS: dict[str, Callable[[list[Annotated], Path], None]] = {
    "jsonl": as_jsonl,
    "labelme": as_labelme,
    "yolo": as_yolo,
    "via": as_via,
    "cvat": as_cvat,
    "label_studio": as_label_studio,
    "supervisely": as_supervisely,
    "labelbox": as_labelbox,
    "cityscapes": as_cityscapes,
    "mask_folders": as_mask_folders,
}


def run(format_: str, annotations: Path, images: Path, output: Path) -> Cost:
    """One run in one process."""
    program = str(Path(python_with_maskbeam()).with_name("maskbeam"))
    paths = [f"--annotations={annotations}", f"--images={images}", f"--output={output}", f"--format={format_}"]
    return cost_of([program, "run", *paths, "--workers=1", "--overwrite", "--max_reject_fraction=1"])


def table(folder: Path, names: list[str], runs: int) -> Iterator[str]:
    """A line a format."""
    coco, images = folder / "instances.json", folder / "images"
    annotated = read(coco)
    head = f"{len(annotated):,} images of {WIDTH}×{HEIGHT}, as"
    yield f"| {head} | MB of annotations | processor s | COCO beside it | times as much |"
    yield "|---|---|---|---|---|"
    for name in names:
        written = folder / name
        written.mkdir()
        FORMATS[name](annotated, written)
        for one in annotated if name in ("cityscapes", "supervisely") else ():  # which look for it under another name
            other = f"{one.file_name.removesuffix('.jpg')}_leftImg8bit.png" if name == "cityscapes" else f"img/{one.file_name}"
            (images / other).parent.mkdir(exist_ok=True)
            if not (images / other).exists():
                (images / other).hardlink_to(images / one.file_name)
        found, beside = [], []
        for _ in range(runs):
            beside.append(run("coco", coco, images, folder / "records").processor)
            found.append(run(name, written, images, folder / "records").processor)
            manifest = json.loads((folder / "records/manifest.json").read_text())
            if manifest["images"]["written"] != len(annotated):
                sys.exit(f"{name}: {manifest['images']}, {manifest['reasons']}")
            print(name, found[-1], beside[-1], file=sys.stderr, flush=True)
        ratio = statistics.median(one / other for one, other in zip(found, beside, strict=True))
        size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file()) / 1e6
        yield f"| {name} | {size:.1f} | {statistics.median(found):.1f} | {statistics.median(beside):.1f} | {ratio:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--runs", type=int, default=3)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as scratch:
        folder = Path(scratch) / "data"
        make(folder, parsed.images, 7, WIDTH, HEIGHT, quality=AS_COCO)
        for line in table(folder, parsed.formats, parsed.runs):
            print(line, flush=True)


if __name__ == "__main__":
    main()
