"""`telemetry status`: fleets and families as an operator sees them.

The scoreboards are made here, by the layout of version 1 as it is written down: another program
than the library, so that what is read is the layout and not what the same code wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleets import WAIT_S, until
from harness import TOOL, environment

HEADER, SLOT = 1024, 1536

# A supervisor: it publishes the bytes it is given as its board, says so, and stays.
SUPERVISOR = """
import fcntl, os, sys, time
directory, name = sys.argv[1:3]
board = bytearray(sys.stdin.buffer.read())
pid = os.getpid()
start = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
boot = int(open("/proc/sys/kernel/random/boot_id").read().replace("-", "")[:16], 16)
space = os.stat("/proc/self/ns/pid").st_ino
board[24:28] = pid.to_bytes(4, "little")
for at, value in ((32, start), (40, boot), (48, space)):
    board[at : at + 8] = value.to_bytes(8, "little")
fd = os.memfd_create("libtelemetry-fleet", os.MFD_ALLOW_SEALING)
os.write(fd, board)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
os.symlink(f"/proc/{pid}/fd/{fd}", f"{directory}/{name}.{pid}.board")
print("published", flush=True)
time.sleep(36000)
"""


def put(board: bytearray, at: int, layout: str, *values: Any) -> None:
    struct.pack_into("<" + layout, board, at, *values)


def a_board() -> bytes:
    """Two slots in use: one that works, one that crashes; a third that nobody has used."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    board = bytearray(HEADER + 3 * SLOT)
    put(board, 0, "8s4I", b"TLFLEET1", 1, HEADER, SLOT, 3)
    put(board, 56, "2Q", time.time_ns(), now - 7200 * 10**9)
    put(board, 72, "4I", 1, 1, 9464, 1)  # running; a probe wanted, not bound; live, not ready
    put(board, 88, "2Q2I", 91, 3 * 10**6, 2, 0)
    put(board, 120 + 8 * 3, "Q", 5)  # restarts by signal
    put(board, 248, "64s", b"shop")
    put(board, 312, "24s", b"emails")
    put(board, 432, "256s", b"crash_loop:slot=1\nno_ready_slot")
    for index, state in enumerate((2, 5)):
        at = HEADER + index * SLOT
        put(board, at, "4I", 2, state, 4242 if index == 0 else 0, 0)
        put(board, at + 16, "Q", 3)
        put(board, at + 104, "64s", b"consumer")
        put(board, at + 256, "2IQI", 2, 4242, 3, 1 | 2 if index == 0 else 0)
        put(board, at + 256 + 24, "Q", now - 10**8)
        put(board, at + 256 + 48, "Q", now - 10**8)
        put(board, at + 256 + 64, "64s", b"POST batch 9f3c")
        put(board, at + 512, "3Q", 10, 1234, 56)
        put(board, at + 512 + 8 * 11, "Q", 77)
    at = HEADER + SLOT
    put(board, at + 48, "2Q2I", now + 7200 * 10**9, now - 65 * 10**9, 7, 6)
    put(board, at + 72, "4I", 0, 9, 1, 3)  # killed, with a core
    return bytes(board)


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    path = tmp_path / "runtime"
    path.mkdir(mode=0o700)
    return path


@contextlib.contextmanager
def supervisor(directory: Path, name: str = "shop", board: bytes | None = None) -> Iterator[int]:
    argv = [sys.executable, "-c", SUPERVISOR, str(directory), name]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin and process.stdout
            process.stdin.write(a_board() if board is None else board)
            process.stdin.close()
            assert process.stdout.readline() == b"published\n"
            yield process.pid
        finally:
            process.kill()


def status(directory: Path, *args: str, **more: Any) -> str:
    argv = [str(TOOL), "status", "--dir", str(directory), *args]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=True, **more)
    assert done.stderr == ""
    return done.stdout


def document(directory: Path, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status(directory, "--json", **more))
    return found


def test_a_fleet_is_a_line_and_a_row_for_each_slot_in_use(runtime: Path) -> None:
    with supervisor(runtime) as pid:
        text = status(runtime)
        fleet = document(runtime)["fleets"][0]
    head, names, first, second, *rest = text.splitlines()
    assert re.fullmatch(
        rf"fleet shop  running  pid {pid}  up 2h\d\dm  live  not ready  probe NOT BOUND"
        r"  crash_loop:slot=1  no_ready_slot",
        head,
    )
    columns = "SLOT NAME STATE PID INC BEAT DOING DONE FAILED RESTARTS LAST EXIT NEXT"
    assert names.split() == columns.split()
    assert re.fullmatch(
        r" +0 +consumer +ready +4242 +3 +[\d.ms]+ +POST batch 9f3c +1234 +56 +0 +- +-", first
    )
    assert re.fullmatch(
        r" +1 +consumer +crash_looping +- +3 +[\d.ms]+ +- +1234 +56 +7 +SIGKILL core [\dms]+ ago"
        r" +[12]h\d\dm",
        second,
    )
    assert rest == [] and "\x1b" not in text
    same = {"name": "shop", "pid": pid, "supervisor": "ok", "state": "running", "want": 2}
    same |= {"live": True, "ready": False, "liveness_probe_bound": False, "late_ms_max": 3}
    same |= {"reasons": ["crash_loop:slot=1", "no_ready_slot"]}
    same |= {"restarts": {"total": 5, "by_cause": {"signal": 5}}}
    assert {key: fleet[key] for key in same} == same
    working, crashing = fleet["workers"]
    assert (working["state"], working["busy"], working["doing"]) == (
        "ready",
        True,
        "POST batch 9f3c",
    )
    counters = working["counters"]
    assert len(counters) == 12
    assert (counters["done"], counters["failed"], counters["emails"]) == (1234, 56, 77)
    last = crashing["last_exit"]
    assert (last["signal"], last["core"], last["cause"]) == ("SIGKILL", True, "signal")
    assert crashing["crashes_in_row"] == 6 and 0 < crashing["not_before_in_s"] <= 7200


def test_a_supervisor_that_is_stopped_or_dead_is_told(runtime: Path) -> None:
    with supervisor(runtime) as pid:
        os.kill(pid, signal.SIGSTOP)

        def stopped() -> bool:
            return bool(document(runtime)["fleets"][0]["supervisor"] == "stopped")

        until("it is seen to be stopped", stopped)
        assert "running: supervisor does not respond, its process is stopped" in status(runtime)
        os.kill(pid, signal.SIGCONT)
        until("it goes on", lambda: not stopped())
    assert status(runtime) == f"fleet shop  pid {pid}  its supervisor is gone\n"
    fleet = document(runtime)["fleets"][0]
    assert (fleet["supervisor"], fleet["pid"]) == ("gone", pid)


def test_what_is_no_board_is_told_and_hides_nothing(runtime: Path) -> None:
    (runtime / "bad-0123.family").write_bytes(b"x" * 1000)
    with supervisor(runtime), supervisor(runtime, "zoo", b"x" * 5000):
        text = status(runtime)
        found = document(runtime)
    assert "not a scoreboard: another magic number" in text
    assert "family bad-0123  not a family's board: another magic number" in text
    assert "fleet shop  running" in text
    assert [("error" in fleet) for fleet in found["fleets"]] == [False, True]
    assert "error" in found["families"][0]


# Two of one family: the child dies, the parent says its number and stays until its input ends.
FAMILY = """
import os, signal, sys
from libtelemetry import Client
client = Client(sys.argv[1], name="shop", batch={"max_age_ms": 3_600_000})
child = os.fork()
if child == 0:
    client.enqueue({"n": 1})
    client.flush(None)
    client.enqueue({"n": 2})
    client.family()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
client.enqueue({"n": 3})
client.family()
print(child, flush=True)
sys.stdin.read()
client.shutdown()
"""


def test_a_family_is_seen_with_its_dead(runtime: Path, tmp_path: Path) -> None:
    # Not a child of this process, in which other tests' threads run.
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY, f"file:{tmp_path / 'events'}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(TELEMETRY_RUNTIME_DIR=str(runtime)),
    ) as process:
        assert process.stdout
        parent, child = process.pid, int(process.stdout.readline())
        lines = status(runtime).splitlines()
        family = document(runtime)["families"][0]
        process.communicate("", timeout=WAIT_S)
    assert process.returncode == 0
    assert re.fullmatch(r"family shop-[0-9a-f]{16}  1 of 2 alive", lines[0])
    rows = {int(line.split()[0]): line.split() for line in lines[2:]}
    state, accepted, delivered, lost, queued = slice(3, 4), 4, 5, 6, 7
    assert rows[parent][state] == ["alive"] and rows[child][state] == ["DEAD"]
    at = (accepted, delivered, lost, queued)
    assert [rows[child][i] for i in at] == ["2", "1", "1", "1"]
    assert [rows[parent][i] for i in at] == ["1", "0", "0", "1"]
    seen = {row["pid"]: (row["alive"], row["lost"]) for row in family["processes"]}
    assert seen == {parent: (True, 0), child: (False, 1)}


def test_nothing_there_is_no_failure_and_no_directory_is_one(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    env = environment(TELEMETRY_RUNTIME_DIR=str(missing))
    run = [str(TOOL), "status"]
    done = subprocess.run(run, capture_output=True, text=True, env=env, timeout=WAIT_S, check=True)
    assert done.stdout == f"nothing to be seen in {missing}\n"
    done = subprocess.run(
        [*run, "--json"], capture_output=True, env=env, timeout=WAIT_S, check=True
    )
    found = {"schema": 1, "directory": str(missing), "fleets": [], "families": []}
    assert json.loads(done.stdout) == found
    named = subprocess.run([*run, "--dir", missing], capture_output=True, text=True, timeout=WAIT_S)
    assert (named.returncode, named.stdout) == (1, "")
    assert str(missing) in named.stderr and not missing.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user: run as root")
def test_what_is_another_users_has_a_line_that_says_so() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        tool = shutil.copy(TOOL, directory / "telemetry")
        Path(tool).chmod(0o755)
        runtime = directory / "runtime"
        runtime.mkdir(mode=0o755)
        (runtime / "mail-0123.family").write_bytes(b"")
        (runtime / "mail-0123.family").chmod(0o600)
        with supervisor(runtime) as pid:
            argv = [tool, "status", "--dir", str(runtime)]
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=True,
                user=65534,
                group=65534,
            )
    why = "it belongs to user 0, and this process runs as user 65534"
    assert done.stdout == f"fleet shop  pid {pid}  {why}\n\nfamily mail-0123  {why}\n"


def test_watch_goes_on_until_it_is_told_to_end(runtime: Path) -> None:
    with supervisor(runtime):
        argv = [str(TOOL), "status", "--dir", str(runtime), "--watch"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout
            heads = [line for _ in range(9) if (line := watching.stdout.readline())[:5] == "fleet"]
            watching.send_signal(signal.SIGINT)
            rest, _ = watching.communicate(timeout=WAIT_S)
    assert len(heads) == 2 and "\x1b" not in "".join(heads) + rest
    assert watching.returncode == 0


@pytest.mark.parametrize("no_color", ["", "1"])
def test_watch_on_a_terminal_fits_it_and_leaves_it_as_it_was(runtime: Path, no_color: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 60, 0, 0))
    with supervisor(runtime):
        argv = [str(TOOL), "status", "--dir", str(runtime), "--watch"]
        env = environment(NO_COLOR=no_color)
        with subprocess.Popen(argv, stdout=theirs, env=env) as watching:
            os.close(theirs)
            shown = b""
            while b"consumer" not in shown:
                shown += os.read(ours, 65536)
            watching.send_signal(signal.SIGINT)
            watching.wait(WAIT_S)
        with contextlib.suppress(OSError):  # the other side is closed
            while more := os.read(ours, 65536):
                shown += more
    os.close(ours)
    text = shown.decode()
    assert watching.returncode == 0
    assert text.startswith("\x1b[?1049h\x1b[?25l\x1b[H\x1b[J") and text.endswith(
        "\x1b[?25h\x1b[?1049l"
    )
    assert ("\x1b[32mready\x1b[0m" in text) == (no_color == "")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    lines = plain.replace("\r", "").splitlines()
    assert max(map(len, lines)) == 60, "as wide as the terminal, and no wider"
