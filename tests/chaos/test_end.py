"""shutdown, exit and free with a spool: fast at a dead collector, and they say what is left."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
from stage import HERE, OK, TIMEOUT, WAIT_S, Actor, Stage, wait_until

BUDGET_MS = 600_000
BOUND_S = 60
"""Far below every budget given here; a hang is what fails."""


def next_start(stage: Stage) -> int:
    """How many events the next process finds and delivers."""
    heir = stage.start()
    assert heir.flush() == OK
    found = heir.stats()["recovered"]
    heir.end("exit")
    stage.compare()
    return found


@pytest.mark.parametrize("tried", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("count", [1, 137, 5000])
def test_shutdown_at_a_dead_collector(stage: Stage, count: int, tried: bool) -> None:
    """Whether a try has failed before or not."""
    actor = stage.start(exit_timeout_ms=BUDGET_MS)
    actor.send("left", count)
    if tried:
        assert actor.flush(200) == TIMEOUT
    status, seconds = actor.shutdown(BUDGET_MS)
    assert status == TIMEOUT and seconds < BOUND_S
    assert actor.stats()["left_in_spool"] == count
    assert actor.shutdown(BUDGET_MS)[1] < BOUND_S
    # The process lives on, and has given them up.
    stage.collect()
    assert next_start(stage) == count


def test_shutdown_with_everything_delivered(stage: Stage) -> None:
    """OK, nothing left, no file."""
    stage.collect()
    actor = stage.start()
    actor.send("all", 500)
    assert actor.shutdown(BUDGET_MS)[0] == OK
    assert actor.stats()["left_in_spool"] == 0
    assert stage.files() == []
    stage.compare()


def test_shutdown_with_some_delivered(stage: Stage) -> None:
    """Exactly the others are left, in the middle of a segment."""
    stage.collect()
    actor = stage.start()
    actor.send("delivered", 777)
    assert actor.flush() == OK
    stage.silence()
    actor.send("left", 55)
    assert actor.shutdown(BUDGET_MS)[1] < BOUND_S
    assert actor.stats()["left_in_spool"] == 55
    stage.collect()
    assert next_start(stage) == 55


def test_shutdown_with_adopted_events(stage: Stage) -> None:
    """What it adopted and could not deliver is given back too, and is not called its own."""
    victim = stage.start()
    victim.send("victim", 60)
    victim.kill()
    actor = stage.start()
    actor.send("own", 40)
    assert actor.flush(500) == TIMEOUT
    wait_until("it has them", lambda: actor.stats()["recovered"] == 60)
    assert actor.shutdown(BUDGET_MS)[1] < BOUND_S
    assert actor.stats()["left_in_spool"] == 40
    stage.collect()
    assert next_start(stage) == 100


@pytest.mark.parametrize("tried", [True, False], ids=["known", "unknown"])
def test_exit_at_a_dead_collector(stage: Stage, tried: bool) -> None:
    """A line of the log says how many."""
    actor = stage.start(exit_timeout_ms=BUDGET_MS)
    actor.send("left", 137)
    if tried:
        assert actor.flush(200) == TIMEOUT
    actor.connection.settimeout(BOUND_S)
    actor.tell("exit")
    assert actor.connection.recv(1) == b""  # the end of the process
    actor.gone()
    assert re.search(r"\b137\b", stage.complaints())
    stage.collect()
    assert next_start(stage) == 137


def test_exit_of_a_child_at_a_dead_collector(stage: Stage) -> None:
    """Its events stay on disk, and the parent, which lives, delivers them."""
    parent = stage.start(exit_timeout_ms=BUDGET_MS)
    parent.send("parent", 20)
    child = parent.fork()
    child.send("child", 30)
    child.connection.settimeout(BOUND_S)
    child.tell("exit")
    assert child.connection.recv(1) == b""
    stage.collect()
    child.gone()
    assert parent.flush() == OK
    assert parent.stats()["recovered"] == 30
    stage.compare()


def test_free_at_a_dead_collector(stage: Stage) -> None:
    """free alone, and free after shutdown; the process then opens the client anew and delivers."""
    actor = stage.start(exit_timeout_ms=BUDGET_MS)
    actor.send("freed", 70)
    actor.connection.settimeout(BOUND_S)
    actor.ask("free", 0)
    actor.open()
    actor.send("again", 5)
    actor.shutdown(BUDGET_MS)
    actor.ask("free", 0)
    actor.connection.settimeout(2 * WAIT_S)
    actor.open()
    stage.collect()
    assert actor.flush() == OK
    assert actor.stats()["recovered"] == 75
    stage.compare()


def test_a_stalled_collector_costs_the_budget(stage: Stage) -> None:
    """It took a request and says nothing: that batch comes again, under the same ids."""
    stage.collect("stall")
    actor: Actor = stage.start()
    actor.send("left", 250)
    status, seconds = actor.shutdown(1000)
    assert status == TIMEOUT and seconds < 1 + BOUND_S
    assert actor.stats()["left_in_spool"] == 250
    assert stage.collector
    stage.collector.fault("")
    heir = stage.start()
    assert heir.flush() == OK
    assert heir.stats()["recovered"] == 250
    assert stage.compare_unique() <= 100


def test_flush_at_a_dead_collector_keeps_its_deadline(stage: Stage) -> None:
    """With events of its own, with a dead process's, and with none."""
    victim = stage.start()
    victim.send("victim", 60)
    victim.kill()
    actor = stage.start()
    actor.connection.settimeout(BOUND_S)
    assert actor.flush(300) == TIMEOUT  # it waits for what it adopted
    actor.send("own", 1)
    assert actor.flush(300) == TIMEOUT
    assert actor.flush(0) == TIMEOUT
    actor.connection.settimeout(2 * WAIT_S)
    stage.collect()
    assert actor.flush() == OK
    stage.compare()


def test_enqueue_makes_no_system_call(stage: Stage, programs: Any) -> None:
    """Not even where it moves on to the next segment, as long as the sender keeps ahead."""
    stage.collect()
    done = subprocess.run(
        [programs(str(HERE / "no_syscall.c"))],
        env={**stage.environment(), "TEST_SPOOL": str(stage.spool)},
        stderr=stage.log,
        timeout=4 * WAIT_S,
    )
    assert done.returncode == 0, stage.complaints()
    assert stage.files() == []
