"""SIGINT and SIGTERM end a job soon, its worker processes too, with a line that says so."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

PATIENCE = 5.0
"""Seconds that the runner is given to come to an end by itself, once its workers are gone."""
MESSAGE = "maskbeam: interrupted; the same command begins anew, and with --resume keeps the shards that are done"


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread; `status` is the exit status that shells expect, 128 and the signal's number."""

    def __init__(self, status: int) -> None:
        super().__init__(MESSAGE)
        self.status = status


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
    """Within it, SIGINT and SIGTERM kill the workers and raise `Interrupted`, and after `PATIENCE` end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where signals can't be handled
        return
    terminal = os.dup(2)  # which is not closed: the process may have to say something at its very end

    def end(number: int, _: FrameType | None) -> None:
        status = 128 + number

        def give_up() -> None:
            os.write(terminal, f"{MESSAGE}\n".encode())
            os._exit(status)

        for process in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        timer = threading.Timer(PATIENCE, give_up)
        timer.daemon = True
        timer.start()
        raise Interrupted(status)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
