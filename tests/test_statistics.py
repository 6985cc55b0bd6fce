"""Statistics: the same value however the data is cut into parts and in whatever order these are merged."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms import coders, run_lengths
from transforms.coders import StructCoder
from transforms.examples import LabelMap
from transforms.images import CheckedImage
from transforms.records import AnnotatedImage, Category, Instance, RunLengths
from transforms.shards import count_image
from transforms.statistics import (
    CategoryStatistics,
    DatasetStatistics,
    Histogram,
    MergeStatistics,
    SplitStatistics,
    bin_of,
    bounds_of,
)

NAMES = {1: "cat", 2: "dog", 3: "owl"}
LABELS = LabelMap.of([Category(label, name) for label, name in NAMES.items()], False)
HEIGHT, WIDTH = 4, 6


def histogram(values: Iterable[float]) -> Histogram:
    made = Histogram()
    for value in values:
        made.add(value)
    return made


def as_bytes(statistics: DatasetStatistics) -> bytes:
    return json.dumps(statistics.as_json(NAMES)).encode()


def merged(parts: Iterable[DatasetStatistics]) -> DatasetStatistics:
    total = DatasetStatistics()
    for part in parts:
        total.merge(part)
    return total


def counted(split: str, image: AnnotatedImage, checked: CheckedImage) -> DatasetStatistics:
    """The statistics of a single image, as the shards' writer counts it."""
    statistics = SplitStatistics()
    count_image(statistics, image, checked, run_lengths.masks_of(image.instances, HEIGHT, WIDTH), LABELS)
    return DatasetStatistics({split: statistics})


def mask_of(area: int) -> RunLengths:
    return RunLengths(HEIGHT, WIDTH, run_lengths.encode_counts(np.array([HEIGHT * WIDTH - area, area])))


instances = st.builds(
    Instance,
    st.just(1),
    st.sampled_from(sorted(NAMES)),
    st.none() | st.tuples(st.floats(0, 2), st.floats(0, 3), st.floats(2, HEIGHT), st.floats(3, WIDTH)),
    st.none(),
    st.booleans(),
    st.none() | st.integers(1, HEIGHT * WIDTH).map(mask_of),
    st.lists(st.sampled_from(["BOX_CLIPPED", "POLYGON_CLIPPED"]), unique=True).map(tuple),
)
single_images = st.builds(
    counted,
    st.sampled_from(["train", "val", "test"]),
    st.builds(
        AnnotatedImage, st.just(1), st.just("a"), st.just(HEIGHT), st.just(WIDTH), st.lists(instances, max_size=4).map(tuple)
    ),
    st.builds(
        CheckedImage,
        st.just(b""),
        st.sampled_from(["jpeg", "png"]),
        st.integers(1, 5000),
        st.integers(1, 5000),
        st.just(""),
        st.lists(st.sampled_from(["IMAGE_TURNED", "IMAGE_CONVERTED"]), unique=True).map(tuple),
    ),
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


@settings(max_examples=150, deadline=None)
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


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(0, 1e12), max_size=30), cut=st.integers(0, 30), randomness=st.randoms(use_true_random=False))
def test_histograms_of_parts_merge_to_that_of_the_whole(values: list[float], cut: int, randomness: random.Random) -> None:
    whole = histogram(values)
    randomness.shuffle(values)
    one, other = histogram(values[:cut]), histogram(values[cut:])
    one.merge(other)
    assert one.as_json() == whole.as_json()
    assert sum(whole.bins.values()) == whole.count == len(values)


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
    assert Histogram().bins == {}


# ---------------------------------------------------------------------------------------------------------- histogram


@settings(max_examples=500)
@given(value=st.floats(1e-300, 1e300))
@example(value=1.0)
@example(value=math.nextafter(1.0, 0))
@example(value=math.nextafter(1.25, 0))
@example(value=2.0**52 + 1)
def test_a_bin_holds_its_values(value: float) -> None:
    low, high = bounds_of(bin_of(value))
    assert low <= value < high
    assert 0.14 < (high - low) / low <= 0.25


@given(exponent=st.integers(-900, 900), part=st.integers(0, 3))
def test_bins_border_on_each_other(exponent: int, part: int) -> None:
    bin_ = exponent * 4 + part
    low, high = bounds_of(bin_)
    assert bin_of(low) == bin_
    assert bin_of(math.nextafter(high, 0)) == bin_
    assert bin_of(high) == bin_ + 1
    assert bounds_of(bin_ + 1)[0] == high


@given(one=st.floats(0, 1e300), other=st.floats(0, 1e300))
def test_bins_are_in_the_order_of_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert bin_of(low) <= bin_of(high)


def test_zero_has_a_bin_of_its_own() -> None:
    assert bounds_of(bin_of(0.0)) == bounds_of(bin_of(0)) == (0.0, 0.0)
    assert histogram([0, 1e-300]).as_json()["bins"][0] == [0.0, 0.0, 1]


def test_a_histogram_as_json() -> None:
    assert Histogram().as_json() == {"count": 0}
    assert histogram([1.0, 7.0, 0.0, 1.2, 6.005]).as_json() == {
        "count": 5,
        "mean": 3.04,
        "min": 0.0,
        "max": 7.0,
        "bins": [[0.0, 0.0, 1], [1.0, 1.25, 2], [6.0, 7.0, 1], [7.0, 8.0, 1]],
    }


def test_the_mean_of_many_values_is_exact_to_four_digits() -> None:
    assert histogram([0.1] * 100_000 + [1e12]).as_json()["mean"] == round((1e12 + 10_000) / 100_001, 4)


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
    assert dog["mask_area"] == {"count": 3, "mean": 5.0, "min": 5, "max": 5, "bins": [[5.0, 6.0, 3]]}
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


@pytest.mark.parametrize("count", [0, 1, 40])
def test_merging_in_a_pipeline(count: int) -> None:
    coders.register()
    parts = [
        counted(
            ("train", "val")[number % 2],
            AnnotatedImage(
                number, "a", HEIGHT, WIDTH, (Instance(1, 1 + number % 3, None, None, False, mask_of(1 + number % 20)),)
            ),
            CheckedImage(b"", "png", number, 6, "", ()),
        )
        for number in range(count)
    ]
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
        created = pipeline | beam.Create(parts).with_output_types(DatasetStatistics)
        assert_that(created | beam.CombineGlobally(MergeStatistics()), equal_to([merged(parts)]))
