"""Classes kept, dropped, renamed and merged: ids, label map, rejects; and what is wrong with the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Data
from PIL import Image
from sources import run_format
from test_end_to_end import read_back

from transforms.categories import CategoryRules, read_rules, select, select_of
from transforms.records import AnnotatedImage, Category, ImageExtras, InputError, Instance

CATEGORIES = [Category(1, "kitten"), Category(4, "dog"), Category(6, "cat"), Category(9, "bird")]


def test_without_rules_all_stays() -> None:
    assert select(CATEGORIES, CategoryRules()) == (CATEGORIES, {1: 1, 4: 4, 6: 6, 9: 9})


def test_what_is_merged_into_a_class_has_its_id() -> None:
    found = select(CATEGORIES, CategoryRules(rename={"kitten": "cat"}))
    assert found == ([Category(4, "dog"), Category(6, "cat"), Category(9, "bird")], {1: 6, 4: 4, 6: 6, 9: 9})


def test_what_is_merged_into_a_new_class_has_the_smallest_id() -> None:
    found = select(CATEGORIES, CategoryRules(rename={"dog": "pet", "cat": "pet"}))
    assert found == ([Category(1, "kitten"), Category(4, "pet"), Category(9, "bird")], {1: 1, 4: 4, 6: 4, 9: 9})


def test_names_can_be_swapped() -> None:
    found = select(CATEGORIES, CategoryRules(rename={"dog": "cat", "cat": "dog"}))
    assert found.categories == [Category(1, "kitten"), Category(4, "cat"), Category(6, "dog"), Category(9, "bird")]


def test_keep_and_drop_come_after_renaming() -> None:
    assert select(CATEGORIES, CategoryRules({"kitten": "cat"}, ["cat"])) == ([Category(6, "cat")], {1: 6, 4: None, 6: 6, 9: None})
    dropped = select(CATEGORIES, CategoryRules({"kitten": "cat"}, None, ["cat", "bird"]))
    assert dropped == ([Category(4, "dog")], {1: None, 4: 4, 6: None, 9: None})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (CategoryRules(keep=["dogs"]), "keep: the annotations have no category 'dogs', did you mean 'dog'?"),
        (CategoryRules(drop=["kittn"]), "drop: the annotations have no category 'kittn', did you mean 'kitten'?"),
        (CategoryRules({"xyz": "cat"}), "rename: the annotations have no category 'xyz'"),
        (CategoryRules({"kitten": "cat"}, ["kitten"]), "keep: the annotations have no category 'kitten'"),
    ],
)
def test_a_class_that_there_is_not_is_told(rules: CategoryRules, message: str) -> None:
    with pytest.raises(InputError) as told:
        select(CATEGORIES, rules)
    assert message in str(told.value)


def test_an_order_numbers_what_is_there_and_what_is_not() -> None:
    found = select(CATEGORIES, CategoryRules({"kitten": "cat", "cow": "ox"}, order=["horse", "dog", "cat"]))
    assert found == ([Category(1, "horse"), Category(2, "dog"), Category(3, "cat")], {1: 3, 4: 2, 6: 3, 9: None})


@pytest.mark.parametrize("rules", [CategoryRules(keep=[]), CategoryRules(drop=["kitten", "dog", "cat", "bird"])])
def test_rules_that_leave_no_class_are_told(rules: CategoryRules) -> None:
    with pytest.raises(InputError, match="leaves no class"):
        select(CATEGORIES, rules)


def test_splits_that_are_run_by_themselves_have_the_same_ids(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    ring = {"polygons": [[1, 1, 20, 2, 9, 18]]}
    (tmp_path / "classes.yaml").write_text("order: [cat, dog]")
    for split, names in (("train", ["dog", "cat"]), ("val", ["dog"])):
        annotations = [ring | {"category": name} for name in names]
        line = {"file_name": "a.png", "height": 20, "width": 30, "annotations": annotations}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(line))
        options = {"categories": str(tmp_path / "classes.yaml"), "splits": split}
        run_format("jsonl", tmp_path / f"{split}.jsonl", tmp_path, tmp_path / split, **options)
        (record,) = read_back(tmp_path / split)
        assert record["image/object/class/label"].tolist() == [{"cat": 1, "dog": 2}[name] for name in names]
        assert (tmp_path / split / "label_map.csv").read_text() == "1,cat\n2,dog\n"


def test_an_id_of_two_names_is_told() -> None:
    with pytest.raises(InputError, match="the category id 1 stands for 'a' and 'b'"):
        select([Category(1, "b"), Category(1, "a")], CategoryRules(keep=["a"]))


def test_instances_follow_and_what_is_left_out_is_a_reject() -> None:
    instances = tuple(Instance(place, at, (0, 0, 1, 1), None, False, None) for place, at in enumerate((1, 9, 6), start=1))
    extras = ImageExtras(neg_category_ids=(9, 1, 6), not_exhaustive_category_ids=None)
    image = AnnotatedImage(3, "a.jpg", 5, 7, instances, extras)
    found, (reject,) = select_of(image, select(CATEGORIES, CategoryRules({"kitten": "cat"}, ["cat"])))
    assert [(one.annotation_id, one.category_id) for one in found.instances] == [(1, 6), (3, 6)]
    assert (reject.annotation_id, reject.reason, reject.file_name) == (2, "DROPPED_CATEGORY", "a.jpg")
    assert found.extras == ImageExtras(neg_category_ids=(6,), not_exhaustive_category_ids=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keep: cat", "Expected `array"),
        ("- cat", "Expected `object"),
        ("only: [cat]", "unknown field `only`"),
        ("rename: {1: cat}", "Expected `str`"),
        ('rename: {cat: "\\ud800"}', "is not valid Unicode"),
        ("keep: [2024-13-45]", "a value that is none"),
        ("rename: {cat: ''}", "a class would have no name"),
        ("keep: [cat", "expected ',' or ']'"),
        ("keep: [cat]\ndrop: [dog]", "give one: each says"),
        ("order: [cat]\ndrop: [dog]", "give one: each says"),
        ("order: []", "order leaves no class"),
        ("order: [cat, cat]", "order: a class is named twice"),
        ("order: [' ']", "a class would have no name"),
        ("\xff\xfe\x00", "expected rename"),
    ],
)
def test_what_is_no_such_file_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as told:
        read_rules(str(path))
    assert str(told.value).startswith(f"--categories {path}: ")
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_json_does_too(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"rename": {"a": "b"}, "drop": ["c"]}')
    assert read_rules(str(path)) == CategoryRules({"a": "b"}, None, ["c"])


def test_a_run_with_a_file_of_classes(demo_data: Data, tmp_path: Path) -> None:
    source = json.loads(demo_data.annotations.read_text())
    names = [category["name"] for category in sorted(source["categories"], key=lambda one: one["id"])]
    assert len(names) >= 3
    rules = {"rename": {names[0]: "thing", names[1]: "thing"}, "keep": ["thing"]}
    (tmp_path / "classes.json").write_text(json.dumps(rules))
    options = {"categories": str(tmp_path / "classes.json"), "max_reject_fraction": 1.0}
    every = run_format("coco", demo_data.annotations, demo_data.images, tmp_path / "all", max_reject_fraction=1.0)
    some = run_format("coco", demo_data.annotations, demo_data.images, tmp_path / "some", **options)
    texts = [text.decode() for record in read_back(tmp_path / "all") for text in record["image/object/class/text"]]
    kept = [text.decode() for record in read_back(tmp_path / "some") for text in record["image/object/class/text"]]
    assert kept == ["thing"] * sum(text in names[:2] for text in texts)
    assert kept
    assert (tmp_path / "some/label_map.csv").read_text() == "1,thing\n"
    assert some["categories"] == 1
    assert some["annotations"]["read"] == every["annotations"]["read"]
    assert some["images"] == every["images"]


def test_a_file_of_classes_that_is_not_there_is_told_before_the_job(demo_data: Data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        run_format("coco", demo_data.annotations, demo_data.images, tmp_path / "out", categories=str(tmp_path / "none.yaml"))
    assert not (tmp_path / "out").exists()
