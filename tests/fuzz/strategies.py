"""What hypothesis tries: nearly sound inputs, sound ones, and rubbish. One strategy for each parser, of its arguments."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from inputs import reference_text
from seeds import COUNTS, DOCUMENT, HEIGHT, PATHS, WIDTH, images, sign_png

odd_numbers = st.sampled_from(
    [0, -1, 1, 0.5, -0.0, 2**31, 2**32, 2**32 + 1, 2**63, -(2**63), 2**64, 10**400, 1e5, 1e5 + 0.01, 1e6, 1e9, 1e308, 5e-324]
)
literals = st.sampled_from([float("nan"), float("inf"), -float("inf")])
scalars = st.none() | st.booleans() | odd_numbers | st.integers(-9, 99) | st.floats(-99, 99) | st.text(max_size=4)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "size", "counts", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def sizes(draw: st.DrawFn, most: int = 40) -> tuple[int, int]:
    height = draw(st.integers(1, most))
    width = draw(st.integers(1, most))
    return height, width + (height == width)


# ----------------------------------------------------------------------------------------------------- run lengths


@st.composite
def runs_of_size(draw: st.DrawFn, pixels: int) -> list[int]:
    """Runs that add up; some are 0, also where no encoder would write one."""
    cuts = sorted(draw(st.lists(st.integers(0, pixels), max_size=12)))
    bounds = [0, *cuts, pixels]
    return [stop - start for start, stop in pairwise(bounds)]


def padded(text: bytes, index: int) -> bytes:
    """Counts with one number written in a group more than it needs."""
    ends = [place for place, character in enumerate(text) if character < 80]
    end = ends[index % len(ends)]
    sign = (text[end] - 48) & 16
    return text[:end] + bytes((text[end] + 32, 48 + (31 if sign else 0))) + text[end + 1 :]


characters = st.integers(48, 111).map(chr) | st.sampled_from("/p\x7f\x80\0") | st.characters()


@st.composite
def changed_text(draw: st.DrawFn, text: str) -> str:
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(text)))
        kind = draw(st.sampled_from(("insert", "replace", "delete", "cut", "repeat")))
        if kind == "insert":
            text = text[:place] + draw(characters) + text[place:]
        elif kind == "replace":
            text = text[:place] + draw(characters) + text[place + 1 :]
        elif kind == "delete":
            text = text[:place] + text[place + draw(st.integers(1, 3)) :]
        elif kind == "cut":
            text = text[:place]
        else:
            text = text[:place] + text[place : place + 4] * draw(st.integers(2, 5)) + text[place + 4 :]
    return text


@st.composite
def run_length_inputs(draw: st.DrawFn) -> tuple[Any, ...]:
    height, width = draw(sizes())
    runs = draw(runs_of_size(height * width))
    text = reference_text(runs).decode()
    kind = draw(st.sampled_from(("text", "padded", "changed", "changed", "letters", "seed", "list", "changed list", "anything")))
    counts: Any = {"text": text, "list": runs}.get(kind)
    if kind == "padded":
        place = draw(st.integers(0, 20))
        for _ in range(draw(st.integers(1, 8))):
            text = padded(text.encode(), place).decode()
        counts = text
    elif kind == "changed":
        counts = draw(changed_text(text))
    elif kind == "letters":
        counts = draw(st.text(characters, max_size=12))
    elif kind == "seed":
        counts = draw(st.sampled_from(COUNTS))
    elif kind == "changed list":
        counts = list(runs)
        place = draw(st.integers(0, len(counts)))
        counts[place : place + draw(st.integers(0, 2))] = draw(st.lists(odd_numbers | literals | scalars, max_size=2))
    elif kind == "anything":
        counts = draw(anything)
    size = draw(
        st.just([height, width])
        | st.sampled_from([[width, height], [height, width, 1], [0, width], [height, -width], [2**40, 2**40], [2**31, 1], {}])
        | anything
    )
    return counts, size, height, width


# -------------------------------------------------------------------------------------------------------- polygons

coordinates = (
    st.integers(-5, 70)
    | st.integers(-500, 7000).map(lambda number: number / 100)
    | st.floats(-9, 99)
    | st.sampled_from([0.0, -0.0, 0.5, 1e-9, -3e3, 2_999.99])
)
rings = st.lists(coordinates, min_size=6, max_size=24).map(lambda ring: ring[: len(ring) // 2 * 2])


@st.composite
def polygon_inputs(draw: st.DrawFn) -> tuple[Any, ...]:
    height, width = draw(sizes(60))
    segmentation: Any = draw(st.lists(rings, min_size=1, max_size=4))
    kind = draw(st.sampled_from(("sound", "sound", "number", "number", "ring", "nested", "flat", "anything")))
    ring = draw(st.integers(0, len(segmentation) - 1))
    place = draw(st.integers(0, len(segmentation[ring]) - 1))
    if kind == "number":
        put = draw(st.lists(odd_numbers | literals | st.booleans() | anything, max_size=2))
        segmentation[ring][place : place + draw(st.integers(0, 2))] = put
    elif kind == "ring":
        segmentation[ring : ring + draw(st.integers(0, 1))] = draw(
            st.lists(st.lists(coordinates, max_size=7) | anything, max_size=2)
        )
    elif kind == "nested":
        segmentation = [segmentation]
    elif kind == "flat":
        segmentation = segmentation[ring]
    elif kind == "anything":
        segmentation = draw(anything.filter(lambda value: value is not None and not isinstance(value, dict)))
    return segmentation, height, width


# --------------------------------------------------------------------------------------------------- COCO elements

ids = st.integers(1, 4) | st.integers(1, 4).map(str) | scalars
image_elements = st.fixed_dictionaries(
    {
        "id": ids,
        "file_name": st.text(max_size=6) | scalars,
        "height": st.integers(1, 40) | scalars,
        "width": st.integers(1, 40) | scalars,
    },
    optional={"note": anything},
)
annotation_elements = st.fixed_dictionaries(
    {"id": st.integers(1, 6) | scalars, "image_id": ids, "category_id": st.integers(1, 3) | scalars},
    optional={
        "segmentation": st.lists(rings, max_size=2)
        | st.fixed_dictionaries(
            {"counts": st.sampled_from(COUNTS) | st.lists(st.integers(0, 99), max_size=4), "size": st.just([11, 17])}
        )
        | anything,
        "bbox": st.lists(coordinates, min_size=4, max_size=4) | anything,
        "area": coordinates | anything,
        "iscrowd": st.sampled_from([0, 1]) | anything,
    },
)
category_elements = st.fixed_dictionaries({"id": st.integers(1, 3), "name": st.text(min_size=1, max_size=3)})
structure = [
    b'"',
    b"\\",
    b"\\\\",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b" ",
    b"\n",
    b"{}",
    b"[[[[",
    b"]" * 9,
    b'{"a":' * 80,
    b"[" * 5000,
]
words = [b"NaN", b"Infinity", b"null", b"true", b"1e999", b"-", b"7" * 5000, b'"images"', b'"annotations"', b'"annotations":[']
odd_bytes = [b"\xff", b"\\u0061", b"\\ud800", b"\xef\xbb\xbf", b"\0", b"/*", b"'", b"\x1f\x8b"]
tokens = st.sampled_from((*structure, *words, *odd_bytes))


@st.composite
def coco_inputs(draw: st.DrawFn) -> tuple[Any, ...]:
    lists: list[tuple[str, Any]] = [
        ("images", draw(st.lists(image_elements | image_elements | anything, max_size=3))),
        ("annotations", draw(st.lists(annotation_elements | annotation_elements | anything, max_size=4))),
        ("categories", draw(st.lists(category_elements, max_size=3) | st.lists(category_elements | anything, max_size=2))),
    ]
    if draw(st.booleans()):
        lists.append(("info", draw(anything)))
    document: Any = dict(draw(st.permutations(lists)))
    if draw(st.integers(0, 9)) == 0:
        document = draw(st.sampled_from([DOCUMENT, [document], {"coco": document}, {**document, "images": draw(anything)}]))
    ascii_only = draw(st.booleans())
    text = json.dumps(document, ensure_ascii=ascii_only, separators=draw(st.sampled_from([(",", ":"), (" , ", "\n:\t")])))
    if draw(st.integers(0, 30)) == 0:
        text = text.replace('"annotations"', r'"\u0061nnotations"', 1)
    data = text.encode(errors="surrogatepass")
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2, 5)))):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(tokens | st.binary(max_size=2)) + data[place + draw(st.sampled_from((0, 0, 1, 7, 1000))) :]
    return data, draw(st.integers(1, 60) | st.just(1 << 20)), draw(st.integers(1, 3))


# ---------------------------------------------------------------------------------------------------------- images

SEED_IMAGES = images()
extremes = st.sampled_from(
    [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\0\0\x27\x10", b"\x10\x27\0\0", b"\xff\xff\0\0", b"\xff" * 8]
)
beginnings = st.sampled_from(
    [b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0", b"II*\0", b"MM\0*", b"\xff\xd8", b"RIFF", b"BM", b"P6 9 9 9"]
)
MARKER = re.compile(rb"\xff[\xc0-\xfe]")
CHANGES = ("byte", "byte", "bit", "extreme", "marker", "insert", "delete", "cut", "repeat", "other", "begin")
markers = st.integers(0xC0, 0xFF).map(lambda marker: bytes((0xFF, marker)))


@st.composite
def changed_image(draw: st.DrawFn, data: bytes) -> bytes:
    place = draw(st.integers(0, 99) | st.integers(0, len(data)))
    kind = draw(st.sampled_from(CHANGES))
    if kind == "cut" and data.startswith(b"\xff\xd8"):  # soon behind a marker
        place = draw(st.sampled_from([0, *(found.end() for found in MARKER.finditer(data))])) + draw(st.integers(0, 4))
    if kind == "begin":
        begun = draw(beginnings)
        return begun + data[draw(st.sampled_from((0, 8, len(begun)))) :]
    if kind == "byte":
        return data[:place] + bytes((draw(st.integers(0, 255)),)) + data[place + 1 :]
    if kind == "bit":
        return data[:place] + bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in data[place : place + 1]) + data[place + 1 :]
    if kind in ("extreme", "marker"):
        put = draw(extremes if kind == "extreme" else markers)
        return data[:place] + put + data[place + len(put) :]
    if kind == "insert":
        return data[:place] + draw(st.binary(max_size=8) | markers | extremes) + data[place:]
    if kind == "delete":
        return data[:place] + data[place + draw(st.integers(1, 40)) :]
    if kind == "repeat":
        length = draw(st.integers(1, 200))
        return data[:place] + data[place : place + length] * draw(st.integers(2, 9)) + data[place + length :]
    return data[:place] + (draw(st.sampled_from(SEED_IMAGES))[place:] if kind == "other" else b"")


@st.composite
def image_inputs(draw: st.DrawFn) -> tuple[Any, ...]:
    data = draw(st.sampled_from(SEED_IMAGES))
    if draw(st.integers(0, 50)) == 0:
        data = data[:4] + draw(st.binary(max_size=64))
    for _ in range(draw(st.integers(0, 4))):
        data = draw(changed_image(data))
    if data.startswith(b"\x89PNG") and draw(st.integers(0, 3)):
        data = sign_png(data)
    return data, *draw(st.sampled_from(((0, 0), (0, 0), (HEIGHT, WIDTH), (WIDTH, HEIGHT), (1, 100_000))))


# ----------------------------------------------------------------------------------------------------------- paths

there = [
    "a.jpg",
    "sub/b.jpg",
    "self/a.jpg",
    "in.jpg",
    "in_and_out.jpg",
    "é 漢.jpg",
    "[a]*?.jpg",
    "..a.jpg",
    "%2e%2e",
    "http:",
    "~",
]
out = [
    "..",
    "secret.jpg",
    "images",
    "images-of-others",
    "out.jpg",
    "beside.jpg",
    "etc",
    "passwd",
    "up",
    "chain",
    "dangling",
    "zero",
]
strange = ["gs:", "file:", "://", "169.254.169.254", "C:", "\n", "．．", "…", "∕", " ", "x" * 300, "*", "loop", "\\", "\0"]
steps = st.sampled_from((".", "/", "//", "sub", "b.jpg", "self", *there, *out, *strange))


@st.composite
def path_inputs(draw: st.DrawFn) -> tuple[str]:
    joint = draw(st.sampled_from(("/", "/", "", "/./", "//")))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    inside = st.lists(st.sampled_from((".", "self", "")), max_size=4).map(lambda steps: "".join(step + "/" for step in steps))
    free = st.lists(steps | text, max_size=7).map(joint.join) | text | st.sampled_from(PATHS)
    name = draw(free | free | st.builds(str.__add__, inside, st.sampled_from(there)))
    return (draw(st.sampled_from(("", "", "", "/", "../", "./"))) + name,)


STRATEGIES = {
    "run lengths": run_length_inputs(),
    "polygons": polygon_inputs(),
    "COCO elements": coco_inputs(),
    "images": image_inputs(),
    "paths": path_inputs(),
}
