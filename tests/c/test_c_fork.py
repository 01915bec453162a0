"""Fork, in every way and at every moment: both processes deliver what is theirs, once."""

import os
import subprocess

import pytest
from gates import HoldConnect, HoldLookup, HoldRequest
from programs import DETECTORS

KINDS = ["fork", "_Fork", "clone", "clone3"]

both = pytest.mark.parametrize("detector", DETECTORS)


@both
@pytest.mark.parametrize("state", ["unused", "flushed", "pending", "sending"])
@pytest.mark.parametrize("kind", KINDS)
def test_fork(run, kind, state, detector):
    run("fork", kind, state, detector=detector)


@both
@pytest.mark.parametrize(
    "kinds",
    [
        ["fork"] * 4,
        ["_Fork"] * 4,
        ["clone"] * 4,
        ["clone3"] * 4,
        ["fork", "clone", "_Fork", "clone3"],
        # No fork() below a raw clone: libc's fork takes every heap lock, and a raw clone copies
        # those that another thread held, so libc itself may hang there.
        ["clone", "_Fork", "clone3", "_Fork"],
    ],
    ids="-".join,
)
def test_grandchildren_four_deep(run, kinds, detector):
    result = run("grandchildren", *kinds, detector=detector)
    assert len({pid for _, pid, _ in result.events}) == 5


@both
@pytest.mark.parametrize("how", ["vfork", "posix_spawn", "fork"])
def test_exec_costs_nothing(run, how, detector):
    run("exec", how, detector=detector)


@both
@pytest.mark.parametrize("kind", KINDS)
def test_while_eight_threads_enqueue(run, kind, detector):
    run("fork_busy", kind, detector=detector)


@pytest.fixture
def gate(request, signals_pipes, collector, tmp_path):
    made = []

    def make(where):
        if where == "request":
            made.append(HoldRequest(signals_pipes, collector.port))
        elif where == "connect":
            made.append(HoldConnect(signals_pipes, collector.port))
        else:
            able = (
                os.geteuid() == 0
                and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
            )
            if not able:
                pytest.skip("needs root, and a mount namespace for /etc/resolv.conf")
            made.append(HoldLookup(signals_pipes, collector.port, tmp_path))
        return made[0]

    yield make
    for one in made:
        one.close()


@both
@pytest.mark.parametrize("kind", ["fork", "_Fork", "clone"])
@pytest.mark.parametrize("where", ["request", "connect", "lookup", "lookup-libc"])
def test_while_the_sender_is_inside(run, gate, signals_pipes, where, kind, detector):
    held = gate(where)
    run(
        "fork_sender",
        kind,
        where,
        "system" if where == "lookup-libc" else "builtin",
        detector=detector,
        endpoint=held.endpoint,
        prefix=getattr(held, "prefix", ()),
        env=signals_pipes["env"],
        pass_fds=signals_pipes["pass_fds"],
    )


@both
@pytest.mark.parametrize("where", ["returns", "inside"])
@pytest.mark.parametrize("kind", ["_Fork", "clone", "fork"])
def test_from_a_signal_handler_in_mid_enqueue(run, kind, where, detector):
    run("fork_signal", kind, where, detector=detector)


@both
@pytest.mark.parametrize(
    "who, kind", [("child", "fork"), ("child", "_Fork"), ("child", "clone"), ("self", "fork")]
)
def test_close_all_descriptors(run, who, kind, detector):
    run("close_fds", who, kind, detector=detector)


@both
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["shutdown", "flush-first"])
def test_closed_stays_closed_and_flush_may_come_first(run, what, kind, detector):
    run("closed", what, kind, detector=detector)


@both
@pytest.mark.parametrize("what", ["idle", "stalled"])
def test_parent_at_the_instant_of_fork(run, what, detector):
    run("idle_fork", what, detector=detector)


@both
@pytest.mark.parametrize("kind", ["fork", "clone"])
def test_torture(run, kind, detector):
    result = run("torture", kind, detector=detector)
    assert len({pid for _, pid, _ in result.events}) == 2001


@both
def test_ids_of_64_children(run, detector):
    result = run("ids", detector=detector)
    assert len(result.events) == 64 * 10_000 + 10


@both
def test_raw_clone_while_malloc_is_locked(run, detector):
    run("raw_malloc", detector=detector, env={"MALLOC_ARENA_MAX": "1"})
