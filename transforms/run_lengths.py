"""Run lengths: COCO's compressed form, checked and decoded without a C library, and what can be read off them.

A mask of height H and width W is walked column by column (Fortran order); run lengths alternate, zeros first, and add up
to H·W. The compressed form writes each count, from the third on as the difference from the count two before, in groups
of five bits, lowest first: a character is 48 + the group, + 32 if another follows; the last group's bit 16 is the sign.
Source: `rleToString` and `rleFrString` in cocoapi's maskApi.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.records import Box, Instance, Problem, ReasonCode, RunLengths, problem

Runs = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]

_MAX_GROUPS = 7  # 35 bits: more than any run needs, and no shift overflows
_AT_ONCE = 1 << 16  # numbers; decoding takes 70 bytes of memory for each of them


def decode_counts(counts: bytes) -> Runs | Problem:
    """Compressed counts to runs, int64; `RLE_MALFORMED` where they are no such string. The sum is not checked."""
    characters = np.frombuffer(counts, np.uint8) - np.uint8(48)
    if not characters.size:
        return problem(ReasonCode.RLE_MALFORMED, "the counts are empty")
    if characters.max() > 63:  # what is below '0' wraps around to over 207
        return problem(ReasonCode.RLE_MALFORMED, "the counts hold a character outside '0' to 'o'")
    ends = np.flatnonzero(characters < 32)
    if not ends.size or ends[-1] != characters.size - 1:
        return problem(ReasonCode.RLE_MALFORMED, "the counts end inside a number")
    if np.diff(ends, prepend=-1).max() > _MAX_GROUPS:
        return problem(ReasonCode.RLE_MALFORMED, f"a count has over {_MAX_GROUPS} characters")
    runs = _numbers(characters, ends)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _numbers(characters: npt.NDArray[np.uint8], ends: npt.NDArray[np.intp]) -> Runs:
    """The signed numbers in characters (less 48), each of which ends at one of `ends`."""
    if len(ends) <= _AT_ONCE:
        return _few_numbers(characters, ends)
    numbers = np.empty(len(ends), np.int64)
    first = 0
    for at in range(0, len(ends), _AT_ONCE):
        behind = int(ends[at : at + _AT_ONCE][-1]) + 1
        numbers[at : at + _AT_ONCE] = _few_numbers(characters[first:behind], ends[at : at + _AT_ONCE] - first)
        first = behind
    return numbers


def _few_numbers(characters: npt.NDArray[np.uint8], ends: npt.NDArray[np.intp]) -> Runs:
    starts = np.concatenate(([0], ends[:-1] + 1))
    groups = ends - starts + 1
    numbers: Runs = (characters[starts] & 31).astype(np.int64)
    longer, place = np.flatnonzero(groups > 1), 1
    while longer.size:  # seven times at most; three of four numbers have one character
        numbers[longer] |= (characters[starts[longer] + place] & 31).astype(np.int64) << 5 * place
        place += 1
        longer = longer[groups[longer] > place]
    numbers -= (characters[ends] >> 4 & 1).astype(np.int64) << 5 * groups
    return numbers


def decode_checked(counts: Sequence[bytes]) -> list[Runs]:
    """What `decode_counts` gives for each of several strings that it has accepted before.

    All at once, since numpy's calls cost more than their work: 7 masks of COCO's sizes take 0.06 ms, one by one 0.17.
    """
    if not counts:
        return []
    characters = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)
    ends = np.flatnonzero(characters < 32)
    runs = _numbers(characters, ends)
    firsts = np.searchsorted(ends, np.cumsum([0, *map(len, counts[:-1])]))
    stops = [*firsts[1:].tolist(), len(runs)]
    sizes = np.array(stops) - firsts
    # A run adds to the one two before, in its own mask; the first and second stand for themselves.
    odd = np.arange(len(runs)) - np.repeat(firsts, sizes) & 1
    heads = runs[firsts]
    odd_runs = runs * odd
    odd_sums, even_sums = np.cumsum(odd_runs), np.cumsum(runs - odd_runs)
    odd_before, even_before = np.repeat(odd_sums[firsts], sizes), np.repeat(even_sums[firsts], sizes)
    runs = np.where(odd, odd_sums - odd_before, even_sums - even_before)
    runs[firsts] = heads
    return [runs[first:stop] for first, stop in zip(firsts.tolist(), stops, strict=True)]


def encode_counts(runs: Runs) -> bytes:
    """Runs, int64 and all ≥ 0, to compressed counts."""
    return encode_all([runs])[0]


def encode_all(masks: Sequence[Runs]) -> list[bytes]:
    """The same of several masks, for which numpy is called once: 7 take 0.1 ms, one by one 0.5."""
    if not masks:
        return []
    sizes = np.array([len(runs) for runs in masks])
    runs = np.concatenate(masks)
    place = np.arange(len(runs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    values = runs.copy()
    values[2:] -= np.where(place[2:] > 2, runs[:-2], 0)
    columns = []
    going = np.ones(len(values), bool)
    while going.any():
        group = values & 31
        values >>= 5
        more = np.where(group & 16, values != -1, values != 0)
        columns.append(np.where(going, group + 48 + 32 * more, 0))
        going &= more
    characters = np.stack(columns, axis=1).astype(np.uint8)
    lengths = np.cumsum(np.count_nonzero(characters, axis=1))[np.cumsum(sizes) - 1].tolist()
    text = characters.ravel()
    every = text[text > 0].tobytes()
    return [every[start:stop] for start, stop in zip([0, *lengths[:-1]], lengths, strict=True)]


def slices(sizes: npt.ArrayLike, at_once: int) -> list[slice]:
    """What has so many runs each, cut so that a slice has about so many of them at once, and at least one thing."""
    starts = np.flatnonzero(np.diff(np.cumsum(sizes, dtype=np.int64) // at_once, prepend=-1)).tolist()
    return [slice(*bounds) for bounds in pairwise([*starts, len(np.asarray(sizes))])]


def check_runs(runs: Runs, height: int, width: int) -> Problem | None:
    """`RLE_MALFORMED` unless all runs are ≥ 0 and add up to height · width."""
    if not len(runs):
        return problem(ReasonCode.RLE_MALFORMED, "there are no run lengths")
    if runs.min() < 0:
        return problem(ReasonCode.RLE_MALFORMED, f"a run length is negative: {runs.min()}")
    if runs.max() > height * width or runs.sum() != height * width:
        expected = f"{height} × {width} = {height * width}"
        return problem(ReasonCode.RLE_MALFORMED, f"the run lengths add up to {runs.sum()}, expected {expected}")
    return None


def runs_of(mask: RunLengths) -> Runs:
    """The runs of a mask that was checked when it was made."""
    return decode_checked([mask.counts])[0]


def masks_of(images: Sequence[tuple[Sequence[Instance], int, int]]) -> list[list[Runs]]:
    """For each image, given as rasterized instances, height and width: their masks; without one, an empty mask of that size.

    Raises `TypeError` for an instance that `Rasterize` has not seen.
    """
    counts = []
    for instances, height, width in images:
        for one in instances:
            if not isinstance(one.shape, RunLengths | None):
                raise TypeError(f"annotation {one.annotation_id} is still as annotated: it has to go through Rasterize first")
            counts.append(one.shape.counts if isinstance(one.shape, RunLengths) else _empty_counts(height * width))
    masks = iter(decode_checked(counts))
    return [list(islice(masks, len(instances))) for instances, _, _ in images]


def _empty_counts(pixels: int) -> bytes:
    return encode_counts(np.array([pixels]))


def area(runs: Runs) -> int:
    """Pixels of the mask."""
    return int(runs[1::2].sum())


def box_of(runs: Runs, height: int) -> Box | None:
    """The tight half-open box around the mask, or None where it is empty."""
    stops = np.cumsum(runs)[1::2]
    starts = stops - runs[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not starts.size:
        return None
    first_column, last_column = int(starts[0] // height), int((stops[-1] - 1) // height)
    if np.any(starts // height != (stops - 1) // height):
        top, bottom = 0, height  # a run that goes on in the next column touches both edges
    else:
        top, bottom = int((starts % height).min()), int(((stops - 1) % height).max()) + 1
    return (float(top), float(first_column), float(bottom), float(last_column + 1))


def areas_and_boxes(masks: Sequence[Runs], heights: Runs) -> tuple[Runs, Runs]:
    """What `area` and `box_of` give for each of several masks, in a tenth of the time: int64 of shapes (N,) and (N, 4).

    `heights`, int64 of shape (N,), are those of the masks. The box of an empty mask is all zeros.
    """
    areas, boxes = np.zeros(len(masks), np.int64), np.zeros((len(masks), 4), np.int64)
    sizes = np.array([len(runs) for runs in masks], np.int64)
    for some in slices(sizes, _AT_ONCE):  # it takes 100 bytes of memory a run
        _few_areas_and_boxes(np.concatenate(masks[some]), sizes[some], heights[some], areas[some], boxes[some])
    return areas, boxes


def _few_areas_and_boxes(runs: Runs, sizes: Runs, heights: Runs, areas: Runs, boxes: Runs) -> None:
    """Fills in `areas` and `boxes` of masks of so many runs each, all one after the other."""
    firsts = np.cumsum(sizes) - sizes
    owners = np.repeat(np.arange(len(sizes)), sizes)
    stops = np.cumsum(runs)
    stops -= np.concatenate(([0], stops[firsts[1:] - 1]))[owners]
    ones = np.flatnonzero((np.arange(len(runs)) - firsts[owners] & 1) & (runs > 0))
    if not ones.size:
        return
    runs, owners, stops = runs[ones], owners[ones], stops[ones]
    tall = heights[owners]
    first_columns, tops = np.divmod(stops - runs, tall)
    last_columns, bottoms = np.divmod(stops - 1, tall)
    crosses = first_columns != last_columns  # such a run touches both edges
    tops[crosses], bottoms[crosses] = 0, tall[crosses] - 1
    heads = np.flatnonzero(np.diff(owners, prepend=-1))
    which = owners[heads]
    areas[which] = np.add.reduceat(runs, heads)
    boxes[which, 0] = np.minimum.reduceat(tops, heads)
    boxes[which, 1] = first_columns[heads]
    boxes[which, 2] = np.maximum.reduceat(bottoms, heads) + 1
    boxes[which, 3] = last_columns[np.append(heads[1:], len(owners)) - 1] + 1


def complement(mask: RunLengths) -> RunLengths:
    """The pixels that a checked mask has not.

    Its runs are the same, with one of length 0 before them, or without that. From the fourth on, their text is the same, too.
    """
    numbers, rest = _first_numbers(mask.counts, 4)
    if not numbers[0]:
        first = [*numbers[1:3], *(number + numbers[1] for number in numbers[3:])]  # no longer told from the one two before
    else:
        first = [0, *numbers[:2], *(number - numbers[0] for number in numbers[2:3]), *numbers[3:]]
    return RunLengths(mask.height, mask.width, b"".join(map(_text_of, first)) + rest)


def _first_numbers(counts: bytes, most: int) -> tuple[list[int], bytes]:
    """The first numbers of a text, as they stand there, and what follows them."""
    numbers: list[int] = []
    number = shift = end = 0
    for character in counts:
        if len(numbers) == most:
            break
        end += 1
        group = character - 48
        number |= (group & 31) << shift
        shift += 5
        if group < 32:
            numbers.append(number - (1 << shift) if group & 16 else number)
            number = shift = 0
    return numbers, counts[end:]


def _text_of(number: int) -> bytes:
    text = b""
    while not -16 <= number < 16:
        text += bytes([48 + (number & 31) + 32])
        number >>= 5
    return text + bytes([48 + (number & 31)])


class ValueRuns(NamedTuple):
    """A painted mask as runs of equal pixels, down one column after the other.

    `starts`: where each begins, ascending from 0, int64; `values`: what its pixels are.
    """

    height: int
    width: int
    starts: Runs
    values: npt.NDArray[np.integer]

    def only(self, wanted: Sequence[int]) -> ValueRuns:
        """The same, but all values that are not wanted are 0."""
        return self._replace(values=np.where(np.isin(self.values, np.array(wanted, np.int64)), self.values, 0))

    def masks(self) -> dict[int, RunLengths]:
        """The run lengths of each value but 0, in their order."""
        pixels = self.height * self.width
        stops = np.append(self.starts[1:], pixels)
        order = np.argsort(self.values, kind="stable")
        found: dict[int, Runs] = {}
        for same in np.split(order, np.flatnonzero(np.diff(self.values[order])) + 1):
            if value := int(self.values[same[0]]):
                bounds = np.concatenate(([0], np.stack((self.starts[same], stops[same]), axis=1).ravel(), [pixels]))
                runs = bounds[1:] - bounds[:-1]
                found[value] = runs if runs[-1] else runs[:-1]
        counts = encode_all(list(found.values()))
        return {value: RunLengths(self.height, self.width, one) for value, one in zip(found, counts, strict=True)}


def value_runs(ids: npt.NDArray[np.generic]) -> ValueRuns:
    """The runs of equal values of an array of shape (height, width)."""
    height, width = ids.shape
    # Pixels are compared as they lie, and the few places sorted: to turn the array takes four times as long.
    rows, columns = np.divmod(np.flatnonzero(ids[1:] != ids[:-1]), width)
    down = columns * height + rows + 1
    across = np.flatnonzero(ids[0, 1:] != ids[-1, :-1]) * height + height
    starts = np.sort(np.concatenate(([0], across, down)))
    return ValueRuns(height, width, starts, ids[starts % height, starts // height])


def nearest(mask: Mask, height: int, width: int) -> Mask:
    """A mask at another size, height × width: each pixel is what the one is that its centre falls into."""
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(np.int64)
    scaled: Mask = mask[rows][:, columns]
    return scaled


def from_coco(counts: str | Sequence[int], height: int, width: int, max_pixels: int = 100_000_000) -> RunLengths | Problem:
    """COCO's run lengths, compressed to a string or as numbers; DIM_LIMIT, RLE_MALFORMED. Of a string, the size is checked."""
    if height < 1 or width < 1 or height * width > max_pixels:
        message = f"the run lengths are for {height} × {width} (height × width), at most {max_pixels} pixels are read"
        return problem(ReasonCode.DIM_LIMIT, message)
    if isinstance(counts, str):
        if not counts.isascii():
            return problem(ReasonCode.RLE_MALFORMED, "the counts hold a character outside '0' to 'o'")
        return RunLengths(height, width, counts.encode())
    if not all(0 <= count < 2**32 for count in counts):
        return problem(ReasonCode.RLE_MALFORMED, "a run length is negative or over 2^32")
    runs = np.array(counts, np.int64)
    return check_runs(runs, height, width) or RunLengths(height, width, encode_counts(runs))


def to_mask(mask: RunLengths) -> Mask:
    """The pixels, uint8 0/1, shape (height, width)."""
    runs = runs_of(mask)
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    pixels: Mask = np.repeat(values, runs).reshape(mask.width, mask.height).T
    return pixels


def from_mask(mask: npt.NDArray[np.integer | np.bool_]) -> RunLengths:
    """Run lengths of a mask of shape (height, width); whatever is not 0 belongs to it."""
    runs = value_runs(mask != 0)
    bounds = np.append(runs.starts, mask.size)
    if runs.values[0]:
        bounds = np.concatenate(([0], bounds))  # zeros come first, if only none of them
    return RunLengths(runs.height, runs.width, encode_counts(np.diff(bounds)))
