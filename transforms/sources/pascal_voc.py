"""`pascal_voc`: an XML file an image with boxes, PNGs that are painted with objects and classes, or both.

Source: the development kit of the PASCAL Visual Object Classes Challenge 2012, sections 2.3, 5 and 11; for the PNGs alone,
`examples/instance_segmentation/labelme2voc.py` in the LabelMe repository; for coloured ones, `labelmap.txt` as CVAT and
Datumaro write it (`plugins/data_formats/voc/format.py` in the Datumaro repository).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from transforms import run_lengths, storage
from transforms.records import Attributes, Box, InputError, Problem, ReasonCode, RunLengths, problem
from transforms.sources.image_names import find_image
from transforms.sources.mask_files import Ids, check_size, image_size, objects_of, read_ids
from transforms.sources.once import once
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage
from transforms.sources.xml_files import flag_of, number_of, parse_xml, text_of

VOID = 255
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The names of the values in SegmentationClass, where no file says."""
_IMAGES = "JPEGImages"
_TREE = re.compile(r"(?:(?P<root>.*)/)?(?:Annotations|SegmentationClass|SegmentationObject)/(?P<name>.+)\.(?:xml|png)")


class Classes(NamedTuple):
    """The name of each value of SegmentationClass, and its colour as R + 256·G + 65536·B."""

    names: tuple[str, ...]
    colours: tuple[int, ...]
    known: bool
    """Whether a file says so."""


class Painted(NamedTuple):
    """What is painted of an image: of each object the mask, the tight box around it, and its class's value."""

    size: tuple[int, int]
    masks: dict[int, RunLengths]
    boxes: dict[int, Box | None]
    classes: dict[int, int] | None
    names: Classes


def together(path: str) -> str:
    """What the files of one image have in common."""
    found = _TREE.fullmatch(path)
    return f"{found['root'] or ''}/{found['name']}" if found else path


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The image of an XML file, of painted PNGs, or of both; none of another PNG."""
    path = piece.paths[0]  # the XML file, if there is one: its folder comes first in the alphabet
    tree = _TREE.fullmatch(path)
    if path.endswith(".xml"):
        yield _annotated(piece, path, _painted(tree, path, context), context)
    elif tree:
        yield _only_painted(path, _painted(tree, path, context), context)


def _annotated(piece: Piece, path: str, painted: Painted | Problem | None, context: Context) -> SourceImage:
    xml = parse_xml(piece.read(), "annotation")
    if isinstance(xml, Problem):
        return Draft(context.relative(path)).fail(xml)
    file_name = image_of(xml, path, context)
    draft = Draft(file_name)
    objects = xml.findall("object")
    size = size_of(xml, file_name, context)
    if isinstance(painted, Painted) and not isinstance(size, Problem) and painted.size != size:
        found = "{} × {} (height × width)".format(*painted.size)
        painted = problem(ReasonCode.MASK_INVALID, f"SegmentationObject is {found}, its image {size[0]} × {size[1]}")
    for wrong in (size, painted):
        if isinstance(wrong, Problem):  # an image that merely lost its masks would say that nothing is on it
            return draft.fail(wrong, len(objects))
    assert not isinstance(size, Problem)
    assert not isinstance(painted, Problem)
    for place, one in enumerate(objects, start=1):
        _add(draft, one, place, painted)
    if painted:
        _add_painted(draft, painted, len(objects) + 1)
    return draft.done(*size, context.max_pixels)


def _only_painted(path: str, painted: Painted | Problem | None, context: Context) -> SourceImage:
    stem = _beside_images(path, PurePosixPath(path).stem, context)
    file_name = find_image(context.images, stem)
    draft = Draft(stem if isinstance(file_name, Problem) else file_name)
    if not isinstance(painted, Painted):
        missing = problem(ReasonCode.MASK_MISSING, "there is neither XML nor SegmentationObject: nothing parts its objects")
        return draft.fail(painted or missing)
    _add_painted(draft, painted, 1)
    return draft.fail(file_name) if isinstance(file_name, Problem) else draft.done(*painted.size, context.max_pixels)


def image_of(xml: Element, path: str, context: Context) -> str:
    """The file name of the image that an XML file at `path` is about."""
    name = text_of(xml, "filename") or PurePosixPath(path).stem
    name = _beside_images(path, context.beside(storage.name_of(path), name), context)
    if PurePosixPath(name).suffix:
        return name
    found = find_image(context.images, name)
    return name if isinstance(found, Problem) else found


def _beside_images(path: str, name: str, context: Context) -> str:
    """A name in JPEGImages, where the whole tree is given, or below the image folder as `path` is below the annotations."""
    relative = context.relative(path)
    tree = _TREE.fullmatch(relative)
    if not tree:
        return str(PurePosixPath(relative).parent / name)
    below = PurePosixPath(tree["name"]).parent / name
    if PurePosixPath(context.images.root).name == _IMAGES:
        return str(below)
    return str(PurePosixPath(tree["root"] or "") / _IMAGES / below)


def size_of(xml: Element, file_name: str, context: Context) -> tuple[int, int] | Problem:
    """Height and width as the XML file says; else, those of the image."""
    size = []
    for side in ("size/height", "size/width"):
        if text_of(xml, side) in ("", "0"):
            return image_size(context.images, file_name)
        number = number_of(xml, side)
        if isinstance(number, Problem) or number % 1:
            message = f"<{side}> is {text_of(xml, side)[:40]!r}, expected a whole number of pixels"
            return problem(ReasonCode.FILE_INVALID, message)
        size.append(int(number))
    return (size[0], size[1])


def corners_of(one: Element) -> Box | Problem | None:
    """The corners of an object's box as they are, (ymin, xmin, ymax, xmax); None without a box, FIELD_INVALID."""
    if one.find("bndbox") is None:
        return None
    sides = []
    for side in ("ymin", "xmin", "ymax", "xmax"):
        number = number_of(one, f"bndbox/{side}")
        if isinstance(number, Problem):
            return number
        sides.append(number)
    ymin, xmin, ymax, xmax = sides
    return ymin, xmin, ymax, xmax


def box_of(one: Element) -> Box | Problem | None:
    """The box of an object, half-open. In the file its corners are pixels, which it includes, and the first one is 1."""
    corners = corners_of(one)
    if corners is None or isinstance(corners, Problem):
        return corners
    ymin, xmin, ymax, xmax = corners
    return (ymin - 1, xmin - 1, ymax, xmax) if ymin - 1 < ymax and xmin - 1 < xmax else None


def attributes_of(one: Element) -> Attributes | None:
    """What else an object says of itself."""
    found = Attributes(
        difficult=flag_of(one, "difficult"),
        truncated=flag_of(one, "truncated"),
        occluded=flag_of(one, "occluded"),
        view=text_of(one, "pose"),
    )
    return found if found != Attributes() else None


def _add(draft: Draft, one: Element, value: int, painted: Painted | None) -> None:
    box, name = box_of(one), text_of(one, "name")
    if isinstance(box, Problem):
        draft.reject(box)
        return
    mask = painted.masks.get(value) if painted else None
    wrong = _disagrees(name, box, value, painted) if painted and mask else None
    draft.add(name, wrong or mask, box=box, attributes=attributes_of(one))


def _disagrees(name: str, box: Box | None, value: int, painted: Painted) -> Problem | None:
    """MASK_INVALID where an object of the XML file and what is painted with its number are not the same."""
    names, classes = painted.names, painted.classes
    if classes is not None and (names.known or name in CLASSES):
        found = names.names[at] if (at := classes[value]) < len(names.names) else f"the value {at}"
        if found != name:
            message = f"object {value} is {name!r} in the XML, and its pixels are {found!r} in SegmentationClass"
            return problem(ReasonCode.MASK_INVALID, message)
    around = painted.boxes[value]
    if box and around:
        y, x = (around[0] + around[2]) / 2, (around[1] + around[3]) / 2
        if not (box[0] <= y <= box[2] and box[1] <= x <= box[3]):
            message = f"object {value} has the box {box} in the XML, and is painted in {around} (ymin, xmin, ymax, xmax)"
            return problem(ReasonCode.MASK_INVALID, message)
    return None


def _add_painted(draft: Draft, painted: Painted, first: int) -> None:
    """Adds the objects from the number `first` on, which are only painted."""
    for value, mask in painted.masks.items():
        if value < first:
            continue
        if painted.classes is None:
            draft.reject(problem(ReasonCode.FIELD_INVALID, f"object {value} has no class: there is no SegmentationClass"))
        elif not 0 < (at := painted.classes[value]) < len(painted.names.names):
            message = f"object {value} is of class {at} in SegmentationClass, expected 1 to {len(painted.names.names) - 1}"
            draft.reject(problem(ReasonCode.CATEGORY_UNKNOWN, message))
        else:
            draft.add(painted.names.names[at], mask)


def _painted(tree: re.Match[str] | None, path: str, context: Context) -> Painted | Problem | None:
    """What is painted of an image; None where there is no SegmentationObject of it."""
    if context.masks is None and tree is None:
        return None
    root = (tree["root"] or "") if tree else ""
    name = tree["name"] if tree else str(PurePosixPath(context.relative(path)).with_suffix(""))
    folder = context.masks or storage.join(root, "SegmentationObject")
    if context.masks:
        root = storage.folder_of(context.masks.rstrip("/"))
    where = storage.join(folder, f"{name}.png")
    ids = read_ids(where, context.max_pixels)
    if isinstance(ids, Problem):
        return None if ids.code == ReasonCode.MASK_MISSING.name else ids
    names = classes_of(root)
    classes = read_ids(storage.join(root, "SegmentationClass", f"{name}.png"), context.max_pixels)
    if isinstance(classes, Problem) and classes.code != ReasonCode.MASK_MISSING.name:
        return classes
    found = None if isinstance(classes, Problem) else indices(classes, names.colours)
    ids = indices(ids, COLOURS)
    if isinstance(ids, Problem):
        return ids
    return found if isinstance(found, Problem) else _measured(ids, found, names, where)


def _measured(ids: Ids, classes: Ids | None, names: Classes, where: str) -> Painted | Problem:
    height, width = ids.shape
    wrong = None if classes is None else check_size(classes, height, width, f"in SegmentationClass for {where}")
    runs = run_lengths.value_runs(ids)
    objects = wrong or objects_of(runs._replace(values=np.where(runs.values == VOID, 0, runs.values)), where)
    if isinstance(objects, Problem):
        return objects
    decoded = run_lengths.decode_checked([mask.counts for mask in objects.values()])
    boxes = {value: run_lengths.box_of(runs, height) for value, runs in zip(objects, decoded, strict=True)}
    return Painted((height, width), objects, boxes, None if classes is None else majorities(ids, classes), names)


def majorities(ids: Ids, classes: Ids) -> dict[int, int]:
    """The class that most pixels of each object have, but for background and void; of as many, the lower; 0 where none has."""
    runs = run_lengths.value_runs(ids.astype(np.int64) << 32 | classes)
    values, kinds = runs.values >> 32, runs.values & 0xFFFFFFFF
    own = (values != 0) & (values != VOID)
    found = dict.fromkeys(np.unique(values[own]).tolist(), 0)
    voting = own & (kinds != 0) & (kinds != VOID)
    pairs, places = np.unique(runs.values[voting], return_inverse=True)
    counts = np.bincount(places, np.diff(runs.starts, append=ids.size)[voting])
    most: dict[int, float] = {}
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        value, kind = pair >> 32, pair & 0xFFFFFFFF
        if count > most.get(value, 0):
            most[value], found[value] = count, kind
    return found


def _colour(index: int) -> int:
    """The colour that VOC gives an index: its bits, in turn, are the highest bits of red, green and blue."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0] | channels[1] << 8 | channels[2] << 16


COLOURS = tuple(map(_colour, range(256)))


def indices(ids: Ids, colours: tuple[int, ...]) -> Ids | Problem:
    """The place of each colour of a coloured mask in `colours`, or 255 for VOC's void; a mask with a palette as it is."""
    if ids.dtype != np.uint32:  # which only colours are read as
        return ids
    places = {COLOURS[VOID]: VOID} | {colour: place for place, colour in reversed(list(enumerate(colours)))}
    values = np.unique(run_lengths.value_runs(ids).values)
    for value in values.tolist():
        if value not in places:
            rgb = (value & 255, value >> 8 & 255, value >> 16)
            return problem(ReasonCode.MASK_INVALID, f"a mask has the colour {rgb}, which stands for no index")
    found: npt.NDArray[np.int64] = np.array([places[value] for value in values.tolist()])[np.searchsorted(values, ids)]
    return found


@once
def classes_of(root: str) -> Classes:
    """The classes of a tree, as `class_names.txt` (a line each) or `labelmap.txt` (name:r,g,b:…) in it says, or VOC's own.

    Raises `InputError` for a file that can't be read.
    """
    for name in ("class_names.txt", "labelmap.txt"):
        path = storage.join(root, name)
        data = storage.if_there(storage.read_bytes, path)
        if data is None:
            continue
        try:
            lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
            if name == "class_names.txt":
                return Classes(tuple(line for line in lines if line not in ("", "__ignore__")), COLOURS, True)
            fields = [line.split(":") for line in lines if line and not line.startswith("#")]
            colours = [[int(number) for number in field[1].split(",")] for field in fields]
            return Classes(tuple(field[0] for field in fields), tuple(r | g << 8 | b << 16 for r, g, b in colours), True)
        except (ValueError, IndexError) as error:
            raise InputError(f"FILE_INVALID: {path}: expected the names of the classes, a line each: {error}") from None
    return Classes(CLASSES, COLOURS, False)


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    folder = PurePosixPath(path).parent.name
    if data.startswith(b"\x89PNG") and folder in ("SegmentationClass", "SegmentationObject"):
        return f"it is a PNG in a folder {folder}"
    # Pets have the same XML, in a folder xmls; LabelMe's older XML has polygons, and CVAT's <annotations>.
    others = b"<polygon>" in data or folder == "xmls"
    ours = b"<annotation>" in data and any(field in data for field in (b"<bndbox>", b"<segmented>", b"<size>"))
    return "it has <annotation>, and <bndbox>, <segmented> or <size>" if ours and not others else None


FORMAT = Format(
    name="pascal_voc",
    title="Pascal VOC: XML with boxes, and painted PNGs",
    files=("*.xml", "*.png"),
    parse=parse,
    recognise=recognise,
    together=together,
)
