"""A fleet at a terminal, and one whose stderr nobody reads."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import termios
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleets import Fleets, group, state_of, until
from harness import TOOL, environment, free_port


@pytest.mark.parametrize("mode", ["call", "self"])
def test_a_stopped_worker_ends_by_term(fleets: Fleets, mode: str) -> None:
    """As one that a terminal has stopped for reading from it."""
    fleet = fleets.make(group("ready,beat", 2, kind=mode, stale_ms=0), grace_ms=600_000)
    fleet.until_ready(2)
    stopped = fleet.pids()[0]
    os.kill(stopped, signal.SIGSTOP)
    until("it is stopped", lambda: state_of(stopped) == "T")
    assert fleet.stop() == 0, "KILL would come after ten minutes, and be a 1"
    assert len(fleet.log("end")) == 2


def status_of(port: int) -> dict[str, Any] | None:
    """None while it does not listen yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return None


def resize(terminal: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))


def own_terminal(slave: int) -> Callable[[], None]:
    def take() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    return take


def test_another_size_of_the_terminal_is_no_pause(tmp_path: Path) -> None:
    """The kernel sends WINCH for it; somebody's WINCH pauses."""
    master, slave = pty.openpty()
    port = free_port()
    command = [TOOL, "fleet", "--health", f"127.0.0.1:{port}", "--", "sleep", "600"]
    env = environment(TELEMETRY_RUNTIME_DIR=str(tmp_path))
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    with subprocess.Popen(command, env=env, preexec_fn=own_terminal(slave), **streams) as fleet:
        try:
            until("ready", lambda: (s := status_of(port)) and s["ready"])
            for rows in (30, 40, 50):
                resize(master, rows)
                # An answer comes after what came before the question.
                assert (s := status_of(port)) and s["ready"] and not s["reasons"], s
            os.kill(fleet.pid, signal.SIGWINCH)
            until("paused", lambda: (s := status_of(port)) and s["reasons"] == ["paused"])
            os.close(slave)
            os.close(master)
            assert fleet.wait(60) == 0, "a terminal that is gone ends it"
        finally:
            fleet.kill()


def sockets() -> tuple[int, int]:
    """As systemd's journal has one at the other end."""
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("ends", [os.pipe, sockets], ids=["pipe", "socket"])
def test_nobody_reads_stderr(tmp_path: Path, ends: Callable[[], tuple[int, int]]) -> None:
    """It is full: lines are lost, and nothing else."""
    read, write = ends()
    os.set_blocking(write, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    port = free_port()
    command = [TOOL, "fleet", "-n", "2", "--health", f"127.0.0.1:{port}", "--", "sleep", "600"]
    env = environment(TELEMETRY_RUNTIME_DIR=str(tmp_path))
    with subprocess.Popen(command, env=env, stderr=write) as fleet:
        try:
            first = until(
                "ready", lambda: (s := status_of(port)) and s["slots"]["ready"] == 2 and s
            )
            os.kill(first["workers"][0]["pid"], signal.SIGKILL)
            until("replaced", lambda: (s := status_of(port)) and s["restarts"]["total"] == 1)
            os.kill(fleet.pid, signal.SIGUSR1)
            os.kill(fleet.pid, signal.SIGTERM)
            assert fleet.wait(60) == 0
        finally:
            fleet.kill()
            os.close(read)
            os.close(write)
