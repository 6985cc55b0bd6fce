"""Whole runs, read back by TensorFlow and compared with pycocotools, with nothing of ours in between."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from conftest import Data, Output, digests
from PIL import Image
from pycocotools.coco import COCO
from storage_server import files_below, published

from beam_pipeline.dataflow import LostSightError
from beam_pipeline.options import RunOptions
from beam_pipeline.run import WORTH_A_FORK, WORTH_A_PROCESS, run, use_processes
from transforms.records import InputError

THREE_THREADS = ("--direct_running_mode=multi_threading", "--direct_num_workers=3")

Record = dict[str, Any]


def read_back(output: Path, encoding: str = "png") -> Iterator[Record]:
    """Every record through `tf.data` and `parse_single_example`; masks as [N, H, W]."""
    import tensorflow as tf

    strings, floats, ints = tf.io.VarLenFeature(tf.string), tf.io.VarLenFeature(tf.float32), tf.io.VarLenFeature(tf.int64)
    features = {
        "image/height": tf.io.FixedLenFeature((), tf.int64),
        "image/width": tf.io.FixedLenFeature((), tf.int64),
        "image/filename": tf.io.FixedLenFeature((), tf.string),
        "image/source_id": tf.io.FixedLenFeature((), tf.string),
        "image/encoded": tf.io.FixedLenFeature((), tf.string),
        "image/object/class/text": strings,
        "image/object/class/label": ints,
        "image/object/is_crowd": ints,
        "image/object/area": floats,
        "image/object/mask/weight": floats,
        "image/object/mask": floats if encoding == "dense" else strings,
    } | {f"image/object/bbox/{side}": floats for side in ("ymin", "xmin", "ymax", "xmax")}
    for shard in sorted(output.glob("*.tfrecord")):
        for serialized in tf.data.TFRecordDataset(str(shard)):
            parsed = tf.io.parse_single_example(serialized, features)
            record = {
                name: value.values.numpy() if isinstance(value, tf.SparseTensor) else value.numpy()
                for name, value in parsed.items()
            }
            height, width = record["image/height"], record["image/width"]
            masks = record["image/object/mask"]
            if encoding == "dense":
                record["masks"] = masks.reshape(-1, height, width)
            else:
                each = [tf.io.decode_png(mask, channels=1).numpy()[..., 0] for mask in masks]
                record["masks"] = np.stack(each) if each else np.zeros((0, height, width), np.uint8)
            record["pixels"] = tf.io.decode_image(record["image/encoded"], channels=3).numpy()
            record["shard"] = shard.name
            yield record


def coco_run(annotations: Path, images: Path, output: Path, **options: Any) -> dict[str, Any]:
    return run(RunOptions(annotations=str(annotations), images=str(images), output=str(output), **options), []).manifest


def compare_with_pycocotools(records: list[Record], coco: COCO, left_out: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """Every mask, class, crowd flag and area against the annotations; how many there were."""
    compared = 0
    for record in records:
        annotations = sorted(coco.imgToAnns[int(record["image/source_id"])], key=lambda one: one["id"])
        annotations = [one for one in annotations if one["id"] not in left_out]
        assert len(annotations) == len(record["masks"])
        for annotation, mask in zip(annotations, record["masks"], strict=True):
            assert np.array_equal(mask, coco.annToMask(annotation)), annotation["id"]
            compared += 1
        assert record["pixels"].shape[:2] == record["masks"].shape[1:]
        assert record["image/object/class/label"].tolist() == [one["category_id"] for one in annotations]
        names = [coco.cats[one["category_id"]]["name"] for one in annotations]
        assert [text.decode() for text in record["image/object/class/text"]] == names
        assert record["image/object/is_crowd"].tolist() == [one.get("iscrowd", 0) for one in annotations]
        assert np.array_equal(record["image/object/area"], np.array([one["area"] for one in annotations], np.float32))
    return compared


@pytest.mark.parametrize("encoding", ["png", "png1", "dense"])
@pytest.mark.parametrize(("split", "images", "instances"), [("train2017", 32, 288), ("val2017", 6, 136)])
def test_every_mask_of_tinycoco_is_pycocotools_mask(
    real_data: Path, tmp_path: Path, encoding: str, split: str, images: int, instances: int
) -> None:
    root = real_data / "tinycoco" / "tinycoco"
    file = root / "annotations" / f"instances_{split}.json"
    manifest = coco_run(file, root / "images" / split, tmp_path / "out", mask_encoding=encoding, num_shards="3")
    records = list(read_back(tmp_path / "out", encoding))
    assert len(records) == manifest["images"]["written"] == images
    assert compare_with_pycocotools(records, COCO(str(file))) == manifest["annotations"]["written"] == instances


def test_boxes_are_half_open_and_scaled_by_the_right_sides(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "tinycoco" / "tinycoco"
    file = root / "annotations" / "instances_val2017.json"
    coco = COCO(str(file))
    for boxes in ("annotation", "mask"):
        coco_run(file, root / "images" / "val2017", tmp_path / boxes, boxes=boxes)
        for record in read_back(tmp_path / boxes):
            height, width = record["image/height"], record["image/width"]
            assert height != width
            for index, annotation in enumerate(sorted(coco.imgToAnns[int(record["image/source_id"])], key=lambda one: one["id"])):
                if boxes == "mask":
                    ys, xs = np.nonzero(coco.annToMask(annotation))
                    expected = (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
                else:
                    x, y, w, h = annotation["bbox"]
                    expected = (max(y, 0), max(x, 0), min(y + h, height), min(x + w, width))
                found = [record[f"image/object/bbox/{side}"][index] for side in ("ymin", "xmin", "ymax", "xmax")]
                scaled = np.array(expected, np.float64) / (height, width, height, width)
                np.testing.assert_allclose(found, scaled, atol=1e-7)


def test_the_demo_has_every_form_of_segmentation_and_comes_out_right(demo_data: Data, demo_output: Output) -> None:
    records = list(read_back(demo_output.folder))
    annotations = json.loads(demo_data.annotations.read_text())["annotations"]
    forms = {type(one["segmentation"]).__name__ for one in annotations}
    assert forms == {"list", "dict"}
    assert any(one["iscrowd"] for one in annotations)
    assert {record["image/height"] > record["image/width"] for record in records} == {True, False}
    assert any(len(record["masks"]) == 0 for record in records)
    rejected = {json.loads(line)["annotation_id"] for line in (demo_output.folder / "rejects.jsonl").read_text().splitlines()}
    coco = COCO(str(demo_data.annotations))
    assert compare_with_pycocotools(records, coco, rejected - {None}) == demo_output.manifest["annotations"]["written"]


def shuffled_copy(data: Data, folder: Path, seed: int) -> Path:
    """The same annotations in another order, over two files, with other white space."""
    rng = random.Random(seed)
    content = json.loads(data.annotations.read_text())
    for entries in content.values():
        rng.shuffle(entries)
    halves: list[dict[str, Any]] = [{}, {}]
    for key, entries in content.items():
        cut = rng.randrange(len(entries))
        halves[0][key], halves[1][key] = entries[:cut], entries[cut:]
    folder.mkdir()
    for number, half in enumerate(halves):
        keys = list(half)
        rng.shuffle(keys)
        (folder / f"part-{number}.json").write_text(json.dumps({key: half[key] for key in keys}, indent=rng.choice([None, 1, 4])))
    return folder / "part-*.json"


@pytest.mark.parametrize(("seed", "workers", "beam"), [(1, "1", ()), (2, "2", ()), (3, "auto", THREE_THREADS)])
def test_same_bytes_for_any_order_of_input_and_number_of_workers(
    demo_data: Data,
    demo_output: Output,
    run_demo: Callable[..., Output],
    tmp_path: Path,
    seed: int,
    workers: str,
    beam: tuple[str, ...],
) -> None:
    pattern = shuffled_copy(demo_data, tmp_path / "shuffled", seed)
    options = {"splits": "train=0.7,val=0.3", "num_shards": "2", "workers": workers}
    again = run_demo(annotations=str(pattern), beam=beam, **options)
    found = published(files_below(again.folder), str(pattern), str(demo_data.images))
    assert found == published(files_below(demo_output.folder), str(demo_data.annotations), str(demo_data.images))


def test_the_number_of_processes_follows_the_size_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    paths: dict[str, Any] = {"annotations": "a.json", "images": "a", "output": "b"}

    def found(size: int, workers: str = "auto", *flags: str, forked: bool = False) -> tuple[int, str]:
        beam_options = PipelineOptions(list(flags))
        use_processes(RunOptions(**paths, workers=workers), beam_options, size, forked)
        direct = beam_options.view_as(DirectOptions)
        return direct.direct_num_workers, direct.direct_running_mode

    here, there = "in_memory", "multi_processing"
    assert found(0) == found(2 * WORTH_A_PROCESS - 1) == found(1 << 40, "1") == (1, here)
    assert found(2 * WORTH_A_PROCESS) == (2, there)
    assert found(1 << 40) == (4, there)
    assert found(0, "7") == (7, there)
    assert found(2 * WORTH_A_FORK - 1, forked=True) == (1, here)
    assert found(2 * WORTH_A_FORK, forked=True) == (2, here)
    assert found(0, "7", forked=True) == (7, here)
    assert found(1 << 40, "auto", "--direct_num_workers=3") == (3, here)
    with pytest.raises(InputError, match="--workers stands for --direct_num_workers"):
        found(0, "2", "--direct_running_mode=multi_threading")
    paths["profile"] = True
    assert found(1 << 40) == found(1 << 40, "1") == (1, here)
    with pytest.raises(InputError, match="--profile looks at one process: leave --workers out"):
        found(0, "2")


def test_workers_are_for_jobs_on_this_machine(run_demo: Callable[..., Output]) -> None:
    for name, value in {"workers": "2", "profile": True}.items():
        with pytest.raises(InputError, match=f"--{name} is for jobs on this machine, not on FlinkRunner"):
            run_demo(**{name: value}, beam=("--runner=FlinkRunner",))


def test_the_ledger_balances_against_the_files_themselves(demo_data: Data, demo_output: Output) -> None:
    content = json.loads(demo_data.annotations.read_text())
    rejects = [json.loads(line) for line in (demo_output.folder / "rejects.jsonl").read_text().splitlines()]
    written: Counter[str] = Counter()
    seen = set()
    for record in read_back(demo_output.folder):
        written["image"] += 1
        written["annotation"] += len(record["masks"])
        seen.add(int(record["image/source_id"]))
    for kind, key in (("image", "images"), ("annotation", "annotations")):
        rejected = sum(one["kind"] == kind for one in rejects)
        assert written[kind] + rejected == len(content[key])
        assert demo_output.manifest[key] == {
            "read": len(content[key]),
            "written": written[kind],
            "rejected": rejected,
            "dropped": 0,
        }
    assert seen | {one["image_id"] for one in rejects if one["kind"] == "image"} == {one["id"] for one in content["images"]}
    assert {one["reason"] for one in rejects} == {"IMAGE_CORRUPT", "POLY_MALFORMED", "CATEGORY_UNKNOWN"}


def test_taco_runs_through_and_its_ledger_balances(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "taco_json" / "annotations.json"
    content = json.loads(file.read_text())
    claims = defaultdict(set)
    for one in content["annotations"]:
        claims[one["id"]].add(one["image_id"])
    repeated = {number: sorted(images) for number, images in claims.items() if len(images) > 1}
    assert sorted(repeated) == [309, 4040]
    over_the_edge = {one["image_id"] for one in content["annotations"] if any(-1 in ring for ring in one["segmentation"])}
    wanted = over_the_edge | {image for images in repeated.values() for image in images}
    images = tmp_path / "images"
    for entry in content["images"]:
        if entry["id"] in wanted:
            path = images / entry["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (entry["width"], entry["height"]), 99).save(path, quality=30)
    manifest = coco_run(file, images, tmp_path / "out", category_ids="contiguous", max_reject_fraction=1.0)
    assert manifest["images"] == {"read": 1500, "written": len(wanted), "rejected": 1500 - len(wanted), "dropped": 0}
    annotations = manifest["annotations"]
    assert annotations["read"] == 4784 == annotations["written"] + annotations["rejected"]
    assert manifest["reasons"]["annotation"]["DUP_ID"] == 2
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    duplicates = {(one["annotation_id"], one["image_id"]) for one in rejects if one["reason"] == "DUP_ID"}
    assert duplicates == {(309, repeated[309][1]), (4040, repeated[4040][1])}
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    clipped = sum(any(-1 in ring for ring in one["segmentation"]) for one in content["annotations"])
    assert statistics["train"]["fixes"]["POLYGON_CLIPPED"] >= clipped > 0
    coco = COCO(str(file))
    labels = {one["id"]: number for number, one in enumerate(sorted(content["categories"], key=lambda one: one["id"]), start=1)}
    for record in read_back(tmp_path / "out"):
        image_id = int(record["image/source_id"])
        kept = [one for one in coco.imgToAnns[image_id] if (one["id"], image_id) not in duplicates]
        kept.sort(key=lambda one: one["id"])
        assert record["image/object/class/label"].tolist() == [labels[one["category_id"]] for one in kept]
        for annotation, mask in zip(kept, record["masks"], strict=True):
            assert np.array_equal(mask, coco.annToMask(annotation))


def test_a_category_zero_asks_for_contiguous_ids(real_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--category_ids contiguous"):
        coco_run(real_data / "taco_json" / "annotations.json", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_frames_of_one_group_stay_in_one_split(demo_data: Data, run_demo: Callable[..., Output]) -> None:
    output = run_demo(splits="train=0.5,val=0.5", split_by=r"beach-(\d\d)\d")
    names = {one["id"]: one["file_name"] for one in json.loads(demo_data.annotations.read_text())["images"]}
    splits = defaultdict(set)
    for record in read_back(output.folder):
        splits[names[int(record["image/source_id"])].split("beach-")[1][:2]].add(record["shard"].split("-")[0])
    assert len(splits) == 4
    assert all(len(of_group) == 1 for of_group in splits.values())


def test_shards_that_no_image_falls_into_are_there_and_empty(run_demo: Callable[..., Output]) -> None:
    output = run_demo(num_shards="64")
    sizes = [path.stat().st_size for path in sorted(output.folder.glob("train-*-of-00064.tfrecord"))]
    assert len(sizes) == 64
    assert sizes.count(0) > 10
    assert sum(1 for _ in read_back(output.folder)) == 29


@pytest.mark.parametrize(
    ("option", "reason", "kind"),
    [
        ("drop_crowds", "DROPPED_CROWD", "annotation"),
        ("drop_images_without_annotations", "DROPPED_EMPTY_IMAGE", "image"),
        ("drop_annotations_without_mask", "DROPPED_WITHOUT_MASK", "annotation"),
    ],
)
def test_what_is_dropped_by_an_option_is_kept_without_it(
    demo_data: Data, run_demo: Callable[..., Output], tmp_path: Path, option: str, reason: str, kind: str
) -> None:
    content = json.loads(demo_data.annotations.read_text())
    without = next(one for one in content["annotations"] if one["image_id"] == 1)
    del without["segmentation"]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content))
    kept = run_demo(annotations=str(file))
    dropped = run_demo(annotations=str(file), **{option: True})
    assert dropped.manifest["reasons"][kind][reason] == 1
    key = f"{kind}s"
    assert dropped.manifest[key]["dropped"] == 1
    assert dropped.manifest[key]["written"] == kept.manifest[key]["written"] - 1
    weights = [weight for record in read_back(kept.folder) for weight in record["image/object/mask/weight"]]
    masks = [mask.any() for record in read_back(kept.folder) for mask in record["masks"]]
    assert weights.count(0.0) == 1
    assert masks == [bool(weight) for weight in weights]


def test_overwriting_with_fewer_shards_leaves_nothing_stale(run_demo: Callable[..., Output], tmp_path: Path) -> None:
    folder = tmp_path / "records"
    run_demo(output=folder, num_shards="4")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        run_demo(output=folder, num_shards="2")
    assert len(list(folder.glob("*.tfrecord"))) == 4
    run_demo(output=folder, num_shards="2", overwrite=True)
    assert {path.name for path in folder.glob("*.tfrecord")} == {"train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "_temporary").exists()


def test_a_failed_move_of_a_shard_means_no_success(
    run_demo: Callable[..., Output], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transforms import storage

    monkeypatch.setattr(storage, "move", lambda source, target: None)
    with pytest.raises(OSError, match="is not what was written"):
        run_demo(output=tmp_path / "records")
    assert not (tmp_path / "records" / "_SUCCESS").exists()
    monkeypatch.undo()
    again = run_demo(output=tmp_path / "records")
    assert (again.folder / "_SUCCESS").exists()
    assert not (again.folder / "_temporary").exists()


@pytest.mark.parametrize("lost", [LostSightError("the network is gone"), RuntimeError("the network is gone")])
def test_a_job_that_is_lost_sight_of_when_it_is_done_says_what_happened(
    run_demo: Callable[..., Output], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: RuntimeError
) -> None:
    run = beam.Pipeline.run

    def runs(self: beam.Pipeline) -> None:
        run(self).wait_until_finish()
        raise lost

    monkeypatch.setattr(beam.Pipeline, "run", runs)
    with pytest.raises(type(lost), match="the network is gone"):
        run_demo(output=tmp_path / "records")
    assert (tmp_path / "records" / "_SUCCESS").exists()


def test_a_record_over_the_limit_is_refused_and_png_suggested(run_demo: Callable[..., Output]) -> None:
    output = run_demo(mask_encoding="dense", max_record_mb=8.0, max_reject_fraction=1.0)
    rejects = [json.loads(line) for line in (output.folder / "rejects.jsonl").read_text().splitlines()]
    refused = [one for one in rejects if one["kind"] == "image" and one["reason"] == "RECORD_LIMIT"]
    assert 0 < len(refused) < 29
    assert all("--mask_encoding png" in one["message"] for one in refused)
    assert sum(1 for _ in read_back(output.folder, "dense")) == 29 - len(refused)


def test_an_empty_data_set_and_one_without_annotations_finish(tmp_path: Path) -> None:
    for name, images in (("nothing", 0), ("bare", 3)):
        entries = [{"id": 5 + n, "file_name": f"a b/{n}.png", "height": 4, "width": 9} for n in range(images)]
        for entry in entries:
            path = tmp_path / name / str(entry["file_name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 4)).save(path)
        (tmp_path / name).mkdir(exist_ok=True)
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"images": entries, "annotations": [], "categories": []}))
        manifest = coco_run(file, tmp_path / name, tmp_path / f"{name}-out", splits="train=0.5,val=0.5")
        assert manifest["images"]["written"] == images
        assert len(list(read_back(tmp_path / f"{name}-out"))) == images
        assert (tmp_path / f"{name}-out" / "_SUCCESS").exists()


def test_an_unusable_file_does_not_cost_the_data_set_that_it_was_to_replace(
    run_demo: Callable[..., Output], tmp_path: Path
) -> None:
    made = run_demo(output=tmp_path / "records")
    before = digests(made.folder)
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": [], "annotations": [')
    with pytest.raises(InputError, match="cut off"):
        run_demo(annotations=str(broken), output=made.folder, overwrite=True)
    (tmp_path / "records" / "_temporary").rename(tmp_path / "left")
    assert digests(made.folder) == before


def test_where_no_image_can_be_written_there_is_no_success(run_demo: Callable[..., Output], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not one of 30 images can be written: 30 IMAGE_MISSING .*there is no file"):
        run_demo(images=str(tmp_path), output=tmp_path / "records")
    assert not (tmp_path / "records" / "_SUCCESS").exists()
    assert len((tmp_path / "records" / "rejects.jsonl").read_text().splitlines()) == 250
