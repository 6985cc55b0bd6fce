"""Images: found inside their folder and nowhere else, read, checked, and converted where a trainer could not decode them."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import stat
import struct
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

from transforms import storage
from transforms.ahead import Take, take_at_once
from transforms.image_files import JPEG, check_png, check_png_rows, is_clean_jpeg, look_at_jpeg, unreadable
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

ImageCheck = Literal["full", "header"]
"""`full`: every file is decoded. `header`: only those that have to be converted or turned; of others, the pixels are trusted."""

_WEBP_SHARE = 0.5  # of the pixels that others may have: Pillow's decoder holds a WebP three times over
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)


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
    looked = look_at_jpeg(data) if data.startswith(JPEG) else None
    if isinstance(looked, Problem):
        return looked
    if looked == (height, width) and height * width <= max_pixels and check == "full" and is_clean_jpeg(data):
        return CheckedImage(data, "jpeg", height, width, hashlib.sha256(data).hexdigest(), ())
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
        return unreadable(data, "unknown format")
    except Image.DecompressionBombError as error:
        return problem(ReasonCode.PIXEL_LIMIT, str(error))
    except DAMAGED as error:
        return unreadable(data, str(error))


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
