"""`verify` finds each kind of damage, and nothing in what is whole."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from conftest import Data, Output
from PIL import Image

from beam_pipeline.verify import verify
from transforms.records import InputError
from transforms.tfrecord import RecordWriter, read_records

Change = Callable[[Any], None]


@pytest.fixture
def output(demo_output: Output, tmp_path: Path) -> Path:
    """A copy of the demo's records, to be damaged."""
    return Path(shutil.copytree(demo_output.folder, tmp_path / "records"))


def fullest_shard(output: Path) -> Path:
    return max(output.glob("*.tfrecord"), key=lambda path: path.stat().st_size)


def edit_manifest(output: Path, change: Change) -> None:
    path = output / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def edit_first_record(output: Path, change: Change) -> None:
    """Changes the first record that has instances, with right checksums everywhere, as a faulty writer would have it."""
    import tensorflow as tf

    shard = fullest_shard(output)
    records = list(read_records(io.BytesIO(shard.read_bytes())))
    for index, record in enumerate(records):
        example = tf.train.Example.FromString(record)
        if len(example.features.feature["image/object/mask"].bytes_list.value) > 1:
            change(example.features.feature)
            records[index] = example.SerializeToString()
            break
    with shard.open("wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)

    def seal(manifest: dict[str, Any]) -> None:
        for entry in manifest["shards"]:
            if entry["file"] == shard.name:
                entry["bytes"] = writer.bytes
                entry["crc32c"] = f"{google_crc32c.value(shard.read_bytes()):08x}"

    edit_manifest(output, seal)


def flip_a_mask_bit(features: Any) -> None:
    masks = features["image/object/mask"].bytes_list.value
    pixels = np.array(Image.open(io.BytesIO(masks[0])))
    ys, xs = np.nonzero(pixels)
    pixels[ys[0], xs[0]] ^= 1
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    masks[0] = file.getvalue()


def mask_as_255(features: Any) -> None:
    masks = features["image/object/mask"].bytes_list.value
    file = io.BytesIO()
    Image.fromarray(np.array(Image.open(io.BytesIO(masks[0]))) * 255).save(file, "PNG")
    masks[0] = file.getvalue()


def mask_turned(features: Any) -> None:
    masks = features["image/object/mask"].bytes_list.value
    for index, mask in enumerate(masks):
        file = io.BytesIO()
        Image.open(io.BytesIO(mask)).transpose(Image.Transpose.TRANSPOSE).save(file, "PNG")
        masks[index] = file.getvalue()


def shift_a_box(features: Any) -> None:
    for side in ("xmin", "xmax"):
        values = features[f"image/object/bbox/{side}"].float_list.value
        values[0] = min(1.0, values[0] + 0.01)


def swap_two_masks(features: Any) -> None:
    masks = features["image/object/mask"].bytes_list.value
    masks[0], masks[1] = masks[1], masks[0]


def set_values(name: str, kind: str, values: list[Any]) -> Change:
    def change(features: Any) -> None:
        getattr(features[name], kind).value[: len(values)] = values

    return change


def drop_a_value(features: Any) -> None:
    del features["image/object/area"].float_list.value[-1]


def drop_a_feature(features: Any) -> None:
    del features["image/object/class/label"]


def change_the_kind(features: Any) -> None:
    features["image/object/is_crowd"].float_list.value[:] = [0.0]


def test_what_is_whole_has_no_faults(demo_output: Output, demo_data: Data) -> None:
    assert verify(str(demo_output.folder), str(demo_data.annotations)) == []


@pytest.mark.parametrize("encoding", ["png1", "dense"])
def test_the_other_encodings_are_whole_too(run_demo: Callable[..., Output], demo_data: Data, encoding: str) -> None:
    made = run_demo(mask_encoding=encoding, boxes="mask", category_ids="contiguous")
    assert verify(str(made.folder), str(demo_data.annotations)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip_a_mask_bit, "differs from pycocotools' in 1 pixels"),
        (shift_a_box, "the box is"),
        (swap_two_masks, "differs from pycocotools"),
        (set_values("image/object/is_crowd", "int64_list", [1]), "is_crowd is 1"),
        (set_values("image/object/area", "float_list", [1.25]), "the area is 1.25"),
    ],
)
def test_damage_that_only_the_annotations_can_show(output: Path, demo_data: Data, change: Change, said: str) -> None:
    edit_first_record(output, change)
    assert verify(str(output)) == []
    faults = verify(str(output), str(demo_data.annotations))
    assert any(said in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (mask_as_255, "decoders see different things"),
        (mask_turned, "the masks are"),
        (set_values("image/object/bbox/xmax", "float_list", [1.5]), "outside [0, 1]"),
        (set_values("image/object/bbox/ymax", "float_list", [0.0]), "ymin is above"),
        (set_values("image/object/class/label", "int64_list", [0]), "not in the label map"),
        (set_values("image/object/class/text", "bytes_list", [b"nothing"]), "not in the label map"),
        (set_values("image/object/mask/weight", "float_list", [0.0]), "mask/weight is 0.0"),
        (set_values("image/object/mask", "bytes_list", [b""]), "refuses it"),
        (set_values("image/source_id", "bytes_list", [b"a7"]), "expected a number"),
        (set_values("image/key/sha256", "bytes_list", [b"0" * 64]), "not the digest"),
        (set_values("image/format", "bytes_list", [b"tiff"]), "image/format"),
        (set_values("image/height", "int64_list", [7]), "refuses it|image/height"),
        (drop_a_value, "image/object/area: expected"),
        (drop_a_feature, "image/object/class/label is missing"),
        (change_the_kind, "expected int64_list, found float_list"),
    ],
)
def test_damage_that_a_record_shows_by_itself(output: Path, change: Change, said: str) -> None:
    edit_first_record(output, change)
    faults = verify(str(output))
    assert any(part in fault for part in said.split("|") for fault in faults), faults


def test_a_changed_byte_shows_in_the_checksums(output: Path) -> None:
    shard = fullest_shard(output)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    faults = verify(str(output))
    assert any("the crc32c is" in fault for fault in faults)
    assert any("wrong checksum" in fault for fault in faults)


def test_a_missing_shard(output: Path) -> None:
    shard = fullest_shard(output)
    shard.unlink()
    assert any(fault == f"{shard.name}: the shard is missing" for fault in verify(str(output)))


def test_a_shard_too_many(output: Path) -> None:
    shutil.copy(fullest_shard(output), output / "train-00007-of-00009.tfrecord")
    assert any("train-00007-of-00009.tfrecord: a shard that" in fault for fault in verify(str(output)))


@pytest.mark.parametrize("cut", [1, 20, 5000])
def test_a_cut_file(output: Path, cut: int) -> None:
    shard = fullest_shard(output)
    shard.write_bytes(shard.read_bytes()[:-cut])
    faults = verify(str(output))
    assert any("bytes, the manifest says" in fault for fault in faults)
    assert any("cut off" in fault for fault in faults)


@pytest.mark.parametrize("key", ["records", "instances"])
def test_a_wrong_count_of_a_shard(output: Path, key: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["shards"][0][key] += 1

    edit_manifest(output, change)
    assert any(f"{key}, the manifest says" in fault for fault in verify(str(output)))


def test_a_wrong_count_in_the_ledger(output: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["annotations"]["written"] += 1

    edit_manifest(output, change)
    assert any("ledger of annotations" in fault for fault in verify(str(output)))


def test_a_lost_reject(output: Path) -> None:
    path = output / "rejects.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert any("rejects.jsonl has" in fault for fault in verify(str(output)))


def test_label_maps_that_disagree(output: Path) -> None:
    path = output / "label_map.csv"
    path.write_text(path.read_text().replace("kite", "cat"))
    assert any("do not say the same" in fault for fault in verify(str(output)))


def test_no_success_marker(output: Path) -> None:
    (output / "_SUCCESS").unlink()
    assert any("the job has not finished" in fault for fault in verify(str(output)))


def test_an_image_of_the_annotations_that_is_nowhere(output: Path, demo_data: Data, tmp_path: Path) -> None:
    content = json.loads(demo_data.annotations.read_text())
    content["images"].append({"id": 999, "file_name": "lost.jpg", "height": 4, "width": 5})
    file = tmp_path / "more.json"
    file.write_text(json.dumps(content))
    assert any("image 999 is in the annotations" in fault for fault in verify(str(output), str(file)))


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no manifest\.json in it"):
        verify(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json can't be read"):
        verify(str(tmp_path))


def test_a_line_that_is_no_reject(output: Path) -> None:
    with (output / "rejects.jsonl").open("a") as file:
        file.write('{"kind": "ima')
    assert any("is no reject" in fault for fault in verify(str(output)))


def test_statistics_of_something_else(output: Path) -> None:
    path = output / "statistics.json"
    statistics = json.loads(path.read_text())
    statistics["train"]["instances"] += 1
    path.write_text(json.dumps(statistics))
    assert any("statistics.json: train has" in fault for fault in verify(str(output)))


def test_odd_input_is_compared_without_false_alarms(demo_data: Data, run_demo: Callable[..., Output], tmp_path: Path) -> None:
    content = json.loads(demo_data.annotations.read_text())
    images, annotations = content["images"], content["annotations"]
    images += [
        {**images[0], "id": "x9"},
        {**images[0], "id": 4.0},
        {**images[2], "file_name": "another.jpg"},
        {**images[1], "id": 70, "file_name": "no\u2028such.png"},
        {"id": 71, "file_name": "\ud800.png", "height": 3, "width": 4},
        {"id": 72},
        None,
    ]
    annotations += [
        {**annotations[0], "id": "y1"},
        {**annotations[0], "id": 19.0},
        {**annotations[0], "id": 900, "image_id": "1"},
        {**annotations[1], "id": 901, "image_id": 5000},
        {**annotations[1], "image_id": 2},
        dict(annotations[2]),
        {**annotations[2], "id": 902, "area": 1e39, "bbox": None},
        {"id": 903},
        7,
    ]
    file = tmp_path / "odd.json"
    file.write_text(json.dumps(content))
    made = run_demo(annotations=str(file), max_reject_fraction=1.0)
    assert made.manifest["images"]["read"] == len(images)
    assert made.manifest["annotations"]["read"] == len(annotations)
    assert verify(str(made.folder), str(file)) == []


def test_annotations_that_are_not_there(output: Path) -> None:
    with pytest.raises(InputError, match="--coco"):
        verify(str(output), "/nowhere.json")
