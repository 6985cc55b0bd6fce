"""Every real data set runs through one command, and gives the numbers that were counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_sets import DATA_SETS, RealData, page
from sources import run_format

from beam_pipeline.reference import CHECKOUT


@pytest.mark.parametrize("data", DATA_SETS, ids=[f"{one.name} as {one.format}" for one in DATA_SETS])
def test_a_data_set_runs(data: RealData, real_data: Path, tmp_path: Path) -> None:
    annotations, images = real_data / data.annotations, real_data / data.images
    if data.prepare:
        (tmp_path / "images").mkdir()
        annotations, images = data.prepare(annotations, tmp_path / "images")
    options = {"category_ids": "contiguous", "max_reject_fraction": 1.0}
    manifest = run_format(data.format, annotations, images, tmp_path / "out", **options)
    of_images = data.counts.images_refused or {}
    refused = sum(of_images.values())
    images_ledger = {"read": data.counts.images, "written": data.counts.images - refused, "rejected": refused, "dropped": 0}
    assert manifest["images"] == images_ledger
    assert manifest["reasons"] == {"image": of_images, "annotation": data.counts.reasons}
    assert manifest["annotations"]["read"] == data.counts.annotations
    assert manifest["annotations"]["written"] == data.counts.annotations - sum(data.counts.reasons.values())


def test_the_table_is_up_to_date() -> None:
    assert (CHECKOUT / "docs/data_sets.md").read_text(encoding="utf-8") == page(), "run: python tests/data_sets.py"
