"""Workers that do not start, hang, crash or grow; their neighbours are left alone."""

from __future__ import annotations

import os
import re
import signal
import socket
import time

import pytest

from fleets import (
    MEASURED,
    NEVER_MS,
    Fleet,
    Fleets,
    alive,
    exits,
    group,
    own_address,
    put_program,
    until,
)

MODES = ["call", "zygote", "self"]


def config_of(mode: str) -> tuple[str, dict[str, str]]:
    """The kind of worker, and what the fleet is told."""
    return mode.replace("zygote", "call"), {"mode": "zygote"} if mode == "zygote" else {}


@pytest.mark.parametrize("mode", MODES)
def test_a_start_that_hangs_is_ended_at_its_deadline(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    made = time.monotonic()
    fleet = fleets.make(
        group("ready,beat", 2, name="good", kind=kind),
        group("flag,ready,beat", kind=kind, start_deadline_ms=600, ready="call", crash_limit=1000),
        intensity=100_000,
        **config,
    )
    fleet.until_log("begin", 4)
    code, body = fleet.get("/readyz")
    assert code == 503 and "no_ready_slot" in body, body
    fleet.flag.touch()
    status = fleet.until_ready(3)
    good = {slot for slot, one in fleet.workers().items() if one["name"] == "good"}
    begins = fleet.log("begin")
    assert sorted(line.slot for line in begins if line.slot in good) == sorted(good)
    (hung,) = [one for one in status["workers"] if one["name"] == "w"]
    ended = hung["incarnation"] - 1
    assert ended >= 1 and hung["last_exit"]["cause"] == "startup_timeout"
    causes = status["restarts"]["by_cause"]
    # A zygote that is not there in time either makes it a fork that failed.
    assert causes["startup_timeout"] >= 1 and sum(causes.values()) >= ended
    assert set(causes) <= {"startup_timeout"} | ({"fork_failed"} if mode == "zygote" else set())
    assert fleet.get("/readyz")[0] == 200
    second = [line for line in begins if line.slot == hung["slot"]][1]
    assert second.us / 1e6 - made >= 0.6, "its time begins when it is asked for"
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
def test_ready_and_then_hanging_is_stale(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(
        group("ready,beat", 2, name="good", kind=kind),
        group("ready,1?hang,beat", kind=kind, ready="call", stale_ms=500, dump_ms=100, kill_ms=300),
        **config,
    )
    fleet.until_ready(3)
    pids = fleet.pids()
    status = fleet.until_status(
        "replaced",
        lambda s: s["slots"]["ready"] == 3 and s["restarts"]["by_cause"].get("stale", 0) >= 1,
    )
    assert {one["cause"] for one in exits(status, "w")} == {"stale"}
    assert set(status["restarts"]["by_cause"]) == {"stale"}
    after = fleet.pids()
    assert (after[0], after[1]) == (pids[0], pids[1])
    assert [status["workers"][slot]["incarnation"] for slot in (0, 1)] == [1, 1]
    assert fleet.stop() == 0, fleet.tell()


def test_a_stale_worker_is_asked_where_it_is_if_it_answers(fleets: Fleets) -> None:
    # Both hang in each of their lives until the one that is asked has answered.
    limits = {"stale_ms": 400, "dump_ms": 300, "kill_ms": 300, "crash_limit": 1000}
    fleet = fleets.make(
        group("dumps,ready,flag,beat", name="asked", **limits),
        group("usr1,ready,flag,beat", name="silent", **limits),
        intensity=100_000,
    )
    fleet.until_log("usr1")
    fleet.until_status(
        "both replaced", lambda s: all(exits(s, name) for name in ("asked", "silent"))
    )
    fleet.flag.touch()
    status = fleet.until_ready(2)
    causes = {one["cause"] for name in ("asked", "silent") for one in exits(status, name)}
    assert causes == {"stale"}
    names = {one["slot"]: one["name"] for one in status["workers"]}
    assert {names[line.slot] for line in fleet.log("usr1")} == {"asked"}


def test_one_that_beats_again_in_time_is_spared(fleets: Fleets) -> None:
    """Its dump is taken; TERM does not follow if it was only slow."""
    fleet = fleets.make(group("dumps,ready,until_usr1,beat", stale_ms=400, dump_ms=NEVER_MS))
    fleet.until_log("usr1")
    fleet.until_status(
        "ready again", lambda s: s["slots"]["ready"] == 1 and s["slots"]["stale"] == 0
    )
    assert fleet.status()["restarts"]["total"] == 0
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crash", ["die=11", "die=9", "return=1", "return=0", "exit=5"])
def test_a_crash_loop_shows_and_touches_nobody_else(fleets: Fleets, mode: str, crash: str) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(
        group("ready,beat", 2, name="good", kind=kind),
        group(
            f"f?ready,f?beat,{crash}",
            1,
            name="bad",
            kind=kind,
            ready="call",
            crash_limit=3,
            crash_window_ms=NEVER_MS,
            backoff_base_ms=200,
        ),
        backoff_cap_ms=400,
        intensity=1000,
        **config,
    )
    status = fleet.until_status("a crash loop", lambda s: s["slots"]["crash_looping"] == 1)
    (bad,) = (one for one in status["workers"] if one["name"] == "bad")
    assert bad["crashes_in_row"] >= 3
    assert f"crash_loop:slot={bad['slot']}" in status["reasons"]
    assert (
        bad["last_exit"]["cause"] == {"d": "signal", "r": "exit", "e": "exit"}[crash[0]]
        or crash == "return=0"
    )
    if crash == "return=0":
        assert bad["last_exit"]["cause"] == "exit0", "a worker that returns unasked is a crash, too"
    assert status["live"] and not status["ready"]
    assert fleet.get("/readyz")[0] == 503
    assert fleet.get("/livez")[0] == 200, "two of three work: no reason to restart everything"
    again = fleet.until_status(
        "it goes on",
        lambda s: next(w for w in s["workers"] if w["name"] == "bad")["crashes_in_row"] >= 4,
    )
    assert f"crash_loop:slot={bad['slot']}" in again["reasons"], "a fork makes it no fresher"
    assert again["slots"]["crash_looping"] + again["slots"]["starting"] == 1
    assert again["slots"]["ready"] == 2 and fleet.get("/readyz")[0] == 503
    good = [one for one in again["workers"] if one["name"] == "good"]
    assert [one["incarnation"] for one in good] == [1, 1] and all(one["pid"] for one in good)
    assert fleet.stop() == 0, fleet.tell()


def test_delays_grow(fleets: Fleets) -> None:
    """The bound of the k-th delay is base * 2^(k-1); each is drawn at random below it."""
    made = [
        fleets.make(group("die=9", crash_limit=4, backoff_base_ms=400), intensity=1000)
        for _ in range(8)
    ]
    rows = []
    for fleet in made:

        def delays(fleet: Fleet = fleet) -> list[float]:
            return [float(text) for text in re.findall(r"next start in ([\d.]+) s", fleet.stderr())]

        fleet.until("five crashes", lambda delays=delays: len(delays()) >= 5)
        rows.append(delays()[:5])
        assert fleet.stop() == 0, fleet.tell()
    for row in rows:
        assert all(delay <= 0.4 * 2**k + 0.05 for k, delay in enumerate(row)), rows
    firsts, fifths = sum(row[0] for row in rows), sum(row[4] for row in rows)
    assert fifths > 2 * firsts, rows
    assert len({row[4] for row in rows}) > 1, "drawn, so that they do not all come back at once"


def test_delays_have_an_end(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("die=9", crash_limit=100, backoff_base_ms=100, backoff_cap_ms=200), intensity=1000
    )
    status = fleet.until_status("many", lambda s: s["workers"][0]["crashes_in_row"] >= 8)
    assert status["workers"][0]["not_before_in_s"] <= 0.2
    told = [float(text) for text in re.findall(r"next start in ([\d.]+) s", fleet.stderr())]
    assert len(told) >= 8 and max(told) <= 0.2
    assert fleet.stop() == 0, fleet.tell()


def test_a_crash_after_a_healthy_life_is_restarted_at_once(fleets: Fleets) -> None:
    day_ms = 86_400_000
    fleet = fleets.make(
        group(
            "2?flag,ready,beat",
            healthy_after_ms=500,
            stale_ms=0,
            backoff_base_ms=day_ms,
            backoff_cap_ms=day_ms,
        )
    )
    ready_at = fleet.until_ready(1)["supervisor"]["uptime_s"]
    fleet.until_status("a healthy life", lambda s: s["supervisor"]["uptime_s"] > ready_at + 0.6)
    os.kill(fleet.pids()[0], signal.SIGSEGV)
    fleet.until_log("begin", 2)  # without the delay, which is drawn from a day
    status = fleet.until_status("the next one starts", lambda s: s["slots"]["starting"] == 1)
    assert status["workers"][0]["crashes_in_row"] == 1
    fleet.flag.touch()
    fleet.until_status(
        "the row ends with a healthy life",
        lambda s: s["slots"]["ready"] == 1 and s["workers"][0]["crashes_in_row"] == 0,
    )
    assert fleet.status()["restarts"]["by_cause"] == {"signal": 1}
    assert fleet.stop() == 0, fleet.tell()


def test_every_slot_looping_is_not_live(fleets: Fleets) -> None:
    fleet = fleets.make(group("die=9", 2, crash_limit=2, backoff_base_ms=1), intensity=1000)
    fleet.until("livez is 503", lambda: fleet.get("/livez")[0] == 503)
    assert fleet.stop() == 0, fleet.tell()


def test_intensity_is_reported_and_can_end_the_fleet(fleets: Fleets) -> None:
    reports = fleets.make(group("ready,until=10,die=9", 2, crash_limit=1000), intensity=3)
    exits = fleets.make(
        group("ready,until=10,die=9", 2, crash_limit=1000), intensity=3, on_intensity="exit"
    )
    reports.until_status("intensity", lambda s: "intensity" in s["reasons"] and not s["live"])
    assert exits.end() == 70
    assert not exits.processes()
    assert reports.stop() == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_permanent_failure_is_not_tried_again(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(
        group("ready,beat", 1, name="good", kind=kind),
        group("return=78", 1, name="bad", kind=kind),
        **config,
    )
    status = fleet.until_status("failed", lambda s: s["slots"]["failed"] == 1)
    assert any(
        reason.startswith("failed:slot=") and reason.endswith("code=78")
        for reason in status["reasons"]
    )
    assert fleet.get("/readyz")[0] == 503 and fleet.get("/livez")[0] == 200
    fleet.until_status("nothing more comes", lambda s: s["supervisor"]["uptime_s"] > 1.5)
    assert len([line for line in fleet.log("begin")]) == 2
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("own", [False, True], ids=["configured", "its own"])
def test_an_item_that_takes_too_long(fleets: Fleets, own: bool) -> None:
    script, limits = (
        ("ready,1?begin=500,1?forever,beat", {})
        if own
        else ("ready,1?begin=0,1?forever,beat", {"item_deadline_ms": 500})
    )
    fleet = fleets.make(group(script, 2, dump_ms=50, kill_ms=100, **limits))
    status = fleet.until_status(
        "both replaced",
        lambda s: s["restarts"]["by_cause"].get("item_deadline") == 2 and s["slots"]["ready"] == 2,
    )
    assert [one["signal"] for one in exits(status, "w")] == ["SIGKILL"] * 2
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["die=9", "return=1"])
def test_grandchildren_go_with_their_worker_and_its_port_is_free(
    fleets: Fleets, mode: str, end: str
) -> None:
    kind, config = config_of(mode)
    host, port = own_address()
    fleet = fleets.make(
        group(
            f"listen={host}:{port},grandchild,ready,1?{end},beat",
            kind=kind,
            ready="call",
            healthy_after_ms=1,
            crash_limit=1000,
        ),
        intensity=100_000,
        **config,
    )
    # A killed grandchild keeps the port until the kernel has ended it: a next one that comes sooner
    # ends, and another one tries.
    fleet.until_status(
        "the next one has the port",
        lambda s: s["slots"]["ready"] == 1 and s["workers"][0]["incarnation"] >= 2,
    )
    first, second = fleet.until_log("grandchild", 2)[:2]
    until("the first is gone", lambda: not alive(first.pid), tell=fleet.tell)
    assert alive(second.pid)
    assert first.text == "grandchild current=0", "a worker's child is no worker"
    assert fleet.status()["totals"]["done"] == 0, "nor does it count for one"
    assert fleet.stop() == 0, fleet.tell()
    until("none is left", lambda: not fleet.processes())
    with socket.socket() as one:
        one.bind((host, port))


def test_oom_is_no_plain_signal(fleets: Fleets) -> None:
    """A KILL that nobody's memory limit sent is `signal`, not `oom`."""
    fleet = fleets.make(group("ready,1?die=9,beat", healthy_after_ms=1))
    status = fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 1 and s["restarts"]["total"] >= 1
    )
    assert status["workers"][0]["last_exit"]["oom"] is False
    assert status["restarts"]["by_cause"] == {"signal": 1}
    assert fleet.stop() == 0, fleet.tell()


def test_kill_to_replacement_takes_no_tick(fleets: Fleets) -> None:
    """A supervisor that looked for the dead by the clock would wake for it, and it does not."""
    fleet = fleets.make(group("ready,beat", 4, healthy_after_ms=1))
    fleet.until_ready(4)
    # The scoreboard is read without its help.
    began, before = time.monotonic(), fleet.board()["supervisor"]["wakeups"]
    until("a quiet while", lambda: time.monotonic() > began + 8)
    slept, wakeups = time.monotonic() - began, fleet.board()["supervisor"]["wakeups"] - before
    assert wakeups <= 2 + slept / 3, f"{wakeups} in {slept} s; it looks at idle workers every 5 s"
    pids = fleet.pids()
    killed = time.monotonic()
    os.kill(pids[2], signal.SIGKILL)
    line = fleet.until_log("begin", 5)[4]
    assert line.slot == 2
    MEASURED.append(f"a kill, and {(line.us / 1e6 - killed) * 1000:.1f} ms later the next worker")
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize(
    "text, why",
    [("#!/no/such/interpreter\n", "No such file or directory"), ("no script", "Exec format error")],
    ids=["interpreter", "format"],
)
def test_a_program_that_cannot_be_run_is_named_with_the_reason(
    fleets: Fleets, text: str, why: str
) -> None:
    path = fleets.place / "unfit"
    put_program(text, path)
    fleet = fleets.make(group(str(path), 1, kind="run"))
    fleet.until_said(f"{path} cannot be run: {why}")
    status = fleet.until_status("it ended", lambda s: s["workers"][0]["last_exit"] is not None)
    assert status["workers"][0]["last_exit"]["code"] == 126
    assert fleet.stop() == 0, fleet.tell()
