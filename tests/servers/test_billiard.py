"""billiard without Celery: the children of its pools end in os._exit, and run no finalizers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import BIN, Collector, Program, environment
from verdict import assert_exactly_once

HERE = Path(__file__).parent


@pytest.mark.parametrize("tasks", [1, 3])
def test_recycled_children_deliver(collector: Collector, tmp_path: Path, tasks: int) -> None:
    # So that only what happens at the end of a child delivers its events.
    env = environment(collector.url, TELEMETRY_BATCH_MAX_AGE_MS="60000")
    argv = [str(BIN / "python"), str(HERE / "billiard_program.py"), str(tasks)]
    with Program(argv, tmp_path / "log", env) as program:
        assert program.process.wait(120) == 0, program.output()
        reported = {(pid, seq) for pid, seq in json.loads(program.output().splitlines()[-1])}
    assert len(reported) == 5 + 8 * 5
    assert len({pid for pid, _ in reported}) > 2
    assert_exactly_once(reported, collector)
