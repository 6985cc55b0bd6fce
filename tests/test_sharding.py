"""Splits and shards: fixed numbers, fair shares, and the same shards however the images come in."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from unittest import mock

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import coders
from transforms.batches import BatchWriter
from transforms.columns import pack_images, size_of
from transforms.records import AnnotatedImage, Census, Instance, RunLengths
from transforms.sharding import (
    AssignShards,
    MergeCensus,
    PackByShard,
    PlanShards,
    ShardKey,
    ShardPlan,
    Splits,
    in_order,
    order_of,
    plan_shards,
    shard_key,
    shard_of,
    stable_hash,
)

HASHES = {
    ("139", "split"): 677075442442719260,
    ("139", "shard"): 12576373849282705877,
    ("139", "order"): 18297866827236456121,
    ("139", "bucket"): 5457030409818382317,
    ("139", "reject"): 6490360075754981828,
    ("-1", "split"): 5463869298865305016,
    ("", "split"): 17512005676015884046,
    ("ünï 😀", "split"): 3292925873940889093,
}
GOLDEN_SHARDS = {
    ("test", 0): [18],
    ("test", 2): [22, 28],
    ("train", 0): [19, 8, 0, 14, 13, 25],
    ("train", 1): [29, 24, 21, 16, 11, 20, 26, 9, 15, 23],
    ("train", 2): [4, 3, 12, 5, 7, 6, 10, 2, 1, 27, 17],
}
THREE = Splits((("train", 0.8), ("val", 0.15), ("test", 0.05)))
MANY = range(20_000)


def image(image_id: int, file_name: str = "", instances: int = 0) -> AnnotatedImage:
    members = tuple(Instance(number, 1, None, 2.0, False, RunLengths(4, 6, b"0" * 50)) for number in range(instances))
    return AnnotatedImage(image_id, file_name or f"{image_id}.jpg", 4, 6, members)


def batch(*images: AnnotatedImage) -> bytes:
    return BatchWriter(None).write(pack_images(images))


def spread(counts: Iterable[int], expected: float) -> float:
    """The largest deviation from what is expected, as a share of it."""
    return max(abs(count - expected) / expected for count in counts)


# ------------------------------------------------------------------------------------------------------------ hashes


@pytest.mark.parametrize(("text", "purpose"), HASHES)
def test_hashes_never_change(text: str, purpose: str) -> None:
    assert stable_hash(text, purpose) == HASHES[text, purpose]


@pytest.mark.parametrize("seed", ["1", "4242"])
def test_hashes_are_the_same_in_another_process(seed: str) -> None:
    script = (
        "from transforms.sharding import stable_hash; import sys, json;"
        "print(json.dumps([stable_hash(*one) for one in json.loads(sys.argv[1])]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, json.dumps(list(HASHES))]
    hashes = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert hashes == list(HASHES.values())


def test_which_images_share_a_split_and_a_shard_never_changes() -> None:
    plan = plan_shards(Census(), THREE, 3, False)
    members: dict[ShardKey, list[AnnotatedImage]] = defaultdict(list)
    for number in range(30):
        members[shard_key(image(number), plan, THREE)].append(image(number))
    order = {key: [one.image_id for one in sorted(images, key=order_of)] for key, images in members.items()}
    assert order == GOLDEN_SHARDS


def test_hashes_for_different_purposes_are_independent() -> None:
    pairs = Counter((stable_hash(str(number), "split") % 8, stable_hash(str(number), "shard") % 8) for number in MANY)
    assert len(pairs) == 64
    assert spread(pairs.values(), len(MANY) / 64) < 0.25


# ------------------------------------------------------------------------------------------------------------ splits


def test_splits_get_their_shares() -> None:
    counts = Counter(THREE.of(image(number)) for number in MANY)
    for name, share in THREE.shares:
        assert counts[name] / len(MANY) == pytest.approx(share, abs=0.01)


def test_one_split_takes_all() -> None:
    assert {Splits().of(image(number)) for number in range(100)} == {"train"}


def test_shares_that_add_up_to_a_little_less_leave_nothing_out() -> None:
    nearly = Splits((("a", 0.3), ("b", 0.0001)))
    assert {nearly.of(image(number)) for number in range(200)} == {"a", "b"}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (r"^scene\d+", "scene{group}_{number}.jpg"),
        (r"/(scene\d+)/", "{number}/scene{group}/{number}.jpg"),
        (r"(?:x|(y))?s\d+", "s{group}-{number}"),
    ],
)
def test_a_group_stays_in_one_split(pattern: str, name: str) -> None:
    splits = Splits(THREE.shares, pattern)
    found: dict[int, set[str]] = defaultdict(set)
    for number in range(3000):
        found[number % 300].add(splits.of(image(number, name.format(group=number % 300, number=number))))
    assert {len(names) for names in found.values()} == {1}
    assert set.union(*found.values()) == {"train", "val", "test"}


def test_groups_get_their_shares() -> None:
    splits = Splits(THREE.shares, r"scene\d+")
    counts = Counter(splits.of(image(1, f"scene{number}.jpg")) for number in MANY)
    for name, share in THREE.shares:
        assert counts[name] / len(MANY) == pytest.approx(share, abs=0.01)


def test_the_first_group_of_a_pattern_decides_where_there_is_one() -> None:
    splits = Splits((("a", 0.5), ("b", 0.5)), r"(\d+)-\w")
    assert all(splits.of(image(1, f"{number}-x")) == splits.of(image(2, f"{number}-y")) for number in range(100))
    whole = Splits((("a", 0.5), ("b", 0.5)), r"\d+-\w")
    assert any(whole.of(image(1, f"{number}-x")) != whole.of(image(2, f"{number}-y")) for number in range(100))


def test_a_name_without_a_find_is_a_group_of_its_own() -> None:
    splits = Splits((("a", 0.5), ("b", 0.5)), r"scene\d+")
    counts = Counter(splits.of(image(1, f"other-{letter}{number}.jpg")) for number in range(1000) for letter in "xy")
    assert spread(counts.values(), 1000) < 0.1
    assert splits.of(image(1, "other.jpg")) == splits.of(image(2, "other.jpg"))


# ------------------------------------------------------------------------------------------------------------ shards


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_shards_are_evenly_filled(count: int) -> None:
    counts = Counter(shard_of(number, count) for number in MANY)
    assert sorted(counts) == list(range(count))
    assert spread(counts.values(), len(MANY) / count) < 0.1


def test_shards_are_evenly_filled_within_a_split() -> None:
    plan = plan_shards(Census(), THREE, 4, False)
    counts = Counter(shard_key(image(number), plan, THREE) for number in MANY)
    assert sorted(counts) == sorted(plan.shard_keys())
    for split, share in THREE.shares:
        assert spread((counts[split, index] for index in range(4)), len(MANY) * share / 4) < 0.2


MEGA = 1_000_000


@pytest.mark.parametrize(
    ("census", "dense", "expected"),
    [
        (Census(0, 0, 0 * MEGA), False, 1),
        (Census(32, 100, 32 * MEGA), False, 1),
        (Census(33, 100, 33 * MEGA), False, 2),
        (Census(1000, 0, 1000 * MEGA), False, 8),
        (Census(10_000, 0, 10_000 * MEGA), False, 35),
        (Census(10_000, 100_000, 10_000 * MEGA), False, 39),
        (Census(1000, 7000, 1000 * MEGA), True, 284),
        (Census(10, 0, 10_000 * MEGA), False, 35),
        (Census(10**9, 0, 10**9 * MEGA), False, 99_999),
    ],
)
def test_shards_are_planned_by_size_and_number_of_images(census: Census, dense: bool, expected: int) -> None:
    assert plan_shards(census, Splits(), None, dense) == ShardPlan((("train", expected),))


def test_shards_are_planned_for_each_split_by_its_share() -> None:
    plan = plan_shards(Census(10_000, 0, 10_000 * MEGA), THREE, None, False)
    assert plan == ShardPlan((("train", 28), ("val", 8), ("test", 8)))


def test_a_number_of_shards_is_for_each_split() -> None:
    assert plan_shards(Census(10**6, 0, 10**6), THREE, 5, True) == ShardPlan((("train", 5), ("val", 5), ("test", 5)))


def test_file_names_and_keys_of_shards() -> None:
    plan = ShardPlan((("val", 2), ("train", 12_345)))
    assert plan.file_name("val", 1) == "val-00001-of-00002.tfrecord"
    assert plan.file_name("train", 12_344) == "train-12344-of-12345.tfrecord"
    assert plan.shard_keys()[:3] == [("val", 0), ("val", 1), ("train", 0)]
    assert len(set(plan.shard_keys())) == 12_347


@settings(max_examples=50, deadline=None)
@given(
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    cut=st.integers(0, 20),
    randomness=st.randoms(use_true_random=False),
)
def test_the_order_in_a_shard_does_not_depend_on_the_batches(numbers: list[int], cut: int, randomness: random.Random) -> None:
    images = [image(number) for number in numbers]
    expected = in_order([batch(*images)])
    assert Counter(one.image_id for one in expected) == Counter(numbers)
    randomness.shuffle(images)
    assert in_order([batch(*images[:cut]), batch(*images[cut:])]) == expected


def test_the_order_in_a_shard_is_not_that_of_the_ids() -> None:
    ids = [one.image_id for one in in_order([batch(*map(image, range(1000)))])]
    assert sum(abs(one - other) == 1 for one, other in pairwise(ids)) < 20


# -------------------------------------------------------------------------------------------------------- transforms


def assigned(keyed: tuple[ShardKey, Iterable[bytes]]) -> tuple[ShardKey, list[int]]:
    key, batches = keyed
    return key, [one.image_id for one in in_order(batches)]


def expected_shards(images: Iterable[AnnotatedImage], plan: ShardPlan, splits: Splits) -> list[tuple[ShardKey, list[int]]]:
    members: dict[ShardKey, list[AnnotatedImage]] = defaultdict(list)
    for one in images:
        members[shard_key(one, plan, splits)].append(one)
    return [(key, [one.image_id for one in sorted(members[key], key=order_of)]) for key in members]


@pytest.mark.parametrize("spill", [False, True])
def test_assign_shards(tmp_path: Path, spill: bool) -> None:
    coders.register()
    images = [image(number, instances=number % 5) for number in range(200)]
    plan = plan_shards(Census(), THREE, 3, False)
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
        one_plan = beam.pvalue.AsSingleton(pipeline | "Plan" >> beam.Create([plan]))
        created = pipeline | "Images" >> beam.Create(images)
        shards = created | AssignShards(one_plan, THREE, str(tmp_path) if spill else None)
        assert_that(shards | beam.Map(assigned), equal_to(expected_shards(images, plan, THREE)))
    assert any(tmp_path.iterdir()) is spill


def test_waiting_images_are_given_on_when_they_grow_too_many() -> None:
    plan = ShardPlan((("train", 2),))
    images = [image(number, instances=3) for number in range(50)]
    pack_by_shard = PackByShard(Splits(), None)
    twenty = 20 * (len(images[0].file_name) + sum(map(size_of, images[0].instances)))
    with mock.patch.object(PackByShard, "WAITING_BYTES", twenty):
        given_on = [keyed for one in images for keyed in pack_by_shard.process(one, plan)]
    assert len(given_on) == 4
    given_on += [windowed.value for windowed in pack_by_shard.finish_bundle()]
    assert len(given_on) == 6
    assert list(pack_by_shard.finish_bundle()) == []
    batches: dict[ShardKey, list[bytes]] = defaultdict(list)
    for key, packed in given_on:
        batches[key].append(packed)
    assert sorted(map(assigned, batches.items())) == sorted(expected_shards(images, plan, Splits()))


def test_a_worker_gets_a_copy_of_the_transform_without_its_files(tmp_path: Path) -> None:
    original = PackByShard(Splits(), str(tmp_path))
    list(original.process(image(1), ShardPlan((("train", 1),))))
    list(original.finish_bundle())
    assert len(list(tmp_path.iterdir())) == 1
    copy = pickle.loads(pickle.dumps(original))
    list(copy.process(image(2), ShardPlan((("train", 1),))))
    (windowed,) = copy.finish_bundle()
    assert assigned((windowed.value[0], [windowed.value[1]])) == (("train", 0), [2])
    assert len(list(tmp_path.iterdir())) == 2
    original.teardown()
    copy.teardown()


def test_census_and_plan_in_a_pipeline() -> None:
    coders.register()
    parts = [Census(number, 2 * number, number % 7) for number in range(100)]
    total = Census(4950, 9900, sum(number % 7 for number in range(100)))
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
        census = pipeline | beam.Create(parts) | beam.CombineGlobally(MergeCensus())
        assert_that(census, equal_to([total]), "census")
        plan = census | PlanShards(THREE, None, False)
        assert_that(plan, equal_to([plan_shards(total, THREE, None, False)]), "plan")


def test_no_census_at_all_is_an_empty_one() -> None:
    coders.register()
    with beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([])) as pipeline:
        census = pipeline | beam.Create([]).with_output_types(Census) | beam.CombineGlobally(MergeCensus())
        assert_that(census, equal_to([Census()]))
