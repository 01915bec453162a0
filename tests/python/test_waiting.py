"""Waiting inside an event loop: the loop goes on, and no thread is made."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from harness import Collector, environment, free_port
from libtelemetry import Client

MakeClient = Callable[..., Client]


def python_threads() -> int:
    import threading

    return threading.active_count()


def test_aflush_delivers_and_lets_the_loop_run(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(retry={"initial_ms": 50, "max_ms": 50})
    collector.fault("slow=300")

    async def main() -> tuple[bool, int]:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.005)

        task = asyncio.create_task(other())
        assert client.enqueue({"n": 1})
        done = await client.aflush(5)
        task.cancel()
        return done, turns

    before = python_threads()
    done, turns = asyncio.run(main())
    assert done
    assert turns > 10, "the loop stood still"
    assert python_threads() == before
    assert collector.stats()["unique"] == 1


def test_aflush_has_a_deadline(make_client: MakeClient) -> None:
    client = make_client(f"http://127.0.0.1:{free_port()}")
    client.enqueue({"n": 1})
    start = time.monotonic()
    assert asyncio.run(client.aflush(0.3)) is False
    assert time.monotonic() - start < 1
    with pytest.raises(ValueError, match="timeout"):
        asyncio.run(client.aflush(-1))


def test_aflush_returns_though_others_keep_enqueueing(client: Client, collector: Collector) -> None:
    collector.fault("slow=100")

    async def main() -> bool:
        async def other() -> None:
            while True:
                client.enqueue({"from": "other"})
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        client.enqueue({"n": 1})
        done = await client.aflush(5)
        task.cancel()
        return done

    start = time.monotonic()
    assert asyncio.run(main())
    assert time.monotonic() - start < 4


def test_aflush_does_not_hammer_a_failing_collector(
    make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(retry={"initial_ms": 60_000, "max_ms": 60_000})
    collector.fault("503")
    client.enqueue({"n": 1})
    assert asyncio.run(client.aflush(1.0)) is False
    assert client.stats().retries <= 8


def test_aflush_in_a_child(client: Client, collector: Collector) -> None:
    client.enqueue({"from": "parent"})
    pid = os.fork()
    if pid == 0:
        try:
            client.enqueue({"from": "child"})
            done = asyncio.run(client.aflush(10))
        except BaseException:
            done = False
        os._exit(0 if done else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.flush(10)
    assert sorted(event["from"] for event in collector.events()) == ["child", "parent"]


GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, os, time
from libtelemetry import Client
client = Client(os.environ["TELEMETRY_ENDPOINT"])
turns = 0
def other():
    global turns
    while True:
        turns += 1
        gevent.sleep(0.005)
greenlet = gevent.spawn(other)
def use(name):
    assert client.enqueue({"from": name})
    before = turns
    assert client.flush(5)
    assert turns - before > 10, (name, turns - before)
use("parent")
pid = os.fork()
if pid == 0:
    use("child")
    gevent.joinall([gevent.spawn(use, "greenlet")], raise_error=True)
    client.enqueue({"from": "shutdown"})
    before = turns
    assert client.shutdown(5)
    assert turns - before > 10
    assert client.enqueue({}) is False
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_gevent_waits_cooperatively(collector: Collector) -> None:
    collector.fault("slow=300")
    subprocess.run(
        [sys.executable, "-c", GEVENT], env=environment(collector.url), check=True, timeout=30
    )
    assert sorted(event["from"] for event in collector.events()) == [
        "child",
        "greenlet",
        "parent",
        "shutdown",
    ]


def test_other_threads_run_during_a_flush(make_client: MakeClient, collector: Collector) -> None:
    import threading

    collector.fault("slow=300")
    client = make_client()
    client.enqueue({"n": 1})
    turns = 0
    stop = threading.Event()

    def other() -> None:
        nonlocal turns
        while not stop.wait(0.005):
            turns += 1

    thread = threading.Thread(target=other)
    thread.start()
    assert client.flush(5)
    stop.set()
    thread.join()
    assert turns > 10, "flush kept the GIL"
