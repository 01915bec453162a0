"""A WSGI application that reports events, for Gunicorn, uWSGI and the like.

    export TELEMETRY_ENDPOINT=http://127.0.0.1:4318
    gunicorn --preload -w 4 app:application

The client is made at import: with --preload that is in the master, before the workers exist. There
is nothing else to do, in the master or in the workers.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from typing import Any, Callable
from urllib.parse import parse_qs

from libtelemetry import Client

client = Client()  # the endpoint comes from TELEMETRY_ENDPOINT
_numbers = itertools.count()


def emit(count: int, event: str = "request") -> list[list[int]]:
    """Report `count` events; [pid, seq] of each that the client took."""
    accepted = []
    for _ in range(count):
        pid, seq = os.getpid(), next(_numbers)
        if client.enqueue({"event": event, "pid": pid, "seq": seq}):
            accepted.append([pid, seq])
    return accepted


STARTUP = emit(5, "startup")  # with --preload: in the master


def answer(path: str, query: str) -> Any:
    """What each path reports, as JSON."""
    args = {key: values[-1] for key, values in parse_qs(query).items()}
    if path == "/emit":
        return emit(int(args.get("n", "1")))
    if path == "/startup":
        return STARTUP
    if path == "/flush":
        return client.flush(float(args.get("timeout", "5")))
    if path == "/stats":
        return client.stats()._asdict()
    return None


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    """The WSGI entry point."""
    result = answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
    body = json.dumps(result).encode()
    status = "404 Not Found" if result is None else "200 OK"
    start_response(
        status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]
