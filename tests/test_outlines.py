"""Outlines that are read together: each as it would be read by itself, whatever comes beside it."""

from __future__ import annotations

import json
import random
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.records import LARGEST_PACKED, Polygons, Reject
from transforms.sources import coco_json
from transforms.sources.coco_json import CocoAnnotation, parse_annotations
from transforms.sources.outlines import pack_outlines


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


coordinate = st.one_of(
    st.integers(-70_000, 70_000).map(lambda number: number / 100),
    st.integers(-400_000, 400_000),
    st.floats(-LARGEST_PACKED, LARGEST_PACKED, exclude_min=True, exclude_max=True),
    st.sampled_from([0, -0.0, 327.67, 327.68, -327.68, 327.69, 19_999_999, 1e-300, 5e-324]),
)
rings = st.lists(st.lists(coordinate, min_size=1, max_size=9), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(rings, min_size=1, max_size=6))
def test_outlines_are_packed_as_each_by_itself(outlines: list[list[list[float]]]) -> None:
    found = pack_outlines([text(one) for one in outlines])
    for packed, one in zip(found, outlines, strict=True):
        expected = Polygons.pack(one)
        assert packed is not None
        assert packed.ring_lengths == expected.ring_lengths
        assert len(packed.coordinates) == len(expected.coordinates)  # the same kind of numbers
        assert np.array_equal(packed.values(), expected.values())


PLAIN = [[1.5, 2, 3, 4.25, 5, 6]]
ODD: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"[[]]",
    b"[[], [1, 2]]",
    b"[[1, 2], []]",
    b"[1, 2, 3]",
    b"[[[1, 2, 3, 4]]]",
    b"[[1, 2, [3, 4]], [5, 6]]",
    b"[[1, 2], 3, [4, 5]]",
    b"[[1, 2],, [4, 5]]",
    b"[ [1, 2, 3, 4] ]",
    b'{"counts": "k5", "size": [17, 11]}',
    b"[[2e7, 0, 1, 1, 2, 2]]",
    b"[[1, 2, 1e308, 2, 3, 3]]",
    b"[[-20000000, 0, 1, 1, 2, 2]]",
]
BROKEN = [
    b'[["1", 2, 3, 4, 5, 6]]',
    b"[[1, null, 3, 4, 5, 6]]",
    b"[[1, true, 3, 4]]",
    b"[[1,, 2]]",
    b"[[01, 2]]",
    b"[[1 2, 3]]",
    b"[[NaN, 2]]",
]
BROKEN += [b"[[1e999, 2]]", b"[[1, 2, 3, 4" + b"0" * 400 + b"]]", b"[[1.]]", b"[[-, 2]]"]


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_plain_outline_is_left_to_be_looked_at(odd: bytes) -> None:
    plain = Polygons.pack(PLAIN)
    assert pack_outlines([text(PLAIN), odd, text(PLAIN)]) == [plain, None, plain]
    assert pack_outlines([odd]) == [None]


def test_space_does_not_matter() -> None:
    assert pack_outlines([b"[[1.5 ,2,\t3, 4.25,\n5, 6 ]\n]"]) == [Polygons.pack(PLAIN)]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_not_even_numbers_is_accepted_by_nobody(broken: bytes) -> None:
    assert pack_outlines([text(PLAIN), broken])[1] is None


def test_none_at_all() -> None:
    assert pack_outlines([]) == []


def elements(count: int) -> list[bytes]:
    """Annotations of all kinds, in any order."""
    rng = random.Random(1)
    kinds = [
        lambda: {"segmentation": [[round(rng.uniform(0, 50), 2) for _ in range(2 * rng.randint(3, 20))]]},
        lambda: {"segmentation": [[rng.uniform(0, 50) for _ in range(6)], [1, 2, 3, 4, 5, 6]], "bbox": [0, 0, 4, 4.5]},
        lambda: {"segmentation": {"size": [17, 11], "counts": [100, 87]}, "iscrowd": 1},
        lambda: {"segmentation": [[1, 2, "3", 4, 5, 6]]},
        lambda: {"segmentation": [[1, 2, 2e7, 4, 5, 6]]},
        lambda: {"segmentation": []},
        lambda: {"bbox": [1, 2, 3]},
        lambda: {"bbox": [1e308, 2, 1e308, 3], "area": -1},
        lambda: {"iscrowd": 2},
        lambda: {"image_id": "12"},
        lambda: {"id": 2**63},
        lambda: {"id": None},
        lambda: {"category_id": "x"},
    ]
    return [text({"id": number, "image_id": 1 + number % 7, "category_id": 1} | rng.choice(kinds)()) for number in range(count)]


def test_annotations_are_read_together_as_each_by_itself() -> None:
    raws = elements(500)
    found = parse_annotations(b",".join(raws))
    assert found == [coco_json._parse_alone(raw, coco_json.MAX_PIXELS) for raw in raws]
    assert {type(one) for one in found} == {CocoAnnotation, Reject}


def test_plain_annotations_are_read_together() -> None:
    entry = {"id": 1, "image_id": 2, "category_id": 3, "segmentation": PLAIN, "bbox": [0, 0, 1, 1], "area": 2.5, "iscrowd": 0}
    with mock.patch.object(coco_json, "_parse_alone", side_effect=AssertionError("this is the slow way")):
        assert isinstance(parse_annotations(text(entry))[0], CocoAnnotation)
