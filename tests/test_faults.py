"""What FAULTS.md promises of bad input, line by line: hold this beside its table "The list".

A line has its group, input and outcome in the document's words; each of its cases names the words of the input that it stands
for. The cases lie in one data set, each in an image of its own beside a sound annotation, and go through one run of the whole
pipeline; only a file that ends the job has a run of its own, and what no JSON can hold goes straight to `rasterize_image`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
from conftest import REAL_DATA
from pictures import (
    HEIGHT,
    TURNS,
    WIDTH,
    animated,
    corrupt_jpeg,
    jpeg_of,
    lying,
    picture,
    png_of,
    saved,
    with_orientation,
)
from PIL import Image
from sources import rasterize_image

from beam_pipeline.cli import main
from beam_pipeline.options import RunOptions
from beam_pipeline.reference import CHECKOUT
from beam_pipeline.run import run
from transforms import run_lengths
from transforms.records import AnnotatedImage, Fix, Instance, Polygons, ReasonCode
from transforms.tfrecord import read_records

DOCUMENT = REAL_DATA.parent / "FAULTS.md"
MAX_PIXELS, MAX_RECORD_BYTES = 100_000, 120_000
SQUARE = "[[5, 3, 20, 3, 20, 13, 5, 13]]"
SOUND = saved(picture(), "JPEG")
NAN = float("nan")


# ------------------------------------------------------------------------------------------------- how a case is told


@dataclass
class Case:
    """Something bad, and what stands in the document for it. Fields of entries are JSON text; None leaves one out.

    `expects` is a reason code, or the fixes that are counted; by default the code of the line.
    """

    words: str
    detail: str = ""
    image: dict[str, str | None] = field(default_factory=dict)
    annotations: list[dict[str, str | None]] = field(default_factory=list)
    again: bool = False  # the image entry comes twice
    data: bytes | None = SOUND  # the image's file
    link: str | None = None  # what its file is a link to
    instance: Instance | None = None  # for `rasterize_image`
    text: bytes | None = None  # the whole annotation file
    expects: str | tuple[str, ...] | None = None
    says: tuple[str, ...] = ()
    lost: str = "annotation"

    def __str__(self) -> str:
        return f"{self.words}: {self.detail}" if self.detail else self.words


class Line(NamedTuple):
    group: str
    input: str
    outcome: str
    cases: list[Case]

    @property
    def code(self) -> str:
        return next(iter(re.findall(r"`([A-Z_]+)`", self.outcome)), "")

    def expects(self, case: Case) -> str | tuple[str, ...]:
        return self.code if case.expects is None else case.expects


def rle(counts: object, size: str = f"[{HEIGHT}, {WIDTH}]") -> str:
    return f'{{"size": {size}, "counts": {json.dumps(counts)}}}'


def packed(*runs: int) -> str:
    return run_lengths.encode_counts(np.array(runs)).decode()


def annotation(words: str, segmentation: str | None, detail: str = "", **more: Any) -> Case:
    """An annotation with this segmentation, and `fields`."""
    return Case(words, detail, annotations=[{"segmentation": segmentation, **more.pop("fields", {})}], **more)


def element(words: str, polygon: list[float], box: tuple[float, float, float, float], **more: Any) -> Case:
    """What no JSON can hold, though another source might."""
    shape = Polygons(np.array(polygon, "<f8").tobytes(), (len(polygon),))
    return Case(words, "as a float", instance=Instance(7, 1, box, None, False, shape), **more)


def image(words: str, data: bytes | None = SOUND, detail: str = "", **more: Any) -> Case:
    """An image that is lost."""
    fields = {name: json.dumps(value) for name, value in more.pop("fields", {}).items()}
    return Case(words, detail, image=fields, data=data, lost="image", **more)


def written(words: str, data: bytes, fixes: Iterable[str], detail: str = "", size: tuple[int, int] = (HEIGHT, WIDTH)) -> Case:
    """An image that is kept, and counted."""
    fields: dict[str, str | None] = {"height": str(size[0]), "width": str(size[1])}
    return Case(words, detail, image=fields, data=data, expects=tuple(fixes))


def path(words: str, detail: str = "", name: str | None = None) -> Case:
    fields = {"file_name": words if name is None else name}
    return image(words, None, detail, fields=fields, says=("leads out of the image folder",))


def document(images: Iterable[str], annotations: Iterable[str], categories: str = '{"id": 1, "name": "cat"}') -> bytes:
    text = '{"images": [%s], "annotations": [%s], "categories": [%s]}'
    return (text % (",\n".join(images), ",\n".join(annotations), categories)).encode()


def entry(**fields: str | None) -> str:
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items() if text is not None) + "}"


def file(words: str, text: bytes, detail: str = "", **more: Any) -> Case:
    return Case(words, detail, text=text, **more)


def annotation_file(**fields: str) -> bytes:
    sound = {"id": "1", "image_id": "1", "category_id": "1", "segmentation": SQUARE}
    return document([entry(id="1", file_name='"1.jpg"', height=str(HEIGHT), width=str(WIDTH))], [entry(**sound | fields)])


def mode(name: str) -> Image.Image:
    return picture(mode=name)


# ----------------------------------------------------------------------------------------------------------- the list

TIFF_16 = saved(Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 60), "TIFF")
NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (200, 301, 3), np.uint8))

LIST = [
    Line(
        "run lengths",
        "unterminated, short sum, long sum, negative, > 2^32, empty, NUL, non-ASCII",
        "`RLE_MALFORMED`",
        [
            annotation("unterminated", rle("000o")),
            annotation("short sum", rle(packed(100, 50))),
            annotation("short sum", rle([100, 50]), "as a list"),
            annotation("long sum", rle(packed(100, 861))),
            annotation("long sum", rle([100, 861]), "as a list"),
            annotation("negative", rle("OE0")),
            annotation("negative", rle([-10, 970]), "as a list"),
            annotation("> 2^32", rle(packed(0, 2**32 + 960))),
            annotation("> 2^32", rle(packed(0, 2**32, 960)), "960 modulo 2^32"),
            annotation("> 2^32", rle([0, 2**32 + 960]), "as a list"),
            annotation("empty", rle("")),
            annotation("empty", rle([]), "list"),
            annotation("NUL", rle("5\0n")),
            annotation("non-ASCII", rle("5é")),
        ],
    ),
    Line(
        "run lengths",
        "size ≠ the image's",
        "`RLE_SIZE_MISMATCH`",
        [
            annotation("size ≠ the image's", rle(packed(100, 860), f"[{WIDTH}, {HEIGHT}]"), says=("40 × 24", "24 × 40")),
            annotation("size ≠ the image's", rle([100, 900], "[25, 40]"), "as a list", says=("25 × 40", "24 × 40")),
        ],
    ),
    Line(
        "run lengths",
        "H or W 0 or over the cap",
        "`DIM_LIMIT`",
        [
            annotation("H or W 0", rle("0", f"[0, {WIDTH}]")),
            annotation("H or W 0", rle([], f"[{HEIGHT}, 0]"), "W, as a list"),
            annotation("over the cap", rle(packed(0, 10**10), "[100000, 100000]")),
            annotation("over the cap", rle([0, MAX_PIXELS + 1], f"[1, {MAX_PIXELS + 1}]"), "by a pixel, as a list"),
            image("H or W 0", SOUND, "of the image", fields={"height": 0}),
            image("over the cap", SOUND, "of the image", fields={"height": 400, "width": 300}),
        ],
    ),
    Line(
        "polygon",
        "NaN, inf, None, 1e9, strings, booleans",
        "`COORD_INVALID`",
        [
            element("NaN", [1, 1, 4, NAN, 4, 3], (0.0, 0.0, 4.0, 4.0)),
            annotation("NaN", '[[1, 1, 4, 1, "NaN", 3]]', "as text"),
            annotation("inf", "[[1, 1, 4, 1, 1e999, 3]]"),
            annotation("inf", "[[1, 1, 4, 1, -1e999, 3]]", "negative"),
            annotation("None", "[[1, 1, 4, 1, null, 3]]"),
            annotation("1e9", "[[1, 1, 4, 1, 1e9, 3]]"),
            annotation("1e9", "[[1, 1, 4, 1, 100001, 3]]", "a little over the bound"),
            annotation("strings", '[[1, 1, 4, 1, "4", 3]]'),
            annotation("booleans", "[[1, 1, 4, 1, true, 3]]"),
        ],
    ),
    Line(
        "polygon",
        "odd count, < 6 numbers, `[]`, wrong nesting",
        "`POLY_MALFORMED`",
        [
            annotation("odd count", "[[1, 1, 4, 1, 4, 3, 1]]"),
            annotation("< 6 numbers", "[[1, 1, 4, 1]]", "like a box"),
            annotation("< 6 numbers", "[[1, 1, 4, 1, 4, 3], []]", "in the second ring"),
            annotation("[]", "[]"),
            annotation("wrong nesting", "[1, 1, 4, 1, 4, 3]"),
            annotation("wrong nesting", "[[[1, 1, 4, 1, 4, 3]]]", "too deep"),
            annotation("wrong nesting", "[[1, 1], [4, 1], [4, 3]]", "points apart"),
            annotation("wrong nesting", '"1 1 4 1 4 3"', "text"),
        ],
    ),
    Line(
        "polygon",
        "wholly outside, or nothing left after rasterizing",
        "`EMPTY_MASK`",
        [
            annotation("wholly outside", "[[50, 30, 60, 30, 60, 40]]"),
            annotation("nothing left after rasterizing", "[[1, 1, 3, 1, 2, 1]]", "a line"),
            annotation("nothing left after rasterizing", rle([HEIGHT * WIDTH]), "run lengths"),
        ],
    ),
    Line(
        "polygon",
        "−1, or slightly over the edge",
        "clipped, counted",
        [
            annotation("−1", "[[-1, 3, 25, 3, 25, 13]]", expects=("POLYGON_CLIPPED",)),
            annotation("slightly over the edge", "[[5, 3, 40.5, 3, 25, 24.01]]", expects=("POLYGON_CLIPPED",)),
        ],
    ),
    Line(
        "polygon",
        "bow-tie",
        "kept, counted",
        [annotation("bow-tie", "[[5, 3, 25, 13, 25, 3, 5, 13]]", expects=("POLYGON_CROSSES_ITSELF",))],
    ),
    Line(
        "polygon",
        "> 100 000 points",
        "`POINT_LIMIT`",
        [
            annotation("> 100 000 points", "[[" + "1, 1, 9, 1, 9, 9, " * 33_333 + "1, 1, 9, 1]]", says=("100001 points",)),
            annotation("> 100 000 points", "[" + "[1, 1, 9, 1, 9, 9], " * 33_333 + "[1, 1, 9, 1, 9, 9]]", "in many rings"),
        ],
    ),
    Line(
        "record",
        "the same annotation id twice",
        "`DUP_ID`",
        [
            annotation("the same annotation id twice", SQUARE, fields={"id": "SOUND"}),
            annotation("the same annotation id twice", SQUARE, "in another image", fields={"id": "FIRST"}),
        ],
    ),
    Line(
        "record",
        "the same image id twice",
        "`DUP_IMAGE`",
        [image("the same image id twice", again=True)],
    ),
    Line(
        "record",
        "unknown category",
        "`CATEGORY_UNKNOWN`",
        [annotation("unknown category", SQUARE, fields={"category_id": "99"})],
    ),
    Line(
        "record",
        "annotation without its image",
        "`IMAGE_ORPHAN`",
        [annotation("annotation without its image", SQUARE, fields={"image_id": "999999"})],
    ),
    Line(
        "record",
        "lone surrogate in a name",
        "`TEXT_INVALID`; other Unicode is fine",
        [
            image("lone surrogate in a name", fields={"file_name": "a\ud800.jpg"}),
            file(
                "lone surrogate in a name",
                document([], [], '{"id": 1, "name": "\\ud800"}'),
                "a category's: the job ends",
                says=("category 1",),
            ),
            Case("other Unicode", image={"file_name": json.dumps("ünï 日本 😀 e\u0301.jpg")}, expects=()),
        ],
    ),
    Line(
        "record",
        "box missing, NaN, or zero-sized",
        "box taken from the mask, counted",
        [
            annotation("box missing", SQUARE, fields={"bbox": None}, expects=("BOX_FROM_MASK",)),
            annotation("box missing", SQUARE, "null", fields={"bbox": "null"}, expects=("BOX_FROM_MASK",)),
            annotation("NaN", SQUARE, "as text", fields={"bbox": '[1, 1, "NaN", 5]'}, expects=("BOX_FROM_MASK",)),
            annotation("NaN", SQUARE, "infinite", fields={"bbox": "[1, 1, 1e999, 5]"}, expects=("BOX_FROM_MASK",)),
            element("NaN", [1, 1, 4, 1, 4, 3], (0.0, NAN, 4.0, 4.0), expects=("BOX_FROM_MASK",)),
            annotation("zero-sized", SQUARE, fields={"bbox": "[5, 3, 0, 10]"}, expects=("BOX_FROM_MASK",)),
        ],
    ),
    Line("image", "missing", "`IMAGE_MISSING`", [image("missing", None)]),
    Line(
        "image",
        "empty, HTML, truncated, corrupt",
        "`IMAGE_CORRUPT`",
        [
            image("empty", b"", says=("the file is empty",)),
            image("HTML", b"<html>404 Not Found</html>", says=("<html>404",)),
            image("truncated", SOUND[:-2], "by two bytes"),
            image("truncated", SOUND[: len(SOUND) // 2], "by half"),
            image("truncated", saved(picture(), "PNG")[:-1], "a PNG by a byte"),
            image("truncated", png_of(HEIGHT, WIDTH, 8, 0, [bytes(WIDTH)] * (HEIGHT - 1)), "a PNG by a row"),
            image("corrupt", corrupt_jpeg(200, 301), "in mid-stream", fields={"height": 200, "width": 301}),
            image("corrupt", saved(picture(), "PNG").replace(b"IDAT", b"IDAU"), "a PNG's chunk"),
        ],
    ),
    Line(
        "image",
        "HEIC, 12-bit, EPS, animated",
        "`IMAGE_UNSUPPORTED`",
        [
            image("HEIC", b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"),
            image("12-bit", jpeg_of(0xC1, 12)),
            image("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 24\n"),
            image("animated", animated("GIF"), "GIF"),
            image("animated", animated("WEBP", lossless=True), "WebP"),
            image("animated", animated("PNG"), "PNG"),
        ],
    ),
    Line("image", "over the pixel cap", "`PIXEL_LIMIT`", [image("over the pixel cap", saved(Image.new("L", (400, 300)), "PNG"))]),
    Line(
        "image",
        "dimensions disagree with the annotations",
        "`DIM_MISMATCH`, both sizes in the message",
        [
            image("dimensions disagree with the annotations", saved(picture(25, 41), "PNG"), says=("25 × 41", "24 × 40")),
            image(
                "dimensions disagree with the annotations", saved(picture(40, 24), "PNG"), "swapped", says=("40 × 24", "24 × 40")
            ),
        ],
    ),
    Line(
        "image",
        "EXIF 2…8",
        "a documented policy: where the annotations' size fits the upright image, pixels are turned upright; "
        "where it fits the stored one, left alone; counted",
        [
            *(
                written(
                    "EXIF 2…8",
                    with_orientation(turn, "JPEG"),
                    ["IMAGE_TURNED"],
                    f"{turn}, turned upright",
                    (WIDTH, HEIGHT) if turn > 4 else (HEIGHT, WIDTH),
                )
                for turn in TURNS
            ),
            *(
                written("EXIF 2…8", with_orientation(turn, "JPEG"), ["IMAGE_NOT_TURNED"], f"{turn}, left alone")
                for turn in (5, 6, 7, 8)
            ),
        ],
    ),
    Line(
        "image",
        "CMYK, palette, alpha, 16-bit, TIFF, WebP…",
        "converted to what both readers decode, counted",
        [
            written("CMYK", saved(mode("CMYK"), "JPEG"), ["IMAGE_CONVERTED"]),
            written("palette", saved(picture().quantize(16), "PNG"), ["IMAGE_CONVERTED"]),
            written("alpha", saved(mode("RGBA"), "PNG"), ["IMAGE_CONVERTED"]),
            written("16-bit", TIFF_16, ["IMAGE_CONVERTED"]),
            written("TIFF", saved(picture(), "TIFF"), ["IMAGE_CONVERTED"]),
            written("WebP", saved(picture(), "WEBP"), ["IMAGE_CONVERTED"]),
            written("…", saved(picture(), "BMP"), ["IMAGE_CONVERTED"], "BMP"),
            written("…", saved(picture(), "GIF"), ["IMAGE_CONVERTED"], "GIF of one frame"),
            written("…", saved(picture(), "PPM"), ["IMAGE_CONVERTED"], "PPM"),
            written("…", saved(mode("1"), "PNG"), ["IMAGE_CONVERTED"], "PNG of one bit"),
        ],
    ),
    Line(
        "paths",
        "`../../etc/passwd`, `/etc/passwd`, `gs://other/x`, `http://169.254.169.254/`, a link that leads out, NUL, backslash",
        "`PATH_FORBIDDEN`; not one open or connection outside the image root",
        [
            path("../../etc/passwd"),
            path("/etc/passwd"),
            path("gs://other/x"),
            path("http://169.254.169.254/"),
            image("a link that leads out", None, link="../secret.jpg", says=("is a link to",)),
            image(
                "a link that leads out", None, "through a folder", fields={"file_name": "out/secret.jpg"}, says=("is a link to",)
            ),
            path("NUL", name="1000.jpg\0"),
            path("backslash", name="..\\secret.jpg"),
        ],
    ),
    Line(
        "file",
        "1e6-deep nesting, cut off, 10 000-digit integer, NaN literal, wrong top-level type",
        "`JSON_INVALID`: the job ends with a clear message and exit ≠ 0",
        [
            file("1e6-deep nesting", b"[" * 10**6 + b"]" * 10**6),
            file(
                "1e6-deep nesting", annotation_file(note="[" * 10**6 + "]" * 10**6), "in an annotation", says=("nested deeper",)
            ),
            file("1e6-deep nesting", annotation_file(note='{"a": ' * 10**6), "that never ends", says=("nested deeper",)),
            file("cut off", annotation_file()[:-30], says=("may have been cut off",)),
            file("10 000-digit integer", annotation_file(id="1" * 10_000)),
            file("10 000-digit integer", annotation_file(segmentation=f"[[1, 1, 4, 1, 4, {'9' * 10_000}]]"), "as a coordinate"),
            file("NaN literal", annotation_file(bbox="[1, 1, NaN, 5]"), says=("NaN is not JSON",)),
            file("NaN literal", annotation_file(segmentation="[[1, 1, 4, 1, 4, -Infinity]]"), "or infinity"),
            file("wrong top-level type", b"[]", says=("expected a JSON object",)),
            file("wrong top-level type", b'"text"', "text"),
        ],
    ),
    Line(
        "size",
        "an Example over its cap",
        "`RECORD_LIMIT`, before it is built",
        [
            image(
                "an Example over its cap", saved(NOISE, "PNG"), fields={"height": 200, "width": 301}, says=("(--max_record_mb)",)
            )
        ],
    ),
]

CASES = [(line, case) for line in LIST for case in line.cases]
IN_ONE_RUN = [(line, case) for line, case in CASES if case.text is None and case.instance is None]


def ids(cases: Iterable[tuple[Line, Case]]) -> list[str]:
    return [f"{line.group}: {case}" for line, case in cases]


# ------------------------------------------------------------------------------------------------ against the document


def test_this_is_the_list_of_the_document() -> None:
    if not DOCUMENT.is_file():
        pytest.skip(f"there is no {DOCUMENT}")
    table = DOCUMENT.read_text(encoding="utf-8").split("## The list")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", table, re.MULTILINE)][2:]
    found, group = [], ""
    for first, given, outcome in rows:
        group = first or group
        found.append((group, given, outcome))
    assert found == [line[:3] for line in LIST]


def test_every_code_of_the_document_is_one_of_ours() -> None:
    codes = {code for line in LIST for code in re.findall(r"`([A-Z_]+)`", line.outcome)}
    assert codes - {"JSON_INVALID"} <= set(ReasonCode.__members__)


@pytest.mark.parametrize("line", LIST, ids=lambda line: f"{line.group}: {line.input}")
def test_all_words_of_a_line_have_a_case(line: Line) -> None:
    left = line.input.replace("`", "")
    for words in sorted({case.words for case in line.cases}, key=len, reverse=True):
        assert words in f"{left} {line.outcome}".replace("`", "") or words in line.input.replace("`", ""), words
        left = left.replace(words, "", 1)
    assert re.fullmatch(r"(,| |or)*", left), left


# ------------------------------------------------------------------------------------------------------------ one run


class Outcome(NamedTuple):
    folder: Path
    manifest: dict[str, Any]
    rejects: dict[tuple[str, int, int | None], list[dict[str, Any]]]
    fixes: Counter[str]
    records: dict[int, bytes]


def image_id(number: int) -> int:
    return 1000 + number


def sound_id(number: int) -> int:
    return 10 * image_id(number)


def entries(number: int, case: Case) -> tuple[list[str], list[str]]:
    """The image entries and the annotations of a case: a sound one, and what is bad."""
    height, width = case.image.get("height", str(HEIGHT)), case.image.get("width", str(WIDTH))
    entry_of_image = {
        "id": str(image_id(number)),
        "file_name": f'"{image_id(number)}.jpg"',
        "height": height,
        "width": width,
        "coco_url": '"http://169.254.169.254/coco.jpg"',
    }
    images = [entry(**entry_of_image | case.image)] * (2 if case.again else 1)
    sound: dict[str, str | None] = {
        "id": str(sound_id(number)),
        "image_id": str(image_id(number)),
        "category_id": "1",
        "segmentation": SQUARE,
        "bbox": "[5, 3, 15, 10]",
    }
    annotations = [entry(**sound)]
    for fields in case.annotations:
        one = sound | {"id": str(sound_id(number) + 1)} | fields
        one["id"] = {"SOUND": str(sound_id(number)), "FIRST": str(sound_id(0))}.get(str(one["id"]), one["id"])
        annotations.append(entry(**one))
    return images, annotations


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """All cases in one data set, run once."""
    folder = tmp_path_factory.mktemp("faults")
    root = folder / "images"
    root.mkdir()
    (folder / "secret.jpg").write_bytes(SOUND)
    (root / "out").symlink_to("..")
    images, annotations = [], []
    for number, (_, case) in enumerate(IN_ONE_RUN):
        of_case = entries(number, case)
        images += of_case[0]
        annotations += of_case[1]
        name = json.loads(case.image.get("file_name") or f'"{image_id(number)}.jpg"')
        if case.link is not None:
            (root / name).symlink_to(case.link)
        elif case.data is not None and "\ud800" not in name:
            (root / name).write_bytes(case.data)
    (folder / "annotations.json").write_bytes(document(images, annotations))
    output = folder / "records"
    run(
        RunOptions(
            annotations=str(folder / "annotations.json"),
            images=str(root),
            output=str(output),
            num_shards="2",
            max_megapixels=MAX_PIXELS / 1e6,
            max_record_mb=MAX_RECORD_BYTES / 1e6,
            max_reject_fraction=1.0,
        ),
        [],
    )
    assert (output / "_SUCCESS").exists()
    rejects: dict[tuple[str, int, int | None], list[dict[str, Any]]] = {}
    for text in (output / "rejects.jsonl").read_text(encoding="utf-8").splitlines():
        reject = json.loads(text)
        rejects.setdefault((reject["kind"], reject["image_id"], reject["annotation_id"]), []).append(reject)
    statistics = json.loads((output / "statistics.json").read_text(encoding="utf-8"))
    records = {}
    for shard in sorted(output.glob("*.tfrecord")):
        with shard.open("rb") as opened:
            for record in read_records(opened):
                (found,) = re.findall(rb"image/source_id.{6}(\d{4})", record, re.DOTALL)  # behind lengths and kinds
                records[int(found)] = record
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    return Outcome(output, manifest, rejects, Counter(statistics["train"]["fixes"]), records)


def lost_of(number: int, case: Case) -> dict[tuple[str, int, int | None], int]:
    """How often each thing of a case is in the rejects."""
    image, sound = image_id(number), sound_id(number)
    if case.again:
        return {("image", image, None): 1}
    if case.lost == "image":
        return {("image", image, None): 1, ("annotation", image, sound): 1}
    (fields,) = case.annotations
    annotation_id = {"SOUND": sound, "FIRST": sound_id(0)}.get(str(fields.get("id")), sound + 1)
    return {("annotation", int(fields.get("image_id") or image), annotation_id): 1}


@pytest.mark.parametrize("number", range(len(IN_ONE_RUN)), ids=ids(IN_ONE_RUN))
def test_a_line_of_the_list(outcome: Outcome, number: int) -> None:
    line, case = IN_ONE_RUN[number]
    expected = line.expects(case)
    lost = {} if isinstance(expected, tuple) else lost_of(number, case)
    for key, count in lost.items():
        assert [reject["reason"] for reject in outcome.rejects.get(key, [])] == [expected] * count
    assert {key for key in outcome.rejects if key[1] == image_id(number)} <= set(lost)
    assert (image_id(number) in outcome.records) is (expected != line.code or case.lost == "annotation" or case.again)
    for said in case.says:
        assert said in outcome.rejects[next(iter(lost))][0]["message"]


def test_what_is_put_right_or_kept_is_counted_exactly(outcome: Outcome) -> None:
    expected: Counter[str] = Counter()
    for line, case in IN_ONE_RUN:
        fixes = line.expects(case)
        if isinstance(fixes, tuple):
            expected.update(fixes)
    assert outcome.fixes == expected
    asked_for = {"IMAGE_SCALED", "IMAGE_TILED"}  # see test_views
    assert set(expected) == set(Fix.__members__) - {"BOX_CLIPPED"} - asked_for


def test_everything_comes_out_exactly_once_and_the_totals_balance(outcome: Outcome) -> None:
    images = sum(1 + case.again for _, case in IN_ONE_RUN)
    annotations = sum(1 + len(case.annotations) for _, case in IN_ONE_RUN)
    for kind, total in (("image", images), ("annotation", annotations)):
        counts = outcome.manifest[f"{kind}s"]
        assert counts["read"] == total == counts["written"] + counts["rejected"]
        assert counts["rejected"] == sum(len(found) for key, found in outcome.rejects.items() if key[0] == kind)
    assert outcome.manifest["images"]["written"] == len(outcome.records)


IN_MEMORY = [(line, case) for line, case in CASES if case.instance is not None]


@pytest.mark.parametrize(("line", "case"), IN_MEMORY, ids=ids(IN_MEMORY))
def test_a_line_of_the_list_that_no_json_can_hold(line: Line, case: Case) -> None:
    assert case.instance is not None
    drawn, rejects = rasterize_image(AnnotatedImage(1, "1.jpg", HEIGHT, WIDTH, (case.instance,)))
    assert drawn is not None
    expected = line.expects(case)
    if isinstance(expected, str):
        assert [reject.reason for reject in rejects] == [expected]
    else:
        assert [instance.fixes for instance in drawn.instances] == [expected]


# -------------------------------------------------------------------------------------------------- files that end it

FILES = [(line, case) for line, case in CASES if case.text is not None]


@pytest.mark.parametrize(("line", "case"), FILES, ids=ids(FILES))
def test_a_file_that_can_not_be_used_ends_the_job(
    line: Line, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(SOUND)
    (tmp_path / "annotations.json").write_bytes(case.text or b"")
    output = tmp_path / "records"
    status = main(
        ["run", f"--annotations={tmp_path / 'annotations.json'}", f"--images={tmp_path / 'images'}", f"--output={output}"]
    )
    said = capsys.readouterr().err
    assert status == 2
    assert said.count("\n") == 1
    assert said.startswith(f"maskbeam: JSON_INVALID: {tmp_path / 'annotations.json'}: ")
    assert len(said) < 600
    for words in (line.code, *case.says):
        assert words in said
    assert not (output / "_SUCCESS").exists()
    assert not list(output.glob("*.tfrecord"))


# -------------------------------------------------------------------------------------------------------------- paths

WATCHED_RUN = """
import json, socket, sys
from beam_pipeline.options import RunOptions
from beam_pipeline.run import run
from transforms import images

folder, spoil = sys.argv[1:]
if spoil == "locate":
    images.ImageFolder.locate = lambda self, name: name if name.startswith("/") else f"{self.root}/{name}"
seen = []
WATCHED = ("open", "os.listdir", "os.scandir", "os.readlink", "os.rename", "os.remove", "os.mkdir", "shutil.", "glob.", "urllib.",
           "socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.send", "http.", "subprocess.", "os.posix_spawn",
           "os.system", "os.exec", "os.fork")
sys.addaudithook(lambda event, said: seen.append((event, str(said[0]))) if event.startswith(WATCHED) else None)
if spoil == "connect":
    try:
        socket.create_connection(("127.0.0.1", 9), 0.1)
    except OSError:
        pass
run(RunOptions(annotations=f"{folder}/annotations.json", images=f"{folder}/images", output=f"{folder}/records",
               workers="1", max_reject_fraction=1.0), [])  # all of it here, where it is seen
print(json.dumps(seen))
"""
NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "../secret.jpg",
    "sub/../../secret.jpg",
    "gs://other/x",
    "s3://other/x",
    "http://169.254.169.254/",
    "https://169.254.169.254/latest/meta-data/",
    "file:///etc/passwd",
    "link.jpg",
    "out/secret.jpg",
    "1.jpg\0",
    "..\\secret.jpg",
)
URL = "http://169.254.169.254/latest"


def watched_run(folder: Path, names: Sequence[str], spoil: str = "") -> list[tuple[str, str]]:
    """What a run opens, lists and connects to, in a process of its own: the events of Python's audit, and what they are of."""
    (folder / "images").mkdir(parents=True)
    (folder / "secret.jpg").write_bytes(SOUND)
    (folder / "images" / "1.jpg").write_bytes(SOUND)
    (folder / "images" / "out").symlink_to("..")
    (folder / "images" / "link.jpg").symlink_to("../secret.jpg")
    urls = {"coco_url": URL, "flickr_url": URL, "url": URL, "license": 1, "height": HEIGHT, "width": WIDTH}
    content = {
        "info": {"url": URL, "contributor": "../secret.jpg"},
        "licenses": [{"id": 1, "url": URL, "name": "/etc/passwd"}],
        "images": [{"id": number, "file_name": name} | urls for number, name in enumerate(("1.jpg", *names), 1)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "segmentation": json.loads(SQUARE), "url": URL}
            for number in range(1, len(names) + 2)
        ],
        "categories": [{"id": 1, "name": "../../etc/passwd", "url": URL}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "tmp").mkdir()
    importlib.import_module("matplotlib.font_manager")  # which lists the machine's fonts, at its first import of all
    command = [sys.executable, "-c", WATCHED_RUN, str(folder), spoil]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder / "tmp")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return [(event, of) for event, of in json.loads(done.stdout.splitlines()[-1])]


def led_out(folder: Path, seen: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The events that are neither of the job's own files nor of Python's modules, or of what these keep."""
    own = {folder / "annotations.json", folder / "images", folder / "images" / "1.jpg"}
    kept = {matplotlib.get_cachedir(), matplotlib.get_configdir()}  # its list of fonts
    modules = [Path(place).resolve() for place in {sys.prefix, sys.base_prefix, *sys.path, CHECKOUT, *kept} if place]

    def allowed(event: str, of: str) -> bool:
        if not event.startswith(("open", "os.", "shutil.", "glob.")) or event.startswith(("os.posix", "os.system", "os.exec")):
            return False
        if event == "open" and of.isdecimal():  # a file descriptor, of what was opened before
            return True
        path = Path(of)
        real = path.resolve()
        if path in own or real.is_relative_to(folder / "records") or real.is_relative_to(folder / "tmp"):
            return True
        return not real.is_relative_to(folder) and any(real.is_relative_to(place) for place in modules)

    return sorted({one for one in seen if not allowed(*one)})


def test_a_run_opens_nothing_outside_the_image_folder_and_connects_to_nothing(tmp_path: Path) -> None:
    seen = watched_run(tmp_path, NAMES)
    assert ("open", str(tmp_path / "images" / "1.jpg")) in seen
    assert ("open", str(tmp_path / "annotations.json")) in seen
    assert led_out(tmp_path, seen) == []
    manifest = json.loads((tmp_path / "records" / "manifest.json").read_text())
    assert manifest["images"]["written"] == 1
    assert manifest["reasons"]["image"] == {"PATH_FORBIDDEN": len(NAMES)}


def test_an_open_outside_would_be_seen(tmp_path: Path) -> None:
    seen = watched_run(tmp_path, ("/etc/passwd", "../secret.jpg", "link.jpg", "out/secret.jpg"), "locate")
    found = {Path(of).resolve() for event, of in led_out(tmp_path, seen) if event == "open"}
    assert found == {tmp_path / "secret.jpg", Path("/etc/passwd")}


def test_a_connection_would_be_seen(tmp_path: Path) -> None:
    assert "socket.connect" in {event for event, _ in led_out(tmp_path, watched_run(tmp_path, (), "connect"))}


# --------------------------------------------------------------------------------------------- orientation, to the end

TURNED_FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


def test_masks_and_boxes_lie_on_what_they_were_drawn_on_whatever_the_orientation(tmp_path: Path, tf: Any) -> None:
    """A red rectangle, annotated where an upright image shows it, or where the stored one has it: the mask is what is red."""
    (tmp_path / "images").mkdir()
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[8:16, 16:40] = 255, 0, 0
    images, annotations = [], []
    for image_format, options in TURNED_FORMATS.items():
        for turn in TURNS:
            stored = lying(upright, turn)
            data = with_orientation(turn, image_format, stored, **options)
            for annotated in (upright, stored) if turn > 4 else (upright,):
                number = len(images) + 1
                (tmp_path / "images" / str(number)).write_bytes(data)
                height, width = annotated.shape[:2]
                rows, columns = np.nonzero(annotated[:, :, 0])
                y, x, height_of_box, width_of_box = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
                right, bottom = x + width_of_box, y + height_of_box
                images.append(entry(id=str(number), file_name=f'"{number}"', height=str(height), width=str(width)))
                corners = f"[[{x}, {y}, {right}, {y}, {right}, {bottom}, {x}, {bottom}]]"
                box = f"[{x}, {y}, {width_of_box}, {height_of_box}]"
                annotations.append(entry(id=str(number), image_id=str(number), category_id="1", segmentation=corners, bbox=box))
    (tmp_path / "annotations.json").write_bytes(document(images, annotations))
    output = tmp_path / "records"
    run(
        RunOptions(
            annotations=str(tmp_path / "annotations.json"), images=str(tmp_path / "images"), output=str(output), num_shards="1"
        ),
        [],
    )
    fixes = json.loads((output / "statistics.json").read_text())["train"]["fixes"]
    assert fixes["IMAGE_TURNED"] == 4 * len(TURNS)
    assert fixes["IMAGE_NOT_TURNED"] == 4 * 4
    seen = 0
    for serialized in tf.data.TFRecordDataset(str(output / "train-00000-of-00001.tfrecord")):
        features = tf.train.Example.FromString(serialized.numpy()).features.feature
        pixels = tf.io.decode_image(features["image/encoded"].bytes_list.value[0], channels=3, expand_animations=False).numpy()
        (mask,) = (tf.io.decode_png(data)[:, :, 0].numpy() for data in features["image/object/mask"].bytes_list.value)
        height, width = (features[f"image/{side}"].int64_list.value[0] for side in ("height", "width"))
        assert pixels.shape == (height, width, 3)
        np.testing.assert_array_equal(mask, pixels[:, :, 0] > 127)
        rows, columns = np.nonzero(mask)
        box = [features[f"image/object/bbox/{side}"].float_list.value[0] for side in ("ymin", "xmin", "ymax", "xmax")]
        tight = [rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width]
        np.testing.assert_array_equal(box, np.array(tight, np.float32))
        seen += 1
    assert seen == len(images) == 4 * (len(TURNS) + 4)


# ------------------------------------------------------------------------------------------------------------ options


def small_run(folder: Path, **options: Any) -> dict[str, Any]:
    """Two images, one of them with two annotations of six points, and a damaged one."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "1").write_bytes(SOUND)
    (folder / "images" / "2").write_bytes(SOUND)
    (folder / "images" / "3").write_bytes(corrupt_jpeg(200, 301))
    images = [entry(id=str(number), file_name=f'"{number}"', height=str(HEIGHT), width=str(WIDTH)) for number in (1, 2)]
    images.append(entry(id="3", file_name='"3"', height="200", width="301"))
    six_points = "[[5, 3, 9, 3, 20, 3, 20, 13, 9, 13, 5, 13]]"
    of_images = ((1, 1, six_points), (2, 1, six_points), (3, 2, SQUARE))
    annotations = [entry(id=str(number), image_id=str(of), category_id="1", segmentation=form) for number, of, form in of_images]
    (folder / "annotations.json").write_bytes(document(images, annotations))
    output = folder / "-".join(map(str, ["records", *options.values()]))
    run(
        RunOptions(
            annotations=str(folder / "annotations.json"),
            images=str(folder / "images"),
            output=str(output),
            max_reject_fraction=1.0,
            **options,
        ),
        [],
    )
    manifest: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    assert {name: manifest["options"][name] for name in options} == options
    return dict(manifest["reasons"])


def test_the_limits_and_the_check_of_images_can_be_chosen(tmp_path: Path) -> None:
    corrupt = {"IMAGE_CORRUPT": 1}
    assert small_run(tmp_path) == {"image": corrupt, "annotation": {}}
    assert small_run(tmp_path, check_images="header") == {"image": {}, "annotation": {}}
    assert small_run(tmp_path, max_points=6) == {"image": corrupt, "annotation": {}}
    assert small_run(tmp_path, max_points=5) == {"image": corrupt, "annotation": {"POINT_LIMIT": 2}}
    assert small_run(tmp_path, max_instances=2) == {"image": corrupt, "annotation": {}}
    too_many = {"image": {"IMAGE_CORRUPT": 1, "INSTANCE_LIMIT": 1}, "annotation": {"INSTANCE_LIMIT": 2}}
    assert small_run(tmp_path, max_instances=1) == too_many
