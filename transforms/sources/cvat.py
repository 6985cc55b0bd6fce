"""`cvat`: an XML file of many images, as CVAT exports it as "CVAT for images 1.1".

Source: https://docs.cvat.ai/docs/manual/advanced/xml_format/; in the CVAT repository, `cvat/apps/dataset_manager/formats/cvat.py`
and, for how shapes become masks, `formats/transformations.py` beside it.
"""

from __future__ import annotations

import codecs
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np

from transforms import run_lengths, storage
from transforms.records import Attributes, Box, InputError, Problem, ReasonCode, RunLengths, Shape, problem
from transforms.sources.geometry import Ring, ellipse, polygon, rectangle, turned
from transforms.sources.image_names import is_there
from transforms.sources.mask_files import placed
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, check_pixels

BLOCK_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16
MAX_IMAGE_BYTES = 64 << 20
MAX_IMAGE_ELEMENTS = 1_000_000
MAX_DEPTH = 64
_LARGEST = 2**31


def cut_images(path: str) -> Iterator[bytes]:
    """The `<image>` elements of a file, in blocks of some megabyte that are XML themselves.

    The file is never held as a whole. Raises `InputError` for what is no XML, is cut off, or is another export of CVAT's.
    """
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("start", "end"))
    open_elements: list[ET.Element] = []
    block: list[bytes] = []
    in_block = since = elements = 0
    for text in _texts(path):
        parser.feed(text)
        since += len(text)
        try:
            for event, element in _events(parser):
                if event == "start":
                    _check_start(element, open_elements, path)
                    open_elements.append(element)
                    elements += 1
                    continue
                open_elements.pop()
                if len(open_elements) != 1:
                    continue
                if element.tag == "image":
                    element.tail = None
                    block.append(ET.tostring(element, "utf-8"))
                    in_block += len(block[-1])
                open_elements[0].clear()  # else the root would keep all of them
                since = elements = 0
                if in_block >= BLOCK_BYTES:
                    yield _document(block)
                    block, in_block = [], 0
        except ET.ParseError as error:
            raise _invalid(path, f"it is no XML: {error}") from None
        if since > MAX_IMAGE_BYTES or elements > MAX_IMAGE_ELEMENTS:
            message = f"an element has over {MAX_IMAGE_BYTES} bytes, or {MAX_IMAGE_ELEMENTS} elements in it"
            raise _invalid(path, message)
    try:
        parser.close()
    except ET.ParseError as error:
        raise _invalid(path, f"it ends in the middle of the data, and may have been cut off, or is no XML: {error}") from None
    if block:
        yield _document(block)


def _events(parser: ET.XMLPullParser[ET.Element]) -> Iterator[tuple[str, ET.Element]]:
    for event in parser.read_events():
        yield cast(tuple[str, ET.Element], event)  # others are not asked for


def _document(images: list[bytes]) -> bytes:
    return b"<annotations>%b</annotations>" % b"".join(images)


def _invalid(path: str, what: str) -> InputError:
    return InputError(f"FILE_INVALID: {path}: {what}")


def _texts(path: str) -> Iterator[str]:
    """A file's text, chunk by chunk, without a document type: entities could stand for gigabytes, or for other files.

    As text, since expat would read other encodings, in which that can't be seen.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    before = ""
    with storage.open_read(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise _invalid(path, f"the text is not UTF-8 ({error.reason})") from None
            seen = before + text
            if "<!DOCTYPE" in seen or "<!ENTITY" in seen:
                raise _invalid(path, "it has a document type, which CVAT's files have not, and which is not read")
            before = seen[-9:]
            yield text


def _check_start(element: ET.Element, open_elements: list[ET.Element], path: str) -> None:
    """Raises `InputError` where a file turns out to be another one than is read."""
    depth = len(open_elements)
    if depth == 0 and element.tag != "annotations":
        raise _invalid(path, f"expected <annotations>, found <{element.tag}>")
    if depth == 1 and element.tag == "track":
        message = 'it is a video\'s export, with <track>s: export the task as "CVAT for images 1.1", and with its images'
        raise _invalid(path, message)
    if depth > MAX_DEPTH:
        raise _invalid(path, f"elements are nested deeper than {MAX_DEPTH} levels")


class _Found(NamedTuple):
    """A shape's ring or mask, or None for a box; and what it lies in."""

    drawn: Ring | RunLengths | None
    box: Box


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The images of a block. Shapes of the same label and `group_id` are parts of one object."""
    for image in ET.fromstring(piece.data.decode()):
        yield _image(image, context)


def _image(image: ET.Element, context: Context) -> SourceImage:
    draft = Draft(_file_name(image, context))
    objects: dict[object, list[ET.Element]] = {}
    for place, element in enumerate(image):
        if element.tag == "tag":  # of the image, and of no object on it
            continue
        group = element.get("group_id", "0")
        objects.setdefault(place if group == "0" else (element.get("label"), group), []).append(element)
    try:
        height, width = _whole(image, "height"), _whole(image, "width")
    except ValueError as error:
        return draft.fail(problem(ReasonCode.FILE_INVALID, str(error)), len(objects))
    wrong = check_pixels(height, width, context.max_pixels)
    if not image.get("name"):
        wrong = problem(ReasonCode.FILE_INVALID, f"image {image.get('id')} has no name")
    if wrong:
        return draft.fail(wrong, len(objects))
    for elements in objects.values():
        try:
            _add(draft, elements, height, width)
        except ValueError as error:
            draft.reject(problem(ReasonCode.FIELD_INVALID, str(error)))
    return draft.done(height, width, context.max_pixels)


def _file_name(image: ET.Element, context: Context) -> str:
    """An image's name; of a project's, in the folder of its subset, if it is there."""
    name, subset = image.get("name", ""), image.get("subset")
    return f"{subset}/{name}" if subset and is_there(context.images, f"{subset}/{name}") else name


def _number(element: ET.Element, name: str, default: str = "") -> float:
    """An attribute that is a number. Raises `ValueError`."""
    text = element.get(name, default)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{element.tag}> has {name}={text[:60]!r}, expected a number") from None


def _whole(element: ET.Element, name: str, default: str = "") -> int:
    """An attribute that is a whole number. Raises `ValueError`."""
    number = _number(element, name, default)
    if not (abs(number) < _LARGEST and number == int(number)):
        raise ValueError(f"<{element.tag}> has {name}={number}, expected a whole number")
    return int(number)


def _angle(element: ET.Element) -> float:
    """The rotation, in radians. Raises `ValueError`."""
    degrees = _number(element, "rotation", "0")
    if not math.isfinite(degrees):
        raise ValueError(f"<{element.tag}> has rotation={degrees}, expected degrees")
    return math.radians(degrees)


def _shape(element: ET.Element, height: int, width: int) -> _Found | Problem:
    """One shape, or what is wrong with it. Raises `ValueError` for an attribute that is no number."""
    kind = element.tag
    if kind == "mask":
        return _mask(element, height, width)
    ring: Ring | Problem
    if kind == "polygon":
        ring = _ring(element.get("points", ""))
    elif kind == "box":
        x0, y0, x1, y1 = (_number(element, name) for name in ("xtl", "ytl", "xbr", "ybr"))
        ring = turned(rectangle(x0, y0, x1, y1), (x0 + x1) / 2, (y0 + y1) / 2, _angle(element))
    elif kind == "ellipse":
        x, y, radius_x, radius_y = (_number(element, name) for name in ("cx", "cy", "rx", "ry"))
        ring = ellipse(x, y, radius_x, radius_y, _angle(element))
    else:
        return problem(ReasonCode.SHAPE_UNSUPPORTED, f"a {kind} encloses nothing")
    if isinstance(ring, Problem):
        return ring
    checked = polygon([ring])
    if isinstance(checked, Problem):
        return checked
    only_a_box = kind == "box" and not _angle(element)
    return _Found(None if only_a_box else ring, (min(ring[1::2]), min(ring[0::2]), max(ring[1::2]), max(ring[0::2])))


def _ring(points: str) -> Ring | Problem:
    """`x,y;x,y;…` as a ring; POLY_MALFORMED, COORD_INVALID."""
    ring: Ring = []
    for point in points.split(";"):
        numbers = point.split(",")
        if len(numbers) != 2:
            return problem(ReasonCode.POLY_MALFORMED, f"a point of the polygon is {point[:60]!r}, expected x,y")
        try:
            ring += map(float, numbers)
        except ValueError:
            return problem(ReasonCode.COORD_INVALID, f"a point of the polygon is {point[:60]!r}, expected two numbers")
    return ring


def _mask(element: ET.Element, image_height: int, image_width: int) -> _Found | Problem:
    """Run lengths row by row within the mask's own rectangle, zeros first. Raises `ValueError`."""
    left, top, width, height = (_whole(element, name) for name in ("left", "top", "width", "height"))
    if height < 1 or width < 1 or height * width > image_height * image_width:
        message = f"the mask is {height} × {width} (height × width), its image {image_height} × {image_width}"
        return problem(ReasonCode.DIM_LIMIT, message)
    try:
        runs = np.array([int(run) for run in element.get("rle", "").split(",")], np.int64)
    except (ValueError, OverflowError):
        return problem(ReasonCode.RLE_MALFORMED, "the run lengths are not whole numbers with commas between them")
    wrong = run_lengths.check_runs(runs, height, width)
    if wrong:
        return wrong
    mask = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs).reshape(height, width)
    return _Found(placed(mask, top, left, image_height, image_width), (top, left, top + height, left + width))


def _add(draft: Draft, elements: list[ET.Element], height: int, width: int) -> None:
    """Adds the object of these shapes. Of its boxes, if it has other parts, only the extent is taken.

    Raises `ValueError` for an attribute that is no number.
    """
    boxes: list[Box] = []
    drawn: list[Ring | RunLengths] = []
    for element in elements:
        found = _shape(element, height, width)
        if isinstance(found, Problem):
            draft.reject(found)
            return
        boxes.append(found.box)
        if found.drawn is not None:
            drawn.append(found.drawn)
    ymin, xmin, ymax, xmax = zip(*boxes, strict=True)
    occluded = any(element.get("occluded") == "1" for element in elements)
    draft.add(
        elements[0].get("label", ""),
        _joined(drawn, height, width),
        box=(min(ymin), min(xmin), max(ymax), max(xmax)) if len(drawn) < len(boxes) else None,
        layer=max(_whole(element, "z_order", "0") for element in elements),
        attributes=Attributes(occluded=True) if occluded else None,
    )


def _joined(drawn: list[Ring | RunLengths], height: int, width: int) -> Shape | Problem:
    """The union of an object's parts; None where there are none."""
    masks = [part for part in drawn if isinstance(part, RunLengths)]
    rings = [part for part in drawn if isinstance(part, list)]
    if not masks:
        return polygon(rings) if rings else None
    if rings:
        return problem(ReasonCode.SHAPE_UNSUPPORTED, "the object is drawn in part and painted in part: expected one of them")
    if len(masks) == 1:
        return masks[0]
    union = np.zeros((height, width), np.uint8)
    for mask in masks:
        union |= run_lengths.to_mask(mask)
    return run_lengths.from_mask(union)


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    if b"<annotations>" in data and (b"<meta>" in data or b"<image " in data or b"<track " in data):
        return "it has <annotations> with <meta> or <image>"
    return None


FORMAT = Format(
    name="cvat",
    title='CVAT: an XML file, exported as "CVAT for images 1.1"',
    files=("*.xml",),
    parse=parse,
    recognise=recognise,
    cut=cut_images,
)
