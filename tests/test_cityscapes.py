"""Cityscapes: things come out with what is seen of them, whether painted or drawn; stuff covers and is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as cocomask
from sources import Drawn, all_drawn, by_file_name, drawn, run_format, source_images
from test_end_to_end import read_back

from transforms.rasterize import Limits
from transforms.sources import cityscapes
from transforms.sources.cityscapes import LABELS, recognise, together

HEIGHT, WIDTH = 40, 60
PNG = b"\x89PNG\r\n\x1a\n"
NAME = "gtFine/train/ulm/ulm_000001_000019_gtFine"
IMAGE = "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png"

SKY = [[0, 0], [60, 0], [60, 40], [0, 40]]
CAR = [[5, 5], [30, 5], [30, 25], [5, 25]]
PERSON = [[20, 15], [40, 15], [40, 35], [20, 35]]
POLE = [[24, 0], [28, 0], [28, 40], [24, 40]]


def thing(label: str, polygon: Any, **fields: Any) -> dict[str, Any]:
    return {"label": label, "polygon": polygon} | fields


def polygons(*objects: Any, **fields: Any) -> str:
    return json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects} | fields)


def write(folder: Path, data: str | bytes | np.ndarray, name: str = NAME) -> Path:
    path = folder / (name + ("_instanceIds.png" if isinstance(data, np.ndarray) else "_polygons.json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, np.ndarray):
        Image.fromarray(data).save(path)
    else:
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def one(folder: Path, *objects: Any) -> Drawn:
    (source,) = source_images("cityscapes", write(folder, polygons(*objects)))
    return drawn(source)


def of_pycocotools(ring: list[list[float]]) -> np.ndarray:
    return cocomask.decode(cocomask.frPyObjects([[value for point in ring for value in point]], HEIGHT, WIDTH)[0])


def test_what_comes_later_covers_what_came_before(tmp_path: Path) -> None:
    found = one(tmp_path, thing("sky", SKY), thing("car", CAR), thing("person", PERSON), thing("pole", POLE))
    car, person, pole = map(of_pycocotools, (CAR, PERSON, POLE))
    assert found.names == ["car", "person"]
    assert np.array_equal(found.masks, [car & ~person & ~pole & 1, person & ~pole & 1])
    assert found.instances[0].box == (5, 5, 25, 30)
    assert found.rejects == {1: "DROPPED_STUFF", 4: "DROPPED_STUFF"}
    assert [instance.annotation_id for instance in found.instances] == [2, 3]


def test_a_polygon_is_drawn_as_pycocotools_draws_it(tmp_path: Path) -> None:
    ring = [[3.0, 4.0], [40.0, 8.5], [20.25, 33.0], [-4.0, 20.0]]
    assert np.array_equal(one(tmp_path, thing("rider", ring)).masks, [of_pycocotools(ring)])


def test_groups_are_crowds(tmp_path: Path) -> None:
    found = one(tmp_path, thing("cargroup", CAR), thing("car", PERSON), thing("polegroup", POLE), thing("skygroup", SKY))
    assert found.rejects == {1: "EMPTY_MASK", 2: "EMPTY_MASK", 3: "DROPPED_STUFF", 4: "DROPPED_STUFF"}
    found = one(tmp_path, thing("cargroup", CAR), thing("car", PERSON))
    assert [(name, i.is_crowd) for name, i in zip(found.names, found.instances, strict=True)] == [("car", True), ("car", False)]


def test_what_is_not_drawn_covers_nothing(tmp_path: Path) -> None:
    nothing = (thing("license plate", SKY), thing("car", SKY, deleted=1), thing("person", SKY, deleted=True))
    found = one(tmp_path, thing("car", CAR, deleted=0, id=3, date="today"), *nothing, thing("ego vehicle", POLE))
    assert np.array_equal(found.masks, [of_pycocotools(CAR) & ~of_pycocotools(POLE) & 1])
    assert found.rejects == dict.fromkeys((2, 3, 4, 5), "DROPPED_VOID")


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (thing("carr", SKY), "CATEGORY_UNKNOWN"),
        (thing("group", SKY), "CATEGORY_UNKNOWN"),
        (thing("car", SKY[:2]), "POLY_MALFORMED"),
        (thing("car", []), "POLY_MALFORMED"),
        (thing("sky", [[1.0, 2.0, 3.0]]), "POLY_MALFORMED"),
        (thing("car", [[1e6, 2.0], [3.0, 4.0], [5.0, 1.0]]), "COORD_INVALID"),
        (thing("car", [[1e308, 2.0], [3.0, 4.0], [5.0, 1.0]]), "COORD_INVALID"),
        (thing("car", [[1, 1], [2, 2]] * 60_000), "POINT_LIMIT"),
        (thing("car", [[500, 500], [520, 500], [510, 520]]), "EMPTY_MASK"),
        (thing("car", "abc"), "FIELD_INVALID"),
        (thing(None, SKY), "FIELD_INVALID"),  # type: ignore[arg-type]
        ({"label": "car"}, "FIELD_INVALID"),
        (7, "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_an_object_is_its_own(bad: Any, code: str, tmp_path: Path) -> None:
    found = one(tmp_path, thing("car", CAR), bad, thing("person", PERSON))
    assert found.rejects == {2: code}
    assert found.names == ["car", "person"]
    assert np.array_equal(found.masks[0], of_pycocotools(CAR) & ~of_pycocotools(PERSON) & 1)


@pytest.mark.parametrize(
    ("data", "code", "annotations"),
    [
        (b"", "FILE_INVALID", 0),
        (b"[" * 100_000, "FILE_INVALID", 0),
        (b'{"imgHeight": NaN, "imgWidth": 3, "objects": []}', "FILE_INVALID", 0),
        (b'{"imgHeight": 2, "imgWidth": 3}', "FILE_INVALID", 0),
        (polygons(thing("car", CAR), imgHeight="40").encode(), "FILE_INVALID", 0),
        (polygons(thing("car", CAR), imgHeight=0).encode(), "DIM_LIMIT", 1),
        (polygons(thing("car", CAR), imgHeight=1_000_000, imgWidth=1_000_000).encode(), "DIM_LIMIT", 1),
        (polygons(*[thing("car", CAR)] * (Limits().instances + 1)).encode(), "INSTANCE_LIMIT", Limits().instances + 1),
    ],
)
def test_what_is_wrong_with_a_file_is_its_images(data: bytes, code: str, annotations: int, tmp_path: Path) -> None:
    (source,) = source_images("cityscapes", write(tmp_path, data))
    assert source.problem
    assert (source.image.file_name, source.problem.code, source.annotations) == (IMAGE, code, annotations)


def test_an_image_without_objects(tmp_path: Path) -> None:
    found = one(tmp_path)
    assert (found.instances, found.rejects, found.image.height) == ((), {}, HEIGHT)


IDS = np.full((HEIGHT, WIDTH), 23, np.uint16)
IDS[:4] = 0
IDS[36:] = 1
IDS[5:20, 5:20] = 26000
IDS[8:30, 15:40] = 26001
IDS[10:12, :] = 24
IDS[20:33, 50:58] = 33012
IDS[20:22, 1:4] = 7
IDS[22:24, 1:4] = 99
IDS[24:26, 1:4] = 34001
IDS[26:28, 1:4] = 23004


def test_painted_ids(tmp_path: Path) -> None:
    found = all_drawn("cityscapes", write(tmp_path, IDS))[IMAGE]
    values = [24, 26000, 26001, 33012]
    assert np.array_equal(found.masks, np.stack([value == IDS for value in values]))
    assert found.names == ["person", "car", "car", "bicycle"]
    assert [instance.is_crowd for instance in found.instances] == [True, False, False, False]
    everything = dict(zip([1, 7, 23, 24, 99, 23004, 26000, 26001, 33012, 34001], range(1, 11), strict=True))
    assert found.rejects == {
        everything[1]: "DROPPED_VOID",
        everything[7]: "DROPPED_STUFF",
        everything[23]: "DROPPED_STUFF",
        everything[23004]: "DROPPED_STUFF",
        everything[99]: "CATEGORY_UNKNOWN",
        everything[34001]: "CATEGORY_UNKNOWN",
    }


def test_where_both_are_there_ids_are_read(tmp_path: Path) -> None:
    write(tmp_path, IDS)
    (source,) = source_images("cityscapes", write(tmp_path, polygons(thing("truck", SKY))))
    assert source.names == ("person", "car", "bicycle")


def test_a_damaged_png_is_its_images(tmp_path: Path) -> None:
    write(tmp_path, IDS)
    write(tmp_path, IDS, NAME.replace("19_", "20_"))
    (tmp_path / f"{NAME}_instanceIds.png").write_bytes(PNG)
    bad, good = source_images("cityscapes", tmp_path)
    assert bad.problem
    assert (bad.image.file_name, bad.problem.code) == (IMAGE, "MASK_INVALID")
    assert (good.problem, len(good.image.instances)) == (None, 4)
    (bad, _) = source_images("cityscapes", tmp_path, max_pixels=100)
    assert bad.problem


@pytest.mark.parametrize(
    ("given", "images", "expected"),
    [
        ("", "", IMAGE),
        ("", "leftImg8bit", IMAGE.removeprefix("leftImg8bit/")),
        ("gtFine", "leftImg8bit", IMAGE.removeprefix("leftImg8bit/")),
        ("gtFine/train", "leftImg8bit/train", IMAGE.removeprefix("leftImg8bit/train/")),
        ("gtFine/train/ulm", "elsewhere", "ulm_000001_000019_leftImg8bit.png"),
    ],
)
def test_where_the_image_lies(given: str, images: str, expected: str, tmp_path: Path) -> None:
    write(tmp_path, IDS)
    (source,) = source_images("cityscapes", tmp_path / given, tmp_path / images)
    assert source.image.file_name == expected


def test_coarse_annotations(tmp_path: Path) -> None:
    (source,) = source_images("cityscapes", write(tmp_path, polygons(thing("car", CAR)), NAME.replace("gtFine", "gtCoarse")))
    assert (source.image.file_name, source.names) == (IMAGE, ("car",))


def test_a_file_of_another_name(tmp_path: Path) -> None:
    (source,) = source_images("cityscapes", write(tmp_path, polygons(), "ulm"))
    assert source.problem
    assert source.problem.code == "FILE_INVALID"


def test_labels() -> None:
    assert [LABELS.index(name) for name in ("unlabeled", "road", "building", "sky", "person", "bicycle")] == [
        0,
        7,
        11,
        23,
        24,
        33,
    ]
    assert len(cityscapes.THINGS) == 10


def test_the_files_of_an_image_are_one_piece() -> None:
    assert together(f"gs://b/{NAME}_polygons.json") == together(f"gs://b/{NAME}_instanceIds.png")
    assert together(f"/d/{NAME}_polygons.json") != together(f"/d/{NAME}_polygons.json".replace("19_", "20_"))
    assert together("/d/a.json") == "/d/a.json"


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        (f"/d/{NAME}_polygons.json", polygons().encode(), True),
        (f"/d/{NAME}_instanceIds.png", PNG, True),
        (f"/d/{NAME}_instanceIds.png", b"{}", False),
        (f"/d/{NAME}_labelIds.png", PNG, False),
        (f"/d/{NAME}_polygons.json", b'{"shapes": [], "imageHeight": 3}', False),
        ("/d/a.json", polygons().encode(), False),
        ("/d/masks/a.png", PNG, False),
    ],
)
def test_recognise(path: str, data: bytes, expected: bool) -> None:
    assert (recognise(path, data) is not None) is expected


def test_drawn_and_painted_differ_by_outlines(tmp_path: Path) -> None:
    """How far polygons are from what cityscapesScripts paints of them, which is what it evaluates; docs/formats/cityscapes.md."""
    random = np.random.default_rng(7)
    height, width = 512, 1024
    objects = [thing("sky", [[0, 0], [width, 0], [width, height], [0, height]])]
    painted = Image.new("I", (width, height), LABELS.index("sky"))
    for number in range(40):
        turns = np.sort(random.uniform(0, 2 * np.pi, 24))
        x, y = random.uniform(0, (width, height))
        radii = random.uniform(15, 60, 24)
        ring = np.rint(np.stack([x + radii * np.cos(turns), y + radii * np.sin(turns)], axis=1)).astype(int).tolist()
        objects.append(thing("car", ring))
        ImageDraw.Draw(painted).polygon([tuple(point) for point in ring], fill=26000 + number)
    ids = np.asarray(painted)
    write(tmp_path, polygons(*objects, imgHeight=height, imgWidth=width))
    found = all_drawn("cityscapes", tmp_path)[IMAGE]
    more = less = pixels = 0
    for mask, number in zip(found.masks, [i.annotation_id - 2 for i in found.instances], strict=True):
        other = (ids == 26000 + number).astype(np.uint8)
        more += int((other & ~mask & 1).sum())
        less += int((mask & ~other & 1).sum())
        pixels += int(mask.sum())
    assert more < 0.06 * pixels
    assert less < 0.03 * pixels


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            "train_dataset",
            {
                "val/defaultcity/defaultcity_000001_000019": [],
                "test/defaultcity/defaultcity_000001_000031": [(b"truck", 0, [0, 0, 1, 0, 0]), (b"truck", 0, [0, 0, 0, 1, 1])],
                "test/defaultcity/defaultcity_000001_000032": [(b"train", 0, [1, 1, 0, 0, 0])],
                "train/defaultcity/defaultcity_000002_000045": [(b"person", 0, [0, 0, 1, 0, 0])],
            },
        ),
        (
            "dataset",
            {
                "val/defaultcity/defaultcity_000001_000019": [],
                "test/defaultcity/defaultcity_000001_000031": [(b"truck", 1, [0, 0, 1, 1, 1])],
                "test/defaultcity/defaultcity_000001_000032": [(b"train", 1, [1, 1, 0, 0, 0])],
                "train/defaultcity/defaultcity_000002_000045": [(b"person", 1, [0, 0, 1, 0, 0])],
            },
        ),
    ],
)
def test_the_fixtures_of_datumaro(part: str, expected: dict[str, Any], real_data: Path, tmp_path: Path) -> None:
    given = real_data / "datumaro_assets/assets/cityscapes_dataset" / part
    manifest = run_format("cityscapes", given / "gtFine", given / "leftImg8bit", tmp_path / "out")
    things = sum(map(len, expected.values()))
    assert manifest["images"] == {"read": 4, "written": 4, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": things + 6, "written": things, "rejected": 0, "dropped": 6}
    assert manifest["reasons"]["annotation"] == {"DROPPED_STUFF": 1, "DROPPED_VOID": 5}
    found = {}
    for name, record in by_file_name(read_back(tmp_path / "out")).items():
        masks = [mask[0].tolist() for mask in record["masks"]]
        things_of = zip(record["image/object/class/text"], record["image/object/is_crowd"], masks, strict=True)
        found[name.removesuffix("_leftImg8bit.png")] = list(things_of)
    assert found == expected
