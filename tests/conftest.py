"""Fixtures of the Python and server tests: a real collector, and clients of the real library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import harness

os.environ.setdefault("LIBTELEMETRY_PATH", str(harness.LIBRARY))
for _name in [name for name in os.environ if name.startswith("TELEMETRY_")]:
    if _name != "TELEMETRY_BIN":
        del os.environ[_name]  # the library would take it for configuration

from libtelemetry import Client  # noqa: E402

CI = os.environ.get("CI") == "true"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """With CI=true a missing part is a failure, not a skipped test."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI=true forbids: {report.longrepr}"
    return report


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[harness.Collector]:
    """`telemetry collect` on a port of its own."""
    with harness.Collector(tmp_path) as running:
        yield running


@pytest.fixture
def make_client(collector: harness.Collector) -> Iterator[Callable[..., Client]]:
    """Opens clients of the collector, and shuts them down at the end."""
    made: list[Client] = []

    def make(endpoint: str | None = None, **keys: Any) -> Client:
        made.append(Client(endpoint or collector.url, **keys))
        return made[-1]

    yield make
    for client in made:
        client.shutdown(0)


@pytest.fixture
def client(make_client: Callable[..., Client]) -> Client:
    """One client with default settings."""
    return make_client()
