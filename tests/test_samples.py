"""Samples: bounded, and the same ones however they are merged."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import Output
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import samples
from transforms.samples import AT_RANDOM, BOX_AND_MASK_DISAGREE, KINDS, LARGEST, MOST_INSTANCES, SMALLEST, Sample, Samples
from transforms.tfrecord import read_records

FEW = st.builds(
    Sample,
    st.sampled_from([0.0, 1.0, 2.5]),
    st.integers(1, 20),
    st.sampled_from(["a", "b"]),
    st.integers(0, 1),
    st.none() | st.integers(0, 2),
)


def alone(kind: str | int, sample: Sample) -> Samples:
    made = Samples()
    if isinstance(kind, int):
        made.add_category(kind, sample)
    else:
        made.add(kind, sample)
    return made


@settings(max_examples=200, deadline=None)
@given(
    given=st.lists(st.tuples(st.sampled_from(sorted(KINDS)) | st.integers(1, 9), FEW), max_size=60),
    randomness=st.randoms(use_true_random=False),
)
def test_any_order_and_nesting_of_merges_gives_the_same(given: list[tuple[str | int, Sample]], randomness: random.Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "MOST_CATEGORIES", 4)
        waiting = [alone(*one) for one in given] or [Samples()]
        expected = Samples()
        for part in waiting:
            expected.merge(part)
        waiting = copy.deepcopy(waiting)
        while len(waiting) > 1:
            one = waiting.pop(randomness.randrange(len(waiting)))
            waiting[randomness.randrange(len(waiting))].merge(one)
    assert waiting[0] == expected


def test_the_best_of_a_kind_each_of_another_image() -> None:
    found = Samples()
    scores = [(0.5, 1), (0.9, 2), (0.9, 1), (0.1, 3), (0.2, 4), (0.3, 5), (0.4, 6), (0.05, 7), (0.01, 8)]
    for score, image_id in scores:
        found.add(LARGEST, Sample(score, image_id, "a", 0, 0))
        found.add(SMALLEST, Sample(score, image_id, "a", 0, 0))
    assert [(one.score, one.image_id) for one in found.kinds[LARGEST]] == [
        (0.9, 1),
        (0.9, 2),
        (0.4, 6),
        (0.3, 5),
        (0.2, 4),
        (0.1, 3),
    ]
    assert [one.image_id for one in found.kinds[SMALLEST]] == [8, 7, 3, 4, 5, 6]


def test_as_many_as_there_are_to_be() -> None:
    found = Samples()
    for number in range(100):
        assert found.worst(AT_RANDOM) == (None if number < 12 else 11)
        found.add(AT_RANDOM, Sample(float(number), number, "a", 0))
    assert len(found.kinds[AT_RANDOM]) == 12
    assert found.worst(LARGEST) is None
    found.add(LARGEST, *(Sample(float(number), number, "a", 0) for number in range(10)))
    assert found.worst(LARGEST) == -4


def test_of_many_categories_those_with_the_lowest_labels() -> None:
    found = Samples()
    for label in random.Random(3).sample(range(1, 1204), 1203):
        found.add_category(label, Sample(0.0, label, "a", 0, 0))
    assert sorted(found.categories) == list(range(1, 201))


def test_merging_leaves_the_other_as_it_was() -> None:
    one, other = Samples(), alone(LARGEST, Sample(1.0, 1, "a", 0))
    one.merge(other)
    one.add(LARGEST, Sample(2.0, 2, "a", 0))
    one.add_category(1, Sample(2.0, 2, "a", 0))
    assert other == alone(LARGEST, Sample(1.0, 1, "a", 0))


def test_where_a_sample_says_there_is_its_record(demo_output: Output, tf: Any) -> None:
    """Scores are drawn anew from the records' masks and boxes, by TensorFlow and numpy."""
    for split in json.loads((demo_output.folder / "statistics.json").read_text()).values():
        kinds = split["samples"]["kinds"]
        assert kinds.keys() == KINDS.keys()
        for kind, some in [*kinds.items(), *((int(label), [one]) for label, one in split["samples"]["categories"].items())]:
            for sample in some:
                with (demo_output.folder / sample["file"]).open("rb") as file:
                    file.seek(sample["offset"])
                    record = next(read_records(file))
                features = tf.train.Example.FromString(record).features.feature
                assert features["image/source_id"].bytes_list.value == [str(sample["image_id"]).encode()]
                labels = list(features["image/object/class/label"].int64_list.value)
                if kind == AT_RANDOM:
                    continue
                if kind == MOST_INSTANCES:
                    assert sample["score"] == len(labels)
                    continue
                mask = tf.io.decode_png(features["image/object/mask"].bytes_list.value[sample["instance"]]).numpy()[:, :, 0]
                if kind == LARGEST:
                    assert sample["score"] == pytest.approx(mask.mean(), rel=1e-6)
                elif kind == SMALLEST:
                    assert sample["score"] == mask.sum()
                elif kind == BOX_AND_MASK_DISAGREE:
                    sides = [features[f"image/object/bbox/{side}"].float_list.value[sample["instance"]] for side in SIDES]
                    assert sample["score"] == pytest.approx(agreement(np.array(sides) * np.tile(mask.shape, 2), mask), abs=1e-4)
                else:
                    assert labels[sample["instance"]] == kind


SIDES = ("ymin", "xmin", "ymax", "xmax")


def agreement(box: npt.NDArray[np.float64], mask: npt.NDArray[np.uint8]) -> float:
    """IoU of a box with the tight one around a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    tight = np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
    both = np.prod((np.minimum(box[2:], tight[2:]) - np.maximum(box[:2], tight[:2])).clip(0))
    return float(both / (np.prod(box[2:] - box[:2]) + np.prod(tight[2:] - tight[:2]) - both))
