"""A Langfuse that takes media, and its storage on another port, for programs in any language.

It checks what it gets: a storage takes no bytes that are not what was asked for, and sees nothing
of ours. What went wrong is in `problems`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MEDIA = "/api/public/media"
SECRET = "Basic " + base64.b64encode(b"pk:sk").decode()


class MediaServer:
    """Takes everything. `on_put` is called at the beginning of each PUT, and may wait."""

    def __init__(self, on_put: Callable[[], object] = lambda: None) -> None:
        self.lock = threading.Lock()
        # By id: how often a place was asked for, bytes came, and the server was told.
        self.asked: Counter[str] = Counter()
        self.put: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.metas: dict[str, dict[str, Any]] = {}
        self.problems: list[str] = []
        # The answer to each question instead of the usual one, if it is not None.
        self.refuse: int | None = None
        self.on_put = on_put
        self.store = self._start(self._storage)
        self.api = self._start(self._api)
        self.endpoint = f"http://pk:sk@127.0.0.1:{self.api.server_port}/api/public/ingestion"

    def _start(self, answer: Callable[[_Handler, bytes], tuple[int, Any]]) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
        server = _Server(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _api(self, request: _Handler, body: bytes) -> tuple[int, Any]:
        said = json.loads(body) if request.path.startswith(MEDIA) else {}
        with self.lock:
            if request.headers["Authorization"] != SECRET:
                self.problems.append(f"not authorised: {request.requestline}")
            if self.refuse is not None:
                return self.refuse, {}
            if request.command == "PATCH":
                self.told[request.path.rpartition("/")[2]] += 1
                return 200, {}
            if request.path != MEDIA:
                return 200, {}
            digest = base64.b64decode(said["sha256Hash"])
            name = base64.urlsafe_b64encode(digest).decode()[:22]
            self.metas[name] = said
            self.asked[name] += 1
        place = f"http://127.0.0.1:{self.store.server_port}/bucket/{name}?X-Signature=1"
        return 201, {"mediaId": name, "uploadUrl": place}

    def _storage(self, request: _Handler, body: bytes) -> tuple[int, Any]:
        self.on_put()
        name = request.path.partition("?")[0].rpartition("/")[2]
        digest = hashlib.sha256(body).digest()
        with self.lock:
            self.put[name] += 1
            meta = self.metas.get(name, {})
            expected = {
                "x-amz-checksum-sha256": base64.b64encode(digest).decode(),
                "x-ms-blob-type": "BlockBlob",
                "Content-Type": meta.get("contentType"),
                "Authorization": None,
            }
            for header, value in expected.items():
                if request.headers[header] != value:
                    self.problems.append(f"{name}: {header} is {request.headers[header]}")
            right = base64.urlsafe_b64encode(digest).decode()[:22] == name
            if not right or len(body) != meta.get("contentLength"):
                self.problems.append(f"{name}: {len(body)} bytes of something else")
        return 200, {}

    def __enter__(self) -> MediaServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in (self.api, self.store):
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    # Five are few for many processes at once: what comes later is sent again after a second.
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer is written in two pieces, which otherwise wait for each other.
    disable_nagle_algorithm = True
    answer: Callable[[_Handler, bytes], tuple[int, Any]]

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        status, said = self.answer(self, body)
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PUT = do_PATCH = _handle

    def log_message(self, format: str, *args: Any) -> None:
        pass
