"""Gunicorn with --preload: the client is made, and used, in the master; the workers are forks."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import BIN, Collector, Server, environment, free_port, load
from verdict import assert_exactly_once, run_and_stop

WORKERS = {
    "sync": ["app:application"],
    "gthread": ["-k", "gthread", "--threads", "4", "app:application"],
    "gevent": ["-k", "gevent", "app:application"],
    "uvicorn": ["-k", "uvicorn_worker.UvicornWorker", "asgi:application"],
    "asgi": ["-k", "asgi", "asgi:application"],
}


def gunicorn(collector: Collector, directory: Path, *args: str, **env: str) -> Server:
    port = free_port()
    argv = [str(BIN / "gunicorn"), "--preload", "-w", "4", "-b", f"127.0.0.1:{port}", *args]
    # By default that file is one for all of a user's servers.
    argv += ["--control-socket", str(directory / "gunicorn.ctl")]
    # A worker that a busy machine keeps waiting is not one that hangs.
    argv += ["--timeout", "600", "--graceful-timeout", "100"]
    return Server(argv, port, directory / "gunicorn.log", environment(collector.url, **env))


@pytest.mark.parametrize("worker", WORKERS)
def test_every_event_of_every_worker_arrives_once(
    worker: str, collector: Collector, tmp_path: Path
) -> None:
    with gunicorn(collector, tmp_path, *WORKERS[worker]) as server:
        run_and_stop(server, collector)


@pytest.mark.parametrize("worker", WORKERS)
def test_events_arrive_while_the_workers_live(
    worker: str, collector: Collector, tmp_path: Path
) -> None:
    """Not only the flush at exit works: the workers' own senders do."""
    with gunicorn(collector, tmp_path, *WORKERS[worker]) as server:
        accepted = [(pid, seq) for pid, seq in server.get("/startup")]
        accepted += load(server, requests=40)
        collector.wait_unique(len(accepted))
        assert_exactly_once(accepted, collector)
        server.stop()
    assert_exactly_once(accepted, collector)


@pytest.mark.parametrize("worker", ["sync", "gevent", "uvicorn"])
def test_flush_in_a_worker_returns_when_delivered(
    worker: str, collector: Collector, tmp_path: Path
) -> None:
    with gunicorn(
        collector, tmp_path, *WORKERS[worker], TELEMETRY_BATCH_MAX_AGE_MS="3600000"
    ) as web:
        assert web.get("/flush?timeout=60") is True, "flush as the worker's first call"
        for _ in range(8):
            web.get("/emit?n=5")
            assert web.get("/flush?timeout=60") is True


def test_a_worker_that_is_recycled_loses_nothing(collector: Collector, tmp_path: Path) -> None:
    with gunicorn(collector, tmp_path, "--max-requests", "20", "app:application") as server:
        run_and_stop(server, collector)
