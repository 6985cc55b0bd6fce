"""Numbering: images known by file names, and classes by names, get the ids that trainers want.

An image's id is a hash of its file name, so that it stays when other images come or go, and with it the split and the shard;
below 2^24, since some readers take ids through float32. Of two images with the same hash, the next free number is taken by
the one whose name comes later. Classes are numbered from 1 in the order of their names, or of the format's own list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import msgspec

from transforms.batches import read_batch
from transforms.records import AnnotatedImage, Category, ReasonCode, Reject, pack, problem, problem_of_image, reject_instance
from transforms.sharding import stable_hash
from transforms.sources.source import SourceImage

BUCKETS = 128
"""Of ids, each of which a worker gives out by itself."""
_IDS = 2**24 // BUCKETS  # in a bucket
_images = msgspec.msgpack.Decoder(list[SourceImage])


def bucket_of(file_name: str) -> int:
    """The bucket that an image's id falls into."""
    return stable_hash(file_name, "image id") % 2**24 // _IDS


def pack_source_images(images: Sequence[SourceImage]) -> list[bytes]:
    """Images as the section of a batch."""
    return [pack(list(images))]


def number_images(bucket: int, images: Iterable[SourceImage]) -> Iterator[tuple[int, SourceImage]]:
    """All images of a bucket, sorted by file name, each with its id; those with the same name have the same.

    A bucket that is full, of over 16 million images, goes on above 2^24.
    """
    by_name: dict[str, list[SourceImage]] = {}
    for image in sorted(images, key=lambda one: (one.image.file_name, one.problem is not None, pack(one))):
        by_name.setdefault(image.image.file_name, []).append(image)
    taken = {0} if bucket == 0 else set()  # 0 means "no image" to some readers
    for name, same in by_name.items():
        place = stable_hash(name, "image id") % _IDS
        for step in range(_IDS):
            image_id = bucket * _IDS + (place + step) % _IDS
            if image_id not in taken:
                break
        else:
            image_id = 2**24 + len(taken) * BUCKETS + bucket
        taken.add(image_id)
        for image in same:
            yield image_id, image


def with_ids(image_id: int, source: SourceImage, categories: Mapping[str, int]) -> Iterator[AnnotatedImage | Reject]:
    """The image with its ids, and rejects for those of its annotations that can't be used; or all rejects."""
    image = msgspec.structs.replace(source.image, image_id=image_id, instances=())
    wrong = source.problem
    if wrong:
        yield Reject("image", image_id, None, wrong.code, wrong.message, image.file_name)
    for annotation_id, why in source.rejects:
        yield reject_instance(image, annotation_id, problem_of_image(wrong) if wrong else why)
    kept = []
    for instance in source.image.instances:
        name = source.names[instance.category_id]
        if wrong:
            yield reject_instance(image, instance.annotation_id, problem_of_image(wrong))
        elif name in categories:
            kept.append(msgspec.structs.replace(instance, category_id=categories[name]))
        else:
            why = problem(ReasonCode.CATEGORY_UNKNOWN, f"there is no category {name!r}")
            yield reject_instance(image, instance.annotation_id, why)
    if not wrong:
        yield msgspec.structs.replace(image, instances=tuple(kept))


def number(bucket: int, batches: Iterable[bytes], categories: Sequence[Category]) -> Iterator[AnnotatedImage | Reject]:
    """The images of a bucket with their ids, and rejects; of several images with one file name, the first is taken."""
    ids = {category.name: category.category_id for category in categories}
    images = (image for batch in batches for section in read_batch(batch) for image in _images.decode(section))
    seen = None
    for image_id, source in number_images(bucket, images):
        if image_id == seen:
            why = problem(ReasonCode.DUP_IMAGE, f"there are annotations for {source.image.file_name!r} already")
            source = msgspec.structs.replace(source, problem=source.problem or why)  # noqa: PLW2901
        seen = image_id
        yield from with_ids(image_id, source, ids)


class Number(beam.DoFn):  # type: ignore[misc]
    """(bucket, packed images) → AnnotatedImage; and, tagged, rejects."""

    def process(self, group: tuple[int, Iterable[bytes]], categories: list[Category]) -> Iterator[Any]:
        for found in number(*group, categories):
            yield beam.pvalue.TaggedOutput("rejects", found) if isinstance(found, Reject) else found


class MergeNames(beam.CombineFn):  # type: ignore[misc]
    """All names, each once, sorted."""

    def create_accumulator(self) -> set[str]:
        return set()

    def add_input(self, accumulator: set[str], element: str) -> set[str]:
        accumulator.add(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[set[str]]) -> set[str]:
        return set().union(*accumulators)

    def extract_output(self, accumulator: set[str]) -> list[str]:
        return sorted(accumulator)


def in_order_of_names(names: Sequence[str]) -> list[Category]:
    """Categories numbered from 1."""
    return [Category(place, name) for place, name in enumerate(names, start=1)]
