"""Fixtures of the tests with official SDKs, and a pool: their programs run beside each other.

A test that takes nothing but `sink`, `age` and parameters runs in a thread from the first such test
on, with a sink of its own; pytest's own turn at it takes the result.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdk_kit import AGES, HERE, SdkCollector
from sink import Sink

TOGETHER = 3


def installed(name: str) -> str:
    """One of the two sets of SDKs; without it the test is skipped."""
    if not (AGES[name] / ".installed").exists():
        pytest.skip(f"{AGES[name]} is missing: run tests/setup.sh")
    return name


@pytest.fixture(params=AGES)
def age(request: pytest.FixtureRequest) -> str:
    """Which of the two sets of SDKs."""
    return installed(request.param)


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


class Pool:
    """The threads, and what each test in them came to."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.threads = concurrent.futures.ThreadPoolExecutor(TOGETHER)
        self.results = {item.nodeid: self.threads.submit(self._run, item) for item in items}

    @staticmethod
    def _run(item: Any) -> None:
        given = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        if "age" in given:
            installed(given["age"])
        with Sink() as sink:
            item.obj(sink=sink, **given)


def _beside_others(item: pytest.Item) -> bool:
    if item.path.parent != HERE or item.path.name == "test_opentelemetry.py":  # its sink is another
        return False
    names = set(getattr(item, "fixturenames", ())) - {"age", "request"}
    given = getattr(getattr(item, "callspec", None), "params", {})
    return "sink" in names and names - set(given) == {"sink"}


POOL = pytest.StashKey[Pool]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """The result from the pool."""
    session = pyfuncitem.session
    if not _beside_others(pyfuncitem):
        return None
    if POOL not in session.stash:
        session.stash[POOL] = Pool([item for item in session.items if _beside_others(item)])
    session.stash[POOL].results[pyfuncitem.nodeid].result()
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing more is begun, and what runs is waited for."""
    if POOL in session.stash:
        session.stash[POOL].threads.shutdown(wait=True, cancel_futures=True)
