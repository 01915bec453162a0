"""libtelemetry.gunicorn in real Gunicorns: every request once, and workers that have numbers."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import libtelemetry.gunicorn as module
from access_kit import Counted, arrived, assert_all
from harness import (
    BIN,
    EXAMPLES,
    PATIENCE,
    Collector,
    Program,
    Server,
    compare,
    environment,
    free_port,
    load,
    total,
    wait_until,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
WORKERS = {
    "sync": [],
    "gthread": ["-k", "gthread", "--threads", "4"],
    "gevent": ["-k", "gevent"],
}
# Whose requests Gunicorn does not tell its hooks about, or not enough.
ASGI = {"uvicorn": "uvicorn_worker.UvicornWorker", "asgi": "asgi"}
# Nothing but a flush at the end delivers.
LATE = {"TELEMETRY_BATCH_MAX_AGE_MS": "3600000"}


def command(
    port: int, directory: Path, *args: str, app: str = "access_app:application"
) -> list[str]:
    argv = [str(BIN / "gunicorn"), "-c", str(EXAMPLES / "gunicorn_conf.py")]
    argv += ["-b", f"127.0.0.1:{port}", "--control-socket", str(directory / "gunicorn.ctl")]
    # A worker that a busy machine keeps waiting is not one that hangs.
    argv += ["--timeout", "600", "--graceful-timeout", "100"]
    return [*argv, *args, app]


def gunicorn(
    collector: Collector,
    directory: Path,
    *args: str,
    app: str = "access_app:application",
    **env: str,
) -> Counted:
    port = free_port()
    argv = command(port, directory, *args, app=app)
    env.setdefault("TELEMETRY_CONTEXT", '{"number": "$worker"}')
    settings = environment(collector.url, **env)
    return Counted(argv, port, directory / "gunicorn.log", settings)


@pytest.mark.parametrize("kind", WORKERS)
def test_every_request_and_every_event_arrives_once(
    kind: str, collector: Collector, tmp_path: Path
) -> None:
    file = tmp_path / "file.json"
    file.write_text(json.dumps(list(range(5000))))
    begun, go = tmp_path / "begun", tmp_path / "go"
    env = {"FILE": str(file), "BEGUN": str(begun), "GO": str(go), **LATE}
    with gunicorn(collector, tmp_path, *WORKERS[kind], **env) as server:
        taken = [(pid, seq) for pid, seq in server.get("/startup")]
        taken += load(server, requests=100)
        server.ask(
            "GET", "/missing%22%ff%c3%a9?token=secret", traceparent=f"00-{TRACE}-{'1' * 16}-01"
        )
        server.ask("POST", "/boom")
        server.ask("GET", "/late")
        server.ask("GET", "/file")
        server.ask("HEAD", "/startup")
        # It is answered although the server is told to stop meanwhile, and reported.
        slow = threading.Thread(target=server.ask, args=("GET", "/slow"))
        slow.start()
        server.wait_for("the slow request is there", begun.exists)
        since = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("the signal is heard", lambda: "Handling signal: term" in server.output())
        waited = time.monotonic() - since
        go.touch()
        slow.join()
        server.process.wait(PATIENCE)
    found = assert_all(server, taken, collector)
    assert server.answered[404] == 2, "the slow one, too"
    routes = {(event["method"], event["route"]): event for event in found.requests}
    missing = routes["GET", '/missing"\ufffd\xe9']
    assert missing["trace_id"] == TRACE
    assert "secret" not in str(missing)
    assert routes["POST", "/boom"]["exception"] == "builtins.ValueError"
    assert routes["POST", "/boom"]["status"] == 500
    late = routes["GET", "/late"]
    assert (late["exception"], late["status"], late["bytes"]) == ("builtins.LookupError", 200, 5)
    assert routes["GET", "/file"]["bytes"] == file.stat().st_size
    assert routes["HEAD", "/startup"]["bytes"] == 0
    assert routes["GET", "/slow"]["duration_ms"] >= waited * 1000
    failed = [event for event in found.requests if "exception" in event or "aborted" in event]
    assert len(failed) == 2
    numbers = found.numbers()
    assert numbers.pop(0) == {taken[0][0]}, "the master has none"
    assert set(numbers) == {1, 2, 3, 4}
    assert all(len(pids) == 1 for pids in numbers.values()), numbers


def test_a_replacement_has_the_number_of_the_worker_that_it_replaces(
    collector: Collector, tmp_path: Path
) -> None:
    with gunicorn(collector, tmp_path, "--max-requests", "15") as server:
        taken = [(pid, seq) for pid, seq in server.get("/startup")]
        taken += load(server, requests=200)
        server.stop()
    found = assert_all(server, taken, collector)
    numbers = found.numbers()
    numbers.pop(0)
    assert set(numbers) == {1, 2, 3, 4}
    pids = set.union(*numbers.values())
    assert len(pids) == sum(map(len, numbers.values())) >= 8, "one number a process"


@pytest.mark.parametrize("kind", ASGI)
def test_asgi_workers_have_numbers_and_leave_requests_to_the_middleware(
    kind: str, collector: Collector, tmp_path: Path
) -> None:
    with gunicorn(collector, tmp_path, "-k", ASGI[kind], app="asgi:application") as server:
        taken = [(pid, seq) for pid, seq in server.get("/startup")]
        taken += load(server, requests=40)
        server.stop()
    collector.wait_unique(len(taken))
    found = arrived(collector)
    sums = total(compare(taken, found.app))
    assert (sums.lost, sums.duplicates, sums.unknown) == (0, 0, 0), sums
    assert found.requests == []
    assert set(found.numbers()) == {0, 1, 2, 3, 4}


# Gunicorn as it is, but a busy machine's time is not what it judges by: it times out nobody but the
# worker that hangs, and sends SIGKILL when the test says so; the hook that delivers has until then.
PATIENT = """
import os
import signal
import time
from pathlib import Path
from typing import Any

import libtelemetry.gunicorn
from libtelemetry.gunicorn import *

preload_app = True
libtelemetry.gunicorn._ABORT_MS = 60_000


def on_starting(server):
    begun, go = Path(os.environ["BEGUN"]), Path(os.environ["GO"])
    murder_workers, kill_worker = server.murder_workers, server.kill_worker

    def murder_who_hangs():
        hangs = int(begun.read_text()) if begun.exists() else 0
        for pid, worker in server.WORKERS.items():
            if pid != hangs:
                worker.tmp.notify()
        murder_workers()

    def kill_when_told(pid, sig):
        end = time.monotonic() + 240
        while sig == signal.SIGKILL and not go.exists() and time.monotonic() < end:
            time.sleep(0.01)
        kill_worker(pid, sig)

    server.murder_workers, server.kill_worker = murder_who_hangs, kill_when_told
"""


def test_workers_that_do_not_end_have_delivered_before_they_are_killed(
    collector: Collector, tmp_path: Path
) -> None:
    """One is timed out, one is told to stop; neither comes to the end of its interpreter."""
    config, begun, go = (tmp_path / name for name in ("patient.py", "begun", "go"))
    config.write_text(PATIENT)
    args = ["-c", str(config), "-w", "2", "--timeout", "1", "--graceful-timeout", "1"]
    env = {"BEGUN": str(begun), "GO": str(go), **LATE}
    with gunicorn(collector, tmp_path, *args, **env) as server:

        def hang() -> None:
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                server.get("/stubborn")

        thread = threading.Thread(target=hang)
        thread.start()
        # What the master has taken is the master's, and may come at its end.
        wait_until("the events of the worker", lambda: len(of_workers(server, collector)) >= 5)
        first = of_workers(server, collector)
        assert killed(server) == 0
        go.touch()
        server.wait_for("the worker is killed", lambda: killed(server) == 1)
        thread.join()
        go.unlink()
        assert len(first) == 5
        assert {event["pid"] for event in first} == {int(begun.read_text())}
        taken = [(pid, seq) for pid, seq in server.get("/startup")]
        master = len(taken)
        # Python joins the thread that it starts before it calls what is registered with atexit.
        taken += (here := [(pid, seq) for pid, seq in server.get("/thread")])
        taken += load(server, requests=10, threads=1, workers=2)
        taken += [(event["pid"], event["seq"]) for event in first]
        server.process.send_signal(signal.SIGTERM)
        count = len(taken) - master + server.answered.total()
        wait_until("all others", lambda: len(of_workers(server, collector)) >= count)
        go.touch()
        server.process.wait(PATIENCE)
    ended = {pid for pid, _ in taken if f"at exit of {pid}\n" in server.output()}
    hung = {int(begun.read_text()), here[0][0]}
    assert {pid for pid, _ in taken} - ended == hung, "the thread was in the way"
    assert_all(server, taken, collector)


def of_workers(server: Server, collector: Collector) -> list[dict[str, Any]]:
    """What has come that is not the master's."""
    found = arrived(collector)
    return [one for one in found.app + found.requests if one["pid"] != server.process.pid]


def killed(server: Server) -> int:
    """How many workers Gunicorn says it has killed."""
    return server.output().count("was sent SIGKILL")


OWN = """
import libtelemetry.gunicorn
from libtelemetry import Client
from libtelemetry.gunicorn import *

libtelemetry.gunicorn.client = Client(context={{"own": True, "number": "$worker"}})

def post_fork(server, worker):
    libtelemetry.gunicorn.post_fork(server, worker)
    server.log.info("mine, too")

def post_request(worker, req, environ, resp):
    {post_request}
"""


def test_hooks_of_ones_own_and_a_client_of_ones_own(collector: Collector, tmp_path: Path) -> None:
    config = tmp_path / "own.py"
    config.write_text(
        OWN.format(post_request="libtelemetry.gunicorn.post_request(worker, req, environ, resp)")
    )
    with gunicorn(collector, tmp_path, "-c", str(config), "-w", "2") as server:
        load(server, requests=10, workers=2)
        server.stop()
    assert server.output().count("mine, too") == 2
    found = arrived(collector)
    assert len(found.requests) == server.answered.total()
    assert all(event["own"] is True and event["worker"] in (1, 2) for event in found.requests)
    assert all("own" not in event for event in found.app)


def test_without_access_there_is_no_client_and_no_event(
    collector: Collector, tmp_path: Path
) -> None:
    with gunicorn(collector, tmp_path, "-w", "2", TELEMETRY_ACCESS="0") as server:
        taken = [(pid, seq) for pid, seq in server.get("/startup")]
        taken += load(server, requests=10, workers=2)
        server.stop()
    collector.wait_unique(len(taken))
    found = arrived(collector)
    assert found.requests == []
    assert set(found.numbers()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("TELEMETRY_ACCESS", "yes", "0 or 1"), ("TELEMETRY_QUEUE_BYTES", "many", "an integer from")],
)
def test_a_bad_setting_stops_gunicorn_at_start(
    name: str, value: str, allowed: str, tmp_path: Path
) -> None:
    argv = command(free_port(), tmp_path, "-w", "1", app="wsgiref.simple_server:demo_app")
    env = environment("http://127.0.0.1:9", **{name: value})
    with Program(argv, tmp_path / "gunicorn.log", env, cwd=EXAMPLES) as server:
        assert server.process.wait(PATIENCE) != 0
    assert re.search(
        f"ConfigError: .*{name.lower()}.* is .?{value}.?; allowed: {allowed}", server.output(), re.I
    )


def test_a_star_import_gives_hooks_alone() -> None:
    """Names that Gunicorn knows, with the number of arguments that it wants, and no setting."""
    from gunicorn.config import make_settings
    from gunicorn.util import get_arity

    settings = make_settings()
    for name in module.__all__:
        assert get_arity(getattr(module, name)) == get_arity(settings[name].get()), name
        assert settings[name].section == "Server Hooks"
    exported = subprocess.run(
        [str(BIN / "python"), "-c", "from libtelemetry.gunicorn import *; print(*dir())"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [name for name in exported if not name.startswith("__")] == sorted(module.__all__)
