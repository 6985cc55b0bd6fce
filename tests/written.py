"""Data sets made of records by hand, for what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from test_examples import LABELS

from beam_pipeline.publish import label_map_csv, label_map_pbtxt
from transforms.tfrecord import RecordWriter


def write_data_set(folder: Path, **splits: Sequence[bytes]) -> Path:
    """A data set of one shard a split, with the label map of test_examples; it says of no instances in its statistics."""
    folder.mkdir()
    shards = []
    for split, records in splits.items():
        name = f"{split}-00000-of-00001.tfrecord"
        with (folder / name).open("wb") as file:
            writer = RecordWriter(file)
            for record in records:
                writer.write(record)
        shard = {"split": split, "file": name, "records": len(records), "instances": 0}
        shards.append({**shard, "bytes": writer.bytes, "crc32c": f"{writer.crc32c:08x}"})
    reasons: dict[str, dict[str, int]] = {"image": {}, "annotation": {}}
    manifest = {"maskbeam": "0", "options": {}, "reasons": reasons, "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "statistics.json").write_text(json.dumps({split: {"categories": {}} for split in splits}))
    (folder / "label_map.csv").write_bytes(label_map_csv(LABELS))
    (folder / "label_map.pbtxt").write_bytes(label_map_pbtxt(LABELS))
    (folder / "_SUCCESS").touch()
    return folder
