"""Mask folders: each painted mask comes out as it went in, bit for bit, and belongs to the image that its name says."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sources import all_drawn, by_file_name, run_format, source_images
from test_end_to_end import read_back

from transforms.sources import mask_files
from transforms.sources.mask_folders import recognise, together

HEIGHT, WIDTH = 20, 30
PNG = b"\x89PNG\r\n\x1a\n"


def picture(path: Path, height: int = HEIGHT, width: int = WIDTH) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (10, 200, 30)).save(path)


def paint(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(path)


def block(top: int, left: int, bottom: int, right: int, value: int = 255, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = value
    return mask


ONE, OTHER = block(2, 3, 12, 14), block(8, 10, 19, 30)


def nuclei(folder: Path, *masks: np.ndarray, name: str = "n1", suffix: str = ".png") -> Path:
    picture(folder / name / "images" / f"{name}{suffix}")
    for place, mask in enumerate(masks):
        paint(folder / name / "masks" / f"{place}.png", mask)
    return folder


def test_one_file_an_object(tmp_path: Path) -> None:
    (found,) = all_drawn("mask_folders", nuclei(tmp_path, ONE, OTHER)).values()
    assert found.image.file_name == "n1/images/n1.png"
    assert found.names == ["object", "object"]
    assert np.array_equal(found.masks, [ONE > 0, OTHER > 0])  # what they share is both's
    assert found.instances[0].box == (2, 3, 12, 14)


def test_one_image_alone(tmp_path: Path) -> None:
    nuclei(tmp_path, ONE, OTHER)
    (found,) = all_drawn("mask_folders", tmp_path / "n1").values()
    assert (found.image.file_name, len(found.masks)) == ("images/n1.png", 2)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA"])
def test_whatever_is_not_0_is_the_object(mode: str, tmp_path: Path) -> None:
    nuclei(tmp_path)
    paint(tmp_path / "n1/masks/0.png", ONE, mode)
    (found,) = all_drawn("mask_folders", tmp_path).values()
    assert np.array_equal(found.masks, [ONE > 0])


def test_two_blobs_of_a_file_are_one_object(tmp_path: Path) -> None:
    both = block(1, 1, 4, 4) | block(10, 20, 15, 25)
    (found,) = all_drawn("mask_folders", nuclei(tmp_path, both)).values()
    assert np.array_equal(found.masks, [both > 0])


def test_the_image_may_lie_elsewhere_and_be_a_jpeg(tmp_path: Path) -> None:
    nuclei(tmp_path / "masks of all", ONE)
    picture(tmp_path / "pictures/n1/images/n1.jpg")
    (found,) = source_images("mask_folders", tmp_path / "masks of all", tmp_path / "pictures")
    assert (found.image.file_name, found.annotations) == ("n1/images/n1.jpg", 1)


def test_a_mask_may_have_the_name_of_its_image(tmp_path: Path) -> None:
    nuclei(tmp_path, ONE)
    paint(tmp_path / "n1/masks/n1.png", OTHER)
    (tmp_path / "n1/masks/0.png").rename(tmp_path / "n1/masks/o.png")
    (found,) = all_drawn("mask_folders", tmp_path).values()
    assert np.array_equal(found.masks, [OTHER > 0, ONE > 0])


def test_what_is_wrong_with_a_mask_is_its_own(tmp_path: Path) -> None:
    nuclei(tmp_path, ONE, block(0, 0, 5, 5, height=WIDTH, width=HEIGHT), np.zeros((HEIGHT, WIDTH), np.uint8), OTHER)
    (tmp_path / "n1/masks/4.png").write_bytes(b"<html>")
    (tmp_path / "n1/masks/5.png").write_bytes((tmp_path / "n1/masks/0.png").read_bytes()[:60])
    paint(tmp_path / "n1/masks/6.png", np.ones((HEIGHT * 2, WIDTH * 2), np.uint8))
    (found,) = all_drawn("mask_folders", tmp_path, max_pixels=HEIGHT * WIDTH).values()
    wrong = {2: "MASK_INVALID", 3: "EMPTY_MASK", 5: "MASK_INVALID", 6: "MASK_INVALID", 7: "PIXEL_LIMIT"}
    assert found.rejects == wrong
    assert np.array_equal(found.masks, [ONE > 0, OTHER > 0])
    assert "30 × 20 (height × width), its image 20 × 30" in dict(found.source.rejects)[2].message


def test_an_image_that_is_not_there_takes_only_its_own_masks(tmp_path: Path) -> None:
    nuclei(tmp_path, ONE, OTHER)
    nuclei(tmp_path, ONE, name="n2")
    (tmp_path / "n1/images/n1.png").unlink()
    one, two = source_images("mask_folders", tmp_path)
    assert one.problem
    assert (one.image.file_name, one.problem.code, one.annotations) == ("n1/images/n1", "IMAGE_MISSING", 2)
    assert (two.problem, two.annotations) == (None, 1)


def test_an_image_of_no_readable_mask(tmp_path: Path) -> None:
    nuclei(tmp_path)
    (tmp_path / "n1/masks").mkdir()
    (tmp_path / "n1/masks/0.png").write_bytes(b"")
    (found,) = all_drawn("mask_folders", tmp_path).values()
    assert found.rejects == {1: "MASK_INVALID"}
    assert (found.image.height, found.image.width) == (HEIGHT, WIDTH)
    (tmp_path / "n1/images/n1.png").write_bytes(b"")
    (source,) = source_images("mask_folders", tmp_path)
    assert source.problem
    assert (source.problem.code, source.annotations) == ("IMAGE_CORRUPT", 1)


def test_names_say_image_and_class(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/7.jpeg")
    for name, mask in {"7_cat_0": ONE, "7_cat_1": OTHER, "7_dog_2": ONE}.items():
        paint(tmp_path / f"annotations/{name}.png", mask)
    for given in (tmp_path, tmp_path / "annotations"):
        (found,) = all_drawn("mask_folders", given, tmp_path / "pictures").values()
        assert found.image.file_name == "7.jpeg"
        assert found.names == ["cat", "cat", "dog"]
        assert np.array_equal(found.masks, [ONE > 0, OTHER > 0, ONE > 0])


IDS = np.zeros((HEIGHT, WIDTH), np.uint16)
IDS[2:8, 3:9], IDS[15:18, 20:28] = 7, 7
IDS[5:12, 9:15] = 300
IDS[12:14, 0:30] = 65535


def ids_of(values: np.ndarray) -> Image.Image:
    """R + 256·G + 65536·B."""
    return Image.fromarray(np.stack([values >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("masks", "image", "images"),
    [
        ("ids/a.png", "pictures/a.jpg", "pictures"),  # each folder is given
        ("masks/a.png", "pictures/a.jpg", "pictures"),
        ("ids/sub/a.png", "pictures/sub/a.tif", "pictures"),
        ("data/masks/a.png", "data/images/a.jpg", "data"),  # one folder is given for both
        ("data/masks/a.png", "data/images/a.png", "data"),
        ("data/train/masks/a.png", "data/train/images/a.png", "data"),
    ],
)
def test_one_file_an_image(masks: str, image: str, images: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        paint(tmp_path / masks.replace("a.png", f"{name}.png"), IDS)
        picture(tmp_path / image.replace("/a.", f"/{name}."))
    given = tmp_path / ("data" if images == "data" else masks.partition("/")[0])
    found = all_drawn("mask_folders", given, tmp_path / images)
    expected = str(Path(image).relative_to(images))
    assert list(found) == [expected, expected.replace("a.", "b.")]
    for one in found.values():
        assert one.names == ["object"] * 3
        assert np.array_equal(one.masks, [IDS == 7, IDS == 300, IDS == 65535])  # two blobs of 7 are one object


def test_an_image_that_is_not_there_leaves_the_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        paint(tmp_path / f"data/masks/{name}.png", IDS)
    picture(tmp_path / "data/images/b.jpg")
    missing, there = source_images("mask_folders", tmp_path / "data")
    assert missing.problem
    assert (missing.image.file_name, missing.problem.code) == ("masks/a", "IMAGE_MISSING")
    assert (there.image.file_name, there.annotations) == ("images/b.jpg", 3)


def test_ids_in_three_colours(tmp_path: Path) -> None:
    values = IDS.astype(np.uint32)
    values[IDS == 300] = 70_000
    (tmp_path / "ids").mkdir()
    ids_of(values).save(tmp_path / "ids/a.png")
    picture(tmp_path / "pictures/a.jpg")
    (found,) = all_drawn("mask_folders", tmp_path / "ids", tmp_path / "pictures").values()
    assert np.array_equal(found.masks, [values == 7, values == 65535, values == 70_000])


def test_an_image_in_the_tree_is_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "ids/a.png", IDS)
    picture(tmp_path / "ids/images/a.png")
    picture(tmp_path / "ids/photos/c.png")
    picture(tmp_path / "ids/a.jpg")
    for given, images in ((tmp_path / "ids", tmp_path / "ids"), (tmp_path / "ids", Path("ids")), (Path("ids"), tmp_path / "ids")):
        assert [one.image.file_name for one in source_images("mask_folders", given, images)] == ["a.jpg"]


def test_what_is_wrong_with_the_only_mask_is_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_files, "MOST_IDS", 3)
    many = IDS.copy()
    many[0, 0] = 1
    for name, values in {"a": IDS, "many": many, "none": IDS, "no_image": IDS}.items():
        paint(tmp_path / f"ids/{name}.png", values)
        if name != "no_image":
            picture(tmp_path / f"pictures/{name}.jpg")
    (tmp_path / "ids/none.png").write_bytes(b"nothing")
    found = source_images("mask_folders", tmp_path / "ids", tmp_path / "pictures")
    assert {one.image.file_name: one.problem.code for one in found if one.problem} == {
        "many.jpg": "MASK_INVALID",
        "none.jpg": "MASK_INVALID",
        "no_image": "IMAGE_MISSING",
    }
    assert [one.annotations for one in found] == [3, 0, 0, 0]


def test_nothing_is_painted(tmp_path: Path) -> None:
    paint(tmp_path / "ids/a.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    picture(tmp_path / "pictures/a.jpg")
    (found,) = all_drawn("mask_folders", tmp_path / "ids", tmp_path / "pictures").values()
    assert (found.instances, found.rejects) == ((), {})


def test_the_files_of_an_image_are_one_piece() -> None:
    assert together("gs://b/n1/masks/x.png") == together("gs://b/n1/masks/y.png") != together("gs://b/n2/masks/x.png")
    assert together("/d/annotations/7_cat_0.png") == together("/d/annotations/7_dog_1.png")
    assert together("/d/annotations/7_cat_0.png") != together("/d/annotations/8_cat_0.png")
    assert together("/d/ids/7_cat_0.png") != together("/d/ids/7_dog_1.png")


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("/d/n1/masks/x.png", PNG, True),
        ("/d/annotations/7_cat_0.png", PNG, True),
        ("/d/n1/masks/x.png", b"{}", False),
        ("/d/n1/images/n1.png", PNG, False),
        ("/d/SegmentationObject/a.png", PNG, False),
        ("/d/annotations/trimaps/Abyssinian_100.png", PNG, False),
        ("/d/gtFine/a/a_000001_000031_gtFine_instanceIds.png", PNG, False),
    ],
)
def test_recognise(path: str, data: bytes, expected: bool) -> None:
    assert (recognise(path, data) is not None) is expected


def test_all_masks_of_the_data_science_bowl(real_data: Path, tmp_path: Path) -> None:
    """Bit for bit through a whole run; in one image, some overlap."""
    folder = real_data / "dsb2018_dev/stage1_train"
    expected: dict[str, list[bytes]] = defaultdict(list)
    overlapping = 0
    for one in sorted(folder.iterdir()):
        masks = [np.asarray(Image.open(path)) for path in (one / "masks").iterdir()]
        expected[f"{one.name}/images/{one.name}.png"] = sorted((mask != 0).tobytes() for mask in masks)
        overlapping += int((np.sum([mask != 0 for mask in masks], axis=0) > 1).any())
    manifest = run_format("mask_folders", folder, folder, tmp_path / "out")
    assert manifest["images"] == {"read": 66, "written": 66, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 2539, "written": 2539, "rejected": 0, "dropped": 0}
    records: dict[str, Any] = by_file_name(read_back(tmp_path / "out"))
    assert {name: sorted(mask.tobytes() for mask in record["masks"]) for name, record in records.items()} == dict(expected)
    assert {tuple(record["image/object/class/text"]) for record in records.values()} <= {(b"object",) * n for n in range(500)}
    assert (sum(map(len, expected.values())), overlapping) == (2539, 1)


def test_the_shapes_of_pycococreator(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "shapes_masks/shapes/train"
    found = all_drawn("mask_folders", folder, folder / "shapes_train2018")
    assert {name: one.names for name, one in found.items()} == {
        "1000.jpeg": ["square"],
        "1001.jpeg": ["circle", "circle", "square", "square"],
    }
    for name, one in found.items():
        files = sorted((folder / "annotations").glob(f"{name.removesuffix('.jpeg')}_*.png"))
        assert np.array_equal(one.masks, [np.asarray(Image.open(file).convert("L")) != 0 for file in files])
