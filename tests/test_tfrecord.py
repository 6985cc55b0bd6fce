"""TFRecord files: byte for byte those of TensorFlow, and damage is found where it is."""

from __future__ import annotations

import io
import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.tfrecord import RecordWriter, masked_crc, read_records

RECORDS = [b"first", b"", b"\x00\xff" * 500, "prüfen".encode()]
FRAME = 16  # bytes around a record


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def write(records):
    file = io.BytesIO()
    writer = RecordWriter(file)
    for record in records:
        writer.write(record)
    return file.getvalue(), writer


def read(data):
    return list(read_records(io.BytesIO(data)))


def starts_of(records):
    return np.cumsum([0] + [FRAME + len(record) for record in records]).tolist()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8))
def test_records_come_back_and_the_writer_knows_bytes_and_checksum_of_the_file(records):
    data, writer = write(records)
    assert read(data) == records
    assert writer.bytes == len(data) == sum(map(len, records)) + FRAME * len(records)
    assert writer.crc32c == google_crc32c.value(data)


def test_one_record_is_framed_as_written_down():
    data, _ = write([b"abc"])
    length = struct.pack("<Q", 3)
    assert data == length + struct.pack("<I", masked_crc(length)) + b"abc" + struct.pack("<I", masked_crc(b"abc"))


@pytest.mark.parametrize(("data", "crc"), [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA)])
def test_checksums_are_crc32c_rotated_and_masked(data, crc):
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    assert masked_crc(data) == (rotated + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("records", [[], [b""], RECORDS], ids=["no record", "an empty record", "several"])
def test_tensorflow_writes_the_same_bytes_and_reads_ours(tf, tmp_path, records):
    ours, theirs = tmp_path / "ours.tfrecord", tmp_path / "theirs.tfrecord"
    data, _ = write(records)
    ours.write_bytes(data)
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for record in records:
            writer.write(record)
    assert theirs.read_bytes() == data
    assert [record.numpy() for record in tf.data.TFRecordDataset([str(ours)])] == records
    with theirs.open("rb") as file:
        assert list(read_records(file)) == records


def test_a_file_cut_off_anywhere_names_the_byte_of_the_record():
    data, _ = write(RECORDS)
    starts = starts_of(RECORDS)
    for size in range(len(data)):
        if size in starts:
            assert read(data[:size]) == RECORDS[: starts.index(size)]
        else:
            start = max(start for start in starts if start < size)
            with pytest.raises(ValueError, match=rf"cut off.* at byte {start}$"):
                read(data[:size])


def test_a_flipped_bit_anywhere_names_the_byte_of_the_record():
    data, _ = write([b"first", b"second"])
    for place in range(len(data)):
        for bit in (1, 128):
            damaged = bytearray(data)
            damaged[place] ^= bit
            start = 0 if place < FRAME + 5 else FRAME + 5
            with pytest.raises(ValueError, match=rf"wrong checksum of (a length|the record) at byte {start}$"):
                read(bytes(damaged))


def test_the_records_before_the_damage_are_read():
    data, _ = write(RECORDS)
    records = read_records(io.BytesIO(data[:-1]))
    assert [next(records), next(records), next(records)] == RECORDS[:3]
    with pytest.raises(ValueError, match=f"cut off within the record at byte {starts_of(RECORDS)[3]}"):
        next(records)


@pytest.mark.parametrize("length", [100, 2**40, 2**63, 2**64 - 1])
def test_a_length_beyond_the_end_of_the_file_is_a_cut_off_record(tmp_path, length):
    header = struct.pack("<Q", length)
    path = tmp_path / "damaged.tfrecord"
    path.write_bytes(write([b"first"])[0] + header + struct.pack("<I", masked_crc(header)) + b"short")
    with path.open("rb") as file, pytest.raises(ValueError, match="cut off within the record at byte 21"):
        list(read_records(file))


def test_what_is_no_tfrecord_file_is_refused():
    with pytest.raises(ValueError, match="wrong checksum of a length at byte 0"):
        read(b"<html><body>404 Not Found</body></html>")
