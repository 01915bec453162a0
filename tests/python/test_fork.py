"""Forks of a Python process: no warning, no wait, and both sides go on."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import pytest
from interpreters import interpreter

from harness import PATIENCE, Collector, environment


def settings(collector: Collector, request_ms: int = 60_000, **more: str) -> dict[str, str]:
    """The environment of FORKS."""
    return environment(collector.url, REQUEST_MS=str(request_ms), **more)


def run(
    python: str, script: str, collector: Collector, request_ms: int = 60_000
) -> tuple[dict[str, list[float]], str]:
    """What `script` printed as JSON, and its stderr."""
    done = subprocess.run(
        [python, "-W", "always", "-c", script],
        env=settings(collector, request_ms),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "{}"), done.stderr


FORKS = """
import os, sys, time
from libtelemetry import Client
client = Client(os.environ["TELEMETRY_ENDPOINT"], timeout_ms=int(os.environ["REQUEST_MS"]))
def fork():
    pid = os.fork()
    if pid == 0:
        ok = client.enqueue({"from": "child"}) and client.flush(60)
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
"""

AFTER_A_FLUSH = """
for n in range(10):
    assert client.enqueue({"from": "parent"})
    assert client.flush(60)
    fork()
"""

JUST_AFTER_AN_EVENT = """
for n in range(10):
    assert client.enqueue({"from": "parent"})
    fork()
assert client.flush(60)
"""


@pytest.mark.parametrize("version", ["3.12", "3.13"])
@pytest.mark.parametrize("script", [AFTER_A_FLUSH, JUST_AFTER_AN_EVENT], ids=["flushed", "sent"])
def test_a_fork_is_not_warned_about(version: str, script: str, collector: Collector) -> None:
    """CPython counts the threads of the process right after the fork, and warns if there are two.

    An error filter would prove nothing: CPython swallows the exception. The library gives its
    thread 5 ms to end, which a machine busy with other things may not: then the run is repeated.
    """
    end, warned = time.monotonic() + PATIENCE, []
    while not warned or time.monotonic() < end:
        _, stderr = run(interpreter(version), FORKS + script, collector)
        warned.append(stderr.count("DeprecationWarning"))
        assert collector.stats()["unique"] == 20 * len(warned)
        assert bool(warned[-1]) == bool(stderr), stderr
        # Of ten forks each; a thread that does not end at all makes each of them warn.
        if warned[-1] <= min(len(warned) - 1, 5):
            return
    raise AssertionError(f"warnings in each run of ten forks: {warned}")


def test_the_warning_is_seen_when_there_is_a_reason(collector: Collector) -> None:
    """The control: the same script with a thread of its own is warned about."""
    script = FORKS + "import threading; end = threading.Event()\n"
    script += "threading.Thread(target=end.wait).start(); fork(); end.set()"
    _, stderr = run(interpreter("3.12"), script, collector)
    assert "DeprecationWarning" in stderr


STALLED = (
    FORKS
    + """
import json, urllib.request
def seen():
    stats = urllib.request.urlopen(os.environ["TELEMETRY_ENDPOINT"] + "/stats").read()
    return json.loads(stats)["by_status"].get("stall", 0)
took, children = [], []
for n in range(15):
    assert client.enqueue({"from": "parent"})
    client.flush(0.02)
    while not seen():                     # the sender is inside a request now
        client.flush(0.02)
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        client.enqueue({"from": "child"})
        os._exit(0 if client.flush(60) else 1)
    took.append((time.perf_counter() - start) * 1000)
    children.append(pid)
print(json.dumps({"ms": took}))
urllib.request.urlopen(urllib.request.Request(
    os.environ["TELEMETRY_ENDPOINT"] + "/fault", b"", method="PUT")).read()
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
assert client.flush(60)
"""
)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_stalled_collector_does_not_stall_a_fork(version: str, collector: Collector) -> None:
    """A fork that waited for the request would wait for its whole time, which is 3 s."""
    collector.fault("stall")
    printed, _ = run(interpreter(version), STALLED, collector, request_ms=3000)
    print(f"fork beside a stalled request: {sorted(printed['ms'])} ms")
    assert statistics.median(printed["ms"]) < 1000
    events = [event["from"] for event in collector.events()]
    assert set(events) == {"parent", "child"}
    assert collector.stats()["unique"] == 30


def test_four_generations(collector: Collector) -> None:
    """A child's child's child: each has its own queue, and starts empty."""
    script = """
import os
from libtelemetry import Client
client = Client(os.environ["TELEMETRY_ENDPOINT"])
for depth in range(5):
    assert client.enqueue({"depth": depth})
    pid = os.fork()
    if pid:
        ok = client.flush(60) and client.stats().delivered == 1
        ok = os.waitpid(pid, 0)[1] == 0 and ok
        os._exit(0 if ok else 1)
    assert client.stats().accepted == 0
os._exit(0)
"""
    run(sys.executable, script, collector)
    assert sorted(event["depth"] for event in collector.events()) == list(range(5))


def test_flush_is_fine_as_the_first_call_of_a_child(collector: Collector) -> None:
    script = FORKS + (
        "client.enqueue({'from': 'parent'})\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(0 if client.flush(60) and client.shutdown(60) else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    run(sys.executable, script, collector)
    assert [event["from"] for event in collector.events()] == ["parent"], "flushed at exit"


def test_a_client_dropped_in_a_child_lives_on_in_the_parent(collector: Collector) -> None:
    script = FORKS + (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    client.enqueue({'from': 'child'})\n"
        "    del client\n"
        "    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "assert client.enqueue({'from': 'parent'}) and client.flush(60)\n"
    )
    run(sys.executable, script, collector)
    assert sorted(event["from"] for event in collector.events()) == ["child", "parent"]


def test_a_shut_client_stays_shut_in_a_child(collector: Collector) -> None:
    script = FORKS + (
        "client.shutdown(60)\n"
        "pid = os.fork()\n"
        "if pid == 0: os._exit(1 if client.enqueue({}) or not client.flush(60) else 0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    run(sys.executable, script, collector)
    assert collector.stats()["received"] == 0


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise SystemExit", "1/0"])
def test_the_end_of_the_interpreter_flushes(end: str, collector: Collector) -> None:
    script = FORKS + "client.enqueue({'from': 'parent'})\n" + end
    done = subprocess.run(
        [sys.executable, "-c", script], env=settings(collector), stderr=subprocess.DEVNULL
    )
    assert done.returncode == {"sys.exit(3)": 3, "1/0": 1}.get(end, 0)
    assert collector.stats()["unique"] == 1


def test_events_of_late_exit_functions_are_delivered(collector: Collector) -> None:
    script = (
        "import atexit\n"
        "atexit.register(lambda: client.enqueue({'from': 'atexit'}))\n" + FORKS + "client.flush(1)"
    )
    run(sys.executable, script, collector)
    assert collector.stats()["unique"] == 1


def test_sigterm_during_finalisation_loses_nothing(collector: Collector) -> None:
    """Finalisation gives SIGTERM its default action back; by then the queue must be empty."""
    script = FORKS + (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, me=os.getpid(), sig=signal.SIGTERM): kill(me, sig)\n"
        "sys.late = Late()\n"
        "client.enqueue({'from': 'parent'})\n"
    )
    subprocess.run([sys.executable, "-c", script], env=settings(collector), timeout=PATIENCE)
    assert collector.stats()["unique"] == 1


def test_the_end_does_not_wait_for_a_stalled_collector_for_long(collector: Collector) -> None:
    """But for the second that is the default, although the request may take an hour."""
    collector.fault("stall")
    script = FORKS + "client.enqueue({'from': 'parent'})"
    env = settings(collector, request_ms=3_600_000)
    del env["TELEMETRY_EXIT_TIMEOUT_MS"]
    subprocess.run([sys.executable, "-c", script], env=env, timeout=PATIENCE, check=True)


def test_os_forkers_of_c_need_no_python_hook(collector: Collector) -> None:
    """uWSGI forks like this: os.register_at_fork functions do not run."""
    script = FORKS + (
        "import ctypes\n"
        "hooked = []\n"
        "os.register_at_fork(after_in_child=lambda: hooked.append(1))\n"
        "client.enqueue({'from': 'parent'})\n"
        "pid = ctypes.PyDLL(None).fork()\n"
        "if pid == 0:\n"
        "    ok = client.enqueue({'from': 'child'}) and client.flush(60) and not hooked\n"
        "    os._exit(0 if ok else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    run(sys.executable, script, collector)
    assert sorted(event["from"] for event in collector.events()) == ["child", "parent"]
