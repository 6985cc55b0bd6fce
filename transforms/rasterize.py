"""Rasterize: geometry as annotated becomes run lengths, bit-exact with pycocotools, and boxes come to lie in the image.

pycocotools aborts, hangs or answers with uninitialised memory on malformed input, so whatever reaches it has been checked
here in Python: see `check_polygons`. Run lengths never reach it at all; `run_lengths` reads those.
"""

from __future__ import annotations

from collections.abc import Iterator
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
)

MAX_COORDINATE = 1e5  # pixels; pycocotools takes gigabytes from 1e6 on
MAX_POINTS = 100_000
MAX_OUTLINE = 2e6  # pixels along all rings; pycocotools walks them in fifths, some 50 bytes a step

BoxSource = Literal["annotation", "mask"]


def check_polygons(polygons: Polygons) -> Problem | None:
    """What must hold before pycocotools sees the rings: even counts of at least six, finite, bounded, not too many.

    Codes: POLY_MALFORMED, POINT_LIMIT, COORD_INVALID.
    """
    if not polygons.ring_lengths:
        return problem(ReasonCode.POLY_MALFORMED, "the polygon has no ring")
    for length in polygons.ring_lengths:
        if length < 6 or length % 2:
            message = f"a polygon ring has {length} numbers, expected an even count of at least 6"
            return problem(ReasonCode.POLY_MALFORMED, message)
    values = polygons.values()
    points = len(values) // 2
    if points > MAX_POINTS:
        return problem(ReasonCode.POINT_LIMIT, f"the polygon has {points} points, at most {MAX_POINTS} are read")
    lowest, highest = values.min(), values.max()
    if not (lowest >= -MAX_COORDINATE and highest <= MAX_COORDINATE):  # NaN too
        found = next(value for value in values if not abs(value) <= MAX_COORDINATE)
        message = f"a polygon coordinate is {found}, expected a number within ±{MAX_COORDINATE:.0f}"
        return problem(ReasonCode.COORD_INVALID, message)
    if points * (highest - lowest) > MAX_OUTLINE:  # else the outline can't be longer, and need not be measured
        outline = sum(outline_length(ring) for ring in polygons.rings())
        if outline > MAX_OUTLINE:
            message = f"the polygon's outline is {outline:.0f} pixels long, at most {MAX_OUTLINE:.0f} are drawn"
            return problem(ReasonCode.POINT_LIMIT, message)
    return None


def outline_length(ring: npt.NDArray[np.float64]) -> float:
    """The length of a closed ring, in pixels along the longer axis of each side, as pycocotools walks it."""
    corners = ring.reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


def rasterize_polygons(polygons: Polygons, height: int, width: int) -> RunLengths | Problem:
    """The union of the rings as pycocotools' `annToMask` draws it. Codes: those of `check_polygons`, EMPTY_MASK."""
    wrong = check_polygons(polygons)
    if wrong:
        return wrong
    parts = cocomask.frPyObjects(polygons.rings(), height, width)
    union = parts[0] if len(parts) == 1 else cocomask.merge(parts)
    if not cocomask.area(union):
        return problem(ReasonCode.EMPTY_MASK, "the polygon has no pixel inside the image")
    return RunLengths(height, width, union["counts"])


def check_run_lengths(shape: RunLengths, height: int, width: int) -> Problem | None:
    """What must hold for run lengths to be a mask of an image. Codes: RLE_SIZE_MISMATCH, RLE_MALFORMED, EMPTY_MASK."""
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
    return wrong


def clip_box(box: Box, height: int, width: int) -> Box | None:
    """The part of a half-open box inside the image, or None where it has no area."""
    ymin, xmin, ymax, xmax = box
    ymin, ymax = max(ymin, 0.0), min(ymax, float(height))
    xmin, xmax = max(xmin, 0.0), min(xmax, float(width))
    return (ymin, xmin, ymax, xmax) if ymin < ymax and xmin < xmax else None


def reaches_over(polygons: Polygons, height: int, width: int) -> bool:
    """Whether any corner lies outside the image."""
    values = polygons.values()
    return bool(values.min() < 0 or values[0::2].max() > width or values[1::2].max() > height)


def rasterize(instance: Instance, height: int, width: int, boxes: BoxSource = "annotation") -> Instance | Problem:
    """The instance with its shape as run lengths (or None still) and a box inside an image of height × width pixels.

    `boxes="annotation"` keeps the annotation's box, clipped, and takes the mask's where that has no area;
    `boxes="mask"` takes the tight box around the mask wherever there is one.
    Codes: RLE_*, POLY_MALFORMED, COORD_INVALID, POINT_LIMIT, EMPTY_MASK, BOX_INVALID.
    """
    fixes = list(instance.fixes)
    shape = instance.shape
    if isinstance(shape, Polygons):
        drawn = rasterize_polygons(shape, height, width)
        if isinstance(drawn, Problem):
            return drawn
        if reaches_over(shape, height, width):
            fixes.append(Fix.POLYGON_CLIPPED.name)
        shape = drawn
    elif shape is not None:
        wrong = check_run_lengths(shape, height, width)
        if wrong:
            return wrong
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
        box = run_lengths.box_of(run_lengths.runs_of(shape), height)
    return msgspec.structs.replace(instance, shape=shape, box=box, fixes=tuple(fixes))


class Drops(NamedTuple):
    """What the user does not want in the records."""

    crowds: bool = False
    without_mask: bool = False
    empty_images: bool = False

    def why(self, instance: Instance) -> Problem | None:
        """The reason to leave this instance out, if any."""
        if self.crowds and instance.is_crowd:
            return problem(ReasonCode.DROPPED_CROWD, "it is a crowd")
        if self.without_mask and instance.shape is None:
            return problem(ReasonCode.DROPPED_WITHOUT_MASK, "it has no mask")
        return None


def rasterize_image(
    image: AnnotatedImage, boxes: BoxSource = "annotation", drops: Drops = Drops()
) -> tuple[AnnotatedImage | None, list[Reject]]:
    """The image with what can be drawn of it, and a reject for each instance that can't; None if it is dropped itself."""
    kept: list[Instance] = []
    rejects: list[Reject] = []
    for instance in image.instances:
        drawn = drops.why(instance) or rasterize(instance, image.height, image.width, boxes)
        if isinstance(drawn, Problem):
            rejects.append(Reject("annotation", image.image_id, instance.annotation_id, drawn.code, drawn.message))
        else:
            kept.append(drawn)
    if drops.empty_images and not kept:
        rejects.append(
            Reject(
                "image",
                image.image_id,
                None,
                ReasonCode.DROPPED_EMPTY_IMAGE.name,
                "nothing is annotated on it, or nothing of that is kept",
            )
        )
        return None, rejects
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

    def __post_init__(self) -> None:
        if self.boxes not in get_args(BoxSource):
            raise ValueError(f"boxes: expected one of {get_args(BoxSource)}, found {self.boxes!r}")

    def expand(self, images: beam.PCollection[AnnotatedImage]) -> Rasterized:
        def each(image: AnnotatedImage) -> Iterator[Any]:
            drawn, rejects = rasterize_image(image, self.boxes, self.drops)
            for reject in rejects:
                yield beam.pvalue.TaggedOutput("rejects", reject)
            if drawn is not None:
                yield drawn

        typed = beam.FlatMap(each).with_output_types(AnnotatedImage, rejects=Reject)
        out = images | typed.with_outputs("rejects", main="images")
        return Rasterized(out.images, out.rejects)
