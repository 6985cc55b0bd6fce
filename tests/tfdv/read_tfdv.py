"""Runs in TFDV's environment: python read_tfdv.py OUTPUT OTHER FOLDER

Reads the `statistics.pb` of two data sets and makes statistics of its own of the first one's shards. Into the folder go, for each
split, these (SPLIT.pb), the schemas that it infers of both (SPLIT.ours.schema, SPLIT.theirs.schema) and Facets' page of both
(SPLIT.html); and what is odd in any statistics by the schema of our split train (anomalies.json).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_data_validation.utils.display_util import get_statistics_html

output, other, folder = map(Path, sys.argv[1:])
ours = tfdv.load_stats_binary(str(output / "statistics.pb"))
found, anomalies = {}, {}
for split in ours.datasets:
    name = split.name
    mine = tfdv.get_slice_stats(ours, name)
    own = tfdv.generate_statistics_from_tfrecord(str(output / f"{name}-*.tfrecord"))
    (folder / f"{name}.pb").write_bytes(own.SerializeToString())
    for title, statistics in (("ours", mine), ("theirs", own)):
        found[f"{title} {name}"] = statistics
        schema = tfdv.infer_schema(statistics)
        (folder / f"{name}.{title}.schema").write_text(text_format.MessageToString(schema))
    (folder / f"{name}.html").write_text(get_statistics_html(mine, own, "ours", "theirs"))
found["other"] = tfdv.get_slice_stats(tfdv.load_stats_binary(str(other / "statistics.pb")), "train")
schema = tfdv.infer_schema(found["ours train"])
for title, statistics in found.items():
    said = tfdv.validate_statistics(statistics, schema)
    anomalies[title] = {feature: one.short_description for feature, one in said.anomaly_info.items()}
(folder / "anomalies.json").write_text(json.dumps(anomalies))
