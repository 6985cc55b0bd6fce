"""AssignShards: which split and shard an image belongs to, from a stable hash of its id and nothing else.

So the same images give the same shards for any order of the input, any runner and any number of workers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from transforms.batches import BatchWriter, Packer, read_batch
from transforms.bundles import in_window
from transforms.columns import pack_images, size_of, unpack_images
from transforms.records import AnnotatedImage, Census

SHARD_BYTES = 100_000_000  # what tf.data reads well from a bucket
MIN_IMAGES = 32  # no more shards than this allows, where the images are small
MIN_SHARDS = 8  # if there are images enough: what keeps several workers busy
JPEG_BYTES = 350_000  # a megapixel of a photograph takes about this
PNG_MASK_BYTES = 4_000  # a megapixel of a mask


def stable_hash(text: str, purpose: str) -> int:
    """A 64-bit hash, the same everywhere and always; hashes for different purposes are independent."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode()).digest(), "big")


class Splits(NamedTuple):
    """Names of splits with their shares, which add up to 1; `group_by`, if set, is searched in file names."""

    shares: tuple[tuple[str, float], ...] = (("train", 1.0),)
    group_by: str | None = None

    def of(self, image: AnnotatedImage) -> str:
        """The split of an image.

        Without `group_by` it comes from the image id; with it, from what the pattern's first group (or the whole
        pattern) finds in the file name, so that images with the same find stay together. A name without a find is a
        group of its own.
        """
        key = str(image.source_id)
        if self.group_by:
            name = image.view.file_name if image.view else image.file_name
            found = re.search(self.group_by, name)
            key = (found[1] if found.re.groups and found[1] is not None else found[0]) if found else name
        position = stable_hash(key, "split") / 2**64
        bound = 0.0
        for name, share in self.shares:
            bound += share
            if position < bound:
                return name
        return self.shares[-1][0]  # rounding left a sliver


class ShardPlan(NamedTuple):
    """How many shards each split has."""

    shards: tuple[tuple[str, int], ...]

    def file_name(self, split: str, index: int) -> str:
        """The name of a shard's file."""
        return f"{split}-{index:05d}-of-{dict(self.shards)[split]:05d}.tfrecord"

    def shard_keys(self) -> list[tuple[str, int]]:
        """(split, index) of all shards, in order."""
        return [(split, index) for split, count in self.shards for index in range(count)]


def plan_shards(
    census: Census, splits: Splits, num_shards: int | None, dense_masks: bool, max_side: int | None = None
) -> ShardPlan:
    """`num_shards` for each split; or, if None, about 100 MB a shard, estimated from what the annotations say.

    With a `max_side`, no image is taken for larger than a square of it.
    """
    if num_shards is not None:
        return ShardPlan(tuple((name, num_shards) for name, _ in splits.shares))
    mask_bytes = 4_000_000 if dense_masks else PNG_MASK_BYTES
    masks_an_image = census.annotations / max(1, census.images)
    pixels = min(census.pixels, census.images * max_side**2) if max_side else census.pixels
    estimate = pixels / 1e6 * (JPEG_BYTES + masks_an_image * mask_bytes)
    shards = []
    for name, share in splits.shares:
        by_size = math.ceil(estimate * share / SHARD_BYTES)
        by_count = min(MIN_SHARDS, math.ceil(census.images * share / MIN_IMAGES))
        shards.append((name, min(99_999, max(1, by_size, by_count))))
    return ShardPlan(tuple(shards))


def shard_of(image_id: int, count: int) -> int:
    """The shard, of `count` of its split, that an image belongs to."""
    return stable_hash(str(image_id), "shard") % count


def order_of(image: AnnotatedImage) -> tuple[int, int, int]:
    """What images are sorted by inside their shard: a hash, so that neighbours in the source part ways; tiles stay together."""
    return stable_hash(str(image.source_id), "order"), image.source_id, image.image_id


ShardKey = tuple[str, int]
"""Split and index of a shard."""
ShardBatch = tuple[ShardKey, bytes]


def shard_key(image: AnnotatedImage, plan: ShardPlan, splits: Splits) -> ShardKey:
    """The shard of an image."""
    split = splits.of(image)
    return split, shard_of(image.source_id, dict(plan.shards)[split])


def in_order(batches: Iterable[bytes]) -> list[AnnotatedImage]:
    """The images of a shard in the order that they are written in."""
    return sorted((image for batch in batches for image in unpack_images(read_batch(batch))), key=order_of)


class PackByShard(beam.DoFn):  # type: ignore[misc]
    """AnnotatedImage → (shard, batch of images)."""

    WAITING_BYTES = 4 << 20

    def __init__(self, splits: Splits, spill_folder: str | None) -> None:
        self.splits = splits
        self.waiting: Packer[ShardKey, AnnotatedImage] = Packer(BatchWriter(spill_folder), pack_images)

    def process(self, image: AnnotatedImage, plan: ShardPlan) -> Iterator[ShardBatch]:
        self.waiting.add(shard_key(image, plan, self.splits), image, len(image.file_name) + sum(map(size_of, image.instances)))
        if self.waiting.bytes >= self.WAITING_BYTES:
            yield from self.waiting.batches()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from map(in_window, self.waiting.batches())

    def teardown(self) -> None:
        self.waiting.writer.close()


class MergeCensus(beam.CombineFn):  # type: ignore[misc]
    """Adds up `Census`."""

    def create_accumulator(self) -> Census:
        return Census()

    def add_input(self, accumulator: Census, element: Census) -> Census:
        return accumulator + element

    def merge_accumulators(self, accumulators: Iterable[Census]) -> Census:
        return sum(accumulators, Census())

    def extract_output(self, accumulator: Census) -> Census:
        return accumulator


@dataclass
class PlanShards(beam.PTransform):  # type: ignore[misc]
    """One total `Census` → one `ShardPlan`."""

    splits: Splits = Splits()
    num_shards: int | None = None
    dense_masks: bool = False
    max_side: int | None = None

    def expand(self, census: beam.PCollection[Census]) -> beam.PCollection[ShardPlan]:
        return census | beam.Map(plan_shards, self.splits, self.num_shards, self.dense_masks, self.max_side)


@dataclass
class AssignShards(beam.PTransform):  # type: ignore[misc]
    """AnnotatedImage → ((split, shard index), batches of the images of that shard)."""

    plan: beam.pvalue.AsSingleton
    splits: Splits = Splits()
    spill_folder: str | None = None

    def expand(self, images: beam.PCollection[AnnotatedImage]) -> beam.PCollection[tuple[ShardKey, Iterable[bytes]]]:
        pack_by_shard = beam.ParDo(PackByShard(self.splits, self.spill_folder), self.plan).with_output_types(ShardBatch)
        return images | "PackByShard" >> pack_by_shard | "GroupByShard" >> beam.GroupByKey()
