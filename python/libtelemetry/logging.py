"""A handler for the standard `logging` that delivers each record as an event.

    logging.getLogger().addHandler(libtelemetry.logging.Handler(client))

It may be made before a server forks. It has no thread and no lock: giving an event to the client
needs none, so a thread that logs never waits for another, and a fork finds no lock taken.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import datetime, timezone
from typing import Any, Callable

from . import _trace
from ._client import Client
from ._encode import _plain

__all__ = ["Handler"]

# What a record always has; the rest was given as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}

_format_exception = logging.Formatter().formatException


class Handler(logging.Handler):
    """Gives each record to `client`, as one JSON object.

    Instead of a client the arguments of one may be given, as a configuration file does::

        {"class": "libtelemetry.logging.Handler", "endpoint": "http://127.0.0.1:4318"}
        {"class": "libtelemetry.logging.Handler", "client": "ext://app.client"}

    The event has ``timestamp``, ``level``, ``logger``, ``message``, ``file``, ``line``,
    ``function``, ``process``, ``process_name``, ``thread_name``, where they apply ``task``,
    ``exception``, ``exception_type``, ``stack``, ``trace_id`` and ``span_id`` (of OpenTelemetry's
    active span), and whatever was passed as ``extra``. For the format ``otlp-logs`` it is a
    LogRecord of OTLP/JSON with the same content. For another shape override `event`.

    Logging never raises: what goes wrong here is reported as `logging.Handler.handleError` does.
    Records of libtelemetry itself, and those made while one is handled, are left out.
    """

    def __init__(
        self,
        client: Client | None = None,
        level: int | str = logging.NOTSET,
        *,
        endpoint: str | None = None,
        **keys: Any,
    ) -> None:
        super().__init__(level)
        if client is None:
            client = Client(endpoint, **keys)
        elif endpoint is not None or keys:
            raise TypeError("give either a client or the arguments of one")
        self.client = client
        self._busy = threading.local()
        self._otlp = _format_of(client) == "otlp-logs"

    def createLock(self) -> None:
        """No lock, and none for `logging` to care for at fork."""
        self.lock = None

    def _at_fork_reinit(self) -> None:
        """Nothing to do."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit the record if the filters let it pass. Not `logging`'s own: that takes the lock."""
        passed: Any = self.filter(record)
        if passed:
            # From Python 3.12 on a filter may return another record.
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Enqueue the record. Never blocks, never raises."""
        if str(record.name).partition(".")[0] == "libtelemetry":
            return
        if getattr(self._busy, "now", False):
            return  # the conversion of a value logs
        self._busy.now = True
        try:
            self.client.enqueue(self.event(record))
        except Exception:
            self.handleError(record)
        finally:
            self._busy.now = False

    def flush(self) -> None:
        """Have the client send what it has, without waiting; `Client.flush` waits.

        Not when `logging` shuts down at exit: then the client's own exit handler does it.
        """
        if threading.main_thread().is_alive():
            self.client.flush(0)

    def event(self, record: logging.LogRecord) -> dict[str, Any]:
        """The event that stands for `record`."""
        fields = self._fields(record)
        if self._otlp:
            return _otlp_record(record, fields)
        moment = datetime.fromtimestamp(record.created, timezone.utc).replace(tzinfo=None)
        event = {"timestamp": moment.isoformat(timespec="microseconds") + "Z", **fields}
        for key, value in vars(record).items():
            if key not in _OWN:
                event[f"extra.{key}" if key in event else key] = value
        return event

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            "file": record.pathname,
            "line": record.lineno,
            "function": record.funcName,
            "process": record.process,
            "process_name": record.processName,
            "thread_name": record.threadName,
        }
        task = getattr(record, "taskName", None)
        if task is not None:
            fields["task"] = task
        # A QueueHandler leaves only the text.
        if record.exc_info and record.exc_info[0] is not None:
            kind = record.exc_info[0]
            fields["exception"] = record.exc_text or _format_exception(record.exc_info)
            fields["exception_type"] = f"{kind.__module__}.{kind.__qualname__}"
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        trace = _trace.current()
        if trace is not None:
            fields["trace_id"], fields["span_id"] = trace
        return fields

    def _message(self, record: logging.LogRecord) -> str:
        try:
            return record.getMessage() if self.formatter is None else self.formatter.format(record)
        except Exception:  # wrong arguments: the message matters more than its form
            return f"{_safe(str, record.msg)} {_safe(repr, record.args)}"


def _safe(form: Callable[[object], str], value: object) -> str:
    try:
        return form(value)
    except Exception:  # the value's own code failed
        return f"<{type(value).__name__}>"


def _format_of(client: Client) -> str:
    config = json.loads(client._config)
    return str(config.get("format") or os.environ.get("TELEMETRY_FORMAT", "ndjson"))


# The attribute names of OpenTelemetry's conventions; those that have none keep ours.
_ATTRIBUTES = {
    "logger": "logger.name",
    "file": "code.file.path",
    "line": "code.line.number",
    "function": "code.function.name",
    "process": "process.pid",
    "process_name": "process.name",
    "thread_name": "thread.name",
    "task": "task.name",
    "exception": "exception.stacktrace",
    "exception_type": "exception.type",
    "stack": "code.stacktrace",
}


def _otlp_record(record: logging.LogRecord, fields: dict[str, Any]) -> dict[str, Any]:
    """A LogRecord of OTLP/JSON."""
    attributes = {
        name: fields[key] for key, name in _ATTRIBUTES.items() if fields.get(key) is not None
    }
    if record.exc_info and record.exc_info[1] is not None:
        attributes["exception.message"] = _safe(str, record.exc_info[1])
    for key, value in vars(record).items():
        if key not in _OWN:
            attributes.setdefault(key, value)
    event: dict[str, Any] = {
        "timeUnixNano": str(int(record.created * 1e9)),
        "severityNumber": _severity(record.levelno),
        "severityText": record.levelname,
        "body": {"stringValue": fields["message"]},
        "attributes": _key_values(_plain(attributes)),
    }
    if "trace_id" in fields:
        event["traceId"], event["spanId"] = fields["trace_id"], fields["span_id"]
    return event


def _severity(level: int) -> int:
    """OpenTelemetry's numbers: four for each of TRACE, DEBUG, INFO, WARN, ERROR and FATAL."""
    if level < logging.DEBUG:
        return 1 if level > 0 else 0
    level = min(level, 53)
    return 1 + 4 * min(level // 10, 5) + min(level % 10, 3)


# Of lists and mappings in each other. What is nested much deeper, OTLP's receivers refuse.
_DEPTH = 16


def _key_values(plain: dict[str, Any], depth: int = 0) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any_value(value, depth)} for key, value in plain.items()]


def _any_value(plain: Any, depth: int) -> dict[str, Any]:
    """A value of JSON's own types as OTLP/JSON's AnyValue."""
    if plain is None:
        return {}
    if isinstance(plain, bool):
        return {"boolValue": plain}
    if isinstance(plain, int):
        if -(1 << 63) <= plain < 1 << 63:
            return {"intValue": str(plain)}
        return {"stringValue": str(plain)}
    if isinstance(plain, float):
        return {"doubleValue": plain}
    if isinstance(plain, str) or depth >= _DEPTH:
        return {"stringValue": plain if isinstance(plain, str) else "..."}
    if isinstance(plain, dict):
        return {"kvlistValue": {"values": _key_values(plain, depth + 1)}}
    return {"arrayValue": {"values": [_any_value(item, depth + 1) for item in plain]}}
