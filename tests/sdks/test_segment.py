"""Segment's SDK with the adapter: what it sends is what it would send by itself."""

from __future__ import annotations

from typing import Any

import pytest

from sdk_kit import AGES, run
from sink import Sink

PATH = "/v1/batch"


def plain(event: dict[str, Any]) -> dict[str, Any]:
    """`event` without what differs from run to run."""
    event = dict(event)
    if event.get("event") != "full":
        for name in ("messageId", "timestamp"):
            assert event.pop(name)
    return event


@pytest.mark.parametrize("options", [{}, {"sync_mode": True, "gzip": True}], ids=str)
def test_it_sends_what_the_sdk_sends(age: str, sink: Sink, options: dict[str, Any]) -> None:
    said, events = {}, {}
    for adapted in (False, True):
        said[adapted] = run(age, "cases_segment.methods", sink.url, adapted, options)
        events[adapted] = sorted((plain(one) for one in sink.events(PATH)), key=str)
        if adapted:
            assert {one.json()["writeKey"] for one in sink.requests} == {"wk_test"}
            assert all(one.json()["sentAt"] for one in sink.requests)
            assert len(sink.requests) == 1 or "sync_mode" in options
        sink.requests.clear()
    assert events[True] == events[False]
    assert len(events[True]) == 8
    assert said[True] == said[False]


def test_what_was_tracked_before_arrives_once(age: str, sink: Sink) -> None:
    said = run(age, "cases_segment.taking_over", sink.url)
    assert said == {"threads": [], "same": True, "waiting": 0}
    assert sorted(one["properties"]["n"] for one in sink.events(PATH)) == list(range(121))


def test_children_have_no_thread_and_deliver(age: str, sink: Sink) -> None:
    assert run(age, "cases_segment.children", sink.url) == [[], "[]", "[]"]
    found = [one["properties"]["n"] for one in sink.events(PATH)]
    assert sorted(found) == ["fork", "fork", "master"]


def test_the_client_of_the_module(age: str, sink: Sink) -> None:
    said = run(age, "cases_segment.by_module", sink.url)
    assert said == {"same": True, "delivered": 1, "after shutdown": False, "threads": []}
    assert [one["event"] for one in sink.events(PATH)] == ["by module"]


def test_in_sync_mode_a_call_returns_when_its_event_is_there(age: str, sink: Sink) -> None:
    assert run(age, "cases_segment.sync_mode", sink.url) == {"delivered": 1, "threads": []}


def test_what_cannot_be_installed_changes_nothing(age: str, sink: Sink) -> None:
    said = run(age, "cases_segment.refusals", sink.url)
    found = next(AGES[age].glob("segment_analytics_python-*.dist-info")).name
    version = found.split("-")[1].removesuffix(".dist")
    assert said["no client"].startswith("TypeError")
    assert said["key"].startswith("ConfigError")
    assert "retries" in said["key"]
    assert "OAuth" in said["oauth"]
    assert said["internals"].startswith("UnsupportedSDK")
    assert f"segment-analytics-python {version}" in said["internals"]
    assert "_enqueue" in said["internals"]
    assert [one["event"] for one in sink.events(PATH)] == ["by itself"]


def test_a_flush_ends_when_the_collector_is_down(age: str, sink: Sink) -> None:
    assert run(age, "cases_segment.collector_down", sink.url) == {"taken": True, "waiting": 1}
