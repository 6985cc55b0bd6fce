"""Sketches against the library `ddsketch`, numpy's quantiles and exact fractions."""

from __future__ import annotations

import json
import math
import random
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LinearlyInterpolatedMapping, LogarithmicMapping
from ddsketch.store import DenseStore
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms.records import AREA_MAX
from transforms.sketch import BINS_A_DOUBLING, MAPPING, QUANTILES, ZERO, Mapping, Sketch, Values

VALUES = st.just(0.0) | st.floats(1e-9, 1e12) | st.integers(0, 5000).map(float)


def sketch_of(values: npt.ArrayLike) -> Sketch:
    made = Sketch()
    made.add_all(Values.of(np.array(values, np.float64)))
    return made


def of_the_library(values: list[float], mapping: LinearlyInterpolatedMapping) -> BaseDDSketch:
    made = BaseDDSketch(mapping, DenseStore(), DenseStore(), 0)
    for value in values:
        made.add(value)
    return made


@settings(max_examples=150, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=40), share=st.floats(0, 1))
def test_quantiles_are_the_librarys(values: list[float], share: float) -> None:
    expected = of_the_library(values, MAPPING).get_quantile_value(share)
    assert sketch_of(values).quantile(share) == min(max(expected, min(values)), max(values))


def real_areas(folder: Path) -> npt.NDArray[np.float64]:
    file = json.loads((folder / "tinycoco/tinycoco/annotations/instances_train2017.json").read_text())
    return np.array([one["area"] for one in file["annotations"]])


def test_quantiles_are_within_one_percent_of_those_of_real_areas(real_data: Path) -> None:
    check_accuracy(real_areas(real_data))


@pytest.mark.parametrize("distribution", ["lognormal", "pareto", "sides", "many zeros", "shares"])
def test_quantiles_are_within_one_percent(distribution: str) -> None:
    draw = np.random.default_rng(5)
    check_accuracy(
        {
            "lognormal": lambda: draw.lognormal(7, 2, 20_000),
            "pareto": lambda: draw.pareto(0.7, 20_000) + 1,
            "sides": lambda: draw.integers(300, 700, 20_000).astype(float),
            "many zeros": lambda: draw.poisson(0.5, 20_000).astype(float),
            "shares": lambda: draw.beta(0.4, 30, 20_000),
        }[distribution]()
    )


def check_accuracy(values: npt.NDArray[np.float64]) -> None:
    ours, library = sketch_of(values), of_the_library(values.tolist(), LogarithmicMapping(0.01))
    for share in (0.0, *QUANTILES, 1.0):
        exact = float(np.quantile(values, share, method="lower"))
        assert ours.quantile(share) == pytest.approx(exact, rel=0.01), share
        assert ours.quantile(share) == pytest.approx(library.get_quantile_value(share), rel=0.0202, abs=1e-12), share


@settings(max_examples=400, deadline=None)
@given(value=st.floats(1e-300, 1e300))
@example(value=1.0)
@example(value=math.nextafter(1.0, 0))
@example(value=math.nextafter(1.0, 2))
@example(value=256.0)
@example(value=2.0**52 + 1)
def test_a_value_has_the_same_key_alone_and_among_many_and_its_bin_is_narrow(value: float) -> None:
    key = MAPPING.key(value)
    assert Values.of(np.array([value, 0.0])).keys.tolist() == [key, ZERO]
    low, high = MAPPING.value(key - 1), MAPPING.value(key)
    rounding = 1 + 2**-40  # a key is computed in a float
    assert low / rounding < value <= high * rounding
    assert high / low <= 1 + 1 / BINS_A_DOUBLING


def test_keys_take_nothing_from_a_machines_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own mappings multiply by one, and so would ours, were it not said otherwise."""
    expected = [MAPPING.key(value) for value in (0.3, 480.0, 1e9)]
    monkeypatch.setattr(math, "log1p", lambda value: 0.02)
    assert [Mapping().key(value) for value in (0.3, 480.0, 1e9)] == expected


def test_whole_numbers_and_usual_sizes_stand_for_themselves() -> None:
    for value in (*range(257), 480, 640, 720, 1080, 1200, 1920, 3840):
        assert sketch_of([0, value, value, 10_000]).quantile(0.5) == value


@settings(max_examples=100, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=30))
def test_moments_are_exact(values: list[float]) -> None:
    sketch = sketch_of(values)
    rounded = [Fraction(round(value * 10**6), 10**6) for value in values]
    mean = sum(rounded, Fraction()) / len(values)
    variance = sum(((value - mean) ** 2 for value in rounded), Fraction()) / len(values)
    assert sketch.mean == float(mean)
    assert sketch.std_dev == pytest.approx(math.sqrt(variance), rel=1e-15)
    assert (sketch.count, sketch.low, sketch.high) == (len(values), min(values), max(values))
    assert sketch.zeros == values.count(0)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(VALUES, max_size=30), cut=st.integers(0, 30), randomness=st.randoms(use_true_random=False))
def test_sketches_of_parts_merge_to_that_of_the_whole(values: list[float], cut: int, randomness: random.Random) -> None:
    whole = sketch_of(values)
    randomness.shuffle(values)
    one, other = sketch_of(values[:cut]), Sketch()
    for value in values[cut:]:
        other.add(value)
    one.merge(other)
    assert one == whole
    assert one.as_json() == whole.as_json()
    assert sum(count for _, count in whole.values()) == whole.count == len(values)


def test_a_value_several_times() -> None:
    one, other = Sketch(), sketch_of([3.5, 3.5, 3.5, 0, 0])
    one.add(3.5, 3)
    one.add(0, 2)
    one.add(9, 0)
    assert one == other


def test_the_largest_areas_cross_a_shuffle() -> None:
    sketch = sketch_of([AREA_MAX] * 1000)
    found = msgspec.msgpack.decode(msgspec.msgpack.encode(sketch), type=Sketch)
    assert found == sketch
    assert found.mean == pytest.approx(AREA_MAX)
    assert found.std_dev == 0


def test_bins_hold_their_values_ascending() -> None:
    values = np.sort(np.concatenate(([0.0] * 3, np.random.default_rng(2).lognormal(3, 2, 500))))
    counts = sketch_of(values).counts()
    assert counts[0] == (0.0, 0.0, 3)
    assert counts == sorted(counts)
    assert [count for *_, count in counts[1:]] == [int(((low < values) & (values <= high)).sum()) for low, high, _ in counts[1:]]
    assert sum(count for *_, count in counts) == len(values)


def test_the_number_of_bins_is_bounded_by_the_range() -> None:
    draw = np.random.default_rng(3)
    sketch = Sketch()
    for _ in range(20):
        sketch.add_all(Values.of(draw.uniform(1, 2**20, 10_000)))
    assert len(sketch.values()) <= 20 * BINS_A_DOUBLING


def test_a_sketch_as_json() -> None:
    assert Sketch().as_json() == {"count": 0}
    found = sketch_of([1.0, 7.0, 0.0, 1.2, 6.005]).as_json()
    assert found == {
        "count": 5,
        "mean": 3.041,
        "std_dev": 2.87269,
        "min": 0.0,
        "max": 7.0,
        "quantiles": {
            **dict.fromkeys(("0.01", "0.05", "0.1"), 0.0),
            "0.25": 1.0,
            "0.5": 1.20312,
            **dict.fromkeys(("0.75", "0.9", "0.95", "0.99"), 6.03125),
        },
    }


def test_a_sketch_without_values_has_no_quantiles() -> None:
    with pytest.raises(ValueError, match="no quantiles"):
        Sketch().quantile(0.5)
    assert (Sketch().mean, Sketch().std_dev, Sketch().counts()) == (0, 0, [])
