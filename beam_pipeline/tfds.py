"""What TensorFlow Datasets reads beside the shards, so that `tfds.builder_from_directory(OUTPUT)` takes them as they lie.

The files are what tensorflow-datasets 4.9 itself saves for such features; it joins the levels of a `FeaturesDict` with `/`,
which gives our records' names. `image/object/mask/weight` stays one name, since `mask` is a feature of its own.
"""

from __future__ import annotations

from typing import Any

from transforms.encode import MaskEncoding
from transforms.examples import FEATURES, Kind

_PYTHON = "tensorflow_datasets.core.features."
_LEAVES = {Kind.INT64: "int64", Kind.FLOAT: "float32"}


def _leaf(name: str, kind: Kind, encoding: MaskEncoding) -> dict[str, Any]:
    channels = {"image/encoded": 3, "image/object/mask": 1}.get(name)
    if channels and (name, encoding) != ("image/object/mask", "dense"):
        shape = {"dimensions": ["-1", "-1", str(channels)]}
        return {"image": {"dtype": "uint8", "shape": shape}, "pythonClassName": f"{_PYTHON}image_feature.Image"}
    if kind in _LEAVES:
        tensor = {"dtype": _LEAVES[kind], "encoding": "none", "shape": {}}
        return {"pythonClassName": f"{_PYTHON}scalar.Scalar", "tensor": tensor}
    return {"pythonClassName": f"{_PYTHON}text_feature.Text", "text": {}}


def tfds_features(encoding: MaskEncoding) -> dict[str, Any]:
    """`features.json`. Dense masks are one list of N·H·W numbers, as in the record."""

    def folder() -> dict[str, Any]:
        return {"featuresDict": {"features": {}}, "pythonClassName": f"{_PYTHON}features_dict.FeaturesDict"}

    root = folder()
    for name, feature in sorted(FEATURES.items()):
        leaf = _leaf(name, feature.kind_for(encoding), encoding)
        if feature.per_instance:
            leaf = {"pythonClassName": f"{_PYTHON}sequence_feature.Sequence", "sequence": {"feature": leaf, "length": "-1"}}
        *levels, last = name.replace("mask/weight", "mask-weight").split("/")
        inside = root
        for level in levels:
            inside = inside["featuresDict"]["features"].setdefault(level, folder())
        inside["featuresDict"]["features"][last.replace("mask-weight", "mask/weight")] = leaf
    return root


def tfds_info(manifest: dict[str, Any]) -> dict[str, Any]:
    """`dataset_info.json`, from the manifest's shards, without empty splits: one would make all of them unreadable."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for shard in manifest["shards"]:
        splits.setdefault(shard["split"], []).append(shard)
    return {
        "name": "maskbeam",
        "version": "1.0.0",
        "description": f"Instance segmentation, {manifest['categories']} categories; written by maskbeam {manifest['maskbeam']}.",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": name,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.tfrecord",
                "shardLengths": [str(shard["records"]) for shard in shards],
                "numBytes": str(sum(shard["bytes"] for shard in shards)),
            }
            for name, shards in splits.items()
            if any(shard["records"] for shard in shards)
        ],
    }
