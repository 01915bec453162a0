"""Celery's prefork pool with a spool, when no child gets as far as its exit handlers."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from harness import BIN, HERE, Collector, Program, free_port
from test_celery import redis as redis
from truth import Truth, assert_nothing_lost, wait_arrived

ENDS = ["recycled", "exit", "kill"]


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return Truth(tmp_path)


def celery(truth: Truth, redis: str, endpoint: str) -> Program:
    argv = [str(BIN / "celery"), "--workdir", str(HERE), "-A", "celery_kill_tasks", "worker"]
    argv += ["--pool", "prefork", "-c", "12"]
    argv += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning"]
    # A child lives for a second after its task, and its sender must not deliver meanwhile.
    more = {"TELEMETRY_BATCH_MAX_AGE_MS": "5000", "BROKER": redis, "C_FORCE_ROOT": "1"}
    env = truth.environment(endpoint, AT_START="0", **more)
    return Program(argv, truth.log.with_name("celery.log"), env)


def test_children_that_end_hard_are_delivered_by_the_next(
    redis: str, truth: Truth, collector: Collector
) -> None:
    """The main process never reports: a child's first event is what looks after the dead."""
    app = Celery(broker=redis)
    with celery(truth, redis, collector.url) as worker:
        for n in range(36):
            app.send_task("report", args=[5, ENDS[n % 3]])
        worker.wait_for("36 tasks", lambda: truth.count() >= 36 * 5)
        dead = truth.noted()
        # More if Celery gives a task that cost its child the life to another one.
        assert len({pid for pid, _ in dead}) >= 36, "a child for each task"

        def another_task() -> None:
            count = truth.count()
            app.send_task("report", args=[1])
            worker.wait_for("a task", lambda: truth.count() > count)

        wait_arrived(dead, collector, another_task)
        worker.stop()
    truth.drain(collector.url)
    assert_nothing_lost(truth, collector, most_duplicates=200)
    assert truth.files() == []


def test_the_last_children_are_delivered_by_the_next_start(
    redis: str, truth: Truth, tmp_path: Path
) -> None:
    """The collector is down, the worker is killed with all of its children; later both are back."""
    address = f"127.0.0.1:{free_port()}"
    app = Celery(broker=redis)
    with celery(truth, redis, f"http://{address}") as worker:
        for n in range(12):
            app.send_task("report", args=[5, ENDS[n % 3]])
        worker.wait_for("12 tasks", lambda: truth.count() >= 12 * 5)
        worker.kill()
    with Collector(tmp_path, address) as collector:
        truth.drain(collector.url)
        sums = assert_nothing_lost(truth, collector, most_duplicates=0)
        assert sums.accepted >= 60
    assert truth.files() == []
