"""A collector that does as little as it can, for clients whose bodies `telemetry collect` does not read.

It keeps bodies as they come and answers 200 `{}`; what is in them is counted only when GET /count asks, after the
clock has stopped. So it takes less time from the clients it serves than a collector that reads would.
"""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

bodies = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer in one write

    def do_POST(self):
        headers = self.headers
        body = self.rfile.read(int(headers.get("content-length") or 0))
        if self.path == "/reset":
            bodies.clear()
        else:
            bodies.append((self.path, headers.get("content-type", ""), headers.get("content-encoding", ""), body))
        self.answer(b"{}")

    def do_GET(self):
        self.answer(json.dumps({"received": sum(events_in(*b) for b in bodies), "requests": len(bodies)}).encode())

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def events_in(path, kind, encoding, body):
    if encoding == "gzip":
        body = gzip.decompress(body)
    if "protobuf" in kind:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        if path.endswith("/v1/traces"):
            spans = ExportTraceServiceRequest.FromString(body).resource_spans
            return sum(len(s.spans) for r in spans for s in r.scope_spans)
        logs = ExportLogsServiceRequest.FromString(body).resource_logs
        return sum(len(s.log_records) for r in logs for s in r.scope_logs)
    try:
        value = json.loads(body)
    except ValueError:
        return 0
    if isinstance(value, dict):
        value = next((value[key] for key in ("batch", "scores") if key in value), [value])
    return len(value)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
