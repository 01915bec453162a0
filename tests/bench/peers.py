"""Delivered events a second and CPU seconds a million events of one Python client: NAME EVENTS URL.

NAME is an SDK, an SDK with our adapter (`posthog+ours`: the very same calls), or `libtelemetry`. From the first call
to the end of flush(); CPU is this process's alone (getrusage). Prints one JSON object; how many events arrived is
asked of the collector by the driver, because some clients drop silently.

What could mislead: every setting is the client's default except the host and, where the default queue would drop
a burst, its bound. Every client gets the same event, as the call its documentation shows would take it.
"""

import json
import resource
import sys
import time

from workload import event

NAME, EVENTS, URL = sys.argv[1], int(sys.argv[2]), sys.argv[3]
SDK, _, OURS = NAME.partition("+")
# Room for the whole burst, as the SDKs get it below.
ROOM = {"queue_bytes": 1 << 30}


def posthog():
    from posthog import Posthog

    client = Posthog("phc_bench", host=URL, max_queue_size=EVENTS + 1)
    if OURS:
        from libtelemetry.integrations.posthog import install

        install(client, **ROOM)

    def put(properties):
        client.capture("page_view", distinct_id=properties["user"], properties=properties)

    return put, client.flush


def otel_logs():
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider()
    if OURS:
        from libtelemetry.integrations.opentelemetry import LogRecordProcessor

        provider.add_log_record_processor(LogRecordProcessor(endpoint=URL + "/v1/logs", **ROOM))
    else:
        exporter = OTLPLogExporter(endpoint=URL + "/v1/logs")
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter, max_queue_size=EVENTS + 1))
    logger = provider.get_logger("bench")

    def put(attributes):
        now = time.time_ns()
        record = LogRecord(timestamp=now, severity_number=SeverityNumber.INFO, body="page_view", attributes=attributes)
        logger.emit(record)

    return put, lambda: provider.force_flush(600_000)


def otel_spans():
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    if OURS:
        from libtelemetry.integrations.opentelemetry import SpanProcessor

        provider.add_span_processor(SpanProcessor(endpoint=URL + "/v1/traces", **ROOM))
    else:
        exporter = OTLPSpanExporter(endpoint=URL + "/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=EVENTS + 1))
    tracer = provider.get_tracer("bench")

    def put(attributes):
        tracer.start_span("page_view", attributes=attributes).end()

    return put, lambda: provider.force_flush(600_000)


def segment():
    from segment.analytics.client import Client

    client = Client("wk_bench", host=URL, max_queue_size=EVENTS + 1)
    if OURS:
        from libtelemetry.integrations.segment import install

        install(client, **ROOM)

    def put(properties):
        client.track(properties["user"], "page_view", properties)

    return put, client.flush


def langfuse_scores():
    from langfuse import Langfuse

    client = Langfuse(public_key="pk-bench", secret_key="sk-bench", base_url=URL)
    if OURS:
        from libtelemetry.integrations.langfuse import install

        install(client, **ROOM)
    trace = "0" * 31 + "1"

    def put(metadata):
        client.create_score(name="page_view", value=1.0, trace_id=trace, metadata=metadata)

    return put, client.flush


def libtelemetry():
    from libtelemetry import Client

    client = Client(URL)

    def put(value):
        # A host would drop; here all must arrive, so wait for room.
        while not client.enqueue(value):
            time.sleep(0.0002)

    return put, lambda: client.flush(600.0) or sys.exit("the flush did not end")


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    kinds = {
        "posthog": posthog,
        "segment": segment,
        "otel-logs": otel_logs,
        "otel-spans": otel_spans,
        "langfuse-scores": langfuse_scores,
        "libtelemetry": libtelemetry,
    }
    put, flush = kinds[SDK]()
    # Imports and the first connection are not what is measured.
    put(event(0))
    flush()
    cpu, start = cpu_seconds(), time.perf_counter()
    for n in range(1, EVENTS):
        put(event(n))
    called = time.perf_counter() - start
    flush()
    seconds = time.perf_counter() - start
    out = {"client": NAME, "events": EVENTS, "seconds": round(seconds, 4), "enqueued_in": round(called, 4)}
    print(json.dumps({**out, "cpu_seconds": round(cpu_seconds() - cpu, 4)}))


main()
