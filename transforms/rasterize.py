"""Rasterize: geometry as annotated becomes run lengths, bit-exact with pycocotools, and boxes come to lie in the image.

pycocotools aborts, hangs or answers with uninitialised memory on malformed input, so whatever reaches it has been checked
here in Python: see `check_polygons`. Run lengths never reach it at all; `run_lengths` reads those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import apache_beam as beam
import msgspec
import numpy as np
import numpy.typing as npt
from pycocotools import mask as cocomask

from transforms import run_lengths
from transforms.records import (
    AnnotatedImage,
    Box,
    Fix,
    Instance,
    Polygons,
    Problem,
    ReasonCode,
    Reject,
    RunLengths,
    problem,
    reject_image,
    reject_instance,
)
from transforms.run_lengths import Runs

MAX_COORDINATE = 1e5  # pixels; pycocotools takes gigabytes from 1e6 on
MAX_OUTLINE = 2e6  # pixels along all rings; pycocotools walks them in fifths, some 50 bytes a step
FEW_SIDES = 64  # of so many, each is compared with each: 10 µs for 30, where the other way takes 40
MAX_PAIRS = 1 << 21  # of sides that are compared in one ring, which takes 0.2 s
PAIRS_AT_ONCE = 1 << 16

BoxSource = Literal["annotation", "mask"]


class Limits(NamedTuple):
    """How much is drawn: points of one annotation, instances of one image."""

    points: int = 100_000
    instances: int = 10_000


def check_polygons(polygons: Polygons, values: npt.NDArray[np.float64], max_points: int) -> Problem | None:
    """What must hold before pycocotools sees the rings, with these `values`: even counts of at least six, finite, bounded.

    Codes: POLY_MALFORMED, POINT_LIMIT, COORD_INVALID.
    """
    if not polygons.ring_lengths:
        return problem(ReasonCode.POLY_MALFORMED, "the polygon has no ring")
    for length in polygons.ring_lengths:
        if length < 6 or length % 2:
            message = f"a polygon ring has {length} numbers, expected an even count of at least 6"
            return problem(ReasonCode.POLY_MALFORMED, message)
    points = len(values) // 2
    if points > max_points:
        return problem(ReasonCode.POINT_LIMIT, f"the polygon has {points} points, at most {max_points} are read (--max_points)")
    lowest, highest = values.min(), values.max()
    if not (lowest >= -MAX_COORDINATE and highest <= MAX_COORDINATE):  # NaN too
        found = next(value for value in values if not abs(value) <= MAX_COORDINATE)
        message = f"a polygon coordinate is {found}, expected a number within ±{MAX_COORDINATE:.0f}"
        return problem(ReasonCode.COORD_INVALID, message)
    if points * (highest - lowest) > MAX_OUTLINE:  # else the outline can't be longer, and need not be measured
        outline = sum(outline_length(ring) for ring in polygons.split(values))
        if outline > MAX_OUTLINE:
            message = f"the polygon's outline is {outline:.0f} pixels long, at most {MAX_OUTLINE:.0f} are drawn"
            return problem(ReasonCode.POINT_LIMIT, message)
    return None


def outline_length(ring: npt.NDArray[np.float64]) -> float:
    """The length of a closed ring, in pixels along the longer axis of each side, as pycocotools walks it."""
    corners = ring.reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def crosses_itself(hundredths: npt.NDArray[np.float64]) -> bool:
    """Whether two sides of a closed ring cross: they meet in one point, which is an end of neither.

    Coordinates are in whole hundredths of a pixel, so that nothing here is rounded, and the answer depends on no processor.
    Sides that touch, or lie on one another, don't cross. In a ring of over `FEW_SIDES` sides those are compared that lie
    side by side along the longer axis, and no more than `MAX_PAIRS` of them.
    """
    corners = np.concatenate((hundredths, hundredths[:2])).view(np.complex128)
    if len(corners) > FEW_SIDES + 1:
        return _any_near_cross(corners)
    lines = np.subtract.outer(corners, corners[:-1])
    lines *= (corners[1:] - corners[:-1]).conj()
    sides = lines.imag  # [corner, side]: > 0 where the corner lies left of the side, < 0 where it lies right
    parted = sides[:-1] * sides[1:] < 0  # [one, other]: the ends of the one lie on either side of the other
    return bool((parted & parted.T).any())


def _any_near_cross(corners: npt.NDArray[np.complex128]) -> bool:
    """`crosses_itself` for many sides: sorted by where they begin, each is compared with those that begin before it ends."""
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


def rasterize_polygons(
    polygons: Polygons, values: npt.NDArray[np.float64], height: int, width: int, max_points: int = Limits().points
) -> RunLengths | Problem:
    """The union of the rings, with their `values`, as pycocotools' `annToMask` draws it.

    Codes: those of `check_polygons`, EMPTY_MASK.
    """
    wrong = check_polygons(polygons, values, max_points)
    if wrong:
        return wrong
    parts = cocomask.frPyObjects(polygons.split(values), height, width)
    enclosed = _union(parts[: len(parts) - polygons.holes])
    if polygons.holes:
        cut_out = run_lengths.complement(RunLengths(height, width, _union(parts[-polygons.holes :])["counts"]))
        enclosed = cocomask.merge([enclosed, {"size": [height, width], "counts": cut_out.counts}], intersect=True)
    if not cocomask.area(enclosed):
        return problem(ReasonCode.EMPTY_MASK, "the polygon has no pixel inside the image")
    return RunLengths(height, width, enclosed["counts"])


def _union(parts: list[Any]) -> Any:
    while len(parts) > 1:  # by sixteens: one after the other, each ring would go over the union of all before it
        parts = [cocomask.merge(parts[first : first + 16]) for first in range(0, len(parts), 16)]
    return parts[0]


def cover(instances: Sequence[Instance], height: int, width: int) -> list[Instance | Problem]:
    """The instances, each without what those of higher layers cover; `EMPTY_MASK` for one of which nothing is left.

    All have gone through `rasterize`. One that loses something loses its box and area, too, which were of all of it.
    """
    drawn = [one.shape for one in instances if isinstance(one.shape, RunLengths)]
    if not drawn:
        return list(instances)
    masks = [{"size": [height, width], "counts": mask.counts} for mask in drawn]
    layers = np.array([one.layer for one in instances if isinstance(one.shape, RunLengths)])
    x, y, across, down = cocomask.toBbox(masks).T
    found: list[Instance | Problem] = []
    place = 0
    for one in instances:
        if not isinstance(one.shape, RunLengths):
            found.append(one)
            continue
        near = (x < x[place] + across[place]) & (x[place] < x + across) & (y < y[place] + down[place]) & (y[place] < y + down)
        above = [masks[at] for at in np.flatnonzero(near & (layers > layers[place]))]
        found.append(_without(one, one.shape, _union(above)) if above else one)
        place += 1
    return found


def _without(instance: Instance, mask: RunLengths, above: Any) -> Instance | Problem:
    whole = {"size": [mask.height, mask.width], "counts": mask.counts}
    beside = run_lengths.complement(RunLengths(mask.height, mask.width, above["counts"]))
    left = cocomask.merge([whole, {"size": whole["size"], "counts": beside.counts}], intersect=True)
    if cocomask.area(left) == cocomask.area(whole):
        return instance
    if not cocomask.area(left):
        return problem(ReasonCode.EMPTY_MASK, "objects that lie above it cover it wholly")
    shape = RunLengths(mask.height, mask.width, left["counts"])
    return msgspec.structs.replace(instance, shape=shape, box=box_of_drawn(shape), area=None)


def checked_runs(shape: RunLengths, height: int, width: int) -> Runs | Problem:
    """The runs, if they are a mask of an image of height × width pixels; else RLE_SIZE_MISMATCH, RLE_MALFORMED, EMPTY_MASK."""
    if (shape.height, shape.width) != (height, width):
        return problem(
            ReasonCode.RLE_SIZE_MISMATCH,
            f"the run lengths are for {shape.height} × {shape.width} (height × width), the image is {height} × {width}",
        )
    runs = run_lengths.decode_counts(shape.counts)
    if isinstance(runs, Problem):
        return runs
    wrong = run_lengths.check_runs(runs, height, width)
    if wrong is None and not run_lengths.area(runs):
        wrong = problem(ReasonCode.EMPTY_MASK, "the run lengths have no pixel inside the image")
    return wrong or runs


def box_of_drawn(mask: RunLengths) -> Box:
    """The tight half-open box around a mask that pycocotools has drawn, and so can measure: 3 µs, where `box_of` takes 60."""
    x, y, width, height = cocomask.toBbox({"size": [mask.height, mask.width], "counts": mask.counts}).tolist()
    return y, x, y + height, x + width


def clip_box(box: Box, height: int, width: int) -> Box | None:
    """The part of a half-open box inside the image, or None where it has no area."""
    ymin, xmin, ymax, xmax = box
    ymin, ymax = max(ymin, 0.0), min(ymax, float(height))
    xmin, xmax = max(xmin, 0.0), min(xmax, float(width))
    return (ymin, xmin, ymax, xmax) if ymin < ymax and xmin < xmax else None


def oddities(polygons: Polygons, values: npt.NDArray[np.float64], height: int, width: int) -> list[str]:
    """What is counted of a polygon that was drawn: a corner that lies outside the image, a ring that crosses itself."""
    found = []
    if values.min() < 0 or values[0::2].max() > width or values[1::2].max() > height:
        found.append(Fix.POLYGON_CLIPPED.name)
    if any(map(crosses_itself, polygons.split(np.rint(values * 100)))):
        found.append(Fix.POLYGON_CROSSES_ITSELF.name)
    return found


def rasterize(
    instance: Instance, height: int, width: int, boxes: BoxSource = "annotation", max_points: int = Limits().points
) -> Instance | Problem:
    """The instance with its shape as run lengths (or None still) and a box inside an image of height × width pixels.

    `boxes="annotation"` keeps the annotation's box, clipped, and takes the mask's where that has no area;
    `boxes="mask"` takes the tight box around the mask wherever there is one.
    Codes: RLE_*, POLY_MALFORMED, COORD_INVALID, POINT_LIMIT, EMPTY_MASK, BOX_INVALID.
    """
    fixes = list(instance.fixes)
    shape = instance.shape
    if isinstance(shape, Polygons):
        values = shape.values()
        drawn = rasterize_polygons(shape, values, height, width, max_points)
        if isinstance(drawn, Problem):
            return drawn
        fixes += oddities(shape, values, height, width)
        shape = drawn
    runs: Runs | None = None
    if isinstance(instance.shape, RunLengths):
        checked = checked_runs(instance.shape, height, width)
        if isinstance(checked, Problem):
            return checked
        runs = checked
    box = None
    if instance.box is not None and (boxes == "annotation" or shape is None):
        box = clip_box(instance.box, height, width)
        if box is not None and box != instance.box:
            fixes.append(Fix.BOX_CLIPPED.name)
    if box is None:
        if shape is None:
            return problem(ReasonCode.BOX_INVALID, f"there is no mask, and the box {instance.box} has no area inside the image")
        if boxes == "annotation":
            fixes.append(Fix.BOX_FROM_MASK.name)
        box = box_of_drawn(shape) if runs is None else run_lengths.box_of(runs, height)
    return msgspec.structs.replace(instance, shape=shape, box=box, fixes=tuple(fixes))


class Drops(NamedTuple):
    """What the user does not want in the records."""

    crowds: bool = False
    without_mask: bool = False
    empty_images: bool = False
    below_area: float | None = None

    def why(self, instance: Instance) -> Problem | None:
        """The reason to leave this instance out, if any."""
        if self.crowds and instance.is_crowd:
            return problem(ReasonCode.DROPPED_CROWD, "it is a crowd")
        if self.without_mask and instance.shape is None:
            return problem(ReasonCode.DROPPED_WITHOUT_MASK, "it has no mask")
        return None

    def why_small(self, instance: Instance) -> Problem | None:
        """The reason to leave out an instance that has been rasterized, if it is too small."""
        if not self.below_area:
            return None
        if isinstance(instance.shape, RunLengths):
            area: float = run_lengths.area(run_lengths.runs_of(instance.shape))
        else:
            ymin, xmin, ymax, xmax = instance.box or (0, 0, 0, 0)
            area = (ymax - ymin) * (xmax - xmin)
        if area >= self.below_area:
            return None
        return problem(ReasonCode.DROPPED_SMALL, f"it has {area:g} pixels, fewer than {self.below_area:g} (--min_area)")


def rasterize_image(
    image: AnnotatedImage, boxes: BoxSource = "annotation", drops: Drops = Drops(), limits: Limits = Limits()
) -> tuple[AnnotatedImage | None, list[Reject]]:
    """The image with what can be drawn of it, and a reject for each instance that can't; None if it is dropped itself.

    Codes: those of `rasterize`, and of `Drops`; INSTANCE_LIMIT for an image with over `limits.instances` annotations.
    """
    if len(image.instances) > limits.instances:
        message = f"the image has {len(image.instances)} annotations, at most {limits.instances} are read (--max_instances)"
        return None, reject_image(image, problem(ReasonCode.INSTANCE_LIMIT, message))
    kept: list[Instance] = []
    rejects: list[Reject] = []

    def sort(annotation_id: int, drawn: Instance | Problem) -> None:
        if isinstance(drawn, Problem):
            rejects.append(reject_instance(image, annotation_id, drawn))
        else:
            kept.append(drawn)

    layered = any(instance.layer for instance in image.instances)
    for instance in image.instances:
        why = drops.why(instance)
        if why and not layered:
            sort(instance.annotation_id, why)
            continue
        drawn = rasterize(instance, image.height, image.width, boxes, limits.points)  # what is left out covers all the same
        sort(instance.annotation_id, why if why and isinstance(drawn, Problem) else drawn)
    if layered:
        all_of_it, kept = kept, []
        for instance, left in zip(all_of_it, cover(all_of_it, image.height, image.width), strict=True):
            sort(instance.annotation_id, drops.why(instance) or left)
    if drops.below_area:
        all_of_it, kept = kept, []
        for instance in all_of_it:
            sort(instance.annotation_id, drops.why_small(instance) or instance)
    if drops.empty_images and not kept:
        why = problem(ReasonCode.DROPPED_EMPTY_IMAGE, "nothing is annotated on it, or nothing of that is kept")
        return None, [*rejects, *reject_image(msgspec.structs.replace(image, instances=()), why)]
    return msgspec.structs.replace(image, instances=tuple(kept)), rejects


class Rasterized(NamedTuple):
    """What `Rasterize` gives."""

    images: beam.PCollection[AnnotatedImage]
    rejects: beam.PCollection[Reject]


@dataclass
class Rasterize(beam.PTransform):  # type: ignore[misc]
    """AnnotatedImage as annotated → AnnotatedImage with masks as run lengths and boxes inside the image; and rejects."""

    boxes: BoxSource = "annotation"
    drops: Drops = Drops()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.boxes not in get_args(BoxSource):
            raise ValueError(f"boxes: expected one of {get_args(BoxSource)}, found {self.boxes!r}")

    def expand(self, images: beam.PCollection[AnnotatedImage]) -> Rasterized:
        def each(image: AnnotatedImage) -> Iterator[Any]:
            drawn, rejects = rasterize_image(image, self.boxes, self.drops, self.limits)
            for reject in rejects:
                yield beam.pvalue.TaggedOutput("rejects", reject)
            if drawn is not None:
                yield drawn

        typed = beam.FlatMap(each).with_output_types(AnnotatedImage, rejects=Reject)
        out = images | typed.with_outputs("rejects", main="images")
        return Rasterized(out.images, out.rejects)
