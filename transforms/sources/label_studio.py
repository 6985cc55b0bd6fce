"""`label_studio`: a JSON file of many tasks, as Label Studio exports it as "JSON".

Source: https://labelstud.io/guide/task_format, https://labelstud.io/tags/brushlabels and the like for each tag; of brush masks,
`label_studio_converter/brush.py` in the label-studio-converter repository.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import IO
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import numpy as np

from transforms import run_lengths, storage
from transforms.records import Box, InputError, Problem, ReasonCode, Shape, problem
from transforms.sources.geometry import ellipse, polygon, rectangle, ring_of, turned
from transforms.sources.image_names import EXTENSIONS, is_there
from transforms.sources.json_blocks import Block, cut_blocks
from transforms.sources.mask_files import image_size
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, check_pixels, decode, field, has_keys, head

MAX_TASK_BYTES = 256 << 20  # some dozens of brush masks make a task that large
_BEFORE, _BEHIND = b'{"tasks":', b"}"
_UPLOAD = re.compile(r"[0-9a-f]{8}-(.+)", re.DOTALL)
"""What Label Studio calls a file that is uploaded to it."""

NO_OBJECTS = ("choices", "textarea", "rating", "number", "taxonomy", "datetime", "pairwise", "ranker", "relation")
"""Results that say something of a region, or of the image, and are none themselves."""


class _Wrapped:
    """A file's list as the only member of an object, which `cut_blocks` cuts; what is read is held until it is taken."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file, self._path = file, path
        self._held, self._offset = bytearray(), 0
        self._began = self._ended = False

    def read(self, most: int) -> bytes:
        data = self._file.read(most)
        if not self._began:
            data = head(data)
            if not data.startswith(b"["):
                found = f"expected a list of tasks, found {data[:12]!r} at its beginning"
                raise InputError(f"JSON_INVALID: {self._path}: {found}")
            self._began, data = True, _BEFORE + data
        elif not data and not self._ended:
            self._ended, data = True, _BEHIND
        self._held += data
        return data

    def take(self, block: Block) -> bytes:
        start = block.offset - self._offset
        data = bytes(self._held[start : start + block.length])
        del self._held[: start + block.length]
        self._offset = block.offset + block.length
        return data


def cut_tasks(path: str) -> Iterator[bytes]:
    """The tasks of a file, as lists of some megabyte; held are a block, or one task if that is larger.

    Raises `InputError` for what is no list, is cut off, or has a task of over `MAX_TASK_BYTES`.
    """
    with storage.open_read(path) as file:
        wrapped = _Wrapped(file, path)
        for block in cut_blocks(wrapped.read, frozenset({"tasks"}), path, MAX_TASK_BYTES):
            if tasks := wrapped.take(block).strip(b", \t\r\n"):
                yield b"[%b]" % tasks


class _Task(msgspec.Struct):
    data: dict[str, msgspec.Raw]
    annotations: list[msgspec.Raw]
    file_upload: str | None = None


class _Annotation(msgspec.Struct):
    result: list[msgspec.Raw]
    was_cancelled: bool | None = False


class _Result(msgspec.Struct):
    type: str
    value: dict[str, msgspec.Raw] = {}
    id: str | int | None = None
    original_width: float | None = None
    original_height: float | None = None
    image_rotation: float | None = None


class _Percent(msgspec.Struct):
    """A rectangle; x, y is the corner that is the upper left one before it is turned, and around which it is."""

    x: float
    y: float
    width: float
    height: float
    rotation: float | None = 0


class _Ellipse(msgspec.Struct):
    """x, y is the centre."""

    x: float
    y: float
    radius_x: float = msgspec.field(name="radiusX")
    radius_y: float = msgspec.field(name="radiusY")
    rotation: float | None = 0


_Regions = dict[object, list[_Result | Problem]]
_tasks = msgspec.json.Decoder(list[msgspec.Raw])
_task = msgspec.json.Decoder(_Task)
_annotation = msgspec.json.Decoder(_Annotation)
_result = msgspec.json.Decoder(_Result)
_percent = msgspec.json.Decoder(_Percent)
_ellipse = msgspec.json.Decoder(_Ellipse)
_points = msgspec.json.Decoder(list[list[float]])
_numbers = msgspec.json.Decoder(list[int])
_texts = msgspec.json.Decoder(list[str])
_text = msgspec.json.Decoder(str)


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The images of a block of tasks that someone has annotated. Raises `InputError` for what is no JSON."""
    tasks = decode(_tasks, piece.data)
    if isinstance(tasks, Problem):
        raise InputError(f"JSON_INVALID: {piece.paths[0]}: {tasks.message}")
    for raw in tasks:
        task = decode(_task, bytes(raw))
        if isinstance(task, Problem):
            hint = ' (is it exported as "JSON", and not as "JSON-MIN"?)' if "annotations" in task.message else ""
            yield Draft("").fail(Problem(task.code, task.message + hint))
            continue
        file_name, annotation = _file_name(task, context), _submitted(task)
        if isinstance(file_name, Problem):
            yield Draft("").fail(file_name, len(_regions_of(annotation)) if isinstance(annotation, _Annotation) else 0)
        elif isinstance(annotation, Problem):
            yield Draft(file_name).fail(annotation)
        elif annotation:
            yield _image(file_name, _regions_of(annotation), context)


def _submitted(task: _Task) -> _Annotation | Problem | None:
    """The first annotation that was not cancelled."""
    for one in task.annotations:
        annotation = decode(_annotation, bytes(one))
        if isinstance(annotation, Problem) or not annotation.was_cancelled:
            return annotation
    return None


def _file_name(task: _Task, context: Context) -> str | Problem:
    """The longest end of the image's path that is there; else the name it was uploaded by, with or without its prefix.

    Without any of them, its last part.
    """
    if "image" in task.data:
        image = decode(_text, bytes(task.data["image"]))
    else:
        texts = [text for raw in task.data.values() if isinstance(text := decode(_text, bytes(raw)), str)]
        images = [text for text in texts if text.lower().endswith(EXTENSIONS)]
        if len(images) != 1:
            found = ", ".join(task.data)[:200]
            return problem(ReasonCode.FILE_INVALID, f"the task's data has {found or 'nothing'}, expected an image")
        image = images[0]
    if isinstance(image, Problem):
        return problem(ReasonCode.FILE_INVALID, f"the task's image: {image.message}")
    try:
        parts = _parts(image)
    except ValueError as error:
        return problem(ReasonCode.FILE_INVALID, f"the task's image is {image[:60]!r}: {error}")
    if not parts:
        return problem(ReasonCode.FILE_INVALID, f"the task's image is {image[:60]!r}, expected a path or an address")
    names = ["/".join(parts[first:]) for first in range(len(parts))]
    uploaded = _UPLOAD.fullmatch(parts[-1])
    others = [name for name in (task.file_upload, uploaded and uploaded[1]) if name]
    return next((name for name in (*names, *others) if is_there(context.images, name)), parts[-1])


def _parts(image: str) -> list[str]:
    """The parts of an image's path, below its bucket, host or document root. Raises `ValueError`."""
    if image.startswith(("http://", "https://", "/data/")):
        split = urlsplit(image)
        local = parse_qs(split.query).get("d", [""])[0] if "/local-files" in split.path else ""
        path = local or unquote(split.path)
    else:
        path = image.partition("://")[2].partition("/")[2] if "://" in image else image
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _regions_of(annotation: _Annotation) -> _Regions:
    """Results of the same id are one region: its shape, its label, and what else was said of it."""
    regions: dict[object, list[_Result | Problem]] = {}
    for place, raw in enumerate(annotation.result):
        result = field(_result, raw)
        if isinstance(result, Problem):
            regions[place, ""] = [result]
        elif result.type not in NO_OBJECTS:
            regions.setdefault((place, "") if result.id is None else result.id, []).append(result)
    return regions


def _image(file_name: str, regions: _Regions, context: Context) -> SourceImage:
    draft = Draft(file_name)
    size = _size(regions, file_name, context)
    if isinstance(size, Problem):
        return draft.fail(size, len(regions))
    height, width = size
    wrong = check_pixels(height, width, context.max_pixels)
    if wrong:
        return draft.fail(wrong, len(regions))
    for results in regions.values():
        _add(draft, results, height, width)
    return draft.done(height, width, context.max_pixels)


def _size(regions: _Regions, file_name: str, context: Context) -> tuple[int, int] | Problem:
    """Height and width, as the first result has them, or else the image file."""
    for results in regions.values():
        for one in results:
            if isinstance(one, _Result) and one.original_height and one.original_width:
                return _whole(one.original_height), _whole(one.original_width)
    return image_size(context.images, file_name)


def _whole(pixels: float) -> int:
    return int(pixels) if 0 < pixels < 2**31 else 0


def _add(draft: Draft, results: list[_Result | Problem], height: int, width: int) -> None:
    """Adds a region, or what is wrong with it; of several labels it has the first."""
    known = [one for one in results if isinstance(one, _Result)]
    if not known:
        draft.reject(next(one for one in results if isinstance(one, Problem)))
        return
    label = ""
    for one in known:
        labels = field(_texts, one.value.get(one.type, msgspec.Raw(b"[]")))
        if isinstance(labels, Problem):
            draft.reject(labels)
            return
        label = label or next(iter(labels), "")
    shape, box = _shape(next((one for one in known if one.value.keys() & _KINDS), known[0]), height, width)
    draft.add(label, shape, box=box)


def _shape(result: _Result, height: int, width: int) -> tuple[Shape | Problem, Box | None]:
    """What a region encloses, and its box where that is all there is."""
    value, kind = result.value, result.type.removesuffix("labels")
    if result.image_rotation:
        message = f"the image was turned by {result.image_rotation}° to annotate it: expected one that was not"
        return problem(ReasonCode.SHAPE_UNSUPPORTED, message), None
    if kind == "":  # labels, which have the shape, too, that they are for
        kind = next((kind for key, kind in _KINDS.items() if key in value), "")
    if kind == "brush" and "rle" in value:
        return _brush(result, height, width), None
    if kind == "polygon" and "points" in value:
        points = field(_points, value["points"])
        ring = points if isinstance(points, Problem) else ring_of(points)
        if isinstance(ring, Problem):
            return ring, None
        return polygon([[share * (height if at % 2 else width) / 100 for at, share in enumerate(ring)]]), None
    if kind == "rectangle":
        return _rectangle(value, height, width)
    if kind == "ellipse":
        one = field(_ellipse, msgspec.json.encode(value))
        if isinstance(one, Problem):
            return one, None
        across, down, angle = width / 100, height / 100, math.radians(one.rotation or 0)
        return polygon([ellipse(one.x * across, one.y * down, one.radius_x * across, one.radius_y * down, angle)]), None
    if kind in ("brush", "polygon"):
        return problem(ReasonCode.FIELD_INVALID, f"the {kind} has {', '.join(value)[:200]}, expected its shape"), None
    return problem(ReasonCode.SHAPE_UNSUPPORTED, f"{result.type} enclose nothing that is read"), None


_KINDS = {"rle": "brush", "points": "polygon", "radiusX": "ellipse", "height": "rectangle"}


def _rectangle(value: dict[str, msgspec.Raw], height: int, width: int) -> tuple[Shape | Problem, Box | None]:
    """A box; or a mask, if it is turned."""
    one = field(_percent, msgspec.json.encode(value))
    if isinstance(one, Problem):
        return one, None
    x0, y0 = one.x * width / 100, one.y * height / 100
    x1, y1 = (one.x + one.width) * width / 100, (one.y + one.height) * height / 100
    ring = rectangle(x0, y0, x1, y1)
    if one.rotation:
        ring = turned(ring, x0, y0, math.radians(one.rotation))
    drawn = polygon([ring])
    return (drawn, None) if one.rotation or isinstance(drawn, Problem) else (None, (y0, x0, y1, x1))


def _brush(result: _Result, height: int, width: int) -> Shape | Problem:
    """A painted mask; RLE_MALFORMED, RLE_SIZE_MISMATCH."""
    numbers = field(_numbers, result.value["rle"])
    if isinstance(numbers, Problem):
        return problem(ReasonCode.RLE_MALFORMED, numbers.message)
    try:
        data = bytes(numbers)
    except ValueError:
        return problem(ReasonCode.RLE_MALFORMED, "the run lengths have a number that is no byte")
    runs = decode_rle(data, height * width)
    if isinstance(runs, Problem):
        return runs
    values, counts = runs
    return run_lengths.from_mask(np.repeat(values > 0, counts).reshape(height, width).view(np.uint8))


def decode_rle(data: bytes, pixels: int) -> tuple[run_lengths.Mask, run_lengths.Runs] | Problem:
    """The alpha of an image of so many pixels: its values, and for how many pixels each; RLE_MALFORMED, RLE_SIZE_MISMATCH.

    Bits, the highest of a byte first: 32 of the count of values, 5 of the bits of a value less 1, 4 times 4 of the bits of a
    length less 1. Then runs: a bit, whether one value follows for all or one for each; 2 bits, which of the four sizes the
    length has; the length less 1; and the value or values. There are four of them for a pixel: red, green, blue, alpha.
    What is read is bounded by the data, and what is given by `pixels`.
    """
    if len(data) < 7:
        return problem(ReasonCode.RLE_MALFORMED, f"the run lengths have {len(data)} bytes, expected at least 7")
    count = int.from_bytes(data[:4], "big")
    head = int.from_bytes(data[4:7], "big")
    sizes = [(head >> shift & 15) + 1 for shift in (15, 11, 7, 3)]
    if head >> 19 != 7:
        return problem(ReasonCode.RLE_MALFORMED, f"the run lengths have values of {(head >> 19) + 1} bits, expected 8")
    if count != 4 * pixels:
        message = f"the run lengths are for {count} values, expected 4 for each of the image's {pixels} pixels"
        return problem(ReasonCode.RLE_SIZE_MISMATCH, message)
    padded, bits, at, done = data + bytes(8), 8 * len(data), 53, 0
    values, lengths = bytearray(), []
    while done < count:
        window = int.from_bytes(padded[at >> 3 : (at >> 3) + 5], "big") >> (8 - at % 8)  # 32 bits, and what is before them
        size = sizes[window >> 29 & 3]
        length = (window >> (29 - size) & ((1 << size) - 1)) + 1
        if window >> 31 & 1:
            values.append(window >> (21 - size) & 255)
            lengths.append(length)
            at += 11 + size
        else:
            at += 3 + size
            each = int.from_bytes(padded[at >> 3 : (at >> 3) + length + 1], "big") >> (8 - at % 8)
            values += (each & ((1 << 8 * length) - 1)).to_bytes(length, "big")
            lengths += [1] * length
            at += 8 * length
        done += length
        if at > bits:
            return problem(ReasonCode.RLE_MALFORMED, f"the run lengths end after {done} of {count} values")
    if done > count:
        return problem(ReasonCode.RLE_MALFORMED, f"the run lengths have {done} values, expected {count}")
    pixels_before = np.cumsum(np.array(lengths, np.int64)) // 4  # so many alphas are among the values before
    return np.frombuffer(values, np.uint8), np.diff(pixels_before, prepend=0)


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    if head(data).startswith(b"[") and has_keys(data, "id", "annotations", "result"):
        return "it is a list with annotations that have a result"
    return None


FORMAT = Format(
    name="label_studio",
    title='Label Studio: a JSON file, exported as "JSON"',
    files=("*.json",),
    parse=parse,
    recognise=recognise,
    cut=cut_tasks,
)
