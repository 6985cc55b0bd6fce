"""Work in threads: order, bounds, and what becomes of errors. Nothing here waits for a time; events say when to go on."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from transforms import shards
from transforms.ahead import Take, ahead, read_ahead, write_behind
from transforms.claims import Claim
from transforms.examples import LabelMap
from transforms.images import ImageFolder
from transforms.records import AnnotatedImage
from transforms.sharding import ShardPlan

PATIENCE = 20.0
"""Seconds until a test that hangs fails."""


def test_results_come_in_order_with_their_items() -> None:
    found = list(ahead(lambda number: number * number, range(100), 4))
    assert found == [(number, number * number) for number in range(100)]
    assert list(read_ahead(lambda number, take: take(10) or -number, range(100), 4, 25)) == [(n, -n) for n in range(100)]
    assert list(read_ahead(lambda number, take: number, [], 4, 25)) == []


class Reads:
    """Reads that note how many bytes are held, and by how many; and wait at a gate once they hold theirs."""

    def __init__(self, sizes: list[int], waits: bool = False) -> None:
        self.sizes = sizes
        self.lock = threading.Lock()
        self.held = self.most = self.count = 0
        self.begun: list[int] = []
        self.gate = threading.Event()
        if not waits:
            self.gate.set()

    def __call__(self, position: int, take: Take) -> int:
        with self.lock:
            self.begun.append(position)
        take(self.sizes[position])
        with self.lock:
            self.held += self.sizes[position]
            self.count += 1
            self.most = max(self.most, self.held)
        assert self.gate.wait(PATIENCE)
        return position

    def given(self, position: int) -> None:
        with self.lock:
            self.held -= self.sizes[position]


@pytest.mark.parametrize("sizes", [[10] * 200, [1, 99, 30, 70] * 50, [100] * 60])
def test_what_is_read_ahead_holds_no_more_than_it_may(sizes: list[int]) -> None:
    reads = Reads(sizes)
    for position, _ in read_ahead(reads, range(len(sizes)), 8, 100):
        reads.given(position)
    # What is needed next always has room, so it comes on top.
    assert reads.most <= 100 + max(sizes)
    assert sorted(reads.begun) == list(range(len(sizes)))


def test_one_that_is_larger_than_all_the_room_is_read_in_its_turn() -> None:
    sizes = [10, 1000, 10, 2000, 3000, 10]
    reads = Reads(sizes)
    order = []
    for position, _ in read_ahead(reads, range(len(sizes)), 4, 100):
        reads.given(position)
        order.append(position)
    assert order == list(range(len(sizes)))
    assert reads.most <= 100 + 3000


def test_no_more_are_begun_than_twice_the_threads_and_one() -> None:
    reads = Reads([0] * 100)
    for position, _ in read_ahead(reads, range(100), 3, 100):
        assert len(reads.begun) <= position + 2 * 3 + 1


def test_half_as_many_are_begun_as_there_are_threads_while_none_has_to_be_waited_for() -> None:
    reads = Reads([0] * 100)
    for position, _ in read_ahead(reads, range(100), 16, 100):
        assert len(reads.begun) <= position + 16 // 2 + 1
        while reads.count < min(100, position + 16 // 2 + 1):
            pass  # so that the next is done when it is asked for


def test_as_many_wait_at_the_same_time_as_there_are_threads_once_they_have_been_waited_for() -> None:
    slow, begun, enough = 48, itertools.count(1), threading.Event()  # none goes on before 16 reads are under way at once

    def read(number: int, take: Take) -> None:
        if number < slow:
            time.sleep(0.05)  # none is done when it is needed, on a busy machine either
        else:
            if next(begun) == 16:
                enough.set()
            assert enough.wait(PATIENCE)

    found = read_ahead(read, range(slow + 32), 16, 100)
    assert [number for number, _ in found] == list(range(slow + 32))


def within_time(work: Callable[[], Any]) -> Any:
    """What the work raises; fails if it hangs."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


def test_a_read_that_fails_ends_all_even_those_that_wait_for_room() -> None:
    def read(number: int, take: Take) -> None:
        take(60)  # so that only one has room beside the first
        if number == 0:
            raise OSError("the disk is gone")

    error = within_time(lambda: list(read_ahead(read, range(50), 8, 100)))
    assert isinstance(error, OSError)


def test_who_stops_listening_leaves_nobody_waiting() -> None:
    def work() -> None:
        reading = read_ahead(lambda number, take: take(60), range(50), 8, 100)
        next(reading)
        reading.close()

    before = threading.active_count()
    assert within_time(work) is None
    assert threading.active_count() == before


def test_a_shard_that_can_not_be_written_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(shards, "READ_AHEAD_BYTES", 1)
    monkeypatch.setattr(shards, "build_record", full)
    Image.new("RGB", (7, 5)).save(tmp_path / "a.png")
    images = [AnnotatedImage(number, "a.png", 5, 7, ()) for number in range(50)]
    inputs = images, ImageFolder(str(tmp_path), 1000), LabelMap.of([], False), shards.RecordOptions()
    before = threading.active_count()
    error = within_time(lambda: shards.draft_shard(Claim(str(tmp_path)), ("train", 0), ShardPlan((("train", 1),)), *inputs))
    waiting = threading.active_count() - before  # while the error, by its stack trace, keeps alive what was on the stack
    assert isinstance(error, OSError)
    del error
    assert waiting == 0


class Slow:
    """A file that lets each piece in only when it is told to."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.allowed = threading.Semaphore(0)

    def write(self, data: bytes) -> int:
        assert self.allowed.acquire(timeout=PATIENCE)
        self.pieces.append(data)
        return len(data)


def test_a_piece_is_collected_while_another_is_on_its_way() -> None:
    slow = Slow()
    with write_behind(slow, 10) as file:
        file.write(b"12345")
        file.write(b"67890")  # on its way now, and not through
        file.write(b"abcde")
        assert slow.pieces == []
        slow.allowed.release(3)
        file.write(b"fghij")
        file.write(b"end")
    assert slow.pieces == [b"1234567890", b"abcdefghij", b"end"]


def test_nothing_written_writes_nothing() -> None:
    slow = Slow()
    with write_behind(slow, 10):
        pass
    assert slow.pieces == []


@pytest.mark.parametrize("writes", [1, 2, 5])
def test_what_writing_raises_comes_out_of_the_block(writes: int) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError("no space left")

    def work() -> None:
        with write_behind(Full(), 4) as file:
            for _ in range(writes):
                file.write(b"12345")

    with pytest.raises(OSError, match="no space left"):
        work()
