"""What the steps log: a JSON object a line, for each file or shard, and never one for each image."""

from __future__ import annotations

import json
import logging

_log = logging.getLogger("maskbeam")

EVENTS = {
    "annotations_found": "an annotation file was found: `file`, `bytes`",
    "shard_written": "a shard has its final name: `file`, `records`, `instances`, `bytes`, and `rejects`: images and annotations",
    "shard_reused": "`--resume` has left a shard as it was: `file`",
    "published": "the data set is complete: `output`, `shards`, `images`, and `rejected_images`",
}


def log(event: str, **fields: str | int | float) -> None:
    """Logs what has happened, one of `EVENTS`, at INFO; `fields` say to what. Raises `KeyError` for another."""
    if event not in EVENTS:
        raise KeyError(event)
    _log.info("%s", json.dumps({"event": event, **fields}, ensure_ascii=False))
