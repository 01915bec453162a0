"""Gunicorn with a spool, while its workers are killed: what `enqueue` took arrives."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path

import pytest

from harness import BIN, Collector, Server, Storm, free_port, members, wait_until
from truth import (
    AT_START,
    Truth,
    assert_nothing_lost,
    kill_workers,
    some_work,
    wait_arrived,
)

BATCH = 100


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return Truth(tmp_path)


def gunicorn(truth: Truth, endpoint: str, *args: str, **env: str) -> Server:
    directory, port = truth.log.parent, free_port()
    argv = [str(BIN / "gunicorn"), "--preload", "-w", "4", "-b", f"127.0.0.1:{port}", *args]
    argv += ["--control-socket", str(directory / "gunicorn.ctl"), "truth_app:application"]
    # A worker that is made while the master is told to stop does not hear it, and is killed then.
    if "--graceful-timeout" not in args:
        argv += ["--graceful-timeout", "5"]
    env.setdefault("TELEMETRY_BATCH_MAX_EVENTS", str(BATCH))
    return Server(argv, port, directory / "gunicorn.log", truth.environment(endpoint, **env))


def spread(truth: Truth) -> bool:
    """Whether five processes and more have reported, and more than a batch each."""
    noted = truth.noted()
    return len(noted) > 10 * BATCH and len({pid for pid, _ in noted}) >= 5


def timed_out(server: Server) -> set[int]:
    """Whom Gunicorn has sent SIGABRT: who hangs, and who was kept waiting by a busy machine."""
    return set(map(int, re.findall(r"WORKER TIMEOUT \(pid:(\d+)\)", server.output())))


def time_out(server: Server, truth: Truth) -> None:
    """Hang a worker that has reported until Gunicorn has sent it SIGABRT, then SIGKILL."""

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            server.get("/hang?n=5")

    def killed() -> bool:
        said, reported = server.output(), {pid for pid, _ in truth.noted()}
        return any(
            f"Worker (pid:{pid}) was sent SIGKILL" in said for pid in timed_out(server) & reported
        )

    request = threading.Thread(target=ask)
    request.start()
    server.wait_for("the worker that hangs is killed", killed)
    request.join()


def test_killed_workers_lose_nothing(truth: Truth, collector: Collector) -> None:
    """Killed at random, recycled, ended by os._exit, or killed by the arbiter, under load.

    What the dead leave is delivered by the workers that live, while they live.
    """
    kills = 25
    args = ["--max-requests", "50", "--timeout", "2"]
    # Small segments, so that workers also die while they change from one to the next.
    with gunicorn(truth, collector.url, *args, TELEMETRY_SEGMENT_BYTES="65536") as server:
        with Storm(server) as storm:
            killed = kill_workers(server, kills, truth, reported=5)
            time_out(server, truth)
            with contextlib.suppress(OSError, ValueError):
                server.get("/exit?n=5")
        noted = truth.noted()
        pids = {pid for pid, _ in noted}
        print(f"{storm.answered} answered, {storm.broken} broken, {len(pids)} processes")
        assert len(pids & killed) >= 5, "they had something to lose"
        wait_arrived(noted, collector, some_work(server))
        server.stop()
    truth.drain(collector.url)
    # Each that died, by the kill or by Gunicorn's hand, may have been about to hear of a batch.
    deaths = len(killed | timed_out(server)) + server.output().count("was sent SIGKILL") + 1
    assert_nothing_lost(truth, collector, most_duplicates=deaths * BATCH)
    assert truth.files() == [], "nothing piles up"


def test_a_killed_server_is_delivered_by_its_next_start(truth: Truth, tmp_path: Path) -> None:
    """Master and workers are killed at one blow while the collector is down."""
    address = f"127.0.0.1:{free_port()}"
    with gunicorn(truth, f"http://{address}") as server, Storm(server):
        server.wait_for("some events of a master and its workers", lambda: spread(truth))
        server.kill()
    dead = truth.noted()
    with Collector(tmp_path, address) as collector:
        with gunicorn(truth, collector.url) as server:
            wait_arrived(dead, collector, some_work(server))
            server.stop()
        truth.drain(collector.url)
        sums = assert_nothing_lost(truth, collector, most_duplicates=5 * BATCH)
        assert sums.accepted >= len(dead) + AT_START, "the second start reported, too"
    assert truth.files() == []


def test_a_stop_by_sigterm_leaves_nothing_on_disk(truth: Truth, collector: Collector) -> None:
    """Nothing happened that a spool is for: each event arrives once, and no file stays."""
    # Nothing but the flush at exit delivers.
    keep = {"TELEMETRY_BATCH_MAX_AGE_MS": "3600000"}
    with gunicorn(truth, collector.url, "--graceful-timeout", "100", **keep) as server:
        with Storm(server):
            server.wait_for("some events of a master and its workers", lambda: spread(truth))
        server.stop()
    sums = assert_nothing_lost(truth, collector, most_duplicates=0)
    assert sums.unknown == 0
    assert truth.files() == []


def test_workers_that_outlive_their_master_lose_nothing(truth: Truth, collector: Collector) -> None:
    """Only the master is killed. Its workers notice that, and end."""
    keep = {"TELEMETRY_BATCH_MAX_AGE_MS": "3600000"}
    with gunicorn(truth, collector.url, "--timeout", "2", **keep) as server:
        with Storm(server):
            server.wait_for("some events of a master and its workers", lambda: spread(truth))
            server.process.kill()
            server.process.wait()
        wait_until("the workers end", lambda: not members(server.process.pid))
    truth.drain(collector.url)
    deaths = 4 + len(timed_out(server))
    sums = assert_nothing_lost(truth, collector, most_duplicates=deaths * BATCH)
    assert sums.accepted > 1000
    assert truth.files() == []
