"""What Client.enqueue costs in Python, in C and through ctypes, against a bare ctypes call of the same arguments.

Prints one JSON object. Run with the package on PYTHONPATH and LIBTELEMETRY_PATH set; with the argument `json`
orjson is hidden, so that the package encodes with the standard library.

Without the accelerator (make accelerator) only the figures through ctypes are there.

What could mislead:
- Both ways belong to one client: beside the one in C, a Client keeps the method written in Python.
- The empty loop is subtracted, and all cases take turns, burst by burst; the median and the fastest are given.
- The sender sleeps until it is flushed between the bursts, so that it does not compete for a core.
- The event is small (250 B of JSON) and plain; the encoder's time grows with it, the rest does not.
"""

import ctypes
import importlib.util
import json
import statistics
import sys
import time
from functools import partial
from itertools import repeat

WITHOUT_ORJSON = sys.argv[2:] == ["json"]
if WITHOUT_ORJSON:
    sys.modules["orjson"] = None

from workload import event  # noqa: E402

import libtelemetry  # noqa: E402
from libtelemetry import _native  # noqa: E402

CALLS = 5000
WARM_UP = 20

PARKED = {"max_events": 1_000_000, "max_bytes": 1 << 26, "max_age_ms": 3_600_000}


def three(call, a, b, c):
    """Nanoseconds a call, the loop included."""
    start = time.perf_counter_ns()
    for _ in repeat(None, CALLS):
        call(a, b, c)
    return (time.perf_counter_ns() - start) / CALLS


def one(call, a):
    start = time.perf_counter_ns()
    for _ in repeat(None, CALLS):
        call(a)
    return (time.perf_counter_ns() - start) / CALLS


def empty():
    start = time.perf_counter_ns()
    for _ in repeat(None, CALLS):
        pass
    return (time.perf_counter_ns() - start) / CALLS


def encoder():
    """The encoder alone, set as the package sets it."""
    if WITHOUT_ORJSON or importlib.util.find_spec("orjson") is None:
        text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
        return "json", lambda value: text(value).encode()
    import orjson

    return "orjson", orjson.dumps


def main():
    rounds = int(sys.argv[1])
    client = libtelemetry.Client("file:/dev/null", batch=PARKED, idle_ms=3_600_000)
    name, encode = encoder()
    as_dict = event(1)
    as_bytes = encode(as_dict)
    as_str = as_bytes.decode()
    # The same function, handle, bytes and size object that the package passes on.
    bare = ctypes.PyDLL(_native.load().path).telemetry_enqueue
    handle, size = client._handle, ctypes.c_size_t(len(as_bytes))

    cases = {
        "empty": empty,
        "bare": lambda: three(bare, handle, as_bytes, size),
        "encoder": lambda: one(encode, as_dict),
    }
    ways = {"ctypes": getattr(client, "_enqueue", client.enqueue)}
    if libtelemetry.accelerated:
        ways["accelerator"] = client.enqueue
    for way, enqueue in ways.items():
        for kind, value in ("bytes", as_bytes), ("str", as_str), ("dict", as_dict):
            cases[f"{way}_{kind}"] = partial(one, enqueue, value)
    times = {case: [] for case in cases}
    for turn in range(rounds + WARM_UP):
        for case, run in cases.items():
            took = run()
            if turn >= WARM_UP:
                times[case].append(took)
            if not client.flush(60.0):
                sys.exit("a flush did not end")
    stats = client.stats()
    if stats.accepted != stats.delivered or stats.dropped_full:
        sys.exit(f"events were lost: {stats}")
    loop = statistics.median(times.pop("empty"))
    out = {"encoder": name, "python": sys.version.split()[0], "bytes": len(as_bytes)}
    for case, ns in times.items():
        out[case + "_ns"] = round(statistics.median(ns) - loop, 1)
        out[case + "_min_ns"] = round(min(ns) - loop, 1)
    print(json.dumps(out))
    client.shutdown()


main()
