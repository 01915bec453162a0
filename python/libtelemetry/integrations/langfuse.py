"""Langfuse's official SDK: scores, media and spans delivered by libtelemetry.

    from langfuse import Langfuse
    import libtelemetry.integrations.langfuse

    langfuse = Langfuse()  # LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY, LANGFUSE_BASE_URL
    libtelemetry.integrations.langfuse.install(langfuse)  # at import, before the fork, is right
    langfuse.create_score(name="helpful", value=1, trace_id=langfuse.create_trace_id())

Methods, validation, sampling and masking are the SDK's. Scores that it would queue go to one
`libtelemetry.Client`, media that it would queue to that client's `upload`, spans when they end to a
second one, so that a process may fork at any time by any means, and the SDK's threads are gone.
What else changes:

- `flush` and `shutdown` wait for the clients, 10 s each at most.
- ``flush_at`` and ``flush_interval`` have no meaning; ``batch`` and ``queue_bytes`` are what the
  clients have.
- Settings that only an ``httpx_client`` of your own has, such as a proxy or certificates, are not
  seen: give ``proxy=`` or ``tls=``.
- Masking of spans and the search for media in them happen where a span ends.
- The thread that refreshes prompts starts when there is a prompt to refresh, in the process that
  needs it, and not with the client.

Not touched: what is a request by nature, such as prompts, datasets and the media of a dataset item.

Works with versions from 3.10 on: up to 4 they send scores to the ingestion route, from 5 to the
route for scores.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import sys
from queue import Full
from typing import Any, NamedTuple

from .._client import Client
from ._sdk import (
    END_SECONDS,
    FLUSH_SECONDS,
    WAKE,
    NativeQueue,
    open_client,
    require,
    retire,
    room_for,
    runs,
    unsupported,
)

_log = logging.getLogger("langfuse")

# What the SDK itself takes.
_EVENT_BYTES = 1_000_000


# Headers of the SDK's span exporter that the library sets itself.
_NOT_OURS = ("content-type", "content-encoding", "user-agent")


class _Shape(NamedTuple):
    """Where a version of the SDK has its scores."""

    queue: str
    consumers: str
    format: str
    path: str


_SCORES = _Shape("_score_queue", "_score_consumers", "langfuse-scores", "/api/public/scores")
_INGESTION = _Shape(
    "_score_ingestion_queue", "_ingestion_consumers", "langfuse", "/api/public/ingestion"
)


def install(langfuse: Any, *, spans: bool = True, **keys: Any) -> Client:
    """Have what `langfuse` reports delivered by libtelemetry; the client for scores and media.

    `langfuse` is a ``langfuse.Langfuse``; all with the same public key share what is changed.
    `keys` are keys of `Client` and win over what the SDK's client says:
    ``spool_dir="/var/spool/app"``. ``endpoint`` and ``format`` are those for scores. Call it right
    after the client is made; what was queued by then is handed over. A second call returns the same
    client and ignores `keys`.

    With `spans`, spans go the same way, through a client of their own, unless you gave the SDK an
    exporter: then, and with ``spans=False``, they stay with OpenTelemetry's batch processor, whose
    thread keeps workers of uWSGI from ending for 30 s.

    An SDK without keys does nothing, and the client that is returned then does nothing either.

    Raises TypeError for anything else, ConfigError for keys that are not accepted, UnsupportedSDK
    if this version of the SDK is not built as expected. Then nothing is changed.
    """
    import langfuse as package

    if not isinstance(langfuse, package.Langfuse):
        raise TypeError(f"install() takes a langfuse.Langfuse, not {type(langfuse).__name__}")
    require("langfuse", langfuse, "_resources")
    resources = langfuse._resources
    if resources is None:
        return Client(disabled=True)
    shape = _SCORES if hasattr(resources, _SCORES.queue) else _INGESTION
    _check(resources, shape)
    queue = getattr(resources, shape.queue)
    if isinstance(queue, NativeQueue):
        return queue.client

    path = _find_spans(resources) if spans else None
    exporter = _span_exporter(path, resources, keys) if path else None
    native = open_client(_settings(resources, shape, keys), keys)
    if getattr(resources, "_custom_httpx_client", None) is not None:
        _log.warning("libtelemetry: the httpx_client is not used for scores; see proxy= and tls=")
    scores = NativeQueue(native, _log, encode=_encoder())
    _replace(resources, shape, scores, _MediaQueue(native, _log))
    if path:
        _take_spans(path, exporter)
    else:
        atexit.register(_flush_spans, resources)
    return native


def _check(resources: Any, shape: _Shape) -> None:
    require("langfuse", resources, shape.queue, shape.consumers, "add_score_task", "shutdown")
    require("langfuse", resources, "public_key", "secret_key", "base_url", "timeout")
    require("langfuse", resources, "_media_upload_queue", "_media_upload_consumers")
    require("langfuse", resources, "_media_manager", "_stop_and_join_consumer_threads")
    require("langfuse", resources._media_manager, "_queue", "_process_upload_media_job")
    require("langfuse", resources, "prompt_cache")
    require("langfuse", resources.prompt_cache, "_task_manager")
    if hasattr(resources, "_at_fork_reinit"):
        # What the SDK's hook calls in a child, and where it finds the class for prompts.
        require("langfuse", resources, "_init_media_manager", "_init_consumer_threads")
        require("langfuse", sys.modules[type(resources).__module__], "PromptCache")


def _settings(resources: Any, shape: _Shape, keys: dict[str, Any]) -> dict[str, Any]:
    """The keys that say the same as the SDK's client."""
    return {
        "endpoint": resources.base_url.rstrip("/") + shape.path,
        "format": shape.format,
        "basic": f"{resources.public_key}:{resources.secret_key}",
        "headers": {
            "x-langfuse-sdk-name": "python",
            "x-langfuse-public-key": resources.public_key,
            **(resources.additional_headers or {}),
        },
        "timeout_ms": int(resources.timeout * 1000) if resources.timeout else None,
        **room_for(_EVENT_BYTES, keys),
    }


def _encoder() -> Any:
    """What the SDK's consumer does with a score before it sends it."""
    try:
        from langfuse._utils.serializer import EventSerializer
    except ImportError as error:
        raise unsupported("langfuse", str(error)) from None

    def encode(score: dict[str, Any]) -> Any:
        body = score.get("body")
        if body is not None and not isinstance(body, dict):
            # A model of pydantic, of version 1 in older ones.
            dump = body.model_dump if hasattr(body, "model_dump") else body.dict
            score = {**score, "body": dump(exclude_none=True)}
        elif body is None and "metadata" not in score:
            return score  # strings, numbers and a time: the client's encoder says the same, faster
        return json.dumps(score, cls=EventSerializer)

    return encode


class _MediaQueue(NativeQueue):
    """Jobs for the SDK's media threads become uploads."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Start the upload. Raises Full, or ValueError for what is no medium; the SDK logs both."""
        names = {
            "contentType": "content_type",
            "field": "field",
            "traceId": "trace_id",
            "observationId": "observation_id",
            "datasetId": "dataset_id",
            "datasetItemId": "dataset_item_id",
        }
        meta = {key: item[name] for key, name in names.items() if item.get(name) is not None}
        if not self.client.upload(meta, item["content_bytes"]):
            raise Full

    def join(self) -> None:
        """Nothing: the SDK waits for the scores first, and that is the same client."""


def _replace(resources: Any, shape: _Shape, scores: NativeQueue, media: _MediaQueue) -> None:
    manager = resources._media_manager
    old_scores, old_media = getattr(resources, shape.queue), resources._media_upload_queue
    score_threads = getattr(resources, shape.consumers)
    media_threads = resources._media_upload_consumers
    exit_hook = resources.shutdown
    for thread in filter(runs, media_threads):
        thread.pause()
        _wake_media(manager, old_media)  # else it waits for up to a second

    put_back = functools.partial(_put, resources, shape, scores, media)
    put_back()
    if hasattr(resources, "_at_fork_reinit"):
        # The SDK's hook makes queues and threads anew in a child. It looks this up on the object.
        resources._init_consumer_threads = put_back
    resources._stop_and_join_consumer_threads = scores.close
    # The client has an exit handler of its own, which waits within its own budget.
    atexit.unregister(exit_hook)
    # First what could send by itself until it is retired.
    retire(score_threads, old_scores, scores, "_upload_batch", "_flush_at")
    retire(media_threads, old_media, media)
    _start_prompts_late(resources)


def _wake_media(manager: Any, queue: Any) -> None:
    if hasattr(manager, "signal_shutdown"):
        manager.signal_shutdown()
        return
    # Older versions have no sign for it, so a job that is none has to do.
    upload = type(manager)._process_upload_media_job

    def unless_woken(*, data: Any) -> None:
        if not WAKE.items() <= data.items():
            upload(manager, data=data)

    manager._process_upload_media_job = unless_woken
    with contextlib.suppress(Full):
        queue.put({**WAKE, "media_id": "", "trace_id": ""}, block=False)


def _put(resources: Any, shape: _Shape, scores: NativeQueue, media: _MediaQueue) -> None:
    setattr(resources, shape.queue, scores)
    setattr(resources, shape.consumers, [])
    resources._media_upload_queue = resources._media_manager._queue = media
    resources._media_upload_consumers = []


class _Spans:
    """In the place of OpenTelemetry's batch processor: each span goes to the exporter when it ends.

    That exporter is the SDK's own chain, for masking and media, with ours at its end, which only
    enqueues.
    """

    def __init__(self, exporter: Any, client: Client) -> None:
        self._exporter = exporter
        self.client = client

    def emit(self, span: Any) -> None:
        """Export it. Never raises."""
        try:
            self._exporter.export([span])
        except Exception:
            _log.exception("libtelemetry: a span could not be exported")

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Deliver what waits."""
        limit = FLUSH_SECONDS if timeout_millis is None else timeout_millis / 1000
        return self.client.flush(min(limit, FLUSH_SECONDS))

    def shutdown(self, timeout_millis: float | None = None) -> None:
        """End the chain."""
        self._exporter.shutdown()


def _provider(resources: Any) -> Any:
    from opentelemetry import trace

    return getattr(resources, "tracer_provider", None) or trace.get_tracer_provider()


class _SpanPath(NamedTuple):
    """The way of the SDK's spans, through an exporter that changes them to the one that sends."""

    processor: Any
    batches: Any
    outer: Any
    last: Any
    headers: dict[str, str]


def _find_spans(resources: Any) -> _SpanPath | None:
    """None where the way is not the one that the SDK makes by itself: an exporter of the user's,
    tracing disabled, or a version of OpenTelemetry that is built differently.
    """
    from langfuse._client import span_processor
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    multi = getattr(_provider(resources), "_active_span_processor", None)
    for processor in getattr(multi, "_span_processors", ()):
        if (
            not isinstance(processor, span_processor.LangfuseSpanProcessor)
            or processor.public_key != resources.public_key
        ):
            continue
        batches = getattr(processor, "_batch_processor", None)
        outer, last = None, getattr(batches, "_exporter", None)
        if type(last).__name__ == "LangfuseTransformingSpanExporter":
            outer, last = last, getattr(last, "_exporter", None)
        names = ("_queue", "_worker_thread", "shutdown", "emit", "force_flush")
        if type(last) is not OTLPSpanExporter or not all(hasattr(batches, name) for name in names):
            return None
        # Newer exporters have a client that has them.
        owner = last if hasattr(last, "_headers") else getattr(last, "_client", None)
        headers = getattr(owner, "_headers", None)
        if not headers or not hasattr(last, "_endpoint"):
            return None
        return _SpanPath(processor, batches, outer, last, dict(headers))
    return None


def _span_exporter(path: _SpanPath, resources: Any, keys: dict[str, Any]) -> Any:
    from .opentelemetry import SpanExporter

    mine = {key: value for key, value in keys.items() if key not in ("endpoint", "format")}
    if "name" in mine:
        mine["name"] += "-spans"
    theirs = {key: value for key, value in path.headers.items() if key.lower() not in _NOT_OURS}
    mine["headers"] = {**theirs, **(keys.get("headers") or {})}
    timeout = int(resources.timeout * 1000) if resources.timeout else None
    return SpanExporter(path.last._endpoint, **{"timeout_ms": timeout, **mine})


def _take_spans(path: _SpanPath, ours: Any) -> None:
    if path.outer is not None:
        path.outer._exporter = ours
    new = _Spans(path.outer or ours, ours.client)
    path.processor._batch_processor = new
    if runs(path.batches._worker_thread):
        while path.batches._queue:
            new.emit(path.batches._queue.pop())
        path.batches._exporter = path.last  # its end must not be that of ours
        path.batches.shutdown()


def _flush_spans(resources: Any) -> None:
    """What else the SDK does at exit."""
    provider = _provider(resources)
    if hasattr(provider, "force_flush"):
        provider.force_flush()


class _Prompts:
    """The SDK's task manager for prompts, made in the process that needs it.

    The SDK's own starts a thread with the client, and waits for that thread at exit: for ever, in a
    child whose fork Python was not told of.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._here: tuple[int, Any] = (0, None)

    def __getattr__(self, name: str) -> Any:
        pid, manager = self._here
        if pid != os.getpid():
            manager = self._kind()
            atexit.unregister(manager.shutdown)  # its thread ends with the process
            self._here = (os.getpid(), manager)
        return getattr(manager, name)


def _start_prompts_late(resources: Any) -> None:
    tasks = resources.prompt_cache._task_manager
    if not isinstance(tasks, _Prompts):
        atexit.unregister(tasks.shutdown)
        running = list(filter(runs, tasks._consumers))
        for thread in running:
            thread.pause()
            tasks._queue.put(_nothing)  # to wake it
        for thread in running:
            thread.join(END_SECONDS)
        resources.prompt_cache._task_manager = _Prompts(type(tasks))
    module = sys.modules[type(resources).__module__]
    if hasattr(resources, "_at_fork_reinit") and not isinstance(module.PromptCache, _PromptCaches):
        # The hook makes a cache anew, and looks its class up here: the same for all clients.
        module.PromptCache = _PromptCaches(module.PromptCache)  # type: ignore[attr-defined] # above


def _nothing() -> None:
    pass


class _PromptCaches:
    """In the place of the SDK's class for caches: makes them without a thread."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __call__(self) -> Any:
        cache = self._kind(max_prompt_refresh_workers=0)
        atexit.unregister(cache._task_manager.shutdown)
        cache._task_manager = _Prompts(type(cache._task_manager))
        return cache
