"""Tally: what the images of a shard add to the statistics.

They are counted many at a time, since numpy's calls cost more than their work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms import encode, run_lengths
from transforms.examples import LabelMap, area_of, scale_boxes
from transforms.images import CheckedImage
from transforms.records import AnnotatedImage
from transforms.run_lengths import Runs
from transforms.samples import (
    AT_RANDOM,
    BOX_AND_MASK_DISAGREE,
    KINDS,
    LARGEST,
    MOST_INSTANCES,
    OF_AN_INSTANCE,
    SMALLEST,
    Sample,
    lot,
)
from transforms.sketch import Values
from transforms.statistics import GRID, CategoryStatistics, SplitStatistics

IMAGES_AT_ONCE, INSTANCES_AT_ONCE = 1024, 8192
"""So many are counted together: for each category, that takes 15 µs, however few of it there are."""
RUNS_AT_ONCE = 1 << 15
"""Masks with so many runs are measured together, and forgotten."""
THINNEST = 1e-6
"""A box of less height, in pixels, counts as one of that in `box_aspect`, which would have no bounds else."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of 2**64: multiples of it lie far apart

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class _Written(NamedTuple):
    """An image whose record begins at byte `offset` of the shard; height and width as decoded."""

    image: AnnotatedImage
    masks: Sequence[Runs]
    height: int
    width: int
    offset: int


class Tally:
    """The statistics of the images of one shard, whose name is `file`."""

    def __init__(self, labels: LabelMap, file: str) -> None:
        self.labels, self.file = labels, file
        self.split = SplitStatistics()
        self._written: list[_Written] = []
        self._measured: list[_Measured] = []
        self.runs = self._images = self._instances = 0

    def add(self, image: AnnotatedImage, checked: CheckedImage, masks: Sequence[Runs], offset: int) -> None:
        """The next image; `masks` as `masks_of` gives them, `offset` where its record begins in the shard."""
        split, instances = self.split, image.instances
        split.images += 1
        split.images_without_instances += not instances
        split.instances += len(instances)
        split.image_bytes += len(checked.data)
        split.dense_mask_bytes += encode.dense_bytes(len(instances), checked.height, checked.width)
        split.formats[checked.format] = split.formats.get(checked.format, 0) + 1
        for fix in (*checked.fixes, *(fix for one in instances for fix in one.fixes)):
            split.fixes[fix] = split.fixes.get(fix, 0) + 1
        self._written.append(_Written(image, masks, checked.height, checked.width, offset))
        self.runs += sum(map(len, masks))
        self._images += 1
        self._instances += len(instances)
        if self._images >= IMAGES_AT_ONCE or self._instances >= INSTANCES_AT_ONCE:
            self._count()
        elif self.runs >= RUNS_AT_ONCE:
            self._measure()

    def statistics(self) -> SplitStatistics:
        """Those of all images so far."""
        self._count()
        return self.split

    def _measure(self) -> None:
        if self._written:
            self._measured.append(_Measured.of(self._written, self.labels))
        self._written, self.runs = [], 0

    def _count(self) -> None:
        self._measure()
        if self._measured:
            counted = _Measured.joined(self._measured)
            _count_images(self.split, counted)
            _count_instances(self.split, counted)
            _count_categories(self.split, counted, self.file)
            _choose_samples(self.split, counted, self.file)
        self._measured, self._images, self._instances = [], 0, 0


class _Measured(NamedTuple):
    """Some images, I, and all their instances, N, as columns. Boxes are half-open, (ymin, xmin, ymax, xmax)."""

    sizes: Integers
    """(I, 2): height, width."""
    ids: Integers
    """(I,)"""
    offsets: Integers
    """(I,): where the record begins."""
    lots: npt.NDArray[np.uint64]
    """(I,)"""
    instances: Integers
    """(I,): how many."""
    owners: Integers
    """(N,): place of the image."""
    places: Integers
    """(N,): place in the image."""
    labels: Integers
    crowds: npt.NDArray[np.bool_]
    has_mask: npt.NDArray[np.bool_]
    boxes: Floats
    """(N, 4), in pixels."""
    scaled: npt.NDArray[np.float32]
    """(N, 4), as in the record."""
    record_areas: npt.NDArray[np.float32]
    mask_areas: Integers
    mask_boxes: Integers
    """(N, 4), in pixels."""

    @classmethod
    def of(cls, images: Sequence[_Written], labels: LabelMap) -> _Measured:
        instances = [one for written in images for one in written.image.instances]
        masks = [mask for written in images for mask in written.masks]
        counts = np.array([len(written.image.instances) for written in images], np.int64)
        owners = np.repeat(np.arange(len(images)), counts)
        sizes = np.array([(written.height, written.width) for written in images], np.int64)
        boxes = np.array([one.box for one in instances], np.float64).reshape(-1, 4)
        areas, mask_boxes = run_lengths.areas_and_boxes(masks, sizes[owners, 0])
        return cls(
            sizes,
            np.array([written.image.image_id for written in images], np.int64),
            np.array([written.offset for written in images], np.int64),
            np.array([lot(written.image.image_id) for written in images], np.uint64),
            counts,
            owners,
            np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts),
            np.array([labels.labels[one.category_id][0] for one in instances], np.int64),
            np.array([one.is_crowd for one in instances], np.bool_),
            np.array([one.shape is not None for one in instances], np.bool_),
            boxes,
            scale_boxes(boxes, np.tile(sizes, 2)[owners]),
            np.array([area_of(one, mask) for one, mask in zip(instances, masks, strict=True)], np.float32),
            areas,
            mask_boxes,
        )

    @classmethod
    def joined(cls, some: Sequence[_Measured]) -> _Measured:
        """All of them, one after the other."""
        before = np.cumsum([0, *(len(one.ids) for one in some[:-1])])
        columns = dict(zip(cls._fields, map(np.concatenate, zip(*some, strict=True)), strict=True))
        columns["owners"] += np.repeat(before, [len(one.owners) for one in some])
        return cls(**columns)


def _count_images(split: SplitStatistics, some: _Measured) -> None:
    split.instances_an_image.add_all(Values.of(some.instances))
    split.image_height.add_all(Values.of(some.sizes[:, 0]))
    split.image_width.add_all(Values.of(some.sizes[:, 1]))
    split.image_megapixels.add_all(Values.of(some.sizes.prod(axis=1) / 1e6))


def _count_instances(split: SplitStatistics, some: _Measured) -> None:
    split.crowds += int(some.crowds.sum())
    split.instances_without_mask += int((~some.has_mask).sum())
    height, width = (some.boxes[:, 2:] - some.boxes[:, :2]).T
    split.box_aspect.add_all(Values.of(width / np.maximum(height, THINNEST)))
    filled = some.mask_areas > 0
    split.mask_share.add_all(Values.of(some.mask_areas[filled] / some.sizes.prod(axis=1)[some.owners[filled]]))
    split.area.add_all(Values.of(some.record_areas))
    for sketch, column in zip((split.box_ymin, split.box_xmin, split.box_ymax, split.box_xmax), some.scaled.T, strict=True):
        sketch.add_all(Values.of(column))
    split.boxes_over_grid = (np.array(split.boxes_over_grid) + boxes_over_grid(some.scaled)).tolist()


def boxes_over_grid(boxes: npt.NDArray[np.float32]) -> Integers:
    """For each of GRID · GRID cells, row by row, in how many boxes its centre lies; boxes of shape (N, 4), in parts of the image.

    Each box adds 1 at its upper left corner and takes it back beyond its sides; running sums make the rectangle of it.
    """
    ymin, xmin, ymax, xmax = np.ceil(boxes.T.astype(np.float64) * GRID - 0.5).astype(np.int64)
    side = GRID + 1

    def at(rows: Integers, columns: Integers) -> Integers:
        return np.bincount(rows * side + columns, minlength=side * side)

    steps = (at(ymin, xmin) + at(ymax, xmax) - at(ymin, xmax) - at(ymax, xmin)).reshape(side, side)
    counts: Integers = steps.cumsum(axis=0).cumsum(axis=1)[:GRID, :GRID].ravel()
    return counts


def _count_categories(split: SplitStatistics, some: _Measured, file: str) -> None:
    if not len(some.labels):
        return
    own = some.labels.astype(np.uint64) * _GOLDEN  # a number for each category, so that not all of them show the same image
    scores = (some.lots[some.owners] ^ own) >> np.uint64(11)
    order = np.lexsort((some.ids[some.owners], scores, some.labels))
    heights, widths = (Values.of(side) for side in (some.boxes[order, 2:] - some.boxes[order, :2]).T)
    masked = order[some.has_mask[order]]
    labels = some.labels[order]
    images = Counter((np.unique(some.labels * len(some.ids) + some.owners) // len(some.ids)).tolist())
    starts = np.flatnonzero(np.diff(labels, prepend=-1)).tolist()
    areas = Values.of(some.mask_areas[masked])
    with_mask = np.concatenate(([0], np.cumsum(some.has_mask[order]))).tolist()
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        label, first = int(labels[start]), order[start]
        category = split.categories.setdefault(label, CategoryStatistics())
        category.instances += stop - start
        category.images += images[label]
        category.crowds += int(some.crowds[order[start:stop]].sum())
        category.mask_area.add_all(areas.part(with_mask[start], with_mask[stop]))
        category.box_height.add_all(heights.part(start, stop))
        category.box_width.add_all(widths.part(start, stop))
        split.samples.add_category(label, _sample(some, file, scores[first], some.owners[first], some.places[first]))


def _choose_samples(split: SplitStatistics, some: _Measured, file: str) -> None:
    boxed = some.has_mask & (some.mask_areas > 0)
    shares = some.mask_areas / some.sizes.prod(axis=1)[some.owners]
    agreement = _iou(some.boxes, some.mask_boxes)
    images, instances = np.arange(len(some.ids)), np.arange(len(some.owners))
    for kind, candidates, scores in (
        (LARGEST, instances[boxed], shares[boxed]),
        (SMALLEST, instances[boxed & ~some.crowds], some.mask_areas[boxed & ~some.crowds]),
        (MOST_INSTANCES, images[some.instances > 0], some.instances[some.instances > 0]),
        (BOX_AND_MASK_DISAGREE, instances[boxed & (agreement < 1)], agreement[boxed & (agreement < 1)]),
        (AT_RANDOM, images, (some.lots >> np.uint64(11)).astype(np.float64)),
    ):
        owners = some.owners[candidates] if kind in OF_AN_INSTANCE else candidates
        signed = -scores if KINDS[kind].highest else scores
        worst = split.samples.worst(kind)
        near = np.flatnonzero(signed <= worst) if worst is not None else np.arange(len(signed))
        ids = some.ids[owners[near]]
        order = np.lexsort((ids, signed[near]))
        _, firsts = np.unique(ids[order], return_index=True)
        best = near[order[np.sort(firsts)[: KINDS[kind].at_most]]]
        places = some.places[candidates] if kind in OF_AN_INSTANCE else [None] * len(candidates)
        split.samples.add(kind, *(_sample(some, file, scores[one], owners[one], places[one]) for one in best))


def _iou(boxes: Floats, others: Integers) -> Floats:
    """Intersection over union of each box with the other of the same place, both of shape (N, 4); 0 where both are empty."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    both = sides.clip(0).prod(axis=1)
    either = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (others[:, 2:] - others[:, :2]).prod(axis=1) - both
    iou: Floats = both / np.maximum(either, np.finfo(np.float64).tiny)
    return iou


def _sample(some: _Measured, file: str, score: Any, owner: Any, place: Any = None) -> Sample:
    return Sample(float(score), int(some.ids[owner]), file, int(some.offsets[owner]), None if place is None else int(place))
