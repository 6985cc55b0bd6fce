"""Sketches: quantiles of any number of values in little memory, which merge exactly.

A DDSketch counts values in bins that are the same for everyone, each so narrow that any of its values stands for the others
within 1 %. So the sketch of a whole is that of its parts, bit for bit, in whatever order they are merged. Other sketches that
are in use, KLL and REQ, draw lots when they merge: they give other bytes each time, which our outputs must not.
Source: Masson, Rim, Lee, "DDSketch", PVLDB 12 (2019); the PyPI library `ddsketch`, whose mapping and whose rank this has.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from ddsketch.mapping import LinearlyInterpolatedMapping

BINS_A_DOUBLING = 128
MILLION = 10**6
"""Values are summed as whole millionths, so that no rounding depends on the order."""
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
"""Of those that `statistics.json` has."""


class Mapping(LinearlyInterpolatedMapping):  # type: ignore[misc]
    """Bins between a power of two and the next, all of one width: their bounds are exact, and no logarithm is taken.

    `key` is of the bin (low, high] of a value. `value` is its upper bound, which is above none of its values by more than 1 in
    128; so whole numbers up to 256 stand for themselves, and so do most sizes that images have.
    """

    def __init__(self) -> None:
        super().__init__(0.01)
        self.gamma = 1 + 1 / BINS_A_DOUBLING  # high / low of the widest; else both would come from a machine's log1p
        self._multiplier = float(BINS_A_DOUBLING)

    def value(self, key: int) -> float:
        bound: float = self._pow_gamma(key)
        return bound


Integers = npt.NDArray[np.int64]
MAPPING = Mapping()
ZERO = -(1 << 20)
"""The key of 0, below those of all other values."""


class Values(NamedTuple):
    """Finite values ≥ 0, with what a sketch wants of each, looked up for many at once."""

    values: Sequence[float]
    keys: npt.NDArray[np.int64]
    millionths: Sequence[int]

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Values:
        """`Mapping.key` of all values, in the same steps."""
        values = values.astype(np.float64)
        mantissas, exponents = np.frexp(values)
        keys = np.ceil((2 * mantissas - 1 + (exponents - 1)) * BINS_A_DOUBLING).astype(np.int64)
        millionths = [int(value) for value in np.rint(values * MILLION).tolist()]
        return cls(values.tolist(), np.where(values > 0, keys, ZERO), millionths)

    def part(self, start: int, stop: int) -> Values:
        """Those from `start` to before `stop`."""
        return Values(self.values[start:stop], self.keys[start:stop], self.millionths[start:stop])


class Sketch(msgspec.Struct, array_like=True):
    """A distribution of values ≥ 0. Count, sums, `low` and `high` are exact; quantiles are within 1 %.

    `total` and `squares` are the sums of the values' millionths and of their squares, whole numbers of any size, big-endian:
    msgpack's own end at 64 bits. `bin_keys` are the keys of `Mapping` that have values, at most 128 for each doubling, ascending,
    int32; `bin_counts` says how many, in unsigned numbers as wide as the largest needs. A dict would take ten times the memory.
    """

    count: int = 0
    total: bytes = b""
    squares: bytes = b""
    low: float = math.inf
    high: float = -math.inf
    bin_keys: bytes = b""
    bin_counts: bytes = b""

    def add(self, value: float, times: int = 1) -> None:
        """Counts one value ≥ 0, several times."""
        if times:
            key = MAPPING.key(value) if value > 0 else ZERO
            millionths = round(value * MILLION)
            self._add(times, millionths * times, millionths**2 * times, float(value), float(value))
            self._count(np.array([key]), np.array([times]))

    def add_all(self, some: Values) -> None:
        """Counts each of several values."""
        if some.values:
            millionths = some.millionths
            squares = sum(map(int.__mul__, millionths, millionths))
            self._add(len(some.values), sum(millionths), squares, min(some.values), max(some.values))
            self._count(some.keys, np.ones(len(some.keys), np.int64))

    def merge(self, other: Sketch) -> None:
        """Takes in the other's values."""
        self._add(other.count, _number(other.total), _number(other.squares), other.low, other.high)
        self._count(*other._bins())

    def _add(self, count: int, total: int, squares: int, low: float, high: float) -> None:
        self.count += count
        self.total = _bytes(_number(self.total) + total)
        self.squares = _bytes(_number(self.squares) + squares)
        self.low, self.high = min(self.low, low), max(self.high, high)

    def _bins(self) -> tuple[Integers, Integers]:
        """Keys, ascending, and counts."""
        keys = np.frombuffer(self.bin_keys, "<i4")
        counts = np.frombuffer(self.bin_counts, f"<u{len(self.bin_counts) // len(keys) if len(keys) else 1}")
        return keys.astype(np.int64), counts.astype(np.int64)

    def _count(self, keys: Integers, counts: Integers) -> None:
        """Adds to the bins of these keys, which may be there several times."""
        own_keys, own_counts = self._bins()
        keys, counts = np.concatenate((own_keys, keys)), np.concatenate((own_counts, counts))
        if not keys.size:
            return
        order = np.argsort(keys, kind="stable")
        firsts = np.flatnonzero(np.diff(keys[order], prepend=keys[order[0]] - 1))
        sums = np.add.reduceat(counts[order], firsts)
        self.bin_keys = keys[order[firsts]].astype("<i4").tobytes()
        self.bin_counts = sums.astype(np.min_scalar_type(int(sums.max())).newbyteorder("<")).tobytes()

    @property
    def zeros(self) -> int:
        """How many values are 0."""
        keys, counts = self._bins()
        return int(counts[keys == ZERO].sum())

    @property
    def mean(self) -> float:
        """The mean of the values, each rounded to a millionth; 0 of none."""
        return _number(self.total) / (self.count * MILLION) if self.count else 0.0

    @property
    def std_dev(self) -> float:
        """The standard deviation of the values as a whole population, as TFDV has it; 0 of none."""
        if not self.count:
            return 0.0
        total, squares = _number(self.total), _number(self.squares)
        return math.sqrt((self.count * squares - total**2) / (self.count * MILLION) ** 2)

    def quantile(self, share: float) -> float:
        """The value that `share` (0 to 1) of the values are below, within 1 %. Raises `ValueError` where there is none."""
        return self.quantiles([share])[0]

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The quantiles for several shares: of the values in order, that at `share` · (count - 1), rounded down."""
        if not self.count:
            raise ValueError("a sketch without values has no quantiles")
        keys, counts = self._bins()
        ends = np.cumsum(counts).tolist()
        return [self._value(int(keys[bisect_right(ends, share * (self.count - 1))])) for share in shares]

    def _value(self, key: int) -> float:
        value = 0.0 if key == ZERO else MAPPING.value(key)
        return min(max(value, self.low), self.high)

    def values(self) -> list[tuple[float, int]]:
        """What stands for the values of a bin, within 1 %, and how many there are; ascending."""
        keys, counts = self._bins()
        return [(self._value(key), count) for key, count in zip(keys.tolist(), counts.tolist(), strict=True)]

    def counts(self) -> list[tuple[float, float, int]]:
        """The bins: from (excluded), to, count; ascending. That of 0 is from 0 to 0."""
        keys, counts = self._bins()
        bounds = ((0.0, 0.0) if key == ZERO else (MAPPING.value(key - 1), MAPPING.value(key)) for key in keys.tolist())
        return [(low, high, count) for (low, high), count in zip(bounds, counts.tolist(), strict=True)]

    def as_json(self) -> dict[str, Any]:
        """For `statistics.json`; all but `count`, `min` and `max` in six digits."""
        if not self.count:
            return {"count": 0}
        quantiles = {str(share): _short(value) for share, value in zip(QUANTILES, self.quantiles(QUANTILES), strict=True)}
        return {
            "count": self.count,
            "mean": _short(self.mean),
            "std_dev": _short(self.std_dev),
            "min": self.low,
            "max": self.high,
            "quantiles": quantiles,
        }


def _number(stored: bytes) -> int:
    return int.from_bytes(stored, "big")


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _short(value: float) -> float:
    return float(f"{value:.6g}")
