"""The WSGI middleware: one event a request, at the right time, and the application unchanged."""

from __future__ import annotations

import io
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
from frameworks import Broken, Notes, framework

from harness import PATIENCE, Collector
from libtelemetry import Client
from libtelemetry.wsgi import Middleware

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Start = Callable[..., Any]


@pytest.fixture
def notes() -> Notes:
    return Notes()


def environ(path: str = "/users/17", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": "secret=1", **more}
    setup_testing_defaults(found)
    return found


def answers(body: Callable[[], Iterable[bytes]], status: str = "200 OK") -> Any:
    """An application that answers with the iterable that `body` makes."""

    def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response(status, [("Content-Type", "text/plain")])
        return body()

    return application


def call(application: Any, environ: dict[str, Any]) -> Any:
    return application(environ, lambda status, headers, exc_info=None: lambda data: None)


def serve(application: Any, environ: dict[str, Any]) -> bytes:
    """What a server does."""
    body = call(application, environ)
    try:
        return b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()


class Response:
    """A response that notes that it is closed; an exception among its pieces is raised."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1


def test_a_request_is_one_event(notes: Notes) -> None:
    application = Middleware(answers(lambda: Response(b"ab", b"cde")), notes)
    assert serve(application, environ(REQUEST_METHOD="POST")) == b"abcde"
    (event,) = notes
    assert event.pop("duration_ms") >= 0
    assert event == {
        "event": "request",
        "method": "POST",
        "route": "/users/17",
        "status": 200,
        "bytes": 5,
    }


def test_the_event_comes_at_the_end_of_the_response(notes: Notes) -> None:
    response = Response(b"a", b"b")
    body = call(Middleware(answers(lambda: response), notes), environ())
    assert next(body) == b"a"
    assert next(body) == b"b"
    assert notes == [], "before the end"
    with pytest.raises(StopIteration):
        next(body)
    assert len(notes) == 1
    assert response.closed == 0, "that is the server's to do"
    body.close()
    assert response.closed == 1
    assert len(notes) == 1, "once"
    assert "aborted" not in notes[0]


def test_a_client_that_goes_away_is_seen_when_the_server_closes(notes: Notes) -> None:
    response = Response(b"a", b"b")
    body = call(Middleware(answers(lambda: response), notes), environ())
    next(body)
    body.close()
    assert response.closed == 1
    (event,) = notes
    assert (event["aborted"], event["bytes"], event["status"]) == (True, 1, 200)


def test_a_generator_is_ended_by_close(notes: Notes) -> None:
    ended = []

    def application(environ: dict[str, Any], start_response: Start) -> Iterator[bytes]:
        start_response("202 Accepted", [])
        try:
            yield b"a"
            yield b"b"
        finally:
            ended.append(True)

    body = call(Middleware(application, notes), environ())
    assert notes == [], "not even started"
    assert next(body) == b"a"
    body.close()
    assert ended
    assert notes[0]["status"] == 202


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_is_passed_on_as_it_is(kind: Any, notes: Notes) -> None:
    """Servers look at its length, and its type."""
    response = kind([b"ab", b"c"])
    assert call(Middleware(answers(lambda: response), notes), environ()) is response
    assert notes[0]["bytes"] == 3


@pytest.mark.parametrize("kind", ["class", "function"])
def test_what_the_file_wrapper_made_is_passed_on_as_it_is(kind: str, notes: Notes) -> None:
    """A server sends such a file without reading it, if it gets it back itself."""
    wrapper: Any = FileWrapper if kind == "class" else lambda *args: FileWrapper(*args)

    def application(environ: dict[str, Any], start_response: Start) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"file"), 2)

    body = call(Middleware(application, notes), {**environ(), "wsgi.file_wrapper": wrapper})
    assert type(body) is FileWrapper
    assert list(body) == [b"fi", b"le"]
    assert len(notes) == 1
    # One that was made, but not returned, is an iterable as any other.
    body = call(
        Middleware(answers(lambda: Response(b"a")), notes),
        {**environ(), "wsgi.file_wrapper": wrapper},
    )
    assert list(body) == [b"a"]
    if kind == "class":  # Gunicorn asks like this
        given = {**environ(), "wsgi.file_wrapper": wrapper}
        call(Middleware(answers(list), notes), given)
        assert given["wsgi.file_wrapper"] is FileWrapper


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_what_the_application_raises_goes_on(error: BaseException, notes: Notes) -> None:
    def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        raise error

    with pytest.raises(type(error)) as caught:
        call(Middleware(application, notes), environ())
    assert caught.value is error
    (event,) = notes
    assert event["exception"] == f"builtins.{type(error).__name__}"
    assert event["status"] == 500, "what the server makes of it"


def test_what_the_response_raises_goes_on(notes: Notes) -> None:
    error = ConnectionError("gone")
    response = Response(b"a", error)
    body = call(Middleware(answers(lambda: response), notes), environ())
    with pytest.raises(ConnectionError) as caught:
        list(body)
    assert caught.value is error
    body.close()
    assert response.closed == 1
    (event,) = notes
    assert event["exception"] == "builtins.ConnectionError"
    assert (event["status"], event["bytes"]) == (200, 1), "what had been sent by then"


def test_an_error_while_closing_goes_on(notes: Notes) -> None:
    class Bad(Response):
        def close(self) -> None:
            raise OSError("close")

    body = call(Middleware(answers(lambda: Bad(b"a")), notes), environ())
    with pytest.raises(OSError, match="close"):
        body.close()
    assert notes[0]["exception"] == "builtins.OSError"


def test_an_exception_that_the_application_answers_itself_is_told(notes: Notes) -> None:
    seen: list[Any] = []

    def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise LookupError("x")
        except LookupError as error:
            start_response("503 No", [("X", "y")], (LookupError, error, error.__traceback__))
        return [b"sorry"]

    def start(*args: Any) -> Callable[[bytes], None]:
        seen.append(args)
        return lambda data: None

    assert list(Middleware(application, notes)(environ(), start)) == [b"sorry"]
    assert [len(args) for args in seen] == [2, 3], "arguments as they were given"
    assert (notes[0]["status"], notes[0]["exception"]) == (503, "builtins.LookupError")


def test_the_write_callable_works_and_is_counted(notes: Notes) -> None:
    written: list[bytes] = []

    def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])(b"abc")
        return [b"de"]

    list(Middleware(application, notes)(environ(), lambda *args: written.append))
    assert written == [b"abc"]
    assert notes[0]["bytes"] == 5


@pytest.mark.parametrize(
    ("status", "told"), [("404 Not Found", 404), ("", None), ("odd", None), (None, None)]
)
def test_an_odd_status_is_the_servers_to_see(status: Any, told: Any, notes: Notes) -> None:
    call(Middleware(answers(list, status), notes), environ())
    assert notes[0].get("status") == told


def test_the_path_is_text_and_has_no_query(notes: Notes) -> None:
    path = "/grüße/☃".encode().decode("latin-1")
    call(Middleware(answers(list), notes), environ(path, SCRIPT_NAME="/app"))
    assert notes[0]["route"] == "/app/grüße/☃"


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-what-will-be", TRACE),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_trace_of_the_caller_is_told(header: str, told: str | None, notes: Notes) -> None:
    call(Middleware(answers(list), notes), environ(HTTP_TRACEPARENT=header))
    assert notes[0].get("trace_id") == told
    assert "span_id" not in notes[0]


@pytest.mark.parametrize("inside", [False, True])
def test_the_active_span_wins(inside: bool, notes: Notes) -> None:
    """Whether the instrumentation is around the middleware or within the application."""
    trace = framework("opentelemetry.trace")
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False))
    application: Any = answers(lambda: Response(b"a"))

    def spanned(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        with trace.use_span(span):
            found: Iterable[bytes] = (application if inside else whole)(environ, start_response)
            return found

    whole = Middleware(spanned if inside else application, notes)
    header = f"00-{TRACE}-00f067aa0ba902b7-01"
    serve(whole if inside else spanned, environ(HTTP_TRACEPARENT=header))
    (event,) = notes
    assert (event["trace_id"], event["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")


def test_the_events_can_be_changed_and_left_out(notes: Notes) -> None:
    def event(event: dict[str, Any]) -> dict[str, Any] | None:
        return None if event["route"] == "/healthz" else {**event, "team": "a"}

    application = Middleware(answers(list), notes, event=event)
    call(application, environ("/healthz"))
    call(application, environ("/"))
    assert [(event["route"], event["team"]) for event in notes] == [("/", "a")]


@pytest.mark.parametrize("client", [Broken(), None])
def test_a_broken_client_breaks_nothing(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    application = Middleware(answers(lambda: Response(b"fine")), client)
    assert serve(application, environ()) == b"fine"
    assert "could not be reported" in caplog.text


def test_it_is_wsgi(notes: Notes, client: Client, collector: Collector) -> None:
    """Between two validators of the standard, behind a real server, to a real collector."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"] if environ["PATH_INFO"] == "/list" else iter([b"hel", b"lo"])

    whole = validator(Middleware(validator(application), client))
    with make_server("127.0.0.1", 0, whole, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for path in ("/list", "/stream"):
                url = f"http://127.0.0.1:{server.server_port}{path}?q=1"
                with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                    assert answer.read() == b"hello"
        finally:
            server.shutdown()
            thread.join()
    assert client.flush(60)
    events = collector.events()
    assert [(e["route"], e["status"], e["bytes"]) for e in events] == [
        ("/list", 200, 5),
        ("/stream", 200, 5),
    ]


def test_flask_tells_the_rule(notes: Notes) -> None:
    flask = framework("flask")
    app = flask.Flask("app")

    def user(number: int) -> Any:
        if number == 0:
            raise ValueError("zero")
        return flask.Response((piece for piece in ("a", "b")), mimetype="text/plain")

    app.add_url_rule("/users/<int:number>", view_func=user)
    app.wsgi_app = Middleware(app.wsgi_app, notes)
    client = app.test_client()
    assert client.get("/users/17?q=1").data == b"ab"
    for path in ("/users/0", "/none"):
        client.get(path).close()
    assert [(e["route"], e["status"]) for e in notes] == [
        ("/users/<int:number>", 200),
        ("/users/<int:number>", 500),
        ("/none", 404),
    ]
    app.testing = True  # Flask lets exceptions out
    with pytest.raises(ValueError, match="zero"):
        client.get("/users/0")
    assert notes[-1]["exception"] == "builtins.ValueError"


def test_django_tells_the_route(notes: Notes) -> None:
    framework("django")
    import django
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpResponse
    from django.urls import path

    def user(request: Any, number: int) -> Any:
        if number == 0:
            raise ValueError("zero")
        return HttpResponse(b"ab")

    settings.configure(
        ROOT_URLCONF=(path("users/<int:number>/", user),),
        ALLOWED_HOSTS=["*"],
        LOGGING_CONFIG=None,
        DEBUG=False,
    )
    django.setup()
    application = Middleware(WSGIHandler(), notes)
    assert serve(application, environ("/users/17/")) == b"ab"
    serve(application, environ("/users/0/", SCRIPT_NAME="/app"))
    serve(application, environ("/none/"))
    assert [(e["route"], e["status"]) for e in notes] == [
        ("/users/<int:number>/", 200),
        ("/app/users/<int:number>/", 500),
        ("/none/", 404),
    ]
