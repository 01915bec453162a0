"""The examples in the adapters' documentation do what they say."""

from __future__ import annotations

import pytest

from sdk_kit import run
from sink import Sink

EXAMPLES = {
    "posthog": ("/batch/", "event", "signup"),
    "segment": ("/v1/batch", "event", "signup"),
    "langfuse": ("/api/public/scores", "name", "helpful"),
}


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_example_works(module: str, sink: Sink) -> None:
    path, key, value = EXAMPLES[module]
    env = {
        "LANGFUSE_PUBLIC_KEY": "pk-test",
        "LANGFUSE_SECRET_KEY": "sk-test",
        "LANGFUSE_BASE_URL": sink.url,
    }
    assert "install(" in run("newest", "cases_examples.example", module, sink.url, **env)
    assert [event[key] for event in sink.events(path)] == [value]
