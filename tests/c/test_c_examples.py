"""The C examples, as a reader would build and run them."""

import collections
import concurrent.futures
import json
import signal
import subprocess
import urllib.request

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


def test_prefork(programs, collector):
    server = subprocess.Popen(
        [programs(str(EXAMPLES / "prefork.c")), collector.url, "4"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stdout.readline().split()[-1]

        def get(_):
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.read()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(get, range(400))) == [b"ok\n"] * 400
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
    events = stored(collector)
    assert collections.Counter(event["event"] for event in events) == {
        "master started": 1,
        "request": 400,
        "master stopped": 1,
    }
    assert len({event["id"] for event in events}) == 402
    # Each worker numbered its own without a gap.
    numbers = collections.defaultdict(list)
    for event in events:
        if event["event"] == "request":
            numbers[event["pid"]].append(event["number"])
    assert server.pid not in numbers
    assert all(sorted(seen) == list(range(len(seen))) for seen in numbers.values())
