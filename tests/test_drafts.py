"""What every format's images go through: names that no record can hold."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sources import source_images

from transforms.records import ImageExtras, ReasonCode, pack, problem
from transforms.sources.source import Draft

HALF = "caf\udce9"  # as Python has a file that is called café in Latin-1
HIGH = "\ud800"


@pytest.mark.parametrize(("name", "written"), [(f"{HALF}.jpg", "caf\\udce9.jpg"), (HIGH, "\\ud800"), (f"é{HIGH}", "é\\ud800")])
def test_a_file_name_that_is_no_unicode_is_its_images(name: str, written: str) -> None:
    draft = Draft(name)
    draft.add("cat", None, box=(0, 0, 1, 1))
    for image in (draft.done(40, 60, 10_000), draft.fail(problem(ReasonCode.IMAGE_MISSING, f"there is no {name}"), 1)):
        assert image.image.file_name == written
        assert image.problem
        assert image.problem.code == "TEXT_INVALID"
        assert pack(image)


def test_a_category_that_is_no_unicode_is_its_annotations() -> None:
    draft = Draft("é.jpg")
    for category in ("café", HALF, "café", HIGH, "日本"):
        draft.add(category, None, box=(0, 0, 1, 1))
    image = draft.done(40, 60, 10_000)
    assert image.problem is None
    assert image.names == ("café", "日本")
    assert [(number, why.code) for number, why in image.rejects] == [(2, "TEXT_INVALID"), (4, "TEXT_INVALID")]
    assert pack(image)


def test_messages_can_be_written() -> None:
    draft = Draft("one.jpg")
    draft.reject(problem(ReasonCode.MASK_MISSING, f"there is no {HALF}"))
    image = draft.fail(problem(ReasonCode.IMAGE_MISSING, f"there is no {HALF}, é"))
    assert image.problem
    assert image.problem.message == "there is no caf\\udce9, é"
    assert [why.message for _, why in image.rejects] == ["there is no caf\\udce9"]
    assert pack(image)


def test_an_embedded_image_in_a_file_whose_path_is_no_unicode() -> None:
    image = Draft("one.jpg").done(40, 60, 10_000, ImageExtras(embedded=f"/{HALF}.json"))
    assert image.problem
    assert image.problem.code == "TEXT_INVALID"
    assert pack(image)


def test_files_whose_names_are_no_unicode(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    folder = os.fsencode(tmp_path)
    mask = np.zeros((40, 60), np.uint8)
    mask[3:9, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for name in (b"one_caf\xe9_0", b"one_cat_1", b"\xff_cat_0"):
        (tmp_path / os.fsdecode(b"annotations/" + name + b".png")).write_bytes((tmp_path / "mask.png").read_bytes())
    for name in (b"one.png", b"\xff.png"):
        Image.new("RGB", (60, 40)).save(os.fsdecode(folder + b"/" + name))
    found = {source.image.file_name: source for source in source_images("mask_folders", tmp_path / "annotations", tmp_path)}
    assert sorted(found) == ["\\udcff.png", "one.png"]
    assert [one.problem and one.problem.code for _, one in sorted(found.items())] == ["TEXT_INVALID", None]
    assert found["one.png"].names == ("cat",)
    assert [why.code for _, why in found["one.png"].rejects] == ["TEXT_INVALID"]
    assert all(pack(one) for one in found.values())
