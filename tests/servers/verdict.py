"""What every server test ends with."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from harness import Collector, Key, Row, Server, compare, load, total


def assert_exactly_once(accepted: Iterable[Key], collector: Collector) -> list[Row]:
    """Accepted and delivered are the same events, each delivered once. Returns a row a process."""
    rows = compare(accepted, collector.events())
    sums = total(rows)
    assert sums.accepted > 0
    assert (sums.lost, sums.duplicates, sums.unknown) == (0, 0, 0), rows
    stats = collector.stats()
    assert stats["unique"] == sums.accepted, stats
    assert stats["duplicates"] == 0, stats
    return rows


def run_and_stop(server: Server, collector: Collector, sig: int = signal.SIGTERM) -> None:
    """400 requests of 5 events; stopped right after the last answer, nothing may be missing."""
    accepted = [(pid, seq) for pid, seq in server.get("/startup")]
    master = {pid for pid, _ in accepted}
    assert len(accepted) == 5
    assert len(master) == 1
    requested = load(server)
    server.stop(sig)
    collector.wait_unique(len(accepted) + len(requested))
    rows = assert_exactly_once(accepted + requested, collector)
    workers = {pid for pid, _ in requested}
    assert len(requested) >= 400 * 5
    assert len(workers) >= 4
    assert {row.pid for row in rows} == master | workers
