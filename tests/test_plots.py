"""Plots as SVG: bins, what is drawn of many classes, and that the page's colours are all there is. The browser tests the rest."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from beam_pipeline import plots
from beam_pipeline.plots import Plot
from transforms.sketch import Sketch

SVG = "{http://www.w3.org/2000/svg}"


def parsed(plot: Plot | None) -> ElementTree.Element:
    assert plot is not None
    return ElementTree.fromstring(plot.svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def titles(plot: Plot | None) -> dict[str, str]:
    groups = parsed(plot).iter(f"{SVG}g")
    return {str(group.get("id")): str(group[0].text) for group in groups if len(group) and group[0].tag == f"{SVG}title"}


def draw_all() -> list[Plot]:
    counts = [(1.0, 1.0, 3), (50.0, 51.0, 4), (5000.0, 5050.0, 2)]
    with plots.style():
        made = [
            plots.classes({1: "a $x^2$", 2: "dög & <b>"}, {"train": {1: 5, 2: 3}, "val": {1: 2}}),
            plots.instances_an_image([(0.0, 0.0, 3), (3.0, 3.0, 4)], 3.0, 3.0),
            plots.mask_area(counts, 50.0),
            plots.box_aspect([(0.5, 0.51, 4), (1.0, 1.0, 4)], 1.0),
            plots.image_sizes([(636.0, 640.0, 3)], [(426.0, 428.0, 1), (478.0, 480.0, 2)], (640.0, 640.0), (427.0, 480.0)),
            plots.where([[0, 1, 2], [3, 4, 5]], 10, 1.5),
        ]
    return [plot for plot in made if plot]


def test_all_colours_are_the_page_s() -> None:
    for plot in draw_all():
        colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", plot.svg))
        assert {one for one in colours if not one.startswith("var(--")} <= {"none"}, plot.name
        assert "#0" not in plot.svg.replace('href="#', "")


def test_a_plot_brings_nothing_of_this_machine() -> None:
    settings = {
        "font.size": 30,
        "axes.facecolor": "red",
        "xtick.major.width": 5,
        "lines.linewidth": 9,
        "svg.hashsalt": "other",
        "text.parse_math": True,
    }
    plain = draw_all()
    before = dict(mpl.rcParams)
    with mpl.rc_context(settings):
        assert draw_all() == plain
    assert dict(mpl.rcParams) == before
    for plot in plain:
        assert not re.search(r"<metadata|<style|<!--|<\?xml|<!DOCTYPE|DejaVu|20\d\d-\d\d", plot.svg)
        assert set(re.findall(r"https?://[^\"]+", plot.svg)) <= {"http://www.w3.org/1999/xlink"}


def test_the_same_plots_in_another_process() -> None:
    code = "import test_plots, hashlib; print(hashlib.sha256(repr(test_plots.draw_all()).encode()).hexdigest())"
    found = set()
    for seed in ("1", "2"):
        settings = {"PYTHONHASHSEED": seed, "PYTHONPATH": "tests:."}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=settings)
        found.add(done.stdout)
    assert len(found) == 1


def test_ids_are_one_plot_s_own() -> None:
    ids = [one for plot in draw_all() for one in re.findall(r' id="([^"]+)"', plot.svg)]
    assert len(ids) == len(set(ids)) > 10
    for plot in draw_all():
        referred = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', plot.svg))
        assert {one or other for one, other in referred} <= set(re.findall(r' id="([^"]+)"', plot.svg))


def test_names_are_text() -> None:
    plot = draw_all()[0]
    texts = [text.text for text in parsed(plot).iter(f"{SVG}text")]
    assert {"dög & <b>", "a $x^2$"} <= set(texts)
    assert titles(plot)["classes-0-2"] == "dög & <b>, train: 3"


# ---------------------------------------------------------------------------------------------------------------- bins


@pytest.mark.parametrize(("low", "high"), [(0.98, 1.0), (1, 1), (0.3, 7e8), (1e-6, 6e8), (5, 12), (1000, 1e5)])
@pytest.mark.parametrize("middle", [0.0, 0.5])
def test_doubling_edges_hold_all_and_are_few(low: float, high: float, middle: float) -> None:
    edges = plots.doubling_edges(low, high, middle)
    assert edges[0] <= low
    assert high < edges[-1]
    assert 2 <= len(edges) <= plots.BINS + 1
    ratios = [math.log2(other / one) for one, other in itertools.pairwise(edges)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert any(ratios[0] == pytest.approx(step) for step in (0.25, 0.5, 1, 2, 4, 8, 128))
    place = math.log2(edges[0]) / ratios[0] + middle
    assert place == pytest.approx(round(place), abs=1e-6)


@pytest.mark.parametrize(("low", "high"), [(480, 640), (640, 640), (1, 30000), (0.99, 3.2), (426.5, 427.5)])
def test_even_edges_hold_all_and_are_round(low: float, high: float) -> None:
    edges = plots.even_edges(low, high)
    assert edges[0] <= low
    assert high < edges[-1]
    assert 2 <= len(edges) <= plots.BINS + 1
    step = edges[1] - edges[0]
    assert np.diff(edges) == pytest.approx(step)
    assert f"{step:.0e}"[0] in "125"


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 5), (3, 22), (0, 23), (0, 24), (0, 1000)])
def test_whole_numbers_lie_within_their_bins(low: int, high: int) -> None:
    edges = plots.even_edges(low, high, whole=True)
    assert edges[0] == int(edges[0]) + (0.5 if edges[0] > 0 else -0.5)
    width = edges[1] - edges[0]
    assert width >= 1
    assert width == int(width)
    assert edges[0] <= low
    assert high < edges[-1]
    assert len(edges) <= plots.BINS + 1


def test_regrouping_loses_nothing() -> None:
    randomness = np.random.default_rng(3)
    values = randomness.lognormal(7, 2, 5000)
    sketch = Sketch()
    for value in values.tolist():
        sketch.add(value)
    edges = plots.doubling_edges(values.min(), values.max())
    found = plots.regroup(sketch.counts(), edges)
    assert sum(found) == 5000
    for count, low, high in zip(found, edges, edges[1:], strict=False):
        surely, perhaps = (int(((values >= low * one) & (values < high / one)).sum()) for one in (1.01, 0.99))
        assert surely <= count <= perhaps


def test_a_fine_bin_on_an_edge_goes_where_its_middle_lies() -> None:
    assert plots.regroup([(1.8, 2.1, 1), (1.9, 2.3, 2), (2.9, 3.0, 4)], [1, 2, 3]) == [1, 6]


def test_what_lies_beyond_the_edges_goes_to_the_first_and_the_last_bin() -> None:
    assert plots.regroup([(9.0, 9.0, 1), (1.0, 1.0, 2), (4.0, 4.0, 4)], [2, 3, 5]) == [2, 5]


# ------------------------------------------------------------------------------------------------------------- classes


def test_few_classes_are_all_drawn_the_empty_ones_too() -> None:
    totals = {label: label % 7 for label in range(1, 31)}
    drawn = plots.classes_drawn(totals)
    assert drawn.left_out == 0
    assert drawn.labels == sorted(totals, key=lambda label: (-totals[label], label))


def test_of_many_the_most_frequent_and_the_rarest_that_occur() -> None:
    totals = {label: max(0, 1300 - label) for label in range(1, 1401)}
    drawn = plots.classes_drawn(totals)
    assert drawn.labels == [*range(1, 21), *range(1290, 1300)]
    assert drawn.left_out == 1299 - 30
    with plots.style():
        plot = plots.classes({label: f"class {label}" for label in totals}, {"train": totals})
    assert plot is not None
    assert len(plot.rows) == 1400
    assert set(titles(plot)) == {f"classes-0-{label}" for label in drawn.labels}
    assert "1,269 more" in [text.text for text in parsed(plot).iter(f"{SVG}text")]
    assert plot.finding == "Instances of each class: class 1 has the most, 1,299; class 1299 the fewest, 1; 101 have none."
    assert "logarithmic" in plot.note
    assert len(plot.svg) < 60_000


@pytest.mark.parametrize("occurring", [0, 1, 5, 20, 21, 29, 30, 31])
def test_of_many_few_occur(occurring: int) -> None:
    totals = {label: int(label <= occurring) for label in range(1, 51)}
    drawn = plots.classes_drawn(totals)
    assert drawn.labels == (list(range(1, min(occurring, 20) + 1)) + list(range(max(21, occurring - 9), occurring + 1)) or [1])
    assert drawn.left_out == max(0, occurring - 30)
    with plots.style():
        assert plots.classes(dict.fromkeys(totals, "x"), {"train": totals}) is not None


def test_more_splits_than_colours_are_drawn_together() -> None:
    splits = {f"fold{number}": {1: number, 2: 1} for number in range(1, 6)}
    with plots.style():
        plot = plots.classes({1: "cat", 2: "dog"}, splits)
    assert plot is not None
    assert titles(plot) == {"classes-0-1": "cat, all splits: 15", "classes-0-2": "dog, all splits: 5"}
    assert plot.legend == ()
    assert plot.rows == [(1, "cat", 1, 2, 3, 4, 5, 15), (2, "dog", 1, 1, 1, 1, 1, 5)]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        ("a\nb  c", "a b c"),
        ("seventeen letters", "seventeen letters"),
        ("eighteen lettersss", "eighteen letterss…"),
        ("", ""),
        ("船" * 8, "船" * 8),
        ("船" * 9, "船" * 8 + "…"),
    ],
)
def test_names_are_cut_by_their_width(name: str, shown: str) -> None:
    assert plots.short_name(name) == shown


def test_nothing_to_draw() -> None:
    with plots.style():
        assert plots.classes({}, {"train": {}}) is None
        assert plots.instances_an_image([], 0, 0) is None
        assert plots.mask_area([(0.0, 0.0, 5)], 0) is None
        assert plots.box_aspect([], 1) is None
        assert plots.image_sizes([], [], (0, 0), (0, 0)) is None
        assert plots.where([[0, 0]], 0, 1.0) is None


@pytest.mark.parametrize(
    ("grid", "place"),
    [
        ([[9, 0, 0], [0] * 3, [0] * 3], "top left"),
        ([[0] * 3, [0, 9, 0], [0] * 3], "centre"),
        ([[0] * 3, [0] * 3, [0, 9, 0]], "bottom centre"),
        ([[0] * 3, [0, 0, 9], [0] * 3], "middle right"),
    ],
)
def test_the_heat_map_says_where_most_is(grid: list[list[int]], place: str) -> None:
    with plots.style():
        plot = plots.where(grid, 10, 4 / 3)
    assert plot is not None
    assert f"at the {place} of the image, where 90" in plot.finding
