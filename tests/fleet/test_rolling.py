"""Replacing workers while the work goes on: HUP, recycling, resizing, pause, USR2."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from typing import Any

import pytest

from fleets import WAIT_S, Fleet, Fleets, alive, descriptors, group, program, put_program, until

MODES = ["call", "zygote", "self"]


def config_of(mode: str) -> tuple[str, dict[str, Any]]:
    """The kind of worker, and what the fleet is told."""
    return mode.replace("zygote", "call"), {"mode": "zygote"} if mode == "zygote" else {}


class Fewest:
    """How few and how many workers were ready at once, as often as can be asked."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.least, self.most, self.looks = 10**6, 0, 0

    def look(self) -> None:
        """Once more."""
        status = self.fleet.status()
        ready = status["slots"]["ready"]
        self.least, self.looks = min(self.least, ready), self.looks + 1
        self.most = max(self.most, sum(worker["pid"] is not None for worker in status["workers"]))

    def until(self, what: str, holds: Any) -> None:
        """Looks until it holds."""

        def tried() -> Any:
            for _ in range(5):
                self.look()
            return holds()

        self.fleet.until(what, tried)


@pytest.mark.parametrize("mode", MODES)
def test_hup_replaces_all_and_none_is_missed(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(group("sleep=30,ready,beat", 4, kind=kind, ready="call"), **config)
    fleet.until_ready(4)
    before = set(fleet.pids().values())
    fewest = Fewest(fleet)
    fleet.signal(signal.SIGHUP)
    fewest.until(
        "all are new",
        lambda: (
            len(now := set(fleet.pids().values())) == 4
            and not now & before
            and fleet.status()["slots"]["ready"] == 4
        ),
    )
    assert fewest.least >= 4, fleet.tell()
    assert fewest.most <= 5, "one beyond those wanted"
    status = fleet.status()
    assert status["restarts"]["by_cause"] == {"reloaded": 4} and status["live"] and status["ready"]
    # By what was noted: an old one's end comes only after a new one's beginning.
    begins = [line.us for line in fleet.log("begin")][4:]
    ends = [line.us for line in fleet.log("end")]
    assert len(begins) == len(ends) == 4
    assert all(begin < end for begin, end in zip(begins, ends, strict=True))
    assert not any(alive(pid) for pid in before)
    assert fleet.stop() == 0, fleet.tell()


def test_hup_stops_at_a_worker_that_does_not_become_ready(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("f?die=9,ready,beat", 3, backoff_base_ms=50, crash_limit=100), intensity=1000
    )
    fleet.until_ready(3)
    before = fleet.pids()
    fleet.flag.touch()
    fleet.signal(signal.SIGHUP)
    status = fleet.until_status("it stopped", lambda s: "reload_stopped:group=0" in s["reasons"])
    assert status["slots"]["ready"] == 3 and status["ready"], status["reasons"]
    assert set(fleet.pids().values()) == set(before.values()), "the old ones go on"
    fleet.flag.unlink()
    fleet.signal(signal.SIGHUP)
    fleet.until(
        "the next one goes through", lambda: not set(fleet.pids().values()) & set(before.values())
    )
    fleet.until_status("and says nothing", lambda s: not s["reasons"] and s["slots"]["ready"] == 3)
    assert fleet.stop() == 0, fleet.tell()


def test_hup_without_surge_takes_one_at_a_time(fleets: Fleets) -> None:
    fleet = fleets.make(group("sleep=20,ready,beat", 3), surge=0)
    fleet.until_ready(3)
    before = set(fleet.pids().values())
    fewest = Fewest(fleet)
    fleet.signal(signal.SIGHUP)
    fewest.until(
        "all are new", lambda: len(now := set(fleet.pids().values())) == 3 and not now & before
    )
    assert fewest.least >= 2 and fewest.most <= 3
    fleet.until_ready(3)
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
def test_one_more_and_one_fewer(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(
        group("ready,s0?begin=0,s1?begin=0,s0?forever,beat", 2, kind=kind, kill_ms=200),
        max_workers=4,
        grace_ms=500,
        **config,
    )
    fleet.until_ready(2)
    for want in (3, 4):
        fleet.signal(signal.SIGTTIN)
        fleet.until_status(
            "one more", lambda s, want=want: s["slots"]["want"] == s["slots"]["ready"] == want
        )
    busy = {slot: fleet.pids()[slot] for slot in (0, 1)}
    fleet.signal(signal.SIGTTIN)
    fleet.signal(signal.SIGTTOU)
    fleet.until_status("one fewer", lambda s: s["slots"]["want"] == s["slots"]["ready"] == 3)
    fleet.signal(signal.SIGTTOU)
    status = fleet.until_status(
        "two, and the others gone",
        lambda s: s["slots"]["want"] == s["slots"]["ready"] == 2 and s["slots"]["stopping"] == 0,
    )
    assert {slot: pid for slot, pid in fleet.pids().items() if slot < 2} == busy, (
        "the least busy go"
    )
    assert [one["last_exit"]["cause"] for one in status["workers"][2:]] == ["resized"] * 2
    assert status["restarts"]["total"] == 0 and not status["reasons"], "nobody took their place"
    assert fleet.stop() in (0, 1)


def test_usr1_says_the_status(fleets: Fleets) -> None:
    import json

    fleet = fleets.make(group("ready,beat", 2))
    fleet.until_ready(2)
    fleet.signal(signal.SIGUSR1)
    fleet.until_said('"schema":1')
    (line,) = [line for line in fleet.stderr().splitlines() if '"schema":1' in line]
    said = json.loads(line)["status"]
    assert said["slots"]["ready"] == 2 and said["supervisor"]["pid"] == fleet.pid
    fleet.until_ready(2)
    assert fleet.stop() == 0, fleet.tell()


def test_winch_pauses_and_goes_on(fleets: Fleets) -> None:
    items = fleets.items()
    fleet = fleets.make(group("ready,take=1", 2), env={"TEST_ITEMS": str(items.path)})
    fleet.until_ready(2)
    until("at work", lambda: len(items.acknowledged) > 20, tell=fleet.tell)
    pids = fleet.pids()
    fleet.signal(signal.SIGWINCH)
    status = fleet.until_status("paused", lambda s: s["reasons"] == ["paused"])
    assert status["live"] and not status["ready"]
    fleet.until_log("takes no more", 2)
    until("nothing is in flight", lambda: not items.in_flight(), tell=fleet.tell)
    count = len(items.acknowledged)
    fleet.until_status(
        "a while",
        lambda s, at=status: s["supervisor"]["uptime_s"] > at["supervisor"]["uptime_s"] + 0.5,
    )
    assert len(items.acknowledged) == count
    fleet.signal(signal.SIGWINCH)
    until("it goes on", lambda: len(items.acknowledged) > count + 20, tell=fleet.tell)
    assert fleet.pids() == pids and not fleet.status()["reasons"]
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("script", "limits"),
    [
        ("ready,items=5", {"max_items": 20}),
        ("ready,beat", {"max_age_ms": 600}),
        ("ready,1?leak=60,beat", {"max_rss": 40 << 20}),
    ],
    ids=["items", "age", "rss"],
)
def test_workers_that_had_their_time_are_replaced_first(
    fleets: Fleets, mode: str, script: str, limits: dict[str, int]
) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(
        group(script, 2, kind=kind, ready="call", jitter_pct=50, **limits), **config
    )
    fleet.until_ready(2)
    before = set(fleet.pids().values())
    fewest = Fewest(fleet)
    fewest.until("both are replaced", lambda: not before & set(fleet.pids().values()))
    assert fewest.least >= 2, fleet.tell()
    assert fewest.most <= 3
    status = fleet.status()
    assert status["restarts"]["by_cause"].get("recycled", 0) >= 2
    assert set(status["restarts"]["by_cause"]) <= {"recycled"} or all(
        not count for cause, count in status["restarts"]["by_cause"].items() if cause != "recycled"
    )
    assert (
        status["live"]
        and status["ready"]
        and all(worker["crashes_in_row"] == 0 for worker in status["workers"])
    )
    assert fleet.stop() == 0, fleet.tell()


class Callers(contextlib.AbstractContextManager["Callers"]):
    """Asks the endpoint without a pause; a connection that is refused is counted."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.answers, self.refused, self.done = fleet, 0, [], False
        self.thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self.done:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(WAIT_S)
                try:
                    one.connect(str(self.fleet.socket))
                except OSError as error:
                    self.refused.append(error)
                    continue
                # Whoever was being answered when the program changed may have to ask again.
                with contextlib.suppress(OSError):
                    one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if one.recv(100).startswith(b"HTTP/1.1 200"):
                        self.answers += 1
            time.sleep(0.001)

    def __enter__(self) -> Callers:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done = True
        self.thread.join()


@pytest.mark.parametrize("mode", MODES)
def test_usr2_becomes_a_new_program_with_the_same_workers(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    own = fleets.place / "program"
    put_program(program(), own)
    fleet = fleets.make(
        group("ready,beat", 3, kind=kind, healthy_after_ms=1), program_=own, **config
    )
    fleet.until_ready(3)
    pids = fleet.pids()
    inode = os.stat(f"/proc/{fleet.pid}/exe").st_ino
    with Callers(fleet) as callers:
        for turn in range(3):
            if turn == 2:  # the third time it is another file
                put_program(program(), own)
            fleet.signal(signal.SIGUSR2)
            fleet.until(
                "it took over",
                lambda turn=turn: fleet.stderr().count("takes over 3 worker(s)") == turn + 1,
            )
            status = fleet.until_ready(3)
            assert fleet.pids() == pids, fleet.tell()
            assert status["supervisor"]["pid"] == fleet.pid
            seen = callers.answers
            fleet.until("it answers", lambda seen=seen: callers.answers > seen)
        # A fork after it, and a death seen: the children are still its children.
        os.kill(pids[1], signal.SIGKILL)
        fleet.until_status(
            "replaced", lambda s: s["slots"]["ready"] == 3 and s["workers"][1]["incarnation"] == 2
        )
        os.kill(fleet.pids()[0], signal.SIGTERM)
        fleet.until_status(
            "and ends well",
            lambda s: s["slots"]["ready"] == 3 and s["workers"][0]["incarnation"] == 2,
        )
    assert callers.refused == [] and callers.answers > 5
    assert os.stat(f"/proc/{fleet.pid}/exe").st_ino != inode
    assert fleet.pids()[2] == pids[2]
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)
    assert len(fleet.log("begin")) == 5, "nobody was born beside those"


def test_usr2_with_a_broken_program_changes_nothing(fleets: Fleets) -> None:
    own = fleets.place / "program"
    put_program(program(), own)
    fleet = fleets.make(group("ready,beat", 2), program_=own)
    fleet.until_ready(2)
    pids = fleet.pids()
    own.unlink()
    own.write_text("no program\n")
    fleet.signal(signal.SIGUSR2)
    fleet.until_said("USR2: the new program cannot be run")
    assert fleet.pids() == pids and fleet.get("/readyz")[0] == 200
    put_program(program(), own)
    fleet.signal(signal.SIGUSR2)
    fleet.until_said("takes over 2 worker(s)")
    fleet.until_ready(2)
    assert fleet.pids() == pids
    assert fleet.stop() == 0, fleet.tell()


def test_usr2_leaks_nothing_and_keeps_counts(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,1?s0?die=9,items=5", 2, healthy_after_ms=1))
    fleet.until_status(
        "some work is done",
        lambda s: (
            s["totals"]["done"] > 3 and s["restarts"]["total"] == 1 and s["slots"]["ready"] == 2
        ),
    )
    fds = 0
    for turn in range(6):
        done = fleet.status()["totals"]["done"]
        fleet.signal(signal.SIGUSR2)
        fleet.until(
            "it took over",
            lambda turn=turn: fleet.stderr().count("takes over 2 worker(s)") == turn + 1,
        )
        status = fleet.until_ready(2)
        assert status["totals"]["done"] >= done, "counts only grow"
        assert status["restarts"]["by_cause"].get("signal") == 1, "those of restarts, too"
        if turn == 1:
            fds = descriptors(fleet.pid)
    # A connection of ours may have been among them, or may be among them yet.
    fleet.until("no more are open", lambda: descriptors(fleet.pid) <= fds)
    assert fleet.stop() == 0, fleet.tell()


def test_a_worker_that_dies_during_the_change_is_seen(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 6, healthy_after_ms=1), intensity=10_000)
    fleet.until_ready(6)
    for _ in range(4):
        victims = list(fleet.pids().values())[:2]
        os.kill(victims[0], signal.SIGKILL)
        fleet.signal(signal.SIGUSR2)
        os.kill(victims[1], signal.SIGKILL)
        fleet.until(
            "all six again, and none of the dead",
            lambda v=victims: (
                (p := fleet.pids())
                and not set(v) & set(p.values())
                and fleet.status()["slots"]["ready"] == 6
            ),
        )
    assert fleet.stop() == 0, fleet.tell()
    assert not fleet.processes()


def test_usr2_keeps_a_pause(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 2))
    fleet.until_ready(2)
    fleet.signal(signal.SIGWINCH)
    fleet.until_status("paused", lambda s: s["reasons"] == ["paused"])
    fleet.signal(signal.SIGUSR2)
    fleet.until_said("takes over 2 worker(s)")
    fleet.until_status(
        "still paused", lambda s: s["reasons"] == ["paused"] and s["slots"]["ready"] == 2
    )
    fleet.signal(signal.SIGWINCH)
    fleet.until_status("no longer", lambda s: s["reasons"] == [] and s["ready"])
    assert fleet.stop() == 0, fleet.tell()


def test_term_while_it_becomes_new(fleets: Fleets) -> None:
    """It is blocked across the exec, and waits for the newer program."""
    fleet = fleets.make(group("ready,beat", 2))
    fleet.until_ready(2)
    fleet.signal(signal.SIGUSR2)
    fleet.signal(signal.SIGTERM)
    assert fleet.end() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_all_at_once(fleets: Fleets) -> None:
    """HUP, more, fewer, pause and new programs in any order; what is wanted is there in the end."""
    fleet = fleets.make(group("ready,beat", 4), max_workers=8, intensity=10_000)
    fleet.until_ready(4)
    for number in [
        signal.SIGHUP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGWINCH,
        signal.SIGUSR2,
        signal.SIGUSR1,
        signal.SIGWINCH,
    ] * 4:
        fleet.signal(number)
        # Signals of one number that wait together are one: each is taken before the next.
        wakeups = fleet.until("taken", lambda: fleet.status()["supervisor"]["wakeups"] + 1)
        fleet.until("a turn later", lambda w=wakeups: fleet.status()["supervisor"]["wakeups"] > w)
    fleet.until_status(
        "four, unpaused",
        lambda s: s["slots"]["ready"] == s["slots"]["want"] == 4 and not s["reasons"],
    )
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)
