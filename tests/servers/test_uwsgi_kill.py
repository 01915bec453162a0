"""uWSGI with a spool, while its workers are killed, and while its master replaces itself."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import pytest

from harness import EXAMPLES, HERE, ROOT, Collector, Server, Storm, free_port
from test_uwsgi import UWSGI
from truth import AT_START, Truth, assert_nothing_lost, kill_workers, some_work, wait_arrived

BATCH = 100


@pytest.fixture(params=UWSGI)
def build(request: pytest.FixtureRequest) -> list[str]:
    argv = UWSGI[request.param]
    if not Path(argv[0]).exists():
        pytest.skip(f"{argv[0]} is missing: run tests/setup.sh")
    return argv


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return Truth(tmp_path)


def uwsgi(build: list[str], truth: Truth, endpoint: str, *args: str, **env: str) -> Server:
    port = free_port()
    argv = [*build, "--http-socket", f"127.0.0.1:{port}", "--master", "-p", "4", "--die-on-term"]
    argv += [
        "--socket-timeout",
        "60",
        "--need-app",
        "--disable-logging",
        "--module",
        "truth_app:application",
        *args,
    ]
    # A worker that is told to end while it starts does not hear it, and is killed after this time.
    argv += ["--worker-reload-mercy", "2"]
    for path in (EXAMPLES, HERE, ROOT / "python"):
        argv += ["--pythonpath", str(path)]
    env.setdefault("TELEMETRY_BATCH_MAX_EVENTS", str(BATCH))
    log = truth.log.with_name("uwsgi.log")
    return Server(argv, port, log, truth.environment(endpoint, **env))


def test_killed_workers_lose_nothing(build: list[str], truth: Truth, collector: Collector) -> None:
    kills = 12
    with uwsgi(build, truth, collector.url) as server:
        with Storm(server):
            killed = kill_workers(server, kills, truth, reported=3)
        noted = truth.noted()
        assert len({pid for pid, _ in noted} & killed) >= 3, "they had something to lose"
        wait_arrived(noted, collector, some_work(server))
        # Not stopped: a worker that its master makes anew at that moment does not hear it.
        server.kill()
    truth.drain(collector.url)
    assert_nothing_lost(truth, collector, most_duplicates=(len(killed) + 4) * BATCH)
    assert truth.files() == []


def test_harakiri_loses_nothing(truth: Truth, collector: Collector) -> None:
    """A request that takes too long costs its worker the life, by SIGKILL."""
    # So that the worker that hangs has no sender that delivers meanwhile.
    keep = {"TELEMETRY_BATCH_MAX_AGE_MS": "3600000"}
    with uwsgi(UWSGI["pypi"], truth, collector.url, **keep) as server:
        with contextlib.suppress(OSError, ValueError):
            server.get("/hang?n=5")
        pattern = re.compile(r"HARAKIRI ON WORKER \d+ \(pid: (\d+)")
        said = server.wait_for("harakiri", lambda: pattern.search(server.output()))
        lost = {key for key in truth.noted() if key[0] == int(said.group(1))}
        assert len(lost) == 5
        server.kill()
    truth.drain(collector.url)
    assert_nothing_lost(truth, collector, most_duplicates=0)
    assert truth.files() == []


def test_a_master_that_execs_itself_loses_nothing(truth: Truth, collector: Collector) -> None:
    """SIGHUP: the master ends its workers, then executes itself, under the same process id."""
    keep = {"TELEMETRY_BATCH_MAX_AGE_MS": "3600000"}
    with uwsgi(UWSGI["pypi"], truth, collector.url, **keep) as server:
        server.wait_for("the first start", lambda: "uWSGI worker 4" in server.output())
        first = truth.noted()
        assert {pid for pid, _ in first} == {server.process.pid}
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("the second start", lambda: truth.count() >= 2 * AT_START)
        server.wait_for("it answers", lambda: server.get("/emit?n=5") == 5)
        server.kill()
    assert {pid for pid, _ in truth.noted()} >= {server.process.pid}
    truth.drain(collector.url)
    sums = assert_nothing_lost(truth, collector, most_duplicates=BATCH)
    assert sums.accepted == 2 * AT_START + 5
    assert truth.files() == []
