"""`yolo`: a text file an image, a line an object, as Ultralytics trains segmentation on; the classes are in `data.yaml`.

Source: `docs/en/datasets/segment/index.md` in the Ultralytics repository; `verify_image_label` and `img2label_paths` in
`ultralytics/data/utils.py`.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import PurePosixPath

from transforms import storage
from transforms.records import Category, InputError, Problem, ReasonCode, problem
from transforms.sources import yaml_files
from transforms.sources.geometry import polygon
from transforms.sources.image_names import EXTENSIONS, names_in
from transforms.sources.lines import lines_of
from transforms.sources.mask_files import image_size
from transforms.sources.once import once
from transforms.sources.source import Context, Draft, Format, Piece, SourceImage, escaped

MAX_YAML_BYTES = 1 << 20
LABELS, IMAGES = "labels", "images"
_NO_LABELS = ("classes.txt", "labels.txt")
_NO_LABELS_OUTSIDE = (*_NO_LABELS, "train.txt", "val.txt", "valid.txt", "test.txt", "notes.txt", "readme*", "autosplit_*")
"""Names of files that lie about in data sets, outside of folders called `labels`."""


def parse(piece: Piece, context: Context) -> Iterator[SourceImage]:
    """The image of a file. Raises `InputError` where there is no list of the classes."""
    path = piece.paths[0]
    if not _is_labels(path):
        return
    names = classes(context.annotations)
    data = piece.read().removeprefix(b"\xef\xbb\xbf")
    file_name = _image_of(context.relative(path), context.images.root)
    draft = Draft(context.relative(path) if isinstance(file_name, Problem) else file_name)
    size = file_name if isinstance(file_name, Problem) else image_size(context.images, file_name)
    if isinstance(size, Problem):
        yield draft.fail(size, len(lines_of(data)))
        return
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        yield draft.fail(problem(ReasonCode.TEXT_INVALID, f"the text is not UTF-8 ({error.reason})"), len(lines_of(data)))
        return
    for line in text.split("\n"):
        if line.strip():
            _add(draft, line.split(), names, *size)
    yield draft.done(*size, context.max_pixels)


def _is_labels(path: str) -> bool:
    """Whether a text file is an image's labels, and no list of classes or images."""
    name = storage.name_of(path).lower()
    others = _NO_LABELS if LABELS in path.split("/")[:-1] else _NO_LABELS_OUTSIDE
    return not any(fnmatch.fnmatchcase(name, other) for other in others)


def _image_of(labels: str, root: str) -> str | Problem:
    """The image of a file of labels, both relative to their folders; IMAGE_MISSING.

    It mirrors the labels' path, where their last folder `labels` becomes `images`, or what is below it is taken, or the path
    is as it is. Of several extensions, the first in the order of the alphabet is taken.
    """
    path = PurePosixPath(labels)
    stem, parts = path.stem, path.parts[:-1]
    folders = ["/".join(parts)]
    if LABELS in parts:
        last = len(parts) - 1 - parts[::-1].index(LABELS)
        folders = ["/".join((*parts[:last], IMAGES, *parts[last + 1 :])), "/".join(parts[last + 1 :]), *folders]
    for folder in folders:
        names = _images_in(storage.join(root, folder) if folder else root)
        if stem in names:
            return f"{folder}/{names[stem]}" if folder else names[stem]
    tried = " or ".join(repr(f"{folder}/{stem}".removeprefix("/")) for folder in folders)
    return problem(ReasonCode.IMAGE_MISSING, f"there is no file {tried}, with .jpg, .png or the like, in the image folder")


@once
def _images_in(folder: str) -> Mapping[str, str]:
    """Images directly in a folder by their names without extensions."""
    names = map(PurePosixPath, sorted(names_in(folder), reverse=True))
    return {name.stem: name.name for name in names if name.suffix.lower() in EXTENSIONS}


def _add(draft: Draft, words: list[str], names: Mapping[int, str], height: int, width: int) -> None:
    """One line: the class, and the corners of the polygon as shares of width and height, or a box."""
    try:
        index = int(words[0])
    except ValueError:
        draft.reject(problem(ReasonCode.FIELD_INVALID, f"a line begins with {words[0][:60]!r}, expected the number of a class"))
        return
    if index not in names:
        message = f"there is no class {index}, the list has {len(names)}, numbered from {min(names, default=0)}"
        draft.reject(problem(ReasonCode.CATEGORY_UNKNOWN, message))
        return
    try:
        shares = list(map(float, words[1:]))
    except ValueError as error:
        draft.reject(problem(ReasonCode.COORD_INVALID, f"the line has a coordinate that is no number: {error}"))
        return
    for share in shares:
        if not -1 <= share <= 2:  # what is a little over the edge is cut off there
            message = f"a coordinate is {share}, expected a share of the image's size from 0 to 1"
            draft.reject(problem(ReasonCode.COORD_INVALID, message))
            return
    if len(shares) == 4:
        x, y, across, down = shares
        box = ((y - down / 2) * height, (x - across / 2) * width, (y + down / 2) * height, (x + across / 2) * width)
        draft.add(names[index], None, box=box)
    elif len(shares) < 6 or len(shares) % 2:
        message = f"a line has {len(shares)} numbers after the class, expected 4 of a box or at least 3 points x y"
        draft.reject(problem(ReasonCode.POLY_MALFORMED, message))
    else:
        draft.add(names[index], polygon([[share * (height if at % 2 else width) for at, share in enumerate(shares)]]))


@once
def classes(annotations: str) -> Mapping[int, str]:
    """The names of the classes by their numbers, from the folder of the annotations or up to two above it.

    In each, of `data.yaml`, else the one YAML file that has `names`, else `classes.txt`, a name a line. Raises `InputError`.
    """
    folder = os.path.abspath(annotations) if storage.is_local(annotations) else annotations
    for _ in range(3):
        files = {storage.name_of(file.path): file.path for file in storage.list_folder(folder)}
        if "data.yaml" in files and (names := _read_names(files["data.yaml"])) is not None:
            return _checked(files["data.yaml"], names)
        found = list(_other_names(path for name, path in sorted(files.items()) if name != "data.yaml"))
        if len(found) > 1:
            raise InputError(f"several files have names of classes: {', '.join(path for path, _ in found)}: call one data.yaml")
        if found:
            return _checked(*found[0])
        if "classes.txt" in files:
            return _checked(files["classes.txt"], _read_lines(files["classes.txt"]))
        above = storage.folder_of(folder.rstrip("/"))
        if not above or above == folder:
            break
        folder = above
    raise InputError(f"there is no data.yaml with the names of the classes in {annotations}, nor up to two folders above it")


def _other_names(paths: Iterable[str]) -> Iterator[tuple[str, object]]:
    """YAML files that have `names`; one that can't be read is some other program's."""
    for path in paths:
        if path.endswith((".yaml", ".yml")):
            with suppress(InputError):
                if (names := _read_names(path)) is not None:
                    yield path, names


def _read(path: str) -> bytes:
    with storage.open_read(path) as file:
        data = file.read(MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:
        raise InputError(f"FILE_INVALID: {path}: it is larger than {MAX_YAML_BYTES} bytes: no list of classes is")
    return data


def _read_lines(path: str) -> list[str]:
    """The lines of a list of names, but for empty ones."""
    try:
        lines = _read(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"FILE_INVALID: {path}: the text is not UTF-8 ({error.reason})") from None
    return [line.strip() for line in lines if line.strip()]


def _read_names(path: str) -> object | None:
    """`names` of a YAML file, or None where it has none."""
    try:
        content = yaml_files.load(_read(path))
    except ValueError as error:
        raise InputError(f"FILE_INVALID: {path}: {error}") from None
    return content.get("names") if isinstance(content, dict) else None


def _checked(path: str, names: object) -> Mapping[int, str]:
    """`names` as a mapping, whether it is a list or one itself. Raises `InputError`."""
    pairs = list(names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ())
    found: dict[int, str] = {}
    for number, name in pairs:
        if not isinstance(name, str | int | float) or not str(number).isdecimal():
            raise InputError(f"FILE_INVALID: {path}: names has {number!r}: {name!r}"[:300] + ", expected a number and a name")
        found[int(number)] = text = str(name)
        if escaped(text) != text:
            raise InputError(f"FILE_INVALID: {path}: the name of class {number} is not valid Unicode: {name!r}"[:300])
    if not found or not all(map(str.strip, found.values())):
        raise InputError(f"FILE_INVALID: {path}: expected names, a list of the classes' names, none of them empty")
    if len(set(found.values())) < len(pairs):
        twice = sorted(name for name in set(found.values()) if list(found.values()).count(name) > 1)
        raise InputError(f"FILE_INVALID: {path}: two classes have the same name or number: {', '.join(twice)[:200]}")
    return dict(sorted(found.items()))


def categories(context: Context) -> list[Category]:
    """The classes, numbered from 1. Raises `InputError`."""
    return [Category(index + 1, name) for index, name in classes(context.annotations).items()]


def recognise(path: str, data: bytes) -> str | None:
    """Whether a file is of this format."""
    words = data.split(b"\n")[0].split()
    if not path.lower().endswith(".txt") or len(words) < 5 or not words[0].isdigit():
        return None
    try:
        shares = list(map(float, words[1 : None if b"\n" in data else -1]))  # the last may be cut off
    except ValueError:
        return None
    return "its lines have a class and numbers from 0 to 1" if all(0 <= share <= 1 for share in shares) else None


FORMAT = Format(
    name="yolo",
    title="YOLO segmentation: a text file an image, and data.yaml",
    files=("*.txt",),
    parse=parse,
    recognise=recognise,
    categories=categories,
)
