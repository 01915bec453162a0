"""Restarts without number: the supervisor's descriptors and memory stay as they are."""

from __future__ import annotations

from typing import Any

import pytest

from fleets import LONG, MEASURED, WAIT_S, Fleets, descriptors, group, rss_kb, until

BATCH = 50
TURNS = 400 if LONG else 20


@pytest.mark.parametrize("mode", ["call", "zygote", "self"])
def test_births_and_deaths_cost_nothing_that_stays(fleets: Fleets, mode: str) -> None:
    """Fifty more and fifty fewer at a time: forks that were asked for are not held back."""
    config: dict[str, Any] = {"mode": "zygote"} if mode == "zygote" else {}
    turns = TURNS if mode == "call" else TURNS // 4
    fleet = fleets.make(
        group("ready,beat", 1, kind=mode.replace("zygote", "call")),
        options="orders",
        max_workers=BATCH + 1,
        **config,
    )
    fleet.until_ready(1)
    shown = []
    for _ in range(turns):
        assert fleet.order(f"resize w {BATCH + 1}") == 0
        fleet.until_ready(BATCH + 1)
        assert fleet.order("resize w 1") == 0
        fleet.until_status(
            "back", lambda s: s["slots"]["ready"] == 1 and s["slots"]["stopping"] == 0
        )
        until(
            "nobody is left over",
            lambda: len(fleet.processes()) <= (3 if mode == "zygote" else 2),
            tell=fleet.tell,
        )
        shown.append((descriptors(fleet.pid), rss_kb(fleet.pid)))
    born = 1 + turns * BATCH
    assert len(fleet.log("begin")) == born
    (fds, rss), (last_fds, last_rss) = shown[1], shown[-1]
    # A connection of ours may be among them yet.
    until("no more are open", lambda: descriptors(fleet.pid) <= fds, tell=lambda: shown)
    assert last_rss <= rss + 512, shown
    assert fleet.stop() == 0, fleet.tell()
    MEASURED.append(
        f"{mode}: {born} workers born, {fds} -> {last_fds} descriptors, {rss} -> {last_rss} KiB"
    )


def test_crashes_cost_nothing_that_stays(fleets: Fleets) -> None:
    """The same of crashes, as many as the bucket allows."""
    deaths = 24 + (120 if LONG else 8)
    fleet = fleets.make(
        group("ready,until=30,die=9", 24, crash_limit=1000, backoff_base_ms=0),
        intensity=1_000_000,
        healthy_after_ms=0,
    )
    fleet.until_status("the first of them", lambda s: s["restarts"]["total"] >= 24)
    fds, rss = descriptors(fleet.pid), rss_kb(fleet.pid)
    status = fleet.until_status(
        "two more a second",
        lambda s: s["restarts"]["total"] >= deaths,
        seconds=WAIT_S + 10 * deaths,
    )
    until("one a worker that lives just now", lambda: descriptors(fleet.pid) <= fds + 24)
    assert rss_kb(fleet.pid) <= rss + 512
    MEASURED.append(f"crashes: {status['restarts']['by_cause']}")
    assert fleet.stop() == 0, fleet.tell()
