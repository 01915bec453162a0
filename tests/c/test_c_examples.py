"""The smallest C example, as a reader would build and run it. test_c_servers.py has the servers."""

import json
import subprocess

from programs import REPO

EXAMPLES = REPO / "bindings" / "c" / "examples"


def stored(collector):
    with collector.out.open() as lines:
        return [json.loads(line) for line in lines]


def test_quickstart(programs, collector):
    done = subprocess.run([programs(str(EXAMPLES / "quickstart.c")), collector.url], timeout=60)
    assert done.returncode == 0
    events = stored(collector)
    assert sorted(event["event"] for event in events) == ["hello", "hello from a fork"]
    assert len({event["id"] for event in events}) == 2


def test_quickstart_says_what_is_wrong(programs):
    done = subprocess.run(
        [programs(str(EXAMPLES / "quickstart.c")), "gopher://x"],
        timeout=60,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert "endpoint" in done.stderr
