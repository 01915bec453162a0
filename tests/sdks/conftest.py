"""Fixtures of the tests with official SDKs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sdk_kit import AGES, SdkCollector
from sink import Sink


@pytest.fixture(params=AGES)
def age(request: pytest.FixtureRequest) -> str:
    """Which of the two sets of SDKs."""
    name: str = request.param
    if not (AGES[name] / ".installed").exists():
        pytest.skip(f"{AGES[name]} is missing: run tests/setup.sh")
    return name


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A server that keeps every request."""
    with Sink() as running:
        yield running


@pytest.fixture
def sdk_collector(tmp_path: Path) -> Iterator[SdkCollector]:
    """`telemetry collect` on a port of its own."""
    with SdkCollector(tmp_path) as running:
        yield running
