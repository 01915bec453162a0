"""Each wire format, and each adapter beside the SDK that it adapts.

What could mislead:
- The collector answers for each format as its service does, on the same two cores; CPU is the client's process alone.
- An SDK and its adapter are given the same calls, the same events and the same sink, in turns, in one run. The sink
  only reads and answers 200, which favours whoever sends more requests.
"""

import json
import statistics
import sys

from machine import HERE, OUT, collector, run
from workload import event

TRACE = "5b8efff798038103d269b633813fc60c"
ADAPTERS = ("posthog", "segment", "langfuse-scores", "otel-logs", "otel-spans")


def otlp_attributes(properties):
    def value(v):
        if isinstance(v, bool):
            return {"boolValue": v}
        if isinstance(v, int):
            return {"intValue": str(v)}
        if isinstance(v, float):
            return {"doubleValue": v}
        if isinstance(v, list):
            return {"arrayValue": {"values": [value(x) for x in v]}}
        return {"stringValue": v}

    return [{"key": k, "value": value(v)} for k, v in properties.items()]


def span(n, properties):
    start = 1795228198000000000 + n * 1000
    return {
        "traceId": TRACE,
        "spanId": f"{n + 1:016x}",
        "name": "page_view",
        "kind": 2,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 12_375_000),
        "attributes": otlp_attributes(properties),
    }


# The same properties in each format's own event, and what the format needs beside.
FORMATS = {
    "ndjson": ({}, lambda n, p: p),
    "json": ({}, lambda n, p: p),
    "posthog": (
        {"api_key": "phc_bench"},
        lambda n, p: {"event": p["event"], "distinct_id": p["user"], "properties": p},
    ),
    "posthog-v1": (
        {"api_key": "phc_bench"},
        lambda n, p: {"event": p["event"], "distinct_id": p["user"], "properties": p},
    ),
    "langfuse": (
        {"basic": "pk:sk"},
        lambda n, p: {"type": "trace-create", "body": {"name": p["event"], "userId": p["user"], "metadata": p}},
    ),
    "langfuse-scores": (
        {"basic": "pk:sk"},
        lambda n, p: {"name": p["event"], "value": 1, "traceId": TRACE, "metadata": p},
    ),
    "otlp-logs": (
        {},
        lambda n, p: {"severityNumber": 9, "body": {"stringValue": "page_view"}, "attributes": otlp_attributes(p)},
    ),
    "otlp-logs, json": (
        {"format": "otlp-logs", "encoding": "json"},
        lambda n, p: {"severityNumber": 9, "body": {"stringValue": "page_view"}, "attributes": otlp_attributes(p)},
    ),
    "otlp-traces": ({}, span),
    "segment": (
        {"api_key": "wk_bench"},
        lambda n, p: {"type": "track", "event": p["event"], "userId": p["user"], "properties": p},
    ),
    "sentry": ({}, lambda n, p: {"type": "log", "level": "info", "body": "page_view", "attributes": p}),
}


def middle(runs, key):
    return statistics.median(r[key] for r in runs)


def wire(bench):
    """Events a second and CPU seconds a million of each format."""
    events = bench.times(400_000, 5000)
    lines = OUT / "events.txt"
    results = {}
    with bench.collect() as to:
        for name, (keys, shape) in FORMATS.items():
            shaped = (json.dumps(shape(n, event(n)), separators=(",", ":")) for n in range(64))
            lines.write_text("".join(f"{line}\n" for line in shaped))
            url = to.url if name != "sentry" else to.url.replace("://", "://key@") + "/1"
            config = json.dumps({"format": name, **keys, "endpoint": url})
            runs = []
            for _ in range(3):
                to.reset()
                out = run(bench.bin / "deliver", bench.library, config, events, 250, lines)[0]
                received = to.get("/stats")["received"]
                if received != events:
                    raise SystemExit(f"WRONG RESULT: {name}: {events} events sent, the collector has {received}")
                runs.append({**out, "rate": events / out["seconds"], "cpu": out["cpu_seconds"] / events * 1e6})
            results[name] = runs
    bench.results["formats"] = results
    rows = [
        f"| `{name}` | {middle(runs, 'rate'):,.0f} | {middle(runs, 'cpu'):.2f} | "
        f"{middle(runs, 'bytes_out') / events:.0f} |"
        for name, runs in results.items()
    ]
    head = (
        "| format | delivered events/s | CPU s a million | bytes sent an event, gzip |\n| --- | ---: | ---: | ---: |\n"
    )
    bench.tables.append(
        "Each format, the same properties of about 250 B, default settings:\n\n" + head + "\n".join(rows)
    )


def adapters(bench):
    """Each SDK as it is and with our adapter."""
    few, many = bench.times(20_000, 1000), bench.times(60_000, 2000)
    results = {}
    with collector(sys.executable, HERE / "sink.py") as sink:
        for sdk in ADAPTERS:
            results[sdk], results[f"{sdk}+ours"] = [], []
            for _ in range(3):
                for name, events in ((sdk, few), (f"{sdk}+ours", many)):
                    results[name].append(bench.python_client(name, sink, events, lambda c: c.get("/count")["received"]))
                ours = results[f"{sdk}+ours"][-1]
                if ours["arrived"] != many:
                    raise SystemExit(f"WRONG RESULT: {sdk}+ours: {many} events sent, {ours['arrived']} arrived")
    bench.results["adapters"] = results
    rows = []
    for sdk in ADAPTERS:
        alone, ours = results[sdk], results[f"{sdk}+ours"]

        def call(runs):
            return statistics.median(r["enqueued_in"] / r["events"] * 1e6 for r in runs)

        cpu = [middle(runs, "cpu_per_million") for runs in (alone, ours)]
        rate = [middle(runs, "per_second") for runs in (alone, ours)]
        rows.append(
            f"| {sdk} | {call(alone):.1f} → {call(ours):.1f} | "
            f"{rate[0]:,.0f} → {rate[1]:,.0f} ({rate[1] / rate[0]:.1f} x) | "
            f"{cpu[0]:.0f} → {cpu[1]:.0f} (1/{cpu[0] / cpu[1]:.1f}) |"
        )
    head = (
        "| SDK → with our adapter | µs a call | delivered events/s | CPU s a million |\n| --- | ---: | ---: | ---: |\n"
    )
    bench.tables.append(
        "The SDKs alone and with our adapter, same calls, same sink, one run:\n\n" + head + "\n".join(rows)
    )
