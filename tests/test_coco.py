"""COCO: what each element becomes, how images and annotations meet, and the whole transform on small files."""

from __future__ import annotations

import json
import math
import pickle
import random
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from uuid import uuid4

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from conftest import parse_annotation
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import coders, run_lengths
from transforms.batches import BatchWriter, read_batch
from transforms.rasterize import rasterize
from transforms.records import (
    AnnotatedImage,
    Category,
    Census,
    ImageExtras,
    InputError,
    Instance,
    Polygons,
    Problem,
    Reject,
    RunLengths,
    pack,
    problem,
    split_rings,
)
from transforms.records import ReasonCode as Code
from transforms.sources import coco, coco_json, json_blocks
from transforms.sources.coco import ReadCoco, find_duplicates, meet
from transforms.sources.coco_json import (
    CocoAnnotation,
    CocoDuplicate,
    CocoImage,
    parse_categories,
    split_block,
)

HEIGHT, WIDTH = 4, 6
TRIANGLE = "[[0, 0, 4, 0, 4, 4]]"
RUNS = '{"size": [4, 6], "counts": [4, 8, 12]}'
MAX_PIXELS = 1000


def element(**fields: str | None) -> bytes:
    """An annotation; fields are given as JSON text, None leaves one out."""
    said = {"id": "7", "image_id": "3", "category_id": "1", "segmentation": TRIANGLE} | fields
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in said.items() if text is not None) + "}").encode()


def image_element(**fields: str | None) -> bytes:
    said = {"id": "3", "file_name": '"a.jpg"', "height": "4", "width": "6"} | fields
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in said.items() if text is not None) + "}").encode()


def annotation(raw: bytes) -> Instance:
    found = parse_annotation(raw)
    assert isinstance(found, CocoAnnotation), found
    return found.instance


def outcome(raw: bytes) -> str:
    """The reason code that an annotation of an image of HEIGHT × WIDTH ends with, or "written"."""
    found = parse_annotation(raw)
    if isinstance(found, Reject):
        return found.reason
    [drawn] = rasterize([(found.instance, HEIGHT, WIDTH)])
    return drawn.code if isinstance(drawn, Problem) else "written"


def rle(counts: str, size: str = "[4, 6]") -> str:
    return f'{{"size": {size}, "counts": {counts}}}'


# ---------------------------------------------------------------------------------------------------- annotations

VALID = {
    "polygon": {"segmentation": TRIANGLE},
    "two rings": {"segmentation": "[[0, 0, 4, 0, 4, 4], [1, 1, 2, 1, 2, 2]]"},
    "run lengths": {"segmentation": RUNS},
    "compressed": {"segmentation": rle(json.dumps(run_lengths.encode_counts(np.array([4, 8, 12])).decode()))},
    "slightly outside": {"segmentation": "[[-1, -1, 7.5, 0, 4, 4.01]]"},
    "exponents": {"segmentation": "[[0, 0, 4e0, 0.0, 40e-1, 4E+0]]"},
    "box only": {"segmentation": None, "bbox": "[0, 0, 2, 2]"},
    "null segmentation": {"segmentation": "null", "bbox": "[0, 0, 2, 2]"},
    "more fields": {"attributes": '{"a": [[[1]]], "b": "}"}', "score": "1e999"},
    "image id as text": {"image_id": '"000000000139"'},
    "negative image id as text": {"image_id": '"-5"'},
    "largest ids": {"id": str(2**63 - 1), "image_id": str(2**63 - 1), "category_id": str(2**63 - 1)},
    "smallest ids": {"id": str(-(2**63)), "image_id": str(-(2**63)), "category_id": str(-(2**63))},
    "the last of two equal keys": {"id": '"x", "id": 7'},
    "Unicode in a field of no interest": {"note": '"日本 😀 \\u00e9 \\ud83d\\ude00"'},
    "half a surrogate pair in a field of no interest": {"note": '"\\ud800"'},
}


@pytest.mark.parametrize("fields", VALID.values(), ids=VALID)
def test_valid_annotations_are_written(fields: dict[str, str | None]) -> None:
    assert outcome(element(**fields)) == "written"


def triangle(last: str) -> str:
    return f"[[0, 0, 4, 0, 4, {last}]]"


HUGE = "9" * 400
NOT_INT64 = (None, "null", "true", "1.5", "1.0", "1e2", '"x"', '""', "[1]", "{}", str(2**63), HUGE)
NOT_DECIMAL = ('"1.0"', '"0x10"', '" 1"', '"1_0"', '"+1"', '"-"', '"--1"', '"٣"', f'"{"1" * 30}"', f'"{"1" * 10_000}"')
REJECTED: list[tuple[Code, str, Sequence[str | None]]] = [
    (Code.FIELD_INVALID, "id", (*NOT_INT64, '"7"')),
    (Code.FIELD_INVALID, "category_id", (*NOT_INT64, '"1"')),
    (Code.FIELD_INVALID, "image_id", (*NOT_INT64, *NOT_DECIMAL)),
    (Code.FIELD_INVALID, "iscrowd", ("2", "-1", '"0"', '"1"', "0.5", "[]", "{}", HUGE)),
    (Code.COORD_INVALID, "segmentation", [triangle(last) for last in ("1e999", "-1e999", "1e9", "100001", HUGE)]),
    (Code.COORD_INVALID, "segmentation", [triangle(last) for last in ('"4"', "true", "null", "{}")]),
    (Code.POLY_MALFORMED, "segmentation", ("[]", "[[]]", "[{}]", "5", "true", '"0 0 4 0 4 4"', '""', "[0, 0, 4, 0, 4, 4]")),
    (Code.POLY_MALFORMED, "segmentation", ("[[0, 0, 4, 0]]", "[[0, 0, 4, 0, 4, 4, 1]]", "[[0, 0, 4, 0, 4, 4], [1, 1]]")),
    (Code.POLY_MALFORMED, "segmentation", ("[[0, 0], [4, 0], [4, 4]]", "[[[0, 0], [4, 0], [4, 4]]]", "[[[0, 0, 4, 0, 4, 4]]]")),
    (Code.POLY_MALFORMED, "segmentation", ("[[0, 0, 4, 0, 4, 4], null]", "[[0, 0, 4, 0, 4, 4], 1]")),
    (Code.POINT_LIMIT, "segmentation", ("[[" + "1, " * 200_001 + "1]]",)),
    (Code.EMPTY_MASK, "segmentation", ("[[10, 10, 14, 10, 14, 14]]", rle("[24]"))),
    (
        Code.RLE_MALFORMED,
        "segmentation",
        [rle(counts) for counts in ("[]", "[4, 8]", "[4, 8, 13]", "[4, -8, 28]", "[4294967296]")],
    ),
    (
        Code.RLE_MALFORMED,
        "segmentation",
        [rle(counts) for counts in ("null", "5", "[true, 23]", '["4", 20]', "[[4, 20]]", "[24.5]")],
    ),
    (
        Code.RLE_MALFORMED,
        "segmentation",
        [rle(counts) for counts in ('""', '"000o"', '"a\\u0000"', '"é"', '"\\ud800"', '"z"', '" "')],
    ),
    (Code.RLE_MALFORMED, "segmentation", (rle(f"[1, {HUGE}]"), "{}", '{"counts": [24]}', '{"size": [4, 6]}')),
    (Code.RLE_MALFORMED, "segmentation", [rle("[24]", size) for size in ("[]", "[4]", "[4, 6, 1]", "24", '"4x6"', "[4.0, 6.0]")]),
    (Code.RLE_SIZE_MISMATCH, "segmentation", (rle("[4, 8, 12]", "[6, 4]"),)),
    (Code.DIM_LIMIT, "segmentation", [rle("[24]", size) for size in ("[0, 6]", "[4, 0]", "[-4, -6]", "[4294967296, 1]")]),
    (Code.BOX_INVALID, "segmentation", (None, "null")),
]


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [(code, name, value) for code, name, values in REJECTED for value in values],
    ids=lambda value: value.name if isinstance(value, Code) else str(value)[:30],
)
def test_bad_annotations_are_rejected_with_a_reason(code: Code, name: str, value: str | None) -> None:
    assert outcome(element(**{name: value})) == code.name


@pytest.mark.parametrize("raw", [b"5", b"null", b'"text"', b"[]", b"[1, 2]", b"true", b"{}"])
def test_an_annotation_that_is_no_object_or_empty_is_rejected(raw: bytes) -> None:
    assert outcome(raw) == "FIELD_INVALID"


@pytest.mark.parametrize(
    "raw",
    [
        element(area="NaN"),
        element(bbox="[0, 0, Infinity, 1]"),
        element(segmentation="[[0, 0, 4, 0, 4, -Infinity]]"),
        element(note="NaN"),
        element(id="1" * 10_000),
        element(area="1" * 10_000),
        element()[:-1],
        element() + b"}",
        element(id="07"),
        element(id="'7'"),
        element() + b", , " + element(),
    ],
)
def test_what_is_not_json_ends_the_job(raw: bytes) -> None:
    with pytest.raises(InputError, match=r"^JSON_INVALID: "):
        parse_annotation(raw)


def test_a_reject_names_what_can_be_made_out() -> None:
    found = parse_annotation(element(segmentation='[[0, 0, "4", 0, 4, 4]]', image_id='"003"'))
    assert found == Reject("annotation", 3, 7, "COORD_INVALID", "a polygon coordinate is '4', expected a number")
    assert parse_annotation(element(id=None)) == Reject(
        "annotation", 3, None, "FIELD_INVALID", "'id': expected a 64-bit integer, it is missing"
    )


def test_a_reject_message_of_a_large_value_is_short() -> None:
    for raw in (element(iscrowd='"' + "x" * 10**6 + '"'), element(segmentation='"' + "x" * 10**6 + '"')):
        found = parse_annotation(raw)
        assert isinstance(found, Reject)
        assert len(found.message) < 200


def test_invalid_utf8_in_a_used_field_is_rejected() -> None:
    found = parse_annotation(element(segmentation=rle('"@"')).replace(b"@", b"\xff"))
    assert isinstance(found, Reject)
    assert found.reason == "TEXT_INVALID"


@pytest.mark.parametrize(
    ("value", "crowd"),
    [(None, False), ("null", False), ("0", False), ("1", True), ("false", False), ("true", True), ("1.0", True)],
)
def test_iscrowd(value: str | None, crowd: bool) -> None:
    assert annotation(element(iscrowd=value)).is_crowd is crowd


@pytest.mark.parametrize(
    "bbox",
    [
        None,
        "null",
        "[]",
        "[1, 2, 3]",
        "[1, 2, 3, 4, 5]",
        "[1, 2, 0, 4]",
        "[1, 2, 3, 0]",
        "[1, 2, -3, 4]",
        "[0, 0, 1e999, 1]",
        "[1e999, 0, 1, 1]",
        "[1e308, 0, 1e308, 1]",
        '["1", 2, 3, 4]',
        "[true, 2, 3, 4]",
        "[1, 2, null, 4]",
        '"1 2 3 4"',
        "{}",
        "5",
        "[[1, 2, 3, 4]]",
    ],
)
def test_an_unusable_box_is_none_and_no_reject(bbox: str | None) -> None:
    found = annotation(element(bbox=bbox))
    assert found.box is None
    assert isinstance(found.shape, Polygons)


def test_a_box_is_half_open_ymin_xmin_ymax_xmax() -> None:
    assert annotation(element(bbox="[1, 2.5, 3, 4]")).box == (2.5, 1.0, 6.5, 4.0)


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ("12.5", 12.5),
        ("0", 0.0),
        ("3", 3.0),
        (None, None),
        ("null", None),
        ("-1", None),
        ("1e999", None),
        ('"12"', None),
        ("true", None),
        ("[]", None),
    ],
)
def test_an_unusable_area_is_none_and_no_reject(area: str | None, expected: float | None) -> None:
    assert annotation(element(area=area)).area == expected


@pytest.mark.parametrize("fields", [{"area": HUGE}, {"bbox": f"[0, 0, 5, {HUGE}]"}])
def test_an_area_or_box_with_an_integer_beyond_any_float_is_none(fields: dict[str, str | None]) -> None:
    found = annotation(element(**fields))
    assert (found.area, found.box) == (None, None)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 2e7, -2e7, 10**400])
def test_numbers_that_json_cannot_hold_are_caught_too(number: float) -> None:
    found = coco_json._shape([[0, 0, 4, 0, 4, number]])
    assert isinstance(found, Problem)
    assert found.code == "COORD_INVALID"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(4))
def test_a_box_of_no_finite_numbers_is_none(number: float, place: int) -> None:
    bbox = [1.0, 2.0, 3.0, 4.0]
    bbox[place] = number
    assert coco_json.box_of(bbox) is None


def test_geometry_arrives_as_annotated() -> None:
    polygons = annotation(element(segmentation="[[0, 0, 4.25, 0, 4, 4], [1, 1, 2, 1, 2.123456789, 2]]")).shape
    assert isinstance(polygons, Polygons)
    assert [ring.tolist() for ring in split_rings([polygons], polygons.values())[0]] == [
        [0, 0, 4.25, 0, 4, 4],
        [1, 1, 2, 1, 2.123456789, 2],
    ]
    runs = annotation(element(segmentation=RUNS)).shape
    assert isinstance(runs, RunLengths)
    assert (runs.height, runs.width, run_lengths.decode_counts(runs.counts).tolist()) == (4, 6, [4, 8, 12])


ids = st.integers(-(2**63), 2**63 - 1)
coordinates = st.floats(-1e5, 1e5) | st.integers(-100, 700) | st.integers(0, 60_000).map(lambda number: number / 100)
counts = st.lists(st.integers(0, 2**33), max_size=6) | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=8)
sizes = st.lists(st.integers(0, 9), min_size=2, max_size=2)
well_typed = st.fixed_dictionaries(
    {"id": ids, "image_id": ids | ids.map(str).filter(lambda text: len(text) < 20), "category_id": ids},
    optional={
        "segmentation": st.none()
        | st.lists(st.lists(coordinates, max_size=9), max_size=3)
        | st.fixed_dictionaries({"size": sizes, "counts": counts}),
        "bbox": st.none() | st.lists(coordinates, min_size=3, max_size=5),
        "area": st.none() | coordinates,
        "iscrowd": st.sampled_from([0, 1, None]),
        "note": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    },
)


@settings(max_examples=300, deadline=None)
@given(entry=well_typed)
def test_the_fast_path_and_the_slow_one_agree(entry: dict[str, Any]) -> None:
    raw = json.dumps(entry).encode()
    fast = coco_json._packed(coco_json._annotation.decode(raw))
    assert coco_json._parse_slowly(raw) == fast
    assert parse_annotation(raw) == fast


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner, max_size=3),
    max_leaves=12,
)
fields_of_anything = st.dictionaries(
    st.sampled_from(["id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd", "note"]), anything
)


@settings(max_examples=300, deadline=None)
@given(entry=fields_of_anything, usable=st.booleans())
def test_no_annotation_raises_and_each_gives_one_part_that_can_be_packed(entry: dict[str, Any], usable: bool) -> None:
    raw = json.dumps({"id": 1, "image_id": 2, "category_id": 3} | entry if usable else entry).encode()
    found = parse_annotation(raw)
    assert isinstance(found, CocoAnnotation | Reject)
    assert pack(found)
    if isinstance(found, CocoAnnotation):
        assert isinstance(rasterize([(found.instance, HEIGHT, WIDTH)])[0], Instance | Problem)
    else:
        assert found.reason in Code.__members__


# --------------------------------------------------------------------------------------------------------- images


def parse_image(raw: bytes, max_pixels: int) -> CocoImage | Reject:
    """An element alone, which among others is the same."""
    found = coco_json.parse_image(raw, max_pixels)
    plain = CocoImage(9, "b.jpg", 2, 3)
    block = b",".join([b'{"id": 9, "file_name": "b.jpg", "height": 2, "width": 3}', raw, b""])
    assert coco_json.parse_images(block, max_pixels) == [plain, found]
    return found


def test_a_valid_image_is_read() -> None:
    assert parse_image(image_element(), MAX_PIXELS) == CocoImage(3, "a.jpg", 4, 6)


@pytest.mark.parametrize("name", ["ünï/日本 😀.jpg", "a b#%[1]*.jpg", "e\u0301.jpg", '"quoted"\\.jpg', "\x01"])
@pytest.mark.parametrize("escaped", [True, False])
def test_any_unicode_is_a_file_name(name: str, escaped: bool) -> None:
    raw = image_element(file_name=json.dumps(name, ensure_ascii=escaped))
    assert parse_image(raw, MAX_PIXELS) == CocoImage(3, name, 4, 6)


@pytest.mark.parametrize(("text", "image_id"), [('"000000000139"', 139), ('"-5"', -5), ("-5", -5), (str(2**63 - 1), 2**63 - 1)])
def test_image_ids(text: str, image_id: int) -> None:
    found = parse_image(image_element(id=text), MAX_PIXELS)
    assert isinstance(found, CocoImage)
    assert found.image_id == image_id


@pytest.mark.parametrize("value", [None, "null", "true", "1.5", "1.0", '"x"', '""', '"1.0"', "[1]", "{}", str(2**63), HUGE])
def test_an_image_without_an_id_is_rejected_at_once(value: str | None) -> None:
    found = parse_image(image_element(id=value), MAX_PIXELS)
    assert isinstance(found, Reject)
    assert (found.kind, found.image_id, found.annotation_id, found.reason) == ("image", None, None, "FIELD_INVALID")


@pytest.mark.parametrize("raw", [b"5", b"null", b"[]", b"[1]", b'"a.jpg"', b"{}"])
def test_an_image_that_is_no_object_is_rejected(raw: bytes) -> None:
    found = parse_image(raw, MAX_PIXELS)
    assert isinstance(found, Reject)
    assert found.reason == "FIELD_INVALID"


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        *((Code.FIELD_INVALID, {"file_name": value}) for value in (None, "null", '""', "5", "[]", "{}", "true")),
        *(
            (Code.FIELD_INVALID, {side: value})
            for side in ("height", "width")
            for value in (None, "null", '"4"', "true", "4.0", "4.5", "1e999", "[4]", str(2**63), HUGE)
        ),
        *((Code.DIM_LIMIT, {side: value}) for side in ("height", "width") for value in ("0", "-4", str(2**63 - 1), "1000")),
        (Code.TEXT_INVALID, {"file_name": '"a\\ud800.jpg"'}),
        (Code.TEXT_INVALID, {"file_name": '"\\udc00\\ud800"'}),
    ],
)
def test_a_bad_image_keeps_its_id_and_says_why(code: Code, fields: dict[str, str | None]) -> None:
    found = parse_image(image_element(**fields), MAX_PIXELS)
    assert isinstance(found, CocoImage)
    assert found.image_id == 3
    assert found.problem is not None
    assert found.problem.code == code.name
    assert pack(found)


def test_the_pixel_cap_is_exact() -> None:
    at_cap, over = image_element(height="25", width="40"), image_element(height="77", width="13")
    assert parse_image(at_cap, 1000) == CocoImage(3, "a.jpg", 25, 40)
    found = parse_image(over, 1000)
    assert isinstance(found, CocoImage)
    assert found.problem == problem(Code.DIM_LIMIT, "the image is 77 × 13 (height × width), at most 1000 pixels are read")


def test_an_image_with_invalid_utf8_is_rejected() -> None:
    found = parse_image(image_element(file_name='"@.jpg"').replace(b"@", b"\xff"), MAX_PIXELS)
    assert isinstance(found, Reject)
    assert found.reason == "TEXT_INVALID"


@pytest.mark.parametrize("raw", [image_element(height="NaN"), image_element(width="1" * 10_000), image_element()[:-1], b""])
def test_an_image_that_is_not_json_ends_the_job(raw: bytes) -> None:
    with pytest.raises(InputError, match=r"^JSON_INVALID: "):
        parse_image(raw, MAX_PIXELS)


# ----------------------------------------------------------------------------------------------- categories, blocks


def test_categories() -> None:
    raws = [b'{"id": 2, "name": "caf\\u00e9", "supercategory": "x"}', '{"name": "犬", "id": -1}'.encode()]
    assert parse_categories(raws) == [Category(2, "café"), Category(-1, "犬")]
    assert parse_categories([]) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"5",
        b"null",
        b"{}",
        b'{"id": 1}',
        b'{"name": "a"}',
        b'{"id": "1", "name": "a"}',
        b'{"id": 1.0, "name": "a"}',
        b'{"id": true, "name": "a"}',
        b'{"id": 1, "name": ""}',
        b'{"id": 1, "name": 5}',
        b'{"id": 1, "name": "\\ud800"}',
        b'{"id": 1, "name": "\xff"}',
        b'{"id": NaN, "name": "a"}',
        b'{"id": 9223372036854775808, "name": "a"}',
        b'{"id": 1',
    ],
)
def test_an_unusable_category_ends_the_job(raw: bytes) -> None:
    with pytest.raises(InputError, match=r"^JSON_INVALID: "):
        parse_categories([b'{"id": 1, "name": "a"}', raw])


def test_the_message_on_a_category_shows_it() -> None:
    with pytest.raises(
        InputError, match=r"expected categories with an integer 'id' and a 'name', found \{'id': 'x', 'name': 'a'\}"
    ):
        parse_categories([b'{"id": "x", "name": "a"}'])


@pytest.mark.parametrize("raws", [[], [b"{}"], [b'{"a": "],["}', b"[1, [2]]", b"5", b'"x, y"', b"null"]])
@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b" ,\n", b" \t\r\n"), (b",", b",")])
def test_split_block(raws: list[bytes], before: bytes, after: bytes) -> None:
    assert split_block(before + b" ,\n".join(raws) + after) == raws


def test_a_block_with_half_a_surrogate_pair_is_split_all_the_same() -> None:
    raws = split_block(b'{"id": 1, "file_name": "\\ud800"}, {"id": 2.50, "x": "\xc3\xa9"}')
    assert [json.loads(raw) for raw in raws] == [{"id": 1, "file_name": "\ud800"}, {"id": 2.5, "x": "é"}]


@pytest.mark.parametrize("data", [b"{}{}", b"{},,{}", b"{} x", b'{"a": NaN}', b'{"a": 1', b"{]", b'{"a":\x00}', b'{"a": "\n"}'])
def test_a_block_that_is_not_json_ends_the_job(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^JSON_INVALID: "):
        split_block(data)


def test_half_a_surrogate_pair_does_not_spoil_a_number_out_of_range_beside_it() -> None:
    image, beside = split_block(image_element(file_name='"\\ud800"') + b", " + element(bbox="[0, 0, 1e999, 1]"))
    assert isinstance(parse_image(image, MAX_PIXELS), CocoImage)
    assert annotation(beside).box is None


def test_half_a_surrogate_pair_does_not_spoil_invalid_utf8_beside_it() -> None:
    raws = split_block(image_element(file_name='"\\ud800"') + b", " + image_element(file_name='"@"').replace(b"@", b"\xff"))
    assert [isinstance(parse_image(raw, MAX_PIXELS), CocoImage) for raw in raws] == [True, False]


# ---------------------------------------------------------------------------------------------------------- duplicates


def pairs(*rows: tuple[int, int]) -> np.ndarray:
    return np.array(rows, "<i8").reshape(-1, 2)


def test_no_duplicates() -> None:
    assert list(find_duplicates([pairs()])) == []
    assert list(find_duplicates([pairs((1, 5), (2, 5)), pairs((3, 4))])) == []


def test_an_id_twice_in_one_image_is_for_meet_to_find() -> None:
    assert list(find_duplicates([pairs((1, 5)), pairs((1, 5), (1, 5))])) == []


def test_the_smallest_image_id_keeps_an_annotation_id() -> None:
    found = list(find_duplicates([pairs((1, 9), (2, 3)), pairs((1, -4), (1, 9)), pairs((1, 5))]))
    assert found == [CocoDuplicate(5, 1, -4), CocoDuplicate(9, 1, -4)]


def test_duplicates_of_the_largest_ids() -> None:
    large, small = 2**63 - 1, -(2**63)
    assert list(find_duplicates([pairs((large, large), (large, small))])) == [CocoDuplicate(large, large, small)]


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=20), cut=st.integers(0, 20))
def test_duplicates_are_all_claims_but_the_smallest(rows: list[tuple[int, int]], cut: int) -> None:
    claims: dict[int, set[int]] = {}
    for annotation_id, image_id in rows:
        claims.setdefault(annotation_id, set()).add(image_id)
    expected = [
        CocoDuplicate(image_id, annotation_id, min(images))
        for annotation_id, images in sorted(claims.items())
        for image_id in sorted(images - {min(images)})
    ]
    assert list(find_duplicates([pairs(*rows[:cut]), pairs(*rows[cut:])])) == expected


# ---------------------------------------------------------------------------------------------------------------- meet

CATEGORIES = frozenset({1, 2})


def instance(annotation_id: int, category_id: int = 1, area: float | None = None) -> Instance:
    return Instance(annotation_id, category_id, (0.0, 0.0, 2.0, 2.0), area, False, None)


def batch(*parts: coco_json.Part) -> bytes:
    return BatchWriter(None).write(coco_json.pack_parts(parts))


def met(*parts: coco_json.Part) -> list[AnnotatedImage | Reject]:
    return list(meet([batch(*parts)], CATEGORIES))


def short(found: Sequence[AnnotatedImage | Reject]) -> list[tuple[object, ...]]:
    return [
        (one.reason, one.kind, one.image_id, one.annotation_id)
        if isinstance(one, Reject)
        else (one.image_id, one.file_name, [member.annotation_id for member in one.instances])
        for one in found
    ]


def test_images_meet_their_annotations_in_the_order_of_ids() -> None:
    found = met(
        CocoAnnotation(2, instance(9)),
        CocoImage(2, "b.jpg", 4, 6),
        CocoAnnotation(1, instance(8)),
        CocoImage(1, "a.jpg", 5, 7),
        CocoAnnotation(2, instance(-3, 2)),
        CocoImage(3, "c.jpg", 5, 7),
    )
    assert found == [
        AnnotatedImage(1, "a.jpg", 5, 7, (instance(8),)),
        AnnotatedImage(2, "b.jpg", 4, 6, (instance(-3, 2), instance(9))),
        AnnotatedImage(3, "c.jpg", 5, 7, ()),
    ]


def test_nothing_meets_nothing() -> None:
    assert met() == []
    assert list(meet([], CATEGORIES)) == []


def test_an_annotation_without_its_image_is_an_orphan() -> None:
    assert short(met(CocoAnnotation(5, instance(1)))) == [("IMAGE_ORPHAN", "annotation", 5, 1)]


def test_an_annotation_of_an_unknown_category_is_rejected_alone() -> None:
    found = met(CocoImage(5, "a", 4, 6), CocoAnnotation(5, instance(1, 3)), CocoAnnotation(5, instance(2, 2)))
    assert short(found) == [("CATEGORY_UNKNOWN", "annotation", 5, 1), (5, "a", [2])]


def test_of_two_images_with_one_id_one_is_kept_with_the_annotations() -> None:
    parts = [CocoImage(5, "b", 4, 6), CocoImage(5, "a", 4, 6), CocoAnnotation(5, instance(1))]
    for order in permutations(parts):
        assert short(met(*order)) == [(5, "a", [1]), ("DUP_IMAGE", "image", 5, None)]
    assert short(met(*parts, *parts[:2])) == [(5, "a", [1])] + [("DUP_IMAGE", "image", 5, None)] * 3


def test_an_image_without_a_problem_goes_before_one_with() -> None:
    bad = CocoImage(5, "a", 0, 0, problem(Code.DIM_LIMIT, "too large"))
    found = met(bad, CocoImage(5, "b", 4, 6), CocoAnnotation(5, instance(1)))
    assert short(found) == [(5, "b", [1]), ("DUP_IMAGE", "image", 5, None)]


def test_an_image_with_a_problem_takes_its_annotations_with_it() -> None:
    bad = CocoImage(5, "a", 0, 0, problem(Code.TEXT_INVALID, "half a pair"))
    found = met(bad, CocoAnnotation(5, instance(1)), CocoAnnotation(5, instance(2, 3)), CocoAnnotation(5, instance(4)))
    assert sorted(short(found), key=str) == sorted(
        [
            ("TEXT_INVALID", "image", 5, None),
            ("TEXT_INVALID", "annotation", 5, 1),
            ("CATEGORY_UNKNOWN", "annotation", 5, 2),
            ("TEXT_INVALID", "annotation", 5, 4),
        ],
        key=str,
    )


def test_an_annotation_id_twice_in_an_image_is_kept_once_whatever_the_order() -> None:
    one, other = CocoAnnotation(5, instance(1, area=1.0)), CocoAnnotation(5, instance(1, area=2.0))
    forward, backward = met(CocoImage(5, "a", 4, 6), one, other), met(other, one, CocoImage(5, "a", 4, 6))
    assert short(forward) == [("DUP_ID", "annotation", 5, 1), (5, "a", [1])]
    assert forward == backward


def test_a_rejected_annotation_does_not_take_its_id_from_another_in_the_image() -> None:
    found = met(CocoImage(5, "a", 4, 6), CocoAnnotation(5, instance(1, 1)), CocoAnnotation(5, instance(1, 0)))
    assert short(found) == [("CATEGORY_UNKNOWN", "annotation", 5, 1), (5, "a", [1])]


def test_an_annotation_id_across_images_stays_with_the_smallest_image_id() -> None:
    parts = [CocoImage(5, "a", 4, 6), CocoImage(6, "b", 4, 6), *(CocoAnnotation(image, instance(1)) for image in (6, 5))]
    found = met(*parts, *find_duplicates([pairs((1, 6), (1, 5))]))
    assert short(found) == [(5, "a", [1]), ("DUP_ID", "annotation", 6, 1), (6, "b", [])]
    assert "image 5 has an annotation with this id already" in str(found[1])


images = st.builds(
    CocoImage,
    st.integers(0, 5),
    st.sampled_from(["a", "b", "c"]),
    st.just(4),
    st.just(6),
    st.none() | st.just(problem(Code.DIM_LIMIT, "too large")),
)
annotations = st.builds(
    CocoAnnotation, st.integers(0, 7), st.builds(instance, st.integers(0, 9), st.integers(1, 3), st.none() | st.floats(0, 9))
)


@settings(max_examples=300, deadline=None)
@given(
    entries=st.lists(images, max_size=8),
    members=st.lists(annotations, max_size=16),
    randomness=st.randoms(use_true_random=False),
)
def test_every_part_comes_out_exactly_once_and_the_order_of_batches_does_not_matter(
    entries: list[CocoImage], members: list[CocoAnnotation], randomness: random.Random
) -> None:
    duplicates = list(find_duplicates([pairs(*((one.instance.annotation_id, one.image_id) for one in members))]))
    parts: list[coco_json.Part] = [*entries, *members, *duplicates]
    found = met(*parts)

    written = [one for one in found if isinstance(one, AnnotatedImage)]
    rejects = [one for one in found if isinstance(one, Reject)]
    images_out = [one.image_id for one in written] + [one.image_id for one in rejects if one.kind == "image"]
    assert Counter(images_out) == Counter(one.image_id for one in entries)
    annotations_out = [(one.image_id, member.annotation_id) for one in written for member in one.instances]
    annotation_ids = [annotation_id for _, annotation_id in annotations_out]
    assert len(set(annotation_ids)) == len(annotation_ids)
    annotations_out += [(one.image_id, one.annotation_id) for one in rejects if one.kind == "annotation"]
    assert Counter(annotations_out) == Counter((one.image_id, one.instance.annotation_id) for one in members)

    randomness.shuffle(parts)
    cuts = sorted(randomness.randint(0, len(parts)) for _ in range(3))
    batches = [batch(*parts[start:end]) for start, end in zip([0, *cuts], [*cuts, len(parts)], strict=True)]
    assert list(meet(batches, CATEGORIES)) == found


# --------------------------------------------------------------------------------------------------------- transform


class Read(NamedTuple):
    images: list[AnnotatedImage]
    categories: list[Category]
    rejects: list[Reject]
    census: Census


def save(saved: object, folder: str) -> None:
    Path(folder, uuid4().hex).write_bytes(pickle.dumps(saved))


def read_coco(pattern: str, folder: Path, spill: bool = False, max_pixels: int = MAX_PIXELS) -> Read:
    """What `ReadCoco` gives, sorted."""
    folder = folder / uuid4().hex
    for name in ("spill", *Read._fields):
        (folder / name).mkdir(parents=True)
    coders.register()
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
        found = pipeline | ReadCoco(pattern, max_pixels, str(folder / "spill") if spill else None)
        for name, collection in found._asdict().items():
            _ = collection | f"Save {name}" >> beam.Map(save, str(folder / name))
    assert any((folder / "spill").iterdir()) is spill
    saved = {name: [pickle.loads(path.read_bytes()) for path in (folder / name).iterdir()] for name in Read._fields}
    return Read(
        sorted(saved["images"], key=lambda image: image.image_id),
        sorted(saved["categories"]),
        sorted(saved["rejects"], key=str),
        sum(saved["census"], Census()),
    )


def document(images: Sequence[Any] = (), annotations: Sequence[Any] = (), categories: Sequence[Any] = ()) -> str:
    return json.dumps({"info": {"images": [0]}, "images": images, "annotations": annotations, "categories": categories})


def image_entry(image_id: object, **fields: object) -> dict[str, object]:
    return {"id": image_id, "file_name": f"{image_id}.jpg", "height": 4, "width": 6} | fields


def annotation_entry(annotation_id: object, image_id: object, **fields: object) -> dict[str, object]:
    return {"id": annotation_id, "image_id": image_id, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]} | fields


ONE = document(
    [image_entry(1), image_entry("0002"), image_entry(3, height=0), image_entry(None), image_entry(4), image_entry(4)],
    [annotation_entry(annotation_id, image_id) for annotation_id, image_id in ((10, 1), (11, 2), (12, 3), ("x", 1), (13, 99))],
    [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
)
TWO = document(
    [image_entry(5, file_name="\ud800"), image_entry(6)],
    [
        *(annotation_entry(annotation_id, image_id) for annotation_id, image_id in ((14, 5), (10, 6), (15, 6), (15, 6), (16, 1))),
        annotation_entry(17, 6, category_id=7),
        annotation_entry(18, 6, segmentation=[]),
        annotation_entry(19, 6, bbox=[1, 1, 2, 2]),
    ],
    [{"id": 1, "name": "cat"}],
)


@pytest.fixture
def two_files(tmp_path: Path) -> str:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "one.json").write_text(ONE)
    (tmp_path / "coco" / "two.json").write_text(TWO)
    (tmp_path / "coco" / "other.txt").write_text("not read")
    return str(tmp_path / "coco" / "*.json")


def test_read_coco_from_several_files(two_files: str, tmp_path: Path) -> None:
    found = read_coco(two_files, tmp_path)
    assert [(one.image_id, one.file_name, [member.annotation_id for member in one.instances]) for one in found.images] == [
        (1, "1.jpg", [10, 16]),
        (2, "0002.jpg", [11]),
        (4, "4.jpg", []),
        (6, "6.jpg", [15, 18, 19]),
    ]
    assert found.categories == [Category(1, "cat"), Category(1, "cat"), Category(2, "dog")]
    assert Counter((one.reason, one.kind, one.image_id, one.annotation_id) for one in found.rejects) == Counter(
        [
            ("FIELD_INVALID", "image", None, None),
            ("DIM_LIMIT", "image", 3, None),
            ("DIM_LIMIT", "annotation", 3, 12),
            ("DUP_IMAGE", "image", 4, None),
            ("TEXT_INVALID", "image", 5, None),
            ("TEXT_INVALID", "annotation", 5, 14),
            ("FIELD_INVALID", "annotation", 1, None),
            ("IMAGE_ORPHAN", "annotation", 99, 13),
            ("DUP_ID", "annotation", 6, 10),
            ("DUP_ID", "annotation", 6, 15),
            ("CATEGORY_UNKNOWN", "annotation", 6, 17),
        ]
    )
    assert (found.census.images, found.census.annotations) == (8, 13)


def test_read_coco_gives_the_same_with_a_spill_folder(two_files: str, tmp_path: Path) -> None:
    assert read_coco(two_files, tmp_path, spill=True) == read_coco(two_files, tmp_path, spill=False)


def large_document(count: int) -> dict[str, list[Any]]:
    randomness = random.Random(1)
    return {
        "images": [image_entry(number) for number in range(count)],
        "annotations": [
            annotation_entry(randomness.randrange(3 * count), randomness.randrange(count + 5), area=number)
            for number in range(3 * count)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


@pytest.mark.parametrize("spill", [False, True])
def test_small_blocks_and_many_buckets_give_the_same_as_one_of_each(tmp_path: Path, spill: bool) -> None:
    lists = large_document(60)
    path = tmp_path / "one.json"
    path.write_text(document(**lists))
    expected = read_coco(str(path), tmp_path)
    for entries in lists.values():
        random.Random(2).shuffle(entries)
    path.write_text(document(**lists))
    with mock.patch.object(json_blocks, "CHUNK_BYTES", 500), mock.patch.object(coco, "BUCKET_BYTES", 1000):
        found = read_coco(str(path), tmp_path, spill=spill)
    assert found == expected
    assert (found.census.images, found.census.annotations) == (60, 180)
    rejected = Counter(one.kind for one in found.rejects)
    assert len(found.images) + rejected["image"] == 60
    assert sum(len(one.instances) for one in found.images) + rejected["annotation"] == 180
    assert {one.reason for one in found.rejects} == {"DUP_ID", "IMAGE_ORPHAN"}


def test_the_census_counts_pixels(tmp_path: Path) -> None:
    sizes = [(1, 1), (1000, 1000), (1000, 1001)]
    path = tmp_path / "one.json"
    path.write_text(document([image_entry(number, height=h, width=w) for number, (h, w) in enumerate(sizes)]))
    assert read_coco(str(path), tmp_path, max_pixels=10**8).census == Census(3, 0, 2_001_001)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("one.json", ONE[:-40], "JSON_INVALID: .*one.json: the file ends at byte"),
        ("one.json", "[]", "JSON_INVALID: .*one.json: expected a JSON object"),
        ("one.json", ONE.replace('"cat"', "NaN"), "JSON_INVALID: .*one.json: in 'categories', within .*: NaN is not JSON"),
        ("one.json", ONE.replace('"id": 11', '"id": 1' + "0" * 10_000), "JSON_INVALID: .*one.json: in 'annotations'"),
        ("other.json", ONE, "there are no annotations at .*one.json"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_job_with_its_name(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Exception, match=expected):
        read_coco(str(tmp_path / "one.json"), tmp_path)


def test_find_files_counts_the_buckets_of_all_files_together(two_files: str) -> None:
    folder = Path(two_files).parent
    total = sum(path.stat().st_size for path in folder.glob("*.json"))
    assert list(coco.find_files(two_files)) == [(str(folder / "one.json"), 1), (str(folder / "two.json"), 1)]
    with mock.patch.object(coco, "BUCKET_BYTES", 100):
        assert next(coco.find_files(two_files)) == (str(folder / "one.json"), total // 100)
    for size, buckets in ((total - 1, 1), (total // 2, 2), (total // 31, 31), (total // 33, 32), (1, 32)):  # of few, more
        with mock.patch.object(coco, "SMALL_BUCKET_BYTES", size):
            assert next(coco.find_files(two_files)) == (str(folder / "one.json"), buckets)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(ONE)
    block = list(coco.cut_file(str(path), 1))[-1]
    path.write_text(ONE[: block.offset + 1])
    with pytest.raises(InputError, match="has changed while it was read"):
        coco.read_block(block)


def test_blocks_are_read_ahead_and_parsed_in_order(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(ONE)
    (block,) = [block for block in coco.cut_file(str(path), 1) if block.key == "images"]
    together = threading.Barrier(coco.BLOCKS_AHEAD, timeout=20)  # passed only if so many are read at the same time
    begun = 0

    def read(of: coco.FileBlock) -> bytes:
        nonlocal begun
        begun += 1
        together.wait()
        number = of.offset
        return b'{"id": %d, "file_name": "a", "height": 5, "width": 7}' % number

    parse = coco.ParseBlocks(1000, None)
    parse.setup()
    parse.start_bundle()
    far_away = mock.patch.object(coco.storage, "is_local", return_value=False)
    with mock.patch.object(coco, "read_block", read), far_away:
        out = []
        for number in range(2 * coco.BLOCKS_AHEAD):
            out += parse.process(block._replace(offset=number))
            assert begun <= number + 1
        out += parse.finish_bundle()
    parse.teardown()
    (batch,) = [one.value[1] for one in out if not isinstance(one, beam.pvalue.TaggedOutput)]
    found = [part.image_id for part in coco_json.unpack_parts(read_batch(batch))]
    assert found == list(range(2 * coco.BLOCKS_AHEAD))


def test_the_integer_limit_of_this_python_is_what_the_table_expects() -> None:
    assert 400 < sys.get_int_max_str_digits() < 10_000


LVIS_IMAGE = {"id": 7, "height": 20, "width": 30, "coco_url": "http://images.cocodataset.org/train2017/000000000007.jpg"}


def test_an_lvis_image_is_found_by_its_url() -> None:
    lists = {"neg_category_ids": [3, 9], "not_exhaustive_category_ids": []}
    found = parse_image(json.dumps(LVIS_IMAGE | lists).encode(), 10_000)
    extras = ImageExtras(neg_category_ids=(3, 9), not_exhaustive_category_ids=())
    assert found == CocoImage(7, "train2017/000000000007.jpg", 20, 30, None, extras)


@pytest.mark.parametrize(
    "lists", [{"neg_category_ids": 3}, {"not_exhaustive_category_ids": ["a"]}, {"neg_category_ids": [2**64]}]
)
def test_what_is_no_list_of_ids_is_told(lists: dict[str, Any]) -> None:
    found = parse_image(json.dumps(LVIS_IMAGE | lists).encode(), 10_000)
    assert isinstance(found, CocoImage)
    assert found.problem
    assert found.problem.code == "FIELD_INVALID"
    assert next(iter(lists)) in found.problem.message
