"""Every CPython of the machine from 3.9 on runs the same script, and the quick start."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from interpreters import interpreters

from harness import EXAMPLES, PATIENCE, Collector, environment

# Said of a fork for which a busy machine did not let the sender end in time: test_fork.py has that.
BUSY = "ignore:This process:DeprecationWarning"
VERSIONS = [".".join(map(str, version)) for version in interpreters()]


@pytest.mark.parametrize("version", VERSIONS)
def test_smoke(version: str, collector: Collector) -> None:
    python = interpreters()[tuple(map(int, version.split(".")))]  # type: ignore[index]
    smoke = Path(__file__).with_name("smoke.py")
    done = subprocess.run(
        [python, "-W", "error::SyntaxWarning", "-W", BUSY, str(smoke), collector.url],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")
    assert sorted(event["n"] for event in collector.events()) == list(range(107))


@pytest.mark.parametrize("version", VERSIONS)
def test_quick_start(version: str, collector: Collector) -> None:
    python = interpreters()[tuple(map(int, version.split(".")))]  # type: ignore[index]
    command = [python, str(EXAMPLES / "quickstart.py"), collector.url]
    subprocess.run(command, env=environment(), check=True, timeout=PATIENCE)
    events = [event["from"] for event in collector.events()]
    assert sorted(events) == ["child", "parent", "parent"]


def test_there_is_more_than_one() -> None:
    if len(VERSIONS) < 2:
        pytest.skip(f"only {VERSIONS} here")
