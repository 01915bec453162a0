"""Run a collector and a server, put load on the server, compare what both say. No dependencies.

The tests use it, and so does the demo: both judge by the same numbers. An event is known by
(pid, seq): the answer to a request says which events the worker's client took, the collector's file
says which arrived.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = ROOT / ".venv" / "bin"
EXAMPLES = ROOT / "python" / "examples"
LIBRARY = Path(
    os.environ.get("LIBTELEMETRY_PATH") or ROOT / "target" / "release" / "libtelemetry.so"
)
TOOL = Path(os.environ.get("TELEMETRY_BIN") or ROOT / "target" / "release" / "telemetry")

Key = tuple[int, int]

# Every wait has an end, which only what never comes reaches: a busy machine may be fifty times
# slower than one that is not.
PATIENCE = 240.0


class Failed(Exception):
    """A program did not do what the test needs; the text holds its output."""


def environment(endpoint: str = "", **more: str) -> dict[str, str]:
    """The environment of a program that uses the Python package of this tree."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("TELEMETRY_")}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "python", EXAMPLES, HERE)))
    env["LIBTELEMETRY_PATH"] = str(LIBRARY)
    # The second that is the default may be too short for a last flush on a busy machine.
    env["TELEMETRY_EXIT_TIMEOUT_MS"] = "60000"
    if endpoint:
        env["TELEMETRY_ENDPOINT"] = endpoint
    return {**env, **more}


def wait_until(what: str, ready: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Call `ready` until it returns something true; that value. Raises Failed after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = ready()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """A TCP and UDP port that nobody has, and that nobody else gets while this process lives.

    The kernel hands ports of its own range to whoever asks next, and may connect one of these to
    itself; so it is none of them. A name held in the abstract namespace, which every test process
    asks for first, keeps the others away.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    outside = [port for port in range(10_000, 65_000) if not low <= port <= high]
    while True:
        port = random.SystemRandom().choice(outside or range(10_000, 65_000))
        mine = socket.socket(socket.AF_UNIX)
        try:
            mine.bind(f"\0telemetry-test-port-{port}")
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            mine.close()
            continue
        _RESERVED.append(mine)
        return port


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def children(pid: int) -> list[int]:
    """The child processes of that process that run; none when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return [child for child in found if alive(child)]


def alive(pid: int) -> bool:
    """Whether that process runs; a zombie does not."""
    return session(pid) is not None


def kill_child(parent: int, pid: int, sig: int = signal.SIGKILL) -> bool:
    """Send `sig` to a process if it is a child of that one, and not a later one of its number."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # What is looked at now is what the descriptor is of: the number was its own until now.
        ours = pid in children(parent)
        if ours:
            signal.pidfd_send_signal(process, sig)
        return ours
    except ProcessLookupError:
        return False
    finally:
        os.close(process)


def session(pid: int) -> int | None:
    """The session of a process that runs."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[3])


def members(leader: int) -> list[int]:
    """The processes that run in that session."""
    # One call for each process of the machine, and not a file: every program's end waits for this.
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_of(pid, leader)]


def is_of(pid: int, leader: int) -> bool:
    """Whether that process runs in that session."""
    try:
        return os.getsid(pid) == leader and alive(pid)
    except ProcessLookupError:
        return False


class Program:
    """A child process in a session of its own, its output in a file."""

    def __init__(self, argv: list[str], log: Path, env: dict[str, str], cwd: Path = ROOT) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    def output(self) -> str:
        """What it has written."""
        return self.log.read_text(errors="replace")

    def wait_for(self, what: str, ready: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """`wait_until`, but fails at once when the program has ended."""

        def look() -> Any:
            value = ready()
            if not value and self.process.poll() is not None:
                raise Failed(f"{what}: it ended with {self.process.returncode}\n{self.output()}")
            return value

        try:
            return wait_until(what, look, seconds)
        except Failed as error:
            raise Failed(f"{error}\n{self.output()}") from None

    def stop(self, sig: int = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        """Send `sig` and wait for the end; its exit status. Raises Failed if it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"it did not end within {seconds:g} s\n{self.output()}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End what is left of it and of its children; they have ended when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        # A busy machine takes its time to end the others.
        wait_until("all of them end", lambda: not members(self.process.pid))

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class Collector(Program):
    """`telemetry collect`, storing what it takes in `out`."""

    def __init__(self, directory: Path, listen: str = "127.0.0.1:0", *more: str) -> None:
        if not TOOL.exists():
            raise Failed(f"{TOOL} is not there: make build, or set TELEMETRY_BIN")
        self.out = directory / "events.ndjson"
        argv = [str(TOOL), "collect", "--listen", listen, "--out", str(self.out), *more]
        super().__init__(argv, directory / "collector.log", dict(os.environ))
        line = re.compile(r"listening on (http://\S+)")
        found = self.wait_for("the collector listens", lambda: line.search(self.output()))
        self.url: str = found.group(1)

    def request(self, method: str, path: str, body: str = "") -> bytes:
        """One request to its control pages."""
        ask = urllib.request.Request(self.url + path, body.encode() or None, method=method)
        with urllib.request.urlopen(ask, timeout=PATIENCE) as answer:
            data: bytes = answer.read()
            return data

    def stats(self) -> dict[str, Any]:
        """GET /stats."""
        stats: dict[str, Any] = json.loads(self.request("GET", "/stats"))
        return stats

    def fault(self, faults: str) -> None:
        """Inject `faults` from now on; "" ends them."""
        self.request("PUT", "/fault", faults)

    def events(self) -> list[dict[str, Any]]:
        """Every event it took, in order, those taken twice twice."""

        def lines() -> list[str] | None:
            received = self.stats()["received"]
            text = self.out.read_text() if self.out.exists() else ""
            found = text.splitlines()
            # Its counters may run ahead of its file for a moment.
            return found if len(found) >= received and text[-1:] in ("", "\n") else None

        end = time.monotonic() + PATIENCE
        while (found := lines()) is None:
            if time.monotonic() > end:
                raise Failed(f"{self.out} has fewer lines than /stats says\n{self.output()}")
            time.sleep(0.01)
        return [json.loads(line) for line in found]

    def wait_unique(self, count: int, seconds: float = PATIENCE) -> None:
        """Wait until `count` different events have arrived; return anyway when the time is over."""
        with contextlib.suppress(Failed):  # the comparison that follows says what is missing
            wait_until(f"{count} events", lambda: self.stats()["unique"] >= count, seconds)

    def __enter__(self) -> Collector:
        return self


class Server(Program):
    """A web server under test, on a port of its own."""

    def __init__(self, argv: list[str], port: int, log: Path, env: dict[str, str]) -> None:
        super().__init__(argv, log, env, cwd=EXAMPLES)
        self.port = port
        try:
            self.wait_for(f"{argv[0]} listens on {port}", lambda: accepts(port))
        except BaseException:
            self.kill()
            raise

    def get(self, path: str, seconds: float = PATIENCE) -> Any:
        """The JSON that it answers."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return json.loads(answer.read())

    def __enter__(self) -> Server:
        return self


def load(
    server: Server, requests: int = 400, events: int = 5, threads: int = 8, workers: int = 4
) -> list[Key]:
    """Send `requests` from `threads` threads; the events that the workers' clients took.

    A server owes no worker a request, so more follow until `workers` of them have answered.
    """
    accepted: list[Key] = []
    failures: list[BaseException] = []
    left = iter(range(requests))

    def run() -> None:
        try:
            for _ in left:  # a range iterator may be shared: next() on it is atomic
                accepted.extend((pid, seq) for pid, seq in server.get(f"/emit?n={events}"))
        except (OSError, ValueError) as error:
            failures.append(error)

    def burst() -> None:
        pool = [threading.Thread(target=run) for _ in range(threads)]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
        if failures:
            raise Failed(f"{len(failures)} requests failed: {failures[0]!r}\n{server.output()}")

    burst()
    deadline = time.monotonic() + PATIENCE
    while len({pid for pid, _ in accepted}) < workers and time.monotonic() < deadline:
        left = iter(range(threads))
        burst()
    if len({pid for pid, _ in accepted}) >= workers:
        return accepted
    raise Failed(f"fewer than {workers} workers answered: {sorted({pid for pid, _ in accepted})}")


class Storm:
    """Load until the block ends, on a server whose workers die: broken requests do not matter."""

    def __init__(self, server: Server, path: str = "/emit?n=5", threads: int = 4) -> None:
        self.answered = 0
        self.broken = 0
        self._server = server
        self._path = path
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.heard(self._server.get(self._path, seconds=10))
                self.answered += 1
            except (OSError, ValueError, http.client.HTTPException):
                self.broken += 1
                self._over.wait(0.01)  # a server that is down refuses at once

    def heard(self, answer: Any) -> None:
        """A whole answer has come."""

    def __enter__(self) -> Storm:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Row(NamedTuple):
    """What became of the events of one process."""

    pid: int
    accepted: int
    delivered: int
    lost: int
    duplicates: int
    unknown: int
    """Arrived, but never reported as accepted."""


def compare(accepted: Iterable[Key], events: Iterable[dict[str, Any]]) -> list[Row]:
    """One row for each process, by pid."""
    taken = Counter(accepted)
    arrived = Counter((event["pid"], event["seq"]) for event in events)
    rows = []
    for pid in sorted({pid for pid, _ in taken} | {pid for pid, _ in arrived}):
        mine = {key for key in taken if key[0] == pid}
        theirs = {key: n for key, n in arrived.items() if key[0] == pid}
        rows.append(
            Row(
                pid,
                accepted=len(mine),
                delivered=len(mine & theirs.keys()),
                lost=len(mine - theirs.keys()),
                duplicates=sum(theirs.values()) - len(theirs),
                unknown=len(theirs.keys() - mine),
            )
        )
    return rows


def total(rows: list[Row]) -> Row:
    """The sum of `rows`, under pid 0."""
    return Row(0, *(sum(row[i] for row in rows) for i in range(1, len(Row._fields))))
