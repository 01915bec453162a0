"""With a spool, what `enqueue` took outlives its process, and every trouble with a disk."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disk import private_mounts

from harness import PATIENCE, Collector, environment, free_port, wait_until
from libtelemetry import Client, ConfigError, Stats

MakeClient = Callable[..., Client]

# So that nothing is sent before somebody flushes.
PATIENT = {"max_age_ms": 600_000}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def left(spool: Path) -> list[str]:
    """The files of a spool that hold events, or did."""
    return sorted(path.name for path in spool.rglob("*") if path.suffix in (".seg", ".bad"))


def numbers(collector: Collector) -> list[int]:
    return sorted(event["n"] for event in collector.events())


def assert_books_balance(stats: Stats) -> None:
    done = stats.delivered + stats.rejected + stats.invalid + stats.expired
    assert stats.accepted + stats.recovered == done + stats.queue_events, stats


def run(script: str, url: str, spool: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, whose `client` has taken 100 events; then `script`."""
    start = (
        "import os, signal, sys, time\n"
        "from libtelemetry import Client\n"
        "client = Client(batch={'max_age_ms': 600_000})\n"
        "for n in range(100):\n"
        "    assert client.enqueue({'n': n})\n"
    )
    return subprocess.run(
        [sys.executable, "-c", start + script],
        env=environment(url, **{"TELEMETRY_SPOOL_DIR": str(spool), **more}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


# ---- the end of a process ----

ENDS = {
    "os._exit": "os._exit(0)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "SIGSEGV": "import ctypes; ctypes.string_at(0)",
    "abort": "os.abort()",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "exec": "os.execv('/bin/true', ['true'])",
}


@pytest.mark.parametrize("end", ENDS)
def test_what_a_hard_end_leaves_is_delivered_by_the_next_process(
    end: str, make_client: MakeClient, collector: Collector, spool: Path
) -> None:
    run(ENDS[end], collector.url, spool)
    assert collector.stats()["received"] == 0
    client = make_client(spool_dir=spool)
    assert client.flush(60)
    assert numbers(collector) == list(range(100))
    stats = client.stats()
    assert (stats.recovered, stats.delivered, stats.accepted) == (100, 100, 0)
    assert_books_balance(stats)
    assert left(spool) == []


@pytest.mark.parametrize("end", ENDS)
def test_without_a_spool_a_hard_end_loses_the_queue(end: str, collector: Collector) -> None:
    """What the spool is for; and the proof that the tests above could fail."""
    run(ENDS[end], collector.url, Path(), TELEMETRY_SPOOL_DIR="")
    with Client(collector.url) as client:
        assert client.flush(60)
    assert collector.stats()["received"] == 0


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise SystemExit", "1/0"])
def test_a_normal_end_delivers_and_leaves_nothing(
    end: str, collector: Collector, spool: Path
) -> None:
    run(end, collector.url, spool)
    assert numbers(collector) == list(range(100))
    assert left(spool) == []


def test_a_normal_end_at_a_dead_collector_leaves_all_and_says_so(
    tmp_path: Path, make_client: MakeClient, spool: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = run("", f"http://{address}", spool)
    assert done.returncode == 0
    assert "100 event(s)" in done.stderr
    assert "left in the spool" in done.stderr
    with Collector(tmp_path, address) as collector:
        assert make_client(collector.url, spool_dir=spool).flush(60)
        assert numbers(collector) == list(range(100))


def test_an_image_that_executes_itself_delivers_what_it_left(
    collector: Collector, spool: Path
) -> None:
    """After exec the process id and its start time are the same, and the queue is gone."""
    after = "from libtelemetry import Client; c = Client(); assert c.flush(60); print(c.stats())"
    done = run(f"os.execv(sys.executable, [sys.executable, '-c', {after!r}])", collector.url, spool)
    assert done.returncode == 0, done.stderr
    assert "recovered=100" in done.stdout
    assert numbers(collector) == list(range(100))
    assert left(spool) == []


def test_an_image_that_does_not_know_the_client_holds_nothing_back(
    collector: Collector, make_client: MakeClient, spool: Path
) -> None:
    """A shell, say, with the process id of one whose queue is full. It lives on; others deliver."""
    script = "os.execv('/bin/sh', ['sh', '-c', 'echo executed; exec cat'])"
    start = f"from libtelemetry import Client; import os\nclient = Client(batch={PATIENT})\n"
    program = subprocess.Popen(
        [sys.executable, "-c", start + "assert client.enqueue({'n': 1})\n" + script],
        env=environment(collector.url, TELEMETRY_SPOOL_DIR=str(spool)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "executed\n"
        assert make_client(spool_dir=spool).flush(60)
        assert numbers(collector) == [1]
        assert program.poll() is None
        program.communicate(timeout=PATIENCE)


def test_a_living_process_keeps_its_events(
    collector: Collector, make_client: MakeClient, spool: Path
) -> None:
    start = f"from libtelemetry import Client\nclient = Client(batch={PATIENT})\n"
    script = "assert client.enqueue({'n': 1})\nprint('ready', flush=True)\ninput()\n"
    program = subprocess.Popen(
        [sys.executable, "-c", start + script + "assert client.flush(60)"],
        env=environment(collector.url, TELEMETRY_SPOOL_DIR=str(spool)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        client = make_client(spool_dir=spool)
        assert client.enqueue({"n": 2})
        assert client.flush(60)
        assert numbers(collector) == [2]
        assert client.stats().recovered == 0
        program.communicate("go on\n", timeout=PATIENCE)
        assert program.returncode == 0
    assert numbers(collector) == [1, 2]
    assert client.shutdown(60)
    assert left(spool) == []


def test_a_child_that_leaves_hard_is_delivered_by_its_parent(
    collector: Collector, make_client: MakeClient, spool: Path
) -> None:
    client = make_client(spool_dir=spool, batch=PATIENT)
    assert client.enqueue({"n": 0})
    for n in range(1, 6):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if client.enqueue({"n": n}) else 1)
        assert os.waitpid(pid, 0)[1] == 0
    assert client.flush(60)
    assert numbers(collector) == list(range(6))
    assert collector.stats()["duplicates"] == 0


def test_a_process_that_only_opened_the_client_looks_for_nothing_at_its_end(
    collector: Collector, spool: Path
) -> None:
    run("os._exit(0)", collector.url, spool)
    code = "from libtelemetry import Client; client = Client()"
    env = environment(collector.url, TELEMETRY_SPOOL_DIR=str(spool))
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=PATIENCE)
    assert collector.stats()["received"] == 0


# ---- a collector that is down ----


def test_shutdown_says_what_it_left_and_the_next_client_delivers_it(
    tmp_path: Path, make_client: MakeClient, spool: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    client = make_client(f"http://{address}", spool_dir=spool)
    before = time.time()
    for n in range(100):
        assert client.enqueue({"n": n})
    assert client.shutdown(3600) is False
    took, after = time.time() - before, time.time()
    print(f"shutdown at a dead collector: {took:.3f} s")
    assert took < PATIENCE, "it waited, though nothing can get lost"
    stats = client.stats()
    assert (stats.left_in_spool, stats.delivered) == (100, 0)
    assert_books_balance(stats)
    assert client.enqueue({"n": 100}) is False
    with Collector(tmp_path, address) as collector:
        following = make_client(collector.url, spool_dir=spool)
        assert following.flush(60)
        assert following.stats().recovered == 100
        assert numbers(collector) == list(range(100))
        assert collector.stats()["duplicates"] == 0
        for event in collector.events():
            stamp = time.mktime(time.strptime(event["timestamp"][:19], "%Y-%m-%dT%H:%M:%S"))
            assert before - 2 <= stamp - time.timezone <= after + 2, "the time of the event"
    assert left(spool) == []


def test_a_collector_that_comes_back_gets_everything(
    tmp_path: Path, make_client: MakeClient, spool: Path
) -> None:
    """More than fits into memory waits on the disk."""
    address = f"127.0.0.1:{free_port()}"
    client = make_client(
        f"http://{address}",
        spool_dir=spool,
        segment_bytes=65536,
        queue_bytes=131072,
        max_event_bytes=10000,
        retry={"initial_ms": 20, "max_ms": 200},
    )
    for n in range(2000):
        assert client.enqueue({"n": n, "text": "x" * 1000}), n
    assert client.stats().queue_events == 2000
    with Collector(tmp_path, address) as collector:
        assert client.flush(60)
        assert numbers(collector) == list(range(2000))
        assert collector.stats()["duplicates"] == 0
        assert client.stats().delivered == 2000
        assert client.stats().spool_failures == 0
        assert client.shutdown(60)
    assert left(spool) == []


SMALL = {"segment_bytes": 65536, "spool_max_bytes": 262144, "max_event_bytes": 10000}


def test_a_full_spool_refuses_and_counts(
    make_client: MakeClient, collector: Collector, spool: Path
) -> None:
    collector.fault("503")
    client = make_client(spool_dir=spool, **SMALL)
    taken = [client.enqueue({"n": n, "text": "x" * 1000}) for n in range(1000)]
    assert taken[0] is True
    assert taken[-1] is False
    used = sum(path.stat().st_size for path in spool.rglob("*.seg"))
    assert used <= SMALL["spool_max_bytes"]
    stats = client.stats()
    assert (stats.accepted, stats.dropped_full) == (taken.count(True), taken.count(False))
    collector.fault("")
    assert client.flush(60)
    assert numbers(collector) == [n for n, was in enumerate(taken) if was]
    assert client.enqueue({"n": 1000}), "there is room again"


def test_a_full_spool_may_give_up_the_oldest(
    make_client: MakeClient, collector: Collector, spool: Path
) -> None:
    collector.fault("503")
    client = make_client(
        spool_dir=spool, spool_evict="oldest", retry={"initial_ms": 10, "max_ms": 20}, **SMALL
    )
    taken = []
    for n in range(1000):

        def accepted(n: int = n) -> bool:
            return client.enqueue({"n": n, "text": "x" * 1000})

        # The sender makes the room; a burst may be faster than it.
        wait_until(f"room for event {n}", accepted)
        taken.append(n)
    collector.fault("")
    assert client.flush(60)
    stats = client.stats()
    assert stats.evicted > 0
    assert stats.expired == stats.evicted
    assert stats.delivered + stats.evicted == 1000
    arrived = set(numbers(collector))
    assert max(arrived) == 999
    assert set(range(1000 - 50, 1000)) <= arrived, "the newest are kept"
    assert_books_balance(stats)


# ---- waiting beside what is adopted ----


def test_what_is_adopted_does_not_pass_for_our_own(
    make_client: MakeClient, collector: Collector, spool: Path
) -> None:
    """Adopted events count as delivered; aflush must not take them for those it waits for."""
    assert run("os._exit(0)", collector.url, spool).returncode == 0
    collector.fault("slow=50")
    client = make_client(spool_dir=spool, batch={"max_events": 10, **PATIENT})
    assert client.enqueue({"n": 1000})
    wait_until("something is adopted", lambda: client.stats().delivered)
    assert asyncio.run(client.aflush(60))
    assert 1000 in numbers(collector)
    assert client.flush(60)
    assert numbers(collector) == [*range(100), 1000]


# ---- refused events ----


@pytest.mark.parametrize("with_spool", [False, True], ids=["memory", "spool"])
def test_refused_events_are_written_down(
    with_spool: bool, make_client: MakeClient, collector: Collector, spool: Path, tmp_path: Path
) -> None:
    letters = tmp_path / "letters.ndjson"
    more = {"spool_dir": spool} if with_spool else {}
    client = make_client(dead_letter=letters, **more)
    collector.fault("400")
    for n in range(3):
        assert client.enqueue({"n": n})
    assert client.flush(60), "a refusal is an answer"
    collector.fault("")
    assert client.enqueue("no JSON")
    assert client.enqueue({"n": 3})
    assert client.flush(60)
    stats = client.stats()
    assert (stats.rejected, stats.invalid, stats.delivered) == (3, 1, 1)
    assert_books_balance(stats)
    assert numbers(collector) == [3]
    lines = [json.loads(line) for line in letters.read_text().splitlines()]
    refused = [line for line in lines if line["status"] == 400]
    assert sorted(line["event"]["n"] for line in refused) == [0, 1, 2]
    assert len({line["event"]["id"] for line in refused}) == 3
    (invalid,) = (line for line in lines if line["status"] is None)
    assert invalid["raw"] == "no JSON"
    assert all(line["reason"] and line["refused_at"] for line in lines)
    assert stat.S_IMODE(letters.stat().st_mode) == 0o600
    assert client.shutdown(60)
    assert left(spool) == []


# ---- the directory ----


def test_the_spool_is_for_its_owner_alone(
    make_client: MakeClient, collector: Collector, spool: Path
) -> None:
    before = os.umask(0)
    try:
        client = make_client(spool_dir=spool / "deeper", name="shop", batch=PATIENT)
        assert client.enqueue({"n": 1})
    finally:
        os.umask(before)
    (own,) = (spool / "deeper").iterdir()
    assert own.name.startswith("shop-")
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    files = list(own.iterdir())
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_opening_alone_makes_no_file(make_client: MakeClient, spool: Path) -> None:
    client = make_client(spool_dir=spool)
    assert [path for path in spool.rglob("*") if not path.is_dir()] == []
    assert client.stats() == Stats()


def test_events_never_reach_another_account(
    make_client: MakeClient, collector: Collector, spool: Path
) -> None:
    assert run("os._exit(0)", collector.url, spool, TELEMETRY_BEARER="one").returncode == 0
    other = make_client(spool_dir=spool, bearer="another")
    assert other.flush(60)
    assert collector.stats()["received"] == 0
    assert make_client(spool_dir=spool, bearer="one").flush(60)
    assert numbers(collector) == list(range(100))


def symlink(path: Path) -> None:
    path.with_name("elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.with_name("elsewhere"))


def writable_by_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


BAD = {
    "a symlink": (symlink, "symlink"),
    "a broken symlink": (lambda path: path.symlink_to("nowhere"), "symlink"),
    "a file": (lambda path: path.write_text(""), "not a directory"),
    "writable by all": (writable_by_all, "0777"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_directory_that_is_not_safe_is_refused(kind: str, spool: Path) -> None:
    make, word = BAD[kind]
    make(spool)
    with pytest.raises(ConfigError) as caught:
        Client("http://127.0.0.1:9", spool_dir=spool)
    for part in ("spool_dir", str(spool), word):
        assert part in str(caught.value)


def test_the_directory_below_is_looked_at_as_well(spool: Path) -> None:
    url = "http://127.0.0.1:9"
    with Client(url, spool_dir=spool) as client:
        client.enqueue({"n": 1})
    (own,) = spool.iterdir()
    own.chmod(0o750)
    with pytest.raises(ConfigError, match=r"spool_dir.*0750.*0700"):
        Client(url, spool_dir=spool)
    shutil.rmtree(own)
    own.symlink_to("/tmp")
    with pytest.raises(ConfigError, match=r"spool_dir.*symlink"):
        Client(url, spool_dir=spool)


def test_a_sticky_directory_is_fine(
    make_client: MakeClient, collector: Collector, spool: Path
) -> None:
    spool.mkdir()
    spool.chmod(0o1777)
    client = make_client(spool_dir=spool)
    assert client.enqueue({"n": 1})
    assert client.flush(60)
    assert client.stats().spool_failures == 0


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"sync": "always"}, "sync"),
        ({"spool_evict": "newest"}, "spool_evict"),
        ({"spool_max_bytes": 1}, "spool_max_bytes"),
        ({"spool_max_age_s": 0}, "spool_max_age_s"),
        ({"spooldir": "x"}, "spool_dir"),
        ({"dead_letter": "x/"}, "dead_letter"),
    ],
)
def test_a_bad_value_names_its_key(keys: dict[str, Any], word: str, spool: Path) -> None:
    with pytest.raises(ConfigError, match=word):
        Client("http://127.0.0.1:9", **{"spool_dir": spool, **keys})


# ---- disks that do not work ----

# Each is a process in a mount namespace of its own; what it mounts goes with it.
IN_MEMORY = """
import json, os, sys
from libtelemetry import Client
spool, url = sys.argv[1:3]
client = Client(url, spool_dir=spool, segment_bytes=65536, max_event_bytes=10000,
                retry={"initial_ms": 20, "max_ms": 200})
taken = [n for n in range(1000) if client.enqueue({"n": n, "text": "x" * 1000})]
print("enqueued", flush=True)
input()
flushed = client.flush(60)
files = [name for _, _, names in os.walk(spool) for name in names]
print(json.dumps({"taken": taken, "flushed": flushed, "files": files, **client.stats()._asdict()}))
"""


def in_memory(
    argv: list[str], spool: Path, collector: Collector, env: dict[str, str] | None = None
) -> tuple[dict[str, Any], str]:
    """Enqueue while the collector is down, then let it come up; what was said, and its stderr."""
    collector.fault("503")
    program = subprocess.Popen(
        [*argv, sys.executable, "-c", IN_MEMORY, str(spool), collector.url],
        env=environment(**(env or {})),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdout is not None and program.stderr is not None
        try:
            first = program.stdout.readline()
            assert first == "enqueued\n", program.stderr.read()
            collector.fault("")
            out, err = program.communicate("go on\n", timeout=PATIENCE)
        except BaseException:
            program.kill()
            raise
    assert program.returncode == 0, err
    said: dict[str, Any] = json.loads(out)
    assert said["flushed"], (said, err)
    assert said["taken"]
    assert numbers(collector) == said["taken"], "what was taken is delivered"
    assert collector.stats()["duplicates"] == 0
    assert said["accepted"] == said["delivered"] == len(said["taken"])
    return said, err


def test_a_read_only_file_system_means_memory(
    collector: Collector, spool: Path, tmp_path: Path
) -> None:
    argv = private_mounts(f"mount -t tmpfs -o ro,mode=700 none {tmp_path / 'ro'}", tmp_path)
    (tmp_path / "ro").mkdir()
    said, err = in_memory(argv, tmp_path / "ro" / "spool", collector)
    assert len(said["taken"]) == 1000
    assert said["spool_failures"] >= 1
    assert err.count("the spool") == 1, f"one warning: {err}"


def test_a_missing_directory_that_cannot_be_made_means_memory(
    collector: Collector, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    said, err = in_memory([], tmp_path / "file" / "spool", collector)
    assert len(said["taken"]) == 1000
    assert said["spool_failures"] >= 1
    assert "spool" in err


@pytest.mark.parametrize("size", ["256k", "8k"])
def test_a_full_disk_means_memory(size: str, collector: Collector, tmp_path: Path) -> None:
    """Segments are allocated whole before they are mapped, so that no write to one can fail."""
    spool = tmp_path / "small"
    spool.mkdir()
    argv = private_mounts(f"mount -t tmpfs -o size={size},mode=700 none {spool}", tmp_path)
    said, err = in_memory(argv, spool, collector)
    assert len(said["taken"]) == 1000, "there was room in memory"
    assert said["spool_failures"] >= 1
    assert "spool" in err


def test_an_exceeded_quota_means_memory(collector: Collector, spool: Path, tmp_path: Path) -> None:
    """A quota needs a file system made for it, so the answer of the kernel is put in its place."""
    source = tmp_path / "quota.c"
    source.write_text(
        "#include <errno.h>\n"
        "#include <sys/types.h>\n"
        "int posix_fallocate(int fd, off_t at, off_t len) { return EDQUOT; }\n"
        "int posix_fallocate64(int fd, off_t at, off_t len) { return EDQUOT; }\n"
        "int fallocate(int fd, int how, off_t at, off_t len) { errno = EDQUOT; return -1; }\n"
        "int fallocate64(int fd, int how, off_t at, off_t len) { errno = EDQUOT; return -1; }\n"
    )
    library = tmp_path / "quota.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    said, err = in_memory([], spool, collector, {"LD_PRELOAD": str(library)})
    assert len(said["taken"]) == 1000
    assert said["spool_failures"] >= 1
    assert "quota" in err.lower()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a directory of another user")
def test_another_users_directory_means_memory_for_root(collector: Collector, spool: Path) -> None:
    """A server that starts as root and changes its user afterwards must be able to start."""
    spool.mkdir()
    os.chown(spool, 65534, 65534)
    said, err = in_memory([], spool, collector)
    assert said["files"] == []
    assert said["spool_failures"] >= 1
    assert "spool" in err


CHANGES_ITS_USER = """
import os, sys
from libtelemetry import Client
client = Client(spool_dir=sys.argv[1], batch={"max_age_ms": 600_000})
assert client.enqueue({"n": 0})                     # as root: kept in memory
def child(n):
    pid = os.fork()
    if pid == 0:
        os.setgid(65534), os.setuid(65534)
        taken = client.enqueue({"n": n})
        if n == 2:
            taken = client.flush(60) and client.stats().recovered == 1
        os._exit(0 if taken else 1)
    assert os.waitpid(pid, 0)[1] == 0
child(1)                                            # leaves hard, and leaves an event
child(2)                                            # of the same user: delivers it
assert client.stats().spool_failures >= 1
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")
def test_a_server_that_starts_as_root_and_changes_its_user(
    collector: Collector, tmp_path: Path
) -> None:
    """The directory belongs to the user of the workers. The master's own few stay in memory."""
    with tempfile.TemporaryDirectory() as name:  # pytest's are closed to that user
        os.chmod(name, 0o755)
        spool = Path(name) / "spool"
        spool.mkdir(mode=0o700)
        os.chown(spool, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", CHANGES_ITS_USER, str(spool)],
            env=environment(collector.url),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        assert "65534" in done.stderr, "whose directory it is"
        assert numbers(collector) == [0, 1, 2]
        assert {path.stat().st_uid for path in spool.rglob("*")} == {65534}
        assert [name for name in left(spool) if name.endswith(".bad")] == []


def test_a_directory_that_is_removed_under_way(
    make_client: MakeClient, collector: Collector, spool: Path
) -> None:
    collector.fault("503")
    client = make_client(
        spool_dir=spool,
        segment_bytes=65536,
        max_event_bytes=10000,
        retry={"initial_ms": 20, "max_ms": 200},
    )
    for n in range(500):
        assert client.enqueue({"n": n, "text": "x" * 1000})
    shutil.rmtree(spool)
    for n in range(500, 1000):
        assert client.enqueue({"n": n, "text": "x" * 1000})
    collector.fault("")
    assert client.flush(60)
    assert numbers(collector) == list(range(1000))
    assert collector.stats()["duplicates"] == 0


# ---- the counters ----


def test_an_older_and_a_newer_library_are_understood() -> None:
    """The library writes as many counters as both sides know, and no byte more."""
    import ctypes

    from libtelemetry import _native

    native = _native.load()
    client = Client("http://127.0.0.1:9")
    client.enqueue({"n": 1})
    known = len(Stats._fields)
    for count in (known - 3, known, known + 3):
        room = (ctypes.c_uint64 * (known + 6))(*[7] * (known + 6))
        pointer = ctypes.cast(room, ctypes.POINTER(_native.StatsStruct))
        assert native.stats(client._handle, pointer, count * 8) == 0
        assert room[0] == 1
        assert list(room[count:]) == [7] * (known + 6 - count), "beyond the size it was told"
        assert list(room[known:count]) == [0] * max(0, count - known), "what it does not know"
    client.shutdown(0)
