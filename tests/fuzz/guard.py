"""Limits for one input: 5 seconds and 1 GiB; and who broke them, even where the process does not live to tell.

A hang in C code that holds Python's lock can't be interrupted, only ended: faulthandler's thread does that. So each run has a
process of its own, and notes every input in a journal before trying it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_SECONDS = 5
MAX_BYTES = 1 << 30


def _status(key: str) -> int:
    """A figure of this process in bytes, from Linux's /proc."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) << 10
    raise KeyError(key)


class Guard:
    """Tries one input after the other, and keeps count."""

    def __init__(self, folder: Path) -> None:
        self.journal = os.open(folder / "journal.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.clear_peak = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self.figures_path = folder / "figures.json"
        self.outcomes: Counter[str] = Counter()
        self.worst_seconds = 0.0
        self.worst_bytes = 0

    def attempt(self, function: Callable[..., str], arguments: tuple[Any, ...]) -> str:
        """The outcome; `AssertionError` where the input took too much memory. Over the time, the process ends with 1."""
        os.pwrite(self.journal, noted := repr(arguments).encode(errors="backslashreplace"), 0)
        os.ftruncate(self.journal, len(noted))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MAX_BYTES, hard))
        os.write(self.clear_peak, b"5")
        before = _status("VmRSS")
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        began = time.perf_counter()
        try:
            outcome = function(*arguments)
        finally:
            seconds = time.perf_counter() - began
            faulthandler.cancel_dump_traceback_later()
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        took = _status("VmHWM") - before
        assert took < MAX_BYTES, f"one input took {took >> 20} MB"
        self.outcomes[outcome] += 1
        self.worst_seconds = max(self.worst_seconds, seconds)
        self.worst_bytes = max(self.worst_bytes, took)
        return outcome

    def write_figures(self) -> None:
        figures = {"outcomes": dict(self.outcomes), "seconds": round(self.worst_seconds, 3), "megabytes": self.worst_bytes >> 20}
        self.figures_path.write_text(json.dumps(figures), encoding="utf-8")
