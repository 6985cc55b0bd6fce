"""Work in threads beside whoever needs it, so that waiting for storage costs nothing: bounded in count and in bytes."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Take = Callable[[int], None]
"""Told of bytes before they are read, if storage says how many they are; returns when there is room for them. (What reads from
Azure has 8 MB of them by then.)"""


def take_at_once(size: int) -> None:
    """The `Take` of who reads one thing only."""


def ahead(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in order, the function running in threads some items ahead.

    At first that is half as many as `threads`, and one more each time that one is not done when it is needed, up to twice as
    many: threads beyond what it takes cost time, a tenth of all with 32 for what 16 can do.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        most = max(1, threads // 2)
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > most:
                    first, future = waiting.popleft()
                    most = min(most + (not future.done()), 2 * threads)
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


class Room:
    """Bytes that reads may hold between them. The one that is needed next always has room, so that none waits forever."""

    def __init__(self, most_bytes: int) -> None:
        self._free = most_bytes
        self._held: Counter[int] = Counter()
        self._next = 0
        self._changed = threading.Condition()

    def take(self, position: int, size: int) -> None:
        """Waits until the read at this position may hold so many bytes more."""
        with self._changed:
            self._changed.wait_for(lambda: size <= self._free or position <= self._next)
            self._free -= size
            self._held[position] += size

    def leave(self, position: int) -> None:
        """The read at this position has been handed on; the one behind it is needed next."""
        with self._changed:
            self._free += self._held.pop(position, 0)
            self._next = position + 1
            self._changed.notify_all()

    def open_up(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._free = 1 << 62
            self._changed.notify_all()


def read_ahead(
    read: Callable[[Item, Take], Result], items: Iterable[Item], threads: int, most_bytes: int
) -> Generator[tuple[Item, Result], None, None]:
    """`ahead` for what reads: together, reads that are not needed yet hold at most `most_bytes` of what they `Take`.

    Who may stop before its end `close`s it: until then, reads wait for room, and no process ends while its threads wait.
    """
    room = Room(most_bytes)

    def one(numbered: tuple[int, Item]) -> Result:
        position, item = numbered
        try:
            return read(item, partial(room.take, position))
        except BaseException:
            room.open_up()  # the end: those that wait for their turn would never get it
            raise

    reading = ahead(one, enumerate(items), threads)  # in a variable: ended by the loop, it would wait for those that wait
    try:
        for (position, item), result in reading:
            room.leave(position)
            yield item, result
    finally:
        room.open_up()


class Writable(Protocol):
    """A file, of which nothing is wanted but to write to it."""

    def write(self, data: bytes, /) -> int: ...


class _Behind:
    def __init__(self, file: Writable, pool: ThreadPoolExecutor, piece_bytes: int) -> None:
        self.file, self.pool, self.piece_bytes = file, pool, piece_bytes
        self.pieces: list[bytes] = []
        self.bytes = 0
        self.writing: Future[int] | None = None

    def write(self, data: bytes) -> int:
        self.pieces.append(data)
        self.bytes += len(data)
        if self.bytes >= self.piece_bytes:
            self.flush()
        return len(data)

    def flush(self) -> None:
        self.wait()
        if self.pieces:
            self.writing = self.pool.submit(self.file.write, b"".join(self.pieces))
            self.pieces, self.bytes = [], 0

    def wait(self) -> None:
        if self.writing:
            self.writing.result()
            self.writing = None


@contextmanager
def write_behind(file: Writable, piece_bytes: int) -> Iterator[Writable]:
    """A file that writes to `file` in a thread: while one piece is on its way, the next is collected.

    What writing raises is raised by a later write, or at the end of the block.
    """
    with ThreadPoolExecutor(1) as pool:
        behind = _Behind(file, pool, piece_bytes)
        yield behind
        behind.flush()
        behind.wait()
