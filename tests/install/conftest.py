"""Two installed trees a session, and one collector: the installed one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import kit
import pytest

from harness import Program


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> kit.Tree:
    """Installed with PREFIX, whose name has a space in it."""
    prefix = tmp_path_factory.mktemp("installed") / "a prefix"
    kit.make("install", f"PREFIX={prefix}")
    return kit.Tree(prefix)


@pytest.fixture(scope="session")
def moved(tmp_path_factory: pytest.TempPathFactory) -> kit.Tree:
    """Installed with DESTDIR and a LIBDIR of several levels, and carried elsewhere afterwards."""
    place = tmp_path_factory.mktemp("moved")
    prefix, stage = place / "opt" / "telemetry", place / "stage"
    libdir = prefix / "lib" / "x86_64-linux-gnu"
    kit.make("install", f"PREFIX={prefix}", f"LIBDIR={libdir}", f"DESTDIR={stage}")
    assert not prefix.exists()
    shutil.move(f"{stage}{prefix}", place / "elsewhere")
    shutil.rmtree(stage)
    return kit.Tree(place / "elsewhere", place / "elsewhere/lib/x86_64-linux-gnu")


class Collector(Program):
    """The installed `telemetry collect`."""

    def __init__(self, tool: Path, directory: Path) -> None:
        self.out = directory / "events.ndjson"
        argv = [str(tool), "collect", "--listen", "127.0.0.1:0", "--out", str(self.out)]
        super().__init__(argv, directory / "collector.log", kit.environment())
        line = re.compile(r"listening on (http://\S+)")
        self.url: str = self.wait_for("it listens", lambda: line.search(self.output())).group(1)

    def count(self, event: str) -> int:
        """How often an event of that name has arrived."""
        return kit.events(self.out).count(event) if self.out.exists() else 0


@pytest.fixture(scope="session")
def collector(installed: kit.Tree, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """One for all programs: each sends an event of its own name."""
    with Collector(installed.tool, tmp_path_factory.mktemp("collector")) as running:
        yield running
