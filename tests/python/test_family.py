"""Client.family: the workers of real servers see each other, and what a killed one had counted."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import BIN, ROOT, Collector, Server, environment, free_port, wait_until
from libtelemetry import Client, Stats

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory of this test's processes."""
    path = tmp_path / "runtime"
    monkeypatch.setenv("TELEMETRY_RUNTIME_DIR", str(path))
    return path


def gunicorn(*args: str) -> Callable[[int], list[str]]:
    return lambda port: [
        str(BIN / "gunicorn"), "-b", f"127.0.0.1:{port}", "-w", "4", *args, "family_app"
    ]  # fmt: skip


def uwsgi(port: int) -> list[str]:
    argv = [str(BIN / "uwsgi"), "-H", str(ROOT / ".venv"), "--http-socket", f"127.0.0.1:{port}"]
    argv += ["--master", "-p", "3", "--die-on-term", "--need-app", "--disable-logging"]
    return [*argv, "--pythonpath", str(ROOT / "python"), "--module", "family_app"]


SERVERS = {
    "gunicorn --preload": (gunicorn("--preload"), 4),
    "gunicorn": (gunicorn(), 4),
    "uwsgi": (uwsgi, 3),
}


@pytest.fixture(params=SERVERS)
def server(
    request: pytest.FixtureRequest, collector: Collector, tmp_path: Path, runtime: Path
) -> Iterator[tuple[Server, int]]:
    """A server with the application, and how many workers it has."""
    argv, workers = SERVERS[request.param]
    env = environment(
        collector.url, TELEMETRY_BATCH_MAX_AGE_MS="50", TELEMETRY_RUNTIME_DIR=str(runtime)
    )
    env["PYTHONPATH"] += os.pathsep + str(HERE)
    port = free_port()
    with Server(argv(port), port, tmp_path / "server.log", env) as running:
        yield running, workers


def visit(server: Server, workers: int) -> Counter[int]:
    """One request or more to each worker; how many each of them had."""
    counts: Counter[int] = Counter()
    with ThreadPoolExecutor(8) as pool:

        def answered() -> bool:
            counts.update(pool.map(lambda _: server.get("/"), range(8)))
            return len(counts) >= workers

        wait_until(f"{workers} workers answer", answered)
    return counts


def test_any_worker_tells_of_all(server: tuple[Server, int]) -> None:
    running, workers = server
    counts = visit(running, workers)
    seen: dict[int, Row] = {}

    def settled() -> bool:
        rows = running.get("/family")
        assert [row["self"] for row in rows] == [True] + [False] * (len(rows) - 1)
        seen.update((row["pid"], row) for row in rows if row["pid"] in counts)
        return {pid: seen[pid]["delivered"] for pid in seen} == dict(counts)

    wait_until("each worker's events are seen to be delivered", settled)
    for pid, row in seen.items():
        assert (row["accepted"], row["delivered"], row["queue_events"]) == (
            counts[pid],
            counts[pid],
            0,
        )
        assert row["alive"] is True and row["ended"] is False
        assert row["parent"] == running.process.pid
        assert set(Stats._fields) < set(row)
    victim = next(iter(counts))
    os.kill(victim, signal.SIGKILL)

    def dead() -> Row | None:
        rows = {row["pid"]: row for row in running.get("/family")}
        return None if rows[victim]["alive"] else rows[victim]

    row = wait_until("the killed worker is seen to be dead", dead)
    assert (row["ended"], row["accepted"]) == (False, counts[victim])
    # The one in its place joins.
    counts = visit(running, workers)
    wait_until(
        "the new one is seen", lambda: set(counts) <= {r["pid"] for r in running.get("/family")}
    )


def test_unrelated_programs_with_one_destination_are_a_family(
    runtime: Path, tmp_path: Path
) -> None:
    endpoint = f"file:{tmp_path / 'events'}"
    program = (
        "import sys, libtelemetry\n"
        f"c = libtelemetry.Client({endpoint!r})\n"
        "c.enqueue({}); c.flush(60); print(len(c.family()), flush=True); sys.stdin.read()"
    )
    client = Client(endpoint)
    client.enqueue({})
    assert len(client.family()) == 1
    other = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(TELEMETRY_RUNTIME_DIR=str(runtime)),
    )
    with other:
        assert other.stdout and other.stdout.readline() == b"2\n"
        rows = {row["pid"]: row for row in client.family()}
        assert set(rows) == {os.getpid(), other.pid}
        assert (rows[other.pid]["delivered"], rows[other.pid]["self"]) == (1, False)
        assert other.stdin
        other.stdin.close()
    rows = {row["pid"]: row for row in client.family()}
    assert (rows[other.pid]["alive"], rows[other.pid]["ended"]) == (False, True)
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in runtime.iterdir()] == [0o600]
    client.shutdown(60)
    assert client.family() == [] and not list(runtime.iterdir())


def test_a_directory_that_cannot_be_had_is_no_trouble(runtime: Path, tmp_path: Path) -> None:
    runtime.mkdir(mode=0o700)
    runtime.chmod(0o777)
    client = Client(f"file:{tmp_path / 'events'}")
    assert client.enqueue({}) and client.flush(60)
    assert client.family() == []
    assert client.stats().delivered == 1
    client.shutdown(60)
    assert not list(runtime.iterdir())


def test_a_disabled_client_has_no_family(runtime: Path) -> None:
    assert Client(disabled=True).family() == []
    assert not runtime.exists()
