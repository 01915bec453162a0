"""Runs the tests of the fleet beside each other: nearly all of their time is waiting.

A test that takes nothing but `fleets` and its own parameters runs in a thread of a pool from the
first such test on; pytest's own turn at it takes the result.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from typing import Any

import pytest

# Fixtures: pytest finds them by their names here.
from stage import orphans_come_to_us  # noqa: F401  # a fixture

import fleets as rooms

TOGETHER = 12


class Pool:
    """The threads, and what each test in them came to."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.threads = concurrent.futures.ThreadPoolExecutor(TOGETHER)
        self.results = {item.nodeid: self.threads.submit(self._run, item) for item in items}

    @staticmethod
    def _run(item: Any) -> None:
        with rooms.opened() as fleets:
            given = item.callspec.params if hasattr(item, "callspec") else {}
            item.obj(fleets=fleets, **given)


def _beside_others(item: pytest.Item) -> bool:
    return item.path.parent == rooms.HERE and "fleets" in getattr(item, "fixturenames", ())


POOL = pytest.StashKey[Pool]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """The result from the pool."""
    session = pyfuncitem.session
    if not _beside_others(pyfuncitem):
        return None
    if POOL not in session.stash:
        rooms.program()
        session.stash[POOL] = Pool([item for item in session.items if _beside_others(item)])
    session.stash[POOL].results[pyfuncitem.nodeid].result()
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing more is begun, and what runs is waited for."""
    if POOL in session.stash:
        session.stash[POOL].threads.shutdown(wait=True, cancel_futures=True)
    rooms.remove_programs()


@pytest.fixture
def fleets() -> None:
    """fleets.make(group(...), ...): a fleet that runs. What a test gets is made in its thread."""


@pytest.fixture(scope="session", autouse=True)
def nobody_is_left(orphans_come_to_us: None) -> Iterator[None]:  # noqa: F811  # the fixture
    """Orphans of killed supervisors are this process's: they are reaped at the end."""
    yield
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was measured."""
    if rooms.MEASURED:
        terminalreporter.section("fleet")
        for line in rooms.MEASURED:
            terminalreporter.write_line(line)
