"""The gallery: which records are shown and why, and that one that can't be read costs no more than its picture."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import Output
from PIL import Image

from beam_pipeline import gallery
from beam_pipeline.gallery import KINDS, Chosen, Picture, choose, make_gallery, make_picture, within
from beam_pipeline.pages import jpeg_source
from beam_pipeline.pictures import draw
from transforms import samples
from transforms.read_records import WrittenImage, iter_images
from transforms.samples import Sample, Samples


def sample(image_id: int, score: float = 0.5, instance: int | None = None) -> Sample:
    return Sample(score, image_id, "train-00000-of-00001.tfrecord", 100 * image_id, instance)


def test_the_page_has_words_for_each_kind() -> None:
    assert {*samples.KINDS, "category"} == set(KINDS)


def test_an_image_that_is_chosen_twice_is_shown_once_with_both_reasons() -> None:
    found = Samples(
        {samples.LARGEST: [sample(1, instance=0), sample(2, instance=3)], samples.AT_RANDOM: [sample(2)]},
        {5: sample(1), 7: sample(1)},
    )
    chosen = choose(found, {5: 9, 7: 5})
    assert [(one.offset, list(one.reasons), one.labels) for one in chosen] == [
        (200, [samples.AT_RANDOM, samples.LARGEST], []),
        (100, [samples.LARGEST], [7, 5]),
    ]
    assert chosen[0].reasons[samples.LARGEST] == sample(2, instance=3)


def test_where_there_is_no_room_for_all_the_rarest_classes_are_shown() -> None:
    found = Samples(
        {samples.AT_RANDOM: [sample(number) for number in range(3)]}, {label: sample(10 + label) for label in range(1, 9)}
    )
    chosen = choose(found, {label: 100 - label for label in range(1, 9)}, at_most=6)
    assert [one.offset for one in chosen] == [0, 100, 200, 1800, 1700, 1600]


def test_a_reason_for_what_is_shown_needs_no_room() -> None:
    found = Samples({samples.AT_RANDOM: [sample(1)]}, {4: sample(2), 5: sample(1)})
    chosen = choose(found, {4: 1, 5: 2}, at_most=1)
    assert [(one.offset, list(one.reasons), one.labels) for one in chosen] == [(100, [samples.AT_RANDOM], [5])]


@pytest.fixture(scope="module")
def boats(demo_output: Output) -> WrittenImage:
    """An image of the demo's that has boats."""
    return next(image for image in iter_images(str(demo_output.folder)) if any(one.name == "boat" for one in image.instances))


def test_a_picture_is_what_is_drawn_from_its_record(boats: WrittenImage) -> None:
    at = next(number for number, one in enumerate(boats.instances) if one.name == "boat")
    reasons = {
        samples.AT_RANDOM: sample(1),
        samples.LARGEST: sample(1, 0.25, at),
        samples.SMALLEST: sample(1, 1.0, at),
        samples.MOST_INSTANCES: sample(1, 12.0),
        samples.BOX_AND_MASK_DISAGREE: sample(1, 0.031, at),
    }
    made = make_picture(boats, Chosen("a.tfrecord", 0, reasons, [3, 4]), {3: "boat", 4: "buoy"})
    shown = Image.open(io.BytesIO(base64.b64decode(made.source.removeprefix("data:image/jpeg;base64,"))))
    drawn = draw(boats, gallery.SIDE)
    assert shown.size == drawn.size == (made.width, made.height)
    assert made.width != made.height
    assert np.abs(np.asarray(shown, int) - np.asarray(drawn, int)).mean() < 4
    assert [one.replace("\u00a0", " ") for one in made.reasons.values()] == [
        "at random",
        "largest masks: boat, 25 % of the image",
        "smallest masks: boat, 1 pixel",
        "most instances: 12",
        "box and mask disagree: boat, 3.1 % in common",
        "for the classes boat, buoy",
    ]
    assert made.labels == tuple(sorted({one.label for one in boats.instances}))
    assert made.title == boats.file_name
    for name in {one.name for one in boats.instances}:
        count = sum(one.name == name for one in boats.instances)
        assert (f"{count} × {name}" if count > 1 else name) in made.about


def test_a_record_that_can_not_be_read_costs_its_picture(
    demo_output: Output, boats: WrittenImage, caplog: pytest.LogCaptureFixture
) -> None:
    file = next(shard["file"] for shard in demo_output.manifest["shards"] if shard["records"])
    first, wrong, missing = Sample(0, 1, file, 0), Sample(0, 2, file, 3), Sample(0, 3, "train-no-such.tfrecord", 0)
    chosen = choose(Samples({samples.AT_RANDOM: [first, wrong, missing]}), {})
    with caplog.at_level(logging.WARNING):
        pictures, failed = make_gallery(str(demo_output.folder), chosen, {file: "train", missing.file: "train"}, {})
    assert (len(pictures), failed) == (1, 2)
    assert sum("no picture for the report" in record.message for record in caplog.records) == 2
    assert f"{Path(demo_output.folder) / file}, byte 3" in caplog.text


def test_pictures_are_shown_as_far_as_their_bytes_go() -> None:
    pictures = [Picture("x" * size, 1, 1, str(size), "", (), {}) for size in (10, 5, 7, 1)]
    assert [one.title for one in within(pictures, 15)] == ["10", "5"]
    assert within(pictures, 100) == pictures


def test_noise_is_a_picture_too() -> None:
    """With optimized tables, Pillow had too little room for its JPEG."""
    noise = np.random.default_rng(3).integers(0, 256, (400, 480, 3), np.uint8)
    data = base64.b64decode(jpeg_source(Image.fromarray(noise), 88).removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (480, 400)
        assert abs(np.asarray(picture).astype(int) - noise).mean() < 30
