"""Polygons from JSON, many at a time: a block's outlines become one array of numbers, and are packed as one.

Read by itself, each would cost some twenty calls of numpy and a Python object for each coordinate: 16 µs for an outline of 28
points, where 3 µs do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import simdjson

from transforms.records import LARGEST_PACKED, Polygons

_RINGS = re.compile(rb"\[\[[^][]+\](?:, ?\[[^][]+\])*\]")
_BETWEEN = re.compile(rb"\], ?\[")


def pack_outlines(texts: Sequence[bytes]) -> list[Polygons | None]:
    """Each text of a list of rings `[[x0, y0, …], …]` as `Polygons.pack` gives it; None where that is to be found out otherwise.

    That is so for what is no list of rings, for empty rings, for white space at odd places, and for large coordinates.
    """
    found: list[Polygons | None] = [None] * len(texts)
    rings_of = [_ring_lengths(text) for text in texts]
    plain = [index for index, rings in enumerate(rings_of) if rings]
    lengths = [rings_of[index] for index in plain]
    values = _numbers([texts[index] for index in plain])
    counts = np.fromiter(map(sum, lengths), np.int64, len(lengths))
    if not plain or values is None or values.size != counts.sum():
        return found
    stops = np.cumsum(counts)
    starts = stops - counts
    with np.errstate(over="ignore", invalid="ignore"):  # of what is too large
        hundredths = np.rint(values * 100)
        steps = hundredths.copy()
        steps[2:] -= hundredths[:-2]
    firsts = starts[counts > 1]
    steps[starts], steps[firsts + 1] = hundredths[starts], hundredths[firsts + 1]
    exact = np.logical_and.reduceat(hundredths / 100 == values, starts) & (counts % 2 == 0)
    sizes_of_steps = np.abs(steps)
    longest = np.maximum.reduceat(sizes_of_steps, starts)
    sound = np.maximum.reduceat(np.abs(values), starts) < LARGEST_PACKED
    sizes = np.where(exact & (longest < 2**15), 2, np.where(exact & (longest < 2**31), 4, 8))

    most = sizes_of_steps.max()

    def packed(size: int) -> bytes:
        if size == 8:
            return values.astype("<f8").tobytes()
        bound = 2 ** (8 * size - 1)  # where all are below, nothing has to be left out
        fitting = steps if most < bound else np.where(sizes_of_steps < bound, steps, 0)
        return fitting.astype(f"<i{size}").tobytes()

    data = {size: packed(size) for size in set(sizes.tolist())}
    each = zip(plain, lengths, starts.tolist(), stops.tolist(), sizes.tolist(), sound.tolist(), strict=True)
    for index, rings, start, stop, size, is_sound in each:
        if is_sound:
            found[index] = Polygons(data[size][size * start : size * stop], rings)
    return found


def _ring_lengths(text: bytes) -> tuple[int, ...]:
    """How many values each ring has, if the text is JSON; none where it is not a list of rings with something in them."""
    if text.startswith(b"[[") and text.endswith(b"]") and 2 < text.find(b"]") == len(text) - 2 and text.find(b"[", 2) < 0:
        return (text.count(b",") + 1,)  # one ring, as almost all have
    return tuple(ring.count(b",") + 1 for ring in _BETWEEN.split(text)) if _RINGS.fullmatch(text) else ()


def _numbers(texts: Sequence[bytes]) -> npt.NDArray[np.float64] | None:
    """All numbers in JSON lists, one after the other, as float64; None where there are other things in them."""
    try:
        parsed: Any = simdjson.Parser().parse(b"[" + b",".join(texts) + b"]")
        return np.frombuffer(parsed.as_buffer(of_type="d"), np.float64)
    except (ValueError, RuntimeError, TypeError):
        return None
