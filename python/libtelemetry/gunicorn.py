"""Hooks for Gunicorn's configuration file: request events and worker numbers, by one line.

    from libtelemetry.gunicorn import *

No client needs it to be right: events survive Gunicorn's forks, recycling and time-outs without a
hook. It adds

- an event for each request, of the shape that `libtelemetry.wsgi.Middleware` has, with ``worker``
  and ``pid``; ``TELEMETRY_ACCESS=0`` in the environment leaves it out;
- the worker's number, 1 to the number of workers, in that event and as ``"$worker"`` in the
  ``context`` of any client. A replacement gets the number of the worker that it replaces;
- a flush of each client before a worker that exits, or that Gunicorn times out, takes itself down.

The request events go through `client`, which is opened when it is first needed, in the master, from
the environment (``TELEMETRY_ENDPOINT``); assign another one to use that. Gunicorn calls the hooks
of requests in its WSGI workers only: in ASGI workers use `libtelemetry.asgi.Middleware`.

A configuration file that defines one of these hooks itself, after the import, replaces it; it calls
ours as ``libtelemetry.gunicorn.post_fork(server, worker)``. What each is for stands with each.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from ._client import Client, _flush_all, set_worker
from ._native import ConfigError
from ._request import Request
from .wsgi import _path

# What a star import gives to Gunicorn: hooks, and nothing else that it knows the name of.
__all__ = ["post_fork", "post_request", "pre_fork", "pre_request", "worker_abort", "worker_exit"]

# What the request events go through: the module's own if nobody has assigned one by then.
client: Client

# Gunicorn sends SIGKILL about a second after SIGABRT.
_ABORT_MS = 500

_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


def _access() -> bool:
    value = os.environ.get("TELEMETRY_ACCESS", "1")
    if value not in ("0", "1"):
        raise ConfigError(f"TELEMETRY_ACCESS is {value!r}; allowed: 0 or 1")
    return value == "1"


def __getattr__(name: str) -> Client:
    """`client`, unless it has been assigned."""
    if name != "client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Of two threads that are here at once both get the same one.
    return globals().setdefault(name, Client())  # type: ignore[no-any-return]  # a dict of anything


def pre_fork(server: Any, worker: Any) -> None:
    """In the master: give the worker the lowest number that none of those that run has.

    It also opens `client`, so that a bad configuration stops Gunicorn at start.
    """
    if _access():
        _the_client()
    taken = {getattr(other, "_telemetry_number", 0) for other in server.WORKERS.values()}
    number = 1
    while number in taken:
        number += 1
    worker._telemetry_number = number


def post_fork(server: Any, worker: Any) -> None:
    """In a new worker: tell the library its number."""
    set_worker(getattr(worker, "_telemetry_number", 0))


def pre_request(worker: Any, req: Any) -> None:
    """A request begins."""
    if _access():
        request = Request(_the_client(), _Whose(worker), method="", path="", traceparent="")
        try:
            req._telemetry_request = request
        except AttributeError:
            # A request of Gunicorn's ASGI worker, which tells the hook what was answered only while
            # the access log is on: not reported here.
            return


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """A request has been answered: report it."""
    request: Request | None = getattr(req, "_telemetry_request", None)
    # No environment where Gunicorn found nothing to ask the application, and said so in its log.
    if request is None or not environ:
        return
    request.method = str(environ.get("REQUEST_METHOD", ""))
    request.path = _path(environ)
    request._traceparent = str(environ.get("HTTP_TRACEPARENT", ""))
    if resp is not None:
        request.answered(str(resp.status or "")[:3])
        request.bytes = _bytes(resp, request)
    _judge(request, sys.exc_info()[1])
    request.finish()


def worker_abort(worker: Any) -> None:
    """Gunicorn has timed out the worker, and kills it soon: flush what there is time for.

    Only where Python still runs signal handlers. What hangs in C is killed with its queue in
    memory; with ``spool_dir`` nothing is lost.
    """
    _flush_all(_ABORT_MS)


def worker_exit(server: Any, worker: Any) -> None:
    """The worker ends: flush each client within its ``exit_timeout_ms``."""
    _flush_all()


class _Whose:
    """The event of a request, with the worker that served it."""

    __slots__ = ("_worker",)

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def __call__(self, event: dict[str, Any]) -> dict[str, Any]:
        event["worker"] = getattr(self._worker, "_telemetry_number", 0)
        event["pid"] = os.getpid()
        return event


def _the_client() -> Client:
    # Not `client` alone: a global of its own module is not looked up by __getattr__.
    return globals().get("client") or __getattr__("client")


def _bytes(resp: Any, request: Request) -> int:
    """The size of the body as it was sent."""
    sent = int(getattr(resp, "sent", 0) or 0)
    if sent or request.method == "HEAD" or request.status in (204, 304):
        return sent
    # What went through sendfile() is not counted by Gunicorn.
    return int(getattr(resp, "response_length", 0) or 0)


def _judge(request: Request, error: BaseException | None) -> None:
    """How the request ended, by what Gunicorn is raising while it calls the hook."""
    if isinstance(error, StopIteration):
        # How Gunicorn ends a connection, on its own account or because of another exception.
        error = error.__context__
    if isinstance(error, OSError) and error.errno in _GONE:
        request.aborted = True
    elif error is not None:
        request.failed(error)
