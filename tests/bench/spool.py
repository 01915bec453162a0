"""The spool's rows: what a call costs, what `sync` costs, how fast a full spool comes back, what an event takes."""

import json
import shutil
import socket
import statistics
import subprocess
import tempfile
from pathlib import Path

from machine import ROOT, collector, run
from table import Row

SPOOL_BYTES = 256 << 20
EVENT = 250
SYNCS = ("none", "interval", "batch")


def places():
    """A directory in memory and one on the disk this tree is on, with the names of their file systems."""
    found = []
    for parent in (Path("/dev/shm"), ROOT / "target" / "bench"):
        kind = subprocess.run(["stat", "-f", "-c", "%T", str(parent)], capture_output=True, text=True, check=True)
        name = "ext4" if kind.stdout.strip() == "ext2/ext3" else kind.stdout.strip()
        found.append((name, Path(tempfile.mkdtemp(prefix="libtelemetry-bench-", dir=parent))))
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(bench):
    found = places()
    try:
        enqueue(bench, found)
        for name, place in found:
            recover(bench, name, place)
        sync(bench, *found[-1])
    finally:
        for _, place in found:
            shutil.rmtree(place, ignore_errors=True)


def enqueue(bench, found):
    out = {}
    for name, place in found:
        cases = run(bench.bin / "spool", "enqueue", bench.library, place / "enqueue", bench.times(200, 10))
        out[name] = {c["case"]: c["median_ns"] for c in cases}
    bench.results["spool_enqueue"] = out
    for name, ns in out.items():
        bench.row(
            f"`telemetry_enqueue` with spool and CRC, 256 B, {name}",
            "2 x the memory mode with the precise clock",
            f"{ns['spool']:.1f} ns against {ns['memory']:.1f} ns",
            ns["spool"],
            2 * ns["memory"],
            f"{ns['spool'] / ns['memory']:.2f} x",
        )
    outrun = ", ".join(f"{ns['outrun']:.0f} ns on {name}" for name, ns in out.items())
    bench.note(
        f"Spool, one call: {outrun} where a producer writes faster than segments can be made and makes each itself "
        f"(bursts of 8 MiB while the sender sleeps)."
    )


def recover(bench, name, place):
    """A process dies with a full spool; the next one delivers it."""
    port = free_port()
    size = max(2 << 20, int(SPOOL_BYTES * min(1, bench.scale)))
    config = {"endpoint": f"http://127.0.0.1:{port}", "spool_dir": str(place / "recover"), "spool_max_bytes": size}
    command = [str(bench.bin / "spool"), "fill", str(bench.library), json.dumps(config), str(EVENT)]
    died = subprocess.run(command, capture_output=True, text=True, timeout=600)
    filled = json.loads(died.stdout)
    if died.returncode != -9:
        raise SystemExit(f"WRONG RESULT: filling the spool ended with {died.returncode}: {died.stderr}")
    used = sum(f.stat().st_blocks * 512 for f in (place / "recover").rglob("*") if f.is_file())
    with collector(bench.tool, "collect", "--listen", f"127.0.0.1:{port}") as to:
        (out,) = run(bench.bin / "spool", "recover", bench.library, json.dumps(config))
        seen = to.get("/stats")
    if not filled["taken"] == out["recovered"] == seen["unique"] or seen["duplicates"]:
        raise SystemExit(f"WRONG RESULT: recovery: {filled}, {out}, {seen}")
    left = [f.name for f in (place / "recover").rglob("*.seg")]
    if left:
        raise SystemExit(f"WRONG RESULT: recovery left {left}")
    rate = out["recovered"] / out["seconds"]
    bench.results.setdefault("spool_recover", {})[name] = {**filled, **out, "disk_bytes": used, "per_second": rate}
    bench.rows.append(
        Row(
            f"recovery of a spool of {size >> 20} MiB after SIGKILL, {name}",
            "-",
            f"{rate:,.0f} events/s ({out['recovered']:,} events of {EVENT} B, gzip, loopback)",
            f"{out['seconds']:.2f} s",
        )
    )
    bench.note(
        f"Disk for an event of {EVENT} B on {name}: {used / filled['taken']:.0f} B ({used / 2**20:.0f} MiB for "
        f"{filled['taken']:,}; the least a process that has taken one takes is two segments)."
    )


def sync(bench, name, place):
    """What `sync` costs, on the disk, in calls at 100,000 events/s."""
    out = {}
    with bench.collect() as to:
        for mode in SYNCS:
            config = {"endpoint": to.url, "spool_dir": str(place / "sync"), "sync": mode, "idle_ms": 3600000}
            runs = [
                run(bench.bin / "spool", "paced", bench.library, json.dumps(config), bench.times(2, 1))[0]
                for _ in range(3)
            ]
            out[mode] = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
    bench.results["spool_sync"] = out
    text = "; ".join(
        f"`{mode}` {ns['p50_ns']:.0f} / {ns['p99_ns']:.0f} / {ns['p999_ns']:.0f} ns, "
        f"slowest {ns['max_us'] / 1000:.1f} ms"
        for mode, ns in out.items()
    )
    bench.note(f"`sync` on {name}, one call at 100,000 events/s, p50 / p99 / p99.9: {text}.")
