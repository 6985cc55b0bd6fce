"""`sagemaker`: what a labelling job of SageMaker Ground Truth writes, a JSON object a line: boxes, or painted classes.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html, "Bounding box job output" and "Semantic
segmentation job output".
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from transforms import run_lengths, storage
from transforms.records import InputError, Problem, ReasonCode, problem
from transforms.sources.lines import cut_lines, lines_of
from transforms.sources.mask_files import Ids, check_size, image_size, read_ids_in
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, decode, field, has_keys, head

BACKGROUND = "background"
"""The class, in lower case, of what belongs to no object."""
_BLACK, _WHITE = 0, 0xFFFFFF
_METADATA = "-metadata"
_BOXES, _MASKS = "groundtruth/object-detection", "groundtruth/semantic-segmentation"

Line = dict[str, msgspec.Raw]


class _Type(msgspec.Struct):
    type: str = ""
    failure_reason: str = msgspec.field(name="failure-reason", default="")


class _Size(msgspec.Struct):
    height: int
    width: int


class _Boxes(msgspec.Struct):
    annotations: list[msgspec.Raw]
    image_size: list[_Size]


class _Box(msgspec.Struct):
    class_id: int
    left: float
    top: float
    width: float
    height: float


class _Classes(msgspec.Struct):
    names: dict[str, str] = msgspec.field(name="class-map")


class _Colour(msgspec.Struct):
    name: str = msgspec.field(name="class-name")
    colour: str = msgspec.field(name="hex-color")


class _Colours(msgspec.Struct):
    colours: dict[str, _Colour] = msgspec.field(name="internal-color-map")


_line = msgspec.json.Decoder(Line)
_text = msgspec.json.Decoder(str)
_type = msgspec.json.Decoder(_Type)
_boxes = msgspec.json.Decoder(_Boxes)
_box = msgspec.json.Decoder(_Box)
_classes = msgspec.json.Decoder(_Classes)
_colours = msgspec.json.Decoder(_Colours)


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The images of a block of lines. Raises `InputError` for a line that is no JSON object."""
    for text in lines_of(piece.data):
        try:
            line = _line.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"JSON_INVALID: {piece.paths[0]}: the line that begins with {text[:60]!r}: {error}") from None
        yield _image(line, context)


def _image(line: Line, context: Context) -> SourceImage:
    source = decode(_text, bytes(line.get("source-ref", b"null")))
    if isinstance(source, Problem):
        return Draft("").fail(Problem(source.code, f"source-ref: {source.message}"))
    draft = Draft(below(context.images.root, source))
    label = label_of(line, context.class_attribute)
    if isinstance(label, Problem):
        return draft.fail(label)
    name, kind = label
    of_kind = _with_boxes if kind == _BOXES else _with_masks
    return of_kind(draft, bytes(line[name]), bytes(line[name + _METADATA]), context)


def below(folder: str, path: str) -> str:
    """An address relative to a folder that it lies in; of any other, the last part."""
    inside = storage.join(folder, "")
    return path.removeprefix(inside) if path.startswith(inside) else path.rpartition("/")[2]


def label_of(line: Line, wanted: str | None) -> tuple[str, str] | Problem:
    """The name of the attribute with the labels, and their kind; FILE_INVALID.

    It is the one that is `wanted`, or else the only one of boxes or masks. What has no type goes by its form.
    """
    kinds: dict[str, str] = {}
    failed = ""
    for key in sorted(line):
        name = key.removesuffix(_METADATA)
        if name == key or wanted not in (None, name):
            continue
        metadata = decode(_type, bytes(line[key]))
        if isinstance(metadata, Problem):
            return metadata
        failed = failed or metadata.failure_reason
        if name in line:
            kind = metadata.type or (_MASKS if name.endswith("-ref") else _BOXES)
            if kind in (_BOXES, _MASKS):
                kinds[name] = kind
    if len(kinds) == 1:
        return kinds.popitem()
    if kinds:
        message = f"there are labels of several jobs: {', '.join(kinds)}: name one as --class_attribute"
    elif failed:
        message = f"the labelling job has failed for this image: {failed}"
    else:
        found = ", ".join(sorted(line))
        message = f"the line has no {wanted or 'label'} with boxes or masks, and its metadata, but: {found}"
    return problem(ReasonCode.FILE_INVALID, message)


def _with_boxes(draft: Draft, label: bytes, metadata: bytes, context: Context) -> SourceImage:
    boxes = decode(_boxes, label)
    if isinstance(boxes, Problem):
        return draft.fail(boxes)
    classes = decode(_classes, metadata)
    if isinstance(classes, Problem):
        return draft.fail(classes, len(boxes.annotations))
    if len(boxes.image_size) != 1:
        wrong = problem(ReasonCode.FILE_INVALID, f"image_size has {len(boxes.image_size)} entries, expected one")
        return draft.fail(wrong, len(boxes.annotations))
    for raw in boxes.annotations:
        box = field(_box, raw)
        if isinstance(box, Problem):
            draft.reject(box)
        elif str(box.class_id) not in classes.names:
            draft.reject(problem(ReasonCode.CATEGORY_UNKNOWN, f"class_id {box.class_id} is not in class-map"))
        else:
            corners = (box.top, box.left, box.top + box.height, box.left + box.width)
            draft.add(classes.names[str(box.class_id)], None, box=corners)
    return draft.done(boxes.image_size[0].height, boxes.image_size[0].width, context.max_pixels)


def _with_masks(draft: Draft, label: bytes, metadata: bytes, context: Context) -> SourceImage:
    """An object for each class that the mask has a pixel of."""
    address = decode(_text, label)
    if isinstance(address, Problem):
        return draft.fail(address)
    colours = decode(_colours, metadata)
    if isinstance(colours, Problem):
        return draft.fail(colours)
    names = names_by_value(colours)
    if isinstance(names, Problem):
        return draft.fail(names)
    size = image_size(context.images, draft.file_name)
    if isinstance(size, Problem):
        return draft.fail(size)
    ids = _mask(address, size, context)
    if isinstance(ids, Problem):
        return draft.fail(ids)
    known = np.isin(ids, list(names))
    painted = run_lengths.value_runs(np.where(known, ids + 1, 0)).masks()  # one more, so that black is a colour
    for value, category in names.items():
        shape = painted.get(value + 1)
        if shape and category.lower() != BACKGROUND:
            draft.add(category, shape)
    unknown = ids[~known & (ids != _BLACK) & (ids != _WHITE)]
    if unknown.size:
        message = f"{unknown.size} pixels of the mask have colours that internal-color-map has not, as {_hex(int(unknown[0]))}"
        draft.reject(problem(ReasonCode.CATEGORY_UNKNOWN, message))
    return draft.done(*size, context.max_pixels)


def _mask(address: str, size: tuple[int, int], context: Context) -> Ids | Problem:
    """The colours of the mask with an address in S3, of which there is a copy; the address itself is never opened."""
    folder = context.masks or context.annotations
    name = below(folder, address)
    if not name:
        return problem(ReasonCode.FILE_INVALID, f"the address of the mask is {address!r}, expected s3://…/….png")
    ids = read_ids_in(folder, name, context.max_pixels, "colours")
    return ids if isinstance(ids, Problem) else check_size(ids, *size, name) or ids


def names_by_value(colours: _Colours) -> dict[int, str] | Problem:
    """Class names by R + 256·G + 65536·B; FILE_INVALID for what is no #rrggbb, or two classes of one colour."""
    names: dict[int, str] = {}
    for one in colours.colours.values():
        try:
            red, green, blue = bytes.fromhex(one.colour.removeprefix("#"))
        except ValueError:
            return problem(ReasonCode.FILE_INVALID, f"hex-color is {one.colour!r}, expected #rrggbb")
        if names.setdefault(red + 256 * green + 65536 * blue, one.name) != one.name:
            return problem(ReasonCode.FILE_INVALID, f"two classes of internal-color-map have the colour {one.colour}")
    return names


def _hex(value: int) -> str:
    return f"#{value & 255:02x}{value >> 8 & 255:02x}{value >> 16:02x}"


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    first = head(data).split(b"\n")[0]
    if has_keys(first, "source-ref") and f'{_METADATA}"'.encode() in first:
        return "a line has source-ref and labels with metadata"
    return None


FORMAT = Format(
    name="sagemaker",
    title="SageMaker Ground Truth: the manifest of a labelling job",
    files=("*.manifest",),
    parse=parse,
    recognise=recognise,
    cut=cut_lines,
)
