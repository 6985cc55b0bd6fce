"""LVIS: what it says of whole images is in the records, under the names that the Object Detection API reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from sources import run_format
from test_end_to_end import compare_with_pycocotools, read_back

from beam_pipeline.verify import verify


def image_lists(output: Path, tf: Any) -> dict[int, tuple[list[int] | None, list[int] | None]]:
    """Both lists of each image, None where the record has none, by image id."""
    found = {}
    for serialized in tf.data.TFRecordDataset([str(path) for path in sorted(output.glob("*.tfrecord"))]):
        feature = tf.train.Example.FromString(serialized.numpy()).features.feature
        names = ("image/neg_category_ids", "image/not_exhaustive_category_ids")
        lists = [list(feature[name].int64_list.value) if name in feature else None for name in names]
        found[int(feature["image/source_id"].bytes_list.value[0])] = (lists[0], lists[1])
    return found


@pytest.mark.parametrize(("category_ids", "expected"), [("source", [[30], [10, 20]]), ("contiguous", [[3], [1, 2]])])
def test_category_ids_are_those_of_the_label_map(category_ids: str, expected: list[list[int]], tmp_path: Path, tf: Any) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    lists = {"neg_category_ids": [30, 77], "not_exhaustive_category_ids": [10, 20]}
    image = {"file_name": "a.png", "height": 20, "width": 30}
    data = {
        "images": [image | lists | {"id": 1}, image | {"id": 2}, image | {"id": 3, "neg_category_ids": []}],
        "annotations": [],
        "categories": [{"id": number, "name": str(number)} for number in (10, 20, 30)],
    }
    (tmp_path / "lvis.json").write_text(json.dumps(data))
    run_format("coco", tmp_path / "lvis.json", tmp_path, tmp_path / "out", category_ids=category_ids)
    assert image_lists(tmp_path / "out", tf) == {1: (expected[0], expected[1]), 2: (None, None), 3: ([], None)}
    assert verify(str(tmp_path / "out")) == []


def test_resume_writes_anew_what_says_other_ids(tmp_path: Path, tf: Any) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 30, "neg_category_ids": [5]}
    for ids, expected in (((1, 5), [2]), ((1, 3, 5), [3])):
        data = {"images": [image], "annotations": [], "categories": [{"id": one, "name": str(one)} for one in ids]}
        (tmp_path / "lvis.json").write_text(json.dumps(data))
        run_format("coco", tmp_path / "lvis.json", tmp_path, tmp_path / "out", category_ids="contiguous", resume=True)
        assert image_lists(tmp_path / "out", tf) == {1: (expected, None)}


def test_a_hundred_images_of_lvis(real_data: Path, tmp_path: Path, tf: Any) -> None:
    path = real_data / "lvis_val_100/data/lvis_val_100.json"
    source = json.loads(path.read_text())
    for image in source["images"]:  # which are not there: grey ones of their sizes
        Image.fromarray(np.full((image["height"], image["width"]), 99, np.uint8)).save(tmp_path / image["file_name"])
    manifest = run_format("coco", path, tmp_path, tmp_path / "out")
    assert manifest["images"] == {"read": 100, "written": 100, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 977, "written": 977, "rejected": 0, "dropped": 0}
    assert manifest["categories"] == 1230
    records = list(read_back(tmp_path / "out"))
    assert compare_with_pycocotools(records, COCO(path)) == 977
    assert sum(len(record["masks"]) == 0 for record in records) == 7
    expected = {one["id"]: (one["neg_category_ids"], one["not_exhaustive_category_ids"]) for one in source["images"]}
    assert image_lists(tmp_path / "out", tf) == expected
