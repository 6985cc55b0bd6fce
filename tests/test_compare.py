"""`maskbeam compare`: what was changed in the annotations is found in the records, and nothing else."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Data, Output
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_server import StorageServer
from test_examples import PICTURES, checked_image, image_with, instance, record_of
from written import write_data_set

from beam_pipeline import compare as module
from beam_pipeline.cli import main
from beam_pipeline.compare import EXAMPLES, Row, as_html, compare, image_changes, instance_changes, lines
from transforms import run_lengths
from transforms.read_records import read_image
from transforms.records import Attributes, ImageExtras

OTHER = "#.... ..... ..... ....#"


@pytest.fixture(scope="module")
def edited(demo_data: Data, run_demo: Callable[..., Output], tmp_path_factory: pytest.TempPathFactory) -> Output:
    """The demo's records after some edits, see the first test; all else as `demo_output`."""
    data = json.loads(demo_data.annotations.read_text())
    data["images"] = [one for one in data["images"] if one["id"] != 5]
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in data["annotations"]:
        by_image.setdefault(one["image_id"], []).append(one)
    assert len(by_image.pop(5)) == 7  # one of them of a class that there is not
    by_image[1][0]["category_id"] = 2
    by_image[2][0]["segmentation"] = {"size": [480, 640], "counts": [480 * 640 - 100, 100]}
    by_image[2][3]["bbox"][0] += 10
    by_image[7].pop(0)
    by_image[4] = [{**by_image[8][-1], "id": 9000, "image_id": 4}]
    data["annotations"] = [one for some in by_image.values() for one in some]
    data["categories"].append({"id": 4, "name": "gull"})
    file = tmp_path_factory.mktemp("edited") / "annotations.json"
    file.write_text(json.dumps(data))
    return run_demo(annotations=str(file), splits="train=0.7,val=0.3", num_shards="2")


def test_what_was_edited_is_found(demo_output: Output, edited: Output, demo_data: Data) -> None:
    found = compare(str(demo_output.folder), str(edited.folder))
    source = json.loads(demo_data.annotations.read_text())
    files = {one["id"]: one["file_name"] for one in source["images"]}
    first = {n: [one for one in source["annotations"] if one["image_id"] == n] for n in (1, 2, 7, 8)}
    names = {one["id"]: one["name"] for one in source["categories"]}
    assert not found.same
    assert not found.identical_bytes
    assert (found.added.total, found.unchanged, found.rewritten) == (0, 24, 0)
    assert found.removed == (1, [(5, files[5], ("6 instances",))])
    classes = {number: [names.get(one["category_id"]) for one in some] for number, some in first.items()}
    assert found.changed == (
        4,
        [
            (1, files[1], (f"{classes[1][0]} → kite",)),
            (2, files[2], (f"{classes[2][3]}: box", f"{classes[2][0]}: mask")),
            (4, files[4], (f"{classes[8][-1]} added",)),
            (7, files[7], (f"{classes[7][0]} removed",)),
        ],
    )
    assert found.kinds == {"box": 1, "class": 1, "instance added": 1, "instance removed": 1, "mask": 1}
    assert [row for row in found.category_ids if row.before != row.after] == [("gull", None, 4)]
    before, after = (json.loads((one.folder / "statistics.json").read_text()) for one in (demo_output, edited))
    for row in found.categories:
        for value, statistics in ((row.before, before), (row.after, after)):
            counts = [
                c["instances"] for split in statistics.values() for c in split["categories"].values() if c["name"] == row.name
            ]
            assert value == sum(counts)
    assert {row.name for row in found.categories} == {"balloon", "kite", "boat", "cloud", "bird", "gull"}
    assert sum(row.after - row.before for row in found.categories) == -6
    assert {row.name: row.after - row.before for row in found.sizes if "images" in row.name} == {
        "train: images": -1,
        "val: images": 0,
    }
    assert [row.name for row in found.options if row.before != row.after] == ["annotations"]
    assert Row("image IMAGE_CORRUPT", 1, 1) in found.rejects


def test_the_other_way_round_it_is_the_opposite(demo_output: Output, edited: Output) -> None:
    one, other = compare(str(demo_output.folder), str(edited.folder)), compare(str(edited.folder), str(demo_output.folder))
    assert (one.removed, one.added) == (other.added, other.removed)
    assert [change.image_id for change in one.changed.examples] == [change.image_id for change in other.changed.examples]
    assert one.kinds == other.kinds
    assert {(row.name, row.before, row.after) for row in one.categories} == {
        (r.name, r.after, r.before) for r in other.categories
    }


def test_in_a_bucket_it_is_the_same(
    demo_output: Output, edited: Output, storage: StorageServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.endpoint)
    storage.upload(demo_output.folder, "gs://bkt/before")
    storage.upload(edited.folder, "gs://bkt/after")
    here = compare(str(demo_output.folder), str(edited.folder))
    assert compare("gs://bkt/before", "gs://bkt/after") == here._replace(before="gs://bkt/before", after="gs://bkt/after")
    arguments = ["compare", str(demo_output.folder), "gs://bkt/before", "--output", "gs://bkt/pages/page.html"]
    assert main(arguments) == 0
    assert b"identical bytes" in storage.objects("gs://bkt/pages")["page.html"]


def test_only_shards_that_differ_are_read(
    demo_output: Output, edited: Output, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read: list[str] = []
    whole = module.iter_shard

    def iter_shard(output: str, shard: dict[str, Any]) -> Any:
        read.append(shard["file"])
        return whole(output, shard)

    monkeypatch.setattr(module, "iter_shard", iter_shard)
    found = compare(str(demo_output.folder), str(demo_output.folder))
    assert (found.identical_bytes, found.same, found.unchanged, read) == (True, True, 29, [])
    crcs = [{shard["file"]: shard["crc32c"] for shard in one.manifest["shards"]} for one in (demo_output, edited)]
    differ = {file for file in crcs[0] if crcs[0][file] != crcs[1][file]}
    compare(str(demo_output.folder), str(edited.folder))
    assert sorted(read) == sorted([*differ, *differ])
    assert main(["compare", str(demo_output.folder), str(demo_output.folder)]) == 0
    assert capsys.readouterr().out.endswith(": identical bytes: every shard is the same\n")


@pytest.mark.parametrize(("encoding", "rewritten"), [("png1", 28), ("dense", 29)])  # one has no masks: an empty list of its kind
def test_another_encoding_is_the_same_data(
    demo_output: Output, run_demo: Callable[..., Output], encoding: str, rewritten: int
) -> None:
    other = run_demo(splits="train=0.7,val=0.3", num_shards="3", mask_encoding=encoding)
    found = compare(str(demo_output.folder), str(other.folder))
    assert (found.same, found.identical_bytes) == (True, False)
    assert (found.unchanged, found.rewritten, found.kinds) == (29 - rewritten, rewritten, {})
    assert next(lines(found)).endswith(": the same data, in other bytes")
    assert Row("mask_encoding", "png", encoding) in found.options


def test_other_shards_are_the_same_data(demo_output: Output, run_demo: Callable[..., Output]) -> None:
    found = compare(str(demo_output.folder), str(run_demo(splits="train=0.7,val=0.3", num_shards="3").folder))
    assert (found.same, found.identical_bytes, found.unchanged, found.rewritten) == (True, False, 29, 0)
    assert next(lines(found)).endswith(": the same data, in other shards")


def test_images_that_went_to_another_split_are_told(tmp_path: Path) -> None:
    records = [record_of(image_with(image_id=number, file_name=f"{number}.png")) for number in (3, 1, 2)]
    before = write_data_set(tmp_path / "before", train=records[:2], val=records[2:])
    after = write_data_set(tmp_path / "after", train=records[:1], val=records[1:])
    found = compare(str(before), str(after))
    assert (found.same, found.unchanged, found.kinds) == (False, 2, {"split": 1})
    assert found.changed == (1, [(1, "1.png", ("train → val",))])


def test_another_label_map_is_other_data(tmp_path: Path) -> None:
    record = record_of(image_with())
    before, after = (write_data_set(tmp_path / name, train=[record]) for name in ("before", "after"))
    assert compare(str(before), str(after)).identical_bytes
    (after / "label_map.csv").write_text("7,bus\n")
    (after / "label_map.pbtxt").write_text('item {\n  id: 7\n  name: "bus"\n}\n')
    found = compare(str(before), str(after))
    assert (found.same, found.identical_bytes) == (False, False)
    assert found.category_ids == [Row("bus", 1, 7), Row("Katze 🐈", 3, None), Row("naïve dog", 44, None)]
    assert "  bus         1 → 7" in [line.rstrip() for line in lines(found)]


# -------------------------------------------------------------------------------------------------------- within an image


def written(*instances: Any, encoding: str = "png", **fields: Any) -> Any:
    image = image_with(*instances, **fields)
    return read_image(record_of(image, encoding=encoding), "train")


KITE = instance(PICTURES[0], (1.0, 1.0, 4.0, 5.0), category_id=3)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (written(KITE), []),
        (written(KITE, encoding="dense"), []),
        (written(), [("instance removed", "Katze 🐈 removed")]),
        (written(KITE, KITE), [("instance added", "Katze 🐈 added")]),
        (written(instance(PICTURES[0], (1.0, 1.0, 4.0, 5.0), category_id=1)), [("class", "Katze 🐈 → bus")]),
        (written(instance(PICTURES[0], (0.0, 0.0, 1.0, 1.0))), [("box", "Katze 🐈: box")]),
        (written(instance(PICTURES[0], (1.0, 1.0, 4.0, 5.0), is_crowd=True)), [("crowd", "Katze 🐈: crowd")]),
        (written(instance(PICTURES[0], (1.0, 1.0, 4.0, 5.0), area=7.5)), [("area", "Katze 🐈: area")]),
        (
            written(instance(PICTURES[0], (1.0, 1.0, 4.0, 5.0), attributes=Attributes(occluded=True))),
            [("attributes", "Katze 🐈: attributes")],
        ),
        (written(instance(OTHER, (1.0, 1.0, 4.0, 5.0), area=6.0)), [("mask", "Katze 🐈: mask")]),
        (written(instance(None, (1.0, 1.0, 4.0, 5.0), area=6.0)), [("mask", "Katze 🐈: mask")]),
        (
            written(instance(OTHER, (1.0, 1.0, 4.0, 4.0), category_id=1, area=6.0)),  # alike by its box alone
            [("class", "Katze 🐈 → bus"), ("box", "bus: box"), ("mask", "bus: mask")],
        ),
        (
            written(instance(OTHER, (3.0, 3.0, 4.0, 5.0), category_id=1)),  # not even that
            [("instance removed", "Katze 🐈 removed"), ("instance added", "bus added")],
        ),
        (written(KITE, file_name="b.png"), [("file name", "was a.png")]),
        (written(KITE, extras=ImageExtras(neg_category_ids=(1,))), [("neg_category_ids", "neg_category_ids")]),
    ],
)
def test_what_of_an_image_has_changed(after: Any, expected: list[tuple[str, str]]) -> None:
    assert list(image_changes(written(KITE), after)) == expected


def test_what_is_stored_otherwise_and_has_changed_elsewhere_has_the_same_mask() -> None:
    after = written(instance(PICTURES[0], (0.0, 0.0, 1.0, 1.0)), encoding="dense")
    assert list(image_changes(written(KITE), after)) == [("box", "Katze 🐈: box")]


def test_boxes_that_hardly_meet_are_not_alike() -> None:
    before, after = (
        written(instance(None, box, area=1.0, is_crowd=crowd), height=60, width=90)
        for box, crowd in (((40.0, 60.0, 44.0, 66.0), False), ((42.0, 63.0, 46.0, 69.0), True))  # a fifth of their union
    )
    assert [kind for kind, _ in image_changes(before, after)] == ["instance removed", "instance added"]


def test_an_instance_is_paired_with_one_other_only() -> None:
    boxes = [(0.0, 0.0, 10.0, right) for right in (10.0, 11.0, 12.0)]
    before = written(*(instance(None, box) for box in boxes[:2]), height=60, width=90)
    after = written(instance(None, boxes[2]), height=60, width=90)
    assert [kind for kind, _ in image_changes(before, after)] == ["box", "area", "instance removed"]


def test_the_picture_and_its_size(tmp_path: Path) -> None:
    before = read_image(record_of(image_with(), checked_image(4, 5)), "train")
    after = read_image(record_of(image_with(), checked_image(6, 5)), "train")
    assert list(image_changes(before, after)) == [("size", "4 × 5 → 6 × 5 (height × width)"), ("pixels", "image file")]


def test_a_class_of_another_number_is_told() -> None:
    before = written(KITE).instances
    after = tuple(one._replace(label=17) for one in before)
    assert list(instance_changes(before, after)) == [("class id", "Katze 🐈: class id")]


SOME = st.lists(
    st.builds(
        lambda picture, category, left, crowd: instance(picture, (0.0, left, 4.0, 5.0), category_id=category, is_crowd=crowd),
        st.sampled_from([*PICTURES, OTHER, None]),
        st.sampled_from([1, 3, 44]),
        st.sampled_from([0.0, 0.5, 4.0]),
        st.booleans(),
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(kept=SOME, more=SOME, encoding=st.sampled_from(["png", "png1", "dense"]), data=st.data())
def test_the_order_of_instances_does_not_matter_and_what_is_more_is_counted(
    kept: list[Any], more: list[Any], encoding: str, data: Any
) -> None:
    one = written(*kept, encoding=encoding).instances
    other = written(*data.draw(st.permutations(kept + more))).instances
    assert [kind for kind, _ in instance_changes(one, other)] == ["instance added"] * len(more)
    assert [kind for kind, _ in instance_changes(other, one)] == ["instance removed"] * len(more)


def test_too_many_to_look_for_those_alike_are_added_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = written(KITE).instances, written(instance(OTHER, (1.0, 1.0, 4.0, 4.0))).instances
    assert {kind for kind, _ in instance_changes(before, after)} == {"box", "area", "mask"}
    monkeypatch.setattr(module, "MOST_PAIRS", 0)
    assert {kind for kind, _ in instance_changes(before, after)} == {"instance added", "instance removed"}


# ------------------------------------------------------------------------------------------------------------ for people


class Page(HTMLParser):
    """The cells of a page's rows, and all that would be fetched for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [tag] if tag in ("script", "link", "img", "iframe") else []
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.rows.append([])
        self.cell = tag in ("td", "th")
        if self.cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.cell = False

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[-1][-1] += data


def test_the_page_has_it_all_and_fetches_nothing(
    demo_output: Output, edited: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(demo_output.folder), str(edited.folder), "--output"]
    for name in ("one.html", "two.html"):
        assert main([*arguments, str(tmp_path / name)]) == 1
    said = capsys.readouterr().out
    assert "images: 0 added, 1 removed, 4 changed, 24 the same\n" in said
    assert "  removed: 5 (morning/beach-005.jpg): 6 instances\n" in said
    text = (tmp_path / "one.html").read_text()
    assert text == (tmp_path / "two.html").read_text()
    page = Page(text)
    assert page.fetched == []
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    found = compare(str(demo_output.folder), str(edited.folder))
    for row in found.categories:
        signed = f"{row.after - row.before:+,}" if row.after != row.before else "–"
        assert [row.name, str(row.before), str(row.after), signed] in page.rows
    for change in (*found.changed.examples, *found.removed.examples):
        assert [str(change.image_id), change.file_name, ", ".join(change.what)] in page.rows
    assert ["annotations", *(one.manifest["options"]["annotations"] for one in (demo_output, edited))] in page.rows
    assert ["gull", "–", "4"] in page.rows


def test_what_names_say_is_text_and_only_some_are_named(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>&.png"
    before = write_data_set(tmp_path / "before", train=[])
    records = [record_of(image_with(image_id=number, file_name=name)) for number in range(EXAMPLES + 5, 0, -1)]
    after = write_data_set(tmp_path / "after", train=records)
    found = compare(str(before), str(after))
    assert found.added.total == EXAMPLES + 5
    assert [change.image_id for change in found.added.examples] == list(range(1, EXAMPLES + 1))
    page = Page(as_html(found).decode())
    assert page.fetched == []
    assert ["1", name, "no instances"] in page.rows
    assert "… and 5 more" in as_html(found).decode()
    said = list(lines(found))
    assert sum(line.startswith("  added: ") for line in said) == 10
    assert f"  … and {EXAMPLES - 5} more added" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "nowhere"], "nowhere is no data set of maskbeam's: there is no manifest.json in it"),
        (["nowhere", "nowhere", "--output", "page"], "expected a file name that ends in .html, found 'page'"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_status_2(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["compare", *arguments])
    except SystemExit as error:
        status = int(error.code or 0)
    assert status == 2
    assert said in capfd.readouterr().err


def test_a_page_that_cannot_be_written_is_told(demo_output: Output, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = str(tmp_path / "missing/page.html")
    assert main(["compare", str(demo_output.folder), str(demo_output.folder), "--output", page]) == 2
    assert f"--output {page} can't be written" in capfd.readouterr().err


def test_of_each_image_only_a_few_bytes_are_kept(tmp_path: Path) -> None:
    mask = run_lengths.from_mask(np.tri(60, 90, dtype=np.uint8))
    records = [
        record_of(image_with(instance(mask), image_id=n, file_name=f"{n}.png", height=60, width=90), checked_image(60, 90))
        for n in range(900)
    ]

    def peak(count: int) -> int:
        before = write_data_set(tmp_path / f"before{count}", train=records[:count], val=records[-1:])
        after = write_data_set(tmp_path / f"after{count}", train=records[1:count], val=records[-1:])
        tracemalloc.start()
        try:
            assert compare(str(before), str(after)).removed.total == 1
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)
    small, large = peak(80), peak(800)
    assert len(records[0]) > 10_000
    assert large - small < 720 * 500  # while a shard is read, its entries are Python's numbers


def test_rejects_of_other_reasons_are_told_where_all_shards_are_the_same(demo_output: Output, tmp_path: Path) -> None:
    shutil.copytree(demo_output.folder, tmp_path / "b")
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    manifest["reasons"]["image"]["IMAGE_CORRUPT"] += 500
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest))
    said = list(lines(compare(str(demo_output.folder), str(tmp_path / "b"))))
    assert said[0].endswith(": identical bytes: every shard is the same")
    assert any("IMAGE_CORRUPT" in line and "1 → 501" in line and line.endswith("+500") for line in said)
