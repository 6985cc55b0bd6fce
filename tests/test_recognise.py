"""--format auto: each format is told from its files, and the run says which it took, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_cvat as cvat
import test_label_studio as label_studio
import test_via as via
import test_yolo as yolo
from conftest import Data
from sources import run_format
from test_labelme import TRIANGLE, labelme, shape

from beam_pipeline.cli import main
from transforms.records import InputError
from transforms.sources.recognise import recognise

JSONL = '{"file_name": "a.png", "height": 2, "width": 3, "annotations": []}\n'
LISTS = {"images": [], "annotations": [{"id": 1, "segmentation": []}], "categories": []}


def write(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.jsonl": JSONL}, "jsonl"),
        ({"sub/a.json": labelme(shape(TRIANGLE)), "photo.jpg": "?"}, "labelme"),
        ({"annotations.xml": cvat.document(cvat.image()), "images/a.jpg": "?"}, "cvat"),
        ({"export.json": json.dumps([label_studio.task(label_studio.shape(TRIANGLE))])}, "label_studio"),
        ({"via.json": via.as_project(via.entry(via.polygon(via.TRIANGLE)))}, "via"),
        ({"train/via.csv": via.as_csv(via.entry(via.polygon(via.TRIANGLE))), "train/a.jpg": "?"}, "via"),
        ({"labels/train/a.txt": yolo.line(1, yolo.TRIANGLE), "data.yaml": "names: [cat]", "README.txt": "x"}, "yolo"),
        ({"a.json": json.dumps(LISTS)}, "coco"),
        ({"a.json": "\ufeff\n " + json.dumps(LISTS, indent=1)}, "coco"),
        ({"a.json": json.dumps(LISTS | {"annotations": [{"segments_info": []}]})}, "coco_panoptic"),
        ({"a.json": json.dumps(LISTS | {"annotations": []})}, "coco"),
    ],
)
def test_a_folder_is_recognised(files: dict[str, str], expected: str, tmp_path: Path) -> None:
    assert recognise(write(tmp_path, files)).format == expected


def test_a_file_of_cocos_in_a_folder_is_taken(demo_data: Data, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export/_annotations.coco.json").symlink_to(demo_data.annotations)
    manifest = run_format("auto", tmp_path / "export", demo_data.images, tmp_path / "out", max_reject_fraction=1.0)
    assert manifest["options"]["annotations"].endswith("export/_annotations.coco.json")


def test_a_file_and_a_pattern_are_recognised(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.jsonl": JSONL, "b.json": json.dumps(LISTS)})
    assert recognise(f"{folder}/a.jsonl").format == "jsonl"
    assert recognise(f"{folder}/*.json").format == "coco"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a.jsonl": JSONL, "b.json": json.dumps(LISTS)},
            "it could be coco for b.json: .*; jsonl for a.jsonl: .*: give --format",
        ),
        ({"a.json": "{}", "b.txt": ""}, "no format is recognised in 2 files .*: give --format"),
        ({"a.json": '{"images": ['}, "no format is recognised"),
        ({}, "there are no files"),
        (
            {"train.json": json.dumps(LISTS), "val.json": json.dumps(LISTS), "x.json": "{}"},
            r"several files look like COCO's \(train.json, val.json\): give the path of the one, or a pattern for all",
        ),
    ],
)
def test_what_is_not_clear_is_told(files: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        recognise(write(tmp_path, files))


def test_a_run_says_what_it_took_and_why(demo_data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = run_format("auto", demo_data.annotations, demo_data.images, tmp_path / "out", max_reject_fraction=1.0)
    assert manifest["options"]["format"] == "coco"
    assert "--format coco for annotations.json: its annotations have no segments_info" in capfd.readouterr().err


def test_what_is_to_be_done_next_is_said_of_the_file_that_was_found(
    demo_data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--format=auto", f"--annotations={demo_data.annotations.parent}", f"--images={demo_data.images}"]
    assert main(["run", *given, f"--output={tmp_path / 'out'}", "--max_reject_fraction=1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"next: maskbeam verify {tmp_path / 'out'} --coco {demo_data.annotations}"
