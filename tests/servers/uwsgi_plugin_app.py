"""A WSGI application on the client of uWSGI's plugin. It notes what the client took.

Its events have `pid` and `seq`; each one taken is written to the file TRUTH at once, as truth_app
does, so that killing the process does not undo it.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import threading
import time
from collections.abc import Iterable
from typing import Any, Callable
from urllib.parse import parse_qs

import uwsgi

from libtelemetry.uwsgi import client

_truth = os.open(os.environ["TRUTH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def emit(count: int) -> list[list[int]]:
    """Report `count` events; [pid, seq] of each that the client took."""
    taken = []
    for _ in range(count):
        # Not a counter: after a reload the master has the same process id.
        pid, seq = os.getpid(), time.monotonic_ns()
        if client.enqueue({"event": "mine", "pid": pid, "seq": seq}):
            os.write(_truth, b"%d %d\n" % (pid, seq))
            taken.append([pid, seq])
    return taken


def hang() -> None:
    """Wait for ever where no signal handler of Python can run."""
    while True:  # it returns after a signal's handler
        ctypes.PyDLL(None).pause()


def answer(path: str, query: str) -> Any:
    """What each path reports, as JSON."""
    args = {key: values[-1] for key, values in parse_qs(query).items()}
    if path == "/boom":
        raise ValueError("before an answer")
    if path == "/never-end":
        return bool(atexit.register(hang))
    if path == "/big":
        return "x" * 20_000_000
    if path == "/stats":
        return client.stats()._asdict()
    if path == "/libraries":
        lines = open("/proc/self/maps").read().splitlines()  # noqa: SIM115  # ends with the request
        return sorted({line.split()[-1] for line in lines if "libtelemetry" in line})
    taken = emit(int(args.get("n", "0")))
    if path == "/hang":
        uwsgi.set_user_harakiri(1)  # from here on, and not from the beginning of the request
        hang()
    return taken


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI entry point."""
    path = environ["PATH_INFO"]
    body = json.dumps(answer(path, environ.get("QUERY_STRING", ""))).encode()
    known = path in ("/emit", "/big", "/never-end", "/stats", "/libraries")
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK" if known else "404 Not Found", head)
    return [body]


def later(pipe: str) -> None:
    """Report as the master, after its last fork: when something is written to `pipe`."""
    # No Python runs here while uWSGI forks.
    with open(pipe) as opened:
        opened.read()
    emit(5)


emit(5)  # in the master, or with lazy-apps in each worker
if os.environ.get("LATER"):
    threading.Thread(target=later, args=(os.environ["LATER"],), daemon=True).start()
