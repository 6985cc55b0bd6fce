"""What a format is made of: `Format`, whose `parse` turns a piece of the input into `SourceImage`s by means of a `Draft`.

Most tools know images by their file names and classes by their names. A `SourceImage` is an image as such a tool has it:
without ids, which `numbering` gives out once all images and names are known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

import msgspec

from transforms import storage
from transforms.images import ImageFolder
from transforms.records import (
    AREA_MAX,
    AnnotatedImage,
    Attributes,
    Box,
    Category,
    ImageExtras,
    Instance,
    Problem,
    ReasonCode,
    Shape,
    problem,
)

Typed = TypeVar("Typed")
HEAD_BYTES = 4096
"""Of a file that is to be recognised."""


class SourceImage(msgspec.Struct, frozen=True, array_like=True):
    """An image before ids are given out: its `image_id` is 0, and each instance's `category_id` is a place in `names`.

    Annotations are numbered from 1 in the order of the file; those in `rejects` are not among the instances. With a
    `problem`, the image can't be used, and takes all of them with it.
    """

    image: AnnotatedImage
    names: tuple[str, ...]
    rejects: tuple[tuple[int, Problem], ...] = ()
    problem: Problem | None = None

    @property
    def annotations(self) -> int:
        """How many annotations the image has, rejected ones too."""
        return len(self.image.instances) + len(self.rejects)


class Draft:
    """An image whose annotations are added one after the other, in the order of the file.

    Names may hold half of a surrogate pair, as those of files that are not UTF-8 do: no record could. TEXT_INVALID, then, for
    the image or annotation, and what can't be written is escaped.
    """

    def __init__(self, file_name: str) -> None:
        self.file_name = escaped(file_name)
        self._wrong = _not_unicode("file name", file_name)
        self._instances: list[Instance] = []
        self._names: dict[str, int] = {}
        self._rejects: list[tuple[int, Problem]] = []

    def add(
        self,
        category: str,
        shape: Shape | Problem,
        *,
        box: Box | None = None,
        area: float | None = None,
        is_crowd: bool = False,
        layer: int = 0,
        attributes: Attributes | None = None,
    ) -> None:
        """The next annotation; where its `shape` is a `Problem`, or it has no category, it is a reject.

        `box` is half-open, in pixels, (ymin, xmin, ymax, xmax); None takes the mask's. `area`, in pixels², likewise, as does
        one that no record holds.
        """
        if isinstance(shape, Problem):
            self.reject(shape)
        elif not category:
            self.reject(problem(ReasonCode.FIELD_INVALID, "the annotation has no category"))
        elif category not in self._names and (wrong := _not_unicode("category", category)):
            self.reject(wrong)
        else:
            if area is not None and not 0 <= area <= AREA_MAX:
                area = None
            place = self._names.setdefault(category, len(self._names))
            self._instances.append(Instance(self._next(), place, box, area, is_crowd, shape, (), layer, attributes))

    def reject(self, why: Problem) -> None:
        """The next annotation can't be used."""
        self._rejects.append((self._next(), Problem(why.code, escaped(why.message))))

    def _next(self) -> int:
        return len(self._instances) + len(self._rejects) + 1

    def fail(self, why: Problem, annotations: int = 0) -> SourceImage:
        """The image can't be used, nor what was added to it, nor so many `annotations` more."""
        for _ in range(annotations):
            self.reject(why)
        why = self._wrong or why
        return self._done(0, 0, None, Problem(why.code, escaped(why.message)))

    def done(self, height: int, width: int, max_pixels: int, extras: ImageExtras | None = None) -> SourceImage:
        """The image, of height × width pixels as annotated; DIM_LIMIT where that is none, or are over `max_pixels`."""
        wrong = self._wrong or check_pixels(height, width, max_pixels)
        if extras and not wrong:
            wrong = _not_unicode("path of the annotations", extras.embedded)
        return self.fail(wrong) if wrong else self._done(height, width, extras, None)

    def _done(self, height: int, width: int, extras: ImageExtras | None, why: Problem | None) -> SourceImage:
        image = AnnotatedImage(0, self.file_name, height, width, tuple(self._instances), extras)
        return SourceImage(image, tuple(self._names), tuple(self._rejects), why)


def escaped(text: str) -> str:
    """Text as it can be written: of half a surrogate pair, its number, as in Python's literals."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _not_unicode(what: str, text: str) -> Problem | None:
    known = escaped(text)
    return None if known == text else problem(ReasonCode.TEXT_INVALID, f"the {what} is not valid Unicode: {known[:200]}")


def check_pixels(height: int, width: int, max_pixels: int) -> Problem | None:
    """DIM_LIMIT unless an image has 1 to `max_pixels` pixels; to be asked before anything of its size is made."""
    if height >= 1 and width >= 1 and height * width <= max_pixels:
        return None
    message = f"the image is {height} × {width} (height × width), at most {max_pixels} pixels are read"
    return problem(ReasonCode.DIM_LIMIT, message)


class Piece(NamedTuple):
    """What is parsed at once: a file, some files that make one image, or a part of a file that `Format.cut` has given."""

    paths: tuple[str, ...]
    data: bytes = b""

    def read(self) -> bytes:
        """The bytes of the part, or of the one file. Raises what storage raises."""
        return self.data or storage.read_bytes(self.paths[0])


@dataclass(frozen=True)
class Context:
    """What a parser may need besides its piece.

    `annotations` is the folder that file names are relative to where they have no other; `masks` that of mask files, or None
    for where the format has them; `class_attribute` and `faces_only` are the options of these names.
    """

    annotations: str
    images: ImageFolder
    masks: str | None = None
    max_pixels: int = 100_000_000
    class_attribute: str | None = None
    faces_only: bool = False

    def relative(self, path: str) -> str:
        """A path below `annotations`, relative to it, with `/`; of another, the last part."""
        folder = storage.join(self.annotations, "")
        return path.removeprefix(folder) if path.startswith(folder) else storage.name_of(path)

    def beside(self, path: str, name: str) -> str:
        """The name, relative to the image folder, of an image that a file at `path` calls by a name relative to itself.

        A name that leads up, or is absolute, was that of another machine: its last part is taken.
        """
        if "\\" in name:
            name = name.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or name[1:3] == ":/":
            name = PurePosixPath(name).name
        return str(PurePosixPath(self.relative(path)).parent / name)


@dataclass(frozen=True)
class Format:
    """A format of annotations.

    `files` are patterns of the names of its files, for a folder is given: those in it and in the folders below it. `parse`
    gives the images of a piece; what is wrong with one image or annotation is a `Problem` in it, what is wrong with a file of
    many images an `InputError`. Pieces are files; or what `cut` makes of the file at a path; or all files with the same
    `together`. With `rows`, each piece gives (image, row) instead, and `parse` is given the rows of an image, as a msgpack list
    of bytes, sorted, in a piece with the image as path. `categories` gives the list in the format's own order, if it has one:
    then a name that is not in it is unknown. `recognise` is given the path of a file and its first 4,096 bytes, and says why
    it is one of the format's, or None.
    """

    name: str
    title: str
    files: tuple[str, ...]
    parse: Callable[[Piece, Context], Iterable[SourceImage]]
    recognise: Callable[[str, bytes], str | None]
    cut: Callable[[str], Iterator[bytes]] | None = None
    together: Callable[[str], str] | None = None
    rows: Callable[[Piece, Context], Iterator[tuple[str, bytes]]] | None = None
    categories: Callable[[Context], list[Category]] | None = None


def decode(decoder: msgspec.json.Decoder[Typed], data: bytes) -> Typed | Problem:
    """JSON as `decoder` reads it; FILE_INVALID, or TEXT_INVALID, where it can't."""
    try:
        return decoder.decode(data)
    except UnicodeDecodeError as error:
        return problem(ReasonCode.TEXT_INVALID, f"the text is not UTF-8 ({error.reason})")
    except (msgspec.DecodeError, RecursionError) as error:  # which names the field
        return problem(ReasonCode.FILE_INVALID, str(error))


def field(decoder: msgspec.json.Decoder[Typed], data: bytes | msgspec.Raw) -> Typed | Problem:
    """The same of one annotation in a file: FIELD_INVALID."""
    found = decode(decoder, bytes(data))
    if isinstance(found, Problem) and found.code == ReasonCode.FILE_INVALID.name:
        return problem(ReasonCode.FIELD_INVALID, found.message)
    return found


def head(data: bytes) -> bytes:
    """The beginning of a file without a byte order mark, nor what space there is before its text."""
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()


def starts_json(data: bytes) -> bool:
    """Whether a file begins as a JSON object or list does."""
    return head(data).startswith((b"{", b"["))


def has_keys(data: bytes, *keys: str) -> bool:
    """Whether all of these keys stand somewhere in the beginning of a JSON file."""
    return starts_json(data) and all(json.dumps(key).encode() in data for key in keys)
