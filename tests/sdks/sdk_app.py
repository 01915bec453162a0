"""A WSGI application with three official SDKs, all made and adapted at import: in the master.

SDK_HOST is where the SDKs believe their services to be. Not a word about forks follows.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterable
from typing import Any, Callable
from urllib.parse import parse_qs

from langfuse import Langfuse
from posthog import Posthog
from segment.analytics.client import Client as Segment

import libtelemetry.integrations._sdk
import libtelemetry.integrations.langfuse
import libtelemetry.integrations.posthog
import libtelemetry.integrations.segment

HOST = os.environ["SDK_HOST"]
libtelemetry.integrations._sdk.FLUSH_SECONDS = 60.0  # for a busy machine

posthog = Posthog("phc_test", host=HOST)
segment = Segment("wk_test", host=HOST)
langfuse = Langfuse(public_key="pk-test", secret_key="sk-test", host=HOST)

_numbers = itertools.count()


def emit(count: int) -> list[list[int]]:
    """Report `count` events by each SDK; [pid, seq] of each that was taken."""
    accepted = []
    for _ in range(count):
        for report in (by_posthog, by_segment, by_langfuse):
            mark = {"pid": os.getpid(), "seq": next(_numbers)}
            if report(mark):
                accepted.append([mark["pid"], mark["seq"]])
    return accepted


def by_posthog(mark: dict[str, int]) -> bool:
    """Whether the SDK says that it has queued it."""
    return posthog.capture("request", distinct_id="w-1", properties=mark) is not None


def by_segment(mark: dict[str, int]) -> bool:
    """Whether the SDK says that it has queued it."""
    taken: bool = segment.track("w-1", "request", mark)[0]
    return taken


def by_langfuse(mark: dict[str, int]) -> bool:
    """True: this SDK does not say."""
    langfuse.create_score(name="ok", value=1, trace_id="0" * 31 + "1", metadata=mark)
    return True


# Queued before the adapters are there, by the SDKs' own threads' queues.
EARLY = emit(1)

clients = [
    libtelemetry.integrations.posthog.install(posthog),
    libtelemetry.integrations.segment.install(segment),
    libtelemetry.integrations.langfuse.install(langfuse),
]

STARTUP = EARLY + emit(4)


def threads() -> list[str]:
    """The Python threads of this process besides the one that answers."""
    others = [one for one in threading.enumerate() if one is not threading.current_thread()]
    return [f"{type(one).__module__}.{type(one).__name__} {one.name}" for one in others]


MASTER_THREADS = threads()


def flush() -> list[bool]:
    """By the SDKs' own methods; whether nothing waits any more."""
    posthog.flush()
    segment.flush()
    langfuse.flush()
    return [client.stats().queue_events == 0 for client in clients]


def answer(path: str, query: str) -> Any:
    """What each path reports, as JSON."""
    args = {key: values[-1] for key, values in parse_qs(query).items()}
    if path == "/emit":
        return emit(int(args.get("n", "1")))
    if path == "/startup":
        return STARTUP
    if path == "/threads":
        return {"pid": os.getpid(), "master": MASTER_THREADS, "worker": threads()}
    if path == "/flush":
        return flush()
    return [client.stats()._asdict() for client in clients]


def application(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    """The WSGI entry point."""
    result = answer(environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
    body = json.dumps(result).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]
