"""Programs with fleets of Python workers: ``python_program.py CASE ARGUMENTS``, for the tests.

The workers come from `python_workers`; in mode "zygote" by import strings.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from libtelemetry import ConfigError
from libtelemetry.fleet import Fleet, ProcessManager, _manager

DIRECTORY = os.environ["FLEET_TEST_DIR"]
# Restarts come at once, however many there were.
QUICK: dict[str, Any] = {
    "backoff_base": 0.001,
    "backoff_cap": 0.001,
    "crash_limit": 1000,
    "intensity": 1000,
    "health": f"unix:{DIRECTORY}/health",
    "grace": 600,
    "kill": 0.2,
    "dump": 0.5,
    "start_deadline": 600,
}


def of(mode: str, name: str) -> Any:
    """That target as that mode takes it."""
    if mode == "zygote":
        return f"python_workers:{name}"
    import python_workers

    return getattr(python_workers, name)


def mine() -> None:
    """A target of the main program's own."""
    import python_workers

    python_workers.bare()


def lifecycle(mode: str) -> int:
    """One of each kind."""
    atexit.register(os.write, 2, b"atexit of the supervisor\n")
    sys.stdout.write("buffered by the supervisor\n")
    fleet = Fleet(name="life", mode=mode, counters=["own"], **QUICK)
    for name, target in (
        ("function", "function"),
        ("coroutine", "coroutine"),
        ("async class", "Counting"),
        ("class", "Plain"),
    ):
        name = name.replace(" ", "-")
        fleet.start_worker(name, of(mode, target), kwargs={"name": name})
    fleet.start_worker("bare", of(mode, "bare"))
    code = fleet.run()
    for group in ("function", "coroutine"):
        assert not fleet.get_status(group)["alive"]
    if mode == "zygote":
        assert "python_workers" not in sys.modules
    return code


def troubles(mode: str) -> int:
    """What a supervisor has to see."""
    fleet = Fleet(name="troubles", mode=mode, counters=["own"], **QUICK)
    for name in ("hangs", "hangs_in_loop"):
        fleet.start_worker(name, of(mode, name), stale=0.5)
    for name in ("slow_item", "counts"):
        fleet.start_worker(name, of(mode, name))
    return fleet.run()


def ends() -> int:
    """What outlives a stop: threads, and one that is deaf to TERM."""
    from python_workers import deaf, threads

    fleet = Fleet(mode="fork", **{**QUICK, "grace": 4})
    fleet.start_worker("threads", threads)
    fleet.start_worker("deaf", deaf)
    return fleet.run()


def clients(endpoint: str) -> int:
    """Telemetry of workers that just return."""
    from libtelemetry import Client
    from python_workers import clients as target

    inherited = Client(endpoint)
    fleet = Fleet(mode="fork", **QUICK)
    fleet.start_worker("c", target, kwargs={"inherited": inherited, "endpoint": endpoint})
    return fleet.run()


def automatic() -> int:
    """Threads, so: programs of their own, of the main program's function; asked from a thread."""
    fleet = Fleet(**QUICK)
    fleet.start_worker("mine", mine)

    def ask() -> None:
        path = Path(DIRECTORY, "stop")
        while not path.exists():
            time.sleep(0.01)
        assert fleet.get_status("mine")["alive"]
        fleet.resize("mine", 2)
        while len(fleet.get_status("mine")["pids"]) < 2:
            time.sleep(0.01)
        os.write(2, b"two of them\n")
        fleet.stop_all(timeout=600)

    threading.Thread(target=ask, daemon=True).start()
    return fleet.run()


def traced(mode: str) -> int:
    """Workers asked for in a span."""
    from opentelemetry import baggage, context, trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider()
    # A clean fork: nothing here has threads.
    context.attach(baggage.set_baggage("tenant", "acme"))
    with provider.get_tracer("test").start_as_current_span("outside") as span:
        os.write(1, f"trace {span.get_span_context().trace_id:032x}\n".encode())
        if mode == "manager":
            from python_workers import Traced

            with ProcessManager(**QUICK) as manager:
                manager.start_worker("traced", Traced)
                sys.stdin.read()
            return 0
        fleet = Fleet(mode=mode, **QUICK)
        fleet.start_worker("traced", of(mode, "traced"))
    assert trace.get_current_span().get_span_context().trace_id == 0
    return fleet.run()


def instrumented(mode: str) -> int:
    """Automatic instrumentation, from the environment."""
    fleet = Fleet(mode=mode, auto_instrument=True, **QUICK)
    fleet.start_worker("traced", "python_workers:traced")
    return fleet.run()


def fork_one() -> int:
    """A child that stays, with what it inherited but the pipes of the test."""
    pid = os.fork()
    if pid == 0:
        os.closerange(0, 3)
        time.sleep(3600)
        os._exit(0)
    return pid


def manager() -> int:
    """A manager in a program with a thread; orders come on stdin."""
    from python_workers import Counting, Plain

    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    made = ProcessManager(name="managed", **QUICK)
    made.start_worker("one", Counting, name="one", step=2)
    made.start_worker("two", Plain, name="two")
    for line in sys.stdin:
        known = {"manager": made, "fork_one": fork_one, "Counting": Counting, "Plain": Plain}
        answer = eval(line, known)
        os.write(1, f"{answer!r}\n".encode())
    return 0


def deadline(count: str, timeout: str) -> int:
    """So many that are deaf to TERM, stopped at once; says how long that took."""
    before = len(os.listdir("/proc/self/fd"))
    with ProcessManager(runtime_dir=DIRECTORY, grace=600) as manager:
        for i in range(int(count)):
            manager.start_worker(f"deaf-{i}", "python_workers:deaf")
        os.write(1, b"all are asked for\n")
        sys.stdin.readline()
        for call in (
            lambda: manager.start_worker("deaf-0", "python_workers:deaf"),
            lambda: manager.get_status("x"),
        ):
            try:
                call()
            except (ConfigError, KeyError) as error:
                os.write(1, f"{type(error).__name__}: {error}\n".encode())
        began = time.monotonic()
        assert manager.stop_all(timeout=float(timeout)) is True
        os.write(1, f"{time.monotonic() - began}\n".encode())
        assert not any(one["alive"] for one in manager.get_status().values())
    assert len(os.listdir("/proc/self/fd")) == before
    return 0


if __name__ == "__main__":
    # Also where the tests run in a shell's background, which ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A manager waits for 20 s until its supervisor is there, which a busy machine may need.
    _manager._ANSWER_S = 600.0
    raise SystemExit(globals()[sys.argv[1]](*sys.argv[2:]))
