"""WSGI middleware that reports each request as one event.

    application = libtelemetry.wsgi.Middleware(application, client)   # any WSGI application
    app.wsgi_app = libtelemetry.wsgi.Middleware(app.wsgi_app, client)  # Flask

The event has ``event`` ("request"), ``method``, ``route``, ``status``, ``duration_ms``, ``bytes``,
and where they apply ``exception``, ``aborted``, ``trace_id`` and ``span_id``. The route is the rule
that Flask or Django chose (``/users/<int:id>``), else the path without its query.

It is reported when the response has been handed over: at the end of the iteration, when that fails,
or when the server closes the response before (``aborted``). A list or tuple is complete as it is
and passed on as such, and so is what ``wsgi.file_wrapper`` made: servers treat both specially. What
the application raises goes on to the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Callable

from ._request import Build, Request, Takes

__all__ = ["Middleware"]

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Middleware:
    """`app`, with each request reported to `client`.

    `event` may change an event or leave it out: it gets the event and returns one, or None.
    """

    def __init__(self, app: App, client: Takes, *, event: Build | None = None) -> None:
        self._app = app
        self._client = client
        self._build = event

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """The WSGI entry point."""
        request = Request(
            self._client,
            self._build,
            method=str(environ.get("REQUEST_METHOD", "")),
            path=_path(environ),
            traceparent=str(environ.get("HTTP_TRACEPARENT", "")),
        )
        files = _Files(environ)

        def start(status: str, headers: Any, *exc_info: Any) -> Callable[[bytes], Any]:
            request.answered(str(status)[:3])
            # Flask takes its request back when it returns.
            request.route = _route(environ, None)
            if exc_info and exc_info[0]:
                request.failed(exc_info[0][1])
            write = start_response(status, headers, *exc_info)

            def counted(data: bytes) -> Any:
                request.count(data)
                return write(data)

            return counted

        try:
            body = self._app(environ, start)
        except BaseException as error:
            request.failed(error)
            request.finish()
            raise
        request.route = request.route or _route(environ, body)
        complete = isinstance(body, (list, tuple))
        if complete:
            for piece in body:
                request.count(piece)
        if complete or files.made(body):
            request.finish()
            return body
        return _Body(body, request)


class _Body:
    """A response on its way: it ends once, however it ends."""

    __slots__ = ("_body", "_next", "_request")

    def __init__(self, body: Iterable[bytes], request: Request) -> None:
        self._body = body
        self._request = request
        self._next: Callable[[], bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._next is None:
                self._next = iter(self._body).__next__
            piece = self._next()
        except StopIteration:
            self._request.finish()
            raise
        except BaseException as error:
            self._request.failed(error)
            self._request.finish()
            raise
        self._request.count(piece)
        return piece

    def close(self) -> None:
        """The server is done with the response, which may be before its end."""
        self._request.aborted = True  # reported only if the end has not been
        self._request.stop()
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._request.failed(error)
            raise
        finally:
            self._request.finish()


class _Files:
    """What ``wsgi.file_wrapper`` made, as the server tells it from other responses.

    Where that is a class, by the class: servers look it up in `environ` again. Where it is a
    function, as with uWSGI, by identity.
    """

    __slots__ = ("_last", "_wrapper")

    def __init__(self, environ: dict[str, Any]) -> None:
        self._wrapper: Any = environ.get("wsgi.file_wrapper")
        self._last: Any = self  # nothing that an application could return
        if self._wrapper is not None and not isinstance(self._wrapper, type):
            environ["wsgi.file_wrapper"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The server's function."""
        self._last = self._wrapper(*args, **kwargs)
        return self._last

    def made(self, body: object) -> bool:
        """Whether `body` is such a response."""
        if isinstance(self._wrapper, type):
            return isinstance(body, self._wrapper)
        return body is self._last


def _path(environ: dict[str, Any]) -> str:
    path = str(environ.get("SCRIPT_NAME", "")) + str(environ.get("PATH_INFO", ""))
    # By PEP 3333 the text holds bytes, one a character.
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def _route(environ: dict[str, Any], body: Any) -> str:
    """The rule that the framework has chosen, if it is one that we know; else ""."""
    try:
        rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
        if rule is not None:
            return str(environ.get("SCRIPT_NAME", "")) + str(rule.rule)
        # Django leaves the request nowhere but with what is to be closed after the response.
        for closer in getattr(body, "_resource_closers", ()):
            match = getattr(getattr(closer, "__self__", None), "resolver_match", None)
            route = getattr(match, "route", None)
            if route is not None:
                return f"{environ.get('SCRIPT_NAME', '')}/{route}"
    except Exception:  # not the framework that it looked like
        return ""
    return ""
