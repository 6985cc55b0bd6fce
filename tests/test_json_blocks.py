"""`cut_blocks`: every block boundary, every fault of a file, and a bound on the memory."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain, pairwise, repeat
from unittest import mock

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.records import InputError
from transforms.sources import json_blocks
from transforms.sources.coco import split_block
from transforms.sources.json_blocks import Block, cut_blocks

LISTS = frozenset({"images", "annotations", "categories"})
SMALL = b"""{"images": [{"id": 1, "file_name": "a\\"]}.jpg"}], "info": {"x": []},
 "annotations": [{"id": 2}, {"id": 3}], "categories": []}"""


def chunks_of(count: int) -> AbstractContextManager[object]:
    return mock.patch.object(json_blocks, "CHUNK_BYTES", count)


def cut(text: bytes, keys: frozenset[str] = LISTS) -> list[Block]:
    return list(cut_blocks(io.BytesIO(text).read, keys, "file.json"))


@pytest.mark.parametrize("chunk_bytes", [1, 2, 7, 50, 1000])
def test_each_block_has_the_checksum_of_its_bytes(chunk_bytes: int) -> None:
    with chunks_of(chunk_bytes):
        blocks = cut(SMALL)
    assert len(blocks) >= 3
    for block in blocks:
        assert block.crc32c == google_crc32c.value(SMALL[block.offset : block.offset + block.length])


def parsed_lists(text: bytes) -> dict[str, list[object]]:
    lists: dict[str, list[object]] = {}
    for block in cut(text):
        elements = split_block(text[block.offset : block.offset + block.length])
        lists.setdefault(block.key, []).extend(map(json.loads, elements))
    return lists


def reader(pieces: Iterator[bytes]) -> Callable[[int], bytes]:
    waiting = bytearray()

    def read(count: int) -> bytes:
        while len(waiting) < count and (piece := next(pieces, b"")):
            waiting.extend(piece)
        chunk = bytes(waiting[:count])
        del waiting[:count]
        return chunk

    return read


def error_of(text: bytes) -> str:
    with pytest.raises(InputError) as caught:
        cut(text)
    return str(caught.value)


def write_json(value: object, randomness: random.Random) -> str:
    """JSON with random white space, and each string escaped in one of several ways."""

    def space() -> str:
        return "".join(randomness.choices(" \t\r\n", k=randomness.choice((0, 0, 0, 1, 3))))

    def string(text: str) -> str:
        written = json.dumps(text, ensure_ascii=randomness.random() < 0.5)
        return written.replace("/", "\\/").replace("[", "\\u005b") if randomness.random() < 0.2 else written

    def joined(parts: Iterable[str]) -> str:
        return ",".join(space() + part + space() for part in parts) or space()

    def written(value: object) -> str:
        if isinstance(value, dict):
            return "{" + joined(f"{string(key)}{space()}:{space()}{written(entry)}" for key, entry in value.items()) + "}"
        if isinstance(value, list):
            return "[" + joined(map(written, value)) + "]"
        return string(value) if isinstance(value, str) else json.dumps(value)

    return space() + written(value) + space()


texts = st.text(st.sampled_from('"\\[]{},:/ \n\taé漢😀') | st.characters(exclude_categories=["Cs"]), max_size=8)
keys = st.sampled_from(["id", "images", "annotations", "categories", "bbox"]) | texts
scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8)
elements = st.dictionaries(keys, values, max_size=4) | values


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    entries: list[tuple[str, object]] = [(key, draw(st.lists(elements, max_size=5))) for key in sorted(LISTS)]
    entries += draw(st.dictionaries(keys.filter(lambda key: key not in LISTS), values, max_size=3)).items()
    if draw(st.booleans()):
        entries.append(("info", {"images": [draw(values)], "categories": {"annotations": []}}))
    return dict(draw(st.permutations(entries)))


@settings(max_examples=400, deadline=None)
@given(document=documents(), randomness=st.randoms(use_true_random=False), chunk=st.integers(1, 40))
def test_blocks_hold_exactly_the_elements_of_the_lists(
    document: dict[str, object], randomness: random.Random, chunk: int
) -> None:
    text = write_json(document, randomness).encode()
    expected = json.loads(text)
    with chunks_of(chunk):
        found = parsed_lists(text)
    assert found == {key: expected[key] for key in LISTS}


@pytest.mark.parametrize("chunk", range(1, len(SMALL) + 2))
def test_every_boundary_of_a_small_file(chunk: int) -> None:
    with chunks_of(chunk):
        assert parsed_lists(SMALL) == {key: json.loads(SMALL)[key] for key in LISTS}


@pytest.mark.parametrize("backslashes", range(12))
def test_every_boundary_within_a_run_of_backslashes(backslashes: int) -> None:
    name = "\\" * backslashes + '"]}'
    text = json.dumps({"images": [{"file_name": name}, {"file_name": name[:-3]}], "annotations": [], "categories": []}).encode()
    for chunk in range(1, 50):
        with chunks_of(chunk):
            assert [image["file_name"] for image in parsed_lists(text)["images"]] == [name, name[:-3]]


def test_a_long_list_is_cut_into_blocks_of_a_chunk_and_an_element() -> None:
    entries = [{"id": number, "segmentation": [[0.5, 1.5] * (number % 7)]} for number in range(2000)]
    text = json.dumps({"images": [], "annotations": entries, "categories": []}).encode()
    longest = max(len(json.dumps(entry)) for entry in entries)
    with chunks_of(1000):
        blocks = [block for block in cut(text) if block.key == "annotations"]
    assert len(blocks) > len(text) / 1000 * 0.9
    assert max(block.length for block in blocks) <= 1000 + longest + 2
    assert all(one.offset + one.length == following.offset for one, following in pairwise(blocks))


def test_blocks_of_a_small_file_are_where_they_should_be() -> None:
    text = b'{"images":[{"id":1}],"annotations":[ ],"categories":[{"id":2},{"id":3}]}'
    held = [(block.key, text[block.offset : block.offset + block.length]) for block in cut(text)]
    assert held == [("images", b'{"id":1}'), ("annotations", b" "), ("categories", b'{"id":2},{"id":3}')]


def test_lists_of_our_names_deeper_down_are_not_taken() -> None:
    text = b'{"info":{"images":[1]},"x":[{"images":[2]}],"images":[3],"annotations":[{"categories":[4]}],"categories":[5]}'
    for chunk in (1, 2, 3, 5, 8, 1000):
        with chunks_of(chunk):
            assert parsed_lists(text) == {"images": [3], "annotations": [{"categories": [4]}], "categories": [5]}


def test_our_names_as_values_are_not_keys() -> None:
    text = b'{"note":"images","notes":["images",[1]],"images":[2],"annotations":[],"categories":[]}'
    assert parsed_lists(text)["images"] == [2]


def test_only_the_lists_asked_for_are_cut() -> None:
    assert {block.key for block in cut(SMALL, frozenset({"images"}))} == {"images"}


@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 20])
def test_a_byte_order_mark_is_skipped(chunk: int) -> None:
    with chunks_of(chunk):
        assert parsed_lists(b"\xef\xbb\xbf" + SMALL) == parsed_lists(SMALL)
        assert error_of(b"\xef\xbb\xbf") == "JSON_INVALID: file.json: the file is empty"
        assert "expected a JSON object, found b'\\xef\\xbb" in error_of(b"\xef\xbb" + SMALL)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_file_cut_off_anywhere_is_refused(chunk: int) -> None:
    with chunks_of(chunk):
        for length in range(len(SMALL)):
            assert error_of(SMALL[:length]).startswith("JSON_INVALID: file.json: "), length


def test_a_cut_off_file_is_told_from_other_faults() -> None:
    assert "ends at byte 40 in the middle of the data" in error_of(SMALL[:40])


@pytest.mark.parametrize("text", [b"", b" \n\t ", b"\n" * 5000])
def test_an_empty_file_is_refused(text: bytes) -> None:
    with chunks_of(1000):
        assert error_of(text) == "JSON_INVALID: file.json: the file is empty"


@pytest.mark.parametrize(
    "beginning", [b"[" + SMALL + b"]", b"null", b"12", b'"text"', b"<html></html>", SMALL.decode().encode("utf-16")]
)
def test_another_type_at_the_top_is_refused(beginning: bytes) -> None:
    assert "expected a JSON object, found" in error_of(b"\n " + beginning)


@pytest.mark.parametrize("compressed", [gzip.compress(SMALL), b"PK\x03\x04" + bytes(30), b"BZh9" + bytes(30)])
def test_a_compressed_file_is_refused_and_named_as_one(compressed: bytes) -> None:
    message = error_of(compressed)
    assert message.startswith("JSON_INVALID: file.json: expected a JSON object")
    assert "compressed" in message
    assert "unpack it first" in message


@pytest.mark.parametrize("rubbish", [b"x", b"{}", b"}", b"]", b",", b"\0", SMALL])
@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
def test_rubbish_after_the_object_is_refused(rubbish: bytes, chunk: int) -> None:
    with chunks_of(chunk):
        assert error_of(SMALL + b" \n" + rubbish) == "JSON_INVALID: file.json: there is more after the end of the object"


@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
def test_white_space_after_the_object_is_fine(chunk: int) -> None:
    with chunks_of(chunk):
        assert parsed_lists(SMALL + b" \r\n\t" * 20) == parsed_lists(SMALL)


@pytest.mark.parametrize("key", sorted(LISTS))
@pytest.mark.parametrize("value", [None, b"null", b"5", b'"[]"'])
def test_a_missing_list_is_named(key: str, value: bytes | None) -> None:
    entries = [f'"{one}": []'.encode() for one in sorted(LISTS) if one != key]
    if value is not None:
        entries.append(f'"{key}": '.encode() + value)
    message = error_of(b"{" + b", ".join(entries) + b"}")
    assert message.startswith("JSON_INVALID: file.json: expected the lists 'annotations', 'categories', 'images'")
    assert message.endswith(f"found none for '{key}'")


@pytest.mark.parametrize("chunk", [1, 10, 1 << 20])
def test_a_list_that_is_an_object_is_refused(chunk: int) -> None:
    with chunks_of(chunk):
        message = error_of(b'{"images": {"1": {"id": 1}}, "annotations": [], "categories": []}')
    assert message == "JSON_INVALID: file.json: expected a list as 'images', found an object"


@pytest.mark.parametrize("opening", [b'{"images":', b'{"images":[{"id":', b'{"info":', b'{"images":[],"x":'])
@pytest.mark.parametrize("unit", [b"[", b'{"a":'])
def test_nesting_a_million_deep_is_refused_at_once(opening: bytes, unit: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}[unit]
    message = error_of(opening + unit * 10**6 + b"1" + closing * 10**6 + b"}")
    assert message.startswith("JSON_INVALID: file.json: nested deeper than 64 levels at byte")


def test_the_deepest_nesting_that_is_read() -> None:
    def nested(depth: int) -> bytes:
        return b'{"images":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b',"annotations":[],"categories":[]}'

    assert len(cut(nested(64))) == 3
    assert "nested deeper than 64 levels at byte 73" in error_of(nested(65))


@pytest.mark.parametrize("place", [b"%s,{}", b"{},%s,{}", b"{},%s"])
def test_an_element_over_the_limit_is_refused(place: bytes) -> None:
    def text(length: int) -> bytes:
        element = b'{"counts": "%s"}' % (b"x" * length)
        return b'{"images": [], "annotations": [' + place % element + b'], "categories": []}'

    with chunks_of(100), mock.patch.object(json_blocks, "MAX_BLOCK_BYTES", 1000):
        assert len(parsed_lists(text(800))["annotations"]) == place.count(b",") + 1
        assert error_of(text(2000)) == "JSON_INVALID: file.json: one element of 'annotations' is longer than 1000 bytes"


def test_the_limit_is_for_an_element_and_not_for_a_list() -> None:
    text = b'{"images": [], "categories": [], "annotations": [' + b",".join([b'{"id": 1}'] * 1000) + b"]}"
    with chunks_of(100), mock.patch.object(json_blocks, "MAX_BLOCK_BYTES", 150):
        assert len(parsed_lists(text)["annotations"]) == 1000


@pytest.mark.parametrize(
    "element",
    [
        b'{"id": 123456, "segmentation": [[' + b"123.45, " * 60 + b'1.0]], "name": "a\\\\\\"]"}, ',
        b"[{},[]],",
        b'["","",""],',
    ],
)
def test_a_large_file_takes_little_memory(element: bytes) -> None:
    piece = element * (60_000 // len(element))
    pieces = chain([b'{"images": [], "categories": [], "annotations": ['], repeat(piece, 60_000_000 // len(piece)), [b"{}]}"])
    read = reader(pieces)
    blocks = count = 0
    tracemalloc.start()
    try:
        for block in cut_blocks(read, LISTS, "file.json"):
            blocks += 1
            count += block.length
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert blocks >= 57
    assert 59_000_000 < count < 61_000_000
    assert peak < 40_000_000


def test_no_more_is_read_at_once_than_a_chunk() -> None:
    asked: list[int] = []
    source = io.BytesIO(SMALL)

    def read(count: int) -> bytes:
        asked.append(count)
        return source.read(count)

    with chunks_of(16):
        list(cut_blocks(read, LISTS, "file.json"))
    assert max(asked) == 16


@pytest.mark.parametrize("gap", [b'"images"%s:[', b'"images":%s['])
def test_any_amount_of_white_space_may_stand_between_key_and_list(gap: bytes) -> None:
    text = b"{" + gap % (b" " * 300) + b'{"id":1}],"annotations":[],"categories":[]}'
    assert parsed_lists(text)["images"] == [{"id": 1}]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_key_may_be_written_with_escapes(chunk: int) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in "annotations")
    text = f'{{"images": [], "annotations": [1], "{escaped}": [2], "\\u0063ategories": [3], "images\\x": [4]}}'.encode()
    with chunks_of(chunk):
        assert parsed_lists(text) == {"images": [], "annotations": [1, 2], "categories": [3]}


def test_the_end_of_a_long_key_is_not_taken_for_a_key() -> None:
    document = {"A" * 300 + '"images': [{"id": 99}], "images": [{"id": 1}], "annotations": [], "categories": []}
    assert parsed_lists(json.dumps(document).encode())["images"] == [{"id": 1}]


def test_a_long_run_of_backslashes_is_not_read_byte_by_byte() -> None:
    reads = 0
    source = io.BytesIO(json.dumps({"x": "\\" * 10_000, "images": [], "annotations": [], "categories": []}).encode())

    def read(count: int) -> bytes:
        nonlocal reads
        reads += 1
        return source.read(count)

    with chunks_of(1000):
        assert len(list(cut_blocks(read, LISTS, "file.json"))) == 3
    assert reads < 100
