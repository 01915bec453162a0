"""Workers and supervisors that are killed at work: no acknowledged item is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest

from fleets import LONG, MEASURED, NEVER_MS, WAIT_S, Fleets, alive, exits, group, until

KILLS = 90 if LONG else 6


def counts(status: dict[str, Any]) -> dict[int, dict[str, int]]:
    """What each slot has counted."""
    return {worker["slot"]: worker["counters"] for worker in status["workers"]}


@pytest.mark.parametrize("kind", ["call", "zygote", "self"])
def test_killed_workers_lose_no_acknowledged_item(fleets: Fleets, kind: str) -> None:
    items = fleets.items()
    config: dict[str, Any] = {"mode": "zygote"} if kind == "zygote" else {}
    fleet = fleets.make(
        group(
            "ready,take=2",
            4,
            kind="call" if kind == "zygote" else kind,
            healthy_after_ms=1,
            crash_limit=1000,
        ),
        env={"TEST_ITEMS": str(items.path)},
        intensity=100_000,
        **config,
    )
    fleet.until_ready(4)
    dice, before = random.Random(kind), counts(fleet.status())
    struck: set[int] = set()
    began = time.monotonic()
    for kill in range(KILLS):
        pids = fleet.until("somebody is there", fleet.pids)
        # Those that were never struck first: every slot's turn comes.
        ours = {slot: pid for slot, pid in pids.items() if slot not in struck} or pids
        slot = dice.choice(sorted(ours))
        os.kill(ours[slot], signal.SIGKILL)
        struck.add(slot)
        # Forks are limited to two a second in the long run.
        at, seen = time.monotonic() + dice.uniform(0.2, 0.7), 0
        while time.monotonic() < at or seen <= kill:
            assert time.monotonic() < at + WAIT_S, fleet.tell()
            status = fleet.status()
            seen = status["restarts"]["by_cause"].get("signal", 0)
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
        lambda s: s["slots"]["ready"] == 4 and s["restarts"]["by_cause"].get("signal", 0) == KILLS,
    )
    assert struck == {0, 1, 2, 3}
    assert all(worker["restarts"] > 0 for worker in status["workers"])
    assert status["ready"] and status["live"], status["reasons"]
    seen = len(items.acknowledged)
    until("every slot gets on", lambda: len(items.acknowledged) > seen + 20, tell=fleet.tell)
    fleet.signal(signal.SIGWINCH)
    fleet.until_log("takes no more", 4)
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
    assert len(items.acknowledged) <= done <= len(items.acknowledged) + KILLS
    MEASURED.append(
        f"{kind}: {KILLS} kills in {time.monotonic() - began:.0f} s, "
        f"{len(items.acknowledged)} items, "
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
    # Those that end by themselves need no grace; the others are killed when it is over. What they
    # are given otherwise, by a program that was not told, is 25 s.
    grace_ms = NEVER_MS if script == "ready,beat" else 700
    config = {"mode": "zygote"} if mode == "zygote" else {}
    fleet = fleets.make(
        group(script, 3, kind=mode.replace("zygote", "call")), grace_ms=grace_ms, **config
    )
    fleet.until_log("begin", 3)
    if "ready" in script:
        fleet.until_ready(3)
    there = 5 if mode == "zygote" else 4
    fleet.until("all are there", lambda: len(fleet.processes()) == there)
    fleet.expects_life = False
    killed = time.monotonic()
    fleet.process.kill()
    fleet.process.wait()
    until("all gone", lambda: not fleet.processes(), tell=fleet.tell)
    if grace_ms != NEVER_MS:
        assert time.monotonic() - killed < grace_ms / 1000 + 20
    if script == "ready,beat":
        assert len(fleet.log("end")) == 3, "each had its time to end well"


def test_a_killed_supervisors_worker_finishes_its_item(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,work=200"))
    fleet.until_log("open")
    fleet.expects_life = False
    fleet.process.kill()
    fleet.process.wait()
    until("gone", lambda: not fleet.processes(), tell=fleet.tell)
    assert len(fleet.log("closed")) == len(fleet.log("end")) == 1, fleet.tell()


def test_a_stopped_worker_is_replaced_and_the_others_are_not_touched(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("ready,beat", 2),
        group("ready,beat", 1, name="ends", stale_ms=3000, dump_ms=100, kill_ms=200),
        group("ready,beat", 1, name="shown", stale_ms=3000, dump_ms=NEVER_MS),
    )
    fleet.until_ready(4)
    pids = fleet.pids()
    for slot in (2, 3):
        os.kill(pids[slot], signal.SIGSTOP)
    fleet.until_status(
        "seen as stale", lambda s: any(r.startswith("stale:slot=3,") for r in s["reasons"])
    )
    status = fleet.until_status("replaced", lambda s: s["slots"]["ready"] == 3 and exits(s, "ends"))
    assert status["slots"]["stale"] == 1
    assert not alive(pids[2])
    after = fleet.pids()
    assert [after[slot] for slot in (0, 1, 3)] == [pids[slot] for slot in (0, 1, 3)]
    assert [last["cause"] for last in exits(status, "ends")] == ["stale"]
    os.kill(pids[3], signal.SIGCONT)
    status = fleet.until_ready(4)
    assert status["restarts"]["by_cause"] == {"stale": 1} and not status["reasons"]
    assert fleet.stop() == 0, fleet.tell()


def test_a_stopped_supervisor_holds_nobody_up_and_blames_nobody(fleets: Fleets) -> None:
    stale_s = 6
    limits = {"stale_ms": stale_s * 1000, "dump_ms": 0, "kill_ms": 0}
    fleet = fleets.make(
        group("ready,items=5", 3, **limits),
        group("ready,1?beat_until_flag,1?hang,beat", 1, name="silent", **limits),
    )
    fleet.until_ready(4)
    pids = fleet.pids()

    def done() -> int:
        """By the scoreboard, for which nobody is asked."""
        count: int = fleet.board()["totals"]["done"]
        return count

    # From here on one of them hangs.
    fleet.signal(signal.SIGSTOP)
    fleet.flag.touch()
    seen, stopped = done(), time.monotonic()
    until("workers go on", lambda: done() > seen + 20)
    # Its workers are asleep as well, as after a machine's suspend: none of them can beat.
    for slot, pid in pids.items():
        if slot < 3:
            os.kill(pid, signal.SIGSTOP)
    asleep = time.monotonic()
    until("longer than any limit", lambda: time.monotonic() > asleep + stale_s + 0.5)
    woken = time.monotonic()
    assert woken > stopped + stale_s
    fleet.signal(signal.SIGCONT)
    until("it is back", lambda: fleet.board()["supervisor"]["late_ms_max"] > 1000)
    for slot, pid in pids.items():
        if slot < 3:
            os.kill(pid, signal.SIGCONT)
    seen = done()
    until("workers go on again", lambda: done() > seen + 20, tell=fleet.tell)
    fleet.until_said("was held up")
    # One grace, not immunity: the silent one is stale when that is over.
    status = fleet.until_status(
        "and hanging is still seen",
        lambda s: s["slots"]["ready"] == 4 and s["restarts"]["by_cause"].get("stale", 0) == 1,
    )
    assert status["restarts"]["total"] == 1, status
    heir = next(line for line in fleet.log("begin") if line.incarnation == 2)
    assert heir.us / 1e6 > woken + stale_s, "not before"
    after = fleet.pids()
    assert [after[slot] for slot in (0, 1, 2)] == [pids[slot] for slot in (0, 1, 2)], fleet.tell()
    assert fleet.stop() == 0, fleet.tell()
