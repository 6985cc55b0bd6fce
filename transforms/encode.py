"""Masks as the trainers read them: PNG files, or one dense float32 vector."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms import png, run_lengths
from transforms.records import Instance
from transforms.run_lengths import Runs

MaskEncoding = Literal["png", "dense", "png1"]
"""`png`: 8-bit grey, 0/1. `dense`: float32 0.0/1.0, [N, H, W] flattened. `png1`: 1-bit palette (0,0,0), (1,1,1)."""


def dense_masks(masks: Sequence[Runs], height: int, width: int) -> npt.NDArray[np.float32]:
    """Masks as float32 0.0/1.0, shape (N · height · width,): mask by mask, row by row."""
    flat = np.zeros(len(masks) * height * width, "<f4")
    if not masks:
        return flat
    starts, stops = png.row_spans(masks, height, width)
    rows = starts // (width + 1) + 1  # as many extra columns lie before a span
    for start, stop in zip((starts - rows).tolist(), (stops - rows).tolist(), strict=True):
        flat[start:stop] = 1.0
    return flat


def dense_bytes(count: int, height: int, width: int) -> int:
    """The size of `dense_masks` of `count` masks, in bytes."""
    return 4 * count * height * width


def png_masks(masks: Sequence[Runs], height: int, width: int, encoding: MaskEncoding) -> list[bytes]:
    """Each mask as a PNG file of the image's size."""
    return png.encode_masks(masks, height, width, one_bit=encoding == "png1")


class EncodedMasks(NamedTuple):
    """The masks of an image's instances: as run lengths and, unless they are to be dense, each as a PNG file of its size."""

    runs: list[Runs]
    pngs: list[bytes] | None


def encode_masks(images: Sequence[tuple[Sequence[Instance], int, int]], encoding: MaskEncoding) -> list[EncodedMasks]:
    """The masks of several images, each given as rasterized instances, height and width; where there is no mask, an empty one.

    All that are of one size are encoded together, since numpy's calls cost more than their work: of 16 images, seven masks each
    take 0.16 ms an image, one by one 0.35.
    """
    masks = run_lengths.masks_of(images)
    if encoding == "dense":
        return [EncodedMasks(runs, None) for runs in masks]
    of_size: defaultdict[tuple[int, int], list[Runs]] = defaultdict(list)
    for runs, (_, height, width) in zip(masks, images, strict=True):
        of_size[height, width] += runs
    pngs = {size: iter(png_masks(runs, *size, encoding)) for size, runs in of_size.items()}
    return [
        EncodedMasks(runs, list(islice(pngs[height, width], len(runs))))
        for runs, (_, height, width) in zip(masks, images, strict=True)
    ]
