"""Each part of the work alone, one thread: `make bench-parts` prints the second table of docs/performance.md.

Beside each stands the best library for it, and the physical limit: what the processor can't do without. The data is that of
`make bench`: images of 640×480 with 7 instances, of COCO's weight and sizes.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import msgspec
import numpy as np
import tensorflow as tf
from make_data import AS_COCO, make
from PIL import Image
from pycocotools import mask as cocomask

from transforms import memory, run_lengths
from transforms.batches import BatchWriter, read_batch
from transforms.columns import pack_images, unpack_images
from transforms.encode import EncodedMasks, dense_masks, encode_masks, png_masks
from transforms.examples import LabelMap, build_record
from transforms.images import check_image
from transforms.rasterize import rasterize, rasterize_images
from transforms.records import AnnotatedImage, Category, Instance
from transforms.shards import IMAGES_TOGETHER
from transforms.sources.coco_json import MAX_PIXELS, parse_annotations, split_block
from transforms.sources.json_blocks import cut_blocks
from transforms.tfrecord import RecordWriter, masked_crc

IMAGES, INSTANCES, WIDTH, HEIGHT = 200, 7, 640, 480
SECONDS = 1.0
"""For which each is done again and again; the best counts, since whatever else the machine does makes it slower."""
MOST_BYTES = 1 << 30


class Part(NamedTuple):
    """What is done to how many things, by us, by a library, and at best."""

    name: str
    unit: str
    count: float
    ours: Callable[[], object]
    library: str
    theirs: Callable[[], object]
    limit: str
    least: Callable[[], object]


def best(work: Callable[[], object]) -> float:
    """Seconds that it takes when nothing is in its way."""
    took, until = [], time.perf_counter() + SECONDS
    while not took or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def saved(mask: Any, **how: Any) -> bytes:
    """A mask as a PNG by Pillow."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", **how)
    return file.getvalue()


def cocos(entry: dict[str, Any]) -> Any:
    """A mask of an annotation by pycocotools: uint8 [H, W]."""
    return cocomask.decode(cocomask.merge(cocomask.frPyObjects(entry["segmentation"], HEIGHT, WIDTH)))


def to_pngs(images: list[list[Instance]]) -> list[EncodedMasks]:
    """Masks of polygons as PNGs by us."""
    drawn = iter(rasterize([(one, HEIGHT, WIDTH) for some in images for one in some]))
    return encode_masks([(list(islice(drawn, len(some))), HEIGHT, WIDTH) for some in images], "png")


def example(image: AnnotatedImage, data: bytes, masks: list[Any]) -> bytes:
    """A record by TensorFlow's own classes, with the same features; dense masks as a flat list of floats."""

    def texts(*values: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def floats(values: list[float]) -> tf.train.Feature:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    def ints(*values: int) -> tf.train.Feature:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    boxes = np.array([one.box for one in image.instances]) / (HEIGHT, WIDTH, HEIGHT, WIDTH)
    names = ("ymin", "xmin", "ymax", "xmax")
    features = {f"image/object/bbox/{name}": floats(boxes[:, axis].tolist()) for axis, name in enumerate(names)}
    features |= {
        "image/height": ints(HEIGHT),
        "image/width": ints(WIDTH),
        "image/filename": texts(image.file_name.encode()),
        "image/source_id": texts(str(image.image_id).encode()),
        "image/encoded": texts(data),
        "image/format": texts(b"jpeg"),
        "image/object/class/text": texts(*(b"category" for _ in image.instances)),
        "image/object/class/label": ints(*(one.category_id for one in image.instances)),
        "image/object/is_crowd": ints(*(0 for _ in image.instances)),
        "image/object/area": floats([1.0 for _ in image.instances]),
        "image/object/mask": texts(*masks) if isinstance(masks[0], bytes) else floats(masks),
    }
    encoded: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return encoded


def parts(folder: Path) -> Iterator[Part]:
    """All of them."""
    text = (folder / "instances.json").read_bytes()
    entries = json.loads(text)["annotations"]
    block = json.dumps(entries)[1:-1].encode()
    elements = split_block(block)
    megabytes = len(text) / 1e6
    read = frozenset({"images", "annotations", "categories"})
    yield Part(
        "cut the annotation file",
        "MB",
        megabytes,
        lambda: list(cut_blocks(io.BytesIO(text).read, read, "")),
        "json.loads, which holds it all",
        lambda: json.loads(text),
        "a copy in memory",
        lambda: bytearray(text),
    )
    parsed = parse_annotations(block)
    yield Part(
        "parse and check annotations",
        "MB",
        len(block) / 1e6,
        lambda: parse_annotations(block),
        "json.loads",
        lambda: [json.loads(raw) for raw in elements],
        "msgspec, without a type",
        lambda: [msgspec.json.decode(raw) for raw in elements],
    )
    instances = [part.instance for part in parsed]
    count = len(instances)
    yield Part(
        "rasterize polygons",
        "mask",
        count,
        lambda: rasterize([(one, HEIGHT, WIDTH) for one in instances]),
        "pycocotools, run lengths",
        lambda: [cocomask.merge(cocomask.frPyObjects(one["segmentation"], HEIGHT, WIDTH)) for one in entries],
        "the same, for packed polygons",
        lambda: [cocomask.frPyObjects(one["segmentation"], HEIGHT, WIDTH) for one in entries],
    )
    grouped = [instances[first : first + INSTANCES] for first in range(0, count, INSTANCES)]
    images = [AnnotatedImage(number, f"{number:012d}.jpg", HEIGHT, WIDTH, tuple(some)) for number, some in enumerate(grouped, 1)]
    drawn = [image for image, _ in rasterize_images(images)]
    batch = BatchWriter(None).write(pack_images(drawn))
    yield Part(
        "pack for the shuffle, and unpack",
        "image",
        len(drawn),
        lambda: list(unpack_images(read_batch(BatchWriter(None).write(pack_images(drawn))))),
        "msgpack, without compression",
        lambda: msgspec.msgpack.decode(msgspec.msgpack.encode(drawn), type=list[AnnotatedImage]),
        "a copy in memory",
        lambda: bytearray(batch),
    )
    together = [drawn[first : first + IMAGES_TOGETHER] for first in range(0, len(drawn), IMAGES_TOGETHER)]
    yield Part(
        "run lengths from COCO's text",
        "image",
        len(drawn),
        lambda: [run_lengths.masks_of([(image.instances, HEIGHT, WIDTH) for image in some]) for some in together],
        "pycocotools, to pixels",
        lambda: [
            cocomask.decode([{"size": [HEIGHT, WIDTH], "counts": one.shape.counts} for one in image.instances]) for image in drawn
        ],
        "a copy in memory",
        lambda: bytearray(b"".join(one.shape.counts for image in drawn for one in image.instances)),
    )
    runs = run_lengths.masks_of([(image.instances, HEIGHT, WIDTH) for image in drawn])
    of_several = [
        [mask for masks in runs[first : first + IMAGES_TOGETHER] for mask in masks]
        for first in range(0, len(runs), IMAGES_TOGETHER)
    ]
    masks = [cocos(one) for one in entries]
    pngs = [saved(mask) for mask in masks]
    for encoding, name in (("png", "8-bit PNG"), ("png1", "1-bit PNG")):
        how = masks if encoding == "png" else [mask.astype(bool) for mask in masks]
        ours = sum(len(one) for some in of_several for one in png_masks(some, HEIGHT, WIDTH, encoding))
        yield Part(
            f"{name} of a mask, {ours / sum(map(len, pngs)):.2f} of the bytes of Pillow's 8-bit",
            "mask",
            count,
            lambda encoding=encoding: [png_masks(some, HEIGHT, WIDTH, encoding) for some in of_several],
            "Pillow, its default",
            lambda how=how: [saved(mask) for mask in how],
            "zlib at level 1 alone",
            lambda how=how: [zlib.compress(mask.tobytes(), 1) for mask in how],
        )
    several = grouped[: 2 * IMAGES_TOGETHER]
    yield Part(
        f"polygons to PNGs, those of {IMAGES_TOGETHER} images together",
        "mask",
        INSTANCES * len(several),
        lambda: [to_pngs(some) for some in (several[:IMAGES_TOGETHER], several[IMAGES_TOGETHER:])],
        "pycocotools and Pillow",
        lambda: [saved(cocos(one)) for one in entries[: INSTANCES * len(several)]],
        "all pixels written once",
        lambda: [np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(INSTANCES * len(several))],
    )
    yield Part(
        "one polygon to its PNG, all alone",
        "mask",
        200,
        lambda: [to_pngs([[one]]) for one in instances[:200]],
        "pycocotools and Pillow",
        lambda: [saved(cocos(one)) for one in entries[:200]],
        "all pixels written once",
        lambda: [np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(200)],
    )
    labels = LabelMap.of([Category(number, f"category {number}") for number in range(1, 81)], False)
    files = [(folder / "images" / f"{number:012d}.jpg").read_bytes() for number in range(1, IMAGES + 1)]
    checked = [check_image(data, HEIGHT, WIDTH, MAX_PIXELS) for data in files]
    yield Part(
        "check an image: a JPEG of 167 KB",
        "image",
        IMAGES,
        lambda: [check_image(data, HEIGHT, WIDTH, MAX_PIXELS) for data in files],
        "Pillow, all pixels",
        lambda: [Image.open(io.BytesIO(data)).load() for data in files],
        "libjpeg-turbo at 1/8",
        lambda: [eighth(data) for data in files],
    )
    encoded = encode_masks([(image.instances, HEIGHT, WIDTH) for image in drawn], "png")
    some = list(zip(drawn, checked, encoded, range(0, count, INSTANCES), strict=True))
    yield Part(
        "record with PNG masks, those there",
        "image",
        IMAGES,
        lambda: [build_record(image, data, each, labels, MOST_BYTES) for image, data, each, _ in some],
        "tf.train.Example, with PNGs that are there",
        lambda: [example(image, data.data, pngs[first : first + INSTANCES]) for image, data, _, first in some],
        "a copy in memory",
        lambda: [bytearray(data) for data in files],
    )
    few = some[:5]
    stacked = [np.stack(masks[first : first + INSTANCES]).astype(np.float32) for *_, first in few]
    yield Part(
        "record with dense masks",
        "image",
        len(few),
        lambda: [build_record(image, data, EncodedMasks(each.runs, None), labels, MOST_BYTES) for image, data, each, _ in few],
        "tf.train.Example through .tolist()",
        lambda: [
            example(image, data.data, mask.flatten().tolist()) for (image, data, _, _), mask in zip(few, stacked, strict=True)
        ],
        "dense masks written once",
        lambda: [dense_masks(each.runs, HEIGHT, WIDTH) for _, _, each, _ in few],
    )
    records = [
        record
        for image, data, each, _ in some
        if isinstance(record := build_record(image, data, each, labels, MOST_BYTES), bytes)
    ]
    yield Part(
        "checksums, and the record into memory",
        "MB",
        sum(map(len, records)) / 1e6,
        lambda: write_all(records),
        "crc32c of google-crc32c, once",
        lambda: [masked_crc(record) for record in records],
        "a copy in memory",
        lambda: [bytearray(record) for record in records],
    )


def eighth(data: bytes) -> None:
    """Decodes a JPEG at an eighth of its size."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (image.width // 8, image.height // 8))
        image.load()


def write_all(records: list[bytes]) -> None:
    """All records of a shard that is kept in memory."""
    writer = RecordWriter(io.BytesIO())
    for record in records:
        writer.write(record)


def speed(part: Part, seconds: float) -> str:
    """MB/s, or milliseconds for each."""
    return f"{part.count / seconds:,.0f} MB/s" if part.unit == "MB" else f"{1e3 * seconds / part.count:.3f} ms"


def main() -> None:
    memory.tune()  # as a worker does
    assert google_crc32c.implementation == "c"
    print(f"one thread, Python {sys.version.split()[0]}; images of {WIDTH}×{HEIGHT} with {INSTANCES} instances\n")
    print("| part, of | maskbeam | the best library for it | so many times as fast | the limit |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="maskbeam-bench-") as folder:
        make(Path(folder), IMAGES, INSTANCES, WIDTH, HEIGHT, quality=AS_COCO)
        for part in parts(Path(folder)):
            ours, theirs, least = best(part.ours), best(part.theirs), best(part.least)
            figures = [speed(part, ours), f"{part.library}: {speed(part, theirs)}", f"{theirs / ours:.2f}"]
            print(f"| {part.name}, {part.unit} | {' | '.join(figures)} | {part.limit}: {speed(part, least)} |", flush=True)


if __name__ == "__main__":
    main()
