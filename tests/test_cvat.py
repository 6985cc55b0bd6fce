"""CVAT for images: shapes as pycocotools and numpy draw them, z_order covers, and no file takes memory with it."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as cocomask
from sources import Drawn, all_drawn, by_file_name, drawn, parse_text, run_format, source_images
from test_end_to_end import read_back

from transforms import run_lengths
from transforms.records import Attributes, InputError
from transforms.sources.cvat import FORMAT, cut_images
from transforms.sources.mask_files import placed

HEIGHT, WIDTH = 40, 60
TRIANGLE = [3.0, 4.0, 40.0, 8.5, 20.25, 33.0]
SMALL = [15.0, 12.0, 25.0, 12.0, 20.0, 20.0]


def element(kind: str, label: str | None = "cat", **fields: object) -> str:
    given = {"label": label, "source": "manual", "occluded": "0"} | fields
    text = " ".join(f"{name}={quoteattr(str(value))}" for name, value in given.items() if value is not None)
    return f'<{kind} {text}><attribute name="colour">red</attribute></{kind}>'


def points(ring: list[float]) -> str:
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(ring[0::2], ring[1::2], strict=True))


def shape(ring: list[float], label: str = "cat", **fields: object) -> str:
    return element("polygon", label, points=points(ring), **fields)


def box(x0: float, y0: float, x1: float, y1: float, label: str = "cat", **fields: object) -> str:
    return element("box", label, xtl=x0, ytl=y0, xbr=x1, ybr=y1, **fields)


def painted(mask: np.ndarray, left: int, top: int, label: str = "cat", **fields: object) -> str:
    flat = np.concatenate(([0], mask.ravel(), [0]))
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(edges, prepend=0, append=mask.size)
    runs = runs if runs[-1] else runs[:-1]
    height, width = mask.shape
    rle = ", ".join(map(str, runs))
    return element("mask", label, rle=rle, left=left, top=top, width=width, height=height, **fields)


def image(*shapes: str, name: str = "one.jpg", height: object = HEIGHT, width: object = WIDTH, fields: str = "") -> str:
    return f'<image id="0" name={quoteattr(name)} width="{width}" height="{height}" {fields}>{"".join(shapes)}</image>'


def document(*images: str) -> str:
    meta = "<version>1.1</version><meta><task><mode>annotation</mode></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{meta}\n' + "\n".join(images) + "\n</annotations>"


def one(*shapes: str) -> Drawn:
    (source,) = parse_text("cvat", document(image(*shapes)).partition("</meta>")[2].join(["<annotations>", ""]))
    return drawn(source)


def of_pycocotools(*rings: list[float]) -> np.ndarray:
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects(list(rings), HEIGHT, WIDTH)))


def test_a_polygon_is_drawn_as_pycocotools_draws_it() -> None:
    found = one(shape(TRIANGLE), shape(SMALL, "dog", occluded="1"))
    assert found.names == ["cat", "dog"]
    assert np.array_equal(found.masks, [of_pycocotools(TRIANGLE), of_pycocotools(SMALL)])  # of one z_order, they overlap
    assert [instance.attributes for instance in found.instances] == [None, Attributes(occluded=True)]


def test_a_box_is_only_a_box() -> None:
    found = one(box(10.5, 5, 30, 20.25))
    assert found.instances[0].shape is None
    assert found.instances[0].box == (5, 10.5, 20.25, 30)


def test_a_turned_box_is_drawn() -> None:
    # By 90° around 20, 10, what was 20 × 8 pixels is 8 × 20; by 30° clockwise, the right side goes down.
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[8:28, 26:34] = 1
    assert np.array_equal(one(box(20, 14, 40, 22, rotation=90)).masks, [expected])
    turned = one(box(20, 14, 40, 22, rotation="30.00"))
    centre, along, across = np.array([30, 18]), math.radians(30), math.radians(120)
    right, down = 10 * np.array([math.cos(along), math.sin(along)]), 4 * np.array([math.cos(across), math.sin(across)])
    corners = [centre - right - down, centre + right - down, centre + right + down, centre - right + down]
    assert np.array_equal(turned.masks, [of_pycocotools(np.concatenate(corners).tolist())])


def test_an_ellipse_is_turned_clockwise() -> None:
    (mask,) = one(element("ellipse", cx=30, cy=20, rx=18, ry=6, rotation=30)).masks
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
    along, across = (x - 30) * cosine + (y - 20) * sine, (y - 20) * cosine - (x - 30) * sine
    assert mask[np.hypot(along / 17, across / 5) < 1].all()
    assert not mask[np.hypot(along / 19, across / 7) > 1].any()


@pytest.mark.parametrize(("left", "top"), [(11, 7), (-2, 0), (WIDTH - 2, HEIGHT - 1), (0, -1)])
def test_a_mask_lies_where_it_says(left: int, top: int) -> None:
    bits = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], np.uint8)
    expected = np.zeros((HEIGHT + 10, WIDTH + 10), np.uint8)
    expected[5 + top : 8 + top, 5 + left : 9 + left] = bits
    found = one(painted(bits, left, top))
    assert np.array_equal(found.masks, [expected[5:-5, 5:-5]])


def test_placed_masks_are_as_if_painted() -> None:
    random = np.random.default_rng(3)
    for _ in range(300):
        height, width, rows, columns = (int(side) for side in random.integers(1, 9, 4))
        left, top = (int(at) for at in random.integers(-9, 10, 2))
        bits = (random.random((rows, columns)) < random.choice([0.2, 0.5, 0.9, 1])).astype(np.uint8)
        around = np.zeros((40, 40), np.uint8)
        around[10 + top : 10 + top + rows, 10 + left : 10 + left + columns] = bits
        expected = run_lengths.from_mask(around[10 : 10 + height, 10 : 10 + width])
        assert placed(bits, top, left, height, width) == expected


def test_a_mask_of_the_whole_image() -> None:
    assert one(painted(np.ones((HEIGHT, WIDTH), np.uint8), 0, 0)).masks.all()
    assert one(painted(np.zeros((3, 4), np.uint8), 0, 0)).rejects == {1: "EMPTY_MASK"}


def test_shapes_of_a_higher_z_order_cover_others() -> None:
    found = one(shape(TRIANGLE, z_order=-1), shape(SMALL, "dog", z_order=2), box(1, 1, 50, 30, "box", z_order=3))
    triangle, small = of_pycocotools(TRIANGLE), of_pycocotools(SMALL)
    assert np.array_equal(found.masks, [triangle & ~small & 1, small])
    assert found.instances[2].box == (1, 1, 30, 50)


def test_shapes_of_a_group_are_parts_of_one_object() -> None:
    second = [45.0, 20.0, 58.0, 22.0, 50.0, 38.0]
    found = one(
        shape(TRIANGLE, group_id=1, z_order=-1),
        shape(second, "dog", group_id=1),
        shape(second, group_id=1, occluded=1),
        shape(TRIANGLE, "dog", group_id=0),
    )
    assert found.names == ["cat", "dog", "dog"]
    assert [instance.layer for instance in found.instances] == [0, 0, 0]
    assert [bool(instance.attributes) for instance in found.instances] == [True, False, False]
    assert np.array_equal(found.masks[0], of_pycocotools(TRIANGLE, second))


def test_painted_parts_are_one_mask() -> None:
    bits = np.array([[1, 0, 1], [1, 1, 1]], np.uint8)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:5, 4:7] = bits
    expected[4:6, 5:8] |= bits
    assert np.array_equal(one(painted(bits, 4, 3, group_id=7), painted(bits, 5, 4, group_id=7)).masks, [expected])


def test_a_box_in_a_group_says_how_far_the_object_goes() -> None:
    found = one(shape(SMALL, group_id=1), box(10, 11, 20, 39, group_id=1), box(1, 2, 3, 4, group_id=1, label="dog"))
    assert np.array_equal(found.masks, [of_pycocotools(SMALL)])
    assert [instance.box for instance in found.instances] == [(11, 10, 39, 25), (2, 1, 4, 3)]


def test_a_tag_is_no_object() -> None:
    found = one('<tag label="sunny" source="manual"></tag>', shape(TRIANGLE))
    assert (found.names, found.rejects, found.source.annotations) == (["cat"], {}, 1)


MASK = np.ones((2, 3), np.uint8)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (element("polyline", points=points(TRIANGLE)), "SHAPE_UNSUPPORTED"),
        (element("points", points=points(TRIANGLE)), "SHAPE_UNSUPPORTED"),
        (element("cuboid", xtl1=3), "SHAPE_UNSUPPORTED"),
        ('<skeleton label="man"><points label="hand" points="1,2"/></skeleton>', "SHAPE_UNSUPPORTED"),
        (element("polygon"), "POLY_MALFORMED"),
        (element("polygon", points="1,2;3"), "POLY_MALFORMED"),
        (element("polygon", points="1,2;3,4"), "POLY_MALFORMED"),
        (element("polygon", points="1,2;3,4;5,x"), "COORD_INVALID"),
        (element("polygon", points="1,2;3,4;5,nan"), "COORD_INVALID"),
        (element("polygon", points="1,2;3,4;5,1e308"), "COORD_INVALID"),
        (element("polygon", points="100,100;120,100;110,120"), "EMPTY_MASK"),
        (box(math.nan, 1, 2, 3), "COORD_INVALID"),
        (box(1, 1, math.inf, 3), "COORD_INVALID"),
        (box(5, 5, 5, 5), "BOX_INVALID"),
        (element("box", xtl=1, ytl=2, xbr=3), "FIELD_INVALID"),
        (element("box", xtl=1, ytl=2, xbr=3, ybr="four"), "FIELD_INVALID"),
        (box(1, 1, 9, 9, rotation="inf"), "FIELD_INVALID"),
        (box(1, 1, 9, 9, z_order="1e99"), "FIELD_INVALID"),
        (box(1, 1, 9, 9, z_order="0.5"), "FIELD_INVALID"),
        (element("ellipse", cx=1, cy=2, rx="1e308", ry=3), "COORD_INVALID"),
        (element("ellipse", cx=1, cy=2, rx=3), "FIELD_INVALID"),
        (shape(TRIANGLE, ""), "FIELD_INVALID"),
        (element("polygon", None, points=points(TRIANGLE)), "FIELD_INVALID"),
        (painted(MASK, 1, 1).replace('rle="0, 6"', 'rle="0, 5"'), "RLE_MALFORMED"),
        (painted(MASK, 1, 1).replace('rle="0, 6"', 'rle="0, 7"'), "RLE_MALFORMED"),
        (painted(MASK, 1, 1).replace('rle="0, 6"', 'rle="-1, 7"'), "RLE_MALFORMED"),
        (painted(MASK, 1, 1).replace('rle="0, 6"', f'rle="{"9" * 30}, 7"'), "RLE_MALFORMED"),
        (painted(MASK, 1, 1).replace('rle="0, 6"', f'rle="{"9" * 9999}, 7"'), "RLE_MALFORMED"),
        (painted(MASK, 1, 1).replace('rle="0, 6"', 'rle="zz"'), "RLE_MALFORMED"),
        (painted(MASK, 1, 1).replace('rle="0, 6"', ""), "RLE_MALFORMED"),
        (painted(MASK, 1, 1).replace('width="3"', 'width="300000"'), "DIM_LIMIT"),
        (painted(MASK, 1, 1).replace('height="2"', 'height="0"'), "DIM_LIMIT"),
        (painted(MASK, 1, 1).replace('left="1"', 'left="1.5"'), "FIELD_INVALID"),
        (painted(MASK, 1, 1).replace('left="1"', 'left="nan"'), "FIELD_INVALID"),
        (painted(MASK, 10**6, 1), "EMPTY_MASK"),
        (painted(MASK, 1, -(10**6)), "EMPTY_MASK"),
    ],
)
def test_what_is_wrong_with_a_shape_is_its_own(bad: str, code: str) -> None:
    found = one(shape(TRIANGLE), bad, shape(TRIANGLE, "dog"))
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]
    assert [instance.annotation_id for instance in found.instances] == [1, 3]


def test_drawn_and_painted_parts_do_not_mix() -> None:
    assert one(shape(TRIANGLE, group_id=4), painted(MASK, 1, 1, group_id=4)).rejects == {1: "SHAPE_UNSUPPORTED"}


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ('<image id="7" width="60" height="40"/>', "FILE_INVALID"),
        (image(height="tall"), "FILE_INVALID"),
        (image(height="inf"), "FILE_INVALID"),
        (image(shape(TRIANGLE), height=0), "DIM_LIMIT"),
        (image(painted(MASK, 1, 1), height=10**6, width=10**6), "DIM_LIMIT"),
    ],
)
def test_what_is_wrong_with_an_image_is_its_own(bad: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_text(document(image(name="a.jpg"), bad, image(name="b.jpg")))
    found = source_images("cvat", tmp_path)
    assert [one.problem.code if one.problem else None for one in found] == [None, code, None]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb">' + "".join(f'<!ENTITY b{n} "{"&b;" * 10}">' for n in range(9)) + "]>"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends in the middle"),
        (b"hello", "syntax error"),
        (document(image(shape(TRIANGLE))).encode()[:-20], "cut off"),
        (document(image(shape(TRIANGLE))).replace("</image>", "").encode(), "no XML"),
        (document(image(name="\ud800")).encode("utf-8", "surrogatepass"), "not UTF-8"),
        (document(image()).encode("utf-16"), "not UTF-8"),
        (document(image()).replace("<annotations>", BOMB + "<annotations>").encode(), "document type"),
        (b"<annotation><object/></annotation>", "expected <annotations>"),
        (document('<track id="0" label="cat"></track>').encode(), "CVAT for images 1.1"),
        (document(image("<a>" * 100_000)).encode(), "nested deeper"),
    ],
)
def test_a_file_that_is_none_says_so(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "annotations.xml").write_bytes(data)
    with pytest.raises(InputError, match=says) as error:
        list(cut_images(str(tmp_path / "annotations.xml")))
    assert str(error.value).startswith(f"FILE_INVALID: {tmp_path}")


@pytest.mark.parametrize("size", [1, 3, 8, 9, 1 << 16])
def test_a_document_type_is_seen_however_it_is_read(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.sources.cvat.CHUNK_BYTES", size)
    (tmp_path / "annotations.xml").write_text("<?xml version='1.0'?><!DOCTYPE annotations>")
    with pytest.raises(InputError, match="it has a document type"):
        list(cut_images(str(tmp_path / "annotations.xml")))


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    ring = [value for turn in range(500) for value in (30 + 20 * math.cos(turn), 20 + 15 * math.sin(turn))]
    path.write_text(document(*(image(shape(ring), name=f"{n}.jpg") for n in range(1500))))
    assert path.stat().st_size > 8 << 20
    tracemalloc.start()
    try:
        blocks = [data.count(b"<image ") for data in cut_images(str(path))]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(blocks) == 1500
    assert len(blocks) > 6
    assert peak < 6 << 20


@pytest.mark.parametrize("text", ["A" * 300_000, "<b/>" * 100_000])
def test_an_element_without_an_end_is_given_up(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.sources.cvat.MAX_IMAGE_BYTES", 90_000)
    monkeypatch.setattr("transforms.sources.cvat.MAX_IMAGE_ELEMENTS", 20_000)
    (tmp_path / "annotations.xml").write_text(document(image(text)))
    with pytest.raises(InputError, match="an element has over"):
        list(cut_images(str(tmp_path / "annotations.xml")))


def test_a_whole_run(tmp_path: Path) -> None:
    (tmp_path / "images/sub").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 60)).save(tmp_path / "images/one.jpg")
    Image.new("RGB", (WIDTH, HEIGHT), (20, 30, 60)).save(tmp_path / "images/sub/ü.jpg")
    first = image(shape(TRIANGLE), shape(SMALL, "dog", z_order=1))
    (tmp_path / "annotations.xml").write_text(document(first, image(box(1, 2, 30, 40), name="sub/ü.jpg")), encoding="utf-8")
    manifest = run_format("cvat", tmp_path / "annotations.xml", tmp_path / "images", tmp_path / "out")
    assert manifest["images"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 3, "written": 3, "rejected": 0, "dropped": 0}
    records = by_file_name(read_back(tmp_path / "out"))
    small = of_pycocotools(SMALL)
    assert np.array_equal(records["one.jpg"]["masks"], [of_pycocotools(TRIANGLE) & ~small & 1, small])
    assert records["sub/ü.jpg"]["image/object/mask/weight"].tolist() == [0]


def test_the_export_of_a_task(real_data: Path) -> None:
    folder = real_data / "datumaro_assets/assets/cvat_dataset/for_images/export_task"
    found = all_drawn("cvat", folder, folder / "images")
    assert {name: (one.names, one.rejects) for name, one in found.items()} == {
        "img0.jpg": (["label1"], {2: "SHAPE_UNSUPPORTED"}),
        "img1.jpg": ([], {1: "FIELD_INVALID", 2: "SHAPE_UNSUPPORTED"}),  # a polygon without a label, and points
    }
    (only,) = found["img0.jpg"].instances
    assert (only.box, only.layer, only.attributes) == ((2, 0, 4, 4), 1, Attributes(occluded=True))


def test_the_export_of_a_project(real_data: Path) -> None:
    folder = real_data / "datumaro_assets/assets/cvat_dataset/for_images/export_project"
    found = all_drawn("cvat", folder, folder / "images")
    assert sorted(found) == [f"{subset}/img{n}.jpg" for subset in ("Test", "Train", "Validation") for n in (0, 1)]
    assert all((folder / "images" / name).exists() for name in found)
    for n in (0, 1):
        assert found[f"Test/img{n}.jpg"].names == ["label1"]
    polygon = cocomask.decode(cocomask.frPyObjects([[1.0, 2, 3, 4, 6, 5]], 10, 10))[..., 0]
    assert np.array_equal(found["Train/img1.jpg"].masks, [polygon])
    flat = source_images("cvat", folder, folder)  # where the images lie in no folders of subsets
    assert {one.image.file_name for one in flat} == {"img0.jpg", "img1.jpg"}


def test_the_export_of_a_video(real_data: Path) -> None:
    with pytest.raises(InputError, match="video"):
        source_images("cvat", real_data / "datumaro_assets/assets/cvat_dataset/for_video")


def test_recognise() -> None:
    assert FORMAT.recognise("annotations.xml", document(image()).encode())
    assert not FORMAT.recognise("2007.xml", b"<annotation><folder>VOC</folder><object><name>cat</name></object></annotation>")
    assert not FORMAT.recognise("a.json", b'{"images": [], "annotations": []}')
