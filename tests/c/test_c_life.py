"""Life and death of clients, and of the processes that hold them."""

import json

import pytest
from programs import DETECTORS

both = pytest.mark.parametrize("detector", DETECTORS)


@both
def test_destructors_and_atexit_handlers_may_enqueue(run, detector):
    result = run("exit", "exit", detector=detector)
    for tag in ("atexit-before-open", "atexit-after-open", "destructor"):
        assert sum(1 for key in result.events if key[0] == tag) == 10


@both
@pytest.mark.parametrize("how", ["_exit", "down", "stalled", "unused"])
def test_exit(run, how, detector):
    run("exit", how, detector=detector, check=how not in ("stalled", "unused"))


@pytest.mark.parametrize("then", ["raise", "shutdown", "exit"])
@both
def test_no_thread_can_be_created(run, tmp_path, then, detector):
    run("no_threads", then, detector=detector)


def test_dlopen_in_a_loop(run):
    run("dlopen", link=False)


@pytest.mark.parametrize("where", ["enqueue", "sender"])
def test_panic_inside(run, where):
    run("panic", where)


@pytest.mark.parametrize("what", ["thousand", "many", "idle"])
def test_clients_come_and_go(run, what):
    run("lifecycle", what)


def test_free_with_a_stalled_collector(run):
    run("lifecycle", "freed-stalled", check=False)


@pytest.mark.parametrize("other", ["down", "stalled"])
def test_two_clients(run, collectors, other):
    url = "http://127.0.0.1:1"
    if other == "stalled":
        second = collectors()
        second.fault("stall")
        url = second.url
    run("lifecycle", "two", env={"TEST_OTHER": url})


@both
@pytest.mark.parametrize("kind", ["fork", "_Fork", "clone"])
def test_freed_in_a_child(run, kind, detector):
    run("lifecycle", "freed-in-child", kind, detector=detector)


@pytest.mark.parametrize("what", ["stalled", "flowing"])
def test_full_queue(run, what):
    run("full", what)


@pytest.mark.parametrize("what", ["arguments", "configuration", "events", "sizes"])
def test_bad_input(run, what):
    run("bad_input", what)


def test_unreachable(run):
    run("bad_input", "unreachable", check=False)


def test_signals_are_the_hosts(run):
    run("signals")


@pytest.mark.parametrize("door", ["cancel", "longjmp"])
def test_a_thread_leaves_enqueue_by_another_door(run, door):
    run("abandoned", door)


def test_setenv_storm(run):
    run("setenv")


def test_enqueue_makes_no_system_call(run):
    run("no_syscall", check=False)


@pytest.mark.parametrize("kind", ["fork", "_Fork"])
@pytest.mark.parametrize("what", ["flushed", "killed"])
def test_events_bear_the_number_of_their_worker(run, collector, tmp_path, what, kind):
    run("worker", what, kind, env={"TEST_SPOOL": str(tmp_path / "spool")}, check=False)
    lines = collector.out.read_text().splitlines()
    # What was in flight when its sender died comes again, under its id.
    events = {event["id"]: event for event in map(json.loads, lines)}.values()
    assert sorted(event["number"] for event in events) == [0, 1, 1, 2, 2, 3, 3, 65535]
    assert [event for event in events if event["worker"] != event["number"]] == []
