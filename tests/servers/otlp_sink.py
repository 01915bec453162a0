"""An OTLP/HTTP receiver that believes nothing: OpenTelemetry's own classes parse each request.

    python otlp_sink.py OUT

Prints where it listens. What it takes is appended to OUT, a line a span or log record. GET /stats
counts. A body that does not parse, or has a member that the classes do not know, is answered 400
and noted in /stats.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace

_REQUESTS = {
    "/v1/traces": (trace.ExportTraceServiceRequest, "resource_spans", "scope_spans", "spans"),
    "/v1/logs": (logs.ExportLogsServiceRequest, "resource_logs", "scope_logs", "log_records"),
}


def as_protobuf_json(value: Any) -> Any:
    """OTLP/JSON has ids in hex; in protobuf's own JSON all bytes are base64."""
    if isinstance(value, list):
        return [as_protobuf_json(item) for item in value]
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(item)).decode()
            if key in ("traceId", "spanId", "parentSpanId")
            else as_protobuf_json(item)
            for key, item in value.items()
        }
    return value


def plain(value: Any) -> Any:
    """An AnyValue as Python has it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return {"bytes": value.bytes_value.hex()}
    return getattr(value, kind) if kind else None


def attributes(pairs: Any) -> dict[str, Any]:
    """KeyValues as a dict."""
    return {pair.key: plain(pair.value) for pair in pairs}


def record(message: Any) -> dict[str, Any]:
    """A span or a log record; its fields by their names in protobuf."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name == "attributes":
            found["attributes"] = attributes(value)
        elif field.name == "body":
            found["body"] = plain(value)
        elif field.name in ("events", "links"):
            found[field.name] = [record(item) for item in value]
        elif isinstance(value, bytes):
            found[field.name] = value.hex()
        elif isinstance(value, (str, int, float)):
            found[field.name] = value
        else:
            found[field.name] = record(value)
    return found


def records(path: str, message: Any) -> list[dict[str, Any]]:
    """All that a request holds."""
    _, by_resource, by_scope, members = _REQUESTS[path]
    return [
        {
            "path": path,
            "resource": attributes(outer.resource.attributes),
            "resource_schema_url": outer.schema_url,
            "scope": {"name": inner.scope.name, "version": inner.scope.version},
            "scope_attributes": attributes(inner.scope.attributes),
            "scope_schema_url": inner.schema_url,
            **record(item),
        }
        for outer in getattr(message, by_resource)
        for inner in getattr(outer, by_scope)
        for item in getattr(inner, members)
    ]


class Handler(BaseHTTPRequestHandler):
    """Takes requests, and keeps count."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    lock = threading.Lock()
    out = sys.stdout
    received = 0
    errors: list[str] = []
    keys: Counter[Any] = Counter()
    encodings: Counter[str] = Counter()

    def do_GET(self) -> None:
        """The counters."""
        with self.lock:
            repeated = sum(self.keys.values()) - len(self.keys)
            stats = {
                "received": self.received,
                "unique": len(self.keys),
                "duplicates": repeated,
                "errors": self.errors,
                "encodings": self.encodings,
            }
            body = json.dumps(stats).encode()
        self.answer(200, "application/json", body)

    def do_POST(self) -> None:
        """One export request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        try:
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            message = _REQUESTS[self.path][0]()
            if kind == "application/json":
                json_format.ParseDict(as_protobuf_json(json.loads(body)), message)
            else:
                message.ParseFromString(body)
                for unknown in unknown_fields(message):
                    raise ValueError(f"unknown field {unknown}")
            found = records(self.path, message)
            if not found:
                raise ValueError("an empty request")
        except Exception as error:
            with self.lock:
                self.errors.append(f"{self.path} {kind}: {error!r} {body[:300]!r}")
            self.answer(400, "text/plain", repr(error).encode())
            return
        with self.lock:
            Handler.received += len(found)
            self.encodings[kind] += 1
            for item in found:
                have = item.get("attributes", {})
                # A log record may be known by its span only, and is not that span.
                self.keys[self.path, have.get("pid"), have.get("seq"), item.get("span_id")] += 1
                print(json.dumps(item), file=self.out)
            self.out.flush()
        self.answer(200, kind, b"{}" if kind == "application/json" else b"")

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def unknown_fields(message: Any) -> list[str]:
    """Names of messages that hold fields unknown to their class."""
    from google.protobuf.unknown_fields import UnknownFieldSet

    found = [message.DESCRIPTOR.name] if len(UnknownFieldSet(message)) else []
    for field, value in message.ListFields():
        if field.message_type is not None:
            items = [value] if hasattr(value, "ListFields") else value
            for item in items:
                found += unknown_fields(item)
    return found


if __name__ == "__main__":
    Handler.out = open(sys.argv[1], "a")  # noqa: SIM115  # as long as the program
    ThreadingHTTPServer.request_queue_size = 128  # five are few for a server's workers at once
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
