"""Starts fleets (worker.c), looks at them from outside, and hands out items to their workers.

Invariants:
- Nothing here sleeps for an event: every wait polls until it has come, or fails after a deadline
  with what the fleet said.
- A fleet's processes are known by its own directory in their environment, which forked workers,
  programs and grandchildren all inherit: so what is left of a fleet is found whoever its parent is,
  and removed at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import http.client
import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from programs import BUILD, FLAGS, INCLUDE, environment

HERE = Path(__file__).parent
LONG = os.environ.get("CHAOS") == "1"

WAIT_S = 300
"""For anything that is to come soon; the rest is for a busy machine."""

NEVER_MS = 3_600_000
"""For limits that are not to be reached: whoever waits for one of these fails long before."""

MEASURED: list[str] = []
"""Lines for the end of the run."""

INHERITED = environment()
"""What programs get of this process's environment, as it was at first: pytest changes its own there
while other threads start programs."""

LOCK = threading.Lock()
NUMBERS = itertools.count(1)


@functools.cache
def _bin() -> Path:
    """A directory with the library under its SONAME, for as long as this process lives."""
    place = Path(tempfile.mkdtemp(prefix="fleet-bin-"))
    for name in ("libtelemetry.so", "libtelemetry.so.0"):
        (place / name).symlink_to((BUILD / "libtelemetry.so").resolve())
    place.chmod(0o755)
    command = ["cc", "-std=gnu11", *FLAGS[1:], f"-I{INCLUDE}", str(HERE / "worker.c")]
    command += ["-o", str(place / "worker"), f"-L{place}", "-ltelemetry", f"-Wl,-rpath,{place}"]
    subprocess.run(command, check=True)
    return place


def program() -> Path:
    """The compiled worker.c."""
    with LOCK:
        return _bin() / "worker"


def remove_programs() -> None:
    """At the end of the run."""
    if _bin.cache_info().currsize:
        shutil.rmtree(_bin())


def state_of(pid: int) -> str:
    """The letter of /proc/PID/stat; "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """Whether it runs: a process that nobody has reaped yet does not."""
    return state_of(pid) not in ("", "Z", "X")


def rss_kb(pid: int) -> int:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4


def descriptors(pid: int) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def until(
    what: str, holds: Callable[[], Any], seconds: float = WAIT_S, tell: Any = lambda: ""
) -> Any:
    """What `holds` gives as soon as it is true."""
    end = time.monotonic() + seconds
    pause = 0.005
    while not (got := holds()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}\n{tell()}"
        time.sleep(pause)
        pause = min(pause * 1.2, 0.1)
    return got


def whole_lines(path: Path) -> str:
    """What is in the file of others who write to it, up to the last line that is complete."""
    if not path.exists():
        return ""
    head, end, _ = path.read_text(errors="replace").rpartition("\n")
    return head + end


def put_program(source: str | Path, to: Path) -> None:
    """A file to be executed: a text, or another program's copy.

    Another process writes it. What this one has open for writing, children that other threads start
    at that moment have, too, and for as long nobody can execute it.
    """
    made = to.with_name(f".{to.name}.new")
    if isinstance(source, Path):
        subprocess.run(["cp", str(source), str(made)], check=True)
    else:
        subprocess.run(["dd", f"of={made}", "status=none"], input=source.encode(), check=True)
    made.chmod(0o755)
    made.rename(to)


PORTS = itertools.count()


def own_address() -> tuple[str, int]:
    """An address of this machine that nobody else uses, now or later.

    The system gives such ports to nobody who does not ask for one by its number, and this host is
    this process's own.
    """
    pid, number = os.getpid(), next(PORTS)
    return f"127.{pid % 200 + 20}.{pid // 200 % 200 + 1}.{number % 250 + 1}", 30_000 + number


class Line(NamedTuple):
    """What a worker noted."""

    us: int
    pid: int
    slot: int
    incarnation: int
    text: str


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("fleet", timeout=WAIT_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def group(
    script: str, count: int = 1, name: str = "w", kind: str = "call", **limits: Any
) -> list[str]:
    """The arguments of worker.c for one group. Our program says itself when it is ready."""
    if kind == "self":
        limits.setdefault("ready", "call")
    return [name, str(count), kind, script, json.dumps(limits)]


def exits(status: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """How those ended that were of that group. Who did not die within two seconds of its KILL keeps
    its slot for as long, and the next one has another."""
    workers = [one for one in status["workers"] if one["name"] == name]
    return [one["last_exit"] for one in workers if one["last_exit"]]


class Fleet:
    """One fleet and all that came of it."""

    def __init__(
        self,
        place: Path,
        *groups: list[str],
        options: str = "",
        prefix: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        program_: Path | None = None,
        listen: str | None = None,
        **config: Any,
    ) -> None:
        self.place = place
        self.log_path, self.flag, self.socket = place / "log", place / "flag", place / "health"
        self.runtime = place / "run"
        self.runtime.mkdir(mode=0o755)
        os.chown(self.runtime, place.stat().st_uid, place.stat().st_gid)
        self.stderr_path, self.stdout_path = place / "stderr", place / "stdout"
        defaults = {
            "name": "proof",
            "health": listen or f"unix:{self.socket}",
            # Nobody is killed for being slow, unless a test asks for it.
            "grace_ms": NEVER_MS,
            "kill_ms": NEVER_MS,
            "runtime_dir": str(self.runtime),
            "backoff_base_ms": 1,
        }
        self.config = defaults | config
        own = {"TEST_LOG": str(self.log_path), "TEST_FLAG": str(self.flag)}
        variables = {**INHERITED, **own, **(env or {})}
        command = [*prefix, str(program_ or program()), options or "-", json.dumps(self.config)]
        command += [word for one in groups for word in one]
        with self.stderr_path.open("w") as stderr, self.stdout_path.open("w") as stdout:
            self.process = subprocess.Popen(
                command,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                cwd=place,
            )
        self.pid = self.process.pid
        self.asked = 0

    # ---- what it says ----

    def stderr(self) -> str:
        """Everything it said."""
        return whole_lines(self.stderr_path)

    def tell(self) -> str:
        """For a failure."""
        logged = self.log_path.read_text() if self.log_path.exists() else ""
        return f"--- {self.place}\n{self.stderr()[-4000:]}\n--- log\n{logged[-3000:]}"

    def log(self, prefix: str = "") -> list[Line]:
        """What its workers noted, as far as it begins with this."""
        lines = []
        for line in whole_lines(self.log_path).splitlines():
            us, pid, slot, incarnation, text = (*line.split(" ", 4), "")[:5]
            if text.startswith(prefix):
                lines.append(Line(int(us), int(pid), int(slot), int(incarnation), text))
        return lines

    def get(self, path: str = "/status") -> tuple[int, str]:
        """The endpoint's answer."""
        self.asked += 1
        connection = Unix(self.socket)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """/status."""
        code, body = self.get()
        assert code == 200, body
        return dict(json.loads(body))

    def workers(self) -> dict[int, dict[str, Any]]:
        """The slots of /status."""
        return {worker["slot"]: worker for worker in self.status()["workers"]}

    def pids(self) -> dict[int, int]:
        """Who is in which slot."""
        return {slot: one["pid"] for slot, one in self.workers().items() if one["pid"]}

    def board_path(self) -> Path:
        """Where its scoreboard is published."""
        for path in self.runtime.glob(f"*.{self.pid}.board"):
            return path
        raise FileNotFoundError(f"no scoreboard in {self.runtime}")

    def board(self) -> dict[str, Any]:
        """The same as /status, read from the scoreboard: also of a supervisor that is stopped."""
        room = ctypes.create_string_buffer(1 << 20)
        library = ctypes.CDLL(str(program().parent / "libtelemetry.so.0"))
        read = library.telemetry_scoreboard_read
        read.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
        status = read(str(self.board_path()).encode(), room, len(room), None)
        if status != 0:
            raise OSError(f"scoreboard: status {status}")
        return dict(json.loads(room.value))

    # ---- waiting ----

    def until(self, what: str, holds: Callable[[], Any], seconds: float = WAIT_S) -> Any:
        """As `until`, with what it said. An endpoint that is not there yet counts as no."""

        def tried() -> Any:
            try:
                return holds()
            except (OSError, http.client.HTTPException):
                assert self.process.poll() is None or not self.expects_life, self.tell()
                return False

        return until(what, tried, seconds, self.tell)

    expects_life = True

    def until_status(
        self, what: str, holds: Callable[[dict[str, Any]], Any], seconds: float = WAIT_S
    ) -> dict[str, Any]:
        """The first /status for which it holds."""

        def tried() -> dict[str, Any] | None:
            status = self.status()
            return status if holds(status) else None

        return dict(self.until(what, tried, seconds))

    def until_ready(self, count: int, seconds: float = WAIT_S) -> dict[str, Any]:
        """So many workers are ready, and no other one is about to start."""
        return self.until_status(f"{count} ready", lambda s: s["slots"]["ready"] == count, seconds)

    def until_log(self, prefix: str, count: int = 1, seconds: float = WAIT_S) -> list[Line]:
        """So many lines were noted that begin with this."""

        def tried() -> list[Line] | None:
            lines = self.log(prefix)
            return lines if len(lines) >= count else None

        return list(self.until(f"{count} x {prefix!r}", tried, seconds))

    def until_said(self, text: str, seconds: float = WAIT_S) -> None:
        """It said that on its stderr."""
        self.until(f"{text!r} said", lambda: text in self.stderr(), seconds)

    def end(self, seconds: float = WAIT_S) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds} s\n{self.tell()}") from None

    # ---- doing ----

    def signal(self, number: int) -> None:
        """To the supervisor."""
        self.process.send_signal(number)

    def order(self, line: str, seconds: float = WAIT_S) -> int:
        """Have it done by the host in a watch callback; the status that the call gave."""
        before = len(self.log("order "))
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        done = self.until_log("order ", before + 1, seconds)[before]
        return int(done.text.split()[1])

    def stop(self, seconds: float = WAIT_S) -> int:
        """TERM, and its exit status."""
        self.signal(signal.SIGTERM)
        return self.end(seconds)

    def processes(self) -> list[int]:
        """All that run and are of this fleet, with what its workers started."""
        mark = f"TEST_LOG={self.log_path}".encode()
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0") and alive(
                        int(name)
                    ):
                        found.append(int(name))
        return found

    def close(self) -> None:
        """Nothing of it is left."""
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        deadline = time.monotonic() + WAIT_S
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < deadline, left
            time.sleep(0.01)


class Items:
    """Hands out numbers over a Unix socket; again what was not acknowledged when its taker went."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.acknowledged: list[int] = []
        self.handed_again = 0
        self._again: list[int] = []
        self._next = 0
        self._open: dict[int, tuple[socket.socket, int | None]] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(128)
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        poll = select.epoll()
        poll.register(self._listener, select.EPOLLIN)
        poll.register(self._wake, select.EPOLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake:
                    return
                if fd == self._listener.fileno():
                    taker, _ = self._listener.accept()
                    self._open[taker.fileno()] = (taker, None)
                    poll.register(taker, select.EPOLLIN)
                    continue
                taker, item = self._open[fd]
                try:
                    message = taker.recv(64)
                except ConnectionResetError:
                    message = b""
                if message == b"take":
                    item = self._again.pop() if self._again else self._take_new()
                    with contextlib.suppress(BrokenPipeError):
                        taker.send(str(item).encode())
                    self._open[fd] = (taker, item)
                elif message:
                    assert int(message) == item
                    self.acknowledged.append(int(message))
                    self._open[fd] = (taker, None)
                else:
                    if item is not None:
                        self._again.append(item)
                        self.handed_again += 1
                    poll.unregister(fd)
                    taker.close()
                    del self._open[fd]

    def _take_new(self) -> int:
        self._next += 1
        return self._next

    def close(self) -> None:
        """No more."""
        os.close(self._woken)
        self._thread.join(WAIT_S)
        self._listener.close()

    def takers(self) -> int:
        """How many are connected."""
        return len(self._open)

    def in_flight(self) -> list[int]:
        """What is handed out and not acknowledged."""
        return [item for _, item in list(self._open.values()) if item is not None]

    def lost(self) -> set[int]:
        """Handed out, neither acknowledged nor waiting to be handed out again."""
        assert not self._open, "somebody may still acknowledge"
        return set(range(1, self._next + 1)) - set(self.acknowledged) - set(self._again)


class Manager:
    """A service manager's end of NOTIFY_SOCKET. Heard all the time: there is room for ten messages,
    and whoever has more to tell does not wait."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = path
        self._socket.bind(str(path))
        self.told: list[dict[str, str]] = []
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while text := self._socket.recv(4096).decode():
            self.told.append(dict(line.split("=", 1) for line in text.splitlines()))

    def count(self, key: str) -> int:
        """How often that was told."""
        return sum(key in message for message in list(self.told))

    def heard(self) -> None:
        """Returns when all that has been told is heard."""
        before = self.count("MARK")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"MARK=1", str(self.path))
        until("all is heard", lambda: self.count("MARK") > before)

    def close(self) -> None:
        """All that was told is heard, and nothing more is."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", str(self.path))
            self._thread.join(WAIT_S)
        self._socket.close()


class Fleets:
    """The fleets of one test."""

    def __init__(self) -> None:
        # Short: a Unix socket's path has 107 bytes.
        self.place = Path(tempfile.mkdtemp(prefix="fleet-"))
        self.place.chmod(0o755)
        self._made: list[Any] = []

    def make(self, *groups: list[str], **more: Any) -> Fleet:
        """One that runs; see `Fleet`."""
        place = self.place / str(next(NUMBERS))
        place.mkdir()
        if "owner" in more:
            owner = more.pop("owner")
            os.chown(place, owner, owner)
            more["prefix"] = (
                *more.pop("prefix", ()),
                *("setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups"),
            )
        fleet = Fleet(place, *groups, **more)
        self._made.append(fleet)
        return fleet

    def items(self) -> Items:
        """A server of items; its path is for TEST_ITEMS."""
        self._made.append(Items(self.place / f"items{next(NUMBERS)}"))
        items: Items = self._made[-1]
        return items

    def manager(self) -> Manager:
        """A service manager; its path is for NOTIFY_SOCKET."""
        self._made.append(Manager(self.place / f"notify{next(NUMBERS)}"))
        manager: Manager = self._made[-1]
        return manager

    def close(self) -> None:
        """Nothing is left."""
        for one in reversed(self._made):
            one.close()
        shutil.rmtree(self.place, ignore_errors=True)


@contextlib.contextmanager
def opened() -> Iterator[Fleets]:
    """A set of fleets, and their end."""
    fleets = Fleets()
    try:
        yield fleets
    finally:
        fleets.close()
