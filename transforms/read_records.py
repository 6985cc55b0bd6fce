"""Records of a data set, read back as plain values, without TensorFlow.

The messages are `tf.train.Example`'s, built here with one liberty: on the wire a packed `repeated float` is the same as `bytes`,
and is read as such, so that a dense mask is a view of memory and no list of Python floats. All who write this message pack it.
Sources: tensorflow/core/example/example.proto and feature.proto; the protobuf encoding guide.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from PIL import Image

from transforms import storage
from transforms.image_files import grey_pixels
from transforms.records import FLAGS, Attributes, Box, InputError
from transforms.run_lengths import Mask
from transforms.tfrecord import FOOTER_BYTES, HEADER_BYTES, read_with_offsets, record_length

_READS = 8
"""How often a record is read whose checksums are wrong."""
MANIFEST = "manifest.json"
"""What lists the shards of a data set."""

Features = dict[str, "list[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]"]
"""The features of a `tf.train.Example`, by name."""


class WrittenInstance(NamedTuple):
    """An instance as its record has it: the box in pixels, the area in pixels², both of float32.

    `stored_mask` is a PNG, or float32 of shape (height, width); None where there is no mask, which is to say where its weight
    is 0.
    """

    label: int
    name: str
    box: Box
    is_crowd: bool
    area: float
    stored_mask: bytes | npt.NDArray[np.float32] | None
    attributes: Attributes | None

    @property
    def mask(self) -> Mask | None:
        """The mask, uint8 0/1, shape (height, width); None where there is none. Decoded anew each time."""
        if isinstance(self.stored_mask, bytes):
            plain = grey_pixels(self.stored_mask)
            if plain is not None:
                return plain
            with Image.open(io.BytesIO(self.stored_mask), formats=("PNG",)) as image:
                return np.asarray(image)  # of a palette, the indices
        return None if self.stored_mask is None else self.stored_mask.astype(np.uint8)


class WrittenImage(NamedTuple):
    """An image as its record has it; `data` is the file, `format` is jpeg or png. Category ids are the label map's."""

    image_id: int
    file_name: str
    split: str
    height: int
    width: int
    data: bytes
    format: str
    sha256: str
    instances: tuple[WrittenInstance, ...]
    neg_category_ids: tuple[int, ...] | None
    not_exhaustive_category_ids: tuple[int, ...] | None


# --------------------------------------------------------------------------------------------------------- messages


def _example_message() -> Any:
    of, labels = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FieldDescriptorProto

    def field(name: str, number: int, kind: int, message: str = "", repeated: bool = False, oneof: bool = False) -> Any:
        label = labels.LABEL_REPEATED if repeated else labels.LABEL_OPTIONAL
        given = {"type_name": f".maskbeam.{message}"} if message else {}
        return of(name=name, number=number, type=kind, label=label, **given, **({"oneof_index": 0} if oneof else {}))

    message = descriptor_pb2.DescriptorProto
    entry = message(
        name="FeatureEntry",
        field=[field("key", 1, of.TYPE_STRING), field("value", 2, of.TYPE_MESSAGE, "Feature")],
        options=descriptor_pb2.MessageOptions(map_entry=True),
    )
    lists = ("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")
    feature = [field(name, number, of.TYPE_MESSAGE, kind, oneof=True) for number, (name, kind) in enumerate(lists, start=1)]
    file = descriptor_pb2.FileDescriptorProto(
        name="maskbeam/example.proto",
        package="maskbeam",
        syntax="proto3",
        message_type=[
            message(name="BytesList", field=[field("value", 1, of.TYPE_BYTES, repeated=True)]),
            message(name="FloatList", field=[field("value", 1, of.TYPE_BYTES, repeated=True)]),  # packed floats, see above
            message(name="Int64List", field=[field("value", 1, of.TYPE_INT64, repeated=True)]),
            message(name="Feature", field=feature, oneof_decl=[descriptor_pb2.OneofDescriptorProto(name="kind")]),
            message(
                name="Features",
                field=[field("feature", 1, of.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)],
                nested_type=[entry],
            ),
            message(name="Example", field=[field("features", 1, of.TYPE_MESSAGE, "Features")]),
        ],
    )
    pool = descriptor_pool.DescriptorPool()  # one of its own: TensorFlow may be there too
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("maskbeam.Example"))


_Example = _example_message()


def parse_example(record: bytes) -> Features:
    """The features of a serialized `tf.train.Example`. Raises `ValueError` where it is none; a feature of no kind is left out."""
    try:
        example = _Example.FromString(record)
    except DecodeError as error:
        raise ValueError(f"no tf.train.Example: {error}") from None
    features: Features = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list":
            features[name] = list(feature.bytes_list.value)
        elif kind == "float_list":
            features[name] = np.frombuffer(b"".join(feature.float_list.value), "<f4")
        elif kind == "int64_list":
            features[name] = np.array(feature.int64_list.value, np.int64)
    return features


# ---------------------------------------------------------------------------------------------------------- records


def read_image(record: bytes, split: str) -> WrittenImage:
    """The image of a record. Raises `ValueError`, with a message for the user, where it is no record of ours."""
    features = parse_example(record)
    height, width = int(_one(features, "image/height")), int(_one(features, "image/width"))
    return WrittenImage(
        int(_one(features, "image/source_id")),
        _one(features, "image/filename").decode(),
        split,
        height,
        width,
        _one(features, "image/encoded"),
        _one(features, "image/format").decode(),
        _one(features, "image/key/sha256").decode(),
        tuple(_instances(features, height, width)),
        _ids(features, "image/neg_category_ids"),
        _ids(features, "image/not_exhaustive_category_ids"),
    )


def _all(features: Mapping[str, Any], name: str) -> Any:
    if name not in features:
        raise ValueError(f"the record has no {name}")
    return features[name]


def _one(features: Mapping[str, Any], name: str) -> Any:
    values = _all(features, name)
    if len(values) != 1:
        raise ValueError(f"{name}: expected 1 value, found {len(values)}")
    return values[0]


def _ids(features: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    return tuple(features[name].tolist()) if name in features else None


def _instances(features: Mapping[str, Any], height: int, width: int) -> Iterator[WrittenInstance]:
    labels, masks = _all(features, "image/object/class/label"), _all(features, "image/object/mask")
    if isinstance(masks, np.ndarray):
        masks = masks.reshape(len(labels), height, width)
    columns = {name: _all(features, f"image/object/{name}") for name in ("class/text", "is_crowd", "area")}
    sides = {f"bbox/{side}": _all(features, f"image/object/bbox/{side}") for side in ("ymin", "xmin", "ymax", "xmax")}
    weights = features.get("image/object/mask/weight", np.ones(len(labels)))
    columns |= {"mask": masks, "mask/weight": weights, "attributes": _attributes(features, len(labels))}
    for name, values in (columns | sides).items():
        if len(values) != len(labels):
            raise ValueError(f"image/object/{name}: expected {len(labels)} values, as many as labels, found {len(values)}")
    boxes = np.stack(list(sides.values()), axis=1).astype(np.float64) * (height, width, height, width)
    for label, box, *values in zip(labels.tolist(), boxes.tolist(), *columns.values(), strict=True):
        name, is_crowd, area, mask, weight, attributes = values
        stored = mask if weight else None
        yield WrittenInstance(label, name.decode(), tuple(box), bool(is_crowd), float(area), stored, attributes)


def _attributes(features: Mapping[str, Any], count: int) -> list[Attributes | None]:
    if "image/object/view" not in features:
        return [None] * count
    flags = {name: features[f"image/object/{name}"] for name in FLAGS}
    views = features["image/object/view"]
    return [Attributes(**{name: bool(flags[name][at]) for name in FLAGS}, view=view.decode()) for at, view in enumerate(views)]


# ------------------------------------------------------------------------------------------------------- a data set


def read_json(output: str, name: str) -> Any:
    """A JSON file of a data set. Raises `InputError` where it is not there, or is none."""
    try:
        return json.loads(storage.read_bytes(storage.join(output, name)))
    except Exception as error:
        why = f"there is no {name} in it" if storage.is_missing(error) else f"{name} can't be read ({error})"
        raise InputError(f"{output} is no data set of maskbeam's: {why}") from None


def shards_of(output: str, splits: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The entries of a data set's shards in its manifest, or of those splits'. Raises `InputError`, also for an unknown split."""
    manifest = read_json(output, MANIFEST)
    if not isinstance(manifest, dict) or "shards" not in manifest:
        raise InputError(f"{output} is no data set of maskbeam's: {MANIFEST} has no 'shards'")
    shards: list[dict[str, Any]] = manifest["shards"]
    there = list(dict.fromkeys(shard["split"] for shard in shards))
    for split in splits or ():
        if split not in there:
            raise InputError(f"{output} has no split {split!r}: it has {', '.join(there)}")
    return [shard for shard in shards if splits is None or shard["split"] in splits]


def iter_records(output: str, file: str, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The records of a shard, from the one on that begins at a byte, and where each begins; checksums are looked at.

    Raises `InputError` where the shard is not there or damaged.
    """
    with _told(output, file), storage.open_read(storage.join(output, file)) as opened:
        opened.seek(offset)
        yield from read_with_offsets(opened, offset)


def iter_shard(output: str, shard: Mapping[str, Any], offset: int = 0) -> Iterator[tuple[int, bytes, WrittenImage]]:
    """For each record of a shard, from the one on that begins at a byte: at which it begins, itself, and the image in it.

    The shard is given by its entry in the manifest. Raises as `iter_records`, and where a record is none of ours.
    """
    for begin, record in iter_records(output, shard["file"], offset):
        with _told(output, shard["file"], f"record at byte {begin}: "):
            image = read_image(record, shard["split"])
        yield begin, record, image


def iter_images(output: str, splits: Sequence[str] | None = None) -> Iterator[WrittenImage]:
    """The images of a data set, or of some of its splits, in the order of its shards; one at a time is held.

    Raises `InputError` where there is no data set, no such split, or a shard is damaged.
    """
    for shard in shards_of(output, splits):
        yield from (image for _, _, image in iter_shard(output, shard))


def read_at(output: str, file: str, offset: int) -> bytes:
    """The record that begins at a byte of a shard, whose checksums are looked at; nothing else of the file is read.

    Raises as `iter_records`.
    """
    path = storage.join(output, file)
    with _told(output, file):
        for _ in range(_READS - 1):
            with suppress(ValueError):  # which may have come about on the way
                return _read_record(path, offset)
        return _read_record(path, offset)


def _read_record(path: str, offset: int) -> bytes:
    header = storage.read_part(path, offset, HEADER_BYTES)
    rest = storage.read_part(path, offset + HEADER_BYTES, record_length(header, offset) + FOOTER_BYTES)
    return next(record for _, record in read_with_offsets(io.BytesIO(header + rest), offset))


@contextmanager
def _told(output: str, file: str, where: str = "") -> Iterator[None]:
    """Of what is wrong with a shard, an `InputError` that names it."""
    try:
        yield
    except Exception as error:
        if not (isinstance(error, ValueError) or storage.is_missing(error)):
            raise
        why = f"{where}{error}" if isinstance(error, ValueError) else "it is not there"
        path = storage.join(output, file)
        raise InputError(f"{path} can't be read: {why}; maskbeam run --resume writes it again") from None
