"""The example application for libtelemetry.gunicorn: answers of every kind, and two ways to hang.

What it reports itself has `pid` and `seq`, as in the example; what the hooks report has no `seq`.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable

import app

FILE = os.environ.get("FILE", "")
# Where "/slow" and "/stubborn" say that they have begun, and what "/slow" waits for.
BEGUN = Path(os.environ.get("BEGUN", ""))
GO = Path(os.environ.get("GO", ""))
atexit.register(lambda: os.write(2, b"at exit of %d\n" % os.getpid()))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI entry point."""
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise ValueError("before an answer")
    if path == "/late":
        return late(start_response)
    if path == "/file":
        start_response("200 OK", [("Content-Length", str(os.path.getsize(FILE)))])
        file: Iterable[bytes] = environ["wsgi.file_wrapper"](open(FILE, "rb"))  # noqa: SIM115  # the server closes it
        return file
    if path == "/slow":
        begin()
        end = time.monotonic() + 240
        while not GO.exists() and time.monotonic() < end:
            time.sleep(0.01)
    if path == "/stubborn":
        app.emit(5)
        begin()
        stubborn()
    if path == "/thread":
        threading.Thread(target=threading.Event().wait).start()
        environ["PATH_INFO"] = "/emit"
    return app.application(environ, start_response)


def begin() -> None:
    """Say which process has begun."""
    new = BEGUN.with_suffix(".new")
    new.write_text(str(os.getpid()))
    new.rename(BEGUN)


def late(start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Fail in the middle of an answer."""
    start_response("200 OK", [("Content-Length", "10")])
    yield b"12345"
    raise LookupError("in the middle")


def stubborn() -> None:
    """Do not end, whatever is raised here."""
    while True:
        try:
            time.sleep(60)
        except BaseException:  # as bare excepts in applications do
            continue
