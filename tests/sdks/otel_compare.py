"""Encodes spans and log records twice, by libtelemetry and by the SDK's own encoder, and compares.

    python otel_compare.py SEED

Prints as JSON how many were compared and what differed.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from libtelemetry.integrations import _otlp
from libtelemetry.integrations import opentelemetry as ours

MODERN = hasattr(sdk_logs, "ReadableLogRecord")
"""Attribute values may be of any kind since then."""

EDGES = (0, 1, 126, 127, 128, 129, 4095, 4096, 16383, 16384, 70_000)
"""Lengths around those where their own encoding grows."""


class Notes:
    """In place of the client."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def enqueue(self, event: bytes) -> bool:
        """Keep it."""
        self.requests.append(event)
        return True


class Both:
    """A processor that also keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.client = Notes()

    def keep(self, kind: Any) -> Any:
        """Ours, without a native client."""
        made = kind.__new__(kind)
        made.client = self.client
        made._requests = _otlp.Requests()
        return made


class Values:
    """Random attribute values."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def text(self) -> str:
        size = self.dice.choice((3, 10, 30, self.dice.choice(EDGES)))
        return "".join(self.dice.choices("aé☃😀 \n\x00", k=size // self.dice.choice((1, 2)) or 0))

    def scalar(self) -> Any:
        kinds: list[Any] = [
            self.text,
            lambda: self.dice.random() < 0.5,
            lambda: self.dice.choice((0, 1, -1, 127, 128, 2**31, -(2**63), 2**63 - 1)),
            lambda: self.dice.getrandbits(self.dice.randrange(1, 64)) * self.dice.choice((1, -1)),
            lambda: self.dice.choice((0.0, -0.0, 1.5, 1e300, float("inf"), -float("inf"))),
        ]
        return self.dice.choice(kinds)()

    def value(self, depth: int = 0) -> Any:
        kind = self.dice.randrange(8)
        if kind < 5 or depth > 3:
            return self.scalar()
        if kind == 5:
            first = self.scalar()
            return [first] * self.dice.randrange(4)
        if not MODERN:
            return self.text()
        if kind == 6:
            return {self.text() or "k": self.value(depth + 1) for _ in range(3)}
        return self.dice.choice((b"", b"\x00\xff", bytes(200), None, [1, "a", None, [True]]))

    def attributes(self, most: int = 10) -> dict[str, Any]:
        return {
            f"key.{n}{self.text()[:200]}": self.value() for n in range(self.dice.randrange(most))
        }

    def context(self) -> SpanContext:
        dice = self.dice
        state = TraceState([("vendor", "a-b"), ("other", "1")]) if dice.random() < 0.5 else None
        return SpanContext(
            dice.getrandbits(128) or 1,
            dice.getrandbits(64) or 1,
            is_remote=dice.random() < 0.5,
            trace_flags=trace.TraceFlags(1),
            trace_state=state,
        )


def spans(dice: random.Random) -> tuple[list[Any], list[bytes]]:
    """Spans, and what ours made of them."""
    values, both = Values(dice), Both()
    processor = both.keep(ours.SpanProcessor)
    end = processor.on_end

    def on_end(span: Any) -> None:
        both.given.append(span)
        end(span)

    processor.on_end = on_end
    for number in range(8):
        limits = SpanLimits(
            max_span_attributes=dice.choice((2, 128)) if number < 7 else 128,
            max_events=dice.choice((1, 128)),
            max_links=dice.choice((1, 128)),
            max_event_attributes=dice.choice((1, 128)),
            max_link_attributes=dice.choice((1, 128)),
        )
        schema = dice.choice(("", "https://opentelemetry.io/schemas/1.30.0"))
        attributes = dice.choice(({}, {"service.name": "a", "n": 5, "list": ["a", "b"]}))
        provider = TracerProvider(
            resource=Resource(attributes, schema), span_limits=limits, shutdown_on_exit=False
        )
        provider.add_span_processor(processor)
        tracers = [
            provider.get_tracer("bare"),
            provider.get_tracer("full", "1.2", "https://example.org/schema", {"a": 1}),
            provider.get_tracer("full", "1.2", "https://example.org/schema", {"a": 2}),
        ]
        for _ in range(20):
            around = trace.set_span_in_context(trace.NonRecordingSpan(values.context()))
            span = dice.choice(tracers).start_span(
                values.text(),
                context=dice.choice((None, around)),
                kind=dice.choice(list(SpanKind)),
                attributes=values.attributes(),
                links=[Link(values.context(), values.attributes(4)) for _ in range(3)],
                start_time=dice.randrange(2**63),
            )
            for _ in range(dice.randrange(4)):
                span.add_event(values.text(), values.attributes(4), dice.randrange(2**63))
            if dice.random() < 0.5:
                span.set_status(Status(StatusCode.ERROR, values.text()))
            elif dice.random() < 0.5:
                span.set_status(Status(StatusCode.OK))
            span.end(dice.randrange(2**63))
    # Each length around those where a length grows by a byte.
    lengths = [*range(90, 135), *range(4080, 4100), *range(16360, 16390)]
    provider.get_tracer("lengths").start_span(
        "lengths", attributes={f"{length}": "x" * length for length in lengths}
    ).end()
    return both.given, both.client.requests


def records(dice: random.Random) -> tuple[list[Any], list[bytes]]:
    """Log records, and what ours made of them."""
    values, both = Values(dice), Both()
    processor = both.keep(ours.LogRecordProcessor)
    emit = processor.on_emit

    def on_emit(data: Any) -> None:
        given = data
        if MODERN:
            scope = data.instrumentation_scope
            given = sdk_logs.ReadableLogRecord(data.log_record, data.resource, scope)
        both.given.append(given)
        emit(data)

    processor.on_emit = on_emit
    provider = sdk_logs.LoggerProvider(Resource({"service.name": "a"}, "s"), shutdown_on_exit=False)
    provider.add_log_record_processor(processor)
    for number in range(150):
        logger = provider.get_logger(dice.choice(("a", "b")), "1", "schema", {"k": number % 3})
        around = trace.set_span_in_context(trace.NonRecordingSpan(values.context()))
        logger.emit(
            timestamp=dice.choice((None, 0, dice.randrange(2**63))),
            observed_timestamp=dice.choice((None, dice.randrange(2**63))),
            context=dice.choice((None, around)),
            severity_text=dice.choice((None, "", "WARN")),
            severity_number=dice.choice((None, *SeverityNumber)),
            body=dice.choice((None, values.text(), 5, {"a": [1, None]}, b"\xff", ["x"])),
            attributes=values.attributes(),
            event_name=dice.choice((None, "", "name")),
        )
    return both.given, both.client.requests


def without_empty_body(request: Any) -> Any:
    """Before 1.39 a body that is None was left out, since then it is an empty value."""
    for outer in request.resource_logs:
        for inner in outer.scope_logs:
            for item in inner.log_records:
                if item.body.WhichOneof("value") is None:
                    item.ClearField("body")
    return request


def main() -> None:
    warnings.simplefilter("ignore")  # of limits that are exceeded on purpose, and of 1.39
    dice = random.Random(int(sys.argv[1]))
    wrong = []
    given, made = spans(dice)
    for span, data in zip(given, made):
        if ExportTraceServiceRequest.FromString(data) != encode_spans([span]):
            wrong.append(f"{ExportTraceServiceRequest.FromString(data)} {encode_spans([span])}")
    given_logs, made_logs = records(dice)
    for record, data in zip(given_logs, made_logs):
        mine = without_empty_body(ExportLogsServiceRequest.FromString(data))
        if mine != without_empty_body(encode_logs([record])):
            wrong.append(f"{mine} {encode_logs([record])}")
    counts = [len(given), len(made), len(given_logs), len(made_logs)]
    print(json.dumps({"counts": counts, "wrong": wrong[:3]}))


if __name__ == "__main__":
    main()
