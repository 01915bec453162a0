"""Children of multiprocessing that are ended hard: with a spool, their parent delivers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness import HERE, PATIENCE, Collector, Program
from truth import AT_START, Truth, assert_nothing_lost


@pytest.mark.parametrize("kind", ["pool", "exit", "kill"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_parent_delivers_what_its_children_left(
    method: str, kind: str, collector: Collector, tmp_path: Path
) -> None:
    truth = Truth(tmp_path)
    argv = [sys.executable, str(HERE / "mp_kill_program.py"), method, kind]
    # No sender delivers before the children have ended.
    env = truth.environment(collector.url, TELEMETRY_BATCH_MAX_AGE_MS="3600000")
    with Program(argv, tmp_path / "program.log", env) as program:
        assert program.process.wait(2 * PATIENCE) == 0, program.output()
        said = json.loads(program.output().splitlines()[-1])
    assert said["flushed"], said
    assert said["recovered"] >= 100, said
    # A child may deliver what another one left, and be ended while it does.
    sums = assert_nothing_lost(truth, collector, most_duplicates=500)
    assert sums.accepted >= 100 + AT_START
    assert truth.files() == []
