"""Three official SDKs with their adapters, made in the master of real servers, used in the workers.

Against `telemetry collect`, in the true formats. The SDKs' own threads are counted: there are none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import BIN, PATIENCE, ROOT, Collector, Server, free_port, load
from sdk_kit import AGES, HERE, SdkCollector, environment
from test_uwsgi import UWSGI
from verdict import assert_exactly_once

Start = Callable[[str, Collector, Path], Server]


def gunicorn(*args: str) -> Start:
    """Preloaded: the SDKs are made before the workers are forked."""

    def start(age: str, collector: Collector, directory: Path) -> Server:
        port = free_port()
        argv = [str(BIN / "gunicorn"), "--preload", "-w", "4", "-b", f"127.0.0.1:{port}", *args]
        argv += ["--control-socket", str(directory / "gunicorn.ctl"), "sdk_app:application"]
        argv += ["--timeout", "600", "--graceful-timeout", "100"]
        env = environment(age, SDK_HOST=collector.url, TELEMETRY_BATCH_MAX_AGE_MS="1000")
        return Server(argv, port, directory / "gunicorn.log", env)

    return start


def uwsgi(build: str) -> Start:
    """Master mode, which forks in C, with no flag that would help."""

    def start(age: str, collector: Collector, directory: Path) -> Server:
        if not Path(UWSGI[build][0]).exists():
            pytest.skip(f"{UWSGI[build][0]} is missing: run tests/setup.sh")
        if build == "debian" and debian_python() != sys.version_info[:2]:
            pytest.skip("the SDKs were installed for another Python than Debian's")
        port = free_port()
        argv = [*UWSGI[build], "--http-socket", f"127.0.0.1:{port}", "--master", "-p", "4"]
        argv += ["--socket-timeout", "60"]
        argv += ["--die-on-term", "--need-app", "--disable-logging"]
        for path in (AGES[age], HERE, ROOT / "python"):
            argv += ["--pythonpath", str(path)]
        argv += ["--module", "sdk_app:application"]
        env = environment(age, SDK_HOST=collector.url, TELEMETRY_BATCH_MAX_AGE_MS="1000")
        return Server(argv, port, directory / "uwsgi.log", env)

    return start


def debian_python() -> tuple[int, ...]:
    """The version of the interpreter that Debian's uWSGI has."""
    code = "import sys; print(*sys.version_info[:2])"
    said = subprocess.run(
        ["/usr/bin/python3", "-c", code], capture_output=True, text=True, check=True
    )
    return tuple(map(int, said.stdout.split()))


SERVERS = {
    "gunicorn": gunicorn(),
    "gunicorn-gthread": gunicorn("-k", "gthread", "--threads", "4"),
    "uwsgi-pypi": uwsgi("pypi"),
    "uwsgi-debian": uwsgi("debian"),
}


# Each server with each age, but that with threads once.
PAIRS = [(server, age) for server in SERVERS for age in AGES]
PAIRS.remove(("gunicorn-gthread", "year-old"))


@pytest.mark.parametrize(("server", "age"), PAIRS, indirect=["age"])
def test_every_event_of_every_worker_arrives_once(
    server: str, age: str, sdk_collector: SdkCollector, tmp_path: Path
) -> None:
    with SERVERS[server](age, sdk_collector, tmp_path) as web:
        accepted = [(pid, seq) for pid, seq in web.get("/startup")]
        assert len(accepted) == 15
        # While the workers live: their own senders deliver, and the SDKs' flush waits for it.
        accepted += load(web, requests=40, events=1)
        assert set(web.get("/flush")) == {True}
        said = web.get("/threads")
        assert sdk_threads(said["master"]) == []
        assert sdk_threads(said["worker"]) == []
        sdk_collector.wait_unique(len(accepted))
        assert_exactly_once(accepted, sdk_collector)
        # And at the end: stopped right after the last answer.
        accepted += load(web, requests=100, events=2)
        web.stop()
    sdk_collector.wait_unique(len(accepted))
    rows = assert_exactly_once(accepted, sdk_collector)
    assert len(rows) >= 5, "the master and four workers"


def sdk_threads(names: list[str]) -> list[str]:
    """The Python threads that are not the server's."""
    server = ("threading._MainThread MainThread", "threading.Thread ThreadPoolExecutor-")
    return [name for name in names if not name.startswith(server)]


def test_children_of_multiprocessing(age: str, sdk_collector: SdkCollector) -> None:
    """A pool of forked children, which end without any exit handler of Python."""
    done = subprocess.run(
        [str(BIN / "python"), str(HERE / "sdk_pool.py")],
        env=environment(age, SDK_HOST=sdk_collector.url),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    said: Any = json.loads(done.stdout.splitlines()[-1])
    accepted = [(pid, seq) for pid, seq in said["accepted"]]
    assert len({pid for pid, _ in accepted}) >= 3
    assert said["threads"] == []
    sdk_collector.wait_unique(len(accepted))
    assert_exactly_once(accepted, sdk_collector)
