"""A worker's side: what it says of itself, and what it is asked.

Invariants:
- One worker a process. `current_worker` is it only there: not in a child that a worker forks, and
  not in another process.
- Nothing here polls: who waits for the stop waits for a descriptor.
- Calls are for one thread at a time: those of several threads lose counts, and nothing else.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._api import (
    COUNTERS,
    DEAD,
    DONE,
    FAILED,
    MDC_CONNECTED,
    MDQ_CONNECTED,
    RETRIED,
    RUNNING,
    Api,
    api,
)

if TYPE_CHECKING:
    import asyncio

# What a worker's object may count in attributes of its own, and the counters that show it.
_SAMPLED = {
    "processed": COUNTERS.index("done"),
    "errors": COUNTERS.index("failed"),
    "decoding_errors": COUNTERS.index("decoding_errors"),
    "published": COUNTERS.index("published"),
    "processing_errors": COUNTERS.index("processing_errors"),
}
_FLAGS = {
    "running": RUNNING,
    "mdq_connected": MDQ_CONNECTED,
    "mdc_connected": MDC_CONNECTED,
}
_MOST = 0xFFFF_FFFF


class Stopping:
    """Whether the worker is to stop: take nothing new, finish or give back what is open, return."""

    def __init__(self, native: Api, worker: Any, every: float) -> None:
        self._api = native
        self._worker = worker
        self._every = every
        self._told = False

    def is_set(self) -> bool:
        """Whether it is to stop."""
        return self._told or bool(self._api.stopping(self._worker))

    def fileno(self) -> int:
        """A descriptor that becomes readable then, and stays so; not to be read or closed."""
        return int(self._api.stop_fd(self._worker))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it, at most `timeout` seconds; whether it is to stop. Beats meanwhile."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            self._api.beat(self._worker)
            left = self._every if end is None else end - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, self._every) * 1000)
        return True

    def _tell(self) -> None:
        """From a signal handler: it is to stop, whoever says so."""
        self._told = True
        os.write(self.fileno(), (1).to_bytes(8, "little"))


class AsyncStopping(Stopping):
    """The same for coroutines: ``await worker.stopping``, or ``wait()`` like an `asyncio.Event`."""

    _event: asyncio.Event

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        self._event = asyncio.Event()

        def come() -> None:
            # It stays readable.
            loop.remove_reader(self.fileno())
            self._event.set()

        loop.add_reader(self.fileno(), come)

    async def wait(self) -> bool:  # type: ignore[override]  # an asyncio.Event's wait is awaited
        """Wait for it."""
        await self._event.wait()
        return True

    def __await__(self) -> Generator[Any, None, bool]:
        return self.wait().__await__()


class Item:
    """One piece of work, open as long as its ``with`` block runs. An exception makes it failed."""

    def __init__(self, worker: Worker, doing: str, deadline: float | None) -> None:
        self._worker = worker
        self._doing = doing
        self._outcome = DONE
        self._number = 0
        self._within = deadline
        self._ends = float("inf")

    def fail(self) -> None:
        """It was not done: counts as failed."""
        self._outcome = FAILED

    def retry(self) -> None:
        """It will be tried again: counts as retried."""
        self._outcome = RETRIED

    def dead(self) -> None:
        """It was given up: counts as dead."""
        self._outcome = DEAD

    def __enter__(self) -> Item:
        self._worker._begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self._outcome == DONE:
            self._outcome = FAILED
        self._worker._end(self)


class Worker:
    """This process, as a worker of a fleet."""

    stopping: Stopping
    """Whether it is to stop: ``is_set()``, ``wait(timeout)``; can be waited for beside sockets."""
    traceparent: str
    """The W3C trace context that it works under; "" without one."""
    tracestate: str
    """Goes with it."""
    baggage: str
    """Goes with it."""

    def __init__(
        self,
        native: Api,
        pointer: Any,
        *,
        counters: Sequence[str] = (),
        item_deadline: float | None = None,
        every: float = 5.0,
    ) -> None:
        self._api = native
        self._every = every
        self._pointer = pointer
        self._own_counters = tuple(counters)
        self._numbers: dict[str, int] = {}
        self._item_deadline = item_deadline or None
        self._open: list[Item] = []
        self._shown: Item | None = None
        self._object: Any = None
        self._seen: dict[str, int] = {}
        self._unread: set[str] = set()
        self._sampled_at = 0.0
        # Reentrant: a signal handler of the worker's may beat.
        self._sampling = threading.RLock()
        self._asked_for = False
        self.traceparent, self.tracestate, self.baggage = (
            native.trace(pointer, i) for i in (0, 1, 2)
        )
        self._make_stopping()

    def _make_stopping(self) -> None:
        self.stopping = Stopping(self._api, self._pointer, self._every)

    @property
    def slot(self) -> int:
        """The number of its slot, from 0: no other live worker of the fleet has it."""
        return int(self._api.slot(self._pointer))

    @property
    def incarnation(self) -> int:
        """Which worker of that slot it is: 1, 2, 3, ..."""
        return int(self._api.incarnation(self._pointer))

    @property
    def paused(self) -> bool:
        """Whether it is asked to take nothing new for the time being."""
        return bool(self._api.paused(self._pointer))

    def ready(self) -> None:
        """It can work: until then the start's deadline runs."""
        self._api.ready(self._pointer)

    def beat(self) -> None:
        """It gets on. Call it from the loop that does the work, a few times in each `stale`
        seconds.
        """
        self._api.beat(self._pointer)
        if self._object is not None and time.monotonic() - self._sampled_at >= 1.0:
            self._sample()

    def item(self, doing: str = "", deadline: float | None = None) -> Item:
        """One piece of work, for a ``with`` block; `doing` is shown, cut to 64 bytes.

        The worker is stopped if the block takes longer than `deadline` seconds (None: as
        configured). Coroutines may have several open: the one whose time is over first is the one
        that is shown.
        """
        return Item(self, str(doing), deadline)

    def count(self, name: str, n: int = 1) -> None:
        """Add `n` to a counter. Raises ValueError for one that there is not, or a negative `n`."""
        number = self._numbers.get(name)
        if number is None:
            number = self._api.counter(self._pointer, name.encode())
            if number < 0:
                allowed = ", ".join(COUNTERS + self._own_counters)
                raise ValueError(f"counter {name!r} is not known; allowed: {allowed}")
            self._numbers[name] = number
        if n < 0:
            raise ValueError(f"counter {name!r}: {n} is negative; a counter only grows")
        self._api.count(self._pointer, number, n)

    def lease(self, token: int, lo: int = 0, n: int = 0) -> bool:
        """It has claimed `n` items from `lo` on under `token`; `n` 0: it gives that claim back.

        False: it has 8 open, as many as there is room for.
        """
        if not 0 < token <= 0xFFFF_FFFF_FFFF_FFFF or not 0 <= n <= _MOST:
            raise ValueError(
                f"token {token}, n {n}: allowed are 1 to 2**64 - 1, and 0 to 2**32 - 1"
            )
        return bool(self._api.lease(self._pointer, token, lo, n))

    # ---- items ----

    def _begin(self, item: Item) -> None:
        within = item._within if item._within is not None else self._item_deadline
        if within:
            item._ends = time.monotonic() + within
        self._open.append(item)
        if self._shown is None or item._ends < self._shown._ends:
            self._show(item)

    def _show(self, item: Item) -> None:
        self._shown = item
        within = 0
        if item._ends != float("inf"):
            left = item._ends - time.monotonic()
            within = min(_MOST, max(1, round(left * 1000)))
        doing = item._doing.encode("utf-8", "replace").replace(b"\0", b" ")
        item._number = self._api.item_begin(self._pointer, doing, within)

    def _end(self, item: Item) -> None:
        if item not in self._open:
            return
        self._open.remove(item)
        if item is self._shown:
            self._shown = None
            self._api.item_end(self._pointer, item._number, item._outcome)
            if self._open:
                self._show(min(self._open, key=lambda other: other._ends))
        else:
            self._api.count(self._pointer, item._outcome + 1, 1)
        if self._object is not None and time.monotonic() - self._sampled_at >= 1.0:
            self._sample()

    # ---- a worker's object with counters of its own ----

    def _watch(self, thing: Any) -> None:
        """Show what that object counts in its own attributes."""
        self._object = thing
        self._seen = {}

    def _sample(self) -> None:
        self._sampled_at = time.monotonic()
        for name, number in _SAMPLED.items():
            value = self._read(name)
            with self._sampling:
                before = self._seen.get(name, 0)
                if isinstance(value, int) and value > before:
                    self._seen[name] = value
                    self._api.count(self._pointer, number, value - before)
        for name, bit in _FLAGS.items():
            value = self._read(name)
            if isinstance(value, (bool, int)):
                self._api.flag(self._pointer, bit, int(bool(value)))

    def _read(self, name: str) -> Any:
        """None, too, where a property of the user's raises: what is shown stays as it was."""
        try:
            return getattr(self._object, name, None)
        except Exception as error:
            if name not in self._unread:
                self._unread.add(name)
                kind = type(self._object).__name__
                sys.stderr.write(f"libtelemetry.fleet: {kind}.{name} cannot be read: {error!r}\n")
            return None


class AsyncWorker(Worker):
    """The same for coroutines. The loop beats by itself, and says how late it is."""

    stopping: AsyncStopping
    """Whether it is to stop: ``is_set()``, ``await worker.stopping``, ``await
    worker.stopping.wait()``.
    """

    def _make_stopping(self) -> None:
        self.stopping = AsyncStopping(self._api, self._pointer, self._every)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Beat in that loop, and hear the stop there."""
        self.stopping._listen(loop)
        every = min(1.0, self._every)

        def tick(due: float) -> None:
            late = max(0.0, loop.time() - due)
            self._api.lag(self._pointer, min(_MOST, round(late * 1e6)))
            self.beat()
            due = loop.time() + every
            loop.call_at(due, tick, due)

        tick(loop.time())


_current: Worker | None = None
_pid = 0


def _set_current(worker: Worker) -> None:
    global _current, _pid
    _current, _pid = worker, os.getpid()


def current_worker() -> Worker | None:
    """This process's worker: in a worker of a `Fleet` (an `AsyncWorker` in a coroutine), and in a
    program that ``telemetry fleet`` started. None in any other process, in children that a worker
    forks, too.
    """
    global _current, _pid
    if _pid != os.getpid():
        native = api()
        pointer = native.current()
        _current = Worker(native, pointer) if pointer else None
        _pid = os.getpid()
    if _current is not None:
        _current._asked_for = True
    return _current
