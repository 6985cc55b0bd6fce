"""Hints: each appears from its bound on, and not below."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from beam_pipeline import hints
from beam_pipeline.hints import HINTS, DataSet, Hint
from beam_pipeline.words import UNIT
from transforms.records import Fix
from transforms.sketch import Sketch
from transforms.statistics import CategoryStatistics, DatasetStatistics, SplitStatistics


def sketch(values: dict[float, int]) -> Sketch:
    made = Sketch()
    for value, times in values.items():
        made.add(value, times)
    return made


def split(classes: dict[int, int] | None = None, images: int = 100, **fields: Any) -> SplitStatistics:
    """A split with this many instances of each class, by label."""
    classes = classes if classes is not None else {1: 50, 2: 50}
    categories = {label: CategoryStatistics(instances=count, images=count) for label, count in classes.items()}
    return SplitStatistics(images=images, instances=sum(classes.values()), categories=categories, **fields)


def data_set(
    splits: dict[str, SplitStatistics], names: dict[int, str] | None = None, shard_bytes: int = 1000, **manifest: Any
) -> DataSet:
    whole = {
        "images": {"read": 100, "written": 100, "rejected": 0, "dropped": 0},
        "annotations": {"read": 100, "written": 100, "rejected": 0, "dropped": 0},
        "options": {"mask_encoding": "png"},
        "shards": [{"split": name, "bytes": shard_bytes} for name in splits],
        **manifest,
    }
    return DataSet.of(whole, names or {1: "cat", 2: "dog"}, DatasetStatistics(splits))


def said(find: Callable[[DataSet], Iterator[Hint]], data: DataSet) -> list[str]:
    return [hint.found.replace(UNIT, " ") for hint in find(data)]


def one(**given: Any) -> DataSet:
    """A data set of one split."""
    return data_set({"train": split(**given)})


def test_a_data_set_without_a_flaw_has_no_hint() -> None:
    assert hints.hints(data_set({"train": split(), "val": split()})) == []


def test_each_hint_is_asked_for() -> None:
    found = {
        name
        for name, value in vars(hints).items()
        if callable(value) and "Iterator" in str(getattr(value, "__annotations__", ""))
    }
    assert found == {find.__name__ for find in HINTS}


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_rejected(kind: str) -> None:
    def rejecting(count: int) -> DataSet:
        ledger = {"read": 1000, "written": 1000 - count, "rejected": count, "dropped": 0}
        return data_set({"train": split()}, **{kind: ledger})

    assert said(hints.rejected, rejecting(9)) == []
    assert said(hints.rejected, rejecting(10)) == [f"1.0 % of the {kind} could not be written."]


def test_classes_that_are_missing_or_rare() -> None:
    names = {1: "cat", 2: "dog", 3: "emu", 4: "fox"}
    data = data_set({"train": split({1: 10, 2: 5}), "val": split({2: 4, 4: 1})}, names)
    assert said(hints.missing_classes, data) == ["1 class has no instance: emu."]
    assert said(hints.rare_classes, data) == ["2 classes have fewer than 10 instances: fox (1), dog (9)."]
    assert said(hints.missing_classes, data_set({"train": split({})}, names)) == []


def test_uneven_classes() -> None:
    names = {1: "cat", 2: "dog", 3: "emu"}
    assert said(hints.uneven_classes, data_set({"train": split({1: 999, 2: 10, 3: 1})}, names)) == []
    expected = ["Classes are very uneven: cat has 1,000 instances, the median class 10."]
    assert said(hints.uneven_classes, data_set({"train": split({1: 1000, 2: 10, 3: 1})}, names)) == expected
    assert said(hints.uneven_classes, data_set({"train": split({1: 1000, 2: 1})})) == []


def test_a_class_that_one_split_lacks() -> None:
    splits = {"train": split({1: 50, 2: 50}), "val": split({1: 50}), "empty": split({}, images=0)}
    assert said(hints.splits_without_class, data_set(splits)) == ["The split val lacks 1 class that others have: dog."]


def test_splits_that_differ() -> None:
    splits = {"train": split({1: 500, 2: 500}), "val": split({1: 400, 2: 100})}
    shares = "cat makes 50 % of the instances of train, 80 % of those of val."
    assert said(hints.different_splits, data_set(splits)) == [f"Classes are spread otherwise in train than in val: {shares}"]
    few = {"train": split({1: 5, 2: 5}), "val": split({1: 4, 2: 1})}
    assert said(hints.different_splits, data_set(few)) == []


def test_small_splits() -> None:
    splits = {"train": split(images=20), "val": split(images=19), "test": split({}, images=0)}
    expected = ["The split val has only 19 images.", "The split test has no image."]
    assert said(hints.small_splits, data_set(splits)) == expected
    assert said(hints.small_splits, one(images=3)) == []
    assert said(hints.small_splits, one(classes={}, images=0)) == ["The split train has no image."]


def test_empty_images() -> None:
    assert said(hints.empty_images, one(images_without_instances=4)) == []
    assert said(hints.empty_images, one(images_without_instances=5)) == ["5.0 % of the images (5) have no instance."]


def test_crowded_images() -> None:
    assert said(hints.crowded_images, one(instances_an_image=sketch({100: 1}))) == []
    expected = ["The fullest image has 101 instances; trainers keep 100 by default."]
    assert said(hints.crowded_images, one(instances_an_image=sketch({3: 99, 101: 1}))) == expected


@pytest.mark.parametrize("fix", list(Fix))
def test_put_right(fix: Fix) -> None:
    total = 100 if fix.name.startswith("IMAGE_") else 200
    counts = {1: 100, 2: 100}
    assert said(hints.put_right, one(classes=counts, fixes={fix.name: total // 100 - 1})) == []
    found = said(hints.put_right, one(classes=counts, fixes={fix.name: total // 50}))
    kind = "images" if total == 100 else "instances"
    asked_for = fix in (Fix.IMAGE_SCALED, Fix.IMAGE_TILED)
    assert found == ([] if asked_for else [f"{total // 50} {fix.value} (2.0 % of the {kind})."])


def test_without_mask() -> None:
    assert said(hints.without_mask, one(instances_without_mask=0)) == []
    assert said(hints.without_mask, one(instances_without_mask=1)) == ["1.0 % of the instances (1) have a box and no mask."]


def with_areas(values: dict[float, int]) -> DataSet:
    category = CategoryStatistics(instances=100, mask_area=sketch(values))
    return data_set({"train": SplitStatistics(images=100, instances=100, categories={1: category})})


def test_tiny_masks() -> None:
    assert said(hints.tiny_masks, with_areas({255: 4, 5000: 96})) == []
    assert said(hints.tiny_masks, with_areas({250: 5, 5000: 95})) == ["5.0 % of the masks are smaller than 256 pixels (16 × 16)."]
    assert said(hints.tiny_masks, with_areas({260: 100})) == []
    assert said(hints.tiny_masks, with_areas({})) == []


def test_long_boxes() -> None:
    assert said(hints.long_boxes, one(box_aspect=sketch({1.0: 91, 5.0: 9}))) == []
    expected = ["10 % of the boxes are more than 4 times as long as wide."]
    assert said(hints.long_boxes, one(box_aspect=sketch({1.0: 90, 5.0: 5, 0.2: 5}))) == expected
    assert said(hints.long_boxes, one(box_aspect=sketch({3.9: 50, 0.26: 50}))) == []


def test_large_images() -> None:
    small, large = {"image_height": sketch({600: 100})}, sketch({2000: 51, 2700: 49})
    assert said(hints.large_images, one(image_width=large, **small)) == []
    large.add(2700, 51)
    assert said(hints.large_images, one(image_width=large, **small)) == [
        "100 % of the images have a side of 2,666 pixels or more."
    ]


def test_dense_masks() -> None:
    data = data_set({"train": split(dense_mask_bytes=41 * 10**9, image_bytes=700)}, shard_bytes=300_000_700)
    assert said(hints.dense_masks, data) == ["Dense masks would need 41 GB: PNG takes 300 MB."]
    few = data_set({"train": split(dense_mask_bytes=999_000_000)})
    assert said(hints.dense_masks, few) == []
    little = data_set({"train": split(dense_mask_bytes=2 * 10**9)}, shard_bytes=300_000_000)
    assert said(hints.dense_masks, little) == []
    dense = data_set({"train": split(dense_mask_bytes=2 * 10**9)}, shard_bytes=3 * 10**9, options={"mask_encoding": "dense"})
    assert said(hints.dense_masks, dense) == ["Dense masks take 2.0 GB of the 3.0 GB."]


def test_statistics_are_not_changed_by_looking_at_them() -> None:
    statistics = DatasetStatistics({"train": split(image_width=sketch({3: 4})), "val": split(image_width=sketch({5: 6}))})
    before = repr(statistics)
    data = DataSet.of({"shards": [{"split": "val"}, {"split": "train"}]}, {}, statistics)
    assert repr(statistics) == before
    assert data.whole.images == 200
    assert data.whole.image_width.count == 10
    assert list(data.splits) == ["val", "train"]
