"""The report's gallery: some images as their records have them, with what is drawn over them, and why they are shown."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import NamedTuple

from beam_pipeline.pages import jpeg_source
from beam_pipeline.pictures import draw
from beam_pipeline.words import listed, percent, some
from transforms import samples, storage
from transforms.images import lift_cap_of_pillow
from transforms.read_records import WrittenImage, read_at, read_image
from transforms.samples import Sample, Samples

PICTURES, BYTES = 30, 4_000_000
"""As many as are shown, if they take no more than that: a page that is sent by e-mail has 5 MB."""
SIDE, QUALITY = 480, 80
"""Of a picture: the longer side in pixels, and JPEG's quality."""
LOCAL_THREADS, REMOTE_THREADS = 2, 16
CATEGORY = "category"
KINDS = {
    samples.AT_RANDOM: "at random",
    samples.LARGEST: "largest masks",
    samples.SMALLEST: "smallest masks",
    samples.MOST_INSTANCES: "most instances",
    samples.BOX_AND_MASK_DISAGREE: "box and mask disagree",
    CATEGORY: "for a class",
}
"""What the page calls each kind of samples, in the order that they are shown in."""


class Chosen(NamedTuple):
    """A record that is shown, for which kinds of samples, and for which categories, by label id."""

    file: str
    offset: int
    reasons: dict[str, Sample]
    labels: list[int]


class Picture(NamedTuple):
    """A picture of the gallery; `source` is the image itself, as a data URI, `height` and `width` are in pixels of it.

    `reasons` is why it is shown, by kind.
    """

    source: str
    height: int
    width: int
    title: str
    about: str
    labels: tuple[int, ...]
    reasons: dict[str, str]

    @property
    def alternative(self) -> str:
        """What there is to see, for who can't."""
        return f"{self.title}: {self.about}"


def choose(found: Samples, instances: Mapping[int, int], at_most: int = PICTURES) -> list[Chosen]:
    """The records to show, each once. If there are more than `at_most`, the rarest classes by `instances` go first."""
    chosen: dict[tuple[str, int], Chosen] = {}

    def take(sample: Sample) -> Chosen | None:
        key = sample.file, sample.offset
        return chosen.setdefault(key, Chosen(*key, {}, [])) if key in chosen or len(chosen) < at_most else None

    for kind in KINDS:
        for sample in found.kinds.get(kind, []):
            if one := take(sample):
                one.reasons.setdefault(kind, sample)
    for label in sorted(found.categories, key=lambda label: (instances.get(label, 0), label)):
        if one := take(found.categories[label]):
            one.labels.append(label)
    return list(chosen.values())


def make_gallery(
    output: str, chosen: Sequence[Chosen], splits: Mapping[str, str], names: Mapping[int, str]
) -> tuple[list[Picture], int]:
    """The pictures, and how many could not be made, which is logged. `splits` goes by the names of shards' files."""

    def make(one: Chosen) -> Picture | None:
        try:
            return make_picture(read_image(read_at(output, one.file, one.offset), splits[one.file]), one, names)
        except Exception as error:  # no picture is worth a job of hours
            place = f"{storage.join(output, one.file)}, byte {one.offset}"
            logging.getLogger(__name__).warning("%s: no picture for the report: %s", place, error, exc_info=True)
            return None

    lift_cap_of_pillow()
    with ThreadPoolExecutor(LOCAL_THREADS if storage.is_local(output) else REMOTE_THREADS) as pool:
        made = list(pool.map(make, chosen))
    pictures = [picture for picture in made if picture]
    return within(pictures, BYTES), len(made) - len(pictures)


def within(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """The first of the pictures, which take so many bytes at most."""
    ends = accumulate(len(picture.source) for picture in pictures)
    return [picture for picture, end in zip(pictures, ends, strict=True) if end <= most]


def make_picture(image: WrittenImage, chosen: Chosen, names: Mapping[int, str]) -> Picture:
    """The picture of an image that was chosen."""
    drawn = draw(image, SIDE)
    source = jpeg_source(drawn, QUALITY)
    counts: dict[str, int] = {}
    for one in image.instances:
        counts[one.name] = counts.get(one.name, 0) + 1
    of_classes = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())
    parts = (f"id {image.image_id}", image.split, f"{image.width} × {image.height}", of_classes or "no instance")
    labels = tuple(sorted({one.label for one in image.instances}))
    why = {kind: _why(kind, sample, image) for kind, sample in chosen.reasons.items()}
    if chosen.labels:
        why[CATEGORY] = f"for the class{'es' * (len(chosen.labels) > 1)} {listed(names[label] for label in chosen.labels)}"
    return Picture(source, drawn.height, drawn.width, image.file_name, " · ".join(parts), labels, why)


def _why(kind: str, sample: Sample, image: WrittenImage) -> str:
    name = "" if sample.instance is None else image.instances[sample.instance].name
    match kind:
        case samples.LARGEST:
            return f"largest masks: {name}, {percent(sample.score)} of the image"
        case samples.SMALLEST:
            return f"smallest masks: {name}, {some(round(sample.score), 'pixel')}"
        case samples.MOST_INSTANCES:
            return f"most instances: {sample.score:,.0f}"
        case samples.BOX_AND_MASK_DISAGREE:
            return f"box and mask disagree: {name}, {percent(sample.score)} in common"
    return KINDS[kind]
