"""What TensorFlow Datasets reads beside the shards. That it does read it is proved by `make test-trainers`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from conftest import Output

from beam_pipeline.options import parse_splits
from beam_pipeline.tfds import tfds_features, tfds_info
from transforms.encode import MaskEncoding
from transforms.tfrecord import read_records


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, bool]]:
    """Of each feature: its name with the levels joined, the kind of list that TFDS parses it as, whether it is a sequence."""
    if "featuresDict" in node:
        for name, inside in node["featuresDict"]["features"].items():
            yield from leaves(inside, f"{prefix}/{name}" if prefix else name)
        return
    sequence = "sequence" in node
    inner = node["sequence"]["feature"] if sequence else node
    kind = {"int64": "int64_list", "float32": "float_list"}[inner["tensor"]["dtype"]] if "tensor" in inner else "bytes_list"
    yield prefix, kind, sequence


@pytest.mark.parametrize("encoding", get_args(MaskEncoding))
def test_features_are_those_of_the_records(run_demo: Callable[..., Output], tf: Any, encoding: MaskEncoding) -> None:
    output = run_demo(mask_encoding=encoding, num_shards="1").folder
    described = {name: (kind, sequence) for name, kind, sequence in leaves(json.loads((output / "features.json").read_text()))}
    (shard,) = output.glob("*.tfrecord")
    longest: dict[str, int] = {}
    with shard.open("rb") as file:
        for record in read_records(file):
            features = tf.train.Example.FromString(record).features.feature
            assert {name: one.WhichOneof("kind") for name, one in features.items()} == {
                n: kind for n, (kind, _) in described.items()
            }
            for name, one in features.items():
                longest[name] = max(longest.get(name, 0), len(getattr(one, one.WhichOneof("kind")).value))
    assert {name for name, count in longest.items() if count > 1} == {
        name for name, (_, sequence) in described.items() if sequence
    }


def test_masks_are_pictures_unless_dense() -> None:
    def mask(encoding: MaskEncoding) -> Any:
        inside = tfds_features(encoding)
        for level in ("image", "object", "mask"):
            inside = inside["featuresDict"]["features"][level]
        return inside["sequence"]["feature"]

    assert mask("png") == mask("png1")
    assert mask("png")["image"]["shape"]["dimensions"] == ["-1", "-1", "1"]
    assert mask("dense")["tensor"]["dtype"] == "float32"


def test_shards_are_counted(demo_output: Output) -> None:
    info = json.loads((demo_output.folder / "dataset_info.json").read_text())
    assert [split["name"] for split in info["splits"]] == ["train", "val"]
    for split in info["splits"]:
        shards = sorted(demo_output.folder.glob(f"{split['name']}-*.tfrecord"))
        lengths = []
        for shard in shards:
            with shard.open("rb") as file:
                lengths.append(str(sum(1 for _ in read_records(file))))
        assert split["shardLengths"] == lengths
        assert split["numBytes"] == str(sum(shard.stat().st_size for shard in shards))


def test_empty_splits_are_left_out() -> None:
    shards = [
        {"split": split, "records": records, "bytes": records} for split, records in (("train", 0), ("train", 2), ("val", 0))
    ]
    info = tfds_info({"categories": 1, "maskbeam": "0", "shards": shards})
    assert [(split["name"], split["shardLengths"]) for split in info["splits"]] == [("train", ["0", "2"])]


def test_no_split_can_have_the_name_of_all_together() -> None:
    assert parse_splits("al=0.5,all2=0.5")
    with pytest.raises(ValueError, match="TensorFlow Datasets takes that for all splits"):
        parse_splits("train=0.5,all=0.5")
