"""SageMaker Ground Truth: boxes; classes as painted; whose label it is; what is wrong with a line is its image's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sources import Drawn, by_file_name, drawn, parse_text, run_format, source_images
from test_end_to_end import read_back

from transforms.records import InputError
from transforms.sources import format_of

HEIGHT, WIDTH = 40, 60
WHITE, GREEN, BLUE, BLACK = (255, 255, 255), (0x2C, 0xA0, 0x2C), (0x1F, 0x77, 0xB4), (0, 0, 0)
COLOURS = {
    "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.9},
    "1": {"class-name": "scratch", "hex-color": "#2ca02c", "confidence": 0.9},
    "2": {"class-name": "dent", "hex-color": "#1f77b4", "confidence": 0.9},
}


def a_box(class_id: Any = 0, left: Any = 10, top: Any = 5, width: Any = 20, height: Any = 15) -> dict[str, Any]:
    return {"class_id": class_id, "left": left, "top": top, "width": width, "height": height}


def with_boxes(*boxes: Any, name: str = "cats", source: Any = "s3://bucket/path/a.jpg", **fields: Any) -> dict[str, Any]:
    size = [{"width": WIDTH, "height": HEIGHT, "depth": 3}]
    metadata = {"objects": [], "class-map": {"0": "cat", "1": "dog"}, "type": "groundtruth/object-detection"}
    return {"source-ref": source, name: {"annotations": boxes, "image_size": size}, f"{name}-metadata": metadata} | fields


def with_masks(colours: Any = COLOURS, mask: Any = "s3://bucket/out/a_mask.png", name: str = "flaws-ref") -> dict[str, Any]:
    metadata = {"internal-color-map": colours, "type": "groundtruth/semantic-segmentation", "job-name": "flaws"}
    return {"source-ref": "s3://bucket/path/a.jpg", name: mask, f"{name}-metadata": metadata}


def one(line: Any, **context: Any) -> Drawn:
    (source,) = parse_text("sagemaker", json.dumps(line), "/data/output.manifest", **context)
    assert not source.problem
    return drawn(source)


def problem_of(line: Any, **context: Any) -> str:
    (source,) = parse_text("sagemaker", json.dumps(line), "/data/output.manifest", **context)
    return source.problem.code if source.problem else ""


def paint(path: Path, mode: str = "RGB") -> np.ndarray:
    """A mask with a green region of two parts, and a blue one with a hole; the pixels' colours, [HEIGHT, WIDTH, 3]."""
    pixels = np.full((HEIGHT, WIDTH, 3), WHITE, np.uint8)
    pixels[3:9, 4:20] = pixels[30:35, 40:58] = GREEN
    pixels[12:28, 10:31] = BLUE
    pixels[15:20, 12:20] = WHITE
    image = Image.fromarray(pixels)
    (image.quantize(8, method=Image.Quantize.FASTOCTREE) if mode == "P" else image.convert(mode)).save(path)
    return pixels


def data_set(folder: Path, *lines: Any) -> Path:
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 200)).save(folder / "a.jpg")
    (folder / "output.manifest").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def in_folder(folder: Path, line: Any, **context: Any) -> Any:
    (source,) = source_images("sagemaker", data_set(folder, line) / "output.manifest", folder, **context)
    return source


def test_boxes() -> None:
    found = one(with_boxes(a_box(), a_box(1, 0.5, 1.25, 3, 4)))
    assert found.names == ["cat", "dog"]
    assert [instance.box for instance in found.instances] == [(5, 10, 20, 30), (1.25, 0.5, 5.25, 3.5)]
    assert [instance.shape for instance in found.instances] == [None, None]
    assert (found.image.height, found.image.width) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_each_class_of_a_mask_is_an_object(tmp_path: Path, mode: str) -> None:
    pixels = paint(tmp_path / "a_mask.png", mode)
    found = drawn(in_folder(tmp_path, with_masks()))
    assert found.names == ["scratch", "dent"]
    assert np.array_equal(found.masks, [(pixels == colour).all(axis=2) for colour in (GREEN, BLUE)])
    assert not found.rejects


def test_what_a_mask_has_not_is_no_annotation(tmp_path: Path) -> None:
    paint(tmp_path / "a_mask.png")
    more = COLOURS | {"3": {"class-name": "rust", "hex-color": "#010203"}}
    assert drawn(in_folder(tmp_path, with_masks(more))).names == ["scratch", "dent"]


def test_colours_without_a_class_are_one_reject(tmp_path: Path) -> None:
    paint(tmp_path / "a_mask.png")
    fewer = {key: COLOURS[key] for key in "02"}
    found = drawn(in_folder(tmp_path, with_masks(fewer)))
    assert found.names == ["dent"]
    assert found.rejects == {2: "CATEGORY_UNKNOWN"}
    ((_, why),) = found.source.rejects
    assert why.message.startswith(f"{6 * 16 + 5 * 18} pixels")
    assert "#2ca02c" in why.message


def test_black_and_white_without_a_class_are_background(tmp_path: Path) -> None:
    pixels = paint(tmp_path / "a_mask.png")
    pixels[0] = BLACK
    Image.fromarray(pixels).save(tmp_path / "a_mask.png")
    fewer = {key: COLOURS[key] for key in "12"}
    assert not drawn(in_folder(tmp_path, with_masks(fewer))).rejects
    black = fewer | {"3": {"class-name": "tar", "hex-color": "#000000"}}
    found = drawn(in_folder(tmp_path, with_masks(black)))
    assert found.names == ["scratch", "dent", "tar"]
    assert np.array_equal(found.masks[2], (pixels == BLACK).all(axis=2))


@pytest.mark.parametrize(
    ("folder", "masks", "address"),
    [
        ("", None, "s3://bucket/out/a_mask.png"),
        ("elsewhere", "elsewhere", "s3://bucket/out/a_mask.png"),
        ("elsewhere", "elsewhere", "{}/elsewhere/a_mask.png"),
        ("elsewhere/deep", "elsewhere", "{}/elsewhere/deep/a_mask.png"),
    ],
)
def test_where_masks_may_lie(tmp_path: Path, folder: str, masks: str | None, address: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    paint(tmp_path / folder / "a_mask.png")
    line = with_masks(mask=address.format(tmp_path))
    assert drawn(in_folder(tmp_path, line, masks=masks and str(tmp_path / masks))).names == ["scratch", "dent"]


@pytest.mark.parametrize(
    ("images", "source", "expected"),
    [
        ("/data", "s3://bucket/path/a.jpg", "a.jpg"),
        ("s3://bucket/path", "s3://bucket/path/a.jpg", "a.jpg"),
        ("s3://bucket", "s3://bucket/path/a.jpg", "path/a.jpg"),
        ("s3://bucket/", "s3://bucket/path/a.jpg", "path/a.jpg"),
        ("s3://bucket/pa", "s3://bucket/path/a.jpg", "a.jpg"),
        ("/data", "a.jpg", "a.jpg"),
    ],
)
def test_the_image_is_named_by_the_end_of_its_address(images: str, source: str, expected: str) -> None:
    (found,) = parse_text("sagemaker", json.dumps(with_boxes(source=source)), images=images)
    assert found.image.file_name == expected


OTHER = {"sport": 0, "sport-metadata": {"class-name": "football", "type": "groundtruth/image-classification"}}
SECOND = {key: value for key, value in with_boxes(a_box(), a_box(1), name="dogs").items() if key != "source-ref"}


@pytest.mark.parametrize(
    ("line", "wanted", "expected"),
    [
        (with_boxes(a_box(), **OTHER), None, 1),
        (with_boxes(a_box(), **SECOND), "cats", 1),
        (with_boxes(a_box(), **SECOND), "dogs", 2),
        (with_boxes(a_box(), **SECOND), None, "FILE_INVALID"),
        (with_boxes(a_box(), **SECOND), "birds", "FILE_INVALID"),
        (with_boxes(a_box(), **OTHER), "sport", "FILE_INVALID"),
    ],
)
def test_whose_labels_are_read(line: Any, wanted: str | None, expected: Any) -> None:
    (source,) = parse_text("sagemaker", json.dumps(line), class_attribute=wanted)
    assert (source.problem.code if source.problem else len(source.image.instances)) == expected


def test_the_form_tells_where_there_is_no_type(tmp_path: Path) -> None:
    boxes, masks = with_boxes(a_box()), with_masks()
    del boxes["cats-metadata"]["type"], masks["flaws-ref-metadata"]["type"]
    assert one(boxes).names == ["cat"]
    paint(tmp_path / "a_mask.png")
    assert drawn(in_folder(tmp_path, masks)).names == ["scratch", "dent"]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (a_box(7), "CATEGORY_UNKNOWN"),
        (a_box("0"), "FIELD_INVALID"),
        (a_box(left="x"), "FIELD_INVALID"),
        (a_box(top=None), "FIELD_INVALID"),
        (a_box(width=0), "BOX_INVALID"),
        (a_box(height=-3), "BOX_INVALID"),
        (a_box(left=1e308, width=1e308), "BOX_INVALID"),
        (a_box(left=500), "BOX_INVALID"),
        ({}, "FIELD_INVALID"),
        (None, "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_a_box_is_its_own(bad: Any, code: str) -> None:
    found = one(with_boxes(a_box(), bad, a_box(1)))
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]


SIZE = {"width": WIDTH, "height": HEIGHT}


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ({}, "FILE_INVALID"),
        ({"source": "text"}, "FILE_INVALID"),
        ({"source-ref": "s3://bucket/a.jpg"}, "FILE_INVALID"),
        (with_boxes(source=3), "FILE_INVALID"),
        (with_boxes(cats=3), "FILE_INVALID"),
        (with_boxes(**{"cats-metadata": 3}), "FILE_INVALID"),
        (with_boxes(**{"cats-metadata": {"class-map": [1]}}), "FILE_INVALID"),
        (with_boxes(cats={"annotations": [], "image_size": []}), "FILE_INVALID"),
        (with_boxes(cats={"annotations": [], "image_size": [SIZE | {"width": 10**9}]}), "DIM_LIMIT"),
        (with_boxes(cats={"annotations": [], "image_size": [SIZE | {"width": "60"}]}), "FILE_INVALID"),
        (with_masks(mask=3), "FILE_INVALID"),
        (with_masks(mask="s3://bucket/"), "FILE_INVALID"),
        (with_masks(mask="s3://bucket/.."), "PATH_FORBIDDEN"),
        (with_masks(mask="s3://bucket/a\0.png"), "PATH_FORBIDDEN"),
        (with_masks(mask=f"s3://bucket/{'a' * 300}.png"), "MASK_MISSING"),
        (with_masks(mask="/etc/passwd"), "MASK_MISSING"),
        (with_masks(mask="s3://bucket/missing.png"), "MASK_MISSING"),
        (with_masks(mask="bad.png"), "MASK_INVALID"),
        (with_masks(mask="small.png"), "MASK_INVALID"),
        (with_masks(mask="large.png"), "PIXEL_LIMIT"),
        (with_masks(colours=3), "FILE_INVALID"),
        (with_masks(colours={"0": {"class-name": "a", "hex-color": "green"}}), "FILE_INVALID"),
        (with_masks(colours={"0": {"class-name": "a", "hex-color": "#12345678"}}), "FILE_INVALID"),
        (with_masks(colours={key: {"class-name": key, "hex-color": "#123456"} for key in "ab"}), "FILE_INVALID"),
    ],
)
def test_what_is_wrong_with_a_line_is_its_images(tmp_path: Path, line: Any, code: str) -> None:
    (tmp_path / "bad.png").write_bytes(b"hello")
    Image.new("RGB", (WIDTH - 1, HEIGHT)).save(tmp_path / "small.png")
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(tmp_path / "large.png")
    data_set(tmp_path, line, with_boxes(a_box()))
    bad, good = source_images("sagemaker", tmp_path / "output.manifest", tmp_path, max_pixels=HEIGHT * WIDTH)
    assert bad.problem
    assert bad.problem.code == code
    assert not good.problem


def test_a_mask_without_its_image() -> None:
    assert problem_of(with_masks()) == "IMAGE_MISSING"


def test_a_job_that_failed_says_why() -> None:
    line = {"source-ref": "s3://bucket/a.jpg", "cats-metadata": {"failure-reason": "ClientError: too large"}}
    (source,) = parse_text("sagemaker", json.dumps(line))
    assert source.problem
    assert source.problem.message.endswith("ClientError: too large")


@pytest.mark.parametrize("text", ["{", "[]", "3", "[" * 100_000])
def test_a_line_that_is_no_object_ends_the_job(text: str) -> None:
    with pytest.raises(InputError, match=r"JSON_INVALID: /data/output.manifest: the line that begins with"):
        parse_text("sagemaker", text, "/data/output.manifest")


def test_text_that_is_none() -> None:
    data = json.dumps(with_boxes(source="s3://bucket/x.jpg")).encode().replace(b"x.jpg", b"\xff.jpg")
    (source,) = parse_text("sagemaker", data)
    assert source.problem
    assert source.problem.code == "TEXT_INVALID"


def test_a_whole_run(tmp_path: Path) -> None:
    pixels = paint(tmp_path / "a_mask.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "b.jpg")
    data_set(tmp_path, with_masks(), with_boxes(a_box(), source="s3://bucket/path/b.jpg"))
    manifest = run_format("sagemaker", tmp_path / "output.manifest", tmp_path, tmp_path / "out")
    assert manifest["images"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 3, "written": 3, "rejected": 0, "dropped": 0}
    records = by_file_name(read_back(tmp_path / "out"))
    assert records["a.jpg"]["image/object/class/text"].tolist() == [b"scratch", b"dent"]
    assert np.array_equal(records["a.jpg"]["masks"], [(pixels == colour).all(axis=2) for colour in (GREEN, BLUE)])
    assert records["b.jpg"]["image/object/mask/weight"].tolist() == [0]


def test_it_knows_its_files() -> None:
    recognise = format_of("sagemaker").recognise
    assert recognise("output.manifest", json.dumps(with_boxes(a_box())).encode())
    assert recognise("output.manifest", json.dumps(with_masks()).encode())
    for other in (
        {"file_name": "a.jpg", "height": 3, "width": 4, "annotations": []},
        {"data_row": {"external_id": "a.jpg"}, "projects": {}},
        {"source-ref": "s3://bucket/a.jpg"},
        {"images": [], "annotations": [], "categories": []},
    ):
        assert not recognise("a.manifest", json.dumps(other).encode())
