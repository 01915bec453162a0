"""What the adapters for delivery SDKs share.

These SDKs are built alike: public methods validate and build an event and put it on a
`queue.Queue`, from which threads of the SDK send. A fork loses the threads. So an adapter

- puts a `NativeQueue` where the SDK has its queue: what the SDK would queue goes to a
  `libtelemetry.Client`, and whoever waits for the queue waits for that client;
- ends the threads, before there was much for them to send: what they hold already, they hand over.

Everything is checked before anything is changed. Nothing here holds a lock, starts a thread or
registers a fork hook; the SDK's own hooks then find no thread to start.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Iterable
from queue import Empty, Full
from typing import Any, Callable

from .._client import Client
from . import UnsupportedSDK

# As long as PostHog's own flush, the only SDK that has a limit.
FLUSH_SECONDS = 10.0

# An SDK's request that is on its way ends by the SDK's own time-out, 15 s at most.
END_SECONDS = 20.0

# The library's defaults, and what a segment has beside an event.
_EVENT_BYTES = 256 << 10
_SEGMENT_BYTES = 1 << 20
_QUEUE_BYTES = 16 << 20
_OVERHEAD = 512
_PAGE = 4096

# Put on an SDK's queue to wake the thread that waits there. Not an event.
WAKE: dict[str, Any] = {"$libtelemetry": "wake"}


class NativeQueue:
    """A client in the place of an SDK's `queue.Queue`.

    `encode` makes of an item what `Client.enqueue` takes. With `wait`, `put` returns when the item
    is delivered, or after so many seconds: that is an SDK's synchronous mode.
    """

    maxsize = 0
    unfinished_tasks = 0

    def __init__(
        self,
        client: Client,
        log: logging.Logger,
        encode: Callable[[Any], Any] | None = None,
        wait: float | None = None,
    ) -> None:
        self.client = client
        self.log = log
        self._encode = encode
        self._wait = wait

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Enqueue `item`. Raises Full, which every SDK handles, if the client does not take it."""
        if not self.client.enqueue(self._encode(item) if self._encode else item):
            raise Full
        if self._wait is not None:
            self.flush(self._wait)

    def put_nowait(self, item: Any) -> None:
        """`put`, which never blocks anyway."""
        self.put(item, block=False)

    def flush(self, seconds: float | None = None) -> None:
        """Wait until everything is delivered, at most `seconds`, else FLUSH_SECONDS."""
        limit = FLUSH_SECONDS if seconds is None else seconds
        if not self.client.flush(limit):
            self.log.warning("libtelemetry: not everything was delivered within %g s", limit)

    def join(self) -> None:
        """`flush`."""
        self.flush()

    def close(self) -> None:
        """Deliver what waits, then shut the client down."""
        if not self.client.shutdown(FLUSH_SECONDS):
            self.log.warning("libtelemetry: closed before everything was delivered")

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Raises Empty: nothing comes back."""
        raise Empty

    def get_nowait(self) -> Any:
        """Raises Empty: nothing comes back."""
        raise Empty

    def task_done(self) -> None:
        """Nothing is counted here."""

    def qsize(self) -> int:
        """How many events wait in this process."""
        return self.client.stats().queue_events

    def empty(self) -> bool:
        """Whether none waits in this process."""
        return not self.qsize()

    def full(self) -> bool:
        """Not known before `put`."""
        return False


def unsupported(distribution: str, what: str) -> UnsupportedSDK:
    """The error that names the SDK's version."""
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        version = "of an unknown version"
    adapter = distribution.partition("-")[0]
    return UnsupportedSDK(
        f"{distribution} {version} does not work with libtelemetry.integrations.{adapter}: {what}"
    )


def require(distribution: str, owner: Any, *names: str) -> None:
    """Raise UnsupportedSDK unless `owner` has all these attributes."""
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        kind = type(owner).__name__
        raise unsupported(distribution, f"its {kind} has no {', '.join(missing)}")


def open_client(defaults: dict[str, Any], keys: dict[str, Any]) -> Client:
    """A client with the keys of the SDK's own settings, `keys` over them.

    Headers are merged. What is None counts as not given.
    """
    both = {**defaults, **keys}
    if defaults.get("headers") and keys.get("headers"):
        both["headers"] = {**defaults["headers"], **keys["headers"]}
    return Client(**both)


def room_for(size: int, keys: dict[str, Any]) -> dict[str, int]:
    """Keys for events of up to `size` bytes, or as large as the queue or the spool that `keys` or
    the environment sets has room for. None if somebody has said how large an event may be.
    """
    said: dict[str, Any] = {
        name: os.environ.get(f"TELEMETRY_{name.upper()}") if keys.get(name) is None else keys[name]
        for name in ("max_event_bytes", "segment_bytes", "queue_bytes", "spool_max_bytes")
    }
    if said["max_event_bytes"] is not None or said["segment_bytes"] is not None:
        return {}
    segment = max(_SEGMENT_BYTES, (size + _OVERHEAD + _PAGE - 1) // _PAGE * _PAGE)
    for name in ("queue_bytes", "spool_max_bytes"):
        if said[name] is None:
            continue
        try:
            segment = min(segment, int(said[name]) // 2 // _PAGE * _PAGE)
        except (TypeError, ValueError):  # the library refuses it, and says why
            return {}
    if segment - _OVERHEAD <= _EVENT_BYTES:
        return {}  # the library's own defaults fit themselves in
    found = {"max_event_bytes": min(size, segment - _OVERHEAD), "segment_bytes": segment}
    if said["queue_bytes"] is None:
        found["queue_bytes"] = max(_QUEUE_BYTES, 8 * size)
    return found


def runs(thread: Any) -> bool:
    """Whether `thread` runs in this process.

    Where Python was not told of a fork, as under uWSGI, `is_alive` says so of threads that only the
    parent has; to wait for one of those is to wait for ever.
    """
    if not thread.is_alive():
        return False
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return True  # a greenlet: it has no thread of its own, and a fork keeps it
    tasks = "/proc/self/task"
    return (
        thread.native_id is None
        or not os.path.isdir(tasks)
        or os.path.exists(f"{tasks}/{thread.native_id}")
    )


def retire(
    threads: Iterable[Any],
    old: Any,
    new: NativeQueue,
    send: str | None = None,
    batch_size: str | None = None,
) -> None:
    """End the SDK's `threads`, which read from the queue `old`, and move what is queued to `new`.

    `send` names the method of a thread that sends a batch: from now on it hands the batch over.
    `batch_size` names the attribute for the number of events that make a batch: at 0 the thread
    returns at once when woken, and not when its interval is over.

    A queue whose threads do not run here is left alone: it is a copy made by a fork, and the parent
    delivers what is in it.
    """
    running = [thread for thread in threads if runs(thread)]
    if not running:
        return

    def hand_over(batch: Iterable[Any]) -> None:
        for item in batch:
            _move(item, new)

    for thread in running:
        if send:
            setattr(thread, send, hand_over)
        if hasattr(thread, "_pause"):
            thread._pause(drain=True)  # PostHog's newer consumers drop what they hold otherwise
        else:
            thread.pause()
        if batch_size:
            setattr(thread, batch_size, 0)  # not while it runs: it would go round without a pause
    if send:
        for _ in running:
            with contextlib.suppress(Full):
                old.put(WAKE, block=False)
    end = time.monotonic() + END_SECONDS
    for thread in running:
        thread.join(max(0.0, end - time.monotonic()))
    while True:
        try:
            item = old.get_nowait()
        except Empty:
            return
        _move(item, new)
        with contextlib.suppress(ValueError):  # an SDK's own wake-up, which was never counted
            old.task_done()


def _move(item: Any, new: NativeQueue) -> None:
    # Wake-ups of the SDK's own are bare objects.
    if not isinstance(item, dict) or WAKE.items() <= item.items():
        return
    try:
        new.put(item, block=False)
    except Exception as error:  # one item, and the rest must move
        new.log.error("libtelemetry: an event was lost when taking over: %r", error)
