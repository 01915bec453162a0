"""A web application, as WSGI and as ASGI, that logs; with the handler and the middleware.

All made at import. What it reports itself are log records only.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any, Callable
from urllib.parse import parse_qs

import libtelemetry.asgi
import libtelemetry.logging
import libtelemetry.wsgi
from libtelemetry import Client

client = Client()  # the endpoint comes from TELEMETRY_ENDPOINT
logger = logging.getLogger("web_app")
logger.setLevel(logging.INFO)
logger.addHandler(libtelemetry.logging.Handler(client))
_numbers = itertools.count()


def emit(count: int) -> list[list[int]]:
    """Log so many records; [pid, seq] of each."""
    logged = []
    for _ in range(count):
        have = {"pid": os.getpid(), "seq": next(_numbers)}
        logger.info("emitted %d", have["seq"], extra=have)
        logged.append(list(have.values()))
    return logged


STARTUP = emit(5)  # with --preload: in the master


def answer(path: str, query: bytes) -> bytes:
    """What each path reports, as JSON."""
    if path == "/startup":
        return json.dumps(STARTUP).encode()
    return json.dumps(emit(int(parse_qs(query.decode()).get("n", ["1"])[-1]))).encode()


def web(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application, a generator as those of frameworks."""
    if environ["PATH_INFO"] == "/file":
        start_response("200 OK", [])
        found: Iterable[bytes] = environ["wsgi.file_wrapper"](open(os.environ["FILE"], "rb"))  # noqa: SIM115  # the server closes it
        return found

    def body() -> Iterator[bytes]:
        text = answer(environ["PATH_INFO"], environ["QUERY_STRING"].encode())
        start_response("200 OK", [("Content-Length", str(len(text)))])
        yield text[:1]
        yield text[1:]

    return body()


async def asynchronous(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await client.aflush()
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = answer(scope["path"], scope["query_string"])
    head = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": text})


def whose(event: dict[str, Any]) -> dict[str, Any]:
    """The event of a request, with the process that served it."""
    return {**event, "worker": os.getpid()}


application = libtelemetry.wsgi.Middleware(web, client, event=whose)
asgi_application = libtelemetry.asgi.Middleware(asynchronous, client, event=whose)
