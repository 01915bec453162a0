"""The health endpoint and what service managers are told; addresses taken, clients hostile."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import time
from typing import Any

import pytest

from fleets import WAIT_S, Fleet, Fleets, Manager, group, until


def get(port: int, path: str) -> tuple[int, str]:
    """Over TCP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_an_address_that_is_taken_shows(fleets: Fleets) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        fleet = fleets.make(group("ready,beat", 2), listen=address)
        fleet.until_log("begin", 2)
        fleet.until_said("no health endpoint")
        assert address.rpartition(":")[2] in fleet.stderr()
        board = fleet.until("both ready", lambda: (b := fleet.board())["slots"]["ready"] == 2 and b)
        assert board["liveness_probe_bound"] is False and board["probe"]["bound"] is False
        assert fleet.stop() == 0, fleet.tell()


def test_a_required_endpoint_that_cannot_listen_ends_it(fleets: Fleets) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fleet = fleets.make(
            group("ready,beat", 2),
            listen=f"127.0.0.1:{taken.getsockname()[1]}",
            require_probe=True,
        )
        assert fleet.end() == 69, fleet.tell()
        assert "no health endpoint" in fleet.stderr()
    assert not fleet.log("begin")


def test_slow_clients_hold_nobody_up(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 3, healthy_after_ms=1), listen="127.0.0.1:0")
    board = fleet.until("ready", lambda: (b := fleet.board())["slots"]["ready"] == 3 and b)
    port = board["probe"]["port"]
    slow = []
    for number in range(60):
        one = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        # Some say nothing, some half a request, some ask and do not read, some send far too much.
        with contextlib.suppress(OSError):
            one.sendall(
                [b"", b"GET /st", b"GET /status HTTP/1.1\r\nHost: x\r\n", b"X" * 60_000][number % 4]
            )
        slow.append(one)
    pids = fleet.board()
    victims = [worker["pid"] for worker in pids["workers"]]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    fleet.until(
        "all replaced although it is besieged",
        lambda: (
            (b := fleet.board())["slots"]["ready"] == 3
            and b["restarts"]["by_cause"].get("signal") == 3
        ),
    )

    def answered() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return get(port, "/livez")[0] == 200
        return False

    until("others are answered", answered, tell=fleet.tell)
    until("the slow ones are dropped", lambda: all(closed(one) for one in slow), tell=fleet.tell)
    for one in slow:
        one.close()
    assert fleet.stop() == 0, fleet.tell()


def closed(one: socket.socket) -> bool:
    """Whether the other end is done with it; what it said is read away."""
    one.setblocking(False)
    try:
        while one.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_paths_and_methods(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,items=20", 2))
    fleet.until_ready(2)
    assert fleet.get("/livez")[0] == fleet.get("/readyz")[0] == fleet.get("/metrics")[0] == 200
    assert fleet.get("/nothing")[0] == 404
    live, status = json.loads(fleet.get("/livez?verbose")[1]), fleet.status()
    assert status["schema"] == 1 and live.keys() <= status.keys()
    assert status["supervisor"]["pid"] == fleet.pid
    fleet.until_status(
        "items are counted",
        lambda s: s["totals"]["done"] and s["totals"]["failed"] and s["totals"]["dead"],
    )
    metrics = fleet.get("/metrics")[1]
    for name in (
        "workers",
        "restarts_total",
        "worker_beat_age_seconds",
        "worker_items_total",
        "item_seconds_bucket",
        "live",
    ):
        assert f"\ntelemetry_fleet_{name}" in metrics, metrics
    labels = re.findall(r'(\w+)="([^"]*)"', metrics)
    assert labels and not any("pid" in name for name, _ in labels), "no pids: they have no bound"
    others = {value for name, value in labels if name not in ("le", "slot", "version", "abi")}
    assert not others & {str(pid) for pid in fleet.pids().values()}
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(WAIT_S)
    raw.connect(str(fleet.socket))
    raw.sendall(b"HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = b""
    while part := raw.recv(4096):
        answer += part
    raw.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and body == b""
    assert fleet.stop() == 0, fleet.tell()
    assert not fleet.socket.exists()


def managed(
    fleets: Fleets, *groups: list[str], watchdog_us: int = 400_000, **more: Any
) -> tuple[Fleet, Manager]:
    manager = fleets.manager()
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": str(watchdog_us)}
    return fleets.make(*groups, env=env, **more), manager


def test_a_service_manager_is_told_when_it_is_ready_lives_and_stops(fleets: Fleets) -> None:
    fleet, manager = managed(
        fleets,
        group("f?ready,f?beat,sleep=100", 1, crash_limit=1000),
        intensity=10_000,
        watchdog_us=2_000_000,
    )
    fleet.until_log("begin", 2)
    assert manager.count("READY") == 0, "nobody is ready yet"
    fleet.flag.touch()
    fleet.until_ready(1)
    until("READY", lambda: manager.count("READY") == 1, tell=fleet.tell)
    fed = manager.count("WATCHDOG")
    until("it is fed", lambda: manager.count("WATCHDOG") >= fed + 3, tell=fleet.tell)
    assert manager.count("STOPPING") == 0
    assert fleet.stop() == 0, fleet.tell()
    manager.close()  # all is heard
    assert manager.count("STOPPING") == 1
    assert manager.count("READY") == 1
    (stopping,) = [message for message in manager.told if "STOPPING" in message]
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) >= fleet.config["grace_ms"] * 1000, "all of it"


def test_the_watchdog_is_fed_only_while_it_is_live(fleets: Fleets) -> None:
    fleet, manager = managed(
        fleets, group("ready,f?die=9,beat", 1, crash_limit=2, backoff_base_ms=50), intensity=1
    )
    fleet.until_ready(1)
    until("it is fed", lambda: manager.count("WATCHDOG") >= 2, tell=fleet.tell)
    fleet.flag.touch()
    os.kill(fleet.pids()[0], signal.SIGKILL)
    fleet.until("not live", lambda: fleet.get("/livez")[0] == 503)
    manager.heard()
    fed, at = manager.count("WATCHDOG"), time.monotonic()
    until("four times its interval", lambda: time.monotonic() > at + 0.8)
    assert fleet.get("/livez")[0] == 503, fleet.tell()
    manager.heard()
    assert manager.count("WATCHDOG") <= fed + 1
    fleet.signal(signal.SIGTERM)
    fleet.end()


@pytest.mark.parametrize("path", ["/nonexistent/socket", "@nobody", "nonsense", "/"])
def test_a_manager_that_is_not_there_does_no_harm(fleets: Fleets, path: str) -> None:
    fleet = fleets.make(group("ready,beat"), env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "x"})
    fleet.until_ready(1)
    assert fleet.stop() == 0, fleet.tell()
