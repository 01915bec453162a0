"""Whether `Client.enqueue` is the one in C, decided once, at import.

It is used where the compiled file beside this one can be loaded, and nothing depends on it: without
it `Client` does the same through ctypes. Free-threaded CPython lays its objects out otherwise,
and has no GIL, on which it relies; 3.13t would load the file all the same, and fail.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_INTERFACE = 1


def _find() -> Any:
    """The base class that `Client` gets, or None."""
    if os.environ.get("LIBTELEMETRY_ACCELERATOR", "").lower() in ("0", "off", "no", "false"):
        return None
    if sys.implementation.name != "cpython" or "t" in getattr(sys, "abiflags", ""):
        return None
    try:
        from . import _accel  # type: ignore[attr-defined]  # a compiled file, which may not be there
    except ImportError:  # not built, or for another platform
        return None
    # One that another version of the package left here would take other arguments.
    return _accel.Queue if getattr(_accel, "INTERFACE", 0) == _INTERFACE else None


Queue = _find()

accelerated: bool = Queue is not None
