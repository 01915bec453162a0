"""What a program does with Langfuse's SDK, by itself or with the adapter."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import sys
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from langfuse import Langfuse
from langfuse._client.resource_manager import LangfuseResourceManager
from langfuse.media import LangfuseMedia

from libtelemetry.integrations import _sdk
from libtelemetry.integrations.langfuse import install

PNG = b"\x89PNG\r\n" + bytes(range(256)) * 10
TRACE = "0123456789abcdef" * 2


def make(host: str, **options: Any) -> Langfuse:
    """A client of the SDK."""
    return Langfuse(public_key="pk-test", secret_key="sk-test", host=host, **options)


def names() -> list[str]:
    """The Python threads of this process, but the first."""
    return [one.name for one in threading.enumerate() if one is not threading.main_thread()]


@dataclass
class Detail:
    """What only the SDK knows how to write as JSON."""

    why: str
    when: datetime


def methods(host: str, adapted: bool) -> dict[str, Any]:
    """Scores of every kind, spans, and media in them."""
    client = make(host, environment="test", additional_headers={"X-Own": "1"})
    native = install(client) if adapted else None
    detail = Detail('\u00e9\u4e2d\U0001f600 \\"', datetime(2026, 11, 21, tzinfo=timezone.utc))
    client.create_score(name="plain", value=1, score_id="s-1")
    client.create_score(
        name="full",
        value=0.5,
        trace_id=TRACE,
        observation_id="0123456789abcdef",
        score_id="s-2",
        data_type="NUMERIC",
        comment="because" * 100_000,
        config_id="c-1",
        metadata={"detail": detail, "set": {1}, "bytes": b"x", "nan": float("nan"), "none": None},
    )
    client.create_score(name="yes", value=True, data_type="BOOLEAN", session_id="x", score_id="s-3")
    client.create_score(name="mood", value="good", data_type="CATEGORICAL", score_id="s-4")
    picture = LangfuseMedia(content_bytes=PNG, content_type="image/png")
    uri = "data:text/plain;base64," + base64.b64encode(b"as a URI").decode()
    with client.start_as_current_observation(
        name="outer", input={"picture": picture, "n": 1}, trace_context={"trace_id": TRACE}
    ) as span:
        client.score_current_span(name="in span", value=2.0)
        with client.start_as_current_observation(name="inner", as_type="generation") as inner:
            inner.update(output={"uri": uri}, model="m-1", metadata={"k": "v"})
        span.update(output="done")
    client.flush()
    during = names()
    client.shutdown()
    client.create_score(name="late", value=1)
    return {"threads": during, "stats": native.stats()._asdict() if native else {}}


def taking_over(host: str) -> dict[str, Any]:
    """What was queued before the adapter came, some of it in the SDK's threads already."""
    client = make(host, flush_at=50, flush_interval=30)
    for n in range(120):
        client.create_score(name="early", value=n)
    picture = LangfuseMedia(content_bytes=PNG, content_type="image/png")
    with client.start_as_current_observation(name="early", input=picture):
        pass
    native = install(client)
    again = install(make(host), endpoint="http://127.0.0.1:1")  # the same public key
    client.create_score(name="late", value=120)
    client.flush()
    return {"threads": names(), "same": native is again, "waiting": native.stats().queue_events}


def children(host: str) -> list[Any]:
    """Forks by `os.fork` and by C, which tells Python nothing; the threads of each."""
    client = make(host)
    install(client)
    found: list[Any] = []

    def report(who: str) -> None:
        client.create_score(name=who, value=1)
        with client.start_as_current_observation(name=who, input=picture(who)):
            pass
        client.flush()

    def picture(who: str) -> LangfuseMedia:
        return LangfuseMedia(content_bytes=who.encode(), content_type="text/plain")

    report("master")
    found.append(names())
    for fork in (os.fork, ctypes.PyDLL(None).fork):
        reader, writer = os.pipe()
        if not fork():
            report("child")
            os.write(writer, repr(names()).encode())
            # Not os._exit: what runs at exit must not wait for threads that are not there.
            sys.exit()
        os.wait()
        found.append(os.read(reader, 1000).decode())
    client.shutdown()
    return found


def prompts(host: str) -> list[Any]:
    """A prompt that is stale is refreshed by a thread, in the process that needs it."""
    client = make(host)
    install(client)
    client.get_prompt("p", cache_ttl_seconds=1)
    found: list[Any] = [names()]
    stale(client)
    for fork in (os.fork, ctypes.PyDLL(None).fork):
        reader, writer = os.pipe()
        if not fork():
            client.get_prompt("p")
            stale(client)
            client.get_prompt("p")
            client._resources.prompt_cache._task_manager._queue.join()
            os.write(writer, repr(names()).encode())
            sys.exit()
        os.wait()
        found.append(os.read(reader, 1000).decode())
    return found


def stale(client: Any) -> None:
    """Make every prompt older than it may be."""
    for item in client._resources.prompt_cache._cache.values():
        item._expiry = 0


def refusals(host: str) -> dict[str, str]:
    """What cannot be installed, and that nothing is changed then: the SDK goes on by itself."""
    said: dict[str, str] = {}
    client = make(host)

    def attempt(name: str, target: Any, **keys: Any) -> None:
        before = dict(vars(client._resources))
        threads = names()
        try:
            install(target, **keys)
            said[name] = "accepted"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
        after = vars(client._resources)
        assert all(after[key] is before[key] for key in before), name
        assert names() == threads, name

    attempt("no client", "pk-test")
    attempt("key", client, retries=3)
    method = LangfuseResourceManager._stop_and_join_consumer_threads
    del LangfuseResourceManager._stop_and_join_consumer_threads
    attempt("internals", client)
    LangfuseResourceManager._stop_and_join_consumer_threads = method
    client.create_score(name="by itself", value=1)
    client.shutdown()
    return said


def collector_down(host: str) -> dict[str, Any]:
    """Nothing waits for ever."""
    _sdk.FLUSH_SECONDS = 0.2
    client = make("http://127.0.0.1:1")
    native = install(client, exit_timeout_ms=100)
    client.create_score(name="lost", value=1)
    client.flush()
    waiting = native.stats().queue_events
    client.shutdown()
    return {"waiting": waiting}


def own_exporter(host: str) -> dict[str, Any]:
    """Spans stay where the user has them, and where they are asked to."""
    client = make(host, flush_interval=60)
    native = install(client, spans=False)
    with client.start_as_current_observation(name="by OpenTelemetry"):
        pass
    client.create_score(name="by us", value=1)
    client.flush()
    return {"threads": names(), "accepted": native.stats().accepted}


def without_keys(host: str) -> list[int]:
    """A client that the SDK disables: nothing is sent, nothing is raised."""
    client = Langfuse(host=host)
    native = install(client)
    client.create_score(name="nowhere", value=1)
    client.flush()
    return [native.stats().accepted]


def validate(bodies: list[list[Any]]) -> int:
    """Parse each (kind, body) with the models of the SDK's own API; raises if one does not fit."""
    for kind, body in bodies:
        _validators()[kind](body)
    return len(bodies)


def _validators() -> dict[str, Any]:
    try:
        from langfuse.api.core.pydantic_utilities import parse_obj_as
        from langfuse.api.media.types import GetMediaUploadUrlRequest, PatchMediaBody
        from langfuse.api.scores.types import CreateScoresRequest
    except ImportError:
        return _old_validators()

    def fit(model: Any) -> Any:
        def check(body: Any) -> None:
            found = parse_obj_as(model, body)
            for one in found if isinstance(found, list) else [found]:
                assert not one.model_extra, f"unknown to the API: {one.model_extra}"

        return check

    return {
        "scores": fit(CreateScoresRequest),
        "media": fit(GetMediaUploadUrlRequest),
        "patch": fit(PatchMediaBody),
    }


def _old_validators() -> dict[str, Any]:
    from langfuse.api.resources.ingestion.types import IngestionEvent_ScoreCreate, ScoreBody
    from langfuse.api.resources.media.types import GetMediaUploadUrlRequest, PatchMediaBody

    def fit(model: Any) -> Any:
        def check(body: dict[str, Any]) -> None:
            known = {field.alias for field in model.__fields__.values()}
            assert set(body) <= known, f"unknown to the API: {set(body) - known}"
            model.parse_obj(body)

        return check

    def ingestion(body: dict[str, Any]) -> None:
        for event in body["batch"]:
            fit(IngestionEvent_ScoreCreate)(event)
            fit(ScoreBody)(event["body"])

    return {
        "ingestion": ingestion,
        "media": fit(GetMediaUploadUrlRequest),
        "patch": fit(PatchMediaBody),
    }


def decode(requests: list[str]) -> list[dict[str, Any]]:
    """The spans in OTLP requests given in base64, by OpenTelemetry's own classes."""
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found = []
    for text in requests:
        message = ExportTraceServiceRequest.FromString(base64.b64decode(text))
        for resource in MessageToDict(message)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    found.append(
                        {**span, "scope": scope["scope"], "resource": resource["resource"]}
                    )
    return json.loads(json.dumps(found))  # type: ignore[no-any-return] # JSON is Any


def long_prompts(host: str, sizes: list[int]) -> list[int]:
    """Spans with inputs of those sizes; with keys that leave less room, the client opens, too."""
    accepted = []
    for keys in ({}, {"queue_bytes": 1 << 20}):
        client = make(host)
        native = install(client, spans=not keys, **keys)
        for size in () if keys else sizes:
            with client.start_as_current_observation(name=f"prompt of {size}") as span:
                span.update(input="x" * size)
        for _ in sizes:
            client.create_score(name="short", value=1)
        client.flush()
        client.shutdown()
        accepted.append(native.stats().accepted)
        LangfuseResourceManager.reset()
    return accepted
