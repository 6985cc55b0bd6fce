"""Mask files: the values that a PNG has, however its rows are stored."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from pictures import chunk, png_of

from transforms.records import Problem
from transforms.sources.mask_files import Ids, decode_ids

HEIGHT, WIDTH = 5, 9
IDS = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
PALETTE = (b"PLTE", bytes(768))


def pixels(data: bytes) -> Ids:
    found = decode_ids(data, "mask.png", 1000)
    assert not isinstance(found, Problem), found
    return found


@pytest.mark.parametrize(("colour", "chunks"), [(0, []), (3, [PALETTE])])
def test_rows_that_are_not_filtered(colour: int, chunks: list[tuple[bytes, bytes]]) -> None:
    assert np.array_equal(pixels(png_of(HEIGHT, WIDTH, 8, colour, list(map(bytes, IDS)), *chunks)), IDS)


@pytest.mark.parametrize("filtered", range(1, 5))
@pytest.mark.parametrize("row", [0, 2, HEIGHT - 1])
def test_a_row_that_is_filtered(filtered: int, row: int) -> None:
    """As the PNG specification has it, in Python numbers."""
    stored = IDS.astype(int).tolist()
    above = IDS[row - 1].astype(int).tolist() if row else [0] * WIDTH
    for at in reversed(range(WIDTH)):
        left, up, corner = (IDS[row, at - 1], above[at], above[at - 1]) if at else (0, above[at], 0)
        near = min((left, up, corner), key=lambda one: abs(int(left) + up - corner - int(one)))  # the first of as near ones
        predicted = {1: left, 2: up, 3: (int(left) + up) // 2, 4: near}[filtered]
        stored[row][at] = (int(IDS[row, at]) - int(predicted)) % 256
    data = png_of(HEIGHT, WIDTH, 8, 0, [b""])  # its head, and how it ends
    rows = b"".join(bytes([filtered if at == row else 0]) + bytes(values) for at, values in enumerate(stored))
    begin, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    assert np.array_equal(pixels(data[:begin] + chunk(b"IDAT", zlib.compress(rows)) + data[end:]), IDS)


def test_what_is_behind_the_rows_of_a_small_depth_is_not_read() -> None:
    """A row of nine pixels of a bit has two bytes; however many there are more, they aren't nine pixels of a byte."""
    ids = np.zeros_like(IDS)
    ids[0, 0] = 1
    rows = [np.packbits(row).tobytes() for row in ids]
    assert np.array_equal(pixels(png_of(HEIGHT, WIDTH, 1, 3, [*rows[:-1], rows[-1] + bytes(100)], PALETTE)), ids)
