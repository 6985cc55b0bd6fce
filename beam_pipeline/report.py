"""The report: one page that says what is in a data set, without a network, on any screen and on paper.

All of it but the time is the same, byte for byte, for the same data set.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from beam_pipeline import __version__, plots
from beam_pipeline.drift import drift
from beam_pipeline.gallery import KINDS, Picture, choose, make_gallery
from beam_pipeline.hints import DataSet, class_counts, hints
from beam_pipeline.pages import make_page, resource
from beam_pipeline.plots import Plot
from beam_pipeline.terminal import duration
from beam_pipeline.words import bits, percent, size, some
from transforms.records import Fix, ReasonCode
from transforms.sketch import Sketch
from transforms.statistics import GRID, DatasetStatistics


def make_report(
    output: str,
    manifest: Mapping[str, Any],
    names: Mapping[int, str],
    statistics: DatasetStatistics,
    examples: Mapping[tuple[str, str], str],
    seconds: float,
) -> bytes:
    """The page for a data set whose shards are in `output`: HTML in UTF-8.

    `names` goes by label id, `examples` by kind and reason of a reject; the job has taken `seconds`.
    """
    data = DataSet.of(manifest, names, statistics)
    chosen = choose(data.whole.samples, {label: data.instances_of(label) for label in names})
    splits = {shard["file"]: shard["split"] for shard in manifest["shards"]}
    return render(data, make_gallery(output, chosen, splits, names), examples, seconds)


def render(
    data: DataSet, gallery: tuple[Sequence[Picture], int], examples: Mapping[tuple[str, str], str], seconds: float
) -> bytes:
    """The page, with a gallery that is made; and how many pictures of it could not be."""
    script = resource("report.js")
    pictures, failed = gallery
    return make_page(
        "report.html",
        {"percent": percent, "size": size, "some": some, "options": as_code},
        css=resource("report.css"),
        js=script,
        js_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        duration=duration(seconds),
        data=data,
        manifest=data.manifest,
        options=data.manifest["options"],
        whole=data.whole,
        hints=hints(data),
        plots=draw_plots(data),
        drifts=list(drifts(data)),
        rejects=rejects(data.manifest, examples),
        fixes=[(count, Fix[name].value) for name, count in sorted(data.whole.fixes.items())],
        pictures=pictures,
        failed=failed,
        classes=[(label, data.names[label]) for label in sorted({label for one in pictures for label in one.labels})],
        kinds=[(kind, name) for kind, name in KINDS.items() if any(kind in one.reasons for one in pictures)],
    )


def as_code(text: str) -> Markup:
    """Text for the page, in which names of options are set as such, and stay in one piece."""
    return Markup(re.sub(r"--\w+", r"<code>\g<0></code>", str(escape(text))))


def draw_plots(data: DataSet) -> list[Plot]:
    """The plots that there is something for."""
    whole = data.whole
    by_split = {name: class_counts(split) for name, split in data.splits.items()}
    area = Sketch()
    for category in whole.categories.values():
        area.merge(category.mask_area)
    in_an_image, aspect = whole.instances_an_image, whole.box_aspect
    width, height = whole.image_width, whole.image_height
    grid = [whole.boxes_over_grid[start : start + GRID] for start in range(0, GRID**2, GRID)]
    with plots.style():
        drawn = [
            plots.classes(data.names, by_split),
            in_an_image.count and plots.instances_an_image(in_an_image.counts(), in_an_image.quantile(0.5), in_an_image.high),
            area.count and plots.mask_area(area.counts(), area.quantile(0.5)),
            aspect.count and plots.box_aspect(aspect.counts(), aspect.quantile(0.5)),
            width.count
            and plots.image_sizes(width.counts(), height.counts(), (width.low, width.high), (height.low, height.high)),
            aspect.count and plots.where(grid, aspect.count, width.mean / height.mean),
        ]
    return [plot for plot in drawn if plot]


def drifts(data: DataSet) -> Iterator[str]:
    """How the classes of each split differ from those of the first, in words."""
    (first, of_first), *others = data.splits.items()
    for name, split in others:
        found = drift(class_counts(of_first), class_counts(split))
        if found:
            by_chance = f"{bits(found.by_chance)} of it" if found.by_chance < found.divergence else "as much"
            shares = f"{percent(found.first)} of {first}, {percent(found.second)} of {name}"
            yield (
                f"The classes of {first} and {name} have a Jensen–Shannon divergence of {bits(found.divergence)} bits: 0 is the "
                f"same shares, 1 no class in common. In splits of these sizes chance alone makes {by_chance}. They differ most "
                f"in {data.names[found.label]}: {shares}."
            )


def rejects(manifest: Mapping[str, Any], examples: Mapping[tuple[str, str], str]) -> list[tuple[str, str, int, str, str]]:
    """What is not in the records: (kind, code, count, meaning, example), the most frequent first, what was asked for last."""
    rows = [
        (kind, code, count, ReasonCode[code].value, examples.get((kind, code), ""))
        for kind, codes in manifest["reasons"].items()
        for code, count in codes.items()
    ]
    return sorted(rows, key=lambda row: (ReasonCode[row[1]].by_option, row[0] == "annotation", -row[2], row[1]))
