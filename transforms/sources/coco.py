"""ReadAnnotations for COCO instances files.

FindFiles ──▶ CutBlocks ──▶ ParseBlocks ──▶ (bucket, images and annotations) ──GroupByKey──▶ Meet ──▶ AnnotatedImage

A file is cut into blocks that are parsed in parallel; several files are cut at the same time. Images and annotations meet
by image id in a grouping: they are packed by a hash bucket of the id, 1 to 8 MB of JSON a bucket, so that few, larger
elements travel and no worker ever holds more than a bucket. Annotation ids are looked through for duplicates in a grouping
of their own, as bare numbers.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import msgspec
import numpy as np
import numpy.typing as npt

from transforms import counters, memory, progress, storage
from transforms.batches import BatchWriter, Packer, read_batch
from transforms.bundles import in_window
from transforms.images import lift_cap_of_pillow
from transforms.records import (
    AnnotatedImage,
    Category,
    Census,
    InputError,
    Instance,
    ReasonCode,
    Reject,
    pack,
    problem,
    reject_image,
)
from transforms.sources.annotations import Annotations, find_annotations, log_found
from transforms.sources.coco_json import (
    MAX_PIXELS,
    CocoAnnotation,
    CocoDuplicate,
    CocoImage,
    Part,
    pack_parts,
    parse_annotations,
    parse_categories,
    parse_images,
    size_of_part,
    split_block,
    unpack_parts,
)
from transforms.sources.coco_panoptic import masks_folder, parse_panoptic, stuff_among
from transforms.sources.json_blocks import cut_blocks

LISTS = frozenset({"images", "annotations", "categories"})
BUCKET_BYTES = 8 << 20  # of JSON
FEW_BUCKETS, SMALL_BUCKET_BYTES = 32, 1 << 20
"""Of a file that would have fewer buckets, they are smaller: of seven, one of two workers had four, and the other waited."""
BLOCKS_AHEAD, LOCAL_BLOCKS_AHEAD = 8, 1  # of 1 MB; a bucket far away takes 50 ms and more for each
ID_SHARE = 32
"""The buckets for ids are so many times fewer: a pair of ids takes that much less than its annotation."""
_numbers = msgspec.msgpack.Decoder(list[int])


class FileBlock(NamedTuple):
    """A block of a file, and over how many buckets the file's images and annotations are spread."""

    path: str
    buckets: int
    key: str
    offset: int
    length: int
    crc32c: int


def find_files(pattern: str) -> Iterator[tuple[str, int]]:
    """The files that a pattern matches, each with the number of buckets for all of them together."""
    files = find_annotations(pattern)
    size = sum(file.bytes for file in files)
    buckets = max(1, size // BUCKET_BYTES, min(FEW_BUCKETS, size // SMALL_BUCKET_BYTES))
    for file in files:
        log_found(file)
        yield file.path, buckets


def cut_file(path: str, buckets: int) -> Iterator[FileBlock]:
    """The blocks of one file."""
    with storage.open_read(path) as file:
        for block in cut_blocks(file.read, LISTS, path):
            yield FileBlock(path, buckets, *block)


def read_block(block: FileBlock) -> bytes:
    """The bytes of a block, read from its file."""
    return storage.read_range(block.path, block.offset, block.length, block.crc32c)


_GOLDEN = 0x9E3779B97F4A7C15  # of 2**64; a hash of text would take a tenth of the time of all that is done to an annotation
Bucket = tuple[int, int]
"""A hash bucket of ids, and how many there are."""
BucketBatch = tuple[Bucket, bytes]


def bucket_of(number: int, buckets: int) -> Bucket:
    """The bucket of an image or annotation id."""
    return (number * _GOLDEN % 2**64 >> 32) % buckets, buckets


Found = TypeVar("Found", CocoImage, Instance)
IdPair = tuple[int, int]
"""An annotation's id and its image's."""


def pack_id_pairs(pairs: Sequence[IdPair]) -> list[bytes]:
    """Pairs as the section of a batch, for `unpack_id_pairs`."""
    return [pack([number for pair in pairs for number in pair])]


def unpack_id_pairs(sections: list[bytes]) -> npt.NDArray[np.int64]:
    """The pairs, int64 [N, 2]."""
    return np.array(_numbers.decode(sections[0]), np.int64).reshape(-1, 2)


class ParseBlocks(beam.DoFn):  # type: ignore[misc]
    """FileBlock → (bucket, packed parts); and, tagged, (bucket, packed id pairs), rejects, census, categories, stuff."""

    WAITING_BYTES = 4 << 20

    def __init__(self, max_pixels: int, spill_folder: str | None, panoptic: bool = False, masks: str | None = None) -> None:
        self.max_pixels, self.panoptic, self.masks = max_pixels, panoptic, masks
        self.writer = BatchWriter(spill_folder)
        self.parts: Packer[Bucket, Part] = Packer(self.writer, pack_parts)
        self.ids: Packer[Bucket, IdPair] = Packer(self.writer, pack_id_pairs)

    def setup(self) -> None:
        memory.tune()
        lift_cap_of_pillow()
        self.pool = ThreadPoolExecutor(BLOCKS_AHEAD)

    def teardown(self) -> None:
        self.pool.shutdown()
        self.writer.close()

    def start_bundle(self) -> None:
        self.reading: deque[tuple[FileBlock, Future[bytes]]] = deque()

    def process(self, block: FileBlock) -> Iterator[Any]:
        self.reading.append((block, self.pool.submit(read_block, block)))
        if len(self.reading) > (LOCAL_BLOCKS_AHEAD if storage.is_local(block.path) else BLOCKS_AHEAD):
            yield from self._parse_next()

    def _parse_next(self) -> Iterator[Any]:
        block, reading = self.reading.popleft()
        try:
            yield from self._parse(block, reading.result())
        except InputError as error:
            message = str(error).removeprefix("JSON_INVALID: ")
            raise InputError(
                f"JSON_INVALID: {block.path}: in {block.key!r}, within {block.length} bytes from byte {block.offset}: {message}"
            ) from None

    def _parse(self, block: FileBlock, data: bytes) -> Iterator[Any]:
        if block.key == "categories":
            raws = split_block(data)
            stuff = stuff_among(raws) if self.panoptic else frozenset()
            for category in parse_categories(raws):
                is_stuff = category.category_id in stuff
                yield beam.pvalue.TaggedOutput("stuff" if is_stuff else "categories", category)
            return
        pixels = 0
        parts: Sequence[Part | Reject]
        if block.key == "images":
            parts = parse_images(data, self.max_pixels)
        elif self.panoptic:
            parts = parse_panoptic(data, masks_folder(block.path, self.masks), self.max_pixels)
        else:
            parts = parse_annotations(data, self.max_pixels)
        for part in parts:
            if isinstance(part, CocoImage):
                pixels += part.height * part.width
            elif isinstance(part, CocoAnnotation) and not self.panoptic:  # segments' ids are their image's alone
                annotation_id = part.instance.annotation_id
                id_bucket, _ = bucket_of(annotation_id, max(1, block.buckets // ID_SHARE))
                self.ids.add((id_bucket, block.buckets), (annotation_id, part.image_id), 10)
            if isinstance(part, Reject):
                yield beam.pvalue.TaggedOutput("rejects", part)
            else:
                self.parts.add(bucket_of(part.image_id, block.buckets), part, size_of_part(part))
        images, annotations = (len(parts), 0) if block.key == "images" else (0, len(parts))
        progress.advance(progress.IMAGES_READ, images)
        counters.counter(counters.IMAGES_READ).inc(images)
        counters.counter(counters.ANNOTATIONS_READ).inc(annotations)
        yield beam.pvalue.TaggedOutput("census", Census(images, annotations, pixels))
        if self.parts.bytes + self.ids.bytes >= self.WAITING_BYTES:
            yield from self._batches()

    def finish_bundle(self) -> Iterator[Any]:
        while self.reading:
            yield from map(in_window, self._parse_next())
        yield from map(in_window, self._batches())

    def _batches(self) -> Iterator[Any]:
        yield from self.parts.batches()
        yield from (beam.pvalue.TaggedOutput("ids", keyed) for keyed in self.ids.batches())


class FindDuplicates(beam.DoFn):  # type: ignore[misc]
    """(bucket, batches of id pairs) → (bucket of the image, batch of `CocoDuplicate`s)."""

    def __init__(self, spill_folder: str | None) -> None:
        self.writer = BatchWriter(spill_folder)

    def teardown(self) -> None:
        self.writer.close()

    def process(self, group: tuple[Bucket, Iterable[bytes]]) -> Iterator[BucketBatch]:
        (_, buckets), batches = group
        marks: defaultdict[Bucket, list[CocoDuplicate]] = defaultdict(list)
        for duplicate in find_duplicates([unpack_id_pairs(read_batch(batch)) for batch in batches]):
            marks[bucket_of(duplicate.image_id, buckets)].append(duplicate)
        for bucket, duplicates in marks.items():
            yield bucket, self.writer.write(pack_parts(duplicates))


def find_duplicates(pairs: list[npt.NDArray[np.int64]]) -> Iterator[CocoDuplicate]:
    """Arrays [N, 2] of annotation id and image id → the ids that several images claim, for all but the first of them.

    First is the image with the smallest id.
    """
    claims = np.unique(np.concatenate(pairs), axis=0)
    repeated = np.flatnonzero(claims[1:, 0] == claims[:-1, 0]) + 1
    firsts = np.searchsorted(claims[:, 0], claims[repeated, 0])
    for (annotation_id, image_id), (_, first) in zip(claims[repeated].tolist(), claims[firsts].tolist(), strict=True):
        yield CocoDuplicate(image_id, annotation_id, first)


def meet(
    batches: Iterable[bytes], categories: frozenset[int], stuff: frozenset[int] = frozenset()
) -> Iterator[AnnotatedImage | Reject]:
    """The images of a bucket with their annotations, and rejects for what found no partner or came twice."""
    images: defaultdict[int, list[CocoImage]] = defaultdict(list)
    instances: defaultdict[int, list[Instance]] = defaultdict(list)
    taken: dict[tuple[int, int], int] = {}
    for batch in batches:
        for part in unpack_parts(read_batch(batch)):
            if isinstance(part, CocoImage):
                images[part.image_id].append(part)
            elif isinstance(part, CocoAnnotation):
                instances[part.image_id].append(part.instance)
            else:
                taken[part.image_id, part.annotation_id] = part.first_image_id
    for image_id in sorted(images.keys() | instances.keys()):
        entries = _in_order(images[image_id], lambda entry: entry.problem is not None)
        file_name = entries[0].file_name if entries else None
        kept: dict[int, Instance] = {}
        for instance in _in_order(instances[image_id], lambda instance: instance.annotation_id):
            wrong = None
            if (image_id, instance.annotation_id) in taken:
                first = taken[image_id, instance.annotation_id]
                wrong = problem(ReasonCode.DUP_ID, f"image {first} has an annotation with this id already")
            elif instance.annotation_id in kept:
                wrong = problem(ReasonCode.DUP_ID, "this image has an annotation with this id already")
            elif not images[image_id]:
                wrong = problem(ReasonCode.IMAGE_ORPHAN, f"there is no image with id {image_id}")
            elif instance.category_id in stuff:
                wrong = problem(ReasonCode.DROPPED_STUFF, f"its category, {instance.category_id}, is stuff")
            elif instance.category_id not in categories:
                wrong = problem(ReasonCode.CATEGORY_UNKNOWN, f"there is no category with id {instance.category_id}")
            if wrong:
                yield Reject("annotation", image_id, instance.annotation_id, wrong.code, wrong.message, file_name)
            else:
                kept[instance.annotation_id] = instance
        for entry in entries[:1]:
            image = AnnotatedImage(image_id, entry.file_name, entry.height, entry.width, tuple(kept.values()), entry.extras)
            if entry.problem:
                yield from reject_image(image, entry.problem)
            else:
                yield image
        for entry in entries[1:]:
            message = f"another image ({entries[0].file_name}) has this id already"
            yield Reject("image", image_id, None, ReasonCode.DUP_IMAGE.name, message, entry.file_name)


def _in_order(found: list[Found], key: Callable[[Found], int]) -> list[Found]:
    """Sorted; the order of input must not matter, so what has the same key is told apart by its content."""
    if len(set(map(key, found))) == len(found):
        return sorted(found, key=key)
    return sorted(found, key=lambda one: (key(one), pack(one)))


class Meet(beam.DoFn):  # type: ignore[misc]
    """(bucket, packed parts) → AnnotatedImage; and, tagged, rejects."""

    def process(self, group: tuple[Bucket, Iterable[bytes]], categories: list[Category], stuff: list[Category]) -> Iterator[Any]:
        known, without_instances = (frozenset(category.category_id for category in some) for some in (categories, stuff))
        for met in meet(group[1], known, without_instances):
            yield beam.pvalue.TaggedOutput("rejects", met) if isinstance(met, Reject) else met


@dataclass
class ReadCoco(beam.PTransform):  # type: ignore[misc]
    """COCO instances files, or `panoptic` ones, by path or glob pattern, to `Annotations`.

    The PNGs of panoptic files lie in `masks`, or in a folder beside each, of its name. Raises `InputError` in the pipeline
    where the file as a whole is unusable; a bad element is a reject.
    """

    pattern: str
    max_pixels: int = MAX_PIXELS
    spill_folder: str | None = None
    panoptic: bool = False
    masks: str | None = None

    def expand(self, pipeline: beam.Pipeline) -> Annotations:
        parsed = (
            pipeline
            | beam.Create([self.pattern])
            | "FindFiles" >> beam.FlatMap(find_files).with_output_types(tuple[str, int])
            | "SpreadFiles" >> beam.Reshuffle()  # or one worker would cut them all, one after the other
            | "CutBlocks" >> beam.FlatMapTuple(cut_file).with_output_types(FileBlock)
            | "SpreadBlocks" >> beam.Reshuffle()
            | "ParseBlocks"
            >> beam.ParDo(ParseBlocks(self.max_pixels, self.spill_folder, self.panoptic, self.masks))
            .with_output_types(BucketBatch, ids=BucketBatch, rejects=Reject, census=Census, categories=Category, stuff=Category)
            .with_outputs("ids", "rejects", "census", "categories", "stuff", main="parts")
        )
        duplicates = (
            parsed.ids
            | "GroupIds" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.ParDo(FindDuplicates(self.spill_folder)).with_output_types(BucketBatch)
        )
        met = (
            (parsed.parts, duplicates)
            | beam.Flatten()
            | "GroupByImage" >> beam.GroupByKey()
            | "Meet"
            >> beam.ParDo(Meet(), beam.pvalue.AsList(parsed.categories), beam.pvalue.AsList(parsed.stuff))
            .with_output_types(AnnotatedImage, rejects=Reject)
            .with_outputs("rejects", main="images")
        )
        rejects = (parsed.rejects, met.rejects) | "Rejects" >> beam.Flatten()
        return Annotations(met.images, parsed.categories, rejects, parsed.census)
