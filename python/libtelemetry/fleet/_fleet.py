"""A fleet of Python workers: what the user says, as the C interface takes it.

Invariants:
- The supervisor is the library's; no Python runs in its loop but the callbacks here, which never
  let an exception out and never wait.
- A fleet belongs to the process and thread that made it. Other threads' requests are handed to it
  through a descriptor that its loop watches; a forked worker has no part in it.
- What is decided by whether there are threads ("auto") is decided when a worker is added, and once
  more when the fleet begins: then it is made anew with the same groups if that changes the answer.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import math
import os
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Callable, NamedTuple, Union

from .._native import ConfigError
from . import _child, _first, _target, _trace
from ._api import Api, ForkFn, PrepareFn, WatchFn, WorkerFn, api
from ._status import summary
from ._target import Spec

Target = Union[str, type, Callable[..., Any]]

MODES = ("auto", "fork", "zygote", "exec")

# Said in seconds here, in milliseconds in JSON.
_SECONDS = (
    "grace",
    "stale",
    "start_deadline",
    "item_deadline",
    "crash_window",
    "backoff_base",
    "backoff_cap",
    "healthy_after",
    "intensity_window",
    "max_age",
    "dump",
    "kill",
)
_DEFAULTS = {"stale_ms": 30_000, "grace_ms": 25_000}


class _Group(NamedTuple):
    name: str
    target: Any
    workers: int
    kwargs: dict[str, Any]
    limits: dict[str, Any]


class Fleet:
    """Worker processes that one supervisor, this process, starts, watches, restarts and stops.

    Seconds everywhere; what is left out comes from ``TELEMETRY_FLEET_*`` of the environment, else
    it is the library's default. Keywords that are not named here go to the library as they are.

    mode: "fork" forks workers from this process, "zygote" from a clean process that imports what
    import strings name, "exec" runs a Python of its own for each; "auto" forks unless there are
    threads. health: "HOST:PORT", ":PORT" or "unix:/PATH" of the health endpoint. auto_instrument:
    each worker runs OpenTelemetry's automatic instrumentation first. inline: `run` runs one worker
    in this process, without a supervisor: for a debugger.

    Raises ConfigError, which names key, value and what is allowed; make it in the main thread.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        health: str | None = None,
        grace: float | None = None,
        mode: str = "auto",
        stale: float | None = None,
        start_deadline: float | None = None,
        item_deadline: float | None = None,
        crash_limit: int | None = None,
        crash_window: float | None = None,
        backoff_base: float | None = None,
        backoff_cap: float | None = None,
        healthy_after: float | None = None,
        on_intensity: str | None = None,
        require_probe: bool | None = None,
        runtime_dir: str | os.PathLike[str] | None = None,
        max_workers: int | None = None,
        surge: int | None = None,
        allow_threads: bool | None = None,
        counters: Sequence[str] | None = None,
        auto_instrument: bool = False,
        inline: bool = False,
        **keys: Any,
    ) -> None:
        check_place("a Fleet", auto_instrument)
        if mode not in MODES:
            raise ConfigError(f"mode is {mode!r}; allowed: {', '.join(MODES)}")
        said = dict(
            name=name,
            health=health,
            grace=grace,
            mode=mode,
            stale=stale,
            start_deadline=start_deadline,
            item_deadline=item_deadline,
            crash_limit=crash_limit,
            crash_window=crash_window,
            backoff_base=backoff_base,
            backoff_cap=backoff_cap,
            healthy_after=healthy_after,
            on_intensity=on_intensity,
            require_probe=require_probe,
            runtime_dir=os.fspath(runtime_dir)
            if isinstance(runtime_dir, os.PathLike)
            else runtime_dir,
            max_workers=max_workers,
            surge=surge,
            allow_threads=allow_threads,
            # Text is a sequence, and none of names.
            counters=list(counters)
            if isinstance(counters, Sequence) and not isinstance(counters, (str, bytes))
            else counters,
            inline=inline or None,
            **keys,
        )
        self._api: Api = api()
        self._mode = mode
        self._auto_instrument = auto_instrument
        self._inline = inline
        self._config = _json_keys(said)
        self._groups: list[_Group] = []
        self._owner = (os.getpid(), threading.get_ident())
        self._running = False
        self._wishes: collections.deque[Callable[[], None]] = collections.deque()
        self._wake: tuple[int, int] | None = None
        self._watches: dict[int, Any] = {}
        self._first: _first.Pair | None = None
        if mode == "zygote":
            self._await_first()
        self._make()

    # ---- the C side of it ----

    def _make(self) -> None:
        """Make the C fleet, with no groups yet."""
        before = _boards()
        handle = ctypes.c_void_p()
        config = _encode(self._config)
        self._api.check(self._api.new(config, ctypes.byref(handle)))
        self._handle: Any = handle
        new = sorted(_boards() - before)
        self._board = new[0] if new else -1
        # Callbacks live as long as the fleet may call them.
        self._kept: list[Any] = []
        self._memory: list[int] = []
        board = _identity(self._board)
        self._free = weakref.finalize(
            self, _free, self._api, handle, self._memory, (self._board, board), os.getpid()
        )
        # The operating system ends the rest at exit, and workers end with their supervisor.
        self._free.atexit = False
        fork = ForkFn(_fork)
        prepare = PrepareFn(_prepare_of(weakref.ref(self)))
        self._kept += [fork, prepare]
        self._api.check(self._api.set_fork(handle, fork, None))
        self._api.check(self._api.prepare(handle, prepare, None))

    def _add(self, group: _Group, how: str) -> None:
        spec, limits = plan(group, self._config, self._auto_instrument, how)
        spec = spec._replace(first=self._first)
        if how == "exec":
            memory = _target.pack(spec)
            self._memory.append(memory)
            self._add_program(group.name, group.workers, limits, memory)
            return
        way = "inline" if self._inline else "fork"

        def body(_worker: Any, _user: Any) -> int:
            try:
                return _child.work(spec, way)
            except BaseException:  # nothing may pass through C
                with contextlib.suppress(BaseException):
                    traceback.print_exc()
                    _child.flush_output()
                return 70

        function = WorkerFn(body)
        self._kept.append(function)
        name = group.name.encode()
        self._api.check(
            self._api.add(self._handle, name, group.workers, _encode(limits), function, None)
        )

    def _add_program(self, name: str, count: int, limits: dict[str, Any], memory: int) -> None:
        """Workers whose `Spec` is in that memory file, which stays open as long as the fleet."""
        kept = limits.get("keep_fds", self._config.get("keep_fds", []))
        limits = {**limits, "keep_fds": [*kept, memory, *(self._first or ())]}
        argv = program("--worker", str(memory), name)
        array = (ctypes.c_char_p * (len(argv) + 1))(*map(os.fsencode, argv), None)
        self._api.check(
            self._api.add_command(self._handle, name.encode(), count, _encode(limits), array)
        )

    def _start_packed(self, name: str, limits: dict[str, Any], memory: int) -> None:
        """One worker for a `ProcessManager`; `memory` is the fleet's from here on."""
        self._memory.append(memory)
        self._add_program(name, 1, limits, memory)
        self._groups.append(_Group(name, "", 1, {}, limits))

    def _how(self) -> str:
        if self._mode != "auto":
            return self._mode
        if self._inline or self._config.get("allow_threads") or _threads() <= 1:
            return "fork"
        return "exec"

    # ---- for the user ----

    def start_worker(
        self,
        name: str,
        target: Target,
        count: int = 1,
        kwargs: dict[str, Any] | None = None,
        **limits: Any,
    ) -> None:
        """Add `count` workers under a name of their own: at once if the fleet runs, else when it
        does.

        `target` is a function, a coroutine function, a class with start() and stop(), or an import
        string ("package.module:name") for one, called with `kwargs`. A function whose first
        parameter is not in `kwargs`, and a class whose constructor has one named ``worker``, get
        the `Worker`, and say themselves when they are ready; others are ready at their start.

        `limits` are for these workers alone: stale, start_deadline, item_deadline, max_items,
        max_age, max_rss, jitter_pct, crash_limit, crash_window, backoff_base, backoff_cap,
        healthy_after, dump, kill, permanent_exit, ready ("auto", "start" or "call"), keep_fds.

        They work under the trace context that is current here. Raises ConfigError.
        """
        if os.getpid() != self._owner[0]:
            raise ConfigError("a worker cannot add workers to its own fleet")
        if not isinstance(kwargs or {}, Mapping):
            raise ConfigError(f"kwargs is {kwargs!r}; allowed: a dict of arguments by name")
        kwargs = dict(kwargs or {})
        if isinstance(target, str):
            _target.check_string(target)
        else:
            _target.describe(target, kwargs)
        how = self._how()
        if how in ("fork", "zygote") and threading.current_thread() is not threading.main_thread():
            raise ConfigError(
                f"start_worker({name!r}) in thread {threading.current_thread().name!r}: mode "
                f"{how!r} forks, which is for the main thread alone; allowed: to call it there, or "
                "mode 'exec'"
            )
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 0xFFFF_FFFF:
            raise ConfigError(f"count is {count!r}; allowed: a whole number from 0")
        words = _json_keys({**_trace.capture(str(name)), **limits})
        group = _Group(str(name), target, count, kwargs, words)
        self._add(group, how)
        self._groups.append(group)

    def run(self) -> int:
        """Run until it has ended; the status to exit with.

        0: all ended in time, 1: one had to be killed, 69: no health endpoint although it is
        required, 70: too many restarts. TERM and INT (Ctrl-C) end it. Raises ConfigError if it
        cannot begin as it was told.
        """
        if self._mode == "auto" and not self._running and self._how() == "exec":
            self._make_again("exec")
        self._open_ear()
        self._running = True
        if self._first is not None:
            self.watch(self._first[0], self._hear_first)
        _child.flush_output()
        try:
            code = int(self._api.run(self._handle))
        finally:
            self._running = False
            self._close_ear()
        why = self._first and _first.heard(self._first)
        if why:
            raise ConfigError(why)
        if code == 64:
            raise ConfigError(self._api.error_text(1))
        if code == 71:
            raise OSError(self._api.error_text(1))
        return code

    def status(self) -> dict[str, Any]:
        """The status document, as the health endpoint's /status has it; any thread may ask."""
        found: dict[str, Any] | None = None
        if self._is_here():
            found = self._api.status(self._handle)
        if found is None:
            found = self._api.read(f"/proc/self/fd/{self._board}")
        return found

    def get_status(self, name: str) -> dict[str, Any]:
        """Of the workers of that name: alive, pid, pids, processed, errors, decoding_errors,
        published, processing_errors, mdq_connected, mdc_connected, restarts, running, ready,
        states.

        Raises KeyError for a name that there is not.
        """
        self._known(name)
        return summary(self.status(), name)

    def stop_process(self, name: str, timeout: float | None = None) -> None:
        """Ask the workers of that name to end within `timeout` seconds (None: grace); returns at
        once.
        """
        self._known(name)
        grace = self._grace_ms(timeout)
        self._wish(lambda: self._api.stop(self._handle, name.encode(), grace))

    def stop_all(self, timeout: float | None = None) -> None:
        """The same for all, all at once; `run` returns then."""
        grace = self._grace_ms(timeout)
        self._wish(lambda: self._api.stop(self._handle, None, grace))

    def resize(self, name: str, n: int) -> None:
        """Have `n` workers of that name; returns at once."""
        self._known(name)
        if not 0 <= n <= 0xFFFF_FFFF:
            raise ConfigError(f"n is {n!r}; allowed: a whole number from 0")
        self._wish(lambda: self._api.resize(self._handle, name.encode(), n))

    def watch(self, fd: int, callback: Callable[[int], object] | None) -> None:
        """Have ``callback(fd)`` called in the supervisor's loop whenever `fd` is readable; None: no
        more.

        It may call every method but `run`, and must not wait.
        """
        if callback is None:
            self._api.check(self._api.watch(self._handle, fd, WatchFn(0), None))
            self._watches.pop(fd, None)
            return

        def watch(_fleet: Any, number: int, _user: Any) -> None:
            try:
                callback(number)
            except BaseException:  # nothing may pass through C
                with contextlib.suppress(BaseException):
                    traceback.print_exc()

        function = WatchFn(watch)
        self._api.check(self._api.watch(self._handle, fd, function, None))
        # The one before may be what is running now.
        self._kept.append(function)
        self._watches[fd] = function

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free()

    # ---- requests of other threads ----

    def _is_here(self) -> bool:
        return self._owner == (os.getpid(), threading.get_ident())

    def _known(self, name: str) -> None:
        names = [group.name for group in self._groups]
        if name not in names:
            raise KeyError(
                f"no workers are named {name!r}; there are: {', '.join(names) or 'none'}"
            )

    def _grace_ms(self, timeout: float | None) -> int:
        if timeout is None:
            return _number(self._config, "grace_ms")
        return min(0xFFFF_FFFF, max(0, round(timeout * 1000)))

    def _wish(self, call: Callable[[], int]) -> None:
        if self._is_here():
            self._api.check(call())
            return
        wake = self._wake
        if os.getpid() != self._owner[0] or wake is None:
            raise RuntimeError("the fleet does not run; another thread can only ask one that does")

        def later() -> None:
            self._api.check(call())

        self._wishes.append(later)
        os.write(wake[1], b"\0")

    def _open_ear(self) -> None:
        ear, mouth = os.pipe()
        os.set_blocking(ear, False)

        def hear(fd: int) -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 4096)
            while self._wishes:
                self._wishes.popleft()()

        self.watch(ear, hear)
        self._wake = (ear, mouth)

    def _close_ear(self) -> None:
        if self._wake is None:
            return
        wake, self._wake = self._wake, None
        with contextlib.suppress(ConfigError, OSError):
            self.watch(wake[0], None)
        for fd in wake:
            os.close(fd)

    def _await_first(self) -> None:
        """Have `run` raise ConfigError if the first process that loads the targets cannot."""
        if self._first is not None:
            return
        self._first = _first.pair()
        weakref.finalize(self, _close_first, self._first, os.getpid()).atexit = False

    def _hear_first(self, fd: int) -> None:
        self.watch(fd, None)
        if self._first is not None and _first.heard(self._first):
            self.stop_all()

    def _make_again(self, how: str) -> None:
        """Threads were started since the groups were added: the same, in another way."""
        watches = dict(self._watches)
        self._free()
        self._make()
        for group in self._groups:
            self._add(group, how)
        for fd, function in watches.items():
            self._kept.append(function)
            self._api.check(self._api.watch(self._handle, fd, function, None))


def check_place(what: str, auto_instrument: bool) -> None:
    """Raises ConfigError where neither a fleet nor a manager can be made."""
    if _target.loading_main:
        raise ConfigError(
            f"the main program makes {what} when it is imported, and a worker imports it to find "
            'its target: put that below `if __name__ == "__main__":`'
        )
    if auto_instrument and not _trace.can_instrument():
        raise ConfigError(
            "auto_instrument is True, and OpenTelemetry's automatic instrumentation is not there: "
            "pip install opentelemetry-distro opentelemetry-exporter-otlp"
        )


def plan(
    group: _Group, config: dict[str, Any], auto_instrument: bool, how: str
) -> tuple[Spec, dict[str, Any]]:
    """What a group's workers are told, and what the library is told of them."""
    limits = dict(group.limits)
    known = None
    if not isinstance(group.target, str):
        known = _target.describe(group.target, group.kwargs)
    stale = limits.get("stale_ms", _number(config, "stale_ms"))
    if known is not None and not known.takes and not known.is_async:
        # It cannot beat.
        stale = limits["stale_ms"] = 0
    elif how == "exec":
        # A program's beats are looked at only if that is said.
        limits["stale_ms"] = stale
    ready = limits.get("ready", config.get("ready", "auto"))
    if ready in ("auto", "call"):
        # The worker's side says so in any case, for targets that do not.
        limits["ready"] = "call"
    spec = Spec(
        name=group.name,
        target=group.target,
        kwargs=group.kwargs,
        stale=stale / 1000 if isinstance(stale, int) else 0.0,
        ready=ready,
        grace=_number(config, "grace_ms") / 1000,
        item_deadline=_ms(limits.get("item_deadline_ms", config.get("item_deadline_ms"))),
        counters=tuple(config.get("counters", ())),
        auto_instrument=auto_instrument,
        fleet=str(config.get("name", os.environ.get("TELEMETRY_FLEET_NAME") or "fleet")),
    )
    return spec, limits


def program(*arguments: str) -> list[str]:
    """The command that runs this package with the interpreter, and the options, of this process."""
    # -X, -W, -I, ... are the workers', too.
    options: Any = getattr(subprocess, "_args_from_interpreter_flags", list)()
    # By path and not by -m: it need not be on the path of an interpreter that has just started.
    main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    return [sys.executable, *options, main, *arguments]


# ---- callbacks that need no fleet ----


def _fork(_user: Any) -> int:
    try:
        return _child.fork()
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EAGAIN)
    except BaseException:  # an audit hook, say; nothing may pass through C
        with contextlib.suppress(BaseException):
            traceback.print_exc()
        ctypes.set_errno(errno.EAGAIN)
    return -1


def _prepare_of(fleet: weakref.ref[Fleet]) -> Callable[[Any], int]:
    def prepare(_user: Any) -> int:
        mine = fleet()
        if mine is None:
            return 0
        target: Any = None
        try:
            for group in mine._groups:
                target = group.target
                _target.describe(_target.resolve(target), group.kwargs)
            if _threads() > 1 and not mine._config.get("allow_threads"):
                names = ", ".join(t.name for t in threading.enumerate()[1:]) or "not Python's"
                raise ConfigError(
                    f"what the zygote imported for {target!r} started threads ({names}), beside "
                    "which no worker can be forked: use mode 'exec', or start them in the workers"
                )
            _first.could(mine._first)
            return 0
        except BaseException as error:
            with contextlib.suppress(BaseException):
                _first.could_not(mine._first, target, error)
            return _child.CONFIG
        finally:
            with contextlib.suppress(BaseException):
                _child.flush_output()

    return prepare


def _close_first(fds: _first.Pair, pid: int) -> None:
    if os.getpid() == pid:
        _first.close(fds)


def _free(native: Api, handle: Any, memory: list[int], board: tuple[int, object], pid: int) -> None:
    if os.getpid() != pid:
        return
    native.free(handle)
    # Workers' slots live as long as a process, so the library leaves it open.
    if board[1] is not None and _identity(board[0]) == board[1]:
        os.close(board[0])
    while memory:
        os.close(memory.pop())


# ---- what the user says, as JSON ----


def _json_keys(said: dict[str, Any]) -> dict[str, Any]:
    """Keys and units of the C configuration; what is None was not said."""
    keys: dict[str, Any] = {}
    for name, value in said.items():
        if value is None:
            continue
        if name in _SECONDS:
            name = f"{name}_ms"
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                value = round(value * 1000) if math.isfinite(value) else str(value)
        if name in keys:
            raise ConfigError(f"{name} is given twice, in seconds and in milliseconds")
        keys[name] = value
    return keys


def _encode(keys: dict[str, Any]) -> bytes:
    import json

    try:
        return json.dumps(keys, allow_nan=False).encode()
    except (TypeError, ValueError):
        for name, value in keys.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{name} is {value!r}, which is no JSON: {error}") from None
        raise


def _number(config: dict[str, Any], key: str) -> int:
    """A number of the fleet's configuration, wherever it comes from."""
    said = config.get(key, os.environ.get(f"TELEMETRY_FLEET_{key.upper()}"))
    try:
        return int(said) if said not in (None, "") else _DEFAULTS[key]
    except (TypeError, ValueError):  # the library refuses it, and says so
        return _DEFAULTS[key]


def _ms(value: Any) -> float | None:
    return value / 1000 if isinstance(value, int) and value > 0 else None


# ---- this process ----


def _identity(fd: int) -> object:
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _threads() -> int:
    """Threads of this process, without the library's own, which end before a fork."""
    count = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as comm:
            count += comm.read().rstrip("\n") != "telemetry"
    return count


def _boards() -> set[int]:
    """Descriptors of scoreboards that this process holds."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:libtelemetry-fleet "):
                found.add(int(fd))
    return found
