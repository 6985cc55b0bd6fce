"""Masks as records have them, read without Pillow: the same pixels; and whatever else a PNG may be is left to it."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from transforms.image_files import grey_pixels
from transforms.png import encode_masks
from transforms.run_lengths import from_mask, runs_of

MASK = (np.random.default_rng(5).random((11, 17)) < 0.4).astype(np.uint8)


def as_written(mask: npt.NDArray[np.uint8], one_bit: bool = False) -> bytes:
    height, width = mask.shape
    [file] = encode_masks([runs_of(from_mask(mask))], height, width, one_bit=one_bit)
    return file


def by_pillow(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("mask", [MASK, MASK.T, np.zeros((3, 5), np.uint8), np.ones((5, 3), np.uint8), MASK[:1], MASK[:, :1]])
def test_a_mask_as_it_is_written_has_the_pixels_that_pillow_reads(mask: npt.NDArray[np.uint8]) -> None:
    found = grey_pixels(as_written(mask))
    assert found is not None
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(as_written(mask)))))


GRADIENT = by_pillow(np.arange(200, dtype=np.uint8).reshape(10, 20).repeat(20, axis=1))
OTHERS = {
    "a palette": as_written(MASK, one_bit=True),
    "colours": by_pillow(np.zeros((4, 5, 3), np.uint8)),
    "filtered rows": GRADIENT,
    "no PNG": b"\xff\xd8\xff\xe0" + bytes(60),
    "cut off": as_written(MASK)[:-20],
    "a bit flipped": as_written(MASK)[:50] + bytes([as_written(MASK)[50] ^ 1]) + as_written(MASK)[51:],
    "nothing": b"",
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_any_other_file_is_left_to_pillow(data: bytes) -> None:
    assert grey_pixels(data) is None
