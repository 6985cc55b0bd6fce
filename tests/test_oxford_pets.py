"""Oxford pets: bodies are what a trimap has not as background, heads are boxes of XML files; as the Object Detection API does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sources import Drawn, all_drawn, by_file_name, run_format, source_images
from test_end_to_end import read_back

from transforms.records import Attributes
from transforms.sources.oxford_pets import recognise, together

HEIGHT, WIDTH = 24, 36
PNG = b"\x89PNG\r\n\x1a\n"

TRIMAP = np.full((HEIGHT, WIDTH), 2, np.uint8)
TRIMAP[4:20, 6:30] = 3
TRIMAP[6:18, 8:28] = 1
TRIMAP[10:12, 12:16] = 2  # seen through
BODY = TRIMAP != 2
BULLDOG, CAT = "american_bulldog_100", "Abyssinian_1"


def pet(folder: Path, name: str, trimap: np.ndarray | None = TRIMAP, objects: str | None = None) -> Path:
    for part in ("annotations/xmls", "annotations/trimaps", "images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (200, 90, 70)).save(folder / f"images/{name}.jpg")
    if trimap is not None:
        Image.fromarray(trimap).save(folder / f"annotations/trimaps/{name}.png")
    if objects is not None:
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        xml = f"<annotation><folder>OXIIIT</folder><filename>{name}.jpg</filename>{size}{objects}</annotation>"
        (folder / f"annotations/xmls/{name}.xml").write_text(xml)
    return folder


def head(xmin: object = 10, ymin: object = 5, xmax: object = 20, ymax: object = 12, difficult: int = 0) -> str:
    more = f"<pose>Frontal</pose><truncated>1</truncated><occluded>0</occluded><difficult>{difficult}</difficult>"
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>cat</name>{more}<bndbox>{box}</bndbox></object>"


def pets(folder: Path, **context: Any) -> dict[str, Drawn]:
    return all_drawn("oxford_pets", folder / "annotations", folder / "images", **context)


def test_bodies(tmp_path: Path) -> None:
    pet(tmp_path, BULLDOG, objects=head())
    pet(tmp_path, CAT)  # no XML file
    found = pets(tmp_path)
    assert sorted(found) == [f"{CAT}.jpg", f"{BULLDOG}.jpg"]
    assert [found[f"{name}.jpg"].names for name in (CAT, BULLDOG)] == [["Abyssinian"], ["american_bulldog"]]
    for one in found.values():
        assert np.array_equal(one.masks, [BODY])  # the border is part of it
        assert one.instances[0].box == (4, 6, 20, 30)
    attributes = [found[f"{name}.jpg"].instances[0].attributes for name in (CAT, BULLDOG)]
    assert attributes == [None, Attributes(truncated=True, view="Frontal")]


def test_heads(tmp_path: Path) -> None:
    pet(tmp_path, BULLDOG, objects=head() + head(0, 0, 3, 4, difficult=1))
    pet(tmp_path, CAT)  # of which nobody has said where the head is
    (source,) = source_images("oxford_pets", tmp_path / "annotations", tmp_path / "images", faces_only=True)
    assert source.names == ("american_bulldog",)
    assert [(one.box, one.shape) for one in source.image.instances] == [((5, 10, 12, 20), None), ((0, 0, 4, 3), None)]
    assert source.image.instances[1].attributes == Attributes(difficult=True, truncated=True, view="Frontal")


@pytest.mark.parametrize(
    ("annotations", "images", "expected"),
    [
        ("annotations", "images", f"{CAT}.jpg"),
        ("annotations/xmls", "images", f"{CAT}.jpg"),
        ("annotations/trimaps", "images", f"{CAT}.jpg"),
        ("annotations/xmls", "elsewhere", f"{CAT}.jpg"),
        ("", "images", f"{CAT}.jpg"),
        ("", "", f"images/{CAT}.jpg"),
    ],
)
def test_where_files_lie(annotations: str, images: str, expected: str, tmp_path: Path) -> None:
    pet(tmp_path, CAT, objects=head())
    (source,) = source_images("oxford_pets", tmp_path / annotations, tmp_path / images)
    assert source.image.file_name == expected
    assert source.image.instances[0].shape is not None


def test_trimaps_may_lie_elsewhere(tmp_path: Path) -> None:
    pet(tmp_path, CAT, np.ones_like(TRIMAP), head())
    (tmp_path / "other").mkdir()
    Image.fromarray(TRIMAP).save(tmp_path / f"other/{CAT}.png")
    (found,) = pets(tmp_path, masks=str(tmp_path / "other")).values()
    assert np.array_equal(found.masks, [BODY])


def test_a_trimap_that_is_all_background_has_no_pet(tmp_path: Path) -> None:
    (found,) = pets(pet(tmp_path, CAT, np.full_like(TRIMAP, 2))).values()
    assert found.rejects == {1: "EMPTY_MASK"}


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (head(xmin="left"), "FIELD_INVALID"),
        (head(ymax="nan"), "FIELD_INVALID"),
        (head(xmin=20, xmax=10), "BOX_INVALID"),
        (head(100, 100, 120, 120), "BOX_INVALID"),
        ("<object/>", "BOX_INVALID"),
    ],
)
def test_what_is_wrong_with_a_head_is_its_own(bad: str, code: str, tmp_path: Path) -> None:
    (found,) = pets(pet(tmp_path, CAT, objects=head() + bad + head()), faces_only=True).values()
    assert found.rejects == {2: code}
    assert len(found.instances) == 2


def test_what_is_wrong_with_a_file_is_its_images(tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    for name in ("a_1", "b_2", "c_3", "d_4", "e", "f_6"):
        pet(tmp_path, name, objects=head())
    (folder / "trimaps/a_1.png").write_bytes(b"<html>")
    (folder / "trimaps/b_2.png").unlink()
    Image.fromarray(BODY.astype(np.uint8)).save(folder / "trimaps/c_3.png")
    (folder / "xmls/d_4.xml").write_text("<!DOCTYPE annotation><annotation/>")
    found = source_images("oxford_pets", folder, tmp_path / "images")
    problems = {one.image.file_name: (one.problem.code, one.annotations) for one in found if one.problem}
    assert problems == {
        "a_1.jpg": ("MASK_INVALID", 1),
        "b_2.jpg": ("MASK_MISSING", 1),
        "c_3.jpg": ("MASK_INVALID", 1),  # has the value 0
        "d_4.jpg": ("FILE_INVALID", 1),
        "e.jpg": ("FILE_INVALID", 1),
    }
    assert len(found) == 6
    found = source_images("oxford_pets", folder, tmp_path / "images", faces_only=True)
    assert {one.image.file_name for one in found if one.problem} == {"d_4.jpg", "e.jpg"}
    found = source_images("oxford_pets", folder, tmp_path / "images", max_pixels=100)
    assert {one.problem.code for one in found if one.problem} >= {"PIXEL_LIMIT"}
    found = source_images("oxford_pets", folder, tmp_path / "images", max_pixels=100, faces_only=True)
    assert {one.problem.code for one in found if one.problem} == {"DIM_LIMIT", "FILE_INVALID"}


def test_a_head_in_an_image_of_no_known_size(tmp_path: Path) -> None:
    pet(tmp_path, CAT)
    (tmp_path / f"annotations/xmls/{CAT}.xml").write_text(f"<annotation>{head()}</annotation>")
    (found,) = pets(tmp_path, faces_only=True).values()
    assert (found.image.height, found.image.width) == (HEIGHT, WIDTH)
    (tmp_path / f"images/{CAT}.jpg").unlink()
    (source,) = source_images("oxford_pets", tmp_path / "annotations", tmp_path / "images", faces_only=True)
    assert source.problem
    assert (source.problem.code, source.annotations) == ("IMAGE_MISSING", 1)


def test_what_else_lies_there_is_left_alone(tmp_path: Path) -> None:
    pet(tmp_path, CAT)
    (tmp_path / f"annotations/trimaps/._{CAT}.png").write_bytes(b"Mac OS X")
    Image.fromarray(TRIMAP).save(tmp_path / "images/cover_1.png")
    assert len(source_images("oxford_pets", tmp_path)) == 1


def test_the_files_of_an_image_are_one_piece() -> None:
    assert together(f"gs://b/annotations/xmls/{CAT}.xml") == together(f"gs://b/annotations/trimaps/{CAT}.png")
    assert together(f"gs://b/annotations/xmls/{CAT}.xml") != together(f"gs://b/annotations/trimaps/{BULLDOG}.png")


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        (f"/d/annotations/xmls/{CAT}.xml", b"<annotation><size>", True),
        (f"/d/annotations/trimaps/{CAT}.png", PNG, True),
        (f"/d/annotations/trimaps/{CAT}.png", b"Mac OS X", False),
        (f"/d/Annotations/{CAT}.xml", b"<annotation><size>", False),
        (f"/d/masks/{CAT}.png", PNG, False),
    ],
)
def test_recognise(path: str, data: bytes, expected: bool) -> None:
    assert (recognise(path, data) is not None) is expected


@pytest.mark.parametrize("faces_only", [True, False])
def test_a_whole_run(faces_only: bool, tmp_path: Path) -> None:
    pet(tmp_path, BULLDOG, objects=head())
    pet(tmp_path, CAT)
    given = tmp_path / "annotations"
    options = {"faces_only": True} if faces_only else {}
    manifest = run_format("oxford_pets", given, tmp_path / "images", tmp_path / "out", **options)
    images = 1 if faces_only else 2
    assert manifest["images"] == {"read": images, "written": images, "rejected": 0, "dropped": 0}
    records = by_file_name(read_back(tmp_path / "out"))
    record = records[f"{BULLDOG}.jpg"]
    assert record["image/object/class/text"].tolist() == [b"american_bulldog"]
    assert record["image/object/class/label"].tolist() == [1 if faces_only else 2]
    assert record["image/object/mask/weight"].tolist() == [0 if faces_only else 1]
    sides = [
        record[f"image/object/bbox/{side}"][0] * (HEIGHT if side[0] == "y" else WIDTH)
        for side in ("ymin", "xmin", "ymax", "xmax")
    ]
    assert np.allclose(sides, (5, 10, 12, 20) if faces_only else (4, 6, 20, 30))
    if not faces_only:
        assert np.array_equal(record["masks"], [BODY])
