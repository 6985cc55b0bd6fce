"""The pipeline: six steps, as the data goes."""

from __future__ import annotations

import time

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton

from beam_pipeline.options import RunOptions, parse_splits, parse_tile
from beam_pipeline.publish import Publish, clear_output
from transforms import coders
from transforms.categories import CategoryRules, SelectCategories, read_rules
from transforms.claims import Claim
from transforms.images import ImageFolder
from transforms.rasterize import Drops, Limits, Rasterize, Rasterized
from transforms.records import Census
from transforms.sharding import AssignShards, MergeCensus, PlanShards, Splits
from transforms.shards import RecordOptions, WriteShards
from transforms.sources import COCO_PANOPTIC, OF_COCO, format_of
from transforms.sources.annotations import Annotations
from transforms.sources.coco import ReadCoco
from transforms.sources.files import ReadFiles, folder_of
from transforms.sources.source import Context
from transforms.statistics import MergeStatistics
from transforms.views import CutTiles, ScaleImages, Tiles


def read_annotations(options: RunOptions, max_pixels: int, spill_folder: str | None) -> beam.PTransform:
    """The transform that reads the annotations, by their format."""
    if options.format in OF_COCO:
        return ReadCoco(options.annotations, max_pixels, spill_folder, options.format == COCO_PANOPTIC, options.masks)
    images = ImageFolder(options.images)
    folder = folder_of(options.annotations)
    context = Context(folder, images, options.masks, max_pixels, options.class_attribute, options.faces_only)
    return ReadFiles(format_of(options.format), options.annotations, context, spill_folder)


def select_categories(read: Annotations, rules: CategoryRules) -> Annotations:
    """The annotations of the classes that are left."""
    selected = read.images | "SelectCategories" >> SelectCategories(read.categories, rules)
    rejects = (read.rejects, selected.rejects) | "ReadAndSelected" >> beam.Flatten()
    return Annotations(selected.images, selected.categories, rejects, read.census)


def scale_images(read: Annotations, max_side: int) -> Annotations:
    """The annotations of images that are scaled down."""
    scaled = read.images | "ScaleImages" >> ScaleImages(max_side)
    rejects = (read.rejects, scaled.rejects) | "ReadAndScaled" >> beam.Flatten()
    return Annotations(scaled.images, read.categories, rejects, read.census)


def cut_tiles(
    drawn: Rasterized, census: beam.PCollection[Census], options: RunOptions
) -> tuple[Rasterized, beam.PCollection[Census]]:
    """Rasterized images in tiles, and the census with those counted."""
    width, height = parse_tile(str(options.tile))
    tiles = Tiles(height, width, options.tile_overlap, options.tile_min_share)
    cut = drawn.images | "CutTiles" >> CutTiles(tiles, not options.drop_images_without_annotations)
    rejects = (drawn.rejects, cut.rejects) | "DrawnAndCut" >> beam.Flatten()
    total = (census, cut.census) | "WithTiles" >> beam.Flatten() | "CountTiles" >> beam.CombineGlobally(MergeCensus())
    return Rasterized(cut.images, rejects), total


def build(
    pipeline: beam.Pipeline, options: RunOptions, claim: Claim, spill_folder: str | None = None, busy: bool = False
) -> None:
    """Annotations and images → a data set in `options.output`, which `claim` is for, its success marker last.

    `spill_folder` is for runners on this machine: see `transforms.batches`; there, all processors may be `busy` with the job's
    processes.
    """
    splits = Splits(parse_splits(options.splits), options.split_by)
    num_shards = None if options.num_shards == "auto" else int(options.num_shards)
    drops = Drops(
        options.drop_crowds, options.drop_annotations_without_mask, options.drop_images_without_annotations, options.min_area
    )
    max_pixels = int(options.max_megapixels * 1e6)
    record = RecordOptions(
        options.mask_encoding,
        options.category_ids == "contiguous",
        int(options.max_record_mb * 1e6),
        max_pixels,
        options.check_images,
    )
    limits = Limits(options.max_points, options.max_instances)
    coders.register()

    read = pipeline | "ReadAnnotations" >> read_annotations(options, max_pixels, spill_folder)
    if options.categories:
        read = select_categories(read, read_rules(options.categories))
    if options.max_side:
        read = scale_images(read, options.max_side)
    census = read.census | "Count" >> beam.CombineGlobally(MergeCensus())
    plan = census | "PlanShards" >> PlanShards(splits, num_shards, options.mask_encoding == "dense", options.max_side)
    plan |= "ClearOutput" >> beam.Map(clear_output, options, claim, AsList(read.categories))
    drawn = read.images | "Rasterize" >> Rasterize(options.boxes, drops, limits)
    if options.tile:
        drawn, census = cut_tiles(drawn, read.census, options)
    shards = drawn.images | "AssignShards" >> AssignShards(AsSingleton(plan), splits, spill_folder)
    written = shards | "WriteShards" >> WriteShards(
        options.output, options.images, AsSingleton(plan), AsList(read.categories), record, claim, options.resume, busy
    )
    statistics = written.statistics | "Summarize" >> beam.CombineGlobally(MergeStatistics())
    rejects = (read.rejects, drawn.rejects, written.rejects) | "AllRejects" >> beam.Flatten()
    _ = pipeline | "Publish" >> Publish(
        options, claim, time.time(), plan, census, read.categories, written.summaries, statistics, rejects
    )
