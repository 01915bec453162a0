"""The C interface of the fleet, declared: nothing else.

What waits or calls back (the supervisor) goes through ``CDLL``, which gives the GIL away meanwhile;
what a worker says goes through ``PyDLL``: a few stores each, less than the GIL costs.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any, Callable

from .._native import CLOSED, INVALID, OK, TOO_LARGE, ConfigError, Native, load

__all__ = ["CLOSED", "INVALID", "OK", "TOO_LARGE", "Api", "ConfigError", "api"]

handle, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32

WorkerFn = ctypes.CFUNCTYPE(ctypes.c_int, handle, handle)
# With errno: the supervisor reads there why a fork failed.
ForkFn = ctypes.CFUNCTYPE(ctypes.c_int32, handle, use_errno=True)
PrepareFn = ctypes.CFUNCTYPE(ctypes.c_int, handle)
WatchFn = ctypes.CFUNCTYPE(None, handle, ctypes.c_int, handle)

# TELEMETRY_ITEM_*
DONE, FAILED, RETRIED, DEAD = range(4)
# TELEMETRY_WORKER_*
DUMPS, RUNNING, MDQ_CONNECTED, MDC_CONNECTED = 8, 16, 32, 64

# The numbers that telemetry_worker_count knows without being told.
COUNTERS = (
    "claimed",
    "done",
    "failed",
    "retried",
    "dead",
    "bytes_in",
    "bytes_out",
    "events",
    "decoding_errors",
    "published",
    "processing_errors",
)


def _declare(library: Any, name: str, *argtypes: Any, restype: Any = ctypes.c_int32) -> Any:
    function = getattr(library, name)
    function.argtypes = argtypes
    function.restype = restype
    return function


class Api:
    """The functions, of the library that the package loads."""

    def __init__(self, native: Native) -> None:
        path = None if native.path == "this program" else native.path
        waits, quick = ctypes.CDLL(path), ctypes.PyDLL(path)
        text, pointer = ctypes.c_char_p, ctypes.POINTER
        self._native = native
        try:
            self.new = _declare(waits, "telemetry_fleet_new", text, pointer(handle))
        except AttributeError:
            raise ConfigError(
                f"{native.path}: this library has no fleet; install library and package "
                "from the same release (fleets are for Linux)"
            ) from None
        self.add = _declare(
            waits, "telemetry_fleet_add", handle, text, number, text, WorkerFn, handle
        )
        self.add_command = _declare(
            waits, "telemetry_fleet_add_command", handle, text, number, text, pointer(text)
        )
        self.set_fork = _declare(waits, "telemetry_fleet_set_fork", handle, ForkFn, handle)
        self.prepare = _declare(waits, "telemetry_fleet_prepare", handle, PrepareFn, handle)
        self.watch = _declare(waits, "telemetry_fleet_watch", handle, ctypes.c_int, WatchFn, handle)
        self.run = _declare(waits, "telemetry_fleet_run", handle)
        self.stop = _declare(waits, "telemetry_fleet_stop", handle, text, number)
        self.resize = _declare(waits, "telemetry_fleet_resize", handle, text, number)
        self.free = _declare(waits, "telemetry_fleet_free", handle, restype=None)
        self._status = _declare(waits, "telemetry_fleet_status", handle, text, size, pointer(size))
        self._read = _declare(waits, "telemetry_scoreboard_read", text, text, size, pointer(size))

        def worker(name: str, *argtypes: Any, restype: Any = None) -> Any:
            return _declare(quick, f"telemetry_worker_{name}", *argtypes, restype=restype)

        self.current = worker("current", restype=handle)
        self.ready = worker("ready", handle)
        self.beat = worker("beat", handle)
        self.stopping = worker("stopping", handle, restype=ctypes.c_int)
        self.paused = worker("paused", handle, restype=ctypes.c_int)
        self.stop_fd = worker("stop_fd", handle, restype=ctypes.c_int)
        self.slot = worker("slot", handle, restype=number)
        self.incarnation = worker("incarnation", handle, restype=ctypes.c_uint64)
        self.item_begin = worker("item_begin", handle, text, number, restype=ctypes.c_uint64)
        self.item_end = worker("item_end", handle, ctypes.c_uint64, ctypes.c_int32)
        u64 = ctypes.c_uint64
        self.lease = worker("lease", handle, u64, u64, number, restype=ctypes.c_int)
        self.count = worker("count", handle, number, u64)
        self.counter = worker("counter", handle, text, restype=ctypes.c_int32)
        self.flag = worker("flag", handle, number, ctypes.c_int)
        self.lag = worker("lag", handle, number)
        self._trace = worker("trace", handle, number, text, size, restype=size)

    def error_text(self, status: int) -> str:
        """What the last call that failed said."""
        return self._native.error_text(status)

    def check(self, status: int) -> None:
        """Raises ConfigError for what was refused, OSError for what the system refused."""
        if status == INVALID:
            raise ConfigError(self.error_text(status))
        if status != OK:
            raise OSError(self.error_text(status))

    def status(self, fleet: Any) -> Any:
        """The status of a fleet of this thread; None from another one."""
        return self._json(lambda *buffer: self._status(fleet, *buffer))

    def read(self, path: str) -> Any:
        """The status that a scoreboard shows. Raises OSError if it is none."""
        return self._json(lambda *buffer: self._read(path.encode(), *buffer))

    def _json(self, fill: Callable[..., int]) -> Any:
        cap, length = 16384, size()
        while True:
            buffer = ctypes.create_string_buffer(cap)
            status = fill(buffer, cap, ctypes.byref(length))
            if status == OK:
                return json.loads(buffer.value)
            if status == INVALID:
                return None
            if status != TOO_LARGE:
                raise OSError(self.error_text(status))
            # It may have grown again by then.
            cap = length.value + 4096

    def trace(self, worker: Any, which: int) -> str:
        """0 traceparent, 1 tracestate, 2 baggage; "" without one."""
        cap = self._trace(worker, which, None, 0) + 1
        buffer = ctypes.create_string_buffer(cap)
        self._trace(worker, which, buffer, cap)
        return buffer.value.decode("utf-8", "replace")


_api: Api | None = None


def api() -> Api:
    """The fleet's functions, loaded at the first call. Raises LibraryNotFound, ConfigError."""
    global _api
    if _api is None:
        _api = Api(load())
    return _api
