"""Small sound inputs, made by code, that the fuzzers begin with and then change."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 11, 17

COUNTS = ("TQ1", "4" * 8 + "_", "0TQ1", "5k0", "0b5", "43443443434", "PPP1PP4", "S1o?0", "000o")

SEGMENTATIONS: tuple[Any, ...] = (
    [[0, 0, 4.25, 0, 4, 4]],
    [[1.5, 1.5, 12, 2, 10.01, 9.99, 2, 8], [3, 3, 9, 3, 9, 30.5]],
    [[-1, -1, 30, -1, 30, 30, -1, 30]],
    [[0, 0, 10, 10, 10, 0, 0, 10]],
    [[5, 5, 5, 5, 5, 5]],
    [[0, 0, 1e5, 3, -1e5, 7]],
    [[1, 1, 2, 2]],
    [[]],
)

DOCUMENT = {
    "info": {"images": [{"id": 0}], "text": 'a "]} \\'},
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": "2", "file_name": "é/漢.jpg", "height": WIDTH, "width": HEIGHT},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog", "supercategory": "animal"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "segmentation": SEGMENTATIONS[0],
            "bbox": [0, 0, 4, 4],
            "area": 8,
            "iscrowd": 0,
        },
        {"id": 2, "image_id": "2", "category_id": 2, "segmentation": {"size": [WIDTH, HEIGHT], "counts": "k5"}, "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 2, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [100, 87]}, "area": 1.5},
        {"id": 4, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3.5, 4]},
    ],
}


def _picture(mode: str) -> Image.Image:
    random = np.random.default_rng(5)
    noise = Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65536, (HEIGHT, WIDTH), np.uint16))
    return noise.convert(mode)


def _saved(mode: str, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    _picture(mode).save(file, format_, **options)
    return file.getvalue()


def _frames(format_: str) -> bytes:
    file = io.BytesIO()
    _picture("RGB").save(file, format_, save_all=True, append_images=[_picture("L").convert("RGB")])
    return file.getvalue()


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def sign_png(data: bytes) -> bytes:
    """A PNG with its checksums made right, so that what was changed in it gets past them."""
    position, signed = 8, data[:8]
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if position + 12 + length > len(data):
            break
        signed += png_chunk(data[position + 4 : position + 8], data[position + 8 : position + 8 + length])
        position += 12 + length
    return signed + data[position:]


BROKE_ONCE = (b"\xff\xd8\xff\xc0\0\x11", b"II+\0\x08\0\0\0" + b"\xff" * 16)
"""Images that libFuzzer found: a JPEG that ends inside its frame header, a TIFF with its directory at 2^64."""


def images() -> list[bytes]:
    """Files of every format that is read, in many kinds, each HEIGHT × WIDTH pixels as stored; and some that are not read."""
    options: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "exif": _exif(6)}),
        ("L", "JPEG", {"restart_marker_blocks": 1, "comment": b"\xff\xda\xff\xd9"}),
        ("CMYK", "JPEG", {"exif": _exif(8)}),
        ("RGB", "PNG", {"exif": _exif(5)}),
        ("RGBA", "PNG", {}),
        ("L", "PNG", {"transparency": 7}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": b"\0\x80"}),
        ("1", "PNG", {}),
        ("I;16", "PNG", {}),
        ("RGB", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw", "exif": _exif(7)}),
        ("L", "TIFF", {"compression": "jpeg"}),
        ("1", "TIFF", {"compression": "group4"}),
        ("CMYK", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("I;16", "TIFF", {"compression": "packbits"}),
        ("RGB", "WEBP", {"exif": _exif(3)}),
        ("RGBA", "WEBP", {"lossless": True}),
        ("P", "GIF", {"transparency": 3}),
        ("L", "GIF", {"interlace": 0}),
        ("RGB", "BMP", {}),
        ("P", "BMP", {}),
        ("1", "BMP", {}),
        ("RGB", "PPM", {}),
        ("RGB", "JPEG2000", {}),
    ]
    found = [_saved(mode, format_, **option) for mode, format_, option in options]
    return [*found, *map(_frames, ("GIF", "WEBP", "TIFF", "PNG", "MPO")), *BROKE_ONCE]


PATHS = ("a.jpg", "sub/b.jpg", "../secret.jpg", "/etc/passwd", "out.jpg", "etc/passwd", "up/secret.jpg", "loop/a.jpg", "chain")
PATHS += ("self/sub/./b.jpg", "gs://other/x", "http://169.254.169.254/", "a\\b", "a.jpg\0", "é 漢.jpg", "zero", "http:/./x")


def documents() -> list[bytes]:
    """Annotation files: sound ones, and one of each fault."""
    text = json.dumps(DOCUMENT)
    return [text.encode(), json.dumps(DOCUMENT, ensure_ascii=False, indent=1).encode(), text.replace("cat", "\\ud800").encode()]


def corpus(name: str) -> list[bytes]:
    """The inputs for a libFuzzer target, as its `from_bytes` takes them apart."""
    plain = bytes((HEIGHT - 1, WIDTH - 1, 0, 0))
    numbers = bytes((HEIGHT - 1, WIDTH - 1, 1, 0))
    if name == "run lengths":
        texts = [plain + counts.encode() for counts in COUNTS]
        return [*texts, numbers + struct.pack("<3i", 17, 70, 100), numbers + struct.pack("<2i", 0, 187)]
    if name == "polygons":
        hundredths = bytes((HEIGHT - 1, WIDTH - 1, 129, 0)) + struct.pack("<8i", 0, 0, 1000, 10, 1100, 1200, 50, 990)
        return [hundredths, *(plain + json.dumps(one).encode() for one in SEGMENTATIONS)]
    if name == "COCO elements":
        return [head + text for text in documents() for head in (b"\x07\0", b"\xff\x02")]
    if name == "images":
        return images()
    return [path.encode() for path in PATHS]
