"""ASGI middleware that reports each request as one event.

    application = libtelemetry.asgi.Middleware(application, client)      # any ASGI application
    app.add_middleware(libtelemetry.asgi.Middleware, client=client)      # Starlette, FastAPI

The event has ``event`` ("request"), ``method``, ``route``, ``status``, ``duration_ms``, ``bytes``,
and where they apply ``exception``, ``aborted``, ``trace_id`` and ``span_id``. The route is the one
that Starlette or FastAPI chose (``/users/{id}``), else the path without its query.

It is reported when the last piece of the response has been sent, so that what the application does
afterwards does not count; an error response waits for the exception that may follow it. A client
that goes away before is ``aborted``. Web sockets and the life span pass through. What the
application raises goes on to the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, MutableMapping
from typing import Any, Callable

from ._request import Build, Request, Takes

__all__ = ["Middleware"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Middleware:
    """`app`, with each HTTP request reported to `client`.

    `event` may change an event or leave it out: it gets the event and returns one, or None.
    """

    def __init__(self, app: App, client: Takes, *, event: Build | None = None) -> None:
        self._app = app
        self._client = client
        self._build = event

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        if scope.get("type") != "http":
            await self._app(scope, receive, send)
            return
        request = Request(
            self._client,
            self._build,
            method=str(scope.get("method", "")),
            path=str(scope.get("path", "")),
            traceparent=_traceparent(scope),
        )
        complete = False

        def finish() -> None:
            request.route = _route(scope)
            request.finish()

        async def watched_receive() -> Message:
            message = await receive()
            if message.get("type") == "http.disconnect" and not complete:
                request.aborted = True
            return message

        async def watched_send(message: Message) -> None:
            nonlocal complete
            kind = message.get("type")
            if kind == "http.response.start":
                request.answered(message.get("status"))
            await send(message)
            if kind == "http.response.body":
                request.count(message.get("body"))
                complete = not message.get("more_body", False)
            elif kind == "http.response.pathsend":
                complete = True
            if complete:
                request.stop()
                if request.status < 500:
                    finish()

        try:
            await self._app(scope, watched_receive, watched_send)
        except BaseException as error:
            request.failed(error)
            raise
        finally:
            # It returned without having answered: that is what it does when the client went away.
            request.aborted = request.aborted or not (complete or request.exception)
            finish()


def _traceparent(scope: MutableMapping[str, Any]) -> str:
    for name, value in scope.get("headers", ()):
        if name == b"traceparent":
            return str(value, "latin-1")
    return ""


def _route(scope: MutableMapping[str, Any]) -> str:
    """The route that the framework has chosen, if it is one that we know; else ""."""
    try:
        route = scope.get("route")
        path = getattr(route, "path_format", None)
        if path is None:
            return ""
        root = str(scope.get("root_path", "")).rstrip("/")
        # The path of a Mount has become part of the root.
        return (root or "/") if hasattr(route, "routes") else root + str(path)
    except Exception:  # not the framework that it looked like
        return ""
