"""Files of images, as far as their bytes tell: what Pillow lets pass, and what needs no Pillow."""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from zlib_ng import zlib_ng

from transforms.records import Problem, ReasonCode, problem

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
"""How files of theirs begin."""

MAX_SCANS = 50  # of a progressive JPEG; encoders write some ten, and each of a few bytes goes over the whole image
_UNREADABLE = ((4, b"ftyp"), (0, b"%!PS"), (0, b"\xff\x0a"), (4, b"JXL "), (4, b"jP  "), (0, b"\xff\x4f\xff\x51"))
"""Offset and bytes that tell pictures of formats outside the list (HEIC, AVIF, EPS, JPEG XL, JPEG 2000) from rubbish."""

MOST_PIXELS = 1 << 28  # of a PNG that is read without Pillow, which has a cap
_SCAN_OR_END = re.compile(rb"\xff[\xda\xd9]")
_FRAMES = {0xF7, *(0xC0 + number for number in range(16))} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL_FRAMES = {0xC0, 0xC1, 0xC9}
_PLAIN_SEGMENTS = {*_SEQUENTIAL_FRAMES, 0xC4, 0xCC, 0xDB, 0xDD, 0xFE}  # with tables, the restart interval, a comment
_JFIF = b"\xff\xe0\x00\x10JFIF\x00"
_READ_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; the last two with arithmetic coding
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type


def unreadable(data: bytes, why: str) -> Problem:
    """What a file is told to be that can't be decoded; IMAGE_CORRUPT, IMAGE_UNSUPPORTED."""
    if any(data[offset:].startswith(magic) for offset, magic in _UNREADABLE):
        return problem(ReasonCode.IMAGE_UNSUPPORTED, f"the file begins with {data[:12]!r}, a format that is not read")
    if not data:
        return problem(ReasonCode.IMAGE_CORRUPT, "the file is empty")
    return problem(ReasonCode.IMAGE_CORRUPT, f"the file can't be decoded ({why}); it begins with {data[:12]!r}")


class PlainJpeg(NamedTuple):
    """What a JPEG says that is grey or RGB, in one scan, and has nothing in it that tells more of it, such as an orientation."""

    height: int
    width: int


def look_at_jpeg(data: bytes) -> Problem | PlainJpeg | None:
    """What Pillow lets pass: a JPEG of a kind that TensorFlow refuses, or without its end marker. Else whether it is plain."""
    position, components, plain = 2, -1, True
    size = (0, 0)
    while 0 <= position <= len(data) - 5:
        marker = data[position + 1]
        if data[position] != 0xFF or marker == 0x00:
            position = data.find(b"\xff", position + 1)  # stray bytes between segments, which every decoder skips
            plain = False
        elif marker in _FRAMES and (marker not in _READ_FRAMES or data[position + 4 : position + 5] != b"\x08"):
            kind = f"{data[position + 4]} bits" if marker in _READ_FRAMES else f"kind SOF{marker - 0xC0}"
            return problem(ReasonCode.IMAGE_UNSUPPORTED, f"the file is a JPEG of {kind}, which TensorFlow does not read")
        elif marker == 0xDA:
            if data[position + 4] == components and data.rfind(b"\xff\xd9", position) >= 0:
                # decoders read this one scan, and none behind it
                return PlainJpeg(*size) if plain and components in (1, 3) and all(size) else None
            break
        elif marker == 0xFF:  # a fill byte
            position += 1
            plain = False
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # no length follows
            position += 2
            plain = False
        else:
            if marker in _SEQUENTIAL_FRAMES and position + 9 < len(data):
                plain &= components < 0
                components = data[position + 9]
                size = struct.unpack_from(">HH", data, position + 5)
            plain &= marker in _PLAIN_SEGMENTS or data.startswith(_JFIF, position)
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    if position < 0:
        return unreadable(data, "it has no end marker")
    # One look through 167 KB takes 70 µs so; find and count, 290.
    for scans, found in enumerate(_SCAN_OR_END.finditer(data, position)):
        if found[0] == b"\xff\xd9":
            return None
        if scans == MAX_SCANS:
            return problem(ReasonCode.IMAGE_UNSUPPORTED, f"the file is a JPEG of more than {MAX_SCANS} scans, which are not read")
    return unreadable(data, "it has no end marker")


def is_clean_jpeg(data: bytes) -> bool:
    """Whether libjpeg-turbo reads all of a JPEG and has nothing to warn of; of any other, Pillow has to judge.

    At an eighth of its size, which takes two thirds of the time.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=8)
    except (ValueError, MemoryError):
        return False
    return True


def check_png(data: bytes) -> Problem | None:
    """What Pillow lets pass: a PNG that is cut off behind its pixels, or has a wrong checksum."""
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if zlib.crc32(data[position + 4 : end - 4]).to_bytes(4, "big") != data[end - 4 : end]:
            return unreadable(data, f"the chunk at byte {position} is cut off or has a wrong checksum")
        name = data[position + 4 : position + 8]
        if name[:1].isupper() and name not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            return unreadable(data, f"it can't be shown without its chunk {name!r}, which no reader knows")
        if name == b"IEND":
            return None
        position = end
    return unreadable(data, "it has no end chunk")


def _png_pixels(data: bytes) -> bytes:
    """The compressed pixels of a PNG that `check_png` has found whole."""
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
        return unreadable(data, str(error))
    if found < expected or not (inflate.eof or found > expected):
        return unreadable(data, f"{found} bytes of pixels are there, {expected} and a checksum expected")
    return None


def unfiltered(rows: bytes | bytearray, height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """The pixels of a PNG's `rows`, a byte each, if no row is filtered, as where there is a palette: shape (height, width).

    Pillow, which has to decode all others, takes nine times as long.
    """
    if len(rows) < height * (1 + width):
        return None
    filters_and_pixels = np.frombuffer(rows, np.uint8, height * (1 + width)).reshape(height, 1 + width)
    return None if filters_and_pixels[:, 0].any() else filters_and_pixels[:, 1:]


def grey_pixels(data: bytes) -> npt.NDArray[np.uint8] | None:
    """The pixels of a sound PNG of 8-bit grey whose rows are not filtered, as masks of records are: shape (height, width).

    None for any other file, which is Pillow's to read; of a mask, that takes four times as long.
    """
    if not data.startswith(PNG) or data[24:26] != b"\x08\x00" or data[28:29] != b"\0" or check_png(data):
        return None
    width, height = struct.unpack(">II", data[16:24])
    if not 0 < width * height <= MOST_PIXELS:
        return None
    try:
        rows = zlib_ng.decompressobj().decompress(_png_pixels(data), height * (1 + width))
    except zlib_ng.error:  # type: ignore[misc]  # as the library declares it
        return None
    return unfiltered(rows, height, width)
