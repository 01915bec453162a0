"""The zygote: its end is nobody's end, and what it prepares may fail or hang."""

from __future__ import annotations

import contextlib
import os
import re
import signal

from fleets import Fleet, Fleets, alive, group, until


def zygotes(fleet: Fleet) -> list[int]:
    """All that there were."""
    return [int(pid) for pid in re.findall(r"zygote (\d+) begins", fleet.stderr())]


def test_a_killed_zygote_takes_no_worker_with_it(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("ready,beat", 3, healthy_after_ms=1), options="prepare", mode="zygote"
    )
    fleet.until_ready(3)
    (first,) = zygotes(fleet)
    pids = fleet.pids()
    os.kill(first, signal.SIGKILL)
    fleet.until_said(f"zygote {first} is gone")
    status = fleet.status()
    assert fleet.pids() == pids and status["ready"] and status["restarts"]["total"] == 0
    assert all(alive(pid) for pid in pids.values())
    os.kill(pids[1], signal.SIGKILL)
    fleet.until_status(
        "a new one makes its heir",
        lambda s: s["slots"]["ready"] == 3 and s["workers"][1]["incarnation"] == 2,
    )
    assert len(zygotes(fleet)) == 2
    assert [line.pid for line in fleet.log("prepare")] == zygotes(fleet), (
        "prepared once each, in the zygote"
    )
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_the_zygote_dies_over_and_over_while_it_works(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 4, healthy_after_ms=1), mode="zygote", intensity=10_000)
    fleet.until_ready(4)
    for _ in range(6):
        victims = list(fleet.pids().values())[:1]
        os.kill(victims[0], signal.SIGKILL)
        for zygote in zygotes(fleet)[-1:]:
            if alive(zygote):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(zygote, signal.SIGKILL)
        fleet.until(
            "all four again",
            lambda v=victims: (
                v[0] not in fleet.pids().values() and fleet.status()["slots"]["ready"] == 4
            ),
        )
    fleet.until("no worker that nobody knows", lambda: len(fleet.processes()) <= 1 + 1 + 4)
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_what_prepares_fails(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat"), options="prepare_fails", mode="zygote")
    fleet.expects_life = False
    fleet.until_said("what prepares the workers ended with 7")
    # Nobody was ever born: it cannot work here.
    assert fleet.end() == 71, fleet.tell()
    assert not fleet.log("begin")
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_what_prepares_hangs(fleets: Fleets) -> None:
    """The start's deadline runs for it, too; the supervisor is not held up."""
    fleet = fleets.make(group("ready,beat"), options="prepare_hangs", mode="zygote")
    fleet.until_log("prepare hang")
    assert fleet.get("/readyz")[0] == 503 and fleet.get("/livez")[0] in (200, 503)
    fleet = fleets.make(
        group("ready,beat", start_deadline_ms=500), options="prepare_hangs", mode="zygote"
    )
    fleet.expects_life = False
    first = fleet.until("there is one", lambda: zygotes(fleet))[0]
    until("it is ended", lambda: not alive(first), tell=fleet.tell)
    if fleet.process.poll() is None:
        fleet.signal(signal.SIGTERM)
    assert fleet.end() in (0, 1, 71), fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_stop_while_what_prepares_hangs(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("ready,beat", 3), options="prepare_hangs", mode="zygote", grace_ms=300
    )
    fleet.until_log("prepare hang")
    fleet.signal(signal.SIGTERM)
    fleet.end()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)
    assert not fleet.log("begin")


def test_hup_loads_anew(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 2), options="prepare", mode="zygote")
    fleet.until_ready(2)
    before = set(fleet.pids().values())
    fleet.signal(signal.SIGHUP)
    fleet.until("all new", lambda: len(now := set(fleet.pids().values())) == 2 and not now & before)
    assert len(fleet.log("prepare")) == 2
    assert fleet.stop() == 0, fleet.tell()


def test_a_group_that_is_added_later(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 2), options="orders", mode="zygote")
    fleet.until_ready(2)
    pids = fleet.pids()
    assert fleet.order("add late 2 call ready,beat") == 0
    fleet.until_ready(4)
    assert {slot: fleet.pids()[slot] for slot in pids} == pids
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_a_group_that_is_added_while_others_start(fleets: Fleets) -> None:
    """What the zygote before was asked for is not forgotten."""
    fleet = fleets.make(group("ready,beat", 4), options="orders,prepare_slow", mode="zygote")
    fleet.until_log("prepare slow")
    assert fleet.order("add late 2 call ready,beat") == 0
    fleet.flag.touch()
    fleet.until_ready(6)
    assert fleet.status()["restarts"]["total"] == 0, fleet.tell()
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)
    assert len(fleet.log("begin")) == 6


def test_hup_while_what_prepares_runs(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("ready,beat", 4, backoff_cap_ms=100), options="prepare_slow", mode="zygote"
    )
    fleet.until_log("prepare slow")
    fleet.signal(signal.SIGHUP)
    fleet.until_said("HUP came")
    fleet.flag.touch()
    fleet.until_ready(4)
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_a_stopped_zygote_is_no_matter_to_those_that_live(fleets: Fleets) -> None:
    """The deadline of the start that it was asked for ends it; the next one makes the worker."""
    fleet = fleets.make(
        group("ready,beat", 3, start_deadline_ms=3000, healthy_after_ms=1), mode="zygote"
    )
    fleet.until_ready(3)
    first = zygotes(fleet)[-1]
    pids = fleet.pids()
    os.kill(first, signal.SIGSTOP)
    os.kill(pids[0], signal.SIGKILL)
    fleet.until_status(
        "replaced",
        lambda s: s["slots"]["ready"] == 3 and s["workers"][0]["pid"] not in (None, pids[0]),
    )
    assert {slot: pid for slot, pid in fleet.pids().items() if slot} == {1: pids[1], 2: pids[2]}
    until("the stopped one is gone", lambda: not alive(first), tell=fleet.tell)
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_hup_with_what_cannot_be_prepared(fleets: Fleets) -> None:
    """Nobody is replaced but who dies, by what was prepared before; the next HUP may do better."""
    fleet = fleets.make(
        group("ready,beat", 2, healthy_after_ms=1), options="prepare_fails_by_flag", mode="zygote"
    )
    fleet.until_ready(2)
    before = fleet.pids()
    fleet.flag.touch()
    fleet.signal(signal.SIGHUP)
    status = fleet.until_status("said so", lambda s: "reload_stopped:group=0" in s["reasons"])
    assert status["live"] and fleet.pids() == before, fleet.tell()
    os.kill(before[0], signal.SIGKILL)
    fleet.until("replaced", lambda: len(now := fleet.pids()) == 2 and now[0] != before[0])
    fleet.until_ready(2)
    fleet.flag.unlink()
    between = set(fleet.pids().values())
    fleet.signal(signal.SIGHUP)
    fleet.until("new", lambda: len(now := set(fleet.pids().values())) == 2 and not now & between)
    assert fleet.until_ready(2)["reasons"] == [], fleet.tell()
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)
