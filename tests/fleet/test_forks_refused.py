"""No process to be had: at the start that is the fleet's end, later one slot's wait."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from fleets import Fleets, alive, group, until

USERS = itertools.count(61_000 + os.getpid() % 500 * 8)
"""RLIMIT_NPROC counts a user's processes and does not bind root: a user for each test."""

MODES = ["call", "zygote", "self"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")


def config_of(mode: str) -> tuple[str, dict[str, Any]]:
    """The kind of worker, and what the fleet is told."""
    return mode.replace("zygote", "call"), {"mode": "zygote"} if mode == "zygote" else {}


@pytest.mark.parametrize("mode", MODES)
def test_at_the_start(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    user = next(USERS)
    fleet = fleets.make(
        group("ready,beat", 3, kind=kind),
        owner=user,
        prefix=("prlimit", "--nproc=1:1"),
        **config,
    )
    fleet.expects_life = False
    assert fleet.end() == 71, fleet.tell()
    assert "Resource temporarily unavailable" in fleet.stderr()
    assert not fleet.log("begin")
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


@pytest.mark.parametrize("mode", MODES)
def test_later(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    user = next(USERS)
    fleet = fleets.make(
        group("ready,beat", 3, kind=kind, healthy_after_ms=1, backoff_cap_ms=200),
        options="orders",
        owner=user,
        **config,
    )
    fleet.until_ready(3)
    pids = fleet.pids()
    assert os.stat(f"/proc/{fleet.pid}").st_uid == user
    assert fleet.order("nproc 1") == 0
    if mode == "zygote":
        # Its limit is its own: with the next zygote comes the lower one.
        (zygote,) = map(int, re.findall(r"zygote (\d+) begins", fleet.stderr()))
        os.kill(zygote, signal.SIGKILL)
        fleet.until_said(f"zygote {zygote} is gone")
    os.kill(pids[1], signal.SIGKILL)
    status = fleet.until_status("the reason", lambda s: "fork_failed:EAGAIN" in s["reasons"])
    assert status["slots"]["ready"] == 2 and status["live"]
    assert {slot: pid for slot, pid in fleet.pids().items() if slot != 1} == {
        0: pids[0],
        2: pids[2],
    }
    fleet.until_status(
        "it tries again, and no healthy one is touched",
        lambda s: s["restarts"]["by_cause"].get("fork_failed", 0) >= 3 and s["slots"]["ready"] == 2,
    )
    assert fleet.order("nproc -1") == 0
    status = fleet.until_status(
        "all three again", lambda s: s["slots"]["ready"] == 3 and not s["reasons"]
    )
    assert alive(pids[0]) and alive(pids[2]) and status["ready"]
    assert fleet.stop() == 0, fleet.tell()


def pids_cgroup() -> Path | None:
    """A group of our own for processes, if the machine lets us make one."""
    for parent in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        place = parent / f"libtelemetry-{os.getpid()}"
        with contextlib.suppress(OSError):
            place.mkdir()
            if (place / "pids.max").exists():
                return place
            place.rmdir()
    return None


def test_the_limit_of_a_container(fleets: Fleets) -> None:
    place = pids_cgroup()
    if place is None:
        pytest.skip("no group for processes can be made here")
    try:
        fleet = fleets.make(group("ready,beat", 3, healthy_after_ms=1, backoff_cap_ms=200))
        fleet.until_ready(3)
        for pid in fleet.processes():
            (place / "cgroup.procs").write_text(str(pid))
        (place / "pids.max").write_text("2")
        pids = fleet.pids()
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pids[1], signal.SIGKILL)
        fleet.until_status("the reason", lambda s: "fork_failed:EAGAIN" in s["reasons"])
        assert fleet.pids()[2] == pids[2]
        (place / "pids.max").write_text("max")
        fleet.until_ready(3)
        assert fleet.stop() == 0, fleet.tell()
    finally:
        until("it is empty", lambda: not (place / "cgroup.procs").read_text())
        place.rmdir()


def test_descriptors_for_all_or_none(fleets: Fleets) -> None:
    """What a supervisor needs is there before it begins; its workers may have as many as before."""
    limited = ("prlimit", "--nofile=50:50")
    fleet = fleets.make(group("ready,beat", 30), prefix=limited)
    assert fleet.end() == 64, fleet.tell()
    assert "30 worker(s): their supervisor needs" in fleet.stderr()
    assert "allowed here: 50 (ulimit -n)" in fleet.stderr()
    assert not fleet.log("begin")
    for kind in ("call", "self"):
        limited = ("prlimit", "--nofile=50:300")
        fleet = fleets.make(group("ready,beat", 30, kind=kind), prefix=limited)
        fleet.until_ready(30)
        soft = (
            Path(f"/proc/{fleet.pids()[29]}/limits").read_text().split("Max open files")[1].split()
        )
        assert soft[:2] == ["50", "300"], fleet.tell()
        assert fleet.stop() == 0, fleet.tell()
