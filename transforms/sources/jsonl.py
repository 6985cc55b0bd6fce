"""`jsonl`: our own format, one image a line, for whoever has something else. docs/formats/jsonl.schema.json is its schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from transforms import run_lengths
from transforms.records import Attributes, Box, InputError, Problem, ReasonCode, Shape, problem
from transforms.sources.coco_json import Int64
from transforms.sources.geometry import polygon
from transforms.sources.lines import cut_lines, lines_of
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, decode, field, has_keys

Pixels = Annotated[int, msgspec.Meta(ge=1, description="pixels")]
Coordinates = Annotated[list[float], msgspec.Meta(description="x0, y0, x1, y1, … in pixels, from the upper left corner")]


class CompressedRuns(msgspec.Struct, forbid_unknown_fields=True):
    """COCO's run lengths: size is [height, width]; counts as COCO's string, or as numbers, column by column, zeros first."""

    size: Annotated[list[int], msgspec.Meta(min_length=2, max_length=2)]
    counts: str | list[Annotated[int, msgspec.Meta(ge=0)]]


class Annotation(msgspec.Struct, forbid_unknown_fields=True):
    """An object. Its mask is the union of `polygons` without that of `holes`, or `rle`; without either, it is only a box."""

    category: Annotated[str, msgspec.Meta(min_length=1, description="the name of its class")]
    polygons: list[Coordinates] | None = None
    holes: list[Coordinates] = []
    rle: CompressedRuns | None = None
    bbox: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4, description="x, y, width, height in pixels")] | None = (
        None
    )
    area: Annotated[float, msgspec.Meta(ge=0, description="pixels²; left out, the mask's")] | None = None
    iscrowd: Literal[0, 1] = 0
    layer: Annotated[Int64, msgspec.Meta(description="objects of a higher layer cover those of lower ones")] = 0
    difficult: bool = False
    truncated: bool = False
    occluded: bool = False
    group_of: bool = False
    depiction: bool = False
    view: str = ""


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """An image and the objects on it."""

    file_name: Annotated[str, msgspec.Meta(min_length=1, description="relative to --images, with /")]
    height: Pixels
    width: Pixels
    annotations: list[Annotation]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    file_name: str
    height: int
    width: int
    annotations: list[msgspec.Raw]


_BEGINS = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"(?:file_name|height|width|annotations)"\s*:')
_line = msgspec.json.Decoder(_Line)
_annotation = msgspec.json.Decoder(Annotation)
_name_only = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The images of a block of lines. Raises `InputError` for a line that is no JSON."""
    for text in lines_of(piece.data):
        line = decode(_line, text)
        if isinstance(line, Problem):
            yield Draft(_name_of(text, piece.paths[0]) or context.relative(piece.paths[0])).fail(line)
            continue
        draft = Draft(line.file_name)
        for raw in line.annotations:
            one = field(_annotation, raw)
            _add(draft, one, context.max_pixels)
        yield draft.done(line.height, line.width, context.max_pixels)


def _name_of(text: bytes, path: str) -> str:
    """The file name in a line that could not be read as a whole. Raises `InputError` where it is not even JSON."""
    try:
        fields = _name_only.decode(text)
        return msgspec.json.decode(fields.get("file_name", b'""'), type=str)
    except msgspec.ValidationError:
        return ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"JSON_INVALID: {path}: the line that begins with {text[:60]!r}: {error}") from None


def _add(draft: Draft, one: Annotation | Problem, max_pixels: int) -> None:
    if isinstance(one, Problem):
        draft.reject(one)
        return
    attributes = Attributes(one.difficult, one.truncated, one.occluded, one.group_of, one.depiction, one.view)
    draft.add(
        one.category,
        shape_of(one, max_pixels),
        box=_box(one.bbox),
        area=one.area,
        is_crowd=bool(one.iscrowd),
        layer=one.layer,
        attributes=attributes if attributes != Attributes() else None,
    )


def shape_of(one: Annotation, max_pixels: int) -> Shape | Problem:
    """The geometry of an annotation."""
    if one.polygons is not None and one.rle is not None:
        return problem(ReasonCode.FIELD_INVALID, "the annotation has polygons and run lengths: expected one of them")
    if one.polygons is not None:
        return polygon(one.polygons, one.holes)
    if one.rle is None:
        return None
    height, width = one.rle.size
    return run_lengths.from_coco(one.rle.counts, height, width, max_pixels)


def _box(bbox: list[float] | None) -> Box | None:
    if bbox is None:
        return None
    x, y, width, height = bbox
    return (y, x, y + height, x + width) if width > 0 and height > 0 else None


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    if _BEGINS.match(data) and has_keys(data, "file_name", "height", "width", "annotations") and b'"images"' not in data:
        return "a line has file_name, height, width and annotations"
    return None


FORMAT = Format(
    name="jsonl",
    title="JSON lines, one image a line: our own",
    files=("*.jsonl",),
    parse=parse,
    recognise=recognise,
    cut=cut_lines,
)
