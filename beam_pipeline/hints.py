"""What is worth a look before training, in plain words; each hint is a function of its own, with a bound of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

from beam_pipeline.drift import drift
from beam_pipeline.words import bits, listed, percent, size, some
from transforms.records import Fix
from transforms.statistics import DatasetStatistics, SplitStatistics

FEW_INSTANCES = 10
"""Of a class, below which there is little to learn from."""
FEW_IMAGES = 20
"""Of a split, below which its figures say little."""
UNEVEN = 100
"""How many times the median class the most frequent one has."""
TINY_AREA, TINY_SHARE = 16 * 16, 0.05
"""Pixels of a mask that a trainer, which scales pictures down and masks to 28 × 28, makes little of."""
EMPTY_SHARE = 0.05
"""Of images without instances."""
FIXED_SHARE = 0.01
"""Of boxes, polygons or images that were put right."""
NO_MASK_SHARE = 0.01
REJECTED_SHARE = 0.01
TRAINER_SIDE = 1333
"""The longer side, in pixels, that the trainers' configurations scale images to: 1024, 1333 or 1365."""
TRAINER_INSTANCES = 100
"""Instances of an image that trainers keep by default."""
LONG_ASPECT, LONG_SHARE = 4.0, 0.1
"""The ratio of a box's sides that anchors of 1 : 2 to 2 : 1 hardly reach."""
DENSE_BYTES, DENSE_TIMES = 1e9, 10


class DataSet(NamedTuple):
    """All that the report knows: the manifest, names by label id, statistics by split in the manifest's order, and of all."""

    manifest: Mapping[str, Any]
    names: Mapping[int, str]
    splits: Mapping[str, SplitStatistics]
    whole: SplitStatistics

    @classmethod
    def of(cls, manifest: Mapping[str, Any], names: Mapping[int, str], statistics: DatasetStatistics) -> DataSet:
        """The data set; splits without an image have empty statistics."""
        order = dict.fromkeys(shard["split"] for shard in manifest["shards"])
        splits = {name: statistics.splits.get(name, SplitStatistics()) for name in order}
        whole = SplitStatistics()
        for split in splits.values():
            whole.merge(split)
        return cls(manifest, names, splits, whole)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard["bytes"] for shard in self.manifest["shards"])

    def instances_of(self, label: int) -> int:
        """Of a class, in all splits."""
        category = self.whole.categories.get(label)
        return category.instances if category else 0


def class_counts(split: SplitStatistics) -> dict[int, int]:
    """Instances by label id."""
    return {label: category.instances for label, category in split.categories.items()}


class Hint(NamedTuple):
    """What was found, and what it means or what can be done."""

    found: str
    advice: str


# ------------------------------------------------------------------------------------------------------------ hints


def rejected(data: DataSet) -> Iterator[Hint]:
    """Images or annotations that could not be written."""
    for kind in ("images", "annotations"):
        ledger = data.manifest[kind]
        if ledger["read"] and ledger["rejected"] >= REJECTED_SHARE * ledger["read"]:
            share = percent(ledger["rejected"] / ledger["read"])
            yield Hint(f"{share} of the {kind} could not be written.", "“What is not in the records” below has the reasons.")


def missing_classes(data: DataSet) -> Iterator[Hint]:
    """Classes without an instance."""
    missing = [data.names[label] for label in data.names if not data.instances_of(label)]
    if missing and data.whole.instances:
        found = f"{some(len(missing), 'class has', 'classes have')} no instance: {listed(missing)}."
        yield Hint(found, "A trainer gives them an output all the same; --categories can leave them out.")


def rare_classes(data: DataSet) -> Iterator[Hint]:
    """Classes with few instances."""
    counts = {name: data.instances_of(label) for label, name in data.names.items()}
    rare = sorted((count, name) for name, count in counts.items() if 0 < count < FEW_INSTANCES)
    if rare:
        which = listed(f"{name} ({count})" for count, name in rare)
        found = f"{some(len(rare), 'class has', 'classes have')} fewer than {FEW_INSTANCES} instances: {which}."
        yield Hint(found, "Annotate more of them, or merge them with others by --categories.")


def uneven_classes(data: DataSet) -> Iterator[Hint]:
    """A class that has most of the instances."""
    counts = sorted(((data.instances_of(label), name) for label, name in data.names.items() if data.instances_of(label)))
    if len(counts) >= 3 and counts[-1][0] >= UNEVEN * counts[len(counts) // 2][0]:
        (most, name), (median, _) = counts[-1], counts[len(counts) // 2]
        found = f"Classes are very uneven: {name} has {most:,} instances, the median class {median:,}."
        yield Hint(found, "Sampling by class, or a loss with weights, keeps the rare ones from being drowned.")


def splits_without_class(data: DataSet) -> Iterator[Hint]:
    """Classes that one split has and another lacks."""
    filled = {name: split for name, split in data.splits.items() if split.images}
    for name, split in filled.items():
        lacking = [data.names[label] for label in sorted(data.whole.categories.keys() - split.categories.keys())]
        if lacking:
            found = f"The split {name} lacks {some(len(lacking), 'class', 'classes')} that others have: {listed(lacking)}."
            yield Hint(found, "What is not in the training split can't be learnt, and what is only there is not evaluated.")


def different_splits(data: DataSet) -> Iterator[Hint]:
    """Splits whose classes have other shares."""
    for (one, first), (other, second) in combinations(data.splits.items(), 2):
        found = drift(class_counts(first), class_counts(second))
        if found and found.notable:
            shares = f"{percent(found.first)} of the instances of {one}, {percent(found.second)} of those of {other}"
            yield Hint(
                f"Classes are spread otherwise in {one} than in {other}: {data.names[found.label]} makes {shares}.",
                f"Their Jensen–Shannon divergence is {bits(found.divergence)} bits; chance alone makes {bits(found.by_chance)}.",
            )


def small_splits(data: DataSet) -> Iterator[Hint]:
    """Splits with few images, or none."""
    for name, split in data.splits.items():
        if not split.images:
            yield Hint(f"The split {name} has no image.", "Look at --splits, and at what is not in the records.")
        elif split.images < FEW_IMAGES and len(data.splits) > 1:
            found = f"The split {name} has only {some(split.images, 'image')}."
            yield Hint(found, "What is measured there says little; --splits can give it a larger share.")


def empty_images(data: DataSet) -> Iterator[Hint]:
    """Images without instances."""
    empty, images = data.whole.images_without_instances, data.whole.images
    if images and empty >= EMPTY_SHARE * images:
        found = f"{percent(empty / images)} of the images ({empty:,}) have no instance."
        yield Hint(found, "As background they may be wanted; --drop_images_without_annotations leaves them out.")


def crowded_images(data: DataSet) -> Iterator[Hint]:
    """Images with more instances than trainers keep."""
    most = data.whole.instances_an_image.high
    if most > TRAINER_INSTANCES:
        found = f"The fullest image has {most:,.0f} instances; trainers keep {TRAINER_INSTANCES} by default."
        yield Hint(found, "maskbeam trainer-config sets the number right; --tile cuts such images into parts.")


def put_right(data: DataSet) -> Iterator[Hint]:
    """What was put right in a notable share of the data."""
    for name in sorted(data.whole.fixes):
        count = data.whole.fixes[name]
        of_images = name.startswith("IMAGE_")
        total, of_what = (data.whole.images, "images") if of_images else (data.whole.instances, "instances")
        if total and count >= FIXED_SHARE * total and name not in (Fix.IMAGE_SCALED.name, Fix.IMAGE_TILED.name):
            yield Hint(f"{count:,} {Fix[name].value} ({percent(count / total)} of the {of_what}).", FIX_ADVICE[name])


FIX_ADVICE = {
    Fix.POLYGON_CLIPPED.name: "A few pixels are usual; if it is most of them, look whether images were scaled after annotation.",
    Fix.POLYGON_CROSSES_ITSELF.name: "Such masks may have holes that nobody drew; the gallery shows whether they do.",
    Fix.BOX_CLIPPED.name: "A few pixels are usual; if it is most of them, look whether images were scaled after annotation.",
    Fix.BOX_FROM_MASK.name: "Nothing is lost; the annotations' own boxes were missing or without an area.",
    Fix.IMAGE_CONVERTED.name: "Nothing to do; the records have JPEG or PNG of 8 bits.",
    Fix.IMAGE_TURNED.name: "Nothing to do, if masks lie on their objects in the gallery.",
    Fix.IMAGE_NOT_TURNED.name: "Look in the gallery whether they are upright, and masks lie on their objects.",
}


def without_mask(data: DataSet) -> Iterator[Hint]:
    """Instances that have a box alone."""
    count, total = data.whole.instances_without_mask, data.whole.instances
    if total and count >= NO_MASK_SHARE * total:
        found = f"{percent(count / total)} of the instances ({count:,}) have a box and no mask."
        advice = (
            "The Object Detection API leaves them out of the mask loss; --drop_annotations_without_mask leaves them out of all."
        )
        yield Hint(found, advice)


def tiny_masks(data: DataSet) -> Iterator[Hint]:
    """Masks that are hardly there once a trainer has scaled them."""
    counts = [one for category in data.whole.categories.values() for one in category.mask_area.counts()]
    total = sum(count for *_, count in counts)
    tiny = sum(count for low, high, count in counts if (low + high) / 2 < TINY_AREA)
    if tiny and tiny >= TINY_SHARE * total:
        found = f"{percent(tiny / total)} of the masks are smaller than {TINY_AREA} pixels (16 × 16)."
        yield Hint(found, "--tile shows them larger to a trainer, --min_area leaves out specks.")


def long_boxes(data: DataSet) -> Iterator[Hint]:
    """Boxes that anchors hardly reach."""
    counts = data.whole.box_aspect.counts()
    total = sum(count for *_, count in counts)
    long = sum(n for low, high, n in counts if not 1 / LONG_ASPECT <= (low + high) / 2 <= LONG_ASPECT)
    if total and long >= LONG_SHARE * total:
        found = f"{percent(long / total)} of the boxes are more than {LONG_ASPECT:.0f} times as long as wide."
        yield Hint(found, "Give the trainer's anchors more aspect ratios: by default they are 1 : 2, 1 : 1 and 2 : 1.")


def large_images(data: DataSet) -> Iterator[Hint]:
    """Images much larger than what trainers scale them to."""
    counts = [side.counts() for side in (data.whole.image_width, data.whole.image_height)]
    large = max(sum(count for low, high, count in side if (low + high) / 2 >= 2 * TRAINER_SIDE) for side in counts)
    if data.whole.images and large >= data.whole.images / 2:
        found = f"{percent(large / data.whole.images)} of the images have a side of {2 * TRAINER_SIDE:,} pixels or more."
        yield Hint(
            found, f"Trainers scale them to some {TRAINER_SIDE}: --max_side spares the decoding, --tile keeps small objects."
        )


def dense_masks(data: DataSet) -> Iterator[Hint]:
    """What the other encoding would take."""
    dense, encoding = data.whole.dense_mask_bytes, data.manifest["options"]["mask_encoding"]
    masks = max(0, data.bytes - data.whole.image_bytes)
    if encoding == "dense" and dense >= DENSE_BYTES:
        yield Hint(
            f"Dense masks take {size(dense)} of the {size(data.bytes)}.",
            "--mask_encoding png takes a fiftieth or less, and both trainers read it.",
        )
    elif encoding != "dense" and dense >= DENSE_BYTES and dense >= DENSE_TIMES * masks:
        found = f"Dense masks would need {size(dense)}: PNG takes {size(masks)}."
        yield Hint(found, "Nothing to do; it is what --mask_encoding png spares.")


HINTS: tuple[Callable[[DataSet], Iterator[Hint]], ...] = (
    rejected,
    small_splits,
    splits_without_class,
    different_splits,
    missing_classes,
    rare_classes,
    uneven_classes,
    empty_images,
    without_mask,
    put_right,
    tiny_masks,
    long_boxes,
    crowded_images,
    large_images,
    dense_masks,
)


def hints(data: DataSet) -> list[Hint]:
    """All that is worth a look, the weightiest first."""
    return [hint for find in HINTS for hint in find(data)]
