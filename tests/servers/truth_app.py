"""A WSGI application whose workers may be killed at any instant: it writes down what it reports.

The answer to a request cannot say what was taken when the worker dies before it. So each event that
the client took is noted in the file TRUTH, by one `write` that no crash of the process can undo. An
event that is noted must arrive. One that is not noted may: its process was killed between the two.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import time
from collections.abc import Iterable
from typing import Any, Callable
from urllib.parse import parse_qs

from libtelemetry import Client

client = Client()  # TELEMETRY_ENDPOINT, TELEMETRY_SPOOL_DIR
_truth = os.open(os.environ["TRUTH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def emit(count: int) -> int:
    """Report `count` events; how many the client took."""
    taken = 0
    for _ in range(count):
        # Not a counter: forks would begin with the same one, and process ids come round again.
        pid, seq = os.getpid(), time.monotonic_ns()
        if client.enqueue({"event": "request", "pid": pid, "seq": seq}):
            os.write(_truth, b"%d %d\n" % (pid, seq))
            taken += 1
    return taken


def hang() -> None:
    """Wait for ever where no signal handler of Python can run, like a dead lock in an extension."""
    # From here on, and not from the beginning of a request for which a busy machine takes its time.
    with contextlib.suppress(ImportError):
        import uwsgi

        uwsgi.set_user_harakiri(1)
    lock = ctypes.create_string_buffer(64)
    while True:
        ctypes.PyDLL(None).pthread_mutex_lock(lock)


def answer(path: str, query: str) -> Any:
    """What each path reports, as JSON."""
    args = {key: values[-1] for key, values in parse_qs(query).items()}
    taken = emit(int(args.get("n", "0")))
    if path == "/emit":
        return taken
    if path == "/exit":
        os._exit(0)
    if path == "/hang":
        hang()
    return client.stats()._asdict()


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    """The WSGI entry point."""
    body = json.dumps(answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]


if os.environ.get("AT_START"):
    emit(int(os.environ["AT_START"]))  # with --preload: in the master
