"""`open_images`: the tables of Open Images V5 to V7, of boxes and of masks, whose rows meet by image; the masks are PNG files.

Source: https://storage.googleapis.com/openimages/web/download.html, "Data Formats". What it leaves open is as in
`src/datumaro/plugins/data_formats/open_images.py` of openvinotoolkit/datumaro.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator
from typing import IO

import msgspec
import numpy as np

from transforms import run_lengths, storage
from transforms.records import (
    Attributes,
    Box,
    InputError,
    Problem,
    ReasonCode,
    Shape,
    pack,
    problem,
)
from transforms.sources.mask_files import image_size, read_ids_in
from transforms.sources.once import once
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, check_pixels

SPLITS = ("train", "validation", "test")
MAX_LINE = 1 << 16  # characters
_BOX, _MASK = ("XMin", "XMax", "YMin", "YMax"), ("BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax")
_MILLION = 1_000_000
"""Of the parts that coordinates are rounded to in the table of masks."""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A row of either table, as text; of one without a mask, `mask_path` is None. `split` is that of the table, or empty."""

    label: str
    box: tuple[str, str, str, str]
    mask_path: str | None = None
    occluded: str = ""
    truncated: str = ""
    group_of: str = ""
    depiction: str = ""
    split: str = ""


_rows = msgspec.msgpack.Decoder(list[bytes])
_row = msgspec.msgpack.Decoder(Row)


def rows(piece: Piece, context: Context) -> Iterator[tuple[str, bytes]]:
    """(image id, packed `Row`) of a table of boxes or of masks; nothing of any other table.

    Read a row at a time. Raises `InputError` for what is no table.
    """
    path = piece.paths[0]
    split = next((one for one in SPLITS if re.search(rf"(^|[-_.]){one}[-_.]", storage.name_of(path))), "")
    with storage.open_read(path) as file:
        table = _table(file, path)
        header = next(table, [])
        box = _MASK if "MaskPath" in header else _BOX
        if not {"ImageID", "LabelName", *box} <= set(header):
            return
        for values in table:
            row = dict(zip(header, values, strict=False))
            if not row:
                continue
            left, right, top, bottom = (row.get(name, "") for name in box)
            found = Row(
                row.get("LabelName", ""),
                (left, right, top, bottom),
                row.get("MaskPath", "") if box is _MASK else None,
                row.get("IsOccluded", ""),
                row.get("IsTruncated", ""),
                row.get("IsGroupOf", ""),
                row.get("IsDepiction", ""),
                split,
            )
            yield row.get("ImageID", ""), pack(found)


def _table(file: IO[bytes], path: str) -> Iterator[list[str]]:
    """The rows of a CSV file. Bytes that are no text become question marks. Raises `InputError`."""
    text = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")

    def lines() -> Iterator[str]:
        while line := text.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise InputError(f"FILE_INVALID: {path}: a line is longer than {MAX_LINE} characters")
            yield line

    csv.field_size_limit(MAX_LINE)  # of all of Python, and another format's parser may have set another
    try:
        yield from csv.reader(lines())
    except csv.Error as error:
        raise InputError(f"FILE_INVALID: {path}: {error}") from None


@once
def class_names(folder: str) -> dict[str, str]:
    """Names by label, from the `*class-descriptions*.csv` in a folder and the folders in it; empty if there is none.

    Raises `InputError`.
    """
    names: dict[str, str] = {}
    for below in ((), ("*",)):
        for found in storage.match(storage.join(storage.quoted(folder), *below, "*class-descriptions*.csv")):
            with storage.open_read(found.path) as file:
                for row in _table(file, found.path):
                    if len(row) > 1:  # the header, which V5 has none of, does no harm
                        names.setdefault(row[0], row[1])
    return names


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The image of some rows. A mask and a box of the same object, as their box and class tell, are one annotation."""
    image_id = piece.paths[0]
    found = [_row.decode(raw) for raw in _rows.decode(piece.data)]
    split = next((row.split for row in found if row.split), "")
    file_name, size = _image(image_id, split, context)
    height, width = (0, 0) if isinstance(size, Problem) else size
    fits = not check_pixels(height, width, context.max_pixels)
    names = class_names(context.annotations)
    draft = Draft(file_name)
    boxes, masks = [row for row in found if row.mask_path is None], [row for row in found if row.mask_path is not None]
    partners = _partners(boxes, masks)
    with_mask = set(partners.values())
    for at, row in enumerate(masks):
        shape = _mask(row, height, width, context) if fits else None
        _add(draft, row, shape, boxes[partners[at]] if at in partners else row, names, height, width)
    for at, row in enumerate(boxes):
        if at not in with_mask:
            _add(draft, row, None, row, names, height, width)
    yield draft.fail(size) if isinstance(size, Problem) else draft.done(height, width, context.max_pixels)


def _image(image_id: str, split: str, context: Context) -> tuple[str, tuple[int, int] | Problem]:
    """The file name of an image, which may lie in a folder that is called like its split; and its height and width."""
    name = f"{image_id}.jpg"
    first = image_size(context.images, name)
    if isinstance(first, Problem) and first.code == ReasonCode.IMAGE_MISSING.name:
        for folder in sorted(SPLITS, key=lambda one: one != split):
            size = image_size(context.images, f"{folder}/{name}")
            if not isinstance(size, Problem) or size.code != ReasonCode.IMAGE_MISSING.name:
                return f"{folder}/{name}", size
    return name, first


def _partners(boxes: list[Row], masks: list[Row]) -> dict[int, int]:
    """For each mask that has one, its box: by their places. They are of one class, and lie within a millionth of each other."""
    places: dict[tuple[str, ...], list[int]] = {}
    for at, row in enumerate(boxes):
        if key := _millionths(row):
            places.setdefault((row.label, *map(str, key)), []).append(at)
    found: dict[int, int] = {}
    for at, row in enumerate(masks):
        key = _millionths(row)
        for steps in itertools.product((0, -1, 1), repeat=4) if key and places else ():
            near = places.get((row.label, *(str(number + step) for number, step in zip(key or (), steps, strict=True))))
            if near:
                found[at] = near.pop(0)
                break
    return found


def _millionths(row: Row) -> list[int] | None:
    numbers = _numbers(row)
    return None if isinstance(numbers, Problem) else [round(number * _MILLION) for number in numbers]


def _numbers(row: Row) -> list[float] | Problem:
    """The coordinates of a row's box, in parts of the image; FIELD_INVALID, COORD_INVALID."""
    try:
        numbers = [float(text) for text in row.box]
    except ValueError:
        return problem(ReasonCode.FIELD_INVALID, f"the box's XMin, XMax, YMin, YMax are {', '.join(row.box)}: expected numbers")
    if not all(abs(number) <= 1e6 for number in numbers):  # NaN too
        message = f"the box's XMin, XMax, YMin, YMax are {', '.join(row.box)}: expected parts of the image"
        return problem(ReasonCode.COORD_INVALID, message)
    return numbers


def _add(draft: Draft, row: Row, shape: Shape | Problem, box_row: Row, names: dict[str, str], height: int, width: int) -> None:
    """An annotation, with the mask of one row, or none, and the box and attributes of the other."""
    attributes = _attributes(box_row)
    box = None if row.mask_path is not None and not any(box_row.box) else _box(box_row, height, width)
    if names and row.label not in names:
        message = f"the label {row.label!r} is not in the class descriptions"
        draft.reject(problem(ReasonCode.CATEGORY_UNKNOWN, message))
    elif isinstance(attributes, Problem):
        draft.reject(attributes)
    elif isinstance(box, Problem):
        draft.reject(box)
    else:
        draft.add(names.get(row.label, row.label), shape, box=box, attributes=attributes)


def _box(row: Row, height: int, width: int) -> Box | Problem:
    numbers = _numbers(row)
    if isinstance(numbers, Problem):
        return numbers
    left, right, top, bottom = numbers
    return (top * height, left * width, bottom * height, right * width)


def _attributes(row: Row) -> Attributes | Problem | None:
    """What a table of boxes says of an object: 1 is yes, 0 no, -1 not known. Tables of masks say nothing."""
    values = (row.occluded, row.truncated, row.group_of, row.depiction)
    for value in values:
        if value not in ("0", "1", "-1", ""):
            return problem(ReasonCode.FIELD_INVALID, f"an attribute of the box is {value!r}, expected 0, 1 or -1")
    occluded, truncated, group_of, depiction = (value == "1" for value in values)
    attributes = Attributes(truncated=truncated, occluded=occluded, group_of=group_of, depiction=depiction)
    return attributes if attributes != Attributes() else None


def _mask(row: Row, height: int, width: int, context: Context) -> Shape | Problem:
    """An object's mask, at the image's size: most were drawn on a larger one."""
    name = row.mask_path or ""
    if name in ("", ".", "..") or "/" in name:
        return problem(ReasonCode.FIELD_INVALID, f"MaskPath is {name!r}, expected the name of a file")
    for folder, below in itertools.product(_mask_folders(context), _parts_of_masks(name, row.split)):
        ids = read_ids_in(folder, f"{below}/{name}", context.max_pixels)
        if not isinstance(ids, Problem):
            mask = (ids != 0).astype(np.uint8)
            at_size = mask if mask.shape == (height, width) else run_lengths.nearest(mask, height, width)
            return run_lengths.from_mask(at_size)
        if ids.code != ReasonCode.MASK_MISSING.name:
            return ids
    tried = " or ".join(_mask_folders(context))
    return problem(ReasonCode.MASK_MISSING, f"there is no mask file {name} in {tried}, nor in the folders in it")


def _mask_folders(context: Context) -> list[str]:
    """Where masks may lie: in the folder that is given, or in one of that name in that of the tables, or beside it."""
    if context.masks:
        return [context.masks]
    above = storage.folder_of(context.annotations.rstrip("/"))
    return [storage.join(context.annotations, "masks"), storage.join(above, "masks")]


def _parts_of_masks(name: str, split: str) -> list[str]:
    """The folders in there: none, or called like the parts that the data set comes in."""
    return [".", *((split, f"{split}-masks-{name[0]}") if split else ()), name[0].upper()]


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    header = set(data.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].strip().decode("utf-8", "replace").split(","))
    if {"ImageID", "LabelName"} <= header and (set(_BOX) <= header or {"MaskPath", *_MASK} <= header):
        return "it is a table with ImageID, LabelName and boxes"
    return None


FORMAT = Format(
    name="open_images",
    title="Open Images V5 to V7: tables of boxes and masks",
    files=("*-bbox.csv", "*segmentation*.csv", "detections.csv"),  # the last as FiftyOne calls it
    parse=parse,
    recognise=recognise,
    rows=rows,
)
