"""Who delivers what a dead process left: a sibling, parent, child or the next start. Once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from stage import LONG, OK, Actor, Stage, wait_until

KINDS = ["fork", "_Fork", "clone", "clone3"]


def working(actor: Actor) -> Actor:
    """Give it endless work, and wait until its sender has seen that the collector is down."""
    actor.ask("stream", 0, f"flow{actor.pid}", 20000)
    wait_until("a try", lambda: actor.stats()["retries"] > 0)
    return actor


def the_sibling_of(kind: str) -> Callable[[Stage], Actor]:
    """A worker is killed, and stays a zombie, while another one works."""

    def play(stage: Stage) -> Actor:
        master = stage.start()
        survivor, victim = working(master.fork()), master.fork(kind)
        victim.send("victim", 50)
        victim.kill()
        return survivor

    return play


def the_child_of_the_parent(stage: Stage) -> Actor:
    """The parent is killed; its child has its descriptors and mappings, and works."""
    parent = stage.start()
    parent.send("parent", 50)
    child = working(parent.fork())
    parent.kill()
    return child


def the_parent_of_the_child(stage: Stage) -> Actor:
    """The child is killed, and the parent works."""
    parent = working(stage.start())
    child = parent.fork()
    child.send("child", 50)
    child.kill()
    return parent


def a_stranger(stage: Stage) -> Actor:
    """A process with the same spool and no other relation, half of whose events were delivered."""
    victim = stage.start()
    stage.collect()
    victim.send("delivered", 50)
    assert victim.flush() == OK
    stage.silence()
    survivor = working(stage.start())
    victim.send("victim", 50)
    victim.kill()
    return survivor


def test_while_one_of_the_family_works(
    stages: Callable[[], Stage], report: Callable[[str], None]
) -> None:
    """It delivers what a dead relative left, soon, and nobody calls flush."""
    plays = {f"the sibling of a killed {kind} child": the_sibling_of(kind) for kind in KINDS}
    plays |= {
        "the child of a killed parent": the_child_of_the_parent,
        "the parent of a killed child": the_parent_of_the_child,
        "a stranger": a_stranger,
    }
    # All at once: each waits for a timer.
    running = {name: (stage := stages(), play(stage)) for name, play in plays.items()}
    for stage, _ in running.values():
        stage.collect()
    started = time.monotonic()
    for name, (_, survivor) in running.items():
        wait_until(name, lambda one=survivor: one.stats()["recovered"] == 50)
        report(f"{name} adopts within {time.monotonic() - started:.0f} s")
    for stage, survivor in running.values():
        survivor.ask("calm")
        assert survivor.flush() == OK
        stage.compare()


def test_opening_starts_nothing_and_the_first_event_adopts(stage: Stage) -> None:
    """A forked child of an opened client: no thread and no file, until its first event."""
    victim = stage.start()
    victim.send("victim", 50)
    victim.kill()
    before = stage.files()
    # Its sender ends long before the timer: what it adopts, it adopts when it starts.
    master = stage.start(idle_ms=300)
    child = master.fork()
    assert master.stats()["sender_starts"] == child.stats()["sender_starts"] == 0
    assert stage.files() == before
    stage.collect()
    child.send("child", 1)
    stage.wait_arrived(51)
    assert child.stats()["recovered"] == 50
    assert master.stats()["sender_starts"] == 0
    stage.compare()


@pytest.mark.parametrize("kind", KINDS)
def test_the_child_of_a_killed_parent(stage: Stage, kind: str) -> None:
    """It has the parent's descriptors and mappings, and that is no ownership."""
    parent = stage.start()
    parent.send("parent", 500)
    child = parent.fork(kind)
    parent.send("parent", 50, first=500)
    parent.kill()
    stage.collect()
    child.send("child", 10)
    assert child.flush() == OK
    heir = child
    if kind != "fork":
        # A raw clone's child delivers its own events and adopts nothing; any other process does.
        assert child.stats()["recovered"] in (0, 550)
        heir = stage.start()
        assert heir.flush() == OK
    assert sum(one.stats()["recovered"] for one in {child, heir}) == 550
    stage.compare()


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_parent_of_a_killed_child(stage: Stage, kind: str, reaped: bool) -> None:
    """The parent delivers its own events and the child's."""
    parent = stage.start()
    parent.send("parent", 50)
    child = parent.fork(kind)
    child.send("child", 500)
    child.kill()
    if reaped:
        parent.ask("reap", child.pid)
    stage.collect()
    assert parent.flush() == OK
    assert parent.stats()["recovered"] == 500
    stage.compare()


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_leaves_a_living_parent_alone(stage: Stage, kind: str) -> None:
    """The parent is stopped, so nobody but its child could deliver its events; and it does not."""
    parent = stage.start()
    parent.send("parent", 500)
    child = parent.fork(kind)
    grandchild = child.fork(kind)
    os.kill(parent.pid, signal.SIGSTOP)
    collector = stage.collect()
    for one in (child, grandchild):
        one.send("child", 20)
        assert one.flush() == OK
        assert one.stats()["recovered"] == 0
    assert collector.stats()["received"] == 40
    os.kill(parent.pid, signal.SIGCONT)
    assert parent.flush() == OK
    assert parent.stats()["recovered"] == 0
    stage.compare()


@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
@pytest.mark.parametrize("end", ["kill", "exit", "_exit", "abort", "shutdown", "free"])
def test_the_end_of_a_child_leaves_the_parents_files(stage: Stage, end: str, used: bool) -> None:
    """However a child ends, the parent's events stay there."""
    parent = stage.start()
    parent.send("parent", 500)
    own, files = stage.own(parent), set(stage.files())
    child = parent.fork()
    if used:
        child.send("child", 20)
    if end == "kill":
        child.kill()
    elif end == "shutdown":
        child.shutdown(2000)
    elif end == "free":
        child.ask("free", 0)
    else:
        child.end(end)
    assert own.locked()
    assert files <= set(stage.files())
    parent.send("parent", 100, first=500)
    stage.collect()
    assert parent.flush() == OK
    stage.wait_arrived(stage.accepted())
    stage.compare()


@pytest.mark.parametrize("relation", ["strangers", "siblings"])
def test_eight_adopters_at_once(stage: Stage, relation: str) -> None:
    """Many orphans, and nobody takes what another one takes, nor what a stopped process holds."""
    held = stage.start()
    held.send("held", 30)
    os.kill(held.pid, signal.SIGSTOP)
    stage.collect()
    master = stage.start()
    for turn in range(10 if LONG else 3):
        stage.silence()
        before = stage.accepted()
        parent = stage.start()
        for number in range(100):
            child = parent.fork(KINDS[number % 4])
            child.send(f"orphan{turn}", 20)
            child.end("_exit")
        parent.send(f"orphan{turn}", 1000)
        parent.kill()
        orphaned = stage.accepted() - before
        stage.collect()
        adopters = [stage.start() if relation == "strangers" else master.fork() for _ in range(8)]
        descriptors = [one.descriptors() for one in adopters]
        for one in adopters:
            one.tell("flush", 0, 120000)
        assert [one.answer().split()[0] for one in adopters] == [str(OK)] * 8
        assert sum(one.stats()["recovered"] for one in adopters) == orphaned
        for one, count in zip(adopters, descriptors):
            assert (
                one.descriptors() <= count + 4
            )  # a connection and the like, and none of the locks
            one.end("exit")
    os.kill(held.pid, signal.SIGCONT)
    assert held.flush() == OK
    stage.compare()


def test_a_program_in_its_place(stage: Stage) -> None:
    """exec: the same pid and the same start time, alive, and no longer the owner."""
    victim = stage.start()
    victim.send("victim", 50)
    victim.become("/bin/sleep", "100000")
    stage.collect()
    heir = stage.start()
    assert heir.flush() == OK
    assert heir.stats()["recovered"] == 50
    victim.kill()
    stage.compare()


@pytest.mark.parametrize("who", ["itself", "a sibling", "its child"])
def test_the_same_program_again(stage: Stage, who: str) -> None:
    """A server that replaces itself by exec: what the old image left is an orphan."""
    before = stage.start()
    before.send("before", 50)
    after = before.again().open()
    stage.collect()
    if who == "itself":
        after.send("after", 10)
        heir = after
    elif who == "a sibling":
        heir = stage.start()
    else:
        heir = after.fork()
    assert heir.flush() == OK
    assert heir.stats()["recovered"] == 50
    assert after.flush() == OK
    stage.compare()


def test_the_same_program_again_at_the_same_addresses(stage: Stage) -> None:
    """Without randomisation nothing tells the images apart: at the latest its end does."""
    before = stage.actor("setarch", "-R").open()
    before.send("before", 50)
    after = before.again().open()
    stage.collect()
    after.send("after", 10)
    assert after.flush() == OK
    found = after.stats()["recovered"]
    after.kill()
    heir = stage.start()
    assert heir.flush() == OK
    assert found + heir.stats()["recovered"] == 50
    stage.compare()


def test_nothing_is_sent_twice_after_a_quiet_death(stage: Stage) -> None:
    """What was settled before the kill is not sent again: within a segment, and after several."""
    victim = stage.start()
    for turn, count in enumerate((10, 700, 1, 350)):
        stage.collect()
        victim.send("delivered", count, first=turn * 1000)
        assert victim.flush() == OK
        stage.silence()
        victim.send("left", 45, first=turn * 100)
        victim.kill()
        victim = stage.start()
        stage.collect()
        assert victim.flush() == OK
        assert victim.stats()["recovered"] == 45
        stage.silence()
    assert stage.files(".seg") == []
    stage.compare()


def test_half_adopted(stage: Stage) -> None:
    """An adopter dies in the middle; the next one goes on where it stood."""
    victim = stage.start()
    victim.send("victim", 20000)
    victim.kill()
    collector = stage.collect("503@1000000")
    first = stage.start()
    first.tell("flush", 0, 120000)
    wait_until("a try", lambda: collector.stats()["requests"] > 0)
    collector.fault("slow=300")  # a batch of 100 each 300 ms: a minute
    stage.wait_arrived(300)
    first.kill()
    collector.fault("")
    second = stage.start()
    assert second.flush() == OK
    assert 0 < second.stats()["recovered"] <= 19800  # of the third batch it had no answer yet
    duplicates = stage.compare_unique()
    assert duplicates <= 100


def test_another_account_is_left_alone(stage: Stage) -> None:
    """The same spool and name with other credentials: not its events."""
    victim = stage.start(bearer="one")
    victim.send("victim", 50)
    victim.kill()
    stage.collect()
    other = stage.start(bearer="two")
    other.send("other", 10)
    assert other.flush() == OK
    assert other.stats()["recovered"] == 0
    heir = stage.start(bearer="one")
    assert heir.flush() == OK
    assert heir.stats()["recovered"] == 50
    stage.compare()
