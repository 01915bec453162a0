"""Flush at the end of the process, wherever the library's own exit handler comes late or never.

It runs when libc's ``exit`` does, which is right for every exit but these:

- An exit of the interpreter. Finalisation gives signals back their default action long before libc
  is asked to exit: a worker that ends by itself, and gets its master's SIGTERM only then, dies with
  its queue. So an `atexit` function flushes first, while the server's signal handlers still stand.
  It does not wait long: the library's handler follows, and knows whether waiting has any sense.
- Children of `multiprocessing` (Process, Pool, ProcessPoolExecutor), Celery's pool workers and
  RQ's work-horses. They end in ``os._exit``, but each has a place for what must still happen.

`multiprocessing.util` is imported when the first client is made: 7 ms in a bare interpreter, 2 ms
in one that has `socket` and `subprocess`. Looking for it instead of importing it would lose the
tail of every program that makes its client first and imports multiprocessing later. `billiard` and
`rq` are not imported but looked for: when a client is made, and once more in each child of a fork,
early enough for both. That is the only thing here that a fork runs: some look-ups in a dict.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
from typing import Any, Callable

# Lower runs later; users' finalizers, which may still enqueue, run first.
_LAST = -1_000_000

_AT_EXIT_MS = 250

_installed: set[str] = set()


def install(flush_all: Callable[..., None]) -> None:
    """Have `flush_all` called at the end of this process and its children. Cheap when repeated."""
    if "multiprocessing" not in _installed:
        atexit.register(flush_all, _AT_EXIT_MS)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: _look(flush_all))
        try:
            from multiprocessing import process, util
        except ImportError:  # a build without it has no such children
            _installed.add("multiprocessing")
        else:
            _hook(util, "multiprocessing", flush_all, process.parent_process() is not None)
    _look(flush_all)
    # Celery's workers. It is there before the application, because it imports that.
    if "celery" in sys.modules and "celery" not in _installed:
        _installed.add("celery")
        from celery.signals import worker_process_shutdown

        worker_process_shutdown.connect(
            lambda **_: flush_all(), weak=False, dispatch_uid="libtelemetry"
        )


def _look(flush_all: Callable[..., None]) -> None:
    """What a program may well import later than its client. Imports nothing."""
    # Celery's fork of multiprocessing. In a child, `process` says which one its parent is.
    billiard, process = sys.modules.get("billiard.util"), sys.modules.get("billiard.process")
    if billiard is not None and process is not None and "billiard" not in _installed:
        is_child = getattr(process.current_process(), "_parent_pid", None) is not None
        _hook(billiard, "billiard", flush_all, is_child)
    # Its pools' children run no finalizers; those of Celery have a signal: `install`.
    pool = sys.modules.get("billiard.pool")
    if pool is not None and "billiard.pool" not in _installed and "celery" not in sys.modules:
        _installed.add("billiard.pool")
        _wrap(getattr(pool, "Worker", None), "_do_exit", lambda end: _flush_first(end, flush_all))
    # RQ has no hook where a work-horse ends; these are what every version calls last.
    rq = sys.modules.get("rq.worker")
    if rq is not None and "rq" not in _installed:
        _installed.add("rq")
        for name in ("success", "failure", "retry"):
            worker = getattr(rq, "Worker", None)
            _wrap(worker, f"handle_job_{name}", lambda end: _then_flush(end, flush_all))


def _hook(util: Any, name: str, flush_all: Callable[[], None], in_child: bool) -> None:
    _installed.add(name)

    def arm(_: object = None) -> None:
        util.Finalize(None, flush_all, exitpriority=_LAST)

    # A child begins by emptying the finalizers that it inherited, then calls these.
    util.register_after_fork(install, arm)
    if in_child:  # first client made in the child itself: that moment is over
        arm()


def _wrap(kind: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    """Replace a method of that class, or of the base that has it; nothing where there is none."""
    for owner in getattr(kind, "__mro__", ()):
        if name in vars(owner):
            setattr(owner, name, wrapper(vars(owner)[name]))
            return


def _flush_first(end: Any, flush_all: Callable[..., None]) -> Any:
    @functools.wraps(end)
    def flush_first(*args: Any, **kwargs: Any) -> Any:
        flush_all()
        return end(*args, **kwargs)

    return flush_first


def _then_flush(end: Any, flush_all: Callable[..., None]) -> Any:
    @functools.wraps(end)
    def then_flush(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return end(self, *args, **kwargs)
        finally:
            # A process for one job; all other workers live on.
            if getattr(self, "_is_horse", False):
                flush_all()

    return then_flush
