"""One data set written in each format that is read, for tests and benchmarks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as cocomask

WIDTH, HEIGHT = 640, 480
PET = "Abyssinian"


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
                "region_attributes": {"species": name},
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
    """Points are the middles of pixels there."""
    (folder / "ds0" / "ann").mkdir(parents=True)
    for one in images:
        objects = [
            {
                "classTitle": name,
                "geometryType": "polygon",
                "points": {"exterior": points([value - 0.5 for value in ring]), "interior": []},
            }
            for name, ring in one.objects
        ]
        fields = {"size": {"height": HEIGHT, "width": WIDTH}, "objects": objects, "tags": []}
        (folder / "ds0" / "ann" / f"{one.file_name}.json").write_text(json.dumps(fields))


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


def run_lengths(rings: list[list[float]]) -> dict[str, Any]:
    found = cocomask.merge(cocomask.frPyObjects(rings, HEIGHT, WIDTH))
    return {"size": found["size"], "counts": found["counts"].decode()}


def pixels(ring: list[float]) -> npt.NDArray[np.bool_]:
    return cocomask.decode(cocomask.frPyObjects([ring], HEIGHT, WIDTH))[..., 0] > 0


def painted(one: Annotated) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Shape (height, width): of each pixel, the number of the last object that has it, from 1 on, or 0; the objects' classes.

    Objects that others cover are left out.
    """
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (_, ring) in enumerate(one.objects, start=1):
        ids[pixels(ring)] = number
    seen = np.unique(ids[ids > 0])
    return np.where(ids > 0, np.searchsorted(seen, ids) + 1, 0).astype(np.uint8), [one.objects[number - 1][0] for number in seen]


def as_mask_folders(images: list[Annotated], folder: Path) -> None:
    for one in images:
        Image.fromarray(painted(one)[0]).save((folder / one.file_name).with_suffix(".png"))


def as_pascal_voc(images: list[Annotated], folder: Path) -> None:
    for name in ("Annotations", "SegmentationObject"):
        (folder / name).mkdir()
    for one in images:
        ids, names = painted(one)
        objects = []
        for number, name in enumerate(names, start=1):
            rows, columns = np.nonzero(ids == number)
            corners = {"xmin": columns.min(), "ymin": rows.min(), "xmax": columns.max(), "ymax": rows.max()}
            box = "".join(f"<{corner}>{value + 1}</{corner}>" for corner, value in corners.items())
            objects.append(f"<object><name>{name}</name><bndbox>{box}</bndbox></object>")
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{one.file_name}</filename>{size}{''.join(objects)}</annotation>"
        (folder / "Annotations" / one.file_name).with_suffix(".xml").write_text(text)
        image = Image.fromarray(ids, "P")
        image.putpalette([value for number in range(256) for value in (number, 255 - number, number * 7 % 256)])
        image.save((folder / "SegmentationObject" / one.file_name).with_suffix(".png"))


def as_oxford_pets(images: list[Annotated], folder: Path) -> None:
    (folder / "trimaps").mkdir()
    for one in images:
        trimap = np.where(pixels(one.objects[0][1]), np.uint8(1), np.uint8(2))
        Image.fromarray(trimap).save(folder / "trimaps" / f"{PET}_{one.file_name.removesuffix('.jpg')}.png")


def as_coco_panoptic(images: list[Annotated], folder: Path) -> None:
    numbers = {name: number for number, name in enumerate(sorted({name for one in images for name, _ in one.objects}), start=1)}
    (folder / "panoptic").mkdir()
    entries = []
    for image_id, one in enumerate(images, start=1):
        ids, names = painted(one)
        Image.fromarray(np.stack([ids, ids * 7, ids * 0], axis=-1)).save(folder / "panoptic" / f"{image_id}.png")
        segments = [
            {"id": number + 256 * (number * 7 % 256), "category_id": numbers[name], "iscrowd": 0}
            for number, name in enumerate(names, start=1)
        ]
        entries.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    files = [
        {"id": image_id, "file_name": one.file_name, "height": HEIGHT, "width": WIDTH} for image_id, one in enumerate(images, 1)
    ]
    categories = [{"id": number, "name": name, "isthing": 1} for name, number in numbers.items()]
    data = {"images": files, "annotations": entries, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(data))


def as_open_images(images: list[Annotated], folder: Path) -> None:
    (folder / "masks").mkdir()
    rows = ["MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"]
    for one in images:
        image_id = one.file_name.removesuffix(".jpg")
        for number, (name, ring) in enumerate(one.objects):
            path = f"{image_id}_{number}.png"
            Image.fromarray(pixels(ring)).save(folder / "masks" / path)
            xs, ys = [x / WIDTH for x in ring[0::2]], [y / HEIGHT for y in ring[1::2]]
            box = f"{min(xs):.6f},{max(xs):.6f},{min(ys):.6f},{max(ys):.6f}"
            rows.append(f"{path},{image_id},{name},{number},{box},0.9,")
    (folder / "train-annotations-object-segmentation.csv").write_text("\n".join(rows))


def as_sagemaker(images: list[Annotated], folder: Path) -> None:
    names = sorted({name for one in images for name, _ in one.objects})
    lines = []
    for one in images:
        boxes = []
        for name, ring in one.objects:
            left, top, width, height = box_of(ring)
            boxes.append({"class_id": names.index(name), "left": left, "top": top, "width": width, "height": height})
        label = {"annotations": boxes, "image_size": [{"width": WIDTH, "height": HEIGHT, "depth": 3}]}
        metadata = {"class-map": dict(enumerate(names)), "type": "groundtruth/object-detection"}
        lines.append({"source-ref": f"s3://x/{one.file_name}", "things": label, "things-metadata": metadata})
    (folder / "output.manifest").write_text("\n".join(map(json.dumps, lines)))


def box_of(ring: list[float]) -> list[float]:
    """left, top, width, height"""
    left, top = min(ring[0::2]), min(ring[1::2])
    return [left, top, max(ring[0::2]) - left, max(ring[1::2]) - top]


def visible(one: Annotated) -> list[dict[str, Any]]:
    """What is painted of each object."""
    ids, names = painted(one)
    found = []
    for number, name in enumerate(names, start=1):
        mask = cocomask.encode(np.asfortranarray(ids == number, np.uint8))
        found.append({"category": name, "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()}})
    return found


def whole(one: Annotated) -> list[dict[str, Any]]:
    return [{"category": name, "segmentation": run_lengths([ring])} for name, ring in one.objects]


def boxes(one: Annotated) -> list[dict[str, Any]]:
    return [{"category": name, "bbox": box_of(ring)} for name, ring in one.objects]


def first(one: Annotated) -> list[dict[str, Any]]:
    return whole(one)[:1]


def decoded(shape: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """The mask, [height, width] of 0 and 1, of what a COCO file has; of a box without one, all 0."""
    if "segmentation" not in shape:
        return np.zeros((HEIGHT, WIDTH), np.uint8)
    mask: npt.NDArray[np.uint8] = cocomask.decode(shape["segmentation"])
    return mask


def as_coco(images: list[Annotated], path: Path, shapes: Callable[[Annotated], list[dict[str, Any]]], first_id: int = 1) -> None:
    """A COCO file of the same images, with other shapes; ids of images and annotations begin with `first_id`."""
    names = sorted({name for one in images for name, _ in one.objects})
    annotations = []
    for image_id, one in enumerate(images, start=first_id):
        for shape in shapes(one):
            category_id = names.index(shape.pop("category")) + 1
            annotations.append(shape | {"id": len(annotations) + first_id, "image_id": image_id, "category_id": category_id})
    files = [
        {"id": number, "file_name": one.file_name, "height": HEIGHT, "width": WIDTH}
        for number, one in enumerate(images, first_id)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    path.write_text(json.dumps({"images": files, "annotations": annotations, "categories": categories}))


class Written(NamedTuple):
    """How a format is written; what a COCO file of the same masks has, if not the polygons."""

    write: Callable[[list[Annotated], Path], None]
    shapes: Callable[[Annotated], list[dict[str, Any]]] | None = None
    image: str = "{}.jpg"
    annotations: str = ""


FORMATS = {
    "jsonl": Written(as_jsonl),
    "labelme": Written(as_labelme),
    "yolo": Written(as_yolo),
    "via": Written(as_via),
    "cvat": Written(as_cvat),
    "label_studio": Written(as_label_studio),
    "supervisely": Written(as_supervisely, image="ds0/img/{}.jpg"),
    "labelbox": Written(as_labelbox),
    "sagemaker": Written(as_sagemaker, boxes),
    "cityscapes": Written(as_cityscapes, visible, image="{}_leftImg8bit.png"),
    "mask_folders": Written(as_mask_folders, visible),
    "pascal_voc": Written(as_pascal_voc, visible, image="JPEGImages/{}.jpg"),
    "coco_panoptic": Written(as_coco_panoptic, visible, annotations="panoptic.json"),
    "oxford_pets": Written(as_oxford_pets, first, image=PET + "_{}.jpg"),
    "open_images": Written(as_open_images, whole),
}
