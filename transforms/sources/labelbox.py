"""`labelbox`: Labelbox's export, a JSON object a line for each data row. Masks are addresses there, and files here.

Source: https://docs.labelbox.com/reference/export-image-annotations, and `examples/exports/composite_mask_export.ipynb` in
Labelbox/labelbox-python, which has the forms of the addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from urllib.parse import unquote, urlsplit

import msgspec

from transforms import run_lengths
from transforms.records import InputError, Problem, ReasonCode, RunLengths, Shape, problem
from transforms.sources.geometry import polygon
from transforms.sources.lines import cut_lines, lines_of
from transforms.sources.mask_files import Ids, What, check_size, empty, image_size, read_ids_in
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, check_pixels, decode, field, has_keys, head


class _DataRow(msgspec.Struct):
    external_id: str | None = None
    row_data: str | None = None


class _Media(msgspec.Struct, frozen=True):
    height: int | None = None
    width: int | None = None


class _Annotations(msgspec.Struct):
    objects: list[msgspec.Raw] = []
    frames: msgspec.Raw = msgspec.Raw(b"null")


class _Performance(msgspec.Struct, frozen=True):
    skipped: bool = False


class _Label(msgspec.Struct):
    annotations: _Annotations
    performance_details: _Performance = _Performance()


class _Project(msgspec.Struct):
    labels: list[_Label] = []


class _Line(msgspec.Struct):
    data_row: _DataRow
    media_attributes: _Media = _Media()
    projects: dict[str, _Project] = {}


class _Box(msgspec.Struct):
    top: float
    left: float
    height: float
    width: float


class _Point(msgspec.Struct):
    x: float
    y: float


class _Mask(msgspec.Struct):
    url: str


class _CompositeMask(msgspec.Struct):
    url: str
    color_rgb: list[int]

    def colour(self) -> int | Problem:
        """R + 256·G + 65536·B; FIELD_INVALID."""
        if len(self.color_rgb) != 3 or not all(0 <= number < 256 for number in self.color_rgb):
            return problem(ReasonCode.FIELD_INVALID, f"color_rgb is {self.color_rgb}, expected three numbers from 0 to 255")
        red, green, blue = self.color_rgb
        return red + 256 * green + 65536 * blue


class _Object(msgspec.Struct):
    """One of the four is there, or it is of a kind that is not read."""

    name: str
    feature_id: str = ""
    annotation_kind: str = ""
    bounding_box: _Box | None = None
    polygon: list[_Point] | None = None
    mask: _Mask | None = None
    composite_mask: _CompositeMask | None = None


_line = msgspec.json.Decoder(_Line)
_object = msgspec.json.Decoder(_Object)
_data_row = msgspec.json.Decoder(_DataRow)
_keys = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The images of a block of lines. Raises `InputError` for a line that is no data row."""
    for text in lines_of(piece.data):
        line = decode(_line, text)
        if isinstance(line, Problem):
            yield Draft(_name_in(text, piece.paths[0])).fail(line)
        else:
            yield _image(line, context)


def _name_in(text: bytes, path: str) -> str:
    """The file name in a line that could not be read as a whole. Raises `InputError` where it is of no such export."""
    try:
        row = _keys.decode(text).get("data_row")
        if row is not None:
            found = decode(_data_row, bytes(row))
            return "" if isinstance(found, Problem) else name_of(found)
        wrong = "it has no data_row"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        wrong = str(error)
    advice = "export the project as NDJSON, which has a data row a line"
    raise InputError(f"JSON_INVALID: {path}: the line that begins with {text[:60]!r}: {wrong}; {advice}")


def name_of(row: _DataRow) -> str:
    """The image's file name: `external_id`; of an address, there or in `row_data`, the last part."""
    name = row.external_id or row.row_data or ""
    if "://" in name:
        return _parts(name)[-1]
    return name.rpartition("/")[2] if name.startswith("/") else name


def _parts(url: str) -> list[str]:
    """The parts of an address's path, of which there is one at least; none of what follows ? or #."""
    try:
        return [unquote(part) for part in urlsplit(url).path.split("/")]
    except ValueError:
        return [""]


def _image(line: _Line, context: Context) -> SourceImage:
    draft = Draft(name_of(line.data_row))
    labels = [one for project in line.projects.values() for one in project.labels if not one.performance_details.skipped]
    if not labels:
        return draft.fail(problem(ReasonCode.FILE_INVALID, "the data row has no label, or was skipped"))
    annotations = labels[0].annotations
    if bytes(annotations.frames) != b"null":
        return draft.fail(problem(ReasonCode.FILE_INVALID, "the data row is a video, of which nothing is read"))
    media = line.media_attributes
    size = (media.height, media.width) if media.height and media.width else image_size(context.images, draft.file_name)
    height, width = (0, 0) if isinstance(size, Problem) else size
    objects = list(map(partial(field, _object), annotations.objects))
    too_large = check_pixels(height, width, context.max_pixels)
    masks = None if too_large else _Masks(objects, height, width, context)
    for one in objects:
        _add(draft, one, masks)
    return draft.fail(size) if isinstance(size, Problem) else draft.done(height, width, context.max_pixels)


def _add(draft: Draft, one: _Object | Problem, masks: _Masks | None) -> None:
    if isinstance(one, Problem):
        draft.reject(one)
    elif box := one.bounding_box:
        draft.add(one.name, None, box=(box.top, box.left, box.top + box.height, box.left + box.width))
    elif one.polygon is not None:
        draft.add(one.name, polygon([[number for point in one.polygon for number in (point.x, point.y)]]))
    elif one.mask or one.composite_mask:
        draft.add(one.name, masks.of(one) if masks else None)
    else:
        draft.reject(problem(ReasonCode.SHAPE_UNSUPPORTED, f"objects of the kind {one.annotation_kind!r} are not read"))


class _Masks:
    """The masks of an image's objects, from files; a composite mask, which several share, is read once."""

    def __init__(self, objects: list[_Object | Problem], height: int, width: int, context: Context) -> None:
        self.height, self.width, self.context = height, width, context
        self._wanted: dict[str, list[int]] = {}  # colours, by the address of the composite mask
        self._composites: dict[str, dict[int, RunLengths] | Problem] = {}
        for one in objects:
            if isinstance(one, _Object) and one.composite_mask:
                colour = one.composite_mask.colour()
                self._wanted.setdefault(one.composite_mask.url, []).extend([] if isinstance(colour, Problem) else [colour])

    def of(self, one: _Object) -> Shape | Problem:
        """An object's mask; MASK_MISSING, MASK_INVALID, PIXEL_LIMIT, EMPTY_MASK, FIELD_INVALID."""
        if one.composite_mask:
            return self._of_composite(one.composite_mask)
        parts = _parts(one.mask.url if one.mask else "")
        ids = self._read([f"{one.feature_id}.png", parts[-1]])
        return ids if isinstance(ids, Problem) else run_lengths.from_mask(ids)

    def _of_composite(self, mask: _CompositeMask) -> Shape | Problem:
        colour = mask.colour()
        if isinstance(colour, Problem):
            return colour
        if mask.url not in self._composites:
            self._composites[mask.url] = self._colours(mask.url)
        found = self._composites[mask.url]
        return found if isinstance(found, Problem) else found.get(colour, empty())

    def _colours(self, url: str) -> dict[int, RunLengths] | Problem:
        """The mask of each colour that is wanted of a composite mask, but for black."""
        parts = _parts(url)
        after = parts.index("masks") + 1 if "masks" in parts[:-1] else -1
        ids = self._read([f"{parts[after]}.png", parts[-1]], "colours")
        if isinstance(ids, Problem):
            return ids
        return run_lengths.value_runs(ids).only(self._wanted[url]).masks()

    def _read(self, names: list[str], what: What = "values") -> Ids | Problem:
        """The first of some files that is there, of the image's size."""
        names = [name for name in names if "." in name[1:] and "/" not in name]
        if not names:
            return problem(ReasonCode.FIELD_INVALID, "the mask has no feature_id, nor an address that ends in a file name")
        folder = self.context.masks
        if not folder:
            message = f"the mask is an address that takes an API key: save it as {names[0]}, and name its folder as --masks"
            return problem(ReasonCode.MASK_MISSING, message)
        for name in names:
            ids = read_ids_in(folder, name, self.context.max_pixels, what)
            if not isinstance(ids, Problem):
                return check_size(ids, self.height, self.width, name) or ids
            if ids.code != ReasonCode.MASK_MISSING.name:
                return ids
        return problem(ReasonCode.MASK_MISSING, f"there is no mask file {' or '.join(names)} in {folder}")


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    first = head(data).split(b"\n")[0]
    return "a line has a data_row" if has_keys(first, "data_row") and (b'"row_data"' in first or b'"projects"' in first) else None


FORMAT = Format(
    name="labelbox",
    title="Labelbox: NDJSON",
    files=("*.ndjson",),
    parse=parse,
    recognise=recognise,
    cut=cut_lines,
)
