"""`ProcessManager`: workers beside a program that does something else, and what it says of them."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import BIN, wait_until
from libtelemetry import ConfigError
from libtelemetry.fleet import ProcessManager
from python_kit import HERE, App, environment

KEYS = {
    "alive", "pid", "processed", "errors", "decoding_errors", "published", "processing_errors",
    "mdq_connected", "mdc_connected", "restarts", "running",
}  # fmt: skip


class Managed:
    """A program with a manager, which does what it reads."""

    def __init__(self, directory: Path) -> None:
        self.notes = App.notes.__get__(self)
        self.tell = App.tell.__get__(self)
        self.directory = directory
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "python"), "-u", str(HERE / "python_program.py"), "manager"],
                env=environment(directory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def do(self, expression: str) -> Any:
        """The value of that expression of `manager` there."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, (self.directory / "log").read_text()
        return ast.literal_eval(answer)

    def status(self, name: str) -> dict[str, Any]:
        """`get_status` of that worker."""
        found: dict[str, Any] = self.do(f"manager.get_status({name!r})")
        return found

    def supervisor(self) -> int:
        """The process that its workers' parent is."""
        pid: int = self.do("manager._supervisor.process.pid")
        return pid


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    program = Managed(tmp_path)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()
        wait_until("all end", lambda: not harness.members(program.process.pid), 20)


def test_a_managers_list(managed: Managed) -> None:
    wait_until("both begin", lambda: len(managed.notes("begin")) == 2, 20)
    wait_until("both are sampled", lambda: all(
        managed.status(name)["processed"] > 0 for name in ("one", "two")))  # fmt: skip
    one, two = managed.status("one"), managed.status("two")
    assert set(one) >= KEYS and set(managed.do("manager.get_status()")) == {"one", "two"}
    assert one["alive"] and one["running"] and one["mdq_connected"] and not one["mdc_connected"]
    counted = ("published", "errors", "decoding_errors", "processing_errors")
    assert [one[key] for key in counted] == [5, 2, 3, 4]
    assert one["pid"] != two["pid"] and harness.alive(one["pid"]) and one["restarts"] == 0

    # One that dies comes back, and what it had done stays counted.
    os.kill(two["pid"], signal.SIGKILL)
    wait_until("a new one", lambda: managed.status("two")["pid"] not in (None, two["pid"]))
    again = managed.status("two")
    assert again["restarts"] == 1 and again["processed"] >= two["processed"]

    # A stop waits for its end, may be repeated, and the status stays: all that it did.
    assert managed.do("manager.stop_process('one', timeout=10)") is True
    assert not harness.alive(one["pid"])
    assert managed.do("manager.stop_process('one')") is True
    ended = managed.status("one")
    assert (ended["alive"], ended["running"], ended["pid"]) == (False, False, None)
    assert ended["processed"] == 2 * (managed.notes("end", name="one")[0]["processed"] // 2)
    assert managed.status("two")["pid"] == again["pid"]

    # Started again it begins anew.
    assert managed.do("manager.start_worker('one', Counting, name='anew')") is None
    wait_until("it begins", lambda: managed.notes("begin", name="anew"))
    fresh = managed.status("one")
    assert fresh["alive"] and fresh["restarts"] == 0 and fresh["processed"] < ended["processed"]

    # All at once, twice; then everything is gone, and the status is not.
    supervisor = managed.supervisor()
    pids = [managed.status(name)["pid"] for name in ("one", "two")]
    assert managed.do("manager.stop_all(timeout=10)") is True
    assert managed.do("manager.stop_all()") is True
    assert not any(map(harness.alive, [*pids, supervisor]))
    assert managed.notes("end", name="anew") and managed.notes("end", name="two")
    last = managed.status("two")
    assert (
        not last["alive"] and last["processed"] >= managed.notes("end", name="two")[0]["processed"]
    )
    # And once more.
    assert managed.do("manager.start_worker('two', Plain, name='last')") is None
    wait_until("it begins", lambda: managed.notes("begin", name="last"))
    assert managed.status("two")["alive"] and not managed.status("one")["alive"]
    # The interpreter's end is the workers' end.
    pid = managed.status("two")["pid"]
    managed.process.communicate(timeout=20)
    assert managed.process.returncode == 0
    assert not harness.alive(pid) and managed.notes("end", name="last")


def test_a_killed_manager_takes_its_workers_with_it(managed: Managed) -> None:
    wait_until("both begin", lambda: len(managed.notes("begin")) == 2, 20)
    pids = [managed.supervisor(), *(managed.status(name)["pid"] for name in ("one", "two"))]
    # A child that it forked holds nothing of its.
    child = managed.do("fork_one()")
    managed.process.kill()
    wait_until("all end", lambda: not any(map(harness.alive, pids)), 20)
    assert {one["name"] for one in managed.notes("end")} == {"one", "two"}
    assert harness.alive(child)
    os.kill(child, signal.SIGKILL)


def test_a_killed_supervisor_is_seen(managed: Managed) -> None:
    wait_until("both begin", lambda: len(managed.notes("begin")) == 2, 20)
    pid = managed.status("one")["pid"]
    os.kill(managed.supervisor(), signal.SIGKILL)
    wait_until("it is seen", lambda: not managed.status("one")["alive"], 20)
    assert not harness.alive(pid)
    assert managed.do("manager.start_worker('one', Counting, name='anew')") is None
    wait_until("it begins", lambda: managed.notes("begin", name="anew"), 20)
    assert managed.do("manager.stop_all()") is True


def test_all_stop_under_one_deadline(tmp_path: Path) -> None:
    os.environ["FLEET_TEST_DIR"] = str(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with ProcessManager(runtime_dir=tmp_path, grace=10) as manager:
        for i in range(3):
            manager.start_worker(f"deaf-{i}", "python_workers:deaf")
        app = App.__new__(App)
        app.directory = tmp_path
        wait_until("all begin", lambda: len(app.notes("begin")) == 3, 20)
        with pytest.raises(ConfigError, match="runs already"):
            manager.start_worker("deaf-0", "python_workers:deaf")
        with pytest.raises(KeyError, match="no worker is named 'x'"):
            manager.get_status("x")
        began = time.monotonic()
        assert manager.stop_all(timeout=0.7) is True
        # Not three times that.
        assert 0.6 < time.monotonic() - began < 2.0
        assert not any(one["alive"] for one in manager.get_status().values())
    assert len(os.listdir("/proc/self/fd")) == before


def test_mistakes_of_a_manager(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stale_ms is -1000"):
        ProcessManager(stale=-1, runtime_dir=tmp_path)
    manager = ProcessManager(runtime_dir=tmp_path)
    with pytest.raises(ConfigError, match="import string"):
        manager.start_worker("a", lambda: None)
    assert manager.get_status() == {} and manager.stop_all() is True
