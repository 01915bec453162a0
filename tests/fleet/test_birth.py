"""What a worker is born with: descriptors, signals, environment; and hosts that make that hard."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fleets import LONG, WAIT_S, Fleets, Line, alive, group, put_program, until

MODES = ["call", "zygote", "self"]


def config_of(mode: str) -> tuple[str, dict[str, Any]]:
    """The kind of worker, and what the fleet is told."""
    return mode.replace("zygote", "call"), {"mode": "zygote"} if mode == "zygote" else {}


def fds_of(line: Line) -> dict[int, str]:
    """What a worker saw."""
    return {
        int(fd): target for fd, target in re.findall(r" (\d+)=(\S+(?: \(deleted\))?)", line.text)
    }


def masks_of(line: Line) -> dict[str, set[int]]:
    """Blocked, ignored and caught signals."""
    masks = {}
    for name, digits in re.findall(r"(Sig...)=\s*([0-9a-f]+)", line.text):
        bits = int(digits, 16)
        masks[name] = {number for number in range(1, 65) if bits >> (number - 1) & 1}
    return masks


def test_a_program_inherits_what_is_its_own(fleets: Fleets) -> None:
    fleet = fleets.make(group("fds,ready,1?die=9,beat", 3, kind="self", healthy_after_ms=1))
    fleet.until_status(
        "born twice", lambda s: s["slots"]["ready"] == 3 and s["restarts"]["total"] == 3
    )
    for line in fleet.log("fds"):
        fds = fds_of(line)
        extra = {fd: what for fd, what in fds.items() if fd > 2}
        kinds = sorted(re.sub(r"[:\[].*| .*", "", what) for what in extra.values())
        # There is a copy of each, which the first call attaches to.
        assert set(kinds) <= {"/memfd", "anon_inode"}, line
        assert len(extra) <= 6, line
    assert fleet.stop() == 0, fleet.tell()


def test_a_program_that_knows_nothing_of_us(fleets: Fleets) -> None:
    """Three descriptors and a few variables are all that it sees of the fleet."""
    look = fleets.place / "look"
    put_program(
        "#!/bin/sh\nls -l /proc/$$/fd > $LOOK/fds; env > $LOOK/env; mv $LOOK/env $LOOK/done\n"
        "exec sleep 100000\n",
        look,
    )
    fleet = fleets.make(
        group(
            str(look),
            kind="run",
            traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            baggage="k=v",
        ),
        env={
            "LOOK": str(fleets.place),
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=shop",
            "OTEL_SERVICE_NAME": "kept",
            "TRACEPARENT": "00-" + "c" * 32 + "-" + "d" * 16 + "-01",
            "NOTIFY_SOCKET": "/nonexistent",
        },
        name="crew",
    )
    until("it looked", lambda: (fleets.place / "done").exists(), tell=fleet.tell)
    seen = dict(
        line.split("=", 1)
        for line in (fleets.place / "done").read_text().splitlines()
        if "=" in line
    )
    assert seen["TRACEPARENT"] == "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    assert seen["BAGGAGE"] == "k=v"
    attributes = seen["OTEL_RESOURCE_ATTRIBUTES"].split(",")
    assert attributes == [
        "service.name=shop",
        "telemetry.fleet.name=crew",
        "telemetry.fleet.slot=0",
        "telemetry.fleet.incarnation=1",
    ]
    assert seen["OTEL_SERVICE_NAME"] == "kept"
    assert "NOTIFY_SOCKET" not in seen
    told = dict(part.split("=") for part in seen["TELEMETRY_FLEET"].split(","))
    assert (told["slot"], told["incarnation"]) == ("0", "1")
    fds = re.findall(r" (\d+) -> (.*)", (fleets.place / "fds").read_text())
    ours = {told[name] for name in ("fd", "stop", "bell")}
    # Shells keep their script and their former stdout.
    rest = {
        fd: what
        for fd, what in fds
        if fd not in {"0", "1", "2"} and not what.endswith(("/look", "/stdout"))
    }
    assert set(rest) == ours, rest
    status = fleet.until_ready(1)
    assert status["ready"], "a program is ready at its start"
    assert fleet.stop() == 0 or "SIGTERM" in fleet.stderr(), fleet.tell()


def test_descriptors_that_a_program_is_to_keep(fleets: Fleets) -> None:
    """The host's own are closed, CLOEXEC or not, but for those that `keep_fds` names."""
    fleet = fleets.make(
        group("fds,ready,beat", name="bare", kind="self"),
        group("fds,ready,beat", name="keeps", kind="self", keep_fds=[7]),
        prefix=("bash", "-c", 'exec 7</etc/hostname 8</etc/passwd; exec "$@"', "-"),
    )
    fleet.until_ready(2)
    names = {one["slot"]: one["name"] for one in fleet.status()["workers"]}
    seen = {names[line.slot]: fds_of(line) for line in fleet.log("fds")}
    assert seen["keeps"].get(7) == "/etc/hostname"
    assert "/etc/hostname" not in seen["bare"].values()
    assert "/etc/passwd" not in [*seen["bare"].values(), *seen["keeps"].values()]
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", ["call", "zygote"])
def test_a_forked_worker_has_nothing_of_the_supervisors(fleets: Fleets, mode: str) -> None:
    """Neither its endpoint nor its epoll, signalfd, timer, nor other workers' pidfds."""
    _, config = config_of(mode)
    fleet = fleets.make(
        group("fds,ready,1?until=200,1?die=9,beat", 3, healthy_after_ms=1, stale_ms=0),
        listen="127.0.0.1:0",
        **config,
    )
    fleet.until(
        "born twice",
        lambda: (b := fleet.board())["slots"]["ready"] == 3 and b["restarts"]["total"] == 3,
    )
    for line in fleet.log("fds"):
        extra = {fd: what for fd, what in fds_of(line).items() if fd > 2}
        for what in extra.values():
            assert not re.search(r"socket|eventpoll|signalfd|timerfd|pidfd", what), line
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options",
    [
        "-",
        "handler",
        "ignore_term",
        "block",
        "ignore_chld",
        "handler,block,ignore_chld,ignore_pipe",
    ],
)
def test_signals_of_the_host_are_not_the_workers(fleets: Fleets, mode: str, options: str) -> None:
    kind, config = config_of(mode)
    fleet = fleets.make(
        group("signals,ready,1?s0?die=9,beat", 2, kind=kind, healthy_after_ms=1),
        options=options,
        **config,
    )
    status = fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 2 and s["workers"][0]["incarnation"] == 2
    )
    assert status["workers"][0]["last_exit"]["signal"] == "SIGKILL", (
        "an ignored CHLD would have lost it"
    )
    for line in fleet.log("signals"):
        masks = masks_of(line)
        assert not masks["SigBlk"], line
        assert signal.SIGTERM not in masks["SigIgn"] and signal.SIGCHLD not in masks["SigIgn"], line
        assert signal.SIGTERM in masks["SigCgt"], line
        if kind == "call":
            assert (signal.SIGPIPE in masks["SigIgn"]) == ("ignore_pipe" in options), line
        else:
            assert signal.SIGPIPE not in masks["SigIgn"], line
    assert not fleet.log("handler")
    assert fleet.stop() == 0, fleet.tell()
    assert len(fleet.log("end")) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_storm_of_term_while_it_forks(fleets: Fleets, mode: str) -> None:
    """Whenever TERM comes to a new worker, it stops, and no handler of the host's runs in it.

    The workers are born by a resize, for forks that were asked for are not held back.
    """
    kind, config = config_of(mode)
    fleet = fleets.make(
        group("ready,beat", 1, kind=kind, healthy_after_ms=1, backoff_cap_ms=200),
        options="handler,orders",
        max_workers=24,
        intensity=100_000,
        **config,
    )
    fleet.until_log("begin")  # so the zygote is known, and not struck
    me = fleet.pid
    spared = {word for word in re.findall(r"zygote (\d+) begins", fleet.stderr())}
    struck: set[str] = set()
    wanted = 1000 if LONG else 60
    end = time.monotonic() + (3600 if LONG else 300)
    while len(struck) < wanted:
        assert time.monotonic() < end, fleet.tell()
        assert fleet.order("resize w 24") == 0
        before = len(struck)
        while len(struck) < before + 12 and time.monotonic() < end:
            born = Path(f"/proc/{me}/task/{me}/children").read_text().split()
            for child in set(born) - spared:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGTERM)
                    struck.add(child)
        assert fleet.order("resize w 1") == 0
    assert fleet.order("resize w 12") == 0
    fleet.until_ready(12)
    assert not fleet.log("handler"), fleet.tell()
    # The grace is an hour: nobody needs it.
    assert fleet.stop(WAIT_S) == 0, fleet.tell()


def test_term_to_the_supervisor_at_any_moment(fleets: Fleets) -> None:
    """From before it is a fleet on: TERM is never lost, and nobody is left."""
    made = []
    for number in range(60 if LONG else 12):
        fleet = fleets.make(group("ready,beat", 3))
        made.append((fleet, time.monotonic() + number * 0.004))
    for fleet, at in made:
        until("its time", lambda at=at: time.monotonic() >= at)
        fleet.signal(signal.SIGTERM)
    for fleet, _ in made:
        code = fleet.end()
        # Before the fleet begins TERM is the host's: the default ends it.
        assert code in (0, -signal.SIGTERM), fleet.tell()
        assert code == 0 or not fleet.log("begin")
        until("nobody is left", lambda fleet=fleet: not fleet.processes(), tell=fleet.tell)


def test_the_hosts_mask_is_put_back(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat"), options="handler,signals,own_fork")
    fleet.until_ready(1)
    assert fleet.stop() == 0, fleet.tell()
    masks = masks_of(fleet.log("signals")[0])
    assert not masks["SigBlk"] and signal.SIGTERM in masks["SigCgt"]
    assert not fleet.log("handler"), "the TERM was the fleet's"
    assert fleet.log("forks")[0].text == "forks 1"


@pytest.mark.parametrize("mode", ["call", "zygote"])
@pytest.mark.parametrize("end", ["return=0", "exit=0", "_exit=0"])
def test_what_the_host_said_and_registered_happens_once(
    fleets: Fleets, mode: str, end: str
) -> None:
    """Neither the host's buffered output nor its atexit functions are the workers' to repeat."""
    _, config = config_of(mode)
    fleet = fleets.make(group(f"ready,beat,{end}", 2), options="buffered,atexit", **config)
    fleet.until_ready(2)
    assert fleet.stop() == 0, fleet.tell()
    if end == "exit=0":
        return  # a worker that calls exit() itself asks for both
    assert fleet.stdout_path.read_text() == "said once\n"
    assert [line.pid for line in fleet.log("atexit")] == [fleet.pid]


@pytest.mark.parametrize("config", [{}, {"mode": "zygote"}, {"mode": "fork"}], ids=str)
def test_threads_in_the_host_are_refused(fleets: Fleets, config: dict[str, Any]) -> None:
    fleet = fleets.make(group("ready,beat"), options="thread", **config)
    fleet.expects_life = False
    assert fleet.end() == 64
    assert "other thread" in fleet.stderr() and "allow_threads" in fleet.stderr()
    assert not fleet.log("begin")


def test_threads_in_the_host_can_be_allowed_and_do_not_matter_to_programs(fleets: Fleets) -> None:
    allowed = fleets.make(group("ready,beat", 2), options="thread", allow_threads=True)
    programs = fleets.make(group("ready,beat", 2, kind="self"), options="thread")
    allowed.until_ready(2)
    programs.until_ready(2)
    assert allowed.stop() == programs.stop() == 0


def test_a_thread_that_comes_later_stops_forks_and_nothing_else(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 3, healthy_after_ms=1), options="orders")
    fleet.until_ready(3)
    assert fleet.order("thread") == 0
    pids = fleet.pids()
    os.kill(pids[0], signal.SIGKILL)
    fleet.until_said("threads were started in the supervisor")
    status = fleet.until_status(
        "a reason", lambda s: any(r.startswith("fork_failed:") for r in s["reasons"])
    )
    assert status["slots"]["ready"] == 2
    assert {slot: pid for slot, pid in fleet.pids().items() if slot} == {1: pids[1], 2: pids[2]}
    assert fleet.stop() == 0, fleet.tell()


def test_a_program_that_is_not_there(fleets: Fleets) -> None:
    fleet = fleets.make(group("/nonexistent/program x", kind="run"))
    fleet.expects_life = False
    assert fleet.end() == 87
    assert "/nonexistent/program" in fleet.stderr() and "add: " in fleet.stderr()


def test_a_program_that_goes_away(fleets: Fleets) -> None:
    """What cannot be run any more is a crash, and says so; its neighbours live."""
    here = fleets.place / "here"
    put_program("#!/bin/sh\nexec sleep 100000\n", here)
    fleet = fleets.make(
        group(str(here), kind="run", healthy_after_ms=1), group("ready,beat", name="good")
    )
    fleet.until_ready(2)
    victim, good = (fleet.pids()[slot] for slot in (0, 1))
    # It counts as ready at its start; the shell has still to read the file.
    comm = Path(f"/proc/{victim}/comm")
    until("the shell is done", lambda: comm.read_text() == "sleep\n", tell=fleet.tell)
    here.unlink()
    os.kill(victim, signal.SIGKILL)
    fleet.until_status(
        "it cannot be started",
        lambda s: s["slots"]["ready"] == 1 and not s["ready"] and s["reasons"],
    )
    assert alive(good) and fleet.pids()[1] == good
    fleet.until(
        "it is said", lambda: re.search(r"126|No such file|not found|no worker", fleet.stderr())
    )
    assert fleet.stop() == 0, fleet.tell()


def test_trace_context_reaches_every_kind(fleets: Fleets) -> None:
    context = {
        "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        "tracestate": "a=b",
        "baggage": "c=d",
    }
    expected = "trace {traceparent}|{tracestate}|{baggage}".format(**context)
    for mode in MODES:
        kind, config = config_of(mode)
        fleet = fleets.make(group("trace,ready,beat", kind=kind), **config, **context)
        fleet.until_log(expected)
        assert fleet.stop() == 0, fleet.tell()


def test_words_of_the_board(fleets: Fleets) -> None:
    """`telemetry_worker_current` in a program of the fleet's is what a function is given."""
    shown = []
    for kind in ("call", "self"):
        fleet = fleets.make(
            group("ready,count=0:3,count=11:5,lag=77,begin=0,beat", kind=kind),
            counters=["orders_shipped"],
        )
        status = fleet.until_status(
            "busy", lambda s: s["slots"]["busy"] == 1 and s["workers"][0]["loop_lag_us"]
        )
        worker = status["workers"][0]
        shown.append(
            (
                worker["state"],
                worker["doing"],
                worker["loop_lag_us"],
                json.dumps(worker["counters"], sort_keys=True),
            )
        )
        assert worker["counters"]["orders_shipped"] == 5 and worker["counters"]["claimed"] == 3
        assert fleet.stop() == 0, fleet.tell()
    assert shown[0] == shown[1]
    assert shown[0][:3] == ("busy", "open", 77)


@pytest.mark.parametrize("mode", MODES)
def test_a_workers_own_children_end_by_term(fleets: Fleets, mode: str) -> None:
    """They inherit the handler that tells a worker to stop: there TERM does what it does."""
    kind, config = config_of(mode)
    fleet = fleets.make(group("ready,end_child,beat", 1, kind=kind), **config)
    (line,) = fleet.until_log("child ended")
    assert line.text == f"child ended signal={signal.SIGTERM:d} stopping=0"
    assert fleet.stop() == 0, fleet.tell()
