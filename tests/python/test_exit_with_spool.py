"""A normal exit while what a dead process left is on its way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import harness

SURVIVOR = """
import sys
from libtelemetry import Client
client = Client(batch={"max_age_ms": 20}, exit_timeout_ms=60_000)
client.enqueue({"own": 1})
sys.stdin.readline()
"""
VICTIM = """
import os
from libtelemetry import Client
client = Client(batch={"max_age_ms": 600_000})
for n in range(20):
    client.enqueue({"n": n})
os._exit(0)
"""
HEIR = """
from libtelemetry import Client
client = Client()
assert client.flush(60)
print(client.stats().recovered)
"""


def test_an_answer_that_is_awaited_is_heard(tmp_path: Path) -> None:
    """Else the next process would send the same again."""
    spool = tmp_path / "spool"

    def start(program: str, **more: int) -> subprocess.Popen[str]:
        env = harness.environment(collector.url, TELEMETRY_SPOOL_DIR=str(spool))
        return subprocess.Popen([sys.executable, "-c", program], env=env, text=True, **more)

    with harness.Collector(tmp_path) as collector:
        # Ready before the fault, its own event delivered, then idle.
        survivor = start(SURVIVOR, stdin=subprocess.PIPE)
        harness.wait_until("its own event", lambda: collector.stats()["unique"] == 1, 60)
        # Stored at once, answered late.
        collector.fault("slow=1500")
        assert start(VICTIM).wait(60) == 0
        harness.wait_until("what was left", lambda: collector.stats()["unique"] == 21, 60)
        assert survivor.stdin
        survivor.stdin.close()
        assert survivor.wait(90) == 0
        collector.fault("")
        heir = start(HEIR, stdout=subprocess.PIPE)
        said, _ = heir.communicate(timeout=90)
        stats = collector.stats()
        assert (heir.returncode, said.strip()) == (0, "0"), "nothing was left to be found"
        assert (stats["received"], stats["duplicates"]) == (21, 0), stats
