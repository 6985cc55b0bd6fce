"""What the steps count while they run, under names that stay: Beam's metrics, which a runner shows as it shows its own.

What the ledger rests on travels as data instead (`ShardSummary`, `Reject`, `Census`), since not every engine keeps metrics.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from apache_beam.metrics import Metrics

NAMESPACE = "maskbeam"
IMAGES_READ, ANNOTATIONS_READ = "images_read", "annotations_read"
IMAGES_WRITTEN, INSTANCES_WRITTEN, BYTES_WRITTEN = "images_written", "instances_written", "bytes_written"
SHARDS_WRITTEN, SHARDS_REUSED = "shards_written", "shards_reused"
READ_MS, ENCODE_MS = "read_ms", "encode_ms"
KINDS = ("image", "annotation")
"""Of rejects."""

COUNTERS = {
    IMAGES_READ: "images in the annotation files",
    ANNOTATIONS_READ: "annotations in the annotation files",
    IMAGES_WRITTEN: "images in the shards, those of shards that `--resume` has left as they were too",
    INSTANCES_WRITTEN: "instances in the shards, likewise",
    BYTES_WRITTEN: "bytes of the shards, likewise",
    SHARDS_WRITTEN: "shards that were written and have their final name",
    SHARDS_REUSED: "shards that `--resume` has left as they were",
}
DISTRIBUTIONS = {
    READ_MS: "milliseconds from asking storage for an image to having it, but for waiting until there was room for it",
    ENCODE_MS: "milliseconds in which an image's record was built and handed on; a slow upload shows here",
}


@cache
def counter(name: str) -> Any:
    """The counter of this name, to be `inc`ed; one of `COUNTERS`. Raises `KeyError` for another."""
    if name not in COUNTERS:
        raise KeyError(name)
    return Metrics.counter(NAMESPACE, name)


@cache
def distribution(name: str) -> Any:
    """The distribution of this name, to be `update`d with whole numbers; one of `DISTRIBUTIONS`. Raises `KeyError`."""
    if name not in DISTRIBUTIONS:
        raise KeyError(name)
    return Metrics.distribution(NAMESPACE, name)


def reject_counter(kind: str, reason: str) -> str:
    """The name of the counter of rejects of this kind, with this reason code."""
    return f"rejected_{kind}s_{reason}"


@cache
def rejects(kind: str, reason: str) -> Any:
    """The counter of rejects of this kind, with this reason code."""
    return Metrics.counter(NAMESPACE, reject_counter(kind, reason))
