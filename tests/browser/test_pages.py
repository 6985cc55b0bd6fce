"""The pages of `show` and `compare` in a real browser."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from browser import DESKTOP, PHONE, SCHEMES, Browser
from conftest import Data, Output

from beam_pipeline.cli import main

PICTURES = "[...document.images].map((one) => [one.naturalWidth, one.naturalHeight, one.alt])"
ROWS = "[...document.querySelectorAll('tbody tr')].map((row) => [...row.children].map((cell) => cell.innerText))"


@pytest.fixture(scope="module")
def pages(demo_output: Output, demo_data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `show` writes of the demo, and what `compare` does of it and one without its first image's annotations."""
    folder = tmp_path_factory.mktemp("pages")
    data = json.loads(demo_data.annotations.read_text())
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] != 1]
    (folder / "fewer.json").write_text(json.dumps(data))
    given = [f"--annotations={folder / 'fewer.json'}", f"--images={demo_data.images}", f"--output={folder / 'fewer'}"]
    assert main(["run", *given, "--max_reject_fraction=1"]) == 0
    assert main(["show", str(demo_output.folder), "--limit=5", f"--output={folder / 'show.html'}"]) == 0
    assert main(["compare", str(demo_output.folder), str(folder / "fewer"), f"--output={folder / 'compare.html'}"]) == 1
    return {name: folder / f"{name}.html" for name in ("show", "compare")}


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["show", "compare"])
def test_it_fits_and_needs_no_network(name: str, scheme: str, width: int, pages: dict[str, Path], browser: Browser) -> None:
    seen = browser.look(pages[name], width, scheme, screenshot=name)
    assert (seen.messages, seen.requests) == ([], [])
    assert seen.overflow <= 0


def test_the_pictures_are_there(pages: dict[str, Path], browser: Browser) -> None:
    found = browser.look(pages["show"], script=PICTURES).value
    assert len(found) == 5
    assert {max(width, height) for width, height, _ in found} == {480}
    assert all("beach-" in alternative for _, _, alternative in found)


def test_the_classes_are_counted_side_by_side(pages: dict[str, Path], demo_data: Data, browser: Browser) -> None:
    data = json.loads(demo_data.annotations.read_text())
    names = {one["id"]: one["name"] for one in data["categories"]}
    fewer = Counter(names.get(one["category_id"]) for one in data["annotations"] if one["image_id"] == 1)
    rows = browser.look(pages["compare"], script=ROWS).value
    lost = {row[0]: -int(row[3]) for row in rows if row[0] in names.values() and row[3] not in ("–", "")}
    fewer["kite"] -= 1  # whose outline is broken, and which is in neither
    assert lost == dict(+fewer)
