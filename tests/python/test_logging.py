"""The logging handler: what a record becomes, and that logging stays harmless."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import logging.handlers
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from frameworks import SDKS, Broken, Notes
from interpreters import interpreters

from harness import PATIENCE, Collector, environment
from libtelemetry import Client
from libtelemetry.logging import Handler


@pytest.fixture
def notes() -> Any:
    """In place of a client."""
    return Notes()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of our own, without handlers."""
    found = logging.Logger("app.orders")
    yield found
    for handler in found.handlers:
        handler.close()


@pytest.fixture
def noted(logger: logging.Logger, notes: Any) -> Handler:
    """The handler of `logger`, to `notes`."""
    handler = Handler(notes)
    logger.addHandler(handler)
    return handler


def test_a_record_arrives(logger: logging.Logger, client: Client, collector: Collector) -> None:
    logger.addHandler(Handler(client))
    before = datetime.now(timezone.utc)
    logger.warning("order %d of %s", 17, "Zoë", extra={"tenant": "a", "size": {"w": 1}})
    after = datetime.now(timezone.utc)
    assert client.flush(60)
    (event,) = collector.events()
    assert before <= datetime.fromisoformat(event.pop("timestamp").replace("Z", "+00:00")) <= after
    assert event.pop("id")
    assert event.pop("line") > 0
    assert event == {
        "level": "WARNING",
        "logger": "app.orders",
        "message": "order 17 of Zoë",
        "file": __file__,
        "function": "test_a_record_arrives",
        "process": os.getpid(),
        "process_name": "MainProcess",
        "thread_name": threading.current_thread().name,
        "tenant": "a",
        "size": {"w": 1},
    }


def test_an_exception_is_told(logger: logging.Logger, noted: Handler, notes: Any) -> None:
    try:
        raise LookupError("no such order")
    except LookupError:
        logger.exception("failed", stack_info=True)
    (event,) = notes
    assert event["exception_type"] == "builtins.LookupError"
    assert event["exception"].startswith("Traceback (most recent call last):")
    assert event["exception"].endswith("LookupError: no such order")
    assert "test_an_exception_is_told" in event["stack"]
    logger.error("none", exc_info=True)
    assert "exception" not in notes[-1]


def test_a_record_out_of_a_queue_keeps_its_time_and_exception(notes: Any) -> None:
    waiting: queue.Queue[Any] = queue.Queue()
    logger = logging.Logger("queued")
    logger.addHandler(logging.handlers.QueueHandler(waiting))
    try:
        raise LookupError("x")
    except LookupError:
        logger.exception("failed")
    record = waiting.get()
    record.created = 1.5
    Handler(notes).handle(record)
    (event,) = notes
    assert event["timestamp"] == "1970-01-01T00:00:01.500000Z"
    # Some versions of QueueHandler leave it in one field, some in the other.
    assert "LookupError: x" in event.get("exception", "") + event["message"]


def test_extra_cannot_overwrite_what_a_record_is(
    logger: logging.Logger, noted: Handler, notes: Any
) -> None:
    logger.error("x", extra={"level": 5, "timestamp": "never"})
    (event,) = notes
    assert (event["level"], event["extra.level"]) == ("ERROR", 5)
    assert event["extra.timestamp"] == "never" != event["timestamp"]


def test_a_formatter_makes_the_message(logger: logging.Logger, noted: Handler, notes: Any) -> None:
    noted.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    logger.error("x %s", "y")
    assert notes[0]["message"] == "[ERROR] x y"


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("evil")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "args", "told"),
    [
        ("%d of %d", (1,), "%d of %d (1,)"),
        ("%d", ("text",), "%d ('text',)"),
        ("%s", (Evil(),), "%s <tuple>"),
        (Evil(), (), "<Evil> ()"),
        ({"a": 1}, (), "{'a': 1}"),
        (None, (), "None"),
    ],
)
def test_a_message_that_cannot_be_formatted_arrives_anyway(
    message: Any,
    args: tuple[Any, ...],
    told: str,
    logger: logging.Logger,
    noted: Handler,
    notes: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger.error(message, *args)
    assert notes[0]["message"] == told
    assert capsys.readouterr().err == ""


def test_odd_values_arrive(logger: logging.Logger, client: Client, collector: Collector) -> None:
    logger.addHandler(Handler(client))
    loop: list[Any] = []
    loop.append(loop)
    extra = {"evil": Evil(), "loop": loop, "nan": float("nan"), "set": {1}, "bytes": b"\xff"}
    logger.error("\ud800", extra=extra)
    assert client.flush(60)
    (event,) = collector.events()
    assert (event["evil"], event["nan"], event["set"]) == ("<Evil>", None, [1])


def test_trouble_of_the_client_is_reported_as_logging_does(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    broken: Any = Broken()
    logger.addHandler(Handler(broken))
    logger.error("x")
    assert "broken client" in capsys.readouterr().err


def test_what_libtelemetry_logs_is_left_out(notes: Any) -> None:
    handler = Handler(notes)
    for name in ("libtelemetry", "libtelemetry.middleware", "libtelemetrics"):
        handler.handle(logging.makeLogRecord({"name": name}))
    assert [event["logger"] for event in notes] == ["libtelemetrics"]


def test_a_value_that_logs_does_not_recurse(
    logger: logging.Logger, noted: Handler, notes: Any
) -> None:
    class Chatty:
        def __str__(self) -> str:
            logger.error("asked for my text: %s", self)
            return "chatty"

    logger.error("%s", Chatty())
    assert [event["message"] for event in notes] == ["chatty"]
    logger.error("and then")
    assert len(notes) == 2


def test_levels_and_filters_work(logger: logging.Logger, noted: Handler, notes: Any) -> None:
    noted.setLevel("ERROR")
    noted.addFilter(lambda record: record.getMessage() != "no")
    logger.info("below")
    logger.error("no")
    logger.error("yes")
    assert [event["message"] for event in notes] == ["yes"]


def test_there_is_no_lock(logger: logging.Logger, noted: Handler, notes: Any) -> None:
    """A thread inside of the handler keeps no other out, and nothing is held at a fork."""
    assert noted.lock is None
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def __str__(self) -> str:
            entered.set()
            leave.wait(PATIENCE)
            return "slow"

    thread = threading.Thread(target=logger.error, args=("%s", Slow()))
    thread.start()
    assert entered.wait(PATIENCE)
    logger.error("fast")
    pid = os.fork()
    if pid == 0:
        logger.error("child")
        os._exit(len(notes) != 2)
    assert os.waitpid(pid, 0)[1] == 0
    assert [event["message"] for event in notes] == ["fast"]
    leave.set()
    thread.join()
    assert [event["message"] for event in notes] == ["fast", "slow"]


def test_dict_config(collector: Collector, client: Client) -> None:
    def config(handler: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"f": {"format": "<%(message)s>"}},
            "handlers": {"telemetry": {"class": "libtelemetry.logging.Handler", **handler}},
            "loggers": {"configured": {"handlers": ["telemetry"], "level": "INFO"}},
        }

    globals()["_client"] = client
    logger = logging.getLogger("configured")
    handlers: list[dict[str, Any]] = [
        {"client": f"ext://{__name__}._client", "formatter": "f", "level": "WARNING"},
        {"endpoint": collector.url, "format": "ndjson", "batch": {"max_events": 10}},
    ]
    for number, handler in enumerate(handlers):
        logging.config.dictConfig(config(handler))
        logger.info("info %d", number)
        logger.warning("warning %d", number)
        (made,) = logger.handlers
        assert isinstance(made, Handler)
        assert made.client.flush(60)
    logger.handlers.clear()
    found = sorted(event["message"] for event in collector.events())
    assert found == ["<warning 0>", "info 1", "warning 1"]


def test_a_client_or_its_arguments() -> None:
    with pytest.raises(TypeError, match="either a client or"):
        Handler(Client("file:" + os.devnull), endpoint="http://127.0.0.1:1")
    with pytest.raises(ValueError, match="no_such_key"):
        Handler(endpoint="http://127.0.0.1:1", no_such_key=1)


def test_flush_waits_for_nobody(logger: logging.Logger, client: Client) -> None:
    handler = Handler(client)
    logger.addHandler(handler)
    logger.error("x")
    handler.flush()
    handler.close()


def test_a_formatter_of_json_on_another_handler_does_not_disturb(notes: Any) -> None:
    """Handlers share the record: what one leaves in it is not another's `extra`."""
    logger = logging.Logger("shared")
    stream = logging.StreamHandler(io.StringIO())
    stream.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(stream)
    logger.addHandler(Handler(notes))
    logger.error("x")
    assert not {"asctime", "msg", "args", "taskName", "exc_info"} & set(notes[0])


def test_for_otlp_it_is_a_log_record_of_otlp(logger: logging.Logger, notes: Any) -> None:
    notes._config = '{"format": "otlp-logs"}'
    handler = Handler(notes)
    logger.addHandler(handler)
    try:
        raise LookupError("no such order")
    except LookupError:
        logger.exception(
            "order %d", 17, extra={"big": 2**70, "list": [1, None, {"a": True}], "logger.name": "b"}
        )
    (event,) = notes
    assert abs(int(event.pop("timeUnixNano")) - time.time_ns()) < 3600e9
    attributes = {pair["key"]: pair["value"] for pair in event.pop("attributes")}
    assert event == {
        "severityNumber": 17,
        "severityText": "ERROR",
        "body": {"stringValue": "order 17"},
    }
    assert attributes["logger.name"] == {"stringValue": "app.orders"}
    assert attributes["process.pid"] == {"intValue": str(os.getpid())}
    assert attributes["exception.type"] == {"stringValue": "builtins.LookupError"}
    assert attributes["exception.message"] == {"stringValue": "no such order"}
    assert attributes["exception.stacktrace"]["stringValue"].startswith("Traceback")
    assert attributes["big"] == {"stringValue": str(2**70)}
    inner = {"kvlistValue": {"values": [{"key": "a", "value": {"boolValue": True}}]}}
    assert attributes["list"] == {"arrayValue": {"values": [{"intValue": "1"}, {}, inner]}}


@pytest.mark.parametrize(
    ("level", "number"),
    [(0, 0), (5, 1), (10, 5), (12, 7), (19, 8), (20, 9), (30, 13), (40, 17), (50, 21), (99, 24)],
)
def test_levels_become_severities(level: int, number: int, notes: Any) -> None:
    notes._config = '{"format": "otlp-logs"}'
    Handler(notes).handle(logging.makeLogRecord({"levelno": level}))
    assert notes[0]["severityNumber"] == number


PROGRAM = """
import json, logging, sys
from libtelemetry import Client
from libtelemetry.logging import Handler

assert not [name for name in sys.modules if name.startswith("opentelemetry")]
client = Client("file:events", format="ndjson")
noted = []
class Notes:
    _config = "{}"
    def enqueue(self, event):
        noted.append(event)
        return True
logger = logging.getLogger("traced")
logger.addHandler(Handler(Notes()))
logger.error("before")
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
logger.error("outside")
with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
    logger.error("inside")
context = span.get_span_context()
print(json.dumps([noted, f"{context.trace_id:032x}", f"{context.span_id:016x}"]))
"""


@pytest.mark.parametrize("age", ["newest", "year-old"])
def test_the_active_span_is_told(age: str, tmp_path: Any) -> None:
    if not (SDKS / age / "opentelemetry").exists():
        pytest.skip("opentelemetry is missing: run tests/setup.sh")
    env = environment()
    env["PYTHONPATH"] += f"{os.pathsep}{SDKS / age}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    noted, trace_id, span_id = json.loads(done.stdout)
    assert ["trace_id" in event for event in noted] == [False, False, True]
    assert (noted[2]["trace_id"], noted[2]["span_id"]) == (trace_id, span_id)


EVERYWHERE = """
import asyncio, logging, sys
import libtelemetry.asgi, libtelemetry.logging, libtelemetry.wsgi
from libtelemetry import Client

with Client(sys.argv[1]) as client:
    logger = logging.getLogger("everywhere")
    logger.propagate = False
    logger.addHandler(libtelemetry.logging.Handler(client))
    logger.error("logged")
    web = libtelemetry.wsgi.Middleware(lambda environ, start: iter([b"a"]), client)
    body = web({"PATH_INFO": "/wsgi"}, None)
    assert list(body) == [b"a"]
    body.close()
    async def app(scope, receive, send):
        await send({"type": "http.response.body", "body": b"a"})
    async def send(message):
        pass
    web = libtelemetry.asgi.Middleware(app, client)
    asyncio.run(web({"type": "http", "path": "/asgi"}, None, send))
    assert client.flush(60)
logging.shutdown()
print("fine")
"""


@pytest.mark.parametrize("version", sorted(interpreters()), ids=lambda v: ".".join(map(str, v)))
def test_every_python_runs_it(version: tuple[int, int], collector: Collector) -> None:
    done = subprocess.run(
        [interpreters()[version], "-W", "error", "-c", EVERYWHERE, collector.url],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")
    found = {event.get("route") or event["message"] for event in collector.events()}
    assert found == {"logged", "/wsgi", "/asgi"}
