"""uWSGI in master mode, which forks in C: no --enable-threads, no --lazy-apps, no fork hooks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import BIN, EXAMPLES, ROOT, Collector, Server, environment, free_port, load
from verdict import assert_exactly_once, run_and_stop

UWSGI = {
    # From PyPI, where threads are always on.
    "pypi": [str(BIN / "uwsgi"), "-H", str(ROOT / ".venv")],
    # Debian's, where they are really off, with Debian's own CPython.
    "debian": [str(shutil.which("uwsgi-core", path="/usr/bin")), "--plugin", "python3"],
}


@pytest.fixture(params=UWSGI)
def build(request: pytest.FixtureRequest) -> list[str]:
    argv = UWSGI[request.param]
    if not Path(argv[0]).exists():
        pytest.skip(f"{argv[0]} is missing: run tests/setup.sh")
    return argv


def uwsgi(build: list[str], collector: Collector, directory: Path, *args: str) -> Server:
    port = free_port()
    argv = [*build, "--http-socket", f"127.0.0.1:{port}", "--master", "-p", "4", "--die-on-term"]
    argv += [
        "--socket-timeout",
        "60",
        "--need-app",
        "--disable-logging",
        "--pythonpath",
        str(EXAMPLES),
    ]
    argv += ["--pythonpath", str(ROOT / "python"), "--module", "app:application", *args]
    return Server(argv, port, directory / "uwsgi.log", environment(collector.url))


def test_every_event_of_every_worker_arrives_once(
    build: list[str], collector: Collector, tmp_path: Path
) -> None:
    with uwsgi(build, collector, tmp_path) as server:
        run_and_stop(server, collector)


def test_events_arrive_while_the_workers_live(
    build: list[str], collector: Collector, tmp_path: Path
) -> None:
    with uwsgi(build, collector, tmp_path) as server:
        accepted = [(pid, seq) for pid, seq in server.get("/startup")]
        accepted += load(server, requests=40)
        assert server.get("/flush?timeout=60") is True
        collector.wait_unique(len(accepted))
        assert_exactly_once(accepted, collector)


def test_skip_atexit_can_cost_only_what_is_younger_than_max_age(
    build: list[str], collector: Collector, tmp_path: Path
) -> None:
    """Nothing runs at exit, so what was not sent by then is lost; the sender sends by itself."""
    with uwsgi(build, collector, tmp_path, "--skip-atexit") as server:
        accepted = [(pid, seq) for pid, seq in server.get("/startup")]
        accepted += load(server)
        collector.wait_unique(len(accepted))
        server.stop()
    assert_exactly_once(accepted, collector)
