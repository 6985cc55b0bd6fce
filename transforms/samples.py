"""Samples: which images the report shows. The same ones, however the data is cut into parts and these are merged.

Of each kind the best few, by a total order in which no two images are equal; for each category one.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from transforms.sharding import stable_hash


class Kind(NamedTuple):
    """How many samples of a kind there are, and whether those of the highest scores are wanted."""

    at_most: int
    highest: bool


LARGEST = "largest"
SMALLEST = "smallest"
MOST_INSTANCES = "most_instances"
BOX_AND_MASK_DISAGREE = "box_and_mask_disagree"
AT_RANDOM = "at_random"
KINDS = {
    LARGEST: Kind(6, True),  # mask / image
    SMALLEST: Kind(6, False),  # pixels of a mask that has some, and is of no crowd
    MOST_INSTANCES: Kind(6, True),
    BOX_AND_MASK_DISAGREE: Kind(6, False),  # IoU of the annotation's box and the tight one around the mask, if below 1
    AT_RANDOM: Kind(12, False),  # by a hash
}
"""What is shown, and in the comments what its score is."""
OF_AN_INSTANCE = (LARGEST, SMALLEST, BOX_AND_MASK_DISAGREE)
"""The kinds that are about one instance; the others are about the image as a whole."""
MOST_CATEGORIES = 200


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """An image, and why it is shown. Its record begins at byte `offset` of a shard's `file`.

    `instance` is its place among the image's instances, from 0, or None where the image as a whole is meant.
    """

    score: float
    image_id: int
    file: str
    offset: int
    instance: int | None = None

    def order(self) -> tuple[float, int, str, int, int]:
        """By score, and by what no two samples share; the lowest comes first."""
        return self.score, self.image_id, self.file, self.offset, -1 if self.instance is None else self.instance


class Samples(msgspec.Struct, array_like=True):
    """Samples by kind, the best first, each of another image; and for each category, by label id, one image at random.

    Of more than `MOST_CATEGORIES` categories, those with the lowest label ids have one.
    """

    kinds: dict[str, list[Sample]] = {}
    categories: dict[int, Sample] = {}

    def worst(self, kind: str) -> float | None:
        """What the score of another sample must not be above (below, times -1), to be of use; None as long as there is room."""
        some = self.kinds.get(kind, [])
        at_most, highest = KINDS[kind]
        return None if len(some) < at_most else -some[-1].score if highest else some[-1].score

    def add(self, kind: str, *some: Sample) -> None:
        """Takes in samples of a kind, as far as they are among the best."""
        if not some:
            return
        at_most, highest = KINDS[kind]

        def order(sample: Sample) -> tuple[float, tuple[float, int, str, int, int]]:
            return -sample.score if highest else sample.score, sample.order()

        best: dict[int, Sample] = {}
        for sample in sorted([*self.kinds.get(kind, []), *some], key=order):
            best.setdefault(sample.image_id, sample)
        self.kinds[kind] = list(best.values())[:at_most]

    def add_category(self, label: int, sample: Sample) -> None:
        """Takes in a sample of a category, unless there is one that comes before it."""
        if label not in self.categories and len(self.categories) >= MOST_CATEGORIES and label > max(self.categories):
            return
        self.categories[label] = min(self.categories.get(label, sample), sample, key=Sample.order)
        if len(self.categories) > MOST_CATEGORIES:
            del self.categories[max(self.categories)]

    def merge(self, other: Samples) -> None:
        """Takes in the other's samples."""
        for kind, some in other.kinds.items():
            self.add(kind, *some)
        for label, sample in other.categories.items():
            self.add_category(label, sample)


def lot(image_id: int) -> int:
    """A number below 2^64 for each image, as if drawn at random."""
    return stable_hash(str(image_id), "sample")
