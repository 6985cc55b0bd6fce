"""A large JSON object cut into blocks of whole elements, without parsing or holding it.

The lists at the top level (COCO's `images`, `annotations`, `categories`) are found by their brackets; each is cut into
blocks that can be parsed on their own, by other workers. Only quotes and brackets are looked at, with numpy, a chunk at
a time; that takes 2–3 ns a byte.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from typing import NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

from transforms.records import InputError

CHUNK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 16 << 20  # one element larger than this is no annotation
MAX_DEPTH = 64
_MAX_KEY_BYTES = 96  # longer than our keys are with every letter written as an escape

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_DELTA = np.zeros(256, np.int8)
_DELTA[[ord("{"), ord("[")]] = 1
_DELTA[[ord("}"), ord("]")]] = -1
_OPENING, _CLOSING, _LOWER = ord("{"), ord("}"), 0x20  # the bit that `{` has, and `[` has not, and else is the same; as } and ]
_COMPARED_AT_ONCE = 1 << 16

Positions = npt.NDArray[np.intp]


class Block(NamedTuple):
    """Bytes `offset` to `offset + length` of a file: whole elements of the list `key`, with the commas around them."""

    key: str
    offset: int
    length: int
    crc32c: int


class _Marks(NamedTuple):
    """Quotes and brackets: where; by how much each changes the depth; the depth after it; whether it ends a string."""

    at: Positions
    deltas: npt.NDArray[np.int8]
    depths: npt.NDArray[np.int32]
    ends_string: npt.NDArray[np.bool_]


def _structural(data: npt.NDArray[np.uint8]) -> Positions:
    """Where quotes and brackets are: compared, seven times as fast as looked up in a table; parts of it stay in the cache."""
    found = []
    for start in range(0, data.size, _COMPARED_AT_ONCE):
        part = data[start : start + _COMPARED_AT_ONCE]
        lower = part | _LOWER
        found.append(np.flatnonzero((lower == _OPENING) | (lower == _CLOSING) | (part == _QUOTE)) + start)
    return np.concatenate(found)


class _Structure:
    """What is inside of strings and how deep, from chunk to chunk."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = 0
        self.escaped = False  # the next chunk's first byte

    def scan(self, chunk: bytes) -> _Marks:
        """The quotes, and the brackets outside strings, of the next chunk."""
        data = np.frombuffer(chunk, np.uint8)
        at = _structural(data)
        if self.escaped or b"\\" in chunk:
            at = self._unescaped(data, at)
        characters = data[at]
        quotes = characters == _QUOTE
        inside = (np.cumsum(quotes, dtype=np.int32) + self.in_string) & 1
        if at.size:
            self.in_string = int(inside[-1])
        real = quotes | (inside == 0)
        at, deltas = at[real], _DELTA[characters[real]]
        depths = self.depth + np.cumsum(deltas, dtype=np.int32)
        if at.size:
            self.depth = int(depths[-1])
        return _Marks(at, deltas, depths, (quotes & (inside == 0))[real])

    def _unescaped(self, data: npt.NDArray[np.uint8], positions: Positions) -> Positions:
        """The positions without those that an odd number of backslashes stands before."""
        backslashes = np.flatnonzero(data == _BACKSLASH)
        was_escaped, self.escaped = self.escaped, False
        if was_escaped and data[0] != _BACKSLASH:
            positions = positions[positions != 0]
        if not backslashes.size:
            return positions
        breaks = np.flatnonzero(np.diff(backslashes) != 1)
        lasts = backslashes[np.append(breaks, backslashes.size - 1)]
        lengths = lasts - backslashes[np.insert(breaks + 1, 0, 0)] + 1
        if was_escaped and backslashes[0] == 0:
            lengths[0] -= 1
        escaped = lasts[lengths % 2 == 1] + 1
        self.escaped = bool(escaped.size and escaped[-1] == data.size)
        return positions[~np.isin(positions, escaped, assume_unique=True)]


def _text_of(key: bytes) -> str:
    """A key as JSON means it: any of its letters may be written as an escape."""
    if b"\\" not in key:
        return key.decode("utf-8", "replace")
    try:
        return str(json.loads(b'"%b"' % key))
    except ValueError:
        return ""


def cut_blocks(read: Callable[[int], bytes], keys: frozenset[str], name: str, largest: int | None = None) -> Iterator[Block]:
    """Cuts a JSON object, given by `read(n)` that gives its next n bytes at most, into blocks of the lists `keys`.

    Blocks are about `CHUNK_BYTES` long and may hold nothing but white space. Raises `InputError` (its message begins with
    JSON_INVALID) where the file is no JSON object, ends early, nests deeper than `MAX_DEPTH`, lacks one of the lists, or has
    an element of over `largest` bytes, `MAX_BLOCK_BYTES` if that is not given.
    """
    largest = largest or MAX_BLOCK_BYTES

    def invalid(what: str) -> InputError:
        return InputError(f"JSON_INVALID: {name}: {what}")

    found: set[str] = set()
    structure = _Structure()
    offset = 0  # of the chunk at hand
    began = finished = False
    beginning = b""
    key = b""  # the last string directly in the object; b"" for one too long to be a list's name
    key_begun = b""  # its beginning, where it straddles two chunks
    open_list: str | None = None
    block_start = 0
    block_crc32c = 0  # of the block, as far as it lies before the chunk at hand

    def block_to(end: int) -> Block:
        length = offset + end - block_start
        inside = chunk[max(block_start - offset, 0) : end]
        return Block(open_list or "", block_start, length, google_crc32c.extend(block_crc32c, inside))

    while chunk := read(CHUNK_BYTES):
        if finished and chunk.strip():
            raise invalid("there is more after the end of the object")
        if not began:
            beginning = beginning + chunk if len(beginning) < len(BOM_UTF8) else chunk  # the mark, too, may straddle two chunks
            start = beginning.removeprefix(BOM_UTF8).lstrip()
            if not BOM_UTF8.startswith(start) and not start.startswith(b"{"):
                compressed = " (it looks compressed: unpack it first)" if start.startswith((b"\x1f\x8b", b"PK", b"BZh")) else ""
                raise invalid(f"expected a JSON object, found {start[:12]!r} at its beginning{compressed}")
            began = start.startswith(b"{")
        at, deltas, depths, ends_string = structure.scan(chunk)
        if at.size and depths.max() > MAX_DEPTH:
            raise invalid(f"nested deeper than {MAX_DEPTH} levels at byte {offset + int(at[depths > MAX_DEPTH][0])}")
        closed = at[(depths == 0) & (deltas == -1)]
        if closed.size:
            finished = True
            if chunk[int(closed[0]) + 1 :].strip():
                raise invalid("there is more after the end of the object")
        # Of interest: the ends of strings directly in the object, and where a list or object in it opens or closes.
        for index in np.flatnonzero(((depths == 2) & (deltas == 1)) | ((depths == 1) & ((deltas == -1) | ends_string))):
            position = int(at[index])
            if ends_string[index]:
                key = chunk[at[index - 1] + 1 : position] if index else key_begun + chunk[:position]
                key = key if len(key) <= _MAX_KEY_BYTES else b""
            elif deltas[index] == 1 and (text := _text_of(key)) in keys:
                if chunk[position] != ord("["):
                    raise invalid(f"expected a list as {text!r}, found an object")
                found.add(text)
                open_list = text
                block_start, block_crc32c = offset + position + 1, 0
            elif deltas[index] == -1 and open_list is not None:
                yield block_to(position)
                open_list = None
        if structure.in_string and structure.depth == 1:
            key_begun = (chunk[at[-1] + 1 :] if at.size else key_begun + chunk)[: _MAX_KEY_BYTES + 1]
        if open_list is not None:
            ends = at[(depths == 2) & (deltas == -1) & (at + offset >= block_start)]
            if ends.size:
                end = int(ends[-1]) + 1
                yield block_to(end)
                block_start, block_crc32c = offset + end, 0
            elif offset + len(chunk) - block_start > largest:
                raise invalid(f"one element of {open_list!r} is longer than {largest} bytes")
            block_crc32c = google_crc32c.extend(block_crc32c, chunk[max(block_start - offset, 0) :])
        offset += len(chunk)
    if not began:
        raise invalid("the file is empty")
    if not finished:
        raise invalid(f"the file ends at byte {offset} in the middle of the data; it may have been cut off")
    missing = ", ".join(map(repr, sorted(keys - found)))
    if missing:
        raise invalid(f"expected the lists {', '.join(map(repr, sorted(keys)))}, found none for {missing}")
