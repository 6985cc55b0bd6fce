"""Views: images that are scaled down, or cut into tiles, and what is annotated on them with them.

    ScaleImages   before Rasterize: outlines are scaled, so that masks are drawn at the size that is trained on
    CutTiles      after Rasterize: masks are cut at the borders of tiles

The picture itself is read, scaled and cut where its record is built: see `images.show`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np

from transforms import run_lengths
from transforms.rasterize import checked_runs, clip_box
from transforms.records import (
    AnnotatedImage,
    Box,
    Census,
    ImageExtras,
    Instance,
    Polygons,
    Problem,
    ReasonCode,
    Reject,
    RunLengths,
    Shape,
    View,
    problem,
    reject_image,
    reject_instance,
    split_rings,
)

MOST_TILES = 100_000
"""Of one image: a tile's id is its image's, times this, plus the tile's number."""


# -------------------------------------------------------------------------------------------------------- scaling


def scaled_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width) with the longer side no longer than `max_side`; as they are where that is so already."""
    longest = max(height, width)
    if longest <= max_side:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def scale_image(image: AnnotatedImage, max_side: int) -> tuple[AnnotatedImage, list[Reject]]:
    """The image and its annotations, scaled down so that no side is longer than `max_side`; rejects for broken run lengths.

    Boxes and areas follow. Painted masks are scaled to the nearest pixel; outlines exactly, to be drawn afterwards.
    """
    height, width = scaled_size(image.height, image.width, max_side)
    if (height, width) == (image.height, image.width):
        return image, []
    down, across = height / image.height, width / image.width
    kept, rejects = [], []
    for instance in image.instances:
        shape = _scale_shape(instance.shape, image, height, width)
        if isinstance(shape, Problem):
            rejects.append(reject_instance(image, instance.annotation_id, shape))
            continue
        box, area = instance.box, instance.area
        box = None if box is None else (box[0] * down, box[1] * across, box[2] * down, box[3] * across)
        area = None if area is None else area * down * across
        kept.append(msgspec.structs.replace(instance, shape=shape, box=box, area=area))
    view = View(image.file_name, image.height, image.width, height, width)
    extras = msgspec.structs.replace(image.extras or ImageExtras(), view=view)
    return msgspec.structs.replace(image, height=height, width=width, instances=tuple(kept), extras=extras), rejects


def _scale_shape(shape: Shape, image: AnnotatedImage, height: int, width: int) -> Shape | Problem:
    if isinstance(shape, Polygons):
        values = shape.values().copy()
        if values.size % 2:  # which `Rasterize` tells
            return shape
        values[0::2] *= width / image.width
        values[1::2] *= height / image.height
        return Polygons.pack([ring.tolist() for ring in split_rings([shape], values)[0]], shape.holes)
    if isinstance(shape, RunLengths):
        runs = checked_runs(shape, image.height, image.width)
        if isinstance(runs, Problem):
            return runs
        scaled = run_lengths.nearest(run_lengths.to_mask(shape), height, width)
        if not scaled.any():
            return problem(ReasonCode.DROPPED_SMALL, f"nothing is left of it at {height} × {width} (--max_side)")
        return run_lengths.from_mask(scaled)
    return None


class Scaled(NamedTuple):
    """What `ScaleImages` gives."""

    images: beam.PCollection[AnnotatedImage]
    rejects: beam.PCollection[Reject]


@dataclass
class ScaleImages(beam.PTransform):  # type: ignore[misc]
    """AnnotatedImage as annotated → the same, with no side longer than `max_side` pixels; and rejects."""

    max_side: int

    def expand(self, images: beam.PCollection[AnnotatedImage]) -> Scaled:
        def each(image: AnnotatedImage) -> Iterator[Any]:
            scaled, rejects = scale_image(image, self.max_side)
            for reject in rejects:
                yield beam.pvalue.TaggedOutput("rejects", reject)
            yield scaled

        typed = beam.FlatMap(each).with_output_types(AnnotatedImage, rejects=Reject)
        out = images | typed.with_outputs("rejects", main="images")
        return Scaled(out.images, out.rejects)


# ---------------------------------------------------------------------------------------------------------- tiles


class Tiles(NamedTuple):
    """Tiles of height × width pixels, of which neighbours share `overlap` pixels.

    A part of an object that is less than `min_share` of the largest part of it on any tile is a sliver.
    """

    height: int
    width: int
    overlap: int = 0
    min_share: float = 0.1


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side; the last ends with the side, so that all are of one size if the side is as long."""
    starts = list(range(0, max(length - tile, 0), tile - overlap))
    return [*starts, max(length - tile, 0)]


def cut_tiles(image: AnnotatedImage, tiles: Tiles, keep_empty: bool = True) -> tuple[list[AnnotatedImage], list[Reject]]:
    """The tiles of a rasterized image, each an image with what lies on it, and rejects for slivers.

    A tile's file name ends in @x,y, where it begins; its id is the image's · `MOST_TILES` + its number, row by row from 1.
    Annotations keep their ids. Codes: DROPPED_SLIVER, DROPPED_EMPTY_IMAGE; DIM_LIMIT where there would be too many tiles.
    """
    rows, columns = (tile_starts(*sides, tiles.overlap) for sides in ((image.height, tiles.height), (image.width, tiles.width)))
    if len(rows) * len(columns) >= MOST_TILES or abs(image.image_id) >= 2**63 // MOST_TILES - 1:
        message = f"the image would have {len(rows) * len(columns)} tiles, or its id is too large to number them"
        return [], reject_image(image, problem(ReasonCode.DIM_LIMIT, message))
    extras = image.extras or ImageExtras()
    whole = extras.view or View(image.file_name, image.height, image.width, image.height, image.width)
    height, width = min(tiles.height, image.height), min(tiles.width, image.width)
    made: list[AnnotatedImage] = []
    for top in rows:
        for left in columns:
            view = msgspec.structs.replace(whole, top=top, left=left, parent_id=image.image_id)
            made.append(
                AnnotatedImage(
                    image.image_id * MOST_TILES + len(made) + 1,
                    f"{image.file_name}@{left},{top}",
                    height,
                    width,
                    (),
                    msgspec.structs.replace(extras, view=view),
                )
            )
    kept: list[list[Instance]] = [[] for _ in made]
    rejects = []
    for instance in image.instances:
        for place, part in _parts(instance, rows, columns, height, width, tiles.min_share):
            if isinstance(part, Problem):
                rejects.append(reject_instance(made[place], instance.annotation_id, part))
            else:
                kept[place].append(part)
    cut = [msgspec.structs.replace(tile, instances=tuple(some)) for tile, some in zip(made, kept, strict=True)]
    if keep_empty:
        return cut, rejects
    why = problem(ReasonCode.DROPPED_EMPTY_IMAGE, "nothing is annotated on the tile, or nothing of that is kept")
    for tile in cut:
        rejects += [] if tile.instances else reject_image(tile, why)
    return [tile for tile in cut if tile.instances], rejects


def _parts(
    instance: Instance, rows: list[int], columns: list[int], height: int, width: int, min_share: float
) -> Iterator[tuple[int, Instance | Problem]]:
    """What of an instance lies on each tile, by the tile's place."""
    assert instance.box is not None, "Rasterize has seen it"
    mask = run_lengths.to_mask(instance.shape) if isinstance(instance.shape, RunLengths) else None
    extent = instance.box
    if isinstance(instance.shape, RunLengths):
        extent = run_lengths.box_of(run_lengths.runs_of(instance.shape), instance.shape.height) or extent
    total = float(np.count_nonzero(mask)) if mask is not None else _area(extent)
    parts = []
    for row, top in enumerate(rows):
        for column, left in enumerate(columns):
            inside = clip_box(_moved(extent, top, left), height, width)
            if inside is None:
                continue
            part = None if mask is None else mask[top : top + height, left : left + width]
            area = _area(inside) if part is None else float(np.count_nonzero(part))
            if part is None or area:
                parts.append((row * len(columns) + column, top, left, inside, part, area))
    largest = max(area for *_, area in parts)
    for place, top, left, inside, part, area in parts:
        if area < min_share * largest:
            yield place, problem(ReasonCode.DROPPED_SLIVER, f"{area:g} of its {total:g} pixels lie on the tile")
            continue
        is_whole = area == total
        box = clip_box(_moved(instance.box, top, left), height, width) if is_whole else None
        shape = None
        if part is not None:
            shape = run_lengths.from_mask(part)
            box = box or run_lengths.box_of(run_lengths.runs_of(shape), height)
        area_now = instance.area if is_whole else None
        yield place, msgspec.structs.replace(instance, shape=shape, box=box or inside, area=area_now)


def _moved(box: Box, top: int, left: int) -> Box:
    return box[0] - top, box[1] - left, box[2] - top, box[3] - left


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


class Cut(NamedTuple):
    """What `CutTiles` gives; the census is of the images and annotations that there are more of now."""

    images: beam.PCollection[AnnotatedImage]
    rejects: beam.PCollection[Reject]
    census: beam.PCollection[Census]


@dataclass
class CutTiles(beam.PTransform):  # type: ignore[misc]
    """AnnotatedImage with masks as run lengths → its tiles; and rejects."""

    tiles: Tiles
    keep_empty: bool = True

    def expand(self, images: beam.PCollection[AnnotatedImage]) -> Cut:
        def each(image: AnnotatedImage) -> Iterator[Any]:
            tiles, rejects = cut_tiles(image, self.tiles, self.keep_empty)
            of_images = sum(reject.kind == "image" for reject in rejects)
            parts = sum(len(tile.instances) for tile in tiles) + len(rejects) - of_images
            more = Census(len(tiles) + of_images - 1, parts - len(image.instances))
            yield beam.pvalue.TaggedOutput("census", more)
            for reject in rejects:
                yield beam.pvalue.TaggedOutput("rejects", reject)
            yield from tiles

        typed = beam.FlatMap(each).with_output_types(AnnotatedImage, rejects=Reject, census=Census)
        out = images | typed.with_outputs("rejects", "census", main="images")
        return Cut(out.images, out.rejects, out.census)
