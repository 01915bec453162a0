"""What the tests of servers that report their requests share: who asked what, and what arrived.

An event of the application has `pid` and `seq`, one of a request has no `seq`; both have `number`,
which is what the library made of "$worker".
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter, defaultdict
from typing import Any, NamedTuple

from harness import PATIENCE, Collector, Key, Server, compare, total


class Counted(Server):
    """A server, and which statuses it has answered."""

    def __init__(self, *args: Any) -> None:
        self.answered: Counter[int] = Counter()
        self._lock = threading.Lock()
        super().__init__(*args)

    def __enter__(self) -> Counted:
        return self

    def get(self, path: str, seconds: float = PATIENCE) -> Any:
        """The JSON that it answers."""
        found = super().get(path, seconds)
        self._count(200)
        return found

    def _count(self, status: int) -> None:
        with self._lock:
            self.answered[status] += 1

    def ask(self, method: str, path: str, **headers: str) -> bytes:
        """A request of any kind; the body as far as it came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            self._count(answer.status)
            try:
                return answer.read()
            except http.client.IncompleteRead as error:
                return error.partial


class Arrived(NamedTuple):
    """What the collector has."""

    requests: list[dict[str, Any]]
    app: list[dict[str, Any]]

    def numbers(self) -> dict[int, set[int]]:
        """The processes that each number was given to; 0 for the master."""
        found: dict[int, set[int]] = defaultdict(set)
        for event in self.requests + self.app:
            found[event["number"]].add(event["pid"])
        return found


def arrived(collector: Collector) -> Arrived:
    requests, app = [], []
    for event in collector.events():
        (app if "seq" in event else requests).append(event)
    assert collector.stats()["duplicates"] == 0
    return Arrived(requests, app)


def assert_all(server: Counted, taken: list[Key], collector: Collector) -> Arrived:
    """Each event that the application's client took, and each request, is there once."""
    collector.wait_unique(len(taken) + server.answered.total())
    found = arrived(collector)
    sums = total(compare(taken, found.app))
    assert (sums.lost, sums.duplicates, sums.unknown) == (0, 0, 0), sums
    statuses = Counter(event["status"] for event in found.requests)
    assert statuses == server.answered, (statuses, server.answered)
    for event in found.requests:
        assert event["worker"] == event["number"], event
    return found
