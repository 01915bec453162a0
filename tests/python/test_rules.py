"""`context`, `redact` and `sample`: what the configuration does to events."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Collector, environment
from libtelemetry import Client, ConfigError

MakeClient = Callable[..., Client]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_kept(text: str, rate: float) -> bool:
    return int(sha256(text)[:16], 16) < rate * 2**64


def test_what_is_redacted_does_not_arrive(make_client: MakeClient, collector: Collector) -> None:
    rules = {
        "password": "mask",
        "user.email": "hash",
        "user.age": "hash",
        "cards.*.number": "remove",
        "**.token": "mask",
        "notes.*": "remove",
    }
    client = make_client(redact=rules)
    event = {
        "password": "hush",
        "user": {"email": "grüße@hush", "age": 44, "name": "a"},
        "cards": [{"number": "hush", "kind": "b"}, {"kind": "c"}],
        "deep": [[{"token": {"hush": 1}}]],
        "notes": ["hush", 1],
    }
    assert client.enqueue(event)
    assert client.flush(60)
    (arrived,) = collector.events()
    assert "hush" not in json.dumps(arrived)
    assert arrived["password"] == "***"
    user = {"email": sha256("grüße@hush"), "age": sha256("44"), "name": "a"}
    assert arrived["user"] == user
    assert arrived["cards"] == [{"kind": "b"}, {"kind": "c"}]
    assert arrived["deep"] == [[{"token": "***"}]]
    assert arrived["notes"] == [None, None]


def test_what_cannot_be_redacted_is_kept_nowhere(
    make_client: MakeClient, collector: Collector, tmp_path: Path
) -> None:
    dead = tmp_path / "dead.ndjson"
    client = make_client(redact={"password": "mask"}, dead_letter=str(dead))
    assert client.enqueue('{"password":"hush"')
    assert client.enqueue({"n": 1})
    assert client.flush(60)
    stats = client.stats()
    assert (stats.invalid, stats.delivered) == (1, 1)
    (line,) = map(json.loads, dead.read_text().splitlines())
    assert line["raw"] is None
    assert "redact" in line["reason"]
    assert "hush" not in dead.read_text()


def test_each_process_has_its_own_context(make_client: MakeClient, collector: Collector) -> None:
    context = {
        "service": "shop",
        "release": {"version": 1.5, "tags": ["a", None]},
        "pid": "$pid",
        "host": "$host",
        "generation": "$generation",
        "left_out": None,
    }
    client = make_client(context=context)
    assert client.enqueue({"n": 1})
    assert client.enqueue({"n": 2, "service": "its own"})
    child = os.fork()
    if child == 0:
        client.enqueue({"n": 3})
        os._exit(0 if client.flush(60) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert client.flush(60)
    arrived = {event["n"]: event for event in collector.events()}
    assert arrived[1]["release"] == context["release"]
    assert "left_out" not in arrived[1]
    assert [arrived[n]["pid"] for n in (1, 2, 3)] == [os.getpid(), os.getpid(), child]
    assert {event["host"] for event in arrived.values()} == {socket.gethostname()}
    assert [arrived[n]["service"] for n in (1, 2, 3)] == ["shop", "its own", "shop"]
    generations = [arrived[n]["generation"] for n in (1, 2, 3)]
    assert generations[0] == generations[1] != generations[2]
    assert all(len(generation) == 16 for generation in generations)


def test_the_properties_of_posthog(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(format="posthog", api_key="k", context={"service": "shop"})
    assert client.enqueue({"event": "a", "distinct_id": "d"})
    assert client.enqueue({"event": "b", "distinct_id": "d", "properties": {"x": 1}})
    assert client.flush(60)
    properties = {event["event"]: event["properties"] for event in collector.events()}
    assert properties == {"a": {"service": "shop"}, "b": {"x": 1, "service": "shop"}}


def test_a_sample_is_decided_by_its_key(make_client: MakeClient, collector: Collector) -> None:
    client = make_client(sample={"rate": 0.25, "key": "trace.id"})
    for n in range(1000):
        assert client.enqueue({"n": n, "trace": {"id": f"t-{n % 100}"}})
    assert client.flush(60)
    kept = [n for n in range(1000) if is_kept(f"t-{n % 100}", 0.25)]
    assert 100 < len(kept) < 400
    assert sorted(event["n"] for event in collector.events()) == kept
    stats = client.stats()
    assert (stats.accepted, stats.sampled_out) == (len(kept), 1000 - len(kept))


def test_the_environment_has_them_too(collector: Collector) -> None:
    code = (
        "import libtelemetry\n"
        "client = libtelemetry.Client()\n"
        "assert client.enqueue({'n': 1, 'secret': 'hush', 'k': 'in'})\n"
        "assert client.enqueue({'n': 2, 'secret': 'hush', 'k': 'out'})\n"
        "assert client.flush(60)"
    )
    assert is_kept("in", 0.4)
    assert not is_kept("out", 0.4)
    env = environment(
        collector.url,
        TELEMETRY_CONTEXT='{"service": "shop"}',
        TELEMETRY_REDACT='{"secret": "mask"}',
        TELEMETRY_SAMPLE_RATE="0.4",
        TELEMETRY_SAMPLE_KEY="k",
    )
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    (arrived,) = collector.events()
    assert (arrived["service"], arrived["secret"]) == ("shop", "***")


def test_a_normal_end_with_a_sample_leaves_no_file(collector: Collector, tmp_path: Path) -> None:
    code = (
        "import libtelemetry\n"
        "sample = {'rate': 0.9, 'key': 'n'}\n"
        "client = libtelemetry.Client(sample=sample, batch={'max_age_ms': 600_000})\n"
        "for n in range(10):\n"
        "    assert client.enqueue({'n': n})\n"
    )
    env = environment(collector.url, TELEMETRY_SPOOL_DIR=str(tmp_path / "spool"))
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    kept = [n for n in range(10) if is_kept(str(n), 0.9)]
    assert sorted(event["n"] for event in collector.events()) == kept
    assert [path.name for path in (tmp_path / "spool").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"context": 5}, ["context", "an object"]),
        ({"context": {"id": 1}}, ["context", "id"]),
        ({"redact": {"a.b": "drop"}}, ["redact", '"a.b"', '"drop"', "mask, hash or remove"]),
        ({"redact": {"a..b": "mask"}}, ["redact", '"a..b"', "keys with dots"]),
        ({"redact": ["a"]}, ["redact", "an array"]),
        ({"sample": 0.5}, ["sample", "rate, key"]),
        ({"sample": {"rate": 1.5}}, ["sample.rate", "1.5", "from 0 to 1"]),
        ({"sample": {"rate": "half"}}, ["sample.rate", "half", "from 0 to 1"]),
        ({"sample": {"key": "a.*"}}, ["sample.key", '"a.*"', "stars"]),
        ({"sample": {"fraction": 1}}, ["sample.fraction", "sample.rate"]),
    ],
)
def test_a_bad_rule_is_named(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(**keys)
    for word in words:
        assert word in str(caught.value)
