"""LabelMe: one truth in two formats gives the same masks; every kind of shape is drawn, or rejected with a reason."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as cocomask
from pycocotools.coco import COCO
from sources import all_drawn, by_file_name, drawn, parse_text, run_format, source_images
from test_end_to_end import read_back

from transforms.images import ImageFolder
from transforms.records import AnnotatedImage

HEIGHT, WIDTH = 40, 60


def labelme(*shapes: dict[str, Any], **fields: Any) -> str:
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return json.dumps({"version": "5.5", "shapes": shapes, "imagePath": "one.jpg", "imageData": None} | size | fields)


def shape(points: list[list[float]], label: str = "cat", kind: str = "polygon", **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}} | fields


def png(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask.astype(bool)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


TRIANGLE = [[3.0, 4.0], [40.0, 8.5], [20.25, 33.0]]


def one(*shapes: dict[str, Any], **fields: Any) -> Any:
    (source,) = parse_text("labelme", labelme(*shapes, **fields))
    return drawn(source)


def of_pycocotools(*rings: list[list[float]]) -> np.ndarray:
    flat = [[value for point in ring for value in point] for ring in rings]
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects(flat, HEIGHT, WIDTH)))


HUGE_MASK = shape([[1, 1], [2, 2]], kind="mask", mask=png(np.ones((2, 2))))


def test_a_polygon_is_drawn_as_pycocotools_draws_it() -> None:
    assert np.array_equal(one(shape(TRIANGLE)).masks, [of_pycocotools(TRIANGLE)])


def test_a_rectangle_is_what_lies_between_its_corners() -> None:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:20, 10:30] = 1
    assert np.array_equal(one(shape([[30, 20], [10, 5]], kind="rectangle")).masks, [expected])


def test_a_circle_is_round() -> None:
    (mask,) = one(shape([[30, 20], [30, 35.5]], kind="circle")).masks
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    distance = np.hypot(x - 30, y - 20)
    assert mask[distance < 14.5].all()
    assert not mask[distance > 16.5].any()
    assert abs(mask.sum() - np.pi * 15.5**2) < 0.03 * np.pi * 15.5**2


def test_a_mask_lies_where_its_points_say() -> None:
    painted = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[7:9, 11:14] = painted
    found = one(shape([[11, 7], [13, 8]], kind="mask", mask=png(painted)))
    assert np.array_equal(found.masks, [expected])
    assert found.instances[0].box == (7, 11, 9, 14)


@pytest.mark.parametrize(("left", "top"), [(-1, 0), (0, -1), (WIDTH - 2, 3), (3, HEIGHT - 1), (-2, HEIGHT - 1)])
def test_a_mask_over_the_edge_is_cut(left: int, top: int) -> None:
    painted = np.ones((2, 3), np.uint8)
    expected = np.zeros((HEIGHT + 10, WIDTH + 10), np.uint8)
    expected[5 + top : 7 + top, 5 + left : 8 + left] = 1
    expected = expected[5:-5, 5:-5]
    found = one(shape([[left, top], [left + 2, top + 1]], kind="mask", mask=png(painted)))
    assert np.array_equal(found.masks, [expected])


def test_shapes_of_a_group_are_parts_of_one_object() -> None:
    second = [[45.0, 20.0], [58.0, 22.0], [50.0, 38.0]]
    found = one(shape(TRIANGLE, group_id=1), shape(second, label="dog", group_id=1), shape(second, group_id=1))
    assert found.names == ["cat", "dog"]
    assert np.array_equal(found.masks, [of_pycocotools(TRIANGLE, second), of_pycocotools(second)])


def test_a_ring_inside_a_ring_is_no_hole() -> None:
    inside = [[15.0, 12.0], [25.0, 12.0], [20.0, 20.0]]
    assert np.array_equal(one(shape(TRIANGLE, group_id=1), shape(inside, group_id=1)).masks, [of_pycocotools(TRIANGLE, inside)])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (shape(TRIANGLE[:2], kind="line"), "SHAPE_UNSUPPORTED"),
        (shape(TRIANGLE[:1], kind="point"), "SHAPE_UNSUPPORTED"),
        (shape(TRIANGLE, kind="linestrip"), "SHAPE_UNSUPPORTED"),
        (shape(TRIANGLE, kind="circle"), "POLY_MALFORMED"),
        (shape([[1.0, 2.0, 3.0]]), "POLY_MALFORMED"),
        (shape([]), "POLY_MALFORMED"),
        (shape([[1e30, 2.0], [3.0, 4.0], [5.0, 1.0]]), "COORD_INVALID"),
        (shape([[500.0, 500.0], [520.0, 500.0], [510.0, 520.0]]), "EMPTY_MASK"),
        (shape([[1, 1], [2, 2]], kind="mask", mask="???"), "MASK_INVALID"),
        (shape([[1, 1], [2, 2]], kind="mask", mask="aGVsbG8="), "MASK_INVALID"),
        (shape([[1, 1], [2, 2]], kind="mask"), "MASK_INVALID"),
        (shape(TRIANGLE, label=""), "FIELD_INVALID"),
        (shape(TRIANGLE, label=None), "FIELD_INVALID"),
        (shape("abc"), "FIELD_INVALID"),
        ("abc", "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_a_shape_is_its_own(bad: Any, code: str) -> None:
    found = one(shape(TRIANGLE), bad, shape(TRIANGLE, label="dog"))
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]
    assert [instance.annotation_id for instance in found.instances] == [1, 3]


def test_drawn_and_painted_parts_do_not_mix() -> None:
    painted = shape([[11, 7], [13, 8]], kind="mask", mask=png(np.ones((2, 3))), group_id=4)
    assert one(shape(TRIANGLE, group_id=4), painted).rejects == {1: "SHAPE_UNSUPPORTED"}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "FILE_INVALID"),
        (b"{", "FILE_INVALID"),
        (b"[" * 100_000, "FILE_INVALID"),
        (b"[]", "FILE_INVALID"),
        (b'{"shapes": 3, "imagePath": "a.jpg"}', "FILE_INVALID"),
        (b'{"shapes": []}', "FILE_INVALID"),
        (b'{"shapes": [], "imagePath": "\xff.jpg"}', "TEXT_INVALID"),
        (labelme(imageHeight=1_000_000, imageWidth=1_000_000).encode(), "DIM_LIMIT"),
        (labelme(HUGE_MASK, imageHeight=2_000_000, imageWidth=2_000_000).encode(), "DIM_LIMIT"),
        (labelme(imageHeight=-3).encode(), "DIM_LIMIT"),
        (labelme(imageHeight=None).encode(), "IMAGE_MISSING"),
    ],
)
def test_what_is_wrong_with_a_file_is_its_images(data: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(data)
    (source,) = source_images("labelme", tmp_path)
    assert source.problem
    assert source.problem.code == code
    assert source.image.file_name in ("one.json", "one.jpg")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("b.jpg", "sub/b.jpg"),
        ("pictures/b.jpg", "sub/pictures/b.jpg"),
        ("..\\images\\b.jpg", "sub/b.jpg"),
        ("../images/b.jpg", "sub/b.jpg"),
        ("/home/me/b.jpg", "sub/b.jpg"),
        ("C:\\me\\b.jpg", "sub/b.jpg"),
    ],
)
def test_the_image_lies_beside_its_file(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.json").write_text(labelme(imagePath=name))
    (source,) = source_images("labelme", tmp_path)
    assert source.image.file_name == expected


def test_an_embedded_image_stands_in_for_a_missing_file(tmp_path: Path) -> None:
    picture = Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 60))
    ImageDraw.Draw(picture).line((0, 0, WIDTH, HEIGHT), (0, 255, 0))
    file = io.BytesIO()
    picture.save(file, "PNG")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    embedded = labelme(shape(TRIANGLE), imageData=base64.b64encode(file.getvalue()).decode(), imageHeight=None)
    (tmp_path / "annotations/one.json").write_text(embedded)
    manifest = run_format("labelme", tmp_path / "annotations", tmp_path / "images", tmp_path / "out")
    assert manifest["images"] == {"read": 1, "written": 1, "rejected": 0, "dropped": 0}
    (record,) = read_back(tmp_path / "out")
    assert np.array_equal(record["pixels"], np.asarray(picture))


def test_a_file_that_calls_itself_its_image_has_it_embedded(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 60)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    for name, fields in {"one": {"imageData": data}, "two.JPG": {"imageData": data, "imageHeight": None}, "three": {}}.items():
        (tmp_path / f"{name}.json").write_text(labelme(shape(TRIANGLE), imagePath=f"{name}.json", **fields))
    found = {source.image.file_name: source for source in source_images("labelme", tmp_path)}
    assert sorted(found) == ["one", "three.json", "two.JPG"]
    assert [one.problem for one in found.values()] == [None] * 3
    image = found["one"].image
    assert ImageFolder(str(tmp_path)).read_of(image) == file.getvalue()


def test_the_tutorial_of_the_labelme_repository(real_data: Path, tmp_path: Path) -> None:
    tutorial = real_data / "labelme_examples/examples/tutorial"
    manifest = run_format("labelme", tutorial / "apc2016_obj3.json", tutorial, tmp_path / "out")
    assert manifest["images"] == {"read": 1, "written": 1, "rejected": 0, "dropped": 0}
    (record,) = read_back(tmp_path / "out")
    assert record["image/filename"] == b"apc2016_obj3"
    assert len(record["masks"]) == 4


def test_fruits_have_the_masks_of_their_coco_file(real_data: Path, tmp_path: Path) -> None:
    fruits = real_data / "labelme_fruits"
    manifest = run_format("labelme", fruits / "images", fruits / "images", tmp_path / "out")
    assert manifest["images"] == {"read": 18, "written": 18, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 165, "written": 165, "rejected": 0, "dropped": 0}
    coco = COCO(fruits / "data/trainval.json")
    records = by_file_name(read_back(tmp_path / "out"))
    names = {category["id"]: category["name"] for category in coco.cats.values()}
    compared = 0
    for image in coco.imgs.values():
        record = records[image["file_name"]]
        annotations = sorted(coco.imgToAnns[image["id"]], key=lambda one: one["id"])
        expected = sorted((names[one["category_id"]], coco.annToMask(one).tobytes()) for one in annotations)
        texts = [text.decode() for text in record["image/object/class/text"]]
        assert sorted(zip(texts, (mask.tobytes() for mask in record["masks"]), strict=True)) == expected
        compared += len(expected)
    assert compared == 165


def test_the_examples_of_the_labelme_repository(real_data: Path) -> None:
    folder = real_data / "labelme_examples/examples/instance_segmentation"
    found = all_drawn("labelme", folder / "data_annotated")
    assert sum(len(one.instances) for one in found.values()) == 12  # of 18 polygons, two are void
    assert [code for one in found.values() for code in one.rejects.values()] == ["DROPPED_VOID"] * 2
    coco = COCO(folder / "data_dataset_coco/annotations.json")
    by_name = {Path(image["file_name"]).name: image["id"] for image in coco.imgs.values()}
    for name, one in found.items():
        expected = sorted(coco.annToMask(annotation).tobytes() for annotation in coco.imgToAnns[by_name[name]])
        assert sorted(mask.tobytes() for mask in one.masks) == expected


def test_primitives(real_data: Path) -> None:
    (found,) = all_drawn("labelme", real_data / "labelme_examples/examples/primitives").values()
    assert isinstance(found.image, AnnotatedImage)
    assert sorted(found.names) == ["circle", "polygon", "rectangle", "rectangle"]
    assert sorted(found.rejects.values()) == ["SHAPE_UNSUPPORTED"] * 3  # a line, a line strip, a point
