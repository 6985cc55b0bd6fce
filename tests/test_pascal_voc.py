"""Pascal VOC: boxes of XML files, objects of painted PNGs, and what they have to do with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from sources import all_drawn, by_file_name, run_format, source_images
from test_end_to_end import read_back

from transforms.records import Attributes, InputError
from transforms.sources.pascal_voc import COLOURS, majorities, recognise, together

HEIGHT, WIDTH = 20, 30
PNG = b"\x89PNG\r\n\x1a\n"

IDS = np.zeros((HEIGHT, WIDTH), np.uint8)  # three objects, one in two parts, with void around the first
IDS[1:10, 1:12] = 255
IDS[2:9, 2:11] = 1
IDS[12:18, 5:9] = IDS[12:18, 12:16] = 2
IDS[3:7, 20:28] = 3
EACH = [IDS == 1, IDS == 2, IDS == 3]
KINDS = np.select([*EACH, IDS == 255], [8, 12, 8, 255], 0).astype(np.uint8)  # cat, dog, cat
CAT, DOG, LAST = (3, 3, 11, 9), (6, 13, 16, 18), (21, 4, 28, 7)  # xmin, ymin, xmax, ymax as VOC has them
HALF_OPEN = [(2, 2, 9, 11), (12, 5, 18, 16), (3, 20, 7, 28)]


def palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values).convert("P")
    image.putpalette([channel for colour in COLOURS for channel in (colour & 255, colour >> 8 & 255, colour >> 16)])
    image.putdata(values.ravel().tolist())
    image.save(path)


def box(corners: tuple[object, ...]) -> str:
    fields = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    return "<bndbox>" + "".join(f"<{name}>{value}</{name}>" for name, value in fields) + "</bndbox>"


def thing(name: str, corners: tuple[object, ...] | None, more: str = "") -> str:
    return f"<object><name>{name}</name>{more}{box(corners) if corners else ''}</object>"


SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"


def voc(folder: Path, *objects: str, name: str = "a", size: str = SIZE, file_name: str = "a.jpg", painted: bool = True) -> Path:
    text = f"<annotation><filename>{file_name}</filename>{size}{''.join(objects)}</annotation>"
    for part in ("Annotations", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / f"Annotations/{name}.xml").write_text(text)
    Image.new("RGB", (WIDTH, HEIGHT), (9, 80, 7)).save(folder / f"JPEGImages/{name}.jpg")
    if painted:
        palette(folder / f"SegmentationObject/{name}.png", IDS)
        palette(folder / f"SegmentationClass/{name}.png", KINDS)
    return folder


THREE = (thing("cat", CAT), thing("dog", DOG), thing("cat", LAST))


def one(folder: Path, **context: Any) -> Any:
    (found,) = all_drawn("pascal_voc", folder, **context).values()
    return found


def test_objects_have_the_pixels_of_their_number(tmp_path: Path) -> None:
    found = one(voc(tmp_path, *THREE))
    assert found.names == ["cat", "dog", "cat"]
    assert np.array_equal(found.masks, EACH)  # void is nobody's
    assert [instance.box for instance in found.instances] == HALF_OPEN


@pytest.mark.parametrize(
    ("annotations", "images", "expected"),
    [
        ("", "", "VOC2012/JPEGImages/a.jpg"),
        ("VOC2012", "VOC2012", "JPEGImages/a.jpg"),
        ("VOC2012", "VOC2012/JPEGImages", "a.jpg"),
        ("", "VOC2012/JPEGImages", "a.jpg"),
        ("VOC2012/Annotations", "VOC2012/JPEGImages", "a.jpg"),
        ("VOC2012/Annotations", "elsewhere", "a.jpg"),
        ("VOC2012/Annotations/a.xml", "elsewhere", "a.jpg"),
    ],
)
def test_where_the_image_lies(annotations: str, images: str, expected: str, tmp_path: Path) -> None:
    voc(tmp_path / "VOC2012", *THREE)
    (source,) = source_images("pascal_voc", tmp_path / annotations, tmp_path / images)
    assert source.image.file_name == expected
    assert [instance.shape is not None for instance in source.image.instances] == [True] * 3


def test_folders_below_are_mirrored(tmp_path: Path) -> None:
    voc(tmp_path, *THREE, painted=False)
    for part in ("SegmentationObject", "SegmentationClass", "Annotations", "JPEGImages"):
        (tmp_path / part / "sub").mkdir(parents=True, exist_ok=True)
    (tmp_path / "Annotations/a.xml").rename(tmp_path / "Annotations/sub/a.xml")
    palette(tmp_path / "SegmentationObject/sub/a.png", IDS)
    found = one(tmp_path)
    assert found.image.file_name == "JPEGImages/sub/a.jpg"
    assert len(found.masks) == 3


def test_masks_may_lie_elsewhere(tmp_path: Path) -> None:
    voc(tmp_path / "voc", *THREE, painted=False)
    palette(tmp_path / "painted/objects/a.png", IDS)
    palette(tmp_path / "painted/SegmentationClass/a.png", np.where(KINDS == 12, 3, KINDS).astype(np.uint8))
    found = one(tmp_path / "voc", masks=str(tmp_path / "painted/objects"))
    assert np.array_equal(found.masks, [IDS == 1, IDS == 3])
    assert found.rejects == {2: "MASK_INVALID"}  # a dog, says the XML; a bird, says the SegmentationClass beside the masks


def test_xml_beside_its_image(tmp_path: Path) -> None:
    (voc(tmp_path / "made", *THREE) / "Annotations/a.xml").rename(tmp_path / "a.xml")
    (source,) = source_images("pascal_voc", tmp_path / "a.xml")
    assert source.image.file_name == "a.jpg"
    assert [instance.shape for instance in source.image.instances] == [None] * 3


def test_without_pngs_there_are_boxes(tmp_path: Path) -> None:
    found = one(voc(tmp_path, *THREE, painted=False))
    assert [(instance.shape, instance.box) for instance in found.instances] == [(None, expected) for expected in HALF_OPEN]


def test_more_objects_than_painted_and_more_painted_than_objects(tmp_path: Path) -> None:
    found = one(voc(tmp_path, *THREE, thing("dog", (1, 1, 4, 4))))
    assert [instance.shape is not None for instance in found.instances] == [True, True, True, False]
    found = one(voc(tmp_path, *THREE[:1]))
    assert found.names == ["cat", "dog", "cat"]
    assert [instance.box for instance in found.instances] == HALF_OPEN


def test_an_object_that_is_painted_as_another_is_not_taken(tmp_path: Path) -> None:
    found = one(voc(tmp_path, thing("dog", CAT), thing("dog", DOG), thing("cat", CAT)))
    assert found.rejects == {1: "MASK_INVALID", 3: "MASK_INVALID"}  # of another class; elsewhere
    assert np.array_equal(found.masks, [IDS == 2])
    messages = [why.message for _, why in found.source.rejects]
    assert messages[0] == "object 1 is 'dog' in the XML, and its pixels are 'cat' in SegmentationClass"
    assert "painted in (3.0, 20.0, 7.0, 28.0)" in messages[1]


def test_classes_that_no_file_names_are_not_compared(tmp_path: Path) -> None:
    assert one(voc(tmp_path, thing("cell", CAT), thing("cell", DOG), thing("cell", LAST))).names == ["cell"] * 3


@pytest.mark.parametrize("xml", [True, False])
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("class_names.txt", "_background_\n" + "\n".join(f"kind {value}" for value in range(1, 13))),
        ("labelmap.txt", "# label:color_rgb:parts:actions\n" + "\n".join(f"kind {i}:{i},{i},{i}::" for i in range(13))),
    ],
)
def test_names_of_classes(file: str, text: str, xml: bool, tmp_path: Path) -> None:
    voc(tmp_path, thing("kind 8", CAT), thing("kind 12", DOG), thing("kind 3", LAST))
    (tmp_path / file).write_text(text)
    if not xml:
        (tmp_path / "Annotations/a.xml").unlink()
    found = one(tmp_path)
    assert found.names == ["kind 8", "kind 12"] + ["kind 8"] * (not xml)
    assert found.rejects == ({3: "MASK_INVALID"} if xml else {})


def colours(values: np.ndarray, table: list[tuple[int, int, int]]) -> Image.Image:
    return Image.fromarray(np.array(table, np.uint8)[values])


def test_coloured_masks(tmp_path: Path) -> None:
    voc_colours = [(c & 255, c >> 8 & 255, c >> 16) for c in COLOURS]
    assert voc_colours[:4] + voc_colours[-1:] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (224, 224, 192)]
    voc(tmp_path, *THREE)
    colours(IDS, voc_colours).save(tmp_path / "SegmentationObject/a.png")
    colours(KINDS, voc_colours).save(tmp_path / "SegmentationClass/a.png")
    assert np.array_equal(one(tmp_path).masks, EACH)
    own = [(i, 7, 9 * i % 256) for i in range(255)] + [(224, 224, 192)]
    colours(KINDS, own).save(tmp_path / "SegmentationClass/a.png")
    (source,) = source_images("pascal_voc", tmp_path)
    assert source.problem
    assert source.problem.code == "MASK_INVALID"  # these colours are not VOC's


def test_coloured_classes_of_a_labelmap(tmp_path: Path) -> None:
    voc(tmp_path, *THREE)
    own = [(i, 7, 9 * i % 256) for i in range(255)] + [(224, 224, 192)]
    colours(KINDS, own).save(tmp_path / "SegmentationClass/a.png")
    lines = [f"kind {i}:{i},7,{9 * i}:head:" for i in range(13)]
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n\n" + "\n".join(lines))
    (tmp_path / "Annotations/a.xml").unlink()
    assert one(tmp_path).names == ["kind 8", "kind 12", "kind 8"]


@pytest.mark.parametrize(
    ("file", "data"), [("class_names.txt", b"cat\xff"), ("labelmap.txt", b"cat"), ("labelmap.txt", b"cat:1:")]
)
def test_names_of_classes_that_can_not_be_read(file: str, data: bytes, tmp_path: Path) -> None:
    voc(tmp_path, *THREE)
    (tmp_path / file).write_bytes(data)
    with pytest.raises(InputError, match=f"FILE_INVALID: .*{file}"):
        source_images("pascal_voc", tmp_path)


def test_the_class_is_that_of_most_pixels() -> None:
    ids = np.array([[1, 1, 1, 2, 2, 3, 0, 255]], np.uint8)
    kinds = np.array([[255, 4, 0, 5, 4, 255, 4, 4]], np.uint8)
    assert majorities(ids, kinds) == {1: 4, 2: 4, 3: 0}


def test_only_painted(tmp_path: Path) -> None:
    kinds = np.select([IDS == 1, IDS == 2], [8, 33], 0).astype(np.uint8)
    voc(tmp_path)
    (tmp_path / "Annotations/a.xml").unlink()
    assert np.array_equal(one(tmp_path).masks, EACH)
    palette(tmp_path / "SegmentationClass/a.png", kinds)
    found = one(tmp_path)
    assert found.names == ["cat"]
    assert found.rejects == {2: "CATEGORY_UNKNOWN", 3: "CATEGORY_UNKNOWN"}
    (tmp_path / "SegmentationClass/a.png").unlink()
    assert one(tmp_path).rejects == dict.fromkeys((1, 2, 3), "FIELD_INVALID")
    (tmp_path / "JPEGImages/a.jpg").rename(tmp_path / "JPEGImages/b.jpg")
    (source,) = source_images("pascal_voc", tmp_path)
    assert source.problem
    assert (source.problem.code, source.annotations) == ("IMAGE_MISSING", 3)


def test_classes_alone_part_no_objects(tmp_path: Path) -> None:
    voc(tmp_path)
    (tmp_path / "Annotations/a.xml").unlink()
    (tmp_path / "SegmentationObject/a.png").unlink()
    (source,) = source_images("pascal_voc", tmp_path)
    assert source.problem
    assert source.problem.code == "MASK_MISSING"


OBJECT, CLASS = "SegmentationObject", "SegmentationClass"


@pytest.mark.parametrize(
    ("files", "wrong", "xml"),
    [
        *(([file], wrong, xml) for file in (OBJECT, CLASS) for wrong in ("size", "bytes") for xml in (True, False)),
        ([OBJECT, CLASS], "size", True),  # they agree, but not with the XML
    ],
)
def test_what_is_wrong_with_a_png_is_its_images(files: list[str], wrong: str, xml: bool, tmp_path: Path) -> None:
    voc(tmp_path, *THREE)
    voc(tmp_path, *THREE, name="b", file_name="b.jpg")
    for path in (tmp_path / file / "a.png" for file in files):
        if wrong == "size":
            palette(path, IDS.T.copy())
        else:
            path.write_bytes(path.read_bytes()[:-30])
    if not xml:
        (tmp_path / "Annotations/a.xml").unlink()
    bad, good = source_images("pascal_voc", tmp_path)
    assert bad.problem
    assert (bad.image.file_name, bad.problem.code, bad.annotations) == ("JPEGImages/a.jpg", "MASK_INVALID", 3 * xml)
    assert (good.problem, len(good.image.instances)) == (None, 3)


def test_what_else_an_object_says(tmp_path: Path) -> None:
    more = "<pose>Left</pose><truncated>1</truncated><difficult>0</difficult><occluded>1</occluded>"
    nothing = "<pose/><truncated/><difficult/>"
    part = f"<part><name>head</name>{box((1, 1, 2, 2))}</part>"
    found = one(voc(tmp_path, thing("cat", CAT, more), thing("dog", DOG, nothing), thing("cat", LAST, part)))
    first, *others = [instance.attributes for instance in found.instances]
    assert first == Attributes(truncated=True, occluded=True, view="Left")
    assert others == [None, None]
    assert found.names == ["cat", "dog", "cat"]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (thing("", CAT), "FIELD_INVALID"),
        ("<object/>", "FIELD_INVALID"),
        (thing("cat", ("one", 3, 11, 9)), "FIELD_INVALID"),
        (thing("cat", ("nan", 3, 11, 9)), "FIELD_INVALID"),
        (thing("cat", (3, 3, "inf", 9)), "FIELD_INVALID"),
        ("<object><name>cat</name><bndbox/></object>", "FIELD_INVALID"),
        (thing("cat", (11, 3, 3, 9)), "BOX_INVALID"),
        (thing("cat", (500, 500, 510, 510)), "BOX_INVALID"),
        (thing("cat", None), "BOX_INVALID"),
    ],
)
def test_what_is_wrong_with_an_object_is_its_own(bad: str, code: str, tmp_path: Path) -> None:
    found = one(voc(tmp_path, thing("cat", CAT), bad, thing("dog", DOG), painted=False))
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]


def test_a_box_far_outside_is_cut(tmp_path: Path) -> None:
    found = one(voc(tmp_path, thing("cat", (-1e308, 3, 1e308, 9)), painted=False))
    assert found.instances[0].box == (2, 0, 9, WIDTH)


def test_a_painted_object_needs_no_box(tmp_path: Path) -> None:
    found = one(voc(tmp_path, thing("cat", None), thing("dog", (16, 13, 6, 18))))
    assert [instance.box for instance in found.instances] == HALF_OPEN


BILLION = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;">]><annotation><filename>&m;</filename></annotation>'
)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "FILE_INVALID"),
        (b"<annotation>", "FILE_INVALID"),
        (b"<annotations/>", "FILE_INVALID"),
        (b"<annotation>&lol;</annotation>", "FILE_INVALID"),
        (b"<annotation>\xff</annotation>", "FILE_INVALID"),
        (b'<?xml version="1.0" encoding="klingon"?><annotation/>', "FILE_INVALID"),
        (BILLION, "FILE_INVALID"),
        (BILLION.decode().encode("utf-16"), "FILE_INVALID"),
        (b"<annotation>" + b"<a>" * 200_000, "FILE_INVALID"),
        (b"<annotation>" + b"<a>" * 200_000 + b"</a>" * 200_000 + b"</annotation>", "IMAGE_MISSING"),
        (b"<annotation/>", "IMAGE_MISSING"),
        (b"<annotation><filename>b.jpg</filename></annotation>", "IMAGE_MISSING"),
        (b"<annotation><size><height>x</height><width>3</width></size></annotation>", "FILE_INVALID"),
        (b"<annotation><size><height>2.5</height><width>3</width></size></annotation>", "FILE_INVALID"),
        (b"<annotation><size><height>nan</height><width>3</width></size></annotation>", "FILE_INVALID"),
        (b"<annotation><size><height>-2</height><width>3</width></size></annotation>", "DIM_LIMIT"),
        (b"<annotation><size><height>1e308</height><width>1e308</width></size></annotation>", "DIM_LIMIT"),
    ],
)
def test_what_is_wrong_with_a_file_is_its_images(data: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_bytes(data)
    (source,) = source_images("pascal_voc", tmp_path)
    assert source.problem
    assert source.problem.code == code


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height></size>"])
def test_a_file_that_does_not_say_how_large_its_image_is(size: str, tmp_path: Path) -> None:
    found = one(voc(tmp_path, *THREE, size=size))
    assert (found.image.height, found.image.width, len(found.masks)) == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("file_name", ["", "a", "/home/me/a.jpg", "C:\\me\\a.jpg", "../JPEGImages/a.jpg"])
def test_a_file_name_that_is_another_machines(file_name: str, tmp_path: Path) -> None:
    assert one(voc(tmp_path, *THREE, file_name=file_name)).image.file_name == "JPEGImages/a.jpg"


def test_the_files_of_an_image_are_one_piece() -> None:
    parts = ("Annotations/x/a.xml", "SegmentationObject/x/a.png", "SegmentationClass/x/a.png")
    assert len({together(f"gs://b/VOC2012/{part}") for part in parts}) == 1
    assert together("/d/2007/Annotations/a.xml") != together("/d/2012/Annotations/a.xml")
    assert together("/d/JPEGImages/a.png") == "/d/JPEGImages/a.png"


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("/d/Annotations/a.xml", b"<annotation><filename>a.jpg</filename><size>", True),
        ("/d/a.xml", b"<?xml?><annotation>\n <object><name>cat</name><bndbox>", True),
        ("/d/SegmentationObject/a.png", PNG, True),
        ("/d/annotations/xmls/Abyssinian_1.xml", b"<annotation><size>", False),
        ("/d/a.xml", b"<annotations><version>1.1</version><image><size>", False),
        ("/d/a.xml", b"<annotation><filename>a</filename><object><polygon><size>", False),
        ("/d/masks/a.png", PNG, False),
        ("/d/SegmentationObject/a.png", b"{}", False),
    ],
)
def test_recognise(path: str, data: bytes, expected: bool) -> None:
    assert (recognise(path, data) is not None) is expected


def test_three_formats_of_one_truth(real_data: Path, tmp_path: Path) -> None:
    """How far what LabelMe paints is from the polygons that it paints, as pycocotools draws them; docs/formats/pascal_voc.md."""
    folder = real_data / "labelme_examples/examples/instance_segmentation"
    given = folder / "data_dataset_voc"
    manifest = run_format("pascal_voc", given, given, tmp_path / "out")
    assert manifest["images"] == {"read": 3, "written": 3, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 12, "written": 12, "rejected": 0, "dropped": 0}
    painted = by_file_name(read_back(tmp_path / "out"))
    drawn = all_drawn("labelme", folder / "data_annotated")
    coco = COCO(folder / "data_dataset_coco/annotations.json")
    by_name = {Path(image["file_name"]).name: image["id"] for image in coco.imgs.values()}
    only_painted = only_drawn = 0
    for name, record in painted.items():
        ids = np.asarray(Image.open(given / "SegmentationObject" / f"{Path(name).stem}.png"))
        values = [value for value in np.unique(ids).tolist() if value not in (0, 255)]
        assert np.array_equal(record["masks"], [ids == value for value in values])
        polygons = drawn[Path(name).name]
        assert [text.decode() for text in record["image/object/class/text"]] == polygons.names
        of_coco = {coco.annToMask(annotation).tobytes() for annotation in coco.imgToAnns[by_name[Path(name).name]]}
        for one, other in zip(record["masks"], polygons.masks, strict=True):
            assert other.tobytes() in of_coco
            assert (one & other).sum() / (one | other).sum() > 0.93
            only_painted += int((one & ~other & 1).sum())
            only_drawn += int((other & ~one & 1).sum())
    assert (only_painted, only_drawn) == (2298, 1011)  # of 251,111 pixels that the polygons have


def test_the_fixtures_of_datumaro(real_data: Path) -> None:
    folder = real_data / "datumaro_assets/assets/voc_dataset"
    found = one(folder / "voc_dataset1")  # the cat is painted as a bicycle
    assert found.rejects == {1: "MASK_INVALID"}
    assert [(name, instance.box) for name, instance in zip(found.names, found.instances, strict=True)] == [
        ("person", (4, 3, 7, 6))
    ]
    found = one(folder / "voc_dataset3")
    assert [instance.box for instance in found.instances] == [(1, 0, 4, 3)]
    assert found.instances[0].attributes == Attributes(truncated=True, view="Unspecified")
    second = source_images("pascal_voc", folder / "voc_dataset2")  # has neither sizes nor images
    assert {one.image.file_name: one.problem.code for one in second if one.problem} == {
        f"JPEGImages/{name}.jpg": "IMAGE_MISSING" for name in "@abcd"
    }
    assert sum(one.annotations for one in second) == 4
