"""Waiting inside an event loop: the loop goes on, and no thread is made."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from harness import PATIENCE, Collector, environment, free_port
from libtelemetry import Client

MakeClient = Callable[..., Client]


def python_threads() -> int:
    import threading

    return threading.active_count()


def test_aflush_delivers_and_lets_the_loop_run(
    make_client: MakeClient, collector: Collector
) -> None:
    """Nothing is taken until another task has had ten turns, and has none if the loop stands."""
    client = make_client(retry={"initial_ms": 50, "max_ms": 50})
    collector.fault("503")

    async def main() -> bool:
        async def other() -> None:
            for _ in range(10):
                await asyncio.sleep(0.005)
            collector.fault("")

        assert client.enqueue({"n": 1})
        task = asyncio.create_task(other())
        done = await client.aflush(60)
        assert task.done()
        return done

    before = python_threads()
    assert asyncio.run(main()), "the loop stood still"
    assert python_threads() == before
    assert collector.stats()["unique"] == 1


def test_aflush_has_a_deadline(make_client: MakeClient) -> None:
    client = make_client(f"http://127.0.0.1:{free_port()}", timeout_ms=3_600_000)
    client.enqueue({"n": 1})
    start = time.monotonic()
    assert asyncio.run(client.aflush(0.3)) is False
    assert time.monotonic() - start < PATIENCE
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
        done = await client.aflush(60)
        task.cancel()
        return done

    # Else it would wait for them for the whole of its time, and say False.
    assert asyncio.run(main())


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
            done = asyncio.run(client.aflush(60))
        except BaseException:
            done = False
        os._exit(0 if done else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert client.flush(60)
    assert sorted(event["from"] for event in collector.events()) == ["child", "parent"]


GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, os, urllib.request
from libtelemetry import Client
url = os.environ["TELEMETRY_ENDPOINT"]
client = Client(url, retry={"initial_ms": 50, "max_ms": 50})
def fault(text):
    ask = urllib.request.Request(url + "/fault", text.encode(), method="PUT")
    urllib.request.urlopen(ask, timeout=120).read()
def other():
    for _ in range(10):
        gevent.sleep(0.005)
    fault("")
def use(name, wait=lambda: client.flush(60)):
    # Nothing is taken until another greenlet has had ten turns, and has none if all wait.
    fault("503")
    assert client.enqueue({"from": name})
    greenlet = gevent.spawn(other)
    assert wait(), name
    greenlet.join(120)
use("parent")
pid = os.fork()
if pid == 0:
    use("child")
    gevent.joinall([gevent.spawn(use, "greenlet")], raise_error=True)
    use("shutdown", lambda: client.shutdown(60))
    assert client.enqueue({}) is False
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_gevent_waits_cooperatively(collector: Collector) -> None:
    subprocess.run(
        [sys.executable, "-c", GEVENT],
        env=environment(collector.url),
        check=True,
        timeout=5 * PATIENCE,
    )
    assert sorted(event["from"] for event in collector.events()) == [
        "child",
        "greenlet",
        "parent",
        "shutdown",
    ]


def test_other_threads_run_during_a_flush(make_client: MakeClient, collector: Collector) -> None:
    import threading

    collector.fault("503")
    client = make_client(retry={"initial_ms": 50, "max_ms": 50})
    client.enqueue({"n": 1})

    def other() -> None:
        for _ in range(10):
            time.sleep(0.005)
        collector.fault("")

    thread = threading.Thread(target=other)
    thread.start()
    assert client.flush(60), "flush kept the GIL"
    thread.join()
