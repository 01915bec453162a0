"""The client: one forwarded call a method. No thread, no lock, and no need to know of a fork."""

from __future__ import annotations

import ctypes
import json
import operator
import os
import time
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from . import _exit, _wait
from ._accelerator import Queue
from ._encode import _default, _encode_slowly, dumps, encode
from ._native import (
    CLOSED,
    INVALID,
    IO,
    OK,
    TOO_LARGE,
    ConfigError,
    Native,
    Stats,
    StatsStruct,
    load,
)

_Self = TypeVar("_Self", bound="Client")

# Made once: making a c_size_t costs half a call.
_SIZES = tuple(ctypes.c_size_t(n) for n in range(2048))

# The clients of this process, by the address of the native one. Fork children inherit it.
_live: dict[int, weakref.ref[Client]] = {}

# Mixed in because a method in C costs a quarter of one in Python: accelerator.md.
if TYPE_CHECKING:
    _Base = object
else:
    _Base = Queue or object


class Client(_Base):
    """One destination with its own queue.

    `endpoint` and `format` are the configuration keys of these names, `keys` all the others; nested
    ones are dicts: ``Client("http://collector:4318", batch={"max_events": 100})``. A key that is
    None counts as not given, and the environment (``TELEMETRY_<KEY>``) supplies what is missing.

    Threads: every method may be called from any thread. Fork: a client may be used at once in any
    child, however it was forked; the child starts with an empty queue. Pickling passes the
    configuration, credentials included: the other side opens an equal client, or uses the one that
    it already has.

    Raises ConfigError for a bad configuration and LibraryNotFound without the library.
    """

    __slots__ = ("__weakref__", "_config", "_exit_ms", "_handle", "_native", "_ours", "_put")

    def __init__(
        self, endpoint: str | None = None, *, format: str | None = None, **keys: Any
    ) -> None:
        config = {"endpoint": endpoint, "format": format, **keys}
        self._ours = True
        self._exit_ms = _exit_ms(keys)
        self._open(
            _as_json({key: value for key, value in config.items() if value is not None}),
            (keys.get("on_full") or os.environ.get("TELEMETRY_ON_FULL")) == "block",
        )
        _exit.install(_flush_all)

    def _open(self, config: str, may_wait: bool) -> None:
        native = load()
        handle = ctypes.c_void_p()
        status = native.open(config.encode(), ctypes.byref(handle))
        if status == INVALID:
            raise ConfigError(native.error_text(status))
        if status != OK or not handle.value:
            kind = OSError if status == IO else RuntimeError
            raise kind(f"the client could not be opened: {native.error_text(status)}")
        self._config = config
        self._bind(native, handle, may_wait)
        # Not at interpreter exit: there everything is flushed within one budget.
        weakref.finalize(self, _release, native, handle).atexit = False

    @classmethod
    def _wrap(
        cls: type[_Self],
        native: Native,
        handle: int,
        *,
        exit_ms: int = 1000,
        may_wait: bool = False,
        config: str = "{}",
    ) -> _Self:
        """A client around the ``telemetry_t *`` at address `handle`, which somebody else opened.

        `native` are the functions of the library that opened it. The handle stays the opener's, who
        keeps it valid as long as the client is used: the end of the client object neither flushes
        nor closes it, but `flush` and `shutdown` do what they do anywhere. When the interpreter
        ends it is flushed for at most `exit_ms` (0: not waited for). `may_wait` says that it was
        opened with ``on_full="block"``, so that enqueueing must give the GIL away. `config` is
        what is known of its configuration, as JSON: `repr` looks for ``endpoint`` there, and
        `libtelemetry.logging.Handler` for ``format``. It cannot be pickled.
        """
        if not handle:
            raise ValueError("handle is the address of an open telemetry_t, not 0")
        self = cls.__new__(cls)
        self._config = config
        self._ours = False
        self._exit_ms = exit_ms
        self._bind(native, ctypes.c_void_p(handle), may_wait)
        weakref.finalize(self, _forget, handle).atexit = False
        _exit.install(_flush_all)
        return self

    def _bind(self, native: Native, handle: ctypes.c_void_p, may_wait: bool) -> None:
        self._native = native
        self._handle = handle
        self._put = native.enqueue_waiting if may_wait else native.enqueue
        if Queue is not None:
            value, function = ctypes.addressof(handle), native.enqueue_address
            encoders = dumps, _default, _encode_slowly
            Queue._attach(self, handle, value, function, may_wait, *encoders)
        if handle.value:
            _live[handle.value] = weakref.ref(self)

    def enqueue(self, event: dict[str, Any] | str | bytes | bytearray | memoryview) -> bool:
        """Give one event to the queue; True if it was taken.

        `event` is one JSON object: a dict, or its text. In a dict, what JSON does not know becomes
        text (``datetime`` as ISO 8601, an Enum by its value, sets as lists, everything else by
        ``str``). Never blocks (``on_full="block"`` for at most ``block_timeout_ms``) and never
        raises for delivery trouble: False means that the queue is full, that the event is too large
        or that the client is shut down, each counted in `stats`. Text that is not JSON is found and
        counted later, as `Stats.invalid`.

        Raises TypeError if `event` is none of these types.
        """
        if type(event) is bytes:
            data = event
        elif type(event) is dict:
            data = encode(event)
        else:
            data = _as_bytes(event)
        try:
            return not self._put(self._handle, data, _SIZES[len(data)])
        except IndexError:
            return not self._put(self._handle, data, ctypes.c_size_t(len(data)))

    def upload(
        self,
        meta: dict[str, str | os.PathLike[str]],
        data: bytes | bytearray | memoryview | None = None,
    ) -> str:
        """Give Langfuse the bytes of a medium; the id to refer to it by, at once.

        `data` is the content, or None when ``meta["file"]`` names a regular file that has it. The
        rest of `meta` says what it is and where it belongs: ``contentType``; ``traceId`` (and
        ``observationId``) with the ``field`` ``input``, ``output`` or ``metadata``; or
        ``datasetId`` and ``datasetItemId`` with ``input``, ``expectedOutput`` or ``metadata``.

        The content is copied before it returns, with the GIL released; delivery is the library's,
        and `flush` waits for it. Returns "" when it was not taken: too large, no room left in
        ``media_max_bytes``, or the client is shut down.

        Raises ValueError if `meta` or `data` cannot be used (the text says what is allowed), and
        TypeError if `data` is none of these types.
        """
        if data is not None and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data is bytes, bytearray, memoryview or None, not {type(data).__name__}"
            )
        # c_char_p takes bytes alone.
        content = data if data is None or type(data) is bytes else bytes(data)
        room = ctypes.create_string_buffer(23)
        status = self._native.upload(
            self._handle, _as_json(meta).encode(), content, len(content or b""), room, 23
        )
        if status == INVALID:
            raise ValueError(self._native.error_text(status))
        return room.value.decode() if status == OK else ""

    def flush(self, timeout: float | None = 5.0) -> bool:
        """Send what this process has queued; True if nothing waits any more.

        Waits at most `timeout` seconds (None: without a limit that matters; 0: only looks), with
        the GIL released; under gevent other greenlets run meanwhile. True on a client that is shut
        down. Events of a parent or a child are theirs, and not waited for. A signal handler written
        in Python runs after the wait.

        With ``spool_dir`` it also looks for what dead processes left, and waits for that; not under
        gevent and not in `aflush`, which leave it to the client's own thread.
        """
        ms = _wait.millis(timeout)
        sleep = _wait.gevent_sleep()
        if sleep is None:
            return self._flush(ms)
        look = self._watch()
        for pause in _wait.pauses(ms):
            if look():
                return True
            sleep(pause)
        return look()

    async def aflush(self, timeout: float | None = 5.0) -> bool:
        """`flush` for asyncio: other tasks run meanwhile. Uses no thread."""
        from asyncio import sleep  # 40 ms that programs without asyncio need not pay

        look = self._watch()
        for pause in _wait.pauses(_wait.millis(timeout)):
            if look():
                return True
            await sleep(pause)
        return look()

    def shutdown(self, timeout: float | None = 5.0) -> bool:
        """Flush, then close the client here and in children forked later; True if nothing was left.

        Ends after at most `timeout` seconds, with a request in flight cut. From then on `enqueue`
        is False. May be called again. With ``spool_dir`` it does not wait for a collector that is
        down: what is left stays on disk for whoever comes next, and `Stats.left_in_spool` says how
        much that is.
        """
        ms = _wait.millis(timeout)
        sleep = _wait.gevent_sleep()
        if sleep is not None:
            end = time.monotonic() + ms / 1000
            self.flush(timeout)
            ms = max(0, int((end - time.monotonic()) * 1000))
        return self._native.shutdown(self._handle, ms) in (OK, CLOSED)

    def stats(self) -> Stats:
        """The counters of this client in this process, `Stats`."""
        room = StatsStruct()
        self._native.stats(self._handle, ctypes.byref(room), ctypes.sizeof(room))
        return Stats(*(getattr(room, name) for name in Stats._fields))

    def family(self) -> list[dict[str, Any]]:
        """What the processes that share this client's destination have counted, this one first.

        All of this user on this machine whose clients have the same ``name``, ``endpoint``,
        ``format`` and credentials: the workers of a server, whatever forked them, see each other.
        One dict a process: ``pid``, ``parent``, ``worker`` (0: none was set), ``alive``, ``self``,
        ``ended`` (it exited in order, or shut the client), ``generation``, ``age_ms``,
        ``updated_age_ms``, ``name`` (the process's) and the fields of `Stats` as they were
        ``updated_age_ms`` ago: others tell when their client's thread comes to rest, which is
        at least each ``batch.max_age_ms``, at a flush and at their end.

        A process is in it once it has sent or flushed something, or called this. One that was
        killed stays for an hour with ``alive`` False, or until its place is needed: there are 128.
        Empty for a disabled client, and where the runtime directory (``TELEMETRY_RUNTIME_DIR``)
        cannot be had. It reads and writes files; the GIL is released meanwhile.
        """
        length = ctypes.c_size_t(16_384)
        while True:
            # The family may grow between two calls.
            room = ctypes.create_string_buffer(length.value + 4096)
            status = self._native.family_stats(self._handle, room, len(room), ctypes.byref(length))
            if status != TOO_LARGE:
                break
        if status != OK:
            return []
        found: list[dict[str, Any]] = json.loads(room.value)
        return found

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        # Not the whole configuration: it may hold credentials.
        other = "endpoint from the environment" if self._ours else "opened by the server"
        endpoint = json.loads(self._config).get("endpoint", other)
        return f"<{type(self).__name__} {endpoint.split('?')[0].split('@')[-1]}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._ours:
            raise TypeError(
                f"a {type(self).__name__} that the server opened cannot be pickled: it belongs to "
                "this process and its forks"
            )
        return _equal_client, (type(self), self._config)

    def __copy__(self: _Self) -> _Self:
        return self

    def __deepcopy__(self: _Self, memo: dict[int, Any]) -> _Self:
        return self

    def _flush(self, ms: int) -> bool:
        return self._native.flush(self._handle, ms) in (OK, CLOSED)

    def _watch(self) -> Callable[[], bool]:
        """A function that says whether everything taken before now has left the queue.

        It asks for a flush seldom and else looks at the counters: each flush has the library try at
        once, so that asking in a loop would undo its pauses between attempts.
        """
        start = self.stats()
        ask = _wait.seldom()

        def look() -> bool:
            if ask() and self._flush(0):
                return True
            stats = self.stats()
            done = stats.delivered + stats.rejected + stats.invalid + stats.expired
            # What was adopted from a spool is in `done`, too, and must not pass for our own.
            events = done >= start.accepted + stats.recovered
            return events and stats.uploaded + stats.uploads_failed >= start.uploads

        return look


if Queue is not None:
    # What Queue does not do itself it leaves to the method in Python.
    Client._enqueue = Client.enqueue  # type: ignore[attr-defined]  # there only if Queue is
    Client.enqueue = Queue.enqueue  # type: ignore[method-assign]  # the same one


def _as_bytes(event: object) -> bytes:
    if isinstance(event, dict):
        return encode(event)
    if isinstance(event, str):
        # A lone surrogate has no UTF-8 form; the event matters more than that character.
        return event.encode("utf-8", "replace")
    if isinstance(event, (bytes, bytearray, memoryview)):
        return bytes(event)
    raise TypeError(
        f"an event is a dict, str, bytes, bytearray or memoryview, not {type(event).__name__}"
    )


def _as_json(config: dict[str, Any]) -> str:
    try:
        return json.dumps(config, default=os.fspath)
    except (TypeError, ValueError):
        for key, value in config.items():
            try:
                json.dumps(value, default=os.fspath)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{key}: cannot be written as JSON: {error}") from None
        raise


def _exit_ms(keys: dict[str, Any]) -> int:
    """How long the end of a child process may wait, as the library's own exit handler does."""
    value = keys.get("exit_timeout_ms", os.environ.get("TELEMETRY_EXIT_TIMEOUT_MS", ""))
    return int(value) if str(value).isdigit() else 1000


def _release(native: Native, handle: ctypes.c_void_p) -> None:
    """The client object is gone. The library flushes, within ``exit_timeout_ms``, and frees.

    In a cycle of garbage it is not gone yet: ``__del__`` methods run after this, and may use it. So
    the client's own handle becomes NULL, which the library refuses, instead of dangling.
    """
    address, handle.value = handle.value, None
    if address:
        _live.pop(address, None)
        native.free(address)


def _forget(handle: int) -> None:
    """The client object around somebody else's handle is gone; perhaps there is a newer one."""
    ref = _live.get(handle)
    if ref is not None and ref() is None:
        del _live[handle]


def _equal_client(kind: type[Client], config: str) -> Client:
    """Unpickle: the client of this process with that configuration, else a new one."""
    for ref in list(_live.values()):
        client = ref()
        if client is None or type(client) is not kind or not client._ours:
            continue
        if client._config == config:
            return client
    return kind(**json.loads(config))


def _flush_all(most_ms: int = 0xFFFF_FFFE) -> None:
    """Flush each client of this process within its ``exit_timeout_ms``, counted from now.

    Not one that this process has never used, whose counters are all 0: with a spool a flush would
    go and look for what others left, at the end of each process that merely imported something.
    """
    start = time.monotonic()
    for ref in list(_live.values()):
        client = ref()
        if client is not None and any(client.stats()):
            spent = int((time.monotonic() - start) * 1000)
            client._flush(max(0, min(client._exit_ms, most_ms) - spent))


def set_worker(number: int) -> None:
    """Say which worker of its server this process is: what ``"$worker"`` in ``context`` becomes.

    For the whole process and its later forks, whatever clients it has; 0 is none.

    Raises TypeError or ValueError for what is not a whole number from 0 to 65535, and
    LibraryNotFound without the library.
    """
    number = operator.index(number)
    if not 0 <= number <= 0xFFFF:
        raise ValueError(f"worker number {number}: 0 to 65535 are allowed")
    load().set_worker(number)
