"""Memory of a step on CPUs is kept for the next one."""

from __future__ import annotations

import ctypes
import sys

_SETTINGS = {  # of mallopt, glibc's malloc.h
    -8: 1,  # M_ARENA_MAX: XLA's threads share the heap; arenas of their own hold no array of a step's size
    -4: 0,  # M_MMAP_MAX: arrays lie in the heap, none in a mapping that goes when it is freed
    -1: -1,  # M_TRIM_THRESHOLD: the heap does not shrink
}


def keep_freed_memory() -> None:
    """From now on this process returns no memory to Linux; called before JAX makes its threads.

    glibc gives large arrays back when they are freed. XLA frees and allocates all of a step's memory in every step:
    Linux then clears it page by page, for a fifth to a third of the step's time. The first steps find out where all of
    it fits, and the process grows by up to a half. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in _SETTINGS.items():
            mallopt(parameter, value)
