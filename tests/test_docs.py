"""The documentation says what the code does."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Data, Output
from documented import PAGES
from PIL import Image

from beam_pipeline.reference import CHECKOUT, DERIVED
from transforms.tfrecord import read_records

DOCS = CHECKOUT / "docs"
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DERIVED)
def test_derived_files_are_up_to_date(name: str) -> None:
    assert (CHECKOUT / name).read_text(encoding="utf-8") == DERIVED[name](), "run: make docs"


def test_the_library_example_of_the_readme_runs(demo_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) == 10
    os.symlink(demo_data.annotations, tmp_path / "instances.json")
    os.symlink(demo_data.images, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"__name__": "__main__"})
    records = 0
    for shard in (tmp_path / "records").glob("*.tfrecord"):
        with shard.open("rb") as file:
            records += sum(1 for _ in read_records(file))
    assert records == 23  # of 29 sound pictures, those of 640 × 480


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", (CHECKOUT / page).read_text(encoding="utf-8")):
        assert ((CHECKOUT / page).parent / target).exists(), target


def test_the_menu_of_the_site_has_every_page_once() -> None:
    menu = yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(re.findall(r"[^' ]+\.md", str(menu))) == PAGES


def test_commands_of_the_readme_exist() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_tf_data_example_shows_a_batch(demo_output: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tf: Any) -> None:
    *_, example = re.findall(r"```python\n(.*?)```", (DOCS / "training.md").read_text(encoding="utf-8"), re.DOTALL)
    os.symlink(demo_output.folder, tmp_path / "records")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example, "training.md", "exec"), names)
    height, width = names["images"].shape[1:3]
    assert names["masks"].shape[:1] + names["masks"].shape[2:] == (4, height, width, 1)
    with Image.open(tmp_path / "batch.png") as picture:
        assert picture.size == (4 * width, height)
        shown = np.asarray(picture).reshape(height, 4, width, 3)
    covered = names["masks"].numpy().any(axis=1)[..., 0]
    assert covered.any()
    assert np.array_equal(shown.transpose(1, 0, 2, 3)[covered], names["images"].numpy()[covered])
