"""`cityscapes`: a PNG with an id for each object, or a JSON file with polygons that cover one another, an image.

Source: `cityscapesscripts/helpers/labels.py` and `cityscapesscripts/preparation/json2instanceImg.py` in the cityscapesScripts
repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import msgspec

from transforms.polygons import Drawn, draw_polygons
from transforms.rasterize import Limits, cover
from transforms.records import Instance, Polygons, Problem, ReasonCode, RunLengths, Shape, problem
from transforms.sources.geometry import polygon, ring_of
from transforms.sources.mask_files import objects_of, read_ids
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, check_pixels, decode, field, has_keys

VOID = ("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground")
STUFF = (
    *("road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole"),
    *("polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky"),
)
THINGS = ("person", "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle")
LABELS = (*VOID, *STUFF, *THINGS)
"""By their ids."""
NOT_DRAWN = "license plate"
"""Its id is -1: it covers nothing."""
_NAME = re.compile(r"(?P<image>.+)_(?P<kind>gt[^_/]*)_(?:instanceIds\.png|polygons\.json)")
_IMAGES = "leftImg8bit"


class _Object(msgspec.Struct):
    label: str
    polygon: list[list[float]]
    deleted: int | bool = False


class _File(msgspec.Struct):
    height: int = msgspec.field(name="imgHeight")
    width: int = msgspec.field(name="imgWidth")
    objects: list[msgspec.Raw]


class _Labelled(NamedTuple):
    label: str
    is_crowd: bool
    polygon: Polygons


_file = msgspec.json.Decoder(_File)
_object = msgspec.json.Decoder(_Object)


def together(path: str) -> str:
    """What the files of one image have in common."""
    found = _NAME.fullmatch(path)
    return f"{found['image']}_{found['kind']}" if found else path


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The image of a PNG or, where there is none, of a JSON file."""
    path = piece.paths[0]  # instanceIds comes before polygons
    name = _NAME.fullmatch(context.relative(path))
    if not name:
        message = "expected a name that ends in _gtFine_instanceIds.png or _gtFine_polygons.json"
        yield Draft(context.relative(path)).fail(problem(ReasonCode.FILE_INVALID, message))
        return
    draft = Draft(image_of(name["image"], name["kind"], context))
    yield _of_ids(path, draft, context) if path.endswith(".png") else _of_polygons(piece.read(), draft, context)


def image_of(name: str, kind: str, context: Context) -> str:
    """The file name of an image: below leftImg8bit as `name` is below gtFine, or whatever `kind` is."""
    parts = PurePosixPath(f"{name}_{_IMAGES}.png").parts
    if kind in parts:
        place = parts.index(kind)
        inside = PurePosixPath(context.images.root).name == _IMAGES
        parts = parts[place + 1 :] if inside else (*parts[:place], _IMAGES, *parts[place + 1 :])
    return str(PurePosixPath(*parts))


def _of_ids(path: str, draft: Draft, context: Context) -> SourceImage:
    """Each value is id · 1000 + number for an object; an id alone for stuff, or for several objects that nobody could part."""
    ids = read_ids(path, context.max_pixels)
    if isinstance(ids, Problem):
        return draft.fail(ids)
    objects = objects_of(ids, path)
    if isinstance(objects, Problem):
        return draft.fail(objects)
    for value, mask in objects.items():
        label = value // 1000 if value >= 1000 else value
        if 0 <= label < len(LABELS):
            _add(draft, LABELS[label], mask, is_crowd=value < 1000)
        else:
            draft.reject(problem(ReasonCode.CATEGORY_UNKNOWN, f"the value {value} has no label"))
    height, width = ids.shape
    return draft.done(height, width, context.max_pixels)


def _of_polygons(data: bytes, draft: Draft, context: Context) -> SourceImage:
    """Each polygon covers those before it, whatever they are labelled."""
    file = decode(_file, data)
    if isinstance(file, Problem):
        return draft.fail(file)
    height, width = file.height, file.width
    wrong = _too_large(file, context.max_pixels)
    if wrong:
        return draft.fail(wrong, len(file.objects))
    objects = [_labelled(raw) for raw in file.objects]
    drawn = iter(draw_polygons([(one.polygon, height, width) for one in objects if isinstance(one, _Labelled)]))
    masks = [one if isinstance(one, Problem) else _mask(next(drawn)) for one in objects]
    left = iter(_uncovered([mask for mask in masks if isinstance(mask, RunLengths)]))
    for one, mask in zip(objects, masks, strict=True):
        if isinstance(mask, Problem):
            draft.reject(mask)
        elif isinstance(one, _Labelled):
            _add(draft, one.label, next(left), one.is_crowd)
    return draft.done(height, width, context.max_pixels)


def _too_large(file: _File, max_pixels: int) -> Problem | None:
    """What keeps polygons from being drawn at all; DIM_LIMIT, INSTANCE_LIMIT."""
    most = Limits().instances
    wrong = check_pixels(file.height, file.width, max_pixels)
    if not wrong and len(file.objects) > most:
        wrong = problem(ReasonCode.INSTANCE_LIMIT, f"the image has {len(file.objects)} objects, at most {most} are drawn")
    return wrong


def _labelled(raw: msgspec.Raw) -> _Labelled | Problem:
    """An object's label and outline."""
    found = field(_object, raw)
    if isinstance(found, Problem):
        return found
    if found.deleted or found.label == NOT_DRAWN:
        return problem(ReasonCode.DROPPED_VOID, "it is deleted" if found.deleted else f"a {NOT_DRAWN} is part of its vehicle")
    label = found.label.removesuffix("group")  # a polegroup is no less stuff than a pole
    if label not in LABELS:
        return problem(ReasonCode.CATEGORY_UNKNOWN, f"there is no label {found.label[:100]!r}")
    ring = ring_of(found.polygon)
    shape = ring if isinstance(ring, Problem) else polygon([ring])
    return shape if isinstance(shape, Problem) else _Labelled(label, label != found.label, shape)


def _mask(drawn: Drawn | Problem) -> RunLengths | Problem:
    return drawn.mask if isinstance(drawn, Drawn) else drawn


def _uncovered(masks: list[RunLengths]) -> list[Shape | Problem]:
    """What of each mask those behind it in the list leave."""
    layers = [Instance(0, 0, None, None, False, mask, layer=layer) for layer, mask in enumerate(masks)]
    height, width = (masks[0].height, masks[0].width) if masks else (0, 0)
    return [one if isinstance(one, Problem) else one.shape for one in cover(layers, height, width)]


def _add(draft: Draft, label: str, mask: Shape | Problem, is_crowd: bool) -> None:
    if label in THINGS:
        draft.add(label, mask, is_crowd=is_crowd)
    elif label in STUFF:
        draft.reject(problem(ReasonCode.DROPPED_STUFF, f"{label} has no instances"))
    else:
        draft.reject(problem(ReasonCode.DROPPED_VOID, f"{label} is void"))


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    if not _NAME.fullmatch(path):
        return None
    if path.endswith(".png"):
        return "it is a PNG named _gt…_instanceIds" if data.startswith(b"\x89PNG") else None
    return "it has imgHeight, imgWidth and objects" if has_keys(data, "imgHeight", "imgWidth", "objects") else None


FORMAT = Format(
    name="cityscapes",
    title="Cityscapes: PNGs of instance ids, or JSON files of polygons",
    files=("*_instanceIds.png", "*_polygons.json"),
    parse=parse,
    recognise=recognise,
    together=together,
)
