"""Builds the C programs, gives each test a collector, compares what was accepted with what arrived.

Environment: LIBTELEMETRY_BUILD is the directory with libtelemetry.so and the command `telemetry`
(default target/release), LIBTELEMETRY_INCLUDE that of telemetry.h (default include),
LIBTELEMETRY_RUNNER a command put before every program (valgrind, gdb, ...).
"""

import collections
import contextlib
import json
import os
import pathlib
import shlex
import subprocess
import threading
import time
import urllib.request
import zlib

import pytest

HERE = pathlib.Path(__file__).parent
REPO = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("LIBTELEMETRY_BUILD", REPO / "target" / "release"))
INCLUDE = pathlib.Path(os.environ.get("LIBTELEMETRY_INCLUDE", REPO / "include"))
RUNNER = shlex.split(os.environ.get("LIBTELEMETRY_RUNNER", ""))
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-g", "-pthread"]
TIMEOUT = 600

DETECTORS = ["wipe", "fallback"]


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """program(name): path of the compiled tests/c/<name>.c, or of a source given by its path."""
    place = tmp_path_factory.mktemp("bin")
    # The loader looks for the SONAME; the build directory has the plain name only.
    (place / "libtelemetry.so").symlink_to((BUILD / "libtelemetry.so").resolve())
    (place / "libtelemetry.so.0").symlink_to((BUILD / "libtelemetry.so").resolve())
    built = {}

    def program(name, link=True):
        if name not in built:
            source = HERE / f"{name}.c" if "/" not in str(name) else pathlib.Path(name)
            output = place / source.stem
            flags = (
                FLAGS if source.parent == HERE else ["-std=gnu11", *FLAGS[1:]]
            )  # as a reader's cc would
            command = ["cc", *flags, f"-I{INCLUDE}", f"-I{HERE}", str(source), "-o", str(output)]
            command += (
                ["-Wl,--no-as-needed", f"-L{place}", "-ltelemetry", f"-Wl,-rpath,{place}"]
                if link
                else ["-ldl"]
            )
            subprocess.run(command, check=True)
            built[name] = output
        return built[name]

    program.library = place / "libtelemetry.so.0"
    return program


class Collector:
    def __init__(self, out, listen="127.0.0.1:0", faults=""):
        """`faults` are there from its first answer on."""
        self.out = out
        more = ["--fault", faults] if faults else []
        self.process = subprocess.Popen(
            [BUILD / "telemetry", "collect", "--listen", listen, "--out", str(out), *more],
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.url = line.split()[-1].rstrip("/")
        self.port = int(self.url.rsplit(":", 1)[1])
        # Nobody reads what it may print later; it must not block on that.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def fault(self, text):
        request = urllib.request.Request(f"{self.url}/fault", data=text.encode(), method="PUT")
        urllib.request.urlopen(request, timeout=120).close()

    def stats(self):
        with urllib.request.urlopen(f"{self.url}/stats", timeout=120) as answer:
            return json.load(answer)

    def close(self):
        self.process.terminate()
        self.process.wait(120)


@pytest.fixture
def collectors(tmp_path):
    """collectors(): one more collector."""
    opened = []

    def make():
        opened.append(Collector(tmp_path / f"out{len(opened)}.ndjson"))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture
def collector(collectors):
    return collectors()


def checksum(event):
    return zlib.adler32(f"{event['tag']} {event['pid']} {event['seq']} {event['pad']}".encode())


class Result:
    def __init__(self, ledger, events, stderr, seconds):
        self.ledger, self.events, self.stderr, self.seconds = ledger, events, stderr, seconds


def read_ledger(path):
    exact, optional, again = set(), set(), collections.Counter()
    if path.exists():
        for line in path.read_text().splitlines():
            mark, tag, pid, first, last = line.split()
            for seq in range(int(first), int(last) + 1):
                key = (tag, int(pid), seq)
                if mark == "=":
                    assert key not in exact, f"the program noted {key} twice"
                    exact.add(key)
                elif mark == "?":
                    optional.add(key)
                else:
                    again[key] += 1
    return exact, optional, again


def compare(ledger, outs):
    """Every accepted event arrived once, whole, under an id of its own; nothing else arrived."""
    exact, optional, again = read_ledger(ledger)
    arrived, ids, problems = collections.Counter(), collections.Counter(), []
    for out in outs:
        if not out.exists():
            continue
        with out.open() as lines:
            for line in lines:
                event = json.loads(line)
                if checksum(event) != event["sum"]:
                    problems.append(f"corrupted: {line!r}")
                if not event.get("timestamp"):
                    problems.append(f"no timestamp: {line!r}")
                ids[event["id"]] += 1
                arrived[event["tag"], event["pid"], event["seq"]] += 1
    lost = [key for key in exact if not arrived[key]]
    foreign = [
        key for key in arrived if key not in exact and key not in optional and key not in again
    ]
    twice = [(key, n) for key, n in arrived.items() if n > max(1, (key in exact) + again[key])]
    reused = [key for key, n in ids.items() if n > 1]
    for what, found in (
        ("lost", lost),
        ("foreign", foreign),
        ("more often than once", twice),
        ("id used again", reused),
    ):
        if found:
            problems.append(f"{what}: {len(found)}, such as {sorted(found)[:5]}")
    assert not problems, "\n".join(problems[:20])
    return arrived


def environment(**more):
    """The environment of a test program: nothing in it configures the library unasked."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TELEMETRY_", "OTEL_")) and not key.lower().endswith("_proxy")
    }
    return inherited | more


@pytest.fixture
def run(programs, collector, tmp_path):
    """run(program, *args, ...): runs it to its end, which must be status 0, and compares."""

    def go(
        name,
        *args,
        detector="wipe",
        env=None,
        endpoint=None,
        prefix=(),
        pass_fds=(),
        outs=None,
        link=True,
        expect=0,
        check=True,
    ):
        ledger = tmp_path / "ledger"
        ledger.touch()
        variables = environment(
            TEST_LEDGER=str(ledger),
            TEST_COLLECTOR=collector.url,
            TEST_ENDPOINT=endpoint or collector.url,
            TEST_LIBRARY=str(programs.library),
            # The second that is the default may be too short for a last flush on a busy machine.
            TELEMETRY_EXIT_TIMEOUT_MS="120000",
        )
        if detector == "fallback":
            variables["TELEMETRY_TEST_NO_WIPEONFORK"] = "1"
        variables |= env or {}
        log = tmp_path / "stderr"
        started = time.monotonic()
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*prefix, *RUNNER, str(programs(name, link=link)), *map(str, args)],
                env=variables,
                stderr=stderr,
                cwd=tmp_path,
                pass_fds=pass_fds,
                start_new_session=True,
            )
            try:
                status = process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                status = "hung"
            finally:
                # Children that outlived a failed parent.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                process.wait()
        seconds = time.monotonic() - started
        text = log.read_text()
        assert status == expect, (
            f"{name} {' '.join(map(str, args))}: status {status}\n{text[-3000:]}"
        )
        events = None
        if check:
            # Without `cut` or `lost` faults nothing may even be sent twice.
            assert collector.stats()["duplicates"] == 0
            events = compare(ledger, outs or [collector.out])
        return Result(ledger, events, text, seconds)

    return go


@pytest.fixture
def signals_pipes():
    """pytest tells the program that something was seen; the program tells pytest to go on."""
    seen_read, seen_write = os.pipe()
    go_read, go_write = os.pipe()
    yield {
        "seen": seen_write,
        "go": go_read,
        "pass_fds": (seen_read, go_write),
        "env": {"TEST_SEEN_FD": str(seen_read), "TEST_GO_FD": str(go_write)},
    }
    for fd in (seen_read, seen_write, go_read, go_write):
        os.close(fd)
