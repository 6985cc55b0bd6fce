"""Damaged files of each format: nothing but `InputError` is raised, and what is given out can be drawn, packed and counted."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from sources import drawn
from written_formats import FORMATS, HEIGHT, WIDTH, Annotated

from transforms.images import ImageFolder
from transforms.records import InputError, pack
from transforms.sources import format_of
from transforms.sources.files import cut_pieces, find_pieces
from transforms.sources.numbering import number_images
from transforms.sources.source import Context, SourceImage

INPUTS = int(os.environ.get("FUZZ_EXAMPLES", "10000")) // 10
TOKENS = (
    b"NaN",
    b"1e308",
    b"-1",
    b"0",
    b"1180591620717411303424",
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"[[[[",
    b'"\\ud800"',
    b"\xff",
    b"\0",
    b"<",
    b",",
)
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
Record = Callable[[str, object], None]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some changes to sound bytes: what is cut, doubled, flipped, or of another kind."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 8, 60)))
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:at] + data[end:]
        elif kind == 1:
            data = data[:end] + data[at:end] + data[end:]
        elif kind == 2:
            data = data[:at] + rng.choice(TOKENS) + data[end:]
        elif kind == 3:
            data = data[:at] + rng.randbytes(end - at) + data[end:]
        elif kind == 4:
            data = data[:at] if rng.random() < 0.2 else data
        elif numbers := list(NUMBER.finditer(data)):
            one = rng.choice(numbers)
            data = data[: one.start()] + rng.choice(TOKENS) + data[one.end() :]
    return data


def images_of(format_name: str, path: Path, images: Path) -> list[SourceImage]:
    format_ = format_of(format_name)
    context = Context(str(path.parent), ImageFolder(str(images)), max_pixels=4_000_000)
    pieces = [piece for some in find_pieces(str(path), format_) for piece in some]
    if format_.cut:
        pieces = [piece for some in cut_pieces(pieces, format_) for piece in some]
    return [image for piece in pieces for image in format_.parse(piece, context)]


OTHERWISE = ("coco_panoptic", "open_images", "oxford_pets")
"""Read by other functions than these; and of a trimap that is damaged nothing is ever left."""


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in OTHERWISE])
def test_damaged_files(name: str, tmp_path: Path, record_property: Record) -> None:
    objects = [("cat", [10, 12.5, 300, 20, 200.25, 330]), ("dog", [400, 100, 500, 120, 450, 300, 390, 210])]
    annotated = [Annotated("a.jpg", objects), Annotated("b.jpg", objects[:1])]
    (tmp_path / "sound").mkdir()
    FORMATS[name].write(annotated, tmp_path / "sound")
    for one in annotated:
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / one.file_name)
    path = max(
        (one for one in (tmp_path / "sound").rglob("*") if one.suffix != ".yaml" and one.is_file()),
        key=lambda one: one.stat().st_size,
    )
    sound = path.read_bytes()
    rng = random.Random(f"{name} 1")
    outcomes: Counter[str] = Counter()
    for _ in range(INPUTS):
        path.write_bytes(damaged(sound, rng))
        try:
            found = images_of(name, path, tmp_path)
        except InputError:
            outcomes["the file is refused"] += 1
            continue
        for image in found:
            pack(image)
            assert image.annotations == len(image.image.instances) + len(image.rejects)
            outcomes["an image is refused" if image.problem else "an image is read"] += 1
            if not image.problem:
                codes = drawn(image).rejects
                outcomes["an annotation is refused"] += len(codes)
                assert len(set(codes)) == len(codes)
        list(number_images(1, found))
    assert outcomes["an image is read"] > INPUTS / 50
    counted = ", ".join(f"{count:,}: {outcome}" for outcome, count in sorted(outcomes.items()))
    record_property("fuzzed", (f"files of {name}, damaged", f"{INPUTS:,} inputs: {counted}; no crash"))
