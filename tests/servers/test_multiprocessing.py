"""Children of multiprocessing lose nothing, though they end in os._exit right after an event."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness import PATIENCE, Collector, Program, environment
from verdict import assert_exactly_once

PROGRAM = Path(__file__).with_name("mp_program.py")


@pytest.mark.parametrize("kind", ["process", "pool", "executor"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_deliver_everything(
    method: str, kind: str, collector: Collector, tmp_path: Path
) -> None:
    argv = [sys.executable, str(PROGRAM), method, kind]
    with Program(argv, tmp_path / "program.log", environment(collector.url)) as program:
        assert program.process.wait(PATIENCE) == 0, program.output()
        accepted = [(pid, seq) for pid, seq in json.loads(program.output().splitlines()[-1])]
    assert len(accepted) == 2010
    rows = assert_exactly_once(accepted, collector)
    assert len(rows) >= 2, "the parent and its children"
