"""`supervisely`: a JSON file an image, in the folder `ann` of a data set of a Supervisely project; its image is in `img`.

Source: `getting-started/supervisely-annotation-format/` in the repository supervisely/developer-portal, and the modules of
`supervisely/geometry/` in supervisely/supervisely, which say how the shapes of a file are drawn.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec
from pycocotools import mask as cocomask

from transforms import storage
from transforms.polygons import Drawn, draw_polygons
from transforms.records import Box, Problem, ReasonCode, RunLengths, Shape, problem
from transforms.sources.geometry import Ring, polygon, ring_of
from transforms.sources.mask_files import decode_ids, empty, placed
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, check_pixels, decode, field, has_keys

MAX_PNG_BYTES = 64 << 20
"""Of a bitmap, no more is decompressed: what is cut off there is no PNG."""

_OTHER_FILES = ("meta.json", "key_id_map.json", "obj_class_to_machine_color.json")
_OTHER_FOLDERS = ("img_info", "meta")


class _Size(msgspec.Struct):
    height: int
    width: int


class _File(msgspec.Struct):
    size: _Size
    objects: list[msgspec.Raw]


class _Rings(msgspec.Struct):
    exterior: list[list[float]]
    interior: list[list[list[float]]] = []


class _Bitmap(msgspec.Struct):
    data: str
    origin: list[float]


class _Object(msgspec.Struct):
    label: str = msgspec.field(name="classTitle")
    kind: str | None = msgspec.field(name="geometryType", default=None)
    shape: str | None = None
    instance: str | int | None = None


class _Polygons(msgspec.Struct):
    points: _Rings | None = None
    parts: list[_Rings] = []


class _Painted(msgspec.Struct):
    bitmap: _Bitmap


_file = msgspec.json.Decoder(_File)
_object = msgspec.json.Decoder(_Object)
_polygons = msgspec.json.Decoder(_Polygons)
_painted = msgspec.json.Decoder(_Painted)


class _Figure(msgspec.Struct):
    """What objects are made of: polygons, such with holes, masks of the whole image; and the box, where one is drawn."""

    label: str
    rings: list[Ring] = []
    holed: list[tuple[Ring, list[Ring]]] = []
    masks: list[RunLengths] = []
    box: Box | None = None
    problem: Problem | None = None


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The image of a file; none of the project's other files.

    Figures of the same `instance` and class are one object: its parts, and its box. FILE_INVALID, DIM_LIMIT.
    """
    path = piece.paths[0]
    if _is_other(path):
        return
    draft = Draft(image_of(context.relative(path)))
    file = decode(_file, piece.read())
    if isinstance(file, Problem):
        yield draft.fail(file)
        return
    height, width = file.size.height, file.size.width
    if check_pixels(height, width, context.max_pixels):
        height = width = 0  # nothing is drawn
    objects: dict[object, _Figure] = {}
    for place, raw in enumerate(file.objects):
        instance, figure = _figure(raw, height, width, context.max_pixels)
        same = place if instance is None else (instance, figure.label)
        objects[same] = _joined(objects[same], figure) if same in objects else figure
    for one in objects.values():
        draft.add(one.label, one.problem or shape_of(one, height, width), box=one.box)
    yield draft.done(file.size.height, file.size.width, context.max_pixels)


def _is_other(path: str) -> bool:
    """Whether a file of a project is something else than annotations of an image."""
    folder = storage.name_of(storage.folder_of(path))
    return folder != "ann" and (folder in _OTHER_FOLDERS or storage.name_of(path) in _OTHER_FILES)


def image_of(path: str) -> str:
    """The image of an annotation file: `ds0/ann/a.jpg.json` is of `ds0/img/a.jpg`."""
    file = PurePosixPath(path)
    folder = file.parent.with_name("img") if file.parent.name == "ann" else file.parent
    return str(folder / file.name.removesuffix(".json"))


def _figure(raw: msgspec.Raw, height: int, width: int, max_pixels: int) -> tuple[str | int | None, _Figure]:
    """One figure, and the instance that it is of, if any."""
    found = field(_object, raw)
    if isinstance(found, Problem):
        return None, _Figure("", problem=found)
    figure = _Figure(found.label)
    kind = found.kind or found.shape
    if kind == "rectangle":
        box = _box(raw)
        figure = _Figure(found.label, problem=box) if isinstance(box, Problem) else _Figure(found.label, box=box)
    elif kind in ("polygon", "multipolygon"):
        figure.problem = _add_polygons(figure, kind, raw)
    elif kind in ("bitmap", "alpha_mask"):
        mask = _bitmap(raw, height, width, max_pixels) if height else None
        if isinstance(mask, Problem):
            figure.problem = mask
        elif mask:
            figure.masks = [mask]
    else:  # which is no part of an object, whatever it belongs to
        return None, _Figure("", problem=problem(ReasonCode.SHAPE_UNSUPPORTED, f"figures of the kind {kind!r} are not read"))
    return found.instance, figure


def _joined(one: _Figure, other: _Figure) -> _Figure:
    box = one.box or other.box
    if one.box and other.box:
        (top, left, bottom, right), (ymin, xmin, ymax, xmax) = one.box, other.box
        box = (min(top, ymin), min(left, xmin), max(bottom, ymax), max(right, xmax))
    why = one.problem or other.problem
    return _Figure(one.label, one.rings + other.rings, one.holed + other.holed, one.masks + other.masks, box, why)


def _box(raw: msgspec.Raw) -> Box | Problem:
    """A rectangle, of which both corners are pixels inside.

    Source: `Rectangle.width`, `height` and `get_cropped_numpy_slice` in `supervisely/geometry/rectangle.py`.
    """
    found = field(_polygons, raw)
    if isinstance(found, Problem):
        return found
    corners = found.points.exterior if found.points else []
    if len(corners) != 2 or any(len(corner) != 2 for corner in corners):
        return problem(ReasonCode.FIELD_INVALID, "the rectangle's exterior is not two points [x, y]")
    (x0, y0), (x1, y1) = corners
    return (min(y0, y1), min(x0, x1), max(y0, y1) + 1, max(x0, x1) + 1)


def _add_polygons(figure: _Figure, kind: str, raw: msgspec.Raw) -> Problem | None:
    """Rings and their holes. The points are pixels, and so lie half a pixel inside of where these begin.

    Source: `Geometry._to_subpixel_coordinate_system_json` in `supervisely/geometry/geometry.py`.
    """
    found = field(_polygons, raw)
    if isinstance(found, Problem):
        return found
    for part in found.parts if kind == "multipolygon" else [found.points] if found.points else []:
        rings: list[Ring] = []
        for points in (part.exterior, *part.interior):
            ring = ring_of(points)
            if isinstance(ring, Problem):
                return ring
            rings.append([number + 0.5 for number in ring])
        if part.interior:
            figure.holed.append((rings[0], rings[1:]))
        else:
            figure.rings += rings
    return None if figure.rings or figure.holed else problem(ReasonCode.POLY_MALFORMED, f"the {kind} has no points")


def _bitmap(raw: msgspec.Raw, height: int, width: int, max_pixels: int) -> RunLengths | Problem:
    """A mask of height × width pixels: of a PNG, mostly zlib-compressed, what is opaque; if it all is, what is not 0.

    What lies outside the image is left out. Source: `Bitmap.base64_2_data` in `supervisely/geometry/bitmap.py`.
    """
    found = field(_painted, raw)
    if isinstance(found, Problem):
        return found
    bitmap = found.bitmap
    if len(bitmap.origin) != 2 or not all(abs(number) < 1e6 for number in bitmap.origin):
        return problem(ReasonCode.COORD_INVALID, f"the bitmap lies at {bitmap.origin}, expected a pixel position [x, y]")
    try:
        data = base64.b64decode(bitmap.data, validate=True)
    except ValueError as error:
        return problem(ReasonCode.MASK_INVALID, f"the bitmap is no base64: {error}")
    try:
        png = zlib.decompressobj().decompress(data, MAX_PNG_BYTES)
    except zlib.error:  # it is none that is compressed once more
        png = data
    mask = decode_ids(png, "in the annotation", max_pixels, "alpha")
    if isinstance(mask, Problem):
        return mask
    left, top = bitmap.origin
    return placed(mask, int(top), int(left), height, width)


def shape_of(figure: _Figure, height: int, width: int) -> Shape | Problem:
    """All parts of an object; None where it has none. A part may lie in the hole of another: it is drawn there."""
    drawn = [polygon([ring], holes) for ring, holes in figure.holed]
    if figure.rings:
        drawn.append(polygon(figure.rings))
    if not height or len(drawn) + len(figure.masks) < 2:
        return drawn[0] if drawn else figure.masks[0] if figure.masks else None
    masks = list(figure.masks)
    for polygons in drawn:
        shape = polygons if isinstance(polygons, Problem) else draw_polygons([(polygons, height, width)])[0]
        if isinstance(shape, Drawn):
            masks.append(shape.mask)
        elif shape.code != ReasonCode.EMPTY_MASK.name:
            return shape
    if not masks:
        return empty()
    union = cocomask.merge([{"size": [height, width], "counts": mask.counts} for mask in masks])
    return RunLengths(height, width, union["counts"])


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    if has_keys(data, "size", "objects") and (has_keys(data, "classTitle") or has_keys(data, "description", "tags")):
        return "it has size, and objects with classTitle"
    return None


FORMAT = Format(
    name="supervisely",
    title="Supervisely: a JSON file an image",
    files=("*.json",),
    parse=parse,
    recognise=recognise,
)
