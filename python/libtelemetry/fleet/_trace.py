"""The trace context that workers continue: captured where they are asked for, attached where they
run.

Invariant: in the supervisor OpenTelemetry is asked only if the program has imported it; in a worker
it is imported only if there is a context to attach and the package is there.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

KEYS = ("traceparent", "tracestate", "baggage")


def capture(name: str) -> dict[str, str]:
    """The current context as W3C headers; {} without OpenTelemetry, or without a span or
    baggage. Below a span it is that of a span ``fleet.start``, so that a trace shows where workers
    of that name were asked for, and what they do below it.
    """
    if "opentelemetry.context" not in sys.modules:
        return {}
    carrier: dict[str, str] = {}
    try:
        from opentelemetry import trace

        if trace.get_current_span().get_span_context().is_valid:
            tracer = trace.get_tracer("libtelemetry.fleet")
            names = {"telemetry.fleet.worker": name}
            with tracer.start_as_current_span("fleet.start", attributes=names):
                _inject(carrier)
        else:
            _inject(carrier)
    except Exception as error:  # a propagator of the user's; the workers matter more than the trace
        sys.stderr.write(f"libtelemetry.fleet: the trace context was not captured: {error!r}\n")
    return {key: carrier[key] for key in KEYS if carrier.get(key)}


def _inject(carrier: dict[str, str]) -> None:
    from opentelemetry import propagate

    propagate.inject(carrier)
    if "traceparent" not in carrier:
        # OTEL_PROPAGATORS may name others only, and W3C's is what the environment carries.
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carrier)


def attach(texts: dict[str, str]) -> None:
    """Make that context the current one of this process."""
    carrier = {key: text for key, text in texts.items() if text}
    if not carrier or not _present("opentelemetry.propagate"):
        return
    try:
        from opentelemetry import context, propagate
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        extracted: Any = TraceContextTextMapPropagator().extract(carrier)
        context.attach(propagate.extract(carrier, extracted))
    except Exception as error:
        sys.stderr.write(f"libtelemetry.fleet: the trace context was not attached: {error!r}\n")


def can_instrument() -> bool:
    """Whether the packages of automatic instrumentation are there."""
    return _present("opentelemetry.instrumentation.auto_instrumentation") and _present(
        "opentelemetry.sdk"
    )


def instrument() -> None:
    """What the command ``opentelemetry-instrument`` does, from the OTEL_* of the environment."""
    from opentelemetry.instrumentation.auto_instrumentation import initialize

    initialize()


def flush() -> None:
    """Export what the tracer provider of this process still holds, if it is an SDK's."""
    api: Any = sys.modules.get("opentelemetry.trace")
    get = getattr(api, "get_tracer_provider", None)
    if get is None:
        return
    try:
        force = getattr(get(), "force_flush", None)
        if force is not None:
            force(2000)
    except Exception as error:
        sys.stderr.write(f"libtelemetry.fleet: spans were not flushed: {error!r}\n")


def _present(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
