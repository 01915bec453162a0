"""What a program does with Segment's SDK, by itself or with the adapter."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

from segment import analytics as module
from segment.analytics.client import Client

import libtelemetry
from libtelemetry.integrations import _sdk
from libtelemetry.integrations.segment import install

KEY = "wk_test"


def methods(host: str, adapted: bool, options: dict[str, Any]) -> list[Any]:
    """Every method that reports something; what each returned."""
    client = Client(KEY, host=host, **options)
    if adapted:
        install(client)
    when = datetime(2026, 11, 21, 2, 29, 58, 4000, tzinfo=timezone.utc)
    said: list[Any] = []
    for call in (
        lambda: client.track("u-1", "plain"),
        lambda: client.track(
            "u-1",
            "full",
            {"text": '\u00e9\u4e2d\U0001f600 \\"', "when": when, "day": date(2026, 11, 21)},
            context={"ip": "192.0.2.1"},
            timestamp=when,
            anonymous_id="a-1",
            integrations={"All": False},
            message_id="m-1",
        ),
        lambda: client.track("u-1", "numbers", {"n": 1, "f": 2.5, "d": Decimal("1.5"), "no": None}),
        lambda: client.identify("u-1", {"plan": "pro"}),
        lambda: client.group("u-1", "g-1", {"size": 3}),
        lambda: client.page("u-1", "docs", "start", {"url": "/"}),
        lambda: client.screen("u-1", "docs", "start"),
        lambda: client.alias("old", "u-1"),
        lambda: client.track("u-1", 7),
        lambda: client.track(event="nobody"),
        lambda: client.track("u-1", "too large", {"x": "x" * 40_000}),
    ):
        try:
            said.append(call()[0])
        except Exception as error:
            said.append(type(error).__name__)
    client.send = False
    said.append(client.track("u-1", "not sent")[0])
    client.send = True
    client.flush()
    if client.consumers is not None:  # without, the SDK's own raises
        client.shutdown()
    return said


def taking_over(host: str) -> dict[str, Any]:
    """What was tracked before the adapter came, some of it in the SDK's threads already."""
    client = Client(KEY, host=host, upload_size=50, upload_interval=30, thread=3)
    for n in range(120):
        client.track("u", "early", {"n": n})
    native = install(client)
    again = install(client, endpoint="http://127.0.0.1:1")
    client.track("u", "late", {"n": 120})
    client.flush()
    return {
        "threads": names(),
        "same": native is again,
        "waiting": native.stats().queue_events,
    }


def names() -> list[str]:
    """The Python threads of this process, but the first."""
    return [one.name for one in threading.enumerate() if one is not threading.main_thread()]


def children(host: str) -> list[Any]:
    """Forks by `os.fork` and by C, which tells Python nothing; the threads of each."""
    client = Client(KEY, host=host)
    install(client)
    client.track("u", "child", {"n": "master"})
    found: list[Any] = [names()]
    for fork in (os.fork, ctypes.PyDLL(None).fork):
        reader, writer = os.pipe()
        if not fork():
            client.track("u", "child", {"n": fork.__name__})
            client.flush()
            os.write(writer, repr(names()).encode())
            os._exit(0)
        os.wait()
        found.append(os.read(reader, 1000).decode())
    client.shutdown()
    return found


def by_module(host: str) -> dict[str, Any]:
    """The module's own client, which it makes when it is first used."""
    said: dict[str, Any] = {}
    with contextlib.suppress(libtelemetry.ConfigError):
        install(module)
        said["without a key"] = "accepted"
    module.write_key = KEY
    module.host = host
    native = install(module)
    said["same"] = install(module) is native
    module.track("u", "by module")
    module.flush()
    said["delivered"] = native.stats().delivered
    module.shutdown()
    said["after shutdown"] = module.track("u", "late")[0]
    said["threads"] = names()
    return said


def sync_mode(host: str) -> dict[str, Any]:
    """Each call waits until its event is delivered."""
    client = Client(KEY, host=host, sync_mode=True, gzip=True)
    native = install(client)
    client.track("u", "sync")
    delivered = native.stats().delivered
    client.shutdown()
    return {"delivered": delivered, "threads": names()}


def refusals(host: str) -> dict[str, str]:
    """What cannot be installed, and that nothing is changed then: the SDK goes on by itself."""
    said: dict[str, str] = {}

    def attempt(name: str, client: Any, **keys: Any) -> None:
        before = dict(vars(client)) if hasattr(client, "__dict__") else {}
        try:
            install(client, **keys)
            said[name] = "accepted"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
        assert all(vars(client)[key] is before[key] for key in before), name

    client = Client(KEY, host=host)
    attempt("no client", KEY)
    attempt("key", client, retries=3)
    oauth = Client(KEY, host=host, send=False)
    oauth.oauth_manager = object()
    attempt("oauth", oauth)
    enqueue = Client._enqueue
    del Client._enqueue
    attempt("internals", client)
    Client._enqueue = enqueue
    client.track("u", "by itself")
    client.shutdown()
    return said


def collector_down(host: str) -> dict[str, Any]:
    """Nothing waits for ever."""
    _sdk.FLUSH_SECONDS = 0.2
    client = Client(KEY, host="http://127.0.0.1:1")
    native = install(client, exit_timeout_ms=100)
    said = client.track("u", "lost")[0]
    client.flush()
    waiting = native.stats().queue_events
    client.shutdown()
    return {"taken": said, "waiting": waiting}
