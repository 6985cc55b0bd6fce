"""The real data sets that are run whole, one command each, and what comes of them: docs/data_sets.md is made of this table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image


class Counts(NamedTuple):
    """Of images and annotations: read, and not written, by reason."""

    images: int
    annotations: int
    reasons: dict[str, int]
    images_refused: dict[str, int] | None = None


class RealData(NamedTuple):
    """Where a data set lies below the folder of real data; `prepare` makes what it lacks in a folder, and says where."""

    name: str
    format: str
    annotations: str
    images: str
    counts: Counts
    note: str = ""
    prepare: Callable[[Path, Path], tuple[Path, Path]] | None = None


def _grey(path: Path, size: tuple[int, int], made: dict[tuple[int, int], Path]) -> None:
    """A grey image in place of one that is not there; one file for all of a size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if size in made:
        path.hardlink_to(made[size])
        return
    Image.new("L", size, 99).save(path, "JPEG")
    made[size] = path


def with_grey_images(annotations: Path, folder: Path) -> tuple[Path, Path]:
    """A COCO file whose images are not there: grey ones of their sizes."""
    made: dict[tuple[int, int], Path] = {}
    for image in json.loads(annotations.read_text())["images"]:
        _grey(folder / image["file_name"], (image["width"], image["height"]), made)
    return annotations, folder


def of_results(results: Path, folder: Path) -> tuple[Path, Path]:
    """A list of results, as detectors give them, as a COCO file: with the images and categories that they name."""
    found = json.loads(results.read_text())
    sizes = {one["image_id"]: one["segmentation"]["size"] for one in found}
    data: dict[str, Any] = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": height, "width": width}
            for number, (height, width) in sizes.items()
        ],
        "annotations": [one | {"id": place} for place, one in enumerate(found, start=1)],
        "categories": [{"id": one, "name": str(one)} for one in sorted({one["category_id"] for one in found})],
    }
    (folder / "results.json").write_text(json.dumps(data))
    return with_grey_images(folder / "results.json", folder)


def listed(images: Path, folder: Path) -> tuple[Path, Path]:
    """Images without annotations, as JSON lines that have their names and the size that all but one have."""
    sizes = {"1x1.jpg": (1, 1)}
    lines = []
    for path in sorted(images.iterdir()):
        height, width = sizes.get(path.name, (64, 96))
        lines.append(json.dumps({"file_name": path.name, "height": height, "width": width, "annotations": []}))
    (folder / "all.jsonl").write_text("\n".join(lines))
    return folder / "all.jsonl", images


EXAMPLES = "labelme_examples/examples"
ASSETS = "datumaro_assets/assets"
DATA_SETS = (
    RealData(
        "tinycoco, train",
        "coco",
        "tinycoco/tinycoco/annotations/instances_train2017.json",
        "tinycoco/tinycoco/images/train2017",
        Counts(32, 288, {}),
    ),
    RealData(
        "tinycoco, val",
        "coco",
        "tinycoco/tinycoco/annotations/instances_val2017.json",
        "tinycoco/tinycoco/images/val2017",
        Counts(6, 136, {}),
    ),
    RealData("labelme_fruits", "labelme", "labelme_fruits/images", "labelme_fruits/images", Counts(18, 165, {})),
    RealData("labelme_fruits", "coco", "labelme_fruits/data/trainval.json", "labelme_fruits/images", Counts(18, 165, {})),
    RealData(
        "labelme_examples, instance_segmentation",
        "labelme",
        f"{EXAMPLES}/instance_segmentation/data_annotated",
        f"{EXAMPLES}/instance_segmentation/data_annotated",
        Counts(3, 14, {"DROPPED_VOID": 2}),
        "18 polygons, of which some are parts of one object",
    ),
    RealData(
        "labelme_examples, instance_segmentation",
        "pascal_voc",
        f"{EXAMPLES}/instance_segmentation/data_dataset_voc",
        f"{EXAMPLES}/instance_segmentation/data_dataset_voc/JPEGImages",
        Counts(3, 12, {}),
    ),
    RealData(
        "labelme_examples, instance_segmentation",
        "coco",
        f"{EXAMPLES}/instance_segmentation/data_dataset_coco/annotations.json",
        f"{EXAMPLES}/instance_segmentation/data_dataset_coco",
        Counts(3, 12, {}),
    ),
    RealData(
        "labelme_examples, primitives",
        "labelme",
        f"{EXAMPLES}/primitives",
        f"{EXAMPLES}/primitives",
        Counts(1, 7, {"SHAPE_UNSUPPORTED": 3}),
        "a line, a line strip and a point enclose nothing",
    ),
    RealData("dsb2018_dev", "mask_folders", "dsb2018_dev/stage1_train", "dsb2018_dev/stage1_train", Counts(66, 2539, {})),
    RealData(
        "lvis_val_100",
        "coco",
        "lvis_val_100/data/lvis_val_100.json",
        "",
        Counts(100, 977, {}),
        "images are not included: grey ones stand in",
        with_grey_images,
    ),
    RealData(
        "taco_json",
        "coco",
        "taco_json/annotations.json",
        "",
        Counts(1500, 4784, {"DUP_ID": 2}),
        "images are not included: grey ones stand in; two ids are there twice",
        with_grey_images,
    ),
    RealData(
        "coco_rle_results",
        "coco",
        "coco_rle_results/results/instances_val2014_fakesegm100_results.json",
        "",
        Counts(99, 734, {}),
        "a list of results, put into a COCO file; grey images",
        of_results,
    ),
    RealData(
        "panoptic_coco",
        "coco_panoptic",
        "panoptic_coco/sample_data/panoptic_examples.json",
        "panoptic_coco/sample_data/input_images",
        Counts(2, 50, {"DROPPED_STUFF": 7}),
    ),
    RealData(
        "shapes_masks",
        "mask_folders",
        "shapes_masks/shapes/train",
        "shapes_masks/shapes/train/shapes_train2018",
        Counts(2, 5, {}),
    ),
    RealData(
        "datumaro_assets, coco_instances",
        "coco",
        f"{ASSETS}/coco_dataset/coco_instances/annotations/instances_train.json",
        f"{ASSETS}/coco_dataset/coco_instances/images/train",
        Counts(1, 1, {"POLY_MALFORMED": 1}),
    ),
    RealData(
        "datumaro_assets, coco_panoptic",
        "coco_panoptic",
        f"{ASSETS}/coco_dataset/coco_panoptic/annotations/panoptic_train.json",
        f"{ASSETS}/coco_dataset/coco_panoptic/images/train",
        Counts(1, 1, {"DROPPED_STUFF": 1}),
    ),
    RealData(
        "datumaro_assets, voc_dataset1",
        "pascal_voc",
        f"{ASSETS}/voc_dataset/voc_dataset1",
        f"{ASSETS}/voc_dataset/voc_dataset1/JPEGImages",
        Counts(1, 2, {"MASK_INVALID": 1}),
        "a cat in the XML, a bicycle in SegmentationClass",
    ),
    RealData(
        "datumaro_assets, cityscapes",
        "cityscapes",
        f"{ASSETS}/cityscapes_dataset/dataset/gtFine",
        f"{ASSETS}/cityscapes_dataset/dataset/leftImg8bit",
        Counts(4, 9, {"DROPPED_VOID": 5, "DROPPED_STUFF": 1}),
    ),
    RealData(
        "datumaro_assets, open_images v6",
        "open_images",
        f"{ASSETS}/open_images_dataset/v6",
        f"{ASSETS}/open_images_dataset/v6/images",
        Counts(2, 2, {}),
    ),
    RealData(
        "datumaro_assets, cvat export_task",
        "cvat",
        f"{ASSETS}/cvat_dataset/for_images/export_task",
        f"{ASSETS}/cvat_dataset/for_images/export_task/images",
        Counts(2, 4, {"FIELD_INVALID": 1, "SHAPE_UNSUPPORTED": 2}),
        "points, and an object without a label",
    ),
    RealData(
        "datumaro_assets, cvat export_project",
        "cvat",
        f"{ASSETS}/cvat_dataset/for_images/export_project",
        f"{ASSETS}/cvat_dataset/for_images/export_project/images",
        Counts(6, 12, {"SHAPE_UNSUPPORTED": 6}),
        "points",
    ),
    RealData(
        "odd_images_synthetic",
        "jsonl",
        "odd_images_synthetic",
        "",
        Counts(56, 0, {}, {"DIM_MISMATCH": 1, "IMAGE_CORRUPT": 10, "IMAGE_UNSUPPORTED": 12, "PIXEL_LIMIT": 2}),
        "images without annotations, listed",
        listed,
    ),
)


def page() -> str:
    """docs/data_sets.md."""
    lines = [
        "# Real data sets, run whole",
        "",
        "Each by one command, in `make data-sets`, which fails where a number is another:",
        "`maskbeam run --format FORMAT --annotations ANNOTATIONS --images IMAGES --output OUTPUT --category_ids contiguous`",
        "and `--max_reject_fraction 1`. What is not listed as refused or left out is written; a crowd, or a box without a mask,",
        "counts like any other annotation.",
        "",
        "| data set | format | images | annotations | instances | not written, and why | |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in DATA_SETS:
        counts = one.counts
        refused = [f"{count} images `{code}`" for code, count in (counts.images_refused or {}).items()]
        why = ", ".join([*refused, *(f"{count} `{code}`" for code, count in counts.reasons.items())])
        figures = f"{counts.images:,} | {counts.annotations:,} | {counts.annotations - sum(counts.reasons.values()):,}"
        lines.append(f"| {one.name} | `{one.format}` | {figures} | {why} | {one.note} |")
    lines += ["", "| data set | format | annotations | images |", "|---|---|---|---|"]
    for one in DATA_SETS:
        lines.append(f"| {one.name} | `{one.format}` | {one.annotations} | {one.images or 'made for it'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs/data_sets.md").write_text(page(), encoding="utf-8")
