"""Polygons: drawn as run lengths, bit-exact with pycocotools, many at once, since numpy's calls cost more than their work.

pycocotools aborts, hangs or answers with uninitialised memory on malformed input, so whatever reaches it has been checked
here in Python: see `check_rings` and `check_values`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as cocomask

from transforms import run_lengths
from transforms.records import Fix, Polygons, Problem, ReasonCode, RunLengths, problem, split_rings, values_of
from transforms.run_lengths import slices

MAX_POINTS = 100_000  # of one annotation, by default
MAX_COORDINATE = 1e5  # pixels; pycocotools takes gigabytes from 1e6 on
MAX_OUTLINE = 2e6  # pixels along all rings; pycocotools walks them in fifths, some 50 bytes a step
NUMBERS_AT_ONCE = 1 << 13  # of polygons that are drawn together
AREAS_AT_ONCE = 255  # of more masks than these, pycocotools' `area` raises
FEW_SIDES = 64  # of so many, each is compared with each: 5 µs for 30, where the other way takes 40
FEW_PAIRS = 1 << 12  # of sides: to compare them takes no longer than numpy's calls
MAX_PAIRS = 1 << 21  # of sides that are compared in one ring, which takes 0.2 s
PAIRS_AT_ONCE = 1 << 16

Ring = npt.NDArray[np.float64]
"""x0, y0, x1, y1, …"""


class Drawn(NamedTuple):
    """A polygon that was drawn, and the names of what is counted of it: corners outside the image, a ring that crosses itself."""

    mask: RunLengths
    fixes: tuple[str, ...] = ()


def draw_polygons(shapes: Sequence[tuple[Polygons, int, int]], max_points: int = MAX_POINTS) -> list[Drawn | Problem]:
    """For each, given with its image's height and width: the union of its rings, as pycocotools' `annToMask` draws it.

    Codes: those of `check_rings` and `check_values`, EMPTY_MASK.
    """
    malformed = [check_rings(one, max_points) for one, _, _ in shapes]
    sound = [shape for shape, wrong in zip(shapes, malformed, strict=True) if wrong is None]
    drawn: list[Drawn | Problem] = []
    for some in slices([one.numbers for one, _, _ in sound], NUMBERS_AT_ONCE):
        drawn += _draw_few(sound[some])
    following = iter(drawn)
    return [wrong or next(following) for wrong in malformed]


def _draw_few(shapes: Sequence[tuple[Polygons, int, int]]) -> list[Drawn | Problem]:
    polygons, sizes = [one for one, _, _ in shapes], [(height, width) for _, height, width in shapes]
    values = values_of(polygons)
    rings, hundredths = split_rings(polygons, values), split_rings(polygons, np.rint(values * 100))
    corners = values.reshape(-1, 2)
    firsts = np.cumsum([0, *(one.numbers // 2 for one in polygons[:-1])])
    lows, highs = np.minimum.reduceat(corners, firsts), np.maximum.reduceat(corners, firsts)  # [shape, (x, y)]
    wrong = list(map(check_values, rings, lows.min(axis=1).tolist(), highs.max(axis=1).tolist()))
    outside = (lows < 0) | (highs > [(width, height) for height, width in sizes])  # [shape, (x, y)]
    clipped = np.any(outside, axis=1).tolist()
    good = [place for place, found in enumerate(wrong) if found is None]
    masks: list[Any] = []
    for (height, width), places in groupby(good, sizes.__getitem__):
        same = list(places)
        parts = iter(cocomask.frPyObjects([ring for place in same for ring in rings[place]], height, width))
        masks += [_enclosed(list(islice(parts, len(rings[place]))), polygons[place].holes, height, width) for place in same]
    crossed = iter(cross_themselves([ring for place in good for ring in hundredths[place]]))
    found: list[Drawn | Problem | None] = list(wrong)
    batches = (masks[first : first + AREAS_AT_ONCE] for first in range(0, len(masks), AREAS_AT_ONCE))
    areas = [area for some in batches for area in cocomask.area(some).tolist()]
    for place, mask, area in zip(good, masks, areas, strict=True):
        fixes = [Fix.POLYGON_CLIPPED.name] if clipped[place] else []
        if any(list(islice(crossed, len(rings[place])))):
            fixes.append(Fix.POLYGON_CROSSES_ITSELF.name)
        height, width = sizes[place]
        drawn = Drawn(RunLengths(height, width, mask["counts"]), tuple(fixes))
        found[place] = drawn if area else problem(ReasonCode.EMPTY_MASK, "the polygon has no pixel inside the image")
    return [one for one in found if one]


def _enclosed(parts: list[Any], holes: int, height: int, width: int) -> Any:
    """What rings enclose, of which the last ones are holes; all as pycocotools' run lengths."""
    enclosed = union(parts[: len(parts) - holes])
    if holes:
        cut_out = run_lengths.complement(RunLengths(height, width, union(parts[-holes:])["counts"]))
        enclosed = cocomask.merge([enclosed, {"size": [height, width], "counts": cut_out.counts}], intersect=True)
    return enclosed


def union(parts: list[Any]) -> Any:
    """The pixels of all parts; all as pycocotools' run lengths."""
    while len(parts) > 1:  # by sixteens: one after the other, each ring would go over the union of all before it
        parts = [cocomask.merge(parts[first : first + 16]) for first in range(0, len(parts), 16)]
    return parts[0]


def check_rings(polygons: Polygons, max_points: int) -> Problem | None:
    """What must hold of the rings' lengths before pycocotools sees them: even counts of at least six, and not too many.

    Codes: POLY_MALFORMED, POINT_LIMIT.
    """
    if not polygons.ring_lengths:
        return problem(ReasonCode.POLY_MALFORMED, "the polygon has no ring")
    for length in polygons.ring_lengths:
        if length < 6 or length % 2:
            message = f"a polygon ring has {length} numbers, expected an even count of at least 6"
            return problem(ReasonCode.POLY_MALFORMED, message)
    points = polygons.numbers // 2
    if points > max_points:
        return problem(ReasonCode.POINT_LIMIT, f"the polygon has {points} points, at most {max_points} are read (--max_points)")
    return None


def check_values(rings: Sequence[Ring], lowest: float, highest: float) -> Problem | None:
    """What must hold of a polygon's numbers, of which these are the `lowest` and `highest`: finite, bounded.

    Codes: COORD_INVALID, POINT_LIMIT.
    """
    if not (lowest >= -MAX_COORDINATE and highest <= MAX_COORDINATE):  # NaN too
        found = next(value for ring in rings for value in ring if not abs(value) <= MAX_COORDINATE)
        message = f"a polygon coordinate is {found}, expected a number within ±{MAX_COORDINATE:.0f}"
        return problem(ReasonCode.COORD_INVALID, message)
    if sum(map(len, rings)) // 2 * (highest - lowest) > MAX_OUTLINE:  # else the outline can't be longer, and need not be measured
        outline = sum(map(outline_length, rings))
        if outline > MAX_OUTLINE:
            message = f"the polygon's outline is {outline:.0f} pixels long, at most {MAX_OUTLINE:.0f} are drawn"
            return problem(ReasonCode.POINT_LIMIT, message)
    return None


def outline_length(ring: Ring) -> float:
    """The length of a closed ring, in pixels along the longer axis of each side, as pycocotools walks it."""
    corners = ring.reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def cross_themselves(rings: Sequence[Ring]) -> list[bool]:
    """Whether two sides of a closed ring cross, for each: they meet in one point, which is an end of neither.

    Coordinates are in whole hundredths of a pixel, so that nothing here is rounded, and the answer depends on no processor.
    Sides that touch, or lie on one another, don't cross. In a ring of over `FEW_SIDES` sides those are compared that lie
    side by side along the longer axis, and no more than `MAX_PAIRS` of them.
    """
    found = [len(ring) > 2 * FEW_SIDES and _any_near_cross(ring) for ring in rings]
    few = [place for place, ring in enumerate(rings) if len(ring) <= 2 * FEW_SIDES]
    for places in _alike(few, [len(ring) // 2 for ring in rings]):
        for place, crosses in zip(places, _any_cross([rings[place] for place in places]), strict=True):
            found[place] = crosses
    return found


def _alike(places: Sequence[int], sides: Sequence[int]) -> Iterator[list[int]]:
    """Places of rings, together where they have about as many sides: as one, all take as long as the one with the most."""
    group: list[int] = []
    pairs = 0
    for place in sorted(places, key=sides.__getitem__):
        together = (len(group) + 1) * sides[place] ** 2
        if group and together > min(PAIRS_AT_ONCE, 1.5 * pairs + FEW_PAIRS):
            yield group
            group, pairs = [], 0
        group.append(place)
        pairs += sides[place] ** 2
    if group:
        yield group


def _any_cross(rings: Sequence[Ring]) -> list[bool]:
    """`cross_themselves` for few sides: each is compared with each, of all rings at once."""
    most = max(map(len, rings)) // 2
    corners = np.ones((len(rings), most + 1, 3))  # x, y, 1
    for place, ring in enumerate(rings):
        own = len(ring) // 2
        corners[place, :own, :2] = ring.reshape(-1, 2)
        corners[place, own:, :2] = ring[:2]  # a side of no length crosses none
    x, y = corners[..., 0], corners[..., 1]
    lines = np.empty((len(rings), 3, most))  # what is 0 of x, y, 1 along each side
    np.subtract(y[:, :-1], y[:, 1:], out=lines[:, 0])
    np.subtract(x[:, 1:], x[:, :-1], out=lines[:, 1])
    np.subtract(x[:, :-1] * y[:, 1:], y[:, :-1] * x[:, 1:], out=lines[:, 2])
    sides = corners @ lines  # [ring, corner, side]: > 0 where the corner lies left of the side, < 0 where it lies right
    parted = sides[:, :-1] * sides[:, 1:] < 0  # [ring, one, other]: the ends of the one lie on either side of the other
    crossed: list[bool] = (parted & parted.transpose(0, 2, 1)).any(axis=(1, 2)).tolist()
    return crossed


def _any_near_cross(ring: Ring) -> bool:
    """`cross_themselves` for many sides: sorted by where they begin, each is compared with those that begin before it ends."""
    corners = np.concatenate((ring, ring[:2])).view(np.complex128)
    if np.ptp(corners.imag) > np.ptp(corners.real):
        corners = corners.imag + 1j * corners.real  # a mirror image
    begins, ends = np.minimum(corners.real[:-1], corners.real[1:]), np.maximum(corners.real[:-1], corners.real[1:])
    order = np.argsort(begins, kind="stable")
    a, b = corners[:-1][order], corners[1:][order]
    low, high = np.minimum(a.imag, b.imag), np.maximum(a.imag, b.imag)
    partners = np.searchsorted(begins[order], ends[order], "right") - np.arange(1, len(a) + 1)
    compared = np.cumsum(partners)
    start = done = 0
    while start < len(a) and done < MAX_PAIRS:
        stop = max(start + 1, int(np.searchsorted(compared, done + PAIRS_AT_ONCE, "right")))
        counts = partners[start:stop]
        one = np.repeat(np.arange(start, stop), counts)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
        near = (low[one] <= high[other]) & (low[other] <= high[one])
        one, other = one[near], other[near]
        if np.any(_parts(a[one], b[one], a[other], b[other]) & _parts(a[other], b[other], a[one], b[one])):
            return True
        start, done = stop, int(compared[stop - 1])
    return False


def _parts(
    a: npt.NDArray[np.complex128],
    b: npt.NDArray[np.complex128],
    c: npt.NDArray[np.complex128],
    d: npt.NDArray[np.complex128],
) -> npt.NDArray[np.bool_]:
    """Whether the line through a and b has c on one side and d on the other."""
    along = (b - a).conj()
    apart: npt.NDArray[np.bool_] = (along * (c - a)).imag * (along * (d - a)).imag < 0
    return apart
