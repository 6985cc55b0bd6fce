"""An image that can't be used takes all its annotations with it: none of them is missing from the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sources import source_images

SQUARE = [[1, 1], [9, 1], [9, 9]]


def yolo(folder: Path, text: str | bytes) -> None:
    (folder / "data.yaml").write_text("names: [cat]")
    (folder / "one.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def via_entry(name: str) -> dict[str, Any]:
    return {"1": {"filename": name, "regions": [{}, {"shape_attributes": {}}, {}], "file_attributes": {}}}


def labelme(**fields: Any) -> dict[str, Any]:
    shapes = [{"label": "cat", "points": SQUARE, "group_id": group} for group in (None, None, 1, 1)]
    return {"shapes": [*shapes, {}, {"label": "__ignore__", "points": SQUARE}], "imagePath": "one.jpg"} | fields


def task(image: Any = "one.jpg", **size: int) -> list[dict[str, Any]]:
    value = {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["cat"]}
    results = [{"type": "rectanglelabels", "id": name, "value": value, **size} for name in ("a", "b")]
    choice = {"type": "choices", "id": "c", "value": {"choices": ["indoors"]}}
    return [{"id": 1, "data": {"image": image}, "annotations": [{"result": [*results, choice, 3]}]}]


def cvat(name: str = "one.jpg", height: object = 40, width: object = 60) -> str:
    shapes = '<box label="a"/><polygon label="b"/><tag label="c"/><box label="d" group_id="1"/><box label="d" group_id="1"/>'
    return f'<annotations><image id="0" name="{name}" width="{width}" height="{height}">{shapes}</image></annotations>'


def sagemaker(sizes: list[Any], classes: Any) -> dict[str, Any]:
    return {
        "source-ref": "s3://bucket/one.jpg",
        "cats": {"annotations": [{}, {"class_id": 0, "left": 1, "top": 1, "width": 5, "height": 5}], "image_size": sizes},
        "cats-metadata": {"class-map": classes, "type": "groundtruth/object-detection"},
    }


def pet(folder: Path, name: str, xml: str) -> None:
    (folder / "xmls").mkdir()
    (folder / f"xmls/{name}.xml").write_text(xml)


SIZE = {"height": 40, "width": 60, "depth": 3}
LARGE = {"original_height": 100_000, "original_width": 100_000}
TWO_HEADS = "<annotation><object/><object/></annotation>"


@pytest.mark.parametrize(
    ("format_name", "make", "code", "annotations"),
    [
        ("yolo", lambda folder: yolo(folder, "0 0.1 0.1 0.2 0.2\n\nx\r\n0 0.1"), "IMAGE_MISSING", 3),
        ("yolo", lambda folder: yolo(folder, b"\xef\xbb\xbf0 0.1\n\xff\n"), "IMAGE_MISSING", 2),
        ("via", lambda folder: write(folder, "a.json", via_entry("one.jpg")), "IMAGE_MISSING", 3),
        ("via", lambda folder: write(folder, "a.json", via_entry("")), "FILE_INVALID", 3),
        ("labelme", lambda folder: write(folder, "a.json", labelme()), "IMAGE_MISSING", 5),
        ("labelme", lambda folder: write(folder, "a.json", labelme(imageData="AAAA")), "IMAGE_CORRUPT", 5),
        ("label_studio", lambda folder: write(folder, "a.json", task()), "IMAGE_MISSING", 3),
        ("label_studio", lambda folder: write(folder, "a.json", task(**LARGE)), "DIM_LIMIT", 3),
        ("label_studio", lambda folder: write(folder, "a.json", task(3)), "FILE_INVALID", 3),
        ("cvat", lambda folder: write(folder, "a.xml", cvat(height="tall")), "FILE_INVALID", 3),
        ("cvat", lambda folder: write(folder, "a.xml", cvat(name="")), "FILE_INVALID", 3),
        ("cvat", lambda folder: write(folder, "a.xml", cvat(width=10**9)), "DIM_LIMIT", 3),
        ("sagemaker", lambda folder: write(folder, "a.manifest", sagemaker([], {"0": "cat"})), "FILE_INVALID", 2),
        ("sagemaker", lambda folder: write(folder, "a.manifest", sagemaker([SIZE], 3)), "FILE_INVALID", 2),
        ("oxford_pets", lambda folder: pet(folder, "cat", TWO_HEADS), "FILE_INVALID", 1),
        ("oxford_pets", lambda folder: pet(folder, "cat_1", "<"), "FILE_INVALID", 1),
    ],
)
def test_what_an_image_takes_with_it(format_name: str, make: Any, code: str, annotations: int, tmp_path: Path) -> None:
    make(tmp_path)
    (source,) = source_images(format_name, tmp_path)
    assert source.problem
    assert source.problem.code == code
    assert not source.image.instances
    assert [number for number, _ in source.rejects] == list(range(1, annotations + 1))


def test_a_file_that_is_no_text_has_its_lines(tmp_path: Path) -> None:
    yolo(tmp_path, b"0 0.1\n\xff\n\n")
    Image.new("RGB", (60, 40)).save(tmp_path / "one.jpg")
    (source,) = source_images("yolo", tmp_path)
    assert source.problem
    assert source.problem.code == "TEXT_INVALID"
    assert source.annotations == 2


def test_heads_of_a_pet_without_a_name(tmp_path: Path) -> None:
    pet(tmp_path, "cat", TWO_HEADS)
    (source,) = source_images("oxford_pets", tmp_path, faces_only=True)
    assert source.problem
    assert source.annotations == 2
