"""A real HTTP server in the place of PostHog, Segment and Langfuse: it keeps every request.

It knows just enough of each service to answer as that service does. What `telemetry collect` thinks
of the requests is tested elsewhere; this one keeps them whole, so that they can be compared.
"""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from harness import wait_until


class Request(NamedTuple):
    """One request as it came, its body no longer compressed."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    def events(self) -> list[dict[str, Any]]:
        """The events in the body, whatever the service."""
        if self.path in ("/api/public/media", "/api/public/otel/v1/traces"):
            return []
        if self.method != "POST" or not self.body:
            return []
        body = self.json()
        found: list[dict[str, Any]] = body if isinstance(body, list) else body.get("batch", [])
        return found


class Sink:
    """Use it as a context manager; `url` is where it listens."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def answer(self, request: Request) -> tuple[int, Any]:
        """Status and JSON of the answer."""
        if request.path == "/api/public/ingestion":
            done = [{"id": event["id"], "status": 201} for event in request.events()]
            return 207, {"successes": done, "errors": []}
        if request.path == "/api/public/scores":
            return 202, {"message": "Accepted"}
        if request.path == "/api/public/media":
            media = request.json()["sha256Hash"].replace("+", "-").replace("/", "_")[:22]
            return 201, {"mediaId": media, "uploadUrl": f"{self.url}/bucket/{media}"}
        if request.path.startswith("/api/public/v2/prompts/"):
            return 200, {
                "type": "text",
                "name": "p",
                "version": 1,
                "prompt": "Say hi",
                "config": {},
                "labels": [],
                "tags": [],
            }
        if request.path == "/i/v1/analytics/events":
            results = {event["uuid"]: {"result": "ok"} for event in request.events()}
            return 200, {"results": results}
        return 200, {"status": 1}

    def of(self, path: str, method: str = "POST") -> list[Request]:
        """The requests to that path."""
        return [one for one in self.requests if one.path == path and one.method == method]

    def events(self, path: str) -> list[dict[str, Any]]:
        """The events that came there."""
        return [event for one in self.of(path) for event in one.events()]

    def wait(self, path: str, count: int, method: str = "POST") -> None:
        """Wait for so many events there; of what has none, requests."""

        def there() -> bool:
            found = self.of(path, method)
            return sum(max(1, len(one.events())) for one in found) >= count

        wait_until(f"{count} at {method} {path}", there)

    def __enter__(self) -> Sink:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    # Five are few for many processes at once: what comes later is sent again after a second.
    request_queue_size = 128


def _handler(sink: Sink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            headers = {key.lower(): value for key, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            status, answer = sink.answer(request)
            sink.requests.append(request)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        # The names are the base class's.
        do_GET = do_POST = do_PUT = do_PATCH = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            """Not on the terminal."""

    return Handler
