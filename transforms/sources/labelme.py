"""`labelme`: a JSON file an image, as LabelMe writes it; the image lies beside it, or is embedded.

Source: `labelme/utils/shape.py` and `examples/instance_segmentation/labelme2coco.py` in the LabelMe repository.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec
import numpy as np
import numpy.typing as npt

from transforms import run_lengths
from transforms.images import embedded_image, size_of_image
from transforms.records import ImageExtras, Problem, ReasonCode, Shape, problem
from transforms.sources.geometry import Ring, ellipse, polygon, rectangle, ring_of
from transforms.sources.mask_files import Ids, decode_ids, image_size
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, check_pixels, decode, field, has_keys

VOID = ("__ignore__", "_background_")
"""LabelMe's labels for what belongs to no object."""


class _Shape(msgspec.Struct):
    label: str
    points: list[list[float]]
    shape_type: str = "polygon"
    group_id: int | str | None = None
    mask: str | None = None


class _File(msgspec.Struct):
    shapes: list[msgspec.Raw]
    image_path: str = msgspec.field(name="imagePath")
    image_data: msgspec.Raw = msgspec.field(name="imageData", default=msgspec.Raw(b"null"))
    height: int | None = msgspec.field(name="imageHeight", default=None)
    width: int | None = msgspec.field(name="imageWidth", default=None)


_file = msgspec.json.Decoder(_File)
_shape = msgspec.json.Decoder(_Shape)


class Part(msgspec.Struct):
    """A shape: one of the three is there. `mask` is painted at `left`, `top`."""

    rings: list[Ring] = []
    mask: Ids | None = None
    left: int = 0
    top: int = 0
    problem: Problem | None = None


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The image of a file. Shapes of the same label and `group_id` are parts of one object."""
    path = piece.paths[0]
    data = piece.read()
    file = decode(_file, data.removeprefix(b"\xef\xbb\xbf"))
    if isinstance(file, Problem):
        yield Draft(context.relative(path)).fail(file)
        return
    embedded = bytes(file.image_data) != b"null"
    name = PurePosixPath(context.beside(path, file.image_path))
    if embedded and name.suffix.lower() == ".json":  # the annotation file itself, for a picture that has never been a file
        name = name.with_suffix("")
    draft = Draft(str(name))
    size = (file.height, file.width) if file.height and file.width else _size(draft.file_name, data, embedded, context)
    objects: dict[object, tuple[str, list[Part]]] = {}
    for place, raw in enumerate(file.shapes):
        shape = field(_shape, raw)
        if isinstance(shape, Problem):
            objects[place] = ("", [Part(problem=shape)])
            continue
        same = place if shape.group_id is None else (shape.label, shape.group_id)
        objects.setdefault(same, (shape.label, []))[1].append(part_of(shape, context.max_pixels))
    if isinstance(size, Problem):
        yield draft.fail(size, len(objects))
        return
    for label, parts in objects.values():
        if label in VOID:
            draft.reject(problem(ReasonCode.DROPPED_VOID, f"it is labelled {label}"))
        else:
            draft.add(label, check_pixels(*size, context.max_pixels) or joined(parts, *size))
    yield draft.done(*size, context.max_pixels, ImageExtras(embedded=path) if embedded else None)


def _size(file_name: str, data: bytes, embedded: bool, context: Context) -> tuple[int, int] | Problem:
    """Height and width of the image itself, for a file that does not say."""
    size = image_size(context.images, file_name)
    if isinstance(size, Problem) and embedded:
        image = embedded_image(data)
        return image if isinstance(image, Problem) else size_of_image(image)
    return size


def part_of(shape: _Shape, max_pixels: int) -> Part:
    """One shape's geometry, or what is wrong with it."""
    points, kind = shape.points, shape.shape_type
    ring = ring_of(points)
    if isinstance(ring, Problem):
        return Part(problem=ring)
    if kind == "polygon":
        return Part([ring])
    if kind not in ("rectangle", "circle", "mask"):
        return Part(problem=problem(ReasonCode.SHAPE_UNSUPPORTED, f"a {kind} encloses nothing"))
    if len(points) != 2:
        return Part(problem=problem(ReasonCode.POLY_MALFORMED, f"the {kind} has {len(points)} points, expected 2"))
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return Part([rectangle(x0, y0, x1, y1)])
    if kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        return Part([ellipse(x0, y0, radius, radius)])
    try:
        png = base64.b64decode(shape.mask or "", validate=True)
    except ValueError as error:
        return Part(problem=problem(ReasonCode.MASK_INVALID, f"the mask is no base64: {error}"))
    mask = decode_ids(png, "in the annotation", max_pixels)
    if isinstance(mask, Problem):
        return Part(problem=mask)
    if not (abs(x0) < 1e6 and abs(y0) < 1e6):
        return Part(problem=problem(ReasonCode.COORD_INVALID, f"the mask lies at {x0}, {y0}, expected a pixel position"))
    return Part(mask=mask, left=int(x0), top=int(y0))


def joined(parts: list[Part], height: int, width: int) -> Shape | Problem:
    """The union of an object's parts."""
    for part in parts:
        if part.problem:
            return part.problem
    masks = [part for part in parts if part.mask is not None]
    if not masks:
        return polygon([ring for part in parts for ring in part.rings])
    if len(masks) < len(parts):
        return problem(ReasonCode.SHAPE_UNSUPPORTED, "the object is drawn in part and painted in part: expected one of them")
    whole = np.zeros((height, width), np.uint8)
    for part in masks:
        paint(whole, part)
    return run_lengths.from_mask(whole) if whole.any() else problem(ReasonCode.EMPTY_MASK, "the mask has no pixel in the image")


def paint(whole: npt.NDArray[np.uint8], part: Part) -> None:
    """Adds a mask to that of the whole image; what lies outside is left out."""
    assert part.mask is not None, "only masks are painted"
    height, width = part.mask.shape
    top, left = max(part.top, 0), max(part.left, 0)
    into = whole[top : max(part.top + height, 0), left : max(part.left + width, 0)]
    cut = part.mask[top - part.top :, left - part.left :][: into.shape[0], : into.shape[1]]
    into |= cut != 0


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    return "it has shapes and shape_type" if has_keys(data, "shapes", "shape_type", "label") else None


FORMAT = Format(
    name="labelme",
    title="LabelMe: a JSON file an image",
    files=("*.json",),
    parse=parse,
    recognise=recognise,
)
