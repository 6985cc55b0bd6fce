"""Rasterize: geometry as annotated becomes run lengths, bit-exact with pycocotools, and boxes come to lie in the image.

`polygons` draws what is given as such. Run lengths as annotated never reach pycocotools at all; `run_lengths` reads those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple, get_args

import apache_beam as beam
import msgspec
import numpy as np
from pycocotools import mask as cocomask

from transforms import run_lengths
from transforms.bundles import in_window
from transforms.polygons import MAX_POINTS, Drawn, draw_polygons, union
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

BoxSource = Literal["annotation", "mask"]


class Limits(NamedTuple):
    """How much is drawn: points of one annotation, instances of one image."""

    points: int = MAX_POINTS
    instances: int = 10_000


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
        found.append(_without(one, one.shape, union(above)) if above else one)
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


def rasterize(
    instances: Sequence[tuple[Instance, int, int]], boxes: BoxSource = "annotation", max_points: int = MAX_POINTS
) -> list[Instance | Problem]:
    """Each, given with its image's height and width: its shape as run lengths (or None still), its box inside the image.

    `boxes="annotation"` keeps the annotation's box, clipped, and takes the mask's where that has no area;
    `boxes="mask"` takes the tight box around the mask wherever there is one.
    Codes: RLE_*, POLY_MALFORMED, COORD_INVALID, POINT_LIMIT, EMPTY_MASK, BOX_INVALID.
    """
    polygons = [(one.shape, height, width) for one, height, width in instances if isinstance(one.shape, Polygons)]
    drawn = iter(draw_polygons(polygons, max_points))
    return [
        _rasterized(one, next(drawn) if isinstance(one.shape, Polygons) else one.shape, height, width, boxes)
        for one, height, width in instances
    ]


def _rasterized(
    instance: Instance, drawn: Drawn | Problem | RunLengths | None, height: int, width: int, boxes: BoxSource
) -> Instance | Problem:
    """`rasterize` of one instance, whose polygon is drawn."""
    fixes = list(instance.fixes)
    runs: Runs | None = None
    shape: RunLengths | None = None
    if isinstance(drawn, Drawn):
        shape, fixes = drawn.mask, [*fixes, *drawn.fixes]
    elif isinstance(drawn, RunLengths):
        checked = checked_runs(drawn, height, width)
        if isinstance(checked, Problem):
            return checked
        shape, runs = drawn, checked
    elif drawn:
        return drawn
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


def rasterize_images(
    images: Sequence[AnnotatedImage], boxes: BoxSource = "annotation", drops: Drops = Drops(), limits: Limits = Limits()
) -> list[tuple[AnnotatedImage | None, list[Reject]]]:
    """Each image with what can be drawn of it, and a reject for each instance that can't; None if it is dropped itself.

    Codes: those of `rasterize`, and of `Drops`; INSTANCE_LIMIT for an image with over `limits.instances` annotations.
    """
    wanted = [_wanted(image, drops, limits) for image in images]
    sized = [(one, image.height, image.width) for image, some in zip(images, wanted, strict=True) for one in some]
    rasterized = iter(rasterize(sized, boxes, limits.points))
    return [_with_drawn(image, islice(rasterized, len(some)), drops, limits) for image, some in zip(images, wanted, strict=True)]


def _is_layered(image: AnnotatedImage) -> bool:
    """Whether some of its instances may cover others, be they left out themselves or not."""
    return any(instance.layer for instance in image.instances)


def _wanted(image: AnnotatedImage, drops: Drops, limits: Limits) -> list[Instance]:
    """Its instances that are drawn."""
    if len(image.instances) > limits.instances:
        return []
    layered = _is_layered(image)
    return [instance for instance in image.instances if layered or not drops.why(instance)]


def _with_drawn(
    image: AnnotatedImage, rasterized: Iterator[Instance | Problem], drops: Drops, limits: Limits
) -> tuple[AnnotatedImage | None, list[Reject]]:
    """`rasterize_images` of one image, of which those that are wanted have been `rasterized`."""
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

    layered = _is_layered(image)
    for instance in image.instances:
        why = drops.why(instance)
        drawn = why if why and not layered else next(rasterized)
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


class _Rasterize(beam.DoFn):  # type: ignore[misc]
    """Some images are drawn together, which takes a third less time than one by one."""

    IMAGES, INSTANCES = 16, 128
    """So many, or as many as have so many instances."""

    def __init__(self, how: Rasterize) -> None:
        self.how = how

    def start_bundle(self) -> None:
        self.waiting: list[AnnotatedImage] = []
        self.instances = 0

    def process(self, image: AnnotatedImage) -> Iterator[Any]:
        self.waiting.append(image)
        self.instances += len(image.instances)
        if len(self.waiting) >= self.IMAGES or self.instances >= self.INSTANCES:
            yield from self._drawn()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(in_window, self._drawn())

    def _drawn(self) -> Iterator[Any]:
        waiting, self.waiting, self.instances = self.waiting, [], 0
        for image, rejects in rasterize_images(waiting, self.how.boxes, self.how.drops, self.how.limits):
            for reject in rejects:
                yield beam.pvalue.TaggedOutput("rejects", reject)
            if image is not None:
                yield image


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
        typed = beam.ParDo(_Rasterize(self)).with_output_types(AnnotatedImage, rejects=Reject)
        out = images | typed.with_outputs("rejects", main="images")
        return Rasterized(out.images, out.rejects)
