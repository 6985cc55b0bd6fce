"""One image's record: a `tf.train.Example`, written in its wire format without TensorFlow.

On the wire a packed `repeated float` is a length and little-endian float32s, the same bytes as a `bytes` field, so a dense
mask is a memory copy (measured for 20 masks of 640×480: 0.05 s, against 0.8 s through Python numbers).
Sources: tensorflow/core/example/example.proto and feature.proto; the protobuf encoding guide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transforms import encode, run_lengths
from transforms.encode import EncodedMasks, MaskEncoding
from transforms.images import CheckedImage
from transforms.records import FLAGS, AnnotatedImage, Category, InputError, Instance, Problem, ReasonCode, names_by_id, problem
from transforms.run_lengths import Runs

Feature = bytes | Sequence[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int64]
"""One string, several, float32s or int64s: what a `tf.train.Feature` can hold."""


class Kind(Enum):
    """The kinds of list of a `tf.train.Feature`, by their names there."""

    BYTES = "bytes_list"
    FLOAT = "float_list"
    INT64 = "int64_list"


class RecordFeature(NamedTuple):
    """A feature of the record: its kind, whether it has a value for each instance or one in all, and what it means."""

    kind: Kind
    per_instance: bool
    meaning: str

    def kind_for(self, encoding: MaskEncoding) -> Kind:
        """The kind of list, which for masks depends on the encoding."""
        return Kind.FLOAT if self is FEATURES["image/object/mask"] and encoding == "dense" else self.kind


FEATURES = {
    "image/height": RecordFeature(Kind.INT64, False, "pixels of the decoded image"),
    "image/width": RecordFeature(Kind.INT64, False, "pixels of the decoded image"),
    "image/filename": RecordFeature(Kind.BYTES, False, "as in the annotations"),
    "image/source_id": RecordFeature(Kind.BYTES, False, "the image id, in decimal"),
    "image/key/sha256": RecordFeature(Kind.BYTES, False, "hex digest of `image/encoded`"),
    "image/encoded": RecordFeature(Kind.BYTES, False, "the file, byte for byte, unless it had to be converted"),
    "image/format": RecordFeature(Kind.BYTES, False, "`jpeg` or `png`, from the content"),
    "image/object/bbox/ymin": RecordFeature(Kind.FLOAT, True, "divided by the height, in [0, 1]"),
    "image/object/bbox/xmin": RecordFeature(Kind.FLOAT, True, "divided by the width, in [0, 1]"),
    "image/object/bbox/ymax": RecordFeature(Kind.FLOAT, True, "divided by the height, in [0, 1]; half-open"),
    "image/object/bbox/xmax": RecordFeature(Kind.FLOAT, True, "divided by the width, in [0, 1]; half-open"),
    "image/object/class/text": RecordFeature(Kind.BYTES, True, "category name, UTF-8"),
    "image/object/class/label": RecordFeature(Kind.INT64, True, "category id, at least 1"),
    "image/object/is_crowd": RecordFeature(Kind.INT64, True, "0 or 1"),
    "image/object/area": RecordFeature(Kind.FLOAT, True, "pixels²: the annotation's, else the mask's, else the box's"),
    "image/object/mask": RecordFeature(Kind.BYTES, True, "by `--mask_encoding`, below"),
    "image/object/mask/weight": RecordFeature(Kind.FLOAT, True, "1, or 0 where the annotation has no mask"),
}
"""What a record consists of. N instances have N values of each feature that is per instance; dense masks have N·H·W."""

OPTIONAL_FEATURES = {
    "image/object/difficult": RecordFeature(Kind.INT64, True, "0 or 1"),
    "image/object/truncated": RecordFeature(Kind.INT64, True, "0 or 1: it goes on beyond the image"),
    "image/object/occluded": RecordFeature(Kind.INT64, True, "0 or 1: something hides part of it"),
    "image/object/group_of": RecordFeature(Kind.INT64, True, "0 or 1: it stands for several objects"),
    "image/object/depiction": RecordFeature(Kind.INT64, True, "0 or 1: it is a picture of the object"),
    "image/object/view": RecordFeature(Kind.BYTES, True, "from where it is seen, as the annotations say"),
    "image/neg_category_ids": RecordFeature(Kind.INT64, False, "any number of category ids: looked for, and not there (LVIS)"),
    "image/not_exhaustive_category_ids": RecordFeature(
        Kind.INT64, False, "any number of category ids: there, and not annotated to the last (LVIS)"
    ),
}
"""What is there where the annotations say it: of objects, all six if they say any of any object of the image."""


class LabelMap(NamedTuple):
    """For each category id of the annotations, the label id that records carry, and the name."""

    labels: Mapping[int, tuple[int, str]]

    @classmethod
    def of(cls, categories: Sequence[Category], contiguous: bool) -> LabelMap:
        """Ids as they are, or 1 … K in their order. Raises `InputError` where that makes no label map."""
        names = names_by_id(categories)
        by_name: dict[str, int] = {}
        for category_id, name in names.items():
            if by_name.setdefault(name, category_id) != category_id:
                both = f"{by_name[name]} and {category_id}"
                raise InputError(f"the categories {both} are both named {name!r}, which a trainer can't tell apart: rename one")
        if contiguous:
            return cls({category_id: (label, name) for label, (category_id, name) in enumerate(names.items(), start=1)})
        for category_id, name in names.items():
            if not 0 < category_id < 2**31:
                raise InputError(
                    f"the category {name!r} has the id {category_id}, but the trainers' ids begin with 1: "
                    "run again with --category_ids contiguous to number the categories anew"
                )
        return cls({category_id: (category_id, name) for category_id, name in names.items()})

    def items(self) -> list[tuple[int, str]]:
        """Label ids and names, ascending."""
        return sorted(self.labels.values())


# --------------------------------------------------------------------------------------------------- wire format


def _varint(value: int) -> bytes:
    if 0 <= value < 128:
        return _SMALL[value]
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [bytes([value]) for value in range(128)]
_LIST_KINDS = {"bytes": b"\x0a", "float": b"\x12", "int64": b"\x1a"}  # field numbers 1 to 3 of Feature, length-delimited
_FIRST = b"\x0a"  # field 1, length-delimited: what all the other messages here consist of

Parts = list[bytes | memoryview]


_LARGE = 1 << 16  # bytes of floats that are not copied once more


def _packed(numbers: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> bytes | memoryview:
    """Numbers as a packed field; of int64s, each as long as it has to be."""
    if numbers.dtype != np.float32:
        return b"".join(map(_varint, numbers.tolist()))
    floats = np.ascontiguousarray(numbers, "<f4")
    return floats.tobytes() if floats.nbytes < _LARGE else floats.data.cast("B")


def _feature(value: Feature) -> tuple[Parts, int]:
    """A `Feature`, and how long it is: BytesList, FloatList or Int64List, the numbers packed. An empty list keeps its kind."""
    values: Sequence[bytes | memoryview]
    if isinstance(value, np.ndarray):
        kind = "float" if value.dtype == np.float32 else "int64"
        values = [_packed(value)] if value.size else []
    else:
        kind, values = "bytes", [value] if isinstance(value, bytes) else value
    parts: Parts = [b""]
    size = 0
    for one in values:
        length = _varint(len(one))
        parts += (_FIRST, length, one)
        size += 1 + len(length) + len(one)
    parts[0] = _LIST_KINDS[kind] + _varint(size)
    return parts, len(parts[0]) + size


@lru_cache(maxsize=len(FEATURES) + len(OPTIONAL_FEATURES))
def _key(name: str) -> bytes:
    """What of an entry of the map `feature` comes before the length of its value."""
    text = name.encode()
    return _FIRST + _varint(len(text)) + text + b"\x12"


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """A serialized `tf.train.Example`, its features in the order of their names."""
    entries: Parts = [b""]
    total = 0
    for name in sorted(features):
        feature, size = _feature(features[name])
        key = _key(name) + _varint(size)
        head = _FIRST + _varint(len(key) + size) + key
        entries.append(head)
        entries += feature
        total += len(head) + size
    entries[0] = _FIRST + _varint(total)
    return b"".join(entries)


# -------------------------------------------------------------------------------------------------------- record


_FIXED_BYTES = 1000  # what the other features of an image have at most, with names and framing
_INSTANCE_BYTES = 64  # and those of an instance


def build_record(
    image: AnnotatedImage, checked: CheckedImage, masks: EncodedMasks, labels: LabelMap, max_bytes: int
) -> bytes | Problem:
    """The record of an image whose instances all have a box inside it, and a mask of its size or none.

    `masks` are those of its instances: one without a mask gets an empty one, with weight 0.
    `RECORD_LIMIT`, before anything large is made, where the record would have over `max_bytes`.
    """
    height, width, instances = checked.height, checked.width, image.instances
    mask_bytes = encode.dense_bytes(len(instances), height, width) if masks.pngs is None else sum(map(len, masks.pngs))
    texts = [labels.labels[one.category_id] for one in instances]
    names = len(image.file_name.encode()) + sum(len(name.encode()) for _, name in texts)
    size = len(checked.data) + mask_bytes + names + _FIXED_BYTES + _INSTANCE_BYTES * len(instances)
    if size > max_bytes:
        way_out = "; --mask_encoding png takes a hundredth of that" if masks.pngs is None else ""
        return problem(
            ReasonCode.RECORD_LIMIT,
            f"the record would have {size / 1e6:.1f} MB, {mask_bytes / 1e6:.1f} of them masks; "
            f"at most {max_bytes / 1e6:.1f} are written (--max_record_mb){way_out}",
        )
    boxes = np.array([one.box for one in instances], np.float64).reshape(-1, 4)
    scaled = scale_boxes(boxes, np.array((height, width, height, width)))
    features: dict[str, Feature] = {
        "image/height": np.array([height]),
        "image/width": np.array([width]),
        "image/filename": image.file_name.encode(),
        "image/source_id": str(image.image_id).encode(),
        "image/key/sha256": checked.sha256.encode(),
        "image/encoded": checked.data,
        "image/format": checked.format.encode(),
        "image/object/bbox/ymin": scaled[:, 0],
        "image/object/bbox/xmin": scaled[:, 1],
        "image/object/bbox/ymax": scaled[:, 2],
        "image/object/bbox/xmax": scaled[:, 3],
        "image/object/class/text": [name.encode() for _, name in texts],
        "image/object/class/label": np.array([label for label, _ in texts], np.int64),
        "image/object/is_crowd": np.array([one.is_crowd for one in instances], np.int64),
        "image/object/area": np.array([area_of(one, mask) for one, mask in zip(instances, masks.runs, strict=True)], np.float32),
        "image/object/mask": encode.dense_masks(masks.runs, height, width) if masks.pngs is None else masks.pngs,
        "image/object/mask/weight": np.array([float(one.shape is not None) for one in instances], np.float32),
    }
    if image.extras or any(one.attributes for one in instances):
        features |= _optional_features(image, labels)
    return encode_example(features)


def scale_boxes(boxes: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Boxes in pixels, shape (N, 4), as parts of the image; `sizes` are (height, width, height, width), of all or of each."""
    return (boxes / sizes).clip(0, 1).astype(np.float32)


def _optional_features(image: AnnotatedImage, labels: LabelMap) -> Iterator[tuple[str, Feature]]:
    """Those of `OPTIONAL_FEATURES` that the annotations of an image have."""
    attributes = [one.attributes for one in image.instances]
    if any(attributes):
        for name in FLAGS:
            yield f"image/object/{name}", np.array([bool(one and getattr(one, name)) for one in attributes], np.int64)
        yield "image/object/view", [one.view.encode() if one else b"" for one in attributes]
    for name, ids in of_lvis(image, labels).items():
        yield f"image/{name}", np.array(ids, np.int64)


def of_lvis(image: AnnotatedImage, labels: LabelMap) -> dict[str, list[int]]:
    """What LVIS says of an image as a whole, by name, in label ids."""
    found = {}
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        ids = getattr(image.extras, name, None)
        if ids is not None:
            found[name] = [labels.labels[one][0] for one in ids if one in labels.labels]
    return found


def area_of(instance: Instance, runs: Runs) -> float:
    """The annotation's own area; without one, the mask's; without a mask, the box's. In pixels²."""
    if instance.area is not None:
        return instance.area
    if instance.shape is None and instance.box is not None:
        ymin, xmin, ymax, xmax = instance.box
        return (ymax - ymin) * (xmax - xmin)
    return float(run_lengths.area(runs))
