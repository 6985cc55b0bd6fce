"""ReadAnnotations for COCO instances files.

FindFiles ──▶ CutBlocks ──▶ ParseBlocks ──▶ (bucket, images and annotations) ──GroupByKey──▶ Meet ──▶ AnnotatedImage

The file is cut into blocks that are parsed in parallel. Images and annotations meet by image id in a grouping: they are
packed by a hash bucket of the id, some 8 MB of JSON a bucket, so that few, larger elements travel and no worker ever
holds more than a bucket. Annotation ids are looked through for duplicates in a grouping of their own, as bare numbers.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np
import numpy.typing as npt
from apache_beam.metrics import Metrics

from transforms import progress, run_lengths, storage
from transforms.batches import BatchWriter, read_batch, read_elements
from transforms.records import (
    AnnotatedImage,
    Box,
    Category,
    Census,
    InputError,
    Instance,
    Polygons,
    Problem,
    ReasonCode,
    Reject,
    RunLengths,
    Shape,
    pack,
    problem,
    reject_image,
)
from transforms.sharding import stable_hash
from transforms.sources.json_blocks import cut_blocks

LISTS = frozenset({"images", "annotations", "categories"})
BUCKET_BYTES = 8 << 20  # of JSON
_SPACE = re.compile(r"[ \t\r\n]*")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INT64 = range(-(2**63), 2**63)

# ---------------------------------------------------------------------------------------------------------- elements


class _Rle(msgspec.Struct):
    counts: str | list[int]
    size: list[int]


class _Annotation(msgspec.Struct):
    """An annotation whose fields all have the right types: what the fast path decodes straight from JSON."""

    id: int
    image_id: int | str
    category_id: int
    segmentation: list[list[float]] | _Rle | None = None
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: int | None = 0


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    height: int
    width: int


class CocoImage(msgspec.Struct, frozen=True, array_like=True, tag="image"):
    """An entry of `images`; `problem` says why it can't be used."""

    image_id: int
    file_name: str
    height: int
    width: int
    problem: Problem | None = None


class CocoAnnotation(msgspec.Struct, frozen=True, array_like=True, tag="annotation"):
    """An entry of `annotations`."""

    image_id: int
    instance: Instance


class CocoDuplicate(msgspec.Struct, frozen=True, array_like=True, tag="duplicate"):
    """An annotation id of this image that another image's annotation has already."""

    image_id: int
    annotation_id: int
    first_image_id: int


Part = CocoImage | CocoAnnotation | CocoDuplicate

_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_annotation = msgspec.json.Decoder(_Annotation)
_image = msgspec.json.Decoder(_Image)
_parts = msgspec.msgpack.Decoder(list[Part])


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT64


def _is_number(value: object) -> bool:
    """Whether a value is a finite number, and one that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e308 < value < 1e308


def image_id_of(value: object) -> int | None:
    """An image id as a number: an int64, or a string of decimal digits; else None. The trainers know no other ids."""
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and _is_int(value) else None


def _field(name: str, value: object, expected: str) -> Problem:
    found = "it is missing" if value is None else f"found {str(value)[:40]!r}"
    return problem(ReasonCode.FIELD_INVALID, f"{name!r}: expected {expected}, {found}")


def _slow_annotation(entry: Any) -> _Annotation | Problem:
    """What the fast path refused, field by field: an annotation after all, or what is wrong with it."""
    if not isinstance(entry, dict):
        return problem(ReasonCode.FIELD_INVALID, f"expected an object as annotation, found {str(entry)[:40]!r}")
    for name in ("id", "category_id"):
        if not _is_int(entry.get(name)):
            return _field(name, entry.get(name), "a 64-bit integer")
    if image_id_of(entry.get("image_id")) is None:
        return _field("image_id", entry.get("image_id"), "a 64-bit integer or a string of digits")
    iscrowd = entry.get("iscrowd")
    if iscrowd not in (0, 1, None):
        return _field("iscrowd", iscrowd, "0 or 1")
    segmentation = _slow_segmentation(entry.get("segmentation"))
    if isinstance(segmentation, Problem):
        return segmentation
    bbox, area = entry.get("bbox"), entry.get("area")
    return _Annotation(
        id=entry["id"],
        image_id=entry["image_id"],
        category_id=entry["category_id"],
        segmentation=segmentation,
        bbox=bbox if isinstance(bbox, list) and all(map(_is_number, bbox)) else None,
        area=area if _is_number(area) else None,
        iscrowd=int(bool(iscrowd)),
    )


def _slow_segmentation(value: Any) -> list[list[float]] | _Rle | Problem | None:
    if value is None:
        return None
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if not (isinstance(size, list) and all(map(_is_int, size))):
            return problem(ReasonCode.RLE_MALFORMED, f"'size': expected [height, width], found {str(size)[:40]!r}")
        if not (isinstance(counts, str) or (isinstance(counts, list) and all(map(_is_int, counts)))):
            return problem(ReasonCode.RLE_MALFORMED, f"'counts': expected a string or integers, found {str(counts)[:40]!r}")
        return _Rle(counts, size)
    if not isinstance(value, list) or not all(isinstance(ring, list) for ring in value):
        return problem(
            ReasonCode.POLY_MALFORMED, f"expected a list of rings [[x, y, …], …] as segmentation, found {str(value)[:40]!r}"
        )
    for ring in value:
        for number in ring:
            if isinstance(number, list):
                return problem(ReasonCode.POLY_MALFORMED, "a polygon ring is nested too deeply, expected [x, y, x, y, …]")
            if not _is_number(number):
                return problem(ReasonCode.COORD_INVALID, f"a polygon coordinate is {str(number)[:40]!r}, expected a number")
    return value


def _shape(segmentation: list[list[float]] | _Rle | None) -> Shape | Problem:
    """The geometry, packed. Whether the rings and runs make sense is for `Rasterize` to say; what can't be packed, for us."""
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        for ring in segmentation:
            for number in ring:
                if not abs(number) < 2e7:  # NaN too
                    return problem(ReasonCode.COORD_INVALID, f"a polygon coordinate is {number}, expected a pixel position")
        return Polygons.pack(segmentation)
    if len(segmentation.size) != 2:
        return problem(ReasonCode.RLE_MALFORMED, f"'size': expected [height, width], found {str(segmentation.size)[:40]}")
    height, width = segmentation.size
    if not (0 < height < 2**31 and 0 < width < 2**31):
        return problem(ReasonCode.DIM_LIMIT, f"the run lengths are for {height} × {width} pixels")
    if isinstance(segmentation.counts, str):
        if not segmentation.counts.isascii():
            return problem(ReasonCode.RLE_MALFORMED, "the counts hold a character outside '0' to 'o'")
        return RunLengths(height, width, segmentation.counts.encode())
    if not all(0 <= count < 2**32 for count in segmentation.counts):
        return problem(ReasonCode.RLE_MALFORMED, "a run length is negative or over 2^32")
    runs = np.array(segmentation.counts, np.int64)
    wrong = run_lengths.check_runs(runs, height, width)
    return wrong or RunLengths(height, width, run_lengths.encode_counts(runs))


def _box(bbox: list[float] | None) -> Box | None:
    """COCO's [x, y, width, height] as a half-open box; None where it has no area or is no box at all."""
    if bbox is None or len(bbox) != 4:
        return None
    x, y, width, height = map(float, bbox)
    box = (y, x, y + height, x + width)
    return box if width > 0 and height > 0 and all(map(np.isfinite, box)) else None


def _is_usable(entry: _Annotation) -> bool:
    """Whether what the fast path has decoded is within bounds too."""
    ids = entry.id in _INT64 and entry.category_id in _INT64
    return ids and image_id_of(entry.image_id) is not None and entry.iscrowd in (0, 1, None)


def parse_annotation(raw: bytes) -> CocoAnnotation | Reject:
    """One element of `annotations` from its JSON. Raises `InputError` only for what is not JSON."""
    try:
        entry = _annotation.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _parse_slowly(raw)
    return _packed(entry) if _is_usable(entry) else _parse_slowly(raw)


def _parse_slowly(raw: bytes) -> CocoAnnotation | Reject:
    loaded = _loads(raw)
    entry = loaded if isinstance(loaded, Problem) else _slow_annotation(loaded)
    if isinstance(entry, _Annotation):
        return _packed(entry)
    ids = loaded if isinstance(loaded, dict) else {}
    annotation_id = ids.get("id") if _is_int(ids.get("id")) else None
    return Reject("annotation", image_id_of(ids.get("image_id")), annotation_id, entry.code, entry.message)


def _packed(entry: _Annotation) -> CocoAnnotation | Reject:
    image_id = image_id_of(entry.image_id)
    assert image_id is not None, "checked by both paths"
    shape = _shape(entry.segmentation)
    if isinstance(shape, Problem):
        return Reject("annotation", image_id, entry.id, shape.code, shape.message)
    area = float(entry.area) if entry.area is not None and 0 <= entry.area <= _FLOAT32_MAX else None
    instance = Instance(entry.id, entry.category_id, _box(entry.bbox), area, bool(entry.iscrowd), shape)
    return CocoAnnotation(image_id, instance)


def parse_image(raw: bytes, max_pixels: int) -> CocoImage | Reject:
    """One element of `images` from its JSON; a `Reject` where not even the id can be made out."""
    fields: dict[str, Any]
    try:
        entry = _image.decode(raw)
        fields = {"id": entry.id, "file_name": entry.file_name, "height": entry.height, "width": entry.width}
    except (msgspec.DecodeError, UnicodeDecodeError):
        loaded = _loads(raw)
        if isinstance(loaded, Problem):
            return Reject("image", None, None, loaded.code, loaded.message)
        if not isinstance(loaded, dict):
            message = f"expected an object as image, found {str(loaded)[:40]!r}"
            return Reject("image", None, None, ReasonCode.FIELD_INVALID.name, message)
        fields = loaded
    image_id = image_id_of(fields.get("id"))
    if image_id is None:
        wrong = _field("id", fields.get("id"), "a 64-bit integer or a string of digits")
        return Reject("image", None, None, wrong.code, wrong.message)
    found = _image_problem(fields, max_pixels)
    if found:
        name = fields.get("file_name")
        return CocoImage(image_id, name if isinstance(name, str) and _is_text(name) else "", 0, 0, found)
    return CocoImage(image_id, fields["file_name"], fields["height"], fields["width"])


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _image_problem(fields: dict[str, Any], max_pixels: int) -> Problem | None:
    name: Any = fields.get("file_name")
    height: Any = fields.get("height")
    width: Any = fields.get("width")
    if not isinstance(name, str) or not name:
        return _field("file_name", name, "the image's file name")
    if not _is_text(name):
        return problem(ReasonCode.TEXT_INVALID, "the file name holds half a surrogate pair")
    for side, value in (("height", height), ("width", width)):
        if not _is_int(value):
            return _field(side, value, "a number of pixels")
    if height < 1 or width < 1 or height * width > max_pixels:
        return problem(
            ReasonCode.DIM_LIMIT, f"the image is {height} × {width} (height × width), at most {max_pixels} pixels are read"
        )
    return None


def _no_constant(name: str) -> None:
    raise InputError(f"JSON_INVALID: {name} is not JSON")


def _loads(raw: bytes) -> Any:
    """JSON as Python reads it: what msgspec refuses (a number out of range, half a surrogate pair), but no NaN literal."""
    try:
        return json.loads(raw, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return problem(ReasonCode.TEXT_INVALID, f"the text is not UTF-8 ({error.reason})")
    except ValueError as error:
        raise InputError(f"JSON_INVALID: {error}") from None


def parse_categories(raws: Iterable[bytes]) -> list[Category]:
    """The entries of `categories`. Raises `InputError` for one without an integer id and a name: nothing works without."""
    categories = []
    for raw in raws:
        entry = _loads(raw)
        if isinstance(entry, Problem):
            raise InputError(f"JSON_INVALID: {entry.message}")
        usable = isinstance(entry, dict) and _is_int(entry.get("id")) and isinstance(entry.get("name"), str) and entry["name"]
        if not usable or not _is_text(entry["name"]):
            raise InputError(f"JSON_INVALID: expected categories with an integer 'id' and a 'name', found {str(entry)[:80]}")
        categories.append(Category(entry["id"], entry["name"]))
    return categories


def split_block(data: bytes) -> list[bytes]:
    """The elements of a block, each still JSON."""
    text = b"[" + data.strip(b", \t\r\n") + b"]"
    try:
        return [bytes(raw) for raw in _raw_list.decode(text)]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _split_slowly(text)  # half a surrogate pair, perhaps; or this says what is wrong


def _split_slowly(text: bytes) -> list[bytes]:
    """The elements of a JSON list, as Python finds them. Latin-1 has a character for every byte, so positions are bytes."""
    decode = json.JSONDecoder(parse_constant=_no_constant).raw_decode
    characters = text.decode("latin-1")

    def behind_space(position: int) -> int:
        match = _SPACE.match(characters, position)
        return match.end() if match else position

    elements = []
    position = behind_space(1)
    try:
        while position < len(characters) - 1:
            _, end = decode(characters, position)
            elements.append(text[position:end])
            position = behind_space(end)
            if position < len(characters) - 1:
                if characters[position] != ",":
                    raise ValueError(f"expected a comma at {text[position : position + 20]!r}")
                position = behind_space(position + 1)
    except ValueError as error:
        raise InputError(f"JSON_INVALID: {error}") from None
    return elements


# ------------------------------------------------------------------------------------------------------------- steps


class FileBlock(NamedTuple):
    """A block of a file, and over how many buckets the file's images and annotations are spread."""

    path: str
    buckets: int
    key: str
    offset: int
    length: int


def find_files(pattern: str) -> Iterator[tuple[str, int]]:
    """The files that a pattern matches, each with the number of buckets for all of them together."""
    try:
        files = storage.match(pattern)
    except Exception as error:
        raise InputError(f"the annotations {pattern} can't be read: {error}") from error
    if not files:
        raise InputError(f"there are no annotations at {pattern}")
    buckets = max(1, sum(file.bytes for file in files) // BUCKET_BYTES)
    for file in files:
        yield file.path, buckets


def cut_file(path: str, buckets: int) -> Iterator[FileBlock]:
    """The blocks of one file."""
    with storage.open_read(path) as file:
        for block in cut_blocks(file.read, LISTS, path):
            yield FileBlock(path, buckets, *block)


def read_block(block: FileBlock) -> list[bytes]:
    """The elements of a block, read from its file."""
    with storage.open_read(block.path) as file:
        file.seek(block.offset)
        data = file.read(block.length)
    if len(data) != block.length:
        raise InputError(f"JSON_INVALID: {block.path} has changed while it was read")
    return split_block(data)


Bucket = tuple[int, int]
"""A hash bucket of ids, and how many there are."""
KeyedBatch = tuple[Bucket, bytes]


def bucket_of(number: int, buckets: int) -> Bucket:
    """The bucket of an image or annotation id."""
    return stable_hash(str(number), "bucket") % buckets, buckets


class ParseBlocks(beam.DoFn):  # type: ignore[misc]
    """FileBlock → (bucket, packed parts); and, tagged, (bucket, packed id pairs), rejects, census, categories."""

    def __init__(self, max_pixels: int, spill_folder: str | None) -> None:
        self.max_pixels = max_pixels
        self.writer = BatchWriter(spill_folder)
        self.images_read = Metrics.counter("maskbeam", "images_read")
        self.annotations_read = Metrics.counter("maskbeam", "annotations_read")

    def teardown(self) -> None:
        self.writer.close()

    def process(self, block: FileBlock) -> Iterator[Any]:
        try:
            yield from self._parse(block)
        except InputError as error:
            message = str(error).removeprefix("JSON_INVALID: ")
            raise InputError(
                f"JSON_INVALID: {block.path}: in {block.key!r}, within {block.length} bytes from byte {block.offset}: {message}"
            ) from None

    def _parse(self, block: FileBlock) -> Iterator[Any]:
        raws = read_block(block)
        if block.key == "categories":
            for category in parse_categories(raws):
                yield beam.pvalue.TaggedOutput("categories", category)
            return
        parts: defaultdict[Bucket, list[Part]] = defaultdict(list)
        ids: defaultdict[Bucket, list[tuple[int, int]]] = defaultdict(list)
        pixels = 0
        for raw in raws:
            part: Part | Reject
            if block.key == "images":
                part = parse_image(raw, self.max_pixels)
                if isinstance(part, CocoImage):
                    pixels += part.height * part.width
            else:
                part = parse_annotation(raw)
                if isinstance(part, CocoAnnotation):
                    annotation_id = part.instance.annotation_id
                    ids[bucket_of(annotation_id, block.buckets)].append((annotation_id, part.image_id))
            if isinstance(part, Reject):
                yield beam.pvalue.TaggedOutput("rejects", part)
            else:
                parts[bucket_of(part.image_id, block.buckets)].append(part)
        images, annotations = (len(raws), 0) if block.key == "images" else (0, len(raws))
        progress.advance(progress.IMAGES_READ, images)
        self.images_read.inc(images)
        self.annotations_read.inc(annotations)
        yield beam.pvalue.TaggedOutput("census", Census(images, annotations, pixels))
        for bucket, pairs in ids.items():
            yield beam.pvalue.TaggedOutput("ids", (bucket, self.writer.write(np.array(pairs, "<i8").tobytes())))
        for bucket, members in parts.items():
            yield bucket, self.writer.write(pack(members))


class FindDuplicates(beam.DoFn):  # type: ignore[misc]
    """(bucket, batches of id pairs) → (bucket of the image, batch of `CocoDuplicate`s)."""

    def __init__(self, spill_folder: str | None) -> None:
        self.writer = BatchWriter(spill_folder)

    def teardown(self) -> None:
        self.writer.close()

    def process(self, group: tuple[Bucket, Iterable[bytes]]) -> Iterator[KeyedBatch]:
        (_, buckets), batches = group
        marks: defaultdict[Bucket, list[CocoDuplicate]] = defaultdict(list)
        for duplicate in find_duplicates([np.frombuffer(read_batch(batch), "<i8").reshape(-1, 2) for batch in batches]):
            marks[bucket_of(duplicate.image_id, buckets)].append(duplicate)
        for bucket, duplicates in marks.items():
            yield bucket, self.writer.write(pack(duplicates))


def find_duplicates(pairs: list[npt.NDArray[np.int64]]) -> Iterator[CocoDuplicate]:
    """Arrays [N, 2] of annotation id and image id → the ids that several images claim, for all but the first of them.

    First is the image with the smallest id.
    """
    claims = np.unique(np.concatenate(pairs), axis=0)
    repeated = np.flatnonzero(claims[1:, 0] == claims[:-1, 0]) + 1
    firsts = np.searchsorted(claims[:, 0], claims[repeated, 0])
    for (annotation_id, image_id), (_, first) in zip(claims[repeated].tolist(), claims[firsts].tolist(), strict=True):
        yield CocoDuplicate(image_id, annotation_id, first)


def meet(batches: Iterable[bytes], categories: frozenset[int]) -> Iterator[AnnotatedImage | Reject]:
    """The images of a bucket with their annotations, and rejects for what found no partner or came twice."""
    images: defaultdict[int, list[CocoImage]] = defaultdict(list)
    instances: defaultdict[int, list[Instance]] = defaultdict(list)
    taken: dict[tuple[int, int], int] = {}
    for batch in batches:
        for part in read_elements(batch, _parts):
            if isinstance(part, CocoImage):
                images[part.image_id].append(part)
            elif isinstance(part, CocoAnnotation):
                instances[part.image_id].append(part.instance)
            else:
                taken[part.image_id, part.annotation_id] = part.first_image_id
    for image_id in sorted(images.keys() | instances.keys()):
        kept: dict[int, Instance] = {}
        # The order of input must not matter: same ids are told apart by their content.
        for instance in sorted(instances[image_id], key=lambda one: (one.annotation_id, pack(one))):
            wrong = None
            if (image_id, instance.annotation_id) in taken:
                first = taken[image_id, instance.annotation_id]
                wrong = problem(ReasonCode.DUP_ID, f"image {first} has an annotation with this id already")
            elif instance.annotation_id in kept:
                wrong = problem(ReasonCode.DUP_ID, "this image has an annotation with this id already")
            elif not images[image_id]:
                wrong = problem(ReasonCode.IMAGE_ORPHAN, f"there is no image with id {image_id}")
            elif instance.category_id not in categories:
                wrong = problem(ReasonCode.CATEGORY_UNKNOWN, f"there is no category with id {instance.category_id}")
            if wrong:
                yield Reject("annotation", image_id, instance.annotation_id, wrong.code, wrong.message)
            else:
                kept[instance.annotation_id] = instance
        entries = sorted(images[image_id], key=lambda entry: (entry.problem is not None, pack(entry)))
        for entry in entries[:1]:
            image = AnnotatedImage(image_id, entry.file_name, entry.height, entry.width, tuple(kept.values()))
            if entry.problem:
                yield from reject_image(image, entry.problem)
            else:
                yield image
        for _ in entries[1:]:
            message = f"another image ({entries[0].file_name}) has this id already"
            yield Reject("image", image_id, None, ReasonCode.DUP_IMAGE.name, message)


class Meet(beam.DoFn):  # type: ignore[misc]
    """(bucket, packed parts) → AnnotatedImage; and, tagged, rejects."""

    def process(self, group: tuple[Bucket, Iterable[bytes]], categories: list[Category]) -> Iterator[Any]:
        known = frozenset(category.category_id for category in categories)
        for met in meet(group[1], known):
            yield beam.pvalue.TaggedOutput("rejects", met) if isinstance(met, Reject) else met


class Annotations(NamedTuple):
    """What every source gives: images with their geometry, the category list, the rejects and the census."""

    images: beam.PCollection[AnnotatedImage]
    categories: beam.PCollection[Category]
    rejects: beam.PCollection[Reject]
    census: beam.PCollection[Census]


@dataclass
class ReadCoco(beam.PTransform):  # type: ignore[misc]
    """COCO instances files, by path or glob pattern, to `Annotations`.

    Raises `InputError` in the pipeline where the file as a whole is unusable; a bad element is a reject.
    """

    pattern: str
    max_pixels: int = 100_000_000
    spill_folder: str | None = None

    def expand(self, pipeline: beam.Pipeline) -> Annotations:
        parsed = (
            pipeline
            | beam.Create([self.pattern])
            | "FindFiles" >> beam.FlatMap(find_files)
            | "CutBlocks" >> beam.FlatMapTuple(cut_file).with_output_types(FileBlock)
            | "SpreadBlocks" >> beam.Reshuffle()
            | "ParseBlocks"
            >> beam.ParDo(ParseBlocks(self.max_pixels, self.spill_folder))
            .with_output_types(KeyedBatch, ids=KeyedBatch, rejects=Reject, census=Census, categories=Category)
            .with_outputs("ids", "rejects", "census", "categories", main="parts")
        )
        duplicates = (
            parsed.ids
            | "GroupIds" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.ParDo(FindDuplicates(self.spill_folder)).with_output_types(KeyedBatch)
        )
        met = (
            (parsed.parts, duplicates)
            | beam.Flatten()
            | "GroupByImage" >> beam.GroupByKey()
            | "Meet"
            >> beam.ParDo(Meet(), beam.pvalue.AsList(parsed.categories))
            .with_output_types(AnnotatedImage, rejects=Reject)
            .with_outputs("rejects", main="images")
        )
        rejects = (parsed.rejects, met.rejects) | "Rejects" >> beam.Flatten()
        return Annotations(met.images, parsed.categories, rejects, parsed.census)
