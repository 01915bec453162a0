"""OpenTelemetry spans and log records, delivered by libtelemetry from whatever process ends them.

    from opentelemetry.sdk.trace import TracerProvider
    from libtelemetry.integrations.opentelemetry import SpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SpanProcessor("http://127.0.0.1:4318"))  # at import is fine

In place of the SDK's BatchSpanProcessor and exporter, and without their thread, lock and fork hook:
a span is encoded where it ends and handed to a `Client`. So a provider that is made before Gunicorn
or uWSGI forks works in every worker.

``OTEL_EXPORTER_OTLP_ENDPOINT``, ``_HEADERS`` and the like are read by the library; the arguments
are those of `Client` and win. What the spans carry (resource, limits, sampling) stays the SDK's.

A span or a log record may have 4 MiB (``max_event_bytes``), in a queue of 32 MiB, or less if
``queue_bytes`` or ``spool_max_bytes`` is small; a larger one is dropped, counted and logged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

try:
    from opentelemetry.sdk._logs import LogRecordProcessor as _LogRecordProcessor
    from opentelemetry.sdk._logs import export as _logs_export
    from opentelemetry.sdk.trace import SpanProcessor as _SpanProcessor
    from opentelemetry.sdk.trace import export as _trace_export
except ImportError as error:
    raise ImportError(
        "libtelemetry.integrations.opentelemetry needs the package opentelemetry-sdk: "
        f"pip install opentelemetry-sdk ({error})"
    ) from error

from .. import Client
from . import _otlp
from ._sdk import room_for

__all__ = ["LogRecordExporter", "LogRecordProcessor", "SpanExporter", "SpanProcessor"]

_logger = logging.getLogger("libtelemetry.opentelemetry")

# They were renamed in 1.39.
_LogRecordExporter: Any = getattr(_logs_export, "LogRecordExporter", None) or getattr(
    _logs_export, "LogExporter", object
)
_LogResult: Any = getattr(_logs_export, "LogRecordExportResult", None) or getattr(
    _logs_export, "LogExportResult", None
)


# The SDK has no limit, and prompts are long. Collectors take 4 MiB by gRPC, 20 MiB by HTTP.
_RECORD_BYTES = 4 << 20


class _Outlet:
    """A client, and what the SDK calls at the end of things."""

    _format: str

    def __init__(self, endpoint: str | None = None, **keys: Any) -> None:
        self.client = Client(
            endpoint, format=self._format, **{**room_for(_RECORD_BYTES, keys), **keys}
        )
        self._requests = _otlp.Requests()
        self._too_large = 0

    def force_flush(self, timeout_millis: float | None = 30000) -> bool:
        """Send what this process has ended; True if nothing waits any more."""
        return self.client.flush(None if timeout_millis is None else timeout_millis / 1000)

    def shutdown(self, timeout_millis: float = 5000) -> None:
        """Flush, and take nothing any more.

        Not when the interpreter exits, where the providers call this: the client is flushed by its
        own exit handler within ``exit_timeout_ms``, which does not wait for a collector that is
        known to be down, and takes what others still report until then.
        """
        if threading.main_thread().is_alive():
            self.client.shutdown(timeout_millis / 1000)

    def _put_span(self, span: Any) -> bool:
        request = self._requests.request(
            span.resource, span.instrumentation_scope, _otlp.span(span)
        )
        return self._put(request, "span")

    def _put_log(self, data: Any) -> bool:
        # A ReadableLogRecord, a ReadWriteLogRecord, or, before 1.39, a LogData.
        record = data.log_record
        if hasattr(data, "resource"):
            resource, dropped = data.resource, data.dropped_attributes
        else:
            resource, dropped = record.resource, record.dropped_attributes
        request = self._requests.request(
            resource, data.instrumentation_scope, _otlp.log(record, dropped)
        )
        return self._put(request, "log record")

    def _put(self, request: bytes, what: str) -> bool:
        if self.client.enqueue(request):
            return True
        # Of this process; in a child they begin at 0.
        too_large, self._too_large = self._too_large, self.client.stats().dropped_too_large
        if self._too_large > too_large or 0 < self._too_large < too_large:
            _logger.warning(
                "a %s of %d bytes is dropped: larger than max_event_bytes", what, len(request)
            )
        return False


class SpanProcessor(_Outlet, _SpanProcessor):  # type: ignore[misc] # typed only where the SDK is
    """Delivers each sampled span when it ends.

    The arguments are those of `Client`. `client` is the client: ``processor.client.stats()``.
    """

    _format = "otlp-traces"

    def on_end(self, span: Any) -> None:
        """Encode the span and enqueue it. Never blocks, never raises."""
        try:
            if span.context.trace_flags.sampled:
                self._put_span(span)
        except Exception:
            _logger.exception("a span could not be encoded")


class LogRecordProcessor(_Outlet, _LogRecordProcessor):  # type: ignore[misc] # typed only where the SDK is
    """Delivers each log record when it is emitted.

    The arguments are those of `Client`. `client` is the client: ``processor.client.stats()``.
    """

    _format = "otlp-logs"

    def on_emit(self, log_record: Any) -> None:
        """Encode the record and enqueue it. Never blocks, never raises."""
        try:
            self._put_log(log_record)
        except Exception:
            # That line is likely to come back here; it must end there.
            scope = getattr(log_record, "instrumentation_scope", None)
            if getattr(scope, "name", "") != _logger.name:
                _logger.exception("a log record could not be encoded")


class SpanExporter(_Outlet, _trace_export.SpanExporter):  # type: ignore[misc] # typed only where the SDK is
    """For where an exporter is asked for: use it with SimpleSpanProcessor, which has no thread.

    The arguments are those of `Client`.
    """

    _format = "otlp-traces"

    def export(self, spans: Sequence[Any]) -> Any:
        """Enqueue each span. SUCCESS if all were taken; delivering them is the client's work."""
        # A list: a span that is not taken must not keep the others from being tried.
        taken = all([self._put_span(span) for span in spans])
        result = _trace_export.SpanExportResult
        return result.SUCCESS if taken else result.FAILURE


class LogRecordExporter(_Outlet, _LogRecordExporter):  # type: ignore[misc] # typed only where the SDK is
    """For where an exporter is asked for: use it with SimpleLogRecordProcessor.

    The arguments are those of `Client`.
    """

    _format = "otlp-logs"

    def export(self, batch: Sequence[Any]) -> Any:
        """Enqueue each record. SUCCESS if all were taken; delivering them is the client's work."""
        taken = all([self._put_log(data) for data in batch])
        return _LogResult.SUCCESS if taken else _LogResult.FAILURE
