"""WriteShards: one shard, one image at a time, from packed images to a TFRecord file under its final name.

Images are read and checked by a few threads ahead of the encoder, so that reading, decoding and hashing (which release the
GIL) overlap with it; how many wait is bounded, and with it the memory.
"""

from __future__ import annotations

import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, get_args

import apache_beam as beam
import msgspec
from apache_beam.metrics import Metrics
from PIL import Image

from transforms import progress, run_lengths, storage
from transforms.encode import MaskEncoding
from transforms.examples import LabelMap, build_record
from transforms.images import CheckedImage, ImageFolder, check_image
from transforms.records import AnnotatedImage, Category, Problem, Reject, reject_image
from transforms.run_lengths import Runs
from transforms.sharding import ShardKey, ShardPlan, in_order
from transforms.statistics import CategoryStatistics, DatasetStatistics, SplitStatistics
from transforms.tfrecord import RecordWriter

READ_THREADS = 4
TEMPORARY = "_temporary"
"""The folder, below the output, for what has no final name yet."""
SCRATCH = "scratch"
"""The folder in it for what the workers of one machine keep to themselves."""


def temporary_name(output: str, name: str) -> str:
    """A path for a file until it is whole; no other attempt at the same file has it."""
    return storage.join(output, TEMPORARY, f"{name}.{uuid.uuid4().hex}")


class ShardSummary(msgspec.Struct, frozen=True):
    """What a shard's file holds; `crc32c` is of the whole file."""

    split: str
    index: int
    file_name: str
    records: int
    instances: int
    bytes: int
    crc32c: int


class RecordOptions(NamedTuple):
    """What decides over the bytes of a record, apart from its image and annotations."""

    encoding: MaskEncoding = "png"
    contiguous_ids: bool = False
    max_record_bytes: int = 512_000_000
    max_pixels: int = 100_000_000


Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order, the function running in threads at most 2 · `threads` items ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > 2 * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def count_image(
    split: SplitStatistics, image: AnnotatedImage, checked: CheckedImage, masks: Sequence[Runs], labels: LabelMap
) -> None:
    """Adds a written image to the statistics of its split."""
    split.images += 1
    split.images_without_instances += not image.instances
    split.instances += len(image.instances)
    split.instances_an_image.add(len(image.instances))
    split.image_height.add(checked.height)
    split.image_width.add(checked.width)
    split.formats[checked.format] = split.formats.get(checked.format, 0) + 1
    fixes = Counter(checked.fixes)
    seen = set()
    for instance, mask in zip(image.instances, masks, strict=True):
        fixes.update(instance.fixes)
        split.crowds += instance.is_crowd
        label, _ = labels.labels[instance.category_id]
        category = split.categories.setdefault(label, CategoryStatistics())
        category.instances += 1
        category.images += label not in seen
        seen.add(label)
        category.crowds += instance.is_crowd
        if instance.shape is None:
            split.instances_without_mask += 1
        else:
            category.mask_area.add(run_lengths.area(mask))
        if instance.box:
            ymin, xmin, ymax, xmax = instance.box
            category.box_height.add(ymax - ymin)
            category.box_width.add(xmax - xmin)
    for fix, count in fixes.items():
        split.fixes[fix] = split.fixes.get(fix, 0) + count


def write_shard(
    output: str,
    key: ShardKey,
    plan: ShardPlan,
    packed: Iterable[bytes],
    folder: ImageFolder,
    labels: LabelMap,
    options: RecordOptions,
) -> Iterator[Reject | ShardSummary | DatasetStatistics]:
    """Writes one shard under a temporary name and moves it; gives a reject for all that is not in it, then what is.

    The same images give the same bytes, so whoever else writes this shard at the same time does no harm.
    Raises where storage fails, or where the file has another size afterwards than was written.
    """
    split, index = key
    name = plan.file_name(split, index)
    temporary = temporary_name(output, name)
    statistics = SplitStatistics()

    def load(image: AnnotatedImage) -> CheckedImage | Problem:
        data = folder.read(image.file_name)
        return data if isinstance(data, Problem) else check_image(data, image.height, image.width, options.max_pixels)

    with storage.open_write(temporary) as file:
        writer = RecordWriter(file)
        for image, checked in ahead(load, in_order(packed), READ_THREADS):
            progress.advance(progress.IMAGES_DONE)
            record: bytes | Problem
            if isinstance(checked, Problem):
                record = checked
            else:
                masks = run_lengths.masks_of(image.instances, checked.height, checked.width)
                record = build_record(image, checked, masks, labels, options.encoding, options.max_record_bytes)
            if isinstance(record, Problem):
                yield from reject_image(image, record)
            elif isinstance(checked, CheckedImage):
                writer.write(record)
                count_image(statistics, image, checked, masks, labels)
    final = storage.join(output, name)
    storage.move(temporary, final)
    found = storage.match(final)
    if [file.bytes for file in found] != [writer.bytes]:
        raise OSError(f"{final}: {writer.bytes} bytes were written, but storage lists {found}")
    yield ShardSummary(split, index, name, statistics.images, statistics.instances, writer.bytes, writer.crc32c)
    yield DatasetStatistics({split: statistics})


class _WriteShard(beam.DoFn):  # type: ignore[misc]
    def __init__(self, output: str, folder: ImageFolder, options: RecordOptions) -> None:
        self.output, self.folder, self.options = output, folder, options
        self.images_written = Metrics.counter("maskbeam", "images_written")
        self.instances_written = Metrics.counter("maskbeam", "instances_written")
        self.bytes_written = Metrics.counter("maskbeam", "bytes_written")

    def setup(self) -> None:
        Image.MAX_IMAGE_PIXELS = None  # the cap is our own, --max_megapixels

    def process(
        self, shard: tuple[ShardKey, Iterable[bytes]], plan: ShardPlan, categories: list[Category]
    ) -> Iterator[ShardSummary | beam.pvalue.TaggedOutput]:
        labels = LabelMap.of(categories, self.options.contiguous_ids)
        for result in write_shard(self.output, shard[0], plan, shard[1], self.folder, labels, self.options):
            if isinstance(result, Reject):
                yield beam.pvalue.TaggedOutput("rejects", result)
            elif isinstance(result, DatasetStatistics):
                yield beam.pvalue.TaggedOutput("statistics", result)
            else:
                self.images_written.inc(result.records)
                self.instances_written.inc(result.instances)
                self.bytes_written.inc(result.bytes)
                yield result


class Written(NamedTuple):
    """What `WriteShards` gives."""

    summaries: beam.PCollection[ShardSummary]
    statistics: beam.PCollection[DatasetStatistics]
    rejects: beam.PCollection[Reject]


@dataclass
class WriteShards(beam.PTransform):  # type: ignore[misc]
    """((split, shard index), packed images) → shard files in `output`, a ShardSummary and statistics for each, and rejects."""

    output: str
    images: str
    plan: beam.pvalue.AsSingleton
    categories: beam.pvalue.AsList
    options: RecordOptions = RecordOptions()

    def __post_init__(self) -> None:
        if self.options.encoding not in get_args(MaskEncoding):
            raise ValueError(f"encoding: expected one of {get_args(MaskEncoding)}, found {self.options.encoding!r}")

    def expand(self, shards: beam.PCollection[tuple[ShardKey, Iterable[bytes]]]) -> Written:
        write = _WriteShard(self.output, ImageFolder(self.images), self.options)
        out = shards | (
            beam.ParDo(write, self.plan, self.categories)
            .with_output_types(ShardSummary, statistics=DatasetStatistics, rejects=Reject)
            .with_outputs("statistics", "rejects", main="summaries")
        )
        return Written(out.summaries, out.statistics, out.rejects)
