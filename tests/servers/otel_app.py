"""A WSGI application that OpenTelemetry traces, or logs for: providers made at import, no hooks.

SIGNAL says which of the two a request leaves behind, a span or a log record for each event.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable
from urllib.parse import parse_qs

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from libtelemetry.integrations.opentelemetry import LogRecordProcessor, SpanProcessor

_numbers = itertools.count()
_resource = Resource({"service.name": "otel_app"})

if os.environ["SIGNAL"] == "logs":
    processor: Any = LogRecordProcessor()  # the endpoint comes from the environment
    logs = LoggerProvider(_resource)
    logs.add_log_record_processor(processor)
    logger = logs.get_logger("app")
else:
    processor = SpanProcessor()
    provider = TracerProvider(resource=_resource)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("app")


def emit(count: int) -> list[list[int]]:
    """End so many spans, or log so many records; [pid, seq] of each."""
    ended = []
    for _ in range(count):
        have = {"pid": os.getpid(), "seq": next(_numbers)}
        if os.environ["SIGNAL"] == "logs":
            logger.emit(body="emitted", attributes=have)
        else:
            tracer.start_span("emit", attributes=have).end()
        ended.append(list(have.values()))
    return ended


STARTUP = emit(5)  # with --preload: in the master


def threads() -> dict[str, list[str]]:
    """Python's threads in this process, and all that the system knows of."""
    return {
        "python": [thread.name for thread in threading.enumerate()],
        "system": [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")],
    }


def answer(path: str, query: str) -> Any:
    """What each path reports, as JSON."""
    args = {key: values[-1] for key, values in parse_qs(query).items()}
    if path == "/emit":
        return emit(int(args.get("n", "1")))
    if path == "/startup":
        return STARTUP
    if path == "/flush":
        return processor.force_flush(60_000)
    return threads()


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    """The WSGI entry point."""
    body = json.dumps(answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
