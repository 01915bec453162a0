"""Every way to end a fleet or a worker, with work in flight: who may finish, who is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from fleets import NEVER_MS, Fleet, Fleets, alive, group, until

MODES = ["call", "zygote", "self"]


def make(
    fleets: Fleets,
    mode: str,
    script: str,
    count: int = 2,
    limits: dict[str, Any] | None = None,
    **more: Any,
) -> Fleet:
    """A fleet of one of the three kinds of workers."""
    if mode == "zygote":
        more["mode"] = "zygote"
    kind = mode.replace("zygote", "call")
    return fleets.make(group(script, count, kind=kind, **(limits or {})), **more)


def at_last(what: Callable[[], bool]) -> None:
    """True sooner or later: for what the product gives two seconds for, whatever it is told, which
    a busy machine may let go by. One that gives none is never in time."""
    assert any(what() for _ in range(10))


def outcomes(fleet: Fleet) -> dict[str, Any]:
    """Its last words."""
    lines = [json.loads(line) for line in fleet.stderr().splitlines() if line.startswith("{")]
    (ended,) = [line["ended"] for line in lines if "ended" in line]
    return dict(ended)


def killed(slot: dict[str, Any]) -> bool:
    """Whether it got KILL, by the fleet's last words: who is not dead two seconds later, on a busy
    machine, is waited for no longer."""
    return bool(slot["abandoned"] or slot["last_exit"]["signal"] == signal.SIGKILL)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "how", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda s: s.name
)
def test_jobs_in_flight_end_well(fleets: Fleets, mode: str, how: signal.Signals) -> None:
    def ended_well() -> bool:
        fleet = make(fleets, mode, "ready,work=200")
        fleet.until_log("open", 2)
        fleet.until_ready(2)
        fleet.signal(how)
        code = fleet.end()
        if how == signal.SIGQUIT and code == 1:
            return False
        assert code == 0, fleet.tell()
        assert len(fleet.log("closed")) == len(fleet.log("end")) == len(fleet.log("begin")) == 2, (
            fleet.tell()
        )
        assert not fleet.processes()
        ended = outcomes(fleet)
        assert ended["code"] == 0
        assert [slot["last_exit"]["cause"] for slot in ended["slots"]] == ["stopped"] * 2
        return True

    at_last(ended_well)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("how", "grace_ms", "least"),
    [(signal.SIGTERM, 600, 0.6), (signal.SIGQUIT, NEVER_MS, 2.0)],
    ids=["TERM", "QUIT"],
)
def test_who_takes_longer_is_killed(
    fleets: Fleets, mode: str, how: signal.Signals, grace_ms: int, least: float
) -> None:
    # An hour's item, which is cut short: else there is no end.
    script = f"ready,s0?beat,s1?note=open,s1?item={NEVER_MS},s1?note=closed"
    fleet = make(fleets, mode, script, grace_ms=grace_ms)
    fleet.until_ready(2)
    fleet.until_log("open")
    began = time.monotonic()
    fleet.signal(how)
    assert fleet.end() == 1, fleet.tell()
    assert time.monotonic() - began >= least - 0.05
    assert not fleet.log("closed")
    until("nobody is left", lambda: not fleet.processes())
    assert next(killed(slot) for slot in outcomes(fleet)["slots"] if slot["slot"] == 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_second_request_is_at_once(fleets: Fleets, mode: str, again: signal.Signals) -> None:
    fleet = make(fleets, mode, "ready,forever", 3)
    fleet.until_ready(3)
    fleet.signal(signal.SIGTERM)
    fleet.until_status(
        "draining", lambda s: s["state"] == "draining" and "draining" in s["reasons"]
    )
    code, _ = fleet.get("/readyz")
    assert code == 503
    assert len(fleet.pids()) == 3, "they are given time"
    fleet.signal(again)
    assert fleet.end() == 1
    until("nobody is left", lambda: not fleet.processes())


def test_quit_shortens_a_drain(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,forever"))
    fleet.until_ready(1)
    fleet.signal(signal.SIGTERM)
    fleet.until_status("draining", lambda s: s["state"] == "draining")
    fleet.signal(signal.SIGQUIT)
    assert fleet.end() == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("how", "cause", "flight"),
    [
        (signal.SIGTERM, "exit0", "finished"),
        (signal.SIGINT, "signal", "lost"),
        (signal.SIGQUIT, "signal", "lost"),
        (signal.SIGKILL, "signal", "lost"),
    ],
    ids=["TERM", "INT", "QUIT", "KILL"],
)
def test_a_signal_to_one_worker(
    fleets: Fleets, mode: str, how: signal.Signals, cause: str, flight: str
) -> None:
    fleet = make(
        fleets,
        mode,
        "ready,1?s0?work=100,beat",
        limits={"healthy_after_ms": 1},
    )
    fleet.until_log("open")
    fleet.until_ready(2)
    pids = fleet.pids()
    os.kill(pids[0], how)
    status = fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 2 and s["workers"][0]["incarnation"] == 2
    )
    assert fleet.pids()[1] == pids[1]
    last = status["workers"][0]["last_exit"]
    assert last["cause"] == cause
    assert last["signal"] == (None if cause == "exit0" else how.name)
    done = [line.pid for line in fleet.log("closed")]
    assert (pids[0] in done) == (flight == "finished")
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("word", ["exit=3", "_exit=3", "return=3"])
def test_a_job_that_ends_its_process(fleets: Fleets, mode: str, word: str) -> None:
    fleet = make(fleets, mode, f"ready,begin=0,1?s1?{word},beat", options="atexit")
    status = fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 2 and s["workers"][1]["incarnation"] == 2
    )
    last = status["workers"][1]["last_exit"]
    assert (last["cause"], last["code"], last["signal"]) == ("exit", 3, None)
    assert status["workers"][0]["incarnation"] == 1
    assert fleet.stop() == 0, fleet.tell()


def test_one_of_64_that_ignores_term_costs_one_grace(fleets: Fleets) -> None:
    """Nor do six of them cost six: that would be more than half a minute."""
    grace_s, deaf = 6, (3, 17, 29, 41, 53, 63)
    script = ",".join(f"s{slot}?ignore=15,s{slot}?forever" for slot in deaf)
    fleet = fleets.make(group(f"ready,{script},beat", 64), grace_ms=grace_s * 1000)
    fleet.until_ready(64)
    pids = fleet.pids()
    assert len(pids) == 64
    began = time.monotonic()
    fleet.signal(signal.SIGTERM)
    others = [pid for slot, pid in pids.items() if slot not in deaf]
    until("all others are dead", lambda: not any(alive(pid) for pid in others))
    others_took = time.monotonic() - began
    assert fleet.end() == 1
    took = time.monotonic() - began
    assert grace_s - 0.05 <= took < 5 * grace_s, took
    # As long as nobody was slow, nobody else was killed.
    struck = [slot["slot"] for slot in outcomes(fleet)["slots"] if killed(slot)]
    if others_took < grace_s:
        assert struck == list(deaf)
    assert set(struck) >= set(deaf)


def test_a_warning_before_the_end_for_those_that_asked_for_it(fleets: Fleets) -> None:
    def warned() -> bool:
        fleet = fleets.make(
            group("dumps,ready,forever", 2, name="asked"),
            group("usr1,ready,forever", 2, name="silent"),
            grace_ms=2600,
        )
        fleet.until_ready(4)
        fleet.signal(signal.SIGTERM)
        assert fleet.end() == 1
        names = {slot["slot"]: slot["name"] for slot in outcomes(fleet)["slots"]}
        # Who notes it lives.
        told = [names[line.slot] for line in fleet.log("usr1")]
        assert set(told) <= {"asked"}
        return len(told) == 2

    at_last(warned)


def test_a_short_grace_has_no_warning(fleets: Fleets) -> None:
    fleet = fleets.make(group("dumps,ready,forever"), grace_ms=300)
    fleet.until_ready(1)
    assert fleet.stop() == 1
    assert not fleet.log("usr1")


def test_nobody_is_forked_after_a_stop(fleets: Fleets) -> None:
    """Workers that crash in their drain are not replaced."""
    fleet = fleets.make(group(f"ready,until={NEVER_MS},sleep=100,die=11", 8, healthy_after_ms=1))
    fleet.until_ready(8)
    fleet.signal(signal.SIGTERM)
    assert fleet.end() == 0, fleet.tell()
    assert len(fleet.log("begin")) == 8
    assert not fleet.processes()


def test_int_of_a_terminal_reaches_the_supervisor_alone(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,work=200", 2), prefix=("setsid", "--wait"))
    fleet.until_ready(2)
    fleet.until_log("open", 2)
    pids = list(fleet.pids().values())
    supervisor = fleet.status()["supervisor"]["pid"]
    groups = {os.getpgid(pid) for pid in pids}
    assert groups == set(pids), "each leads a group of its own"
    os.killpg(os.getpgid(supervisor), signal.SIGINT)
    fleet.end()
    assert len(fleet.log("closed")) == 2, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
def test_stop_while_it_starts(fleets: Fleets, mode: str) -> None:
    fleet = make(fleets, mode, "sleep=300,ready,beat", 4)
    fleet.until_log("begin", 1)
    assert fleet.stop() == 0, fleet.tell()
    assert not fleet.processes()
