"""The two servers of bindings/c/examples, built as a product would: under load, kills and TERM.

Every answer names the events that were taken, so what was accepted is known from outside.

Environment: SANITIZE (such as "address,undefined") builds all of them with that sanitizer of gcc.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import (
    LIBRARY,
    PATIENCE,
    ROOT,
    Collector,
    Key,
    Server,
    Storm,
    children,
    compare,
    environment,
    free_port,
    kill_child,
    load,
    members,
    total,
    wait_until,
)

EXAMPLES = ROOT / "bindings" / "c" / "examples"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion"]
STRICT += ["-O2", "-g"]
WORKERS = 4
ARGUMENTS = {"prefork": [str(WORKERS), "50"], "eventloop": [str(WORKERS)]}
# Workers that surely get work: of idle loops the kernel prefers the one that was idle last.
BUSY = {"prefork": WORKERS, "eventloop": 2}
SANITIZE = os.environ.get("SANITIZE", "")
PLAIN = f"gcc {SANITIZE}".strip()
BUILDS = sorted({PLAIN, "gcc", "clang", "gcc address,undefined"})

# By design a child touches nothing that its parent's use of the client has allocated, not even to
# free it; its own hangs on a page that LeakSanitizer does not search. The servers' leaks are found.
LEAKS = "leak:libtelemetry.so\n"

Start = Callable[..., Server]


def patient(text: str) -> str:
    """The example, where a busy machine has two minutes for what is given some seconds there."""
    limits = r"(_MS = |shutdown\([\w.>-]+, )(2000|5000|10000)\b"
    text, count = re.subn(limits, r"\g<1>120000", text)
    assert count > 0
    return text


def build(directory: Path, name: str, how: str) -> Path:
    """`how` is a compiler, perhaps a sanitizer, and perhaps "as it is": else it is patient."""
    plain, unchanged, _ = how.partition(" as it is")
    compiler, _, sanitizer = plain.partition(" ")
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    for link in ("libtelemetry.so", "libtelemetry.so.0"):
        with contextlib.suppress(FileExistsError):
            (directory / link).symlink_to(LIBRARY.resolve())
    program = directory / f"{name} {how}"
    sanitize = []
    if sanitizer:
        quiet = Path(__file__).with_name("quiet_fork.h")
        sanitize = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
        sanitize += ["-D_GNU_SOURCE=", "-include", str(quiet)]
    source, include = EXAMPLES / f"{name}.c", ROOT / "include"
    if not unchanged:
        copy = directory / "patient"
        copy.mkdir(exist_ok=True)
        for file in (source, EXAMPLES / "workers.h"):
            (copy / file.name).write_text(patient(file.read_text()))
        source = copy / source.name
    command = [compiler, *STRICT, *sanitize, f"-I{include}", str(source), "-o", str(program)]
    command += [f"-L{directory}", "-ltelemetry", f"-Wl,-rpath,{directory}"]
    subprocess.run(command, check=True, timeout=5 * PATIENCE)
    return program


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """built(name, how): the program, compiled once."""
    directory = tmp_path_factory.mktemp("c-servers")
    done: dict[tuple[str, str], Path] = {}

    def get(name: str, how: str) -> Path:
        if (name, how) not in done:
            done[name, how] = build(directory, name, how)
        return done[name, how]

    return get


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with Collector(tmp_path) as running:
        yield running


@pytest.fixture
def start(
    built: Callable[[str, str], Path], collector: Collector, tmp_path: Path
) -> Iterator[Start]:
    """start(name, how, **environment): the server, with its workers running."""
    running: list[Server] = []
    (tmp_path / "leaks").write_text(LEAKS)
    options = f"suppressions={tmp_path / 'leaks'}:print_suppressions=0"

    def go(name: str, how: str = PLAIN, **env: str) -> Server:
        port, log = free_port(), tmp_path / f"{name}{len(running)}.log"
        argv = [str(built(name, how)), str(port), *ARGUMENTS[name]]
        if how not in ("gcc", "clang"):
            env |= {"LSAN_OPTIONS": options, "TELEMETRY_IDLE_MS": "1"}
        running.append(Server(argv, port, log, environment(collector.url, **env)))
        return running[-1]

    yield go
    for server in running:
        server.kill()


def of_master(server: Server) -> list[Key]:
    """What a master reports before its first fork and after its last."""
    return [(server.process.pid, 0), (server.process.pid, 1)]


def stop(server: Server, sig: int = signal.SIGTERM) -> None:
    status = server.stop(sig)
    assert status == 0, server.output()
    # LeakSanitizer misses, in a child, the thread that the master had.
    complaints = re.sub(r"==\d+==Running thread \d+ was not suspended.*\n", "", server.output())
    assert complaints == "", "neither the server, the library nor a sanitizer has complained"


def raw(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def rest_of(connection: socket.socket) -> bytes:
    """What comes until the server ends the connection, which must be an end and no reset."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


class Crowd(Storm):
    """A storm that keeps what its answers have named, in `accepted`."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, "/")
        self.accepted: list[Key] = []

    def heard(self, answer: Any) -> None:
        self.accepted += [(pid, seq) for pid, seq in answer]

    def more(self, count: int) -> None:
        """Wait until that many more events were taken."""
        goal = len(self.accepted) + count
        self._server.wait_for("events", lambda: len(self.accepted) >= goal)

    def __enter__(self) -> Crowd:
        super().__enter__()
        return self


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("how", BUILDS)
def test_term_right_after_the_last_answer(
    start: Start, collector: Collector, name: str, how: str
) -> None:
    server = start(name, how)
    accepted = load(server, requests=400, workers=BUSY[name]) + of_master(server)
    stop(server)
    sums = total(compare(accepted, collector.events()))
    assert sums.accepted >= 402
    assert (sums.lost, sums.duplicates, sums.unknown) == (0, 0, 0)
    assert collector.stats()["duplicates"] == 0
    numbers = {(event["pid"], event.get("worker")) for event in collector.events()}
    assert len(numbers) == len({pid for pid, _ in numbers}), "each process has one number"
    assert {number for pid, number in numbers if pid != server.process.pid} <= {1, 2, 3, 4}
    if name == "prefork":  # none answered more than the 50 it may, so more than four were needed
        assert max(row.accepted for row in compare(accepted, [])) <= 50
        assert len({pid for pid, _ in accepted}) > WORKERS + 1


@pytest.mark.parametrize("name", ARGUMENTS)
def test_killed_workers_lose_nothing_with_a_spool(
    start: Start, collector: Collector, tmp_path: Path, name: str
) -> None:
    """While the collector is down every worker is killed; what they had taken arrives later."""
    collector.fault("503")
    server = start(name, TELEMETRY_SPOOL_DIR=str(tmp_path / "spool"))
    killed: set[int] = set()
    with Crowd(server) as crowd:
        for _ in range(2 * WORKERS):
            crowd.more(20)

            def kill_one() -> bool:
                for victim in sorted(set(children(server.process.pid)) - killed):
                    if kill_child(server.process.pid, victim):
                        killed.add(victim)
                        return True
                return False

            server.wait_for("a worker to kill", kill_one)
        crowd.more(20)
    accepted = crowd.accepted + of_master(server)
    assert collector.stats()["unique"] == 0
    collector.fault("")

    def replaced() -> bool:
        workers = set(children(server.process.pid))
        return len(workers) == WORKERS and not workers & killed

    server.wait_for("there are four again", replaced)
    collector.wait_unique(len(accepted) - 1)
    status = server.stop()
    assert status == 0, server.output()
    events = collector.events()
    sums = total(compare(accepted, events))
    assert sums.lost == 0
    # What was adopted, and not heard of when its worker was told to end, comes under the same id.
    assert sums.duplicates == collector.stats()["duplicates"], sums
    # A worker that was killed between taking an event and answering has told nobody.
    assert sums.unknown <= crowd.broken
    assert {pid for pid, _ in accepted} & killed
    assert list((tmp_path / "spool").rglob("*.seg")) == []


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_collector_stalls(start: Start, collector: Collector, name: str) -> None:
    """It takes requests and answers none: the server answers on, and TERM ends it all the same."""
    collector.fault("stall")
    server = start(name, f"{PLAIN} as it is", TELEMETRY_EXIT_TIMEOUT_MS="1000")
    accepted = load(server, requests=200, workers=BUSY[name])
    assert len(accepted) >= 200
    server.stop()
    assert "telemetry: not all was delivered\n" in server.output(), "says the master"
    if name == "eventloop":
        lost = re.findall(r"^telemetry: (\d+) events undelivered, 0 of", server.output(), re.M)
        assert 0 < sum(map(int, lost)) <= len(accepted), "say its processes"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_requests_in_pieces_and_worse(start: Start, collector: Collector, name: str) -> None:
    server = start(name)
    with raw(server) as nothing, raw(server) as large, raw(server) as body:
        nothing.sendall(b"GET / HT")
        nothing.shutdown(socket.SHUT_WR)
        assert rest_of(nothing) == b""
        with contextlib.suppress(OSError):
            large.sendall(b"GET /" + b"x" * 100_000)
        with contextlib.suppress(ConnectionResetError):
            assert rest_of(large) == b""
        body.sendall(b"POST / HTTP/1.1\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000)
        body.shutdown(socket.SHUT_WR)
        assert rest_of(body).startswith(b"HTTP/1.1 200 OK\r\n"), "not reset by what was unread"
    with raw(server) as slow:
        for piece in (b"GET / HTTP/1.1\r", b"\nHost: a\r\n", b"\r"):
            slow.sendall(piece)
        wait_until("a worker is in the middle of it", lambda: is_read(slow))
        server.process.send_signal(signal.SIGTERM)
        wait_until("a worker ends", lambda: len(children(server.process.pid)) < WORKERS)
        slow.sendall(b"\n")
        assert rest_of(slow).endswith(b"]]\n"), "what was begun before TERM is answered"
    stop(server)
    assert collector.stats()["unique"] == 4
    assert collector.stats()["duplicates"] == 0


def is_read(connection: socket.socket) -> bool:
    """Whether all that was sent is there, and a worker has accepted the connection and read it."""
    here, there = connection.getsockname()[1], connection.getpeername()[1]
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, _, _, _, _, inode, *_ = line.split()
        ports = tuple(int(address.split(":")[1], 16) for address in (local, remote))
        sent, received = (int(queue, 16) for queue in queues.split(":"))
        found[ports] = sent, received, int(inode)
    ours, theirs = found.get((here, there)), found.get((there, here))
    # What nobody has accepted belongs to no file.
    return bool(ours and theirs and ours[0] == 0 and theirs[1] == 0 and theirs[2])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_master_is_killed(start: Start, collector: Collector, name: str) -> None:
    server = start(name)
    accepted = load(server, requests=100, workers=BUSY[name])
    server.process.kill()
    wait_until("its workers end by themselves", lambda: not members(server.process.pid))
    rows = compare(accepted, collector.events())
    assert total(rows).lost == 0
    assert {row.pid for row in rows if row.unknown} <= {server.process.pid}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_says_what_is_wrong(built: Callable[[str, str], Path], name: str) -> None:
    program = built(name, PLAIN)

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(program), *args],
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    for args in ((), ("0",), ("65536",), ("8000", "0"), ("8000", "65")):
        done = run(*args)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:"), args
    done = run(str(free_port()), TELEMETRY_ENDPOINT="gopher://x")
    assert done.returncode == 1
    assert "endpoint" in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "in use" in done.stderr
