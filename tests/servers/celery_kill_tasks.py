"""A Celery application whose children get a task each, and end without any exit handler."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import Celery
from celery.signals import worker_process_shutdown


# Before the client is made: the first receiver is the first to run.
# Celery has no types.
@worker_process_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
def end_hard(**_: Any) -> None:
    """Leave before the client can deliver."""
    os._exit(0)


# After the path it is found by.
from truth_app import emit  # noqa: E402

celery = Celery("celery_kill_tasks", broker=os.environ["BROKER"])
celery.conf.broker_connection_retry_on_startup = True
celery.conf.worker_max_tasks_per_child = 1


@celery.task(name="report", ignore_result=True)  # type: ignore[untyped-decorator]
def report(count: int, end: str = "recycled") -> None:
    """Report events; then the child is recycled, leaves, or is killed."""
    emit(count)
    if end == "exit":
        os._exit(0)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
