"""Masks that are painted: PNG files, read as they are, and what of them belongs to one object.

Pillow gives the values themselves: the indices of a palette, all 16 bits. TensorFlow's decoder gives neither.
"""

from __future__ import annotations

import errno
import io
import os
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms import run_lengths, storage
from transforms.image_files import check_png, check_png_rows, unfiltered
from transforms.images import DAMAGED, ImageFolder, size_of_image
from transforms.records import Problem, ReasonCode, RunLengths, problem
from transforms.run_lengths import ValueRuns, value_runs

Ids = npt.NDArray[np.integer]
"""Shape (height, width): the value of each pixel; of a coloured file, R + 256·G + 65536·B."""
What = Literal["values", "alpha", "colours"]
"""`values` are as they are stored; `alpha`: how opaque a pixel is, if the file says so; `colours`: those of a palette, too."""
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
_HEAD_BYTES = 1 << 16  # of an image: where its size stands, mostly
MOST_IDS = 100_000


def read_ids(path: str, max_pixels: int, what: What = "values") -> Ids | Problem:
    """The values of a mask file, or `what` of it; MASK_MISSING, MASK_INVALID, PIXEL_LIMIT."""
    if storage.is_local(path) and os.path.exists(path) and not os.path.isfile(path):  # a pipe would be read forever
        return problem(ReasonCode.MASK_MISSING, f"{path} is no file")
    try:
        data = storage.read_bytes(path)
    except Exception as error:
        if storage.is_missing(error) or getattr(error, "errno", None) in (errno.ELOOP, errno.ENAMETOOLONG):
            return problem(ReasonCode.MASK_MISSING, f"there is no mask file {path}")
        raise
    return decode_ids(data, path, max_pixels, what)


def read_ids_in(folder: str, name: str, max_pixels: int, what: What = "values") -> Ids | Problem:
    """The same of a file with a name that stands in the annotations, relative to a folder, with `/`; PATH_FORBIDDEN too."""
    path = ImageFolder(folder).locate(name)
    if isinstance(path, Problem):
        return problem(ReasonCode.PATH_FORBIDDEN, f"the name of the mask file, {name!r}, leads out of {folder}")
    return read_ids(path, max_pixels, what)


def decode_ids(data: bytes, name: str, max_pixels: int, what: What = "values") -> Ids | Problem:
    """The same of a file's bytes; `name` is for messages."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.height} × {image.width} (height × width)"
                return problem(ReasonCode.PIXEL_LIMIT, f"the mask {name} is {size}, at most {max_pixels} pixels are read")
            a_byte_each = image.format == "PNG" and data[24:26] in (b"\x08\x00", b"\x08\x03")  # depth, and grey or a palette
            rows = bytearray() if a_byte_each and what == "values" else None
            # Of what is cut off, Pillow makes zeros.
            if image.format == "PNG" and (wrong := check_png(data) or check_png_rows(data, rows)):
                return problem(ReasonCode.MASK_INVALID, f"the mask {name}: {wrong.message}")
            if rows and (plain := unfiltered(rows, image.height, image.width)) is not None:
                return plain
            if what == "alpha" and image.has_transparency_data:
                return np.asarray(image.convert("RGBA").getchannel("A"))
            # What is opaque or not says nothing of whose a pixel is.
            colours = what == "colours" or image.mode in ("RGB", "RGBA")
            values = np.asarray(image.convert("RGBA") if colours else image)
    except (*DAMAGED, Image.DecompressionBombError) as error:  # what is of no known format is an OSError, too
        return problem(ReasonCode.MASK_INVALID, f"the mask {name} can't be decoded: {error}")
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.ndim == 3 and values.shape[2] == 2:  # grey and alpha
        values = values[..., 0]
    if colours:
        return values.view("<u4")[..., 0] & 0xFFFFFF
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        return problem(ReasonCode.MASK_INVALID, f"the mask {name} has pixels of the kind {image.mode}, expected whole numbers")
    return values


def check_size(ids: Ids, height: int, width: int, name: str) -> Problem | None:
    """MASK_INVALID unless a mask is of height × width pixels."""
    return check_shape((ids.shape[0], ids.shape[1]), height, width, name)


def check_shape(shape: tuple[int, int], height: int, width: int, name: str) -> Problem | None:
    """The same of one that is known by its height and width."""
    if shape == (height, width):
        return None
    found = f"{shape[0]} × {shape[1]} (height × width)"
    return problem(ReasonCode.MASK_INVALID, f"the mask {name} is {found}, its image {height} × {width}")


def objects_of(ids: Ids | ValueRuns, name: str) -> dict[int, RunLengths] | Problem:
    """The run lengths of each value but 0, in the order of the values; MASK_INVALID for more than `MOST_IDS` of them."""
    runs = ids if isinstance(ids, ValueRuns) else value_runs(ids)
    values = np.count_nonzero(np.unique(runs.values))
    if values > MOST_IDS:
        message = f"the mask {name} has {values} values but 0, expected at most {MOST_IDS} objects: is it a picture?"
        return problem(ReasonCode.MASK_INVALID, message)
    return runs.masks()


def empty() -> Problem:
    """EMPTY_MASK, for an object that a mask has no pixel of."""
    return problem(ReasonCode.EMPTY_MASK, "the mask has no pixel of it")


def placed(mask: Ids, top: int, left: int, height: int, width: int) -> RunLengths:
    """The run lengths of what is not 0 in a mask whose upper left pixel lies at `top`, `left` of an image of height × width.

    What lies outside is left out. Only the mask is gone over, and not the image.
    """
    mask = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    rows, columns = mask.shape
    inside = np.zeros((columns, rows + 2), np.int8)  # a row before and one after, so that each column ends by itself
    inside[:, 1:-1] = mask.T != 0
    column, row = np.nonzero(np.diff(inside, axis=1))
    edges = (max(left, 0) + column) * height + max(top, 0) + row
    apart = np.diff(edges, prepend=-1, append=-1) != 0  # not so where a column is full, and the next goes on
    edges = edges[apart[1:] & apart[:-1]]
    runs = np.diff(edges, prepend=0, append=height * width).astype(np.int64)
    return RunLengths(height, width, run_lengths.encode_counts(runs if runs[-1] else runs[:-1]))


def image_size(images: ImageFolder, file_name: str) -> tuple[int, int] | Problem:
    """(height, width) of an image file as people see it, for formats that don't say how large their images are.

    PATH_FORBIDDEN, IMAGE_MISSING, RECORD_LIMIT, and the codes of `images.size_of_image`. Raises what storage raises otherwise.
    """
    path = images.locate(file_name)
    if isinstance(path, Problem):
        return path
    try:
        if odd := images.too_odd(path, file_name):
            return odd
        with storage.open_read(path) as file:
            data = file.read(_HEAD_BYTES)
            size = size_of_image(data)
            return size_of_image(data + file.read()) if isinstance(size, Problem) and len(data) == _HEAD_BYTES else size
    except Exception as error:
        if storage.is_missing(error) or getattr(error, "errno", None) in (errno.ELOOP, errno.ENAMETOOLONG):
            return problem(ReasonCode.IMAGE_MISSING, f"there is no file {file_name!r} in the image folder")
        raise
