"""A collector that is away, that flaps, or that takes events and keeps silent: nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from stage import LONG, OK, Actor, Stage, wait_until

SECONDS = 30 if LONG else 8
MEMORY = 262144
"""Far less than what is enqueued meanwhile."""


class Flow:
    """A parent and its child that send a thousand events a second each, and others that die."""

    def __init__(self, stage: Stage, **more: object) -> None:
        self.stage = stage
        self.parent = stage.start(queue_bytes=MEMORY, **more)
        self.child = self.parent.fork()
        for one in (self.parent, self.child):
            one.ask("stream", 0, f"flow{one.pid}", 1000)
        self.killed = 0

    def kill_one(self) -> None:
        """One more process comes, and dies with its queue."""
        self.killed += 1
        victim = self.stage.start(queue_bytes=MEMORY)
        victim.send(f"victim{self.killed}", 100)
        victim.kill()

    def end(self) -> int:
        """Everything out; how many events there were."""
        for one in (self.parent, self.child):
            one.ask("calm")
        for one in (self.parent, self.child):
            assert one.flush() == OK
            assert one.stats()["dropped_full"] == 0
        return self.stage.accepted()


def test_away_and_flapping(stages: Callable[[], Stage], report: Callable[[str], None]) -> None:
    """Away for seconds; gone and back each second; refusing each second; with kills in between."""
    away, gone, refusing = (Flow(stages()) for _ in range(3))
    refusing.stage.collect()
    for second in range(SECONDS):
        started = time.monotonic()
        if second % 2:
            gone.stage.collect()
        else:
            gone.stage.silence()
        assert refusing.stage.collector
        refusing.stage.collector.fault("" if second % 2 else "refuse")
        for flow in (away, gone, refusing):
            flow.kill_one()
        time.sleep(max(0.0, started + 1 - time.monotonic()))  # the fault itself lasts so long
    for name, flow in (("away", away), ("gone", gone), ("refusing", refusing)):
        flow.stage.silence()
        flow.stage.collect()
        events = flow.end()
        # A request under way when the collector went can have been taken without our knowing.
        duplicates = flow.stage.compare_unique()
        assert flow is not away or duplicates == 0
        report(
            f"collector {name} for {SECONDS} s: {events} events, lost 0, {duplicates} duplicates"
        )


@pytest.mark.parametrize("faults", ["cut%40", "lost%40", "cut%20,lost%20,503%20,refuse%20"])
def test_accepts_and_cuts(stage: Stage, faults: str, report: Callable[[str], None]) -> None:
    """What it took without an answer comes again under the same id."""
    collector = stage.collect(faults)
    flow = Flow(stage)
    wait_until("30 tries", lambda: flow.child.stats()["retries"] >= 30)
    flow.kill_one()
    collector.fault("")
    events = flow.end()
    duplicates = stage.compare_unique()
    assert ("lost" in faults) == (duplicates > 0)
    report(f"collector with {faults}: {events} events, lost 0, {duplicates} duplicates")


def test_more_than_memory_holds(stage: Stage) -> None:
    """The spool takes spool_max_bytes, says FULL then, and what it took arrives whoever dies."""
    limit = 4 << 20
    actor = stage.start(queue_bytes=MEMORY, spool_max_bytes=limit)
    taken = int(actor.ask("fill", 0, "fill", 0, 1000000))
    assert actor.stats()["dropped_full"] >= 1
    size = sum(path.stat().st_blocks * 512 for path in stage.files(".seg"))
    assert limit / 2 < size <= limit + 65536
    assert taken * 100 > limit / 2
    actor.kill()
    stage.collect()
    heir: Actor = stage.start()
    assert heir.flush() == OK
    assert heir.stats()["recovered"] == taken
    stage.compare()


def test_room_again_after_full(stage: Stage) -> None:
    """FULL is not for ever: delivered segments make room, in the same process."""
    actor = stage.start(queue_bytes=MEMORY, spool_max_bytes=1 << 20)
    first = int(actor.ask("fill", 0, "fill", 0, 1000000))
    stage.collect()
    assert actor.flush() == OK
    stage.silence()
    wait_until(
        "removed ones are let go",
        lambda: not [line for line in actor.segments() if "deleted" in line],
    )
    second = int(actor.ask("fill", 0, "fill", first, 1000000))
    assert second >= first * 3 // 4
    stage.collect()
    assert actor.flush() == OK
    stage.compare()
