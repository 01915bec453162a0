"""What a program does with PostHog's SDK, by itself or with the adapter."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import os
import signal
import sys
import threading
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import posthog as module
from posthog import Posthog

import libtelemetry
from libtelemetry.integrations import UnsupportedSDK, _sdk
from libtelemetry.integrations.posthog import install

KEY = "phc_test"


def methods(host: str, adapted: bool, options: dict[str, Any]) -> list[Any]:
    """Every method that reports something; what each returned, ids by their length."""

    def before_send(msg: dict[str, Any]) -> dict[str, Any] | None:
        msg["properties"]["seen"] = True
        return None if msg["event"] == "dropped" else msg

    client = Posthog(
        KEY,
        host=host,
        before_send=before_send,
        super_properties={"app": "shop"},
        **options,
    )
    if adapted:
        install(client)
    when = datetime(2026, 11, 21, 2, 29, 58, 4000, tzinfo=timezone.utc)
    said: list[Any] = [
        client.capture("plain", distinct_id="u-1"),
        client.capture(
            "full",
            distinct_id="u-1",
            properties={
                "text": '\u00e9\u4e2d\U0001f600 \\"',
                "when": when,
                "list": [1, 2.5, None, True],
                "id": UUID(int=7),
                "nested": {"a": {"b": {}}},
                "set": {1},
            },
            timestamp=when,
            uuid="0198a0c2-6d0e-7c11-8a77-5d1c2e9b4f10",
            groups={"company": "c-1"},
            disable_geoip=False,
        ),
        client.capture("dropped", distinct_id="u-1"),
        client.capture("personless"),
        client.capture("large", distinct_id="u-1", properties={"text": "x" * 700_000}),
        client.set(distinct_id="u-1", properties={"plan": "pro"}),
        client.set_once(distinct_id="u-1", properties={"first": 1}),
        client.alias("old", "u-1"),
        client.group_identify("company", "c-1", {"size": 3}, distinct_id="u-1"),
        client.capture("bad uuid", distinct_id="u-1", uuid="no uuid"),
    ]
    try:
        1 / 0  # noqa: B018 # the error is what is captured
    except ZeroDivisionError as error:
        said.append(client.capture_exception(error, distinct_id="u-1"))
    if hasattr(client, "capture_ai"):
        large = {"text": "x" * 2_000_000}
        said.append(client.capture_ai("$ai_generation", distinct_id="u-1", properties=large))
    with contextlib.suppress(Exception):
        said.append(client.capture(distinct_id="no event"))  # type: ignore[call-arg] # the case
    client.disabled = True
    said.append(client.capture("disabled", distinct_id="u-1"))
    client.disabled = False
    client.send = False
    said.append(client.capture("not sent", distinct_id="u-1") is not None)
    client.send = True
    client.flush()
    if adapted or hasattr(client, "_lanes") or not client.sync_mode:  # else the SDK's own raises
        client.shutdown()
    return [len(one) if isinstance(one, str) else one for one in said]


def taking_over(host: str) -> dict[str, Any]:
    """What was captured before the adapter came, some of it in the SDK's thread already."""
    client = Posthog(KEY, host=host, flush_at=50, flush_interval=30, thread=2)
    for n in range(120):
        client.capture("early", distinct_id="u", properties={"n": n})
    native = install(client)
    again = install(client, endpoint="http://127.0.0.1:1")
    client.capture("late", distinct_id="u", properties={"n": 120})
    client.flush()
    return {
        "threads": names(),
        "same": native is again,
        "consumers": len(client.consumers or []),
        "waiting": native.stats().queue_events,
        "delivered": native.stats().delivered,
    }


def names() -> list[str]:
    """The Python threads of this process, but the first."""
    return [one.name for one in threading.enumerate() if one is not threading.main_thread()]


def children(host: str) -> list[Any]:
    """Forks by `os.fork` and by C, which tells Python nothing; the threads of each."""
    client = Posthog(KEY, host=host)
    install(client)
    client.capture("child", distinct_id="u", properties={"n": "master"})
    found = [names()]
    for fork in (os.fork, ctypes.PyDLL(None).fork):
        reader, writer = os.pipe()
        if not fork():
            client.capture("child", distinct_id="u", properties={"n": fork.__name__})
            client.flush()
            os.write(writer, repr(names()).encode())
            os._exit(0)
        os.wait()
        found.append(os.read(reader, 1000).decode())
    client.flush()
    return found


def late_in_a_child(host: str) -> dict[str, int]:
    """The adapter comes in a child that Python was not told of, with a copy of a full queue."""
    # A thread that asks for the GIL at the moment of such a fork leaves a child that waits for it.
    sys.setswitchinterval(1000)
    client = Posthog(KEY, host=host, flush_at=1000, flush_interval=1)
    for n in range(60):
        client.capture("master", distinct_id="u", properties={"n": n})
    reader, writer = os.pipe()
    if not ctypes.PyDLL(None).fork():
        _sdk.END_SECONDS = 1000.0  # to wait for the parent's thread is to fail
        native = install(client)
        client.capture("child", distinct_id="u", properties={"n": 0})
        client.flush()
        os.write(writer, b"%d" % native.stats().accepted)
        os._exit(0)
    os.wait()
    client.shutdown()
    return {"accepted": int(os.read(reader, 10))}


def by_module(host: str) -> dict[str, Any]:
    """The module's own client, which it makes when it is first used."""
    said: dict[str, Any] = {}
    with contextlib.suppress(libtelemetry.ConfigError):
        install(module)
        said["without a key"] = "accepted"
    module.api_key = KEY
    module.host = host
    native = install(module)
    said["same"] = install(module) is native
    module.capture("by module", distinct_id="u", properties={"n": 1})
    module.flush()
    said["delivered"] = native.stats().delivered
    module.shutdown()
    said["after shutdown"] = module.capture("late", distinct_id="u")
    said["threads"] = names()
    return said


def sync_mode(host: str) -> dict[str, Any]:
    """Each call waits until its event is delivered."""
    client = Posthog(KEY, host=host, sync_mode=True, gzip=True)
    native = install(client)
    client.capture("sync", distinct_id="u")
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
        after = vars(client) if before else {}
        assert all(after[key] is before[key] for key in before), name

    client = Posthog(KEY, host=host)
    attempt("no client", "phc_test")
    attempt("key", client, retries=3)
    attempt("history", Posthog(KEY, host=host, historical_migration=True, send=False))
    enqueue = module.Client._enqueue
    del module.Client._enqueue
    attempt("internals", client)
    module.Client._enqueue = enqueue
    client.capture("by itself", distinct_id="u", properties={"n": 1})
    client.shutdown()
    assert issubclass(UnsupportedSDK, RuntimeError)
    return said


def collector_down(host: str) -> dict[str, Any]:
    """Nothing waits for ever."""
    _sdk.FLUSH_SECONDS = 0.2
    client = Posthog(KEY, host="http://127.0.0.1:1")
    native = install(client, exit_timeout_ms=100)
    said = client.capture("lost", distinct_id="u")
    client.flush(*[0.2] * ("timeout_seconds" in inspect.signature(client.flush).parameters))
    waiting = native.stats().queue_events
    client.shutdown()
    return {"taken": said is not None, "waiting": waiting}


def version_one(host: str) -> dict[str, Any]:
    """The newest protocol, chosen in the SDK, or by a key."""
    client = Posthog(KEY, host=host, capture_mode="v1")
    native = install(client)
    client.capture("v1", distinct_id="u", properties={"n": 1, "$session_id": "s"})
    client.shutdown()
    other = Posthog(KEY, host=host)
    by_key = install(other, format="posthog-v1")
    other.capture("v1", distinct_id="u", properties={"n": 2})
    other.shutdown()
    return {"delivered": [native.stats().delivered, by_key.stats().delivered]}


def without_a_key(host: str) -> list[Any]:
    """A client that the SDK disables: nothing is sent, nothing is raised."""
    client = Posthog("", host=host, disabled=True)
    native = install(client)
    said = client.capture("x", distinct_id="u")
    client.flush()
    client.shutdown()
    return [said, native.stats().accepted]


def by_gevent(host: str) -> dict[str, Any]:
    """The SDK's threads are greenlets."""
    client = Posthog(KEY, host=host)
    client.capture("early", distinct_id="u")
    native = install(client)
    client.capture("late", distinct_id="u")
    client.flush()
    return {"delivered": native.stats().delivered, "consumers": len(client.consumers)}


def killed(host: str, spool: str, count: int) -> int:
    """Capture, and with a `count` be killed before anything is sent; else deliver what is there."""
    client = Posthog(KEY, host=host)
    native = install(client, spool_dir=spool, batch={"max_age_ms": 3_600_000})
    for n in range(count):
        client.capture("kept", distinct_id="u", properties={"n": n})
    if count:
        os.kill(os.getpid(), signal.SIGKILL)
    client.flush()
    return native.stats().recovered


def small_queue(host: str) -> int:
    """What an event may have of it shrinks with it; how many were captured."""
    client = Posthog(KEY, host=host)
    install(client, queue_bytes=1 << 20)
    captures = [client.capture, *filter(None, [getattr(client, "capture_ai", None)])]
    for capture in captures:
        capture("$ai_generation", distinct_id="u-1", properties={"$ai_input": "x" * 300_000})
    client.flush()
    client.shutdown()
    return len(captures)
