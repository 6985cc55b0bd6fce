"""Label Studio: percent become pixels as its converter has them, brush masks are exact, and no run lengths are trusted."""

from __future__ import annotations

import json
import math
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as cocomask
from sources import Drawn, by_file_name, drawn, parse_text, run_format, source_images
from test_end_to_end import read_back

from transforms import storage
from transforms.images import ImageFolder
from transforms.records import InputError, Problem
from transforms.sources.image_names import is_there
from transforms.sources.label_studio import FORMAT, cut_tasks, decode_rle

HEIGHT, WIDTH = 40, 60
TRIANGLE = [[5.0, 10.0], [70.0, 21.25], [33.75, 82.5]]
OTHER = [[75.0, 50.0], [96.0, 55.0], [80.0, 95.0]]


class Bits:
    """Writes numbers of so many bits, the highest bit first."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, number: int, bits: int) -> None:
        self.texts.append(f"{number:0{bits}b}")

    def bytes(self) -> list[int]:
        text = "".join(self.texts)
        text += "0" * (-len(text) % 8)
        return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def rle(mask: np.ndarray, single: bool = False, count: int | None = None, word: int = 8) -> list[int]:
    """A mask's values as red, green, blue and alpha; runs as long as can be, or `single` values."""
    sizes = (3, 4, 8, 16)
    flat = np.repeat(mask.astype(np.uint8).ravel(), 4)
    bits = Bits()
    bits.add(flat.size if count is None else count, 32)
    bits.add(word - 1, 5)
    for size in sizes:
        bits.add(size - 1, 4)
    if single:
        for start in range(0, flat.size, 13):
            some = flat[start : start + 13]
            bits.add(0b001, 3)
            bits.add(len(some) - 1, 4)
            for value in some:
                bits.add(int(value), 8)
        return bits.bytes()
    starts = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    for start, stop in pairwise(starts):
        index = next(at for at, size in enumerate(sizes) if stop - start <= 1 << size)
        bits.add(4 + index, 3)
        bits.add(stop - start - 1, sizes[index])
        bits.add(int(flat[start]), 8)
    return bits.bytes()


def result(kind: str, labels: list[str] | None = None, size: bool = True, **value: Any) -> dict[str, Any]:
    labels = ["cat"] if labels is None else labels
    sizes = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0} if size else {}
    return {"from_name": "label", "to_name": "image", "type": kind, "value": value | {kind: labels}, "origin": "manual"} | sizes


def shape(points: list[list[float]], *labels: str, **fields: Any) -> dict[str, Any]:
    return result("polygonlabels", list(labels or ("cat",)), points=points, closed=True) | fields


def task(*results: Any, image: Any = "/data/upload/1/one.jpg", **fields: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, "annotations": [{"id": 2, "result": results, "was_cancelled": False}]} | fields


def one(*results: Any) -> Drawn:
    (source,) = parse_text("label_studio", json.dumps([task(*results)]))
    return drawn(source)


def of_pycocotools(*rings: list[list[float]]) -> np.ndarray:
    flat = [[value * side / 100 for point in ring for value, side in zip(point, (WIDTH, HEIGHT), strict=True)] for ring in rings]
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects(flat, HEIGHT, WIDTH)))


def test_a_polygon_is_drawn_as_pycocotools_draws_it() -> None:
    found = one(shape(TRIANGLE), shape(OTHER, "dog", "cat"), shape(TRIANGLE, "dog"))
    assert found.image.file_name == "one.jpg"
    assert found.names == ["cat", "dog", "dog"]  # of two labels, the first
    assert np.array_equal(found.masks, [of_pycocotools(TRIANGLE), of_pycocotools(OTHER), of_pycocotools(TRIANGLE)])


def test_a_rectangle_is_only_a_box() -> None:
    found = one(result("rectanglelabels", x=10, y=25, width=50, height=50, rotation=0))
    assert found.instances[0].shape is None
    assert found.instances[0].box == pytest.approx((10, 6, 30, 36))


def test_a_turned_rectangle_is_drawn() -> None:
    # 30 × 10 pixels, by 90° clockwise around 30, 5: from there to the left and down.
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:35, 20:30] = 1
    found = one(result("rectanglelabels", x=50, y=12.5, width=50, height=25, rotation=90))
    assert np.array_equal(found.masks, [expected])


def test_an_ellipse_is_turned_clockwise_around_its_centre() -> None:
    (mask,) = one(result("ellipselabels", x=50, y=50, radiusX=30, radiusY=15, rotation=30)).masks
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
    along, across = (x - 30) * cosine + (y - 20) * sine, (y - 20) * cosine - (x - 30) * sine
    assert mask[np.hypot(along / 17, across / 5) < 1].all()
    assert not mask[np.hypot(along / 19, across / 7) > 1].any()


@pytest.mark.parametrize("single", [False, True])
def test_a_brush_mask_is_exact(single: bool) -> None:
    random = np.random.default_rng(1)
    noise = random.integers(0, 2, (HEIGHT, WIDTH)) * random.integers(1, 256, (HEIGHT, WIDTH))
    blob = np.zeros((HEIGHT, WIDTH), int)
    blob[5:30, 10:58] = 255
    blob[10:20, 20:30] = 0  # what was erased
    masks = [noise, blob, np.full((HEIGHT, WIDTH), 7)]
    found = one(*(result("brushlabels", format="rle", rle=rle(mask, single)) for mask in masks))
    assert np.array_equal(found.masks, np.array(masks) > 0)


def test_only_alpha_counts() -> None:
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[5:20, 3:] = (9, 0, 9, 1)
    pixels[..., :3] += 1
    bits = Bits()
    bits.add(pixels.size, 32)
    bits.add(7, 5)
    for _ in range(4):
        bits.add(15, 4)
    values = pixels.ravel()
    for start, stop in pairwise([0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), values.size]):
        bits.add(0b111, 3)
        bits.add(stop - start - 1, 16)
        bits.add(int(values[start]), 8)
    found = decode_rle(bytes(bits.bytes()), 30 * 40)
    assert not isinstance(found, Problem)
    assert np.array_equal(np.repeat(*found), pixels[..., 3].ravel())


def test_labels_may_come_apart_from_their_shape() -> None:
    points = {"points": TRIANGLE}
    apart = shape([], id="a") | {"type": "polygon", "value": points}
    label = shape([], id="a") | {"type": "labels", "value": points | {"labels": ["dog"]}}
    said = shape([], id="a") | {"type": "choices", "value": points | {"choices": ["unsure"]}}
    found = one(apart, label, said, shape(OTHER, id="b"))
    assert found.names == ["dog", "cat"]
    assert found.source.annotations == 2
    assert one(label).names == ["dog"]
    assert one(label | {"value": {"labels": ["dog"]}}, apart).names == ["dog"]


def test_what_is_no_object_is_left_out() -> None:
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"}
    text = result("textarea") | {"value": {"text": ["hello"]}}
    assert one(relation, shape(TRIANGLE), text).source.annotations == 1


def brush(numbers: Any) -> dict[str, Any]:
    return result("brushlabels", format="rle", rle=numbers)


FULL = rle(np.ones((HEIGHT, WIDTH)))


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (result("keypointlabels", x=3, y=4, width=1), "SHAPE_UNSUPPORTED"),
        (result("vectorlabels", vertices=[]), "SHAPE_UNSUPPORTED"),
        (result("labels", start=3, end=4), "SHAPE_UNSUPPORTED"),
        (shape(TRIANGLE, image_rotation=90), "SHAPE_UNSUPPORTED"),
        (shape(TRIANGLE[:2]), "POLY_MALFORMED"),
        (shape([[1.0, 2.0, 3.0]]), "POLY_MALFORMED"),
        (shape([]), "POLY_MALFORMED"),
        (shape([[1e30, 2.0], [3.0, 4.0], [5.0, 1.0]]), "COORD_INVALID"),
        (shape([[500.0, 500.0], [520.0, 500.0], [510.0, 520.0]]), "EMPTY_MASK"),
        (shape("abc"), "FIELD_INVALID"),  # type: ignore[arg-type]
        (result("polygonlabels"), "FIELD_INVALID"),
        (result("brushlabels"), "FIELD_INVALID"),
        (result("polygonlabels", [], points=TRIANGLE), "FIELD_INVALID"),
        (result("polygonlabels", [7], points=TRIANGLE), "FIELD_INVALID"),  # type: ignore[list-item]
        (result("rectanglelabels", x=1, y=2, width=3), "FIELD_INVALID"),
        (result("rectanglelabels", x=1, y=2, width=3, height="4"), "FIELD_INVALID"),
        (result("rectanglelabels", x=1, y=2, width=0, height=4), "BOX_INVALID"),
        (result("rectanglelabels", x=1e300, y=2, width=3, height=4), "COORD_INVALID"),
        (result("rectanglelabels", x=1, y=2, width=1e300, height=4, rotation=4), "COORD_INVALID"),
        (result("ellipselabels", x=1, y=2, radiusX=1e300, radiusY=4, rotation=4), "COORD_INVALID"),
        (result("ellipselabels", x=1, y=2, radiusX=3), "FIELD_INVALID"),
        (brush(FULL[:6]), "RLE_MALFORMED"),
        (brush(FULL[:-1]), "RLE_MALFORMED"),
        (brush([*FULL[:-1], 256]), "RLE_MALFORMED"),
        (brush([*FULL[:-1], -1]), "RLE_MALFORMED"),
        (brush("abc"), "RLE_MALFORMED"),
        (brush(rle(np.ones((HEIGHT, WIDTH)), single=True)[:-40]), "RLE_MALFORMED"),
        (brush(rle(np.ones((HEIGHT, WIDTH)), word=16)), "RLE_MALFORMED"),
        (brush(rle(np.ones((HEIGHT + 1, WIDTH)), count=4 * HEIGHT * WIDTH)), "RLE_MALFORMED"),
        (brush(rle(np.ones((WIDTH, WIDTH)))), "RLE_SIZE_MISMATCH"),
        (brush(rle(np.ones((HEIGHT, WIDTH)), count=2**32 - 1)), "RLE_SIZE_MISMATCH"),
        (brush(rle(np.zeros((HEIGHT, WIDTH)))), "EMPTY_MASK"),
        ({"type": 3}, "FIELD_INVALID"),
        ("abc", "FIELD_INVALID"),
        (None, "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_a_region_is_its_own(bad: Any, code: str) -> None:
    found = one(shape(TRIANGLE), bad, shape(TRIANGLE, "dog"))
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]
    assert [instance.annotation_id for instance in found.instances] == [1, 3]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (5, "FILE_INVALID"),
        ({"id": 1, "image": "a.jpg", "label": []}, "FILE_INVALID"),  # JSON-MIN
        (task(data={"text": "hello"}), "FILE_INVALID"),
        (task(data={"a": "a.jpg", "b": "b.jpg"}), "FILE_INVALID"),
        (task(image=5), "FILE_INVALID"),
        (task(image=""), "FILE_INVALID"),
        (task(image="http://[/a.jpg"), "FILE_INVALID"),
        (task(annotations=[{"result": 5}]), "FILE_INVALID"),
        (task(image="gone.jpg"), "IMAGE_MISSING"),
        (task(shape(TRIANGLE, original_height=10**6, original_width=10**6)), "DIM_LIMIT"),
        (task(shape(TRIANGLE, original_height=-5)), "DIM_LIMIT"),
    ],
)
def test_what_is_wrong_with_a_task_is_its_own(bad: Any, code: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_text(json.dumps([task(shape(TRIANGLE)), bad, task(shape(OTHER))]))
    found = source_images("label_studio", tmp_path)
    assert [one.problem.code if one.problem else None for one in found] == [None, code, None]


def test_the_first_annotation_that_was_not_cancelled_is_taken() -> None:
    def annotation(cancelled: bool | None, *results: Any) -> dict[str, Any]:
        return {"result": results, "was_cancelled": cancelled}

    cancelled, first = annotation(True, shape(OTHER)), annotation(None, shape(TRIANGLE))
    tasks = [
        task(annotations=[cancelled, first, annotation(False, shape(OTHER, "dog"))], predictions=[first]),
        task(annotations=[cancelled]),
        task(annotations=[]),
    ]
    (source,) = parse_text("label_studio", json.dumps(tasks))  # what nobody has annotated is not seen
    assert np.array_equal(drawn(source).masks, [of_pycocotools(TRIANGLE)])


@pytest.mark.parametrize(
    ("image", "there", "expected"),
    [
        ("/data/upload/1/1a2b3c4d-a.jpg", "1a2b3c4d-a.jpg", "1a2b3c4d-a.jpg"),
        ("/data/upload/1/1a2b3c4d-a.jpg", "a.jpg", "a.jpg"),
        ("/data/upload/1/1a2b3c4d-a.jpg", "b.jpg", "1a2b3c4d-a.jpg"),
        ("/data/upload/1/1a2b3c4d-a.jpg", "upload/1/1a2b3c4d-a.jpg", "upload/1/1a2b3c4d-a.jpg"),
        ("/data/local-files/?d=dir/sub%20one/a.jpg", "sub one/a.jpg", "sub one/a.jpg"),
        ("/data/local-files/?d=dir/sub/a.jpg", "a.jpg", "a.jpg"),
        ("s3://bucket/dir/a#1.jpg", "dir/a#1.jpg", "dir/a#1.jpg"),
        ("gs://bucket/dir/a.jpg", "a.jpg", "a.jpg"),
        ("https://example.com/dir/a%C3%BC.jpg?size=3#x", "aü.jpg", "aü.jpg"),
        ("images\\a.jpg", "a.jpg", "a.jpg"),
        ("../../a.jpg", "a.jpg", "a.jpg"),
        ("/image2", "e97d4735-b.jpg", "e97d4735-b.jpg"),  # the name that it was uploaded by
    ],
)
def test_the_image_is_found(image: str, there: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_bytes(b"")
    given = json.dumps([task(shape(TRIANGLE), image=image, file_upload="e97d4735-b.jpg")])
    (source,) = parse_text("label_studio", given, images=str(tmp_path))
    assert source.image.file_name == expected


@pytest.mark.parametrize("local", [True, False])
def test_what_is_there_lies_in_the_image_folder(local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []

    def list_folder(folder: str) -> list[storage.StoredFile]:
        listed.append(folder)
        return [storage.StoredFile(str(path), 0) for path in Path(folder).iterdir() if path.is_file()]

    (tmp_path / "images/sub").mkdir(parents=True)
    for name in ("a.jpg", "images/a.jpg", "images/sub/b.jpg"):
        (tmp_path / name).write_bytes(b"")
    folder = ImageFolder(str(tmp_path / "images"))
    monkeypatch.setattr(storage, "is_local", lambda path: local)
    monkeypatch.setattr(storage, "list_folder", list_folder)
    names = ("a.jpg", "sub/b.jpg", "b.jpg", "sub/a.jpg", "../a.jpg", "", ".", "/")
    assert [name for name in names if is_there(folder, name)] == ["a.jpg", "sub/b.jpg"]
    assert listed == ([] if local else [str(tmp_path / "images"), str(tmp_path / "images/sub")])


def test_the_image_may_have_another_name() -> None:
    (source,) = parse_text("label_studio", json.dumps([task(shape(TRIANGLE), data={"text": "x", "photo": "dir/a.JPG"})]))
    assert source.image.file_name == "a.JPG"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "expected a list"),
        (b'{"tasks": []}', "expected a list"),
        (b"[", "cut off"),
        (json.dumps([task(shape(TRIANGLE))]).encode()[:-30], "cut off"),
        (b"[" * 100_000, "nested deeper"),
        (b"[{]}]", "JSON_INVALID"),
        (b'[{"id": 1} {"id": 2}]', "JSON_INVALID"),
        (b'[{"id": NaN}]', "JSON_INVALID"),
    ],
)
def test_a_file_that_is_none_says_so(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.json").write_bytes(data)
    with pytest.raises(InputError, match=says) as error:
        source_images("label_studio", tmp_path)
    assert str(error.value).startswith(f"JSON_INVALID: {tmp_path}")


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    ring = [[50 + 20 * math.cos(turn), 50 + 20 * math.sin(turn)] for turn in range(300)]
    path.write_text("\ufeff " + json.dumps([task(shape(ring), image=f"{n}.jpg") for n in range(1000)], indent=1))
    assert path.stat().st_size > 12 << 20
    tracemalloc.start()
    try:
        blocks = [data.count(b'"annotations"') for data in cut_tasks(str(path))]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(blocks) == 1000
    assert len(blocks) > 10
    assert peak < 9 << 20
    assert [one.image.file_name for one in source_images("label_studio", path)] == [f"{n}.jpg" for n in range(1000)]


def test_a_whole_run(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("1a2b3c4d-one.jpg", "empty.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 60)).save(tmp_path / "images" / name)
    blob = np.zeros((HEIGHT, WIDTH), np.uint8)
    blob[5:30, 10:58] = 255
    results = (shape(TRIANGLE), brush(rle(blob)) | {"id": "x"}, result("rectanglelabels", ["dog"], x=1, y=2, width=30, height=40))
    tasks = [task(*results, image="/data/upload/3/1a2b3c4d-one.jpg"), task(image="/data/upload/3/empty.png")]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    manifest = run_format("label_studio", tmp_path / "tasks.json", tmp_path / "images", tmp_path / "out")
    assert manifest["images"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 3, "written": 3, "rejected": 0, "dropped": 0}
    records = by_file_name(read_back(tmp_path / "out"))
    assert np.array_equal(records["1a2b3c4d-one.jpg"]["masks"][:2], [of_pycocotools(TRIANGLE), blob > 0])
    assert records["1a2b3c4d-one.jpg"]["image/object/mask/weight"].tolist() == [1, 1, 0]
    assert len(records["empty.png"]["masks"]) == 0


def test_recognise() -> None:
    assert FORMAT.recognise("a.json", json.dumps([task(shape(TRIANGLE))]).encode())
    assert not FORMAT.recognise("a.json", b'{"images": [], "annotations": [], "categories": []}')
    assert not FORMAT.recognise("a.json", b'[{"id": 1, "label": []}]')
