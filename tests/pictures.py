"""Image files for tests: of every kind, whole and odd; always H ≠ W."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 40


def picture(height=HEIGHT, width=WIDTH, mode="RGB"):
    """Colours that tell left from right and top from bottom, with some noise."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(height * width).integers(0, 40, (height, width))
    colours = np.stack([y * 200 // height + noise, x * 200 // width, 255 - x * 200 // width], axis=2).astype(np.uint8)
    return Image.fromarray(colours).convert(mode)


def saved(image, image_format, **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def with_orientation(orientation, image_format, stored=None, **options):
    """A file with this EXIF orientation; `stored` are its pixels, those of `picture` if None."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture() if stored is None else Image.fromarray(stored)
    return saved(image, image_format, exif=exif.tobytes(), **options)


def opened(data):
    return Image.open(io.BytesIO(data))


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(height, width, depth, colour, rows, *chunks):
    """A PNG of any depth and colour type, its rows given as bytes without filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def png_with(*chunks, interlaced=0):
    """A grey PNG of 8 bits with these chunks between its first and its last."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


GREY_ROWS = zlib.compress(bytes((WIDTH + 1) * HEIGHT))


def jpeg_of(marker, bits, height=HEIGHT, width=WIDTH):
    """A grey JPEG of a process given by its frame marker; a lossless one (0xC3) is valid, and grey all over."""

    def segment(kind, content):
        return bytes((0xFF, kind)) + struct.pack(">H", len(content) + 2) + content

    table = bytes([0, 1, *[0] * 15, 0])
    frame = struct.pack(">BHHBBBB", bits, height, width, 1, 1, 0x11, 0)
    scan = bytes([1, 1, 0, 1, 0, 0])
    data = bytes(-(-height * width // 8))
    return b"\xff\xd8" + segment(0xC4, table) + segment(marker, frame) + segment(0xDA, scan) + data + b"\xff\xd9"


def corrupt_jpeg(height, width):
    """A JPEG with its beginning and end, and something in its pixels that no decoder can read."""
    data = saved(picture(height, width), "JPEG")
    middle = len(data) // 2
    return data[:middle] + b"\xff\xd8" + data[middle + 2 :]


def animated(image_format, **options):
    return saved(picture(), image_format, save_all=True, append_images=[picture().rotate(180)], **options)


def lying(upright, orientation):
    """The pixels as a file with this EXIF orientation stores them."""
    return np.ascontiguousarray(TURNS[{6: 8, 8: 6}.get(orientation, orientation)](upright))


TURNS = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels.swapaxes(0, 1), 2),
    8: np.rot90,
}
"""What makes stored pixels upright, by EXIF orientation: from its definition, not from Pillow."""
