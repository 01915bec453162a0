"""`make demo`: does a preloaded Gunicorn lose events? Counted, with real processes and requests.

Starts `telemetry collect` and `gunicorn --preload -w 4 app:application`, sends 400 requests that
report 5 events each, stops Gunicorn right after the last answer, and compares event by event what
the workers' clients took with what the collector has. Then the same with a spool: the collector
refuses everything, master and workers are killed with SIGKILL, and the server is started again.
Exits with 0 only if both times all that was taken has arrived, once.

    demo.py [--requests N] [--keep]      --keep: leave the collector running, to look at its page
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "servers"))

# The tests judge by the same code.
from harness import (  # noqa: E402
    BIN,
    LIBRARY,
    TOOL,
    Collector,
    Failed,
    Key,
    Row,
    Server,
    compare,
    environment,
    free_port,
    load,
    total,
)

WORKERS = 4
EVENTS = 5


def run(collector: Collector, directory: Path, requests: int) -> tuple[list[Key], list[Key]]:
    """Start the server, send the requests, stop it; the events taken by master and workers."""
    with gunicorn(collector, directory, "gunicorn.log") as server:
        print(
            f"server     http://127.0.0.1:{server.port}   gunicorn --preload -w {WORKERS}, no hook"
        )
        master = [(pid, seq) for pid, seq in server.get("/startup")]
        start = time.monotonic()
        workers = load(server, requests, EVENTS, workers=WORKERS)
        took = time.monotonic() - start
        print(f"requests   {len(workers) // EVENTS} from 8 threads in {took:.1f} s")
        server.stop()
        print("stop       SIGTERM right after the last answer\n")
    return master, workers


def gunicorn(collector: Collector, directory: Path, log: str, **env: str) -> Server:
    """The server, started; its master has taken events at import."""
    port = free_port()
    argv = [str(BIN / "gunicorn"), "--preload", "-w", str(WORKERS), "-b", f"127.0.0.1:{port}"]
    argv += ["--control-socket", str(directory / "gunicorn.ctl"), "app:application"]
    return Server(argv, port, directory / log, environment(collector.url, **env))


def kill(collector: Collector, directory: Path, requests: int) -> list[Key]:
    """Kill the server while the collector is down, start it again; the events taken by all."""
    spool = directory / "spool"
    taken: list[Key] = []
    collector.fault("refuse")
    with gunicorn(collector, directory, "killed.log", TELEMETRY_SPOOL_DIR=str(spool)) as server:
        taken += [(pid, seq) for pid, seq in server.get("/startup")]
        taken += load(server, requests, EVENTS, workers=WORKERS)
        server.kill()
    files = list(spool.glob("*/*.seg"))
    print(f"kill -9    master and workers, collector down: {len(files)} segments in the spool")
    collector.fault("")
    with gunicorn(collector, directory, "again.log", TELEMETRY_SPOOL_DIR=str(spool)) as server:
        taken += [(pid, seq) for pid, seq in server.get("/startup")]
        taken += load(server, WORKERS, EVENTS, workers=1)
        collector.wait_unique(len(taken), seconds=30)
        server.stop()
    print("start      the same again; a few requests, and then SIGTERM\n")
    return taken


def print_table(rows: list[Row], master: int) -> None:
    """A line a process, and the sum."""
    print(f"{'process':<16}{'accepted':>10}{'delivered':>10}{'lost':>8}{'duplicates':>12}")
    for row in [*rows, total(rows)]:
        name = f"{'master' if row.pid == master else 'worker'} {row.pid}" if row.pid else "all"
        print(f"{name:<16}{row.accepted:>10}{row.delivered:>10}{row.lost:>8}{row.duplicates:>12}")


def judge(rows: list[Row]) -> bool:
    """Whether every event that was taken has arrived, once."""
    sums = total(rows)
    exact = sums.accepted > 0 and not (sums.lost or sums.duplicates or sums.unknown)
    print("\nnothing lost, nothing twice" if exact else "\nNOT exactly once")
    return exact


def main() -> int:
    """Run the demo; its exit status."""
    parser = argparse.ArgumentParser(description="Does a preloaded Gunicorn lose events?")
    parser.add_argument("--requests", type=int, default=400, help="how many (400)")
    parser.add_argument("--keep", action="store_true", help="leave the collector running")
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for path in (TOOL, LIBRARY, BIN / "gunicorn"):
        if not path.exists():
            print(f"{path} is missing: run `make demo`, or `make build setup` first")
            return 2

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with Collector(directory) as collector:
            print(f"collector  {collector.url}   its live page, while this runs")
            master, workers = run(collector, directory, args.requests)
            collector.wait_unique(len(master) + len(workers), seconds=2)
            rows = compare(master + workers, collector.events())
            print_table(rows, master[0][0])
            exact = judge(rows)
            second = directory / "second"
            second.mkdir()
            with Collector(second) as other:
                print(f"\nNow with a spool; collector {other.url}")
                taken = kill(other, directory, args.requests)
                rows = compare(taken, other.events())
                print_table(rows, taken[0][0])
                exact = judge(rows) and exact
            if args.keep:
                print(f"the live page stays at {collector.url} until you press Enter or Ctrl-D")
                sys.stdin.readline()
            elif sys.stdin.isatty():
                print("to look at the live page afterwards: python/examples/demo.py --keep")
    return 0 if exact else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"the demo could not run: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
