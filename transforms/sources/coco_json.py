"""The elements of a COCO file: what `images`, `annotations` and `categories` hold, from JSON to values that can travel.

Decoding straight into typed structs is the fast way. What it refuses is parsed anew by Python's json, and looked at field by
field: it turns out sound, or it gets a reason code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec

from transforms import run_lengths
from transforms.columns import Sections, pack_instances, size_of, unpack_instances
from transforms.records import (
    AREA_MAX,
    LARGEST_PACKED,
    Box,
    Category,
    ImageExtras,
    InputError,
    Instance,
    Polygons,
    Problem,
    ReasonCode,
    Reject,
    Shape,
    problem,
)
from transforms.sources.outlines import pack_outlines
from transforms.sources.source import check_pixels

_SPACE = re.compile(r"[ \t\r\n]*")
_OUTLINES_AT_ONCE = 200
"""Few enough to stay in the processor's cache: 2.6 µs each; 4.0 where there are 800."""
_INT64 = range(-(2**63), 2**63)
MAX_PIXELS = 100_000_000
"""The largest image or mask that is read, unless the user says otherwise."""


class _Rle(msgspec.Struct):
    counts: str | list[int]
    size: list[int]


Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Annotation(msgspec.Struct):
    """An annotation whose fields all have the right types and bounds: what can be decoded straight from JSON."""

    id: Int64
    image_id: Int64 | str
    category_id: Int64
    segmentation: list[list[float]] | _Rle | None = None
    bbox: list[float] | None = None
    area: float | None = None
    iscrowd: Literal[0, 1] | None = 0


class _Outlined(msgspec.Struct, gc=False):
    """The same, with its segmentation still as JSON: what is decoded first."""

    id: Int64
    image_id: Int64
    category_id: Int64
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    bbox: tuple[float, float, float, float] | None = None
    area: float | None = None
    iscrowd: Literal[0, 1] | None = 0


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    height: int
    width: int
    neg_category_ids: list[Int64] | None = None
    not_exhaustive_category_ids: list[Int64] | None = None


class CocoImage(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="image"):
    """An entry of `images`; `problem` says why it can't be used."""

    image_id: int
    file_name: str
    height: int
    width: int
    problem: Problem | None = None
    extras: ImageExtras | None = None


class CocoAnnotation(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="annotation"):
    """An entry of `annotations`."""

    image_id: int
    instance: Instance


class CocoDuplicate(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="duplicate"):
    """An annotation id of this image that another image's annotation has already."""

    image_id: int
    annotation_id: int
    first_image_id: int


Part = CocoImage | CocoAnnotation | CocoDuplicate


class _Parts(msgspec.Struct, array_like=True):
    """Of annotations, here are only the ids of their images."""

    others: list[CocoImage | CocoDuplicate]
    image_ids: list[int]


_encode = msgspec.msgpack.Encoder().encode
_parts = msgspec.msgpack.Decoder(_Parts)


def pack_parts(parts: Sequence[Part]) -> Sections:
    """Parts as the sections of a batch, for `unpack_parts`."""
    annotations = [part for part in parts if isinstance(part, CocoAnnotation)]
    others = [part for part in parts if not isinstance(part, CocoAnnotation)]
    image_ids = [annotation.image_id for annotation in annotations]
    return [_encode(_Parts(others, image_ids)), *pack_instances([annotation.instance for annotation in annotations])]


def unpack_parts(sections: Sections) -> Iterator[Part]:
    """The parts, equal to those that were packed; annotations come last."""
    parts = _parts.decode(sections[0])
    yield from parts.others
    yield from map(CocoAnnotation, parts.image_ids, unpack_instances(sections[1:]))


def size_of_part(part: Part) -> int:
    """About how many bytes a part takes, not compressed."""
    if isinstance(part, CocoAnnotation):
        return size_of(part.instance)
    return 20 + (len(part.file_name) if isinstance(part, CocoImage) else 0)


_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_annotation = msgspec.json.Decoder(_Annotation)
_outlined = msgspec.json.Decoder(_Outlined)
_outlined_list = msgspec.json.Decoder(list[_Outlined])
_image = msgspec.json.Decoder(_Image)
_image_list = msgspec.json.Decoder(list[_Image])


def is_int(value: object) -> bool:
    """Whether a value is a 64-bit integer, and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT64


def _is_number(value: object) -> bool:
    """Whether a value is a finite number, and one that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e308 < value < 1e308


def image_id_of(value: object) -> int | None:
    """An image id as a number: an int64, or a string of decimal digits; else None. The trainers know no other ids."""
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and is_int(value) else None


def _field(name: str, value: object, expected: str) -> Problem:
    found = "it is missing" if value is None else f"found {str(value)[:40]!r}"
    return problem(ReasonCode.FIELD_INVALID, f"{name!r}: expected {expected}, {found}")


def _slow_annotation(entry: Any) -> _Annotation | Problem:
    """What the fast path refused, field by field: an annotation after all, or what is wrong with it."""
    if not isinstance(entry, dict):
        return problem(ReasonCode.FIELD_INVALID, f"expected an object as annotation, found {str(entry)[:40]!r}")
    for name in ("id", "category_id"):
        if not is_int(entry.get(name)):
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
        bbox=list(map(float, bbox)) if isinstance(bbox, list) and all(map(_is_number, bbox)) else None,
        area=float(area) if area is not None and _is_number(area) else None,
        iscrowd=1 if iscrowd else 0,
    )


def _slow_segmentation(value: Any) -> list[list[float]] | _Rle | Problem | None:
    if value is None:
        return None
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if not (isinstance(size, list) and all(map(is_int, size))):
            return problem(ReasonCode.RLE_MALFORMED, f"'size': expected [height, width], found {str(size)[:40]!r}")
        if not (isinstance(counts, str) or (isinstance(counts, list) and all(map(is_int, counts)))):
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


def _shape(segmentation: list[list[float]] | _Rle | None, max_pixels: int = MAX_PIXELS) -> Shape | Problem:
    """The geometry, packed. Whether the rings and runs make sense is for `Rasterize` to say; what can't be packed, for us."""
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        for ring in segmentation:
            for number in ring:
                if not abs(number) < LARGEST_PACKED:  # NaN too
                    return problem(ReasonCode.COORD_INVALID, f"a polygon coordinate is {number}, expected a pixel position")
        return Polygons.pack(segmentation)
    if len(segmentation.size) != 2:
        return problem(ReasonCode.RLE_MALFORMED, f"'size': expected [height, width], found {str(segmentation.size)[:40]}")
    height, width = segmentation.size
    return run_lengths.from_coco(segmentation.counts, height, width, max_pixels)


def box_of(bbox: Sequence[float] | None) -> Box | None:
    """COCO's [x, y, width, height] as a half-open box; None where it has no area or is no box at all."""
    if bbox is None or len(bbox) != 4:
        return None
    x, y, width, height = bbox
    bottom, right = y + height, x + width  # which are finite only if all four are
    return (y, x, bottom, right) if width > 0 and height > 0 and math.isfinite(bottom) and math.isfinite(right) else None


def parse_annotations(block: bytes, max_pixels: int = MAX_PIXELS) -> list[CocoAnnotation | Reject]:
    """The elements of a block of `annotations`, in order. Raises `InputError` only for what is not JSON.

    Outlines of all of them are read and packed together, three times as fast as each by itself; what is not plain, by itself.
    """
    raws: list[bytes] = []
    entries: Sequence[_Outlined | None]
    try:
        entries = _outlined_list.decode(_as_list(block))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raws = split_block(block)
        entries = [_outlined_of(raw) for raw in raws]
    found: list[CocoAnnotation | Reject] = []
    for first in range(0, len(entries), _OUTLINES_AT_ONCE):
        some = entries[first : first + _OUTLINES_AT_ONCE]
        outlines = pack_outlines([bytes(entry.segmentation) if entry else b"" for entry in some])
        for entry, shape in zip(some, outlines, strict=True):
            if entry and shape:
                found.append(_annotated(entry, entry.image_id, shape))
            else:
                raws = raws or split_block(block)
                found.append(_parse_alone(raws[len(found)], max_pixels))
    return found


def _outlined_of(raw: bytes) -> _Outlined | None:
    try:
        return _outlined.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _parse_alone(raw: bytes, max_pixels: int) -> CocoAnnotation | Reject:
    try:
        entry = _annotation.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _parse_slowly(raw, max_pixels)
    return _packed(entry, max_pixels) if image_id_of(entry.image_id) is not None else _parse_slowly(raw, max_pixels)


def _parse_slowly(raw: bytes, max_pixels: int = MAX_PIXELS) -> CocoAnnotation | Reject:
    loaded = _loads(raw)
    entry = loaded if isinstance(loaded, Problem) else _slow_annotation(loaded)
    if isinstance(entry, _Annotation):
        return _packed(entry, max_pixels)
    ids = loaded if isinstance(loaded, dict) else {}
    annotation_id = ids.get("id") if is_int(ids.get("id")) else None
    return Reject("annotation", image_id_of(ids.get("image_id")), annotation_id, entry.code, entry.message)


def _packed(entry: _Annotation, max_pixels: int = MAX_PIXELS) -> CocoAnnotation | Reject:
    image_id = image_id_of(entry.image_id)
    assert image_id is not None, "checked by both paths"
    shape = _shape(entry.segmentation, max_pixels)
    if isinstance(shape, Problem):
        return Reject("annotation", image_id, entry.id, shape.code, shape.message)
    return _annotated(entry, image_id, shape)


def _annotated(entry: _Annotation | _Outlined, image_id: int, shape: Shape) -> CocoAnnotation:
    area = entry.area if entry.area is not None and 0 <= entry.area <= AREA_MAX else None
    instance = Instance(entry.id, entry.category_id, box_of(entry.bbox), area, bool(entry.iscrowd), shape)
    return CocoAnnotation(image_id, instance)


def parse_images(block: bytes, max_pixels: int = MAX_PIXELS) -> list[CocoImage | Reject]:
    """The elements of a block of `images`, in order. Raises `InputError` only for what is not JSON."""
    try:
        entries = _image_list.decode(_as_list(block))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [parse_image(raw, max_pixels) for raw in split_block(block)]
    return [_plain_image(entry, max_pixels) or _image_of(msgspec.structs.asdict(entry), max_pixels) for entry in entries]


def _plain_image(entry: _Image, max_pixels: int) -> CocoImage | None:
    """What almost all entries are, in a third of the time."""
    has_lists = entry.neg_category_ids is not None or entry.not_exhaustive_category_ids is not None
    if has_lists or not is_int(entry.id) or not entry.file_name or check_pixels(entry.height, entry.width, max_pixels):
        return None
    return CocoImage(int(entry.id), entry.file_name, entry.height, entry.width)


def parse_image(raw: bytes, max_pixels: int) -> CocoImage | Reject:
    """One element of `images` from its JSON; a `Reject` where not even the id can be made out."""
    try:
        entry = _image.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        loaded = _loads(raw)
        if isinstance(loaded, Problem):
            return Reject("image", None, None, loaded.code, loaded.message)
        if not isinstance(loaded, dict):
            message = f"expected an object as image, found {str(loaded)[:40]!r}"
            return Reject("image", None, None, ReasonCode.FIELD_INVALID.name, message)
        fields: dict[str, Any] = loaded
    else:
        fields = msgspec.structs.asdict(entry)
    return _image_of(fields, max_pixels)


def _image_of(fields: dict[str, Any], max_pixels: int) -> CocoImage | Reject:
    image_id = image_id_of(fields.get("id"))
    if image_id is None:
        wrong = _field("id", fields.get("id"), "a 64-bit integer or a string of digits")
        return Reject("image", None, None, wrong.code, wrong.message)
    if "file_name" not in fields and isinstance(fields.get("coco_url"), str):  # LVIS 1.0
        fields["file_name"] = "/".join(fields["coco_url"].split("/")[-2:])
    extras = _extras(fields)
    found = _image_problem(fields, max_pixels) or (extras if isinstance(extras, Problem) else None)
    if found or isinstance(extras, Problem):
        name = fields.get("file_name")
        return CocoImage(image_id, name if isinstance(name, str) and _is_text(name) else "", 0, 0, found)
    return CocoImage(image_id, fields["file_name"], fields["height"], fields["width"], None, extras)


def _extras(fields: dict[str, Any]) -> ImageExtras | Problem | None:
    """LVIS's lists of category ids."""
    names = ("neg_category_ids", "not_exhaustive_category_ids")
    lists: dict[str, Any] = {name: fields[name] for name in names if fields.get(name) is not None}
    for name, value in lists.items():
        if not (isinstance(value, list) and all(map(is_int, value))):
            return _field(name, value, "a list of category ids")
    if not lists:
        return None
    tuples: dict[str, Any] = {name: tuple(value) for name, value in lists.items()}
    return ImageExtras(**tuples)


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
        if not is_int(value):
            return _field(side, value, "a number of pixels")
    return check_pixels(height, width, max_pixels)


def _no_constant(name: str) -> None:
    raise InputError(f"JSON_INVALID: {name} is not JSON")


_json = json.JSONDecoder(parse_constant=_no_constant)  # `json.loads` makes one anew for each


def _loads(raw: bytes) -> Any:
    """JSON as Python reads it: what msgspec refuses (a number out of range, half a surrogate pair), but no NaN literal."""
    try:
        return _json.decode(raw.decode("utf-8", "surrogatepass"))
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
        usable = isinstance(entry, dict) and is_int(entry.get("id")) and isinstance(entry.get("name"), str) and entry["name"]
        if usable and not _is_text(entry["name"]):
            raise InputError(f"JSON_INVALID: TEXT_INVALID: the name of category {entry['id']} holds half a surrogate pair")
        if not usable:
            raise InputError(f"JSON_INVALID: expected categories with an integer 'id' and a 'name', found {str(entry)[:80]}")
        categories.append(Category(entry["id"], entry["name"]))
    return categories


def _as_list(block: bytes) -> bytes:
    """A block as a JSON list."""
    return b"[" + block.strip(b", \t\r\n") + b"]"


def split_block(data: bytes) -> list[bytes]:
    """The elements of a block, each still JSON."""
    text = _as_list(data)
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
