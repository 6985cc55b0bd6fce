"""`via`: a JSON or CSV file of many images, as the VGG Image Annotator (VIA), 1 and 2, writes it.

Source: `via-2.x.y/CodeDoc.md` in https://gitlab.com/vgg/via; for how shapes become masks, `via_region_shape_to_coco_annotation`
in `via-2.x.y/src/via.js` there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import msgspec

from transforms import storage
from transforms.records import InputError, Problem, ReasonCode, Shape, pack, problem
from transforms.sources.geometry import Ring, ellipse, polygon, rectangle
from transforms.sources.image_names import is_there
from transforms.sources.mask_files import image_size
from transforms.sources.source import (
    Context,
    Draft,
    Format,
    Piece,
    SourceImage,
    decode,
    field,
    has_keys,
    starts_json,
)

BLOCK_BYTES = 1 << 20
MAX_FIELD_BYTES = 16 << 20
WITHOUT_CLASSES = "object"
"""The class of all regions, where none has an attribute."""
_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")


class _Block(msgspec.Struct):
    """Some entries, as JSON; and the names of all attributes that regions of the file have, sorted."""

    attributes: list[str]
    entries: list[bytes]


class _Project(msgspec.Struct):
    metadata: dict[str, msgspec.Raw] = msgspec.field(name="_via_img_metadata")


class _Entry(msgspec.Struct):
    filename: str
    regions: list[msgspec.Raw] | dict[str, msgspec.Raw] = []


class _Region(msgspec.Struct):
    shape: msgspec.Raw = msgspec.field(name="shape_attributes")
    attributes: dict[str, msgspec.Raw] = msgspec.field(name="region_attributes", default={})


class _Polygon(msgspec.Struct):
    x: list[float] = msgspec.field(name="all_points_x")
    y: list[float] = msgspec.field(name="all_points_y")


class _Rectangle(msgspec.Struct):
    x: float
    y: float
    width: float
    height: float


class _Circle(msgspec.Struct):
    cx: float
    cy: float
    r: float


class _Ellipse(msgspec.Struct):
    cx: float
    cy: float
    rx: float
    ry: float
    theta: float = 0


class _Named(msgspec.Struct):
    name: str


_block = msgspec.msgpack.Decoder(_Block)
_any_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_project = msgspec.json.Decoder(_Project)
_entry = msgspec.json.Decoder(_Entry)
_region = msgspec.json.Decoder(_Region)
_polygon = msgspec.json.Decoder(_Polygon)
_rectangle = msgspec.json.Decoder(_Rectangle)
_circle = msgspec.json.Decoder(_Circle)
_ellipse = msgspec.json.Decoder(_Ellipse)
_named = msgspec.json.Decoder(_Named)
_class_name: msgspec.json.Decoder[str | int | dict[str, bool]] = msgspec.json.Decoder(str | int | dict[str, bool])


def cut_entries(path: str) -> Iterator[bytes]:
    """The entries of a file, in blocks of some megabyte. Held are the file's bytes, twice, and one entry as objects.

    Raises `InputError` for what is neither VIA's JSON nor its CSV.
    """
    data = storage.read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    entries = _json_entries(data, path) if starts_json(data) else _csv_entries(data, path)
    attributes = sorted({name for entry in entries for name in _attributes_in(entry)})
    block: list[bytes] = []
    in_block = 0
    for entry in entries:
        block.append(entry)
        in_block += len(entry)
        if in_block >= BLOCK_BYTES:
            yield pack(_Block(attributes, block))
            block, in_block = [], 0
    if block:
        yield pack(_Block(attributes, block))


def _json_entries(data: bytes, path: str) -> list[bytes]:
    found = decode(_any_object, data)
    if isinstance(found, Problem):
        raise InputError(f"JSON_INVALID: {path}: {found.message}")
    if "_via_img_metadata" in found:
        project = decode(_project, data)
        if isinstance(project, Problem):
            raise InputError(f"JSON_INVALID: {path}: {project.message}")
        found = project.metadata
    elif {"project", "file", "metadata"} <= found.keys():
        raise InputError(f"JSON_INVALID: {path}: it is a project of VIA 3, of which only versions 1 and 2 are read")
    entries = [bytes(entry) for entry in found.values()]
    if entries and not any(b'"filename"' in entry for entry in entries):
        keys = ", ".join(found)[:200]
        raise InputError(f"JSON_INVALID: {path}: expected entries with a filename and regions, found {keys}")
    return entries


def _csv_entries(data: bytes, path: str) -> list[bytes]:
    """Entries as they would be in JSON. Rows of an image need not lie together."""
    images: dict[tuple[str, str], list[dict[str, msgspec.Raw]]] = {}
    csv.field_size_limit(MAX_FIELD_BYTES)  # of all of Python; a polygon may be longer than 131,072 characters
    try:
        rows = csv.DictReader(io.StringIO(data.decode(), newline=""), restval="")
        names = [name.lstrip("#") for name in rows.fieldnames or ()]
        rows.fieldnames = names
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise InputError(f"FILE_INVALID: {path}: expected VIA's JSON, or its CSV with the column {missing[0]}")
        for row in rows:
            regions = images.setdefault((row["filename"], row.get("file_size", "")), [])
            shape = row["region_shape_attributes"]
            if shape.strip() not in ("", "{}"):
                attributes = row["region_attributes"] or "{}"
                regions.append({"shape_attributes": _as_json(shape), "region_attributes": _as_json(attributes)})
    except UnicodeDecodeError as error:
        raise InputError(f"FILE_INVALID: {path}: the text is not UTF-8 ({error.reason})") from None
    except csv.Error as error:
        raise InputError(f"FILE_INVALID: {path}: {error}") from None
    return [msgspec.json.encode({"filename": name, "regions": regions}) for (name, _), regions in images.items()]


def _as_json(text: str) -> msgspec.Raw:
    """JSON as it is, and anything else as text, which is then found to be none of what is expected."""
    try:
        return msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(text))


def _regions_of(entry: _Entry) -> list[msgspec.Raw]:
    return list(entry.regions.values()) if isinstance(entry.regions, dict) else entry.regions


def _attributes_in(data: bytes) -> Iterator[str]:
    """The names of the attributes of an entry's regions, as far as it can be read."""
    entry = decode(_entry, data)
    if isinstance(entry, _Entry):
        for raw in _regions_of(entry):
            region = field(_region, raw)
            if isinstance(region, _Region):
                yield from region.attributes


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The images of a block."""
    block = _block.decode(piece.data)
    for data in block.entries:
        entry = decode(_entry, data)
        if isinstance(entry, Problem):
            yield Draft("").fail(entry)
            continue
        regions = _regions_of(entry)
        if not entry.filename:
            yield Draft("").fail(problem(ReasonCode.FILE_INVALID, "the entry has an empty filename"), len(regions))
            continue
        draft = Draft(_file_name(entry.filename, piece.paths[0], context))
        size = image_size(context.images, draft.file_name)
        if isinstance(size, Problem):
            yield draft.fail(size, len(regions))
            continue
        for raw in regions:
            _add(draft, raw, block.attributes, context.class_attribute)
        yield draft.done(*size, context.max_pixels)


def _file_name(name: str, path: str, context: Context) -> str:
    """The image beside its file, if it is there; else by its name below the image folder. Of an address, the last part."""
    if "://" in name:
        try:
            name = unquote(urlsplit(name).path).rpartition("/")[2]
        except ValueError:
            name = name.rpartition("/")[2]
    beside = context.beside(path, name)
    return beside if is_there(context.images, beside) else name


def _add(draft: Draft, raw: msgspec.Raw, attributes: list[str], wanted: str | None) -> None:
    region = field(_region, raw)
    if isinstance(region, Problem):
        draft.reject(region)
        return
    category = class_of(region.attributes, attributes, wanted)
    if isinstance(category, Problem):
        draft.reject(category)
    else:
        draft.add(category, shape_of(region.shape))


def class_of(of_region: dict[str, msgspec.Raw], in_file: list[str], wanted: str | None) -> str | Problem:
    """The class of a region: its attribute `wanted`, or else the only one that regions of the file have; FIELD_INVALID.

    A checkbox has to have just one option that is ticked.
    """
    if wanted is None and not in_file:
        return WITHOUT_CLASSES
    names = ", ".join(in_file[:20]) or "none"
    if wanted is None and len(in_file) > 1:
        message = f"regions have the attributes {names}: say with --class_attribute which of them is the class"
        return problem(ReasonCode.FIELD_INVALID, message)
    wanted = wanted or in_file[0]
    if wanted not in of_region:
        message = f"the region has no attribute {wanted!r}; of --class_attribute, there are in the file: {names}"
        return problem(ReasonCode.FIELD_INVALID, message)
    found = field(_class_name, of_region[wanted])
    if isinstance(found, Problem):
        return found
    if isinstance(found, dict):
        ticked = [name for name, is_ticked in found.items() if is_ticked]
        if len(ticked) != 1:
            message = f"the attribute {wanted!r} has {len(ticked)} options ticked, expected one"
            return problem(ReasonCode.FIELD_INVALID, message)
        return ticked[0]
    return str(found)


def shape_of(raw: msgspec.Raw) -> Shape | Problem:
    """The mask of a region; FIELD_INVALID, POLY_MALFORMED, COORD_INVALID, SHAPE_UNSUPPORTED."""
    kind = field(_named, raw)
    if isinstance(kind, Problem):
        return kind
    ring = _ring(kind.name, raw)
    return ring if isinstance(ring, Problem) else polygon([ring])


def _ring(kind: str, raw: msgspec.Raw) -> Ring | Problem:
    if kind == "polygon":
        drawn = field(_polygon, raw)
        if isinstance(drawn, Problem):
            return drawn
        if len(drawn.x) != len(drawn.y):
            message = f"the polygon has {len(drawn.x)} x and {len(drawn.y)} y, expected as many"
            return problem(ReasonCode.POLY_MALFORMED, message)
        return [number for point in zip(drawn.x, drawn.y, strict=True) for number in point]
    if kind == "rect":
        box = field(_rectangle, raw)
        return box if isinstance(box, Problem) else rectangle(box.x, box.y, box.x + box.width, box.y + box.height)
    if kind == "circle":
        circle = field(_circle, raw)
        return circle if isinstance(circle, Problem) else ellipse(circle.cx, circle.cy, circle.r, circle.r)
    if kind == "ellipse":
        one = field(_ellipse, raw)
        return one if isinstance(one, Problem) else ellipse(one.cx, one.cy, one.rx, one.ry, one.theta)
    return problem(ReasonCode.SHAPE_UNSUPPORTED, f"a {kind} encloses nothing")


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    if starts_json(data) and (b'"_via_settings"' in data or b'"_via_img_metadata"' in data):
        return "it has _via_settings or _via_img_metadata"
    if has_keys(data, "filename", "regions", "file_attributes"):
        return "its entries have filename, regions and file_attributes"
    if b"region_shape_attributes" in data.split(b"\n")[0] and not starts_json(data):
        return "it has a column region_shape_attributes"
    return None


FORMAT = Format(
    name="via",
    title="VGG Image Annotator (VIA) 1 and 2: JSON or CSV",
    files=("*.json", "*.csv"),
    parse=parse,
    recognise=recognise,
    cut=cut_entries,
)
