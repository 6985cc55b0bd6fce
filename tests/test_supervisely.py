"""Supervisely: figures as its own tools draw them, parts and holes joined to objects, every bad figure by itself."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as cocomask
from sources import by_file_name, drawn, parse_text, run_format, source_images
from test_end_to_end import read_back

from transforms import run_lengths
from transforms.sources import format_of
from transforms.sources.supervisely import MAX_PNG_BYTES

HEIGHT, WIDTH = 40, 60
TRIANGLE = [[3, 4], [40, 8], [20, 33]]
HOLE = [[15, 12], [25, 12], [20, 20]]
ISLAND = [[18, 13], [22, 13], [20, 17]]
SECOND = [[45, 20], [58, 22], [50, 38]]


def supervisely(*objects: Any, **fields: Any) -> str:
    size = {"height": HEIGHT, "width": WIDTH}
    return json.dumps({"description": "", "tags": [], "size": size, "objects": objects} | fields)


def figure(kind: str | None = "polygon", label: Any = "cat", **fields: Any) -> dict[str, Any]:
    return {"id": 7, "classId": 9, "classTitle": label, "geometryType": kind, "tags": []} | fields


def rings(exterior: Any, *interior: Any) -> dict[str, Any]:
    return {"exterior": exterior, "interior": interior}


def poly(exterior: Any, *interior: Any, **fields: Any) -> dict[str, Any]:
    return figure(points=rings(exterior, *interior), **fields)


def packed(mask: np.ndarray, mode: str = "palette") -> bytes:
    """A PNG of a mask; `palette` is what `Bitmap.data_2_base64` of Supervisely's SDK writes."""
    image = Image.fromarray(mask.astype(np.uint8))
    options: dict[str, Any] = {}
    if mode == "palette":
        image.putpalette([0, 0, 0, 255, 255, 255])
        options = {"transparency": 0}
    elif mode == "RGBA":  # painted in one colour all over, and opaque where the object is
        image = Image.merge("RGBA", [Image.new("L", image.size, 255)] * 3 + [Image.fromarray(mask.astype(np.uint8) * 255)])
    elif mode == "1":
        image = Image.fromarray(mask.astype(bool))
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def bitmap(mask: np.ndarray, origin: Any, mode: str = "palette", compress: bool = True, **fields: Any) -> dict[str, Any]:
    png = packed(mask, mode)
    data = base64.b64encode(zlib.compress(png) if compress else png).decode()
    return figure(fields.pop("kind", "bitmap"), bitmap={"data": data, "origin": origin}, **fields)


def one(*objects: Any, **fields: Any) -> Any:
    (source,) = parse_text("supervisely", supervisely(*objects, **fields), "/data/ds0/ann/one.jpg.json")
    return drawn(source)


def of_pycocotools(*polygons: list[list[int]]) -> np.ndarray:
    """The union; a point is the middle of its pixel."""
    flat = [[value + 0.5 for point in ring for value in point] for ring in polygons]
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects(flat, HEIGHT, WIDTH)))


def painted(left: int, top: int, mask: np.ndarray) -> np.ndarray:
    whole = np.zeros((HEIGHT, WIDTH), np.uint8)
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return whole


RING = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 1]], np.uint8)


def test_a_polygon_goes_through_the_middles_of_its_pixels() -> None:
    assert np.array_equal(one(poly(TRIANGLE)).masks, [of_pycocotools(TRIANGLE)])


def test_the_interior_is_cut_out() -> None:
    expected = of_pycocotools(TRIANGLE) & ~of_pycocotools(HOLE)
    assert np.array_equal(one(poly(TRIANGLE, HOLE)).masks, [expected])


def test_a_rectangle_is_a_box_with_both_corners_inside() -> None:
    found = one(figure("rectangle", points=rings([[30, 20], [10, 5]])))
    assert found.instances[0].box == (5, 10, 21, 31)
    assert found.instances[0].shape is None


def test_a_bitmap_of_supervisely_s_own_documentation() -> None:
    data = (
        "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BTM4PLuRBuTwebo4hlTMSa44cOHAB6DqY0yORgq8YkAZBk9X"
        "P5d1TglNANAFGzA="
    )
    assert np.array_equal(one(figure("bitmap", bitmap={"data": data, "origin": [11, 7]})).masks, [painted(11, 7, RING)])


@pytest.mark.parametrize("mode", ["palette", "RGBA", "1", "L"])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("kind", ["bitmap", "alpha_mask"])
def test_a_bitmap_lies_where_its_origin_says(mode: str, compress: bool, kind: str) -> None:
    found = one(bitmap(RING, [11, 7], mode, compress, kind=kind))
    assert np.array_equal(found.masks, [painted(11, 7, RING)])
    assert found.instances[0].box == (7, 11, 10, 14)


def test_a_bitmap_over_the_edge_is_cut() -> None:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:2, -1] = 1
    assert np.array_equal(one(bitmap(RING, [WIDTH - 1, -1])).masks, [expected])


@pytest.mark.parametrize("size", [(3, 3), (1, 1), (HEIGHT, WIDTH), (HEIGHT, 5), (2, WIDTH), (HEIGHT + 4, WIDTH + 6)])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_bitmaps_of_any_size_and_anywhere(size: tuple[int, int], share: float) -> None:
    random = np.random.default_rng(7)
    for left, top in ((0, 0), (-2, -3), (WIDTH - 1, HEIGHT - 1), (20, 0), (0, HEIGHT - 2), (-1, 7)):
        pixels = (random.random(size) < share).astype(np.uint8)
        whole = np.zeros((4 * HEIGHT, 4 * WIDTH), np.uint8)
        whole[HEIGHT + top : HEIGHT + top + size[0], WIDTH + left : WIDTH + left + size[1]] = pixels
        expected = whole[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH]
        found = one(bitmap(pixels, [left, top]))
        assert np.array_equal(found.masks, [expected] if expected.any() else np.zeros((0, HEIGHT, WIDTH)))
        assert [instance.shape for instance in found.instances] == ([run_lengths.from_mask(expected)] if expected.any() else [])
        assert len(found.rejects) == (not expected.any())


def test_parts_of_a_multipolygon_may_lie_in_a_hole() -> None:
    expected = of_pycocotools(TRIANGLE) & ~of_pycocotools(HOLE) | of_pycocotools(ISLAND, SECOND)
    found = one(figure("multipolygon", parts=[rings(TRIANGLE, HOLE), rings(ISLAND), {"exterior": SECOND}]))
    assert np.array_equal(found.masks, [expected])


def test_a_part_outside_of_the_image_is_left_out() -> None:
    outside = rings([[500, 500], [520, 500], [510, 520]])
    found = one(figure("multipolygon", parts=[rings(TRIANGLE, HOLE), outside]))
    assert np.array_equal(found.masks, [of_pycocotools(TRIANGLE) & ~of_pycocotools(HOLE)])


def test_figures_of_an_instance_and_class_are_one_object() -> None:
    found = one(
        poly(TRIANGLE, HOLE, instance="a"),
        poly(SECOND, instance="b"),
        bitmap(RING, [50, 3], instance="a"),
        poly(SECOND, instance="a"),
        figure("rectangle", instance="a", points=rings([[3, 3], [59, 38]])),
        figure("rectangle", "box", instance="a", points=rings([[1, 1], [5, 5]])),
        figure("point", instance="a", points=rings([[1, 1]])),
    )
    expected = of_pycocotools(TRIANGLE) & ~of_pycocotools(HOLE) | of_pycocotools(SECOND) | painted(50, 3, RING)
    assert found.names == ["cat", "cat", "box"]
    assert np.array_equal(found.masks, [expected, of_pycocotools(SECOND)])
    assert found.instances[0].box == (3, 3, 39, 60)
    assert found.rejects == {4: "SHAPE_UNSUPPORTED"}


def test_objects_may_overlap() -> None:
    assert np.array_equal(one(poly(TRIANGLE), poly(HOLE)).masks, [of_pycocotools(TRIANGLE), of_pycocotools(HOLE)])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (figure("line", points=rings(TRIANGLE)), "SHAPE_UNSUPPORTED"),
        (figure("point", points=rings(TRIANGLE[:1])), "SHAPE_UNSUPPORTED"),
        (figure("graph", nodes={}), "SHAPE_UNSUPPORTED"),
        (figure("cuboid", points=TRIANGLE, faces=[]), "SHAPE_UNSUPPORTED"),
        (figure(None, points=TRIANGLE), "SHAPE_UNSUPPORTED"),
        (poly(TRIANGLE[:2]), "POLY_MALFORMED"),
        (poly([[1, 2, 3]] * 3), "POLY_MALFORMED"),
        (poly(TRIANGLE, [[1, 2], [3]]), "POLY_MALFORMED"),
        (figure(), "POLY_MALFORMED"),
        (figure("multipolygon"), "POLY_MALFORMED"),
        (figure("multipolygon", parts=[rings(TRIANGLE), rings([])]), "POLY_MALFORMED"),
        (figure("multipolygon", parts=[rings(TRIANGLE, HOLE), rings([])]), "POLY_MALFORMED"),
        (poly([[1e30, 2], [3, 4], [5, 1]]), "COORD_INVALID"),
        (poly([["1", 2], [3, 4], [5, 1]]), "FIELD_INVALID"),
        (poly([[500, 500], [520, 500], [510, 520]]), "EMPTY_MASK"),
        (figure("multipolygon", parts=[rings([[500, 500], [520, 500], [510, 520]])] * 2), "EMPTY_MASK"),
        (figure("rectangle", points=rings(TRIANGLE)), "FIELD_INVALID"),
        (figure("rectangle", points=rings([[1, 2, 3], [4, 5]])), "FIELD_INVALID"),
        (figure("rectangle"), "FIELD_INVALID"),
        (figure("rectangle", points=rings([[500, 500], [520, 520]])), "BOX_INVALID"),
        (figure("bitmap", bitmap=None), "FIELD_INVALID"),
        (figure("bitmap", bitmap={"data": "?", "origin": [1, 1]}), "MASK_INVALID"),
        (figure("bitmap", bitmap={"data": "", "origin": [1, 1]}), "MASK_INVALID"),
        (figure("bitmap", bitmap={"data": "aGVsbG8=", "origin": [1, 1]}), "MASK_INVALID"),
        (bitmap(RING, [1]), "COORD_INVALID"),
        (bitmap(RING, [1e300, 1]), "COORD_INVALID"),
        (bitmap(RING, [500, 1]), "EMPTY_MASK"),
        (bitmap(0 * RING, [1, 1]), "EMPTY_MASK"),
        (poly(TRIANGLE, label=""), "FIELD_INVALID"),
        (poly(TRIANGLE, label=3), "FIELD_INVALID"),
        ([], "FIELD_INVALID"),
        (None, "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_a_figure_is_its_own(bad: Any, code: str) -> None:
    found = one(poly(TRIANGLE), bad, poly(SECOND, label="dog"))
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]
    assert [instance.annotation_id for instance in found.instances] == [1, 3]


def test_text_that_is_none() -> None:
    data = supervisely(poly(TRIANGLE), poly(TRIANGLE, label="dog")).encode().replace(b"dog", b"\xff")
    (source,) = parse_text("supervisely", data)
    assert [(number, why.code) for number, why in source.rejects] == [(2, "TEXT_INVALID")]


def test_a_bad_part_takes_its_object_with_it() -> None:
    assert one(poly(TRIANGLE, instance="a"), poly([[1, 2, 3]], instance="a"), poly(SECOND)).rejects == {1: "POLY_MALFORMED"}


def test_what_decompresses_without_end_is_not_decompressed() -> None:
    long = packed(RING)[:-12] + bytes([0, 0x7F, 0, 0]) + b"tEXt" + bytes(2 * MAX_PNG_BYTES)
    data = base64.b64encode(zlib.compress(long, 1)).decode()
    tracemalloc.start()
    found = one(figure("bitmap", bitmap={"data": data, "origin": [0, 0]}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * MAX_PNG_BYTES
    assert len(found.instances) + len(found.rejects) == 1


def test_a_mask_of_too_many_pixels_is_not_decoded() -> None:
    (source,) = parse_text("supervisely", supervisely(bitmap(np.ones((60, 60)), [0, 0])), max_pixels=HEIGHT * WIDTH)
    assert [why.code for _, why in source.rejects] == ["PIXEL_LIMIT"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", "FILE_INVALID"),
        (b"[" * 100_000, "FILE_INVALID"),
        (b"[]", "FILE_INVALID"),
        (b'{"objects": [], "size": {"height": "3", "width": 4}}', "FILE_INVALID"),
        (b'{"objects": [], "size": {"height": NaN, "width": 4}}', "FILE_INVALID"),
        (b'{"objects": []}', "FILE_INVALID"),
        (supervisely(bitmap(RING, [1, 1]), poly(SECOND), size={"height": 10**9, "width": 10**9}).encode(), "DIM_LIMIT"),
        (supervisely(bitmap(RING, [1, 1]), poly(SECOND), size={"height": -3, "width": 4}).encode(), "DIM_LIMIT"),
    ],
)
def test_what_is_wrong_with_a_file_is_its_images(data: bytes, code: str) -> None:
    (source,) = parse_text("supervisely", data, "/data/ds0/ann/one.jpg.json")
    assert source.problem
    assert source.problem.code == code
    assert code != "DIM_LIMIT" or source.annotations == 2


def write_project(folder: Path) -> None:
    """Two data sets, one within the other, and what else lies in a project."""
    for path in ("ds0", "ds0/datasets/ds1"):
        for inner in ("ann", "img", "img_info"):
            (folder / path / inner).mkdir(parents=True, exist_ok=True)
        (folder / path / "ann/meta.json").write_text(supervisely())  # of an image that is called meta
        (folder / path / "ann/a.png.json").write_text(supervisely(poly(TRIANGLE, HOLE), bitmap(RING, [1, 2], label="dog")))
        (folder / path / "img_info/a.png.json").write_text("{}")
        for name in ("meta", "a.png"):
            Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 200)).save(folder / path / "img" / name, "PNG")
    (folder / "meta.json").write_text('{"classes": [], "tags": []}')
    (folder / "key_id_map.json").write_text("{}")


def test_a_whole_project(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write_project(project)
    manifest = run_format("supervisely", project, project, tmp_path / "out")
    assert manifest["images"] == {"read": 4, "written": 4, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 4, "written": 4, "rejected": 0, "dropped": 0}
    records = by_file_name(read_back(tmp_path / "out"))
    assert sorted(records) == [f"{path}/img/{name}" for path in ("ds0/datasets/ds1", "ds0") for name in ("a.png", "meta")]
    record = records["ds0/img/a.png"]
    assert [text.decode() for text in record["image/object/class/text"]] == ["cat", "dog"]
    expected = [of_pycocotools(TRIANGLE) & ~of_pycocotools(HOLE), painted(1, 2, RING)]
    assert np.array_equal(record["masks"], expected)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [("", "ds0/img/a.png"), ("ds0", "img/a.png"), ("ds0/ann", "a.png"), ("ds0/*/a*.json", "img/a.png")],
)
def test_images_are_relative_to_what_is_given(tmp_path: Path, annotations: str, expected: str) -> None:
    write_project(tmp_path)
    assert expected in [source.image.file_name for source in source_images("supervisely", tmp_path / annotations)]


def test_it_knows_its_files() -> None:
    recognise = format_of("supervisely").recognise
    assert recognise("ds/ann/a.jpg.json", supervisely(poly(TRIANGLE)).encode())
    assert recognise("ds/ann/a.jpg.json", supervisely().encode())
    for other in (
        {"images": [], "annotations": [], "categories": []},
        {"shapes": [{"label": "cat", "shape_type": "polygon"}], "imagePath": "a.jpg"},
        {"classes": [], "tags": []},
        {"imgHeight": 3, "imgWidth": 4, "objects": []},
        {"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": []}},
    ):
        assert not recognise("a.json", json.dumps(other).encode())
