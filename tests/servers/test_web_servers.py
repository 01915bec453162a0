"""The logging handler and the middleware in servers that fork: every record and request, once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import (
    BIN,
    EXAMPLES,
    HERE,
    PATIENCE,
    ROOT,
    Collector,
    Server,
    compare,
    environment,
    free_port,
    load,
    total,
)

GUNICORN = [str(BIN / "gunicorn"), "--preload", "-w", "4"]
UWSGI = [
    "--master",
    "-p",
    "4",
    "--socket-timeout",
    "60",
    "--die-on-term",
    "--need-app",
    "--disable-logging",
]
SERVERS = {
    "gunicorn": [*GUNICORN, "web_app:application"],
    "gunicorn-gthread": [*GUNICORN, "-k", "gthread", "--threads", "4", "web_app:application"],
    "gunicorn-uvicorn": [
        *(*GUNICORN, "-k", "uvicorn_worker.UvicornWorker", "web_app:asgi_application")
    ],
    "uwsgi-pypi": [str(BIN / "uwsgi"), "-H", str(ROOT / ".venv"), *UWSGI],
    "uwsgi-debian": [
        *(str(shutil.which("uwsgi-core", path="/usr/bin")), "--plugin", "python3", *UWSGI)
    ],
}


class Counting(Server):
    """A server, and how many requests it has answered."""

    answered = 0

    def __enter__(self) -> Counting:
        return self

    def get(self, path: str, seconds: float = PATIENCE) -> Any:
        """The JSON that it answers."""
        found = super().get(path, seconds)
        self.answered += 1
        return found


def serve(kind: str, collector: Collector, directory: Path) -> Counting:
    argv, port = SERVERS[kind], free_port()
    if not Path(argv[0]).exists():
        pytest.skip(f"{argv[0]} is missing: run tests/setup.sh")
    if kind.startswith("gunicorn"):
        argv = [*argv, "-b", f"127.0.0.1:{port}"]
        argv += ["--control-socket", str(directory / "gunicorn.ctl")]
        argv += ["--timeout", "600", "--graceful-timeout", "100"]
    else:
        argv = [*argv, "--http-socket", f"127.0.0.1:{port}", "--module", "web_app:application"]
        for path in (ROOT / "python", EXAMPLES, HERE):
            argv += ["--pythonpath", str(path)]
    env = environment(collector.url, FILE=str(directory / "file.json"))
    return Counting(argv, port, directory / "server.log", env)


@pytest.mark.parametrize("kind", SERVERS)
def test_every_record_and_every_request_arrives_once(
    kind: str, collector: Collector, tmp_path: Path
) -> None:
    with serve(kind, collector, tmp_path) as server:
        logged = [(pid, seq) for pid, seq in server.get("/startup")]
        logged += load(server, requests=200, events=3, threads=1)
        if "uvicorn" not in kind:  # what the server itself sends is not in its way
            file = list(range(50_000))
            (tmp_path / "file.json").write_text(json.dumps(file))
            assert server.get("/file") == file
        server.stop()
    collector.wait_unique(len(logged) + server.answered)
    events = collector.events()
    sums = total(compare(logged, [event for event in events if "logger" in event]))
    assert (sums.lost, sums.duplicates, sums.unknown) == (0, 0, 0)
    requests = [event for event in events if event.get("event") == "request"]
    assert len(requests) == server.answered >= 200
    assert len(events) == len(logged) + len(requests)
    assert collector.stats()["duplicates"] == 0
    workers = Counter(event["worker"] for event in requests)
    assert set(workers) == {pid for pid, _ in logged} - {logged[0][0]}, "all but the master"
    assert {(event["method"], event["status"]) for event in requests} == {("GET", 200)}
    assert not any("aborted" in event or "exception" in event for event in requests)
