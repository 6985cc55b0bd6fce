"""TFRecord framing: length and data, each followed by a masked CRC-32C, little-endian.

Source: TensorFlow's `lib/io/record_writer.h`. Beam's own sink is not used: it names shards by bundle, and so differently from
run to run, and it leaves temporary files behind when it is killed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

import google_crc32c

from transforms.ahead import Writable

_HEADER = struct.Struct("<QI")
HEADER_BYTES, FOOTER_BYTES = _HEADER.size, 4
"""Before and behind each record."""
FRAMING = HEADER_BYTES + FOOTER_BYTES
_LONGEST = 1 << 32  # twice what a protobuf message can have; a file is not asked for more


def masked_crc(data: bytes) -> int:
    """CRC-32C rotated by 15 bits plus a constant, so that a CRC over CRCs is harmless."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class RecordWriter:
    """Writes records to a binary file; `bytes` and `crc32c` (unmasked) are those of all that was written."""

    def __init__(self, file: Writable) -> None:
        self.file = file
        self.bytes = 0
        self.crc32c = 0

    def write(self, record: bytes) -> None:
        """Appends one record."""
        length = struct.pack("<Q", len(record))
        for part in (_HEADER.pack(len(record), masked_crc(length)), record, struct.pack("<I", masked_crc(record))):
            self.file.write(part)
            self.crc32c = google_crc32c.extend(self.crc32c, part)
            self.bytes += len(part)


def read_records(file: IO[bytes]) -> Iterator[bytes]:
    """The records of a file. Raises `ValueError`, with the byte, where it is cut off or a checksum is wrong."""
    return (record for _, record in read_with_offsets(file))


def read_with_offsets(file: IO[bytes], offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The records of a file, and at which byte each begins; raises as `read_records`. `offset` is where it begins itself."""
    while header := file.read(HEADER_BYTES):
        length = record_length(header, offset)
        record, footer = file.read(length), file.read(FOOTER_BYTES)
        if len(record) < length or len(footer) < FOOTER_BYTES:
            raise ValueError(f"cut off within the record at byte {offset}")
        if struct.unpack("<I", footer)[0] != masked_crc(record):
            raise ValueError(f"wrong checksum of the record at byte {offset}")
        yield offset, record
        offset += length + FRAMING


def record_length(header: bytes, offset: int) -> int:
    """How long the record is that begins, at a byte, with these `HEADER_BYTES`; raises as `read_records`."""
    if len(header) < HEADER_BYTES:
        raise ValueError(f"cut off at byte {offset}")
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        raise ValueError(f"wrong checksum of a length at byte {offset}")
    if length > _LONGEST:
        raise ValueError(f"cut off within the record at byte {offset}, which says that it has {length} bytes")
    return int(length)
