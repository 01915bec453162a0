"""Targets that cannot be imported: told as the mistake that they are, in every mode."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from python_kit import App, environment, run

MODES = ("fork", "zygote", "exec")

GOOD = """
from libtelemetry.fleet import Worker
import python_workers
def work(worker: Worker) -> None:
    python_workers.note("works")
    worker.ready()
    worker.stopping.wait()
"""

BAD = {
    "not_there:work": "target 'not_there:work' cannot be imported: ModuleNotFoundError: No module",
    "mine:other": "target is 'mine:other': module mine has no other",
    "raises:work": "target 'raises:work' cannot be imported: RuntimeError: no database (",
    "syntax:work": "target 'syntax:work' cannot be imported: SyntaxError: ",
    "mine:number": "'mine:number': target is 3; allowed: a function",
}


def write(directory: Path) -> None:
    """The modules."""
    (directory / "mine.py").write_text(GOOD + "number = 3\n")
    (directory / "raises.py").write_text("def f():\n    raise RuntimeError('no\\ndatabase')\nf()\n")
    (directory / "syntax.py").write_text("def f(:\n")


@pytest.mark.parametrize("mode", MODES)
def test_the_command_names_target_and_reason(tmp_path: Path, mode: str) -> None:
    write(tmp_path)
    # One after the other would take a second each.
    running = {
        target: subprocess.Popen(
            [sys.executable, "-m", "libtelemetry.fleet", target, "--mode", mode, "-n", "2"],
            env=environment(tmp_path),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for target in BAD
    }
    for target, process in running.items():
        _, said = process.communicate(timeout=60)
        assert process.returncode == 64, said
        own = [line for line in said.splitlines() if line.startswith("python -m libtelemetry.")]
        assert len(own) == 1 and own[0].endswith(said.splitlines()[-1]), said
        assert own[0].startswith(f"python -m libtelemetry.fleet: {BAD[target]}"), said
        # What is the user's own is shown, what is the package's is not.
        assert "libtelemetry/fleet/" not in said and "importlib" not in said, said
        assert (said.count("Traceback") > 0) == (target == "raises:work"), said


@pytest.mark.parametrize("mode", ["fork", "exec"])
def test_a_reload_that_cannot_be_imported_is_told_and_repaired(tmp_path: Path, mode: str) -> None:
    write(tmp_path)
    health = f"unix:{tmp_path / 'health'}"
    argv = ["-B", "-m", "libtelemetry.fleet", "mine:work", "--health", health, "--mode", mode]
    argv += ["--set", "stale=30", "--set", "backoff_cap=0.1", "--grace", "5"]
    with App(tmp_path, argv=argv) as app:
        app.until_ready()
        (tmp_path / "mine.py").write_text("raise RuntimeError('a bad deploy')\n")
        app.process.send_signal(signal.SIGHUP)
        why = "libtelemetry.fleet: target 'mine:work' cannot be imported: RuntimeError: a bad "
        app.wait_for("it is told", lambda: why + "deploy" in app.output())
        app.wait_for("it ends", lambda: "reload_stopped" in str(app.get("/status")[1]))
        assert app.process.poll() is None and "python -m libtelemetry" not in app.output()
        (tmp_path / "mine.py").write_text(GOOD)
        app.process.send_signal(signal.SIGHUP)
        app.wait_for("the new one works", lambda: len(app.notes("works")) == 2)
        assert app.stop() == 0, app.output()


def test_a_fleet_of_a_zygote_raises_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "from libtelemetry import ConfigError\n"
        "from libtelemetry.fleet import Fleet\n"
        "fleet = Fleet(mode='zygote')\n"
        "fleet.start_worker('good', 'python_workers:bare')\n"
        "fleet.start_worker('bad', 'not_there:work')\n"
        "try: fleet.run()\n"
        "except ConfigError as error: print('refused:', error)\n"
    )
    with App(tmp_path, argv=["program.py"]) as app:
        assert app.process.wait(60) == 0, app.output()
        assert "refused: target 'not_there:work' cannot be imported: ModuleNot" in app.output()


def test_targets_without_a_file_and_arguments_without_names_are_refused(tmp_path: Path) -> None:
    code = (
        "from libtelemetry import ConfigError\n"
        "from libtelemetry.fleet import Fleet, ProcessManager\n"
        "def work(): pass\n"
        "for call in (\n"
        "    lambda: ProcessManager().start_worker('m', work),\n"
        "    lambda: Fleet(mode='exec').start_worker('f', work),\n"
        "    lambda: Fleet(mode='fork').start_worker('f', work, kwargs=[1]),\n"
        "    lambda: Fleet(counters='abc'),\n"
        "):\n"
        "    try: call()\n"
        "    except ConfigError as error: print('refused:', error)\n"
    )
    lines = [line for line in run(tmp_path, code).splitlines() if line.startswith("refused: ")]
    assert len(lines) == 4
    assert all("a main program without a file" in line for line in lines[:2])
    assert "kwargs is [1]; allowed" in lines[2] and 'counters is "abc"' in lines[3]


ODD = """
import time
class Odd:
    done = 0
    @property
    def processing_errors(self):
        return self.connection.errors
    @property
    def mdq_connected(self):
        raise ValueError("not yet")
    @property
    def processed(self):
        return 3
    def start(self):
        while not self.done:
            time.sleep(0.01)
    def stop(self):
        self.done = 1
"""


def test_what_a_workers_object_cannot_show_does_not_end_it(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    health = f"unix:{tmp_path / 'health'}"
    argv = ["-m", "libtelemetry.fleet", "odd:Odd", "--health", health, "--grace", "5"]
    with App(tmp_path, argv=argv) as app:
        app.until_ready()
        app.wait_for("the rest is shown", lambda: app.get("/status")[1]["totals"]["done"] == 3)
        assert app.get("/status")[1]["restarts"]["total"] == 0
        assert app.stop() == 0, app.output()
        # Once, however often it was looked at: the first time, and at the end.
        said = "libtelemetry.fleet: Odd.mdq_connected cannot be read: ValueError('not yet')"
        assert app.output().count(said) == 1


def test_a_supervisor_that_is_late_is_named(tmp_path: Path) -> None:
    code = (
        "import signal\n"
        "from libtelemetry.fleet import ProcessManager, _fleet, _manager\n"
        "manager = ProcessManager()\n"
        "_manager._ANSWER_S = 0.3\n"
        "program, _fleet.program = _fleet.program, lambda *_: ['sleep', '600']\n"
        "try: manager.start_worker('w', 'python_workers:bare')\n"
        "except TimeoutError as error: print('refused:', error)\n"
        "_manager._ANSWER_S, _fleet.program = 60, program\n"
        "manager.start_worker('w', 'python_workers:bare')\n"
        "_manager._ANSWER_S = 0.3\n"
        "supervisor = manager._supervisor\n"
        "supervisor.channel.settimeout(0.3)\n"
        "supervisor.process.send_signal(signal.SIGSTOP)\n"
        "try: manager.start_worker('x', 'python_workers:bare')\n"
        "except TimeoutError as error: print('refused:', error)\n"
        "supervisor.process.kill()\n"
    )
    lines = [line for line in run(tmp_path, code).splitlines() if line.startswith("refused: ")]
    assert ["has not begun within" in line for line in lines] == [True, False]
    assert ["did not answer within" in line for line in lines] == [False, True]
