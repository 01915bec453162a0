"""Python workers of every kind, in every mode: start, death, restart, hang, and stop."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

import harness
from fleets import WAIT_S
from python_kit import App

MODES = ("fork", "zygote", "exec")
# Those that do as they are told, in all of which the same is to come of it.
TOLD = ("function", "coroutine", "async-class", "class")
ALL = {*TOLD, "bare"}
# Order: cause, code and signal of the end that comes of it.
ENDS = {
    "raise": ("exit", 1, None),
    "exit": ("exit", 3, None),
    "text": ("exit", 1, None),
    "return": ("exit0", 0, None),
    "kill": ("signal", None, "SIGKILL"),
}


def dashed(kind: str) -> str:
    """The name that a keyword stands for."""
    return kind.rstrip("_").replace("_", "-")


def descriptors(pid: int) -> int:
    """How many that process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("mode", MODES)
def test_a_life(mode: str, tmp_path: Path) -> None:
    with App(tmp_path, "lifecycle", mode) as app:
        app.until_ready()
        workers = app.workers()
        assert set(workers) == ALL
        supervisor = app.process.pid
        opened = descriptors(supervisor)

        def again(**orders: str) -> None:
            """All of them end as they are told, and others take their places."""
            before = app.workers()
            for kind, how in orders.items():
                if how == "kill":
                    os.kill(before[dashed(kind)]["pid"], signal.SIGKILL)
                else:
                    app.tell(dashed(kind), how)

            def replaced() -> bool:
                now = app.workers()
                return set(now) == ALL and all(
                    now[name]["incarnation"] > before[name]["incarnation"]
                    and now[name]["state"] in ("ready", "busy")
                    for name in TOLD
                )

            app.wait_for(f"{orders}: new ones", replaced)
            now = app.workers()
            for kind, how in orders.items():
                name = dashed(kind)
                assert now[name]["restarts"] == before[name]["restarts"] + 1, (how, name)
                end = now[name]["last_exit"]
                assert (end["cause"], end["code"], end["signal"]) == ENDS[how], (how, name)
            assert now["bare"]["pid"] == before["bare"]["pid"]

        # Few restarts: a fleet makes only so many a second.
        again(function="raise", coroutine="exit", async_class="return", class_="kill")
        lives = 2
        assert "RuntimeError: as ordered: function" in app.output()
        if mode == "fork":
            lives = 3
            again(function="kill", coroutine="text", async_class="raise", class_="return")
            assert "RuntimeError: as ordered: async-class" in app.output()
            assert app.output().count("a last word") == 1
        # A connection of ours may have been among them.
        app.wait_for("no more are open", lambda: descriptors(supervisor) <= opened)

        # What its own code registered is run at a worker's end, once; KILL leaves no time for it.
        ended = {name: len(app.notes("atexit", name=name)) for name in TOLD}
        more = lives - 2
        assert ended == {
            "function": 1,
            "coroutine": 1 + more,
            "async-class": 1 + more,
            "class": more,
        }
        begun = app.notes("begin", name="coroutine")
        assert [one["incarnation"] for one in begun] == list(range(1, lives + 1))
        assert {one["asynchronous"] for one in begun} == {True}
        assert app.notes("begin", name="class")[0]["asynchronous"] is False
        for one in begun:
            slot, number = one["slot"], one["incarnation"]
            assert one["resource"] == (
                f"telemetry.fleet.name=life,telemetry.fleet.slot={slot},"
                f"telemetry.fleet.incarnation={number}"
            )

        # Both items counted, though one was begun while the other was open; objects are sampled.
        app.wait_for(
            "both items", lambda: app.workers()["coroutine"]["counters"]["done"] == 2 * lives
        )
        now = app.workers()
        app.wait_for(
            "the objects are sampled",
            lambda: all(
                app.workers()[name]["counters"]["done"] > now[name]["counters"]["done"]
                for name in ("async-class", "class")
            ),
        )
        flags = {"running": True, "mdq_connected": True, "mdc_connected": False}

        def sampled() -> bool:
            """To the end: one is not the work of a moment."""
            shown = app.workers()["async-class"]
            counted = [
                shown["counters"][name]
                for name in ("published", "decoding_errors", "processing_errors")
            ]
            objects = counted[0] // 5
            return (
                objects >= 1
                and [5 * objects, 3 * objects, 4 * objects] == counted
                and (shown["flags"] == flags)
            )

        app.wait_for("all of it", sampled)

        pids = [one["pid"] for one in app.workers().values()]
        status = app.stop()
        output = app.output()
        assert status == 0, output
        assert not any(map(harness.alive, pids))
        for name in ALL:
            assert len(app.notes("end", name=name)) == 1, (name, output)
        # What it counted after the last sample is counted, too.
        last = app.notes("end", name="class")[0]
        assert last["processed"] > 0
        assert output.count("atexit of the supervisor") == 1
        assert output.count("buffered by the supervisor") == 1
        assert "Exception ignored" not in output
    assert not [path for path in (tmp_path / "runtime").iterdir() if "life" in path.name]


@pytest.mark.parametrize("mode", ("fork", "exec"))
def test_hangs_are_ended_and_say_where(mode: str, tmp_path: Path) -> None:
    with App(tmp_path, "troubles", mode) as app:
        causes = {"hangs": "stale", "hangs_in_loop": "stale", "slow_item": "item_deadline"}

        def replaced() -> bool:
            now = app.workers()
            return all(
                name in now and now[name]["last_exit"] and now[name]["state"] == "ready"
                for name in causes
            )

        def said() -> bool:
            found = r"File \"[^\n]*python_workers.py\", line \d+ in (\w+)"
            stacks = re.findall(found, app.output())
            pairs = set(zip(stacks, stacks[1:]))
            return "slow_item" in stacks and pairs >= {
                ("hang_here", "hangs"),
                ("hang_here", "hangs_in_loop"),
            }

        app.wait_for("they say where", said)
        (tmp_path / "calm").touch()
        app.wait_for("their lives are over", replaced)
        for name, cause in causes.items():
            assert app.workers()[name]["last_exit"]["cause"] == cause, name

        app.wait_for("all calls are made", lambda: app.notes("counts"))
        app.wait_for("busy", lambda: app.workers()["counts"]["state"] == "busy")
        seen = app.workers()["counts"]
        assert seen["doing"] == "waits to be seen"
        names = ("done", "failed", "retried", "dead", "own", "events")
        assert [seen["counters"][name] for name in names] == [1, 2, 1, 1, 7, 1]
        made = app.notes("counts")[0]
        assert "'other'" in made["refused"] and "processing_errors, own" in made["refused"]
        assert made["leased"] == [True] * 8 + [False]
        assert made["back"] is True and made["again"] is True
        assert app.stop() == 0


def test_int_at_a_worker_and_at_all(tmp_path: Path) -> None:
    with App(tmp_path, "lifecycle", "fork") as app:
        app.until_ready()
        app.wait_for("it is in its block", lambda: app.notes("begin", name="bare"))
        before = app.workers()
        struck = ("function", "bare", "coroutine")
        for name in struck:
            os.kill(before[name]["pid"], signal.SIGINT)

        def replaced() -> bool:
            now = app.workers()
            return all(name in now and now[name]["pid"] != before[name]["pid"] for name in struck)

        app.wait_for("others take their places", replaced)
        assert {app.workers()[name]["last_exit"]["code"] for name in struck} == {130}
        # The block's finally was run.
        assert app.notes("end", name="bare", pid=before["bare"]["pid"])
        # Ctrl-C in a terminal: the supervisor ends all, in order.
        app.until_ready()
        bare = app.workers()["bare"]["pid"]
        app.wait_for("it works", lambda: app.notes("begin", name="bare", pid=bare))
        os.killpg(app.process.pid, signal.SIGINT)
        assert app.process.wait(WAIT_S) == 0
        assert "Traceback" not in app.output() and "KeyboardInterrupt" not in app.output()
        assert len(app.notes("end")) == len(ALL) + 1


@pytest.mark.parametrize("mode", ("fork", "zygote"))
def test_workers_do_not_outlive_a_killed_supervisor(mode: str, tmp_path: Path) -> None:
    with App(tmp_path, "lifecycle", mode) as app:
        app.until_ready()
        app.wait_for("all work", lambda: len(app.notes("begin")) == len(ALL))
        pids = [one["pid"] for one in app.workers().values()] + harness.children(app.process.pid)
        app.process.kill()
        app.until_gone(pids)
        # And they ended in order.
        assert {one["name"] for one in app.notes("end")} == ALL


def test_what_outlives_a_stop(tmp_path: Path) -> None:
    with App(tmp_path, "ends") as app:
        app.until_ready()
        app.wait_for("it is deaf", lambda: app.notes("begin", name="deaf"))
        assert app.workers()["threads"]["incarnation"] == 1
        pids = {name: one["pid"] for name, one in app.workers().items()}
        # Deaf to TERM, and killed when its time is over: 1.
        assert app.stop() == 1
        assert app.notes("thread ended", pid=pids["threads"])
        assert "ends without these threads: stuck" in app.output()


def test_a_deaf_worker_of_a_killed_supervisor_ends_with_its_grace(tmp_path: Path) -> None:
    with App(tmp_path, "ends") as app:
        app.until_ready()
        app.wait_for("it is deaf", lambda: app.notes("begin", name="deaf"))
        pids = [one["pid"] for one in app.workers().values()]
        app.process.kill()
        app.until_gone(pids)


def test_clients_of_forked_workers_deliver_at_their_end(tmp_path: Path) -> None:
    out = tmp_path / "events.ndjson"
    with App(tmp_path, "clients", f"file:{out}") as app:
        app.until_ready()
        assert app.stop() == 0
        events = out.read_text()
        assert events.count('"inherited"') == 1
        assert events.count('"own"') == 1 and '"number":1' in events.replace(" ", "")


def test_threads_mean_programs_of_their_own(tmp_path: Path) -> None:
    with App(tmp_path, "automatic") as app:
        app.until_ready()
        parents = Path(f"/proc/{app.workers()['mine']['pid']}/cmdline").read_bytes()
        assert b"--worker" in parents
        (first,) = app.wait_for("it works", lambda: app.notes("begin", name="bare"))
        (tmp_path / "stop").write_text("")
        assert app.process.wait(WAIT_S) == 0
        assert "two of them" in app.output()
        assert app.notes("end", name="bare", pid=first["pid"])
