"""Open Images: rows of boxes and of masks meet by image and object; masks come to the image's size; bad rows by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sources import Drawn, all_drawn, by_file_name, drawn, run_format, source_images
from test_end_to_end import read_back

from transforms.records import Attributes, InputError
from transforms.sources import format_of, open_images

HEIGHT, WIDTH = 40, 60
BOXES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
MASKS = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"


def box(image: str = "a", label: str = "/m/1", at: str = "0.1,0.7,0.2,0.8", flags: str = "0,0,0,0,0") -> str:
    return f"{image},xclick,{label},1,{at},{flags}"


def mask(path: str = "a_m1_1.png", image: str = "a", label: str = "/m/1", at: str = "0.1,0.7,0.2,0.8") -> str:
    return f"{path},{image},{label},01234567,{at},0.8,0.1 0.2 1;0.3 0.4 0"


def write(folder: Path, boxes: tuple[str, ...] = (), masks: tuple[str, ...] = (), names: str | None = None) -> Path:
    """A data set with one image `a.jpg`, in `images`, and its tables, in `annotations`."""
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 200)).save(folder / "images/a.jpg")
    (folder / "annotations/train-annotations-bbox.csv").write_text("\n".join((BOXES, *boxes, "")))
    (folder / "annotations/train-annotations-object-segmentation.csv").write_text("\n".join((MASKS, *masks, "")))
    if names is not None:
        (folder / "annotations/class-descriptions-boxable.csv").write_text(names)
    return folder


def paint(path: Path, height: int = HEIGHT, width: int = WIDTH, seed: int = 0, mode: str = "1") -> np.ndarray:
    """A mask file of random pixels, and its 0/1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).random((height, width)) < 0.4
    image = Image.fromarray(pixels)
    image.convert(mode).save(path)
    return pixels.astype(np.uint8)


def one(folder: Path, **context: Any) -> Drawn:
    (source,) = source_images("open_images", folder / "annotations", folder / "images", **context)
    assert not source.problem
    return drawn(source)


def test_a_box_and_its_mask_are_one_annotation(tmp_path: Path) -> None:
    flags = "1,-1,1,1,0"
    write(tmp_path, (box(at="0.1234564,0.7,0.2,0.8", flags=flags), box(label="/m/2")), (mask(at="0.123456,0.7,0.2,0.8"),))
    pixels = paint(tmp_path / "masks/a_m1_1.png")
    found = one(tmp_path)
    assert found.names == ["/m/1", "/m/2"]
    assert np.array_equal(found.masks, [pixels])
    whole, only_box = found.instances
    assert whole.box == pytest.approx((8, 0.1234564 * WIDTH, 32, 42), abs=1e-9)
    assert whole.attributes == Attributes(occluded=True, group_of=True, depiction=True)
    assert not whole.is_crowd
    assert (only_box.shape, only_box.attributes) == (None, None)
    assert only_box.box == pytest.approx((8, 6, 32, 42))


@pytest.mark.parametrize(
    ("of_box", "same"),
    [
        ("0.9609375,1,0.1484385,0.2", True),
        ("0.960937,1,0.148438,0.2", True),
        ("0.960941,1,0.148438,0.2", False),
        ("0.960938,1,0.148438,0.21", False),
    ],
)
def test_how_far_apart_the_tables_may_be(tmp_path: Path, of_box: str, same: bool) -> None:
    write(tmp_path, (box(at=of_box),), (mask(at="0.960938,1,0.148438,0.2"),))
    paint(tmp_path / "masks/a_m1_1.png")
    assert len(one(tmp_path).instances) == (1 if same else 2)


def test_a_box_has_one_mask_and_only_of_its_class(tmp_path: Path) -> None:
    boxes = (box(flags="1,0,0,0,0"), box(flags="0,1,0,0,0"), box(label="/m/2", flags="0,0,0,1,0"))
    write(tmp_path, boxes, tuple(mask(f"{name}.png") for name in "xyz"))
    pixels = [paint(tmp_path / f"masks/{name}.png", seed=seed) for seed, name in enumerate("xyz")]
    found = one(tmp_path)
    assert np.array_equal(found.masks, pixels)
    assert [instance.attributes for instance in found.instances] == [
        Attributes(truncated=True),  # rows come sorted
        Attributes(occluded=True),
        None,
        Attributes(depiction=True),
    ]


def test_a_mask_without_a_box_takes_the_one_beside_it_or_its_own(tmp_path: Path) -> None:
    write(tmp_path, (), (mask("x.png"), mask("y.png", at=",,,")))
    paint(tmp_path / "masks/x.png", seed=1)
    pixels = paint(tmp_path / "masks/y.png")
    found = one(tmp_path)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    tight = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
    assert [instance.box for instance in found.instances] == [tight, pytest.approx((8, 6, 32, 42))]


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (63, 94), (20, 31), (1, 1)])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_masks_are_brought_to_the_size_of_the_image(tmp_path: Path, size: tuple[int, int], mode: str) -> None:
    write(tmp_path, (), (mask(),))
    pixels = paint(tmp_path / "masks/a_m1_1.png", *size, seed=4, mode=mode)
    expected = Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    found = one(tmp_path)
    assert np.array_equal(found.masks, [np.asarray(expected)] if pixels.any() else np.zeros((0, HEIGHT, WIDTH)))
    assert found.rejects == ({} if pixels.any() else {1: "EMPTY_MASK"})


@pytest.mark.parametrize(
    ("place", "given"),
    [
        ("masks", False),
        ("annotations/masks", False),
        ("masks/train", False),
        ("masks/train-masks-a", False),
        ("masks/A", False),
        ("elsewhere", True),
        ("elsewhere/train", True),
        ("elsewhere/train-masks-a", True),
        ("elsewhere/A", True),
    ],
)
def test_where_masks_may_lie(tmp_path: Path, place: str, given: bool) -> None:
    write(tmp_path, (), (mask(),))
    pixels = paint(tmp_path / place / "a_m1_1.png")
    found = one(tmp_path, masks=str(tmp_path / "elsewhere") if given else None)
    assert np.array_equal(found.masks, [pixels])


@pytest.mark.parametrize("folder", ["", "train", "validation", "test"])
def test_where_images_may_lie(tmp_path: Path, folder: str) -> None:
    write(tmp_path, (box(),))
    (tmp_path / "images" / folder).mkdir(exist_ok=True)
    (tmp_path / "images/a.jpg").rename(tmp_path / "images" / folder / "a.jpg")
    assert one(tmp_path).image.file_name == f"{folder}/a.jpg".lstrip("/")


@pytest.mark.parametrize("name", ["class-descriptions-boxable.csv", "metadata/oidv7-class-descriptions.csv"])
def test_classes_have_the_names_of_their_descriptions(tmp_path: Path, name: str) -> None:
    write(tmp_path, (box(), box(label="/m/2"), box(label="/m/3")))
    (tmp_path / "annotations/metadata").mkdir()
    (tmp_path / "annotations" / name).write_text('LabelName,DisplayName\n/m/1,Tortoise\n/m/2,"Cat, or dog"\n')
    found = one(tmp_path)
    assert found.names == ["Tortoise", "Cat, or dog"]
    assert found.rejects == {3: "CATEGORY_UNKNOWN"}


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (box(at="x,0.7,0.2,0.8"), "FIELD_INVALID"),
        (box(at=",,,"), "FIELD_INVALID"),
        (box(at="nan,0.7,0.2,0.8"), "COORD_INVALID"),
        (box(at="0.1,1e400,0.2,0.8"), "COORD_INVALID"),
        (box(at="0.7,0.1,0.2,0.8"), "BOX_INVALID"),
        (box(flags="0,0,yes,0,0"), "FIELD_INVALID"),
        (box(label=""), "FIELD_INVALID"),
        ("a,xclick,/m/1,1,0.1", "FIELD_INVALID"),
        (mask("missing.png"), "MASK_MISSING"),
        (mask("../masks/good.png"), "FIELD_INVALID"),
        (mask("gs://bucket/good.png"), "FIELD_INVALID"),
        (mask(".."), "FIELD_INVALID"),
        (mask(""), "FIELD_INVALID"),
        (mask("a\0.png"), "PATH_FORBIDDEN"),
        (mask("a\\b.png"), "PATH_FORBIDDEN"),
        (mask("a" * 300), "MASK_MISSING"),
        (mask("bad.png"), "MASK_INVALID"),
        (mask("large.png"), "PIXEL_LIMIT"),
        (mask("none.png"), "EMPTY_MASK"),
        (mask("good.png", at="0.1,0.2,0.3,inf"), "COORD_INVALID"),
    ],
)
def test_what_is_wrong_with_a_row_is_its_own(tmp_path: Path, bad: str, code: str) -> None:
    good = (box(label="/m/0"), box(label="/m/9"))
    is_mask = bad.count(",") > 8 and not bad.startswith("a,")
    write(tmp_path, good if is_mask else (*good, bad), (bad,) if is_mask else ())
    paint(tmp_path / "masks/good.png")
    (tmp_path / "masks/bad.png").write_bytes(b"hello")
    Image.new("1", (WIDTH + 1, HEIGHT)).save(tmp_path / "masks/large.png")
    Image.new("1", (WIDTH, HEIGHT)).save(tmp_path / "masks/none.png")
    found = one(tmp_path, max_pixels=HEIGHT * WIDTH)
    assert list(found.rejects.values()) == [code]
    assert found.names == ["/m/0", "/m/9"]


@pytest.mark.parametrize(
    ("image", "code"),
    [("b", "IMAGE_MISSING"), ("", "IMAGE_MISSING"), ("../a", "PATH_FORBIDDEN"), ("c", "IMAGE_CORRUPT"), ("a", "DIM_LIMIT")],
)
def test_what_is_wrong_with_an_image_is_its_own(tmp_path: Path, image: str, code: str) -> None:
    write(tmp_path, (box(image), box(image, label="/m/2")), (mask(image=image, label="/m/2"),))
    (tmp_path / "images/c.jpg").write_bytes(b"hello")
    (source,) = source_images("open_images", tmp_path / "annotations", tmp_path / "images", max_pixels=HEIGHT * WIDTH - 1)
    assert source.problem
    assert source.problem.code == code
    assert source.annotations == 2
    assert not source.rejects  # masks are not even looked for


@pytest.mark.parametrize(
    "text", [f'{BOXES}\n"{"x" * 200_000}', f"{BOXES}\n" + "x" * 200_000, f"{BOXES}\n" + '"' + "a\n" * 200_000]
)
def test_what_is_no_table_ends_the_job(tmp_path: Path, text: str) -> None:
    write(tmp_path)
    (tmp_path / "annotations/train-annotations-bbox.csv").write_text(text)
    with pytest.raises(InputError, match=r"FILE_INVALID: .*train-annotations-bbox.csv"):
        one(tmp_path)


def test_bytes_that_are_no_text_are_their_row_s(tmp_path: Path) -> None:
    write(tmp_path, (box(), box("b")))
    path = tmp_path / "annotations/train-annotations-bbox.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\nb,", b"\n\xff,"))
    first, second = source_images("open_images", tmp_path / "annotations", tmp_path / "images")
    assert (first.image.file_name, first.problem) == ("a.jpg", None)
    assert second.problem


def test_tables_are_read_a_row_at_a_time(tmp_path: Path) -> None:
    write(tmp_path, tuple(box() for _ in range(1000)))
    path = tmp_path / "annotations/train-annotations-bbox.csv"
    given = format_of("open_images").rows
    assert given
    rows = given(open_images.Piece((str(path),)), None)  # type: ignore[arg-type]
    next(rows)
    with path.open("a") as file:
        file.write(box("z"))
    assert [name for name, _ in rows][-1] == "z"


def test_a_whole_run(tmp_path: Path) -> None:
    write(tmp_path, (box(), box(label="/m/2", at="0,0.5,0,0.5")), (mask(),), "/m/1,Cat\n/m/2,Dog\n")
    pixels = paint(tmp_path / "masks/train/a_m1_1.png", 63, 94)
    manifest = run_format("open_images", tmp_path / "annotations", tmp_path / "images", tmp_path / "out")
    assert manifest["images"] == {"read": 1, "written": 1, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    record = by_file_name(read_back(tmp_path / "out"))["a.jpg"]
    assert record["image/object/class/text"].tolist() == [b"Cat", b"Dog"]
    assert np.array_equal(record["masks"][0], Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))
    assert record["image/object/mask/weight"].tolist() == [1, 0]


def test_the_fixtures_of_datumaro(real_data: Path) -> None:
    folder = real_data / "datumaro_assets/assets/open_images_dataset/v6"
    found = all_drawn("open_images", folder / "annotations", folder / "images")
    assert {name: one.names for name, one in found.items()} == {
        "train/b.jpg": ["Generic label #0"],
        "test/c.jpg": ["Generic label #3"],
    }
    (whole,), (only_box,) = found["train/b.jpg"].instances, found["test/c.jpg"].instances
    assert np.array_equal(found["train/b.jpg"].masks, [np.asarray(Image.open(folder / "masks/train/b_m0_01234567.png"))])
    assert whole.box == pytest.approx((0.3 * 2, 0.2 * 8, 0.5 * 2, 8))
    assert only_box.box == pytest.approx((0, 0.7 * 5, 5, 0.8 * 5))
    assert only_box.attributes == Attributes(occluded=True, group_of=True)
    with pytest.raises(InputError, match=r"there is no \*-bbox.csv or \*segmentation\*.csv"):
        source_images("open_images", folder.parent / "v5/annotations")


def test_tables_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, (box(),))
    (tmp_path / "annotations/segmentation_classes.csv").write_text("/m/1,Cat\n")
    (tmp_path / "annotations/challenge-2019-train-segmentation-labels.csv").write_text("ImageID,LabelName,Confidence\na,/m/1,1\n")
    (tmp_path / "annotations/challenge-2019-train-segmentation-bbox.csv").write_text(
        "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,/m/2,0.1,0.2,0.3,0.4,1\n"
    )
    found = one(tmp_path)
    assert found.names == ["/m/1", "/m/2"]
    assert found.instances[1].attributes == Attributes(group_of=True)


def test_it_knows_its_files() -> None:
    recognise = format_of("open_images").recognise
    assert recognise("train-annotations-bbox.csv", f"{BOXES}\n{box()}".encode())
    assert recognise("train-annotations-object-segmentation.csv", f"{MASKS}\r\n{mask()}".encode())
    assert not recognise("a.csv", b"ImageID,Source,LabelName,Confidence\na,verification,/m/0,1\n")
    assert not recognise("a.csv", b"/m/0,Cat\n")
    assert not recognise("a.csv", b'{"ImageID": 3}')
    assert not recognise("a.csv", b"")
