"""Polygons from JSON, many at a time: a block's outlines become one array of numbers, and are packed as one.

Read by itself, each would cost some twenty calls of numpy and a Python object for each coordinate: 16 µs for an outline of 28
points, where 3 µs do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import simdjson

from transforms.records import LARGEST_PACKED, Polygons


def pack_outlines(texts: Sequence[bytes]) -> list[Polygons | None]:
    """Each text of a list of rings `[[x0, y0, …], …]` as `Polygons.pack` gives it; None where that is to be found out otherwise.

    That is so for what is no list of rings, for empty rings, for white space before the first ring, and for large coordinates.
    """
    found: list[Polygons | None] = [None] * len(texts)
    plain = [index for index, text in enumerate(texts) if text.startswith(b"[[")]
    read = _read([texts[index] for index in plain])
    if read is None:  # because of some of them
        plain = [index for index in plain if _read([texts[index]])]
        read = _read([texts[index] for index in plain])
    if not plain or read is None:
        return found
    lengths, values = read
    counts = np.fromiter(map(sum, lengths), np.int64, len(lengths))
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


def _read(texts: Sequence[bytes]) -> tuple[list[tuple[int, ...]], npt.NDArray[np.float64]] | None:
    """How many numbers each ring of each list has, and all numbers, one after the other; None where there are other things."""
    joined = b"[" + b",".join(texts) + b"]"
    try:
        parsed: Any = simdjson.Parser().parse(joined)
        lengths = [tuple(map(len, rings)) for rings in parsed]
        values = np.frombuffer(parsed.as_buffer(of_type="d"), np.float64)
    except (ValueError, RuntimeError, TypeError):
        return None
    numbers, lists = sum(map(sum, lengths)), 1 + len(texts) + sum(map(len, lengths))
    # `as_buffer` takes what lies deeper as well.
    is_plain = values.size == numbers and joined.count(b"[") == lists and all(map(all, lengths))
    return (lengths, values) if is_plain else None
