"""What a data set consists of: the names of its files. Nothing else in an output folder is ever read or deleted."""

from __future__ import annotations

from typing import Any

from transforms import read_records, storage
from transforms.records import InputError

SUCCESS = "_SUCCESS"
MANIFEST = read_records.MANIFEST
STATISTICS = "statistics.json"
STATISTICS_PB = "statistics.pb"
REJECTS = "rejects.jsonl"
REPORT = "report.html"
LABEL_MAP = "label_map.pbtxt"
LABEL_MAP_CSV = "label_map.csv"
TFDS_INFO = "dataset_info.json"
TFDS_FEATURES = "features.json"
PIPELINE_CONFIG = "pipeline.config"
GARDEN_CONFIG = "model_garden.yaml"
SHARDS = "*-?????-of-?????.tfrecord"
OURS = (
    SUCCESS,
    MANIFEST,
    STATISTICS,
    STATISTICS_PB,
    REJECTS,
    REPORT,
    LABEL_MAP,
    LABEL_MAP_CSV,
    TFDS_INFO,
    TFDS_FEATURES,
    PIPELINE_CONFIG,
    GARDEN_CONFIG,
    SHARDS,
)


def complete_manifest(output: str) -> dict[str, Any]:
    """The manifest of a complete data set. Raises `InputError` where there is none."""
    manifest: dict[str, Any] = read_records.read_json(output, MANIFEST)
    if not storage.exists(storage.join(output, SUCCESS)):
        raise InputError(f"{output} is no complete data set of maskbeam's: it has no {SUCCESS}")
    return manifest
