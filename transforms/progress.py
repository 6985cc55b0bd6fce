"""How far a job on this machine has come, told across threads and processes by the size of two files.

A byte is appended for each image, which needs no lock; where `FOLDER_VARIABLE` is not set, nothing is written.
"""

from __future__ import annotations

import os
import time
from functools import lru_cache

FOLDER_VARIABLE = "MASKBEAM_PROGRESS_FOLDER"
IMAGES_READ = "images_read"
IMAGES_DONE = "images_done"
_SECONDS = 0.1


@lru_cache
def _open(folder: str, name: str) -> int:
    return os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def advance(name: str, count: int = 1) -> None:
    """Counts on."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and count:
        os.write(_open(folder, name), b"." * count)


class Count:
    """What one thread counts, written down ten times a second: at each write, others may take the interpreter from it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._waiting, self._due = 0, 0.0

    def advance(self) -> None:
        """Counts one on."""
        self._waiting += 1
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Writes down what has been counted since."""
        advance(self.name, self._waiting)
        self._waiting, self._due = 0, time.monotonic() + _SECONDS


def read(folder: str, name: str) -> int:
    """The count so far."""
    try:
        return os.path.getsize(os.path.join(folder, name))
    except FileNotFoundError:
        return 0
