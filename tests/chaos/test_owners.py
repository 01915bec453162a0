"""Alive or orphan: what a file's name and its lock say, and what they must not be taken for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess

import pytest
from stage import OK, Actor, Stage, start_of, wait_until


@pytest.fixture
def orphan(stage: Stage) -> Actor:
    """A killed process that left 50 events."""
    victim = stage.start()
    victim.send("victim", 50)
    return victim


def recovered_by_another(stage: Stage) -> int:
    """How many events another process adopts in its first sweep; the collector runs."""
    other = stage.start()
    assert other.flush() == OK
    found = other.stats()["recovered"]
    other.end("exit")
    return found


def close_all(actor: Actor) -> None:
    """As a daemoniser does, at a moment when the sender has nothing open but the lock.

    It tries no connection before a flush, and sleeps until the next look at its lock.
    """
    actor.open(batch={"max_age_ms": 60000, "max_events": 100000})
    actor.send("before", 100)
    wait_until("a sleeping sender", actor.sender_sleeps)
    assert actor.stage.own(actor).locked()
    actor.ask("closefds")


def test_all_descriptors_closed(stage: Stage) -> None:
    """A daemoniser's loop frees the lock of a living process: still nobody takes its files."""
    living = stage.actor()
    close_all(living)
    os.kill(living.pid, signal.SIGSTOP)  # before its sender mends it
    stage.collect()
    assert recovered_by_another(stage) == 0
    os.kill(living.pid, signal.SIGCONT)
    living.send("after", 500)
    assert living.flush() == OK
    assert living.stats()["recovered"] == 0
    living.ask("untouched")
    stage.compare()


def test_all_descriptors_closed_then_locked_again_then_killed(stage: Stage) -> None:
    """Its sender takes the lock again, and none of the host's; its death is seen as any other."""
    living = stage.actor()
    close_all(living)
    wait_until("the lock", stage.own(living).locked)
    living.ask("untouched")
    for path in stage.directory.glob("mine-*"):
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing of the host's is locked
    living.send("after", 500)
    stage.collect()
    assert living.flush() == OK
    stage.silence()
    living.send("last", 40)
    living.ask("untouched")
    living.kill()
    stage.collect()
    assert recovered_by_another(stage) == 40
    stage.compare()


def test_closed_in_a_child(stage: Stage) -> None:
    """A child that closes everything it inherited frees nothing of its parent's."""
    parent = stage.start()
    parent.send("parent", 100)
    own = stage.own(parent)
    child = parent.fork()
    child.ask("closefds")
    assert own.locked()
    child.send("child", 100)
    parent.send("parent", 100, first=100)
    stage.collect()
    for one in (child, parent):
        assert one.flush() == OK
        assert one.stats()["recovered"] == 0
    child.ask("untouched")
    stage.compare()


@pytest.mark.parametrize("changed", ["start", "image"])
def test_the_pid_of_the_dead_is_used_again(stage: Stage, orphan: Actor, changed: str) -> None:
    """By a process that differs only in its start time, or only in its image, new since exec."""
    living = stage.start()
    living.send("living", 10)
    os.kill(living.pid, signal.SIGSTOP)
    own = stage.own(orphan)
    orphan.kill()
    parts = stage.own(living).parts()
    value = int(parts["start"]) - 1 if changed == "start" else "0123456789abcdef"
    own.give_to(**{**parts, changed: value})
    stage.collect()
    assert recovered_by_another(stage) == 50
    os.kill(living.pid, signal.SIGCONT)
    assert living.flush() == OK
    stage.compare()


def test_the_adopters_own_pid(stage: Stage, orphan: Actor) -> None:
    """In a container everybody has the same pid: the start time tells."""
    own = stage.own(orphan)
    orphan.kill()
    heir = stage.start()
    own.give_to(pid=heir.pid)
    stage.collect()
    assert heir.flush() == OK
    assert heir.stats()["recovered"] == 50
    stage.compare()


def test_the_holder_lives_and_the_lock_is_free(stage: Stage, orphan: Actor) -> None:
    """pid and start time of a living process: not an orphan, until that process is dead."""
    living = stage.start()
    living.send("living", 10)
    os.kill(living.pid, signal.SIGSTOP)
    own = stage.own(orphan)
    orphan.kill()
    own.give_to(stage.own(living).holder)
    stage.collect()
    assert recovered_by_another(stage) == 0
    living.kill()
    assert recovered_by_another(stage) == 60
    stage.compare()


@pytest.mark.parametrize("changed", ["boot", "ns"])
def test_from_elsewhere(stage: Stage, orphan: Actor, changed: str) -> None:
    """Another boot or pid namespace: the pid says nothing, the lock decides."""
    own = stage.own(orphan)
    orphan.kill()
    value = "0123456789abcdef" if changed == "boot" else "f0000001"
    own = own.give_to(**{changed: value, "pid": os.getpid(), "start": start_of(os.getpid())})
    stage.collect()
    with own.path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert recovered_by_another(stage) == 0
    assert recovered_by_another(stage) == 50
    stage.compare()


@pytest.fixture
def container() -> list[str]:
    """What puts a program into a pid namespace of its own, where it is process 1."""
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs the right to make a pid namespace")
    return words


def test_two_containers_with_one_spool(stage: Stage, container: list[str]) -> None:
    """In both everybody is process 1, and the lock tells who lives."""
    one, two = stage.actor(*container).open(), stage.actor(*container).open()
    assert one.calls_itself == two.calls_itself == 1
    for actor, tag in ((one, "one"), (two, "two")):
        actor.send(tag, 50)
    os.kill(one.pid, signal.SIGSTOP)
    collector = stage.collect()
    for _ in range(2):  # from another container, and from outside
        assert two.flush() == OK
        assert two.stats()["recovered"] == 0
        assert recovered_by_another(stage) == 0
    assert collector.stats()["received"] == 50
    one.kill()
    assert two.flush() == OK
    assert two.stats()["recovered"] == 50
    stage.compare()


def test_a_container_starts_again(stage: Stage, container: list[str]) -> None:
    """The same pid, perhaps the same number of the namespace, and another process."""
    before = stage.actor(*container).open()
    before.send("before", 50)
    before.kill()
    stage.collect()
    after = stage.actor(*container).open()
    assert after.flush() == OK
    assert after.stats()["recovered"] == 50
    stage.compare()


@pytest.mark.parametrize("holder", ["dead", "none"])
def test_locked_by_somebody(stage: Stage, orphan: Actor, holder: str) -> None:
    """A held lock is respected whatever the name says."""
    own = stage.own(orphan)
    orphan.kill()
    if holder == "none":
        own = own.give_to("none")
    stage.collect()
    with own.path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert recovered_by_another(stage) == 0
    assert recovered_by_another(stage) == 50
    stage.compare()


def test_two_clients_in_one_process(stage: Stage) -> None:
    """Neither takes the other's files, nor frees the other's lock by looking at it."""
    both = stage.actor()
    both.open(0)
    both.open(1)
    both.send("first", 300, client=0)
    both.send("second", 300, client=1)
    collector = stage.collect("503")
    for client in (0, 1):
        assert both.flush(1000, client) != OK
    owns = [own for own in stage.owns() if own.pid == both.pid]
    assert len(owns) == 2 and all(own.locked() for own in owns)
    collector.fault("")
    for client in (0, 1):
        assert both.flush(client=client) == OK
        counters = both.stats(client)
        assert (counters["recovered"], counters["delivered"]) == (0, 300)
    stage.compare()


def test_two_clients_of_a_killed_process(stage: Stage) -> None:
    """One heir for both."""
    both = stage.actor()
    both.open(0)
    both.open(1)
    both.send("first", 300, client=0)
    both.send("second", 300, client=1)
    both.kill()
    stage.collect()
    assert recovered_by_another(stage) == 600
    stage.compare()


def test_a_client_takes_what_its_neighbour_gave_up(stage: Stage) -> None:
    """Two clients in a process: what one could not deliver at its shutdown, the other one does."""
    both = stage.actor()
    both.open(0)
    both.open(1)
    both.send("first", 50, client=0)
    both.send("second", 50, client=1)
    both.shutdown(1000, 0)
    stage.collect()
    assert both.flush(client=1) == OK
    assert both.stats(1)["recovered"] == 50
    both.ask("free", 0)
    stage.compare()


def test_own_files_have_the_names_that_the_tests_rely_on(stage: Stage) -> None:
    """One own file a process and client, private, empty, locked; gone when the process is done."""
    one = stage.start()
    one.send("one", 10)
    own = stage.own(one)
    assert own.parts()["start"] == str(start_of(one.pid))
    assert own.path.stat().st_size == 0 and own.path.stat().st_mode & 0o777 == 0o600
    assert own.path.parent.stat().st_mode & 0o777 == 0o700
    assert own.locked()
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in stage.files())
    stage.collect()
    assert one.flush() == OK
    one.end("exit")
    assert stage.files() == []
    with contextlib.suppress(FileNotFoundError):
        assert list(own.path.parent.iterdir()) == []
    stage.compare()
