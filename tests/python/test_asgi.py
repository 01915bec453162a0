"""The ASGI middleware: one event a request, at the right time, and the application unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest
from frameworks import Broken, Notes, framework

from harness import BIN, Collector, Server, environment, free_port
from libtelemetry.asgi import Middleware

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@pytest.fixture
def notes() -> Notes:
    return Notes()


def scope(path: str = "/users/17", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "query_string": b"secret=1",
        "headers": [(b"host", b"a")],
        **more,
    }


def start(status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": []}


def piece(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


class Connection:
    """One connection: what it receives, and what is sent to it."""

    def __init__(self, *receives: dict[str, Any]) -> None:
        self.receives = [*receives, {"type": "http.request"}]
        self.sent: list[Any] = []
        self.fails: Exception | None = None

    async def receive(self) -> Any:
        if not self.receives:
            await asyncio.Event().wait()  # no news, until the task is cancelled
        return self.receives.pop(0)

    async def send(self, message: Any) -> None:
        if self.fails:
            raise self.fails
        self.sent.append(message)


def run(app: Any, of: Scope | None = None, server: Connection | None = None) -> Connection:
    server = server or Connection()
    asyncio.run(app(of or scope(), server.receive, server.send))
    return server


def sends(*messages: dict[str, Any]) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def test_a_request_is_one_event(notes: Notes) -> None:
    messages = [start(201), piece(b"ab", more=True), piece(b"cde")]
    server = run(Middleware(sends(*messages), notes), scope(method="POST"))
    assert server.sent == messages
    (event,) = notes
    assert event.pop("duration_ms") >= 0
    assert event == {
        "event": "request",
        "method": "POST",
        "route": "/users/17",
        "status": 201,
        "bytes": 5,
    }


def test_the_event_comes_with_the_last_piece(notes: Notes) -> None:
    """What an application does when it has answered is not part of the request."""
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (start(), piece(b"a", more=True), piece(b"b")):
            await send(message)
            seen.append(len(notes))
        await asyncio.sleep(0)
        raise ValueError("in the background")

    with pytest.raises(ValueError, match="background"):
        run(Middleware(app, notes))
    assert seen == [0, 0, 1]
    assert len(notes) == 1
    assert "exception" not in notes[0]


def test_a_file_that_the_server_sends_is_an_end(notes: Notes) -> None:
    run(Middleware(sends(start(), {"type": "http.response.pathsend", "path": "/f"}), notes))
    assert len(notes) == 1
    assert "aborted" not in notes[0]


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError()])
def test_what_the_application_raises_goes_on(error: BaseException, notes: Notes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with pytest.raises(type(error)):
        run(Middleware(app, notes))
    kind = type(error)
    (event,) = notes
    assert event["exception"] == f"{kind.__module__}.{kind.__qualname__}"
    assert event["status"] == 500, "what the server makes of it"
    assert "aborted" not in event


def test_the_exception_behind_an_error_page_is_told(notes: Notes) -> None:
    """Frameworks send the page, then raise."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(500))
        await send(piece(b"sorry"))
        raise LookupError("x")

    with pytest.raises(LookupError):
        run(Middleware(app, notes))
    assert [(e["status"], e["exception"]) for e in notes] == [(500, "builtins.LookupError")]


def test_a_client_that_goes_away(notes: Notes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(piece(b"a", more=True))
        while (await receive())["type"] != "http.disconnect":
            pass

    run(Middleware(app, notes), server=Connection({"type": "http.disconnect"}))
    assert [(e["aborted"], e["bytes"]) for e in notes] == [(True, 1)]


def test_a_client_that_goes_away_unheard(notes: Notes) -> None:
    """Servers drop what is sent to nobody, so an application may answer to the end."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start())
        await send(piece(b"a"))

    run(Middleware(app, notes), server=Connection({"type": "http.disconnect"}))
    assert notes[0]["aborted"] is True


def test_the_duration_ends_with_the_last_piece(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the event waits for an exception."""
    clock = [0]
    monkeypatch.setattr("libtelemetry._request.time.perf_counter_ns", lambda: clock[0])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(500))
        clock[0] = 2_000_000
        await send(piece(b"a"))
        clock[0] = 90_000_000

    run(Middleware(app, notes))
    assert notes[0]["duration_ms"] == 2.0


def test_a_client_that_goes_away_after_its_answer_is_none(notes: Notes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(503))
        await send(piece(b"a"))
        await receive()

    run(Middleware(app, notes), server=Connection({"type": "http.disconnect"}))
    assert "aborted" not in notes[0]


def test_a_failing_send_is_the_applications_to_see(notes: Notes) -> None:
    server = Connection()
    server.fails = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        run(Middleware(sends(start(200)), notes), server=server)
    assert (notes[0]["status"], notes[0]["exception"]) == (200, "builtins.OSError")


def test_an_application_that_never_answers(notes: Notes) -> None:
    run(Middleware(sends(), notes))
    (event,) = notes
    assert event["aborted"] is True
    assert "status" not in event


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "what will be"])
def test_all_else_passes_through(kind: str, notes: Notes) -> None:
    given = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.extend([scope, receive, send])

    async def receive() -> Any: ...

    async def send(message: Any) -> None: ...

    of = {"type": kind}
    asyncio.run(Middleware(app, notes)(of, receive, send))
    assert given == [of, receive, send], "the same objects"
    assert notes == []


@pytest.mark.parametrize(
    ("header", "told"),
    [(b"00-" + TRACE.encode() + b"-00f067aa0ba902b7-01", TRACE), (b"\xff\xfe", None)],
)
def test_the_trace_of_the_caller_is_told(header: bytes, told: str | None, notes: Notes) -> None:
    of = scope(headers=[(b"a", b"b"), (b"traceparent", header)])
    run(Middleware(sends(start(), piece(b"")), notes), of)
    assert notes[0].get("trace_id") == told


def test_the_active_span_wins(notes: Notes) -> None:
    trace = framework("opentelemetry.trace")
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trace.use_span(span):
            await send(start())
        await send(piece(b""))

    header = b"00-" + TRACE.encode() + b"-00f067aa0ba902b7-01"
    run(Middleware(app, notes), scope(headers=[(b"traceparent", header)]))
    (event,) = notes
    assert (event["trace_id"], event["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")


def test_the_events_can_be_changed_and_left_out(notes: Notes) -> None:
    def event(event: dict[str, Any]) -> dict[str, Any] | None:
        return None if event["route"] == "/healthz" else {**event, "team": "a"}

    app = Middleware(sends(start(), piece(b"")), notes, event=event)
    run(app, scope("/healthz"))
    run(app, scope("/"))
    assert [(event["route"], event["team"]) for event in notes] == [("/", "a")]


@pytest.mark.parametrize("client", [Broken(), None])
def test_a_broken_client_breaks_nothing(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    messages = [start(), piece(b"fine")]
    assert run(Middleware(sends(*messages), client)).sent == messages
    assert "could not be reported" in caplog.text


def test_an_odd_message_is_the_servers_to_see(notes: Notes) -> None:
    messages = [{**start(), "status": "odd"}, {"type": "http.response.body"}]
    assert run(Middleware(sends(*messages), notes)).sent == messages
    assert "status" not in notes[0]


def test_starlette_tells_the_route(notes: Notes) -> None:
    framework("starlette")
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Mount, Route

    reported = []

    async def user(request: Any) -> Any:
        if request.path_params["number"] == "0":
            raise ValueError("zero")

        def after() -> None:
            reported.append(len(notes))

        return PlainTextResponse("ab", background=BackgroundTask(after))

    async def stream(request: Any) -> Any:
        return StreamingResponse(iter(["a", "b", "c"]))

    routes = [Route("/users/{number}", user), Route("/stream", stream)]
    app = Starlette(routes=[*routes, Mount("/api", routes=routes), Mount("/raw", sends(start()))])
    app.add_middleware(Middleware, client=notes)
    for path in ("/users/17", "/api/users/17", "/stream", "/none", "/raw/thing"):
        run(app, scope(path))
    assert reported == [1, 2], "before what runs in the background"
    with pytest.raises(ValueError, match="zero"):
        run(app, scope("/users/0"))
    told = [(e["route"], e["status"], e["bytes"]) for e in notes]
    assert told == [
        ("/users/{number}", 200, 2),
        ("/api/users/{number}", 200, 2),
        ("/stream", 200, 3),
        ("/none", 404, 9),
        ("/raw", 200, 0),
        # Inside of the page for errors, as add_middleware puts it.
        ("/users/{number}", 500, 0),
    ]
    assert notes[-1]["exception"] == "builtins.ValueError"


APP = """
import libtelemetry, libtelemetry.asgi, asgi
application = libtelemetry.asgi.Middleware(asgi.application, asgi.client)
"""


def test_it_is_asgi(collector: Collector, tmp_path: Any) -> None:
    """In uvicorn, with life span, to a real collector."""
    (tmp_path / "wrapped.py").write_text(APP)
    port = free_port()
    env = environment(collector.url)
    env["PYTHONPATH"] += f":{tmp_path}"
    argv = [str(BIN / "uvicorn"), "--port", str(port), "--lifespan", "on", "wrapped:application"]
    with Server(argv, port, tmp_path / "uvicorn.log", env) as server:
        assert server.get("/flush?timeout=60") is True
        assert server.get("/startup")
        server.stop()  # which flushes in the life span
    told = [(e["route"], e["status"]) for e in collector.events() if e["event"] == "request"]
    assert told == [("/flush", 200), ("/startup", 200)]
