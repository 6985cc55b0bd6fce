"""WriteShards: one shard, one image at a time, from packed images to a TFRecord file under its final name.

Images are read by some threads ahead of the encoder, many of them where storage is far away, and checked by a few, so that
waiting, decoding and hashing (which release the GIL) overlap with it. How many wait, and how large, is bounded.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, get_args

import apache_beam as beam
import google_crc32c
import msgspec
import numpy as np
import PIL
from apache_beam.pvalue import TaggedOutput

from transforms import counters, events, memory, progress, storage
from transforms.ahead import Take, ahead, read_ahead, take_at_once
from transforms.bundles import in_window
from transforms.claims import Claim
from transforms.encode import MaskEncoding, encode_masks
from transforms.examples import LabelMap, build_record, of_lvis
from transforms.image_files import JPEG
from transforms.images import CheckedImage, ImageCheck, ImageFolder, check_image, lift_cap_of_pillow, open_picture, show
from transforms.records import AnnotatedImage, Category, Problem, Reject, RunLengths, pack, reject_image
from transforms.sharding import ShardKey, ShardPlan, in_order
from transforms.statistics import DatasetStatistics
from transforms.tally import Tally
from transforms.tfrecord import RecordWriter

LOCAL_READS, REMOTE_READS = 4, 32
"""Images that are read at the same time: for 400 a second, at 50 ms each, it takes twenty."""
FEW_READS, SLOW_READ = 8, 1e-3
"""Seconds that a read takes of a disk that is worth a thread to wait for it, seen after a few; of memory it takes a tenth."""
READ_AHEAD_BYTES = 64 << 20
"""Of images that are read; besides, 2 · `CHECK_THREADS` + 1 are being checked, and some wait to be encoded together."""
CHECK_THREADS = 4
IMAGES_TOGETHER, BYTES_TOGETHER = 16, 16 << 20
_BYTES_OF_RUNS = 8  # that each character of run lengths takes in memory, at most
STATES = "_state"
"""The folder, below the output, for what `--resume` has to know of each shard."""
RECORDS_VERSION = 2
"""To be raised when the same images and options give other shards or other statistics than before, so that no old one is taken
for new."""


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


class Fingerprint:
    """A digest of all that a shard is made from: options, label ids and names, and each image's geometry and file."""

    def __init__(self, name: str, options: RecordOptions) -> None:
        settings = (RECORDS_VERSION, PIL.__version__, name, tuple(options))  # Pillow, for the images that it converts
        self._hash = hashlib.sha256(pack(settings))

    def add(self, image: AnnotatedImage, labels: LabelMap, digest: bytes) -> None:
        """The next image of the shard; `digest` is of its file, or says why there is none."""
        named = [labels.labels[one.category_id] for one in image.instances]
        self._hash.update(pack((image, named, digest, of_lvis(image, labels))))

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
    stored = storage.if_there(storage.read_bytes, storage.join(output, state_name(name)))
    state = unpack_state(stored) if stored else None
    if state is None:
        return None
    found = storage.if_there(storage.size_and_crc32c, storage.join(output, name))
    if found != (state.summary.bytes, state.summary.crc32c):
        return None
    fingerprint = Fingerprint(name, options)

    def digest_of(same: Sequence[AnnotatedImage], take: Take) -> bytes:
        return file_digest(folder.read_of(same[0], take))

    for same, digest in read_ahead(digest_of, by_source(images), read_threads(folder.root), READ_AHEAD_BYTES):
        for image in same:
            fingerprint.add(image, labels, digest)
    return state if state.summary.fingerprint == fingerprint.hex() else None


def read_threads(folder: str) -> int:
    """How many threads read images ahead."""
    return LOCAL_READS if storage.is_local(folder) else REMOTE_READS


class LoadedImage(NamedTuple):
    """An image that was read and checked; the `file_digest` of its file, and how long reading took."""

    checked: CheckedImage | Problem
    digest: bytes
    read_seconds: float


def load_images(
    images: Sequence[AnnotatedImage], folder: ImageFolder, options: RecordOptions, busy: bool = False
) -> Generator[tuple[AnnotatedImage, LoadedImage], None, None]:
    """Each image as it was read and checked, in order, some ahead. Who may stop before the end `close`s it.

    Tiles of one image follow one another, and it is read once for all of them. Where other processes keep all processors `busy`,
    a folder's images are read ahead only if that takes long: threads then cost 4 % of the time, and gain none.
    """

    def read(same: Sequence[AnnotatedImage], take: Take) -> tuple[bytes | Problem, float]:
        waited = 0.0

        def timed(size: int) -> None:
            nonlocal waited
            began = time.perf_counter()
            take(size)
            waited += time.perf_counter() - began

        began = time.perf_counter()
        data = folder.read_of(same[0], timed)
        return data, time.perf_counter() - began - waited

    def check(same: Sequence[AnnotatedImage], data: bytes | Problem, seconds: float) -> list[LoadedImage]:
        image, view = same[0], same[0].view
        if isinstance(data, Problem):
            return [LoadedImage(data, file_digest(data), seconds)] * len(same)
        size = (view.file_height, view.file_width) if view else (image.height, image.width)
        how = options.check_images
        if view:  # whose pixels are all decoded anyway; but of a PNG that is cut off, Pillow makes the rest up
            how = "header" if data.startswith(JPEG) else "full"
        checked = check_image(data, *size, options.max_pixels, how)
        if isinstance(checked, CheckedImage) and checked.data is data:
            digest = bytes.fromhex(checked.sha256)  # which is the file's
        else:
            digest = file_digest(data)
        return [LoadedImage(one, digest, seconds) for one in (show_views(same, checked) if view else [checked])]

    groups = by_source(images)
    threads = CHECK_THREADS if len(groups) == len(images) else 1  # all tiles of an image are held at once
    if storage.is_local(folder.root):  # one thread for both: to go from thread to thread takes 0.3 ms of an image
        waiting = iter(groups)
        seconds = 0.0
        for number, same in enumerate(waiting if busy else (), start=1):
            some = check(same, *read(same, take_at_once))
            yield from zip(same, some, strict=True)
            seconds += some[0].read_seconds
            if number >= FEW_READS and seconds > number * SLOW_READ:
                break
        loading = ahead(lambda same: check(same, *read(same, take_at_once)), waiting, threads)
        yield from ((image, loaded) for same, some in loading for image, loaded in zip(same, some, strict=True))
        return
    with closing(read_ahead(read, groups, read_threads(folder.root), READ_AHEAD_BYTES)) as reading:
        for (same, _), some in ahead(lambda one: check(one[0], *one[1]), reading, threads):
            yield from zip(same, some, strict=True)


def by_source(images: Sequence[AnnotatedImage]) -> list[list[AnnotatedImage]]:
    """Images that follow one another and are of one file, together."""
    return [list(same) for _, same in groupby(images, lambda image: image.source_id)]


def show_views(same: Sequence[AnnotatedImage], checked: CheckedImage | Problem) -> Iterator[CheckedImage | Problem]:
    """What each of the images, all views of one file, looks like."""
    first = same[0].view
    picture = checked if isinstance(checked, Problem) or first is None else open_picture(checked, first)
    for image in same:
        if isinstance(checked, CheckedImage) and isinstance(picture, np.ndarray) and image.view:
            yield show(picture, image.view, image.height, image.width, checked)
        elif isinstance(picture, Problem):
            yield picture


def together(
    loading: Iterable[tuple[AnnotatedImage, LoadedImage]],
) -> Iterator[list[tuple[AnnotatedImage, LoadedImage]]]:
    """Images whose masks are encoded together: so many, or as many as `BYTES_TOGETHER` are enough for."""
    some: list[tuple[AnnotatedImage, LoadedImage]] = []
    held = 0
    for image, loaded in loading:
        some.append((image, loaded))
        held += len(loaded.checked.data) if isinstance(loaded.checked, CheckedImage) else 0
        held += _BYTES_OF_RUNS * sum(len(one.shape.counts) for one in image.instances if isinstance(one.shape, RunLengths))
        if len(some) == IMAGES_TOGETHER or held >= BYTES_TOGETHER:
            yield some
            some, held = [], 0
    if some:
        yield some


class Draft(NamedTuple):
    """A shard that lies under a temporary name still."""

    temporary: str
    state: ShardState


Observe = Callable[[str, float], None]
"""Told of a measure's name and a value of it."""


def draft_shard(
    claim: Claim,
    key: ShardKey,
    plan: ShardPlan,
    images: Sequence[AnnotatedImage],
    folder: ImageFolder,
    labels: LabelMap,
    options: RecordOptions,
    observe: Observe = lambda name, value: None,
    busy: bool = False,
) -> Draft:
    """Writes one shard under a temporary name; gives what it holds, and a reject for all that is not in it.

    The same images, in the same order, give the same bytes, so whoever else writes this shard at the same time does no harm.
    `observe` is told how many milliseconds each image took to read and to encode; `busy` is as for `load_images`. Raises where
    storage fails.
    """
    split, index = key
    name = plan.file_name(split, index)
    if not claim.job:
        storage.make_folder(claim.folder)
    temporary = claim.temporary_name(name)
    tally = Tally(labels, name)
    rejects: list[Reject] = []
    fingerprint = Fingerprint(name, options)

    with closing(load_images(images, folder, options, busy)) as loading, storage.open_write(temporary) as file:
        writer, done = RecordWriter(file), progress.Count(progress.IMAGES_DONE)
        for some in together(loading):
            began = time.perf_counter()
            readable = [(image, checked) for image, (checked, _, _) in some if isinstance(checked, CheckedImage)]
            sizes = [(image.instances, checked.height, checked.width) for image, checked in readable]
            masks_of = iter(encode_masks(sizes, options.encoding))
            for image, (checked, digest, read_seconds) in some:
                done.advance()
                fingerprint.add(image, labels, digest)
                record: bytes | Problem
                if isinstance(checked, Problem):
                    record = checked
                else:
                    masks = next(masks_of)
                    record = build_record(image, checked, masks, labels, options.max_record_bytes)
                if isinstance(record, Problem):
                    rejects += reject_image(image, record)
                elif isinstance(checked, CheckedImage):
                    tally.add(image, checked, masks.runs, writer.bytes)
                    writer.write(record)
                observe(counters.READ_MS, 1000 * read_seconds)
            for _ in some:
                observe(counters.ENCODE_MS, 1000 * (time.perf_counter() - began) / len(some))
        done.write()
    statistics = tally.statistics()
    summary = ShardSummary(
        split, index, name, statistics.images, statistics.instances, writer.bytes, writer.crc32c, fingerprint.hex()
    )
    return Draft(temporary, ShardState(summary, DatasetStatistics({split: statistics}), rejects))


def publish_shard(claim: Claim, draft: Draft) -> ShardState:
    """Gives a shard its final name and, with a claim, keeps its state.

    Raises `OSError` where the file is not afterwards what was written; `InputError` where the claim has lapsed.
    """
    summary = draft.state.summary
    claim.publish(draft.temporary, summary.file_name, summary.bytes, summary.crc32c)
    if claim.job:
        claim.publish_bytes(state_name(summary.file_name), pack_state(draft.state))
    fields = {"records": summary.records, "instances": summary.instances, "bytes": summary.bytes}
    events.log("shard_written", file=summary.file_name, **fields, rejects=len(draft.state.rejects))
    return draft.state


class _WriteShard(beam.DoFn):  # type: ignore[misc]
    """While one shard is written, those before it are published in the background: each takes a dozen small requests."""

    PUBLISHING = 4  # at most, so that only so many are lost with a worker

    def __init__(
        self, output: str, folder: ImageFolder, options: RecordOptions, claim: Claim | None, resume: bool, busy: bool = False
    ) -> None:
        self.output, self.folder, self.options, self.resume, self.busy = output, folder, options, resume, busy
        self.claim = claim or Claim(output)

    def setup(self) -> None:
        memory.tune()
        lift_cap_of_pillow()
        self.publisher = ThreadPoolExecutor(self.PUBLISHING)

    def teardown(self) -> None:
        self.publisher.shutdown()

    def start_bundle(self) -> None:
        self.published: deque[Future[ShardState]] = deque()

    def process(self, shard: tuple[ShardKey, Iterable[bytes]], plan: ShardPlan, categories: list[Category]) -> Iterator[Any]:
        labels = LabelMap.of(categories, self.options.contiguous_ids)
        key, images = shard[0], in_order(shard[1])
        inputs = images, self.folder, labels, self.options
        state = reusable_shard(self.output, plan.file_name(*key), *inputs) if self.resume else None
        if state is not None:
            counters.counter(counters.SHARDS_REUSED).inc()
            events.log("shard_reused", file=state.summary.file_name)
            progress.advance(progress.IMAGES_DONE, len(images))
            yield from self._found(state)
            return
        draft = draft_shard(self.claim, key, plan, *inputs, self._observe, self.busy)
        self.published.append(self.publisher.submit(publish_shard, self.claim, draft))
        if len(self.published) > self.PUBLISHING:
            yield from self._written(self.published.popleft())

    def finish_bundle(self) -> Iterator[Any]:
        for future in self.published:
            yield from map(in_window, self._written(future))

    def _observe(self, name: str, value: float) -> None:
        counters.distribution(name).update(round(value))

    def _written(self, published: Future[ShardState]) -> Iterator[Any]:
        state = published.result()
        counters.counter(counters.SHARDS_WRITTEN).inc()
        yield from self._found(state)

    def _found(self, state: ShardState) -> Iterator[Any]:
        summary = state.summary
        for reject in state.rejects:
            yield TaggedOutput("rejects", reject)
        yield TaggedOutput("statistics", state.statistics)
        counters.counter(counters.IMAGES_WRITTEN).inc(summary.records)
        counters.counter(counters.INSTANCES_WRITTEN).inc(summary.instances)
        counters.counter(counters.BYTES_WRITTEN).inc(summary.bytes)
        yield summary


class Written(NamedTuple):
    """What `WriteShards` gives."""

    summaries: beam.PCollection[ShardSummary]
    statistics: beam.PCollection[DatasetStatistics]
    rejects: beam.PCollection[Reject]


@dataclass
class WriteShards(beam.PTransform):  # type: ignore[misc]
    """((split, shard index), packed images) → shard files in `output`, a ShardSummary and statistics for each, and rejects.

    With a `claim` on the output, states for `resume` are kept there. `busy` is as for `load_images`.
    """

    output: str
    images: str
    plan: beam.pvalue.AsSingleton
    categories: beam.pvalue.AsList
    options: RecordOptions = RecordOptions()
    claim: Claim | None = None
    resume: bool = False
    busy: bool = False

    def __post_init__(self) -> None:
        if self.options.encoding not in get_args(MaskEncoding):
            raise ValueError(f"encoding: expected one of {get_args(MaskEncoding)}, found {self.options.encoding!r}")

    def expand(self, shards: beam.PCollection[tuple[ShardKey, Iterable[bytes]]]) -> Written:
        folder = ImageFolder(self.images, self.options.max_record_bytes)
        write = _WriteShard(self.output, folder, self.options, self.claim, self.resume, self.busy)
        out = shards | (
            beam.ParDo(write, self.plan, self.categories)
            .with_output_types(ShardSummary, statistics=DatasetStatistics, rejects=Reject)
            .with_outputs("statistics", "rejects", main="summaries")
        )
        return Written(out.summaries, out.statistics, out.rejects)
