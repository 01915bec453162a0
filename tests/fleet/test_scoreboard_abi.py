"""A reader of version 1 of the scoreboard, written from the description of its bytes.

Invariant: the numbers below are what version 1 promises to programs that were built long ago. A
test that fails here is a break of that promise: the number is not to be changed to suit.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from fleets import WAIT_S, Fleets, group, until

# Offset and format; integers of this machine's order, texts padded with zeros.
HEADER = {
    "magic": (0, "8s"),
    "abi": (8, "I"),
    "header_len": (12, "I"),
    "slot_len": (16, "I"),
    "slots": (20, "I"),
    "pid": (24, "I"),
    "generation": (28, "I"),
    "start_ticks": (32, "Q"),
    "boot": (40, "Q"),
    "pid_ns": (48, "Q"),
    "started_unix_ns": (56, "Q"),
    "started_ns": (64, "Q"),
    "phase": (72, "I"),
    "probe": (76, "I"),
    "probe_port": (80, "I"),
    "verdict": (84, "I"),
    "wakeups": (88, "Q"),
    "late_ns_max": (96, "Q"),
    "want": (104, "I"),
    "paused": (108, "I"),
    "stale_ms": (112, "Q"),
    "restarts": (120, "16Q"),
    "name": (248, "64s"),
    "counter_names": (312, "120s"),
    "reasons": (432, "256s"),
}
SLOT = {
    # Written by the supervisor.
    "seq": (0, "I"),
    "state": (4, "I"),
    "pid": (8, "I"),
    "group": (12, "I"),
    "incarnation": (16, "Q"),
    "start_ticks": (24, "Q"),
    "forked_ns": (32, "Q"),
    "ready_ns": (40, "Q"),
    "not_before_ns": (48, "Q"),
    "ended_ns": (56, "Q"),
    "restarts": (64, "I"),
    "crashes": (68, "I"),
    "exit_code": (72, "I"),
    "exit_signal": (76, "I"),
    "exit_bits": (80, "I"),
    "exit_cause": (84, "I"),
    "fork_errors": (88, "I"),
    "fresh_ns": (96, "Q"),
    "name": (104, "64s"),
    # By the worker.
    "w_seq": (256, "I"),
    "w_pid": (260, "I"),
    "w_incarnation": (264, "Q"),
    "flags": (272, "I"),
    "loop_lag_us": (276, "I"),
    "beat_ns": (280, "Q"),
    "w_ready_ns": (288, "Q"),
    "item_seq": (296, "Q"),
    "item_started_ns": (304, "Q"),
    "item_deadline_ns": (312, "Q"),
    "doing": (320, "64s"),
    "counters": (512, "16Q"),
    "histogram": (640, "24Q"),
    "item_us": (832, "Q"),
    "rss_kb": (840, "Q"),
    "leases": (848, "24Q"),
    "clients": (1040, "32Q"),
}
READY, STOPPED_BY_SIGNAL = 2, 3
FLAG_READY, FLAG_BUSY = 1, 2


class Board:
    """A mapping for reading only."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(fd).st_size
        self.bytes = mmap.mmap(fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(fd)

    def header(self, name: str) -> object:
        """One of its fields."""
        offset, form = HEADER[name]
        return self._value(offset, form)

    def slot(self, index: int, name: str) -> object:
        """One of a slot's, by the lengths that the header gives."""
        offset, form = SLOT[name]
        return self._value(
            int(str(self.header("header_len")))
            + index * int(str(self.header("slot_len")))
            + offset,
            form,
        )

    def _value(self, offset: int, form: str) -> object:
        values = struct.unpack_from("=" + form, self.bytes, offset)
        if form.endswith("s"):
            return values[0].rstrip(b"\0").decode()
        return values[0] if len(values) == 1 else list(values)

    def texts(self, name: str, size: int) -> Iterator[str]:
        """A field of several texts."""
        offset, form = HEADER[name]
        for at in range(offset, offset + struct.calcsize(form), size):
            yield self.bytes[at : at + size].rstrip(b"\0").decode()


def test_a_reader_of_version_1(fleets: Fleets) -> None:
    fleet = fleets.make(
        group(
            "ready,count=0:3,count=5:1000,count=11:7,lease=4,lease=5,lag=1234,item=20,begin=3600000,"
            "1?s1?die=9,forever",
            2,
            name="shop",
            healthy_after_ms=3_600_000,
        ),
        group("ready,items=5", 1, name="quick"),
        counters=["orders", "refunds"],
        name="board",
        max_workers=5,
        stale_ms=123_456,
        surge=2,
        listen="127.0.0.1:0",
    )
    board = Board(fleet.until("published", fleet.board_path))
    assert board.header("magic") == "TLFLEET1"
    assert (board.header("abi"), board.header("header_len"), board.header("slot_len")) == (
        1,
        1024,
        1536,
    )
    assert board.header("slots") == 7 and board.size >= 1024 + 7 * 1536
    fleet.until(
        "all is as it will be",
        lambda: (
            board.header("phase") == 1
            and board.slot(1, "incarnation") == 2
            and [board.slot(i, "state") for i in range(3)] == [READY] * 3
            and board.slot(1, "w_incarnation") == 2
            and [board.slot(i, "item_seq") for i in range(2)] == [2, 4]
            and all(board.slot(i, "doing") == "open" for i in range(2))
            and all(int(str(board.slot(i, "flags"))) & FLAG_BUSY for i in range(2))
            and board.header("verdict") == 3
            and board.header("reasons") == ""
        ),
    )
    now = time.monotonic_ns()
    assert board.header("pid") == fleet.pid and board.header("name") == "board"
    stat = Path(f"/proc/{fleet.pid}/stat").read_text().rpartition(")")[2].split()
    assert board.header("start_ticks") == int(stat[19])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:16]
    assert board.header("boot") in (int(boot, 16), int.from_bytes(bytes.fromhex(boot), "little"))
    assert board.header("pid_ns") == os.stat("/proc/self/ns/pid").st_ino
    assert abs(int(str(board.header("started_unix_ns"))) - time.time_ns()) < 3600e9
    assert 0 < int(str(board.header("started_ns"))) < now
    assert board.header("probe") == 3 and 0 < int(str(board.header("probe_port"))) < 65536
    assert board.header("verdict") == 3
    assert (
        board.header("want") == 3
        and board.header("paused") == 0
        and board.header("stale_ms") == 123_456
    )
    restarts = board.header("restarts")
    assert isinstance(restarts, list) and restarts[3] == 1 and sum(restarts) == 1, (
        "cause 3: a signal"
    )
    assert list(board.texts("counter_names", 24)) == ["orders", "refunds", "", "", ""]
    assert board.header("reasons") == ""
    assert int(str(board.header("wakeups"))) > 0
    assert [board.slot(i, "name") for i in range(3)] == ["shop", "shop", "quick"]
    pids = [board.slot(i, "pid") for i in range(3)]
    assert pids == [board.slot(i, "w_pid") for i in range(3)]
    assert sorted(pids) == sorted(set(fleet.processes()) - {fleet.pid})
    assert [board.slot(i, "incarnation") for i in range(3)] == [1, 2, 1]
    assert [board.slot(i, "w_incarnation") for i in range(3)] == [1, 2, 1]
    assert [board.slot(i, "restarts") for i in range(2)] == [0, 1]
    assert [board.slot(i, "crashes") for i in range(2)] == [0, 1]
    assert (
        board.slot(1, "exit_signal") == signal.SIGKILL
        and board.slot(1, "exit_cause") == STOPPED_BY_SIGNAL
    )
    assert 0 < int(str(board.slot(1, "ended_ns"))) < now
    for i in range(2):
        counters = board.slot(i, "counters")
        assert isinstance(counters, list)
        # claimed, done, bytes_in, and the first of its own; slot 1 had two lives.
        assert [counters[0], counters[1], counters[5], counters[11]] == [
            n * (i + 1) for n in (3, 1, 1000, 7)
        ]
        histogram = board.slot(i, "histogram")
        assert isinstance(histogram, list) and sum(histogram) == i + 1
        assert not any(histogram[:14]), "twenty milliseconds are more than 2^14 microseconds"
        assert int(str(board.slot(i, "item_us"))) >= 20_000
        leases = board.slot(i, "leases")
        assert (
            isinstance(leases, list)
            and leases[:6] == [4, 400, 40, 5, 500, 50]
            and not any(leases[6:])
        )
        assert board.slot(i, "doing") == "open" and board.slot(i, "loop_lag_us") == 1234
        flags = int(str(board.slot(i, "flags")))
        assert flags & FLAG_READY and flags & FLAG_BUSY
        assert board.slot(i, "item_seq") == 2 * (i + 1), "begun in all lives"
        started, due = (
            int(str(board.slot(i, "item_started_ns"))),
            int(str(board.slot(i, "item_deadline_ns"))),
        )
        assert due - started == 3_600_000 * 1_000_000
        assert now - 3600e9 < int(str(board.slot(i, "beat_ns"))) <= time.monotonic_ns()
        forked, ready = int(str(board.slot(i, "forked_ns"))), int(str(board.slot(i, "w_ready_ns")))
        assert 0 < forked <= time.monotonic_ns() and ready > 0
    beat = board.slot(0, "beat_ns")
    until("it goes on beating", lambda: board.slot(0, "beat_ns") != beat)
    assert [board.slot(i, "state") for i in range(3, 7)] == [0] * 4
    fleet.signal(signal.SIGTERM)
    until("draining shows", lambda: board.header("phase") in (2, 3))
    fleet.signal(signal.SIGTERM)
    fleet.end()
    assert board.header("phase") == 3, "who has it mapped sees the end"
    assert board.header("verdict") == 0


def test_a_board_can_neither_be_shortened_nor_be_written_by_others(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,beat"))
    fleet.until_ready(1)
    path = fleet.board_path()
    fd = os.open(path, os.O_RDWR)
    try:
        try:
            os.ftruncate(fd, 0)
            raise AssertionError("a reader that has it mapped would be killed")
        except PermissionError:
            pass
    finally:
        os.close(fd)
    assert fleet.stop() == 0, fleet.tell()
    assert not path.is_symlink(), "taken away at the end"


def test_a_stopped_supervisors_board_is_read_all_the_same(fleets: Fleets) -> None:
    fleet = fleets.make(group("ready,items=5", 2))
    fleet.until_ready(2)
    fleet.signal(signal.SIGSTOP)
    first = fleet.board()
    assert first["slots"]["ready"] == 2 and first["supervisor"]["pid"] == fleet.pid
    until(
        "workers go on counting",
        lambda: fleet.board()["totals"]["done"] > first["totals"]["done"] + 3,
    )
    fleet.signal(signal.SIGCONT)
    assert fleet.stop() == 0, fleet.tell()


def test_no_torn_state_is_ever_read(fleets: Fleets) -> None:
    """Slots are read while they change as fast as can be: each picture is of one moment."""
    fleet = fleets.make(group("ready,items=1", 4, healthy_after_ms=1), intensity=100_000)
    fleet.until_ready(4)
    looks = kills = 0
    end = time.monotonic() + WAIT_S
    while looks < 2000 or kills < 8:
        assert time.monotonic() < end, (looks, kills)
        board = fleet.board()
        for worker in board["workers"]:
            looks += 1
            if worker["state"] == "busy":
                assert worker["doing"] == "quick", worker
            if worker["pid"] is None:
                assert worker["state"] not in ("ready", "busy"), worker
        if looks % 200 < 4 and (
            pids := [worker["pid"] for worker in board["workers"] if worker["pid"]]
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[looks % len(pids)], signal.SIGKILL)
                kills += 1
    fleet.until_ready(4)
    assert fleet.stop() == 0, fleet.tell()
