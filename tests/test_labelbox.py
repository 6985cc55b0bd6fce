"""Labelbox: boxes, polygons, and masks that were saved as files; what is wrong with an object or a data row is its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as cocomask
from sources import Drawn, by_file_name, drawn, parse_text, run_format
from test_end_to_end import read_back

from transforms import run_lengths, storage
from transforms.records import InputError
from transforms.sources import format_of, labelbox

HEIGHT, WIDTH = 40, 60
TRIANGLE = [(3.0, 4.0), (40.0, 8.5), (20.25, 33.0), (3.0, 4.0)]
PURPLE, TEAL = (123, 103, 152), (142, 220, 196)
SINGLE = "https://api.labelbox.com/api/v1/projects/p1/annotations/{}/index/1/mask"
COMPOSITE = "https://api.labelbox.com/api/v1/tasks/t1/masks/comp/index/1"


def an_object(kind: str, name: Any = "cat", feature_id: Any = "f1", **fields: Any) -> dict[str, Any]:
    return {"feature_id": feature_id, "name": name, "annotation_kind": kind, "classifications": []} | fields


def box(name: Any = "cat", **fields: Any) -> dict[str, Any]:
    return an_object("ImageBoundingBox", name, bounding_box={"top": 5.0, "left": 10.0, "height": 15.0, "width": 20.0} | fields)


def poly(points: Any = TRIANGLE, name: Any = "cat") -> dict[str, Any]:
    return an_object("ImagePolygon", name, polygon=[{"x": x, "y": y} for x, y in points])


def mask(feature_id: Any = "f1", url: Any = None, name: str = "cat") -> dict[str, Any]:
    return an_object("ImageSegmentationMask", name, feature_id, mask={"url": url or SINGLE.format(feature_id)})


def part(colour: Any = PURPLE, url: str = COMPOSITE, name: str = "cat") -> dict[str, Any]:
    return an_object("ImageSegmentationMask", name, composite_mask={"url": url, "color_rgb": colour})


def row(*objects: Any, external_id: Any = "a.jpg", media: Any = None, **fields: Any) -> dict[str, Any]:
    data_row = {"id": "d1", "external_id": external_id, "row_data": "https://storage.labelbox.com/x/b%20c.jpg?Expires=1"}
    label = {"label_kind": "Default", "annotations": {"objects": objects, "classifications": [], "relationships": []}}
    attributes = {"height": HEIGHT, "width": WIDTH, "mime_type": "image/jpeg"} if media is None else media
    return {"data_row": data_row, "media_attributes": attributes, "projects": {"p1": {"labels": [label]}}} | fields


def sources(*rows: Any, **context: Any) -> list[Any]:
    return parse_text("labelbox", "".join(json.dumps(one) + "\n" for one in rows), "/data/export.ndjson", **context)


def one(*objects: Any, **context: Any) -> Drawn:
    (source,) = sources(row(*objects), **context)
    assert not source.problem
    return drawn(source)


def paint(path: Path, mode: str = "L", value: int = 255) -> np.ndarray:
    pixels = (np.random.default_rng(2).random((HEIGHT, WIDTH)) < 0.4).astype(np.uint8)
    Image.fromarray(pixels * np.uint8(value)).convert(mode).save(path)
    return pixels


def paint_composite(path: Path, mode: str = "RGB") -> np.ndarray:
    """Two objects on black, and the colours of the pixels, [HEIGHT, WIDTH, 3]."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[3:9, 4:20] = pixels[30:35, 40:58] = PURPLE
    pixels[12:28, 10:31] = TEAL
    image = Image.fromarray(pixels)
    (image.quantize(8, method=Image.Quantize.FASTOCTREE) if mode == "P" else image.convert(mode)).save(path)
    return pixels


def of_pycocotools(points: Any) -> np.ndarray:
    flat = [value for point in points for value in point]
    return cocomask.decode(cocomask.frPyObjects([flat], HEIGHT, WIDTH))[..., 0]


def test_a_box() -> None:
    (found,) = one(box()).instances
    assert (found.box, found.shape) == ((5, 10, 20, 30), None)


def test_a_polygon_is_drawn_as_pycocotools_draws_it() -> None:
    assert np.array_equal(one(poly()).masks, [of_pycocotools(TRIANGLE)])


def test_objects_may_overlap_and_a_ring_in_a_ring_is_no_hole() -> None:
    inside = [(15.0, 12.0), (25.0, 12.0), (20.0, 20.0)]
    assert np.array_equal(one(poly(), poly(inside)).masks, [of_pycocotools(TRIANGLE), of_pycocotools(inside)])


@pytest.mark.parametrize(("mode", "value"), [("L", 255), ("L", 1), ("1", 255), ("RGB", 255), ("RGBA", 255)])
def test_a_mask_is_the_file_of_its_feature(tmp_path: Path, mode: str, value: int) -> None:
    pixels = paint(tmp_path / "f1.png", mode, value)
    assert np.array_equal(one(mask(), masks=str(tmp_path)).masks, [pixels])


def test_a_mask_is_the_file_that_its_address_ends_in(tmp_path: Path) -> None:
    pixels = paint(tmp_path / "m 1.png")
    found = one(mask(url="https://storage.labelbox.com/x/m%201.png?token=abc"), masks=str(tmp_path))
    assert np.array_equal(found.masks, [pixels])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize(("name", "url"), [("comp.png", COMPOSITE), ("m.png", "https://storage.labelbox.com/x/m.png?a=b")])
def test_an_object_of_a_composite_mask_has_its_colour(tmp_path: Path, mode: str, name: str, url: str) -> None:
    pixels = paint_composite(tmp_path / name, mode)
    found = one(part(url=url), part(TEAL, url, "dog"), part((1, 2, 3), url), masks=str(tmp_path))
    assert found.names == ["cat", "dog"]
    assert np.array_equal(found.masks, [(pixels == colour).all(axis=2) for colour in (PURPLE, TEAL)])
    assert found.rejects == {3: "EMPTY_MASK"}


def test_a_composite_mask_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint_composite(tmp_path / "comp.png")
    read = []
    bytes_of = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda path: (read.append(path), bytes_of(path))[1])
    one(part(), part(TEAL), part(), masks=str(tmp_path))
    assert len(read) == 1


def test_colours_that_no_object_has_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    noise[3:9, 4:20] = PURPLE
    Image.fromarray(noise).save(tmp_path / "comp.png")
    masks, values = run_lengths.ValueRuns.masks, []
    monkeypatch.setattr(run_lengths.ValueRuns, "masks", lambda runs: (values.append(len(np.unique(runs.values))), masks(runs))[1])
    assert one(part(), masks=str(tmp_path)).masks.sum() == 6 * 16
    assert values == [2]


def test_a_video_is_none_of_ours() -> None:
    (source,) = sources(row(projects={"p1": {"labels": [{"annotations": {"frames": {"1": {"objects": {}}}}}]}}))
    assert source.problem
    assert "a video" in source.problem.message


def test_without_a_folder_of_masks_it_says_what_to_do() -> None:
    found = one(mask(), poly())
    assert found.rejects == {1: "MASK_MISSING"}
    ((_, why),) = found.source.rejects
    assert "save it as f1.png, and name its folder as --masks" in why.message


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (an_object("ImagePoint", point={"x": 1, "y": 2}), "SHAPE_UNSUPPORTED"),
        (an_object("ImagePolyline", line=[{"x": 1, "y": 2}, {"x": 3, "y": 4}]), "SHAPE_UNSUPPORTED"),
        (poly(TRIANGLE[:2]), "POLY_MALFORMED"),
        (poly([]), "POLY_MALFORMED"),
        (poly([(1e30, 2.0), (3.0, 4.0), (5.0, 1.0)]), "COORD_INVALID"),
        (poly([("1", 2.0), (3.0, 4.0), (5.0, 1.0)]), "FIELD_INVALID"),
        (poly([(500.0, 500.0), (520.0, 500.0), (510.0, 520.0)]), "EMPTY_MASK"),
        (poly(name=""), "FIELD_INVALID"),
        (poly(name=None), "FIELD_INVALID"),
        (box(top="x"), "FIELD_INVALID"),
        (box(width=0), "BOX_INVALID"),
        (box(left=1e308, width=1e308), "BOX_INVALID"),
        (an_object("ImageBoundingBox", bounding_box=[1, 2, 3, 4]), "FIELD_INVALID"),
        (mask("missing"), "MASK_MISSING"),
        (mask("bad"), "MASK_INVALID"),
        (mask("small"), "MASK_INVALID"),
        (mask("none"), "EMPTY_MASK"),
        (mask("large"), "PIXEL_LIMIT"),
        (mask(""), "FIELD_INVALID"),
        (mask("../masks/none"), "FIELD_INVALID"),
        (mask("x/../none"), "FIELD_INVALID"),
        (mask("no\0ne"), "PATH_FORBIDDEN"),
        (mask("n" * 300), "MASK_MISSING"),
        (mask("", "https://x/..%2Fmasks%2Fnone.png"), "FIELD_INVALID"),
        (mask("", "http://[x/none.png"), "FIELD_INVALID"),
        (part(url="https://x/missing.png"), "MASK_MISSING"),
        (part((1, 2)), "FIELD_INVALID"),
        (part((1, 2, 256)), "FIELD_INVALID"),
        (part("red"), "FIELD_INVALID"),
        (part((0, 0, 0)), "EMPTY_MASK"),
        (None, "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_an_object_is_its_own(tmp_path: Path, bad: Any, code: str) -> None:
    folder = tmp_path / "masks"
    (folder / "x").mkdir(parents=True)
    (folder / "bad.png").write_bytes(b"hello")
    paint_composite(folder / "comp.png")
    for name, size in (("small", (WIDTH - 1, HEIGHT)), ("none", (WIDTH, HEIGHT)), ("large", (WIDTH + 1, HEIGHT))):
        Image.new("L", size).save(folder / f"{name}.png")
    found = one(poly(), bad, poly(name="dog"), masks=str(folder), max_pixels=HEIGHT * WIDTH)
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]


LABEL = row(poly())["projects"]["p1"]["labels"][0]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"projects": {}}, "FILE_INVALID"),
        ({"projects": {"p1": {"labels": []}}}, "FILE_INVALID"),
        ({"projects": {"p1": {"labels": [LABEL | {"performance_details": {"skipped": True}}]}}}, "FILE_INVALID"),
        ({"projects": {"p1": {"labels": 3}}}, "FILE_INVALID"),
        ({"projects": 3}, "FILE_INVALID"),
        ({"media_attributes": {"height": "40"}}, "FILE_INVALID"),
        ({"media_attributes": {"height": 10**9, "width": 10**9}}, "DIM_LIMIT"),
        ({"media_attributes": {"height": -3, "width": 4}}, "DIM_LIMIT"),
        ({"media_attributes": {}}, "IMAGE_MISSING"),
    ],
)
def test_what_is_wrong_with_a_data_row_is_its_own(fields: Any, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelbox, "read_ids_in", lambda *_: pytest.fail("nothing is read for an image that is not used"))
    bad, good = sources(row(mask(), part(), **fields), row(poly()), masks="/masks")
    assert bad.problem
    assert bad.problem.code == code
    assert bad.image.file_name == "a.jpg"
    assert bad.annotations == (0 if code == "FILE_INVALID" else 2)
    assert not good.problem


def test_text_that_is_none() -> None:
    data = json.dumps(row(poly(), poly(name="dog"))).encode().replace(b"dog", b"\xff")
    (source,) = parse_text("labelbox", data)
    assert [(number, why.code) for number, why in source.rejects] == [(2, "TEXT_INVALID")]


def test_the_first_label_that_was_not_skipped_is_read() -> None:
    skipped = LABEL | {"performance_details": {"skipped": True}}
    second = row(poly(name="dog"))["projects"]["p1"]["labels"][0] | {"performance_details": {"skipped": False}}
    projects = {"p0": {"labels": []}, "p2": {"labels": [skipped]}, "p1": {"labels": [second, LABEL]}, "p3": {"labels": [LABEL]}}
    (source,) = sources(row(projects=projects))
    assert source.names == ("dog",)


@pytest.mark.parametrize(
    ("external_id", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("/home/me/a.jpg", "a.jpg"),
        ("gs://bucket/sub/a.jpg", "a.jpg"),
        ("http://[x/a.jpg", ""),
        (None, "b c.jpg"),
        ("", "b c.jpg"),
    ],
)
def test_the_name_of_the_image(external_id: str | None, expected: str) -> None:
    (source,) = sources(row(external_id=external_id))
    assert source.image.file_name == expected


@pytest.mark.parametrize("media", [{}, {"height": 7}, {"height": None, "width": None}])
def test_the_size_is_the_image_s_where_the_row_has_none(tmp_path: Path, media: Any) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg")
    (source,) = sources(row(poly(), media=media), images=str(tmp_path))
    assert np.array_equal(drawn(source).masks, [of_pycocotools(TRIANGLE)])


@pytest.mark.parametrize("text", ["{", "3", "[" * 100_000, '[{"ID": "a", "Labeled Data": "b", "Label": {}}]', '{"ID": "a"}'])
def test_another_export_ends_the_job(text: str) -> None:
    with pytest.raises(InputError, match=r"JSON_INVALID: /data/export.ndjson: .* export the project as NDJSON"):
        parse_text("labelbox", text, "/data/export.ndjson")


def test_a_whole_run(tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "b.jpg")
    (tmp_path / "masks").mkdir()
    pixels = paint(tmp_path / "masks/f1.png")
    colours = paint_composite(tmp_path / "masks/comp.png")
    rows = (row(mask(), box(), poly(name="dog")), row(part(TEAL), external_id="b.jpg"))
    (tmp_path / "export.ndjson").write_text("".join(json.dumps(one) + "\n" for one in rows))
    options = {"masks": str(tmp_path / "masks")}
    manifest = run_format("labelbox", tmp_path / "export.ndjson", tmp_path, tmp_path / "out", **options)
    assert manifest["images"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 4, "written": 4, "rejected": 0, "dropped": 0}
    records = by_file_name(read_back(tmp_path / "out"))
    assert records["a.jpg"]["image/object/class/text"].tolist() == [b"cat", b"cat", b"dog"]
    assert records["a.jpg"]["image/object/mask/weight"].tolist() == [1, 0, 1]
    assert np.array_equal(records["a.jpg"]["masks"][[0, 2]], [pixels, of_pycocotools(TRIANGLE)])
    assert np.array_equal(records["b.jpg"]["masks"], [(colours == TEAL).all(axis=2)])


def test_it_knows_its_files() -> None:
    recognise = format_of("labelbox").recognise
    assert recognise("export.ndjson", json.dumps(row(poly())).encode())
    for other in (
        {"file_name": "a.jpg", "height": 3, "width": 4, "annotations": []},
        {"source-ref": "s3://bucket/a.jpg", "cats": {}, "cats-metadata": {}},
        {"images": [], "annotations": [], "categories": []},
        {"data_row": 3},
    ):
        assert not recognise("a.ndjson", json.dumps(other).encode())
