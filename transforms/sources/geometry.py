"""Shapes as annotation tools have them, as polygon rings in pixels, the origin at the outer corner of the upper left pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from transforms.records import LARGEST_PACKED, Polygons, Problem, ReasonCode, problem

Ring = list[float]
"""[x0, y0, x1, y1, …], closed by itself."""
_OFF = 0.05  # pixels, by which a side of the polygon that stands for an ellipse may be off


def polygon(rings: Sequence[Sequence[float]], holes: Sequence[Sequence[float]] = ()) -> Polygons | Problem:
    """Rings as a shape: the union of `rings`, without that of `holes`. COORD_INVALID, POLY_MALFORMED.

    Whether rings have points enough, and are within bounds, `Rasterize` says.
    """
    for ring in (*rings, *holes):
        for number in ring:
            if not abs(number) < LARGEST_PACKED:  # NaN too
                return problem(ReasonCode.COORD_INVALID, f"a polygon coordinate is {number}, expected a pixel position")
    if not rings:
        return problem(ReasonCode.POLY_MALFORMED, "the polygon has no ring")
    return Polygons.pack([*rings, *holes], len(holes))


def ring_of(points: Sequence[Sequence[float]]) -> Ring | Problem:
    """Points [x, y] as a ring; POLY_MALFORMED for one that has not two numbers."""
    ring: Ring = []
    for point in points:
        if len(point) != 2:
            return problem(ReasonCode.POLY_MALFORMED, f"a point of the polygon has {len(point)} numbers, expected x and y")
        ring += point
    return ring


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Ring:
    """The rectangle between two opposite corners."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def turned(ring: Sequence[float], x: float, y: float, angle: float) -> Ring:
    """A ring turned around x, y, clockwise (as seen, y pointing down) by `angle` radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    found: Ring = []
    for across, down in zip(ring[0::2], ring[1::2], strict=True):
        found += [x + (across - x) * cosine - (down - y) * sine, y + (across - x) * sine + (down - y) * cosine]
    return found


def ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0) -> Ring:
    """An ellipse around x, y, turned clockwise (as seen, y pointing down) by `angle` radians.

    As many sides as it takes for none to be off by more than 0.05 pixels; 8 at least, and 512 at most.
    """
    longest = max(abs(radius_x), abs(radius_y))
    round_enough = not _OFF < longest < 1e9
    sides = 8 if round_enough else math.ceil(math.pi / math.acos(1 - _OFF / longest))
    sides = min(max(4 * math.ceil(sides / 4), 8), 512)
    ring: Ring = []
    for step in range(sides):
        turn = 2 * math.pi * step / sides
        along, across = radius_x * math.cos(turn), radius_y * math.sin(turn)
        ring += [
            x + along * math.cos(angle) - across * math.sin(angle),
            y + along * math.sin(angle) + across * math.cos(angle),
        ]
    return ring
