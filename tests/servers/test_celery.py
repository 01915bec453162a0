"""Celery's prefork pool with a new child for each task; the children end in os._exit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from harness import BIN, PATIENCE, Collector, Program, accepts, environment, free_port
from verdict import assert_exactly_once

HERE = Path(__file__).parent
# Three rounds of children, each of which has seen the others end.
TASKS = 96


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """A Redis of our own; its URL."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is missing: run tests/setup.sh")
    port = free_port()
    argv = [
        binary,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with Program(argv, tmp_path / "redis.log", environment(), cwd=tmp_path) as server:
        server.wait_for("redis", lambda: accepts(port))
        yield f"redis://127.0.0.1:{port}/0"


def test_a_child_for_each_task(redis: str, collector: Collector, tmp_path: Path) -> None:
    # So that only what happens at the end of a child delivers its events.
    env = environment(collector.url, TELEMETRY_BATCH_MAX_AGE_MS="3600000")
    env.update(BROKER=redis, C_FORCE_ROOT="1")
    argv = [str(BIN / "celery"), "--workdir", str(HERE), "-A", "celery_tasks", "worker"]
    # Each child lingers a second after its task, so many tasks want more of them than cores.
    argv += ["--pool", "prefork", "-c", "32", "--max-tasks-per-child", "1"]
    argv += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning"]
    app = Celery(broker=redis, backend=redis)
    with Program(argv, tmp_path / "celery.log", env) as worker:
        master = [tuple(key) for key in app.send_task("startup").get(timeout=PATIENCE)]
        tasks = [app.send_task("emit", args=[5]) for _ in range(TASKS)]
        accepted = [tuple(key) for task in tasks for key in task.get(timeout=PATIENCE)]
        worker.stop()
    assert len(master) == 5
    assert len(accepted) == TASKS * 5
    assert len({pid for pid, _ in accepted}) == TASKS, "a child for each task"
    assert_exactly_once(master + accepted, collector)
