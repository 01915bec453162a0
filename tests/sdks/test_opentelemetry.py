"""The OpenTelemetry adapters, with the newest SDK and one a year old, against a strict receiver.

What must hold in servers that fork is in servers/test_otel_servers.py.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import HERE, PATIENCE, environment, free_port
from otlp_kit import AGES, OtlpSink, Rotel, run_with_sdk, sdk_environment

COMPARE = HERE.parent / "sdks" / "otel_compare.py"


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[OtlpSink]:
    with OtlpSink(tmp_path) as running:
        yield running


@pytest.fixture
def rotel(tmp_path: Path, sink: OtlpSink) -> Iterator[Rotel]:
    with Rotel(tmp_path, sink) as running:
        yield running


@pytest.mark.parametrize("age", AGES)
def test_what_is_encoded_is_what_the_sdk_would_encode(age: str) -> None:
    seed = str(random.randrange(2**32))
    found = run_with_sdk(age, COMPARE.read_text(), seed)
    assert found == {"counts": [161, 161, 150, 150], "wrong": []}, f"seed {seed}"


EMIT = """
import json, os, sys
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider, sampling
from libtelemetry.integrations.opentelemetry import LogRecordProcessor, SpanProcessor

keys = json.loads(sys.argv[1])
resource = Resource({"service.name": "shop", "n": 1})
spans, logs = SpanProcessor(**keys), LogRecordProcessor(**keys)
tracers, loggers = TracerProvider(resource=resource), LoggerProvider(resource)
tracers.add_span_processor(spans)
loggers.add_log_record_processor(logs)
tracer = tracers.get_tracer("lib", "1.2")
with tracer.start_as_current_span("outer") as outer:
    with tracer.start_as_current_span("inner", attributes={"a": 1, "b": ["x"]}) as inner:
        inner.add_event("event", {"c": True})
        loggers.get_logger("lib", "1.2").emit(
            body={"text": "in the span"}, severity_number=SeverityNumber.WARN,
            severity_text="WARN", attributes={"d": 0.5}, timestamp=1, event_name="name",
        )
not_sampled = TracerProvider(sampler=sampling.ALWAYS_OFF)
not_sampled.add_span_processor(spans)
not_sampled.get_tracer("lib").start_span("not sampled").end()
recorded = sampling.StaticSampler(sampling.Decision.RECORD_ONLY)
only_recorded = TracerProvider(sampler=recorded)
only_recorded.add_span_processor(spans)
only_recorded.get_tracer("lib").start_span("recorded, not sampled").end()
assert tracers.force_flush(60_000), spans.client.stats()
assert loggers.force_flush(60_000), logs.client.stats()
print(json.dumps([
    f"{outer.get_span_context().trace_id:032x}",
    f"{outer.get_span_context().span_id:016x}",
    f"{inner.get_span_context().span_id:016x}",
    spans.client.stats()._asdict(),
    logs.client.stats()._asdict(),
]))
"""


def assert_emitted(found: Any, sink: OtlpSink) -> None:
    """What EMIT made has arrived, as it was."""
    trace_id, outer_id, inner_id, *stats = found
    for each in stats:
        assert each["delivered"] == each["accepted"] > 0, each
        assert each["rejected"] == each["invalid"] == each["unverified"] == 0, each
    sink.wait_unique(3)
    records = {record.get("name", "log"): record for record in sink.records()}
    assert sorted(records) == ["inner", "log", "outer"], "only what is sampled"
    for record in records.values():
        assert record["resource"] == {"service.name": "shop", "n": 1}
        assert record["scope"] == {"name": "lib", "version": "1.2"}
        assert record["trace_id"] == trace_id
    inner, outer, log = records["inner"], records["outer"], records["log"]
    assert (outer["span_id"], inner["span_id"]) == (outer_id, inner_id)
    assert inner["parent_span_id"] == outer_id
    assert (inner["attributes"], inner["events"][0]["name"]) == ({"a": 1, "b": ["x"]}, "event")
    assert inner["kind"] == 1
    assert 0 < inner["start_time_unix_nano"] <= inner["end_time_unix_nano"]
    assert log["span_id"] == inner_id
    assert log["body"] == {"text": "in the span"}
    assert (log["severity_number"], log["severity_text"]) == (13, "WARN")
    assert (log["attributes"], log["time_unix_nano"]) == ({"d": 0.5}, 1)


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
@pytest.mark.parametrize("age", AGES)
def test_spans_and_records_arrive(age: str, encoding: str, sink: OtlpSink) -> None:
    keys = {"endpoint": sink.url, "encoding": encoding}
    assert_emitted(run_with_sdk(age, EMIT, json.dumps(keys)), sink)
    kind = "application/json" if encoding == "json" else "application/x-protobuf"
    assert set(sink.stats()["encodings"]) == {kind}


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_real_collector_takes_them(encoding: str, rotel: Rotel, sink: OtlpSink) -> None:
    keys = {"endpoint": rotel.url, "encoding": encoding}
    assert_emitted(run_with_sdk("newest", EMIT, json.dumps(keys)), sink)


def test_the_environment_of_opentelemetry_is_enough(sink: OtlpSink) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
    assert_emitted(run_with_sdk("newest", EMIT, "{}", **env), sink)
    assert set(sink.stats()["encodings"]) == {"application/json"}


def test_a_file_holds_otlp_json(tmp_path: Path, sink: OtlpSink) -> None:
    """One request a line, which a collector's file receiver takes, or any OTLP endpoint."""
    out = tmp_path / "out"
    found = run_with_sdk("newest", EMIT, json.dumps({"endpoint": f"file:{out}"}))
    for line in out.read_text().splitlines():
        path = "traces" if "resourceSpans" in json.loads(line) else "logs"
        ask = urllib.request.Request(
            f"{sink.url}/v1/{path}",
            gzip.compress(line.encode()),
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        )
        urllib.request.urlopen(ask, timeout=PATIENCE).close()
    assert_emitted(found, sink)


EXPORTERS = """
import json, sys
from opentelemetry.sdk import _logs
from opentelemetry.sdk._logs import export
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from libtelemetry.integrations.opentelemetry import LogRecordExporter, SpanExporter

spans, logs = SpanExporter(sys.argv[1]), LogRecordExporter(sys.argv[1])
tracers, loggers = TracerProvider(), _logs.LoggerProvider()
tracers.add_span_processor(SimpleSpanProcessor(spans))
loggers.add_log_record_processor(export.SimpleLogRecordProcessor(logs))
with tracers.get_tracer("lib").start_as_current_span("span"):
    loggers.get_logger("lib").emit(body="log")
assert spans.force_flush(60_000) and logs.force_flush(60_000)
spans.shutdown()
logs.shutdown()
span = tracers.get_tracer("lib").start_span("late")
span.end()
assert spans.export([span]).name == "FAILURE", "the client is shut down"
print(json.dumps(len(__import__("threading").enumerate())))
"""


@pytest.mark.parametrize("age", AGES)
def test_the_exporters_work_with_the_simple_processors(age: str, sink: OtlpSink) -> None:
    assert run_with_sdk(age, EXPORTERS, sink.url) == 1, "threads"
    sink.wait_unique(2)
    found = sorted(record.get("name") or record["body"] for record in sink.records())
    assert found == ["log", "span"]


AT_EXIT = """
import atexit, json, sys
@atexit.register
def later():  # after the provider's own function, which was registered later
    provider.get_tracer("lib").start_span("at exit").end()
from opentelemetry.sdk.trace import TracerProvider
from libtelemetry.integrations.opentelemetry import SpanProcessor

provider = TracerProvider()
processor = SpanProcessor(sys.argv[1])
provider.add_span_processor(processor)
provider.get_tracer("lib").start_span("last").end()
print(json.dumps(None))
"""


def test_the_last_spans_arrive_at_exit(sink: OtlpSink) -> None:
    run_with_sdk("newest", AT_EXIT, sink.url)
    assert sorted(record["name"] for record in sink.records()) == ["at exit", "last"]


SHUTDOWN = """
import json, sys, time
from opentelemetry.sdk.trace import TracerProvider
from libtelemetry.integrations.opentelemetry import SpanProcessor

url, milliseconds = sys.argv[1], int(sys.argv[2])
provider = TracerProvider()
processor = SpanProcessor(url, retry={"initial_ms": 10}, exit_timeout_ms=600_000)
provider.add_span_processor(processor)
provider.get_tracer("lib").start_span("span").end()
start = time.monotonic()
flushed = provider.force_flush(milliseconds)
processor.shutdown(timeout_millis=milliseconds)
took = time.monotonic() - start
provider.get_tracer("lib").start_span("late").end()
print(json.dumps([flushed, took < 20, processor.client.stats().accepted]))
"""


def test_flush_and_shutdown_have_their_times(sink: OtlpSink) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    # Far below what either takes by default, 30 s.
    assert run_with_sdk("newest", SHUTDOWN, nobody, "50") == [False, True, 1]
    assert run_with_sdk("newest", SHUTDOWN, sink.url, "60000")[::2] == [True, 1]


ODD = """
import json, sys
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider
from libtelemetry.integrations.opentelemetry import LogRecordProcessor, SpanProcessor

class Evil:
    def __str__(self):
        raise RuntimeError("evil")

spans, logs = SpanProcessor(sys.argv[1]), LogRecordProcessor(sys.argv[1])
tracers, loggers = TracerProvider(), LoggerProvider()
tracers.add_span_processor(spans)
loggers.add_log_record_processor(logs)
tracers.get_tracer("lib").start_span("\\ud800", attributes={"big": 2**70, "s": "\\udfff"}).end()
loop = []
loop.append(loop)
for body in (Evil(), loop, {"k": Evil(), 5: 2**70}, {1, 2}):
    loggers.get_logger("lib").emit(body=body)
tracers.get_tracer("lib").start_span("no time", start_time=-1).end()
spans.on_end(object())
assert spans.force_flush(60_000) and logs.force_flush(60_000)
print(json.dumps([spans.client.stats().delivered, logs.client.stats().delivered]))
"""


def test_odd_values_arrive_as_text_and_nothing_raises(sink: OtlpSink) -> None:
    assert run_with_sdk("newest", ODD, sink.url) == [1, 4]
    assert "<Evil>" in json.dumps(sink.records())


def test_without_opentelemetry_it_says_what_is_missing() -> None:
    code = "import libtelemetry.integrations.opentelemetry"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: libtelemetry.integrations.opentelemetry needs")
    assert "pip install opentelemetry-sdk" in last


def test_nothing_imports_opentelemetry_unasked() -> None:
    code = (
        "import sys, libtelemetry, libtelemetry.integrations\n"
        "import libtelemetry.logging, libtelemetry.wsgi, libtelemetry.asgi\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], env=sdk_environment("newest"), check=True)


LARGE = """
import json, logging, sys
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider
from libtelemetry.integrations.opentelemetry import LogRecordProcessor, SpanProcessor

said = []
logger = logging.getLogger("libtelemetry.opentelemetry")
logger.addFilter(lambda line: said.append(line.getMessage()))
keys = json.loads(sys.argv[2])
spans, logs = SpanProcessor(sys.argv[1], **keys), LogRecordProcessor(sys.argv[1], **keys)
tracers, loggers = TracerProvider(), LoggerProvider()
tracers.add_span_processor(spans)
loggers.add_log_record_processor(logs)
for size in json.loads(sys.argv[3]):
    tracers.get_tracer("lib").start_span(f"{size}", attributes={"prompt": "x" * size}).end()
    loggers.get_logger("lib").emit(body="x" * size)
assert spans.force_flush() and logs.force_flush()
print(json.dumps([said, spans.client.stats().dropped_too_large, logs.client.stats().delivered]))
"""


@pytest.mark.parametrize("age", AGES)
def test_long_prompts_are_delivered_and_what_is_too_long_is_told(age: str, sink: OtlpSink) -> None:
    sizes = [300_000, 5_000_000, 4_000_000]
    said, dropped, delivered = run_with_sdk(age, LARGE, sink.url, "{}", json.dumps(sizes))
    assert (dropped, delivered, len(said)) == (1, 2, 2), said
    assert said[0].startswith("a span of 5000") and "larger than max_event_bytes" in said[0]
    assert said[1].startswith("a log record of 5000")
    spans = {one["name"]: one["attributes"] for one in sink.records() if "name" in one}
    assert {name: len(one["prompt"]) for name, one in spans.items()} == {
        "300000": 300_000,
        "4000000": 4_000_000,
    }


SIZES = """
import json, os, sys
from opentelemetry.sdk.trace import TracerProvider
from libtelemetry.integrations.opentelemetry import SpanProcessor

found = []
for keys, env in json.loads(sys.argv[2]):
    os.environ.update(env)
    processor, provider = SpanProcessor(sys.argv[1], **keys), TracerProvider()
    provider.add_span_processor(processor)
    for size in (500_000, 5_000_000):
        provider.get_tracer("lib").start_span("s", attributes={"prompt": "x" * size}).end()
    processor.client.flush(30)
    found.append([processor.client.stats().dropped_too_large, processor.client.stats().delivered])
print(json.dumps(found))
"""


def test_what_is_said_of_sizes_holds(sink: OtlpSink) -> None:
    """A small queue has room for smaller records, and is not refused."""
    mib = 1 << 20
    large = {"segment_bytes": 8 * mib, "max_event_bytes": 8_000_000, "queue_bytes": 32 * mib}
    cases = [
        ({"queue_bytes": 2 * mib}, {}),
        ({"queue_bytes": mib // 8}, {}),
        ({"max_event_bytes": 1000}, {}),
        (large, {}),
        ({}, {"TELEMETRY_QUEUE_BYTES": str(2 * mib)}),
    ]
    found = run_with_sdk("newest", SIZES, sink.url, json.dumps(cases))
    assert found == [[1, 1], [2, 0], [2, 0], [0, 2], [1, 1]]
