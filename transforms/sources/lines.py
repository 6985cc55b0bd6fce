"""Files of one JSON object a line, cut into blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator

from transforms import storage
from transforms.records import InputError

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20


def cut_lines(path: str) -> Iterator[bytes]:
    """Blocks of some megabyte of whole lines, without a byte order mark. Raises `InputError` for a line without an end."""
    with storage.open_read(path) as file:
        rest = file.read(BLOCK_BYTES).removeprefix(b"\xef\xbb\xbf")
        while chunk := file.read(BLOCK_BYTES):
            rest += chunk
            end = rest.rfind(b"\n") + 1
            if end:
                yield rest[:end]
                rest = rest[end:]
            elif len(rest) > MAX_LINE_BYTES:
                raise InputError(f"JSON_INVALID: {path}: a line is longer than {MAX_LINE_BYTES} bytes")
        if rest.strip():
            yield rest


def lines_of(block: bytes) -> list[bytes]:
    """The lines of a block, but for empty ones."""
    return [line for line in block.split(b"\n") if line.strip()]
