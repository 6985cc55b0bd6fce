"""The report in a real browser: what it shows is counted against the records, read by TensorFlow and Pillow alone."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from browser import DESKTOP, PHONE, SCHEMES, Browser
from conftest import Data, Output, whole_tinycoco
from PIL import Image

from beam_pipeline.options import RunOptions
from beam_pipeline.run import run

REPORT = "report.html"

BARS = """
[...document.querySelectorAll("#plot-NAME svg g[id^='NAME-'] > title")].map((title) => {
  const shape = title.parentNode.querySelector("path").getBoundingClientRect();
  return [title.parentNode.id, title.textContent, shape.width, shape.height];
})
"""
TABLE = """
[...document.querySelectorAll("#plot-NAME tbody tr")].map((row) => [...row.children].map((cell) => cell.textContent))
"""
HEAT = """
(() => {
  const picture = document.querySelector("#plot-where svg image");
  return picture.getAttribute("xlink:href") || picture.getAttribute("href");
})()
"""
GALLERY = """
[...document.querySelectorAll(".gallery figure")].map((one) => {
  const picture = one.querySelector("img");
  return {
    shown: one.getClientRects().length > 0, width: picture.naturalWidth, height: picture.naturalHeight,
    alternative: picture.alt, caption: one.querySelector("figcaption").innerText,
    labels: one.dataset.labels, kinds: one.dataset.kinds,
  };
})
"""
CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const parts = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [red, green, blue] = colour.slice(0, 3).map((one) => one / 255)
      .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return parts("white");
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || element.matches("title, script, option")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const colour = parts(element.closest("svg") ? style.fill : style.color);
    const [dark, light] = [luminance(colour), luminance(ground(element))].sort((one, other) => one - other);
    found.push([(light + 0.05) / (dark + 0.05), texts.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found.sort((one, other) => one[0] - other[0]);
})()
"""


class Record(NamedTuple):
    """What a record says, by TensorFlow's message and Pillow."""

    split: str
    name: str
    height: int
    width: int
    labels: list[int]
    boxes: np.ndarray
    areas: list[int]


@pytest.fixture(scope="module")
def records(tf: Any, demo_output: Output) -> list[Record]:
    found = []
    for path in sorted(demo_output.folder.glob("*.tfrecord")):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            feature = tf.train.Example.FromString(data).features.feature
            of_boxes = [feature[f"image/object/bbox/{side}"].float_list.value for side in ("ymin", "xmin", "ymax", "xmax")]
            masks = [np.asarray(Image.open(io.BytesIO(png))) for png in feature["image/object/mask"].bytes_list.value]
            found.append(
                Record(
                    path.name.split("-")[0],
                    feature["image/filename"].bytes_list.value[0].decode(),
                    feature["image/height"].int64_list.value[0],
                    feature["image/width"].int64_list.value[0],
                    list(feature["image/object/class/label"].int64_list.value),
                    np.array(of_boxes, np.float64).T,
                    [int(mask.astype(bool).sum()) for mask in masks],
                )
            )
    assert len(found) == 29
    return found


@pytest.fixture(scope="module")
def page(demo_output: Output) -> Path:
    return demo_output.folder / REPORT


@pytest.fixture(scope="module")
def real_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(__file__).resolve().parents[3] / "shared" / "data" / "tinycoco" / "tinycoco"
    if not root.is_dir():
        pytest.skip(f"there is no real data at {root}")
    folder = tmp_path_factory.mktemp("tinycoco")
    data = whole_tinycoco(root, folder)
    given = {"annotations": str(data.annotations), "images": str(data.images), "output": str(folder / "out")}
    run(RunOptions(**given, splits="train=0.6,val=0.2,test=0.2"), [])
    return folder / "out" / REPORT


def bars(browser: Browser, page: Path, name: str) -> dict[str, tuple[str, float, float]]:
    """By id: the title of a bar, its width and height on the screen."""
    seen = browser.look(page, script=BARS.replace("NAME", name))
    found = {one: (title, width, height) for one, title, width, height in seen.value}
    assert len(found) == len(seen.value), "an id is there twice"
    return found


def table(browser: Browser, page: Path, name: str) -> list[list[str]]:
    rows: list[list[str]] = browser.look(page, script=TABLE.replace("NAME", name)).value
    return rows


# ------------------------------------------------------------------------------------------------------------ the page


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("which", ["demo", "tinycoco"])
def test_it_renders_without_a_complaint_a_request_or_a_scroll_bar(
    browser: Browser, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    page = request.getfixturevalue("page" if which == "demo" else "real_page")
    heading = "document.querySelector('h1').textContent"
    seen = browser.look(page, width, scheme, heading, screenshot=f"report-{which}")
    assert (seen.messages, seen.requests, seen.overflow, seen.value) == ([], [], 0, "Data set report")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_is_legible(browser: Browser, page: Path, scheme: str) -> None:
    opened = "document.querySelectorAll('details').forEach((one) => one.open = true), "
    found = browser.look(page, scheme=scheme, script=opened + CONTRASTS).value
    assert len(found) > 300
    assert found[0][0] >= 4.5, found[0]


def test_light_dark_and_paper_have_grounds_of_their_own(browser: Browser, page: Path) -> None:
    asked = "getComputedStyle(document.body).backgroundColor"
    grounds = [browser.look(page, scheme=scheme, media=media, script=asked).value for scheme, media in
               (("light", "screen"), ("dark", "screen"), ("dark", "print"))]  # fmt: skip
    assert grounds == ["rgb(255, 255, 255)", "rgb(17, 22, 27)", "rgb(255, 255, 255)"]
    asked = "getComputedStyle(document.querySelector('#plot-instances svg g[id] path')).fill"
    light, dark = (browser.look(page, scheme=scheme, script=asked).value for scheme in SCHEMES)
    assert light != dark
    shown = "['nav', '.filters'].map((one) => document.querySelector(one).getClientRects().length)"
    assert browser.look(page, script=shown).value == [1, 1]
    assert browser.look(page, media="print", script=shown).value == [0, 0]


def test_what_can_t_be_seen_can_be_read(browser: Browser, page: Path) -> None:
    said = browser.look(page, script="[...document.querySelectorAll('svg')].map((one) => [one.role, one.ariaLabel])").value
    assert len(said) == 6
    assert all(role == "img" and len(text) > 40 for role, text in said), said
    ids = browser.look(page, script="[...document.querySelectorAll('[id]')].map((one) => one.id)").value
    assert len(ids) == len(set(ids))
    broken = (
        "[...document.querySelectorAll('use')].filter((one) => !document.querySelector(one.getAttribute('xlink:href'))).length"
    )
    assert browser.look(page, script=broken).value == 0


# ----------------------------------------------------------------------------------------------------------- the plots


def test_bars_of_classes_are_the_records(browser: Browser, page: Path, records: list[Record]) -> None:
    counted = Counter((record.split, label) for record in records for label in record.labels)
    found = bars(browser, page, "classes")
    said = {one: int(title.rsplit(": ", 1)[1].replace(",", "")) for one, (title, _, _) in found.items()}
    assert said == {f"classes-{('train', 'val').index(split)}-{label}": count for (split, label), count in counted.items()}
    scale = {width / said[one] for one, (_, width, _) in found.items()}
    assert max(scale) / min(scale) < 1.02, "bars are as long as their counts"
    rows = {int(row[0]): list(map(int, row[2:])) for row in table(browser, page, "classes")}
    assert rows == {
        label: [counted["train", label], counted["val", label], counted["train", label] + counted["val", label]]
        for label in (1, 2, 3, 5, 9)
    }


def test_bars_of_instances_an_image_are_the_records(browser: Browser, page: Path, records: list[Record]) -> None:
    counted = Counter(len(record.labels) for record in records)
    found = bars(browser, page, "instances")
    said = {int(title.split()[0]): int(title.rsplit(": ", 1)[1]) for title, _, _ in found.values()}
    assert said == counted
    scale = {height / int(title.rsplit(": ", 1)[1]) for title, _, height in found.values()}
    assert max(scale) / min(scale) < 1.02


@pytest.mark.parametrize(("name", "series"), [("area", 1), ("aspect", 1), ("sizes", 2)])
def test_bars_of_the_other_plots_are_the_records(
    browser: Browser, page: Path, records: list[Record], name: str, series: int
) -> None:
    sides = [(box[2:] - box[:2]) * (record.height, record.width) for record in records for box in record.boxes]
    values = {
        "area": [[area for record in records for area in record.areas]],
        "aspect": [[width / height for height, width in sides]],
        "sizes": [[record.width for record in records], [record.height for record in records]],
    }[name]
    rows = [[float(cell.replace(",", "")) for cell in row] for row in table(browser, page, name)]
    heights = {
        one: (int(title.rsplit(": ", 1)[1].replace(",", "")), height)
        for one, (title, _, height) in bars(browser, page, name).items()
    }
    for index, of_series in enumerate(values):
        counts = [int(row[2 + index]) for row in rows]
        assert sum(counts) == len(of_series)
        near = 0.02  # of a bound, which is rounded for the table; values themselves are known to 1 %
        for number, (low, high, *_) in enumerate(rows):
            surely = sum(low * (1 + near) <= value < high * (1 - near) for value in of_series)
            perhaps = sum(low * (1 - near) <= value < high * (1 + near) for value in of_series)
            assert surely <= counts[number] <= perhaps, (low, high)
            assert heights.get(f"{name}-{index}-{number}", (0, 0))[0] == counts[number]
        scale = {height / count for one, (count, height) in heights.items() if one.startswith(f"{name}-{index}-")}
        assert max(scale) / min(scale) < 1.05
    assert len(rows[0]) == 2 + series
    assert all(one[1] == other[0] for one, other in pairwise(rows))


def test_the_heat_map_is_the_records(browser: Browser, page: Path, records: list[Record]) -> None:
    centres = (np.arange(24) + 0.5) / 24
    expected = np.zeros((24, 24), int)
    for ymin, xmin, ymax, xmax in np.concatenate([record.boxes for record in records if len(record.boxes)]):
        expected += np.outer((ymin <= centres) & (centres < ymax), (xmin <= centres) & (centres < xmax))
    rows = [[int(cell.replace(",", "")) for cell in row[1:]] for row in table(browser, page, "where")]
    assert rows == expected.tolist()
    source = browser.look(page, script=HEAT).value
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.sub(r"\s", "", source.partition(",")[2])))))
    assert picture.shape == (24, 24, 4)
    assert np.array_equal(picture[..., 3], np.rint(expected * (255 / expected.max())))


# --------------------------------------------------------------------------------------------------------- the gallery


def test_pictures_are_there_and_what_they_show_is_in_their_records(browser: Browser, page: Path, records: list[Record]) -> None:
    by_name = {record.name: record for record in records}
    found = browser.look(page, script=GALLERY).value
    assert len(found) == len({one["alternative"] for one in found}) > 12
    for one in found:
        record = by_name[one["alternative"].split(": ")[0]]
        assert one["shown"]
        assert max(one["width"], one["height"]) == 480
        assert one["width"] / one["height"] == pytest.approx(record.width / record.height, rel=0.01)
        assert one["labels"] == " ".join(map(str, sorted(set(record.labels))))
        assert f"{record.width} × {record.height}" in one["caption"]
        assert one["kinds"]
    kinds = Counter(kind for one in found for kind in one["kinds"].split())
    assert 1 <= kinds.pop("category") <= 5
    assert kinds == {"at_random": 12, "largest": 6, "smallest": 6, "most_instances": 6, "box_and_mask_disagree": 6}
    said = [
        name for one in found for line in re.findall(r"For the class(?:es)? (.*)", one["caption"]) for name in line.split(", ")
    ]
    assert sorted(said) == ["balloon", "bird", "boat", "cloud", "kite"]


KIND, CLASS = ".filters label:nth-of-type(1) select", ".filters label:nth-of-type(2) select"


@pytest.mark.parametrize(("kind", "label"), [("", "9"), ("smallest", ""), ("most_instances", "2"), ("smallest", "9")])
def test_one_class_or_kind_can_be_shown_alone(browser: Browser, page: Path, kind: str, label: str) -> None:
    everything = browser.look(page, script=GALLERY).value
    chosen = [["select_option", KIND, kind], ["select_option", CLASS, label]]
    found = browser.look(page, actions=chosen, script=GALLERY).value
    expected = [kind in ["", *one["kinds"].split()] and label in ["", *one["labels"].split()] for one in everything]
    assert [one["shown"] for one in found] == expected
    assert sum(expected) == {"9": 1, "": 6, "2": 6}[label] * (kind != "smallest" or label != "9")
    said = browser.look(page, actions=chosen, script="document.querySelector('output').textContent").value
    assert said == f"{sum(expected)} of {len(expected)} pictures"
    again = [*chosen, ["select_option", KIND, ""], ["select_option", CLASS, ""]]
    assert browser.look(page, actions=again, script=GALLERY).value == everything


def test_without_javascript_all_is_shown(browser: Browser, page: Path) -> None:
    everything = browser.look(page, script=GALLERY).value
    seen = browser.look(page, javascript=False, script=GALLERY)
    assert (seen.value, seen.messages, seen.requests) == (everything, [], [])
    hidden = "document.querySelector('.filters').getClientRects().length"
    assert browser.look(page, javascript=False, script=hidden).value == 0
    opened = browser.look(
        page,
        javascript=False,
        actions=[["click", "#plot-classes summary"]],
        script="document.querySelector('#plot-classes table').getClientRects().length",
    )
    assert opened.value == 1


# -------------------------------------------------------------------------------------------------------------- names

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}"
NAMES = {
    1: HOSTILE,
    2: "$x^2$ \\frac{1}{2} a name that is very much longer than there is room for",
    3: "船 ⛵ лодка",
    5: "a\nb\tc",
    9: " ",
}


def test_names_are_shown_as_they_are_and_do_nothing(browser: Browser, demo_data: Data, tmp_path: Path) -> None:
    content = json.loads(demo_data.annotations.read_text())
    for category in content["categories"]:
        category["name"] = NAMES[category["id"]]
    first = content["images"][0]
    file = tmp_path / "images" / "<b>&quot;\"'.jpg"
    for image in content["images"]:
        source = demo_data.images / image["file_name"]
        if source.exists():
            (tmp_path / "images" / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / image["file_name"]).write_bytes(source.read_bytes())
    (tmp_path / "images" / first["file_name"]).rename(file)
    first["file_name"] = file.name
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]  # a reject whose message names the file
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    given = {"annotations": "annotations.json", "images": "images", "output": "out"}
    run(RunOptions(**{name: str(tmp_path / path) for name, path in given.items()}), [])
    page = tmp_path / "out" / REPORT
    for width in (DESKTOP, PHONE):
        seen = browser.look(page, width, script="document.body.textContent", screenshot="report-names")
        assert (seen.messages, seen.requests, seen.overflow) == ([], [], 0)
        assert HOSTILE in seen.value
        assert file.name in seen.value
        assert "船 ⛵ лодка" in seen.value
        assert "49" not in seen.value.split("{{", 1)[1][:10]
    made = browser.look(page, script="[document.scripts.length, document.querySelectorAll('img[src=x], b:empty').length]")
    assert made.value == [1, 0]
