"""Summarize: statistics as values that merge exactly, in any order and however the data is cut into parts.

Everything is an integer count, an integer sum or a minimum or maximum, so no rounding depends on the order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import apache_beam as beam
import msgspec

_SUBDIVISIONS = 4
"""Bins between a power of two and the next; a bin is 12 to 25 % wide."""


class Histogram(msgspec.Struct, array_like=True):
    """Counts by value, in bins that are the same for everyone: four for each doubling, and one for 0.

    `hundredths` is the sum of the values, each rounded to 0.01, in hundredths, so that it adds up exactly.
    """

    count: int = 0
    hundredths: int = 0
    low: float = math.inf
    high: float = -math.inf
    bins: dict[int, int] = {}

    def add(self, value: float) -> None:
        """Counts one value ≥ 0."""
        value = float(value)
        self.count += 1
        self.hundredths += round(value * 100)
        self.low = min(self.low, value)
        self.high = max(self.high, value)
        bin_ = bin_of(value)
        self.bins[bin_] = self.bins.get(bin_, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Takes in the other's values."""
        self.count += other.count
        self.hundredths += other.hundredths
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        for bin_, count in other.bins.items():
            self.bins[bin_] = self.bins.get(bin_, 0) + count

    def as_json(self) -> dict[str, Any]:
        """For `statistics.json`: `bins` are [from, to, count], half-open, ascending."""
        if not self.count:
            return {"count": 0}
        bins = [[*bounds_of(bin_), count] for bin_, count in sorted(self.bins.items())]
        mean = self.hundredths / 100 / self.count
        return {"count": self.count, "mean": round(mean, 4), "min": self.low, "max": self.high, "bins": bins}


_ZERO_BIN = -(1 << 20)


def bin_of(value: float) -> int:
    """The bin of a value ≥ 0, exactly: from its exponent and the first bits of its mantissa."""
    if value <= 0:
        return _ZERO_BIN
    mantissa, exponent = math.frexp(value)  # mantissa in [0.5, 1)
    return exponent * _SUBDIVISIONS + int((mantissa - 0.5) * 2 * _SUBDIVISIONS)


def bounds_of(bin_: int) -> tuple[float, float]:
    """The values that a bin holds: from, to (excluded)."""
    if bin_ == _ZERO_BIN:
        return 0.0, 0.0
    exponent, part = divmod(bin_, _SUBDIVISIONS)
    step = 0.5 / _SUBDIVISIONS
    return math.ldexp(0.5 + part * step, exponent), math.ldexp(0.5 + (part + 1) * step, exponent)


class CategoryStatistics(msgspec.Struct, array_like=True):
    """Of one category in one split. Areas in pixels² of the mask, box sides in pixels."""

    instances: int = 0
    images: int = 0
    crowds: int = 0
    mask_area: Histogram = msgspec.field(default_factory=Histogram)
    box_height: Histogram = msgspec.field(default_factory=Histogram)
    box_width: Histogram = msgspec.field(default_factory=Histogram)

    def merge(self, other: CategoryStatistics) -> None:
        """Takes in the other's counts."""
        self.instances += other.instances
        self.images += other.images
        self.crowds += other.crowds
        self.mask_area.merge(other.mask_area)
        self.box_height.merge(other.box_height)
        self.box_width.merge(other.box_width)


class SplitStatistics(msgspec.Struct, array_like=True):
    """Of one split. `categories` goes by label id; `formats` counts images as written; `fixes` counts by name of `Fix`."""

    images: int = 0
    images_without_instances: int = 0
    instances: int = 0
    instances_without_mask: int = 0
    crowds: int = 0
    instances_an_image: Histogram = msgspec.field(default_factory=Histogram)
    image_height: Histogram = msgspec.field(default_factory=Histogram)
    image_width: Histogram = msgspec.field(default_factory=Histogram)
    formats: dict[str, int] = {}
    fixes: dict[str, int] = {}
    categories: dict[int, CategoryStatistics] = {}

    def merge(self, other: SplitStatistics) -> None:
        """Takes in the other's counts."""
        self.images += other.images
        self.images_without_instances += other.images_without_instances
        self.instances += other.instances
        self.instances_without_mask += other.instances_without_mask
        self.crowds += other.crowds
        self.instances_an_image.merge(other.instances_an_image)
        self.image_height.merge(other.image_height)
        self.image_width.merge(other.image_width)
        for mine, theirs in ((self.formats, other.formats), (self.fixes, other.fixes)):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
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
            if isinstance(value, Histogram):
                return value.as_json()
            if isinstance(value, dict):
                return {str(key): plain(value[key]) for key in sorted(value)}
            if isinstance(value, msgspec.Struct):
                return {field: plain(getattr(value, field)) for field in value.__struct_fields__}
            return value

        result = plain(self.splits)
        for name, split in self.splits.items():
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
