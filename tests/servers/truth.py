"""The other side of truth_app: what was noted, what of it has arrived, and what is left on disk."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from harness import (
    PATIENCE,
    Collector,
    Failed,
    Key,
    Row,
    Server,
    children,
    compare,
    environment,
    kill_child,
    total,
    wait_until,
)

AT_START = 5

DRAIN = """
from libtelemetry import Client
client = Client()
done = client.flush(120)
print(client.stats())
raise SystemExit(0 if done else "the flush came to nothing")
"""


class Truth:
    """A directory with a spool, and the events that its processes have noted."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "truth.log"
        self.spool = directory / "spool"

    def environment(self, endpoint: str, **more: str) -> dict[str, str]:
        """That of a server with truth_app."""
        keys = {
            "TRUTH": str(self.log),
            "AT_START": str(AT_START),
            "TELEMETRY_SPOOL_DIR": str(self.spool),
        }
        return environment(endpoint, **{**keys, **more})

    def noted(self) -> set[Key]:
        """The events noted until now."""
        # The last line may be in the making.
        lines = self.log.read_text().splitlines(keepends=True) if self.log.exists() else []
        pairs = [line.split() for line in lines if line.endswith("\n")]
        return {(int(pid), int(seq)) for pid, seq in pairs}

    def count(self) -> int:
        """How many events have been noted."""
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def files(self) -> list[str]:
        """What holds events on disk."""
        return sorted(
            str(path.relative_to(self.spool))
            for path in self.spool.rglob("*")
            if path.suffix in (".seg", ".bad")
        )

    def drain(self, endpoint: str, **more: str) -> None:
        """The next start: a process that only opens the client and flushes."""
        done = subprocess.run(
            [sys.executable, "-c", DRAIN],
            env=self.environment(endpoint, **more),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
        )
        if done.returncode:
            raise Failed(f"{done.stderr}{done.stdout}{self.files()}")


def arrived(collector: Collector) -> set[Key]:
    """The events the collector has, by the file alone: its counters do not outlive it."""
    text = collector.out.read_text() if collector.out.exists() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return {(event["pid"], event["seq"]) for event in map(json.loads, lines)}


def wait_arrived(
    goal: set[Key], collector: Collector, work: Callable[[], object], seconds: float = PATIENCE
) -> None:
    """Wait until the events of `goal` have arrived, doing `work` all the while.

    Only a family that works looks after its dead. Raises Failed.
    """

    def all_there() -> bool:
        work()
        return not goal - arrived(collector)

    try:
        wait_until("the events of the dead", all_there, seconds)
    except Failed as error:
        raise Failed(f"{error}: {len(goal - arrived(collector))} of {len(goal)} missing") from None


def some_work(server: Server) -> Callable[[], object]:
    """One event a call, at most ten a second."""

    def work() -> None:
        with contextlib.suppress(OSError, ValueError):
            server.get("/emit?n=1", seconds=10)
        time.sleep(0.1)

    return work


def kill_workers(
    server: Server,
    kills: int,
    truth: Truth | None = None,
    reported: int = 0,
    sig: int = signal.SIGKILL,
) -> set[int]:
    """Kill so many workers, each at a random instant; their process ids.

    On a busy machine most may die before their first event: then more follow, of those that have
    noted one, until `reported` of the killed have.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    killed: set[int] = set()
    who: set[int] = set()
    end = time.monotonic() + PATIENCE
    while len(killed) < kills or len(killed & who) < reported:
        if time.monotonic() > end:
            raise Failed(f"{len(killed)} killed, {len(killed & who)} of them had reported")
        time.sleep(choice.uniform(0.02, 0.12))  # any instant will do, none must be left out
        workers = server.wait_for("workers", lambda: children(server.process.pid))
        if truth:
            who = {pid for pid, _ in truth.noted()}
        if len(killed) >= kills:
            workers = [pid for pid in workers if pid in who]
        if workers and kill_child(server.process.pid, pid := choice.choice(workers), sig):
            killed.add(pid)
    return killed


def assert_nothing_lost(truth: Truth, collector: Collector, most_duplicates: int) -> Row:
    """What was noted has arrived, and what came twice came under one id. Returns the sums."""
    events = collector.events()
    rows = compare(truth.noted(), events)
    sums = total(rows)
    print(f"{sums}, from {len(rows)} processes")
    assert sums.accepted > 0
    assert sums.lost == 0, [row for row in rows if row.lost]
    # Killed between enqueue and its note: once for each process.
    assert all(row.unknown <= 1 for row in rows), [row for row in rows if row.unknown > 1]
    ids: dict[Key, set[str]] = {}
    for event in events:
        ids.setdefault((event["pid"], event["seq"]), set()).add(event["id"])
    assert all(len(one) == 1 for one in ids.values()), "the same event under two ids"
    assert len(set.union(*ids.values())) == len(ids), "two events under one id"
    assert sums.duplicates <= most_duplicates, rows
    return sums
