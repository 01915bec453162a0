"""The fleet's rows: how soon a killed worker is replaced, what a supervisor at rest uses, what a fork and a call cost.

What could mislead:
- One definition of a restart for all (see fleet_supervisors). What a worker does before it serves is not in it: for
  Gunicorn that is the rest of its start, for a program everything after the first line of its main.
- Ours gives a fleet of one worker one restart each 500 ms, so each kind is measured on several supervisors that take
  turns; nothing else runs meanwhile but the peers at rest. p99 is the slowest but a few: the counts are given.
- Memory is touched in small pages.
- At rest all supervisors stand side by side for the same seconds; their workers' own CPU is nobody's.
"""

import contextlib
import os
import re
import select
import statistics
import tempfile
import time
from pathlib import Path

from fleet_supervisors import LEAST, PATIENCE, Stand, restart_in_turns, restart_together, turns, usage
from machine import run
from table import Row

# A fleet of one worker earns a fork in 500 ms.
APART = 0.53
ROUNDS = 16
# supervisord looks around once a second.
TICK = 1.0
# Immediate restarts, and nothing said about how many there are.
RESTARTED = {"healthy_after_ms": 0, "intensity": 1_000_000}
FUNCTION, COMMAND, ZYGOTE = "C function, `fork`", "`telemetry fleet`, a program", "C function, `zygote`"
# MiB touched, and how many starts from each.
TURNS = {1: 25, 100: 15, 1000: 7}
# And for how long at most.
TURNS_SECONDS = 1.0
IDLE_SECONDS = 60


def measure(bench):
    with tempfile.TemporaryDirectory(prefix="libtelemetry-bench-") as scratch:
        for part in (calls, restarts, forks, idle):
            place = Path(scratch) / part.__name__
            place.mkdir()
            with Stand(bench, place) as stand:
                part(bench, stand)


def wrong(what):
    raise SystemExit(f"WRONG RESULT: {what}")


def ms(ns):
    return f"{ns / 1e6:.2f} ms" if ns < 1e7 else f"{ns / 1e6:.0f} ms"


def part_text(ours, theirs):
    return f"1/{theirs / ours:.1f}" if ours < theirs else f"{ours / theirs:.1f} x"


def part_of(values, q):
    """The value that a part `q` of all does not exceed."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


# ---- restarts ----


def restarts(bench, stand):
    """Every kind in the same rounds, then supervisord alone."""
    ours = []
    for _ in range(6):
        ours += [
            stand.library(FUNCTION, mode="fork", **RESTARTED),
            stand.library(ZYGOTE, mode="zygote", **RESTARTED),
            stand.tool(COMMAND, **RESTARTED),
        ]
    big = {
        f"{FUNCTION}, 100 MiB in the supervisor": {"mode": "fork"},
        f"{ZYGOTE}, 100 MiB in the supervisor": {"mode": "zygote"},
        f"{ZYGOTE}, 100 MiB in the zygote": {"mode": "zygote", "zygote_mib": 100},
    }
    for name, how in big.items():
        for _ in range(2):
            ours.append(stand.library(name, **how, **RESTARTED))
    gunicorn = [stand.gunicorn() for _ in range(2)] if bench.peers else []
    # At rest until it is their turn, after all others.
    supervisord = [stand.supervisord() for _ in range(6)] if bench.peers else []
    for one in (*ours, *gunicorn, *supervisord):
        one.report()
        if one.name.endswith("in the supervisor"):
            one.ask("t100")
    took = restart_in_turns([*ours, *gunicorn], bench.times(ROUNDS, LEAST), ROUNDS * APART, APART)
    took |= restart_together(supervisord, bench.times(2), TICK)
    bench.results["fleet_restart_ns"] = took

    p50, p99 = ({name: part_of(ns, q) for name, ns in took.items()} for q in (0.5, 0.99))
    bench.row(
        "fleet: SIGKILL of a worker to its replacement's first instruction, C function, small supervisor",
        "p50 under 2 ms",
        f"p50 {ms(p50[FUNCTION])}, p99 {ms(p99[FUNCTION])} ({len(took[FUNCTION])} kills)",
        p50[FUNCTION],
        2e6,
    )
    if bench.peers:
        slowest = max((FUNCTION, ZYGOTE, COMMAND), key=p50.get)
        best = min(("Gunicorn", "supervisord"), key=p50.get)
        bench.row(
            "same, the slowest of `fork`, `zygote` and `telemetry fleet`, against Gunicorn and supervisord",
            "faster than either",
            f"p50 {ms(p50[slowest])} ({slowest}) against {ms(p50[best])} ({best})",
            p50[slowest],
            p50[best],
            part_text(p50[slowest], p50[best]),
        )
    lines = [f"| {name} | {ms(p50[name])} | {ms(p99[name])} | {len(ns)} |" for name, ns in took.items()]
    bench.tables.append(
        "Fleet: SIGKILL of a worker to the first instruction of its replacement's own code (a C function's or a "
        "program's first line, Gunicorn's `post_fork`), one worker, supervisors side by side:\n\n"
        "| supervisor and worker | p50 | p99 | kills |\n| --- | ---: | ---: | ---: |\n" + "\n".join(lines)
    )


# ---- forks ----


def forks(bench, stand):
    """From the supervisor's decision to the new worker's first instruction, by the size of what is forked."""
    times, cells = {}, {}
    for mib in TURNS:
        ways = {
            "fork": {"mode": "fork"},
            "exec": {"mode": "exec", "kind": "program"},
            "zygote": {"mode": "zygote"},
            "zygote, loaded in it": {"mode": "zygote", "zygote_mib": mib},
        }
        for way, how in ways.items():
            free = available_mib()
            if free < 1.2 * mib + 256:
                cells[mib, way] = f"not measured, {free} MiB free"
                continue
            one = stand.library(f"{way}, {mib} MiB", workers=1, **how)
            ns = times[f"{way}, {mib} MiB"] = grow_and_shrink(one, mib, how, bench.times(TURNS[mib], LEAST))
            one.end()
            cells[mib, way] = ms(statistics.median(ns))
    bench.results["fleet_fork_ns"] = times
    lines = [f"| {mib} MiB | " + " | ".join(cells[mib, way] for way in ways) + " |" for mib in TURNS]
    bench.tables.append(
        "Fleet: from the supervisor's decision to start a worker to that worker's first instruction, p50, by the "
        "memory touched in the supervisor; in the last column in the zygote, by `prepare`, and forked twice:\n\n"
        "| touched | `fork` | `exec` | `zygote` | `zygote`, loaded in it |\n| ---: | ---: | ---: | ---: | ---: |\n"
        + "\n".join(lines)
    )


def available_mib():
    found = re.search(r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M)
    return int(found[1]) // 1024


def grow_and_shrink(one, mib, how, times):
    """One worker more and one fewer, again and again: ns of each start."""
    alive = []
    with contextlib.ExitStack() as opened:

        def watch():
            began, pid = one.report()
            alive.append(os.pidfd_open(pid))
            return began

        opened.callback(lambda: [os.close(fd) for fd in alive])
        watch()
        if "zygote_mib" not in how:
            one.ask(f"t{mib}")
        took = []
        for turn in turns(times + 1, TURNS_SECONDS):
            one.ask("+", answers=False)
            began = watch()
            ns = began - one.ask("?")
            if ns <= 0:
                one.give_up("a worker began before it was asked for")
            if turn:  # the first warms up
                took.append(ns)
            time.sleep(0.002)
            one.ask("-", answers=False)
            gone = select.select(alive, [], [], PATIENCE)[0]
            if len(gone) != 1:
                one.give_up(f"{len(gone)} workers ended instead of one")
            alive.remove(gone[0])
            os.close(gone[0])
    return took


# ---- at rest ----


def idle(bench, stand):
    function, busy, command = "ours, 4 C functions", "ours, 4 C functions, an item a second each", "`telemetry fleet`"
    supervisors = [
        stand.library(function, workers=4, mode="fork"),
        stand.library(busy, workers=4, mode="fork", kind="busy"),
        stand.tool(command, workers=4, beat=True, stale_ms=30_000),
    ]
    if bench.peers:
        supervisors += [stand.gunicorn(4), stand.supervisord(4)]
    for one in supervisors:
        for _ in range(4):
            one.report()
    # Whatever a start leaves to be done is done.
    time.sleep(2)
    seconds = max(5.0, IDLE_SECONDS * bench.scale)
    before, start = [usage(one.pid) for one in supervisors], time.monotonic()
    time.sleep(seconds)
    after, took = [usage(one.pid) for one in supervisors], time.monotonic() - start
    out = {}
    for one, first, last in zip(supervisors, before, after, strict=True):
        if not one.quiet():
            one.give_up("a worker was replaced while nobody did anything")
        if not all(os.path.exists(f"/proc/{pid}") for pid in one.pids):
            one.give_up("a worker ended while nobody did anything")
        out[one.name] = {
            "cpu_us": (last["cpu_us"] - first["cpu_us"]) / took,
            "wake_ups": (last["switches"] - first["switches"]) / took,
            "threads": last["threads"],
            "rss_kib": last["rss_kib"],
        }
    bench.results["fleet_idle"] = {"seconds": took, **out}

    ours = function, command
    wakes = max(out[name]["wake_ups"] for name in ours)
    bench.rows.append(
        Row(
            "fleet: wake-ups of an idle supervisor, 4 workers that beat, context switches of both kinds",
            "fewer than one a second",
            f"{out[function]['wake_ups']:.2f} a second (C functions), {out[command]['wake_ups']:.2f} ({command})",
            f"{wakes:.2f} of the budget",
            wakes < 1,
        )
    )
    if bench.peers:
        cpu = max(out[name]["cpu_us"] for name in ours)
        thrifty = min(("Gunicorn", "supervisord"), key=lambda name: out[name]["cpu_us"])
        least = out[thrifty]["cpu_us"]
        bench.row(
            "fleet: CPU of an idle supervisor, 4 workers, against Gunicorn's arbiter and supervisord side by side",
            "less than either",
            f"{out[function]['cpu_us']:.0f} us a second (C functions), {out[command]['cpu_us']:.0f} ({command}) "
            f"against {least:.0f} ({thrifty})",
            cpu,
            least,
            part_text(cpu, least),
        )
    lines = [
        f"| {name} | {u['cpu_us']:.0f} | {u['wake_ups']:.2f} | {u['rss_kib']:,} | {u['threads']} |"
        for name, u in out.items()
    ]
    bench.tables.append(
        f"Fleet: supervisors of four workers at rest, side by side for {took:.0f} s (ours watch beats that come once a "
        f"second):\n\n"
        "| supervisor | CPU us a second | wake-ups a second | resident KiB | threads |\n"
        "| --- | ---: | ---: | ---: | ---: |\n" + "\n".join(lines)
    )


# ---- calls ----


def calls(bench, stand):
    config = '{"name":"bench"}'
    env = {"TELEMETRY_RUNTIME_DIR": str(stand.scratch)}
    *cases, status = run(stand.program, "calls", bench.library, config, bench.times(600, 10), env=env)
    ns = {case["case"]: case["median_ns"] for case in cases}
    if status["totals"]["done"] != cases[0]["calls"]:
        wrong(f"{cases[0]['calls']} items were ended, the scoreboard has {status['totals']}")
    if status["workers"][0]["counters"]["events"] != cases[0]["calls"]:
        wrong(f"{cases[0]['calls']} were counted, the scoreboard has {status['workers'][0]['counters']}")
    bench.results["fleet_calls"] = cases
    for case, what, allowed in (("count", "telemetry_worker_count", 2), ("beat", "telemetry_worker_beat", 15)):
        bench.row(
            f"fleet: `{what}`, C",
            f"under {allowed} ns",
            f"{ns[case]:.2f} ns (a call of an empty function {ns['floor']:.2f} ns)",
            ns[case],
            allowed,
        )
    bench.note(f"`telemetry_worker_item_begin` and `_item_end` together: {ns['item']:.0f} ns.")
