"""What a shard's images add to the statistics, against a count one by one in plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask

from transforms import run_lengths, tally
from transforms.examples import LabelMap
from transforms.images import CheckedImage
from transforms.records import AnnotatedImage, Category, Instance
from transforms.run_lengths import Mask
from transforms.samples import KINDS
from transforms.sharding import stable_hash
from transforms.sketch import Sketch
from transforms.statistics import GRID, SplitStatistics
from transforms.tally import Tally

LABELS = LabelMap.of([Category(number, f"class {number}") for number in (0, 7, 9, 12)], True)
SIZES = [(30, 47), (61, 20), (24, 24 * 3), (5, 9)]
SHARD = "train-00000-of-00001.tfrecord"


class Drawn(NamedTuple):
    image: AnnotatedImage
    masks: list[Mask]
    offset: int


def draw(seed: int, count: int) -> list[Drawn]:
    """Images with boxes that fit their masks or do not, empty masks, boxes without masks, crowds, and no instances at all."""
    random, drawn = np.random.default_rng(seed), []
    for number in range(count):
        height, width = SIZES[random.integers(len(SIZES))]
        masks, instances = [], []
        for _ in range(random.choice([0, 1, 2, 5, 9])):
            mask = np.zeros((height, width), np.uint8)
            rows, columns = sorted(random.integers(0, height + 1, 2)), sorted(random.integers(0, width + 1, 2))
            mask[slice(*rows), slice(*columns)] = random.random((rows[1] - rows[0], columns[1] - columns[0])) < random.choice(
                [0.3, 1]
            )
            ymin, xmin, ymax, xmax = rows[0], columns[0], rows[1], columns[1]
            if random.random() < 0.5 or ymin == ymax or xmin == xmax:
                ymin, xmin, ymax, xmax = (
                    random.uniform(0, height / 2),
                    random.uniform(0, width / 2),
                    height,
                    random.uniform(width / 2, width),
                )
            box = (float(ymin), float(xmin), float(ymax), float(xmax))
            area = None if random.random() < 0.5 else float(random.uniform(0, 999))
            with_mask = random.random() < 0.8
            masks.append(mask if with_mask else np.zeros_like(mask))
            shape = run_lengths.from_mask(mask) if with_mask else None
            instances.append(
                Instance(len(instances), int(random.choice([0, 7, 9])), box, area, bool(random.random() < 0.2), shape)
            )
        image_id = int(random.integers(10**6)) * 1000 + number
        drawn.append(Drawn(AnnotatedImage(image_id, f"{image_id}.png", height, width, tuple(instances)), masks, 100 * number + 7))
    return drawn


def tallied(drawn: list[Drawn]) -> SplitStatistics:
    made = Tally(LABELS, SHARD)
    for image, _, offset in drawn:
        checked = CheckedImage(b"x" * image.height, "png", image.height, image.width, "", ())
        made.add(image, checked, run_lengths.masks_of([(image.instances, image.height, image.width)])[0], offset)
    return made.statistics()


def sketch_of(values: Iterator[float]) -> Sketch:
    made = Sketch()
    for value in values:
        made.add(value)
    return made


def each(drawn: list[Drawn]) -> Iterator[tuple[AnnotatedImage, Instance, Mask]]:
    for image, masks, _ in drawn:
        for instance, mask in zip(image.instances, masks, strict=True):
            yield image, instance, mask


def pixels(mask: Mask) -> int:
    return int(coco_mask.area(coco_mask.encode(np.asfortranarray(mask))))


def tight(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    height = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    width = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return height * width / (sum(areas) - height * width)


@pytest.fixture(scope="module", params=[1, 2, 3])
def drawn(request: pytest.FixtureRequest) -> list[Drawn]:
    return draw(request.param, 150)


@pytest.fixture(scope="module")
def found(drawn: list[Drawn]) -> SplitStatistics:
    return tallied(drawn)


def test_counts(drawn: list[Drawn], found: SplitStatistics) -> None:
    instances = [one for image, *_ in drawn for one in image.instances]
    assert found.images == 150
    assert found.images_without_instances == sum(not image.instances for image, *_ in drawn) > 0
    assert found.instances == len(instances)
    assert found.crowds == sum(one.is_crowd for one in instances) > 0
    assert found.instances_without_mask == sum(one.shape is None for one in instances) > 0
    assert found.image_bytes == sum(image.height for image, *_ in drawn)
    assert found.dense_mask_bytes == sum(4 * mask.size for _, _, mask in each(drawn))


SKETCHES: dict[str, Callable[[list[Drawn]], Iterator[float]]] = {
    "instances_an_image": lambda drawn: (len(image.instances) for image, *_ in drawn),
    "image_height": lambda drawn: (image.height for image, *_ in drawn),
    "image_width": lambda drawn: (image.width for image, *_ in drawn),
    "image_megapixels": lambda drawn: (image.height * image.width / 1e6 for image, *_ in drawn),
    "box_aspect": lambda drawn: ((one.box[3] - one.box[1]) / (one.box[2] - one.box[0]) for _, one, _ in each(drawn) if one.box),
    "mask_share": lambda drawn: (pixels(mask) / mask.size for _, _, mask in each(drawn) if mask.any()),
    "box_ymin": lambda drawn: (float(np.float32(one.box[0] / image.height)) for image, one, _ in each(drawn) if one.box),
    "box_xmin": lambda drawn: (float(np.float32(one.box[1] / image.width)) for image, one, _ in each(drawn) if one.box),
    "box_ymax": lambda drawn: (float(np.float32(one.box[2] / image.height)) for image, one, _ in each(drawn) if one.box),
    "box_xmax": lambda drawn: (float(np.float32(one.box[3] / image.width)) for image, one, _ in each(drawn) if one.box),
}


@pytest.mark.parametrize("name", SKETCHES)
def test_a_distribution(drawn: list[Drawn], found: SplitStatistics, name: str) -> None:
    assert getattr(found, name) == sketch_of(SKETCHES[name](drawn))


def test_areas_are_the_records(drawn: list[Drawn], found: SplitStatistics) -> None:
    def area(instance: Instance, mask: Mask) -> float:
        if instance.area is not None:
            return instance.area
        ymin, xmin, ymax, xmax = instance.box or (0, 0, 0, 0)
        return pixels(mask) if instance.shape else (ymax - ymin) * (xmax - xmin)

    assert found.area == sketch_of(float(np.float32(area(one, mask))) for _, one, mask in each(drawn))


def test_categories(drawn: list[Drawn], found: SplitStatistics) -> None:
    assert sorted(found.categories) == [1, 2, 3]  # contiguous; that of id 12 has no instance
    for category_id, label in ((0, 1), (7, 2), (9, 3)):
        category = found.categories[label]
        some = [(image, one, mask) for image, one, mask in each(drawn) if one.category_id == category_id]
        assert category.instances == len(some)
        assert category.images == len({image.image_id for image, *_ in some}) < len(some)
        assert category.crowds == sum(one.is_crowd for _, one, _ in some)
        assert category.mask_area == sketch_of(pixels(mask) for _, one, mask in some if one.shape)
        assert category.box_height == sketch_of(one.box[2] - one.box[0] for _, one, _ in some if one.box)
        assert category.box_width == sketch_of(one.box[3] - one.box[1] for _, one, _ in some if one.box)


def test_the_grid_counts_boxes_over_the_centres_of_cells(drawn: list[Drawn], found: SplitStatistics) -> None:
    expected: npt.NDArray[np.int64] = np.zeros((GRID, GRID), np.int64)
    for image, one, _ in each(drawn):
        ymin, xmin, ymax, xmax = np.float32(one.box) / np.float32((image.height, image.width) * 2)  # type: ignore[arg-type]
        for row in range(GRID):
            for column in range(GRID):
                expected[row, column] += ymin <= (row + 0.5) / GRID < ymax and xmin <= (column + 0.5) / GRID < xmax
    assert found.boxes_over_grid == expected.ravel().tolist()


def test_the_grid_is_row_by_row_from_the_top() -> None:
    instance = Instance(1, 0, (0.0, 0.0, 1.0, 72.0), None, False, None)  # a strip along the upper edge of 24 × 72 pixels
    split = tallied([Drawn(AnnotatedImage(1, "a", 24, 72, (instance,)), [np.zeros((24, 72), np.uint8)], 0)])
    assert split.boxes_over_grid == [1] * 24 + [0] * 23 * 24


Scored = tuple[float, int, int, int | None]


def best(scored: list[Scored], at_most: int) -> list[tuple[Any, ...]]:
    """The first by score, image id, offset and instance, one for each image."""
    first: dict[int, tuple[Any, ...]] = {}
    for score, image_id, offset, instance in sorted(scored):
        first.setdefault(image_id, (abs(score), image_id, SHARD, offset, instance))
    return list(first.values())[:at_most]


def test_samples(drawn: list[Drawn], found: SplitStatistics) -> None:
    expected: dict[str, list[Scored]] = {kind: [] for kind in KINDS}
    for image, masks, offset in drawn:
        if image.instances:
            expected["most_instances"].append((-len(image.instances), image.image_id, offset, None))
        expected["at_random"].append((stable_hash(str(image.image_id), "sample") >> 11, image.image_id, offset, None))
        for place, (one, mask) in enumerate(zip(image.instances, masks, strict=True)):
            if not mask.any() or one.box is None:
                continue
            expected["largest"].append((-pixels(mask) / mask.size, image.image_id, offset, place))
            if not one.is_crowd:
                expected["smallest"].append((pixels(mask), image.image_id, offset, place))
            if (agreement := iou(one.box, tight(mask))) < 1:
                expected["box_and_mask_disagree"].append((agreement, image.image_id, offset, place))
    for kind, scored in expected.items():
        first = best(scored, 12 if kind == "at_random" else 6)
        assert len(first) >= 6
        assert [(one.score, one.image_id, one.file, one.offset, one.instance) for one in found.samples.kinds[kind]] == [
            (pytest.approx(score, rel=1e-12), *rest) for score, *rest in first
        ], kind


def test_each_category_has_a_sample(drawn: list[Drawn], found: SplitStatistics) -> None:
    for label, sample in found.samples.categories.items():
        own = label * 0x9E3779B97F4A7C15 % 2**64
        scored = [
            ((stable_hash(str(image.image_id), "sample") ^ own) >> 11, image.image_id, offset, place)
            for image, _, offset in drawn
            for place, one in enumerate(image.instances)
            if LABELS.labels[one.category_id][0] == label
        ]
        assert (sample.score, sample.image_id, sample.offset, sample.instance) == min(scored)
        assert sample.file == SHARD
    assert len({sample.image_id for sample in found.samples.categories.values()}) == 3


def test_samples_of_categories_are_spread() -> None:
    """Over 300 sets of images, each image of ten is drawn about as often as the others."""
    drawn_places = Counter()
    for start in range(0, 30_000, 100):
        instance = Instance(1, 7, (0.0, 0.0, 1.0, 1.0), None, False, None)
        images = [AnnotatedImage(start + number, "a", 5, 9, (instance,)) for number in range(10)]
        split = tallied([Drawn(image, [np.zeros((5, 9), np.uint8)], 0) for image in images])
        drawn_places[split.samples.categories[2].image_id % 100] += 1
    assert sorted(drawn_places) == list(range(10))
    assert max(drawn_places.values()) < 55


@pytest.mark.parametrize(
    ("images", "instances", "runs"),
    [(1, 1, 1), (7, 1 << 30, 1 << 30), (1 << 30, 11, 1 << 30), (1 << 30, 1 << 30, 200), (10, 1 << 30, 100)],
)
def test_how_many_are_counted_at_once_changes_nothing(
    drawn: list[Drawn], found: SplitStatistics, monkeypatch: pytest.MonkeyPatch, images: int, instances: int, runs: int
) -> None:
    monkeypatch.setattr(tally, "IMAGES_AT_ONCE", images)
    monkeypatch.setattr(tally, "INSTANCES_AT_ONCE", instances)
    monkeypatch.setattr(tally, "RUNS_AT_ONCE", runs)
    assert tallied(drawn) == found


def test_few_images_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "RUNS_AT_ONCE", 300)
    made, most = Tally(LABELS, SHARD), 0
    for image, _, offset in draw(4, 60):
        masks = run_lengths.masks_of([(image.instances, image.height, image.width)])[0]
        made.add(image, CheckedImage(b"", "png", image.height, image.width, "", ()), masks, offset)
        most = max(most, made.runs)
    assert 0 < most < 300


def test_a_box_without_a_height_has_an_aspect_still() -> None:
    instance = Instance(1, 0, (2.0, 0.0, 2.0, 9.0), None, False, None)
    split = tallied([Drawn(AnnotatedImage(1, "a", 5, 9, (instance,)), [np.zeros((5, 9), np.uint8)], 0)])
    assert split.box_aspect.high == 9 / tally.THINNEST


def test_no_images() -> None:
    assert tallied([]) == SplitStatistics()


@pytest.mark.parametrize(("height", "width"), [(2, 4), (3, 2), (1, 5), (5, 1)])
@pytest.mark.parametrize("at_once", [1, 50, 1 << 16])
def test_areas_and_boxes_of_many_masks_are_those_of_each(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, at_once: int
) -> None:
    """All masks of a size, so also those in which a run goes on in the next column; and among them those of another."""
    monkeypatch.setattr(run_lengths, "_AT_ONCE", at_once)
    small: list[Mask] = [
        np.array([number >> pixel & 1 for pixel in range(height * width)], np.uint8).reshape(height, width)
        for number in range(2 ** (height * width))
    ]
    masks = [mask for one in small for mask in (one, np.eye(7, 4, dtype=np.uint8))]
    runs = [run_lengths.runs_of(run_lengths.from_mask(mask)) for mask in masks]
    areas, boxes = run_lengths.areas_and_boxes(runs, np.array([len(mask) for mask in masks]))
    assert areas.tolist() == [pixels(mask) for mask in masks]
    assert boxes.tolist() == [list(tight(mask)) if mask.any() else [0, 0, 0, 0] for mask in masks]


def test_areas_and_boxes_of_no_masks_and_of_runs_without_pixels() -> None:
    areas, boxes = run_lengths.areas_and_boxes([], np.zeros(0, np.int64))
    assert (areas.shape, boxes.shape) == ((0,), (0, 4))
    areas, boxes = run_lengths.areas_and_boxes([np.array([1, 0, 2, 2, 1, 0]), np.array([6])], np.array([3, 2]))
    assert areas.tolist() == [2, 0]
    assert boxes.tolist() == [[0, 1, 2, 2], [0, 0, 0, 0]]
