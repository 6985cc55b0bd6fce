"""Reports: all of one but the time that the job took is the same from run to run."""

from __future__ import annotations

import re
from collections.abc import Mapping

from beam_pipeline.publish import NO_REPORT

TIME = re.compile(rb'<span id="time">[^<>]+</span>')


def but_for_time(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files by name, the report without its time. Fails where the report could not be made."""
    found = dict(files)
    if "report.html" in found:
        assert NO_REPORT.split("{")[0].encode() not in found["report.html"], found["report.html"].decode()
        found["report.html"], times = TIME.subn(b"", found["report.html"])
        assert times == 1, f"the report tells {times} times"
    return found
