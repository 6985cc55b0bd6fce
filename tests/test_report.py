"""The report as a page: what is in it, that it is sound for odd data sets, small for huge ones, and fails no job."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import random
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Data, Output
from reports import TIME

from beam_pipeline import gallery, pipeline, report
from beam_pipeline.gallery import Picture
from beam_pipeline.hints import DataSet
from beam_pipeline.options import RunOptions
from beam_pipeline.publish import NO_REPORT
from beam_pipeline.report import render
from beam_pipeline.run import Outcome, run, summary
from transforms.statistics import CategoryStatistics, DatasetStatistics, SplitStatistics

VOID = {"meta", "link", "img", "br", "input"}
BROUGHT_ALONG = ("data:", "#")


class Page(HTMLParser):
    """A page, read: fails where elements are not closed in turn."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def count(self, tag: str) -> int:
        return sum(one == tag for one, _ in self.elements)

    def references(self) -> set[str]:
        kinds = ("href", "src", "xlink:href", "action", "data", "srcset", "poster")
        return {value for _, attributes in self.elements for name, value in attributes.items() if name in kinds}


@pytest.fixture(scope="module")
def page(demo_output: Output) -> bytes:
    return (demo_output.folder / "report.html").read_bytes()


def test_it_is_one_sound_page_that_refers_to_nothing_else(page: bytes) -> None:
    read = Page(page)
    assert all(one.startswith(BROUGHT_ALONG) for one in read.references()), read.references()
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {one for one in read.references() if one.startswith("#")} <= {f"#{one}" for one in ids}
    assert not re.search(rb"@import|url\((?!#)", page)


def test_its_script_is_the_only_one_that_may_run(page: bytes) -> None:
    (script,) = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script).digest())
    assert b"default-src 'none'" in page
    assert b"script-src 'sha256-" + allowed + b"'" in page


def test_the_ledger_is_the_manifest_s(page: bytes, demo_output: Output) -> None:
    text = " ".join(Page(page).text.split())
    manifest = demo_output.manifest
    for kind, title in (("images", "Images"), ("annotations", "Instances")):
        assert f"{title}{manifest[kind]['written']}of {manifest[kind]['read']} read" in text
    assert "1 image an image file that is empty, cut off or damaged IMAGE_CORRUPT" in text.replace(
        "damagedIMAGE", "damaged IMAGE"
    ).replace("1 imagean", "1 image an")
    assert "e.g. image 5 (morning/beach-005.jpg), annotation 21: there is no category with id 77" in text


def test_two_runs_differ_in_nothing_but_the_time(
    demo_output: Output, run_demo: Callable[..., Output], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = SimpleNamespace(time=lambda: time.time() - 4000)
    monkeypatch.setattr(pipeline, "time", earlier)
    again = run_demo(splits="train=0.7,val=0.3", num_shards="2")
    first, second = ((output.folder / "report.html").read_bytes() for output in (demo_output, again))
    assert re.fullmatch(rb'<span id="time">\d\d? s</span>', *TIME.findall(first))
    assert TIME.findall(second) == [b'<span id="time">67 min</span>']
    assert TIME.sub(b"", first) == TIME.sub(b"", second)


def test_the_summary_leads_to_it(demo_output: Output) -> None:
    options = RunOptions(annotations="a.json", images="images", output=str(demo_output.folder))
    lines = summary(options, Outcome(demo_output.manifest, 0), 1.0).splitlines()
    (path,) = (line.removeprefix("to look at: ") for line in lines if line.startswith("to look at: "))
    assert Path(path).read_bytes().startswith(b"<!doctype html>")


# --------------------------------------------------------------------------------------------------------- odd data sets


def made_up(
    statistics: DatasetStatistics, names: dict[int, str], splits: tuple[str, ...] = ("train",), pictures: Any = ((), 0)
) -> bytes:
    images = sum(split.images for split in statistics.splits.values())
    instances = sum(split.instances for split in statistics.splits.values())
    manifest = {
        "images": {"read": images, "written": images, "rejected": 0, "dropped": 0},
        "annotations": {"read": instances, "written": instances, "rejected": 0, "dropped": 0},
        "options": {"annotations": "a.json", "format": "coco", "mask_encoding": "png"},
        "reasons": {"image": {}, "annotation": {}},
        "shards": [{"split": split, "file": f"{split}-00000-of-00001.tfrecord", "bytes": 1} for split in splits],
    }
    return render(DataSet.of(manifest, names, statistics), pictures, {}, 1.0)


@pytest.mark.parametrize(
    ("statistics", "names", "plots"),
    [
        (DatasetStatistics(), {}, 0),
        (DatasetStatistics(), {1: "cat"}, 1),
        (DatasetStatistics({"train": SplitStatistics(images=3)}), {1: "cat"}, 1),
        (
            DatasetStatistics({"train": SplitStatistics(images=3, instances=2, categories={1: CategoryStatistics(instances=2)})}),
            {1: "cat"},
            1,
        ),
    ],
)
def test_of_nothing_much(statistics: DatasetStatistics, names: dict[int, str], plots: int) -> None:
    for splits in (("train",), ("train", "val")):
        read = Page(made_up(statistics, names, splits))
        assert read.count("svg") == plots
        assert read.count("nav") == 1


@pytest.mark.parametrize("kept", ["no image", "no annotation", "no category", "boxes alone"])
def test_of_an_odd_data_set_that_was_run(demo_data: Data, tmp_path: Path, kept: str) -> None:
    content = json.loads(demo_data.annotations.read_text())
    if kept == "boxes alone":
        for one in content["annotations"]:
            del one["segmentation"]
    else:
        content["annotations"] = []
        content["images"] = [] if kept == "no image" else content["images"][:3]
        content["categories"] = [] if kept == "no category" else content["categories"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    options = RunOptions(
        annotations=str(tmp_path / "a.json"), images=str(demo_data.images), output=str(tmp_path / "out"), splits="a=0.9,b=0.1"
    )
    run(options, [])
    page = (tmp_path / "out" / "report.html").read_bytes()
    read = Page(page)
    assert "<h1>Data set report</h1>" in page.decode()
    assert read.count("svg") == {"no image": 1, "no annotation": 3, "no category": 2, "boxes alone": 5}[kept]
    assert read.count("img") == {"no image": 0, "boxes alone": read.count("img")}.get(kept, 3)
    assert read.count("img") > 10 or kept != "boxes alone"


def test_of_a_million_images_and_1203_classes_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    randomness = random.Random(4)
    names = {label: f"class number {label} with quite a long name" for label in range(1, 1204)}
    splits = {}
    for split, images in (("train", 800_000), ("val", 200_000)):
        made = SplitStatistics(images=images)
        for label in names:
            count = max(0, round(images * 3 / label**1.3) - 20)
            category = CategoryStatistics(instances=count, images=count)
            for _ in range(min(count, 40)):
                value = randomness.lognormvariate(8, 2)
                category.mask_area.add(value, count // 40)
                made.box_aspect.add(randomness.lognormvariate(0, 0.5), count // 40)
            made.instances += count
            if count:
                made.categories[label] = category
        for number in range(300):
            made.instances_an_image.add(number, max(1, images // 2**number))
            made.image_width.add(300 + 10 * number, 5)
            made.image_height.add(200 + 9 * number, 5)
        made.boxes_over_grid = [randomness.randrange(made.instances) for _ in range(576)]
        splits[split] = made
    noise = base64.b64encode(randomness.randbytes(60_000)).decode()  # a picture of the largest kind
    labels = tuple(range(1, 41))
    pictures = [
        Picture(noise, 480, 320, "x" * 200, "y" * 300, labels, {"at_random": "at random"}) for _ in range(gallery.PICTURES)
    ]
    page = made_up(DatasetStatistics(splits), names, ("train", "val"), (pictures, 0))
    assert len(page) < 5_000_000
    assert len(page) - gallery.PICTURES * len(noise) < 700_000
    read = Page(page)
    assert read.count("svg") == 6
    assert read.count("img") == gallery.PICTURES
    assert len(re.findall(rb'<g id="classes-', page)) == 60
    for name in (names[1], names[1203]):
        assert name in read.text


# --------------------------------------------------------------------------------------------------------------- faults


def test_a_report_that_fails_fails_no_job_and_says_so(
    run_demo: Callable[..., Output], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> bytes:
        raise ValueError("a <b> & c")

    monkeypatch.setattr(report, "render", broken)
    with caplog.at_level(logging.WARNING):
        made = run_demo()
    assert (made.folder / "_SUCCESS").exists()
    expected = NO_REPORT.format(why="ValueError: a &lt;b&gt; &amp; c")
    assert (made.folder / "report.html").read_text() == expected
    assert "the report could not be made" in caplog.text


def test_pictures_that_fail_are_counted_on_the_page(run_demo: Callable[..., Output], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Picture:
        raise OSError("no such picture")

    monkeypatch.setattr(gallery, "make_picture", broken)
    page = (run_demo().folder / "report.html").read_bytes()
    read = Page(page)
    assert read.count("img") == 0
    assert re.search(r"\d\d pictures could not be made; the log says why", read.text)
