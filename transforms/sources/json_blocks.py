"""A large JSON object cut into blocks of whole elements, without parsing or holding it.

The lists at the top level (COCO's `images`, `annotations`, `categories`) are found by their brackets; each is cut into
blocks that can be parsed on their own, by other workers. Only quotes and brackets are looked at, with numpy, a chunk at
a time; that takes 2–3 ns a byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.records import InputError

CHUNK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 256 << 20  # one element larger than this is no annotation
MAX_DEPTH = 64
_KEY_BYTES = 256  # how far before a list its key may begin

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_DELTA = np.zeros(256, np.int8)
_DELTA[[ord("{"), ord("[")]] = 1
_DELTA[[ord("}"), ord("]")]] = -1
_STRUCTURAL = _DELTA != 0
_STRUCTURAL[_QUOTE] = True
_KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"\s*:\s*$', re.DOTALL)


class Block(NamedTuple):
    """Bytes `offset` to `offset + length` of a file: whole elements of the list `key`, with the commas around them."""

    key: str
    offset: int
    length: int


def _unescaped(data: npt.NDArray[np.uint8], positions: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The positions without those that an odd number of backslashes stands before."""
    backslashes = np.flatnonzero(data == _BACKSLASH)
    if not backslashes.size:
        return positions
    breaks = np.flatnonzero(np.diff(backslashes) != 1)
    lasts = backslashes[np.append(breaks, backslashes.size - 1)]
    firsts = backslashes[np.insert(breaks + 1, 0, 0)]
    escaped = lasts[(lasts - firsts) % 2 == 0] + 1
    return positions[~np.isin(positions, escaped, assume_unique=True)]


def cut_blocks(read: Callable[[int], bytes], keys: frozenset[str], name: str) -> Iterator[Block]:
    """Cuts a JSON object, given by `read(n)` that gives its next n bytes at most, into blocks of the lists `keys`.

    Blocks are about `CHUNK_BYTES` long and may hold nothing but white space. Raises `InputError` (its message begins with
    JSON_INVALID) where the file is no JSON object, ends early, nests deeper than `MAX_DEPTH`, or lacks one of the lists.
    """

    def invalid(what: str) -> InputError:
        return InputError(f"JSON_INVALID: {name}: {what}")

    found: set[str] = set()
    offset = 0  # of the chunk at hand
    depth = 0
    in_string = 0
    began = finished = False
    open_key: str | None = None  # the list that we are in
    block_start = 0
    before = b""
    while chunk := read(CHUNK_BYTES):
        while chunk.endswith(b"\\") and (more := read(1)):
            chunk += more  # so that no escape straddles two chunks
        if finished and chunk.strip():
            raise invalid("there is more after the end of the object")
        if not began:
            start = chunk.removeprefix(b"\xef\xbb\xbf").lstrip()
            if start and not start.startswith(b"{"):
                compressed = " (it looks compressed: unpack it first)" if chunk.startswith((b"\x1f\x8b", b"PK", b"BZh")) else ""
                raise invalid(f"expected a JSON object, found {start[:12]!r} at its beginning{compressed}")
            began = bool(start)
        data = np.frombuffer(chunk, np.uint8)
        at = _unescaped(data, np.flatnonzero(_STRUCTURAL[data]))
        characters = data[at]
        quotes = characters == _QUOTE
        inside = (np.cumsum(quotes) + in_string) % 2
        bracket = ~quotes & (inside == 0)
        if at.size:
            in_string = int(inside[-1])
        at = at[bracket]
        deltas = _DELTA[characters[bracket]]
        depths = depth + np.cumsum(deltas, dtype=np.int64)
        if at.size:
            if depths.max() > MAX_DEPTH:
                raise invalid(f"nested deeper than {MAX_DEPTH} levels at byte {offset + int(at[depths > MAX_DEPTH][0])}")
            closed = at[depths == 0]
            if closed.size:
                finished = True
                if chunk[int(closed[0]) + 1 :].strip():
                    raise invalid("there is more after the end of the object")
            depth = int(depths[-1])
        # Lists open where the depth rises to 2, and close where it falls to 1.
        for index in np.flatnonzero(((depths == 2) & (deltas == 1)) | ((depths == 1) & (deltas == -1))):
            position = int(at[index])
            if deltas[index] == -1:
                if open_key is not None:
                    yield Block(open_key, block_start, offset + position - block_start)
                    open_key = None
                continue
            key = _KEY.search((before + chunk[max(0, position - _KEY_BYTES) : position])[-_KEY_BYTES:])
            text = key[1].decode("utf-8", "replace") if key else ""
            if text in keys:
                if chunk[position : position + 1] != b"[":
                    raise invalid(f"expected a list as {text!r}, found an object")
                found.add(text)
                open_key = text
                block_start = offset + position + 1
        if open_key is not None:
            ends = at[(depths == 2) & (deltas == -1) & (at + offset >= block_start)]
            if ends.size:
                cut = offset + int(ends[-1]) + 1
                yield Block(open_key, block_start, cut - block_start)
                block_start = cut
            elif offset + len(chunk) - block_start > MAX_BLOCK_BYTES:
                raise invalid(f"one element of {open_key!r} is longer than {MAX_BLOCK_BYTES} bytes")
        offset += len(chunk)
        before = (before + chunk)[-_KEY_BYTES:]
    if not began:
        raise invalid("the file is empty")
    if not finished:
        raise invalid(f"the file ends at byte {offset} in the middle of the data; it may have been cut off")
    missing = sorted(keys - found)
    if missing:
        raise invalid(
            f"expected the lists {', '.join(map(repr, sorted(keys)))}, but {', '.join(map(repr, missing))} is not there"
        )
