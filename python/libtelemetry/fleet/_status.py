"""What a fleet's status document says of the workers of one name, in the keys that a manager
shows.
"""

from __future__ import annotations

from typing import Any

# Key, and the counter that it shows.
_COUNTED = {
    "processed": "done",
    "errors": "failed",
    "decoding_errors": "decoding_errors",
    "published": "published",
    "processing_errors": "processing_errors",
}
_FLAGS = ("mdq_connected", "mdc_connected")
_READY = ("ready", "busy")


def summary(document: Any, name: str) -> dict[str, Any]:
    """Of all workers of that name together; all zero before the first has begun."""
    workers = [one for one in document.get("workers", ()) if one["name"] == name]
    alive = [one for one in workers if one["pid"] is not None]
    found: dict[str, Any] = {
        "alive": bool(alive),
        "pid": alive[0]["pid"] if alive else None,
        "pids": [one["pid"] for one in alive],
    }
    for key, counter in _COUNTED.items():
        found[key] = sum(one["counters"].get(counter, 0) for one in workers)
    for key in _FLAGS:
        found[key] = any(one["flags"][key] for one in alive)
    found["restarts"] = sum(one["restarts"] for one in workers)
    found["running"] = any(one["flags"]["running"] for one in alive)
    found["ready"] = sum(one["state"] in _READY for one in workers)
    found["states"] = [one["state"] for one in workers if one["state"] != "empty"]
    return found
