"""kill -9 loses nothing: processes are killed at random, and every acknowledged event arrives.

The short form kills 300 times on each file system and segment size, the long one 1,000 times.
"""

from __future__ import annotations

import json
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import BUILD, DETECTORS
from stage import HERE, LONG, WAIT_S, Page, Stage, Verdict, file_system, judge

MAX_EVENTS = 100
PROGRAM = str(HERE / "kill.c")
ROUND = 100
"""Lives in one run of the driver, which has a deadline."""

both = pytest.mark.parametrize("detector", DETECTORS)


@pytest.fixture
def kills(
    stage: Stage, programs: Any, tmp_path: Path, report: Callable[[str], None]
) -> Callable[..., Verdict]:
    """kills(count, ...): so many lives on one spool, then the judgement."""

    def drive(
        count: int,
        death: str = "kill",
        family: str = "alone",
        spool: Path | None = None,
        faults: str = "",
        together: int = 1,
        down: bool = False,
        detector: str = "wipe",
        beside: Callable[[threading.Event], object] = threading.Event.wait,
        **more: Any,
    ) -> Verdict:
        if spool is not None:
            stage.spool = spool / "spool"
        config = {
            **stage.config,
            "spool_dir": str(stage.spool),
            "batch": {"max_age_ms": 5, "max_events": MAX_EVENTS},
            "exit_timeout_ms": 100,
            **more,
        }
        page = Page(tmp_path / "page", count)
        env = {
            **stage.environment(),
            "TEST_PAGE": str(page.path),
            "TEST_CONFIG": json.dumps(config)[1:-1],
        }
        if detector == "fallback":
            env["TELEMETRY_TEST_NO_WIPEONFORK"] = "1"
        if not down:
            stage.collect(faults)
        program = str(programs(PROGRAM))

        def run(*words: object) -> str:
            done = subprocess.run(
                [program, *map(str, words)],
                env=env,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=stage.log,
                timeout=960,
            )
            assert done.returncode == 0, f"{words}: {done.returncode}\n{stage.complaints()}"
            return done.stdout.decode()

        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        over = threading.Event()
        other = threading.Thread(target=beside, args=(over,))
        other.start()
        try:
            for first in range(0, count, ROUND):
                lives = min(ROUND, count - first)
                run("drive", first, lives, death, family, seed + first, together)
        finally:
            over.set()
            other.join()
        if down:
            stage.collect()
        elif faults and stage.collector:
            stage.collector.fault("")
        last = json.loads(run("finish"))["recovered"]
        assert json.loads(run("finish"))["recovered"] == 0
        verdict = judge(page, stage.out)
        verdict = verdict._replace(recovered=verdict.recovered + last)
        report(
            f"{death} x {count}, {family}, {file_system(stage.spool)}, "
            f"segments of {config['segment_bytes']}: {verdict.acknowledged} acknowledged, lost 0, "
            f"{verdict.recovered} or more recovered, {verdict.duplicates} duplicates, "
            f"{verdict.in_doubt} in doubt, {verdict.full} times full"
        )
        assert stage.files() == []
        # Something was at stake: the queues were not empty.
        assert verdict.recovered > count
        if down:
            assert verdict.duplicates == 0
        elif not faults and family != "forking" and beside is threading.Event.wait:
            # Else others are cut short as well, or the collector is.
            processes = 1 if family == "alone" else 5
            assert verdict.duplicates <= count * processes * MAX_EVENTS
        return verdict

    return drive


@pytest.mark.parametrize("segment_bytes", [65536, 1048576])
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_sigkill(
    kills: Callable[..., Verdict], tmp_path: Path, memory: Path, place: str, segment_bytes: int
) -> None:
    """Two threads enqueue and a sender delivers; each life adopts what the last one left."""
    spool = tmp_path if place == "disk" else memory
    kills(1000 if LONG else 300, spool=spool, segment_bytes=segment_bytes)


@pytest.mark.parametrize(
    "death", ["_exit", "segv", "bus", "abort", "abrt-kill", "term", "exec", "exit", "shutdown"]
)
def test_other_deaths(kills: Callable[..., Verdict], death: str) -> None:
    """What ends a process without asking the library; exit and shutdown, while others enqueue."""
    # Half of the tries of a shutdown fail, else it would deliver everything.
    kills(200 if LONG else 40, death, faults="refuse%60" if death == "shutdown" else "")


@both
@pytest.mark.parametrize("family", ["fork", "_Fork", "clone"])
def test_a_whole_family(kills: Callable[..., Verdict], family: str, detector: str) -> None:
    """A master and four workers, killed at once while all of them enqueue."""
    kills(150 if LONG else 20, family=family, detector=detector)


@both
def test_while_it_forks(kills: Callable[..., Verdict], detector: str) -> None:
    """Children of all four kinds come and go, each leaving its events, until all are killed."""
    kills(150 if LONG else 25, family="forking", detector=detector)


@pytest.mark.parametrize("death, count", [("kill", 100), ("exit", 12), ("shutdown", 24)])
def test_four_at_a_time(kills: Callable[..., Verdict], death: str, count: int) -> None:
    """Adopters end while others adopt, from them too."""
    kills(count * (8 if LONG else 1), death, together=4, faults="" if death == "kill" else "503%50")


def test_while_the_tool_drains(kills: Callable[..., Verdict], stage: Stage) -> None:
    """`telemetry spool drain` takes from the dead, is killed as well, and never from the living."""
    drained = []

    def drain(over: threading.Event) -> None:
        command = [BUILD / "telemetry", "spool", "drain", stage.spool, "--to", stage.endpoint]
        batch = json.dumps({"batch": {"max_events": MAX_EVENTS}})
        while not over.wait(0.02):
            if not stage.spool.exists():
                continue
            # Every other one is left to its end.
            within = random.random() * 0.2 if len(drained) % 2 else WAIT_S
            tool = subprocess.Popen(
                [*command, "--config", batch], stdout=stage.log, stderr=stage.log
            )
            try:
                drained.append(tool.wait(within))
            except subprocess.TimeoutExpired:
                tool.kill()
                drained.append(tool.wait())

    kills(200 if LONG else 60, together=2, beside=drain)
    assert 0 in drained


def test_while_nobody_listens(kills: Callable[..., Verdict]) -> None:
    """Orphans pile up, are taken over and left again; in the end each event is sent once."""
    kills(300 if LONG else 100, down=True)


def test_with_little_room(kills: Callable[..., Verdict]) -> None:
    """Producers run into FULL all the time, and go on when a segment is free.

    The collector is slower than any producer, so what is left piles up from life to life.
    """
    count = 200 if LONG else 40
    room = 2 * 65536
    verdict = kills(count, spool_max_bytes=room, queue_bytes=room, faults="slow=100")
    assert verdict.full > 0


@pytest.mark.parametrize("sync", ["interval", "batch"])
def test_with_sync(kills: Callable[..., Verdict], sync: str) -> None:
    """The sender brings segments to the disk meanwhile."""
    kills(200 if LONG else 40, sync=sync)


@pytest.mark.parametrize("faults", ["cut%20", "lost%20", "refuse%50", "503%20,slow=20%20"])
def test_with_a_bad_collector(kills: Callable[..., Verdict], faults: str) -> None:
    """Kills while the collector accepts and cuts, accepts and does not answer, or refuses."""
    kills(200 if LONG else 40, faults=faults)
