"""What a person at a terminal sees while something runs: one live line, and not the noise of the libraries below."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transforms import progress

LIVE_SECONDS, FIRST_SECONDS, PLAIN_SECONDS = 0.2, 5.0, 30.0
"""How often to say how far it has come: on a terminal; elsewhere for the first time, and then."""


class Terminal:
    """Standard error, as it was when this was made."""

    def __init__(self) -> None:
        self.file = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self.live = self.file.isatty()

    def status(self, text: str) -> None:
        """A line that the next one replaces; elsewhere than on a terminal, just a line."""
        self._write(f"\r\x1b[K{text}" if self.live else f"{text}\n")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self._write(f"{text}\n")

    def clear(self) -> None:
        """Takes the status line away."""
        if self.live:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self.file.write(text)
        self.file.flush()


@contextmanager
def quiet(verbose: bool = False) -> Iterator[Terminal]:
    """A terminal to speak to, while what libraries and worker processes print to standard error is kept from it."""
    terminal = Terminal()
    with tempfile.TemporaryFile() as aside:
        sys.stderr.flush()
        if not verbose:
            os.dup2(aside.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stderr.flush()
            terminal.clear()
            os.dup2(terminal.file.fileno(), 2)
            terminal.file.close()


def progress_line(read: int, done: int, seconds: float, idle: str = "reading annotations") -> str:
    """One line on how far a job has come, `seconds` after the first image was written; `idle` before the first was read."""
    if not read:
        return idle
    if not done or seconds < 1:
        return f"{done:,} of {read:,} images"
    rate = done / seconds
    return f"{done:,} of {read:,} images, {rate:,.0f} images/s, {duration(max(0, read - done) / rate)} left"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def showing(terminal: Terminal, line: Callable[[], str], first: float, then: float) -> Iterator[None]:
    """Shows what `line` gives while the block runs: live on a terminal, elsewhere after `first` seconds, and each `then`."""
    stop = threading.Event()

    def show() -> None:
        pause = LIVE_SECONDS if terminal.live else first
        while not stop.wait(pause):
            terminal.status(line())
            pause = LIVE_SECONDS if terminal.live else then

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def watch_progress(terminal: Terminal, idle: str) -> Iterator[None]:
    """Shows how many images the workers on this machine have read of and written; `idle` where they tell of none."""
    began: float | None = None

    with tempfile.TemporaryDirectory(prefix="maskbeam-") as folder:

        def line() -> str:
            nonlocal began
            done = progress.read(folder, progress.IMAGES_DONE)
            if done and began is None:
                began = time.monotonic()
            seconds = time.monotonic() - began if began else 0.0
            return progress_line(progress.read(folder, progress.IMAGES_READ), done, seconds, idle)

        os.environ[progress.FOLDER_VARIABLE] = folder
        try:
            with showing(terminal, line, FIRST_SECONDS, PLAIN_SECONDS):
                yield
        finally:
            del os.environ[progress.FOLDER_VARIABLE]
