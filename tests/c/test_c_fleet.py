"""The example of a fleet, built as a product would: jobs, deaths, one that hangs, HUP and TERM."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import LIBRARY, PATIENCE, ROOT, Collector, Server, environment, free_port

SOURCE = ROOT / "bindings" / "c" / "examples" / "fleet.c"
SOURCES = [f"-I{ROOT / 'include'}", str(SOURCE)]
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion"]
WORKERS = 2


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled."""
    directory = tmp_path_factory.mktemp("fleet")
    for link in ("libtelemetry.so", "libtelemetry.so.0"):
        (directory / link).symlink_to(LIBRARY.resolve())
    made = directory / "fleet"
    command = ["gcc", *STRICT, "-O2", "-g", *SOURCES, "-o", str(made)]
    command += [f"-L{directory}", "-ltelemetry", f"-Wl,-rpath,{directory}"]
    subprocess.run(command, check=True, timeout=5 * PATIENCE)
    return made


class Fleet(Server):
    """The example, running; its port takes jobs by UDP and tells its status by HTTP."""

    def job(self, text: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as jobs:
            jobs.sendto(text.encode(), ("127.0.0.1", self.port))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/status")
        return found

    def workers(self) -> set[int]:
        """Processes that work."""
        return {w["pid"] for w in self.status()["workers"] if w["state"] in ("ready", "busy")}

    def wait_for_workers(self, without: set[int]) -> set[int]:
        """Until all are there again, and none of those: who they are."""

        def new() -> set[int]:
            pids = self.workers()
            return pids if len(pids) == WORKERS and not pids & without else set()

        found: set[int] = self.wait_for(f"workers other than {without}", new)
        return found


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with Collector(tmp_path) as running:
        yield running


@pytest.fixture
def fleet(program: Path, collector: Collector, tmp_path: Path) -> Iterator[Fleet]:
    port = free_port()
    # KILL_MS leaves a worker that is replaced time to deliver; a busy machine makes nobody stale.
    times = {"DUMP_MS": "50", "KILL_MS": "5000", "BACKOFF_CAP_MS": "50", "STALE_MS": "600000"}
    more = {f"TELEMETRY_FLEET_{key}": value for key, value in times.items()}
    env = environment(collector.url, TELEMETRY_RUNTIME_DIR=str(tmp_path / "run"), **more)
    running = Fleet([str(program), str(port), str(WORKERS)], port, tmp_path / "fleet.log", env)
    with running:
        running.wait_for("the workers", lambda: running.status()["ready"])
        yield running


def test_jobs_deaths_and_the_end(fleet: Fleet, collector: Collector) -> None:
    first = fleet.wait_for_workers(without=set())
    for number in range(20):
        fleet.job(f"paint {number}\n" if number % 10 else "\n")
    totals = {"done": 18, "failed": 2, "dead": 0}
    fleet.wait_for("all jobs", lambda: fleet.status()["totals"] == totals)
    collector.wait_unique(20)

    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    second = fleet.wait_for_workers(without={victim})
    assert second > first - {victim}, "nobody else was touched"
    assert fleet.status()["restarts"]["by_cause"] == {"signal": 1}

    fleet.job("hang")
    fleet.wait_for("the job", lambda: "hang" in [w["doing"] for w in fleet.status()["workers"]])
    (hangs,) = (w["pid"] for w in fleet.status()["workers"] if w["doing"] == "hang")
    third = fleet.wait_for_workers(without={hangs})
    assert third > second - {hangs}
    assert fleet.status()["restarts"]["by_cause"] == {"signal": 1, "item_deadline": 1}

    fleet.process.send_signal(signal.SIGHUP)
    fleet.wait_for("the first new one", lambda: not third <= fleet.workers())
    fleet.job("last")
    fleet.wait_for("it", lambda: fleet.status()["totals"]["done"] == 19)
    collector.wait_unique(21)
    assert fleet.stop(signal.SIGTERM) == 0, fleet.output()
    events = [event for event in collector.events() if event["event"] == "job"]
    assert sorted(event["done"] for event in events) == [False] * 2 + [True] * 19
    assert collector.stats()["duplicates"] == 0


def test_another_compiler_takes_it() -> None:
    if not shutil.which("clang"):
        pytest.skip("clang is not installed")
    subprocess.run(["clang", *STRICT, "-fsyntax-only", *SOURCES], check=True, timeout=5 * PATIENCE)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TELEMETRY_FLEET_STALE_MS", "soon", "stale_ms"),
        ("TELEMETRY_ENDPOINT", "gopher://x", "endpoint"),
    ],
)
def test_it_says_what_is_wrong(program: Path, variable: str, value: str, said: str) -> None:
    argv, env = [program, str(free_port()), "2"], environment(**{variable: value})
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=5 * PATIENCE)
    assert done.returncode == 1
    assert said in done.stderr
    assert value in done.stderr
