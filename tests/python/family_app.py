"""A WSGI application whose workers tell of each other. The client is made at import."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from libtelemetry import Client

client = Client()  # the endpoint comes from TELEMETRY_ENDPOINT


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """``/family`` tells of all; every other path takes one event."""
    if environ["PATH_INFO"] == "/family":
        answer: Any = client.family()
    else:
        client.enqueue({"pid": os.getpid()})
        answer = os.getpid()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
