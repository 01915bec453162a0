"""A Celery application that reports events; its client is made in the worker's main process."""

from __future__ import annotations

import os

from celery import Celery

from app import STARTUP, emit

celery = Celery("celery_tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
celery.conf.broker_connection_retry_on_startup = True


@celery.task(name="emit")  # type: ignore[untyped-decorator]
def report(count: int) -> list[list[int]]:
    """Report events from the child that runs the task."""
    return emit(count, "task")


@celery.task(name="startup")  # type: ignore[untyped-decorator]
def startup() -> list[list[int]]:
    """What the main process reported when it imported the application."""
    return STARTUP
