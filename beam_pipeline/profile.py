"""`maskbeam run --profile`: which part of the work takes the processor's time, found by looking at all threads now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

PARTS = {
    "sources": "parse annotations",
    "rasterize": "rasterize",
    "polygons": "rasterize",
    "run_lengths": "run lengths",
    "batches": "pack for the shuffle",
    "columns": "pack for the shuffle",
    "coders": "pack for the shuffle",
    "images": "check images",
    "image_files": "check images",
    "png": "encode masks",
    "encode": "encode masks",
    "examples": "records",
    "tfrecord": "checksums and shards",
    "shards": "checksums and shards",
    "statistics": "statistics",
    "sketch": "statistics",
    "samples": "statistics",
    "tally": "statistics",
    "beam_pipeline": "start and end",
}
"""Modules of `transforms`, and `beam_pipeline`, by what they do; the innermost frame of one of them decides."""
READ = "read images"
BEAM = "Beam"
OTHER = "Python and libraries"
SECONDS = 0.01


def part_of(frame: FrameType | None) -> str:
    """The part of the work that a thread is at whose innermost frame this is."""
    beam = False
    while frame is not None:
        package, *names = str(frame.f_globals.get("__name__", "")).split(".")
        if package == "transforms" and names and names[0] in PARTS:
            return READ if names[0] == "images" and frame.f_code.co_name == "read" else PARTS[names[0]]
        if package == "beam_pipeline" and not beam:
            return PARTS[package]
        beam = beam or package == "apache_beam"
        frame = frame.f_back
    return BEAM if beam else OTHER


class Profile:
    """Seconds of processor time by part of the work, of this process."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.began = time.monotonic()
        self.wall = 0.0
        self._before: dict[int, float] = {}
        self._at: dict[int, str] = {}
        self.look()
        self.seconds.clear()  # what threads have done before

    def look(self, but: threading.Thread | None = None) -> None:
        """Gives each thread's time since the last look to what it is at now; all threads' but this one's."""
        frames = sys._current_frames()
        for thread in threading.enumerate():
            if thread is but or thread.ident not in frames:
                continue
            try:
                used = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
            except OSError:  # it has ended
                continue
            before = self._before.get(thread.ident, 0.0)
            spent = used - before if used >= before else used  # else it is a new thread, with the number of one that has ended
            part = part_of(frames[thread.ident])
            if part == OTHER and used >= before:  # a thread of a pool has ended something since, and waits for more of it
                part = self._at.get(thread.ident, OTHER)
            self.seconds[part] += spent
            self._before[thread.ident], self._at[thread.ident] = used, part

    def lines(self) -> Iterator[str]:
        """A table for people."""
        whole = sum(self.seconds.values())
        yield f"{whole:.1f} s of processor time in {self.wall:.1f} s:"
        for part, seconds in sorted(self.seconds.items(), key=lambda one: -one[1]):
            yield f"  {part:22}{seconds:8.2f} s {seconds / whole:5.0%}"


@contextmanager
def profiling() -> Iterator[Profile]:
    """A profile of what this process does in the block."""
    profile, stop = Profile(), threading.Event()

    def watch() -> None:
        while not stop.wait(SECONDS):
            profile.look(thread)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield profile
    finally:
        stop.set()
        thread.join()
        profile.wall = time.monotonic() - profile.began
