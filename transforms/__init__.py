"""The data's way, a file a step; each name here composes in any Beam pipeline.

| step | file | transform |
|---|---|---|
| read | sources/ | `ReadCoco`, `ReadFiles` → `Annotations` |
| select | categories.py | `SelectCategories` |
| scale | views.py | `ScaleImages` |
| rasterize | rasterize.py | `Rasterize` → `Rasterized` |
| cut | views.py | `CutTiles` |
| assign | sharding.py | `PlanShards`, `AssignShards` |
| write | shards.py | `WriteShards` → `Written` |
| summarize | statistics.py | `MergeStatistics`, `MergeCensus` |
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transforms.categories import CategoryRules as CategoryRules
    from transforms.categories import SelectCategories as SelectCategories
    from transforms.rasterize import Drops as Drops
    from transforms.rasterize import Limits as Limits
    from transforms.rasterize import Rasterize as Rasterize
    from transforms.records import AnnotatedImage as AnnotatedImage
    from transforms.records import Category as Category
    from transforms.records import Census as Census
    from transforms.records import Instance as Instance
    from transforms.records import Polygons as Polygons
    from transforms.records import ReasonCode as ReasonCode
    from transforms.records import Reject as Reject
    from transforms.records import RunLengths as RunLengths
    from transforms.sharding import AssignShards as AssignShards
    from transforms.sharding import MergeCensus as MergeCensus
    from transforms.sharding import PlanShards as PlanShards
    from transforms.sharding import Splits as Splits
    from transforms.shards import RecordOptions as RecordOptions
    from transforms.shards import ShardSummary as ShardSummary
    from transforms.shards import WriteShards as WriteShards
    from transforms.sources.annotations import Annotations as Annotations
    from transforms.sources.coco import ReadCoco as ReadCoco
    from transforms.sources.files import ReadFiles as ReadFiles
    from transforms.statistics import MergeStatistics as MergeStatistics
    from transforms.views import CutTiles as CutTiles
    from transforms.views import ScaleImages as ScaleImages
    from transforms.views import Tiles as Tiles

_HOMES = {
    "categories": (
        "CategoryRules",
        "SelectCategories",
    ),
    "rasterize": (
        "Drops",
        "Limits",
        "Rasterize",
    ),
    "records": (
        "AnnotatedImage",
        "Category",
        "Census",
        "Instance",
        "Polygons",
        "ReasonCode",
        "Reject",
        "RunLengths",
    ),
    "sharding": (
        "AssignShards",
        "MergeCensus",
        "PlanShards",
        "Splits",
    ),
    "shards": (
        "RecordOptions",
        "ShardSummary",
        "WriteShards",
    ),
    "sources.annotations": ("Annotations",),
    "sources.coco": ("ReadCoco",),
    "sources.files": ("ReadFiles",),
    "statistics": ("MergeStatistics",),
    "views": (
        "CutTiles",
        "ScaleImages",
        "Tiles",
    ),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)  # noqa: PLE0605 - derived from the table above


def __getattr__(name: str) -> Any:
    """Imports on first use: Beam takes a second, and `maskbeam --help` needs none of it."""
    for module, names in _HOMES.items():
        if name in names:
            importlib.import_module("transforms.coders").register()
            return getattr(importlib.import_module(f"transforms.{module}"), name)
    raise AttributeError(f"module 'transforms' has no attribute {name!r}")
