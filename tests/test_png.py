"""Mask PNGs, taken apart by hand and decoded with Pillow and TensorFlow, against masks drawn by hand and pycocotools."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from drawings import draw, masks_of_size, oblong_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as cocomask

from transforms import png, run_lengths
from transforms.polygons import Drawn, draw_polygons
from transforms.records import Polygons

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ENCODINGS = pytest.mark.parametrize("one_bit", [False, True], ids=["png", "png1"])


def encode(masks, one_bit):
    """The PNG files of masks of one shape."""
    runs = [run_lengths.runs_of(run_lengths.from_mask(mask)) for mask in masks]
    return png.encode_masks(runs, *masks[0].shape, one_bit=one_bit)


def chunks_of(data):
    """Names and contents of a PNG's chunks, in order, each with its checksum verified."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = [], 8
    while place < len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        content = data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(name + content)
        chunks.append((name, content))
        place += 12 + length
    assert place == len(data)
    return chunks


def take_apart(data, one_bit):
    """The mask of a PNG file, read as the PNG specification says, everything in the file checked on the way."""
    chunks = chunks_of(data)
    names = [name for name, _ in chunks]
    assert names == ([b"IHDR", b"PLTE", b"IDAT", b"IEND"] if one_bit else [b"IHDR", b"IDAT", b"IEND"])
    contents = dict(chunks)
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", contents[b"IHDR"])
    assert (depth, colour, methods) == ((1, 3, [0, 0, 0]) if one_bit else (8, 0, [0, 0, 0]))
    assert contents.get(b"PLTE") == (bytes((0, 0, 0, 1, 1, 1)) if one_bit else None)
    assert contents[b"IEND"] == b""
    inflate = zlib.decompressobj()
    pixels = inflate.decompress(contents[b"IDAT"]) + inflate.flush()
    assert inflate.eof
    assert inflate.unused_data == b""
    rows = np.frombuffer(pixels, np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    if not one_bit:
        assert rows.shape[1] == width + 1
        return rows[:, 1:]
    assert rows.shape[1] == (width + 7) // 8 + 1
    bits = np.unpackbits(rows[:, 1:], axis=1)
    assert not bits[:, width:].any()
    return bits[:, :width]


def by_pillow(data):
    """The pixel values: grey, or the index into the palette."""
    return np.asarray(Image.open(io.BytesIO(data))).astype(np.uint8)


@st.composite
def oblong_masks(draw_from):
    """One to four masks of one shape, H ≠ W."""
    size = draw_from(oblong_sizes())
    return draw_from(st.lists(masks_of_size(*size), min_size=1, max_size=4))


PICTURES = {
    "empty": "..... ..... ..... .....",
    "full": "##### ##### ##### #####",
    "upper left pixel": "#.... ..... ..... .....",
    "upper right pixel": "....# ..... ..... .....",
    "lower left pixel": "..... ..... ..... #....",
    "lower right pixel": "..... ..... ..... ....#",
    "block": "..... .###. .###. .....",
    "all edges": "##### #...# #...# #####",
    "a run over a column's end": "...#. ...#. ..#.. ..#..",
    "a row's end and the next one's beginning": "..... ...## ##... .....",
    "chequered": "#.#.# .#.#. #.#.# .#.#.",
    "one row high": "##.###.#",
    "one row high, nine wide": "........#",
    "one column wide": "# . # # .",
    "one pixel": "#",
    "one pixel, empty": ".",
}


@ENCODINGS
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_in_the_file_pixel_by_pixel(picture, one_bit):
    mask = draw(picture)
    (data,) = encode([mask], one_bit)
    np.testing.assert_array_equal(take_apart(data, one_bit), mask)
    np.testing.assert_array_equal(by_pillow(data), mask)


@ENCODINGS
def test_all_pictures_of_one_size_at_once_give_the_files_of_each_alone(one_bit):
    masks = [draw(picture) for picture in PICTURES.values() if draw(picture).shape == (4, 5)]
    assert encode(masks, one_bit) == [encode([mask], one_bit)[0] for mask in masks]
    assert encode(masks[::-1], one_bit) == encode(masks, one_bit)[::-1]


GOLDEN_STREAMS = {
    False: "7801ede085018300000330b4ff3f3d77f70149d6da26699aa5ce0000580007",
    True: "7801ede003a0ff841e05709cbdbdf796975dcbb6bd6cdbb6eddab26ddbb66bd9b6975dcbabd6ceffdabedfcbdff900d81dab63a411033000c9",
}


@ENCODINGS
def test_the_bytes_are_the_same_everywhere(one_bit):
    (data,) = encode([draw("..... .###. .#.#. ....#")], one_bit)
    stream = dict(chunks_of(data))[b"IDAT"].hex()
    assert stream == GOLDEN_STREAMS[one_bit]


@settings(max_examples=200, deadline=None)
@given(oblong_masks(), st.booleans())
def test_any_masks_are_read_back_alone_and_together(masks, one_bit):
    files = encode(masks, one_bit)
    assert len(files) == len(masks)
    for mask, data in zip(masks, files, strict=True):
        np.testing.assert_array_equal(take_apart(data, one_bit), mask)
        np.testing.assert_array_equal(by_pillow(data), mask)
        assert [data] == encode([mask], one_bit)


@settings(max_examples=150, deadline=None)
@given(masks=oblong_masks(), one_bit=st.booleans())
def test_tensorflow_reads_zeros_and_ones(tf, masks, one_bit):
    for mask, data in zip(masks, encode(masks, one_bit), strict=True):
        pixels = tf.io.decode_png(data, channels=1)
        assert pixels.dtype == tf.uint8
        np.testing.assert_array_equal(pixels.numpy()[:, :, 0], mask)


@settings(max_examples=150, deadline=None)
@given(oblong_sizes(60), st.booleans(), st.data())
def test_polygons_come_out_of_the_files_as_pycocotools_draws_them(tf, size, one_bit, data):
    height, width = size
    coordinate = st.integers(-500, 6500).map(lambda number: number / 100)
    ring = st.lists(coordinate, min_size=6, max_size=16).map(lambda values: values[: len(values) // 2 * 2])
    rings = data.draw(st.lists(ring, min_size=1, max_size=3))
    expected = cocomask.decode(cocomask.merge(cocomask.frPyObjects(rings, height, width)))
    [drawn] = draw_polygons([(Polygons.pack(rings), height, width)])
    if not isinstance(drawn, Drawn):
        assert not expected.any()
        return
    (file,) = png.encode_masks([run_lengths.runs_of(drawn.mask)], height, width, one_bit=one_bit)
    assert expected.shape == (height, width)
    np.testing.assert_array_equal(by_pillow(file), expected)
    np.testing.assert_array_equal(tf.io.decode_png(file, channels=1).numpy()[:, :, 0], expected)


@settings(max_examples=100, deadline=None)
@given(oblong_sizes(), st.booleans(), st.data())
def test_runs_of_length_zero_and_runs_over_columns_are_drawn(size, one_bit, data):
    height, width = size
    bounds = data.draw(st.lists(st.integers(0, height * width), max_size=12))
    runs = np.diff([0, *sorted(bounds), height * width])
    expected = np.repeat(np.arange(len(runs)) & 1, runs).reshape(width, height).T
    (file,) = png.encode_masks([runs], height, width, one_bit=one_bit)
    np.testing.assert_array_equal(take_apart(file, one_bit), expected)
    theirs = {"size": [height, width], "counts": run_lengths.encode_counts(runs)}
    np.testing.assert_array_equal(cocomask.decode(theirs), expected)


LARGE = [(1, 5000), (5000, 1), (2, 257), (2, 258), (2, 259), (3, 2067), (7, 520), (481, 640), (640, 481), (300, 70_001)]


@ENCODINGS
@pytest.mark.parametrize(("height", "width"), LARGE)
def test_large_masks_are_read_back(height, width, one_bit):
    random = np.random.default_rng(height)
    full, empty = np.ones((height, width), np.uint8), np.zeros((height, width), np.uint8)
    block = empty.copy()
    block[height // 3 : height - height // 4, width // 3 : width - width // 5] = 1
    block[0, 0] = block[-1, -1] = 1
    sparse = (random.random((height, width)) < 0.002).astype(np.uint8)
    masks = [full, block, empty, sparse]
    for mask, data in zip(masks, encode(masks, one_bit), strict=True):
        assert np.array_equal(take_apart(data, one_bit), mask)


def test_runs_of_every_length_are_read_back():
    masks = np.zeros((1100, 1, 1200), np.uint8)
    for length, mask in enumerate(masks):
        mask[0, 10 : 10 + length] = 1
    for mask, data in zip(masks, encode(masks, one_bit=False), strict=True):
        assert np.array_equal(take_apart(data, one_bit=False), mask)


def test_runs_of_every_byte_are_read_back():
    for length in (1, 2, 3, 4, 11, 258, 259, 300):
        masks = [np.tile(np.unpackbits(np.uint8([value])), length)[None] for value in range(256)]
        for mask, data in zip(masks, encode(masks, one_bit=True), strict=True):
            assert np.array_equal(take_apart(data, one_bit=True), mask)


@ENCODINGS
def test_noise_is_encoded_a_few_masks_at_a_time_with_the_same_bytes(monkeypatch, one_bit):
    random = np.random.default_rng(3)
    masks = [(random.random((33, 70)) < 0.5).astype(np.uint8) for _ in range(5)]
    at_once = encode(masks, one_bit)
    for runs in (100, 3000):
        monkeypatch.setattr(png, "_RUNS_AT_ONCE", runs)
        assert encode(masks, one_bit) == at_once


@ENCODINGS
def test_no_masks_give_no_files(one_bit):
    assert png.encode_masks([], 4, 5, one_bit=one_bit) == []


def test_spans_are_row_by_row_with_an_extra_column_before_each_row():
    masks = [draw("..... .###. .#.#. ....#"), draw("##### ..... ..... #...."), draw("..... ..... ..... .....")]
    runs = [run_lengths.runs_of(run_lengths.from_mask(mask)) for mask in masks]
    starts, stops = png.row_spans(runs, 4, 5)
    assert list(zip(starts.tolist(), stops.tolist(), strict=True)) == [
        (8, 11),
        (14, 15),
        (16, 17),
        (23, 24),
        (25, 30),
        (43, 44),
    ]


def test_spans_of_more_pixels_than_int32_counts_are_where_they_are():
    height, width = 60_000, 40_000
    first, second = 3 * height + 59_998, 39_999 * height + 59_999  # (59998, 3) and below, and the last pixel
    runs = np.array([first, 2, second - first - 2, 1])
    for masks, offset in (([runs], 0), ([runs, runs], height * (width + 1))):
        starts, stops = png.row_spans(masks, height, width)
        expected = [59_998 * (width + 1) + 1 + 3, 59_999 * (width + 1) + 1 + 3, 59_999 * (width + 1) + 1 + 39_999]
        expected += [offset + one for one in expected] if offset else []
        assert starts.tolist() == expected
        assert stops.tolist() == [one + 1 for one in expected]


@ENCODINGS
def test_the_mask_of_a_disc_takes_less_than_a_hundredth_of_a_byte_for_each_pixel(one_bit):
    y, x = np.mgrid[:480, :640]
    disc = ((y - 240) ** 2 + (x - 320) ** 2 < 120**2).astype(np.uint8)
    (data,) = encode([disc], one_bit)
    assert len(data) < disc.size / 100
