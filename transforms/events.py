"""What the steps log: a JSON object a line, for each file or shard, and never one for each image."""

from __future__ import annotations

import json
import logging

_log = logging.getLogger("maskbeam")


def log(event: str, **fields: str | int | float) -> None:
    """Logs what has happened, at INFO; `fields` say to what."""
    _log.info("%s", json.dumps({"event": event, **fields}, ensure_ascii=False))
