"""A program whose multiprocessing children are ended before any finalizer: METHOD KIND.

The parent then flushes, which is to deliver what they left. Prints its counters as JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

from truth_app import client, emit  # spawn and forkserver import this again, in the child


def noted() -> int:
    """How many events have been reported, by all."""
    return Path(os.environ["TRUTH"]).read_bytes().count(b"\n")


def emit_and_stay(count: int, ready: Any = None) -> None:
    """Report, say so, and stay."""
    emit(count)
    if ready is not None:
        ready.put(1)
    time.sleep(600)


def emit_and_leave(count: int) -> None:
    """Report and leave without any handler."""
    emit(count)
    os._exit(0)


def main(method: str, kind: str) -> None:
    """Run the children, each to its bitter end."""
    context: Any = multiprocessing.get_context(method)
    if kind == "pool":
        before = noted()
        with context.Pool(4) as pool:
            for _ in range(8):
                pool.apply_async(emit_and_stay, (25,))
            while noted() < before + 4 * 25:
                time.sleep(0.01)
        # The end of the block is terminate(): SIGTERM, and no finalizer runs.
        return
    if kind == "exit":
        children = [context.Process(target=emit_and_leave, args=(25,)) for _ in range(8)]
        for child in children:
            child.start()
    else:
        ready = context.SimpleQueue()
        children = [context.Process(target=emit_and_stay, args=(25, ready)) for _ in range(8)]
        for child in children:
            child.start()
        for _ in children:
            ready.get()
        for child in children:
            child.kill()
    for child in children:
        child.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
    flushed = client.flush(120)
    print(json.dumps({"flushed": flushed, **client.stats()._asdict()}))
