"""Puts processes on a spool, ends them in every way, and judges by the collector's file.

`Stage` is one spool with one collector that comes and goes; its actors (actor.c) do as they are
told.
`judge` compares the page of kill.c with what arrived.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import json
import mmap
import os
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from programs import Collector, compare, environment, read_ledger

import harness

HERE = Path(__file__).parent
LONG = os.environ.get("CHAOS") == "1"

OK, FULL, TIMEOUT = 0, 1, 4

WAIT_S = 300
"""For anything that is to come soon, such as a sibling's delivery 15 s after a death at the latest;
the rest is for a busy machine."""

DOWN = "refuse"
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session", autouse=True)
def orphans_come_to_us() -> Iterator[None]:
    """Whose parent was killed is our child: who has no other parent may stay a zombie for ever."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def wait_until(what: str, holds: Callable[[], Any]) -> Any:
    """What `holds` gives as soon as it is true."""
    return harness.wait_until(what, holds, WAIT_S)


def file_system(path: Path) -> str:
    """Its type, such as ext4."""
    told = subprocess.run(
        ["df", "--output=fstype", str(path)], capture_output=True, text=True, check=True
    )
    return told.stdout.split()[-1]


class Dead(Exception):
    """An actor ended instead of answering."""


class Actor:
    """One process on the stage."""

    def __init__(self, stage: Stage, connection: socket.socket, parent: Actor | None) -> None:
        self.stage, self.connection, self.parent = stage, connection, parent
        connection.settimeout(2 * WAIT_S)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid: int = struct.unpack("3i", credentials)[0]
        self.calls_itself = int(self.answer())  # in a container: its pid in there
        self.pidfd = os.pidfd_open(self.pid)

    def tell(self, *words: object) -> None:
        """Give an order; `answer` is due."""
        self.connection.send(" ".join(map(str, words)).encode())

    def answer(self) -> str:
        """The answer to the order; Dead if there is none and never will be."""
        try:
            line = self.connection.recv(4096)
        except ConnectionResetError:
            line = b""
        if not line:
            raise Dead(self.stage.complaints())
        return line.decode()

    def ask(self, *words: object) -> str:
        """An order and its answer."""
        self.tell(*words)
        return self.answer()

    def open(self, client: int = 0, **more: Any) -> Actor:
        """Open a client on the stage's spool."""
        members = json.dumps({**self.stage.config, **more})[1:-1]
        self.ask("open", client, members)
        return self

    def send(self, tag: str, count: int, first: int = 0, client: int = 0) -> None:
        """Events that must be taken, and so must arrive."""
        self.ask("send", client, tag, first, count)

    def flush(self, timeout_ms: int = WAIT_S * 1000, client: int = 0) -> int:
        """The status."""
        return int(self.ask("flush", client, timeout_ms).split()[0])

    def shutdown(self, timeout_ms: int = WAIT_S * 1000, client: int = 0) -> tuple[int, float]:
        """The status, and the seconds it took."""
        status, took = self.ask("shutdown", client, timeout_ms).split()
        return int(status), int(took) / 1000

    def stats(self, client: int = 0) -> dict[str, int]:
        """The counters."""
        counters: dict[str, int] = json.loads(self.ask("stats", client))
        return counters

    def fork(self, kind: str = "fork") -> Actor:
        """A child; both go on."""
        self.tell("fork", kind)
        child = self.stage.enter(self)
        assert int(self.answer()) == child.calls_itself
        return child

    def end(self, *words: object) -> None:
        """An order that ends the process; returns when it has."""
        self.tell(*words)
        self.gone()

    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def segments(self) -> list[str]:
        """Its mappings of segments, removed ones too."""
        maps = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        return [line for line in maps if ".seg" in line]

    def sender_sleeps(self) -> bool:
        """Whether it has a second thread, which waits for something to do."""
        tasks = [
            task for task in Path(f"/proc/{self.pid}/task").iterdir() if task.name != str(self.pid)
        ]
        return len(tasks) == 1 and "futex" in (tasks[0] / "wchan").read_text()

    def become(self, program: str, argument: str) -> None:
        """exec of another program; returns when it runs."""
        self.tell("exec", program, argument)
        assert self.connection.recv(4096) == b""  # closed by exec

    def again(self) -> Actor:
        """exec of the same program; who it is then."""
        self.tell("again")
        actor = self.stage.enter(self.parent)
        assert actor.pid == self.pid
        self.forget()
        return actor

    def kill(self, *signals: int) -> None:
        """Send it `signals` (SIGKILL) and wait for its end."""
        for one in signals or (signal.SIGKILL,):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, one)
        self.gone()

    def gone(self) -> None:
        """Wait for its end; it stays a zombie if it has a parent here that does not reap it."""
        end = select.poll()
        end.register(self.pidfd, select.POLLIN)
        assert end.poll(WAIT_S * 1000), f"{self.pid} did not end\n{self.stage.complaints()}"
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.forget()

    def forget(self) -> None:
        """It is no longer there, or no longer an actor."""
        os.close(self.pidfd)
        self.connection.close()
        self.stage.actors.remove(self)


def start_of(pid: int) -> int:
    """When it started, in clock ticks since boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[19])


class Own(NamedTuple):
    """An own file: `<stem>@<holder>.own`."""

    path: Path
    stem: str
    holder: str

    @property
    def pid(self) -> int:
        """The holder's process."""
        return int(self.parts()["pid"])

    def parts(self) -> dict[str, str]:
        """What the holder is made of."""
        found = re.fullmatch(
            r"(?P<boot>[0-9a-f]{16})-(?P<ns>[0-9a-f]+)-(?P<pid>\d+)-(?P<start>\d+)-(?P<image>[0-9a-f]{16})",
            self.holder,
        )
        assert found, self.holder
        return found.groupdict()

    def give_to(self, holder: str | None = None, **changed: object) -> Own:
        """The same file under the name of another holder."""
        if holder is None:
            parts = {**self.parts(), **{key: str(value) for key, value in changed.items()}}
            holder = "-".join(parts[key] for key in ("boot", "ns", "pid", "start", "image"))
        path = self.path.with_name(f"{self.stem}@{holder}.own")
        self.path.rename(path)
        return Own(path, self.stem, holder)

    def locked(self) -> bool:
        """Whether some other process holds it. Closing it again frees no lock but ours."""
        with self.path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False


class Stage:
    """A spool, a collector on a port of its own (down at first), and processes that use both."""

    numbers = itertools.count()

    def __init__(self, programs: Any, directory: Path, spool: Path) -> None:
        self.programs, self.directory, self.spool = programs, directory, spool
        # Nobody else's, also while the collector is away: the system gives such a port only to who
        # asks for it by its number, and the host is this stage's own.
        number = next(self.numbers)
        host = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 200 + 1}.{number % 250 + 1}"
        self.address = f"{host}:{20_000 + number}"
        self.endpoint = f"http://{self.address}"
        self.out, self.ledger = directory / "arrived.ndjson", directory / "ledger"
        self.ledger.touch()
        self.config: dict[str, Any] = {
            "name": "stage",
            "spool_dir": str(spool),
            "segment_bytes": 65536,
            "max_event_bytes": 4096,
            "batch": {"max_age_ms": 20, "max_events": 100},
            "retry": {"initial_ms": 20, "max_ms": 200},
            # A request that is given up is sent again, though it may have arrived.
            "timeout_ms": WAIT_S * 1000,
            "exit_timeout_ms": WAIT_S * 1000,
        }
        self.collector: Collector | None = None
        self.log = (directory / "stderr").open("ab")
        self.name = f"telemetry-stage-{os.getpid()}-{number}"
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.door.bind("\0" + self.name)
        self.door.listen(64)
        self.door.settimeout(WAIT_S)
        self.started: list[subprocess.Popen[bytes]] = []
        self.actors: list[Actor] = []

    def environment(self) -> dict[str, str]:
        """What every program of the stage runs in."""
        return environment(
            TEST_LEDGER=str(self.ledger), TEST_ENDPOINT=self.endpoint, TEST_STAGE=self.name
        )

    def enter(self, parent: Actor | None = None) -> Actor:
        """The process that connects next."""
        try:
            connection, _ = self.door.accept()
        except TimeoutError:
            raise Dead(f"nobody came\n{self.complaints()}") from None
        self.actors.append(Actor(self, connection, parent))
        return self.actors[-1]

    def actor(self, *prefix: str) -> Actor:
        """A new process, without a client."""
        self.started.append(
            subprocess.Popen(
                [*prefix, str(self.programs(str(HERE / "actor.c")))],
                env=self.environment(),
                stderr=self.log,
                cwd=self.directory,
            )
        )
        return self.enter()

    def start(self, **more: Any) -> Actor:
        """A new process with a client."""
        return self.actor().open(**more)

    def collect(self, faults: str = "") -> Collector:
        """The collector comes up, and goes on with its file."""
        assert self.collector is None
        self.collector = Collector(self.out, self.address, faults)
        return self.collector

    def silence(self) -> None:
        """The collector goes."""
        if self.collector is not None:
            self.collector.close()
            self.collector = None

    def complaints(self) -> str:
        """What the processes wrote to stderr."""
        return (self.directory / "stderr").read_text(errors="replace")[-3000:]

    def accepted(self) -> int:
        """How many events are in the ledger."""
        return len(read_ledger(self.ledger)[0])

    def wait_arrived(self, count: int) -> None:
        """Wait until the collector has so many different events."""
        collector = self.collector
        assert collector is not None
        wait_until(f"{count} events", lambda: collector.stats()["unique"] >= count)

    def compare(self) -> Counter[Any]:
        """All end; each event of the ledger arrived once, no other did, nothing is left."""
        self.done()
        arrived: Counter[Any] = compare(self.ledger, [self.out])
        return arrived

    def compare_unique(self) -> int:
        """The same where events may arrive again, each under its id; how many did."""
        self.done()
        first: dict[str, str] = {}
        duplicates = 0
        with self.out.open() as lines:
            for line in lines:
                if first.setdefault(json.loads(line)["id"], line) is not line:
                    duplicates += 1
                    assert first[json.loads(line)["id"]] == line
        distinct = self.directory / "distinct.ndjson"
        distinct.write_text("".join(first.values()))
        compare(self.ledger, [distinct])
        return duplicates

    def files(self, suffix: str = "") -> list[Path]:
        """The spool's files."""
        return sorted(path for path in self.spool.glob(f"*/*{suffix}") if path.is_file())

    def owns(self) -> list[Own]:
        """The own files."""
        found = []
        for path in self.files(".own"):
            stem, holder = path.name.removesuffix(".own").split("@")
            found.append(Own(path, stem, holder))
        return found

    def own(self, actor: Actor) -> Own:
        """The own file of an actor with one client."""
        (found,) = (
            own for own in self.owns() if own.holder != "none" and own.pid == actor.calls_itself
        )
        return found

    def done(self) -> None:
        """Who still lives ends by exit; then nothing may be left in the spool."""
        for actor in list(self.actors):
            actor.end("exit")
        assert self.files() == [], self.complaints()

    def close(self) -> None:
        """End everything."""
        for actor in self.actors:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(actor.pidfd, signal.SIGKILL)
        for actor in list(self.actors):
            actor.gone()
        for process in self.started:
            process.kill()
            process.wait(WAIT_S)
        self.silence()
        self.door.close()
        self.log.close()


@pytest.fixture
def stages(programs: Any, tmp_path: Path) -> Iterator[Callable[[], Stage]]:
    """stages(): one more stage."""
    made: list[Stage] = []

    def make() -> Stage:
        directory = tmp_path / f"stage{len(made)}"
        directory.mkdir()
        made.append(Stage(programs, directory, directory / "spool"))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def stage(stages: Callable[[], Stage]) -> Stage:
    """One stage."""
    return stages()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory."""
    with tempfile.TemporaryDirectory(prefix="telemetry-", dir="/dev/shm") as directory:
        yield Path(directory)


# ---- kill.c ----

SLOTS = 6
FIELDS = ("acked", "full", "recovered", "corrupt")
TEXT = "".join(chr(ord("a") + (i * 7 + i // 26) % 26) for i in range(4096))


def pad(slot: int, seq: int) -> str:
    """The filler of an event, as kill.c makes it."""
    length = 2500 + seq % 800 if seq % 97 == 96 else 20 + seq * 13 % 160
    first = (seq + 17 * slot) % 61
    return TEXT[first : first + length]


class Page:
    """The page on which victims note what they were promised."""

    def __init__(self, path: Path, lives: int) -> None:
        self.path, self.lives = path, lives
        path.write_bytes(bytes(lives * SLOTS * len(FIELDS) * 8))

    def rows(self) -> Iterator[tuple[int, int, dict[str, int]]]:
        """(life, slot, fields) of each slot that was used."""
        with self.path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as page:
            words = memoryview(page).cast("Q")
            for index in range(self.lives * SLOTS):
                first = index * len(FIELDS)
                fields = dict(zip(FIELDS, words[first : first + len(FIELDS)]))
                yield index // SLOTS, index % SLOTS, fields
            words.release()


class Verdict(NamedTuple):
    """What became of the events of all lives."""

    acknowledged: int
    recovered: int
    """At least: a killed process cannot say what it adopted since it last said so."""
    arrived: int
    duplicates: int
    in_doubt: int
    """Arrived, though their process was killed before enqueue returned."""
    full: int
    """Times enqueue said so."""


def judge(page: Page, out: Path) -> Verdict:
    """Every acknowledged event arrived, whole and under one id; no other did."""
    acked: dict[tuple[int, int], int] = {}
    recovered = full = 0
    for life, slot, fields in page.rows():
        acked[life, slot] = fields["acked"]
        assert fields["corrupt"] == 0  # a kill damages nothing: what was not finished is no record
        recovered += fields["recovered"]
        full += fields["full"]
    seen: dict[tuple[int, int], list[str]] = {
        key: [""] * (count + 1) for key, count in acked.items()
    }
    ids: set[str] = set()
    distinct = duplicates = 0
    problems: list[str] = []
    with out.open() as lines:
        for line in lines:
            event = json.loads(line)
            life, slot, seq = event["life"], event["slot"], event["seq"]
            row = seen.get((life, slot), [])
            if seq >= len(row) or event["pad"] != pad(slot, seq):
                problems.append(f"never enqueued: {line!r:.200}")
                continue
            identity = event["id"] + event["timestamp"]
            if not row[seq]:
                row[seq] = identity
                ids.add(event["id"])
                distinct += 1
            elif row[seq] == identity:
                duplicates += 1
            else:
                problems.append(f"{life}/{slot}/{seq} under {row[seq]} and under {identity}")
    lost = [(*key, seq) for key, row in seen.items() for seq in range(acked[key]) if not row[seq]]
    if lost:
        problems.append(f"lost: {len(lost)} of {sum(acked.values())}, such as {lost[:5]}")
    if len(ids) != distinct:
        problems.append(f"{distinct} events under {len(ids)} ids")
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:20])
    return Verdict(
        acknowledged=sum(acked.values()),
        recovered=recovered,
        arrived=distinct + duplicates,
        duplicates=duplicates,
        in_doubt=distinct - sum(acked.values()),
        full=full,
    )
