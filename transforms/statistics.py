"""Summarize: statistics as values that merge exactly, in any order and however the data is cut into parts.

Everything is an integer count, an integer sum, a minimum or maximum, or the first by a total order, so nothing depends on the
order of merges. How much it is does not depend on the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import apache_beam as beam
import msgspec

from transforms.samples import Samples
from transforms.sketch import Sketch

GRID = 24
"""Cells on a side of the grid that shows where boxes are."""


class CategoryStatistics(msgspec.Struct, array_like=True):
    """Of one category in one split. Areas in pixels² of the mask, box sides in pixels."""

    instances: int = 0
    images: int = 0
    crowds: int = 0
    mask_area: Sketch = msgspec.field(default_factory=Sketch)
    box_height: Sketch = msgspec.field(default_factory=Sketch)
    box_width: Sketch = msgspec.field(default_factory=Sketch)

    def merge(self, other: CategoryStatistics) -> None:
        """Takes in the other's counts."""
        self.instances += other.instances
        self.images += other.images
        self.crowds += other.crowds
        self.mask_area.merge(other.mask_area)
        self.box_height.merge(other.box_height)
        self.box_width.merge(other.box_width)


class SplitStatistics(msgspec.Struct, array_like=True):
    """Of one split. `categories` goes by label id; `formats` counts images as written; `fixes` counts by name of `Fix`.

    `box_aspect` is width / height of boxes, `mask_share` mask / image, of masks that are not empty. `boxes_over_grid` has, for
    each of 24 × 24 cells of the image, row by row from the upper left, how many boxes its centre lies in. `image_bytes` are
    those of the encoded images, `dense_mask_bytes` what the masks would take as float32 (4 · instances · height · width).
    `box_ymin` to `box_xmax` and `area` have the values of the record's features: parts of the image, and pixels².
    """

    images: int = 0
    images_without_instances: int = 0
    instances: int = 0
    instances_without_mask: int = 0
    crowds: int = 0
    image_bytes: int = 0
    dense_mask_bytes: int = 0
    instances_an_image: Sketch = msgspec.field(default_factory=Sketch)
    image_height: Sketch = msgspec.field(default_factory=Sketch)
    image_width: Sketch = msgspec.field(default_factory=Sketch)
    image_megapixels: Sketch = msgspec.field(default_factory=Sketch)
    box_aspect: Sketch = msgspec.field(default_factory=Sketch)
    mask_share: Sketch = msgspec.field(default_factory=Sketch)
    box_ymin: Sketch = msgspec.field(default_factory=Sketch)
    box_xmin: Sketch = msgspec.field(default_factory=Sketch)
    box_ymax: Sketch = msgspec.field(default_factory=Sketch)
    box_xmax: Sketch = msgspec.field(default_factory=Sketch)
    area: Sketch = msgspec.field(default_factory=Sketch)
    boxes_over_grid: list[int] = msgspec.field(default_factory=lambda: [0] * GRID**2)
    formats: dict[str, int] = {}
    fixes: dict[str, int] = {}
    categories: dict[int, CategoryStatistics] = {}
    samples: Samples = msgspec.field(default_factory=Samples)

    def merge(self, other: SplitStatistics) -> None:
        """Takes in the other's counts."""
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, int):
                setattr(self, name, mine + theirs)
            elif isinstance(mine, Sketch | Samples):
                mine.merge(theirs)
        self.boxes_over_grid = [one + more for one, more in zip(self.boxes_over_grid, other.boxes_over_grid, strict=True)]
        for counts, more_counts in ((self.formats, other.formats), (self.fixes, other.fixes)):
            for name, count in more_counts.items():
                counts[name] = counts.get(name, 0) + count
        for label, category in other.categories.items():
            self.categories.setdefault(label, CategoryStatistics()).merge(category)


class DatasetStatistics(msgspec.Struct, array_like=True):
    """Statistics by split."""

    splits: dict[str, SplitStatistics] = {}

    def merge(self, other: DatasetStatistics) -> None:
        """Takes in the other's splits."""
        for name, split in other.splits.items():
            self.splits.setdefault(name, SplitStatistics()).merge(split)

    def as_json(self, names: dict[int, str]) -> dict[str, Any]:
        """For `statistics.json`: plain values, sorted; `names` gives the category of each label id."""

        def plain(value: Any) -> Any:
            if isinstance(value, Sketch):
                return value.as_json()
            if isinstance(value, list):
                return [plain(one) for one in value]
            if isinstance(value, dict):
                return {str(key): plain(value[key]) for key in sorted(value)}
            if isinstance(value, msgspec.Struct):
                return {field: plain(getattr(value, field)) for field in value.__struct_fields__}
            return value

        result = plain(self.splits)
        for name, split in self.splits.items():
            grid = split.boxes_over_grid
            result[name]["boxes_over_grid"] = [grid[start : start + GRID] for start in range(0, GRID**2, GRID)]
            for label in split.categories:
                entry = result[name]["categories"][str(label)]
                result[name]["categories"][str(label)] = {"name": names[label], **entry}
        return dict(result)


Merged = TypeVar("Merged", bound=DatasetStatistics)


class MergeStatistics(beam.CombineFn):  # type: ignore[misc]
    """DatasetStatistics of parts → of the whole."""

    def create_accumulator(self) -> DatasetStatistics:
        return DatasetStatistics()

    def add_input(self, accumulator: DatasetStatistics, element: DatasetStatistics) -> DatasetStatistics:
        accumulator.merge(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[DatasetStatistics]) -> DatasetStatistics:
        merged = DatasetStatistics()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: DatasetStatistics) -> DatasetStatistics:
        return accumulator
