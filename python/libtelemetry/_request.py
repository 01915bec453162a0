"""One request to a web application, and the event made of it: what WSGI and ASGI share.

Nothing here may fail towards the application, and nothing is kept from one request to the next.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Callable, Optional, Protocol

from . import _trace

_logger = logging.getLogger("libtelemetry.middleware")

# From the event to the event, or to None for one that is of no interest.
Build = Callable[[dict[str, Any]], Optional[dict[str, Any]]]


class Takes(Protocol):
    """A `Client`, as far as it is needed here."""

    def enqueue(self, event: dict[str, Any], /) -> bool:
        """Take the event, without blocking."""


class Request:
    """What is known of a request so far. `finish` reports it, once."""

    __slots__ = (
        "_build",
        "_client",
        "_finished",
        "_start",
        "_stop",
        "_traceparent",
        "aborted",
        "bytes",
        "exception",
        "method",
        "path",
        "route",
        "status",
        "trace",
    )

    def __init__(
        self, client: Takes, build: Build | None, *, method: str, path: str, traceparent: str
    ) -> None:
        self._client = client
        self._build = build
        self._finished = False
        self._start = time.perf_counter_ns()
        self._stop = 0
        self._traceparent = traceparent
        self.method = method
        self.path = path
        self.route = ""
        self.status = 0
        self.bytes = 0
        self.aborted = False
        self.exception: type[BaseException] | None = None
        self.trace = _trace.current()

    def answered(self, status: Any) -> None:
        """The application answers with `status`."""
        try:
            self.status = int(status)
        except (TypeError, ValueError):  # the server's to see
            self.status = 0
        # Once more: the application's own instrumentation may have begun a span by now.
        if self.trace is None:
            self.trace = _trace.current()

    def count(self, body: Any) -> None:
        """Add the size of a piece of the body. Pieces of the wrong type are the server's to see."""
        if isinstance(body, (bytes, bytearray, memoryview)):
            self.bytes += len(body)

    def stop(self) -> None:
        """The response is complete: what comes after does not count as its duration."""
        self._stop = self._stop or time.perf_counter_ns()

    def failed(self, error: BaseException) -> None:
        """The application raised `error`."""
        if self.exception is None:
            self.exception = type(error)

    def finish(self) -> None:
        """Report the request."""
        if self._finished:
            return
        self._finished = True
        self.stop()
        try:
            event: dict[str, Any] | None = self._event()
            if self._build is not None and event is not None:
                event = self._build(event)
            if event is not None:
                self._client.enqueue(event)
        except Exception:
            _logger.exception("a request could not be reported")

    def _event(self) -> dict[str, Any]:
        event: dict[str, Any] = {
            "event": "request",
            "method": self.method,
            "route": self.route or self.path,
        }
        # Where the application has not answered, the server answers 500.
        if self.status or self.exception:
            event["status"] = self.status or 500
        event["duration_ms"] = round((self._stop - self._start) / 1e6, 3)
        event["bytes"] = self.bytes
        if self.exception is not None:
            kind = self.exception
            event["exception"] = f"{kind.__module__}.{kind.__qualname__}"
        if self.aborted:
            event["aborted"] = True
        trace = self.trace or _trace.of_header(self._traceparent)
        if trace is not None:
            event["trace_id"] = trace.trace_id
            if trace.span_id:
                event["span_id"] = trace.span_id
        return event
