"""How a shard is written: what runs at the same time, and how much of it waits in memory. Nothing here waits for a time."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from transforms import shards
from transforms.ahead import Take
from transforms.claims import Claim
from transforms.examples import LabelMap
from transforms.images import CheckedImage, ImageFolder
from transforms.records import AnnotatedImage, Instance, ReasonCode, RunLengths, problem
from transforms.sharding import ShardPlan
from transforms.shards import RecordOptions, ShardState, _WriteShard

PATIENCE = 30.0
HEIGHT, WIDTH = 6, 9
PLAN = ShardPlan((("train", 3),))
NO_LABELS = LabelMap({})


def a_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(file, "PNG")
    return file.getvalue()


PICTURE = a_png()


class Storage(ImageFolder):
    """A bucket of as many equal pictures as are asked for; `reading` is called for each before it is given."""

    reading: Callable[[Take], None]

    def read(self, file_name: str, take: Take = lambda size: None) -> bytes:
        self.reading(take)
        return PICTURE


def storage(reading: Callable[[Take], None], root: str = "gs://bucket/images") -> Storage:
    made = Storage(root)
    object.__setattr__(made, "reading", reading)
    return made


def draft(folder: Storage, output: Path, count: int, observe: shards.Observe = lambda name, value: None) -> ShardState:
    images = [AnnotatedImage(number, f"{number}.png", HEIGHT, WIDTH, ()) for number in range(count)]
    claim = Claim(str(output))
    return shards.draft_shard(claim, ("train", 0), PLAN, images, folder, NO_LABELS, RecordOptions(), observe).state


@pytest.mark.parametrize(("root", "at_once"), [("gs://bucket/images", 32), ("s3://bucket/images", 32), ("/images", 4)])
def test_a_bucket_is_asked_for_many_images_at_once(tmp_path: Path, root: str, at_once: int) -> None:
    begun, enough = itertools.count(1), threading.Event()  # of the first ones none goes on before half as many have begun
    asked = threading.Semaphore(at_once)

    def reading(take: Take) -> None:
        assert asked.acquire(blocking=False), "more than that at once"
        if next(begun) == at_once // 2:
            enough.set()
        assert enough.wait(PATIENCE), "fewer than half of that at once"
        asked.release()

    assert draft(storage(reading, root), tmp_path, 2 * at_once).summary.records == 2 * at_once


def test_images_that_wait_hold_no_more_than_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "READ_AHEAD_BYTES", 5 * 1000)
    lock, held, most, encoded = threading.Lock(), 0, 0, 0

    def reading(take: Take) -> None:
        nonlocal held, most
        take(1000)
        with lock:
            held += 1
            most = max(most, held - encoded)

    def observe(name: str, value: float) -> None:
        nonlocal encoded
        encoded += name == shards.counters.ENCODE_MS

    assert draft(storage(reading), tmp_path, 200, observe).summary.records == 200
    # Five are read, and the one that is needed next; the others are being checked, or wait for those they are encoded with.
    assert 5 <= most <= 5 + 1 + 2 * shards.CHECK_THREADS + 1 + shards.IMAGES_TOGETHER


def loaded(number: int, size: int, runs: int) -> tuple[AnnotatedImage, shards.LoadedImage]:
    """An image of so many bytes, with a mask of so many characters."""
    instance = Instance(number, 1, None, None, False, RunLengths(HEIGHT, WIDTH, b"1" * runs))
    checked = CheckedImage(bytes(size), "png", HEIGHT, WIDTH, "", ())
    return AnnotatedImage(number, f"{number}.png", HEIGHT, WIDTH, (instance,)), shards.LoadedImage(checked, b"", 0.0)


def test_images_are_encoded_together_up_to_a_number_and_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes(images: list[tuple[AnnotatedImage, shards.LoadedImage]]) -> list[int]:
        found = list(shards.together(images))
        assert [one for some in found for one in some] == images
        return [len(some) for some in found]

    light = [loaded(number, 10, 1) for number in range(40)]
    assert sizes(light) == [16, 16, 8]
    assert sizes([]) == []
    monkeypatch.setattr(shards, "BYTES_TOGETHER", 1000)
    assert sizes([loaded(number, 400, 1) for number in range(7)]) == [3, 3, 1]
    assert sizes([loaded(number, 0, 50) for number in range(7)]) == [3, 3, 1]  # a run takes eight bytes
    assert sizes([loaded(0, 5000, 1), *light[:3]]) == [1, 3]
    missing = (light[0][0], shards.LoadedImage(problem(ReasonCode.IMAGE_MISSING, ""), b"", 0.0))
    assert sizes([missing] * 20) == [16, 4]


@pytest.mark.parametrize(("seconds", "in_threads"), [(0.0, 0), (1.0, 12)], ids=["quick", "slow"])
def test_a_busy_machine_reads_a_folder_in_threads_only_if_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, in_threads: int
) -> None:
    clock, here, elsewhere = itertools.count(), threading.get_ident(), 0
    monkeypatch.setattr(shards.time, "perf_counter", lambda: next(clock) * seconds)

    def reading(take: Take) -> None:
        nonlocal elsewhere
        elsewhere += threading.get_ident() != here

    images = [AnnotatedImage(number, f"{number}.png", HEIGHT, WIDTH, ()) for number in range(20)]
    read = list(shards.load_images(images, storage(reading, str(tmp_path)), RecordOptions(), busy=True))
    assert [image for image, _ in read] == images
    assert all(isinstance(one.checked, CheckedImage) for _, one in read)
    assert elsewhere == in_threads


def test_a_shard_is_written_while_those_before_it_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft_shard, publish_shard = shards.draft_shard, shards.publish_shard
    last_begun = threading.Event()

    def drafts(claim: Claim, key: tuple[str, int], *rest: Any) -> shards.Draft:
        if key == ("train", 2):
            last_begun.set()
        return draft_shard(claim, key, *rest)

    def publishes(claim: Claim, drafted: shards.Draft) -> ShardState:
        assert last_begun.wait(PATIENCE), "published before the next was begun"
        return publish_shard(claim, drafted)

    monkeypatch.setattr(shards, "draft_shard", drafts)
    monkeypatch.setattr(shards, "publish_shard", publishes)
    write = _WriteShard(str(tmp_path), storage(lambda take: None), RecordOptions(), None, False)
    write.setup()
    write.start_bundle()
    found = [one for index in range(3) for one in write.process((("train", index), []), PLAN, [])]
    found += list(write.finish_bundle())
    write.teardown()
    assert found, "what is published is told of when the bundle ends"
    assert sorted(path.name for path in tmp_path.glob("*.tfrecord")) == [PLAN.file_name("train", index) for index in range(3)]
