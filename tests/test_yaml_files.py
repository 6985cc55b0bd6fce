"""YAML from people: whatever it is, it is read or said in one line to be wrong, and soon."""

from __future__ import annotations

import time

import pytest

from transforms.sources.yaml_files import load


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", None),
        (b"\xef\xbb\xbfnames: [cat, 'd\xc3\xb6g']\n", {"names": ["cat", "dög"]}),
        (b'["\\ud800"]', ["\ud800"]),
        (b"{1: 1.5, a: 0x1f, b: 1:30}", {1: 1.5, "a": 31, "b": 90}),
    ],
)
def test_what_is_read(data: bytes, expected: object) -> None:
    assert load(data) == expected


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a: [", "while parsing"),
        (b"a: &a [x]\nb: *a", "refers to a part of itself"),
        (b"a: 2001-99-99", "month must be in 1..12"),
        (b"[" * 100_000, "nested too deeply"),
        (b"a: \xff", "the text is not UTF-8"),
        (b"--- a\n--- b", "expected a single document"),
        (b"!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        (b"!!int ''", "a value that is none"),
        (b"!!float ''", "a value that is none"),
        (b"!!bool x", "a value that is none"),
        (b"!!timestamp x", "a value that is none"),
        (b"[1" + b":0" * 400_000 + b"]", "a number of 800001 characters"),
        (b"[1" + b":0" * 400_000 + b".5]", "a number of 800003 characters"),
        (b"0x" + b"f" * 5000, "a number of 5002 characters"),
        (b"a\x00b", "special characters are not allowed"),
    ],
)
def test_what_is_wrong_is_one_line(data: bytes, says: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=says) as caught:
        load(data)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5
