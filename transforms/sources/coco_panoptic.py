"""`coco_panoptic`: COCO's panoptic files, a JSON file beside a folder of PNGs; things become instances.

A PNG holds each segment's id as R + 256·G + 65536·B; 0 is void. Source: panopticapi, and "Panoptic Segmentation" among the
data formats on cocodataset.org. Images and annotations meet as those of COCO's instances files do, in `coco`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from transforms import run_lengths, storage
from transforms.ahead import ahead
from transforms.images import ImageFolder
from transforms.records import AREA_MAX, Instance, Problem, ReasonCode, Reject, RunLengths, problem
from transforms.sources.coco_json import CocoAnnotation, Int64, box_of, image_id_of, split_block
from transforms.sources.mask_files import decode_ids, empty
from transforms.sources.source import decode, field

_IDS = range(1, 2**24)
"""That a PNG can hold."""
_LOCAL_READS, _REMOTE_READS = 2, 32


class _Category(msgspec.Struct):
    id: int
    isthing: bool | int = 1


class _Segment(msgspec.Struct):
    id: Int64
    category_id: Int64
    iscrowd: bool | int = 0
    bbox: list[float] | None = None
    area: float | None = None


class _Entry(msgspec.Struct):
    image_id: int | str
    file_name: str
    segments_info: list[msgspec.Raw]


_category = msgspec.json.Decoder(_Category)
_entry = msgspec.json.Decoder(_Entry)
_segment = msgspec.json.Decoder(_Segment)


def masks_folder(annotations: str, masks: str | None) -> str:
    """Where the PNGs of an annotation file lie: in `masks`, or beside it, in a folder of its name."""
    return masks or annotations.removesuffix(".json")


def stuff_among(categories: Sequence[bytes]) -> frozenset[int]:
    """The ids of those entries of `categories` that are of stuff, which has no instances."""
    found = set()
    for raw in categories:
        entry = decode(_category, raw)
        if not isinstance(entry, Problem) and not entry.isthing:
            found.add(entry.id)
    return frozenset(found)


def parse_panoptic(block: bytes, folder: str, max_pixels: int) -> list[CocoAnnotation | Reject]:
    """The segments of a block of `annotations`, each an annotation whose id is the segment's. Raises `InputError` for no JSON.

    Codes: FIELD_INVALID, MASK_MISSING, MASK_INVALID, PATH_FORBIDDEN, PIXEL_LIMIT, EMPTY_MASK.
    """
    masks = ImageFolder(folder)
    threads = _LOCAL_READS if storage.is_local(folder) else _REMOTE_READS

    def parse(raw: bytes) -> list[CocoAnnotation | Reject]:
        return _parse_entry(raw, masks, max_pixels)

    return [part for _, parts in ahead(parse, split_block(block), threads) for part in parts]


def _parse_entry(raw: bytes, masks: ImageFolder, max_pixels: int) -> list[CocoAnnotation | Reject]:
    entry = decode(_entry, raw)
    image_id = None if isinstance(entry, Problem) else image_id_of(entry.image_id)
    if isinstance(entry, Problem) or image_id is None:
        said = entry.message if isinstance(entry, Problem) else f"'image_id': expected a whole number, found {entry.image_id!r}"
        return [Reject("annotation", None, None, ReasonCode.FIELD_INVALID.name, said)]
    segments = list(map(partial(field, _segment), entry.segments_info))
    wanted = {segment.id for segment in segments if isinstance(segment, _Segment)}
    painted = _painted(entry.file_name, wanted, masks, max_pixels)
    return [_annotation(segment, image_id, painted) for segment in segments]


def _painted(file_name: str, wanted: set[int], masks: ImageFolder, max_pixels: int) -> dict[int, RunLengths] | Problem:
    """The masks of the segments that are `wanted`: a PNG that is a picture has as many others as pixels."""
    data = masks.read(file_name)
    if isinstance(data, Problem):
        if data.code == ReasonCode.IMAGE_MISSING.name:
            return problem(ReasonCode.MASK_MISSING, f"there is no mask file {file_name!r} in {masks.root}")
        return data
    ids = decode_ids(data, file_name, max_pixels)
    if isinstance(ids, Problem):
        return ids
    return run_lengths.value_runs(ids).only([number for number in sorted(wanted) if number in _IDS]).masks()


def _annotation(segment: _Segment | Problem, image_id: int, painted: dict[int, RunLengths] | Problem) -> CocoAnnotation | Reject:
    if isinstance(segment, Problem):
        return Reject("annotation", image_id, None, segment.code, segment.message)
    shape = painted if isinstance(painted, Problem) else painted.get(segment.id) or empty()
    if isinstance(shape, Problem):
        return Reject("annotation", image_id, segment.id, shape.code, shape.message)
    area = segment.area if segment.area is not None and 0 <= segment.area <= AREA_MAX else None
    box = box_of(segment.bbox)
    return CocoAnnotation(image_id, Instance(segment.id, segment.category_id, box, area, bool(segment.iscrowd), shape))
