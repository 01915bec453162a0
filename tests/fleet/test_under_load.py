"""Workers and supervisors that are killed at work: no acknowledged item is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest

from fleets import LONG, MEASURED, WAIT_S, Fleets, alive, group, until

SECONDS = 60 if LONG else 4


def counts(status: dict[str, Any]) -> dict[int, dict[str, int]]:
    """What each slot has counted."""
    return {worker["slot"]: worker["counters"] for worker in status["workers"]}


@pytest.mark.parametrize("kind", ["call", "zygote", "self"])
def test_killed_workers_lose_no_acknowledged_item(fleets: Fleets, kind: str) -> None:
    items = fleets.items()
    config: dict[str, Any] = {"mode": "zygote"} if kind == "zygote" else {}
    fleet = fleets.make(
        group("ready,take=2", 4, kind="call" if kind == "zygote" else kind, healthy_after_ms=1),
        env={"TEST_ITEMS": str(items.path)},
        intensity=100_000,
        **config,
    )
    fleet.until_ready(4)
    dice, kills, before = random.Random(kind), 0, counts(fleet.status())
    struck: set[int] = set()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        pids = fleet.pids()
        # Those that were never struck first: every slot's turn comes.
        if ours := {slot: pid for slot, pid in pids.items() if slot not in struck} or pids:
            slot = dice.choice(sorted(ours))
            os.kill(ours[slot], signal.SIGKILL)
            struck.add(slot)
            kills += 1
        # Forks are limited to two a second in the long run.
        at = time.monotonic() + dice.uniform(0.4, 0.9)
        while time.monotonic() < at:
            status = fleet.status()
            for slot, now in counts(status).items():
                lower = {
                    name: (before[slot][name], count)
                    for name, count in now.items()
                    if count < before[slot][name]
                }
                assert not lower, f"slot {slot} counted down: {lower}"
            before |= counts(status)
            time.sleep(0.02)
    status = fleet.until_status(
        "every slot at work again",
        lambda s: s["slots"]["ready"] == 4 and s["restarts"]["by_cause"].get("signal", 0) == kills,
    )
    assert struck == {0, 1, 2, 3}
    assert all(worker["restarts"] > 0 for worker in status["workers"])
    assert status["ready"] and status["live"], status["reasons"]
    seen = len(items.acknowledged)
    until("every slot gets on", lambda: len(items.acknowledged) > seen + 20, tell=fleet.tell)
    fleet.signal(signal.SIGWINCH)
    until(
        "nothing is in flight",
        lambda: fleet.status()["reasons"] == ["paused"] and not items.in_flight(),
    )
    done = sum(worker["counters"]["done"] for worker in fleet.status()["workers"])
    assert fleet.stop() == 0, fleet.tell()
    until("the server saw it", lambda: not items.takers())
    assert items.lost() == set()
    assert len(items.acknowledged) == len(set(items.acknowledged)), (
        "acknowledged, and handed out again"
    )
    # Counted before it is acknowledged: a kill between the two counts one item twice.
    assert len(items.acknowledged) <= done <= len(items.acknowledged) + kills
    MEASURED.append(
        f"{kind}: {kills} kills in {SECONDS} s, {len(items.acknowledged)} items, "
        f"{items.handed_again} again"
    )


# A program that ignores TERM is asked no more once its supervisor was killed.
OUTLIVE = [
    (mode, script)
    for mode in ("call", "zygote", "self")
    for script in ("ready,beat", "ready,forever", "hang")
]
OUTLIVE += [("call", "ready,ignore=15,forever"), ("zygote", "ready,ignore=15,forever")]


@pytest.mark.parametrize(("mode", "script"), OUTLIVE)
def test_nobody_outlives_a_killed_supervisor(fleets: Fleets, mode: str, script: str) -> None:
    grace_ms = 700
    config = {"mode": "zygote"} if mode == "zygote" else {}
    fleet = fleets.make(
        group(script, 3, kind=mode.replace("zygote", "call")), grace_ms=grace_ms, **config
    )
    fleet.until_log("begin", 3)
    if "ready" in script:
        fleet.until_ready(3)
    assert len(fleet.processes()) == (5 if mode == "zygote" else 4), fleet.tell()
    fleet.expects_life = False
    killed = time.monotonic()
    fleet.process.kill()
    fleet.process.wait()
    until("all gone", lambda: not fleet.processes(), tell=fleet.tell)
    took = time.monotonic() - killed
    assert took < grace_ms / 1000 + 5, took
    if script == "ready,beat":
        assert len(fleet.log("end")) == 3, "each had its time to end well"


def test_a_killed_supervisors_worker_finishes_its_item(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,note=open,item=400,note=closed,beat"), grace_ms=5000)
    fleet.until_log("open")
    fleet.expects_life = False
    fleet.process.kill()
    fleet.process.wait()
    until("gone", lambda: not fleet.processes(), tell=fleet.tell)
    assert len(fleet.log("closed")) == len(fleet.log("end")) == 1, fleet.tell()


def test_a_stopped_worker_is_replaced_and_the_others_are_not_touched(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("ready,beat", 3, stale_ms=600, dump_ms=100, kill_ms=200, healthy_after_ms=1),
        grace_ms=2000,
    )
    before = fleet.until_ready(3)
    pids = fleet.pids()
    os.kill(pids[1], signal.SIGSTOP)
    fleet.until_status(
        "seen as stale",
        lambda s: (
            s["slots"]["stale"] == 1 and any(r.startswith("stale:slot=1,") for r in s["reasons"])
        ),
    )
    status = fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 3 and s["workers"][1]["incarnation"] == 2
    )
    until("it is dead", lambda: not alive(pids[1]))
    after = fleet.pids()
    assert after[0] == pids[0] and after[2] == pids[2] and after[1] != pids[1]
    assert status["workers"][1]["last_exit"]["cause"] == "stale"
    assert status["restarts"]["by_cause"] == {**before["restarts"]["by_cause"], "stale": 1}
    assert fleet.stop() == 0, fleet.tell()


def test_a_stopped_supervisor_holds_nobody_up_and_blames_nobody(fleets: Fleets) -> None:
    items = fleets.items()
    fleet = fleets.make(
        group("ready,take=2", 3, stale_ms=1000, dump_ms=0, kill_ms=0),
        group("ready,1?hang,beat", 1, name="silent", stale_ms=3000, dump_ms=0, kill_ms=0),
        env={"TEST_ITEMS": str(items.path)},
    )
    fleet.until_ready(4)
    pids = fleet.pids()
    fleet.signal(signal.SIGSTOP)
    seen, stopped = len(items.acknowledged), time.monotonic()
    until("workers go on", lambda: len(items.acknowledged) > seen + 50)
    # Its workers are asleep as well, as after a machine's suspend: none of them can beat.
    for slot, pid in pids.items():
        if slot < 3:
            os.kill(pid, signal.SIGSTOP)
    until("longer than any limit", lambda: time.monotonic() > stopped + 4.5)
    fleet.signal(signal.SIGCONT)
    until("it is back", lambda: fleet.status()["supervisor"]["late_ms_max"] > 1000)
    for slot, pid in pids.items():
        if slot < 3:
            os.kill(pid, signal.SIGCONT)
    until("workers go on again", lambda: len(items.acknowledged) > seen + 200, tell=fleet.tell)
    status = fleet.status()
    assert fleet.pids() == pids, fleet.tell()
    assert status["restarts"]["total"] == 0, status
    fleet.until_said("was held up")
    # One grace, not immunity: the silent one is stale now.
    fleet.until_status(
        "and hanging is still seen",
        lambda s: s["restarts"]["by_cause"].get("stale", 0) == 1,
        seconds=WAIT_S,
    )
    assert fleet.stop() == 0, fleet.tell()
