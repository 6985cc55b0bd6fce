"""The report's plots: SVG whose colours are the page's, with a sentence for who can't see it, and its numbers as a table.

Drawn by matplotlib, 360 units wide, so that on a phone a unit is about a pixel. The same numbers give the same bytes. A bar
carries its plot, series and row in its id, and what it stands for as its title.
"""

from __future__ import annotations

import html
import io
import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from beam_pipeline.words import percent, some

WIDTH = 360
"""Of every plot; lengths and sizes of text are in the same units, a 72nd of matplotlib's inch."""
INK, FAINT, QUIET = "#010101", "#020202", "#030303"
SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404")
VARIABLES = {INK: "--ink", FAINT: "--line", QUIET: "--muted", **{colour: f"--series-{n}" for n, colour in enumerate(SERIES, 1)}}
"""Colours that stand for those of the page, which change with its scheme."""
HEAT = (0x2B, 0x7B, 0xBA)
"""Of the heat map, which is a picture: as opaque as boxes are frequent, so it does on any ground."""
STYLE: dict[Any, Any] = {
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.labelcolor": QUIET,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # matplotlib's own: nothing depends on the fonts of this machine
    "font.size": 12,
    "svg.fonttype": "none",
    "svg.hashsalt": "maskbeam",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "xtick.labelsize": 11.5,
    "ytick.color": QUIET,
    "ytick.labelsize": 11.5,
}
MOST_FREQUENT, RAREST = 20, 10
"""The classes that are drawn where there are more; all are in the table."""
LOG_FROM = 100
"""How many times the least frequent class the most frequent one has, from where on their axis is logarithmic."""
NAME_UNITS = 17
"""The letters of a class's name that are shown beside its bar."""
BINS = 24
SMALL, LARGE = 32**2, 96**2
"""Pixels of a mask: below and from where on COCO's evaluation takes an object for small, and for large."""

Counts = Sequence[tuple[float, float, int]]
Span = tuple[float, float]
"""From, to, and how many values lie between: a histogram as fine as the statistics have it."""


class Plot(NamedTuple):
    """A plot on the page; `finding` is its alternative text, `rows` its data, `note` a line below it."""

    name: str
    title: str
    finding: str
    note: str
    svg: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    height: float
    legend: tuple[str, ...] = ()


# --------------------------------------------------------------------------------------------------------- drawing


def to_svg(figure: Figure, name: str, titles: Mapping[str, str], finding: str) -> str:
    """The figure as an element for the page; `titles` are shown where the pointer rests on the element of that id."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", text, flags=re.DOTALL)  # a style would be the whole page's
    view = re.search(r'viewBox="[^"]*"', text)
    label = html.escape(finding)
    head = f'<svg role="img" aria-label="{label}" {view[0] if view else ""} xmlns:xlink="http://www.w3.org/1999/xlink">'
    text = re.sub(r"<svg.*?>", lambda _: head, text, count=1, flags=re.DOTALL)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    referred = {one or other for one, other in used}

    def own_id(found: re.Match[str]) -> str:
        if found[1] in titles:
            return found[0]
        return f' id="{name}-{found[1]}"' if found[1] in referred else ""

    text = re.sub(r' id="([^"]*)"', own_id, text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'<g id="([^"]*)">', lambda found: f"{found[0]}<title>{html.escape(titles[found[1]])}</title>", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    return re.sub(r"\s*\n\s*", " ", text).strip()


@contextmanager
def style() -> Iterator[None]:
    """Within it, plots are drawn."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the settings of this machine are
        mpl.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser has a font for it
        yield


def new_figure(height: float, rows: int = 1, **margins: float) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, from the top; `margins` in units."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    left, right = margins.get("left", 46), margins.get("right", 10)
    bottom, top = margins.get("bottom", 38), margins.get("top", 8)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0].tolist()
    figure.subplots_adjust(left / WIDTH, bottom / height, 1 - right / WIDTH, 1 - top / height, hspace=0.25)
    return figure, axes


def short_number(value: float, _: object = None) -> str:
    """A number for an axis: 1,200 as 1.2k."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def short_name(name: str) -> str:
    """A name in one line, cut where it is too wide to stand beside a bar; a wide letter counts twice."""
    width, shown = 0, ""
    for letter in (one := " ".join(name.split())):
        width += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if width > NAME_UNITS:
            return shown.rstrip() + "…"
        shown += letter
    return one


def draw_bars(
    axis: Axes, name: str, series: int, edges: Sequence[float], counts: Sequence[int], between: Sequence[str]
) -> dict[str, str]:
    """Draws a histogram, whose bins are `between`, in words; the titles of its bars."""
    titles = {}
    for row, ((low, high), count) in enumerate(zip(pairwise(edges), counts, strict=True)):
        if count:
            (bar,) = axis.bar(low, count, high - low, align="edge", color=SERIES[series], linewidth=0)
            bar.set_gid(f"{name}-{series}-{row}")
            titles[f"{name}-{series}-{row}"] = f"{between[row]}: {count:,}"
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_formatter(FuncFormatter(short_number))
    axis.grid(axis="y", color=FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    return titles


def finish(
    figure: Figure,
    name: str,
    title: str,
    finding: str,
    titles: Mapping[str, str],
    columns: tuple[str, ...],
    rows: Iterable[tuple[Any, ...]],
    note: str = "",
    legend: tuple[str, ...] = (),
) -> Plot:
    """The plot of a figure that is drawn."""
    svg = to_svg(figure, name, titles, finding)
    return Plot(name, title, finding, note, svg, columns, list(rows), 72 * figure.get_figheight(), legend)


def number(value: float) -> str:
    """A bound of a bin, for people."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


# ------------------------------------------------------------------------------------------------------------ bins


def regroup(counts: Counts, edges: Sequence[float]) -> list[int]:
    """How many values lie between each edge and the next; what a fine bin holds goes where its middle lies."""
    found = [0] * (len(edges) - 1)
    place = 0
    for low, high, count in sorted(counts):
        while place < len(found) - 1 and (low + high) / 2 >= edges[place + 1]:
            place += 1
        found[place] += count
    return found


def even_edges(low: float, high: float, whole: bool = False) -> list[float]:
    """At most `BINS` even bins of a round width; where `whole`, around whole numbers, and no narrower than one."""
    width = max(high - low, 1.0 if whole else 1e-9) / (BINS - 2)
    power = 10.0 ** math.floor(math.log10(width))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    start = math.floor(low / step) * step
    count = math.floor((high - start) / step) + 1
    return [start + index * step - (0.5 if whole else 0) for index in range(count + 1)]


def doubling_edges(low: float, high: float, middle: float = 0.0) -> list[float]:
    """At most `BINS` bins of the same ratio, a power of two or a root of it.

    `middle` says where 1 lies in its bin: 0 where it is an edge, 0.5 in the middle.
    """
    first, last = math.log2(low), math.log2(high)
    step = next(step for step in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 128.0) if (last - first) / step <= BINS - 2)
    start = math.floor(first / step + middle) - middle
    count = math.floor(last / step - start) + 1
    return [2.0 ** ((start + index) * step) for index in range(count + 1)]


def spans(edges: Sequence[float]) -> list[str]:
    """Each bin in words."""
    return [f"{number(low)} to {number(high)}" for low, high in pairwise(edges)]


def bin_rows(edges: Sequence[float], counts: Sequence[int]) -> list[tuple[str, str, int]]:
    """From, to and count of each bin, for a table."""
    return [(number(low), number(high), count) for (low, high), count in zip(pairwise(edges), counts, strict=True)]


# ----------------------------------------------------------------------------------------------------------- plots


class Drawn(NamedTuple):
    """The classes that have bars, most frequent first, by label id; how many are left out after the first `MOST_FREQUENT`."""

    labels: list[int]
    left_out: int


def classes_drawn(totals: Mapping[int, int]) -> Drawn:
    """All classes, or the most frequent and the rarest of those that occur."""
    order = sorted(totals, key=lambda label: (-totals[label], label))
    if len(order) <= MOST_FREQUENT + RAREST:
        return Drawn(order, 0)
    some = [label for label in order if totals[label]] or order[:1]
    rest = some[MOST_FREQUENT:]
    return Drawn(some[:MOST_FREQUENT] + rest[-RAREST:], max(0, len(rest) - RAREST))


def classes(names: Mapping[int, str], splits: Mapping[str, Mapping[int, int]]) -> Plot | None:
    """Instances of each class, by split; `splits` gives counts by label id. The most frequent and the rarest, if many."""
    if not names:
        return None
    totals = {label: sum(of_split.get(label, 0) for of_split in splits.values()) for label in names}
    labels, left_out = classes_drawn(totals)
    series = dict(splits) if len(splits) <= len(SERIES) else {"all splits": totals}
    least, most = min((total for total in totals.values() if total), default=1), max(totals.values())
    log = most >= LOG_FROM * least
    start = 0.7 if log else 0.0
    thick, gap = (10, 9) if len(series) > 1 else (12, 8)
    pitch = thick * len(series) + gap
    tops = [pitch * (row + (left_out > 0 and row >= MOST_FREQUENT)) for row in range(len(labels))]
    tall = tops[-1] + pitch

    figure, (axis,) = new_figure(tall + 30, left=128, right=42, bottom=24, top=6)
    titles = {}
    for index, (split, counts) in enumerate(series.items()):
        for label, top in zip(labels, tops, strict=True):
            count, y = counts.get(label, 0), top + gap / 2 + thick * index
            if count:
                (bar,) = axis.barh(y, count - start, thick - 1, start, align="edge", color=SERIES[index], linewidth=0)
                bar.set_gid(f"classes-{index}-{label}")
                titles[f"classes-{index}-{label}"] = f"{names[label]}, {split}: {count:,}"
            end = (max(count, start), y + thick / 2)
            said = short_number(count)
            axis.annotate(said, end, (3, 0), textcoords="offset points", va="center_baseline", fontsize=10.5, color=QUIET)
    if left_out:
        between = (start, tops[MOST_FREQUENT] - pitch / 2)
        axis.annotate(f"{left_out:,} more", between, (6, 0), textcoords="offset points", va="center_baseline", color=QUIET)
    axis.set_yticks([top + pitch / 2 for top in tops], [short_name(names[label]) for label in labels], color=INK)
    axis.tick_params(length=0)
    axis.set_ylim(tall, 0)
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(short_number))
    axis.set_xlim(start, max(most, 1) * (1.3 if log else 1.02))
    axis.grid(axis="x", color=FAINT, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines["left"].set_visible(False)

    order = sorted(totals, key=lambda label: (-totals[label], label))
    some = [label for label in order if totals[label]]
    finding = f"Instances of each class: {names[order[0]]} has the most, {most:,}"
    if len(some) > 1:
        finding += f"; {names[some[-1]]} the fewest, {least:,}"
    if len(some) < len(order):
        finding += f"; {len(order) - len(some):,} have none"
    note = "The scale is logarithmic." if log else ""
    columns = ("id", "class", *splits, *(("all",) if len(splits) > 1 else ()))
    of_splits = ((label, [of_split.get(label, 0) for of_split in splits.values()]) for label in order)
    rows = [(label, names[label], *counts, *((sum(counts),) if len(counts) > 1 else ())) for label, counts in of_splits]
    legend = tuple(series) if len(series) > 1 else ()
    return finish(figure, "classes", "Instances of each class", f"{finding}.", titles, columns, rows, note, legend)


def instances_an_image(counts: Counts, median: float, most: float) -> Plot | None:
    """How many instances images have; whole numbers."""
    if not counts:
        return None
    edges = even_edges(min(low for low, _, _ in counts), most, whole=True)
    found = regroup(counts, edges)
    figure, (axis,) = new_figure(220)
    bounds = [(math.ceil(low), math.ceil(high) - 1) for low, high in pairwise(edges)]
    between = [some(low, "instance") if low == high else f"{low:,} to {high:,} instances" for low, high in bounds]
    titles = draw_bars(axis, "instances", 0, edges, found, between)
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(short_number))
    axis.set_xlim(edges[0], edges[-1])
    axis.set_xlabel("instances")
    axis.set_ylabel("images")
    finding = f"Instances an image: half of the images have {median:,.0f} or fewer, the fullest has {most:,.0f}."
    rows = ((*of_bin, count) for of_bin, count in zip(bounds, found, strict=True))
    return finish(figure, "instances", "Instances an image", finding, titles, ("from", "to", "images"), rows)


def mask_area(counts: Counts, median: float) -> Plot | None:
    """How large masks are, in pixels; on a logarithmic scale, with COCO's bounds of small and large."""
    counts = [one for one in counts if one[1] > 0]
    if not counts:
        return None
    edges = doubling_edges(min(low for low, _, _ in counts), max(high for _, high, _ in counts))
    found = regroup(counts, edges)
    figure, (axis,) = new_figure(220, top=22)
    axis.set_xscale("log", base=2)
    titles = draw_bars(axis, "area", 0, edges, found, [f"{between} pixels" for between in spans(edges)])
    axis.set_xlim(edges[0], edges[-1])
    for first, last, name in ((0, SMALL, "small"), (SMALL, LARGE, "medium"), (LARGE, math.inf, "large")):
        low, high = max(first, edges[0]), min(last, edges[-1])
        if high > 2 * low:  # there is room
            place = (math.sqrt(low * high), 1)
            axis.annotate(name, place, (0, 5), ("data", "axes fraction"), "offset points", ha="center", fontsize=11, color=QUIET)
        if edges[0] < last < edges[-1]:
            axis.axvline(last, color=QUIET, linewidth=1, linestyle=(0, (3, 3)))
    sides = [1 << power for power in range(40) if edges[0] <= 4**power <= edges[-1]]
    sides = sides[:: max(1, math.ceil(len(sides) / 9))]
    axis.set_xticks([side**2 for side in sides], [f"{side:,}²" for side in sides])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("pixels, logarithmic")
    axis.set_ylabel("instances")
    total = sum(found)
    small, medium, large = regroup(counts, [0, SMALL, LARGE, math.inf])
    shares = f"{percent(small / total)} are small, {percent(medium / total)} medium, {percent(large / total)} large"
    finding = f"Area of the masks: half have {number(median)} pixels or fewer; {shares}."
    note = f"By COCO's bounds, 32² and 96² pixels, {shares}."
    columns, rows = ("from", "to", "instances"), bin_rows(edges, found)
    return finish(figure, "area", "Area of the masks", finding, titles, columns, rows, note)


def box_aspect(counts: Counts, median: float) -> Plot | None:
    """How wide boxes are for their height; on a logarithmic scale."""
    counts = [one for one in counts if one[1] > 0]
    if not counts:
        return None
    edges = doubling_edges(min(low for low, _, _ in counts), max(high for _, high, _ in counts), 0.5)
    found = regroup(counts, edges)
    figure, (axis,) = new_figure(220)
    axis.set_xscale("log", base=2)
    titles = draw_bars(axis, "aspect", 0, edges, found, [f"{between} times as wide as high" for between in spans(edges)])
    axis.set_xlim(edges[0], edges[-1])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} : 1" if value >= 1 else f"1 : {1 / value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("width : height, logarithmic")
    axis.set_ylabel("instances")
    tall, _, wide = regroup(counts, [0, 1 / 3, 3, math.inf])
    total = sum(found)
    finding = (
        f"Shape of the boxes: half are at most {number(median)} times as wide as high; {percent(wide / total)} are more "
        f"than three times as wide as high, {percent(tall / total)} more than three times as high as wide."
    )
    columns, rows = ("from", "to", "instances"), bin_rows(edges, found)
    return finish(figure, "aspect", "Shape of the boxes", finding, titles, columns, rows)


def _from_to(span: Span) -> str:
    return " to ".join(dict.fromkeys(map(number, span)))


def image_sizes(widths: Counts, heights: Counts, wide: Span, high: Span) -> Plot | None:
    """Widths and heights of the images, in pixels; the least and the greatest of each."""
    if not widths or not heights:
        return None
    both = [*widths, *heights]
    edges = even_edges(min(low for low, _, _ in both), max(high for _, high, _ in both))
    found = [regroup(widths, edges), regroup(heights, edges)]
    figure, axes = new_figure(220, rows=2)
    titles: dict[str, str] = {}
    for index, (axis, name, direction) in enumerate(zip(axes, ("width", "height"), ("wide", "high"), strict=True)):
        said = [f"{between} pixels {direction}" for between in spans(edges)]
        titles |= draw_bars(axis, "sizes", index, edges, found[index], said)
        axis.set_ylabel(name)
        axis.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes[-1].set_xlim(edges[0], edges[-1])
    axes[-1].xaxis.set_major_locator(MaxNLocator(6))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes[-1].set_xlabel("pixels")
    finding = f"Sizes of the images: {_from_to(wide)} pixels wide and {_from_to(high)} high."
    columns = ("from", "to", "widths", "heights")
    rows = ((*of_bin, of_height) for of_bin, of_height in zip(bin_rows(edges, found[0]), found[1], strict=True))
    return finish(figure, "sizes", "Sizes of the images", finding, titles, columns, rows)


def where(grid: Sequence[Sequence[int]], boxes: int, aspect: float) -> Plot | None:
    """Where objects are: how many of `boxes` cover each cell of the grid, rows from the top; `aspect` is width / height."""
    most = max(map(max, grid), default=0)
    if not most:
        return None
    rows, columns = len(grid), len(grid[0])
    pixels = np.zeros((rows, columns, 4), np.uint8)
    pixels[..., :3] = HEAT
    pixels[..., 3] = np.rint(np.asarray(grid, np.float64) * (255 / most))
    figure, (axis,) = new_figure(min(300.0, 340 / max(aspect, 0.7)) + 8, left=10, right=10, bottom=4, top=4)
    axis.imshow(pixels, interpolation="none", aspect=columns / rows / aspect)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(True)
    row, column = divmod(int(np.argmax(grid)), columns)
    down = ("top", "middle", "bottom")[3 * row // rows]
    across = ("left", "centre", "right")[3 * column // columns]
    place = "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"
    least = min(map(min, grid))
    finding = (
        f"Where objects are: most often at the {place} of the image, where {percent(most / boxes)} of the boxes lie over one "
        f"place; least often, {percent(least / boxes)} do."
    )
    note = f"The stronger the colour, the more boxes lie there: {percent(least / boxes)} to {percent(most / boxes)} of them."
    head = ("", *map(str, range(1, columns + 1)))
    return finish(figure, "where", "Where objects are", finding, {}, head, ((y, *line) for y, line in enumerate(grid, 1)), note)
