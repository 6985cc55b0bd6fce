"""Run lengths against a slow coder written here, against pycocotools, and against masks drawn by hand."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
from drawings import draw, masks_of_size, oblong_sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as cocomask

from transforms import run_lengths
from transforms.records import Instance, Problem, RunLengths

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def slow_runs(mask):
    """Runs down the columns, pixel by pixel."""
    runs, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def slow_encode(runs):
    """Counts, written from the description of the format, one Python number at a time."""
    text = b""
    for index, run in enumerate(runs):
        rest = run - runs[index - 2] if index > 2 else run
        while True:
            group, rest = rest & 31, rest >> 5
            last = rest == (-1 if group & 16 else 0)
            text += bytes([48 + group + (0 if last else 32)])
            if last:
                break
    return text


def slow_decode(counts):
    """What `slow_encode` was given; for counts that are well formed."""
    runs, value, shift = [], 0, 0
    for character in counts:
        group = character - 48
        value |= (group & 31) << shift
        shift += 5
        if group < 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


def by_pycocotools(mask):
    return cocomask.encode(np.asfortranarray(mask))


def runs_array(runs):
    return np.array(runs, np.int64)


@st.composite
def oblong_masks(draw_from):
    return draw_from(masks_of_size(*draw_from(oblong_sizes(24))))


PICTURES = {
    "empty": ("..... ..... ..... .....", [20]),
    "full": ("##### ##### ##### #####", [0, 20]),
    "upper left pixel": ("#.... ..... ..... .....", [0, 1, 19]),
    "lower right pixel": ("..... ..... ..... ....#", [19, 1]),
    "inner pixel": ("..... ...#. ..... .....", [13, 1, 6]),
    "one column": ("..#.. ..#.. ..#.. ..#..", [8, 4, 8]),
    "one row": ("..... ##### ..... .....", [1, 1, 3, 1, 3, 1, 3, 1, 3, 1, 2]),
    "a run over a column's end": ("...#. ...#. ..#.. ..#..", [10, 4, 6]),
    "all edges": ("##### #...# #...# #####", [0, 5, 2, 2, 2, 2, 2, 5]),
    "two objects": ("##... ##... ....# ....#", [0, 2, 2, 2, 12, 2]),
    "one column wide": ("# . # .", [0, 1, 1, 1, 1]),
    "one row high": ("#.##.", [0, 1, 1, 2, 1]),
}


@pytest.mark.parametrize(("picture", "runs"), PICTURES.values(), ids=PICTURES)
def test_a_picture_becomes_the_expected_runs_and_comes_back(picture, runs):
    mask = draw(picture)
    packed = run_lengths.from_mask(mask)
    assert (packed.height, packed.width) == mask.shape
    assert run_lengths.runs_of(packed).tolist() == runs
    assert packed.counts == by_pycocotools(mask)["counts"]
    np.testing.assert_array_equal(run_lengths.to_mask(packed), mask)
    assert run_lengths.to_mask(packed).dtype == np.uint8


BOXES = {
    "empty": ("..... ..... ..... .....", None),
    "full": ("##### ##### ##### #####", (0, 0, 4, 5)),
    "upper left pixel": ("#.... ..... ..... .....", (0, 0, 1, 1)),
    "lower right pixel": ("..... ..... ..... ....#", (3, 4, 4, 5)),
    "block": ("..... .###. .###. .....", (1, 1, 3, 4)),
    "diagonal": ("..... .#... ..#.. .....", (1, 1, 3, 3)),
    "a run over a column's end": ("...#. ..... ..... ..#..", (0, 2, 4, 4)),
    "last row of one, second row of the next column": ("..... ..#.. ..... .#...", (1, 1, 4, 3)),
    "two objects": ("#.... ..... ..... ...#.", (0, 0, 4, 4)),
}


@pytest.mark.parametrize(("picture", "box"), BOXES.values(), ids=BOXES)
def test_the_box_is_tight_and_half_open(picture, box):
    mask = draw(picture)
    assert run_lengths.box_of(runs_array(slow_runs(mask)), len(mask)) == box


def test_runs_of_length_zero_change_neither_box_nor_pixels():
    runs = runs_array([0, 0, 5, 1, 0, 1, 6, 0, 7])
    packed = RunLengths(4, 5, run_lengths.encode_counts(runs))
    np.testing.assert_array_equal(run_lengths.to_mask(packed), draw("..... .#... .#... ....."))
    assert run_lengths.box_of(runs, 4) == (1, 1, 3, 2)
    assert run_lengths.area(runs) == 2


@settings(max_examples=200, deadline=None)
@given(oblong_masks())
def test_masks_are_coded_as_pycocotools_codes_them(mask):
    theirs = by_pycocotools(mask)
    packed = run_lengths.from_mask(mask)
    assert packed.counts == theirs["counts"]
    assert packed.counts == slow_encode(slow_runs(mask))
    assert run_lengths.decode_counts(packed.counts).tolist() == slow_runs(mask)
    np.testing.assert_array_equal(run_lengths.to_mask(packed), cocomask.decode(theirs))
    np.testing.assert_array_equal(run_lengths.to_mask(packed), mask)


@settings(max_examples=200, deadline=None)
@given(oblong_masks())
def test_box_and_area_are_those_of_pycocotools(mask):
    theirs = by_pycocotools(mask)
    runs = run_lengths.decode_counts(theirs["counts"])
    assert run_lengths.area(runs) == int(cocomask.area(theirs)) == int(mask.sum())
    box = run_lengths.box_of(runs, len(mask))
    if not mask.any():
        assert box is None
    else:
        x, y, width, height = cocomask.toBbox(theirs).tolist()
        rows, columns = np.nonzero(mask)
        assert box == (y, x, y + height, x + width)
        assert box == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 40), min_size=1, max_size=40))
def test_any_runs_survive_encoding_and_decoding(runs):
    given_runs = runs_array(runs)
    counts = run_lengths.encode_counts(given_runs)
    assert given_runs.tolist() == runs
    assert counts == slow_encode(runs)
    decoded = run_lengths.decode_counts(counts)
    assert decoded.dtype == np.int64
    assert decoded.tolist() == runs == slow_decode(counts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**32), 2**32), min_size=1, max_size=20))
def test_negative_differences_of_any_size_are_decoded(runs):
    assert run_lengths.decode_counts(slow_encode(runs)).tolist() == runs


@pytest.mark.parametrize(
    ("counts", "runs"),
    [
        (b"0", [0]),
        (b"?", [15]),
        (b"O", [-1]),
        (b"`0", [16]),
        (b"o0", [31]),
        (b"P1", [32]),
        (b"0d0", [0, 20]),
        (b"051N", [0, 5, 1, 3]),
        (b"PPPPPP1", [2**30]),
    ],
)
def test_counts_written_out_by_hand_are_decoded(counts, runs):
    assert run_lengths.decode_counts(counts).tolist() == runs


MALFORMED = {
    "empty": b"",
    "ends inside a number": b"000o",
    "only a beginning": b"P",
    "NUL at the beginning": b"\x0005",
    "NUL inside": b"0\x005",
    "a blank": b"0 5",
    "below '0'": b"0/5",
    "above 'o'": b"0p5",
    "DEL": b"0\x7f5",
    "UTF-8": "0é5".encode(),
    "high byte": b"0\xff5",
    "over seven characters": b"P" * 7 + b"1",
    "a thousand characters": b"o" * 1000 + b"0",
}


@pytest.mark.parametrize("counts", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_string_of_counts_is_malformed(counts):
    found = run_lengths.decode_counts(counts)
    assert isinstance(found, Problem)
    assert found.code == "RLE_MALFORMED"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30) | st.text("0123456789:;?@AOPQ_`ano", max_size=30).map(str.encode))
def test_any_bytes_are_decoded_or_malformed(counts):
    found = run_lengths.decode_counts(counts)
    numbers = re.findall(rb"[P-o]*[0-O]", counts)
    if counts and b"".join(numbers) == counts and max(map(len, numbers)) <= 7:
        assert found.tolist() == slow_decode(counts)
    else:
        assert found.code == "RLE_MALFORMED"


WRONG_RUNS = {
    "none": ([], "no run lengths"),
    "short sum": ([5, 5], "add up to 10, expected 4 × 5 = 20"),
    "long sum": ([5, 5, 11], "add up to 21, expected 4 × 5 = 20"),
    "negative": ([25, -5], "negative: -5"),
    "negative with the right sum": ([10, -5, 15], "negative: -5"),
    "over 2^32": ([2**32 + 20], "add up to 4294967316"),
    "over 2^32, the sum right modulo 2^32": ([2**32, 20], "expected 4 × 5 = 20"),
}


@pytest.mark.parametrize(("runs", "message"), WRONG_RUNS.values(), ids=WRONG_RUNS)
def test_runs_that_are_no_mask_of_this_size_are_malformed(runs, message):
    found = run_lengths.check_runs(runs_array(runs), 4, 5)
    assert found.code == "RLE_MALFORMED"
    assert message in found.message


@pytest.mark.parametrize("runs", [[20], [0, 20], [5, 5, 10], [0, 0, 20, 0]])
def test_runs_that_add_up_are_a_mask(runs):
    assert run_lengths.check_runs(runs_array(runs), 4, 5) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 40), min_size=1, max_size=9), max_size=8))
def test_several_masks_are_decoded_at_once_as_each_alone(masks):
    counts = [run_lengths.encode_counts(runs_array(runs)) for runs in masks]
    decoded = run_lengths.decode_checked(counts)
    assert [runs.tolist() for runs in decoded] == masks
    assert all(runs.dtype == np.int64 for runs in decoded)
    assert [run_lengths.decode_counts(text).tolist() for text in counts] == masks


def test_masks_of_instances_are_in_their_order_and_empty_without_a_shape():
    shape = run_lengths.from_mask(draw("##... ..... ..... ....."))
    instances = [Instance(number, 1, None, None, False, given) for number, given in enumerate([None, shape, None])]
    found = run_lengths.masks_of([(instances, 4, 5), ([], 4, 5), (instances[2:], 2, 3)])
    assert [[runs.tolist() for runs in masks] for masks in found] == [[[20], [0, 1, 3, 1, 15], [20]], [], [[6]]]
    assert run_lengths.masks_of([]) == []


def test_whatever_is_not_zero_belongs_to_a_mask():
    expected = run_lengths.from_mask(draw(".#... ..#.. ..... ....."))
    for value in (1, 2, 255):
        assert run_lengths.from_mask(draw(".#... ..#.. ..... .....") * np.uint8(value)) == expected
    assert run_lengths.from_mask(draw(".#... ..#.. ..... .....").astype(bool)) == expected


def test_a_mask_of_many_runs_is_coded_as_pycocotools_codes_it():
    mask = np.random.default_rng(7).random((301, 407)) < 0.5
    theirs = by_pycocotools(mask.astype(np.uint8))
    assert run_lengths.from_mask(mask).counts == theirs["counts"]
    np.testing.assert_array_equal(run_lengths.to_mask(RunLengths(301, 407, theirs["counts"])), mask)


@pytest.mark.parametrize("text", [b"1", b"PPPPPP0", b"P0o?5"])
def test_long_counts_take_little_memory_and_are_read_as_short_ones_are(text):
    counts = text * (2_000_000 // len(text))
    tracemalloc.start()
    try:
        runs = run_lengths.decode_counts(counts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(counts)
    assert runs.tolist() == slow_decode(counts)
    assert [one.tolist() for one in run_lengths.decode_checked([b"5", counts, b"5"])] == [[5], runs.tolist(), [5]]


painted = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(1, 5)).map(
    lambda made: np.random.default_rng(made[2]).integers(0, made[3], made[:2], np.uint8)
)


@settings(max_examples=300, deadline=None)
@given(ids=painted, order=st.sampled_from("CF"))
def test_each_value_of_a_painted_mask_is_coded_as_pycocotools_codes_it(ids, order):
    found = run_lengths.value_runs(np.array(ids, order=order)).masks()
    expected = {
        value: cocomask.encode(np.asfortranarray(ids == value, np.uint8))["counts"] for value in np.unique(ids).tolist() if value
    }
    assert {value: mask.counts for value, mask in found.items()} == expected
    assert list(found) == sorted(expected)
    assert run_lengths.from_mask(ids).counts == cocomask.encode(np.asfortranarray(ids > 0, np.uint8))["counts"]


def test_only_some_values_of_a_painted_mask():
    ids = np.array([[1, 1, 2], [3, 1, 2]])
    found = run_lengths.value_runs(ids).only([3, 2, 9]).masks()
    assert {value: run_lengths.to_mask(mask).tolist() for value, mask in found.items()} == {
        2: [[0, 0, 1], [0, 0, 1]],
        3: [[0, 0, 0], [1, 0, 0]],
    }
    assert run_lengths.value_runs(ids).only([]).masks() == {}


@settings(max_examples=500, deadline=None)
@given(oblong_masks())
def test_the_complement_is_coded_as_pycocotools_codes_it(mask):
    expected = by_pycocotools(mask == 0)["counts"]
    assert run_lengths.complement(run_lengths.from_mask(mask)).counts == expected
