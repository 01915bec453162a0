"""Jobs for RQ that report events; each runs in a process of its own, which ends in os._exit."""

from __future__ import annotations

import json

from app import STARTUP, emit


def report(count: int) -> list[list[int]]:
    """Report events; those, and what was reported when the application was loaded."""
    return STARTUP + emit(count, "job")


def fail(count: int) -> None:
    """The same, and say in the error which."""
    raise RuntimeError(json.dumps(report(count)))
