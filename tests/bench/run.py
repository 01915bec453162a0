"""Runs every measurement, checks that no event was lost, and prints the table of budgets.

A missed budget is a row of the table, never a failure; a crash or a wrong result is. The table also goes to
target/bench/table.md, all figures to target/bench/results.json.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fleet
import formats
import machine
import spool
from machine import HERE, OUT, ROOT, collector, run
from table import Row, markdown

# How long a run of scale 1 takes on two quiet cores.
FULL_SECONDS = 270
GZIP = "default settings, gzip"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=FULL_SECONDS, help="about how long to measure")
    parser.add_argument("--library", default=ROOT / "target/release/libtelemetry.so", type=Path)
    parser.add_argument("--tool", default=ROOT / "target/release/telemetry", type=Path)
    parser.add_argument("--include", default=ROOT / "include", type=Path)
    parser.add_argument("--package", default=ROOT / "python", type=Path, help="where the Python package is")
    parser.add_argument("--skip-peers", action="store_true", help="leave out the other SDKs")
    given = parser.parse_args()
    for path in (given.library, given.tool, given.include, given.package):
        if not path.exists():
            parser.error(f"{path} is missing: run `make build` first")
    return given


def check(fine, what):
    if not fine:
        raise SystemExit(f"WRONG RESULT: {what}")


class Bench:
    def __init__(self, given):
        self.scale = given.seconds / FULL_SECONDS
        self.library, self.tool = given.library.resolve(), given.tool.resolve()
        self.peers = not given.skip_peers
        self.env = {
            "PYTHONPATH": f"{given.package.resolve()}:{HERE}",
            "LIBTELEMETRY_PATH": str(self.library),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.bin = machine.build(given.include.resolve())
        self.cpp = machine.build_cpp(given.include.resolve(), self.library, self.bin)
        self.rows, self.notes, self.tables, self.results = [], [], [], {}

    def times(self, n, least=1):
        """`n` at scale 1, in proportion otherwise."""
        return max(least, round(n * self.scale))

    def row(self, what, budget, measured, value, allowed, ratio=None):
        part = value / allowed
        shown = ratio or f"{part:.2f} of the budget"
        self.rows.append(Row(what, budget, measured, shown, part <= 1))

    def note(self, text):
        self.notes.append(text)

    def collect(self, *more):
        return collector(self.tool, "collect", "--listen", "127.0.0.1:0", *more)

    # ---- one call ----

    def enqueue(self):
        cases = run(self.bin / "enqueue", self.library, self.times(800, 10))
        self.results["enqueue"] = cases
        ns = {(c["case"], c["size"], c["threads"]): c["median_ns"] for c in cases}
        least = {(c["case"], c["size"], c["threads"]): c["min_ns"] for c in cases}

        def at(case, size=256, threads=1):
            return ns[case, size, threads]

        floor, coarse, precise, clock = (at(c) for c in ("floor", "coarse", "precise", "clock"))
        fastest = least["coarse", 256, 1], least["floor", 256, 1]
        self.row(
            "`telemetry_enqueue`, 256 B, one thread, C, memory, `clock: coarse`",
            "2.5 x memcpy + fetch_add into a warm buffer",
            f"{coarse:.1f} ns against {floor:.1f} ns (fastest round {fastest[0]:.1f} against {fastest[1]:.1f})",
            coarse,
            2.5 * floor,
            f"{coarse / floor:.2f} x",
        )
        self.row(
            "same with the precise clock",
            "that plus one `clock_gettime`",
            f"{precise:.1f} ns against {coarse:.1f} + {clock:.1f} ns",
            precise,
            coarse + clock,
        )
        faults = {c["case"]: c["faults"] / c["rounds"] for c in cases if (c["size"], c["threads"]) == (256, 1)}
        self.note(
            f"Page faults in a burst of {(3 << 20) // 296:,} calls: {faults['coarse']:.1f} in the row above; memory "
            f"touched for the first time: {at('first_touch'):.1f} ns a call, {faults['first_touch']:.0f} faults; "
            f"with the sender draining on the other core: {at('live'):.1f} ns, {faults['live']:.0f} faults."
        )
        sizes = ", ".join(f"{s} B {at('coarse', s):.1f} ({at('floor', s):.1f})" for s in (64, 256, 1024))
        two = f"{at('coarse', 256, 2):.1f} ({at('floor', 256, 2):.1f})"
        self.note(f"`telemetry_enqueue`, coarse clock, ns (and its floor): {sizes}; two threads at once, 256 B: {two}.")

    def enqueue_cpp(self):
        """The header is to add nothing; up to 1.1 x a run cannot tell from that."""
        cases = run(self.cpp, self.library, self.times(800, 10))
        self.results["enqueue_cpp"] = cases
        c, cpp = (next(one for one in cases if one["case"] == name) for name in ("c", "c++"))
        self.row(
            "`client.enqueue`, 256 B, one thread, C++ (`telemetry.hpp`), memory, `clock: coarse`",
            "1.1 x `telemetry_enqueue` in the same program",
            f"{cpp['median_ns']:.1f} ns against {c['median_ns']:.1f} ns",
            cpp["median_ns"],
            1.1 * c["median_ns"],
            f"{cpp['median_ns'] / c['median_ns']:.2f} x",
        )

    def latency(self):
        cases = {c["case"]: c for c in run(self.bin / "latency", self.library, self.times(200, 5))}
        self.results["latency"] = cases
        c, machine_own = cases["precise"], cases["nothing"]
        self.row(
            "p99 / p99.9 of one call, pre-faulted",
            "150 ns / 500 ns",
            f"{c['p99_ns']:.0f} ns / {c['p999_ns']:.0f} ns (precise clock)",
            max(c["p99_ns"] / 150, c["p999_ns"] / 500),
            1,
        )
        others = "; ".join(f"{k} {cases[k]['p99_ns']:.0f} / {cases[k]['p999_ns']:.0f}" for k in ("coarse", "live"))
        self.note(
            f"p99 / p99.9 of one call, ns: {others} (live: the sender drains meanwhile); of a function that does "
            f"nothing {machine_own['p99_ns']:.0f} / {machine_own['p999_ns']:.0f}. The counter's own "
            f"{c['subtracted_ns']:.0f} ns are subtracted; its step is {c['step_ns']:.0f} ns."
        )

    def crossbeam(self):
        program = OUT / "crossbeam" / "release" / "bench-crossbeam"
        cases = {c["case"]: c for c in run(program, self.library, self.times(600, 10))}
        self.results["crossbeam"] = cases
        channel, live, parked = (cases[c]["median_ns"] for c in ("crossbeam", "live", "parked"))
        self.row(
            "same against crossbeam's bounded channel of boxed bytes, live consumer",
            "at least 8 x faster",
            f"{live:.1f} ns against {channel:.1f} ns, the sender draining meanwhile",
            8,
            channel / live,
            f"{channel / live:.1f} x",
        )
        self.note(f"The same with the library's sender asleep: {parked:.1f} ns, {channel / parked:.1f} x.")

    # ---- Python ----

    def python(self):
        rounds = self.times(300, 10)
        fast, plain = (
            run(sys.executable, HERE / "python_calls.py", rounds, *more, env=self.env)[0] for more in ((), ("json",))
        )
        self.results["python"] = {"orjson": fast, "json": plain}
        check((fast["encoder"], plain["encoder"]) == ("orjson", "json"), "the encoders of the Python rows")
        if "accelerator_bytes_ns" in fast:
            self.accelerated(fast, plain)
        else:
            self.note("The Python accelerator was not built (make accelerator); these are the figures through ctypes.")
        bare, by_bytes = fast["bare_ns"], fast["ctypes_bytes_ns"]
        self.row(
            "Python `enqueue(bytes)`, ctypes",
            "1.3 x a bare ctypes call of the same arguments",
            f"{by_bytes:.0f} ns against {bare:.0f} ns",
            by_bytes,
            1.3 * bare,
            f"{by_bytes / bare:.2f} x",
        )
        for case in (fast, plain):
            allowed = 1.3 * case["bare_ns"] + case["encoder_ns"]
            self.row(
                f"Python `enqueue(dict)`, ctypes, {case['encoder']}",
                "that plus the JSON encoder's own time",
                f"{case['ctypes_dict_ns']:.0f} ns against {1.3 * case['bare_ns']:.0f} + {case['encoder_ns']:.0f} ns",
                case["ctypes_dict_ns"],
                allowed,
            )

    def accelerated(self, fast, plain):
        """The rows of `Client.enqueue` in C."""
        took, ctypes = fast["accelerator_bytes_ns"], fast["ctypes_bytes_ns"]
        self.row(
            "Python `enqueue(bytes)`, accelerator",
            "a quarter of the same through ctypes",
            f"{took:.0f} ns against {ctypes:.0f} ns",
            took,
            ctypes / 4,
            f"{took / ctypes:.2f} x",
        )
        for case in (fast, plain):
            self.row(
                f"Python `enqueue(dict)`, accelerator, {case['encoder']}",
                "1.3 x a bare ctypes call, plus the JSON encoder's own time",
                f"{case['accelerator_dict_ns']:.0f} ns against {1.3 * case['bare_ns']:.0f} + "
                f"{case['encoder_ns']:.0f} ns (through ctypes {case['ctypes_dict_ns']:.0f} ns)",
                case["accelerator_dict_ns"],
                1.3 * case["bare_ns"] + case["encoder_ns"],
            )
        by_str = fast["accelerator_str_ns"], fast["ctypes_str_ns"]
        self.note(f"Python `enqueue(str)`: {by_str[0]:.0f} ns with the accelerator, {by_str[1]:.0f} ns through ctypes.")

    def languages(self):
        """One event into the queue, language by language; the encoder's time stands apart."""
        c = {
            case["case"]: case["median_ns"]
            for case in self.results["enqueue"]
            if (case["size"], case["threads"]) == (256, 1)
        }
        by_clock = {case["case"]: case["median_ns"] for case in self.results["enqueue_cpp"]}
        fast, plain = self.results["python"]["orjson"], self.results["python"]["json"]
        lines = [
            "One `enqueue` from each language, ns (256 B; from Python 250 B; the precise clock unless it says coarse):",
            "",
            "| from | text or bytes | dict, orjson | dict, json |",
            "| --- | ---: | ---: | ---: |",
            f"| C | {c['precise']:.0f} (coarse {by_clock['c']:.0f}) | | |",
            f"| C++ | coarse {by_clock['c++']:.0f} | | |",
        ]
        for way, name in ("accelerator", "Python, accelerator"), ("ctypes", "Python, ctypes"):
            if f"{way}_bytes_ns" in fast:
                cells = f"bytes {fast[way + '_bytes_ns']:.0f}, str {fast[way + '_str_ns']:.0f}"
                lines.append(f"| {name} | {cells} | {fast[way + '_dict_ns']:.0f} | {plain[way + '_dict_ns']:.0f} |")
        lines.append(f"| of which the encoder | | {fast['encoder_ns']:.0f} | {plain['encoder_ns']:.0f} |")
        self.tables.append("\n".join(lines))

    # ---- delivery ----

    def deliver(self, to, events, **keys):
        """One run of the C program: events/s, CPU seconds a million, and the collector's."""
        to.reset()
        before = to.cpu_seconds()
        config = json.dumps({"endpoint": to.url, **keys})
        out = run(self.bin / "deliver", self.library, config, events, 250)[0]
        seen = to.get("/stats")
        check(seen["received"] == seen["unique"] == events, f"{events} events sent, the collector has {seen}")
        return {
            **out,
            "per_second": events / out["seconds"],
            "cpu_per_million": out["cpu_seconds"] / events * 1e6,
            "collector_cpu_per_million": (to.cpu_seconds() - before) / events * 1e6,
        }

    def python_client(self, name, to, events, received):
        to.reset()
        out = run(sys.executable, HERE / "peers.py", name, events, to.url, env=self.env)[0]
        arrived = received(to)
        return {
            **out,
            "arrived": arrived,
            "per_second": arrived / out["seconds"],
            "cpu_per_million": out["cpu_seconds"] / max(arrived, 1) * 1e6,
        }

    def delivery(self):
        events, few = self.times(2_000_000, 20_000), self.times(20_000, 1000)
        settings = {GZIP: {}, "uncompressed": {"compression": "none"}}
        ours = {name: [] for name in settings}
        names = ["otel-logs", "posthog", "langfuse-scores"] if self.peers else []
        peers = {name: [] for name in names}
        ours_python = []
        with self.collect() as telemetry, collector(sys.executable, HERE / "sink.py") as sink:
            for _ in range(3):
                for name, keys in settings.items():
                    ours[name].append(self.deliver(telemetry, events, **keys))
                one = self.python_client("libtelemetry", telemetry, events // 4, lambda c: c.get("/stats")["unique"])
                check(one["arrived"] == events // 4, f"libtelemetry from Python: {one}")
                ours_python.append(one)
                for name in names:
                    peers[name].append(self.python_client(name, sink, few, lambda c: c.get("/count")["received"]))
        self.results["delivery"] = {"ours": ours, "python": ours_python, "peers": peers}

        def middle(runs, key):
            return statistics.median(r[key] for r in runs)

        keys = ("per_second", "cpu_per_million")
        rate, cpu = (middle(ours[GZIP], key) for key in keys)
        self.row(
            "delivered events/s, 250 B, loopback, one process",
            "at least 500,000",
            f"{rate:,.0f} ({GZIP})",
            500_000,
            rate,
            f"{rate / 500_000:.2f} x",
        )
        self.compare_peers(
            rate, cpu, {n: (middle(r, "per_second"), middle(r, "cpu_per_million")) for n, r in peers.items()}
        )
        plain = ours["uncompressed"]
        self.note(
            f"Delivered uncompressed: {middle(plain, 'per_second'):,.0f} events/s, "
            f"{middle(plain, 'cpu_per_million'):.2f} CPU s a million. From Python by `enqueue(dict)`: "
            f"{middle(ours_python, 'per_second'):,.0f} events/s, {middle(ours_python, 'cpu_per_million'):.2f} CPU s a "
            f"million. The collector itself used {middle(ours[GZIP], 'collector_cpu_per_million'):.2f} CPU s a million "
            f"(with gzip) on the same cores."
        )

    def compare_peers(self, rate, cpu, peers):
        if not peers:
            return
        fastest = max(peers, key=lambda name: peers[name][0])
        thrifty = min(peers, key=lambda name: peers[name][1])
        (best, _), (_, least) = peers[fastest], peers[thrifty]
        self.row(
            "same against the fastest Python SDK in the same run",
            "at least 20 x",
            f"{rate:,.0f} against {best:,.0f} ({fastest})",
            20,
            rate / best,
            f"{rate / best:.0f} x",
        )
        self.row(
            "CPU per million events delivered",
            "1/20 of the best Python SDK in the same run",
            f"{cpu:.2f} s against {least:.1f} s ({thrifty})",
            cpu,
            least / 20,
            f"1/{least / cpu:.0f}",
        )
        each = "; ".join(f"{name} {r:,.0f}/s, {c:.0f} CPU s a million" for name, (r, c) in peers.items())
        self.note(
            f"Python SDKs, default settings, a queue that holds the burst, 250 B of properties: {each}. They send to a "
            f"sink that only reads and answers 200, which favours them."
        )

    # ---- fork ----

    def fork(self):
        turns, each = self.times(20, 3), 10
        big = {"queue_bytes": 64 << 20, "timeout_ms": 60_000}
        with self.collect("--fault", "stall") as stalling, self.collect() as fine:
            stalled = json.dumps({"endpoint": stalling.url, **big})
            modes = {
                "none": "{}",
                "unused": stalled,
                "full": stalled,
                "idle": json.dumps({"endpoint": fine.url}),
                "mid": stalled,
            }
            us = self.forks(modes, turns, each)
        self.results["fork_us"] = us
        none, full, idle, mid = (statistics.median(us[mode]) for mode in ("none", "full", "idle", "mid"))
        self.row(
            "`fork()` with a full 64 MiB queue, host with 16 MiB touched",
            "within 10 % of `fork()` without the library",
            f"{full:.0f} us against {none:.0f} us (collector stalled in mid-request)",
            full,
            1.1 * none,
            f"{full / none:.2f} x",
        )
        tail = {mode: sorted(us[mode])[int(len(us[mode]) * 0.99)] for mode in us}
        waited = statistics.median(us["mid"]) - none
        self.note(
            f"`fork()`, median / p99, us: without the library {none:.0f} / {tail['none']:.0f}; with an "
            f"unused client {statistics.median(us['unused']):.0f} / {tail['unused']:.0f}; full queue, stalled "
            f"collector {full:.0f} / {tail['full']:.0f}; right after a flush, which ends the sender's thread first, "
            f"{idle:.0f} / {tail['idle']:.0f}; 1 ms into a request that stalls {mid:.0f} / {tail['mid']:.0f}, so it "
            f"was held up for {waited / 1000:.1f} ms (5 ms are meant to be the most)."
        )

    def forks(self, modes, turns, each):
        """Microseconds of each fork: a process a mode, taking turns."""
        processes = {
            mode: subprocess.Popen(
                [self.bin / "forkcost", mode, self.library, config],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # that its collector stalls is what the library says there
                text=True,
            )
            for mode, config in modes.items()
        }
        us = {mode: [] for mode in modes}
        try:
            for turn in range(turns + 1):
                for mode, process in processes.items():
                    process.stdin.write(f"{each}\n")
                    process.stdin.flush()
                    line = process.stdout.readline()
                    check(len(line.split()) == each, f"forkcost {mode} ended early")
                    if turn:  # the first turn warms up
                        us[mode] += [int(ns) / 1000 for ns in line.split()]
        finally:
            for process in processes.values():
                process.stdin.close()
                process.wait(30)
                process.stdout.close()
        return us

    # ---- at rest ----

    def idle(self):
        """Threads, and wake-ups over three seconds, once with a sender that waits and once after idle_ms."""
        out = {}
        with self.collect() as to:
            for name, idle_ms in (("waiting", 60_000), ("idle", 200)):
                config = json.dumps({"endpoint": to.url, "idle_ms": idle_ms})
                command = [self.bin / "idle", self.library, config]
                with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                    check("ready" in process.stdout.readline(), "the program idle did not get ready")
                    time.sleep(1.0 if idle_ms < 1000 else 0.2)
                    before, start = switches(process.pid), time.monotonic()
                    time.sleep(3)
                    after = switches(process.pid)
                    seconds = time.monotonic() - start
                    out[name] = {
                        "threads": len(after),
                        "wake_ups": sum(after.values()) - sum(before.values()),
                        "seconds": seconds,
                    }
                    process.stdin.close()
                    check(process.wait(30) == 0, "the program idle failed")
        self.results["idle"] = out
        rest, waiting = out["idle"], out["waiting"]
        kept = rest["threads"] == 1 and rest["wake_ups"] == 0
        self.rows.append(
            Row(
                "thread and wake-ups when idle",
                "none",
                f"{rest['threads'] - 1} threads of ours, {rest['wake_ups']} wake-ups in 3 s",
                "",
                kept,
            )
        )
        self.note(
            f"Before `idle_ms` has passed: {waiting['threads'] - 1} thread, {waiting['wake_ups']} wake-ups in 3 s."
        )

    def memory(self):
        with self.collect() as to:
            config = json.dumps({"endpoint": to.url, "idle_ms": 500})
            kib = {c["when"]: c for c in run(self.bin / "memory", self.library, config)}
        self.results["memory"] = kib

        def above(when, key="anonymous_kib"):
            return kib[when][key] - kib["loaded"][key]

        segments = 2 * 1024
        self.row(
            "resident memory: opened and unused",
            "under 1 MiB above the library's pages",
            f"{above('opened')} KiB",
            above("opened"),
            1023,
        )
        self.row(
            "resident memory: used lightly",
            "that plus two segments of 1 MiB",
            f"{above('used')} KiB",
            above("used"),
            1023 + segments,
        )
        own = kib["idle"]["pss_kib"] - kib["before"]["pss_kib"] - above("idle")
        self.note(
            f"Memory is anonymous pages. After `idle_ms`: {above('idle')} KiB. The library's own pages (Pss, file and "
            f"relocations) once used: {own} KiB."
        )

    def flush(self):
        rounds = self.times(1000, 100)
        with self.collect() as to:
            config = json.dumps({"endpoint": to.url})
            runs = [run(self.bin / "flush", self.library, config, to.port, rounds)[0] for _ in range(9)]
            posted, seen = sum(r["posted"] for r in runs), to.get("/stats")
            check(seen["received"] == posted, f"flush posted {posted}, the collector has {seen}")
        self.results["flush"] = runs
        runs.sort(key=lambda r: r["flush_us"] / r["bare_us"])
        least, out, most = runs[0], runs[len(runs) // 2], runs[-1]
        self.row(
            "flush of one event, loopback",
            "under 2 x a bare HTTP POST on a kept connection",
            f"{out['flush_us']:.0f} us against {out['bare_us']:.0f} us",
            out["flush_us"],
            2 * out["bare_us"],
            f"{out['flush_us'] / out['bare_us']:.2f} x",
        )
        ends = " and ".join(f"{r['flush_us']:.0f} against {r['bare_us']:.0f} us" for r in (least, most))
        self.note(
            f"Flush of one event: the median of {len(runs)} processes is shown, because it depends on which cores the "
            f"three threads are put; the best and the worst were {ends}."
        )

    def spool(self):
        spool.measure(self)

    def formats(self):
        formats.wire(self)

    def adapters(self):
        if self.peers:
            formats.adapters(self)

    def fleet(self):
        fleet.measure(self)

    def size(self):
        with tempfile.TemporaryDirectory() as scratch:
            stripped = Path(scratch) / "library"
            subprocess.run(["strip", "--strip-all", "-o", str(stripped), str(self.library)], check=True)
            content = stripped.read_bytes()
        check(b"rustls" in content, "the library has TLS")
        self.results["stripped_bytes"] = len(content)
        mib = len(content) / 2**20
        self.row("shared library, stripped, with TLS", "under 4 MiB", f"{mib:.2f} MiB", mib, 4)


def switches(pid):
    """Voluntary context switches of each thread."""
    out = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.M)
        out[task.name] = int(found[1])
    return out


def main():
    # Nothing of the host's settings may reach the clients measured.
    for name in [n for n in os.environ if n.startswith(("TELEMETRY_", "OTEL_", "LANGFUSE_", "POSTHOG_"))]:
        del os.environ[name]
    given = arguments()
    OUT.mkdir(parents=True, exist_ok=True)
    facts = machine.facts()
    bench = Bench(given)
    start = time.monotonic()
    for part in (
        bench.enqueue,
        bench.enqueue_cpp,
        bench.crossbeam,
        bench.latency,
        bench.python,
        bench.languages,
        bench.delivery,
        bench.fork,
        bench.idle,
        bench.memory,
        bench.flush,
        bench.spool,
        bench.formats,
        bench.adapters,
        bench.fleet,
        bench.size,
    ):
        begun = time.monotonic()
        part()
        print(f"{part.__name__}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
    seconds = round(time.monotonic() - start, 1)
    text = markdown(facts, bench.rows, bench.notes, bench.tables, given.seconds < FULL_SECONDS / 2)
    (OUT / "table.md").write_text(text)
    everything = {"facts": facts, "seconds": seconds, **bench.results}
    everything["rows"] = [{**vars(row), "verdict": row.verdict()} for row in bench.rows]
    (OUT / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    print(text)


main()
