"""RQ's workers: a forked or a spawned process for each job, which ends in os._exit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import BIN, Collector, Program, environment
from test_celery import redis as redis  # the fixture
from verdict import assert_exactly_once

HERE = Path(__file__).parent

WORKER = """
import os, sys
if sys.argv[1] == "preloaded":
    import rq_tasks  # and with it the client, before there is anything of RQ
import rq
from rq.worker import SpawnWorker, Worker
kind = SpawnWorker if sys.argv[1] == "spawned" else Worker
connection = __import__("redis").Redis.from_url(os.environ["BROKER"])
kind(["jobs"], connection=connection).work(burst=True)
"""


@pytest.mark.parametrize("kind", ["forked", "preloaded", "spawned"])
def test_each_job_delivers(redis: str, collector: Collector, tmp_path: Path, kind: str) -> None:
    from redis import Redis
    from rq import Queue

    queue = Queue("jobs", connection=Redis.from_url(redis))
    jobs = [queue.enqueue("rq_tasks.report", 5) for _ in range(3)]
    failing = [queue.enqueue("rq_tasks.fail", 5) for _ in range(2)]
    # So that only what happens at the end of a job delivers its events.
    env = environment(collector.url, BROKER=redis, TELEMETRY_BATCH_MAX_AGE_MS="60000")
    argv = [str(BIN / "python"), "-c", WORKER, kind]
    with Program(argv, tmp_path / "rq.log", env, cwd=tmp_path) as worker:
        assert worker.process.wait(120) == 0, worker.output()
    keys = [key for job in jobs for key in job.latest_result().return_value]
    for job in failing:
        error = job.latest_result().exc_string.strip().splitlines()[-1]
        keys += json.loads(error.partition(": ")[2])
    # What the master reported is known to all of its children.
    reported = {(pid, seq) for pid, seq in keys}
    processes = 5 if kind != "preloaded" else 6
    assert len({pid for pid, _ in reported}) == processes, "a process for each job"
    assert_exactly_once(reported, collector)
