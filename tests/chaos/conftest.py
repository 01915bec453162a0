"""The fixtures of the kill tests: those of the C tests, and a stage of their own."""

from collections.abc import Callable
from typing import Any

import pytest

# Fixtures: pytest finds them by their names here.
from programs import collector, collectors, programs, run, signals_pipes  # noqa: F401
from stage import memory, orphans_come_to_us, stage, stages  # noqa: F401

LINES: list[str] = []


@pytest.fixture
def report() -> Callable[[str], None]:
    """report(line): what was measured; shown at the end of the run."""
    return LINES.append


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How often, and how much was at stake."""
    if LINES:
        terminalreporter.section("kill tests")
        for line in LINES:
            terminalreporter.write_line(line)
