"""The C interface: a fleet in a loop of the host's, calls from watch functions, what is refused."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import threading
from typing import Any

import pytest

from fleets import NEVER_MS, Fleets, alive, group, program, until

OK, TOO_LARGE, CLOSED, INVALID, IO = 0, 2, 3, 5, 6


@pytest.mark.parametrize("config", [{}, {"mode": "zygote"}], ids=["fork", "zygote"])
def test_a_loop_of_the_hosts(fleets: Fleets, config: dict[str, Any]) -> None:
    fleet = fleets.make(group("ready,beat", 3, healthy_after_ms=1), options="steps", **config)
    fleet.until_ready(3)
    os.kill(fleet.pids()[0], signal.SIGKILL)
    fleet.until_status(
        "replaced", lambda s: s["slots"]["ready"] == 3 and s["restarts"]["total"] == 1
    )
    assert fleet.stop() == 0, fleet.tell()
    (line,) = fleet.log("steps")
    assert line.text.endswith(f"status {CLOSED} code 0 again 0"), line
    assert int(line.text.split()[1]) < 1000 + 10 * fleet.asked, "it does not spin"


def test_resize_add_and_stop_from_a_watch_function(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 2), options="orders", max_workers=8)
    fleet.until_ready(2)
    assert fleet.order("resize w 4") == OK
    fleet.until_ready(4)
    assert fleet.order("add more 2 call ready,beat") == OK
    fleet.until_ready(6)
    assert fleet.order("add program 1 self ready,beat") == OK
    fleet.until_ready(7)
    assert fleet.order("resize w 1") == OK
    fleet.until_ready(4)
    assert fleet.order(f"stop more {NEVER_MS}") == OK
    status = fleet.until_status(
        "without them", lambda s: s["slots"]["want"] == s["slots"]["ready"] == 2
    )
    assert status["ready"] and not status["reasons"]
    assert fleet.order("resize more 2") == OK, "it can come back"
    fleet.until_ready(4)
    assert fleet.order("status") == TOO_LARGE * 100, "too small a room, then it fits"
    said = fleet.log("status ")[0].text.split(" ", 2)
    assert int(said[1]) > 500 and '"schema":1' in said[2]
    assert fleet.order(f"stop - {NEVER_MS}") == OK
    assert fleet.end() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_what_a_running_fleet_refuses(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 2), options="orders", max_workers=3)
    fleet.until_ready(2)
    pids = fleet.pids()
    assert fleet.order("resize nobody 2") == INVALID
    assert fleet.order("resize w 4") == INVALID, "there is room for three"
    assert fleet.order("resize w 4294967295") == INVALID
    assert fleet.order("stop nobody 2") == INVALID
    assert fleet.order("add w 1 call ready,beat") == INVALID, "the name is taken"
    assert fleet.order("add x 2 call ready,beat") == INVALID, "no room"
    assert fleet.order("add gone 1 run /nonexistent") == INVALID
    assert fleet.order("elsewhere") == 0
    (line,) = fleet.until_log("thread ")
    assert line.text == f"thread {INVALID} {INVALID} {INVALID} -1"
    (line,) = fleet.until_log("child ")
    assert line.text == f"child {INVALID} {INVALID} {INVALID} 64"
    assert fleet.pids() == pids and all(alive(pid) for pid in pids.values())
    assert fleet.stop() == 0, fleet.tell()


@pytest.mark.parametrize("order", ["run", "step"])
def test_run_and_step_from_a_watch_function(fleets: Fleets, order: str) -> None:
    """The header forbids it: never a crash, nor a loop in a loop without end."""
    fleet = fleets.make(group("ready,beat", 2), options="orders")
    fleet.until_ready(2)
    assert fleet.process.stdin
    fleet.process.stdin.write(f"{order}\n".encode())
    fleet.process.stdin.flush()
    fleet.signal(signal.SIGTERM)
    assert fleet.end() in (0, 64), fleet.tell()


def test_a_fleet_that_is_given_back_while_it_runs(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,forever", 3), options="steps,orders")
    fleet.until_ready(3)
    assert fleet.order("leave") == OK
    assert fleet.end() == 0, fleet.tell()
    until("its workers are killed", lambda: not fleet.processes(), tell=fleet.tell)


@pytest.mark.parametrize("config", [{}, {"mode": "zygote"}], ids=["fork", "zygote"])
def test_one_fleet_after_the_other(fleets: Fleets, config: dict[str, Any]) -> None:
    fleet = fleets.make(group("ready,beat", 2), options="twice,handler,signals", **config)
    for turn in range(2):
        fleet.until("ready", lambda turn=turn: len(fleet.log("begin")) == 2 * turn + 2)
        fleet.until_ready(2)
        if turn == 0:
            fleet.signal(signal.SIGTERM)
            fleet.until_log("signals", 1)
    assert fleet.stop() == 0, fleet.tell()
    first, second = fleet.log("fds")
    assert len(second.text.split()) <= len(first.text.split()), (first, second)
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_a_fleet_in_a_fleet(fleets: Fleets) -> None:
    """Whoever is killed, nobody is left of those below, and they are replaced."""
    config = json.dumps({"grace_ms": 300, "runtime_dir": str(fleets.place)}, separators=(",", ":"))
    command = f"{program()} - {config} inner 2 call ready,forever {{}}"
    fleet = fleets.make(group(command, 2, kind="run", healthy_after_ms=1))
    fleet.until_log("begin", 4)
    first = fleet.log("begin")
    supervisors = fleet.pids()
    os.kill(supervisors[0], signal.SIGKILL)
    fleet.until_log("begin", 6)
    until(
        "those of the killed one are gone, and nobody else",
        lambda: sum(alive(line.pid) for line in first) == 2,
        tell=fleet.tell,
    )
    fleet.until("all is there", lambda: len(fleet.processes()) == 1 + 2 + 4)
    assert fleet.stop() == 0, fleet.tell()
    until("nobody is left", lambda: not fleet.processes(), tell=fleet.tell)


def test_a_wrong_variable_is_named(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat"), env={"TELEMETRY_FLEET_STALE_MS": "soon"})
    fleet.expects_life = False
    assert fleet.end() == 88
    assert "TELEMETRY_FLEET_STALE_MS" in fleet.stderr() and "soon" in fleet.stderr()
    assert "0 to 86400000" in fleet.stderr()


def test_a_fleet_of_nobody(fleets: Fleets) -> None:
    """It does nothing, says so, and can be given work."""
    fleet = fleets.make(group("ready,beat", 0), options="orders")
    status = fleet.until_status("begun", lambda s: s["slots"]["want"] == 0)
    assert status["workers"] == []
    assert fleet.order("resize w 2") == OK
    fleet.until_ready(2)
    assert fleet.get("/readyz")[0] == 200
    assert fleet.stop() == 0, fleet.tell()


def test_a_watched_descriptor_that_ends_or_is_taken_out(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat"), options="orders")
    fleet.until_ready(1)
    before, asked = fleet.status()["supervisor"]["wakeups"], fleet.asked
    assert fleet.process.stdin
    fleet.process.stdin.close()
    fleet.process.stdin = None
    fleet.until_status("a second", lambda s: s["supervisor"]["uptime_s"] > 1.2)
    wakeups = fleet.status()["supervisor"]["wakeups"] - before
    assert wakeups < 1000 + 10 * (fleet.asked - asked), "it does not spin"
    assert fleet.stop() == 0, fleet.tell()


def library() -> ctypes.CDLL:
    """In this process: nothing here is begun, so nothing is forked."""
    lib = ctypes.CDLL(str(program().parent / "libtelemetry.so.0"))
    for name in (
        "new",
        "add",
        "add_command",
        "set_fork",
        "prepare",
        "watch",
        "step",
        "stop",
        "resize",
        "status",
    ):
        getattr(lib, f"telemetry_fleet_{name}").restype = ctypes.c_int32
    return lib


def said(lib: ctypes.CDLL) -> str:
    """The text of this thread's last error."""
    text = ctypes.create_string_buffer(1000)
    lib.telemetry_last_error.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    lib.telemetry_last_error(text, len(text))
    return text.value.decode()


REFUSED = [
    ('{"grase_ms": 1}', ["grase_ms", "grace_ms"]),
    ('{"grace_ms": -1}', ["grace_ms", "-1", "0 to 86400000"]),
    ('{"grace_ms": "1"}', ["grace_ms", '"1"', "whole number"]),
    ('{"grace_ms": 1.5}', ["grace_ms", "1.5", "whole number"]),
    ('{"mode": "threads"}', ["mode", "threads", "auto, fork, zygote, exec"]),
    ('{"on_intensity": true}', ["on_intensity", "true", "report, exit"]),
    ('{"crash_limit": 0}', ["crash_limit", "0", "1 to"]),
    ('{"permanent_exit": [0]}', ["permanent_exit", "[0]", "1 to 255"]),
    ('{"permanent_exit": 64}', ["permanent_exit", "64", "list"]),
    ('{"counters": ["done"]}', ["counters", "done"]),
    ('{"counters": ["a","b","c","d","e","f"]}', ["counters", "5"]),
    ('{"name": "a\\nb"}', ["name"]),
    ('{"name": "a/../b"}', ["name"]),
    ('{"max_workers": 0}', ["max_workers", "0", "1 to"]),
    ('{"require_probe": 1}', ["require_probe", "1", "true or false"]),
    ('{"health": "nonsense"}', ["health", "nonsense"]),
    ('{"health": "127.0.0.1:99999"}', ["health", "99999"]),
    ('{"grace_ms": 1, "grace_ms": 2}', ["grace_ms", "twice"]),
    ("[]", ["object"]),
    ("{", ["object"]),
    ('{"stale_ms": null}', ["stale_ms", "null"]),
]


@pytest.mark.parametrize(("config", "words"), REFUSED, ids=[config for config, _ in REFUSED])
def test_a_wrong_configuration_is_named(config: str, words: list[str]) -> None:
    lib = library()
    fleet = ctypes.c_void_p(0x55)
    assert lib.telemetry_fleet_new(config.encode(), ctypes.byref(fleet)) == INVALID
    assert fleet.value == 0x55, "written only on success"
    text = said(lib)
    assert all(word in text for word in words), text


def test_null_everywhere_and_wrong_groups() -> None:
    lib = library()
    body = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda worker, user: 0)
    assert lib.telemetry_fleet_new(b"{}", None) == INVALID
    fleet = ctypes.c_void_p()
    assert lib.telemetry_fleet_new(None, ctypes.byref(fleet)) == OK
    none = ctypes.c_void_p()
    for call in (
        lambda f: lib.telemetry_fleet_add(f, b"w", 1, None, body, None),
        lambda f: lib.telemetry_fleet_add_command(
            f, b"w", 1, None, (ctypes.c_char_p * 2)(b"true", None)
        ),
        lambda f: lib.telemetry_fleet_set_fork(f, None, None),
        lambda f: lib.telemetry_fleet_watch(f, 0, None, None),
        lambda f: lib.telemetry_fleet_stop(f, None, 0),
        lambda f: lib.telemetry_fleet_resize(f, b"w", 1),
        lambda f: lib.telemetry_fleet_status(f, None, 0, None),
        lambda f: lib.telemetry_fleet_step(f, 0),
    ):
        assert call(none) == INVALID
        assert "NULL" in said(lib)
    assert lib.telemetry_fleet_fd(none) == -1
    assert lib.telemetry_fleet_run(none) == 64
    lib.telemetry_fleet_free(none)

    def refused(limits: str | None, name: bytes | None, count: int, *words: str) -> None:
        given = limits.encode() if limits else None
        assert lib.telemetry_fleet_add(fleet, name, count, given, body, None) == INVALID
        text = said(lib)
        assert all(word in text for word in words), text

    refused(None, None, 1, "name")
    refused(None, b"", 1, "name")
    refused(None, b"x" * 61, 1, "name", "60")
    refused(None, b"a b", 1, "name", "a b")
    refused(None, b"\xff", 1, "UTF-8")
    refused(None, b"w", 65, "65", "64")
    refused(None, b"w", 2**32 - 1, "4294967295")
    refused('{"grace_ms": 1}', b"w", 1, "grace_ms", "group")
    refused('{"stale_ms": "x"}', b"w", 1, "stale_ms", '"x"')
    refused('{"ready": "later"}', b"w", 1, "ready", "later", "auto, start, call")
    assert lib.telemetry_fleet_add(fleet, b"w", 1, None, None, None) == INVALID
    assert lib.telemetry_fleet_add_command(fleet, b"c", 1, None, None) == INVALID
    assert (
        lib.telemetry_fleet_add_command(fleet, b"c", 1, None, (ctypes.c_char_p * 1)(None))
        == INVALID
    )
    assert (
        lib.telemetry_fleet_add_command(fleet, b"c", 1, None, (ctypes.c_char_p * 2)(b"", None))
        == INVALID
    )
    assert (
        lib.telemetry_fleet_add_command(fleet, b"c", 1, None, (ctypes.c_char_p * 2)(b"/", None))
        == INVALID
    )
    assert lib.telemetry_fleet_watch(fleet, -1, ctypes.cast(body, ctypes.c_void_p), None) == INVALID
    assert (
        lib.telemetry_fleet_watch(fleet, 1 << 20, ctypes.cast(body, ctypes.c_void_p), None)
        == INVALID
    )
    assert lib.telemetry_fleet_prepare(fleet, None, None) == INVALID
    assert lib.telemetry_fleet_add(fleet, b"w", 1, None, body, None) == OK
    refused(None, b"w", 1, "w", "already")
    size = ctypes.c_size_t()
    assert lib.telemetry_fleet_status(fleet, None, 0, ctypes.byref(size)) == OK, "only its length"
    assert size.value > 100
    assert lib.telemetry_fleet_status(fleet, None, 100, None) == INVALID
    small = ctypes.create_string_buffer(b"x" * 20)
    assert lib.telemetry_fleet_status(fleet, small, 20, ctypes.byref(size)) == TOO_LARGE
    assert small.value == b"x" * 20, "written only if it fits"
    room = ctypes.create_string_buffer(size.value + 100)
    assert lib.telemetry_fleet_status(fleet, room, len(room), ctypes.byref(size)) == OK
    assert json.loads(room.value)["schema"] == 1
    results: list[int] = []
    thread = threading.Thread(
        target=lambda: results.append(lib.telemetry_fleet_resize(fleet, b"w", 1))
    )
    thread.start()
    thread.join()
    assert results == [INVALID]
    lib.telemetry_fleet_free(fleet)


def test_a_scoreboard_that_is_none(tmp_path: Any) -> None:
    lib = library()
    lib.telemetry_scoreboard_read.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
    ]
    room = ctypes.create_string_buffer(1 << 16)
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"TLFLEET1" + bytes(50))
    (tmp_path / "foreign").write_bytes(os.urandom(8192))
    huge = bytearray(b"TLFLEET1" + bytes(8184))
    huge[8:24] = (1).to_bytes(4, "little") + (0xFFFFFFF0).to_bytes(4, "little") * 3
    (tmp_path / "huge").write_bytes(huge)
    for name in ("missing", "empty", "short", "foreign", "huge", "."):
        status = lib.telemetry_scoreboard_read(str(tmp_path / name).encode(), room, len(room), None)
        assert status == IO, (name, status)
        assert name in said(lib) or name == ".", said(lib)
    assert lib.telemetry_scoreboard_read(None, room, len(room), None) in (INVALID, IO)


def test_worker_functions_outside_a_worker() -> None:
    lib = library()
    lib.telemetry_worker_current.restype = ctypes.c_void_p
    lib.telemetry_worker_incarnation.restype = ctypes.c_uint64
    lib.telemetry_worker_item_begin.restype = ctypes.c_uint64
    lib.telemetry_worker_trace.restype = ctypes.c_size_t
    assert lib.telemetry_worker_current() is None
    none = ctypes.c_void_p()
    for name in ("ready", "beat"):
        getattr(lib, f"telemetry_worker_{name}")(none)
    assert lib.telemetry_worker_stopping(none) == lib.telemetry_worker_paused(none) == 0
    assert lib.telemetry_worker_stop_fd(none) == -1
    assert lib.telemetry_worker_incarnation(none) == 0
    item = lib.telemetry_worker_item_begin(none, b"x", 5)
    lib.telemetry_worker_item_end(none, ctypes.c_uint64(item), 0)
    lib.telemetry_worker_lease(none, ctypes.c_uint64(1), ctypes.c_uint64(2), 3)
    lib.telemetry_worker_count(none, 99, ctypes.c_uint64(1))
    lib.telemetry_worker_flag(none, 255, 1)
    lib.telemetry_worker_lag(none, 5)
    assert lib.telemetry_worker_counter(none, b"done") == -1
    assert lib.telemetry_worker_trace(none, 0, None, ctypes.c_size_t(0)) == 0


def test_a_loop_of_the_hosts_hears_of_deadlines(fleets: Fleets) -> None:
    """The descriptor is readable at the end of a back-off, which began within a step."""
    fleet = fleets.make(group("1?return=4,2?return=4,3?return=4,ready,beat", 1), options="steps")
    # Nobody asks the endpoint, which would wake the host: else it waits for an hour.
    fleet.until_log("begin", 4)
    fleet.until_ready(1)
    assert fleet.workers()[0]["incarnation"] == 4
    assert fleet.stop() == 0, fleet.tell()


def test_a_descriptor_to_keep_that_is_not_open(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat", 1, kind="self", keep_fds=[999]))
    assert fleet.end() == 87, fleet.tell()
    assert "keep_fds has 999, which is not open; allowed: " in fleet.stderr()
