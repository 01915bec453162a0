"""Workers that do what a file tells them, and write down what they see."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from libtelemetry.fleet import AsyncWorker, Worker, current_worker

DIRECTORY = os.environ.get("FLEET_TEST_DIR", "")


def note(what: str, **more: Any) -> None:
    """A line for the test to read; whole, whoever else writes."""
    line = json.dumps({"what": what, "pid": os.getpid(), **more}) + "\n"
    fd = os.open(Path(DIRECTORY, "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)


def told(name: str) -> str:
    """What the file of that name says to do, once."""
    path = Path(DIRECTORY, name)
    try:
        order = path.read_text()
        path.unlink()
    except FileNotFoundError:
        return ""
    return order


def obey(name: str) -> bool:
    """Do that; True: return."""
    order = told(name)
    if order == "raise":
        raise RuntimeError(f"as ordered: {name}")
    if order == "exit":
        sys.exit(3)
    if order == "text":
        sys.exit("a last word")
    return order == "return"


def begin(name: str) -> None:
    """What each of them does first."""
    atexit.register(note, "atexit", name=name)
    worker = current_worker()
    assert worker is not None
    note(
        "begin",
        name=name,
        slot=worker.slot,
        incarnation=worker.incarnation,
        traceparent=worker.traceparent,
        resource=os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""),
        asynchronous=isinstance(worker, AsyncWorker),
    )


def function(worker: Worker, name: str) -> int:
    """With its worker."""
    begin(name)
    worker.ready()
    while not worker.stopping.wait(0.01):
        if obey(name):
            return 0
    note("end", name=name)
    return 0


def bare() -> None:
    """Without: TERM ends it where it is."""
    try:
        note("begin", name="bare")
        while True:
            time.sleep(0.02)
            if obey("bare"):
                return
    finally:
        note("end", name="bare")


async def coroutine(worker: AsyncWorker, name: str) -> None:
    """A coroutine, with two items at once."""
    begin(name)
    worker.ready()

    async def item(number: int) -> None:
        with worker.item(f"item {number}"):
            await asyncio.sleep(0.02 * number)

    await asyncio.gather(item(2), item(1))
    while not worker.stopping.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(worker.stopping.wait(), 0.01)
        if obey(name):
            return
    assert await worker.stopping
    note("end", name=name)


class Counting:
    """A class whose start() is a coroutine."""

    def __init__(self, name: str, step: int = 1) -> None:
        self.name = name
        self.step = step
        self.processed = self.errors = self.published = self.processing_errors = 0
        self.decoding_errors = 0
        self.running = self.mdq_connected = self.mdc_connected = False

    async def start(self) -> None:
        """The work."""
        begin(self.name)
        self.running = self.mdq_connected = True
        self.published, self.errors, self.decoding_errors, self.processing_errors = 5, 2, 3, 4
        while self.running:
            self.processed += self.step
            await asyncio.sleep(0.01)
            if obey(self.name):
                return
        self.mdq_connected = False
        note("end", name=self.name, processed=self.processed)

    def stop(self) -> None:
        """End it."""
        self.running = False


class Plain:
    """A class whose start() is a function, and which knows nothing of fleets."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.processed = 0
        self.running = False

    def start(self) -> None:
        """The work."""
        begin(self.name)
        self.running = True
        while self.running:
            self.processed += 1
            time.sleep(0.01)
            if obey(self.name):
                return
        note("end", name=self.name, processed=self.processed)

    def stop(self) -> None:
        """End it."""
        self.running = False


def calm() -> bool:
    """Whether the test has seen enough of those that hang."""
    return Path(DIRECTORY, "calm").exists()


def hangs(worker: Worker) -> None:
    """Without a beat, in each of its lives until then."""
    worker.ready()
    if not calm():
        hang_here()
    worker.stopping.wait()


async def hangs_in_loop(worker: AsyncWorker) -> None:
    """The same in a coroutine: nothing else of the loop runs."""
    worker.ready()
    if not calm():
        hang_here()
    await worker.stopping


def hang_here() -> None:
    """Deaf to everything but a signal's default."""
    while True:
        time.sleep(60)


def slow_item(worker: Worker) -> None:
    """An item that takes too long, while the loop beats."""
    worker.ready()
    if not calm():
        with worker.item("slow one", deadline=0.2):
            while True:
                worker.beat()
                time.sleep(0.01)
    worker.stopping.wait()


def counts(worker: Worker) -> None:
    """Every call of a worker's that leaves something to be seen."""
    worker.ready()
    for outcome in ("done", "fail", "retry", "dead"):
        with worker.item(outcome) as item:
            if outcome != "done":
                getattr(item, outcome)()
    with contextlib.suppress(KeyError), worker.item("raises"):
        raise KeyError
    worker.count("own", 7)
    worker.count("events")
    refused = ""
    try:
        worker.count("other")
    except ValueError as error:
        refused = str(error)
    leased = [worker.lease(token, 1, 1) for token in range(1, 10)]
    note(
        "counts", refused=refused, leased=leased, back=worker.lease(1), again=worker.lease(9, 1, 1)
    )
    with worker.item("waits to be seen"):
        worker.stopping.wait()


def threads(worker: Worker) -> None:
    """Returns while two threads run, of which one never ends."""
    worker.ready()

    def ends() -> None:
        worker.stopping.wait()
        time.sleep(0.05)
        note("thread ended")

    threading.Thread(target=ends).start()
    threading.Thread(target=time.sleep, args=(600,), name="stuck").start()


def deaf() -> None:
    """Does not end at TERM, from its note on."""
    begun = False
    while True:
        with contextlib.suppress(SystemExit):
            if not begun:
                note("begin", name="deaf")
                begun = True
            time.sleep(60)


def clients(worker: Worker, inherited: Any, endpoint: str) -> None:
    """Enqueue and return at once: its end delivers."""
    from libtelemetry import Client

    inherited.enqueue({"event": "inherited"})
    Client(endpoint, context={"number": "$worker"}).enqueue({"event": "own"})
    worker.ready()
    worker.stopping.wait()


def traced(worker: Worker) -> None:
    """In a span of its own: whose trace is it?"""
    from opentelemetry import baggage, trace

    with trace.get_tracer("test").start_as_current_span("inside") as span:
        note(
            "traced",
            trace=f"{span.get_span_context().trace_id:032x}",
            baggage=baggage.get_baggage("tenant"),
            provider=type(trace.get_tracer_provider()).__module__,
        )
    worker.ready()
    worker.stopping.wait()


class Traced:
    """The same for a manager."""

    def start(self) -> None:
        """The work."""
        worker = current_worker()
        assert worker is not None
        traced(worker)
