"""Ids that are given out: stable, below 2^24, each only once, whatever the order and the company."""

from __future__ import annotations

import random
from collections import defaultdict

import msgspec
import pytest

from transforms.batches import BatchWriter
from transforms.records import AnnotatedImage, Category, Instance, Problem, Reject
from transforms.sources import numbering
from transforms.sources.numbering import bucket_of, number, number_images, pack_source_images
from transforms.sources.source import SourceImage

CATEGORIES = [Category(1, "cat"), Category(2, "dog")]


def source(name: str, *instances: int, **fields: object) -> SourceImage:
    """An image whose instances have these places in the names."""
    made = tuple(Instance(place, at, (1.0, 2.0, 5.0, 7.0), None, False, None) for place, at in enumerate(instances, start=1))
    image = SourceImage(AnnotatedImage(0, name, 20, 30, made), ("dog", "cat", "bird"))
    return msgspec.structs.replace(image, **fields)


def numbered(*images: SourceImage, bucket: int = 5) -> list[AnnotatedImage | Reject]:
    batches = [BatchWriter(None).write(pack_source_images([image])) for image in images]
    return list(number(bucket, batches, CATEGORIES))


def ids_of(names: list[str]) -> dict[str, int]:
    buckets = defaultdict(list)
    for name in names:
        buckets[bucket_of(name)].append(source(name))
    return {one.image.file_name: image_id for bucket in buckets for image_id, one in number_images(bucket, buckets[bucket])}


def test_ids_are_below_two_to_the_24th_and_each_only_once() -> None:
    names = [f"folder {number % 7}/picture {number}.jpg" for number in range(40_000)]
    ids = ids_of(names)
    assert len(set(ids.values())) == 40_000  # by a hash of 24 bits alone, some 48 pairs would have the same
    assert min(ids.values()) >= 1
    assert max(ids.values()) < 2**24
    random.Random(1).shuffle(names)
    assert ids_of(names) == ids


def test_ids_stay_when_other_images_come() -> None:
    few, many = [f"{number}.jpg" for number in range(1000)], [f"{number}.jpg" for number in range(3000)]
    before, after = ids_of(few), ids_of(many)
    assert sum(before[name] != after[name] for name in few) <= 2


def test_a_full_bucket_goes_on_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbering, "_IDS", 4)
    ids = [image_id for image_id, _ in number_images(3, [source(f"{number}.jpg") for number in range(7)])]
    assert len(set(ids)) == 7
    assert sorted(ids)[:4] == [12, 13, 14, 15]
    assert all(image_id >= 2**24 for image_id in sorted(ids)[4:])


def test_zero_is_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbering, "_IDS", 3)
    ids = [image_id for image_id, _ in number_images(0, [source(f"{number}.jpg") for number in range(2)])]
    assert sorted(ids) == [1, 2]


def test_names_become_category_ids() -> None:
    (image,) = numbered(source("a.jpg", 0, 1, 0))
    assert isinstance(image, AnnotatedImage)
    assert [instance.category_id for instance in image.instances] == [2, 1, 2]


def test_a_name_that_the_list_does_not_have_is_a_reject() -> None:
    reject, image = numbered(source("a.jpg", 0, 2))
    assert isinstance(image, AnnotatedImage)
    assert isinstance(reject, Reject)
    assert (reject.kind, reject.annotation_id, reject.reason, reject.file_name) == ("annotation", 2, "CATEGORY_UNKNOWN", "a.jpg")
    assert reject.image_id == image.image_id
    assert len(image.instances) == 1


def test_rejects_of_the_file_get_the_images_id() -> None:
    reject, image = numbered(source("a.jpg", 0, rejects=((2, Problem("POLY_MALFORMED", "odd")),)))
    assert isinstance(image, AnnotatedImage)
    assert reject == Reject("annotation", image.image_id, 2, "POLY_MALFORMED", "odd", "a.jpg")


def test_an_image_that_cannot_be_used_takes_all_its_annotations_with_it() -> None:
    bad = source("a.jpg", 0, 1, rejects=((3, Problem("POLY_MALFORMED", "odd")),), problem=Problem("DIM_LIMIT", "large"))
    found = numbered(bad)
    assert [(one.kind, one.annotation_id, one.reason) for one in found if isinstance(one, Reject)] == [
        ("image", None, "DIM_LIMIT"),
        ("annotation", 3, "DIM_LIMIT"),
        ("annotation", 1, "DIM_LIMIT"),
        ("annotation", 2, "DIM_LIMIT"),
    ]
    assert len(found) == 4


def test_of_the_same_image_twice_one_is_taken_whatever_the_order() -> None:
    first, second, unusable = source("a.jpg", 0), source("a.jpg", 1, 1), source("a.jpg", problem=Problem("DIM_LIMIT", "large"))
    found = numbered(first, unusable, second)
    assert found == numbered(second, first, unusable)
    assert [one.reason for one in found if isinstance(one, Reject) and one.kind == "image"] == ["DUP_IMAGE", "DIM_LIMIT"]
    (image,) = (one for one in found if isinstance(one, AnnotatedImage))
    rejected = [one for one in found if isinstance(one, Reject) and one.kind == "annotation"]
    assert len(image.instances) + len(rejected) == 3
