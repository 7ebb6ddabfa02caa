"""Signals that ask a run to stop: SIGTERM, as schedulers send it, and SIGINT, as Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODE = 75
"""Of a run that was asked to stop and can go on: EX_TEMPFAIL of sysexits.h. 0 is kept for runs that are done."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME = 0.5  # seconds in which signals of a kind are one: Linux tells a child of each of its dying parent's threads
_received: list[int] = []
_first = 0.0  # when the first came
_deferring = False


class Interrupted(Exception):
    """The process was asked to stop, and did so where nothing was lost that the message does not tell."""


def install() -> None:
    """From now on the first signal raises `Interrupted`, at once or where work is at a good end; a second one exits."""
    for number in _SIGNALS:
        signal.signal(number, _handle)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, a signal raises nothing; what is yielded tells whether one came, for the work to end as it should."""
    global _deferring
    _deferring = True
    try:
        yield lambda: bool(_received)
    finally:
        _deferring = False


def name() -> str:
    """Of the signal that came first; of several processes it may have come to another one."""
    return signal.Signals(_received[0]).name if _received else "a signal to another process"


def _handle(number: int, frame: FrameType | None) -> None:
    global _first
    if _received:
        if number == _received[0] and time.monotonic() - _first < _SAME:
            return
        os._exit(128 + number)
    _first = time.monotonic()
    _received.append(number)
    if not _deferring:
        raise Interrupted(f"by {name()}")
