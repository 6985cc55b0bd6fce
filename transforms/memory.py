"""How a process that does the work gets its memory, and gives it back: both as rarely as it can."""

from __future__ import annotations

import ctypes
import gc

_NEW_OBJECTS = 50_000
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's mallopt
_KEPT, _LARGEST, _ARENAS = 16 << 20, 2 << 20, 2


def tune() -> None:
    """Looks for dead rings of objects not after 700 new ones but after 50,000, and keeps what is freed for what is needed next.

    A job makes next to none of such rings; looking took 6 % of a worker's time, and 0.2 s while Beam is imported. Arrays of over
    128 KB may each be fetched from the kernel, which takes 1.8 µs for every 4 KB, thrice what it takes to work with them: a COCO
    file is read an eighth faster without. 16 MB are kept, since a worker lets go of 16 images of 170 KB and their records at a
    time: with 4, a job had five times the page faults, which took 2.6 % of its processor time. All threads share two heaps, or
    a process would hold 30 MB more.
    """
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc; other C libraries have none
    if mallopt:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_ARENA_MAX, _ARENAS)
