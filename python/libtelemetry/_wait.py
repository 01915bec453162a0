"""How long, and how, to wait for the library.

Its thread delivers by itself; whoever waits only has to ask from time to time. So waiting inside an
event loop needs no thread of ours, and nothing here exists that a fork could tear.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Any, Callable

_MAX_MS = 0xFFFF_FFFE


def millis(timeout: float | None) -> int:
    """Seconds as the library counts them. None is as long as the library can (49 days).

    Raises ValueError for a negative number or NaN.
    """
    if timeout is None:
        return _MAX_MS
    if not timeout >= 0:
        raise ValueError(f"timeout must be None or at least 0 seconds, not {timeout!r}")
    return int(min(math.ceil(min(timeout, _MAX_MS) * 1000), _MAX_MS))


def pauses(ms: int) -> Iterator[float]:
    """How long to sleep between two looks, in seconds, until `ms` are over."""
    end = time.monotonic() + ms / 1000
    pause = 0.0005
    while True:
        left = end - time.monotonic()
        if left <= 0:
            return
        yield min(pause, left)
        pause = min(pause * 1.5, 0.02)


def seldom() -> Callable[[], bool]:
    """A function that is true at once, after 0.1 s, and then each time twice as long after."""
    due, gap = 0.0, 0.1

    def ask() -> bool:
        nonlocal due, gap
        now = time.monotonic()
        if now < due:
            return False
        due, gap = now + gap, gap * 2
        return True

    return ask


def gevent_sleep() -> Callable[[float], Any] | None:
    """gevent's sleep if this thread runs a gevent hub and is not the hub itself, else None."""
    local = sys.modules.get("gevent._hub_local")
    if local is None:
        return None
    import gevent

    hub = local.get_hub_if_exists()
    if hub is None or hub is gevent.getcurrent():
        return None
    sleep: Callable[[float], Any] = gevent.sleep
    return sleep
