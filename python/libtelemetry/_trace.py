"""The trace that a request or a log record belongs to, as OpenTelemetry or a header tells it.

OpenTelemetry is asked only if the program has imported it: it is never imported here.
"""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Trace(NamedTuple):
    """Ids in hex, as they are written everywhere; `span_id` is "" when only the trace is known."""

    trace_id: str
    span_id: str


def current() -> Trace | None:
    """The span that is active here, if OpenTelemetry is in use and one is."""
    api: Any = sys.modules.get("opentelemetry.trace")
    # Absent also while the module is half imported.
    get = getattr(api, "get_current_span", None)
    if get is None:
        return None
    try:
        context = get().get_span_context()
        if not context.is_valid:
            return None
        return Trace(f"{context.trace_id:032x}", f"{context.span_id:016x}")
    except Exception:  # somebody's own kind of span; what is reported matters more than its trace
        return None


def of_header(traceparent: str) -> Trace | None:
    """The trace that a W3C ``traceparent`` header names."""
    found = _TRACEPARENT.match(traceparent)
    if found is None or found.group(1) == "0" * 32:
        return None
    return Trace(found.group(1), "")
