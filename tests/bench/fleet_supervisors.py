"""Supervisors to be measured side by side: ours in each of its modes, Gunicorn's arbiter and supervisord.

Invariants:
- A restart is the same for all: from right before kill(2) to the first instruction of the new worker's own code, which
  the worker itself reads from CLOCK_MONOTONIC and writes into a FIFO that the bench holds open.
- Every wait has a deadline, and one that passes ends the bench with what the supervisor had to say.
- What was started is ended and reaped, whatever happens.
"""

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from machine import HERE

# Longer than any of them takes for anything, supervisord's second included.
PATIENCE = 20
# Rounds that are made even if the time for them is over.
LEAST = 3


class Supervisor:
    """One running supervisor and what its workers say."""

    def __init__(self, name, place, command, env=None):
        self.name = name
        place.mkdir()
        self.path = place / "fifo"
        os.mkfifo(self.path)
        # Both ends: so no worker waits for a reader, and the end is never seen.
        self.fifo = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self.pending, self.ended = b"", False
        self.pids = []
        self.errors = place / "stderr"
        with open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in command(self.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=place,
                env={
                    **os.environ,
                    "BENCH_FIFO": str(self.path),
                    "TELEMETRY_RUNTIME_DIR": str(place.parent),
                    **(env or {}),
                },
            )
        self.pid = self.process.pid

    def give_up(self, why):
        said = self.errors.read_text(errors="replace").strip()
        raise SystemExit(f"WRONG RESULT: {self.name}: {why}; it said: {said[-2000:] or 'nothing'}")

    def wait_for(self, fd, what):
        """Until `fd` is readable."""
        deadline = time.monotonic() + PATIENCE
        while not select.select([fd], [], [], 0.5)[0]:
            if self.process.poll() is not None:
                self.give_up(f"ended with {self.process.returncode}")
            if time.monotonic() > deadline:
                self.give_up(f"{what}: nothing after {PATIENCE} s")

    def report(self):
        """The next worker's word: when it began, in ns, and its process."""
        while b"\n" not in self.pending:
            self.wait_for(self.fifo, "a worker's start")
            self.pending += os.read(self.fifo, 65536)
        line, self.pending = self.pending.split(b"\n", 1)
        began, pid = (int(word) for word in line.split())
        self.pids.append(pid)
        return began, pid

    def quiet(self):
        """No worker has been started that was not waited for."""
        return not self.pending and not select.select([self.fifo], [], [], 0)[0]

    def kill(self):
        """SIGKILL to its latest worker; when that was, in ns."""
        pid = self.pids.pop()
        before = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        return before

    def replaced(self, killed):
        """How long ago, in ns, the replacement then began after that."""
        began, _ = self.report()
        if began <= killed:
            self.give_up("a replacement began before the kill")
        return began - killed

    def ask(self, command, answers=True):
        """A command of fleet.c's supervise."""
        os.write(self.process.stdin.fileno(), command.encode())
        if not answers:
            return None
        self.wait_for(self.process.stdout, f"the answer to {command!r}")
        return int(self.process.stdout.readline())

    def stop(self):
        """Ask it to end; does not wait."""
        if not self.ended and self.process.poll() is None:
            self.process.terminate()

    def end(self):
        """End it and its workers, once."""
        if self.ended:
            return
        self.stop()
        self.ended = True
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        os.close(self.fifo)


class Stand:
    """Makes supervisors, and ends them with itself."""

    def __init__(self, bench, scratch):
        self.bench, self.scratch = bench, Path(scratch)
        self.program = bench.bin / "fleet"
        self.made = []

    def __enter__(self):
        return self

    def __exit__(self, *why):
        # All at once: supervisord takes its second for each thing.
        for one in self.made:
            one.stop()
        for one in self.made:
            one.end()

    def start(self, name, command, env=None):
        one = Supervisor(name, self.scratch / f"{len(self.made)}", command, env)
        self.made.append(one)
        return one

    def config(self, fifo, config):
        """Our fleets have their health endpoint, as in service."""
        health = f"unix:{fifo.parent / 'health'}"
        return json.dumps({"name": "bench", "health": health, "require_probe": True, **config})

    def library(self, name, workers=1, kind="function", zygote_mib=0, **config):
        """A program of the library's user: fleet.c's supervise."""

        def command(fifo):
            settings = self.config(fifo, config)
            return self.program, "supervise", self.bench.library, settings, workers, fifo, kind, zygote_mib

        return self.start(name, command)

    def tool(self, name, workers=1, beat=False, **config):
        """`telemetry fleet`; its workers are the program that supervisord runs too, and may use the library to beat."""

        def command(fifo):
            program = [self.program, "program", fifo, *([self.bench.library] if beat else [])]
            settings = self.config(fifo, config)
            return self.bench.tool, "fleet", "-q", "-n", workers, "--config", settings, "--", *program

        return self.start(name, command)

    def gunicorn(self, workers=1):
        def command(fifo):
            bind = f"unix:{fifo.parent / 'socket'}"
            settings = ["-c", HERE / "fleet_gunicorn.py", "-w", workers, "-b", bind]
            return sys.executable, "-m", "gunicorn", *settings, "fleet_gunicorn:app"

        return self.start("Gunicorn", command, {"PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"})

    def supervisord(self, workers=1):
        def command(fifo):
            lines = [
                "[supervisord]",
                "nodaemon=true",
                "logfile=/dev/null",
                "logfile_maxbytes=0",
                f"pidfile={fifo.parent / 'pid'}",
                "[program:worker]",
                f"command={self.program} program {fifo}",
                "process_name=%(process_num)d",
                f"numprocs={workers}",
                "startsecs=0",
                "autorestart=true",
                "stdout_logfile=NONE",
                "stderr_logfile=NONE",
            ]
            file = fifo.parent / "supervisord.conf"
            file.write_text("\n".join(lines) + "\n")
            return sys.executable, "-m", "supervisor.supervisord", "-c", file

        return self.start("supervisord", command)


def turns(rounds, seconds):
    """Their numbers; ends early on a machine that is too busy to make so many in that time."""
    end = time.monotonic() + seconds
    for turn in range(rounds):
        if turn >= LEAST and time.monotonic() > end:
            return
        yield turn


def restart_in_turns(supervisors, rounds, seconds, apart):
    """Kill one worker after the other, each `apart` seconds after its start at least; ns of each, by name."""
    took = {one.name: [] for one in supervisors}
    # No kind always follows the same other one; one order for all rounds, so that nobody's turn comes too early.
    supervisors = random.sample(supervisors, len(supervisors))
    rest = {one: time.monotonic() + apart for one in supervisors}
    for _ in turns(rounds, seconds):
        for one in supervisors:
            # What the one before still has to do (a slot to publish, a line to say) is over.
            time.sleep(max(0.004, rest[one] - time.monotonic()))
            took[one.name].append(one.replaced(one.kill()))
            rest[one] = time.monotonic() + apart
    for one in supervisors:
        if not one.quiet():
            one.give_up("more workers than were killed")
    return took


def restart_together(supervisors, rounds, within):
    """The same of slow ones: each is killed at a random time of the `within` seconds, and they wait side by side."""
    took = {one.name: [] for one in supervisors}
    for _ in range(rounds):
        start = time.monotonic()
        due = sorted((random.uniform(0, within), n) for n in range(len(supervisors)))
        killed = []
        for after, n in due:
            time.sleep(max(0, start + after - time.monotonic()))
            killed.append((supervisors[n], supervisors[n].kill()))
        for one, at in killed:
            took[one.name].append(one.replaced(at))
    return took


def usage(pid):
    """CPU in us and context switches, voluntary or not, of all threads; their number, and resident kB."""
    cpu = switches = 0
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    for task in tasks:
        cpu += int((task / "schedstat").read_text().split()[0]) / 1000
        switches += sum(int(n) for n in re.findall(r"voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text()))
    rss = int(re.search(r"^VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])
    return {"cpu_us": cpu, "switches": switches, "threads": len(tasks), "rss_kib": rss}
