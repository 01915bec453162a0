"""PostHog's SDK with the adapter: what it sends is what it would send by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import Failed
from sdk_kit import AGES, run
from sink import Sink


def plain(event: dict[str, Any]) -> dict[str, Any]:
    """`event` without what differs from run to run."""
    event = {**event, "properties": dict(event["properties"])}
    if event["event"] != "full":
        for name in ("uuid", "timestamp"):
            assert event.pop(name)
    if event["event"] == "personless":
        assert event.pop("distinct_id")
    for one in event["properties"].get("$exception_list", []):
        assert one.pop("stacktrace")
    event["properties"].pop("$exception_personURL", None)
    return event


@pytest.mark.parametrize("options", [{}, {"sync_mode": True, "gzip": True}], ids=str)
def test_it_sends_what_the_sdk_sends(age: str, sink: Sink, options: dict[str, Any]) -> None:
    said, events = {}, {}
    for adapted in (False, True):
        said[adapted] = run(age, "cases_posthog.methods", sink.url, adapted, options)
        found = sink.events("/batch/") + sink.events("/i/v0/ai/batch/")
        events[adapted] = sorted((plain(one) for one in found), key=str)
        if adapted:
            assert {one.json()["api_key"] for one in sink.requests} == {"phc_test"}
            assert all(one.json()["sent_at"] for one in sink.requests)
        sink.requests.clear()
    assert events[True] == events[False]
    assert len(events[True]) >= 10
    assert said[True] == said[False]


def test_what_was_captured_before_arrives_once(age: str, sink: Sink) -> None:
    said = run(age, "cases_posthog.taking_over", sink.url)
    assert said["threads"] == []
    assert said["consumers"] == 0
    assert said["same"]
    assert said["waiting"] == 0
    assert sorted(one["properties"]["n"] for one in sink.events("/batch/")) == list(range(121))


def test_children_have_no_thread_and_deliver(age: str, sink: Sink) -> None:
    master, by_python, by_c = run(age, "cases_posthog.children", sink.url)
    assert (master, by_python, by_c) == ([], "[]", "[]")
    found = [one["properties"]["n"] for one in sink.events("/batch/")]
    assert sorted(found) == ["fork", "fork", "master"]


def test_a_child_leaves_the_queue_of_its_parent_alone(age: str, sink: Sink) -> None:
    assert run(age, "cases_posthog.late_in_a_child", sink.url) == {"accepted": 1}
    numbers = [one["properties"]["n"] for one in sink.events("/batch/") if one["event"] == "master"]
    assert sorted(numbers) == list(range(60))


def test_the_client_of_the_module(age: str, sink: Sink) -> None:
    said = run(age, "cases_posthog.by_module", sink.url)
    assert said == {"same": True, "delivered": 1, "after shutdown": None, "threads": []}
    assert [one["event"] for one in sink.events("/batch/")] == ["by module"]


def test_in_sync_mode_a_call_returns_when_its_event_is_there(age: str, sink: Sink) -> None:
    assert run(age, "cases_posthog.sync_mode", sink.url) == {"delivered": 1, "threads": []}


def test_what_cannot_be_installed_changes_nothing(age: str, sink: Sink) -> None:
    said = run(age, "cases_posthog.refusals", sink.url)
    version = next(AGES[age].glob("posthog-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    assert said["no client"].startswith("TypeError")
    assert said["key"].startswith("ConfigError")
    assert "retries" in said["key"]
    assert "historical_migration" in said["history"]
    assert said["internals"].startswith("UnsupportedSDK")
    assert f"posthog {version}" in said["internals"]
    assert "_enqueue" in said["internals"]
    assert [one["event"] for one in sink.events("/batch/")] == ["by itself"]


def test_a_flush_ends_when_the_collector_is_down(age: str, sink: Sink) -> None:
    assert run(age, "cases_posthog.collector_down", sink.url) == {"taken": True, "waiting": 1}


def test_without_a_key_nothing_is_sent(age: str, sink: Sink) -> None:
    assert run(age, "cases_posthog.without_a_key", sink.url) == [None, 0]
    assert sink.requests == []


def test_version_one_of_the_protocol(sink: Sink) -> None:
    said = run("newest", "cases_posthog.version_one", sink.url)
    assert said == {"delivered": [1, 1]}
    first, second = sink.of("/i/v1/analytics/events")
    for request in (first, second):
        assert request.headers["authorization"] == "Bearer phc_test"
        assert "api_key" not in request.json()
    assert first.events()[0]["session_id"] == "s"


def test_threads_that_are_greenlets(age: str, sink: Sink) -> None:
    patch = "from gevent import monkey; monkey.patch_all()"
    said = run(age, "cases_posthog.by_gevent", sink.url, first=patch)
    assert said == {"delivered": 2, "consumers": 0}
    assert [one["event"] for one in sink.events("/batch/")] == ["early", "late"]


def test_with_a_spool_a_kill_loses_nothing(sink: Sink, tmp_path: Path) -> None:
    with pytest.raises(Failed, match="-9"):
        run("newest", "cases_posthog.killed", sink.url, str(tmp_path), 5)
    assert sink.requests == []
    assert run("newest", "cases_posthog.killed", sink.url, str(tmp_path), 0) == 5
    assert sorted(one["properties"]["n"] for one in sink.events("/batch/")) == list(range(5))


def test_a_small_queue_is_no_mistake(age: str, sink: Sink) -> None:
    found = run(age, "cases_posthog.small_queue", sink.url)
    assert found == len(sink.events("/batch/") + sink.events("/i/v0/ai/batch/")) > 0
