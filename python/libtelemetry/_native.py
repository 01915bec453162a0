"""Find the shared library, check that it is ours, and declare its functions: nothing else.

The library is loaded twice on purpose. ``enqueue`` goes through ``PyDLL``, which keeps the GIL: it
never blocks, and giving the GIL away for 50 ns costs a lottery when other threads are busy. What
waits goes through ``CDLL``, which releases it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Callable, NamedTuple

ABI_VERSION = 1

# telemetry_status
OK, FULL, TOO_LARGE, CLOSED, TIMEOUT, INVALID, IO, INTERNAL = range(8)

if sys.platform == "darwin":
    _NAMES = ("libtelemetry.0.dylib", "libtelemetry.dylib")
else:
    _NAMES = ("libtelemetry.so.0", "libtelemetry.so")


class ConfigError(ValueError):
    """The configuration is not accepted; the text names the key."""


class LibraryNotFound(ImportError):
    """No usable libtelemetry; the text lists every place tried and what was wrong there."""


class Stats(NamedTuple):
    """Counters of one client in this process, zero again in each forked child.

    ``accepted + recovered = delivered + rejected + invalid + expired + queue_events`` at any time.
    """

    accepted: int = 0
    """Events that `enqueue` took."""
    delivered: int = 0
    """Events that the collector took."""
    rejected: int = 0
    """Events that the collector refused for good."""
    invalid: int = 0
    """Events that were not JSON."""
    expired: int = 0
    """Events given up after ``retry.max_age_s``."""
    dropped_full: int = 0
    """Events and uploads not taken because there was no room."""
    dropped_too_large: int = 0
    """Events larger than ``max_event_bytes``, and uploads larger than ``media_max_bytes``."""
    retries: int = 0
    """Requests sent again."""
    batches: int = 0
    """Requests that were answered with success."""
    bytes_in: int = 0
    """Bytes of the events taken."""
    bytes_out: int = 0
    """Bytes of the request bodies sent, after compression."""
    queue_events: int = 0
    """Events that wait now."""
    queue_bytes: int = 0
    """Bytes that wait now."""
    recovered: int = 0
    """Events adopted from the spool of a dead process."""
    left_in_spool: int = 0
    """Events that shutdown left on disk for the next start."""
    forks: int = 0
    """How many forks lie between the process that opened the client and this one."""
    sender_starts: int = 0
    """How often the sender thread was started."""
    circuit_open: int = 0
    """1 while the collector refuses our credentials, or cannot be reached, and is only probed."""
    last_success_unix_ms: int = 0
    """When the collector last took a batch; 0 if never."""
    unverified: int = 0
    """Events whose answer said success but could not be read."""
    spool_failures: int = 0
    """Times that events or an upload had to stay in memory: the spool could not be used."""
    corrupt: int = 0
    """Records and files in the spool of a dead process that could not be read."""
    evicted: int = 0
    """Events given up for room under ``spool_evict="oldest"``; they are in `expired`, too."""
    sampled_out: int = 0
    """Events that ``sample`` left out: `enqueue` returned True and did not take them."""
    uploads: int = 0
    """Uploads that `upload` took."""
    uploaded: int = 0
    """Uploads that this process delivered; with a spool dead processes' too."""
    uploads_failed: int = 0
    """Uploads that this process gave up."""
    media_bytes: int = 0
    """Bytes of memory that waiting uploads take in this process."""


class StatsStruct(ctypes.Structure):
    """``telemetry_stats_t``, which only grows at its end.

    The library is told our size: an older one leaves 0 in what it does not know, a newer one does
    not write what we do not.
    """

    _fields_ = [(name, ctypes.c_uint64) for name in Stats._fields]


class Native:
    """The functions of one loaded library."""

    path: str
    version: str

    def __init__(self, path: str | None) -> None:
        """Load `path`, or take what this program and its libraries export if that is None.

        Raises OSError or LibraryNotFound.
        """
        waits: Any = ctypes.CDLL(path)
        self.path = path or "this program"
        try:
            abi = waits.telemetry_abi_version
        except AttributeError:
            raise LibraryNotFound(
                f"{self.path}: not libtelemetry, it has no telemetry_abi_version"
            ) from None
        abi.restype = ctypes.c_uint32
        if abi() != ABI_VERSION:
            raise LibraryNotFound(
                f"{self.path}: has ABI version {abi()}, this package needs {ABI_VERSION}; "
                "install the library and the package from the same release"
            )

        # No argtypes: conversion by declared types costs as much again as the call. So the caller
        # passes ctypes instances and bytes, never a bare int, which would become a C int.
        self.enqueue: Callable[[Any, Any, Any], int] = ctypes.PyDLL(path).telemetry_enqueue
        self.enqueue_waiting: Callable[[Any, Any, Any], int] = waits.telemetry_enqueue
        self.enqueue_address = ctypes.cast(waits.telemetry_enqueue, ctypes.c_void_p).value

        handle, size, ms = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32
        self.open = _declare(waits.telemetry_open, ctypes.c_char_p, ctypes.POINTER(handle))
        self.flush = _declare(waits.telemetry_flush, handle, ms)
        self.shutdown = _declare(waits.telemetry_shutdown, handle, ms)
        self.free = _declare(waits.telemetry_free, handle, restype=None)
        self.stats = _declare(waits.telemetry_stats, handle, ctypes.POINTER(StatsStruct), size)
        self.upload = _declare(
            waits.telemetry_upload,
            handle,
            ctypes.c_char_p,
            ctypes.c_char_p,
            size,
            ctypes.c_char_p,
            size,
        )
        self.family_stats = _declare(
            waits.telemetry_family_stats, handle, ctypes.c_char_p, size, ctypes.POINTER(size)
        )
        self.set_worker = _declare(waits.telemetry_set_worker, ctypes.c_uint32)
        self._last_error = _declare(waits.telemetry_last_error, ctypes.c_char_p, size, restype=size)
        self._status_str = _declare(
            waits.telemetry_status_str, ctypes.c_int32, restype=ctypes.c_char_p
        )
        version: bytes = _declare(waits.telemetry_version, restype=ctypes.c_char_p)()
        self.version = version.decode()

    def error_text(self, status: int) -> str:
        """What the last failed call of this thread said, or the name of its status."""
        size = self._last_error(None, 0) + 1
        text = ctypes.create_string_buffer(size)
        self._last_error(text, size)
        detail = text.value.decode("utf-8", "replace")
        name: bytes = self._status_str(status) or b"unknown status"
        return detail or name.decode()


def _declare(function: Any, *argtypes: Any, restype: Any = ctypes.c_int32) -> Callable[..., Any]:
    function.argtypes = argtypes
    function.restype = restype
    return function  # type: ignore[no-any-return]


_loaded: Native | None = None


def load() -> Native:
    """The library of this process, loaded at the first call.

    ``LIBTELEMETRY_PATH`` decides alone when it is set; else the copy inside the package, else the
    system's. Raises LibraryNotFound.
    """
    global _loaded
    if _loaded is None:
        _loaded = _find()
    return _loaded


def _find() -> Native:
    tried = []
    for path in _candidates():
        # dlopen's own message for a missing file is clear, but for a directory it is not.
        if os.path.isdir(path):
            tried.append(f"{path}: is a directory")
            continue
        try:
            return Native(path)
        except LibraryNotFound as error:
            tried.append(str(error))
        except OSError as error:
            text = str(error)
            tried.append(text if path in text else f"{path}: {text}")
    raise LibraryNotFound("libtelemetry was not found; tried\n  " + "\n  ".join(tried))


def _candidates() -> list[str]:
    named = os.environ.get("LIBTELEMETRY_PATH")
    if named:
        # A bare name would make dlopen search the system instead of the working directory.
        return [os.path.abspath(named)]
    here = os.path.dirname(os.path.abspath(__file__))
    return [os.path.join(here, name) for name in _NAMES] + list(_NAMES)
