"""WriteShards: one shard, one image at a time, from packed images to a TFRecord file under its final name.

Images are read and checked by a few threads ahead of the encoder, so that reading, decoding and hashing (which release the
GIL) overlap with it; how many wait is bounded, and with it the memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, get_args

import apache_beam as beam
import google_crc32c
import msgspec
import PIL
from apache_beam.metrics import Metrics
from PIL import Image

from transforms import progress, run_lengths, storage
from transforms.claims import Claim
from transforms.encode import MaskEncoding
from transforms.examples import LabelMap, build_record
from transforms.images import CheckedImage, ImageCheck, ImageFolder, check_image
from transforms.records import AnnotatedImage, Category, Problem, Reject, pack, reject_image
from transforms.run_lengths import Runs
from transforms.sharding import ShardKey, ShardPlan, in_order
from transforms.statistics import CategoryStatistics, DatasetStatistics, SplitStatistics
from transforms.tfrecord import RecordWriter

READ_THREADS = 4
STATES = "_state"
"""The folder, below the output, for what `--resume` has to know of each shard."""
SHARDS_REUSED = "shards_reused"
"""The counter of shards that `--resume` has left as they were."""
RECORDS_VERSION = 1
"""To be raised when the same images and options give other shards than before, so that no old one is taken for new."""


class ShardSummary(msgspec.Struct, frozen=True):
    """What a shard's file holds; `crc32c` is of the whole file, `fingerprint` of all that it was made from."""

    split: str
    index: int
    file_name: str
    records: int
    instances: int
    bytes: int
    crc32c: int
    fingerprint: str


class ShardState(msgspec.Struct, frozen=True):
    """All that writing a shard has given, so that it need not be written again while its fingerprint is the same."""

    summary: ShardSummary
    statistics: DatasetStatistics
    rejects: list[Reject]


class RecordOptions(NamedTuple):
    """What decides over the bytes of a record, apart from its image and annotations."""

    encoding: MaskEncoding = "png"
    contiguous_ids: bool = False
    max_record_bytes: int = 512_000_000
    max_pixels: int = 100_000_000
    check_images: ImageCheck = "full"


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


class Fingerprint:
    """A digest of all that a shard is made from: options, label ids and names, and each image's geometry and file."""

    def __init__(self, name: str, options: RecordOptions) -> None:
        settings = (RECORDS_VERSION, PIL.__version__, name, tuple(options))  # Pillow, for the images that it converts
        self._hash = hashlib.sha256(pack(settings))

    def add(self, image: AnnotatedImage, labels: LabelMap, digest: bytes) -> None:
        """The next image of the shard; `digest` is of its file, or says why there is none."""
        named = [labels.labels[one.category_id] for one in image.instances]
        self._hash.update(pack((image, named, digest)))

    def hex(self) -> str:
        """The fingerprint of what was added."""
        return self._hash.hexdigest()


def file_digest(loaded: bytes | Problem) -> bytes:
    """What stands for an image file in a fingerprint."""
    return pack(loaded) if isinstance(loaded, Problem) else hashlib.sha256(loaded).digest()


def state_name(shard: str) -> str:
    """Where, below the output, the state of a shard is kept."""
    return f"{STATES}/{shard}.msgpack"


_state = msgspec.msgpack.Decoder(ShardState)


def pack_state(state: ShardState) -> bytes:
    """A state as it is stored: its CRC32C, then the state itself."""
    data = pack(state)
    return int(google_crc32c.value(data)).to_bytes(4, "big") + data


def unpack_state(stored: bytes) -> ShardState | None:
    """The state, or None where the bytes are damaged or another version's."""
    if int.from_bytes(stored[:4], "big") != google_crc32c.value(stored[4:]):
        return None
    try:
        return _state.decode(stored[4:])
    except msgspec.MsgspecError:
        return None


def reusable_shard(
    output: str, name: str, images: Sequence[AnnotatedImage], folder: ImageFolder, labels: LabelMap, options: RecordOptions
) -> ShardState | None:
    """The state of a shard that an earlier run has written from the same images and options, if it is there and whole."""
    state, whole = None, False
    try:
        state = unpack_state(storage.read_bytes(storage.join(output, state_name(name))))
        whole = state is not None and storage.crc32c(storage.join(output, name)) == state.summary.crc32c
    except Exception as error:
        if not storage.is_missing(error):
            raise
    if state is None or not whole:
        return None
    fingerprint = Fingerprint(name, options)
    for image, loaded in ahead(lambda image: file_digest(folder.read(image.file_name)), images, READ_THREADS):
        fingerprint.add(image, labels, loaded)
    return state if state.summary.fingerprint == fingerprint.hex() else None


def write_shard(
    output: str,
    key: ShardKey,
    plan: ShardPlan,
    images: Sequence[AnnotatedImage],
    folder: ImageFolder,
    labels: LabelMap,
    options: RecordOptions,
    claim: Claim | None = None,
) -> ShardState:
    """Writes one shard under a temporary name and moves it; gives what it holds, and a reject for all that is not in it.

    The same images, in the same order, give the same bytes, so whoever else writes this shard at the same time does no harm.
    Raises where storage fails, or where the file is not afterwards what was written; `InputError` where `claim` has lapsed.
    """
    split, index = key
    name = plan.file_name(split, index)
    claim = claim or Claim(output)
    if not claim.job:
        storage.make_folder(claim.folder)
    temporary = claim.temporary_name(name)
    statistics = SplitStatistics()
    rejects: list[Reject] = []
    fingerprint = Fingerprint(name, options)

    def load(image: AnnotatedImage) -> tuple[CheckedImage | Problem, bytes]:
        data = folder.read(image.file_name)
        if isinstance(data, Problem):
            return data, file_digest(data)
        checked = check_image(data, image.height, image.width, options.max_pixels, options.check_images)
        if isinstance(checked, CheckedImage) and checked.data is data:
            return checked, bytes.fromhex(checked.sha256)  # which is the file's
        return checked, file_digest(data)

    with storage.open_write(temporary) as file:
        writer = RecordWriter(file)
        for image, (checked, digest) in ahead(load, images, READ_THREADS):
            progress.advance(progress.IMAGES_DONE)
            fingerprint.add(image, labels, digest)
            record: bytes | Problem
            if isinstance(checked, Problem):
                record = checked
            else:
                masks = run_lengths.masks_of(image.instances, checked.height, checked.width)
                record = build_record(image, checked, masks, labels, options.encoding, options.max_record_bytes)
            if isinstance(record, Problem):
                rejects += reject_image(image, record)
            elif isinstance(checked, CheckedImage):
                writer.write(record)
                count_image(statistics, image, checked, masks, labels)
    claim.publish(temporary, name, writer.bytes, writer.crc32c)
    summary = ShardSummary(
        split, index, name, statistics.images, statistics.instances, writer.bytes, writer.crc32c, fingerprint.hex()
    )
    state = ShardState(summary, DatasetStatistics({split: statistics}), rejects)
    if claim.job:
        claim.publish_bytes(state_name(name), pack_state(state))
    return state


class _WriteShard(beam.DoFn):  # type: ignore[misc]
    def __init__(self, output: str, folder: ImageFolder, options: RecordOptions, claim: Claim | None, resume: bool) -> None:
        self.output, self.folder, self.options, self.claim, self.resume = output, folder, options, claim, resume
        self.images_written = Metrics.counter("maskbeam", "images_written")
        self.instances_written = Metrics.counter("maskbeam", "instances_written")
        self.bytes_written = Metrics.counter("maskbeam", "bytes_written")
        self.shards_reused = Metrics.counter("maskbeam", SHARDS_REUSED)

    def setup(self) -> None:
        Image.MAX_IMAGE_PIXELS = None  # the cap is our own, --max_megapixels

    def process(
        self, shard: tuple[ShardKey, Iterable[bytes]], plan: ShardPlan, categories: list[Category]
    ) -> Iterator[ShardSummary | beam.pvalue.TaggedOutput]:
        labels = LabelMap.of(categories, self.options.contiguous_ids)
        key, images = shard[0], in_order(shard[1])
        inputs = images, self.folder, labels, self.options
        state = reusable_shard(self.output, plan.file_name(*key), *inputs) if self.resume else None
        if state is None:
            state = write_shard(self.output, key, plan, *inputs, self.claim)
        else:
            self.shards_reused.inc()
            progress.advance(progress.IMAGES_DONE, len(images))
        for reject in state.rejects:
            yield beam.pvalue.TaggedOutput("rejects", reject)
        yield beam.pvalue.TaggedOutput("statistics", state.statistics)
        self.images_written.inc(state.summary.records)
        self.instances_written.inc(state.summary.instances)
        self.bytes_written.inc(state.summary.bytes)
        yield state.summary


class Written(NamedTuple):
    """What `WriteShards` gives."""

    summaries: beam.PCollection[ShardSummary]
    statistics: beam.PCollection[DatasetStatistics]
    rejects: beam.PCollection[Reject]


@dataclass
class WriteShards(beam.PTransform):  # type: ignore[misc]
    """((split, shard index), packed images) → shard files in `output`, a ShardSummary and statistics for each, and rejects.

    With a `claim` on the output, states for `resume` are kept there.
    """

    output: str
    images: str
    plan: beam.pvalue.AsSingleton
    categories: beam.pvalue.AsList
    options: RecordOptions = RecordOptions()
    claim: Claim | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.options.encoding not in get_args(MaskEncoding):
            raise ValueError(f"encoding: expected one of {get_args(MaskEncoding)}, found {self.options.encoding!r}")

    def expand(self, shards: beam.PCollection[tuple[ShardKey, Iterable[bytes]]]) -> Written:
        folder = ImageFolder(self.images, self.options.max_record_bytes)
        write = _WriteShard(self.output, folder, self.options, self.claim, self.resume)
        out = shards | (
            beam.ParDo(write, self.plan, self.categories)
            .with_output_types(ShardSummary, statistics=DatasetStatistics, rejects=Reject)
            .with_outputs("statistics", "rejects", main="summaries")
        )
        return Written(out.summaries, out.statistics, out.rejects)
