"""Panoptic files: the same masks as their run lengths have; things and stuff; what is wrong with a segment or its PNG."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from sources import run_format
from test_end_to_end import read_back

from transforms import run_lengths
from transforms.records import Reject, RunLengths
from transforms.sources.coco_json import CocoAnnotation
from transforms.sources.coco_panoptic import parse_panoptic, stuff_among

HEIGHT, WIDTH = 6, 9
IDS = np.zeros((HEIGHT, WIDTH), np.int64)
IDS[1:4, 2:7] = 70_000
IDS[3:, 5:] = 258
IDS[0, 0] = 5
GOOD = {"id": 258, "category_id": 3, "iscrowd": 0, "bbox": [5, 3, 4, 3], "area": 12}


def save(folder: Path, ids: np.ndarray = IDS, name: str = "one.png") -> str:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)).save(folder / name)
    return str(folder)


def parsed(folder: str, *segments: Any, **fields: Any) -> list[CocoAnnotation | Reject]:
    entry = {"image_id": 7, "file_name": "one.png", "segments_info": segments} | fields
    return parse_panoptic(json.dumps(entry).encode(), folder, 10_000)


def test_a_segment_is_the_pixels_of_its_id(tmp_path: Path) -> None:
    first, second = parsed(save(tmp_path), GOOD, {"id": 70_000, "category_id": 1, "iscrowd": 1})
    assert isinstance(first, CocoAnnotation)
    assert isinstance(second, CocoAnnotation)
    for found, number in ((first, 258), (second, 70_000)):
        assert isinstance(found.instance.shape, RunLengths)
        assert np.array_equal(run_lengths.to_mask(found.instance.shape), number == IDS)
        assert (found.image_id, found.instance.annotation_id) == (7, number)
    assert (first.instance.box, first.instance.area, first.instance.is_crowd) == ((3, 5, 6, 9), 12, False)
    assert (second.instance.box, second.instance.area, second.instance.is_crowd) == (None, None, True)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"id": 259, "category_id": 3}, "EMPTY_MASK"),
        ({"id": 0, "category_id": 3}, "EMPTY_MASK"),
        ({"id": "258", "category_id": 3}, "FIELD_INVALID"),
        ({"id": 258}, "FIELD_INVALID"),
        ({"id": 2**70, "category_id": 3}, "FIELD_INVALID"),
        (None, "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_a_segment_is_its_own(bad: Any, code: str, tmp_path: Path) -> None:
    first, second, third = parsed(save(tmp_path), GOOD, bad, GOOD)
    assert isinstance(first, CocoAnnotation)
    assert isinstance(third, CocoAnnotation)
    assert isinstance(second, Reject)
    assert second.reason == code


@pytest.mark.parametrize(
    ("name", "code"),
    [("none.png", "MASK_MISSING"), ("../one.png", "PATH_FORBIDDEN"), ("bad.png", "MASK_INVALID"), ("large.png", "PIXEL_LIMIT")],
)
def test_what_is_wrong_with_a_png_is_all_its_segments(name: str, code: str, tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "bad.png").write_bytes((tmp_path / "one.png").read_bytes()[:40])
    save(tmp_path, np.zeros((101, 100), np.int64), "large.png")
    found = parsed(str(tmp_path), GOOD, GOOD, file_name=name)
    assert [one.reason for one in found if isinstance(one, Reject)] == [code, code]


@pytest.mark.parametrize("entry", [{"image_id": "x"}, {"file_name": None}, {"segments_info": 3}])
def test_an_entry_that_cannot_be_read_is_one_reject(entry: dict[str, Any], tmp_path: Path) -> None:
    (found,) = parsed(save(tmp_path), GOOD, **entry)
    assert isinstance(found, Reject)
    assert (found.kind, found.reason) == ("annotation", "FIELD_INVALID")


def test_a_picture_in_place_of_a_png_takes_no_time(tmp_path: Path) -> None:
    noise = np.random.default_rng(7).integers(0, 2**24, (500, 1000))
    noise[2:5, 3:9] = 258
    entry = {"image_id": 7, "file_name": "one.png", "segments_info": [GOOD, {"id": 2**62, "category_id": 1}]}
    folder = save(tmp_path, noise)
    start = time.monotonic()
    first, second = parse_panoptic(json.dumps(entry).encode(), folder, 1_000_000)
    assert time.monotonic() - start < 3
    assert isinstance(first, CocoAnnotation)
    assert isinstance(first.instance.shape, RunLengths)
    assert np.array_equal(run_lengths.to_mask(first.instance.shape), noise == 258)
    assert isinstance(second, Reject)
    assert second.reason == "EMPTY_MASK"


def test_stuff_is_told_from_things() -> None:
    raws = [b'{"id": 1, "isthing": 1}', b'{"id": 2, "isthing": 0}', b'{"id": 3}', b'{"id": "4", "isthing": 0}', b"7"]
    assert stuff_among(raws) == {2}


@pytest.mark.parametrize("beside", [True, False])
def test_things_become_instances(beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 3)  # Pillow refuses twice as many
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"images/{number}.png")
    save(tmp_path / ("all" if beside else "painted"))
    segments = [GOOD, {"id": 70_000, "category_id": 4}, {"id": 5, "category_id": 9}, GOOD, {"id": 77, "category_id": 3}]
    data = {
        "images": [{"id": one, "file_name": f"{one}.png", "height": HEIGHT, "width": WIDTH} for one in (1, 2)],
        "annotations": [
            {"image_id": 1, "file_name": "one.png", "segments_info": segments},
            {"image_id": 2, "file_name": "one.png", "segments_info": [GOOD]},
        ],
        "categories": [{"id": 3, "name": "cat", "isthing": 1}, {"id": 4, "name": "sky", "isthing": 0}],
    }
    (tmp_path / "all.json").write_text(json.dumps(data))
    options = {} if beside else {"masks": str(tmp_path / "painted")}
    out = tmp_path / "out"
    manifest = run_format("coco_panoptic", tmp_path / "all.json", tmp_path / "images", out, max_reject_fraction=1.0, **options)
    assert manifest["annotations"] == {"read": 6, "written": 2, "rejected": 3, "dropped": 1}
    assert manifest["reasons"]["annotation"] == {"CATEGORY_UNKNOWN": 1, "DROPPED_STUFF": 1, "DUP_ID": 1, "EMPTY_MASK": 1}
    records = list(read_back(out))
    assert [np.array_equal(record["masks"], [IDS == 258]) for record in records] == [True, True]
    assert "sky" not in (out / "label_map.pbtxt").read_text()


def test_a_png_of_another_size_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(tmp_path / "1.png")
    save(tmp_path / "all")
    data = {
        "images": [{"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH + 1}],
        "annotations": [{"image_id": 1, "file_name": "one.png", "segments_info": [GOOD]}],
        "categories": [{"id": 3, "name": "cat", "isthing": 1}],
    }
    (tmp_path / "all.json").write_text(json.dumps(data))
    manifest = run_format("coco_panoptic", tmp_path / "all.json", tmp_path, tmp_path / "out", max_reject_fraction=1.0)
    assert manifest["reasons"]["annotation"] == {"RLE_SIZE_MISMATCH": 1}


def test_the_samples_of_panopticapi_have_the_masks_of_their_run_lengths(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "panoptic_coco/sample_data"
    manifest = run_format("coco_panoptic", folder / "panoptic_examples.json", folder / "input_images", tmp_path / "out")
    assert manifest["images"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 50, "written": 43, "rejected": 0, "dropped": 7}
    coco = COCO(folder / "panoptic_coco_detection_format.json")
    panoptic = json.loads((folder / "panoptic_examples.json").read_text())
    things = {category["id"] for category in panoptic["categories"] if category["isthing"]}
    compared = crowds = 0
    for record in read_back(tmp_path / "out"):
        annotations = [one for one in coco.imgToAnns[int(record["image/source_id"])] if one["category_id"] in things]
        expected = sorted((one["category_id"], one["iscrowd"], coco.annToMask(one).tobytes()) for one in annotations)
        labels, flags = record["image/object/class/label"].tolist(), record["image/object/is_crowd"].tolist()
        assert sorted(zip(labels, flags, (mask.tobytes() for mask in record["masks"]), strict=True)) == expected
        compared, crowds = compared + len(expected), crowds + sum(flags)
    assert (compared, crowds) == (43, 3)
