"""VIA: every kind of file and shape, and the class from whichever attribute holds it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as cocomask
from sources import Drawn, all_drawn, by_file_name, run_format, source_images
from test_end_to_end import read_back

from transforms.records import InputError
from transforms.sources import via
from transforms.sources.via import FORMAT

HEIGHT, WIDTH = 40, 60
TRIANGLE = [3, 4, 40, 8, 20, 33]
OTHER = [45, 20, 58, 22, 50, 38]

Region = dict[str, Any]


def region(kind: str, name: Any = "cat", **shape: Any) -> Region:
    attributes = {} if name is None else {"class": name}
    return {"shape_attributes": {"name": kind} | shape, "region_attributes": attributes}


def polygon(ring: list[float], name: Any = "cat", **attributes: Any) -> Region:
    found = region("polygon", name, all_points_x=ring[0::2], all_points_y=ring[1::2])
    found["region_attributes"].update(attributes)
    return found


def entry(*regions: Any, name: str = "one.jpg") -> dict[str, Any]:
    return {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}


def as_json(*entries: dict[str, Any]) -> str:
    return json.dumps({f"{one.get('filename')}123-{place}": one for place, one in enumerate(entries)})


def as_project(*entries: dict[str, Any]) -> str:
    settings = {"ui": {}, "core": {"default_filepath": ""}, "project": {"name": "x"}}
    metadata = {"_via_settings": settings, "_via_img_metadata": json.loads(as_json(*entries)), "_via_attributes": {}}
    return json.dumps(metadata)


def as_first_version(*entries: dict[str, Any]) -> str:
    changed = [one | {"regions": {str(at): value for at, value in enumerate(one["regions"])}, "fileref": ""} for one in entries]
    return as_json(*changed)


def as_csv(*entries: dict[str, Any]) -> str:
    lines = ["filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"]
    for one in entries:
        regions = one["regions"] or [{"shape_attributes": {}, "region_attributes": {}}]
        for at, found in enumerate(regions):
            cells = [json.dumps(found[key]).replace('"', '""') for key in ("shape_attributes", "region_attributes")]
            lines.append(f'{one["filename"]},123,"{{}}",{len(one["regions"])},{at},"{cells[0]}","{cells[1]}"')
    return "\n".join(lines)


def folder_of(tmp_path: Path, text: str | bytes, *names: str) -> Path:
    (tmp_path / "via.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name in names or ("one.jpg",):
        Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 60)).save(tmp_path / name)
    return tmp_path


def one(tmp_path: Path, *regions: Any, **options: Any) -> Drawn:
    (found,) = all_drawn("via", folder_of(tmp_path, as_json(entry(*regions))), **options).values()
    return found


def of_pycocotools(*rings: list[float]) -> np.ndarray:
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects([list(map(float, ring)) for ring in rings], HEIGHT, WIDTH)))


@pytest.mark.parametrize("write", [as_json, as_project, as_first_version, as_csv])
def test_every_kind_of_file_says_the_same(write: Any, tmp_path: Path) -> None:
    text = write(entry(polygon(TRIANGLE), polygon(OTHER, "dög")), entry(name="two.jpg"))
    found = all_drawn("via", folder_of(tmp_path, "\ufeff" + text, "one.jpg", "two.jpg"))
    assert found["one.jpg"].names == ["cat", "dög"]
    assert np.array_equal(found["one.jpg"].masks, [of_pycocotools(TRIANGLE), of_pycocotools(OTHER)])
    assert found["two.jpg"].source.annotations == 0


def test_rows_of_an_image_need_not_lie_together(tmp_path: Path) -> None:
    text = as_csv(entry(polygon(TRIANGLE)), entry(polygon(OTHER), name="two.jpg"), entry(polygon(OTHER, "dog")))
    found = all_drawn("via", folder_of(tmp_path, "#" + text, "one.jpg", "two.jpg"))
    assert {name: drawn.names for name, drawn in found.items()} == {"one.jpg": ["cat", "dog"], "two.jpg": ["cat"]}


def test_a_rectangle_is_what_it_encloses(tmp_path: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:20, 10:30] = 1
    assert np.array_equal(one(tmp_path, region("rect", x=10, y=5, width=20, height=15)).masks, [expected])


def test_circles_and_ellipses_are_round(tmp_path: Path) -> None:
    angle = math.radians(30)
    round_one, turned = one(
        tmp_path, region("circle", cx=30, cy=20, r=15), region("ellipse", cx=30, cy=20, rx=18, ry=6, theta=angle)
    ).masks
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    along, across = (
        (x - 30) * math.cos(angle) + (y - 20) * math.sin(angle),
        (y - 20) * math.cos(angle) - (x - 30) * math.sin(angle),
    )
    for mask, distance in ((round_one, np.hypot(x - 30, y - 20) / 15), (turned, np.hypot(along / 18, across / 6))):
        assert mask[distance < 0.85].all()
        assert not mask[distance > 1.2].any()


@pytest.mark.parametrize(
    ("regions", "option", "names", "rejects"),
    [
        ((polygon(TRIANGLE, None), polygon(OTHER, None)), None, ["object", "object"], {}),  # no attributes at all
        ((polygon(TRIANGLE, None), polygon(OTHER, "dog")), None, ["dog"], {1: "FIELD_INVALID"}),
        ((polygon(TRIANGLE, "cat", size="big"), polygon(OTHER)), None, [], {1: "FIELD_INVALID", 2: "FIELD_INVALID"}),
        ((polygon(TRIANGLE, "cat", size="big"), polygon(OTHER)), "class", ["cat", "cat"], {}),
        ((polygon(TRIANGLE, "cat", size="big"), polygon(OTHER)), "size", ["big"], {2: "FIELD_INVALID"}),
        ((polygon(TRIANGLE, None),), "class", [], {1: "FIELD_INVALID"}),
        ((polygon(TRIANGLE, {"cat": True}), polygon(OTHER, {"cat": False, "dog": True})), None, ["cat", "dog"], {}),
        ((polygon(TRIANGLE, {}), polygon(OTHER, {"a": True, "b": True})), None, [], {1: "FIELD_INVALID", 2: "FIELD_INVALID"}),
        ((polygon(TRIANGLE, 7), polygon(OTHER, 1.5)), None, ["7"], {2: "FIELD_INVALID"}),
        ((polygon(TRIANGLE, ""), polygon(OTHER, {"a": "true"})), None, [], {1: "FIELD_INVALID", 2: "FIELD_INVALID"}),
    ],
)
def test_the_class_is_an_attribute(
    regions: Any, option: str | None, names: list[str], rejects: dict[int, str], tmp_path: Path
) -> None:
    found = one(tmp_path, *regions, class_attribute=option)
    assert found.names == names
    assert found.rejects == rejects


def test_several_attributes_are_named(tmp_path: Path) -> None:
    found = one(tmp_path, polygon(TRIANGLE, "cat", size="big"))
    ((_, why),) = found.source.rejects
    assert "class, size" in why.message
    assert "--class_attribute" in why.message


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (region("polyline", all_points_x=[1, 2], all_points_y=[1, 2]), "SHAPE_UNSUPPORTED"),
        (region("point", cx=1, cy=2), "SHAPE_UNSUPPORTED"),
        (region("polygon", all_points_x=[1, 2, 3], all_points_y=[1, 2]), "POLY_MALFORMED"),
        (polygon(TRIANGLE[:4]), "POLY_MALFORMED"),
        (polygon([]), "POLY_MALFORMED"),
        (polygon([1e30, 2, 3, 4, 5, 1]), "COORD_INVALID"),
        (polygon([100, 100, 120, 100, 110, 120]), "EMPTY_MASK"),
        (region("polygon", all_points_x=[1, 2, 3]), "FIELD_INVALID"),
        (region("polygon", all_points_x=[1, 2, "x"], all_points_y=[1, 2, 3]), "FIELD_INVALID"),
        (region("rect", x=1, y=2, width=3), "FIELD_INVALID"),
        (region("rect", x=1, y=2, width=0, height=4), "EMPTY_MASK"),
        (region("circle", cx=1, cy=2, r=1e300), "COORD_INVALID"),
        (region("circle", cx=1, cy=2), "FIELD_INVALID"),
        (region("ellipse", cx=1, cy=2, rx=1e300, ry=3, theta=1e300), "COORD_INVALID"),
        (region("ellipse", cx=1, cy=2, rx=3), "FIELD_INVALID"),
        ({"shape_attributes": {}, "region_attributes": {"class": "cat"}}, "FIELD_INVALID"),
        ({"shape_attributes": {"name": "polygon"}, "region_attributes": 5}, "FIELD_INVALID"),
        ({"region_attributes": {"class": "cat"}}, "FIELD_INVALID"),
        (5, "FIELD_INVALID"),
    ],
)
def test_what_is_wrong_with_a_region_is_its_own(bad: Any, code: str, tmp_path: Path) -> None:
    found = one(tmp_path, polygon(TRIANGLE), bad, polygon(OTHER, "dog"))
    assert found.rejects == {2: code}
    assert found.names == ["cat", "dog"]
    assert [instance.annotation_id for instance in found.instances] == [1, 3]


def test_what_is_wrong_with_a_row_is_its_own(tmp_path: Path) -> None:
    first, *rows = as_csv(entry(polygon(TRIANGLE), polygon(OTHER, "dog"))).split("\n")
    bad = ['one.jpg,123,"{}",4,2,"{broken","{}"', 'one.jpg,123,"{}",4,3,"3","{}"', 'one.jpg,123,"{}",4,3,"{""name"": ""rect""}"']
    (found,) = all_drawn("via", folder_of(tmp_path, "\r\n".join([first, rows[0], *bad, rows[1]]))).values()
    assert found.rejects == {2: "FIELD_INVALID", 3: "FIELD_INVALID", 4: "FIELD_INVALID"}
    assert found.names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"size": 3, "regions": []}, "FILE_INVALID"),
        ({"filename": "one.jpg", "regions": 5}, "FILE_INVALID"),
        (entry(polygon(TRIANGLE), name=""), "FILE_INVALID"),
        (entry(polygon(TRIANGLE), name="."), "IMAGE_MISSING"),
        (entry(polygon(TRIANGLE), name="gone.jpg"), "IMAGE_MISSING"),
        (entry(polygon(TRIANGLE), name="via.json"), "IMAGE_CORRUPT"),
        (entry(polygon(TRIANGLE), name="../../etc/passwd"), "PATH_FORBIDDEN"),
        (entry(polygon(TRIANGLE), name="large.jpg"), "DIM_LIMIT"),
    ],
)
def test_what_is_wrong_with_an_image_is_its_own(bad: dict[str, Any], code: str, tmp_path: Path) -> None:
    text = as_json(entry(polygon(TRIANGLE)), bad, entry(polygon(TRIANGLE), name="two.jpg"))
    folder_of(tmp_path, text, "one.jpg", "two.jpg")
    Image.new("L", (100, 100)).save(tmp_path / "large.jpg")
    found = source_images("via", tmp_path, max_pixels=5000)
    assert [one.problem.code if one.problem else None for one in found] == [None, code, None]


@pytest.mark.parametrize(
    ("name", "there", "expected"),
    [
        ("a.jpg", "train/a.jpg", "train/a.jpg"),
        ("a.jpg", "a.jpg", "a.jpg"),
        ("sub/a.jpg", "sub/a.jpg", "sub/a.jpg"),
        ("https://example.com/x/a%20b.jpg?size=2", "train/a b.jpg", "train/a b.jpg"),
        ("http://[/a.jpg", "a.jpg", "a.jpg"),
    ],
)
def test_the_image_lies_beside_its_file_or_in_the_folder(name: str, there: str, expected: str, tmp_path: Path) -> None:
    for folder in ("images/sub", "images/train", "annotations/train"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "annotations/train/via.json").write_text(as_json(entry(polygon(TRIANGLE), name=name)))
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / there)
    (found,) = all_drawn("via", tmp_path / "annotations", tmp_path / "images").values()
    assert found.image.file_name == expected


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "FILE_INVALID: .*expected VIA's JSON, or its CSV"),
        (b"{", "JSON_INVALID"),
        (b"[]", "JSON_INVALID"),
        (b'{"a":' * 100_000, "JSON_INVALID"),
        (b'{"_via_img_metadata": 5}', "JSON_INVALID"),
        (b'{"images": [], "annotations": [], "categories": []}', "JSON_INVALID: .*found images, annotations, categories"),
        (b'{"project": {}, "config": {}, "attribute": {}, "file": {}, "metadata": {}}', "VIA 3"),
        (b"filename,region_attributes\na.jpg,{}", "the column region_shape_attributes"),
        (as_csv(entry(polygon(TRIANGLE))).encode() + b"\xff", "not UTF-8"),
    ],
)
def test_a_file_that_is_none_says_so(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        source_images("via", folder_of(tmp_path, data))


def test_a_field_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv.field_size_limit()
    monkeypatch.setattr(via, "MAX_FIELD_BYTES", 1000)
    try:
        with pytest.raises(InputError, match=r"FILE_INVALID: .*field larger"):
            source_images("via", folder_of(tmp_path, as_csv(entry(polygon(list(range(1000)))))))
    finally:
        csv.field_size_limit(before)


def test_many_entries_come_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(via, "BLOCK_BYTES", 1000)
    names = [f"{n}.jpg" for n in range(20)]
    folder = folder_of(tmp_path, as_json(*(entry(polygon(TRIANGLE), name=name) for name in names)), *names)
    assert 3 < len(list(via.cut_entries(str(folder / "via.json")))) < 12
    assert [one.image.file_name for one in source_images("via", folder)] == names


def test_a_whole_run(tmp_path: Path) -> None:
    for name in ("annotations", "images"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 60)).save(tmp_path / "images/one.jpg")
    Image.new("RGB", (WIDTH, HEIGHT), (20, 30, 60)).save(tmp_path / "images/two.jpg")
    (tmp_path / "annotations/a.json").write_text(as_project(entry(polygon(TRIANGLE), polygon(OTHER, "dog", size="big"))))
    (tmp_path / "annotations/b.csv").write_text(as_csv(entry(polygon(OTHER, "bird"), name="two.jpg")))
    output = tmp_path / "out"
    manifest = run_format("via", tmp_path / "annotations", tmp_path / "images", output, class_attribute="class")
    assert manifest["images"] == {"read": 2, "written": 2, "rejected": 0, "dropped": 0}
    assert manifest["annotations"] == {"read": 3, "written": 3, "rejected": 0, "dropped": 0}
    records = by_file_name(read_back(output))
    assert np.array_equal(records["one.jpg"]["masks"], [of_pycocotools(TRIANGLE), of_pycocotools(OTHER)])
    assert records["two.jpg"]["image/object/class/text"].tolist() == [b"bird"]
    assert records["one.jpg"]["image/object/class/label"].tolist() == [2, 3]


def test_recognise() -> None:
    for write in (as_json, as_project, as_first_version, as_csv):
        assert FORMAT.recognise("a", write(entry(polygon(TRIANGLE))).encode())
    assert not FORMAT.recognise("a.json", b'{"images": [], "annotations": [], "categories": []}')
    assert not FORMAT.recognise("a.csv", b"ImageID,Source,LabelName,Confidence\n")
    assert not FORMAT.recognise("a.json", b'{"shapes": [], "imagePath": "a.jpg"}')
