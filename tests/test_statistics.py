"""Statistics: the same value however the data is cut into parts and in whatever order these are merged."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipeline.tfdv_statistics import statistics_pb
from transforms import coders, run_lengths
from transforms.coders import StructCoder
from transforms.examples import LabelMap
from transforms.images import CheckedImage
from transforms.records import AnnotatedImage, Category, Instance, RunLengths
from transforms.statistics import (
    CategoryStatistics,
    DatasetStatistics,
    MergeStatistics,
    SplitStatistics,
)
from transforms.tally import Tally

NAMES = {1: "cat", 2: "dog", 3: "owl"}
LABELS = LabelMap.of([Category(label, name) for label, name in NAMES.items()], False)
HEIGHT, WIDTH = 4, 6


def as_bytes(statistics: DatasetStatistics) -> tuple[bytes, bytes]:
    """The bytes of statistics.json and statistics.pb."""
    return json.dumps(statistics.as_json(NAMES)).encode(), statistics_pb(statistics, NAMES, "png")


def merged(parts: Iterable[DatasetStatistics]) -> DatasetStatistics:
    total = DatasetStatistics()
    for part in parts:
        total.merge(part)
    return total


def counted(split: str, image: AnnotatedImage, checked: CheckedImage, shard: int = 0, offset: int = 0) -> DatasetStatistics:
    """The statistics of a single image, as the shards' writer counts it."""
    tally = Tally(LABELS, f"{split}-{shard:05d}-of-00009.tfrecord")
    tally.add(image, checked, run_lengths.masks_of([(image.instances, checked.height, checked.width)])[0], offset)
    return DatasetStatistics({split: tally.statistics()})


def mask_of(area: int, height: int = HEIGHT, width: int = WIDTH) -> RunLengths:
    return RunLengths(height, width, run_lengths.encode_counts(np.array([height * width - area, area])))


@st.composite
def instances(draw: st.DrawFn, height: int, width: int) -> Instance:
    ymin, xmin = draw(st.floats(0, height / 2)), draw(st.floats(0, width / 2))
    box = ymin, xmin, draw(st.floats(ymin, height)), draw(st.floats(xmin, width))
    area = draw(st.none() | st.integers(0, height * width))
    fixes = draw(st.lists(st.sampled_from(["BOX_CLIPPED", "POLYGON_CLIPPED"]), unique=True))
    shape = None if area is None else mask_of(area, height, width)
    return Instance(
        1, draw(st.sampled_from(sorted(NAMES))), box, draw(st.none() | st.just(2.5)), draw(st.booleans()), shape, tuple(fixes)
    )


@st.composite
def images(draw: st.DrawFn) -> tuple[AnnotatedImage, CheckedImage]:
    """Images that resemble each other, with few ids, so that scores are often equal."""
    height, width = draw(st.sampled_from([(4, 6), (1, 3), (5000, 700)]))
    found = tuple(draw(st.lists(instances(height, width), max_size=4)))
    fixes = tuple(draw(st.lists(st.sampled_from(["IMAGE_TURNED", "IMAGE_CONVERTED"]), unique=True)))
    checked = CheckedImage(b"abc", draw(st.sampled_from(["jpeg", "png"])), height, width, "", fixes)
    return AnnotatedImage(draw(st.integers(1, 30)), "a", height, width, found), checked


single_images = st.builds(
    lambda split, image, shard, offset: counted(split, *image, shard, offset),
    st.sampled_from(["train", "val", "test"]),
    images(),
    st.integers(0, 2),
    st.integers(0, 2),
)


def merged_at_random(parts: list[DatasetStatistics], randomness: random.Random) -> DatasetStatistics:
    waiting = [copy.deepcopy(part) for part in parts] + [DatasetStatistics() for _ in range(randomness.randrange(3))]
    randomness.shuffle(waiting)
    while len(waiting) > 1:
        one = waiting.pop(randomness.randrange(len(waiting)))
        if randomness.random() < 0.3:
            one = merged([one])
        waiting[randomness.randrange(len(waiting))].merge(one)
    return merged(waiting)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(single_images, max_size=8), randomness=st.randoms(use_true_random=False))
def test_any_order_and_nesting_of_merges_gives_the_same(parts: list[DatasetStatistics], randomness: random.Random) -> None:
    expected = as_bytes(merged(parts))
    before = [as_bytes(part) for part in parts]
    assert as_bytes(merged_at_random(parts, randomness)) == expected
    combine = MergeStatistics()
    accumulators = [combine.add_input(combine.create_accumulator(), part) for part in parts]
    randomness.shuffle(accumulators)
    assert as_bytes(combine.extract_output(combine.merge_accumulators(accumulators))) == expected
    assert [as_bytes(part) for part in parts] == before


@settings(max_examples=40, deadline=None)
@given(given=st.lists(images(), max_size=12), randomness=st.randoms(use_true_random=False))
def test_the_statistics_of_parts_merge_to_those_of_the_whole(
    given: list[tuple[AnnotatedImage, CheckedImage]], randomness: random.Random
) -> None:
    whole = Tally(LABELS, "train-00000-of-00009.tfrecord")
    for offset, (image, checked) in enumerate(given):
        whole.add(image, checked, run_lengths.masks_of([(image.instances, checked.height, checked.width)])[0], offset)
    parts = [counted("train", *one, offset=offset) for offset, one in enumerate(given)]
    expected = DatasetStatistics({"train": whole.statistics()} if given else {})
    assert merged_at_random(parts, randomness) == expected
    assert as_bytes(merged_at_random(parts, randomness)) == as_bytes(expected)


def test_merging_leaves_the_other_as_it_was_and_shares_nothing() -> None:
    one, other = DatasetStatistics(), DatasetStatistics({"train": SplitStatistics(images=1, formats={"png": 1})})
    one.merge(other)
    one.merge(other)
    one.splits["train"].formats["jpeg"] = 5
    assert one.splits["train"].images == 2
    assert one.splits["train"].formats == {"png": 2, "jpeg": 5}
    assert other == DatasetStatistics({"train": SplitStatistics(images=1, formats={"png": 1})})


def test_new_statistics_share_nothing() -> None:
    one, other = SplitStatistics(), SplitStatistics()
    one.image_height.add(5)
    one.formats["png"] = 1
    one.categories[1] = CategoryStatistics()
    assert other == SplitStatistics()


# --------------------------------------------------------------------------------------------------------------- json


def test_statistics_as_json_are_named_sorted_and_plain() -> None:
    instance = Instance(1, 2, (0.0, 1.0, 2.0, 4.0), None, True, mask_of(5), ("BOX_CLIPPED",))
    boxed = Instance(2, 1, (0.0, 0.0, 2.0, 2.0), None, False, None)
    parts = [
        counted("val", AnnotatedImage(1, "a", HEIGHT, WIDTH, (instance, boxed)), CheckedImage(b"", "png", 4, 6, "", ())),
        counted("train", AnnotatedImage(2, "b", HEIGHT, WIDTH, ()), CheckedImage(b"", "jpeg", 40, 60, "", ("IMAGE_TURNED",))),
        counted("val", AnnotatedImage(3, "c", HEIGHT, WIDTH, (instance, instance)), CheckedImage(b"", "jpeg", 4, 6, "", ())),
    ]
    found = merged(parts).as_json(NAMES)
    assert json.loads(json.dumps(found)) == found
    assert list(found) == ["train", "val"]
    train, val = found["train"], found["val"]
    assert (train["images"], train["images_without_instances"], train["categories"]) == (1, 1, {})
    assert (train["formats"], train["fixes"]) == ({"jpeg": 1}, {"IMAGE_TURNED": 1})
    assert (val["images"], val["images_without_instances"], val["instances"], val["instances_without_mask"]) == (2, 0, 4, 1)
    assert (val["crowds"], val["formats"], val["fixes"]) == (3, {"jpeg": 1, "png": 1}, {"BOX_CLIPPED": 3})
    assert list(val["formats"]) == ["jpeg", "png"]
    cat, dog = val["categories"]["1"], val["categories"]["2"]
    assert list(val["categories"]) == ["1", "2"]
    assert (cat["name"], cat["instances"], cat["images"], cat["crowds"], cat["mask_area"]) == ("cat", 1, 1, 0, {"count": 0})
    assert (dog["name"], dog["instances"], dog["images"], dog["crowds"]) == ("dog", 3, 2, 3)
    assert {name: dog["mask_area"][name] for name in ("count", "mean", "std_dev", "min", "max")} == {
        "count": 3,
        "mean": 5.0,
        "std_dev": 0.0,
        "min": 5.0,
        "max": 5.0,
    }
    assert (dog["box_height"]["mean"], dog["box_width"]["mean"]) == (2.0, 3.0)


def test_nothing_at_all_as_json() -> None:
    assert DatasetStatistics().as_json(NAMES) == {}


@given(parts=st.lists(single_images, max_size=3))
@settings(max_examples=30, deadline=None)
def test_statistics_survive_a_shuffle(parts: list[DatasetStatistics]) -> None:
    coder = StructCoder(DatasetStatistics)
    assert coder.decode(coder.encode(merged(parts))) == merged(parts)


def test_statistics_are_the_same_bytes_before_and_after_a_shuffle() -> None:
    coder = StructCoder(DatasetStatistics)
    statistics = counted("val", AnnotatedImage(1, "a", HEIGHT, WIDTH, ()), CheckedImage(b"", "png", 4, 6, "", ()))
    assert as_bytes(coder.decode(coder.encode(statistics))) == as_bytes(statistics)


def encoded_sizes(*counts: int) -> list[int]:
    """Of the statistics of the first so many of some images of one kind, seven instances each, all at other places."""
    draw = np.random.default_rng(1)
    shapes = [mask_of(int(area), 480, 640) for area in draw.lognormal(7, 1.5, 2000).clip(1, 300_000)]
    corners = (draw.random((max(counts), 7, 2, 2)) * (480, 640)).round(2)
    boxes = np.concatenate((corners.min(axis=2), corners.max(axis=2) + 0.01), axis=2).tolist()
    areas = draw.integers(0, len(shapes), (max(counts), 7)).tolist()
    tally, sizes = Tally(LABELS, "train-00000-of-00001.tfrecord"), []
    for number in range(max(counts)):
        described = zip(boxes[number], areas[number], strict=True)
        instances = tuple(Instance(1, 1 + area % 3, tuple(box), None, False, shapes[area]) for box, area in described)
        image = AnnotatedImage(number, f"{number}.jpg", 480, 640, instances)
        checked = CheckedImage(b"", "jpeg", 480, 640, "", ())
        tally.add(image, checked, run_lengths.masks_of([(instances, 480, 640)])[0], 1000 * number)
        if number + 1 in counts:
            sizes.append(len(StructCoder(DatasetStatistics).encode(DatasetStatistics({"train": tally.statistics()}))))
    return sizes


def test_ten_times_the_images_take_little_more_memory() -> None:
    few, many = encoded_sizes(1_000, 10_000)
    assert few < many < 1.8 * few


@pytest.mark.parametrize("count", [0, 1, 40])
def test_merging_in_a_pipeline(count: int) -> None:
    coders.register()
    parts = []
    for number in range(count):
        instance = Instance(1, 1 + number % 3, (0.0, 0.0, 1.0, 2.0), None, False, mask_of(1 + number % 20))
        image = AnnotatedImage(number, "a", HEIGHT, WIDTH, (instance,))
        parts.append(counted(("train", "val")[number % 2], image, CheckedImage(b"", "png", HEIGHT, WIDTH, "", ())))
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
        created = pipeline | beam.Create(parts).with_output_types(DatasetStatistics)
        assert_that(created | beam.CombineGlobally(MergeStatistics()), equal_to([merged(parts)]))
