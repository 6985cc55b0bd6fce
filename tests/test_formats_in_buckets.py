"""Formats of a file an image are read from buckets as from folders: the same shards, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from sources import run_format
from storage_server import storage_server
from written_formats import FORMATS, HEIGHT, WIDTH, Annotated


@pytest.mark.parametrize("name", ["labelme", "yolo", "mask_folders", "cvat"])
def test_the_same_shards_from_a_bucket(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [("cat", [10, 12.5, 300, 20, 200.25, 330]), ("dog", [400, 100, 500, 120, 450, 300, 390, 210])]
    annotated = [Annotated(f"{number}.jpg", objects[: 1 + number % 2]) for number in range(40)]
    for folder in ("annotated", "images"):
        (tmp_path / folder).mkdir()
    FORMATS[name].write(annotated, tmp_path / "annotated")
    for number, one in enumerate(annotated):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 9, 9)).save(tmp_path / "images" / one.file_name)
    here = run_format(name, tmp_path / "annotated", tmp_path / "images", tmp_path / "out", num_shards="2")
    assert here["images"] == {"read": 40, "written": 40, "rejected": 0, "dropped": 0}
    with storage_server() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        for folder in ("annotated", "images"):
            server.upload(tmp_path / folder, f"gs://bkt/{folder}")
        there = run_format(name, "gs://bkt/annotated", "gs://bkt/images", "gs://bkt/out", num_shards="2")
    assert [shard["crc32c"] for shard in there["shards"]] == [shard["crc32c"] for shard in here["shards"]]
    assert there["annotations"] == here["annotations"]
