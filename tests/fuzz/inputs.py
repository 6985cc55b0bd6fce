"""The parsers, each driven by one function that takes any input at all and says what must hold for it.

Each gives the outcome, "accepted" or a reason code, and raises `AssertionError` where the parser breaks its contract: to accept
exactly what a slow reference accepts, to give what pycocotools or Pillow give, to lose nothing, and to raise nothing. The
same functions are run by hypothesis (`run_hypothesis.py`) and by libFuzzer (`atheris_targets.py`).
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue
from PIL import Image
from pycocotools import mask as cocomask
from pycocotools.coco import COCO

from transforms import run_lengths
from transforms.images import CheckedImage, ImageFolder, check_image
from transforms.polygons import MAX_COORDINATE
from transforms.rasterize import checked_runs, rasterize, rasterize_images
from transforms.records import AnnotatedImage, InputError, Instance, Problem, ReasonCode, Reject, RunLengths
from transforms.sources import json_blocks
from transforms.sources.coco import FindDuplicates, Meet, ParseBlocks, cut_file
from transforms.sources.coco_json import parse_annotations

MAX_PIXELS = 4_000_000  # large images take their time; `test_single_inputs.py` tries those
MAX_POINTS = 100_000  # the default of --max_points
ACCEPTED = "accepted"
JSON_INVALID = "JSON_INVALID"


def allowed(code: str, *codes: ReasonCode) -> str:
    assert code in {one.name for one in codes}, f"unexpected reason code {code}"
    return code


def annotate(segmentation: Any, height: int, width: int) -> Instance | Problem:
    """The segmentation through the parser and `rasterize`, as an annotation of an image of height × width pixels."""
    entry = {"id": 7, "image_id": 3, "category_id": 1, "segmentation": segmentation}
    try:
        (parsed,) = parse_annotations(json.dumps(entry).encode())
    except InputError as error:
        return Problem(told_as_invalid(error), str(error))
    if isinstance(parsed, Reject):
        assert (parsed.kind, parsed.image_id, parsed.annotation_id) == ("annotation", 3, 7)
        return Problem(parsed.reason, parsed.message)
    [drawn] = rasterize([(parsed.instance, height, width)])
    if isinstance(drawn, Instance):
        assert (drawn.annotation_id, drawn.category_id) == (7, 1)
        check_box(drawn, height, width)
    return drawn


def told_as_invalid(error: InputError) -> str:
    assert str(error).startswith(JSON_INVALID), error
    return JSON_INVALID


def check_box(drawn: Instance, height: int, width: int) -> None:
    assert drawn.box is not None
    ymin, xmin, ymax, xmax = drawn.box
    assert 0 <= ymin < ymax <= height
    assert 0 <= xmin < xmax <= width


def numbers_in(value: Any) -> Iterator[object]:
    """Whatever is no list or object in a JSON value."""
    if isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(inner)
    else:
        yield value


def has_literal(value: Any) -> bool:
    """Whether Python writes NaN or Infinity for part of a value, which is not JSON."""
    return any(isinstance(number, float) and not math.isfinite(number) for number in numbers_in(value))


# ----------------------------------------------------------------------------------------------------- run lengths


def reference_counts(counts: bytes) -> list[int] | None:
    """Compressed counts by the book, a character after the other: `rleFrString` of cocoapi's maskApi.c, but that it looks."""
    runs: list[int] = []
    position = 0
    while position < len(counts):
        number = groups = 0
        more = True
        while more:
            if position == len(counts) or not 48 <= counts[position] <= 111 or groups == 7:
                return None
            character = counts[position] - 48
            number |= (character & 31) << (5 * groups)
            more = character >= 32
            groups += 1
            position += 1
        if character & 16:
            number -= 1 << (5 * groups)
        runs.append(number + runs[-2] if len(runs) > 2 else number)
    return runs or None


def reference_text(runs: list[int]) -> bytes:
    """Runs to compressed counts by the book: `rleToString`."""
    characters = bytearray()
    for index, run in enumerate(runs):
        number = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            group = number & 31
            number >>= 5
            more = number != (-1 if group & 16 else 0)
            characters.append(48 + group + 32 * more)
    return bytes(characters)


def reference_mask(runs: list[int], height: int, width: int) -> bytes | None:
    """The pixels of runs, row by row; None where they are not exactly height · width."""
    if min(runs) < 0 or sum(runs) != height * width:
        return None
    columns = bytearray()
    for index, run in enumerate(runs):
        columns += bytes([index % 2]) * run
    return b"".join(bytes(columns[row::height]) for row in range(height))


def try_run_lengths(counts: Any, size: Any, height: int, width: int) -> str:
    """Any JSON values as the `counts` and `size` of run lengths for an image of height × width pixels."""
    segmentation = {"counts": counts, "size": size}
    runs = reference_runs(counts)
    pixels = None
    if runs and is_size(size) and size[0] * size[1] < 1_000_000:
        pixels = reference_mask(runs, *size)
    if isinstance(counts, str) and counts.isascii():
        check_decoder(counts.encode(), runs, height, width)
    drawn = annotate(segmentation, height, width)
    if isinstance(drawn, Problem):
        if drawn.code == JSON_INVALID:
            assert has_literal(segmentation)
            return drawn.code
        if pixels is None or size != [height, width]:
            return allowed(drawn.code, ReasonCode.RLE_MALFORMED, ReasonCode.RLE_SIZE_MISMATCH, ReasonCode.DIM_LIMIT)
        assert not any(pixels), f"refused, though it is a mask: {drawn.message}"
        return allowed(drawn.code, ReasonCode.EMPTY_MASK)
    assert pixels is not None
    assert size == [height, width]
    assert runs is not None
    shape = drawn.shape
    assert isinstance(shape, RunLengths)
    mask = run_lengths.to_mask(shape)
    assert mask.shape == (height, width)
    assert mask.tobytes() == pixels
    theirs = cocomask.decode({"size": [height, width], "counts": reference_text(runs)})
    assert np.array_equal(mask, theirs)
    if not re.search(rb"[P-o]{6}", shape.counts):  # seven characters for a number below 0: pycocotools shifts an int by 35
        assert np.array_equal(mask, cocomask.decode({"size": [height, width], "counts": shape.counts}))
    own = run_lengths.runs_of(shape)
    assert own.tolist() == runs
    assert run_lengths.area(own) == pixels.count(1)
    rows, columns = np.nonzero(theirs)
    assert drawn.box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    assert run_lengths.encode_counts(own) == reference_text(runs)
    assert reference_mask(run_lengths.runs_of(run_lengths.from_mask(mask)).tolist(), height, width) == pixels
    return ACCEPTED


def is_size(size: Any) -> bool:
    return isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)


def reference_runs(counts: Any) -> list[int] | None:
    if isinstance(counts, str):
        return reference_counts(counts.encode()) if counts.isascii() else None
    if isinstance(counts, list) and counts and all(type(run) is int for run in counts):
        return counts
    return None


def check_decoder(counts: bytes, runs: list[int] | None, height: int, width: int) -> None:
    """The decoder alone, which gives runs also where they are no mask."""
    decoded = run_lengths.decode_counts(counts)
    if isinstance(decoded, Problem):
        assert runs is None, f"refused, though the reference reads it: {decoded.message}"
        allowed(decoded.code, ReasonCode.RLE_MALFORMED)
    else:
        assert decoded.tolist() == runs
        assert [one.tolist() for one in run_lengths.decode_checked([counts, b"5", counts])] == [runs, [5], runs]
    checked = checked_runs(RunLengths(height, width, counts), height, width)
    assert not isinstance(checked, Problem) or allowed(checked.code, ReasonCode.RLE_MALFORMED, ReasonCode.EMPTY_MASK)


def run_lengths_of(data: bytes) -> tuple[Any, ...]:
    """What a fuzzer's bytes stand for: height and width, whether the size is the image's, and then counts or JSON."""
    head, body = data[:4].ljust(4, b"\0"), data[4:]
    height, width = 1 + head[0], 1 + head[1]
    size: Any = [height, width] if head[2] < 192 else [1 + head[3], width]
    if head[2] % 2:
        return listed(body), size, height, width
    return body.decode("latin-1"), size, height, width


def listed(body: bytes) -> list[int]:
    """Bytes as a list of 32-bit numbers, most of them small."""
    return [number for (number,) in struct.iter_unpack("<i", body[: len(body) // 4 * 4])]


# -------------------------------------------------------------------------------------------------------- polygons


def is_coordinate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_COORDINATE <= value <= MAX_COORDINATE


def is_drawable(segmentation: Any) -> bool:
    """Whether this is a polygon by the book, the length of its outline aside."""
    if not isinstance(segmentation, list) or not segmentation:
        return False
    for ring in segmentation:
        if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2 or not all(map(is_coordinate, ring)):
            return False
    return sum(map(len, segmentation)) <= 2 * MAX_POINTS


def try_polygons(segmentation: Any, height: int, width: int) -> str:
    """Any JSON value but null or an object as the polygons of an image of height × width pixels."""
    drawn = annotate(segmentation, height, width)
    drawable = is_drawable(segmentation)
    if isinstance(drawn, Problem):
        if drawn.code == JSON_INVALID:
            assert has_literal(segmentation)
            return drawn.code
        if not drawable:
            return allowed(
                drawn.code, ReasonCode.POLY_MALFORMED, ReasonCode.COORD_INVALID, ReasonCode.POINT_LIMIT, ReasonCode.FIELD_INVALID
            )
        if drawn.code == ReasonCode.POINT_LIMIT.name:
            assert "outline" in drawn.message
            return drawn.code
        assert not annotation_mask(segmentation, height, width).any(), f"refused, though it has pixels: {drawn.message}"
        return allowed(drawn.code, ReasonCode.EMPTY_MASK)
    assert drawable, "accepted, though it is no polygon"
    assert isinstance(drawn.shape, RunLengths)
    assert np.array_equal(run_lengths.to_mask(drawn.shape), annotation_mask(segmentation, height, width))
    return ACCEPTED


def annotation_mask(segmentation: Any, height: int, width: int) -> Any:
    """The mask as pycocotools draws it for people."""
    coco = COCO()
    coco.imgs = {3: {"height": height, "width": width}}
    return coco.annToMask({"image_id": 3, "segmentation": segmentation})


def polygons_of(data: bytes) -> tuple[Any, ...] | None:
    """What a fuzzer's bytes stand for: height, width, and JSON, or else rings of 32-bit numbers."""
    head, body = data[:4].ljust(4, b"\0"), data[4:]
    if head[2] < 128:
        try:
            segmentation = json.loads(body)
            json.dumps(segmentation)
        except (ValueError, RecursionError):
            return None
        if segmentation is None or isinstance(segmentation, dict):
            return None
    else:
        values = [number / (100 if head[2] % 2 else 1) for number in listed(body)]
        cut = 2 * head[3]
        segmentation = [values[:cut], values[cut:]] if 6 <= cut <= len(values) - 6 else [values]
    return segmentation, 1 + head[0], 1 + head[1]


# --------------------------------------------------------------------------------------------------- COCO elements


class Pairs(list[tuple[str, Any]]):
    """A JSON object with its keys as often as they come."""


def reference_document(data: bytes) -> dict[str, list[Any]] | None:
    """The three lists of a file, as Python reads it; None where it is not such a file."""

    def no_literal(name: str) -> None:
        raise ValueError(name)

    try:
        document = json.loads(data.removeprefix(b"\xef\xbb\xbf").decode(), object_pairs_hook=Pairs, parse_constant=no_literal)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, Pairs):
        return None
    lists: dict[str, list[Any]] = {}
    for key, value in document:
        if key in ("images", "annotations", "categories"):
            if not isinstance(value, list) or isinstance(value, Pairs):
                return None
            lists.setdefault(key, []).extend(value)
    return lists if len(lists) == 3 else None


def is_category(entry: Any) -> bool:
    if not isinstance(entry, Pairs):
        return False
    fields = dict(entry)
    number, name = fields.get("id"), fields.get("name")
    usable = type(number) is int and -(2**63) <= number < 2**63 and isinstance(name, str) and name != ""
    return usable and not any(0xD800 <= ord(character) <= 0xDFFF for character in name)


def depth(data: bytes) -> int:
    """How deep the brackets nest, those in strings included."""
    deepest = level = 0
    for character in data:
        level += (character in b"[{") - (character in b"]}")
        deepest = max(deepest, level)
    return deepest


def try_coco(data: bytes, chunk_bytes: int, buckets: int) -> str:
    """Any bytes as an annotation file, read in chunks of that size; the ledger has to balance, image by image."""
    path = scratch_file("annotations.json", data)
    expected = reference_document(data)
    try:
        with mock.patch.object(json_blocks, "CHUNK_BYTES", chunk_bytes):
            images, rejects, counted = read_all(path, buckets)
    except InputError as error:
        refused: InputError | None = error
    else:
        refused = None
    if refused:
        sound = expected is not None and all(map(is_category, expected["categories"])) and depth(data) <= json_blocks.MAX_DEPTH
        assert not sound, f"a sound file is refused: {refused}"
        return told_as_invalid(refused)
    assert all(reject.reason in ReasonCode.__members__ for reject in rejects)
    kinds = Counter(reject.kind for reject in rejects)
    kept = [instance for image in images for instance in image.instances]
    assert counted["images"] == len(images) + kinds["image"]
    assert counted["annotations"] == len(kept) + kinds["annotation"]
    if expected is not None:
        assert counted["images"] == len(expected["images"])
        assert counted["annotations"] == len(expected["annotations"])
        # Each by its id, where it has one: kept and rejected together are what went in.
        out = Counter(instance.annotation_id for instance in kept)
        out.update(reject.annotation_id for reject in rejects if reject.kind == "annotation" and reject.annotation_id is not None)
        assert out == Counter(
            filter(is_int64, (dict(one).get("id") for one in expected["annotations"] if isinstance(one, Pairs)))
        )
    for image, (drawn, refused) in zip(images, rasterize_images(images), strict=True):
        assert [one.annotation_id for one in image.instances] == sorted({one.annotation_id for one in image.instances})
        assert drawn is not None, "so many annotations are no input for a fuzzer"
        assert len(drawn.instances) + len(refused) == len(image.instances)
        for instance in drawn.instances:
            check_box(instance, image.height, image.width)
    return f"{ACCEPTED}, with rejects" if rejects else ACCEPTED


def is_int64(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def read_all(path: str, buckets: int) -> tuple[list[AnnotatedImage], list[Reject], Counter[str]]:
    """What `ReadCoco` does, with its own DoFns, but without a runner."""
    counted: Counter[str] = Counter()
    rejects: list[Reject] = []
    categories: list[Any] = []
    ids: dict[Any, list[bytes]] = {}
    parts: dict[Any, list[bytes]] = {}
    parse = ParseBlocks(MAX_PIXELS, None)
    parse.setup()
    parse.start_bundle()
    parsed = itertools.chain((out for block in cut_file(path, buckets) for out in parse.process(block)), parse.finish_bundle())
    for out in parsed:
        tag, value = (out.tag, out.value) if isinstance(out, TaggedOutput) else ("parts", out)
        value = value.value if isinstance(value, WindowedValue) else value
        if tag in ("parts", "ids"):
            {"parts": parts, "ids": ids}[tag].setdefault(value[0], []).append(value[1])
        elif tag == "census":
            counted.update(images=value.images, annotations=value.annotations)
        else:
            {"rejects": rejects, "categories": categories}[tag].append(value)
    parse.teardown()
    duplicates = FindDuplicates(None)
    for group in ids.items():
        for bucket, batch in duplicates.process(group):
            parts.setdefault(bucket, []).append(batch)
    images: list[AnnotatedImage] = []
    for group in parts.items():
        for met in Meet().process(group, categories, []):
            if isinstance(met, TaggedOutput):
                rejects.append(met.value)
            else:
                images.append(met)
    return images, rejects, counted


def coco_of(data: bytes) -> tuple[Any, ...]:
    """What a fuzzer's bytes stand for: the size of a chunk, the number of buckets, and the file."""
    head = data[:2].ljust(2, b"\0")
    return data[2:], 1 + head[0] if head[0] < 128 else 1 << 20, 1 + head[1] % 3


# ---------------------------------------------------------------------------------------------------------- images


def try_image(data: bytes, height: int, width: int) -> str:
    """Any bytes as an image file for annotations of height × width pixels; (0, 0) stands for what Pillow finds them to be."""
    if not height:
        height, width = size_by_pillow(data)
    checked = check_image(data, height, width, MAX_PIXELS)
    if isinstance(checked, Problem):
        return allowed(
            checked.code,
            ReasonCode.IMAGE_CORRUPT,
            ReasonCode.IMAGE_UNSUPPORTED,
            ReasonCode.PIXEL_LIMIT,
            ReasonCode.DIM_MISMATCH,
        )
    assert isinstance(checked, CheckedImage)
    assert (checked.height, checked.width) == (height, width)
    with Image.open(io.BytesIO(checked.data), formats=["PNG" if checked.format == "png" else "JPEG", "MPO"]) as image:
        assert (image.height, image.width) == (height, width)
        assert image.mode in ("L", "RGB")
        image.load()
    if checked.data is not data:
        assert checked.fixes, "other bytes, and no fix says so"
    accepted_images.append(checked)
    return ACCEPTED


accepted_images: list[CheckedImage] = []
"""For whoever wants to look at them with something else, and empties the list."""


def size_by_pillow(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except Exception:
        return 7, 5  # nothing that Pillow knows; the parser has to say so


def image_of(data: bytes) -> tuple[Any, ...]:
    """What a fuzzer's bytes stand for: a file."""
    return data, 0, 0


# ----------------------------------------------------------------------------------------------------------- paths


class Tree(NamedTuple):
    """An image folder with links that lead in, out and in circles; beside it, what must not be read."""

    root: str
    inside: str
    files: dict[str, bytes]


def make_tree(folder: Path) -> Tree:
    root = folder / "images"
    (root / "sub").mkdir(parents=True)
    (folder / "images-of-others").mkdir()
    for outside in (folder / "secret.jpg", folder / "images-of-others" / "a.jpg"):
        outside.write_bytes(b"SECRET")
    for name in ("a.jpg", "sub/b.jpg", "é 漢.jpg", "[a]*?.jpg", "..a.jpg", "%2e%2e", "http:", "~"):
        (root / name).write_bytes(f"inside {name}".encode())
    links = {
        "in.jpg": "sub/b.jpg",
        "in_and_out.jpg": "../images/a.jpg",
        "out.jpg": "../secret.jpg",
        "beside.jpg": "../images-of-others/a.jpg",
        "etc": "/etc",
        "up": "..",
        "self": ".",
        "loop": "loop",
        "chain": "sub/../out.jpg",
        "dangling": "../nothing",
        "zero": "/dev/zero",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    files = {str(path.resolve()): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    return Tree(str(root), str(root.resolve()), files)


class Watch:
    """Notes what this process opens and which hosts it asks for, while it is told to. Python has no way to end it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] | None = None
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is not None and (
            event in ("open", "os.listdir", "os.scandir") or event.startswith(("socket.", "subprocess."))
        ):
            self.seen.append((event, arguments[0] if arguments else None))


def try_path(name: str) -> str:
    """Any text as an image's file name: below the folder is what may be opened, and nothing else is."""
    tree, watch = the_tree()
    watch.seen = []
    try:
        found = ImageFolder(tree.root).read(name)
        seen = watch.seen
    finally:
        watch.seen = None
    for event, what in seen:
        assert event == "open", f"{event} of {what!r}"
        real = os.path.realpath(what)
        assert real.startswith(tree.inside + "/") or real == tree.inside, f"{what!r} was opened"
    located = ImageFolder(tree.root).locate(name)
    bucket = ImageFolder("gs://bucket-of-mine/images").locate(name)
    if isinstance(bucket, str):
        assert bucket.startswith("gs://bucket-of-mine/images")
        assert bucket[26:27] in ("", "/")
        assert not {"..", "."} & set(bucket[26:].split("/"))
    if isinstance(found, Problem):
        assert not (found.code == ReasonCode.PATH_FORBIDDEN.name and seen), "refused, but opened before"
        return allowed(found.code, ReasonCode.PATH_FORBIDDEN, ReasonCode.IMAGE_MISSING)
    assert isinstance(located, str)
    assert tree.files[os.path.realpath(located)] == found
    assert len(seen) == 1
    return ACCEPTED


def path_of(data: bytes) -> tuple[Any, ...]:
    """What a fuzzer's bytes stand for: a name, as UTF-8, or whatever they are by another reading."""
    try:
        return (data.decode(),)
    except UnicodeDecodeError:
        return (data.decode("latin-1"),)


_tree: tuple[Tree, Watch] | None = None
_scratch: Path | None = None


def use_folder(folder: Path) -> None:
    """Where the functions above may put files, before the first input."""
    global _scratch, _tree
    _scratch = folder
    _tree = make_tree(folder / "paths"), Watch()
    for name in ("a.jpg", "missing.jpg", "../secret.jpg"):
        ImageFolder(_tree[0].root).read(name)  # so that no module is opened while the watch is on


def the_tree() -> tuple[Tree, Watch]:
    assert _tree is not None, "use_folder comes first"
    return _tree


def scratch_file(name: str, data: bytes) -> str:
    assert _scratch is not None, "use_folder comes first"
    path = _scratch / name
    path.write_bytes(data)
    return str(path)


class Parser(NamedTuple):
    """`attempt` takes an input apart, checks and says the outcome; `from_bytes` makes its arguments, or None, of any bytes."""

    attempt: Callable[..., str]
    from_bytes: Callable[[bytes], tuple[Any, ...] | None]


PARSERS = {  # in this order two processes share them evenly
    "COCO elements": Parser(try_coco, coco_of),
    "run lengths": Parser(try_run_lengths, run_lengths_of),
    "polygons": Parser(try_polygons, polygons_of),
    "images": Parser(try_image, image_of),
    "paths": Parser(try_path, path_of),
}
