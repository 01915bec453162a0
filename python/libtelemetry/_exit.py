"""Flush at the end of the process, wherever the library's own exit handler comes late or never.

It runs when libc's ``exit`` does, which is right for every exit but these:

- An exit of the interpreter. Finalisation gives signals back their default action long before libc
  is asked to exit: a worker that ends by itself, and gets its master's SIGTERM only then, dies with
  its queue. So an `atexit` function flushes first, while the server's signal handlers still stand.
  It does not wait long: the library's handler follows, and knows whether waiting has any sense.
- Children of `multiprocessing` (Process, Pool, ProcessPoolExecutor) and Celery's pool workers. They
  end in ``os._exit``, but each has a place for what must still happen.

`multiprocessing.util` is imported when the first client is made: 7 ms in a bare interpreter, 2 ms
in one that has `socket` and `subprocess`. Looking for it instead of importing it would lose the
tail of every program that makes its client first and imports multiprocessing later.
"""

from __future__ import annotations

import atexit
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
        try:
            from multiprocessing import process, util
        except ImportError:  # a build without it has no such children
            _installed.add("multiprocessing")
        else:
            _hook(util, "multiprocessing", flush_all, process.parent_process() is not None)
    # Celery's fork of multiprocessing, and Celery's workers. Both are there before the application
    # is imported, because it is `celery` that imports it.
    billiard = sys.modules.get("billiard.util")
    if billiard is not None and "billiard" not in _installed:
        _hook(billiard, "billiard", flush_all, False)
    if "celery" in sys.modules and "celery" not in _installed:
        _installed.add("celery")
        from celery.signals import worker_process_shutdown

        worker_process_shutdown.connect(
            lambda **_: flush_all(), weak=False, dispatch_uid="libtelemetry"
        )


def _hook(util: Any, name: str, flush_all: Callable[[], None], in_child: bool) -> None:
    _installed.add(name)

    def arm(_: object = None) -> None:
        util.Finalize(None, flush_all, exitpriority=_LAST)

    # A child begins by emptying the finalizers that it inherited, then calls these.
    util.register_after_fork(install, arm)
    if in_child:  # first client made in the child itself: that moment is over
        arm()
