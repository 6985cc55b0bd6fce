"""Records read back without TensorFlow: what TensorFlow's own message says, and pycocotools' masks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Data, Output
from pycocotools import mask as cocomask
from storage_server import StorageServer
from test_examples import PICTURES, draw, features_of, image_with, instance, record_of

from transforms.examples import encode_example
from transforms.gcs import Gcs
from transforms.read_records import iter_images, iter_records, parse_example, read_at, read_image
from transforms.records import Attributes, ImageExtras, InputError

ENCODINGS = pytest.mark.parametrize("encoding", ["png", "png1", "dense"])


def all_records(tf: Any, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Split and record of each image, as TensorFlow reads shards."""
    for shard in sorted(folder.glob("*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
            yield shard.name.split("-")[0], record


def truth(annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
    """The annotation's mask, by pycocotools."""
    shape = annotation["segmentation"]
    if isinstance(shape, list):
        return cocomask.decode(cocomask.merge(cocomask.frPyObjects(shape, height, width)))
    return cocomask.decode(cocomask.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape)


@pytest.fixture(scope="module", params=["png", "png1", "dense"])
def written(request: pytest.FixtureRequest, run_demo: Callable[..., Output]) -> Output:
    return run_demo(splits="train=0.7,val=0.3", num_shards="2", mask_encoding=request.param)


def test_any_record_says_what_it_says_to_tensorflow(tf: Any, written: Output) -> None:
    for _, record in all_records(tf, written.folder):
        features = parse_example(record)
        expected = features_of(tf, record)
        assert features.keys() == expected.keys()
        for name, (kind, values) in expected.items():
            dtype = {"float_list": np.float32, "int64_list": np.int64}.get(kind)
            assert getattr(features[name], "dtype", None) == dtype, name
            assert list(features[name]) == values, name


def test_images_and_masks_are_those_of_the_annotations(tf: Any, written: Output, demo_data: Data) -> None:
    source = json.loads(demo_data.annotations.read_text())
    names = {one["id"]: one["name"] for one in source["categories"]}
    by_id = {one["id"]: one for one in source["images"]}
    rejects = [json.loads(line) for line in (written.folder / "rejects.jsonl").read_text().splitlines()]
    gone = {reject["annotation_id"] for reject in rejects}
    images = list(iter_images(str(written.folder)))
    raw = [(split, features_of(tf, record)) for split, record in all_records(tf, written.folder)]
    assert len(images) == len(raw) == 29
    crowds = 0
    for image, (split, features) in zip(images, raw, strict=True):
        entry = by_id[image.image_id]
        assert (image.height, image.width) == (entry["height"], entry["width"])
        assert image.height != image.width
        assert (image.split, image.file_name) == (split, entry["file_name"])
        assert image.data == (demo_data.images / image.file_name).read_bytes()
        assert image.sha256 == hashlib.sha256(image.data).hexdigest()
        assert image.format == {"jpg": "jpeg", "png": "png"}[image.file_name[-3:]]
        expected = [one for one in source["annotations"] if one["image_id"] == image.image_id and one["id"] not in gone]
        sides = [features[f"image/object/bbox/{side}"][1] for side in ("ymin", "xmin", "ymax", "xmax")]
        assert len(image.instances) == len(expected)
        for one, annotation, *box in zip(image.instances, expected, *sides, strict=True):
            assert (one.label, one.name) == (annotation["category_id"], names[annotation["category_id"]])
            assert one.area == np.float32(annotation["area"])
            assert one.is_crowd == bool(annotation["iscrowd"])
            assert one.box == tuple(np.array(box) * (image.height, image.width, image.height, image.width))
            assert one.attributes is None
            assert one.mask is not None
            assert one.mask.dtype == np.uint8
            np.testing.assert_array_equal(one.mask, truth(annotation, image.height, image.width))
            crowds += one.is_crowd
    assert crowds == 1
    assert any(not image.instances for image in images)


@ENCODINGS
def test_masks_are_there_only_where_their_weight_is(encoding: str) -> None:
    image = image_with(
        instance(PICTURES[0], (1.0, 1.0, 4.0, 5.0), area=6.25, is_crowd=True),
        instance(None, (0.5, 1.0, 2.5, 4.5), category_id=44),
    )
    found = read_image(record_of(image, encoding=encoding), "val")
    first, second = found.instances
    assert (found.image_id, found.file_name, found.split, found.height, found.width) == (12, "a.png", "val", 4, 5)
    np.testing.assert_array_equal(first.mask, draw(PICTURES[0]))
    assert first[:2] + first[3:5] == (3, "Katze 🐈", True, 6.25)
    assert second[:2] + second[3:5] == (44, "naïve dog", False, 7.0)
    assert second.mask is None
    np.testing.assert_allclose([first.box, second.box], [(1, 1, 4, 5), (0.5, 1, 2.5, 4.5)], rtol=1e-7)


@ENCODINGS
def test_an_image_without_instances_is_one(encoding: str) -> None:
    assert read_image(record_of(image_with(), encoding=encoding), "train").instances == ()


def test_optional_features_are_read() -> None:
    attributes = Attributes(difficult=True, occluded=True, view="vörne")
    extras = ImageExtras(neg_category_ids=(44, 1), not_exhaustive_category_ids=())
    image = image_with(instance(PICTURES[0], attributes=attributes), instance(None), extras=extras)
    found = read_image(record_of(image), "train")
    assert [one.attributes for one in found.instances] == [attributes, Attributes()]
    assert (found.neg_category_ids, found.not_exhaustive_category_ids) == ((44, 1), ())
    plain = read_image(record_of(image_with(instance(None))), "train")
    assert (plain.neg_category_ids, plain.instances[0].attributes) == (None, None)


def test_splits_can_be_chosen(demo_output: Output) -> None:
    folder = str(demo_output.folder)
    counts = {split: sum(1 for _ in iter_images(folder, [split])) for split in ("train", "val")}
    shards = json.loads((demo_output.folder / "manifest.json").read_text())["shards"]
    assert counts == {split: sum(s["records"] for s in shards if s["split"] == split) for split in ("train", "val")}
    assert [one.split for one in iter_images(folder, ["val", "train"])] == [one.split for one in iter_images(folder)]
    with pytest.raises(InputError, match=r"has no split 'test': it has train, val"):
        next(iter_images(folder, ["train", "test"]))


def test_a_record_is_read_where_it_begins(tf: Any, demo_output: Output) -> None:
    shard = sorted(demo_output.folder.glob("train*.tfrecord"))[0]
    offset = 0
    for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        assert read_at(str(demo_output.folder), shard.name, offset) == record
        offset += len(record) + 16  # length, its checksum, the record's
    assert offset == shard.stat().st_size
    with pytest.raises(InputError, match=rf"{shard.name} can't be read: cut off at byte {offset}"):
        read_at(str(demo_output.folder), shard.name, offset)
    with pytest.raises(InputError, match="wrong checksum of a length at byte 5"):
        read_at(str(demo_output.folder), shard.name, 5)


def test_of_a_shard_in_a_bucket_only_the_record_is_read(
    demo_output: Output, storage: StorageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.endpoint)
    storage.upload(demo_output.folder, "gs://bkt/records")
    shard = json.loads((demo_output.folder / "manifest.json").read_text())["shards"][0]["file"]
    (_, first), (offset, second), *_ = iter_records(str(demo_output.folder), shard)
    read: list[int] = []
    whole = Gcs.get_range

    def get_range(self: Gcs, path: str, *part: Any) -> bytes:
        read.append(part[1])
        return whole(self, path, *part)

    monkeypatch.setattr(Gcs, "get_range", get_range)
    assert read_at("gs://bkt/records", shard, 0) == first
    assert read_at("gs://bkt/records", shard, offset) == second
    assert read == [12, len(first) + 4, 12, len(second) + 4]


def test_a_folder_without_a_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no data set of maskbeam's: there is no manifest.json in it"):
        next(iter_images(str(tmp_path)))
    for text, said in (("{", "can't be read"), ("[]", "has no 'shards'"), ("{}", "has no 'shards'")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=said):
            next(iter_images(str(tmp_path)))


def test_a_damaged_or_missing_shard_is_told(demo_output: Output, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    shutil.copytree(demo_output.folder, folder)
    shard = folder / json.loads((folder / "manifest.json").read_text())["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match=rf"{shard.name} can't be read: wrong checksum of the record at byte 0; .*--resume"):
        list(iter_images(str(folder)))
    shard.unlink()
    for read in (lambda: list(iter_images(str(folder))), lambda: read_at(str(folder), shard.name, 0)):
        with pytest.raises(InputError, match=rf"{shard.name} can't be read: it is not there"):
            read()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image/height": None}, "the record has no image/height"),
        ({"image/encoded": []}, "image/encoded: expected 1 value, found 0"),
        ({"image/object/area": np.zeros(1, np.float32)}, "image/object/area: expected 2 values, as many as labels, found 1"),
        ({"image/object/bbox/xmax": None}, "the record has no image/object/bbox/xmax"),
        ({"image/object/bbox/ymin": np.zeros(3, np.float32)}, "image/object/bbox/ymin: expected 2 values"),
    ],
)
def test_a_record_that_is_not_ours_is_told(changes: dict[str, Any], said: str) -> None:
    features = parse_example(record_of(image_with(instance(PICTURES[0]), instance(None)))) | changes
    record = encode_example({name: value for name, value in features.items() if value is not None})
    with pytest.raises(ValueError, match=said):
        read_image(record, "train")


def test_what_is_no_example_is_told() -> None:
    with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
        read_image(b"\x0a\xff", "train")
