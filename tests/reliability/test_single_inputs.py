"""The nastiest single inputs: no one of them takes 5 seconds or 1 GiB, each has the outcome that FAULTS.md names.

Each is tried in a process of its own: this file, run with the input's name. What is measured is the parser's part, and what
memory it takes beyond the imports and the input itself.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from transforms.images import check_image
from transforms.rasterize import rasterize
from transforms.records import InputError, Instance, Problem, Reject
from transforms.sources.coco_json import parse_annotations, parse_categories, parse_image, split_block
from transforms.sources.json_blocks import cut_blocks

MAX_SECONDS = 5
MAX_MEGABYTES = 1024
MAX_PIXELS = 100_000_000  # the default of --max_megapixels
HEIGHT, WIDTH = 10_000, 9_999  # the largest image, nearly
FIGURES = Path(__file__).resolve().parents[2] / "build" / "fuzz.json"
ODD_IMAGES = Path(__file__).resolve().parents[3] / "shared" / "data" / "odd_images_synthetic"


class Input(NamedTuple):
    """What `make` gives goes into `parse`, which says the outcome: one of `expected`."""

    expected: str
    parse: Callable[[Any], str]
    make: Callable[[], Any]


# --------------------------------------------------------------------------------------------------------- parsers


def outcome_of(result: object) -> str:
    if isinstance(result, Problem):
        return result.code
    return result.reason if isinstance(result, Reject) else "accepted"


def parse_segmentation(raw: bytes) -> str:
    (parsed,) = parse_annotations(raw)
    if isinstance(parsed, Reject):
        return parsed.reason
    [drawn] = rasterize([(parsed.instance, HEIGHT, WIDTH)])
    assert isinstance(drawn, Instance | Problem)
    return outcome_of(drawn)


def parse_image_element(raw: bytes) -> str:
    parsed = parse_image(raw, MAX_PIXELS)
    return parsed.reason if isinstance(parsed, Reject) else outcome_of(parsed.problem)


def parse_file(data: bytes) -> str:
    """An annotation file: cut, and each of its elements parsed."""
    found: set[str] = set()
    try:
        for block in cut_blocks(io.BytesIO(data).read, frozenset({"images", "annotations", "categories"}), "file.json"):
            text = data[block.offset : block.offset + block.length]
            if block.key == "categories":
                parse_categories(split_block(text))
            elif block.key == "images":
                found.update(outcome_of(parse_image(raw, MAX_PIXELS)) for raw in split_block(text))
            else:
                found.update(map(outcome_of, parse_annotations(text)))
    except InputError as error:
        return str(error).split(":")[0]
    return " and ".join(sorted(found)) or "accepted"


def parse_picture(data: bytes) -> str:
    return outcome_of(check_image(data, HEIGHT, WIDTH, MAX_PIXELS))


def parse_as_it_is(data: bytes) -> str:
    """A picture whose annotations are for whatever size its header gives."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.height, image.width
    except (ValueError, Image.DecompressionBombError):
        size = HEIGHT, WIDTH
    return outcome_of(check_image(data, *size, MAX_PIXELS))


# ---------------------------------------------------------------------------------------------------------- inputs


def annotation(segmentation: Any) -> bytes:
    return json.dumps({"id": 1, "image_id": 2, "category_id": 3, "segmentation": segmentation}).encode()


def runs(counts: Any, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Input:
    return Input("RLE_MALFORMED", parse_segmentation, lambda: annotation({"size": size, "counts": counts()}))


def polygon(expected: str, make: Callable[[], Any]) -> Input:
    return Input(expected, parse_segmentation, lambda: annotation(make()))


def triangles(count: int) -> list[list[int]]:
    corners = np.random.default_rng(1).integers(0, 9_900, (count, 2))
    return [[x, y, x, y + 15, x + 15, y + 15] for x, y in corners.tolist()]


def document(annotations: bytes) -> bytes:
    return b'{"images": [], "categories": [], "annotations": [' + annotations + b"]}"


def text(data: bytes) -> Input:
    return Input("JSON_INVALID", parse_file, lambda: data)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth: int, colour: int, height: int = HEIGHT, width: int = WIDTH, rows: int | None = None, more: bytes = b"") -> bytes:
    """A PNG of zeros, some hundred kilobytes however large the picture."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    compress = zlib.compressobj(9)
    row = bytes(1 + (width * depth * channels + 7) // 8)
    pixels = b"".join([*(compress.compress(row) for _ in range(height if rows is None else rows)), compress.flush()])
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")


def saved(mode: str, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (WIDTH, HEIGHT)).save(file, format_, **options)
    return file.getvalue()


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: a hundred bytes each, and all of the image to go over."""
    whole = saved("L", "JPEG", progressive=True)
    last = whole.rfind(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def jpeg_header(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


INPUTS = {
    "run lengths for 100000 × 100000 pixels": Input(
        "DIM_LIMIT", parse_segmentation, lambda: annotation({"size": [10**5, 10**5], "counts": "0" * 9})
    ),
    "run lengths for 2^40 × 2^40 pixels": Input(
        "DIM_LIMIT", parse_segmentation, lambda: annotation({"size": [2**40, 2**40], "counts": [2**32, 5]})
    ),
    "16 MB of counts of one character": runs(lambda: "1" * 15_900_000),
    "16 MB of counts of seven characters": runs(lambda: "PPPPPP0" * 2_280_000),
    "counts that never end": runs(lambda: "o" * 15_900_000),
    "8 million runs": runs(lambda: [1] * 5_300_000),
    "runs of 2^62": runs(lambda: [2**62, 2**62, 2**62, 2**62]),
    "counts that end inside a continuation": runs(lambda: "000o"),
    "no counts": runs(lambda: ""),
    "one run for each pixel of 8 million": Input(
        "RLE_SIZE_MISMATCH", parse_segmentation, lambda: annotation({"size": [2000, 4000], "counts": "1" * 4 + "0" * 7_999_996})
    ),
    "a coordinate of 1e9": polygon("COORD_INVALID", lambda: [[0, 0, 1e9, 0, 5, 5]]),
    "a coordinate of 1e308": polygon("COORD_INVALID", lambda: [[0, 0, 1e308, 0, 5, 5]]),
    "a coordinate of 400 digits": polygon("COORD_INVALID", lambda: [[0, 0, 10**400, 0, 5, 5]]),
    "a coordinate of 10,000 digits": text(document(b'{"id":1,"segmentation":[[0,0,' + b"7" * 10_000 + b",0,5,5]]}")),
    "a coordinate of 10 million digits": text(document(b'{"id":1,"segmentation":[[0,0,' + b"7" * 10**7 + b",0,5,5]]}")),
    "100,001 points": polygon("POINT_LIMIT", lambda: [[5, 7] * 100_001]),
    "2.6 million points": polygon("POINT_LIMIT", lambda: [[5, 7] * 2_600_000]),
    "1 million rings without a point": polygon("POLY_MALFORMED", lambda: [[]] * 10**6),
    "800,000 rings of three points": polygon("POINT_LIMIT", lambda: [[0] * 6] * 800_000),
    "5 million numbers, the last one text": polygon("COORD_INVALID", lambda: [[0] * 5_000_000 + ["x"]]),
    "an outline back and forth over all of 200,000 pixels": polygon("POINT_LIMIT", lambda: [[-1e5, 0, 1e5, 1e4] * 50]),
    "33,333 rings, all drawn": polygon("accepted", lambda: triangles(33_333)),
    "a comb of 100 teeth over all of the image": polygon(
        "accepted", lambda: [[side for tooth in range(100) for side in (tooth * 100, 0, tooth * 100 + 50, 9_999)]]
    ),
    "100,000 points on top of each other": polygon("EMPTY_MASK", lambda: [[5, 7] * 100_000]),
    "a file nested a million deep": text(b'{"images":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
    "objects nested a million deep": text(b'{"images":[' + b'{"a":' * 10**6 + b"1" + b"}" * 10**6 + b"]}"),
    "an id of 10,000 digits": text(document(b'{"id": ' + b"1" * 10_000 + b"}")),
    "NaN": text(document(b'{"id": 1, "image_id": 1, "category_id": 1, "area": NaN}')),
    "an element of 20 MB": text(document(b'{"id": "' + b"x" * 20_000_000 + b'"}')),
    "500,000 elements that are no objects": Input("FIELD_INVALID", parse_file, lambda: document(b"[]," * 500_000 + b"0")),
    "12 million backslashes": text(b'{"images": ["' + b"\\" * 12_000_001 + b'"]}'),
    "a name of 15 MB": Input(
        "accepted", parse_image_element, lambda: b'{"id":1,"height":1,"width":2,"file_name":"' + b"x" * 15_000_000 + b'"}'
    ),
    "an image said to be 100000 × 100000": Input(
        "DIM_LIMIT", parse_image_element, lambda: b'{"id":1,"height":100000,"width":100000,"file_name":"a"}'
    ),
    "a JPEG header of 65500 × 65500": Input("PIXEL_LIMIT", parse_as_it_is, lambda: jpeg_header(65_500, 65_500)),
    "a JPEG header of 10000 × 9999, and 16 × 8 pixels": Input("accepted", parse_picture, lambda: jpeg_header(HEIGHT, WIDTH)),
    "a JPEG that ends inside its frame header": Input("IMAGE_CORRUPT", parse_picture, lambda: b"\xff\xd8\xff\xc0\0\x11"),
    "a TIFF with its directory at 2^64": Input("IMAGE_CORRUPT", parse_picture, lambda: b"II+\0\x08\0\0\0" + b"\xff" * 16),
    "a JPEG of 12 scans": Input("accepted", parse_picture, lambda: jpeg_of_scans(6)),
    "a JPEG of 10,000 scans": Input("IMAGE_UNSUPPORTED", parse_picture, lambda: jpeg_of_scans(10_000)),
    "a CMYK JPEG of 100 megapixels": Input("accepted", parse_picture, lambda: saved("CMYK", "JPEG")),
    "a PNG bomb of 60000 × 60000": Input("PIXEL_LIMIT", parse_as_it_is, lambda: png(1, 0, 60_000, 60_000)),
    "a PNG of 100 megapixels and no rows": Input("IMAGE_CORRUPT", parse_picture, lambda: png(8, 6, rows=0)),
    "a PNG of 100 megapixels and one row too few": Input("IMAGE_CORRUPT", parse_picture, lambda: png(8, 2, rows=HEIGHT - 1)),
    "a PNG with 10 times the rows": Input("accepted", parse_picture, lambda: png(1, 0, rows=10 * HEIGHT)),
    "a PNG with 500 MB of compressed text": Input(
        "IMAGE_CORRUPT", parse_picture, lambda: png(1, 0, more=png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(500_000_000))))
    ),
    "a TIFF of 100 megapixels, 16 bits": Input(
        "accepted", parse_picture, lambda: saved("I;16", "TIFF", compression="tiff_adobe_deflate")
    ),
    "a TIFF of 100 megapixels, CMYK": Input("accepted", parse_picture, lambda: saved("CMYK", "TIFF", compression="tiff_lzw")),
    "a TIFF of 100 megapixels, one bit": Input("accepted", parse_picture, lambda: saved("1", "TIFF", compression="group4")),
    "a GIF of 100 megapixels": Input("accepted", parse_picture, lambda: saved("P", "GIF")),
    "a WebP of 100 megapixels": Input("PIXEL_LIMIT", parse_picture, lambda: saved("RGB", "WEBP", lossless=True)),
    "a BMP of 100 megapixels": Input("accepted", parse_picture, lambda: saved("L", "BMP")),
}
PNG_KINDS = {
    "16 bits of grey": (16, 0, b""),
    "16 bits of RGB": (16, 2, b""),
    "16 bits of RGBA": (16, 6, b""),
    "a palette": (8, 3, png_chunk(b"PLTE", bytes(range(6)))),
    "RGB": (8, 2, b""),
    "grey with alpha": (8, 4, b""),
    "RGBA": (8, 6, b""),
}
for kind, (depth, colour, more) in PNG_KINDS.items():
    make = partial(png, depth, colour, more=more)
    INPUTS[f"a PNG of 100 megapixels, {kind}"] = Input("accepted", parse_picture, make)
BOMBS = {"bomb_100MP.png": "accepted", "bomb_1bit_60000x60000.png": "PIXEL_LIMIT", "hdr_only_65500.jpg": "PIXEL_LIMIT"}
BOMBS |= {"png_textbomb.png": "IMAGE_CORRUPT"}
if ODD_IMAGES.is_dir():
    INPUTS |= {name: Input(expected, parse_as_it_is, (ODD_IMAGES / name).read_bytes) for name, expected in BOMBS.items()}


def try_one(name: str) -> None:
    """In a process of its own: the outcome, the seconds of processor time, the megabytes beyond those in use before."""
    one = INPUTS[name]
    given = one.make()
    Path("/proc/self/clear_refs").write_text("5")  # so that the peak of making the input does not count
    before = resident("VmHWM")
    began = time.process_time()
    outcome = one.parse(given)
    seconds = time.process_time() - began
    print(json.dumps([outcome, seconds, resident("VmHWM") - before]))


def resident(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024


Measured = dict[str, tuple[str, float, float]]
measured: Measured = {}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by Linux's /proc")
@pytest.mark.parametrize("name", INPUTS)
def test_a_single_input(name: str) -> None:
    def limit() -> None:  # a machine with little memory is not to be brought down; the imports have room in this
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, name]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, preexec_fn=limit, timeout=120, check=False
    )  # making the input may take its time
    assert done.returncode == 0, done.stderr[-3000:]
    outcome, seconds, megabytes = json.loads(done.stdout)
    measured[name] = outcome, seconds, megabytes
    assert outcome == INPUTS[name].expected
    assert seconds < MAX_SECONDS
    assert megabytes < MAX_MEGABYTES


def test_the_figures(figures: dict[str, str]) -> None:
    if set(measured) != set(INPUTS):
        pytest.skip("not all of the inputs were tried")
    counted = Counter(outcome for outcome, _, _ in measured.values())
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counted.items(), key=lambda one: (-one[1], one[0])))
    slowest = max(measured, key=lambda name: measured[name][1])
    largest = max(measured, key=lambda name: measured[name][2])
    figures["The nastiest single inputs, each in a process of its own"] = f"{len(measured)} tried: {outcomes}"
    figures["Longest time for a single bad input"] = f"{measured[slowest][1]:.1f} s ({slowest})"
    figures["Largest memory for a single bad input"] = f"{measured[largest][2]:.0f} MB ({largest})"


def test_the_figures_of_the_fuzzers(figures: dict[str, str]) -> None:
    if not FIGURES.exists():
        pytest.skip("`make fuzz` has left no figures")
    for tried, outcome in json.loads(FIGURES.read_text(encoding="utf-8")).items():
        figures[f"Inputs for {tried}"] = outcome


if __name__ == "__main__":
    try_one(sys.argv[1])
