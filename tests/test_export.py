"""`maskbeam export`: pycocotools reads it, and what is made of it again is the same data set, byte for byte."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Data, Output, digests, whole_tinycoco
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as cocomask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from storage_server import StorageServer, files_below
from test_examples import PICTURES, checked_image, draw, image_with, instance, record_of
from written import write_data_set

from beam_pipeline.cli import main
from beam_pipeline.export import coco_box, export, exported_name
from beam_pipeline.options import RunOptions
from beam_pipeline.run import run
from transforms import run_lengths
from transforms.rasterize import clip_box
from transforms.records import Attributes, ImageExtras, InputError
from transforms.sources.coco_json import box_of

# ------------------------------------------------------------------------------------------------- as COCO's tools see it


@pytest.fixture(scope="module")
def exported(demo_output: Output, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "coco"
    export(str(demo_output.folder), str(folder))
    return folder


def test_pycocotools_sees_the_annotations_that_there_were(exported: Path, demo_output: Output, demo_data: Data) -> None:
    source = json.loads(demo_data.annotations.read_text())
    gone = {json.loads(line)["annotation_id"] for line in (demo_output.folder / "rejects.jsonl").read_text().splitlines()}
    truth = COCO(str(demo_data.annotations))
    seen: Counter[str] = Counter()
    ids: list[int] = []
    for split in ("train", "val"):
        coco = COCO(str(exported / f"annotations/instances_{split}.json"))
        assert coco.cats == {one["id"]: {"id": one["id"], "name": one["name"]} for one in source["categories"]}
        for image_id, image in coco.imgs.items():
            assert image == truth.imgs[image_id]
            written = exported / split / image["file_name"]
            assert written.read_bytes() == (demo_data.images / image["file_name"]).read_bytes()
            found = coco.loadAnns(coco.getAnnIds(image_id))
            expected = [one for one in truth.loadAnns(truth.getAnnIds(image_id)) if one["id"] not in gone]
            assert len(found) == len(expected)
            for one, annotated in zip(found, expected, strict=True):
                assert one["segmentation"]["size"] == [image["height"], image["width"]]
                mask = truth.annToMask(annotated)
                np.testing.assert_array_equal(coco.annToMask(one), mask)
                assert one["segmentation"]["counts"] == cocomask.encode(np.asfortranarray(mask))["counts"].decode()
                assert (one["category_id"], one["iscrowd"]) == (annotated["category_id"], annotated["iscrowd"])
                assert one["area"] == annotated["area"]
                x, y, w, h = annotated["bbox"]
                clipped = max(x, 0), max(y, 0), min(x + w, image["width"]), min(y + h, image["height"])
                x, y, w, h = one["bbox"]
                np.testing.assert_allclose((x, y, x + w, y + h), clipped, atol=1e-3)
                assert all(value == round(value, 2) for value in one["bbox"])  # as annotated, not 86.83999633
                seen["crowd"] += one["iscrowd"]
            ids += [one["id"] for one in found]
            seen["image"] += 1
    assert ids == list(range(1, 213))
    assert seen == {"image": 29, "crowd": 1}
    assert not (exported / "_temporary").exists()
    assert {path.name for path in exported.iterdir()} == {"_EXPORT", "_SUCCESS", "annotations", "train", "val"}
    assert len([path for split in ("train", "val") for path in (exported / split).rglob("*.*")]) == 29


def test_real_objects_score_as_themselves(real_data: Path, tmp_path: Path) -> None:
    """Evaluated by pycocotools against an export, the annotations of COCO's own files are found, all of them and no other."""
    data = whole_tinycoco(real_data / "tinycoco/tinycoco", tmp_path)
    output = tmp_path / "records"
    run(RunOptions(annotations=str(data.annotations), images=str(data.images), output=str(output), splits="val"), [])
    export(str(output), str(tmp_path / "coco"), images=False)
    truth, coco = COCO(str(data.annotations)), COCO(str(tmp_path / "coco/annotations/instances_val.json"))
    assert len(coco.anns) == len(truth.anns) == 424
    for image_id in truth.imgs:
        expected, found = (sorted(one.imgToAnns[image_id], key=lambda ann: ann["id"]) for one in (truth, coco))
        for annotated, one in zip(expected, found, strict=True):
            np.testing.assert_array_equal(coco.annToMask(one), truth.annToMask(annotated))
    plain = [one for one in truth.anns.values() if not one["iscrowd"]]
    detected = [
        {key: one[key] for key in ("image_id", "category_id")} | {"segmentation": truth.annToRLE(one), "score": 0.9}
        for one in plain
    ]
    evaluation = COCOeval(coco, coco.loadRes(detected), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)
    assert evaluation.stats[8] == pytest.approx(1.0)


def test_the_same_data_set_gives_the_same_bytes_and_a_split_the_same_ids(
    exported: Path, demo_output: Output, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(demo_output.folder), "--to", "coco", "--output", str(tmp_path / "coco")]
    assert main([*arguments, "--split=val", "--no_images"]) == 0
    file = tmp_path / "coco/annotations/instances_val.json"
    assert f"{file}: 6 images, 55 annotations" in capsys.readouterr().out
    before = digests(exported)
    assert digests(tmp_path / "coco") == {
        name: before[name] for name in ("_EXPORT", "_SUCCESS", "annotations/instances_val.json")
    }
    assert main(arguments) == 0
    assert digests(tmp_path / "coco") == before


# --------------------------------------------------------------------------------------------------------- round trips


@pytest.fixture(scope="module")
def mixed_data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Pictures of all kinds, height and width never the same: to convert, to turn, without objects, with odd names."""
    folder = tmp_path_factory.mktemp("mixed")
    images, annotations = folder / "images", []
    (images / "Straße").mkdir(parents=True)
    random = np.random.default_rng(5)
    entries = []

    def picture(name: str, height: int, width: int, mode: str = "RGB", turn: int = 0, upright: bool = True) -> None:
        shape = (height, width, 3) if mode == "RGB" else (height, width)
        noise = random.integers(0, 256, shape, np.uint8)
        image = Image.fromarray(noise) if mode != "I;16" else Image.fromarray(noise.astype(np.uint16) << 8)
        exif = Image.Exif()
        if turn:
            exif[0x0112] = turn
        stored = image if not (turn and upright) else image.transpose(Image.Transpose.ROTATE_90)
        stored.save(images / name, **({"exif": exif} if turn else {}))
        number = len(entries) + 1
        entries.append({"id": number * 7, "file_name": name, "height": height, "width": width})
        if name == "empty.png":
            return
        drawn = Image.new("L", (width, height))
        ImageDraw.Draw(drawn).ellipse((3, 5, width - 9, height - 2), fill=1)
        runs = cocomask.encode(np.asfortranarray(np.asarray(drawn)))
        triangle = [width * 0.1, 2.25, width - 3.5, height / 3, width / 2 + 0.1, height - 0.7]
        for shape_, box, crowd in (
            ([triangle], [width * 0.1, 2.25, width * 0.7, height / 1.7], 0),
            ({"size": [height, width], "counts": runs["counts"].decode()}, [-4.1, 5, width + 9.3, height - 11.123456789], 1),
            (None, [1 / 3, 2 / 7, width / 3, height / 7], 0),
        ):
            one = {
                "id": len(annotations) + 1,
                "image_id": number * 7,
                "category_id": 3 + 5 * crowd,
                "iscrowd": crowd,
                "bbox": box,
            }
            annotations.append(one | ({"segmentation": shape_, "area": width * height / 7} if shape_ else {}))

    picture("Straße/ä 人.jpg", 51, 83)
    picture("empty.png", 40, 61)
    picture("turned.jpg", 70, 45, turn=6)
    picture("as it lies.jpg", 33, 64, turn=6, upright=False)
    picture("deep.png", 44, 57, "I;16")
    picture("map.bmp", 62, 41)
    picture("map.bmp.png", 37, 90)
    picture("old.gif", 48, 75, "L")
    entries[0] |= {"neg_category_ids": [8, 1], "not_exhaustive_category_ids": []}
    file = folder / "instances.json"
    categories = [{"id": 3, "name": "Straße"}, {"id": 8, "name": "人"}, {"id": 1, "name": "unused"}]
    file.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return Data(file, images)


def records(tf: Any, folder: Path, split: str) -> list[Any]:
    """The messages of a split, by image id, as TensorFlow reads them, but for their file names.

    Tiles lie in the shard of their image, and when they are images of their own in one by themselves.
    """
    found = {}
    for shard in folder.glob(f"{split}-*.tfrecord"):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            example = tf.train.Example.FromString(record)
            del example.features.feature["image/filename"]
            found[int(example.features.feature["image/source_id"].bytes_list.value[0])] = example
    return [found[image_id] for image_id in sorted(found)]


@pytest.mark.parametrize(
    ("splits", "options", "images"),
    [
        ("train=0.5,val=0.5", {"mask_encoding": "png"}, 8),
        ("train", {"mask_encoding": "png1", "max_side": 50}, 8),
        ("train", {"mask_encoding": "dense", "tile": "40x30", "tile_overlap": 8}, 42),
    ],
    ids=["png", "png1 scaled", "dense tiles"],
)
def test_what_is_made_of_an_export_is_the_same(
    tf: Any, mixed_data: Data, tmp_path: Path, splits: str, options: dict[str, Any], images: int
) -> None:
    given = {"annotations": str(mixed_data.annotations), "images": str(mixed_data.images)}
    first = tmp_path / "first"
    run(RunOptions(**given, output=str(first), splits=splits, num_shards="2", **options), [])
    export(str(first), str(tmp_path / "coco"))
    seen = weightless = 0
    for split in (share.split("=")[0] for share in splits.split(",")):
        annotations, again = tmp_path / f"coco/annotations/instances_{split}.json", tmp_path / split
        COCO(str(annotations))
        run(
            RunOptions(
                annotations=str(annotations),
                images=str(tmp_path / "coco" / split),
                output=str(again),
                splits=split,
                num_shards="2",
                mask_encoding=options["mask_encoding"],
            ),
            [],
        )
        assert (again / "rejects.jsonl").read_bytes() == b""
        assert (again / "label_map.pbtxt").read_bytes() == (first / "label_map.pbtxt").read_bytes()
        before, after = records(tf, first, split), records(tf, again, split)
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert one == other
            weightless += list(one.features.feature["image/object/mask/weight"].float_list.value).count(0)
        seen += len(before)
        assert before
    assert seen == images
    assert weightless >= 7


def test_files_are_named_by_what_they_are(mixed_data: Data, tmp_path: Path) -> None:
    output = tmp_path / "records"
    run(RunOptions(annotations=str(mixed_data.annotations), images=str(mixed_data.images), output=str(output)), [])
    export(str(output), str(tmp_path / "coco"))
    place = tmp_path / "coco/train"
    names = {str(path.relative_to(place)) for path in place.rglob("*.*")}
    kept = {"Straße/ä 人.jpg", "empty.png", "as it lies.jpg", "deep.png", "map.bmp.png"}
    assert names == kept | {"converted/turned.jpg.png", "converted/map.bmp.png", "converted/old.gif.png"}
    for name in names:
        with Image.open(place / name) as image:
            assert image.format == {".jpg": "JPEG", ".png": "PNG"}[name[-4:]]
    listed = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())["images"]
    assert {one["file_name"] for one in listed} == names
    for name in kept - {"deep.png"}:
        assert (place / name).read_bytes() == (mixed_data.images / name).read_bytes()


# ---------------------------------------------------------------------------------------------------------------- boxes


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    shares=st.lists(st.floats(0, 1), min_size=4, max_size=4, unique=True),
    digits=st.integers(0, 17),
)
def test_a_box_comes_back_as_the_same_float32(size: tuple[int, int], shares: list[float], digits: int) -> None:
    height, width = size
    ymin, ymax = sorted(round(share * height, digits) for share in shares[:2])
    xmin, xmax = sorted(round(share * width, digits) for share in shares[2:])
    if not (ymin < ymax and xmin < xmax):
        return
    sides = np.array([height, width, height, width], np.float64)
    record = (np.array([ymin, xmin, ymax, xmax]) / sides).astype(np.float32)
    box = coco_box(tuple((record.astype(np.float64) * sides).tolist()), height, width)
    read = box_of(box)
    clipped = clip_box(read, height, width) if read else None
    assert clipped is not None, box
    np.testing.assert_array_equal((np.array(clipped) / sides).clip(0, 1).astype(np.float32), record)
    if digits <= 2:
        assert all(value == round(value, 2) for value in box)


def test_a_box_that_is_nothing_in_float32_still_has_an_area() -> None:
    box = coco_box((320.0, 200.0, 320.0, 210.0), 480, 640)
    assert box[3] > 0
    assert np.float32((box[1] + box[3]) / 480) == np.float32(320 / 480)


# --------------------------------------------------------------------------------------------------- what few records have


def test_optional_features_are_exported(tmp_path: Path) -> None:
    attributes, extras = Attributes(truncated=True, view="left"), ImageExtras(neg_category_ids=(44, 1))
    image = image_with(instance(PICTURES[0], attributes=attributes, area=1 / 3), instance(None, category_id=44), extras=extras)
    output = write_data_set(tmp_path / "records", train=[record_of(image), record_of(image_with(image_id=13, file_name="b.png"))])
    export(str(output), str(tmp_path / "coco"))
    found = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert found["images"] == [
        {"id": 12, "file_name": "a.png", "height": 4, "width": 5, "neg_category_ids": [44, 1]},
        {"id": 13, "file_name": "b.png", "height": 4, "width": 5},
    ]
    first, second = found["annotations"]
    flags = dict.fromkeys(["difficult", "truncated", "occluded", "group_of", "depiction"], False)
    assert first["attributes"] == flags | {"truncated": True, "view": "left"}
    assert second["attributes"] == flags | {"view": ""}
    np.testing.assert_array_equal(cocomask.decode(first["segmentation"]), draw(PICTURES[0]))
    assert first["area"] == 0.33333334  # as short as float32 is
    assert second.keys() == first.keys() - {"segmentation"}


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "format_", "expected"),
    [
        ("a/b.jpg", "jpeg", "a/b.jpg"),
        ("a/b.JPEG", "jpeg", "a/b.JPEG"),
        ("./a//b.png", "png", "a/b.png"),
        ("a.jpg", "png", "converted/a.jpg.png"),
        ("a.jpg@0,64", "jpeg", "converted/a.jpg@0,64.jpg"),
        ("no suffix 100%", "png", "converted/no suffix 100%25.png"),
        ("converted/a.png", "png", "converted/converted/a.png.png"),
        ("", "png", "converted/.png"),
        ("..", "png", "converted/...png"),
        ("../../etc/cron.png", "png", "converted/..%2F..%2Fetc%2Fcron.png.png"),
        ("/etc/cron.png", "png", "converted/%2Fetc%2Fcron.png.png"),
        ("..\\a\0.jpg", "jpeg", "converted/..%5Ca%00.jpg.jpg"),
        ("gs://b/a.jpg", "jpeg", "converted/gs%3A%2F%2Fb%2Fa.jpg.jpg"),
    ],
)
def test_names(name: str, format_: str, expected: str) -> None:
    assert exported_name(name, format_) == expected


NAMES = st.text("ab.%/\\:j2F", max_size=8) | st.sampled_from(
    ["a.png", "a", "converted/a", "converted/a.png", "%2Fa", "/a", "../a"]
)


@settings(max_examples=300)
@given(names=st.lists(NAMES, min_size=2, max_size=6, unique=True))
def test_no_name_leads_out_and_no_two_images_share_one(names: list[str]) -> None:
    found: dict[str, str] = {}
    for name in names:
        given_ = (
            name
            if name.startswith("/") or ".." in name.split("/")
            else "/".join(p for p in name.split("/") if p not in ("", "."))
        )
        exported_as = exported_name(name, "png")
        parts = exported_as.split("/")
        assert not ({"", ".", ".."} & set(parts))
        assert "\\" not in exported_as
        assert exported_as.endswith(".png")
        assert found.setdefault(exported_as, given_) == given_


def test_no_image_is_written_outside(tmp_path: Path) -> None:
    images = [image_with(image_id=number, file_name=name) for number, name in enumerate(["../../x.png", "/x.png", "../y.png"], 1)]
    output = write_data_set(tmp_path / "records", train=[record_of(image) for image in images])
    before = digests(tmp_path)
    export(str(output), str(tmp_path / "to/coco"))
    new = digests(tmp_path).keys() - before.keys()
    assert all(name.startswith("to/coco/") for name in new)
    assert len([name for name in new if name.startswith("to/coco/train/converted/")]) == 3


# ----------------------------------------------------------------------------------------------------- where it writes to


def said(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err.strip()


def test_what_lies_in_the_folder_stays(demo_output: Output, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos/inner").mkdir(parents=True)
    arguments = ["export", str(demo_output.folder), "--to", "coco", "--output"]
    assert main([*arguments, str(tmp_path / "photos")]) == 2
    assert said(capfd).endswith("photos is not empty (inner), and no earlier export: choose another folder")
    assert main([*arguments, str(demo_output.folder)]) == 2
    assert "is not empty" in said(capfd)
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "inner"]
    (tmp_path / "file").touch()
    assert main([*arguments, str(tmp_path / "file")]) == 2
    assert "can't be written" in said(capfd)


def test_a_bucket_gets_the_same(
    exported: Path, demo_output: Output, storage: StorageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.endpoint)
    for _ in range(2):
        export(str(demo_output.folder), "gs://bkt/coco")
        assert storage.objects("gs://bkt/coco") == files_below(exported)
    with pytest.raises(InputError, match=r"gs://bkt/images is not empty \(gs://bkt/images/evening/"):
        export(str(demo_output.folder), "gs://bkt/images")


def test_an_export_that_was_broken_off_is_no_whole_one(tmp_path: Path) -> None:
    images = [image_with(instance(PICTURES[0]), image_id=number, file_name=f"{number}.png") for number in range(1, 60)]
    output = write_data_set(tmp_path / "records", train=[record_of(image) for image in images])
    shard, folder = output / "train-00000-of-00001.tfrecord", tmp_path / "coco"
    whole = shard.read_bytes()
    export(str(output), str(folder))
    expected = digests(folder)
    shard.write_bytes(whole[:-9])  # the second time, it ends before its end
    with pytest.raises(InputError, match="cut off within the record"):
        export(str(output), str(folder))
    assert not (folder / "_SUCCESS").exists()
    assert [path.name for path in (folder / "annotations").iterdir()] == ["instances_train.json.part"]
    (folder / "annotations/captions.json").touch()  # another's, which stays
    shard.write_bytes(whole)
    export(str(output), str(folder))
    assert digests(folder) == expected | {"annotations/captions.json": hashlib.sha256(b"").hexdigest()}


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ((), "is no complete data set of maskbeam's: it has no _SUCCESS"),
        (("--split", "val,test"), "has no split 'test': it has train, val"),
    ],
)
def test_what_cannot_be_exported_is_told(
    demo_output: Output, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: tuple[str, ...], wrong: str
) -> None:
    output = demo_output.folder
    if not more:
        output = tmp_path / "records"
        output.mkdir()
        (output / "manifest.json").write_bytes((demo_output.folder / "manifest.json").read_bytes())
    assert main(["export", str(output), "--to", "coco", "--output", str(tmp_path / "coco"), *more]) == 2
    assert said(capfd).endswith(wrong)
    assert not (tmp_path / "coco").exists()


def test_memory_does_not_grow_with_the_data_set(tmp_path: Path) -> None:
    checked = checked_image(60, 90)
    mask = np.zeros((60, 90), np.uint8)
    mask[::3, ::2] = 1  # run lengths of a few kilobytes

    def peak(count: int) -> int:
        instances = [instance(run_lengths.from_mask(mask), (0.0, 0.0, 60.0, 90.0))] * 3
        record = record_of(image_with(*instances, height=60, width=90), checked)
        output = write_data_set(tmp_path / f"records{count}", train=[record] * count)
        tracemalloc.start()
        try:
            export(str(output), str(tmp_path / f"coco{count}"))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)  # what is imported and cached the first time
    small, large = peak(60), peak(600)
    listed = (tmp_path / "coco600/annotations/instances_train.json").stat().st_size
    assert listed > 3_500_000
    assert large < small + 2_500_000  # a few files are open at once, each with a buffer of 1 MB
