"""OpenTelemetry in servers that fork: providers made before the fork, no hook and no flag.

The same judge as for plain events, but what arrives is read by OpenTelemetry's own classes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import BIN, ROOT, Server, free_port, load
from otlp_kit import OtlpSink, sdk_environment
from verdict import assert_exactly_once, run_and_stop

GUNICORN = [str(BIN / "gunicorn"), "--preload", "-w", "4"]
UWSGI = {
    "pypi": [str(BIN / "uwsgi"), "-H", str(ROOT / ".venv")],
    "debian": [str(shutil.which("uwsgi-core", path="/usr/bin")), "--plugin", "python3"],
}


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[OtlpSink]:
    with OtlpSink(tmp_path) as running:
        yield running


def gunicorn(sink: OtlpSink, directory: Path, signal: str, age: str, *args: str) -> Server:
    port = free_port()
    argv = [*GUNICORN, "-b", f"127.0.0.1:{port}", *args, "otel_app:application"]
    argv += ["--control-socket", str(directory / "gunicorn.ctl")]
    argv += ["--timeout", "600", "--graceful-timeout", "100"]
    # Not the library's own variable: those of OpenTelemetry must do.
    env = sdk_environment(age, SIGNAL=signal, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)
    return Server(argv, port, directory / "gunicorn.log", env)


def uwsgi(sink: OtlpSink, directory: Path, signal: str, age: str, build: str) -> Server:
    if not Path(UWSGI[build][0]).exists():
        pytest.skip(f"{UWSGI[build][0]} is missing: run tests/setup.sh")
    port = free_port()
    argv = [*UWSGI[build], "--http-socket", f"127.0.0.1:{port}", "--master", "-p", "4"]
    argv += [
        "--socket-timeout",
        "60",
        "--die-on-term",
        "--need-app",
        "--disable-logging",
        "--module",
        "otel_app:application",
    ]
    env = sdk_environment(age, SIGNAL=signal, OTEL_EXPORTER_OTLP_ENDPOINT=sink.url)
    for directory_ in env["PYTHONPATH"].split(os.pathsep):
        argv += ["--pythonpath", directory_]
    return Server(argv, port, directory / "uwsgi.log", env)


def assert_spans_are_different(sink: OtlpSink) -> None:
    """No worker goes on with the random numbers of its master: Python, and uWSGI, see to it."""
    spans = sink.records()
    assert len({span["span_id"] for span in spans}) == len(spans)
    assert len({span["trace_id"] for span in spans}) == len(spans)


@pytest.mark.parametrize(
    ("signal", "age", "args"),
    [
        ("traces", "newest", ()),
        ("logs", "newest", ()),
        ("traces", "year-old", ()),
        ("logs", "year-old", ()),
        ("traces", "newest", ("-k", "gthread", "--threads", "4")),
        ("traces", "newest", ("-k", "gevent")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_gunicorn(
    signal: str, age: str, args: tuple[str, ...], sink: OtlpSink, tmp_path: Path
) -> None:
    with gunicorn(sink, tmp_path, signal, age, *args) as server:
        run_and_stop(server, sink)
    if signal == "traces":
        assert_spans_are_different(sink)


@pytest.mark.parametrize(
    ("signal", "age", "build"),
    [
        ("traces", "newest", "pypi"),
        ("logs", "newest", "debian"),
        ("traces", "year-old", "debian"),
        ("logs", "year-old", "pypi"),
    ],
)
def test_uwsgi(signal: str, age: str, build: str, sink: OtlpSink, tmp_path: Path) -> None:
    with uwsgi(sink, tmp_path, signal, age, build) as server:
        run_and_stop(server, sink)
    if signal == "traces":
        assert_spans_are_different(sink)


@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_they_arrive_while_the_workers_live_and_without_a_thread_of_python(
    signal: str, sink: OtlpSink, tmp_path: Path
) -> None:
    with gunicorn(sink, tmp_path, signal, "newest") as server:
        ended = [(pid, seq) for pid, seq in server.get("/startup")]
        ended += load(server, requests=40)
        sink.wait_unique(len(ended))
        assert_exactly_once(ended, sink)
        for _ in range(8):
            found = server.get("/threads")
            assert found["python"] == ["MainThread"]
            assert len(found["system"]) <= 2, "the server's, and the client's sender"
            assert server.get("/flush") is True
        server.stop()
    assert_exactly_once(ended, sink)
