"""Clients that come and go leave nothing behind."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable

from harness import Collector, wait_until
from libtelemetry import Client, _client


def resources() -> dict[str, int]:
    with open("/proc/self/maps") as maps, open("/proc/self/statm") as memory:
        return {
            "threads": len(os.listdir("/proc/self/task")),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "mappings": len(maps.readlines()),
            "resident": int(memory.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        }


def wait_alone() -> int:
    """Wait until no sender of an earlier test is left; how many threads there are then."""

    def alone() -> bool:
        return resources()["threads"] == threading.active_count()

    wait_until("only Python's threads", alone)
    return threading.active_count()


def use_and_drop(url: str, count: int) -> None:
    for n in range(count):
        client = Client(url, exit_timeout_ms=60_000)
        assert client.enqueue({"n": n})
        del client  # the garbage collector's part; the library delivers, then frees


def test_a_thousand_dropped_clients_leave_nothing(collector: Collector) -> None:
    alone = wait_alone()
    use_and_drop(collector.url, 100)  # what is made once: the library's tables, malloc's arenas
    gc.collect()
    wait_until("threads end", lambda: resources()["threads"] <= alone)
    before = resources()
    use_and_drop(collector.url, 1000)
    gc.collect()
    wait_until("threads end", lambda: resources()["threads"] <= before["threads"])
    after = resources()
    assert after["threads"] == before["threads"] == alone
    assert after["descriptors"] == before["descriptors"]
    assert after["mappings"] <= before["mappings"] + 10
    assert after["resident"] <= before["resident"] + 4 * 1024 * 1024, (before, after)
    assert collector.stats()["unique"] == 1100, "dropping a client delivers its events"
    assert not any(ref() is None for ref in _client._live.values())


def test_a_client_in_a_cycle_is_collected(collector: Collector) -> None:
    class Owner:
        def __init__(self) -> None:
            self.client, self.me = Client(collector.url, exit_timeout_ms=60_000), self

    owner = Owner()
    ref = weakref.ref(owner.client)
    assert owner.client.enqueue({"n": 1})
    del owner
    gc.collect()
    assert ref() is None
    assert collector.stats()["unique"] == 1


def test_a_client_that_is_used_while_it_is_collected(collector: Collector) -> None:
    answers = []

    class Owner:
        def __init__(self) -> None:
            self.client, self.me = Client(collector.url, exit_timeout_ms=60_000), self
            assert self.client.enqueue({"n": 1})

        def __del__(self) -> None:
            answers.append(self.client.enqueue({"n": 2}))
            answers.append(self.client.enqueue(b'{"n": 2}'))
            answers.append(self.client.flush(1))
            answers.append(self.client.stats().accepted)

    Owner()
    gc.collect()
    # The first event was delivered before; what follows is refused.
    assert answers == [False, False, False, 0]
    assert [event["n"] for event in collector.events()] == [1]


def test_an_idle_client_has_no_thread(make_client: Callable[..., Client]) -> None:
    before = wait_alone()
    client = make_client(idle_ms=100)
    assert resources()["threads"] == before, "opening starts nothing"
    client.enqueue({"n": 1})
    assert client.flush(60)
    wait_until("the sender ends", lambda: resources()["threads"] == before)
    client.enqueue({"n": 2})
    assert client.flush(60)
    assert client.stats().delivered == 2


def test_many_threads_enqueue_at_once(client: Client, collector: Collector) -> None:
    def run(thread: int) -> None:
        for n in range(500):
            assert client.enqueue({"thread": thread, "n": n})

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush(60)
    events = {(event["thread"], event["n"]) for event in collector.events()}
    assert events == {(thread, n) for thread in range(8) for n in range(500)}
    assert collector.stats()["duplicates"] == 0
