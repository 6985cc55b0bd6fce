"""Batches: elements on their way through a shuffle, packed together, compressed, and on one machine kept in a file.

A runner of many machines has a shuffle of its own, and is given the bytes. The local runner keeps what it groups in memory,
about four times (measured: 100 MB for the annotations of 15,000 images), so there the bytes wait in a file, and only their
place goes through the runner: memory stays flat.
"""

from __future__ import annotations

import os
import uuid
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import zstandard

_INLINE, _SPILLED = b"=", b"@"
_PLAIN, _COMPRESSED = b"=", b"z"
_LEVEL = 3
"""Of zstandard. Against 1 it saves 6 % of the bytes of run lengths, and takes 5 µs an image more; 6 saves 9 %, and takes 25."""

Element = TypeVar("Element")
Key = TypeVar("Key", bound=Hashable)
_place = msgspec.msgpack.Decoder(tuple[str, int, int])
_sections = msgspec.msgpack.Decoder(list[bytes])


def _squeezed(section: bytes) -> bytes:
    compressed = zstandard.compress(section, _LEVEL)
    return _COMPRESSED + compressed if len(compressed) < len(section) else _PLAIN + section


def _section(squeezed: bytes) -> bytes:
    return zstandard.decompress(squeezed[1:]) if squeezed.startswith(_COMPRESSED) else squeezed[1:]


class BatchWriter:
    """Makes batches; with a local folder, their bytes go to a file there. One for each worker thread."""

    def __init__(self, spill_folder: str | None) -> None:
        self.spill_folder = spill_folder
        self._file: int | None = None
        self._path = ""
        self._offset = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"spill_folder": self.spill_folder, "_file": None, "_path": "", "_offset": 0}

    def write(self, sections: Sequence[bytes]) -> bytes:
        """A batch of these sections, each compressed by itself, to be read with `read_batch`."""
        data = msgspec.msgpack.encode([_squeezed(section) for section in sections])
        if self.spill_folder is None:
            return _INLINE + data
        if self._file is None:
            self._offset = 0
            self._path = os.path.join(self.spill_folder, uuid.uuid4().hex)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        place = (self._path, self._offset, len(data))
        self._offset += len(data)
        return _SPILLED + msgspec.msgpack.encode(place)

    def close(self) -> None:
        """Lets go of the file; what was written stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Packer(Generic[Key, Element]):
    """Collects elements by key until they weigh enough together: the more there are, the smaller a batch of one key gets.

    `pack` makes the sections of a batch of them.
    """

    def __init__(self, writer: BatchWriter, pack: Callable[[Sequence[Element]], Sequence[bytes]]) -> None:
        self.writer, self.pack = writer, pack
        self.bytes = 0
        self._waiting: defaultdict[Key, list[Element]] = defaultdict(list)

    def add(self, key: Key, element: Element, size: int) -> None:
        """Takes one element, of some `size` in bytes."""
        self._waiting[key].append(element)
        self.bytes += size

    def batches(self) -> Iterator[tuple[Key, bytes]]:
        """A batch of each key that has elements waiting; then there are none."""
        waiting, self._waiting, self.bytes = self._waiting, defaultdict(list), 0
        for key, elements in waiting.items():
            yield key, self.writer.write(self.pack(elements))


def read_batch(batch: bytes) -> list[bytes]:
    """The sections of a batch."""
    data = batch[1:]
    if batch.startswith(_SPILLED):
        path, offset, length = _place.decode(data)
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(length)
    return [_section(squeezed) for squeezed in _sections.decode(data)]
