"""PostHog's official SDK, delivered by libtelemetry.

    from posthog import Posthog
    import libtelemetry.integrations.posthog

    posthog = Posthog("phc_key", host="https://eu.i.posthog.com")
    libtelemetry.integrations.posthog.install(posthog)  # at import, before the fork, is right
    posthog.capture("signup", distinct_id="user-1", properties={"plan": "pro"})

or, for the module's own client, which this makes: ``posthog.api_key = ...``; ``install(posthog)``.

Methods, validation, ``before_send``, super properties, contexts and exception capture are the
SDK's. What it would queue goes to one `libtelemetry.Client`, so that a process may fork at any time
by any means, and its consumer threads are gone. What else changes:

- `flush`, `join` and `shutdown` wait for the client, 10 s at most where the SDK has no limit.
- ``sync_mode``: each call waits until its event is delivered, at most ``timeout``.
- ``flush_at``, ``flush_interval``, ``max_queue_size``, ``max_retries`` and ``thread`` have no
  meaning; ``batch``, ``queue_bytes`` and ``retry`` are what the client has. ``on_error`` is not
  called: `Client.stats` counts, and ``dead_letter`` keeps what was refused.
- ``gzip=True`` means gzip; without it the client's own setting counts, which is gzip as well.
- After a fork the SDK starts its feature flag poller only in children of a process that had one.

Not touched: feature flags, metrics and traces, which have requests and timers of their own. Events
of `capture_ai` go to a client of their own, as the SDK has an address of their own for them, unless
``endpoint`` is given.

Works with versions from 7.0 on.
"""

from __future__ import annotations

import atexit
import functools
import logging
from queue import Full
from typing import Any, Callable

from .._client import Client
from .._native import ConfigError
from ._sdk import NativeQueue, open_client, require, retire, room_for, unsupported

_log = logging.getLogger("posthog")

_PATHS = {"posthog": "/batch/", "posthog-v1": "/i/v1/analytics/events"}

# What the SDK itself takes; its servers take a little more.
_EVENT_BYTES = 900 * 1024
_AI_EVENT_BYTES = 8 * 1024 * 1024


def install(client: Any, **keys: Any) -> Client:
    """Have what `client` captures delivered by libtelemetry; the client that does it.

    `client` is a ``posthog.Posthog`` (``posthog.Client``) or the module ``posthog``. `keys` are
    keys of `Client` and win over what the SDK's client says: ``spool_dir="/var/spool/app"``,
    ``endpoint=``, ``format="posthog-v1"``. Call it right after the client is made; what was
    captured by then is handed over. A second call returns the same client and ignores `keys`.

    Raises TypeError for anything else, ConfigError for keys that are not accepted or a missing key
    of the project, UnsupportedSDK if this version of the SDK is not built as expected. Then nothing
    is changed.
    """
    sdk = _client_of(client)
    require("posthog", sdk, "api_key", "host", "timeout", "gzip", "sync_mode", "queue", "_enqueue")
    if isinstance(sdk.queue, NativeQueue):
        return sdk.queue.client
    lanes = hasattr(sdk, "_lanes")
    if lanes:
        require("posthog", sdk, "_analytics_lane", "_ai_lane")
        if list(sdk._lanes) != [sdk._analytics_lane, sdk._ai_lane]:
            raise unsupported("posthog", "it has lanes that are not known here")
        for lane in sdk._lanes:
            require("posthog", lane, "name", "queue", "consumers", "enqueue", "rebuild_after_fork")
    else:
        require("posthog", sdk, "consumers", "join")
    if getattr(sdk, "historical_migration", False):
        raise ConfigError(
            "historical_migration: not supported; leave an import to a client of the SDK alone"
        )

    settings = _settings(sdk, keys)
    native = open_client({**settings, **room_for(_EVENT_BYTES, keys)}, keys)
    wait = float(sdk.timeout) if sdk.sync_mode else None
    if getattr(sdk, "on_error", None) is not None:
        _log.warning("libtelemetry: on_error is not called; see Client.stats and dead_letter")

    new = NativeQueue(native, _log, wait=wait)
    if lanes:
        ai = _ai_client(settings, keys) if "endpoint" not in keys else lambda: native
        _replace_lanes(sdk, new, ai, wait)
    else:
        _replace_queue(sdk, new)
    sdk.sync_mode = False  # to the SDK it is a queue again; `wait` is what keeps it synchronous
    if hasattr(sdk, "_reinit_after_fork"):
        # Looked up on the object by the hook that the SDK registered.
        sdk._reinit_after_fork = functools.partial(_after_fork, sdk)
    return native


def _client_of(client: Any) -> Any:
    import posthog

    if client is posthog:
        key = getattr(posthog, "project_api_key", None) or posthog.api_key
        if not key and not posthog.disabled:
            # Without one the SDK would make a client that is disabled for good.
            raise ConfigError("api_key: set posthog.api_key before install(posthog)")
        return posthog.setup()
    if not isinstance(client, posthog.Client):
        raise TypeError(
            f"install() takes a posthog.Posthog or the module posthog, not {type(client).__name__}"
        )
    return client


def _settings(sdk: Any, keys: dict[str, Any]) -> dict[str, Any]:
    """The keys that say the same as the SDK's client."""
    mode = getattr(sdk, "capture_mode", None)
    format = keys.get("format") or (
        "posthog-v1" if getattr(mode, "value", mode) == "v1" else "posthog"
    )
    return {
        "endpoint": sdk.host.rstrip("/") + _PATHS.get(format, _PATHS["posthog"]),
        "format": format,
        "api_key": sdk.api_key or "none",
        "compression": "gzip" if sdk.gzip else None,
        "timeout_ms": int(float(sdk.timeout) * 1000),
        # The SDK is disabled for good without a key; its calls still work.
        "disabled": None if sdk.api_key else True,
    }


def _ai_client(settings: dict[str, Any], keys: dict[str, Any]) -> Callable[[], Client]:
    """Opens the client for AI events, which most programs never need: larger, and v0 always."""
    host = settings["endpoint"].removesuffix(_PATHS.get(settings["format"], _PATHS["posthog"]))
    more = {key: value for key, value in keys.items() if key != "format"}
    if "name" in more:
        more["name"] += "-ai"
    defaults = {
        **settings,
        "endpoint": host + "/i/v0/ai/batch/",
        "format": "posthog",
        **room_for(_AI_EVENT_BYTES, keys),
    }
    return lambda: open_client(defaults, more)


def _replace_queue(sdk: Any, new: NativeQueue) -> None:
    """Versions with one queue, up to 7.30 or so."""
    old, threads = sdk.queue, sdk.consumers or []
    atexit.unregister(sdk.join)  # the client has its own, within its own budget
    sdk.queue = new
    # Empty, which also tells the SDK's hook that there is nothing to build anew in a child.
    sdk.consumers = []
    sdk.flush = functools.partial(_flush, new)
    sdk.join = functools.partial(_join, sdk, new)
    retire(threads, old, new, send="request", batch_size="flush_at")


def _flush(queue: NativeQueue, timeout_seconds: float | None = None) -> None:
    queue.flush(timeout_seconds)


def _join(sdk: Any, queue: NativeQueue) -> None:
    queue.close()
    type(sdk).join(sdk)


def _replace_lanes(
    sdk: Any, new: NativeQueue, open_ai: Callable[[], Client], wait: float | None
) -> None:
    """Versions with a lane for AI events."""
    old = [sdk._analytics_lane, sdk._ai_lane]
    sdk._analytics_lane = _Lane(old[0], lambda: new)
    sdk._ai_lane = _Lane(old[1], lambda: NativeQueue(open_ai(), _log, wait=wait))
    sdk._lanes = [sdk._analytics_lane, sdk._ai_lane]
    for before, after in zip(old, sdk._lanes):
        if before.consumers:
            retire(before.consumers, before.queue, after.queue, "request", "flush_at")


class _Lane:
    """A client in the place of the SDK's ``_Lane``: the same methods, without locks or threads."""

    available = True

    def __init__(self, old: Any, make: Callable[[], NativeQueue]) -> None:
        self.name = old.name
        self.endpoint = getattr(old, "endpoint", None)
        self.capture_mode = getattr(old, "capture_mode", None)
        self.sdk_info = getattr(old, "sdk_info", None)
        self.consumers: list[Any] = []
        self._closed = False
        self._make = make
        self._made: list[NativeQueue] = []

    @property
    def queue(self) -> NativeQueue:
        """The queue, made when it is first needed."""
        if not self._made:
            # Two threads may both make one. The first that is appended counts, for both.
            self._made.append(self._make())
        return self._made[0]

    def start(self) -> None:
        """Nothing needs a start."""

    def enqueue(self, msg: dict[str, Any]) -> bool:
        """Whether the event was taken."""
        if self._closed:
            return False
        try:
            self.queue.put(msg, block=False)
        except Full:
            return False
        return True

    def run_sync_if_open(self, send: Callable[[], Any]) -> bool:
        """Run `send` unless the lane is closed: the SDK with ``send=False``."""
        if not self._closed:
            send()
        return not self._closed

    def close(self) -> None:
        """Take no more events."""
        self._closed = True

    def wait_for_sync_sends(self) -> None:
        """There are none."""

    def flush(self, timeout_seconds: float | None) -> None:
        """Wait for delivery; not at the end of the process, where the client waits by itself."""
        if self._made and not self._closed:
            self.queue.flush(timeout_seconds)

    def discard_undrainable_queued_work(self) -> None:
        """Nothing is undrainable."""

    def join(self) -> None:
        """Deliver what waits and shut the client down."""
        if self._made:
            self.queue.close()

    def reset_sync_send_state_after_fork(self) -> None:
        """There is none."""

    def rebuild_after_fork(self, *, closed: bool = False) -> None:
        """Nothing needs to be built anew in a child."""
        self._closed = closed


def _after_fork(sdk: Any) -> None:
    """The SDK's hook in a child, without the poller that it would start there in any case."""
    wanted = sdk.enable_local_evaluation
    sdk.enable_local_evaluation = wanted and sdk.poller is not None
    try:
        type(sdk)._reinit_after_fork(sdk)
    finally:
        sdk.enable_local_evaluation = wanted
