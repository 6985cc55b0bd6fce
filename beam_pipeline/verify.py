"""`maskbeam verify`: reads every record back as both trainers do, and says what is broken.

TensorFlow is imported here and nowhere else. The two decoders below follow, line by line, what the Object Detection API's
`tf_example_decoder.TfExampleDecoder(load_instance_masks=True)` and the Model Garden's
`official.vision.dataloaders.tf_example_decoder.TfExampleDecoder(include_mask=True)` do with a record.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt
from pycocotools import mask as cocomask

from beam_pipeline.dataset_files import LABEL_MAP, LABEL_MAP_CSV, MANIFEST, REJECTS, SHARDS, STATISTICS, SUCCESS
from beam_pipeline.terminal import quiet
from transforms import storage
from transforms.ahead import ahead
from transforms.encode import MaskEncoding
from transforms.examples import FEATURES, OPTIONAL_FEATURES
from transforms.read_records import read_json
from transforms.records import InputError
from transforms.sources.coco_json import image_id_of, is_int
from transforms.tfrecord import read_records

SHOWN = 30  # findings; the others are counted
THREADS = 4

MASK = "image/object/mask"

Masks = npt.NDArray[np.float32]


class Decoded(NamedTuple):
    """What a trainer sees. `boxes` are [N, 4] as (ymin, xmin, ymax, xmax) in [0, 1], `masks` [N, height, width]."""

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    masks: Masks


class Found(NamedTuple):
    """A record without a fault, for the comparison with the annotations."""

    image_id: int
    boxes: npt.NDArray[np.float32]
    masks: Masks
    names: list[str]
    crowds: list[int]
    areas: list[float]
    weights: list[float]


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError:
        raise InputError("verify reads records through TensorFlow: pip install 'maskbeam[verify]'") from None
    return tf


# --------------------------------------------------------------------------------------------------- the decoders


def _parsed(tf: Any, serialized: bytes, mask_type: Any) -> Mapping[str, Any]:
    fixed = {"image/encoded": "", "image/format": "jpeg", "image/source_id": ""}
    features = {name: tf.io.FixedLenFeature((), tf.string, default) for name, default in fixed.items()}
    features |= {name: tf.io.FixedLenFeature((), tf.int64) for name in ("image/height", "image/width")}
    features |= {f"image/object/bbox/{side}": tf.io.VarLenFeature(tf.float32) for side in ("ymin", "xmin", "ymax", "xmax")}
    features |= {"image/object/class/label": tf.io.VarLenFeature(tf.int64), MASK: tf.io.VarLenFeature(mask_type)}
    parsed: Mapping[str, Any] = tf.io.parse_single_example(serialized, features)
    return {name: tf.sparse.to_dense(one) if isinstance(one, tf.SparseTensor) else one for name, one in parsed.items()}


def _boxes(tf: Any, parsed: Mapping[str, Any]) -> Any:
    return tf.stack([parsed[f"image/object/bbox/{side}"] for side in ("ymin", "xmin", "ymax", "xmax")], axis=-1).numpy()


def decode_as_object_detection_api(tf: Any, serialized: bytes, encoding: MaskEncoding) -> Decoded:
    """`PNG_MASKS`: whatever is above 0 belongs to a mask. `NUMERICAL_MASKS`: [N, H, W] by the record's height and width."""
    parsed = _parsed(tf, serialized, tf.float32 if encoding == "dense" else tf.string)
    image = tf.io.decode_image(parsed["image/encoded"], channels=3).numpy()
    height, width = int(parsed["image/height"]), int(parsed["image/width"])
    if encoding == "dense":
        masks = tf.reshape(parsed[MASK], [-1, height, width]).numpy()
    else:
        each = [tf.squeeze(tf.io.decode_image(one, channels=1), axis=2).numpy() > 0 for one in parsed[MASK]]
        masks = np.stack(each).astype(np.float32) if each else np.zeros((0, height, width), np.float32)
    return Decoded(image, _boxes(tf, parsed), masks)


def decode_as_model_garden(tf: Any, serialized: bytes) -> Decoded:
    """PNG masks only, and their values as they are: a mask of 0 and 255 comes out 255 times too strong."""
    parsed = _parsed(tf, serialized, tf.string)
    image = tf.io.decode_image(parsed["image/encoded"], channels=3).numpy()
    each = [tf.squeeze(tf.io.decode_png(one, channels=1, dtype=tf.uint8), axis=-1).numpy() for one in parsed[MASK]]
    empty = np.zeros((0, int(parsed["image/height"]), int(parsed["image/width"])), np.float32)
    return Decoded(image, _boxes(tf, parsed), np.stack(each).astype(np.float32) if each else empty)


def same(one: Decoded, other: Decoded) -> bool:
    """Whether two decoders have seen the same pixels, boxes and masks."""
    images, masks = np.array_equal(one.image, other.image), np.array_equal(one.masks, other.masks)
    return images and masks and np.array_equal(one.boxes, other.boxes)


# ----------------------------------------------------------------------------------------------------- one record


def _values(example: Any, name: str) -> list[Any]:
    feature = example.features.feature[name]
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def _check_features(example: Any, encoding: MaskEncoding) -> Iterator[str]:
    present = set(example.features.feature)
    count = len(_values(example, "image/object/class/label"))
    for name, feature in (FEATURES | OPTIONAL_FEATURES).items():
        if name not in present:
            if name in FEATURES and name != "image/object/mask/weight":
                yield f"{name} is missing"
            continue
        kind, found = feature.kind_for(encoding).value, example.features.feature[name].WhichOneof("kind")
        if found != kind:
            yield f"{name}: expected {kind}, found {found}"
            continue
        if name in OPTIONAL_FEATURES and not feature.per_instance:
            continue  # any number
        expected = count if feature.per_instance else 1
        if (name, encoding) != (MASK, "dense") and len(_values(example, name)) != expected:
            yield f"{name}: expected {expected} values, found {len(_values(example, name))}"
    for name in sorted(present - set(FEATURES) - set(OPTIONAL_FEATURES)):
        yield f"{name}: no trainer knows this feature"


def _check_values(example: Any, labels: Mapping[int, str]) -> Iterator[str]:
    data = _values(example, "image/encoded")[0]
    if hashlib.sha256(data).hexdigest().encode() != _values(example, "image/key/sha256")[0]:
        yield "image/key/sha256 is not the digest of image/encoded"
    named, actual = _values(example, "image/format")[0], b"png" if data.startswith(b"\x89PNG") else b"jpeg"
    if named != actual:
        yield f"image/format is {named!r}, the image is a {actual.decode()}"
    if not re.fullmatch(rb"-?\d{1,19}", _values(example, "image/source_id")[0]):
        yield f"image/source_id: expected a number, found {_values(example, 'image/source_id')[0]!r}"
    sides = {side: _values(example, f"image/object/bbox/{side}") for side in ("ymin", "xmin", "ymax", "xmax")}
    for side, values in sides.items():
        outside = [value for value in values if not 0 <= value <= 1]
        if outside:
            yield f"image/object/bbox/{side}: {outside[0]} is outside [0, 1]"
    for low, high in (("ymin", "ymax"), ("xmin", "xmax")):
        if any(a > b for a, b in zip(sides[low], sides[high], strict=True)):
            yield f"image/object/bbox/{low} is above {high}"
    texts = _values(example, "image/object/class/text")
    for label, text in zip(_values(example, "image/object/class/label"), texts, strict=True):
        if labels.get(label, "").encode() != text or label < 1:
            yield f"class {label} {text!r} is not in the label map"
    for name, allowed in (("image/object/is_crowd", {0, 1}), ("image/object/mask/weight", {0.0, 1.0})):
        if not set(_values(example, name)) <= allowed:
            yield f"{name}: expected 0 or 1, found {sorted(set(_values(example, name)) - allowed)[0]}"
    for area in _values(example, "image/object/area"):
        if not (area >= 0 and math.isfinite(area)):
            yield f"image/object/area: {area}"


def _png_form(data: bytes) -> str:
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) < 33:
        return "no PNG"
    form = {(8, 0): "8-bit grey", (1, 3): "1-bit palette"}.get((data[24], data[25]), f"depth {data[24]}, colour type {data[25]}")
    if form == "1-bit palette" and b"PLTE\x00\x00\x00\x01\x01\x01" not in data:
        form += " of other colours"
    return form


def _check_masks(example: Any, encoding: MaskEncoding, seen: Decoded) -> Iterator[str]:
    height, width = seen.image.shape[:2]
    stated = (_values(example, "image/height")[0], _values(example, "image/width")[0])
    if stated != (height, width):
        yield f"image/height and image/width are {stated}, the image is {(height, width)}"
    if seen.masks.shape[1:] != (height, width):
        yield f"the masks are {seen.masks.shape[1:]} (height, width), the image is {(height, width)}"
    if not np.isin(seen.masks, (0, 1)).all():
        yield "a mask has values other than 0 and 1"
    if encoding != "dense":
        expected = {"png": "8-bit grey", "png1": "1-bit palette"}[encoding]
        for form in {_png_form(one) for one in _values(example, MASK)} - {expected}:
            yield f"{MASK}: expected {expected} PNGs, found {form}"
    weights = _values(example, "image/object/mask/weight") or [1.0] * len(seen.masks)
    for weight, mask in zip(weights, seen.masks, strict=False):
        if bool(weight) != bool(mask.any()):
            yield f"image/object/mask/weight is {weight}, the mask has {int(mask.sum())} pixels"


def check_record(tf: Any, serialized: bytes, encoding: MaskEncoding, labels: Mapping[int, str]) -> tuple[list[str], Found | None]:
    """What is broken in a record, and, if nothing is, what was found in it."""
    try:
        example = tf.train.Example.FromString(serialized)
    except Exception as error:
        return [f"no tf.train.Example: {error}"], None
    faults = list(_check_features(example, encoding))
    if faults:
        return faults, None
    try:
        seen = decode_as_object_detection_api(tf, serialized, encoding)
        if encoding != "dense":
            garden = decode_as_model_garden(tf, serialized)
            if not same(seen, garden):
                faults.append("the two trainers' decoders see different things")
                seen = garden
    except (tf.errors.OpError, ValueError) as error:
        return [f"a trainer's decoder refuses it: {str(error).splitlines()[0]}"], None
    faults += _check_values(example, labels)
    faults += _check_masks(example, encoding, seen)
    if faults or len(seen.masks) != len(seen.boxes):
        return faults or [f"{len(seen.masks)} masks for {len(seen.boxes)} boxes"], None
    return [], Found(
        int(_values(example, "image/source_id")[0]),
        seen.boxes,
        seen.masks,
        [text.decode() for text in _values(example, "image/object/class/text")],
        _values(example, "image/object/is_crowd"),
        _values(example, "image/object/area"),
        _values(example, "image/object/mask/weight"),
    )


# ------------------------------------------------------------------------------------ comparison with annotations


class CocoTruth:
    """A COCO file, held in memory, and what of it a data set has rejected."""

    def __init__(self, path: str, rejects: list[dict[str, Any]], boxes: str) -> None:
        try:
            data = json.loads(storage.read_bytes(path))
        except Exception as error:
            raise InputError(f"--coco {path} can't be read: {error}") from None
        self.names = {category["id"]: category["name"] for category in data["categories"]}
        self.image_ids = {image_id_of(image.get("id")) for image in data["images"] if isinstance(image, dict)} - {None}
        self.boxes = boxes
        self.rejected = Counter((one["image_id"], one["annotation_id"]) for one in rejects if one["kind"] == "annotation")
        self.rejected_images = {one["image_id"] for one in rejects if one["kind"] == "image"}
        self.annotations: defaultdict[int, dict[int, list[dict[str, Any]]]] = defaultdict(dict)
        for annotation in data["annotations"]:
            image_id = image_id_of(annotation.get("image_id")) if isinstance(annotation, dict) else None
            if image_id is not None and is_int(annotation.get("id")):
                self.annotations[image_id].setdefault(annotation["id"], []).append(annotation)

    def expected(self, image_id: int) -> list[list[dict[str, Any]]]:
        """For each instance that the record must have, in order, the annotations that it may come from."""
        of_image = self.annotations.get(image_id, {})
        return [
            of_image[annotation_id]
            for annotation_id in sorted(of_image)
            if len(of_image[annotation_id]) > self.rejected[image_id, annotation_id]
        ]

    def compare(self, found: Found) -> list[str]:
        """What in a record is not as the annotations say."""
        if found.image_id not in self.image_ids:
            return ["the annotations have no such image"]
        expected = self.expected(found.image_id)
        if len(expected) != len(found.masks):
            return [f"expected {len(expected)} instances as annotated, found {len(found.masks)}"]
        faults = []
        for index, candidates in enumerate(expected):
            each = [list(self._differences(found, index, candidate)) for candidate in candidates]
            if all(each):
                faults += [f"annotation {candidates[0]['id']}: {fault}" for fault in each[0]]
        return faults

    def _differences(self, found: Found, index: int, annotation: dict[str, Any]) -> Iterator[str]:
        height, width = found.masks.shape[1:]
        segmentation = annotation.get("segmentation")
        runs = None
        if isinstance(segmentation, list):
            runs = cocomask.merge(cocomask.frPyObjects(segmentation, height, width))
        elif segmentation is not None:
            as_list = isinstance(segmentation["counts"], list)
            runs = cocomask.frPyObjects(segmentation, height, width) if as_list else segmentation
        mask = cocomask.decode(runs) if runs else np.zeros((height, width), np.uint8)
        if not np.array_equal(mask, found.masks[index]):
            yield f"the mask differs from pycocotools' in {int((mask != found.masks[index]).sum())} pixels"
        if found.weights[index] != float(runs is not None):
            yield f"the mask's weight is {found.weights[index]}"
        if found.names[index] != self.names[annotation["category_id"]]:
            yield f"the class is {found.names[index]!r}, annotated is {self.names[annotation['category_id']]!r}"
        if found.crowds[index] != int(annotation.get("iscrowd") or 0):
            yield f"is_crowd is {found.crowds[index]}"
        box = self._box(annotation, runs, height, width)
        if not np.array_equal(found.boxes[index], box):
            yield f"the box is {found.boxes[index].tolist()}, expected {box.tolist()} (ymin, xmin, ymax, xmax)"
        area = annotation.get("area")
        usable = isinstance(area, int | float) and not isinstance(area, bool) and 0 <= area <= float(np.finfo(np.float32).max)
        if usable and np.float32(area) != found.areas[index]:
            yield f"the area is {found.areas[index]}, annotated is {area}"

    def _box(self, annotation: dict[str, Any], runs: Any, height: int, width: int) -> npt.NDArray[np.float32]:
        tight = None
        if runs is not None:
            x, y, w, h = cocomask.toBbox(runs)
            tight = (y, x, y + h, x + w)
        box = tight if self.boxes == "mask" else None
        given = annotation.get("bbox")
        if box is None and isinstance(given, list) and len(given) == 4 and all(isinstance(one, int | float) for one in given):
            x, y, w, h = given
            clipped = (max(y, 0), max(x, 0), min(y + h, height), min(x + w, width))
            if w > 0 and h > 0 and clipped[0] < clipped[2] and clipped[1] < clipped[3]:
                box = clipped
        box = box or tight or (0, 0, 0, 0)
        return (np.array(box, np.float64) / (height, width, height, width)).astype(np.float32)


# ----------------------------------------------------------------------------------------------------- a data set


def _read_text(output: str, name: str) -> str:
    try:
        return storage.read_bytes(storage.join(output, name)).decode()
    except Exception:
        return ""


def read_label_maps(output: str) -> tuple[dict[int, str], list[str]]:
    """Label ids and names, and what is wrong with the two files."""
    rows = list(csv.reader(io.StringIO(_read_text(output, LABEL_MAP_CSV))))
    from_csv = {int(row[0]): row[1] for row in rows if len(row) == 2 and row[0].isdecimal()}
    items = re.findall(r'item \{\s*id: (\d+)\s*name: ("(?:[^"\\]|\\.)*")\s*\}', _read_text(output, LABEL_MAP))
    from_pbtxt = {int(number): json.loads(name) for number, name in items}
    faults = []
    if from_csv != from_pbtxt or len(from_csv) != len(rows):
        faults.append(f"{LABEL_MAP} and {LABEL_MAP_CSV} do not say the same: {len(from_pbtxt)} and {len(rows)} categories")
    return from_pbtxt, faults


def _read_rejects(output: str, faults: list[str]) -> list[dict[str, Any]]:
    rejects = []
    for number, line in enumerate(_read_text(output, REJECTS).split("\n"), start=1):
        try:
            reject = json.loads(line) if line else None
            if reject:
                rejects.append({name: reject[name] for name in ("kind", "image_id", "annotation_id", "reason")})
        except (ValueError, KeyError, TypeError):
            faults.append(f"{REJECTS}: line {number} is no reject: {line[:60]!r}")
    return rejects


def _check_statistics(output: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Whether the statistics count what the shards hold."""
    statistics = read_json(output, STATISTICS)
    expected: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for shard in manifest["shards"]:
        expected[shard["split"]][0] += shard["records"]
        expected[shard["split"]][1] += shard["instances"]
    for split, (records, instances) in expected.items():
        found = statistics.get(split, {}) if isinstance(statistics, dict) else {}
        if (found.get("images", 0), found.get("instances", 0)) != (records, instances):
            yield f"{STATISTICS}: {split} has {records} images and {instances} instances by the manifest"


def _check_shard_file(path: str, shard: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    try:
        data = storage.read_bytes(path)
    except Exception as error:
        if storage.is_missing(error):
            return b"", [f"{shard['file']}: the shard is missing"]
        raise
    faults = []
    if len(data) != shard["bytes"]:
        faults.append(f"{shard['file']}: {len(data)} bytes, the manifest says {shard['bytes']}")
    if f"{google_crc32c.value(data):08x}" != shard["crc32c"]:
        faults.append(f"{shard['file']}: the crc32c is {google_crc32c.value(data):08x}, the manifest says {shard['crc32c']}")
    return data, faults


def _records(data: bytes, name: str, faults: list[str]) -> Iterator[bytes]:
    try:
        yield from read_records(io.BytesIO(data))
    except ValueError as error:
        faults.append(f"{name}: {error}")


def verify(output: str, coco: str | None = None, report: Callable[[str], None] = lambda line: None) -> list[str]:
    """Everything that is broken in a data set; nothing, if all is well. Raises `InputError` where there is none.

    `report` is told of each shard as it is done.
    """
    tf = _tensorflow()
    manifest = read_json(output, MANIFEST)
    missing = {"options", "images", "annotations", "reasons", "shards"} - set(manifest)
    if missing:
        raise InputError(f"{output} is no data set of maskbeam's: {MANIFEST} has no {sorted(missing)[0]!r}")
    encoding: MaskEncoding = manifest["options"]["mask_encoding"]
    labels, faults = read_label_maps(output)
    if not storage.exists(storage.join(output, SUCCESS)):
        faults.append(f"{SUCCESS} is missing: the job has not finished")
    rejects = _read_rejects(output, faults)
    counted = Counter((one["kind"], one["reason"]) for one in rejects)
    listed = {(kind, code): count for kind, codes in manifest["reasons"].items() for code, count in codes.items()}
    if counted != Counter(listed):
        faults.append(f"{REJECTS} has {sum(counted.values())} lines, the manifest counts {sum(listed.values())} rejects")
    truth = CocoTruth(coco, rejects, manifest["options"]["boxes"]) if coco else None
    listed_files = {shard["file"] for shard in manifest["shards"]}
    for name in sorted(storage.name_of(file.path) for file in storage.list_folder(output)):
        if fnmatch.fnmatchcase(name, SHARDS) and name not in listed_files:
            faults.append(f"{name}: a shard that the manifest does not know")

    faults += _check_statistics(output, manifest)
    written: Counter[str] = Counter()
    images_seen: set[int] = set()
    for shard in manifest["shards"]:
        data, found_faults = _check_shard_file(storage.join(output, shard["file"]), shard)
        faults += found_faults
        records = instances = 0
        serialized = _records(data, shard["file"], faults)
        for _, (broken, found) in ahead(lambda one: check_record(tf, one, encoding, labels), serialized, THREADS):
            if found:
                instances += len(found.masks)
                if found.image_id in images_seen:
                    broken.append("another record has this image too")
                images_seen.add(found.image_id)
                if truth:
                    broken.extend(truth.compare(found))
            where = f"image {found.image_id}" if found else f"record {records}"
            faults += [f"{shard['file']}: {where}: {fault}" for fault in broken]
            records += 1
        for name, count in (("records", records), ("instances", instances)):
            written[name] += count
            if count != shard[name]:
                faults.append(f"{shard['file']}: {count} sound {name}, the manifest says {shard[name]}")
        report(f"{shard['file']}: {records} record{'s' * (records != 1)}, {instances} instance{'s' * (instances != 1)}")
    for kind, name in (("images", "records"), ("annotations", "instances")):
        ledger = manifest[kind]
        if written[name] != ledger["written"] or ledger["read"] != sum(ledger[k] for k in ("written", "rejected", "dropped")):
            faults.append(f"{written[name]} {name} found; the manifest's ledger of {kind} is {ledger}")
    if truth:
        for image_id in sorted(truth.image_ids - images_seen - truth.rejected_images, key=str):
            faults.append(f"image {image_id} is in the annotations, but neither in a record nor among the rejects")
    return faults


def verify_command(output: str, coco: str | None) -> int:
    """Runs `verify`, prints what it finds, gives the exit status."""
    with quiet() as terminal:
        faults = verify(output, coco, terminal.status)
    for fault in faults[:SHOWN]:
        print(fault)
    if len(faults) > SHOWN:
        print(f"… and {len(faults) - SHOWN} more")
    manifest = read_json(output, MANIFEST)
    counts = f"{manifest['images']['written']:,} records with {manifest['annotations']['written']:,} instances"
    left_out = {kind: manifest[kind]["read"] - manifest[kind]["written"] for kind in ("images", "annotations")}
    if faults:
        print(f"{len(faults)} promises broken in {output}")
        return 1
    compared = f", every mask, box, class and area equal to {coco}" if coco else ""
    shards = f"{len(manifest['shards'])} shard{'s' * (len(manifest['shards']) > 1)}"
    print(f"{counts} in {shards}: all promises kept, by both trainers' decoders{compared}")
    if any(manifest["reasons"].values()):
        counted = ", ".join(f"{kind}: {count:,}" for kind, count in left_out.items())
        print(f"not among them ({counted}) is what {storage.join(output, REJECTS)} lists")
    return 0
