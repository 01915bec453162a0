"""What `Client` promises, against the real library and a real collector."""

from __future__ import annotations

import copy
import inspect
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import PATIENCE, Collector, free_port
from libtelemetry import Client, Stats

MakeClient = Callable[..., Client]


def assert_books_balance(stats: Stats) -> None:
    done = stats.delivered + stats.rejected + stats.invalid + stats.expired
    assert stats.accepted + stats.recovered == done + stats.queue_events, stats


@pytest.mark.parametrize(
    "event",
    [
        {"n": 1, "text": "grüße"},
        '{"n": 1, "text": "grüße"}',
        '{"n": 1, "text": "grüße"}'.encode(),
        bytearray('{"n": 1, "text": "grüße"}'.encode()),
        memoryview('..{"n": 1, "text": "grüße"}'.encode())[2:],
        memoryview('{"n": 1, "text": "grüße"}'.encode()[::-1])[::-1],
    ],
    ids=["dict", "str", "bytes", "bytearray", "memoryview", "memoryview not contiguous"],
)
def test_every_accepted_type_arrives(event: Any, client: Client, collector: Collector) -> None:
    assert client.enqueue(event) is True
    assert client.flush(60) is True
    (arrived,) = collector.events()
    assert (arrived["n"], arrived["text"]) == (1, "grüße")
    assert arrived["id"]
    assert arrived["timestamp"].endswith("Z")


@pytest.mark.parametrize("event", [None, 5, 1.5, ["list"], ("a", "b"), {"a set"}, object()])
def test_another_type_is_a_type_error(event: Any, client: Client) -> None:
    with pytest.raises(TypeError, match="dict, str, bytes"):
        client.enqueue(event)
    assert client.stats().accepted == 0


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 200_000])
def test_lengths_around_those_that_are_prepared(
    size: int, client: Client, collector: Collector
) -> None:
    text = "x" * size
    assert client.enqueue(b'{"t":"%s"}' % text.encode())
    assert client.flush(60)
    assert [event["t"] for event in collector.events()] == [text]


def test_counters_tell_the_whole_story(client: Client, collector: Collector) -> None:
    for n in range(1000):
        assert client.enqueue({"n": n})
    assert client.flush(60)
    stats = client.stats()
    assert stats.accepted == stats.delivered == 1000
    assert stats.queue_events == stats.queue_bytes == stats.dropped_full == stats.invalid == 0
    assert 1 <= stats.batches <= 1000
    assert stats.bytes_in >= 1000 * len('{"n":0}')
    assert abs(time.time() * 1000 - stats.last_success_unix_ms) < 3_600_000
    assert_books_balance(stats)
    assert sorted(event["n"] for event in collector.events()) == list(range(1000))


def test_events_go_out_by_themselves(client: Client, collector: Collector) -> None:
    client.enqueue({"n": 1})
    collector.wait_unique(1)
    assert collector.stats()["unique"] == 1


def test_text_that_is_not_json_is_counted_and_hurts_nobody(
    client: Client, collector: Collector
) -> None:
    bad = ["not json", "", "{", '{"a":1} x', b"\xff\xfe", b'{"t":"\xff"}', "\0", '{"a":NaN}']
    for event in bad:
        client.enqueue(event)
        assert client.enqueue({"good": True})
    assert client.flush(60)
    stats = client.stats()
    assert stats.delivered == len(bad)
    assert stats.accepted - stats.delivered == stats.invalid
    assert stats.invalid >= len(bad) - 1, "an empty event may be refused at once"
    assert all(event["good"] for event in collector.events())
    assert_books_balance(stats)


def test_too_large_is_false_and_counted(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(max_event_bytes=1000)
    assert client.enqueue(b'"%s"' % (b"x" * 2000)) is False
    assert client.enqueue({"n": 1}) is True
    assert client.flush(60)
    assert client.stats().dropped_too_large == 1
    assert collector.stats()["unique"] == 1


def test_a_full_queue_is_false_at_once_and_counted(
    make_client: MakeClient, collector: Collector
) -> None:
    collector.fault("503")
    # One that waited for room would wait for all of that time.
    client = make_client(
        queue_bytes=262144, segment_bytes=65536, max_event_bytes=10000, block_timeout_ms=600_000
    )
    event = b'{"text":"%s"}' % (b"x" * 1000)
    start, taken = time.monotonic(), []
    while len(taken) < 1000 and time.monotonic() - start < PATIENCE:
        taken.append(client.enqueue(event))
    assert len(taken) == 1000
    assert taken[0] is True
    assert taken[-1] is False
    stats = client.stats()
    assert stats.accepted == taken.count(True)
    assert stats.dropped_full == taken.count(False)
    collector.fault("")
    assert client.flush(60)
    assert client.enqueue(event), "there is room again"
    assert client.flush(60)
    assert collector.stats()["unique"] == taken.count(True) + 1
    assert_books_balance(client.stats())


def test_after_shutdown(client: Client, collector: Collector) -> None:
    assert client.enqueue({"n": 1})
    assert client.shutdown(60) is True
    assert client.enqueue({"n": 2}) is False
    assert client.enqueue(b"{}") is False
    assert client.flush(60) is True
    assert client.shutdown(60) is True, "again is fine"
    assert client.stats().delivered == 1
    assert len(collector.events()) == 1


class Patient(Client):
    """One whose default deadlines are longer than a busy machine needs."""

    def shutdown(self, timeout: float | None = PATIENCE) -> bool:
        """As ever."""
        return super().shutdown(timeout)


def test_default_deadlines() -> None:
    for method in (Client.flush, Client.shutdown):
        assert inspect.signature(method).parameters["timeout"].default == 5.0


def test_the_context_manager_shuts_down(collector: Collector) -> None:
    with Patient(collector.url) as client:
        assert client.enqueue({"n": 1})
    assert client.enqueue({"n": 2}) is False
    assert len(collector.events()) == 1


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_timeout_that_makes_no_sense(timeout: float, client: Client) -> None:
    for call in (client.flush, client.shutdown):
        with pytest.raises(ValueError, match="timeout"):
            call(timeout)


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e30, 10**12, 5])
def test_long_timeouts_return_when_done(timeout: float, client: Client) -> None:
    client.enqueue({"n": 1})
    assert client.flush(timeout) is True


def test_an_unreachable_host_costs_no_more_than_the_deadline(make_client: MakeClient) -> None:
    client = make_client(f"http://127.0.0.1:{free_port()}", timeout_ms=3_600_000)
    assert client.enqueue({"n": 1})
    for call in (client.flush, client.shutdown):
        start = time.monotonic()
        assert call(0.3) is False
        assert time.monotonic() - start < PATIENCE
    assert client.stats().delivered == 0


def test_a_stalled_collector_costs_no_more_than_the_deadline(
    make_client: MakeClient, collector: Collector
) -> None:
    """Which is much less than the request may take."""
    collector.fault("stall")
    client = make_client(timeout_ms=3_600_000)
    client.enqueue({"n": 1})
    start = time.monotonic()
    assert client.flush(0.3) is False
    assert client.shutdown(0.3) is False
    assert time.monotonic() - start < PATIENCE


@pytest.mark.parametrize("fault", ["500@2", "429=0@1", "cut@1", "refuse@1", "503@1"])
def test_a_fault_that_passes_loses_nothing(
    fault: str, make_client: MakeClient, collector: Collector
) -> None:
    client = make_client(retry={"initial_ms": 10, "max_ms": 100})
    collector.fault(fault)
    for n in range(20):
        assert client.enqueue({"n": n})
    assert client.flush(60)
    assert sorted(event["n"] for event in collector.events()) == list(range(20))
    assert client.stats().retries >= 1


def test_a_lost_answer_repeats_the_same_ids(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(retry={"initial_ms": 10, "max_ms": 100})
    collector.fault("lost@1")
    for n in range(20):
        assert client.enqueue({"n": n})
    assert client.flush(60)
    stats = collector.stats()
    assert stats["unique"] == 20
    assert stats["received"] - stats["unique"] == stats["duplicates"] > 0


def test_two_clients_do_not_disturb_each_other(
    client: Client, collector: Collector, make_client: MakeClient, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with Collector(tmp_path / "other") as other:
        stalled, healthy = make_client(other.url), client
        other.fault("stall")
        for n in range(100):
            assert stalled.enqueue({"to": "other", "n": n})
            assert healthy.enqueue({"to": "first", "n": n})
        assert healthy.flush(60)
        assert {event["to"] for event in collector.events()} == {"first"}
        assert stalled.flush(0.1) is False
        assert stalled.shutdown(0.1) is False
        assert healthy.enqueue({"to": "first", "n": 100})
        assert healthy.flush(60)
        assert healthy.stats().delivered == 101


def test_pickling_is_the_same_client_here(client: Client) -> None:
    assert pickle.loads(pickle.dumps(client)) is client
    assert copy.copy(client) is client
    assert copy.deepcopy({"client": client})["client"] is client


def test_pickling_elsewhere_is_a_client_of_the_same_configuration(collector: Collector) -> None:
    original = Patient(collector.url, max_event_bytes=1000, batch={"max_events": 7})
    data = pickle.dumps(original)
    original.shutdown()
    del original
    with pickle.loads(data) as again:
        assert again.enqueue({"n": 1})
        assert again.enqueue({"n": "x" * 2000}) is False
    assert collector.stats()["unique"] == 1


def test_repr_shows_no_credentials(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(
        collector.url.replace("//", "//user:secret@"), api_key="hidden", headers={"x": "hidden"}
    )
    assert "secret" not in repr(client)
    assert "hidden" not in repr(client)
    assert "127.0.0.1" in repr(client)
