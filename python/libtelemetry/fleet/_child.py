"""A worker's process, from its first line of Python to its exit status.

Invariants:
- `work` gives an exit status and raises nothing: what user code raises is a traceback and status 1,
  ``sys.exit`` its own status.
- No atexit handler of the parent runs in a forked worker; those that its own code registers do.
- What the user's code may see is in place before it: trace context, environment, worker number.
- Threads that the worker's code left running and that are not daemons are waited for until the
  worker is to stop, and then for most of its grace, while it beats; then the process ends
  without them.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, Callable

from .._client import set_worker
from . import _first, _trace
from ._api import DUMPS, api
from ._target import Shape, Spec, describe, resolve
from ._worker import AsyncWorker, Worker, _set_current

# sysexits.h: the configuration is wrong, and another try is of no use.
CONFIG = 78


def flush_output() -> None:
    """Write out what is buffered; not being able to is nobody's end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed, or None
            continue


def fork() -> int:
    """`os.fork`, so that Python's own hooks run, with nothing in the child that is the parent's to
    write.
    """
    flush_output()
    frozen = gc.get_freeze_count()
    # What is frozen is not walked by the child's collector, so its pages stay shared.
    gc.freeze()
    pid = os.fork()
    if pid and not frozen:
        gc.unfreeze()
    return pid


def work(spec: Spec, how: str) -> int:
    """Be that worker: `how` is "fork", "exec" or "inline"; the exit status."""
    if how == "fork":
        # The parent's; what this process registers from here on is run at its end.
        atexit._clear()
    try:
        code = _guarded(lambda: _run(spec, how))
    finally:
        if how == "fork":
            _guarded(_farewell)
        flush_output()
    return code


def _farewell() -> int:
    atexit._run_exitfuncs()
    _trace.flush()
    return 0


def _guarded(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as end:
        return _status(end)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1


def _status(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return 1


def _run(spec: Spec, how: str) -> int:
    native = api()
    pointer = native.current()
    if not pointer:
        sys.stderr.write("libtelemetry.fleet: this process is no worker of a fleet\n")
        return CONFIG
    slot, incarnation = native.slot(pointer), native.incarnation(pointer)
    if how == "fork":
        # Every disposition is the default by now, whatever Python believes.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(-1)
        names = (
            f"telemetry.fleet.name={spec.fleet},telemetry.fleet.slot={slot},"
            f"telemetry.fleet.incarnation={incarnation}"
        )
        before = os.environ.get("OTEL_RESOURCE_ATTRIBUTES")
        os.environ["OTEL_RESOURCE_ATTRIBUTES"] = f"{before},{names}" if before else names
    set_worker(min(slot + 1, 0xFFFF))
    if how != "inline":
        # Descriptor 2 and not sys.stderr, which may be something else. A program that handles USR1
        # itself from sitecustomize on is asked, too.
        chain = how == "exec" and callable(signal.getsignal(signal.SIGUSR1))
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=chain)
        native.flag(pointer, DUMPS, 1)
    if spec.auto_instrument:
        _trace.instrument()
    try:
        target = resolve(spec.target)
        shape = describe(target, spec.kwargs)
    except Exception as error:  # its module may raise anything
        _first.could_not(spec.first, spec.target, error)
        return 1
    _first.could(spec.first)
    if how != "inline":
        _first.close(spec.first)
    worker = (AsyncWorker if shape.is_async else Worker)(
        native,
        pointer,
        counters=spec.counters,
        item_deadline=spec.item_deadline,
        every=spec.stale / 4 if spec.stale else 5.0,
    )
    _set_current(worker)
    for key in _trace.KEYS:
        if getattr(worker, key):
            os.environ[key.upper()] = getattr(worker, key)
    _trace.attach({key: getattr(worker, key) for key in _trace.KEYS})
    try:
        if shape.is_async:
            code = _run_async(spec, target, shape, worker)  # type: ignore[arg-type]  # made above
        elif shape.is_class:
            code = _run_class(spec, target, shape, worker)
        else:
            code = _run_function(spec, target, shape, worker)
    finally:
        if worker._object is not None:
            worker._sample()
    _join_threads(worker, spec.grace)
    return code


def _arguments(shape: Shape, worker: Worker) -> tuple[list[Worker], dict[str, Worker]]:
    if not shape.takes:
        return [], {}
    return ([worker], {}) if shape.takes == "1" else ([], {shape.takes: worker})


def _code_of(result: Any) -> int:
    """A function may return its exit status; anything else that it returns is no failure."""
    return result & 0xFF if type(result) is int else 0


def _says_ready_itself(spec: Spec, shape: Shape) -> bool:
    return spec.ready == "call" or (spec.ready == "auto" and bool(shape.takes))


# ---- functions ----


def _run_function(spec: Spec, target: Any, shape: Shape, worker: Worker) -> int:
    first, named = _arguments(shape, worker)
    if not shape.takes:

        def stop() -> None:
            # One that asks for its worker later hears it there.
            if not worker._asked_for:
                raise SystemExit(0)

        _on_term(worker, spec.grace, stop)
    if not _says_ready_itself(spec, shape):
        worker.ready()
    if not shape.takes and worker.stopping.is_set():
        return 0
    if not shape.takes and spec.stale:
        _attend(worker, beats=True)
    return _code_of(target(*first, **named, **spec.kwargs))


def _run_class(spec: Spec, target: Any, shape: Shape, worker: Worker) -> int:
    _, named = _arguments(shape, worker)
    thing = target(**named, **spec.kwargs)
    worker._watch(thing)
    _on_term(worker, spec.grace, lambda: _finish(_call(thing, "stop")))
    if not _says_ready_itself(spec, shape):
        worker.ready()
    worker._sample()
    if not shape.takes:
        _attend(worker, beats=spec.stale > 0)
    if worker.stopping.is_set():
        # Its start() may begin with what its stop() has undone.
        return 0
    return _code_of(_finish(thing.start()))


def _call(thing: Any, name: str) -> Any:
    method = getattr(thing, name, None)
    return method() if callable(method) else None


def _finish(result: Any) -> Any:
    """What a coroutine gives, if it is one."""
    if not hasattr(result, "__await__"):
        return result
    import asyncio

    async def run() -> Any:
        return await result

    return asyncio.run(run())


def _on_term(worker: Worker, grace: float, stop: Callable[[], None]) -> None:
    """Have `stop` called between two instructions of the main thread when TERM comes."""
    supervisor = os.getppid()
    came = False

    def handler(_number: int, _frame: object) -> None:
        nonlocal came
        worker.stopping._tell()
        if os.getppid() != supervisor and grace > 0:
            # Nobody is there any more to end this process when its time is over: SIGALRM does.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, grace)
        if not came:
            came = True
            stop()

    signal.signal(signal.SIGTERM, handler)


def _attend(worker: Worker, beats: bool) -> None:
    """Do from beside what a target that knows no worker does not do itself.

    What it counts is sampled; and where it was named by a string, so that the supervisor cannot
    know that it does not beat, this does. A daemon thread of the worker's own process.
    """

    def attend() -> None:
        while True:
            if beats:
                worker._api.beat(worker._pointer)
            if worker._object is not None:
                worker._sample()
            time.sleep(min(1.0, worker._every))

    threading.Thread(target=attend, name="libtelemetry-fleet", daemon=True).start()


# ---- coroutines ----


def _run_async(spec: Spec, target: Any, shape: Shape, worker: AsyncWorker) -> int:
    import asyncio

    async def stop(thing: Any, task: asyncio.Task[Any]) -> None:
        """Tell what takes no worker that it is to end."""
        if not shape.is_class or not hasattr(thing, "stop"):
            task.cancel()
            return
        result = thing.stop()
        if hasattr(result, "__await__"):
            await result

    async def main() -> int:
        worker._listen(asyncio.get_running_loop())
        first, named = _arguments(shape, worker)
        thing = target
        if shape.is_class:
            thing = target(**named, **spec.kwargs)
            worker._watch(thing)
        if not _says_ready_itself(spec, shape):
            worker.ready()
        coroutine = thing.start() if shape.is_class else target(*first, **named, **spec.kwargs)
        task = asyncio.ensure_future(coroutine)
        if not shape.is_class and shape.takes:
            return _code_of(await task)
        told = asyncio.ensure_future(worker.stopping.wait())
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await stop(thing, task)
        try:
            return _code_of(await task)
        except asyncio.CancelledError:
            if not worker.stopping.is_set():
                raise
            return 0
        finally:
            told.cancel()

    return asyncio.run(main())


# ---- the end ----


def _join_threads(worker: Worker, grace: float) -> None:
    """See the invariants above."""
    end: float | None = None
    while left := [t for t in threading.enumerate() if _is_waited_for(t)]:
        if end is None and worker.stopping.is_set():
            # The rest is for what follows: the supervisor counts, too.
            end = time.monotonic() + 0.8 * grace
        if end is not None and time.monotonic() >= end:
            names = ", ".join(thread.name for thread in left)
            sys.stderr.write(f"libtelemetry.fleet: ends without these threads: {names}\n")
            flush_output()
            return
        worker._api.beat(worker._pointer)
        left[0].join(min(0.1, worker._every))


def _is_waited_for(thread: threading.Thread) -> bool:
    return not thread.daemon and thread is not threading.current_thread()


def run_program(spec: Spec) -> int:
    """`work` in a program of its own, which ends as Python programs do, unless threads keep it."""
    code = work(spec, "exec")
    if any(_is_waited_for(thread) for thread in threading.enumerate()):
        _guarded(_farewell)
        flush_output()
        _flush_clients()
        os._exit(code)
    return code


def _flush_clients() -> None:
    from .._client import _flush_all

    _flush_all(1000)
