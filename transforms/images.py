"""Images: found inside their folder and nowhere else, read, checked, and converted where a trainer could not decode them."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from zlib_ng import zlib_ng

from transforms import storage
from transforms.ahead import Take, take_at_once
from transforms.records import AnnotatedImage, Fix, Problem, ReasonCode, View, problem

Result = TypeVar("Result")
READ_FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        TiffImagePlugin.TiffImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        PpmImagePlugin.PpmImageFile,
    )
)
"""What Pillow may try; naming the plugins registers them. JPEG includes MPO. Everything but JPEG and PNG is converted."""

DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error, TypeError, IndexError, KeyError, ArithmeticError)
"""What comes out of Pillow's plugins for damaged files."""
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
"""How files of theirs begin."""

ImageCheck = Literal["full", "header"]
"""`full`: every file is decoded. `header`: only those that have to be converted or turned; of others, the pixels are trusted."""

MAX_SCANS = 50  # of a progressive JPEG; encoders write some ten, and each of a few bytes goes over the whole image
_WEBP_SHARE = 0.5  # of the pixels that others may have: Pillow's decoder holds a WebP three times over
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
_UNREADABLE = ((4, b"ftyp"), (0, b"%!PS"), (0, b"\xff\x0a"), (4, b"JXL "), (4, b"jP  "), (0, b"\xff\x4f\xff\x51"))
"""Offset and bytes that tell pictures of formats outside the list (HEIC, AVIF, EPS, JPEG XL, JPEG 2000) from rubbish."""


_real_absolute = lru_cache(maxsize=256)(os.path.realpath)


def _real_folder(folder: str) -> str:
    real: str = _real_absolute(os.path.abspath(folder))  # a relative one is another when the current folder changes
    return real


def _real_path(path: str) -> str:
    """`os.path.realpath`, which looks at every folder on the way, but at each of them once and not for each image."""
    folder, name = os.path.split(path)
    return os.path.realpath(path) if os.path.islink(path) else os.path.join(_real_folder(folder), name)


def leads_out(file_name: str) -> bool:
    """Whether an image's name, by itself, leads out of any folder that it is taken to be in, or may somewhere."""
    return any(text in file_name for text in ("\0", "\\", "://")) or file_name.startswith("/") or ".." in file_name.split("/")


def parts_of(file_name: str) -> list[str]:
    """The names of the folders, and of the file, that an image's name is made of."""
    return [part for part in file_name.split("/") if part not in ("", ".")]


@dataclass(frozen=True)
class ImageFolder:
    """The folder or bucket that image file names are relative to. Nothing outside it is ever opened.

    `max_bytes` is for a folder, where what lies in it may be anything; a larger file would not fit into a record.
    """

    root: str
    max_bytes: int = 512_000_000

    def locate(self, file_name: str) -> str | Problem:
        """The path of an image; `PATH_FORBIDDEN` for a name that leads out, by itself or through a link."""
        forbidden = leads_out(file_name)
        path = "" if forbidden else storage.join(self.root, *parts_of(file_name))
        if not forbidden and storage.is_local(self.root):
            real, root = _real_path(path), _real_folder(self.root)
            if os.path.commonpath((real, root)) != root:
                message = f"the file {path} is a link to {real}, which is outside the image folder"
                return problem(ReasonCode.PATH_FORBIDDEN, message)
        if forbidden:
            return problem(ReasonCode.PATH_FORBIDDEN, f"the file name {file_name!r} leads out of the image folder")
        return path

    def read(self, file_name: str, take: Take = take_at_once) -> bytes | Problem:
        """The file's bytes, as `take` has room for them; PATH_FORBIDDEN, IMAGE_MISSING, RECORD_LIMIT.

        Raises what storage raises for any other reason.
        """
        path = self.locate(file_name)
        if isinstance(path, Problem):
            return path
        try:
            return self.too_odd(path, file_name) or storage.read_bytes(path, take)
        except Exception as error:
            if storage.is_missing(error) or getattr(error, "errno", None) in (errno.ELOOP, errno.ENAMETOOLONG):
                return problem(ReasonCode.IMAGE_MISSING, f"there is no file {file_name!r} in the image folder")
            raise

    def read_of(self, image: AnnotatedImage, take: Take = take_at_once) -> bytes | Problem:
        """The same for an image of the annotations, which may be embedded there where there is no file."""
        data = self.read(image.view.file_name if image.view else image.file_name, take)
        if isinstance(data, Problem) and data.code == ReasonCode.IMAGE_MISSING.name and image.extras and image.extras.embedded:
            return embedded_image(storage.read_bytes(image.extras.embedded, take))
        return data

    def too_odd(self, path: str, file_name: str) -> Problem | None:
        """What must not even be opened: a pipe, whose end may never come, and a file larger than memory."""
        if not storage.is_local(self.root):
            return None
        found = os.stat(path)
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            return problem(ReasonCode.IMAGE_MISSING, f"{file_name!r} is a pipe or a device and no file")
        if found.st_size > self.max_bytes:
            message = f"the file has {found.st_size / 1e6:.1f} MB, at most {self.max_bytes / 1e6:.1f} are read (--max_record_mb)"
            return problem(ReasonCode.RECORD_LIMIT, message)
        return None


class _Embedding(msgspec.Struct):
    image: str | None = msgspec.field(name="imageData", default=None)


_embedding = msgspec.json.Decoder(_Embedding)


def embedded_image(annotations: bytes) -> bytes | Problem:
    """The image that an annotation file has in it, as LabelMe writes it: base64 in `imageData`; IMAGE_MISSING, IMAGE_CORRUPT."""
    try:
        text = _embedding.decode(annotations).image
        if text is None:
            return problem(ReasonCode.IMAGE_MISSING, "there is no image file, and no imageData in the annotations")
        return base64.b64decode(text, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        return problem(ReasonCode.IMAGE_CORRUPT, f"the imageData of the annotations can't be decoded: {error}")


class CheckedImage(NamedTuple):
    """An image file that both trainers decode to height × width pixels; `sha256` is the hex digest of `data`."""

    data: bytes
    format: Literal["jpeg", "png"]
    height: int
    width: int
    sha256: str
    fixes: tuple[str, ...]


def _unreadable(data: bytes, why: str) -> Problem:
    if any(data[offset:].startswith(magic) for offset, magic in _UNREADABLE):
        return problem(ReasonCode.IMAGE_UNSUPPORTED, f"the file begins with {data[:12]!r}, a format that is not read")
    if not data:
        return problem(ReasonCode.IMAGE_CORRUPT, "the file is empty")
    return problem(ReasonCode.IMAGE_CORRUPT, f"the file can't be decoded ({why}); it begins with {data[:12]!r}")


def _decodes_as_is(image: Image.Image, data: bytes) -> bool:
    """Whether both trainers decode the file to the same pixels: 8-bit grey or RGB, as JPEG or PNG, nothing transparent."""
    if image.format in ("JPEG", "MPO"):
        return image.mode in ("L", "RGB")
    return image.format == "PNG" and data[24] == 8 and data[25] in (0, 2) and "transparency" not in image.info


def _to_png(image: Image.Image) -> bytes:
    """An 8-bit grey or RGB PNG; 16 bits keep their upper eight, transparency is dropped, as TensorFlow does."""
    image.info.pop("transparency", None)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode != "L":
        image = image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _check_jpeg(data: bytes) -> Problem | None:
    """What Pillow lets pass: a JPEG of a kind that TensorFlow refuses, or without its end marker."""
    position, components = 2, -1
    while 0 <= position <= len(data) - 5:
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0x00:
            position = data.find(b"\xff", position + 1)  # stray bytes between segments, which every decoder skips
        elif marker in _FRAMES and (marker not in _READ_FRAMES or data[position + 4 : position + 5] != b"\x08"):
            kind = f"{data[position + 4]} bits" if marker in _READ_FRAMES else f"kind SOF{marker - 0xC0}"
            return problem(ReasonCode.IMAGE_UNSUPPORTED, f"the file is a JPEG of {kind}, which TensorFlow does not read")
        elif marker == 0xDA:
            if data[position + 4] == components and data.rfind(b"\xff\xd9", position) >= 0:
                return None  # decoders read this one scan, and none behind it
            break
        elif marker == 0xFF:  # a fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no length follows
            position += 2
        else:
            if marker in _SEQUENTIAL_FRAMES and position + 9 < len(data):
                components = data[position + 9]
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    if position < 0:
        return _unreadable(data, "it has no end marker")
    # One look through 167 KB takes 70 µs so; find and count, 290.
    for scans, found in enumerate(_SCAN_OR_END.finditer(data, position)):
        if found[0] == b"\xff\xd9":
            return None
        if scans == MAX_SCANS:
            return problem(ReasonCode.IMAGE_UNSUPPORTED, f"the file is a JPEG of more than {MAX_SCANS} scans, which are not read")
    return _unreadable(data, "it has no end marker")


def check_png(data: bytes) -> Problem | None:
    """What Pillow lets pass: a PNG that is cut off behind its pixels, or has a wrong checksum."""
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if zlib.crc32(data[position + 4 : end - 4]).to_bytes(4, "big") != data[end - 4 : end]:
            return _unreadable(data, f"the chunk at byte {position} is cut off or has a wrong checksum")
        name = data[position + 4 : position + 8]
        if name[:1].isupper() and name not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            return _unreadable(data, f"it can't be shown without its chunk {name!r}, which no reader knows")
        if name == b"IEND":
            return None
        position = end
    return _unreadable(data, "it has no end chunk")


def _png_pixels(data: bytes) -> bytes:
    """The compressed pixels of a PNG that `_check_png` has found whole."""
    position, pixels = 8, []
    while (name := data[position + 4 : position + 8]) != b"IEND":
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if name == b"IDAT":
            pixels.append(data[position + 8 : end - 4])
        position = end
    return b"".join(pixels)


def check_png_rows(data: bytes, rows: bytearray | None = None) -> Problem | None:
    """Whether as many rows are there as the header says; of interlaced ones, Pillow has to judge.

    `rows` gets what they hold, each behind the byte that says how it is filtered.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if interlaced or colour not in _PNG_CHANNELS:
        return None
    compressed = _png_pixels(data)
    expected = height * (1 + (width * depth * _PNG_CHANNELS[colour] + 7) // 8)
    inflate = zlib_ng.decompressobj()  # 1.4 times as fast as zlib on photographs, 5 on flat ones
    found = 0
    try:
        for start in range(0, len(compressed), 1 << 14):
            part = inflate.decompress(compressed[start : start + (1 << 14)])
            found += len(part)
            if rows is not None:
                rows += part
            if inflate.eof or found > expected:  # what is too much, readers leave unread
                break
    except zlib_ng.error as error:  # type: ignore[misc]  # as the library declares it
        return _unreadable(data, str(error))
    if found < expected or not (inflate.eof or found > expected):
        return _unreadable(data, f"{found} bytes of pixels are there, {expected} and a checksum expected")
    return None


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


_SCAN_OR_END = re.compile(rb"\xff[\xda\xd9]")
_FRAMES = {0xF7, *(0xC0 + number for number in range(16))} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL_FRAMES = {0xC0, 0xC1, 0xC9}
_READ_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; the last two with arithmetic coding
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes the pixels upright, by EXIF orientation."""


def check_image(data: bytes, height: int, width: int, max_pixels: int, check: ImageCheck = "full") -> CheckedImage | Problem:
    """The image that annotations for height × width pixels belong to, decoded once to be sure that it can be.

    A JPEG is decoded at an eighth of its size, which reads all of the file at two thirds of the cost. With `check="header"`
    files that are passed on as they are aren't decoded: damage within their pixels goes unnoticed.
    Where the EXIF orientation is not upright and the annotations fit the upright image, the pixels are turned; else they are
    left alone. Codes: IMAGE_CORRUPT, IMAGE_UNSUPPORTED, PIXEL_LIMIT, DIM_MISMATCH.
    """
    wrong = _check_jpeg(data) if data.startswith(JPEG) else None
    if wrong:
        return wrong
    return _opened(data, lambda image: _check_open(image, data, (height, width), max_pixels, check))


def lift_cap_of_pillow() -> None:
    """Pillow refuses what has over 179 megapixels. The cap is our own, --max_megapixels."""
    Image.MAX_IMAGE_PIXELS = None


def _opened(data: bytes, look: Callable[[Image.Image], Result]) -> Result | Problem:
    """What a look at an image gives; IMAGE_CORRUPT, IMAGE_UNSUPPORTED, PIXEL_LIMIT where that can't be."""
    try:
        with Image.open(io.BytesIO(data), formats=READ_FORMATS) as image:
            return look(image)
    except UnidentifiedImageError:
        return _unreadable(data, "unknown format")
    except Image.DecompressionBombError as error:
        return problem(ReasonCode.PIXEL_LIMIT, str(error))
    except DAMAGED as error:
        return _unreadable(data, str(error))


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of an image that is open, but not decoded: Pillow would decode a PNG to look for more."""
    has_exif = "exif" in image.info or image.format in ("TIFF", "WEBP")
    return int(image.getexif().get(_ORIENTATION, 1)) if has_exif else 1


def size_of_image(data: bytes) -> tuple[int, int] | Problem:
    """(height, width) of an image as people see it, upright by its EXIF orientation; its beginning will mostly do.

    IMAGE_CORRUPT, IMAGE_UNSUPPORTED, PIXEL_LIMIT.
    """

    def look(image: Image.Image) -> tuple[int, int]:
        upright = orientation_of(image) not in _SIDEWAYS or image.format == "TIFF"  # which Pillow has turned
        return (image.height, image.width) if upright else (image.width, image.height)

    return _opened(data, look)


def _check_open(
    image: Image.Image, data: bytes, annotated: tuple[int, int], max_pixels: int, check: ImageCheck
) -> CheckedImage | Problem:
    if image.width * image.height > max_pixels:
        found = f"{image.height} × {image.width} (height × width)"
        return problem(ReasonCode.PIXEL_LIMIT, f"the image is {found}, at most {max_pixels} pixels are read (--max_megapixels)")
    if image.format == "WEBP" and image.width * image.height > max_pixels * _WEBP_SHARE:
        found = f"{image.height} × {image.width} (height × width)"
        message = f"the image is a WebP of {found}, of which half of {max_pixels} pixels are read (--max_megapixels)"
        return problem(ReasonCode.PIXEL_LIMIT, message)
    wrong = check_png(data) if image.format == "PNG" else None
    if wrong:
        return wrong
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        return problem(ReasonCode.IMAGE_UNSUPPORTED, f"the {image.format} has several frames")
    if image.mode in ("I", "F"):
        return problem(
            ReasonCode.IMAGE_UNSUPPORTED, f"the {image.format} has 32 bits a pixel, of which nobody says what is white"
        )
    orientation = orientation_of(image)
    sideways = orientation in _SIDEWAYS
    turned_by_pillow = image.format == "TIFF" and orientation in _TURNS
    size = image.height, image.width
    stored, upright = (size[::-1], size) if turned_by_pillow and sideways else (size, size[::-1] if sideways else size)
    turn = orientation in _TURNS and upright == annotated
    if not turn and stored != annotated:
        found, expected = f"{stored[0]} × {stored[1]} (height × width)", f"{annotated[0]} × {annotated[1]}"
        return problem(ReasonCode.DIM_MISMATCH, f"the image is {found}, its annotations are for {expected}")
    as_is = _decodes_as_is(image, data)
    fixes = () if as_is else (Fix.IMAGE_CONVERTED.name,)
    if orientation in _TURNS:
        fixes = ((Fix.IMAGE_TURNED if turn else Fix.IMAGE_NOT_TURNED).name, *fixes)
    if check != "header" or turn or not as_is:
        wrong = check_png_rows(data) if image.format == "PNG" else None
        if wrong:
            return wrong
        if as_is and not turn and image.format != "PNG":
            image.draft("L", (max(1, size[1] // 8), max(1, size[0] // 8)))  # all is read, but colours are not worked out
        if isinstance(image, ImageFile.ImageFile):
            image.decodermaxblock = len(data)  # or a thread would wait for its turn after each 64 KB
        image.load()
    if as_is and not turn:
        format_: Literal["jpeg", "png"] = "png" if image.format == "PNG" else "jpeg"
        return CheckedImage(data, format_, *annotated, hashlib.sha256(data).hexdigest(), fixes)
    pixels: Image.Image = image
    if turn and not turned_by_pillow:
        pixels = image.transpose(_TURNS[orientation])
    elif turned_by_pillow and not turn:
        pixels = image.transpose(_TURNS[{6: 8, 8: 6}.get(orientation, orientation)])  # back again
    converted = _to_png(pixels)
    return CheckedImage(converted, "png", *annotated, hashlib.sha256(converted).hexdigest(), fixes)


Picture = npt.NDArray[np.uint8]
"""The pixels of an image, grey or RGB: shape (height, width) or (height, width, 3)."""
_JPEG_QUALITY = 95  # of what is scaled or cut; with full colour, it adds errors of a grey level or two


def open_picture(checked: CheckedImage, view: View) -> Picture | Problem:
    """The pixels of a checked image at the view's scale, with an antialiasing filter; IMAGE_CORRUPT."""

    def look(image: Image.Image) -> Picture:
        size = view.scaled_width, view.scaled_height
        return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.LANCZOS))

    return _opened(checked.data, look)


def show(picture: Picture, view: View, height: int, width: int, checked: CheckedImage) -> CheckedImage:
    """The part of a picture that an image of height × width pixels is: as a JPEG where its file is one, else as a PNG.

    Where that is all of it, and nothing is scaled, the file stays as it is.
    """
    is_scaled = (view.file_height, view.file_width) != (view.scaled_height, view.scaled_width)
    fixes = [fix for fix, holds in ((Fix.IMAGE_SCALED, is_scaled), (Fix.IMAGE_TILED, view.parent_id is not None)) if holds]
    names = (*checked.fixes, *(fix.name for fix in fixes))
    if (height, width) == (view.file_height, view.file_width):
        return checked._replace(fixes=names)
    part = Image.fromarray(np.ascontiguousarray(picture[view.top : view.top + height, view.left : view.left + width]))
    file = io.BytesIO()
    if checked.format == "jpeg":
        part.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        part.save(file, "PNG")
    data = file.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    return CheckedImage(data, checked.format, height, width, digest, names)
