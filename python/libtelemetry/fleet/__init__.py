"""Worker processes under one supervisor, which starts, watches, restarts and stops them.

    from libtelemetry.fleet import Fleet

    fleet = Fleet(name="relay", health="127.0.0.1:9464", grace=25)
    fleet.start_worker("consumer", consume, count=4, kwargs={"queue": "jobs"})
    raise SystemExit(fleet.run())

The supervisor is the shared library's: one thread, no polling. Workers are functions, coroutine
functions, classes with start() and stop(), or import strings. `ProcessManager` is for programs that
do something else meanwhile: its supervisor is a process of its own. ``python -m libtelemetry.fleet
--help`` runs workers without a line of code.

Importing this starts nothing; the shared library is loaded by the first `Fleet`. Linux only.
"""

from ._fleet import Fleet
from ._manager import ProcessManager
from ._worker import AsyncStopping, AsyncWorker, Item, Stopping, Worker, current_worker

__all__ = [
    "AsyncStopping",
    "AsyncWorker",
    "Fleet",
    "Item",
    "ProcessManager",
    "Stopping",
    "Worker",
    "current_worker",
]
