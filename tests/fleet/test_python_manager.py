"""`ProcessManager`: workers beside a program that does something else, and what it says of them."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import harness
from fleets import WAIT_S, until
from harness import BIN
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
        until("all end", lambda: not harness.members(program.process.pid))


def test_a_managers_list(managed: Managed) -> None:
    until("both begin", lambda: len(managed.notes("begin")) == 2)
    # What is shown next is sampled last.
    until("both are sampled", lambda: managed.status("two")["processed"] > 0
          and managed.status("one")["processing_errors"] > 0
          and managed.status("one")["mdq_connected"])  # fmt: skip
    one, two = managed.status("one"), managed.status("two")
    assert set(one) >= KEYS and set(managed.do("manager.get_status()")) == {"one", "two"}
    assert one["alive"] and one["running"] and one["mdq_connected"] and not one["mdc_connected"]
    counted = ("published", "errors", "decoding_errors", "processing_errors")
    assert [one[key] for key in counted] == [5, 2, 3, 4]
    assert one["pid"] != two["pid"] and harness.alive(one["pid"]) and one["restarts"] == 0

    # One that dies comes back, and what it had done stays counted.
    os.kill(two["pid"], signal.SIGKILL)
    until("a new one", lambda: managed.status("two")["pid"] not in (None, two["pid"]))
    again = managed.status("two")
    assert again["restarts"] == 1 and again["processed"] >= two["processed"]

    # A stop waits for its end, may be repeated, and the status stays: all that it did.
    assert managed.do("manager.stop_process('one', timeout=600)") is True
    assert not harness.alive(one["pid"])
    assert managed.do("manager.stop_process('one')") is True
    ended = managed.status("one")
    assert (ended["alive"], ended["running"], ended["pid"]) == (False, False, None)
    assert ended["processed"] == 2 * (managed.notes("end", name="one")[0]["processed"] // 2)
    assert managed.status("two")["pid"] == again["pid"]

    # Started again it begins anew.
    assert managed.do("manager.start_worker('one', Counting, name='anew')") is None
    until("it is sampled", lambda: managed.status("one")["published"] > 0)
    fresh = managed.status("one")
    assert fresh["alive"] and fresh["restarts"] == 0
    assert fresh["published"] == ended["published"] == 5, "what each of them counts once"

    # All at once, twice; then everything is gone, and the status is not.
    supervisor = managed.supervisor()
    pids = [managed.status(name)["pid"] for name in ("one", "two")]
    assert managed.do("manager.stop_all(timeout=600)") is True
    assert managed.do("manager.stop_all()") is True
    assert not any(map(harness.alive, [*pids, supervisor]))
    assert managed.notes("end", name="anew") and managed.notes("end", name="two")
    last = managed.status("two")
    assert (
        not last["alive"] and last["processed"] >= managed.notes("end", name="two")[0]["processed"]
    )
    # And once more.
    assert managed.do("manager.start_worker('two', Plain, name='last')") is None
    until("it begins", lambda: managed.notes("begin", name="last"))
    assert managed.status("two")["alive"] and not managed.status("one")["alive"]
    # The interpreter's end is the workers' end.
    pid = managed.status("two")["pid"]
    managed.process.communicate(timeout=WAIT_S)
    assert managed.process.returncode == 0
    assert not harness.alive(pid) and managed.notes("end", name="last")


def test_a_killed_manager_takes_its_workers_with_it(managed: Managed) -> None:
    until("both begin", lambda: len(managed.notes("begin")) == 2)
    pids = [managed.supervisor(), *(managed.status(name)["pid"] for name in ("one", "two"))]
    # A child that it forked holds nothing of its.
    child = managed.do("fork_one()")
    managed.process.kill()
    until("all end", lambda: not any(map(harness.alive, pids)))
    assert {one["name"] for one in managed.notes("end")} == {"one", "two"}
    assert harness.alive(child)
    os.kill(child, signal.SIGKILL)


def test_a_killed_supervisor_is_seen(managed: Managed) -> None:
    until("both begin", lambda: len(managed.notes("begin")) == 2)
    pid = managed.status("one")["pid"]
    os.kill(managed.supervisor(), signal.SIGKILL)
    until("it is seen", lambda: not managed.status("one")["alive"])
    until("it is gone, too", lambda: not harness.alive(pid))
    assert managed.do("manager.start_worker('one', Counting, name='anew')") is None
    until("it begins", lambda: managed.notes("begin", name="anew"))
    assert managed.do("manager.stop_all()") is True


def test_all_stop_under_one_deadline(tmp_path: Path) -> None:
    count, timeout = 8, 5.0
    app = App.__new__(App)
    app.directory = tmp_path
    with subprocess.Popen(
        [
            str(BIN / "python"),
            str(HERE / "python_program.py"),
            "deadline",
            str(count),
            str(timeout),
        ],
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        until("all begin", lambda: len(app.notes("begin")) == count)
        said, _ = process.communicate("\n", timeout=WAIT_S)
    lines = said.splitlines()
    assert lines[0] == "all are asked for"
    assert lines[1].startswith("ConfigError") and "runs already" in lines[1]
    assert lines[2].startswith("KeyError") and "no worker is named 'x'" in lines[2]
    # Not eight times that, which would be 40 s.
    assert timeout - 0.1 < float(lines[3]) < timeout + 30
    assert process.returncode == 0
    assert not harness.members(process.pid)


def test_mistakes_of_a_manager(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stale_ms is -1000"):
        ProcessManager(stale=-1, runtime_dir=tmp_path)
    manager = ProcessManager(runtime_dir=tmp_path)
    with pytest.raises(ConfigError, match="import string"):
        manager.start_worker("a", lambda: None)
    assert manager.get_status() == {} and manager.stop_all() is True


def test_what_a_killed_supervisor_leaves_is_told(managed: Managed) -> None:
    until("both begin", lambda: len(managed.notes("begin")) == 2)
    until("one is sampled", lambda: managed.status("one")["mdq_connected"])
    until("and counts", lambda: managed.status("one")["processed"] > 0)
    os.kill(managed.supervisor(), signal.SIGKILL)
    # Whether its workers have ended by then or not.
    until("it is seen", lambda: not managed.status("one")["alive"])
    until("of the other, too", lambda: not managed.status("two")["alive"])
    one = managed.status("one")
    assert (one["ready"], one["states"], one["pids"], one["running"]) == (0, [], [], False)
    assert not one["mdq_connected"] and one["processed"] > 0
    said = (managed.directory / "log").read_text()
    assert said.count("the supervisor of 'managed' ended by itself (signal 9)") == 1
    assert "restarts its workers any more, and they end: one, two." in said
    # An end that was asked for is nothing to tell.
    assert managed.do("manager.start_worker('one', Plain, name='anew')") is None
    assert managed.do("manager.stop_all()") is True
    assert managed.status("one")["states"] == []
    assert (managed.directory / "log").read_text().count("ended by itself") == 1


@pytest.mark.parametrize("way", ["stop_process", "stop_all", "end"])
def test_the_grace_holds_wherever_no_time_is_said(tmp_path: Path, way: str) -> None:
    program = (
        "import sys\n"
        "from libtelemetry.fleet import ProcessManager, _manager\n"
        "ask = _manager._Supervisor.ask\n"
        "def shown(self, request, memory=None):\n"
        "    if request['do'] != 'start': print(request, flush=True)\n"
        "    ask(self, request, memory)\n"
        "_manager._Supervisor.ask = shown\n"
        "manager = ProcessManager(grace=0.3, kill=0.2)\n"
        "manager.start_worker('deaf', 'python_workers:deaf')\n"
        "sys.stdin.readline()\n"
        "if sys.argv[1] == 'stop_process': assert manager.stop_process('deaf') is True\n"
        "if sys.argv[1] == 'stop_all': assert manager.stop_all() is True\n"
    )
    with subprocess.Popen(
        [str(BIN / "python"), "-c", program, way],
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        app = App.__new__(App)
        app.directory = tmp_path
        until("it is deaf", lambda: app.notes("begin", name="deaf"))
        asked, _ = process.communicate("\n", timeout=60)
        assert process.returncode == 0
    # How long the supervisor gives its workers, asked by the manager's methods or at its end.
    requests = [ast.literal_eval(line) for line in asked.splitlines()]
    assert requests and {request["timeout"] for request in requests} == {0.3}
    until("nobody is left", lambda: not harness.members(process.pid))
