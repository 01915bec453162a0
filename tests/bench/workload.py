"""The event all Python clients send: about 250 B as JSON, the same work for everybody."""

import random

_random = random.Random(1)
_SESSIONS = [f"{_random.getrandbits(96):024x}" for _ in range(1024)]


def event(n):
    """The nth event. Sessions differ, else compression would have nothing to do."""
    return {
        "event": "page_view",
        "user": f"user-{n:08d}",
        "session": _SESSIONS[n & 1023],
        "path": "/orders/2187/items",
        "method": "GET",
        "status": 200,
        "ms": 12.375,
        "bytes": 18423,
        "region": "eu-west-1",
        "release": "2026.11.3",
        "cached": False,
        "tags": ["checkout", "beta"],
    }
