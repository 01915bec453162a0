"""Workers that do not start, hang, crash or grow; their neighbours are left alone."""

from __future__ import annotations

import os
import re
import signal
import socket
import time

import pytest

from fleets import Fleet, Fleets, alive, group, until

MODES = ["call", "zygote", "self"]


def config_of(mode: str) -> tuple[str, dict[str, str]]:
    """The kind of worker, and what the fleet is told."""
    return mode.replace("zygote", "call"), {"mode": "zygote"} if mode == "zygote" else {}


@pytest.mark.parametrize("mode", MODES)
def test_a_start_that_hangs_is_ended_at_its_deadline(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(
        group("ready,beat", 2, name="good", kind=kind),
        group("1?hang,ready,beat", kind=kind, start_deadline_ms=600, ready="call"),
        **config,
    )
    fleet.until_log("begin", 3)
    code, body = fleet.get("/readyz")
    assert code == 503 and "no_ready_slot" in body, body
    status = fleet.until_ready(3)
    good = {
        slot: one["incarnation"] for slot, one in fleet.workers().items() if one["name"] == "good"
    }
    assert set(good.values()) == {1}
    (hung,) = [one for one in status["workers"] if one["name"] == "w"]
    assert hung["incarnation"] == 2 and hung["last_exit"]["cause"] == "startup_timeout"
    assert status["restarts"]["by_cause"]["startup_timeout"] == 1
    assert fleet.get("/readyz")[0] == 200
    begins = [line for line in fleet.log("begin") if line.slot == hung["slot"]]
    assert begins[1].us - begins[0].us >= 300_000, "its time begins when it is asked for"
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
def test_ready_and_then_hanging_is_stale(fleets: Fleets, mode: str) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(
        group("ready,s1?1?hang,beat", 3, kind=kind, stale_ms=500, dump_ms=100, kill_ms=300),
        **config,
    )
    fleet.until_ready(3)
    pids = fleet.pids()
    status = fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 3 and s["workers"][1]["incarnation"] == 2
    )
    assert status["workers"][1]["last_exit"]["cause"] == "stale"
    after = fleet.pids()
    assert (after[0], after[2]) == (pids[0], pids[2])
    assert fleet.stop() == 0, fleet.tell()


def test_a_stale_worker_is_asked_where_it_is_if_it_answers(fleets: Fleets) -> None:
    fleet = fleets.make(
        group("dumps,ready,1?hang,beat", name="asked", stale_ms=400, dump_ms=300, kill_ms=300),
        group("usr1,ready,1?hang,beat", name="silent", stale_ms=400, dump_ms=300, kill_ms=300),
    )
    fleet.until_status(
        "both replaced",
        lambda s: s["restarts"]["by_cause"].get("stale") == 2 and s["slots"]["ready"] == 2,
    )
    names = {one["slot"]: one["name"] for one in fleet.status()["workers"]}
    assert [names[line.slot] for line in fleet.log("usr1")] == ["asked"]


def test_one_that_beats_again_in_time_is_spared(fleets: Fleets) -> None:
    """Its dump is taken; TERM does not follow if it was only slow."""
    fleet = fleets.make(group("dumps,ready,sleep=900,beat", stale_ms=400, dump_ms=20_000))
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
    assert again["slots"]["crash_looping"] == 1 and fleet.get("/readyz")[0] == 503, (
        "a fork makes it no fresher"
    )
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

        fleet.until("five crashes", lambda delays=delays: len(delays()) >= 5, seconds=60)
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
    fleet = fleets.make(
        group(
            "ready,1?until=1200,1?die=11,beat",
            1,
            healthy_after_ms=500,
            stale_ms=0,
            backoff_base_ms=3_600_000,
            backoff_cap_ms=3_600_000,
        )
    )
    first, second = fleet.until_log("begin", 2)
    assert second.us - first.us < 20_000_000, "no delay of an hour"
    status = fleet.until_ready(1)
    assert status["workers"][0]["crashes_in_row"] == 1
    fleet.until_status(
        "the row ends with a healthy life", lambda s: s["workers"][0]["crashes_in_row"] == 0
    )
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
    assert status["workers"][0]["last_exit"]["signal"] == "SIGKILL"
    assert fleet.stop() == 0, fleet.tell()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("end", ["die=9", "return=1"])
def test_grandchildren_go_with_their_worker_and_its_port_is_free(
    fleets: Fleets, mode: str, end: str
) -> None:
    kind, config = config_of(mode)
    port = free_port()
    fleet = fleets.make(
        group(f"listen={port},grandchild,ready,1?{end},beat", kind=kind, healthy_after_ms=1),
        **config,
    )
    fleet.until_status(
        "the next one has the port",
        lambda s: s["slots"]["ready"] == 1 and s["workers"][0]["incarnation"] >= 2,
    )
    assert not fleet.log("port"), fleet.tell()
    first, second = fleet.until_log("grandchild", 2)[:2]
    assert not alive(first.pid) and alive(second.pid)
    assert first.text == "grandchild current=0", "a worker's child is no worker"
    assert fleet.status()["totals"]["done"] == 0, "nor does it count for one"
    assert fleet.stop() == 0, fleet.tell()
    until("none is left", lambda: not fleet.processes())
    with socket.socket() as one:
        one.bind(("127.0.0.1", port))


def test_oom_is_no_plain_signal(fleets: Fleets) -> None:
    """A KILL that nobody's memory limit sent is `signal`, not `oom`."""
    fleet = fleets.make(group("ready,1?die=9,beat", healthy_after_ms=1))
    status = fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 1 and s["restarts"]["total"] >= 1
    )
    assert status["workers"][0]["last_exit"]["oom"] is False
    assert status["restarts"]["by_cause"] == {"signal": 1}
    assert fleet.stop() == 0, fleet.tell()


def test_kill_to_replacement_is_quick(fleets: Fleets) -> None:
    """No tick: the first instruction of the next one comes within a fraction of a second."""
    fleet = fleets.make(group("ready,beat", 4, healthy_after_ms=1))
    fleet.until_ready(4)
    fleet.until_status("forks are not limited now", lambda s: s["supervisor"]["uptime_s"] > 2.2)
    pids = fleet.pids()
    killed = time.monotonic()
    os.kill(pids[2], signal.SIGKILL)
    line = fleet.until_log("begin", 5)[4]
    assert line.us / 1e6 - killed < 0.9, (
        "a supervisor that polls once a second would be later most of the time"
    )
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
    path.write_text(text)
    path.chmod(0o755)
    fleet = fleets.make(group(str(path), 1, kind="run"))
    fleet.until_said(f"{path} cannot be run: {why}")
    status = fleet.until_status("it ended", lambda s: s["workers"][0]["last_exit"] is not None)
    assert status["workers"][0]["last_exit"]["code"] == 126
    assert fleet.stop() == 0, fleet.tell()
