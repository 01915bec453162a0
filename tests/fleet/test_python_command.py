"""``python -m libtelemetry.fleet``, mistakes, and the pages' example."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import harness
from fleets import WAIT_S
from libtelemetry import ConfigError
from libtelemetry.fleet import Fleet, current_worker
from python_kit import App, environment, run

TARGET = """
from libtelemetry.fleet import current_worker
import python_workers
VERSION = {}
def work(worker, text):
    python_workers.note("works", text=text, version=VERSION)
    worker.ready()
    worker.stopping.wait()
"""


def test_the_command_and_a_reload(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TARGET.format(1))
    health = f"unix:{tmp_path / 'health'}"
    argv = ["-B", "-m", "libtelemetry.fleet", "mine:work", "-n", "2", "--health", health]
    argv += ["--grace", "600", "--set", "max_workers=3", "--kwargs", '{"text": "hello"}']
    with App(tmp_path, argv=argv) as app:
        app.until_ready()
        assert len(app.notes("works", text="hello", version=1)) == 2
        # A new zygote imports what is new.
        (tmp_path / "mine.py").write_text(TARGET.format(2))
        app.process.send_signal(signal.SIGHUP)
        app.wait_for("both anew", lambda: len(app.notes("works", version=2)) == 2)
        app.until_ready()
        assert app.stop() == 0


def test_mistakes_of_the_command(tmp_path: Path) -> None:
    def command(*argv: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "libtelemetry.fleet", *argv],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        return done.returncode, done.stderr

    code, text = command("json:loads", "--set", "stale_ms=-1")
    assert code == 64 and "stale_ms is -1" in text and "Traceback" not in text
    code, text = command("nowhere")
    assert code == 64 and "'nowhere'" in text and "package.module:name" in text
    # argparse's own.
    code, text = command("json:loads", "--count", "many")
    assert code == 64 and "'many'" in text
    code, text = command("json:loads", "--stale", "3", "--set", "stale=5")
    assert code == 64 and "stale is given twice: 3.0 and 5" in text and "Traceback" not in text
    code, text = command("json:loads", "--set", "counters=5")
    assert code == 64 and "counters is 5" in text and "Traceback" not in text


def refused(call: Any, *parts: str) -> None:
    """It raises ConfigError with all of these in its text."""
    with pytest.raises(ConfigError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


def quiet() -> None:
    """A target."""


def test_mistakes_are_named(tmp_path: Path) -> None:
    where = {"runtime_dir": tmp_path}
    refused(lambda: Fleet(stael=3, **where), "stael")
    refused(lambda: Fleet(grace=-1, **where), "grace_ms is -1000", "allowed")
    refused(lambda: Fleet(mode="thread", **where), "'thread'", "zygote")
    refused(
        lambda: Fleet(counters=object(), **where) if 0 else Fleet(name=object(), **where), "name"
    )
    refused(lambda: Fleet(grace=1, grace_ms=2, **where), "grace_ms", "twice")
    with Fleet(mode="exec", **where) as fleet:
        refused(lambda: fleet.start_worker("a", quiet, max_itmes=1), "max_itmes")
        refused(lambda: fleet.start_worker("a", quiet, grace=1), "grace_ms", "fleet")
        refused(lambda: fleet.start_worker("a", "no string"), "'no string'", "package.module:name")
        refused(lambda: fleet.start_worker("a", 3), "target is 3")  # type: ignore[arg-type]  # the mistake
        refused(lambda: fleet.start_worker("a", dict), "dict", "start()")
        refused(lambda: fleet.start_worker("a", quiet, -1), "count is -1")
        refused(lambda: fleet.start_worker("a", lambda: None), "lambda", "import string")
        refused(lambda: fleet.start_worker("a", quiet, kwargs={"x": threading.Lock()}), "pickle")
        fleet.start_worker("a", quiet)
        refused(lambda: fleet.start_worker("a", quiet), '"a"', "others")
        with pytest.raises(KeyError, match="no workers are named 'b'; there are: a"):
            fleet.stop_process("b")
        assert fleet.get_status("a")["alive"] is False
    assert current_worker() is None


def test_only_the_main_thread_forks(tmp_path: Path) -> None:
    fleet = Fleet(mode="fork", runtime_dir=tmp_path)
    caught: list[BaseException] = []

    def start() -> None:
        try:
            fleet.start_worker("a", quiet)
        except ConfigError as error:
            caught.append(error)

    thread = threading.Thread(target=start, name="aside")
    thread.start()
    thread.join()
    assert "thread 'aside'" in str(caught[0]) and "main thread" in str(caught[0])
    stay = threading.Event()
    beside = threading.Thread(target=stay.wait)
    beside.start()
    fleet.start_worker("a", quiet)
    try:
        refused(fleet.run, "thread")
    finally:
        stay.set()
        beside.join()


def test_a_main_program_without_a_guard_is_told(tmp_path: Path) -> None:
    program = tmp_path / "unguarded.py"
    program.write_text(
        "from libtelemetry.fleet import Fleet\n"
        "def work(): pass\n"
        "fleet = Fleet(mode='exec', permanent_exit=[1], grace=600, crash_limit=1,\n"
        f"              health='unix:{tmp_path}/health')\n"
        "fleet.start_worker('a', work)\n"
        "raise SystemExit(fleet.run())\n"
    )
    with App(tmp_path, argv=[str(program)]) as app:
        app.wait_for("it is said", lambda: 'if __name__ == "__main__":' in app.output())
        app.wait_for("for good", lambda: "failed" in str(app.status()))
        app.stop()


def test_inline_runs_in_this_process(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from libtelemetry.fleet import Fleet, current_worker\n"
        "def work(worker, text):\n"
        "    assert current_worker() is worker and os.getpid() == pid\n"
        "    worker.ready(); worker.beat()\n"
        "    print(text); return 7\n"
        "pid = os.getpid()\n"
        "fleet = Fleet(inline=True)\n"
        "fleet.start_worker('w', work, kwargs={'text': 'inline'})\n"
        "assert fleet.run() == 7\n"
    )
    assert "inline" in run(tmp_path, code)


def test_the_package_costs_nothing_until_it_is_used(tmp_path: Path) -> None:
    code = (
        "import os, sys, libtelemetry\n"
        "assert not [name for name in sys.modules if name.startswith('libtelemetry.fleet')]\n"
        "import libtelemetry.fleet\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
        "assert 'libtelemetry.so' not in open('/proc/self/maps').read()\n"
        "assert 'asyncio' not in sys.modules and 'multiprocessing' not in sys.modules\n"
    )
    run(tmp_path, code)


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    page = (harness.ROOT / "python" / "fleet.md").read_text()
    example = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert '"127.0.0.1:9464"' in example
    health = f"unix:{tmp_path / 'health'}"
    (tmp_path / "relay.py").write_text(example.replace("127.0.0.1:9464", health))
    with App(tmp_path, argv=["relay.py"]) as app:
        app.until_ready()
        workers = app.status()["workers"]
        assert sorted(one["name"] for one in workers) == ["consumer", "consumer", "decoder"]
        app.wait_for("items are done", lambda: app.status()["totals"]["done"] > 0)
        assert app.stop() == 0, app.output()
        assert "Traceback" not in app.output()
