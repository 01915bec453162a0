"""Langfuse's SDK with the adapter: what it sends is what it would send by itself."""

from __future__ import annotations

import base64
import re
from typing import Any

from sdk_kit import AGES, run
from sink import Sink

SCORES = {"newest": "/api/public/scores", "year-old": "/api/public/ingestion"}
SPANS = "/api/public/otel/v1/traces"
MEDIA = "/api/public/media"


def scores(sink: Sink, age: str) -> list[dict[str, Any]]:
    """The score in each event."""
    events = sink.events(SCORES[age])
    return events if age == "newest" else [event["body"] for event in events]


def spans(sink: Sink, age: str) -> list[dict[str, Any]]:
    """The spans that came."""
    found: list[dict[str, Any]] = run(age, "cases_langfuse.decode", span_bodies(sink))
    return found


def span_bodies(sink: Sink) -> list[str]:
    """The requests with spans, in base64."""
    return [base64.b64encode(one.body).decode() for one in sink.of(SPANS)]


def plain(value: Any) -> Any:
    """`value` without what differs from run to run."""
    volatile = ("timestamp", "spanId", "parentSpanId", "startTimeUnixNano", "endTimeUnixNano")
    if isinstance(value, dict):
        # The order of attributes says nothing.
        return {key: plain(one) for key, one in sorted(value.items()) if key not in volatile}
    if isinstance(value, list):
        return sorted((plain(one) for one in value if not of_process(one)), key=str)
    return value


def of_process(attribute: Any) -> bool:
    """Whether it is the id that OpenTelemetry gives each process."""
    return isinstance(attribute, dict) and attribute.get("key") == "service.instance.id"


def test_it_sends_what_the_sdk_sends(age: str, sink: Sink) -> None:
    said, found = {}, {}
    for adapted in (False, True):
        said[adapted] = run(age, "cases_langfuse.methods", sink.url, adapted)
        these = scores(sink, age)
        for score in these:
            if score["name"] == "in span":
                assert re.fullmatch("[0-9a-f]{16}", score.pop("id"))
                assert re.fullmatch("[0-9a-f]{16}", score.pop("observationId"))
            assert score.pop("timestamp", age)
        media = []
        for request in sink.of(MEDIA):
            # Some versions of the SDK write out what is null.
            said_of = {key: one for key, one in request.json().items() if one is not None}
            assert said_of.pop("observationId")
            media.append(said_of)
        puts = [one for one in sink.requests if one.method == "PUT"]
        patches = [one for one in sink.requests if one.method == "PATCH"]
        found[adapted] = {
            "scores": plain(these),
            "spans": span_bodies(sink),
            "media": plain(media),
            "bytes": sorted((one.path, one.body) for one in puts),
            "patched": sorted(one.path for one in patches),
        }
        headers = {
            one.headers["authorization"] for one in sink.requests if one.method in ("POST", "PATCH")
        }
        assert headers == {"Basic " + base64.b64encode(b"pk-test:sk-test").decode()}
        assert {one.headers["x-own"] for one in sink.of(SCORES[age])} == {"1"}
        assert not any("authorization" in one.headers for one in puts)
        if adapted:
            validated(sink, age)
        sink.requests.clear()
    for one in found.values():
        one["spans"] = plain(run(age, "cases_langfuse.decode", one["spans"]))
    for what in found[True]:
        assert found[True][what] == found[False][what], what
    assert len(found[True]["scores"]) == 5
    assert {one["name"] for one in found[True]["spans"]} == {"outer", "inner"}
    assert len(found[True]["media"]) == 2
    assert said[True]["threads"] == []
    assert said[True]["stats"]["accepted"] == said[True]["stats"]["delivered"] == 5


def validated(sink: Sink, age: str) -> None:
    """What was sent fits the models of the SDK's own API."""
    kind = "scores" if age == "newest" else "ingestion"
    bodies = [[kind, one.json()] for one in sink.of(SCORES[age])]
    bodies += [["media", one.json()] for one in sink.of(MEDIA)]
    bodies += [["patch", one.json()] for one in sink.requests if one.method == "PATCH"]
    assert len(bodies) >= 5
    assert run(age, "cases_langfuse.validate", bodies) == len(bodies)


def test_what_was_queued_before_arrives_once(age: str, sink: Sink) -> None:
    said = run(age, "cases_langfuse.taking_over", sink.url)
    assert said == {"threads": [], "same": True, "waiting": 0}
    assert sorted(int(one["value"]) for one in scores(sink, age)) == list(range(121))
    assert [one["name"] for one in spans(sink, age)] == ["early"]
    assert len([one for one in sink.requests if one.method == "PUT"]) == 1


def test_children_have_no_thread_and_deliver(age: str, sink: Sink) -> None:
    assert run(age, "cases_langfuse.children", sink.url) == [[], "[]", "[]"]
    who = ["child", "child", "master"]
    assert sorted(one["name"] for one in scores(sink, age)) == who
    assert sorted(one["name"] for one in spans(sink, age)) == who
    puts = sorted(one.body.decode() for one in sink.requests if one.method == "PUT")
    assert puts == who


def test_prompts_are_refreshed_where_they_are_needed(age: str, sink: Sink) -> None:
    said = run(age, "cases_langfuse.prompts", sink.url)
    assert said[0] == []
    assert [len(one.split(",")) for one in said[1:]] == [1, 1], said
    assert len(sink.of("/api/public/v2/prompts/p", "GET")) >= 3


def test_what_cannot_be_installed_changes_nothing(age: str, sink: Sink) -> None:
    said = run(age, "cases_langfuse.refusals", sink.url)
    version = next(AGES[age].glob("langfuse-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    assert said["no client"].startswith("TypeError")
    assert said["key"].startswith("ConfigError")
    assert "retries" in said["key"]
    assert said["internals"].startswith("UnsupportedSDK")
    assert f"langfuse {version}" in said["internals"]
    assert "_stop_and_join_consumer_threads" in said["internals"]
    assert [one["name"] for one in scores(sink, age)] == ["by itself"]


def test_a_flush_ends_when_the_collector_is_down(age: str, sink: Sink) -> None:
    assert run(age, "cases_langfuse.collector_down", sink.url) == {"waiting": 1}


def test_spans_stay_where_they_are_asked_to(age: str, sink: Sink) -> None:
    said = run(age, "cases_langfuse.own_exporter", sink.url)
    assert said == {"threads": ["OtelBatchSpanRecordProcessor"], "accepted": 1}
    assert [one["name"] for one in spans(sink, age)] == ["by OpenTelemetry"]


def test_without_keys_nothing_is_sent(age: str, sink: Sink) -> None:
    assert run(age, "cases_langfuse.without_keys", sink.url) == [0]
    assert sink.requests == []


def test_long_prompts_arrive(age: str, sink: Sink) -> None:
    sizes = [300_000, 3_000_000]
    assert run(age, "cases_langfuse.long_prompts", sink.url, sizes) == [2, 2]
    found = {one["name"] for one in spans(sink, age)}
    assert found == {f"prompt of {size}" for size in sizes}
