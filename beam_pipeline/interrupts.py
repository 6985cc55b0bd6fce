"""SIGINT and SIGTERM end a job at once, its worker processes too, with a line that says so.

The process ends in the handler: what unwinds after an interruption is Beam's threads and workers, which wait for one another, or
print how they were disturbed. What a job leaves in its output, the next one clears away.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

BEGIN_ANEW = "the same command begins anew, and with --resume keeps the shards that are done"
GOES_ON: list[str] = []
"""What is said of a job that goes on without this process: one on a service."""
TO_DELETE: set[str] = set()
"""Folders of this job among the system's temporary files, which no later job would find."""


def message() -> str:
    """What is said at the end."""
    return f"maskbeam: interrupted; {GOES_ON[-1] if GOES_ON else BEGIN_ANEW}"


def descendants(process: int) -> list[int]:
    """The processes below a process. Those of a runner's workers are started through a shell, and not told of its end."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    parents = [(int(pid), int(parent)) for pid, parent in (line.split() for line in listed.splitlines())]
    found = [process]
    for parent in found:
        found += [pid for pid, of in parents if of == parent and pid not in found]
    return found[1:]


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM end this process and those below it; the status is 128 and the signal's number."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where signals can't be handled
        return
    terminal = os.dup(2)

    def end(number: int, _: FrameType | None) -> None:
        os.write(terminal, f"\n{message()}\n".encode())
        for process in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        for folder in TO_DELETE:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(terminal)
