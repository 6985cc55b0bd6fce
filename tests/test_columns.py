"""Columns: what crosses the shuffle comes back equal, to the last bit of a float, and takes few bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.batches import BatchWriter
from transforms.columns import pack_images, pack_instances, unpack_images, unpack_instances
from transforms.records import AnnotatedImage, Attributes, ImageExtras, Instance, Polygons, RunLengths
from transforms.sources.coco_json import CocoAnnotation, CocoDuplicate, CocoImage, pack_parts, unpack_parts

INT64 = st.integers(-(2**63), 2**63 - 1)
HUNDREDTHS = st.integers(-10_000_000, 10_000_000).map(lambda number: number / 100)
NUMBERS = st.one_of(HUNDREDTHS, st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1e308, 5e-324]))
SUMS = st.tuples(HUNDREDTHS, HUNDREDTHS).map(lambda pair: pair[0] + pair[1])  # of which many are no hundredths
COORDINATES = st.one_of(HUNDREDTHS, st.floats(-1e6, 1e6))
RINGS = st.lists(st.lists(COORDINATES, max_size=14), max_size=3)
SHAPES = st.one_of(
    st.none(),
    RINGS.map(Polygons.pack),
    st.builds(Polygons.pack, RINGS, st.integers(0, 2)),
    st.builds(RunLengths, st.integers(1, 5000), st.integers(1, 5000), st.binary(max_size=40)),
)
BOXES = st.none() | st.tuples(NUMBERS, NUMBERS, NUMBERS | SUMS, NUMBERS | SUMS)
FIXES = st.lists(st.sampled_from(["BOX_CLIPPED", "POLYGON_CLIPPED"]), max_size=2).map(tuple)
ATTRIBUTES = st.builds(Attributes, st.booleans(), view=st.text(max_size=4))
INSTANCES = st.builds(
    Instance,
    INT64,
    INT64,
    BOXES,
    st.none() | NUMBERS,
    st.booleans(),
    SHAPES,
    FIXES,
    st.integers(-2, 2),
    st.none() | ATTRIBUTES,
)
IDS = st.none() | st.lists(INT64, max_size=2).map(tuple)
IMAGES = st.builds(
    AnnotatedImage,
    INT64,
    st.text(max_size=10),
    st.integers(1, 9),
    st.integers(1, 9),
    st.lists(INSTANCES, max_size=4).map(tuple),
    st.none() | st.builds(ImageExtras, st.text(max_size=4), IDS, IDS),
)


def bits(instance: Instance) -> list[bytes]:
    """The floats of an instance, so that a negative zero is none that is not."""
    numbers = [*(instance.box or ()), *([] if instance.area is None else [instance.area])]
    return [struct.pack("<d", number) for number in numbers]


@settings(max_examples=300, deadline=None)
@given(st.lists(INSTANCES, max_size=6))
def test_instances_come_back_bit_for_bit(instances: list[Instance]) -> None:
    found = list(unpack_instances(pack_instances(instances)))
    assert found == instances
    assert [bits(one) for one in found] == [bits(one) for one in instances]


@settings(max_examples=100, deadline=None)
@given(st.lists(IMAGES, max_size=4))
def test_images_come_back(images: list[AnnotatedImage]) -> None:
    assert list(unpack_images(pack_images(images))) == images


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(CocoAnnotation, INT64, INSTANCES), max_size=4))
def test_parts_come_back_annotations_last(annotations: list[CocoAnnotation]) -> None:
    others = [CocoImage(1, "a.jpg", 4, 5), CocoDuplicate(1, 2, 3)]
    assert list(unpack_parts(pack_parts([others[0], *annotations, others[1]]))) == [*others, *annotations]


@pytest.mark.parametrize(
    ("box", "area", "most"),
    [
        ((123.45, 67.89, 123.45 + 201.02, 67.89 + 300.3), 12345.67, 20),  # as most tools write them
        ((123.45, 67.89, 480.0, 640.0), None, 16),  # clipped
        ((123.456, 67.891, 324.473, 367.4512), 702.1057499999998, 45),
    ],
)
def test_numbers_take_no_more_bytes_than_they_need(box: tuple[float, float, float, float], area: float | None, most: int) -> None:
    bare, full = Instance(1, 1, None, None, False, None), Instance(1, 1, box, area, False, None)
    assert len(pack_instances([full])[0]) - len(pack_instances([bare])[0]) <= most


def test_a_batch_of_one_instance_hardly_takes_more_than_its_outline() -> None:
    ring = [number / 100 for number in range(1000, 6600, 100)]
    instance = Instance(1_234_567, 17, (10.0, 10.0, 65.0, 65.0), 1234.56, False, Polygons.pack([ring]))
    assert len(BatchWriter(None).write(pack_images([AnnotatedImage(123_456, "000000123456.jpg", 480, 640, (instance,))]))) < 190
